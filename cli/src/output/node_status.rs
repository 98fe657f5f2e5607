//! `node status`: what is known of a node, for people and as JSON (orchestration §19).

use std::time::Duration;

use serde::Serialize;
use weft_protocol::{HostFigures, NodeStatusRow, PeerFacts, uptime};

use super::progress::size;
use super::views::{NodeView, some};

/// A node, as `node status --json` has it: what `node list` says of it and more. What only the node
/// itself knows is null while it does not answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeStatusView {
    #[serde(flatten)]
    node: NodeView,
    labels: Vec<String>,
    draining: bool,
    services: u64,
    runtime: Option<String>,
    runtime_version: Option<String>,
    runtime_problem: Option<String>,
    arch: Option<String>,
    cores: Option<u32>,
    cpu_percent: Option<f64>,
    load1: Option<f64>,
    memory_total: Option<u64>,
    memory_available: Option<u64>,
    disk_total: Option<u64>,
    disk_free: Option<u64>,
    host_uptime_secs: Option<u64>,
    daemon_uptime_secs: Option<u64>,
    daemon_memory: Option<u64>,
    /// Format level that its build knows; `agreed_format` is that of the cluster.
    format: Option<u32>,
    agreed_format: u32,
    peers: Option<Vec<PeerView>>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct PeerView {
    name: String,
    up: bool,
    rtt_us: Option<u64>,
    clock_offset_us: Option<i64>,
}

impl From<&PeerFacts> for PeerView {
    fn from(peer: &PeerFacts) -> Self {
        Self {
            name: peer.name.clone(),
            up: peer.up,
            rtt_us: peer.rtt_us,
            clock_offset_us: peer.clock_offset_us,
        }
    }
}

impl From<&NodeStatusRow> for NodeStatusView {
    fn from(row: &NodeStatusRow) -> Self {
        let facts = row.facts.as_ref();
        let host = facts.and_then(|facts| facts.host.as_ref());
        Self {
            node: NodeView::from(&row.node),
            labels: row.labels.clone(),
            draining: row.draining,
            services: row.services,
            runtime: facts.and_then(|facts| some(&facts.engine.kind)),
            runtime_version: facts.and_then(|facts| some(&facts.engine.version)),
            runtime_problem: facts.and_then(|facts| some(&facts.engine.problem)),
            arch: host.and_then(|host| some(&host.arch)),
            cores: host.map(|host| host.cores),
            cpu_percent: host.map(|host| host.cpu_percent),
            load1: host.map(|host| host.load1),
            memory_total: host.map(|host| host.memory_total),
            memory_available: host.map(|host| host.memory_available),
            disk_total: host.map(|host| host.disk_total),
            disk_free: host.map(|host| host.disk_free),
            host_uptime_secs: host.map(|host| host.host_uptime_secs),
            daemon_uptime_secs: host.map(|host| host.daemon_uptime_secs),
            daemon_memory: host.map(|host| host.daemon_memory),
            format: facts.map(|facts| facts.format),
            agreed_format: row.format,
            peers: facts.map(|facts| facts.peers.iter().map(PeerView::from).collect()),
        }
    }
}

/// A block of lines for each node.
pub(crate) fn text(rows: &[NodeStatusRow]) -> String {
    rows.iter().map(block).collect::<Vec<_>>().join("\n\n")
}

fn block(row: &NodeStatusRow) -> String {
    let node = &row.node;
    let mut lines = vec![format!("{}: {}, {}", node.name, node.state, node.role)];
    let mut say = |what: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("  {what:<11} {text}"));
        }
    };
    say("reason", node.reason.clone());
    say("id", node.id.to_string());
    say("address", node.address.clone());
    say("version", node.version.clone());
    let mut labels = row.labels.clone();
    if !node.zone.is_empty() {
        labels.insert(0, format!("zone={}", node.zone));
    }
    say("labels", labels.join(" "));
    say("components", format!("{} of {} services", node.components, row.services));
    let Some(facts) = &row.facts else {
        say("more", "is not known: it does not answer".to_owned());
        return lines.join("\n");
    };
    let engine = &facts.engine;
    let named = format!("{} {}", engine.kind, engine.version);
    let problem = match engine.problem.as_str() {
        "" => String::new(),
        problem => format!(" ({problem})"),
    };
    say("runtime", format!("{}{problem}", named.trim()));
    if let Some(host) = &facts.host {
        machine(host, &mut say);
    }
    let newer = if facts.format > row.format && row.format > 0 {
        format!(", its build knows {}", facts.format)
    } else {
        String::new()
    };
    say("format", format!("{}{newer}", row.format));
    let peers: Vec<String> = facts.peers.iter().map(peer).collect();
    say("peers", peers.join(", "));
    lines.join("\n")
}

fn machine(host: &HostFigures, say: &mut impl FnMut(&str, String)) {
    say(
        "cpu",
        format!(
            "{:.0} % of {} cores ({}), load {:.2}",
            host.cpu_percent, host.cores, host.arch, host.load1
        ),
    );
    let free = |free: u64, total: u64| format!("{} free of {}", size(free), size(total));
    say("memory", free(host.memory_available, host.memory_total));
    say("disk", free(host.disk_free, host.disk_total));
    let up = |secs: u64| uptime(Duration::from_secs(secs));
    say(
        "up",
        format!(
            "daemon {} ({}), machine {}",
            up(host.daemon_uptime_secs),
            size(host.daemon_memory),
            up(host.host_uptime_secs)
        ),
    );
}

fn peer(peer: &PeerFacts) -> String {
    if !peer.up {
        return format!("{} (no link)", peer.name);
    }
    let mut text = peer.name.clone();
    if let Some(rtt) = peer.rtt_us {
        text.push_str(&format!(" {:.1} ms", rtt as f64 / 1000.0));
    }
    // Less is within what the measurement can tell.
    if let Some(offset) = peer.clock_offset_us.filter(|offset| offset.abs() >= 100_000) {
        text.push_str(&format!(" (its clock {:+.1} s)", offset as f64 / 1_000_000.0));
    }
    text
}
