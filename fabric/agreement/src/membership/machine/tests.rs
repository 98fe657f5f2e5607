//! Machines in a simulated network, with fake time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;
use weft_wire::{Clock, NodeId, SystemClock};

use super::*;
use crate::membership::times::Profile;
use crate::membership::wire::{Opinion, Purpose};

const GRACE: Duration = Duration::from_secs(15);
/// An incarnation that a start gives.
const START: u64 = 1_000_000;

fn id(n: usize) -> NodeId {
    NodeId::new(Uuid::from_u128(n as u128 + 1))
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What a host does with a probe.
#[derive(Clone, Copy, PartialEq)]
enum Host {
    /// Up; the daemon's port is closed if the daemon is.
    Up,
    Silent,
}

struct Net {
    start: Instant,
    now: Instant,
    times: Times,
    rng: StdRng,
    nodes: Vec<Option<Machine>>,
    starts: Vec<u64>,
    hosts: Vec<Host>,
    /// Directions that bear nothing.
    cut: BTreeSet<(usize, usize)>,
    /// Share of packets that come late: lost, and sent again by the link.
    loss: f64,
    queue: BTreeMap<(Instant, u64), (usize, Input)>,
    number: u64,
    /// Links keep the order.
    last: HashMap<(usize, usize), Instant>,
    /// Every change a node saw: when, who, of whom, what.
    log: Vec<(Duration, usize, usize, Liveness)>,
    seen: HashMap<(usize, usize), Liveness>,
    packets: u64,
}

impl Net {
    fn new(n: usize, profile: Profile, seed: u64) -> Self {
        let now = SystemClock.now();
        let mut net = Self {
            start: now,
            now,
            times: Times::of(profile, GRACE),
            rng: StdRng::seed_from_u64(seed),
            nodes: Vec::new(),
            starts: vec![0; n],
            hosts: vec![Host::Up; n],
            cut: BTreeSet::new(),
            loss: 0.0,
            queue: BTreeMap::new(),
            number: 0,
            last: HashMap::new(),
            log: Vec::new(),
            seen: HashMap::new(),
            packets: 0,
        };
        net.nodes.resize_with(n, || None);
        net
    }

    /// With all nodes started and known to each other, and some time gone by.
    fn settled(n: usize, profile: Profile, seed: u64) -> Self {
        let mut net = Self::new(n, profile, seed);
        for node in 0..n {
            let later = ms(net.rng.random_range(0..500));
            net.run(later);
            net.start(node);
        }
        let settle = net.times.announce * 4 + ms(net.rng.random_range(0..2000));
        net.run(settle);
        for a in 0..n {
            for b in 0..n {
                assert_eq!(net.sees(a, b), Liveness::Alive, "{a} of {b} after the start");
            }
        }
        net.log.clear();
        net
    }

    fn start(&mut self, node: usize) {
        self.starts[node] += START;
        let own = Life { node: id(node), incarnation: self.starts[node] };
        let seed = self.rng.random();
        self.nodes[node] = Some(Machine::new(own, self.times, seed, self.now));
        let all = (0..self.nodes.len()).map(id).collect();
        self.input(node, Input::Known(all));
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    fn isolate(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            self.cut.insert((node, other));
            self.cut.insert((other, node));
        }
    }

    fn sees(&self, a: usize, b: usize) -> Liveness {
        let machine = self.nodes[a].as_ref().expect("it runs");
        machine.members().get(id(b)).expect("it is known").liveness
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn post(&mut self, at: Instant, to: usize, input: Input) {
        self.number += 1;
        self.queue.insert((at, self.number), (to, input));
    }

    fn send(&mut self, from: usize, to: usize, input: Input) {
        self.packets += 1;
        if self.cut.contains(&(from, to)) {
            return;
        }
        let mut at = self.now + Duration::from_micros(self.rng.random_range(100..600));
        while self.loss > 0.0 && self.rng.random_bool(self.loss) {
            at += ms(self.rng.random_range(25..=200));
        }
        let last = self.last.entry((from, to)).or_insert(at);
        at = at.max(*last);
        *last = at;
        self.post(at, to, input);
    }

    fn input(&mut self, node: usize, input: Input) {
        let Some(machine) = self.nodes[node].as_mut() else { return };
        let effects = machine.handle(self.now, input);
        let members = machine.members();
        for effect in effects {
            let index = |node: NodeId| node.uuid().as_u128() as usize - 1;
            match effect {
                Effect::Gossip(gossip) => {
                    self.send(node, index(gossip.to.node), Input::Gossip(id(node), gossip));
                }
                Effect::Suspicion(suspicion) => {
                    let to = index(suspicion.life.node);
                    self.send(node, to, Input::Suspicion(id(node), suspicion));
                }
                Effect::ProbeHost(host) => {
                    let to = index(host);
                    let reached = !self.cut.contains(&(node, to))
                        && !self.cut.contains(&(to, node))
                        && self.hosts[to] == Host::Up;
                    let refused = reached && self.nodes[to].is_none();
                    let answer = HostAnswer { refused, up: reached };
                    let at = self.now + ms(1);
                    self.post(at, node, Input::Host(host, answer));
                }
                Effect::Changed => {}
            }
        }
        for other in 0..self.nodes.len() {
            let Some(member) = members.get(id(other)) else { continue };
            if self.seen.insert((node, other), member.liveness) != Some(member.liveness) {
                self.log.push((self.elapsed(), node, other, member.liveness));
            }
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let packet = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(n, machine)| Some((machine.as_ref()?.next(), n)))
                .min();
            let at = packet.into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            match timer {
                Some((due, node)) if packet.is_none_or(|packet| due < packet) => {
                    self.input(node, Input::Tick);
                    let next = self.nodes[node].as_ref().expect("it runs").next();
                    assert!(next > self.now, "it wants to be woken for ever");
                }
                _ => {
                    let (_, (node, input)) = self.queue.pop_first().expect("there is one");
                    self.input(node, input);
                }
            }
        }
        self.now = end;
    }

    /// How long from now until `check` holds, looking every 10 ms, for at most a minute.
    fn until(&mut self, what: &str, check: impl Fn(&Self) -> bool) -> Duration {
        let from = self.now;
        while !check(self) {
            assert!(self.now - from < ms(60_000), "not in a minute: {what}\n{:?}", self.log);
            self.run(ms(10));
        }
        self.now - from
    }

    fn all_see(&self, of: usize, liveness: Liveness) -> bool {
        (0..self.nodes.len())
            .filter(|n| *n != of && self.nodes[*n].is_some())
            .all(|n| self.sees(n, of) == liveness)
    }
}

fn deaths(net: &Net) -> Vec<&(Duration, usize, usize, Liveness)> {
    let dead = |l: Liveness| matches!(l, Liveness::Lost | Liveness::DaemonDown | Liveness::Left);
    net.log.iter().filter(|(.., liveness)| dead(*liveness)).collect()
}

/// How long until all survivors know that a node was cut off, for many seeds.
fn detection(n: usize, seeds: u64) -> Vec<Duration> {
    let mut took: Vec<_> = (0..seeds)
        .map(|seed| {
            let mut net = Net::settled(n, Profile::Lan, seed);
            net.hosts[0] = Host::Silent;
            net.kill(0);
            let time = net.until("lost", |net| net.all_see(0, Liveness::Lost));
            let others = deaths(&net).iter().filter(|(_, _, of, _)| *of != 0).count();
            assert_eq!(others, 0, "{:?}", net.log);
            time
        })
        .collect();
    took.sort_unstable();
    took
}

#[test]
fn a_silent_node_of_three_is_dead_within_one_and_a_half_seconds() {
    let took = detection(3, 150);
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("3 nodes: median {median:?}, max {most:?}");
    assert!(most <= ms(1500), "{most:?}");
}

#[test]
fn a_silent_node_of_five_is_dead_within_one_and_a_half_seconds_in_99_of_100_runs() {
    let took = detection(5, 150);
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("5 nodes: median {median:?}, 99 % {:?}, max {most:?}", took[took.len() * 99 / 100]);
    assert!(took[took.len() * 99 / 100] <= ms(1500), "{took:?}");
    assert!(most <= ms(1900), "{most:?}");
}

#[test]
fn nobody_dies_in_a_minute_at_twenty_percent_loss() {
    for n in [3, 5] {
        for seed in 0..6 {
            let mut net = Net::settled(n, Profile::Lan, seed);
            net.loss = 0.2;
            net.run(ms(60_000));
            assert_eq!(deaths(&net), Vec::<&_>::new(), "{n} nodes, seed {seed}");
        }
    }
}

#[test]
fn a_silent_node_is_found_dead_at_twenty_percent_loss_too() {
    for seed in 0..30 {
        let mut net = Net::settled(5, Profile::Lan, seed);
        net.loss = 0.2;
        net.run(ms(3000));
        net.hosts[0] = Host::Silent;
        net.isolate(0);
        net.until("lost", |net| net.all_see(0, Liveness::Lost));
        let last = net.elapsed();
        net.run(ms(20_000));
        assert!(net.all_see(0, Liveness::Lost), "{last:?} {:?}", net.log);
    }
}

#[test]
fn a_killed_daemon_is_told_from_a_lost_node_and_counts_as_lost_after_its_grace() {
    for seed in 0..20 {
        let mut net = Net::settled(3, Profile::Lan, seed);
        let killed = net.elapsed();
        net.kill(0);
        let down = net.until("down", |net| net.all_see(0, Liveness::DaemonDown));
        assert!(down <= ms(1500), "{down:?}");
        net.until("lost", |net| net.all_see(0, Liveness::Lost));
        let lost = net.elapsed() - killed;
        assert!(lost >= GRACE && lost <= GRACE + ms(1500), "{lost:?}");
        assert!(!net.log.iter().any(|(at, _, _, l)| *l == Liveness::Lost && *at < killed + GRACE));
    }
}

#[test]
fn a_daemon_that_comes_back_in_time_was_never_lost() {
    let mut net = Net::settled(3, Profile::Lan, 1);
    net.kill(0);
    net.run(ms(10_000));
    net.start(0);
    net.until("back", |net| net.all_see(0, Liveness::Alive));
    net.run(ms(10_000));
    assert!(net.log.iter().all(|(.., liveness)| *liveness != Liveness::Lost), "{:?}", net.log);
}

#[test]
fn a_host_that_goes_silent_under_a_dead_daemon_is_lost_soon() {
    let mut net = Net::settled(3, Profile::Lan, 2);
    net.kill(0);
    net.until("down", |net| net.all_see(0, Liveness::DaemonDown));
    net.hosts[0] = Host::Silent;
    let lost = net.until("lost", |net| net.all_see(0, Liveness::Lost));
    assert!(lost <= ms(2600), "{lost:?}");
}

#[test]
fn a_node_that_lost_everybody_comes_back_by_itself() {
    for seed in 0..20 {
        let mut net = Net::settled(5, Profile::Lan, seed);
        net.isolate(2);
        net.run(ms(20_000));
        for other in [0, 1, 3, 4] {
            assert_eq!(net.sees(other, 2), Liveness::Lost);
            assert_eq!(net.sees(2, other), Liveness::Lost);
        }
        net.cut.clear();
        let back = net.until("back", |net| {
            net.all_see(2, Liveness::Alive) && (0..5).all(|n| net.sees(2, n) == Liveness::Alive)
        });
        assert!(back <= ms(3000), "{back:?}");
        let lives = net.nodes[2].as_ref().expect("it runs").own().incarnation;
        assert!(lives > START, "a new life: {lives}");
        net.run(ms(30_000));
        let after: Vec<_> = net.log.iter().filter(|(.., l)| *l == Liveness::Lost).collect();
        assert_eq!(after.len(), 8, "nobody died again: {after:?}");
    }
}

#[test]
fn a_planned_stop_is_never_a_silence_and_the_return_is_alive() {
    let mut net = Net::settled(3, Profile::Lan, 3);
    let leave = Leave { incarnation: START, back_in_ms: Some(8000) };
    net.kill(0);
    for other in [1, 2] {
        net.input(other, Input::Leave(id(0), leave));
    }
    assert!(net.all_see(0, Liveness::Away));
    net.run(ms(7000));
    assert!(net.log.iter().all(|(_, _, of, l)| *of != 0 || *l == Liveness::Away), "{:?}", net.log);
    net.start(0);
    net.until("back", |net| net.all_see(0, Liveness::Alive));
    assert_eq!(deaths(&net), Vec::<&_>::new());
}

#[test]
fn who_does_not_return_in_time_is_judged_by_its_host() {
    for (host, then) in [(Host::Up, Liveness::DaemonDown), (Host::Silent, Liveness::Lost)] {
        let mut net = Net::settled(3, Profile::Lan, 4);
        net.hosts[0] = host;
        net.kill(0);
        let leave = Leave { incarnation: START, back_in_ms: Some(3000) };
        for other in [1, 2] {
            net.input(other, Input::Leave(id(0), leave));
        }
        net.run(ms(4000));
        assert!(net.all_see(0, then), "{:?}", net.log);
    }
}

#[test]
fn who_leaves_for_good_has_left_and_is_forgotten_once_it_is_not_known() {
    let mut net = Net::settled(3, Profile::Lan, 5);
    net.kill(0);
    // Only one is told; the other hears that this life is over, and judges by the host.
    net.input(1, Input::Leave(id(0), Leave { incarnation: START, back_in_ms: None }));
    net.run(ms(5000));
    assert_eq!(net.sees(1, 0), Liveness::Left);
    assert_eq!(net.sees(2, 0), Liveness::DaemonDown);
    net.input(1, Input::Known(vec![id(1), id(2)]));
    net.run(ms(5000));
    let members = net.nodes[1].as_ref().expect("it runs").members();
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [id(1), id(2)]);
}

#[test]
fn a_one_way_cut_ends_in_one_state_and_stays_there() {
    for n in [3, 5] {
        for outwards in [true, false] {
            for seed in 0..2 {
                let mut net = Net::settled(n, Profile::Lan, seed);
                for other in 1..n {
                    net.cut.insert(if outwards { (0, other) } else { (other, 0) });
                }
                net.run(ms(15_000));
                let settled = net.log.len();
                assert!(net.all_see(0, Liveness::Lost), "{outwards} {:?}", net.log);
                net.run(ms(75_000));
                let later = &net.log[settled..];
                assert!(later.is_empty(), "n {n}, outwards {outwards}: {later:?}");
                for a in 1..n {
                    for b in 1..n {
                        assert_eq!(net.sees(a, b), Liveness::Alive);
                    }
                }
                let false_death = |(_, a, b, l): &&(_, usize, usize, Liveness)| {
                    *a != 0 && *b != 0 && *l == Liveness::Lost
                };
                assert_eq!(net.log.iter().find(false_death), None);
            }
        }
    }
}

#[test]
fn two_nodes_that_hear_each_other_through_others_only_stay_alive() {
    let mut net = Net::settled(5, Profile::Lan, 6);
    net.cut.insert((0, 1));
    net.cut.insert((1, 0));
    net.run(ms(60_000));
    assert_eq!(deaths(&net), Vec::<&_>::new());
}

#[test]
fn who_flaps_is_held_lost_until_it_was_steady() {
    for seed in 0..5 {
        let mut net = Net::settled(3, Profile::Lan, seed);
        // Three seconds away, three seconds there, for two minutes.
        for _ in 0..20 {
            net.isolate(0);
            net.run(ms(3000));
            net.cut.clear();
            net.run(ms(3000));
        }
        for observer in [1, 2] {
            let rises = net
                .log
                .iter()
                .filter(|(_, a, b, l)| (*a, *b, *l) == (observer, 0, Liveness::Alive))
                .count();
            assert!(rises <= 2, "{rises} {:?}", net.log);
        }
        assert!(net.all_see(0, Liveness::Lost));
        let steady = net.until("steady", |net| net.all_see(0, Liveness::Alive));
        assert!(steady >= ms(20_000) && steady <= ms(35_000), "{steady:?}");
    }
}

#[test]
fn the_wan_profile_is_more_patient() {
    let mut net = Net::settled(3, Profile::Wan, 7);
    net.hosts[0] = Host::Silent;
    net.kill(0);
    net.run(ms(4000));
    assert!(!net.all_see(0, Liveness::Lost));
    let lost = net.until("lost", |net| net.all_see(0, Liveness::Lost));
    assert!(lost < ms(6000), "{lost:?}");
}

#[test]
fn a_node_of_the_cluster_that_was_never_heard_of_is_judged_too() {
    let mut net = Net::new(3, Profile::Lan, 8);
    net.hosts[2] = Host::Silent;
    net.start(0);
    net.start(1);
    net.run(ms(1000));
    assert_eq!(net.sees(0, 2), Liveness::Suspect);
    net.run(ms(4000));
    assert!(net.all_see(2, Liveness::Lost));
    net.start(2);
    net.until("up", |net| net.all_see(2, Liveness::Alive));
}

#[test]
fn a_stall_of_this_node_is_nobodys_death() {
    for seed in 0..20 {
        let mut net = Net::settled(3, Profile::Lan, seed);
        // Node 1 is frozen for 600 ms: what arrives waits, its timers come late.
        let end = net.now + ms(600);
        let frozen = net.nodes[1].take();
        let mut waiting = Vec::new();
        while net.now < end {
            let late: Vec<_> =
                net.queue.iter().filter(|(_, (to, _))| *to == 1).map(|(key, _)| *key).collect();
            for key in late {
                waiting.extend(net.queue.remove(&key));
            }
            net.run(ms(1));
        }
        net.nodes[1] = frozen;
        for (to, input) in waiting {
            net.input(to, input);
        }
        net.run(ms(20_000));
        assert_eq!(deaths(&net), Vec::<&_>::new(), "seed {seed}");
    }
}

#[test]
fn the_traffic_of_a_quiet_node_does_not_grow_with_the_cluster() {
    for n in [5, 20] {
        let mut net = Net::settled(n, Profile::Lan, 9);
        net.run(ms(10_000));
        let before = net.packets;
        net.run(ms(2000));
        let each = (net.packets - before) / n as u64 / 2;
        assert!(each <= 20, "{each} packets a second and node of {n}");
    }
}

#[test]
fn a_lost_memory_of_the_incarnation_is_made_up_for() {
    let mut net = Net::settled(3, Profile::Lan, 10);
    net.kill(0);
    net.starts[0] = 0;
    net.start(0);
    net.starts[0] = 5 * START;
    net.kill(0);
    net.start(0);
    net.until("back", |net| net.all_see(0, Liveness::Alive));
    // Begins far below what the others know.
    net.kill(0);
    net.starts[0] = 0;
    net.start(0);
    net.until("back", |net| {
        net.nodes[0].as_ref().is_some_and(|m| m.own().incarnation > 6 * START)
            && net.all_see(0, Liveness::Alive)
            && net.sees(0, 1) == Liveness::Alive
    });
}

fn any_life() -> impl Strategy<Value = Life> {
    (0usize..5, prop_oneof![Just(START), Just(2 * START), any::<u64>()])
        .prop_map(|(node, incarnation)| Life { node: id(node), incarnation })
}

fn any_gossip() -> impl Strategy<Value = Gossip> {
    let health = prop_oneof![Just(Health::Alive), Just(Health::Suspect), Just(Health::Dead)];
    let opinion = (any_life(), any::<u16>(), health).prop_map(|(life, refuted, health)| Opinion {
        life,
        refuted,
        health,
    });
    let purpose = (any_life(), any::<u8>(), 0u8..10).prop_map(|(life, number, kind)| match kind {
        0 => Purpose::Ping { number },
        1 => Purpose::Ack { number },
        2 => Purpose::PingRequest { target: life, number },
        3 => Purpose::IndirectPing { origin: life, number },
        4 => Purpose::IndirectAck { target: life, number },
        5 => Purpose::ForwardedAck { origin: life, number },
        6 => Purpose::Announce,
        7 => Purpose::Feed,
        8 => Purpose::News,
        _ => Purpose::YouAreDead,
    });
    let opinions = proptest::collection::vec(opinion, 0..400);
    (any_life(), any::<u16>(), any_life(), purpose, opinions).prop_map(
        |(from, refuted, to, purpose, opinions)| Gossip { from, refuted, to, purpose, opinions },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_peers_say_nothing_panics_and_time_goes_on(
        seed: u64,
        said in proptest::collection::vec((any_gossip(), any_life(), any::<u16>(), 0u64..3000), 1..30),
    ) {
        let mut net = Net::settled(3, Profile::Lan, seed);
        for (mut gossip, life, refuted, pause) in said {
            let from = gossip.from.node;
            gossip.to.node = id(0);
            net.input(0, Input::Gossip(from, gossip));
            net.input(0, Input::Suspicion(from, Suspicion { life, refuted }));
            net.run(ms(pause));
        }
        net.run(ms(5000));
    }

    #[test]
    fn two_runs_with_one_seed_are_the_same(seed: u64) {
        let run = || {
            let mut net = Net::settled(4, Profile::Lan, seed);
            net.loss = 0.2;
            net.run(ms(3000));
            net.kill(1);
            net.run(ms(5000));
            (net.log, net.packets)
        };
        prop_assert_eq!(run(), run());
    }
}
