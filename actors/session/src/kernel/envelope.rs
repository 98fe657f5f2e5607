//! What comes in: the envelope, its shape (§6 steps 1 to 4), who sent it (steps 5 to 7), session
//! ids (§7 step 1) and ambient messages (§11.1).

use serde::{Deserialize, Serialize};
use weft_macp::macp::v1 as pb;

use super::{Code, Millis, Refusal};

/// The one protocol version (§3).
pub(crate) const VERSION: &str = "1.0";
/// Default of the payload limit (§17), in bytes.
pub const PAYLOAD_MAX: usize = 1_048_576;
/// Longest session id (§7), in bytes.
const ID_MAX: usize = 128;
/// Fewest characters of an id that is no UUID (§7).
const ID_MIN: usize = 22;
/// A UUID as text.
const UUID_LEN: usize = 36;

/// An envelope whose shape is right and whose sender is known. The version is always 1.0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Id of the mode; empty in ambient messages.
    pub mode: String,
    /// What the payload is.
    pub message_type: String,
    /// Unique in its session.
    pub message_id: String,
    /// Empty in ambient messages.
    pub session_id: String,
    /// Who sent it, as authenticated.
    pub sender: String,
    /// The client's clock, in milliseconds since the Unix epoch; 0 if not set.
    pub timestamp_ms: Millis,
    /// The protobuf of the mode.
    pub payload: Vec<u8>,
}

impl From<pb::Envelope> for Envelope {
    fn from(envelope: pb::Envelope) -> Self {
        Self {
            mode: envelope.mode,
            message_type: envelope.message_type,
            message_id: envelope.message_id,
            session_id: envelope.session_id,
            sender: envelope.sender,
            timestamp_ms: envelope.timestamp_unix_ms,
            payload: envelope.payload,
        }
    }
}

/// Whom an envelope is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Whoever watches signals (§11.1).
    Ambient,
    /// A session that is to begin (§7).
    Start,
    /// A session that is there (§8).
    Session,
}

/// Checks version, required fields and size: what needs no knowledge of the sender.
///
/// # Errors
/// The first of §6 steps 1 to 4 that fails.
pub fn shape(envelope: &pb::Envelope, payload_max: usize) -> Result<Audience, Refusal> {
    if envelope.macp_version != VERSION {
        return Err(Refusal::new(
            Code::UnsupportedProtocolVersion,
            format!("macp_version is `{}`, expected `{VERSION}`", envelope.macp_version),
        ));
    }
    if envelope.message_type.is_empty() || envelope.message_id.is_empty() {
        return Err(Refusal::invalid("message_type and message_id must be set"));
    }
    let (session, mode) = (!envelope.session_id.is_empty(), !envelope.mode.trim().is_empty());
    let audience = match envelope.message_type.as_str() {
        "Signal" if session || !envelope.mode.is_empty() => {
            return Err(Refusal::invalid("a Signal has neither session_id nor mode"));
        }
        "Progress" if session == envelope.mode.is_empty() => {
            return Err(Refusal::invalid("a Progress has both session_id and mode or neither"));
        }
        "Signal" | "Progress" => Audience::Ambient,
        _ if !session || !mode => {
            return Err(Refusal::invalid("session_id and mode must be set"));
        }
        "SessionStart" => Audience::Start,
        _ => Audience::Session,
    };
    if envelope.payload.len() > payload_max {
        return Err(Refusal::new(
            Code::PayloadTooLarge,
            format!("the payload has {} bytes, the limit is {payload_max}", envelope.payload.len()),
        ));
    }
    Ok(audience)
}

/// What an authenticated identity may do (§5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// Becomes the sender of its envelopes.
    pub sender: String,
    /// Modes it may send to; empty: any.
    pub allowed_modes: Vec<String>,
    /// Whether it may start sessions.
    pub can_start_sessions: bool,
    /// Most open sessions that it may have started.
    pub max_open_sessions: Option<u32>,
    /// Whether it may change modes and policies.
    pub can_manage_mode_registry: bool,
    /// Whether it may read every session.
    pub is_observer: bool,
}

impl Rights {
    /// The rights that an identity has if nothing is said about them.
    pub fn of(sender: impl Into<String>) -> Self {
        Self {
            sender: sender.into(),
            allowed_modes: Vec::new(),
            can_start_sessions: true,
            max_open_sessions: None,
            can_manage_mode_registry: false,
            is_observer: false,
        }
    }

    /// Puts the identity's sender into the envelope (§6 steps 6 and 7).
    ///
    /// # Errors
    /// UNAUTHENTICATED if the envelope names another sender, FORBIDDEN without the right to start
    /// or to this mode. The envelope is as it was.
    pub fn claim(&self, envelope: &mut Envelope) -> Result<(), Refusal> {
        if !envelope.sender.is_empty() && envelope.sender != self.sender {
            return Err(Refusal::new(
                Code::Unauthenticated,
                format!("the sender is `{}`, the identity is another", envelope.sender),
            ));
        }
        if envelope.message_type == "SessionStart" && !self.can_start_sessions {
            return Err(Refusal::forbidden("this identity may not start sessions"));
        }
        if !self.allowed_modes.is_empty() && !self.allowed_modes.contains(&envelope.mode) {
            return Err(Refusal::forbidden(format!(
                "this identity may not use mode `{}`",
                envelope.mode
            )));
        }
        envelope.sender.clone_from(&self.sender);
        Ok(())
    }
}

/// Checks the payload of a Signal or Progress (§11.1).
///
/// # Errors
/// INVALID_ENVELOPE.
pub fn ambient(message_type: &str, payload: &[u8]) -> Result<(), Refusal> {
    if payload.is_empty() {
        return Ok(());
    }
    if message_type == "Signal" {
        let signal: pb::SignalPayload = decode(payload)?;
        return required("signal_type", &signal.signal_type);
    }
    decode::<pb::ProgressPayload>(payload).map(|_| ())
}

/// Whether a session may have this id (§7 step 1).
pub fn valid_session_id(id: &str) -> bool {
    if id.len() > ID_MAX {
        return false;
    }
    if id.len() == UUID_LEN && looks_like_a_uuid(id) {
        // Canonical, lower case, version 4 or 7, the variant of RFC 9562.
        return id.bytes().enumerate().all(|(at, byte)| match at {
            14 => matches!(byte, b'4' | b'7'),
            19 => matches!(byte, b'8' | b'9' | b'a' | b'b'),
            _ => !byte.is_ascii_uppercase(),
        });
    }
    id.len() >= ID_MIN && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn looks_like_a_uuid(id: &str) -> bool {
    id.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

/// Decodes a payload; the error is the client's.
pub(crate) fn decode<M: prost::Message + Default>(payload: &[u8]) -> Result<M, Refusal> {
    M::decode(payload).map_err(|error| Refusal::invalid(format!("the payload: {error}")))
}

/// Refuses a field that is empty but for white space.
pub(crate) fn required(field: &str, value: &str) -> Result<(), Refusal> {
    if value.trim().is_empty() {
        return Err(Refusal::invalid(format!("{field} must not be blank")));
    }
    Ok(())
}

/// Encodes a protobuf.
pub(crate) fn encode<M: prost::Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

#[cfg(test)]
mod tests;
