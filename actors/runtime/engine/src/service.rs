//! Podman's API service as a child of this daemon, where no engine listens: started on demand,
//! started again when it ends, ended by its id with us. Containers outlive it.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use weft_protocol::files::ProcessFile;
use weft_wire::Backoff;

use crate::error::{Error, cut};

/// It listens no later.
const UP: Duration = Duration::from_secs(20);
/// It ends no later after SIGTERM; then SIGKILL.
const DOWN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(30), jitter: 0.0 };
const SOCKET: &str = "podman.sock";
const PROCESS: &str = "podman.json";
const ERRORS: &str = "podman.log";

/// A `podman system service` of our own. Dropping it ends the service, too, but does not wait.
#[derive(Debug)]
pub struct OwnService {
    socket: PathBuf,
    pid: watch::Receiver<u32>,
    end: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl OwnService {
    /// Starts it and waits until it listens. What an earlier daemon left in `dir` is ended first.
    /// Output goes to `dir/podman.log`, that of the last start only.
    ///
    /// # Errors
    /// [`Error::Service`]: it ended at once (with its last words), did not listen within 20 s, or
    /// the socket's path is too long.
    pub async fn start(podman: &Path, options: &[String], dir: &Path) -> Result<Self, Error> {
        let failed = |what: &str, error: io::Error| Error::Service(format!("{what}: {error}"));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| failed(&dir.display().to_string(), error))?;
        let socket = dir.join(SOCKET);
        if socket.as_os_str().len() > 107 {
            let path = socket.display();
            return Err(Error::Service(format!("{path}: a socket's path may have 107 bytes")));
        }
        end_earlier(dir).await;
        let what = Launch {
            podman: podman.to_owned(),
            options: options.to_vec(),
            dir: dir.to_owned(),
            socket: socket.clone(),
        };
        let child = what.up().await?;
        let (tell_pid, pid) = watch::channel(child.id().unwrap_or_default());
        let (end, told_to_end) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        tokio::spawn(async move {
            keep(what, child, told_to_end, tell_pid).await;
            let _ = tell_ended.send(());
        });
        Ok(Self { socket, pid, end: Some(end), ended: Some(ended) })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process now; another one after it had to be started again.
    pub fn pid(&self) -> u32 {
        *self.pid.borrow()
    }

    /// Ends it and waits until it is gone.
    pub async fn end(mut self) {
        drop(self.end.take());
        if let Some(ended) = self.ended.take() {
            let _ = ended.await;
        }
    }
}

struct Launch {
    podman: PathBuf,
    options: Vec<String>,
    dir: PathBuf,
    socket: PathBuf,
}

impl Launch {
    /// Starts it; returns when it listens.
    async fn up(&self) -> Result<Child, Error> {
        let failed =
            |error: io::Error| Error::Service(format!("{}: {error}", self.podman.display()));
        remove_socket(&self.socket);
        let log = self.dir.join(ERRORS);
        let errors = std::fs::File::create(&log).map_err(failed)?;
        let mut child = Command::new(&self.podman)
            .args(&self.options)
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", self.socket.display()))
            .stdin(Stdio::null())
            .stdout(errors.try_clone().map_err(failed)?)
            .stderr(errors)
            // A Ctrl-C at the daemon's terminal is not for it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(file) = child.id().and_then(|pid| ProcessFile::of(pid).ok()) {
            let text = serde_json::to_vec(&file).unwrap_or_default();
            std::fs::write(self.dir.join(PROCESS), text).map_err(failed)?;
        }
        let deadline = tokio::time::Instant::now() + UP;
        loop {
            if UnixStream::connect(&self.socket).await.is_ok() {
                return Ok(child);
            }
            let why = match child.try_wait() {
                Ok(Some(status)) => format!("it ended with {status}"),
                _ if tokio::time::Instant::now() >= deadline => {
                    format!("it does not listen after {UP:?}")
                }
                _ => {
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let words = std::fs::read_to_string(&log).unwrap_or_default();
            down(&mut child).await;
            return Err(Error::Service(format!("{why}: {}", cut(&words))));
        }
    }
}

/// Keeps it up until told to end it, or forgotten.
async fn keep(
    launch: Launch,
    mut child: Child,
    mut told_to_end: oneshot::Receiver<()>,
    tell_pid: watch::Sender<u32>,
) {
    let mut attempt = 0;
    loop {
        tokio::select! {
            _ = &mut told_to_end => break,
            status = child.wait() => {
                tracing::warn!(?status, "podman's API service ended: starting it again");
            }
        }
        loop {
            tokio::select! {
                _ = &mut told_to_end => {
                    tidy(&launch);
                    return;
                }
                () = tokio::time::sleep(BACKOFF.delay(attempt, 0.5)) => {}
            }
            attempt = (attempt + 1).min(16);
            tokio::select! {
                _ = &mut told_to_end => {
                    tidy(&launch);
                    return;
                }
                up = launch.up() => match up {
                    Ok(again) => {
                        child = again;
                        tell_pid.send_replace(child.id().unwrap_or_default());
                        attempt = 0;
                        break;
                    }
                    Err(error) => tracing::error!(%error, "container engine"),
                }
            }
        }
    }
    down(&mut child).await;
    tidy(&launch);
}

fn tidy(launch: &Launch) {
    remove_socket(&launch.socket);
    let _ = std::fs::remove_file(launch.dir.join(PROCESS));
}

async fn down(child: &mut Child) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(DOWN, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// A daemon that was killed could not end its service. It is known exactly, by its start time.
async fn end_earlier(dir: &Path) {
    let file = dir.join(PROCESS);
    let earlier = std::fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<ProcessFile>(&text).ok())
        .filter(ProcessFile::is_running);
    if let Some(earlier) = earlier {
        let pid = i32::try_from(earlier.pid).ok().and_then(rustix::process::Pid::from_raw);
        let signals = [rustix::process::Signal::TERM, rustix::process::Signal::KILL];
        for (pid, signal) in pid.into_iter().flat_map(|pid| signals.map(|signal| (pid, signal))) {
            let _ = rustix::process::kill_process(pid, signal);
            let deadline = tokio::time::Instant::now() + DOWN;
            while earlier.is_running() && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(RETRY).await;
            }
            if !earlier.is_running() {
                break;
            }
        }
    }
    let _ = std::fs::remove_file(file);
}

/// Only a socket: nothing else that might be there.
fn remove_socket(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}
