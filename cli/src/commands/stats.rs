//! `stats`: what components use.

use std::io::IsTerminal;

use weft_protocol::{ClusterUsage, UsageView};
use weft_wire::{ActorKind, Address};

use super::App;
use super::show::silent;
use crate::args::Stats;
use crate::error::{CliError, Exit, Result};
use crate::output::usage::{UseView, usage_table, uses};
use crate::{output, terminal};

/// Between two tables on a terminal.
const EVERY_MS: u32 = 2000;
/// Between the two readings of a table that is printed once.
const ONCE_MS: u32 = 500;

pub(crate) async fn run(app: &App, args: &Stats) -> Result<Exit> {
    let stream = !args.no_stream && std::io::stdout().is_terminal();
    let attached = app.attach().await?;
    let message = ClusterUsage {
        target: args.target.clone(),
        every_ms: if stream { EVERY_MS } else { ONCE_MS },
        rounds: if stream { 0 } else { 2 },
        overview: false,
    };
    let gateway = Address::here(ActorKind::Gateway);
    let mut items = attached.subscribe(gateway, message, app.question()).await?;
    let mut before: Option<UsageView> = None;
    let mut last = Vec::new();
    while let Some(view) = attached.next(&mut items, true, app.question()).await? {
        last = uses(&view, before.as_ref());
        if stream && before.is_some() {
            show(app, &last, &view)?;
        }
        before = Some(view);
    }
    if stream || before.is_none() {
        let text = "the node ended it";
        return Err(CliError::new(Exit::NoNode, "ended", text).node(attached.node()));
    }
    app.output.result(&last, usage_table(&last))?;
    for line in silent(before.as_ref().map_or(&[], |view| &view.nodes)) {
        app.output.notice(line);
    }
    Ok(Exit::Ok)
}

fn show(app: &App, rows: &[UseView], view: &UsageView) -> Result<()> {
    if app.output.json {
        return rows.iter().try_for_each(|row| app.output.document(row));
    }
    let mut lines = usage_table(rows).lines();
    lines.extend(silent(&view.nodes));
    let size = terminal::size().unwrap_or((80, 24));
    terminal::draw(&lines, size).map_err(|error| output::broken(&error))
}
