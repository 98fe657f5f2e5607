//! Watching a rolling update: what goes on is agreed, so it is read from agreed state, and what
//! the nodes say goes along with it.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use weft_link::ItemSink;
use weft_protocol::{
    ComponentRow, ComponentState, ComponentStatus, DeployUpdate, Health, ListComponents, LogLine,
    Operation, OperationOutcome, Rollout, RolloutPhase, StateView,
};
use weft_wire::{Failure, FailureKind, NodeId, Subscription};

use crate::around::Asker;
use crate::operate::{Stop, tail};
use crate::rows::{node_name, wanted};

/// Between looks.
const LOOK: Duration = Duration::from_millis(250);

/// What was last told of a component.
type Told = (ComponentState, Health, u32, u64, u64);

/// What went wrong with a component of the new version, and what it wrote.
struct Culprit {
    row: ComponentRow,
    log: Vec<LogLine>,
}

/// Reports until the update has ended, is paused, or time is up.
pub(crate) async fn watch<S: Subscription<Item = DeployUpdate>>(
    asker: &Asker,
    service: &str,
    operation: u64,
    end: Instant,
    sink: &ItemSink<S>,
) -> Result<(), Stop> {
    let mut told: HashMap<(NodeId, String), Told> = HashMap::new();
    let mut text = String::new();
    let mut culprit: Option<Culprit> = None;
    let (mut new_revision, mut first) = (None, true);
    loop {
        let state = asker.state().await?;
        let record = state.service(service);
        let rollout = record
            .and_then(|record| record.rollout.as_deref())
            .filter(|rollout| rollout.operation == operation);
        if let (Some(record), Some(rollout)) = (record, rollout) {
            let going_back = rollout.phase == RolloutPhase::Back;
            new_revision.get_or_insert(if going_back {
                rollout.other.revision
            } else {
                record.revision
            });
        }
        let seen = look(asker, &state, service).await;
        for (node, status) in &seen {
            let now = (status.state, status.health, status.pid, status.revision, status.refused);
            let before = told.insert((*node, status.key.to_string()), now);
            if before == Some(now) || first && Some(status.revision) != new_revision {
                continue;
            }
            let row = ComponentRow { node: node_name(&state, *node), status: status.clone() };
            sink.send(DeployUpdate::Progress { row: row.clone() }).await?;
            let sick = matches!(status.state, ComponentState::Exited | ComponentState::Failed)
                || status.health == Health::Unhealthy;
            let refused = status.refused != 0 && Some(status.refused) == new_revision;
            if refused || sick && Some(status.revision) == new_revision {
                // Now: it is gone once the version before is back.
                let log = tail(asker, *node, status).await;
                culprit = Some(Culprit { row, log });
            }
        }
        first = false;
        let known = state.operations.iter().find(|known| known.id == operation);
        let over = known.is_none_or(|known| !known.is_running());
        if let (Some(rollout), Some(known)) = (rollout, known) {
            let now = line(known, &state, &seen, rollout);
            if now != text {
                sink.send(DeployUpdate::Step { text: now.clone() }).await?;
                text = now;
            }
        }
        let paused = rollout.is_some_and(|rollout| rollout.phase == RolloutPhase::Paused);
        if over || paused {
            return finish(&state, service, known, paused, &seen, culprit, sink).await;
        }
        if asker.now() >= end {
            let (good, bad) = counts(&state, service, &seen);
            sink.send(DeployUpdate::Done { good, bad: bad.max(1), timed_out: true }).await?;
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the nodes where the service is placed say of it.
async fn look(asker: &Asker, state: &StateView, service: &str) -> Vec<(NodeId, ComponentStatus)> {
    let places: BTreeSet<NodeId> = state
        .placements
        .iter()
        .filter(|place| place.service == service)
        .map(|place| place.node)
        .collect();
    let members = asker.members().into_iter().filter(|member| places.contains(&member.id));
    let answers = asker.ask_each(members.collect(), ListComponents {}).await;
    answers
        .into_iter()
        .filter_map(|(member, answer)| Some((member.id, answer.ok()?)))
        .flat_map(|(node, list)| list.into_iter().map(move |status| (node, status)))
        .filter(|(_, status)| status.key.service == service)
        .collect()
}

/// `update: 1 of 3 replicas updated, 1 extra`.
fn line(
    operation: &Operation,
    state: &StateView,
    seen: &[(NodeId, ComponentStatus)],
    rollout: &Rollout,
) -> String {
    let lists: HashMap<NodeId, Vec<ComponentStatus>> =
        seen.iter().fold(HashMap::new(), |mut lists, (node, status)| {
            lists.entry(*node).or_insert_with(Vec::new).push(status.clone());
            lists
        });
    let progress = operation.progress(state, &|node| lists.get(&node).map(Vec::as_slice));
    let step = progress.steps.iter().find(|step| matches!(step.name.as_str(), "update" | "return"));
    let mut text = step.map_or_else(String::new, |step| format!("{}: {}", step.name, step.detail));
    for why in [&rollout.reason, &rollout.order_reason] {
        if !why.is_empty() {
            text.push_str(&format!(" ({why})"));
        }
    }
    text
}

/// How many components are as wanted, and how many are not.
fn counts(state: &StateView, service: &str, seen: &[(NodeId, ComponentStatus)]) -> (u32, u32) {
    let target = weft_protocol::CommandRef { service: service.into(), component: String::new() };
    let all = wanted(state, Some(&target));
    let good = all.iter().filter(|wanted| {
        seen.iter().any(|(node, status)| {
            wanted.node == Some(*node)
                && status.key == wanted.key
                && status.state == ComponentState::Running
                && matches!(status.health, Health::Healthy | Health::None)
        })
    });
    let good = u32::try_from(good.count()).unwrap_or(u32::MAX);
    let of = u32::try_from(all.len()).unwrap_or(u32::MAX);
    (good, of.saturating_sub(good))
}

async fn finish<S: Subscription<Item = DeployUpdate>>(
    state: &StateView,
    service: &str,
    operation: Option<&Operation>,
    paused: bool,
    seen: &[(NodeId, ComponentStatus)],
    culprit: Option<Culprit>,
    sink: &ItemSink<S>,
) -> Result<(), Stop> {
    let ended = operation.and_then(|operation| operation.finished.as_ref());
    let outcome = ended.map_or(OperationOutcome::Done, |ended| ended.outcome);
    let (good, bad) = counts(state, service, seen);
    if paused {
        let text = format!(
            "paused; `weft resume {service}` goes on, `weft rollback {service}` returns to the revision before"
        );
        sink.send(DeployUpdate::Step { text }).await?;
        sink.send(DeployUpdate::Done { good, bad: 0, timed_out: false }).await?;
        return Ok(());
    }
    if outcome == OperationOutcome::Done {
        let target =
            weft_protocol::CommandRef { service: service.into(), component: String::new() };
        let all = wanted(state, Some(&target));
        // The extra ones are about to go.
        let stays = |status: &ComponentStatus| all.iter().any(|wanted| wanted.key == status.key);
        let seen: Vec<_> = seen.iter().filter(|(_, status)| stays(status)).collect();
        for (node, status) in &seen {
            let row = ComponentRow { node: node_name(state, *node), status: status.clone() };
            let update = DeployUpdate::Component { row, error: None, log: Vec::new() };
            sink.send(update).await?;
        }
        let good = u32::try_from(seen.len()).unwrap_or(u32::MAX);
        sink.send(DeployUpdate::Done { good, bad: 0, timed_out: false }).await?;
        return Ok(());
    }
    let detail = ended.map_or("", |ended| ended.detail.as_str());
    let (row, log) = match culprit {
        Some(culprit) => (culprit.row, culprit.log),
        // Whichever shows best: nothing is known of the one that failed.
        None => match seen.first() {
            Some((node, status)) => {
                let row = ComponentRow { node: node_name(state, *node), status: status.clone() };
                (row, Vec::new())
            }
            None => {
                let text = format!("the update of `{service}` failed: {detail}");
                let failure = Failure::new(FailureKind::Failed, text).service(service);
                return Err(Stop::Refused(weft_wire::AskError::Failed(failure)));
            }
        },
    };
    let failure = Failure::new(FailureKind::Failed, detail)
        .node(&row.node)
        .service(service)
        .component(&row.status.key.component)
        .step("update the service")
        .help(match outcome {
            OperationOutcome::Partial => format!(
                "both versions run now: correct the definition and deploy it, or `weft rollback {service}`"
            ),
            _ => "correct the definition and deploy it again".to_owned(),
        });
    sink.send(DeployUpdate::Component { row, error: Some(failure), log }).await?;
    // What was rolled back is not as wanted, however well the version before runs.
    let good = if outcome == OperationOutcome::Partial { good } else { 0 };
    sink.send(DeployUpdate::Done { good, bad: bad.max(1), timed_out: false }).await?;
    Ok(())
}
