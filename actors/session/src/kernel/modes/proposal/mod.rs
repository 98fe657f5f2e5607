//! `macp.mode.proposal.v1` (§13.2): peers propose, counter, accept and reject until they agree or
//! somebody ends it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weft_macp::macp::modes::proposal::v1 as pb;

use super::{Call, Mode};
use crate::kernel::envelope::{decode, required};
use crate::kernel::policy::Criterion;
use crate::kernel::session::Bound;
use crate::kernel::{Denial, DenialCode, Refusal};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Proposal {
    author: u32,
    live: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Proposals {
    proposals: BTreeMap<String, Proposal>,
    counters: u64,
    /// What each participant accepted last.
    accepts: BTreeMap<u32, String>,
    /// Proposals that somebody rejected for good, with who did.
    terminal: BTreeMap<String, BTreeSet<u32>>,
}

pub(crate) enum Event {
    Proposal(pb::ProposalPayload),
    Counter(pb::CounterProposalPayload),
    Accept(pb::AcceptPayload),
    Reject(pb::RejectPayload),
    Withdraw(pb::WithdrawPayload),
}

impl Proposals {
    fn unused(&self, id: &str) -> Result<(), Refusal> {
        required("proposal_id", id)?;
        if self.proposals.contains_key(id) {
            return Err(Refusal::invalid(format!("there is a proposal `{id}` already")));
        }
        Ok(())
    }

    fn existing(&self, id: &str) -> Result<Proposal, Refusal> {
        let there = self.proposals.get(id).copied();
        there.ok_or_else(|| Refusal::invalid(format!("there is no proposal `{id}`")))
    }

    fn live(&self, id: &str) -> Result<Proposal, Refusal> {
        let proposal = self.existing(id)?;
        if !proposal.live {
            return Err(Refusal::invalid(format!("proposal `{id}` was withdrawn")));
        }
        Ok(proposal)
    }

    /// Whether a live proposal meets the policy's criterion.
    fn converged(&self, bound: &Bound) -> bool {
        let accepted = |at: u32, id: &str| self.accepts.get(&at).is_some_and(|other| other == id);
        let mut live = self.proposals.iter().filter(|(_, proposal)| proposal.live);
        live.any(|(id, proposal)| match bound.policy.rules().criterion {
            Criterion::AllParties => (0..bound.roster.len()).all(|at| accepted(at, id)),
            Criterion::Counterparty => (0..bound.roster.len())
                .filter(|at| *at != proposal.author)
                .all(|at| accepted(at, id)),
            Criterion::Initiator => {
                bound.roster.position(&bound.initiator).is_some_and(|at| accepted(at, id))
            }
        })
    }
}

impl Mode for Proposals {
    type Event = Event;

    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        call.participant()
    }

    fn decode(call: &Call<'_>) -> Result<Event, Refusal> {
        Ok(match call.message_type {
            "Proposal" => Event::Proposal(decode(call.payload)?),
            "CounterProposal" => Event::Counter(decode(call.payload)?),
            "Accept" => Event::Accept(decode(call.payload)?),
            "Reject" => Event::Reject(decode(call.payload)?),
            "Withdraw" => Event::Withdraw(decode(call.payload)?),
            _ => return Err(call.unknown_type()),
        })
    }

    fn check(&self, call: &Call<'_>, event: &Event) -> Result<(), Refusal> {
        match event {
            Event::Proposal(proposal) => self.unused(&proposal.proposal_id),
            Event::Counter(counter) => {
                self.unused(&counter.proposal_id)?;
                self.existing(&counter.supersedes_proposal_id)?;
                let most = call.bound.policy.rules().max_rounds;
                if most > 0 && self.counters >= most {
                    return Err(Refusal::invalid(format!(
                        "the policy allows {most} counter-proposals"
                    )));
                }
                Ok(())
            }
            Event::Accept(accept) => self.live(&accept.proposal_id).map(|_| ()),
            Event::Reject(reject) => self.live(&reject.proposal_id).map(|_| ()),
            Event::Withdraw(withdraw) => {
                let proposal = self.existing(&withdraw.proposal_id)?;
                if call.position() != Some(proposal.author) {
                    return Err(Refusal::forbidden("only the author withdraws a proposal"));
                }
                self.live(&withdraw.proposal_id).map(|_| ())
            }
        }
    }

    fn apply(&mut self, call: &Call<'_>, event: Event) {
        let Some(at) = call.position() else { return };
        match event {
            Event::Proposal(proposal) => {
                self.proposals.insert(proposal.proposal_id, Proposal { author: at, live: true });
            }
            Event::Counter(counter) => {
                self.counters += 1;
                self.proposals.insert(counter.proposal_id, Proposal { author: at, live: true });
            }
            Event::Accept(accept) => {
                self.accepts.insert(at, accept.proposal_id);
            }
            Event::Reject(reject) => {
                if reject.terminal || call.bound.policy.rules().terminal_on_any_reject {
                    self.terminal.entry(reject.proposal_id).or_default().insert(at);
                }
            }
            Event::Withdraw(withdraw) => {
                if let Some(proposal) = self.proposals.get_mut(&withdraw.proposal_id) {
                    proposal.live = false;
                }
                self.accepts.retain(|_, accepted| *accepted != withdraw.proposal_id);
                self.terminal.remove(&withdraw.proposal_id);
            }
        }
    }

    fn ready(&self, bound: &Bound, _: bool) -> Result<(), Refusal> {
        if self.terminal.is_empty() && !self.converged(bound) {
            return Err(Refusal::invalid("no proposal is agreed on, none is rejected for good"));
        }
        Ok(())
    }

    fn denials(&self, bound: &Bound, positive: bool) -> Vec<Denial> {
        let most = bound.policy.rules().max_rounds;
        if positive && most > 0 && self.counters > most {
            return vec![Denial::new(
                DenialCode::CriterionNotMet,
                format!("{} counter-proposals, the policy allows {most}", self.counters),
            )];
        }
        Vec::new()
    }
}
