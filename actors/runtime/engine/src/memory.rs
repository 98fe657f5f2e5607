//! Whether a container ran out of memory, by its cgroup: engines' own flag is not to be relied on
//! (dependencies.md §7: exit code 137 and `OOMKilled` false).

use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::exit::awaited;

/// Of a component that ended with SIGKILL while nobody here had asked for that.
///
/// `flag` is the engine's word, `kills` what a [`MemoryWatch`] counted.
pub fn ran_out_of_memory(code: i64, flag: bool, kills: u64) -> bool {
    flag || (code == 128 + 9 && kills > 0)
}

/// The memory cgroup of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryCgroup {
    dir: PathBuf,
    unified: bool,
}

impl MemoryCgroup {
    /// Of a process; `None`: there is none, or it cannot be seen from here. It goes away with the
    /// container's end.
    pub fn of(pid: u32) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let found = locate(&mounts, &groups)?;
        found.dir.join(found.file()).exists().then_some(found)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn file(&self) -> &'static str {
        if self.unified { "memory.events" } else { "memory.oom_control" }
    }

    /// Processes the kernel has killed in it for want of memory.
    ///
    /// # Errors
    /// What reading gives; `NotFound` or `ENODEV` once the container is gone.
    pub fn oom_kills(&self) -> io::Result<u64> {
        std::fs::read_to_string(self.dir.join(self.file())).map(|text| kills(&text))
    }
}

/// Finds the cgroup in a mount table, given a process' `/proc/<pid>/cgroup`. Version 1 wins where
/// both exist: the controller is in only one of them.
fn locate(mountinfo: &str, groups: &str) -> Option<MemoryCgroup> {
    let of = |wanted: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            wanted(controllers).then(|| path.to_owned())
        })
    };
    let legacy = of(&|controllers| controllers.split(',').any(|c| c == "memory"));
    let (path, unified) = match legacy {
        Some(path) => (path, false),
        None => (of(&str::is_empty)?, true),
    };
    // A path above our own cgroup namespace.
    if path.contains("/..") {
        return None;
    }
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let fits = match unified {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        };
        let inside = if root == "/" { path.as_str() } else { path.strip_prefix(root)? };
        let dir = Path::new(point).join(inside.trim_start_matches('/'));
        fits.then_some(MemoryCgroup { dir, unified })
    })
}

/// The `oom_kill` line, which both versions have.
fn kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or_default()
}

/// Counts kills for want of memory while a container runs; the count stays when it is gone.
#[derive(Debug)]
pub struct MemoryWatch {
    kills: Arc<AtomicU64>,
    task: AbortHandle,
}

impl MemoryWatch {
    /// Begins to watch, from the kernel's own notice; nothing is polled. Needs tokio's runtime.
    ///
    /// # Errors
    /// What the system says; the container may just have ended.
    pub fn start(group: MemoryCgroup) -> io::Result<Self> {
        let kills = Arc::new(AtomicU64::new(group.oom_kills()?));
        let counted = kills.clone();
        let task = if group.unified {
            let file = std::fs::File::open(group.dir.join("memory.events"))?;
            let file = awaited(file, Interest::PRIORITY)?;
            tokio::spawn(unified(file, counted))
        } else {
            let (notice, control) = register(&group)?;
            tokio::spawn(legacy(group, notice, control, counted))
        };
        Ok(Self { kills, task: task.abort_handle() })
    }

    /// How many so far.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `memory.events` says by POLLPRI that it has changed.
async fn unified(mut file: AsyncFd<std::fs::File>, kills_seen: Arc<AtomicU64>) {
    loop {
        let mut text = String::new();
        let file_now = file.get_mut();
        // Gone: the container has ended.
        if file_now.rewind().and_then(|()| file_now.read_to_string(&mut text)).is_err() {
            return;
        }
        kills_seen.fetch_max(kills(&text), Ordering::Relaxed);
        match file.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => return,
        }
    }
}

/// Version 1 tells an eventfd that was written to `cgroup.event_control`.
fn register(group: &MemoryCgroup) -> io::Result<(AsyncFd<OwnedFd>, std::fs::File)> {
    use std::os::fd::AsRawFd;
    let notice = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let control = std::fs::File::open(group.dir.join("memory.oom_control"))?;
    let order = format!("{} {}", notice.as_raw_fd(), control.as_raw_fd());
    std::fs::write(group.dir.join("cgroup.event_control"), order)?;
    Ok((awaited(notice, Interest::READABLE)?, control))
}

async fn legacy(
    group: MemoryCgroup,
    notice: AsyncFd<OwnedFd>,
    _control: std::fs::File,
    kills_seen: Arc<AtomicU64>,
) {
    loop {
        let Ok(mut ready) = notice.readable().await else { return };
        let mut count = [0; 8];
        let _ = rustix::io::read(notice.get_ref().as_fd(), &mut count);
        ready.clear_ready();
        // The group's end is told by the same notice.
        let Ok(mut now) = group.oom_kills() else { return };
        let before = kills_seen.load(Ordering::Relaxed);
        // Told before the kernel has chosen whom to kill.
        for _ in 0..40 {
            if now > before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            match group.oom_kills() {
                Ok(again) => now = again,
                // It was the one: the container has ended of it.
                Err(_) => now = before + 1,
            }
        }
        kills_seen.fetch_max(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 24 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn the_group_is_found_wherever_the_controller_is() {
        let groups = "9:name=systemd:/x\n5:memory:/libpod_parent/libpod-1\n0::/y\n";
        let found = locate(HYBRID, groups).unwrap();
        assert_eq!(found.dir, Path::new("/sys/fs/cgroup/memory/libpod_parent/libpod-1"));
        assert!(!found.unified);
        let v2 = "24 1 0:29 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = locate(v2, "0::/machine.slice/libpod-1.scope\n").unwrap();
        assert_eq!(found.dir, Path::new("/sys/fs/cgroup/machine.slice/libpod-1.scope"));
        assert!(found.unified);
        let bound = "24 1 0:29 /a /cg rw - cgroup2 cgroup2 rw\n";
        assert_eq!(locate(bound, "0::/a/b\n").unwrap().dir, Path::new("/cg/b"));
        assert_eq!(locate(bound, "0::/c\n"), None);
        assert_eq!(locate(v2, "0::/../b\n"), None);
        assert_eq!(locate("", "0::/b\n"), None);
    }

    #[test]
    fn kills_are_read_from_both_versions() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(kills(""), 0);
    }

    #[test]
    fn only_a_kill_that_memory_explains_counts() {
        assert!(ran_out_of_memory(137, false, 1));
        assert!(ran_out_of_memory(1, true, 0));
        assert!(!ran_out_of_memory(137, false, 0));
        assert!(!ran_out_of_memory(1, false, 1), "a child of it was killed, it went on");
    }
}
