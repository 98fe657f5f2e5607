//! The table a decision works on: input sorted and indexed, and what each node carries.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use weft_protocol::{Desired, Handover, OnPartition, ServiceRecord, handover, one_machine};
use weft_wire::NodeId;

use super::rules::{Expr, takes, tier_name};
use super::words::{self, Reject};
use super::{BUSY_PERCENT, Input, Liveness, NodeFacts, Problem, ReplicaState};

/// More replicas of a service than this are not looked at; the definition file allows fewer.
const MOST_REPLICAS: u32 = 10_000;

/// What a replica declares, all components together.
#[derive(Debug, Clone, Copy, Default)]
struct Need {
    memory: u64,
    cpu: u64,
}

/// A service, parsed once.
#[derive(Debug)]
pub(super) struct Svc<'a> {
    pub(super) record: &'a ServiceRecord,
    /// Replicas to have; 0 when undeployed.
    pub(super) wanted: u32,
    /// Keeps data or is pinned: does not move by itself (design §11).
    pub(super) keeps_data: bool,
    /// Has volumes.
    pub(super) has_volumes: bool,
    /// Runs under a lease.
    pub(super) fenced: bool,
    /// Components of one replica.
    pub(super) components: u64,
    need: Need,
    /// `None`: a rule does not parse.
    require: Option<Vec<Expr>>,
    prefer: Vec<Expr>,
    avoid: Vec<Expr>,
    /// Host address, port, UDP.
    ports: Vec<(&'a str, u16, bool)>,
    /// Some component shall run.
    runs: bool,
}

impl Svc<'_> {
    pub(super) fn name(&self) -> &str {
        &self.record.name
    }

    /// The node its definition names.
    pub(super) fn pin(&self) -> Option<&str> {
        Some(self.record.spec.node.as_str()).filter(|pin| !pin.is_empty())
    }

    pub(super) fn colocate(&self) -> bool {
        self.record.spec.placement.colocate
    }
}

/// A replica: index of its service, number.
pub(super) type Key = (usize, u32);

/// Where a replica is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) id: NodeId,
    /// `None`: a removed node.
    pub(super) at: Option<usize>,
    pub(super) previous: Option<super::Previous>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Carried {
    memory: u64,
    cpu: u64,
    components: u64,
}

/// How well a node suits, smaller is better; see the module's page for the order.
pub(super) type Rank = (u32, i64, u32, bool, Reverse<u64>, Reverse<u64>, u64);

/// The working table.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) nodes: Vec<&'a NodeFacts>,
    pub(super) svcs: Vec<Svc<'a>>,
    pub(super) slots: BTreeMap<Key, Slot>,
    by_id: BTreeMap<NodeId, usize>,
    by_name: BTreeMap<&'a str, usize>,
    carried: Vec<Carried>,
    seen: BTreeMap<(&'a str, u32, NodeId), ReplicaState>,
}

impl<'a> Table<'a> {
    /// Sorts and indexes. Second: places of services that are not known, by name and replica.
    pub(super) fn new(
        input: &'a Input<'a>,
        problems: &mut Vec<Problem>,
    ) -> (Self, Vec<&'a super::Place>) {
        let mut nodes: Vec<_> = input.nodes.iter().collect();
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let mut services = input.services.to_vec();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let svcs: Vec<_> = services.into_iter().map(|record| parse(record, problems)).collect();
        let by_service: BTreeMap<_, _> =
            svcs.iter().enumerate().map(|(at, svc)| (svc.record.name.as_str(), at)).collect();

        let mut places: Vec<_> = input.places.iter().collect();
        places
            .sort_by(|a, b| (&a.service, a.replica, a.node).cmp(&(&b.service, b.replica, b.node)));
        let mut seen = BTreeMap::new();
        for sighting in input.seen {
            let key = (sighting.service.as_str(), sighting.replica, sighting.node);
            let state = seen.entry(key).or_insert(sighting.state);
            *state = (*state).max(sighting.state);
        }
        let mut table = Self {
            input,
            by_id: nodes.iter().enumerate().map(|(at, node)| (node.id, at)).collect(),
            // A name is unique among the nodes that are there; of two, one that has not left.
            by_name: nodes
                .iter()
                .enumerate()
                .rev()
                .filter(|(_, node)| node.liveness == Liveness::Left)
                .chain(
                    nodes
                        .iter()
                        .enumerate()
                        .rev()
                        .filter(|(_, node)| node.liveness != Liveness::Left),
                )
                .map(|(at, node)| (node.name.as_str(), at))
                .collect(),
            carried: vec![Carried::default(); nodes.len()],
            nodes,
            svcs,
            slots: BTreeMap::new(),
            seen,
        };
        let mut orphans = Vec::new();
        for place in places {
            let Some(svc) = by_service.get(place.service.as_str()) else {
                orphans.push(place);
                continue;
            };
            let key = (*svc, place.replica);
            if !table.slots.contains_key(&key) {
                table.put(key, place.node, place.previous);
            }
        }
        table.overcommitted(problems);
        (table, orphans)
    }

    pub(super) fn svc(&self, at: usize) -> &Svc<'a> {
        // Indices come from `svcs` itself, which never shrinks.
        &self.svcs[at]
    }

    pub(super) fn node(&self, at: usize) -> &'a NodeFacts {
        // Indices come from `nodes` itself, which never shrinks.
        self.nodes[at]
    }

    /// The node of that name or id.
    pub(super) fn find(&self, name_or_id: &str) -> Option<usize> {
        self.by_name
            .get(name_or_id)
            .copied()
            .or_else(|| name_or_id.parse().ok().and_then(|id: NodeId| self.by_id.get(&id).copied()))
    }

    pub(super) fn index(&self, id: NodeId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// What people call the node.
    pub(super) fn call(&self, id: NodeId) -> String {
        self.index(id).map_or_else(|| "a removed node".to_owned(), |at| self.node(at).name.clone())
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.slots.keys().copied().collect()
    }

    pub(super) fn slots_of(&self, svc: usize) -> impl Iterator<Item = (u32, &Slot)> {
        self.slots.range((svc, 0)..=(svc, u32::MAX)).map(|((_, replica), slot)| (*replica, slot))
    }

    /// Gives a replica a place; what it needs counts there and at its previous one.
    pub(super) fn put(&mut self, key: Key, id: NodeId, previous: Option<super::Previous>) {
        self.take(key);
        let slot = Slot { id, at: self.index(id), previous: previous.filter(|p| p.node != id) };
        self.slots.insert(key, slot);
        self.count(key.0, &slot, true);
    }

    /// Takes a replica's place away.
    pub(super) fn take(&mut self, key: Key) {
        if let Some(slot) = self.slots.remove(&key) {
            self.count(key.0, &slot, false);
        }
    }

    fn count(&mut self, svc: usize, slot: &Slot, add: bool) {
        let svc = &self.svcs[svc];
        let (need, components) = (svc.need, svc.components);
        let previous = slot.previous.and_then(|previous| self.index(previous.node));
        for at in [slot.at, previous].into_iter().flatten() {
            let Some(carried) = self.carried.get_mut(at) else { continue };
            let change = |what: &mut u64, by: u64| {
                *what = if add { what.saturating_add(by) } else { what.saturating_sub(by) };
            };
            change(&mut carried.memory, need.memory);
            change(&mut carried.cpu, need.cpu);
            if slot.at == Some(at) {
                change(&mut carried.components, components);
            }
        }
    }

    /// Components placed on the node.
    pub(super) fn components(&self, node: usize) -> u64 {
        self.carried.get(node).map_or(0, |carried| carried.components)
    }

    pub(super) fn state(&self, key: Key, node: NodeId) -> ReplicaState {
        let name = self.svcs[key.0].record.name.as_str();
        self.seen.get(&(name, key.1, node)).copied().unwrap_or(ReplicaState::Unknown)
    }

    /// Healthy where it is placed, or not meant to run.
    pub(super) fn good(&self, key: Key) -> bool {
        !self.svcs[key.0].runs
            || self
                .slots
                .get(&key)
                .is_some_and(|slot| self.state(key, slot.id) == ReplicaState::Healthy)
    }

    /// Whether a move that is under way is a planned one whose old copy has to stop first.
    pub(super) fn stops_first(&self, key: Key) -> bool {
        let Some(slot) = self.slots.get(&key) else { return false };
        let Some(previous) = slot.previous.filter(|previous| !previous.lost) else { return false };
        self.order(key.0, previous.node, slot.id) == Handover::StopFirst
    }

    /// How a planned move of a replica of the service goes.
    pub(super) fn order(&self, svc: usize, from: NodeId, to: NodeId) -> Handover {
        let address = |id| self.index(id).map_or("", |at| self.node(at).address.as_str());
        handover(&self.svc(svc).record.spec, one_machine(address(from), address(to)))
    }

    /// Milliseconds until no copy of a fenced replica can run anywhere but on `target`.
    pub(super) fn lease_left(&self, key: Key, target: NodeId) -> u64 {
        let (svc, settings) = (self.svc(key.0), &self.input.settings);
        if !svc.fenced {
            return 0;
        }
        let limit = settings.lease_ms.saturating_add(settings.lease_ms.div_ceil(10));
        // Nobody but the target can have held one when it has been there all along.
        let here = self.slots.get(&key).is_some_and(|slot| slot.id == target);
        let before = if here { 0 } else { limit.saturating_sub(settings.leading_for_ms) };
        self.leases_of(key)
            .filter(|lease| lease.node != target)
            .map(|lease| limit.saturating_sub(lease.renewed_ms_ago))
            .max()
            .unwrap_or(0)
            .max(before)
    }

    pub(super) fn leases_of(&self, key: Key) -> impl Iterator<Item = &'a super::Lease> {
        let name = self.svcs[key.0].record.name.as_str();
        let leases = self.input.leases;
        leases.iter().filter(move |lease| lease.replica == key.1 && lease.service == name)
    }

    /// Whether the replica could be started there.
    pub(super) fn fits(&self, key: Key, at: usize) -> Result<(), Reject> {
        let (svc, node) = (self.svc(key.0), self.node(at));
        if node.liveness != Liveness::Ready {
            return Err(Reject::Liveness);
        }
        if node.draining {
            return Err(Reject::Draining);
        }
        if svc.pin().is_none() {
            let tier = svc.record.spec.tier;
            if !takes(node, tier) {
                return Err(Reject::Tier(tier_name(tier)));
            }
            for rule in svc.require.iter().flatten() {
                if !rule.holds(node) {
                    return Err(Reject::Rule(rule.to_string(), rule.instead(node)));
                }
            }
        }
        let (memory, cpu) = self.free(key, at);
        if let Some(free) = memory.filter(|free| svc.need.memory > *free) {
            return Err(Reject::Room(words::bytes(svc.need.memory), words::bytes(free)));
        }
        if let Some(free) = cpu.filter(|free| svc.need.cpu > *free) {
            return Err(Reject::Room(words::cpu(svc.need.cpu), words::cpu(free)));
        }
        self.ports(key, at)
    }

    /// What is free on a node without this replica; `None`: not known.
    fn free(&self, key: Key, at: usize) -> (Option<u64>, Option<u64>) {
        let node = self.node(at);
        let carried = self.carried.get(at).copied().unwrap_or_default();
        let own = self.slots.get(&key).is_some_and(|slot| {
            slot.at == Some(at) || slot.previous.is_some_and(|previous| previous.node == node.id)
        });
        let own = if own { self.svc(key.0).need } else { Need::default() };
        let free = |capacity: Option<u64>, used: u64, own: u64| {
            capacity.map(|capacity| capacity.saturating_sub(used.saturating_sub(own)))
        };
        (free(node.memory, carried.memory, own.memory), free(node.cpu_millis, carried.cpu, own.cpu))
    }

    fn ports(&self, key: Key, at: usize) -> Result<(), Reject> {
        let svc = self.svc(key.0);
        if svc.ports.is_empty() {
            return Ok(());
        }
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        let id = self.node(at).id;
        for (other, slot) in &self.slots {
            let there = slot.at == Some(at) || slot.previous.is_some_and(|p| p.node == id);
            if *other == key || !there {
                continue;
            }
            let holder = self.svc(other.0);
            for (ip, port, udp) in &svc.ports {
                let clash = holder.ports.iter().any(|(other_ip, other_port, other_udp)| {
                    port == other_port
                        && udp == other_udp
                        && (any(ip) || any(other_ip) || ip == other_ip)
                });
                if clash {
                    return Err(Reject::Port(*port, format!("{}/{}", holder.name(), other.1)));
                }
            }
        }
        Ok(())
    }

    /// How well the node suits the replica, as if the replica were nowhere yet.
    pub(super) fn rank(&self, key: Key, at: usize) -> Rank {
        let (svc, node) = (self.svc(key.0), self.node(at));
        let (mut shared, mut zone, mut own) = (0, 0, 0);
        for (replica, slot) in self.slots_of(key.0) {
            let Some(other) = slot.at else { continue };
            if replica == key.1 {
                own = if other == at { svc.components } else { 0 };
                continue;
            }
            shared += u32::from(other == at);
            zone += u32::from(self.node(other).zone() == node.zone());
        }
        if svc.colocate() {
            (shared, zone) = (0, 0);
        }
        let count = |rules: &[Expr]| {
            i64::try_from(rules.iter().filter(|rule| rule.holds(node)).count()).unwrap_or(i64::MAX)
        };
        let taste = if svc.pin().is_some() { 0 } else { count(&svc.avoid) - count(&svc.prefer) };
        let (memory, cpu) = self.free(key, at);
        let after = |free: Option<u64>, need: u64| {
            // A node whose capacity is not known ranks after those with known room.
            if need == 0 { 0 } else { free.map_or(0, |free| free.saturating_sub(need)) }
        };
        (
            shared,
            taste,
            zone,
            node.load_percent.is_some_and(|load| load >= BUSY_PERCENT),
            Reverse(after(memory, svc.need.memory)),
            Reverse(after(cpu, svc.need.cpu)),
            self.components(at).saturating_sub(own),
        )
    }

    /// The best node for a replica and what made it the best, or why there is none.
    pub(super) fn choose(&self, key: Key) -> Result<(usize, &'static str), String> {
        let svc = self.svc(key.0);
        if let Some(pin) = svc.pin() {
            let Some(at) = self.find(pin) else {
                return Err(format!("waiting for {pin}, which is not a node of this cluster"));
            };
            let node = self.node(at);
            return match self.fits(key, at) {
                Ok(()) => Ok((at, "named by its definition")),
                Err(Reject::Liveness) => Err(format!("waiting for {}", node.name)),
                Err(Reject::Draining) => {
                    Err(format!("waiting for {}, which is draining", node.name))
                }
                Err(other) => Err(words::rejected(node, &other)),
            };
        }
        if svc.require.is_none() {
            return Err("[placement] require has a rule that is not a label expression".to_owned());
        }
        let mut fitting = Vec::new();
        let mut rejects = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            match self.fits(key, at) {
                Ok(()) => fitting.push((self.rank(key, at), at)),
                Err(why) => rejects.push((*node, why)),
            }
        }
        // Equal ranks: nodes are sorted by name, and so are their indices.
        fitting.sort();
        match fitting.as_slice() {
            [] => Err(words::no_target(&rejects)),
            [(_, at)] => Ok((*at, "the only node that fits")),
            [(best, at), (next, _), ..] => Ok((*at, edge(best, next))),
        }
    }

    fn overcommitted(&self, problems: &mut Vec<Problem>) {
        for (node, carried) in self.nodes.iter().zip(&self.carried) {
            let mut say = |what, used: u64, capacity: Option<u64>, show: fn(u64) -> String| {
                if let Some(capacity) = capacity.filter(|capacity| used > *capacity) {
                    problems.push(Problem::Overcommitted {
                        node: node.name.clone(),
                        what,
                        declared: show(used),
                        capacity: show(capacity),
                    });
                }
            };
            say("memory", carried.memory, node.memory, words::bytes);
            say("CPU", carried.cpu, node.cpu_millis, |millis| format!("{millis}m"));
        }
    }
}

/// What the better of two ranks is better at.
fn edge(best: &Rank, next: &Rank) -> &'static str {
    if best.0 != next.0 {
        "fewest replicas of it"
    } else if best.1 != next.1 {
        "preferred"
    } else if best.2 != next.2 {
        "another zone"
    } else if best.3 != next.3 {
        "not busy"
    } else if best.4 != next.4 {
        "most memory free"
    } else if best.5 != next.5 {
        "most CPU free"
    } else if best.6 != next.6 {
        "fewest components"
    } else {
        "first by name"
    }
}

fn parse<'a>(record: &'a ServiceRecord, problems: &mut Vec<Problem>) -> Svc<'a> {
    let spec = &record.spec;
    let mut rules = |list: &'static str, texts: &[String]| {
        let before = problems.len();
        let mut parsed = Vec::new();
        let mut reported = BTreeSet::new();
        for text in texts {
            match Expr::parse(text) {
                Some(rule) => parsed.push(rule),
                None if reported.insert(text) => problems.push(Problem::Rule {
                    service: record.name.clone(),
                    list,
                    text: text.clone(),
                }),
                None => {}
            }
        }
        (parsed, problems.len() == before)
    };
    let (require, good) = rules("require", &spec.placement.require);
    let (prefer, _) = rules("prefer", &spec.placement.prefer);
    let (avoid, _) = rules("avoid", &spec.placement.avoid);
    let sum = |of: fn(&weft_protocol::Resources) -> Option<u64>| {
        spec.components.iter().filter_map(|c| of(&c.resources)).fold(0, u64::saturating_add)
    };
    let ports = spec.components.iter().flat_map(|component| &component.ports);
    let has_volumes = spec.components.iter().any(|component| !component.volumes.is_empty());
    Svc {
        record,
        wanted: if record.undeployed { 0 } else { record.replicas().min(MOST_REPLICAS) },
        keeps_data: !spec.node.is_empty() || has_volumes,
        has_volumes,
        fenced: spec.on_partition == OnPartition::Stop,
        components: spec.components.len().max(1) as u64,
        need: Need { memory: sum(|r| r.memory), cpu: sum(|r| r.cpu_millis) },
        require: good.then_some(require),
        prefer,
        avoid,
        ports: ports.map(|port| (port.host_ip.as_str(), port.host, port.udp)).collect(),
        runs: spec
            .components
            .iter()
            .any(|component| record.desired_of(&component.name) == Desired::Running),
    }
}
