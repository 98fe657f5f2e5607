//! One session and all who follow it: how soon the last of them has a message.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::sync::Notify;
use weft_bench::figures::Three;
use weft_macp::macp::v1::StreamSessionRequest;
use weft_macp::macp::v1::stream_session_response::Response;
use weft_wire::{Clock, SystemClock};

use crate::Fatal;
use crate::client::{Agents, Client, accepted};
use crate::server::{Kind, Programs, Server};
use crate::usage::usage;

/// Streams of one connection; the reference lets 128 be.
const A_CONNECTION: usize = 50;
/// Until a connection is there, and until everybody has what was sent.
const WITHIN: Duration = Duration::from_secs(60);
/// Messages of the session before anything is measured: its start and a proposal.
const BEFORE: usize = 2;

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) subscribers: usize,
    /// Messages, each sent when everybody has the one before.
    pub(crate) single: usize,
    /// Messages after these, each sent when the one before is acknowledged. The reference cuts off
    /// who is 256 behind.
    pub(crate) burst: usize,
}

/// One server.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) subscribers: usize,
    /// Milliseconds from sending a message until the last subscriber has it.
    pub(crate) sent: Three,
    /// Milliseconds from its acknowledgement; 0 if all had it before.
    pub(crate) acknowledged: Three,
    /// Deliveries a second of the burst.
    pub(crate) rate: f64,
    /// Microseconds of the servers' processor time for a delivery of the burst.
    pub(crate) cpu: f64,
    /// MiB of all servers together, with all streams open.
    pub(crate) rss: f64,
}

/// What all subscribers have.
#[derive(Debug)]
struct Board {
    subscribers: usize,
    begun: Instant,
    /// For each message: how many have it, and nanoseconds after `begun` when the last got it.
    had: Vec<(AtomicUsize, AtomicU64)>,
    /// Streams that ended or brought something else than what was next.
    broken: AtomicUsize,
    changed: Notify,
}

impl Board {
    fn new(subscribers: usize, messages: usize) -> Self {
        Self {
            subscribers,
            begun: SystemClock.now(),
            had: (0..messages).map(|_| Default::default()).collect(),
            broken: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    fn got(&self, message: usize) {
        let Some((count, last)) = self.had.get(message) else { return };
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        last.fetch_max(now, Ordering::Relaxed);
        if count.fetch_add(1, Ordering::Relaxed) + 1 == self.subscribers {
            self.changed.notify_one();
        }
    }

    fn breaks(&self, why: &str) {
        if self.broken.fetch_add(1, Ordering::Relaxed) == 0 {
            eprintln!("a stream: {why}");
        }
        self.changed.notify_one();
    }

    /// When the last subscriber got it, once all have.
    async fn all(&self, message: usize) -> Result<Instant, Fatal> {
        let (count, last) = self.had.get(message).ok_or("no such message")?;
        let complete = async {
            while count.load(Ordering::Relaxed) < self.subscribers {
                if self.broken.load(Ordering::Relaxed) > 0 {
                    return Err("a stream did not bring every message once and in order".into());
                }
                self.changed.notified().await;
            }
            Ok(self.begun + Duration::from_nanos(last.load(Ordering::Relaxed)))
        };
        let in_time = tokio::time::timeout(WITHIN, complete).await;
        in_time.map_err(|_| {
            let has = count.load(Ordering::Relaxed);
            format!("{has} of {} have message {message} after {WITHIN:?}", self.subscribers)
        })?
    }
}

/// The n-th message's id, from 0.
fn name(message: usize) -> String {
    format!("message-{message}")
}

async fn follow(mut client: Client, agents: Agents, session: String, board: Arc<Board>) {
    let subscribe =
        StreamSessionRequest { subscribe_session_id: session, ..StreamSessionRequest::default() };
    // The write side stays open: who closes it is not served on.
    let frames = futures_util::stream::iter([subscribe]).chain(futures_util::stream::pending());
    let mut stream = match client.stream_session(agents.request(0, frames)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return board.breaks(&status.to_string()),
    };
    let mut next = 0;
    loop {
        match stream.message().await {
            Ok(Some(frame)) => match frame.response {
                Some(Response::Envelope(envelope))
                    // The first ones have ids of their own.
                    if next < BEFORE || envelope.message_id == name(next) =>
                {
                    board.got(next);
                    next += 1;
                }
                other => return board.breaks(&format!("after {next} messages: {other:?}")),
            },
            Ok(None) => return board.breaks("it ended"),
            Err(status) => return board.breaks(&status.to_string()),
        }
    }
}

/// # Errors
/// If a subscriber misses a message or has one twice, or none comes.
pub(crate) async fn measure(
    programs: &Programs,
    kind: Kind,
    plan: Plan,
    data: &Path,
) -> Result<Row, Fatal> {
    let server = Server::ready(programs, kind, data).await?;
    let agents = Agents::new("fan")?;
    let session = uuid::Uuid::new_v4().to_string();
    let mut client = server.client(0, WITHIN).await?;
    for step in 0..BEFORE {
        accepted(&mut client, agents.message(step, &session)).await?;
    }
    let board = Arc::new(Board::new(plan.subscribers, BEFORE + plan.single + plan.burst));
    let mut tasks = tokio::task::JoinSet::new();
    let mut connection = client.clone();
    for number in 0..plan.subscribers {
        if number % A_CONNECTION == 0 {
            connection = server.client(number / A_CONNECTION, WITHIN).await?;
        }
        let (agents, session) = (agents.clone(), session.clone());
        tasks.spawn(follow(connection.clone(), agents, session, board.clone()));
    }
    // What is there already comes to everybody; then all follow.
    board.all(BEFORE - 1).await?;

    let (mut sent, mut acknowledged) = (Vec::new(), Vec::new());
    for message in BEFORE..BEFORE + plan.single {
        let before = SystemClock.now();
        accepted(&mut client, agents.remark(name(message), &session)).await?;
        let after = SystemClock.now();
        let last = board.all(message).await?;
        sent.push(last.saturating_duration_since(before).as_secs_f64() * 1e3);
        acknowledged.push(last.saturating_duration_since(after).as_secs_f64() * 1e3);
    }
    let pids = server.pids();
    let (before, begun) = (usage(&pids), SystemClock.now());
    for message in BEFORE + plan.single..BEFORE + plan.single + plan.burst {
        accepted(&mut client, agents.remark(name(message), &session)).await?;
    }
    let last = board.all(BEFORE + plan.single + plan.burst - 1).await?;
    let after = usage(&pids);
    let deliveries = (plan.burst * plan.subscribers) as f64;
    Ok(Row {
        kind,
        subscribers: plan.subscribers,
        sent: Three::of(&sent),
        acknowledged: Three::of(&acknowledged),
        rate: deliveries / last.saturating_duration_since(begun).as_secs_f64(),
        cpu: (after.cpu - before.cpu) / deliveries * 1e6,
        rss: after.rss / 1024.0 / 1024.0,
    })
}
