//! Keeping links: dialling, backoff, renewal, retirement, signs of life.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_wire::{Identity, NodeId};

use super::Phase;
use crate::error::close;
use crate::fabric::Inner;
use crate::link::Link;

/// A connection that ended sooner counts as a failed dial, so that nobody dials in a hot loop.
const LIVED: Duration = Duration::from_secs(2);
/// A retired connection is closed no sooner: the peer must have seen the other one come up.
const RETIRED: Duration = Duration::from_secs(1);
/// A retired connection on which nothing happens is closed by then also without the peer's word.
const RETIRED_MOST: Duration = Duration::from_secs(60);
/// How often links are looked at (expiry, renewal, retirement, signs of life).
const TICK: Duration = Duration::from_millis(250);

impl Inner {
    /// Keeps one peer connected until it leaves the directory or the fabric closes.
    pub(super) async fn keep(self: Arc<Self>, node: NodeId) {
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
            match link.spent(now) {
                Spent::No => {}
                Spent::Here => link.say_done(&net.handle),
                Spent::Wholly => link
                    .close(close::DUPLICATE, "another connection between the two is used instead"),
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
}

/// How far a retired connection is done with.
enum Spent {
    /// It is in use, or was until just now.
    No,
    /// This side waits for nothing on it.
    Here,
    /// Neither side does.
    Wholly,
}

impl Link {
    /// Used for nothing new from now on.
    pub(super) fn retire(&self) {
        self.retired.lock().get_or_insert_with(Instant::now);
    }

    /// Whether it is retired and done with. That nothing is being answered here does not mean that
    /// the last answer has arrived: only the peer knows that it waits for nothing more.
    fn spent(&self, now: Instant) -> Spent {
        let Some(retired) = *self.retired.lock() else { return Spent::No };
        let since = now.saturating_duration_since(retired);
        if since < RETIRED
            || self.requester.in_flight() != 0
            || self.serving.now() != 0
            || self.subscriptions.now() != 0
        {
            Spent::No
        } else if self.told_done.load(Ordering::Acquire)
            && (self.peer_done.load(Ordering::Acquire) || since >= RETIRED_MOST)
        {
            Spent::Wholly
        } else {
            Spent::Here
        }
    }

    /// Tells the peer, once, that this side waits for nothing more: a one-way stream without a
    /// byte.
    fn say_done(&self, handle: &Handle) {
        if !self.told_done.swap(true, Ordering::AcqRel) {
            let conn = self.conn.clone();
            handle.spawn(async move {
                if let Ok(mut stream) = conn.open_uni().await {
                    let _ = stream.finish();
                }
            });
        }
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
