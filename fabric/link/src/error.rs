//! Why a link cannot be made or kept, and the codes that say so to the other side.

use std::net::SocketAddr;
use std::path::PathBuf;

use quinn::{ConnectionError, VarInt};
use weft_identity::refusal_hint;
use weft_wire::AskError;

/// The application close codes of a link. On the wire: never renumbered.
pub(crate) mod close {
    use quinn::VarInt;

    /// The client has what it wanted.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// The daemon stops on purpose.
    pub(crate) const GOOD_BYE: VarInt = VarInt::from_u32(1);
    /// A frame lied, or came where it may not.
    pub(crate) const LIE: VarInt = VarInt::from_u32(2);
    /// No certificate where one is required.
    pub(crate) const NO_IDENTITY: VarInt = VarInt::from_u32(3);
    /// The identity is denied or no longer trusted.
    pub(crate) const DENIED: VarInt = VarInt::from_u32(4);
    /// The certificate has reached its end.
    pub(crate) const EXPIRED: VarInt = VarInt::from_u32(5);
    /// The hello was refused.
    pub(crate) const HELLO: VarInt = VarInt::from_u32(6);
    /// Another connection to the same peer is kept instead.
    pub(crate) const DUPLICATE: VarInt = VarInt::from_u32(7);
    /// Too many failed joins.
    pub(crate) const RATE: VarInt = VarInt::from_u32(8);
    /// The peer does not read its answers.
    pub(crate) const NOT_READING: VarInt = VarInt::from_u32(9);
    /// This side listens at another address now.
    pub(crate) const MOVED: VarInt = VarInt::from_u32(10);
}

/// Why a link could not be made, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address} (udp): {reason}; change `[fabric] bind`, or stop what uses the port"
    )]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The local socket cannot be made or reached.
    #[error("cannot use the socket `{}`: {reason}", path.display())]
    Socket {
        /// Which path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another daemon answers on the local socket.
    #[error("another daemon answers on `{}`: stop it first, or use another directory", .0.display())]
    SocketInUse(PathBuf),
    /// The TLS configuration cannot be used.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// Nobody answers at the address.
    #[error("no answer from {0} within {1} ms: is the daemon running, and the address right?")]
    NoAnswer(String, u128),
    /// The peer answered and refused, or we refused it.
    #[error("{0}")]
    Refused(String),
    /// The connection ended.
    #[error("the connection to {peer} ended: {reason}")]
    Lost {
        /// Whom it led to.
        peer: String,
        /// Why it ended.
        reason: String,
    },
    /// What came is not what the protocol allows.
    #[error("the peer broke the link protocol: {0}")]
    Protocol(String),
    /// This fabric listens already, or has been closed.
    #[error("{0}")]
    State(&'static str),
}

impl LinkError {
    pub(crate) fn socket(path: &std::path::Path, reason: impl ToString) -> Self {
        Self::Socket { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl From<LinkError> for AskError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::NoAnswer(..) | LinkError::Lost { .. } => {
                Self::Unreachable(error.to_string())
            }
            LinkError::Refused(reason) => Self::Unreachable(reason),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// What a connection's end means, for people.
pub(crate) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            if reason.is_empty() {
                format!("closed by the peer (code {})", close.error_code)
            } else {
                reason.chars().filter(|c| !c.is_control()).take(400).collect()
            }
        }
        ConnectionError::ConnectionClosed(close) => {
            let code = u64::from(close.error_code);
            match u8::try_from(code & 0xff).ok().filter(|_| (0x100..0x200).contains(&code)) {
                Some(alert) => refusal_hint(alert).map_or_else(
                    || format!("the peer refused the handshake (alert {alert})"),
                    str::to_owned,
                ),
                None => format!("closed by the peer's transport: {close}"),
            }
        }
        ConnectionError::TimedOut => "no sign of life from the peer".to_owned(),
        ConnectionError::LocallyClosed => "closed by this side".to_owned(),
        ConnectionError::Reset => "the peer does not know this connection any more".to_owned(),
        ConnectionError::TransportError(error) if !error.reason.is_empty() => {
            // Our own verifier's words, without rustls' wrapping.
            let bare = error
                .reason
                .strip_prefix("invalid peer certificate: Other(OtherError(")
                .and_then(|rest| rest.strip_suffix("))"));
            bare.unwrap_or(&error.reason).to_owned()
        }
        other => other.to_string(),
    }
}

/// The application code a connection was closed with by the peer.
pub(crate) fn closed_with(error: &ConnectionError) -> Option<VarInt> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code),
        _ => None,
    }
}
