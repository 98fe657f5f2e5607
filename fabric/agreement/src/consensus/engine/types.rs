//! openraft's type parameters, and the way between its values and ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Cursor;

use openraft::{CommittedLeaderId, EmptyNode, EntryPayload, LogId, StoredMembership, Vote};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use weft_wire::NodeId;

use crate::consensus::wire::{Ballot, Commands, ImageMeta, Item, Members, Payload, Point};

/// A node's id, as openraft wants it: with a default.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(crate) struct RaftId(pub(crate) u128);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NodeId::from(*self).fmt(f)
    }
}

impl From<u64> for RaftId {
    fn from(n: u64) -> Self {
        Self(u128::from(n))
    }
}

impl From<NodeId> for RaftId {
    fn from(id: NodeId) -> Self {
        Self(id.uuid().as_u128())
    }
}

impl From<RaftId> for NodeId {
    fn from(id: RaftId) -> Self {
        Self::new(Uuid::from_u128(id.0))
    }
}

/// What the machine answered to the commands of one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answers(pub(crate) Vec<Vec<u8>>);

openraft::declare_raft_types!(
    /// The one configuration.
    pub(crate) Types:
        D = Commands,
        R = Answers,
        NodeId = RaftId,
        Node = EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type Id = LogId<RaftId>;
pub(crate) type Membership = openraft::Membership<RaftId, EmptyNode>;
pub(crate) type Stored = StoredMembership<RaftId, EmptyNode>;
pub(crate) type Meta = openraft::SnapshotMeta<RaftId, EmptyNode>;
pub(crate) type StorageError = openraft::StorageError<RaftId>;
pub(crate) type StorageIoError = openraft::StorageIOError<RaftId>;

pub(crate) fn point(id: &Id) -> Point {
    Point { term: id.leader_id.term, leader: id.leader_id.node_id.into(), index: id.index }
}

pub(crate) fn id(point: &Point) -> Id {
    LogId::new(CommittedLeaderId::new(point.term, point.leader.into()), point.index)
}

pub(crate) fn ballot(vote: &Vote<RaftId>) -> Ballot {
    Ballot {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id.into(),
        elected: vote.committed,
    }
}

pub(crate) fn vote(ballot: &Ballot) -> Vote<RaftId> {
    let node = ballot.node.into();
    match ballot.elected {
        true => Vote::new_committed(ballot.term, node),
        false => Vote::new(ballot.term, node),
    }
}

pub(crate) fn members(membership: &Membership) -> Members {
    let ids = |set: &BTreeSet<RaftId>| set.iter().map(|id| (*id).into()).collect();
    Members {
        configs: membership.get_joint_config().iter().map(ids).collect(),
        nodes: membership.nodes().map(|(id, _)| (*id).into()).collect(),
    }
}

pub(crate) fn membership(members: &Members) -> Membership {
    let configs = members
        .configs
        .iter()
        .map(|config| config.iter().map(|id| RaftId::from(*id)).collect::<BTreeSet<_>>())
        .collect();
    let nodes: BTreeMap<RaftId, EmptyNode> =
        members.nodes.iter().map(|id| ((*id).into(), EmptyNode {})).collect();
    Membership::new(configs, nodes)
}

pub(crate) fn item(entry: &Entry) -> Item {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(commands) => Payload::Commands(commands.clone()),
        EntryPayload::Membership(membership) => Payload::Members(members(membership)),
    };
    Item { at: point(&entry.log_id), payload }
}

pub(crate) fn entry(item: Item) -> Entry {
    let payload = match item.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Commands(commands) => EntryPayload::Normal(commands),
        Payload::Members(members) => EntryPayload::Membership(membership(&members)),
    };
    Entry { log_id: id(&item.at), payload }
}

pub(crate) fn image_meta(meta: &Meta) -> ImageMeta {
    ImageMeta {
        last: meta.last_log_id.as_ref().map(point),
        members_at: meta.last_membership.log_id().as_ref().map(point),
        members: members(meta.last_membership.membership()),
        id: meta.snapshot_id.clone(),
    }
}

pub(crate) fn meta(image: &ImageMeta) -> Meta {
    let at = image.members_at.as_ref().map(id);
    Meta {
        last_log_id: image.last.as_ref().map(id),
        last_membership: StoredMembership::new(at, membership(&image.members)),
        snapshot_id: image.id.clone(),
    }
}

/// Voters and learners, of all configurations.
pub(crate) fn sets(membership: &Membership) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
    let voters = membership.voter_ids().map(NodeId::from).collect();
    let learners = membership.learner_ids().map(NodeId::from).collect();
    (voters, learners)
}
