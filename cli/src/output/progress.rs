//! How far a transfer is: one line on the terminal, drawn over itself.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use weft_wire::{Clock, SystemClock};

use super::Output;

/// Smaller transfers are over before anybody could read it, in bytes (orchestration §11).
const LEAST: u64 = 256 * 1024;
/// Between two drawings.
const PAUSE: Duration = Duration::from_millis(100);
/// Cells of the bar.
const CELLS: u64 = 24;

/// A line that is gone once it is dropped; draws nothing where nobody looks.
#[derive(Debug)]
pub(crate) struct Progress {
    label: String,
    total: u64,
    done: u64,
    drawn: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(output: &Output, label: impl Into<String>, total: u64) -> Self {
        let looks = !output.json && !output.quiet && std::io::stderr().is_terminal();
        let shown = looks && total > LEAST;
        let mut line = Self { label: label.into(), total, done: 0, drawn: None, shown };
        line.draw(SystemClock.now());
        line
    }

    /// So many more bytes are there.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes).min(self.total);
        let now = SystemClock.now();
        let due = self.drawn.is_none_or(|drawn| now.duration_since(drawn) >= PAUSE);
        if due || self.done == self.total {
            self.draw(now);
        }
    }

    fn draw(&mut self, now: Instant) {
        if self.shown {
            let text = line(&self.label, self.done, self.total);
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
            self.drawn = Some(now);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

fn line(label: &str, done: u64, total: u64) -> String {
    let cells = done.min(total).saturating_mul(CELLS).checked_div(total).unwrap_or(CELLS);
    let bar: String = (0..CELLS).map(|cell| if cell < cells { '#' } else { '.' }).collect();
    format!("{label} [{bar}] {} of {}", size(done), size(total))
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_transfer_is_far() {
        assert_eq!(line("a", 0, 4 << 20), "a [........................] 0 B of 4.0 MiB");
        assert_eq!(line("a", 1 << 20, 4 << 20), "a [######..................] 1.0 MiB of 4.0 MiB");
        assert_eq!(line("a", 4 << 20, 4 << 20), "a [########################] 4.0 MiB of 4.0 MiB");
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!([size(1023), size(1536), size(5 << 30)], ["1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
