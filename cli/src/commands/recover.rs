//! `recover`: what nodes should run and do not, started from what the cluster knows
//! (orchestration §7, §23).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use weft_protocol::{ClusterPs, ComponentKey, ComponentRow, ComponentState, PsReply, RecoverNodes};
use weft_wire::{ActorKind, Address, Clock, SystemClock, WallTime};

use super::App;
use crate::args::Recover;
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result, clean};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

type Key = (String, ComponentKey);

#[derive(Serialize)]
struct View {
    components: Vec<ComponentView>,
    nodes: Vec<NodeView>,
}

#[derive(Serialize)]
struct ComponentView {
    node: String,
    service: String,
    component: String,
    replica: u32,
    ok: bool,
    error: Option<String>,
}

#[derive(Serialize)]
struct NodeView {
    node: String,
    error: Option<String>,
}

pub(crate) async fn run(app: &App, args: &Recover) -> Result<Exit> {
    let attached = app.attach().await?;
    let before = since(&look(app, &attached).await?);
    let node = args.node.clone().unwrap_or_default();
    let message = RecoverNodes { node, dry_run: args.dry_run };
    let gateway = Address::here(ActorKind::Gateway);
    let nodes = attached.ask(gateway, message, app.question()).await?;
    let mut open: Vec<Key> = nodes
        .iter()
        .flat_map(|node| node.started.iter().map(|key| (node.node.clone(), key.clone())))
        .collect();
    let mut view = View {
        components: Vec::new(),
        nodes: nodes
            .iter()
            .map(|node| NodeView {
                node: node.node.clone(),
                error: (!node.error.is_empty()).then(|| node.error.clone()),
            })
            .collect(),
    };
    if args.dry_run {
        for key in std::mem::take(&mut open) {
            view.components.push(would(app, key)?);
        }
    }
    let end = SystemClock.now() + app.change();
    while !open.is_empty() && !args.no_wait && SystemClock.now() < end {
        let reply = look(app, &attached).await?;
        let mut still = Vec::new();
        for key in std::mem::take(&mut open) {
            match verdict(&reply, &key, before.get(&key).copied()) {
                Some(verdict) => view.components.push(told(app, key, verdict)?),
                None => still.push(key),
            }
        }
        open = still;
        if !open.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    let late = !args.no_wait && !open.is_empty();
    for key in open {
        let verdict = if args.no_wait { Ok(()) } else { Err("not running yet".to_owned()) };
        view.components.push(told(app, key, verdict)?);
    }
    let (good, bad) = (
        view.components.iter().filter(|component| component.ok).count(),
        view.components.iter().filter(|component| !component.ok).count(),
    );
    let silent: Vec<String> = view
        .nodes
        .iter()
        .filter_map(|node| {
            Some(format!("node {} did not answer: {}", node.node, node.error.as_ref()?))
        })
        .collect();
    if app.output.json {
        app.output.document(&view)?;
    } else if view.components.is_empty() {
        app.output.line("nothing is down that should run")?;
    }
    for line in &silent {
        app.output.notice(clean(line));
    }
    if late {
        return Err(CliError::timeout(format!("{good} of {} run, time is up", good + bad)));
    }
    if bad > 0 || !silent.is_empty() {
        let exit = if good > 0 { Exit::Partial } else { Exit::Failed };
        let text =
            format!("{bad} components could not be started, {} nodes did not answer", silent.len());
        return Err(CliError::new(exit, if good > 0 { "partial" } else { "failed" }, text)
            .help("`weft ps` says why"));
    }
    Ok(Exit::Ok)
}

fn would(app: &App, (node, key): Key) -> Result<ComponentView> {
    if !app.output.json {
        app.output.line(clean(&format!("  {key}: would be started  [node {node}]")))?;
    }
    let ComponentKey { service, replica, component } = key;
    Ok(ComponentView { node, service, component, replica, ok: true, error: None })
}

fn told(app: &App, key: Key, verdict: std::result::Result<(), String>) -> Result<ComponentView> {
    let (node, key) = key;
    let error = verdict.err();
    if !app.output.json {
        let what = error.as_deref().unwrap_or("ok");
        app.output.line(clean(&format!("  {key}: {what}  [node {node}]")))?;
    }
    let ComponentKey { service, replica, component } = key;
    Ok(ComponentView { node, service, component, replica, ok: error.is_none(), error })
}

async fn look(app: &App, attached: &Attached) -> Result<PsReply> {
    let gateway = Address::here(ActorKind::Gateway);
    attached.ask(gateway, ClusterPs { target: None }, app.question()).await
}

fn since(reply: &PsReply) -> BTreeMap<Key, WallTime> {
    let of = |row: &ComponentRow| ((row.node.clone(), row.status.key.clone()), row.status.since);
    reply.rows.iter().map(of).collect()
}

/// Whether it runs, or why it will not; `None`: that is not known yet.
fn verdict(
    reply: &PsReply,
    key: &Key,
    before: Option<WallTime>,
) -> Option<std::result::Result<(), String>> {
    let row = reply.rows.iter().find(|row| row.node == key.0 && row.status.key == key.1)?;
    match row.status.state {
        ComponentState::Running => Some(Ok(())),
        // As it was before it was told.
        _ if before == Some(row.status.since) => None,
        ComponentState::Failed | ComponentState::Exited | ComponentState::Removed => {
            Some(Err(row.status.reason.clone()))
        }
        _ => None,
    }
}
