//! What a container uses, at one moment.

use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt;
use weft_wire::WallTime;

use crate::container::time;
use crate::engine::{Engine, LOOK, checked, limited};
use crate::error::Error;

/// Counters of a running container. Rates come from two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// When, by the engine's clock.
    pub at: WallTime,
    /// Nanoseconds of processor time since its start.
    pub cpu: u64,
    /// Bytes of memory in use, without the page cache that can be given back.
    pub memory: u64,
    /// Bytes it may use; 0: as many as there are.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes received over all its networks.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes read from disks.
    pub read: u64,
    /// Bytes written to disks.
    pub written: u64,
}

/// Hundredths of one core between two moments; 0 if no time has passed or it was started anew.
pub fn cpu_percent(before: &Stats, now: &Stats) -> f64 {
    let passed = now.at.since(before.at).as_nanos();
    let used = now.cpu.saturating_sub(before.cpu);
    if passed == 0 || now.cpu < before.cpu {
        return 0.0;
    }
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let share = used as f64 / passed as f64;
    share * 100.0
}

impl Engine {
    /// What a container uses now.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] if it does not run; the engine's others.
    pub async fn stats(&self, id: &str) -> Result<Stats, Error> {
        let what = format!("read figures of container {}", checked(id)?);
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let mut stream = self.docker.stats(id, Some(options));
        let first = async {
            match stream.next().await {
                Some(item) => item.map_err(|error| Error::of(&what, self.socket(), error)),
                None => {
                    Err(Error::Conflict { what: what.clone(), message: "it does not run".into() })
                }
            }
        };
        let read = limited(&what, LOOK, first).await?;
        let memory = read.memory_stats.unwrap_or_default();
        let details = memory.stats.unwrap_or_default();
        // Version 2 of cgroups, then version 1.
        let cache = details.get("inactive_file").or_else(|| details.get("total_inactive_file"));
        let networks = read.networks.unwrap_or_default();
        let sum = |of: fn(&bollard::models::ContainerNetworkStats) -> Option<u64>| {
            networks.values().filter_map(of).fold(0, u64::saturating_add)
        };
        let disk = read.blkio_stats.and_then(|b| b.io_service_bytes_recursive).unwrap_or_default();
        let moved = |operation: &str| {
            disk.iter()
                .filter(|entry| {
                    entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(operation))
                })
                .filter_map(|entry| entry.value)
                .fold(0, u64::saturating_add)
        };
        Ok(Stats {
            at: read.read.as_deref().and_then(time).unwrap_or_default(),
            cpu: read
                .cpu_stats
                .and_then(|cpu| cpu.cpu_usage)
                .and_then(|usage| usage.total_usage)
                .unwrap_or_default(),
            memory: memory
                .usage
                .unwrap_or_default()
                .saturating_sub(cache.copied().unwrap_or_default()),
            memory_limit: memory.limit.filter(|limit| *limit < 1 << 60).unwrap_or_default(),
            pids: read.pids_stats.and_then(|pids| pids.current).unwrap_or_default(),
            received: sum(|network| network.rx_bytes),
            sent: sum(|network| network.tx_bytes),
            read: moved("read"),
            written: moved("write"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_core_comes_from_two_moments() {
        let at = |millis: i64, cpu| Stats {
            at: WallTime::from_micros(millis * 1000),
            cpu,
            ..Stats::default()
        };
        assert!((cpu_percent(&at(0, 0), &at(1000, 250_000_000)) - 25.0).abs() < 0.01);
        assert!(cpu_percent(&at(5, 1), &at(5, 2)).abs() < f64::EPSILON, "no time");
        assert!(cpu_percent(&at(0, 9), &at(1000, 2)).abs() < f64::EPSILON, "started anew");
    }
}
