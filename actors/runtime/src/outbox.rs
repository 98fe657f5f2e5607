//! Transitions on their way to the monitor: kept until it has recorded them. Each component keeps
//! its own on disk beside its memory, so that a daemon that is killed tells them after its return.

use std::collections::VecDeque;

use uuid::Uuid;
use weft_protocol::{ComponentKey, Transition};

/// In one `Observed`.
pub(crate) const BATCH: usize = 1_000;
/// More are not kept while the monitor is away; the oldest go first.
pub(crate) const MOST: usize = 10_000;

/// Survives the runtime actor's incarnations.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Transition>,
    dropped: u64,
}

impl Outbox {
    pub(crate) fn push(&mut self, transition: Transition) {
        if self.waiting.len() >= MOST {
            self.waiting.pop_front();
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                tracing::warn!(dropped = self.dropped, "the monitor is away: events are lost");
            }
        }
        self.waiting.push_back(transition);
    }

    /// As [`Outbox::push`], unless it waits already: one read back from a component's file.
    pub(crate) fn push_again(&mut self, transition: Transition) {
        if !self.waiting.iter().any(|known| known.id == transition.id) {
            self.push(transition);
        }
    }

    /// Whether something of this component is not recorded yet.
    pub(crate) fn holds(&self, key: &ComponentKey) -> bool {
        self.waiting.iter().any(|transition| transition.key == *key)
    }

    /// The oldest, at most [`BATCH`].
    pub(crate) fn batch(&self) -> Vec<Transition> {
        self.waiting.iter().take(BATCH).cloned().collect()
    }

    /// They are recorded.
    pub(crate) fn recorded(&mut self, ids: &[Uuid]) {
        self.waiting.retain(|transition| !ids.contains(&transition.id));
    }
}
