//! What the monitor answers.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use weft_wire::{ActorKind, Allow, Message, MessageId, WallTime};

use crate::{ComponentKey, ComponentState, Desired, Drift};

/// A component went from one state to another, as its runtime saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Made once; telling it twice records it once.
    pub id: Uuid,
    /// When it happened.
    pub time: WallTime,
    /// Which component.
    pub key: ComponentKey,
    /// What is wanted of it.
    pub desired: Desired,
    /// Before.
    pub prev_state: ComponentState,
    /// After.
    pub new_state: ComponentState,
    /// Why: `deploy`, `reconcile`, `operator`, `self`, `probe`, `takeover`, …
    pub cause: String,
    /// `exit 1`, `signal 9`; empty: nothing exited.
    pub exit: String,
}

/// What the runtime saw, in order. Answered once it is recorded; until then the runtime keeps it
/// and tells it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// At most 1,000.
    pub transitions: Vec<Transition>,
}

impl Message for Observed {
    const ID: MessageId = MessageId(300);
    const ACTOR: ActorKind = ActorKind::Monitor;
    const NAME: &'static str = "monitor.observed";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

/// How the machine is (orchestration §19).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFigures {
    /// When it was read.
    pub at: WallTime,
    /// Cores.
    pub cores: u32,
    /// CPU use of the whole machine since the last look, 0 to 100.
    pub cpu_percent: f64,
    /// Load average over one minute.
    pub load1: f64,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_available: u64,
    /// Bytes, of the file system that holds the data directory.
    pub disk_total: u64,
    /// Bytes, of the file system that holds the data directory.
    pub disk_free: u64,
    /// Seconds since the machine started.
    pub host_uptime_secs: u64,
    /// Seconds since the daemon started.
    pub daemon_uptime_secs: u64,
    /// Resident bytes of the daemon.
    pub daemon_memory: u64,
    /// Machine architecture, such as `x86_64`.
    pub arch: String,
}

/// How is the machine?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadHost {}

impl Message for ReadHost {
    const ID: MessageId = MessageId(301);
    const ACTOR: ActorKind = ActorKind::Monitor;
    const NAME: &'static str = "monitor.host";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = HostFigures;
}

/// What of this node is not as wanted?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDrift {}

impl Message for ReadDrift {
    const ID: MessageId = MessageId(302);
    const ACTOR: ActorKind = ActorKind::Monitor;
    const NAME: &'static str = "monitor.drift";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<Drift>;
}
