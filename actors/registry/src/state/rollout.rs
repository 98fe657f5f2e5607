//! Rolling updates in agreed state: when one begins, what each step makes of it, how it ends
//! (orchestration §24). Who leads decides the steps; see [`crate::rollout`].

use std::collections::BTreeSet;

use weft_protocol::{
    Desired, Handover, OperationOutcome, RevisionVerdict, Rollout, RolloutPhase, RolloutStep,
    ServiceRecord, UpdateOrder, Version, handover, spec_hash,
};
use weft_wire::{Failure, FailureKind, WallTime};

use super::apply::Change;
use super::refusal::{conflict, not_found};
use super::{ClusterState, Service};

impl ClusterState {
    /// Rolling updates that go on or wait for a person.
    pub fn updates(&self) -> impl Iterator<Item = &Rollout> {
        let all = self.services.values().filter_map(|service| service.record.rollout.as_deref());
        all.filter(|rollout| rollout.is_busy())
    }

    /// Refuses a change of the definition while an update goes on.
    pub(super) fn not_busy(&self, service: &str) -> Result<(), Failure> {
        let Some(record) = self.service(service) else { return Ok(()) };
        let Some(rollout) = record.rollout.as_ref().filter(|rollout| rollout.is_busy()) else {
            return Ok(());
        };
        let by = self.operations.get(&rollout.operation).map_or("somebody", |o| o.caller.as_str());
        let what = rollout.what(record);
        let since = weft_protocol::format_time(rollout.since);
        let waits = if rollout.phase == RolloutPhase::Paused { ", paused" } else { "" };
        Err(Failure::new(
            FailureKind::Busy,
            format!("service busy: {what} since {since} by {by}{waits}"),
        )
        .service(service)
        .help(format!(
            "see it with `weft operations {}`; `weft rollback {service}` ends it, `weft resume {service}` goes on if it is paused",
            rollout.operation
        )))
    }

    /// What begins when `record` as it was `before` became what it is; nothing if no process has
    /// to be made anew, or none ran.
    pub(super) fn update_of(
        &self,
        before: &ServiceRecord,
        record: &ServiceRecord,
        operation: u64,
        at: WallTime,
    ) -> Option<Rollout> {
        let ran = !before.undeployed && self.of_service(&record.name).next().is_some();
        let wanted = |record: &ServiceRecord| {
            let components = &record.spec.components;
            components.iter().any(|c| record.desired_of(&c.name) == Desired::Running)
        };
        // The newest version that was left half-way is given up; the one before it is known good.
        let other = match &before.rollout {
            Some(halted) => halted.other.clone(),
            None => Version {
                revision: before.revision,
                spec: before.spec.clone(),
                epochs: before.epochs.clone(),
            },
        };
        let plain = |version: &Version| -> BTreeSet<(String, String, u64)> {
            let epoch = |name: &str| {
                version.epochs.iter().find(|(of, _)| of == name).map_or(0, |(_, epoch)| epoch.start)
            };
            let components = version.spec.components.iter();
            components
                .map(|c| (c.name.clone(), spec_hash(&version.spec, c), epoch(&c.name)))
                .collect()
        };
        let new = Version {
            revision: record.revision,
            spec: record.spec.clone(),
            epochs: record.epochs.clone(),
        };
        if !ran || !wanted(before) || !wanted(record) || plain(&other) == plain(&new) {
            return None;
        }
        let (order, order_reason) = order_of(&record.spec);
        Some(Rollout {
            operation,
            // Replicas that are new with this version have nothing before it.
            updated: (other.spec.replicas.saturating_add(1)..=record.spec.replicas).collect(),
            other,
            order,
            order_reason,
            extra: 0,
            extra_other: false,
            canary: record.spec.update.canary,
            phase: RolloutPhase::Forward,
            reason: String::new(),
            since: at,
        })
    }

    /// One step. Void if the update has ended or is another one.
    pub(super) fn roll(
        &mut self,
        name: &str,
        operation: u64,
        step: &RolloutStep,
        at: WallTime,
        out: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let Some(service) = self.services.get_mut(name) else {
            return Err(self.unknown_service(name));
        };
        let Service { record, revisions, .. } = service;
        let Some(rollout) = record.rollout.as_mut() else {
            if operation != 0 {
                return Ok(());
            }
            return Err(conflict(format!("service `{name}` is not being updated"))
                .service(name)
                .help(format!("see what was deployed with `weft history {name}`")));
        };
        if operation != 0 && operation != rollout.operation {
            return Ok(());
        }
        let operation = rollout.operation;
        let mut ended = None;
        match step {
            RolloutStep::Extra(count) => {
                // None are left of the other version, or those that are stay.
                rollout.extra_other &= rollout.extra > 0 && *count > 0;
                rollout.extra = (*count).min(record.spec.replicas);
            }
            RolloutStep::StopFirst(why) => {
                rollout.order = UpdateOrder::StopFirst;
                rollout.order_reason.clone_from(why);
                rollout.extra = 0;
            }
            RolloutStep::Update(replicas) => {
                let known = |replica: &&u32| (1..=record.spec.replicas).contains(*replica);
                rollout.updated.extend(replicas.iter().filter(known));
            }
            RolloutStep::Pause(why) if rollout.phase == RolloutPhase::Forward => {
                rollout.enter(RolloutPhase::Paused, why, at);
            }
            RolloutStep::Resume
                if matches!(rollout.phase, RolloutPhase::Paused | RolloutPhase::Halted) =>
            {
                if rollout.phase == RolloutPhase::Halted {
                    return Err(conflict(format!(
                        "the update of service `{name}` has failed and cannot be resumed"
                    ))
                    .service(name)
                    .help(format!(
                        "correct the definition and deploy it, or `weft rollback {name}`"
                    )));
                }
                rollout.enter(RolloutPhase::Forward, "", at);
                rollout.canary = 0;
            }
            RolloutStep::Pause(_) | RolloutStep::Resume => {
                return Err(conflict(format!(
                    "service `{name}` cannot be {} now: {}",
                    if *step == RolloutStep::Resume { "resumed" } else { "paused" },
                    match rollout.phase {
                        RolloutPhase::Forward => "its update goes on",
                        RolloutPhase::Paused => "its update is paused",
                        RolloutPhase::Halted => "its update has failed",
                        RolloutPhase::Back => "it returns to the revision before",
                    }
                ))
                .service(name)
                .help(format!("see `weft operations {operation}`")));
            }
            RolloutStep::Halt(why) => {
                rollout.enter(RolloutPhase::Halted, why, at);
                rollout.extra = 0;
                verdict(revisions, record.revision, RevisionVerdict::Failed);
                ended = Some((OperationOutcome::Partial, why.clone()));
            }
            RolloutStep::Back(why) if rollout.phase != RolloutPhase::Back => {
                rollout.enter(RolloutPhase::Back, why, at);
                verdict(revisions, record.revision, RevisionVerdict::Failed);
                let all: BTreeSet<u32> = (1..=record.spec.replicas).collect();
                turn(record, &all);
            }
            RolloutStep::Back(_) => {}
            RolloutStep::Done => {
                let (back, why) =
                    (rollout.phase == RolloutPhase::Back, std::mem::take(&mut rollout.reason));
                record.rollout = None;
                if !back {
                    verdict(revisions, record.revision, RevisionVerdict::Good);
                }
                ended = Some(if back {
                    let text = format!("returned to revision {}: {why}", record.revision);
                    (OperationOutcome::Failed, text)
                } else {
                    let of = record.spec.replicas;
                    (OperationOutcome::Done, format!("{of} of {of} replicas updated"))
                });
            }
        }
        record.updated_at = at;
        out.push(Change::Service(name.to_owned()));
        self.trim(name, out);
        if let Some((outcome, detail)) = ended {
            self.end_update(operation, outcome, &detail, at, out);
        }
        Ok(())
    }

    /// Turns an update that goes on, or stopped half-way, round. False: there is none.
    pub(super) fn turn_back(
        &mut self,
        name: &str,
        operation: u64,
        by: &str,
        at: WallTime,
        out: &mut Vec<Change>,
    ) -> Result<bool, Failure> {
        let rollout = self.services.get_mut(name).and_then(|s| s.record.rollout.as_mut());
        let Some(rollout) = rollout else { return Ok(false) };
        if rollout.phase != RolloutPhase::Back {
            rollout.operation = operation;
            let why = format!("rolled back by {by}");
            self.roll(name, operation, &RolloutStep::Back(why), at, out)?;
        }
        Ok(true)
    }

    /// The definition of an earlier revision; 0: of the one before the one in force that was good.
    pub(super) fn earlier(
        &self,
        name: &str,
        revision: u64,
    ) -> Result<weft_protocol::ServiceSpec, Failure> {
        let Some(service) = self.services.get(name) else {
            return Err(self.unknown_service(name));
        };
        let now = service.record.revision;
        let found = match revision {
            0 => {
                let before = |verdict: RevisionVerdict| {
                    let mut earlier = service.revisions.iter().rev();
                    earlier.find(|r| r.number < now && r.verdict == verdict)
                };
                before(RevisionVerdict::Good).or_else(|| before(RevisionVerdict::Open))
            }
            number => service.revisions.iter().find(|r| r.number == number),
        };
        let Some(found) = found else {
            let kept: Vec<String> =
                service.revisions.iter().map(|revision| revision.number.to_string()).collect();
            let text = match revision {
                0 => format!("service `{name}` has no revision before {now} to return to"),
                number => format!("service `{name}` has no revision {number}"),
            };
            return Err(not_found(text)
                .service(name)
                .help(format!("it has {}; see `weft history {name}`", kept.join(", "))));
        };
        let mut spec = found.spec.clone();
        spec.active = service.record.active;
        Ok(spec)
    }

    fn end_update(
        &mut self,
        id: u64,
        outcome: OperationOutcome,
        detail: &str,
        at: WallTime,
        out: &mut Vec<Change>,
    ) {
        let asked = self
            .operations
            .get(&id)
            .is_some_and(|o| o.kind == weft_protocol::OperationKind::Rollback);
        // Going back is what was asked for then.
        let outcome = match outcome {
            OperationOutcome::Failed if asked => OperationOutcome::Done,
            other => other,
        };
        if self.finish(id, outcome, detail, at) {
            out.push(Change::Operations);
        }
    }
}

/// Notes what became of a revision.
pub(super) fn verdict(
    revisions: &mut [weft_protocol::Revision],
    number: u64,
    verdict: RevisionVerdict,
) {
    if let Some(revision) = revisions.iter_mut().find(|revision| revision.number == number) {
        revision.verdict = verdict;
    }
}

/// The version before is in force, and the one that was is the other.
fn turn(record: &mut ServiceRecord, all: &BTreeSet<u32>) {
    let Some(rollout) = record.rollout.as_mut() else { return };
    let given_up = Version {
        revision: record.revision,
        spec: record.spec.clone(),
        epochs: record.epochs.clone(),
    };
    let back = std::mem::replace(&mut rollout.other, given_up);
    let kept: BTreeSet<u32> = all.difference(&rollout.updated).copied().collect();
    // Those there were more of come anew; those there are fewer of go.
    let anew = rollout.other.spec.replicas.saturating_add(1)..=back.spec.replicas;
    rollout.extra_other = rollout.extra > 0;
    rollout.updated =
        kept.into_iter().chain(anew).filter(|replica| *replica <= back.spec.replicas).collect();
    record.revision = back.revision;
    record.epochs = back.epochs;
    record.spec = back.spec;
    record.spec.active = record.active;
    record.desired.retain(|(name, _)| record.spec.component(name).is_some());
}

/// Whether an update of it starts first, and why it does not.
fn order_of(spec: &weft_protocol::ServiceSpec) -> (UpdateOrder, String) {
    // On one machine: the extra replica may be where the others are.
    match (handover(spec, true), spec.update.order) {
        (Handover::StartFirst, _) => (UpdateOrder::StartFirst, String::new()),
        (Handover::StopFirst, Some(UpdateOrder::StopFirst)) => {
            (UpdateOrder::StopFirst, String::new())
        }
        (Handover::StopFirst, _) => {
            let why = if spec.on_partition == weft_protocol::OnPartition::Stop {
                "its replicas run under leases"
            } else if spec.components.iter().any(weft_protocol::ComponentSpec::writes_to_volumes) {
                "it writes to a volume"
            } else {
                "it has host ports"
            };
            (UpdateOrder::StopFirst, why.to_owned())
        }
    }
}
