//! `macp.mode.quorum.v1` (§13.5): the initiator requests approval, participants cast one ballot.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;
use weft_macp::macp::modes::quorum::v1 as pb;

use super::{Call, Mode};
use crate::kernel::envelope::decode;
use crate::kernel::policy::{Threshold, Vote};
use crate::kernel::session::Bound;
use crate::kernel::{Denial, DenialCode, Refusal};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct QuorumVote {
    request: Option<Request>,
    ballots: BTreeMap<u32, Vote>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Request {
    id: String,
    required: u32,
}

pub(crate) enum Event {
    Request(pb::ApprovalRequestPayload),
    Ballot(String, Vote),
}

impl QuorumVote {
    fn approvals(&self) -> u64 {
        self.ballots.values().filter(|vote| **vote == Vote::Approve).count() as u64
    }

    /// How many approvals are needed: the policy's threshold, otherwise what was requested.
    fn bar(&self, bound: &Bound) -> Option<u64> {
        let request = self.request.as_ref()?;
        Some(match bound.policy.rules().approvals {
            Some(Threshold::Count(count)) => count,
            Some(Threshold::Percentage(percent)) => {
                (percent * u64::from(bound.roster.len())).div_ceil(100).max(1)
            }
            None | Some(Threshold::Unknown) => u64::from(request.required),
        })
    }
}

impl Mode for QuorumVote {
    type Event = Event;

    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        match call.message_type {
            "ApprovalRequest" => call.initiator(),
            _ => call.participant(),
        }
    }

    fn decode(call: &Call<'_>) -> Result<Event, Refusal> {
        let payload = call.payload;
        Ok(match call.message_type {
            "ApprovalRequest" => Event::Request(decode(payload)?),
            "Approve" => {
                Event::Ballot(decode::<pb::ApprovePayload>(payload)?.request_id, Vote::Approve)
            }
            "Reject" => {
                Event::Ballot(decode::<pb::RejectPayload>(payload)?.request_id, Vote::Reject)
            }
            "Abstain" => {
                Event::Ballot(decode::<pb::AbstainPayload>(payload)?.request_id, Vote::Abstain)
            }
            _ => return Err(call.unknown_type()),
        })
    }

    fn check(&self, call: &Call<'_>, event: &Event) -> Result<(), Refusal> {
        match event {
            Event::Request(request) => {
                if self.request.is_some() {
                    return Err(Refusal::invalid("approval is requested already"));
                }
                if request.request_id.is_empty() {
                    return Err(Refusal::invalid("request_id must be set"));
                }
                let most = call.bound.roster.len();
                if !(1..=most).contains(&request.required_approvals) {
                    return Err(Refusal::invalid(format!(
                        "required_approvals is {}, expected 1 to {most}",
                        request.required_approvals
                    )));
                }
                if call.bound.policy.rules().approvals == Some(Threshold::Unknown) {
                    return Err(Refusal::invalid("the policy's threshold.type is not known"));
                }
                Ok(())
            }
            Event::Ballot(id, _) => {
                match &self.request {
                    Some(request) if request.id == *id => {}
                    Some(request) => {
                        let wanted = &request.id;
                        return Err(Refusal::invalid(format!(
                            "the request is `{wanted}`, not `{id}`"
                        )));
                    }
                    None => return Err(Refusal::invalid("approval is not requested yet")),
                }
                if call.position().is_some_and(|at| self.ballots.contains_key(&at)) {
                    let sender = call.sender;
                    return Err(Refusal::invalid(format!("`{sender}` has cast a ballot already")));
                }
                Ok(())
            }
        }
    }

    fn apply(&mut self, call: &Call<'_>, event: Event) {
        match event {
            Event::Request(request) => {
                let required = request.required_approvals;
                self.request = Some(Request { id: request.request_id, required });
            }
            Event::Ballot(_, vote) => {
                if let Some(at) = call.position() {
                    self.ballots.insert(at, vote);
                }
            }
        }
    }

    fn ready(&self, bound: &Bound, _: bool) -> Result<(), Refusal> {
        let Some(bar) = self.bar(bound) else {
            return Err(Refusal::invalid("approval is not requested yet"));
        };
        let approvals = self.approvals();
        let open = u64::from(bound.roster.len()).saturating_sub(self.ballots.len() as u64);
        if approvals >= bar || approvals + open < bar {
            return Ok(());
        }
        Err(Refusal::invalid(format!(
            "{approvals} of {bar} approvals, {open} participants can still give theirs"
        )))
    }

    fn denials(&self, bound: &Bound, positive: bool) -> Vec<Denial> {
        let (approvals, bar) = (self.approvals(), self.bar(bound).unwrap_or(u64::MAX));
        if positive && approvals < bar {
            let why = format!("{approvals} of {bar} approvals");
            return vec![Denial::new(DenialCode::ThresholdNotMet, why)];
        }
        Vec::new()
    }
}
