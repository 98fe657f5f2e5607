//! The monitor's mailbox: tells the registry what happened, looks now and then for what nobody
//! told, raises alerts, and answers how the machine is.

mod alarm;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use weft_link::{Call, Fabric, Reply};
use weft_protocol::{
    ComponentStatus, Drift, Event, EventFilter, HostFigures, ListComponents, Observed, QueryEvents,
    ReadDrift, ReadHost, RecordEvents,
};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
use weft_wire::{ActorKind, Address, AskError, Backoff, Failure, FailureKind};

use self::alarm::Alarm;
use crate::alerts::{Alerts, Rules};
use crate::host::{self, CpuMeter, Reading};
use crate::state::{RESTART_WINDOW, Settings, State};

/// Events in one `RecordEvents` (its bound).
const BATCH: usize = 1_000;
/// `Observed` requests that may wait for the registry at once.
const WAITING: usize = 64;
/// How long one ask to a sibling may take.
const ASK: Duration = Duration::from_secs(5);
/// How long the live look behind a drift question may take; then the last look answers.
const LIVE: Duration = Duration::from_millis(1_500);
/// How long reading the machine may take: a data directory on a dead network mount never answers.
const HOST: Duration = Duration::from_secs(2);
/// Between tries while the registry or the runtime does not answer.
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(5), jitter: 0.0 };

/// What the monitor needs to know (node file `[monitor]`, orchestration §12).
#[derive(Debug, Clone)]
pub struct MonitorConfig {
    /// Name of this node, for events and drift.
    pub node_name: String,
    /// Whose file system `disk_*` figures are of.
    pub data_dir: PathBuf,
    /// Between passes; default 60 s.
    pub interval: Duration,
    /// So many transitions within `flap_window` are flapping; default 3.
    pub flap_threshold: u32,
    /// Default 10 min.
    pub flap_window: Duration,
    /// How long a listing must contradict what was told before it counts as a missed transition;
    /// default 5 s.
    pub grace: Duration,
    /// When the daemon started, of the tree's clock.
    pub started: Instant,
    /// Program and arguments run for an alert, without a shell; empty: alerts are only logged and
    /// stored.
    pub alert_command: Vec<String>,
    /// The command may take so long; 30 s.
    pub alert_timeout: Duration,
    /// Quiet time of each (service, component, type) after an alert; default 15 min.
    pub cooldown: Duration,
    /// Drift alerts when it lasts longer; default 5 s.
    pub alert_after: Duration,
    /// Nothing is mended here, so that drift alerts at once (`reconcile.mode = "report"`).
    pub at_once: bool,
    /// So many restarts of a component within an hour alert; default 10.
    pub restart_threshold: u32,
    /// Free space below so many percent alerts; 0: never; default 5.
    pub disk_low: u32,
}

impl MonitorConfig {
    /// With the defaults of orchestration §12.
    pub fn new(node_name: impl Into<String>, data_dir: PathBuf, started: Instant) -> Self {
        Self {
            node_name: node_name.into(),
            data_dir,
            interval: Duration::from_secs(60),
            flap_threshold: 3,
            flap_window: Duration::from_secs(600),
            grace: Duration::from_secs(5),
            started,
            alert_command: Vec::new(),
            alert_timeout: Duration::from_secs(30),
            cooldown: Duration::from_secs(900),
            alert_after: Duration::from_secs(5),
            at_once: false,
            restart_threshold: 10,
            disk_low: 5,
        }
    }
}

/// The actor.
#[derive(Debug)]
pub struct Monitor {
    config: Arc<MonitorConfig>,
    state: State,
    /// Answered once all of their events are recorded.
    waiting: Vec<(Reply<Observed>, Vec<Uuid>)>,
    recording: bool,
    record_attempt: u32,
    pass_attempt: u32,
    /// A second look is on its way.
    rechecking: bool,
    /// The registry's last answer to events was that its disk has no room.
    disk_full: bool,
    cpu: CpuMeter,
    alerts: Alerts,
    alarm: Alarm,
}

/// Makes an incarnation. What it believes comes from the runtime's listing and the registry's
/// events, as soon as they answer; until then transitions are taken all the same.
pub fn factory(
    config: MonitorConfig,
) -> impl Fn(Incarnation) -> std::future::Ready<Result<Monitor, ActorError>> + Send + Sync + 'static
{
    let config = Arc::new(config);
    move |_: Incarnation| {
        let settings = Settings {
            node: config.node_name.clone(),
            flap_threshold: config.flap_threshold,
            flap_window: config.flap_window,
            restart_threshold: config.restart_threshold,
            grace: config.grace,
        };
        let rules = Rules {
            node: config.node_name.clone(),
            cooldown: config.cooldown,
            alert_after: config.alert_after,
            at_once: config.at_once,
            disk_low: u64::from(config.disk_low),
        };
        std::future::ready(Ok(Monitor {
            config: config.clone(),
            state: State::new(settings),
            waiting: Vec::new(),
            recording: false,
            record_attempt: 0,
            pass_attempt: 0,
            rechecking: false,
            disk_full: false,
            cpu: CpuMeter::default(),
            alerts: Alerts::new(rules),
            alarm: Alarm::default(),
        }))
    }
}

impl Actor for Monitor {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<Observed>().ask::<ReadHost>().ask::<ReadDrift>();
    }

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        self.pass(scope);
        scope.every(self.config.interval.max(Duration::from_secs(1)), |monitor, scope| {
            monitor.pass(scope);
        });
        Ok(())
    }
}

impl Monitor {
    /// One pass (orchestration §12): list, compare, record what nobody told.
    fn pass(&mut self, scope: &Scope<Self>) {
        let fabric = scope.fabric().clone();
        if self.state.is_rebuilt() {
            self.look_at_disk(scope);
            scope
                .spawn_then(list(fabric, ASK), |monitor, list, scope| monitor.compare(list, scope));
            return;
        }
        let since = scope.wall().minus(self.config.flap_window.max(RESTART_WINDOW));
        let horizon = self.alerts.horizon(scope.wall());
        let all = async move {
            let filter =
                EventFilter { since: Some(since), limit: 10_000, ..EventFilter::default() };
            let ask = fabric.ask(
                Address::here(ActorKind::Registry),
                QueryEvents { filter },
                Call::within(ASK),
            );
            let alerts = alarm::stored(fabric.clone(), horizon);
            tokio::join!(list(fabric.clone(), ASK), ask, alerts)
        };
        scope.spawn_then(all, |monitor, answers, scope| match answers {
            (Ok(list), Ok(history), Ok(alerts)) if !monitor.state.is_rebuilt() => {
                monitor.pass_attempt = 0;
                monitor.alerts.restore(&alerts, scope.wall());
                monitor.state.rebuild(&list, &history, scope.wall(), &mut Uuid::now_v7);
                monitor.judge(scope);
                monitor.record(scope);
                monitor.recheck(scope);
                monitor.look_at_disk(scope);
                monitor.follow_nodes(scope);
            }
            (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
                tracing::debug!(%error, "first look at the components failed");
                let delay = RETRY.delay(monitor.pass_attempt, 0.5);
                monitor.pass_attempt = monitor.pass_attempt.saturating_add(1);
                scope
                    .after(delay, |monitor, scope| {
                        if !monitor.state.is_rebuilt() {
                            monitor.pass(scope);
                        }
                    })
                    .detach();
            }
            _ => {}
        });
    }

    fn compare(&mut self, list: Result<Vec<ComponentStatus>, AskError>, scope: &Scope<Self>) {
        match list {
            Ok(list) => {
                if self.state.reconcile(&list, scope.wall(), &mut Uuid::now_v7) {
                    self.recheck(scope);
                }
                self.record(scope);
            }
            Err(error) => {
                tracing::warn!(%error, "the runtime did not say what runs");
                self.state.query_failed();
            }
        }
        self.judge(scope);
    }

    /// Looks again once what contradicts has had time to be told.
    fn recheck(&mut self, scope: &Scope<Self>) {
        if !std::mem::replace(&mut self.rechecking, true) {
            scope
                .after(self.config.grace, |monitor, scope| {
                    monitor.rechecking = false;
                    monitor.pass(scope);
                })
                .detach();
        }
    }

    /// Has the registry record what waits, one batch at a time, until nothing does.
    fn record(&mut self, scope: &Scope<Self>) {
        let batch = self.state.batch(BATCH);
        if batch.is_empty() || self.recording {
            return;
        }
        self.recording = true;
        let fabric = scope.fabric().clone();
        let ids: Vec<Uuid> = batch.iter().map(|event| event.id).collect();
        scope.spawn_then(store(fabric, batch), move |monitor, stored, scope| {
            monitor.recording = false;
            monitor.disk_full = is_disk_full(&stored);
            match stored {
                Ok(()) => {
                    monitor.record_attempt = 0;
                    monitor.settle(&ids, None, scope);
                    monitor.record(scope);
                }
                Err(error) if is_final(&error) => {
                    // Trying again would keep every later event waiting behind these for ever.
                    tracing::error!(%error, events = ids.len(), "events refused, not recorded");
                    monitor.settle(&ids, Some(&error), scope);
                    monitor.record(scope);
                }
                Err(error) => {
                    tracing::warn!(%error, waiting = monitor.state.outbox_len(), "events wait");
                    let now = scope.now();
                    monitor.waiting.retain(|(reply, _)| {
                        reply.is_wanted() && reply.meta().deadline.is_none_or(|end| end > now)
                    });
                    let delay = RETRY.delay(monitor.record_attempt, 0.5);
                    monitor.record_attempt = monitor.record_attempt.saturating_add(1);
                    scope.after(delay, Self::record).detach();
                }
            }
        });
    }

    /// These are done with: answers who waited for them.
    fn settle(&mut self, ids: &[Uuid], refused: Option<&AskError>, scope: &Scope<Self>) {
        if !scope.epoch().is_current() {
            return;
        }
        self.state.recorded(ids);
        let mut kept = Vec::with_capacity(self.waiting.len());
        for (reply, mut wanted) in self.waiting.drain(..) {
            match refused {
                Some(error) if wanted.iter().any(|id| ids.contains(id)) => {
                    reply.result(Err(error.clone()));
                    continue;
                }
                _ => wanted.retain(|id| self.state.is_waiting(id)),
            }
            if wanted.is_empty() {
                reply.ok(());
            } else {
                kept.push((reply, wanted));
            }
        }
        self.waiting = kept;
    }

    fn figures(&mut self, reading: &Reading, scope: &Scope<Self>) -> HostFigures {
        let now = scope.now();
        HostFigures {
            at: scope.wall(),
            cores: reading.cores,
            cpu_percent: reading.cpu.map_or(0.0, |times| self.cpu.look(now, times)),
            load1: reading.load1,
            memory_total: reading.memory_total,
            memory_available: reading.memory_available,
            disk_total: reading.disk_total,
            // A quota, or a file system that keeps something back, is full before it says so.
            disk_free: if self.disk_full { 0 } else { reading.disk_free },
            host_uptime_secs: reading.host_uptime_secs,
            daemon_uptime_secs: now.saturating_duration_since(self.config.started).as_secs(),
            daemon_memory: reading.daemon_memory,
            arch: std::env::consts::ARCH.to_owned(),
        }
    }
}

impl Handle<Observed> for Monitor {
    fn handle(&mut self, message: Observed, reply: Reply<Observed>, scope: &Scope<Self>) {
        if message.transitions.len() > BATCH {
            let text =
                format!("{} transitions at once, at most {BATCH}", message.transitions.len());
            reply.fail(Failure::new(FailureKind::Invalid, text).node(&self.config.node_name));
            return;
        }
        if self.waiting.len() >= WAITING {
            reply.result(Err(AskError::Overloaded(
                "the monitor waits for the registry already".into(),
            )));
            return;
        }
        if let Err(full) = self.state.observe(&message.transitions) {
            reply.result(Err(AskError::Overloaded(full.to_string())));
            return;
        }
        let wanted: Vec<Uuid> = message
            .transitions
            .iter()
            .map(|transition| transition.id)
            .filter(|id| self.state.is_waiting(id))
            .collect();
        if wanted.is_empty() {
            reply.ok(());
        } else {
            self.waiting.push((reply, wanted));
        }
        self.judge(scope);
        self.record(scope);
    }
}

impl Handle<ReadHost> for Monitor {
    fn handle(&mut self, _: ReadHost, reply: Reply<ReadHost>, scope: &Scope<Self>) {
        let data_dir = self.config.data_dir.clone();
        let read = async move {
            let reading = tokio::task::spawn_blocking(move || host::read(&data_dir));
            tokio::time::timeout(HOST, reading).await
        };
        scope.spawn_then(read, |monitor, read, scope| match read {
            Ok(Ok(reading)) => {
                let figures = monitor.figures(&reading, scope);
                reply.ok(figures);
            }
            _ => reply.fail(
                Failure::new(FailureKind::Unavailable, "the machine's figures cannot be read")
                    .node(&monitor.config.node_name)
                    .step("read /proc and the data directory's file system")
                    .help("look whether the data directory is on a mount that hangs"),
            ),
        });
    }
}

impl Handle<ReadDrift> for Monitor {
    fn handle(&mut self, _: ReadDrift, reply: Reply<ReadDrift>, scope: &Scope<Self>) {
        // The listing is live; what is only believed answers when the runtime does not.
        scope.spawn_then(list(scope.fabric().clone(), LIVE), |monitor, list, scope| {
            if let Ok(list) = list
                && monitor.state.is_rebuilt()
            {
                monitor.compare(Ok(list), scope);
            }
            let drift: Vec<Drift> = monitor.state.drift();
            reply.ok(drift);
        });
    }
}

async fn list(fabric: Fabric, within: Duration) -> Result<Vec<ComponentStatus>, AskError> {
    let to = Address::here(ActorKind::Runtime);
    fabric.ask(to, ListComponents {}, Call::within(within)).await
}

async fn store(fabric: Fabric, events: Vec<Event>) -> Result<(), AskError> {
    let to = Address::here(ActorKind::Registry);
    fabric.ask(to, RecordEvents { events }, Call::within(ASK)).await
}

/// Whether the registry could not write for lack of space.
fn is_disk_full(stored: &Result<(), AskError>) -> bool {
    matches!(stored, Err(AskError::Failed(failure)) if failure.kind == FailureKind::Exhausted)
}

/// Whether sending the same again cannot help.
fn is_final(error: &AskError) -> bool {
    match error {
        AskError::Denied(_) | AskError::Unsupported { .. } => true,
        AskError::Failed(failure) => failure.kind == FailureKind::Invalid,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
