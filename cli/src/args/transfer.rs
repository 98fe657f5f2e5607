//! Files to and from the data directories of services.

use std::path::PathBuf;

use clap::Args;

use super::name;

/// `weft push`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Goes to every replica, unless --replica names one; at most 4 MiB. The mode is \
    kept, without setuid, setgid and sticky bits.\nExamples: weft push app.toml web conf/app.toml\n          \
    weft push - web conf/token < token"
)]
pub(crate) struct Push {
    /// The file; `-` reads standard input, which is then readable by the owner alone
    #[arg(value_name = "LOCAL")]
    pub(crate) local: PathBuf,
    /// The service
    #[arg(value_name = "SERVICE", value_parser = name)]
    pub(crate) service: String,
    /// Where, beneath the replica's data directory (default: the file's own name)
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Only this replica
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replica: Option<u32>,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft pull`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "At most 4 MiB. A local file is replaced whole.\n\
    Examples: weft pull web conf/app.toml\n          weft pull web log/today - --replica 2 | less")]
pub(crate) struct Pull {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = name)]
    pub(crate) service: String,
    /// Which file, beneath the replica's data directory
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
    /// File or directory to write to (default: the file's name, here); `-` writes standard output
    #[arg(value_name = "LOCAL")]
    pub(crate) local: Option<PathBuf>,
    /// Of this replica; needed where the service has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replica: Option<u32>,
}
