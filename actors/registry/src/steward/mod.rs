//! What the node that leads has to see to beside placing: who follows, who votes, whose issuing
//! CA is trusted, which format level holds. Pure; the actor takes one step at a time.

pub(crate) mod groups;
pub(crate) mod leases;
pub(crate) mod voters;
pub(crate) mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use weft_wire::NodeId;

use voters::Candidate;

/// What a step depends on.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Every node of agreed state.
    pub(crate) candidates: Vec<Candidate>,
    /// Those whose issuing CA is trusted.
    pub(crate) trusted: BTreeSet<NodeId>,
    /// Those that told an issuing CA.
    pub(crate) issuers: BTreeSet<NodeId>,
    /// Those whose address is known: nobody else can be followed.
    pub(crate) reachable: BTreeSet<NodeId>,
    /// Of the group.
    pub(crate) voters: BTreeSet<NodeId>,
    /// A change of them was begun and not finished: by a leader that is gone, for one.
    pub(crate) joint: bool,
    /// Of the group.
    pub(crate) learners: BTreeSet<NodeId>,
    /// A voter silent for so long is replaced.
    pub(crate) replace_after: Duration,
    /// Format level of agreed state.
    pub(crate) format: u32,
    /// The lowest that any node understands.
    pub(crate) understood: u32,
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A node follows from now on.
    AddLearner(NodeId),
    /// A node's issuing CA joins the bundle, before it votes.
    Trust(NodeId),
    /// Others vote.
    SetVoters { voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>, live: BTreeSet<NodeId> },
    /// Every node understands a higher format level.
    RaiseFormat(u32),
}

/// The most urgent step, if any is due.
pub(crate) fn next(facts: &Facts) -> Option<Step> {
    let nodes: BTreeSet<NodeId> = facts.candidates.iter().map(|c| c.id).collect();
    let member = |id: &NodeId| facts.voters.contains(id) || facts.learners.contains(id);
    // The living first: one that cannot answer would hold the others up.
    let mut joining: Vec<&Candidate> = facts
        .candidates
        .iter()
        .filter(|c| !member(&c.id) && facts.reachable.contains(&c.id))
        .collect();
    joining.sort_by_key(|c| (!c.live, c.joined_at, c.id));
    if let Some(candidate) = joining.first() {
        return Some(Step::AddLearner(candidate.id));
    }
    let voters = voters::choose(
        &facts.candidates,
        &facts.voters,
        voters::wanted(facts.candidates.len()),
        facts.replace_after,
    );
    let untrusted =
        voters.iter().find(|id| facts.issuers.contains(id) && !facts.trusted.contains(id));
    if let Some(id) = untrusted {
        return Some(Step::Trust(*id));
    }
    let gone = facts.voters.iter().chain(&facts.learners).any(|id| !nodes.contains(id));
    if !voters.is_empty() && (voters != facts.voters || gone || facts.joint) {
        let learners =
            nodes.iter().filter(|id| !voters.contains(id) && member(id)).copied().collect();
        let live = facts.candidates.iter().filter(|c| c.live).map(|c| c.id).collect();
        return Some(Step::SetVoters { voters, learners, live });
    }
    (facts.understood > facts.format).then_some(Step::RaiseFormat(facts.understood))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::WallTime;

    fn id(n: u128) -> NodeId {
        NodeId::new(uuid::Uuid::from_u128(n))
    }

    fn set(ids: &[u128]) -> BTreeSet<NodeId> {
        ids.iter().map(|n| id(*n)).collect()
    }

    fn facts(nodes: &[u128]) -> Facts {
        let candidates = nodes
            .iter()
            .map(|n| Candidate {
                id: id(*n),
                name: format!("n{n}"),
                zone: String::new(),
                joined_at: WallTime::from_micros(i64::try_from(*n).expect("small")),
                live: true,
                silent_for: Duration::ZERO,
                ready: true,
            })
            .collect();
        Facts {
            candidates,
            trusted: set(&[1]),
            issuers: set(nodes),
            reachable: set(nodes),
            voters: set(&[1]),
            joint: false,
            learners: BTreeSet::new(),
            replace_after: Duration::from_secs(60),
            format: 1,
            understood: 1,
        }
    }

    #[test]
    fn a_change_of_voters_that_was_left_half_way_is_finished() {
        let mut facts = facts(&[1, 2, 3]);
        facts.voters = set(&[1, 2, 3]);
        facts.trusted = set(&[1, 2, 3]);
        assert_eq!(next(&facts), None);
        facts.joint = true;
        let Some(Step::SetVoters { voters, .. }) = next(&facts) else { panic!("nothing is due") };
        assert_eq!(voters, set(&[1, 2, 3]));
    }

    #[test]
    fn three_nodes_come_to_vote_step_by_step() {
        let mut facts = facts(&[1, 2, 3]);
        let mut steps = Vec::new();
        while let Some(step) = next(&facts) {
            match &step {
                Step::AddLearner(id) => drop(facts.learners.insert(*id)),
                Step::Trust(id) => drop(facts.trusted.insert(*id)),
                Step::SetVoters { voters, learners, .. } => {
                    facts.voters.clone_from(voters);
                    facts.learners.clone_from(learners);
                }
                Step::RaiseFormat(level) => facts.format = *level,
            }
            steps.push(step);
            assert!(steps.len() < 20, "it ends: {steps:?}");
        }
        assert_eq!(facts.voters, set(&[1, 2, 3]));
        assert_eq!(facts.trusted, set(&[1, 2, 3]));
        assert_eq!(steps.len(), 5);
    }

    #[test]
    fn a_removed_node_leaves_the_group() {
        let mut facts = facts(&[1, 2, 3, 4]);
        facts.trusted = set(&[1, 2, 3, 4]);
        facts.voters = set(&[1, 2, 9]);
        facts.learners = set(&[3, 4]);
        let Some(Step::SetVoters { voters, learners, .. }) = next(&facts) else {
            panic!("{:?}", next(&facts));
        };
        assert_eq!((voters, learners), (set(&[1, 2, 3]), set(&[4])));
        facts.voters = set(&[1, 2, 3]);
        facts.learners = set(&[4, 8]);
        assert!(matches!(next(&facts), Some(Step::SetVoters { .. })));
        facts.learners = set(&[4]);
        assert_eq!(next(&facts), None);
    }

    #[test]
    fn a_node_that_has_not_said_where_it_is_is_not_followed_yet() {
        let mut facts = facts(&[1, 2]);
        facts.reachable = set(&[1]);
        assert_eq!(next(&facts), None);
    }

    #[test]
    fn the_format_is_raised_when_nothing_else_is_to_do() {
        let mut facts = facts(&[1]);
        facts.understood = 3;
        assert_eq!(next(&facts), Some(Step::RaiseFormat(3)));
    }
}
