//! How far wall time is believed when history is deleted (design §9: wall-clock TTLs follow, forward
//! jumps are capped).

use std::time::{Duration, Instant};

use weft_wire::WallTime;

/// More than this beyond the monotonic time that passed is not believed at once. A machine that
/// was off catches up by this much at every look, so history then only lives longer.
pub const SLACK: Duration = Duration::from_secs(3600);

/// Wall time that advances no faster than monotonic time, give or take [`SLACK`] a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aging {
    trusted: WallTime,
    seen: Instant,
}

impl Aging {
    /// From what was trusted last; with nothing to go by, wall time is believed as it is.
    pub fn new(trusted: Option<WallTime>, now: Instant, wall: WallTime) -> Self {
        Self { trusted: trusted.unwrap_or(wall), seen: now }
    }

    /// The time by which history is to be deleted now: never later than `wall`.
    pub fn advance(&mut self, now: Instant, wall: WallTime) -> WallTime {
        let passed = now.saturating_duration_since(self.seen);
        self.seen = now;
        let most = self.trusted.plus(passed).plus(SLACK);
        // A clock set back takes nothing of what was trusted: it may be set right again.
        self.trusted = self.trusted.max(wall.min(most));
        self.trusted.min(wall)
    }

    /// What is to be remembered over restarts.
    pub const fn trusted(&self) -> WallTime {
        self.trusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_wire::{Clock, ManualClock};

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_clock_set_forward_takes_no_more_history_than_time_has_passed_and_an_hour() {
        let start = WallTime::from_micros(1_795_000_000_000_000);
        let clock = ManualClock::new(start);
        let mut aging = Aging::new(None, clock.now(), clock.wall());
        clock.advance(HOUR);
        assert_eq!(aging.advance(clock.now(), clock.wall()), start.plus(HOUR));
        clock.set_wall(start.plus(3650 * DAY));
        clock.advance(HOUR);
        assert_eq!(aging.advance(clock.now(), clock.wall()), start.plus(3 * HOUR));
        // Nor does a restart help it.
        let mut again = Aging::new(Some(aging.trusted()), clock.now(), clock.wall());
        assert_eq!(again.advance(clock.now(), clock.wall()), start.plus(4 * HOUR));
        // Set right: the true time, and no later.
        clock.set_wall(start.plus(2 * HOUR));
        assert_eq!(aging.advance(clock.now(), clock.wall()), start.plus(2 * HOUR));
    }

    #[test]
    fn a_clock_that_was_wrong_the_other_way_for_a_while_holds_nothing_up() {
        let start = WallTime::from_micros(1_795_000_000_000_000);
        let clock = ManualClock::new(start);
        let mut aging = Aging::new(None, clock.now(), clock.wall());
        clock.set_wall(WallTime::from_micros(0));
        assert_eq!(aging.advance(clock.now(), clock.wall()), WallTime::from_micros(0));
        clock.set_wall(start);
        assert_eq!(aging.advance(clock.now(), clock.wall()), start);
    }

    proptest! {
        #[test]
        fn it_is_never_ahead_of_the_wall_nor_faster_than_time_and_slack(
            steps in proptest::collection::vec((0u64..200, -400i64..400), 1..50)
        ) {
            let start = WallTime::from_micros(1_795_000_000_000_000);
            let clock = ManualClock::new(start);
            let mut aging = Aging::new(None, clock.now(), clock.wall());
            for (hours, jump) in steps {
                let before = aging.trusted();
                let passed = HOUR * u32::try_from(hours).unwrap_or(0);
                clock.advance(passed);
                let days = DAY * u32::try_from(jump.unsigned_abs()).unwrap_or(0);
                let wall = clock.wall();
                clock.set_wall(if jump < 0 { wall.minus(days) } else { wall.plus(days) });
                let now = aging.advance(clock.now(), clock.wall());
                prop_assert!(now <= clock.wall());
                prop_assert!(aging.trusted() >= before);
                prop_assert!(aging.trusted() <= before.plus(passed).plus(SLACK));
            }
        }
    }
}
