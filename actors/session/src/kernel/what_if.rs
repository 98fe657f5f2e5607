//! What would have become of a session under another policy (§15): its history replayed twice, with
//! every check, and nothing kept.

use std::sync::Arc;

use weft_macp::macp::v1 as pb;
use weft_macp::macp::v1::what_if_entry_outcome::Kind;

use super::policy::BoundPolicy;
use super::session::{Bound, Head, Message, check_call};
use super::{Code, Policy, Record, Refusal, Session, SessionState, modes};

/// Compares the session's recorded course with the one under `candidate`.
///
/// # Errors
/// As statuses: INVALID_POLICY_DEFINITION for a candidate that is wrong or for another mode;
/// INTERNAL_ERROR if the recorded course does not lead to the state that the session has.
pub fn what_if(session: &Session, candidate: &Policy) -> Result<pb::WhatIfReplayResponse, Refusal> {
    let wrong = |why: String| Refusal::new(Code::InvalidPolicyDefinition, why).into_status();
    candidate.check().map_err(wrong)?;
    if candidate.mode != "*" && candidate.mode != session.mode() {
        return Err(wrong(format!(
            "the policy is for mode `{}`, the session has `{}`",
            candidate.mode,
            session.mode()
        )));
    }
    let recorded = Course::run(session, session.policy(), true);
    let matches = recorded.head.as_ref() == Some(&session.head);
    if !matches {
        let why = "the recorded history does not lead to the session's state";
        return Err(Refusal::new(Code::InternalError, why).into_status());
    }
    let other = Course::run(session, candidate, false);
    let mut response = pb::WhatIfReplayResponse {
        candidate_policy_id: candidate.policy_id.clone(),
        recorded_policy_id: session.policy().policy_id.clone(),
        recorded: Some(recorded.outcome(session)),
        candidate: Some(other.outcome(session)),
        first_divergence: None,
        denials: Vec::new(),
        entries: Vec::new(),
    };
    let history = session.log().filter_map(|record| record.message());
    let outcomes = recorded.outcomes.into_iter().zip(other.outcomes);
    for (index, (message, (recorded, candidate))) in (0u64..).zip(history.zip(outcomes)) {
        if recorded != candidate && response.first_divergence.is_none() {
            response.first_divergence = Some(index);
        }
        if candidate.error_code == Code::PolicyDenied.as_str() {
            response.denials.push(pb::WhatIfDenial {
                history_index: index,
                message_id: message.message_id.clone(),
                details: candidate.details.clone(),
            });
        }
        response.entries.push(pb::WhatIfEntry {
            history_index: index,
            message_id: message.message_id.clone(),
            message_type: message.message_type.clone(),
            recorded: Some(recorded),
            candidate: Some(candidate),
        });
    }
    Ok(response)
}

/// A history under a policy.
struct Course {
    outcomes: Vec<pb::WhatIfEntryOutcome>,
    /// Where it led; `None`: the session did not begin.
    head: Option<Head>,
    /// It is what happened: what was taken over although the session had ended counts too.
    is_recorded: bool,
}

impl Course {
    fn run(session: &Session, policy: &Policy, is_recorded: bool) -> Self {
        let mut log = session.log();
        let mut course = Self { outcomes: Vec::new(), head: None, is_recorded };
        if let Some(start) = log.next() {
            course.start(session.id(), start, policy);
        }
        for record in log {
            course.step(record);
        }
        course
    }

    fn start(&mut self, session_id: &str, record: &Record, policy: &Policy) {
        let begun = Head::begin(session_id, record).map(|mut head| {
            let mut bound = Bound::clone(&head.bound);
            bound.policy = BoundPolicy::new(policy.clone());
            head.bound = Arc::new(bound);
            head
        });
        match begun {
            Some(head) => match modes::may_start(&head.bound) {
                Ok(()) => {
                    self.outcomes.push(outcome(Kind::Applied, Some(head.core.state), None));
                    self.head = Some(head);
                }
                Err(refusal) => {
                    self.outcomes.push(outcome(Kind::Refused, None, Some(&refusal)));
                }
            },
            None => self.outcomes.push(outcome(Kind::NoSession, None, None)),
        }
    }

    fn step(&mut self, record: &Record) {
        let Some(head) = self.head.as_mut() else {
            if record.message().is_some() {
                self.outcomes.push(outcome(Kind::NoSession, None, None));
            }
            return;
        };
        let state = head.core.state;
        match record {
            Record::Start { .. } => {}
            Record::Message(message) | Record::Implicit(message) => {
                let by_server = matches!(record, Record::Implicit(_));
                let said = if state == SessionState::Open {
                    match admitted(head, message, by_server) {
                        Ok(()) => {
                            head.apply(record);
                            outcome(Kind::Applied, Some(head.core.state), None)
                        }
                        Err(refusal) => outcome(Kind::Refused, Some(state), Some(&refusal)),
                    }
                } else {
                    if self.is_recorded {
                        head.apply(record);
                    }
                    outcome(Kind::NotOpen, Some(state), None)
                };
                self.outcomes.push(said);
            }
            // A session that ended earlier or later is not suspended twice.
            Record::Suspend { .. } if state != SessionState::Open => {}
            Record::Resume { .. } if state != SessionState::Suspended => {}
            internal => {
                head.apply(internal);
            }
        }
    }

    fn outcome(&self, session: &Session) -> pb::WhatIfOutcome {
        let Some(head) = &self.head else { return pb::WhatIfOutcome::default() };
        let mut out =
            pb::WhatIfOutcome { state: head.core.state.wire().into(), ..Default::default() };
        // Ordinals count what this course applied; the index is that of the history.
        let applied = self.outcomes.iter().zip(0u64..).filter(|(o, _)| o.kind() == Kind::Applied);
        if let Some(resolution) = &head.core.resolution
            && let Some((_, index)) = applied.last()
        {
            out.resolution.clone_from(&resolution.bytes);
            out.resolved_by_history_index = index;
            if let Some(envelope) = session.envelope(index + 1) {
                out.resolved_by_message_id = envelope.message_id;
                out.resolved_by_message_type = envelope.message_type;
            }
        }
        out
    }
}

fn admitted(head: &Head, message: &Message, by_server: bool) -> Result<(), Refusal> {
    let mut call =
        head.call(&message.sender, &message.message_type, &message.payload, message.accepted_ms);
    call.by_server = by_server;
    check_call(head, &call)
}

fn outcome(
    kind: Kind,
    state: Option<SessionState>,
    refusal: Option<&Refusal>,
) -> pb::WhatIfEntryOutcome {
    pb::WhatIfEntryOutcome {
        kind: kind.into(),
        state: state.map_or(pb::SessionState::Unspecified, SessionState::wire).into(),
        error_code: refusal.map(|refusal| refusal.code.as_str().into()).unwrap_or_default(),
        details: refusal.map(Refusal::details).unwrap_or_default(),
    }
}
