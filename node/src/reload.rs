//! SIGHUP: the node file is read again, and what it changes is named (orchestration §26). No key can
//! be put in force without a restart, which leaves every component running.

use tokio::signal::unix::{Signal, SignalKind, signal};
use weft_config::node::{Explained, NodeConfig};

/// Reads the node file as it is now; the error is for people.
pub(crate) type Reread = Box<dyn Fn() -> Result<NodeConfig, String> + Send>;

/// From here on SIGHUP does not end the daemon.
///
/// # Errors
/// What the system says.
pub(crate) fn listen() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Says what has changed at each signal, for ever.
pub(crate) async fn watch(mut hangup: Signal, in_force: Vec<Explained>, reread: Reread) {
    while hangup.recv().await.is_some() {
        let config = match reread() {
            Ok(config) => config,
            Err(mistakes) => {
                tracing::error!(
                    "SIGHUP: the node file cannot be taken, nothing changes: {mistakes}"
                );
                continue;
            }
        };
        let changed = changed(&in_force, &config.explain());
        if changed.is_empty() {
            tracing::info!("SIGHUP: the node file says what is in force");
        }
        for (key, old, new) in changed {
            tracing::warn!(
                key,
                in_force = old,
                now = new,
                "SIGHUP: changed in the node file, and in force when weftd is started again (components run on)"
            );
        }
    }
}

fn changed(old: &[Explained], new: &[Explained]) -> Vec<(&'static str, String, String)> {
    let both = old.iter().zip(new).filter(|(old, new)| old.value != new.value);
    both.map(|(old, new)| (old.key, old.value.clone(), new.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_keys_with_another_value_are_named() {
        let one = NodeConfig::new("n1", Path::new("/d"));
        let two = NodeConfig::new("n2", Path::new("/d"));
        assert!(changed(&one.explain(), &one.explain()).is_empty());
        let found = changed(&one.explain(), &two.explain());
        assert_eq!(found, [("node.name", "\"n1\"".to_owned(), "\"n2\"".to_owned())]);
    }
}
