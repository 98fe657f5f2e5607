//! A drain as it is watched: what moves, what stays, when it is over, how it ends.

use weft_protocol::{
    Capacity, NodeRecord, NodeRole, Operation, OperationKind, Placement, PlannedMove, Previous,
    ServiceRecord, ServiceSpec,
};
use weft_wire::WallTime;

use super::super::agreed::tests::id;
use super::*;

const NOW: WallTime = WallTime::from_micros(0);

/// Node n of a state.
pub(crate) fn node(n: u128) -> NodeRecord {
    NodeRecord {
        id: id(n),
        name: format!("n{n}"),
        address: format!("10.0.0.{n}:7443"),
        zone: String::new(),
        labels: vec![],
        version: "0.1.0".into(),
        key_fingerprint: String::new(),
        ca: String::new(),
        capacity: Capacity::default(),
        format: 1,
        extra_labels: vec![],
        draining: false,
        joined_at: NOW,
    }
}

fn spec(name: &str, replicas: u32) -> ServiceSpec {
    let text = format!(
        "name = \"{name}\"\nreplicas = {replicas}\n[[components]]\nname = \"a\"\ncmd = [\"/bin/true\"]\n"
    );
    weft_config::service::parse(&text, "f").expect("parses").spec
}

fn service(name: &str, replicas: u32) -> ServiceRecord {
    ServiceRecord {
        name: name.into(),
        revision: 1,
        spec: spec(name, replicas),
        active: true,
        desired: vec![],
        epochs: vec![],
        undeployed: false,
        rollout: None,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn place(service: &str, replica: u32, on: u128, previous: Option<u128>) -> Placement {
    Placement {
        service: service.into(),
        replica,
        node: id(on),
        generation: 1,
        at: NOW,
        reason: String::new(),
        previous: previous.map(|n| Previous { node: id(n), lost: false }),
    }
}

/// web has two replicas, data one; what is where is said by the test.
fn state(placements: Vec<Placement>) -> StateView {
    StateView {
        services: vec![service("data", 1), service("web", 2)],
        placements,
        nodes: (1..=3).map(node).collect(),
        ..StateView::default()
    }
}

fn moves(service: &str, replica: u32) -> PlacementPlan {
    let step = PlannedMove {
        service: service.into(),
        replica,
        from: Some(id(2)),
        to: Some(id(3)),
        reason: String::new(),
    };
    PlacementPlan { moves: vec![step], ..PlacementPlan::default() }
}

fn stays(service: &str, replica: u32) -> PlacementPlan {
    let wait = (service.to_owned(), replica, "stays on n2: its data is there".to_owned());
    PlacementPlan { waiting: vec![wait], ..PlacementPlan::default() }
}

fn row() -> NodeRow {
    NodeRow {
        name: "n2".into(),
        id: id(2),
        state: NodeState::Draining,
        role: NodeRole::Voter,
        address: String::new(),
        version: String::new(),
        zone: String::new(),
        last_seen_ms: None,
        rtt_us: None,
        components: 1,
        reason: String::new(),
    }
}

fn texts(lines: &[Line]) -> String {
    lines.iter().map(|line| line.text.trim()).collect::<Vec<_>>().join("; ")
}

#[test]
fn each_replica_is_named_as_it_moves_and_the_drain_is_over_when_none_is_kept_there() {
    let mut drain = Evacuation::new(id(2), None);
    let lines = drain.look(
        &state(vec![place("web", 1, 1, None), place("web", 2, 2, None)]),
        Some(&moves("web", 2)),
    );
    assert!(lines.is_empty() && !drain.is_over(), "{lines:?}");
    // It has its new place; the old copy is kept until the new one is healthy.
    let moving = state(vec![place("web", 1, 1, None), place("web", 2, 3, Some(2))]);
    let lines = drain.look(&moving, None);
    assert_eq!(texts(&lines), "web/2: moves to n3");
    assert!(!lines[0].result && !drain.is_over());
    assert!(drain.look(&moving, None).is_empty(), "said once");
    let moved = state(vec![place("web", 1, 1, None), place("web", 2, 3, None)]);
    let lines = drain.look(&moved, None);
    assert!(lines[0].result && texts(&lines) == "web/2: moved to n3", "{lines:?}");
    assert!(drain.is_over());
    let view = drain.view(&row(), &moved, false);
    assert_eq!(view.moved, [MovedView { service: "web".into(), replica: 2, to: "n3".into() }]);
    assert!(view.staying.is_empty() && view.left.is_empty());
    assert!(verdict(&view).is_ok());
}

#[test]
fn what_cannot_move_is_named_with_its_reason_and_ends_with_6() {
    let mut drain = Evacuation::new(id(2), None);
    let state = state(vec![place("data", 1, 2, None)]);
    drain.look(&state, Some(&stays("data", 1)));
    assert!(drain.is_over());
    let error = verdict(&drain.view(&row(), &state, false)).expect_err("stays");
    assert_eq!((error.exit, error.code), (Exit::Partial, "partial"));
    let text = error.to_string();
    for part in ["data/1", "its data is there", "weft node undrain n2"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error = cannot_leave(&drain.view(&row(), &state, false));
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.to_string().contains("--force"), "{error}");
}

#[test]
fn without_a_leader_to_say_why_nothing_counts_as_staying() {
    let mut drain = Evacuation::new(id(2), None);
    let state = state(vec![place("data", 1, 2, None)]);
    drain.look(&state, None);
    assert!(!drain.is_over());
    let error = verdict(&drain.view(&row(), &state, true)).expect_err("timeout");
    assert_eq!(error.exit, Exit::Timeout);
    assert!(error.to_string().contains("data/1"), "{error}");
    let error = cannot_leave(&drain.view(&row(), &state, true));
    assert!(error.exit == Exit::Timeout && error.to_string().contains("undrain"), "{error}");
}

#[test]
fn a_replica_without_a_place_is_on_its_way_while_it_is_wanted() {
    let mut drain = Evacuation::new(id(2), None);
    let mut before = state(vec![place("web", 2, 2, None), place("data", 1, 2, None)]);
    drain.look(&before, Some(&moves("web", 2)));
    before.placements.clear();
    let lines = drain.look(&before, None);
    assert_eq!(drain.left().len(), 2, "{lines:?}");
    // One is undeployed meanwhile, of the other fewer replicas are wanted.
    before.services[0].undeployed = true;
    before.services[1].spec.replicas = 1;
    let lines = drain.look(&before, None);
    assert!(drain.is_over() && texts(&lines).contains("not wanted any more"), "{lines:?}");
}

#[test]
fn a_node_without_work_is_drained_at_once() {
    let mut drain = Evacuation::new(id(2), None);
    assert!(drain.look(&state(vec![place("web", 1, 1, None)]), None).is_empty());
    assert!(drain.is_over());
}

#[test]
fn what_had_left_before_the_first_look_is_told_and_what_is_on_its_way_is_waited_for() {
    let mut drain = Evacuation::new(id(2), Some(9));
    let moving = place("web", 1, 3, Some(2));
    let mut now = state(vec![moving.clone(), place("web", 2, 1, None)]);
    let key = |replica| ReplicaKey { service: "web".into(), replica };
    now.operations = vec![Operation {
        id: 9,
        kind: OperationKind::Drain,
        service: String::new(),
        component: String::new(),
        node: Some(id(2)),
        node_name: "n2".into(),
        replicas: vec![key(1), key(2)],
        on: vec![id(2)],
        revision: 0,
        caller: "ann".into(),
        owner: id(1),
        started: NOW,
        finished: None,
    }];
    drain.look(&now, None);
    assert_eq!(drain.left(), [&key(1)], "it has not arrived");
    now.placements[0].previous = None;
    drain.look(&now, None);
    assert!(drain.is_over());
    assert_eq!(drain.replicas.len(), 2);
    // Also without the operation, as when it was draining already.
    let mut drain = Evacuation::new(id(2), None);
    drain.look(&state(vec![moving]), None);
    assert!(!drain.is_over());
}
