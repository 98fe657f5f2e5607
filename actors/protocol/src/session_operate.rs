//! What operators ask of MACP sessions: lists, histories, an end, and the way in from and out to
//! the reference runtime's own files (spec macp-sessions §18).
//!
//! Persons ask these, not MACP clients: who may read a session does not depend on its participants.
//! Every node that holds a copy of a session answers what it has applied.

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Class, Message, MessageId, Subscription};

use crate::{Octets, PolicyView, SessionAnswer, SessionEvent, SessionState, SessionView};

/// Most rows of one answer to [`SurveySessions`].
pub const SURVEY_MAX: u32 = 500;
/// Most bytes of the files of one session in an [`ImportSession`], together.
pub const IMPORT_MAX: usize = 15 << 20;
/// Most bytes of one [`ExportItem::Piece`].
pub const EXPORT_PIECE: usize = 256 << 10;

/// A session and how much there is of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// What clients are told of it.
    pub session: SessionView,
    /// Accepted envelopes: the ordinal of the last one.
    pub messages: u64,
    /// Length of its log, suspensions and the like included.
    pub records: u64,
}

/// Sessions by id, as this node has applied them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurveySessions {
    /// Only those that stand so; empty: all.
    pub states: Vec<SessionState>,
    /// Only those of this mode; empty: all.
    pub mode: String,
    /// Those with an id over this, in byte order; `None`: from the first.
    pub after: Option<String>,
    /// At most so many, up to [`SURVEY_MAX`]; there may be fewer although there are more.
    pub size: u32,
}

/// Answer to [`SurveySessions`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRows {
    /// By id.
    pub rows: Vec<SessionRow>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl Message for SurveySessions {
    const ID: MessageId = MessageId(414);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.survey";
    const ALLOW: Allow = Allow::USERS;
    const IDEMPOTENT: bool = true;
    type Reply = SessionRows;
}

/// A payload as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionPayload {
    /// It is known what it is: JSON text, with the names of the protobuf's fields.
    Json(String),
    /// It is not.
    Bytes(Octets),
}

/// One session; `None`: this node has none of that id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectSession {
    /// Its id.
    pub session_id: String,
}

/// Answer to [`InspectSession`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDetail {
    /// The session.
    pub row: SessionRow,
    /// The policy in force, whole.
    pub policy: PolicyView,
    /// What it was resolved with.
    pub resolution: Option<SessionPayload>,
    /// The receipt that was issued.
    pub receipt: Option<String>,
}

impl Message for InspectSession {
    const ID: MessageId = MessageId(415);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.inspect";
    const ALLOW: Allow = Allow::USERS;
    const IDEMPOTENT: bool = true;
    type Reply = Option<Box<SessionDetail>>;
}

/// One position in a session's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// From 1.
    pub position: u64,
    /// Its place among the envelopes; `None`: it is none.
    pub ordinal: Option<u64>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What it is: the envelope's type, `SessionSuspend`, `SessionResume`, `SessionCancel`,
    /// `TtlExpired` or `Receipt`.
    pub message_type: String,
    /// Of an envelope.
    pub message_id: String,
    /// Who sent it, or had it done; empty: the server by itself.
    pub sender: String,
    /// What it says.
    pub payload: SessionPayload,
}

/// The log of one session in order, each record once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowHistory {
    /// The session.
    pub session_id: String,
    /// Records with a position over this; 0: all.
    pub after: u64,
    /// Whether to go on with what comes, until the session ends.
    pub follow: bool,
}

/// What comes of [`FollowHistory`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HistoryItem {
    /// The next record.
    Record(Box<SessionRecord>),
    /// Last, of one that is followed: nothing changes any more.
    Ended {
        /// How it ended.
        state: SessionState,
    },
    /// Last: this node has no such session.
    Missing,
}

impl Message for FollowHistory {
    const ID: MessageId = MessageId(416);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.history";
    const ALLOW: Allow = Allow::USERS;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for FollowHistory {
    type Item = HistoryItem;

    fn about(&self) -> String {
        session_about(&self.session_id)
    }
}

/// What happens from now on to sessions that this node leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowLifecycle {}

impl Message for FollowLifecycle {
    const ID: MessageId = MessageId(417);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.lifecycle";
    const ALLOW: Allow = Allow::USERS;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for FollowLifecycle {
    type Item = SessionEvent;
}

/// Cancels a session, whoever started it. Only where it is led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSession {
    /// The session.
    pub session_id: String,
    /// Why, for its history.
    pub reason: String,
}

impl Message for EndSession {
    const ID: MessageId = MessageId(418);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.end";
    const ALLOW: Allow = Allow::ADMINS;
    // One that has ended stays as it is.
    const IDEMPOTENT: bool = true;
    type Reply = SessionAnswer;
}

/// A group of logs that share the sessions of a cluster (design §6), as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionGroup {
    /// `session/0`, …
    pub name: String,
    /// Slots of 256 in which sessions begin in it.
    pub slots: u32,
    /// Slots that are another group's by now, but in which sessions still begin in this one.
    pub handing_over: u32,
    /// Whether it is open on this node; if not, what follows is 0.
    pub is_open: bool,
    /// Sessions in memory that have not ended.
    pub live: u64,
    /// Sessions in memory that have ended.
    pub ended: u64,
    /// Ended sessions on disk.
    pub archived: u64,
}

/// The groups of sessions, by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSessionGroups {}

impl Message for ReadSessionGroups {
    const ID: MessageId = MessageId(423);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.groups";
    const ALLOW: Allow = Allow::USERS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<SessionGroup>;
}

/// So many groups share the sessions that begin from now on; groups are only added. The answer:
/// nothing, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleSessions {
    /// Not fewer than there are, at most 32.
    pub groups: u8,
}

impl Message for ScaleSessions {
    const ID: MessageId = MessageId(424);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.scale";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Result<String, String>;
}

/// A session as the reference runtime keeps it (spec macp-sessions §18), as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSession {
    /// The session.
    pub session_id: String,
}

/// What comes of [`ExportSession`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportItem {
    /// The next bytes of `log.jsonl`, at most [`EXPORT_PIECE`].
    Piece(Octets),
    /// All of `receipt.json`.
    Receipt(String),
    /// What whoever starts the reference from it must know.
    Note(String),
    /// Last: it is whole.
    Whole {
        /// Envelopes in it.
        messages: u64,
    },
    /// Last: this node has no such session.
    Missing,
}

impl Message for ExportSession {
    const ID: MessageId = MessageId(419);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.export";
    const CLASS: Class = Class::Bulk;
    const ALLOW: Allow = Allow::USERS;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for ExportSession {
    type Item = ExportItem;

    fn about(&self) -> String {
        session_about(&self.session_id)
    }
}

/// Takes over a session out of the reference runtime's files (spec macp-sessions §18), with its
/// ordinals, ids and times, whole or not at all. Only where it is led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSession {
    /// Name of its directory.
    pub session_id: String,
    /// `log.jsonl`. All three together have at most [`IMPORT_MAX`] bytes.
    pub log: Octets,
    /// `session.json`; empty: there is none.
    pub snapshot: Octets,
    /// `receipt.json`; empty: there is none.
    pub receipt: Octets,
    /// Only say whether it could be taken over.
    pub check: bool,
}

/// Answer to [`ImportSession`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportOutcome {
    /// It is here now, or could be.
    Imported {
        /// Where it stands.
        state: SessionState,
        /// Its envelopes.
        messages: u64,
        /// What was not as it should be and is no reason to refuse it.
        notes: Vec<String>,
    },
    /// It is here already, with the same history.
    Present {
        /// Where it stands.
        state: SessionState,
        /// Its envelopes.
        messages: u64,
    },
    /// It cannot be taken over: why, and what to do.
    Refused(String),
}

impl Message for ImportSession {
    const ID: MessageId = MessageId(420);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.import";
    const CLASS: Class = Class::Bulk;
    const ALLOW: Allow = Allow::ADMINS;
    // A second time it is there already.
    const IDEMPOTENT: bool = true;
    type Reply = ImportOutcome;
}

/// What the audit says a request is about; cut at 128 characters.
pub fn session_about(session_id: &str) -> String {
    session_id.escape_debug().take(128).collect()
}

/// Base64 with the standard alphabet and padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |n: usize| u32::from(three.get(n).copied().unwrap_or_default());
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        for n in 0..4 {
            let digit = ALPHABET.get(((bits >> (18 - 6 * n)) as usize) & 63);
            let is_there = n <= three.len();
            out.push(digit.filter(|_| is_there).map_or('=', |digit| char::from(*digit)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
