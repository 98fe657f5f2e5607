//! Who gets a part in a group, step by step, and where that comes to rest.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use weft_wire::{NodeId, WallTime};

use super::*;

const AFTER: Duration = Duration::from_secs(60);

fn id(n: u128) -> NodeId {
    NodeId::new(uuid::Uuid::from_u128(n))
}

fn set(ids: &[u128]) -> BTreeSet<NodeId> {
    ids.iter().map(|n| id(*n)).collect()
}

/// Nodes `1..=count`, all there; n1 votes.
fn facts(count: u128, spread: Spread) -> Facts {
    let nodes: BTreeSet<NodeId> = (1..=count).map(id).collect();
    let candidates = (1..=count)
        .map(|n| Candidate {
            id: id(n),
            name: format!("n{n}"),
            zone: String::new(),
            joined_at: WallTime::from_micros(i64::try_from(n).expect("small")),
            live: true,
            silent_for: Duration::ZERO,
            ready: n == 1,
        })
        .collect();
    Facts {
        candidates,
        live: nodes.clone(),
        reachable: nodes,
        voters: set(&[1]),
        joint: false,
        learners: BTreeSet::new(),
        replace_after: AFTER,
        spread,
    }
}

impl Facts {
    /// The node has not been heard for so long.
    fn silent(&mut self, n: u128, since: Duration) {
        self.live.remove(&id(n));
        for candidate in self.candidates.iter_mut().filter(|c| c.id == id(n)) {
            (candidate.live, candidate.silent_for) = (false, since);
        }
    }

    /// Those follow closely.
    fn caught_up(&mut self, who: &BTreeSet<NodeId>) {
        for candidate in self.candidates.iter_mut().filter(|c| who.contains(&c.id)) {
            candidate.ready = true;
        }
    }

    /// The node is about to be removed.
    fn leaving(&mut self, n: u128) {
        self.candidates.retain(|c| c.id != id(n));
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::AddLearner(id) => {
                assert!(!self.voters.contains(&id), "it is a member already");
                assert!(self.learners.insert(id), "it is a member already");
            }
            Step::SetMembers { voters, learners, .. } => {
                assert!(!voters.is_empty(), "nobody would vote");
                assert!(voters.is_disjoint(&learners), "{voters:?} {learners:?}");
                let nodes: BTreeSet<NodeId> = self.candidates.iter().map(|c| c.id).collect();
                let before = self.voters.intersection(&nodes).count();
                assert!(
                    voters.len() <= before || voters.len() % 2 == 1,
                    "grown from {before} to an even number: {voters:?}"
                );
                (self.voters, self.learners, self.joint) = (voters, learners, false);
            }
        }
        // Who is no member any more forgets nothing, but is not known to be close.
        for candidate in &mut self.candidates {
            let member =
                self.voters.contains(&candidate.id) || self.learners.contains(&candidate.id);
            candidate.ready &= member;
        }
    }

    /// Takes steps until none is due, learners that live catching up whenever none is.
    fn settle(&mut self) {
        for _ in 0..80 {
            if let Some(step) = next(self) {
                self.take(step);
                continue;
            }
            let behind: BTreeSet<NodeId> = self
                .candidates
                .iter()
                .filter(|c| c.live && !c.ready && self.learners.contains(&c.id))
                .map(|c| c.id)
                .collect();
            if behind.is_empty() {
                return;
            }
            self.caught_up(&behind);
        }
        panic!("it comes to no rest: {self:?}");
    }

    fn members(&self) -> (usize, usize) {
        (self.voters.len(), self.learners.len())
    }
}

#[test]
fn the_members_follow_the_table() {
    let table = [
        (1, (1, 0), (1, 0)),
        (2, (1, 1), (1, 1)),
        (3, (3, 0), (3, 0)),
        (4, (3, 1), (3, 1)),
        (5, (5, 0), (3, 2)),
        (6, (5, 1), (3, 0)),
        (9, (5, 4), (3, 0)),
    ];
    for (count, everywhere, few) in table {
        let copied = (few.0, usize::try_from(count).expect("small") - few.0);
        for (spread, expected) in
            [(Spread::Everywhere, everywhere), (Spread::Few, few), (Spread::Copied, copied)]
        {
            let mut facts = facts(count, spread);
            facts.settle();
            assert_eq!(facts.members(), expected, "{count} nodes, {spread:?}");
            assert!(facts.voters.contains(&id(1)), "who votes goes on voting");
        }
    }
}

#[test]
fn a_voter_that_is_silent_for_long_is_replaced_by_one_that_followed_first() {
    let mut facts = facts(7, Spread::Few);
    facts.settle();
    assert_eq!(facts.voters, set(&[1, 2, 3]));
    facts.silent(2, AFTER - Duration::from_secs(1));
    assert_eq!(next(&facts), None, "it may come back");
    facts.silent(2, AFTER);
    assert_eq!(next(&facts), Some(Step::AddLearner(id(4))));
    facts.take(Step::AddLearner(id(4)));
    assert_eq!(next(&facts), None, "it is waited for, and not dropped meanwhile");
    facts.caught_up(&set(&[4]));
    let (voters, learners, live) = (set(&[1, 3, 4]), set(&[]), set(&[1, 3, 4, 5, 6, 7]));
    assert_eq!(next(&facts), Some(Step::SetMembers { voters, learners, live }));

    // One that dies while it catches up is let go for the next.
    facts.silent(4, Duration::ZERO);
    assert_eq!(next(&facts), Some(Step::AddLearner(id(5))));
    facts.settle();
    assert_eq!((facts.voters, facts.learners), (set(&[1, 3, 5]), set(&[])));
}

#[test]
fn a_change_that_was_left_half_way_is_finished_first() {
    let mut facts = facts(3, Spread::Few);
    facts.settle();
    facts.joint = true;
    let Some(Step::SetMembers { voters, .. }) = next(&facts) else { panic!("{:?}", next(&facts)) };
    assert_eq!(voters, set(&[1, 2, 3]));
}

#[test]
fn of_two_nodes_the_one_that_votes_hands_over_before_it_is_removed() {
    for spread in [Spread::Everywhere, Spread::Few] {
        let mut facts = facts(2, spread);
        facts.leaving(1);
        assert_eq!(next(&facts), Some(Step::AddLearner(id(2))));
        facts.take(Step::AddLearner(id(2)));
        assert_eq!(next(&facts), None, "it holds nothing yet");
        facts.caught_up(&set(&[2]));
        // The one that goes lives: without its vote nothing could be decided.
        let (voters, learners, live) = (set(&[2]), set(&[]), set(&[1, 2]));
        assert_eq!(next(&facts), Some(Step::SetMembers { voters, learners, live }));
    }
}

#[test]
fn a_node_that_has_not_said_where_it_is_is_not_followed_yet() {
    for spread in [Spread::Everywhere, Spread::Few] {
        let mut facts = facts(2, spread);
        facts.reachable = set(&[1]);
        assert_eq!(next(&facts), None);
    }
}

proptest! {
    #[test]
    fn whatever_is_there_settles_as_the_rule_says(
        nodes in prop::collection::vec((prop::bool::weighted(0.7), "[abc]", any::<bool>()), 1..10),
        voters in prop::collection::btree_set(1u128..13, 1..7),
        learners in prop::collection::btree_set(1u128..13, 0..7),
        joint: bool,
        everywhere: bool,
    ) {
        let spread = if everywhere { Spread::Everywhere } else { Spread::Few };
        let count = nodes.len();
        let mut facts = facts(count as u128, spread);
        // n1 leads.
        facts.voters.extend(voters.iter().copied().map(id));
        facts.learners = learners.iter().copied().map(id).collect();
        facts.learners.retain(|id| !facts.voters.contains(id));
        facts.joint = joint;
        for ((live, zone, ready), candidate) in nodes.iter().zip(&mut facts.candidates) {
            let live = *live || candidate.id == id(1);
            candidate.zone.clone_from(zone);
            (candidate.live, candidate.silent_for) =
                (live, if live { Duration::ZERO } else { AFTER });
            let member = facts.learners.contains(&candidate.id);
            candidate.ready = facts.voters.contains(&candidate.id) || member && *ready;
        }
        let all: BTreeSet<NodeId> = facts.candidates.iter().map(|c| c.id).collect();
        facts.live = facts.candidates.iter().filter(|c| c.live).map(|c| c.id).collect();
        facts.settle();

        prop_assert!(facts.voters.is_subset(&all), "{:?}", facts.voters);
        prop_assert!(facts.learners.is_subset(&all), "{:?}", facts.learners);
        prop_assert!(!facts.joint);
        let want = spread.voters(count);
        prop_assert!(facts.voters.len() <= want);
        if facts.live.len() >= want {
            prop_assert_eq!(facts.voters.len(), want);
            prop_assert!(facts.voters.is_subset(&facts.live), "the dead are replaced");
            let beside: BTreeSet<NodeId> = all.difference(&facts.voters).copied().collect();
            let expected = if spread.followed(count) { beside } else { BTreeSet::new() };
            prop_assert_eq!(&facts.learners, &expected);
        }
    }
}
