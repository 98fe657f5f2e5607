//! Slots that a group gives to another: what is here stays, what begins does so there.

use weft_session::{Entry, encode_entry};

use super::{Owned, WITHIN};

impl Owned {
    /// Whether the group has given that slot away.
    pub(crate) fn is_sealed(&self, slot: u8) -> bool {
        self.lock().sessions.is_sealed(slot)
    }

    /// Whether the group has given that slot away, and the session is not one of those that stay.
    pub(crate) fn is_past(&self, slot: u8, id: &str) -> bool {
        let state = self.lock();
        state.sessions.is_sealed(slot)
            && state.sessions.get(id).is_none()
            && state.leaving.get(id).is_none()
            && !state.is_lost(id, &self.0.archive)
            && !self.0.archive.may_hold(id)
    }

    /// Whether the group is giving that slot away, and does not have the session.
    pub(crate) fn is_leaving(&self, slot: u8, id: &str) -> bool {
        let state = self.lock();
        state.sealing.contains(&slot)
            && !state.sessions.is_sealed(slot)
            && !state.is_here(id)
            && state.leaving.get(id).is_none()
            && !self.0.archive.may_hold(id)
    }

    /// Gives slots away, if this node still leads: from now on nothing begins here in them, and
    /// once that is agreed on, it does in the group that has them.
    pub(crate) async fn seal(self, slots: Vec<u8>) {
        let Ok(Some(group)) = self.leading() else { return };
        let agreeing = {
            let mut state = self.lock();
            state.sealing.extend(&slots);
            let bytes = encode_entry(&Entry::Seal { slots }).map_err(|error| error.to_string());
            bytes.and_then(|bytes| group.submit(bytes, WITHIN).map_err(|e| e.to_string()))
        };
        let done = match agreeing {
            Ok(agreeing) => agreeing.await.map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match done {
            Ok(_) => tracing::info!(group = %self.0.name, "slots are given to another group"),
            Err(why) => tracing::debug!(group = %self.0.name, why, "slots are given away later"),
        }
    }
}
