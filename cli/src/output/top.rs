//! What `weft top` draws: pure, from two readings to lines.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use weft_protocol::{ComponentRow, HostFigures, NodeState, Overview, UsageView};

use super::Table;
use super::progress::size;
use super::table::cut;
use super::usage::{UseView, percent, uses};
use super::views::event_line;

/// Events are the first to go where there is little room.
const EVENTS_LEAST: usize = 3;
const EVENTS_MOST: usize = 8;

/// What components are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Cpu,
    Memory,
    Disk,
    Pids,
    Name,
}

impl Column {
    const ALL: [Self; 5] = [Self::Cpu, Self::Memory, Self::Disk, Self::Pids, Self::Name];

    const fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Memory => "MEMORY",
            Self::Disk => "DISK",
            Self::Pids => "PIDS",
            Self::Name => "COMPONENT",
        }
    }
}

/// What was chosen with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) column: Column,
    /// The other way round.
    pub(crate) reversed: bool,
}

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Leave,
    Draw,
    Ignore,
}

impl Choice {
    pub(crate) const fn new() -> Self {
        Self { column: Column::Cpu, reversed: false }
    }

    /// Takes what was read from the terminal at once: one key, or several.
    pub(crate) fn typed(&mut self, mut bytes: &[u8]) -> Key {
        let mut done = Key::Ignore;
        while let Some(length) = first_key(bytes) {
            let (key, rest) = bytes.split_at(length);
            bytes = rest;
            match self.key(key) {
                Key::Leave => return Key::Leave,
                Key::Draw => done = Key::Draw,
                Key::Ignore => {}
            }
        }
        done
    }

    fn key(&mut self, key: &[u8]) -> Key {
        match key {
            b"q" | b"Q" | b"\x03" => Key::Leave,
            b"s" | b"\x1b[C" | b"\x1bOC" => self.step(1),
            b"S" | b"\x1b[D" | b"\x1bOD" => self.step(Column::ALL.len() - 1),
            b"r" | b"R" | b"\x1b[A" | b"\x1b[B" | b"\x1bOA" | b"\x1bOB" => {
                self.reversed = !self.reversed;
                Key::Draw
            }
            _ => Key::Ignore,
        }
    }

    fn step(&mut self, by: usize) -> Key {
        let at = Column::ALL.iter().position(|column| *column == self.column).unwrap_or(0);
        if let Some(next) = Column::ALL.get((at + by) % Column::ALL.len()) {
            self.column = *next;
        }
        Key::Draw
    }

    fn order(self, a: &UseView, b: &UseView) -> Ordering {
        let name = |row: &UseView| {
            (row.service.clone(), row.component.clone(), row.replica, row.node.clone())
        };
        // The most first, names from the first letter.
        let by = match self.column {
            Column::Cpu => b.cpu_percent.unwrap_or(-1.0).total_cmp(&a.cpu_percent.unwrap_or(-1.0)),
            Column::Memory => b.memory_bytes.cmp(&a.memory_bytes),
            Column::Disk => {
                let disk =
                    |row: &UseView| row.disk_read_bytes.saturating_add(row.disk_written_bytes);
                disk(b).cmp(&disk(a))
            }
            Column::Pids => b.pids.cmp(&a.pids),
            Column::Name => Ordering::Equal,
        };
        let by = by.then_with(|| name(a).cmp(&name(b)));
        if self.reversed { by.reverse() } else { by }
    }
}

/// Bytes of the first key: one, or an escape sequence to its last byte. `None`: there is none.
fn first_key(bytes: &[u8]) -> Option<usize> {
    let length = match bytes {
        [] => return None,
        [0x1b, b'O', ..] => 3,
        [0x1b, b'[', rest @ ..] => {
            let last = rest.iter().position(|byte| (0x40..=0x7e).contains(byte));
            last.map_or(bytes.len(), |last| last + 3)
        }
        _ => 1,
    };
    Some(length.min(bytes.len()))
}

/// Everything, for a terminal `rows` high; `None`: as long as it is.
pub(crate) fn lines(
    now: &UsageView,
    before: Option<&UsageView>,
    choice: Choice,
    through: &str,
    rows: Option<u16>,
) -> Vec<String> {
    let empty = Overview {
        nodes: Vec::new(),
        hosts: Vec::new(),
        ps: weft_protocol::PsReply { rows: Vec::new(), nodes: Vec::new(), foreign: Vec::new() },
        events: Vec::new(),
    };
    let overview = now.overview.as_ref().unwrap_or(&empty);
    let mut used = uses(now, before);
    used.sort_by(|a, b| choice.order(a, b));
    let ready = overview.nodes.iter().filter(|node| node.state == NodeState::Ready).count();
    let running = overview.ps.rows.iter().filter(|row| runs(row)).count();
    let mut out = vec![format!(
        "weft top, through {through}: {ready} of {} nodes ready, {running} of {} components running",
        overview.nodes.len(),
        overview.ps.rows.len()
    )];
    out.extend(now.nodes.iter().filter(|node| !node.error.is_empty()).map(|node| {
        crate::error::clean(&format!("node {} did not answer: {}", node.node, node.error))
    }));
    out.push(String::new());
    out.extend(nodes(overview).lines());
    out.push(String::new());
    out.extend(services(&overview.ps.rows).lines());
    out.push(String::new());
    let components = components(&used, choice).lines();
    let events: Vec<String> =
        overview.events.iter().rev().map(|event| crate::error::clean(&event_line(event))).collect();
    let Some(rows) = rows else {
        out.extend(components);
        out.push(String::new());
        out.push("EVENTS".into());
        out.extend(events.into_iter().take(EVENTS_MOST).rev());
        return out;
    };
    // Components get what is left, events at least a little.
    let left = usize::from(rows).saturating_sub(out.len());
    let least = EVENTS_LEAST.min(events.len());
    let room = left.saturating_sub(least + 2).max(2).min(components.len());
    out.extend(components.into_iter().take(room));
    let left = usize::from(rows).saturating_sub(out.len() + 2).min(EVENTS_MOST);
    if left > 0 && !events.is_empty() {
        out.push(String::new());
        out.push("EVENTS".into());
        out.extend(events.into_iter().take(left).rev());
    }
    out
}

fn runs(row: &ComponentRow) -> bool {
    row.status.state == weft_protocol::ComponentState::Running
}

fn nodes(overview: &Overview) -> Table {
    let hosts: BTreeMap<&str, &HostFigures> =
        overview.hosts.iter().map(|(name, host)| (name.as_str(), host)).collect();
    let mut table =
        Table::new(["NODE", "STATUS", "ROLE", "CPU", "LOAD", "MEMORY", "DISK-FREE", "COMPONENTS"]);
    for node in &overview.nodes {
        let host = hosts.get(node.name.as_str());
        let figure = |of: &dyn Fn(&HostFigures) -> String| host.map(|h| of(h)).unwrap_or_default();
        table.row([
            node.name.clone(),
            node.state.to_string(),
            node.role.to_string(),
            figure(&|host| percent(Some(host.cpu_percent))),
            figure(&|host| format!("{:.2}", host.load1)),
            figure(&|host| {
                let used = host.memory_total.saturating_sub(host.memory_available);
                format!("{} of {}", size(used), size(host.memory_total))
            }),
            figure(&|host| size(host.disk_free)),
            node.components.to_string(),
        ]);
    }
    table
}

/// A line for each service: of its components so many run, and what the others do.
fn services(rows: &[ComponentRow]) -> Table {
    let mut services: BTreeMap<&str, Vec<&ComponentRow>> = BTreeMap::new();
    for row in rows {
        services.entry(&row.status.key.service).or_default().push(row);
    }
    let mut table = Table::new(["SERVICE", "REPLICAS", "RUNNING", "RESTARTS", "STATE"]);
    for (service, rows) in services {
        let mut replicas: Vec<u32> = rows.iter().map(|row| row.status.key.replica).collect();
        replicas.sort_unstable();
        replicas.dedup();
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        for row in &rows {
            *states.entry(row.status.state.to_string()).or_default() += 1;
        }
        let states: Vec<String> = match states.len() {
            1 => states.into_keys().collect(),
            _ => states.into_iter().map(|(state, count)| format!("{count} {state}")).collect(),
        };
        let restarts = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.status.restarts));
        table.row([
            service.to_owned(),
            replicas.len().to_string(),
            format!("{}/{}", rows.iter().filter(|row| runs(row)).count(), rows.len()),
            restarts.to_string(),
            states.join(", "),
        ]);
    }
    table
}

fn components(rows: &[UseView], choice: Choice) -> Table {
    let title = |column: Column| {
        let mark = match (column == choice.column, choice.reversed) {
            (false, _) => "",
            (true, false) => "*",
            (true, true) => "*^",
        };
        format!("{}{mark}", column.title())
    };
    let titles = Column::ALL.map(title);
    let [cpu, memory, disk, pids, name] = titles.each_ref().map(String::as_str);
    let mut table = Table::new([name, "NODE", cpu, memory, "LIMIT", disk, pids]);
    for row in rows {
        let disk = row.disk_read_bytes.saturating_add(row.disk_written_bytes);
        table.row([
            cut(&format!("{}/{}#{}", row.service, row.component, row.replica), 40),
            row.node.clone(),
            percent(row.cpu_percent),
            size(row.memory_bytes),
            row.memory_limit_bytes.map(size).unwrap_or_default(),
            size(disk),
            row.pids.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::usage::tests::{row, view};

    fn order(choice: Choice) -> Vec<String> {
        let before = view(vec![row("a", 1, 0), row("b", 1, 0), row("c", 1, 0)]);
        let mut now = view(vec![row("a", 2, 100), row("b", 2, 900), row("c", 2, 500)]);
        if let Some(first) = now.rows.first_mut() {
            first.usage.memory = 1 << 30;
        }
        lines(&now, Some(&before), choice, "n1", None)
            .iter()
            .filter_map(|line| line.split(' ').next()?.strip_prefix("web/").map(str::to_owned))
            .collect()
    }

    #[test]
    fn components_are_sorted_by_the_column_that_keys_choose() {
        let mut choice = Choice::new();
        assert_eq!(order(choice), ["b#1", "c#1", "a#1"]);
        assert_eq!(choice.typed(b"r"), Key::Draw);
        assert_eq!(order(choice), ["a#1", "c#1", "b#1"]);
        assert_eq!(choice.typed(b"rs"), Key::Draw);
        assert_eq!(choice.column, Column::Memory);
        assert_eq!(order(choice).first().map(String::as_str), Some("a#1"));
        assert_eq!(choice.typed(b"\x1b[Drr\x1b[D"), Key::Draw, "typed fast");
        assert_eq!(choice.column, Column::Name);
        assert_eq!(choice.typed(b"\x1b[5~"), Key::Ignore);
        assert_eq!(choice.typed(b"\x1b["), Key::Ignore);
        for leave in [&b"q"[..], b"\x03", b"sq", b"\x1b[Cq"] {
            assert_eq!(choice.typed(leave), Key::Leave);
        }
    }

    #[test]
    fn what_is_drawn_fits_the_terminal() {
        let rows = (0..100).map(|n| row(&format!("c{n}"), 1, n)).collect();
        let lines = lines(&view(rows), None, Choice::new(), "n1", Some(24));
        assert!(lines.len() <= 24, "{}", lines.len());
        assert!(lines.iter().any(|line| line.starts_with("COMPONENT")), "{lines:#?}");
    }
}
