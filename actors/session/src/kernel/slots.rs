//! Which group of logs a session belongs to. A session hashes to a slot; a slot has one group, and
//! gets another when groups are added. Sessions stay where they began.

use serde::{Deserialize, Serialize};

/// A session hashes to one of so many slots (design §6).
pub const SLOTS: usize = 256;
/// Most groups of a cluster.
pub const GROUPS_MAX: u8 = 32;

/// FNV-1a of a session's id.
pub fn id_hash(session_id: &str) -> u64 {
    session_id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The slot of a session: the hash of its id, folded to a byte. Never changes: logs are kept by it.
pub fn slot(session_id: &str) -> u8 {
    id_hash(session_id).to_le_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

/// The slots of each group, now and before: groups are only added, and each takes slots from those
/// that have most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMap {
    /// Group 0 had all slots at first; these are what group 1, 2, … took, sorted.
    taken: Vec<Vec<u8>>,
}

impl SlotMap {
    /// How many groups there are: 1 to [`GROUPS_MAX`].
    pub fn groups(&self) -> u8 {
        u8::try_from(self.taken.len() + 1).unwrap_or(GROUPS_MAX)
    }

    /// The groups that a slot has had, the present one last. Never empty.
    pub fn history(&self, slot: u8) -> impl Iterator<Item = u8> {
        let took = (1..=GROUPS_MAX).zip(&self.taken);
        std::iter::once(0).chain(
            took.filter(move |(_, slots)| slots.binary_search(&slot).is_ok()).map(|(g, _)| g),
        )
    }

    /// The group of a slot.
    pub fn group(&self, slot: u8) -> u8 {
        self.history(slot).last().unwrap_or(0)
    }

    /// The slots of a group, sorted.
    pub fn slots_of(&self, group: u8) -> Vec<u8> {
        (0..=u8::MAX).filter(|slot| self.group(*slot) == group).collect()
    }

    /// The slots that a group had and has no more, sorted.
    pub fn left_by(&self, group: u8) -> Vec<u8> {
        let had = |slot: &u8| self.group(*slot) != group && self.history(*slot).any(|g| g == group);
        (0..=u8::MAX).filter(had).collect()
    }

    /// Adds a group: the others give it slots, whoever has most one at a time, until none has more
    /// than one over it.
    pub(crate) fn add(&mut self) {
        let mut owned: Vec<Vec<u8>> =
            (0..self.groups()).map(|group| self.slots_of(group)).collect();
        let share = SLOTS / (owned.len() + 1);
        let mut taken: Vec<u8> = (0..share)
            .filter_map(|_| {
                let most = owned.iter().map(Vec::len).max()?;
                owned.iter_mut().find(|slots| slots.len() == most)?.pop()
            })
            .collect();
        taken.sort_unstable();
        self.taken.push(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_of_an_id_never_changes() {
        let ids = ["", "a", "4f5c7a1e-7d0c-4a55-9f6b-3f9f5b0c2d11"];
        assert_eq!(ids.map(slot), [225, 187, 188]);
        let mut seen = [false; SLOTS];
        for n in 0..10_000 {
            seen[usize::from(slot(&format!("session-{n}")))] = true;
        }
        assert!(seen.iter().all(|seen| *seen), "every slot is used");
    }

    #[test]
    fn groups_share_all_slots_evenly_and_never_get_one_back() {
        let mut map = SlotMap::default();
        assert_eq!((map.groups(), map.slots_of(0).len()), (1, SLOTS));
        while map.groups() < GROUPS_MAX {
            let before = map.clone();
            map.add();
            let newest = map.groups() - 1;
            let shares: Vec<usize> = (0..=newest).map(|g| map.slots_of(g).len()).collect();
            assert_eq!(shares.iter().sum::<usize>(), SLOTS);
            let (least, most) = (shares.iter().min(), shares.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{shares:?}");
            for slot in 0..=u8::MAX {
                let moved = map.group(slot) != before.group(slot);
                assert_eq!(moved, map.group(slot) == newest, "only the new one gets any");
                let mut history: Vec<u8> = before.history(slot).collect();
                history.extend(moved.then_some(newest));
                assert_eq!(map.history(slot).collect::<Vec<_>>(), history);
            }
        }
        let left: usize = (0..GROUPS_MAX).map(|group| map.left_by(group).len()).sum();
        let moves: usize = (0..=u8::MAX).map(|slot| map.history(slot).count() - 1).sum();
        assert_eq!(left, moves);
    }
}
