//! Where a message goes (design §4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// The actors of a node. The numbers are on the wire and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ActorKind {
    /// The root supervisor: introspection, restart, chaos.
    Node = 0,
    /// Desired state, events, audit.
    Registry = 1,
    /// Components of the node.
    Runtime = 2,
    /// Drift, transitions, host figures.
    Monitor = 3,
    /// MACP sessions.
    Session = 4,
    /// What outsiders talk to.
    Gateway = 5,
    /// Membership and consensus; part of the fabric, not a supervised actor.
    Agreement = 6,
}

impl ActorKind {
    /// Every kind, in wire order.
    pub const ALL: [Self; 7] = [
        Self::Node,
        Self::Registry,
        Self::Runtime,
        Self::Monitor,
        Self::Session,
        Self::Gateway,
        Self::Agreement,
    ];

    /// The name in addresses, tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Registry => "registry",
            Self::Runtime => "runtime",
            Self::Monitor => "monitor",
            Self::Session => "session",
            Self::Gateway => "gateway",
            Self::Agreement => "agreement",
        }
    }

    /// The kind of a wire number, or `None` for one this build does not know.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for ActorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ActorKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("`{text}` is not an actor: expected one of {}", names.join(", "))
        })
    }
}

/// Which node's actor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// The node that receives the message.
    Here,
    /// The node that applies agreed state (`@leader`).
    Leader,
    /// Any live node (`@*`); the sender's own first.
    Any,
    /// One node, by id.
    Node(NodeId),
    /// One node, by name; resolved by the node that receives the message.
    Named(String),
}

/// `actor@node`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Which actor.
    pub actor: ActorKind,
    /// On which node.
    pub target: Target,
}

impl Address {
    /// An actor of the node that receives the message.
    pub const fn here(actor: ActorKind) -> Self {
        Self { actor, target: Target::Here }
    }

    /// The actor on the node that applies agreed state.
    pub const fn leader(actor: ActorKind) -> Self {
        Self { actor, target: Target::Leader }
    }

    /// The actor on one node.
    pub const fn on(actor: ActorKind, node: NodeId) -> Self {
        Self { actor, target: Target::Node(node) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Here => write!(f, "{}", self.actor),
            Target::Leader => write!(f, "{}@leader", self.actor),
            Target::Any => write!(f, "{}@*", self.actor),
            Target::Node(id) => write!(f, "{}@{id}", self.actor),
            Target::Named(name) => write!(f, "{}@{name}", self.actor),
        }
    }
}
