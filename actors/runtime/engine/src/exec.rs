//! Running a command in a container, with or without a terminal.
//!
//! The connection is our own, not bollard's: that one takes a terminal's bytes 0, 1 and 2 for the
//! header of a frame.

use std::future::Future;
use std::time::Duration;

use bollard::models::ExecConfig;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use bytes::{Buf, Bytes, BytesMut};
use hyper::Method;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::engine::{Engine, LOOK, checked, limited};
use crate::error::{Error, chain};
use crate::logs::Stream;
use crate::raw::{Ask, encode};

/// A frame that says it is longer is not believed.
const FRAME_MOST: usize = 16 * 1024 * 1024;
const READ: usize = 32 * 1024;
/// An exit code is there no later.
const CODE_LIMIT: Duration = Duration::from_secs(5);

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtySize {
    /// Across.
    pub columns: u16,
    /// Down.
    pub rows: u16,
}

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments; no shell.
    pub cmd: Vec<String>,
    /// Environment, on top of the container's.
    pub env: Vec<(String, String)>,
    /// As whom; empty: the container's user.
    pub user: String,
    /// Where; empty: the container's directory.
    pub workdir: String,
    /// With a terminal of that size.
    pub tty: Option<TtySize>,
    /// With input.
    pub stdin: bool,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecChunk {
    /// From where; always standard output with a terminal.
    pub stream: Stream,
    /// As it came.
    pub bytes: Bytes,
}

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, as much as was kept.
    pub stdout: Vec<u8>,
    /// Standard error, as much as was kept.
    pub stderr: Vec<u8>,
    /// Exit code; 126 or 127 if it could not be run.
    pub code: i64,
}

/// A command that runs. Dropping it hangs up; the command may go on.
#[derive(Debug)]
pub struct ExecSession {
    engine: Engine,
    id: String,
    read: ReadHalf<TokioIo<Upgraded>>,
    input: Option<ExecInput>,
    frames: Option<Frames>,
}

/// A command's input.
#[derive(Debug)]
pub struct ExecInput(WriteHalf<TokioIo<Upgraded>>);

impl ExecInput {
    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is gone: the command has ended, or the engine.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// As [`ExecInput::write`].
    pub async fn close(mut self) -> std::io::Result<()> {
        self.0.shutdown().await
    }
}

impl ExecSession {
    /// Its input, once; `None` if there is none or it was taken.
    pub fn take_input(&mut self) -> Option<ExecInput> {
        self.input.take()
    }

    /// The next piece of output; `None`: the command has ended, or has closed its output.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the engine goes away, [`Error::Answer`] if it sends nonsense.
    pub async fn next(&mut self) -> Result<Option<ExecChunk>, Error> {
        loop {
            if let Some(frames) = &mut self.frames {
                match frames.next() {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) => {}
                    Err(message) => {
                        return Err(Error::Answer { what: "run a command".into(), message });
                    }
                }
            }
            let mut buffer = vec![0; READ];
            let read = match self.read.read(&mut buffer).await {
                Ok(read) => read,
                // A terminal whose last process has gone.
                Err(error) if error.raw_os_error() == Some(5) => 0,
                Err(error) => return Err(self.engine.hung_up(chain(&error))),
            };
            if read == 0 {
                return Ok(None);
            }
            buffer.truncate(read);
            match &mut self.frames {
                Some(frames) => frames.0.extend_from_slice(&buffer),
                None => {
                    return Ok(Some(ExecChunk {
                        stream: Stream::Stdout,
                        bytes: Bytes::from(buffer),
                    }));
                }
            }
        }
    }

    /// Tells its terminal a new size. While output is read elsewhere, use what
    /// [`ExecSession::resizer`] gives.
    ///
    /// # Errors
    /// The engine's.
    pub async fn resize(&self, size: TtySize) -> Result<(), Error> {
        self.resizer().resize(size).await
    }

    /// Names the command, apart from its connection.
    pub fn handle(&self) -> ExecHandle {
        ExecHandle { engine: self.engine.clone(), id: self.id.clone() }
    }

    /// Something that can resize while this is busy.
    pub fn resizer(&self) -> Resizer {
        Resizer { engine: self.engine.clone(), id: self.id.clone() }
    }

    /// The exit code, after [`ExecSession::next`] has said `None`.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the command still runs after 5 s, the engine's others.
    pub fn exit_code(&self) -> impl Future<Output = Result<i64, Error>> + Send + use<> {
        // Not the connection, which cannot be shared between threads.
        let (engine, id) = (self.engine.clone(), self.id.clone());
        async move {
            let what = "ask for a command's exit code";
            let asked = async {
                loop {
                    let inspected = engine.docker.inspect_exec(&id).await;
                    let inspected =
                        inspected.map_err(|error| Error::of(what, engine.socket(), error))?;
                    if inspected.running != Some(true) {
                        return Ok(inspected.exit_code.unwrap_or_default());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            limited(what, CODE_LIMIT, asked).await
        }
    }
}

/// A command that runs or ran, apart from its connection.
#[derive(Debug, Clone)]
pub struct ExecHandle {
    engine: Engine,
    id: String,
}

impl ExecHandle {
    /// Its first process, as the machine of the engine numbers it; `None`: it does not run.
    ///
    /// # Errors
    /// The engine's.
    pub async fn pid(&self) -> Result<Option<u32>, Error> {
        let asked = self.engine.docker.inspect_exec(&self.id);
        let found = match self.engine.call("look for a command's process", LOOK, asked).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let pid = found.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        Ok(pid.filter(|_| found.running == Some(true)))
    }
}

/// Tells a terminal its size.
#[derive(Debug, Clone)]
pub struct Resizer {
    engine: Engine,
    id: String,
}

impl Resizer {
    /// Tells the terminal a new size.
    ///
    /// # Errors
    /// The engine's; one that has ended is none.
    pub async fn resize(&self, size: TtySize) -> Result<(), Error> {
        let options = ResizeExecOptionsBuilder::new()
            .w(i32::from(size.columns))
            .h(i32::from(size.rows))
            .build();
        let resized = self.engine.docker.resize_exec(&self.id, options);
        match self.engine.call("resize a terminal", LOOK, resized).await {
            Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
            other => other,
        }
    }
}

impl Engine {
    /// Runs a command in a running container.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] if the container does not run,
    /// [`Error::CannotRun`], the engine's others.
    pub async fn exec(&self, id: &str, spec: &ExecSpec) -> Result<ExecSession, Error> {
        let what = format!("run a command in container {}", checked(id)?);
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        let env: Vec<_> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let config = ExecConfig {
            attach_stdin: Some(spec.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(spec.tty.is_some()),
            env: (!env.is_empty()).then_some(env),
            cmd: Some(spec.cmd.clone()),
            user: text(&spec.user),
            working_dir: text(&spec.workdir),
            ..ExecConfig::default()
        };
        let made = self.call(&what, LOOK, self.docker.create_exec(id, config)).await?;
        let mut start = serde_json::json!({ "Detach": false, "Tty": spec.tty.is_some() });
        if let Some(size) = spec.tty {
            start["ConsoleSize"] = serde_json::json!([size.rows, size.columns]);
            // Podman's name for it.
            start["h"] = size.rows.into();
            start["w"] = size.columns.into();
        }
        let ask = Ask {
            socket: self.socket(),
            what: &what,
            method: Method::POST,
            path: self.path(&format!("/exec/{}/start", encode(&made.id))),
            body: Some(start.to_string().into_bytes()),
            upgrade: true,
        };
        let response = limited(&what, LOOK, ask.send()).await?;
        let upgraded =
            hyper::upgrade::on(response).await.map_err(|error| self.hung_up(chain(&error)))?;
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let session = ExecSession {
            engine: self.clone(),
            id: made.id,
            read,
            input: spec.stdin.then_some(ExecInput(write)),
            frames: spec.tty.is_none().then(Frames::default),
        };
        if let Some(size) = spec.tty {
            // Podman 4.3 takes no size at the start; a command that has ended already needs none.
            let resizer = session.resizer();
            let _ = resizer.resize(size).await;
        }
        Ok(session)
    }

    /// Runs a command and keeps the first `most` bytes of each of its outputs; the rest is read
    /// and dropped, so that the command is not held up.
    ///
    /// # Errors
    /// Those of [`Engine::exec`]; [`Error::Timeout`] after `limit`: the command may go on then.
    pub async fn exec_output(
        &self,
        id: &str,
        spec: &ExecSpec,
        most: usize,
        limit: Duration,
    ) -> Result<ExecOutput, Error> {
        let what = format!("run a command in container {}", checked(id)?);
        let run = async {
            let mut session = self.exec(id, spec).await?;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            while let Some(chunk) = session.next().await? {
                let kept = match chunk.stream {
                    Stream::Stdout => &mut stdout,
                    Stream::Stderr => &mut stderr,
                };
                let room = most.saturating_sub(kept.len()).min(chunk.bytes.len());
                kept.extend(chunk.bytes.iter().take(room));
            }
            Ok(ExecOutput {
                stdout,
                stderr,
                code: {
                    let code = session.exit_code();
                    code.await?
                },
            })
        };
        limited(&what, limit, run).await
    }
}

/// Bytes that have come and are no whole frame yet: 1 byte for the stream, 3 of nothing, 4 for the
/// length, big-endian, then as many bytes.
#[derive(Debug, Default)]
struct Frames(BytesMut);

impl Frames {
    fn next(&mut self) -> Result<Option<ExecChunk>, String> {
        loop {
            let Some(header) = self.0.first_chunk::<8>() else { return Ok(None) };
            let [kind, _, _, _, a, b, c, d] = *header;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if kind > 2 || length > FRAME_MOST {
                return Err(format!("a frame of kind {kind} and {length} bytes"));
            }
            if self.0.len() < 8 + length {
                return Ok(None);
            }
            self.0.advance(8);
            let bytes = self.0.split_to(length).freeze();
            if length > 0 {
                let stream = if kind == 2 { Stream::Stderr } else { Stream::Stdout };
                return Ok(Some(ExecChunk { stream, bytes }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_are_whole_however_they_are_cut(
            sent in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 1..50)), 0..12),
            cut in 1usize..20,
        ) {
            let mut bytes = Vec::new();
            for (err, text) in &sent {
                bytes.extend([if *err { 2 } else { 1 }, 0, 0, 0]);
                bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                bytes.extend(text);
            }
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                frames.0.extend_from_slice(piece);
                while let Some(chunk) = frames.next().unwrap() {
                    got.push((chunk.stream == Stream::Stderr, chunk.bytes.to_vec()));
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn nonsense_is_an_error_or_nothing(bytes: Vec<u8>) {
            let mut frames = Frames(BytesMut::from(bytes.as_slice()));
            while let Ok(Some(_)) = frames.next() {}
        }
    }
}
