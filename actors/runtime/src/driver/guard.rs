//! A fenced container's lease: a shim of its own that outlives the daemon, runs nothing, and kills
//! the container's processes when the lease ends. It is there before the container starts.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weft_protocol::files::{ProcessFile, ShimExit, ShimFile};

use super::{Hands, Order};
use crate::disk::{Durable, make_dir, read_json, write_json};
use crate::launch::Problem;
use crate::link::{self, Ending, Link, Looked, REPORT_LIMIT};
use crate::shim::{SHIM_PROTOCOL, SPEC_FILE, STATE_FILE, ShimSpec};

/// Beneath a component's directory.
const DIR: &str = "guard";
/// One that is told to end has so long.
const RELEASE: Duration = Duration::from_secs(10);

/// A guard that lives.
pub(super) struct Guard {
    orders: mpsc::Sender<Order>,
    end: oneshot::Receiver<Option<ShimExit>>,
    shim: Option<ProcessFile>,
    /// When the lease ended that it knew first, in ms of boot time.
    pub(super) until: Option<u64>,
}

fn dir(hands: &Hands) -> PathBuf {
    hands.dir().join(DIR)
}

/// Whether the component's container was started under a lease.
pub(super) fn was_fenced(hands: &Hands) -> bool {
    dir(hands).join(SPEC_FILE).exists()
}

/// The end of the lease, if that is how the last guard ended.
pub(super) fn lease_end(hands: &Hands) -> Option<ShimExit> {
    let file = read_json::<ShimFile>(&dir(hands).join(STATE_FILE)).ok().flatten()?;
    file.exit.filter(|exit| exit.lease_ended)
}

impl Guard {
    /// Starts one over a container that may not run yet. What an earlier one left is ended first.
    pub(super) async fn start(hands: &Hands, container: &str, until: u64) -> Result<Self, Problem> {
        clear(hands).await;
        let (own, config) = (dir(hands), &hands.shared.config);
        let spec = ShimSpec {
            version: SHIM_PROTOCOL,
            key: hands.key.clone(),
            spec_hash: String::new(),
            epoch: 0,
            revision: 0,
            generation: 0,
            component_dir: own.clone(),
            log: own.join("guard.log"),
            log_bytes: 1 << 20,
            log_files: 1,
            program: config.shim_program.clone(),
            argv: ["weftd", "shim", "--idle"].map(str::to_owned).to_vec(),
            env: Vec::new(),
            workdir: own.clone(),
            ports: Vec::new(),
            stop_grace_ms: 0,
            lease: Some(until),
            hold: crate::limits::Hold::default(),
            container: container.to_owned(),
        };
        let path = own.join(SPEC_FILE);
        let written = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                make_dir(&own, 0o700)?;
                write_json(&path, &spec, Durable::No)
            })
            .await
        };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Problem::Passing(format!("{}: {error}", path.display()))),
            Err(error) => return Err(Problem::Passing(error.to_string())),
        }
        let launched = link::launch(&config.shim_program, &path).map_err(|error| {
            let shown = config.shim_program.display();
            Problem::Passing(format!("cannot start {shown}: {error}"))
        })?;
        let (tell, started) = oneshot::channel();
        let guard = Self::follow(launched.link, launched.process, Some(until), Some(tell));
        match tokio::time::timeout(REPORT_LIMIT, started).await {
            Ok(Ok(())) => Ok(guard),
            _ => {
                clear(hands).await;
                Err(Problem::Passing("the watcher of its lease did not start".into()))
            }
        }
    }

    /// The one that lives, as the next daemon finds it.
    pub(super) async fn find(hands: &Hands) -> Option<Self> {
        match link::look(&dir(hands)).await {
            (Looked::Running(file), Some(link)) => {
                Some(Self::follow(link, Some(file.shim), file.lease, None))
            }
            _ => None,
        }
    }

    fn follow(
        mut link: Link,
        shim: Option<ProcessFile>,
        until: Option<u64>,
        tell: Option<oneshot::Sender<()>>,
    ) -> Self {
        let (orders, mut inbox) = mpsc::channel(8);
        let (ended, end) = oneshot::channel();
        tokio::spawn(async move {
            let tell = parking_lot::Mutex::new(tell);
            let started = |_| {
                if let Some(tell) = tell.lock().take() {
                    let _ = tell.send(());
                }
            };
            let exit = match link::follow(&mut link, &mut inbox, started).await {
                Ending::Exited(exit) => Some(exit),
                Ending::HungUp => None,
            };
            let _ = ended.send(exit);
        });
        Self { orders, end, shim, until }
    }

    /// The lease ends then.
    pub(super) fn lease(&self, until_ms: Option<u64>) {
        let _ = self.orders.try_send(Order::Lease { until_ms });
    }

    /// Completes when it has ended; whether it was the lease's end. Cancel-safe.
    pub(super) async fn ended(&mut self) -> bool {
        let exit = (&mut self.end).await.ok().flatten();
        exit.is_some_and(|exit| exit.lease_ended)
    }

    /// Ends it, its container having ended; whether the lease's end was the reason.
    pub(super) async fn release(mut self) -> bool {
        let _ = self.orders.try_send(Order::Stop { grace_ms: 1000 });
        match tokio::time::timeout(RELEASE, self.ended()).await {
            Ok(lease_ended) => lease_ended,
            Err(_) => {
                if let Some(shim) = &self.shim {
                    link::clean(shim).await;
                }
                false
            }
        }
    }
}

/// Ends what an earlier one left, and forgets it.
pub(super) async fn clear(hands: &Hands) {
    let dir = dir(hands);
    if !dir.exists() {
        return;
    }
    if let (Looked::Running(file), _) = link::look(&dir).await {
        link::clean(&file.shim).await;
    }
    if let Err(error) = tokio::fs::remove_dir_all(&dir).await {
        tracing::warn!(path = %dir.display(), %error, "cannot be removed");
    }
}
