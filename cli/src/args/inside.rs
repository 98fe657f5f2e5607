//! Looking into what runs: commands beside components, and what they use.

use clap::Args;
use weft_protocol::CommandRef;

/// `weft exec`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Runs in the component's container; beside a process, on its node, in its \
    directory and with its environment.\nEnds with the command's own code: 126 if it cannot be \
    run, 127 if it is not there, 128 and the signal's number if one ended it. When Weft itself \
    fails it says `error:` and ends with a code of its own.\nWhen this command ends or loses its \
    node, what it runs is ended too.\n\
    Examples: weft exec -it web/api -- sh\n          \
    weft exec -i db -- psql -f - < dump.sql\n          \
    weft exec web --replica 2 -e DEBUG=1 -- ./check --all")]
pub(crate) struct Exec {
    /// `service` or `service/component`; the service is enough where it has one component
    #[arg(value_name = "SERVICE[/COMPONENT]")]
    pub(crate) target: CommandRef,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// In this replica; needed where several run, unless --on NODE leaves one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replica: Option<u32>,
    /// Set a variable, on top of the component's
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// As this user (default: the component's)
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// In this directory (default: the component's)
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Program and arguments; no shell
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// `weft stats`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "On a terminal the table is drawn again every 2 s, until Ctrl-C; else it is \
    printed once.\nCPU is in hundredths of one core.\n\
    Examples: weft stats\n          weft stats web --no-stream --json"
)]
pub(crate) struct Stats {
    /// Only this service or component
    #[arg(value_name = "SERVICE[/COMPONENT]")]
    pub(crate) target: Option<CommandRef>,
    /// Print it once, also on a terminal
    #[arg(long)]
    pub(crate) no_stream: bool,
}

/// `weft top`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Keys: left and right or s choose the column components are sorted by, r turns \
    the order round, q or Ctrl-C leaves.\nWithout a terminal everything is printed once.\n\
    Example: weft top"
)]
pub(crate) struct Top {}
