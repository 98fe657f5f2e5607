//! MACP sessions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use weft_protocol::SessionState;

/// `weft session`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Session {
    #[command(subcommand)]
    pub(crate) verb: SessionVerb,
}

/// `weft session …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SessionVerb {
    /// List MACP sessions, of any node
    #[command(after_help = "Examples: weft session list --state open,suspended\n          \
        weft session list --mode macp.mode.decision.v1 --json")]
    List(SessionList),
    /// Show a session: who, how it stands, its policy and its whole history
    #[command(
        after_help = "Example: weft session show 4f5c7a1e-7d0c-4a55-9f6b-3f9f5b0c2d11 --json"
    )]
    Show(SessionId),
    /// Watch a session from its start to its end, or what happens to all sessions from now on
    #[command(after_help = "Ends with the session; without ID it goes on.\n\
        Examples: weft session watch\n          \
        weft session watch 4f5c7a1e-7d0c-4a55-9f6b-3f9f5b0c2d11")]
    Watch(SessionWatch),
    /// Cancel a session, whoever started it
    #[command(after_help = "Example: weft session cancel 4f5c7a1e-7d0c-4a55-9f6b-3f9f5b0c2d11 \
        --reason stuck --yes")]
    Cancel(SessionCancel),
    /// Show the groups that share the sessions, as the attached node knows them
    #[command(after_help = "`weft cluster status` shows who leads each and who votes in it.\n\
        Example: weft session groups --json")]
    Groups,
    /// Have more groups share the sessions that begin from now on
    #[command(
        after_help = "Each group is led by one node: with several, several nodes check what \
        comes in. Sessions stay in the group in which they began, and groups stay for ever.\n\
        Example: weft session scale 3"
    )]
    Scale(SessionScale),
    /// Write sessions as the reference runtime keeps them
    #[command(after_help = "Point the reference's MACP_DATA_DIR at DIR. A session that is in DIR \
        already is left alone.\nExamples: weft session export --all -o ./macp-data\n          \
        weft session export 4f5c7a1e-7d0c-4a55-9f6b-3f9f5b0c2d11 -o ./macp-data")]
    Export(SessionExport),
    /// Take over sessions of the reference runtime
    #[command(
        after_help = "End the reference runtime before. Sessions that are there already are \
        passed over, so it can be repeated.\nExample: weft session import ./.macp-data --dry-run && \
        weft session import ./.macp-data"
    )]
    Import(SessionImport),
}

/// `weft session list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionList {
    /// Only those that stand so: open, suspended, resolved, expired, cancelled
    #[arg(long = "state", value_name = "STATE,…", value_delimiter = ',', value_parser = state)]
    pub(crate) states: Vec<SessionState>,
    /// Only those of this mode
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<String>,
}

/// One session.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionId {
    /// Its id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `weft session watch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionWatch {
    /// Only this session, with its history (default: what happens to all)
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// `weft session cancel`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionCancel {
    /// Its id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Why, for its history
    #[arg(long, value_name = "TEXT", default_value = "cancelled by an operator")]
    pub(crate) reason: String,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft session scale`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionScale {
    /// How many groups there are to be: not fewer than now, at most 32
    #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) groups: u8,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft session export`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionExport {
    /// Their ids
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// Every session there is
    #[arg(long)]
    pub(crate) all: bool,
    /// Data directory to write into; made if it is not there
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// `weft session import`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionImport {
    /// Its data directory (MACP_DATA_DIR)
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Print what could be taken over and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn state(text: &str) -> Result<SessionState, String> {
    SessionState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| "expected open, suspended, resolved, expired or cancelled".to_owned())
}
