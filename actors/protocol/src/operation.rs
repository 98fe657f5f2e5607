//! Operations: what somebody asked for and what becomes of it, as agreed (design §8, §11). What
//! can be seen of it is derived here, the same for whoever leads and for whoever shows it.

use serde::{Deserialize, Serialize};
use weft_wire::{NodeId, WallTime};

use crate::{
    ComponentKey, ComponentState, ComponentStatus, Desired, Health, OperationKind,
    OperationOutcome, ReplicaKey, Rollout, RolloutPhase, StateView, StepState, spec_hash,
};

/// A new process is told from the one before by its start; clocks of nodes that say less than
/// this apart count as the same.
const SAME_TIME_MICROS: i64 = 2_000_000;

/// Something that was asked for and takes a while, as agreed. It begins with the entry that asks
/// for it, and is seen to its end by whoever leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Position in the order of all changes of the entry that began it.
    pub id: u64,
    /// What is done.
    pub kind: OperationKind,
    /// To which service; empty: to a node.
    pub service: String,
    /// To which of its components; empty: all.
    pub component: String,
    /// To which node; `None`: to a service.
    pub node: Option<NodeId>,
    /// Its name when it began; kept, because a node may be removed.
    pub node_name: String,
    /// Replicas it is about: on a node that is drained, those that were there.
    pub replicas: Vec<ReplicaKey>,
    /// Nodes where the service was when it began.
    pub on: Vec<NodeId>,
    /// For a deploy: the revision it put in force. Otherwise 0.
    pub revision: u64,
    /// Who asked, by name where one is known.
    pub caller: String,
    /// The node that sees it to its end. Its lease is the leader's: whoever leads next takes over.
    pub owner: NodeId,
    /// When it began.
    pub started: WallTime,
    /// How it ended; `None`: it goes on.
    pub finished: Option<FinishedOperation>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedOperation {
    /// When.
    pub at: WallTime,
    /// How.
    pub outcome: OperationOutcome,
    /// For people: why, or how much.
    pub detail: String,
}

/// What whoever leads has to say about operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationChange {
    /// Another node sees it to its end. Void if it has ended.
    Take {
        /// Which.
        id: u64,
        /// Who.
        owner: NodeId,
    },
    /// It has ended. Void if it had before.
    Finish {
        /// Which.
        id: u64,
        /// How.
        outcome: OperationOutcome,
        /// For people, at most 500 characters are kept.
        detail: String,
    },
}

/// One step of an operation, as far as can be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStep {
    /// `agree`, `place`, `start`, `stop`, `move`, `update`, `return`.
    pub name: String,
    /// How far it is.
    pub state: StepState,
    /// `2 of 3 replicas`; empty: nothing to add.
    pub detail: String,
}

/// An operation as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// In order.
    pub steps: Vec<OperationStep>,
    /// Nothing is left to do.
    pub complete: bool,
    /// What failed for good, one line each.
    pub failed: Vec<String>,
    /// What is still to come, one line each.
    pub left: Vec<String>,
}

/// What a node's runtime says of its components; `None`: it was not asked or does not answer.
pub type SeenOn<'a> = dyn Fn(NodeId) -> Option<&'a [ComponentStatus]> + 'a;

impl Operation {
    /// Whether it goes on.
    pub const fn is_running(&self) -> bool {
        self.finished.is_none()
    }

    /// What it is about, for people: `web`, `web/api`, `node n2`.
    pub fn subject(&self) -> String {
        match (self.service.is_empty(), self.component.is_empty()) {
            (true, _) => format!("node {}", self.node_name),
            (false, true) => self.service.clone(),
            (false, false) => format!("{}/{}", self.service, self.component),
        }
    }

    /// The nodes whose runtimes can tell how far it is.
    pub fn nodes(&self, state: &StateView) -> Vec<NodeId> {
        if self.service.is_empty() || !self.is_running() {
            return Vec::new();
        }
        let mut nodes = self.on.clone();
        let places = state.placements.iter().filter(|place| place.service == self.service);
        nodes.extend(places.map(|place| place.node));
        nodes.sort_unstable();
        nodes.dedup();
        nodes.retain(|id| state.nodes.iter().any(|node| node.id == *id));
        nodes
    }

    /// How far it is, from what is agreed and what the nodes say.
    pub fn progress(&self, state: &StateView, seen: &SeenOn<'_>) -> Progress {
        let mut progress = match self.kind {
            OperationKind::Drain => self.draining(state),
            OperationKind::Remove => Progress { complete: true, ..Progress::default() },
            OperationKind::Stop | OperationKind::Undeploy => self.stopping(state, seen),
            OperationKind::Deploy
            | OperationKind::Start
            | OperationKind::Restart
            | OperationKind::Scale
            | OperationKind::Rollback => self.starting(state, seen),
        };
        let agreed =
            OperationStep { name: "agree".into(), state: StepState::Done, detail: String::new() };
        progress.steps.insert(0, agreed);
        if let Some(finished) = &self.finished {
            let good = finished.outcome == OperationOutcome::Done;
            for step in &mut progress.steps {
                if good {
                    step.state = StepState::Done;
                    step.detail.clear();
                } else if step.state == StepState::Running {
                    step.state = StepState::Failed;
                }
            }
        }
        progress
    }

    fn draining(&self, state: &StateView) -> Progress {
        let mut progress = Progress::default();
        for key in &self.replicas {
            let wanted = state
                .service(&key.service)
                .is_some_and(|record| !record.undeployed && key.replica <= record.spec.replicas);
            let place = state
                .placements
                .iter()
                .find(|place| place.service == key.service && place.replica == key.replica);
            let moved = match place {
                None => !wanted,
                Some(place) => {
                    Some(place.node) != self.node
                        && place.previous.is_none_or(|previous| Some(previous.node) != self.node)
                }
            };
            if !moved {
                progress.left.push(format!("{}/{}", key.service, key.replica));
            }
        }
        let of = self.replicas.len();
        progress.complete = progress.left.is_empty();
        progress.steps.push(step("move", of - progress.left.len(), of, "replicas moved"));
        progress
    }

    fn stopping(&self, state: &StateView, seen: &SeenOn<'_>) -> Progress {
        let mut progress = Progress::default();
        let (mut down, mut of) = (0, 0);
        for node in self.nodes(state) {
            let Some(list) = seen(node) else {
                let name = state.nodes.iter().find(|n| n.id == node).map(|n| n.name.as_str());
                progress.left.push(format!("{} does not answer", name.unwrap_or("a node")));
                continue;
            };
            for status in list.iter().filter(|status| self.is_about(&status.key)) {
                of += 1;
                if matches!(
                    status.state,
                    ComponentState::Stopped
                        | ComponentState::Removed
                        | ComponentState::Exited
                        | ComponentState::Failed
                ) && status.desired == Desired::Stopped
                    || status.state == ComponentState::Removed
                {
                    down += 1;
                } else {
                    progress.left.push(format!("{} is {}", status.key, status.state));
                }
            }
        }
        progress.complete = progress.left.is_empty();
        let mut stopped = step("stop", down, of, "components stopped");
        if !progress.complete {
            stopped.state = StepState::Running;
        }
        progress.steps.push(stopped);
        progress
    }

    fn starting(&self, state: &StateView, seen: &SeenOn<'_>) -> Progress {
        let mut progress = Progress::default();
        let Some(record) = state.service(&self.service).filter(|record| !record.undeployed) else {
            progress.complete = true;
            return progress;
        };
        let rollout = record.rollout.as_ref().filter(|rollout| rollout.operation == self.id);
        if let Some(rollout) = rollout {
            progress.steps.push(updating(rollout, record.spec.replicas));
            if !rollout.reason.is_empty() {
                progress.left.push(rollout.reason.clone());
            }
            if !rollout.order_reason.is_empty() {
                progress.left.push(format!("stops before it starts: {}", rollout.order_reason));
            }
        }
        let components: Vec<_> = record
            .spec
            .components
            .iter()
            .filter(|c| self.component.is_empty() || c.name == self.component)
            .collect();
        let replicas = record.spec.replicas;
        let (mut placed, mut good, mut of) = (0, 0, 0);
        for replica in 1..=replicas {
            let place = state
                .placements
                .iter()
                .find(|place| place.service == self.service && place.replica == replica);
            placed += usize::from(place.is_some());
            of += components.len();
            let Some(place) = place else {
                progress.left.push(format!("{}/{replica} has no place", self.service));
                continue;
            };
            let list = seen(place.node);
            for component in &components {
                let key = ComponentKey {
                    service: self.service.clone(),
                    replica,
                    component: component.name.clone(),
                };
                let status = list.and_then(|list| list.iter().find(|status| status.key == key));
                let desired = record.desired_of(&component.name);
                let version = record.version_of(replica);
                let same = status.is_none_or(|status| {
                    let hash = spec_hash(&record.spec, component);
                    (&status.spec_hash, status.epoch)
                        == (&hash, record.epoch_of(&component.name).start)
                });
                if rollout.is_some() && version.revision != record.revision {
                    progress.left.push(format!("{key} is of revision {}", version.revision));
                    continue;
                }
                match self.judge(desired, status, same) {
                    Verdict::Good => good += 1,
                    Verdict::Failed(why) => progress.failed.push(format!("{key}: {why}")),
                    Verdict::Wait(why) => progress.left.push(format!("{key} {why}")),
                }
            }
        }
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
        progress.steps.push(step("place", placed, replicas, "replicas placed"));
        let mut start = step("start", good, of, "components as wanted");
        if placed == 0 && replicas > 0 {
            start.state = StepState::Waiting;
        }
        if !progress.failed.is_empty() {
            start.state = StepState::Failed;
        }
        progress.steps.push(start);
        // Its own end is agreed with its last step.
        progress.complete =
            rollout.is_none() && progress.left.is_empty() && progress.failed.is_empty();
        progress
    }

    /// `same`: it is of the definition and start epoch that are in force.
    fn judge(&self, desired: Desired, status: Option<&ComponentStatus>, same: bool) -> Verdict {
        use ComponentState as S;
        let Some(status) = status else {
            return match desired {
                Desired::Running => Verdict::Wait("was not seen yet".into()),
                Desired::Stopped | Desired::Ignore => Verdict::Good,
            };
        };
        match desired {
            Desired::Ignore => return Verdict::Good,
            Desired::Stopped => {
                return match status.state {
                    S::Stopped if status.pid != 0 => Verdict::Wait("is paused".into()),
                    S::Stopped | S::Removed | S::Exited | S::Failed => Verdict::Good,
                    other => Verdict::Wait(format!("is {other}")),
                };
            }
            Desired::Running => {}
        }
        if !same {
            return Verdict::Wait("runs as it did before".into());
        }
        let began = self.started.as_micros();
        match (status.state, status.health) {
            (S::Running, Health::Healthy | Health::None) => Verdict::Good,
            (S::Running, _) => Verdict::Wait("is not healthy yet".into()),
            // What had failed before says nothing about what is done now.
            (S::Failed, _)
                if status.since.as_micros().saturating_add(SAME_TIME_MICROS) >= began =>
            {
                let why = if status.reason.is_empty() { &status.last_exit } else { &status.reason };
                Verdict::Failed(if why.is_empty() { "failed".into() } else { why.clone() })
            }
            (state, _) => Verdict::Wait(format!("is {state}")),
        }
    }

    fn is_about(&self, key: &ComponentKey) -> bool {
        key.service == self.service
            && (self.component.is_empty() || key.component == self.component)
    }
}

/// The step of a rolling update.
fn updating(rollout: &Rollout, replicas: u32) -> OperationStep {
    let done = rollout.updated.len();
    let name = if rollout.phase == RolloutPhase::Back { "return" } else { "update" };
    let extra = match (rollout.phase, rollout.extra) {
        (RolloutPhase::Paused, _) => ", paused".to_owned(),
        (_, 0) => String::new(),
        (_, extra) => format!(", {extra} extra"),
    };
    let mut step = step(name, done, replicas as usize, "replicas updated");
    step.state = match rollout.phase {
        RolloutPhase::Halted => StepState::Failed,
        RolloutPhase::Paused => StepState::Waiting,
        RolloutPhase::Forward | RolloutPhase::Back => StepState::Running,
    };
    step.detail.push_str(&extra);
    step
}

enum Verdict {
    Good,
    Wait(String),
    Failed(String),
}

fn step(name: &str, done: usize, of: usize, what: &str) -> OperationStep {
    OperationStep {
        name: name.into(),
        state: if done >= of { StepState::Done } else { StepState::Running },
        detail: if of == 0 { String::new() } else { format!("{done} of {of} {what}") },
    }
}
