//! `config explain`: what this command, or a node, is configured to do, and who says so
//! (orchestration §7, §26).

use std::path::Path;

use serde::Serialize;
use weft_config::node::{NodeFlags, load_file};

use super::App;
use super::definition::invalid;
use crate::context::{Context, file_of};
use crate::error::{Exit, Result, clean};

/// A setting, as `config explain --json` has it. Field names are promises.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct View {
    key: String,
    value: String,
    /// Who says so.
    origin: String,
    about: String,
}

pub(crate) fn explain(app: &App, node_file: Option<&Path>) -> Result<Exit> {
    let views = match node_file {
        Some(file) => node(file)?,
        None => own(app)?,
    };
    let lines: Vec<String> = views
        .iter()
        .map(|view| {
            let about =
                if view.about.is_empty() { String::new() } else { format!("; {}", view.about) };
            clean(&format!("{} = {}  # {}{about}", view.key, view.value, view.origin))
        })
        .collect();
    app.output.result(&views, lines.join("\n"))?;
    Ok(Exit::Ok)
}

/// What a daemon would be started with by that file, in this environment.
fn node(file: &Path) -> Result<Vec<View>> {
    let loaded = load_file(file, std::env::vars(), &NodeFlags::default())
        .map_err(|errors| invalid(&errors))?;
    let views = loaded.config.explain().into_iter().map(|line| View {
        key: line.key.to_owned(),
        value: line.value,
        origin: line.origin.to_string(),
        about: line.about,
    });
    Ok(views.collect())
}

/// What this command goes by.
fn own(app: &App) -> Result<Vec<View>> {
    let (global, env) = (&app.global, &app.env);
    let file = file_of(global, env)?;
    let context = Context::load(global, env)?;
    let in_file = context.file.display().to_string();
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let who = |flag: Option<&str>, variable: &str, otherwise: &str| match flag {
        Some(flag) => flag.to_owned(),
        None if !variable.is_empty() && set(variable) => variable.to_owned(),
        None => otherwise.to_owned(),
    };
    let section = format!("[contexts.{}] of {in_file}", context.name);
    let mut views = Vec::new();
    let mut say = |key: &str, value: String, origin: String, about: &str| {
        views.push(View { key: key.to_owned(), value, origin, about: about.to_owned() });
    };
    let flag = global.config.is_some().then_some("--config");
    let found = who(flag, "WEFT_CONFIG", "default");
    say("file", quoted(&file.display().to_string()), found, "the CLI file");
    let flag = global.context.is_some().then_some("--context");
    let chosen = who(flag, "WEFT_CONTEXT", &in_file);
    say("context", quoted(&context.name), chosen, "the cluster that commands are about");
    say("cluster", quoted(&context.cluster), section.clone(), "its id");
    let nodes: Vec<String> = context
        .nodes
        .iter()
        .map(|node| quoted(&format!("{} at {}", node.name, node.address)))
        .collect();
    say("nodes", format!("[{}]", nodes.join(", ")), section.clone(), "tried in this order");
    let path = |path: &Path| quoted(&path.display().to_string());
    let identity = path(&context.identity_dir);
    say("identity_dir", identity, section.clone(), "certificate and key of the operator");
    let socket = context.socket.as_deref().map_or_else(|| quoted(""), path);
    say("socket", socket, section, "of a node on this machine, tried first");
    let services = path(&context.services_dir);
    // Beside the file unless it says otherwise.
    let otherwise = match context.services_dir == beside(&file) {
        true => "default".to_owned(),
        false => in_file.clone(),
    };
    let dir = who(None, "WEFT_SERVICES_DIR", &otherwise);
    say("services.dir", services, dir, "definitions that `deploy` and `sync` find");
    if let Some(node) = &global.node {
        say("node", quoted(node), "--node".to_owned(), "the node that is attached to");
    }
    Ok(views)
}

fn beside(file: &Path) -> std::path::PathBuf {
    file.parent().unwrap_or(Path::new("")).join("services")
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
