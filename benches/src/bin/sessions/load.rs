//! Agents who decide one session after the other, and how fast and at what cost a server goes along.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use weft_wire::{Clock, SystemClock};

use crate::Fatal;
use crate::client::{Agents, Client, MESSAGES, accepted};
use crate::server::{Kind, Programs, Server};
use crate::usage::{Syncs, usage};

/// Until a worker has its connection.
const CONNECTS: Duration = Duration::from_secs(10);

/// How a load is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Load before the measurement.
    pub(crate) warm: Duration,
    /// The measurement.
    pub(crate) lasts: Duration,
    /// Then fsyncs are counted for so long.
    pub(crate) counted: Duration,
    /// Connections that the workers share, at each door; `None`: each has its own.
    pub(crate) connections: Option<usize>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) workers: usize,
    /// Messages acknowledged a second.
    pub(crate) rate: f64,
    /// Milliseconds from sending to the acknowledgement.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Microseconds of the servers' processor time for a message.
    pub(crate) cpu: f64,
    /// fsync and fdatasync calls for a message; `None`: they could not be counted.
    pub(crate) syncs: Option<f64>,
    /// MiB of all servers together, at the end.
    pub(crate) rss: f64,
    /// Messages that were refused or unanswered.
    pub(crate) failed: u64,
}

/// What all workers look at.
#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    /// Messages acknowledged, in any phase.
    all: AtomicU64,
}

/// Phases of a load.
const UNMEASURED: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// What one worker saw while it was measured.
#[derive(Debug, Default)]
struct Seen {
    /// Microseconds; one for each message.
    times: Vec<u32>,
    failed: u64,
    /// The last refusal, whenever it was.
    why: Option<String>,
}

/// `doors`: a client for each door of the server; one session after the other goes to the next.
async fn work(mut doors: Vec<Client>, agents: Agents, shared: Arc<Shared>) -> Seen {
    let mut seen = Seen::default();
    'sessions: while shared.phase.load(Ordering::Relaxed) != OVER {
        doors.rotate_left(1);
        let Some(client) = doors.first_mut() else { return seen };
        let id = uuid::Uuid::new_v4().to_string();
        for step in 0..MESSAGES {
            let message = agents.message(step, &id);
            let before = SystemClock.now();
            let outcome = accepted(client, message).await;
            let took = SystemClock.now() - before;
            let measured = shared.phase.load(Ordering::Relaxed) == MEASURED;
            match outcome {
                Ok(()) => {
                    shared.all.fetch_add(1, Ordering::Relaxed);
                    if measured {
                        seen.times.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                    }
                }
                Err(why) => {
                    seen.failed += u64::from(measured);
                    seen.why = Some(why);
                    // A server that refuses everything would keep this task for ever.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue 'sessions;
                }
            }
        }
    }
    seen
}

/// Workers at a server.
struct Load {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<Seen>>,
}

impl Load {
    async fn start(
        server: &Server,
        workers: usize,
        connections: Option<usize>,
    ) -> Result<Self, Fatal> {
        let connections = connections.unwrap_or(workers).clamp(1, workers);
        let mut doors = vec![Vec::new(); connections];
        for (number, clients) in doors.iter_mut().enumerate() {
            for door in 0..server.doors() {
                // Rotated, so that not all begin at the same door.
                clients.push(server.client(number + door, CONNECTS).await?);
            }
        }
        let shared = Arc::new(Shared::default());
        let mut tasks = Vec::new();
        for (number, clients) in (0..workers).zip(doors.iter().cycle()) {
            let agents = Agents::new(&format!("w{number}"))?;
            tasks.push(tokio::spawn(work(clients.clone(), agents, shared.clone())));
        }
        Ok(Self { shared, tasks })
    }

    /// Lets every worker end its session.
    async fn end(self) -> Result<Seen, Fatal> {
        self.shared.phase.store(OVER, Ordering::Relaxed);
        let mut all = Seen::default();
        for task in self.tasks {
            let seen = task.await?;
            all.times.extend(seen.times);
            all.failed += seen.failed;
            all.why = all.why.or(seen.why);
        }
        Ok(all)
    }
}

/// A fresh server under the load of `workers`.
///
/// # Errors
/// If it does not serve, or acknowledges nothing.
pub(crate) async fn measure(
    programs: &Programs,
    kind: Kind,
    workers: usize,
    plan: Plan,
    data: &Path,
) -> Result<Row, Fatal> {
    let server = Server::ready(programs, kind, data).await?;
    let pids = server.pids();
    let load = Load::start(&server, workers, plan.connections).await?;
    tokio::time::sleep(plan.warm).await;
    let (before, begun) = (usage(&pids), SystemClock.now());
    load.shared.phase.store(MEASURED, Ordering::Relaxed);
    tokio::time::sleep(plan.lasts).await;
    load.shared.phase.store(UNMEASURED, Ordering::Relaxed);
    let (after, took) = (usage(&pids), begun.elapsed().as_secs_f64());
    let mut seen = load.end().await?;
    if seen.times.is_empty() {
        return Err(seen.why.unwrap_or_else(|| "nothing was acknowledged".to_owned()).into());
    }
    if let Some(why) = &seen.why {
        eprintln!("{} at {workers}: {why}", kind.name());
    }
    let syncs = match syncs(&server, workers, plan, data).await {
        Ok(syncs) => Some(syncs),
        Err(why) => {
            eprintln!("{} at {workers}: fsyncs are not counted: {why}", kind.name());
            None
        }
    };
    seen.times.sort_unstable();
    let count = seen.times.len();
    let at = |share: f64| {
        let place = ((count as f64 * share) as usize).min(count - 1);
        f64::from(seen.times.get(place).copied().unwrap_or(0)) / 1e3
    };
    Ok(Row {
        kind,
        workers,
        rate: count as f64 / took,
        p50: at(0.5),
        p99: at(0.99),
        cpu: (after.cpu - before.cpu) / count as f64 * 1e6,
        syncs,
        rss: after.rss / 1024.0 / 1024.0,
        failed: seen.failed,
    })
}

/// fsyncs for a message, of all that happen from the first message to the last: apart from the
/// measurement, so that nobody counts while it runs.
async fn syncs(server: &Server, workers: usize, plan: Plan, data: &Path) -> Result<f64, Fatal> {
    std::fs::create_dir_all(data)?;
    let counter = Syncs::count(&server.pids(), &data.join("perf"))?;
    let load = Load::start(server, workers, plan.connections).await?;
    tokio::time::sleep(plan.counted).await;
    let shared = load.shared.clone();
    load.end().await?;
    let messages = shared.all.load(Ordering::Relaxed);
    Ok(counter.end()? as f64 / messages.max(1) as f64)
}

/// So many sessions, each decided, by so many workers; the id of one of them. Rates are no matter.
///
/// # Errors
/// The first message that is not accepted.
pub(crate) async fn decide(
    server: &Server,
    sessions: usize,
    workers: usize,
) -> Result<String, Fatal> {
    let left = Arc::new(AtomicU64::new(sessions as u64));
    let mut tasks = Vec::new();
    for number in 0..workers {
        let mut client = server.client(number, CONNECTS).await?;
        // They all have one leader, whom whoever looks later goes by.
        let agents = Agents::new("ended")?;
        let left = left.clone();
        let take = move || {
            let taken =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            taken.is_ok()
        };
        tasks.push(tokio::spawn(async move {
            let mut last = None;
            while take() {
                last = Some(crate::server::session(&mut client, &agents).await?);
            }
            Ok::<_, String>(last)
        }));
    }
    let mut some = None;
    for task in tasks {
        some = task.await??.or(some);
    }
    some.ok_or_else(|| "no session was asked for".into())
}
