//! Who votes in a group (design §6), spread over zones; in `control` 1 of 1 and 2 nodes, 3 of 3 and
//! 4, 5 of more. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_wire::{NodeId, WallTime};

/// A node that may vote.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) joined_at: WallTime,
    /// Membership hears of it.
    pub(crate) live: bool,
    /// It has been silent so long.
    pub(crate) silent_for: Duration,
    /// It follows closely, and nothing else keeps it from voting.
    pub(crate) ready: bool,
}

/// How many of `nodes` vote in `control`.
pub(crate) const fn wanted(nodes: usize) -> usize {
    match nodes {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The `want` that shall vote, given who does. Voters stay, unless they are no nodes any more, are too many,
/// or have been silent for `replace_after` while another is ready. Adding never leads to an even
/// number, which would tolerate no more than the odd number below it.
pub(crate) fn choose(
    candidates: &[Candidate],
    current: &BTreeSet<NodeId>,
    want: usize,
    replace_after: Duration,
) -> BTreeSet<NodeId> {
    let mut voters = current.clone();
    // What one round makes room for, the next may use; it comes to rest within a few.
    for _ in 0..8 {
        let next = round(candidates, &voters, want, replace_after);
        if next == voters {
            break;
        }
        voters = next;
    }
    voters
}

fn round(
    candidates: &[Candidate],
    current: &BTreeSet<NodeId>,
    want: usize,
    replace_after: Duration,
) -> BTreeSet<NodeId> {
    let by_id: BTreeMap<NodeId, &Candidate> = candidates.iter().map(|c| (c.id, c)).collect();
    let mut kept: Vec<&Candidate> =
        current.iter().filter_map(|id| by_id.get(id).copied()).collect();

    let spare = |kept: &[&Candidate]| {
        candidates
            .iter()
            .filter(|c| c.live && c.ready && !kept.iter().any(|k| k.id == c.id))
            .count()
    };
    // The dead make room for the living, one for one.
    let mut room = spare(&kept);
    kept.retain(|c| {
        let stays = room == 0 || c.live || c.silent_for < replace_after;
        room -= usize::from(!stays);
        stays
    });

    while kept.len() > want {
        let crowd = |c: &Candidate| kept.iter().filter(|k| k.zone == c.zone).count();
        let Some(leaves) = kept
            .iter()
            .max_by_key(|c| (!c.live, crowd(c), c.joined_at, c.name.clone()))
            .map(|c| c.id)
        else {
            break;
        };
        kept.retain(|c| c.id != leaves);
    }

    let before = kept.len();
    while kept.len() < want {
        let crowd = |c: &Candidate| kept.iter().filter(|k| k.zone == c.zone).count();
        let next = candidates
            .iter()
            .filter(|c| c.live && c.ready && !kept.iter().any(|k| k.id == c.id))
            .min_by_key(|c| (crowd(c), c.joined_at, c.name.clone()));
        let Some(next) = next else { break };
        kept.push(next);
    }
    if kept.len() > before && kept.len().is_multiple_of(2) {
        kept.pop();
    }
    kept.into_iter().map(|c| c.id).collect()
}

/// Why a node votes or does not; for people.
pub(crate) fn why(id: NodeId, voters: &BTreeSet<NodeId>, candidates: &[Candidate]) -> String {
    let want = wanted(candidates.len());
    let of = |count: usize| format!("{count} of {} nodes vote", candidates.len());
    let Some(own) = candidates.iter().find(|c| c.id == id) else {
        return "not a node of this cluster".to_owned();
    };
    if voters.contains(&id) {
        return if own.live { of(voters.len()) } else { "votes, but is silent".to_owned() };
    }
    if !own.live {
        return "silent".to_owned();
    }
    if voters.len() >= want {
        return format!("{}; follows", of(voters.len()));
    }
    if !own.ready {
        return "shall vote once it has caught up".to_owned();
    }
    format!("{} shall vote; waits for another to make the number odd", want)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AFTER: Duration = Duration::from_secs(60);

    fn id(n: u128) -> NodeId {
        NodeId::new(uuid::Uuid::from_u128(n))
    }

    fn nodes(count: u128) -> Vec<Candidate> {
        (1..=count)
            .map(|n| Candidate {
                id: id(n),
                name: format!("n{n}"),
                zone: String::new(),
                joined_at: WallTime::from_micros(i64::try_from(n).expect("small")),
                live: true,
                silent_for: Duration::ZERO,
                ready: true,
            })
            .collect()
    }

    fn set(ids: &[u128]) -> BTreeSet<NodeId> {
        ids.iter().map(|n| id(*n)).collect()
    }

    fn choose(
        candidates: &[Candidate],
        current: &BTreeSet<NodeId>,
        after: Duration,
    ) -> BTreeSet<NodeId> {
        super::choose(candidates, current, wanted(candidates.len()), after)
    }

    #[test]
    fn the_number_of_voters_follows_the_table() {
        for (count, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
            let chosen = choose(&nodes(count), &set(&[1]), AFTER);
            assert_eq!(chosen.len(), voters, "{count} nodes");
            assert!(chosen.contains(&id(1)), "who votes goes on voting");
        }
    }

    #[test]
    fn of_two_nodes_the_older_votes() {
        assert_eq!(choose(&nodes(2), &set(&[1, 2, 3]), AFTER), set(&[1]));
    }

    #[test]
    fn voters_are_spread_over_zones() {
        let mut all = nodes(4);
        for (node, zone) in all.iter_mut().zip(["a", "a", "b", "c"]) {
            node.zone = zone.into();
        }
        assert_eq!(choose(&all, &set(&[1]), AFTER), set(&[1, 3, 4]));
    }

    #[test]
    fn a_silent_voter_is_replaced_only_after_its_time_and_only_by_one_that_is_ready() {
        let mut all = nodes(4);
        all[2].live = false;
        all[2].silent_for = Duration::from_secs(59);
        assert_eq!(choose(&all, &set(&[1, 2, 3]), AFTER), set(&[1, 2, 3]));
        all[2].silent_for = AFTER;
        assert_eq!(choose(&all, &set(&[1, 2, 3]), AFTER), set(&[1, 2, 4]));
        all[3].ready = false;
        assert_eq!(choose(&all, &set(&[1, 2, 3]), AFTER), set(&[1, 2, 3]));
    }

    #[test]
    fn an_even_number_is_never_grown_into() {
        let mut all = nodes(3);
        all[2].ready = false;
        assert_eq!(choose(&all, &set(&[1]), AFTER), set(&[1]));
        all[2].ready = true;
        assert_eq!(choose(&all, &set(&[1]), AFTER), set(&[1, 2, 3]));
    }

    proptest! {
        #[test]
        fn the_choice_is_stable_bounded_and_of_nodes_only(
            facts in prop::collection::vec((any::<bool>(), 0u64..120, any::<bool>(), "[abc]"), 1..9),
            current in prop::collection::btree_set(1u128..12, 0..7),
        ) {
            let mut all = nodes(facts.len() as u128);
            for (node, (live, silent, ready, zone)) in all.iter_mut().zip(facts) {
                node.live = live;
                node.silent_for = Duration::from_secs(if live { 0 } else { silent });
                node.ready = ready;
                node.zone = zone;
            }
            let current: BTreeSet<_> = current.into_iter().map(id).collect();
            let chosen = choose(&all, &current, AFTER);
            prop_assert!(chosen.len() <= wanted(all.len()));
            prop_assert!(chosen.iter().all(|id| all.iter().any(|c| c.id == *id)));
            prop_assert_eq!(choose(&all, &chosen, AFTER), chosen.clone(), "choosing again");
            all.reverse();
            prop_assert_eq!(choose(&all, &current, AFTER), chosen);
        }
    }
}
