//! One decision: the reasons to move, looked at one after another.
//!
//! Those that free room come first, so that what they free is there for the rest and a second
//! call after the first finds nothing new.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_protocol::{Handover, ReplicaKey};
use weft_wire::NodeId;

use super::table::{Key, Table};
use super::{
    Decision, Input, Liveness, Move, MoveKind, Previous, ReplicaState, WaitKind, Waiting,
    rebalance, words,
};

/// The smallest set of changes that puts right what is wrong, and says why the rest waits.
///
/// Deterministic, whatever the order of the input; reads no clock. Terminates: carried out again
/// and again with every moved replica healthy, it comes to rest.
pub fn decide(input: &Input<'_>) -> Decision {
    let mut decision = Decision::default();
    let (table, orphans) = Table::new(input, &mut decision.problems);
    for orphan in orphans {
        decision.moves.push(Move {
            service: orphan.service.clone(),
            replica: orphan.replica,
            from: Some(orphan.node),
            to: None,
            previous: None,
            kind: MoveKind::Removed,
            reason: format!("there is no service {}", orphan.service),
        });
    }
    let mut draft = Draft { table, decision, touched: BTreeSet::new() };
    draft.remove();
    draft.settle();
    draft.go_back();
    draft.pin();
    draft.rescue();
    draft.place();
    draft.drain();
    rebalance::rebalance(&mut draft);
    let mut decision = draft.decision;
    decision.moves.sort_by(|a, b| (&a.service, a.replica).cmp(&(&b.service, b.replica)));
    decision.waiting.sort_by(|a, b| (&a.service, a.replica).cmp(&(&b.service, b.replica)));
    decision.settled.sort();
    decision
}

/// A decision being made; the table shows the world as if its moves were carried out.
pub(super) struct Draft<'a> {
    pub(super) table: Table<'a>,
    pub(super) decision: Decision,
    /// Replicas that are dealt with.
    touched: BTreeSet<Key>,
}

impl Draft<'_> {
    /// Gives up the places of replicas that are no longer wanted: the highest numbers go.
    fn remove(&mut self) {
        for key in self.table.keys() {
            let svc = self.table.svc(key.0);
            if key.1 >= 1 && key.1 <= svc.wanted {
                continue;
            }
            let reason = if svc.record.undeployed {
                "undeployed".to_owned()
            } else {
                format!("{} replicas are wanted", svc.wanted)
            };
            self.free(key, MoveKind::Removed, reason);
        }
    }

    /// Ends moves: forgets where replicas were that are healthy where they are, or whose old copy
    /// has stopped where that has to come first.
    fn settle(&mut self) {
        for key in self.table.keys() {
            let Some(slot) = self.table.slots.get(&key).copied() else { continue };
            let Some(previous) = slot.previous else { continue };
            let service = self.table.svc(key.0).name().to_owned();
            let over = match self.table.index(previous.node) {
                None => true,
                Some(from) if self.table.stops_first(key) => {
                    // What keeps no data is not waited for on a node that is gone.
                    self.table.state(key, previous.node) == ReplicaState::Stopped
                        || !self.table.svc(key.0).keeps_data
                            && matches!(
                                self.table.node(from).liveness,
                                Liveness::Lost { .. } | Liveness::Left
                            )
                }
                Some(_) => self.table.good(key),
            };
            if over {
                self.table.put(key, slot.id, None);
                self.decision.settled.push(ReplicaKey { service, replica: key.1 });
            } else if !previous.lost {
                let (from, to) = (self.table.call(previous.node), self.table.call(slot.id));
                let reason = if self.table.stops_first(key) {
                    format!(
                        "moves from {from} to {to}: starts there when its copy on {from} has stopped"
                    )
                } else {
                    let new = words::state(self.table.state(key, slot.id));
                    format!(
                        "moves from {from} to {to}: the new copy {new}, the old one runs until it is healthy"
                    )
                };
                let (node, kind, replica) = (Some(slot.id), WaitKind::Handover, key.1);
                self.decision.waiting.push(Waiting { service, replica, node, kind, reason });
            }
        }
    }

    /// Cancels replacements whose lost node is back, with its copy, before they are healthy. A
    /// fenced replica is not given back: its copy on the lost node ended with its lease.
    fn go_back(&mut self) {
        for key in self.table.keys() {
            let Some(slot) = self.table.slots.get(&key).copied() else { continue };
            let Some(previous) = slot.previous.filter(|previous| previous.lost) else { continue };
            let Some(at) = self.table.index(previous.node) else { continue };
            let (svc, node) = (self.table.svc(key.0), self.table.node(at));
            if svc.fenced || svc.keeps_data || node.liveness != Liveness::Ready || node.draining {
                continue;
            }
            // An unreported replacement on a living node is unknown, not missing: it may be
            // healthy. Only what is known not to be is cancelled.
            let alive = slot.at.is_some_and(|at| self.table.node(at).liveness == Liveness::Ready);
            if alive && self.table.state(key, slot.id) == ReplicaState::Unknown {
                continue;
            }
            // Nor is it cancelled for a copy that ended meanwhile, with its machine for instance:
            // both would have to start then.
            let there = matches!(
                self.table.state(key, previous.node),
                ReplicaState::Healthy | ReplicaState::Running | ReplicaState::Starting
            );
            if alive && !there {
                continue;
            }
            let reason = format!(
                "{} is back before the replacement on {} was healthy",
                node.name,
                self.table.call(slot.id)
            );
            self.change(key, at, MoveKind::Returned, reason);
        }
    }

    /// Moves what the definition pins elsewhere.
    fn pin(&mut self) {
        for key in self.untouched() {
            let Some(slot) = self.table.slots.get(&key).copied() else { continue };
            let Some(pin) = self.table.svc(key.0).pin().map(str::to_owned) else { continue };
            if slot.at.is_none() || slot.at == self.table.find(&pin) {
                continue;
            }
            let from = self.table.call(slot.id);
            match self.table.choose(key) {
                Ok((at, _)) => {
                    let to = &self.table.node(at).name;
                    let reason = format!("its definition names {to} instead of {from}");
                    self.relocate(key, at, MoveKind::Pinned, reason);
                }
                Err(why) => {
                    self.wait(
                        key,
                        Some(slot.id),
                        WaitKind::Node,
                        format!("stays on {from}: {why}"),
                    );
                }
            }
        }
    }

    /// Moves what was on nodes that are lost, have left or were removed.
    fn rescue(&mut self) {
        for key in self.untouched() {
            let Some(slot) = self.table.slots.get(&key).copied() else { continue };
            let svc = self.table.svc(key.0);
            let Some(at) = slot.at else {
                // An explicit `node` is somebody's decision; nobody else replaces data.
                if svc.has_volumes && svc.pin().and_then(|pin| self.table.find(pin)).is_none() {
                    let name = &svc.record.name;
                    let place = self.table.input.places.iter().find(|place| {
                        (&place.service, place.replica) == (name, key.1) && !place.reason.is_empty()
                    });
                    let was = place.map_or("its node was removed", |place| place.reason.as_str());
                    let reason = format!(
                        "{was}: `weft undeploy {name}` and deploying it again starts it without data, and so does naming a `node` in its definition"
                    );
                    self.wait(key, None, WaitKind::Node, reason);
                    continue;
                }
                match self.table.choose(key) {
                    Ok((to, edge)) if self.table.lease_left(key, self.table.node(to).id) == 0 => {
                        let to_name = &self.table.node(to).name;
                        let reason = format!("its node was removed: now on {to_name} ({edge})");
                        self.change(key, to, MoveKind::NodeGone, reason);
                    }
                    // Its place means nothing any more; `place` says what it waits for.
                    _ => {
                        let reason = "its node was removed".to_owned();
                        self.free(key, MoveKind::NodeGone, reason);
                        self.touched.remove(&key);
                    }
                }
                continue;
            };
            let node = self.table.node(at);
            let name = node.name.clone();
            let (kind, lost_for) = match node.liveness {
                Liveness::Lost { for_ms } => (MoveKind::NodeLost, for_ms),
                Liveness::Left => (MoveKind::NodeGone, u64::MAX),
                _ => continue,
            };
            if svc.keeps_data {
                let reason = if kind == MoveKind::NodeGone {
                    format!("waiting for {name}, which has left")
                } else {
                    format!("waiting for {name}")
                };
                self.wait(key, Some(slot.id), WaitKind::Node, reason);
                continue;
            }
            let own = svc.record.spec.failover.reschedule_after.map(millis);
            let after = own.unwrap_or(self.table.input.settings.reschedule_after_ms);
            let left = after.saturating_sub(lost_for);
            if left > 0 {
                let reason = format!("{name} is lost: moves in {}", words::wait(left));
                self.wait(key, Some(slot.id), WaitKind::Grace, reason);
                self.ask_in(left);
                continue;
            }
            match self.table.choose(key) {
                Ok((to, edge)) => {
                    let was = if kind == MoveKind::NodeLost { "was lost" } else { "has left" };
                    let to_name = &self.table.node(to).name;
                    let reason = format!("{name} {was}: now on {to_name} ({edge})");
                    self.relocate(key, to, kind, reason);
                }
                Err(why) => {
                    let reason = format!("waiting for {name} or another node: {why}");
                    self.wait(key, Some(slot.id), WaitKind::Room, reason);
                }
            }
        }
    }

    /// Places what has no place.
    fn place(&mut self) {
        for svc in 0..self.table.svcs.len() {
            for replica in 1..=self.table.svc(svc).wanted {
                let key = (svc, replica);
                if self.touched.contains(&key) || self.table.slots.contains_key(&key) {
                    continue;
                }
                match self.table.choose(key) {
                    Ok((at, edge)) => {
                        let node = self.table.node(at);
                        let left = self.table.lease_left(key, node.id);
                        if left > 0 {
                            self.wait_for_lease(key, left);
                            continue;
                        }
                        let reason = format!("placed on {} ({edge})", node.name);
                        self.change(key, at, MoveKind::Placed, reason);
                    }
                    Err(why) => {
                        let pin = self.table.svc(svc).pin();
                        let pinned = pin.and_then(|pin| self.table.find(pin));
                        let kind = if pin.is_some() { WaitKind::Node } else { WaitKind::Room };
                        let node = pinned.map(|at| self.table.node(at).id);
                        self.wait(key, node, kind, why);
                    }
                }
            }
        }
    }

    /// Moves work off draining nodes, one replica of a service at a time.
    fn drain(&mut self) {
        for svc in 0..self.table.svcs.len() {
            let here: Vec<(u32, NodeId, String)> = self
                .table
                .slots_of(svc)
                .filter_map(|(replica, slot)| {
                    let node = self.table.node(slot.at?);
                    let leaves = node.draining && node.liveness == Liveness::Ready;
                    leaves.then(|| (replica, node.id, node.name.clone()))
                })
                .collect();
            if here.is_empty() {
                continue;
            }
            let mut moving = self.in_motion(svc);
            for (replica, id, name) in here {
                let key = (svc, replica);
                if self.touched.contains(&key) {
                    continue;
                }
                if self.table.svc(svc).keeps_data {
                    let why = match self.table.svc(svc).pin() {
                        Some(_) => "its definition names it",
                        None => "its data is there",
                    };
                    let reason = format!("stays on {name}: {why}");
                    self.wait(key, Some(id), WaitKind::Stays, reason);
                    continue;
                }
                if let Some(other) = &moving {
                    let reason = format!("leaves {name} when {other} is healthy");
                    self.wait(key, Some(id), WaitKind::Turn, reason);
                    continue;
                }
                match self.table.choose(key) {
                    Ok((at, edge)) => {
                        let to = &self.table.node(at).name;
                        let reason = format!("{name} is draining: now on {to} ({edge})");
                        self.relocate(key, at, MoveKind::Drained, reason);
                        moving = Some(format!("{}/{replica}", self.table.svc(svc).name()));
                    }
                    Err(why) => {
                        let reason = format!("stays on {name}: {why}");
                        self.wait(key, Some(id), WaitKind::Room, reason);
                    }
                }
            }
        }
    }

    /// A replica of the service that has moved and is not yet healthy.
    fn in_motion(&self, svc: usize) -> Option<String> {
        let service = self.table.svc(svc);
        let moved = self.table.slots_of(svc).find(|(_, slot)| slot.previous.is_some());
        let moved = moved.map(|(replica, _)| replica).or_else(|| {
            // A fenced replica moves by way of having no place, and then has no previous one.
            let fenced = (1..=service.wanted).filter(|_| service.fenced);
            fenced.into_iter().find(|replica| match self.table.slots.get(&(svc, *replica)) {
                None => true,
                Some(slot) => {
                    !self.table.good((svc, *replica))
                        && slot.at.is_some_and(|at| !self.table.node(at).draining)
                }
            })
        });
        moved.map(|replica| format!("{}/{replica}", service.name()))
    }

    fn untouched(&self) -> Vec<Key> {
        self.table.keys().into_iter().filter(|key| !self.touched.contains(key)).collect()
    }

    /// Moves a replica, unless it is fenced and its copy may still run: then that has to stop.
    pub(super) fn relocate(&mut self, key: Key, to: usize, kind: MoveKind, reason: String) {
        let Some(slot) = self.table.slots.get(&key).copied() else { return };
        if self.table.svc(key.0).fenced {
            let gone = slot.at.is_none_or(|at| {
                matches!(self.table.node(at).liveness, Liveness::Lost { .. } | Liveness::Left)
            });
            let left = self.table.lease_left(key, self.table.node(to).id);
            if gone && left > 0 {
                return self.wait_for_lease(key, left);
            }
            if !gone && self.table.state(key, slot.id) != ReplicaState::Stopped {
                let from = self.table.call(slot.id);
                return self.free(key, kind, format!("stops on {from} before it moves: {reason}"));
            }
        }
        self.change(key, to, kind, reason);
    }

    fn change(&mut self, key: Key, to: usize, kind: MoveKind, reason: String) {
        let to = self.table.node(to).id;
        let slot = self.table.slots.get(&key).copied();
        let lost = kind == MoveKind::NodeLost;
        let previous = match slot {
            // The copy that ran longest is the one that may come back, or that still runs.
            Some(slot)
                if slot.previous.is_some_and(|previous| {
                    previous.node != to && (lost && previous.lost || self.keeps_on(key, previous))
                }) =>
            {
                slot.previous
            }
            Some(slot) => Some(Previous { node: slot.id, lost }),
            // Whatever ran before has stopped, or its lease has surely ended.
            None => None,
        };
        // Who returns keeps what it has: it is not to wait for the cancelled replacement's end.
        let waits = |p: &Previous| {
            kind == MoveKind::Returned && self.table.order(key.0, p.node, to) == Handover::StopFirst
        };
        let previous = previous
            .filter(|p| p.node != to && self.table.index(p.node).is_some())
            .filter(|p| !waits(p));
        self.table.put(key, to, previous);
        self.push(key, slot.map(|slot| slot.id), Some(to), previous, kind, reason);
    }

    /// Whether the copy that a planned move left behind is the one to rely on: its node answers.
    fn keeps_on(&self, key: Key, previous: Previous) -> bool {
        let ready = |at| self.table.node(at).liveness == Liveness::Ready;
        !previous.lost
            && !self.table.stops_first(key)
            && self.table.index(previous.node).is_some_and(ready)
    }

    fn free(&mut self, key: Key, kind: MoveKind, reason: String) {
        let Some(slot) = self.table.slots.get(&key).copied() else { return };
        self.table.take(key);
        self.push(key, Some(slot.id), None, None, kind, reason);
    }

    fn push(
        &mut self,
        key: Key,
        from: Option<NodeId>,
        to: Option<NodeId>,
        previous: Option<Previous>,
        kind: MoveKind,
        reason: String,
    ) {
        self.touched.insert(key);
        let service = self.table.svc(key.0).name().to_owned();
        let replica = key.1;
        let same = |w: &Waiting| w.service == service && w.replica == replica;
        self.decision.waiting.retain(|wait| wait.kind != WaitKind::Handover || !same(wait));
        self.decision.moves.push(Move { service, replica, from, to, previous, kind, reason });
    }

    fn wait_for_lease(&mut self, key: Key, left: u64) {
        let holder = self.table.slots.get(&key).map(|slot| slot.id);
        let holder = holder.or_else(|| self.table.leases_of(key).map(|lease| lease.node).min());
        let whose = holder.map_or_else(
            || "that an earlier leader may have granted".to_owned(),
            |id| format!("of its copy on {}", self.table.call(id)),
        );
        let reason = format!("waiting for the end of the lease {whose}: {}", words::wait(left));
        self.wait(key, holder, WaitKind::Lease, reason);
        self.ask_in(left);
    }

    fn wait(&mut self, key: Key, node: Option<NodeId>, kind: WaitKind, reason: String) {
        self.touched.insert(key);
        let service = self.table.svc(key.0).name().to_owned();
        let same = |w: &Waiting| w.service == service && w.replica == key.1;
        self.decision.waiting.retain(|wait| wait.kind != WaitKind::Handover || !same(wait));
        self.decision.waiting.push(Waiting { service, replica: key.1, node, kind, reason });
    }

    pub(super) fn ask_in(&mut self, ms: u64) {
        let sooner = self.decision.ask_again_ms.map_or(ms, |other| other.min(ms));
        self.decision.ask_again_ms = Some(sooner);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
