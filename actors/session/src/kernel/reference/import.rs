//! A session out of the reference's files: its log is read, checked step by step against the rules
//! that hold here, and becomes records with the same ordinals, ids and times.

use std::collections::BTreeSet;

use serde::Deserialize;
use weft_macp::macp::v1 as pb;

use super::{CANCEL, Definition, EXPIRED, IMPLICIT, Kind, Line, RESUME, SUSPEND, built_in};
use crate::kernel::envelope::{decode, valid_session_id};
use crate::kernel::policy::DEFAULT;
use crate::kernel::session::{CYCLES_MAX, Head, Message, SUSPEND_DEFAULT, Stamp, check_call};
use crate::kernel::{Catalogue, Millis, ModeKind, Policy, Record, SEMANTICS, SessionState, modes};

/// Life of a session of an extension that named none, in milliseconds; older versions took such.
const TTL_DEFAULT: Millis = 60_000;
/// First revision of the reference that counts suspensions.
const COUNTS_CYCLES: u32 = 2;

/// Why a session cannot be taken over. Nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The id is none that a session may have (§7).
    #[error(
        "its id is none: expected a UUID of version 4 or 7 in lower case, or 22 to 128 letters, digits, `-` and `_`"
    )]
    Id,
    /// A line cannot be read.
    #[error("line {line} of log.jsonl cannot be read: {why}; repair it, or leave the session out")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Its history was thrown away.
    #[error(
        "its history was compacted{}: what is left is a state and no log, which cannot be replayed; the reference does that when a session ends, unless MACP_COMPACT_TERMINAL_LOGS=0", many(*.discarded)
    )]
    Compacted {
        /// Envelopes that are gone; 0: not known.
        discarded: u64,
    },
    /// It does not begin.
    #[error("log.jsonl has no SessionStart at its beginning")]
    NoStart,
    /// It was written before logs named modes.
    #[error(
        "its SessionStart names no mode: a version of the reference that did not note it wrote it"
    )]
    NoMode,
    /// Its mode is not known here.
    #[error("mode `{0}` is not registered here: register it as it was, and import again")]
    Mode(String),
    /// Its policy is not known.
    #[error(
        "policy `{0}` is neither in session.json nor registered here: register it as it was when the session began, and import again"
    )]
    Policy(String),
    /// Something in it is not accepted by the rules that hold here.
    #[error(
        "line {line}, {what}: {why}{}", older(*.revision)
    )]
    Refused {
        /// From 1.
        line: usize,
        /// What it is.
        what: String,
        /// What stands against it.
        why: String,
        /// Revision of the reference's rules under which it was accepted.
        revision: u32,
    },
}

fn many(discarded: u64) -> String {
    match discarded {
        0 => String::new(),
        1 => " (1 envelope is gone)".into(),
        n => format!(" ({n} envelopes are gone)"),
    }
}

fn older(revision: u32) -> String {
    if revision == super::REVISION {
        return String::new();
    }
    format!(
        "; it was accepted under revision {revision} of the reference's rules, here {} holds",
        super::REVISION
    )
}

/// The files of one session.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceFiles<'a> {
    /// Name of its directory.
    pub session_id: &'a str,
    /// `log.jsonl`.
    pub log: &'a [u8],
    /// `session.json`; empty: there is none.
    pub snapshot: &'a [u8],
    /// `receipt.json`; empty: there is none.
    pub receipt: &'a [u8],
}

/// A session as it can be taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// Its whole log.
    pub records: Vec<Record>,
    /// Where that leads.
    pub state: SessionState,
    /// Envelopes.
    pub messages: u64,
    /// What was not as it should be and is no reason to refuse it.
    pub notes: Vec<String>,
}

/// What is looked at in a snapshot.
#[derive(Debug, Default, Deserialize)]
struct Snapshot {
    #[serde(default)]
    state: String,
    #[serde(default)]
    policy_definition: Option<Definition>,
}

impl ReferenceFiles<'_> {
    /// Reads a session and checks that its history could have come about here.
    ///
    /// # Errors
    /// [`ImportError`]; arbitrary bytes never panic.
    pub fn import(&self, catalogue: &Catalogue) -> Result<Imported, ImportError> {
        if !valid_session_id(self.session_id) {
            return Err(ImportError::Id);
        }
        let mut notes = Vec::new();
        let lines = self.lines(&mut notes)?;
        let checkpoints = || lines.iter().filter(|(_, line)| line.entry_kind == Kind::Checkpoint);
        let discarded = checkpoints().map(|(_, line)| line.compacted_incoming_ordinals).max();
        let mut rest = lines.iter().filter(|(_, line)| line.entry_kind != Kind::Checkpoint);
        let (at, first) = match (rest.next(), discarded) {
            (_, Some(discarded)) if discarded > 0 => {
                return Err(ImportError::Compacted { discarded });
            }
            (Some(first), _) if is_start(&first.1) => first,
            (None, Some(discarded)) => return Err(ImportError::Compacted { discarded }),
            _ => return Err(ImportError::NoStart),
        };
        let snapshot = self.snapshot(&mut notes);
        let said = snapshot.as_ref().map(|snapshot| snapshot.state.clone());
        // The last checkpoint has what was in force; they are all the same.
        let mut bound = checkpoints().filter_map(|(_, line)| {
            serde_json::from_slice::<Snapshot>(&line.raw_payload).ok()?.policy_definition
        });
        let definition = bound.next_back().or_else(|| snapshot?.policy_definition);
        let (head, start) = self.start(catalogue, *at, first, definition)?;
        let mut course = Course {
            id: self.session_id,
            revision: first.semantics_rev,
            seen: BTreeSet::from([first.message_id.as_str()]),
            head,
            records: vec![start],
        };
        for (at, line) in rest {
            course.step(line).map_err(|why| refused(*at, line, why, first.semantics_rev))?;
        }
        course.receipt(self.receipt, &mut notes);
        let Course { head, records, .. } = course;
        let state = head.core.state;
        if let Some(said) = said.filter(|said| !said.is_empty() && *said != name(state)) {
            notes.push(format!(
                "session.json says {said}, the log leads to {}: the log counts",
                name(state)
            ));
        }
        Ok(Imported { records, state, messages: head.core.ordinal, notes })
    }

    /// All lines with their numbers.
    fn lines(&self, notes: &mut Vec<String>) -> Result<Vec<(usize, Line)>, ImportError> {
        let mut out = Vec::new();
        let mut rest = self.log;
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (text, after) = match end {
                Some(end) => (rest.get(..end), rest.get(end + 1..)),
                None => (Some(rest), None),
            };
            let text = text.unwrap_or_default();
            rest = after.unwrap_or_default();
            if text.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line>(text) {
                Ok(line) => out.push((number, line)),
                // It was being written when the reference ended, and nobody was told of it.
                Err(_) if end.is_none() => {
                    notes.push(format!("line {number}, the last one, is not whole: left out"));
                }
                Err(error) => {
                    return Err(ImportError::Line { line: number, why: error.to_string() });
                }
            }
        }
        Ok(out)
    }

    fn snapshot(&self, notes: &mut Vec<String>) -> Option<Snapshot> {
        if self.snapshot.is_empty() {
            return None;
        }
        serde_json::from_slice(self.snapshot)
            .map_err(|error| notes.push(format!("session.json cannot be read: {error}")))
            .ok()
    }

    fn start(
        &self,
        catalogue: &Catalogue,
        at: usize,
        line: &Line,
        definition: Option<Definition>,
    ) -> Result<(Head, Record), ImportError> {
        let refuse = |why: String| refused(at, line, why, line.semantics_rev);
        if line.mode.is_empty() {
            return Err(ImportError::NoMode);
        }
        let mode = catalogue.mode(&line.mode);
        let mode = mode.ok_or_else(|| ImportError::Mode(line.mode.clone()))?;
        let payload: pb::SessionStartPayload =
            decode(&line.raw_payload).map_err(|refusal| refuse(refusal.message))?;
        let ttl_ms = match payload.ttl_ms {
            0 if !mode.is_canonical() => TTL_DEFAULT,
            given if given > 0 => given,
            given => return Err(refuse(format!("ttl_ms is {given}"))),
        };
        let begins = if line.timestamp_unix_ms > 0 { line.timestamp_unix_ms } else { line.at() };
        let stamp = Stamp {
            kind: mode.kind.clone(),
            mode_version: line.bound_mode_version.clone().unwrap_or(payload.mode_version),
            policy: policy(catalogue, payload.policy_version, definition)?,
            deadline_ms: begins.saturating_add(ttl_ms),
            max_suspend_ms: line
                .bound_max_suspend_ms
                .filter(|ms| *ms > 0)
                .unwrap_or(SUSPEND_DEFAULT),
            semantics: SEMANTICS,
        };
        check_names(self.session_id, &line.mode, line).map_err(refuse)?;
        let record = Record::Start {
            mode: line.mode.clone(),
            message: message(line),
            stamp: Box::new(stamp),
        };
        let head = Head::begin(self.session_id, &record);
        let head = head.ok_or_else(|| refuse("it begins no session".into()))?;
        modes::may_start(&head.bound).map_err(|refusal| refuse(refusal.message))?;
        Ok((head, record))
    }
}

fn is_start(line: &Line) -> bool {
    line.entry_kind == Kind::Incoming && line.message_type == "SessionStart"
}

/// The policy in force: what is built in is the same on both sides.
fn policy(
    catalogue: &Catalogue,
    named: String,
    definition: Option<Definition>,
) -> Result<Policy, ImportError> {
    let id = if named.is_empty() { DEFAULT.to_owned() } else { named };
    let recorded = definition.filter(|definition| definition.policy_id == id).map(Policy::from);
    let known = || catalogue.policy(&id).cloned();
    built_in(&id).or(recorded).or_else(known).ok_or(ImportError::Policy(id))
}

fn message(line: &Line) -> Message {
    Message {
        message_type: line.message_type.clone(),
        message_id: line.message_id.clone(),
        sender: line.sender.clone(),
        timestamp_ms: line.timestamp_unix_ms,
        payload: line.raw_payload.clone(),
        accepted_ms: line.at(),
    }
}

fn refused(at: usize, line: &Line, why: String, revision: u32) -> ImportError {
    let what = match line.message_id.as_str() {
        "" => line.message_type.clone(),
        id => format!("{} `{id}`", line.message_type),
    };
    ImportError::Refused { line: at, what, why, revision }
}

/// As the reference writes it.
const fn name(state: SessionState) -> &'static str {
    match state {
        SessionState::Open => "Open",
        SessionState::Suspended => "Suspended",
        SessionState::Resolved => "Resolved",
        SessionState::Expired => "Expired",
        SessionState::Cancelled => "Cancelled",
    }
}

/// Older lines name neither.
fn check_names(id: &str, mode: &str, line: &Line) -> Result<(), String> {
    let other = |own: &str, said: &str| !said.is_empty() && own != said;
    if other(id, &line.session_id) {
        return Err(format!("it is of session `{}`", line.session_id));
    }
    if other(mode, &line.mode) {
        return Err(format!("its mode is `{}`, the session has `{mode}`", line.mode));
    }
    Ok(())
}

/// A history on its way.
struct Course<'a> {
    id: &'a str,
    revision: u32,
    seen: BTreeSet<&'a str>,
    head: Head,
    records: Vec<Record>,
}

impl<'a> Course<'a> {
    fn push(&mut self, record: Record) {
        self.head.apply(&record);
        self.records.push(record);
    }

    fn step(&mut self, line: &'a Line) -> Result<(), String> {
        check_names(self.id, &self.head.bound.mode, line)?;
        match line.entry_kind {
            Kind::Checkpoint => Ok(()),
            Kind::Incoming => self.envelope(line),
            Kind::Internal => self.internal(line),
        }
    }

    fn envelope(&mut self, line: &'a Line) -> Result<(), String> {
        if is_start(line) {
            return Err("the session has begun before".into());
        }
        if line.message_id.is_empty() || !self.seen.insert(&line.message_id) {
            return Err("its message_id is empty, or was there before".into());
        }
        let is_implicit = self.head.bound.kind == ModeKind::Handoff
            && line.message_type == "HandoffAccept"
            && line.message_id.starts_with(IMPLICIT);
        match self.head.core.state {
            SessionState::Open => {
                let mut call =
                    self.head.call(&line.sender, &line.message_type, &line.raw_payload, line.at());
                call.by_server = is_implicit;
                check_call(&self.head, &call).map_err(|refusal| refusal.message)?;
            }
            SessionState::Suspended => return Err("the session is suspended".into()),
            // Accepted before the end was seen: it has its place and its id, and no effect, here as
            // there.
            SessionState::Resolved | SessionState::Expired | SessionState::Cancelled => {}
        }
        let message = message(line);
        self.push(if is_implicit { Record::Implicit(message) } else { Record::Message(message) });
        Ok(())
    }

    fn internal(&mut self, line: &Line) -> Result<(), String> {
        let (state, at) = (self.head.core.state, line.at());
        let payload = &line.raw_payload;
        let broken = |refusal: crate::kernel::Refusal| refusal.message;
        match (line.message_type.as_str(), state) {
            (SUSPEND, SessionState::Open) => {
                let said: pb::SessionSuspendPayload = decode(payload).map_err(broken)?;
                self.push(Record::Suspend { at, by: said.suspended_by, reason: said.reason });
            }
            (RESUME, SessionState::Suspended) => {
                let said: pb::SessionResumePayload = decode(payload).map_err(broken)?;
                self.resume(at, said);
            }
            (CANCEL, SessionState::Open | SessionState::Suspended) => {
                let said: pb::SessionCancelPayload = decode(payload).map_err(broken)?;
                self.push(Record::Cancel { at, by: said.cancelled_by, reason: said.reason });
            }
            (EXPIRED, SessionState::Open | SessionState::Suspended) => {
                self.push(Record::Expire { at });
            }
            // A resume after too long has ended it.
            (EXPIRED, SessionState::Expired) => {}
            (SUSPEND | RESUME | CANCEL | EXPIRED, _) => {
                return Err(format!("the session is {}", name(state).to_lowercase()));
            }
            _ => {
                return Err("what that is, is not known: a newer reference runtime wrote it".into());
            }
        }
        Ok(())
    }

    fn resume(&mut self, at: Millis, said: pb::SessionResumePayload) {
        let core = &self.head.core;
        let suspended = at.saturating_sub(core.suspended_at.unwrap_or(at)).max(0);
        let deadline_ms = core.deadline_ms.saturating_add(suspended);
        let pb::SessionResumePayload { reason, resumed_by: by, banked_ms } = said;
        self.push(Record::Resume { at, by, reason, banked_ms, deadline_ms });
        let (core, bound) = (&self.head.core, &self.head.bound);
        let is_often = self.revision >= COUNTS_CYCLES && core.cycles > CYCLES_MAX;
        if core.suspended_ms > bound.max_suspend_ms || is_often {
            self.push(Record::Expire { at });
        }
    }

    /// The document that was handed out stays the session's.
    fn receipt(&mut self, receipt: &[u8], notes: &mut Vec<String>) {
        if receipt.is_empty() {
            return;
        }
        let text = std::str::from_utf8(receipt).ok();
        let own = text.filter(|text| {
            let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
            value.is_some_and(|value| value["session_id"] == self.id)
        });
        match own {
            Some(json) if self.head.core.state == SessionState::Resolved => {
                let (at, json) = (self.head.core.last_ms, json.to_owned());
                self.push(Record::Receipt { at, json });
            }
            Some(_) => notes.push("receipt.json is left out: the session is not resolved".into()),
            None => notes.push("receipt.json is left out: it is no receipt of this session".into()),
        }
    }
}
