//! Pins the field names and the columns of agreement.

use serde_json::{Value, json};
use weft_protocol::PlannedMove;

use super::*;
use crate::commands::agreed::tests::{id, view};

fn promises(value: &impl Serialize, names: &str) {
    let Value::Object(map) = serde_json::to_value(value).expect("serialises") else {
        panic!("not an object")
    };
    for name in names.split(", ") {
        assert!(map.contains_key(name), "{name} is missing: {:?}", map.keys());
    }
}

#[test]
fn cluster_status_json_has_the_promised_fields() {
    let view = ClusterView::from(&view(4));
    promises(&view, "leader, term, committed, applied, format, contact_ms, groups, nodes, waiting");
    promises(&view.nodes[0], "name, id, state, role, lag, for_ms, why");
    promises(
        &view.groups[0],
        "name, leader, term, last_log, committed, applied, checkpoint, voters, learners, contact_ms",
    );
    let value = serde_json::to_value(&view).expect("serialises");
    assert_eq!(value["leader"], json!("n1"));
    assert_eq!(value["groups"][0]["voters"], json!(["n1", "n2", "n3"]));
    assert_eq!(value["groups"][0]["learners"], json!(["n4"]));
    assert_eq!(value["nodes"][0]["lag"], Value::Null);
    assert_eq!(value["no_majority"], Value::Null);
}

#[test]
fn cluster_status_shows_groups_nodes_and_what_waits() {
    let text = cluster_text(&ClusterView::from(&view(4)));
    for part in [
        "leader     n1\n",
        "term       3\n",
        "committed  120\n",
        "applied    119\n",
        "contact    with a majority 40ms ago\n",
        "n1,n2,n3  n4",
        "WAITING\nweb/1: waiting for n2",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert!(rows.iter().any(|row| row == &["NODE", "STATE", "ROLE", "LAG", "SINCE", "WHY"]));
    assert!(rows.iter().any(|row| row.starts_with(&["n2", "ready", "voter", "2", "1m5s", "3"])));
    assert!(!text.contains("no majority"));
}

#[test]
fn other_groups_are_listed_and_say_nothing_about_the_cluster() {
    let mut seen = view(4);
    seen.groups.insert(
        0,
        GroupView {
            name: "session/0".into(),
            leader: None,
            term: 9,
            voters: vec![id(2)],
            contact_ms: None,
            ..seen.groups[0].clone()
        },
    );
    let view = ClusterView::from(&seen);
    assert_eq!((view.leader.as_deref(), view.term, &view.no_majority), (Some("n1"), 3, &None));
    let text = cluster_text(&view);
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert!(rows.iter().any(|row| row.starts_with(&["session/0", "-", "9"])), "{text}");
    assert!(rows.iter().any(|row| row.starts_with(&["control", "n1", "3"])), "{text}");
}

#[test]
fn without_a_majority_the_first_line_says_so_and_the_leader_is_only_the_last_one_known() {
    let mut view = view(3);
    view.groups[0].contact_ms = Some(12_000);
    let text = cluster_text(&ClusterView::from(&view));
    assert!(text.starts_with("no majority: read only; what is shown is 12 s old\n"), "{text}");
    assert!(text.contains("n1 (the last one known)"), "{text}");
    view.groups.clear();
    let text = cluster_text(&ClusterView::from(&view));
    assert!(text.contains("leader     -\n"), "{text}");
}

#[test]
fn plan_lost_names_moves_what_waits_and_a_lost_majority() {
    let nodes = [crate::commands::drain_test_node(1), crate::commands::drain_test_node(2)];
    let plan = PlacementPlan {
        moves: vec![PlannedMove {
            service: "web".into(),
            replica: 1,
            from: Some(id(2)),
            to: Some(id(1)),
            reason: "n2 was lost: now on n1 (the only node that fits)".into(),
        }],
        waiting: vec![("data".into(), 1, "waiting for n2".into())],
        places: vec![("web".into(), 1, id(1))],
    };
    let view = LostView::new(vec!["n2".into()], &plan, &nodes, None);
    promises(&view, "lost, moves, waiting, places, no_majority");
    promises(&view.moves[0], "service, replica, from, to, why");
    promises(&view.waiting[0], "service, replica, why");
    let text = lost_text(&view);
    let header = text.lines().next().unwrap_or_default();
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>(),
        ["SERVICE", "REPLICA", "FROM", "TO", "WHY"]
    );
    assert!(text.ends_with("\n\nWAITING\ndata/1: waiting for n2"), "{text}");
    let none = PlacementPlan::default();
    let view = LostView::new(vec!["n2".into()], &none, &nodes, Some("no majority".into()));
    assert_eq!(lost_text(&view), "no majority\nwithout n2 nothing would move");
}

#[test]
fn drain_and_label_json_have_the_promised_fields() {
    let view = DrainView {
        name: "n2".into(),
        id: id(2).to_string(),
        draining: true,
        operation: Some(17),
        moved: vec![MovedView { service: "web".into(), replica: 1, to: "n3".into() }],
        staying: vec![WaitView { service: "data".into(), replica: 1, why: "its data".into() }],
        left: vec![],
        timed_out: false,
        removed: false,
    };
    promises(&view, "name, id, draining, moved, staying, left, timed_out, removed");
    promises(&view.moved[0], "service, replica, to");
    promises(&view.staying[0], "service, replica, why");
    let label = LabelView { name: "n2".into(), id: String::new(), labels: vec![], changed: true };
    promises(&label, "name, id, labels, changed");
}
