//! The task around the machine: clock, fabric, hosts.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use weft_link::{Call, Fabric, Reply};
use weft_wire::{ActorKind, Address, Identity, Message, NodeId};

use super::machine::{Effect, Input, Machine};
use super::times::Times;
use super::wire::{Gossip, Leave, Life, Suspicion};
use super::{Liveness, Members, Membership, host};
use crate::door::Door;

/// What waits to be handled; beyond it is dropped, as a network would.
const INBOX: usize = 4096;
/// A tell has no answer to wait for; the links want a number.
const TELL: Duration = Duration::from_secs(1);
/// Nobody is waited for longer when this node says good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// Ends the task.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) back_in: Option<Duration>,
    pub(super) done: oneshot::Sender<()>,
}

struct Shell {
    fabric: Fabric,
    door: Door,
    machine: Machine,
    members: watch::Sender<Arc<Members>>,
    inbox: mpsc::Sender<Input>,
    probes: JoinSet<()>,
    probe_within: Duration,
}

pub(super) fn start(
    runtime: &Handle,
    fabric: Fabric,
    door: &Door,
    incarnation: u64,
    times: Times,
) -> Membership {
    let own = Life { node: fabric.node(), incarnation };
    let seed = RandomState::new().hash_one(own.node);
    let machine = Machine::new(own, times, seed, fabric.clock().now());
    let (members, watched) = watch::channel(machine.members());
    let (known_sender, known) = watch::channel(Vec::new());
    let (stop_sender, stop) = mpsc::channel(1);
    let (inbox, arrived) = mpsc::channel(INBOX);
    serve(door, &inbox, Input::Gossip);
    serve(door, &inbox, Input::Suspicion);
    serve(door, &inbox, Input::Leave);
    let shell = Shell {
        fabric,
        door: door.clone(),
        machine,
        members,
        inbox,
        probes: JoinSet::new(),
        probe_within: times.host_every * 4,
    };
    runtime.spawn(shell.run(arrived, known, stop));
    Membership { members: watched, known: Arc::new(known_sender), stop: stop_sender }
}

/// Hands messages of peers to the task; whoever is not a node was refused at the fabric's door.
fn serve<M: Message<Reply = ()>>(
    door: &Door,
    inbox: &mpsc::Sender<Input>,
    input: impl Fn(NodeId, M) -> Input + Send + Sync + 'static,
) {
    let inbox = inbox.clone();
    door.serve(move |message: M, reply: Reply<M>| {
        if let Identity::Node(from) = reply.caller().identity
            && inbox.try_send(input(from, message)).is_ok()
        {
            reply.ok(());
        }
    });
}

impl Shell {
    async fn run(
        mut self,
        mut arrived: mpsc::Receiver<Input>,
        mut known: watch::Receiver<Vec<NodeId>>,
        mut stop: mpsc::Receiver<Stop>,
    ) {
        let clock = self.fabric.clock();
        loop {
            let wait = self.machine.next().saturating_duration_since(clock.now());
            // What waits is read before anybody is judged by the clock.
            let input = tokio::select! {
                biased;
                stop = stop.recv() => {
                    if let Some(Stop { back_in, done }) = stop {
                        self.good_bye(back_in).await;
                        let _ = done.send(());
                    }
                    break;
                }
                Ok(()) = known.changed() => Input::Known(known.borrow_and_update().clone()),
                Some(input) = arrived.recv() => input,
                () = tokio::time::sleep(wait) => Input::Tick,
            };
            for effect in self.machine.handle(clock.now(), input) {
                self.carry_out(effect);
            }
            while self.probes.try_join_next().is_some() {}
        }
        self.door.forget::<Gossip>();
        self.door.forget::<Suspicion>();
        self.door.forget::<Leave>();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Gossip(gossip) => self.tell(gossip.to.node, gossip),
            Effect::Suspicion(suspicion) => self.tell(suspicion.life.node, suspicion),
            Effect::ProbeHost(node) => self.probe(node),
            Effect::Changed => {
                let new = self.machine.members();
                let old = self.members.send_replace(new.clone());
                for member in new.iter() {
                    let before = old.get(member.id).map(|member| member.liveness);
                    if before != Some(member.liveness) {
                        tracing::info!(
                            target: "weft::membership", node = %member.id, ?before,
                            now = ?member.liveness, incarnation = member.incarnation, "member"
                        );
                    }
                }
            }
        }
    }

    /// Never waits: without a link the fabric dials and keeps a bounded queue, or refuses while
    /// the last dial failed.
    fn tell<M: Message>(&self, node: NodeId, message: M) {
        let to = Address::on(ActorKind::Agreement, node);
        if let Err(error) = self.fabric.tell(to, message, &Call::within(TELL)) {
            tracing::trace!(target: "weft::membership", %node, %error, "not told");
        }
    }

    /// Without an address nothing is asked, and no answer is silence.
    fn probe(&mut self, node: NodeId) {
        let directory = self.fabric.directory();
        let Some(address) = directory.nodes.get(&node).and_then(|entry| entry.address) else {
            return;
        };
        let (inbox, within) = (self.inbox.clone(), self.probe_within);
        self.probes.spawn(async move {
            let answer = host::probe(address, within).await;
            let _ = inbox.send(Input::Host(node, answer)).await;
        });
    }

    /// From here on nothing is heard any more, so nobody can make this node rise again.
    async fn good_bye(&self, back_in: Option<Duration>) {
        let members = self.machine.members();
        let own = self.fabric.node();
        let incarnation = members.get(own).map_or(0, |member| member.incarnation);
        let back_in_ms =
            back_in.map(|back_in| u64::try_from(back_in.as_millis()).unwrap_or(u64::MAX));
        let leave = Leave { incarnation, back_in_ms };
        let there = |member: &&super::Member| {
            member.id != own && matches!(member.liveness, Liveness::Alive | Liveness::Suspect)
        };
        let told = members.iter().filter(there).map(|member| {
            let to = Address::on(ActorKind::Agreement, member.id);
            self.fabric.ask(to, leave, Call::within(GOOD_BYE))
        });
        for error in join_all(told).await.into_iter().filter_map(Result::err) {
            tracing::debug!(target: "weft::membership", %error, "good-bye not heard");
        }
    }
}
