//! Watches a cluster from several of its nodes at once and notes when each thing was first seen:
//! who is there, who leads, where replicas are, what runs and what answers. All times are of one
//! monotonic clock, this process's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use uuid::Uuid;
use weft_link::{Call, Client};
use weft_protocol::{
    Applied, Command, ComponentState, DeployOptions, ListComponents, NodeState, Propose,
    ReadAgreement, ReadState,
};
use weft_wire::{ActorKind, Address, Clock, NodeId, RequestId, SystemClock};

use crate::net::enter;
use crate::nodes::NetCluster;
use crate::{DEADLINE, http_get};

/// Between two looks at a node: what is noted is late by so much and by what a look takes, about
/// a millisecond on an idle machine.
pub const RESOLUTION: Duration = Duration::from_millis(5);
/// A daemon that does not answer is asked again after this.
const AGAIN: Duration = Duration::from_millis(20);
/// A question may take this long.
const WITHIN: Duration = Duration::from_secs(1);
/// Between two writes that wait to be acknowledged.
const WRITE_EVERY: Duration = Duration::from_millis(25);

/// Something was seen on a node that was not so when it was looked at before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When the answer that says so had come.
    pub at: Instant,
    /// The node that was asked.
    pub through: usize,
    /// What it says now.
    pub what: What,
}

/// What can be seen of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A node's state.
    Member(usize, NodeState),
    /// Who leads, and in which term.
    Leader(Option<usize>, u64),
    /// The place of a service's first replica, as agreed.
    Place(String, usize),
    /// A service's component runs here.
    Runs(String),
    /// The running component of a service answered a request, with 200.
    Answers(String),
}

/// Looks all the time, until it is dropped.
#[derive(Debug)]
pub struct Observer {
    over: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<Event>>>,
    lanes: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Watches from these nodes; each has been looked at once when this returns, so that what is
    /// noted from then on is new.
    ///
    /// # Panics
    /// If a node does not answer within [`DEADLINE`].
    #[track_caller]
    pub fn start(cluster: &NetCluster, nodes: &[usize]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let looked = Arc::new(AtomicUsize::new(0));
        let events = Arc::new(Mutex::new(Vec::new()));
        let lanes = nodes.iter().map(|node| {
            let (space, over) = (cluster.net.namespace(*node), over.clone());
            let looked = looked.clone();
            let lane = Lane {
                through: *node,
                socket: cluster.socket(*node),
                events: events.clone(),
                numbers: BTreeMap::new(),
                members: BTreeMap::new(),
                leader: None,
                places: BTreeMap::new(),
                runs: BTreeMap::new(),
            };
            std::thread::spawn(move || {
                enter(&space);
                runtime().block_on(lane.run(&over, &looked));
            })
        });
        let observer = Self { lanes: lanes.collect(), over, events };
        cluster.wait_until("every node was looked at", DEADLINE, |_| {
            (looked.load(Ordering::Relaxed) == nodes.len()).then_some(())
        });
        observer
    }

    /// Everything so far, in the order in which it was noted.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().map(|events| events.clone()).unwrap_or_default()
    }

    /// What was seen since `start`.
    pub fn since(&self, start: Instant) -> Vec<Event> {
        self.events().into_iter().filter(|event| event.at >= start).collect()
    }

    /// When something was first seen by anybody, not before `start`.
    pub fn first(&self, start: Instant, is: impl Fn(&Event) -> bool) -> Option<Instant> {
        self.since(start).iter().filter(|event| is(event)).map(|event| event.at).min()
    }

    /// How often the replicas of these services got another place since `start`, as the node that
    /// saw most of it says.
    pub fn moves(&self, start: Instant, services: &[String]) -> usize {
        self.most(start, |what| matches!(what, What::Place(of, _) if services.contains(of)))
    }

    /// How often a node's state turned since `start` between there (ready, suspect) and not
    /// there, as the node that saw most of it says.
    pub fn verdicts(&self, start: Instant, node: usize) -> usize {
        let mut turns: BTreeMap<usize, (Option<bool>, usize)> = BTreeMap::new();
        for event in self.events() {
            let What::Member(of, state) = event.what else { continue };
            if of != node {
                continue;
            }
            let there = is_there(state);
            let (last, count) = turns.entry(event.through).or_default();
            if event.at >= start && last.is_some_and(|last| last != there) {
                *count += 1;
            }
            *last = Some(there);
        }
        turns.values().map(|(_, count)| *count).max().unwrap_or(0)
    }

    fn most(&self, start: Instant, is: impl Fn(&What) -> bool) -> usize {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for event in self.since(start).iter().filter(|event| is(&event.what)) {
            *counts.entry(event.through).or_default() += 1;
        }
        counts.values().copied().max().unwrap_or(0)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for lane in std::mem::take(&mut self.lanes) {
            let _ = lane.join();
        }
    }
}

/// Whether a node in that state counts as a member that is there.
pub fn is_there(state: NodeState) -> bool {
    matches!(state, NodeState::Ready | NodeState::Suspect | NodeState::Draining)
}

/// What one node said last.
struct Lane {
    through: usize,
    socket: PathBuf,
    events: Arc<Mutex<Vec<Event>>>,
    numbers: BTreeMap<NodeId, usize>,
    members: BTreeMap<usize, NodeState>,
    leader: Option<(Option<usize>, u64)>,
    places: BTreeMap<String, usize>,
    /// Pid of the running component, and whether it answered.
    runs: BTreeMap<String, (u32, bool)>,
}

impl Lane {
    async fn run(mut self, over: &AtomicBool, looked: &AtomicUsize) {
        let (mut client, mut first) = (None, true);
        while !over.load(Ordering::Relaxed) {
            if client.is_none() {
                client = Client::connect_local(&self.socket, WITHIN).await.ok();
            }
            let answered = match &client {
                Some(client) => self.look(client).await.is_some(),
                None => false,
            };
            if !answered {
                client = None;
            } else if std::mem::take(&mut first) {
                looked.fetch_add(1, Ordering::Relaxed);
            }
            // The pause between two looks.
            tokio::time::sleep(if answered { RESOLUTION } else { AGAIN }).await;
        }
    }

    fn note(&self, what: What) {
        let event = Event { at: SystemClock.now(), through: self.through, what };
        if let Ok(mut events) = self.events.lock() {
            events.push(event);
        }
    }

    async fn look(&mut self, client: &Client) -> Option<()> {
        let registry = || Address::here(ActorKind::Registry);
        let call = || Call::within(WITHIN);
        let agreement = client.ask(registry(), ReadAgreement {}, call()).await.ok()?;
        for member in &agreement.members {
            let Some(number) = number(&member.name) else { continue };
            self.numbers.insert(member.id, number);
            if self.members.insert(number, member.state) != Some(member.state) {
                self.note(What::Member(number, member.state));
            }
        }
        if let Some(group) = agreement.groups.first() {
            let leader = group.leader.and_then(|id| self.numbers.get(&id).copied());
            let now = (leader, group.term);
            if self.leader.replace(now) != Some(now) {
                self.note(What::Leader(leader, group.term));
            }
        }
        let state = client.ask(registry(), ReadState { consistent: false }, call()).await.ok()?;
        for place in state.placements.iter().filter(|place| place.replica == 1) {
            let Some(number) = self.numbers.get(&place.node).copied() else { continue };
            if self.places.insert(place.service.clone(), number) != Some(number) {
                self.note(What::Place(place.service.clone(), number));
            }
        }
        let runtime = Address::here(ActorKind::Runtime);
        let components = client.ask(runtime, ListComponents {}, call()).await.ok()?;
        let running: BTreeMap<String, (u32, Option<String>)> = components
            .into_iter()
            .filter(|status| status.state == ComponentState::Running && status.pid != 0)
            .map(|status| (status.key.service, (status.pid, status.urls.into_iter().next())))
            .collect();
        self.runs.retain(|service, (pid, _)| running.get(service).is_some_and(|now| now.0 == *pid));
        for (service, (pid, url)) in running {
            let known = self.runs.get(&service).copied();
            if known.is_none() {
                self.note(What::Runs(service.clone()));
            }
            let before = known.is_some_and(|(_, answered)| answered);
            let answers = before
                || url.is_some_and(|url| http_get(&url).is_ok_and(|(status, _)| status == 200));
            if answers && !before {
                self.note(What::Answers(service.clone()));
            }
            self.runs.insert(service, (pid, answers));
        }
        Some(())
    }
}

/// From 0; nodes are named `n1`, `n2`, ….
fn number(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Makes writes on a node until one that was begun after this was called is acknowledged; how long
/// that took. A new one is begun every 25 ms, so that none of them stands for all.
///
/// # Panics
/// If none is within `deadline`.
#[track_caller]
pub fn first_write(cluster: &NetCluster, node: usize, deadline: Duration) -> Duration {
    let socket = cluster.socket(node);
    let start = SystemClock.now();
    let written = runtime().block_on(async {
        let mut writes = tokio::task::JoinSet::new();
        let mut every = tokio::time::interval(WRITE_EVERY);
        let end = tokio::time::Instant::now() + deadline;
        loop {
            tokio::select! {
                _ = every.tick() => drop(writes.spawn(write(socket.clone()))),
                Some(done) = writes.join_next() => {
                    if done.is_ok_and(|done| done.is_some()) {
                        return true;
                    }
                }
                () = tokio::time::sleep_until(end) => return false,
            }
        }
    });
    assert!(written, "no write was acknowledged within {deadline:?}");
    start.elapsed()
}

/// One attempt at a definition that starts nothing.
async fn write(socket: PathBuf) -> Option<Applied> {
    let client = Client::connect_local(&socket, WITHIN).await.ok()?;
    let request = RequestId::new(Uuid::new_v4());
    let spec = crate::writer::definition("observed", u64::from(std::process::id()));
    let command = Command::Deploy { spec: Box::new(spec), options: DeployOptions::default() };
    let within = Call::within(Duration::from_secs(5));
    client.ask(Address::here(ActorKind::Registry), Propose { request, command }, within).await.ok()
}
