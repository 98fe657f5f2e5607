//! The audit: one record for each request of a person, a client or a joiner, where it enters.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use weft_wire::{AskError, Caller, Clock, TraceContext, WallTime};

/// One audited request (design §3). The node writes these to its store in batches.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// When it came in.
    pub time: WallTime,
    /// Who.
    pub caller: Caller,
    /// The message's name.
    pub method: &'static str,
    /// The address, and what of it, where the actor said so.
    pub target: String,
    /// How it ended; `None`: well.
    pub error: Option<AskError>,
    /// From receipt to answer.
    pub duration: Duration,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

/// Takes audit records; bounded, and says when it had to drop one.
#[derive(Debug, Clone)]
pub struct AuditSink {
    sender: Option<mpsc::Sender<AuditEntry>>,
}

impl AuditSink {
    /// A sink and the end the node reads.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<AuditEntry>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self { sender: Some(sender) }, receiver)
    }

    /// A sink that only logs.
    pub const fn none() -> Self {
        Self { sender: None }
    }

    pub(crate) fn record(&self, entry: AuditEntry) {
        tracing::info!(
            target: "weft::audit",
            caller = %entry.caller.identity,
            method = entry.method,
            address = %entry.target,
            outcome = entry.error.as_ref().map_or_else(|| "ok".to_owned(), ToString::to_string),
            duration_us = u64::try_from(entry.duration.as_micros()).unwrap_or(u64::MAX),
            trace = %entry.trace,
            "request"
        );
        if let Some(sender) = &self.sender
            && sender.try_send(entry).is_err()
        {
            tracing::warn!(target: "weft::audit", "audit queue full: one record only logged");
        }
    }
}

/// The fabric's clock, as something that can stand in a debuggable struct.
#[derive(Clone)]
pub(crate) struct SharedClock(pub(crate) Arc<dyn Clock>);

impl fmt::Debug for SharedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Audit of one request, finished by its answer. Boxed: most letters have none.
#[derive(Debug)]
pub(crate) struct AuditStub(Box<Open>);

#[derive(Debug)]
struct Open {
    sink: AuditSink,
    entry: Option<AuditEntry>,
    start: Instant,
    clock: SharedClock,
}

impl AuditStub {
    /// Opens the record of a request that has just come in.
    pub(crate) fn open(
        sink: &AuditSink,
        clock: &SharedClock,
        caller: &Caller,
        method: &'static str,
        target: String,
        trace: TraceContext,
    ) -> Self {
        let entry = AuditEntry {
            time: clock.0.wall(),
            caller: caller.clone(),
            method,
            target,
            error: None,
            duration: Duration::ZERO,
            trace,
        };
        Self(Box::new(Open {
            sink: sink.clone(),
            entry: Some(entry),
            start: clock.0.now(),
            clock: clock.clone(),
        }))
    }

    /// Adds to the address what is asked for there.
    pub(crate) fn about(&mut self, what: &str) {
        if let (Some(entry), false) = (&mut self.0.entry, what.is_empty()) {
            entry.target.push(' ');
            entry.target.push_str(what);
        }
    }

    /// There is to be no record.
    pub(crate) fn forget(mut self) {
        self.0.entry = None;
    }

    /// Writes the record; later calls do nothing.
    pub(crate) fn finish(&mut self, error: Option<&AskError>) {
        let Open { sink, entry, start, clock } = &mut *self.0;
        if let Some(mut entry) = entry.take() {
            entry.error = error.cloned();
            entry.duration = clock.0.now().saturating_duration_since(*start);
            sink.record(entry);
        }
    }
}

impl Drop for AuditStub {
    fn drop(&mut self) {
        if self.0.entry.is_some() {
            self.finish(Some(&AskError::Unreachable(
                "the actor stopped before it answered".into(),
            )));
        }
    }
}
