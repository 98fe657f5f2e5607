//! `macp.mode.task.v1` (§13.3): the initiator requests one task, somebody takes it and reports.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;
use weft_macp::macp::modes::task::v1 as pb;

use super::{Call, Mode};
use crate::kernel::envelope::decode;
use crate::kernel::session::Bound;
use crate::kernel::{Denial, DenialCode, Refusal};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Task {
    request: Option<Request>,
    assignee: Option<u32>,
    /// Who declined before anybody was assigned, each for themselves.
    declined: BTreeSet<u32>,
    /// Whether anybody was ever assigned.
    was_assigned: bool,
    /// Whether an assignee gave the task back.
    given_back: bool,
    /// Whether the one named in the request declined before any assignment.
    named_declined: bool,
    /// Whether completion or failure was reported.
    reported: bool,
    /// Whether a completion had output.
    output: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Request {
    id: String,
    /// Named in the request; `None`: anybody but the initiator.
    named: Option<u32>,
}

pub(crate) enum Event {
    Request(pb::TaskRequestPayload),
    Accept(pb::TaskAcceptPayload),
    Reject(pb::TaskRejectPayload),
    Update(pb::TaskUpdatePayload),
    Complete(pb::TaskCompletePayload),
    Fail(pb::TaskFailPayload),
}

impl Task {
    fn matches(&self, id: &str) -> Result<&Request, Refusal> {
        let request =
            self.request.as_ref().ok_or_else(|| Refusal::invalid("there is no task yet"))?;
        if request.id != id {
            return Err(Refusal::invalid(format!("the task is `{}`, not `{id}`", request.id)));
        }
        Ok(request)
    }

    fn eligible(&self, call: &Call<'_>, request: &Request) -> Result<(), Refusal> {
        let may = match request.named {
            Some(named) => call.position() == Some(named),
            None => !call.is_initiator(),
        };
        if may { Ok(()) } else { Err(Refusal::forbidden("the task is not for this participant")) }
    }

    fn reassignable(call: &Call<'_>) -> Result<(), Refusal> {
        if call.bound.policy.rules().allow_reassignment {
            return Ok(());
        }
        Err(Refusal::denied(vec![Denial::new(
            DenialCode::ReassignmentNotAllowed,
            "the policy does not allow that a task that was taken is given back",
        )]))
    }

    fn is_assignee(&self, call: &Call<'_>) -> bool {
        self.assignee.is_some() && self.assignee == call.position()
    }

    fn has_declined(&self, call: &Call<'_>) -> Result<(), Refusal> {
        if call.position().is_some_and(|at| self.declined.contains(&at)) {
            return Err(Refusal::invalid(format!("`{}` has declined already", call.sender)));
        }
        Ok(())
    }
}

impl Mode for Task {
    type Event = Event;

    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        match call.message_type {
            "TaskRequest" => call.initiator(),
            "TaskUpdate" | "TaskComplete" | "TaskFail" => {
                if self.is_assignee(call) && !self.reported {
                    return Ok(());
                }
                Err(Refusal::forbidden("only who has the task reports, and ends it once"))
            }
            _ => call.participant(),
        }
    }

    fn decode(call: &Call<'_>) -> Result<Event, Refusal> {
        Ok(match call.message_type {
            "TaskRequest" => Event::Request(decode(call.payload)?),
            "TaskAccept" => Event::Accept(decode(call.payload)?),
            "TaskReject" => Event::Reject(decode(call.payload)?),
            "TaskUpdate" => Event::Update(decode(call.payload)?),
            "TaskComplete" => Event::Complete(decode(call.payload)?),
            "TaskFail" => Event::Fail(decode(call.payload)?),
            _ => return Err(call.unknown_type()),
        })
    }

    fn check(&self, call: &Call<'_>, event: &Event) -> Result<(), Refusal> {
        match event {
            Event::Request(request) => {
                if self.request.is_some() {
                    return Err(Refusal::invalid("there is a task already"));
                }
                if request.task_id.is_empty() {
                    return Err(Refusal::invalid("task_id must be set"));
                }
                let named = &request.requested_assignee;
                if !named.is_empty() && !call.bound.roster.contains(named) {
                    return Err(Refusal::invalid(format!(
                        "requested_assignee `{named}` is no participant"
                    )));
                }
                Ok(())
            }
            Event::Accept(accept) => {
                let request = self.matches(&accept.task_id)?;
                if self.assignee.is_some() {
                    return Err(Refusal::invalid("the task is taken"));
                }
                self.eligible(call, request)?;
                self.has_declined(call)?;
                call.names_sender("assignee", &accept.assignee)?;
                if self.given_back {
                    Self::reassignable(call)?;
                }
                Ok(())
            }
            Event::Reject(reject) => {
                let request = self.matches(&reject.task_id)?;
                if self.is_assignee(call) {
                    if self.reported {
                        return Err(Refusal::invalid("the task was reported on"));
                    }
                    return Self::reassignable(call);
                }
                if self.assignee.is_some() {
                    return Err(Refusal::invalid("another has the task"));
                }
                self.eligible(call, request)?;
                self.has_declined(call)
            }
            Event::Update(update) => self.matches(&update.task_id).map(|_| ()),
            Event::Complete(complete) => {
                self.matches(&complete.task_id)?;
                call.names_sender("assignee", &complete.assignee)
            }
            Event::Fail(fail) => {
                self.matches(&fail.task_id)?;
                call.names_sender("assignee", &fail.assignee)
            }
        }
    }

    fn apply(&mut self, call: &Call<'_>, event: Event) {
        match event {
            Event::Request(request) => {
                let named = call.bound.roster.position(&request.requested_assignee);
                self.request = Some(Request { id: request.task_id, named });
            }
            Event::Accept(_) => {
                self.assignee = call.position();
                self.was_assigned = true;
            }
            Event::Reject(_) => {
                if self.is_assignee(call) {
                    self.assignee = None;
                    self.given_back = true;
                } else if let Some(at) = call.position() {
                    self.declined.insert(at);
                    let named = self.request.as_ref().and_then(|request| request.named);
                    self.named_declined |= !self.was_assigned && named == Some(at);
                }
            }
            Event::Update(_) => {}
            Event::Complete(complete) => {
                self.reported = true;
                self.output |= !complete.output.is_empty();
            }
            Event::Fail(_) => self.reported = true,
        }
    }

    fn ready(&self, _: &Bound, positive: bool) -> Result<(), Refusal> {
        if self.reported || (self.named_declined && !positive) {
            return Ok(());
        }
        Err(Refusal::invalid("neither completion nor failure was reported"))
    }

    fn denials(&self, bound: &Bound, positive: bool) -> Vec<Denial> {
        if positive && bound.policy.rules().require_output && !self.output {
            let why = "the policy requires a completion with output";
            return vec![Denial::new(DenialCode::OutputRequired, why)];
        }
        Vec::new()
    }
}
