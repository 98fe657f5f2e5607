//! `purge`: the cluster forgets services that were undeployed (orchestration §7).

use serde::Serialize;
use weft_protocol::{CommandRef, PurgeService, PurgedService, StateView};
use weft_wire::{ActorKind, Address};

use super::{App, agreed, request};
use crate::args::Purge;
use crate::error::{CliError, Exit, Result, clean};

/// What became of a service, as `purge --json` has it. Field names are promises.
#[derive(Debug, Serialize)]
struct View {
    service: String,
    purged: bool,
    revisions: u32,
    /// Nodes whose data directories of it are gone.
    data: Vec<String>,
    /// Why it is there still.
    error: Option<String>,
}

pub(crate) async fn run(app: &App, args: &Purge) -> Result<Exit> {
    let attached = app.attach().await?;
    let state = agreed::state(app, &attached, !args.dry_run).await?;
    let (services, claimed) = chosen(app, args.target.as_ref(), &state)?;
    for service in &claimed {
        app.output.notice(format!("{service}: kept, its definition file is there"));
    }
    if !args.dry_run && !services.is_empty() {
        agree(app, &services, args.data)?;
    }
    let mut views = Vec::new();
    for service in services {
        let message = PurgeService {
            request: request(),
            service: service.clone(),
            data: args.data,
            dry_run: args.dry_run,
        };
        let answer = attached.ask(Address::here(ActorKind::Gateway), message, app.change()).await;
        let (done, error) = match answer {
            Ok(done) => (done, None),
            Err(error) if args.target.is_some() => return Err(error),
            Err(error) => (PurgedService { revisions: 0, data: Vec::new() }, Some(error)),
        };
        views.push(View {
            service,
            purged: error.is_none() && !args.dry_run,
            revisions: done.revisions,
            data: done.data,
            error: error.map(|error| error.to_string()),
        });
    }
    let lines: Vec<String> = views.iter().map(|view| line(view, args.dry_run)).collect();
    let text = if lines.is_empty() {
        "nothing to purge: no service is undeployed".to_owned()
    } else {
        clean(&lines.join("\n"))
    };
    app.output.result(&views, text)?;
    let failed = views.iter().filter(|view| view.error.is_some()).count();
    Ok(match failed {
        0 => Exit::Ok,
        failed if failed == views.len() => Exit::Failed,
        _ => Exit::Partial,
    })
}

/// Which services are meant, and which of them stay because a definition file claims them.
fn chosen(
    app: &App,
    target: Option<&CommandRef>,
    state: &StateView,
) -> Result<(Vec<String>, Vec<String>)> {
    let dir = app.context()?.services_dir;
    let file = |service: &str| dir.join(format!("{service}.toml"));
    let Some(target) = target else {
        let gone = state.services.iter().filter(|service| service.undeployed);
        return Ok(gone.map(|s| s.name.clone()).partition(|service| !file(service).exists()));
    };
    if !target.component.is_empty() {
        return Err(of_component(target, state));
    }
    let file = file(&target.service);
    if file.exists() {
        let text = format!("{} claims service `{}`", file.display(), target.service);
        return Err(CliError::new(Exit::Failed, "conflict", text).help(
            "move the file away first: the service would come back with the next `weft sync`",
        ));
    }
    Ok((vec![target.service.clone()], Vec::new()))
}

/// A component is in the registry exactly as long as the definition in force has it.
fn of_component(target: &CommandRef, state: &StateView) -> CliError {
    let service = &target.service;
    let there = state
        .service(service)
        .is_some_and(|record| record.spec.component(&target.component).is_some());
    if there {
        let text = format!("`{target}` is in the definition of `{service}`");
        return CliError::new(Exit::Failed, "conflict", text).help(
            "take it out of the definition and deploy that: nothing of it is kept afterwards",
        );
    }
    CliError::new(Exit::Failed, "not-found", format!("nothing of `{target}` is kept"))
        .help("`weft list` shows what is there")
}

/// Has a person agree; data only by typing the name of what is lost.
fn agree(app: &App, services: &[String], data: bool) -> Result<()> {
    let names = services.join(", ");
    if !data {
        return app.output.confirm(&format!("forget {names}: definition and history"));
    }
    let what = format!("forget {names} and delete their data on every node");
    app.output.confirm_typed(&what, &names)
}

fn line(view: &View, dry_run: bool) -> String {
    let service = &view.service;
    if let Some(error) = &view.error {
        return format!("{service}: {error}");
    }
    let done = if dry_run { "would be purged" } else { "purged" };
    let data = match view.data.as_slice() {
        [] => String::new(),
        nodes => format!(", data on {}", nodes.join(", ")),
    };
    let revisions = match view.revisions {
        1 => "1 revision".to_owned(),
        n => format!("{n} revisions"),
    };
    format!("{service}: {done} ({revisions}{data})")
}
