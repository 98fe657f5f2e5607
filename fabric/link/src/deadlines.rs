//! The deadlines of asks within this node, watched by one thread that mostly sleeps.
//!
//! Nearly every ask is answered long before its deadline, so what counts is that adding and
//! removing one is cheap: a slot in a table, no timer and no reading of the clock. The thread sleeps
//! until the earliest deadline it knows and then looks at them all, at most once a millisecond. It
//! starts with the first ask and ends with the fabric.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use weft_wire::AskError;

use crate::audit::SharedClock;

/// Tables, so that threads that ask do not meet.
const SHARDS: usize = 8;
/// Deadlines are looked at no oftener.
const PRECISION: Duration = Duration::from_millis(1);
/// Nothing to wait for.
const NEVER: u64 = u64::MAX;

/// Something that ends at its deadline.
pub(crate) trait Expire: Send + Sync {
    /// The deadline has passed. Called at most once.
    fn expire(&self);
}

/// A deadline that has been added.
#[derive(Debug)]
pub(crate) struct Ticket {
    shard: usize,
    slot: usize,
}

enum Slot {
    Free,
    Waiting(Instant, Arc<dyn Expire>),
    Expired,
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Table>);

#[derive(Default)]
struct Sleeper {
    running: bool,
    closed: bool,
}

struct Shared {
    shards: [Shard; SHARDS],
    clock: SharedClock,
    base: Instant,
    /// When the thread looks next, in microseconds since `base`; changed under `sleeper`.
    next: AtomicU64,
    sleeper: Mutex<Sleeper>,
    earlier: Condvar,
}

/// See the module's docs. Deadlines are those of the fabric's clock.
pub(crate) struct Deadlines(Arc<Shared>);

fn shard_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        own.get().unwrap_or_else(|| {
            let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
            own.set(Some(shard));
            shard
        })
    })
}

impl Deadlines {
    pub(crate) fn new(clock: SharedClock) -> Self {
        let base = clock.0.now();
        Self(Arc::new(Shared {
            shards: Default::default(),
            clock,
            base,
            next: AtomicU64::new(NEVER),
            sleeper: Mutex::default(),
            earlier: Condvar::new(),
        }))
    }

    /// Expires `what` at `deadline` unless it is removed before. Every ticket must be removed.
    ///
    /// # Errors
    /// `Overloaded`: the machine gives no thread.
    pub(crate) fn add(&self, deadline: Instant, what: Arc<dyn Expire>) -> Result<Ticket, AskError> {
        let shared = &*self.0;
        let shard = shard_of_thread();
        let Some(Shard(table)) = shared.shards.get(shard) else {
            return Err(AskError::Overloaded("no table for deadlines".into()));
        };
        let waiting = Slot::Waiting(deadline, what);
        let slot = {
            let mut table = table.lock();
            match table.free.pop() {
                Some(index) => {
                    if let Some(slot) = table.slots.get_mut(index) {
                        *slot = waiting;
                    }
                    index
                }
                None => {
                    table.slots.push(waiting);
                    table.slots.len() - 1
                }
            }
        };
        let ticket = Ticket { shard, slot };
        let due = shared.micros(deadline);
        if due < shared.next.load(Ordering::Acquire)
            && let Err(error) = self.look_by(due)
        {
            self.remove(ticket);
            return Err(error);
        }
        Ok(ticket)
    }

    pub(crate) fn remove(&self, Ticket { shard, slot }: Ticket) {
        let Some(Shard(table)) = self.0.shards.get(shard) else { return };
        let mut table = table.lock();
        let Some(place) = table.slots.get_mut(slot) else { return };
        let old = std::mem::replace(place, Slot::Free);
        table.free.push(slot);
        drop(table);
        drop(old);
    }

    fn look_by(&self, due: u64) -> Result<(), AskError> {
        let mut sleeper = self.0.sleeper.lock();
        if !sleeper.running {
            let shared = self.0.clone();
            std::thread::Builder::new()
                .name("weft-deadlines".to_owned())
                .spawn(move || shared.watch())
                .map_err(|error| AskError::Overloaded(format!("no thread: {error}")))?;
            sleeper.running = true;
        }
        if due < self.0.next.load(Ordering::Acquire) {
            self.0.next.store(due, Ordering::Release);
            self.0.earlier.notify_one();
        }
        Ok(())
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        self.0.sleeper.lock().closed = true;
        self.0.earlier.notify_one();
    }
}

impl Shared {
    /// Rounded up.
    fn micros(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.base).as_micros();
        u64::try_from(after).unwrap_or(NEVER - 2) + 1
    }

    fn watch(&self) {
        let mut sleeper = self.sleeper.lock();
        loop {
            if sleeper.closed {
                return;
            }
            let next = self.next.load(Ordering::Acquire);
            if next == NEVER {
                self.earlier.wait(&mut sleeper);
                continue;
            }
            let now = self.clock.0.now();
            if let Some(left) = next.checked_sub(self.micros(now)).filter(|left| *left > 0) {
                let left = Duration::from_micros(left).max(PRECISION);
                let _ = self.earlier.wait_for(&mut sleeper, left);
                continue;
            }
            // From here on whoever adds one says so; what was added before is seen.
            self.next.store(NEVER, Ordering::Release);
            drop(sleeper);
            let earliest = self.sweep(now);
            sleeper = self.sleeper.lock();
            let next = self.next.load(Ordering::Acquire).min(earliest);
            self.next.store(next, Ordering::Release);
        }
    }

    /// Ends what is due; when the next one is.
    fn sweep(&self, now: Instant) -> u64 {
        let mut due = Vec::new();
        let mut earliest = None;
        for Shard(table) in &self.shards {
            let mut table = table.lock();
            for slot in &mut table.slots {
                match slot {
                    Slot::Waiting(deadline, _) if *deadline <= now => {
                        if let Slot::Waiting(_, what) = std::mem::replace(slot, Slot::Expired) {
                            due.push(what);
                        }
                    }
                    Slot::Waiting(deadline, _) => {
                        earliest =
                            Some(earliest.map_or(*deadline, |known: Instant| known.min(*deadline)));
                    }
                    Slot::Free | Slot::Expired => {}
                }
            }
        }
        for what in due {
            what.expire();
        }
        earliest.map_or(NEVER, |at| self.micros(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::{Clock as _, SystemClock};

    struct Told(std::sync::mpsc::Sender<u32>, u32);

    impl Expire for Told {
        fn expire(&self) {
            let _ = self.0.send(self.1);
        }
    }

    fn deadlines() -> Deadlines {
        Deadlines::new(SharedClock(Arc::new(SystemClock)))
    }

    #[test]
    fn what_is_due_expires_also_when_it_was_added_after_something_later() {
        let deadlines = deadlines();
        let (sender, told) = std::sync::mpsc::channel();
        let add = |after: u64, n| {
            let at = SystemClock.now() + Duration::from_millis(after);
            deadlines.add(at, Arc::new(Told(sender.clone(), n))).unwrap()
        };
        let late = add(3_600_000, 3);
        let second = add(60, 2);
        let first = add(5, 1);
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(1));
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(2));
        let another = add(0, 4);
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(4));
        for ticket in [late, second, first, another] {
            deadlines.remove(ticket);
        }
    }

    #[test]
    fn what_was_removed_never_expires_and_its_slot_is_used_again() {
        let deadlines = deadlines();
        let (sender, told) = std::sync::mpsc::channel();
        for n in 0..1000 {
            let at = SystemClock.now() + Duration::from_secs(3600);
            let ticket = deadlines.add(at, Arc::new(Told(sender.clone(), n))).unwrap();
            deadlines.remove(ticket);
        }
        let slots: usize = deadlines.0.shards.iter().map(|shard| shard.0.lock().slots.len()).sum();
        assert_eq!(slots, 1);
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn its_thread_ends_with_it() {
        let deadlines = deadlines();
        let (sender, told) = std::sync::mpsc::channel();
        let ticket = deadlines.add(SystemClock.now(), Arc::new(Told(sender, 1))).unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(1));
        deadlines.remove(ticket);
        let shared = Arc::downgrade(&deadlines.0);
        drop(deadlines);
        let until = SystemClock.now() + Duration::from_secs(10);
        while shared.strong_count() > 0 {
            assert!(SystemClock.now() < until, "the thread is still there");
            std::thread::yield_now();
        }
    }
}
