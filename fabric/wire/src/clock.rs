//! The one clock trait. State machines take instants as arguments; only shells read a clock.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Wall time in microseconds since the Unix epoch, UTC. Stored and sent as this number.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WallTime(i64);

impl WallTime {
    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This time moved forward, saturating.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This time moved back, saturating.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As the standard library has it.
    pub fn to_system(self) -> SystemTime {
        match u64::try_from(self.0) {
            Ok(after) => UNIX_EPOCH + Duration::from_micros(after),
            Err(_) => UNIX_EPOCH - Duration::from_micros(self.0.unsigned_abs()),
        }
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => Self(-i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX)),
        }
    }
}

/// Reads time. Monotonic time drives timers, wall time only what people and other nodes see.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time of this process.
    fn now(&self) -> Instant;
    /// Wall time; may jump.
    fn wall(&self) -> WallTime;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn wall(&self) -> WallTime {
        SystemTime::now().into()
    }
}

/// A clock that moves only when told to; for tests.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    state: Mutex<(Duration, WallTime)>,
}

impl ManualClock {
    /// Starts at the given wall time.
    pub fn new(wall: WallTime) -> Self {
        Self { start: SystemClock.now(), state: Mutex::new((Duration::ZERO, wall)) }
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0 += by;
        state.1 = state.1.plus(by);
    }

    /// Makes wall time jump, leaving monotonic time alone.
    pub fn set_wall(&self, wall: WallTime) {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1 = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn wall(&self) -> WallTime {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }
}
