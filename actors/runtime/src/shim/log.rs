//! A component's log: lines with time and stream, rotated, and never in the component's way.
//!
//! A line is `<RFC 3339 with microseconds> <O|E|W> <text>\n`. When the disk is full, lines are
//! dropped and counted; the count is written once there is room again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use weft_protocol::format_time;
use weft_wire::{Clock, SystemClock, WallTime};

/// Longer lines are cut, in bytes.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// The writing end. One per component; only its shim writes.
pub(crate) struct Log {
    path: PathBuf,
    limit: u64,
    files: u32,
    file: Option<File>,
    size: u64,
    dropped: u64,
    why: String,
    /// The last write ended inside a line.
    torn: bool,
}

impl Log {
    /// Appends to what is there. A log that cannot be opened drops lines until it can be.
    pub(crate) fn new(path: PathBuf, limit: u64, files: u32) -> Self {
        let mut log = Self {
            path,
            limit: limit.max(1),
            files: files.max(1),
            file: None,
            size: 0,
            dropped: 0,
            why: String::new(),
            torn: false,
        };
        if let Err(error) = log.open() {
            log.why = error.to_string();
        }
        // A shim killed while it wrote may have left half a line.
        log.torn = log.size > 0 && !ends_with_newline(&log.path);
        log
    }

    /// Writes whole lines, `count` of them; on failure they are counted as dropped.
    pub(crate) fn append(&mut self, lines: &[u8], count: u64) {
        if let Err(error) = self.try_append(lines, count) {
            self.why = error.to_string();
        }
    }

    /// A line of Weft's own.
    pub(crate) fn note(&mut self, text: &str) {
        let line = format!("{} W {text}\n", format_time(SystemClock.wall()));
        self.append(line.as_bytes(), 1);
    }

    fn try_append(&mut self, lines: &[u8], count: u64) -> io::Result<()> {
        if self.size >= self.limit
            && let Err(error) = self.rotate()
        {
            self.why = error.to_string();
        }
        if self.file.is_none()
            && let Err(error) = self.open()
        {
            self.dropped += count;
            return Err(error);
        }
        if self.dropped > 0 {
            let note = format!(
                "{} W {} lines were dropped: {}\n",
                format_time(SystemClock.wall()),
                self.dropped,
                self.why
            );
            match self.write(note.as_bytes()) {
                Ok(()) => self.dropped = 0,
                Err((_, error)) => {
                    self.dropped += count;
                    return Err(error);
                }
            }
        }
        self.write(lines).map_err(|(done, error)| {
            let rest = lines.get(done..).unwrap_or_default();
            let lost = rest.iter().filter(|byte| **byte == b'\n').count();
            self.dropped += u64::try_from(lost).unwrap_or(count);
            error
        })
    }

    /// Writes everything or says how much of it was written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let Some(file) = &mut self.file else { return Err((0, ErrorKind::NotFound.into())) };
        if self.torn {
            match file.write(b"\n") {
                Ok(1) => {
                    self.torn = false;
                    self.size += 1;
                }
                Ok(_) => return Err((0, ErrorKind::WriteZero.into())),
                Err(error) => return Err((0, error)),
            }
        }
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let error = match file.write(rest) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(n) => {
                    done += n;
                    self.size += n as u64;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.torn = done > 0 && bytes.get(done - 1) != Some(&b'\n');
            return Err((done, error));
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if let Some(parent) = self.path.parent() {
            crate::disk::make_dir(parent, 0o750)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for index in (1..self.files).rev() {
            let from = rotated(&self.path, index - 1);
            match std::fs::rename(&from, rotated(&self.path, index)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.files == 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = None;
        self.torn = false;
        self.open()
    }
}

/// The log's `index`th file; 0 is the current one, 1 the newest rotated one.
pub(crate) fn rotated(path: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return path.to_owned();
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{index}"));
    path.with_file_name(name)
}

fn ends_with_newline(path: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let Ok(file) = File::open(path) else { return true };
    let mut last = [0];
    match file.metadata().map(|meta| meta.len()) {
        Ok(length) if length > 0 => {
            file.read_exact_at(&mut last, length - 1).is_err() || last == [b'\n']
        }
        _ => true,
    }
}

/// Splits what comes through a pipe into lines and stores them until the pipe ends.
pub(crate) fn pump(mut pipe: impl Read, stream: char, log: &Arc<Mutex<Log>>) {
    let mut splitter = Splitter::new(stream);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                let (lines, count) =
                    splitter.push(buffer.get(..n).unwrap_or_default(), SystemClock.wall());
                if count > 0 {
                    log.lock().append(lines, count);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let (lines, count) = splitter.finish(SystemClock.wall());
    if count > 0 {
        log.lock().append(lines, count);
    }
}

/// Turns chunks of bytes into stored lines; holds at most one unfinished line.
pub(crate) struct Splitter {
    stream: char,
    line: Vec<u8>,
    started: bool,
    out: Vec<u8>,
}

impl Splitter {
    pub(crate) fn new(stream: char) -> Self {
        Self { stream, line: Vec::new(), started: false, out: Vec::new() }
    }

    /// The stored form of the lines that end in `chunk`, and how many there are.
    pub(crate) fn push(&mut self, chunk: &[u8], at: WallTime) -> (&[u8], u64) {
        let prefix = format!("{} {} ", format_time(at), self.stream);
        self.out.clear();
        let mut count = 0;
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(text.get(..room).unwrap_or(text));
            self.started = true;
            if ended {
                self.end_line(&prefix);
                count += 1;
            }
        }
        (&self.out, count)
    }

    /// The unfinished line, if there is one.
    pub(crate) fn finish(&mut self, at: WallTime) -> (&[u8], u64) {
        self.out.clear();
        let count = u64::from(self.started);
        if self.started {
            self.end_line(&format!("{} {} ", format_time(at), self.stream));
        }
        (&self.out, count)
    }

    fn end_line(&mut self, prefix: &str) {
        self.out.extend_from_slice(prefix.as_bytes());
        self.out.append(&mut self.line);
        self.out.push(b'\n');
        self.started = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: WallTime = WallTime::from_micros(1_795_000_000_123_456);

    fn texts(stored: &[u8]) -> Vec<String> {
        String::from_utf8_lossy(stored)
            .lines()
            .map(|line| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn a_line_split_over_chunks_is_stored_once_and_whole() {
        let mut splitter = Splitter::new('O');
        assert_eq!(splitter.push(b"one\ntw", AT).1, 1);
        let (stored, count) = splitter.push(b"o\n\nthree", AT);
        assert_eq!((texts(stored), count), (vec!["two".into(), String::new()], 2));
        let (stored, count) = splitter.finish(AT);
        assert_eq!((texts(stored), count), (vec!["three".into()], 1));
        assert_eq!(splitter.finish(AT).1, 0);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_not_harmed() {
        let mut splitter = Splitter::new('E');
        let long = vec![b'x'; MAX_LINE + 100];
        assert_eq!(splitter.push(&long, AT).1, 0);
        assert_eq!(splitter.push(&long, AT).1, 0);
        let (stored, count) = splitter.push(b"\nshort\n", AT);
        let texts = texts(stored);
        assert_eq!(count, 2);
        assert_eq!(texts[0].len(), MAX_LINE);
        assert_eq!(texts[1], "short");
    }

    #[test]
    fn rotation_keeps_the_newest_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/a.log");
        let mut log = Log::new(path.clone(), 10, 3);
        for n in 0..6 {
            log.append(format!("line {n} .....\n").as_bytes(), 1);
        }
        let read = |index| std::fs::read_to_string(rotated(&path, index));
        assert_eq!(read(0).unwrap(), "line 5 .....\n");
        assert_eq!(read(1).unwrap(), "line 4 .....\n");
        assert_eq!(read(2).unwrap(), "line 3 .....\n");
        assert!(read(3).is_err());
    }

    #[test]
    fn lines_dropped_on_a_full_disk_are_counted_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = Log::new(path.clone(), 1 << 20, 2);
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.append(b"a\nb\n", 2);
        log.append(b"c\n", 1);
        assert_eq!(log.dropped, 3);
        log.file = None;
        log.append(b"d\n", 1);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(" W 3 lines were dropped: No space left"), "{text}");
        assert!(text.ends_with("\nd\n"), "{text}");
    }

    #[test]
    fn half_a_line_left_by_a_killed_shim_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "half").unwrap();
        Log::new(path.clone(), 1 << 20, 2).append(b"whole\n", 1);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half\nwhole\n");
    }
}
