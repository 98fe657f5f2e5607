//! What members tell each other: gossip, suspicions, and good-byes (message numbers 700 to 719).
//!
//! The layout is our own, not that of the library behind `swim`; golden bytes pin it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Class, Message, MessageId, NodeId};

/// No gossip bears more opinions; one that does is dropped.
pub const OPINIONS_MAX: usize = 1024;

/// One life of a node. Of two, the one with the higher incarnation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Which node.
    pub node: NodeId,
    /// Rises at each start of its daemon, and each time it was declared dead but is not.
    pub incarnation: u64,
}

/// What somebody thinks of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It answers.
    Alive,
    /// It did not answer in time, and may say that it lives.
    Suspect,
    /// It did not say so in time. Final for this life.
    Dead,
}

/// What the sender knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opinion {
    /// Of whom.
    pub life: Life,
    /// How many suspicions that life has refuted.
    pub refuted: u16,
    /// What is thought of it.
    pub health: Health,
}

/// What a gossip is for (SWIM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Answer me.
    Ping {
        /// Probe.
        number: u8,
    },
    /// The answer.
    Ack {
        /// Probe.
        number: u8,
    },
    /// Ping `target` for me.
    PingRequest {
        /// Who did not answer.
        target: Life,
        /// Probe.
        number: u8,
    },
    /// Answer me; I ask for `origin`.
    IndirectPing {
        /// Who wants to know.
        origin: Life,
        /// Probe.
        number: u8,
    },
    /// The answer to that, for `target`.
    IndirectAck {
        /// Who wants to know.
        target: Life,
        /// Probe.
        number: u8,
    },
    /// `origin` answered me.
    ForwardedAck {
        /// Who answered.
        origin: Life,
        /// Probe.
        number: u8,
    },
    /// I want to be a member.
    Announce,
    /// These are the members.
    Feed,
    /// News, no answer expected.
    News,
    /// You are dead to me: begin a new life.
    YouAreDead,
}

/// The one message of the SWIM protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gossip {
    /// The sender; its node must be the peer that the link authenticated.
    pub from: Life,
    /// How many suspicions the sender has refuted.
    pub refuted: u16,
    /// The receiver, as the sender knows it.
    pub to: Life,
    /// What it is for.
    pub purpose: Purpose,
    /// At most [`OPINIONS_MAX`].
    pub opinions: Vec<Opinion>,
}

impl Message for Gossip {
    const ID: MessageId = MessageId(700);
    const ACTOR: ActorKind = ActorKind::Agreement;
    const NAME: &'static str = "membership.gossip";
    const CLASS: Class = Class::System;
    const ALLOW: Allow = Allow::NODES;
    type Reply = ();
}

/// "I suspect you": told to the suspect itself, so that it can refute at once instead of waiting
/// until it hears the rumour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// The life that is suspected.
    pub life: Life,
    /// How many suspicions it has refuted, as far as the sender knows.
    pub refuted: u16,
}

impl Message for Suspicion {
    const ID: MessageId = MessageId(701);
    const ACTOR: ActorKind = ActorKind::Agreement;
    const NAME: &'static str = "membership.suspicion";
    const CLASS: Class = Class::System;
    const ALLOW: Allow = Allow::NODES;
    type Reply = ();
}

/// The sender's daemon stops on purpose. Asked rather than told: the answer says it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// The incarnation that ends.
    pub incarnation: u64,
    /// In how many milliseconds it means to be back; `None`: it leaves for good.
    pub back_in_ms: Option<u64>,
}

impl Leave {
    /// Nobody is away on purpose for longer.
    pub const AWAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// How long it will be away, at most [`Leave::AWAY_MAX`]; `None`: for good.
    pub fn back_in(&self) -> Option<Duration> {
        self.back_in_ms.map(|ms| Duration::from_millis(ms).min(Self::AWAY_MAX))
    }
}

impl Message for Leave {
    const ID: MessageId = MessageId(702);
    const ACTOR: ActorKind = ActorKind::Agreement;
    const NAME: &'static str = "membership.leave";
    const CLASS: Class = Class::System;
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}
