//! `sync`: the whole services directory against the cluster (orchestration §9).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use weft_config::service::{Stem, parse_file};
use weft_protocol::{
    DeployOptions, LifecycleAction, LifecycleRequest, ServiceRecord, ServiceSpec, StateView,
    changed_service_fields,
};
use weft_wire::{ActorKind, Address};

use super::change::follow;
use super::definition::{Wanted, drawn, resolve_programs};
use super::deploy::deploy;
use super::validate::files_in;
use super::{App, agreed, millis, request, ship};
use crate::args::Sync;
use crate::attach::Attached;
use crate::context::parse_options;
use crate::error::{CliError, Exit, Result};
use crate::paths::absolute;

/// What is done about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// It is as its file says, or what differs is not for this command.
    Unchanged,
    /// Its definition is stored, and nothing is started.
    Record,
    /// Its definition is put in force.
    Deploy,
    Start,
    Stop,
    /// It has no file, and is left alone.
    Undeclared,
    /// It has no file, and goes.
    Undeploy,
}

impl Action {
    const fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Record => "record",
            Self::Deploy => "deploy",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Undeclared => "undeclared",
            Self::Undeploy => "undeploy",
        }
    }

    const fn changes(self) -> bool {
        !matches!(self, Self::Unchanged | Self::Undeclared)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    service: String,
    action: Action,
    /// For people.
    summary: String,
    spec: Option<Box<ServiceSpec>>,
}

/// What there is to do, by service. Pure.
fn steps(files: &[ServiceSpec], state: &StateView, with_deploy: bool, prune: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = files
        .iter()
        .map(|spec| {
            let (action, summary) = of_file(spec, state.service(&spec.name), with_deploy);
            let spec = Box::new(spec.clone());
            Step { service: spec.name.clone(), action, summary, spec: Some(spec) }
        })
        .collect();
    // An empty directory is more likely a wrong one than the wish to have nothing.
    let prune = prune && !files.is_empty();
    let undeclared = state
        .services
        .iter()
        .filter(|record| !record.undeployed && !files.iter().any(|spec| spec.name == record.name));
    steps.extend(undeclared.map(|record| Step {
        service: record.name.clone(),
        action: if prune { Action::Undeploy } else { Action::Undeclared },
        summary: if prune {
            "no file: undeployed".to_owned()
        } else {
            "no file; `weft sync --prune` undeploys it".to_owned()
        },
        spec: None,
    }));
    steps.sort_by(|a, b| a.service.cmp(&b.service));
    steps
}

fn of_file(
    spec: &ServiceSpec,
    record: Option<&ServiceRecord>,
    with_deploy: bool,
) -> (Action, String) {
    let name = &spec.name;
    let Some(record) = record else {
        return if with_deploy {
            (Action::Deploy, "new: deployed".to_owned())
        } else {
            (Action::Record, format!("new: recorded; `weft deploy {name}` starts it"))
        };
    };
    let changed = changed(&record.spec, spec);
    if record.undeployed {
        return match (with_deploy && spec.active, changed.is_empty()) {
            (true, _) => (Action::Deploy, "deployed".to_owned()),
            (false, true) => {
                (Action::Unchanged, format!("recorded; `weft deploy {name}` starts it"))
            }
            (false, false) => (Action::Record, format!("recorded anew: {}", changed.join(", "))),
        };
    }
    if with_deploy && !changed.is_empty() {
        return (Action::Deploy, format!("deployed: {}", changed.join(", ")));
    }
    let differs = if changed.is_empty() {
        String::new()
    } else {
        let revision = record.revision;
        let fields = changed.join(", ");
        format!("differs from revision {revision} ({fields}): `weft deploy {name}`")
    };
    match (spec.active, record.active) {
        (true, false) => (Action::Start, with("started", &differs)),
        (false, true) => (Action::Stop, with("stopped", &differs)),
        _ => (Action::Unchanged, differs),
    }
}

fn with(done: &str, remark: &str) -> String {
    if remark.is_empty() { done.to_owned() } else { format!("{done}; {remark}") }
}

/// Names of what differs, `active` aside.
fn changed(have: &ServiceSpec, want: &ServiceSpec) -> Vec<String> {
    let want = ServiceSpec { active: have.active, ..want.clone() };
    let mut fields: Vec<String> =
        changed_service_fields(have, &want).into_iter().map(str::to_owned).collect();
    for component in &want.components {
        match have.component(&component.name) {
            None => fields.push(format!("+{}", component.name)),
            Some(old) if old != component => fields.push(component.name.clone()),
            Some(_) => {}
        }
    }
    for old in &have.components {
        if want.component(&old.name).is_none() {
            fields.push(format!("-{}", old.name));
        }
    }
    if fields.is_empty() && want != *have {
        fields.push("order".to_owned());
    }
    fields
}

/// Where the files lie that a service's definition ships, by service.
type Sources = BTreeMap<String, Vec<PathBuf>>;

/// Every definition of the directory, or every mistake in them.
fn read_all(app: &App, dir: &Path) -> Result<(Vec<ServiceSpec>, Sources)> {
    let mut specs = Vec::new();
    let mut sources = Sources::new();
    let mut mistakes = Vec::new();
    let mut bad = 0usize;
    let registry = app.context()?.registry;
    for file in files_in(dir)? {
        match parse_file(&file, Stem::MustMatch, parse_options(&registry)) {
            Ok(mut parsed) => {
                for warning in &parsed.warnings {
                    app.output.notice(warning);
                }
                let dir = absolute(dir)?;
                resolve_programs(&mut parsed.spec, &dir);
                match ship::read(&mut parsed.spec, &dir) {
                    Ok(found) => {
                        sources.insert(parsed.spec.name.clone(), found);
                    }
                    Err(error) => {
                        bad += 1;
                        mistakes.push(format!("{}: {error}", file.display()));
                    }
                }
                specs.push(parsed.spec);
            }
            Err(errors) => {
                bad += 1;
                mistakes.extend(errors.iter().map(|m| format!("{}\n{}", m.short(), drawn(m))));
            }
        }
    }
    if bad > 0 {
        let text = format!("{bad} definitions have mistakes; nothing was sent");
        return Err(CliError::new(Exit::Usage, "invalid", text).details(mistakes));
    }
    Ok((specs, sources))
}

#[derive(Serialize)]
struct View {
    dry_run: bool,
    services: Vec<StepView>,
}

#[derive(Serialize)]
struct StepView {
    service: String,
    /// `unchanged`, `record`, `deploy`, `start`, `stop`, `undeclared` or `undeploy`.
    action: &'static str,
    changed: bool,
    summary: Option<String>,
    error: Option<String>,
}

pub(crate) async fn run(app: &App, args: &Sync) -> Result<Exit> {
    let dir = app.context()?.services_dir;
    let (files, sources) = read_all(app, &dir)?;
    let attached = app.attach().await?;
    let state = agreed::state(app, &attached, !args.dry_run).await?;
    let steps = steps(&files, &state, args.deploy, args.prune);
    if files.is_empty() {
        app.output.notice(format!("there are no definitions in {}", dir.display()));
    }
    let goes: Vec<&str> = steps
        .iter()
        .filter(|step| step.action == Action::Undeploy)
        .map(|step| step.service.as_str())
        .collect();
    if !goes.is_empty() && !args.dry_run {
        app.output.confirm(&format!(
            "undeploy {}, which have no file in {} (data directories and history stay)",
            goes.join(", "),
            dir.display()
        ))?;
    }
    let mut errors: Vec<CliError> = Vec::new();
    let mut views = Vec::new();
    for step in &steps {
        let done = if args.dry_run { Ok(()) } else { act(app, &attached, step, &sources).await };
        let error = done.err();
        if !app.output.json {
            app.output.line(line(step, error.as_ref()))?;
        }
        views.push(StepView {
            service: step.service.clone(),
            action: step.action.word(),
            changed: step.action.changes() && error.is_none(),
            summary: (!step.summary.is_empty()).then(|| step.summary.clone()),
            error: error.as_ref().map(ToString::to_string),
        });
        errors.extend(error);
    }
    let changed = views.iter().filter(|view| view.changed).count();
    if app.output.json {
        app.output.document(&View { dry_run: args.dry_run, services: views })?;
    } else {
        let rest = steps.len() - changed - errors.len();
        let failed = match errors.len() {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        app.output.line(format!("{changed} changed, {rest} unchanged{failed}"))?;
        if args.dry_run {
            app.output.progress("nothing was done: this was a dry run");
        }
    }
    if let Some(first) = errors.into_iter().next() {
        let exit = if changed > 0 { Exit::Partial } else { first.exit };
        return Err(
            CliError::new(exit, "partial", "not every service is as its file says").cause(first)
        );
    }
    Ok(if args.exit_code && changed > 0 { Exit::Drift } else { Exit::Ok })
}

fn line(step: &Step, error: Option<&CliError>) -> String {
    let word = if step.action.changes() { "changed" } else { step.action.word() };
    let text = match error {
        Some(error) => format!("{}: failed: {error}", step.service),
        None if step.summary.is_empty() => format!("{}: {word}", step.service),
        None => format!("{}: {word}: {}", step.service, step.summary),
    };
    crate::error::clean(&text)
}

async fn act(app: &App, attached: &Attached, step: &Step, sources: &Sources) -> Result<()> {
    let sources = sources.get(&step.service).cloned().unwrap_or_default();
    let output = app.output.without_results();
    let service = step.service.clone();
    match (step.action, &step.spec) {
        (Action::Unchanged | Action::Undeclared, _) => Ok(()),
        (Action::Deploy, Some(spec)) => {
            let spec = Some(spec.clone());
            let wanted = Wanted { service, component: String::new(), spec, sources };
            let options = DeployOptions { if_changed: true, ..DeployOptions::default() };
            deploy(attached, &output, wanted, options, app.deploy(), false).await.map(drop)
        }
        (Action::Record, Some(spec)) => {
            // Stored as one that shall not run, then taken down: what stays is the definition.
            let spec = Box::new(ServiceSpec { active: false, ..(**spec).clone() });
            let (service, component) = (service.clone(), String::new());
            let wanted = Wanted { service, component, spec: Some(spec), sources };
            let options = DeployOptions { if_changed: true, ..DeployOptions::default() };
            deploy(attached, &output, wanted, options, app.change(), true).await?;
            change(app, attached, &step.service, LifecycleAction::Undeploy).await
        }
        (Action::Start, _) => change(app, attached, &service, LifecycleAction::Start).await,
        (Action::Stop, _) => change(app, attached, &service, LifecycleAction::Stop).await,
        (Action::Undeploy, _) => change(app, attached, &service, LifecycleAction::Undeploy).await,
        (Action::Deploy | Action::Record, None) => Ok(()),
    }
}

/// Has it agreed; what comes of it is `weft status`' to say.
async fn change(
    app: &App,
    attached: &Attached,
    service: &str,
    action: LifecycleAction,
) -> Result<()> {
    let within = app.change();
    let message = LifecycleRequest {
        request: request(),
        target: weft_protocol::CommandRef { service: service.to_owned(), component: String::new() },
        action,
        timeout_ms: millis(within),
        no_wait: true,
    };
    let items = attached.subscribe(Address::here(ActorKind::Gateway), message, within).await?;
    follow(attached, items, &app.output.without_results(), "sync", within).await.map(drop)
}

#[cfg(test)]
mod tests;
