//! One actor's post: the reference that survives its incarnations, and the actix actor inside.
//!
//! Nobody outside holds an actix address: what comes in passes the current incarnation's
//! [`Queue`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{ActorContext as _, AsyncContext as _};
use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use weft_link::{Letter, Mailbox, Refusal, Rule};
use weft_protocol::{ActorState, ChaosKind};
use weft_wire::{AskError, MessageId};

use crate::actor::{Actor, ChildSpec, Factory, Incarnation};
use crate::core::Core;
use crate::life::{End, Life, Row};
use crate::machine::ChildId;
use crate::office::{Command, Keeper};
use crate::panics::{describe, enter, guard, guarded};
use crate::place::{Beat, Place, Seat};
use crate::queue::{Bound, Queue, Wake};
use crate::routes::Table;
use crate::scope::Scope;

/// A factory has so long.
const MAKE_DEADLINE: Duration = Duration::from_secs(30);
/// `stopping` has so long (design §5).
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// After so many messages in a row an actor lets the others on its thread run.
const TURN: u32 = 256;
/// In a row of messages the clock is read once for so many of them.
const LOOK: u32 = 16;

pub(crate) type Run<A> = Box<dyn FnOnce(&mut A, &Scope<A>) + Send>;

/// What an actor's mailbox holds.
#[allow(clippy::large_enum_variant, reason = "most are letters; a box would cost each of them")]
pub(crate) enum Mail<A: Actor> {
    Letter(Letter),
    Run(Run<A>),
    Stopping(oneshot::Sender<BoxFuture<'static, ()>>),
}

impl<A: Actor> actix::Message for Mail<A> {
    type Result = ();
}

/// See the module's docs. Aligned, so that its own reference count, which every sender changes, is
/// not on the line that the actor reads.
#[repr(align(128))]
pub(crate) struct Post<A: Actor> {
    pub(crate) core: Arc<Core>,
    pub(crate) row: Arc<Row>,
    table: Table<A>,
    factory: Box<dyn Factory<A>>,
    live: ArcSwapOption<Queue<A>>,
    /// Posted before the first start; `None` from then on.
    parked: Mutex<Option<Vec<Run<A>>>>,
}

impl<A: Actor> Post<A> {
    pub(crate) fn new(
        core: Arc<Core>,
        path: Arc<str>,
        spec: &ChildSpec,
        factory: Box<dyn Factory<A>>,
    ) -> Arc<Self> {
        let row = Arc::new(Row::new(path, spec.mailbox.max(1), core.clock.wall()));
        Arc::new(Self {
            core,
            row,
            table: Table::of_actor(),
            factory,
            live: ArcSwapOption::empty(),
            parked: Mutex::new(Some(Vec::new())),
        })
    }

    /// From the parent: bounded like a letter.
    pub(crate) fn run(&self, f: Run<A>) -> Result<(), Refusal> {
        let mail = match self.offer(Mail::Run(f)) {
            Ok(()) => return Ok(()),
            Err((Refusal::Gone, mail)) => mail,
            Err((refusal, _)) => return Err(refusal),
        };
        let mut parked = self.parked.lock();
        match (&mut *parked, mail) {
            (Some(waiting), Mail::Run(f)) if waiting.len() < self.row.capacity => {
                waiting.push(f);
                Ok(())
            }
            (Some(_), _) => Err(Refusal::Full),
            (None, mail) => {
                drop(parked);
                // It may have started since.
                self.offer(mail).map_err(|(refusal, _)| {
                    if refusal == Refusal::Gone {
                        self.row.dead_letters.fetch_add(1, Ordering::Relaxed);
                    }
                    refusal
                })
            }
        }
    }

    /// Has a letter answered at once, if it can be; gives back what is for the mailbox.
    fn beside(&self, letter: Letter) -> Option<Letter> {
        let Some(deliver) = self.table.beside(letter.id()) else { return Some(letter) };
        let live = self.live.load();
        let Some(queue) = live.as_ref().filter(|queue| !queue.life().is_over()) else {
            return Some(letter);
        };
        let Some(shared) = queue.shared() else { return Some(letter) };
        match guard(&self.row.path, move || deliver(shared, letter)) {
            Ok(left) => {
                if left.is_none() {
                    self.row.handled.fetch_add(1, Ordering::Relaxed);
                }
                left
            }
            Err(panic) => {
                // The letter answered its sender when it was dropped.
                queue.life().finish(End::Failed(panic));
                None
            }
        }
    }

    #[allow(clippy::result_large_err, reason = "the unsent letter goes back to its sender")]
    fn offer(&self, mail: Mail<A>) -> Result<(), (Refusal, Mail<A>)> {
        match &*self.live.load() {
            Some(live) => live.push(mail, Bound::Outside(self.row.capacity)),
            None => Err((Refusal::Gone, mail)),
        }
    }

    /// From making a value to its end.
    async fn live_through(
        self: &Arc<Self>,
        life: &Arc<Life>,
        place: Place,
        office: (ChildId, mpsc::UnboundedSender<Command>),
        sent_queue: oneshot::Sender<Arc<Queue<A>>>,
    ) -> End {
        let over = || life.end().unwrap_or(End::Stopped);
        let incarnation = Incarnation {
            number: life.number,
            path: self.row.path.to_string(),
            fabric: self.core.fabric.clone(),
            clock: self.core.clock.clone(),
            epoch: life.epoch.clone(),
        };
        let post = self.clone();
        let making =
            guarded(self.row.path.clone(), async move { post.factory.make(incarnation).await });
        let value = tokio::select! {
            biased;
            () = life.cancel.cancelled() => return over(),
            made = tokio::time::timeout(MAKE_DEADLINE, making) => match made {
                Ok(Ok(Ok(value))) => value,
                Ok(Ok(Err(error))) => return End::Failed(error.to_string()),
                Ok(Err(panic)) => return End::Failed(panic),
                Err(_) => {
                    let secs = MAKE_DEADLINE.as_secs();
                    return End::Failed(format!("its factory took longer than {secs} s"));
                }
            },
        };
        let seat = match place.seat().await {
            Ok(seat) => seat,
            Err(error) => return End::Failed(error),
        };
        let _ = life.seat.set(seat.clone());
        let (sender, task) = oneshot::channel::<JoinHandle<()>>();
        let inside = (self.clone(), life.clone(), seat.clone());
        let placed = seat.arbiter.spawn_fn(move || {
            let (post, life, seat) = inside;
            if life.is_over() {
                return;
            }
            let context = actix::Context::<Inside<A>>::new();
            let queue = Queue::new(life.clone(), context.address(), value.shared());
            let _ = sent_queue.send(queue.clone());
            let actor = Inside {
                actor: Box::new(value),
                beat: seat.beat.clone(),
                office: Some(office),
                scope: Scope { post: post.clone(), queue },
            };
            let future = Box::pin(context.into_future(actor));
            let named = Named {
                future: Some(future),
                life: life.clone(),
                path: post.row.path.clone(),
                seat,
            };
            let task = actix_rt::spawn(named);
            life.set_abort(task.abort_handle());
            let _ = sender.send(task);
        });
        if !placed {
            return End::Failed("its thread is gone".to_owned());
        }
        let ended = async {
            match task.await {
                Ok(task) => task.await.err().filter(tokio::task::JoinError::is_panic),
                Err(_) => None,
            }
        };
        tokio::select! {
            biased;
            () = life.abandoned.cancelled() => over(),
            panic = ended => match panic {
                // What the wrapper could not catch.
                Some(panic) => End::Failed(describe(panic.into_panic())),
                None => life.end().unwrap_or(End::Normal),
            },
        }
    }

    /// Takes an incarnation's queue away and drops what is in it, which answers whoever waits.
    fn withdraw(&self, queue: &Queue<A>) -> usize {
        if self.live.load().as_ref().is_some_and(|live| std::ptr::eq(&**live, queue)) {
            self.live.store(None);
        }
        let left = queue.close();
        let lost = left.len();
        if let Err(panic) = guard(&self.row.path, move || drop(left)) {
            tracing::error!(actor = %self.row.path, "{panic} (dropping its messages)");
        }
        self.row.dead_letters.fetch_add(lost as u64, Ordering::Relaxed);
        lost
    }
}

impl<A: Actor> Mailbox for Post<A> {
    fn rule(&self, id: MessageId) -> Option<Rule> {
        self.table.rule(id)
    }

    fn post(&self, letter: Letter) -> Result<(), (Refusal, Letter)> {
        let Some(letter) = self.beside(letter) else { return Ok(()) };
        match self.offer(Mail::Letter(letter)) {
            Err((refusal, Mail::Letter(letter))) => {
                if refusal == Refusal::Gone {
                    self.row.dead_letters.fetch_add(1, Ordering::Relaxed);
                }
                Err((refusal, letter))
            }
            // What was offered comes back, so it is a letter.
            _ => Ok(()),
        }
    }
}

impl<A: Actor> Keeper for Post<A> {
    fn row(&self) -> &Arc<Row> {
        &self.row
    }

    fn start(
        self: Arc<Self>,
        number: u64,
        place: Place,
        id: ChildId,
        office: mpsc::UnboundedSender<Command>,
    ) {
        let life = Life::new(number);
        self.row.begin(&life, self.core.clock.wall());
        self.core.handle.clone().spawn(async move {
            let (send_queue, mut queue) = oneshot::channel();
            let end = self.live_through(&life, place, (id, office.clone()), send_queue).await;
            life.finish(end);
            let end = life.end().unwrap_or(End::Normal);
            // Not awaited: an abandoned thread may never come to send it.
            let lost = queue.try_recv().map_or(0, |queue| self.withdraw(&queue));
            let crew = life.crew.lock().take();
            if let Some(crew) = crew {
                crew.kill(life.abandoned.is_cancelled()).await;
            }
            if let End::Failed(why) | End::Hung(why) = &end {
                self.row.set_failure(why);
                tracing::warn!(
                    actor = %self.row.path,
                    incarnation = number,
                    lost_messages = lost,
                    "actor failed: {why}"
                );
            }
            let _ = office.send(Command::Ended { id, number, end });
        });
    }

    fn stop(self: Arc<Self>) {
        let Some(life) = self.row.life() else { return };
        self.core.handle.clone().spawn(async move {
            let crew = life.crew.lock().as_ref().map(|crew| crew.commands.clone());
            if let Some(crew) = crew {
                let (done, gone) = oneshot::channel();
                if crew.send(Command::StopAll { done }).is_ok() {
                    let _ = gone.await;
                }
            }
            let live = self.live.load_full().filter(|live| Arc::ptr_eq(live.life(), &life));
            if let Some(live) = live {
                let (sender, answer) = oneshot::channel();
                let _ = live.push(Mail::Stopping(sender), Bound::Inside);
                drop(live);
                let path = self.row.path.clone();
                let stopping = async {
                    match answer.await {
                        Ok(stopping) => guarded(path, stopping).await,
                        Err(_) => Ok(()),
                    }
                };
                match tokio::time::timeout(STOP_DEADLINE, stopping).await {
                    Ok(Ok(())) => {}
                    Ok(Err(panic)) => self.row.set_failure(&panic),
                    Err(_) => tracing::warn!(
                        actor = %self.row.path,
                        "not stopped within {} s: dropped",
                        STOP_DEADLINE.as_secs()
                    ),
                }
            }
            life.finish(End::Stopped);
        });
    }

    fn kill(&self, end: End, abandon: bool) {
        if let Some(life) = self.row.life() {
            life.finish(end);
            if abandon {
                life.abandoned.cancel();
            }
        }
    }

    fn close(&self) {
        drop(self.parked.lock().take());
        self.row.set_state(ActorState::Stopped, self.core.clock.wall());
    }

    fn chaos(&self, kind: ChaosKind) -> bool {
        let live = self.live.load();
        let Some(live) = &*live else { return false };
        let release = self.core.release.clone();
        let run: Run<A> = match kind {
            #[allow(clippy::panic, reason = "it was asked for")]
            ChaosKind::Panic => Box::new(|_, _| panic!("asked for by `weft chaos panic`")),
            ChaosKind::Hang => Box::new(move |_, _| {
                while !release.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }),
        };
        live.push(Mail::Run(run), Bound::Inside).is_ok()
    }
}

/// The actix actor: an incarnation's value and its scope.
pub(crate) struct Inside<A: Actor> {
    actor: Box<A>,
    scope: Scope<A>,
    beat: Arc<Beat>,
    /// Told once it answers.
    office: Option<(ChildId, mpsc::UnboundedSender<Command>)>,
}

impl<A: Actor> actix::Actor for Inside<A> {
    type Context = actix::Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Scope { post, queue } = self.scope.clone();
        let life = queue.life().clone();
        if !life.is_over()
            && let Err(error) = self.actor.started(&self.scope)
        {
            life.finish(End::Failed(error.to_string()));
        }
        if life.is_over() {
            return context.terminate();
        }
        {
            // Under the lock, so that nothing posted meanwhile overtakes what was parked.
            let mut parked = post.parked.lock();
            for run in parked.take().unwrap_or_default() {
                let _ = queue.push(Mail::Run(run), Bound::Inside);
            }
            post.row.set_state(ActorState::Running, post.core.clock.wall());
            post.live.store(Some(queue));
        }
        if let Some((id, office)) = self.office.take() {
            let _ = office.send(Command::Started { id, number: life.number });
        }
    }
}

impl<A: Actor> actix::Handler<Wake> for Inside<A> {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Self::Context) {
        let Self { actor, scope, beat, .. } = self;
        let clock = &scope.post.core.clock;
        let mut now = clock.now();
        for n in 1..=TURN {
            if scope.queue.life().is_over() {
                return context.terminate();
            }
            let Some(mail) = scope.queue.next() else { return };
            if n % LOOK == 0 {
                now = clock.now();
            }
            scope.post.row.handled.fetch_add(1, Ordering::Relaxed);
            beat.tick();
            match mail {
                // Nobody waits for it any more.
                Mail::Letter(letter) if letter.is_stale(now) => letter.refuse(&AskError::Timeout),
                Mail::Letter(letter) => scope.post.table.deliver(actor, letter, scope),
                Mail::Run(run) => run(actor, scope),
                Mail::Stopping(sender) => {
                    let _ = sender.send(actor.stopping(scope));
                }
            }
        }
        // There is more; but first the others on this thread.
        scope.queue.wake();
        context.wait(actix::fut::wrap_future(tokio::task::yield_now()));
    }
}

/// Polls an actor under its name and catches its panics, so that it is dropped after the
/// unwinding, not during it: a second panic in a `Drop` would end the process.
struct Named<F> {
    future: Option<std::pin::Pin<Box<F>>>,
    life: Arc<Life>,
    path: Arc<str>,
    seat: Seat,
}

impl<F: Future<Output = ()>> Future for Named<F> {
    type Output = ();

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return std::task::Poll::Ready(()) };
        this.seat.beat.set_current(&this.path);
        let entered = enter(&this.path);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(())) => std::task::Poll::Ready(()),
            Err(panic) => {
                this.life.finish(End::Failed(describe(panic)));
                drop(entered);
                let gone = this.future.take();
                if let Err(second) = guard(&this.path, move || drop(gone)) {
                    tracing::error!(actor = %this.path, "{second} (while it was dropped)");
                }
                std::task::Poll::Ready(())
            }
        }
    }
}
