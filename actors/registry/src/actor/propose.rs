//! Changing what is agreed: apply, write, publish, answer.

use std::sync::Arc;
use std::time::Duration;

use weft_link::{Call, Reply};
use weft_protocol::{Command, Proposal, Propose};
use weft_store::StoreError;
use weft_supervision::{Handle, Scope};
use weft_wire::{ActorKind, Address, AskError, Caller, Failure, FailureKind, Message, RequestId};

use super::{Registry, Then};
use crate::state::{ClusterState, SNAPSHOT_VERSION};
use crate::store::RegistryError;

/// A snapshot is stored, and the log cut, every so many changes.
pub(super) const CHECKPOINT_EVERY: u64 = 1_000;
/// How long a forwarded request may take when its sender did not say.
const FORWARD_WITHIN: Duration = Duration::from_secs(10);

impl Handle<Propose> for Registry {
    fn handle(&mut self, message: Propose, reply: Reply<Propose>, scope: &Scope<Self>) {
        if let Some(refusal) = refused_here(&message.command) {
            reply.fail(refusal);
            return;
        }
        if !self.config.applies() {
            self.forward(message, reply, scope);
            return;
        }
        let proposal = message.stamp(scope.wall(), reply.caller().clone());
        self.propose(proposal, Box::new(move |_, answer, _| reply.send(answer)), scope);
    }
}

/// Membership and trust have messages of their own, which check what only they can.
fn refused_here(command: &Command) -> Option<Failure> {
    let instead = match command {
        Command::Deploy { .. }
        | Command::SetDesired { .. }
        | Command::Restart { .. }
        | Command::Undeploy { .. }
        | Command::RemoveNode { .. } => return None,
        Command::Bootstrap { .. } => "`weft init`",
        Command::AddNode { .. } => "`weft join`",
        Command::UpdateNode { .. } => "the node's own report",
        Command::AddToken { .. } => "`weft node token`",
        Command::PutOperator { .. } => "`weft login`",
    };
    Some(
        Failure::new(FailureKind::Forbidden, "this change cannot be proposed directly")
            .help(format!("it is made by {instead}")),
    )
}

impl Registry {
    /// Applies a proposal and calls `then` once it is durable and published, or refused.
    pub(super) fn propose(&mut self, proposal: Proposal, then: Then, scope: &Scope<Self>) {
        let index = self.tip.index().saturating_add(1);
        match self.tip.apply(&proposal, index) {
            Err(refusal) => then(self, Err(refusal), scope),
            Ok((applied, _)) if applied.index <= self.committed.index() => {
                then(self, Ok(applied), scope);
            }
            Ok((applied, _)) => {
                if applied.index == index {
                    self.queue.push((index, Arc::new(proposal)));
                }
                self.waiting.entry(applied.index).or_default().push((applied, then));
                self.flush(scope);
            }
        }
    }

    /// A proposal of this node's own making.
    pub(super) fn own(&self, command: Command, caller: Caller, scope: &Scope<Self>) -> Proposal {
        Proposal {
            request: RequestId::new(uuid::Uuid::new_v4()),
            at: scope.wall(),
            caller,
            command,
        }
    }

    /// Gives the writer what waits, unless it is busy: then its end does.
    pub(super) fn flush(&mut self, scope: &Scope<Self>) {
        if *self.writing.borrow() || self.queue.is_empty() {
            return;
        }
        self.writing.send_replace(true);
        let batch = std::mem::take(&mut self.queue);
        // The tip is exactly what stands after this batch.
        let due = self.tip.index().saturating_sub(self.checkpoint) >= CHECKPOINT_EVERY;
        let snapshot = due.then(|| self.tip.snapshot()).and_then(|made| match made {
            Ok(bytes) => Some((self.tip.index(), SNAPSHOT_VERSION, bytes)),
            Err(error) => {
                tracing::error!(%error, "no snapshot of desired state: its log grows");
                None
            }
        });
        let (log, ghost) = (self.log.clone(), scope.clone());
        scope.spawn_then(
            async move {
                let checkpoint = snapshot.as_ref().map(|(index, ..)| *index);
                // An abandoned incarnation must not write behind its successor's back.
                let result = if ghost.epoch().is_current() {
                    log.append(&batch, snapshot).await
                } else {
                    Err(RegistryError::Superseded)
                };
                (batch, checkpoint, result)
            },
            |registry, (batch, checkpoint, result), scope| match result {
                Ok(()) => registry.written(batch, checkpoint, scope),
                Err(error) => registry.not_written(&error, scope),
            },
        );
    }

    fn written(
        &mut self,
        batch: Vec<(u64, Arc<Proposal>)>,
        checkpoint: Option<u64>,
        scope: &Scope<Self>,
    ) {
        self.writing.send_replace(false);
        self.checkpoint = checkpoint.unwrap_or(self.checkpoint);
        let mut changes = Vec::new();
        for (index, proposal) in batch {
            match self.committed.apply(&proposal, index) {
                Ok((_, changed)) => changes.extend(changed),
                Err(failure) => {
                    // What the tip took, this must take: a defect. What is durable decides.
                    scope.fail(format!("change {index} does not apply twice: {failure}"));
                    return;
                }
            }
        }
        let index = self.committed.index();
        self.publish(&changes, scope);
        self.head.send_replace(index);
        let later = self.waiting.split_off(&index.saturating_add(1));
        for (applied, then) in std::mem::replace(&mut self.waiting, later).into_values().flatten() {
            then(self, Ok(applied), scope);
        }
        self.flush(scope);
    }

    fn not_written(&mut self, error: &RegistryError, scope: &Scope<Self>) {
        tracing::error!(%error, "a change of desired state could not be stored");
        self.writing.send_replace(false);
        let failure = error.failure(self.name(), "store the change");
        // Everything that waits stood on what was not written.
        self.queue.clear();
        self.tip = self.committed.clone();
        for (_, then) in std::mem::take(&mut self.waiting).into_values().flatten() {
            then(self, Err(failure.clone()), scope);
        }
        if matches!(error, RegistryError::Store(StoreError::Conflict { .. })) {
            // The disk knows changes that memory does not: start again from the disk.
            scope.fail(error);
        }
    }

    /// Takes a snapshot as all there is; the follower's way. What is being written is written
    /// first: its end must not find another state than the one it began on.
    pub(super) fn replace(
        &mut self,
        version: u16,
        bytes: Vec<u8>,
        then: Then,
        scope: &Scope<Self>,
    ) {
        if *self.writing.borrow() {
            let mut writing = self.writing.subscribe();
            scope.spawn_then(
                async move {
                    let _ = writing.wait_for(|writing| !writing).await;
                },
                // Another batch may have begun in between: it looks again.
                move |registry, (), scope| registry.replace(version, bytes, then, scope),
            );
            return;
        }
        let state = match ClusterState::restore(version, &bytes) {
            Ok(state) => state,
            Err(error) => {
                let error = RegistryError::from(error);
                return then(self, Err(error.failure(self.name(), "read the snapshot")), scope);
            }
        };
        self.writing.send_replace(true);
        let (log, ghost) = (self.log.clone(), scope.clone());
        scope.spawn_then(
            async move {
                if !ghost.epoch().is_current() {
                    return Err(RegistryError::Superseded);
                }
                log.replace(state.index(), version, bytes).await.map(|()| state)
            },
            move |registry, result, scope| {
                registry.writing.send_replace(false);
                match result {
                    Ok(state) => {
                        let index = state.index();
                        // What came meanwhile stood on what is gone.
                        registry.queue.clear();
                        let waiting = std::mem::take(&mut registry.waiting);
                        registry.tip = state.clone();
                        registry.committed = state;
                        registry.checkpoint = index;
                        registry.assigned = 0;
                        if let Err(error) = registry.publish_all(scope) {
                            tracing::error!(%error, "the trust bundle cannot be used");
                        }
                        registry.assign(scope);
                        registry.report(scope);
                        registry.head.send_replace(index);
                        for (_, then) in waiting.into_values().flatten() {
                            let failure =
                                Failure::new(FailureKind::Conflict, "replaced by a snapshot");
                            then(registry, Err(failure.node(registry.name())), scope);
                        }
                        let applied = weft_protocol::Applied { index, revision: 0, changed: true };
                        then(registry, Ok(applied), scope);
                    }
                    Err(error) => {
                        let failure = error.failure(registry.name(), "store the snapshot");
                        then(registry, Err(failure), scope);
                        registry.flush(scope);
                    }
                }
            },
        );
    }

    /// Sends a request on to the node that applies changes, on behalf of whoever sent it.
    pub(super) fn forward<M: Message>(&self, message: M, reply: Reply<M>, scope: &Scope<Self>) {
        let leader = scope.fabric().directory().leader;
        let meta = reply.meta();
        // A peer that takes this node for the leader must not be sent round in a circle.
        if leader.is_none_or(|leader| leader == self.config.seed.node)
            || meta.from.is_some_and(|from| Some(from) == leader)
        {
            let name = self.name().to_owned();
            reply.fail(
                Failure::new(
                    FailureKind::Unavailable,
                    format!("{name} does not apply changes, and does not know which node does"),
                )
                .node(name)
                .help("wait until it has caught up with the cluster, or use another node"),
            );
            return;
        }
        let within = meta
            .deadline
            .map_or(FORWARD_WITHIN, |deadline| deadline.saturating_duration_since(scope.now()));
        let call = Call::on_behalf(meta, within);
        let fabric = scope.fabric().clone();
        let leader_name = self.leader_name();
        scope.spawn(async move {
            let answer = fabric.ask(Address::leader(ActorKind::Registry), message, call).await;
            reply.result(answer.map_err(|error| unreachable_leader(error, &leader_name)));
        });
    }

    pub(super) fn leader_name(&self) -> String {
        self.committed.leader().map_or_else(
            || self.config.seed.peers.first().map_or_else(String::new, |peer| peer.name.clone()),
            |node| node.name.clone(),
        )
    }
}

/// Says what a silent leader means for the request.
fn unreachable_leader(error: AskError, leader: &str) -> AskError {
    let (kind, cause) = match &error {
        AskError::Unreachable(cause) => (FailureKind::Unavailable, cause.clone()),
        AskError::Timeout => (FailureKind::Timeout, "it did not answer in time".to_owned()),
        _ => return error,
    };
    AskError::Failed(
        Failure::new(
            kind,
            format!("{leader}, which applies the cluster's changes, cannot be reached"),
        )
        .node(leader)
        .step("forward the change")
        .cause(cause)
        .help(format!(
            "start weftd on {leader}, then try again; reading and what runs are not affected"
        )),
    )
}
