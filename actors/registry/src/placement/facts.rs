//! What the placer is told, as values: nodes, places, what was seen, leases, settings.

use weft_protocol::{Placement, Previous, ServiceRecord};
use weft_wire::NodeId;

/// Everything a decision depends on. The order of the slices does not matter.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Services as agreed, one per name; those undeployed lose their places.
    pub services: &'a [&'a ServiceRecord],
    /// Where replicas live now, one entry per replica.
    pub places: &'a [Place],
    /// Every node of the cluster; a place on any other node is one on a removed node.
    pub nodes: &'a [NodeFacts],
    /// What is known of running replicas. One that is missing is unknown, never absent.
    pub seen: &'a [Sighting],
    /// Leases that may still be held (design §6, fencing). Drop an entry only when its node said
    /// that the replica has stopped.
    pub leases: &'a [Lease],
    /// Numbers.
    pub settings: Settings,
}

/// A node as the deciding node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// For ever.
    pub id: NodeId,
    /// Shown to people; breaks ties.
    pub name: String,
    /// Failure zone; empty: its `zone=` label, if it has one.
    pub zone: String,
    /// `key` or `key=value`. `tier=core` and `tier=worker` restrict the node to services of those
    /// tiers; a node with neither takes both.
    pub labels: Vec<String>,
    /// Thousandths of a core that services may declare; `None`: not known, so not limited.
    pub cpu_millis: Option<u64>,
    /// Bytes that services may declare; `None`: not known, so not limited.
    pub memory: Option<u64>,
    /// CPU use as measured, 0 to 100; from [`BUSY_PERCENT`] on, other nodes are taken first.
    pub load_percent: Option<u8>,
    /// Gives its work away.
    pub draining: bool,
    /// What membership says.
    pub liveness: Liveness,
    /// Version of its daemon; rebalancing pauses while they differ.
    pub version: String,
    /// Where its fabric listens, `ip:port`: nodes of one address are one machine.
    pub address: String,
}

/// From this CPU use on a node is chosen only when no other will do. Percent.
pub const BUSY_PERCENT: u8 = 95;

impl NodeFacts {
    /// The failure zone: the node's own, else that of its labels, else empty.
    pub fn zone(&self) -> &str {
        if !self.zone.is_empty() {
            return &self.zone;
        }
        self.labels.iter().find_map(|label| label.strip_prefix("zone=")).unwrap_or("")
    }
}

/// What membership says of a node (design §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Answers.
    Ready,
    /// Silent, not yet given up.
    Suspect,
    /// The host lives, its daemon does not answer; nothing moves.
    DaemonDown,
    /// Said that it stops and when it will be back; nothing moves.
    Away,
    /// Given up.
    Lost {
        /// For so long, in milliseconds since membership said so.
        for_ms: u64,
    },
    /// Left for good.
    Left,
}

/// Where a replica lives, and where it was while it has not become healthy there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Where.
    pub node: NodeId,
    /// Where it was, until [`Decision::settled`](super::Decision::settled) names it.
    pub previous: Option<Previous>,
    /// Why there, as agreed; says the name of a node that was removed.
    pub reason: String,
}

impl Place {
    /// The place an agreed placement names.
    pub fn of(placement: &Placement, previous: Option<Previous>) -> Self {
        Self {
            service: placement.service.clone(),
            replica: placement.replica,
            node: placement.node,
            previous,
            reason: placement.reason.clone(),
        }
    }
}

/// A replica as its node last reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Who reported.
    pub node: NodeId,
    /// What.
    pub state: ReplicaState,
}

/// A whole replica: the worst of its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplicaState {
    /// Nothing is known.
    Unknown,
    /// Assigned or being started.
    Starting,
    /// Runs, its probe has not been good yet.
    Running,
    /// Runs, and its probes are good or it has none.
    Healthy,
    /// Ended, or given up on.
    Failed,
    /// Not running on request.
    Stopped,
}

/// A lease of a replica whose service says `on_partition = "stop"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Who holds or held it.
    pub node: NodeId,
    /// Milliseconds since the last moment at which it can have been renewed.
    pub renewed_ms_ago: u64,
}

/// Numbers a decision depends on. All in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Length of a lease; a replacement waits a tenth longer.
    pub lease_ms: u64,
    /// Wait after the loss of a node, for services that say nothing else.
    pub reschedule_after_ms: u64,
    /// How long the deciding node has led. Leases granted by earlier leaders are not known to
    /// it, so it takes every lease as renewed when it began (design §6).
    pub leading_for_ms: u64,
    /// At most one replica is moved for a better spread within this time.
    pub rebalance_every_ms: u64,
    /// Since one was last moved for that; `None`: never.
    pub since_rebalance_ms: Option<u64>,
    /// A rolling update runs somewhere; rebalancing pauses.
    pub updating: bool,
}

impl Default for Settings {
    /// The numbers of design §6 and 60 s between rebalancings, for a leader of long standing.
    fn default() -> Self {
        Self {
            lease_ms: 3_000,
            reschedule_after_ms: 1_000,
            leading_for_ms: u64::MAX,
            rebalance_every_ms: 60_000,
            since_rebalance_ms: None,
            updating: false,
        }
    }
}
