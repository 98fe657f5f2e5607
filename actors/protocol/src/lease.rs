//! Leases of replicas whose service says `on_partition = "stop"` (design §6, fencing).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Class, Message, MessageId};

use crate::ReplicaKey;

/// A lease lasts so long from the moment at which its node sent the request for it.
pub const LEASE: Duration = Duration::from_secs(3);

/// Who leads takes a lease as held for so long from the moment at which it had the request: a
/// tenth more, for clocks that run at different speeds and for the time a kill takes.
pub const LEASE_HELD: Duration = Duration::from_millis(3_300);

/// A lease that a node asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseClaim {
    /// Of which replica.
    pub replica: ReplicaKey,
    /// Of the placement that the node acts for.
    pub generation: u64,
    /// It had a lease for this generation before: then nobody else has had one since.
    pub had: bool,
}

/// A node asks whoever leads for the leases of its fenced replicas, and gives back those of
/// replicas that have stopped. Each node speaks for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewLeases {
    /// Grows with every request of the node since it was booted.
    pub round: u64,
    /// What it runs or wants to run.
    pub claims: Vec<LeaseClaim>,
    /// Nothing of these runs there, and nothing is started before a lease of a later round.
    pub stopped: Vec<ReplicaKey>,
}

impl Message for RenewLeases {
    const ID: MessageId = MessageId(114);
    const ACTOR: ActorKind = ActorKind::Registry;
    const NAME: &'static str = "registry.renew-leases";
    const CLASS: Class = Class::System;
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<LeaseAnswer>;
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// Of which replica.
    pub replica: ReplicaKey,
    /// Why not, for people; `None`: granted, for [`LEASE`] from when the request was sent.
    pub refused: Option<String>,
}
