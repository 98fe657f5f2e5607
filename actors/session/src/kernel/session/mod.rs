//! One session: what it is bound to, its state, its log. The same records in the same order make
//! the same session, on every node.

mod apply;
mod commitment;
mod lifecycle;
mod message;
mod start;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_macp::macp::v1 as pb;

pub use start::{Stamp, StartRights};

pub(crate) use lifecycle::CYCLES_MAX;
pub(crate) use message::{Draft, check_call};
pub(crate) use start::{SUSPEND_DEFAULT, start};

use super::envelope::VERSION;
use super::modes::{Call, ModeState};
use super::policy::{Authority, BoundPolicy};
use super::{Millis, ModeKind, Rights};

/// Where a session stands; the numbers are those of the wire (§4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionState {
    /// Takes messages.
    Open,
    /// Has a commitment; final.
    Resolved,
    /// Its time is over; final.
    Expired,
    /// Takes no messages until it is resumed.
    Suspended,
    /// Somebody ended it; final.
    Cancelled,
}

impl SessionState {
    /// Whether nothing can change any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Resolved | Self::Expired | Self::Cancelled)
    }

    /// The number on the wire.
    pub const fn wire(self) -> pb::SessionState {
        match self {
            Self::Open => pb::SessionState::Open,
            Self::Resolved => pb::SessionState::Resolved,
            Self::Expired => pb::SessionState::Expired,
            Self::Suspended => pb::SessionState::Suspended,
            Self::Cancelled => pb::SessionState::Cancelled,
        }
    }
}

/// An accepted envelope, as the log holds it; session and mode are the log's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What the payload is.
    pub message_type: String,
    /// Unique in the session.
    pub message_id: String,
    /// Who sent it.
    pub sender: String,
    /// The client's clock, in milliseconds since the Unix epoch.
    pub timestamp_ms: Millis,
    /// As received.
    pub payload: Vec<u8>,
    /// The leader's clock when it was accepted, in milliseconds since the Unix epoch.
    pub accepted_ms: Millis,
}

impl Message {
    /// The envelope as subscribers of the session get it.
    pub fn envelope(&self, session_id: &str, mode: &str) -> pb::Envelope {
        pb::Envelope {
            macp_version: VERSION.into(),
            mode: mode.into(),
            message_type: self.message_type.clone(),
            message_id: self.message_id.clone(),
            session_id: session_id.into(),
            sender: self.sender.clone(),
            timestamp_unix_ms: self.timestamp_ms,
            payload: self.payload.clone(),
        }
    }
}

/// One position in a session's log. New kinds go to the end: logs are kept for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first one; ordinal 1.
    Start {
        /// The mode's id.
        mode: String,
        /// The SessionStart.
        message: Message,
        /// What the leader decided.
        stamp: Box<Stamp>,
    },
    /// From a client; takes an ordinal.
    Message(Message),
    /// From the server itself (§13.4); takes an ordinal, counts as nobody's activity.
    Implicit(Message),
    /// Suspended (§9).
    Suspend {
        /// When.
        at: Millis,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// Resumed (§9).
    Resume {
        /// When.
        at: Millis,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
        /// What was left of the session's life when it was suspended, in milliseconds.
        banked_ms: Millis,
        /// When it expires now.
        deadline_ms: Millis,
    },
    /// Ended by somebody (§9).
    Cancel {
        /// When.
        at: Millis,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// Its time is over.
    Expire {
        /// When that was noticed.
        at: Millis,
    },
    /// The decision's receipt was issued (§16); the first one stays.
    Receipt {
        /// When.
        at: Millis,
        /// The document, byte for byte.
        json: String,
    },
}

impl Record {
    /// The envelope in it, if it takes an ordinal.
    pub fn message(&self) -> Option<&Message> {
        match self {
            Self::Start { message, .. } | Self::Message(message) | Self::Implicit(message) => {
                Some(message)
            }
            _ => None,
        }
    }
}

/// What happened to a session, for whoever watches sessions (§11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lifecycle {
    /// It began.
    Created,
    /// It was committed.
    Resolved,
    /// Its time was over.
    Expired,
    /// It was suspended.
    Suspended,
    /// It goes on.
    Resumed,
    /// It was ended.
    Cancelled,
}

/// The participants in their order, and a way to find one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Roster {
    ids: Vec<String>,
    /// Positions, by id.
    sorted: Vec<u32>,
}

impl Roster {
    fn new(ids: Vec<String>) -> Self {
        let mut sorted: Vec<u32> = (0..ids.len()).filter_map(|at| at.try_into().ok()).collect();
        sorted.sort_by(|a, b| ids.get(*a as usize).cmp(&ids.get(*b as usize)));
        Self { ids, sorted }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &String> {
        self.ids.iter()
    }

    pub(crate) fn position(&self, id: &str) -> Option<u32> {
        let at = self.sorted.binary_search_by(|at| self.name_of(*at).cmp(id)).ok()?;
        self.sorted.get(at).copied()
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.position(id).is_some()
    }

    /// The participant there; empty if there is none.
    pub(crate) fn name_of(&self, at: u32) -> &str {
        self.ids.get(at as usize).map_or("", String::as_str)
    }
}

/// What a session is bound to for its life (§7); never read again from anything live.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    pub(crate) session_id: String,
    pub(crate) mode: String,
    pub(crate) kind: ModeKind,
    pub(crate) initiator: String,
    pub(crate) roster: Roster,
    pub(crate) mode_version: String,
    pub(crate) configuration_version: String,
    pub(crate) policy: BoundPolicy,
    pub(crate) context_id: String,
    pub(crate) extension_keys: Vec<String>,
    pub(crate) started_ms: Millis,
    pub(crate) max_suspend_ms: Millis,
}

impl Bound {
    /// Whether policies mean something: in the five modes of the standard.
    pub(crate) fn is_governed(&self) -> bool {
        !matches!(self.kind, ModeKind::MultiRound | ModeKind::Dynamic { .. })
    }

    /// Whether this sender may commit (§8.2).
    pub(crate) fn may_commit(&self, sender: &str) -> bool {
        let initiator = sender == self.initiator;
        match &self.policy.rules().authority {
            _ if !self.is_governed() => initiator,
            Authority::Initiator => initiator,
            Authority::Participants => initiator || self.roster.contains(sender),
            Authority::Designated(roles) => roles.iter().any(|role| role == sender),
        }
    }

    /// Whether this sender may cancel, suspend and resume (§9).
    pub(crate) fn may_control(&self, sender: &str) -> bool {
        sender == self.initiator || self.may_commit(sender)
    }
}

/// The commitment that resolved the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Resolution {
    pub(crate) ordinal: u64,
    /// The payload, or a summary in modes that keep one (§8.2).
    pub(crate) bytes: Vec<u8>,
}

/// What changes while a session lives.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Core {
    pub(crate) state: SessionState,
    /// Length of the log.
    pub(crate) position: u64,
    /// Ordinal of the last envelope.
    pub(crate) ordinal: u64,
    pub(crate) deadline_ms: Millis,
    /// Time of the last record; none may be earlier.
    pub(crate) last_ms: Millis,
    pub(crate) suspended_at: Option<Millis>,
    /// Time suspended in completed suspensions, in milliseconds.
    pub(crate) suspended_ms: Millis,
    /// Completed suspensions.
    pub(crate) cycles: u32,
    pub(crate) mode: ModeState,
    pub(crate) resolution: Option<Resolution>,
}

/// All that decides whether a message is accepted, its id apart: small, and cheap to copy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    pub(crate) bound: Arc<Bound>,
    pub(crate) core: Core,
}

impl Head {
    pub(crate) fn call<'a>(
        &'a self,
        sender: &'a str,
        message_type: &'a str,
        payload: &'a [u8],
        at: Millis,
    ) -> Call<'a> {
        Call {
            bound: &self.bound,
            sender,
            message_type,
            payload,
            at,
            suspended_ms: self.core.suspended_ms,
            by_server: false,
        }
    }

    /// When the server accepts an offer for its target (§13.4).
    pub(crate) fn implicit_at(&self) -> Option<Millis> {
        self.core.mode.handoff()?.deadline(&self.bound, self.core.suspended_ms)
    }

    /// When the sweep has something to do; only open sessions have it (§8.1).
    pub(crate) fn due_at(&self) -> Option<Millis> {
        if self.core.state != SessionState::Open {
            return None;
        }
        let expiry = self.core.deadline_ms.saturating_add(1);
        Some(self.implicit_at().map_or(expiry, |at| at.min(expiry)))
    }
}

/// What a participant did after the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Activity {
    last_ms: Millis,
    count: u32,
}

/// A session with its whole history.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub(crate) head: Head,
    /// Ids of all accepted envelopes.
    pub(crate) seen: BTreeSet<String>,
    activity: BTreeMap<String, Activity>,
    log: Vec<Arc<Record>>,
    /// Position in the log of each ordinal.
    ordinals: Vec<u32>,
    receipt: Option<u32>,
}

impl Session {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.head.bound.session_id
    }

    /// Where it stands.
    pub fn state(&self) -> SessionState {
        self.head.core.state
    }

    /// Who started it.
    pub fn initiator(&self) -> &str {
        &self.head.bound.initiator
    }

    /// Its mode's id.
    pub fn mode(&self) -> &str {
        &self.head.bound.mode
    }

    /// When it was accepted, in milliseconds since the Unix epoch.
    pub fn started_ms(&self) -> Millis {
        self.head.bound.started_ms
    }

    /// The policy that governs it, as it was when the session began.
    pub fn policy(&self) -> &super::Policy {
        &self.head.bound.policy.policy
    }

    /// Ordinal of the last envelope; the first is 1.
    pub fn last_ordinal(&self) -> u64 {
        self.head.core.ordinal
    }

    /// Length of the log, records without an ordinal included.
    pub fn position(&self) -> u64 {
        self.head.core.position
    }

    /// The whole log, oldest first.
    pub fn log(&self) -> impl ExactSizeIterator<Item = &Arc<Record>> {
        self.log.iter()
    }

    /// The payload of the commitment that resolved it, or the summary that the mode keeps.
    pub fn resolution(&self) -> Option<&[u8]> {
        self.head.core.resolution.as_ref().map(|resolution| &*resolution.bytes)
    }

    /// The receipt that was issued (§16).
    pub fn receipt(&self) -> Option<&str> {
        match self.log.get(self.receipt? as usize)?.as_ref() {
            Record::Receipt { json, .. } => Some(json),
            _ => None,
        }
    }

    /// The envelope of that ordinal, as subscribers get it.
    pub fn envelope(&self, ordinal: u64) -> Option<pb::Envelope> {
        let index = usize::try_from(ordinal.checked_sub(1)?).ok()?;
        let message = self.log.get(*self.ordinals.get(index)? as usize)?.message()?;
        Some(message.envelope(self.id(), self.mode()))
    }

    /// Envelopes with an ordinal over `after`, in order (§10); 0: from the start.
    pub fn envelopes(&self, after: u64) -> impl Iterator<Item = (u64, pb::Envelope)> {
        (after.saturating_add(1)..=self.last_ordinal())
            .filter_map(|ordinal| Some((ordinal, self.envelope(ordinal)?)))
    }

    /// Whether this identity may read it (§2, §10).
    pub fn may_read(&self, rights: &Rights) -> bool {
        rights.is_observer
            || rights.sender == self.initiator()
            || self.head.bound.roster.contains(&rights.sender)
    }

    /// What GetSession and the lists tell (§11).
    pub fn metadata(&self) -> pb::SessionMetadata {
        let bound = &self.head.bound;
        pb::SessionMetadata {
            session_id: bound.session_id.clone(),
            mode: bound.mode.clone(),
            state: self.state().wire().into(),
            started_at_unix_ms: bound.started_ms,
            expires_at_unix_ms: self.head.core.deadline_ms,
            mode_version: bound.mode_version.clone(),
            configuration_version: bound.configuration_version.clone(),
            policy_version: bound.policy.policy.policy_id.clone(),
            participants: bound.roster.ids.clone(),
            participant_activity: self
                .activity
                .iter()
                .map(|(id, activity)| pb::ParticipantActivity {
                    participant_id: id.clone(),
                    last_message_at_unix_ms: activity.last_ms,
                    message_count: activity.count,
                })
                .collect(),
            initiator: bound.initiator.clone(),
            context_id: bound.context_id.clone(),
            extension_keys: bound.extension_keys.clone(),
        }
    }

    /// A digest of the state beside the log: equal on every node that applied the same records.
    pub fn fingerprint(&self) -> [u8; 32] {
        use sha2::Digest as _;
        let bound = &self.head.bound;
        let parts = (&self.head.core, &self.seen, &self.activity, &self.ordinals, self.receipt);
        let identity = (
            (&bound.session_id, &bound.mode, &bound.kind, &bound.initiator, &bound.roster),
            (&bound.mode_version, &bound.configuration_version, &bound.policy.policy),
            (&bound.context_id, &bound.extension_keys, bound.started_ms, bound.max_suspend_ms),
        );
        // Over 16 MiB of state there is no digest, the same everywhere.
        let bytes = weft_wire::codec::encode(&(identity, parts)).unwrap_or_default();
        sha2::Sha256::digest(bytes).into()
    }
}
