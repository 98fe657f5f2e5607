//! What has to happen before the removal of a node is agreed: wherever it votes, it hands its vote
//! on first, so that no majority is lost with it and nothing that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use weft_agreement::{Group, Liveness, Membership};
use weft_link::Call;
use weft_protocol::{Command, LetGo, Proposal};
use weft_supervision::Scope;
use weft_wire::{ActorKind, Address, Caller, Failure, FailureKind, NodeId};

use super::Registry;
use super::route::{Route, WITHIN};
use crate::control::GROUP;
use crate::steward::voters;

/// A node says within so long what it leads.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Between two rounds.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Makes it safe to agree on `command`, if that removes a node, as the node that leads.
///
/// # Errors
/// [`Failure`]: it is not safe, and why; then the node votes where it did, or will again.
pub(super) async fn prepare(
    command: &Command,
    route: &Route,
    actor: &Scope<Registry>,
    within: Duration,
) -> Result<(), Failure> {
    let command = command.clone();
    let node = asked(actor, move |registry, _| registry.to_be_removed(&command)).await?;
    let Some(node) = node else { return Ok(()) };
    // Refused before anything is changed.
    asked(actor, move |registry, scope| registry.handover(node, scope)).await??;
    asked(actor, move |registry, _| registry.parting(node)).await?.wait(route, within).await?;
    // As things are by now.
    match asked(actor, move |registry, scope| registry.handover(node, scope)).await?? {
        Some(handover) => handover.take(route, actor).await,
        None => Ok(()),
    }
}

async fn asked<T: Send + 'static>(
    actor: &Scope<Registry>,
    question: impl FnOnce(&Registry, &Scope<Registry>) -> T + Send + 'static,
) -> Result<T, Failure> {
    let (found, answer) = oneshot::channel();
    actor.post(move |registry, scope| {
        let _ = found.send(question(registry, scope));
    });
    answer
        .await
        .map_err(|_| Failure::new(FailureKind::Unavailable, "the registry was restarted meanwhile"))
}

impl Registry {
    /// The node that the command removes, unless that will be refused, or is not this node's to do.
    fn to_be_removed(&self, command: &Command) -> Option<NodeId> {
        let Command::RemoveNode { id, force } = command else { return None };
        let state = self.state();
        let refused = state.node(*id).is_none()
            || state.nodes().len() == 1
            || !force && !state.assignments(*id).is_empty();
        (!refused && self.leads()).then_some(*id)
    }

    /// Who votes in `control` instead of that node; `None`: it does not.
    fn handover(&self, node: NodeId, scope: &Scope<Self>) -> Result<Option<Handover>, Failure> {
        let status = self.agreement.group.status();
        if !status.voters.contains(&node) {
            return Ok(None);
        }
        let facts = self.facts(scope);
        // Also the one that goes: as long as it votes, its vote counts.
        let live = facts.candidates.iter().filter(|c| c.live).map(|c| c.id).collect();
        let candidates: Vec<_> =
            facts.candidates.into_iter().filter(|candidate| candidate.id != node).collect();
        let voters = voters::choose(
            &candidates,
            &status.voters,
            voters::wanted(candidates.len()),
            // Who is to go goes now.
            Duration::ZERO,
        );
        if voters.is_empty() {
            return Err(Failure::new(
                FailureKind::Conflict,
                "no other node could take its vote over",
            )
            .help("wait until another node is ready, `weft cluster status` says which"));
        }
        let trust = voters
            .iter()
            .filter(|id| facts.issuers.contains(id) && !facts.trusted.contains(id))
            .map(|id| {
                let caller = Caller::node(self.config.seed.node);
                self.own(Command::TrustIssuer { node: *id }, caller, scope)
            })
            .collect();
        let learners = candidates.iter().map(|c| c.id).filter(|c| !voters.contains(c)).collect();
        Ok(Some(Handover { trust, voters, learners, live }))
    }

    fn parting(&self, node: NodeId) -> Parting {
        let state = self.state();
        Parting {
            node,
            name: state.node(node).map_or_else(|| node.to_string(), |node| node.name.clone()),
            nodes: state.nodes().into_iter().map(|node| node.id).collect(),
            groups: self
                .agreement
                .others
                .list()
                .iter()
                .map(|tended| tended.group.clone())
                .collect(),
            membership: self.agreement.membership.clone(),
        }
    }
}

/// Who votes in `control` from now on.
struct Handover {
    /// Agreed first: nobody votes whose issuing CA is not trusted.
    trust: Vec<Proposal>,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    live: BTreeSet<NodeId>,
}

impl Handover {
    async fn take(self, route: &Route, actor: &Scope<Registry>) -> Result<(), Failure> {
        let Self { trust, voters, learners, live } = self;
        for proposal in trust {
            route.lead(&proposal, WITHIN).await?;
        }
        let before = route.group.status().voters.clone();
        let set = route.group.set_voters(voters.clone(), learners, &live).await;
        set.map_err(|error| route.failure(&error))?;
        actor.post(move |registry, scope| {
            let why = "a voter is to be removed, and hands its vote on first".to_owned();
            registry.voters_changed(GROUP, &before, &voters, why, scope);
        });
        Ok(())
    }
}

/// What the other groups have to do without.
struct Parting {
    node: NodeId,
    name: String,
    /// All of agreed state.
    nodes: Vec<NodeId>,
    groups: Vec<Group>,
    membership: Membership,
}

impl Parting {
    /// Until no other group depends on the node's vote. Whoever leads one hands it on.
    async fn wait(&self, route: &Route, within: Duration) -> Result<(), Failure> {
        if self.groups.is_empty() {
            return Ok(());
        }
        let end = route.fabric.clock().now() + within;
        loop {
            let mut held = self.round(route).await;
            if held.is_empty() {
                return Ok(());
            }
            if route.fabric.clock().now() + ASK_EVERY >= end {
                held.retain(|name, why| !why.is_empty() || self.may_vote(name));
                return if held.is_empty() { Ok(()) } else { Err(self.refusal(route, &held)) };
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The groups that may depend on it, by name, and why; empty: nobody says that it leads.
    async fn round(&self, route: &Route) -> BTreeMap<String, String> {
        let members = self.membership.members();
        let there = |id: &NodeId| {
            let known = members.get(*id).map(|member| member.liveness);
            *id == route.node || matches!(known, Some(Liveness::Alive | Liveness::Suspect))
        };
        let asks = self.nodes.iter().copied().filter(there).map(|id| {
            let to = Address::on(ActorKind::Registry, id);
            route.fabric.ask(to, LetGo { node: self.node }, Call::within(ASK_WITHIN))
        });
        let answers = join_all(asks).await.into_iter().flat_map(Result::unwrap_or_default);
        let (free, kept): (Vec<_>, Vec<_>) = answers.partition(|vote| vote.held.is_empty());
        let mut held: BTreeMap<String, String> =
            self.groups.iter().map(|group| (group.name().to_owned(), String::new())).collect();
        held.extend(kept.into_iter().map(|vote| (vote.group, vote.held)));
        // A majority has confirmed those: another that says it leads does so no longer.
        for vote in free {
            held.remove(&vote.group);
        }
        held
    }

    /// Whether the node votes in that group, for all that this one knows. A group that has lost its
    /// majority holds nobody else up.
    fn may_vote(&self, name: &str) -> bool {
        let group = self.groups.iter().find(|group| group.name() == name);
        group.is_none_or(|group| {
            let status = group.status();
            status.voters.is_empty() || status.voters.contains(&self.node)
        })
    }

    fn refusal(&self, route: &Route, held: &BTreeMap<String, String>) -> Failure {
        let why = |(group, why): (&String, &String)| match why.as_str() {
            "" => format!("nobody leads group `{group}`, where it may vote"),
            why => format!("group `{group}`: {why}"),
        };
        let why: Vec<String> = held.iter().map(why).collect();
        Failure::new(
            FailureKind::Conflict,
            format!("without {} something agreed could be lost: {}", self.name, why.join("; ")),
        )
        .node(&route.name)
        .help("bring back the nodes that vote there, then try again: `weft cluster status` says which")
    }
}
