//! `alerts`: what fired, on every node.

use weft_protocol::{Alert, AlertFilter, AlertItem, ClusterAlerts};

use super::App;
use super::follow::{self, Shown, ShownEvents};
use crate::args::Alerts;
use crate::error::{Exit, Result, clean};
use crate::output::alerts::{AlertView, alert_line, alerts_table};

/// The most alerts of one question (`AlertFilter::limit`).
const MOST: u32 = 10_000;
/// Told apart from the same alert before its command has ended.
const ENDED: u128 = 1 << 127;

pub(crate) async fn run(app: &App, args: &Alerts) -> Result<Exit> {
    let attached = app.attach().await?;
    let filter = AlertFilter {
        service: args.target.as_ref().map(|t| t.service.clone()).unwrap_or_default(),
        component: args.target.as_ref().map(|t| t.component.clone()).unwrap_or_default(),
        since: args.since,
        limit: args.tail.unwrap_or(0),
    };
    let shown = ShownEvents::default();
    let (again, all) = (false, Vec::new());
    let mut stream = Stream { app, filter, follow: args.follow, again, shown, all };
    follow::run(app, attached, args.follow, &mut stream).await?;
    if app.output.json {
        return Ok(Exit::Ok);
    }
    if stream.all.is_empty() {
        app.output.progress("no alerts");
    } else {
        app.output.line(alerts_table(&stream.all))?;
    }
    Ok(Exit::Ok)
}

struct Stream<'a> {
    app: &'a App,
    filter: AlertFilter,
    follow: bool,
    again: bool,
    shown: ShownEvents,
    /// What a table is made of, when nothing more will come.
    all: Vec<Alert>,
}

impl Shown for Stream<'_> {
    type Wanted = ClusterAlerts;
    const NAMES_MISSING: bool = true;

    fn wanted(&mut self, again: bool) -> ClusterAlerts {
        self.again = again;
        let mut filter = self.filter.clone();
        if again && let Some(since) = self.shown.since() {
            filter.since = filter.since.max(Some(since));
            filter.limit = MOST;
        }
        ClusterAlerts { filter, follow: self.follow }
    }

    fn show(&mut self, item: AlertItem) -> Result<()> {
        let alert = match item {
            AlertItem::Alert(alert) => alert,
            AlertItem::Missing(reply) => {
                self.app.output.notice(clean(&format!(
                    "node {} did not answer: its alerts are missing: {}",
                    reply.node, reply.error
                )));
                return Ok(());
            }
        };
        let state = if alert.run.is_some() { ENDED } else { 0 };
        let id = uuid::Uuid::from_u128(alert.id.as_u128() ^ state);
        if !self.shown.is_new(id, alert.time, self.again) {
            return Ok(());
        }
        if self.app.output.json {
            self.app.output.document(&AlertView::from(&*alert))
        } else if self.follow {
            self.app.output.line(alert_line(&alert))
        } else {
            self.all.push(*alert);
            Ok(())
        }
    }
}
