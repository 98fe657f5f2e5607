//! Where replicas are. The placer decides, on the leader, and proposes moves; here they hold or
//! are void, the same on every node.

use weft_protocol::{Placement, PlacementMove};
use weft_wire::WallTime;

use super::ClusterState;
use super::apply::Change;

impl ClusterState {
    /// Takes away the places of replicas that are no longer wanted.
    pub(super) fn trim(&mut self, name: &str, out: &mut Vec<Change>) {
        let Some(service) = self.services.get(name) else { return };
        let wanted = if service.record.undeployed { 0 } else { service.record.replicas() };
        let gone: Vec<u32> = self
            .of_service(name)
            .map(|placement| placement.replica)
            .filter(|replica| *replica > wanted)
            .collect();
        for replica in gone {
            if let Some(old) = self.placements.remove(&(name.to_owned(), replica)) {
                let (service, reason) = (name.to_owned(), String::new());
                out.push(Change::Unplaced { service, replica, from: old.node, reason });
            }
        }
    }

    /// Takes the placer's decision. A move that was overtaken is void: its replica is not wanted
    /// any more, was moved meanwhile, or its node is gone.
    pub(super) fn place(&mut self, moves: &[PlacementMove], at: WallTime, out: &mut Vec<Change>) {
        for wanted in moves {
            let name = wanted.service.as_str();
            let key = (name.to_owned(), wanted.replica);
            let Some(service) = self.services.get_mut(name) else { continue };
            let record = &service.record;
            let known = self.placements.get(&key).map_or(0, |placement| placement.generation);
            if record.undeployed
                || wanted.replica == 0
                || wanted.replica > record.replicas()
                || wanted.generation != known
            {
                continue;
            }
            let Some(node) = wanted.to else {
                if let Some(old) = self.placements.remove(&key) {
                    out.push(Change::Unplaced {
                        service: name.to_owned(),
                        replica: wanted.replica,
                        from: old.node,
                        reason: wanted.reason.clone(),
                    });
                }
                continue;
            };
            if !self.nodes.contains_key(&node) {
                continue;
            }
            let generation = match self.placements.get(&key) {
                // The same place with another story: nothing is moved.
                Some(placement) if placement.node == node => placement.generation,
                _ => {
                    let generation = service
                        .generations
                        .entry(wanted.replica)
                        .and_modify(|generation| *generation = generation.saturating_add(1))
                        .or_insert(self.purged.saturating_add(1));
                    *generation
                }
            };
            let placement = Placement {
                service: name.to_owned(),
                replica: wanted.replica,
                node,
                generation,
                at,
                reason: wanted.reason.clone(),
                previous: wanted.previous,
            };
            if self.placements.get(&key) != Some(&placement) {
                let old = self.placements.insert(key, placement);
                out.push(Change::Placed {
                    service: name.to_owned(),
                    replica: wanted.replica,
                    from: old.map(|old| old.node),
                    node,
                });
            }
        }
    }

    pub(super) fn of_service(&self, name: &str) -> impl Iterator<Item = &Placement> {
        self.placements
            .range((name.to_owned(), 0)..=(name.to_owned(), u32::MAX))
            .map(|(_, placement)| placement)
    }
}
