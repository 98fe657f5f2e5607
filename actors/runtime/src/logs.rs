//! Reading component logs: the last lines, since a time, and what comes, over rotations.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use weft_protocol::files::log_file;
use weft_protocol::{CommandRef, ComponentKey, LogLine, LogStream, ReadLogs, parse_time};
use weft_wire::WallTime;

use crate::shim::rotated;

/// More files than this are not looked at, whatever the limit was when they were written.
const MOST_FILES: u32 = 32;

/// Parses a stored line. One that is not in the stored form keeps its text and gets `earlier`'s
/// time: half a line left by a shim that was killed.
pub(crate) fn parse_line(key: &ComponentKey, line: &[u8], earlier: WallTime) -> LogLine {
    let text = String::from_utf8_lossy(line);
    let mut parts = text.splitn(3, ' ');
    let parsed = (|| {
        let time = parse_time(parts.next()?).ok()?;
        let stream = match parts.next()? {
            "O" => LogStream::Stdout,
            "E" => LogStream::Stderr,
            "W" => LogStream::Weft,
            _ => return None,
        };
        Some((time, stream, parts.next().unwrap_or_default().to_owned()))
    })();
    let (time, stream, text) =
        parsed.unwrap_or_else(|| (earlier, LogStream::Weft, text.into_owned()));
    LogLine { key: key.clone(), time, stream, text }
}

/// One component's log, read from some place on towards its end.
pub(crate) struct Tail {
    key: ComponentKey,
    path: PathBuf,
    /// Files still to be read, the next one last.
    files: Vec<File>,
    reader: Option<BufReader<File>>,
    partial: Vec<u8>,
    last: WallTime,
    since: Option<WallTime>,
    peeked: Option<LogLine>,
}

impl Tail {
    /// At the last `tail` lines, or at the beginning of what is kept.
    pub(crate) fn open(
        data: &Path,
        key: ComponentKey,
        tail: Option<u32>,
        since: Option<WallTime>,
    ) -> io::Result<Self> {
        let path = log_file(data, &key);
        // Newest first: a rotation meanwhile shows a file twice, never hides one.
        let mut files: Vec<(u64, File)> = Vec::new();
        for index in 0..MOST_FILES {
            match File::open(rotated(&path, index)) {
                Ok(file) => {
                    let inode = file.metadata()?.ino();
                    if !files.iter().any(|(known, _)| *known == inode) {
                        files.push((inode, file));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if index > 0 {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let mut files: Vec<File> = files.into_iter().map(|(_, file)| file).collect();
        if let Some(tail) = tail {
            let mut wanted = u64::from(tail);
            let mut keep = 0;
            for file in &mut files {
                keep += 1;
                let (offset, found) = last_lines(file, wanted)?;
                file.seek(SeekFrom::Start(offset))?;
                wanted = wanted.saturating_sub(found);
                if wanted == 0 {
                    break;
                }
            }
            files.truncate(keep);
        }
        Ok(Self {
            key,
            path,
            files,
            reader: None,
            partial: Vec::new(),
            last: WallTime::default(),
            since,
            peeked: None,
        })
    }

    /// The next line that is there, in order; `None`: no more now.
    pub(crate) fn next(&mut self) -> io::Result<Option<LogLine>> {
        if let Some(line) = self.peeked.take() {
            return Ok(Some(line));
        }
        loop {
            let Some(reader) = &mut self.reader else {
                match self.files.pop() {
                    Some(file) => self.reader = Some(BufReader::with_capacity(64 * 1024, file)),
                    // The log had not been created when it was opened.
                    None => match File::open(&self.path) {
                        Ok(file) => self.reader = Some(BufReader::new(file)),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                        Err(error) => return Err(error),
                    },
                }
                continue;
            };
            reader.read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                self.partial.pop();
                let line = parse_line(&self.key, &self.partial, self.last);
                self.partial.clear();
                self.last = line.time;
                if self.since.is_none_or(|since| line.time >= since) {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.files.is_empty() {
                // The current file, unless it was rotated since.
                let inode = reader.get_ref().metadata()?.ino();
                self.files = newer_than(&self.path, inode)?;
                if self.files.is_empty() {
                    return Ok(None);
                }
                // It may have got its last lines between the read and the rotation.
                if !reader.fill_buf()?.is_empty() {
                    self.files.clear();
                    continue;
                }
            }
            // Half a line at the end of a file that is closed for good is a line.
            if !self.partial.is_empty() {
                let line = parse_line(&self.key, &self.partial, self.last);
                self.partial.clear();
                self.reader = None;
                return Ok(Some(line));
            }
            self.reader = None;
        }
    }

    fn peek(&mut self) -> io::Result<Option<WallTime>> {
        if self.peeked.is_none() {
            self.peeked = self.next()?;
        }
        Ok(self.peeked.as_ref().map(|line| line.time))
    }
}

/// Files newer than the one with that inode, the oldest last; empty: it is the current one.
fn newer_than(path: &Path, inode: u64) -> io::Result<Vec<File>> {
    let mut newer = Vec::new();
    for index in 0..MOST_FILES {
        match File::open(rotated(path, index)) {
            Ok(file) if file.metadata()?.ino() == inode => break,
            Ok(file) => newer.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Between two renames of a rotation the current one is missing: look again later.
                if index == 0 {
                    return Ok(Vec::new());
                }
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(newer)
}

/// Where the last `wanted` lines of a file begin, and how many there are.
fn last_lines(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut found = 0;
    let mut block = vec![0; 64 * 1024];
    while end > 0 && wanted > 0 {
        let size = end.min(block.len() as u64);
        let start = end - size;
        file.seek(SeekFrom::Start(start))?;
        let Some(part) = block.get_mut(..usize::try_from(size).unwrap_or(0)) else { break };
        file.read_exact(part)?;
        for (place, byte) in part.iter().enumerate().rev() {
            let at = start + place as u64;
            // A line begins after a line end that is not the file's last byte.
            if *byte == b'\n' && at + 1 < length {
                found += 1;
                if found == wanted {
                    return Ok((at + 1, found));
                }
            }
        }
        end = start;
    }
    if wanted == 0 {
        return Ok((length, 0));
    }
    Ok((0, if length > 0 { found + 1 } else { 0 }))
}

/// Time of the newest line that the component itself wrote, and how many lines have that time;
/// `None`: there is none, or it is far back.
pub(crate) fn newest(path: &Path, key: &ComponentKey) -> Option<(WallTime, u64)> {
    const LOOKED_AT: u64 = 256;
    let mut found: Option<(WallTime, u64)> = None;
    for index in 0..2 {
        let Ok(mut file) = File::open(rotated(path, index)) else { continue };
        let Ok((offset, _)) = last_lines(&mut file, LOOKED_AT) else { continue };
        let mut text = Vec::new();
        if file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut text)).is_err() {
            continue;
        }
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = parse_line(key, line, WallTime::default());
            if line.stream == LogStream::Weft {
                continue;
            }
            found = match found {
                Some((at, count)) if at == line.time => Some((at, count + 1)),
                Some((at, count)) if at > line.time => Some((at, count)),
                _ => Some((line.time, 1)),
            };
        }
        if found.is_some() {
            break;
        }
    }
    found
}

/// Several components' logs, merged by time.
pub(crate) struct Merged {
    data: PathBuf,
    request: ReadLogs,
    tails: BTreeMap<ComponentKey, Tail>,
}

impl Merged {
    pub(crate) fn open(data: &Path, request: ReadLogs) -> io::Result<Self> {
        let mut merged = Self { data: data.to_owned(), request, tails: BTreeMap::new() };
        merged.discover(merged.request.tail)?;
        Ok(merged)
    }

    /// Takes in logs that have appeared since, from their beginning.
    pub(crate) fn look_again(&mut self) -> io::Result<()> {
        self.discover(None)
    }

    fn discover(&mut self, tail: Option<u32>) -> io::Result<()> {
        for key in components_with_logs(&self.data, &self.request.target, self.request.replica)? {
            if !self.tails.contains_key(&key) {
                let opened = Tail::open(&self.data, key.clone(), tail, self.request.since)?;
                self.tails.insert(key, opened);
            }
        }
        Ok(())
    }

    /// Up to `most` lines, in order of time; empty: no more now.
    pub(crate) fn read(&mut self, most: usize) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        while lines.len() < most {
            let mut first: Option<(WallTime, ComponentKey)> = None;
            for (key, tail) in &mut self.tails {
                if let Some(time) = tail.peek()?
                    && first.as_ref().is_none_or(|(earliest, _)| time < *earliest)
                {
                    first = Some((time, key.clone()));
                }
            }
            let Some(tail) = first.and_then(|(_, key)| self.tails.get_mut(&key)) else { break };
            lines.extend(tail.next()?);
        }
        Ok(lines)
    }
}

fn components_with_logs(
    data: &Path,
    target: &CommandRef,
    replica: u32,
) -> io::Result<Vec<ComponentKey>> {
    // The reference came over the wire: names only, never a path.
    let ok = |name: &str| weft_protocol::valid_name(name);
    if !ok(&target.service) || !(target.component.is_empty() || ok(&target.component)) {
        return Ok(Vec::new());
    }
    let service = data.join("logs").join(&target.service);
    let mut keys = Vec::new();
    for name in names(&service)? {
        let Ok(number) = name.parse::<u32>() else { continue };
        if replica != 0 && replica != number {
            continue;
        }
        for file in names(&service.join(&name))? {
            let Some(component) = file.strip_suffix(".log").filter(|name| ok(name)) else {
                continue;
            };
            if target.component.is_empty() || target.component == component {
                keys.push(ComponentKey {
                    service: target.service.clone(),
                    replica: number,
                    component: component.to_owned(),
                });
            }
        }
    }
    keys.sort();
    Ok(keys)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => {
            Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn key(component: &str) -> ComponentKey {
        ComponentKey { service: "web".into(), replica: 1, component: component.into() }
    }

    fn stamp(n: i64, text: &str) -> String {
        format!("{} O {text}\n", weft_protocol::format_time(WallTime::from_micros(n * 1_000_000)))
    }

    fn write(data: &Path, component: &str, index: u32, lines: &[(i64, &str)]) {
        let path = rotated(&log_file(data, &key(component)), index);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        for (n, text) in lines {
            file.write_all(stamp(*n, text).as_bytes()).unwrap();
        }
    }

    fn rotate(data: &Path, component: &str) {
        let path = log_file(data, &key(component));
        for index in (0..3).rev() {
            let _ = std::fs::rename(rotated(&path, index), rotated(&path, index + 1));
        }
    }

    fn request(tail: Option<u32>, since: Option<i64>) -> ReadLogs {
        ReadLogs {
            target: "web".parse().unwrap(),
            replica: 0,
            tail,
            since: since.map(|n| WallTime::from_micros(n * 1_000_000)),
            follow: false,
        }
    }

    fn texts(merged: &mut Merged) -> Vec<String> {
        merged.read(1000).unwrap().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn logs_of_several_components_and_files_are_merged_by_time() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", 1, &[(1, "a1"), (4, "a4")]);
        write(dir.path(), "a", 0, &[(5, "a5")]);
        write(dir.path(), "b", 0, &[(2, "b2"), (3, "b3"), (6, "b6")]);
        let all = texts(&mut Merged::open(dir.path(), request(None, None)).unwrap());
        assert_eq!(all, ["a1", "b2", "b3", "a4", "a5", "b6"]);
        let two = texts(&mut Merged::open(dir.path(), request(Some(2), None)).unwrap());
        assert_eq!(two, ["b3", "a4", "a5", "b6"]);
        let late = texts(&mut Merged::open(dir.path(), request(None, Some(5))).unwrap());
        assert_eq!(late, ["a5", "b6"]);
        assert!(texts(&mut Merged::open(dir.path(), request(Some(0), None)).unwrap()).is_empty());
    }

    #[test]
    fn following_loses_and_repeats_nothing_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", 0, &[(1, "1"), (2, "2")]);
        let mut merged = Merged::open(dir.path(), request(Some(1), None)).unwrap();
        assert_eq!(texts(&mut merged), ["2"]);
        assert!(texts(&mut merged).is_empty());
        write(dir.path(), "a", 0, &[(3, "3")]);
        rotate(dir.path(), "a");
        write(dir.path(), "a", 0, &[(4, "4")]);
        rotate(dir.path(), "a");
        write(dir.path(), "a", 0, &[(5, "5")]);
        assert_eq!(texts(&mut merged), ["3", "4", "5"]);
        write(dir.path(), "a", 0, &[(6, "6")]);
        write(dir.path(), "b", 0, &[(7, "new")]);
        merged.look_again().unwrap();
        assert_eq!(texts(&mut merged), ["6", "new"]);
    }

    #[test]
    fn a_line_is_not_shown_before_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", 0, &[(1, "1")]);
        let mut merged = Merged::open(dir.path(), request(None, None)).unwrap();
        assert_eq!(texts(&mut merged), ["1"]);
        let line = stamp(2, "two");
        let path = log_file(dir.path(), &key("a"));
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(&line.as_bytes()[..10]).unwrap();
        assert!(texts(&mut merged).is_empty());
        file.write_all(&line.as_bytes()[10..]).unwrap();
        assert_eq!(texts(&mut merged), ["two"]);
    }

    #[test]
    fn a_reference_cannot_leave_the_log_directory() {
        let dir = tempfile::tempdir().unwrap();
        let target = CommandRef { service: "../..".into(), component: String::new() };
        assert!(components_with_logs(dir.path(), &target, 0).unwrap().is_empty());
    }
}
