//! Counters of the door.

use std::sync::atomic::{AtomicU64, Ordering};

use weft_wire::MessageId;

/// What has passed the door since the fabric was made.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Requests let in from connections, by message name.
    pub received: Vec<(&'static str, u64)>,
    /// Requests refused at the door.
    pub refused: u64,
    /// Letters that no mailbox took (full or gone), and tells whose link never came up.
    pub dead_letters: u64,
}

pub(crate) struct Counters {
    by_message: Box<[AtomicU64]>,
    refused: AtomicU64,
    dead_letters: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            by_message: (0..=u16::MAX).map(|_| AtomicU64::new(0)).collect(),
            refused: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
        }
    }
}

impl Counters {
    pub(crate) fn count(&self, id: MessageId) {
        if let Some(counter) = self.by_message.get(usize::from(id.0)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, name: impl Fn(MessageId) -> Option<&'static str>) -> Stats {
        let received = (0..=u16::MAX)
            .zip(&self.by_message)
            .filter_map(|(id, counter)| match counter.load(Ordering::Relaxed) {
                0 => None,
                count => Some((name(MessageId(id))?, count)),
            })
            .collect();
        Stats {
            received,
            refused: self.refused.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
        }
    }
}
