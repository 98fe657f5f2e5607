//! What the whole tree shares.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use actix_rt::{Arbiter, System};
use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use weft_link::Fabric;
use weft_protocol::ActorInfo;
use weft_wire::{Clock, Jitter};

use crate::machine::ChildId;
use crate::office::{Command, Keeper};
use crate::place::OwnPlace;

/// An actor as messages name it.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) id: ChildId,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) office: mpsc::UnboundedSender<Command>,
}

/// A top actor and its thread.
pub(crate) type Top = (Arc<OwnPlace>, Arc<dyn Keeper>);

pub(crate) struct Core {
    pub(crate) fabric: Fabric,
    pub(crate) clock: Arc<dyn Clock>,
    /// Weak: the last strong one must not go on a thread of its own.
    pub(crate) runtime: Weak<Runtime>,
    pub(crate) handle: Handle,
    pub(crate) system: System,
    pub(crate) chaos: bool,
    /// Lets actors go on that `weft chaos hang` blocked; only tests set it.
    pub(crate) release: Arc<AtomicBool>,
    pub(crate) finished: watch::Sender<Option<String>>,
    /// Top actors and their threads, for the watchdog.
    pub(crate) tops: Mutex<BTreeMap<ChildId, Top>>,
    /// Threads told to end, for the tree to join.
    pub(crate) ending: Mutex<Vec<Arbiter>>,
    ids: AtomicU64,
    actors: Mutex<BTreeMap<Arc<str>, Registered>>,
}

impl Core {
    pub(crate) fn new(
        fabric: Fabric,
        clock: Arc<dyn Clock>,
        runtime: &Arc<Runtime>,
        system: System,
        chaos: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            fabric,
            clock,
            runtime: Arc::downgrade(runtime),
            handle: runtime.handle().clone(),
            system,
            chaos,
            release: Arc::new(AtomicBool::new(false)),
            finished: watch::Sender::new(None),
            tops: Mutex::new(BTreeMap::new()),
            ending: Mutex::new(Vec::new()),
            ids: AtomicU64::new(0),
            actors: Mutex::new(BTreeMap::new()),
        })
    }

    pub(crate) fn next_id(&self) -> ChildId {
        ChildId(self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// A number in 0.0..1.0, for jitter.
    #[allow(clippy::unused_self, reason = "the one place with randomness")]
    pub(crate) fn random(&self) -> Jitter {
        let bits = std::hash::RandomState::new().build_hasher().finish();
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The node gives up; the first reason stays.
    pub(crate) fn give_up(&self, why: String) {
        tracing::error!("giving up: {why}");
        self.finished.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(why);
            }
            first
        });
    }

    pub(crate) fn register(&self, actor: Registered) {
        self.actors.lock().insert(actor.keeper.row().path.clone(), actor);
    }

    /// Takes an actor off the list unless another has its path by now.
    pub(crate) fn unregister(&self, path: &Arc<str>, id: ChildId) {
        let mut actors = self.actors.lock();
        if actors.get(path).is_some_and(|actor| actor.id == id) {
            actors.remove(path);
        }
    }

    pub(crate) fn find(&self, path: &str) -> Option<Registered> {
        self.actors.lock().get(path).cloned()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.actors.lock().keys().map(ToString::to_string).collect()
    }

    pub(crate) fn rows(&self) -> Vec<ActorInfo> {
        let rows: Vec<_> =
            self.actors.lock().values().map(|actor| actor.keeper.row().clone()).collect();
        rows.iter().map(|row| row.info(self.fabric.name())).collect()
    }
}
