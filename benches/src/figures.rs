//! Samples, their least, middle and greatest, and tables of them.

use std::time::Duration;

use serde::Serialize;

/// Of some samples, in their unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Three {
    /// How many.
    pub n: usize,
    /// The least.
    pub min: f64,
    /// The middle one; of an even number, the upper of the two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Three {
    /// Of no samples: zeros.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(0.0);
        Self {
            n: sorted.len(),
            min: at(0),
            median: at(sorted.len() / 2),
            max: at(sorted.len().saturating_sub(1)),
        }
    }

    /// Of times, in seconds.
    pub fn seconds(times: &[Duration]) -> Self {
        Self::of(&times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>())
    }

    /// `n | min | median | max` for a table, with three places.
    pub fn cells(&self) -> String {
        format!("{} | {:.3} | {:.3} | {:.3}", self.n, self.min, self.median, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::Three;

    #[test]
    fn the_middle_sample_is_the_median_whatever_the_order() {
        let three = Three::of(&[5.0, 1.0, 3.0]);
        assert_eq!((three.n, three.min, three.median, three.max), (3, 1.0, 3.0, 5.0));
        assert_eq!(Three::of(&[]).cells(), "0 | 0.000 | 0.000 | 0.000");
    }
}
