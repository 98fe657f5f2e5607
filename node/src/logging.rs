//! The daemon's own log: standard error, as lines for people or objects for machines.

use weft_config::node::{LogFormat, NodeConfig};

/// Installs the log. `RUST_LOG` wins over the configured level.
pub(crate) fn init(config: &NodeConfig) {
    use tracing_subscriber::EnvFilter;
    // quinn and rustls say little of use to an operator below warnings.
    let usual = format!("{},quinn=warn,rustls=warn,sqlx=warn", config.log_level.as_str());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
