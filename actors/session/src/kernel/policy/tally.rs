//! What a policy says to the outcome of a decision (§14, "Decision"): veto, evaluations, quorum,
//! votes, in this order. Binary64, inclusive comparisons, no clock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::rules::{Algorithm, ObjectionAction, Quorum, Rules};
use crate::kernel::session::Roster;
use crate::kernel::{Denial, DenialCode};

/// A vote on one proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Vote {
    Approve,
    Reject,
    Abstain,
}

/// Votes of participants (by position in the roster) on proposals.
pub(crate) type Ballots = BTreeMap<String, BTreeMap<u32, Vote>>;

/// What of the evaluations matters: those that recommend something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Evaluations {
    /// How many there are.
    pub(crate) qualifying: u64,
    /// The highest confidence among them.
    pub(crate) best: f64,
}

/// What of the objections matters: the critical ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Objections {
    /// How many there are.
    pub(crate) critical: u64,
    /// Who made them.
    pub(crate) by: BTreeSet<u32>,
}

/// Why the outcome may not be committed; empty: it may.
pub(crate) fn decide(
    rules: &Rules,
    schema: u32,
    roster: &Roster,
    (ballots, evaluations, objections): (&Ballots, &Evaluations, &Objections),
    positive: bool,
) -> Vec<Denial> {
    let mut denials = Vec::new();
    let veto = rules.vetoes && objections.critical >= rules.veto_threshold;
    let authorized =
        veto && !positive && rules.objection_action == ObjectionAction::FinalizeDecline;
    if !authorized {
        evaluated(rules, evaluations, &mut denials);
    }
    if veto && !authorized {
        let code = match rules.objection_action {
            ObjectionAction::Hold => DenialCode::VetoHold,
            ObjectionAction::Deny | ObjectionAction::FinalizeDecline => DenialCode::Veto,
        };
        let why = format!(
            "{} critical objections, {} are a veto",
            objections.critical, rules.veto_threshold
        );
        denials.push(
            Denial::new(code, why)
                .about(objections.by.iter().map(|at| roster.name_of(*at).to_owned())),
        );
    }
    if !authorized {
        let votes = Votes::count(ballots, rules, roster);
        quorum(rules, &votes, roster, &mut denials);
        outcome(rules, schema, &votes, roster, positive, &mut denials);
    }
    denials
}

fn evaluated(rules: &Rules, evaluations: &Evaluations, denials: &mut Vec<Denial>) {
    if !rules.evaluation_required {
        return;
    }
    if rules.minimum_confidence > 0.0 {
        if evaluations.qualifying == 0 || evaluations.best < rules.minimum_confidence {
            denials.push(Denial::new(
                DenialCode::ConfidenceBelowMinimum,
                format!("no evaluation has a confidence of {}", rules.minimum_confidence),
            ));
        }
    } else if evaluations.qualifying == 0 {
        denials.push(Denial::new(
            DenialCode::EvaluationRequired,
            "an evaluation that recommends something is required",
        ));
    }
}

/// All votes on all proposals.
struct Votes {
    voters: BTreeSet<u32>,
    approved_by: BTreeSet<u32>,
    approve: u64,
    reject: u64,
    approve_weight: f64,
    decisive_weight: f64,
}

impl Votes {
    fn count(ballots: &Ballots, rules: &Rules, roster: &Roster) -> Self {
        let mut votes = Self {
            voters: BTreeSet::new(),
            approved_by: BTreeSet::new(),
            approve: 0,
            reject: 0,
            approve_weight: 0.0,
            decisive_weight: 0.0,
        };
        for (voter, vote) in ballots.values().flatten() {
            votes.voters.insert(*voter);
            let weight = rules.weights.get(roster.name_of(*voter)).copied().unwrap_or(0.0);
            if rules.algorithm == Algorithm::Weighted && weight <= 0.0 {
                continue; // Not decisive (§14).
            }
            match vote {
                Vote::Approve => {
                    votes.approve += 1;
                    votes.approved_by.insert(*voter);
                    votes.approve_weight += weight;
                    votes.decisive_weight += weight;
                }
                Vote::Reject => {
                    votes.reject += 1;
                    votes.decisive_weight += weight;
                }
                Vote::Abstain => {}
            }
        }
        votes
    }

    /// Whether the vote passed; `None` if nobody's vote decided.
    #[allow(clippy::cast_precision_loss, reason = "votes are far below 2^53")]
    fn passed(&self, rules: &Rules, roster: &Roster) -> Option<bool> {
        let decisive = self.approve + self.reject;
        if decisive == 0 || (rules.algorithm == Algorithm::Weighted && self.decisive_weight <= 0.0)
        {
            return None;
        }
        Some(match rules.algorithm {
            Algorithm::None => true,
            Algorithm::Majority | Algorithm::Supermajority => {
                self.approve as f64 / decisive as f64 >= rules.threshold
            }
            Algorithm::Unanimous => {
                self.reject == 0 && self.approved_by.len() == roster.len() as usize
            }
            Algorithm::Weighted => self.approve_weight / self.decisive_weight >= rules.threshold,
            Algorithm::Plurality => self.approve > self.reject,
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "participants are at most a thousand")]
fn quorum(rules: &Rules, votes: &Votes, roster: &Roster, denials: &mut Vec<Denial>) {
    if !rules.require_vote_quorum {
        return;
    }
    let voters = votes.voters.len() as f64;
    let met = match rules.quorum {
        Quorum::Count(value) => voters >= value,
        Quorum::Percentage(value) => {
            roster.len() > 0 && 100.0 * voters / f64::from(roster.len()) >= value
        }
    };
    if !met {
        let needed = match rules.quorum {
            Quorum::Count(value) => format!("{value}"),
            Quorum::Percentage(value) => format!("{value} %"),
        };
        denials.push(Denial::new(
            DenialCode::QuorumNotMet,
            format!("{} of {} voted, the quorum is {needed}", votes.voters.len(), roster.len()),
        ));
    }
}

fn outcome(
    rules: &Rules,
    schema: u32,
    votes: &Votes,
    roster: &Roster,
    positive: bool,
    denials: &mut Vec<Denial>,
) {
    if rules.algorithm == Algorithm::None {
        return;
    }
    let tally = format!("{} for, {} against", votes.approve, votes.reject);
    match (votes.passed(rules, roster), positive) {
        (Some(true), true) => {}
        (Some(false), true) => denials.push(Denial::new(
            DenialCode::ThresholdNotMet,
            format!("the vote did not pass: {tally}"),
        )),
        (None, true) => {
            if schema >= 3 || rules.require_vote_quorum {
                denials.push(Denial::new(DenialCode::NoVotes, "nobody voted for or against"));
            }
        }
        (passed, false) => {
            if passed == Some(true) && !rules.allow_decline_over_approval {
                denials.push(Denial::new(
                    DenialCode::DeclineOverApproval,
                    format!("the vote passed, so it may not be declined: {tally}"),
                ));
            }
            if passed.is_none() || votes.reject == 0 {
                denials.push(Denial::new(
                    DenialCode::DeclineNotBacked,
                    format!("no vote backs a decline: {tally}"),
                ));
            }
        }
    }
}
