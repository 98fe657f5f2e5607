//! Playing decisions through: what would be where once all is quiet, and `weft plan --lost`.

use std::collections::BTreeMap;

use weft_protocol::OnPartition;
use weft_wire::NodeId;

use super::{
    Decision, Input, Lease, Liveness, Move, MoveKind, NodeFacts, Place, ReplicaState, Sighting,
    decide,
};

/// What came of playing decisions through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Every move, in order.
    pub moves: Vec<Move>,
    /// The last decision, which moves nothing.
    pub last: Decision,
    /// How long it would take if starting took no time. Milliseconds.
    pub after_ms: u64,
    /// Came to rest; `false` would be a defect of the placer.
    pub quiet: bool,
}

/// Applies decisions until nothing changes any more, as if every replica became healthy at once
/// where it is moved, every removed one stopped at once, and nodes stayed as they are.
pub fn settle(input: &Input<'_>) -> Settled {
    let mut world = World::new(input);
    let mut moves = Vec::new();
    let mut after_ms = 0_u64;
    let replicas = input.services.iter().map(|service| u64::from(service.spec.replicas));
    let replicas = replicas.fold(input.places.len() as u64, u64::saturating_add).min(100_000);
    for _ in 0..64 + 16 * replicas {
        let decision = decide(&world.input(input));
        if !decision.moves.is_empty() || !decision.settled.is_empty() {
            world.apply(&decision);
            moves.extend(decision.moves);
        } else if let Some(ms) = decision.ask_again_ms {
            world.pass(ms);
            after_ms = after_ms.saturating_add(ms);
        } else {
            return Settled { moves, last: decision, after_ms, quiet: true };
        }
    }
    let last = decide(&world.input(input));
    Settled { moves, last, after_ms, quiet: false }
}

/// What would happen if these nodes vanished now: where each of their replicas would go in the
/// end, and what would wait (`weft plan --lost`). Agrees with [`decide()`] step by step, because it
/// is [`decide()`] step by step.
pub fn lost(input: &Input<'_>, ids: &[NodeId]) -> Decision {
    let mut nodes = input.nodes.to_vec();
    for node in nodes.iter_mut().filter(|node| ids.contains(&node.id)) {
        if !matches!(node.liveness, Liveness::Lost { .. } | Liveness::Left) {
            node.liveness = Liveness::Lost { for_ms: 0 };
        }
    }
    let settled = settle(&Input { nodes: &nodes, ..*input });
    let mut ends: BTreeMap<(String, u32), Move> = BTreeMap::new();
    for step in settled.moves {
        match ends.entry((step.service.clone(), step.replica)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(step);
            }
            // From where it is now to where it ends up, with the last word why.
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let from = entry.get().from;
                entry.insert(Move { from, ..step });
            }
        }
    }
    let moves = ends.into_values().filter(|step| step.from != step.to).collect();
    Decision { moves, settled: Vec::new(), ask_again_ms: None, ..settled.last }
}

/// The part of the input that moves change.
pub(super) struct World {
    pub(super) nodes: Vec<NodeFacts>,
    pub(super) places: Vec<Place>,
    pub(super) seen: Vec<Sighting>,
    pub(super) leases: Vec<Lease>,
    pub(super) settings: super::Settings,
    fenced: Vec<String>,
}

impl World {
    pub(super) fn new(input: &Input<'_>) -> Self {
        let fenced = input.services.iter().filter(|s| s.spec.on_partition == OnPartition::Stop);
        Self {
            nodes: input.nodes.to_vec(),
            places: input.places.to_vec(),
            seen: input.seen.to_vec(),
            leases: input.leases.to_vec(),
            settings: input.settings,
            fenced: fenced.map(|service| service.name.clone()).collect(),
        }
    }

    pub(super) fn input<'a>(&'a self, of: &Input<'a>) -> Input<'a> {
        Input {
            services: of.services,
            places: &self.places,
            nodes: &self.nodes,
            seen: &self.seen,
            leases: &self.leases,
            settings: self.settings,
        }
    }

    /// Carries a decision out; what it moves is healthy at once.
    pub(super) fn apply(&mut self, decision: &Decision) {
        for place in &mut self.places {
            let here = |key: &weft_protocol::ReplicaKey| {
                key.service == place.service && key.replica == place.replica
            };
            if decision.settled.iter().any(here) {
                place.previous = None;
            }
        }
        for step in &decision.moves {
            let (service, replica) = (step.service.clone(), step.replica);
            self.places.retain(|place| place.service != service || place.replica != replica);
            self.seen.retain(|seen| seen.service != service || seen.replica != replica);
            let fenced = self.fenced.contains(&service);
            if fenced {
                // What stops gives its lease up; nobody can say so for a node that is gone.
                let live = |id| {
                    let node = self.nodes.iter().find(|node| node.id == id);
                    node.is_some_and(|node| node.liveness == Liveness::Ready)
                };
                self.leases.retain(|lease| {
                    lease.service != service || lease.replica != replica || !live(lease.node)
                });
            }
            if let Some(node) = step.to {
                if fenced {
                    let lease =
                        Lease { service: service.clone(), replica, node, renewed_ms_ago: 0 };
                    self.leases.push(lease);
                }
                let state = ReplicaState::Healthy;
                self.seen.push(Sighting { service: service.clone(), replica, node, state });
                // The old copy stops at once, where it has to.
                if let Some(previous) = step.previous.filter(|previous| !previous.lost) {
                    let (service, state) = (service.clone(), ReplicaState::Stopped);
                    self.seen.push(Sighting { service, replica, node: previous.node, state });
                }
                let (previous, reason) = (step.previous, step.reason.clone());
                self.places.push(Place { service, replica, node, previous, reason });
            }
            if step.kind == MoveKind::Rebalanced {
                self.settings.since_rebalance_ms = Some(0);
            }
        }
    }

    /// Lets time pass: nodes stay lost, their leases run out, all others are renewed.
    pub(super) fn pass(&mut self, ms: u64) {
        for node in &mut self.nodes {
            if let Liveness::Lost { for_ms } = &mut node.liveness {
                *for_ms = for_ms.saturating_add(ms);
            }
        }
        for lease in &mut self.leases {
            let held = self.places.iter().any(|place| {
                place.node == lease.node
                    && place.replica == lease.replica
                    && place.service == lease.service
            });
            let node = self.nodes.iter().find(|node| node.id == lease.node);
            let renews = node.is_some_and(|node| {
                !matches!(node.liveness, Liveness::Lost { .. } | Liveness::Left)
            });
            if !(held && renews) {
                lease.renewed_ms_ago = lease.renewed_ms_ago.saturating_add(ms);
            }
        }
        let settings = &mut self.settings;
        settings.leading_for_ms = settings.leading_for_ms.saturating_add(ms);
        settings.since_rebalance_ms =
            settings.since_rebalance_ms.map(|since| since.saturating_add(ms));
    }
}
