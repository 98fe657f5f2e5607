//! A command in a container: the engine runs it, this node ends it. An engine cannot be told to
//! end a command, so its processes are found and signalled here, as far as they are to be seen:
//! an engine on another machine, or in another pid namespace, is out of reach.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal};
use weft_engine::{Error, ExecHandle, ExecSpec, Stream, TtySize};
use weft_link::ItemSink;
use weft_protocol::{Exec, ExecCommand, ExecSize};
use weft_wire::{Failure, FailureKind};

use super::{Outcome, Wires, pass};
use crate::actor::Shared;
use crate::process;
use crate::shim::is_in_container;

/// Between SIGHUP and SIGKILL, in looks.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn size(size: ExecSize) -> TtySize {
    TtySize { columns: size.columns, rows: size.rows }
}

fn failure(error: &Error) -> Failure {
    let kind = match error {
        Error::NotFound { .. } | Error::Conflict { .. } => FailureKind::Conflict,
        Error::Timeout { .. } => FailureKind::Timeout,
        Error::Unreachable { .. } => FailureKind::Unavailable,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, error.to_string())
}

/// 127 where the engine's words say that there is no such program.
fn not_run(message: String) -> Outcome {
    let text = message.to_ascii_lowercase();
    let absent = ["not found", "no such file"].iter().any(|words| text.contains(words));
    (if absent { 127 } else { 126 }, message)
}

pub(super) async fn run(
    shared: &Arc<Shared>,
    container: &str,
    command: ExecCommand,
    sink: &ItemSink<Exec>,
    mut wires: Wires,
) -> Result<Outcome, Failure> {
    let unavailable = |why: String| Failure::new(FailureKind::Unavailable, why);
    let engine = shared.engines.engine().await.map_err(unavailable)?;
    let spec = ExecSpec {
        cmd: command.argv,
        env: command.env,
        user: command.user,
        workdir: command.workdir,
        tty: command.tty.map(size),
        stdin: command.stdin,
    };
    let mut session = match engine.exec(container, &spec).await {
        Ok(session) => session,
        Err(Error::CannotRun { message, .. }) => return Ok(not_run(message)),
        Err(error) => return Err(failure(&error)),
    };
    let mut leash = Leash(Some((session.handle(), container.to_owned())));
    let input = session.take_input();
    let feed = async {
        if let Some(mut input) = input {
            while let Some(bytes) = wires.input.recv().await {
                if input.write(&bytes).await.is_err() {
                    break;
                }
            }
            // Later pieces are refused from here on.
            wires.input.close();
            let _ = input.close().await;
        }
        std::future::pending::<()>().await
    };
    let resizer = session.resizer();
    let resize = async {
        while wires.size.changed().await.is_ok() {
            let now = *wires.size.borrow_and_update();
            if let Err(error) = resizer.resize(size(now)).await {
                tracing::debug!(%error, "a terminal keeps its size");
            }
        }
        std::future::pending::<()>().await
    };
    let output = async {
        loop {
            match session.next().await {
                Ok(Some(chunk)) => {
                    if !pass(sink, chunk.stream == Stream::Stderr, &chunk.bytes).await {
                        // The subscription is over: whoever waits for it ends this.
                        std::future::pending::<()>().await;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return Err(failure(&error)),
            }
        }
    };
    tokio::select! {
        done = output => done?,
        () = feed => {}
        () = resize => {}
    }
    let code = loop {
        let code = session.exit_code();
        match code.await {
            Ok(code) => break code,
            // It has closed its output and goes on.
            Err(Error::Timeout { .. }) => {}
            Err(error) => return Err(failure(&error)),
        }
    };
    leash.0 = None;
    Ok((u8::try_from(code).unwrap_or(255), String::new()))
}

/// Ends the command when it is dropped.
struct Leash(Option<(ExecHandle, String)>);

impl Drop for Leash {
    fn drop(&mut self) {
        let Some((handle, container)) = self.0.take() else { return };
        // Not an actor's task: it may be the actor's end that brings this about.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { end(&handle, &container).await });
        }
    }
}

async fn end(handle: &ExecHandle, container: &str) {
    let pid = match handle.pid().await {
        Ok(Some(pid)) => pid,
        Ok(None) => return,
        Err(error) => {
            return tracing::warn!(container, %error, "a command may go on in its container");
        }
    };
    let mut signal = Signal::HUP;
    for look in 0..2 * LOOKS {
        if look == LOOKS {
            signal = Signal::KILL;
        }
        let (group, now) = (container.to_owned(), signal);
        let told = tokio::task::spawn_blocking(move || signal_session(pid, &group, now)).await;
        match told {
            Ok(0) if look == 0 => {
                return tracing::warn!(
                    container,
                    pid,
                    "a command goes on in its container: its process is not to be seen from here"
                );
            }
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
        if signal == Signal::HUP {
            signal = Signal::CONT;
        }
    }
}

/// Signals the processes of a container that are of a session; how many there are.
fn signal_session(leader: u32, container: &str, signal: Signal) -> usize {
    let mut told = 0;
    for pid in process::of_session(leader) {
        let Some(raw) = process::to_pid(pid) else { continue };
        let Ok(handle) = rustix::process::pidfd_open(raw, PidfdFlags::empty()) else { continue };
        // After the handle is open, the pid cannot be another's.
        if !process::is_there(pid) || !is_in_container(pid, container) {
            continue;
        }
        told += 1;
        let _ = rustix::process::pidfd_send_signal(&handle, signal);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_ends_with_127_and_one_that_may_not_run_with_126() {
        let nope = r#"exec: "nope": executable file not found in $PATH: OCI runtime"#;
        assert_eq!(not_run(nope.into()).0, 127);
        assert_eq!(not_run("stat /nope: no such file or directory".into()).0, 127);
        assert_eq!(not_run(r#"exec: "/etc": permission denied"#.into()).0, 126);
    }
}
