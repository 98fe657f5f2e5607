//! When a component counts as good, when as lost, and that each is decided exactly once.

use proptest::prelude::*;
use weft_wire::{Clock as _, SystemClock, WallTime};

use super::*;
use crate::rows::tests::{key, node_id, state, status};
use crate::rows::{Nowhere, wanted};

fn expected(goal: Goal) -> Expected {
    Expected {
        wanted: wanted(&state(), None).remove(0),
        node: "n1".into(),
        goal,
        restart: RestartPolicy::UnlessStopped,
        before: None,
    }
}

fn up(revision: u64, anew: bool) -> Goal {
    Goal::Up { revision, hash: "abc".into(), anew }
}

fn live(state: ComponentState, revision: u64) -> ComponentStatus {
    ComponentStatus { revision, ..status(key("web", 1, "api"), state) }
}

fn kinds(decisions: &[Decision]) -> Vec<&'static str> {
    decisions
        .iter()
        .map(|decision| match decision {
            Decision::Progress(_) => "progress",
            Decision::Good(_) => "good",
            Decision::Bad(..) => "bad",
        })
        .collect()
}

#[test]
fn without_a_probe_it_is_good_once_it_has_run_for_a_moment() {
    let now = SystemClock.now();
    let mut rollout = Rollout::new(vec![expected(up(2, false))]);
    let running = live(ComponentState::Running, 2);
    assert_eq!(kinds(&rollout.status("n1", &running, now)), ["progress"]);
    assert_eq!(rollout.wake(), Some(now + SETTLE));
    assert!(rollout.tick(now + SETTLE / 2).is_empty());
    assert_eq!(kinds(&rollout.tick(now + SETTLE)), ["good"]);
    assert!(rollout.is_done());
    assert_eq!(rollout.counts(), (1, 0));
}

#[test]
fn one_that_dies_at_once_does_not_pass_for_a_success() {
    let now = SystemClock.now();
    let mut item = expected(up(2, false));
    item.restart = RestartPolicy::No;
    let mut rollout = Rollout::new(vec![item]);
    rollout.status("n1", &live(ComponentState::Running, 2), now);
    let mut dead = live(ComponentState::Exited, 2);
    dead.last_exit = "exit 3".into();
    let decisions = rollout.status("n1", &dead, now + SETTLE / 2);
    let Some(Decision::Bad(row, failure)) = decisions.first() else { panic!("{decisions:?}") };
    assert_eq!((row.node.as_str(), failure.cause.as_str()), ("n1", "exit 3"));
    assert_eq!(failure.component, "api");
    assert!(failure.help.contains("weft logs web/api"));
}

#[test]
fn a_healthy_probe_is_good_at_once_and_an_unhealthy_one_is_waited_for() {
    let now = SystemClock.now();
    let mut rollout = Rollout::new(vec![expected(up(2, false))]);
    let mut running = live(ComponentState::Running, 2);
    running.health = Health::Unhealthy;
    assert_eq!(kinds(&rollout.status("n1", &running, now)), ["progress"]);
    assert!(rollout.tick(now + 10 * SETTLE).is_empty());
    running.health = Health::Healthy;
    assert_eq!(kinds(&rollout.status("n1", &running, now)), ["good"]);
}

#[test]
fn the_old_revision_is_not_good_unless_it_runs_the_same() {
    let now = SystemClock.now();
    let mut rollout = Rollout::new(vec![expected(up(2, false))]);
    let mut old = live(ComponentState::Running, 1);
    old.health = Health::Healthy;
    assert_eq!(kinds(&rollout.status("n1", &old, now)), ["progress"]);
    old.spec_hash = "abc".into();
    assert_eq!(kinds(&rollout.status("n1", &old, now)), ["good"]);
}

#[test]
fn a_restart_is_good_with_another_process_only() {
    let now = SystemClock.now();
    let mut item = expected(up(1, true));
    let before = live(ComponentState::Running, 1);
    item.before = Some(before.clone());
    let mut rollout = Rollout::new(vec![item]);
    rollout.status("n1", &before, now);
    assert!(rollout.tick(now + 10 * SETTLE).is_empty());
    let after = ComponentStatus { pid: 200, started_at: Some(WallTime::from_micros(9)), ..before };
    rollout.status("n1", &after, now);
    assert_eq!(kinds(&rollout.tick(now + SETTLE)), ["good"]);
}

#[test]
fn a_failure_from_before_the_change_proves_nothing() {
    let now = SystemClock.now();
    let mut item = expected(up(1, true));
    let before = live(ComponentState::Failed, 1);
    item.before = Some(before.clone());
    let mut rollout = Rollout::new(vec![item]);
    assert_eq!(kinds(&rollout.status("n1", &before, now)), ["progress"]);
    let again = ComponentStatus { since: WallTime::from_micros(50), ..before };
    assert_eq!(kinds(&rollout.status("n1", &again, now)), ["bad"]);
}

#[test]
fn what_shall_stop_is_good_when_it_is_stopped_or_gone() {
    let now = SystemClock.now();
    for state in [ComponentState::Stopped, ComponentState::Removed] {
        let mut rollout = Rollout::new(vec![expected(Goal::Down)]);
        assert_eq!(kinds(&rollout.status("n1", &live(state, 1), now)), ["good"], "{state}");
    }
    let mut rollout = Rollout::new(vec![expected(Goal::Down)]);
    let mut paused = live(ComponentState::Stopped, 1);
    paused.pid = 7;
    assert_eq!(kinds(&rollout.status("n1", &paused, now)), ["progress"], "it is still there");
    assert_eq!(kinds(&rollout.status("n1", &live(ComponentState::Stopping, 1), now)), ["progress"]);
    let decisions = rollout.listing("n1", &[], now);
    let Some(Decision::Good(row)) = decisions.first() else { panic!("{decisions:?}") };
    assert_eq!(row.status.state, ComponentState::Removed);
}

#[test]
fn a_vanished_node_is_a_bad_row_with_the_cause() {
    let mut rollout = Rollout::new(vec![expected(up(1, false))]);
    assert!(rollout.vanished("n2", "no link").is_empty());
    let decisions = rollout.vanished("n1", "no link");
    let Some(Decision::Bad(row, failure)) = decisions.first() else { panic!("{decisions:?}") };
    assert_eq!(row.status.state, ComponentState::Unknown);
    assert_eq!((failure.cause.as_str(), failure.kind), ("no link", FailureKind::Unavailable));
}

#[test]
fn a_replica_without_a_place_and_time_that_ran_out_are_told_apart() {
    let mut waiting = expected(up(1, false));
    waiting.wanted.node = None;
    waiting.node = String::new();
    let mut rollout = Rollout::new(vec![waiting, expected(up(1, false))]);
    let kind = |decisions: Vec<Decision>| match decisions.as_slice() {
        [Decision::Bad(_, failure)] => failure.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(rollout.unplaced(&Nowhere::new())), FailureKind::Exhausted);
    assert_eq!(kind(rollout.timed_out(Duration::from_secs(5))), FailureKind::Timeout);
    assert!(rollout.is_done());
}

proptest! {
    #[test]
    fn every_component_is_decided_exactly_once_whatever_happens(
        goals in prop::collection::vec(0u8..4, 3),
        steps in prop::collection::vec(
            (0u32..4, prop::sample::select(ComponentState::ALL), 0u64..3, 0u8..8), 0..60),
    ) {
        let mut now = SystemClock.now();
        let items = wanted(&state(), None).into_iter().zip(goals).map(|(wanted, goal)| Expected {
            node: format!("n{}", wanted.key.replica),
            wanted,
            goal: match goal {
                0 => up(1, false),
                1 => up(2, true),
                2 => Goal::Down,
                _ => Goal::Any,
            },
            restart: RestartPolicy::No,
            before: None,
        }).collect();
        let mut rollout = Rollout::new(items);
        let mut decided = Vec::new();
        let mut take = |decisions: Vec<Decision>| -> Result<(), TestCaseError> {
            for decision in decisions {
                let key = match &decision {
                    Decision::Progress(row) => {
                        prop_assert!(!decided.contains(&row.status.key));
                        continue;
                    }
                    Decision::Good(row) | Decision::Bad(row, _) => row.status.key.clone(),
                };
                prop_assert!(!decided.contains(&key));
                decided.push(key);
            }
            Ok(())
        };
        for (replica, state, revision, what) in steps {
            now += SETTLE / 3;
            let node = format!("n{replica}");
            let mut status = live(state, revision);
            status.key.replica = replica;
            take(match what {
                0 => rollout.vanished(&node, "gone"),
                1 => rollout.listing(&node, &[], now),
                2 => rollout.tick(now),
                _ => rollout.status(&node, &status, now),
            })?;
        }
        take(rollout.timed_out(SETTLE))?;
        prop_assert!(rollout.is_done());
        let (good, bad) = rollout.counts();
        prop_assert_eq!((good + bad) as usize, decided.len());
        prop_assert_eq!(decided.len(), 3);
        prop_assert!(rollout.timed_out(SETTLE).is_empty());
    }
}

#[test]
fn what_another_node_says_does_not_count() {
    let mut rollout = Rollout::new(vec![expected(Goal::Any)]);
    assert_ne!(node_id(1), node_id(2));
    let now = SystemClock.now();
    assert!(rollout.status("n2", &live(ComponentState::Running, 5), now).is_empty());
    assert!(rollout.awaits("n1") && !rollout.awaits("n2"));
}
