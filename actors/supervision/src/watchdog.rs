//! Notices actors that block their thread: a thread of its own pings theirs.
//!
//! It counts rounds without a sign of life, not time, so that a process that was itself suspended
//! finds nobody hung. Any message handled is a sign of life, so a busy actor isn't taken for a
//! hung one.

use std::collections::HashMap;
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::core::Core;
use crate::life::End;
use crate::machine::ChildId;
use crate::place::Beat;
use crate::tree::TreeError;

/// When a silent actor counts as hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchdog {
    /// Time between pings; default 1 s.
    pub every: Duration,
    /// Silence that makes it hung, a multiple of `every`; default 10 s. Shown as `hung` from
    /// three tenths of it on.
    pub silence: Duration,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { every: Duration::from_secs(1), silence: Duration::from_secs(10) }
    }
}

impl Watchdog {
    fn rounds(&self) -> u32 {
        let every = self.every.max(Duration::from_millis(1));
        u32::try_from(self.silence.as_millis().div_ceil(every.as_millis()))
            .unwrap_or(u32::MAX)
            .max(2)
    }
}

/// The watchdog's thread; ends when dropped.
pub(crate) struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Seen {
    beat: Arc<Beat>,
    progress: u64,
    missed: u32,
}

impl Watch {
    pub(crate) fn start(core: &Arc<Core>, config: Watchdog) -> Result<Self, TreeError> {
        let (stop, stopped) = mpsc::channel::<()>();
        let core = Arc::downgrade(core);
        let thread = std::thread::Builder::new()
            .name("weft-watchdog".to_owned())
            .spawn(move || watch(&core, config, &stopped))
            .map_err(|error| TreeError::Threads(error.to_string()))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(core: &Weak<Core>, config: Watchdog, stopped: &mpsc::Receiver<()>) {
    let limit = config.rounds();
    let mut seen: HashMap<ChildId, Seen> = HashMap::new();
    while stopped.recv_timeout(config.every) == Err(mpsc::RecvTimeoutError::Timeout) {
        let Some(core) = core.upgrade() else { return };
        let tops: Vec<_> = core
            .tops
            .lock()
            .iter()
            .map(|(id, (place, keeper))| (*id, place.clone(), keeper.clone()))
            .collect();
        seen.retain(|id, _| tops.iter().any(|(top, ..)| top == id));
        for (id, place, keeper) in tops {
            let Some(seat) = place.current() else {
                seen.remove(&id);
                continue;
            };
            let progress = seat.beat.progress();
            let ping = |seat: &crate::place::Seat| {
                let beat = seat.beat.clone();
                seat.arbiter.spawn_fn(move || beat.tick());
            };
            match seen.get_mut(&id).filter(|seen| Arc::ptr_eq(&seen.beat, &seat.beat)) {
                Some(known) if known.progress == progress => {
                    known.missed += 1;
                    if known.missed * 10 > limit * 3 {
                        keeper.row().set_hung(true, core.clock.wall());
                    }
                    if known.missed >= limit {
                        let silent = config.silence.as_secs_f64();
                        let place = seat.beat.current();
                        let place = place.as_deref().unwrap_or("an actor");
                        keeper.kill(
                            End::Hung(format!("silent for {silent} s: {place} blocks the thread")),
                            true,
                        );
                        seen.remove(&id);
                    }
                }
                Some(known) => {
                    keeper.row().set_hung(false, core.clock.wall());
                    known.progress = progress;
                    known.missed = 0;
                    ping(&seat);
                }
                None => {
                    seen.insert(id, Seen { beat: seat.beat.clone(), progress, missed: 0 });
                    ping(&seat);
                }
            }
        }
    }
}
