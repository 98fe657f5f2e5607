//! What a mailbox takes: letters, and the ports their answers go back through.
//!
//! A letter is either local (the value itself, never encoded) or from the wire (bytes, decoded
//! on the actor's own thread). Every letter gets exactly one answer: dropping a port answers
//! `Unreachable`, so an actor that dies fails its callers at once instead of at their deadline.

use std::any::Any;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_wire::{
    AskError, Caller, Class, Failure, FailureKind, Message, MessageId, NodeId, Subscription,
    TraceContext,
};

use crate::ask::Unopened;
use crate::audit::AuditStub;
use crate::reply::{ItemSink, Port, Reply, SinkPort, WireReply, accepted_frame, error_frame};

/// How many items of a subscription may wait for a slow consumer, on each side of a link.
pub(crate) const ITEMS_WAITING: usize = 64;

/// What a mailbox knows of a message it takes; checked at the door.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Who may send it.
    pub allow: weft_wire::Allow,
    /// Name for audit and metrics.
    pub name: &'static str,
    /// Traffic class.
    pub class: Class,
    /// Whether it opens a subscription.
    pub subscription: bool,
    /// Whether it is part of a request that the audit has already.
    pub part: bool,
}

impl Rule {
    /// The rule of an ask or tell.
    pub const fn of<M: Message>() -> Self {
        Self { allow: M::ALLOW, name: M::NAME, class: M::CLASS, subscription: false, part: M::PART }
    }

    /// The rule of a subscription.
    pub const fn of_subscription<M: Subscription>() -> Self {
        Self { allow: M::ALLOW, name: M::NAME, class: M::CLASS, subscription: true, part: M::PART }
    }
}

/// Why a mailbox did not take a letter; the letter comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is full.
    Full,
    /// Its actor is gone.
    Gone,
}

/// Where letters go. Supervision implements it over actors; benches and tests by hand.
pub trait Mailbox: Send + Sync + 'static {
    /// The rule of a message, or `None` if this mailbox does not take it.
    fn rule(&self, id: MessageId) -> Option<Rule>;

    /// Takes a letter whose rights have been checked. Never blocks.
    ///
    /// # Errors
    /// The letter back, and why.
    #[allow(clippy::result_large_err, reason = "the unsent letter goes back to its sender")]
    fn post(&self, letter: Letter) -> Result<(), (Refusal, Letter)>;
}

/// What comes with every message.
#[derive(Debug, Clone)]
pub struct Meta {
    /// On whose behalf, as this node judged it.
    pub caller: Caller,
    /// The peer it came from; `None`: this node.
    pub from: Option<NodeId>,
    /// When the asker stops waiting; `None` for tells and subscriptions.
    pub deadline: Option<Instant>,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

/// A message on its way into a mailbox.
#[derive(Debug)]
pub struct Letter {
    pub(crate) id: MessageId,
    pub(crate) meta: Meta,
    pub(crate) parcel: Parcel,
    pub(crate) audit: Option<AuditStub>,
}

pub(crate) enum Parcel {
    /// A `LocalTell<M>` or a `LocalSubscribe<M>`.
    Local(Box<dyn Any + Send>),
    LocalAsk(Unopened),
    WireAsk {
        version: u16,
        body: Bytes,
        reply: Option<WireReply>,
    },
    WireSubscribe {
        version: u16,
        body: Bytes,
        sink: mpsc::Sender<Vec<u8>>,
    },
}

impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local(_) => "Local",
            Self::LocalAsk(_) => "LocalAsk",
            Self::WireAsk { .. } => "WireAsk",
            Self::WireSubscribe { .. } => "WireSubscribe",
        })
    }
}

pub(crate) struct LocalTell<M: Message>(pub(crate) M);

pub(crate) struct LocalSubscribe<M: Subscription> {
    pub(crate) message: M,
    pub(crate) sink: mpsc::Sender<Result<M::Item, AskError>>,
}

impl Letter {
    /// Which message it holds.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// On whose behalf, from where, until when.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether its sender has stopped waiting, at `now`: then handling it is wasted work.
    pub fn is_stale(&self, now: Instant) -> bool {
        let over = self.meta.deadline.is_some_and(|deadline| deadline <= now);
        over || matches!(
            &self.parcel,
            Parcel::WireAsk { reply: Some(reply), .. } if !reply.is_wanted()
        )
    }

    /// Opens a letter that holds an ask or tell of `M`. `None`: it could not be read as `M`, and
    /// its sender has been told why; or its sender no longer wants the answer.
    pub fn open<M: Message>(self) -> Option<(M, Reply<M>)> {
        let Self { id, meta, parcel, audit } = self;
        match parcel {
            Parcel::LocalAsk(ask) => {
                let (message, port) = ask.open::<M>()?;
                Some((message, Reply { meta, port: Port::Local(port), audit }))
            }
            Parcel::Local(any) => {
                let LocalTell(message) = *any.downcast::<LocalTell<M>>().ok()?;
                Some((message, Reply { meta, port: Port::None, audit }))
            }
            Parcel::WireAsk { version, body, reply } => {
                if reply.as_ref().is_some_and(|reply| !reply.is_wanted()) {
                    // Cancelled while it waited: nothing is done, and nobody is told.
                    return None;
                }
                let port = reply.map_or(Port::None, Port::Wire);
                let mut reply = Reply { meta, port, audit };
                match decode::<M>(id, version, &body) {
                    Ok(message) => Some((message, reply)),
                    Err(error) => {
                        reply.answer(Err(error));
                        None
                    }
                }
            }
            Parcel::WireSubscribe { .. } => None,
        }
    }

    /// Opens a letter that holds a subscription of `S`. As [`Letter::open`].
    pub fn open_subscription<S: Subscription>(self) -> Option<(S, ItemSink<S>)> {
        let Self { id, meta, parcel, mut audit } = self;
        match parcel {
            Parcel::Local(any) => {
                let local = any.downcast::<LocalSubscribe<S>>().ok()?;
                if let Some(audit) = &mut audit {
                    audit.about(&local.message.about());
                    audit.finish(None);
                }
                Some((local.message, ItemSink { port: SinkPort::Local(local.sink), meta }))
            }
            Parcel::WireSubscribe { version, body, sink } => {
                match decode::<S>(id, version, &body) {
                    Ok(message) => {
                        if let Some(audit) = &mut audit {
                            audit.about(&message.about());
                            audit.finish(None);
                        }
                        let _ = sink.try_send(accepted_frame());
                        Some((message, ItemSink { port: SinkPort::Wire(sink), meta }))
                    }
                    Err(error) => {
                        if let Some(audit) = &mut audit {
                            audit.finish(Some(&error));
                        }
                        let _ = sink.try_send(error_frame(0, &error));
                        None
                    }
                }
            }
            Parcel::WireAsk { .. } | Parcel::LocalAsk(_) => None,
        }
    }

    /// Answers the sender with an error, unopened.
    pub fn refuse(self, error: &AskError) {
        let Self { parcel, mut audit, .. } = self;
        if let Some(audit) = &mut audit {
            audit.finish(Some(error));
        }
        match parcel {
            // Nobody waits, or the port of the items is dropped.
            Parcel::Local(_) => {}
            Parcel::LocalAsk(ask) => ask.refuse(error),
            Parcel::WireAsk { reply, .. } => {
                if let Some(reply) = reply {
                    reply.error(error);
                }
            }
            Parcel::WireSubscribe { sink, .. } => {
                let _ = sink.try_send(error_frame(0, error));
            }
        }
    }
}

fn decode<M: Message>(id: MessageId, version: u16, body: &[u8]) -> Result<M, AskError> {
    match M::decode_version(version, body) {
        None => Err(AskError::Unsupported { id: id.0, version }),
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(AskError::Failed(
            Failure::new(FailureKind::Invalid, format!("the body of {} does not decode", M::NAME))
                .cause(error),
        )),
    }
}
