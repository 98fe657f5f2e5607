//! Operations that go on, on the node that leads: it looks at what they are about and ends them.
//! The record is agreed and nothing else of it matters, so the next leader goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use weft_link::Call;
use weft_protocol::{Command, ComponentStatus, ListComponents, OperationChange};
use weft_supervision::Scope;
use weft_wire::{ActorKind, Address, Caller, NodeId};

use super::Registry;
use crate::operations::Judge;

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
        if self.work.busy || lately || !self.state().operations().any(|o| o.is_running()) {
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
            let progress = operation.progress(&view, &list, wall);
            let age = wall.since(operation.started);
            let over = self.work.judge.look(operation, &progress, &stuck, age, now);
            if let Some((outcome, detail)) = over {
                changes.push(OperationChange::Finish { id: operation.id, outcome, detail });
            } else if operation.owner != own {
                changes.push(OperationChange::Take { id: operation.id, owner: own });
            }
        }
        if changes.is_empty() || !self.leads() {
            self.work.busy = false;
            return;
        }
        let command = Command::Operations { changes };
        let proposal = self.own(command, Caller::node(own), scope);
        let route = self.route(scope);
        scope.spawn_then(
            async move { route.lead(&proposal, END_WITHIN).await },
            |registry, done, _| {
                registry.work.busy = false;
                if let Err(failure) = done {
                    tracing::debug!(%failure, "the end of an operation is not agreed yet");
                }
            },
        );
    }
}
