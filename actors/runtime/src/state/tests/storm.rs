//! No restart storm: at most so many starts in so long (orchestration §22b).

use super::*;

/// In ten minutes: what runs for ten seconds each time, and five short runs.
const MOST: usize = FAIL_WITHIN.as_secs() as usize / GOOD_RUN.as_secs() as usize + FAIL_COUNT;

proptest! {
    /// However long each run lasts and however it ends, there are never more starts within ten
    /// minutes than that, and never more than five of what ends at once.
    #[test]
    fn no_restart_storm(runs in prop::collection::vec((0u64..30_000, any::<bool>()), 1..300)) {
        let mut bench = Bench::running(RestartPolicy::Always);
        let mut times = vec![bench.now];
        for (ms, gone) in runs {
            if bench.state() != ComponentState::Running {
                break;
            }
            bench.pass(Duration::from_millis(ms));
            let effects = if gone {
                let run = bench.machine.run();
                bench.take(Input::Gone(run))
            } else {
                bench.exited(1)
            };
            let effects = match delay(&effects) {
                Some(wait) => {
                    bench.pass(wait);
                    let timer = bench.machine.timer;
                    bench.take(Input::Timer(timer))
                }
                None => effects,
            };
            if starts(&effects) == 1 {
                times.push(bench.now);
                bench.started();
            }
            let window = times.iter().filter(|at| bench.now.duration_since(**at) < FAIL_WITHIN);
            prop_assert!(window.count() <= MOST + 1);
        }
    }

    #[test]
    fn what_ends_at_once_is_started_five_times_and_no_more(ms in 0u64..9_000, more in 1usize..50) {
        let mut bench = Bench::running(RestartPolicy::Always);
        for _ in 0..more + FAIL_COUNT {
            if bench.state() != ComponentState::Running {
                break;
            }
            bench.pass(Duration::from_millis(ms));
            if let Some(wait) = delay(&bench.exited(1)) {
                bench.pass(wait);
                let timer = bench.machine.timer;
                bench.take(Input::Timer(timer));
            }
            if bench.state() == ComponentState::Starting {
                bench.started();
            }
        }
        prop_assert_eq!(bench.state(), ComponentState::Failed);
        prop_assert_eq!(starts(&bench.said), FAIL_COUNT);
        bench.pass(Duration::from_secs(86_400));
        prop_assert_eq!(starts(&bench.assign(&assignment(RestartPolicy::Always))), 0);
    }
}
