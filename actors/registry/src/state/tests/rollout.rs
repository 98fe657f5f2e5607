//! Rolling updates: agreed state, the one who decides and nodes that run what they are told, put
//! together and run through time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_protocol::{
    ComponentKey, ComponentState, ComponentStatus, Health, OperationKind, OperationOutcome,
    RevisionVerdict, RolloutPhase, RolloutStep, UpdateOrder, UpdatePolicy,
};
use weft_wire::{Clock, ManualClock, NodeId};

use super::*;
use crate::rollout::{Proofs, Scene};

/// Between two looks, ms.
const LOOK: u64 = 400;
/// What a program takes until it is healthy, ms.
const STARTS: u64 = 700;
/// What a bad one takes until it is given up on, ms.
const FAILS: u64 = 3_000;

/// A process on a node.
#[derive(Debug, Clone)]
struct Process {
    hash: String,
    epoch: u64,
    pid: u32,
    since: u64,
    good: bool,
}

/// A cluster of three nodes with one service, and its time.
struct World {
    machine: Machine,
    proofs: Proofs,
    start: Instant,
    now: u64,
    running: BTreeMap<(NodeId, u32), Process>,
    pids: u32,
    /// Nobody may have an extra replica.
    full: bool,
    /// Programs whose first argument is one of these fail.
    bad: Vec<&'static str>,
    fewest: u32,
}

impl World {
    fn new(spec: ServiceSpec) -> Self {
        let mut world = Self {
            machine: Machine::with_nodes(3),
            proofs: Proofs::default(),
            start: ManualClock::new(time(0)).now(),
            now: 0,
            running: BTreeMap::new(),
            pids: 0,
            full: false,
            bad: vec!["bad"],
            fewest: u32::MAX,
        };
        world.machine.deploy(spec);
        world.run(10_000);
        world.fewest = u32::MAX;
        world
    }

    fn record(&self) -> weft_protocol::ServiceRecord {
        self.machine.state.service("web").expect("it is there").clone()
    }

    fn rollout(&self) -> Option<weft_protocol::Rollout> {
        self.record().rollout.map(|rollout| *rollout)
    }

    /// Replicas that are healthy now, of whatever version.
    fn healthy(&self) -> BTreeSet<u32> {
        let up = |process: &Process| process.good && self.now >= process.since + STARTS;
        self.running.iter().filter(|(_, p)| up(p)).map(|((_, replica), _)| *replica).collect()
    }

    fn statuses(&self, node: NodeId) -> Vec<ComponentStatus> {
        let mut all = Vec::new();
        for ((_, replica), process) in self.running.iter().filter(|((of, _), _)| *of == node) {
            let age = self.now - process.since;
            let state = match (process.good, age) {
                (true, age) if age >= STARTS => ComponentState::Running,
                (false, age) if age >= FAILS => ComponentState::Failed,
                _ => ComponentState::Starting,
            };
            all.push(ComponentStatus {
                key: ComponentKey {
                    service: "web".into(),
                    replica: *replica,
                    component: "api".into(),
                },
                desired: Desired::Running,
                state,
                health: Health::None,
                pid: process.pid,
                version: String::new(),
                revision: 0,
                spec_hash: process.hash.clone(),
                epoch: process.epoch,
                restarts: 0,
                started_at: None,
                since: time(0),
                last_exit: String::new(),
                reason: if process.good { String::new() } else { "exit 1".into() },
                ports: vec![],
                urls: vec![],
                driver: Driver::Process,
                image: String::new(),
                digest: String::new(),
                container: String::new(),
                limits: String::new(),
                refused: 0,
            });
        }
        all
    }

    /// Places what has no place, has nodes do what they are told, and decides.
    fn turn(&mut self) {
        let record = self.record();
        let wanted = if record.undeployed { 0 } else { record.replicas() };
        let mut stuck = BTreeMap::new();
        for replica in 1..=wanted {
            if self.machine.state.placement("web", replica).is_some() {
                continue;
            }
            if self.full && replica > record.spec.replicas {
                stuck.insert(format!("web/{replica}"), "no node has room".to_owned());
            } else {
                self.machine.place("web", replica, Some(u128::from(replica % 3) + 1));
            }
        }
        for n in 1..=3 {
            let node = node_id(n);
            let list = self.machine.state.assignments(node);
            self.running.retain(|(of, replica), _| {
                *of != node || list.iter().any(|a| a.key.replica == *replica)
            });
            for told in list {
                let key = (node, told.key.replica);
                let same = self
                    .running
                    .get(&key)
                    .is_some_and(|p| p.hash == told.spec_hash && p.epoch == told.epoch);
                if told.desired != Desired::Running {
                    self.running.remove(&key);
                } else if !same {
                    self.pids += 1;
                    let good =
                        !self.bad.iter().any(|bad| told.spec.cmd.contains(&(*bad).to_owned()));
                    let (hash, epoch, pid) = (told.spec_hash, told.epoch, self.pids);
                    let process = Process { hash, epoch, pid, since: self.now, good };
                    self.running.insert(key, process);
                }
            }
        }
        self.fewest = self.fewest.min(u32::try_from(self.healthy().len()).expect("few"));
        let view = self.machine.state.view();
        let lists: BTreeMap<NodeId, Vec<ComponentStatus>> =
            (1..=3).map(|n| (node_id(n), self.statuses(node_id(n)))).collect();
        let record = self.record();
        let places: Vec<_> = view.placements.iter().filter(|p| p.service == "web").collect();
        let Some(rollout) = &record.rollout else { return };
        let age = self.age();
        self.proofs.begin();
        let scene = Scene {
            record: &record,
            places: &places,
            seen: |node| lists.get(&node).map(Vec::as_slice),
            stuck: &stuck,
            age,
        };
        let step = self.proofs.next(&scene, self.start + Duration::from_millis(self.now));
        self.proofs.end();
        if let Some(step) = step {
            let operation = rollout.operation;
            self.machine.ok(Command::Rollout { service: "web".into(), operation, step });
        }
    }

    /// The machine's time goes a second with each proposal; here it is the deadline that counts.
    fn age(&self) -> Duration {
        Duration::ZERO
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now += LOOK;
            self.turn();
        }
    }

    /// Until no update goes on; how long that took.
    fn finish(&mut self) -> u64 {
        let start = self.now;
        while self
            .rollout()
            .is_some_and(|r| matches!(r.phase, RolloutPhase::Forward | RolloutPhase::Back))
        {
            assert!(self.now - start < 600_000, "no end: {:?}", self.rollout());
            self.now += LOOK;
            self.turn();
        }
        let took = self.now - start;
        // What goes with the last step.
        self.now += LOOK;
        self.turn();
        took
    }

    fn pids(&self) -> BTreeSet<u32> {
        self.running.values().map(|process| process.pid).collect()
    }

    fn outcome(&self) -> (OperationKind, OperationOutcome, String) {
        let last = self.machine.state.operations().last().expect("one").clone();
        let finished = last.finished.expect("it has ended");
        (last.kind, finished.outcome, finished.detail)
    }
}

fn web(replicas: u32, arg: &str, edit: impl FnOnce(&mut UpdatePolicy)) -> ServiceSpec {
    let mut spec = service("web", replicas, vec![component("api", arg)]);
    spec.update.healthy_for = Duration::from_secs(2);
    edit(&mut spec.update);
    spec
}

#[test]
fn an_update_goes_replica_by_replica_with_an_extra_one_and_ends_with_all_of_the_new_version() {
    let mut world = World::new(web(3, "old", |_| {}));
    let before = world.pids();
    let applied = world.machine.deploy(web(3, "new", |_| {}));
    assert_eq!(applied.revision, 2);
    world.finish();
    assert_eq!(world.fewest, 3, "never fewer than it is to have");
    assert_eq!((world.healthy(), world.record().revision), ((1..=3).collect(), 2));
    assert!(world.pids().is_disjoint(&before));
    assert_eq!(
        world.outcome(),
        (OperationKind::Deploy, OperationOutcome::Done, "3 of 3 replicas updated".into())
    );
    let verdicts: Vec<_> =
        world.machine.state.revisions("web").iter().map(|r| (r.number, r.verdict)).collect();
    assert_eq!(verdicts[1], (2, RevisionVerdict::Good));
}

#[test]
fn a_version_that_fails_touches_no_old_replica_and_is_rolled_back_with_its_reason() {
    let mut world = World::new(web(3, "old", |_| {}));
    let before = world.pids();
    world.machine.deploy(web(3, "bad", |_| {}));
    world.finish();
    assert_eq!((world.fewest, world.pids()), (3, before), "not one was touched");
    let (kind, outcome, detail) = world.outcome();
    assert_eq!((kind, outcome), (OperationKind::Deploy, OperationOutcome::Failed));
    assert!(detail.contains("returned to revision 1") && detail.contains("exit 1"), "{detail}");
    let record = world.record();
    assert_eq!((record.revision, record.spec.components[0].cmd[1].as_str()), (1, "old"));
    // The number of what failed is not given again.
    assert_eq!(world.machine.deploy(web(3, "new", |_| {})).revision, 3);
}

#[test]
fn stop_first_updates_one_at_a_time_and_returns_what_it_had_updated() {
    let stop_first = |update: &mut UpdatePolicy| update.order = Some(UpdateOrder::StopFirst);
    let mut world = World::new(web(3, "old", stop_first));
    world.machine.deploy(web(3, "new", stop_first));
    world.finish();
    assert_eq!(world.fewest, 2, "one at a time");
    assert_eq!(world.record().revision, 2);
    world.fewest = u32::MAX;
    world.machine.deploy(web(3, "bad", stop_first));
    world.finish();
    assert_eq!((world.fewest, world.healthy().len(), world.record().revision), (2, 3, 2));
    assert_eq!(world.outcome().1, OperationOutcome::Failed);
}

#[test]
fn without_room_for_an_extra_replica_it_stops_first_and_says_so() {
    let mut world = World::new(web(2, "old", |_| {}));
    world.full = true;
    world.machine.deploy(web(2, "new", |_| {}));
    world.run(4_000);
    let rollout = world.rollout().expect("it goes on");
    assert_eq!(rollout.order, UpdateOrder::StopFirst);
    assert!(rollout.order_reason.contains("no node has room"), "{}", rollout.order_reason);
    world.finish();
    assert_eq!((world.fewest, world.record().revision), (1, 2));
}

#[test]
fn while_it_goes_on_other_changes_wait_and_a_person_may_pause_resume_or_end_it() {
    let mut world = World::new(web(2, "old", |_| {}));
    world.machine.deploy(web(2, "new", |_| {}));
    world.run(800);
    let refused = world.machine.refused(Command::Undeploy { service: "web".into() });
    assert_eq!(refused.kind, FailureKind::Busy);
    assert!(
        refused.message.starts_with("service busy: update to revision 2 since")
            && refused.message.ends_with("by ann"),
        "{}",
        refused.message
    );
    let scale = Command::Scale { service: "web".into(), replicas: 3 };
    assert_eq!(world.machine.refused(scale.clone()).kind, FailureKind::Busy);
    let roll = |step| Command::Rollout { service: "web".into(), operation: 0, step };
    world.machine.ok(roll(RolloutStep::Pause("lunch".into())));
    world.run(20_000);
    let rollout = world.rollout().expect("it waits");
    assert_eq!((rollout.phase, rollout.extra), (RolloutPhase::Paused, 0));
    assert_eq!(world.healthy().len(), 2, "the extra one has gone");
    world.machine.ok(roll(RolloutStep::Resume));
    world.run(3_600);
    world.machine.ok(Command::Rollback { service: "web".into(), revision: 0 });
    world.finish();
    assert_eq!((world.record().revision, world.fewest), (1, 2));
    let (kind, outcome, detail) = world.outcome();
    assert_eq!((kind, outcome), (OperationKind::Rollback, OperationOutcome::Done));
    assert!(detail.contains("rolled back by ann"), "{detail}");
    assert_eq!(world.machine.refused(roll(RolloutStep::Resume)).kind, FailureKind::Conflict);
    world.machine.ok(scale);
    assert!(world.rollout().is_none(), "no process has to be made anew");
    world.run(2_000);
    assert_eq!(world.healthy().len(), 3);
}

#[test]
fn a_canary_is_waited_for_and_a_rollback_by_number_makes_a_revision_of_its_own() {
    let mut world = World::new(web(3, "old", |_| {}));
    world.machine.deploy(web(3, "new", |update| update.canary = 1));
    world.run(30_000);
    let rollout = world.rollout().expect("it waits");
    assert_eq!((rollout.phase, rollout.updated.len()), (RolloutPhase::Paused, 1));
    assert_eq!(rollout.reason, "canary: 1 of 3 replicas updated");
    let resume =
        Command::Rollout { service: "web".into(), operation: 0, step: RolloutStep::Resume };
    world.machine.ok(resume);
    world.finish();
    assert_eq!((world.record().revision, world.fewest), (2, 3));
    let back = Command::Rollback { service: "web".into(), revision: 1 };
    assert_eq!(world.machine.ok(back).0.revision, 3);
    world.finish();
    assert_eq!(world.record().spec.components[0].cmd[1], "old");
    let none = world.machine.refused(Command::Rollback { service: "web".into(), revision: 9 });
    assert!(none.message.contains("no revision 9"), "{}", none.message);
}

#[test]
fn without_auto_rollback_it_is_left_as_it_is_until_the_next_deploy() {
    let halts = |update: &mut UpdatePolicy| update.auto_rollback = false;
    let mut world = World::new(web(2, "old", halts));
    world.machine.deploy(web(2, "bad", halts));
    world.finish();
    assert_eq!(world.rollout().expect("kept").phase, RolloutPhase::Halted);
    assert_eq!((world.outcome().1, world.healthy().len()), (OperationOutcome::Partial, 2));
    world.machine.deploy(web(2, "new", halts));
    world.finish();
    assert_eq!((world.fewest, world.record().revision), (2, 3));
}

#[test]
fn what_is_stopped_is_updated_at_once_and_a_first_deploy_is_no_update() {
    let mut world = World::new(web(2, "old", |_| {}));
    world.machine.ok(Command::SetDesired { target: target("web"), desired: Desired::Stopped });
    world.machine.deploy(web(2, "new", |_| {}));
    assert!(world.rollout().is_none(), "nothing ran");
    world.run(2_000);
    assert_eq!(world.healthy().len(), 2);
    // Stopped in the middle: there is nothing to be careful about.
    world.machine.deploy(web(2, "newer", |_| {}));
    world.run(800);
    world.machine.ok(Command::SetDesired { target: target("web"), desired: Desired::Stopped });
    world.finish();
    assert!(world.rollout().is_none() && world.healthy().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is deployed, scaled, paused and rolled back: it comes to an end in which every
    /// replica runs the version in force, and a start-first service never has fewer healthy
    /// replicas than both its versions ask for.
    #[test]
    fn any_sequence_of_changes_ends_with_one_version_and_never_too_few_replicas(
        replicas in 1u32..5,
        parallel in 1u32..4,
        deeds in prop::collection::vec((0u8..8, 0u64..12_000), 1..10),
    ) {
        let names = ["a", "b", "c", "bad"];
        let spec = |replicas, arg: &str| web(replicas, arg, |u| u.max_parallel = parallel);
        let mut world = World::new(spec(replicas, "old"));
        let mut count = replicas;
        for (deed, wait) in deeds {
            let name = "web".to_owned();
            let roll = |step| Command::Rollout { service: "web".into(), operation: 0, step };
            let command = match deed {
                0..=3 => Command::Deploy {
                    spec: Box::new(spec(count, names[deed as usize])),
                    options: DeployOptions::default(),
                },
                4 => roll(RolloutStep::Pause("x".into())),
                5 => roll(RolloutStep::Resume),
                6 => Command::Rollback { service: name, revision: 0 },
                _ => Command::Scale { service: name, replicas: count % 4 + 1 },
            };
            world.machine.try_it(command).ok();
            if world.record().spec.replicas != count {
                // Fewer are wanted from here on, or more that are not there yet.
                count = world.record().spec.replicas;
                world.run(4_000);
                world.fewest = u32::MAX;
            }
            world.run(wait);
        }
        if world.rollout().is_some_and(|r| r.phase == RolloutPhase::Paused) {
            let resume = RolloutStep::Resume;
            world.machine.ok(Command::Rollout { service: "web".into(), operation: 0, step: resume });
        }
        world.finish();
        world.run(4_000);
        let record = world.record();
        prop_assert!(record.rollout.is_none());
        prop_assert!(world.fewest >= count, "{} of {count}", world.fewest);
        let hash = weft_protocol::spec_hash(&record.spec, &record.spec.components[0]);
        prop_assert_eq!(world.running.len(), record.spec.replicas as usize);
        prop_assert!(world.running.values().all(|p| p.hash == hash && p.good));
    }
}
