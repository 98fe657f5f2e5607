//! The ways back: the one answer of an ask, the items of a subscription.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;
use weft_wire::frame::{self, Header, Kind};
use weft_wire::{AskError, Caller, Failure, FailureKind, Message, Subscription, codec};

use crate::ask::LocalPort;
use crate::audit::AuditStub;
use crate::mailbox::Meta;
use crate::outbox::with_scratch;
use crate::serve::Forwards;

/// Where the answers of one stream go. Implementations batch.
pub(crate) trait Outbox: Send + Sync + 'static {
    /// Takes the one frame that answers `correlation`; it may be moved out. Empty: there is
    /// nothing to send, the ask is only over.
    fn push(&self, correlation: u32, frame: &mut Vec<u8>);

    /// Whether the asker still waits for the answer.
    fn is_wanted(&self, _correlation: u32) -> bool {
        true
    }

    /// Where forwarded asks are kept, so that they can be cancelled.
    fn forwards(&self) -> Option<Arc<Forwards>> {
        None
    }
}

/// The way back of an ask that came over a link. Dropped unused, it answers `Unreachable`.
pub(crate) struct WireReply {
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
    pub(crate) fn new(outbox: Arc<dyn Outbox>, correlation: u32) -> Self {
        Self { outbox: Some(outbox), correlation }
    }

    /// Whether the asker still waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.is_wanted(self.correlation))
    }

    pub(crate) const fn correlation(&self) -> u32 {
        self.correlation
    }

    pub(crate) fn forwards(&self) -> Option<Arc<Forwards>> {
        self.outbox.as_ref().and_then(|outbox| outbox.forwards())
    }

    /// Answers well, the body already encoded.
    pub(crate) fn bytes(mut self, version: u16, body: &[u8]) {
        self.write(|out, correlation| {
            frame::write(out, reply_header(version, correlation), None, |out| {
                out.extend_from_slice(body);
                Ok(())
            })
            .map(drop)
        });
    }

    pub(crate) fn value<T: Serialize>(mut self, value: &T) {
        self.write(|out, correlation| {
            frame::write(out, reply_header(1, correlation), None, |out| {
                codec::encode_into(value, out).map(drop)
            })
            .map(drop)
        });
    }

    /// Answers badly.
    pub(crate) fn error(mut self, error: &AskError) {
        self.write(|out, correlation| frame::write_error(out, correlation, error).map(drop));
    }

    fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>, u32) -> Result<(), codec::CodecError>) {
        let correlation = self.correlation;
        let Some(outbox) = self.outbox.take() else { return };
        with_scratch(|out| {
            if outbox.is_wanted(correlation)
                && let Err(error) = encode(out, correlation)
            {
                // The answer does not fit a frame: say that instead of nothing.
                let failure = Failure::new(FailureKind::Internal, "the answer cannot be encoded");
                let failure = AskError::Failed(failure.cause(error));
                let _ = frame::write_error(out, correlation, &failure);
            }
            outbox.push(correlation, out);
        });
    }
}

const fn reply_header(version: u16, correlation: u32) -> Header {
    Header { kind: Kind::Reply, id: 0, version, actor: 0, correlation, deadline_ms: 0 }
}

impl Drop for WireReply {
    fn drop(&mut self) {
        if self.outbox.is_some() {
            let error = AskError::Unreachable("the actor stopped before it answered".into());
            self.write(|out, correlation| frame::write_error(out, correlation, &error).map(drop));
        }
    }
}

/// The frame that says a subscription has been accepted.
pub(crate) fn accepted_frame() -> Vec<u8> {
    let mut out = Vec::with_capacity(frame::HEADER);
    let _ = frame::write(&mut out, reply_header(1, 0), None, |_| Ok(()));
    out
}

/// The frame that says a subscription has ended well.
pub(crate) fn end_frame() -> Vec<u8> {
    let mut out = Vec::with_capacity(frame::HEADER);
    let header = Header { kind: Kind::End, ..reply_header(1, 0) };
    let _ = frame::write(&mut out, header, None, |_| Ok(()));
    out
}

/// An error's frame.
pub(crate) fn error_frame(correlation: u32, error: &AskError) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = frame::write_error(&mut out, correlation, error);
    out
}

/// The port one answer goes through. Dropped unused, it answers `Unreachable`.
#[derive(Debug)]
pub struct Reply<M: Message> {
    pub(crate) meta: Meta,
    pub(crate) port: Port<M>,
    pub(crate) audit: Option<AuditStub>,
}

pub(crate) enum Port<M: Message> {
    None,
    Local(LocalPort<M>),
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

    /// Says in the audit what the request is about, beside the address: its body is not looked at
    /// where it enters. Does nothing where it did not enter here.
    pub fn about(&mut self, what: &str) {
        if let Some(audit) = &mut self.audit {
            audit.about(what);
        }
    }

    pub(crate) fn answer(&mut self, answer: Result<M::Reply, AskError>) {
        if let Some(mut audit) = self.audit.take() {
            audit.finish(answer.as_ref().err());
        }
        match std::mem::replace(&mut self.port, Port::None) {
            Port::None => {}
            // The asker may have given up; that is its right.
            Port::Local(port) => port.send(answer),
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
            Port::Local(port) => port.is_wanted(),
            Port::Wire(port) => port.is_wanted(),
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
    pub(crate) port: SinkPort<S>,
    pub(crate) meta: Meta,
}

pub(crate) enum SinkPort<S: Subscription> {
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
            SinkPort::Wire(port) => drop(port.send(error_frame(0, &error)).await),
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

/// An item's frame, the item already encoded.
pub(crate) fn raw_item_frame(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame::HEADER + body.len());
    let header = Header { kind: Kind::Item, ..reply_header(1, 0) };
    let _ = frame::write(&mut out, header, None, |out| {
        out.extend_from_slice(body);
        Ok(())
    });
    out
}

fn item_frame<T: Serialize>(item: &T) -> Vec<u8> {
    let mut out = Vec::new();
    let header = Header { kind: Kind::Item, ..reply_header(1, 0) };
    let written =
        frame::write(&mut out, header, None, |out| codec::encode_into(item, out).map(drop));
    if let Err(error) = written {
        let failure = Failure::new(FailureKind::Internal, "an item cannot be encoded").cause(error);
        return error_frame(0, &AskError::Failed(failure));
    }
    out
}
