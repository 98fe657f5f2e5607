//! What components use, for people and for programs.

use serde::Serialize;
use weft_protocol::{ComponentUsage, UsageRow, UsageView, format_time};

use super::Table;
use super::progress::size;

/// A component's usage between two readings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UseView {
    pub(crate) service: String,
    pub(crate) component: String,
    pub(crate) replica: u32,
    pub(crate) node: String,
    pub(crate) time: String,
    /// Hundredths of one core; `None`: not known yet.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_bytes: u64,
    /// `None`: as many as there are.
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) pids: u64,
    pub(crate) disk_read_bytes: u64,
    pub(crate) disk_written_bytes: u64,
    pub(crate) net_received_bytes: Option<u64>,
    pub(crate) net_sent_bytes: Option<u64>,
    /// Why it could not be read; `None`: it could.
    pub(crate) error: Option<String>,
}

impl UseView {
    fn new(row: &UsageRow, before: Option<&ComponentUsage>) -> Self {
        let usage = &row.usage;
        let percent = before.and_then(|before| usage.cpu_percent(before));
        Self {
            service: usage.key.service.clone(),
            component: usage.key.component.clone(),
            replica: usage.key.replica,
            node: row.node.clone(),
            time: format_time(usage.at),
            cpu_percent: percent.map(|percent| (percent * 10.0).round() / 10.0),
            memory_bytes: usage.memory,
            memory_limit_bytes: (usage.memory_limit > 0).then_some(usage.memory_limit),
            pids: usage.pids,
            disk_read_bytes: usage.read,
            disk_written_bytes: usage.written,
            net_received_bytes: usage.received,
            net_sent_bytes: usage.sent,
            error: (!usage.error.is_empty()).then(|| usage.error.clone()),
        }
    }
}

/// Every component of a reading, with rates since the one before.
pub(crate) fn uses(now: &UsageView, before: Option<&UsageView>) -> Vec<UseView> {
    let earlier = |row: &UsageRow| {
        let rows = &before?.rows;
        let same = |old: &&UsageRow| old.node == row.node && old.usage.key == row.usage.key;
        rows.iter().find(same).map(|old| &old.usage)
    };
    now.rows.iter().map(|row| UseView::new(row, earlier(row))).collect()
}

/// `12.3%`; empty: not known.
pub(crate) fn percent(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.1}%")).unwrap_or_default()
}

/// The table of `weft stats`.
pub(crate) fn usage_table(rows: &[UseView]) -> Table {
    let mut table = Table::new([
        "SERVICE",
        "COMPONENT",
        "NODE",
        "REPLICA",
        "CPU",
        "MEMORY",
        "LIMIT",
        "DISK-READ",
        "DISK-WRITTEN",
        "NET-IN",
        "NET-OUT",
        "PIDS",
        "REMARK",
    ]);
    for row in rows {
        let known = |text: String| if row.error.is_some() { String::new() } else { text };
        table.row([
            row.service.clone(),
            row.component.clone(),
            row.node.clone(),
            row.replica.to_string(),
            known(percent(row.cpu_percent)),
            known(size(row.memory_bytes)),
            known(row.memory_limit_bytes.map(size).unwrap_or_default()),
            known(size(row.disk_read_bytes)),
            known(size(row.disk_written_bytes)),
            known(row.net_received_bytes.map(size).unwrap_or_default()),
            known(row.net_sent_bytes.map(size).unwrap_or_default()),
            known(row.pids.to_string()),
            row.error.clone().unwrap_or_default(),
        ]);
    }
    table.drop_last_if_empty();
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use weft_protocol::ComponentKey;
    use weft_wire::WallTime;

    pub(crate) fn row(component: &str, seconds: i64, cpu_millis: u64) -> UsageRow {
        UsageRow {
            node: "n1".into(),
            usage: ComponentUsage {
                key: ComponentKey {
                    service: "web".into(),
                    replica: 1,
                    component: component.into(),
                },
                at: WallTime::from_micros(seconds * 1_000_000),
                cpu: cpu_millis * 1_000_000,
                memory: 3 << 20,
                memory_limit: 0,
                pids: 2,
                read: 0,
                written: 2048,
                received: None,
                sent: None,
                error: String::new(),
            },
        }
    }

    pub(crate) fn view(rows: Vec<UsageRow>) -> UsageView {
        UsageView { rows, nodes: Vec::new(), overview: None }
    }

    #[test]
    fn rates_are_those_between_two_readings_and_unknown_before() {
        let (first, second) = (view(vec![row("api", 1, 100)]), view(vec![row("api", 3, 600)]));
        assert_eq!(uses(&first, None).first().and_then(|use_| use_.cpu_percent), None);
        let uses = uses(&second, Some(&first));
        assert_eq!(uses.first().and_then(|use_| use_.cpu_percent), Some(25.0));
        let lines = usage_table(&uses).lines();
        let row: Vec<&str> = lines.get(1).map(|l| l.split("  ").collect()).unwrap_or_default();
        assert!(row.iter().any(|cell| cell.trim() == "25.0%"), "{lines:?}");
        assert!(row.iter().any(|cell| cell.trim() == "3.0 MiB"), "{lines:?}");
        assert!(!lines.first().is_some_and(|header| header.contains("REMARK")));
    }

    #[test]
    fn what_could_not_be_read_says_why_and_shows_no_figures() {
        let mut silent = row("api", 1, 0);
        silent.usage.error = "the engine is away".into();
        let text = usage_table(&uses(&view(vec![silent]), None)).to_string();
        assert!(text.contains("the engine is away") && !text.contains("MiB"), "{text}");
    }
}
