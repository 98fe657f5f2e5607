//! `macp.mode.decision.v1` (§13.1): proposals, then evaluations and objections, then votes. A
//! commitment names no proposal; objections count only through policy.

#[cfg(test)]
mod tests;

use serde::Serialize;
use weft_macp::macp::modes::decision::v1 as pb;

use super::{Call, Mode};
use crate::kernel::envelope::{decode, required};
use crate::kernel::policy::{self, Ballots, Evaluations, Objections, Vote};
use crate::kernel::session::Bound;
use crate::kernel::{Denial, Refusal};

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Decision {
    /// Every proposal, with the votes on it.
    ballots: Ballots,
    /// Whether the first vote was cast: no proposals, evaluations and objections from then on.
    voting: bool,
    evaluations: Evaluations,
    objections: Objections,
}

pub(crate) enum Event {
    Proposal(pb::ProposalPayload),
    Evaluation(pb::EvaluationPayload),
    Objection(pb::ObjectionPayload),
    Vote(pb::VotePayload, Vote),
}

impl Decision {
    fn proposal(&self, id: &str) -> Result<(), Refusal> {
        if self.ballots.contains_key(id) {
            return Ok(());
        }
        Err(Refusal::invalid(format!("there is no proposal `{id}`")))
    }

    fn before_votes(&self, what: &str) -> Result<(), Refusal> {
        if self.voting {
            return Err(Refusal::invalid(format!("no {what} after the first vote")));
        }
        Ok(())
    }
}

impl Mode for Decision {
    type Event = Event;

    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        match call.message_type {
            "Proposal" | "Evaluation" | "Objection" | "Vote" => call.participant(),
            other => Err(Refusal::forbidden(format!("nobody sends `{other}` in this mode"))),
        }
    }

    fn decode(call: &Call<'_>) -> Result<Event, Refusal> {
        Ok(match call.message_type {
            "Proposal" => Event::Proposal(decode(call.payload)?),
            "Evaluation" => Event::Evaluation(decode(call.payload)?),
            "Objection" => Event::Objection(decode(call.payload)?),
            "Vote" => {
                let vote: pb::VotePayload = decode(call.payload)?;
                let cast = match vote.vote.as_str() {
                    "APPROVE" => Vote::Approve,
                    "REJECT" => Vote::Reject,
                    "ABSTAIN" => Vote::Abstain,
                    other => {
                        return Err(Refusal::invalid(format!(
                            "vote is `{other}`, expected APPROVE, REJECT or ABSTAIN"
                        )));
                    }
                };
                Event::Vote(vote, cast)
            }
            _ => return Err(call.unknown_type()),
        })
    }

    fn check(&self, call: &Call<'_>, event: &Event) -> Result<(), Refusal> {
        match event {
            Event::Proposal(proposal) => {
                required("proposal_id", &proposal.proposal_id)?;
                required("option", &proposal.option)?;
                self.before_votes("proposal")?;
                if self.ballots.contains_key(&proposal.proposal_id) {
                    let id = &proposal.proposal_id;
                    return Err(Refusal::invalid(format!("there is a proposal `{id}` already")));
                }
            }
            Event::Evaluation(evaluation) => {
                let known = ["APPROVE", "REVIEW", "BLOCK", "REJECT"];
                if !known.contains(&evaluation.recommendation.as_str()) {
                    return Err(Refusal::invalid(format!(
                        "recommendation is `{}`, expected APPROVE, REVIEW, BLOCK or REJECT",
                        evaluation.recommendation
                    )));
                }
                if !(0.0..=1.0).contains(&evaluation.confidence) {
                    return Err(Refusal::invalid(format!(
                        "confidence is {}, expected 0 to 1",
                        evaluation.confidence
                    )));
                }
                self.before_votes("evaluation")?;
                self.proposal(&evaluation.proposal_id)?;
            }
            Event::Objection(objection) => {
                let known = ["critical", "high", "medium", "low"];
                if !known.contains(&objection.severity.as_str()) {
                    return Err(Refusal::invalid(format!(
                        "severity is `{}`, expected critical, high, medium or low",
                        objection.severity
                    )));
                }
                self.before_votes("objection")?;
                self.proposal(&objection.proposal_id)?;
            }
            Event::Vote(vote, _) => {
                self.proposal(&vote.proposal_id)?;
                let cast = self.ballots.get(&vote.proposal_id);
                if call.position().is_some_and(|at| cast.is_some_and(|c| c.contains_key(&at))) {
                    return Err(Refusal::invalid(format!(
                        "`{}` has voted on `{}` already",
                        call.sender, vote.proposal_id
                    )));
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, call: &Call<'_>, event: Event) {
        match event {
            Event::Proposal(proposal) => {
                self.ballots.entry(proposal.proposal_id).or_default();
            }
            Event::Evaluation(evaluation) => {
                // A review weighs nothing (§14 step 2).
                if evaluation.recommendation != "REVIEW" {
                    self.evaluations.qualifying += 1;
                    if evaluation.confidence > self.evaluations.best {
                        self.evaluations.best = evaluation.confidence;
                    }
                }
            }
            Event::Objection(objection) => {
                if objection.severity == "critical" {
                    self.objections.critical += 1;
                    self.objections.by.extend(call.position());
                }
            }
            Event::Vote(vote, cast) => {
                self.voting = true;
                if let (Some(votes), Some(at)) =
                    (self.ballots.get_mut(&vote.proposal_id), call.position())
                {
                    votes.insert(at, cast);
                }
            }
        }
    }

    fn ready(&self, _: &Bound, _: bool) -> Result<(), Refusal> {
        if self.ballots.is_empty() {
            return Err(Refusal::invalid("there is no proposal to decide on"));
        }
        Ok(())
    }

    fn denials(&self, bound: &Bound, positive: bool) -> Vec<Denial> {
        policy::decide(
            bound.policy.rules(),
            bound.policy.policy.schema_version,
            &bound.roster,
            (&self.ballots, &self.evaluations, &self.objections),
            positive,
        )
    }
}
