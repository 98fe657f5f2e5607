//! The shapes that `--json` prints, and the rows that tables print. Field names are promises
//! (issue "JSON that scripts may rely on"); more may be added, none is renamed.

use std::time::Duration;

use serde::Serialize;
use weft_protocol::{
    ActorInfo, AttachInfo, ComponentRow, ComponentState, Desired, Drift, Driver, Event, EventKind,
    ForeignRow, Health, LogLine, LogStream, NodeReply, NodeRow, NodeState, PlanAction, PlanItem,
    PsReply, ServiceRow, format_time, image_version, uptime,
};
use weft_wire::WallTime;

use super::Table;
use super::table::cut;

pub(crate) fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A component, as `ps --json` has it. `pid`, `started_at` are null where no process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ComponentView {
    pub(crate) service: String,
    pub(crate) component: String,
    pub(crate) replica: u32,
    pub(crate) node: String,
    pub(crate) state: &'static str,
    pub(crate) pid: Option<u32>,
    pub(crate) health: &'static str,
    pub(crate) version: String,
    pub(crate) revision: u64,
    pub(crate) restarts: u64,
    pub(crate) started_at: Option<String>,
    pub(crate) urls: Vec<String>,
    pub(crate) desired: &'static str,
    /// Null of a container that is not Weft's.
    pub(crate) since: Option<String>,
    pub(crate) last_exit: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) driver: &'static str,
    pub(crate) image: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) container: Option<String>,
    pub(crate) limits: Option<String>,
}

impl From<&ComponentRow> for ComponentView {
    fn from(row: &ComponentRow) -> Self {
        let status = &row.status;
        Self {
            service: status.key.service.clone(),
            component: status.key.component.clone(),
            replica: status.key.replica,
            node: row.node.clone(),
            state: status.state.as_str(),
            pid: (status.pid != 0).then_some(status.pid),
            health: status.health.as_str(),
            version: status.version.clone(),
            revision: status.revision,
            restarts: status.restarts,
            started_at: status.started_at.map(format_time),
            urls: status.urls.clone(),
            desired: status.desired.as_str(),
            since: Some(format_time(status.since)),
            last_exit: some(&status.last_exit),
            reason: some(&status.reason),
            driver: match status.driver {
                Driver::Process => "process",
                Driver::Container => "container",
            },
            image: some(&status.image),
            digest: some(&status.digest),
            container: some(&status.container),
            limits: some(&status.limits),
        }
    }
}

/// What stands for the service of a container that is not Weft's (orchestration §5).
const NOBODYS: &str = "-";

impl ComponentView {
    /// A container that is not Weft's: nothing is wanted of it.
    pub(crate) fn foreign(node: &str, row: &ForeignRow) -> Self {
        Self {
            service: NOBODYS.to_owned(),
            component: row.name.clone(),
            replica: 0,
            node: node.to_owned(),
            state: row.state.as_str(),
            pid: None,
            health: Health::None.as_str(),
            version: image_version(&row.image).to_owned(),
            revision: 0,
            restarts: 0,
            started_at: None,
            urls: Vec::new(),
            desired: Desired::Ignore.as_str(),
            since: None,
            last_exit: None,
            reason: None,
            driver: "container",
            image: some(&row.image),
            digest: None,
            container: some(&row.id),
            limits: None,
        }
    }
}

/// `ps` (orchestration §7: SERVICE COMPONENT NODE STATE VERSION UPTIME, sorted by service, then
/// component), and what else helps.
pub(crate) fn components_table(rows: &[ComponentRow], now: WallTime) -> Table {
    let mut table = components(rows, now);
    table.drop_last_if_empty();
    table
}

fn components(rows: &[ComponentRow], now: WallTime) -> Table {
    let mut rows: Vec<&ComponentRow> = rows.iter().collect();
    rows.sort_by(|a, b| {
        let key = |r: &ComponentRow| {
            let k = &r.status.key;
            (k.service.clone(), k.component.clone(), k.replica, r.node.clone())
        };
        key(a).cmp(&key(b))
    });
    let mut table = Table::new([
        "SERVICE",
        "COMPONENT",
        "NODE",
        "STATE",
        "VERSION",
        "UPTIME",
        "REPLICA",
        "HEALTH",
        "RESTARTS",
        "PID",
        "URL",
        "REASON",
    ]);
    for row in rows {
        let s = &row.status;
        table.row([
            s.key.service.clone(),
            s.key.component.clone(),
            row.node.clone(),
            s.state.to_string(),
            s.version.clone(),
            s.started_at.map(|at| uptime(now.since(at))).unwrap_or_default(),
            s.key.replica.to_string(),
            s.health.to_string(),
            s.restarts.to_string(),
            if s.pid == 0 { String::new() } else { s.pid.to_string() },
            s.urls.join(" "),
            // Only what needs somebody's eye; `ps --json` has all of it.
            if s.state == ComponentState::Running && s.refused == 0 {
                String::new()
            } else {
                cut(&s.reason, 60)
            },
        ]);
    }
    table
}

/// Those of `ps`, with the containers of the nodes that are not Weft's.
pub(crate) fn all_components_table(reply: &PsReply, now: WallTime) -> Table {
    let mut table = components(&reply.rows, now);
    for (node, row) in &reply.foreign {
        let mut cells: [String; 12] = Default::default();
        let known = [
            NOBODYS.to_owned(),
            row.name.clone(),
            node.clone(),
            row.state.to_string(),
            image_version(&row.image).to_owned(),
        ];
        for (cell, text) in cells.iter_mut().zip(known) {
            *cell = text;
        }
        table.row(cells);
    }
    // Mostly there is nothing to say.
    table.drop_last_if_empty();
    table
}

/// The LIMITS part of `status`: what holds components to their `resources`.
pub(crate) fn limits_table(rows: &[ComponentRow]) -> Table {
    let mut table = Table::new(["SERVICE", "COMPONENT", "NODE", "REPLICA", "IN FORCE"]);
    for row in rows.iter().filter(|row| !row.status.limits.is_empty()) {
        let key = &row.status.key;
        table.row([
            key.service.clone(),
            key.component.clone(),
            row.node.clone(),
            key.replica.to_string(),
            row.status.limits.clone(),
        ]);
    }
    table
}

/// A component of desired state, as `list --json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ServiceView {
    pub(crate) service: String,
    pub(crate) component: String,
    pub(crate) replica: u32,
    pub(crate) node: Option<String>,
    pub(crate) desired: &'static str,
    pub(crate) observed: &'static str,
    pub(crate) version: String,
    pub(crate) revision: u64,
}

impl From<&ServiceRow> for ServiceView {
    fn from(row: &ServiceRow) -> Self {
        Self {
            service: row.service.clone(),
            component: row.component.clone(),
            replica: row.replica,
            node: some(&row.node),
            desired: row.desired.as_str(),
            observed: row.observed.as_str(),
            version: row.version.clone(),
            revision: row.revision,
        }
    }
}

/// `list` (orchestration §7).
pub(crate) fn services_table(rows: &[ServiceRow]) -> Table {
    let mut table = Table::new([
        "SERVICE",
        "COMPONENT",
        "NODE",
        "DESIRED",
        "OBSERVED",
        "VERSION",
        "REPLICA",
        "REVISION",
    ]);
    for r in rows {
        table.row([
            r.service.clone(),
            r.component.clone(),
            r.node.clone(),
            r.desired.to_string(),
            r.observed.to_string(),
            r.version.clone(),
            r.replica.to_string(),
            r.revision.to_string(),
        ]);
    }
    table
}

/// A node, as `node list --json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) state: &'static str,
    pub(crate) role: &'static str,
    pub(crate) address: String,
    pub(crate) version: String,
    pub(crate) last_seen_ms: Option<u64>,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) zone: Option<String>,
    pub(crate) components: u64,
    pub(crate) reason: Option<String>,
}

impl From<&NodeRow> for NodeView {
    fn from(row: &NodeRow) -> Self {
        Self {
            name: row.name.clone(),
            id: row.id.to_string(),
            state: row.state.as_str(),
            role: row.role.as_str(),
            address: row.address.clone(),
            version: row.version.clone(),
            last_seen_ms: row.last_seen_ms,
            rtt_us: row.rtt_us,
            zone: some(&row.zone),
            components: row.components,
            reason: some(&row.reason),
        }
    }
}

/// `node list` (orchestration §7).
pub(crate) fn nodes_table(rows: &[NodeRow]) -> Table {
    let mut table = Table::new([
        "NAME",
        "ADDRESS",
        "VERSION",
        "ROLE",
        "STATUS",
        "COMPONENTS",
        "LAST-SEEN",
        "RTT",
        "ZONE",
    ]);
    for r in rows {
        let status = if r.state == NodeState::Ready || r.reason.is_empty() {
            r.state.to_string()
        } else {
            format!("{} ({})", r.state, cut(&r.reason, 60))
        };
        table.row([
            r.name.clone(),
            r.address.clone(),
            r.version.clone(),
            r.role.to_string(),
            status,
            r.components.to_string(),
            r.last_seen_ms.map(ago).unwrap_or_default(),
            r.rtt_us.map(rtt).unwrap_or_default(),
            r.zone.clone(),
        ]);
    }
    table
}

/// Milliseconds as an age.
pub(crate) fn ago(ms: u64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { uptime(Duration::from_millis(ms)) }
}

/// Microseconds as a round trip.
fn rtt(us: u64) -> String {
    if us < 1000 { format!("{us}us") } else { format!("{}.{}ms", us / 1000, us % 1000 / 100) }
}

/// An actor, as `actors --json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ActorView {
    pub(crate) node: String,
    pub(crate) path: String,
    pub(crate) state: &'static str,
    pub(crate) since: String,
    pub(crate) restarts: u64,
    pub(crate) mailbox_depth: u64,
    pub(crate) mailbox_capacity: u64,
    pub(crate) messages: u64,
    pub(crate) last_failure: Option<String>,
    pub(crate) dead_letters: u64,
}

impl From<&ActorInfo> for ActorView {
    fn from(row: &ActorInfo) -> Self {
        Self {
            node: row.node.clone(),
            path: row.path.clone(),
            state: row.state.as_str(),
            since: format_time(row.since),
            restarts: row.restarts,
            mailbox_depth: row.mailbox_depth,
            mailbox_capacity: row.mailbox_capacity,
            messages: row.messages,
            last_failure: some(&row.last_failure),
            dead_letters: row.dead_letters,
        }
    }
}

/// `actors` (orchestration §7). Rates come from `earlier`, a look `apart` before.
pub(crate) fn actors_table(
    rows: &[ActorInfo],
    earlier: &[ActorInfo],
    apart: Duration,
    now: WallTime,
) -> Table {
    let mut table = Table::new([
        "NODE",
        "PATH",
        "STATE",
        "SINCE",
        "RESTARTS",
        "MAILBOX",
        "MSG/S",
        "LAST-FAILURE",
    ]);
    for r in rows {
        let before = earlier.iter().find(|e| e.node == r.node && e.path == r.path);
        let rate = before.filter(|_| !apart.is_zero()).map(|before| {
            let handled = r.messages.saturating_sub(before.messages);
            // Counts this small are exact in a float.
            format!("{:.0}", handled as f64 / apart.as_secs_f64())
        });
        table.row([
            r.node.clone(),
            r.path.clone(),
            r.state.to_string(),
            uptime(now.since(r.since)),
            r.restarts.to_string(),
            format!("{}/{}", r.mailbox_depth, r.mailbox_capacity),
            rate.unwrap_or_default(),
            cut(&r.last_failure, 60),
        ]);
    }
    table
}

/// An event, as `events --json` prints one a line. What does not apply is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EventView {
    pub(crate) time: String,
    pub(crate) node: String,
    pub(crate) service: Option<String>,
    pub(crate) component: Option<String>,
    pub(crate) replica: Option<u32>,
    /// Of a component only, as is `new_state`.
    pub(crate) prev_state: Option<&'static str>,
    pub(crate) new_state: Option<&'static str>,
    pub(crate) cause: String,
    pub(crate) exit: Option<String>,
    pub(crate) id: String,
    /// `component`, `node`, `leader`, `voters` or `placement`.
    pub(crate) kind: &'static str,
    /// Before: a state, a node, or the names of voters with commas between them.
    pub(crate) from: Option<String>,
    /// After, likewise; of a node, what became of it.
    pub(crate) to: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) term: Option<u64>,
    /// The node whose view this is, where nodes may differ.
    pub(crate) observer: Option<String>,
}

impl From<&Event> for EventView {
    fn from(event: &Event) -> Self {
        let (from, to) = turned(&event.kind);
        Self {
            time: format_time(event.time),
            node: event.node.clone(),
            service: some(&event.service),
            component: some(&event.component),
            replica: (event.replica != 0).then_some(event.replica),
            prev_state: event.states().map(|(from, _)| from.as_str()),
            new_state: event.states().map(|(_, to)| to.as_str()),
            cause: event.cause.clone(),
            exit: some(&event.exit),
            id: event.id.to_string(),
            kind: event.kind.as_str(),
            from: some(&from),
            to: some(&to),
            group: match &event.kind {
                EventKind::Leader { group, .. } | EventKind::Voters { group, .. } => some(group),
                _ => None,
            },
            term: match &event.kind {
                EventKind::Leader { term, .. } => Some(*term),
                _ => None,
            },
            observer: some(&event.observer),
        }
    }
}

/// Before and after, as words.
fn turned(kind: &EventKind) -> (String, String) {
    match kind {
        EventKind::Component { from, to } => (from.to_string(), to.to_string()),
        EventKind::Node { to } => (String::new(), to.to_string()),
        EventKind::Leader { from, to, .. } | EventKind::Placement { from, to } => {
            (from.clone(), to.clone())
        }
        EventKind::Voters { from, to, .. } => (from.join(","), to.join(",")),
    }
}

/// One event as a line for people; fixed widths, because more may come.
pub(crate) fn event_line(event: &Event) -> String {
    let what = match (event.service.is_empty(), event.component.is_empty()) {
        (true, _) => match &event.kind {
            EventKind::Leader { group, term, .. } => format!("leader of {group}, term {term}"),
            EventKind::Voters { group, .. } => format!("voters of {group}"),
            EventKind::Node { .. } => "node".to_owned(),
            _ => "-".to_owned(),
        },
        (false, true) => event.service.clone(),
        (false, false) => format!("{}/{}", event.service, event.component),
    };
    let what = if event.replica == 0 { what } else { format!("{what}#{}", event.replica) };
    let exit = if event.exit.is_empty() { String::new() } else { format!(", {}", event.exit) };
    let (from, to) = turned(&event.kind);
    let nothing = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let turn = match &event.kind {
        EventKind::Node { .. } => to,
        EventKind::Placement { .. } => format!("placed {} -> {}", nothing(from), nothing(to)),
        _ => format!("{} -> {}", nothing(from), nothing(to)),
    };
    let by = if event.observer.is_empty() {
        String::new()
    } else {
        format!(", seen by {}", event.observer)
    };
    let node = if event.node.is_empty() { "-" } else { event.node.as_str() };
    let line = format!(
        "{}  {node:<8}  {what:<28}  {turn}  ({}{exit}{by})",
        format_time(event.time),
        event.cause,
    );
    crate::error::clean(&line).replace('\n', " ")
}

/// A difference between what is wanted and what is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DriftView {
    pub(crate) service: String,
    pub(crate) component: String,
    pub(crate) replica: u32,
    pub(crate) node: String,
    pub(crate) desired: &'static str,
    pub(crate) observed: &'static str,
    pub(crate) reason: String,
    pub(crate) since: String,
    pub(crate) kind: &'static str,
}

impl From<&Drift> for DriftView {
    fn from(drift: &Drift) -> Self {
        Self {
            service: drift.service.clone(),
            component: drift.component.clone(),
            replica: drift.replica,
            node: drift.node.clone(),
            desired: drift.desired.as_str(),
            observed: drift.observed.as_str(),
            reason: drift.reason.clone(),
            since: format_time(drift.since),
            kind: drift.kind.as_str(),
        }
    }
}

/// The DRIFT part of `status` (orchestration §7).
pub(crate) fn drift_table(rows: &[Drift]) -> Table {
    let mut table = Table::new([
        "SERVICE",
        "COMPONENT",
        "NODE",
        "DESIRED",
        "OBSERVED",
        "REPLICA",
        "KIND",
        "REASON",
    ]);
    for d in rows {
        table.row([
            d.service.clone(),
            d.component.clone(),
            d.node.clone(),
            d.desired.to_string(),
            d.observed.to_string(),
            d.replica.to_string(),
            d.kind.to_string(),
            d.reason.clone(),
        ]);
    }
    table
}

/// How a node answered a question to all; `error` is null when it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AnswerView {
    pub(crate) node: String,
    pub(crate) error: Option<String>,
}

impl From<&NodeReply> for AnswerView {
    fn from(reply: &NodeReply) -> Self {
        Self { node: reply.node.clone(), error: some(&reply.error) }
    }
}

/// A line a component wrote, as `logs --json` prints one a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LogView {
    pub(crate) time: String,
    pub(crate) node: String,
    pub(crate) service: String,
    pub(crate) component: String,
    pub(crate) replica: u32,
    pub(crate) stream: &'static str,
    pub(crate) text: String,
}

impl LogView {
    pub(crate) fn new(node: &str, line: &LogLine) -> Self {
        Self {
            time: format_time(line.time),
            node: node.to_owned(),
            service: line.key.service.clone(),
            component: line.key.component.clone(),
            replica: line.key.replica,
            stream: match line.stream {
                LogStream::Stdout => "stdout",
                LogStream::Stderr => "stderr",
                LogStream::Weft => "weft",
            },
            text: line.text.clone(),
        }
    }
}

/// One line of a plan, as `plan --json` has it; `problem` is null when none is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PlanView {
    pub(crate) service: String,
    pub(crate) component: String,
    pub(crate) replica: u32,
    pub(crate) node: Option<String>,
    pub(crate) action: &'static str,
    pub(crate) changed: Vec<String>,
    pub(crate) problem: Option<String>,
}

/// The word for a plan's action (orchestration §7).
pub(crate) const fn plan_action(action: PlanAction) -> &'static str {
    match action {
        PlanAction::Create => "create",
        PlanAction::Recreate => "recreate",
        PlanAction::Keep => "keep",
        PlanAction::Stop => "stop",
        PlanAction::Remove => "remove",
    }
}

impl From<&PlanItem> for PlanView {
    fn from(item: &PlanItem) -> Self {
        Self {
            service: item.service.clone(),
            component: item.component.clone(),
            replica: item.replica,
            node: some(&item.node),
            action: plan_action(item.action),
            changed: item.changed.clone(),
            problem: some(&item.problem),
        }
    }
}

/// `plan`: an action for each component, with the changed fields and what would make it fail.
pub(crate) fn plan_table(items: &[PlanItem]) -> Table {
    let mut table =
        Table::new(["SERVICE", "COMPONENT", "NODE", "ACTION", "REPLICA", "CHANGED", "PROBLEM"]);
    for item in items {
        table.row([
            item.service.clone(),
            item.component.clone(),
            item.node.clone(),
            plan_action(item.action).to_owned(),
            item.replica.to_string(),
            item.changed.join(","),
            item.problem.clone(),
        ]);
    }
    table
}

/// What became of one component of a deploy or a change of what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StepView {
    pub(crate) component: String,
    pub(crate) replica: u32,
    pub(crate) node: String,
    pub(crate) state: &'static str,
    pub(crate) ok: bool,
    pub(crate) error: Option<String>,
    pub(crate) urls: Vec<String>,
}

/// A deploy or a change of what is wanted, as `--json` prints it at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ChangeView {
    pub(crate) service: String,
    pub(crate) revision: u64,
    pub(crate) changed: bool,
    /// Null: nothing was to change.
    pub(crate) operation: Option<u64>,
    pub(crate) good: u32,
    pub(crate) bad: u32,
    pub(crate) timed_out: bool,
    pub(crate) components: Vec<StepView>,
}

/// `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StatusView {
    pub(crate) components: Vec<ComponentView>,
    pub(crate) drift: Vec<DriftView>,
    pub(crate) events: Vec<EventView>,
    pub(crate) nodes: Vec<AnswerView>,
    /// What agreed state wants that cannot be had.
    pub(crate) waiting: Vec<String>,
    /// What goes on.
    pub(crate) operations: Vec<super::operations::OperationView>,
    /// Of the last hour.
    pub(crate) alerts: Vec<super::alerts::AlertView>,
}

/// `whoami --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WhoamiView {
    pub(crate) cluster: String,
    pub(crate) caller: String,
    pub(crate) name: Option<String>,
    pub(crate) role: String,
    /// Null over the local socket, where no certificate is shown.
    pub(crate) expires_at: Option<String>,
    pub(crate) via: String,
    pub(crate) node: String,
    pub(crate) node_version: String,
}

impl WhoamiView {
    pub(crate) fn new(info: &AttachInfo, via: String, expires_at: Option<WallTime>) -> Self {
        Self {
            cluster: info.cluster.clone(),
            caller: info.caller.clone(),
            name: some(&info.caller_name),
            role: info.role.clone(),
            expires_at: expires_at.map(format_time),
            via,
            node: info.node.clone(),
            node_version: info.version.clone(),
        }
    }
}

/// A node of `up --detach --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UpNodeView {
    pub(crate) name: String,
    pub(crate) fabric: String,
    pub(crate) gateway: String,
    pub(crate) pid: u32,
    pub(crate) data_dir: String,
}

/// A service of `up --detach --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UpServiceView {
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) urls: Vec<String>,
}

/// `up --detach --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UpView {
    pub(crate) cluster: String,
    pub(crate) context: String,
    pub(crate) nodes: Vec<UpNodeView>,
    pub(crate) services: Vec<UpServiceView>,
    pub(crate) dir: String,
}

#[cfg(test)]
#[path = "views_tests.rs"]
mod tests;
