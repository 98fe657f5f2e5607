//! Removing what a service left on this node (orchestration §7, `purge --data`).

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use weft_link::Reply;
use weft_protocol::{RemoveData, valid_name};
use weft_supervision::{Handle, Scope};
use weft_wire::{Failure, FailureKind};

use crate::actor::Runtime;

impl Handle<RemoveData> for Runtime {
    fn handle(&mut self, message: RemoveData, mut reply: Reply<RemoveData>, scope: &Scope<Self>) {
        let RemoveData { service, check } = message;
        reply.about(&service);
        let config = &self.shared.config;
        let failure = |kind, text: &str| {
            Failure::new(kind, text).node(&config.node_name).service(&service).step("purge")
        };
        if !valid_name(&service) {
            return reply.fail(failure(FailureKind::Invalid, "that is not a service's name"));
        }
        if self.has_service(&service) && !check {
            let text = "components of the service are on the node still";
            return reply.fail(
                failure(FailureKind::Conflict, text)
                    .help("`weft ps` shows them; purge it again when they are gone"),
            );
        }
        let failed = failure(FailureKind::Unavailable, "its data cannot be removed")
            .help("what is left can be removed by hand, or by purging it again");
        let data = config.data_dir.clone();
        let work = tokio::task::spawn_blocking(move || remove(&data, &service, check));
        scope.spawn(async move {
            let done = match work.await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            reply.send(done.map_err(|cause| failed.cause(cause)));
        });
    }
}

/// Removes data directories and logs of a service. Links are removed, never followed.
fn remove(data: &Path, service: &str, check: bool) -> std::io::Result<bool> {
    let own = data.join("services").join(service);
    let there = match own.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => {
            let text = format!("services/{service} is a symbolic link: remove it by hand");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if !check {
        let logs: PathBuf = data.join("logs").join(service);
        for dir in [own, logs] {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_services_own_directories_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (data, outside) = (dir.path().join("node"), dir.path().join("outside"));
        let mine = data.join("services/web/1");
        std::fs::create_dir_all(&mine).expect("made");
        std::fs::create_dir_all(data.join("logs/web/1")).expect("made");
        std::fs::create_dir_all(data.join("services/web-2/1")).expect("made");
        std::fs::create_dir_all(&outside).expect("made");
        std::fs::write(outside.join("keep"), "x").expect("written");
        std::os::unix::fs::symlink(&outside, mine.join("link")).expect("linked");
        assert!(remove(&data, "web", true).expect("looks"));
        assert!(mine.exists(), "a look changes nothing");
        assert!(remove(&data, "web", false).expect("removes"));
        assert!(!data.join("services/web").exists() && !data.join("logs/web").exists());
        assert!(data.join("services/web-2/1").exists() && outside.join("keep").exists());
        assert!(!remove(&data, "web", false).expect("nothing left"));
        std::os::unix::fs::symlink(&outside, data.join("services/own")).expect("linked");
        let refused = remove(&data, "own", false).expect_err("a link");
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        assert!(outside.join("keep").exists());
    }
}
