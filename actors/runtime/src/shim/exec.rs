//! `weftd shim --exec`: runs one command for an operator and ends whatever it leaves behind.
//!
//! It stands between the daemon and the command for two reasons: a terminal has to become the
//! controlling one of a new session, and the command has to end when the daemon does, however
//! that happens. Standard input is the daemon's socket: one byte with the command's own standard
//! input, output and error (with a terminal: the terminal), then an [`ExecOrder`] on a line. When
//! the daemon hangs up, everything that descends from the command is ended; when the command has
//! ended, so is what it left behind, and an [`ExecWord`] says how.

use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Signal, WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU};

use super::{EXIT_SETUP, end_group, to_u32};
use crate::process;

/// Between SIGHUP and SIGKILL when the daemon has hung up.
const GRACE: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecOrder {
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// All of its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Where; absolute.
    pub(crate) workdir: std::path::PathBuf,
    /// What came with it is one terminal.
    pub(crate) tty: bool,
}

/// How it ended; the one line that is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExecWord {
    /// Exit code, or 128 and a signal's number.
    Ended { code: u8 },
    /// It was not run: 127 if it is not there, else 126.
    NotRun { code: u8, text: String },
}

enum Event {
    HungUp,
    Ended(WaitStatus),
}

/// The helper's whole life.
pub(super) fn exec_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "weft shim --exec: {text}");
            ExitCode::from(EXIT_SETUP)
        }
    }
}

fn run() -> Result<(), String> {
    fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
        move |error| format!("{what}: {error}")
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed("socket"))?;
    let mut socket = UnixStream::from(socket);
    let ends = receive(&socket).map_err(failed("descriptors"))?;
    let mut lines = BufReader::new(socket.try_clone().map_err(failed("socket"))?);
    let mut line = String::new();
    lines.read_line(&mut line).map_err(failed("order"))?;
    let order: ExecOrder = serde_json::from_str(&line).map_err(failed("order"))?;

    let (events, inbox) = channel();
    // Before there is a terminal whose signals would end this.
    watch_signals(&events).map_err(failed("signals"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(failed("subreaper"))?;
    let _ = rustix::process::setsid();
    let started = start(&order, ends).map_err(failed("terminal"))?;
    let say = |socket: &mut UnixStream, word: &ExecWord| {
        let mut line = serde_json::to_vec(word).unwrap_or_default();
        line.push(b'\n');
        let _ = socket.write_all(&line);
    };
    let child = match started {
        Ok(child) => child,
        Err((code, text)) => {
            say(&mut socket, &ExecWord::NotRun { code, text });
            return Ok(());
        }
    };
    watch_daemon(lines, &events);
    watch_child(child, &events);
    let first = inbox.recv().map_err(failed("events"))?;
    if let Event::HungUp = first {
        signal(child, Signal::HUP);
        // A suspended one does not see it before it goes on.
        signal(child, Signal::CONT);
        loop {
            match inbox.recv_timeout(GRACE) {
                Ok(Event::HungUp) => {}
                Ok(Event::Ended(_)) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    signal(child, Signal::KILL);
                    break;
                }
            }
        }
        end_group(child);
        return Ok(());
    }
    end_group(child);
    if let Event::Ended(status) = first {
        say(&mut socket, &ExecWord::Ended { code: code_of(status) });
    }
    Ok(())
}

/// As shells and engines say it.
fn code_of(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code & 0xff).unwrap_or(255)
}

fn receive(socket: &UnixStream) -> std::io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    // One byte alone: the order behind it is for the reader of lines.
    let into = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut ends = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            ends.extend(fds);
        }
    }
    Ok(ends)
}

type NotRun = (u8, String);

/// Starts the command; `Err`: nothing could be set up.
fn start(order: &ExecOrder, ends: Vec<OwnedFd>) -> std::io::Result<Result<u32, NotRun>> {
    let mut ends = ends.into_iter();
    let missing = || std::io::Error::other("too few descriptors came with the order");
    let input = ends.next().ok_or_else(missing)?;
    let (output, errors) = if order.tty {
        // Ours, and so the session's; its foreground group is this process's, and the command's.
        rustix::process::ioctl_tiocsctty(&input)?;
        (input.try_clone()?, input.try_clone()?)
    } else {
        (ends.next().ok_or_else(missing)?, ends.next().ok_or_else(missing)?)
    };
    let Some((program, arguments)) = order.argv.split_first() else {
        return Ok(Err((126, "the command is empty".into())));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(order.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&order.workdir)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors));
    if !order.tty {
        command.process_group(0);
    }
    let spawned = command.spawn();
    // It holds the descriptors: the command's output would never end.
    drop(command);
    Ok(spawned.map(|child| child.id()).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        (code, format!("{program}: {error}"))
    }))
}

fn signal(child: u32, signal: Signal) {
    let Some(pid) = process::to_pid(child) else { return };
    // With a terminal it has no group of its own.
    let _ = rustix::process::kill_process_group(pid, signal);
    let _ = rustix::process::kill_process(pid, signal);
}

/// None of a terminal's signals is for this process; its end is.
fn watch_signals(events: &Sender<Event>) -> std::io::Result<()> {
    let all = [SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU];
    let mut signals = signal_hook::iterator::Signals::new(all)?;
    let events = events.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if matches!(signal, SIGHUP | SIGTERM) && events.send(Event::HungUp).is_err() {
                break;
            }
        }
    });
    Ok(())
}

fn watch_daemon(mut lines: BufReader<UnixStream>, events: &Sender<Event>) {
    let events = events.clone();
    std::thread::spawn(move || {
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            line.clear();
        }
        let _ = events.send(Event::HungUp);
    });
}

/// Reaps everything up to the command's end, and nothing after it.
fn watch_child(child: u32, events: &Sender<Event>) {
    let events = events.clone();
    std::thread::spawn(move || {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if to_u32(pid) == child => {
                    let _ = events.send(Event::Ended(status));
                    return;
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
}
