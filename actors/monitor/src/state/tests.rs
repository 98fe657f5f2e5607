//! The drift table row by row, and what must hold for any sequence of transitions.

use proptest::prelude::*;
use weft_protocol::Health;

use super::*;

const GRACE: Duration = Duration::from_secs(5);

fn settings() -> Settings {
    Settings {
        node: "n1".into(),
        flap_threshold: 3,
        flap_window: Duration::from_secs(600),
        restart_threshold: 4,
        grace: GRACE,
    }
}

fn key(n: u32) -> ComponentKey {
    ComponentKey { service: "web".into(), replica: n, component: "api".into() }
}

fn at(secs: i64) -> WallTime {
    WallTime::from_micros(secs * 1_000_000)
}

fn transition(
    id: u128,
    secs: i64,
    from: ComponentState,
    to: ComponentState,
    cause: &str,
) -> Transition {
    Transition {
        id: Uuid::from_u128(id << 64),
        time: at(secs),
        key: key(1),
        desired: Desired::Running,
        prev_state: from,
        new_state: to,
        cause: cause.into(),
        exit: if to == ComponentState::Exited { "exit 1".into() } else { String::new() },
    }
}

fn status(n: u32, state: ComponentState, desired: Desired, since: i64) -> ComponentStatus {
    ComponentStatus {
        key: key(n),
        desired,
        state,
        health: Health::None,
        pid: 0,
        version: String::new(),
        revision: 1,
        spec_hash: String::new(),
        epoch: 0,
        restarts: 0,
        started_at: None,
        since: at(since),
        last_exit: String::new(),
        reason: String::new(),
        ports: vec![],
        urls: vec![],
        driver: weft_protocol::Driver::Process,
        image: String::new(),
        digest: String::new(),
        container: String::new(),
        limits: String::new(),
        refused: 0,
    }
}

fn ids() -> impl FnMut() -> Uuid {
    let mut next = 1_000_000u128;
    move || {
        next += 1;
        Uuid::from_u128(next)
    }
}

fn drain(state: &mut State) -> Vec<Event> {
    let batch = state.batch(usize::MAX);
    let ids: Vec<_> = batch.iter().map(|event| event.id).collect();
    state.recorded(&ids);
    batch
}

use ComponentState as S;

#[test]
fn every_row_of_the_drift_table_holds() {
    use Desired as D;
    use ObservedState as O;
    let drift = |text: &str| Verdict::Drift(text.to_owned());
    let rows = [
        (D::Running, O::Running, Verdict::Ok),
        (D::Running, O::Stopped, drift("down though nobody asked for a stop")),
        (D::Running, O::Exited, drift("ended by itself (exit 1)")),
        (D::Running, O::Removed, drift("no such container")),
        (D::Running, O::Unknown, Verdict::Pending),
        (D::Stopped, O::Stopped, Verdict::Ok),
        (D::Stopped, O::Removed, Verdict::Ok),
        (D::Stopped, O::Exited, Verdict::Ok),
        (D::Stopped, O::Running, drift("runs against the operator's wish")),
        (D::Stopped, O::Unknown, Verdict::Pending),
        (D::Ignore, O::Running, Verdict::Ok),
        (D::Ignore, O::Stopped, Verdict::Ok),
        (D::Ignore, O::Exited, Verdict::Ok),
        (D::Ignore, O::Removed, Verdict::Ok),
        (D::Ignore, O::Unknown, Verdict::Ok),
    ];
    assert_eq!(rows.len(), D::ALL.len() * O::ALL.len());
    for (desired, observed, verdict) in rows {
        assert_eq!(judge(desired, observed, "exit 1"), verdict, "{desired} {observed}");
    }
    assert_eq!(judge(D::Running, O::Exited, ""), drift("ended by itself"));
}

#[test]
fn what_ended_although_it_should_not_run_counts_as_stopped_and_stopping_changes_nothing() {
    use ObservedState as O;
    assert_eq!(observe(S::Exited, Desired::Stopped, None), O::Stopped);
    assert_eq!(observe(S::Failed, Desired::Stopped, None), O::Stopped);
    assert_eq!(observe(S::Exited, Desired::Running, None), O::Exited);
    assert_eq!(observe(S::Stopping, Desired::Stopped, Some(O::Exited)), O::Exited);
}

#[test]
fn a_transition_becomes_one_event_with_its_id_however_often_it_is_told() {
    let mut state = State::new(settings());
    let t = transition(1, 10, S::Running, S::Exited, "self");
    state.observe(std::slice::from_ref(&t)).unwrap();
    state.observe(std::slice::from_ref(&t)).unwrap();
    assert!(state.is_waiting(&t.id));
    let events = drain(&mut state);
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].id, events[0].exit.as_str()), (t.id, "exit 1"));
    assert_eq!(events[0].node, "n1");
    state.observe(&[t]).unwrap();
    assert_eq!(state.outbox_len(), 0);
}

#[test]
fn drift_is_dated_from_the_change_into_it_and_ends_with_it() {
    let mut state = State::new(settings());
    state.observe(&[transition(1, 10, S::Running, S::Exited, "self")]).unwrap();
    state.reconcile(&[status(1, S::Exited, Desired::Running, 10)], at(70), &mut ids());
    let drift = state.drift();
    assert_eq!(drift.len(), 1);
    assert_eq!((drift[0].since, drift[0].observed), (at(10), ObservedState::Exited));
    state.observe(&[transition(2, 71, S::Starting, S::Running, "reconcile")]).unwrap();
    assert!(state.drift().is_empty());
}

#[test]
fn the_third_change_in_the_window_flaps_once() {
    let mut state = State::new(settings());
    let steps = [
        transition(1, 10, S::Running, S::Exited, "self"),
        transition(2, 11, S::Exited, S::Starting, "reconcile"),
        transition(3, 12, S::Starting, S::Running, "reconcile"),
        transition(4, 13, S::Running, S::Exited, "self"),
        transition(5, 14, S::Starting, S::Running, "reconcile"),
        transition(6, 15, S::Running, S::Exited, "self"),
    ];
    state.observe(&steps).unwrap();
    let flaps: Vec<_> = drain(&mut state).into_iter().filter(|e| e.cause == "flapping").collect();
    assert_eq!(flaps.len(), 1);
    // After what it follows from, however the two ids compare.
    assert!(flaps[0].time > at(13) && flaps[0].time < at(14), "{:?}", flaps[0].time);
    assert_ne!(flaps[0].id, steps[3].id);
    // Quiet for longer than the window, then again.
    state
        .observe(&[
            transition(7, 2_000, S::Running, S::Exited, "self"),
            transition(8, 2_001, S::Starting, S::Running, "reconcile"),
        ])
        .unwrap();
    assert!(drain(&mut state).iter().all(|e| e.cause != "flapping"));
    state.observe(&[transition(9, 2_002, S::Running, S::Exited, "self")]).unwrap();
    assert!(drain(&mut state).iter().any(|e| e.cause == "flapping"));
}

#[test]
fn what_an_operator_does_is_not_flapping_and_neither_is_what_is_ignored() {
    let mut state = State::new(settings());
    for n in 0..5u32 {
        let n = i64::from(n);
        let id = 10 * u128::try_from(n).unwrap();
        state
            .observe(&[
                transition(id + 1, n * 2, S::Running, S::Stopped, "operator"),
                transition(id + 2, n * 2 + 1, S::Starting, S::Running, "operator"),
            ])
            .unwrap();
        let mut ignored = transition(id + 3, n * 2 + 1, S::Running, S::Exited, "self");
        ignored.desired = Desired::Ignore;
        ignored.key = key(2);
        state.observe(&[ignored]).unwrap();
    }
    assert!(drain(&mut state).iter().all(|event| event.cause != "flapping"));
    assert!(state.drift().is_empty());
}

#[test]
fn a_transition_nobody_told_of_is_recorded_once_it_has_lasted() {
    let mut state = State::new(settings());
    let mut ids = ids();
    let list = [status(1, S::Running, Desired::Running, 1)];
    state.rebuild(&list, &[], at(2), &mut ids);
    assert_eq!(state.outbox_len(), 0);
    let list = [status(1, S::Exited, Desired::Running, 50)];
    assert!(state.reconcile(&list, at(51), &mut ids), "it may yet be told");
    assert_eq!(state.outbox_len(), 0);
    assert_eq!(state.drift().len(), 1, "drift does not wait");
    assert!(!state.reconcile(&list, at(57), &mut ids));
    let events = drain(&mut state);
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].cause.as_str(), events[0].states()),
        ("observed", Some((S::Running, S::Exited)))
    );
    assert_eq!(events[0].time, at(50));
    assert!(!state.reconcile(&list, at(120), &mut ids));
    assert_eq!(state.outbox_len(), 0);
}

#[test]
fn a_component_that_is_no_longer_listed_is_recorded_as_removed_and_forgotten() {
    let mut state = State::new(settings());
    let mut ids = ids();
    state.rebuild(&[status(1, S::Running, Desired::Running, 1)], &[], at(2), &mut ids);
    assert!(state.reconcile(&[], at(3), &mut ids));
    assert!(!state.reconcile(&[], at(9), &mut ids));
    let events = drain(&mut state);
    assert_eq!(
        events.iter().map(|e| e.states().expect("of a component").1).collect::<Vec<_>>(),
        [S::Removed]
    );
    assert!(state.drift().is_empty());
}

#[test]
fn a_change_while_the_monitor_was_away_is_found_by_its_history() {
    let mut state = State::new(settings());
    let mut ids = ids();
    let mut old = State::new(settings());
    old.observe(&[transition(1, 10, S::Starting, S::Running, "deploy")]).unwrap();
    let history = drain(&mut old);
    let list = [status(1, S::Exited, Desired::Running, 20)];
    state.rebuild(&list, &history, at(30), &mut ids);
    state.reconcile(&list, at(36), &mut ids);
    let events = drain(&mut state);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].states(), Some((S::Running, S::Exited)));
}

/// A transition may be told, and recorded, before the first look back at the events: it is in
/// both, and must count once.
#[test]
fn what_was_told_before_the_history_was_read_counts_once() {
    let mut state = State::new(settings());
    let told = [
        transition(1, 0, ComponentState::Starting, ComponentState::Running, "self"),
        transition(2, 1, ComponentState::Running, ComponentState::Exited, "self"),
    ];
    state.observe(&told).unwrap();
    let history = drain(&mut state);
    assert_eq!(history.len(), 2);
    let listed = [status(1, ComponentState::Exited, Desired::Running, 1)];
    state.rebuild(&listed, &history, at(2), &mut ids());
    assert!(state.batch(usize::MAX).is_empty(), "two changes are not flapping");
    state
        .observe(&[transition(3, 3, ComponentState::Starting, ComponentState::Running, "self")])
        .unwrap();
    let causes: Vec<String> = drain(&mut state).into_iter().map(|event| event.cause).collect();
    assert_eq!(causes, ["self", "flapping"], "the third is");
}

#[test]
fn three_failed_passes_make_everything_unknown() {
    let mut state = State::new(settings());
    state.rebuild(&[status(1, S::Exited, Desired::Running, 1)], &[], at(2), &mut ids());
    state.query_failed();
    state.query_failed();
    assert_eq!(state.drift().len(), 1);
    state.query_failed();
    assert!(state.drift().is_empty());
}

#[test]
fn a_full_outbox_takes_nothing() {
    let mut state = State::new(settings());
    let many: Vec<_> = (1..=5_001u32)
        .map(|n| transition(u128::from(n), i64::from(n), S::Running, S::Starting, "self"))
        .collect();
    assert_eq!(state.observe(&many), Err(OutboxFull));
    assert_eq!(state.outbox_len(), 0);
}

fn any_state() -> impl Strategy<Value = ComponentState> {
    prop::sample::select(ComponentState::ALL)
}

proptest! {
    #[test]
    fn no_event_is_put_out_twice_and_none_is_lost(
        steps in prop::collection::vec((0u128..20, 0i64..1_000, any_state(), any_state()), 0..60),
        acknowledge in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut state = State::new(settings());
        let mut out: Vec<Uuid> = Vec::new();
        let mut told = HashSet::new();
        for ((id, time, from, to), ack) in steps.into_iter().zip(acknowledge) {
            let t = transition(id + 1, time, from, to, "self");
            told.insert(t.id);
            state.observe(&[t]).unwrap();
            if ack {
                out.extend(drain(&mut state).iter().map(|e| e.id));
            }
        }
        out.extend(drain(&mut state).iter().map(|e| e.id));
        let unique: HashSet<_> = out.iter().copied().collect();
        prop_assert_eq!(unique.len(), out.len());
        prop_assert!(told.is_subset(&unique));
    }

    #[test]
    fn reconciling_without_an_outside_change_writes_nothing_the_second_time(
        told in prop::collection::vec((0i64..100, any_state(), any_state()), 0..10),
        listed in prop::collection::vec(any_state(), 0..4),
    ) {
        let mut state = State::new(settings());
        let mut ids = ids();
        for (n, (time, from, to)) in told.into_iter().enumerate() {
            state.observe(&[transition(n as u128 + 1, time, from, to, "self")]).unwrap();
        }
        let list: Vec<_> = (1u32..).zip(listed)
            .map(|(n, s)| status(n, s, Desired::Running, 200)).collect();
        let mut now = 1_000;
        for _ in 0..3 {
            state.reconcile(&list, at(now), &mut ids);
            now += 10;
        }
        drain(&mut state);
        prop_assert!(!state.reconcile(&list, at(now), &mut ids));
        prop_assert_eq!(state.outbox_len(), 0);
        for drift in state.drift() {
            prop_assert!(list.iter().any(|s| s.key.replica == drift.replica
                && (s.state == S::Stopping || s.state.observed() == drift.observed)));
        }
    }
}

#[test]
fn what_flaps_or_is_started_again_too_often_is_handed_on_once_with_its_count() {
    let mut state = State::new(settings());
    state.rebuild(&[status(1, S::Running, Desired::Running, 0)], &[], at(0), &mut ids());
    let mut told = Vec::new();
    for n in 0..6u128 {
        let (id, secs) = (n * 3 + 1, i64::try_from(n).unwrap() * 20 + 1);
        for (more, from, to, cause) in [
            (0, S::Running, S::Exited, "self"),
            (1, S::Exited, S::Starting, "reconcile"),
            (2, S::Starting, S::Running, "reconcile"),
        ] {
            let told = transition(id + more, secs + more as i64, from, to, cause);
            state.observe(&[told]).unwrap();
        }
        told.extend(state.take_often());
    }
    let kinds: Vec<_> = told.iter().map(|often| (often.kind, often.count)).collect();
    assert_eq!(kinds, [(AlertKind::Flapping, 3), (AlertKind::Restarts, 4)]);
    assert!(told.iter().all(|often| often.key == key(1) && often.desired == Desired::Running));
    assert!(state.take_often().is_empty());
}

#[test]
fn facts_say_what_drifts_what_came_before_and_whether_somebody_asked_for_it() {
    let mut state = State::new(settings());
    state.rebuild(&[status(1, S::Running, Desired::Running, 0)], &[], at(0), &mut ids());
    let fact = |state: &State| state.facts().remove(0);
    assert!(fact(&state).good && fact(&state).drift.is_none());
    state.observe(&[transition(1, 1, S::Running, S::Exited, "self")]).unwrap();
    let told = fact(&state);
    assert_eq!(told.drift.as_deref(), Some("ended by itself (exit 1)"));
    assert_eq!((told.before, told.asked), (ObservedState::Running, false));
    // Started again: not known to be good yet, and where it came from is not forgotten.
    state.observe(&[transition(2, 2, S::Exited, S::Starting, "reconcile")]).unwrap();
    let starting = fact(&state);
    assert!(!starting.good && starting.drift.is_none() && starting.failed.is_none());
    state.observe(&[transition(3, 3, S::Starting, S::Running, "reconcile")]).unwrap();
    assert_eq!((fact(&state).good, fact(&state).before), (true, ObservedState::Exited));
    // An operator stops it: while it is being stopped nothing drifts.
    state.reconcile(&[status(1, S::Running, Desired::Stopped, 0)], at(4), &mut ids());
    assert!(fact(&state).drift.is_some() && fact(&state).asked);
    let mut stopping = transition(4, 5, S::Running, S::Stopping, "operator");
    stopping.desired = Desired::Stopped;
    state.observe(&[stopping]).unwrap();
    assert!(fact(&state).drift.is_none() && !fact(&state).good);
    let mut failed = transition(5, 6, S::Exited, S::Failed, "self");
    failed.exit = "exit 1".into();
    state.observe(&[failed]).unwrap();
    assert_eq!(fact(&state).failed.as_deref(), Some("exit 1"));
}
