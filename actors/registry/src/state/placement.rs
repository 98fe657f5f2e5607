//! The interim rule of placement: replica i of a service goes to the i-th node by name, counting
//! round when there are more replicas than nodes. Of the nodes from there on, one with the fewest
//! replicas of the service is taken, so that a replica which moves does not join another while a
//! node is free. Placements stay where they are until their node is gone or the definition moves
//! them.

use std::collections::BTreeMap;

use weft_protocol::Placement;
use weft_wire::{NodeId, WallTime};

use super::ClusterState;
use super::apply::Change;

impl ClusterState {
    /// Takes away the service's placements that no longer hold and makes those that lack.
    /// `why` a replica that was placed before moves; for people.
    pub(super) fn place(&mut self, name: &str, at: WallTime, why: &str, out: &mut Vec<Change>) {
        let Some(service) = self.services.get(name) else { return };
        let (wanted, pin) = if service.record.undeployed {
            (0, String::new())
        } else {
            (service.record.spec.replicas, service.record.spec.node.clone())
        };
        let nodes: Vec<(NodeId, String)> =
            self.nodes().into_iter().map(|node| (node.id, node.name.clone())).collect();
        let candidates: Vec<_> =
            nodes.iter().filter(|(_, node)| pin.is_empty() || *node == pin).cloned().collect();

        let mut load: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut gone = Vec::new();
        for placement in self.of_service(name) {
            let holds = placement.replica <= wanted
                && candidates.iter().any(|(id, _)| *id == placement.node);
            if holds {
                *load.entry(placement.node).or_default() += 1;
            } else {
                gone.push(placement.replica);
            }
        }
        for replica in &gone {
            self.placements.remove(&(name.to_owned(), *replica));
        }
        let count = candidates.len();
        for replica in 1..=wanted {
            let key = (name.to_owned(), replica);
            if self.placements.contains_key(&key) {
                continue;
            }
            let first = (replica as usize - 1).checked_rem(count).unwrap_or(0);
            // `min_by_key` keeps the first of equals.
            let choice = candidates
                .iter()
                .cycle()
                .skip(first)
                .take(count)
                .min_by_key(|(id, _)| load.get(id).copied().unwrap_or(0));
            let Some((node, node_name)) = choice.cloned() else {
                // Pinned to a node that is gone: it waits for one of that name.
                if gone.contains(&replica) {
                    out.push(Change::Unplaced { service: name.to_owned(), replica });
                }
                continue;
            };
            *load.entry(node).or_default() += 1;
            let mut reason = if pin.is_empty() {
                format!("replica {replica} on {node_name}, of {count} nodes by name")
            } else {
                format!("pinned to {node_name} by its definition")
            };
            if !why.is_empty() && gone.contains(&replica) {
                reason.push_str("; ");
                reason.push_str(why);
            }
            let Some(service) = self.services.get_mut(name) else { return };
            let generation = service.generations.entry(replica).or_default();
            *generation = generation.saturating_add(1);
            let generation = *generation;
            let placement =
                Placement { service: name.to_owned(), replica, node, generation, at, reason };
            self.placements.insert(key, placement);
            out.push(Change::Placed { service: name.to_owned(), replica, node });
        }
        for replica in gone.into_iter().filter(|replica| *replica > wanted) {
            out.push(Change::Unplaced { service: name.to_owned(), replica });
        }
    }

    /// Forgets the placements that a changed pin does not allow, or all when it was lifted.
    pub(super) fn unplace(&mut self, name: &str, out: &mut Vec<Change>) {
        let pinned_to = self
            .services
            .get(name)
            .map(|service| service.record.spec.node.clone())
            .and_then(|pin| self.nodes.values().find(|node| node.name == pin))
            .map(|node| node.id);
        let first_by_rule: Vec<_> = self.nodes().iter().map(|node| node.id).collect();
        let moved: Vec<u32> = self
            .of_service(name)
            .filter(|placement| {
                let rule = (placement.replica as usize - 1).checked_rem(first_by_rule.len());
                let wanted =
                    pinned_to.or_else(|| rule.and_then(|at| first_by_rule.get(at).copied()));
                wanted != Some(placement.node)
            })
            .map(|placement| placement.replica)
            .collect();
        for replica in moved {
            self.placements.remove(&(name.to_owned(), replica));
            out.push(Change::Unplaced { service: name.to_owned(), replica });
        }
    }

    /// Places whatever has no place; after a node came.
    pub(super) fn place_waiting(&mut self, at: WallTime, out: &mut Vec<Change>) {
        let waiting: Vec<String> = self
            .services
            .values()
            .filter(|service| !service.record.undeployed)
            .filter(|service| {
                let placed = self.of_service(&service.record.name).count();
                placed < service.record.spec.replicas as usize
            })
            .map(|service| service.record.name.clone())
            .collect();
        for name in waiting {
            self.place(&name, at, "", out);
        }
    }

    pub(super) fn of_service(&self, name: &str) -> impl Iterator<Item = &Placement> {
        self.placements
            .range((name.to_owned(), 0)..=(name.to_owned(), u32::MAX))
            .map(|(_, placement)| placement)
    }
}
