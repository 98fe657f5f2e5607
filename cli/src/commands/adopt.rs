//! `adopt`: a service is made of containers that run already.

use std::path::PathBuf;

use serde::Serialize;
use weft_protocol::{AdoptService, AdoptedContainer};
use weft_wire::{ActorKind, Address};

use super::validate::files_in;
use super::{App, request};
use crate::args::Adopt;
use crate::error::{Exit, Result};

/// What became of a container, as `adopt --json` has it. Field names are promises.
#[derive(Debug, Serialize)]
struct View<'a> {
    container: &'a str,
    component: &'a str,
    running: bool,
    adopted: bool,
    /// Why it was left alone; empty: it was adopted, or would be.
    error: &'a str,
    /// What a definition cannot say of it.
    lost: &'a [String],
}

#[derive(Debug, Serialize)]
struct Adopted<'a> {
    service: &'a str,
    node: &'a str,
    /// 0: nothing was adopted.
    revision: u64,
    containers: Vec<View<'a>>,
}

pub(crate) async fn run(app: &App, args: &Adopt) -> Result<Exit> {
    let stem = |path: &PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let others = files_in(&app.context()?.services_dir)?.iter().filter_map(stem).collect();
    let attached = app.attach().await?;
    let message = AdoptService {
        request: request(),
        service: args.service.clone(),
        node: app.global.on.clone().unwrap_or_default(),
        others,
        dry_run: args.dry_run,
    };
    let done = attached.ask(Address::here(ActorKind::Gateway), message, app.change()).await?;
    let adopted = |one: &AdoptedContainer| done.revision > 0 && one.error.is_empty();
    let views = done.containers.iter().map(|one| View {
        container: &one.container,
        component: &one.component,
        running: one.running,
        adopted: adopted(one),
        error: &one.error,
        lost: &one.lost,
    });
    let view = Adopted {
        service: &args.service,
        node: &done.node,
        revision: done.revision,
        containers: views.collect(),
    };
    let lines: Vec<String> = done.containers.iter().map(|one| line(&args.service, one)).collect();
    app.output.result(&view, lines.join("\n"))?;
    if done.revision > 0 {
        app.output.notice(format!(
            "{} is deployed on {} as revision {}; none of its containers was restarted",
            args.service, done.node, done.revision
        ));
    }
    let left = done.containers.iter().filter(|one| !one.error.is_empty()).count();
    Ok(match left {
        0 => Exit::Ok,
        left if left == done.containers.len() => Exit::Failed,
        _ => Exit::Partial,
    })
}

fn line(service: &str, one: &AdoptedContainer) -> String {
    let outcome = if one.error.is_empty() { "ok" } else { one.error.as_str() };
    let mut line = format!("{} -> {service}/{}: {outcome}", one.container, one.component);
    if one.error.is_empty() && !one.lost.is_empty() {
        let lost = one.lost.join(", ");
        line.push_str(&format!(" (when it is made anew it loses {lost})"));
    }
    line
}
