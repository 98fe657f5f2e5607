//! Leases by example, then under any order of renewals, moves, delays, elections and clocks that
//! differ by up to a tenth: never two holders at once.

use proptest::prelude::*;
use uuid::Uuid;
use weft_protocol::LEASE;
use weft_wire::{Clock, SystemClock};

use super::*;

fn node(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

fn db() -> ReplicaKey {
    ReplicaKey { service: "db".into(), replica: 1 }
}

fn claim(generation: u64, had: bool) -> LeaseClaim {
    LeaseClaim { replica: db(), generation, had }
}

fn asks(round: u64, claim: LeaseClaim) -> RenewLeases {
    RenewLeases { round, claims: vec![claim], stopped: vec![] }
}

/// A leader whose lead began at 0.
struct Leader {
    leases: Leases,
    start: Instant,
    seat: Seat,
}

impl Leader {
    fn new(seat: Seat) -> Self {
        Self { leases: Leases::default(), start: SystemClock.now(), seat }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn renew(&mut self, ms: u64, from: u128, request: &RenewLeases) -> Renewed {
        let (at, seat) = (self.at(ms), self.seat);
        let name = |id: NodeId| format!("n{}", id.uuid().as_u128());
        let when = When { asked: at, now: at, led_since: self.start };
        self.leases.renew(node(from), request, when, |_| seat, name)
    }

    fn refused(&mut self, ms: u64, from: u128, claim: LeaseClaim) -> Option<String> {
        self.renew(ms, from, &asks(ms, claim)).answers.remove(0).refused
    }
}

#[test]
fn a_young_leader_renews_what_was_had_and_grants_nothing_new() {
    let mut leader = Leader::new(Seat::On(node(1), 4));
    assert_eq!(leader.refused(10, 1, claim(4, true)), None);
    let mut leader = Leader::new(Seat::On(node(1), 4));
    let why = leader.refused(1_300, 1, claim(4, false)).expect("refused");
    assert_eq!(why, "a copy that an earlier leader allowed may run for another 2.0 s");
    assert_eq!(leader.refused(3_300, 1, claim(4, false)), None);
}

#[test]
fn what_is_placed_elsewhere_or_anew_or_runs_without_leases_is_refused() {
    let mut leader = Leader::new(Seat::On(node(2), 5));
    let why = leader.refused(9_000, 1, claim(4, true)).expect("refused");
    assert_eq!(why, "it is placed on n2");
    assert!(leader.refused(9_000, 2, claim(4, true)).is_some(), "an older placement");
    leader.seat = Seat::Free;
    assert!(leader.refused(9_000, 2, claim(5, true)).is_some());
    leader.seat = Seat::Nowhere;
    assert!(leader.refused(9_000, 2, claim(5, true)).is_some());
}

#[test]
fn what_has_to_stop_keeps_its_lease_within_its_grace_and_gives_it_back() {
    let mut leader = Leader::new(Seat::On(node(1), 4));
    assert_eq!(leader.refused(5_000, 1, claim(4, false)), None);
    leader.seat = Seat::Nowhere;
    assert_eq!(leader.refused(7_000, 1, claim(4, true)), None);
    assert_eq!(leader.leases.list(leader.at(8_000))[0].renewed_ms_ago, 1_000);
    let stopped = |round| RenewLeases { round, claims: vec![], stopped: vec![db()] };
    assert!(!leader.renew(8_000, 2, &stopped(8_000)).released, "not its own");
    assert!(!leader.renew(8_000, 1, &stopped(6_999)).released, "overtaken");
    assert!(leader.renew(8_000, 1, &stopped(8_000)).released);
    assert!(leader.leases.list(leader.at(8_000)).is_empty());
}

#[test]
fn a_lease_of_another_node_is_waited_for() {
    let mut leader = Leader::new(Seat::On(node(1), 4));
    assert_eq!(leader.refused(5_000, 1, claim(4, false)), None);
    leader.seat = Seat::On(node(2), 5);
    let why = leader.refused(8_000, 2, claim(5, false)).expect("refused");
    assert_eq!(why, "its copy on n1 may run for another 0.3 s");
    assert_eq!(leader.refused(8_300, 2, claim(5, false)), None);
}

const NODES: u128 = 3;

#[derive(Debug, Clone)]
enum Op {
    Pass(u16),
    /// A node asks, by what it knows: so many changes of place behind.
    Send(u128, usize),
    /// A request comes to the newest leader, or to one that many elections older.
    Arrive(usize, usize),
    /// A majority confirms the lead, if it still is one.
    Confirm(usize),
    /// The leader takes what was confirmed.
    Grant(usize),
    /// The answer arrives.
    Hear(usize),
    /// A node ends its copy and says so.
    Stop(u128),
    /// The leader wants the replica to stop where it is, or places it.
    Free,
    Place(u128),
    /// What the leader proposed is agreed.
    Commit,
    /// Another leads; what was proposed survives or not.
    Elect(bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (n, at) = (0..NODES, 0usize..6);
    let op = prop_oneof![
        6 => (0u16..1_500).prop_map(Op::Pass),
        8 => (n.clone(), 0usize..3).prop_map(|(n, lag)| Op::Send(n, lag)),
        8 => (at.clone(), prop_oneof![4 => Just(0), 1 => 1usize..3]).prop_map(|(r, l)| Op::Arrive(r, l)),
        8 => at.clone().prop_map(Op::Confirm),
        8 => at.clone().prop_map(Op::Grant),
        8 => at.prop_map(Op::Hear),
        2 => n.clone().prop_map(Op::Stop),
        1 => Just(Op::Free),
        4 => n.prop_map(Op::Place),
        4 => Just(Op::Commit),
        1 => any::<bool>().prop_map(Op::Elect),
    ];
    prop::collection::vec(op, 1..300)
}

#[derive(Debug, Clone)]
enum Stage {
    Sent,
    Arrived { leader: usize, asked: Instant },
    Confirmed { leader: usize, asked: Instant, known: usize },
    Granted(Vec<LeaseAnswer>),
}

#[derive(Debug, Clone)]
struct Letter {
    from: u128,
    sent: u64,
    message: RenewLeases,
    stage: Stage,
}

#[derive(Debug, Default, Clone)]
struct Holder {
    until: u64,
    had: Option<u64>,
    gave_back: u64,
    round: u64,
}

/// One replica, three nodes, each with its own clock; a leader per term.
struct World {
    base: Instant,
    /// True time, in ms.
    now: u64,
    /// Of clocks, in thousandths of true speed: nodes', leaders'.
    speeds: Vec<u64>,
    /// Agreed places, oldest first, with their generations.
    log: Vec<(Option<u128>, u64)>,
    proposed: Option<Option<u128>>,
    leaders: Vec<(Leases, Instant)>,
    letters: Vec<Letter>,
    nodes: Vec<Holder>,
}

impl World {
    fn new(speeds: Vec<u64>) -> Self {
        let base = SystemClock.now();
        Self {
            base,
            now: 0,
            speeds,
            log: vec![(Some(0), 1)],
            proposed: None,
            leaders: vec![(Leases::default(), base)],
            letters: Vec::new(),
            nodes: vec![Holder::default(); 3],
        }
    }

    fn clock(&self, n: u128) -> u64 {
        self.now * self.speeds[usize::try_from(n).unwrap()] / 1000
    }

    /// A leader's clock, by term.
    fn leader_now(&self, leader: usize) -> Instant {
        let speed = self.speeds[3 + leader % (self.speeds.len() - 3)];
        self.base + Duration::from_millis(self.now * speed / 1000)
    }

    fn holders(&self) -> Vec<u128> {
        let holds = |n: &u128| self.clock(*n) < self.nodes[usize::try_from(*n).unwrap()].until;
        (0..NODES).filter(holds).collect()
    }

    /// As the placer has it (`Table::lease_left`).
    fn left(&self, target: u128) -> bool {
        let at = self.leaders.len() - 1;
        let now = self.leader_now(at);
        let (leases, since) = &self.leaders[at];
        let here = self.log.last().unwrap().0 == Some(target);
        let young = now.saturating_duration_since(*since) < LEASE_HELD && !here;
        young || leases.list(now).iter().any(|lease| lease.node != node(target))
    }

    fn take(&mut self, op: Op) {
        match op {
            Op::Pass(ms) => self.now += u64::from(ms),
            Op::Send(n, lag) => {
                let now = self.clock(n);
                let (place, generation) = self.log[self.log.len().saturating_sub(1 + lag)];
                let me = &mut self.nodes[usize::try_from(n).unwrap()];
                me.round = now.max(me.round + 1);
                // Placed here as far as it knows, or still stopping.
                let generation = match me.had {
                    _ if place == Some(n) => generation,
                    Some(had) if now < me.until => had,
                    _ => return,
                };
                let message = asks(me.round, claim(generation, me.had == Some(generation)));
                self.letters.push(Letter { from: n, sent: now, message, stage: Stage::Sent });
            }
            Op::Stop(n) => {
                let now = self.clock(n);
                let me = &mut self.nodes[usize::try_from(n).unwrap()];
                me.round = now.max(me.round + 1);
                (me.until, me.gave_back) = (0, me.round);
                let message = RenewLeases { round: me.round, claims: vec![], stopped: vec![db()] };
                self.letters.push(Letter { from: n, sent: now, message, stage: Stage::Sent });
            }
            Op::Arrive(at, back) => {
                let leader = (self.leaders.len() - 1).saturating_sub(back);
                let asked = self.leader_now(leader);
                if let Some(letter) = self.letter(at, |s| matches!(s, Stage::Sent)) {
                    letter.stage = Stage::Arrived { leader, asked };
                }
            }
            Op::Confirm(at) => {
                let (newest, known) = (self.leaders.len() - 1, self.log.len());
                let arrived = self.letter(at, |s| matches!(s, Stage::Arrived { .. }));
                if let Some(letter) = arrived
                    && let Stage::Arrived { leader, asked } = letter.stage
                    && leader == newest
                {
                    letter.stage = Stage::Confirmed { leader, asked, known };
                }
            }
            Op::Grant(at) => self.grant(at),
            Op::Hear(at) => {
                let found = self
                    .letters
                    .iter()
                    .enumerate()
                    .filter(|(_, letter)| matches!(letter.stage, Stage::Granted(_)))
                    .map(|(index, _)| index)
                    .nth(at);
                let Some(index) = found else { return };
                let letter = self.letters.remove(index);
                let Stage::Granted(answers) = letter.stage else { return };
                let me = &mut self.nodes[usize::try_from(letter.from).unwrap()];
                for answer in answers {
                    if answer.refused.is_none() && letter.message.round > me.gave_back {
                        me.had = me.had.max(Some(letter.message.claims[0].generation));
                        let lease = u64::try_from(LEASE.as_millis()).unwrap();
                        me.until = me.until.max(letter.sent + lease);
                    }
                }
            }
            Op::Free => self.proposed = Some(None),
            Op::Place(n) => {
                if !self.left(n) {
                    self.proposed = Some(Some(n));
                }
            }
            Op::Commit => self.commit(),
            Op::Elect(survives) => {
                if survives {
                    self.commit();
                }
                self.proposed = None;
                let since = self.leader_now(self.leaders.len());
                self.leaders.push((Leases::default(), since));
            }
        }
    }

    fn letter(&mut self, at: usize, of: impl Fn(&Stage) -> bool) -> Option<&mut Letter> {
        self.letters.iter_mut().filter(|letter| of(&letter.stage)).nth(at)
    }

    fn commit(&mut self) {
        let Some(place) = self.proposed.take() else { return };
        let (was, generation) = *self.log.last().unwrap();
        if was != place {
            self.log.push((place, generation + u64::from(place.is_some())));
        }
    }

    fn grant(&mut self, at: usize) {
        let confirmed = |s: &Stage| matches!(s, Stage::Confirmed { .. });
        let Some(letter) = self.letter(at, confirmed).cloned() else { return };
        let Stage::Confirmed { leader, asked, known } = letter.stage else { return };
        let now = self.leader_now(leader);
        // One that was replaced since may not have heard what was agreed after it.
        let newest = leader + 1 == self.leaders.len();
        let upto = if newest { self.log.len() } else { known };
        let seat = match self.log[upto - 1] {
            (Some(place), generation) => Seat::On(node(place), generation),
            (None, _) => Seat::Nowhere,
        };
        let (leases, since) = &mut self.leaders[leader];
        let from = node(letter.from);
        let name = |id: NodeId| id.to_string();
        let when = When { asked, now, led_since: *since };
        let done = leases.renew(from, &letter.message, when, |_| seat, name);
        if let Some(found) = self.letter(at, confirmed) {
            found.stage = Stage::Granted(done.answers);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_two_nodes_hold_a_lease_of_one_replica_at_once(
        speeds in prop::collection::vec(1_000u64..=1_100, 6),
        ops in ops(),
    ) {
        let mut world = World::new(speeds);
        for (step, op) in ops.into_iter().enumerate() {
            let text = format!("{op:?}");
            world.take(op);
            let holders = world.holders();
            prop_assert!(holders.len() <= 1, "step {}: {}: {:?}", step, text, holders);
        }
    }
}
