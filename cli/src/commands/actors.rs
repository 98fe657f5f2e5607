//! `actors` and `chaos`: the supervision trees, and breaking and mending what is in them.

use std::time::Duration;

use serde::Serialize;
use weft_protocol::{ChaosActor, ChaosKind, ClusterActors, RestartActor};
use weft_wire::{ActorKind, Address, Clock, SystemClock, Target};

use super::{App, show};
use crate::args::{ActorRef, Actors, ActorsVerb, Chaos, ChaosVerb};
use crate::error::{Exit, Result};
use crate::output::views::{ActorView, actors_table};

/// Between the two looks that make a rate.
const APART: Duration = Duration::from_millis(300);

#[derive(Serialize)]
struct DoneView<'a> {
    actor: &'a str,
    node: &'a str,
    action: &'a str,
    done: bool,
}

pub(crate) async fn run(app: &App, args: &Actors) -> Result<Exit> {
    if let Some(ActorsVerb::Restart { actor, dry_run }) = &args.verb {
        if *dry_run {
            return done(app, actor, "restart", false);
        }
        let attached = app.attach().await?;
        let message = RestartActor { path: actor.path.clone() };
        attached.ask(root_of(actor), message, app.question()).await?;
        return done(app, actor, "restart", true);
    }
    let attached = app.attach().await?;
    let gateway = || Address::here(ActorKind::Gateway);
    let first = attached.ask(gateway(), ClusterActors {}, app.question()).await?;
    if app.output.json {
        let views: Vec<ActorView> = first.rows.iter().map(ActorView::from).collect();
        app.output.document(&views)?;
    } else {
        // The rate wants a second look; if that fails the first is still true.
        let began = SystemClock.now();
        tokio::time::sleep(APART).await;
        let (rows, earlier) = match attached.ask(gateway(), ClusterActors {}, app.question()).await
        {
            Ok(second) => (second.rows, first.rows),
            Err(_) => (first.rows, Vec::new()),
        };
        let apart = SystemClock.now().saturating_duration_since(began);
        app.output.line(actors_table(&rows, &earlier, apart, SystemClock.wall()))?;
    }
    for line in show::silent(&first.nodes) {
        app.output.notice(line);
    }
    Ok(Exit::Ok)
}

pub(crate) async fn chaos(app: &App, args: &Chaos) -> Result<Exit> {
    let (target, kind, word) = match &args.verb {
        ChaosVerb::Panic(target) => (target, ChaosKind::Panic, "panic"),
        ChaosVerb::Hang(target) => (target, ChaosKind::Hang, "hang"),
    };
    if target.dry_run {
        return done(app, &target.actor, word, false);
    }
    let attached = app.attach().await?;
    let message = ChaosActor { path: target.actor.path.clone(), kind };
    attached.ask(root_of(&target.actor), message, app.question()).await?;
    done(app, &target.actor, word, true)
}

fn root_of(actor: &ActorRef) -> Address {
    Address { actor: ActorKind::Node, target: Target::Named(actor.node.clone()) }
}

fn done(app: &App, actor: &ActorRef, action: &str, done: bool) -> Result<Exit> {
    let view = DoneView { actor: &actor.path, node: &actor.node, action, done };
    let text = match (action, done) {
        ("restart", true) => format!("restarted {actor}"),
        (_, true) => format!("{action}: sent to {actor}; watch it with `weft actors`"),
        (_, false) => format!("would {action} {actor}"),
    };
    app.output.result(&view, text)?;
    Ok(Exit::Ok)
}
