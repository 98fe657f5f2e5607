//! Who is speaking, as a value. Certificates are `weft-identity`'s business.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{NodeId, OperatorId};

/// What a caller may do at most (design §3; orchestration §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads only what a policy grants.
    Guest,
    /// By policy, default deny.
    User,
    /// Everything a person may do.
    Admin,
    /// A peer of the cluster.
    Node,
}

impl Role {
    /// The role's name in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::User => "user",
            Self::Admin => "admin",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Identity {
    /// A node, by certificate.
    Node(NodeId),
    /// A person, by certificate.
    Operator(OperatorId),
    /// A service of the cluster, by certificate.
    Service(String),
    /// A person on this machine, through the local socket.
    Local {
        /// User id, from the socket's peer credentials.
        uid: u32,
        /// Process id, from the socket's peer credentials.
        pid: u32,
    },
    /// Nobody yet: the other side of `weft-join/1`.
    Joiner,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Operator(id) => write!(f, "operator/{id}"),
            Self::Service(name) => write!(f, "service/{name}"),
            Self::Local { uid, .. } => write!(f, "local/uid-{uid}"),
            Self::Joiner => f.write_str("joiner"),
        }
    }
}

/// On whose behalf a message is sent. Travels with every message; the target checks it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Who it is.
    pub identity: Identity,
    /// What they may do, as the entry node resolved it. The target lowers it, never raises it.
    pub role: Role,
    /// The node that vouches for the identity, when it was forwarded.
    pub via: Option<NodeId>,
}

impl Caller {
    /// A node speaking for itself.
    pub const fn node(id: NodeId) -> Self {
        Self { identity: Identity::Node(id), role: Role::Node, via: None }
    }

    /// Whether this is a person, a client or a joiner: those are audited (design §3).
    pub const fn is_audited(&self) -> bool {
        !matches!(self.identity, Identity::Node(_))
    }
}
