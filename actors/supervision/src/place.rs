//! Where actors live: a thread (actix arbiter) for each top actor, shared with its children.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use actix_rt::{Arbiter, ArbiterHandle, System};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::padded::Padded;

/// Signs of life of one thread; a fresh one with each thread.
pub(crate) struct Beat {
    /// Moves with every message handled and every ping answered. Only its own thread writes.
    progress: Padded<AtomicU64>,
    /// Whose code ran last.
    current: Mutex<Option<Arc<str>>>,
}

impl Beat {
    fn new() -> Arc<Self> {
        Arc::new(Self { progress: Padded(AtomicU64::new(0)), current: Mutex::new(None) })
    }

    /// Only from the beat's own thread, hence no read-modify-write.
    pub(crate) fn tick(&self) {
        let next = self.progress.load(Ordering::Relaxed).wrapping_add(1);
        self.progress.store(next, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    pub(crate) fn set_current(&self, path: &Arc<str>) {
        let mut current = self.current.lock();
        if !current.as_ref().is_some_and(|known| Arc::ptr_eq(known, path)) {
            *current = Some(path.clone());
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<str>> {
        self.current.lock().clone()
    }
}

/// A thread an actor can be put on.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) arbiter: ArbiterHandle,
    pub(crate) beat: Arc<Beat>,
}

/// How incarnations find their thread.
#[derive(Clone)]
pub(crate) enum Place {
    /// The parent's.
    With(Seat),
    /// One of its own.
    Own(Arc<OwnPlace>),
}

impl Place {
    pub(crate) async fn seat(&self) -> Result<Seat, String> {
        match self {
            Self::With(seat) => Ok(seat.clone()),
            Self::Own(own) => own.seat().await,
        }
    }
}

/// A top actor's thread, replaced when it hangs.
pub(crate) struct OwnPlace {
    system: System,
    runtime: Weak<Runtime>,
    slot: Mutex<Option<(Arbiter, Arc<Beat>)>>,
}

impl OwnPlace {
    pub(crate) fn new(system: System, runtime: Weak<Runtime>) -> Arc<Self> {
        Arc::new(Self { system, runtime, slot: Mutex::new(None) })
    }

    /// The thread there is, if any.
    pub(crate) fn current(&self) -> Option<Seat> {
        self.slot
            .lock()
            .as_ref()
            .map(|(arbiter, beat)| Seat { arbiter: arbiter.handle(), beat: beat.clone() })
    }

    async fn seat(&self) -> Result<Seat, String> {
        if let Some(seat) = self.current().filter(|seat| seat.arbiter.alive()) {
            return Ok(seat);
        }
        // A new arbiter belongs to the system that is current on the thread that makes it, so
        // the system's own thread makes it.
        let (sender, made) = oneshot::channel();
        let runtime = self.runtime.clone();
        let asked = self.system.arbiter().spawn_fn(move || {
            let arbiter = match runtime.upgrade() {
                Some(runtime) => {
                    Arbiter::try_with_tokio_rt(move || Ok(runtime)).map_err(|e| e.to_string())
                }
                None => Err("the node is stopping".to_owned()),
            };
            let _ = sender.send(arbiter);
        });
        if !asked {
            return Err("the node is stopping".to_owned());
        }
        let arbiter = made
            .await
            .map_err(|_| "the node is stopping".to_owned())?
            .map_err(|error| format!("no thread for the actor: {error}"))?;
        let seat = Seat { arbiter: arbiter.handle(), beat: Beat::new() };
        *self.slot.lock() = Some((arbiter, seat.beat.clone()));
        Ok(seat)
    }

    /// Lets the thread go without waiting for it: it hangs. Should it ever wake up, it ends.
    pub(crate) fn abandon(&self) {
        if let Some((arbiter, _)) = self.slot.lock().take() {
            arbiter.stop();
        }
    }

    /// The thread, told to end; for the caller to join.
    pub(crate) fn take_stopped(&self) -> Option<Arbiter> {
        let (arbiter, _) = self.slot.lock().take()?;
        arbiter.stop();
        Some(arbiter)
    }
}
