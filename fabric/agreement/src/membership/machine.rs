//! Membership as a pure machine: time and what arrived go in, what is to be done comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use weft_wire::NodeId;

use super::peer::{HostAnswer, Peer};
use super::swim::{Out, Swim};
use super::times::Times;
use super::wire::{Gossip, Health, Leave, Life, Suspicion};
use super::{Liveness, Member, Members};

/// No more nodes that are not members are announced to at once; the others are next.
const ANNOUNCED_AT_ONCE: usize = 8;

/// What happened. Senders are as the link authenticated them.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// Time passed.
    Tick,
    /// These nodes are in the cluster.
    Known(Vec<NodeId>),
    Gossip(NodeId, Gossip),
    Suspicion(NodeId, Suspicion),
    Leave(NodeId, Leave),
    /// What a probe of its host brought.
    Host(NodeId, HostAnswer),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Tell it to its `to.node`.
    Gossip(Gossip),
    /// Tell it to its `life.node`.
    Suspicion(Suspicion),
    /// Probe the host of that node.
    ProbeHost(NodeId),
    /// Somebody's liveness changed: [`Machine::members`] is new.
    Changed,
}

/// All of membership but sockets and clocks.
pub(crate) struct Machine {
    swim: Swim,
    times: Times,
    started: Instant,
    peers: BTreeMap<NodeId, Peer>,
    announce_at: Instant,
    /// The node after which the next announcements begin.
    announced: Option<NodeId>,
    repeat_at: Instant,
    members: Arc<Members>,
}

impl Machine {
    pub(crate) fn new(own: Life, times: Times, seed: u64, now: Instant) -> Self {
        let mut machine = Self {
            swim: Swim::new(own, times, seed),
            times,
            started: now,
            peers: BTreeMap::new(),
            announce_at: now,
            announced: None,
            repeat_at: now,
            members: Arc::default(),
        };
        machine.publish();
        machine
    }

    pub(crate) fn members(&self) -> Arc<Members> {
        self.members.clone()
    }

    /// This node's present life.
    #[cfg(test)]
    pub(crate) fn own(&self) -> Life {
        self.swim.own()
    }

    /// When [`Input::Tick`] is due.
    pub(crate) fn next(&self) -> Instant {
        let times = [Some(self.announce_at), self.swim.next()];
        let repeat = self.swim.suspicions().next().map(|_| self.repeat_at);
        let peers = self.peers.values().filter_map(|peer| peer.due(&self.times));
        times.into_iter().flatten().chain(repeat).chain(peers).min().unwrap_or(self.announce_at)
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        let mut out = Out::default();
        match input {
            Input::Tick => {}
            Input::Known(nodes) => self.know(now, nodes, &mut out),
            Input::Gossip(from, gossip) => self.gossip(now, from, gossip, &mut out),
            Input::Suspicion(from, suspicion) => {
                if self.peers.contains_key(&from) {
                    self.swim.refute(now, from, &suspicion, &mut out);
                }
            }
            Input::Leave(from, leave) => self.leave(now, from, leave, &mut out),
            Input::Host(node, answer) => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.host(now, answer);
                }
            }
        }
        self.swim.tick(now, &mut out);
        if now >= self.announce_at {
            self.announce_at = now + self.times.announce;
            self.announce(now, &mut out);
        }
        if now >= self.repeat_at {
            self.repeat_at = now + self.times.probe_period;
            out.suspicions.extend(self.swim.suspicions());
        }
        for opinion in self.swim.opinions() {
            if let Some(peer) = self.peers.get_mut(&opinion.life.node) {
                peer.judge(now, &opinion);
            }
        }
        let mut effects = Vec::new();
        for (node, peer) in &mut self.peers {
            if peer.advance(now, &self.times) {
                effects.push(Effect::ProbeHost(*node));
            }
        }
        let known = |node: &NodeId| self.peers.contains_key(node);
        effects.extend(out.gossip.into_iter().filter(|g| known(&g.to.node)).map(Effect::Gossip));
        let mut told = BTreeSet::new();
        let once = |s: &Suspicion| known(&s.life.node) && told.insert(s.life.node);
        effects.extend(out.suspicions.into_iter().filter(once).map(Effect::Suspicion));
        if self.publish() {
            effects.push(Effect::Changed);
        }
        effects
    }

    fn know(&mut self, now: Instant, nodes: Vec<NodeId>, out: &mut Out) {
        let own = self.swim.own().node;
        let nodes: BTreeSet<_> = nodes.into_iter().filter(|node| *node != own).collect();
        let gone: Vec<_> =
            self.peers.keys().filter(|node| !nodes.contains(node)).copied().collect();
        for node in gone {
            self.peers.remove(&node);
            self.swim.forget(now, node, out);
        }
        for node in nodes {
            self.peers.entry(node).or_insert_with(|| {
                self.announce_at = now;
                Peer::new(now, &self.times)
            });
        }
    }

    fn gossip(&mut self, now: Instant, from: NodeId, mut gossip: Gossip, out: &mut Out) {
        let own = self.swim.own().node;
        let known = |life: &Life| self.peers.contains_key(&life.node);
        // A node speaks for itself only, and of none that is not in the cluster.
        if gossip.from.node != from || gossip.to.node != own || !known(&gossip.from) {
            return;
        }
        gossip.opinions.retain(|opinion| opinion.life.node == own || known(&opinion.life));
        self.swim.receive(now, gossip, out);
    }

    fn leave(&mut self, now: Instant, from: NodeId, leave: Leave, out: &mut Out) {
        let known = self.swim.opinions().find(|opinion| opinion.life.node == from);
        // An older life's word, overtaken by its successor.
        if known.is_some_and(|opinion| opinion.life.incarnation > leave.incarnation) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.leave(leave.incarnation, leave.back_in().map(|back_in| now + back_in));
        let life = Life { node: from, incarnation: leave.incarnation };
        self.swim.end(now, life, true, out);
    }

    /// Announces this node to known nodes that are no members, some at a time.
    fn announce(&mut self, now: Instant, out: &mut Out) {
        let active: BTreeSet<_> = self
            .swim
            .opinions()
            .filter(|opinion| opinion.health != Health::Dead)
            .map(|opinion| opinion.life.node)
            .collect();
        let missing: Vec<_> = self
            .peers
            .iter()
            .filter(|(node, peer)| !active.contains(node) && !peer.has_left())
            .map(|(node, _)| *node)
            .collect();
        let start = missing.iter().position(|node| Some(*node) > self.announced).unwrap_or(0);
        let turn = missing.iter().cycle().skip(start).take(missing.len().min(ANNOUNCED_AT_ONCE));
        for node in turn {
            self.swim.announce(now, *node, out);
            self.announced = Some(*node);
        }
    }

    /// Builds the list anew if it changed; whether it did.
    fn publish(&mut self) -> bool {
        let own = self.swim.own();
        let own = Member {
            id: own.node,
            liveness: Liveness::Alive,
            since: self.started,
            incarnation: own.incarnation,
            back_by: None,
        };
        let others = self.peers.iter().map(|(id, peer)| {
            let (liveness, since, incarnation) = peer.shown();
            Member { id: *id, liveness, since, incarnation, back_by: peer.back_by() }
        });
        let all = || std::iter::once(own.clone()).chain(others.clone());
        let same = all().count() == self.members.len()
            && all().all(|member| self.members.get(member.id) == Some(&member));
        if !same {
            self.members = Arc::new(all().collect());
        }
        !same
    }
}

#[cfg(test)]
mod tests;
