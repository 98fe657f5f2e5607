//! Definitions: back out of the cluster, and the whole services directory at once.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::name;

/// `weft service`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Service {
    #[command(subcommand)]
    pub(crate) verb: ServiceVerb,
}

/// `weft service …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ServiceVerb {
    /// Print a service's definition as the cluster has it
    Show(ShowDefinition),
    /// Write a service's definition, as the cluster has it, into its file
    Export(Export),
    /// Edit the definition file of a service
    Edit(Edit),
}

/// `weft service show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft service show web | weft validate -")]
pub(crate) struct ShowDefinition {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
}

/// `weft service export`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "A file that says the same already is left as it is, with its comments; \
    one that differs is replaced after asking.\nExamples: weft service export web\n          \
    weft service export web -f ./web.toml --yes")]
pub(crate) struct Export {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
    /// Where to (default: `<services dir>/<service>.toml`)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `weft service edit`, `weft edit`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "The editor is $EDITOR, else $VISUAL, else vi. What it leaves behind is \
    checked; the file stays as it was while that has mistakes.\nExample: weft edit web && weft \
    deploy web")]
pub(crate) struct Edit {
    /// The service
    #[arg(value_parser = name)]
    pub(crate) service: String,
}

/// `weft recover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "For a node whose containers were lost, or that was off and has \
    `reconcile.mode = \"report\"`. What runs is left alone.\nExamples: weft recover\n          \
    weft recover n2")]
pub(crate) struct Recover {
    /// Only this node, by name or id
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Print what would be started and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Return as soon as it has begun
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// `weft sync`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft sync --dry-run --exit-code || weft sync --deploy")]
pub(crate) struct Sync {
    /// Also deploy what is new and what differs
    #[arg(long)]
    pub(crate) deploy: bool,
    /// Also undeploy services that have no file, after asking
    #[arg(long)]
    pub(crate) prune: bool,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// End with 8 when something changed, or with --dry-run would
    #[arg(long)]
    pub(crate) exit_code: bool,
}
