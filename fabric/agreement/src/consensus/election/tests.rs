//! The table of who supports whom, and a small world of voters in which somebody must win.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;
use weft_wire::{Clock, NodeId, SystemClock};

use super::*;

fn node(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

fn point(term: u64, index: u64) -> Option<Point> {
    Some(Point { term, leader: node(1), index })
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Far enough from the beginning of time.
fn day() -> Instant {
    SystemClock.now() + Duration::from_secs(1000)
}

#[test]
fn a_voter_supports_only_who_could_win_and_is_not_in_the_way_of_a_leader() {
    let (timing, now, who) = (Timing::default(), day(), node(2));
    let quiet = Stance {
        role: Some(Role::Voter),
        quorum_age: None,
        began: now - ms(60_000),
        heard: Some(now - ms(2_001)),
        granted: None,
        last: point(3, 10),
    };
    let leader = Stance { role: Some(Role::Leader), quorum_age: Some(ms(10)), ..quiet };
    let fresh = Stance { heard: None, began: now - ms(499), ..quiet };
    for (what, own, last, expected) in [
        ("nobody leads", quiet, point(3, 10), true),
        ("it holds more", quiet, point(3, 11), true),
        ("it holds less", quiet, point(3, 9), false),
        ("a later term is more than any length", quiet, point(4, 1), true),
        ("an earlier term is less", quiet, point(2, 99), false),
        ("it holds nothing", quiet, None, false),
        ("a leader was just heard", Stance { heard: Some(now), ..quiet }, point(3, 10), false),
        (
            "its lease is not over",
            Stance { heard: Some(now - ms(2_000)), ..quiet },
            point(3, 10),
            false,
        ),
        ("a candidate itself", Stance { role: Some(Role::Candidate), ..quiet }, point(3, 10), true),
        ("its replica is down", Stance { role: None, ..quiet }, point(3, 10), false),
        ("it leads", leader, point(3, 10), false),
        ("it leads since now", Stance { quorum_age: None, ..leader }, point(3, 10), false),
        (
            "it leads without a majority",
            Stance { quorum_age: Some(ms(2_001)), ..leader },
            point(3, 10),
            true,
        ),
        ("it has just started", fresh, point(3, 10), false),
        (
            "it has started, and nobody leads",
            Stance { began: now - ms(1_000), ..fresh },
            point(3, 10),
            true,
        ),
        (
            "it has started, and a leader may still go by what it said before",
            Stance { began: now - ms(999), ..fresh },
            point(3, 10),
            false,
        ),
        (
            "another has its vote",
            Stance { granted: Some((node(3), now - ms(1_000))), ..quiet },
            point(3, 10),
            false,
        ),
        (
            "another had its vote and did not win",
            Stance { granted: Some((node(3), now - ms(1_001))), ..quiet },
            point(3, 10),
            true,
        ),
        ("it has its vote", Stance { granted: Some((who, now)), ..quiet }, point(3, 10), true),
    ] {
        assert_eq!(supports(&timing, now, &own, who, last), expected, "{what}");
    }
}

#[test]
fn a_voter_asks_when_the_lease_is_over_and_later_if_its_leader_is_said_to_live() {
    let (timing, now) = (Timing::default(), day());
    let turns = Turns::new(timing, now - ms(60_000), 0.5);
    let sight = Sight {
        role: Some(Role::Voter),
        alone: false,
        heard: Some(now),
        leader_gone: true,
        granted: None,
        rank: 0,
    };
    for (what, sight, expected) in [
        ("dead", sight, Step::Wait(now + ms(2_062) + Duration::from_micros(500))),
        ("dead, the second", Sight { rank: 1, ..sight }, {
            Step::Wait(now + ms(2_187) + Duration::from_micros(500))
        }),
        (
            "said to live",
            Sight { leader_gone: false, ..sight },
            Step::Wait(now + ms(3_562) + Duration::from_micros(500)),
        ),
        (
            "has just given its vote",
            Sight { heard: None, granted: Some(now), ..sight },
            Step::Wait(now + ms(1_000)),
        ),
        ("never heard", Sight { heard: None, ..sight }, Step::Ask),
        ("lease over", Sight { heard: Some(now - ms(2_100)), ..sight }, Step::Ask),
        ("alone", Sight { alone: true, ..sight }, Step::Stand),
        ("leads", Sight { role: Some(Role::Leader), ..sight }, Step::Rest),
        ("leads alone", Sight { role: Some(Role::Leader), alone: true, ..sight }, Step::Rest),
        ("no voter", Sight { role: Some(Role::Learner), ..sight }, Step::Rest),
        ("down", Sight { role: None, alone: true, ..sight }, Step::Rest),
    ] {
        assert_eq!(turns.step(now, &sight), expected, "{what}");
    }
    let mut turns = turns;
    let over = Sight { heard: Some(now - ms(9_000)), ..sight };
    turns.refused(now, 0.5);
    assert_eq!(turns.step(now, &over), Step::Wait(now + ms(500)));
    turns.stood(now, 0.5);
    assert_eq!(turns.step(now, &over), Step::Wait(now + ms(1_500)));
    assert_eq!(turns.step(now + ms(1_500), &over), Step::Ask);
}

#[test]
fn all_nodes_started_at_once_ask_as_soon_as_they_have_settled() {
    let (timing, now) = (Timing::default(), day());
    for rank in 0..3 {
        let turns = Turns::new(timing.clone(), now, 0.9);
        let role = Some(Role::Voter);
        let sight =
            Sight { role, alone: false, heard: None, leader_gone: true, granted: None, rank };
        assert_eq!(turns.step(now, &sight), Step::Wait(now + ms(1_000) + ms(125) * rank));
    }
}

#[test]
fn during_a_change_of_voters_both_sets_must_agree() {
    let set = |of: &[u128]| of.iter().map(|n| node(*n)).collect::<BTreeSet<_>>();
    let both = [set(&[1, 2, 3]), set(&[3, 4, 5])];
    for (with, expected) in
        [(set(&[1, 2]), false), (set(&[4, 5]), false), (set(&[2, 3, 4]), true), (set(&[]), false)]
    {
        assert_eq!(majority(&both, &with), expected, "{with:?}");
    }
    assert!(!majority(&[], &set(&[1])), "a group without members has no majority");
}

/// A voter of the small world, with what openraft holds for it.
struct Voter {
    turns: Turns,
    role: Role,
    term: u64,
    /// Whom it voted for in that term.
    voted: Option<usize>,
    began: Instant,
    heard: Option<Instant>,
    granted: Option<(NodeId, Instant)>,
    last: u64,
}

/// Voters, who reaches whom, and messages that take their time.
struct World {
    now: Instant,
    timing: Timing,
    voters: Vec<Voter>,
    /// Both ways.
    links: BTreeSet<(usize, usize)>,
    random: StdRng,
    /// Milliseconds that a message takes, at most.
    delay: u64,
    /// By time: sender, receiver, what.
    mail: BTreeMap<(Instant, u64), (usize, usize, Mail)>,
    sent: u64,
    gone: bool,
    rounds: BTreeMap<usize, (BTreeSet<NodeId>, Instant)>,
    votes: BTreeMap<usize, BTreeSet<NodeId>>,
    elections: usize,
}

#[derive(Clone, Copy)]
enum Mail {
    Ask(u64),
    Support(bool),
    Vote(u64, u64),
    Granted(u64, bool),
    Lead(u64),
}

impl World {
    fn new(seed: u64, logs: &[u64], links: BTreeSet<(usize, usize)>, delay: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (now, timing) = (day(), Timing::default());
        let voters = logs.iter().map(|last| Voter {
            turns: Turns::new(timing.clone(), now, random.random_range(0.0..1.0)),
            role: Role::Voter,
            term: 1,
            voted: None,
            began: now,
            heard: None,
            granted: None,
            last: *last,
        });
        let voters = voters.collect();
        let (mail, rounds, votes) = Default::default();
        Self {
            now,
            timing,
            voters,
            links,
            random,
            delay,
            mail,
            sent: 0,
            gone: false,
            rounds,
            votes,
            elections: 0,
        }
    }

    fn all(&self) -> BTreeSet<NodeId> {
        (0..self.voters.len()).map(|n| node(n as u128)).collect()
    }

    fn reaches(&self, a: usize, b: usize) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    fn send(&mut self, from: usize, to: usize, mail: Mail) {
        if self.reaches(from, to) {
            let at = self.now + ms(self.random.random_range(0..=self.delay));
            self.sent += 1;
            self.mail.insert((at, self.sent), (from, to, mail));
        }
    }

    fn spread(&mut self, from: usize, mail: Mail) {
        for to in (0..self.voters.len()).filter(|to| *to != from) {
            self.send(from, to, mail);
        }
    }

    fn receive(&mut self, from: usize, to: usize, mail: Mail) {
        let (now, timing, all) = (self.now, self.timing.clone(), self.all());
        let lease = timing.election_max;
        let voter = &mut self.voters[to];
        match mail {
            Mail::Ask(last) => {
                let stance = Stance {
                    role: Some(voter.role),
                    quorum_age: Some(ms(0)),
                    began: voter.began,
                    heard: voter.heard,
                    granted: voter.granted,
                    last: point(1, voter.last),
                };
                let given = supports(&timing, now, &stance, node(from as u128), point(1, last));
                self.send(to, from, Mail::Support(given));
            }
            Mail::Support(given) => {
                let Some((with, began)) = self.rounds.get_mut(&to) else { return };
                let in_time = now - *began <= timing.election_min;
                if given && in_time {
                    with.insert(node(from as u128));
                    if majority(&[all], with) {
                        self.rounds.remove(&to);
                        self.stand(to);
                    }
                }
            }
            // As openraft does it: nothing within the lease, then the log, then the term.
            Mail::Vote(term, last) => {
                let leased = voter.heard.is_some_and(|at| now - at <= lease);
                let mut granted = !leased && voter.role != Role::Leader && last >= voter.last;
                if granted {
                    granted =
                        term > voter.term || (term == voter.term && voter.voted == Some(from));
                }
                if granted {
                    (voter.term, voter.voted, voter.role) = (term, Some(from), Role::Voter);
                    voter.granted = Some((node(from as u128), now));
                }
                let own = voter.term;
                self.send(to, from, Mail::Granted(own, granted));
            }
            Mail::Granted(term, true) if term == voter.term => {
                let votes = self.votes.entry(to).or_default();
                votes.insert(node(from as u128));
                if voter.role == Role::Candidate && majority(&[all], votes) {
                    voter.role = Role::Leader;
                    self.spread(to, Mail::Lead(term));
                }
            }
            Mail::Granted(term, _) => {
                if term > voter.term {
                    (voter.term, voter.voted, voter.role) = (term, None, Role::Voter);
                }
            }
            Mail::Lead(term) => {
                if term >= voter.term {
                    (voter.term, voter.role, voter.heard) = (term, Role::Voter, Some(now));
                }
            }
        }
    }

    fn stand(&mut self, n: usize) {
        let draw = self.random.random_range(0.0..1.0);
        let now = self.now;
        let voter = &mut self.voters[n];
        voter.turns.stood(now, draw);
        voter.term += 1;
        (voter.voted, voter.role) = (Some(n), Role::Candidate);
        voter.granted = Some((node(n as u128), now));
        let vote = Mail::Vote(voter.term, voter.last);
        self.votes.insert(n, BTreeSet::from([node(n as u128)]));
        self.elections += 1;
        self.spread(n, vote);
    }

    /// Runs until somebody leads, or the time is over.
    fn run(&mut self, lasts: Duration) -> Option<usize> {
        let end = self.now + lasts;
        while self.now < end {
            while let Some(first) = self.mail.first_entry() {
                if first.key().0 > self.now {
                    break;
                }
                let (from, to, mail) = first.remove();
                self.receive(from, to, mail);
            }
            if let Some(leader) = self.voters.iter().position(|voter| voter.role == Role::Leader) {
                return Some(leader);
            }
            for n in 0..self.voters.len() {
                let draw = self.random.random_range(0.0..1.0);
                if let Some((_, began)) = self.rounds.get(&n) {
                    if self.now - *began > self.timing.election_min {
                        self.rounds.remove(&n);
                        self.voters[n].turns.refused(self.now, draw);
                    }
                    continue;
                }
                let voter = &self.voters[n];
                let sight = Sight {
                    role: Some(voter.role),
                    alone: false,
                    heard: voter.heard,
                    leader_gone: voter.heard.is_none() || self.gone,
                    granted: voter.granted.map(|(_, at)| at),
                    rank: u32::try_from(n).expect("few"),
                };
                if voter.turns.step(self.now, &sight) == Step::Ask {
                    let ask = Mail::Ask(voter.last);
                    let round = (BTreeSet::from([node(n as u128)]), self.now);
                    self.rounds.insert(n, round);
                    self.spread(n, ask);
                }
            }
            self.now += ms(5);
        }
        None
    }
}

fn full(nodes: usize) -> BTreeSet<(usize, usize)> {
    (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Voters who reach each other and have no leader have one soon, whatever they hold.
    #[test]
    fn a_majority_that_reaches_itself_elects_a_leader_in_bounded_time(
        seed: u64,
        logs in proptest::collection::vec(0u64..4, 3..6),
        away in 0usize..3,
        delay in 0u64..200,
        heard in proptest::option::of(0u64..2_000),
        gone: bool,
    ) {
        let nodes = logs.len();
        let present = nodes - away.min((nodes - 1) / 2);
        let links = full(nodes).into_iter().filter(|(_, b)| *b < present).collect();
        let mut world = World::new(seed, &logs, links, delay);
        world.gone = gone;
        for voter in &mut world.voters {
            voter.heard = heard.map(|before| world.now - ms(before));
        }
        let leader = world.run(Duration::from_secs(15));
        prop_assert!(leader.is_some_and(|leader| leader < present), "{leader:?}");
    }

    /// A minority asks in vain, and its terms stay as they are: it costs nothing when it returns.
    #[test]
    fn who_is_cut_off_never_stands(seed: u64, nodes in 3usize..6, minority in 1usize..3) {
        let minority = minority.min((nodes - 1) / 2);
        let links = full(nodes).into_iter().filter(|(_, b)| *b < minority).collect();
        let mut world = World::new(seed, &vec![7; nodes], links, 20);
        prop_assert_eq!(world.run(Duration::from_secs(60)), None);
        prop_assert_eq!(world.elections, 0);
        prop_assert!(world.voters.iter().all(|voter| voter.term == 1));
    }

    /// One voter that does not hear the leader, while the others do, does not unseat it.
    #[test]
    fn who_alone_does_not_hear_the_leader_never_stands(seed: u64, gone: bool) {
        let mut world = World::new(seed, &[7, 7, 7], full(3), 20);
        world.gone = gone;
        for _ in 0..200 {
            // Nodes 0 and 1 go on hearing it.
            for n in 0..2 {
                world.voters[n].heard = Some(world.now);
            }
            prop_assert_eq!(world.run(ms(250)), None);
        }
        prop_assert_eq!(world.elections, 0);
    }
}
