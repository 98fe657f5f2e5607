//! Which group a session belongs to.

use std::sync::Arc;

use crate::Owned;

/// A session hashes to one of so many slots (design §6).
pub const SLOTS: usize = 256;

/// FNV-1a of a session's id.
pub(crate) fn hash(session_id: &str) -> u64 {
    session_id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The slot of a session: the hash of its id, folded to a byte. Never changes: logs are kept by it.
pub fn slot(session_id: &str) -> u8 {
    hash(session_id).to_le_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

/// The groups of this node, and which slot belongs to which. So far one group has all slots; when
/// the map is agreed state, this is where it is looked at.
#[derive(Debug, Clone)]
pub struct Owners {
    first: Owned,
    others: Arc<[Owned]>,
}

impl Owners {
    /// One group for all sessions.
    pub fn one(group: Owned) -> Self {
        Self { first: group, others: Arc::new([]) }
    }

    /// The group of a session.
    pub fn of(&self, session_id: &str) -> &Owned {
        let at = usize::from(slot(session_id)) % (self.others.len() + 1);
        at.checked_sub(1).and_then(|at| self.others.get(at)).unwrap_or(&self.first)
    }

    /// The group that is always there.
    pub(crate) fn first(&self) -> &Owned {
        &self.first
    }

    /// All groups.
    pub fn all(&self) -> impl Iterator<Item = &Owned> {
        std::iter::once(&self.first).chain(self.others.iter())
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
}
