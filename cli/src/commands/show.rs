//! `list`, `ps`, `status`: what is wanted and what is.

use std::fmt::Write as _;

use weft_protocol::{ClusterPs, ClusterStatus, ListServices, NodeReply, StatusReply};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use super::App;
use crate::args::{Ps, Status};
use crate::error::{Exit, Result};
use crate::output::views::{
    AnswerView, ComponentView, DriftView, EventView, ServiceView, StatusView, components_table,
    drift_table, event_line, services_table,
};

pub(crate) async fn list(app: &App) -> Result<Exit> {
    let attached = app.attach().await?;
    let rows =
        attached.ask(Address::here(ActorKind::Gateway), ListServices {}, app.question()).await?;
    let views: Vec<ServiceView> = rows.iter().map(ServiceView::from).collect();
    app.output.result(&views, services_table(&rows))?;
    Ok(Exit::Ok)
}

pub(crate) async fn ps(app: &App, args: &Ps) -> Result<Exit> {
    let attached = app.attach().await?;
    let message = ClusterPs { target: args.target.clone() };
    let reply = attached.ask(Address::here(ActorKind::Gateway), message, app.question()).await?;
    let views: Vec<ComponentView> = reply.rows.iter().map(ComponentView::from).collect();
    app.output.result(&views, components_table(&reply.rows, SystemClock.wall()))?;
    // An unreachable node is a row, not a failure: its components are listed as `unknown`.
    for line in silent(&reply.nodes) {
        app.output.notice(line);
    }
    Ok(Exit::Ok)
}

pub(crate) async fn status(app: &App, args: &Status) -> Result<Exit> {
    let attached = app.attach().await?;
    let message = ClusterStatus { service: args.service.clone().unwrap_or_default() };
    let reply = attached.ask(Address::here(ActorKind::Gateway), message, app.question()).await?;
    let view = StatusView {
        components: reply.ps.rows.iter().map(ComponentView::from).collect(),
        drift: reply.drift.iter().map(DriftView::from).collect(),
        events: reply.events.iter().map(EventView::from).collect(),
        nodes: reply.ps.nodes.iter().map(AnswerView::from).collect(),
    };
    app.output.result(&view, status_text(&reply, SystemClock.wall()))?;
    let drifted = args.exit_code && !reply.drift.is_empty();
    Ok(if drifted { Exit::Drift } else { Exit::Ok })
}

/// A line for each node that did not answer.
pub(crate) fn silent(nodes: &[NodeReply]) -> impl Iterator<Item = String> {
    nodes
        .iter()
        .filter(|n| !n.error.is_empty())
        .map(|n| crate::error::clean(&format!("node {} did not answer: {}", n.node, n.error)))
}

fn status_text(reply: &StatusReply, now: weft_wire::WallTime) -> String {
    let mut text = components_table(&reply.ps.rows, now).to_string();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n\nDRIFT");
    let drift = drift_table(&reply.drift);
    let _ = if drift.is_empty() { write!(text, "\nnone") } else { write!(text, "\n{drift}") };
    let _ = write!(text, "\n\nEVENTS");
    if reply.events.is_empty() {
        let _ = write!(text, "\nnone");
    }
    for event in &reply.events {
        let _ = write!(text, "\n{}", event_line(event));
    }
    let silent: Vec<String> = silent(&reply.ps.nodes).collect();
    if !silent.is_empty() {
        let _ = write!(text, "\n\nUNREACHABLE\n{}", silent.join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::PsReply;

    #[test]
    fn status_has_its_three_parts_and_names_silent_nodes() {
        let reply = StatusReply {
            ps: PsReply {
                rows: vec![],
                nodes: vec![
                    NodeReply { node: "n1".into(), error: String::new() },
                    NodeReply { node: "n3".into(), error: "no answer".into() },
                ],
            },
            drift: vec![],
            events: vec![],
        };
        let text = status_text(&reply, SystemClock.wall());
        for part in ["SERVICE", "DRIFT\nnone", "EVENTS\nnone", "node n3 did not answer: no answer"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("node n1"));
    }
}
