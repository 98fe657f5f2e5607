//! Audit records on their way to the registry: gathered, sent in batches, never in a caller's way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use weft_link::{AuditEntry, Call, Fabric};
use weft_protocol::{AuditRecord, Outcome, RecordAudit};
use weft_wire::{ActorKind, Address, AskError, Backoff};

/// At most so many records in one batch (bound of [`RecordAudit`]).
const BATCH: usize = 1000;
/// A batch waits at most this long for more.
const GATHER: Duration = Duration::from_millis(200);

/// An absent registry is asked again so often.
const ATTEMPTS: u32 = 8;
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2), jitter: 0.0 };

/// Tells the writer to store what it has and end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// From now on.
    pub(crate) fn now(&self) {
        self.0.send_replace(true);
    }

    async fn asked(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|stop| *stop).await;
    }
}

/// Writes records until told to stop, and then what is left, or until the fabric is dropped.
pub(crate) async fn write_batches(
    fabric: Fabric,
    mut entries: mpsc::Receiver<AuditEntry>,
    stop: Stop,
) {
    loop {
        let first = tokio::select! {
            entry = entries.recv() => match entry {
                Some(entry) => entry,
                None => return,
            },
            () = stop.asked() => break,
        };
        let mut batch = vec![record(first)];
        let full = async {
            while batch.len() < BATCH {
                match entries.recv().await {
                    Some(entry) => batch.push(record(entry)),
                    None => break,
                }
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(GATHER, full) => {}
            () = stop.asked() => {}
        }
        store(&fabric, batch).await;
    }
    // What came before the stop.
    let mut left = Vec::new();
    while let Ok(entry) = entries.try_recv() {
        left.push(record(entry));
    }
    for batch in left.chunks(BATCH) {
        store(&fabric, batch.to_vec()).await;
    }
}

/// Has the registry store a batch; again if it is just being replaced. One that died between
/// storing and answering may so have a batch twice, which is better than not at all.
async fn store(fabric: &Fabric, records: Vec<AuditRecord>) {
    let message = RecordAudit { records };
    let mut attempt = 0;
    loop {
        let to = Address::here(ActorKind::Registry);
        let call = Call::within(Duration::from_secs(10));
        match fabric.ask(to, message.clone(), call).await {
            Ok(()) => return,
            Err(error) if attempt < ATTEMPTS && may_pass(&error) => {
                tracing::debug!(%error, attempt, "audit records wait");
            }
            Err(error) => {
                // They are in the log in any case.
                tracing::warn!(%error, "audit records not stored");
                return;
            }
        }
        tokio::time::sleep(RETRY.delay(attempt, 0.5)).await;
        attempt += 1;
    }
}

/// Whether it is the registry's absence rather than its answer.
fn may_pass(error: &AskError) -> bool {
    matches!(
        error,
        AskError::Unreachable(_)
            | AskError::Timeout
            | AskError::Overloaded(_)
            | AskError::NotFound(_)
    )
}

fn record(entry: AuditEntry) -> AuditRecord {
    let outcome = match &entry.error {
        None => Outcome::Ok,
        Some(AskError::Denied(_)) => Outcome::Denied,
        Some(_) => Outcome::Failed,
    };
    AuditRecord {
        time: entry.time,
        caller: entry.caller.identity.to_string(),
        role: entry.caller.role.to_string(),
        method: entry.method.to_string(),
        target: entry.target,
        outcome,
        error: entry.error.map(|e| e.to_string().chars().take(256).collect()).unwrap_or_default(),
        duration_us: u64::try_from(entry.duration.as_micros()).unwrap_or(u64::MAX),
        trace: entry.trace.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use weft_link::Reply;
    use weft_supervision::testing::{self, eventually};
    use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
    use weft_wire::{Caller, NodeId, TraceContext, WallTime};

    /// Panics at its first batch, then counts.
    struct Registry {
        asked: Arc<AtomicU32>,
        stored: Arc<AtomicU32>,
    }

    impl Actor for Registry {
        fn routes(routes: &mut Routes<Self>) {
            routes.ask::<RecordAudit>();
        }
    }

    impl Handle<RecordAudit> for Registry {
        fn handle(&mut self, message: RecordAudit, reply: Reply<RecordAudit>, _: &Scope<Self>) {
            assert!(self.asked.fetch_add(1, Ordering::Relaxed) > 0, "meant to panic");
            let count = u32::try_from(message.records.len()).unwrap_or(u32::MAX);
            self.stored.fetch_add(count, Ordering::Relaxed);
            reply.ok(());
        }
    }

    fn entry() -> AuditEntry {
        let node = NodeId::new(uuid::Uuid::from_u128(1));
        AuditEntry {
            time: WallTime::default(),
            caller: Caller::node(node),
            method: "test",
            target: String::new(),
            error: None,
            duration: Duration::ZERO,
            trace: TraceContext::default(),
        }
    }

    #[test]
    fn a_registry_that_dies_and_a_stop_lose_no_audit_record() {
        testing::run(async |tree| {
            let (asked, stored) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let counts = (asked.clone(), stored.clone());
            tree.add(ActorKind::Registry, move |_: Incarnation| {
                let registry = Registry { asked: counts.0.clone(), stored: counts.1.clone() };
                async move { Ok::<_, ActorError>(registry) }
            })
            .await;
            let (sender, entries) = mpsc::channel(100);
            let stop = Stop::default();
            let writer = tokio::spawn(write_batches(tree.fabric(), entries, stop.clone()));
            sender.try_send(entry()).expect("room");
            eventually("the batch is stored", || {
                (stored.load(Ordering::Relaxed) == 1).then_some(())
            })
            .await;
            assert_eq!(asked.load(Ordering::Relaxed), 2);
            // What waits when it is told to stop goes the same way.
            sender.try_send(entry()).expect("room");
            sender.try_send(entry()).expect("room");
            stop.now();
            writer.await.expect("ends");
            assert_eq!(stored.load(Ordering::Relaxed), 3);
        });
    }
}
