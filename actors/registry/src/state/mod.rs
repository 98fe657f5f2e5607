//! Desired state as a deterministic machine: the same proposals in the same order give the same
//! bytes on every node.
//!
//! No clock, no randomness, no I/O: times and ids come stamped in the proposal. A refused proposal
//! changes nothing and takes no position. It is the `control` group's state machine.

mod aging;
mod apply;
mod blobs;
mod deploy;
mod events;
mod membership;
mod operations;
mod placement;
mod refusal;
mod requests;
mod rollout;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weft_protocol::{
    Assignment, ComponentKey, Desired, GroupRecord, NodeRecord, Operation, OperatorRecord, Part,
    Placement, Revision, ServiceRecord, StateView, TokenRecord, one_machine, spec_hash,
};
use weft_wire::{NodeId, OperatorId};

pub use aging::{Aging, SLACK};
pub use apply::Change;
pub use operations::{OPERATIONS_FOR, OPERATIONS_KEPT};
pub use refusal::REMOVED;
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError};

use requests::Requests;

/// Nodes in one cluster (design §6, "Promised size").
pub const NODES_MAX: usize = 100;
/// Replicas of one service.
pub const REPLICAS_MAX: u32 = 1_000;
/// Components of one service.
pub const COMPONENTS_MAX: usize = 100;
/// Join tokens that are neither used nor expired.
pub const TOKENS_MAX: usize = 1_000;
/// Revisions kept of each service (orchestration §6).
pub const REVISIONS_KEPT: usize = 10;
/// Results of requests are remembered for so many positions (design §6).
pub const REQUESTS_KEPT: u64 = 10_000;

/// A service with its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) record: ServiceRecord,
    /// The newest [`REVISIONS_KEPT`], oldest first.
    pub(crate) revisions: Vec<Revision>,
    /// Highest generation each replica ever had: it must not fall when a replica goes and returns.
    pub(crate) generations: BTreeMap<u32, u64>,
}

/// All of desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterState {
    index: u64,
    services: BTreeMap<String, Service>,
    placements: BTreeMap<(String, u32), Placement>,
    nodes: BTreeMap<NodeId, NodeRecord>,
    operators: BTreeMap<OperatorId, OperatorRecord>,
    tokens: BTreeMap<String, TokenRecord>,
    cas: Vec<String>,
    denied: BTreeSet<String>,
    format: u32,
    operations: BTreeMap<u64, Operation>,
    /// Position at which a service was purged last: first generations are above it.
    purged: u64,
    /// Consensus groups beside `control`, by name.
    groups: BTreeMap<String, GroupRecord>,
    requests: Requests,
}

impl ClusterState {
    /// Position of the last change; 0: none yet.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether this is a cluster yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node of that id, if it is there.
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> Vec<&NodeRecord> {
        let mut nodes: Vec<_> = self.nodes.values().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// Format level of agreed state (design §4); 0: nothing is agreed yet.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// The consensus group of that name, if there is one beside `control`.
    pub fn group(&self, name: &str) -> Option<&GroupRecord> {
        self.groups.get(name)
    }

    /// The operator of that id, if they are there.
    pub fn operator(&self, id: OperatorId) -> Option<&OperatorRecord> {
        self.operators.get(&id)
    }

    /// All operators, by name.
    pub fn operators(&self) -> Vec<&OperatorRecord> {
        let mut operators: Vec<_> = self.operators.values().collect();
        operators.sort_by(|a, b| a.name.cmp(&b.name));
        operators
    }

    /// All join tokens that are remembered, by hash.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values()
    }

    /// PEM of each issuing CA.
    pub fn cas(&self) -> &[String] {
        &self.cas
    }

    /// `node/<id>` and `operator/<id>` that are refused for ever.
    pub fn denied(&self) -> &BTreeSet<String> {
        &self.denied
    }

    /// The newest revisions of a service, oldest first.
    pub fn revisions(&self, service: &str) -> &[Revision] {
        self.services.get(service).map_or(&[], |service| &service.revisions)
    }

    /// The service of that name, also one that was undeployed.
    pub fn service(&self, name: &str) -> Option<&ServiceRecord> {
        self.services.get(name).map(|service| &service.record)
    }

    /// Where a replica is.
    pub fn placement(&self, service: &str, replica: u32) -> Option<&Placement> {
        self.placements.get(&(service.to_owned(), replica))
    }

    /// Where replicas are, by service and replica.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.placements.values()
    }

    /// Everything, for readers.
    pub fn view(&self) -> StateView {
        StateView {
            index: self.index,
            services: self.services.values().map(|service| service.record.clone()).collect(),
            placements: self.placements.values().cloned().collect(),
            nodes: self.nodes().into_iter().cloned().collect(),
            operators: self.operators().into_iter().cloned().collect(),
            cas: self.cas.clone(),
            denied: self.denied.iter().cloned().collect(),
            format: self.format,
            operations: self.operations.values().cloned().collect(),
        }
    }

    /// What a node's runtime shall see to, by service, replica and component: what it owns, and
    /// what it keeps while a replacement elsewhere is not healthy yet.
    pub fn assignments(&self, node: NodeId) -> Vec<Assignment> {
        let mut all = Vec::new();
        // What kept data on a removed node is placed there still, and nobody's to run.
        if !self.nodes.contains_key(&node) {
            return all;
        }
        for placement in self.placements.values() {
            let Some(Service { record, .. }) = self.services.get(&placement.service) else {
                continue;
            };
            let Some(part) = self.part(placement, node, record) else { continue };
            let version = record.version_of(placement.replica);
            let leaving = match part {
                Part::Owns => String::new(),
                Part::HandsOver | Part::Undecided => self.call(placement.node),
            };
            for component in &version.spec.components {
                all.push(Assignment {
                    key: ComponentKey {
                        service: record.name.clone(),
                        replica: placement.replica,
                        component: component.name.clone(),
                    },
                    spec: component.clone(),
                    service_version: version.spec.version.clone(),
                    revision: version.revision,
                    spec_hash: spec_hash(version.spec, component),
                    epoch: version.epoch_of(&component.name).start,
                    made: version.epoch_of(&component.name).make,
                    generation: placement.generation,
                    fenced: record.spec.on_partition == weft_protocol::OnPartition::Stop,
                    desired: match record.desired_of(&component.name) {
                        // Not sure to be its own: it is kept, not started again.
                        Desired::Running if part == Part::Undecided => Desired::Ignore,
                        desired => desired,
                    },
                    leaving: leaving.clone(),
                    files: version.spec.files.clone(),
                    after: version.spec.depends_on.clone(),
                });
            }
        }
        all
    }

    fn part(&self, placement: &Placement, node: NodeId, record: &ServiceRecord) -> Option<Part> {
        let address = |id: NodeId| self.nodes.get(&id).map_or("", |node| node.address.as_str());
        let from = placement.previous.map_or("", |previous| address(previous.node));
        placement.part(node, &record.spec, one_machine(from, address(placement.node)))
    }

    fn call(&self, id: NodeId) -> String {
        self.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone())
    }
}
