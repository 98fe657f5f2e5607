//! Changing what is wanted, and watching it come true on the nodes concerned.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weft_link::{Closed, ItemSink};
use weft_protocol::{
    Applied, Command, CommandRef, ComponentKey, ComponentStatus, DeployService, DeployUpdate,
    Desired, LifecycleAction, LifecycleRequest, ListComponents, LogLine, OperationOutcome,
    PlanPlacement, Propose, ReadLogs, RestartPolicy, RolloutStep, StartComponents, StateView,
    WatchComponents, spec_hash,
};
use weft_wire::{AskError, Failure, FailureKind, NodeId, RequestId, Subscription};

use crate::around::{Asker, Member, NODE_TIMEOUT};
use crate::check;
use crate::plan;
use crate::rollout::{Decision, Expected, Goal, Rollout};
use crate::rows::{Nowhere, is_meant, node_name, nowhere, wanted};
use crate::ship;
use crate::update;

/// How long agreeing may take.
const PROPOSE: Duration = Duration::from_secs(10);
/// Without a wish: what a deploy may take (orchestration §8.2).
const PATIENCE: Duration = Duration::from_secs(300);
/// The most that can be asked for.
const PATIENCE_MOST: Duration = Duration::from_secs(3_600);
/// A node may be silent this long before its components are given up on: a daemon's actor that is
/// being made anew, or a link that is, is no verdict on them.
const SILENCE: Duration = Duration::from_secs(4);
/// Between tries at a silent node.
const AGAIN: Duration = Duration::from_millis(300);
/// Between looks whether something took the operation's place.
const LOOK: Duration = Duration::from_millis(250);
/// Between listings, the safety net under the watch.
const LIST: Duration = Duration::from_secs(1);
/// The placer may take so long to find places for what was agreed.
const PLACED: Duration = Duration::from_secs(3);
/// Log lines that come with a component that failed.
const TAIL: u32 = 10;

/// A change and how to watch it.
pub(crate) struct Operation {
    request: RequestId,
    command: Wish,
    timeout: Duration,
    no_wait: bool,
}

enum Wish {
    Deploy(DeployService),
    Change(CommandRef, LifecycleAction),
}

impl From<DeployService> for Operation {
    fn from(message: DeployService) -> Self {
        Self {
            request: message.request,
            timeout: patience(message.timeout_ms),
            no_wait: message.no_wait,
            command: Wish::Deploy(message),
        }
    }
}

impl From<LifecycleRequest> for Operation {
    fn from(message: LifecycleRequest) -> Self {
        Self {
            request: message.request,
            timeout: patience(message.timeout_ms),
            no_wait: message.no_wait,
            command: Wish::Change(message.target, message.action),
        }
    }
}

fn patience(ms: u64) -> Duration {
    if ms == 0 { PATIENCE } else { Duration::from_millis(ms).min(PATIENCE_MOST) }
}

/// Why an operation ends early.
pub(crate) enum Stop {
    /// Nobody listens any more; what was agreed goes on.
    Closed,
    Refused(AskError),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<AskError> for Stop {
    fn from(error: AskError) -> Self {
        Self::Refused(error)
    }
}

/// Carries it out and reports until every component is decided.
pub(crate) async fn run<S: Subscription<Item = DeployUpdate>>(
    asker: Asker,
    operation: Operation,
    sink: ItemSink<S>,
) {
    // A change that has been sent is not taken back when its sender goes away; watching it ends.
    let ended = carry_out(&asker, operation, &sink);
    let ended = tokio::select! {
        () = sink.closed() => return,
        ended = ended => ended,
    };
    if let Err(Stop::Refused(error)) = ended {
        sink.fail(error).await;
    }
}

async fn carry_out<S: Subscription<Item = DeployUpdate>>(
    asker: &Asker,
    operation: Operation,
    sink: &ItemSink<S>,
) -> Result<(), Stop> {
    let end = asker.now() + operation.timeout;
    let old = asker.state().await?;
    let (target, command) = command(&operation.command, &old)?;
    if let Command::Deploy { spec, options } = &command {
        let mut prefer = Vec::new();
        if spec.active {
            // A program that is not there fails before anything is agreed, not on every node after.
            let places = plan::places(asker, spec, &old).await;
            let problems = check::problems(asker, spec, options, &places).await;
            check::refuse(spec, &old, &places, &problems)?;
            prefer.extend(places.at.values().copied().flatten());
        }
        // What it ships outlives this node from here on.
        let held = ship::keep(asker, spec, &prefer, end).await?;
        if !held.is_empty() {
            let files = spec.files.len();
            let text = format!("files: {files} on {}", held.join(" and "));
            sink.send(DeployUpdate::Step { text }).await?;
        }
    }
    let before =
        if operation.no_wait { HashMap::new() } else { statuses(asker, &old, &target).await };
    let pauses = matches!(&operation.command, Wish::Change(_, LifecycleAction::Pause));
    let applied = propose(asker, &operation, command, end, sink).await?;
    let accepted = |view: &StateView| DeployUpdate::Accepted {
        service: target.service.clone(),
        revision: if applied.revision > 0 {
            applied.revision
        } else {
            view.service(&target.service).map_or(0, |service| service.revision)
        },
        changed: applied.changed,
        operation: applied.operation,
    };
    sink.send(accepted(&old)).await?;
    let started = match &operation.command {
        Wish::Change(target, LifecycleAction::Start) => start_again(asker, &old, target).await,
        _ => HashSet::new(),
    };
    if operation.no_wait || pauses {
        sink.send(DeployUpdate::Done { good: 0, bad: 0, timed_out: false }).await?;
        return Ok(());
    }
    let now = caught_up(asker, applied.index, end).await?;
    let rollout = now.service(&target.service).and_then(|record| record.rollout.as_deref());
    let resumes = matches!(&operation.command, Wish::Change(_, LifecycleAction::Resume));
    let ended = now
        .operations
        .iter()
        .any(|known| known.id == applied.operation && !known.is_running() && rollout.is_none());
    if let Some(rollout) = rollout
        && (resumes || applied.operation != 0 && rollout.operation == applied.operation)
    {
        return update::watch(asker, &target.service, rollout.operation, end, sink).await;
    }
    let rolls = matches!(&operation.command, Wish::Deploy(_));
    if ended && !rolls {
        // It was over before it could be looked at.
        return update::watch(asker, &target.service, applied.operation, end, sink).await;
    }
    let new = placed(asker, &target.service, applied.index, end).await?;
    let expected = expect(&operation.command, &target, &applied, &old, &new, &before, &started);
    let nowhere = nowhere(asker, Ok(&new)).await;
    let (operation_id, revision) = (applied.operation, applied.revision);
    let watched = Watched { operation: operation_id, revision, expected, nowhere };
    watch(asker, &target, watched, operation.timeout, end, sink).await
}

/// The command, and which components it is about.
fn command(wish: &Wish, state: &StateView) -> Result<(CommandRef, Command), AskError> {
    match wish {
        Wish::Deploy(deploy) => {
            let spec = match &deploy.spec {
                Some(spec) => spec.clone(),
                None => match state.service(&deploy.service) {
                    Some(service) => Box::new(service.spec.clone()),
                    None => {
                        return Err(AskError::Failed(
                            Failure::new(
                                FailureKind::NotFound,
                                format!("there is no definition of `{}`", deploy.service),
                            )
                            .service(&deploy.service)
                            .step("find the definition")
                            .help("write a definition file and give it with `-f`"),
                        ));
                    }
                },
            };
            let target = CommandRef {
                service: spec.name.clone(),
                component: deploy.options.component.clone(),
            };
            Ok((target, Command::Deploy { spec, options: deploy.options.clone() }))
        }
        Wish::Change(target, action) => {
            let command = match action {
                LifecycleAction::Stop => {
                    Command::SetDesired { target: target.clone(), desired: Desired::Stopped }
                }
                LifecycleAction::Start => {
                    Command::SetDesired { target: target.clone(), desired: Desired::Running }
                }
                LifecycleAction::Restart => Command::Restart { target: target.clone() },
                LifecycleAction::Scale(replicas) => {
                    let service = whole(target, "scaled")?;
                    Command::Scale { service, replicas: *replicas }
                }
                LifecycleAction::Rollback(revision) => {
                    let service = whole(target, "rolled back")?;
                    Command::Rollback { service, revision: *revision }
                }
                LifecycleAction::Pause => {
                    let service = whole(target, "paused")?;
                    let step = RolloutStep::Pause("paused by an operator".to_owned());
                    Command::Rollout { service, operation: 0, step }
                }
                LifecycleAction::Resume => {
                    let service = whole(target, "resumed")?;
                    Command::Rollout { service, operation: 0, step: RolloutStep::Resume }
                }
                LifecycleAction::Undeploy if target.component.is_empty() => {
                    Command::Undeploy { service: target.service.clone() }
                }
                LifecycleAction::Undeploy => {
                    return Err(AskError::Failed(
                        Failure::new(
                            FailureKind::Invalid,
                            "only a whole service can be undeployed",
                        )
                        .service(&target.service)
                        .component(&target.component)
                        .help(format!(
                            "use `weft stop {target}`, or undeploy `{}`",
                            target.service
                        )),
                    ));
                }
            };
            Ok((target.clone(), command))
        }
    }
}

/// The service, if that is what is named.
fn whole(target: &CommandRef, done: &str) -> Result<String, AskError> {
    if target.component.is_empty() {
        return Ok(target.service.clone());
    }
    Err(AskError::Failed(
        Failure::new(FailureKind::Invalid, format!("only a whole service can be {done}"))
            .service(&target.service)
            .component(&target.component)
            .help(format!("name `{}`", target.service)),
    ))
}

/// What the nodes concerned say before the change.
async fn statuses(
    asker: &Asker,
    state: &StateView,
    target: &CommandRef,
) -> HashMap<NodeId, Vec<ComponentStatus>> {
    let placed: Vec<NodeId> =
        wanted(state, Some(target)).into_iter().filter_map(|wanted| wanted.node).collect();
    let members =
        asker.members().into_iter().filter(|member| placed.contains(&member.id)).collect();
    let answers = asker.ask_each(members, ListComponents {}).await;
    answers.into_iter().filter_map(|(member, answer)| Some((member.id, answer.ok()?))).collect()
}

/// Has what should run already, and does not, be started: those that were.
async fn start_again(
    asker: &Asker,
    state: &StateView,
    target: &CommandRef,
) -> HashSet<(NodeId, ComponentKey)> {
    let placed: Vec<NodeId> =
        wanted(state, Some(target)).into_iter().filter_map(|wanted| wanted.node).collect();
    let members =
        asker.members().into_iter().filter(|member| placed.contains(&member.id)).collect();
    let message = StartComponents { target: Some(target.clone()), dry_run: false };
    let answers = asker.ask_each(members, message).await;
    answers
        .into_iter()
        .filter_map(|(member, answer)| Some((member.id, answer.ok()?.keys)))
        .flat_map(|(node, keys)| keys.into_iter().map(move |key| (node, key)))
        .collect()
}

/// Agreed once, however often it had to be sent: the request id sees to that. What is being
/// updated is waited for, unless nobody waits here.
async fn propose<S: Subscription<Item = DeployUpdate>>(
    asker: &Asker,
    operation: &Operation,
    command: Command,
    end: Instant,
    sink: &ItemSink<S>,
) -> Result<Applied, Stop> {
    let mut give_up = end.min(asker.now() + PROPOSE);
    let mut said = false;
    loop {
        let left = give_up.saturating_duration_since(asker.now());
        let propose = Propose { request: operation.request, command: command.clone() };
        let error = match asker.ask(propose, left.max(Duration::from_millis(1))).await {
            Ok(applied) => return Ok(applied),
            Err(AskError::Failed(failure))
                if failure.kind == FailureKind::Busy && !operation.no_wait =>
            {
                if !said {
                    let text = format!("waits: {}", failure.message);
                    sink.send(DeployUpdate::Step { text }).await?;
                    said = true;
                }
                give_up = end;
                AskError::Failed(failure)
            }
            Err(error @ (AskError::Unreachable(_) | AskError::Overloaded(_))) => error,
            Err(error) => return Err(error.into()),
        };
        if asker.now() + AGAIN >= give_up {
            return Err(error.into());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Desired state of this node once it includes the change.
async fn caught_up(asker: &Asker, index: u64, end: Instant) -> Result<StateView, AskError> {
    let mut pause = Duration::from_millis(10);
    loop {
        match asker.state().await {
            Ok(state) if state.index >= index => return Ok(state),
            Ok(_) | Err(AskError::Unreachable(_) | AskError::Overloaded(_) | AskError::Timeout) => {
            }
            Err(error) => return Err(error),
        }
        if asker.now() >= end {
            return Err(AskError::Failed(
                Failure::new(FailureKind::Timeout, "the change is agreed but has not come back")
                    .node(asker.fabric.name())
                    .step("follow desired state")
                    .help("it goes on; look with `weft ps`"),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// Desired state of this node once it includes the change and the placer has nothing to move for
/// the service any more. Without a leader to say so, it is taken as it is.
async fn placed(
    asker: &Asker,
    service: &str,
    index: u64,
    end: Instant,
) -> Result<StateView, AskError> {
    let give_up = end.min(asker.now() + PLACED);
    let mut pause = Duration::from_millis(10);
    let mut index = index;
    loop {
        let state = caught_up(asker, index, end).await?;
        let lacks =
            state.service(service).filter(|record| !record.undeployed).is_some_and(|record| {
                let placed =
                    state.placements.iter().filter(|place| place.service == service).count();
                placed < record.replicas() as usize
            });
        let question = PlanPlacement { lost: Vec::new(), spec: None };
        let settled = match asker.ask(question, NODE_TIMEOUT).await {
            // What was moved meanwhile has to be in what is read here.
            Ok(plan) => {
                let planned = plan.places.iter().filter(|place| place.0 == service);
                let planned: BTreeSet<_> = planned.map(|place| (place.1, place.2)).collect();
                let places = state.placements.iter().filter(|place| place.service == service);
                let places: BTreeSet<_> = places.map(|p| (p.replica, p.node)).collect();
                !plan.moves.iter().any(|step| step.service == service) && places == planned
            }
            Err(_) => !lacks,
        };
        if settled || asker.now() >= give_up {
            return Ok(state);
        }
        index = state.index;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// What has to become of which component.
fn expect(
    wish: &Wish,
    target: &CommandRef,
    applied: &Applied,
    old: &StateView,
    new: &StateView,
    before: &HashMap<NodeId, Vec<ComponentStatus>>,
    started: &HashSet<(NodeId, ComponentKey)>,
) -> Vec<Expected> {
    // An undeployed service has no places any more: its components are where they were.
    let goes = matches!(wish, Wish::Change(_, LifecycleAction::Undeploy));
    let view = if goes { old } else { new };
    // Nothing was to change, or it had been agreed before (a request sent again): what is there
    // counts.
    let nothing_new = !applied.changed || old.index >= applied.index;
    let epoch = |view: &StateView, component: &str| {
        view.service(&target.service).map_or(0, |service| service.epoch_of(component).start)
    };
    wanted(view, Some(target))
        .into_iter()
        .filter_map(|mut wanted| {
            // Its node was removed: nobody is there to be watched.
            wanted.node = wanted.node.filter(|id| view.nodes.iter().any(|node| node.id == *id));
            let service = new.service(&target.service);
            let spec = service.map(|service| &service.spec);
            let component = spec.and_then(|spec| spec.component(&wanted.key.component));
            if goes {
                wanted.desired = Desired::Stopped;
            }
            let goal = match wanted.desired {
                Desired::Ignore => Goal::Any,
                Desired::Stopped => Goal::Down,
                Desired::Running => Goal::Up {
                    revision: wanted.revision,
                    hash: match (spec, component) {
                        (Some(spec), Some(component)) => spec_hash(spec, component),
                        _ => String::new(),
                    },
                    anew: epoch(new, &wanted.key.component) > epoch(old, &wanted.key.component),
                },
            };
            if wanted.node.is_none() && goal == Goal::Down {
                return None;
            }
            let was = wanted
                .node
                .filter(|node| !nothing_new || started.contains(&(*node, wanted.key.clone())))
                .and_then(|node| before.get(&node))
                .and_then(|list| list.iter().find(|status| status.key == wanted.key));
            Some(Expected {
                node: wanted.node.map_or_else(String::new, |node| node_name(view, node)),
                goal,
                restart: component.map_or(RestartPolicy::default(), |c| c.restart),
                before: was.cloned(),
                wanted,
            })
        })
        .collect()
}

/// What a node's watcher brings.
enum News {
    Status(String, Box<ComponentStatus>),
    Listing(String, Vec<ComponentStatus>),
    Silent(String, AskError),
}

/// What is watched.
struct Watched {
    /// The operation that asked for it; 0: none, nothing was to change.
    operation: u64,
    /// What a deploy put in force; else 0.
    revision: u64,
    expected: Vec<Expected>,
    nowhere: Nowhere,
}

async fn watch<S: Subscription<Item = DeployUpdate>>(
    asker: &Asker,
    target: &CommandRef,
    Watched { operation, revision, expected, nowhere }: Watched,
    patience: Duration,
    end: Instant,
    sink: &ItemSink<S>,
) -> Result<(), Stop> {
    let nodes: BTreeMap<String, NodeId> =
        expected.iter().filter_map(|item| Some((item.node.clone(), item.wanted.node?))).collect();
    let mut rollout = Rollout::new(expected);
    let (sender, mut news) = mpsc::channel(64);
    // Dropped with this future: then nobody watches any more.
    let mut watchers = JoinSet::new();
    for (name, id) in &nodes {
        let member = Member { id: *id, name: name.clone() };
        watchers.spawn(watch_node(asker.clone(), member, target.clone(), sender.clone()));
    }
    drop(sender);
    let mut silent: HashMap<String, Instant> = HashMap::new();
    let mut timed_out = false;
    let mut look = asker.now() + LOOK;
    let mut decisions = rollout.unplaced(&nowhere);
    loop {
        for decision in decisions.drain(..) {
            report(asker, &nodes, decision, sink).await?;
        }
        if rollout.is_done() {
            break;
        }
        let now = asker.now();
        if now >= end {
            timed_out = true;
            decisions = rollout.timed_out(patience);
            continue;
        }
        let wake = rollout.wake().map_or(end, |wake| wake.min(end)).min(look);
        let next = tokio::select! {
            next = news.recv() => next,
            () = tokio::time::sleep(wake.saturating_duration_since(now)) => None,
        };
        let now = asker.now();
        // Before the news, which may be of what took its place.
        let newer = |status: &ComponentStatus| {
            revision > 0 && status.revision.max(status.refused) > revision
        };
        let overtaken = match &next {
            Some(News::Status(_, status)) => newer(status),
            Some(News::Listing(_, list)) => list.iter().any(newer),
            _ => false,
        };
        if overtaken || now >= look {
            look = now + LOOK;
            if let Some(by) = superseded(asker, operation).await {
                decisions = rollout.superseded(&by);
                continue;
            }
        }
        decisions = match next {
            Some(News::Status(node, status)) => {
                silent.remove(&node);
                rollout.status(&node, &status, now)
            }
            Some(News::Listing(node, list)) => {
                silent.remove(&node);
                rollout.listing(&node, &list, now)
            }
            Some(News::Silent(node, error)) => {
                let since = *silent.entry(node.clone()).or_insert(now);
                if now.saturating_duration_since(since) >= SILENCE && rollout.awaits(&node) {
                    rollout.vanished(&node, &error.to_string())
                } else {
                    Vec::new()
                }
            }
            None => rollout.tick(now),
        };
    }
    let (good, bad) = rollout.counts();
    sink.send(DeployUpdate::Done { good, bad, timed_out }).await?;
    Ok(())
}

/// What took the place of an operation before it had ended; `None`: nothing did.
async fn superseded(asker: &Asker, operation: u64) -> Option<String> {
    if operation == 0 {
        return None;
    }
    let state = asker.state().await.ok()?;
    let known = state.operations.iter().find(|known| known.id == operation)?;
    let finished = known.finished.as_ref()?;
    if finished.outcome != OperationOutcome::Superseded {
        return None;
    }
    let later = |other: &&weft_protocol::Operation| {
        let same = other.component == known.component
            || other.component.is_empty()
            || known.component.is_empty();
        other.id > operation && other.service == known.service && same
    };
    Some(match state.operations.iter().filter(later).min_by_key(|other| other.id) {
        Some(other) => format!("`{}` by {} (operation {})", other.kind, other.caller, other.id),
        None => finished.detail.clone(),
    })
}

async fn watch_node(asker: Asker, member: Member, target: CommandRef, news: mpsc::Sender<News>) {
    let name = &member.name;
    let meant = |status: &ComponentStatus| is_meant(Some(&target), &status.key);
    loop {
        let watch = WatchComponents { service: target.service.clone() };
        let error = match asker.subscribe(member.id, watch).await {
            Err(error) => error,
            Ok(mut items) => {
                let mut listings = tokio::time::interval(LIST);
                loop {
                    tokio::select! {
                        item = items.next() => match item {
                            Some(Ok(status)) if meant(&status) => {
                                let status = News::Status(name.clone(), Box::new(status));
                                if news.send(status).await.is_err() {
                                    return;
                                }
                            }
                            Some(Ok(_)) => {}
                            Some(Err(error)) => break error,
                            None => break AskError::Unreachable("its stream ended".into()),
                        },
                        _ = listings.tick() => {
                            match asker.ask_on(member.id, ListComponents {}, NODE_TIMEOUT).await {
                                Ok(mut list) => {
                                    list.retain(meant);
                                    let list = News::Listing(name.clone(), list);
                                    if news.send(list).await.is_err() {
                                        return;
                                    }
                                }
                                Err(error) => break error,
                            }
                        }
                    }
                }
            }
        };
        if news.send(News::Silent(name.clone(), error)).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn report<S: Subscription<Item = DeployUpdate>>(
    asker: &Asker,
    nodes: &BTreeMap<String, NodeId>,
    decision: Decision,
    sink: &ItemSink<S>,
) -> Result<(), Closed> {
    let update = match decision {
        Decision::Progress(row) => DeployUpdate::Progress { row },
        Decision::Good(row) => DeployUpdate::Component { row, error: None, log: Vec::new() },
        Decision::Bad(row, failure) => {
            // A node that is silent has been waited for already.
            let log = match nodes.get(&row.node) {
                Some(node) if failure.kind != FailureKind::Unavailable => {
                    tail(asker, *node, &row.status).await
                }
                _ => Vec::new(),
            };
            DeployUpdate::Component { row, error: Some(failure), log }
        }
    };
    sink.send(update).await
}

/// The last lines a component wrote; none when they cannot be had.
pub(crate) async fn tail(asker: &Asker, node: NodeId, status: &ComponentStatus) -> Vec<LogLine> {
    let read = ReadLogs {
        target: CommandRef {
            service: status.key.service.clone(),
            component: status.key.component.clone(),
        },
        replica: status.key.replica,
        tail: Some(TAIL),
        since: None,
        follow: false,
    };
    let mut lines = Vec::new();
    let reading = async {
        let Ok(mut items) = asker.subscribe(node, read).await else { return };
        while let Some(Ok(line)) = items.next().await {
            lines.push(line);
            if lines.len() > TAIL as usize {
                lines.remove(0);
            }
        }
    };
    // What came in time is worth showing.
    let _ = tokio::time::timeout(NODE_TIMEOUT, reading).await;
    lines
}
