//! Real databases in temporary directories.

use std::sync::Arc;

use uuid::Uuid;
use weft_protocol::{
    AuditRecord, Command, ComponentState, Event, EventFilter, NodeRecord, OperatorRecord, Outcome,
    Proposal, TokenRecord,
};
use weft_store::StoreError;
use weft_wire::{Caller, NodeId, OperatorId, RequestId, Role, WallTime};

use super::{LocalStore, RegistryError, StateStore};
use crate::state::{ClusterState, SNAPSHOT_VERSION};

const CLUSTER: &str = "018f2c3e-5b7a-4d4e-9c1b-2f6a8d0e4b5c";

fn time(seconds: i64) -> WallTime {
    WallTime::from_micros(seconds * 1_000_000)
}

fn proposal(n: u128, command: Command) -> Arc<Proposal> {
    Arc::new(Proposal {
        request: RequestId::new(Uuid::from_u128(n)),
        at: time(1),
        caller: Caller::node(NodeId::new(Uuid::from_u128(1))),
        command,
    })
}

fn bootstrap() -> Command {
    Command::Bootstrap {
        node: NodeRecord {
            id: NodeId::new(Uuid::from_u128(1)),
            name: "n1".into(),
            address: String::new(),
            zone: String::new(),
            labels: vec![],
            version: String::new(),
            key_fingerprint: String::new(),
            leader: true,
            joined_at: time(0),
        },
        operator: OperatorRecord {
            id: OperatorId::new(Uuid::from_u128(2)),
            name: "ann".into(),
            role: Role::Admin,
            key_fingerprint: String::new(),
            created_at: time(0),
        },
        ca: "CA".into(),
    }
}

fn token(n: u128) -> Command {
    Command::AddToken {
        token: TokenRecord {
            secret_hash: n.to_string(),
            name: String::new(),
            expires_at: time(1_000),
            used_by: None,
            by: String::new(),
        },
    }
}

/// The log of a small cluster: bootstrap, then tokens.
fn entries(count: u64) -> (Vec<(u64, Arc<Proposal>)>, ClusterState) {
    let mut state = ClusterState::default();
    let entries = (1..=count)
        .map(|index| {
            let n = u128::from(index);
            let entry = proposal(n, if index == 1 { bootstrap() } else { token(n) });
            state.apply(&entry, index).expect("applies");
            (index, entry)
        })
        .collect();
    (entries, state)
}

#[tokio::test]
async fn the_state_is_rebuilt_from_the_log_and_from_snapshot_and_log() {
    let dir = tempfile::tempdir().expect("directory");
    let (entries, state) = entries(40);
    let log = StateStore::open(dir.path(), CLUSTER).await.expect("opens");
    log.append(&entries[..10], None).await.expect("appends");
    log.database().close().await;
    let log = StateStore::open(dir.path(), CLUSTER).await.expect("opens");
    assert_eq!(log.load().await.expect("loads").0.index(), 10);
    let half = {
        let mut half = ClusterState::default();
        for (index, entry) in &entries[..20] {
            half.apply(entry, *index).expect("applies");
        }
        half
    };
    let snapshot = (20, SNAPSHOT_VERSION, half.snapshot().expect("snapshot"));
    log.append(&entries[10..20], Some(snapshot)).await.expect("appends");
    log.append(&entries[20..], None).await.expect("appends");
    let (loaded, checkpoint) = log.load().await.expect("loads");
    assert_eq!(checkpoint, 20);
    assert!(loaded == state);
}

#[tokio::test]
async fn a_position_that_is_taken_is_a_conflict_and_nothing_of_the_batch_is_stored() {
    let dir = tempfile::tempdir().expect("directory");
    let (entries, _) = entries(4);
    let log = StateStore::open(dir.path(), CLUSTER).await.expect("opens");
    log.append(&entries[..3], None).await.expect("appends");
    let mixed = [entries[3].clone(), entries[2].clone()];
    let error = log.append(&mixed, None).await.expect_err("taken");
    assert!(matches!(error, RegistryError::Store(StoreError::Conflict { .. })), "{error}");
    assert_eq!(log.load().await.expect("loads").0.index(), 3);
}

#[tokio::test]
async fn a_gap_in_the_log_is_said_and_not_jumped() {
    let dir = tempfile::tempdir().expect("directory");
    let (entries, _) = entries(4);
    let log = StateStore::open(dir.path(), CLUSTER).await.expect("opens");
    log.append(&[entries[0].clone(), entries[3].clone()], None).await.expect("appends");
    let error = log.load().await.expect_err("gap");
    assert!(error.to_string().contains("change 4 cannot be used"), "{error}");
}

#[tokio::test]
async fn the_database_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    drop(StateStore::open(dir.path(), CLUSTER).await.expect("opens"));
    let error = StateStore::open(dir.path(), "another").await.expect_err("another cluster");
    assert!(matches!(error, RegistryError::OtherCluster { .. }), "{error}");
    assert!(error.to_string().contains("state.db"), "{error}");
}

#[tokio::test]
async fn a_snapshot_replaces_everything() {
    let dir = tempfile::tempdir().expect("directory");
    let (entries, _) = entries(5);
    let log = StateStore::open(dir.path(), CLUSTER).await.expect("opens");
    log.append(&entries, None).await.expect("appends");
    let (_, other) = super::tests::entries(3);
    log.replace(3, SNAPSHOT_VERSION, other.snapshot().expect("snapshot")).await.expect("replaces");
    assert!(log.load().await.expect("loads").0 == other);
    assert!(log.after(0, 10).await.expect("reads").is_empty());
}

fn event(n: u128, at: i64, service: &str, component: &str) -> Event {
    Event {
        id: Uuid::from_u128(n),
        time: time(at),
        node: "n1".into(),
        service: service.into(),
        component: component.into(),
        replica: 1,
        prev_state: ComponentState::Running,
        new_state: ComponentState::Exited,
        cause: "self".into(),
        exit: "signal 9".into(),
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
