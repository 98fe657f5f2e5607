//! Changing what is agreed.

use std::time::Duration;

use weft_link::Reply;
use weft_protocol::{Command, Proposal, Propose, RolloutStep};
use weft_supervision::{Handle, Scope};
use weft_wire::{Caller, Failure, FailureKind, Message, RequestId};

use super::route::{Route, WITHIN};
use super::{Registry, Then};

impl Handle<Propose> for Registry {
    fn handle(&mut self, message: Propose, reply: Reply<Propose>, scope: &Scope<Self>) {
        if let Some(refusal) = refused_here(&message.command) {
            reply.fail(refusal);
            return;
        }
        let route = self.route(scope);
        let meta = reply.meta().clone();
        let removal = matches!(message.command, Command::RemoveNode { .. });
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
                    if removal {
                        let free = tokio::time::timeout(within, members.lock_owned()).await;
                        held = Some(free.map_err(|_| being_changed())?);
                        Before::of(&message.command, &actor).await?.take(&route, &actor).await?;
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
            let done = route.forward(message, &meta).await;
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

    /// What has to happen before a change is proposed: a voter that is to be removed hands its
    /// vote on first, so that no majority is lost with it, and nobody votes whose issuing CA is not
    /// trusted.
    fn before(&self, command: &Command, scope: &Scope<Self>) -> Before {
        let Command::RemoveNode { id, force } = command else { return Before::Nothing };
        let status = self.agreement.group.status();
        let refused_anyway = {
            let state = self.state();
            state.node(*id).is_none() || !force && !state.assignments(*id).is_empty()
        };
        if refused_anyway || !self.leads() || !status.voters.contains(id) {
            return Before::Nothing;
        }
        let facts = self.facts(scope);
        let candidates: Vec<_> =
            facts.candidates.into_iter().filter(|candidate| candidate.id != *id).collect();
        let voters = crate::steward::voters::choose(
            &candidates,
            &status.voters,
            // Who is to go goes now.
            Duration::ZERO,
        );
        let trust = voters
            .iter()
            .filter(|id| facts.issuers.contains(id) && !facts.trusted.contains(id))
            .map(|id| {
                let caller = Caller::node(self.config.seed.node);
                self.own(Command::TrustIssuer { node: *id }, caller, scope)
            })
            .collect();
        let learners = candidates.iter().map(|c| c.id).filter(|c| !voters.contains(c)).collect();
        let live = candidates.iter().filter(|c| c.live).map(|c| c.id).collect();
        Before::Voters { trust, voters, learners, live }
    }
}

fn being_changed() -> Failure {
    Failure::new(FailureKind::Conflict, "the members are being changed already")
        .help("try again when that is done: `weft cluster status` shows the voters")
}

/// See [`Registry::before`].
enum Before {
    Nothing,
    Voters {
        /// Agreed first.
        trust: Vec<Proposal>,
        voters: std::collections::BTreeSet<weft_wire::NodeId>,
        learners: std::collections::BTreeSet<weft_wire::NodeId>,
        live: std::collections::BTreeSet<weft_wire::NodeId>,
    },
}

impl Before {
    /// As things are now.
    async fn of(command: &Command, actor: &Scope<Registry>) -> Result<Self, Failure> {
        let (found, answer) = tokio::sync::oneshot::channel();
        let command = command.clone();
        actor.post(move |registry, scope| {
            let _ = found.send(registry.before(&command, scope));
        });
        answer.await.map_err(|_| {
            Failure::new(FailureKind::Unavailable, "the registry was restarted meanwhile")
        })
    }

    async fn take(self, route: &Route, actor: &Scope<Registry>) -> Result<(), Failure> {
        let Self::Voters { trust, voters, learners, live } = self else { return Ok(()) };
        if voters.is_empty() {
            return Err(Failure::new(
                FailureKind::Conflict,
                "no other node could take its vote over",
            )
            .help("wait until another node is ready, `weft cluster status` says which"));
        }
        for proposal in trust {
            route.lead(&proposal, WITHIN).await?;
        }
        let before = route.group.status().voters.clone();
        let set = route.group.set_voters(voters.clone(), learners, &live).await;
        set.map_err(|error| route.failure(&error))?;
        actor.post(move |registry, scope| {
            let why = "a voter is to be removed, and hands its vote on first".to_owned();
            registry.voters_changed(&before, &voters, why, scope);
        });
        Ok(())
    }
}
