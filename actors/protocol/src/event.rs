//! What happened: events of components, nodes, agreement and places, and the audit.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use weft_wire::WallTime;

use crate::{ComponentState, NodeChange};

/// What an event is about, and how it changed. Append only: the order is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A component went from one state to another, as its node saw it.
    Component {
        /// Before.
        from: ComponentState,
        /// After.
        to: ComponentState,
    },
    /// What became of a node, as agreed or as the node that led saw it.
    Node {
        /// What.
        to: NodeChange,
    },
    /// A consensus group has another leader, or the same one in a new term.
    Leader {
        /// `control`, …
        group: String,
        /// Raft's term.
        term: u64,
        /// Who led before; empty: not known to the one who leads now.
        from: String,
        /// Who leads.
        to: String,
    },
    /// Others vote in a consensus group.
    Voters {
        /// `control`, …
        group: String,
        /// Names, sorted.
        from: Vec<String>,
        /// Names, sorted.
        to: Vec<String>,
    },
    /// A replica has another place.
    Placement {
        /// Name of the node; empty: none.
        from: String,
        /// Name of the node; empty: none.
        to: String,
    },
}

impl EventKind {
    /// The name in JSON and the database.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Component { .. } => "component",
            Self::Node { .. } => "node",
            Self::Leader { .. } => "leader",
            Self::Voters { .. } => "voters",
            Self::Placement { .. } => "placement",
        }
    }
}

/// One change: of a component (orchestration §5, §6), or of who is there, who leads, who votes and
/// what is placed where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Made where it was seen, or derived from the agreed entry that brought it, so that every
    /// node gives it the same: recording it twice records it once.
    pub id: Uuid,
    /// When it happened.
    pub time: WallTime,
    /// Name of the node it is about: where the component is, who leads, where a replica is placed
    /// (or was, if it has no place now). Empty where it is about none.
    pub node: String,
    /// Empty for events of a node.
    pub service: String,
    /// Empty for events of a node or a replica.
    pub component: String,
    /// 0 where it does not apply.
    pub replica: u32,
    /// What changed.
    pub kind: EventKind,
    /// Of a component: `deploy`, `reconcile`, `operator`, `self` (it ended by itself), `probe`,
    /// `takeover`, … Otherwise a sentence.
    pub cause: String,
    /// `exit 1`, `signal 9`; empty where nothing exited.
    pub exit: String,
    /// Name of the node whose view this is, where nodes may differ; empty: it is agreed, or the
    /// view of `node` itself.
    pub observer: String,
}

impl Event {
    /// Before and after, if it is about a component.
    pub const fn states(&self) -> Option<(ComponentState, ComponentState)> {
        match self.kind {
            EventKind::Component { from, to } => Some((from, to)),
            _ => None,
        }
    }
}

/// Which events are wanted. Empty fields match all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// Of this service.
    pub service: String,
    /// Of this component.
    pub component: String,
    /// Not before.
    pub since: Option<WallTime>,
    /// The newest so many, at most 10,000; 0: 1,000.
    pub limit: u32,
}

impl EventFilter {
    /// Whether `event` is wanted, `limit` aside.
    pub fn matches(&self, event: &Event) -> bool {
        (self.service.is_empty() || self.service == event.service)
            && (self.component.is_empty() || self.component == event.component)
            && self.since.is_none_or(|since| event.time >= since)
    }
}

/// How an audited request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Carried out.
    Ok,
    /// Refused: may not.
    Denied,
    /// Tried, failed.
    Failed,
}

/// One request of a person, a client or a joiner (design §3, "Audit").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When it came in.
    pub time: WallTime,
    /// Who, as `operator/<id>`.
    pub caller: String,
    /// Their role.
    pub role: String,
    /// What: the message's name.
    pub method: String,
    /// To whom: the address.
    pub target: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The error's text, cut at 256 characters; empty when it went well.
    pub error: String,
    /// From receipt to answer, in microseconds.
    pub duration_us: u64,
    /// The trace it belongs to, 32 hex digits; all zero: none.
    pub trace: String,
}
