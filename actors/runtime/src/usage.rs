//! What components use: containers as their engine counts, processes by `/proc`, summed over
//! everything that descends from the component's shim.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use weft_link::Reply;
use weft_protocol::{ComponentKey, ComponentStatus, ComponentUsage, Driver, ReadUsage};
use weft_supervision::{Handle, Scope};
use weft_wire::{Clock, Failure, FailureKind, WallTime};

use crate::actor::{Runtime, Shared};

/// An engine that takes longer for one container is not waited for.
const ENGINE_WITHIN: Duration = Duration::from_millis(1500);
/// Containers asked for at one time.
const AT_ONCE: usize = 8;

/// What `/proc/<pid>/stat` says of what a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sample {
    parent: u32,
    /// Its own and that of children it waited for, in clock ticks.
    ticks: u64,
    /// Of those, what children used.
    children_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

/// Parses a line of `/proc/<pid>/stat`, as [`crate::process::parse_stat`].
fn parse(text: &str) -> Option<Sample> {
    let rest = text.get(text.rfind(')')? + 1..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let children = number(13)?.checked_add(number(14)?)?;
    Some(Sample {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)?.checked_add(number(12)?)?.checked_add(children)?,
        children_ticks: children,
        threads: number(17)?,
        resident_pages: number(21)?,
    })
}

/// Bytes read from and written to disks, of `/proc/<pid>/io`.
fn parse_io(text: &str) -> (u64, u64) {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    (field("read_bytes:"), field("write_bytes:"))
}

/// A process and everything that descends from it.
fn tree(all: &BTreeMap<u32, Sample>, root: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, sample) in all {
        children.entry(sample.parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// What the component with this main process uses, as (ticks, pages, threads, its processes).
///
/// Its shim is left out, but not what the shim waited for: processes that lost their parents.
fn sum(all: &BTreeMap<u32, Sample>, main: u32) -> Option<(u64, u64, u64, BTreeSet<u32>)> {
    let shim = all.get(&main)?.parent;
    let lost = all.get(&shim).filter(|_| shim > 1);
    let mut members = tree(all, if lost.is_some() { shim } else { main });
    members.remove(&shim);
    let (mut ticks, mut pages, mut threads) = (lost.map_or(0, |shim| shim.children_ticks), 0, 0);
    for sample in members.iter().filter_map(|pid| all.get(pid)) {
        ticks = u64::saturating_add(ticks, sample.ticks);
        pages = u64::saturating_add(pages, sample.resident_pages);
        threads = u64::saturating_add(threads, sample.threads);
    }
    Some((ticks, pages, threads, members))
}

/// Everything that runs on this machine.
fn samples() -> BTreeMap<u32, Sample> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let bytes = std::fs::read(entry.path().join("stat")).ok()?;
            Some((pid, parse(&String::from_utf8_lossy(&bytes))?))
        })
        .collect()
}

fn unread(key: &ComponentKey, at: WallTime, error: String) -> ComponentUsage {
    ComponentUsage {
        key: key.clone(),
        at,
        cpu: 0,
        memory: 0,
        memory_limit: 0,
        pids: 0,
        read: 0,
        written: 0,
        received: None,
        sent: None,
        error,
    }
}

/// Reads the processes of these components in one pass.
fn processes(rows: &[(ComponentStatus, u64)], clock: &dyn Clock) -> Vec<ComponentUsage> {
    let at = clock.wall();
    let all = samples();
    let nanos = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    rows.iter()
        .map(|(row, memory_limit)| {
            let Some((ticks, pages, threads, members)) = sum(&all, row.pid) else {
                return unread(&row.key, at, "it has just ended".into());
            };
            let (mut read, mut written) = (0u64, 0u64);
            for pid in members {
                let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
                let (r, w) = parse_io(&io);
                read = read.saturating_add(r);
                written = written.saturating_add(w);
            }
            ComponentUsage {
                cpu: ticks.saturating_mul(nanos),
                memory: pages.saturating_mul(page),
                memory_limit: *memory_limit,
                pids: threads,
                read,
                written,
                ..unread(&row.key, at, String::new())
            }
        })
        .collect()
}

async fn container(shared: &Arc<Shared>, row: ComponentStatus, at: WallTime) -> ComponentUsage {
    let asked = async {
        let engine = shared.engines.engine().await?;
        engine.stats(&row.container).await.map_err(|error| error.to_string())
    };
    let stats = match tokio::time::timeout(ENGINE_WITHIN, asked).await {
        Ok(Ok(stats)) => stats,
        Ok(Err(why)) => return unread(&row.key, at, why),
        Err(_) => return unread(&row.key, at, "the container engine takes long".into()),
    };
    ComponentUsage {
        key: row.key,
        at: stats.at,
        cpu: stats.cpu,
        memory: stats.memory,
        memory_limit: stats.memory_limit,
        pids: stats.pids,
        read: stats.read,
        written: stats.written,
        received: Some(stats.received),
        sent: Some(stats.sent),
        error: String::new(),
    }
}

impl Handle<ReadUsage> for Runtime {
    fn handle(&mut self, message: ReadUsage, reply: Reply<ReadUsage>, scope: &Scope<Self>) {
        let target = message.target;
        let meant = |key: &ComponentKey| {
            target.as_ref().is_none_or(|target| {
                target.service == key.service
                    && (target.component.is_empty() || target.component == key.component)
            })
        };
        let mut rows = self.shared.statuses();
        rows.retain(|row| row.pid != 0 && meant(&row.key));
        let (boxed, bare): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.driver == Driver::Container);
        let bare: Vec<_> = bare
            .into_iter()
            .map(|row| {
                let limit = self.memory_limit(&row.key);
                (row, limit)
            })
            .collect();
        let (shared, clock) = (self.shared.clone(), scope.clock());
        scope.spawn(async move {
            let at = clock.wall();
            let counted = tokio::task::spawn_blocking(move || processes(&bare, &*clock));
            let asked = futures_util::stream::iter(boxed)
                .map(|row| container(&shared, row, at))
                .buffer_unordered(AT_ONCE)
                .collect::<Vec<_>>();
            match tokio::join!(counted, asked) {
                (Ok(mut all), more) => {
                    all.extend(more);
                    all.sort_by(|a, b| a.key.cmp(&b.key));
                    reply.ok(all);
                }
                (Err(error), _) => {
                    reply.fail(Failure::new(FailureKind::Internal, error.to_string()));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_parsed_whatever_the_program_is_called() {
        let line = "42 (a) (b c) S 7 42 40 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 3 0 987654 1 25 9";
        let sample = parse(line).unwrap();
        let expected =
            Sample { parent: 7, ticks: 71, children_ticks: 15, threads: 3, resident_pages: 25 };
        assert_eq!(sample, expected);
        assert_eq!(parse("42 (a) S 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn io_is_what_went_to_disks() {
        let text = "rchar: 9\nwchar: 8\nread_bytes: 4096\nwrite_bytes: 8192\n";
        assert_eq!(parse_io(text), (4096, 8192));
        assert_eq!(parse_io(""), (0, 0));
    }

    #[test]
    fn a_component_is_the_sum_of_all_that_descends_from_its_shim() {
        let sample = |parent, ticks| Sample {
            parent,
            ticks,
            children_ticks: 1,
            threads: 2,
            resident_pages: 10,
        };
        let all = BTreeMap::from([
            (1, sample(0, 1000)),
            (10, sample(1, 500)),
            (11, sample(10, 20)),
            (12, sample(11, 30)),
            // Its parent has ended: the shim took it over.
            (13, sample(10, 40)),
            (20, sample(1, 7)),
        ]);
        let (ticks, pages, threads, members) = sum(&all, 11).unwrap();
        assert_eq!((ticks, pages, threads), (91, 30, 6));
        assert_eq!(members, BTreeSet::from([11, 12, 13]));
        // A shim that has died leaves the component to the machine's first process.
        assert_eq!(sum(&all, 20).unwrap().3, BTreeSet::from([20]));
        assert_eq!(sum(&all, 99), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let all = samples();
        let (_, pages, threads, _) = sum(&all, std::process::id()).unwrap();
        assert!(pages > 0 && threads > 0);
    }
}
