//! Leases as the node that leads knows them (design §6, fencing). Pure.
//!
//! Why no two nodes ever hold a lease of one replica at once, although a leader keeps what it
//! granted in memory only:
//!
//! - A node counts its lease from when it *sent* its request; the leader counts from when it *had*
//!   it, and a tenth longer. So the leader's idea never ends before the node's.
//! - One leader: a lease is granted only when that of every other node is over or given back.
//! - A leader that was replaced: it grants only after a majority of voters has confirmed, after
//!   the request came, that it still leads. One of them votes for the next leader, later. So every
//!   lease of the old leader was asked for before the next one began to lead, and is over
//!   [`LEASE_HELD`] after that. Until then the next one places nothing anew and grants only to who
//!   had a lease for the very placement that still holds: its generation is of no other place, so
//!   nobody else can have been granted one since.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_protocol::{LEASE_HELD, LeaseAnswer, LeaseClaim, RenewLeases, ReplicaKey};
use weft_wire::NodeId;

use crate::placement::Lease;

/// Where agreed state has a fenced replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    /// On that node, by the placement of that generation.
    On(NodeId, u64),
    /// Nowhere: it has to stop, or waits for a place.
    Nowhere,
    /// Its service runs without leases.
    Free,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    node: NodeId,
    /// When the leader had the request for it.
    asked: Instant,
    round: u64,
}

impl Held {
    fn left(&self, now: Instant) -> Duration {
        (self.asked + LEASE_HELD).saturating_duration_since(now)
    }
}

/// Times of a request, by the clock of the node that leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    /// It came; a majority has confirmed the lead since.
    pub(crate) asked: Instant,
    /// It is looked at.
    pub(crate) now: Instant,
    /// The lead began.
    pub(crate) led_since: Instant,
}

/// What the node that leads has granted. Begun anew with every lead.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leases {
    held: BTreeMap<ReplicaKey, Held>,
}

/// What a renewal did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// One for each claim.
    pub(crate) answers: Vec<LeaseAnswer>,
    /// A lease was given back: somebody may be waiting for that.
    pub(crate) released: bool,
}

impl Leases {
    /// Takes a request. `seat` reads agreed state as of after the confirmation of the lead.
    pub(crate) fn renew(
        &mut self,
        node: NodeId,
        request: &RenewLeases,
        when: When,
        mut seat: impl FnMut(&ReplicaKey) -> Seat,
        mut name: impl FnMut(NodeId) -> String,
    ) -> Renewed {
        let When { asked, now, led_since } = when;
        self.held.retain(|_, held| !held.left(now).is_zero());
        let mut done = Renewed::default();
        for replica in &request.stopped {
            // Not by a request that was overtaken by a later one.
            let theirs = |held: &Held| held.node == node && held.round < request.round;
            if self.held.get(replica).is_some_and(theirs) {
                self.held.remove(replica);
                done.released = true;
            }
        }
        for claim in &request.claims {
            let refused = self
                .refuse(node, claim, now, led_since, seat(&claim.replica), &mut name)
                .map(|why| why.chars().take(200).collect());
            if refused.is_none() {
                let held = Held { node, asked, round: request.round };
                let slot = self.held.entry(claim.replica.clone()).or_insert(held);
                if slot.node != node {
                    // Its lease is over: looked at above.
                    *slot = Held { node, asked, round: request.round };
                }
                slot.asked = slot.asked.max(asked);
                slot.round = slot.round.max(request.round);
            }
            done.answers.push(LeaseAnswer { replica: claim.replica.clone(), refused });
        }
        done
    }

    fn refuse(
        &self,
        node: NodeId,
        claim: &LeaseClaim,
        now: Instant,
        led_since: Instant,
        seat: Seat,
        name: &mut impl FnMut(NodeId) -> String,
    ) -> Option<String> {
        let held = self.held.get(&claim.replica);
        match seat {
            Seat::Free => return Some("its service runs without leases now".to_owned()),
            // What has to stop may do so within its grace: nobody else gets it before.
            Seat::Nowhere if held.is_some_and(|held| held.node == node) => return None,
            Seat::Nowhere => return Some("it is placed nowhere".to_owned()),
            Seat::On(other, _) if other != node => {
                return Some(format!("it is placed on {}", name(other)));
            }
            Seat::On(_, generation) if generation != claim.generation => {
                return Some("it was placed anew, which this node has not heard yet".to_owned());
            }
            Seat::On(..) => {}
        }
        if let Some(held) = held.filter(|held| held.node != node) {
            let (whose, left) = (name(held.node), words(held.left(now)));
            return Some(format!("its copy on {whose} may run for another {left}"));
        }
        let ours = claim.had || held.is_some();
        let left = (led_since + LEASE_HELD).saturating_duration_since(now);
        (!ours && !left.is_zero()).then(|| {
            let left = words(left);
            format!("a copy that an earlier leader allowed may run for another {left}")
        })
    }

    /// Those that may still be held, for the placer.
    pub(crate) fn list(&self, now: Instant) -> Vec<Lease> {
        self.held
            .iter()
            .filter(|(_, held)| !held.left(now).is_zero())
            .map(|(key, held)| Lease {
                service: key.service.clone(),
                replica: key.replica,
                node: held.node,
                renewed_ms_ago: millis(now.saturating_duration_since(held.asked)),
            })
            .collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn words(left: Duration) -> String {
    format!("{}.{} s", left.as_secs(), left.subsec_millis() / 100)
}

#[cfg(test)]
mod tests;
