//! What was shown is not shown again, and nothing between is lost.

use proptest::prelude::*;
use weft_protocol::LogStream;

use super::*;
use crate::rows::tests::{key, member};

fn line(component: &str, time: i64, text: &str) -> LogLine {
    LogLine {
        key: key("web", 1, component),
        time: WallTime::from_micros(time),
        stream: LogStream::Stdout,
        text: text.into(),
    }
}

#[test]
fn an_event_is_shown_once() {
    let mut shown = Shown::default();
    assert!(shown.is_new(Uuid::from_u128(1)));
    assert!(!shown.is_new(Uuid::from_u128(1)));
}

#[test]
fn lines_of_one_moment_are_told_apart_by_their_number() {
    let mut seen = Seen::default();
    seen.note(&member(1), &line("api", 5, "a"));
    seen.note(&member(1), &line("api", 5, "b"));
    let again = [line("api", 5, "a"), line("api", 5, "b"), line("api", 5, "c")];
    let new: Vec<_> = again.iter().map(|line| seen.is_new(&member(1), line)).collect();
    assert_eq!(new, [false, false, true]);
    assert!(seen.is_new(&member(2), &line("api", 5, "a")), "another node's");
}

proptest! {
    /// A component's log is read to some point, then again from some earlier point, broken off
    /// and read again: every line is shown exactly once, in order.
    #[test]
    fn reading_again_from_earlier_shows_every_line_once(
        gaps in prop::collection::vec(0i64..3, 1..40),
        first in 0usize..40,
        cuts in prop::collection::vec(0usize..40, 0..4),
    ) {
        let mut time = 100;
        let log: Vec<LogLine> = gaps.iter().enumerate().map(|(n, gap)| {
            time += gap;
            line("api", time, &n.to_string())
        }).collect();
        let mut seen = Seen::default();
        let mut shown: Vec<String> = Vec::new();
        for line in log.iter().take(first) {
            seen.note(&member(1), line);
            shown.push(line.text.clone());
        }
        for cut in cuts.into_iter().chain([log.len()]) {
            // The stream is opened from the last shown moment on, or from the start.
            let since = shown.len().checked_sub(1).and_then(|n| log.get(n)).map(|l| l.time);
            seen.reopened(&member(1));
            for line in log.iter().filter(|l| since.is_none_or(|s| l.time >= s)).take(cut) {
                if seen.is_new(&member(1), line) {
                    shown.push(line.text.clone());
                }
            }
        }
        let all: Vec<String> = log.iter().map(|line| line.text.clone()).collect();
        prop_assert_eq!(shown, all);
    }
}
