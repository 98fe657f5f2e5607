//! The sentences that people read.

use super::{Liveness, NodeFacts, ReplicaState};

const NAMED: usize = 3;

/// `900 B`, `1.2 GiB`; rounded down, so that what is shown as free is there.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, unit) in UNITS {
        if n >= unit {
            let tenth = n % unit * 10 / unit;
            return if tenth == 0 {
                format!("{} {name}", n / unit)
            } else {
                format!("{}.{tenth} {name}", n / unit)
            };
        }
    }
    format!("{n} B")
}

/// `500m CPU`.
pub(super) fn cpu(millis: u64) -> String {
    format!("{millis}m CPU")
}

/// `400 ms`, `2.5 s`.
pub(super) fn wait(ms: u64) -> String {
    match (ms / 1000, ms % 1000 / 100) {
        (0, _) => format!("{ms} ms"),
        (s, 0) => format!("{s} s"),
        (s, tenth) => format!("{s}.{tenth} s"),
    }
}

/// `is lost`, for a node that is not ready.
pub(super) const fn liveness(of: Liveness) -> &'static str {
    match of {
        Liveness::Ready => "is ready",
        Liveness::Suspect => "does not answer",
        Liveness::DaemonDown => "has no daemon running",
        Liveness::Away => "is away",
        Liveness::Lost { .. } => "is lost",
        Liveness::Left => "has left",
    }
}

/// `is starting`, for a copy that is not healthy.
pub(super) const fn state(of: ReplicaState) -> &'static str {
    match of {
        ReplicaState::Unknown => "has not been seen yet",
        ReplicaState::Starting => "is starting",
        ReplicaState::Running => "is not healthy",
        ReplicaState::Healthy => "is healthy",
        ReplicaState::Failed => "has failed",
        ReplicaState::Stopped => "is stopped",
    }
}

/// Why a node is no target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reject {
    /// Not ready.
    Liveness,
    /// Gives its work away.
    Draining,
    /// Takes another tier only; the service's.
    Tier(&'static str),
    /// Does not fulfil a rule: the rule, and what it has instead.
    Rule(String, String),
    /// Lacks room: what is needed, what is free.
    Room(String, String),
    /// A host port is taken: the port, by whom.
    Port(u16, String),
}

/// One sentence for a single node that is no target.
pub(super) fn rejected(node: &NodeFacts, why: &Reject) -> String {
    let name = &node.name;
    match why {
        Reject::Liveness => format!("{name} {}", liveness(node.liveness)),
        Reject::Draining => format!("{name} is draining"),
        Reject::Tier(tier) => format!("{name} takes no services of tier {tier}"),
        Reject::Rule(rule, instead) => {
            format!("{name} does not fulfil require {rule}: it has {instead}")
        }
        Reject::Room(need, free) => format!("no room: needs {need}, {name} has {free} free"),
        Reject::Port(port, by) => format!("port {port} on {name} is taken by {by}"),
    }
}

/// Picks one kind of reason: its headline, and the part about the node.
type Pick = dyn Fn(&NodeFacts, &Reject) -> Option<(String, String)>;

/// One sentence for all nodes together: the reason that came closest to fitting leads.
pub(super) fn no_target(rejects: &[(&NodeFacts, Reject)]) -> String {
    let closest = |f: &Pick| {
        let found: Vec<_> = rejects.iter().filter_map(|(node, why)| f(node, why)).collect();
        let (head, _) = found.first()?.clone();
        Some((head, list(found.into_iter().map(|(_, part)| part))))
    };
    let room = closest(&|node, why| match why {
        Reject::Room(need, free) => Some((need.clone(), format!("{} has {free} free", node.name))),
        _ => None,
    });
    if let Some((need, nodes)) = room {
        return format!("no room: needs {need}, {nodes}");
    }
    let port = closest(&|node, why| match why {
        Reject::Port(port, by) => Some((port.to_string(), format!("by {by} on {}", node.name))),
        _ => None,
    });
    if let Some((port, nodes)) = port {
        return format!("port {port} is taken {nodes}");
    }
    let rule = closest(&|node, why| match why {
        Reject::Rule(rule, has) => Some((rule.clone(), format!("{} has {has}", node.name))),
        _ => None,
    });
    if let Some((rule, nodes)) = rule {
        return format!("no node fulfils require {rule}: {nodes}");
    }
    let tier = closest(&|node, why| match why {
        Reject::Tier(tier) => Some(((*tier).to_owned(), node.name.clone())),
        _ => None,
    });
    if let Some((tier, _)) = tier {
        return format!("no ready node takes services of tier {tier}");
    }
    if rejects.is_empty() {
        return "there are no nodes".to_owned();
    }
    let nodes = list(rejects.iter().map(|(node, why)| rejected(node, why)));
    format!("no node is ready: {nodes}")
}

/// `a, b, c and 4 more`.
fn list(parts: impl ExactSizeIterator<Item = String>) -> String {
    let more = parts.len().saturating_sub(NAMED);
    let named: Vec<_> = parts.take(NAMED).collect();
    let named = named.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
