//! What a mailbox takes: letters, and the ports their answers go back through.
//!
//! A letter is either local (the value itself, never encoded) or from the wire (bytes, decoded
//! on the actor's own thread). Every letter gets exactly one answer: dropping a port answers
//! `Unreachable`, so an actor that dies fails its callers at once instead of at their deadline.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use weft_wire::{
    AskError, Caller, Class, Failure, FailureKind, Message, MessageId, NodeId, Subscription,
    TraceContext, codec,
};

use crate::fabric::AuditSink;

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
}

impl Rule {
    /// The rule of an ask or tell.
    pub const fn of<M: Message>() -> Self {
        Self { allow: M::ALLOW, name: M::NAME, class: M::CLASS, subscription: false }
    }

    /// The rule of a subscription.
    pub const fn of_subscription<M: Subscription>() -> Self {
        Self { allow: M::ALLOW, name: M::NAME, class: M::CLASS, subscription: true }
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
    /// A `LocalAsk<M>` or a `LocalSubscribe<M>`.
    Local(Box<dyn Any + Send>),
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
            Self::WireAsk { .. } => "WireAsk",
            Self::WireSubscribe { .. } => "WireSubscribe",
        })
    }
}

pub(crate) struct LocalAsk<M: Message> {
    pub(crate) message: M,
    pub(crate) reply: Option<oneshot::Sender<Result<M::Reply, AskError>>>,
}

pub(crate) struct LocalSubscribe<M: Subscription> {
    pub(crate) message: M,
    pub(crate) sink: mpsc::Sender<Result<M::Item, AskError>>,
}

/// Audit of one request, finished by its answer.
#[derive(Debug)]
pub struct AuditStub {
    pub(crate) sink: AuditSink,
    pub(crate) entry: Option<crate::fabric::AuditEntry>,
    pub(crate) start: Instant,
    pub(crate) clock: Arc<dyn ClockDebug>,
}

/// A clock that can stand in a debuggable struct.
pub(crate) trait ClockDebug: weft_wire::Clock + std::fmt::Debug {}
impl<C: weft_wire::Clock + std::fmt::Debug> ClockDebug for C {}

impl AuditStub {
    /// Writes the record; later calls do nothing.
    pub(crate) fn finish(&mut self, error: Option<&AskError>) {
        if let Some(mut entry) = self.entry.take() {
            entry.error = error.cloned();
            entry.duration = self.clock.now().saturating_duration_since(self.start);
            self.sink.record(entry);
        }
    }
}

impl Drop for AuditStub {
    fn drop(&mut self) {
        if self.entry.is_some() {
            self.finish(Some(&AskError::Unreachable(
                "the actor stopped before it answered".into(),
            )));
        }
    }
}

/// Where a link writes answers; one per stream. Implementations batch.
pub trait Outbox: Send + Sync + 'static {
    /// Appends one frame: `write` is called once with the buffer to append to.
    fn push(&self, write: &mut dyn FnMut(&mut Vec<u8>));
}

/// The way back of an ask that came over a link.
pub struct WireReply {
    outbox: Option<Arc<dyn Outbox>>,
    correlation: u32,
}

impl std::fmt::Debug for WireReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WireReply").field("correlation", &self.correlation).finish_non_exhaustive()
    }
}

impl WireReply {
    /// Answers the ask `correlation` through `outbox`.
    pub fn new(outbox: Arc<dyn Outbox>, correlation: u32) -> Self {
        Self { outbox: Some(outbox), correlation }
    }

    /// Answers well, the body already encoded.
    pub fn bytes(mut self, version: u16, body: &[u8]) {
        self.write(|out, correlation| {
            weft_wire::frame::write(out, reply_header(version, correlation), None, |out| {
                out.extend_from_slice(body);
                Ok(())
            })
            .map(drop)
        });
    }

    pub(crate) fn value<T: serde::Serialize>(mut self, value: &T) {
        self.write(|out, correlation| {
            weft_wire::frame::write(out, reply_header(1, correlation), None, |out| {
                codec::encode_into(value, out).map(drop)
            })
            .map(drop)
        });
    }

    /// Answers badly.
    pub fn error(mut self, error: &AskError) {
        self.write(|out, correlation| {
            weft_wire::frame::write_error(out, correlation, error).map(drop)
        });
    }

    fn write(&mut self, frame: impl Fn(&mut Vec<u8>, u32) -> Result<(), codec::CodecError>) {
        let correlation = self.correlation;
        if let Some(outbox) = self.outbox.take() {
            outbox.push(&mut |out| {
                if let Err(error) = frame(out, correlation) {
                    // The answer does not fit a frame: say that instead of nothing.
                    let failure = AskError::Failed(
                        Failure::new(FailureKind::Internal, "the answer cannot be encoded")
                            .cause(error),
                    );
                    let _ = weft_wire::frame::write_error(out, correlation, &failure);
                }
            });
        }
    }
}

fn reply_header(version: u16, correlation: u32) -> weft_wire::frame::Header {
    weft_wire::frame::Header {
        kind: weft_wire::frame::Kind::Reply,
        id: 0,
        version,
        actor: 0,
        correlation,
        deadline_ms: 0,
    }
}

impl Drop for WireReply {
    fn drop(&mut self) {
        let error = AskError::Unreachable("the actor stopped before it answered".into());
        self.write(|out, correlation| {
            weft_wire::frame::write_error(out, correlation, &error).map(drop)
        });
    }
}

/// The port one answer goes through. Dropped unused, it answers `Unreachable`.
#[derive(Debug)]
pub struct Reply<M: Message> {
    meta: Meta,
    port: Port<M>,
    audit: Option<AuditStub>,
}

enum Port<M: Message> {
    None,
    Local(oneshot::Sender<Result<M::Reply, AskError>>),
    Wire(WireReply),
}

impl<M: Message> std::fmt::Debug for Port<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Local(_) => "Local",
            Self::Wire(_) => "Wire",
        })
    }
}

impl<M: Message> Reply<M> {
    /// Answers.
    pub fn send(mut self, answer: Result<M::Reply, Failure>) {
        self.answer(answer.map_err(AskError::Failed));
    }

    /// Answers well.
    pub fn ok(mut self, value: M::Reply) {
        self.answer(Ok(value));
    }

    /// Answers with an error that another actor gave.
    pub fn result(mut self, answer: Result<M::Reply, AskError>) {
        self.answer(answer);
    }

    /// Answers badly.
    pub fn fail(mut self, failure: Failure) {
        self.answer(Err(AskError::Failed(failure)));
    }

    fn answer(&mut self, answer: Result<M::Reply, AskError>) {
        if let Some(mut audit) = self.audit.take() {
            audit.finish(answer.as_ref().err());
        }
        match std::mem::replace(&mut self.port, Port::None) {
            Port::None => {}
            // The asker may have given up; that is its right.
            Port::Local(port) => drop(port.send(answer)),
            Port::Wire(port) => match answer {
                Ok(value) => port.value(&value),
                Err(error) => port.error(&error),
            },
        }
    }

    /// Whether anybody waits for the answer.
    pub fn is_wanted(&self) -> bool {
        match &self.port {
            Port::None => false,
            Port::Local(port) => !port.is_closed(),
            Port::Wire(_) => true,
        }
    }

    /// On whose behalf, from where, until when.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// On whose behalf.
    pub fn caller(&self) -> &Caller {
        &self.meta.caller
    }
}

/// The consumer of a subscription is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subscriber is gone")]
pub struct Closed;

/// Where a subscription's items go. Dropped, it ends the stream well.
#[derive(Debug)]
pub struct ItemSink<S: Subscription> {
    port: SinkPort<S>,
    meta: Meta,
}

enum SinkPort<S: Subscription> {
    Local(mpsc::Sender<Result<S::Item, AskError>>),
    Wire(mpsc::Sender<Vec<u8>>),
}

impl<S: Subscription> std::fmt::Debug for SinkPort<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local(_) => "Local",
            Self::Wire(_) => "Wire",
        })
    }
}

impl<S: Subscription> ItemSink<S> {
    /// Sends one item, waiting while the consumer is behind.
    ///
    /// # Errors
    /// [`Closed`] once the consumer is gone; stop sending then.
    pub async fn send(&self, item: S::Item) -> Result<(), Closed> {
        match &self.port {
            SinkPort::Local(port) => port.send(Ok(item)).await.map_err(|_| Closed),
            SinkPort::Wire(port) => port.send(item_frame(&item)).await.map_err(|_| Closed),
        }
    }

    /// Sends one item if there is room for it.
    ///
    /// # Errors
    /// The item back with `Ok(item)` when the consumer is behind, [`Closed`] when it is gone.
    pub fn try_send(&self, item: S::Item) -> Result<(), Result<S::Item, Closed>> {
        use mpsc::error::TrySendError;
        match &self.port {
            SinkPort::Local(port) => port.try_send(Ok(item)).map_err(|error| match error {
                TrySendError::Full(Ok(item)) => Ok(item),
                _ => Err(Closed),
            }),
            SinkPort::Wire(port) => match port.try_reserve() {
                Ok(permit) => {
                    permit.send(item_frame(&item));
                    Ok(())
                }
                Err(TrySendError::Full(())) => Err(Ok(item)),
                Err(TrySendError::Closed(())) => Err(Err(Closed)),
            },
        }
    }

    /// Ends the stream with an error.
    pub async fn fail(self, error: AskError) {
        match &self.port {
            SinkPort::Local(port) => drop(port.send(Err(error)).await),
            SinkPort::Wire(port) => {
                let mut frame = Vec::new();
                if weft_wire::frame::write_error(&mut frame, 0, &error).is_ok() {
                    drop(port.send(frame).await);
                }
            }
        }
    }

    /// Ends once the consumer is gone.
    pub async fn closed(&self) {
        match &self.port {
            SinkPort::Local(port) => port.closed().await,
            SinkPort::Wire(port) => port.closed().await,
        }
    }

    /// On whose behalf, from where.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}

fn item_frame<T: serde::Serialize>(item: &T) -> Vec<u8> {
    use weft_wire::frame::{Header, Kind, write, write_error};
    let mut frame = Vec::new();
    let header =
        Header { kind: Kind::Item, id: 0, version: 1, actor: 0, correlation: 0, deadline_ms: 0 };
    let written = write(&mut frame, header, None, |out| codec::encode_into(item, out).map(drop));
    if let Err(error) = written {
        let failure = Failure::new(FailureKind::Internal, "an item cannot be encoded").cause(error);
        let _ = write_error(&mut frame, 0, &AskError::Failed(failure));
    }
    frame
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

    /// Opens a letter that holds an ask or tell of `M`. `None`: it could not be read as `M`, and
    /// its sender has been told why.
    pub fn open<M: Message>(self) -> Option<(M, Reply<M>)> {
        let Self { id, meta, parcel, audit } = self;
        match parcel {
            Parcel::Local(any) => match any.downcast::<LocalAsk<M>>() {
                Ok(ask) => {
                    let LocalAsk { message, reply } = *ask;
                    let port = reply.map_or(Port::None, Port::Local);
                    Some((message, Reply { meta, port, audit }))
                }
                Err(_) => None,
            },
            Parcel::WireAsk { version, body, reply } => {
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
                    audit.finish(None);
                }
                Some((local.message, ItemSink { port: SinkPort::Local(local.sink), meta }))
            }
            Parcel::WireSubscribe { version, body, sink } => {
                match decode::<S>(id, version, &body) {
                    Ok(message) => {
                        if let Some(audit) = &mut audit {
                            audit.finish(None);
                        }
                        Some((message, ItemSink { port: SinkPort::Wire(sink), meta }))
                    }
                    Err(error) => {
                        if let Some(audit) = &mut audit {
                            audit.finish(Some(&error));
                        }
                        let mut frame = Vec::new();
                        if weft_wire::frame::write_error(&mut frame, 0, &error).is_ok() {
                            let _ = sink.try_send(frame);
                        }
                        None
                    }
                }
            }
            Parcel::WireAsk { .. } => None,
        }
    }

    /// Answers the sender with an error, unopened.
    pub fn refuse(self, error: &AskError) {
        let Self { parcel, mut audit, .. } = self;
        if let Some(audit) = &mut audit {
            audit.finish(Some(error));
        }
        match parcel {
            // The value's own port is dropped, which the asking side reads as unreachable; the
            // fabric tells local senders the precise error itself.
            Parcel::Local(_) => {}
            Parcel::WireAsk { reply, .. } => {
                if let Some(reply) = reply {
                    reply.error(error);
                }
            }
            Parcel::WireSubscribe { sink, .. } => {
                let mut frame = Vec::new();
                if weft_wire::frame::write_error(&mut frame, 0, error).is_ok() {
                    let _ = sink.try_send(frame);
                }
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
