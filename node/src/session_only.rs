//! `weftd run --session-only`: MACP sessions and nothing else, where the reference runtime was.
//!
//! Configured by `MACP_*` variables alone (spec macp-sessions §17). The same kernel, consensus and
//! gRPC as on a node of a cluster, with one voter and no links.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weft_agreement::{Consensus, ConsensusConfig, Door};
use weft_config::macp::MacpSettings;
use weft_config::node::NodeConfig;
use weft_link::{AuditSink, Fabric, FabricConfig};
use weft_supervision::{ChildSpec, EXIT_GAVE_UP, Tree, TreeConfig, block_on_system};
use weft_wire::{ActorKind, Clock, NodeId, SystemClock};

use crate::logging;
use crate::sessions::{self, Kept};

type Failed = Box<dyn std::error::Error>;

/// Actors may take so long to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Exit codes of a second signal while clients are let finish: 128 and its number.
const EXIT_INTERRUPT: u8 = 130;
const EXIT_TERM: u8 = 143;

/// Serves until it is told to stop.
pub(crate) fn run() -> ExitCode {
    let begun = match MacpSettings::policies_to_check(std::env::vars()) {
        Ok(Some(dir)) => check(&dir),
        Ok(None) => {
            MacpSettings::of_environment(std::env::vars()).map_err(Failed::from).and_then(start)
        }
        Err(why) => Err(why.into()),
    };
    match begun {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says of each policy file whether it can be used; success if all can.
fn check(dir: &Path) -> Result<ExitCode, Failed> {
    let files = weft_session_actor::check_policies(dir)?;
    let mut refused = 0;
    for (path, read) in &files {
        match read {
            Ok(id) => println!("OK {} ({id})", path.display()),
            Err(why) => {
                refused += 1;
                println!("REJECTED {}: {why}", path.display());
            }
        }
    }
    println!("{} checked, {refused} rejected", files.len());
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(settings: MacpSettings) -> Result<ExitCode, Failed> {
    logging::init(&NodeConfig::new("sessions", &settings.data_dir));
    let memory = settings.memory_only;
    let (node, _lock) = if memory {
        (NodeId::new(uuid::Uuid::new_v4()), None)
    } else {
        let (node, lock) = open(&settings.data_dir)
            .map_err(|error| format!("{}: {error}", settings.data_dir.display()))?;
        let others = of_the_reference(&settings.data_dir);
        if others > 0 {
            tracing::warn!(
                sessions = others,
                dir = %settings.data_dir.display(),
                "the reference runtime's sessions in this directory are left alone: only a node of a cluster takes them over (`weft session import`)"
            );
        }
        (node, Some(lock))
    };
    block_on_system(async |runtime| serve(&settings, node, runtime).await)?
}

/// Who this is, the same at every start, and proof that nobody else uses the directory.
fn open(dir: &Path) -> Result<(NodeId, File), Failed> {
    std::fs::create_dir_all(dir)?;
    let lock =
        File::options().create(true).truncate(false).write(true).open(dir.join("weftd.lock"))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| "another process uses this directory: stop it, or set MACP_DATA_DIR")?;
    let file = dir.join("node-id");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = uuid::Uuid::new_v4().to_string();
            let new = dir.join("node-id.new");
            std::fs::write(&new, &id)?;
            File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &file)?;
            File::open(dir)?.sync_all()?;
            id
        }
        Err(error) => return Err(error.into()),
    };
    Ok((text.trim().parse()?, lock))
}

/// How many sessions of the reference runtime are in a data directory.
fn of_the_reference(dir: &Path) -> usize {
    let Ok(found) = std::fs::read_dir(dir.join("sessions")) else { return 0 };
    found.flatten().filter(|session| session.path().join("session.json").exists()).count()
}

async fn serve(
    settings: &MacpSettings,
    node: NodeId,
    runtime: Arc<tokio::runtime::Runtime>,
) -> Result<ExitCode, Failed> {
    let mut stop = Stop::new()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let modes = sessions::modes(settings)?;
    // Nobody but MACP clients can ask for anything, so there is nothing to audit.
    let (audit, _) = AuditSink::channel(1);
    let fabric = Fabric::local(FabricConfig { node, name: "sessions".to_owned(), audit });
    let retention = settings.retention;
    let (consensus, kept) = if settings.memory_only {
        (None, Kept::in_memory(modes, clock.clone(), retention))
    } else {
        let (dir, fabric, clock) = (settings.data_dir.clone(), fabric.clone(), clock.clone());
        let opened = runtime.spawn(async move {
            let door = Door::new(fabric.clone());
            let consensus = Consensus::open(ConsensusConfig::new(&dir), fabric, &door).await?;
            let kept = Kept::agreed(modes, clock, &dir, retention).await?;
            kept.open_alone(&consensus).await?;
            door.attach();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((Some(consensus), kept))
        });
        opened.await?.map_err(|error| -> Failed { error })?
    };
    // Who can connect is served: what is there has been read.
    let face = sessions::listen(settings, None, None).map_err(|error| -> Failed { error })?;
    let tree = Tree::build(TreeConfig {
        clock: clock.clone(),
        ..TreeConfig::new(fabric.clone(), runtime)
    })?;
    let factory = weft_session_actor::factory(kept.owners, kept.modes);
    tree.add(ActorKind::Session, ChildSpec::default(), factory);
    tree.start().await?;
    face.serve(fabric, clock)?;
    tracing::info!(address = %face.address(), version = weft_protocol::VERSION, "ready: macp.v1 listens");

    let code = tokio::select! {
        () = stop.first() => {
            tracing::info!("stopping; clients may finish");
            tokio::select! {
                () = face.drain(settings.drain) => ExitCode::SUCCESS,
                code = stop.second() => ExitCode::from(code),
            }
        }
        reason = tree.finished() => {
            tracing::error!(%reason, "giving up; the service manager should start weftd again");
            ExitCode::from(EXIT_GAVE_UP)
        }
    };
    tree.stop(STOP_WITHIN).await;
    if let Some(consensus) = consensus {
        consensus.stop().await;
    }
    Ok(code)
}

/// SIGTERM and SIGINT.
struct Stop {
    term: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn first(&mut self) {
        let _ = self.second().await;
    }

    /// The exit code for it.
    async fn second(&mut self) -> u8 {
        tokio::select! {
            _ = self.term.recv() => EXIT_TERM,
            _ = self.interrupt.recv() => EXIT_INTERRUPT,
        }
    }
}
