//! A container's output, copied into the component's log as it comes: there it has the same form,
//! the same rotation and the same readers as a process' output, and outlives the container.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_engine::{Container, Engine, FileWatch, LogQuery, Stream, read_file_line};
use weft_protocol::ComponentKey;
use weft_protocol::files::log_file;
use weft_wire::WallTime;

use crate::actor::Shared;
use crate::logs::newest;
use crate::shim::log::{Log, MAX_LINE, Splitter};

/// Lines that come together are written together.
const GATHER: Duration = Duration::from_millis(20);
/// Between looks where the system gives no more watches.
const LOOK: Duration = Duration::from_secs(1);
/// After an engine's stream broke off.
const AGAIN: Duration = Duration::from_secs(1);
/// What is still to be read when a container has ended takes no longer.
const REST: Duration = Duration::from_secs(3);

/// Copies until told to finish.
pub(crate) struct Output {
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Output {
    /// Begins to copy. `fresh`: the container has written nothing before; else what is in the log
    /// already is passed over.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        key: &ComponentKey,
        engine: &Engine,
        container: &Container,
        fresh: bool,
    ) -> Self {
        let end = CancellationToken::new();
        let (shared, key, engine) = (shared.clone(), key.clone(), engine.clone());
        let (container, told) = (container.clone(), end.clone());
        let task = tokio::spawn(async move {
            let path = log_file(&shared.config.data_dir, &key);
            let (bytes, files) = (shared.config.log_bytes, shared.config.log_files);
            let made = move || Copier::new(&path, &key, bytes, files, fresh);
            let Ok(copier) = tokio::task::spawn_blocking(made).await else { return };
            let file = PathBuf::from(&container.log_file);
            if !container.log_file.is_empty() && File::open(&file).is_ok() {
                from_file(copier, file, told).await;
            } else {
                from_engine(copier, engine, container.id, told).await;
            }
        });
        Self { end, task }
    }

    /// Copies what is still there, then ends.
    pub(crate) async fn finish(mut self) {
        self.end.cancel();
        if tokio::time::timeout(REST, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// From the file that Podman keeps: exact, and there while no engine answers.
async fn from_file(mut copier: Copier, file: PathBuf, end: CancellationToken) {
    let mut tail = Tail { path: file, open: None, partial: Vec::new() };
    let mut watch = FileWatch::of(&tail.path).ok();
    loop {
        let last = end.is_cancelled();
        let work = move || {
            let moved = tail.drain(|line| copier.file_line(line));
            (copier, tail, moved)
        };
        let Ok((back, tail_back, moved)) = tokio::task::spawn_blocking(work).await else { return };
        (copier, tail) = (back, tail_back);
        if moved {
            watch = FileWatch::of(&tail.path).ok();
        }
        if last {
            return;
        }
        let changed = async {
            match &watch {
                Some(watch) => watch.changed().await,
                None => tokio::time::sleep(LOOK).await,
            }
            tokio::time::sleep(GATHER).await;
        };
        tokio::select! {
            () = changed => {}
            () = end.cancelled() => {}
        }
    }
}

/// From the engine's stream.
async fn from_engine(mut copier: Copier, engine: Engine, id: String, end: CancellationToken) {
    loop {
        let query = LogQuery { follow: true, since: copier.after, ..LogQuery::default() };
        let mut lines = match engine.logs(&id, query) {
            Ok(lines) => lines,
            Err(error) => return copier.unreadable(&error),
        };
        let mut first = true;
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = rest(&end) => return,
            };
            match line {
                Some(Ok(line)) => {
                    first = false;
                    copier.told.clear();
                    let at = line.at.unwrap_or_default();
                    copier.line(line.stream, at, line.text.as_bytes(), true);
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "a container's output broke off");
                    if first && !error.is_engine_away() {
                        copier.unreadable(&error);
                    }
                    break;
                }
                // The container has ended.
                None => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => copier.catch_up_again(),
            () = end.cancelled() => return,
        }
    }
}

/// A while after the end.
async fn rest(end: &CancellationToken) {
    end.cancelled().await;
    tokio::time::sleep(REST).await;
}

/// Writes lines into the component's log, those that are not there yet.
struct Copier {
    log: Log,
    stdout: Splitter,
    stderr: Splitter,
    /// Lines of which a part has come, of each stream.
    begun: (Vec<u8>, Vec<u8>),
    /// The newest line that was there, and how many of that time.
    after: Option<WallTime>,
    same: u64,
    newest: (WallTime, u64),
    /// What stands in the log about output that cannot be had; empty: nothing new.
    told: String,
}

impl Copier {
    fn new(path: &Path, key: &ComponentKey, bytes: u64, files: u32, fresh: bool) -> Self {
        let there = if fresh { None } else { newest(path, key) };
        Self {
            log: Log::new(path.to_owned(), bytes, files),
            stdout: Splitter::new('O'),
            stderr: Splitter::new('E'),
            begun: Default::default(),
            after: there.map(|(at, _)| at),
            same: there.map_or(0, |(_, count)| count),
            newest: there.unwrap_or_default(),
            told: String::new(),
        }
    }

    /// What comes next may have come before.
    fn catch_up_again(&mut self) {
        if self.newest.1 > 0 {
            (self.after, self.same) = (Some(self.newest.0), self.newest.1);
        }
    }

    fn file_line(&mut self, line: &[u8]) {
        if let Some((line, whole)) = read_file_line(line) {
            self.line(line.stream, line.at.unwrap_or_default(), line.text.as_bytes(), whole);
        }
    }

    /// Says so in the log that lacks it, once (orchestration §27).
    fn unreadable(&mut self, error: &weft_engine::Error) {
        let text = format!("what this container writes cannot be read: {error}");
        if text != self.told {
            self.log.note(&text);
            self.told = text;
        }
    }

    fn line(&mut self, stream: Stream, at: WallTime, text: &[u8], whole: bool) {
        let (splitter, begun) = match stream {
            Stream::Stdout => (&mut self.stdout, &mut self.begun.0),
            Stream::Stderr => (&mut self.stderr, &mut self.begun.1),
        };
        let room = MAX_LINE.saturating_sub(begun.len());
        begun.extend_from_slice(text.get(..room).unwrap_or(text));
        if !whole {
            return;
        }
        begun.push(b'\n');
        let line = std::mem::take(begun);
        if let Some(after) = self.after {
            if at < after {
                return;
            }
            if at == after && self.same > 0 {
                self.same -= 1;
                return;
            }
            self.after = None;
        }
        self.newest = if self.newest.0 == at { (at, self.newest.1 + 1) } else { (at, 1) };
        let (stored, count) = splitter.push(&line, at);
        self.log.append(stored, count);
    }
}

/// A file that grows and may be replaced.
struct Tail {
    path: PathBuf,
    open: Option<(File, u64, u64)>,
    partial: Vec<u8>,
}

impl Tail {
    /// Gives every whole line that is there; answers whether it is another file by now.
    fn drain(&mut self, mut give: impl FnMut(&[u8])) -> bool {
        let mut moved = false;
        loop {
            if self.open.is_none() {
                let opened = File::open(&self.path)
                    .and_then(|file| file.metadata().map(|meta| (file, meta.ino(), 0)));
                let Ok(opened) = opened else { return moved };
                self.open = Some(opened);
            }
            if self.read(&mut give).is_err() {
                self.open = None;
                return true;
            }
            // The current one, unless it was replaced, or cut and begun again.
            let Some((_, inode, read)) = &self.open else { return moved };
            match std::fs::metadata(&self.path) {
                Ok(meta) if meta.ino() == *inode && meta.len() >= *read => return moved,
                Ok(_) => {
                    self.open = None;
                    self.partial.clear();
                    moved = true;
                }
                Err(_) => return moved,
            }
        }
    }

    fn read(&mut self, give: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let Some((file, _, place)) = &mut self.open else { return Ok(()) };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            *place += read as u64;
            let chunk = buffer.get(..read).unwrap_or_default();
            for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                self.partial.extend_from_slice(piece);
                if piece.ends_with(b"\n") {
                    give(&self.partial);
                    self.partial.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn key() -> ComponentKey {
        ComponentKey { service: "web".into(), replica: 1, component: "api".into() }
    }

    fn stored(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_copied_once_however_often_the_daemon_starts() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("ctr.log"), dir.path().join("api.log"));
        let mut file = File::create(&from).unwrap();
        let copy = |fresh| {
            let mut tail = Tail { path: from.clone(), open: None, partial: Vec::new() };
            let mut copier = Copier::new(&to, &key(), 1 << 20, 2, fresh);
            tail.drain(|line| copier.file_line(line));
        };
        write!(file, "2026-11-21T08:00:00.000001+00:00 stdout F one\n2026-11-21T08:00:00.000002+00:00 stderr P tw\n2026-11-21T08:00:00.000002+00:00 stderr F o\n").unwrap();
        copy(true);
        assert_eq!(stored(&to), ["O one", "E two"]);
        // Two of the same time, of which one was there when the daemon died.
        let late = "2026-11-21T08:00:01.5+00:00 stdout F";
        writeln!(file, "{late} three").unwrap();
        copy(false);
        write!(
            file,
            "{late} four\n2026-11-21T08:00:02Z stdout F five\n2026-11-21T08:00:03Z stdout F hal"
        )
        .unwrap();
        copy(false);
        assert_eq!(stored(&to), ["O one", "E two", "O three", "O four", "O five"]);
        writeln!(file, "f").unwrap();
        copy(false);
        copy(false);
        assert_eq!(stored(&to).last().unwrap(), "O half");
        assert_eq!(stored(&to).len(), 6);
    }

    #[test]
    fn a_file_that_is_cut_or_replaced_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctr.log");
        let mut tail = Tail { path: path.clone(), open: None, partial: Vec::new() };
        let mut lines = Vec::new();
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert!(!tail.drain(|line| lines.push(line.to_owned())));
        std::fs::write(&path, "3\n").unwrap();
        assert!(tail.drain(|line| lines.push(line.to_owned())));
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "four\n").unwrap();
        assert!(tail.drain(|line| lines.push(line.to_owned())));
        assert_eq!(lines, [&b"one\n"[..], b"two\n", b"3\n", b"four\n"]);
    }
}
