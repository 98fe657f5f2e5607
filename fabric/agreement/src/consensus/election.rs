//! When a voter stands for election, and whom it would support: pure.
//!
//! openraft 0.9 has timers but no pre-vote: a voter that was cut off would come back with a higher
//! term and cost an election. So its timers are off, and a voter stands only after a majority of
//! the voters, asked first, would grant it: each of them has not heard a leader for the leader's
//! lease, is not in an election already, and holds no more of the log. Asking changes nothing on
//! either side, so who is cut off asks in vain and comes back as it went.
//!
//! Safety is Raft's and rests on none of this; here is only who tries, and when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weft_wire::NodeId;

use super::wire::Point;
use super::{Role, Timing};

/// What a voter sees when it wonders whether to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sight {
    /// What it is; none if its replica does not run.
    pub(crate) role: Option<Role>,
    /// No other node votes.
    pub(crate) alone: bool,
    /// Last sign of life of a leader.
    pub(crate) heard: Option<Instant>,
    /// Membership says that this leader is gone.
    pub(crate) leader_gone: bool,
    /// It gave its vote, to another or itself; whoever has it is given time to win.
    pub(crate) granted: Option<Instant>,
    /// How many voters, the leader aside, stand before this one.
    pub(crate) rank: u32,
}

/// What a voter is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing until it sees something else.
    Rest,
    /// Nothing until then, or until it sees something else.
    Wait(Instant),
    /// Ask the other voters, and stand if a majority would grant it.
    Ask,
    /// Stand at once: nobody else votes.
    Stand,
}

/// One voter's turns to stand.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    timing: Timing,
    began: Instant,
    /// Not before, after an attempt.
    not_before: Option<Instant>,
    /// From 0 to 1: where in a range of waits this one is; drawn anew after each attempt, so that
    /// two rivals part.
    draw: f64,
}

/// What it waits after its start, or a peer's, before no news of a leader counts as silence: as
/// long as a leader may go by what it heard from a voter that has started anew since.
fn settling(timing: &Timing) -> Duration {
    timing.election_min
}

impl Turns {
    /// `now`: the replica was opened. `draw`: from 0 to 1.
    pub(crate) fn new(timing: Timing, now: Instant, draw: f64) -> Self {
        Self { timing, began: now, not_before: None, draw }
    }

    /// What to do now.
    pub(crate) fn step(&self, now: Instant, sight: &Sight) -> Step {
        if !matches!(sight.role, Some(Role::Voter | Role::Candidate)) {
            return Step::Rest;
        }
        let wait = |until: Instant, then: Step| match until > now {
            true => Step::Wait(until),
            false => then,
        };
        if sight.alone {
            return wait(self.not_before.unwrap_or(now), Step::Stand);
        }
        let timing = &self.timing;
        let stagger = timing.heartbeat / 2 * sight.rank;
        let quiet = match sight.heard {
            None => self.began + settling(timing),
            Some(at) => {
                // The other voters may have heard it a little later.
                let lease = at + timing.election_max + timing.heartbeat / 4;
                // A disk that stalls must not cost a leader that lives its lead.
                match sight.leader_gone {
                    true => lease,
                    false => lease + timing.election_min + self.spread(),
                }
            }
        };
        let due = quiet + stagger;
        let due = sight.granted.map_or(due, |at| due.max(at + timing.election_min));
        wait(self.not_before.map_or(due, |at| at.max(due)), Step::Ask)
    }

    /// No majority would have granted it.
    pub(crate) fn refused(&mut self, now: Instant, draw: f64) {
        self.draw = draw;
        let heartbeat = self.timing.heartbeat;
        self.not_before = Some(now + heartbeat + (heartbeat * 2).mul_f64(draw));
    }

    /// It stood; if it has not won by then, it may try again.
    pub(crate) fn stood(&mut self, now: Instant, draw: f64) {
        self.draw = draw;
        self.not_before = Some(now + self.timing.election_min + self.spread());
    }

    fn spread(&self) -> Duration {
        self.timing.election_max.saturating_sub(self.timing.election_min).mul_f64(self.draw)
    }
}

/// What a voter that is asked for support sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stance {
    /// What it is; none if its replica does not run.
    pub(crate) role: Option<Role>,
    /// Leader only: since a majority last acknowledged it.
    pub(crate) quorum_age: Option<Duration>,
    /// Its replica was opened.
    pub(crate) began: Instant,
    /// Last sign of life of a leader.
    pub(crate) heard: Option<Instant>,
    /// It granted a vote, to whom and when.
    pub(crate) granted: Option<(NodeId, Instant)>,
    /// The end of its log.
    pub(crate) last: Option<Point>,
}

/// Whether a voter would grant `candidate`, whose log ends at `last`, its vote.
pub(crate) fn supports(
    timing: &Timing,
    now: Instant,
    own: &Stance,
    candidate: NodeId,
    last: Option<Point>,
) -> bool {
    let since = |at: Instant| now.saturating_duration_since(at);
    let quiet = match own.role {
        None => return false,
        // It may have lost its majority without knowing who is in the way.
        Some(Role::Leader) => own.quorum_age.is_some_and(|age| age > timing.election_max),
        Some(_) => match own.heard {
            Some(at) => since(at) > timing.election_max,
            None => since(own.began) >= settling(timing),
        },
    };
    let free =
        own.granted.is_none_or(|(whom, at)| whom == candidate || since(at) > timing.election_min);
    quiet && free && last >= own.last
}

/// Whether those are more than half of each set of voters.
pub(crate) fn majority(configs: &[BTreeSet<NodeId>], of: &BTreeSet<NodeId>) -> bool {
    !configs.is_empty()
        && configs.iter().all(|config| config.intersection(of).count() * 2 > config.len())
}

#[cfg(test)]
mod tests;
