//! The command line: every verb, every flag, and what each does.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use weft_protocol::{CommandRef, VERSION, parse_time};
use weft_wire::{Clock, SystemClock, WallTime};

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
    /// Reserved: will restrict or pin a command to nodes
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
    /// Stop a service or one of its components
    Stop(Lifecycle),
    /// Start a service or one of its components
    Start(Lifecycle),
    /// Restart a service or one of its components in place
    Restart(Lifecycle),
    /// Tear a service down; its data and its history stay
    Undeploy(Undeploy),
    /// List what is wanted, as agreed; asks no node's runtime
    List(List),
    /// List what runs, asking every node
    Ps(Ps),
    /// Show what runs, what is not as wanted, and the newest events
    Status(Status),
    /// Print what components wrote
    Logs(Logs),
    /// Print what happened
    Events(Events),
    /// List what goes on and what ended lately, or watch one operation to its end
    Operations(Operations),
    /// Show every node's supervision tree, or restart one actor
    Actors(Actors),
    /// Break an actor on purpose, where the node file allows it, to watch it heal
    Chaos(Chaos),
    /// List, drain, label and remove nodes, make join tokens
    Node(Node),
    /// Show who leads, who votes and how far each node is
    Cluster(Cluster),
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
}

/// `weft init`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft init --name n1 --data /var/lib/weft --bind 10.0.0.1:7443")]
pub(crate) struct Init {
    /// Name of the first node
    #[arg(long, default_value = "n1", value_parser = name)]
    pub(crate) name: String,
    /// Data directory of the node; must not exist or be empty
    /// (default: /var/lib/weft for root, else `~/.local/share/weft/<name>`)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the node's fabric listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7443", value_parser = socket)]
    pub(crate) bind: String,
    /// Where other nodes reach it, if that is not where it listens
    #[arg(long, value_name = "IP:PORT", value_parser = socket)]
    pub(crate) advertise: Option<String>,
    /// Where the node's gateway listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9765", value_parser = socket)]
    pub(crate) gateway: String,
    /// Your name in the audit (default: your login name)
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) operator: Option<String>,
    /// Print what would be made and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft join`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example: weft join weft1.… --name n2 --data /var/lib/weft --bind 10.0.0.2:7443"
)]
pub(crate) struct Join {
    /// The token that `weft node token` printed
    pub(crate) token: String,
    /// Name of this node (default: the token's, else the host name)
    #[arg(long, value_parser = name)]
    pub(crate) name: Option<String>,
    /// Data directory of the node; must not exist or be empty
    /// (default: /var/lib/weft for root, else `~/.local/share/weft/<name>`)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the node's fabric listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7443", value_parser = socket)]
    pub(crate) bind: String,
    /// Where other nodes reach it, if that is not where it listens
    #[arg(long, value_name = "IP:PORT", value_parser = socket)]
    pub(crate) advertise: Option<String>,
    /// Where the node's gateway listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9765", value_parser = socket)]
    pub(crate) gateway: String,
    /// Check the token and the data directory, ask nobody, make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft login`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Renews by the certificate you have while it is valid, else over the local \
    socket of a node on this machine.\nExample: weft login"
)]
pub(crate) struct Login {
    /// Renew over the local socket even if the certificate is still valid
    #[arg(long)]
    pub(crate) local: bool,
    /// Over the local socket: issue for this operator (default: the first admin)
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
    /// Print what would be renewed and renew nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft up`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft up\n         weft up --detach --json && weft down")]
pub(crate) struct Up {
    /// How many nodes, 1 to 9 (default: 3, or those that --dir has already)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: Option<u8>,
    /// Where to keep everything (default: a new temporary directory, removed at the end)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Leave the cluster running and return; `weft down` stops it
    #[arg(long)]
    pub(crate) detach: bool,
    /// Deploy no example service
    #[arg(long)]
    pub(crate) no_hello: bool,
    /// Print what would be made and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft down`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft down --dir /tmp/weft-up-x7Yq2a --yes")]
pub(crate) struct Down {
    /// The directory that `weft up` printed (default: the last one)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print what would be stopped and removed and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

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

/// `weft actors`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples: weft actors\n          weft actors restart runtime@n2")]
pub(crate) struct Actors {
    #[command(subcommand)]
    pub(crate) verb: Option<ActorsVerb>,
}

/// `weft actors …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ActorsVerb {
    /// Stop one actor and make a new one
    Restart {
        /// `<path>@<node>`, such as registry@n1 or runtime/web/1/api@n2
        #[arg(value_name = "PATH@NODE")]
        actor: ActorRef,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `weft chaos`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Needs `[chaos] enabled = true` in the node file, as `weft up` writes it.\n\
    Example: weft chaos panic runtime@n2"
)]
pub(crate) struct Chaos {
    #[command(subcommand)]
    pub(crate) verb: ChaosVerb,
}

/// `weft chaos …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ChaosVerb {
    /// Make a handler panic
    Panic(ChaosTarget),
    /// Make a handler block its thread for good
    Hang(ChaosTarget),
}

/// Which actor to break.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChaosTarget {
    /// `<path>@<node>`, such as registry@n1
    #[arg(value_name = "ACTOR@NODE")]
    pub(crate) actor: ActorRef,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft node`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    pub(crate) verb: NodeVerb,
}

/// `weft node …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the nodes
    #[command(after_help = "Example: weft node list --json")]
    List,
    /// Make a join token: good once, shown once
    #[command(after_help = "Example: weft node token --ttl 10m --name n2")]
    Token {
        /// Good for this long, at most 7d
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
        ttl: Duration,
        /// Fix the joiner's name
        #[arg(long, value_parser = name)]
        name: Option<String>,
        /// Print what would be made and make nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a node out of the cluster for ever and deny its certificate
    #[command(visible_alias = "rm", after_help = "Example: weft node remove n3 --force --yes")]
    Remove {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        /// Also when replicas are placed there
        #[arg(long)]
        force: bool,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Move a node's work to other nodes and place nothing there any more
    #[command(after_help = "Ends with 6 when something stays that cannot move, and names it.\n\
        Example: weft node drain n2 --timeout 10m")]
    Drain {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let a drained node take work again
    #[command(after_help = "Example: weft node undrain n2")]
    Undrain {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a node labels, or take them away
    #[command(after_help = "Example: weft node label n2 disk=ssd gpu arch-")]
    Label {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        /// `key=value` or `key` sets it, `key-` takes it away
        #[arg(value_name = "LABEL", required = true)]
        labels: Vec<LabelChange>,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Drain a node, then take it out of the cluster for ever
    #[command(after_help = "Examples: weft node leave n3 --yes\n          \
        weft node leave    # the attached node")]
    Leave {
        /// Its name or id (default: the attached node)
        #[arg(value_name = "NODE")]
        target: Option<String>,
        /// Also when something there cannot move
        #[arg(long)]
        force: bool,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `weft cluster`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    pub(crate) verb: ClusterVerb,
}

/// `weft cluster …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Show leader, term, what is committed, groups, and each node's part, lag and why
    #[command(after_help = "Example: weft cluster status --json")]
    Status,
}

/// What becomes of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// `key=value` or `key`.
    Set(String),
    /// The key of `key-`.
    Remove(String),
}

impl LabelChange {
    /// The label's key.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Set(label) => label.split_once('=').map_or(label, |(key, _)| key),
            Self::Remove(key) => key,
        }
    }
}

impl std::str::FromStr for LabelChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let change = match text.strip_suffix('-') {
            Some(key) if !key.contains('=') => Self::Remove(key.into()),
            _ => Self::Set(text.into()),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let value = text.split_once('=').map_or("", |(_, value)| value);
        let key = change.key();
        if !key.is_empty() && key.chars().all(fits) && value.chars().all(fits) {
            Ok(change)
        } else {
            Err("expected key=value, key, or key- to take it away, of letters, digits and -_./"
                .into())
        }
    }
}

/// `<path>@<node>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActorRef {
    /// Path in the node's supervision tree.
    pub(crate) path: String,
    /// Name of the node.
    pub(crate) node: String,
}

impl std::str::FromStr for ActorRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('@') {
            Some((path, node)) if !path.is_empty() && !node.is_empty() => {
                Ok(Self { path: path.into(), node: node.into() })
            }
            _ => Err(format!("`{text}`: expected <path>@<node>, such as registry@n1")),
        }
    }
}

impl std::fmt::Display for ActorRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.path, self.node)
    }
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
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_are_taken_before_and_behind_the_verb() {
        for line in ["weft --node n2 ps --json", "weft ps --json --node n2"] {
            let cli = parse(line).expect(line);
            assert!(cli.global.json && cli.global.node.as_deref() == Some("n2"), "{line}");
        }
    }

    #[test]
    fn every_verb_of_the_issue_is_there() {
        let verbs: Vec<String> =
            Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let wanted = "init join login up down deploy plan validate stop start restart undeploy \
                      list ps status logs events operations actors chaos node cluster whoami version completions";
        for verb in wanted.split_whitespace() {
            assert!(verbs.iter().any(|v| v == verb), "{verb}");
        }
    }

    #[test]
    fn every_argument_says_what_it_does() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path}");
            for argument in command.get_arguments().filter(|a| a.get_id() != "help") {
                let here = format!("{path} {}", argument.get_id());
                assert!(argument.get_help().is_some() || argument.get_id() == "version", "{here}");
            }
            for sub in command.get_subcommands() {
                check(sub, &format!("{path} {}", sub.get_name()));
            }
        }
        check(&Cli::command(), "weft");
    }

    #[test]
    fn wrong_values_are_usage_errors_that_say_what_is_right() {
        for (line, says) in [
            ("weft deploy", "SERVICE"),
            ("weft stop web/", "service/component"),
            ("weft stop WEB", "lower-case"),
            ("weft chaos panic registry", "<path>@<node>"),
            ("weft node token --ttl 8d", "1s to 7d"),
            ("weft node token --ttl 5", "no unit"),
            ("weft init --bind localhost", "ip:port"),
            ("weft init --name N1", "lower-case"),
            ("weft up --nodes 0", "1..=9"),
            ("weft up --nodes 10", "1..=9"),
            ("weft plan", "SERVICE"),
            ("weft plan web --lost n2", "--lost"),
            ("weft plan -f web.toml --lost n2", "--lost"),
            ("weft node label n2", "LABEL"),
            ("weft node label n2 =x", "key=value"),
            ("weft node label n2 a=b=c", "key=value"),
            ("weft node drain", "NODE"),
            ("weft cluster", "status"),
            ("weft logs web --since yesterday", "how long ago"),
            ("weft ps --timeout 0s", "longer than 0s"),
            ("weft ps --colour", "--colour"),
            ("weft depoly web", "deploy"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn a_bare_command_prints_help_and_is_a_usage_error() {
        let error = parse("weft").expect_err("needs a verb");
        assert_eq!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn no_wait_and_wait_override_each_other() {
        let change = |line: &str| match parse(line).expect(line).verb {
            Verb::Stop(stop) => stop.change,
            other => panic!("{other:?}"),
        };
        assert!(change("weft stop web --no-wait").no_wait);
        assert!(!change("weft stop web --no-wait --wait").no_wait);
        assert!(!change("weft stop web").no_wait);
    }

    #[test]
    fn a_label_with_a_trailing_hyphen_is_taken_away() {
        let parse = |text: &str| text.parse::<LabelChange>();
        assert_eq!(parse("arch-"), Ok(LabelChange::Remove("arch".into())));
        assert_eq!(parse("disk=ssd"), Ok(LabelChange::Set("disk=ssd".into())));
        assert_eq!(parse("gpu"), Ok(LabelChange::Set("gpu".into())));
        assert_eq!(parse("a=b-"), Ok(LabelChange::Set("a=b-".into())));
        assert_eq!(parse("a=b-").expect("parses").key(), "a");
        for bad in ["", "-", "=x", "a b", "a=ü"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lost_nodes_are_separated_by_commas_or_given_one_by_one() {
        let lost = |line: &str| match parse(line).expect(line).verb {
            Verb::Plan(plan) => plan.lost.join(" "),
            other => panic!("{other:?}"),
        };
        assert_eq!(lost("weft plan --lost n2,n3"), "n2 n3");
        assert_eq!(lost("weft plan --lost n2 --lost n3"), "n2 n3");
        assert_eq!(lost("weft plan web"), "");
    }

    #[test]
    fn an_actor_reference_splits_at_the_last_at_sign() {
        let parse = |text: &str| text.parse::<ActorRef>();
        let actor = parse("runtime/web/1/api@n2").expect("parses");
        assert_eq!((actor.path.as_str(), actor.node.as_str()), ("runtime/web/1/api", "n2"));
        assert_eq!(actor.to_string(), "runtime/web/1/api@n2");
        for bad in ["", "registry", "@n1", "registry@"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn since_takes_a_time_or_an_age() {
        let now = WallTime::from_micros(1_795_000_000_000_000);
        assert_eq!(since_at("10m", now), Ok(now.minus(Duration::from_secs(600))));
        assert_eq!(since_at("1970-01-01T00:00:01Z", now), Ok(WallTime::from_micros(1_000_000)));
        assert!(since_at("soon", now).is_err());
    }

    #[test]
    fn json_is_seen_before_arguments_are_parsed() {
        let raw = ["ps", "--json", "--bogus"].map(std::ffi::OsString::from);
        assert!(wants_json(raw.iter().map(std::ffi::OsString::as_os_str)));
    }
}
