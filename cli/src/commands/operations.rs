//! `operations`: what goes on and what ended lately; one of them watched to its end.

use std::time::Duration;

use weft_protocol::{ClusterOperations, OperationOutcome, OperationRow, StepState};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use super::{App, agreed};
use crate::args::Operations;
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result, clean};
use crate::output::operations::{OperationView, operations_table, step_text};

/// Between two looks at one that goes on.
const LOOK: Duration = Duration::from_millis(300);

pub(crate) async fn run(app: &App, args: &Operations) -> Result<Exit> {
    let attached = app.attach().await?;
    match args.id {
        Some(id) => watch(app, &attached, id).await,
        None => list(app, &attached).await,
    }
}

async fn ask(app: &App, attached: &Attached, id: u64) -> Result<Vec<OperationRow>> {
    let message = ClusterOperations { id };
    attached.ask(Address::here(ActorKind::Gateway), message, app.question()).await
}

async fn list(app: &App, attached: &Attached) -> Result<Exit> {
    let (rows, remark) = tokio::join!(ask(app, attached, 0), agreed::remark(attached));
    let rows = rows?;
    let views: Vec<OperationView> = rows.iter().map(OperationView::from).collect();
    app.output.result(&views, operations_table(&rows))?;
    if let Some(remark) = remark {
        app.output.notice(remark);
    }
    Ok(Exit::Ok)
}

async fn watch(app: &App, attached: &Attached, id: u64) -> Result<Exit> {
    let end = SystemClock.now() + app.deploy();
    let mut shown = String::new();
    loop {
        let rows = ask(app, attached, id).await?;
        let Some(row) = rows.first() else {
            return Err(CliError::failed(format!("operation {id} is not kept any more")));
        };
        let over = row.operation.finished.as_ref();
        let late = SystemClock.now() >= end;
        if over.is_some() || late {
            if app.output.json {
                app.output.document(&OperationView::from(row))?;
            }
            return verdict(app, row, late);
        }
        let now = step_text(row);
        if now != shown {
            app.output.progress(clean(&format!("  {now}")));
            shown = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// # Errors
/// Exit 1 when it did not end well, 7 when it goes on and time is up.
fn verdict(app: &App, row: &OperationRow, late: bool) -> Result<Exit> {
    let operation = &row.operation;
    let what = format!("operation {}, {} {}", operation.id, operation.kind, operation.subject());
    let Some(finished) = &operation.finished else {
        debug_assert!(late);
        return Err(CliError::timeout(format!("{what}: goes on, time is up"))
            .details(row.left.iter().cloned())
            .help("watch it longer with --timeout"));
    };
    if finished.outcome == OperationOutcome::Done {
        if !app.output.json {
            app.output.line(clean(&format!("{what}: {}", step_text(row))))?;
        }
        return Ok(Exit::Ok);
    }
    let failed = row.steps.iter().find(|step| step.state == StepState::Failed);
    let step = failed.map_or_else(String::new, |step| step.name.clone());
    Err(CliError::failed(format!("{what}: {}", finished.outcome))
        .cause(&finished.detail)
        .step(step)
        .help("`weft status` shows what is not as wanted and why"))
}
