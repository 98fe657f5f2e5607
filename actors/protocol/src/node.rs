//! What the root supervisor answers.

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Class, Message, MessageId, NodeId, WallTime};

use crate::ActorState;

/// Are you there?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {}

/// Yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The answering node.
    pub node: NodeId,
    /// Its wall clock.
    pub clock: WallTime,
}

impl Message for Ping {
    const ID: MessageId = MessageId(1);
    const ACTOR: ActorKind = ActorKind::Node;
    const NAME: &'static str = "node.ping";
    const CLASS: Class = Class::System;
    const ALLOW: Allow = Allow::PERSONS;
    const IDEMPOTENT: bool = true;
    type Reply = Pong;
}

/// One actor of one node (design §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorInfo {
    /// Name of the node.
    pub node: String,
    /// `runtime`, `runtime/web/1/api`, …
    pub path: String,
    /// What it is doing.
    pub state: ActorState,
    /// Since when.
    pub since: WallTime,
    /// Incarnations after the first.
    pub restarts: u64,
    /// Messages waiting.
    pub mailbox_depth: u64,
    /// Messages that may wait.
    pub mailbox_capacity: u64,
    /// Messages handled by all incarnations.
    pub messages: u64,
    /// Messages nobody will handle.
    pub dead_letters: u64,
    /// Why the last incarnation ended; empty: it never did.
    pub last_failure: String,
}

/// The node's supervision tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorTree {}

impl Message for ActorTree {
    const ID: MessageId = MessageId(2);
    const ACTOR: ActorKind = ActorKind::Node;
    const NAME: &'static str = "node.actors";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<ActorInfo>;
}

/// Stops one actor and makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartActor {
    /// Path of the actor, such as `registry` or `runtime/web/1/api`.
    pub path: String,
}

impl Message for RestartActor {
    const ID: MessageId = MessageId(3);
    const ACTOR: ActorKind = ActorKind::Node;
    const NAME: &'static str = "node.restart-actor";
    const ALLOW: Allow = Allow::ADMINS;
    type Reply = ();
}

/// What to do to an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChaosKind {
    /// A handler panics.
    Panic,
    /// A handler blocks its thread.
    Hang,
}

/// Breaks an actor, where the node file says `[chaos] enabled = true` (design §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChaosActor {
    /// Path of the actor.
    pub path: String,
    /// How.
    pub kind: ChaosKind,
}

impl Message for ChaosActor {
    const ID: MessageId = MessageId(4);
    const ACTOR: ActorKind = ActorKind::Node;
    const NAME: &'static str = "node.chaos";
    const ALLOW: Allow = Allow::ADMINS;
    type Reply = ();
}
