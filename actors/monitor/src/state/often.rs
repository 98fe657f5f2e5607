//! How often something happened within a window of time.

use std::collections::VecDeque;
use std::time::Duration;

use weft_wire::WallTime;

/// Times of what is counted, at most as many as are too many.
#[derive(Debug, Clone, Default)]
pub(super) struct Often {
    times: VecDeque<WallTime>,
    over: bool,
}

impl Often {
    /// Counts one; true: with it there are `threshold` within the window, and there were fewer
    /// before.
    pub(super) fn count(&mut self, at: WallTime, window: Duration, threshold: u32) -> bool {
        let threshold = usize::try_from(threshold.max(1)).unwrap_or(usize::MAX);
        self.times.retain(|time| at.since(*time) <= window);
        if self.times.len() + 1 < threshold {
            self.over = false;
        }
        self.times.push_back(at);
        // More than the threshold says nothing more.
        while self.times.len() > threshold {
            self.times.pop_front();
        }
        let begins = self.times.len() >= threshold && !self.over;
        self.over |= begins;
        begins
    }
}
