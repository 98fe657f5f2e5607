//! Who is who, as this node knows it from agreed state: names, addresses, roles, denials.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use weft_wire::{Caller, Identity, NodeId, OperatorId, Role};

/// A node that can be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEntry {
    /// Its id, which its certificate must bear.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where its fabric listens; `None`: not known yet.
    pub address: Option<SocketAddr>,
}

/// A snapshot; replaced whole when agreed state changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// Every node, this one included.
    pub nodes: HashMap<NodeId, PeerEntry>,
    /// The node that applies agreed state.
    pub leader: Option<NodeId>,
    /// What each operator may do.
    pub operators: HashMap<OperatorId, Role>,
    /// `node/<id>` and `operator/<id>` that are refused.
    pub denied: HashSet<String>,
}

impl Directory {
    /// The node of that name.
    pub fn by_name(&self, name: &str) -> Option<&PeerEntry> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// Whether that identity is refused.
    pub fn is_denied(&self, identity: &Identity) -> bool {
        !self.denied.is_empty() && self.denied.contains(&identity.to_string())
    }

    /// The caller with the role this node gives it, never a higher one than it came with; `None`:
    /// refused. A forwarding node vouches for the identity, not for the rights (design §3).
    pub fn judge(&self, mut caller: Caller) -> Option<Caller> {
        if self.is_denied(&caller.identity) {
            return None;
        }
        let most = match &caller.identity {
            Identity::Node(_) => Role::Node,
            Identity::Operator(id) => *self.operators.get(id)?,
            Identity::Local { .. } => Role::Admin,
            Identity::Service(_) => Role::User,
            Identity::Joiner => Role::Guest,
        };
        if !matches!(caller.identity, Identity::Node(_)) {
            caller.role = caller.role.min(most);
        } else if caller.via.is_some() {
            // A node speaks for itself, over its own link, or not at all.
            return None;
        }
        Some(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn operator(n: u128) -> OperatorId {
        OperatorId::new(Uuid::from_u128(n))
    }

    fn caller(identity: Identity, role: Role, via: Option<NodeId>) -> Caller {
        Caller { identity, role, via }
    }

    #[test]
    fn a_forwarded_role_is_lowered_to_what_this_node_knows_and_never_raised() {
        let mut directory = Directory::default();
        directory.operators.insert(operator(1), Role::User);
        let judged = |role| {
            directory
                .judge(caller(Identity::Operator(operator(1)), role, None))
                .map(|caller| caller.role)
        };
        assert_eq!(judged(Role::Admin), Some(Role::User));
        assert_eq!(judged(Role::Guest), Some(Role::Guest));
    }

    #[test]
    fn unknown_operators_and_denied_ids_are_refused() {
        let mut directory = Directory::default();
        let stranger = caller(Identity::Operator(operator(2)), Role::Admin, None);
        assert_eq!(directory.judge(stranger.clone()), None);
        directory.operators.insert(operator(2), Role::Admin);
        assert!(directory.judge(stranger.clone()).is_some());
        directory.denied.insert(stranger.identity.to_string());
        assert_eq!(directory.judge(stranger), None);
    }

    #[test]
    fn a_node_identity_is_never_forwarded() {
        let node = NodeId::new(Uuid::from_u128(3));
        let forged = caller(Identity::Node(node), Role::Node, Some(node));
        assert_eq!(Directory::default().judge(forged), None);
    }
}
