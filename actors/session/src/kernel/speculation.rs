//! The leader's side: checks against what is applied and what is on its way, and stamps entries.
//!
//! Entries that are proposed but not yet applied are tips: the state of a session as it will be.
//! A leader that loses the lead, or whose proposal fails, drops them; the log is then what it was,
//! and entries that were checked against a dropped tip are stale. For that, the entries of a session
//! must be proposed in the order in which they were admitted, and a new leader must have applied
//! all of its predecessor's before it admits anything.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::session::{Draft, Head};
use super::{
    Accepted, Answer, Catalogue, Code, Entry, Envelope, Imported, Millis, Record, Refusal, Session,
    SessionState, Sessions, StartRights, session,
};

/// What a request is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What the group has applied.
    pub sessions: &'a Sessions,
    /// Modes and policies.
    pub catalogue: &'a Catalogue,
    /// The session in question if it has ended and is on disk; looked at if it is not in memory.
    pub archived: Option<&'a Session>,
}

/// What to do about a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// Must be agreed and applied before the answer is given. Also a refused request may have one:
    /// the session's time was over, or the server spoke for a target.
    pub entry: Option<Entry>,
    /// What to answer.
    pub answer: Answer,
    /// The answer holds once the session's log, as applied, is so long; 0: at once. If the tips are
    /// dropped before, the request must be checked again.
    pub after: u64,
}

#[derive(Debug, Clone)]
struct Tip {
    head: Head,
    /// Ids of the envelopes that are on their way.
    ids: BTreeSet<String>,
}

/// What the leader has proposed and not yet applied.
#[derive(Debug, Clone, Default)]
pub struct Speculation {
    tips: BTreeMap<String, Tip>,
}

impl Speculation {
    /// An envelope for a session: a start or a message (§7, §8).
    ///
    /// Its shape, sender and rates were checked before ([`super::shape`], [`super::Rights::claim`],
    /// [`super::Limits`]).
    pub fn send(
        &mut self,
        known: Known<'_>,
        envelope: &Envelope,
        rights: StartRights,
        now: Millis,
    ) -> Admission {
        if envelope.message_type == "SessionStart" {
            return self.start(known, envelope, rights, now);
        }
        let seen = self.seen(known, envelope);
        self.on(known, &envelope.session_id, now, |draft| draft.message(seen, envelope))
    }

    /// Ends a session (§9).
    pub fn cancel(
        &mut self,
        known: Known<'_>,
        id: &str,
        sender: &str,
        reason: &str,
        now: Millis,
    ) -> Admission {
        self.control(known, id, now, |draft| draft.cancel(sender, reason))
    }

    /// Ends a session for an operator, who is checked elsewhere.
    pub fn end(
        &mut self,
        known: Known<'_>,
        id: &str,
        by: &str,
        reason: &str,
        now: Millis,
    ) -> Admission {
        self.control(known, id, now, |draft| draft.end(by, reason))
    }

    /// Takes over a session with its whole log, which was checked before ([`Imported`]).
    pub fn import(&self, known: Known<'_>, id: &str, imported: &Imported) -> Admission {
        if self.head(known, id).is_some() {
            let why = format!("session `{id}` is there already");
            return self.answer(id, Err(Refusal::new(Code::SessionAlreadyExists, why)));
        }
        let records = imported.records.clone();
        Admission {
            after: u64::try_from(records.len()).unwrap_or(u64::MAX),
            entry: Some(Entry::Records { session: id.to_owned(), base: 0, records }),
            answer: Ok(Accepted { duplicate: false, state: imported.state }),
        }
    }

    /// Suspends a session (§9).
    pub fn suspend(
        &mut self,
        known: Known<'_>,
        id: &str,
        sender: &str,
        reason: &str,
        now: Millis,
    ) -> Admission {
        self.control(known, id, now, |draft| draft.suspend(sender, reason))
    }

    /// Resumes a session (§9).
    pub fn resume(
        &mut self,
        known: Known<'_>,
        id: &str,
        sender: &str,
        reason: &str,
        now: Millis,
    ) -> Admission {
        self.control(known, id, now, |draft| draft.resume(sender, reason))
    }

    /// What a read of the session must have agreed first: its time may be over (§8.1).
    pub fn touch(&mut self, known: Known<'_>, id: &str, now: Millis) -> Option<Entry> {
        self.control(known, id, now, |draft| {
            draft.expire();
            draft.accepted(false)
        })
        .entry
    }

    /// What the sweep does to a session that is due (§8.1, §13.4).
    pub fn sweep(&mut self, known: Known<'_>, id: &str, now: Millis) -> Option<Entry> {
        self.control(known, id, now, |draft| {
            if draft.state() == SessionState::Open {
                draft.expire();
                draft.implicit();
            }
            draft.accepted(false)
        })
        .entry
    }

    /// Keeps the receipt of a session in memory (§16); if there is one already it stays.
    pub fn receipt(
        &mut self,
        known: Known<'_>,
        id: &str,
        json: String,
        now: Millis,
    ) -> Option<Entry> {
        self.control(known, id, now, |draft| {
            draft.push(Record::Receipt { at: draft.now, json });
            draft.accepted(false)
        })
        .entry
    }

    /// Forgets what is on its way for a session if all of it is applied. To be called after each
    /// entry of the session was applied.
    pub fn settle(&mut self, sessions: &Sessions, id: &str) {
        let position = sessions.get(id).map_or(0, Session::position);
        if self.tips.get(id).is_some_and(|tip| tip.head.core.position <= position) {
            self.tips.remove(id);
        }
    }

    /// Forgets what is on its way for a session: a proposal failed, or was stale.
    pub fn forget(&mut self, id: &str) {
        self.tips.remove(id);
    }

    /// Forgets everything: the lead is lost.
    pub fn clear(&mut self) {
        self.tips.clear();
    }

    /// Whether something is on its way for a session.
    pub fn has(&self, id: &str) -> bool {
        self.tips.contains_key(id)
    }

    /// Sessions with something on its way.
    pub fn in_flight(&self) -> usize {
        self.tips.len()
    }

    /// The state that the next request finds.
    fn head<'a>(&'a self, known: Known<'a>, id: &str) -> Option<&'a Head> {
        match (self.tips.get(id), known.sessions.get(id)) {
            (Some(tip), _) => Some(&tip.head),
            (None, Some(session)) => Some(&session.head),
            (None, None) => known.archived.filter(|s| s.id() == id).map(|s| &s.head),
        }
    }

    fn seen(&self, known: Known<'_>, envelope: &Envelope) -> bool {
        let (session, message) = (&envelope.session_id, &envelope.message_id);
        let tip = self.tips.get(session).is_some_and(|tip| tip.ids.contains(message));
        let applied = known.sessions.get(session).or(known.archived.filter(|s| s.id() == session));
        tip || applied.is_some_and(|session| session.seen.contains(message))
    }

    /// Answers from the state, and nothing is recorded.
    fn answer(&self, id: &str, answer: Answer) -> Admission {
        let after = self.tips.get(id).map_or(0, |tip| tip.head.core.position);
        Admission { entry: None, answer, after }
    }

    fn on(
        &mut self,
        known: Known<'_>,
        id: &str,
        now: Millis,
        decide: impl FnOnce(&mut Draft<'_>) -> Answer,
    ) -> Admission {
        let Some(head) = self.head(known, id) else {
            let why = format!("there is no session `{id}`");
            return self.answer(id, Err(Refusal::new(Code::SessionNotFound, why)));
        };
        let base = head.core.position;
        let mut draft = Draft::new(Cow::Borrowed(head), now);
        let answer = decide(&mut draft);
        if draft.records.is_empty() {
            return self.answer(id, answer);
        }
        let Draft { head, records, .. } = draft;
        let head = head.into_owned();
        let after = head.core.position;
        let ids = records.iter().filter_map(Record::message).map(|m| m.message_id.clone());
        let ids: Vec<String> = ids.collect();
        match self.tips.get_mut(id) {
            Some(tip) => {
                tip.head = head;
                tip.ids.extend(ids);
            }
            None => {
                self.tips.insert(id.to_owned(), Tip { head, ids: ids.into_iter().collect() });
            }
        }
        let entry = Entry::Records { session: id.to_owned(), base, records };
        Admission { entry: Some(entry), answer, after }
    }

    /// Like `on`; that there is no such session is a status, not an Ack (§9).
    fn control(
        &mut self,
        known: Known<'_>,
        id: &str,
        now: Millis,
        decide: impl FnOnce(&mut Draft<'_>) -> Answer,
    ) -> Admission {
        let mut admission = self.on(known, id, now, decide);
        admission.answer = admission.answer.map_err(|refusal| match refusal.code {
            Code::SessionNotFound => refusal.into_status(),
            _ => refusal,
        });
        admission
    }

    fn start(
        &mut self,
        known: Known<'_>,
        envelope: &Envelope,
        rights: StartRights,
        now: Millis,
    ) -> Admission {
        let id = envelope.session_id.as_str();
        let checked = match session::start(known.catalogue, envelope) {
            Ok(checked) => checked,
            Err(refusal) => return self.answer(id, Err(refusal)),
        };
        if let Some(head) = self.head(known, id) {
            let answer = if self.seen(known, envelope) {
                Draft::new(Cow::Borrowed(head), now).accepted(true)
            } else {
                let why = format!("session `{id}` is there already");
                Err(Refusal::new(Code::SessionAlreadyExists, why))
            };
            return self.answer(id, answer);
        }
        let started = checked
            .record(known.catalogue, now)
            .and_then(|start| self.may_open(known, &envelope.sender, rights, now).map(|()| start));
        let (record, head) = match started {
            Ok(started) => started,
            Err(refusal) => return self.answer(id, Err(refusal)),
        };
        let answer = Draft::new(Cow::Borrowed(&head), now).accepted(false);
        let after = head.core.position;
        let ids = BTreeSet::from([envelope.message_id.clone()]);
        self.tips.insert(id.to_owned(), Tip { head, ids });
        let entry = Entry::Records { session: id.to_owned(), base: 0, records: vec![record] };
        Admission { entry: Some(entry), answer, after }
    }

    /// Whether the initiator may have one more open session (§7 step 12).
    fn may_open(
        &self,
        known: Known<'_>,
        initiator: &str,
        rights: StartRights,
        now: Millis,
    ) -> Result<(), Refusal> {
        let Some(most) = rights.max_open else { return Ok(()) };
        let is_open = |head: &Head| {
            head.core.state == SessionState::Open
                && now <= head.core.deadline_ms
                && head.bound.initiator == initiator
        };
        let settled = known.sessions.open_of(initiator);
        let settled = settled.filter(|s| !self.tips.contains_key(s.id()) && is_open(&s.head));
        let here = settled.count() + self.tips.values().filter(|tip| is_open(&tip.head)).count();
        let open = u64::from(rights.open_elsewhere).saturating_add(here as u64);
        if open < u64::from(most) {
            return Ok(());
        }
        let why = format!("`{initiator}` has {open} open sessions, at most {most} are allowed");
        Err(Refusal::new(Code::RateLimited, why))
    }
}
