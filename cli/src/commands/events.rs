//! `events`: what happened, on every node.

use weft_protocol::{ClusterEvents, EventFilter};
use weft_wire::{ActorKind, Address};

use super::App;
use crate::args::Events;
use crate::error::{Exit, Result};
use crate::output::views::{EventView, event_line};

pub(crate) async fn run(app: &App, args: &Events) -> Result<Exit> {
    let attached = app.attach().await?;
    let filter = EventFilter {
        service: args.target.as_ref().map(|t| t.service.clone()).unwrap_or_default(),
        component: args.target.as_ref().map(|t| t.component.clone()).unwrap_or_default(),
        since: args.since,
        limit: args.tail.unwrap_or(0),
    };
    let message = ClusterEvents { filter, follow: args.follow };
    let mut items =
        attached.subscribe(Address::here(ActorKind::Gateway), message, app.question()).await?;
    let mut none = true;
    while let Some(event) = attached.next(&mut items, !args.follow, app.question()).await? {
        none = false;
        if app.output.json {
            app.output.document(&EventView::from(&event))?;
        } else {
            app.output.line(event_line(&event))?;
        }
    }
    if none {
        app.output.progress("no events");
    }
    Ok(Exit::Ok)
}
