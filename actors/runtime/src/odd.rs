//! Containers that are not as agreed: changed behind Weft's back, without anything of the node's
//! that they are for, or nobody's at all (orchestration §4, §5). In mode `full` what was changed is
//! made anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_engine::{ContainerState, Engine, Error, Summary};
use weft_link::Reply;
use weft_protocol::files::replica_dir;
use weft_protocol::{
    Assignment, ComponentKey, ComponentState, Desired, Drift, DriftKind, ForeignRow, ObservedState,
    Oddities, ReadOddities,
};
use weft_supervision::{Handle, Scope};
use weft_wire::WallTime;

use crate::actor::{Runtime, Shared};
use crate::adopt;
use crate::driver::container::differs;
use crate::driver::recipe::{self, MADE_FROM};

/// In mode `full`, between two looks.
pub(crate) const REPAIR_EVERY: Duration = Duration::from_secs(5);
/// What differs again after it was made anew is left alone for so long: an engine may know better.
const REPAIR_AGAIN: Duration = Duration::from_secs(600);

/// What is known of containers that were looked at: a container is never another one later.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// By container and what it was compared with: what differs.
    found: HashMap<(String, String), Vec<&'static str>>,
    /// When each drift was first seen.
    since: HashMap<String, WallTime>,
    /// When components were made anew.
    repaired: HashMap<ComponentKey, Instant>,
}

/// What of a component is needed here.
#[derive(Debug, Clone)]
struct Known {
    assignment: Option<Assignment>,
    container: String,
}

impl Handle<ReadOddities> for Runtime {
    fn handle(&mut self, message: ReadOddities, reply: Reply<ReadOddities>, scope: &Scope<Self>) {
        let (shared, known, wall) = (self.shared.clone(), self.known(), scope.wall());
        scope.spawn(async move {
            let Some(engine) = shared.engines.known() else {
                return reply.ok(Oddities::default());
            };
            reply.ok(match look(&shared, &engine, &known, wall, message.drift).await {
                Ok(odd) => odd,
                Err(error) => Oddities { error: error.to_string(), ..Oddities::default() },
            });
        });
    }
}

impl Runtime {
    fn known(&self) -> HashMap<ComponentKey, Known> {
        let board = self.shared.board.lock();
        let of = |key: &ComponentKey| {
            let container = board.get(key).map_or_else(String::new, |row| row.container.clone());
            Known { assignment: self.assignment(key), container }
        };
        self.keys().map(|key| (key.clone(), of(key))).collect()
    }

    /// Has changed containers made anew.
    pub(crate) fn repair(&mut self, scope: &Scope<Self>) {
        let (shared, known, wall) = (self.shared.clone(), self.known(), scope.wall());
        let Some(engine) = shared.engines.known() else { return };
        let looked = async move {
            let odd = look(&shared, &engine, &known, wall, true).await?;
            let specs = odd.drift.into_iter().filter(|drift| drift.kind == DriftKind::Spec);
            let mut looked = shared.looked.lock();
            let now = Instant::now();
            looked.repaired.retain(|_, before| now.duration_since(*before) < REPAIR_AGAIN);
            let due = |key: &ComponentKey| !looked.repaired.contains_key(key);
            Ok::<_, Error>(specs.map(|drift| key_of(&drift)).filter(due).collect::<Vec<_>>())
        };
        scope.spawn_then(looked, |runtime, keys, _| {
            for key in keys.unwrap_or_default() {
                let row = runtime.shared.board.lock().get(&key).map(|row| row.state);
                let Some(child) = runtime.child(&key) else { continue };
                // One that is being started, or whose actor is, is looked at again.
                if row == Some(ComponentState::Running)
                    && child.post(|actor, scope| actor.repair(scope)).is_ok()
                {
                    tracing::warn!(component = %key, "its container was changed: it is made anew");
                    runtime.shared.looked.lock().repaired.insert(key, Instant::now());
                }
            }
        });
    }
}

fn key_of(drift: &Drift) -> ComponentKey {
    ComponentKey {
        service: drift.service.clone(),
        replica: drift.replica,
        component: drift.component.clone(),
    }
}

async fn look(
    shared: &Arc<Shared>,
    engine: &Engine,
    known: &HashMap<ComponentKey, Known>,
    wall: WallTime,
    with_drift: bool,
) -> Result<Oddities, Error> {
    let config = &shared.config;
    let data_dir = config.data_dir.clone();
    let adopted = tokio::task::spawn_blocking(move || adopt::owned(&data_dir)).await;
    let adopted = adopted.unwrap_or_default();
    let mut odd = Oddities::default();
    let all = engine.list(&[]).await?;
    {
        let there = |id: &str| all.iter().any(|one| one.id == id);
        let mut looked = shared.looked.lock();
        looked.found.retain(|(id, _), _| there(id));
        looked.since.retain(|id, _| there(id));
    }
    for one in all {
        let Some(owner) = &one.owner else {
            if !adopted.contains_key(&one.id) {
                odd.foreign.push(foreign(&one));
            }
            continue;
        };
        if owner.node != config.node_id || !with_drift {
            continue;
        }
        let drift = |kind, reason: String| {
            let mut looked = shared.looked.lock();
            Drift {
                kind,
                node: config.node_name.clone(),
                service: owner.key.service.clone(),
                replica: owner.key.replica,
                component: owner.key.component.clone(),
                desired: match kind {
                    DriftKind::Orphan => Desired::Stopped,
                    _ => Desired::Running,
                },
                observed: observed(one.state),
                since: *looked.since.entry(one.id.clone()).or_insert(wall),
                reason,
            }
        };
        match known.get(&owner.key) {
            None => {
                let text = format!("container {} is of nothing that this node knows", one.name);
                odd.drift.push(drift(DriftKind::Orphan, text));
            }
            Some(own) if own.container == one.id => {
                let differ = changed(shared, engine, &one, own.assignment.as_ref()).await?;
                if !differ.is_empty() {
                    let differ = differ.join(", ");
                    let text = format!(
                        "container {} was changed: its {differ} differ from the definition",
                        one.name
                    );
                    odd.drift.push(drift(DriftKind::Spec, text));
                }
            }
            // Being made, or about to be removed.
            Some(_) => {}
        }
    }
    Ok(odd)
}

/// What of a running container is not as its recipe has it; nothing while it is about to be made
/// from another one anyway.
async fn changed(
    shared: &Arc<Shared>,
    engine: &Engine,
    one: &Summary,
    assignment: Option<&Assignment>,
) -> Result<Vec<&'static str>, Error> {
    let (Some(assignment), Some(owner)) = (assignment, &one.owner) else { return Ok(Vec::new()) };
    let config = &shared.config;
    let key = &owner.key;
    let home = replica_dir(&config.data_dir, &key.service, key.replica);
    let peers = shared.peers_of(key);
    let made = recipe::container(config, assignment, &owner.ports, &peers, &home, &one.name);
    let from = made.labels.get(MADE_FROM);
    if one.labels.get(MADE_FROM) != from {
        return Ok(Vec::new());
    }
    let id = (one.id.clone(), from.cloned().unwrap_or_default());
    if let Some(differ) = shared.looked.lock().found.get(&id) {
        return Ok(differ.clone());
    }
    let container = match engine.inspect(&one.id).await {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let differ = differs(&container, &made);
    shared.looked.lock().found.insert(id, differ.clone());
    Ok(differ)
}

fn observed(state: ContainerState) -> ObservedState {
    match state {
        ContainerState::Paused => ObservedState::Stopped,
        state if state.is_live() => ObservedState::Running,
        ContainerState::Exited | ContainerState::Dead => ObservedState::Exited,
        _ => ObservedState::Stopped,
    }
}

fn foreign(one: &Summary) -> ForeignRow {
    ForeignRow {
        id: one.id.clone(),
        name: one.name.clone(),
        image: one.image.clone(),
        state: match observed(one.state) {
            ObservedState::Running => ComponentState::Running,
            ObservedState::Exited => ComponentState::Exited,
            _ => ComponentState::Stopped,
        },
    }
}
