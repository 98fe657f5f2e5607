//! One incarnation of an actor, and the row that survives them all.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use weft_protocol::{ActorInfo, ActorState};
use weft_wire::WallTime;

use crate::office::Crew;
use crate::padded::Padded;
use crate::place::Seat;

/// A token of one incarnation: current until it ends or is replaced. Whoever acts for an actor
/// checks it before each effect, so that a ghost that wakes up on an abandoned thread changes
/// nothing (design §5).
#[derive(Debug, Clone)]
pub struct Epoch(Arc<Padded<AtomicBool>>);

impl Epoch {
    fn new() -> Self {
        Self(Arc::new(Padded(AtomicBool::new(false))))
    }

    /// Whether the incarnation may still act.
    pub fn is_current(&self) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, well.
    Normal,
    /// It was told to.
    Stopped,
    /// An error or a panic.
    Failed(String),
    /// It blocked its thread.
    Hung(String),
}

/// One incarnation.
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) epoch: Epoch,
    /// Messages waiting that the actor has not looked at yet, self-messages included.
    pub(crate) waiting: Padded<AtomicUsize>,
    /// Messages waiting that it has taken to work through.
    pub(crate) taken: Padded<AtomicUsize>,
    /// Ends what it spawned.
    pub(crate) cancel: CancellationToken,
    /// Nobody waits for its thread any more.
    pub(crate) abandoned: CancellationToken,
    pub(crate) seat: OnceLock<Seat>,
    abort: OnceLock<AbortHandle>,
    end: Mutex<Option<End>>,
    pub(crate) crew: Mutex<Option<Crew>>,
}

impl Life {
    pub(crate) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self {
            number,
            epoch: Epoch::new(),
            waiting: Padded(AtomicUsize::new(0)),
            taken: Padded(AtomicUsize::new(0)),
            cancel: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            seat: OnceLock::new(),
            abort: OnceLock::new(),
            end: Mutex::new(None),
            crew: Mutex::new(None),
        })
    }

    pub(crate) fn depth(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) + self.taken.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        !self.epoch.is_current()
    }

    /// Ends it; the first reason stays, but that it hung outdoes any.
    pub(crate) fn finish(&self, end: End) {
        {
            let mut kept = self.end.lock();
            if kept.is_none() || matches!(end, End::Hung(_)) {
                *kept = Some(end);
            }
            self.epoch.0.store(true, Ordering::Release);
        }
        self.cancel.cancel();
        if let Some(abort) = self.abort.get() {
            abort.abort();
        }
    }

    /// What can end it from outside, once it runs.
    pub(crate) fn set_abort(&self, abort: AbortHandle) {
        let _ = self.abort.set(abort);
        if self.is_over()
            && let Some(abort) = self.abort.get()
        {
            abort.abort();
        }
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.end.lock().clone()
    }
}

struct Status {
    state: ActorState,
    since: WallTime,
    last_failure: String,
    life: Option<Arc<Life>>,
}

/// What introspection shows of one actor over all its incarnations.
pub(crate) struct Row {
    pub(crate) path: Arc<str>,
    pub(crate) capacity: usize,
    pub(crate) handled: Padded<AtomicU64>,
    pub(crate) dead_letters: AtomicU64,
    restarts: AtomicU64,
    status: Mutex<Status>,
}

impl Row {
    pub(crate) fn new(path: Arc<str>, capacity: usize, now: WallTime) -> Self {
        Self {
            path,
            capacity,
            handled: Padded(AtomicU64::new(0)),
            dead_letters: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            status: Mutex::new(Status {
                state: ActorState::Starting,
                since: now,
                last_failure: String::new(),
                life: None,
            }),
        }
    }

    pub(crate) fn set_state(&self, state: ActorState, now: WallTime) {
        let mut status = self.status.lock();
        if status.state != state {
            status.state = state;
            status.since = now;
        }
    }

    /// The watchdog's view: `hung` while it is silent, back to what it was when it speaks.
    pub(crate) fn set_hung(&self, hung: bool, now: WallTime) {
        let mut status = self.status.lock();
        let next = match (status.state, hung) {
            (ActorState::Running, true) => ActorState::Hung,
            (ActorState::Hung, false) => ActorState::Running,
            _ => return,
        };
        status.state = next;
        status.since = now;
    }

    pub(crate) fn state(&self) -> ActorState {
        self.status.lock().state
    }

    pub(crate) fn begin(&self, life: &Arc<Life>, now: WallTime) {
        if life.number > 0 {
            self.restarts.fetch_add(1, Ordering::Relaxed);
        }
        let mut status = self.status.lock();
        status.life = Some(life.clone());
        status.state = ActorState::Starting;
        status.since = now;
    }

    pub(crate) fn set_failure(&self, why: &str) {
        why.clone_into(&mut self.status.lock().last_failure);
    }

    pub(crate) fn last_failure(&self) -> String {
        self.status.lock().last_failure.clone()
    }

    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.status.lock().life.clone()
    }

    pub(crate) fn info(&self, node: &str) -> ActorInfo {
        let status = self.status.lock();
        let depth =
            status.life.as_ref().filter(|life| !life.is_over()).map_or(0, |life| life.depth());
        ActorInfo {
            node: node.to_owned(),
            path: self.path.to_string(),
            state: status.state,
            since: status.since,
            restarts: self.restarts.load(Ordering::Relaxed),
            mailbox_depth: depth as u64,
            mailbox_capacity: self.capacity as u64,
            messages: self.handled.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            last_failure: status.last_failure.clone(),
        }
    }
}
