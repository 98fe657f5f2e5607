//! The daemon's side of a shim: starting one, finding one that runs, following one to its end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use weft_protocol::files::{FILES_VERSION, ProcessFile, ShimExit, ShimFile};

use crate::disk::read_json;
use crate::driver::Order;
use crate::process::{boot_id, identify, is_alive, kill_exactly, session_members};
use crate::shim::{
    ERROR_FILE, EXIT_LOCKED, EXIT_SETUP, EXIT_USAGE, FromShim, LOCK_FILE, SHIM_PROTOCOL,
    SOCKET_FILE, STATE_FILE, ShimEvent, ToShim,
};

/// A shim that says nothing for so long after its start is given up.
pub(crate) const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// A shim that holds its lock but does not answer for so long is given up.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(10);
/// Between attempts to find out whether a shim lives.
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// What a look at a component's directory found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Looked {
    /// It never ran here, or its files are from an earlier boot.
    Nothing,
    /// A live shim, now connected.
    Running(ShimFile),
    /// It ended while nobody looked.
    Exited(ShimFile),
    /// Its shim had died without a word; what was left of it has been killed.
    Lost(ShimFile),
}

/// A connection to a shim.
pub(crate) struct Link {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Link {
    fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    /// The shim's next word; `None`: it has hung up. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<ShimEvent> {
        while let Ok(Some(line)) = self.lines.next_line().await {
            // What a newer shim says and this build does not know is skipped.
            if let Ok(FromShim { event, .. }) = serde_json::from_str(&line) {
                return Some(event);
            }
        }
        None
    }

    /// Tells it something; a shim that has gone shows in [`Link::next`].
    pub(crate) async fn say(&mut self, what: &ToShim) {
        if let Ok(mut line) = serde_json::to_vec(what) {
            line.push(b'\n');
            let _ = self.write.write_all(&line).await;
        }
    }
}

/// A shim that has just been started.
pub(crate) struct Launched {
    pub(crate) link: Link,
    pub(crate) process: Option<ProcessFile>,
    /// Its exit code; `None`: a signal ended it.
    pub(crate) code: oneshot::Receiver<Option<i32>>,
}

/// Starts a shim. It leads a session of its own and does not end with the daemon.
///
/// # Errors
/// What the system says; then nothing runs.
pub(crate) fn launch(program: &Path, spec: &Path) -> io::Result<Launched> {
    let dir = spec.parent().unwrap_or_else(|| Path::new("/"));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    let errors = std::fs::File::create(dir.join(ERROR_FILE))?;
    let mut child = tokio::process::Command::new(program)
        .arg("shim")
        .arg("--spec")
        .arg(spec)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(errors))
        .current_dir("/")
        .kill_on_drop(false)
        .spawn()?;
    let process = child.id().and_then(|pid| identify(pid).ok());
    let (ended, code) = oneshot::channel();
    // Not the actor's task: it has to be reaped whatever becomes of the actor.
    tokio::spawn(async move {
        let status = child.wait().await;
        let _ = ended.send(status.ok().and_then(|status| status.code()));
    });
    Ok(Launched { link: Link::new(ours), process, code })
}

/// How following a shim ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The component has ended, or never ran.
    Exited(ShimExit),
    /// The shim hung up without a word.
    HungUp,
}

/// Passes words back and forth until the component has ended or the shim is gone. `started` is
/// called for every report of a running component.
pub(crate) async fn follow(
    link: &mut Link,
    orders: &mut mpsc::Receiver<Order>,
    started: impl Fn(ShimFile),
) -> Ending {
    link.say(&ToShim::Hello { version: SHIM_PROTOCOL }).await;
    let mut open = true;
    loop {
        tokio::select! {
            event = link.next() => match event {
                Some(ShimEvent::Started(file)) => started(file),
                Some(ShimEvent::Exited(file)) => {
                    return Ending::Exited(file.exit.unwrap_or_else(unknown_exit));
                }
                None => return Ending::HungUp,
            },
            order = orders.recv(), if open => match order {
                Some(order) => {
                    if let Some(order) = order.to_shim() {
                        link.say(&order).await;
                    }
                }
                None => open = false,
            },
        }
    }
}

fn unknown_exit() -> ShimExit {
    ShimExit {
        status: "ended".to_owned(),
        code: None,
        signal: None,
        failed_to_start: false,
        requested: false,
        lease_ended: false,
        at: weft_wire::WallTime::default(),
    }
}

/// What became of a shim that hung up.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Its file says how the component ended.
    Exited(ShimExit),
    /// Another shim runs the component.
    Locked,
    /// It could not set itself up: nothing was started.
    NotStarted(String),
    /// It died; its component may live.
    Lost(String),
}

/// Finds out what became of a shim that hung up. `code` is its exit code, if it was our child.
pub(crate) async fn fate(
    dir: &Path,
    process: Option<&ProcessFile>,
    code: Option<oneshot::Receiver<Option<i32>>>,
) -> Fate {
    let code = match code {
        Some(code) => tokio::time::timeout(Duration::from_secs(2), code).await.ok(),
        None => None,
    };
    match code {
        Some(Ok(Some(code))) if code == i32::from(EXIT_LOCKED) => return Fate::Locked,
        Some(Ok(Some(code))) if code == i32::from(EXIT_SETUP) || code == i32::from(EXIT_USAGE) => {
            let text = std::fs::read_to_string(dir.join(ERROR_FILE)).unwrap_or_default();
            return Fate::NotStarted(format!("the shim could not start: {}", cut(text.trim())));
        }
        _ => {}
    }
    if let Ok(Some(file)) = read_json::<ShimFile>(&dir.join(STATE_FILE))
        && Some(&file.shim) == process
        && let Some(exit) = file.exit
    {
        return Fate::Exited(exit);
    }
    let pid = process.map_or(0, |process| process.pid);
    Fate::Lost(format!("its shim, pid {pid}, ended without a word"))
}

/// Cut at 2 KiB (orchestration §28).
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(2048)).unwrap_or(text)
}

/// Looks at what runs in a component's directory: connects to a live shim, kills what a dead one
/// left, reads what an ended one wrote.
pub(crate) async fn look(dir: &Path) -> (Looked, Option<Link>) {
    let mut deadline = tokio::time::Instant::now() + CONNECT_LIMIT;
    let mut told = false;
    loop {
        let file = read_state(dir);
        match lock_is_held(dir) {
            Ok(true) => {}
            // Read again: it may have written its end before it let go.
            Ok(false) => return (settle(read_state(dir)).await, None),
            // Not known, as when this daemon is out of descriptors: what may be alive and well
            // is not to be killed for that, nor started a second time.
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    let dir = dir.display();
                    tracing::error!(%dir, %error, "{LOCK_FILE} cannot be opened; trying again");
                }
                tokio::time::sleep(LOCK_RETRY).await;
                deadline = tokio::time::Instant::now() + CONNECT_LIMIT;
                continue;
            }
        }
        match connect(dir).await {
            Some((Ok(file), link)) => return (Looked::Running(file), Some(link)),
            Some((Err(file), _)) => return (Looked::Exited(file), None),
            None => {}
        }
        if tokio::time::Instant::now() >= deadline
            && let Some(file) = file
        {
            tracing::warn!(
                component = %file.key,
                shim = file.shim.pid,
                "its shim holds the lock but does not answer: killing it"
            );
            clean(&file.shim).await;
            return (Looked::Lost(file), None);
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn read_state(dir: &Path) -> Option<ShimFile> {
    let path = dir.join(STATE_FILE);
    match read_json::<ShimFile>(&path) {
        Ok(file) => {
            let newer = file.as_ref().is_some_and(|file| file.version > FILES_VERSION);
            if newer {
                tracing::warn!(path = %path.display(), "written by a newer Weft");
            }
            file
        }
        Err(error) => {
            // Only a power cut leaves half a file, and after one nothing runs.
            tracing::warn!(path = %path.display(), %error, "cannot be read: taken as absent");
            None
        }
    }
}

async fn settle(file: Option<ShimFile>) -> Looked {
    match file {
        None => Looked::Nothing,
        Some(file) if file.exit.is_some() => Looked::Exited(file),
        Some(file) if boot_id().is_ok_and(|boot| boot == file.shim.boot_id) => {
            clean(&file.shim).await;
            Looked::Lost(file)
        }
        Some(_) => Looked::Nothing,
    }
}

/// Whether a shim lives there. A shim that starts at this very moment may find the lock taken by
/// this look; it then ends without having started anything.
///
/// # Errors
/// The lock is there and cannot be looked at: nothing is known.
pub(crate) fn lock_is_held(dir: &Path) -> io::Result<bool> {
    let file = match std::fs::File::open(dir.join(LOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Connects and takes the first report. `Err` inside: the component has just ended.
async fn connect(dir: &Path) -> Option<(Result<ShimFile, ShimFile>, Link)> {
    // Through the directory: a socket's path may be no longer than 107 bytes.
    let handle = std::fs::File::open(dir).ok()?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd()));
    let mut link = Link::new(UnixStream::connect(path).await.ok()?);
    let first = tokio::time::timeout(Duration::from_secs(2), link.next()).await.ok()??;
    match first {
        ShimEvent::Started(file) => Some((Ok(file), link)),
        ShimEvent::Exited(file) => Some((Err(file), link)),
    }
}

/// Kills a shim and everything in its session; returns when nothing of it is left.
pub(crate) async fn clean(shim: &ProcessFile) {
    let mut rounds = 0u32;
    loop {
        kill_exactly(shim);
        let left = session_members(shim);
        for process in &left {
            kill_exactly(process);
        }
        if left.is_empty() && !is_alive(shim) {
            return;
        }
        rounds += 1;
        if rounds.is_multiple_of(1000) {
            tracing::warn!(shim = shim.pid, left = left.len(), "processes do not die of SIGKILL");
        }
        // Bounded in practice by the kernel; a process in an uninterruptible call is waited for,
        // because a second copy beside it would be worse.
        tokio::time::sleep(Duration::from_millis(if rounds < 100 { 1 } else { 50 })).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn a_lock_that_cannot_be_looked_at_kills_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // Opening it fails, and not because it is not there.
        std::os::unix::fs::symlink(LOCK_FILE, dir.path().join(LOCK_FILE)).unwrap();
        let mut shim =
            std::process::Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let file = ShimFile {
            version: FILES_VERSION,
            key: weft_protocol::ComponentKey {
                service: "web".into(),
                replica: 1,
                component: "api".into(),
            },
            spec_hash: String::new(),
            epoch: 0,
            revision: 1,
            generation: 1,
            shim: identify(shim.id()).unwrap(),
            child: None,
            started_at: weft_wire::WallTime::default(),
            ports: Vec::new(),
            limits: String::new(),
            lease: None,
            exit: None,
        };
        let path = dir.path().join(STATE_FILE);
        crate::disk::write_json(&path, &file, crate::disk::Durable::No).unwrap();

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(async {
            let looking = look(dir.path());
            tokio::pin!(looking);
            let soon = Duration::from_millis(300);
            let early = tokio::time::timeout(soon, &mut looking).await;
            assert!(early.is_err(), "{:?}", early.map(|(finding, _)| finding));
            assert!(is_alive(&file.shim), "what may be well is left alone");
            // Now it can be: nobody holds it.
            std::fs::remove_file(dir.path().join(LOCK_FILE)).unwrap();
            tokio::time::timeout(Duration::from_secs(10), looking).await.unwrap().0
        });
        assert_eq!(found, Looked::Lost(file));
        shim.wait().unwrap();
    }
}
