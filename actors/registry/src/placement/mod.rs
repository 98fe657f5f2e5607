//! The placer: which replica lives where (orchestration §24, design §6, §9, §11).
//!
//! [`decide()`] is a pure function from what is known to the smallest set of changes. Whoever leads
//! calls it after every change of its input and when [`Decision::ask_again_ms`] is over, proposes
//! the moves, and calls it again; a node without a majority does not call it at all.
//!
//! What may move a replica, in the order in which it is looked at:
//!
//! | kind | why |
//! |---|---|
//! | [`Removed`](MoveKind::Removed) | its service is gone, or has fewer replicas now |
//! | [`Returned`](MoveKind::Returned) | its lost node is back with it before the replacement is healthy |
//! | [`Pinned`](MoveKind::Pinned) | its definition names another `node` |
//! | [`NodeLost`](MoveKind::NodeLost), [`NodeGone`](MoveKind::NodeGone) | its node is lost, has left or was removed |
//! | [`Placed`](MoveKind::Placed) | it has no place |
//! | [`Drained`](MoveKind::Drained) | its node gives its work away |
//! | [`Rebalanced`](MoveKind::Rebalanced) | nothing is wrong, and the spread gets better by it |
//!
//! Everything else stays: a change of labels, resources or rules moves nothing.
//!
//! A target must be ready, not draining, of the service's tier, fulfil `require`, have room and
//! free host ports; `node` in the definition replaces tier and rules. Of those that fit, the
//! first is taken by: fewest replicas of the service, `prefer` and `avoid`, fewest replicas of
//! the service in the zone, not busy, most memory and then CPU free afterwards (where the service
//! declares them), fewest components, name. With `colocate` the spread over nodes and zones does
//! not count. A preference is an operator's word and outranks the zones, which are our own.

mod decide;
mod facts;
mod rebalance;
mod rules;
mod settle;
mod table;
mod words;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use decide::decide;
pub use facts::{
    BUSY_PERCENT, Input, Lease, Liveness, NodeFacts, Place, ReplicaState, Settings, Sighting,
};
pub use settle::{Settled, lost, settle};

pub use weft_protocol::Previous;
use weft_protocol::ReplicaKey;
use weft_wire::NodeId;

/// What to change, and why what does not change does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// At most one per replica; each is good whether or not the others are carried out.
    pub moves: Vec<Move>,
    /// Replicas that are healthy where they are now: forget their previous place.
    pub settled: Vec<ReplicaKey>,
    /// Replicas that lack a place or ought to leave theirs and cannot, or cannot yet.
    pub waiting: Vec<Waiting>,
    /// What is wrong with the input.
    pub problems: Vec<Problem>,
    /// If nothing happens before, ask again after so many milliseconds; `None`: no need.
    pub ask_again_ms: Option<u64>,
}

/// A change of place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Where it is; `None`: nowhere.
    pub from: Option<NodeId>,
    /// Where it goes; `None`: nowhere, either for good or because it has to stop first.
    pub to: Option<NodeId>,
    /// The previous place to remember with the new one, until it is settled.
    pub previous: Option<Previous>,
    /// Why, as a kind.
    pub kind: MoveKind,
    /// Why, for people.
    pub reason: String,
}

/// Why a replica moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoveKind {
    /// It had no place.
    Placed,
    /// It is no longer wanted.
    Removed,
    /// Its definition names another node.
    Pinned,
    /// Its node was lost for longer than `reschedule_after`.
    NodeLost,
    /// Its node has left or was removed.
    NodeGone,
    /// Its lost node is back in time; the replacement is cancelled.
    Returned,
    /// Its node gives its work away.
    Drained,
    /// For a better spread.
    Rebalanced,
}

/// A replica that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// The node it is on or waits for.
    pub node: Option<NodeId>,
    /// What for.
    pub kind: WaitKind,
    /// What for, for people.
    pub reason: String,
}

/// What a replica waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitKind {
    /// A certain node: it is pinned there or keeps data there.
    Node,
    /// Any node that fits and has room; one that has a place keeps it meanwhile.
    Room,
    /// `reschedule_after` of its lost node.
    Grace,
    /// The surely ended lease of the copy that may still run.
    Lease,
    /// Its turn to leave a draining node.
    Turn,
    /// The end of a move: the new copy healthy, or the old one stopped.
    Handover,
    /// It cannot leave a draining node: it is pinned there or keeps data there.
    Stays,
}

/// Something in the input that keeps the placer from doing what was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A rule that is not a label expression. In `require` nothing of the service is placed;
    /// elsewhere the rule is passed over.
    #[error(
        "{service}: [placement] {list}: `{text}` is not a label expression: write ssd, zone=a or arch!=arm64"
    )]
    Rule {
        /// The service.
        service: String,
        /// `require`, `prefer` or `avoid`.
        list: &'static str,
        /// The expression as written.
        text: String,
    },
    /// More is declared by what is placed on a node than the node has; nothing moves for it.
    #[error(
        "{node}: {declared} {what} declared by what is placed there, {capacity} available: move or shrink a service"
    )]
    Overcommitted {
        /// Name of the node.
        node: String,
        /// `memory` or `CPU`.
        what: &'static str,
        /// For people.
        declared: String,
        /// For people.
        capacity: String,
    },
}
