//! `node list`, `node token`, `node remove`, `node label`; the others are in [`super::drain`].

use std::time::Duration;

use serde::Serialize;
use weft_protocol::{
    ClusterNodeStatus, ClusterNodes, Command, IssueToken, NodeRecord, NodeRow, Propose, RemoveNode,
    format_time,
};
use weft_wire::{ActorKind, Address};

use super::{App, agreed, drain, provision, request};
use crate::args::{LabelChange, Node, NodeVerb};
use crate::error::{CliError, Exit, Result, clean};
use crate::output::agreed::LabelView;
use crate::output::node_status::{self, NodeStatusView};
use crate::output::views::{NodeView, nodes_table};

pub(crate) async fn run(app: &App, args: &Node) -> Result<Exit> {
    match &args.verb {
        NodeVerb::List => list(app).await,
        NodeVerb::Status { target } => status(app, target.as_deref()).await,
        NodeVerb::Token { ttl, name, dry_run } => token(app, *ttl, name.as_deref(), *dry_run).await,
        NodeVerb::Provision(args) => provision::run(app, args).await,
        NodeVerb::Remove { target, force, dry_run } => remove(app, target, *force, *dry_run).await,
        NodeVerb::Drain { target, change } => drain::drain(app, target, *change).await,
        NodeVerb::Undrain { target, dry_run } => drain::undrain(app, target, *dry_run).await,
        NodeVerb::Label { target, labels, dry_run } => label(app, target, labels, *dry_run).await,
        NodeVerb::Leave { target, force, dry_run } => {
            drain::leave(app, target.as_deref(), *force, *dry_run).await
        }
    }
}

async fn list(app: &App) -> Result<Exit> {
    let attached = app.attach().await?;
    let gateway = Address::here(ActorKind::Gateway);
    let (rows, remark) = tokio::join!(
        attached.ask(gateway, ClusterNodes {}, app.question()),
        agreed::remark(&attached),
    );
    let rows = rows?;
    let views: Vec<NodeView> = rows.iter().map(NodeView::from).collect();
    app.output.result(&views, nodes_table(&rows))?;
    let mut versions: Vec<&str> =
        rows.iter().map(|row| row.version.as_str()).filter(|v| !v.is_empty()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        let text = format!("nodes run different versions: {}", versions.join(", "));
        app.output.notice(clean(&text));
    }
    if let Some(remark) = remark {
        app.output.notice(remark);
    }
    Ok(Exit::Ok)
}

async fn status(app: &App, target: Option<&str>) -> Result<Exit> {
    let attached = app.attach().await?;
    let message = ClusterNodeStatus { node: target.unwrap_or_default().to_owned() };
    let gateway = Address::here(ActorKind::Gateway);
    let rows = attached.ask(gateway, message, app.question()).await?;
    let views: Vec<NodeStatusView> = rows.iter().map(NodeStatusView::from).collect();
    app.output.result(&views, clean(&node_status::text(&rows)))?;
    Ok(Exit::Ok)
}

async fn token(app: &App, ttl: Duration, name: Option<&str>, dry_run: bool) -> Result<Exit> {
    #[derive(Serialize)]
    struct View {
        token: String,
        expires_at: String,
    }
    if dry_run {
        app.output.would(format!(
            "make a join token good for {} and one node",
            weft_config::format_duration(ttl)
        ))?;
        return Ok(Exit::Ok);
    }
    let attached = app.attach().await?;
    let message =
        IssueToken { ttl_secs: ttl.as_secs().max(1), name: name.unwrap_or_default().to_owned() };
    let issued = attached.ask(Address::here(ActorKind::Registry), message, app.question()).await?;
    let expires_at = format_time(issued.expires_at);
    let text = issued.token.clone();
    app.output.result(&View { token: issued.token, expires_at: expires_at.clone() }, text)?;
    app.output.progress(format!(
        "Good for one node until {expires_at}; whoever has it may join. On the new machine:\n  \
         weft join <token>"
    ));
    Ok(Exit::Ok)
}

async fn remove(app: &App, target: &str, force: bool, dry_run: bool) -> Result<Exit> {
    #[derive(Serialize)]
    struct View {
        name: String,
        id: String,
        removed: bool,
    }
    let attached = app.attach().await?;
    let gateway = || Address::here(ActorKind::Gateway);
    let rows = attached.ask(gateway(), ClusterNodes {}, app.question()).await?;
    let row = find(&rows, target)?;
    let view = |removed| View { name: row.name.clone(), id: row.id.to_string(), removed };
    let what = format!(
        "remove node {} ({}) at {} from the cluster for ever: its certificate is denied{}",
        row.name,
        row.id,
        row.address,
        match row.components {
            0 => String::new(),
            1 => ", 1 component placed there has to start elsewhere".into(),
            n => format!(", {n} components placed there have to start elsewhere"),
        }
    );
    if dry_run {
        app.output.result(&view(false), format!("would {what}"))?;
        return Ok(Exit::Ok);
    }
    app.output.confirm(&what)?;
    let message = RemoveNode { request: request(), node: row.id.to_string(), force };
    attached.ask(gateway(), message, app.change()).await?;
    app.output.result(&view(true), format!("removed node {} ({})", row.name, row.id))?;
    Ok(Exit::Ok)
}

async fn label(app: &App, target: &str, changes: &[LabelChange], dry_run: bool) -> Result<Exit> {
    let (set, remove) = split(changes)?;
    let attached = app.attach().await?;
    let gateway = Address::here(ActorKind::Gateway);
    let rows = attached.ask(gateway, ClusterNodes {}, app.question()).await?;
    let row = find(&rows, target)?;
    let view = |labels, changed| LabelView {
        name: row.name.clone(),
        id: row.id.to_string(),
        labels,
        changed,
    };
    if dry_run {
        let state = agreed::state(app, &attached, false).await?;
        let mut labels = state.node(&row.id.to_string()).map(labels_of).unwrap_or_default();
        let own = state.node(&row.id.to_string()).map(|n| n.labels.clone()).unwrap_or_default();
        labels
            .retain(|label| own.contains(label) || !changes.iter().any(|c| c.key() == key(label)));
        labels.extend(set);
        labels.sort();
        labels.dedup();
        let text = format!("would label node {}: {}", row.name, labels.join(" "));
        app.output.result(&view(labels, false), text)?;
        return Ok(Exit::Ok);
    }
    let command = Command::LabelNode { node: row.id, set, remove: remove.clone() };
    let message = Propose { request: request(), command };
    let registry = Address::here(ActorKind::Registry);
    let applied = attached.ask(registry, message, app.change()).await?;
    let state = agreed::state(app, &attached, false).await?;
    let record = state.node(&row.id.to_string());
    let labels = record.map(labels_of).unwrap_or_default();
    let shown = if labels.is_empty() { "no labels".to_owned() } else { labels.join(" ") };
    app.output.result(&view(labels, applied.changed), format!("node {}: {shown}", row.name))?;
    // Those of the node file are the node's own.
    let own = record.map(|node| node.labels.as_slice()).unwrap_or_default();
    for label in own.iter().filter(|label| remove.iter().any(|gone| gone == key(label))) {
        app.output.notice(format!(
            "`{label}` stays: it stands in the node file of {}, as node.labels",
            row.name
        ));
    }
    Ok(Exit::Ok)
}

/// Labels to set and keys to take away.
fn split(changes: &[LabelChange]) -> Result<(Vec<String>, Vec<String>)> {
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for (at, change) in changes.iter().enumerate() {
        if changes.iter().take(at).any(|other| other.key() == change.key()) {
            return Err(CliError::usage(format!("label `{}` is given twice", change.key()))
                .help("a node has one value of each label: name it once"));
        }
        match change {
            LabelChange::Set(label) => set.push(label.clone()),
            LabelChange::Remove(key) => remove.push(key.clone()),
        }
    }
    Ok((set, remove))
}

fn labels_of(node: &NodeRecord) -> Vec<String> {
    let mut labels: Vec<String> = node.all_labels().map(str::to_owned).collect();
    labels.sort();
    labels.dedup();
    labels
}

fn key(label: &str) -> &str {
    label.split_once('=').map_or(label, |(key, _)| key)
}

/// The node of that name or id.
pub(crate) fn find<'a>(rows: &'a [NodeRow], target: &str) -> Result<&'a NodeRow> {
    rows.iter().find(|r| r.name == target || r.id.to_string() == target).ok_or_else(|| {
        let names: Vec<&str> = rows.iter().map(|r| r.name.as_str()).collect();
        CliError::new(Exit::Failed, "not-found", format!("no node `{target}`"))
            .help(format!("the nodes are: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_to_set_and_to_take_away_are_told_apart_and_each_key_comes_once() {
        let changes = |text: &str| -> Vec<LabelChange> {
            text.split(' ').map(|word| word.parse().expect("a label")).collect()
        };
        let (set, remove) = split(&changes("disk=ssd gpu arch-")).expect("splits");
        assert_eq!((set, remove), (vec!["disk=ssd".into(), "gpu".into()], vec!["arch".into()]));
        for twice in ["a=1 a=2", "a=1 a-", "a a=1"] {
            let error = split(&changes(twice)).expect_err("refused");
            assert!(error.exit == Exit::Usage && error.to_string().contains("`a`"), "{error}");
        }
    }
}
