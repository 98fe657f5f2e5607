//! Rolling updates as agreed (orchestration §24): which version of a service each replica runs
//! while one goes on, and the steps by which whoever leads brings it forward.
//!
//! While an update goes on a service has two versions: the one in force (the record's own) and the
//! other. An update that starts first adds extra replicas of the new version, numbered above the
//! others, so that the service never has fewer healthy replicas than it is to have.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use weft_wire::WallTime;

use crate::cluster::epoch_of;
use crate::{Epoch, ServiceRecord, ServiceSpec, UpdateOrder};

/// A definition as it is put in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub revision: u64,
    /// The definition, whole.
    pub spec: ServiceSpec,
    /// As [`ServiceRecord::epochs`].
    pub epochs: Vec<(String, Epoch)>,
}

/// A rolling update that goes on, or that stopped half-way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The operation that it is.
    pub operation: u64,
    /// What replicas run that are not updated: the version before. On the way back the one that
    /// was given up.
    pub other: Version,
    /// Whether extra replicas are started before others are stopped.
    pub order: UpdateOrder,
    /// Why it is not start-first, for people; empty: it is, or the definition says so.
    pub order_reason: String,
    /// Extra replicas there are to be now: those numbered above the definition's.
    pub extra: u32,
    /// The extra ones run the other version: they were there when it turned back.
    pub extra_other: bool,
    /// Replicas that run the version in force.
    pub updated: BTreeSet<u32>,
    /// It waits to be resumed once so many are updated; 0: it does not.
    pub canary: u32,
    /// What it does.
    pub phase: RolloutPhase,
    /// Why it does that, for people; empty: because a version was deployed.
    pub reason: String,
    /// When this phase began; its deadline counts from here.
    pub since: WallTime,
}

/// What a rolling update does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutPhase {
    /// Goes forward.
    Forward,
    /// Waits for a person.
    Paused,
    /// Failed and was left as it is: both versions run on until a person does something.
    Halted,
    /// Goes back to the version before.
    Back,
}

/// One step of a rolling update. Void if the update is not what the step was decided from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutStep {
    /// So many extra replicas are to be there.
    Extra(u32),
    /// Goes on without extra replicas, for this reason.
    StopFirst(String),
    /// These replicas run the version in force from now on.
    Update(Vec<u32>),
    /// Waits for a person, for this reason.
    Pause(String),
    /// Goes on; a canary is passed.
    Resume,
    /// Is left as it is, for this reason.
    Halt(String),
    /// Returns to the version before, for this reason.
    Back(String),
    /// Every replica runs the version in force.
    Done,
}

impl Rollout {
    /// Whether another change of the definition has to wait for its end.
    pub fn is_busy(&self) -> bool {
        self.phase != RolloutPhase::Halted
    }

    /// Does something else from now on; of the reason 500 characters are kept.
    pub fn enter(&mut self, phase: RolloutPhase, reason: &str, at: WallTime) {
        self.phase = phase;
        self.reason = reason.chars().take(500).collect();
        self.since = at;
    }

    /// What it does, for people: `update to revision 8`, `return to revision 7`.
    pub fn what(&self, record: &ServiceRecord) -> String {
        match self.phase {
            RolloutPhase::Back => format!("return to revision {}", record.revision),
            _ => format!("update to revision {}", record.revision),
        }
    }
}

/// A version, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct VersionRef<'a> {
    /// Its number.
    pub revision: u64,
    /// The definition.
    pub spec: &'a ServiceSpec,
    epochs: &'a [(String, Epoch)],
}

impl VersionRef<'_> {
    /// The component's start epoch.
    pub fn epoch_of(&self, component: &str) -> Epoch {
        epoch_of(self.epochs, component)
    }
}

impl ServiceRecord {
    /// Replicas to have now, with the extra ones of a rolling update; those of an undeployed
    /// service are not asked about.
    pub fn replicas(&self) -> u32 {
        self.spec.replicas.saturating_add(self.rollout.as_ref().map_or(0, |rollout| rollout.extra))
    }

    /// The version that is in force.
    pub fn in_force(&self) -> VersionRef<'_> {
        VersionRef { revision: self.revision, spec: &self.spec, epochs: &self.epochs }
    }

    /// The version that a replica is to run now.
    pub fn version_of(&self, replica: u32) -> VersionRef<'_> {
        let Some(rollout) = &self.rollout else { return self.in_force() };
        let extra = replica > self.spec.replicas;
        if extra && !rollout.extra_other || !extra && rollout.updated.contains(&replica) {
            return self.in_force();
        }
        let Version { revision, spec, epochs } = &rollout.other;
        VersionRef { revision: *revision, spec, epochs }
    }
}
