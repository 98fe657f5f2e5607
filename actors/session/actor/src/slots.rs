//! The groups of sessions on this node, and which of them a session belongs to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use weft_session::{Millis, slot};
use weft_wire::AskError;

use crate::follow::on_its_way;
use crate::{Modes, Owned};

/// What is acknowledged elsewhere is waited for so long.
const FRESH: Duration = Duration::from_secs(5);

/// So long a slot takes to be given away, mostly.
const SOON: Duration = Duration::from_millis(20);
/// A session is looked for so often at most.
const LOOKS: u32 = 250;

/// The name of the group of sessions with that number.
pub fn group_name(number: u8) -> String {
    format!("session/{number}")
}

/// The groups that are open on this node, in their order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Owners {
    first: Owned,
    all: Arc<watch::Sender<Arc<[Owned]>>>,
    modes: Modes,
}

impl Owners {
    /// One group so far; `modes` says which group has which slots.
    pub fn one(group: Owned, modes: Modes) -> Self {
        let all = Arc::new(watch::Sender::new(Arc::from([group.clone()])));
        Self { first: group, all, modes }
    }

    /// One more group is open here: the next by number.
    pub fn add(&self, group: Owned) {
        self.all.send_modify(|all| *all = all.iter().cloned().chain([group]).collect());
    }

    /// All groups, by number.
    pub fn all(&self) -> Arc<[Owned]> {
        self.all.borrow().clone()
    }

    /// Follows which groups there are.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<[Owned]>> {
        self.all.subscribe()
    }

    /// The group of a session, as far as is known here: the first that had its slot and has not
    /// given it away, or may have the session from before it did. On the node that leads a group
    /// that has the slot now this is so: its predecessors say there what they have.
    pub(crate) fn of(&self, session_id: &str) -> Owned {
        let all = self.all.borrow();
        if all.len() < 2 {
            return self.first.clone();
        }
        let slot = slot(session_id);
        let mut found = &self.first;
        for number in self.modes.read().slots().history(slot) {
            let Some(group) = all.get(usize::from(number)) else { break };
            found = group;
            if !group.is_past(slot, session_id) {
                break;
            }
        }
        found.clone()
    }

    /// As [`Owners::of`], once everything that was acknowledged before is known here.
    ///
    /// # Errors
    /// The group as it is known, and why it may be another by now.
    pub(crate) async fn find(&self, session_id: &str) -> Result<Owned, (Owned, AskError)> {
        let mut group = self.of(session_id);
        for _ in 0..LOOKS {
            if !group.is_ready()
                && let Err(error) = group.agreement().fresh(FRESH).await
            {
                tracing::debug!(session = session_id, %error, "a group may be old here");
                return Err((group, on_its_way(session_id)));
            }
            let now = self.of(session_id);
            if now.name() != group.name() {
                group = now;
                continue;
            }
            let slot = slot(session_id);
            if group.is_leaving(slot, session_id) {
                // In a moment it is known where it begins.
                tokio::time::sleep(SOON).await;
                continue;
            }
            if !group.is_past(slot, session_id) {
                return Ok(group);
            }
            // Its successor is not open here yet.
            let mut changes = self.changes();
            self.modes.fresh().await;
            if self.of(session_id).name() == group.name()
                && tokio::time::timeout(FRESH, changes.changed()).await.is_err()
            {
                break;
            }
        }
        Err((group, on_its_way(session_id)))
    }

    /// Waits until everything that was acknowledged before is applied here, in all groups. Where
    /// nobody can say, what is here may be old, but nothing else is to be had.
    pub(crate) async fn fresh(&self) {
        for group in self.all().iter().filter(|group| !group.is_ready()) {
            let _ = group.agreement().fresh(FRESH).await;
        }
    }

    /// Whether a session that is not in `group` may be in another.
    pub(crate) fn may_move(&self, group: &Owned, session_id: &str) -> bool {
        let slot = slot(session_id);
        group.is_past(slot, session_id) || group.is_leaving(slot, session_id)
    }

    /// How many open sessions somebody started in groups other than `group`, as known here.
    pub(crate) fn open_elsewhere(&self, group: &Owned, initiator: &str, now: Millis) -> u32 {
        let all = self.all();
        let others = all.iter().filter(|other| other.name() != group.name());
        others.map(|other| other.lock().sessions.open_count(initiator, now)).sum()
    }

    /// Slots of each group that this node leads which it is to give away: the group that has them
    /// now has a leader.
    pub(crate) fn to_seal(&self) -> Vec<(Owned, Vec<u8>)> {
        let all = self.all();
        let led = |number: u8| all.get(usize::from(number)).is_some_and(Owned::is_led);
        let leading = (0u8..).zip(all.iter()).filter(|(_, group)| group.is_ready());
        let catalogue = self.modes.read();
        let slots = catalogue.slots();
        let to_seal = leading.map(|(number, group)| {
            let mut left = slots.left_by(number);
            left.retain(|slot| led(slots.group(*slot)) && !group.is_sealed(*slot));
            (group.clone(), left)
        });
        to_seal.filter(|(_, left)| !left.is_empty()).collect()
    }
}
