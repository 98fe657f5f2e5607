//! `up`: a whole cluster on this machine, no root, nothing to edit (design §10).

mod cluster;
pub(crate) mod down;
mod process;
mod state;
mod supervise;

use tokio::signal::unix::{SignalKind, signal};

use weft_protocol::files::ProcessFile;

use crate::args::Up;
use crate::commands::App;
use crate::error::{CliError, Exit, Result};
use cluster::{Cluster, Programs};

pub(crate) async fn run(app: &App, args: &Up) -> Result<Exit> {
    // Before anything is started, so that nothing is left behind by a signal in between.
    let mut stop = Stop::listen()?;
    let programs = Programs::find(!args.no_hello)?;
    if args.dry_run {
        let dir = args
            .dir
            .as_ref()
            .map_or("a new temporary directory".into(), |d| d.display().to_string());
        let hello = if args.no_hello { "" } else { ", and deploy hello on them" };
        let nodes = args.nodes.unwrap_or(cluster::NODES);
        app.output.would(format!("make and run {nodes} nodes in {dir}{hello}"))?;
        return Ok(Exit::Ok);
    }
    let mut cluster = Cluster::open(app, args, programs)?;
    app.output.progress(format!("weft up in {}", cluster.dir.display()));
    let outcome = tokio::select! {
        outcome = cluster.bring_up(app) => outcome.map(|()| true),
        () = stop.asked() => Ok(false),
    };
    match outcome {
        Ok(true) if args.detach => {
            let view = cluster.view();
            app.output.result(&view, supervise::detached(&cluster))?;
            return Ok(Exit::Ok);
        }
        Ok(true) => {
            if app.output.json {
                app.output.document(&cluster.view())?;
            }
            let watched = supervise::watch(app, &mut cluster, &mut stop).await;
            tear_down(app, &cluster).await?;
            watched?;
        }
        Ok(false) => tear_down(app, &cluster).await?,
        Err(error) => {
            // The first error is the one that matters.
            return Err(match tear_down(app, &cluster).await {
                Ok(()) => error,
                Err(second) => error.details([second.to_string()]),
            });
        }
    }
    app.output.progress("stopped");
    Ok(Exit::Ok)
}

async fn tear_down(app: &App, cluster: &Cluster) -> Result<()> {
    app.output.progress("\nstopping …");
    let own: Vec<ProcessFile> = cluster
        .nodes
        .iter()
        .filter_map(|node| ProcessFile::of(node.child.as_ref()?.id()?).ok())
        .collect();
    down::stop(&cluster.dir, &cluster.file.nodes, &own).await?;
    down::remove(app, &cluster.dir, &cluster.file)?;
    Ok(())
}

/// Ctrl-C, SIGTERM or a terminal that goes away.
pub(crate) struct Stop {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Stop {
    fn listen() -> Result<Self> {
        let on =
            |kind| signal(kind).map_err(|e| CliError::failed("cannot listen for signals").cause(e));
        Ok(Self {
            signals: [
                on(SignalKind::interrupt())?,
                on(SignalKind::terminate())?,
                on(SignalKind::hangup())?,
            ],
        })
    }

    /// Resolves when somebody asks to stop.
    pub(crate) async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
