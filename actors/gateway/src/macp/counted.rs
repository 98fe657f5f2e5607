//! What clients sent and what became of it, for metrics (§19). Labels are words of the standard
//! modes only; whatever else clients write is one value, so nobody can make series without end.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;
use weft_protocol::{SessionAck, SessionRefusal};
use weft_session::Catalogue;

/// What is no word of a standard mode.
pub(crate) const OTHER: &str = "_OTHER";
/// Upper bounds of the buckets, in seconds.
pub(crate) const BUCKETS: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::default);

/// A standard mode's name, or [`OTHER`].
pub(crate) fn mode(name: &str) -> &'static str {
    let modes = CATALOGUE.standard_modes().into_iter();
    modes.map(|mode| mode.mode.as_str()).find(|known| *known == name).unwrap_or(OTHER)
}

fn kind(name: &str) -> &'static str {
    let kinds = CATALOGUE.standard_modes().into_iter().flat_map(|mode| &mode.message_types);
    let ambient = ["SessionStart", "Signal", "Progress"].into_iter();
    kinds.map(String::as_str).chain(ambient).find(|known| *known == name).unwrap_or(OTHER)
}

/// What became of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Accepted,
    Duplicate,
    Rejected,
}

impl Outcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
        }
    }

    pub(crate) fn of(answer: &Result<SessionAck, SessionRefusal>) -> Self {
        match answer {
            Ok(ack) if ack.duplicate => Self::Duplicate,
            Ok(_) => Self::Accepted,
            Err(_) => Self::Rejected,
        }
    }
}

/// Which envelopes are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    pub(crate) mode: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) outcome: Outcome,
}

/// How many, and how long they took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Taken {
    pub(crate) count: u64,
    /// Seconds.
    pub(crate) sum: f64,
    /// How many took at most so long; as [`BUCKETS`].
    pub(crate) within: [u64; BUCKETS.len()],
}

impl Taken {
    fn add(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.count += 1;
        self.sum += took;
        for (within, bound) in self.within.iter_mut().zip(BUCKETS) {
            *within += u64::from(took <= bound);
        }
    }
}

/// All envelopes that this node was sent.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<BTreeMap<Series, Taken>>);

impl Counted {
    pub(crate) fn add(&self, of: (&str, &str), outcome: Outcome, took: Duration) {
        let series = Series { mode: mode(of.0), kind: kind(of.1), outcome };
        self.0.lock().entry(series).or_default().add(took);
    }

    pub(crate) fn all(&self) -> Vec<(Series, Taken)> {
        self.0.lock().iter().map(|(series, taken)| (*series, *taken)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_write_makes_no_series_of_its_own() {
        let counted = Counted::default();
        let took = Duration::from_millis(3);
        for n in 0..100 {
            let (mode, kind) = (format!("ext.{n}"), format!("Kind{n}"));
            counted.add((&mode, &kind), Outcome::Rejected, took);
            counted.add(("macp.mode.decision.v1", &kind), Outcome::Accepted, took);
        }
        counted.add(("macp.mode.decision.v1", "Vote"), Outcome::Duplicate, took);
        let all = counted.all();
        let names = |at: usize| (all[at].0.mode, all[at].0.kind, all[at].1.count);
        assert_eq!(all.len(), 3);
        assert_eq!(names(0), (OTHER, OTHER, 100));
        assert_eq!(names(1), ("macp.mode.decision.v1", "Vote", 1));
        assert_eq!(names(2), ("macp.mode.decision.v1", OTHER, 100));
        assert_eq!(all[0].1.within[3], 0, "not within 2.5 ms");
        assert_eq!(all[0].1.within[4], 100, "within 5 ms");
        assert_eq!(all[0].1.within[11], 100);
    }
}
