//! Who votes in the groups beside `control`, and who follows them. Pure; the node that leads a
//! group takes one step at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_wire::NodeId;

use super::voters::{self, Candidate};

/// So many vote in a group that is on few nodes, if there are as many.
const FEW: usize = 3;
/// Up to so many nodes, those that do not vote in such a group follow it: a voter that is lost is
/// replaced at once. Beyond that only voters hold it, and who is to vote follows first.
const SMALL: usize = 5;

/// On which nodes a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// On every node: as many vote as in `control`, the others follow.
    Everywhere,
    /// 1 of 1 and 2 nodes votes, 3 of more; the others follow while there are at most 5.
    Few,
    /// As many vote as with `Few`, and all others follow: every node has a copy to read from.
    Copied,
}

impl Spread {
    /// How many of `nodes` vote.
    pub(crate) const fn voters(self, nodes: usize) -> usize {
        match (self, nodes) {
            (Self::Everywhere, nodes) => voters::wanted(nodes),
            (Self::Few | Self::Copied, 0) => 0,
            (Self::Few | Self::Copied, 1 | 2) => 1,
            (Self::Few | Self::Copied, _) => FEW,
        }
    }

    /// Whether those of `nodes` that do not vote follow.
    pub(crate) const fn followed(self, nodes: usize) -> bool {
        match self {
            Self::Everywhere | Self::Copied => true,
            Self::Few => nodes <= SMALL,
        }
    }
}

/// What a step depends on.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Every node of agreed state, but those that are about to be removed.
    pub(crate) candidates: Vec<Candidate>,
    /// Those that answer, also of the ones that are about to be removed: their vote counts yet.
    pub(crate) live: BTreeSet<NodeId>,
    /// Those whose address is known: nobody else can be followed.
    pub(crate) reachable: BTreeSet<NodeId>,
    /// Of the group.
    pub(crate) voters: BTreeSet<NodeId>,
    /// A change of them was begun and not finished.
    pub(crate) joint: bool,
    /// Of the group.
    pub(crate) learners: BTreeSet<NodeId>,
    /// A voter silent for so long is replaced.
    pub(crate) replace_after: Duration,
    /// Where the group is to be.
    pub(crate) spread: Spread,
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A node follows from now on.
    AddLearner(NodeId),
    /// These vote and follow, and nobody else.
    SetMembers { voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>, live: BTreeSet<NodeId> },
}

/// The most urgent step, if any is due.
pub(crate) fn next(facts: &Facts) -> Option<Step> {
    let nodes = facts.candidates.len();
    let want = facts.spread.voters(nodes);
    let choose = |candidates: &[Candidate]| {
        voters::choose(candidates, &facts.voters, want, facts.replace_after)
    };
    let voters = choose(&facts.candidates);
    // Who would vote if everybody who answers had caught up has to follow first.
    let coming = choose(
        &facts
            .candidates
            .iter()
            .map(|c| Candidate { ready: c.ready || facts.reachable.contains(&c.id), ..c.clone() })
            .collect::<Vec<_>>(),
    );
    let all = facts.spread.followed(nodes);
    let follows: BTreeSet<NodeId> = facts
        .candidates
        .iter()
        .map(|c| c.id)
        .filter(|id| !voters.contains(id) && (all || coming.contains(id)))
        .collect();
    let member = |id: &NodeId| facts.voters.contains(id) || facts.learners.contains(id);
    let set = || Step::SetMembers {
        voters: voters.clone(),
        learners: follows.iter().filter(|id| member(id)).copied().collect(),
        live: facts.live.clone(),
    };
    if !voters.is_empty() && (voters != facts.voters || facts.joint) {
        return Some(set());
    }
    // The living first, as in `control`.
    let joining = facts
        .candidates
        .iter()
        .filter(|c| follows.contains(&c.id) && !member(&c.id) && facts.reachable.contains(&c.id))
        .min_by_key(|c| (!c.live, c.joined_at, c.id));
    if let Some(candidate) = joining {
        return Some(Step::AddLearner(candidate.id));
    }
    let surplus = facts.learners.iter().any(|id| !follows.contains(id));
    (surplus && !voters.is_empty()).then(set)
}

#[cfg(test)]
mod tests;
