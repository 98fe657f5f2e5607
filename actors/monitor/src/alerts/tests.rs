//! When alerts fire and when they are suppressed, also for any sequence of looks.

use proptest::prelude::*;
use weft_wire::{Clock as _, ManualClock};

use super::*;

const COOLDOWN: Duration = Duration::from_secs(900);
const AFTER: Duration = Duration::from_secs(5);

fn rules() -> Rules {
    Rules { node: "n1".into(), cooldown: COOLDOWN, alert_after: AFTER, at_once: false, disk_low: 5 }
}

fn key(component: &str, replica: u32) -> ComponentKey {
    ComponentKey { service: "web".into(), replica, component: component.into() }
}

fn good() -> Fact {
    Fact {
        key: key("api", 1),
        desired: Desired::Running,
        observed: ObservedState::Running,
        before: ObservedState::Exited,
        good: true,
        drift: None,
        failed: None,
        asked: false,
    }
}

fn down() -> Fact {
    Fact {
        observed: ObservedState::Exited,
        before: ObservedState::Running,
        good: false,
        drift: Some("ended by itself (signal 9)".into()),
        ..good()
    }
}

fn failed() -> Fact {
    Fact { failed: Some("exit 3".into()), ..down() }
}

struct Bench {
    alerts: Alerts,
    clock: ManualClock,
    ids: u128,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let clock = ManualClock::new(WallTime::from_micros(1_795_000_000_000_000));
        Self { alerts: Alerts::new(rules), clock, ids: 0 }
    }

    fn look(&mut self, facts: &[Fact]) -> Vec<Alert> {
        let ids = &mut self.ids;
        let mut ids = || {
            *ids += 1;
            Uuid::from_u128(*ids)
        };
        self.alerts.look(facts, self.clock.now(), self.clock.wall(), &mut ids)
    }

    fn later(&mut self, by: Duration, facts: &[Fact]) -> Vec<Alert> {
        self.clock.advance(by);
        self.look(facts)
    }

    /// Drifts until that fires, and is good again.
    fn drift_once(&mut self) -> Alert {
        assert!(self.look(&[down()]).is_empty());
        let mut fired = self.later(AFTER, &[down()]);
        assert!(self.look(&[good()]).is_empty());
        assert_eq!(fired.len(), 1, "{fired:?}");
        fired.remove(0)
    }
}

#[test]
fn drift_fires_on_the_change_into_it_and_not_at_each_look() {
    let mut bench = Bench::new(rules());
    assert!(bench.look(&[good()]).is_empty());
    assert!(bench.look(&[down()]).is_empty());
    assert_eq!(bench.alerts.next(bench.clock.now()), Some(AFTER));
    let fired = bench.later(AFTER, &[down()]);
    let [alert] = fired.as_slice() else { panic!("{fired:?}") };
    assert_eq!(alert.kind, AlertKind::Drift);
    assert_eq!((alert.node.as_str(), alert.component.as_str()), ("n1", "api"));
    assert_eq!(
        (alert.desired, alert.observed, alert.prev_state),
        (Some(Desired::Running), Some(ObservedState::Exited), Some(ObservedState::Running))
    );
    assert!(!alert.suppressed && alert.reason.contains("signal 9"));
    assert_eq!(bench.alerts.next(bench.clock.now()), None);
    for _ in 0..10 {
        assert!(bench.later(Duration::from_secs(600), &[down()]).is_empty());
    }
}

#[test]
fn what_is_mended_at_once_fires_nothing() {
    let mut bench = Bench::new(rules());
    for _ in 0..5 {
        assert!(bench.later(Duration::from_secs(60), &[down()]).is_empty());
        assert!(bench.later(Duration::from_millis(50), &[good()]).is_empty());
    }
}

#[test]
fn where_nothing_is_mended_drift_fires_at_once_unless_somebody_asked_for_the_change() {
    let mut bench = Bench::new(Rules { at_once: true, ..rules() });
    bench.look(&[good()]);
    assert_eq!(bench.look(&[down()]).len(), 1);
    let mut bench = Bench::new(Rules { at_once: true, ..rules() });
    let asked = Fact { asked: true, ..down() };
    assert!(bench.look(std::slice::from_ref(&asked)).is_empty());
    assert_eq!(bench.later(AFTER, &[asked]).len(), 1);
}

#[test]
fn within_the_cooldown_it_fires_again_suppressed_whatever_the_replica() {
    let mut bench = Bench::new(rules());
    assert!(!bench.drift_once().suppressed);
    assert!(bench.drift_once().suppressed);
    let second = Fact { key: key("api", 2), ..down() };
    bench.look(std::slice::from_ref(&second));
    assert!(bench.later(AFTER, &[second])[0].suppressed, "per service, component and type");
    let other = Fact { key: key("db", 1), ..down() };
    bench.look(std::slice::from_ref(&other));
    assert!(!bench.later(AFTER, &[other])[0].suppressed);
    bench.clock.advance(COOLDOWN);
    assert!(!bench.drift_once().suppressed, "suppressed ones do not make it longer");
}

#[test]
fn a_clock_that_is_set_back_does_not_make_the_quiet_time_longer_than_it_is() {
    let mut bench = Bench::new(rules());
    bench.drift_once();
    bench.clock.set_wall(bench.clock.wall().minus(Duration::from_secs(86_400)));
    assert!(bench.drift_once().suppressed);
    bench.clock.advance(COOLDOWN);
    assert!(!bench.drift_once().suppressed);
}

#[test]
fn what_is_ignored_never_fires() {
    let mut bench = Bench::new(Rules { at_once: true, ..rules() });
    let fact = Fact { desired: Desired::Ignore, ..failed() };
    assert!(bench.look(&[fact]).is_empty());
    let often = TooOften {
        kind: AlertKind::Flapping,
        key: key("api", 1),
        desired: Desired::Ignore,
        observed: ObservedState::Exited,
        before: ObservedState::Running,
        count: 3,
        window: Duration::from_secs(600),
    };
    let wall = bench.clock.wall();
    assert_eq!(bench.alerts.too_often(&often, wall, Uuid::nil()), None);
    let often = TooOften { desired: Desired::Running, ..often };
    let fired = bench.alerts.too_often(&often, wall, Uuid::nil()).expect("it fires");
    assert_eq!((fired.transitions, fired.reason.as_str()), (3, "changed 3 times within 10m0s"));
}

#[test]
fn one_that_is_given_up_on_fires_once_beside_its_drift() {
    let mut bench = Bench::new(rules());
    bench.look(&[good()]);
    let fired = bench.look(&[failed()]);
    assert_eq!(fired.iter().map(|a| a.kind).collect::<Vec<_>>(), [AlertKind::Failed]);
    assert!(fired[0].reason.contains("exit 3"), "{}", fired[0].reason);
    let fired = bench.later(AFTER, &[failed()]);
    assert_eq!(fired.iter().map(|a| a.kind).collect::<Vec<_>>(), [AlertKind::Drift]);
    bench.look(&[good()]);
    assert!(bench.look(&[failed()])[0].suppressed, "it is again");
}

#[test]
fn a_daemon_that_starts_does_not_fire_for_what_was_alerted_before_it_stopped() {
    let mut before = Bench::new(rules());
    before.look(&[good()]);
    let mut stored = before.look(&[failed()]);
    stored.extend(before.later(AFTER, &[failed()]));
    assert_eq!(stored.len(), 2);

    let mut bench = Bench::new(rules());
    bench.clock.set_wall(before.clock.wall().plus(Duration::from_secs(60)));
    bench.alerts.restore(&stored, bench.clock.wall());
    // At first it is not known what it is.
    let unknown = Fact { good: false, drift: None, ..good() };
    assert!(bench.look(&[unknown]).is_empty());
    assert!(bench.look(&[failed()]).is_empty());
    assert!(bench.later(AFTER, &[failed()]).is_empty());
    // Mended, and down again: that is new, and within the cooldown.
    bench.look(&[good()]);
    bench.look(&[down()]);
    assert!(bench.later(AFTER, &[down()])[0].suppressed);

    // Long after it, it is worth saying again.
    let mut bench = Bench::new(rules());
    bench.clock.set_wall(before.clock.wall().plus(COOLDOWN));
    bench.alerts.restore(&stored, bench.clock.wall());
    bench.look(&[failed()]);
    assert!(!bench.later(AFTER, &[failed()])[0].suppressed);
}

#[test]
fn a_lost_node_fires_once_for_each_event() {
    let mut bench = Bench::new(rules());
    let wall = bench.clock.wall();
    let event = Uuid::from_u128(77);
    let alert = bench.alerts.node_lost("n2", "silent", event, wall).expect("it fires");
    assert_eq!((alert.kind, alert.node.as_str()), (AlertKind::Node, "n2"));
    assert_eq!(bench.alerts.node_lost("n2", "silent", event, wall), None);
    let other = bench.alerts.node_lost("n3", "silent", Uuid::from_u128(78), wall);
    assert!(!other.expect("it fires").suppressed, "another node");
    let again = bench.alerts.node_lost("n2", "silent", Uuid::from_u128(79), wall);
    assert!(again.expect("it fires").suppressed);
    // Told again to the next daemon, it is known.
    let mut next = Bench::new(rules());
    next.alerts.restore(&[alert], wall);
    assert_eq!(next.alerts.node_lost("n2", "silent", event, wall), None);
}

#[test]
fn a_full_disk_fires_once_until_there_is_room_again() {
    let mut bench = Bench::new(rules());
    let wall = bench.clock.wall();
    let mut disk = |free: u64| bench.alerts.disk(free << 30, 100 << 30, wall, &mut Uuid::nil);
    assert_eq!(disk(5), None);
    let alert = disk(4).expect("it fires");
    assert_eq!((alert.kind, alert.service.as_str()), (AlertKind::Disk, ""));
    assert!(alert.reason.starts_with("4 % free"), "{}", alert.reason);
    assert_eq!((disk(3), disk(6), disk(4)), (None, None, None), "around the limit");
    assert_eq!(disk(7), None);
    assert!(disk(0).expect("low again").suppressed);
    let mut off = Alerts::new(Rules { disk_low: 0, ..rules() });
    assert_eq!(off.disk(0, 100, wall, &mut Uuid::nil), None);
}

#[test]
fn one_that_is_gone_is_forgotten() {
    let mut bench = Bench::new(rules());
    bench.look(&[down()]);
    bench.alerts.keep(&[]);
    assert_eq!(bench.alerts.next(bench.clock.now()), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However components come and go, a key is executed at most once within a cooldown, and its
    /// first firing is.
    #[test]
    fn never_two_executed_firings_of_one_key_within_its_cooldown(
        steps in prop::collection::vec((0u64..400, 0usize..3, 0usize..4, any::<bool>()), 1..80),
        at_once in any::<bool>(),
    ) {
        let mut bench = Bench::new(Rules { at_once, ..rules() });
        let mut executed: HashMap<Key, WallTime> = HashMap::new();
        let mut facts: Vec<Fact> =
            [("api", 1), ("api", 2), ("db", 1)].map(|(c, r)| Fact { key: key(c, r), ..good() }).into();
        for (secs, which, what, restart) in steps {
            let fact = [good(), down(), failed(), Fact { desired: Desired::Ignore, ..down() }];
            facts[which] = Fact { key: facts[which].key.clone(), ..fact[what].clone() };
            let mut fired = bench.later(Duration::from_secs(secs), &facts);
            if restart {
                let often = TooOften {
                    kind: AlertKind::Flapping,
                    key: facts[which].key.clone(),
                    desired: facts[which].desired,
                    observed: facts[which].observed,
                    before: facts[which].before,
                    count: 3,
                    window: COOLDOWN,
                };
                let wall = bench.clock.wall();
                fired.extend(bench.alerts.too_often(&often, wall, Uuid::nil()));
            }
            for alert in fired {
                prop_assert!(alert.desired != Some(Desired::Ignore));
                let last = executed.get(&subject(&alert)).copied();
                let quiet = last.is_some_and(|last| alert.time.since(last) < COOLDOWN);
                prop_assert_eq!(alert.suppressed, quiet, "{:?} after {:?}", alert, last);
                if !alert.suppressed {
                    executed.insert(subject(&alert), alert.time);
                }
            }
        }
    }

    /// A daemon that is made anew from what is stored executes nothing that the one before would
    /// not have.
    #[test]
    fn a_new_machine_goes_on_with_the_cooldowns_of_the_one_before(
        steps in prop::collection::vec((0u64..400, 0usize..3, any::<bool>()), 1..60),
    ) {
        let mut bench = Bench::new(rules());
        let mut stored: Vec<Alert> = Vec::new();
        for (secs, what, anew) in steps {
            if anew {
                bench.alerts = Alerts::new(rules());
                bench.alerts.restore(&stored, bench.clock.wall());
            }
            let fact = [good(), down(), failed()];
            for alert in bench.later(Duration::from_secs(secs), &fact[what..=what]) {
                let repeat = stored.iter().any(|old| {
                    !old.suppressed
                        && old.kind == alert.kind
                        && alert.time.since(old.time) < COOLDOWN
                });
                prop_assert!(alert.suppressed || !repeat, "{:?}", alert);
                stored.push(alert);
            }
        }
    }
}
