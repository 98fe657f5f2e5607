//! The machine by example, then under arbitrary orders and accidents.

use proptest::prelude::*;
use weft_protocol::files::ProcessFile;
use weft_protocol::{ComponentSpec, Driver, HealthCheck, HealthKind, Resources, RestartPolicy};
use weft_wire::{Clock, SystemClock};

use super::*;

mod containers;
mod ownership;
mod reports;
mod storm;

fn key() -> ComponentKey {
    ComponentKey { service: "web".into(), replica: 1, component: "api".into() }
}

fn assignment(policy: RestartPolicy) -> Assignment {
    Assignment {
        key: key(),
        spec: ComponentSpec {
            name: "api".into(),
            driver: Driver::Process,
            image: String::new(),
            version: "1.2".into(),
            network: String::new(),
            user: String::new(),
            restart: policy,
            stop_grace: Duration::from_secs(10),
            workdir: String::new(),
            ports: vec![],
            volumes: vec![],
            cmd: vec!["api".into()],
            env: vec![],
            health: None,
            resources: Resources::default(),
            routes: vec![],
        },
        service_version: String::new(),
        revision: 1,
        spec_hash: "a".into(),
        epoch: 0,
        made: 0,
        generation: 1,
        desired: Desired::Running,
        fenced: false,
        leaving: String::new(),
        files: Vec::new(),
        after: Vec::new(),
    }
}

fn probed(policy: RestartPolicy) -> Assignment {
    let mut assignment = assignment(policy);
    assignment.spec.health = Some(HealthCheck {
        kind: HealthKind::Tcp,
        port: "1".into(),
        path: String::new(),
        command: vec![],
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        retries: 3,
        start_period: Duration::from_secs(5),
    });
    assignment
}

fn process(pid: u32) -> ProcessFile {
    ProcessFile { version: 1, pid, start_ticks: u64::from(pid), boot_id: "b".into() }
}

fn exit(code: i32, at: WallTime) -> ShimExit {
    ShimExit {
        status: format!("exit {code}"),
        code: Some(code),
        signal: None,
        failed_to_start: false,
        requested: false,
        lease_ended: false,
        at,
    }
}

/// A machine, its clock, and everything it has said.
struct Bench {
    machine: Component,
    now: Instant,
    wall: WallTime,
    pid: u32,
    said: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Memory::default())
    }

    fn with(memory: Memory) -> Self {
        let wall = WallTime::from_micros(1_000_000_000);
        Self {
            machine: Component::new(key(), memory, wall),
            now: SystemClock.now(),
            wall,
            pid: 100,
            said: Vec::new(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall = self.wall.plus(time);
    }

    fn take(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.machine.handle(self.now, self.wall, 0.5, input);
        self.said.extend(effects.iter().cloned());
        effects
    }

    fn assign(&mut self, assignment: &Assignment) -> Vec<Effect> {
        self.take(Input::Assigned(Box::new(assignment.clone()), "deploy"))
    }

    fn file(&mut self) -> Instance {
        self.pid += 2;
        let want = self.machine.assignment();
        Instance {
            id: InstanceId::Process(process(self.pid)),
            pid: self.pid + 1,
            spec_hash: want.map_or_else(|| "a".into(), |a| a.spec_hash.clone()),
            epoch: want.map_or(0, |a| a.epoch),
            revision: 1,
            generation: 1,
            started_at: self.wall,
            ports: vec![],
            lease: None,
            exit: None,
            image: String::new(),
            digest: String::new(),
            limits: String::new(),
        }
    }

    fn started(&mut self) -> Vec<Effect> {
        let file = self.file();
        let run = self.machine.run();
        self.take(Input::Started(run, file))
    }

    fn exited(&mut self, code: i32) -> Vec<Effect> {
        let (run, exit) = (self.machine.run(), exit(code, self.wall));
        self.take(Input::Exited(run, exit))
    }

    fn state(&self) -> ComponentState {
        self.machine.status().state
    }

    fn running(policy: RestartPolicy) -> Self {
        let mut bench = Self::new();
        bench.assign(&assignment(policy));
        bench.take(Input::Found(Finding::Nothing));
        bench.started();
        assert_eq!(bench.state(), ComponentState::Running);
        bench
    }
}

fn starts(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Start(_))).count()
}

fn delay(effects: &[Effect]) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::SetTimer(_, delay) => Some(*delay),
        _ => None,
    })
}

fn changes(effects: &[Effect]) -> Vec<(ComponentState, ComponentState, &str, &str)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Transition(c) => Some((c.prev, c.new, c.cause.as_str(), c.exit.as_str())),
            _ => None,
        })
        .collect()
}

#[test]
fn nothing_happens_before_the_directory_has_been_looked_at() {
    let mut bench = Bench::new();
    assert_eq!(starts(&bench.assign(&assignment(RestartPolicy::Always))), 0);
    assert_eq!(starts(&bench.take(Input::Found(Finding::Nothing))), 1);
}

#[test]
fn an_exit_is_an_event_with_its_status_and_the_first_restart_comes_at_once() {
    use ComponentState::{Exited, Running, Starting};
    let mut bench = Bench::running(RestartPolicy::UnlessStopped);
    bench.pass(Duration::from_secs(1));
    let effects = bench.exited(3);
    assert_eq!(
        changes(&effects),
        [(Running, Exited, "self", "exit 3"), (Exited, Starting, "reconcile", "")]
    );
    assert_eq!(starts(&effects), 1);
    let effects = bench.started();
    assert_eq!(changes(&effects), [(Starting, Running, "reconcile", "")]);
    let status = bench.machine.status();
    assert_eq!((status.restarts, status.last_exit.as_str()), (1, "exit 3"));
}

#[test]
fn short_runs_wait_longer_and_longer_and_then_it_has_failed_until_somebody_acts() {
    let mut bench = Bench::running(RestartPolicy::Always);
    let mut delays = Vec::new();
    for _ in 0..4 {
        let effects = bench.exited(1);
        match delay(&effects) {
            None => delays.push(0),
            Some(delay) => {
                delays.push(delay.as_secs());
                bench.pass(delay);
                let timer = bench.machine.timer;
                bench.take(Input::Timer(timer));
            }
        }
        bench.started();
    }
    assert_eq!(delays, [0, 1, 2, 4]);
    let effects = bench.exited(1);
    assert_eq!((starts(&effects), delay(&effects)), (0, None));
    assert_eq!(bench.state(), ComponentState::Failed);
    assert!(bench.machine.status().reason.contains("5 times within 10 minutes"));
    // The same assignment again changes nothing, nor does a restart of the daemon.
    assert_eq!(starts(&bench.assign(&assignment(RestartPolicy::Always))), 0);
    let mut again = Bench::with(bench.machine.memory().clone());
    again.assign(&assignment(RestartPolicy::Always));
    assert_eq!(starts(&again.take(Input::Found(Finding::Nothing))), 0);
    assert_eq!(again.state(), ComponentState::Failed);
    // An operator, a new epoch, or another spec does.
    assert_eq!(starts(&again.take(Input::Restart)), 1);
    let mut newer = assignment(RestartPolicy::Always);
    newer.epoch = 1;
    assert_eq!(starts(&bench.assign(&newer)), 1);
}

#[test]
fn ten_seconds_of_running_reset_the_backoff() {
    let mut bench = Bench::running(RestartPolicy::Always);
    for _ in 0..20 {
        bench.pass(GOOD_RUN);
        assert_eq!(starts(&bench.exited(1)), 1);
        bench.started();
    }
}

#[test]
fn each_policy_restarts_what_it_says() {
    let cases = [
        (RestartPolicy::No, 0, 0),
        (RestartPolicy::No, 1, 0),
        (RestartPolicy::OnFailure(None), 0, 0),
        (RestartPolicy::OnFailure(None), 1, 1),
        (RestartPolicy::OnFailure(Some(0)), 1, 0),
        (RestartPolicy::OnFailure(Some(1)), 1, 1),
        (RestartPolicy::Always, 0, 1),
        (RestartPolicy::UnlessStopped, 0, 1),
    ];
    for (policy, code, expected) in cases {
        let mut bench = Bench::running(policy);
        assert_eq!(starts(&bench.exited(code)), expected, "{policy:?} after exit {code}");
    }
    let mut bench = Bench::running(RestartPolicy::OnFailure(Some(1)));
    bench.exited(1);
    bench.started();
    assert_eq!(starts(&bench.exited(1)), 0);
    assert_eq!(bench.state(), ComponentState::Failed);
}

#[test]
fn another_spec_stops_the_old_process_first_and_then_starts_the_new_one() {
    let mut bench = Bench::running(RestartPolicy::Always);
    let mut newer = assignment(RestartPolicy::Always);
    newer.spec_hash = "b".into();
    let effects = bench.assign(&newer);
    assert!(effects.contains(&Effect::Stop(1, Duration::from_secs(10))));
    assert_eq!(starts(&effects), 0);
    let effects = bench.exited(0);
    assert_eq!(starts(&effects), 1);
    bench.started();
    assert_eq!(bench.machine.status().restarts, 0, "a deploy is not a restart by itself");
}

#[test]
fn a_stopped_component_stays_stopped_whatever_happens() {
    let mut bench = Bench::running(RestartPolicy::Always);
    let mut stopped = assignment(RestartPolicy::Always);
    stopped.desired = Desired::Stopped;
    bench.assign(&stopped);
    assert_eq!(starts(&bench.exited(0)), 0);
    assert_eq!(bench.state(), ComponentState::Stopped);
    assert_eq!(starts(&bench.take(Input::Restart)), 0);
    bench.assign(&assignment(RestartPolicy::Always));
    assert_eq!(bench.state(), ComponentState::Starting);
}

#[test]
fn a_shim_that_is_lost_has_its_component_killed_before_the_next_start() {
    let mut bench = Bench::running(RestartPolicy::Always);
    let effects = bench.take(Input::Lost(1, "its shim ended without a word".into()));
    assert!(effects.contains(&Effect::Clean(1)));
    assert_eq!(starts(&effects), 0);
    let effects = bench.take(Input::Cleaned(1));
    assert_eq!(starts(&effects), 1);
    assert_eq!(changes(&effects)[0].2, "shim");
}

#[test]
fn a_stop_that_the_shim_does_not_carry_out_ends_in_a_kill() {
    let mut bench = Bench::running(RestartPolicy::Always);
    let effects = bench.take(Input::Unassigned);
    assert_eq!(delay(&effects), Some(Duration::from_secs(10) + STOP_SLACK));
    let timer = bench.machine.timer;
    assert!(bench.take(Input::Timer(timer)).contains(&Effect::Clean(1)));
    let effects = bench.take(Input::Cleaned(1));
    assert_eq!(effects.last(), Some(&Effect::Forget));
}

#[test]
fn what_is_no_longer_listed_is_stopped_then_forgotten_and_says_no_more() {
    let mut bench = Bench::running(RestartPolicy::Always);
    bench.take(Input::Unassigned);
    let effects = bench.exited(0);
    assert_eq!(effects.last(), Some(&Effect::Forget));
    assert_eq!(changes(&effects).last().map(|c| c.1), Some(ComponentState::Removed));
    assert!(bench.assign(&assignment(RestartPolicy::Always)).is_empty());
}

#[test]
fn what_runs_is_taken_over_untouched_until_something_is_said() {
    let mut bench =
        Bench::with(Memory { state: Some(ComponentState::Running), ..Memory::default() });
    let file = bench.file();
    let pid = file.pid;
    let effects = bench.take(Input::Found(Finding::Running(file)));
    assert_eq!(
        changes(&effects),
        [(ComponentState::Unknown, ComponentState::Running, "takeover", "")]
    );
    let effects = bench.assign(&assignment(RestartPolicy::Always));
    assert!(changes(&effects).is_empty() && starts(&effects) == 0);
    assert_eq!(bench.machine.status().pid, pid);
}

#[test]
fn an_exit_while_nobody_looked_is_told_once_with_its_time() {
    let mut bench =
        Bench::with(Memory { state: Some(ComponentState::Running), ..Memory::default() });
    bench.assign(&assignment(RestartPolicy::No));
    let mut file = bench.file();
    let when = bench.wall;
    file.exit = Some(exit(7, when));
    bench.pass(Duration::from_secs(60));
    let effects = bench.take(Input::Found(Finding::Exited(file.clone())));
    let told: Vec<_> = effects
        .iter()
        .filter_map(|e| if let Effect::Transition(c) = e { Some(c.clone()) } else { None })
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].at, told[0].exit.as_str()), (when, "exit 7"));
    let mut again = Bench::with(bench.machine.memory().clone());
    again.assign(&assignment(RestartPolicy::No));
    assert!(changes(&again.take(Input::Found(Finding::Exited(file)))).is_empty());
}

#[test]
fn with_a_probe_it_runs_at_the_first_good_answer_and_is_restarted_after_bad_ones() {
    let bad = || Err("no answer".to_owned());
    let mut bench = Bench::new();
    bench.assign(&probed(RestartPolicy::Always));
    bench.take(Input::Found(Finding::Nothing));
    assert!(bench.started().contains(&Effect::Probe(1)));
    for _ in 0..10 {
        bench.take(Input::Probed(1, bad()));
    }
    assert_eq!(
        bench.state(),
        ComponentState::Starting,
        "failures in the start period do not count"
    );
    bench.take(Input::Probed(1, Ok(())));
    let status = bench.machine.status();
    assert_eq!((status.state, status.health), (ComponentState::Running, Health::Healthy));
    bench.take(Input::Probed(1, bad()));
    bench.take(Input::Probed(1, Ok(())));
    bench.take(Input::Probed(1, bad()));
    bench.take(Input::Probed(1, bad()));
    assert_eq!(bench.state(), ComponentState::Running);
    let effects = bench.take(Input::Probed(1, bad()));
    assert!(effects.contains(&Effect::Stop(1, Duration::from_secs(10))));
    let effects = bench.exited(0);
    assert_eq!(changes(&effects)[0].2, "probe");
    assert_eq!(starts(&effects), 1);
}

#[test]
fn a_missing_program_fails_at_once_and_a_full_disk_is_tried_again() {
    let mut bench = Bench::new();
    bench.assign(&assignment(RestartPolicy::Always));
    bench.take(Input::Found(Finding::Nothing));
    let mut run = 1;
    for wait in [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        let effects = bench.take(Input::StartFailed(run, "disk full".into(), Permanence::Passing));
        assert_eq!(delay(&effects).map_or(0, |delay| delay.as_secs()), wait);
        let timer = bench.machine.timer;
        bench.take(Input::Timer(timer));
        run = bench.machine.run();
    }
    let effects = bench.take(Input::StartFailed(run, "no program".into(), Permanence::Permanent));
    assert_eq!((starts(&effects), delay(&effects)), (0, None));
    assert_eq!(bench.state(), ComponentState::Failed);
    assert_eq!(bench.machine.status().reason, "no program");
}

#[derive(Debug, Clone)]
enum Act {
    Desire(Desired),
    NewSpec(u8),
    NewEpoch,
    Drop,
    Restart,
    Pass(u16),
    Fire,
    Report,
    FailToStart(bool),
    Exit(i32),
    LoseShim,
    Cleaned,
    Stale(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => prop_oneof![
            3 => Just(Desired::Running), 1 => Just(Desired::Stopped), 1 => Just(Desired::Ignore)
        ].prop_map(Act::Desire),
        1 => (0u8..3).prop_map(Act::NewSpec),
        1 => Just(Act::NewEpoch),
        1 => Just(Act::Drop),
        1 => Just(Act::Restart),
        3 => (0u16..20_000).prop_map(Act::Pass),
        4 => Just(Act::Fire),
        6 => Just(Act::Report),
        1 => any::<bool>().prop_map(Act::FailToStart),
        4 => (0i32..2).prop_map(Act::Exit),
        1 => Just(Act::LoseShim),
        4 => Just(Act::Cleaned),
        1 => (0u8..4).prop_map(Act::Stale),
    ]
}

/// What the world outside the machine looks like.
#[derive(Default)]
struct World {
    /// A shim was asked for and has not answered.
    asked: Option<u64>,
    /// A process runs, or may.
    process: Option<u64>,
    cleaning: Option<u64>,
    timer: Option<u64>,
    last: Option<ComponentState>,
    gone: bool,
    starts: u32,
}

impl World {
    fn see(&mut self, effects: &[Effect], desired: Desired) -> Result<(), TestCaseError> {
        for effect in effects {
            prop_assert!(!self.gone, "nothing after Forget");
            match effect {
                Effect::Start(run) => {
                    prop_assert!(self.asked.is_none() && self.process.is_none());
                    prop_assert!(self.cleaning.is_none(), "what is left must be gone first");
                    prop_assert_eq!(desired, Desired::Running, "only what is wanted is started");
                    self.asked = Some(*run);
                    self.starts += 1;
                }
                Effect::Clean(run) => self.cleaning = Some(*run),
                Effect::SetTimer(timer, _) => self.timer = Some(*timer),
                Effect::Transition(change) => {
                    if let Some(last) = self.last {
                        prop_assert_eq!(
                            change.prev,
                            last,
                            "every change starts where the last ended"
                        );
                    }
                    prop_assert_ne!(change.prev, change.new);
                    self.last = Some(change.new);
                }
                Effect::Forget => self.gone = true,
                _ => {}
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn there_are_never_two_processes_and_what_is_stopped_never_starts(
        acts in prop::collection::vec(act(), 1..120),
        policy in prop_oneof![
            Just(RestartPolicy::No), Just(RestartPolicy::Always),
            Just(RestartPolicy::OnFailure(Some(2))), Just(RestartPolicy::UnlessStopped)
        ],
    ) {
        let mut bench = Bench::new();
        let mut world = World::default();
        let mut want = assignment(policy);
        let effects = bench.assign(&want);
        world.see(&effects, want.desired)?;
        let effects = bench.take(Input::Found(Finding::Nothing));
        world.see(&effects, want.desired)?;
        let mut dropped = false;
        for act in acts {
            let input = match act {
                Act::Desire(desired) => {
                    want.desired = desired;
                    dropped = false;
                    Some(Input::Assigned(Box::new(want.clone()), "deploy"))
                }
                Act::NewSpec(hash) => {
                    want.spec_hash = hash.to_string();
                    dropped = false;
                    Some(Input::Assigned(Box::new(want.clone()), "deploy"))
                }
                Act::NewEpoch => {
                    want.epoch += 1;
                    dropped = false;
                    Some(Input::Assigned(Box::new(want.clone()), "deploy"))
                }
                Act::Drop => {
                    dropped = true;
                    Some(Input::Unassigned)
                }
                Act::Restart => Some(Input::Restart),
                Act::Pass(ms) => {
                    bench.pass(Duration::from_millis(u64::from(ms)));
                    None
                }
                Act::Fire => world.timer.take().map(Input::Timer),
                Act::Report => world.asked.take().map(|run| {
                    world.process = Some(run);
                    Input::Started(run, bench.file())
                }),
                Act::FailToStart(permanent) => world.asked.take().map(|run| {
                    let permanence =
                        if permanent { Permanence::Permanent } else { Permanence::Passing };
                    Input::StartFailed(run, "why".into(), permanence)
                }),
                Act::Exit(code) => {
                    let ended = if world.cleaning.is_some() { None } else { world.process.take() };
                    ended.map(|run| Input::Exited(run, exit(code, bench.wall)))
                }
                Act::LoseShim => {
                    let lost = if world.cleaning.is_some() { None } else { world.process };
                    lost.map(|run| Input::Lost(run, "lost".into()))
                }
                Act::Cleaned => world.cleaning.take().map(|run| {
                    world.process = None;
                    Input::Cleaned(run)
                }),
                // Late answers of runs that are long over.
                Act::Stale(back) => bench
                    .machine
                    .run()
                    .checked_sub(1 + u64::from(back))
                    .map(|run| Input::Exited(run, exit(1, bench.wall))),
            };
            let Some(input) = input else { continue };
            let effects = bench.take(input);
            let desired = if dropped { Desired::Stopped } else { want.desired };
            world.see(&effects, desired)?;
        }
    }

    #[test]
    fn a_component_that_keeps_ending_is_started_a_bounded_number_of_times(
        runs in prop::collection::vec(0u64..15_000, 1..200),
        random in 0.0f64..1.0,
    ) {
        let mut bench = Bench::new();
        let begin = bench.now;
        bench.assign(&assignment(RestartPolicy::Always));
        bench.take(Input::Found(Finding::Nothing));
        for ms in runs {
            if bench.machine.phase != Phase::Starting {
                break;
            }
            bench.started();
            bench.pass(Duration::from_millis(ms));
            let input = Input::Exited(bench.machine.run(), exit(1, bench.wall));
            let effects = bench.machine.handle(bench.now, bench.wall, random, input);
            bench.said.extend(effects.iter().cloned());
            if let Some(wait) = delay(&effects) {
                bench.pass(wait);
                let timer = bench.machine.timer;
                bench.take(Input::Timer(timer));
            }
        }
        let secs = bench.now.duration_since(begin).as_secs();
        let most = secs / GOOD_RUN.as_secs() + (FAIL_COUNT as u64) * (secs / FAIL_WITHIN.as_secs() + 1);
        prop_assert!(starts(&bench.said) as u64 <= most + 1, "{} in {secs} s", starts(&bench.said));
    }
}

fn fenced() -> Assignment {
    Assignment { fenced: true, ..assignment(RestartPolicy::UnlessStopped) }
}

#[test]
fn a_fenced_component_starts_when_it_has_a_lease_and_says_what_it_waits_for() {
    let mut bench = Bench::new();
    bench.machine.lease(Some("it is placed on n2".into()));
    bench.assign(&fenced());
    assert_eq!(starts(&bench.take(Input::Found(Finding::Nothing))), 0);
    assert_eq!(bench.machine.status().reason, "waits for a lease: it is placed on n2");
    assert!(!bench.machine.is_busy());
    assert_eq!(starts(&bench.take(Input::Restart)), 0, "nor for an operator");
    bench.machine.lease(None);
    assert_eq!(starts(&bench.take(Input::Lease)), 1);
    assert!(bench.machine.is_busy());
    bench.started();
    assert_eq!(bench.machine.status().reason, "");
}

#[test]
fn the_end_of_a_lease_is_no_failure_and_the_next_lease_starts_it_at_once() {
    use ComponentState::{Exited, Running, Starting};
    let mut bench = Bench::new();
    bench.machine.lease(None);
    bench.assign(&fenced());
    bench.take(Input::Found(Finding::Nothing));
    bench.started();
    for _ in 0..2 * FAIL_COUNT {
        bench.machine.lease(Some("no contact with the leader".into()));
        let mut ended = exit(0, bench.wall);
        (ended.status, ended.code) = ("lease ended: no contact with the leader".into(), None);
        (ended.signal, ended.lease_ended) = (Some(9), true);
        let run = bench.machine.run();
        let effects = bench.take(Input::Exited(run, ended));
        let said = (Running, Exited, "lease", "lease ended: no contact with the leader");
        assert_eq!(changes(&effects), [said]);
        assert_eq!((starts(&effects), delay(&effects)), (0, None));
        bench.machine.lease(None);
        let effects = bench.take(Input::Lease);
        assert_eq!(changes(&effects), [(Exited, Starting, "lease", "")]);
        bench.started();
        assert_eq!(bench.state(), Running);
    }
    // What fails by itself without a lease waits for it when its delay is over.
    bench.exited(1);
    bench.started();
    let effects = bench.exited(1);
    bench.pass(delay(&effects).unwrap());
    bench.machine.lease(Some("no contact with the leader".into()));
    let timer = bench.machine.timer;
    assert_eq!(starts(&bench.take(Input::Timer(timer))), 0);
    bench.machine.lease(None);
    assert_eq!(starts(&bench.take(Input::Lease)), 1);
}
