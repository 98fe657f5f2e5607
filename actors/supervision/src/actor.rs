//! What an actor is, how it is made, and how it wants to be supervised.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use weft_link::{Fabric, ItemSink, Reply};
use weft_wire::{Backoff, Clock, Message, Subscription};

use crate::life::Epoch;
use crate::machine::{Intensity, Restart, Strategy};
use crate::routes::Routes;
use crate::scope::Scope;

/// An actor: a value behind a supervised mailbox.
///
/// Handlers are synchronous and short, and run one at a time on the actor's own thread: what
/// waits is spawned ([`Scope::spawn_then`]) and comes back as a self-message. A value is thrown
/// away with whatever was in it when an incarnation ends, so it must be able to be made again
/// from what is durable. Its `Drop` must not panic.
pub trait Actor: Sized + Send + 'static {
    /// What a failing child does to its siblings.
    const STRATEGY: Strategy = Strategy::OneForOne;

    /// Declares the messages it answers.
    fn routes(routes: &mut Routes<Self>);

    /// What messages that are answered beside the mailbox ([`Beside`]) are answered from; asked for
    /// once for each incarnation, before its first message.
    fn shared(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Before the first message, on the actor's own thread.
    ///
    /// # Errors
    /// An error is a failure of this incarnation.
    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        let _ = scope;
        Ok(())
    }

    /// Orderly stop, after its children have stopped: returns what has to finish first, bounded
    /// by the supervisor's stop deadline (5 s). Messages are still handled meanwhile.
    fn stopping(&mut self, scope: &Scope<Self>) -> BoxFuture<'static, ()> {
        let _ = scope;
        std::future::ready(()).boxed()
    }
}

/// Answers one message, asked or told.
pub trait Handle<M: Message>: Actor {
    /// Handles it. `reply` may be kept and answered later; dropped, it answers `Unreachable`.
    fn handle(&mut self, message: M, reply: Reply<M>, scope: &Scope<Self>);
}

/// Answers one message of an actor in its sender's task, from what the actor shares
/// ([`Actor::shared`]), without a turn of its mailbox: for what many ask and what guards itself. As
/// long as the incarnation lives; a panic in it is the actor's failure.
pub trait Beside<M: Message>: Send + Sync + 'static {
    /// Whether it can be answered without waiting for anybody; if not, it goes into the mailbox.
    fn is_free(&self) -> bool;

    /// As [`Handle::handle`]; on any thread, several at a time, and it must not block.
    fn handle(&self, message: M, reply: Reply<M>);
}

/// Serves one subscription.
pub trait Serve<S: Subscription>: Actor {
    /// Accepts it. Items are usually sent from a spawned future; dropping `sink` ends the stream.
    fn serve(&mut self, message: S, sink: ItemSink<S>, scope: &Scope<Self>);
}

/// Why an actor could not be made or could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ActorError(String);

impl ActorError {
    /// From anything that reads well.
    pub fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl From<&str> for ActorError {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

impl From<String> for ActorError {
    fn from(why: String) -> Self {
        Self(why)
    }
}

/// What a factory is told about the incarnation it makes.
#[derive(Clone)]
pub struct Incarnation {
    /// 0 for the first, then one more each time.
    pub number: u64,
    /// `runtime`, `runtime/web/1/api`, …
    pub path: String,
    /// To reach other actors.
    pub fabric: Fabric,
    /// The tree's clock.
    pub clock: Arc<dyn Clock>,
    /// Whether this incarnation is still the current one.
    pub epoch: Epoch,
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incarnation")
            .field("number", &self.number)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Makes a new value from what is durable.
///
/// Implemented by closures `Fn(Incarnation) -> Future<Output = Result<A, ActorError>> + Send`;
/// name the argument's type (`|incarnation: Incarnation|`) where its fields are used. The future
/// runs on the shared pool and must end within 30 s.
pub trait Factory<A>: Send + Sync + 'static {
    /// Makes it.
    fn make(&self, incarnation: Incarnation) -> BoxFuture<'static, Result<A, ActorError>>;
}

impl<A, F, Made> Factory<A> for F
where
    F: Fn(Incarnation) -> Made + Send + Sync + 'static,
    Made: Future<Output = Result<A, ActorError>> + Send + 'static,
{
    fn make(&self, incarnation: Incarnation) -> BoxFuture<'static, Result<A, ActorError>> {
        self(incarnation).boxed()
    }
}

/// How an actor is supervised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChildSpec {
    /// When it is started again.
    pub restart: Restart,
    /// How often it may fail before its parent fails; default 5 in 30 s.
    pub intensity: Intensity,
    /// Delays from the second failure in a row on; the first restart is immediate.
    pub backoff: Backoff,
    /// Messages that may wait; default 1024.
    pub mailbox: usize,
}

impl Default for ChildSpec {
    fn default() -> Self {
        Self {
            restart: Restart::Permanent,
            intensity: Intensity::default(),
            backoff: Backoff {
                base: Duration::from_millis(200),
                max: Duration::from_secs(30),
                jitter: 0.2,
            },
            mailbox: 1024,
        }
    }
}
