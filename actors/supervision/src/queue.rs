//! An incarnation's mailbox: a bounded queue in front of an actix actor.
//!
//! The queue is ours and not actix's for three reasons. Its bound is exact and has no way around
//! it. When an actor dies, also by blocking its thread, the supervisor empties it, so that whoever
//! waits for an answer hears at once. And an idle actor is woken once for all that came in
//! meanwhile: no allocation and no wake-up for each message. Through the actix mailbox come only
//! the wake-ups.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use weft_link::Refusal;

use crate::actor::Actor;
use crate::life::Life;
use crate::padded::Padded;
use crate::post::{Inside, Mail};

/// An actor with nothing left to do looks again so often before it falls asleep, if it has been
/// busy: putting a thread to sleep and waking it costs more than a dozen messages. A few
/// microseconds.
const LINGER: u32 = 64;

/// Something is in the queue.
pub(crate) struct Wake;

impl actix::Message for Wake {
    type Result = ();
}

/// Who posts, and so what bound there is.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Somebody else.
    Outside(usize),
    /// The actor itself, or its supervisor: never refused, but counted.
    Inside,
}

struct Inbox<A: Actor> {
    mail: VecDeque<Mail<A>>,
    /// What the actor took last time; it has no more than that.
    taken_last: usize,
    /// The actor has been told that there is something.
    awake: bool,
    closed: bool,
}

pub(crate) struct Queue<A: Actor> {
    life: Arc<Life>,
    address: actix::Addr<Inside<A>>,
    /// What messages beside this queue are answered from.
    shared: Option<Arc<dyn Any + Send + Sync>>,
    /// What the actor has taken to work through; locked before `inbox`.
    taken: Padded<Mutex<VecDeque<Mail<A>>>>,
    inbox: Padded<Mutex<Inbox<A>>>,
}

impl<A: Actor> Queue<A> {
    pub(crate) fn new(
        life: Arc<Life>,
        address: actix::Addr<Inside<A>>,
        shared: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            life,
            address,
            shared,
            taken: Padded(Mutex::new(VecDeque::new())),
            inbox: Padded(Mutex::new(Inbox {
                mail: VecDeque::new(),
                taken_last: 0,
                awake: false,
                closed: false,
            })),
        })
    }

    pub(crate) fn shared(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.shared.as_deref()
    }

    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Takes mail, or gives it back. Never waits for the actor.
    #[allow(clippy::result_large_err, reason = "the unsent letter goes back to its sender")]
    pub(crate) fn push(&self, mail: Mail<A>, bound: Bound) -> Result<(), (Refusal, Mail<A>)> {
        if self.life.is_over() {
            return Err((Refusal::Gone, mail));
        }
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err((Refusal::Gone, mail));
        }
        if let Bound::Outside(capacity) = bound
            // Looks at what the actor writes only when it may matter.
            && inbox.mail.len() + inbox.taken_last >= capacity
            && inbox.mail.len() + self.life.taken.load(Ordering::Relaxed) >= capacity
        {
            return Err((Refusal::Full, mail));
        }
        inbox.mail.push_back(mail);
        self.life.waiting.store(inbox.mail.len(), Ordering::Relaxed);
        let asleep = !std::mem::replace(&mut inbox.awake, true);
        drop(inbox);
        if asleep {
            self.wake();
        }
        Ok(())
    }

    /// There is never more than one wake-up on its way, so the actix mailbox is never full; one
    /// that is closed belongs to an actor whose queue is about to be.
    pub(crate) fn wake(&self) {
        let _ = self.address.try_send(Wake);
    }

    /// For the actor: the next one; `None`: it will be woken.
    pub(crate) fn next(&self) -> Option<Mail<A>> {
        let mut taken = self.taken.lock();
        if taken.is_empty() {
            self.linger();
            let mut inbox = self.inbox.lock();
            if inbox.mail.is_empty() {
                inbox.awake = false;
                return None;
            }
            std::mem::swap(&mut *taken, &mut inbox.mail);
            inbox.taken_last = taken.len();
            self.life.waiting.store(0, Ordering::Relaxed);
            self.life.taken.store(taken.len() - 1, Ordering::Relaxed);
            return taken.pop_front();
        }
        let mail = taken.pop_front();
        self.life.taken.store(taken.len(), Ordering::Relaxed);
        mail
    }

    fn linger(&self) {
        for _ in 0..LINGER {
            if self.life.waiting.load(Ordering::Relaxed) > 0 || self.life.is_over() {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Takes nothing any more, and gives what there is to be dropped.
    pub(crate) fn close(&self) -> VecDeque<Mail<A>> {
        let mut taken = self.taken.lock();
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        let mut left = std::mem::take(&mut *taken);
        left.append(&mut inbox.mail);
        self.life.waiting.store(0, Ordering::Relaxed);
        self.life.taken.store(0, Ordering::Relaxed);
        left
    }
}
