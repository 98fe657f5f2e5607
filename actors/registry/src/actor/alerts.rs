//! Alerts of this node: stored, read, followed.

use weft_link::{ItemSink, Reply};
use weft_protocol::{AlertFilter, FollowAlerts, QueryAlerts, RecordAlerts};
use weft_supervision::{Handle, Scope, Serve};
use weft_wire::AskError;

use super::Registry;
use super::history::too_many;
use crate::store::{LocalStore, RegistryError};

impl Handle<RecordAlerts> for Registry {
    fn handle(&mut self, message: RecordAlerts, reply: Reply<RecordAlerts>, scope: &Scope<Self>) {
        if let Some(refusal) = too_many(message.alerts.len()) {
            reply.fail(refusal);
            return;
        }
        let local = self.local.clone();
        scope.spawn_then(
            async move { local.record_alerts(&message.alerts).await },
            move |registry, result, _| match result {
                Ok(newest) => {
                    registry.newest_alert.send_if_modified(|known| {
                        let newer = newest > *known;
                        *known = newest.max(*known);
                        newer
                    });
                    reply.ok(());
                }
                Err(error) => reply.fail(error.failure(registry.name(), "store alerts")),
            },
        );
    }
}

impl Handle<QueryAlerts> for Registry {
    fn handle(&mut self, message: QueryAlerts, reply: Reply<QueryAlerts>, scope: &Scope<Self>) {
        let (local, node) = (self.local.clone(), self.name().to_owned());
        scope.spawn(async move {
            let answer = local.alerts(&message.filter).await;
            reply.send(
                answer
                    .map(|(alerts, _)| alerts)
                    .map_err(|error| error.failure(&node, "read alerts")),
            );
        });
    }
}

impl Serve<FollowAlerts> for Registry {
    fn serve(&mut self, message: FollowAlerts, sink: ItemSink<FollowAlerts>, scope: &Scope<Self>) {
        let (local, node) = (self.local.clone(), self.name().to_owned());
        let newest = self.newest_alert.subscribe();
        scope.spawn(async move {
            if let Err(error) = follow(&local, newest, &message.filter, &sink).await {
                sink.fail(AskError::Failed(error.failure(&node, "read alerts"))).await;
            }
        });
    }
}

/// As events are followed: from the table, at the subscriber's own pace.
async fn follow(
    local: &LocalStore,
    mut newest: tokio::sync::watch::Receiver<i64>,
    filter: &AlertFilter,
    sink: &ItemSink<FollowAlerts>,
) -> Result<(), RegistryError> {
    let (alerts, mut sent) = local.alerts(filter).await?;
    for alert in alerts {
        if sink.send(alert).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let next = local.alerts_after(sent).await?;
        if next.is_empty() {
            tokio::select! {
                () = sink.closed() => return Ok(()),
                changed = newest.wait_for(|newest| *newest > sent) => if changed.is_err() {
                    return Ok(());
                }
            }
        }
        for (seq, alert) in next {
            sent = seq;
            if filter.matches(&alert) && sink.send(alert).await.is_err() {
                return Ok(());
            }
        }
    }
}
