//! An ask within this node: one allocation that holds the message on its way in, the answer on
//! its way back, and who waits for it.
//!
//! Asker, actor and the deadline sweeper share it; whoever ends it first wins. Dropped unread by
//! the actor's side, it says that the actor is gone.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use weft_wire::{AskError, Message};

use crate::deadlines::{Deadlines, Expire, Ticket};

/// Why a local ask has no answer.
#[derive(Debug)]
pub(crate) enum End {
    /// The actor's side went away without one.
    Gone,
    /// An answer that is an error, or the deadline.
    Error(AskError),
}

enum Outcome<R> {
    Waiting,
    Done(Result<R, End>),
    /// The asker has it, or wants none any more.
    Over,
}

struct State<M: Message> {
    message: Option<M>,
    outcome: Outcome<M::Reply>,
    waker: Option<Waker>,
}

pub(crate) struct Shared<M: Message>(Mutex<State<M>>);

impl<M: Message> Shared<M> {
    fn finish(&self, result: Result<M::Reply, End>) {
        let mut state = self.0.lock();
        if !matches!(state.outcome, Outcome::Waiting) {
            // Drop what nobody wants outside the lock.
            drop(state);
            return drop(result);
        }
        state.outcome = Outcome::Done(result);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<M: Message> Expire for Shared<M> {
    fn expire(&self) {
        self.finish(Err(End::Error(AskError::Timeout)));
    }
}

/// What the actor's side can do without knowing the message.
trait Held: Send + Sync {
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
    fn end(&self, end: End);
}

impl<M: Message> Held for Shared<M> {
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn end(&self, end: End) {
        self.finish(Err(end));
    }
}

/// An ask in a mailbox. Dropped, it ends the ask as gone.
pub(crate) struct Unopened(Option<Arc<dyn Held>>);

impl Unopened {
    /// The message and the port of its answer; `None` if it is not an `M`.
    pub(crate) fn open<M: Message>(mut self) -> Option<(M, LocalPort<M>)> {
        let any = self.0.take()?;
        let shared = match any.into_any().downcast::<Shared<M>>() {
            Ok(shared) => LocalPort(Some(shared)),
            Err(_) => return None,
        };
        let message = shared.0.as_ref()?.0.lock().message.take()?;
        Some((message, shared))
    }

    /// Answers with an error.
    pub(crate) fn refuse(mut self, error: &AskError) {
        if let Some(ask) = self.0.take() {
            ask.end(End::Error(error.clone()));
        }
    }
}

impl Drop for Unopened {
    fn drop(&mut self) {
        if let Some(ask) = self.0.take() {
            ask.end(End::Gone);
        }
    }
}

/// The way back of an opened ask. Dropped, it ends the ask as gone.
pub(crate) struct LocalPort<M: Message>(Option<Arc<Shared<M>>>);

impl<M: Message> LocalPort<M> {
    pub(crate) fn send(mut self, answer: Result<M::Reply, AskError>) {
        if let Some(shared) = self.0.take() {
            shared.finish(answer.map_err(End::Error));
        }
    }

    /// Whether the asker still waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| matches!(shared.0.lock().outcome, Outcome::Waiting))
    }
}

impl<M: Message> Drop for LocalPort<M> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.finish(Err(End::Gone));
        }
    }
}

/// The asker's end.
pub(crate) struct Waiting<'a, M: Message> {
    shared: Arc<Shared<M>>,
    deadlines: &'a Deadlines,
    ticket: Option<Ticket>,
}

/// A new ask. `waker` is woken by its end until the asker polls with another one.
pub(crate) fn new<'a, M: Message>(
    message: M,
    waker: Option<&Waker>,
    deadlines: &'a Deadlines,
) -> (Unopened, Waiting<'a, M>) {
    let shared = Arc::new(Shared(Mutex::new(State {
        message: Some(message),
        outcome: Outcome::Waiting,
        waker: waker.cloned(),
    })));
    let unopened = Unopened(Some(shared.clone()));
    (unopened, Waiting { shared, deadlines, ticket: None })
}

impl<M: Message> Waiting<'_, M> {
    /// Ends the ask with `Timeout` at `deadline`.
    pub(crate) fn until(&mut self, deadline: Instant) -> Result<(), AskError> {
        // Answered as it was sent.
        if !matches!(self.shared.0.lock().outcome, Outcome::Waiting) {
            return Ok(());
        }
        self.ticket = Some(self.deadlines.add(deadline, self.shared.clone())?);
        Ok(())
    }
}

impl<M: Message> Future for Waiting<'_, M> {
    type Output = Result<M::Reply, End>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.0.lock();
        match std::mem::replace(&mut state.outcome, Outcome::Over) {
            Outcome::Done(result) => Poll::Ready(result),
            Outcome::Waiting => {
                state.outcome = Outcome::Waiting;
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    empty => *empty = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            // Polled again after its end.
            Outcome::Over => Poll::Pending,
        }
    }
}

impl<M: Message> Drop for Waiting<'_, M> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.deadlines.remove(ticket);
        }
        let mut state = self.shared.0.lock();
        if !matches!(state.outcome, Outcome::Over) {
            let outcome = std::mem::replace(&mut state.outcome, Outcome::Over);
            let waker = state.waker.take();
            drop(state);
            drop((outcome, waker));
        }
    }
}
