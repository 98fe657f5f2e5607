//! `stop`, `start`, `restart`, `undeploy`.

use std::path::Path;

use serde::Serialize;
use weft_protocol::{ClusterPs, CommandRef, ComponentRow, LifecycleAction, LifecycleRequest};
use weft_wire::{ActorKind, Address};

use super::change::follow;
use super::{App, millis, request};
use crate::args::{Change, Hold, Lifecycle, Rollback, Scale, Undeploy};
use crate::attach::Attached;
use crate::error::{Exit, Result};
use crate::output::Output;
use crate::output::views::ComponentView;
use crate::paths::write_file;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stop,
    Start,
    Restart,
    Undeploy,
    Scale(u32),
    Rollback(u64),
    Pause,
    Resume,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Undeploy => "undeploy",
            Self::Scale(_) => "scale",
            Self::Rollback(_) => "rollback",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    const fn action(self) -> LifecycleAction {
        match self {
            Self::Stop => LifecycleAction::Stop,
            Self::Start => LifecycleAction::Start,
            Self::Restart => LifecycleAction::Restart,
            Self::Undeploy => LifecycleAction::Undeploy,
            Self::Scale(replicas) => LifecycleAction::Scale(replicas),
            Self::Rollback(revision) => LifecycleAction::Rollback(revision),
            Self::Pause => LifecycleAction::Pause,
            Self::Resume => LifecycleAction::Resume,
        }
    }

    /// What the local file's `active` line becomes (§10); `None`: it is left alone.
    const fn active(self) -> Option<bool> {
        match self {
            Self::Stop | Self::Undeploy => Some(false),
            Self::Start => Some(true),
            Self::Restart | Self::Scale(_) | Self::Rollback(_) | Self::Pause | Self::Resume => None,
        }
    }
}

pub(crate) async fn run(app: &App, kind: Kind, args: &Lifecycle) -> Result<Exit> {
    let attached = app.attach().await?;
    if args.change.dry_run {
        let rows = affected(app, &attached, &args.target).await?;
        return would(&app.output, kind, &rows);
    }
    act(app, &attached, kind, args.target.clone(), args.change).await
}

pub(crate) async fn undeploy(app: &App, args: &Undeploy) -> Result<Exit> {
    let attached = app.attach().await?;
    let target = CommandRef { service: args.service.clone(), component: String::new() };
    let rows = affected(app, &attached, &target).await?;
    if args.change.dry_run {
        return would(&app.output, Kind::Undeploy, &rows);
    }
    app.output.confirm(&tear_down(&args.service, &rows))?;
    act(app, &attached, Kind::Undeploy, target, args.change).await
}

pub(crate) async fn scale(app: &App, args: &Scale) -> Result<Exit> {
    update(app, Kind::Scale(args.replicas), &args.service, args.change).await
}

pub(crate) async fn rollback(app: &App, args: &Rollback) -> Result<Exit> {
    update(app, Kind::Rollback(args.revision.unwrap_or(0)), &args.service, args.change).await
}

pub(crate) async fn hold(app: &App, kind: Kind, args: &Hold) -> Result<Exit> {
    update(app, kind, &args.service, args.change).await
}

/// What is done to a whole service and may take as long as a deploy.
async fn update(app: &App, kind: Kind, service: &str, change: Change) -> Result<Exit> {
    let attached = app.attach().await?;
    let target = CommandRef { service: service.to_owned(), component: String::new() };
    if change.dry_run {
        let rows = affected(app, &attached, &target).await?;
        return would(&app.output, kind, &rows);
    }
    act(app, &attached, kind, target, change).await
}

async fn act(
    app: &App,
    attached: &Attached,
    kind: Kind,
    target: CommandRef,
    change: Change,
) -> Result<Exit> {
    let within = match kind {
        Kind::Scale(_) | Kind::Rollback(_) | Kind::Resume => app.deploy(),
        _ => app.change(),
    };
    let message = LifecycleRequest {
        request: request(),
        target: target.clone(),
        action: kind.action(),
        timeout_ms: millis(within),
        no_wait: change.no_wait,
    };
    let items = attached.subscribe(Address::here(ActorKind::Gateway), message, within).await?;
    follow(attached, items, &app.output, kind.word(), within).await?;
    // A component's own state is not in the file (§10).
    if let (Some(active), true) = (kind.active(), target.component.is_empty()) {
        let dir = app.context()?.services_dir;
        app.output.progress(set_active(&dir, &target.service, active)?);
    }
    Ok(Exit::Ok)
}

/// Edits the `active` line of the local definition, comments and order kept. Returns what to say.
fn set_active(dir: &Path, service: &str, active: bool) -> Result<String> {
    let path = dir.join(format!("{service}.toml"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(format!(
                "{} does not exist: only the cluster's flag was changed",
                path.display()
            ));
        }
        Err(error) => return Err(crate::error::CliError::io("read", &path, &error)),
    };
    let edited = weft_config::service::set_active(&text, active)
        .map_err(|errors| super::definition::invalid(&errors))?;
    if edited == text {
        return Ok(format!("{}: active is {active} already", path.display()));
    }
    write_file(&path, &edited)?;
    Ok(format!("{}: active = {active}", path.display()))
}

async fn affected(
    app: &App,
    attached: &Attached,
    target: &CommandRef,
) -> Result<Vec<ComponentRow>> {
    let message = ClusterPs { target: Some(target.clone()) };
    let reply = attached.ask(Address::here(ActorKind::Gateway), message, app.question()).await?;
    Ok(reply.rows)
}

fn would(output: &Output, kind: Kind, rows: &[ComponentRow]) -> Result<Exit> {
    #[derive(Serialize)]
    struct View {
        action: &'static str,
        components: Vec<ComponentView>,
    }
    let view =
        View { action: kind.word(), components: rows.iter().map(ComponentView::from).collect() };
    let lines: Vec<String> = rows
        .iter()
        .map(|row| format!("would {} {} on {}", kind.word(), row.status.key, row.node))
        .collect();
    let text = if lines.is_empty() {
        format!("would {} nothing: no such component is there", kind.word())
    } else {
        lines.join("\n")
    };
    output.result(&view, text)?;
    Ok(Exit::Ok)
}

fn tear_down(service: &str, rows: &[ComponentRow]) -> String {
    let mut nodes: Vec<&str> =
        rows.iter().map(|r| r.node.as_str()).filter(|n| !n.is_empty()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let on = if nodes.is_empty() { String::new() } else { format!(" on {}", nodes.join(", ")) };
    let count = match rows.len() {
        1 => "1 component".to_owned(),
        n => format!("{n} components"),
    };
    format!(
        "tear down service {service}: {count}{on} will be stopped and removed (data directories and history stay)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_active_line_of_the_local_file_changes() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("web.toml");
        let text = "# mine\nname = \"web\"  # keep\nactive = true # here\n\n[[components]]\nname = \"a\"\ncmd = [\"x\"]\n";
        std::fs::write(&path, text).expect("writes");
        set_active(dir.path(), "web", false).expect("edits");
        let edited = std::fs::read_to_string(&path).expect("reads");
        assert_eq!(edited, text.replace("active = true", "active = false"));
        set_active(dir.path(), "web", true).expect("edits");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), text);
    }

    #[test]
    fn without_a_local_file_only_the_clusters_flag_changes_and_that_is_said() {
        let dir = tempfile::tempdir().expect("temp dir");
        let said = set_active(dir.path(), "web", false).expect("no failure");
        assert!(said.contains("only the cluster's flag"), "{said}");
        assert!(std::fs::read_dir(dir.path()).expect("reads").next().is_none());
    }

    #[test]
    fn undeploy_names_what_it_tears_down() {
        let text = tear_down("web", &[]);
        assert!(text.contains("service web") && text.contains("0 components"), "{text}");
    }
}
