//! What components and machines use (`weft stats`, `weft top`; orchestration §7).

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Message, MessageId, Subscription, WallTime};

use crate::{CommandRef, ComponentKey, Event, HostFigures, NodeReply, NodeRow, PsReply};

/// What a running component uses; counters since its start. Rates come from two of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentUsage {
    /// Which.
    pub key: ComponentKey,
    /// When it was read, by its node's clock.
    pub at: WallTime,
    /// Nanoseconds of processor time.
    pub cpu: u64,
    /// Bytes of memory in use: of a process the resident memory of all its processes, of a
    /// container what its cgroup counts, without the page cache that can be given back.
    pub memory: u64,
    /// Bytes it may use; 0: as many as there are.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks.
    pub read: u64,
    /// Bytes written to disks.
    pub written: u64,
    /// Bytes received; `None`: not counted for it alone, as of processes.
    pub received: Option<u64>,
    /// Bytes sent; as `received`.
    pub sent: Option<u64>,
    /// Why it could not be read, the figures being 0 then; empty: it could.
    pub error: String,
}

impl ComponentUsage {
    /// Hundredths of one core since an earlier reading; `None`: no time has passed, or it was
    /// started anew.
    pub fn cpu_percent(&self, before: &Self) -> Option<f64> {
        let passed = self.at.since(before.at).as_nanos();
        let used = self.cpu.checked_sub(before.cpu)?;
        if passed == 0 || !self.error.is_empty() || !before.error.is_empty() {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let share = used as f64 / passed as f64;
        Some(share * 100.0)
    }
}

/// What components of this node use now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadUsage {
    /// Which; `None`: all.
    pub target: Option<CommandRef>,
}

impl Message for ReadUsage {
    const ID: MessageId = MessageId(253);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.usage";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<ComponentUsage>;
}

/// What components of the whole cluster use, read again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterUsage {
    /// Which; `None`: all.
    pub target: Option<CommandRef>,
    /// Milliseconds between two readings, at least 250; the second comes after at most 500.
    pub every_ms: u32,
    /// So many readings; 0: until nobody listens any more.
    pub rounds: u32,
    /// Nodes, services and events too.
    pub overview: bool,
}

impl Message for ClusterUsage {
    const ID: MessageId = MessageId(553);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.usage";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for ClusterUsage {
    type Item = UsageView;
}

/// One reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageView {
    /// By service, replica and component.
    pub rows: Vec<UsageRow>,
    /// How each node answered.
    pub nodes: Vec<NodeReply>,
    /// Where it was asked for.
    pub overview: Option<Overview>,
}

/// A component and the node it is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Name of the node.
    pub node: String,
    /// What it uses.
    pub usage: ComponentUsage,
}

/// Everything else that `weft top` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// Every node.
    pub nodes: Vec<NodeRow>,
    /// The machines of those that answered, by the node's name.
    pub hosts: Vec<(String, HostFigures)>,
    /// Every component.
    pub ps: PsReply,
    /// The newest events, oldest first.
    pub events: Vec<Event>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_core_comes_from_two_readings() {
        let at = |millis: i64, cpu, error: &str| ComponentUsage {
            key: ComponentKey { service: "web".into(), replica: 1, component: "api".into() },
            at: WallTime::from_micros(millis * 1000),
            cpu,
            memory: 0,
            memory_limit: 0,
            pids: 1,
            read: 0,
            written: 0,
            received: None,
            sent: None,
            error: error.into(),
        };
        let percent = |now: ComponentUsage, before| now.cpu_percent(&before);
        let quarter = percent(at(1000, 250_000_000, ""), at(0, 0, "")).unwrap();
        assert!((quarter - 25.0).abs() < 0.01, "{quarter}");
        assert_eq!(percent(at(5, 2, ""), at(5, 1, "")), None, "no time");
        assert_eq!(percent(at(1000, 2, ""), at(0, 9, "")), None, "started anew");
        assert_eq!(percent(at(1000, 9, ""), at(0, 0, "no engine")), None, "unread");
    }
}
