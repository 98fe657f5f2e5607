//! `reconcile.mode = "report"`: what ends is told of, and somebody has to act.

use super::*;

fn reporting(memory: Memory) -> Bench {
    let mut bench = Bench::with(memory);
    bench.machine.reports(true);
    bench
}

fn running() -> Bench {
    let mut bench = reporting(Memory::default());
    bench.assign(&assignment(RestartPolicy::Always));
    assert_eq!(starts(&bench.take(Input::Found(Finding::Nothing))), 1, "what is asked for starts");
    bench.started();
    assert_eq!(bench.state(), ComponentState::Running);
    bench
}

/// The next daemon, of the other mode if need be.
fn next_daemon(bench: &Bench, reports: bool) -> Bench {
    let mut next = Bench::with(bench.machine.memory().clone());
    next.machine.reports(reports);
    next
}

#[test]
fn what_ends_by_itself_stays_down_whatever_its_policy_until_somebody_acts() {
    use ComponentState::{Exited, Running, Starting};
    let mut bench = running();
    bench.pass(GOOD_RUN);
    let effects = bench.exited(3);
    assert_eq!(changes(&effects), [(Running, Exited, "self", "exit 3")]);
    assert_eq!((starts(&effects), delay(&effects)), (0, None));
    let status = bench.machine.status();
    assert!(status.reason.contains("weft start web/api"), "{}", status.reason);
    assert_eq!(status.refused, 0);
    // What was wanted before is still wanted: nothing changes by saying so.
    assert_eq!(starts(&bench.assign(&assignment(RestartPolicy::Always))), 0);
    bench.pass(Duration::from_secs(86_400));
    let effects = bench.take(Input::Revive);
    assert_eq!(changes(&effects), [(Exited, Starting, "operator", "")]);
    bench.started();
    assert_eq!(bench.state(), Running);
    assert_eq!(starts(&bench.take(Input::Revive)), 0, "what runs is left alone");
    bench.pass(GOOD_RUN);
    bench.exited(0);
    assert_eq!(starts(&bench.take(Input::Restart)), 1, "so does a restart");
    bench.started();
    bench.exited(0);
    let mut newer = assignment(RestartPolicy::Always);
    newer.spec_hash = "b".into();
    assert_eq!(starts(&bench.assign(&newer)), 1, "and a deploy");
}

#[test]
fn one_that_ends_right_after_its_start_is_told_to_who_waits_for_it() {
    let mut bench = running();
    bench.exited(1);
    let status = bench.machine.status();
    assert_eq!((status.state, status.refused), (ComponentState::Exited, 1));
    bench.take(Input::Revive);
    assert_eq!(bench.machine.status().refused, 0);
}

#[test]
fn a_container_that_was_removed_is_gone_and_not_made_again() {
    let mut bench = running();
    let run = bench.machine.run();
    bench.pass(GOOD_RUN);
    assert_eq!(starts(&bench.take(Input::Gone(run))), 0);
    assert_eq!(bench.state(), ComponentState::Removed);
    assert_eq!(starts(&bench.take(Input::Revive)), 1);
}

#[test]
fn a_probe_that_fails_is_told_of_and_nothing_is_stopped() {
    let mut bench = reporting(Memory::default());
    bench.assign(&probed(RestartPolicy::Always));
    bench.take(Input::Found(Finding::Nothing));
    bench.started();
    let run = bench.machine.run();
    bench.take(Input::Probed(run, Ok(())));
    bench.pass(Duration::from_secs(60));
    for _ in 0..5 {
        let effects = bench.take(Input::Probed(run, Err("refused".into())));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(..))));
    }
    let status = bench.machine.status();
    assert_eq!((status.state, status.health), (ComponentState::Running, Health::Unhealthy));
}

#[test]
fn the_next_daemon_leaves_it_down_and_one_of_another_mode_starts_it() {
    let mut bench = running();
    bench.pass(GOOD_RUN);
    bench.exited(1);
    let mut same = next_daemon(&bench, true);
    same.assign(&assignment(RestartPolicy::Always));
    assert_eq!(starts(&same.take(Input::Found(Finding::Nothing))), 0);
    assert!(same.machine.status().reason.contains("weft start"));
    let mut other = next_daemon(&bench, false);
    other.assign(&assignment(RestartPolicy::Always));
    assert_eq!(starts(&other.take(Input::Found(Finding::Nothing))), 1);
}

#[test]
fn what_is_gone_without_a_trace_is_told_of_and_what_never_ran_is_started() {
    let bench = running();
    // The machine was switched off.
    let mut next = next_daemon(&bench, true);
    next.assign(&assignment(RestartPolicy::Always));
    assert_eq!(starts(&next.take(Input::Found(Finding::Nothing))), 0);
    assert_eq!(next.state(), ComponentState::Exited);
    // Something else was deployed meanwhile: that has never run.
    let mut next = next_daemon(&bench, true);
    let mut newer = assignment(RestartPolicy::Always);
    newer.epoch = 1;
    next.assign(&newer);
    assert_eq!(starts(&next.take(Input::Found(Finding::Nothing))), 1);
    // It was stopped when the machine went off, and is wanted now.
    let mut bench = running();
    let mut stopped = assignment(RestartPolicy::Always);
    stopped.desired = Desired::Stopped;
    bench.assign(&stopped);
    bench.exited(0);
    let mut next = next_daemon(&bench, true);
    next.assign(&assignment(RestartPolicy::Always));
    assert_eq!(starts(&next.take(Input::Found(Finding::Nothing))), 1);
}

#[test]
fn what_ends_while_something_else_is_wanted_makes_room_for_that() {
    let mut bench = running();
    let mut newer = assignment(RestartPolicy::Always);
    newer.spec_hash = "b".into();
    bench.assign(&newer);
    let effects = bench.exited(0);
    assert_eq!(starts(&effects), 1, "{effects:?}");
}

#[test]
fn an_operators_stop_stops_and_what_somebody_else_starts_then_is_left_alone() {
    let mut bench = running();
    let mut stopped = assignment(RestartPolicy::Always);
    stopped.desired = Desired::Stopped;
    let effects = bench.assign(&stopped);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Stop(..))));
    bench.exited(0);
    assert_eq!(bench.state(), ComponentState::Stopped);
    let (run, file) = (bench.machine.run(), bench.file());
    let effects = bench.take(Input::Surfaced(run, file));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(..))), "{effects:?}");
    // Somebody acts: it is wanted, and then not.
    bench.assign(&assignment(RestartPolicy::Always));
    let effects = bench.assign(&stopped);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Stop(..))));
}

proptest! {
    /// However often and however it ends, nothing is started that nobody asked for.
    #[test]
    fn each_start_was_asked_for(ends in prop::collection::vec((0u8..4, 0u64..30), 1..40)) {
        let mut bench = running();
        let mut asked = 1;
        for (what, secs) in ends {
            bench.pass(Duration::from_secs(secs));
            match what {
                0 => drop(bench.exited(1)),
                1 => {
                    let run = bench.machine.run();
                    bench.take(Input::Gone(run));
                }
                2 => {
                    let timer = bench.machine.timer;
                    bench.take(Input::Timer(timer));
                }
                _ => {
                    let effects = bench.take(Input::Revive);
                    asked += starts(&effects);
                    bench.started();
                }
            }
        }
        prop_assert_eq!(starts(&bench.said), asked);
    }
}
