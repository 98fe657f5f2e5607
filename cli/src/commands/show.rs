//! `list`, `ps`, `status`: what is wanted and what is.

use std::fmt::Write as _;

use weft_protocol::{ClusterPs, ClusterStatus, ListServices, NodeReply, StatusReply};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use super::{App, agreed};
use crate::args::{List, Ps, Status};
use crate::error::{Exit, Result};
use crate::output::agreed::waiting_lines;
use crate::output::alerts::{AlertView, alerts_table};
use crate::output::operations::{OperationView, operations_table};
use crate::output::views::{
    AnswerView, ComponentView, DriftView, EventView, ServiceView, StatusView, all_components_table,
    components_table, drift_table, event_line, limits_table, services_table,
};

pub(crate) async fn list(app: &App, args: &List) -> Result<Exit> {
    let attached = app.attach().await?;
    agreed::catch_up(app, &attached, args.fresh).await?;
    let gateway = Address::here(ActorKind::Gateway);
    let (rows, remark) = tokio::join!(
        attached.ask(gateway, ListServices {}, app.question()),
        agreed::remark(&attached),
    );
    let rows = rows?;
    let views: Vec<ServiceView> = rows.iter().map(ServiceView::from).collect();
    app.output.result(&views, services_table(&rows))?;
    if let Some(remark) = remark {
        app.output.notice(remark);
    }
    Ok(Exit::Ok)
}

pub(crate) async fn ps(app: &App, args: &Ps) -> Result<Exit> {
    let attached = app.attach().await?;
    agreed::catch_up(app, &attached, args.fresh).await?;
    let message = ClusterPs { target: args.target.clone() };
    let gateway = Address::here(ActorKind::Gateway);
    let (reply, remark) =
        tokio::join!(attached.ask(gateway, message, app.question()), agreed::remark(&attached),);
    let reply = reply?;
    let strangers = reply.foreign.iter().map(|(node, row)| ComponentView::foreign(node, row));
    let views: Vec<ComponentView> =
        reply.rows.iter().map(ComponentView::from).chain(strangers).collect();
    app.output.result(&views, all_components_table(&reply, SystemClock.wall()))?;
    // An unreachable node is a row, not a failure: its components are listed as `unknown`.
    for line in silent(&reply.nodes).chain(remark) {
        app.output.notice(line);
    }
    Ok(Exit::Ok)
}

pub(crate) async fn status(app: &App, args: &Status) -> Result<Exit> {
    let attached = app.attach().await?;
    agreed::catch_up(app, &attached, args.fresh).await?;
    let message = ClusterStatus { service: args.service.clone().unwrap_or_default() };
    let gateway = Address::here(ActorKind::Gateway);
    // What waits is worth saying, but nothing to fail for.
    let (reply, agreement, remark) = tokio::join!(
        attached.ask(gateway, message, app.question()),
        agreed::agreement(&attached, app.question()),
        agreed::remark(&attached),
    );
    let reply = reply?;
    let waiting = agreement
        .map(|view| agreed::waiting_of(&view, args.service.as_deref()))
        .unwrap_or_default();
    let view = StatusView {
        components: reply.ps.rows.iter().map(ComponentView::from).collect(),
        drift: reply.drift.iter().map(DriftView::from).collect(),
        events: reply.events.iter().map(EventView::from).collect(),
        nodes: reply.ps.nodes.iter().map(AnswerView::from).collect(),
        waiting,
        operations: reply.operations.iter().map(OperationView::from).collect(),
        alerts: reply.alerts.iter().map(AlertView::from).collect(),
    };
    app.output.result(&view, status_text(&reply, &view.waiting, SystemClock.wall()))?;
    if let Some(remark) = remark {
        app.output.notice(remark);
    }
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

fn status_text(reply: &StatusReply, waiting: &[String], now: weft_wire::WallTime) -> String {
    let mut text = components_table(&reply.ps.rows, now).to_string();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n\nDRIFT");
    let drift = drift_table(&reply.drift);
    let _ = if drift.is_empty() { write!(text, "\nnone") } else { write!(text, "\n{drift}") };
    let limits = limits_table(&reply.ps.rows);
    if !limits.is_empty() {
        let _ = write!(text, "\n\nLIMITS\n{limits}");
    }
    let _ = write!(text, "\n\nEVENTS");
    if reply.events.is_empty() {
        let _ = write!(text, "\nnone");
    }
    for event in &reply.events {
        let _ = write!(text, "\n{}", event_line(event));
    }
    if !reply.operations.is_empty() {
        let _ = write!(text, "\n\nOPERATIONS\n{}", operations_table(&reply.operations));
    }
    if !reply.alerts.is_empty() {
        let _ = write!(text, "\n\nALERTS\n{}", alerts_table(&reply.alerts));
    }
    for line in waiting_lines(waiting) {
        let _ = write!(text, "\n{line}");
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
                foreign: vec![],
                rows: vec![],
                nodes: vec![
                    NodeReply { node: "n1".into(), error: String::new() },
                    NodeReply { node: "n3".into(), error: "no answer".into() },
                ],
            },
            drift: vec![],
            events: vec![],
            operations: vec![],
            alerts: vec![],
        };
        let text = status_text(&reply, &[], SystemClock.wall());
        assert!(!text.contains("WAITING"), "{text}");
        let waiting = ["web/2: waiting for n2".to_owned()];
        let more = status_text(&reply, &waiting, SystemClock.wall());
        assert!(more.contains("\n\nWAITING\nweb/2: waiting for n2\n\nUNREACHABLE"), "{more}");
        for part in ["SERVICE", "DRIFT\nnone", "EVENTS\nnone", "node n3 did not answer: no answer"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("node n1"));
    }
}
