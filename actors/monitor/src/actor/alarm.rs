//! What is done about an alert: it is logged and stored, and its command is run, apart from
//! everything else here.

use std::collections::VecDeque;
use std::time::Duration;

use uuid::Uuid;
use weft_link::{Call, Fabric};
use weft_protocol::{
    Alert, AlertFilter, AlertRun, Event, EventFilter, EventKind, FollowEvents, NodeChange,
    QueryAlerts, RecordAlerts,
};
use weft_supervision::{Scope, Timer};
use weft_wire::{ActorKind, Address, AskError, WallTime};

use super::{ASK, HOST, Monitor, RETRY, is_final};
use crate::{command, host};

/// Commands that run at once.
const AT_ONCE: usize = 4;
/// Alerts that wait for their command; older ones are given up.
const QUEUE: usize = 64;
/// Alerts in one `RecordAlerts`.
const BATCH: usize = 500;
/// Alerts that may wait to be stored; older ones are in the log only.
const UNSTORED: usize = 1_000;
/// How far back events of lost nodes are read at the start.
const BACK: Duration = Duration::from_secs(60);

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// Fires drift that is not old enough yet.
    pub(super) timer: Option<Timer>,
    unstored: VecDeque<Alert>,
    storing: bool,
    attempt: u32,
    queue: VecDeque<Alert>,
    running: usize,
}

impl Alarm {
    /// To be stored; an earlier state of the same alert is not any more.
    fn keep(&mut self, alert: Alert) {
        if let Some(known) = self.unstored.iter_mut().find(|known| known.id == alert.id) {
            *known = alert;
            return;
        }
        if self.unstored.len() >= UNSTORED
            && let Some(oldest) = self.unstored.pop_front()
        {
            tracing::warn!(id = %oldest.id, "an alert is not stored: too many wait for the registry");
        }
        self.unstored.push_back(alert);
    }
}

/// Alerts that are stored, not older than `since`.
pub(super) async fn stored(fabric: Fabric, since: WallTime) -> Result<Vec<Alert>, AskError> {
    let filter = AlertFilter { since: Some(since), limit: 10_000, ..AlertFilter::default() };
    fabric.ask(Address::here(ActorKind::Registry), QueryAlerts { filter }, Call::within(ASK)).await
}

impl Monitor {
    /// Whether anything that is known now is worth an alert.
    pub(super) fn judge(&mut self, scope: &Scope<Self>) {
        if !self.state.is_rebuilt() {
            return;
        }
        let (now, wall) = (scope.now(), scope.wall());
        let mut fired = Vec::new();
        let facts = self.state.facts();
        for facts in [self.state.take_changed(), facts.clone()] {
            fired.extend(self.alerts.look(&facts, now, wall, &mut Uuid::now_v7));
        }
        self.alerts.keep(&facts);
        for often in self.state.take_often() {
            fired.extend(self.alerts.too_often(&often, wall, Uuid::now_v7()));
        }
        let next = self.alerts.next(now);
        self.alarm.timer = next.map(|delay| scope.after(delay, Self::judge));
        self.fired(fired, scope);
    }

    /// Looks at the disk of the data directory.
    pub(super) fn look_at_disk(&mut self, scope: &Scope<Self>) {
        let data_dir = self.config.data_dir.clone();
        let read = async move {
            let reading = tokio::task::spawn_blocking(move || host::read(&data_dir));
            tokio::time::timeout(HOST, reading).await
        };
        scope.spawn_then(read, |monitor, read, scope| {
            if let Ok(Ok(reading)) = read
                && monitor.state.is_rebuilt()
            {
                let free = if monitor.disk_full { 0 } else { reading.disk_free };
                let total = reading.disk_total;
                let fired = monitor.alerts.disk(free, total, scope.wall(), &mut Uuid::now_v7);
                monitor.fired(fired.into_iter().collect(), scope);
            }
        });
    }

    /// Follows what this node, as leader, finds out about others.
    pub(super) fn follow_nodes(&self, scope: &Scope<Self>) {
        let (fabric, own, actor) =
            (scope.fabric().clone(), self.config.node_name.clone(), scope.clone());
        let mut since = scope.wall().minus(BACK);
        scope.spawn(async move {
            let mut attempt = 0u32;
            loop {
                let filter = EventFilter { since: Some(since), ..EventFilter::default() };
                let registry = Address::here(ActorKind::Registry);
                let call = Call::within(ASK);
                if let Ok(mut events) =
                    fabric.subscribe(registry, FollowEvents { filter }, call).await
                {
                    while let Some(Ok(event)) = events.next().await {
                        attempt = 0;
                        since = since.max(event.time);
                        let lost = matches!(event.kind, EventKind::Node { to: NodeChange::Lost });
                        // Told once, by the node that led and saw it; others have copies.
                        if lost && event.observer == own {
                            actor.post(move |monitor, scope| monitor.node_lost(&event, scope));
                        }
                    }
                }
                tokio::time::sleep(RETRY.delay(attempt, 0.5)).await;
                attempt = attempt.saturating_add(1);
            }
        });
    }

    fn node_lost(&mut self, event: &Event, scope: &Scope<Self>) {
        let fired = self.alerts.node_lost(&event.node, &event.cause, event.id, scope.wall());
        self.fired(fired.into_iter().collect(), scope);
    }

    fn fired(&mut self, alerts: Vec<Alert>, scope: &Scope<Self>) {
        if alerts.is_empty() || !scope.epoch().is_current() {
            return;
        }
        for alert in alerts {
            let (kind, node, service, component) =
                (alert.kind, &alert.node, &alert.service, &alert.component);
            let reason = &alert.reason;
            if alert.suppressed {
                tracing::info!(%kind, node, service, component, reason, "alert, suppressed by its cooldown");
            } else {
                tracing::warn!(%kind, node, service, component, reason, "alert");
            }
            if !alert.suppressed && !self.config.alert_command.is_empty() {
                if self.alarm.queue.len() >= QUEUE
                    && let Some(mut oldest) = self.alarm.queue.pop_front()
                {
                    tracing::warn!(id = %oldest.id, "the command of an alert is not run: too many wait");
                    oldest.run = Some(AlertRun {
                        problem: "not run: too many alerts waited for their command".to_owned(),
                        ..AlertRun::default()
                    });
                    self.alarm.keep(oldest);
                }
                self.alarm.queue.push_back(alert.clone());
            }
            self.alarm.keep(alert);
        }
        self.run_next(scope);
        self.store_alerts(scope);
    }

    fn run_next(&mut self, scope: &Scope<Self>) {
        while self.alarm.running < AT_ONCE
            && let Some(mut alert) = self.alarm.queue.pop_front()
        {
            self.alarm.running += 1;
            let config = self.config.clone();
            let work = async move {
                let run = command::run(&config.alert_command, &alert, config.alert_timeout).await;
                if run.exit != Some(0) {
                    let exit = run.exit;
                    tracing::warn!(id = %alert.id, exit, problem = run.problem, "the alert command failed");
                }
                alert.run = Some(run);
                alert
            };
            scope.spawn_then(work, |monitor, alert, scope| {
                monitor.alarm.running -= 1;
                monitor.alarm.keep(alert);
                monitor.run_next(scope);
                monitor.store_alerts(scope);
            });
        }
    }

    /// Has the registry store what waits.
    fn store_alerts(&mut self, scope: &Scope<Self>) {
        if self.alarm.storing || self.alarm.unstored.is_empty() {
            return;
        }
        self.alarm.storing = true;
        let alerts: Vec<Alert> = self.alarm.unstored.iter().take(BATCH).cloned().collect();
        let fabric = scope.fabric().clone();
        let work = async move {
            let registry = Address::here(ActorKind::Registry);
            let message = RecordAlerts { alerts: alerts.clone() };
            (fabric.ask(registry, message, Call::within(ASK)).await, alerts)
        };
        scope.spawn_then(work, |monitor, (done, alerts), scope| {
            monitor.alarm.storing = false;
            match done {
                Err(error) if !is_final(&error) => {
                    tracing::warn!(%error, waiting = monitor.alarm.unstored.len(), "alerts wait to be stored");
                    let delay = RETRY.delay(monitor.alarm.attempt, 0.5);
                    monitor.alarm.attempt = monitor.alarm.attempt.saturating_add(1);
                    scope.after(delay, Self::store_alerts).detach();
                    return;
                }
                Err(error) => tracing::error!(%error, "alerts refused, not stored"),
                Ok(()) => monitor.alarm.attempt = 0,
            }
            // One whose command has ended meanwhile is stored again.
            monitor.alarm.unstored.retain(|waiting| !alerts.contains(waiting));
            monitor.store_alerts(scope);
        });
    }
}
