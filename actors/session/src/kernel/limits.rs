//! How often a sender may send (§6): two sliding windows each, one for starts, one for the rest.

use std::collections::{BTreeMap, VecDeque};

use super::{Code, Millis, Refusal};

/// Starts a minute by default (§17).
pub const STARTS_PER_MINUTE: u32 = 60;
/// Other messages a minute by default (§17).
pub const MESSAGES_PER_MINUTE: u32 = 600;
/// Length of both windows, in milliseconds.
const WINDOW: Millis = 60_000;

/// What every sender used of its limits in the last minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    starts: u32,
    messages: u32,
    senders: BTreeMap<String, Used>,
    /// When those who had sent nothing were forgotten last.
    swept: Millis,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Used {
    starts: VecDeque<Slot>,
    messages: VecDeque<Slot>,
}

/// When it was used, and for what: 0 if nobody said.
type Slot = (Millis, u64);

impl Default for Limits {
    fn default() -> Self {
        Self::new(STARTS_PER_MINUTE, MESSAGES_PER_MINUTE)
    }
}

impl Limits {
    /// With other limits, a minute.
    pub fn new(starts: u32, messages: u32) -> Self {
        Self { starts, messages, senders: BTreeMap::new(), swept: 0 }
    }

    /// Uses a slot, whatever becomes of the message afterwards. `now` may be of any clock that does
    /// not go back; if it does, the windows last longer.
    ///
    /// # Errors
    /// RATE_LIMITED when there is none.
    pub fn take(&mut self, sender: &str, is_start: bool, now: Millis) -> Result<(), Refusal> {
        let most = if is_start { self.starts } else { self.messages };
        self.take_of(most, sender, is_start, 0, now)
    }

    /// As [`Limits::take`], of `most` a minute. `what`: a number of the message, the same when it is
    /// sent again; one that has a slot is not refused for want of another. 0: it has none.
    ///
    /// # Errors
    /// RATE_LIMITED when there is none.
    pub fn take_of(
        &mut self,
        most: u32,
        sender: &str,
        is_start: bool,
        what: u64,
        now: Millis,
    ) -> Result<(), Refusal> {
        if now.saturating_sub(self.swept) >= WINDOW {
            self.sweep(now);
        }
        if !self.senders.contains_key(sender) {
            self.senders.insert(sender.to_owned(), Used::default());
        }
        let Some(used) = self.senders.get_mut(sender) else { return Ok(()) };
        let (window, kind) = if is_start {
            (&mut used.starts, "session starts")
        } else {
            (&mut used.messages, "messages")
        };
        drop_old(window, now);
        if window.len() >= most as usize {
            if what != 0 && window.iter().any(|(_, used)| *used == what) {
                return Ok(());
            }
            let why = format!("`{sender}` sent {most} {kind} within a minute");
            return Err(Refusal::new(Code::RateLimited, why));
        }
        window.push_back((now, what));
        Ok(())
    }

    /// Forgets senders who sent nothing for a minute.
    fn sweep(&mut self, now: Millis) {
        self.swept = now;
        self.senders.retain(|_, used| {
            drop_old(&mut used.starts, now);
            drop_old(&mut used.messages, now);
            !used.starts.is_empty() || !used.messages.is_empty()
        });
    }

    /// Senders that are remembered.
    pub fn senders(&self) -> usize {
        self.senders.len()
    }
}

fn drop_old(window: &mut VecDeque<Slot>, now: Millis) {
    while window.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
        window.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_slides_and_starts_have_one_of_their_own() {
        let mut limits = Limits::new(1, 2);
        assert!(limits.take("a", true, 0).is_ok());
        assert!(limits.take("a", false, 0).is_ok());
        assert!(limits.take("a", false, 30_000).is_ok());
        for is_start in [true, false] {
            let refused = limits.take("a", is_start, 59_999).expect_err("full");
            assert_eq!(refused.code, Code::RateLimited);
        }
        assert!(limits.take("b", true, 59_999).is_ok(), "another sender");
        assert!(limits.take("a", false, 60_000).is_ok());
        assert!(limits.take("a", false, 60_001).is_err(), "the one of 30 s still counts");
    }

    #[test]
    fn what_is_sent_again_is_not_refused_for_want_of_a_slot() {
        let mut limits = Limits::default();
        for what in [7, 8] {
            limits.take_of(2, "a", false, what, 0).expect("a slot");
        }
        assert!(limits.take_of(2, "a", false, 9, 1).is_err());
        assert!(limits.take_of(2, "a", false, 7, 1).is_ok(), "it has one");
        assert!(limits.take_of(2, "b", false, 9, 1).is_ok(), "another sender");
        assert!(limits.take_of(2, "a", false, 0, 1).is_err(), "nobody says what it is");
        assert!(limits.take_of(2, "a", false, 9, 60_000).is_ok());
    }

    #[test]
    fn silent_senders_are_forgotten() {
        let mut limits = Limits::default();
        for sender in ["a", "b"] {
            limits.take(sender, false, 0).expect("a slot");
        }
        limits.take("b", false, 50_000).expect("a slot");
        assert_eq!(limits.senders(), 2);
        limits.take("c", false, 60_000).expect("a slot");
        assert_eq!(limits.senders(), 2, "`a` is forgotten");
    }
}
