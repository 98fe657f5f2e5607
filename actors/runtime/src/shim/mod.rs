//! `weftd shim`: one small process per component that outlives the daemon (design §11).
//!
//! It holds the component's lock, owns its pipes and log, waits for it, and knows how it ended.
//! No async runtime: a main thread that takes events from a channel, and a thread each for
//! signals, children, the socket, every connection and the two pipes.
//!
//! ```text
//! lock ─ shim.json (no child yet) ─ socket ─ spawn ─ shim.json ─ report ─ … ─ child ends
//!      ─ kill what is left ─ drain pipes ─ shim.json (exit) ─ unlock ─ report ─ exit
//! ```
//! The shim's identity is on disk before the component exists, so a component whose shim was
//! killed at any moment can be found again: it is in the session that the shim led. The lock is
//! free before anybody hears of the exit, so a restart never waits for the old shim.
//!
//! A fenced component runs under a lease, whose end `fence` enforces.

pub(crate) mod exec;
mod fence;
pub(crate) mod log;
mod protocol;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use weft_protocol::files::{FILES_VERSION, ShimExit, ShimFile};
use weft_wire::{Clock, SystemClock};

use crate::disk::{Durable, read_json, write_json};
use crate::limits::Hold;
use crate::process;
use fence::Fence;
pub(crate) use fence::{LEASE_ENDED, is_in_container};
use log::Log;
pub(crate) use log::rotated;
pub use protocol::{
    ERROR_FILE, EXIT_LOCKED, EXIT_SETUP, EXIT_USAGE, FromShim, LOCK_FILE, SHIM_PROTOCOL,
    SOCKET_FILE, SPEC_FILE, STATE_FILE, ShimEvent, ShimSpec, ToShim,
};

/// A daemon that does not read is not waited for longer than this.
const WRITE_LIMIT: Duration = Duration::from_secs(1);
/// After the component's end, its pipes may hold data for at most this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The program that a daemon starts shims with: `weft-shim` beside it, a fiftieth of its size, or
/// itself if that is not there. A shim that is older than the daemon refuses what it cannot read.
pub fn program_beside(daemon: &Path) -> PathBuf {
    let small = daemon.with_file_name("weft-shim");
    if small.is_file() { small } else { daemon.to_owned() }
}

/// Runs a component until it ends: `--spec <file>`, a [`ShimSpec`]. Standard input, if it is a
/// socket, is the first daemon's connection. SIGTERM stops the component; SIGINT and SIGHUP are
/// ignored.
///
/// Exits 0 when the component has ended (however it did), or with one of the `EXIT_` codes.
///
/// `--idle`: does nothing until it is ended; the program of a shim that watches over a container.
///
/// `--exec`: runs a command for an operator, as the daemon says on standard input.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    if args.peek().is_some_and(|arg| arg == "--idle") {
        loop {
            std::thread::park();
        }
    }
    if args.peek().is_some_and(|arg| arg == "--exec") {
        return exec::exec_main();
    }
    let (code, text) = match spec_path(args).and_then(|path| load(&path)) {
        Ok(spec) => match run(&spec) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(failure) => failure,
        },
        Err(text) => (EXIT_USAGE, text),
    };
    // Not eprintln: it panics when standard error is gone.
    let _ = writeln!(std::io::stderr(), "weft shim: {text}");
    ExitCode::from(code)
}

fn spec_path(args: impl IntoIterator<Item = OsString>) -> Result<PathBuf, String> {
    let mut args = args.into_iter();
    match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(path), None) if flag == "--spec" => Ok(path.into()),
        _ => Err("usage: weftd shim --spec <file>; the daemon starts it, not a person".into()),
    }
}

fn load(path: &Path) -> Result<ShimSpec, String> {
    let spec: ShimSpec = read_json(path)
        .map_err(|error| format!("{}: {error}", path.display()))?
        .ok_or_else(|| format!("{}: no such file", path.display()))?;
    if spec.version > SHIM_PROTOCOL {
        return Err(format!(
            "{}: written by a newer Weft (version {}, this one reads {SHIM_PROTOCOL}): upgrade this program",
            path.display(),
            spec.version
        ));
    }
    Ok(spec)
}

enum Event {
    Terminate,
    Ended(WaitStatus),
    Connected(UnixStream),
    Said(ToShim),
    Closed(usize),
}

type Failed = (u8, String);

fn setup<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, Failed> {
    result.map_err(|error| (EXIT_SETUP, format!("{what}: {error}")))
}

fn run(spec: &ShimSpec) -> Result<(), Failed> {
    // Leading already (started by hand from a shell) is as good.
    let _ = rustix::process::setsid();
    let dir = setup("component directory", File::open(&spec.component_dir))?;
    let lock = lock(&spec.component_dir)?;
    let (events, inbox) = channel();
    setup("signals", watch_signals(&events))?;
    setup("subreaper", rustix::process::set_child_subreaper(Some(rustix::process::getpid())))?;
    let fence = Fence::default();
    fence.watch_over(&spec.container);
    setup("timer of the lease", fence.set(spec.lease))?;
    let mut shim = Shim {
        fence: fence.clone(),
        state_path: spec.component_dir.join(STATE_FILE),
        socket_path: format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd()).into(),
        file: ShimFile {
            version: FILES_VERSION,
            key: spec.key.clone(),
            spec_hash: spec.spec_hash.clone(),
            epoch: spec.epoch,
            revision: spec.revision,
            generation: spec.generation,
            shim: setup("own identity", process::identify(std::process::id()))?,
            child: None,
            started_at: SystemClock.wall(),
            ports: spec.ports.clone(),
            lease: spec.lease,
            limits: spec.hold.text.clone(),
            exit: None,
        },
        peers: Vec::new(),
        next_peer: 0,
        started: false,
        requested: false,
        kill_at: None,
        events,
        child: None,
        hold: spec.hold.clone(),
        kills: spec.hold.kills(),
    };
    // Before the component exists: see the module's comment.
    setup("shim.json", write_json(&shim.state_path, &shim.file, Durable::No))?;
    let _ = std::fs::remove_file(&shim.socket_path);
    let listener = setup("shim.sock", UnixListener::bind(&shim.socket_path))?;
    setup("shim.sock", accept(listener, &shim.events))?;
    if let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned()
        && rustix::net::sockopt::socket_type(&stdin).is_ok()
    {
        shim.join(UnixStream::from(stdin));
    }

    let log = Arc::new(Mutex::new(Log::new(spec.log.clone(), spec.log_bytes, spec.log_files)));
    let (drained, pipes) = channel::<()>();
    if !fence.is_open() {
        shim.file.exit = Some(not_started(LEASE_ENDED.to_owned(), true));
        return shim.leave(&inbox, lock);
    }
    match shim.held(|| spawn(spec, &log, drained)) {
        Ok(pid) => {
            shim.child = process::to_pid(pid);
            fence.guard(shim.child);
            shim.file.started_at = SystemClock.wall();
            shim.file.child = process::identify(pid).ok();
            // Without this the session is still found through the first version of the file.
            let _ = write_json(&shim.state_path, &shim.file, Durable::No);
            setup("waiting for children", watch_children(pid, &shim.events, fence))?;
            shim.started = true;
            shim.tell_all(&ShimEvent::Started(shim.file.clone()));
            shim.serve(&inbox, Duration::from_millis(spec.stop_grace_ms));
            // Every writer is dead; what they wrote is still in the pipes.
            let _ = pipes.recv_timeout(DRAIN_LIMIT);
            if shim.file.exit.as_ref().is_some_and(|exit| exit.lease_ended) {
                log.lock().note(LEASE_ENDED);
            }
        }
        Err(text) => {
            log.lock().note(&text);
            shim.file.exit = Some(not_started(text, false));
        }
    }
    shim.leave(&inbox, lock)
}

fn not_started(status: String, lease_ended: bool) -> ShimExit {
    ShimExit {
        status,
        code: None,
        signal: None,
        failed_to_start: !lease_ended,
        requested: false,
        lease_ended,
        at: SystemClock.wall(),
    }
}

fn lock(dir: &Path) -> Result<File, Failed> {
    let path = dir.join(LOCK_FILE);
    let file =
        setup("shim.lock", File::options().create(true).truncate(false).write(true).open(&path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err((EXIT_LOCKED, format!("{}: another shim runs this component", path.display())))
        }
        Err(error) => Err((EXIT_SETUP, format!("{}: {error}", path.display()))),
    }
}

/// Starts the component in its own process group and its two log threads; `drained` is dropped
/// once both pipes have ended.
fn spawn(spec: &ShimSpec, log: &Arc<Mutex<Log>>, drained: Sender<()>) -> Result<u32, String> {
    let mut command = Command::new(&spec.program);
    if let Some((name, args)) = spec.argv.split_first() {
        command.arg0(name).args(args);
    }
    let mut child = command
        .env_clear()
        .envs(spec.env.iter().map(|(key, value)| (key, value)))
        .current_dir(&spec.workdir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| {
            format!(
                "cannot start {} in {}: {error}",
                spec.program.display(),
                spec.workdir.display()
            )
        })?;
    let out = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
    let err = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
    for (pipe, stream) in [(out, 'O'), (err, 'E')] {
        let Some(pipe) = pipe else { continue };
        let (log, drained) = (log.clone(), drained.clone());
        let thread = std::thread::Builder::new().name(format!("log-{stream}"));
        let started = thread.spawn(move || {
            log::pump(pipe, stream, &log);
            drop(drained);
        });
        if let Err(error) = started {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("cannot start a thread for the log: {error}"));
        }
    }
    // Waited for by `watch_children`, which waits for whatever it leaves behind as well.
    Ok(child.id())
}

fn watch_signals(events: &Sender<Event>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let events = events.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // The others are a terminal's, which is not ours.
            if signal == SIGTERM && events.send(Event::Terminate).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Reaps everything: the component and, as subreaper, whatever it left behind.
fn watch_children(component: u32, events: &Sender<Event>, fence: Fence) -> std::io::Result<()> {
    let events = events.clone();
    std::thread::Builder::new().name("children".into()).spawn(move || {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if to_u32(pid) == component => {
                    fence.over();
                    end_group(component);
                    let _ = events.send(Event::Ended(status));
                    break;
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
    })?;
    Ok(())
}

/// Kills what is left of the component's group and what has left the group, and reaps it all.
fn end_group(component: u32) {
    // The pid was freed a moment ago, but a group that has members keeps its number, and pids
    // are handed out in a circle: nobody else can have it yet.
    if let Some(group) = process::to_pid(component) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let deadline = SystemClock.now() + DRAIN_LIMIT;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(None) => {}
        }
        for pid in process::children_of(std::process::id()) {
            if let Some(pid) = process::to_pid(pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        if SystemClock.now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn to_u32(pid: Pid) -> u32 {
    u32::try_from(pid.as_raw_pid()).unwrap_or(0)
}

fn accept(listener: UnixListener, events: &Sender<Event>) -> std::io::Result<()> {
    let events = events.clone();
    std::thread::Builder::new().name("socket".into()).spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    if events.send(Event::Connected(stream)).is_err() {
                        break;
                    }
                }
                // Out of descriptors or the like: do not spin.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    })?;
    Ok(())
}

struct Shim {
    fence: Fence,
    state_path: PathBuf,
    socket_path: PathBuf,
    file: ShimFile,
    /// Connected daemons, numbered; a number is not used twice.
    peers: Vec<(usize, UnixStream)>,
    next_peer: usize,
    started: bool,
    requested: bool,
    kill_at: Option<Instant>,
    events: Sender<Event>,
    child: Option<Pid>,
    hold: Hold,
    /// For want of memory, before it was started.
    kills: u64,
}

impl Shim {
    /// Starts the program in its groups, and notes what cannot be.
    fn held(&mut self, start: impl FnOnce() -> Result<u32, String>) -> Result<u32, String> {
        let entered = self.hold.enter();
        let started = start();
        let left = self.hold.leave();
        let pid = started.as_ref().ok().and_then(|pid| process::to_pid(*pid));
        let limited = if pid.is_some() { self.hold.limit(pid) } else { Ok(()) };
        for (what, done) in [("start", entered), ("leave", left), ("limit", limited)] {
            if let Err(error) = done {
                self.file.limits.push_str(&format!("; not in force ({what}: {error})"));
            }
        }
        started
    }

    /// Takes events until the component has ended.
    fn serve(&mut self, inbox: &Receiver<Event>, grace: Duration) {
        while self.file.exit.is_none() {
            let event = match self.kill_at {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(SystemClock.now())),
            };
            match event {
                Ok(Event::Terminate) => self.stop(grace),
                Ok(Event::Said(ToShim::Stop { grace_ms })) => {
                    self.stop(Duration::from_millis(grace_ms));
                }
                Ok(Event::Said(ToShim::Kill)) => self.stop(Duration::ZERO),
                // Without a timer it has killed the component already.
                Ok(Event::Said(ToShim::Lease { until_ms })) => drop(self.fence.set(until_ms)),
                Ok(Event::Ended(status)) => self.ended(status),
                Ok(event) => self.peer_event(event),
                Err(RecvTimeoutError::Timeout) => {
                    self.kill_at = None;
                    self.signal(Signal::KILL);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn peer_event(&mut self, event: Event) {
        match event {
            Event::Connected(stream) => self.join(stream),
            Event::Closed(peer) => self.peers.retain(|(id, _)| *id != peer),
            Event::Said(..) | Event::Terminate | Event::Ended(_) => {}
        }
    }

    fn stop(&mut self, grace: Duration) {
        self.requested = true;
        if grace.is_zero() {
            self.signal(Signal::KILL);
            return;
        }
        let at = SystemClock.now() + grace.min(Duration::from_secs(24 * 3600));
        // A second stop may shorten the wait, never lengthen it.
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        self.signal(Signal::TERM);
        // A suspended process does not see the SIGTERM before it goes on.
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.child {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    fn ended(&mut self, status: WaitStatus) {
        let (code, signal) = (status.exit_status(), status.terminating_signal());
        let killed = signal == Some(Signal::KILL.as_raw());
        let lease_ended = self.fence.has_ended() && killed;
        let no_memory = killed && !self.requested && self.hold.kills() > self.kills;
        self.file.exit = Some(ShimExit {
            status: match (code, signal) {
                _ if lease_ended => LEASE_ENDED.to_owned(),
                (_, Some(signal)) if no_memory => format!("out of memory: signal {signal}"),
                (Some(code), _) => format!("exit {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
            code,
            signal,
            failed_to_start: false,
            requested: self.requested,
            lease_ended,
            at: SystemClock.wall(),
        });
    }

    fn join(&mut self, stream: UnixStream) {
        let id = self.next_peer;
        self.next_peer += 1;
        let Ok(reading) = stream.try_clone() else { return };
        let _ = stream.set_write_timeout(Some(WRITE_LIMIT));
        let events = self.events.clone();
        let reader = std::thread::Builder::new().name("daemon".into()).spawn(move || {
            let mut lines = BufReader::new(reading);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if let Ok(said) = serde_json::from_slice(&line)
                    && events.send(Event::Said(said)).is_err()
                {
                    return;
                }
                line.clear();
            }
            let _ = events.send(Event::Closed(id));
        });
        if reader.is_err() {
            return;
        }
        self.peers.push((id, stream));
        if self.started {
            self.file.lease = self.fence.until();
            let event = ShimEvent::Started(self.file.clone());
            self.tell(&event, |peer| peer == id);
        }
    }

    /// Its last words: the file, then the lock, then those that listen.
    fn leave(&mut self, inbox: &Receiver<Event>, lock: File) -> Result<(), Failed> {
        // When nobody listens, only the file tells; then it has to outlive a power cut.
        while let Ok(event) = inbox.try_recv() {
            self.peer_event(event);
        }
        self.file.lease = self.fence.until();
        let durable = if self.peers.is_empty() { Durable::Yes } else { Durable::No };
        let _ = write_json(&self.state_path, &self.file, durable);
        let _ = std::fs::remove_file(&self.socket_path);
        // The next shim's are made when the lock is free.
        self.hold.remove();
        drop(lock);
        self.tell_all(&ShimEvent::Exited(self.file.clone()));
        Ok(())
    }

    fn tell_all(&mut self, event: &ShimEvent) {
        self.tell(event, |_| true);
    }

    fn tell(&mut self, event: &ShimEvent, to: impl Fn(usize) -> bool) {
        let message = FromShim { version: SHIM_PROTOCOL, event: event.clone() };
        let Ok(mut line) = serde_json::to_vec(&message) else { return };
        line.push(b'\n');
        // One that does not take it is cut off; it finds everything in shim.json.
        self.peers.retain_mut(|(id, stream)| !to(*id) || stream.write_all(&line).is_ok());
    }
}
