//! The one backoff helper: exponential, bounded, with jitter that the caller supplies.

use std::time::Duration;

/// How delays grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// First delay.
    pub base: Duration,
    /// No delay is longer, before jitter.
    pub max: Duration,
    /// Share of the delay that jitter may add or take, 0.0 to 1.0.
    pub jitter: f64,
}

/// A number in 0.0..1.0 from whoever owns randomness; 0.5 means "no jitter".
pub type Jitter = f64;

impl Backoff {
    /// Delay before attempt `attempt` (0 is the first wait): `base * 2^attempt`, at most `max`,
    /// moved by at most `jitter` of itself.
    pub fn delay(&self, attempt: u32, random: Jitter) -> Duration {
        let doubled = self.base.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX));
        let delay = doubled.min(self.max);
        let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
        delay.mul_f64((1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * random - 1.0)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const B: Backoff =
        Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300), jitter: 0.2 };

    #[test]
    fn delays_double_until_the_maximum() {
        let got: Vec<_> = (0..11).map(|n| B.delay(n, 0.5).as_secs()).collect();
        assert_eq!(got, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_share(n in 0u32..80, r in 0.0f64..1.0) {
            let plain = B.delay(n, 0.5);
            let with = B.delay(n, r);
            prop_assert!(with >= plain.mul_f64(0.799) && with <= plain.mul_f64(1.201));
        }
    }
}
