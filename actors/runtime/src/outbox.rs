//! Transitions on their way to the monitor: kept until it has recorded them.

use std::collections::VecDeque;

use uuid::Uuid;
use weft_protocol::Transition;

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

    /// The oldest, at most [`BATCH`].
    pub(crate) fn batch(&self) -> Vec<Transition> {
        self.waiting.iter().take(BATCH).cloned().collect()
    }

    /// They are recorded.
    pub(crate) fn recorded(&mut self, ids: &[Uuid]) {
        self.waiting.retain(|transition| !ids.contains(&transition.id));
    }
}
