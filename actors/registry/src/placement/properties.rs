//! What holds for every input, on clusters made up at random.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use weft_protocol::{OnPartition, ServiceRecord, VolumeMapping};
use weft_wire::NodeId;

use super::settle::World;
use super::tests::{id, node, record};
use super::*;

/// An input that owns what it holds.
#[derive(Debug, Clone)]
struct Case {
    services: Vec<ServiceRecord>,
    places: Vec<Place>,
    nodes: Vec<NodeFacts>,
    seen: Vec<Sighting>,
    leases: Vec<Lease>,
    settings: Settings,
}

impl Case {
    fn run<T>(&self, f: impl FnOnce(&Input<'_>) -> T) -> T {
        let services: Vec<_> = self.services.iter().collect();
        f(&Input {
            services: &services,
            places: &self.places,
            nodes: &self.nodes,
            seen: &self.seen,
            leases: &self.leases,
            settings: self.settings,
        })
    }

    fn decide(&self) -> Decision {
        self.run(decide)
    }

    fn world(&self) -> World {
        self.run(World::new)
    }

    fn take(&mut self, world: World) {
        (self.places, self.nodes, self.seen, self.leases, self.settings) =
            (world.places, world.nodes, world.seen, world.leases, world.settings);
    }

    /// Carries the decision out; moved replicas are in `state`.
    fn apply(&mut self, decision: &Decision, state: ReplicaState) {
        let mut world = self.world();
        world.apply(decision);
        if state != ReplicaState::Healthy {
            // Old copies that have to stop first are still at it.
            world.seen.retain(|seen| {
                let moved = |m: &Move| m.service == seen.service && m.replica == seen.replica;
                seen.state != ReplicaState::Stopped || !decision.moves.iter().any(moved)
            });
        }
        for seen in &mut world.seen {
            let moved = |m: &Move| m.service == seen.service && m.replica == seen.replica;
            if seen.state != ReplicaState::Stopped && decision.moves.iter().any(moved) {
                seen.state = state;
            }
        }
        self.take(world);
    }

    /// Plays it until quiet.
    fn rest(&mut self) {
        for _ in 0..2_000 {
            let decision = self.decide();
            let mut world = self.world();
            world.apply(&decision);
            match (decision.moves.is_empty() && decision.settled.is_empty(), decision.ask_again_ms)
            {
                (false, _) => {}
                (true, Some(ms)) => world.pass(ms),
                (true, None) => return,
            }
            self.take(world);
        }
        panic!("no rest: {self:#?}");
    }

    fn service(&self, name: &str) -> Option<&ServiceRecord> {
        self.services.iter().find(|service| service.name == name)
    }

    fn node(&self, id: NodeId) -> Option<&NodeFacts> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Declared memory and CPU on each node, both places of those that move.
    fn used(&self) -> BTreeMap<NodeId, (u64, u64)> {
        let mut used = BTreeMap::new();
        for place in &self.places {
            let Some(service) = self.service(&place.service) else { continue };
            let at: BTreeSet<_> =
                [Some(place.node), place.previous.map(|p| p.node)].into_iter().flatten().collect();
            for node in at {
                let entry: &mut (u64, u64) = used.entry(node).or_default();
                for component in &service.spec.components {
                    entry.0 += component.resources.memory.unwrap_or(0);
                    entry.1 += component.resources.cpu_millis.unwrap_or(0);
                }
            }
        }
        used
    }

    fn over(&self) -> BTreeMap<NodeId, (u64, u64)> {
        let over = |(id, (memory, cpu)): (NodeId, (u64, u64))| {
            let node = self.node(id)?;
            let memory = memory.saturating_sub(node.memory.unwrap_or(u64::MAX));
            let cpu = cpu.saturating_sub(node.cpu_millis.unwrap_or(u64::MAX));
            (memory > 0 || cpu > 0).then_some((id, (memory, cpu)))
        };
        self.used().into_iter().filter_map(over).collect()
    }
}

fn some_node(n: u32) -> impl Strategy<Value = NodeFacts> {
    let liveness = prop_oneof![
        8 => Just(Liveness::Ready),
        1 => Just(Liveness::Suspect),
        1 => Just(Liveness::DaemonDown),
        1 => Just(Liveness::Away),
        2 => (0..3_000_u64).prop_map(|for_ms| Liveness::Lost { for_ms }),
        1 => Just(Liveness::Left),
    ];
    let label = prop::sample::select(vec!["ssd", "zone=a", "tier=core", "tier=worker", "spot"]);
    (
        liveness,
        prop::bool::weighted(0.15),
        prop::sample::select(vec!["", "a", "b"]),
        prop::collection::vec(label, 0..2),
        prop::option::of(1..8_u64),
        prop::option::of(1..8_u64),
        prop::bool::weighted(0.1),
    )
        .prop_map(move |(liveness, draining, zone, labels, memory, cpu_millis, old)| {
            NodeFacts {
                liveness,
                draining,
                zone: zone.into(),
                labels: labels.into_iter().map(Into::into).collect(),
                memory,
                cpu_millis,
                version: if old { "0.9.0" } else { "1.0.0" }.into(),
                address: String::new(),
                ..node(n)
            }
        })
}

fn some_service(n: usize) -> impl Strategy<Value = ServiceRecord> {
    let rule = prop::sample::select(vec!["ssd", "zone=a", "zone!=b", "spot", "name=n1", "=?"]);
    let rules = move || prop::collection::vec(rule.clone(), 0..2);
    (
        (1..4_u32, 1..3_usize, prop::bool::weighted(0.2), prop::bool::weighted(0.15)),
        (rules(), rules(), rules()),
        prop::option::weighted(0.15, 1..6_u32),
        (prop::option::of(1..4_u64), prop::option::of(1..4_u64)),
        (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), 0..3_000_u64),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            move |(
                (replicas, components, colocate, volume),
                (require, prefer, avoid),
                pin,
                (memory, cpu),
                (lenient, core, undeployed, after),
                fenced,
            )| {
                let mut record = record(&format!("s{n}"));
                let spec = &mut record.spec;
                let own = |rules: Vec<&str>| rules.into_iter().map(str::to_owned).collect();
                spec.replicas = replicas;
                spec.placement.colocate = colocate;
                spec.placement.require = if lenient { Vec::new() } else { own(require) };
                spec.placement.prefer = own(prefer);
                spec.placement.avoid = own(avoid);
                spec.node = pin.map(|n| format!("n{n}")).unwrap_or_default();
                spec.failover.reschedule_after = Some(Duration::from_millis(after));
                if core {
                    spec.tier = weft_protocol::Tier::Core;
                }
                if fenced {
                    spec.on_partition = OnPartition::Stop;
                }
                let first = &mut spec.components[0];
                first.resources.memory = memory;
                first.resources.cpu_millis = cpu;
                if volume {
                    first.volumes.push(VolumeMapping {
                        host: "/x".into(),
                        container: "/x".into(),
                        options: String::new(),
                    });
                }
                for _ in 1..components {
                    let mut more = spec.components[0].clone();
                    more.name.push('b');
                    spec.components.push(more);
                }
                record.undeployed = undeployed;
                record
            },
        )
}

/// Any state at all, also ones the placer would not have made.
fn wild() -> impl Strategy<Value = Case> {
    let nodes = (1..7_u32).prop_flat_map(|n| (1..=n).map(some_node).collect::<Vec<_>>());
    let services = (0..6_usize).prop_flat_map(|n| (0..n).map(some_service).collect::<Vec<_>>());
    let place =
        (0..7_usize, 1..5_u32, 1..8_u32, prop::option::weighted(0.2, (1..8_u32, any::<bool>())));
    let states = prop::sample::select(vec![
        ReplicaState::Unknown,
        ReplicaState::Starting,
        ReplicaState::Running,
        ReplicaState::Healthy,
        ReplicaState::Healthy,
        ReplicaState::Healthy,
        ReplicaState::Failed,
        ReplicaState::Stopped,
    ]);
    let rest = (
        prop_oneof![Just(u64::MAX), 0..5_000_u64],
        prop::option::of(0..90_000_u64),
        prop::bool::weighted(0.1),
    );
    (nodes, services, prop::collection::vec((place, states, 0..5_000_u64), 0..14), rest).prop_map(
        |(nodes, services, all, (leading_for_ms, since_rebalance_ms, updating))| {
            let mut case = Case {
                services,
                places: Vec::new(),
                nodes,
                seen: Vec::new(),
                leases: Vec::new(),
                settings: Settings {
                    leading_for_ms,
                    since_rebalance_ms,
                    updating,
                    ..Settings::default()
                },
            };
            for ((n, replica, at, previous), state, renewed_ms_ago) in all {
                let service = format!("s{n}");
                let known = |p: &Place| p.service == service && p.replica == replica;
                if case.places.iter().any(known) {
                    continue;
                }
                let node = id(at);
                let previous = previous
                    .map(|(n, lost)| Previous { node: id(n), lost })
                    .filter(|previous| previous.node != node);
                if case.service(&service).is_some_and(|s| s.spec.on_partition == OnPartition::Stop)
                {
                    let service = service.clone();
                    case.leases.push(Lease { service, replica, node, renewed_ms_ago });
                }
                case.seen.push(Sighting { service: service.clone(), replica, node, state });
                let reason = String::new();
                case.places.push(Place { service, replica, node, previous, reason });
            }
            case
        },
    )
}

/// A state the placer itself came to rest in, with every node ready.
fn calm() -> impl Strategy<Value = Case> {
    wild().prop_map(|mut case| {
        for node in &mut case.nodes {
            node.liveness = Liveness::Ready;
            node.draining = false;
        }
        case.places.clear();
        case.seen.clear();
        case.leases.clear();
        case.rest();
        case
    })
}

fn shuffled<T: Clone>(items: &[T], by: u64) -> Vec<T> {
    let mut keyed: Vec<_> = items
        .iter()
        .enumerate()
        .map(|(at, item)| ((at as u64 + 1).wrapping_mul(by | 1).rotate_left(17) ^ by, item.clone()))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, item)| item).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_the_input_does_not_matter(case in wild(), by in any::<u64>()) {
        let other = Case {
            services: shuffled(&case.services, by),
            places: shuffled(&case.places, by),
            nodes: shuffled(&case.nodes, by),
            seen: shuffled(&case.seen, by),
            leases: shuffled(&case.leases, by),
            settings: case.settings,
        };
        prop_assert_eq!(case.decide(), other.decide());
    }

    #[test]
    fn no_decision_overcommits_a_node(mut case in wild()) {
        for _ in 0..40 {
            let before = case.over();
            let decision = case.decide();
            case.apply(&decision, ReplicaState::Healthy);
            // What was too much already may stay, but nothing is added to it.
            for (node, over) in case.over() {
                let was = before.get(&node).copied().unwrap_or_default();
                prop_assert!(over.0 <= was.0 && over.1 <= was.1, "{decision:#?}");
            }
        }
    }

    #[test]
    fn replicas_share_a_node_only_when_no_other_fits(case in wild()) {
        let decision = case.decide();
        let mut after = case.clone();
        after.apply(&decision, ReplicaState::Starting);
        for step in &decision.moves {
            let spec = &case.service(&step.service);
            let Some(spec) = spec.map(|s| &s.spec) else { continue };
            let own = matches!(step.kind, MoveKind::Returned | MoveKind::Pinned);
            let plain = spec.components.iter().all(|c| c.resources == Default::default());
            if own || !plain || spec.placement.colocate || !spec.node.is_empty() {
                continue;
            }
            let mates = |at: NodeId| after.places.iter().filter(|p| {
                p.service == step.service && p.node == at && p.replica != step.replica
            }).count();
            let Some(to) = step.to else { continue };
            if mates(to) == 0 {
                continue;
            }
            // A node that fits and has none of them: then it would have been taken.
            for node in &case.nodes {
                let rules: Vec<_> =
                    spec.placement.require.iter().map(|r| rules::Expr::parse(r)).collect();
                let fits = node.liveness == Liveness::Ready
                    && !node.draining
                    && rules::takes(node, spec.tier)
                    && rules.iter().all(|r| r.as_ref().is_some_and(|r| r.holds(node)));
                prop_assert!(!fits || mates(node.id) > 0, "{} is free: {step:#?}", node.name);
            }
        }
    }

    #[test]
    fn a_decision_carried_out_needs_no_other(mut case in wild()) {
        let decision = case.decide();
        case.apply(&decision, ReplicaState::Starting);
        // Those that had to stop first go on at once, because their lease is given up.
        let stopped: BTreeSet<_> = decision.moves.iter().filter(|m| m.to.is_none())
            .map(|m| (m.service.clone(), m.replica)).collect();
        let next = case.decide();
        // What was removed may leave a spread that can be better: a reason of its own.
        let more: Vec<_> = next.moves.iter()
            .filter(|m| m.kind != MoveKind::Rebalanced)
            .filter(|m| !stopped.contains(&(m.service.clone(), m.replica))).collect();
        prop_assert!(more.is_empty(), "first {decision:#?}\nthen {more:#?}");
        // One that was moved has another previous place now, which may be settled in its turn.
        let moved = |key: &ReplicaKey| decision.moves.iter()
            .any(|m| (&m.service, m.replica) == (&key.service, key.replica));
        for key in &next.settled {
            prop_assert!(!decision.settled.contains(key) || moved(key), "{key:?} again: {decision:#?}");
        }
    }

    #[test]
    fn nothing_moves_when_nothing_is_wrong(case in calm()) {
        let decision = case.decide();
        prop_assert!(decision.moves.is_empty(), "{decision:#?}");
        // Restless beginnings change nothing either: a new leader, nothing reported yet.
        let blank = Case {
            seen: Vec::new(),
            settings: Settings { leading_for_ms: 0, since_rebalance_ms: None, ..case.settings },
            ..case
        };
        let decision = blank.decide();
        prop_assert!(decision.moves.is_empty(), "{decision:#?}");
    }

    #[test]
    fn losing_a_node_moves_only_its_replicas(case in calm(), which in any::<prop::sample::Index>()) {
        let lost_id = case.nodes[which.index(case.nodes.len())].id;
        let plan = case.run(|input| lost(input, &[lost_id]));
        for step in &plan.moves {
            prop_assert_eq!(step.from, Some(lost_id));
            prop_assert_eq!(step.kind, MoveKind::NodeLost);
            let spec = &case.service(&step.service).expect("known").spec;
            prop_assert!(spec.node.is_empty());
            prop_assert!(spec.components.iter().all(|c| c.volumes.is_empty()));
        }
        // Each of its replicas moves or waits and says why.
        for place in case.places.iter().filter(|place| place.node == lost_id) {
            let moves = plan.moves.iter()
                .any(|m| m.service == place.service && m.replica == place.replica);
            let waits = plan.waiting.iter()
                .any(|w| w.service == place.service && w.replica == place.replica);
            prop_assert!(moves != waits, "{place:?}: {plan:#?}");
        }
    }

    #[test]
    fn a_plan_is_what_a_leader_then_does(mut case in wild(), which in any::<prop::sample::Index>()) {
        let at = which.index(case.nodes.len());
        let lost_id = case.nodes[at].id;
        let plan = case.run(|input| lost(input, &[lost_id]));
        let before = case.places.clone();
        if !matches!(case.nodes[at].liveness, Liveness::Lost { .. } | Liveness::Left) {
            case.nodes[at].liveness = Liveness::Lost { for_ms: 0 };
        }
        case.rest();
        let find = |places: &[Place], service: &str, replica| places.iter()
            .find(|p| p.service == service && p.replica == replica).map(|p| p.node);
        for step in &plan.moves {
            prop_assert_eq!(find(&before, &step.service, step.replica), step.from);
            prop_assert_eq!(find(&case.places, &step.service, step.replica), step.to);
        }
        for place in case.places.iter().chain(&before) {
            let moved = plan.moves.iter()
                .any(|m| m.service == place.service && m.replica == place.replica);
            let (was, is) = (
                find(&before, &place.service, place.replica),
                find(&case.places, &place.service, place.replica),
            );
            prop_assert!(moved || was == is, "{place:?}: {was:?} {is:?}");
        }
    }

    #[test]
    fn a_pinned_replica_goes_nowhere_else(case in wild()) {
        for step in case.run(settle).moves {
            let pin = case.service(&step.service).map(|s| s.spec.node.as_str()).unwrap_or("");
            if let (Some(to), false) = (step.to, pin.is_empty()) {
                prop_assert_eq!(case.node(to).map(|node| node.name.as_str()), Some(pin));
            }
        }
    }

    #[test]
    fn a_target_is_ready_and_not_draining_and_every_reason_is_a_short_sentence(case in wild()) {
        let decision = case.decide();
        for step in &decision.moves {
            if let Some(to) = step.to {
                let node = case.node(to).expect("a known node");
                prop_assert!(node.liveness == Liveness::Ready && !node.draining, "{step:?}");
            }
            prop_assert!(step.from != step.to, "{step:?}");
            prop_assert!((1..160).contains(&step.reason.len()), "{step:?}");
        }
        let mut keys: Vec<_> = decision.moves.iter().map(|m| (&m.service, m.replica)).collect();
        keys.dedup();
        prop_assert_eq!(keys.len(), decision.moves.len(), "one move a replica");
        for waiting in &decision.waiting {
            prop_assert!((1..260).contains(&waiting.reason.len()), "{waiting:?}");
        }
        prop_assert!(decision.ask_again_ms != Some(0));
    }

    #[test]
    fn a_fenced_copy_starts_only_when_no_other_can_run(mut case in wild()) {
        for _ in 0..20 {
            let decision = case.decide();
            for step in &decision.moves {
                let fenced = case.service(&step.service)
                    .is_some_and(|s| s.spec.on_partition == OnPartition::Stop);
                let Some(to) = step.to.filter(|_| fenced) else { continue };
                for lease in &case.leases {
                    let other = lease.service == step.service
                        && lease.replica == step.replica && lease.node != to;
                    let stopped = case.seen.iter().any(|s| s.service == step.service
                        && s.replica == step.replica && s.node == lease.node
                        && s.state == ReplicaState::Stopped);
                    prop_assert!(!other || stopped || lease.renewed_ms_ago >= 3_300, "{step:?}");
                }
            }
            let mut world = case.world();
            world.apply(&decision);
            world.pass(250);
            case.take(world);
        }
    }

    #[test]
    fn it_comes_to_rest(case in wild()) {
        let settled = case.run(settle);
        prop_assert!(settled.quiet, "{:#?}", settled.moves);
        prop_assert!(settled.last.moves.is_empty());
    }
}
