//! What the registry answers.

use serde::{Deserialize, Serialize};
use weft_wire::{
    ActorKind, Allow, Caller, Class, Message, MessageId, NodeId, Subscription, WallTime,
};

use crate::{
    Applied, AuditRecord, Capacity, Command, Event, EventFilter, NodeRole, NodeState, Proposal,
    ServiceSpec, StateView,
};

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
pub struct ReadState {
    /// Not older than any change acknowledged before this was asked: the leader says up to where.
    pub consistent: bool,
}
message!(ReadState, 101, "registry.read", ADMINS, true, StateView);

/// Position of the newest change that was agreed before this was asked: the node that leads asks
/// a majority. Refused by every other node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadHead {}
message!(ReadHead, 118, "registry.head", NODES, true, u64);

/// What membership and consensus know, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAgreement {}
message!(ReadAgreement, 112, "registry.agreement", ADMINS, true, AgreementView);

/// Answer to [`ReadAgreement`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreementView {
    /// The node that answers.
    pub node: Option<NodeId>,
    /// Each node of agreed state.
    pub members: Vec<MemberView>,
    /// Each consensus group that this node has a part in.
    pub groups: Vec<GroupView>,
    /// Format level of agreed state.
    pub format: u32,
    /// What agreed state wants that cannot be had, one line each: `web/2: waiting for n2`.
    pub waiting: Vec<String>,
    /// Why the node that answers does not know what it owns; empty: it does.
    pub unsure: String,
}

impl AgreementView {
    /// What is known of one node.
    pub fn member(&self, id: NodeId) -> Option<&MemberView> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// A node, as membership sees it from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Which.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Alive, or in what way not.
    pub state: NodeState,
    /// Since so many milliseconds.
    pub for_ms: u64,
    /// Its part in the `control` group.
    pub role: NodeRole,
    /// Entries it lacks of what is committed; known to the leader alone.
    pub lag: Option<u64>,
    /// Why it votes or does not, for people.
    pub why: String,
}

/// A consensus group, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// `control`, …
    pub name: String,
    /// Who leads it, if that is known.
    pub leader: Option<NodeId>,
    /// Raft's term.
    pub term: u64,
    /// Newest entry here.
    pub last_log: u64,
    /// Newest entry that a majority has, as far as known here.
    pub committed: u64,
    /// Newest entry that is in force here.
    pub applied: u64,
    /// Newest entry that the stored checkpoint includes.
    pub checkpoint: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who only follows.
    pub learners: Vec<NodeId>,
    /// Milliseconds since this node knew that a majority was there (on the leader) or heard of
    /// the leader (elsewhere); `None`: never since its start.
    pub contact_ms: Option<u64>,
}

/// A node is about to be removed. Whoever leads a group beside `control` gives it no vote there for
/// a while, and hands on the one that it has. Asked of every node, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetGo {
    /// Which.
    pub node: NodeId,
}
message!(LetGo, 128, "registry.let-go", NODES, true, Vec<Vote>);

/// Answer to [`LetGo`], for each group that the node which answers leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The group's name.
    pub group: String,
    /// Why it still needs the node's vote, for people; empty: a majority that leads it has confirmed
    /// that the node does not vote.
    pub held: String,
}

/// What would be placed where if these nodes vanished now (`weft plan --lost`), or where the
/// replicas of a definition would go if it were deployed. Nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanPlacement {
    /// Taken as lost for good.
    pub lost: Vec<NodeId>,
    /// Taken as deployed.
    pub spec: Option<Box<ServiceSpec>>,
}
message!(PlanPlacement, 113, "registry.plan-placement", ADMINS, true, PlacementPlan);

/// Answer to [`PlanPlacement`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementPlan {
    /// In the order they would happen.
    pub moves: Vec<PlannedMove>,
    /// Replicas that would have no place or wait for a node: service, replica, why.
    pub waiting: Vec<(String, u32, String)>,
    /// Where each replica would be at the end: service, replica, node.
    pub places: Vec<(String, u32, NodeId)>,
}

/// One move of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Where it is; `None`: nowhere.
    pub from: Option<NodeId>,
    /// Where it would go; `None`: nowhere.
    pub to: Option<NodeId>,
    /// Why, for people.
    pub reason: String,
}

/// The revisions of a service that are kept, as this node knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadHistory {
    /// Which.
    pub service: String,
}
message!(ReadHistory, 119, "registry.history", ADMINS, true, crate::History);

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
    /// Its [`crate::FORMAT_LEVEL`]; below what the cluster agrees at is refused.
    pub format: u32,
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
    /// PEM of its issuing CA.
    pub ca: String,
    /// What the machine has.
    pub capacity: Capacity,
    /// The newest format level it understands.
    pub format: u32,
}
message!(ReportNode, 106, "registry.report-node", NODES, true, Applied);

/// A node needs a group beside `control`: it is founded if it is not there yet, by the voters of
/// `control`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedGroup {
    /// Its name, such as `session/0`.
    pub name: String,
}
message!(NeedGroup, 129, "registry.need-group", NODES, true, Applied);

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
    pub fn stamp(self, at: WallTime, caller: Caller, leader: NodeId) -> Proposal {
        Proposal { request: self.request, at, caller, leader, command: self.command }
    }
}
