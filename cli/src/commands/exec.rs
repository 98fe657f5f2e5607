//! `exec`: a command beside a component, as if it ran here (orchestration §7).
//!
//! Output, input and the terminal's size go their ways at the same time; a reader that stalls here
//! holds up the command there, and the other way round. Reading and writing are done on threads
//! of their own, so that a stalled pipe does not keep the connection from staying alive.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
use weft_link::Items;
use weft_protocol::{
    ClusterExec, EXEC_PIECE, ExecCommand, ExecInput, ExecItem, ExecResize, ExecSize, ExecTaken,
    Octets,
};
use weft_wire::{ActorKind, Address, NodeId};

use super::App;
use crate::args::Exec;
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result, clean};
use crate::output::broken;
use crate::terminal::{self, Raw};

/// A node may take this long to say that it has taken a piece of input, or will later.
const INPUT: Duration = Duration::from_secs(20);
/// With `--json` no output may be longer, in bytes.
const COLLECTED: usize = 16 << 20;
/// Pieces that wait to be written.
const WAITING: usize = 8;

#[derive(Serialize)]
struct View {
    exit: u8,
    stdout: String,
    stderr: String,
}

/// Answers the command's own exit code.
pub(crate) async fn run(app: &App, args: &Exec) -> Result<u8> {
    let command = command(app, args)?;
    let attached = app.attach().await?;
    let id = Uuid::new_v4();
    let message = ClusterExec {
        id,
        target: args.target.clone(),
        replica: args.replica.unwrap_or(0),
        node: app.global.on.clone().unwrap_or_default(),
        command,
    };
    let gateway = Address::here(ActorKind::Gateway);
    let mut items = attached.subscribe(gateway, message, app.question()).await?;
    let first = attached.next(&mut items, true, app.question()).await?;
    let Some(ExecItem::Started { node, .. }) = first else { return Err(cut_off(&attached)) };
    // Only now: what is refused is said on a terminal that is as it was.
    let raw = match (args.tty, args.stdin) {
        (true, true) => Raw::enter(),
        (true, false) => Raw::output(),
        (false, _) => None,
    };
    let to = Remote { attached: &attached, node, id };
    let ended = async {
        if app.output.json {
            collect(app, &attached, &mut items).await
        } else {
            pass(&attached, &mut items).await
        }
    };
    let input = async { if args.stdin { to.feed().await } else { std::future::pending().await } };
    let resized =
        async { if args.tty { to.follow_size().await } else { std::future::pending().await } };
    let outcome = tokio::select! {
        ended = ended => ended,
        error = input => Err(error),
        error = resized => Err(error),
        code = told_to_end() => Ok((code, String::new())),
    };
    drop(raw);
    let (code, reason) = outcome?;
    if !reason.is_empty() && !app.output.json {
        app.output.notice(clean(&format!("cannot run it: {reason}")));
    }
    Ok(code)
}

fn command(app: &App, args: &Exec) -> Result<ExecCommand> {
    if args.tty && app.output.json {
        return Err(CliError::usage("-t and --json exclude each other")
            .help("a terminal's output is not for programs: leave -t out"));
    }
    if args.tty && args.stdin && !std::io::stdin().is_terminal() {
        return Err(CliError::usage("standard input is no terminal")
            .help("leave -t out where the input comes from a file or a pipe"));
    }
    let mut env = args.env.clone();
    if args.tty
        && let Ok(term) = std::env::var("TERM")
        && !env.iter().any(|(name, _)| name == "TERM")
    {
        env.insert(0, ("TERM".into(), term));
    }
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    let command = ExecCommand {
        argv: args.argv.clone(),
        env,
        user: args.user.clone().unwrap_or_default(),
        workdir: args.workdir.clone().unwrap_or_default(),
        tty: args.tty.then_some(ExecSize { columns, rows }),
        stdin: args.stdin,
    };
    match command.problem() {
        Some(problem) => Err(CliError::usage(problem)),
        None => Ok(command),
    }
}

/// Nobody can say how the command ended.
fn cut_off(attached: &Attached) -> CliError {
    CliError::new(Exit::Failed, "ended", "the command was cut off; how it ended is not known")
        .node(attached.node())
        .help("it was ended with its connection: look at `weft ps` and try again")
}

/// The code of this command when a signal ends it; what it runs ends with it.
async fn told_to_end() -> u8 {
    let listen = |kind| signal(kind).ok();
    let (mut interrupt, mut terminate, mut hangup) = (
        listen(SignalKind::interrupt()),
        listen(SignalKind::terminate()),
        listen(SignalKind::hangup()),
    );
    async fn told(signal: &mut Option<tokio::signal::unix::Signal>) {
        match signal {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
    tokio::select! {
        () = told(&mut interrupt) => 130,
        () = told(&mut terminate) => 143,
        () = told(&mut hangup) => 129,
    }
}

/// Writes on a thread of its own, in order.
struct Writer {
    pieces: mpsc::Sender<(bool, Vec<u8>)>,
    done: oneshot::Receiver<std::io::Result<()>>,
}

impl Writer {
    fn start() -> Self {
        let (pieces, mut inbox) = mpsc::channel::<(bool, Vec<u8>)>(WAITING);
        let (tell, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut written = Ok(());
            while let Some((error, bytes)) = inbox.blocking_recv() {
                written = if error {
                    std::io::stderr().write_all(&bytes)
                } else {
                    let mut out = std::io::stdout().lock();
                    out.write_all(&bytes).and_then(|()| out.flush())
                };
                if written.is_err() {
                    break;
                }
            }
            let _ = tell.send(written);
        });
        Self { pieces, done }
    }

    /// After the last piece: whether all of it was written.
    async fn finish(self) -> Result<()> {
        drop(self.pieces);
        match self.done.await {
            Ok(Err(error)) => Err(broken(&error)),
            _ => Ok(()),
        }
    }
}

/// Passes output on as it comes; how the command ended.
async fn pass(attached: &Attached, items: &mut Items<ExecItem>) -> Result<(u8, String)> {
    let writer = Writer::start();
    loop {
        match attached.item(items).await? {
            Some(ExecItem::Output { error, bytes }) => {
                if writer.pieces.send((error, bytes.0)).await.is_err() {
                    writer.finish().await?;
                    return Err(CliError::failed("output cannot be written"));
                }
            }
            Some(ExecItem::Ended { code, reason }) => {
                writer.finish().await?;
                return Ok((code, reason));
            }
            Some(ExecItem::Started { .. }) => {}
            None => {
                writer.finish().await?;
                return Err(cut_off(attached));
            }
        }
    }
}

/// Collects output, and prints it as one document.
async fn collect(
    app: &App,
    attached: &Attached,
    items: &mut Items<ExecItem>,
) -> Result<(u8, String)> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match attached.item(items).await? {
            Some(ExecItem::Output { error, bytes }) => {
                let kept = if error { &mut stderr } else { &mut stdout };
                kept.extend_from_slice(&bytes.0);
                if kept.len() > COLLECTED {
                    let text = format!("more than {} MiB of output", COLLECTED >> 20);
                    return Err(CliError::failed(text).help("leave --json out for so much"));
                }
            }
            Some(ExecItem::Ended { code, reason }) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let view =
                    View { exit: code, stdout: text(&stdout), stderr: text(&stderr) + &reason };
                app.output.document(&view)?;
                return Ok((code, reason));
            }
            Some(ExecItem::Started { .. }) => {}
            None => return Err(cut_off(attached)),
        }
    }
}

/// The node that runs it.
struct Remote<'a> {
    attached: &'a Attached,
    node: NodeId,
    id: Uuid,
}

impl Remote<'_> {
    fn runtime(&self) -> Address {
        Address::on(ActorKind::Runtime, self.node)
    }

    /// Sends standard input until its end, or until the command reads no more; ends only with an
    /// error.
    async fn feed(&self) -> CliError {
        let mut pieces = read_stdin();
        let mut sequence = 0;
        loop {
            let piece = pieces.recv().await;
            let (bytes, end) = piece.map_or((Vec::new(), true), |bytes| (bytes, false));
            let message = ExecInput { id: self.id, sequence, bytes: Octets(bytes), end };
            let taken = loop {
                match self.attached.ask(self.runtime(), message.clone(), INPUT).await {
                    Ok(ExecTaken::Later) => {}
                    Ok(taken) => break taken,
                    // It has ended: how comes on the other way.
                    Err(error) if error.code == "not-found" => break ExecTaken::Closed,
                    Err(error) => return error,
                }
            };
            if end || taken == ExecTaken::Closed {
                return std::future::pending().await;
            }
            sequence += 1;
        }
    }

    /// Tells every new size of the terminal; ends only with an error.
    async fn follow_size(&self) -> CliError {
        let Ok(mut changed) = signal(SignalKind::window_change()) else {
            return std::future::pending().await;
        };
        while changed.recv().await.is_some() {
            let Some((columns, rows)) = terminal::size() else { continue };
            let message = ExecResize { id: self.id, size: ExecSize { columns, rows } };
            match self.attached.ask(self.runtime(), message, INPUT).await {
                Ok(()) => {}
                Err(error) if error.code == "not-found" => {}
                Err(error) => return error,
            }
        }
        std::future::pending().await
    }
}

/// Standard input in pieces, read on a thread of its own that ends with the process.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut buffer = vec![0; EXEC_PIECE];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    let piece = buffer.get(..read).unwrap_or_default().to_vec();
                    if sender.blocking_send(piece).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}
