//! A container's output, line by line.

use std::collections::VecDeque;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use weft_wire::WallTime;

use crate::container::time;
use crate::engine::{Engine, checked};
use crate::error::Error;

/// A line that is longer is given in pieces.
const LINE_MOST: usize = 64 * 1024;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output; all of it where there is a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// From where.
    pub stream: Stream,
    /// When, by the engine; Podman tells whole seconds only.
    pub at: Option<WallTime>,
    /// Without its line end; what is not UTF-8 is replaced.
    pub text: String,
}

/// Which lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on until the container ends.
    pub follow: bool,
    /// None that are older. As the engine counts in seconds, all of that second may come.
    pub since: Option<WallTime>,
    /// So many of the last; `None`: all.
    pub tail: Option<u32>,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self { follow: false, since: None, tail: None, stdout: true, stderr: true }
    }
}

/// Lines as they come.
pub struct LogStream {
    frames: BoxStream<'static, Result<LogOutput, Error>>,
    lines: Lines,
    ready: VecDeque<LogLine>,
    done: bool,
}

impl std::fmt::Debug for LogStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStream").field("done", &self.done).finish_non_exhaustive()
    }
}

impl LogStream {
    /// The next line; `None`: there are no more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<LogLine, Error>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            if self.done {
                return None;
            }
            match self.frames.next().await {
                Some(Ok(frame)) => {
                    let (stream, bytes): (_, Bytes) = match frame {
                        LogOutput::StdErr { message } => (Stream::Stderr, message),
                        LogOutput::StdOut { message }
                        | LogOutput::StdIn { message }
                        | LogOutput::Console { message } => (Stream::Stdout, message),
                    };
                    self.lines.push(stream, &bytes, &mut self.ready);
                }
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(error));
                }
                None => {
                    self.done = true;
                    self.lines.finish(&mut self.ready);
                }
            }
        }
    }
}

impl Engine {
    /// A container's output, oldest first.
    ///
    /// # Errors
    /// [`Error::Spec`]; the others come with the lines: [`Error::NotFound`],
    /// [`Error::Unreachable`] when the engine goes away; what the engine says if its log cannot be
    /// read.
    pub fn logs(&self, id: &str, query: LogQuery) -> Result<LogStream, Error> {
        let what = format!("read output of container {}", checked(id)?);
        let tail = query.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let since = query.since.map_or(0, |since| since.as_micros().div_euclid(1_000_000));
        let options = LogsOptionsBuilder::new()
            .follow(query.follow)
            .stdout(query.stdout)
            .stderr(query.stderr)
            .since(i32::try_from(since).unwrap_or(i32::MAX))
            .timestamps(true)
            .tail(&tail)
            .build();
        let socket = self.socket().to_owned();
        let frames = self.docker.logs(id, Some(options));
        Ok(LogStream {
            frames: frames
                .map(move |frame| frame.map_err(|error| Error::of(&what, &socket, error)))
                .boxed(),
            lines: Lines::default(),
            ready: VecDeque::new(),
            done: false,
        })
    }
}

/// Puts lines together from the engine's pieces, each of which begins with a time.
#[derive(Debug, Default)]
struct Lines {
    stdout: Begun,
    stderr: Begun,
}

#[derive(Debug, Default)]
struct Begun {
    at: Option<WallTime>,
    text: Vec<u8>,
    /// A piece has come, and its line's end has not.
    open: bool,
}

impl Lines {
    fn push(&mut self, stream: Stream, piece: &[u8], ready: &mut VecDeque<LogLine>) {
        let begun = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let (at, rest) = dated(piece);
        begun.at = begun.at.or(at);
        begun.open = true;
        for part in rest.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text.strip_suffix(b"\r").unwrap_or(text), true),
                None => (part, false),
            };
            begun.text.extend_from_slice(text);
            begun.at = begun.at.or(at);
            begun.open = true;
            if ended || begun.text.len() >= LINE_MOST {
                ready.extend(begun.end(stream));
            }
        }
    }

    fn finish(&mut self, ready: &mut VecDeque<LogLine>) {
        ready.extend(self.stdout.end(Stream::Stdout));
        ready.extend(self.stderr.end(Stream::Stderr));
    }
}

impl Begun {
    fn end(&mut self, stream: Stream) -> Option<LogLine> {
        if !std::mem::take(&mut self.open) {
            return None;
        }
        let text = std::mem::take(&mut self.text);
        let at = self.at.take();
        Some(LogLine { stream, at, text: String::from_utf8_lossy(&text).into_owned() })
    }
}

/// One line of the file in which Podman keeps a container's output ([`crate::Container::log_file`],
/// driver `k8s-file`): `<time> stdout|stderr F|P <text>`. Unlike the API it has the time to the
/// nanosecond, and can be read while no engine answers. The flag says whether the text is a whole
/// line (`F`) or goes on in the next of its stream (`P`). `None`: it is no such line.
pub fn read_file_line(line: &[u8]) -> Option<(LogLine, bool)> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let at = time(word()?)?;
    let stream = match word()? {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let whole = match word()? {
        "F" => true,
        "P" => false,
        _ => return None,
    };
    let text = parts.next().unwrap_or_default();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text)).into_owned();
    Some((LogLine { stream, at: Some(at), text }, whole))
}

/// Splits `<time> <text>`.
fn dated(piece: &[u8]) -> (Option<WallTime>, &[u8]) {
    let Some(space) = piece.iter().take(48).position(|byte| *byte == b' ') else {
        // An empty line's piece may be nothing but its time.
        let bare = piece.strip_suffix(b"\n").unwrap_or(piece);
        let at = std::str::from_utf8(bare).ok().filter(|text| text.len() < 48).and_then(time);
        return match at {
            Some(at) => (Some(at), piece.get(bare.len()..).unwrap_or_default()),
            None => (None, piece),
        };
    };
    let (head, rest) = piece.split_at(space);
    match std::str::from_utf8(head).ok().and_then(time) {
        Some(at) => (Some(at), rest.get(1..).unwrap_or_default()),
        None => (None, piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[(Stream, &[u8])]) -> Vec<LogLine> {
        let mut lines = Lines::default();
        let mut ready = VecDeque::new();
        for (stream, piece) in pieces {
            lines.push(*stream, piece, &mut ready);
        }
        lines.finish(&mut ready);
        ready.into()
    }

    #[test]
    fn lines_carry_their_time_and_their_stream() {
        let got = read(&[
            (Stream::Stdout, b"2026-11-21T08:27:50Z hi there\n"),
            (Stream::Stderr, b"2026-11-21T08:27:51.5Z err\r\n"),
            (Stream::Stdout, b"2026-11-21T08:27:52Z \n"),
            (Stream::Stdout, b"no time here\n"),
            (Stream::Stdout, b"2026-11-21T08:27:53Z cut of"),
        ]);
        let texts: Vec<_> = got.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["hi there", "err", "", "no time here", "cut of"]);
        assert_eq!(got[1].stream, Stream::Stderr);
        assert_eq!(got[1].at.unwrap().as_micros() % 1_000_000, 500_000);
        assert_eq!(got[3].at, None);
    }

    #[test]
    fn a_line_in_pieces_is_one_line_with_the_time_of_its_first() {
        let got = read(&[
            (Stream::Stdout, b"2026-11-21T08:27:50Z one "),
            (Stream::Stderr, b"2026-11-21T08:27:50Z other\n"),
            (Stream::Stdout, b"2026-11-21T08:27:51Z two\n"),
        ]);
        assert_eq!(got.len(), 2);
        assert_eq!(got[1].text, "one two");
        assert_eq!(got[1].at, time("2026-11-21T08:27:50Z"));
    }

    #[test]
    fn podmans_log_file_is_read_to_the_nanosecond() {
        let (line, whole) =
            read_file_line(b"2026-11-21T08:27:50.346367837+00:00 stderr F a b  c\n").unwrap();
        assert_eq!((line.stream, line.text.as_str(), whole), (Stream::Stderr, "a b  c", true));
        assert_eq!(line.at.unwrap().as_micros() % 1_000_000, 346_367);
        let (line, whole) = read_file_line(b"2026-11-21T08:27:50.3+01:00 stdout P ").unwrap();
        assert_eq!((line.text.as_str(), whole), ("", false));
        for bad in [&b""[..], b"x", b"2026-11-21T08:27:50Z stdin F a", b"2026-11-21T08:27:50Z"] {
            assert_eq!(read_file_line(bad), None);
        }
    }

    #[test]
    fn an_endless_line_takes_no_endless_memory() {
        let piece = [b"2026-11-21T08:27:50Z ".as_slice(), &[b'x'; 16 * 1024]].concat();
        let got = read(&vec![(Stream::Stdout, piece.as_slice()); 64]);
        assert!(got.len() >= 15, "{}", got.len());
        assert!(got.iter().all(|line| line.text.len() < 2 * LINE_MOST));
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines(pieces in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20,
        )) {
            let pieces: Vec<_> = pieces
                .iter()
                .map(|(err, bytes)| {
                    (if *err { Stream::Stderr } else { Stream::Stdout }, bytes.as_slice())
                })
                .collect();
            for line in read(&pieces) {
                prop_assert!(!line.text.contains('\n'));
            }
        }
    }
}
