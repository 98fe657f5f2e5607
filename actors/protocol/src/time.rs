//! Times as people and scripts see them.

use std::time::Duration;

use jiff::Timestamp;
use weft_wire::WallTime;

/// RFC 3339 UTC with microseconds (issue "JSON that scripts may rely on").
pub fn format_time(time: WallTime) -> String {
    Timestamp::from_microsecond(time.as_micros())
        .map_or_else(|_| time.as_micros().to_string(), |stamp| format!("{stamp:.6}"))
}

/// Reads what [`format_time`] writes, and any other RFC 3339 time.
///
/// # Errors
/// A sentence that names the text and what was expected.
pub fn parse_time(text: &str) -> Result<WallTime, String> {
    text.parse::<Timestamp>().map(|stamp| WallTime::from_micros(stamp.as_microsecond())).map_err(
        |_| format!("`{text}` is not a time: expected RFC 3339, such as 2026-01-31T12:00:00Z"),
    )
}

/// The two largest units without a space: `12s`, `2m19s`, `23h57m`, `2d16h` (orchestration §7).
pub fn uptime(duration: Duration) -> String {
    let s = duration.as_secs();
    let (d, h, m) = (s / 86_400, s / 3_600 % 24, s / 60 % 60);
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{m}m{}s", s % 60),
        3_600..86_400 => format!("{h}h{m}m"),
        _ => format!("{d}d{h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_prints_the_two_largest_units() {
        let cases = [(12, "12s"), (139, "2m19s"), (86_220, "23h57m"), (230_400, "2d16h")];
        for (secs, text) in cases {
            assert_eq!(uptime(Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn times_round_trip_as_rfc_3339() {
        let time = WallTime::from_micros(1_795_000_000_123_456);
        let text = format_time(time);
        assert!(text.ends_with("123456Z"), "{text}");
        assert_eq!(parse_time(&text), Ok(time));
        assert!(parse_time("yesterday").is_err());
    }
}
