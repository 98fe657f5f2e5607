//! What happened: events of components, and the audit.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use weft_wire::WallTime;

use crate::ComponentState;

/// One observed change of one component (orchestration §5, §6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Made where it was seen; recording it twice records it once.
    pub id: Uuid,
    /// When it happened.
    pub time: WallTime,
    /// Name of the node.
    pub node: String,
    /// Empty for events of a node.
    pub service: String,
    /// Empty for events of a node or a service.
    pub component: String,
    /// 0 where it does not apply.
    pub replica: u32,
    /// Before.
    pub prev_state: ComponentState,
    /// After.
    pub new_state: ComponentState,
    /// `deploy`, `reconcile`, `operator`, `self` (it ended by itself), `probe`, `takeover`, …
    pub cause: String,
    /// `exit 1`, `signal 9`; empty where nothing exited.
    pub exit: String,
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
