//! Changing what is agreed.

use std::time::Duration;

use weft_link::Reply;
use weft_protocol::{Command, Proposal, Propose, RolloutStep};
use weft_supervision::{Handle, Scope};
use weft_wire::{Caller, Failure, FailureKind, Message, RequestId};

use super::route::{ASK_AGAIN, Route, WITHIN};
use super::{Registry, Then, removal};

impl Handle<Propose> for Registry {
    fn handle(&mut self, message: Propose, reply: Reply<Propose>, scope: &Scope<Self>) {
        if let Some(refusal) = refused_here(&message.command) {
            reply.fail(refusal);
            return;
        }
        let route = self.route(scope);
        let meta = reply.meta().clone();
        let removes = matches!(message.command, Command::RemoveNode { .. });
        let members = self.members.clone();
        let (clock, caller) = (scope.clock(), reply.caller().clone());
        let actor = scope.clone();
        scope.spawn(async move {
            // One whose storage has failed says so, rather than that nobody leads.
            if route.leads() || route.group.status().failed.is_some() {
                let within =
                    meta.deadline.map_or(WITHIN, |end| end.saturating_duration_since(clock.now()));
                let led = async {
                    // Until it is agreed, the leader's own steps keep out: they would undo it.
                    let mut held = None;
                    if removes {
                        let free = tokio::time::timeout(within, members.lock_owned()).await;
                        held = Some(free.map_err(|_| being_changed())?);
                        // Half of the time is for the answer to arrive in.
                        let half = within / 2;
                        removal::prepare(&message.command, &route, &actor, half).await?;
                    }
                    let _held = held;
                    let proposal = message.clone().stamp(clock.wall(), caller, route.node);
                    route.lead(&proposal, within).await
                };
                match led.await {
                    // Not the leader after all: nothing was done.
                    Err(failure) if failure.kind == FailureKind::Unavailable => {}
                    done => {
                        shown(&actor).await;
                        return reply.send(done);
                    }
                }
            }
            // A removal takes its time, and asking again does not shorten it.
            let patience = if removes { Duration::MAX } else { ASK_AGAIN };
            let done = route.forward_patiently(message, &meta, patience).await;
            if let Ok(applied) = &done {
                route.seen(applied.index).await;
                shown(&actor).await;
            }
            reply.result(done);
        });
    }
}

/// Waits until the rest of this node has been told: whoever is answered finds it so here.
async fn shown(actor: &Scope<Registry>) {
    let (done, told) = tokio::sync::oneshot::channel();
    actor.post(move |registry, scope| {
        // One entry brings the answers of many proposals.
        if registry.published != registry.state().index() {
            registry.changed(scope);
        }
        let _ = done.send(());
    });
    let _ = told.await;
}

/// Membership and trust have messages of their own, which check what only they can.
fn refused_here(command: &Command) -> Option<Failure> {
    let instead = match command {
        Command::Deploy { .. }
        | Command::SetDesired { .. }
        | Command::Restart { .. }
        | Command::Undeploy { .. }
        | Command::Scale { .. }
        | Command::Rollback { .. }
        | Command::Purge { .. }
        | Command::Rollout { step: RolloutStep::Pause(_) | RolloutStep::Resume, .. }
        | Command::Drain { .. }
        | Command::LabelNode { .. }
        | Command::RemoveNode { .. } => return None,
        Command::Bootstrap { .. } => "`weft init`",
        Command::AddNode { .. } => "`weft join`",
        Command::UpdateNode { .. } => "the node's own report",
        Command::AddToken { .. } => "`weft node token`",
        Command::PutOperator { .. } => "`weft login`",
        Command::Place { .. } => "the node that leads, for the reasons `weft status` prints",
        Command::TrustIssuer { .. }
        | Command::RaiseFormat { .. }
        | Command::FoundGroup { .. }
        | Command::Rollout { .. }
        | Command::Operations { .. } => "the node that leads",
    };
    Some(
        Failure::new(FailureKind::Forbidden, "this change cannot be proposed directly")
            .help(format!("it is made by {instead}")),
    )
}

impl Registry {
    pub(super) fn route(&self, scope: &Scope<Self>) -> Route {
        Route {
            fabric: scope.fabric().clone(),
            group: self.agreement.group.clone(),
            control: self.agreement.control.clone(),
            node: self.config.seed.node,
            name: self.name().to_owned(),
            seeds: self.config.seed.peers.iter().map(|peer| peer.id).collect(),
        }
    }

    /// Has a proposal agreed and calls `then` with what it did, or why not.
    pub(super) fn propose(&mut self, proposal: Proposal, then: Then, scope: &Scope<Self>) {
        let route = self.route(scope);
        scope.spawn_then(
            async move { route.lead(&proposal, WITHIN).await },
            move |registry, answer, scope| {
                if answer.is_ok() {
                    registry.changed(scope);
                }
                then(registry, answer, scope);
            },
        );
    }

    /// A proposal of this node's own making.
    pub(super) fn own(&self, command: Command, caller: Caller, scope: &Scope<Self>) -> Proposal {
        Proposal {
            request: RequestId::new(uuid::Uuid::new_v4()),
            at: scope.wall(),
            caller,
            leader: self.config.seed.node,
            command,
        }
    }

    /// Sends a request on to the node that leads, on behalf of whoever sent it.
    pub(super) fn forward<M: Message>(&self, message: M, reply: Reply<M>, scope: &Scope<Self>) {
        let route = self.route(scope);
        let meta = reply.meta().clone();
        scope.spawn(async move { reply.result(route.forward(message, &meta).await) });
    }
}

fn being_changed() -> Failure {
    Failure::new(FailureKind::Conflict, "the members are being changed already")
        .help("try again when that is done: `weft cluster status` shows the voters")
}
