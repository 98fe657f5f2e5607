//! Audit records on their way to the registry: gathered, sent in batches, never in a caller's way.

use std::time::Duration;

use tokio::sync::mpsc;
use weft_link::{AuditEntry, Call, Fabric};
use weft_protocol::{AuditRecord, Outcome, RecordAudit};
use weft_wire::{ActorKind, Address, AskError};

/// At most so many records in one batch (bound of [`RecordAudit`]).
const BATCH: usize = 1000;
/// A batch waits at most this long for more.
const GATHER: Duration = Duration::from_millis(200);

/// Writes records until the fabric is dropped.
pub(crate) async fn write_batches(fabric: Fabric, mut entries: mpsc::Receiver<AuditEntry>) {
    let mut batch = Vec::new();
    while let Some(first) = entries.recv().await {
        batch.push(record(first));
        let full = async {
            while batch.len() < BATCH {
                match entries.recv().await {
                    Some(entry) => batch.push(record(entry)),
                    None => break,
                }
            }
        };
        let _ = tokio::time::timeout(GATHER, full).await;
        let message = RecordAudit { records: std::mem::take(&mut batch) };
        let sent = fabric
            .ask(Address::here(ActorKind::Registry), message, Call::within(Duration::from_secs(10)))
            .await;
        if let Err(error) = sent {
            // They are in the log in any case.
            tracing::warn!(%error, "audit records not stored");
        }
    }
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
