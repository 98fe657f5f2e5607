//! Plans: what is created, kept, replaced, removed, and where.

use super::*;
use crate::rows::tests::{component, key, member, node_id, spec, state, status};

fn running(n: u32, spec: &ServiceSpec) -> ComponentStatus {
    let mut status = status(key("web", n, "api"), ComponentState::Running);
    status.spec_hash = spec_hash(spec, &spec.components[0]);
    status
}

fn answers(spec: &ServiceSpec) -> Vec<(Member, Result<Vec<ComponentStatus>, AskError>)> {
    (1..=3).map(|n| (member(n), Ok(vec![running(n, spec)]))).collect()
}

/// Where the placer would put it: as it is, pinned, or one replica per node.
fn places(spec: &ServiceSpec) -> Places {
    let pin = (1..=3).find(|n| spec.node == format!("n{n}")).map(node_id);
    let at = |replica: u32| {
        if spec.node.is_empty() { Some(node_id(replica)) } else { pin }
    };
    Places {
        at: (1..=spec.replicas).map(|replica| (replica, at(replica))).collect(),
        waiting: BTreeMap::new(),
    }
}

fn actions(items: &[PlanItem]) -> Vec<(u32, &str, PlanAction)> {
    items.iter().map(|item| (item.replica, item.node.as_str(), item.action)).collect()
}

#[test]
fn the_same_definition_keeps_everything() {
    let spec = spec("web", 3, &["api"]);
    let items = plan(&spec, &DeployOptions::default(), &state(), &answers(&spec), &places(&spec));
    assert!(items.iter().all(|item| item.action == PlanAction::Keep && item.problem.is_empty()));
    assert_eq!(items.len(), 3);
}

#[test]
fn a_changed_component_is_replaced_and_its_fields_are_named() {
    let old = spec("web", 3, &["api"]);
    let mut new = old.clone();
    new.components[0].env.push(("A".into(), "1".into()));
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&old), &places(&new));
    assert!(items.iter().all(|item| item.action == PlanAction::Recreate));
    assert_eq!(items[0].changed, ["env"]);
    new = old.clone();
    new.version = "2.0".into();
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&old), &places(&new));
    assert_eq!(items[0].changed, ["version"]);
}

#[test]
fn what_is_not_there_is_created_and_what_is_no_longer_wanted_removed() {
    let old = spec("web", 3, &["api"]);
    let mut new = spec("web", 2, &["db"]);
    new.components.push(component("api"));
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&old), &places(&new));
    let seen: Vec<_> =
        items.iter().map(|item| (item.replica, item.component.as_str(), item.action)).collect();
    assert_eq!(
        seen,
        [
            (1, "api", PlanAction::Keep),
            (1, "db", PlanAction::Create),
            (2, "api", PlanAction::Keep),
            (2, "db", PlanAction::Create),
            (3, "api", PlanAction::Remove),
        ]
    );
}

#[test]
fn one_component_leaves_the_others_out_of_the_plan() {
    let options = DeployOptions { component: "db".into(), ..DeployOptions::default() };
    let spec = spec("web", 3, &["api", "db"]);
    let items = plan(&spec, &options, &state(), &[], &places(&spec));
    assert!(items.iter().all(|item| item.component == "db" && item.action == PlanAction::Create));
    assert_eq!(items.len(), 3);
}

#[test]
fn a_stopped_definition_stops_what_runs() {
    let mut new = spec("web", 3, &["api"]);
    let answers = answers(&new);
    new.active = false;
    let items = plan(&new, &DeployOptions::default(), &state(), &answers, &places(&new));
    assert!(items.iter().all(|item| item.action == PlanAction::Stop));
}

#[test]
fn a_silent_node_is_a_problem_of_its_rows_only() {
    let spec = spec("web", 3, &["api"]);
    let mut answers = answers(&spec);
    answers[1].1 = Err(AskError::Timeout);
    let items = plan(&spec, &DeployOptions::default(), &state(), &answers, &places(&spec));
    let problems: Vec<_> = items.iter().map(|item| item.problem.is_empty()).collect();
    assert_eq!(problems, [true, false, true]);
    assert_eq!(items[1].action, PlanAction::Keep, "as far as agreed state knows");
}

#[test]
fn a_pin_to_a_node_that_is_not_there_is_a_problem() {
    let mut new = spec("web", 1, &["api"]);
    new.node = "n9".into();
    let items = plan(&new, &DeployOptions::default(), &state(), &[], &places(&new));
    assert!(items[0].problem.contains("`n9`"), "{}", items[0].problem);
    new.node = "n2".into();
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&new), &places(&new));
    assert_eq!(items.iter().filter(|item| item.action == PlanAction::Remove).count(), 3);
    assert!(actions(&items).contains(&(1, "n2", PlanAction::Create)));
}

#[test]
fn a_replica_that_would_wait_says_why() {
    let spec = spec("web", 3, &["api"]);
    let mut places = places(&spec);
    places.at.insert(3, None);
    places.waiting.insert(3, "no room: needs 2 GiB".into());
    let items = plan(&spec, &DeployOptions::default(), &state(), &answers(&spec), &places);
    let waits = items.iter().find(|item| item.replica == 3 && item.node.is_empty());
    assert_eq!(waits.map(|item| item.problem.as_str()), Some("no room: needs 2 GiB"));
}
