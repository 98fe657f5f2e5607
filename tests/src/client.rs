//! A client that follows a service's addresses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_wire::{Clock, SystemClock};

use crate::DEADLINE;

/// Does something while a client asks every 10 ms, taking the next address when one refuses, and
/// new ones when all do; returns how long it waited at most.
///
/// # Panics
/// If nobody answers for [`DEADLINE`].
pub fn polled<T>(
    urls: impl Fn() -> Vec<String> + Sync,
    answers: impl Fn(&str) -> bool + Sync,
    work: impl FnOnce() -> T,
) -> (T, Duration) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut known, mut longest) = (urls(), Duration::ZERO);
            let mut at = 0;
            while !over.load(Ordering::Relaxed) {
                let start = SystemClock.now();
                let mut tried = 0;
                while !known.get(at).is_some_and(|url| answers(url)) {
                    tried += 1;
                    at += 1;
                    if tried > known.len() {
                        known = urls();
                        tried = 0;
                    }
                    at %= known.len().max(1);
                    assert!(start.elapsed() < DEADLINE, "nobody answers at {known:?}");
                }
                longest = longest.max(start.elapsed());
                std::thread::park_timeout(Duration::from_millis(10));
            }
            longest
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        (done, client.join().expect("the client got its answers"))
    })
}
