//! What the node that leads does: one step at a time, each through consensus like any change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use weft_agreement::{Group, GroupStatus, Liveness};
use weft_link::{Call, Reply};
use weft_protocol::{
    Command, LEASE, ListComponents, NodeRecord, Placement, PlacementMove, PlacementPlan,
    PlanPlacement, PlannedMove, ReadDuty, ServiceRecord, ServiceSpec,
};
use weft_supervision::{Handle, Scope};
use weft_wire::{ActorKind, Address, Caller, Failure, FailureKind, NodeId, RequestId};

use super::Registry;
use super::sightings::sightings;
use super::watched::{Look, Watched};
use crate::control::GROUP;
use crate::placement::{
    self, Input, Lease, NodeFacts, Place, Settings, Settled, Sighting, WaitKind,
};
use crate::state::ClusterState;
use crate::steward::leases::Leases;
use crate::steward::voters::Candidate;
use crate::steward::{self, Facts, Step};

/// A node is asked what it runs for no longer.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// Between looks at replicas that were moved, until they are healthy.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A follower this close to the newest entry has caught up.
const CLOSE: u64 = 100;
/// Waiting for the lease of the leader that is gone, and the election, take less.
const STAND_EVERY: Duration = Duration::from_secs(4);
/// A decision that is not agreed within so long is made anew.
const PLACE_WITHIN: Duration = Duration::from_secs(3);
/// After a step that failed, the next one waits.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Nothing of it outlives this node's lead.
#[derive(Default)]
pub(super) struct Duties {
    /// A step of membership or trust is on its way; it may have to wait for a node to catch up.
    stepping: bool,
    /// A decision of the placer, or a look at what became of one, is on its way.
    placing: bool,
    /// This node leads since, in that term.
    since: Option<Instant>,
    term: u64,
    /// What it granted meanwhile.
    pub(super) leases: Leases,
    /// No step before.
    not_before: Option<Instant>,
    /// The placer asked to be asked again then.
    again: Option<Instant>,
    /// State and members as the placer last saw them: without a change it has nothing new to say.
    decided: Option<u64>,
    /// What was seen of replicas that were moved, and when.
    seen: Vec<Sighting>,
    looked: Option<Instant>,
    /// Since when each process without a probe has been seen, and where state was when a move
    /// was first seen.
    watched: Watched,
    rebalanced: Option<Instant>,
    /// What cannot be had, for people.
    pub(super) waiting: Vec<String>,
    /// Replicas that cannot leave their node, as `service/replica`, and why.
    stuck: Vec<(String, String)>,
    /// What is wrong with definitions; said once.
    problems: BTreeSet<String>,
}

impl Duties {
    /// Since when this node leads in that term; `None`: it does not.
    pub(super) fn lead(&self, term: u64) -> Option<Instant> {
        self.since.filter(|_| self.term == term)
    }
}

impl Registry {
    /// Liveness or membership differ, or a lease was given back.
    pub(super) fn members_changed(&mut self, scope: &Scope<Self>) {
        self.duties.decided = None;
        self.see_to_duties(scope);
        self.see_to_groups(scope);
    }

    /// The verdict of membership that the leader is gone makes a voter stand as soon as the others
    /// may grant it (design §6); consensus has them stand one after the other. `stood` is when this
    /// node did so last, in that group.
    pub(super) fn stand_if_leader_is_gone(
        &self,
        group: &Group,
        stood: &mut Option<Instant>,
        scope: &Scope<Self>,
    ) {
        let status = group.status();
        let own = self.config.seed.node;
        let now = scope.now();
        let lately = stood.is_some_and(|at| now.saturating_duration_since(at) < STAND_EVERY);
        let gone = status.leader.is_some_and(|leader| {
            leader != own
                && self.agreement.membership.members().get(leader).is_some_and(|member| {
                    !matches!(member.liveness, Liveness::Alive | Liveness::Suspect)
                })
        });
        if gone && !lately && status.voters.contains(&own) {
            tracing::info!(group = status.name, "the leader is gone; standing for election");
            *stood = Some(now);
            group.stand_for_election();
        }
    }

    pub(super) fn see_to_duties(&mut self, scope: &Scope<Self>) {
        if !self.elected() {
            let mut stood = self.stood;
            self.stand_if_leader_is_gone(&self.agreement.group, &mut stood, scope);
            self.stood = stood;
            if self.duties.since.is_some() {
                tracing::info!("this node leads no longer");
            }
            let Duties { stepping, placing, .. } = self.duties;
            self.duties = Duties { stepping, placing, ..Duties::default() };
            return;
        }
        let now = scope.now();
        let term = self.agreement.group.status().term;
        if self.duties.since.is_none() || self.duties.term != term {
            tracing::info!(term, "this node leads the cluster");
            // Another may have led in between: nothing of before counts.
            let Duties { stepping, placing, .. } = self.duties;
            self.duties = Duties { stepping, placing, since: Some(now), term, ..Duties::default() };
        }
        let waits = self.duties.not_before.is_some_and(|at| now < at);
        if self.state().is_empty() {
            if let Some(command) = self.config.seed.bootstrap.clone()
                && !waits
                && !self.duties.stepping
            {
                // The same request however often it is made.
                let request = RequestId::new(self.config.seed.node.uuid());
                self.step(command, Some(request), scope);
            }
            return;
        }
        if !self.duties.stepping
            && !waits
            && let Some(step) = steward::next(&self.facts(scope))
        {
            self.take(step, scope);
        }
        if !self.duties.placing {
            self.see_to_places(scope);
        }
    }

    pub(super) fn facts(&self, scope: &Scope<Self>) -> Facts {
        let status = self.agreement.group.status();
        let state = self.state();
        let candidates =
            self.candidates(&state, &status, self.duties.since, |node| !node.ca.is_empty(), scope);
        let ids = |keep: &dyn Fn(&NodeRecord) -> bool| {
            state.nodes().into_iter().filter(|node| keep(node)).map(|node| node.id).collect()
        };
        let own_level =
            (self.config.report)().map_or(weft_protocol::FORMAT_LEVEL, |own| own.format);
        Facts {
            candidates,
            trusted: ids(&|node| state.cas().contains(&node.ca)),
            issuers: ids(&|node| !node.ca.is_empty()),
            reachable: ids(&|node| !node.address.is_empty()),
            voters: status.voters.clone(),
            joint: status.joint,
            learners: status.learners.clone(),
            replace_after: self.config.voter_replace_after,
            format: state.format(),
            understood: state
                .nodes()
                .iter()
                .map(|node| node.format)
                .min()
                .unwrap_or(0)
                .min(own_level),
        }
    }

    /// The nodes of agreed state, as those who may vote in a group that this node leads since
    /// then; `may` says what else it takes.
    pub(super) fn candidates(
        &self,
        state: &ClusterState,
        status: &GroupStatus,
        led_since: Option<Instant>,
        may: impl Fn(&NodeRecord) -> bool,
        scope: &Scope<Self>,
    ) -> Vec<Candidate> {
        let members = self.agreement.membership.members();
        let now = scope.now();
        let own = self.config.seed.node;
        let candidate = |node: &NodeRecord| {
            let member = members.get(node.id);
            let live = node.id == own
                || member.is_some_and(|member| {
                    matches!(member.liveness, Liveness::Alive | Liveness::Suspect)
                });
            // Who was never heard of is silent since this node leads.
            let since = member.map(|member| member.since).or(led_since);
            // One that has taken nothing yet may not answer at all, however short the log.
            let near =
                |matched: &u64| *matched > 0 && matched.saturating_add(CLOSE) >= status.last_log;
            let close = node.id == own
                || status.voters.contains(&node.id)
                || status.matched.get(&node.id).is_some_and(near);
            Candidate {
                id: node.id,
                name: node.name.clone(),
                zone: node.zone.clone(),
                joined_at: node.joined_at,
                live,
                silent_for: if live {
                    Duration::ZERO
                } else {
                    since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
                },
                ready: close && may(node),
            }
        };
        state.nodes().into_iter().map(candidate).collect()
    }

    fn take(&mut self, step: Step, scope: &Scope<Self>) {
        tracing::debug!(?step, "leading");
        let group = self.agreement.group.clone();
        match step {
            Step::Trust(node) => self.step(Command::TrustIssuer { node }, None, scope),
            Step::RaiseFormat(level) => self.step(Command::RaiseFormat { level }, None, scope),
            Step::AddLearner(node) => {
                self.stepping(scope, async move {
                    group.add_learner(node).await.map_err(|error| error.to_string())
                });
            }
            Step::SetVoters { voters, learners, live } => {
                let before = self.agreement.group.status().voters.clone();
                let why = self.why_voters(&self.facts(scope).candidates, &before, &voters);
                let actor = scope.clone();
                self.stepping(scope, async move {
                    group
                        .set_voters(voters.clone(), learners, &live)
                        .await
                        .map_err(|error| error.to_string())?;
                    actor.post(move |registry, scope| {
                        registry.voters_changed(GROUP, &before, &voters, why, scope);
                    });
                    Ok(())
                });
            }
        }
    }

    fn step(&mut self, command: Command, request: Option<RequestId>, scope: &Scope<Self>) {
        let mut proposal = self.own(command, Caller::node(self.config.seed.node), scope);
        if let Some(request) = request {
            proposal.request = request;
        }
        let route = self.route(scope);
        self.stepping(scope, async move {
            let done = route.lead(&proposal, super::route::WITHIN).await;
            done.map(drop).map_err(|failure| failure.to_string())
        });
    }

    fn stepping(
        &mut self,
        scope: &Scope<Self>,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        // Somebody is being removed: what is due is looked at again afterwards.
        let Ok(held) = self.members.clone().try_lock_owned() else { return };
        self.duties.stepping = true;
        scope.spawn_then(work, move |registry, done, scope| {
            drop(held);
            registry.duties.stepping = false;
            if let Err(cause) = done {
                tracing::warn!(cause, "a step of leading failed; trying again");
                registry.duties.not_before = Some(scope.now() + AFTER_FAILURE);
            }
            registry.see_to_duties(scope);
        });
    }

    fn see_to_places(&mut self, scope: &Scope<Self>) {
        let now = scope.now();
        let index = self.state().index();
        let due = self.duties.again.is_some_and(|at| now >= at);
        let moved: BTreeSet<NodeId> = {
            let state = self.state();
            let members = self.agreement.membership.members();
            let back = |node: NodeId| {
                members.get(node).is_some_and(|member| member.liveness == Liveness::Alive)
            };
            let draining = |node: NodeId| state.node(node).is_some_and(|node| node.draining);
            let leaving: BTreeSet<&str> = state
                .placements()
                .filter(|placement| draining(placement.node))
                .map(|placement| placement.service.as_str())
                .collect();
            state
                .placements()
                .filter(|p| p.previous.is_some() || leaving.contains(p.service.as_str()))
                .flat_map(|placement| {
                    // The old copy of a planned move may have to stop first; one that was lost
                    // may be back.
                    let old = placement.previous.filter(|old| !old.lost || back(old.node));
                    [Some(placement.node), old.map(|previous| previous.node)]
                })
                .flatten()
                .collect()
        };
        if !moved.is_empty()
            && self.duties.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY)
        {
            return self.look(moved, scope);
        }
        if self.duties.decided == Some(index) && !due {
            return;
        }
        self.duties.decided = Some(index);
        let decision = {
            let state = self.state();
            let world = self.world(&state, scope);
            world.with(placement::decide)
        };
        self.duties.again = decision.ask_again_ms.map(|ms| now + Duration::from_millis(ms.max(1)));
        let named: Vec<String> = {
            let waits = |wait: &placement::Waiting| {
                format!("{}/{}: {}", wait.service, wait.replica, wait.reason)
            };
            decision.waiting.iter().map(waits).collect()
        };
        self.duties.waiting = named;
        let stays = |kind| matches!(kind, WaitKind::Node | WaitKind::Room | WaitKind::Stays);
        let stuck = decision.waiting.iter().filter(|wait| stays(wait.kind));
        self.duties.stuck = stuck
            .map(|wait| (format!("{}/{}", wait.service, wait.replica), wait.reason.clone()))
            .collect();
        for problem in &decision.problems {
            let text = problem.to_string();
            if self.duties.problems.insert(text.clone()) {
                tracing::warn!(problem = text, "placing");
            }
        }
        if decision.moves.iter().any(|step| step.kind == placement::MoveKind::Rebalanced) {
            self.duties.rebalanced = Some(now);
        }
        let moves = moves(&self.state(), &decision);
        if !moves.is_empty() {
            for step in &moves {
                tracing::info!(
                    service = step.service,
                    replica = step.replica,
                    reason = step.reason,
                    "placing"
                );
            }
            self.place(moves, scope);
        }
    }

    /// Why replicas cannot leave their nodes, by `service/replica`.
    pub(super) fn stuck(&self) -> impl Iterator<Item = (String, String)> {
        self.duties.stuck.clone().into_iter()
    }

    fn place(&mut self, moves: Vec<PlacementMove>, scope: &Scope<Self>) {
        self.duties.placing = true;
        let caller = Caller::node(self.config.seed.node);
        let proposal = self.own(Command::Place { moves }, caller, scope);
        let route = self.route(scope);
        scope.spawn_then(
            async move { route.lead(&proposal, PLACE_WITHIN).await },
            |registry, done, scope| {
                registry.duties.placing = false;
                registry.duties.decided = None;
                if let Err(failure) = done {
                    tracing::warn!(%failure, "places could not be agreed; trying again");
                    // The tick does: at once it would fail again.
                    return;
                }
                registry.see_to_duties(scope);
            },
        );
    }

    /// Asks the nodes of moved replicas what became of them.
    fn look(&mut self, nodes: BTreeSet<NodeId>, scope: &Scope<Self>) {
        self.duties.placing = true;
        {
            let state = self.agreement.control.read();
            self.duties.watched.moving(&state);
        }
        let fabric = scope.fabric().clone();
        scope.spawn_then(
            join_all(nodes.into_iter().map(move |node| {
                let fabric = fabric.clone();
                async move {
                    let to = || Address::on(ActorKind::Runtime, node);
                    // In this order: what is not there then was not there at that position.
                    let duty = fabric.ask(to(), ReadDuty {}, Call::within(LOOK_WITHIN)).await;
                    let seen = fabric.ask(to(), ListComponents {}, Call::within(LOOK_WITHIN)).await;
                    let index = seen.is_ok().then(|| duty.ok()?.index).flatten();
                    (node, index, seen.unwrap_or_default())
                }
            })),
            |registry, seen: Vec<Look>, scope| {
                let now = scope.now();
                let duties = &mut registry.duties;
                duties.placing = false;
                duties.looked = Some(now);
                let mut fresh = Vec::new();
                for (node, index, all) in &seen {
                    let mut found = sightings(*node, all);
                    duties.watched.unproven(now, *node, all, &mut found);
                    fresh.extend(found);
                    fresh.extend(duties.watched.stopped(*node, *index, all));
                }
                duties.watched.forget(&seen);
                if duties.seen != fresh {
                    duties.seen = fresh;
                    duties.decided = None;
                }
                registry.see_to_duties(scope);
            },
        );
    }

    fn world(&self, state: &ClusterState, scope: &Scope<Self>) -> World {
        let now = scope.now();
        let ms = |since: Instant| {
            u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
        };
        let members = self.agreement.membership.members();
        let own = self.config.seed.node;
        let view = state.view();
        let nodes = view
            .nodes
            .iter()
            .map(|node| {
                let liveness = match members.get(node.id) {
                    _ if node.id == own => placement::Liveness::Ready,
                    Some(member) => match member.liveness {
                        Liveness::Alive => placement::Liveness::Ready,
                        Liveness::Suspect => placement::Liveness::Suspect,
                        Liveness::DaemonDown => placement::Liveness::DaemonDown,
                        Liveness::Away => placement::Liveness::Away,
                        Liveness::Lost => {
                            // A new leader counts from when it began to lead: it may have
                            // missed the node for longer than the node was gone.
                            let since =
                                self.duties.since.map_or(member.since, |led| led.max(member.since));
                            placement::Liveness::Lost { for_ms: ms(since) }
                        }
                        Liveness::Left => placement::Liveness::Left,
                    },
                    // Never heard of: presumed there until proven otherwise.
                    None => placement::Liveness::Suspect,
                };
                let known = |amount: u64| (amount > 0).then_some(amount);
                NodeFacts {
                    id: node.id,
                    name: node.name.clone(),
                    zone: node.zone.clone(),
                    labels: node.all_labels().map(str::to_owned).collect(),
                    cpu_millis: known(node.capacity.cpu_millis),
                    memory: known(node.capacity.memory),
                    load_percent: None,
                    draining: node.draining,
                    liveness,
                    version: node.version.clone(),
                    address: node.address.clone(),
                }
            })
            .collect();
        let places = view.placements.iter().map(|p| Place::of(p, p.previous)).collect();
        World {
            services: view.services,
            places,
            nodes,
            seen: self.duties.seen.clone(),
            leases: self.duties.leases.list(now),
            settings: Settings {
                lease_ms: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
                leading_for_ms: self.duties.since.map_or(0, ms),
                since_rebalance_ms: self.duties.rebalanced.map(ms),
                updating: state.updates().next().is_some(),
                reschedule_after_ms: self
                    .config
                    .reschedule_after
                    .as_millis()
                    .try_into()
                    .unwrap_or(u64::MAX),
                ..Settings::default()
            },
        }
    }
}

/// What the placer looks at, owned.
struct World {
    services: Vec<ServiceRecord>,
    places: Vec<Place>,
    nodes: Vec<NodeFacts>,
    seen: Vec<Sighting>,
    leases: Vec<Lease>,
    settings: Settings,
}

impl World {
    fn with<T>(&self, f: impl FnOnce(&Input<'_>) -> T) -> T {
        let services: Vec<&ServiceRecord> = self.services.iter().collect();
        f(&Input {
            services: &services,
            places: &self.places,
            nodes: &self.nodes,
            seen: &self.seen,
            leases: &self.leases,
            settings: self.settings,
        })
    }
}

/// A decision as agreed state takes it.
fn moves(state: &ClusterState, decision: &placement::Decision) -> Vec<PlacementMove> {
    let view = state.view();
    let known = |service: &str, replica: u32| -> Option<&Placement> {
        view.placements.iter().find(|p| p.service == service && p.replica == replica)
    };
    let mut moves: Vec<PlacementMove> = decision
        .moves
        .iter()
        .map(|step| PlacementMove {
            service: step.service.clone(),
            replica: step.replica,
            generation: known(&step.service, step.replica).map_or(0, |p| p.generation),
            to: step.to,
            previous: step.previous,
            reason: step.reason.clone(),
        })
        .collect();
    for key in &decision.settled {
        if let Some(placement) = known(&key.service, key.replica) {
            moves.push(PlacementMove {
                service: key.service.clone(),
                replica: key.replica,
                generation: placement.generation,
                to: Some(placement.node),
                previous: None,
                reason: placement.reason.clone(),
            });
        }
    }
    moves
}

impl Handle<PlanPlacement> for Registry {
    fn handle(&mut self, message: PlanPlacement, reply: Reply<PlanPlacement>, scope: &Scope<Self>) {
        // Who leads knows what the placer goes by.
        if !self.leads() {
            return self.forward(message, reply, scope);
        }
        let answer = {
            let state = self.state();
            let mut world = self.world(&state, scope);
            let unknown = message.lost.iter().find(|id| state.node(**id).is_none());
            match unknown {
                Some(id) => Err(Failure::new(
                    FailureKind::NotFound,
                    format!("{id} is not a node of this cluster"),
                )),
                None => {
                    if let Some(spec) = message.spec {
                        world.deploy(*spec);
                    }
                    Ok(plan(&world, &message.lost))
                }
            }
        };
        reply.send(answer);
    }
}

impl World {
    /// As if it had been deployed.
    fn deploy(&mut self, spec: ServiceSpec) {
        match self.services.iter_mut().find(|record| record.name == spec.name) {
            Some(record) => {
                record.undeployed = false;
                record.spec = spec;
            }
            None => self.services.push(ServiceRecord {
                name: spec.name.clone(),
                revision: 0,
                active: spec.active,
                spec,
                desired: Vec::new(),
                epochs: Vec::new(),
                rollout: None,
                undeployed: false,
                created_at: weft_wire::WallTime::from_micros(0),
                updated_at: weft_wire::WallTime::from_micros(0),
            }),
        }
    }
}

fn plan(world: &World, lost: &[NodeId]) -> PlacementPlan {
    world.with(|input| {
        let (moves, waiting) = if lost.is_empty() {
            let Settled { moves, last, .. } = placement::settle(input);
            (moves, last.waiting)
        } else {
            let decision = placement::lost(input, lost);
            (decision.moves, decision.waiting)
        };
        let mut places: BTreeMap<(String, u32), NodeId> = world
            .places
            .iter()
            .map(|place| ((place.service.clone(), place.replica), place.node))
            .collect();
        for step in &moves {
            let key = (step.service.clone(), step.replica);
            match step.to {
                Some(node) => drop(places.insert(key, node)),
                None => drop(places.remove(&key)),
            }
        }
        PlacementPlan {
            moves: moves
                .into_iter()
                .map(|step| PlannedMove {
                    service: step.service,
                    replica: step.replica,
                    from: step.from,
                    to: step.to,
                    reason: step.reason,
                })
                .collect(),
            waiting: waiting
                .into_iter()
                .filter(|wait| wait.kind != WaitKind::Turn)
                .map(|wait| (wait.service, wait.replica, wait.reason))
                .collect(),
            places: places
                .into_iter()
                .map(|((service, replica), node)| (service, replica, node))
                .collect(),
        }
    })
}
