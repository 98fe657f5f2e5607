//! Moving a replica although nothing is wrong: seldom, one at a time, and only for the better.
//!
//! It comes to rest because each step makes one of three sums of squares smaller and none that
//! stands before it larger: replicas of a service per node, per zone, components per node.

use super::decide::Draft;
use super::table::{Key, Rank};
use super::{Liveness, MoveKind, ReplicaState, WaitKind};
use weft_protocol::Tier;

/// How much a step is worth: kind of spread, then how uneven it is now; smaller is better.
type Worth = (u8, std::cmp::Reverse<u64>);

/// Adds at most one move, if nothing else is to be done and the time has come.
pub(super) fn rebalance(draft: &mut Draft<'_>) {
    if !calm(draft) {
        return;
    }
    let settings = &draft.table.input.settings;
    let left = settings
        .since_rebalance_ms
        .map_or(0, |since| settings.rebalance_every_ms.saturating_sub(since));
    if left > 0 {
        draft.ask_in(left);
        return;
    }
    let mut best: Option<(Worth, Key, Rank, usize, String)> = None;
    for svc in 0..draft.table.svcs.len() {
        if !movable(draft, svc) {
            continue;
        }
        let slots: Vec<_> =
            draft.table.slots_of(svc).filter_map(|(r, slot)| Some(((svc, r), slot.at?))).collect();
        for (key, from) in slots {
            if draft.table.node(from).draining {
                continue;
            }
            for to in 0..draft.table.nodes.len() {
                let Some((worth, why)) = improves(draft, key, from, to) else { continue };
                let rank = draft.table.rank(key, to);
                if draft.table.fits(key, to).is_err() || rank >= draft.table.rank(key, from) {
                    continue;
                }
                let better = best
                    .as_ref()
                    .is_none_or(|(w, k, r, t, _)| (worth, key, &rank, to) < (*w, *k, r, *t));
                if better {
                    best = Some((worth, key, rank, to, why));
                }
            }
        }
    }
    if let Some((_, key, _, to, why)) = best {
        let name = draft.table.node(to).name.clone();
        let reason = format!("for a better spread: now on {name} ({why})");
        draft.relocate(key, to, MoveKind::Rebalanced, reason);
    }
}

/// Nothing moves or starts, nothing is about to, all nodes are ready and alike.
fn calm(draft: &Draft<'_>) -> bool {
    let table = &draft.table;
    let soon = |kind| matches!(kind, WaitKind::Grace | WaitKind::Lease | WaitKind::Turn);
    let mut there = table.nodes.iter().filter(|node| node.liveness != Liveness::Left);
    let version = there.clone().next().map(|node| &node.version);
    draft.decision.moves.is_empty()
        && !table.input.settings.updating
        && !draft.decision.waiting.iter().any(|waiting| soon(waiting.kind))
        && there.all(|node| node.liveness == Liveness::Ready && Some(&node.version) == version)
        && table.slots.iter().all(|(key, slot)| {
            slot.previous.is_none() && table.state(*key, slot.id) != ReplicaState::Starting
        })
}

/// All of it is placed and healthy, and none of it must stay.
fn movable(draft: &Draft<'_>, svc: usize) -> bool {
    let service = draft.table.svc(svc);
    !service.keeps_data
        && !service.fenced
        && service.record.spec.tier != Tier::Core
        && (1..=service.wanted).all(|replica| {
            draft.table.slots.contains_key(&(svc, replica)) && draft.table.good((svc, replica))
        })
}

/// Whether the step makes a difference of two or more smaller without harm to what counts more.
fn improves(draft: &Draft<'_>, key: Key, from: usize, to: usize) -> Option<(Worth, String)> {
    if from == to {
        return None;
    }
    let table = &draft.table;
    let svc = table.svc(key.0);
    let (a, b) = (table.node(from), table.node(to));
    let (mut on_a, mut on_b, mut zone_a, mut zone_b) = (0_u64, 0, 0, 0);
    for (_, slot) in table.slots_of(key.0) {
        let Some(at) = slot.at else { continue };
        on_a += u64::from(at == from);
        on_b += u64::from(at == to);
        zone_a += u64::from(table.node(at).zone() == a.zone());
        zone_b += u64::from(table.node(at).zone() == b.zone());
    }
    let worth = |kind, many: u64, few: u64| (kind, std::cmp::Reverse(many.saturating_sub(few)));
    if !svc.colocate() {
        if on_a >= on_b + 2 {
            let why = format!("{} ran {on_a} replicas of it, {} {on_b}", a.name, b.name);
            return Some((worth(0, on_a, on_b), why));
        }
        if on_b >= on_a {
            return None;
        }
        if a.zone() != b.zone() {
            if zone_a >= zone_b + 2 {
                let zone = |name: &str| {
                    if name.is_empty() { "no zone" } else { "zone " }.to_owned() + name
                };
                let why = format!(
                    "{} ran {zone_a} replicas of it, {} {zone_b}",
                    zone(a.zone()),
                    zone(b.zone())
                );
                return Some((worth(1, zone_a, zone_b), why));
            }
            if zone_b >= zone_a {
                return None;
            }
        }
    }
    let (many, few) = (table.components(from), table.components(to));
    (many > few.saturating_add(svc.components)).then(|| {
        let why = format!("{} ran {many} components, {} {few}", a.name, b.name);
        (worth(2, many, few), why)
    })
}
