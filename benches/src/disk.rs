//! What a disk syncs by itself: what is durable cannot be faster one by one.

use std::fmt;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use weft_wire::{Clock, SystemClock};

/// Pages of the file that is written over; as many as SQLite lets its log have.
const PAGES: u32 = 1000;

/// 4 KiB written and synced, again and again.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bare {
    /// Syncs a second of what is written over what is there, as SQLite's log does once it has its
    /// size.
    pub over: f64,
    /// Syncs a second of what is added to a file, which costs the file system's journal too.
    pub added: f64,
}

impl fmt::Display for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { over, added } = self;
        write!(f, "bare fsync of 4 KiB: {over:.0}/s written over, {added:.0}/s added to a file")
    }
}

/// Of the disk that `dir` is on; each of the two is measured for `lasts`.
///
/// # Errors
/// What the file system says.
pub fn bare(dir: &Path, lasts: Duration) -> io::Result<Bare> {
    Ok(Bare { over: syncs(dir, lasts, true)?, added: syncs(dir, lasts, false)? })
}

fn syncs(dir: &Path, lasts: Duration, over: bool) -> io::Result<f64> {
    let path = dir.join("bare");
    let mut file = std::fs::File::create(&path)?;
    if over {
        for _ in 0..PAGES {
            file.write_all(&[1; 4096])?;
        }
        file.sync_all()?;
    }
    let start = SystemClock.now();
    let mut count = 0u32;
    while start.elapsed() < lasts {
        if over && count.is_multiple_of(PAGES) {
            file.rewind()?;
        }
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}
