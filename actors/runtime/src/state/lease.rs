//! Leases of this node's fenced replicas as a pure state machine: what to ask for and when, and
//! until when each may run. Times are milliseconds of this boot's `CLOCK_BOOTTIME`, which counts
//! time in suspend.
//!
//! A lease ends [`LEASE`] after its request was *sent*. It is given back only when nothing of the
//! replica runs and nothing can be started: an answer to a request sent before that counts no more.

use std::collections::{BTreeMap, BTreeSet};

use weft_protocol::{ComponentKey, LEASE, LeaseAnswer, LeaseClaim, RenewLeases, ReplicaKey};
use weft_wire::NodeId;

/// Between requests while all is well. Short enough that an election, which takes a little over
/// 2 s, ends before a lease that was renewed so long before the leader died.
pub(crate) const RENEW_EVERY: u64 = 400;
/// Between requests while a lease is lacking or the last request failed.
pub(crate) const RETRY_EVERY: u64 = 150;
/// Requests that may be on their way at once: one that is slow does not hold up the next.
const IN_FLIGHT: usize = 5;

/// What is known of a fenced replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    /// Wanted to run, by the placement of this generation.
    wanted: Option<u64>,
    /// A lease for this generation was held once.
    had: Option<u64>,
    /// Until then it may run; 0: it may not.
    until: u64,
    /// Given back in that round, and until when the leader may take it for held.
    given_back: Option<(u64, u64)>,
    /// Why the last claim was refused.
    why: String,
    /// It was claimed since it is wanted.
    claimed: bool,
}

/// Whether a replica may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lease {
    /// Until then.
    Until(u64),
    /// Not now; why, for people.
    Waits(String),
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// When: what is granted counts from here.
    pub(crate) sent: u64,
    pub(crate) message: RenewLeases,
}

/// The machine; one per process, whatever becomes of its actors.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: BTreeMap<ReplicaKey, Entry>,
    /// Components that may have a process, or are about to.
    busy: BTreeMap<ReplicaKey, BTreeSet<String>>,
    round: u64,
    sent: Option<u64>,
    /// Whom the newest request was sent to.
    asked: Option<NodeId>,
    failed: bool,
    /// Requests without an answer yet, and whom they were sent to.
    in_flight: BTreeMap<u64, Option<NodeId>>,
}

fn replica_of(key: &ComponentKey) -> ReplicaKey {
    ReplicaKey { service: key.service.clone(), replica: key.replica }
}

impl Book {
    /// All fenced replicas that are to run here, with their generations.
    pub(crate) fn want(&mut self, wanted: &BTreeMap<ReplicaKey, u64>) {
        for (replica, entry) in &mut self.entries {
            if !wanted.contains_key(replica) {
                entry.wanted = None;
                entry.claimed = false;
            }
        }
        for (replica, generation) in wanted {
            let entry = self.entries.entry(replica.clone()).or_default();
            if entry.wanted != Some(*generation) {
                entry.wanted = Some(*generation);
                entry.claimed = false;
                entry.why.clear();
            }
        }
    }

    /// Whether a component may have a process.
    pub(crate) fn busy(&mut self, key: &ComponentKey, busy: bool) {
        let replica = replica_of(key);
        if busy {
            self.busy.entry(replica).or_default().insert(key.component.clone());
        } else if let Some(all) = self.busy.get_mut(&replica) {
            all.remove(&key.component);
            if all.is_empty() {
                self.busy.remove(&replica);
            }
        }
    }

    /// A shim that an earlier daemon started had a lease until then, for that generation.
    pub(crate) fn took_over(&mut self, key: &ComponentKey, generation: u64, until: u64) {
        let entry = self.entries.entry(replica_of(key)).or_default();
        entry.had = entry.had.max(Some(generation));
        if entry.given_back.is_none() {
            entry.until = entry.until.max(until);
        }
    }

    fn runs(&self, replica: &ReplicaKey) -> bool {
        self.busy.contains_key(replica)
    }

    fn is_claimed(&self, replica: &ReplicaKey, entry: &Entry, now: u64) -> bool {
        // What is being stopped may go on within its grace.
        entry.wanted.is_some() || entry.until > now && self.runs(replica)
    }

    fn gives_back(&self, replica: &ReplicaKey, entry: &Entry, now: u64) -> bool {
        entry.wanted.is_none()
            && !self.runs(replica)
            && (entry.until > now || entry.given_back.is_some_and(|(_, until)| until > now))
    }

    /// Whether a request is to be sent now, `leader` being who leads as far as is known.
    pub(crate) fn is_due(&self, now: u64, leader: Option<NodeId>) -> bool {
        let waiting = self.in_flight.values().filter(|to| **to == leader).count();
        if leader.is_none() || waiting >= IN_FLIGHT {
            return false;
        }
        let (mut any, mut lacking, mut new) = (false, false, false);
        for (replica, entry) in &self.entries {
            let gives = self.gives_back(replica, entry, now);
            if !gives && !self.is_claimed(replica, entry, now) {
                continue;
            }
            any = true;
            lacking |= gives || entry.until <= now;
            new |= if gives { entry.given_back.is_none() } else { !entry.claimed };
        }
        let Some(sent) = self.sent.filter(|_| any) else { return any };
        let passed = now.saturating_sub(sent);
        let every = if lacking || self.failed { RETRY_EVERY } else { RENEW_EVERY };
        new || leader != self.asked || passed >= every
    }

    /// The request to send now; to be followed by [`Book::answered`] or [`Book::failed`].
    pub(crate) fn ask(&mut self, now: u64, leader: Option<NodeId>) -> Request {
        self.round = now.max(self.round + 1);
        self.sent = Some(now);
        self.asked = leader;
        self.failed = false;
        self.in_flight.insert(self.round, leader);
        let over = |entry: &Entry| {
            entry.until <= now && entry.given_back.is_none_or(|(_, until)| until <= now)
        };
        let (busy, oldest) = (&self.busy, self.in_flight.keys().next().copied());
        self.entries.retain(|replica, entry| {
            // An answer that is still to come must find what was given back since.
            let answered = entry.given_back.is_none_or(|(at, _)| oldest > Some(at));
            entry.wanted.is_some() || busy.contains_key(replica) || !over(entry) || !answered
        });
        let (mut claims, mut stopped) = (Vec::new(), Vec::new());
        let mut given = Vec::new();
        for (replica, entry) in &self.entries {
            if self.is_claimed(replica, entry, now) {
                let generation = entry.wanted.or(entry.had).unwrap_or(0);
                let had = entry.had == Some(generation);
                claims.push(LeaseClaim { replica: replica.clone(), generation, had });
                given.push((replica.clone(), false));
            } else if self.gives_back(replica, entry, now) {
                stopped.push(replica.clone());
                given.push((replica.clone(), true));
            }
        }
        for (replica, back) in given {
            let Some(entry) = self.entries.get_mut(&replica) else { continue };
            if back {
                let until = entry.given_back.map_or(0, |(_, until)| until).max(entry.until);
                entry.given_back = Some((self.round, until));
                entry.until = 0;
            } else {
                entry.claimed = true;
            }
        }
        Request { sent: now, message: RenewLeases { round: self.round, claims, stopped } }
    }

    /// The answer to a request.
    pub(crate) fn answered(&mut self, request: &Request, now: u64, answers: &[LeaseAnswer]) {
        let round = request.message.round;
        self.in_flight.remove(&round);
        for replica in &request.message.stopped {
            if let Some(entry) = self.entries.get_mut(replica)
                && entry.given_back.is_some_and(|(at, _)| at <= round)
            {
                // Known to be given back; answers of earlier rounds stay void.
                entry.given_back = Some((round, 0));
            }
        }
        let until = request.sent.saturating_add(millis(LEASE));
        for answer in answers {
            let claim = request.message.claims.iter().find(|c| c.replica == answer.replica);
            let (Some(claim), Some(entry)) = (claim, self.entries.get_mut(&answer.replica)) else {
                continue;
            };
            match &answer.refused {
                Some(why) => entry.why.clone_from(why),
                // Too late, or given back since.
                None if until <= now || entry.given_back.is_some_and(|(at, _)| round <= at) => {}
                None => {
                    entry.given_back = None;
                    entry.had = entry.had.max(Some(claim.generation));
                    entry.until = entry.until.max(until);
                    entry.why.clear();
                }
            }
        }
    }

    /// There is no answer.
    pub(crate) fn failed(&mut self, request: &Request) {
        self.in_flight.remove(&request.message.round);
        if request.message.round == self.round {
            self.failed = true;
        }
        for claim in &request.message.claims {
            if let Some(entry) = self.entries.get_mut(&claim.replica) {
                entry.why = "no contact with the leader".to_owned();
            }
        }
    }

    /// Whether a replica may run.
    pub(crate) fn lease(&self, replica: &ReplicaKey, now: u64) -> Lease {
        match self.entries.get(replica) {
            Some(entry) if entry.until > now => Lease::Until(entry.until),
            Some(entry) if !entry.why.is_empty() => Lease::Waits(entry.why.clone()),
            _ => Lease::Waits("no leader has granted one yet".to_owned()),
        }
    }

    /// Whether nothing is fenced here, and nothing is to be heard of what was.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.in_flight.is_empty()
    }

    /// Every replica that is wanted or has a lease, as it is.
    pub(crate) fn all(&self, now: u64) -> BTreeMap<ReplicaKey, Lease> {
        self.entries.keys().map(|key| (key.clone(), self.lease(key, now))).collect()
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
