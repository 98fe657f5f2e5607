//! Actors, and breaking them on purpose.

use clap::{Args, Subcommand};

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
