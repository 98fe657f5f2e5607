//! What the registry answers.

use serde::{Deserialize, Serialize};
use weft_wire::{
    ActorKind, Allow, Caller, Class, Message, MessageId, NodeId, Subscription, WallTime,
};

use crate::{Applied, AuditRecord, Command, Event, EventFilter, Proposal, StateView};

macro_rules! message {
    ($name:ident, $id:literal, $text:literal, $allow:ident, $idempotent:literal, $reply:ty) => {
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::Registry;
            const NAME: &'static str = $text;
            const ALLOW: Allow = Allow::$allow;
            const IDEMPOTENT: bool = $idempotent;
            type Reply = $reply;
        }
    };
}

/// Changes desired state. Any node takes it and forwards it to the one that applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propose {
    /// A retry bears the same id and applies once.
    pub request: weft_wire::RequestId,
    /// The change. Membership and trust commands are refused here: they have messages of their own.
    pub command: Command,
}
message!(Propose, 100, "registry.propose", ADMINS, true, Applied);

/// Desired state as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadState {}
message!(ReadState, 101, "registry.read", ADMINS, true, StateView);

/// Follows desired state from the change after `since` on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchState {
    /// Position of the last change the follower has; 0: none; `u64::MAX`: what it has is not
    /// to be gone by, a snapshot is wanted.
    pub since: u64,
}
message!(WatchState, 102, "registry.watch", NODES, true, ());

/// One step of following.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateUpdate {
    /// Everything; what the follower had is void. The body is the state machine's own snapshot.
    Snapshot {
        /// Position of the last change included.
        index: u64,
        /// Format of `bytes`.
        version: u16,
        /// The snapshot.
        bytes: Vec<u8>,
    },
    /// The next change.
    Entry {
        /// Its position.
        index: u64,
        /// The change.
        proposal: Box<Proposal>,
    },
}

impl Subscription for WatchState {
    type Item = StateUpdate;
}

/// Makes a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueToken {
    /// Good for so many seconds, 1 to 604,800 (7 days).
    pub ttl_secs: u64,
    /// Fixed name for the joiner; empty: the joiner's own.
    pub name: String,
}
message!(IssueToken, 103, "registry.issue-token", ADMINS, false, IssuedToken);

/// A join token, to be shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token's text.
    pub token: String,
    /// No longer good from here on.
    pub expires_at: WallTime,
}

/// A machine asks to become a node, over `weft-join/1` (design §3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCluster {
    /// The token's secret.
    pub secret: Vec<u8>,
    /// The cluster the token names.
    pub cluster: String,
    /// Certificate request, DER. Everything in it but the key is overwritten.
    pub csr: Vec<u8>,
    /// Wished name.
    pub name: String,
    /// Version of the joiner's Weft.
    pub version: String,
    /// The joiner's wall clock; over 5 minutes off is refused.
    pub clock: WallTime,
}
message!(JoinCluster, 104, "registry.join", JOINERS, false, JoinedCluster);

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// Which.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// `ip:port`.
    pub address: String,
}

/// Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedCluster {
    /// The cluster.
    pub cluster: String,
    /// The new node's id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its certificate, PEM, the issuing CA's behind it.
    pub certificate: String,
    /// The trust bundle, PEM.
    pub bundle: String,
    /// All nodes, the leader first.
    pub peers: Vec<PeerAddress>,
}

/// Renews the caller's own certificate: a node's or an operator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewLeaf {
    /// Certificate request, DER.
    pub csr: Vec<u8>,
    /// Set only over `weft-join/1`: the expired certificate's holder, as `node/<id>`; the request's
    /// key must be the one recorded for it (proof of key).
    pub holder: String,
    /// Set only over the local socket: the operator to issue for; empty: the first admin.
    pub operator: String,
}

impl Message for RenewLeaf {
    const ID: MessageId = MessageId(105);
    const ACTOR: ActorKind = ActorKind::Registry;
    const NAME: &'static str = "registry.renew";
    // Persons renew their own, nodes theirs, and an expired node comes in as a joiner; the
    // handler tells them apart.
    const ALLOW: Allow = Allow::ANYBODY;
    const IDEMPOTENT: bool = true;
    type Reply = RenewedLeaf;
}

/// A renewed certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedLeaf {
    /// The certificate, PEM, the issuing CA's behind it.
    pub certificate: String,
    /// The trust bundle, PEM.
    pub bundle: String,
    /// When it expires.
    pub not_after: WallTime,
    /// Who it is for, for people: the operator's or node's name.
    pub name: String,
    /// `node/<id>` or `operator/<id>`.
    pub holder: String,
}

/// A node tells where it listens and what it runs; sent at its start and when that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportNode {
    /// `ip:port`.
    pub address: String,
    /// Version of its daemon.
    pub version: String,
    /// Zone.
    pub zone: String,
    /// Labels.
    pub labels: Vec<String>,
    /// SHA-256 of its public key, hex.
    pub key_fingerprint: String,
}
message!(ReportNode, 106, "registry.report-node", NODES, true, Applied);

/// Stores events of this node. Events already stored are left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordEvents {
    /// At most 1,000.
    pub events: Vec<Event>,
}
message!(RecordEvents, 107, "registry.record-events", NODES, true, ());

/// Reads events of this node, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryEvents {
    /// Which.
    pub filter: EventFilter,
}
message!(QueryEvents, 108, "registry.query-events", ADMINS, true, Vec<Event>);

/// Reads events of this node, then those to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowEvents {
    /// Which.
    pub filter: EventFilter,
}
message!(FollowEvents, 109, "registry.follow-events", ADMINS, true, ());

impl Subscription for FollowEvents {
    type Item = Event;
}

/// Stores audit records of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAudit {
    /// At most 1,000.
    pub records: Vec<AuditRecord>,
}

impl Message for RecordAudit {
    const ID: MessageId = MessageId(110);
    const ACTOR: ActorKind = ActorKind::Registry;
    const NAME: &'static str = "registry.record-audit";
    const CLASS: Class = Class::Bulk;
    const ALLOW: Allow = Allow::NODES;
    type Reply = ();
}

/// Reads audit records of this node, newest last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryAudit {
    /// Not before.
    pub since: Option<WallTime>,
    /// The newest so many, at most 10,000.
    pub limit: u32,
}
message!(QueryAudit, 111, "registry.query-audit", ADMINS, true, Vec<AuditRecord>);

impl Propose {
    /// The proposal this becomes once stamped.
    pub fn stamp(self, at: WallTime, caller: Caller) -> Proposal {
        Proposal { request: self.request, at, caller, command: self.command }
    }
}
