//! Asking around: one request's caller, deadline and way to every node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use weft_link::{Call, Fabric, Items, Meta};
use weft_protocol::{
    AgreementView, ComponentKey, ComponentStatus, NodeState, ObservedState, ReadAgreement,
    ReadState, StateView,
};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Clock, Identity, Message, NodeId, Subscription,
    TraceContext,
};

/// How long one node may take to answer a question to all (orchestration §1).
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node may take that membership doubts: it either answers at once or not at all.
const DOUBTED_TIMEOUT: Duration = Duration::from_millis(500);

/// A node to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) name: String,
}

/// What this gateway remembers of answers; kept over its restarts, rebuilt by asking again.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    seen: Mutex<HashMap<NodeId, Instant>>,
    heard: Mutex<HashMap<NodeId, HashMap<ComponentKey, ObservedState>>>,
}

impl Memory {
    pub(crate) fn heard(&self, node: NodeId, key: &ComponentKey) -> ObservedState {
        let heard = self.heard.lock();
        heard.get(&node).and_then(|node| node.get(key)).copied().unwrap_or(ObservedState::Unknown)
    }

    pub(crate) fn hear(&self, node: NodeId, statuses: &[ComponentStatus]) {
        let states = statuses.iter().map(|s| (s.key.clone(), s.state.observed())).collect();
        self.heard.lock().insert(node, states);
    }

    pub(crate) fn seen(&self, node: NodeId) -> Option<Instant> {
        self.seen.lock().get(&node).copied()
    }

    fn see(&self, node: NodeId, now: Instant) {
        self.seen.lock().insert(node, now);
    }
}

fn new_trace() -> TraceContext {
    TraceContext::begin(uuid::Uuid::new_v4())
}

/// Asks on somebody's behalf.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) fabric: Fabric,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) memory: Arc<Memory>,
    caller: Option<Caller>,
    trace: TraceContext,
    until: Option<Instant>,
}

impl Asker {
    /// For this node itself.
    pub(crate) fn own(fabric: Fabric, clock: Arc<dyn Clock>, memory: Arc<Memory>) -> Self {
        Self { fabric, clock, memory, caller: None, trace: TraceContext::default(), until: None }
    }

    /// For whoever sent the message with `meta`. A node that asks is not forwarded (no node
    /// speaks for another): this one asks for itself then, with the same rights.
    pub(crate) fn on_behalf(&self, meta: &Meta) -> Self {
        let forward = !matches!(meta.caller.identity, Identity::Node(_));
        Self {
            caller: forward.then(|| meta.caller.clone()),
            // A request enters the cluster here; one without a trace gets its own.
            trace: if meta.trace.is_some() { meta.trace } else { new_trace() },
            until: meta.deadline,
            ..self.clone()
        }
    }

    /// Same, in a trace of its own: for what enters over HTTP.
    pub(crate) fn traced(&self) -> Self {
        Self { trace: new_trace(), ..self.clone() }
    }

    /// Same, for this node itself.
    pub(crate) fn myself(&self) -> Self {
        Self { caller: None, ..self.clone() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// At most `most`, and early enough that the answer still reaches the asker.
    fn call(&self, most: Duration) -> Call {
        let left = self.until.map(|until| until.saturating_duration_since(self.now()));
        Call {
            caller: self.caller.clone(),
            within: left.map_or(most, |left| most.min(left - left / 10)),
            trace: self.trace,
        }
    }

    /// Every node of the cluster, this one included, by name.
    pub(crate) fn members(&self) -> Vec<Member> {
        let directory = self.fabric.directory();
        let mut members: Vec<Member> = directory
            .nodes
            .values()
            .map(|entry| Member { id: entry.id, name: entry.name.clone() })
            .collect();
        if !directory.nodes.contains_key(&self.fabric.node()) {
            members.push(self.here());
        }
        members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        members
    }

    /// This node.
    pub(crate) fn here(&self) -> Member {
        Member { id: self.fabric.node(), name: self.fabric.name().to_owned() }
    }

    fn address(&self, actor: ActorKind, node: NodeId) -> Address {
        if node == self.fabric.node() { Address::here(actor) } else { Address::on(actor, node) }
    }

    /// Asks an actor of this node.
    pub(crate) async fn ask<M: Message>(
        &self,
        message: M,
        most: Duration,
    ) -> Result<M::Reply, AskError> {
        self.fabric.ask(Address::here(M::ACTOR), message, self.call(most)).await
    }

    /// Asks an actor of one node.
    pub(crate) async fn ask_on<M: Message>(
        &self,
        node: NodeId,
        message: M,
        most: Duration,
    ) -> Result<M::Reply, AskError> {
        let answer = self.fabric.ask(self.address(M::ACTOR, node), message, self.call(most)).await;
        if matches!(&answer, Ok(_) | Err(AskError::Failed(_))) {
            self.memory.see(node, self.now());
        }
        answer
    }

    /// Asks an actor of every node at once; one that is known to be lost is not waited for.
    pub(crate) async fn ask_all<M: Message + Clone>(
        &self,
        message: M,
    ) -> Vec<(Member, Result<M::Reply, AskError>)> {
        let gone = self.doubts().await;
        let (silent, members): (Vec<_>, Vec<_>) = self.members().into_iter().partition(|member| {
            gone.get(&member.id).is_some_and(|state| *state != NodeState::Suspect)
        });
        let doubted = |member: &Member| match gone.get(&member.id) {
            Some(NodeState::Suspect) => DOUBTED_TIMEOUT,
            _ => NODE_TIMEOUT,
        };
        let mut answers = self.ask_within(members, message, doubted).await;
        answers.extend(silent.into_iter().map(|member| {
            let why = gone.get(&member.id).copied().unwrap_or(NodeState::Lost);
            (member, Err(AskError::Unreachable(format!("its node is {why}"))))
        }));
        answers.sort_by(|(a, _), (b, _)| (&a.name, a.id).cmp(&(&b.name, b.id)));
        answers
    }

    /// The nodes that membership knows not to answer.
    pub(crate) async fn gone(&self) -> HashMap<NodeId, NodeState> {
        let mut gone = self.doubts().await;
        gone.retain(|_, state| *state != NodeState::Suspect);
        gone
    }

    /// Those, and the nodes that it doubts.
    async fn doubts(&self) -> HashMap<NodeId, NodeState> {
        let view = self.myself().agreement().await.unwrap_or_default();
        view.members
            .iter()
            .filter(|member| {
                matches!(
                    member.state,
                    NodeState::Suspect | NodeState::DaemonDown | NodeState::Lost | NodeState::Left
                )
            })
            .map(|member| (member.id, member.state))
            .collect()
    }

    /// Asks an actor of these nodes at once.
    pub(crate) async fn ask_each<M: Message + Clone>(
        &self,
        members: Vec<Member>,
        message: M,
    ) -> Vec<(Member, Result<M::Reply, AskError>)> {
        self.ask_within(members, message, |_| NODE_TIMEOUT).await
    }

    /// Asks an actor of each of these nodes at once, each for as long as is said.
    pub(crate) async fn ask_within<M: Message + Clone>(
        &self,
        members: Vec<Member>,
        message: M,
        within: impl Fn(&Member) -> Duration,
    ) -> Vec<(Member, Result<M::Reply, AskError>)> {
        join_all(members.into_iter().map(|member| {
            let message = message.clone();
            let within = within(&member);
            async move {
                let answer = self.ask_on(member.id, message, within).await;
                (member, answer)
            }
        }))
        .await
    }

    /// Subscribes to an actor of one node.
    pub(crate) async fn subscribe<S: Subscription>(
        &self,
        node: NodeId,
        message: S,
    ) -> Result<Items<S::Item>, AskError> {
        let call = self.call(NODE_TIMEOUT);
        let opened = self.fabric.subscribe(self.address(S::ACTOR, node), message, call);
        match tokio::time::timeout(NODE_TIMEOUT, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(AskError::Timeout),
        }
    }

    /// Membership and consensus as this node sees them.
    pub(crate) async fn agreement(&self) -> Result<AgreementView, AskError> {
        self.ask(ReadAgreement {}, NODE_TIMEOUT).await
    }

    /// Desired state as this node knows it.
    pub(crate) async fn state(&self) -> Result<StateView, AskError> {
        self.ask(ReadState { consistent: false }, NODE_TIMEOUT).await
    }
}
