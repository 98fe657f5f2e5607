//! Commands that operators run beside components (`weft exec`): in the container, or on this node
//! as the component's process runs.
//!
//! The subscription is the command's life: when its consumer is gone, for whatever reason, the
//! command is ended. Output is read no faster than it is taken; input comes in pieces (`input`)
//! that find the command by the id its caller chose.

mod container;
mod input;
mod process;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use weft_link::{ItemSink, Reply};
use weft_protocol::{
    ComponentState, Driver, EXEC_PIECE, Exec, ExecInput, ExecItem, ExecResize, ExecSize, Octets,
};
use weft_supervision::{Handle, Scope, Serve};
use weft_wire::{AskError, Failure, FailureKind, Identity};

use crate::actor::{Runtime, Shared};
use input::Feed;

/// Commands of operators on one node at one time.
const MOST: usize = 64;
/// A piece of input waits so long for a command that does not read, before it is to be sent again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A command that runs.
pub(crate) struct Session {
    caller: Identity,
    feed: Feed,
    size: watch::Sender<ExecSize>,
}

/// What a driver is given besides the command.
struct Wires {
    /// Ends after the last piece.
    input: mpsc::Receiver<Vec<u8>>,
    size: watch::Receiver<ExecSize>,
}

/// How a command ended: exit code, and why it was not run.
type Outcome = (u8, String);

/// Takes the session off the list again.
struct Listed(Arc<Shared>, Uuid);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.execs.lock().remove(&self.1);
    }
}

impl Shared {
    fn session(&self, id: Uuid, caller: &Identity) -> Result<Arc<Session>, Failure> {
        let found = self.execs.lock().get(&id).cloned();
        // One of somebody else is none.
        found.filter(|session| session.caller == *caller).ok_or_else(|| {
            Failure::new(FailureKind::NotFound, "this command does not run here (any more)")
                .node(&self.config.node_name)
                .step("exec")
        })
    }
}

impl Handle<ExecInput> for Runtime {
    fn handle(&mut self, message: ExecInput, reply: Reply<ExecInput>, scope: &Scope<Self>) {
        let session = match self.shared.session(message.id, &reply.caller().identity) {
            Ok(session) => session,
            Err(failure) => return reply.fail(failure),
        };
        if message.bytes.0.len() > EXEC_PIECE {
            let text = format!("a piece of input has at most {EXEC_PIECE} bytes");
            return reply.fail(Failure::new(FailureKind::Invalid, text).step("exec"));
        }
        scope.spawn(async move { reply.send(session.feed.take(message, PATIENCE).await) });
    }
}

impl Handle<ExecResize> for Runtime {
    fn handle(&mut self, message: ExecResize, reply: Reply<ExecResize>, _: &Scope<Self>) {
        match self.shared.session(message.id, &reply.caller().identity) {
            Ok(session) => {
                session.size.send_replace(message.size);
                reply.ok(());
            }
            Err(failure) => reply.fail(failure),
        }
    }
}

impl Serve<Exec> for Runtime {
    fn serve(&mut self, message: Exec, sink: ItemSink<Exec>, scope: &Scope<Self>) {
        let shared = self.shared.clone();
        let node = scope.fabric().node();
        scope.spawn(async move {
            if let Err(failure) = serve(&shared, node, message, &sink).await {
                let failure = failure.node(&shared.config.node_name).step("exec");
                sink.fail(AskError::Failed(failure)).await;
            }
        });
    }
}

async fn serve(
    shared: &Arc<Shared>,
    node: weft_wire::NodeId,
    message: Exec,
    sink: &ItemSink<Exec>,
) -> Result<(), Failure> {
    let Exec { id, key, command } = message;
    if let Some(problem) = command.problem() {
        return Err(Failure::new(FailureKind::Invalid, problem));
    }
    let status = shared.status_of(&key).filter(|status| {
        use ComponentState::{Running, Starting, Stopping};
        matches!(status.state, Running | Starting | Stopping)
            && (status.pid != 0 || !status.container.is_empty())
    });
    let Some(status) = status else {
        return Err(Failure::new(FailureKind::Conflict, format!("{key} does not run here"))
            .service(&key.service)
            .component(&key.component)
            .help("`weft ps` shows what runs where"));
    };
    let (feed, input) = Feed::new(command.stdin);
    let first = command.tty.unwrap_or(ExecSize { columns: 80, rows: 24 });
    let (size, sizes) = watch::channel(first);
    let session = Session { caller: sink.meta().caller.identity.clone(), feed, size };
    {
        let mut execs = shared.execs.lock();
        if execs.len() >= MOST {
            let text = format!("{MOST} commands run on this node already");
            return Err(Failure::new(FailureKind::Exhausted, text).help("end one of them first"));
        }
        if execs.contains_key(&id) {
            return Err(Failure::new(FailureKind::Conflict, "a command of that id runs already"));
        }
        execs.insert(id, Arc::new(session));
    }
    let _listed = Listed(shared.clone(), id);
    let name = shared.config.node_name.clone();
    if sink.send(ExecItem::Started { node, name, key: key.clone() }).await.is_err() {
        return Ok(());
    }
    let wires = Wires { input, size: sizes };
    let run = async {
        match status.driver {
            Driver::Process => process::run(shared, &key, command, sink, wires).await,
            Driver::Container => {
                container::run(shared, &status.container, command, sink, wires).await
            }
        }
    };
    // Nobody listens any more: what runs is dropped, and ends with that.
    let outcome = tokio::select! {
        outcome = run => outcome,
        () = sink.closed() => return Ok(()),
        () = shared.forgotten(&key) => {
            let text = format!("{key} was removed from this node, and the command ended with it");
            Err(Failure::new(FailureKind::Conflict, text))
        }
    };
    let (code, reason) =
        outcome.map_err(|failure| failure.service(&key.service).component(&key.component))?;
    let _ = sink.send(ExecItem::Ended { code, reason }).await;
    Ok(())
}

/// Passes output on, in pieces; waits while the consumer is behind. `false`: it is gone.
async fn pass(sink: &ItemSink<Exec>, error: bool, bytes: &[u8]) -> bool {
    for piece in bytes.chunks(EXEC_PIECE) {
        let item = ExecItem::Output { error, bytes: Octets(piece.to_vec()) };
        if sink.send(item).await.is_err() {
            return false;
        }
    }
    true
}
