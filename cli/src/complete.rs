//! Completion in the shell: the command line itself, and the names of what is there, asked for when
//! they are wanted (orchestration §7).
//!
//! The shell's script calls this program with `COMPLETE=<shell>` and the words so far. Names come
//! from the cluster that those words or the environment select; without an answer in time there are
//! none, and nothing is printed about it.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{Command, CommandFactory};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use weft_protocol::{ClusterNodes, ListServices};
use weft_wire::{ActorKind, Address};

use crate::args::{Cli, Global};
use crate::attach::{Attached, Attacher};
use crate::context::Context;
use crate::error::{CliError, Exit, Result};
use crate::paths::Env;

/// In a shell's script and in the environment.
const VARIABLE: &str = "COMPLETE";
/// Nobody waits longer for a name.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the words so far say about where to ask.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// Services; with a `/`, components of one.
    Services {
        components: bool,
    },
    Nodes,
}

/// Answers a shell and ends, if one asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The script that has a shell ask.
///
/// # Errors
/// When there is none for that shell.
pub(crate) fn script(shell: &str) -> Result<Vec<u8>> {
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(shell) else {
        let known: Vec<_> = shells.names().collect();
        return Err(CliError::usage(format!("no completions for `{shell}`"))
            .help(format!("there are some for {}", known.join(", "))));
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "weft", "weft", "weft", &mut script)
        .map_err(|error| CliError::new(Exit::Failed, "failed", error.to_string()))?;
    Ok(script)
}

/// The command line, with names for its arguments.
fn command() -> Command {
    named(Cli::command())
}

fn named(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let names = arg.get_value_names().unwrap_or_default();
        let word = names.first().map(|name| name.as_str().to_owned());
        let word = word.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
        match of(&word) {
            Some(names) => arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
                candidates(names, &typed.to_string_lossy())
            })),
            None => arg,
        }
    });
    command.mut_subcommands(named)
}

/// What an argument of that name takes.
fn of(word: &str) -> Option<Names> {
    match word {
        "SERVICE" => Some(Names::Services { components: false }),
        "SERVICE[/COMPONENT]" | "TARGET" => Some(Names::Services { components: true }),
        "NODE" | "NODES" => Some(Names::Nodes),
        _ => None,
    }
}

/// Names that begin with what is typed.
fn candidates(names: Names, typed: &str) -> Vec<CompletionCandidate> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let asking = async {
        let attached = attach(&words).await.ok()?;
        match names {
            Names::Services { components } => services(&attached, components, typed).await,
            Names::Nodes => nodes(&attached).await,
        }
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let found = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
    runtime.shutdown_background();
    let mut found = found.ok().flatten().unwrap_or_default();
    found.sort();
    found.dedup();
    found.retain(|name| name.starts_with(typed));
    found.into_iter().map(CompletionCandidate::new).collect()
}

async fn attach(words: &[OsString]) -> Result<Attached> {
    let global = Global {
        config: value(words, "--config").map(Into::into),
        context: value(words, "--context").and_then(|name| name.into_string().ok()),
        ..Global::default()
    };
    let context = Context::load(&global, &Env::read())?;
    let node = value(words, "--node").and_then(|name| name.into_string().ok());
    Attacher::new(&context).attach(node.as_deref()).await
}

/// The value of an option among words that nobody has parsed.
fn value(words: &[OsString], option: &str) -> Option<OsString> {
    // The last is what is being typed.
    let mut words = words.iter().take(words.len().saturating_sub(1));
    loop {
        let word = words.next()?;
        if word == option {
            return words.next().cloned();
        }
        let text = word.to_str().unwrap_or_default();
        if let Some(value) = text.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.into());
        }
    }
}

async fn services(attached: &Attached, components: bool, typed: &str) -> Option<Vec<String>> {
    let gateway = Address::here(ActorKind::Gateway);
    let rows = attached.ask(gateway, ListServices {}, PATIENCE).await.ok()?;
    let of_one = components && typed.contains('/');
    let name = |service: String, component: String| match of_one {
        true => format!("{service}/{component}"),
        false => service,
    };
    Some(rows.into_iter().map(|row| name(row.service, row.component)).collect())
}

async fn nodes(attached: &Attached) -> Option<Vec<String>> {
    let gateway = Address::here(ActorKind::Gateway);
    let rows = attached.ask(gateway, ClusterNodes {}, PATIENCE).await.ok()?;
    Some(rows.into_iter().map(|row| row.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_among_words_that_are_not_parsed() {
        let words: Vec<OsString> =
            ["weft", "--context=a", "--config", "f", "stop"].map(Into::into).to_vec();
        assert_eq!(value(&words, "--context"), Some("a".into()));
        assert_eq!(value(&words, "--config"), Some("f".into()));
        assert_eq!(value(&words, "--node"), None);
        assert_eq!(value(&words[..3], "--config"), None);
        assert_eq!(value(&words[..4], "--config"), None, "it is being typed");
    }

    #[test]
    fn every_shell_that_is_offered_has_a_script_that_asks() {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = String::from_utf8(script(shell).expect("a script")).expect("text");
            assert!(script.contains("COMPLETE"), "{shell}: {script}");
        }
        assert!(script("tcsh").is_err());
    }
}
