//! Durations as people write them: `500ms`, `60s`, `15m`, `1h30m`, `30d`.

use std::time::Duration;

/// Longest duration accepted: ten years, so that adding it to any time stays in range.
pub const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Why a text is no duration; the message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing there.
    #[error("a duration is missing: write a number and a unit, like `60s`")]
    Empty,
    /// A number alone.
    #[error("`{0}` has no unit: write `{0}s` for seconds (units: ms, s, m, h, d)")]
    NoUnit(String),
    /// Not ms, s, m, h or d.
    #[error("`{unit}` in `{text}` is no unit of time: use ms, s, m, h or d")]
    Unit {
        /// What stands for the unit.
        unit: String,
        /// The whole.
        text: String,
    },
    /// Something other than digits where a number belongs.
    #[error("`{0}` is not a duration: write a whole number and a unit, like `60s` or `1500ms`")]
    Number(String),
    /// `1m1h`, `1s1s`.
    #[error("`{0}`: write larger units first and each once, like `1h30m`")]
    Order(String),
    /// Over ten years.
    #[error("`{0}` is longer than ten years (3650d)")]
    TooLong(String),
}

/// Parses `<number><unit>`, or several of them from the largest unit down; at most ten years.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.trim().is_empty() {
        return Err(DurationError::Empty);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        if digits == 0 {
            return Err(DurationError::Number(text.to_owned()));
        }
        if tail.is_empty() {
            return Err(DurationError::NoUnit(text.to_owned()));
        }
        if tail.starts_with(['.', ',']) {
            return Err(DurationError::Number(text.to_owned()));
        }
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let Some((_, millis)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::Unit { unit: unit.to_owned(), text: text.to_owned() });
        };
        if *millis >= last {
            return Err(DurationError::Order(text.to_owned()));
        }
        last = *millis;
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*millis))
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        rest = tail;
    }
    let total = Duration::from_millis(total);
    if total > LONGEST { Err(DurationError::TooLong(text.to_owned())) } else { Ok(total) }
}

/// Writes a duration with the largest single unit that is exact (`90s`, `15m`, `500ms`); what is
/// less than a millisecond is dropped. [`parse_duration`] reads it back.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    for (unit, size) in UNITS {
        if millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}
