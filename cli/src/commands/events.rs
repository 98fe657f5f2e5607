//! `events`: what happened, on every node.

use weft_protocol::{ClusterEvents, EventFilter, EventItem};

use super::App;
use super::follow::{self, Shown, ShownEvents};
use crate::args::Events;
use crate::error::{Exit, Result, clean};
use crate::output::views::{EventView, event_line};

/// The most events of one question (`EventFilter::limit`).
const MOST: u32 = 10_000;

pub(crate) async fn run(app: &App, args: &Events) -> Result<Exit> {
    let attached = app.attach().await?;
    let filter = EventFilter {
        service: args.target.as_ref().map(|t| t.service.clone()).unwrap_or_default(),
        component: args.target.as_ref().map(|t| t.component.clone()).unwrap_or_default(),
        since: args.since,
        limit: args.tail.unwrap_or(0),
    };
    let shown = ShownEvents::default();
    let mut stream = Stream { app, filter, follow: args.follow, again: false, shown };
    follow::run(app, attached, args.follow, &mut stream).await?;
    if stream.shown.since().is_none() {
        app.output.progress("no events");
    }
    Ok(Exit::Ok)
}

struct Stream<'a> {
    app: &'a App,
    filter: EventFilter,
    follow: bool,
    again: bool,
    shown: ShownEvents,
}

impl Shown for Stream<'_> {
    type Wanted = ClusterEvents;
    const NAMES_MISSING: bool = true;

    fn wanted(&mut self, again: bool) -> ClusterEvents {
        self.again = again;
        let mut filter = self.filter.clone();
        if again && let Some(since) = self.shown.since() {
            filter.since = filter.since.max(Some(since));
            filter.limit = MOST;
        }
        ClusterEvents { filter, follow: self.follow }
    }

    fn show(&mut self, item: EventItem) -> Result<()> {
        let event = match item {
            EventItem::Event(event) => event,
            EventItem::Missing(reply) => {
                self.app.output.notice(clean(&format!(
                    "node {} did not answer: what it alone recorded is missing: {}",
                    reply.node, reply.error
                )));
                return Ok(());
            }
        };
        if !self.shown.is_new(event.id, event.time, self.again) {
            return Ok(());
        }
        if self.app.output.json {
            self.app.output.document(&EventView::from(&*event))
        } else {
            self.app.output.line(event_line(&event))
        }
    }
}
