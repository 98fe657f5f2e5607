//! Durations, sizes, diagnostics.

use std::time::Duration;

use proptest::prelude::*;

use crate::{Diagnostic, format_duration, format_size, nearest, parse_duration, parse_size};

#[test]
fn durations_are_read_as_written() {
    for (text, millis) in [
        ("60s", 60_000),
        ("15m", 900_000),
        ("30d", 2_592_000_000),
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("1m500ms", 60_500),
        ("0s", 0),
        ("3650d", 315_360_000_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn a_bad_duration_says_what_to_write() {
    let message = |text: &str| parse_duration(text).unwrap_err().to_string();
    assert_eq!(message(""), "a duration is missing: write a number and a unit, like `60s`");
    assert_eq!(message("60"), "`60` has no unit: write `60s` for seconds (units: ms, s, m, h, d)");
    assert_eq!(message("5w"), "`w` in `5w` is no unit of time: use ms, s, m, h or d");
    assert_eq!(
        message("1.5s"),
        "`1.5s` is not a duration: write a whole number and a unit, like `60s` or `1500ms`"
    );
    assert_eq!(
        message("-5s"),
        "`-5s` is not a duration: write a whole number and a unit, like `60s` or `1500ms`"
    );
    assert_eq!(message("5m1h"), "`5m1h`: write larger units first and each once, like `1h30m`");
    assert_eq!(message("3651d"), "`3651d` is longer than ten years (3650d)");
    assert_eq!(
        message("99999999999999999999d"),
        "`99999999999999999999d` is longer than ten years (3650d)"
    );
    assert_eq!(message("5 s"), "` s` in `5 s` is no unit of time: use ms, s, m, h or d");
}

#[test]
fn sizes_are_read_as_written() {
    for (text, bytes) in
        [("512", 512), ("64KiB", 65536), ("256MiB", 268_435_456), ("2GB", 2_000_000_000), ("7B", 7)]
    {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for bad in ["", "MiB", "1.5GiB", "-1", "5 MiB", "5mib", "99999999999TiB", "9223372036854775808"]
    {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_nearest_word_is_near() {
    let words = ["image", "replicas", "name"];
    assert_eq!(nearest("imgae", words), Some("image"));
    assert_eq!(nearest("Replica", words), Some("replicas"));
    assert_eq!(nearest("zone", words), None);
    assert_eq!(nearest("", words), None);
}

#[test]
fn a_place_beyond_the_text_is_its_end() {
    let diagnostic = Diagnostic::at("f", "a\nbc", 900..999, "m");
    assert_eq!((diagnostic.line, diagnostic.column), (2, 3));
    assert_eq!(Diagnostic::at("f", "é", 1..1, "m").column, 1);
}

#[test]
fn a_message_cannot_smuggle_terminal_codes() {
    let text = "a\u{1b}[31m = 1\u{7}";
    let drawn = Diagnostic::at("f", text, 0..1, format!("bad {text}")).help("h\u{1b}").to_string();
    assert!(!drawn.contains('\u{1b}') && !drawn.contains('\u{7}'), "{drawn:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn durations_are_written_as_they_are_read(millis in 0u64..315_360_000_000) {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn sizes_are_written_as_they_are_read(bytes in 0..i64::MAX as u64) {
        prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
    }

    #[test]
    fn any_text_is_a_duration_or_an_error(text in ".*") {
        let _ = (parse_duration(&text), parse_size(&text));
    }

    #[test]
    fn any_place_can_be_drawn(text in "(.|\\n|\\t){0,300}", start in 0usize..400, length in 0usize..400) {
        let drawn = Diagnostic::at("f", &text, start..start + length, "m").to_string();
        prop_assert!(drawn.contains('^'));
    }
}
