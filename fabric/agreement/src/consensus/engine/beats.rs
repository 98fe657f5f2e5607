//! Heartbeats of all groups to one peer, put together: one message instead of one for each group.
//!
//! A heartbeat that says nothing new waits up to a quarter of the interval for others; one with
//! news of what is committed goes at once and takes along what waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use weft_link::{Call, Fabric};
use weft_wire::{ActorKind, Address, AskError, NodeId};

use crate::consensus::wire::{Append, AppendAnswer, Beats};

/// Heartbeats in one message, at most.
const TOGETHER: usize = 256;
/// Heartbeats to one peer that may wait; more than groups are ever led.
const WAITING: usize = 4096;

type Answer = Result<AppendAnswer, AskError>;

struct Waiting {
    beat: Append,
    at_once: bool,
    within: Duration,
    answer: oneshot::Sender<Answer>,
}

/// The heartbeats of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Heart {
    fabric: Fabric,
    patience: Duration,
    peers: Arc<Mutex<HashMap<NodeId, mpsc::Sender<Waiting>>>>,
    groups: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl Heart {
    /// `interval`: between two heartbeats of a group.
    pub(crate) fn new(fabric: Fabric, interval: Duration) -> Self {
        let (peers, groups, sent) = Default::default();
        Self { fabric, patience: interval / 4, peers, groups, sent }
    }

    /// One more group, or one less, has its heartbeats here.
    pub(crate) fn count(&self, more: bool) {
        match more {
            true => self.groups.fetch_add(1, Ordering::Relaxed),
            false => self.groups.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Whether there is anything to put together.
    pub(crate) fn worth_it(&self) -> bool {
        self.groups.load(Ordering::Relaxed) > 1
    }

    /// Messages sent so far.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends an append without entries.
    pub(crate) async fn beat(
        &self,
        peer: NodeId,
        beat: Append,
        at_once: bool,
        within: Duration,
    ) -> Answer {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { beat, at_once, within, answer };
        let full = || AskError::Overloaded("heartbeats".into());
        self.way(peer).try_send(waiting).map_err(|_| full())?;
        answered.await.unwrap_or_else(|_| Err(full()))
    }

    fn way(&self, peer: NodeId) -> mpsc::Sender<Waiting> {
        let mut peers = self.peers.lock();
        if let Some(way) = peers.get(&peer).filter(|way| !way.is_closed()) {
            return way.clone();
        }
        let (way, waiting) = mpsc::channel(WAITING);
        tokio::spawn(gather(self.fabric.clone(), self.sent.clone(), self.patience, peer, waiting));
        peers.insert(peer, way.clone());
        way
    }
}

/// Ends with the last [`Heart`].
async fn gather(
    fabric: Fabric,
    sent: Arc<AtomicUsize>,
    patience: Duration,
    peer: NodeId,
    mut queue: mpsc::Receiver<Waiting>,
) {
    while let Some(first) = queue.recv().await {
        let mut hurry = first.at_once;
        let mut together = vec![first];
        let patience = tokio::time::sleep(patience);
        tokio::pin!(patience);
        while together.len() < TOGETHER {
            let next = match hurry {
                true => queue.try_recv().ok(),
                false => tokio::select! {
                    biased;
                    next = queue.recv() => next,
                    () = &mut patience => None,
                },
            };
            let Some(next) = next else { break };
            hurry |= next.at_once;
            together.push(next);
        }
        // openraft may have given one up meanwhile.
        together.retain(|waiting| !waiting.answer.is_closed());
        if together.is_empty() {
            continue;
        }
        sent.fetch_add(1, Ordering::Relaxed);
        // A peer that is silent holds up nothing but these.
        tokio::spawn(send(fabric.clone(), peer, together));
    }
}

async fn send(fabric: Fabric, peer: NodeId, together: Vec<Waiting>) {
    let within = together.iter().map(|waiting| waiting.within).max().unwrap_or_default();
    let (beats, answers): (Vec<_>, Vec<_>) =
        together.into_iter().map(|waiting| (waiting.beat, waiting.answer)).unzip();
    let to = Address::on(ActorKind::Agreement, peer);
    match fabric.ask(to, Beats { beats }, Call::within(within)).await {
        Ok(told) => {
            let none = || AskError::Unreachable("the group is not open there".into());
            let told = told.into_iter().map(Some).chain(std::iter::repeat(None));
            for (answer, told) in answers.into_iter().zip(told) {
                let _ = answer.send(told.flatten().ok_or_else(none));
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
