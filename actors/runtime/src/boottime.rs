//! The clock of leases: `CLOCK_BOOTTIME`, which goes on while the machine is suspended and means
//! the same to the daemon, its shims and the next daemon.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since this boot, rounded up: a lease never seems longer for it.
pub(crate) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos.div_ceil(1_000_000))
}
