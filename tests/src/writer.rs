//! An oracle of writes: proposes changes from within nodes' namespaces while a test does harm,
//! keeps every acknowledged one, and afterwards compares with what a node says is stored.
//!
//! Each lane deploys definitions that are not active, so that nothing is placed or started, of
//! services of its own, one write after the other for each service. A service's revision must
//! then count its acknowledged writes, and its definition be the last one of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use uuid::Uuid;
use weft_link::{Call, Client};
use weft_protocol::{Applied, Command, DeployOptions, Propose, ReadState, ServiceSpec, StateView};
use weft_wire::{ActorKind, Address, AskError, Clock, RequestId, SystemClock};

use crate::DEADLINE;
use crate::net::enter;
use crate::nodes::NetCluster;

/// Services of one lane: as many of its writes are under way at once, at most.
const SERVICES: u32 = 16;
/// One attempt may take this long.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Connecting may take this long.
const CONNECT: Duration = Duration::from_millis(500);
/// Between two attempts of one write.
const AGAIN: Duration = Duration::from_millis(25);
/// Writes under way when it is stopped have this long to be acknowledged.
const SETTLE: Duration = Duration::from_secs(15);

/// Writes until it is stopped.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    book: Arc<Mutex<Written>>,
    lanes: Vec<JoinHandle<()>>,
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// By service, in the order in which they were made.
    pub services: BTreeMap<String, Writes>,
    /// Attempts that failed, whatever came of the write, by reason.
    pub failures: BTreeMap<String, u64>,
    /// The longest that a write took to be acknowledged, over all of its attempts.
    pub slowest: Duration,
    /// When each write was acknowledged, from the start of the writer; in no strict order.
    pub times: Vec<Duration>,
}

/// What was written to one service.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    /// The answers, in order: write number `k`, from 1, is at `k - 1`.
    pub acknowledged: Vec<Applied>,
    /// Whether one more was made, of which nobody knows whether it was applied.
    pub unknown: bool,
}

impl Writer {
    /// Starts a lane on each of `nodes`; together they make `per_second` writes a second, at
    /// most. A write that is not acknowledged is tried again, with the same request id, through
    /// the next of `nodes`, until it is.
    ///
    /// # Panics
    /// If `nodes` is empty.
    pub fn start(cluster: &NetCluster, nodes: &[usize], per_second: u32) -> Self {
        assert!(!nodes.is_empty() && per_second > 0, "a writer needs a node and a rate");
        let stop = Arc::new(AtomicBool::new(false));
        let book = Arc::new(Mutex::new(Written::default()));
        let sockets: Vec<PathBuf> = nodes.iter().map(|node| cluster.socket(*node)).collect();
        let services = u32::try_from(nodes.len()).unwrap_or(u32::MAX).saturating_mul(SERVICES);
        let every = Duration::from_secs(1) * services / per_second;
        let run = Uuid::new_v4().simple().to_string();
        let run = run.get(..6).unwrap_or_default().to_owned();
        let start = SystemClock.now();
        let lanes = nodes.iter().enumerate().map(|(at, node)| {
            let space = cluster.net.namespace(*node);
            let lane = Lane {
                stop: stop.clone(),
                book: book.clone(),
                clients: RefCell::new(vec![None; sockets.len()]),
                sockets: sockets.clone(),
                first: at,
                every,
                name: format!("w-{run}-{at}"),
                start,
            };
            std::thread::spawn(move || {
                enter(&space);
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let lane = Rc::new(lane);
                LocalSet::new().block_on(&runtime, async move {
                    let services =
                        (0..SERVICES).map(|n| tokio::task::spawn_local(lane.clone().service(n)));
                    for service in services.collect::<Vec<_>>() {
                        service.await.expect("a service's writes end without a panic");
                    }
                });
            })
        });
        Self { lanes: lanes.collect(), stop, book }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.book.lock().map_or(0, |book| book.acknowledged())
    }

    /// Ends it, after the writes under way; what was written.
    ///
    /// # Panics
    /// If a lane did.
    pub fn stop(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        for lane in std::mem::take(&mut self.lanes) {
            lane.join().expect("a lane ends without a panic");
        }
        self.book.lock().map(|book| book.clone()).expect("no lane panicked")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for lane in std::mem::take(&mut self.lanes) {
            let _ = lane.join();
        }
    }
}

/// One node's thread.
struct Lane {
    stop: Arc<AtomicBool>,
    book: Arc<Mutex<Written>>,
    clients: RefCell<Vec<Option<Arc<Client>>>>,
    sockets: Vec<PathBuf>,
    /// The node that is tried first.
    first: usize,
    /// Between two writes to one service.
    every: Duration,
    name: String,
    start: std::time::Instant,
}

impl Lane {
    async fn service(self: Rc<Self>, number: u32) {
        let service = format!("{}-{number}", self.name);
        let offset = self.every * number / SERVICES;
        let mut turn = interval_at(Instant::from_std(SystemClock.now()) + offset, self.every);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for write in 1u64.. {
            turn.tick().await;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let spec = definition(&service, write);
            let request = RequestId::new(Uuid::new_v4());
            let started = SystemClock.now();
            let applied = self.write(request, spec).await;
            let mut book = self.book.lock().expect("no lane panicked");
            let writes = book.services.entry(service.clone()).or_default();
            let Some(applied) = applied else {
                writes.unknown = true;
                return;
            };
            writes.acknowledged.push(applied);
            book.slowest = book.slowest.max(started.elapsed());
            book.times.push(self.start.elapsed());
        }
    }

    /// Tries until it is acknowledged; `None`: it was not when time was up.
    async fn write(&self, request: RequestId, spec: ServiceSpec) -> Option<Applied> {
        let mut give_up = None;
        for attempt in 0usize.. {
            let way = (self.first + attempt) % self.sockets.len();
            let command =
                Command::Deploy { spec: Box::new(spec.clone()), options: DeployOptions::default() };
            match self.ask(way, Propose { request, command }).await {
                Ok(applied) => return Some(applied),
                Err(why) => {
                    let mut book = self.book.lock().expect("no lane panicked");
                    *book.failures.entry(why).or_default() += 1;
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                let end = *give_up.get_or_insert_with(|| SystemClock.now() + SETTLE);
                if SystemClock.now() >= end {
                    return None;
                }
            }
            // The pause between two attempts.
            tokio::time::sleep(AGAIN).await;
        }
        None
    }

    async fn ask(&self, way: usize, propose: Propose) -> Result<Applied, String> {
        let client = self.client(way).await?;
        let to = Address::here(ActorKind::Registry);
        let answer = client.ask(to, propose, Call::within(ATTEMPT)).await;
        if let Err(AskError::Unreachable(_) | AskError::Timeout) = &answer
            && let Some(place) = self.clients.borrow_mut().get_mut(way)
            && place.as_ref().is_some_and(|now| Arc::ptr_eq(now, &client))
        {
            // The daemon may be another one by now.
            *place = None;
        }
        answer.map_err(|error| error.to_string())
    }

    async fn client(&self, way: usize) -> Result<Arc<Client>, String> {
        if let Some(Some(client)) = self.clients.borrow().get(way) {
            return Ok(client.clone());
        }
        let Some(socket) = self.sockets.get(way) else { return Err("no such way".into()) };
        let client = Client::connect_local(socket, CONNECT).await.map_err(|e| e.to_string())?;
        let client = Arc::new(client);
        if let Some(place) = self.clients.borrow_mut().get_mut(way) {
            *place = Some(client.clone());
        }
        Ok(client)
    }
}

/// A definition that starts nothing and says which write it is.
pub(crate) fn definition(service: &str, write: u64) -> ServiceSpec {
    let text = format!(
        "name = \"{service}\"\nactive = false\ncomment = \"{write}\"\n\n\
         [[components]]\nname = \"c\"\ncmd = [\"/bin/true\"]\n"
    );
    weft_config::service::parse(&text, service).expect("a definition").spec
}

impl Written {
    /// How many were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.services.values().map(|writes| writes.acknowledged.len()).sum()
    }

    /// How many were acknowledged a second, from the start to the last one.
    pub fn rate(&self) -> f64 {
        let last = self.times.iter().max().map_or(0.0, Duration::as_secs_f64);
        if last > 0.0 { self.times.len() as f64 / last } else { 0.0 }
    }

    /// The longest time in which nothing was acknowledged between two writes that were.
    pub fn longest_silence(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        let gaps = times.windows(2).filter_map(|pair| Some(*pair.last()? - *pair.first()?));
        gaps.max().unwrap_or_default()
    }

    /// What of it is not in a state, or is there in another order or twice; empty: all is well.
    pub fn missing(&self, state: &StateView) -> Vec<String> {
        let mut wrong = Vec::new();
        for (service, writes) in &self.services {
            let acknowledged = writes.acknowledged.len() as u64;
            let revisions: Vec<u64> = writes.acknowledged.iter().map(|a| a.revision).collect();
            if !revisions.iter().copied().eq(1..=acknowledged) {
                wrong.push(format!("{service}: revisions were acknowledged as {revisions:?}"));
            }
            let stored = state.service(service);
            let (revision, comment) =
                stored.map_or((0, "0"), |record| (record.revision, record.spec.comment.as_str()));
            let last = acknowledged + u64::from(writes.unknown);
            if !(acknowledged..=last).contains(&revision) || comment != revision.to_string() {
                wrong.push(format!(
                    "{service}: revision {revision} with write {comment} is stored, {acknowledged} \
                     writes were acknowledged{}",
                    if writes.unknown { " and one may have been made" } else { "" }
                ));
            }
        }
        wrong
    }

    /// Asserts that a node has every acknowledged write, once it has caught up with the last.
    ///
    /// # Panics
    /// With what is missing, or if it does not catch up within [`DEADLINE`].
    #[track_caller]
    pub fn assert_kept(&self, cluster: &NetCluster, node: usize) {
        let name = cluster.node_name(node);
        let last = self.services.values().flat_map(|w| &w.acknowledged).map(|a| a.index).max();
        let mut seen = 0;
        let what = format!("{name} has change {last:?}");
        let (state, _) = cluster.wait_until(&what, DEADLINE, |cluster| {
            let state = state(cluster, node).ok()?;
            seen = seen.max(state.index);
            (Some(state.index) >= last).then_some(state)
        });
        let missing = self.missing(&state);
        assert!(missing.is_empty(), "on {name}: {missing:#?}");
    }
}

/// Desired state as a node has it, asked over its local socket.
///
/// # Errors
/// Why it did not answer.
pub fn state(cluster: &NetCluster, node: usize) -> Result<StateView, String> {
    let socket = cluster.socket(node);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let read = async {
            let client =
                Client::connect_local(&socket, CONNECT).await.map_err(|e| e.to_string())?;
            let to = Address::here(ActorKind::Registry);
            let answer =
                client.ask(to, ReadState { consistent: false }, Call::within(DEADLINE)).await;
            answer.map_err(|error| error.to_string())
        };
        timeout(DEADLINE, read).await.unwrap_or_else(|_| Err("no answer".into()))
    })
}
