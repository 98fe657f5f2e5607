//! The store of blobs, on a real file system.

use weft_wire::{Clock, ManualClock, WallTime};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    dir: tempfile::TempDir,
    blobs: Blobs,
    clock: ManualClock,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("temp dir");
    let blobs = Blobs::new(dir.path());
    blobs.open().expect("opens");
    Bench { dir, blobs, clock: ManualClock::new(WallTime::from_micros(0)) }
}

fn digest(content: &[u8]) -> String {
    hex(ring::digest::digest(&SHA256, content).as_ref())
}

/// Not all parts are alike.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 7 % 251).unwrap_or(0)).collect()
}

impl Bench {
    fn put(&self, content: &[u8], offset: usize, part: usize) -> Result<BlobProgress, BlobError> {
        let part = &content[offset..(offset + part).min(content.len())];
        let (size, now) = (content.len() as u64, self.clock.now());
        self.blobs.put(&digest(content), size, offset as u64, part, now)
    }

    fn whole(&self, content: &[u8]) -> String {
        assert!(self.put(content, 0, content.len()).expect("takes").complete);
        digest(content)
    }

    fn files(&self, under: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("blobs").join(under)).expect("lists").count()
    }
}

#[test]
fn a_blob_that_came_in_parts_is_there_whole_and_under_its_digest_only_then() {
    let bench = bench();
    let all = content(BLOB_PART * 2 + 5);
    let digest = digest(&all);
    let first = bench.put(&all, 0, BLOB_PART).expect("takes");
    assert_eq!(first, BlobProgress { received: BLOB_PART as u64, complete: false });
    assert!(!bench.blobs.has(&digest));
    bench.put(&all, BLOB_PART, BLOB_PART).expect("takes");
    assert!(bench.put(&all, BLOB_PART * 2, 5).expect("takes").complete);
    assert!(bench.blobs.has(&digest));
    assert_eq!((bench.files("sha256"), bench.files("partial")), (1, 0));
    let read = |offset, length| bench.blobs.read(&digest, offset, length).expect("reads");
    assert_eq!(read(3, 4), Some(all[3..7].to_vec()));
    assert_eq!(read(BLOB_PART as u64 * 2, 100), Some(all[BLOB_PART * 2..].to_vec()));
    assert_eq!(read(1 << 40, 100), Some(Vec::new()));
    // However much is asked for, one message holds it.
    assert_eq!(read(0, u32::MAX).expect("is there").len(), BLOB_PART);
}

#[test]
fn a_part_out_of_turn_is_not_taken_and_says_where_to_go_on() {
    let bench = bench();
    let all = content(3000);
    let at = |received| BlobProgress { received, complete: false };
    assert_eq!(bench.put(&all, 1000, 1000).expect("answers"), at(0));
    assert_eq!(bench.put(&all, 0, 1000).expect("answers"), at(1000));
    // Sent again, because its answer was lost.
    assert_eq!(bench.put(&all, 0, 1000).expect("answers"), at(1000));
    assert_eq!(bench.put(&all, 2000, 1000).expect("answers"), at(1000));
    assert!(bench.put(&all, 1000, 2000).expect("answers").complete);
    // The other one that uploaded it.
    assert!(bench.put(&all, 2000, 1000).expect("answers").complete);
}

#[test]
fn what_has_another_digest_is_not_kept_and_can_be_sent_again() {
    let bench = bench();
    let all = content(100);
    let put = |bytes: &[u8]| bench.blobs.put(&digest(&all), 100, 0, bytes, bench.clock.now());
    assert!(matches!(put(&[1; 100]), Err(BlobError::Corrupt(_))));
    assert_eq!((bench.files("sha256"), bench.files("partial")), (0, 0));
    assert!(put(&all).expect("takes").complete);
}

#[test]
fn an_empty_file_is_a_blob_too() {
    let bench = bench();
    let digest = bench.whole(&[]);
    assert_eq!(bench.blobs.read(&digest, 0, 10).expect("reads"), Some(Vec::new()));
}

#[test]
fn what_is_no_digest_or_too_large_makes_no_file() {
    let bench = bench();
    let now = bench.clock.now();
    for name in ["", "../../etc/passwd", &"A".repeat(64), &"ab".repeat(31)] {
        assert!(matches!(bench.blobs.put(name, 1, 0, b"x", now), Err(BlobError::NoDigest(_))));
        assert!(bench.blobs.read(name, 0, 1).is_err() && !bench.blobs.has(name));
    }
    let good = digest(b"x");
    let large = bench.blobs.put(&good, SHIPPED_MAX + 1, 0, b"x", now);
    assert!(matches!(large, Err(BlobError::TooLarge(_))));
    for (size, part) in [(1, &b"xy"[..]), (2, &[0; BLOB_PART + 1])] {
        assert!(matches!(bench.blobs.put(&good, size, 0, part, now), Err(BlobError::Part(..))));
    }
    assert_eq!((bench.files("sha256"), bench.files("partial")), (0, 0));
}

#[test]
fn uploads_are_bounded_and_go_when_nobody_goes_on_with_them() {
    let bench = bench();
    for n in 0..UPLOADS_MOST {
        bench.put(&content(1000 + n), 0, 10).expect("takes");
    }
    assert!(matches!(bench.put(&content(10), 0, 1), Err(BlobError::TooMany)));
    bench.clock.advance(HOUR - Duration::from_secs(1));
    bench.put(&content(1000), 10, 10).expect("takes");
    bench.clock.advance(Duration::from_secs(1));
    bench.blobs.sweep(&BTreeSet::new(), bench.clock.now(), HOUR).expect("sweeps");
    assert_eq!(bench.files("partial"), 1, "the one that went on");
    bench.put(&content(10), 0, 1).expect("takes");
}

#[test]
fn a_blob_goes_a_while_after_nothing_refers_to_it_any_more() {
    let bench = bench();
    let (used, unused) = (bench.whole(b"used"), bench.whole(b"unused"));
    let refers = BTreeSet::from([used.clone()]);
    let sweep = |refers: &BTreeSet<String>| {
        bench.blobs.sweep(refers, bench.clock.now(), HOUR).expect("sweeps")
    };
    assert_eq!(sweep(&refers), 0);
    bench.clock.advance(HOUR - Duration::from_secs(1));
    assert_eq!(sweep(&refers), 0);
    // Somebody is about to deploy it.
    let asked = std::slice::from_ref(&unused);
    assert_eq!(bench.blobs.have(asked), asked);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(sweep(&refers), 0);
    bench.clock.advance(HOUR);
    assert_eq!(sweep(&refers), 1);
    assert!(bench.blobs.has(&used) && !bench.blobs.has(&unused));
    // One that is referred to again starts anew.
    assert_eq!(sweep(&BTreeSet::new()), 0);
    assert_eq!(sweep(&refers), 0);
    bench.clock.advance(HOUR);
    assert_eq!(sweep(&BTreeSet::new()), 0);
    bench.clock.advance(HOUR);
    assert_eq!(sweep(&BTreeSet::new()), 1);
}

#[test]
fn what_an_earlier_daemon_had_begun_to_receive_is_gone_and_blobs_stay() {
    let bench = bench();
    let digest = bench.whole(b"whole");
    std::mem::forget(bench.blobs.receive(&"ab".repeat(32), 10).expect("begins"));
    assert_eq!(bench.files("partial"), 1);
    let next = Blobs::new(bench.dir.path());
    next.open().expect("opens");
    assert!(next.has(&digest));
    assert_eq!(bench.files("partial"), 0);
}
