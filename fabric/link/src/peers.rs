//! The table of peers: one connection each, dialled on demand, kept, replaced, closed.
//!
//! When two connections to one peer race, both sides keep the same one: the later run of the peer
//! wins, then the one that supersedes the other, then the one the smaller node id dialled; the
//! other is retired, which means used for nothing new and closed once nothing is in flight on it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_wire::{AskError, Class, Identity, NodeId};

use crate::door::Source;
use crate::endpoint::Net;
use crate::error::{close, closed_with};
use crate::fabric::Inner;
use crate::link::Link;
use crate::outbox::with_scratch;
use crate::requester::{Answered, Fault, Request};
use crate::serve::serve_link;

/// A connection that ended sooner counts as a failed dial, so that nobody dials in a hot loop.
const LIVED: Duration = Duration::from_secs(2);
/// A retired connection is closed no sooner: the peer must have seen the other one come up.
const RETIRED: Duration = Duration::from_secs(1);
/// How often links are looked at (expiry, renewal, retirement, signs of life).
const TICK: Duration = Duration::from_millis(250);
/// Delays between attempts at an idempotent ask whose actor or connection went away.
const RETRY: weft_wire::Backoff = weft_wire::Backoff {
    base: Duration::from_millis(20),
    max: Duration::from_millis(800),
    jitter: 0.3,
};
/// An idempotent ask is sent at most this many times.
const ATTEMPTS: u32 = 7;

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

enum Wanted {
    Up(Arc<Link>),
    Wait(Arc<Notify>),
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

    /// Looks a peer up under the lock, and sees to it that somebody keeps it connected.
    fn want(self: &Arc<Self>, table: &mut Table, node: NodeId) -> Result<Wanted, AskError> {
        let name = || self.name_of(node);
        let Some(net) = self.peers.net.get() else {
            return Err(AskError::Unreachable(format!("no link to `{}`: not listening", name())));
        };
        if self.peers.closing.is_cancelled() {
            return Err(AskError::Unreachable("this node is stopping".into()));
        }
        if self.directory.load().is_denied(&Identity::Node(node)) {
            return Err(AskError::Unreachable(format!("`{}` was removed", name())));
        }
        let peer = table.peers.entry(node).or_default();
        if let Some(link) = peer.link.as_ref().filter(|link| link.is_open()) {
            return Ok(Wanted::Up(link.clone()));
        }
        if !peer.kept {
            let address = match self.directory.load().nodes.get(&node) {
                None => {
                    return Err(AskError::NotFound(format!("no node {node} in this cluster")));
                }
                Some(entry) => entry.address,
            };
            if address.is_none() {
                return Err(AskError::Unreachable(format!(
                    "no address of `{}` is known yet",
                    name()
                )));
            }
            peer.kept = true;
            peer.phase = Phase::Connecting;
            net.handle.spawn(self.clone().keep(node));
        }
        match &peer.phase {
            Phase::Down { .. } => {
                Err(AskError::Unreachable(format!("`{}`: {}", name(), peer.error)))
            }
            Phase::Idle | Phase::Connecting => Ok(Wanted::Wait(peer.changed.clone())),
        }
    }

    /// The link to a node: the one that is up, or the one that comes up within `within`.
    pub(crate) async fn link_to(
        self: &Arc<Self>,
        node: NodeId,
        within: Duration,
    ) -> Result<Arc<Link>, AskError> {
        if let Some(link) = self.up(node) {
            return Ok(link);
        }
        let wait = async {
            loop {
                let changed = match self.want(&mut self.peers.table.lock(), node)? {
                    Wanted::Up(link) => return Ok(link),
                    Wanted::Wait(changed) => changed.notified_owned(),
                };
                // Look again: it may have changed before we listened.
                if let Wanted::Up(link) = self.want(&mut self.peers.table.lock(), node)? {
                    return Ok(link);
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, wait).await.unwrap_or(Err(AskError::Timeout))
    }

    /// Sends a tell to a node, or keeps it until the link that is being made is up.
    pub(crate) fn tell_node(
        self: &Arc<Self>,
        node: NodeId,
        class: Class,
        request: &Request<'_>,
    ) -> Result<(), AskError> {
        if let Some(told) = self.with_up(node, |link| link.requester.tell(class, request)) {
            return told.map_err(AskError::from);
        }
        let mut table = self.peers.table.lock();
        match self.want(&mut table, node)? {
            Wanted::Up(link) => link.requester.tell(class, request).map_err(AskError::from),
            Wanted::Wait(_) => self.queue_tell(&mut table, node, class, request),
        }
    }

    fn queue_tell(
        &self,
        table: &mut Table,
        node: NodeId,
        class: Class,
        request: &Request<'_>,
    ) -> Result<(), AskError> {
        let peer = table.peers.entry(node).or_default();
        with_scratch(|out| {
            request.encode(out, 0)?;
            if peer.queued >= self.limits.outbox || peer.queue.len() >= self.limits.in_flight {
                return Err(AskError::Overloaded(format!(
                    "too many messages wait for the link to `{}`",
                    self.name_of(node)
                )));
            }
            peer.queued += out.len();
            peer.queue.push((class, out.clone()));
            Ok(())
        })
    }

    /// Asks a node. What was not sent is sent again; what may have been carried out only if that
    /// does no harm (`idempotent`).
    pub(crate) async fn ask_node<'a>(
        self: &Arc<Self>,
        node: NodeId,
        class: Class,
        within: Duration,
        request: impl Fn(u32) -> Request<'a>,
        idempotent: bool,
    ) -> Result<Answered, AskError> {
        let deadline = Instant::now() + within;
        let mut attempt = 0;
        loop {
            let link = match self.up(node) {
                Some(link) => link,
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.link_to(node, left).await?
                }
            };
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
            let sent = link.requester.ask(class, &request(left), deadline, None);
            drop(link);
            let fault = match sent {
                Ok(answer) => match answer.await {
                    Ok(answered) => return Ok(answered),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            let again = match &fault {
                Fault::NotSent(_) => true,
                Fault::Lost(_) => idempotent,
                Fault::Answered(error) => idempotent && matches!(**error, AskError::Unreachable(_)),
                _ => false,
            };
            attempt += 1;
            let pause = RETRY.delay(attempt - 1, self.random(attempt));
            if !again || attempt >= ATTEMPTS || Instant::now() + pause >= deadline {
                return Err(fault.into());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits between two attempts at an idempotent ask here; `false`: no more attempts.
    pub(crate) async fn retry_pause(&self, attempt: u32, deadline: Instant) -> bool {
        let pause = RETRY.delay(attempt, self.random(attempt));
        if attempt + 1 >= ATTEMPTS || Instant::now() + pause >= deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    /// Keeps one peer connected until it leaves the directory or the fabric closes.
    async fn keep(self: Arc<Self>, node: NodeId) {
        let closing = self.peers.closing.clone();
        let mut attempt = 0;
        let mut last_up: Option<Instant> = None;
        loop {
            enum Step {
                Wait(tokio::sync::futures::OwnedNotified),
                Pause(Duration, Arc<Notify>),
                Dial(SocketAddr, u32, Arc<Notify>),
            }
            let step = {
                let directory = self.directory.load_full();
                let mut table = self.peers.table.lock();
                let peer = table.peers.entry(node).or_default();
                let entry = directory.nodes.get(&node);
                let address = entry
                    .and_then(|entry| entry.address)
                    .filter(|_| !directory.is_denied(&Identity::Node(node)));
                let up = peer.link.clone().filter(|link| link.is_open());
                let (Some(address), false) = (address, closing.is_cancelled()) else {
                    peer.kept = false;
                    peer.phase = Phase::Idle;
                    peer.error = "no address is known".to_owned();
                    peer.drop_queue();
                    peer.changed.notify_waiters();
                    return;
                };
                match up {
                    Some(link) if !peer.redial => {
                        last_up = Some(link.up_since);
                        Step::Wait(peer.changed.clone().notified_owned())
                    }
                    Some(link) => {
                        debug_assert!(peer.next > link.supersedes);
                        peer.dialled = Some(address);
                        Step::Dial(address, peer.next, peer.poke.clone())
                    }
                    None => match last_up.take() {
                        Some(since) if since.elapsed() < LIVED => {
                            attempt += 1;
                            let pause =
                                self.limits.backoff.delay(attempt - 1, self.random(attempt));
                            let error = std::mem::take(&mut peer.error);
                            peer.down(error, Instant::now() + pause);
                            Step::Pause(pause, peer.poke.clone())
                        }
                        since => {
                            if since.is_some() {
                                attempt = 0;
                            }
                            if attempt == 0 {
                                peer.phase = Phase::Connecting;
                            }
                            peer.redial = false;
                            peer.dialled = Some(address);
                            Step::Dial(address, peer.next, peer.poke.clone())
                        }
                    },
                }
            };
            match step {
                Step::Wait(changed) => tokio::select! {
                    () = changed => {}
                    () = closing.cancelled() => {}
                },
                Step::Pause(pause, poke) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = poke.notified() => {}
                    () = closing.cancelled() => {}
                },
                Step::Dial(address, supersedes, poke) => {
                    let Some(net) = self.peers.net.get() else { return };
                    let mut dial = std::pin::pin!(self.dial(net, node, address, supersedes));
                    let moved = || {
                        let directory = self.directory.load();
                        directory.nodes.get(&node).and_then(|entry| entry.address) != Some(address)
                    };
                    // A dial is given up only for another address: the peer may have taken the
                    // connection into use already.
                    let dialled = loop {
                        tokio::select! {
                            dialled = &mut dial => break Some(dialled),
                            () = poke.notified() => if moved() { break None },
                            () = closing.cancelled() => break None,
                        }
                    };
                    let Some(dialled) = dialled else { continue };
                    match dialled {
                        Ok(link) => {
                            last_up = Some(link.up_since);
                            self.register(&link);
                        }
                        Err(error) => {
                            attempt += 1;
                            let pause =
                                self.limits.backoff.delay(attempt - 1, self.random(attempt));
                            tracing::debug!(
                                target: "weft::link", peer = self.name_of(node), %address, %error,
                                retry_ms = pause.as_millis(), "dial failed"
                            );
                            {
                                let mut table = self.peers.table.lock();
                                let peer = table.peers.entry(node).or_default();
                                if peer.link.as_ref().is_none_or(|link| !link.is_open()) {
                                    peer.down(error.to_string(), Instant::now() + pause);
                                }
                            }
                            tokio::select! {
                                () = tokio::time::sleep(pause) => {}
                                () = poke.notified() => {}
                                () = closing.cancelled() => {}
                            }
                        }
                    }
                }
            }
        }
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
                        if let Some(old) = old {
                            old.retire();
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

    /// After a change of the directory: denied ids are cut off, moved peers dialled again.
    pub(crate) fn directory_changed(self: &Arc<Self>) {
        self.check_links();
        let directory = self.directory.load_full();
        let mut table = self.peers.table.lock();
        for (id, peer) in &mut table.peers {
            let Some(address) = directory.nodes.get(id).and_then(|entry| entry.address) else {
                // Its keeper looks, and stops.
                peer.changed.notify_waiters();
                peer.poke.notify_one();
                continue;
            };
            if peer.kept && peer.dialled.is_some_and(|dialled| dialled != address) {
                if peer.link.as_ref().is_some_and(|link| link.dialled) {
                    peer.redial = true;
                }
                peer.changed.notify_waiters();
                peer.poke.notify_one();
            }
        }
    }

    /// Closes every connection whose identity is denied, not trusted any more or expired.
    pub(crate) fn check_links(&self) {
        let directory = self.directory.load_full();
        let wall = self.clock.0.wall();
        let links: Vec<_> = self.peers.table.lock().links.values().cloned().collect();
        for link in links {
            let identity = &link.peer.identity;
            if directory.is_denied(identity) {
                let reason = format!("{identity} was removed from the cluster");
                tracing::warn!(target: "weft::link", peer = %identity, "denied: closed");
                link.close(close::DENIED, &reason);
            } else if link.peer.not_after <= wall {
                link.close(close::EXPIRED, "the certificate of this connection has expired");
            } else if let Some(net) = self.peers.net.get()
                && let Err(error) = net.trust.admit(&link.leaf, wall)
            {
                tracing::warn!(target: "weft::link", peer = %identity, %error, "closed");
                link.close(close::DENIED, &error.to_string());
            }
        }
    }

    /// Looks at the links again and again until the fabric closes.
    pub(crate) async fn watch_links(inner: Weak<Self>, look: Arc<Notify>, end: CancellationToken) {
        let mut trust_seen = None;
        let mut checked: Option<Instant> = None;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(TICK) => false,
                () = look.notified() => true,
                () = end.cancelled() => return,
            };
            let Some(inner) = inner.upgrade() else { return };
            let revision = inner.peers.net.get().map(|net| net.trust.revision());
            let due = checked.is_none_or(|at| at.elapsed() >= Duration::from_secs(1));
            if asked || due || revision != trust_seen {
                trust_seen = revision;
                checked = Some(Instant::now());
                inner.check_links();
            }
            inner.tick();
        }
    }

    fn tick(self: &Arc<Self>) {
        let Some(net) = self.peers.net.get() else { return };
        let own_serial = net.credentials.own().serial;
        let now = Instant::now();
        let mut table = self.peers.table.lock();
        for link in table.links.values() {
            link.listen(now);
            if link.is_spent(now) {
                link.close(close::DUPLICATE, "another connection between the two is used instead");
            }
        }
        for peer in table.peers.values_mut() {
            if let Some(link) = &peer.link
                && link.own_serial != own_serial
                && !peer.redial
            {
                // Our certificate was renewed: a new connection, before the peer must close this.
                peer.redial = true;
                peer.changed.notify_waiters();
                if !peer.kept {
                    peer.kept = true;
                    if let Some(node) = link.hello.node {
                        net.handle.spawn(self.clone().keep(node));
                    }
                }
            }
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

impl Link {
    /// Used for nothing new from now on.
    fn retire(&self) {
        self.retired.lock().get_or_insert_with(Instant::now);
    }

    /// Retired, and nothing is in flight on it in either direction.
    fn is_spent(&self, now: Instant) -> bool {
        let retired = *self.retired.lock();
        retired.is_some_and(|at| now.saturating_duration_since(at) >= RETIRED)
            && self.requester.in_flight() == 0
            && self.serving.now() == 0
            && self.subscriptions.now() == 0
    }

    /// Notes a sign of life.
    fn listen(&self, now: Instant) {
        let datagrams = self.conn.stats().udp_rx.datagrams;
        let mut heard = self.heard.lock();
        if heard.1 != datagrams {
            *heard = (now, datagrams);
        }
    }
}
