//! When an operation is over: decided by whoever leads, from what is agreed, what the nodes say
//! and what the placer cannot do. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_protocol::{Operation, OperationKind, OperationOutcome, Progress};

/// What cannot move has to be unable to for so long: a node may be about to come back.
const STEADY: Duration = Duration::from_millis(1500);
/// A service that is not as wanted by then will not be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// Lines of a detail.
const NAMED: usize = 3;

/// What was thought of running operations at the last looks; nothing of it outlives a lead.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    /// Since when an operation looks over, and how.
    over: BTreeMap<u64, (Instant, OperationOutcome)>,
}

impl Judge {
    /// Forgets all but these.
    pub(crate) fn retain(&mut self, running: &[u64]) {
        self.over.retain(|id, _| running.contains(id));
    }

    /// How `operation` ended; `None`: it goes on. `stuck`: why replicas cannot move, by
    /// `service/replica`. `age`: since it began, by wall time.
    pub(crate) fn look(
        &mut self,
        operation: &Operation,
        progress: &Progress,
        stuck: &BTreeMap<String, String>,
        age: Duration,
        now: Instant,
    ) -> Option<(OperationOutcome, String)> {
        let (outcome, detail, needs) = self.verdict(operation, progress, stuck, age)?;
        let (since, before) = *self.over.entry(operation.id).or_insert((now, outcome));
        if before != outcome {
            self.over.insert(operation.id, (now, outcome));
            return needs.is_zero().then_some((outcome, detail));
        }
        (now.saturating_duration_since(since) >= needs).then_some((outcome, detail))
    }

    fn verdict(
        &mut self,
        operation: &Operation,
        progress: &Progress,
        stuck: &BTreeMap<String, String>,
        age: Duration,
    ) -> Option<(OperationOutcome, String, Duration)> {
        if progress.complete {
            // A program that dies at once would otherwise pass for a success.
            let needs = match operation.kind {
                OperationKind::Deploy
                | OperationKind::Start
                | OperationKind::Restart
                | OperationKind::Scale
                | OperationKind::Rollback => Duration::from_millis(500),
                _ => Duration::ZERO,
            };
            return Some((OperationOutcome::Done, detail_of(progress), needs));
        }
        if operation.kind == OperationKind::Drain {
            let all = progress.left.iter().all(|key| stuck.contains_key(key));
            if all {
                let whys = progress
                    .left
                    .iter()
                    .filter_map(|key| stuck.get(key).map(|why| format!("{key} stays: {why}")));
                return Some((OperationOutcome::Partial, lines(whys), STEADY));
            }
        } else if !progress.failed.is_empty() && progress.left.is_empty() {
            let good = progress
                .steps
                .iter()
                .any(|step| step.name == "start" && !step.detail.starts_with("0 of"));
            let outcome = if good { OperationOutcome::Partial } else { OperationOutcome::Failed };
            return Some((outcome, lines(progress.failed.iter().cloned()), STEADY));
        } else if age >= PATIENCE {
            let not = progress.failed.iter().chain(&progress.left).cloned();
            let detail = format!("not as wanted after {} min: {}", age.as_secs() / 60, lines(not));
            return Some((OperationOutcome::Failed, detail, Duration::ZERO));
        }
        self.over.remove(&operation.id);
        None
    }
}

fn detail_of(progress: &Progress) -> String {
    progress
        .steps
        .iter()
        .rev()
        .find(|step| !step.detail.is_empty())
        .map_or_else(String::new, |step| step.detail.clone())
}

fn lines(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(NAMED);
    let named: Vec<&str> = all.iter().take(NAMED).map(String::as_str).collect();
    let named = named.join("; ");
    if more == 0 { named } else { format!("{named}; and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{OperationStep, StepState};
    use weft_wire::{NodeId, WallTime};

    fn operation(kind: OperationKind) -> Operation {
        Operation {
            id: 7,
            kind,
            service: "web".into(),
            component: String::new(),
            node: None,
            node_name: String::new(),
            replicas: vec![],
            on: vec![],
            revision: 1,
            caller: "ann".into(),
            owner: NodeId::new(uuid::Uuid::nil()),
            started: WallTime::from_micros(0),
            finished: None,
        }
    }

    fn progress(failed: &[&str], left: &[&str]) -> Progress {
        let all = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Progress {
            steps: vec![OperationStep {
                name: "start".into(),
                state: StepState::Running,
                detail: "0 of 2 components as wanted".into(),
            }],
            complete: failed.is_empty() && left.is_empty(),
            failed: all(failed),
            left: all(left),
        }
    }

    fn start() -> Instant {
        weft_wire::Clock::now(&weft_wire::ManualClock::new(WallTime::from_micros(0)))
    }

    #[test]
    fn a_deploy_is_done_once_it_has_looked_so_for_a_moment() {
        let (mut judge, t) = (Judge::default(), start());
        let deploy = operation(OperationKind::Deploy);
        let mut look = |progress: &Progress, ms: u64| {
            let (age, now) = (Duration::from_secs(1), t + Duration::from_millis(ms));
            judge.look(&deploy, progress, &BTreeMap::new(), age, now).map(|(outcome, _)| outcome)
        };
        assert_eq!(look(&progress(&[], &["web/1/api is starting"]), 0), None);
        assert_eq!(look(&progress(&[], &[]), 100), None);
        assert_eq!(look(&progress(&[], &["web/1/api is exited"]), 400), None);
        assert_eq!(look(&progress(&[], &[]), 500), None);
        assert_eq!(look(&progress(&[], &[]), 1000), Some(OperationOutcome::Done));
    }

    #[test]
    fn what_failed_ends_a_deploy_once_nothing_else_is_left_and_time_ends_any() {
        let t = start();
        let deploy = operation(OperationKind::Deploy);
        let look = |judge: &mut Judge, progress: &Progress, age: u64, ms: u64| {
            let now = t + Duration::from_millis(ms);
            judge.look(&deploy, progress, &BTreeMap::new(), Duration::from_secs(age), now)
        };
        let mut judge = Judge::default();
        let failed = progress(&["web/1/api: exited 5 times"], &[]);
        let half = progress(&["web/1/api: exited 5 times"], &["web/2/api is starting"]);
        assert_eq!(look(&mut judge, &half, 1, 0), None);
        assert_eq!(look(&mut judge, &failed, 1, 100), None);
        let (outcome, detail) = look(&mut judge, &failed, 1, 1700).expect("over");
        assert_eq!(
            (outcome, detail.as_str()),
            (OperationOutcome::Failed, "web/1/api: exited 5 times")
        );
        let (outcome, detail) = look(&mut judge, &half, 600, 1800).expect("time is up");
        assert_eq!(outcome, OperationOutcome::Failed);
        assert!(detail.contains("10 min") && detail.contains("web/2/api"), "{detail}");
    }

    #[test]
    fn a_drain_ends_when_what_is_left_cannot_move_for_a_while() {
        let (mut judge, t) = (Judge::default(), start());
        let drain = operation(OperationKind::Drain);
        let stuck = BTreeMap::from([("data/1".to_owned(), "keeps data there".to_owned())]);
        let mut look = |left: &[&str], ms: u64| {
            let now = t + Duration::from_millis(ms);
            judge.look(&drain, &progress(&[], left), &stuck, Duration::ZERO, now)
        };
        assert_eq!(look(&["data/1", "web/1"], 0), None);
        assert_eq!(look(&["data/1"], 1000), None);
        let (outcome, detail) = look(&["data/1"], 2500).expect("over");
        assert_eq!(
            (outcome, detail.as_str()),
            (OperationOutcome::Partial, "data/1 stays: keeps data there")
        );
        assert_eq!(look(&[], 2600).map(|(outcome, _)| outcome), Some(OperationOutcome::Done));
    }
}
