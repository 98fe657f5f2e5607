//! The daemon's own log: standard error, as lines for people or objects for machines.

use std::str::FromStr as _;

use weft_config::node::{LogFormat, NodeConfig};

/// Installs the log. `RUST_LOG` wins over the configured level.
pub(crate) fn init(config: &NodeConfig) {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::filter::Directive;
    // quinn and rustls say little of use to an operator below warnings. openraft logs an error for
    // each heartbeat that a dead peer does not answer: what matters of it, consensus says itself.
    let usual =
        format!("{},quinn=warn,rustls=warn,sqlx=warn,openraft=off", config.log_level.as_str());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    // What talks to the container engine logs what it sends, with everybody's variables, whatever
    // was asked for (orchestration §28).
    let filter = weft_runtime::TALKATIVE
        .iter()
        .filter_map(|target| Directive::from_str(&format!("{target}=warn")).ok())
        .fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would say so on standard error too, by a macro that panics when that cannot be
        // written: a full disk, or a closed pipe, would take every actor down at its next line.
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const CHILD: &str = "WEFT_TEST_LOGS_TO_A_FULL_DISK";

    #[test]
    fn a_log_on_a_full_disk_loses_lines_and_nothing_else() {
        if std::env::var_os(CHILD).is_some() {
            init(&NodeConfig::new("n1", std::path::Path::new("/data")));
            tracing::error!("there is no room for this");
            return;
        }
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        // This test again, with a standard error that cannot be written.
        let status = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "logging::tests::a_log_on_a_full_disk_loses_lines_and_nothing_else"])
            .arg("--nocapture")
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .stderr(full)
            .status()
            .expect("runs");
        assert!(status.success(), "{status}");
    }
}
