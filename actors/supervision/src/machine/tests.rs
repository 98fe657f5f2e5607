//! The decisions, by example and under arbitrary events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weft_wire::{Clock as _, ManualClock, WallTime};

use super::{
    Action, Backoff, ChildId, Duration, Ending, Event, GaveUp, Instant, Intensity, Plan, Restart,
    Strategy, Supervisor,
};

const A: ChildId = ChildId(1);
const B: ChildId = ChildId(2);
const C: ChildId = ChildId(3);

fn backoff() -> Backoff {
    Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.2 }
}

fn plan(restart: Restart) -> Plan {
    Plan { restart, intensity: Intensity::default(), backoff: backoff() }
}

/// A supervisor whose children start as soon as they may, on a clock moved by hand.
struct Bench {
    machine: Supervisor,
    clock: ManualClock,
}

impl Bench {
    fn new(strategy: Strategy, children: &[ChildId]) -> Self {
        let mut bench = Self {
            machine: Supervisor::new(strategy, false),
            clock: ManualClock::new(WallTime::default()),
        };
        for id in children {
            let actions = bench.feed(Event::Added(*id, plan(Restart::Permanent)));
            assert_eq!(actions, [Action::Start(*id, 0)]);
            assert_eq!(bench.feed(Event::Started(*id, 0)), []);
        }
        bench
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(self.clock.now(), 0.5, event)
    }

    fn fails(&mut self, id: ChildId, number: u64) -> Vec<Action> {
        self.feed(Event::Ended(id, number, Ending::Failed))
    }

    fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }
}

#[test]
fn the_first_failure_is_repaired_at_once_and_further_ones_wait_longer_each_time() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A]);
    assert_eq!(bench.fails(A, 0), [Action::Start(A, 1)]);
    let waits: Vec<_> = (1..=4)
        .map(|number| {
            let actions = bench.fails(A, number);
            let [Action::Wait(A, ticket, delay)] = actions[..] else { panic!("{actions:?}") };
            assert_eq!(bench.feed(Event::Due(A, ticket + 1)), [], "another ticket");
            let next = number + 1;
            assert_eq!(bench.feed(Event::Due(A, ticket)), [Action::Start(A, next)]);
            delay.as_secs()
        })
        .collect();
    assert_eq!(waits, [1, 2, 4, 8]);
}

#[test]
fn ten_seconds_of_running_make_the_next_restart_immediate_again() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A]);
    assert_eq!(bench.fails(A, 0), [Action::Start(A, 1)]);
    bench.feed(Event::Started(A, 1));
    bench.pass(10);
    assert_eq!(bench.fails(A, 1), [Action::Start(A, 2)]);
    bench.feed(Event::Started(A, 2));
    bench.pass(9);
    let actions = bench.fails(A, 2);
    assert!(matches!(actions[..], [Action::Wait(A, _, delay)] if delay == Duration::from_secs(1)));
}

#[test]
fn the_sixth_failure_in_thirty_seconds_escalates_and_the_sixth_in_thirty_one_does_not() {
    for (gap, escalates) in [(29, true), (30, false)] {
        let mut bench = Bench::new(Strategy::OneForOne, &[A]);
        for number in 0..6 {
            if number == 5 {
                bench.pass(gap);
            }
            let actions = bench.fails(A, number);
            let gave_up = matches!(actions[..], [Action::Escalate(A, GaveUp::Intensity(_))]);
            assert_eq!(gave_up, escalates && number == 5, "{actions:?}");
            if let [Action::Wait(_, ticket, _)] = actions[..] {
                bench.feed(Event::Due(A, ticket));
            }
        }
    }
}

#[test]
fn nothing_is_started_after_an_escalation() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A, B]);
    for number in 0..6 {
        for action in bench.fails(A, number) {
            if let Action::Wait(_, ticket, _) = action {
                bench.feed(Event::Due(A, ticket));
            }
        }
    }
    assert_eq!(bench.fails(B, 0), []);
    assert_eq!(bench.feed(Event::RestartAsked(A)), []);
    let actions = bench.feed(Event::Added(C, plan(Restart::Permanent)));
    assert_eq!(actions, [Action::Forget(C)]);
    // It still stops in an orderly way.
    let actions = bench.feed(Event::ShutdownAsked);
    assert_eq!(actions, [Action::Forget(A), Action::Forget(B), Action::Down]);
}

#[test]
fn a_second_hang_in_ten_minutes_escalates_and_a_later_one_does_not() {
    for (gap, escalates) in [(599, true), (600, false)] {
        let mut bench = Bench::new(Strategy::OneForOne, &[A, B]);
        let hang = |id| Event::Ended(id, 0, Ending::Hung);
        assert_eq!(bench.feed(hang(A)), [Action::Start(A, 1)]);
        bench.pass(gap);
        let actions = bench.feed(hang(B));
        let expected =
            if escalates { Action::Escalate(B, GaveUp::SecondHang) } else { Action::Start(B, 1) };
        assert_eq!(actions, [expected]);
    }
}

#[test]
fn permanent_transient_and_temporary_children_come_back_as_they_say() {
    use {Ending::*, Restart::*};
    for (restart, ending, back) in [
        (Permanent, Normal, true),
        (Permanent, Failed, true),
        (Transient, Normal, false),
        (Transient, Failed, true),
        (Transient, Hung, true),
        (Temporary, Normal, false),
        (Temporary, Failed, false),
        (Temporary, Hung, false),
    ] {
        let mut bench = Bench::new(Strategy::OneForOne, &[]);
        bench.feed(Event::Added(A, plan(restart)));
        bench.feed(Event::Started(A, 0));
        let actions = bench.feed(Event::Ended(A, 0, ending));
        let expected = if back { Action::Start(A, 1) } else { Action::Forget(A) };
        assert_eq!(actions, [expected], "{restart:?} {ending:?}");
    }
}

#[test]
fn one_for_one_leaves_siblings_alone() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A, B, C]);
    assert_eq!(bench.fails(B, 0), [Action::Start(B, 1)]);
}

#[test]
fn rest_for_one_stops_later_siblings_last_first_and_starts_them_in_order() {
    let mut bench = Bench::new(Strategy::RestForOne, &[A, B, C]);
    assert_eq!(bench.fails(A, 0), [Action::Stop(C, 0)]);
    assert_eq!(bench.feed(Event::Ended(C, 0, Ending::Normal)), [Action::Stop(B, 0)]);
    assert_eq!(bench.feed(Event::Ended(B, 0, Ending::Normal)), [Action::Start(A, 1)]);
    assert_eq!(bench.feed(Event::Started(A, 1)), [Action::Start(B, 1)]);
    assert_eq!(bench.feed(Event::Started(B, 1)), [Action::Start(C, 1)]);
    assert_eq!(bench.feed(Event::Started(C, 1)), []);
    assert_eq!(bench.fails(C, 1), [Action::Start(C, 2)], "earlier ones go on");
}

#[test]
fn one_for_all_stops_every_sibling_and_starts_all_in_order() {
    let mut bench = Bench::new(Strategy::OneForAll, &[A, B, C]);
    assert_eq!(bench.fails(B, 0), [Action::Stop(C, 0)]);
    assert_eq!(bench.feed(Event::Ended(C, 0, Ending::Normal)), [Action::Stop(A, 0)]);
    assert_eq!(bench.feed(Event::Ended(A, 0, Ending::Failed)), [Action::Start(A, 1)]);
    assert_eq!(bench.feed(Event::Started(A, 1)), [Action::Start(B, 1)]);
    // While it waits for its backoff, nobody starts.
    let actions = bench.fails(B, 1);
    let [Action::Wait(B, ticket, _), Action::Stop(A, 1)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(bench.feed(Event::Ended(A, 1, Ending::Normal)), []);
    assert_eq!(bench.feed(Event::Due(B, ticket)), [Action::Start(A, 2)]);
}

#[test]
fn a_restart_that_was_asked_for_is_no_failure_and_skips_the_backoff() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A]);
    for number in 0..20 {
        assert_eq!(bench.feed(Event::RestartAsked(A)), [Action::Stop(A, number)]);
        assert_eq!(bench.feed(Event::RestartAsked(A)), [], "once is enough");
        let actions = bench.feed(Event::Ended(A, number, Ending::Normal));
        assert_eq!(actions, [Action::Start(A, number + 1)]);
        bench.feed(Event::Started(A, number + 1));
    }
    bench.fails(A, 20);
    assert!(matches!(bench.fails(A, 21)[..], [Action::Wait(..)]));
    assert_eq!(bench.feed(Event::RestartAsked(A)), [Action::Start(A, 22)]);
}

#[test]
fn a_child_that_is_asked_to_stop_is_gone_for_good_once_it_ended() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A, B]);
    assert_eq!(bench.feed(Event::StopAsked(A)), [Action::Stop(A, 0)]);
    assert_eq!(bench.feed(Event::Ended(A, 0, Ending::Failed)), [Action::Forget(A)]);
    assert_eq!(bench.feed(Event::RestartAsked(A)), []);
    bench.fails(B, 0);
    bench.fails(B, 1);
    assert_eq!(bench.feed(Event::StopAsked(B)), [Action::Forget(B)], "it waited for its backoff");
}

#[test]
fn a_shutdown_in_turn_stops_the_last_first_and_says_when_all_are_gone() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A, B]);
    bench.machine.in_turn = true;
    assert_eq!(bench.feed(Event::ShutdownAsked), [Action::Stop(B, 0)]);
    let actions = bench.feed(Event::Ended(B, 0, Ending::Normal));
    assert_eq!(actions, [Action::Stop(A, 0), Action::Forget(B)]);
    let actions = bench.feed(Event::Ended(A, 0, Ending::Failed));
    assert_eq!(actions, [Action::Forget(A), Action::Down]);
    assert_eq!(bench.feed(Event::ShutdownAsked), []);
}

#[test]
fn news_of_another_incarnation_change_nothing() {
    let mut bench = Bench::new(Strategy::OneForOne, &[A]);
    bench.fails(A, 0);
    for event in [
        Event::Ended(A, 0, Ending::Failed),
        Event::Ended(A, 7, Ending::Hung),
        Event::Started(A, 0),
        Event::Due(A, 0),
        Event::Started(B, 0),
        Event::StopAsked(B),
    ] {
        assert_eq!(bench.feed(event), [], "{event:?}");
    }
}

/// What may happen to a world that does as it is told, sooner or later.
#[derive(Debug, Clone)]
enum Step {
    Add(Restart),
    Starts(usize),
    Ends(usize, Ending),
    Stops(usize),
    Due(usize),
    RestartAsked(usize),
    StopAsked(usize),
    Shutdown,
    Pass(u64),
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::strategy::Strategy as _;

    let restart = prop_oneof![5 => Just(Restart::Permanent), 1 => Just(Restart::Transient), 1 => Just(Restart::Temporary)];
    let ending =
        prop_oneof![9 => Just(Ending::Failed), 2 => Just(Ending::Normal), 1 => Just(Ending::Hung)];
    prop_oneof![
        3 => restart.prop_map(Step::Add),
        8 => any::<usize>().prop_map(Step::Starts),
        8 => (any::<usize>(), ending).prop_map(|(at, ending)| Step::Ends(at, ending)),
        6 => any::<usize>().prop_map(Step::Stops),
        8 => any::<usize>().prop_map(Step::Due),
        1 => any::<usize>().prop_map(Step::RestartAsked),
        1 => any::<usize>().prop_map(Step::StopAsked),
        1 => Just(Step::Shutdown),
        5 => (0u64..12).prop_map(Step::Pass),
    ]
}

#[derive(Default)]
struct Model {
    order: Vec<ChildId>,
    starting: BTreeMap<ChildId, u64>,
    running: BTreeMap<ChildId, u64>,
    stopping: BTreeSet<ChildId>,
    waits: Vec<(ChildId, u64)>,
    /// Starts that a failure of the child itself caused.
    starts: BTreeMap<ChildId, Vec<Instant>>,
    /// Failures since it was last asked for, none of them forgiven here.
    failures: BTreeMap<ChildId, Vec<Instant>>,
    hangs: Vec<Instant>,
    escalated: bool,
    down: bool,
    shut: bool,
}

impl Model {
    fn up(&self, id: ChildId) -> Option<u64> {
        self.starting.get(&id).or_else(|| self.running.get(&id)).copied()
    }

    /// Checks what was decided and does it, as far as it happens at once.
    fn check(
        &mut self,
        strategy: Strategy,
        now: Instant,
        cause: Option<ChildId>,
        actions: &[Action],
    ) -> Result<(), TestCaseError> {
        for action in actions {
            match *action {
                Action::Start(id, number) => {
                    prop_assert!(self.up(id).is_none(), "{id:?} would run twice");
                    prop_assert!(!self.escalated && !self.shut, "a start after the end");
                    if strategy != Strategy::OneForOne {
                        for earlier in self.order.iter().take_while(|other| **other != id) {
                            prop_assert!(
                                self.running.contains_key(earlier),
                                "{id:?} starts before {earlier:?} runs"
                            );
                        }
                        prop_assert!(self.stopping.is_empty(), "{id:?} starts while others stop");
                    }
                    self.starting.insert(id, number);
                    if cause == Some(id) {
                        self.starts.entry(id).or_default().push(now);
                    }
                }
                Action::Stop(id, number) => {
                    prop_assert_eq!(self.up(id), Some(number), "stops what runs");
                    prop_assert!(self.stopping.insert(id), "is stopped once");
                    if strategy != Strategy::OneForOne {
                        let at = self.order.iter().position(|other| *other == id);
                        for later in self.order.iter().skip(at.unwrap_or(0) + 1) {
                            prop_assert!(
                                !self.stopping.contains(later),
                                "{id:?} stops before {later:?} has"
                            );
                        }
                    }
                }
                Action::Wait(id, ticket, delay) => {
                    prop_assert!(delay > Duration::ZERO);
                    self.waits.push((id, ticket));
                }
                Action::Forget(id) => {
                    prop_assert!(self.up(id).is_none(), "forgets what runs");
                    self.order.retain(|other| *other != id);
                }
                Action::Escalate(_, why) => {
                    prop_assert!(!self.escalated, "escalates once");
                    if why == GaveUp::SecondHang {
                        prop_assert!(self.hangs.len() > 1);
                    }
                    self.escalated = true;
                }
                Action::Down => {
                    prop_assert!(self.shut && !self.down && self.order.is_empty());
                    self.down = true;
                }
            }
        }
        Ok(())
    }
}

fn pick<T: Copy>(from: &[T], at: usize) -> Option<T> {
    from.get(at.checked_rem(from.len())?).copied()
}

proptest! {
    #[test]
    fn whatever_happens_the_bounds_hold(
        strategy in prop_oneof![
            Just(Strategy::OneForOne), Just(Strategy::RestForOne), Just(Strategy::OneForAll)
        ],
        in_turn: bool,
        max in 0u32..4,
        random in 0.0f64..1.0,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let clock = ManualClock::new(WallTime::default());
        let mut machine = Supervisor::new(strategy, in_turn);
        let mut model = Model::default();
        let intensity = Intensity { max, within: Duration::from_secs(30) };
        let mut next = 0;
        for step in steps {
            let now = clock.now();
            let ups: Vec<_> = model.starting.keys().chain(model.running.keys()).copied().collect();
            let (event, cause) = match step {
                Step::Pass(secs) => {
                    clock.advance(Duration::from_secs(secs));
                    continue;
                }
                Step::Add(restart) => {
                    next += 1;
                    let id = ChildId(next);
                    if !model.escalated && !model.shut {
                        model.order.push(id);
                    }
                    (Event::Added(id, Plan { restart, intensity, backoff: backoff() }), None)
                }
                Step::Starts(at) => {
                    let starting: Vec<_> = model.starting.keys().copied().collect();
                    let Some(id) = pick(&starting, at) else { continue };
                    let number = model.starting.remove(&id).unwrap_or_default();
                    model.running.insert(id, number);
                    (Event::Started(id, number), None)
                }
                Step::Ends(at, ending) => {
                    let Some(id) = pick(&ups, at) else { continue };
                    let number = model.up(id).unwrap_or_default();
                    model.starting.remove(&id);
                    model.running.remove(&id);
                    let asked = model.stopping.remove(&id);
                    if ending == Ending::Hung {
                        model.hangs.push(now);
                    }
                    if !asked {
                        model.failures.entry(id).or_default().push(now);
                    }
                    (Event::Ended(id, number, ending), (!asked).then_some(id))
                }
                Step::Stops(at) => {
                    let stopping: Vec<_> = model.stopping.iter().copied().collect();
                    let Some(id) = pick(&stopping, at) else { continue };
                    let number = model.up(id).unwrap_or_default();
                    model.starting.remove(&id);
                    model.running.remove(&id);
                    model.stopping.remove(&id);
                    (Event::Ended(id, number, Ending::Normal), None)
                }
                Step::Due(at) => {
                    let Some((id, ticket)) = pick(&model.waits, at) else { continue };
                    model.waits.retain(|wait| *wait != (id, ticket));
                    (Event::Due(id, ticket), Some(id))
                }
                Step::RestartAsked(at) => {
                    let Some(id) = pick(&model.order, at) else { continue };
                    (Event::RestartAsked(id), None)
                }
                Step::StopAsked(at) => {
                    let Some(id) = pick(&model.order, at) else { continue };
                    (Event::StopAsked(id), None)
                }
                Step::Shutdown => {
                    model.shut = true;
                    (Event::ShutdownAsked, None)
                }
            };
            let actions = machine.handle(now, random, event);
            model.check(strategy, now, cause, &actions)?;
            // Escalation by intensity comes with a failure too many, never without.
            for action in &actions {
                if let Action::Escalate(id, GaveUp::Intensity(_)) = action {
                    let failures = model.failures.get(id).cloned().unwrap_or_default();
                    let recent =
                        failures.iter().filter(|then| now - **then < intensity.within).count();
                    prop_assert!(recent > max as usize, "{recent} of {max}");
                }
            }
        }
        // Where siblings cause starts too, the model cannot tell whose a start was.
        let alone = strategy == Strategy::OneForOne;
        for starts in model.starts.values().filter(|_| alone) {
            for (at, first) in starts.iter().enumerate() {
                let within = starts.iter().skip(at).filter(|t| **t - *first < intensity.within);
                prop_assert!(within.count() <= max as usize + 1, "too many starts: {starts:?}");
            }
        }
        // A world that goes on doing as it is told gets to rest: all run, or all are gone.
        for _ in 0..2000 {
            let now = clock.now();
            let event = if let Some(id) = model.stopping.pop_first() {
                let number = model.up(id).unwrap_or_default();
                model.starting.remove(&id);
                model.running.remove(&id);
                Event::Ended(id, number, Ending::Normal)
            } else if let Some((id, number)) = model.starting.pop_first() {
                model.running.insert(id, number);
                Event::Started(id, number)
            } else if let Some((id, ticket)) = model.waits.pop() {
                Event::Due(id, ticket)
            } else {
                break;
            };
            let actions = machine.handle(now, random, event);
            model.check(strategy, now, None, &actions)?;
        }
        if model.shut {
            prop_assert!(model.down, "not down: {machine:?}");
        } else if !model.escalated {
            for id in &model.order {
                prop_assert!(model.running.contains_key(id), "{id:?} does not run: {machine:?}");
            }
        }
    }

    #[test]
    fn a_child_that_only_fails_escalates_exactly_one_failure_beyond_its_intensity(
        max in 0u32..20,
        gaps in prop::collection::vec(0u64..10_000, 40),
        random in 0.0f64..1.0,
    ) {
        let clock = ManualClock::new(WallTime::default());
        let mut machine = Supervisor::new(Strategy::OneForOne, false);
        let intensity = Intensity { max, within: Duration::from_secs(30) };
        let plan = Plan { restart: Restart::Permanent, intensity, backoff: backoff() };
        machine.handle(clock.now(), random, Event::Added(A, plan));
        let mut failures: Vec<Instant> = Vec::new();
        for (number, gap) in gaps.into_iter().enumerate() {
            machine.handle(clock.now(), random, Event::Started(A, number as u64));
            clock.advance(Duration::from_millis(gap));
            let now = clock.now();
            failures.push(now);
            let recent = failures.iter().filter(|then| now - **then < intensity.within).count();
            let actions =
                machine.handle(now, random, Event::Ended(A, number as u64, Ending::Failed));
            let escalated = actions.iter().any(|action| matches!(action, Action::Escalate(..)));
            prop_assert_eq!(escalated, recent > max as usize);
            if escalated {
                return Ok(());
            }
            for action in actions {
                if let Action::Wait(id, ticket, delay) = action {
                    clock.advance(delay);
                    let actions = machine.handle(clock.now(), random, Event::Due(id, ticket));
                    prop_assert_eq!(actions, vec![Action::Start(A, number as u64 + 1)]);
                }
            }
        }
    }
}
