//! Operations that go on, on the node that leads: it looks at what they are about and ends them.
//! The record is agreed and nothing else of it matters, so the next leader goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use weft_link::Call;
use weft_protocol::{
    Command, ComponentStatus, ListComponents, OperationChange, Placement, StateView,
};
use weft_supervision::Scope;
use weft_wire::{ActorKind, Address, Caller, NodeId};

use super::Registry;
use crate::operations::Judge;
use crate::rollout::{Proofs, Scene};

/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// A node is asked what it runs for no longer.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// An end that is not agreed within so long is proposed anew.
const END_WITHIN: Duration = Duration::from_secs(3);

/// Nothing of it outlives this node's lead.
#[derive(Debug, Default)]
pub(super) struct Work {
    judge: Judge,
    proofs: Proofs,
    looked: Option<Instant>,
    busy: bool,
}

impl Registry {
    /// Looks at what goes on, if it is time.
    pub(super) fn see_to_operations(&mut self, scope: &Scope<Self>) {
        if !self.leads() {
            self.work = Work { busy: self.work.busy, ..Work::default() };
            return;
        }
        let now = scope.now();
        let lately =
            self.work.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY);
        let idle = {
            let state = self.state();
            !state.operations().any(|o| o.is_running()) && state.updates().next().is_none()
        };
        if self.work.busy || lately || idle {
            return;
        }
        self.work.busy = true;
        self.work.looked = Some(now);
        let members = self.agreement.membership.members();
        let own = self.config.seed.node;
        let view = self.state().view();
        let nodes: BTreeSet<NodeId> = view
            .operations
            .iter()
            .flat_map(|operation| operation.nodes(&view))
            .chain(
                view.placements
                    .iter()
                    .filter(|p| is_being_updated(&view, p))
                    .map(|place| place.node),
            )
            .filter(|id| *id == own || members.is_alive(*id))
            .collect();
        let fabric = scope.fabric().clone();
        let asked = join_all(nodes.into_iter().map(move |node| {
            let fabric = fabric.clone();
            async move {
                let to = Address::on(ActorKind::Runtime, node);
                let to = if node == own { Address::here(ActorKind::Runtime) } else { to };
                let seen = fabric.ask(to, ListComponents {}, Call::within(LOOK_WITHIN)).await;
                (node, seen.ok())
            }
        }));
        scope.spawn_then(asked, |registry, seen, scope| registry.judge_operations(&seen, scope));
    }

    fn judge_operations(
        &mut self,
        seen: &[(NodeId, Option<Vec<ComponentStatus>>)],
        scope: &Scope<Self>,
    ) {
        let own = self.config.seed.node;
        let (now, wall) = (scope.now(), scope.wall());
        let view = self.state().view();
        let running: Vec<_> = view.operations.iter().filter(|o| o.is_running()).collect();
        let ids: Vec<u64> = running.iter().map(|operation| operation.id).collect();
        self.work.judge.retain(&ids);
        let stuck: BTreeMap<String, String> = self.stuck().collect();
        let list = |node: NodeId| {
            seen.iter().find(|(of, _)| *of == node).and_then(|(_, list)| list.as_deref())
        };
        let mut changes = Vec::new();
        for operation in running {
            // The end of an update is agreed with its last step.
            if self.state().updates().any(|rollout| rollout.operation == operation.id) {
                if operation.owner != own {
                    changes.push(OperationChange::Take { id: operation.id, owner: own });
                }
                continue;
            }
            let progress = operation.progress(&view, &list);
            let age = wall.since(operation.started);
            let over = self.work.judge.look(operation, &progress, &stuck, age, now);
            if let Some((outcome, detail)) = over {
                changes.push(OperationChange::Finish { id: operation.id, outcome, detail });
            } else if operation.owner != own {
                changes.push(OperationChange::Take { id: operation.id, owner: own });
            }
        }
        let mut commands: Vec<Command> = Vec::new();
        self.work.proofs.begin();
        for record in view.services.iter() {
            let Some(rollout) = &record.rollout else { continue };
            let places: Vec<_> =
                view.placements.iter().filter(|p| p.service == record.name).collect();
            let age = wall.since(rollout.since);
            let scene = Scene { record, places: &places, seen: list, stuck: &stuck, age };
            if let Some(step) = self.work.proofs.next(&scene, now) {
                tracing::info!(service = record.name, ?step, "rolling update");
                let (service, operation) = (record.name.clone(), rollout.operation);
                commands.push(Command::Rollout { service, operation, step });
            }
        }
        self.work.proofs.end();
        if !changes.is_empty() {
            commands.push(Command::Operations { changes });
        }
        if commands.is_empty() || !self.leads() {
            self.work.busy = false;
            return;
        }
        let proposals: Vec<_> = commands
            .into_iter()
            .map(|command| self.own(command, Caller::node(own), scope))
            .collect();
        let route = self.route(scope);
        scope.spawn_then(
            async move {
                let all = proposals.iter().map(|proposal| route.lead(proposal, END_WITHIN));
                join_all(all).await
            },
            |registry, done, scope| {
                registry.work.busy = false;
                for failure in done.into_iter().filter_map(Result::err) {
                    tracing::debug!(%failure, "a step of an operation is not agreed yet");
                }
                registry.see_to_operations(scope);
            },
        );
    }
}

/// Whether a place is of a service that is being updated.
fn is_being_updated(view: &StateView, place: &Placement) -> bool {
    view.service(&place.service).is_some_and(|record| record.rollout.is_some())
}
