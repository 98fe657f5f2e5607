//! The node's tree: the root supervisor, its watchdog, and the orderly stop.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::System;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use weft_link::{Fabric, Reply};
use weft_protocol::ActorInfo;
use weft_wire::{ActorKind, Clock, Message, SystemClock};

use crate::actor::{Actor, ChildSpec, Factory};
use crate::core::Core;
use crate::machine::{Strategy, Supervisor};
use crate::node::NodeMailbox;
use crate::office::{Command, Crew, Office};
use crate::post::Post;
use crate::watchdog::{Watch, Watchdog};

/// What the process ends with when [`Tree::finished`] has given its reason (design §5).
pub const EXIT_GAVE_UP: u8 = 70;

/// Why there is no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Actors need an actix system on the thread that builds the tree.
    #[error("no actor system on this thread: run inside weft_supervision::block_on_system")]
    NoSystem,
    /// The runtime or a thread could not be made.
    #[error("cannot make the actors' threads: {0}")]
    Threads(String),
    /// An actor did not start, however often it was tried.
    #[error("{0}")]
    GaveUp(String),
}

/// What a tree is made of.
pub struct TreeConfig {
    /// Where the actors become reachable.
    pub fabric: Fabric,
    /// Time for decisions, and for actors.
    pub clock: Arc<dyn Clock>,
    /// The shared pool.
    pub runtime: Arc<Runtime>,
    /// Whether `weft chaos` may break actors.
    pub chaos: bool,
    /// What a failing top actor does to the others.
    pub strategy: Strategy,
    /// When a silent actor counts as hung.
    pub watchdog: Watchdog,
}

impl TreeConfig {
    /// The machine's clock, no chaos, one-for-one, 10 s of silence.
    pub fn new(fabric: Fabric, runtime: Arc<Runtime>) -> Self {
        Self {
            fabric,
            clock: Arc::new(SystemClock),
            runtime,
            chaos: false,
            strategy: Strategy::OneForOne,
            watchdog: Watchdog::default(),
        }
    }
}

impl fmt::Debug for TreeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeConfig")
            .field("chaos", &self.chaos)
            .field("strategy", &self.strategy)
            .field("watchdog", &self.watchdog)
            .finish_non_exhaustive()
    }
}

/// The node's supervised actors. Cheap to clone.
#[derive(Clone)]
pub struct Tree(Arc<Inner>);

/// An actor to be started, and the word that it has.
type Added = (Command, oneshot::Receiver<()>);

struct Inner {
    core: Arc<Core>,
    node: Arc<NodeMailbox>,
    root: Mutex<Option<Crew>>,
    commands: tokio::sync::mpsc::UnboundedSender<Command>,
    /// Added before the start, in order.
    waiting: Mutex<Option<Vec<Added>>>,
    watch: Mutex<Option<Watch>>,
    watchdog: Watchdog,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("actors", &self.0.core.paths()).finish_non_exhaustive()
    }
}

impl Tree {
    /// A tree without actors. The node's own messages (`ActorTree`, `RestartActor`, `ChaosActor`,
    /// `Ping`) are answered from now on, on the shared pool.
    ///
    /// # Errors
    /// [`TreeError::NoSystem`] outside [`crate::block_on_system`].
    pub fn build(config: TreeConfig) -> Result<Self, TreeError> {
        let system = System::try_current().ok_or(TreeError::NoSystem)?;
        crate::panics::install();
        let TreeConfig { fabric, clock, runtime, chaos, strategy, watchdog } = config;
        let core = Core::new(fabric, clock, &runtime, system, chaos);
        let root = Office::root(&core, Supervisor::new(strategy, true));
        let node = NodeMailbox::new(&core);
        core.fabric.attach(ActorKind::Node, node.clone());
        Ok(Self(Arc::new(Inner {
            core,
            node,
            commands: root.commands.clone(),
            root: Mutex::new(Some(root)),
            waiting: Mutex::new(Some(Vec::new())),
            watch: Mutex::new(None),
            watchdog,
        })))
    }

    /// Adds a top actor on a thread of its own and makes it reachable under `kind`. Before
    /// [`Tree::start`], it waits for that; after it, it starts at once.
    pub fn add<A: Actor>(&self, kind: ActorKind, spec: ChildSpec, factory: impl Factory<A>) {
        drop(self.add_ready(kind, spec, factory));
    }

    pub(crate) fn add_ready<A: Actor>(
        &self,
        kind: ActorKind,
        spec: ChildSpec,
        factory: impl Factory<A>,
    ) -> Option<oneshot::Receiver<()>> {
        let core = &self.0.core;
        let post = Post::<A>::new(core.clone(), kind.as_str().into(), &spec, Box::new(factory));
        core.fabric.attach(kind, post.clone());
        let (ready, started) = oneshot::channel();
        let add = Command::Add {
            id: core.next_id(),
            keeper: post,
            plan: spec.plan(),
            ready: Some(ready),
        };
        if let Some(waiting) = &mut *self.0.waiting.lock() {
            waiting.push((add, started));
            return None;
        }
        let _ = self.0.commands.send(add);
        Some(started)
    }

    /// Answers a message of the node's own with a function on the shared pool.
    pub fn answer<M: Message>(&self, f: impl Fn(M, Reply<M>) + Send + Sync + 'static) {
        self.0.node.answer(f);
    }

    /// Starts the actors one after the other, in the order they were added, and the watchdog.
    ///
    /// # Errors
    /// [`TreeError::GaveUp`] if one does not start within its intensity; the others still run.
    pub async fn start(&self) -> Result<(), TreeError> {
        let waiting = self.0.waiting.lock().take().unwrap_or_default();
        {
            let mut watch = self.0.watch.lock();
            if watch.is_none() {
                *watch = Some(Watch::start(&self.0.core, self.0.watchdog)?);
            }
        }
        for (add, started) in waiting {
            let _ = self.0.commands.send(add);
            self.ready(started).await?;
        }
        Ok(())
    }

    pub(crate) async fn ready(&self, started: oneshot::Receiver<()>) -> Result<(), TreeError> {
        tokio::select! {
            biased;
            reason = self.finished() => Err(TreeError::GaveUp(reason)),
            started = started => {
                started.map_err(|_| TreeError::GaveUp("the node is stopping".to_owned()))
            }
        }
    }

    /// Resolves with the reason when the tree has given up: a top actor failed beyond its
    /// intensity, or a second one hung. The process then ends with [`EXIT_GAVE_UP`].
    pub async fn finished(&self) -> String {
        let mut finished = self.0.core.finished.subscribe();
        let reason = match finished.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        reason.unwrap_or_default()
    }

    /// Every actor, children included, by path.
    pub fn rows(&self) -> Vec<ActorInfo> {
        self.0.core.rows()
    }

    /// Orderly stop: last added first; each actor's children before it, its `stopping` awaited.
    /// Whatever has not stopped by the deadline is dropped. Then its threads are joined, for at
    /// most 2 s more.
    pub async fn stop(&self, deadline: Duration) {
        let root = self.0.root.lock().take();
        let Some(root) = root else { return };
        let (done, stopped) = oneshot::channel();
        let _ = root.commands.send(Command::StopAll { done });
        if tokio::time::timeout(deadline, stopped).await.is_err() {
            tracing::warn!("actors not stopped within {} s: dropped", deadline.as_secs_f64());
        }
        root.kill(true).await;
        let core = &self.0.core;
        let watch = self.0.watch.lock().take();
        drop(watch);
        let places: Vec<_> = core.tops.lock().values().map(|(place, _)| place.clone()).collect();
        let mut arbiters = std::mem::take(&mut *core.ending.lock());
        arbiters.extend(places.iter().filter_map(|place| place.take_stopped()));
        let joined = tokio::task::spawn_blocking(move || {
            for arbiter in arbiters {
                let _ = arbiter.join();
            }
        });
        if tokio::time::timeout(Duration::from_secs(2), joined).await.is_err() {
            tracing::warn!("an actor's thread did not end: left behind");
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }
}
