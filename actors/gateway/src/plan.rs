//! What a definition would change: compared with desired state and with what runs, by pure rules.

use std::collections::BTreeMap;

use weft_protocol::{
    ComponentKey, ComponentState, ComponentStatus, DeployOptions, PlanAction, PlanItem,
    PlanPlacement, ServiceRecord, ServiceSpec, StateView, changed_fields, changed_service_fields,
    spec_hash,
};
use weft_wire::{AskError, NodeId};

use crate::around::{Asker, Member, NODE_TIMEOUT};
use crate::rows::node_name;

/// What is known of each node that answered, and why the others did not.
pub(crate) type Answers = [(Member, Result<Vec<ComponentStatus>, AskError>)];

/// The plan, by service, replica and component. `problems`: what each node says would go wrong,
/// by component name.
pub(crate) fn plan(
    spec: &ServiceSpec,
    options: &DeployOptions,
    state: &StateView,
    answers: &Answers,
    places: &Places,
) -> Vec<PlanItem> {
    let record = state.service(&spec.name).filter(|record| !record.undeployed);
    let meant = |component: &str| options.component.is_empty() || options.component == component;
    let (places, waiting) = (&places.at, &places.waiting);
    let old_places: BTreeMap<u32, NodeId> = state
        .placements
        .iter()
        .filter(|place| place.service == spec.name && record.is_some())
        .map(|place| (place.replica, place.node))
        .collect();
    let mut items = Vec::new();
    for (replica, node) in places {
        for component in spec.components.iter().filter(|c| meant(&c.name)) {
            let key = ComponentKey {
                service: spec.name.clone(),
                replica: *replica,
                component: component.name.clone(),
            };
            let mut item = PlanItem {
                service: key.service.clone(),
                replica: key.replica,
                component: key.component.clone(),
                node: node.map_or_else(String::new, |node| node_name(state, node)),
                action: PlanAction::Create,
                changed: Vec::new(),
                problem: String::new(),
            };
            let Some(node) = node else {
                item.problem = waiting.get(replica).cloned().unwrap_or_else(|| {
                    if spec.node.is_empty() || state.nodes.iter().any(|n| n.name == spec.node) {
                        "there is no node to place it on".into()
                    } else {
                        format!(
                            "it is pinned to `{}`, which is not a node of this cluster",
                            spec.node
                        )
                    }
                });
                items.push(item);
                continue;
            };
            let moved = old_places.get(replica).is_some_and(|old| old != node);
            let live = live(answers, *node, &key, &mut item.problem);
            let old = record.and_then(|r| Some((r, r.spec.component(&component.name)?)));
            match (old, moved) {
                (Some((record, old)), false) => {
                    let (action, changed) = compare(spec, component, record, old, live);
                    (item.action, item.changed) = (action, changed);
                }
                (Some(_), true) => item.changed.push("node".into()),
                (None, _) => {}
            }
            items.push(item);
        }
    }
    // What is there and would not be any more.
    if let Some(record) = record {
        for (replica, node) in &old_places {
            for component in record.spec.components.iter().filter(|c| meant(&c.name)) {
                let stays = places.get(replica).copied().flatten() == Some(*node)
                    && (spec.component(&component.name).is_some() || !options.component.is_empty());
                if !stays {
                    items.push(PlanItem {
                        service: spec.name.clone(),
                        replica: *replica,
                        component: component.name.clone(),
                        node: node_name(state, *node),
                        action: PlanAction::Remove,
                        changed: Vec::new(),
                        problem: String::new(),
                    });
                }
            }
        }
    }
    let key = |item: &PlanItem| (item.replica, item.component.clone(), item.node.clone());
    items.sort_by_cached_key(key);
    items
}

/// The status of a component on its node, or the problem that keeps one from knowing.
fn live<'a>(
    answers: &'a Answers,
    node: NodeId,
    key: &ComponentKey,
    problem: &mut String,
) -> Option<Option<&'a ComponentStatus>> {
    match answers.iter().find(|(member, _)| member.id == node) {
        Some((_, Ok(list))) => Some(list.iter().find(|status| status.key == *key)),
        Some((member, Err(error))) => {
            *problem = format!("{} does not answer: {error}", member.name);
            None
        }
        None => {
            *problem = "its node is not known here".into();
            None
        }
    }
}

/// `live`: `None` when its node is silent, `Some(None)` when it has nothing of that name.
fn compare(
    spec: &ServiceSpec,
    component: &weft_protocol::ComponentSpec,
    record: &ServiceRecord,
    old: &weft_protocol::ComponentSpec,
    live: Option<Option<&ComponentStatus>>,
) -> (PlanAction, Vec<String>) {
    let mut changed: Vec<String> =
        changed_fields(old, component).into_iter().map(str::to_owned).collect();
    let new_hash = spec_hash(spec, component);
    let replaced = match live {
        Some(Some(status)) if !status.spec_hash.is_empty() => status.spec_hash != new_hash,
        _ => spec_hash(&record.spec, old) != new_hash,
    };
    if replaced && changed.is_empty() {
        // Something of the service that its components depend on.
        changed = changed_service_fields(&record.spec, spec)
            .into_iter()
            .filter(|field| matches!(*field, "version" | "files"))
            .map(str::to_owned)
            .collect();
    }
    let there = match live {
        Some(status) => status.is_some_and(|status| status.state != ComponentState::Removed),
        None => true,
    };
    let running = live.flatten().is_some_and(|status| {
        matches!(
            status.state,
            ComponentState::Running | ComponentState::Starting | ComponentState::Exited
        )
    });
    let action = if !spec.active {
        if running { PlanAction::Stop } else { PlanAction::Keep }
    } else if !there {
        PlanAction::Create
    } else if replaced || !changed.is_empty() {
        PlanAction::Recreate
    } else {
        PlanAction::Keep
    };
    (action, changed)
}

/// Where each replica of a definition would be, and why one would not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Every replica, from 1.
    pub(crate) at: BTreeMap<u32, Option<NodeId>>,
    /// Replica and reason.
    pub(crate) waiting: BTreeMap<u32, String>,
}

/// Asks who leads where the replicas would go. While nobody leads, what is placed stays, and
/// nothing else is known.
pub(crate) async fn places(asker: &Asker, spec: &ServiceSpec, state: &StateView) -> Places {
    let question = PlanPlacement { lost: Vec::new(), spec: Some(Box::new(spec.clone())) };
    let planned = asker.ask(question, NODE_TIMEOUT).await;
    let replicas = 1..=spec.replicas.min(10_000);
    let mut places = Places::default();
    match planned {
        Ok(plan) => {
            let at = |replica: u32| {
                let of =
                    |place: &&(String, u32, NodeId)| place.0 == spec.name && place.1 == replica;
                plan.places.iter().find(of).map(|place| place.2)
            };
            places.at = replicas.map(|replica| (replica, at(replica))).collect();
            let waits = plan.waiting.into_iter().filter(|wait| wait.0 == spec.name);
            places.waiting = waits.map(|(_, replica, reason)| (replica, reason)).collect();
        }
        Err(error) => {
            for replica in replicas {
                let of = |place: &&weft_protocol::Placement| {
                    place.service == spec.name && place.replica == replica
                };
                let node = state.placements.iter().find(of).map(|place| place.node);
                if node.is_none() {
                    places
                        .waiting
                        .insert(replica, format!("where it would go is not known: {error}"));
                }
                places.at.insert(replica, node);
            }
        }
    }
    places
}

#[cfg(test)]
mod tests;
