//! Sending to a peer: over its link if that is up, else over the one that is being made.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use weft_wire::{AskError, Class, Identity, NodeId};

use super::{Phase, Table};
use crate::fabric::Inner;
use crate::link::Link;
use crate::outbox::with_scratch;
use crate::requester::{Answered, Fault, Request};

/// Delays between attempts at an idempotent ask whose actor or connection went away.
const RETRY: weft_wire::Backoff = weft_wire::Backoff {
    base: Duration::from_millis(20),
    max: Duration::from_millis(800),
    jitter: 0.3,
};
/// An idempotent ask is sent at most this many times.
const ATTEMPTS: u32 = 7;

enum Wanted {
    Up(Arc<Link>),
    Wait(Arc<Notify>),
}

impl Inner {
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
}
