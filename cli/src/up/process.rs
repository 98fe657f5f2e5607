//! Processes by what their state files say, so that a recycled pid is never mistaken for one of
//! ours; signals go through a pidfd that was opened before the identity was checked.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use weft_protocol::files::ProcessFile;
use weft_wire::{Clock, SystemClock};

/// Between two looks at whether processes are gone.
const LOOK: Duration = Duration::from_millis(10);

/// Sends `signal` to exactly this process. Whether it was there to receive it.
pub(crate) fn signal(process: &ProcessFile, signal: Signal) -> bool {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return false };
    pidfd_open(pid, PidfdFlags::empty())
        .is_ok_and(|fd| process.is_running() && pidfd_send_signal(&fd, signal).is_ok())
}

/// Waits until all are gone, at most `within`. Returns those that are not.
pub(crate) async fn wait_gone(processes: &[ProcessFile], within: Duration) -> Vec<ProcessFile> {
    let until = SystemClock.now() + within;
    loop {
        let left: Vec<ProcessFile> = processes.iter().filter(|p| p.is_running()).cloned().collect();
        if left.is_empty() || SystemClock.now() >= until {
            return left;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What `/proc/<pid>/stat` says, as far as it is needed: whether it has ended, and its session.
fn parse_stat(text: &str) -> Option<(bool, u32)> {
    let rest = text.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let over = matches!(*fields.first()?, "Z" | "X");
    Some((over, fields.get(3)?.parse().ok()?))
}

fn all() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Running processes of the session that a shim led; a component and all it starts are one. A pid
/// that is still a session's id is not handed out again, so this is safe after the shim's death
/// too; if the pid is another process's by now, nothing of the session was left.
pub(crate) fn session_of(shim: &ProcessFile) -> Vec<ProcessFile> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if boot.trim() != shim.boot_id
        || ProcessFile::of(shim.pid).is_ok_and(|now| now.start_ticks != shim.start_ticks)
    {
        return Vec::new();
    }
    all()
        .filter(|pid| *pid != shim.pid)
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|text| parse_stat(&text))
                .is_some_and(|(over, session)| !over && session == shim.pid)
        })
        .filter_map(|pid| ProcessFile::of(pid).ok())
        .collect()
}

/// Running `weftd` processes that were given a path below `dir`: what has not written its state
/// file yet, or whose file is gone.
pub(crate) fn started_on(dir: &Path) -> Vec<ProcessFile> {
    all()
        .filter(|pid| {
            let Ok(bytes) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
            is_weftd_on(&bytes, dir)
        })
        .filter_map(|pid| ProcessFile::of(pid).ok())
        .filter(ProcessFile::is_running)
        .collect()
}

fn is_weftd_on(cmdline: &[u8], dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let mut arguments =
        cmdline.split(|b| *b == 0).map(|a| Path::new(std::ffi::OsStr::from_bytes(a)));
    let program = arguments.next().and_then(Path::file_name);
    program.is_some_and(|name| name == "weftd") && arguments.any(|a| a.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("spawns")
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        assert_eq!(parse_stat("42 (a) (b c) S 7 42 40 0 -1"), Some((false, 40)));
        assert_eq!(parse_stat("42 (a) Z 7 42 40 0 -1"), Some((true, 40)));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn only_weftd_with_a_path_below_the_directory_is_ours() {
        let dir = Path::new("/tmp/up-1");
        assert!(is_weftd_on(b"/x/weftd\0run\0--config\0/tmp/up-1/n1/node.toml\0", dir));
        assert!(!is_weftd_on(b"/x/weftd\0run\0--config\0/tmp/up-12/n1/node.toml\0", dir));
        assert!(!is_weftd_on(b"vim\0/tmp/up-1/n1/node.toml\0", dir));
        assert!(!is_weftd_on(b"", dir));
    }

    #[tokio::test]
    async fn a_process_is_signalled_and_seen_to_go() {
        let mut child = sleeper();
        let process = ProcessFile::of(child.id()).expect("named");
        assert!(signal(&process, Signal::TERM));
        // As a zombie it is gone already; nobody has waited for it yet.
        assert!(wait_gone(std::slice::from_ref(&process), Duration::from_secs(5)).await.is_empty());
        child.wait().expect("reaped");
        assert!(!signal(&process, Signal::TERM));
    }

    #[test]
    fn a_recycled_pid_is_left_alone() {
        let mut child = sleeper();
        let mut process = ProcessFile::of(child.id()).expect("named");
        process.start_ticks += 1;
        assert!(!signal(&process, Signal::KILL));
        assert!(child.try_wait().expect("asks").is_none());
        child.kill().expect("kills");
        child.wait().expect("reaped");
    }
}
