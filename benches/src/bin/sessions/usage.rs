//! What servers take: processor time and memory from `/proc`, fsyncs counted by the kernel.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What some processes took so far, together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Seconds of user and system time, of threads that ended too.
    pub(crate) cpu: f64,
    /// Bytes in memory.
    pub(crate) rss: f64,
}

/// Of processes that run.
pub(crate) fn usage(pids: &[u32]) -> Usage {
    let mut all = Usage::default();
    for pid in pids {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        let stat = read("stat").unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        let ticks =
            |field: usize| fields.get(field).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
        // utime and stime, the 14th and 15th of proc(5); 100 ticks a second everywhere.
        all.cpu += (ticks(11) + ticks(12)) / 100.0;
        let status = read("status").unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = rss.and_then(|rss| rss.split_whitespace().next()?.parse::<f64>().ok());
        all.rss += kib.unwrap_or(0.0) * 1024.0;
    }
    all
}

/// Counts the fsync and fdatasync calls of processes, by the kernel's tracepoints: it is the same
/// for every program, and nothing is slowed down. It needs `perf` and the right to use it.
#[derive(Debug)]
pub(crate) struct Syncs {
    perf: Child,
    report: PathBuf,
}

impl Syncs {
    /// Counts from now on, threads that are started later too. `report`: a file for perf's.
    ///
    /// # Errors
    /// Why it cannot count here.
    pub(crate) fn count(pids: &[u32], report: &Path) -> Result<Self, String> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        // It counts while this program runs, which says when that began and ends with its input.
        let held = ["--", "sh", "-c", "echo counting; exec cat >/dev/null"];
        let mut perf = Command::new("perf")
            .args(["stat", "-x", ",", "-o"])
            .arg(report)
            .args(["-e", "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync", "-p"])
            .arg(pids.join(","))
            .args(held)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("perf: {error}"))?;
        let mut line = String::new();
        if let Some(out) = perf.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        if line.trim() == "counting" {
            return Ok(Self { perf, report: report.to_owned() });
        }
        drop(perf.stdin.take());
        let ended = perf.wait_with_output().map_err(|error| format!("perf: {error}"))?;
        Err(format!("perf: {}", String::from_utf8_lossy(&ended.stderr).trim()))
    }

    /// Ends it; how many there were.
    ///
    /// # Errors
    /// If perf reports none.
    pub(crate) fn end(mut self) -> Result<u64, String> {
        drop(self.perf.stdin.take());
        self.perf.wait().map_err(|error| format!("perf: {error}"))?;
        let report = std::fs::read_to_string(&self.report).map_err(|error| error.to_string())?;
        counted(&report).ok_or_else(|| format!("perf counted nothing: {report}"))
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        drop(self.perf.stdin.take());
        let _ = self.perf.wait();
    }
}

/// The sum over both calls of `perf stat -x ,`; `None` if one of them was not counted.
fn counted(report: &str) -> Option<u64> {
    let lines: Vec<&str> = report.lines().filter(|line| line.contains("syscalls:")).collect();
    if lines.len() != 2 {
        return None;
    }
    lines.iter().map(|line| line.split(',').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_calls_count_and_a_missing_one_is_no_count() {
        let report = "# started\n\n2,,syscalls:sys_enter_fsync,485,100.00,,\n\
                      100,,syscalls:sys_enter_fdatasync,485,100.00,,\n";
        assert_eq!(counted(report), Some(102));
        assert_eq!(counted(&report.replace("2,,", "<not counted>,,")), None);
        assert_eq!(counted("2,,syscalls:sys_enter_fsync,485,100.00,,\n"), None);
    }

    #[test]
    fn this_process_has_memory_and_processor_time() {
        let own = [std::process::id()];
        let before = usage(&own);
        assert!(before.rss > 100_000.0, "{before:?}");
        let mut sum = 0u64;
        while usage(&own).cpu <= before.cpu {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
