//! A command beside a process component: on this node, with the component's directory,
//! environment and user, under a helper (`weftd shim --exec`) that ends it with this daemon's
//! connection.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixStream, unix};
use tokio_util::sync::CancellationToken;
use weft_link::ItemSink;
use weft_protocol::files::{ProcessFile, component_dir};
use weft_protocol::{ComponentKey, EXEC_PIECE, Exec, ExecCommand, ExecSize};
use weft_wire::{Failure, FailureKind};

use super::{Outcome, Wires, pass};
use crate::actor::Shared;
use crate::disk::read_json;
use crate::launch::other_user;
use crate::link;
use crate::process::identify;
use crate::shim::exec::{ExecOrder, ExecWord};
use crate::shim::{SPEC_FILE, ShimSpec};

/// When the command has ended and nothing more comes for so long, its output counts as whole.
const DRAIN: Duration = Duration::from_secs(2);

/// This side of the command's standard streams.
enum Streams {
    Pipes {
        input: Option<unix::pipe::Sender>,
        output: unix::pipe::Receiver,
        errors: unix::pipe::Receiver,
    },
    /// Not pipes, but the same to read and write.
    Terminal { input: unix::pipe::Sender, output: unix::pipe::Receiver, master: OwnedFd },
}

fn winsize(size: ExecSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Makes both sides.
fn streams(command: &ExecCommand) -> std::io::Result<(Streams, Vec<OwnedFd>)> {
    if let Some(size) = command.tty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::termios::tcsetwinsize(&master, winsize(size))?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let ours = Streams::Terminal {
            input: unix::pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?,
            output: unix::pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?,
            master,
        };
        return Ok((ours, vec![slave]));
    }
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (input, theirs) = if command.stdin {
        let (read, write) = pipe()?;
        (Some(unix::pipe::Sender::from_owned_fd(write)?), read)
    } else {
        (None, OwnedFd::from(File::open("/dev/null")?))
    };
    let (output, to_output) = pipe()?;
    let (errors, to_errors) = pipe()?;
    let ours = Streams::Pipes {
        input,
        output: unix::pipe::Receiver::from_owned_fd(output)?,
        errors: unix::pipe::Receiver::from_owned_fd(errors)?,
    };
    Ok((ours, vec![theirs, to_output, to_errors]))
}

/// A helper that has been given its order. Dropped, it hangs up, and the command is ended.
struct Helper {
    stream: UnixStream,
    process: Option<ProcessFile>,
}

impl Helper {
    async fn start(
        program: &std::path::Path,
        order: &ExecOrder,
        ends: Vec<OwnedFd>,
    ) -> std::io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        {
            let fds: Vec<BorrowedFd<'_>> = ends.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            sendmsg(&ours, &[IoSlice::new(b"\n")], &mut control, SendFlags::NOSIGNAL)?;
        }
        drop(ends);
        ours.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(ours)?;
        let mut child = tokio::process::Command::new(program)
            .args(["shim", "--exec"])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .current_dir("/")
            .kill_on_drop(false)
            .spawn()?;
        let process = child.id().and_then(|pid| identify(pid).ok());
        // It has to be reaped whatever becomes of this.
        tokio::spawn(async move { child.wait().await });
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        Ok(Self { stream, process })
    }

    /// How the command ended; `None`: the helper died. Then what is left of it has been killed.
    async fn ended(&mut self) -> Option<ExecWord> {
        let mut line = String::new();
        let _ = BufReader::new(&mut self.stream).read_line(&mut line).await;
        let word = serde_json::from_str(&line).ok();
        if let (None, Some(process)) = (&word, &self.process) {
            link::clean(process).await;
        }
        word
    }
}

pub(super) async fn run(
    shared: &Arc<Shared>,
    key: &ComponentKey,
    command: ExecCommand,
    sink: &ItemSink<Exec>,
    wires: Wires,
) -> Result<Outcome, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Unavailable, format!("{what}: {error}"))
    };
    if let Some(problem) = other_user(&command.user) {
        return Err(Failure::new(FailureKind::Invalid, problem));
    }
    let path = component_dir(&shared.config.data_dir, key).join(SPEC_FILE);
    let read = tokio::task::spawn_blocking(move || read_json::<ShimSpec>(&path)).await;
    let spec = match read {
        Ok(Ok(Some(spec))) => spec,
        Ok(Ok(None)) => return Err(failed("its environment is not known", &"no spec.json")),
        Ok(Err(error)) => return Err(failed("its environment cannot be read", &error)),
        Err(error) => return Err(failed("its environment cannot be read", &error)),
    };
    let order = order(&command, spec);
    if !order.workdir.is_dir() {
        return Ok((126, format!("{}: not a directory", order.workdir.display())));
    }
    let (streams, ends) =
        streams(&command).map_err(|error| failed("no pipes or terminal for it", &error))?;
    let program = &shared.config.shim_program;
    let mut helper = Helper::start(program, &order, ends)
        .await
        .map_err(|error| failed(&format!("{} cannot be started", program.display()), &error))?;

    let over = CancellationToken::new();
    let carried = carry(streams, sink, wires, &over);
    let ended = async {
        let word = helper.ended().await;
        over.cancel();
        word
    };
    let (word, ()) = tokio::join!(ended, carried);
    match word {
        Some(ExecWord::Ended { code }) => Ok((code, String::new())),
        Some(ExecWord::NotRun { code, text }) => Ok((code, text)),
        None => Err(Failure::new(FailureKind::Failed, "the helper that ran it was killed")),
    }
}

/// As the component runs, with what the operator wants else. Later variables win.
fn order(command: &ExecCommand, spec: ShimSpec) -> ExecOrder {
    let mut env = spec.env;
    env.extend(command.env.iter().cloned());
    ExecOrder {
        argv: command.argv.clone(),
        env,
        workdir: spec.workdir.join(PathBuf::from(&command.workdir)),
        tty: command.tty.is_some(),
    }
}

/// Passes everything both ways until the command's output has ended.
async fn carry(streams: Streams, sink: &ItemSink<Exec>, wires: Wires, over: &CancellationToken) {
    let Wires { mut input, mut size } = wires;
    match streams {
        Streams::Pipes { input: pipe, output, errors } => {
            let feed = async {
                if let Some(mut pipe) = pipe {
                    while let Some(bytes) = input.recv().await {
                        if pipe.write_all(&bytes).await.is_err() {
                            break;
                        }
                    }
                }
                // Later pieces are refused from here on.
                input.close();
                std::future::pending::<()>().await
            };
            let outputs = async {
                tokio::join!(pump(output, sink, false, over), pump(errors, sink, true, over),)
            };
            tokio::select! {
                _ = outputs => {}
                () = feed => {}
            }
        }
        Streams::Terminal { input: mut terminal, output, master } => {
            let feed = async {
                while let Some(bytes) = input.recv().await {
                    if terminal.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                input.close();
                std::future::pending::<()>().await
            };
            let resize = async {
                while size.changed().await.is_ok() {
                    let now = *size.borrow_and_update();
                    let _ = rustix::termios::tcsetwinsize(&master, winsize(now));
                }
                std::future::pending::<()>().await
            };
            let shown = async {
                // When nobody has it open any more, that is an error on Linux, and an end elsewhere.
                pump(output, sink, false, over).await;
                // Closing this side hangs up on the helper, and ends what closed the terminal and
                // goes on, or is just about to end: not before its end is known.
                over.cancelled().await;
            };
            tokio::select! {
                () = shown => {}
                () = feed => {}
                () = resize => {}
            }
        }
    }
}

async fn pump(
    mut pipe: unix::pipe::Receiver,
    sink: &ItemSink<Exec>,
    error: bool,
    over: &CancellationToken,
) {
    let mut buffer = vec![0; EXEC_PIECE];
    while let Some(Ok(read @ 1..)) = unless_over(pipe.read(&mut buffer), over).await {
        let Some(bytes) = buffer.get(..read) else { return };
        if !pass(sink, error, bytes).await {
            return;
        }
    }
}

/// `None`: the command has ended, and nothing came for a while.
async fn unless_over<T>(read: impl Future<Output = T>, over: &CancellationToken) -> Option<T> {
    let silence = async {
        over.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        biased;
        read = read => Some(read),
        () = silence => None,
    }
}
