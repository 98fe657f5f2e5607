//! The command line: every verb, every flag, and what each does.

mod actors;
mod cluster;
mod definitions;
mod inside;
mod service;
mod session;
mod transfer;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use weft_protocol::{VERSION, parse_time};
use weft_wire::{Clock, SystemClock, WallTime};

pub(crate) use actors::{ActorRef, Actors, ActorsVerb, Chaos, ChaosVerb};
pub(crate) use cluster::{
    Cluster, ClusterVerb, Down, Init, Join, LabelChange, Login, Node, NodeVerb, Provision, Up,
};
pub(crate) use definitions::{Edit, Export, Recover, Service, ServiceVerb, ShowDefinition, Sync};
pub(crate) use inside::{Exec, Stats, Top};
pub(crate) use service::{
    Adopt, Alerts, Audit, Deploy, Events, History, Hold, Lifecycle, List, Logs, Operations, Plan,
    Ps, Purge, Rollback, Scale, Status, Undeploy, Validate,
};
pub(crate) use session::{
    Session, SessionCancel, SessionExport, SessionImport, SessionList, SessionScale, SessionVerb,
    SessionWatch,
};
pub(crate) use transfer::{Pull, Push};

/// `weft`, whole.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version = VERSION,
    about = "Runs services on a cluster of equal nodes",
    long_about = "Runs services on a cluster of equal nodes.\n\n\
        `weft up` makes a whole cluster on this machine, with an example service on it. \
        On several machines, start with `weft init` on the first and `weft node token` there; \
        the others `weft join <token>`.",
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage or invalid definition, 3 not authenticated, \
        4 not allowed, 5 no node reachable, 6 partial, 7 timeout, 8 drift (status --exit-code).",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// CLI configuration file, such as the one `weft up` prints
    /// (default: $WEFT_CONFIG, else ~/.config/weft/weft.toml)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Context of that file, one per cluster (default: $WEFT_CONTEXT, else the current one)
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Attach to this node (default: the local one, else the first of the context that answers)
    #[arg(long, global = true, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Restrict a command to this node (`adopt`, `exec`)
    #[arg(long, global = true, value_name = "NODE", hide = true)]
    pub(crate) on: Option<String>,
    /// Print JSON with stable field names; streams print one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give up waiting after this long, such as 30s or 5m (deploy: 5m, other changes: 2m,
    /// questions: 10s)
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Don't ask before destroying something
    #[arg(short = 'y', long, global = true)]
    pub(crate) yes: bool,
    /// Print results and errors only, no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// Flags of everything that changes what is wanted.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Change {
    /// Wait until it is so (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub(crate) wait: bool,
    /// Return as soon as the change is agreed
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Flag of everything that reads what is wanted.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Fresh {
    /// Not older than any change acknowledged before; fails while no majority is there
    #[arg(long)]
    pub(crate) consistent: bool,
}

/// What later versions do; whatever is said to it is refused.
#[derive(Debug, Clone, Args)]
pub(crate) struct Later {
    /// Anything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<String>,
}

/// `weft config`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

/// What of a configuration.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print every setting, its value and where it comes from
    #[command(after_help = "Example: weft config explain --node-file /var/lib/weft/node.toml")]
    Explain {
        /// Of a daemon that is started with this file, instead of this command
        #[arg(long, value_name = "FILE")]
        node_file: Option<PathBuf>,
    },
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a cluster: its first node, its certificates and your operator context
    Init(Init),
    /// Make this machine a node of a cluster, with a join token
    Join(Join),
    /// Renew your operator certificate
    Login(Login),
    /// Make and run a whole cluster on this machine, with an example service on it
    Up(Up),
    /// Stop a cluster that `weft up` made, and remove what it made
    Down(Down),
    /// Store a service's definition and put it in force
    Deploy(Deploy),
    /// Compare a definition with what is deployed and what runs, or show what the loss of nodes
    /// would do; changes nothing
    #[command(visible_alias = "diff")]
    Plan(Plan),
    /// Check definitions offline
    Validate(Validate),
    /// Print, export and edit definitions
    Service(Service),
    /// Edit the definition file of a service
    Edit(Edit),
    /// Compare the services directory with the cluster, and bring the cluster nearer to it
    Sync(Sync),
    /// Start what nodes should run and do not, from what the cluster knows
    Recover(Recover),
    /// Stop a service or one of its components
    Stop(Lifecycle),
    /// Start a service or one of its components
    Start(Lifecycle),
    /// Restart a service or one of its components in place
    Restart(Lifecycle),
    /// Tear a service down; its data and its history stay
    Undeploy(Undeploy),
    /// Forget services that are undeployed: definition, history and, if wanted, data
    Purge(Purge),
    /// Make a service of containers that run already, without restarting them
    Adopt(Adopt),
    /// Change the number of a service's replicas
    Scale(Scale),
    /// Return to an earlier revision, or end an update that goes on
    Rollback(Rollback),
    /// Have a rolling update wait
    Pause(Hold),
    /// Have a rolling update that waits go on
    Resume(Hold),
    /// List the revisions of a service that are kept
    History(History),
    /// Write a file into the data directory of a service's replicas
    Push(Push),
    /// Read a file of a replica's data directory
    Pull(Pull),
    /// List what is wanted, as agreed; asks no node's runtime
    List(List),
    /// List what runs, asking every node
    Ps(Ps),
    /// Show what runs, what is not as wanted, and the newest events
    Status(Status),
    /// Print what components wrote
    Logs(Logs),
    /// Run a command in a component's container, or beside its process
    Exec(Exec),
    /// Show what components use
    Stats(Stats),
    /// Watch nodes, services, the busiest components and the newest events
    Top(Top),
    /// Print what happened
    Events(Events),
    /// Print the alerts that fired, and what became of their command
    Alerts(Alerts),
    /// Print who asked a node for what, and what came of it
    Audit(Audit),
    /// List what goes on and what ended lately, or watch one operation to its end
    Operations(Operations),
    /// List, show, watch and cancel MACP sessions; take over and hand over those of the reference
    /// runtime
    Session(Session),
    /// Show every node's supervision tree, or restart one actor
    Actors(Actors),
    /// Break an actor on purpose, where the node file allows it, to watch it heal
    Chaos(Chaos),
    /// List, drain, label and remove nodes, make join tokens
    Node(Node),
    /// Show who leads, who votes and how far each node is
    Cluster(Cluster),
    /// Show what this command, or a node, is configured to do, and who says so
    Config(Config),
    /// Replace the daemons of nodes by newer ones; not in this version
    #[command(hide = true)]
    Upgrade(Later),
    /// Change the cluster's certificate authorities; not in this version
    #[command(hide = true)]
    Ca(Later),
    /// Show who you are to the cluster
    Whoami,
    /// Print this command's version
    Version,
    /// Print a completion script for a shell
    #[command(
        after_help = "Example: weft completions bash > ~/.local/share/bash-completion/completions/weft"
    )]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of weft and each of its commands
    #[command(after_help = "Example: weft man /usr/local/share/man/man1")]
    Man {
        /// Directory that holds them afterwards; made if it is not there
        dir: PathBuf,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    match weft_config::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0s".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let seconds = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
    if seconds.contains(&ttl) { Ok(ttl) } else { Err("must be 1s to 7d".into()) }
}

fn name(text: &str) -> Result<String, String> {
    if weft_protocol::valid_name(text) {
        Ok(text.into())
    } else {
        Err("expected 1 to 48 lower-case letters, digits and inner hyphens".into())
    }
}

fn socket(text: &str) -> Result<String, String> {
    text.parse::<std::net::SocketAddr>()
        .map(|address| address.to_string())
        .map_err(|_| "expected ip:port, such as 10.0.0.1:7443 or [fd00::1]:7443".into())
}

/// `host`, `user@host` or `ssh://user@host:port`: nothing that `ssh` could take for anything else.
fn ssh_target(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@:/[]%".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(fits) {
        Ok(text.into())
    } else {
        Err("expected a host as ssh takes it, such as root@n2.example or ssh://root@10.0.0.2:2222"
            .into())
    }
}

/// A time, or how long before now.
fn since(text: &str) -> Result<WallTime, String> {
    since_at(text, SystemClock.wall())
}

fn since_at(text: &str, now: WallTime) -> Result<WallTime, String> {
    parse_time(text).or_else(|_| {
        weft_config::parse_duration(text).map(|ago| now.minus(ago)).map_err(|_| {
            "expected a time, such as 2026-01-31T12:00:00Z, or how long ago, such as 10m".into()
        })
    })
}

/// Whether `--json` stands among raw arguments; for errors that come before they are parsed.
pub(crate) fn wants_json<'a>(mut raw: impl Iterator<Item = &'a std::ffi::OsStr>) -> bool {
    raw.any(|argument| argument == "--json")
}

#[cfg(test)]
mod tests;
