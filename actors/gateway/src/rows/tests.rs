//! Rows of silent nodes, merges, and what other tests build states from.

use proptest::prelude::*;
use uuid::Uuid;
use weft_protocol::EventKind;
use weft_protocol::{
    ComponentSpec, Driver, Failover, NodeRecord, OnPartition, Placement, PlacementRules, Resources,
    RestartPolicy, ServiceRecord, ServiceSpec, Snapshot, Tier, UpdatePolicy,
};

use super::*;

pub(crate) fn node_id(n: u32) -> NodeId {
    NodeId::new(Uuid::from_u128(0x4000_8000_0000_0000_0000 + u128::from(n)))
}

pub(crate) fn component(name: &str) -> ComponentSpec {
    ComponentSpec {
        name: name.into(),
        driver: Driver::Process,
        image: String::new(),
        version: String::new(),
        network: String::new(),
        user: String::new(),
        restart: RestartPolicy::default(),
        stop_grace: std::time::Duration::from_secs(10),
        workdir: String::new(),
        ports: vec![],
        volumes: vec![],
        cmd: vec!["./api".into()],
        env: vec![],
        health: None,
        resources: Resources::default(),
        routes: vec![],
    }
}

pub(crate) fn spec(name: &str, replicas: u32, components: &[&str]) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        node: String::new(),
        tier: Tier::Worker,
        active: true,
        version: "1.0".into(),
        path: String::new(),
        comment: String::new(),
        depends_on: vec![],
        replicas,
        on_partition: OnPartition::Keep,
        placement: PlacementRules::default(),
        failover: Failover::default(),
        build_images: BTreeMap::new(),
        snapshot: Snapshot::default(),
        update: UpdatePolicy::default(),
        files: vec![],
        components: components.iter().map(|name| component(name)).collect(),
    }
}

pub(crate) fn record(spec: ServiceSpec) -> ServiceRecord {
    ServiceRecord {
        name: spec.name.clone(),
        revision: 1,
        active: spec.active,
        spec,
        desired: vec![],
        epochs: vec![],
        undeployed: false,
        rollout: None,
        created_at: WallTime::from_micros(1),
        updated_at: WallTime::from_micros(1),
    }
}

pub(crate) fn placement(service: &str, replica: u32, node: NodeId) -> Placement {
    Placement {
        service: service.into(),
        replica,
        node,
        generation: 1,
        at: WallTime::from_micros(1),
        reason: String::new(),
        previous: None,
    }
}

pub(crate) fn node(id: NodeId, name: &str) -> NodeRecord {
    NodeRecord {
        id,
        name: name.into(),
        address: "127.0.0.1:1".into(),
        zone: String::new(),
        labels: vec![],
        version: "0.1.0".into(),
        key_fingerprint: String::new(),
        ca: String::new(),
        capacity: weft_protocol::Capacity::default(),
        format: 1,
        extra_labels: vec![],
        draining: false,
        joined_at: WallTime::from_micros(1),
    }
}

/// `web` with three replicas on n1, n2, n3.
pub(crate) fn state() -> StateView {
    StateView {
        index: 7,
        services: vec![record(spec("web", 3, &["api"]))],
        placements: (1..=3).map(|n| placement("web", n, node_id(n))).collect(),
        nodes: (1..=3).map(|n| node(node_id(n), &format!("n{n}"))).collect(),
        ..StateView::default()
    }
}

pub(crate) fn key(service: &str, replica: u32, component: &str) -> ComponentKey {
    ComponentKey { service: service.into(), replica, component: component.into() }
}

pub(crate) fn status(key: ComponentKey, state: ComponentState) -> ComponentStatus {
    ComponentStatus {
        key,
        desired: Desired::Running,
        state,
        health: Health::None,
        pid: match state {
            ComponentState::Stopped | ComponentState::Removed => 0,
            _ => 100,
        },
        version: "1.0".into(),
        revision: 1,
        spec_hash: String::new(),
        epoch: 0,
        restarts: 0,
        started_at: Some(WallTime::from_micros(1)),
        since: WallTime::from_micros(1),
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

pub(crate) fn member(n: u32) -> Member {
    Member { id: node_id(n), name: format!("n{n}") }
}

pub(crate) fn event(n: u32, time: i64, node: &str) -> Event {
    Event {
        id: Uuid::from_u128(u128::from(n)),
        time: WallTime::from_micros(time),
        node: node.into(),
        service: "web".into(),
        component: "api".into(),
        replica: 1,
        kind: EventKind::Component { from: ComponentState::Starting, to: ComponentState::Running },
        cause: "deploy".into(),
        exit: String::new(),
        observer: String::new(),
    }
}

fn silent() -> AskError {
    AskError::Unreachable("no link".into())
}

#[test]
fn a_silent_node_is_rows_of_desired_state_and_never_a_failure() {
    let answers = [
        (member(1), Ok(vec![status(key("web", 1, "api"), ComponentState::Running)])),
        (member(2), Err(silent())),
        (member(3), Ok(vec![])),
    ];
    let reply = ps(Ok(&state()), "n1", &answers, None, &Nowhere::new());
    let seen: Vec<_> = reply
        .rows
        .iter()
        .map(|row| (row.node.as_str(), row.status.state, row.status.revision))
        .collect();
    assert_eq!(
        seen,
        [
            ("n1", ComponentState::Running, 1),
            ("n2", ComponentState::Unknown, 1),
            ("n3", ComponentState::Pending, 1),
        ]
    );
    let row = reply.rows.get(1).unwrap();
    assert!(row.status.reason.contains("n2 does not answer"), "{}", row.status.reason);
    let errors: Vec<_> = reply.nodes.iter().map(|node| node.error.is_empty()).collect();
    assert_eq!(errors, [true, false, true]);
}

#[test]
fn a_replica_without_a_place_waits_and_an_undeployed_service_is_not_wanted() {
    let mut state = state();
    state.placements.pop();
    let answers = [(member(1), Ok(vec![])), (member(2), Ok(vec![])), (member(3), Ok(vec![]))];
    let reply = ps(Ok(&state), "n1", &answers, None, &Nowhere::new());
    let last = reply.rows.last().unwrap();
    assert_eq!((last.status.state, last.node.as_str()), (ComponentState::Waiting, ""));
    state.services[0].undeployed = true;
    assert!(ps(Ok(&state), "n1", &answers, None, &Nowhere::new()).rows.is_empty());
}

#[test]
fn without_desired_state_the_live_rows_are_shown_and_it_is_said() {
    let answers = [
        (member(1), Ok(vec![status(key("web", 1, "api"), ComponentState::Running)])),
        (member(2), Err(silent())),
    ];
    let reply = ps(Err(&AskError::Timeout), "n1", &answers, None, &Nowhere::new());
    assert_eq!(reply.rows.len(), 1);
    assert!(reply.nodes[0].error.contains("desired state"));
}

#[test]
fn only_what_is_meant_is_shown() {
    let target = CommandRef { service: "web".into(), component: "api".into() };
    assert!(is_meant(Some(&target), &key("web", 2, "api")));
    assert!(!is_meant(Some(&target), &key("web", 2, "db")));
    assert!(!is_meant(Some(&target), &key("web2", 1, "api")));
    assert!(is_meant(None, &key("x", 1, "y")));
}

#[test]
fn list_shows_what_was_last_heard_without_asking() {
    let rows = services(&state(), |node, _| {
        if node == node_id(1) { ObservedState::Running } else { ObservedState::Unknown }
    });
    let seen: Vec<_> = rows.iter().map(|row| (row.node.as_str(), row.observed)).collect();
    assert_eq!(seen[0], ("n1", ObservedState::Running));
    assert_eq!(seen[1], ("n2", ObservedState::Unknown));
    assert_eq!(rows[0].version, "1.0");
}

proptest! {
    #[test]
    fn merged_events_are_in_order_once_each_and_the_newest(
        lists in prop::collection::vec(prop::collection::vec((0u32..50, 0i64..100), 0..20), 0..4),
        limit in 0usize..30,
    ) {
        let lists: Vec<Vec<Event>> = lists
            .into_iter()
            .map(|list| list.into_iter().map(|(n, _)| event(n, i64::from(n) * 7 % 50, "n1")).collect())
            .collect();
        let all: HashSet<Uuid> = lists.iter().flatten().map(|event| event.id).collect();
        let newest = lists.iter().flatten().map(|event| event.time).max();
        let merged = merge_events(lists, limit);
        prop_assert_eq!(merged.len(), all.len().min(limit));
        prop_assert!(merged.windows(2).all(|pair| pair[0].time <= pair[1].time));
        let ids: HashSet<Uuid> = merged.iter().map(|event| event.id).collect();
        prop_assert_eq!(ids.len(), merged.len());
        if limit > 0 {
            prop_assert_eq!(merged.last().map(|event| event.time), newest);
        }
    }

    #[test]
    fn every_wanted_component_is_exactly_one_row(
        answered in prop::collection::vec(prop::option::of(prop::collection::vec(1u32..4, 0..3)), 3),
    ) {
        let answers: Vec<_> = (1u32..).zip(answered).map(|(n, answer)| {
            let answer = answer.map(|_| vec![status(key("web", n, "api"), ComponentState::Running)]);
            (member(n), answer.ok_or_else(silent))
        }).collect();
        let reply = ps(Ok(&state()), "n1", &answers, None, &Nowhere::new());
        let replicas: Vec<_> = reply.rows.iter().map(|row| row.status.key.replica).collect();
        prop_assert_eq!(replicas, vec![1, 2, 3]);
        prop_assert_eq!(reply.nodes.len(), 3);
    }
}

#[test]
fn what_runs_elsewhere_than_it_is_placed_is_drift_once_that_should_be_over() {
    let at = |seconds: i64| WallTime::from_micros(seconds * 1_000_000);
    let row = |node: &str, replica: u32, state: ComponentState, pid: u32| {
        let mut status = status(key("web", replica, "api"), state);
        (status.pid, status.since) = (pid, at(100));
        ComponentRow { node: node.into(), status }
    };
    let seen = |state: &StateView, row: ComponentRow, now: i64| {
        let found = misplaced(state, &[row], at(now));
        found.first().map(|drift| (drift.desired, drift.reason.clone()))
    };
    use ComponentState::{Pending, Running, Stopped};
    let mut state = state();
    assert_eq!(seen(&state, row("n1", 1, Running, 7), 200), None, "it is there");
    // Not taken up.
    let idle = || row("n1", 1, Pending, 0);
    assert_eq!(seen(&state, idle(), 104), None, "that takes a while");
    let expected = (Desired::Running, "placed on n1, which does not run it".to_owned());
    assert_eq!(seen(&state, idle(), 105), Some(expected));
    // On another one.
    let expected = (Desired::Stopped, "runs on n2, and is placed on n1".to_owned());
    assert_eq!(seen(&state, row("n2", 1, Running, 7), 105), Some(expected));
    assert_eq!(seen(&state, row("n2", 1, Stopped, 0), 105), None, "what has stopped is no matter");
    // Being moved from there.
    state.placements[0].previous = Some(weft_protocol::Previous { node: node_id(2), lost: false });
    assert_eq!(seen(&state, row("n2", 1, Running, 7), 105), None);
    // Nowhere.
    state.placements.clear();
    let expected = (Desired::Stopped, "runs on n2, and is placed nowhere".to_owned());
    assert_eq!(seen(&state, row("n2", 1, Running, 7), 105), Some(expected));
    assert_eq!(seen(&state, idle(), 105), None, "it waits for a place");
}

#[test]
fn a_container_that_is_nobodys_is_listed_once_however_many_nodes_share_its_engine() {
    let stranger = |id: &str, name: &str| ForeignRow {
        id: id.into(),
        name: name.into(),
        image: "x:1".into(),
        state: ComponentState::Running,
    };
    let odd = |rows: Vec<ForeignRow>| Ok(Oddities { foreign: rows, ..Oddities::default() });
    let answers = vec![
        (member(1), odd(vec![stranger("1", "b"), stranger("2", "a")])),
        (member(2), odd(vec![stranger("1", "b")])),
        (member(3), Err(silent())),
    ];
    let names: Vec<_> = foreign(answers).into_iter().map(|(node, row)| (node, row.name)).collect();
    assert_eq!(names, [("n1".to_owned(), "a".to_owned()), ("n1".to_owned(), "b".to_owned())]);
}
