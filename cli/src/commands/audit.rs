//! `audit`: who asked the node for what, and what came of it (orchestration §2).

use serde::Serialize;
use weft_protocol::{AuditRecord, Outcome, QueryAudit, format_time};
use weft_wire::{ActorKind, Address};

use super::App;
use crate::args::Audit;
use crate::error::{Exit, Result};
use crate::output::Table;
use crate::output::table::cut;

/// Without a wish.
const USUAL: u32 = 100;

/// A request, as `audit --json` has it. Field names are promises.
#[derive(Debug, Serialize)]
struct View<'a> {
    time: String,
    caller: &'a str,
    role: &'a str,
    method: &'a str,
    target: &'a str,
    /// `ok`, `denied` or `failed`.
    outcome: &'static str,
    error: Option<&'a str>,
    duration_us: u64,
    trace: Option<&'a str>,
}

const fn outcome(of: Outcome) -> &'static str {
    match of {
        Outcome::Ok => "ok",
        Outcome::Denied => "denied",
        Outcome::Failed => "failed",
    }
}

fn view(record: &AuditRecord) -> View<'_> {
    let none = |byte: u8| byte == b'0';
    View {
        time: format_time(record.time),
        caller: &record.caller,
        role: &record.role,
        method: &record.method,
        target: &record.target,
        outcome: outcome(record.outcome),
        error: (!record.error.is_empty()).then_some(record.error.as_str()),
        duration_us: record.duration_us,
        trace: (!record.trace.bytes().all(none)).then_some(record.trace.as_str()),
    }
}

pub(crate) async fn run(app: &App, args: &Audit) -> Result<Exit> {
    let attached = app.attach().await?;
    let question = QueryAudit { since: args.since, limit: args.tail.unwrap_or(USUAL) };
    let registry = Address::here(ActorKind::Registry);
    let records = attached.ask(registry, question, app.question()).await?;
    let views: Vec<View<'_>> = records.iter().map(view).collect();
    let mut table =
        Table::new(["TIME", "CALLER", "ROLE", "METHOD", "TARGET", "OUTCOME", "MS", "ERROR"]);
    for record in &records {
        table.row([
            format_time(record.time),
            record.caller.clone(),
            record.role.clone(),
            record.method.clone(),
            record.target.clone(),
            outcome(record.outcome).to_owned(),
            (record.duration_us / 1000).to_string(),
            cut(&record.error, 60),
        ]);
    }
    table.drop_last_if_empty();
    app.output.result(&views, table)?;
    Ok(Exit::Ok)
}
