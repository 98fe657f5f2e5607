//! How far two clocks may be apart when a node joins (design §3).

use std::time::Duration;

use weft_wire::WallTime;

use crate::text::span;

/// Largest difference between two clocks at join.
pub const SKEW_MAX: Duration = Duration::from_secs(300);

/// Two clocks that are too far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock of the machine that joins is {} {} the cluster's: at most {} are allowed; set it (for example by NTP) and join again",
    span(*by), if *theirs_ahead { "ahead of" } else { "behind" }, span(SKEW_MAX)
)]
pub struct Skew {
    /// By how much they differ.
    pub by: Duration,
    /// Whether the joiner's clock is the one that is ahead.
    pub theirs_ahead: bool,
}

/// Compares the joiner's clock with ours.
///
/// # Errors
/// [`Skew`] beyond [`SKEW_MAX`].
pub fn check_skew(theirs: WallTime, ours: WallTime) -> Result<(), Skew> {
    let theirs_ahead = theirs > ours;
    let by = if theirs_ahead { theirs.since(ours) } else { ours.since(theirs) };
    if by > SKEW_MAX { Err(Skew { by, theirs_ahead }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_minutes_of_skew_are_refused_and_printed() {
        let ours = WallTime::from_micros(1_800_000_000_000_000);
        let ten = Duration::from_secs(600);
        let error = check_skew(ours.plus(ten), ours).expect_err("ahead");
        assert!(error.to_string().contains("10 min 0 s ahead of"), "{error}");
        let error = check_skew(ours.minus(ten), ours).expect_err("behind");
        assert!(error.to_string().contains("10 min 0 s behind"), "{error}");
        assert_eq!(check_skew(ours.plus(SKEW_MAX), ours), Ok(()));
        assert_eq!(check_skew(ours.minus(SKEW_MAX), ours), Ok(()));
        assert!(check_skew(WallTime::from_micros(i64::MIN), ours).is_err());
        assert!(
            check_skew(WallTime::from_micros(i64::MAX), WallTime::from_micros(i64::MIN)).is_err()
        );
    }
}
