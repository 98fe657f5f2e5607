//! Plans: what is created, kept, replaced, removed, and where.

use proptest::prelude::*;

use super::*;
use crate::rows::tests::{component, key, member, node, node_id, spec, state, status};

fn running(n: u32, spec: &ServiceSpec) -> ComponentStatus {
    let mut status = status(key("web", n, "api"), ComponentState::Running);
    status.spec_hash = spec_hash(spec, &spec.components[0]);
    status
}

fn answers(spec: &ServiceSpec) -> Vec<(Member, Result<Vec<ComponentStatus>, AskError>)> {
    (1..=3).map(|n| (member(n), Ok(vec![running(n, spec)]))).collect()
}

fn actions(items: &[PlanItem]) -> Vec<(u32, &str, PlanAction)> {
    items.iter().map(|item| (item.replica, item.node.as_str(), item.action)).collect()
}

#[test]
fn the_same_definition_keeps_everything() {
    let spec = spec("web", 3, &["api"]);
    let items = plan(&spec, &DeployOptions::default(), &state(), &answers(&spec));
    assert!(items.iter().all(|item| item.action == PlanAction::Keep && item.problem.is_empty()));
    assert_eq!(items.len(), 3);
}

#[test]
fn a_changed_component_is_replaced_and_its_fields_are_named() {
    let old = spec("web", 3, &["api"]);
    let mut new = old.clone();
    new.components[0].env.push(("A".into(), "1".into()));
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&old));
    assert!(items.iter().all(|item| item.action == PlanAction::Recreate));
    assert_eq!(items[0].changed, ["env"]);
    new = old.clone();
    new.version = "2.0".into();
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&old));
    assert_eq!(items[0].changed, ["version"]);
}

#[test]
fn what_is_not_there_is_created_and_what_is_no_longer_wanted_removed() {
    let old = spec("web", 3, &["api"]);
    let mut new = spec("web", 2, &["db"]);
    new.components.push(component("api"));
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&old));
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
    let items = plan(&spec("web", 3, &["api", "db"]), &options, &state(), &[]);
    assert!(items.iter().all(|item| item.component == "db" && item.action == PlanAction::Create));
    assert_eq!(items.len(), 3);
}

#[test]
fn a_stopped_definition_stops_what_runs() {
    let mut new = spec("web", 3, &["api"]);
    let answers = answers(&new);
    new.active = false;
    let items = plan(&new, &DeployOptions::default(), &state(), &answers);
    assert!(items.iter().all(|item| item.action == PlanAction::Stop));
}

#[test]
fn a_silent_node_is_a_problem_of_its_rows_only() {
    let spec = spec("web", 3, &["api"]);
    let mut answers = answers(&spec);
    answers[1].1 = Err(AskError::Timeout);
    let items = plan(&spec, &DeployOptions::default(), &state(), &answers);
    let problems: Vec<_> = items.iter().map(|item| item.problem.is_empty()).collect();
    assert_eq!(problems, [true, false, true]);
    assert_eq!(items[1].action, PlanAction::Keep, "as far as agreed state knows");
}

#[test]
fn a_pin_to_a_node_that_is_not_there_is_a_problem() {
    let mut new = spec("web", 1, &["api"]);
    new.node = "n9".into();
    let items = plan(&new, &DeployOptions::default(), &state(), &[]);
    assert!(items[0].problem.contains("`n9`"), "{}", items[0].problem);
    new.node = "n2".into();
    let items = plan(&new, &DeployOptions::default(), &state(), &answers(&new));
    assert_eq!(items.iter().filter(|item| item.action == PlanAction::Remove).count(), 3);
    assert!(actions(&items).contains(&(1, "n2", PlanAction::Create)));
}

proptest! {
    #[test]
    fn replicas_are_spread_evenly_and_stay_where_they_are(
        nodes in 1u32..6, before in 0u32..8, after in 1u32..12,
    ) {
        let mut view = state();
        view.nodes = (1..=nodes).map(|n| node(node_id(n), &format!("n{n}"))).collect();
        view.services.clear();
        view.placements.clear();
        let mut new = spec("web", before.max(1), &["api"]);
        let first = place(&new, &view);
        view.placements = first.iter()
            .filter_map(|(n, id)| Some(crate::rows::tests::placement("web", *n, (*id)?)))
            .collect();
        new.replicas = after;
        let second = place(&new, &view);
        prop_assert_eq!(second.len(), after as usize);
        for (replica, node) in &second {
            prop_assert!(node.is_some());
            if let Some(old) = first.get(replica) {
                prop_assert_eq!(old, node);
            }
        }
        let mut load: HashMap<NodeId, u32> = HashMap::new();
        for id in second.values().flatten() {
            *load.entry(*id).or_default() += 1;
        }
        let (most, least) = (load.values().max().copied().unwrap_or(0),
            if load.len() < nodes as usize { 0 } else { load.values().min().copied().unwrap_or(0) });
        prop_assert!(most - least <= 1, "{load:?}");
    }
}
