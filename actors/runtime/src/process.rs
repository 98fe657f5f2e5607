//! Processes named so that a recycled pid is never mistaken for one of ours.
//!
//! A process is (pid, start ticks, boot id); a component and all it starts are one session, whose
//! id is the pid of their shim. A pid that is still some process's session id is not handed out
//! again by the kernel, which is what makes [`session_members`] safe after the shim's death.

use std::io;

use rustix::process::{Pid, PidfdFlags, Signal};
use weft_protocol::files::{FILES_VERSION, ProcessFile};

/// What `/proc/<pid>/stat` says, as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// A zombie has ended; it only waits for its parent.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Parses a line of `/proc/<pid>/stat`. The name in parentheses may hold anything, so the fields
/// are counted from the last `)`.
pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    let rest = text.get(text.rfind(')')? + 1..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: u32::try_from(number(1)?).ok()?,
        session: u32::try_from(number(3)?).ok()?,
        start_ticks: number(19)?,
    })
}

/// `None`: there is no such process.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// Changes with every boot of the machine.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// Names a process that exists now (a zombie too).
///
/// # Errors
/// There is none of that pid, or `/proc` is not mounted.
pub(crate) fn identify(pid: u32) -> io::Result<ProcessFile> {
    let stat = stat(pid).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no process {pid} in /proc"))
    })?;
    Ok(ProcessFile {
        version: FILES_VERSION,
        pid,
        start_ticks: stat.start_ticks,
        boot_id: boot_id()?,
    })
}

/// Whether exactly this process still runs.
pub(crate) fn is_alive(process: &ProcessFile) -> bool {
    boot_id().is_ok_and(|boot| boot == process.boot_id)
        && stat(process.pid).is_some_and(|s| s.start_ticks == process.start_ticks && !s.is_over())
}

/// SIGKILL to exactly this process; nothing if it is gone. The pidfd is opened before the
/// identity is checked, so the pid cannot change hands in between.
pub(crate) fn kill_exactly(process: &ProcessFile) {
    let Some(pid) = to_pid(process.pid) else { return };
    if let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        && is_alive(process)
    {
        let _ = rustix::process::pidfd_send_signal(&fd, Signal::KILL);
    }
}

/// Every running process of the session a shim led. Empty if the shim's pid has become another
/// process's since: then no member can have been left.
pub(crate) fn session_members(shim: &ProcessFile) -> Vec<ProcessFile> {
    let Ok(boot) = boot_id() else { return Vec::new() };
    if boot != shim.boot_id
        || stat(shim.pid).is_some_and(|stat| stat.start_ticks != shim.start_ticks)
    {
        return Vec::new();
    }
    all()
        .filter(|(pid, stat)| *pid != shim.pid && stat.session == shim.pid && !stat.is_over())
        .map(|(pid, stat)| ProcessFile {
            version: FILES_VERSION,
            pid,
            start_ticks: stat.start_ticks,
            boot_id: boot.clone(),
        })
        .collect()
}

/// Running processes of a session, its leader among them.
pub(crate) fn of_session(leader: u32) -> Vec<u32> {
    all()
        .filter(|(pid, stat)| (*pid == leader || stat.session == leader) && !stat.is_over())
        .map(|(pid, _)| pid)
        .collect()
}

/// Whether a process of that pid runs.
pub(crate) fn is_there(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !stat.is_over())
}

/// Running children of a process.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    all().filter(|(_, stat)| stat.parent == parent && !stat.is_over()).map(|(pid, _)| pid).collect()
}

fn all() -> impl Iterator<Item = (u32, Stat)> {
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        Some((pid, stat(pid)?))
    })
}

pub(crate) fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) (b c) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(
            parse_stat(line),
            Some(Stat { state: b'S', parent: 7, session: 40, start_ticks: 987_654 })
        );
        assert_eq!(parse_stat("42 (a"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_is_alive_and_one_with_another_start_time_is_not() {
        let mut me = identify(std::process::id()).unwrap();
        assert!(is_alive(&me));
        me.start_ticks += 1;
        assert!(!is_alive(&me), "a recycled pid");
        me.start_ticks -= 1;
        me.boot_id = "another".into();
        assert!(!is_alive(&me), "an earlier boot");
    }
}
