//! What a machine does for what it owns, may own, and is about to give up.

use super::*;
use crate::state::order::{Verdict, judge};

/// As a daemon that starts and has heard of nobody yet.
fn held(memory: Memory) -> Bench {
    let mut bench = Bench::with(memory);
    bench.machine.hold();
    bench
}

fn leaving(to: &str, desired: Desired) -> Assignment {
    Assignment { leaving: to.into(), desired, ..assignment(RestartPolicy::Always) }
}

#[test]
fn what_does_not_run_is_not_started_before_it_is_known_to_be_owned_still() {
    let mut bench = held(Memory::default());
    assert_eq!(starts(&bench.assign(&assignment(RestartPolicy::Always))), 0);
    assert_eq!(starts(&bench.take(Input::Found(Finding::Nothing))), 0);
    assert!(bench.machine.status().reason.contains("no leader"));
    assert_eq!(starts(&bench.take(Input::Restart)), 0, "nor on request");
    assert_eq!(starts(&bench.take(Input::Sure)), 1);
    bench.started();
    assert_eq!(bench.machine.status().reason, "");
}

#[test]
fn what_ended_while_nobody_watched_waits_too_and_what_is_not_owned_any_more_never_starts() {
    let mut bench = held(Memory { state: Some(ComponentState::Running), ..Memory::default() });
    bench.assign(&assignment(RestartPolicy::Always));
    let mut file = bench.file();
    file.exit = Some(exit(1, bench.wall));
    assert_eq!(starts(&bench.take(Input::Found(Finding::Exited(file)))), 0);
    let effects = bench.take(Input::Unassigned);
    assert_eq!((starts(&effects), effects.last()), (0, Some(&Effect::Forget)));
    assert_eq!(starts(&bench.take(Input::Sure)), 0);
}

#[test]
fn what_runs_is_taken_over_and_healed_also_by_a_daemon_that_has_heard_of_nobody() {
    let mut bench = held(Memory { state: Some(ComponentState::Running), ..Memory::default() });
    bench.assign(&assignment(RestartPolicy::Always));
    let file = bench.file();
    bench.take(Input::Found(Finding::Running(file)));
    assert_eq!(bench.state(), ComponentState::Running);
    assert_eq!(starts(&bench.exited(1)), 1);
}

#[test]
fn a_copy_that_is_handed_over_runs_on_unchanged_is_healed_and_then_stops() {
    let mut bench = Bench::running(RestartPolicy::Always);
    let effects = bench.assign(&leaving("n3", Desired::Running));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(..))), "{effects:?}");
    assert!(bench.machine.status().reason.contains("moves to n3"));
    // A new revision meanwhile is for the new place.
    let newer = Assignment {
        spec_hash: "b".into(),
        epoch: 7,
        generation: 2,
        ..leaving("n3", Desired::Running)
    };
    let effects = bench.assign(&newer);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(..))), "{effects:?}");
    assert_eq!(starts(&bench.exited(1)), 1, "it is the copy that works");
    bench.started();
    let effects = bench.take(Input::Unassigned);
    assert!(effects.contains(&Effect::Stop(2, Duration::from_secs(10))));
}

#[test]
fn a_copy_of_which_is_not_decided_whether_it_stays_runs_on_but_is_not_started_again() {
    let mut bench = Bench::running(RestartPolicy::Always);
    let effects = bench.assign(&leaving("n3", Desired::Ignore));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(..))), "{effects:?}");
    assert!(bench.machine.status().reason.contains("decided which copy stays"));
    // It stays: as if nothing had been.
    let back = Assignment { generation: 3, ..assignment(RestartPolicy::Always) };
    let effects = bench.assign(&back);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(..))), "{effects:?}");
    assert_eq!(bench.machine.status().reason, "");
    let mut bench = Bench::running(RestartPolicy::Always);
    bench.assign(&leaving("n3", Desired::Ignore));
    assert_eq!(starts(&bench.exited(1)), 0);
}

#[test]
fn an_assignment_of_an_earlier_generation_changes_nothing() {
    let mut bench = Bench::running(RestartPolicy::Always);
    bench.assign(&Assignment { generation: 5, ..assignment(RestartPolicy::Always) });
    let late = Assignment {
        generation: 4,
        spec_hash: "b".into(),
        desired: Desired::Stopped,
        ..assignment(RestartPolicy::Always)
    };
    assert!(bench.assign(&late).is_empty());
    assert_eq!(bench.machine.assignment().map(|known| known.generation), Some(5));
}

#[test]
fn what_was_given_up_on_says_in_whole_sentences_what_to_type() {
    for (most, says) in [
        (0, "its restart policy allows no restart."),
        (1, "restarted once, as its restart policy allows."),
        (2, "restarted 2 times, as its restart policy allows."),
    ] {
        let mut bench = Bench::running(RestartPolicy::OnFailure(Some(most)));
        for _ in 0..most {
            if let Some(wait) = delay(&bench.exited(1)) {
                bench.pass(wait);
                let timer = bench.machine.timer;
                bench.take(Input::Timer(timer));
            }
            bench.started();
        }
        bench.exited(1);
        let reason = bench.machine.status().reason;
        assert!(reason.contains(says), "{reason}");
        assert!(reason.ends_with("`weft logs web/api`, then `weft restart web/api`"), "{reason}");
    }
}

/// What is true at one position of desired state: the generation, and whether it is here.
#[derive(Debug, Clone, Copy)]
struct Truth {
    generation: u64,
    here: bool,
    desired: Desired,
}

#[derive(Debug, Clone)]
enum Step {
    /// A list arrives; how far behind the newest one that was sent.
    Arrives(usize),
    /// Desired state goes on: to another place or back, or only something else changes.
    Changes(bool, bool),
    /// The daemon is killed and another one starts.
    Dies,
    /// The component's process ends.
    Ends,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..6).prop_map(Step::Arrives),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(moves, runs)| Step::Changes(moves, runs)),
        1 => Just(Step::Dies),
        2 => Just(Step::Ends),
    ]
}

fn list(truth: Truth) -> Vec<Assignment> {
    let own = Assignment {
        generation: truth.generation,
        desired: truth.desired,
        ..assignment(RestartPolicy::Always)
    };
    if truth.here { vec![own] } else { Vec::new() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Lists arrive late, twice and in any order, and daemons die. A daemon's own registry says
    /// its first list only when it is as new as whatever was agreed when it asked, so that one is
    /// never older than what an earlier daemon acted upon.
    #[test]
    fn a_runtime_acts_only_for_the_newest_generation_it_knows(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut truth = vec![Truth { generation: 1, here: true, desired: Desired::Running }];
        // Of this daemon: what its registry may still send, and what was acted upon.
        let (mut from, mut taken): (usize, Option<(u64, Vec<Assignment>)>) = (0, None);
        let mut known = 0u64;
        let mut stored: Option<(u64, Vec<Assignment>)> = None;
        // What the newest list that any daemon acted upon said.
        let (mut newest, mut wanted): (u64, Option<Truth>) = (0, None);
        let mut machine: Option<Bench> = None;
        for step in steps {
            let mut effects = Vec::new();
            match step {
                Step::Changes(moves, runs) => {
                    let last = truth[truth.len() - 1];
                    let desired = if runs { Desired::Running } else { Desired::Stopped };
                    truth.push(Truth {
                        generation: last.generation + u64::from(moves),
                        here: last.here != moves,
                        desired,
                    });
                }
                Step::Arrives(behind) => {
                    let at = (truth.len() - 1).saturating_sub(behind).max(from);
                    let (index, said) = (at as u64 + 1, list(truth[at]));
                    match judge(known, taken.as_ref(), index, &said) {
                        Verdict::Older => prop_assert!(index < known),
                        Verdict::Contradicts => prop_assert!(false, "nobody lies here"),
                        Verdict::Take => {
                            prop_assert!(index >= newest, "older than what was acted upon");
                            (newest, known, wanted) = (index, index, Some(truth[at]));
                            if stored.as_ref().is_none_or(|(_, then)| *then != said) {
                                stored = Some((index, said.clone()));
                            }
                            match said.first() {
                                Some(own) => {
                                    let bench = machine.get_or_insert_with(|| {
                                        let mut bench = Bench::new();
                                        bench.take(Input::Found(Finding::Nothing));
                                        bench
                                    });
                                    effects = bench.assign(own);
                                    effects.extend(bench.take(Input::Sure));
                                }
                                None => {
                                    if let Some(bench) = &mut machine {
                                        effects = bench.take(Input::Unassigned);
                                        if bench.machine.phase == Phase::Stopping {
                                            bench.exited(0);
                                        }
                                    }
                                    machine = None;
                                }
                            }
                            taken = Some((index, said));
                        }
                    }
                }
                Step::Dies => {
                    // The disk remembers the list and the position at which it was first said.
                    from = usize::try_from(newest.saturating_sub(1)).unwrap_or(0);
                    taken = None;
                    known = stored.as_ref().map_or(0, |(index, _)| *index);
                    let running = machine.take().and_then(|mut old| {
                        (old.machine.phase == Phase::Up).then(|| old.file())
                    });
                    if let Some(own) = stored.as_ref().and_then(|(_, list)| list.first()) {
                        let mut bench = held(Memory::default());
                        effects = bench.assign(own);
                        let found = running.map_or(Finding::Nothing, Finding::Running);
                        effects.extend(bench.take(Input::Found(found)));
                        machine = Some(bench);
                    }
                }
                Step::Ends => {
                    if let Some(bench) = &mut machine
                        && bench.machine.phase == Phase::Up
                    {
                        bench.pass(GOOD_RUN);
                        effects = bench.exited(1);
                    }
                }
            }
            if starts(&effects) > 0 {
                let bench = machine.as_mut().expect("whoever starts is there");
                let truth = wanted.expect("nothing starts before a list was acted upon");
                prop_assert!(truth.here && truth.desired == Desired::Running);
                let acts_for = bench.machine.assignment().map(|own| own.generation);
                prop_assert_eq!(acts_for, Some(truth.generation));
                bench.started();
            }
        }
    }
}
