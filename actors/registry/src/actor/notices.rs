//! Events that are not of components: those that follow from agreed entries, which every node
//! derives and stores for itself; and, on the node that leads, what it sees of nodes, leaders and
//! voters, which it stores and hands to the other voters, so that its loss does not take them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use weft_agreement::Liveness;
use weft_link::Call;
use weft_protocol::{Event, EventKind, RecordEvents};
use weft_supervision::Scope;
use weft_wire::{ActorKind, Address, NodeId};

use super::Registry;
use crate::control::GROUP;
use crate::steward::voters::Candidate;
use crate::steward::watch::{Watch, seconds};

/// Events stored at once.
const BATCH: usize = 500;
/// Events that may wait to be stored; older ones are left to the other nodes.
const WAITING: usize = 10_000;
/// Copies for the other voters are given up on after this long.
const COPY_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);
/// In front of the term of an event of leadership: recorded once, however often it is noticed.
const TAG: u128 = 0x7765_6674_6c65 << 80;

/// What was noticed, and what of it is not stored yet.
#[derive(Debug, Default)]
pub(super) struct Notices {
    watch: Watch,
    waiting: VecDeque<Event>,
    storing: bool,
    /// Who led last, as far as this node knows.
    led_by: Option<NodeId>,
    /// The term whose beginning was told.
    term: u64,
}

impl Registry {
    /// Takes note of what is different, and stores what is not stored yet.
    pub(super) fn notice(&mut self, scope: &Scope<Self>) {
        let events = self.agreement.control.take_events(BATCH);
        self.notices.waiting.extend(events);
        let mut own = self.new_leader(scope);
        own.extend(self.verdicts(scope));
        self.tell(own, scope);
        self.store(scope);
    }

    /// That this node leads from now on, and why another does no longer.
    fn new_leader(&mut self, scope: &Scope<Self>) -> Vec<Event> {
        let status = self.agreement.group.status();
        let node = self.config.seed.node;
        if !self.elected() {
            self.notices.led_by = status.leader.or(self.notices.led_by);
            return Vec::new();
        }
        if self.notices.term == status.term {
            return Vec::new();
        }
        self.notices.term = status.term;
        let before = self.notices.led_by.replace(node);
        let seen = before.and_then(|id| {
            self.agreement.membership.members().get(id).map(|member| member.liveness)
        });
        let old = before.map_or_else(String::new, |id| self.name_of(id));
        let cause = match (before, seen) {
            (None, _) if self.state().is_empty() => "the cluster's first node".to_owned(),
            (None, _) => "no leader was heard of since this daemon started".to_owned(),
            (Some(id), _) if id == node => {
                "elected again after no majority was heard for a while".to_owned()
            }
            (Some(id), _) if !status.voters.contains(&id) => format!("{old} votes no longer"),
            (_, Some(Liveness::DaemonDown)) => format!("the daemon of {old} is down"),
            (_, Some(Liveness::Away)) => format!("the daemon of {old} was stopped on purpose"),
            (_, Some(Liveness::Lost)) => format!("{old} is lost"),
            (_, Some(Liveness::Suspect)) => format!("{old} does not answer"),
            (_, Some(Liveness::Left)) => format!("{old} has left"),
            (_, Some(Liveness::Alive) | None) => {
                format!("{old} was not heard of as leader for 2 s")
            }
        };
        let kind = EventKind::Leader {
            group: GROUP.to_owned(),
            term: status.term,
            from: old,
            to: self.name().to_owned(),
        };
        let mut event = self.event(self.name(), kind, cause, scope.now(), scope);
        event.id = uuid::Uuid::from_u128(TAG | u128::from(status.term) << 16);
        vec![event]
    }

    /// What membership has found out, as the node that leads sees it.
    fn verdicts(&mut self, scope: &Scope<Self>) -> Vec<Event> {
        let now = scope.now();
        let members = self.agreement.membership.members();
        let status = self.agreement.group.status();
        let own = self.config.seed.node;
        if !self.leads() {
            let lives =
                status.leader.is_some_and(|leader| leader != own && members.is_alive(leader));
            self.notices.watch.follow(now, &members, lives);
            return Vec::new();
        }
        let heard = status.voters.iter().filter(|id| **id == own || members.is_alive(**id));
        let majority = heard.count() * 2 > status.voters.len();
        let verdicts = self.notices.watch.lead(now, own, &members, majority);
        verdicts
            .into_iter()
            // One that was removed goes: that is told as such.
            .filter(|verdict| self.state().node(verdict.node).is_some())
            .map(|verdict| {
                let name = self.name_of(verdict.node);
                let kind = EventKind::Node { to: verdict.to };
                self.event(&name, kind, verdict.cause, verdict.at, scope)
            })
            .collect()
    }

    /// That others vote from now on in that group.
    pub(super) fn voters_changed(
        &mut self,
        group: &str,
        from: &BTreeSet<NodeId>,
        to: &BTreeSet<NodeId>,
        cause: String,
        scope: &Scope<Self>,
    ) {
        if from == to {
            return;
        }
        let names = |ids: &BTreeSet<NodeId>| {
            let mut names: Vec<String> = ids.iter().map(|id| self.name_of(*id)).collect();
            names.sort();
            names
        };
        let kind = EventKind::Voters { group: group.to_owned(), from: names(from), to: names(to) };
        let event = self.event("", kind, cause, scope.now(), scope);
        self.tell(vec![event], scope);
        self.store(scope);
    }

    /// Why others shall vote, for people.
    pub(super) fn why_voters(
        &self,
        candidates: &[Candidate],
        from: &BTreeSet<NodeId>,
        to: &BTreeSet<NodeId>,
    ) -> String {
        let mut parts: Vec<String> = Vec::new();
        for id in from.difference(to) {
            let name = self.name_of(*id);
            parts.push(match candidates.iter().find(|candidate| candidate.id == *id) {
                None if self.state().node(*id).is_some() => format!("{name} is to be removed"),
                None => format!("{name} is no node any more"),
                Some(candidate) if !candidate.live => {
                    format!("{name} was silent for {}", seconds(candidate.silent_for))
                }
                Some(_) => format!("{name} makes room"),
            });
        }
        parts.extend(to.difference(from).map(|id| format!("{} is ready", self.name_of(*id))));
        parts.push(format!("{} of {} nodes vote", to.len(), candidates.len()));
        parts.join(", ")
    }

    fn name_of(&self, id: NodeId) -> String {
        if id == self.config.seed.node {
            return self.name().to_owned();
        }
        self.state().node(id).map_or_else(|| id.to_string(), |node| node.name.clone())
    }

    fn event(
        &self,
        node: &str,
        kind: EventKind,
        cause: String,
        at: Instant,
        scope: &Scope<Self>,
    ) -> Event {
        Event {
            id: uuid::Uuid::now_v7(),
            time: scope.wall().minus(scope.now().saturating_duration_since(at)),
            node: node.to_owned(),
            service: String::new(),
            component: String::new(),
            replica: 0,
            kind,
            cause,
            exit: String::new(),
            observer: self.name().to_owned(),
        }
    }

    /// Keeps what this node saw, and hands it to the other voters.
    fn tell(&mut self, events: Vec<Event>, scope: &Scope<Self>) {
        if events.is_empty() {
            return;
        }
        for event in &events {
            tracing::info!(node = event.node, kind = ?event.kind, cause = event.cause, "noticed");
        }
        let members = self.agreement.membership.members();
        let voters = self.agreement.group.status().voters.clone();
        let own = self.config.seed.node;
        for voter in voters.into_iter().filter(|id| *id != own && members.is_alive(*id)) {
            let (fabric, events) = (scope.fabric().clone(), events.clone());
            scope.spawn(async move {
                let to = Address::on(ActorKind::Registry, voter);
                let copy = fabric.ask(to, RecordEvents { events }, Call::within(COPY_WITHIN));
                if let Err(error) = copy.await {
                    tracing::debug!(%error, %voter, "events were not copied");
                }
            });
        }
        self.notices.waiting.extend(events);
    }

    fn store(&mut self, scope: &Scope<Self>) {
        let notices = &mut self.notices;
        if notices.storing || notices.waiting.is_empty() {
            return;
        }
        let surplus = notices.waiting.len().saturating_sub(WAITING);
        notices.waiting.drain(..surplus);
        let count = notices.waiting.len().min(BATCH);
        let batch: Vec<Event> = notices.waiting.drain(..count).collect();
        notices.storing = true;
        let local = self.local.clone();
        scope.spawn_then(
            async move { (local.record_events(&batch).await, batch) },
            |registry, (done, batch), scope| {
                registry.notices.storing = false;
                match done {
                    Ok(newest) => {
                        registry.newer_event(newest);
                        registry.store(scope);
                    }
                    // The next tick tries again.
                    Err(error) => {
                        tracing::debug!(%error, "events are not stored yet");
                        for event in batch.into_iter().rev() {
                            registry.notices.waiting.push_front(event);
                        }
                    }
                }
            },
        );
    }

    /// Wakes who follows events.
    pub(super) fn newer_event(&self, newest: i64) {
        self.newest_event.send_if_modified(|known| {
            let newer = newest > *known;
            *known = newest.max(*known);
            newer
        });
    }
}
