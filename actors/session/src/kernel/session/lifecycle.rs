//! Cancel, suspend, resume (§9): what no mode has a say in.

use super::message::not_open;
use super::{Draft, Record, SessionState};
use crate::kernel::{Answer, Refusal};

/// Completed suspensions that a session may have; one more ends it (§9).
pub(crate) const CYCLES_MAX: u32 = 1024;

impl Draft<'_> {
    /// Refuses, as a status, who may not control the session.
    fn controlled_by(&self, sender: &str) -> Result<(), Refusal> {
        if self.head.bound.may_control(sender) {
            return Ok(());
        }
        let why = format!("`{sender}` is neither the initiator nor may it commit");
        Err(Refusal::forbidden(why).into_status())
    }

    /// Ends the session; one that has ended stays as it is.
    pub(crate) fn cancel(&mut self, sender: &str, reason: &str) -> Answer {
        self.controlled_by(sender)?;
        self.end(sender, reason)
    }

    /// The same for an operator, whom the session's rules do not bind.
    pub(crate) fn end(&mut self, by: &str, reason: &str) -> Answer {
        self.expire();
        if !self.state().is_final() {
            self.push(Record::Cancel { at: self.now, by: by.into(), reason: reason.into() });
        }
        self.accepted(false)
    }

    /// Stops the session's time.
    pub(crate) fn suspend(&mut self, sender: &str, reason: &str) -> Answer {
        self.controlled_by(sender)?;
        self.expire();
        // What was due before the suspension must not be put off by it.
        self.implicit();
        if self.state() != SessionState::Open {
            return Err(not_open(self.state()));
        }
        self.push(Record::Suspend { at: self.now, by: sender.into(), reason: reason.into() });
        self.accepted(false)
    }

    /// Lets the session's time go on; it has as much left as when it was suspended.
    pub(crate) fn resume(&mut self, sender: &str, reason: &str) -> Answer {
        self.controlled_by(sender)?;
        let core = &self.head.core;
        let (SessionState::Suspended, Some(since)) = (core.state, core.suspended_at) else {
            return Err(not_open(core.state));
        };
        let suspended = self.now.saturating_sub(since);
        self.push(Record::Resume {
            at: self.now,
            by: sender.into(),
            reason: reason.into(),
            banked_ms: core.deadline_ms.saturating_sub(since).max(0),
            deadline_ms: core.deadline_ms.saturating_add(suspended),
        });
        let core = &self.head.core;
        if core.suspended_ms > self.head.bound.max_suspend_ms || core.cycles > CYCLES_MAX {
            self.push(Record::Expire { at: self.now });
            return Err(not_open(SessionState::Expired));
        }
        self.accepted(false)
    }
}
