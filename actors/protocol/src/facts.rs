//! What there is to know of a node (orchestration §19).

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Message, MessageId};

use crate::{HostFigures, NodeRow};

/// What runs containers here?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadEngine {}

impl Message for ReadEngine {
    const ID: MessageId = MessageId(262);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.engine";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = EngineFacts;
}

/// Answer to [`ReadEngine`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// `podman` or `docker`; `process`: none was needed or found so far, or the node has none.
    pub kind: String,
    /// As the engine says it; empty without one.
    pub version: String,
    /// Why there is none, where one was looked for.
    pub problem: String,
}

/// What does this node know of itself?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFacts {}

impl Message for ReadFacts {
    const ID: MessageId = MessageId(561);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.facts";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = NodeFacts;
}

/// Answer to [`ReadFacts`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The machine, as far as the monitor has looked.
    pub host: Option<HostFigures>,
    /// What runs containers.
    pub engine: EngineFacts,
    /// Links to other nodes, by name.
    pub peers: Vec<PeerFacts>,
    /// Format level that this build knows (design §4).
    pub format: u32,
}

/// A node as another one sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Its name.
    pub name: String,
    /// The link is up.
    pub up: bool,
    /// Round trip, in µs, while it is up.
    pub rtt_us: Option<u64>,
    /// Its wall clock minus that of the node that tells, in µs, when the link was made.
    pub clock_offset_us: Option<i64>,
}

/// All that is known of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNodeStatus {
    /// Name or id; empty: all.
    pub node: String,
}

impl Message for ClusterNodeStatus {
    const ID: MessageId = MessageId(562);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.node-status";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<NodeStatusRow>;
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatusRow {
    /// As `node list` has it.
    pub node: NodeRow,
    /// All of its labels.
    pub labels: Vec<String>,
    /// It gives its work away.
    pub draining: bool,
    /// Services that have a replica placed there.
    pub services: u64,
    /// Format level of agreed state; 0: not known.
    pub format: u32,
    /// What it says itself; `None`: it does not answer.
    pub facts: Option<NodeFacts>,
}
