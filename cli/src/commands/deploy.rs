//! `deploy` and `plan` (orchestration §7, §8).

use std::path::Path;
use std::time::Duration;

use weft_protocol::{
    DeployOptions, DeployService, PlanItem, PlanService, ServiceSpec, format_time,
};
use weft_wire::{ActorKind, Address};

use super::change::follow;
use super::definition::{Wanted, check_component, read_arguments, resolve};
use super::{App, agreed, lost, millis, request, ship};
use crate::args::{Deploy, Plan};
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result};
use crate::output::Output;
use crate::output::views::{ChangeView, PlanView, plan_table};

/// The definition that the arguments and the CLI file lead to.
fn wanted(app: &App, target: Option<&str>, file: Option<&Path>) -> Result<Wanted> {
    let (reference, source) = read_arguments(target, file)?;
    let context = app.context()?;
    let at = (context.services_dir.as_path(), context.registry.as_str());
    resolve(reference.as_ref(), &source, at, &app.output)
}

pub(crate) async fn run(app: &App, args: &Deploy) -> Result<Exit> {
    let wanted = wanted(app, args.target.as_deref(), args.file.as_deref())?;
    let attached = app.attach().await?;
    let options = DeployOptions {
        component: wanted.component.clone(),
        if_changed: args.if_changed,
        stopped: Vec::new(),
    };
    let stored = if wanted.spec.is_none() {
        // A change needs a majority anyway: what it brings back is the newest there is.
        Some(last(app, &attached, &wanted, !args.change.dry_run).await?)
    } else {
        None
    };
    let (wanted, stored) = match args.canary {
        None => (wanted, stored),
        Some(canary) => {
            let mut wanted = wanted;
            let spec = wanted.spec.take().or(stored.map(Box::new));
            let mut spec = spec.ok_or_else(|| none(&wanted.service))?;
            spec.update.canary = canary;
            wanted.spec = Some(spec);
            (wanted, None)
        }
    };
    if args.change.dry_run {
        let spec = wanted.spec.or(stored.map(Box::new)).ok_or_else(|| none(&wanted.service))?;
        let items = plan_of(app, &attached, spec, options).await?;
        return show_plan(&app.output, &items);
    }
    if wanted.spec.as_ref().or(stored.map(Box::new).as_ref()).is_some_and(|spec| !spec.active) {
        app.output.notice(format!(
            "{} has `active = false`: the definition is stored, nothing is started",
            wanted.service
        ));
    }
    deploy(&attached, &app.output, wanted, options, app.deploy(), args.change.no_wait).await?;
    Ok(Exit::Ok)
}

/// Deploys and follows until it is healthy or has failed.
///
/// # Errors
/// As [`follow`].
pub(crate) async fn deploy(
    attached: &Attached,
    output: &Output,
    wanted: Wanted,
    options: DeployOptions,
    within: Duration,
    no_wait: bool,
) -> Result<ChangeView> {
    if let Some(spec) = &wanted.spec {
        ship::upload(attached, output, spec, &wanted.sources).await?;
    }
    let message = DeployService {
        request: request(),
        spec: wanted.spec,
        service: wanted.service,
        options,
        timeout_ms: millis(within),
        no_wait,
    };
    let items = attached.subscribe(Address::here(ActorKind::Gateway), message, within).await?;
    follow(attached, items, output, "deploy", within).await
}

pub(crate) async fn plan(app: &App, args: &Plan) -> Result<Exit> {
    if !args.lost.is_empty() {
        return lost::run(app, &args.lost, args.fresh).await;
    }
    let wanted = wanted(app, args.target.as_deref(), args.file.as_deref())?;
    let attached = app.attach().await?;
    agreed::catch_up(app, &attached, args.fresh).await?;
    let options = DeployOptions {
        component: wanted.component.clone(),
        if_changed: args.if_changed,
        stopped: Vec::new(),
    };
    let spec = match wanted.spec {
        Some(spec) => spec,
        None => Box::new(last(app, &attached, &wanted, false).await?),
    };
    let items = plan_of(app, &attached, spec, options).await?;
    show_plan(&app.output, &items)
}

async fn plan_of(
    app: &App,
    attached: &Attached,
    spec: Box<ServiceSpec>,
    options: DeployOptions,
) -> Result<Vec<PlanItem>> {
    let message = PlanService { spec, options };
    attached.ask(Address::here(ActorKind::Gateway), message, app.question()).await
}

fn show_plan(output: &Output, items: &[PlanItem]) -> Result<Exit> {
    let views: Vec<PlanView> = items.iter().map(PlanView::from).collect();
    output.result(&views, plan_table(items))?;
    Ok(Exit::Ok)
}

/// The definition last deployed, announced on stderr (§8.1, rule 3).
async fn last(
    app: &App,
    attached: &Attached,
    wanted: &Wanted,
    consistent: bool,
) -> Result<ServiceSpec> {
    let state = agreed::state(app, attached, consistent).await?;
    let record = state.service(&wanted.service).ok_or_else(|| none(&wanted.service))?;
    check_component(&record.spec, &wanted.component)?;
    app.output.notice(format!(
        "no local definition of {}: using revision {} from the registry, deployed {}",
        record.name,
        record.revision,
        format_time(record.updated_at)
    ));
    Ok(record.spec.clone())
}

fn none(service: &str) -> CliError {
    CliError::usage(format!("there is no definition of service `{service}`"))
        .help(format!(
            "write {service}.toml in the services directory, or name a definition with -f"
        ))
        .service(service)
}
