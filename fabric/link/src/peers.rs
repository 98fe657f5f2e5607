//! The table of peers: one connection each, dialled on demand, kept, replaced, closed.
//!
//! When two connections to one peer race, both sides keep the same one: the later run of the peer
//! wins, then the one that supersedes the other, then the one the smaller node id dialled; the
//! other is retired, which means used for nothing new and closed once both sides have said that
//! they wait for nothing more on it. A connection to an earlier run of the peer is closed at once.

mod keep;
mod send;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_wire::{Class, NodeId};

use crate::door::Source;
use crate::endpoint::Net;
use crate::error::{close, closed_with};
use crate::fabric::Inner;
use crate::link::Link;
use crate::serve::serve_link;

/// What a peer's link is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerState {
    /// Nobody has asked for it yet.
    Idle,
    /// Being dialled; asks wait.
    Connecting,
    /// Up.
    Up,
    /// The last dial failed; asks fail at once until the next one succeeds.
    Down {
        /// Why.
        reason: String,
        /// The next dial; zero while it is under way.
        retry_in: Duration,
    },
}

/// One peer, as `node list` shows it.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// What its link is doing.
    pub state: PeerState,
    /// Round trip, when up.
    pub rtt: Option<Duration>,
    /// How long ago it last gave a sign of life; `None`: never, since this node started.
    pub last_seen: Option<Duration>,
    /// Where it is, when up.
    pub remote: Option<SocketAddr>,
    /// Version of its build, from its hello.
    pub version: Option<String>,
    /// Its wall clock minus ours, in microseconds, at its hello.
    pub clock_offset: Option<i64>,
    /// Asks of ours that it has not answered yet.
    pub in_flight: usize,
}

/// A peer's link came up or went down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEvent {
    /// Which peer.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Up, or down.
    pub up: bool,
    /// Why it went down; empty when up.
    pub reason: String,
    /// Whether the peer said good-bye.
    pub planned: bool,
}

enum Phase {
    Idle,
    Connecting,
    Down { until: Instant },
}

struct Peer {
    link: Option<Arc<Link>>,
    phase: Phase,
    /// A task keeps it connected.
    kept: bool,
    /// A new connection is wanted although there is one.
    redial: bool,
    /// Where the present link was dialled.
    dialled: Option<SocketAddr>,
    /// What the next connection dialled supersedes.
    next: u32,
    /// Tells that wait for the first connection.
    queue: Vec<(Class, Vec<u8>)>,
    queued: usize,
    error: String,
    seen: Option<Instant>,
    /// Wakes the keeper out of its backoff.
    poke: Arc<Notify>,
    /// Wakes whoever waits for any change.
    changed: Arc<Notify>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            link: None,
            phase: Phase::Idle,
            kept: false,
            redial: false,
            dialled: None,
            next: 0,
            queue: Vec::new(),
            queued: 0,
            error: "not connected yet".to_owned(),
            seen: None,
            poke: Arc::default(),
            changed: Arc::default(),
        }
    }
}

impl Peer {
    fn down(&mut self, reason: String, until: Instant) {
        self.error = reason;
        self.phase = Phase::Down { until };
        self.drop_queue();
        self.changed.notify_waiters();
    }

    fn drop_queue(&mut self) -> usize {
        self.queued = 0;
        std::mem::take(&mut self.queue).len()
    }
}

#[derive(Default)]
struct Table {
    peers: HashMap<NodeId, Peer>,
    /// Every live connection, persons' too, by its stable id.
    links: HashMap<usize, Arc<Link>>,
}

/// The table and what belongs to it.
pub(crate) struct Peers {
    pub(crate) net: OnceLock<Net>,
    /// Links in use, by node id, sorted: what every ask looks at.
    up: ArcSwap<Vec<(NodeId, Arc<Link>)>>,
    table: Mutex<Table>,
    events: broadcast::Sender<LinkEvent>,
    pub(crate) look: Arc<Notify>,
    pub(crate) closing: CancellationToken,
    random: RandomState,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            net: OnceLock::new(),
            up: ArcSwap::default(),
            table: Mutex::default(),
            events: broadcast::channel(256).0,
            look: Arc::default(),
            closing: CancellationToken::new(),
            random: RandomState::new(),
        }
    }
}

/// Whether `new` is to be used instead of `old`. Both ends come to the same answer.
fn prefers(new: &Link, old: &Link, own: NodeId) -> bool {
    if new.hello.instance != old.hello.instance {
        return true;
    }
    if new.supersedes != old.supersedes {
        return new.supersedes > old.supersedes;
    }
    if new.dialled == old.dialled {
        return true;
    }
    let own_is_smaller = new.hello.node.is_some_and(|peer| own < peer);
    new.dialled == own_is_smaller
}

impl Inner {
    /// Where this fabric's tasks run; `None` before it listens.
    pub(crate) fn handle(&self) -> Option<Handle> {
        self.peers.net.get().map(|net| net.handle.clone())
    }

    /// A number in 0.0..1.0, for jitter only.
    fn random(&self, salt: u32) -> f64 {
        let bits = self.peers.random.hash_one((self.clock.0.now(), salt));
        #[allow(clippy::cast_precision_loss, reason = "52 bits are kept")]
        let share = (bits >> 12) as f64 / (1u64 << 52) as f64;
        share
    }

    pub(crate) fn subscribe_events(&self) -> broadcast::Receiver<LinkEvent> {
        self.peers.events.subscribe()
    }

    /// Calls `use_link` with the link to a node, if it is up.
    pub(crate) fn with_up<T>(
        &self,
        node: NodeId,
        use_link: impl FnOnce(&Arc<Link>) -> T,
    ) -> Option<T> {
        let up = self.peers.up.load();
        let at = up.binary_search_by_key(&node, |(id, _)| *id).ok()?;
        let (_, link) = up.get(at)?;
        link.is_open().then(|| use_link(link))
    }

    fn up(&self, node: NodeId) -> Option<Arc<Link>> {
        self.with_up(node, Arc::clone)
    }

    /// Any peer with a link.
    pub(crate) fn any_peer(&self) -> Option<NodeId> {
        self.peers.up.load().iter().find(|(_, link)| link.is_open()).map(|(id, _)| *id)
    }

    fn name_of(&self, node: NodeId) -> String {
        self.directory
            .load()
            .nodes
            .get(&node)
            .map_or_else(|| node.to_string(), |entry| entry.name.clone())
    }

    /// Takes a connection whose hello has been answered into use.
    pub(crate) fn register(self: &Arc<Self>, link: &Arc<Link>) {
        let Some(handle) = self.handle() else { return };
        let mut came_up = None;
        {
            let mut table = self.peers.table.lock();
            table.links.insert(link.conn.stable_id(), link.clone());
            if let Some(node) = link.hello.node {
                let peer = table.peers.entry(node).or_default();
                peer.seen = Some(link.up_since);
                peer.next = peer.next.max(link.supersedes.saturating_add(1));
                let old = peer.link.take().filter(|old| old.is_open());
                match old {
                    Some(old) if !prefers(link, &old, self.config.node) => {
                        link.retire();
                        peer.link = Some(old);
                    }
                    old => {
                        came_up = old.is_none().then_some(node);
                        match old {
                            Some(old) if old.hello.instance == link.hello.instance => old.retire(),
                            // Whom it led to has ended: nothing on it will be answered.
                            Some(old) => old.close(close::DUPLICATE, "the peer was started again"),
                            None => {}
                        }
                        // What waited goes first, then everybody else may send.
                        peer.queued = 0;
                        for (class, frame) in std::mem::take(&mut peer.queue) {
                            if link.requester.tell_encoded(class, frame).is_err() {
                                self.stats.dead_letter();
                            }
                        }
                        peer.redial = false;
                        peer.link = Some(link.clone());
                        peer.phase = Phase::Idle;
                        self.publish(&table);
                    }
                }
                if let Some(peer) = table.peers.get(&node) {
                    peer.changed.notify_waiters();
                    if came_up.is_some() {
                        peer.poke.notify_one();
                    }
                }
            }
        }
        if let Some(node) = came_up {
            tracing::info!(
                target: "weft::link", peer = link.hello.name, remote = %link.remote(),
                dialled = link.dialled, "link up"
            );
            let _ = self.peers.events.send(LinkEvent {
                node,
                name: link.hello.name.clone(),
                up: true,
                reason: String::new(),
                planned: false,
            });
        }
        let source = Source::new(link.peer.identity.clone());
        let (inner, link) = (self.clone(), link.clone());
        handle.spawn(async move {
            let serving = tokio::spawn(serve_link(Some(inner.clone()), link.clone(), source));
            let error = link.conn.closed().await;
            inner.lost(&link, &error);
            serving.abort();
        });
        // It may have been denied while it was being made.
        self.peers.look.notify_one();
    }

    fn publish(&self, table: &Table) {
        let mut up: Vec<_> =
            table.peers.iter().filter_map(|(id, peer)| Some((*id, peer.link.clone()?))).collect();
        up.sort_unstable_by_key(|(id, _)| *id);
        self.peers.up.store(Arc::new(up));
    }

    fn lost(&self, link: &Arc<Link>, error: &quinn::ConnectionError) {
        link.open.store(false, Ordering::Release);
        let reason = link.reason(error);
        link.requester.fail(&reason);
        let planned = closed_with(error) == Some(close::GOOD_BYE);
        let mut down = None;
        {
            let mut table = self.peers.table.lock();
            table.links.remove(&link.conn.stable_id());
            let of_same = |other: &&Arc<Link>| other.hello.node == link.hello.node;
            let spare = table.links.values().filter(of_same).find(|other| other.is_open()).cloned();
            if let Some(node) = link.hello.node
                && let Some(peer) = table.peers.get_mut(&node)
                && peer.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
            {
                peer.link = spare;
                peer.seen = Some(link.heard.lock().0);
                if let Some(spare) = &peer.link {
                    *spare.retired.lock() = None;
                    spare.told_done.store(false, Ordering::Release);
                }
                peer.error = reason.to_string();
                peer.phase = if peer.kept { Phase::Connecting } else { Phase::Idle };
                down = peer.link.is_none().then_some(node);
                self.publish(&table);
                if let Some(peer) = table.peers.get(&node) {
                    peer.changed.notify_waiters();
                }
            }
        }
        if let Some(node) = down {
            tracing::info!(
                target: "weft::link", peer = link.hello.name, reason = &*reason, planned, "link down"
            );
            let _ = self.peers.events.send(LinkEvent {
                node,
                name: link.hello.name.clone(),
                up: false,
                reason: reason.to_string(),
                planned,
            });
        }
    }

    /// Every peer of the directory, and those connected beside it.
    pub(crate) fn statuses(&self) -> Vec<PeerStatus> {
        let directory = self.directory.load_full();
        let now = Instant::now();
        let table = self.peers.table.lock();
        let mut ids: Vec<_> = directory.nodes.keys().copied().collect();
        ids.extend(
            table
                .peers
                .iter()
                .filter(|(id, peer)| peer.link.is_some() && !directory.nodes.contains_key(id))
                .map(|(id, _)| *id),
        );
        ids.sort_unstable();
        ids.into_iter()
            .filter(|id| *id != self.config.node)
            .map(|id| {
                let known = table.peers.get(&id);
                let link = known.and_then(|peer| peer.link.as_ref()).filter(|l| l.is_open());
                let state = match (link, known) {
                    (Some(_), _) => PeerState::Up,
                    (None, None) => PeerState::Idle,
                    (None, Some(peer)) => match &peer.phase {
                        Phase::Idle => PeerState::Idle,
                        Phase::Connecting => PeerState::Connecting,
                        Phase::Down { until } => PeerState::Down {
                            reason: peer.error.clone(),
                            retry_in: until.saturating_duration_since(now),
                        },
                    },
                };
                let name = directory
                    .nodes
                    .get(&id)
                    .map(|entry| entry.name.clone())
                    .or_else(|| link.map(|link| link.hello.name.clone()))
                    .unwrap_or_default();
                PeerStatus {
                    id,
                    name,
                    state,
                    rtt: link.map(|link| link.conn.rtt()),
                    last_seen: link
                        .map(|link| link.heard.lock().0)
                        .or_else(|| known.and_then(|peer| peer.seen))
                        .map(|at| now.saturating_duration_since(at)),
                    remote: link.map(|link| link.remote()),
                    version: link.map(|link| link.hello.version.clone()),
                    clock_offset: link.map(|link| link.clock_offset),
                    in_flight: link.map_or(0, |link| link.requester.in_flight()),
                }
            })
            .collect()
    }

    /// Every live connection.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.peers.table.lock().links.values().cloned().collect()
    }
}
