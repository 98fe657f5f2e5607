//! The incarnation on disk: read, raised and written at each start.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use weft_wire::WallTime;

use super::MembershipError;

const FILE: &str = "membership.json";
const BEGIN: &str = "{\"version\":1,\"incarnation\":";
const END: &str = "}";
/// Lives of one run (each time it is declared dead but is not, one begins) that are certainly
/// fewer.
const LIVES: u64 = 1_000_000;

/// The incarnation of this start: higher than that of any earlier one, also when the file was
/// lost, as long as the clock is not behind.
///
/// # Errors
/// [`MembershipError::File`].
pub(super) fn begin(data_dir: &Path, wall: WallTime) -> Result<u64, MembershipError> {
    let path = data_dir.join(FILE);
    let failed = |what| {
        let path = path.clone();
        move |source| MembershipError::File { path, what, source }
    };
    let before = match fs::read_to_string(&path) {
        Ok(text) => parse(&text).unwrap_or_else(|| {
            tracing::warn!(
                target: "weft::membership", path = %path.display(),
                "unreadable: expected {BEGIN}<number>{END}; counting from the clock"
            );
            0
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => 0,
        Err(error) => return Err(failed("read")(error)),
    };
    let clock = u64::try_from(wall.as_micros()).unwrap_or(0);
    let incarnation = before.saturating_add(LIVES).max(clock);
    fs::create_dir_all(data_dir).map_err(failed("create the folder of"))?;
    write(&path, incarnation).map_err(failed("write"))?;
    Ok(incarnation)
}

fn parse(text: &str) -> Option<u64> {
    let number = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    // Beyond any clock: not ours.
    number.parse().ok().filter(|number| *number < u64::MAX / 4)
}

/// All or nothing, and on the disk when it returns.
fn write(path: &Path, incarnation: u64) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = File::create(&beside)?;
    file.write_all(format!("{BEGIN}{incarnation}{END}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_raises_the_incarnation_even_when_the_clock_went_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = begin(dir.path(), WallTime::from_micros(5_000_000)).expect("starts");
        let second = begin(dir.path(), WallTime::from_micros(1)).expect("starts");
        assert!(second >= first + LIVES, "{first} {second}");
    }

    #[test]
    fn a_lost_or_torn_file_leaves_the_clock_to_count_by() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = begin(dir.path(), WallTime::from_micros(5_000_000)).expect("starts");
        for text in
            ["", "{\"version\":1,\"incar", "{\"version\":1,\"incarnation\":18446744073709551615}"]
        {
            fs::write(dir.path().join(FILE), text).expect("writes");
            let next = begin(dir.path(), WallTime::from_micros(9_000_000)).expect("starts");
            assert!(next > first);
        }
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join(FILE)).expect("in the way");
        let error = begin(dir.path(), WallTime::from_micros(1)).expect_err("not a file");
        assert!(error.to_string().contains(FILE), "{error}");
    }
}
