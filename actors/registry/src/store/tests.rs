//! Real databases in temporary directories.

use uuid::Uuid;
use weft_protocol::{
    Alert, AlertFilter, AlertKind, AlertRun, AuditRecord, ComponentState, Desired, Event,
    EventFilter, EventKind, ObservedState, Outcome,
};
use weft_wire::WallTime;

use super::LocalStore;

fn time(seconds: i64) -> WallTime {
    WallTime::from_micros(seconds * 1_000_000)
}

fn event(n: u128, at: i64, service: &str, component: &str) -> Event {
    Event {
        id: Uuid::from_u128(n),
        time: time(at),
        node: "n1".into(),
        service: service.into(),
        component: component.into(),
        replica: 1,
        kind: EventKind::Component { from: ComponentState::Running, to: ComponentState::Exited },
        cause: "self".into(),
        exit: "signal 9".into(),
        observer: String::new(),
    }
}

#[tokio::test]
async fn events_are_stored_once_and_found_by_service_component_and_time() {
    let dir = tempfile::tempdir().expect("directory");
    let local = LocalStore::open(dir.path()).await.expect("opens");
    let all = [event(1, 10, "web", "api"), event(2, 30, "web", "db"), event(3, 20, "mail", "api")];
    local.record_events(&all).await.expect("stores");
    local.record_events(&all).await.expect("stores again");
    let ids = async |filter: EventFilter| -> Vec<u128> {
        let (events, _) = local.events(&filter).await.expect("reads");
        events.iter().map(|event| event.id.as_u128()).collect()
    };
    let filter = EventFilter::default();
    assert_eq!(ids(filter.clone()).await, [1, 3, 2], "oldest first, each once");
    assert_eq!(ids(EventFilter { service: "web".into(), ..filter.clone() }).await, [1, 2]);
    assert_eq!(ids(EventFilter { component: "api".into(), ..filter.clone() }).await, [1, 3]);
    assert_eq!(ids(EventFilter { since: Some(time(20)), ..filter.clone() }).await, [3, 2]);
    assert_eq!(ids(EventFilter { limit: 1, ..filter.clone() }).await, [2], "the newest");
    let (events, _) = local.events(&filter).await.expect("reads");
    assert_eq!(events[0], all[0]);
    let later = local.events_after(1).await.expect("reads");
    assert_eq!(later.iter().map(|(_, event)| event.id.as_u128()).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn audit_records_read_back_newest_last_and_old_rows_are_pruned() {
    let dir = tempfile::tempdir().expect("directory");
    let local = LocalStore::open(dir.path()).await.expect("opens");
    let record = |at: i64, outcome| AuditRecord {
        time: time(at),
        caller: "operator/x".into(),
        role: "admin".into(),
        method: "registry.propose".into(),
        target: "registry".into(),
        outcome,
        error: "e".repeat(300),
        duration_us: 7,
        trace: "0".repeat(32),
    };
    let records = [record(1, Outcome::Ok), record(2, Outcome::Denied), record(3, Outcome::Failed)];
    local.record_audit(&records).await.expect("stores");
    let read = local.audit(Some(time(2)), 10).await.expect("reads");
    assert_eq!(
        read.iter().map(|r| r.outcome).collect::<Vec<_>>(),
        [Outcome::Denied, Outcome::Failed]
    );
    assert_eq!(read[0].error.len(), 256);
    assert_eq!(local.audit(None, 1).await.expect("reads")[0].time, time(3));
    local.record_events(&[event(1, 1, "a", "b"), event(2, 9, "a", "b")]).await.expect("stores");
    assert_eq!(local.prune(time(5), time(3), time(9)).await.expect("prunes"), 3);
    assert_eq!(local.trusted_time().await.expect("reads"), Some(time(9)));
    assert_eq!(local.events(&EventFilter::default()).await.expect("reads").0.len(), 1);
    assert_eq!(local.audit(None, 10).await.expect("reads").len(), 1);
}

#[tokio::test]
async fn every_kind_of_event_reads_back_as_it_was_stored() {
    let dir = tempfile::tempdir().expect("directory");
    let local = LocalStore::open(dir.path()).await.expect("opens");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let kinds = [
        EventKind::Component { from: ComponentState::Running, to: ComponentState::Failed },
        EventKind::Node { to: weft_protocol::NodeChange::DaemonDown },
        EventKind::Leader {
            group: "control".into(),
            term: 7,
            from: String::new(),
            to: "n2".into(),
        },
        EventKind::Voters {
            group: "control".into(),
            from: names(&["n1"]),
            to: names(&["n1", "n2", "n3"]),
        },
        EventKind::Voters { group: "control".into(), from: vec![], to: names(&["n1"]) },
        EventKind::Placement { from: "n1".into(), to: String::new() },
    ];
    let events: Vec<Event> = kinds
        .into_iter()
        .zip(1u32..)
        .map(|(kind, n)| {
            let observer = "n3".to_owned();
            Event { kind, observer, ..event(u128::from(n), i64::from(n), "web", "") }
        })
        .collect();
    local.record_events(&events).await.expect("stores");
    local.record_events(&events).await.expect("stores nothing more");
    assert_eq!(local.events(&EventFilter::default()).await.expect("reads").0, events);
}

fn alert(n: u128, at: i64, service: &str, component: &str) -> Alert {
    Alert {
        id: Uuid::from_u128(n),
        time: time(at),
        node: "n1".into(),
        service: service.into(),
        component: component.into(),
        replica: 2,
        kind: AlertKind::Flapping,
        desired: Some(Desired::Running),
        observed: Some(ObservedState::Exited),
        prev_state: None,
        transitions: 3,
        reason: "it ends again and again".into(),
        suppressed: n == 2,
        run: None,
    }
}

#[tokio::test]
async fn alerts_are_stored_once_updated_by_their_id_and_pruned_with_the_events() {
    let dir = tempfile::tempdir().expect("directory");
    let local = LocalStore::open(dir.path()).await.expect("opens");
    let mut all = [alert(1, 10, "web", "api"), alert(2, 30, "web", "db"), alert(3, 20, "", "")];
    assert_eq!(local.record_alerts(&all).await.expect("stores"), 3);
    let read = async |filter: AlertFilter| local.alerts(&filter).await.expect("reads").0;
    assert_eq!(read(AlertFilter::default()).await, [&all[0], &all[2], &all[1]].map(Alert::clone));
    // Its command has ended.
    let run = AlertRun { exit: Some(3), problem: String::new(), output: "x".repeat(5000) };
    all[0].run = Some(run);
    assert_eq!(local.record_alerts(&all[..1]).await.expect("stores"), 4);
    let web = read(AlertFilter { service: "web".into(), ..AlertFilter::default() }).await;
    assert_eq!(web.len(), 2);
    let run = web[0].run.as_ref().expect("it is there");
    assert_eq!((run.exit, run.output.len()), (Some(3), 4096));
    let after = local.alerts_after(3).await.expect("reads");
    assert!(matches!(after.as_slice(), [(4, alert)] if alert.id == all[0].id), "told of again");
    let since = AlertFilter { since: Some(time(20)), limit: 1, ..AlertFilter::default() };
    assert_eq!(read(since).await, [all[1].clone()]);
    local.prune(time(20), time(0), time(40)).await.expect("prunes");
    assert_eq!(read(AlertFilter::default()).await.len(), 2);
}
