//! What records do. Total: whatever the log holds has one result, and none of them is a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Activity, Bound, Core, Head, Lifecycle, Message, Record, Resolution, Session, SessionState,
};
use crate::kernel::Millis;
use crate::kernel::modes::ModeState;

impl Head {
    /// The state after a session's first record.
    pub(crate) fn new(bound: Bound, deadline_ms: Millis) -> Self {
        let core = Core {
            state: SessionState::Open,
            position: 1,
            ordinal: 1,
            deadline_ms,
            last_ms: bound.started_ms,
            suspended_at: None,
            suspended_ms: 0,
            cycles: 0,
            mode: ModeState::new(&bound.kind),
            resolution: None,
        };
        Self { bound: Arc::new(bound), core }
    }

    pub(crate) fn begin(session_id: &str, record: &Record) -> Option<Self> {
        let Record::Start { stamp, .. } = record else { return None };
        Some(Self::new(Bound::of(session_id, record)?, stamp.deadline_ms))
    }

    /// Applies a record and says what happened to the session, if anything did.
    pub(crate) fn apply(&mut self, record: &Record) -> Option<Lifecycle> {
        self.core.position += 1;
        match record {
            // There is one start, and it is not here.
            Record::Start { .. } => None,
            Record::Message(message) => self.take(message, false),
            Record::Implicit(message) => self.take(message, true),
            Record::Suspend { at, .. } => {
                self.at(*at);
                self.core.suspended_at = Some(*at);
                self.become_(SessionState::Suspended, Lifecycle::Suspended)
            }
            Record::Resume { at, deadline_ms, .. } => {
                self.at(*at);
                if let Some(since) = self.core.suspended_at.take() {
                    let suspended = at.saturating_sub(since).max(0);
                    self.core.suspended_ms = self.core.suspended_ms.saturating_add(suspended);
                    self.core.cycles = self.core.cycles.saturating_add(1);
                }
                self.core.deadline_ms = *deadline_ms;
                self.become_(SessionState::Open, Lifecycle::Resumed)
            }
            Record::Cancel { at, .. } => {
                self.at(*at);
                self.become_(SessionState::Cancelled, Lifecycle::Cancelled)
            }
            Record::Expire { at } => {
                self.at(*at);
                self.become_(SessionState::Expired, Lifecycle::Expired)
            }
            Record::Receipt { at, .. } => {
                self.at(*at);
                None
            }
        }
    }

    fn at(&mut self, at: Millis) {
        self.core.last_ms = self.core.last_ms.max(at);
    }

    /// A final state is never left.
    fn become_(&mut self, state: SessionState, event: Lifecycle) -> Option<Lifecycle> {
        if self.core.state.is_final() {
            return None;
        }
        self.core.state = state;
        Some(event)
    }

    fn take(&mut self, message: &Message, by_server: bool) -> Option<Lifecycle> {
        self.at(message.accepted_ms);
        self.core.ordinal += 1;
        if self.core.state.is_final() {
            return None;
        }
        if message.message_type == "Commitment" && !by_server {
            let summary = self.core.mode.resolution(&self.bound, &message.payload);
            let bytes = summary.unwrap_or_else(|| message.payload.clone());
            self.core.resolution = Some(Resolution { ordinal: self.core.ordinal, bytes });
            return self.become_(SessionState::Resolved, Lifecycle::Resolved);
        }
        let bound = Arc::clone(&self.bound);
        let call = crate::kernel::modes::Call {
            bound: &bound,
            sender: &message.sender,
            message_type: &message.message_type,
            payload: &message.payload,
            at: message.accepted_ms,
            suspended_ms: self.core.suspended_ms,
            by_server,
        };
        self.core.mode.apply(&call);
        None
    }
}

impl Session {
    /// The session that a first record begins; `None`: it is not one.
    pub(crate) fn begin(session_id: &str, record: Arc<Record>) -> Option<Self> {
        let head = Head::begin(session_id, &record)?;
        let mut session = Self {
            head,
            seen: BTreeSet::new(),
            activity: BTreeMap::new(),
            log: Vec::new(),
            ordinals: vec![0],
            receipt: None,
        };
        session.seen.extend(record.message().map(|message| message.message_id.clone()));
        session.log.push(record);
        Some(session)
    }

    /// Applies a record. Says what happened to the session, if anything did.
    pub(crate) fn apply(&mut self, record: Arc<Record>) -> Option<Lifecycle> {
        let index = u32::try_from(self.log.len()).unwrap_or(u32::MAX);
        let event = self.head.apply(&record);
        match record.as_ref() {
            Record::Message(message) => {
                self.ordinals.push(index);
                self.seen.insert(message.message_id.clone());
                let activity = match self.activity.get_mut(&message.sender) {
                    Some(activity) => activity,
                    None => self.activity.entry(message.sender.clone()).or_default(),
                };
                *activity = Activity {
                    last_ms: message.accepted_ms,
                    count: activity.count.saturating_add(1),
                };
            }
            Record::Implicit(message) => {
                self.ordinals.push(index);
                self.seen.insert(message.message_id.clone());
            }
            // The first receipt stays (§16).
            Record::Receipt { .. } if self.receipt.is_none() => self.receipt = Some(index),
            _ => {}
        }
        self.log.push(record);
        event
    }

    /// The session that this log makes; `None`: it does not begin with a start.
    pub fn replay(session_id: &str, log: impl IntoIterator<Item = Arc<Record>>) -> Option<Self> {
        let mut log = log.into_iter();
        let mut session = Self::begin(session_id, log.next()?)?;
        for record in log {
            session.apply(record);
        }
        Some(session)
    }
}
