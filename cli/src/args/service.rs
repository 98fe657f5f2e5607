//! Services: putting them in force, changing and watching them.

use std::path::PathBuf;

use clap::Args;
use weft_protocol::CommandRef;
use weft_wire::WallTime;

use super::{Change, Fresh, name, since};

/// `weft deploy`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "The definition is, first hit: -f; <services dir>/<service>.toml; the one \
    last deployed.\nExamples: weft deploy web\n          weft deploy -f ./web.toml\n          \
    weft deploy web/api --if-changed")]
pub(crate) struct Deploy {
    /// `service` or `service/component`; a path that ends in .toml is taken as -f
    #[arg(value_name = "SERVICE[/COMPONENT]", required_unless_present = "file")]
    pub(crate) target: Option<String>,
    /// The definition; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Leave components alone whose definition did not change
    #[arg(long)]
    pub(crate) if_changed: bool,
    /// Have the update wait for `weft resume` after so many replicas, whatever `[update] canary` says
    #[arg(long, value_name = "N")]
    pub(crate) canary: Option<u32>,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// `weft plan`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples: weft plan web\n          weft plan -f ./web.toml --json\n          \
    weft plan --lost n2,n3"
)]
pub(crate) struct Plan {
    /// `service` or `service/component`; a path that ends in .toml is taken as -f
    #[arg(value_name = "SERVICE[/COMPONENT]", required_unless_present_any = ["file", "lost"])]
    pub(crate) target: Option<String>,
    /// The definition; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Plan for `deploy --if-changed`
    #[arg(long)]
    pub(crate) if_changed: bool,
    /// Show instead what would move if these nodes vanished now, by name or id
    #[arg(
        long,
        value_name = "NODE,…",
        value_delimiter = ',',
        conflicts_with_all = ["target", "file", "if_changed"]
    )]
    pub(crate) lost: Vec<String>,
    #[command(flatten)]
    pub(crate) fresh: Fresh,
}

/// `weft validate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Without files: every definition of the services directory.\n\
    Example: weft validate services/*.toml")]
pub(crate) struct Validate {
    /// Definition files; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// `weft stop`, `start` and `restart`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Stopping or starting a whole service also edits the `active` line of \
    <services dir>/<service>.toml, if that file exists.\nExamples: weft stop web\n          \
    weft restart web/api")]
pub(crate) struct Lifecycle {
    /// `service` or `service/component`
    #[arg(value_name = "SERVICE[/COMPONENT]")]
    pub(crate) target: CommandRef,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// `weft undeploy`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft undeploy web --yes")]
pub(crate) struct Undeploy {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// `weft purge`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A service is purged only when it is undeployed, nothing of it is on a node any \
    more, and no definition file in the services directory claims it. Without SERVICE: all of \
    those.\nIts events stay."
)]
pub(crate) struct Purge {
    /// The service (default: every one that is undeployed and has no definition file)
    #[arg(value_name = "SERVICE")]
    pub(crate) target: Option<CommandRef>,
    /// Also delete its data directories and logs on every node
    #[arg(long)]
    pub(crate) data: bool,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft adopt`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Containers called SERVICE or SERVICE-<component> that are not Weft's become its \
    components, as they are: none is restarted.\nA deploy makes them anew.\n\
    Examples: weft adopt web --dry-run\n          weft adopt web --on n2"
)]
pub(crate) struct Adopt {
    /// The service to make
    #[arg(value_parser = name)]
    pub(crate) service: String,
    /// Say what would become of which container, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft scale`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Makes a revision that differs in `replicas` alone; a definition file is not \
    changed.\nExample: weft scale web 3"
)]
pub(crate) struct Scale {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
    /// Replicas, 1 to 1000
    #[arg(value_name = "REPLICAS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) replicas: u32,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// `weft rollback`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Without REVISION: ends an update that goes on, is paused or has failed, and \
    returns to the revision before; else to the newest good one before that in force.\n\
    Examples: weft rollback web\n          weft rollback web 7"
)]
pub(crate) struct Rollback {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
    /// As `weft history` numbers them
    #[arg(value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) revision: Option<u64>,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// `weft pause` and `weft resume`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "While it is paused, replicas of both revisions run.\n\
    Examples: weft pause web\n          weft resume web")]
pub(crate) struct Hold {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// `weft history`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft history web")]
pub(crate) struct History {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
}

/// `weft list`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft list --consistent")]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) fresh: Fresh,
}

/// `weft ps`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples: weft ps\n          weft --node n2 ps --json")]
pub(crate) struct Ps {
    /// Only this service or component
    #[arg(value_name = "SERVICE[/COMPONENT]")]
    pub(crate) target: Option<CommandRef>,
    #[command(flatten)]
    pub(crate) fresh: Fresh,
}

/// `weft status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft status web --exit-code || alert")]
pub(crate) struct Status {
    /// Only this service
    #[arg(value_parser = name)]
    pub(crate) service: Option<String>,
    /// End with 8 when something is not as wanted
    #[arg(long)]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) fresh: Fresh,
}

/// `weft logs`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples: weft logs web -f\n          weft logs web/api --replica 2 -n 100 -t\n          \
    weft logs web --since 10m"
)]
pub(crate) struct Logs {
    /// `service` or `service/component`
    #[arg(value_name = "SERVICE[/COMPONENT]")]
    pub(crate) target: CommandRef,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the newest N lines of each component
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) tail: Option<u32>,
    /// Not before: a time (2026-01-31T12:00:00Z) or how long ago (10m)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<WallTime>,
    /// Print the time of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Only this replica
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replica: Option<u32>,
}

/// `weft events`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples: weft events web --since 1h\n          weft events -f --json")]
pub(crate) struct Events {
    /// Only this service or component
    #[arg(value_name = "SERVICE[/COMPONENT]")]
    pub(crate) target: Option<CommandRef>,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Not before: a time (2026-01-31T12:00:00Z) or how long ago (10m)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<WallTime>,
    /// Only the newest N, at most 10000 (default 1000)
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) tail: Option<u32>,
}

/// `weft alerts`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples: weft alerts --since 1d\n          weft alerts web -f --json")]
pub(crate) struct Alerts {
    /// Only of this service or component
    #[arg(value_name = "SERVICE[/COMPONENT]")]
    pub(crate) target: Option<CommandRef>,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Not before: a time (2026-01-31T12:00:00Z) or how long ago (10m)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<WallTime>,
    /// Only the newest N, at most 10000 (default 1000)
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) tail: Option<u32>,
}

/// `weft audit`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Each node keeps its own: those that came in through it. `--node` says \
    which node is asked.\nExample: weft audit --since 1h --node n2")]
pub(crate) struct Audit {
    /// Not before: a time (2026-01-31T12:00:00Z) or how long ago (10m)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<WallTime>,
    /// Only the newest N, at most 10000 (default 100)
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) tail: Option<u32>,
}

/// `weft operations`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "With ID: 0 when it ended well, 1 when it did not, 7 when --timeout (5m) is \
    over before its end.\nExamples: weft operations\n          weft operations 17"
)]
pub(crate) struct Operations {
    /// Watch this one to its end
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) id: Option<u64>,
}
