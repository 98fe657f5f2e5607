//! Events and audit of this node.

use weft_link::{ItemSink, Reply};
use weft_protocol::{
    EventFilter, FollowEvents, QueryAudit, QueryEvents, RecordAudit, RecordEvents,
};
use weft_supervision::{Handle, Scope, Serve};
use weft_wire::{AskError, Failure, FailureKind};

use super::Registry;
use crate::store::{LocalStore, RegistryError};

/// Events or audit records in one request.
const RECORDS_MAX: usize = 1_000;

pub(super) fn too_many(count: usize) -> Option<Failure> {
    (count > RECORDS_MAX).then(|| {
        Failure::new(
            FailureKind::Invalid,
            format!("{count} records in one request, at most {RECORDS_MAX} are taken"),
        )
    })
}

impl Handle<RecordEvents> for Registry {
    fn handle(&mut self, message: RecordEvents, reply: Reply<RecordEvents>, scope: &Scope<Self>) {
        if let Some(refusal) = too_many(message.events.len()) {
            reply.fail(refusal);
            return;
        }
        let local = self.local.clone();
        scope.spawn_then(
            async move { local.record_events(&message.events).await },
            move |registry, result, _| match result {
                Ok(newest) => {
                    registry.newer_event(newest);
                    reply.ok(());
                }
                Err(error) => reply.fail(error.failure(registry.name(), "store events")),
            },
        );
    }
}

impl Handle<QueryEvents> for Registry {
    fn handle(&mut self, message: QueryEvents, reply: Reply<QueryEvents>, scope: &Scope<Self>) {
        let (local, node) = (self.local.clone(), self.name().to_owned());
        scope.spawn(async move {
            let answer = local.events(&message.filter).await;
            reply.send(
                answer
                    .map(|(events, _)| events)
                    .map_err(|error| error.failure(&node, "read events")),
            );
        });
    }
}

impl Serve<FollowEvents> for Registry {
    fn serve(&mut self, message: FollowEvents, sink: ItemSink<FollowEvents>, scope: &Scope<Self>) {
        let (local, node) = (self.local.clone(), self.name().to_owned());
        let newest = self.newest_event.subscribe();
        scope.spawn(async move {
            if let Err(error) = follow(&local, newest, &message.filter, &sink).await {
                sink.fail(AskError::Failed(error.failure(&node, "read events"))).await;
            }
        });
    }
}

/// What is there, then what comes; ends well when the subscriber is gone. A slow subscriber reads
/// from the table at its own pace and misses nothing.
async fn follow(
    local: &LocalStore,
    mut newest: tokio::sync::watch::Receiver<i64>,
    filter: &EventFilter,
    sink: &ItemSink<FollowEvents>,
) -> Result<(), RegistryError> {
    let (events, mut sent) = local.events(filter).await?;
    for event in events {
        if sink.send(event).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let next = local.events_after(sent).await?;
        if next.is_empty() {
            tokio::select! {
                () = sink.closed() => return Ok(()),
                changed = newest.wait_for(|newest| *newest > sent) => if changed.is_err() {
                    return Ok(());
                }
            }
        }
        for (seq, event) in next {
            sent = seq;
            if filter.matches(&event) && sink.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

impl Handle<RecordAudit> for Registry {
    fn handle(&mut self, message: RecordAudit, reply: Reply<RecordAudit>, scope: &Scope<Self>) {
        if let Some(refusal) = too_many(message.records.len()) {
            reply.fail(refusal);
            return;
        }
        let (local, node) = (self.local.clone(), self.name().to_owned());
        scope.spawn(async move {
            let done = local.record_audit(&message.records).await;
            if let Err(error) = &done {
                tracing::warn!(%error, "audit records are in the log only");
            }
            reply.send(done.map_err(|error| error.failure(&node, "store audit records")));
        });
    }
}

impl Handle<QueryAudit> for Registry {
    fn handle(&mut self, message: QueryAudit, reply: Reply<QueryAudit>, scope: &Scope<Self>) {
        let (local, node) = (self.local.clone(), self.name().to_owned());
        scope.spawn(async move {
            let answer = local.audit(message.since, message.limit).await;
            reply.send(answer.map_err(|error| error.failure(&node, "read audit records")));
        });
    }
}

impl Registry {
    /// Deletes what is past its retention, by a time that a clock set forward cannot carry away.
    pub(super) fn prune(&mut self, scope: &Scope<Self>) {
        let now = self.aging.advance(scope.now(), scope.wall());
        let trusted = self.aging.trusted();
        let (events, audit) =
            (now.minus(self.config.event_retention), now.minus(self.config.audit_retention));
        let local = self.local.clone();
        scope.spawn(async move {
            match local.prune(events, audit, trusted).await {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "old events and audit records deleted"),
                Err(error) => tracing::warn!(%error, "old events could not be deleted"),
            }
        });
    }
}
