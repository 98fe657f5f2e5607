//! Operations as agreed: begun by the entry that asks for them, ended by whoever leads, kept for a
//! while (design §8, §11).

use std::time::Duration;

use weft_protocol::{
    Command, FinishedOperation, Operation, OperationChange, OperationKind, OperationOutcome,
    Proposal, ReplicaKey, RevisionVerdict,
};
use weft_wire::{Identity, NodeId, WallTime};

use super::ClusterState;
use super::apply::Change;

/// Operations that have ended and are kept at most.
pub const OPERATIONS_KEPT: usize = 100;
/// They are kept no longer than this after their end.
pub const OPERATIONS_FOR: Duration = Duration::from_secs(24 * 3600);
/// Characters of a detail that are kept.
const DETAIL_MAX: usize = 500;

/// An operation that begins if its command changes something; of the state before it.
pub(super) struct Draft {
    kind: OperationKind,
    service: String,
    component: String,
    node: Option<NodeId>,
    node_name: String,
    replicas: Vec<ReplicaKey>,
    on: Vec<NodeId>,
}

impl ClusterState {
    /// Operations that go on or ended lately, oldest first.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.values()
    }

    /// What would begin with this command; to be looked at before it is applied.
    pub(super) fn draft(&self, command: &Command) -> Option<Draft> {
        let of_service = |kind, service: &str, component: &str| {
            let mut on: Vec<NodeId> = self.of_service(service).map(|place| place.node).collect();
            on.sort_unstable();
            on.dedup();
            Draft {
                kind,
                service: service.to_owned(),
                component: component.to_owned(),
                node: None,
                node_name: String::new(),
                replicas: Vec::new(),
                on,
            }
        };
        let of_node = |kind, id: NodeId| {
            let here = self.placements.values().filter(|place| place.node == id);
            Draft {
                kind,
                service: String::new(),
                component: String::new(),
                node: Some(id),
                node_name: self.node(id).map_or_else(String::new, |node| node.name.clone()),
                replicas: here
                    .map(|place| ReplicaKey {
                        service: place.service.clone(),
                        replica: place.replica,
                    })
                    .collect(),
                on: vec![id],
            }
        };
        Some(match command {
            Command::Deploy { spec, options } => {
                of_service(OperationKind::Deploy, &spec.name, &options.component)
            }
            Command::SetDesired { target, desired } => {
                let kind = match desired {
                    weft_protocol::Desired::Running => OperationKind::Start,
                    weft_protocol::Desired::Stopped => OperationKind::Stop,
                    weft_protocol::Desired::Ignore => return None,
                };
                of_service(kind, &target.service, &target.component)
            }
            Command::Restart { target } => {
                of_service(OperationKind::Restart, &target.service, &target.component)
            }
            Command::Scale { service, .. } => of_service(OperationKind::Scale, service, ""),
            Command::Rollback { service, .. } => of_service(OperationKind::Rollback, service, ""),
            Command::Undeploy { service } => of_service(OperationKind::Undeploy, service, ""),
            Command::Drain { node, on: true } => of_node(OperationKind::Drain, *node),
            Command::RemoveNode { id, .. } => of_node(OperationKind::Remove, *id),
            _ => return None,
        })
    }

    /// Begins what was drafted; it takes the place of what went on with the same.
    pub(super) fn begin(&mut self, draft: Draft, proposal: &Proposal, id: u64, revision: u64) {
        let at = proposal.at;
        let begun = Operation {
            id,
            kind: draft.kind,
            service: draft.service,
            component: draft.component,
            node: draft.node,
            node_name: draft.node_name,
            replicas: draft.replicas,
            on: draft.on,
            revision,
            caller: self.who(proposal),
            owner: proposal.leader,
            started: at,
            finished: (draft.kind == OperationKind::Remove).then(|| FinishedOperation {
                at,
                outcome: OperationOutcome::Done,
                detail: String::new(),
            }),
        };
        let meets = |other: &Operation| {
            other.is_running()
                && other.service == begun.service
                && other.node == begun.node
                && (other.component == begun.component
                    || other.component.is_empty()
                    || begun.component.is_empty())
        };
        // Stopping and starting what is being updated does not end the update.
        let updates: Vec<u64> = self.updates().map(|rollout| rollout.operation).collect();
        let overtaken: Vec<u64> = self
            .operations
            .values()
            .filter(|o| meets(o) && !updates.contains(&o.id))
            .map(|o| o.id)
            .collect();
        for old in overtaken {
            let detail = format!("operation {id} took its place");
            self.finish(old, OperationOutcome::Superseded, &detail, at);
        }
        self.operations.insert(id, begun);
        self.forget_operations(at);
    }

    /// A drain that is called off.
    pub(super) fn call_off_drain(&mut self, node: NodeId, proposal: &Proposal) {
        let running: Vec<u64> = self
            .operations
            .values()
            .filter(|o| o.is_running() && o.node == Some(node) && o.kind == OperationKind::Drain)
            .map(|o| o.id)
            .collect();
        let detail = format!("called off by {}", self.who(proposal));
        for id in running {
            self.finish(id, OperationOutcome::Superseded, &detail, proposal.at);
        }
    }

    pub(super) fn operate(
        &mut self,
        changes: &[OperationChange],
        at: WallTime,
        out: &mut Vec<Change>,
    ) {
        for change in changes {
            let done = match change {
                OperationChange::Take { id, owner } => {
                    let running = self.operations.get_mut(id).filter(|o| o.is_running());
                    running.is_some_and(|o| std::mem::replace(&mut o.owner, *owner) != *owner)
                }
                OperationChange::Finish { id, outcome, detail } => {
                    self.finish(*id, *outcome, detail, at)
                }
            };
            if done {
                out.push(Change::Operations);
            }
        }
        self.forget_operations(at);
    }

    pub(super) fn finish(
        &mut self,
        id: u64,
        outcome: OperationOutcome,
        detail: &str,
        at: WallTime,
    ) -> bool {
        let running = self.operations.get_mut(&id).filter(|operation| operation.is_running());
        let Some(operation) = running else { return false };
        let detail = detail.chars().take(DETAIL_MAX).collect();
        operation.finished = Some(FinishedOperation { at, outcome, detail });
        let became = match outcome {
            OperationOutcome::Done => RevisionVerdict::Good,
            OperationOutcome::Failed => RevisionVerdict::Failed,
            OperationOutcome::Partial | OperationOutcome::Superseded => RevisionVerdict::Open,
        };
        // Of an update, its last step says it.
        let (name, number) = (operation.service.clone(), operation.revision);
        if let Some(service) = self.services.get_mut(&name)
            && number == service.record.revision
            && let Some(revision) = service.revisions.iter_mut().find(|r| r.number == number)
            && revision.verdict == RevisionVerdict::Open
        {
            revision.verdict = became;
        }
        true
    }

    fn forget_operations(&mut self, at: WallTime) {
        let ended = |operation: &Operation| operation.finished.as_ref().map(|f| f.at);
        self.operations.retain(|_, operation| {
            ended(operation).is_none_or(|end| end.plus(OPERATIONS_FOR) > at)
        });
        let over: Vec<u64> =
            self.operations.values().filter(|o| !o.is_running()).map(|o| o.id).collect();
        for id in over.iter().take(over.len().saturating_sub(OPERATIONS_KEPT)) {
            self.operations.remove(id);
        }
    }

    /// Who asked, for people.
    pub(super) fn who(&self, proposal: &Proposal) -> String {
        let caller = &proposal.caller;
        let name =
            |id: NodeId| self.node(id).map_or_else(|| id.to_string(), |node| node.name.clone());
        match &caller.identity {
            Identity::Operator(id) => {
                self.operator(*id).map_or_else(|| id.to_string(), |o| o.name.clone())
            }
            Identity::Node(id) => name(*id),
            Identity::Service(service) => service.clone(),
            Identity::Local { uid, .. } => {
                format!("uid {uid} on {}", name(caller.via.unwrap_or(proposal.leader)))
            }
            Identity::Joiner => "the joining machine".to_owned(),
        }
    }
}
