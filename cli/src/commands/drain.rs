//! `node drain`, `node undrain`, `node leave`: a node gives its work away, and the command watches
//! until it has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_protocol::{
    Applied, ClusterNodes, Command, NodeRow, NodeState, PlacementPlan, PlanPlacement, Propose,
    RemoveNode, ReplicaKey, StateView,
};
use weft_wire::{ActorKind, Address, Clock, NodeId, SystemClock};

use super::{App, agreed, find_node, request};
use crate::args::Change;
use crate::attach::{Attached, Attacher};
use crate::error::{CliError, Exit, Result, clean};
use crate::output::agreed::{DrainView, MovedView, ReplicaView, WaitView, name_of};

/// Between two looks at where things are.
const LOOK: Duration = Duration::from_millis(300);
/// What cannot move has to be unable to for so long: a node may be about to come back.
const STEADY: Duration = Duration::from_millis(1500);

/// Where a replica is that was on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// Still there; why it stays, as far as that is known.
    Here(Option<String>),
    /// Has another place, or none yet, and its copy on the node is still kept.
    Moving(Option<NodeId>),
    /// Runs elsewhere.
    Moved(NodeId),
    /// Not wanted any more.
    Gone,
}

/// A node's work on its way to other nodes. Pure: fed with what is agreed and what is planned.
#[derive(Debug)]
struct Evacuation {
    node: NodeId,
    /// The operation, if this is one.
    operation: Option<u64>,
    replicas: BTreeMap<ReplicaKey, At>,
}

/// A line for people, and whether it is a result.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    text: String,
    result: bool,
}

impl Evacuation {
    fn new(node: NodeId, operation: Option<u64>) -> Self {
        Self { node, operation, replicas: BTreeMap::new() }
    }

    /// Takes what is agreed, and what the leader would do next, if it could be asked; says what
    /// to print.
    fn look(&mut self, state: &StateView, plan: Option<&PlacementPlan>) -> Vec<Line> {
        // All of it may be on its way, or gone, before the first look.
        let begun = state.operations.iter().filter(|known| Some(known.id) == self.operation);
        for key in begun.flat_map(|known| &known.replicas) {
            self.replicas.entry(key.clone()).or_insert(At::Here(None));
        }
        let here = |place: &&weft_protocol::Placement| {
            place.node == self.node
                || place.previous.is_some_and(|old| old.node == self.node && !old.lost)
        };
        for place in state.placements.iter().filter(here) {
            let key = ReplicaKey { service: place.service.clone(), replica: place.replica };
            self.replicas.entry(key).or_insert(At::Here(None));
        }
        let mut lines = Vec::new();
        for (key, at) in &mut self.replicas {
            let now = Self::find(self.node, key, state, plan);
            if let Some(line) = line(key, at, &now, state) {
                lines.push(line);
            }
            *at = now;
        }
        lines
    }

    fn find(node: NodeId, key: &ReplicaKey, state: &StateView, plan: Option<&PlacementPlan>) -> At {
        let place = state
            .placements
            .iter()
            .find(|place| place.service == key.service && place.replica == key.replica);
        let Some(place) = place else {
            let wanted = state
                .service(&key.service)
                .is_some_and(|record| !record.undeployed && key.replica <= record.spec.replicas);
            return if wanted { At::Moving(None) } else { At::Gone };
        };
        if place.node != node {
            let kept = place.previous.is_some_and(|previous| previous.node == node);
            return if kept { At::Moving(Some(place.node)) } else { At::Moved(place.node) };
        }
        let is = |service: &str, replica: u32| service == key.service && replica == key.replica;
        At::Here(plan.and_then(|plan| {
            if plan.moves.iter().any(|step| is(&step.service, step.replica)) {
                return None;
            }
            let wait = plan.waiting.iter().find(|wait| is(&wait.0, wait.1))?;
            Some(wait.2.clone())
        }))
    }

    /// Nothing is left that may still move.
    fn is_over(&self) -> bool {
        self.left().is_empty()
    }

    /// Replicas that are still to move, or on their way.
    fn left(&self) -> Vec<&ReplicaKey> {
        let moves = |at: &At| matches!(at, At::Here(None) | At::Moving(_));
        self.replicas.iter().filter(|(_, at)| moves(at)).map(|(key, _)| key).collect()
    }

    /// Replicas that cannot move, and why.
    fn staying(&self) -> Vec<WaitView> {
        let stays = |(key, at): (&ReplicaKey, &At)| match at {
            At::Here(Some(why)) => Some(WaitView {
                service: key.service.clone(),
                replica: key.replica,
                why: why.clone(),
            }),
            _ => None,
        };
        self.replicas.iter().filter_map(stays).collect()
    }

    fn view(&self, row: &NodeRow, state: &StateView, timed_out: bool) -> DrainView {
        let moved = |(key, at): (&ReplicaKey, &At)| match at {
            At::Moved(to) => Some(MovedView {
                service: key.service.clone(),
                replica: key.replica,
                to: name_of(&state.nodes, *to),
            }),
            _ => None,
        };
        DrainView {
            name: row.name.clone(),
            id: row.id.to_string(),
            draining: true,
            operation: None,
            moved: self.replicas.iter().filter_map(moved).collect(),
            staying: self.staying(),
            left: self.left().into_iter().map(ReplicaView::from).collect(),
            timed_out,
            removed: false,
        }
    }
}

/// What a change of place is worth saying.
fn line(key: &ReplicaKey, was: &At, now: &At, state: &StateView) -> Option<Line> {
    if was == now {
        return None;
    }
    let name = format!("{}/{}", key.service, key.replica);
    let (text, result) = match now {
        At::Here(_) => return None,
        At::Moving(None) => (format!("  {name}: stops here before it moves"), false),
        At::Moving(Some(to)) => {
            (format!("  {name}: moves to {}", name_of(&state.nodes, *to)), false)
        }
        At::Moved(to) => (format!("  {name}: moved to {}", name_of(&state.nodes, *to)), true),
        At::Gone => (format!("  {name}: not wanted any more"), true),
    };
    Some(Line { text: clean(&text), result })
}

pub(crate) async fn drain(app: &App, target: &str, change: Change) -> Result<Exit> {
    let attached = app.attach().await?;
    let row = node(app, &attached, target).await?;
    if change.dry_run {
        return would(app, &attached, &row, &format!("drain node {}", row.name)).await;
    }
    let applied = mark(app, &attached, row.id, true).await?;
    app.output.progress(marked(&row, &applied));
    if change.no_wait {
        let mut view = Evacuation::new(row.id, None).view(&row, &StateView::default(), false);
        view.operation = operation(&applied);
        if app.output.json {
            app.output.document(&view)?;
        }
        return Ok(Exit::Ok);
    }
    let mut view = watch(app, &attached, &row, &applied).await?;
    view.operation = operation(&applied);
    if app.output.json {
        app.output.document(&view)?;
    }
    verdict(&view)?;
    if !app.output.json {
        app.output.line(format!("node {} is drained", row.name))?;
    }
    Ok(Exit::Ok)
}

pub(crate) async fn undrain(app: &App, target: &str, dry_run: bool) -> Result<Exit> {
    let attached = app.attach().await?;
    let row = node(app, &attached, target).await?;
    let mut view = Evacuation::new(row.id, None).view(&row, &StateView::default(), false);
    if dry_run {
        let text = format!("would let node {} take work again", row.name);
        app.output.result(&view, text)?;
        return Ok(Exit::Ok);
    }
    let applied = mark(app, &attached, row.id, false).await?;
    view.draining = false;
    let text = if applied.changed {
        format!("node {} takes work again", row.name)
    } else {
        format!("node {} was not draining", row.name)
    };
    app.output.result(&view, text)?;
    Ok(Exit::Ok)
}

pub(crate) async fn leave(
    app: &App,
    target: Option<&str>,
    force: bool,
    dry_run: bool,
) -> Result<Exit> {
    let attached = app.attach().await?;
    let row = node(app, &attached, target.unwrap_or(attached.node())).await?;
    let what = format!(
        "drain node {} ({}) at {}, wait until its work is elsewhere, and remove it from the \
         cluster for ever: its certificate is denied",
        row.name, row.id, row.address
    );
    if dry_run {
        return would(app, &attached, &row, &what).await;
    }
    let state = agreed::state(app, &attached, false).await?;
    if state.nodes.len() == 1 {
        return Err(CliError::new(
            Exit::Failed,
            "conflict",
            format!("{} is the last node of the cluster: nobody could take its work", row.name),
        )
        .node(&row.name)
        .help("stop its daemon and delete its data directory instead"));
    }
    app.output.confirm(&what)?;
    let applied = mark(app, &attached, row.id, true).await?;
    app.output.progress(marked(&row, &applied));
    let mut view = watch(app, &attached, &row, &applied).await?;
    view.operation = operation(&applied);
    if view.timed_out || (!view.staying.is_empty() && !force) {
        if app.output.json {
            app.output.document(&view)?;
        }
        return Err(cannot_leave(&view));
    }
    for wait in &view.staying {
        app.output.notice(clean(&format!("left behind: {wait}")));
    }
    remove(app, &attached, &row, !view.staying.is_empty()).await?;
    view.removed = true;
    app.output.result(&view, format!("removed node {} ({})", row.name, row.id))?;
    Ok(Exit::Ok)
}

/// The node of that name or id.
async fn node(app: &App, attached: &Attached, target: &str) -> Result<NodeRow> {
    let gateway = Address::here(ActorKind::Gateway);
    let rows = attached.ask(gateway, ClusterNodes {}, app.question()).await?;
    find_node(&rows, target).cloned()
}

async fn mark(app: &App, attached: &Attached, node: NodeId, on: bool) -> Result<Applied> {
    let message = Propose { request: request(), command: Command::Drain { node, on } };
    attached.ask(Address::here(ActorKind::Registry), message, app.change()).await
}

fn operation(applied: &Applied) -> Option<u64> {
    (applied.operation != 0).then_some(applied.operation)
}

fn marked(row: &NodeRow, applied: &Applied) -> String {
    match operation(applied) {
        Some(id) => format!("drain {}: agreed (operation {id})", row.name),
        None => format!("drain {}: it was draining already", row.name),
    }
}

async fn plan(app: &App, attached: &Attached, lost: Vec<NodeId>) -> Result<PlacementPlan> {
    let message = PlanPlacement { lost, spec: None };
    attached.ask(Address::here(ActorKind::Registry), message, app.question()).await
}

/// What a drain would do: what would happen to replicas that cannot stay there.
async fn would(app: &App, attached: &Attached, row: &NodeRow, what: &str) -> Result<Exit> {
    let state = agreed::state(app, attached, false).await?;
    let plan = plan(app, attached, vec![row.id]).await?;
    let here = |service: &str, replica: u32| {
        state
            .placements
            .iter()
            .any(|p| p.node == row.id && p.service == service && p.replica == replica)
    };
    let mut lines = vec![format!("would {what}")];
    let mut view = Evacuation::new(row.id, None).view(row, &state, false);
    view.draining = row.state == NodeState::Draining;
    for step in plan.moves.iter().filter(|step| here(&step.service, step.replica)) {
        let to = step.to.map_or_else(|| "-".into(), |id| name_of(&state.nodes, id));
        lines.push(format!("  {}/{} would move to {to}", step.service, step.replica));
        view.left.push(ReplicaView { service: step.service.clone(), replica: step.replica });
    }
    for (service, replica, _) in plan.waiting.iter().filter(|wait| here(&wait.0, wait.1)) {
        lines.push(format!("  {service}/{replica} cannot move"));
        let why = "cannot move".to_owned();
        view.staying.push(WaitView { service: service.clone(), replica: *replica, why });
    }
    app.output.result(&view, clean(&lines.join("\n")))?;
    Ok(Exit::Ok)
}

/// Watches a drain until nothing is left that may move, or time is up.
async fn watch(
    app: &App,
    attached: &Attached,
    row: &NodeRow,
    applied: &Applied,
) -> Result<DrainView> {
    let end = SystemClock.now() + app.change();
    let mut evacuation = Evacuation::new(row.id, operation(applied));
    let mut over_since: Option<Instant> = None;
    loop {
        let state = agreed::state(app, attached, false).await.map_err(goes_on)?;
        // While nobody leads nothing moves, and nobody can say why.
        let plan = match plan(app, attached, Vec::new()).await {
            Ok(plan) => Some(plan),
            Err(error) if error.exit == Exit::NotAllowed => return Err(error),
            Err(_) => None,
        };
        for line in evacuation.look(&state, plan.as_ref()) {
            if !line.result {
                app.output.progress(line.text);
            } else if !app.output.json {
                app.output.line(line.text)?;
            }
        }
        let now = SystemClock.now();
        over_since = evacuation.is_over().then(|| over_since.unwrap_or(now));
        let steady = over_since.is_some_and(|since| {
            evacuation.staying().is_empty() || now.saturating_duration_since(since) >= STEADY
        });
        if steady || now >= end {
            return Ok(evacuation.view(row, &state, !steady));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn goes_on(error: CliError) -> CliError {
    if matches!(error.exit, Exit::NoNode | Exit::Timeout) {
        return error.help("the drain is agreed and goes on: `weft status` shows how far it is");
    }
    error
}

/// How a drain ended.
///
/// # Errors
/// Exit 7 when time ran out, 6 when something stays that cannot move.
fn verdict(view: &DrainView) -> Result<()> {
    let name = &view.name;
    let lines = view.staying.iter().map(|wait| format!("waiting  {wait}"));
    if view.timed_out {
        let left = view.left.iter().map(|key| format!("left     {}/{}", key.service, key.replica));
        return Err(CliError::timeout(format!(
            "drain {name}: {} left there, time is up",
            replicas(view.left.len())
        ))
        .node(name)
        .details(left.chain(lines))
        .help(
            "it goes on: `weft status` shows how far it is, `weft cluster status` whether a \
             majority is there",
        ));
    }
    if view.staying.is_empty() {
        return Ok(());
    }
    Err(CliError::new(
        Exit::Partial,
        "partial",
        format!("drain {name}: {} cannot move", replicas(view.staying.len())),
    )
    .node(name)
    .details(lines)
    .help(format!(
        "all else is elsewhere, and nothing new comes; `weft node undrain {name}` takes it back"
    )))
}

/// Why a node stays a member.
fn cannot_leave(view: &DrainView) -> CliError {
    let name = &view.name;
    let Err(error) = verdict(view) else {
        return CliError::failed(format!("node {name} cannot leave")).node(name);
    };
    if view.timed_out {
        return error.help(format!(
            "node {name} is still a member; it goes on draining: run this again, or take it back \
             with `weft node undrain {name}`; one that does not answer any more is taken out by \
             `weft node remove {name} --force`"
        ));
    }
    let help = format!(
        "node {name} is still a member; with --force it leaves all the same: what may run \
         elsewhere starts there anew, and data kept here stays behind. `weft node undrain {name}` \
         takes it back"
    );
    CliError { exit: Exit::Failed, code: "conflict", ..error }.help(help)
}

fn replicas(count: usize) -> String {
    if count == 1 { "1 replica".into() } else { format!("{count} replicas") }
}

/// Takes it out. The attached node may be the one: then its answer may be lost with it.
async fn remove(app: &App, attached: &Attached, row: &NodeRow, force: bool) -> Result<()> {
    let message = RemoveNode { request: request(), node: row.id.to_string(), force };
    let removed = attached.ask(Address::here(ActorKind::Gateway), message, app.change()).await;
    match removed {
        Ok(_) => Ok(()),
        Err(error)
            if attached.node() == row.name
                && error.code == "unreachable"
                && is_out(app, row).await =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Whether another node says that it is no member any more.
async fn is_out(app: &App, row: &NodeRow) -> bool {
    let Ok(context) = app.context() else { return false };
    let Ok(other) = Attacher::new(&context).attach(None).await else { return false };
    let gateway = Address::here(ActorKind::Gateway);
    other.node() != row.name
        && other
            .ask(gateway, ClusterNodes {}, app.question())
            .await
            .is_ok_and(|rows| rows.iter().all(|r| r.id != row.id || r.state == NodeState::Left))
}

#[cfg(test)]
#[path = "drain_tests.rs"]
pub(crate) mod tests;
