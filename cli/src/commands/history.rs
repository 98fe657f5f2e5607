//! `history`: the revisions of a service that are kept.

use serde::Serialize;
use weft_protocol::{RevisionVerdict, ServiceHistory, changed_service_fields, format_time};
use weft_wire::{ActorKind, Address};

use super::App;
use crate::args::History;
use crate::error::{Exit, Result};
use crate::output::Table;

/// A revision, as `history --json` has it. Field names are promises.
#[derive(Debug, Serialize)]
struct RevisionView {
    revision: u64,
    in_force: bool,
    /// `good`, `failed`, or `open`: its deploy goes on, or was overtaken.
    verdict: &'static str,
    deployed_at: String,
    by: String,
    /// What differs from the revision before that is kept.
    changed: Vec<String>,
}

pub(crate) async fn run(app: &App, args: &History) -> Result<Exit> {
    let attached = app.attach().await?;
    let message = ServiceHistory { service: args.service.clone() };
    let history = attached.ask(Address::here(ActorKind::Gateway), message, app.question()).await?;
    let mut views: Vec<RevisionView> = Vec::new();
    let mut table = Table::new(["REVISION", "STATE", "DEPLOYED", "BY", "CHANGED"]);
    for (at, revision) in history.revisions.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| history.revisions.get(at));
        let changed: Vec<String> = before.map_or_else(Vec::new, |before| {
            let mut fields: Vec<String> = changed_service_fields(&before.spec, &revision.spec)
                .into_iter()
                .map(str::to_owned)
                .collect();
            for component in &revision.spec.components {
                match before.spec.component(&component.name) {
                    None => fields.push(format!("+{}", component.name)),
                    Some(old) if old != component => fields.push(component.name.clone()),
                    Some(_) => {}
                }
            }
            for old in &before.spec.components {
                if revision.spec.component(&old.name).is_none() {
                    fields.push(format!("-{}", old.name));
                }
            }
            fields
        });
        let verdict = match revision.verdict {
            RevisionVerdict::Open => "open",
            RevisionVerdict::Good => "good",
            RevisionVerdict::Failed => "failed",
        };
        let in_force = revision.number == history.in_force;
        let state = if in_force { format!("{verdict}, in force") } else { verdict.to_owned() };
        table.row([
            revision.number.to_string(),
            state,
            format_time(revision.at),
            revision.by.clone(),
            if changed.is_empty() { "-".to_owned() } else { changed.join(" ") },
        ]);
        views.push(RevisionView {
            revision: revision.number,
            in_force,
            verdict,
            deployed_at: format_time(revision.at),
            by: revision.by.clone(),
            changed,
        });
    }
    app.output.result(&views, table)?;
    Ok(Exit::Ok)
}
