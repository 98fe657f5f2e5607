//! `node list`, `node token`, `node remove`.

use std::time::Duration;

use serde::Serialize;
use weft_protocol::{ClusterNodes, IssueToken, NodeRow, RemoveNode, format_time};
use weft_wire::{ActorKind, Address};

use super::{App, request};
use crate::args::{Node, NodeVerb};
use crate::error::{CliError, Exit, Result};
use crate::output::views::{NodeView, nodes_table};

pub(crate) async fn run(app: &App, args: &Node) -> Result<Exit> {
    match &args.verb {
        NodeVerb::List => list(app).await,
        NodeVerb::Token { ttl, name, dry_run } => token(app, *ttl, name.as_deref(), *dry_run).await,
        NodeVerb::Remove { target, force, dry_run } => remove(app, target, *force, *dry_run).await,
    }
}

async fn list(app: &App) -> Result<Exit> {
    let attached = app.attach().await?;
    let rows =
        attached.ask(Address::here(ActorKind::Gateway), ClusterNodes {}, app.question()).await?;
    let views: Vec<NodeView> = rows.iter().map(NodeView::from).collect();
    app.output.result(&views, nodes_table(&rows))?;
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
            1 => ", 1 component placed there stops being looked after".into(),
            n => format!(", {n} components placed there stop being looked after"),
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

/// The node of that name or id.
pub(crate) fn find<'a>(rows: &'a [NodeRow], target: &str) -> Result<&'a NodeRow> {
    rows.iter().find(|r| r.name == target || r.id.to_string() == target).ok_or_else(|| {
        let names: Vec<&str> = rows.iter().map(|r| r.name.as_str()).collect();
        CliError::new(Exit::Failed, "not-found", format!("no node `{target}`"))
            .help(format!("the nodes are: {}", names.join(", ")))
    })
}
