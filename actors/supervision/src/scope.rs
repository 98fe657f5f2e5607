//! What an incarnation holds of itself and its surroundings.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use weft_link::{Fabric, Refusal};
use weft_protocol::ActorState;
use weft_wire::{Clock, WallTime};

use crate::actor::{Actor, ChildSpec, Factory};
use crate::life::{End, Epoch, Life};
use crate::machine::ChildId;
use crate::office::{Command, Crew, Keeper as _};
use crate::panics::guarded;
use crate::post::{Mail, Post};
use crate::queue::{Bound, Queue};

/// An incarnation's handle to itself and its surroundings. When the incarnation is over, nothing
/// sent through it has an effect any more.
pub struct Scope<A: Actor> {
    pub(crate) post: Arc<Post<A>>,
    pub(crate) queue: Arc<Queue<A>>,
}

impl<A: Actor> Clone for Scope<A> {
    fn clone(&self) -> Self {
        Self { post: self.post.clone(), queue: self.queue.clone() }
    }
}

impl<A: Actor> fmt::Debug for Scope<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("path", &self.path())
            .field("incarnation", &self.life().number)
            .field("current", &!self.life().is_over())
            .finish_non_exhaustive()
    }
}

impl<A: Actor> Scope<A> {
    /// To reach other actors.
    pub fn fabric(&self) -> &Fabric {
        &self.post.core.fabric
    }

    /// The tree's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.post.core.clock.clone()
    }

    /// Monotonic time, by the tree's clock.
    pub fn now(&self) -> Instant {
        self.post.core.clock.now()
    }

    /// Wall time, by the tree's clock.
    pub fn wall(&self) -> WallTime {
        self.post.core.clock.wall()
    }

    /// `runtime`, `runtime/web/1/api`, …
    pub fn path(&self) -> &str {
        &self.post.row.path
    }

    /// 0 for the first incarnation.
    pub fn incarnation(&self) -> u64 {
        self.life().number
    }

    /// To be checked before each effect outside the actor.
    pub fn epoch(&self) -> &Epoch {
        &self.life().epoch
    }

    /// Runs `f` as a message to itself, after those that wait already. Counted as waiting, but
    /// never refused for the mailbox's bound: an actor may not lose its own continuations.
    /// `false`: the incarnation is over.
    pub fn post(&self, f: impl FnOnce(&mut A, &Self) + Send + 'static) -> bool {
        self.queue.push(Mail::Run(Box::new(f)), Bound::Inside).is_ok()
    }

    /// Runs `f` on the shared pool until the incarnation ends. A panic in it is the actor's
    /// failure.
    pub fn spawn(&self, f: impl Future<Output = ()> + Send + 'static) {
        drop(self.launch(f));
    }

    /// Runs `f` on the shared pool and `then` with its result as a message to itself.
    pub fn spawn_then<T: Send + 'static>(
        &self,
        f: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(&mut A, T, &Self) + Send + 'static,
    ) {
        let scope = self.clone();
        self.spawn(async move {
            let done = f.await;
            scope.post(move |actor, scope| then(actor, done, scope));
        });
    }

    /// Runs `f` as a message to itself after `delay` of real time. Dropping the timer cancels it.
    pub fn after(&self, delay: Duration, f: impl FnOnce(&mut A, &Self) + Send + 'static) -> Timer {
        let scope = self.clone();
        Timer(self.launch(async move {
            tokio::time::sleep(delay).await;
            scope.post(f);
        }))
    }

    /// Runs `f` as a message to itself every `period` (at least 1 ms) of real time, first after
    /// one period, until the incarnation ends. Left out while the last one has not run yet.
    pub fn every(&self, period: Duration, f: impl FnMut(&mut A, &Self) + Send + 'static) {
        let scope = self.clone();
        let f = Arc::new(Mutex::new(f));
        let waits = Arc::new(AtomicBool::new(false));
        let period = period.max(Duration::from_millis(1));
        self.spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                // Not awaited: an idle node would wake another thread for every answer.
                if waits.swap(true, Ordering::AcqRel) {
                    continue;
                }
                let (f, waits) = (f.clone(), waits.clone());
                let posted = scope.post(move |actor, scope| {
                    (f.lock())(actor, scope);
                    waits.store(false, Ordering::Release);
                });
                if !posted {
                    return;
                }
            }
        });
    }

    /// Ends this incarnation as a failure: no further message is handled by it.
    pub fn fail(&self, why: impl fmt::Display) {
        self.life().finish(End::Failed(why.to_string()));
    }

    /// Ends this incarnation well: a permanent actor is made again, others are not.
    pub fn stop(&self) {
        self.life().finish(End::Normal);
    }

    /// Supervises a child under this actor, on the same thread. It ends with this incarnation,
    /// without its `stopping`, unless this incarnation is stopped in an orderly way. A child of
    /// the same name is stopped first.
    pub fn child<C: Actor>(
        &self,
        name: &str,
        spec: ChildSpec,
        factory: impl Factory<C>,
    ) -> Child<C> {
        let path: Arc<str> = format!("{}/{name}", self.path()).into();
        let post = Post::new(self.post.core.clone(), path, &spec, Box::new(factory));
        let id = self.post.core.next_id();
        let mut crew = self.life().crew.lock();
        let office = match &*crew {
            _ if self.life().is_over() => None,
            Some(crew) => Some(crew.commands.clone()),
            None => self.life().seat.get().map(|seat| {
                let new = Crew::of_actor::<A>(&self.post.core, self.path(), self.life(), seat);
                let commands = new.commands.clone();
                *crew = Some(new);
                commands
            }),
        };
        drop(crew);
        let office = office.unwrap_or_else(|| mpsc::unbounded_channel().0);
        let add = Command::Add { id, keeper: post.clone(), plan: spec.plan(), ready: None };
        if office.send(add).is_err() {
            // The incarnation is over: the child never comes to be.
            post.close();
        }
        Child { post, id, office }
    }

    fn life(&self) -> &Arc<Life> {
        self.queue.life()
    }

    fn launch(&self, f: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        if self.life().is_over() {
            return None;
        }
        let life = self.life().clone();
        let path = self.post.row.path.clone();
        let task = self.post.core.handle.spawn(async move {
            tokio::select! {
                biased;
                () = life.cancel.cancelled() => {}
                ended = guarded(path, f) => {
                    if let Err(panic) = ended {
                        life.finish(End::Failed(panic));
                    }
                }
            }
        });
        Some(task.abort_handle())
    }
}

/// A timer that has not fired yet; dropping it cancels it.
#[derive(Debug)]
#[must_use = "dropping a timer cancels it: keep it, or detach it"]
pub struct Timer(Option<AbortHandle>);

impl Timer {
    /// Lets it fire unless the incarnation ends before.
    pub fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// A handle to a child that survives the child's restarts.
pub struct Child<C: Actor> {
    post: Arc<Post<C>>,
    id: ChildId,
    office: mpsc::UnboundedSender<Command>,
}

impl<C: Actor> Clone for Child<C> {
    fn clone(&self) -> Self {
        Self { post: self.post.clone(), id: self.id, office: self.office.clone() }
    }
}

impl<C: Actor> fmt::Debug for Child<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl<C: Actor> Child<C> {
    /// Its path in the tree.
    pub fn path(&self) -> &str {
        &self.post.row.path
    }

    /// What it is doing.
    pub fn state(&self) -> ActorState {
        self.post.row.state()
    }

    /// Runs `f` on the child as a message, bounded like any. What is posted before its first
    /// start waits for it.
    ///
    /// # Errors
    /// `Full`: its mailbox is; `Gone`: it is being restarted, or is no more.
    pub fn post(&self, f: impl FnOnce(&mut C, &Scope<C>) + Send + 'static) -> Result<(), Refusal> {
        self.post.run(Box::new(f))
    }

    /// Stops it in an orderly way: its children first, then its `stopping` is awaited (5 s each).
    /// Begins at once; the future ends when it is gone.
    pub fn stop(&self) -> impl Future<Output = ()> + Send + 'static + use<C> {
        let (done, gone) = oneshot::channel();
        let _ = self.office.send(Command::Stop { id: self.id, done });
        async move {
            let _ = gone.await;
        }
    }

    /// Stops it in an orderly way and makes a new one.
    pub fn restart(&self) {
        let _ = self.office.send(Command::Restart { id: self.id, done: None });
    }
}
