//! What the root supervisor answers. It is no actor: it runs on the shared pool, so no actor that
//! blocks its thread can keep people from seeing it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, oneshot};
use weft_link::{Letter, Mailbox, Refusal, Reply, Rule};
use weft_protocol::{ActorTree, ChaosActor, Ping, Pong, RestartActor};
use weft_wire::{Failure, FailureKind, Message, MessageId};

use crate::core::{Core, Registered};
use crate::office::Command;

/// Requests that may be in progress.
const AT_ONCE: usize = 256;
/// A restart has so long to answer again.
const RESTART_WITHIN: Duration = Duration::from_secs(15);

type Answer = Arc<dyn Fn(Letter) + Send + Sync>;

/// The mailbox of `ActorKind::Node`.
pub(crate) struct NodeMailbox {
    core: Weak<Core>,
    answers: ArcSwap<HashMap<MessageId, (Rule, Answer)>>,
    slots: Arc<Semaphore>,
}

impl NodeMailbox {
    pub(crate) fn new(core: &Arc<Core>) -> Arc<Self> {
        let mailbox = Arc::new(Self {
            core: Arc::downgrade(core),
            answers: ArcSwap::default(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        });
        let with = || Arc::downgrade(core);
        let core = with();
        mailbox.answer(move |_: Ping, reply| {
            if let Some(core) = core.upgrade() {
                reply.ok(Pong { node: core.fabric.node(), clock: core.clock.wall() });
            }
        });
        let core = mailbox.core.clone();
        mailbox.answer(move |_: ActorTree, reply| {
            if let Some(core) = core.upgrade() {
                reply.ok(core.rows());
            }
        });
        let core = mailbox.core.clone();
        mailbox.answer(move |message: RestartActor, reply| {
            if let Some(core) = core.upgrade() {
                restart(&core, &message.path, reply);
            }
        });
        let core = mailbox.core.clone();
        mailbox.answer(move |message: ChaosActor, reply| {
            if let Some(core) = core.upgrade() {
                reply.send(chaos(&core, &message));
            }
        });
        mailbox
    }

    pub(crate) fn answer<M: Message>(&self, f: impl Fn(M, Reply<M>) + Send + Sync + 'static) {
        let answer: Answer = Arc::new(move |letter| {
            if let Some((message, reply)) = letter.open::<M>() {
                f(message, reply);
            }
        });
        self.answers.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.insert(M::ID, (Rule::of::<M>(), answer.clone()));
            new
        });
    }
}

impl Mailbox for NodeMailbox {
    fn rule(&self, id: MessageId) -> Option<Rule> {
        self.answers.load().get(&id).map(|(rule, _)| *rule)
    }

    fn post(&self, letter: Letter) -> Result<(), (Refusal, Letter)> {
        let Some(core) = self.core.upgrade() else { return Err((Refusal::Gone, letter)) };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return Err((Refusal::Full, letter));
        };
        let answer = self.answers.load().get(&letter.id()).map(|(_, answer)| answer.clone());
        core.handle.spawn(async move {
            match answer {
                Some(answer) => answer(letter),
                None => {
                    let id = letter.id().0;
                    letter.refuse(&weft_wire::AskError::Unsupported { id, version: 0 });
                }
            }
            drop(slot);
        });
        Ok(())
    }
}

fn find(core: &Core, path: &str) -> Result<Registered, Failure> {
    core.find(path).ok_or_else(|| {
        Failure::new(FailureKind::NotFound, format!("no actor `{path}`"))
            .node(core.fabric.name())
            .help(format!("the actors of this node are: {}", core.paths().join(", ")))
    })
}

fn restart(core: &Arc<Core>, path: &str, reply: Reply<RestartActor>) {
    let actor = match find(core, path) {
        Ok(actor) => actor,
        Err(failure) => return reply.fail(failure),
    };
    let (done, restarted) = oneshot::channel();
    let _ = actor.office.send(Command::Restart { id: actor.id, done: Some(done) });
    let core = core.clone();
    let path = path.to_owned();
    core.handle.clone().spawn(async move {
        let failure = |kind, message: String| {
            Failure::new(kind, message)
                .node(core.fabric.name())
                .cause(actor.keeper.row().last_failure())
        };
        match tokio::time::timeout(RESTART_WITHIN, restarted).await {
            Ok(Ok(())) => reply.ok(()),
            Ok(Err(_)) => reply.fail(failure(
                FailureKind::Unavailable,
                format!("actor `{path}` is gone: its parent ended"),
            )),
            Err(_) => reply.fail(
                failure(
                    FailureKind::Timeout,
                    format!("actor `{path}` is not back after {} s", RESTART_WITHIN.as_secs()),
                )
                .help("see `weft actors` for what it is doing"),
            ),
        }
    });
}

fn chaos(core: &Core, message: &ChaosActor) -> Result<(), Failure> {
    if !core.chaos {
        return Err(Failure::new(FailureKind::Forbidden, "chaos is not enabled on this node")
            .node(core.fabric.name())
            .help("set `[chaos] enabled = true` in its node file and start it again"));
    }
    let actor = find(core, &message.path)?;
    if actor.keeper.chaos(message.kind) {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Unavailable, format!("actor `{}` is not running", message.path))
        .node(core.fabric.name())
        .cause(actor.keeper.row().last_failure()))
}
