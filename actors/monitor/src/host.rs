//! Figures of the machine: pure parsers of `/proc` texts, and the reading around them.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time the machine's cores spent, in clock ticks since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// All of it.
    pub total: u64,
    /// Of that, doing nothing (idle and waiting for I/O).
    pub idle: u64,
}

/// The `cpu` line and the number of `cpuN` lines of `/proc/stat`.
pub fn parse_stat(text: &str) -> Option<(CpuTimes, u32)> {
    let mut times = None;
    let mut cores = 0;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(name) = words.next() else { continue };
        if name == "cpu" {
            // user nice system idle iowait irq softirq steal; guest time is within user time.
            let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
            let at = |n: usize| ticks.get(n).copied().unwrap_or(0);
            if ticks.len() < 4 {
                return None;
            }
            times = Some(CpuTimes {
                total: ticks.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)),
                idle: at(3).saturating_add(at(4)),
            });
        } else if name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()) {
            cores += 1;
        }
    }
    times.map(|times| (times, cores))
}

/// Load average over one minute, of `/proc/loadavg`.
pub fn parse_loadavg(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok().filter(|load: &f64| load.is_finite())
}

/// `MemTotal` and `MemAvailable` of `/proc/meminfo`, in bytes.
pub fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    Some((kibibytes(text, "MemTotal:")?, kibibytes(text, "MemAvailable:")?))
}

/// `VmRSS` of `/proc/self/status`, in bytes.
pub fn parse_resident(text: &str) -> Option<u64> {
    kibibytes(text, "VmRSS:")
}

/// Whole seconds since the machine started, of `/proc/uptime`.
pub fn parse_uptime(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.split('.').next()?.parse().ok()
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// CPU use between looks. Looks within a second of each other get the same answer, so that two
/// readers do not spoil each other's window.
#[derive(Debug, Default)]
pub struct CpuMeter {
    last: Option<(Instant, CpuTimes)>,
    percent: f64,
}

impl CpuMeter {
    /// Use in percent of the whole machine, 0 to 100, since the last look; 0 at the first.
    pub fn look(&mut self, now: Instant, times: CpuTimes) -> f64 {
        match self.last {
            Some((at, _)) if now.saturating_duration_since(at) < Duration::from_secs(1) => {}
            Some((_, before)) => {
                let total = times.total.saturating_sub(before.total);
                let idle = times.idle.saturating_sub(before.idle).min(total);
                if total > 0 {
                    #[allow(clippy::cast_precision_loss, reason = "a percentage for people")]
                    let percent = 100.0 * (total - idle) as f64 / total as f64;
                    self.percent = percent;
                }
                self.last = Some((now, times));
            }
            None => self.last = Some((now, times)),
        }
        self.percent
    }
}

/// What was read at once; figures that could not be read are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// CPU time spent; `None`: not readable.
    pub cpu: Option<CpuTimes>,
    /// Cores.
    pub cores: u32,
    /// Load average over one minute.
    pub load1: f64,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_available: u64,
    /// Bytes of the file system that holds the data directory.
    pub disk_total: u64,
    /// Bytes free to unprivileged users there.
    pub disk_free: u64,
    /// Seconds since the machine started.
    pub host_uptime_secs: u64,
    /// Resident bytes of this process.
    pub daemon_memory: u64,
}

/// Reads everything; blocks for as long as the file system of `data_dir` does.
pub fn read(data_dir: &Path) -> Reading {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, cores) = match parse_stat(&text("/proc/stat")) {
        Some((cpu, cores)) => (Some(cpu), cores),
        None => (None, 0),
    };
    let (memory_total, memory_available) =
        parse_meminfo(&text("/proc/meminfo")).unwrap_or_default();
    let (disk_total, disk_free) = disk(data_dir).unwrap_or_default();
    Reading {
        cpu,
        cores,
        load1: parse_loadavg(&text("/proc/loadavg")).unwrap_or_default(),
        memory_total,
        memory_available,
        disk_total,
        disk_free,
        host_uptime_secs: parse_uptime(&text("/proc/uptime")).unwrap_or_default(),
        daemon_memory: parse_resident(&text("/proc/self/status")).unwrap_or_default(),
    }
}

fn disk(path: &Path) -> io::Result<(u64, u64)> {
    let figures = rustix::fs::statvfs(path)?;
    Ok((
        figures.f_blocks.saturating_mul(figures.f_frsize),
        figures.f_bavail.saturating_mul(figures.f_frsize),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "cpu  10132153 290696 3084719 46828483 16683 0 25195 0 175628 0\n\
        cpu0 1393280 32966 572056 13343292 6130 0 17875 0 23933 0\n\
        cpu1 1335498 41342 578253 13383289 5134 0 3221 0 23443 0\n\
        intr 199292 1 2 3\nctxt 38014093\nbtime 1062191376\n";
    const MEMINFO: &str = "MemTotal:       24604076 kB\nMemFree:         1042540 kB\n\
        MemAvailable:   20011712 kB\nBuffers:          205468 kB\n";

    #[test]
    fn the_samples_of_proc_are_read() {
        let (times, cores) = parse_stat(STAT).unwrap();
        assert_eq!(cores, 2);
        assert_eq!(times.idle, 46_828_483 + 16_683);
        assert_eq!(times.total, 10_132_153 + 290_696 + 3_084_719 + 46_828_483 + 16_683 + 25_195);
        assert_eq!(parse_loadavg("0.52 0.58 0.59 3/602 29332\n"), Some(0.52));
        assert_eq!(parse_meminfo(MEMINFO), Some((24_604_076 * 1024, 20_011_712 * 1024)));
        assert_eq!(parse_uptime("350735.47 234388.90\n"), Some(350_735));
        assert_eq!(parse_resident("Name:\tweftd\nVmRSS:\t   10240 kB\n"), Some(10_485_760));
    }

    #[test]
    fn cpu_use_is_of_the_time_between_looks_and_two_readers_share_a_window() {
        let start = weft_wire::Clock::now(&weft_wire::SystemClock);
        let mut meter = CpuMeter::default();
        assert_eq!(meter.look(start, CpuTimes { total: 1_000, idle: 1_000 }), 0.0);
        let later = start + Duration::from_secs(10);
        assert_eq!(meter.look(later, CpuTimes { total: 1_200, idle: 1_150 }), 25.0);
        let soon = later + Duration::from_millis(10);
        assert_eq!(meter.look(soon, CpuTimes { total: 1_201, idle: 1_150 }), 25.0);
        // Counters that went back do not give nonsense.
        let again = later + Duration::from_secs(2);
        assert_eq!(meter.look(again, CpuTimes { total: 5, idle: 5 }), 25.0);
    }

    #[test]
    fn this_machine_can_be_read() {
        let reading = read(Path::new("/"));
        assert!(reading.cores > 0 && reading.memory_total > 0 && reading.disk_total > 0);
        assert!(reading.memory_available <= reading.memory_total);
        assert!(reading.daemon_memory > 0 && reading.cpu.is_some());
        assert_eq!(read(Path::new("/nowhere/at/all")).disk_total, 0);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(cpu[0-9]* |MemTotal:|MemAvailable:|VmRSS:|[0-9. \n]|\\PC){0,60}") {
            let _ = (parse_stat(&text), parse_loadavg(&text), parse_meminfo(&text));
            let _ = (parse_uptime(&text), parse_resident(&text));
        }
    }
}
