//! What a message is: a stable number, a version, who may send it, and what comes back.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{ActorKind, Caller, Role};

/// A message's stable number. `1..100` node, `100..200` registry, `200..300` runtime,
/// `300..400` monitor, `400..500` session, `500..600` gateway, `700..800` agreement, from 60000
/// tests and benches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u16);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Traffic classes; messages are ordered per sender and receiver within one (design §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Liveness and membership.
    System = 0,
    /// Everything else.
    Request = 1,
    /// Large or slow transfers.
    Bulk = 2,
}

/// Who may send a message. The default denies everybody, so a type without a rule is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow {
    nodes: bool,
    persons: Option<Role>,
    joiners: bool,
}

impl Allow {
    /// Nobody.
    pub const NOBODY: Self = Self { nodes: false, persons: None, joiners: false };
    /// Peers, speaking for themselves.
    pub const NODES: Self = Self { nodes: true, persons: None, joiners: false };
    /// Admins, and peers.
    pub const ADMINS: Self = Self { nodes: true, persons: Some(Role::Admin), joiners: false };
    /// Persons who are more than guests, and peers.
    pub const USERS: Self = Self { nodes: true, persons: Some(Role::User), joiners: false };
    /// Any person with a certificate or on the local socket, and peers.
    pub const PERSONS: Self = Self { nodes: true, persons: Some(Role::Guest), joiners: false };
    /// Whoever came in over `weft-join/1`, and peers that forward for them.
    pub const JOINERS: Self = Self { nodes: true, persons: None, joiners: true };
    /// Everybody, joiners too; the handler must tell them apart.
    pub const ANYBODY: Self = Self { nodes: true, persons: Some(Role::Guest), joiners: true };

    /// Whether `caller` may send it. A forwarded caller is judged as itself, never as the node
    /// that forwards.
    pub fn permits(&self, caller: &Caller) -> bool {
        use crate::Identity;
        match &caller.identity {
            Identity::Node(_) => self.nodes && caller.role == Role::Node,
            Identity::Operator(_) | Identity::Local { .. } | Identity::Service(_) => {
                self.persons.is_some_and(|least| caller.role != Role::Node && caller.role >= least)
            }
            Identity::Joiner => self.joiners,
        }
    }
}

/// A request with one answer (or none, when told rather than asked).
///
/// Types derive plain serde: no flattening, no skipping, no untagged or internally tagged enums,
/// nothing recursive (the codec is not self-describing). A change of shape is a new version: the
/// old struct stays, [`Message::decode_version`] maps it to the new one.
pub trait Message: Serialize + DeserializeOwned + Clone + Send + 'static {
    /// Stable number.
    const ID: MessageId;
    /// Version of the body's layout this build writes.
    const VERSION: u16 = 1;
    /// The actor that answers it.
    const ACTOR: ActorKind;
    /// Name for logs, metrics and the audit.
    const NAME: &'static str;
    /// Traffic class.
    const CLASS: Class = Class::Request;
    /// Who may send it.
    const ALLOW: Allow = Allow::NOBODY;
    /// Whether sending it twice does no harm; then the address may send it again after the
    /// actor was recreated.
    const IDEMPOTENT: bool = false;
    /// Part of a request that is in the audit already, such as a key somebody typed: recorded
    /// only when it is refused.
    const PART: bool = false;
    /// What is answered.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Decodes a body written at `version`. `None`: this build does not read that version.
    fn decode_version(version: u16, body: &[u8]) -> Option<Result<Self, crate::codec::CodecError>> {
        (version == Self::VERSION).then(|| crate::codec::decode(body))
    }
}

/// A request answered by a stream of items. [`Message::Reply`] is then `()`, sent when the
/// stream has been accepted.
pub trait Subscription: Message<Reply = ()> {
    /// One element of the stream.
    type Item: Serialize + DeserializeOwned + Send + 'static;

    /// What the audit says it is about, beside the address; empty: nothing. No secrets.
    fn about(&self) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, NodeId, OperatorId};
    use uuid::Uuid;

    fn caller(identity: Identity, role: Role) -> Caller {
        Caller { identity, role, via: None }
    }

    #[test]
    fn a_message_without_a_rule_is_denied_to_everybody() {
        for c in [
            Caller::node(NodeId::new(Uuid::nil())),
            caller(Identity::Operator(OperatorId::new(Uuid::nil())), Role::Admin),
            caller(Identity::Local { uid: 0, pid: 1 }, Role::Admin),
            caller(Identity::Joiner, Role::Guest),
        ] {
            assert!(!Allow::NOBODY.permits(&c), "{c:?}");
        }
    }

    #[test]
    fn a_person_never_passes_as_a_node() {
        let forged = caller(Identity::Operator(OperatorId::new(Uuid::nil())), Role::Node);
        assert!(!Allow::NODES.permits(&forged));
        assert!(!Allow::ADMINS.permits(&forged));
    }

    #[test]
    fn guests_and_users_may_not_do_what_admins_may() {
        for role in [Role::Guest, Role::User] {
            let c = caller(Identity::Operator(OperatorId::new(Uuid::nil())), role);
            assert!(!Allow::ADMINS.permits(&c));
            assert!(Allow::PERSONS.permits(&c));
            assert_eq!(Allow::USERS.permits(&c), role == Role::User);
        }
    }

    #[test]
    fn a_joiner_may_send_only_what_joiners_may() {
        let c = caller(Identity::Joiner, Role::Guest);
        assert!(Allow::JOINERS.permits(&c));
        assert!(
            !Allow::PERSONS.permits(&c) && !Allow::ADMINS.permits(&c) && !Allow::NODES.permits(&c)
        );
    }
}
