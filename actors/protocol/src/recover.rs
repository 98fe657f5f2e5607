//! Bringing back what a node should run and does not (orchestration §7, §23).

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Message, MessageId};

use crate::ComponentKey;

/// Has nodes start what they should run and do not, from desired state alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverNodes {
    /// Name or id; empty: all.
    pub node: String,
    /// Says what would be started, and starts nothing.
    pub dry_run: bool,
}

impl Message for RecoverNodes {
    const ID: MessageId = MessageId(531);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.recover";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<RecoveredNode>;
}

/// What one node began to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredNode {
    /// Its name.
    pub node: String,
    /// What was down there and is being started, or would be.
    pub started: Vec<ComponentKey>,
    /// Why it did not answer; empty: it did.
    pub error: String,
}
