//! One file per verb or family of verbs.

mod actors;
mod adopt;
pub(crate) mod agreed;
mod alerts;
mod audit;
mod change;
mod cluster;
mod config;
pub(crate) mod definition;
pub(crate) mod deploy;
mod drain;
mod events;
mod exec;
mod follow;
mod history;
pub(crate) mod init;
pub(crate) mod join;
mod lifecycle;
mod login;
mod logs;
mod lost;
mod man;
mod node;
mod operations;
mod provision;
mod purge;
mod recover;
mod service;
mod session;
mod session_files;
pub(crate) mod ship;
mod show;
mod stats;
mod sync;
mod top;
mod transfer;
mod validate;

pub(crate) use node::find as find_node;

#[cfg(test)]
pub(crate) use drain::tests::node as drain_test_node;

use std::time::Duration;

use serde::Serialize;
use weft_wire::RequestId;

use crate::args::{Cli, ConfigVerb, Global, Verb};
use crate::attach::{Attached, Attacher};
use crate::context::Context;
use crate::error::{CliError, Exit, Result};
use crate::output::Output;
use crate::paths::Env;

/// What every verb works with.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) global: Global,
    pub(crate) output: Output,
    pub(crate) env: Env,
}

impl App {
    /// The context the flags and the environment select.
    ///
    /// # Errors
    /// When there is none, or its file has mistakes.
    pub(crate) fn context(&self) -> Result<Context> {
        Context::load(&self.global, &self.env)
    }

    /// Attaches as the flags say.
    ///
    /// # Errors
    /// Exit 5 when nobody answers; exit 3 when nobody accepts the certificate.
    pub(crate) async fn attach(&self) -> Result<Attached> {
        let context = self.context()?;
        Attacher::new(&context).attach(self.global.node.as_deref()).await
    }

    /// How long a question may take.
    pub(crate) fn question(&self) -> Duration {
        self.global.timeout.unwrap_or(Duration::from_secs(10))
    }

    /// How long a change may take.
    pub(crate) fn change(&self) -> Duration {
        self.global.timeout.unwrap_or(Duration::from_secs(120))
    }

    /// How long a deploy may take (orchestration §8.2).
    pub(crate) fn deploy(&self) -> Duration {
        self.global.timeout.unwrap_or(Duration::from_secs(300))
    }
}

/// A new request's id.
pub(crate) fn request() -> RequestId {
    RequestId::new(uuid::Uuid::now_v7())
}

/// Whole milliseconds, for messages.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a parsed command line; the exit code.
///
/// # Errors
/// Whatever kept it from being done.
pub(crate) async fn run(cli: Cli) -> Result<u8> {
    let output = Output::new(&cli.global);
    let app = App { output, global: cli.global, env: Env::read() };
    if app.global.on.is_some() && !matches!(cli.verb, Verb::Adopt(_) | Verb::Exec(_)) {
        return Err(CliError::usage("--on is only for `adopt` and `exec` in this version")
            .help("--node chooses the node to attach to; replicas are placed by name"));
    }
    match cli.verb {
        // It ends as what it runs.
        Verb::Exec(args) => exec::run(&app, &args).await,
        verb => run_verb(app, verb).await.map(|exit| exit as u8),
    }
}

async fn run_verb(app: App, verb: Verb) -> Result<Exit> {
    match verb {
        Verb::Exec(args) => exec::run(&app, &args).await.map(|_| Exit::Ok),
        Verb::Init(args) => init::run(&app, &args),
        Verb::Join(args) => join::run(&app, &args).await,
        Verb::Login(args) => login::login(&app, &args).await,
        Verb::Whoami => login::whoami(&app).await,
        Verb::Up(args) => crate::up::run(&app, &args).await,
        Verb::Down(args) => crate::up::down::run(&app, &args).await,
        Verb::Deploy(args) => deploy::run(&app, &args).await,
        Verb::Plan(args) => deploy::plan(&app, &args).await,
        Verb::Validate(args) => validate::run(&app, &args),
        Verb::Service(args) => service::run(&app, &args).await,
        Verb::Edit(args) => service::edit(&app, &args).await,
        Verb::Recover(args) => recover::run(&app, &args).await,
        Verb::Sync(args) => sync::run(&app, &args).await,
        Verb::Stop(args) => lifecycle::run(&app, lifecycle::Kind::Stop, &args).await,
        Verb::Start(args) => lifecycle::run(&app, lifecycle::Kind::Start, &args).await,
        Verb::Restart(args) => lifecycle::run(&app, lifecycle::Kind::Restart, &args).await,
        Verb::Undeploy(args) => lifecycle::undeploy(&app, &args).await,
        Verb::Purge(args) => purge::run(&app, &args).await,
        Verb::Adopt(args) => adopt::run(&app, &args).await,
        Verb::Scale(args) => lifecycle::scale(&app, &args).await,
        Verb::Rollback(args) => lifecycle::rollback(&app, &args).await,
        Verb::Pause(args) => lifecycle::hold(&app, lifecycle::Kind::Pause, &args).await,
        Verb::Resume(args) => lifecycle::hold(&app, lifecycle::Kind::Resume, &args).await,
        Verb::History(args) => history::run(&app, &args).await,
        Verb::Push(args) => transfer::push(&app, &args).await,
        Verb::Pull(args) => transfer::pull(&app, &args).await,
        Verb::List(args) => show::list(&app, &args).await,
        Verb::Ps(args) => show::ps(&app, &args).await,
        Verb::Status(args) => show::status(&app, &args).await,
        Verb::Logs(args) => logs::run(&app, &args).await,
        Verb::Stats(args) => stats::run(&app, &args).await,
        Verb::Top(_) => top::run(&app).await,
        Verb::Events(args) => events::run(&app, &args).await,
        Verb::Alerts(args) => alerts::run(&app, &args).await,
        Verb::Audit(args) => audit::run(&app, &args).await,
        Verb::Operations(args) => operations::run(&app, &args).await,
        Verb::Session(args) => session::run(&app, &args.verb).await,
        Verb::Actors(args) => actors::run(&app, &args).await,
        Verb::Chaos(args) => actors::chaos(&app, &args).await,
        Verb::Node(args) => node::run(&app, &args).await,
        Verb::Cluster(args) => cluster::run(&app, &args).await,
        Verb::Config(args) => match args.verb {
            ConfigVerb::Explain { node_file } => config::explain(&app, node_file.as_deref()),
        },
        Verb::Upgrade(_) => Err(later(
            "weft upgrade",
            "replace the programs and restart weftd on one node after the other: components run on",
        )),
        Verb::Ca(_) => Err(later(
            "weft ca",
            "node and operator certificates renew themselves; a removed node's authority leaves by itself",
        )),
        Verb::Version => version(&app),
        Verb::Completions { shell } => completions(shell),
        Verb::Man { dir } => man::run(&app, &dir),
    }
}

/// What is announced and not there yet (design §11).
fn later(what: &str, instead: &str) -> CliError {
    CliError::usage(format!("`{what}` is not in this version")).help(instead)
}

fn version(app: &App) -> Result<Exit> {
    #[derive(Serialize)]
    struct View {
        version: &'static str,
        protocol_min: u16,
        protocol_max: u16,
        format_level: u32,
    }
    let view = View {
        version: weft_protocol::VERSION,
        protocol_min: weft_wire::PROTOCOL_MIN,
        protocol_max: weft_wire::PROTOCOL_MAX,
        format_level: weft_protocol::FORMAT_LEVEL,
    };
    app.output.result(&view, format!("weft {}", weft_protocol::VERSION))?;
    Ok(Exit::Ok)
}

fn completions(shell: clap_complete::Shell) -> Result<Exit> {
    use std::io::Write;
    let script = crate::complete::script(&shell.to_string())?;
    let _ = std::io::stdout().lock().write_all(&script);
    Ok(Exit::Ok)
}
