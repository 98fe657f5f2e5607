//! The shapes and tables of agreement: `cluster status`, `plan --lost`, and what `node drain`,
//! `node leave` and `node label` print. Field names are promises, as in [`super::views`].

use serde::Serialize;
use weft_protocol::{AgreementView, GroupView, MemberView, NodeRecord, PlacementPlan, ReplicaKey};
use weft_wire::NodeId;

use super::Table;
use super::views::{ago, some};
use crate::commands::agreed::{control, name_in, without_majority};
use crate::error::clean;

/// `cluster status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ClusterView {
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) format: u32,
    /// Null: never since the start of the node that says this.
    pub(crate) contact_ms: Option<u64>,
    pub(crate) groups: Vec<GroupLine>,
    pub(crate) nodes: Vec<MemberLine>,
    pub(crate) waiting: Vec<String>,
    /// Who says this: the leader, or the attached node.
    pub(crate) node: Option<String>,
    /// Null: a majority was there just now.
    pub(crate) no_majority: Option<String>,
}

/// A consensus group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct GroupLine {
    pub(crate) name: String,
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) last_log: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) checkpoint: u64,
    pub(crate) voters: Vec<String>,
    pub(crate) learners: Vec<String>,
    pub(crate) contact_ms: Option<u64>,
}

/// A node's part in agreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MemberLine {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) state: &'static str,
    pub(crate) role: &'static str,
    /// Entries it lacks; null where the node that says this does not know.
    pub(crate) lag: Option<u64>,
    pub(crate) for_ms: u64,
    pub(crate) why: Option<String>,
}

impl From<&MemberView> for MemberLine {
    fn from(member: &MemberView) -> Self {
        Self {
            name: member.name.clone(),
            id: member.id.to_string(),
            state: member.state.as_str(),
            role: member.role.as_str(),
            lag: member.lag,
            for_ms: member.for_ms,
            why: some(&member.why),
        }
    }
}

fn group_line(view: &AgreementView, group: &GroupView) -> GroupLine {
    let names = |ids: &[NodeId]| {
        let mut names: Vec<String> = ids.iter().map(|id| name_in(view, *id)).collect();
        names.sort();
        names
    };
    GroupLine {
        name: group.name.clone(),
        leader: group.leader.map(|id| name_in(view, id)),
        term: group.term,
        last_log: group.last_log,
        committed: group.committed,
        applied: group.applied,
        checkpoint: group.checkpoint,
        voters: names(&group.voters),
        learners: names(&group.learners),
        contact_ms: group.contact_ms,
    }
}

impl From<&AgreementView> for ClusterView {
    fn from(view: &AgreementView) -> Self {
        let control = control(view);
        let mut nodes: Vec<MemberLine> = view.members.iter().map(MemberLine::from).collect();
        nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Self {
            leader: control.and_then(|group| group.leader).map(|id| name_in(view, id)),
            term: control.map_or(0, |group| group.term),
            committed: control.map_or(0, |group| group.committed),
            applied: control.map_or(0, |group| group.applied),
            format: view.format,
            contact_ms: control.and_then(|group| group.contact_ms),
            groups: view.groups.iter().map(|group| group_line(view, group)).collect(),
            nodes,
            waiting: view.waiting.clone(),
            node: view.node.map(|id| name_in(view, id)),
            no_majority: without_majority(view),
        }
    }
}

/// `cluster status` for people.
pub(crate) fn cluster_text(view: &ClusterView) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let contact = match view.contact_ms {
        Some(ms) => format!("with a majority {} ago", ago(ms)),
        None => "-".into(),
    };
    let leader = match (&view.leader, &view.no_majority) {
        (Some(leader), Some(_)) => format!("{leader} (the last one known)"),
        (Some(leader), None) => leader.clone(),
        (None, _) => "-".into(),
    };
    let mut lines: Vec<String> = view.no_majority.iter().cloned().collect();
    lines.extend([
        format!("leader     {leader}"),
        format!("term       {}", view.term),
        format!("committed  {}", view.committed),
        format!("applied    {}", view.applied),
        format!("format     {}", view.format),
        format!("contact    {contact}"),
        format!("as seen by {}", or_none(view.node.clone())),
        String::new(),
    ]);
    let mut groups = Table::new([
        "GROUP",
        "LEADER",
        "TERM",
        "COMMITTED",
        "APPLIED",
        "CHECKPOINT",
        "VOTERS",
        "LEARNERS",
    ]);
    for group in &view.groups {
        groups.row([
            group.name.clone(),
            group.leader.clone().unwrap_or_default(),
            group.term.to_string(),
            group.committed.to_string(),
            group.applied.to_string(),
            group.checkpoint.to_string(),
            group.voters.join(","),
            group.learners.join(","),
        ]);
    }
    lines.extend(groups.lines());
    lines.push(String::new());
    let mut nodes = Table::new(["NODE", "STATE", "ROLE", "LAG", "SINCE", "WHY"]);
    for node in &view.nodes {
        nodes.row([
            node.name.clone(),
            node.state.to_owned(),
            node.role.to_owned(),
            node.lag.map(|lag| lag.to_string()).unwrap_or_default(),
            // The node that says this does not watch itself.
            if node.for_ms == 0 { String::new() } else { ago(node.for_ms) },
            node.why.clone().unwrap_or_default(),
        ]);
    }
    lines.extend(nodes.lines());
    lines.extend(waiting_lines(&view.waiting));
    clean(&lines.join("\n"))
}

/// The part of a text that says what waits; nothing when nothing does.
pub(crate) fn waiting_lines(waiting: &[String]) -> Vec<String> {
    if waiting.is_empty() {
        return Vec::new();
    }
    let head = [String::new(), "WAITING".to_owned()];
    head.into_iter().chain(waiting.iter().map(|line| clean(line).replace('\n', " "))).collect()
}

/// `plan --lost --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LostView {
    pub(crate) lost: Vec<String>,
    pub(crate) moves: Vec<LostMove>,
    pub(crate) waiting: Vec<WaitView>,
    pub(crate) places: Vec<LostPlace>,
    /// Null: a majority of the voters would be left.
    pub(crate) no_majority: Option<String>,
}

/// A move that would be made; `from` and `to` are null for nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LostMove {
    pub(crate) service: String,
    pub(crate) replica: u32,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) why: String,
}

/// A replica that has no place, or stays where it is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WaitView {
    pub(crate) service: String,
    pub(crate) replica: u32,
    pub(crate) why: String,
}

impl std::fmt::Display for WaitView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, replica, why } = self;
        write!(f, "{service}/{replica}: {why}")
    }
}

/// Where a replica would be at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LostPlace {
    pub(crate) service: String,
    pub(crate) replica: u32,
    pub(crate) node: String,
}

/// The name of a node of agreed state.
pub(crate) fn name_of(nodes: &[NodeRecord], id: NodeId) -> String {
    nodes.iter().find(|node| node.id == id).map_or_else(|| id.to_string(), |n| n.name.clone())
}

impl LostView {
    pub(crate) fn new(
        lost: Vec<String>,
        plan: &PlacementPlan,
        nodes: &[NodeRecord],
        no_majority: Option<String>,
    ) -> Self {
        let moves = plan.moves.iter().map(|step| LostMove {
            service: step.service.clone(),
            replica: step.replica,
            from: step.from.map(|id| name_of(nodes, id)),
            to: step.to.map(|id| name_of(nodes, id)),
            why: step.reason.clone(),
        });
        let waiting = plan.waiting.iter().map(|(service, replica, why)| WaitView {
            service: service.clone(),
            replica: *replica,
            why: why.clone(),
        });
        let places = plan.places.iter().map(|(service, replica, node)| LostPlace {
            service: service.clone(),
            replica: *replica,
            node: name_of(nodes, *node),
        });
        Self {
            lost,
            moves: moves.collect(),
            waiting: waiting.collect(),
            places: places.collect(),
            no_majority,
        }
    }
}

/// `plan --lost` for people.
pub(crate) fn lost_text(view: &LostView) -> String {
    let mut lines: Vec<String> = view.no_majority.iter().cloned().collect();
    if view.moves.is_empty() {
        lines.push(format!("without {} nothing would move", view.lost.join(", ")));
    } else {
        let mut table = Table::new(["SERVICE", "REPLICA", "FROM", "TO", "WHY"]);
        for step in &view.moves {
            table.row([
                step.service.clone(),
                step.replica.to_string(),
                step.from.clone().unwrap_or_default(),
                step.to.clone().unwrap_or_default(),
                step.why.clone(),
            ]);
        }
        lines.extend(table.lines());
    }
    let waiting: Vec<String> = view.waiting.iter().map(ToString::to_string).collect();
    lines.extend(waiting_lines(&waiting));
    clean(&lines.join("\n"))
}

/// `node drain --json`, `node undrain --json` and, with `removed`, `node leave --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DrainView {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) draining: bool,
    /// The operation that drains it; null: none was begun by this command.
    pub(crate) operation: Option<u64>,
    pub(crate) moved: Vec<MovedView>,
    pub(crate) staying: Vec<WaitView>,
    /// Replicas that are still to move.
    pub(crate) left: Vec<ReplicaView>,
    pub(crate) timed_out: bool,
    pub(crate) removed: bool,
}

/// A replica that has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MovedView {
    pub(crate) service: String,
    pub(crate) replica: u32,
    pub(crate) to: String,
}

/// Which replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ReplicaView {
    pub(crate) service: String,
    pub(crate) replica: u32,
}

impl From<&ReplicaKey> for ReplicaView {
    fn from(key: &ReplicaKey) -> Self {
        Self { service: key.service.clone(), replica: key.replica }
    }
}

/// `node label --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LabelView {
    pub(crate) name: String,
    pub(crate) id: String,
    /// All it has, those of its node file too.
    pub(crate) labels: Vec<String>,
    pub(crate) changed: bool,
}

#[cfg(test)]
#[path = "agreed_tests.rs"]
mod tests;
