//! What the node that leads remembers between two looks at replicas that move.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_protocol::{ComponentKey, ComponentState, ComponentStatus, Health};
use weft_wire::NodeId;

use crate::placement::{ReplicaState, Sighting};
use crate::state::ClusterState;

/// A component without a probe counts as healthy after it was seen running for so long: one that
/// ends at once would otherwise take over from a copy that works.
const PROVEN: Duration = Duration::from_millis(500);

/// A node's answers: the position it acts by, if it said so, and what it has.
pub(super) type Look = (NodeId, Option<u64>, Vec<ComponentStatus>);

/// Nothing of it outlives this node's lead.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Since when a process without a probe has been seen running.
    running: BTreeMap<(NodeId, ComponentKey, u32), Instant>,
    /// The position of state at which a planned move was first seen, by service, replica and
    /// generation; and the node of its old copy.
    moving: BTreeMap<(String, u32, u64), (u64, NodeId)>,
}

impl Watched {
    /// Notes the planned moves that are under way.
    pub(super) fn moving(&mut self, state: &ClusterState) {
        let mut now = BTreeMap::new();
        for placement in state.placements() {
            let Some(previous) = placement.previous.filter(|previous| !previous.lost) else {
                continue;
            };
            let key = (placement.service.clone(), placement.replica, placement.generation);
            let first = self.moving.get(&key).map_or(state.index(), |(index, _)| *index);
            now.insert(key, (first, previous.node));
        }
        self.moving = now;
    }

    /// Takes back what counts as healthy only because there is no probe, until it has lasted.
    pub(super) fn unproven(
        &mut self,
        now: Instant,
        node: NodeId,
        components: &[ComponentStatus],
        found: &mut [Sighting],
    ) {
        for status in components {
            if (status.state, status.health) != (ComponentState::Running, Health::None) {
                continue;
            }
            let process = (node, status.key.clone(), status.pid);
            let since = *self.running.entry(process).or_insert(now);
            if now.saturating_duration_since(since) >= PROVEN {
                continue;
            }
            for sighting in found.iter_mut().filter(|sighting| {
                sighting.service == status.key.service
                    && sighting.replica == status.key.replica
                    && sighting.state == ReplicaState::Healthy
            }) {
                sighting.state = ReplicaState::Running;
            }
        }
    }

    /// Old copies that are not there any more, on a node that acts by the move: it has had its
    /// say, and starts them no more.
    pub(super) fn stopped(
        &self,
        node: NodeId,
        index: Option<u64>,
        components: &[ComponentStatus],
    ) -> Vec<Sighting> {
        let gone = |service: &str, replica: u32| {
            !components.iter().any(|c| c.key.service == service && c.key.replica == replica)
        };
        self.moving
            .iter()
            .filter(|((service, replica, _), (first, old))| {
                *old == node && index.is_some_and(|at| at >= *first) && gone(service, *replica)
            })
            .map(|((service, replica, _), _)| Sighting {
                service: service.clone(),
                replica: *replica,
                node,
                state: ReplicaState::Stopped,
            })
            .collect()
    }

    /// Forgets processes that are gone.
    pub(super) fn forget(&mut self, looks: &[Look]) {
        let there: BTreeSet<(NodeId, &ComponentKey, u32)> = looks
            .iter()
            .flat_map(|(node, _, all)| all.iter().map(|status| (*node, &status.key, status.pid)))
            .collect();
        self.running.retain(|(node, key, pid), _| there.contains(&(*node, key, *pid)));
    }
}
