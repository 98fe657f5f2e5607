//! Pins the field names and the columns.

use serde_json::{Value, json};
use uuid::Uuid;
use weft_protocol::EventKind;
use weft_protocol::{
    ActorState, ComponentKey, ComponentState, ComponentStatus, Desired, Health, NodeRole,
    ObservedState,
};
use weft_wire::NodeId;

use super::*;

const NOW: WallTime = WallTime::from_micros(1_795_000_000_000_000);

fn row(service: &str, component: &str, replica: u32, node: &str) -> ComponentRow {
    ComponentRow {
        node: node.into(),
        status: ComponentStatus {
            key: ComponentKey { service: service.into(), replica, component: component.into() },
            desired: Desired::Running,
            state: ComponentState::Running,
            health: Health::Healthy,
            pid: 42,
            version: "1.0".into(),
            revision: 7,
            spec_hash: "ab".into(),
            epoch: 0,
            restarts: 2,
            started_at: Some(NOW.minus(Duration::from_secs(139))),
            since: NOW,
            last_exit: String::new(),
            reason: String::new(),
            ports: vec![],
            urls: vec!["http://127.0.0.1:9000".into()],
            driver: weft_protocol::Driver::Process,
            image: String::new(),
            digest: String::new(),
            container: String::new(),
            limits: String::new(),
            refused: 0,
        },
    }
}

fn keys(value: &impl Serialize) -> Vec<String> {
    let Value::Object(map) = serde_json::to_value(value).expect("serialises") else {
        panic!("not an object")
    };
    map.keys().cloned().collect()
}

/// Every promised name is there; others may follow.
fn promises(value: &impl Serialize, names: &str) {
    let keys = keys(value);
    for name in names.split(", ") {
        assert!(keys.iter().any(|k| k == name), "{name} is missing: {keys:?}");
    }
}

fn event() -> Event {
    Event {
        id: Uuid::nil(),
        time: NOW,
        node: "n1".into(),
        service: "web".into(),
        component: "api".into(),
        replica: 2,
        kind: EventKind::Component { from: ComponentState::Running, to: ComponentState::Exited },
        cause: "self".into(),
        exit: "signal 9".into(),
        observer: String::new(),
    }
}

#[test]
fn ps_json_has_the_promised_fields() {
    let view = ComponentView::from(&row("web", "api", 1, "n1"));
    promises(
        &view,
        "service, component, replica, node, state, pid, health, version, revision, restarts, \
         started_at, urls",
    );
    let value = serde_json::to_value(&view).expect("serialises");
    assert_eq!(value["pid"], json!(42));
    assert_eq!(value["state"], json!("running"));
    assert!(value["started_at"].as_str().is_some_and(|t| t.ends_with('Z')));
}

#[test]
fn what_has_no_process_has_a_null_pid_and_start() {
    let mut row = row("web", "api", 1, "n1");
    row.status.pid = 0;
    row.status.started_at = None;
    let value = serde_json::to_value(ComponentView::from(&row)).expect("serialises");
    assert!(value["pid"].is_null() && value["started_at"].is_null());
}

#[test]
fn node_list_json_has_the_promised_fields() {
    let node = NodeRow {
        name: "n1".into(),
        id: NodeId::new(Uuid::nil()),
        state: NodeState::Ready,
        role: NodeRole::Leader,
        address: "127.0.0.1:7443".into(),
        version: "0.1.0".into(),
        zone: String::new(),
        last_seen_ms: None,
        rtt_us: Some(1234),
        components: 1,
        reason: String::new(),
    };
    promises(
        &NodeView::from(&node),
        "name, id, state, role, address, version, last_seen_ms, rtt_us",
    );
    let lines = nodes_table(&[node]).lines();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
        "NAME ADDRESS VERSION ROLE STATUS COMPONENTS LAST-SEEN RTT ZONE"
    );
    assert!(lines[1].contains("1.2ms"), "{}", lines[1]);
}

#[test]
fn a_node_that_is_not_ready_says_why() {
    let node = NodeRow {
        name: "n3".into(),
        id: NodeId::new(Uuid::nil()),
        state: NodeState::Lost,
        role: NodeRole::Voter,
        address: "127.0.0.1:1".into(),
        version: "0.1.0".into(),
        zone: String::new(),
        last_seen_ms: Some(65_000),
        rtt_us: None,
        components: 0,
        reason: "no answer".into(),
    };
    let lines = nodes_table(&[node]).lines();
    assert!(lines[1].contains("lost (no answer)") && lines[1].contains("1m5s"), "{}", lines[1]);
}

#[test]
fn actors_json_has_the_promised_fields() {
    let actor = ActorInfo {
        node: "n1".into(),
        path: "runtime".into(),
        state: ActorState::Running,
        since: NOW.minus(Duration::from_secs(12)),
        restarts: 1,
        mailbox_depth: 0,
        mailbox_capacity: 1024,
        messages: 150,
        dead_letters: 0,
        last_failure: "panicked: chaos".into(),
    };
    promises(
        &ActorView::from(&actor),
        "node, path, state, since, restarts, mailbox_depth, mailbox_capacity, messages, last_failure",
    );
    let earlier = ActorInfo { messages: 100, ..actor.clone() };
    let lines = actors_table(&[actor], &[earlier], Duration::from_millis(500), NOW).lines();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
        "NODE PATH STATE SINCE RESTARTS MAILBOX MSG/S LAST-FAILURE"
    );
    let cells: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(cells[..7], ["n1", "runtime", "running", "12s", "1", "0/1024", "100"]);
}

#[test]
fn events_json_has_the_promised_fields_and_the_exit_status() {
    let view = EventView::from(&event());
    promises(&view, "time, node, service, component, replica, prev_state, new_state, cause, exit");
    assert_eq!(view.exit.as_deref(), Some("signal 9"));
    let line = event_line(&event());
    assert!(
        line.contains("web/api#2") && line.contains("running -> exited  (self, signal 9)"),
        "{line}"
    );
}

#[test]
fn up_json_has_the_promised_fields() {
    let view = UpView {
        cluster: "c".into(),
        context: "/d/weft.toml".into(),
        nodes: vec![UpNodeView {
            name: "n1".into(),
            fabric: "127.0.0.1:1".into(),
            gateway: "http://127.0.0.1:2".into(),
            pid: 3,
            data_dir: "/d/n1".into(),
        }],
        services: vec![UpServiceView { name: "hello".into(), revision: 1, urls: vec![] }],
        dir: "/d".into(),
    };
    promises(&view, "cluster, context, nodes, services");
    promises(&view.nodes[0], "name, fabric, gateway, pid, data_dir");
    promises(&view.services[0], "name, revision, urls");
}

#[test]
fn ps_begins_with_the_columns_of_the_contract_and_is_sorted() {
    let rows = [
        row("web", "worker", 1, "n1"),
        row("web", "api", 2, "n2"),
        row("web", "api", 1, "n1"),
        row("aaa", "z", 1, "n3"),
    ];
    let lines = components_table(&rows, NOW).lines();
    let header: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(header[..6], ["SERVICE", "COMPONENT", "NODE", "STATE", "VERSION", "UPTIME"]);
    let first: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(first[..7], ["web", "api", "n1", "running", "1.0", "2m19s", "1"]);
    let order: Vec<String> = lines[1..]
        .iter()
        .map(|l| l.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(order, ["aaa z n3", "web api n1", "web api n2", "web worker n1"]);
}

#[test]
fn ps_says_why_where_there_is_a_reason_and_has_no_empty_column_otherwise() {
    let fine = row("web", "api", 1, "n1");
    assert!(!components_table(std::slice::from_ref(&fine), NOW).lines()[0].contains("REASON"));
    let mut failed = row("web", "api", 2, "n2");
    failed.status.state = ComponentState::Failed;
    failed.status.reason = "no such program".into();
    let lines = components_table(&[fine, failed], NOW).lines();
    assert!(lines[0].ends_with("REASON") && lines[2].ends_with("no such program"), "{lines:?}");
}

#[test]
fn list_and_drift_have_the_columns_of_the_contract() {
    let header = |table: &Table| table.lines()[0].split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        header(&services_table(&[])).starts_with("SERVICE COMPONENT NODE DESIRED OBSERVED VERSION")
    );
    let drift = Drift {
        kind: weft_protocol::DriftKind::State,
        node: "n1".into(),
        service: "web".into(),
        replica: 1,
        component: "api".into(),
        desired: Desired::Running,
        observed: ObservedState::Exited,
        reason: "ended by itself (exit 1)".into(),
        since: NOW,
    };
    promises(&DriftView::from(&drift), "service, component, desired, observed, reason");
    assert!(drift_table(&[drift]).lines()[1].ends_with("ended by itself (exit 1)"));
}

#[test]
fn plan_actions_have_the_words_of_the_contract() {
    let words: Vec<&str> = [
        PlanAction::Create,
        PlanAction::Recreate,
        PlanAction::Keep,
        PlanAction::Stop,
        PlanAction::Remove,
    ]
    .map(plan_action)
    .to_vec();
    assert_eq!(words, ["create", "recreate", "keep", "stop", "remove"]);
}
