//! The end of a lease, enforced whatever becomes of the daemon: a thread of its own that waits for
//! a timer of `CLOCK_BOOTTIME` and then kills the component's process group, without grace. Of a
//! container, whose engine may not answer then, it kills the processes, which it knows by their
//! cgroup.
//!
//! It needs nothing of the shim's other threads, which may be waiting for a disk or a daemon. The
//! component's death is what they see; they then kill what had left the group.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::boottime::now_ms;

/// What an exit file and events say of a component that was killed for it.
pub(crate) const LEASE_ENDED: &str = "lease ended: no contact with the leader";

/// Rounds in which a container's processes are killed: some 5 s, as processes may be in the kernel.
const KILL_ROUNDS: u32 = 1000;
/// Between them.
const KILL_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

#[derive(Debug, Default)]
struct Inner {
    /// In ms of boot time; `None`: it runs without one.
    until: Option<u64>,
    timer: Option<Arc<OwnedFd>>,
    /// From then on nothing brings it back.
    ended: bool,
    /// The component's process group, until it was waited for.
    group: Option<Pid>,
    /// The container's id; empty: the component is a process.
    container: String,
}

/// A component's fence. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Fence(Arc<Mutex<Inner>>);

impl Fence {
    /// Sets the end of the lease, which may be later or earlier than before; `None`: no lease is
    /// needed any more. Nothing happens once one has ended.
    ///
    /// # Errors
    /// There can be no timer; then the lease counts as ended.
    pub(super) fn set(&self, until: Option<u64>) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.ended {
            return Ok(());
        }
        inner.until = until;
        let armed = self.arm(&mut inner);
        if armed.is_err() && until.is_some() {
            inner.end();
        }
        armed
    }

    fn arm(&self, inner: &mut Inner) -> io::Result<()> {
        let timer = match (&inner.timer, inner.until) {
            (Some(timer), _) => timer.clone(),
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
                let (timer, fence) = (Arc::new(timer), self.clone());
                let watched = timer.clone();
                std::thread::Builder::new()
                    .name("lease".into())
                    .spawn(move || fence.watch(&watched))?;
                inner.timer = Some(timer.clone());
                timer
            }
        };
        // All zero would disarm it: one that is over fires at once.
        let at = inner.until.map_or(0, |until| until.max(1));
        let at = Timespec {
            tv_sec: i64::try_from(at / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(at % 1000 * 1_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        timerfd_settime(&*timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    fn watch(&self, timer: &OwnedFd) {
        let mut count = [0u8; 8];
        loop {
            let read = rustix::io::read(timer, &mut count);
            if read.is_err_and(|error| error != rustix::io::Errno::INTR) {
                // It cannot be waited for: nothing may go on that nobody ends.
                self.0.lock().end();
                return;
            }
            let mut inner = self.0.lock();
            // It may have been renewed a moment ago.
            if inner.until.is_some_and(|until| now_ms() >= until) {
                inner.end();
            }
            if inner.ended {
                return;
            }
        }
    }

    /// Whether the component may be started.
    pub(super) fn is_open(&self) -> bool {
        let inner = self.0.lock();
        !inner.ended && inner.until.is_none_or(|until| now_ms() < until)
    }

    /// This container is what the lease is for; said before the lease is set.
    pub(super) fn watch_over(&self, container: &str) {
        container.clone_into(&mut self.0.lock().container);
    }

    /// This process group runs; it is killed at once if the lease has ended meanwhile.
    pub(super) fn guard(&self, group: Option<Pid>) {
        let mut inner = self.0.lock();
        inner.group = group;
        if inner.ended {
            inner.end();
        }
    }

    /// The component was waited for: its number may become another's.
    pub(super) fn over(&self) {
        self.0.lock().group = None;
    }

    /// Whether the lease has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.0.lock().ended
    }

    /// When it ends or ended.
    pub(super) fn until(&self) -> Option<u64> {
        self.0.lock().until
    }
}

impl Inner {
    fn end(&mut self) {
        self.ended = true;
        // First: the group's end is what tells that nothing runs any more.
        if !self.container.is_empty() {
            kill_container(&self.container);
        }
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// Kills every process of a container, and waits until they are gone; not its conmon, which tells
/// the engine how it ended.
fn kill_container(id: &str) {
    for _ in 0..KILL_ROUNDS {
        let mut left = false;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
            let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // After the handle is open, the pid cannot be another's.
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if !is_of(&groups, id) {
                continue;
            }
            left = true;
            let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
        }
        if !left {
            return;
        }
        std::thread::sleep(KILL_PAUSE);
    }
}

/// Whether the process of that pid is, by its cgroup, of a container; also if it is gone already.
pub(crate) fn is_in_container(pid: u32, id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_or(true, |groups| is_of(&groups, id))
}

/// Whether a process with these cgroups (`/proc/<pid>/cgroup`) is of a container.
fn is_of(groups: &str, id: &str) -> bool {
    groups.lines().any(|line| {
        let name = line.rsplit('/').find(|part| part.contains(id));
        // Podman keeps conmon in a group beside the container's.
        name.is_some_and(|name| !name.contains("conmon"))
    })
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn a_containers_processes_are_known_by_their_cgroup_and_its_conmon_is_spared() {
        let id = "0123456789abcdef";
        assert!(is_of("5:memory:/libpod_parent/libpod-0123456789abcdef\n", id));
        assert!(is_of("0::/machine.slice/libpod-0123456789abcdef.scope\n", id));
        assert!(is_of("0::/system.slice/docker-0123456789abcdef.scope/init\n", id));
        assert!(is_of("9:pids:/docker/0123456789abcdef\n", id));
        assert!(!is_of("0::/machine.slice/libpod-conmon-0123456789abcdef.scope\n", id));
        assert!(!is_of("5:memory:/libpod_parent/conmon-0123456789abcdef\n", id));
        assert!(!is_of("0::/\n", id));
    }
}
