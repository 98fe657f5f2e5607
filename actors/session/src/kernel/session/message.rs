//! A message to a session that is there: the checks of §8, in their order.

use std::borrow::Cow;

use super::{Head, Message, Record, SessionState, commitment};
use crate::kernel::modes::{self, Call};
use crate::kernel::{Accepted, Answer, Code, Envelope, Millis, ModeKind, Refusal};

/// What is about to be recorded: each record is applied to a copy of the state at once, so that the
/// next check sees it.
pub(crate) struct Draft<'a> {
    pub(crate) head: Cow<'a, Head>,
    pub(crate) records: Vec<Record>,
    /// The leader's clock, never before the session's last record.
    pub(crate) now: Millis,
}

impl Message {
    pub(crate) fn accepted(envelope: &Envelope, now: Millis) -> Self {
        Self {
            message_type: envelope.message_type.clone(),
            message_id: envelope.message_id.clone(),
            sender: envelope.sender.clone(),
            timestamp_ms: envelope.timestamp_ms,
            payload: envelope.payload.clone(),
            accepted_ms: now,
        }
    }
}

impl<'a> Draft<'a> {
    /// Nothing yet. A clock that went back stands still.
    pub(crate) fn new(head: Cow<'a, Head>, now: Millis) -> Self {
        let now = now.max(head.core.last_ms);
        Self { head, records: Vec::new(), now }
    }

    pub(crate) fn state(&self) -> SessionState {
        self.head.core.state
    }

    pub(crate) fn accepted(&self, duplicate: bool) -> Answer {
        Ok(Accepted { duplicate, state: self.state() })
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.head.to_mut().apply(&record);
        self.records.push(record);
    }

    /// Expires the session if its time is over: its deadline passed, or it was suspended too long.
    pub(crate) fn expire(&mut self) {
        let (core, now) = (&self.head.core, self.now);
        let over = match (core.state, core.suspended_at) {
            (SessionState::Open, _) => now > core.deadline_ms,
            (SessionState::Suspended, Some(since)) => {
                let suspended = core.suspended_ms.saturating_add(now.saturating_sub(since));
                suspended > self.head.bound.max_suspend_ms
            }
            _ => false,
        };
        if over {
            self.push(Record::Expire { at: now });
        }
    }

    /// Accepts an offer for its target if the policy's time is up (§13.4).
    pub(crate) fn implicit(&mut self) {
        if self.state() != SessionState::Open {
            return;
        }
        let Some(at) = self.head.implicit_at().filter(|at| *at <= self.now) else { return };
        let offers = self.head.core.mode.handoff();
        if let Some(message) = offers.and_then(|offers| offers.implicit(&self.head.bound, at)) {
            self.push(Record::Implicit(message));
        }
    }

    /// Steps 2 to 9 of §8. A refused message leaves no record of itself.
    pub(crate) fn message(&mut self, seen: bool, envelope: &Envelope) -> Answer {
        if seen {
            return self.accepted(true);
        }
        if envelope.mode != self.head.bound.mode {
            return Err(Refusal::invalid(format!(
                "mode is `{}`, the session has `{}`",
                envelope.mode, self.head.bound.mode
            )));
        }
        self.expire();
        if self.state() != SessionState::Open {
            return Err(not_open(self.state()));
        }
        authorize(&self.head, &self.call(envelope))?;
        if self.head.bound.kind == ModeKind::Handoff {
            modes::handoff_boundary(&self.call(envelope), &envelope.message_id)?;
        }
        self.implicit();
        check(&self.head, &self.call(envelope))?;
        self.push(Record::Message(Message::accepted(envelope, self.now)));
        self.accepted(false)
    }

    fn call<'b>(&'b self, envelope: &'b Envelope) -> Call<'b> {
        self.head.call(&envelope.sender, &envelope.message_type, &envelope.payload, self.now)
    }
}

/// Steps 6 and 9 of §8 together, for a replay.
pub(crate) fn check_call(head: &Head, call: &Call<'_>) -> Result<(), Refusal> {
    authorize(head, call)?;
    check(head, call)
}

/// Whether the sender may send such a message at all (§8 step 6).
fn authorize(head: &Head, call: &Call<'_>) -> Result<(), Refusal> {
    if call.message_type != "Commitment" {
        return head.core.mode.authorize(call);
    }
    if call.bound.may_commit(call.sender) {
        return Ok(());
    }
    Err(Refusal::forbidden(format!("`{}` may not commit in this session", call.sender)))
}

/// Whether the state and the policy admit it (§8 step 9).
fn check(head: &Head, call: &Call<'_>) -> Result<(), Refusal> {
    match call.message_type {
        "Commitment" => commitment::check(head, call.payload),
        _ => head.core.mode.check(call),
    }
}

/// The refusal of whatever needs an open session.
pub(crate) fn not_open(state: SessionState) -> Refusal {
    let how = match state {
        SessionState::Open => "open",
        SessionState::Resolved => "resolved",
        SessionState::Expired => "expired",
        SessionState::Suspended => "suspended",
        SessionState::Cancelled => "cancelled",
    };
    Refusal::new(Code::SessionNotOpen, format!("SESSION_NOT_OPEN: the session is {how}"))
}
