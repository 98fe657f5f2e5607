//! Desired state: what all nodes agree on, and the commands that change it.
//!
//! Every change goes through one deterministic `apply(command) -> changes` in the registry.
//! Commands carry whatever is not deterministic (times, ids, hashes of secrets), stamped by the
//! node that proposes.

use serde::{Deserialize, Serialize};
use weft_wire::{Caller, NodeId, OperatorId, RequestId, Role, WallTime};

use crate::{
    CommandRef, Desired, Operation, OperationChange, ReportNode, Rollout, RolloutStep, ServiceSpec,
};

/// A stored definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// From 1, without gaps per service.
    pub number: u64,
    /// The definition, whole.
    pub spec: ServiceSpec,
    /// Who deployed it.
    pub by: String,
    /// When.
    pub at: WallTime,
    /// What became of it.
    pub verdict: RevisionVerdict,
}

/// What became of a revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevisionVerdict {
    /// Nothing is known: its deploy goes on, or was overtaken.
    #[default]
    Open,
    /// All its replicas ran.
    Good,
    /// Its update failed.
    Failed,
}

/// How often a component was to be started anew without a change of its definition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised each time.
    pub start: u64,
    /// What `start` was when it was last to be made anew, too; after that it was restarted in place
    /// (orchestration §7: the same container).
    pub make: u64,
}

/// The epoch of a component among those that are listed.
pub(crate) fn epoch_of(epochs: &[(String, Epoch)], component: &str) -> Epoch {
    epochs.iter().find(|(name, _)| name == component).map_or(Epoch::default(), |(_, epoch)| *epoch)
}

/// A service as agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Unique in the cluster.
    pub name: String,
    /// Number of the revision in force: the newest, unless its update was rolled back.
    pub revision: u64,
    /// The definition in force.
    pub spec: ServiceSpec,
    /// The service as a whole.
    pub active: bool,
    /// Per component where it differs from `active`: (component, desired).
    pub desired: Vec<(String, Desired)>,
    /// Raised to have components started anew without a change of definition, by component; one
    /// that is not listed has the first.
    pub epochs: Vec<(String, Epoch)>,
    /// Torn down by an operator; history stays.
    pub undeployed: bool,
    /// A rolling update that goes on or stopped half-way.
    pub rollout: Option<Box<Rollout>>,
    /// When it was first deployed.
    pub created_at: WallTime,
    /// When the record last changed.
    pub updated_at: WallTime,
}

impl ServiceRecord {
    /// What is wanted of a component.
    pub fn desired_of(&self, component: &str) -> Desired {
        if self.undeployed {
            return Desired::Stopped;
        }
        self.desired.iter().find(|(name, _)| name == component).map_or(
            if self.active { Desired::Running } else { Desired::Stopped },
            |(_, desired)| *desired,
        )
    }

    /// The component's start epoch.
    pub fn epoch_of(&self, component: &str) -> Epoch {
        epoch_of(&self.epochs, component)
    }
}

/// Where a replica lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// The node.
    pub node: NodeId,
    /// Raised with every change of place; a runtime acts only for the newest it knows.
    pub generation: u64,
    /// When it was placed.
    pub at: WallTime,
    /// Why here, for people.
    pub reason: String,
    /// The lost or drained node it was moved away from, while its replacement is not healthy yet:
    /// if that node returns first, the replica goes back (design §8).
    pub previous: Option<Previous>,
}

/// Where a replica was before its last move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The node.
    pub node: NodeId,
    /// It moved because that node was lost: it goes back if the node returns first.
    pub lost: bool,
}

/// A node as agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// For ever.
    pub id: NodeId,
    /// A label, unique among the nodes that are there.
    pub name: String,
    /// Where its fabric listens: `ip:port`.
    pub address: String,
    /// Zone, may be empty.
    pub zone: String,
    /// Labels, `key=value` or `key`.
    pub labels: Vec<String>,
    /// Version of its daemon.
    pub version: String,
    /// SHA-256 of its public key, hex: what a renewal by proof of key is checked against.
    pub key_fingerprint: String,
    /// PEM of its own issuing CA, which is trusted once the node votes (design §3).
    pub ca: String,
    /// What it has to give; declared needs are placed within it.
    pub capacity: Capacity,
    /// The newest format level that its build understands (design §4).
    pub format: u32,
    /// Labels that operators gave it, beside those of its node file.
    pub extra_labels: Vec<String>,
    /// It gives its work away and gets none.
    pub draining: bool,
    /// When it joined.
    pub joined_at: WallTime,
}

impl NodeRecord {
    /// Its labels: those of its node file, then those that operators gave it.
    pub fn all_labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().chain(&self.extra_labels).map(String::as_str)
    }
}

/// What a machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Thousandths of a core; 0: unknown.
    pub cpu_millis: u64,
    /// Bytes; 0: unknown.
    pub memory: u64,
}

/// A person as agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    /// For ever.
    pub id: OperatorId,
    /// A label.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// SHA-256 of the public key, hex.
    pub key_fingerprint: String,
    /// When the record was made.
    pub created_at: WallTime,
}

/// A join token as stored: never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the secret, hex.
    pub secret_hash: String,
    /// Fixed name for the joiner; empty: the joiner's own.
    pub name: String,
    /// No longer good from here on.
    pub expires_at: WallTime,
    /// The node that used it.
    pub used_by: Option<NodeId>,
    /// Who made it.
    pub by: String,
}

/// How a deploy treats what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployOptions {
    /// Only this component; empty: all.
    pub component: String,
    /// Leave components alone whose definition did not change.
    pub if_changed: bool,
    /// Components of a new service that are to be stopped: adopted ones that do not run.
    pub stopped: Vec<String>,
}

/// A change of desired state. Append only; a new field is a new variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes the cluster's first records; only on an empty state.
    Bootstrap {
        /// The first node.
        node: NodeRecord,
        /// The first person.
        operator: OperatorRecord,
        /// PEM of the first node's issuing CA.
        ca: String,
    },
    /// A node joins with a token.
    AddNode {
        /// The node.
        node: NodeRecord,
        /// SHA-256 of the token's secret, hex.
        secret_hash: String,
    },
    /// A node reports where it is and what it runs.
    UpdateNode {
        /// Which.
        id: NodeId,
        /// What it tells.
        report: ReportNode,
    },
    /// A node is taken out for ever; its id is denied.
    RemoveNode {
        /// Which.
        id: NodeId,
        /// Also when replicas are placed there.
        force: bool,
    },
    /// A token is made.
    AddToken {
        /// The token as stored.
        token: TokenRecord,
    },
    /// A service's definition is stored and put in force.
    Deploy {
        /// The definition.
        spec: Box<ServiceSpec>,
        /// How.
        options: DeployOptions,
    },
    /// What is wanted of a service or component changes.
    SetDesired {
        /// Which.
        target: CommandRef,
        /// What is wanted.
        desired: Desired,
    },
    /// Components are started anew in place.
    Restart {
        /// Which.
        target: CommandRef,
    },
    /// A service is torn down; its history stays.
    Undeploy {
        /// Which.
        service: String,
    },
    /// An operator's key changes hands or is renewed.
    PutOperator {
        /// The record.
        operator: OperatorRecord,
    },
    /// The placer's decision: replicas get, change or lose their place.
    Place {
        /// Each holds or is skipped by itself.
        moves: Vec<PlacementMove>,
    },
    /// A node's issuing CA joins the trust bundle, because it is to vote.
    TrustIssuer {
        /// Which node's.
        node: NodeId,
    },
    /// A node gives its work away, or takes work again.
    Drain {
        /// Which.
        node: NodeId,
        /// Off: it takes work again.
        on: bool,
    },
    /// Labels that operators give a node.
    LabelNode {
        /// Which.
        node: NodeId,
        /// `key=value` or `key`; a key that is there gets the new value.
        set: Vec<String>,
        /// Keys to take away.
        remove: Vec<String>,
    },
    /// Raises the format level of agreed state, once every member understands it.
    RaiseFormat {
        /// The new level.
        level: u32,
    },
    /// What whoever leads says of operations that go on.
    Operations {
        /// Each holds or is void by itself.
        changes: Vec<OperationChange>,
    },
    /// The number of a service's replicas changes, and nothing else.
    Scale {
        /// Which.
        service: String,
        /// From 1.
        replicas: u32,
    },
    /// A service returns to an earlier definition.
    Rollback {
        /// Which.
        service: String,
        /// To which; 0: to the one before, ending an update that goes on.
        revision: u64,
    },
    /// A rolling update goes a step.
    Rollout {
        /// Of which service.
        service: String,
        /// The update: [`Rollout::operation`]; 0: whichever goes on.
        operation: u64,
        /// The step.
        step: RolloutStep,
    },
    /// A service that is undeployed is forgotten, with its history.
    Purge {
        /// Which.
        service: String,
    },
    /// There is a group beside `control` from now on; one that is there stays as it is.
    FoundGroup {
        /// Which.
        group: GroupRecord,
    },
}

/// A group beside `control` that all nodes are to know (design §6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its name, such as `session/0`.
    pub name: String,
    /// Who voted when it was founded: each of them begins it with the same voters, so none of them
    /// has to be there. Who votes by now, the group knows itself.
    pub voters: Vec<NodeId>,
}

/// One replica's change of place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementMove {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// The generation that the decision was made from; 0: it had no place. If the replica has
    /// another by now, the move is void.
    pub generation: u64,
    /// The new place; `None`: none.
    pub to: Option<NodeId>,
    /// As [`Placement::previous`].
    pub previous: Option<Previous>,
    /// Why, for people.
    pub reason: String,
}

/// The format level of agreed state that this build writes when every member understands it.
/// Raised with every new command and every changed meaning of an old one.
pub const FORMAT_LEVEL: u32 = 1;

impl Command {
    /// The format level agreed state must have before this may be proposed.
    pub const fn format(&self) -> u32 {
        match self {
            Self::Bootstrap { .. }
            | Self::AddNode { .. }
            | Self::UpdateNode { .. }
            | Self::RemoveNode { .. }
            | Self::AddToken { .. }
            | Self::Deploy { .. }
            | Self::SetDesired { .. }
            | Self::Restart { .. }
            | Self::Undeploy { .. }
            | Self::PutOperator { .. }
            | Self::Place { .. }
            | Self::TrustIssuer { .. }
            | Self::Drain { .. }
            | Self::LabelNode { .. }
            | Self::RaiseFormat { .. }
            | Self::Scale { .. }
            | Self::Rollback { .. }
            | Self::Rollout { .. }
            | Self::Purge { .. }
            | Self::FoundGroup { .. }
            | Self::Operations { .. } => 1,
        }
    }
}

/// A command with all that makes applying it deterministic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// A retry bears the same id and applies once.
    pub request: RequestId,
    /// Stamped by the node that applies.
    pub at: WallTime,
    /// On whose behalf.
    pub caller: Caller,
    /// The node that stamped it: the one that led.
    pub leader: NodeId,
    /// The change.
    pub command: Command,
}

/// What applying a proposal did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Position in the order of all changes, from 1.
    pub index: u64,
    /// For a deploy: the revision now in force. Otherwise 0.
    pub revision: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// The operation that began with it; 0: none did.
    pub operation: u64,
}

/// All of desired state at one index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateView {
    /// Position of the last change included.
    pub index: u64,
    /// By name.
    pub services: Vec<ServiceRecord>,
    /// By service and replica.
    pub placements: Vec<Placement>,
    /// By name.
    pub nodes: Vec<NodeRecord>,
    /// By name.
    pub operators: Vec<OperatorRecord>,
    /// PEM of each issuing CA.
    pub cas: Vec<String>,
    /// Ids of nodes and operators that are refused, as `node/<id>` and `operator/<id>`.
    pub denied: Vec<String>,
    /// Format level of agreed state.
    pub format: u32,
    /// Operations that go on or ended lately, oldest first.
    pub operations: Vec<Operation>,
}

impl StateView {
    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&ServiceRecord> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The node of that name or id.
    pub fn node(&self, name_or_id: &str) -> Option<&NodeRecord> {
        self.nodes.iter().find(|n| n.name == name_or_id || n.id.to_string() == name_or_id)
    }
}
