//! Rows from answers: pure, so that what a silent node looks like is decided in one place.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use weft_protocol::{
    CommandRef, ComponentKey, ComponentRow, ComponentState, ComponentStatus, Desired, Drift,
    DriftKind, Event, ForeignRow, Health, NodeRecord, NodeReply, ObservedState, Oddities,
    Placement, PlanPlacement, PsReply, ServiceRow, ServiceSpec, StateView, one_machine,
};
use weft_wire::{AskError, Failure, FailureKind, NodeId, WallTime};

use crate::around::{Asker, Member, NODE_TIMEOUT};

/// No definition has more replicas than this; guards loops over a number from a file.
const MOST_REPLICAS: u32 = 10_000;

/// What nodes are told and do is settled by then.
const SETTLED: Duration = Duration::from_secs(5);

/// A component as desired state has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) key: ComponentKey,
    /// `None`: not placed.
    pub(crate) node: Option<NodeId>,
    pub(crate) desired: Desired,
    pub(crate) revision: u64,
    pub(crate) version: String,
    /// When it was placed, or the service last changed.
    pub(crate) at: WallTime,
    /// Why nothing runs where it is placed: its node was removed, or it waits for the end of the
    /// copy that it replaces. Empty: something should.
    pub(crate) why: String,
}

/// Why replicas have no place: by service and replica.
pub(crate) type Nowhere = BTreeMap<(String, u32), String>;

/// Asks the leader's placer, if there is a replica without a place. Nothing without a leader.
pub(crate) async fn nowhere(asker: &Asker, state: Result<&StateView, &AskError>) -> Nowhere {
    let homeless = |wanted: &Wanted| wanted.node.is_none() && wanted.why.is_empty();
    if !state.is_ok_and(|state| wanted(state, None).iter().any(homeless)) {
        return Nowhere::new();
    }
    let question = PlanPlacement { lost: Vec::new(), spec: None };
    let plan = asker.ask(question, NODE_TIMEOUT).await;
    let waiting = plan.map(|plan| plan.waiting).unwrap_or_default();
    waiting.into_iter().map(|(service, replica, why)| ((service, replica), why)).collect()
}

/// Whether a component is meant.
pub(crate) fn is_meant(target: Option<&CommandRef>, key: &ComponentKey) -> bool {
    target.is_none_or(|target| {
        target.service == key.service
            && (target.component.is_empty() || target.component == key.component)
    })
}

/// Every component of desired state, undeployed services aside.
pub(crate) fn wanted(state: &StateView, target: Option<&CommandRef>) -> Vec<Wanted> {
    let places: BTreeMap<(&str, u32), &Placement> = state
        .placements
        .iter()
        .map(|place| ((place.service.as_str(), place.replica), place))
        .collect();
    let known: BTreeMap<NodeId, &NodeRecord> =
        state.nodes.iter().map(|node| (node.id, node)).collect();
    let mut all = Vec::new();
    for service in state.services.iter().filter(|service| !service.undeployed) {
        for replica in 1..=service.replicas().min(MOST_REPLICAS) {
            let version = service.version_of(replica);
            let place = places.get(&(service.name.as_str(), replica)).copied();
            let why = place.map_or_else(String::new, |place| idle(place, &service.spec, &known));
            for component in &version.spec.components {
                let key = ComponentKey {
                    service: service.name.clone(),
                    replica,
                    component: component.name.clone(),
                };
                if !is_meant(target, &key) {
                    continue;
                }
                let shown = component.shown_version();
                all.push(Wanted {
                    key,
                    node: place.map(|place| place.node),
                    desired: service.desired_of(&component.name),
                    revision: version.revision,
                    version: if shown.is_empty() { version.spec.version.clone() } else { shown },
                    at: place.map_or(service.updated_at, |place| place.at),
                    why: why.clone(),
                });
            }
        }
    }
    all
}

/// Why nothing runs at a replica's place.
fn idle(place: &Placement, spec: &ServiceSpec, nodes: &BTreeMap<NodeId, &NodeRecord>) -> String {
    let Some(node) = nodes.get(&place.node) else {
        let name = &spec.name;
        return format!(
            "{}: `weft undeploy {name}` and deploying it again starts it without data",
            place.reason
        );
    };
    let old = place.previous.and_then(|previous| nodes.get(&previous.node));
    let same = old.is_some_and(|old| one_machine(&old.address, &node.address));
    match (place.part(place.node, spec, same), old) {
        (None, Some(old)) => format!("starts when its copy on {} has stopped", old.name),
        _ => String::new(),
    }
}

/// A row without a live status behind it.
pub(crate) fn unseen(
    wanted: &Wanted,
    node: &str,
    state: ComponentState,
    reason: String,
) -> ComponentRow {
    ComponentRow {
        node: node.to_owned(),
        status: ComponentStatus {
            key: wanted.key.clone(),
            desired: wanted.desired,
            state,
            health: Health::Unknown,
            pid: 0,
            version: wanted.version.clone(),
            revision: wanted.revision,
            spec_hash: String::new(),
            epoch: 0,
            restarts: 0,
            started_at: None,
            since: wanted.at,
            last_exit: String::new(),
            reason,
            ports: Vec::new(),
            urls: Vec::new(),
            driver: weft_protocol::Driver::Process,
            image: String::new(),
            digest: String::new(),
            container: String::new(),
            limits: String::new(),
            refused: 0,
        },
    }
}

/// Live rows of the nodes that answered, and rows of desired state for what nobody could tell.
pub(crate) fn ps(
    state: Result<&StateView, &AskError>,
    here: &str,
    answers: &[(Member, Result<Vec<ComponentStatus>, AskError>)],
    target: Option<&CommandRef>,
    nowhere: &Nowhere,
) -> PsReply {
    let mut rows = Vec::new();
    let mut nodes = Vec::new();
    let mut live: HashSet<(NodeId, &ComponentKey)> = HashSet::new();
    for (member, answer) in answers {
        let mut error = String::new();
        match answer {
            Ok(statuses) => {
                for status in statuses.iter().filter(|status| is_meant(target, &status.key)) {
                    live.insert((member.id, &status.key));
                    rows.push(ComponentRow { node: member.name.clone(), status: status.clone() });
                }
            }
            Err(why) => error = why.to_string(),
        }
        if let (Err(why), true) = (state, member.name == here && error.is_empty()) {
            error = format!("desired state is not readable: {why}");
        }
        nodes.push(NodeReply { node: member.name.clone(), error });
    }
    for wanted in state.map(|state| wanted(state, target)).unwrap_or_default() {
        let Some(node) = wanted.node else {
            let of = (wanted.key.service.clone(), wanted.key.replica);
            let reason = match nowhere.get(&of) {
                Some(why) => format!("waits for a node it can be placed on: {why}"),
                None => "waits for a node it can be placed on".to_owned(),
            };
            rows.push(unseen(&wanted, "", ComponentState::Waiting, reason));
            continue;
        };
        match answers.iter().find(|(member, _)| member.id == node) {
            Some((member, Err(why))) => {
                let reason = format!("{} does not answer: {why}", member.name);
                rows.push(unseen(&wanted, &member.name, ComponentState::Unknown, reason));
            }
            Some((member, Ok(_))) if !live.contains(&(node, &wanted.key)) => {
                let (state, reason) = if wanted.why.is_empty() {
                    let reason = format!("{} has not taken it up yet", member.name);
                    (ComponentState::Pending, reason)
                } else {
                    (ComponentState::Waiting, wanted.why.clone())
                };
                rows.push(unseen(&wanted, &member.name, state, reason));
            }
            Some(_) => {}
            None if !wanted.why.is_empty() => {
                let reason = wanted.why.clone();
                rows.push(unseen(&wanted, "", ComponentState::Waiting, reason));
            }
            None => {
                let reason = "its node is not known here".to_owned();
                rows.push(unseen(&wanted, &node.to_string(), ComponentState::Unknown, reason));
            }
        }
    }
    sort_rows(&mut rows);
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    PsReply { rows, nodes, foreign: Vec::new() }
}

/// Containers that are not Weft's, each once: nodes of one machine share its engine.
pub(crate) fn foreign(
    answers: Vec<(Member, Result<Oddities, AskError>)>,
) -> Vec<(String, ForeignRow)> {
    let mut seen = HashSet::new();
    let mut all: Vec<(String, ForeignRow)> = answers
        .into_iter()
        .filter_map(|(member, answer)| Some((member.name, answer.ok()?.foreign)))
        .flat_map(|(node, rows)| rows.into_iter().map(move |row| (node.clone(), row)))
        .filter(|(_, row)| seen.insert(row.id.clone()))
        .collect();
    all.sort_by(|a, b| (&a.1.name, &a.0).cmp(&(&b.1.name, &b.0)));
    all
}

/// What is recorded where it does not run, or runs where it is not recorded, for longer than that
/// takes (orchestration §4, drift of kind `placement`). Pure.
pub(crate) fn misplaced(state: &StateView, rows: &[ComponentRow], now: WallTime) -> Vec<Drift> {
    rows.iter()
        .filter(|row| now.since(row.status.since) >= SETTLED && !row.node.is_empty())
        .filter_map(|row| {
            let (key, status) = (&row.status.key, &row.status);
            let place = state
                .placements
                .iter()
                .find(|place| place.service == key.service && place.replica == key.replica);
            // One that is being stopped may take as long as it was given.
            let stops = status.state == ComponentState::Stopping
                && now.since(status.since) < stop_grace(state, key) + SETTLED;
            let runs = (status.pid != 0 || !status.container.is_empty()) && !stops;
            let (desired, reason) = match place {
                Some(_) if status.state == ComponentState::Pending => {
                    (status.desired, format!("placed on {}, which does not run it", row.node))
                }
                Some(place) if runs => {
                    let on = node_name(state, place.node);
                    let from = place.previous.map(|previous| node_name(state, previous.node));
                    let late = status.state == ComponentState::Stopping;
                    if on == row.node || from.as_ref() == Some(&row.node) && !late {
                        return None;
                    }
                    (Desired::Stopped, format!("runs on {}, and is placed on {on}", row.node))
                }
                None if runs => {
                    (Desired::Stopped, format!("runs on {}, and is placed nowhere", row.node))
                }
                _ => return None,
            };
            Some(Drift {
                kind: DriftKind::Placement,
                node: row.node.clone(),
                service: key.service.clone(),
                replica: key.replica,
                component: key.component.clone(),
                desired,
                observed: status.state.observed(),
                reason,
                since: status.since,
            })
        })
        .collect()
}

/// How long it may take to stop.
fn stop_grace(state: &StateView, key: &ComponentKey) -> Duration {
    let spec = state.service(&key.service).map(|record| record.version_of(key.replica).spec);
    spec.and_then(|spec| spec.component(&key.component))
        .map_or(Duration::from_secs(10), |component| component.stop_grace)
}

/// By service, replica, component and node.
pub(crate) fn sort_rows(rows: &mut [ComponentRow]) {
    rows.sort_by(|a, b| (&a.status.key, &a.node).cmp(&(&b.status.key, &b.node)));
}

/// By service, replica, component and node.
pub(crate) fn sort_drift(drift: &mut [Drift]) {
    let key = |d: &Drift| (d.service.clone(), d.replica, d.component.clone(), d.node.clone());
    drift.sort_by_cached_key(key);
}

/// Events of several nodes in the order of time, each once, only the newest `limit`.
pub(crate) fn merge_events(lists: Vec<Vec<Event>>, limit: usize) -> Vec<Event> {
    let mut all: Vec<Event> = lists.into_iter().flatten().collect();
    all.sort_by(|a, b| (a.time, &a.node, a.id).cmp(&(b.time, &b.node, b.id)));
    let mut ids = HashSet::with_capacity(all.len());
    all.retain(|event| ids.insert(event.id));
    let surplus = all.len().saturating_sub(limit);
    all.drain(..surplus);
    all
}

/// Desired state as `list` shows it (orchestration §7).
pub(crate) fn services(
    state: &StateView,
    observed: impl Fn(NodeId, &ComponentKey) -> ObservedState,
) -> Vec<ServiceRow> {
    wanted(state, None)
        .into_iter()
        .map(|wanted| ServiceRow {
            observed: wanted.node.map_or(ObservedState::Unknown, |n| observed(n, &wanted.key)),
            node: wanted.node.map_or_else(String::new, |node| node_name(state, node)),
            service: wanted.key.service,
            component: wanted.key.component,
            replica: wanted.key.replica,
            desired: wanted.desired,
            version: wanted.version,
            revision: wanted.revision,
        })
        .collect()
}

/// The node's name; its id when it is not known.
pub(crate) fn node_name(state: &StateView, id: NodeId) -> String {
    state
        .nodes
        .iter()
        .find(|node| node.id == id)
        .map_or_else(|| id.to_string(), |node| node.name.clone())
}

/// The refusal of a service that is not there.
pub(crate) fn unknown_service(state: &StateView, name: &str) -> AskError {
    let known = list(state.services.iter().map(|service| service.name.as_str()));
    let help = if known.is_empty() {
        "nothing is deployed yet: `weft deploy <file>`".to_owned()
    } else {
        format!("the services are {known}")
    };
    let text = format!("no service `{name}`");
    AskError::Failed(Failure::new(FailureKind::NotFound, text).service(name).help(help))
}

/// The refusal of a component that its service does not have.
pub(crate) fn unknown_component(spec: &ServiceSpec, component: &str) -> AskError {
    let known = list(spec.components.iter().map(|c| c.name.as_str()));
    let text = format!("service `{}` has no component `{component}`", spec.name);
    AskError::Failed(
        Failure::new(FailureKind::NotFound, text)
            .service(&spec.name)
            .component(component)
            .help(format!("its components are {known}")),
    )
}

/// The refusal of a node that is not in agreed state.
pub(crate) fn unknown_node(state: &StateView, name: &str) -> AskError {
    let known = list(state.nodes.iter().map(|node| node.name.as_str()));
    AskError::Failed(
        Failure::new(FailureKind::NotFound, format!("no node `{name}`"))
            .node(name)
            .help(format!("the nodes are {known}")),
    )
}

/// Whether what a person named is there (orchestration §7): the service, and its component if one
/// is named. What is there but runs nowhere is no error.
pub(crate) fn known(state: &StateView, target: &CommandRef) -> Result<(), AskError> {
    let Some(service) = state.service(&target.service) else {
        return Err(unknown_service(state, &target.service));
    };
    if !target.component.is_empty() && service.spec.component(&target.component).is_none() {
        return Err(unknown_component(&service.spec, &target.component));
    }
    Ok(())
}

/// `a, b, c`, cut after twenty; the words of a refusal are the registry's.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    let mut text = names.iter().take(20).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 20 {
        text.push_str(&format!(" and {} more", names.len() - 20));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
