//! Forgetting a service that was undeployed, and its data (orchestration §7, `purge`).

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Message, MessageId, RequestId};

/// Has the cluster forget a service that is undeployed and of which nothing runs any more: its
/// definition, its revisions and, if wanted, its data directories on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeService {
    /// A retry bears the same id and applies once.
    pub request: RequestId,
    /// Which.
    pub service: String,
    /// Its data directories go too, on every node, before it is forgotten.
    pub data: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Message for PurgeService {
    const ID: MessageId = MessageId(560);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.purge";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = PurgedService;
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgedService {
    /// Revisions that were kept of it.
    pub revisions: u32,
    /// Names of the nodes whose data directories of it were removed, or would be.
    pub data: Vec<String>,
}

/// Removes the data directories of a service from a node; refused while the node has anything to
/// do for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveData {
    /// Which service.
    pub service: String,
    /// Only say whether there is any.
    pub check: bool,
}

impl Message for RemoveData {
    const ID: MessageId = MessageId(260);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.remove-data";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    /// Whether there was any.
    type Reply = bool;
}
