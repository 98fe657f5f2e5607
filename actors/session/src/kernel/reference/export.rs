//! A session as the reference's `log.jsonl`: what it can start from, whole.

use std::collections::BTreeMap;

use prost::Message as _;
use serde::Serialize;
use weft_macp::macp::v1 as pb;

use super::{
    CANCEL, Definition, EXPIRED, ITSELF, Kind, Line, RESUME, REVISION, SNAPSHOT, SUSPEND, built_in,
};
use crate::kernel::envelope::{VERSION, decode};
use crate::kernel::session::{Message, Stamp};
use crate::kernel::{Millis, ModeKind, Record, Session};

/// A session on its way into the reference's files.
#[derive(Debug, Clone)]
pub struct ReferenceLog {
    session: Session,
}

/// What a checkpoint holds, right after the start.
#[derive(Debug, Serialize)]
struct Snapshot<'a> {
    schema_version: u32,
    session_id: &'a str,
    state: &'static str,
    ttl_expiry: Millis,
    ttl_ms: Millis,
    started_at_unix_ms: Millis,
    resolution: Option<Vec<u8>>,
    mode: &'a str,
    /// Empty: as the mode begins.
    mode_state: [u8; 0],
    participants: &'a [String],
    seen_message_ids: [&'a str; 1],
    intent: &'a str,
    mode_version: &'a str,
    configuration_version: &'a str,
    policy_version: &'a str,
    context_id: &'a str,
    extensions: BTreeMap<&'a str, &'a [u8]>,
    roots: Vec<Root<'a>>,
    initiator_sender: &'a str,
    policy_definition: Definition,
    suspended_at_ms: Option<Millis>,
    accumulated_suspended_ms: Millis,
    suspension_intervals: [(Millis, Millis); 0],
    semantics_rev: u32,
    max_suspend_ms: Millis,
}

#[derive(Debug, Serialize)]
struct Root<'a> {
    uri: &'a str,
    name: &'a str,
}

impl ReferenceLog {
    /// Of a session as it is now.
    pub const fn new(session: Session) -> Self {
        Self { session }
    }

    /// The lines of `log.jsonl`, each with its end.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.session.log().flat_map(|record| self.of(record)).filter_map(|line| {
            let mut text = serde_json::to_string(&line).ok()?;
            text.push('\n');
            Some(text)
        })
    }

    /// `receipt.json`, if one was issued.
    pub fn receipt(&self) -> Option<&str> {
        self.session.receipt()
    }

    /// What whoever starts the reference from it must know.
    pub fn notes(&self) -> Vec<String> {
        let bound = &self.session.head.bound;
        match bound.kind {
            ModeKind::Dynamic { .. } => vec![format!(
                "the reference forgets mode `{}` whenever it ends, and then skips this session",
                bound.mode
            )],
            _ => Vec::new(),
        }
    }

    /// A record has one line, a receipt none, a start perhaps two.
    fn of(&self, record: &Record) -> Vec<Line> {
        match record {
            Record::Start { message, stamp, .. } => self.start(message, stamp),
            Record::Message(message) | Record::Implicit(message) => vec![self.envelope(message)],
            Record::Suspend { at, by, reason } => {
                let (reason, suspended_by) = (reason.clone(), by.clone());
                let payload = pb::SessionSuspendPayload { reason, suspended_by };
                vec![self.internal(SUSPEND, *at, payload.encode_to_vec())]
            }
            Record::Resume { at, by, reason, banked_ms, .. } => {
                let (reason, resumed_by) = (reason.clone(), by.clone());
                let payload =
                    pb::SessionResumePayload { reason, resumed_by, banked_ms: *banked_ms };
                vec![self.internal(RESUME, *at, payload.encode_to_vec())]
            }
            Record::Cancel { at, by, reason } => {
                let (reason, cancelled_by) = (reason.clone(), by.clone());
                let payload = pb::SessionCancelPayload { reason, cancelled_by };
                vec![self.internal(CANCEL, *at, payload.encode_to_vec())]
            }
            Record::Expire { at } => vec![self.internal(EXPIRED, *at, Vec::new())],
            Record::Receipt { .. } => Vec::new(),
        }
    }

    fn line(&self, kind: Kind, message_type: &str, at: Millis, payload: Vec<u8>) -> Line {
        Line {
            message_id: String::new(),
            received_at_ms: at,
            sender: ITSELF.into(),
            message_type: message_type.into(),
            raw_payload: payload,
            entry_kind: kind,
            session_id: self.session.id().into(),
            mode: self.session.mode().into(),
            macp_version: VERSION.into(),
            timestamp_unix_ms: at,
            bound_mode_version: None,
            semantics_rev: 0,
            bound_max_suspend_ms: None,
            compacted_incoming_ordinals: 0,
        }
    }

    fn internal(&self, message_type: &str, at: Millis, payload: Vec<u8>) -> Line {
        self.line(Kind::Internal, message_type, at, payload)
    }

    fn envelope(&self, message: &Message) -> Line {
        let Message { message_type, accepted_ms, payload, .. } = message;
        Line {
            message_id: message.message_id.clone(),
            sender: message.sender.clone(),
            timestamp_unix_ms: message.timestamp_ms,
            ..self.line(Kind::Incoming, message_type, *accepted_ms, payload.clone())
        }
    }

    fn start(&self, message: &Message, stamp: &Stamp) -> Vec<Line> {
        // It was read when the session began.
        let payload: pb::SessionStartPayload = decode(&message.payload).unwrap_or_default();
        let is_bound = payload.mode_version.is_empty() && !stamp.mode_version.is_empty();
        let start = Line {
            bound_mode_version: is_bound.then(|| stamp.mode_version.clone()),
            semantics_rev: REVISION,
            bound_max_suspend_ms: Some(stamp.max_suspend_ms),
            ..self.envelope(message)
        };
        let is_known = built_in(&stamp.policy.policy_id).is_some();
        if is_known || !self.session.head.bound.is_governed() {
            return vec![start];
        }
        // Without a checkpoint the reference takes what its registry has under that id now, or
        // nothing. One right behind the start binds the definition and leaves out no history.
        let snapshot = self.snapshot(message, stamp, &payload);
        let bytes = serde_json::to_vec(&snapshot).unwrap_or_default();
        let checkpoint = self.line(Kind::Checkpoint, "Checkpoint", message.accepted_ms, bytes);
        vec![start, checkpoint]
    }

    fn snapshot<'a>(
        &'a self,
        message: &'a Message,
        stamp: &'a Stamp,
        payload: &'a pb::SessionStartPayload,
    ) -> Snapshot<'a> {
        let extensions = payload.extensions.iter();
        let roots = payload.roots.iter();
        Snapshot {
            schema_version: SNAPSHOT,
            session_id: self.session.id(),
            state: "Open",
            ttl_expiry: stamp.deadline_ms,
            ttl_ms: payload.ttl_ms,
            started_at_unix_ms: message.accepted_ms,
            resolution: None,
            mode: self.session.mode(),
            mode_state: [],
            participants: &payload.participants,
            seen_message_ids: [&message.message_id],
            intent: &payload.intent,
            mode_version: &stamp.mode_version,
            configuration_version: &payload.configuration_version,
            policy_version: &stamp.policy.policy_id,
            context_id: &payload.context_id,
            extensions: extensions.map(|(k, v)| (k.as_str(), v.as_slice())).collect(),
            roots: roots.map(|root| Root { uri: &root.uri, name: &root.name }).collect(),
            initiator_sender: &message.sender,
            policy_definition: Definition::from(&stamp.policy),
            suspended_at_ms: None,
            accumulated_suspended_ms: 0,
            suspension_intervals: [],
            semantics_rev: REVISION,
            max_suspend_ms: stamp.max_suspend_ms,
        }
    }
}
