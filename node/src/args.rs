//! The command line of `weftd`.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use weft_config::node::NodeFlags;

/// The node daemon of Weft.
#[derive(Debug, Parser)]
#[command(
    name = "weftd",
    version,
    about = "The node daemon of Weft",
    long_about = "The node daemon of Weft.\n\nMake a node with `weft init` or `weft join`, then start it with `weftd run --config <data>/node.toml`."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the node in the foreground until SIGTERM or SIGINT. Components go on when it stops.
    #[command(after_help = "Example: weftd run --config /var/lib/weft/node.toml")]
    Run(Run),
    /// Checks a node file and prints every value and where it came from.
    Config(Run),
    /// Removes every container of this node, whose daemon must not run. `weft down` calls it.
    #[command(hide = true)]
    RemoveContainers(Run),
}

/// What `run` takes. Flags win over the environment (`WEFT_<SECTION>_<KEY>`), that over the file.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The node file.
    #[arg(long, value_name = "FILE", required_unless_present = "session_only")]
    config: Option<PathBuf>,
    /// Serves MACP sessions and nothing else, configured by `MACP_*` variables alone, in place of
    /// the reference runtime.
    #[arg(long, exclusive = true)]
    pub(crate) session_only: bool,
    /// Name of the node.
    #[arg(long)]
    name: Option<String>,
    /// Directory that holds everything the node keeps.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Zone of the node.
    #[arg(long)]
    zone: Option<String>,
    /// Where the fabric listens, `ip:port` (UDP); port 0 asks the system.
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// What other nodes dial, when it is not the bound address.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// Where the gateway listens, `ip:port` (TCP); port 0 asks the system.
    #[arg(long, value_name = "ADDRESS")]
    gateway_bind: Option<String>,
    /// trace, debug, info, warn or error.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any other key, as `section.key=value`; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected section.key=value, such as chaos.enabled=true".to_owned()),
    }
}

impl Run {
    /// The node file; empty only with `--session-only`, which reads none.
    pub(crate) fn config(&self) -> &Path {
        self.config.as_deref().unwrap_or_else(|| Path::new(""))
    }

    /// The flags as the configuration wants them.
    pub(crate) fn flags(&self) -> NodeFlags {
        NodeFlags {
            name: self.name.clone(),
            data_dir: self.data_dir.clone(),
            zone: self.zone.clone(),
            bind: self.bind.clone(),
            advertise: self.advertise.clone(),
            gateway_bind: self.gateway_bind.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
            set: self.set.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn any_key_can_be_set() {
        let cli =
            Cli::try_parse_from(["weftd", "run", "--config", "f", "--set", "chaos.enabled=true"]);
        let Ok(Cli { command: Command::Run(run) }) = cli else { panic!("{cli:?}") };
        assert_eq!(run.flags().set, [("chaos.enabled".to_owned(), "true".to_owned())]);
        assert!(Cli::try_parse_from(["weftd", "run", "--config", "f", "--set", "chaos"]).is_err());
    }
}
