//! The Prometheus text of everything a node knows, from the same answers that people see.
//! Format: text exposition 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use weft_link::Stats;
use weft_protocol::{
    ActorInfo, ActorState, ComponentState, ComponentStatus, Event, Health, HostFigures, NodeRow,
    NodeState, SessionFigures, SessionLifecycle,
};

use crate::macp::counted::{BUCKETS, Outcome, Series, Taken, mode};

/// What is known; what could not be had is `None` and its families are left out.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) node: String,
    pub(crate) version: String,
    /// (actor, whether it answered).
    pub(crate) up: Vec<(String, bool)>,
    pub(crate) actors: Option<Vec<ActorInfo>>,
    pub(crate) components: Option<Vec<ComponentStatus>>,
    pub(crate) nodes: Option<Vec<NodeRow>>,
    pub(crate) host: Option<HostFigures>,
    /// Of the last hour.
    pub(crate) events: Option<Vec<Event>>,
    /// Position of desired state on this node.
    pub(crate) state_index: Option<u64>,
    pub(crate) operations: u64,
    /// (peer, asks to it that wait for their answer).
    pub(crate) in_flight: Vec<(String, u64)>,
    /// What has passed the door.
    pub(crate) door: Stats,
    /// MACP sessions; `None`: none are served here.
    pub(crate) sessions: Option<SessionFigures>,
    /// What MACP clients sent to this node.
    pub(crate) envelopes: Option<Vec<(Series, Taken)>>,
}

/// The text.
pub(crate) fn render(figures: &Figures) -> String {
    let mut out = Text::default();
    let build = [("version", figures.version.as_str()), ("node", figures.node.as_str())];
    out.family("weft_build_info", "gauge", "Version of this daemon; always 1.");
    out.sample("weft_build_info", &build, 1.0);
    out.family("weft_up", "gauge", "Whether an actor of this node answered.");
    for (actor, up) in &figures.up {
        out.sample("weft_up", &[("actor", actor)], f64::from(u8::from(*up)));
    }
    out.family("weft_gateway_operations", "gauge", "Requests the gateway is working on.");
    out.sample("weft_gateway_operations", &[], count(figures.operations));
    out.family("weft_asks_in_flight", "gauge", "Asks to a peer that wait for their answer.");
    for (peer, n) in &figures.in_flight {
        out.sample("weft_asks_in_flight", &[("peer", peer)], count(*n));
    }
    out.family("weft_requests_total", "counter", "Requests let in from connections, by message.");
    for (message, n) in &figures.door.received {
        out.sample("weft_requests_total", &[("message", message)], count(*n));
    }
    out.family("weft_refused_total", "counter", "Requests refused at the door.");
    out.sample("weft_refused_total", &[], count(figures.door.refused));
    out.family("weft_dead_letters_total", "counter", "Letters that no mailbox took.");
    out.sample("weft_dead_letters_total", &[], count(figures.door.dead_letters));
    if let Some(index) = figures.state_index {
        out.family("weft_state_index", "gauge", "Position of desired state on this node.");
        out.sample("weft_state_index", &[], count(index));
    }
    if let Some(actors) = &figures.actors {
        render_actors(&mut out, actors);
    }
    if let Some(components) = &figures.components {
        render_components(&mut out, components);
    }
    if let Some(nodes) = &figures.nodes {
        render_nodes(&mut out, nodes);
    }
    if let Some(host) = &figures.host {
        render_host(&mut out, host);
    }
    if let Some(sessions) = &figures.sessions {
        render_sessions(&mut out, sessions);
    }
    if let Some(envelopes) = &figures.envelopes {
        render_envelopes(&mut out, envelopes);
    }
    if let Some(events) = &figures.events {
        let mut by: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        // Those of components: the others have sentences for causes, and every node has them.
        for (event, (_, to)) in events.iter().filter_map(|e| Some((e, e.states()?))) {
            *by.entry((to.as_str(), event.cause.as_str())).or_default() += 1;
        }
        out.family("weft_events_last_hour", "gauge", "Events of this node in the last hour.");
        for ((state, cause), n) in by {
            let labels = [("new_state", state), ("cause", cause)];
            out.sample("weft_events_last_hour", &labels, count(n));
        }
    }
    out.text
}

fn render_actors(out: &mut Text, actors: &[ActorInfo]) {
    out.family("weft_actor_state", "gauge", "1 for the state an actor is in.");
    for actor in actors {
        for state in ActorState::ALL {
            let labels = [("actor", actor.path.as_str()), ("state", state.as_str())];
            out.sample("weft_actor_state", &labels, f64::from(u8::from(actor.state == *state)));
        }
    }
    type Column = (&'static str, &'static str, &'static str, fn(&ActorInfo) -> u64);
    let columns: [Column; 5] = [
        ("weft_actor_restarts_total", "counter", "Incarnations after the first.", |a| a.restarts),
        ("weft_actor_mailbox_depth", "gauge", "Messages waiting.", |a| a.mailbox_depth),
        ("weft_actor_mailbox_capacity", "gauge", "Messages that may wait.", |a| a.mailbox_capacity),
        ("weft_actor_messages_total", "counter", "Messages handled.", |a| a.messages),
        ("weft_actor_dead_letters_total", "counter", "Messages nobody handled.", |a| {
            a.dead_letters
        }),
    ];
    for (name, kind, help, value) in columns {
        out.family(name, kind, help);
        for actor in actors {
            out.sample(name, &[("actor", &actor.path)], count(value(actor)));
        }
    }
}

fn render_components(out: &mut Text, components: &[ComponentStatus]) {
    out.family("weft_components", "gauge", "Components of this node by state.");
    for state in ComponentState::ALL {
        let n = components.iter().filter(|status| status.state == *state).count();
        out.sample("weft_components", &[("state", state.as_str())], count(n as u64));
    }
    type Value = fn(&ComponentStatus) -> Option<f64>;
    let columns: [(&str, &str, &str, Value); 3] = [
        ("weft_component_up", "gauge", "Whether a component runs.", |status| {
            Some(f64::from(u8::from(status.state == ComponentState::Running)))
        }),
        ("weft_component_healthy", "gauge", "What its probe says; none without one.", |status| {
            match status.health {
                Health::Healthy => Some(1.0),
                Health::Unhealthy => Some(0.0),
                Health::Unknown | Health::None => None,
            }
        }),
        ("weft_component_restarts_total", "counter", "Times it was started again.", |status| {
            Some(count(status.restarts))
        }),
    ];
    for (name, kind, help, value) in columns {
        out.family(name, kind, help);
        for status in components {
            if let Some(value) = value(status) {
                let replica = status.key.replica.to_string();
                let labels = [
                    ("service", status.key.service.as_str()),
                    ("replica", replica.as_str()),
                    ("component", status.key.component.as_str()),
                ];
                out.sample(name, &labels, value);
            }
        }
    }
}

fn render_nodes(out: &mut Text, nodes: &[NodeRow]) {
    out.family("weft_nodes", "gauge", "Nodes by state, as this one sees them.");
    for state in NodeState::ALL {
        let n = nodes.iter().filter(|node| node.state == *state).count();
        out.sample("weft_nodes", &[("state", state.as_str())], count(n as u64));
    }
    out.family("weft_peer_up", "gauge", "Whether a node answers this one.");
    for node in nodes {
        let up = node.state == NodeState::Ready;
        out.sample("weft_peer_up", &[("peer", &node.name)], f64::from(u8::from(up)));
    }
    out.family("weft_peer_rtt_seconds", "gauge", "Round trip to a node.");
    for node in nodes {
        if let Some(rtt) = node.rtt_us {
            out.sample("weft_peer_rtt_seconds", &[("peer", &node.name)], count(rtt) / 1e6);
        }
    }
}

fn render_host(out: &mut Text, host: &HostFigures) {
    let rows = [
        ("weft_host_cores", "Cores.", f64::from(host.cores)),
        ("weft_host_cpu_ratio", "CPU use of the machine, 0 to 1.", host.cpu_percent / 100.0),
        ("weft_host_load1", "Load average over one minute.", host.load1),
        ("weft_host_memory_bytes", "Memory.", count(host.memory_total)),
        ("weft_host_memory_available_bytes", "Memory available.", count(host.memory_available)),
        ("weft_host_disk_bytes", "File system of the data directory.", count(host.disk_total)),
        ("weft_host_disk_free_bytes", "Free there.", count(host.disk_free)),
        ("weft_host_uptime_seconds", "Since the machine started.", count(host.host_uptime_secs)),
        ("weft_daemon_uptime_seconds", "Since the daemon started.", count(host.daemon_uptime_secs)),
        ("weft_daemon_memory_bytes", "Resident bytes of the daemon.", count(host.daemon_memory)),
    ];
    for (name, help, value) in rows {
        out.family(name, "gauge", help);
        out.sample(name, &[], value);
    }
}

/// Under the names that the reference runtime has for them (macp-sessions §19).
fn render_sessions(out: &mut Text, sessions: &SessionFigures) {
    let families = [
        (SessionLifecycle::Created, "macp_sessions_started_total", "Sessions begun."),
        (SessionLifecycle::Resolved, "macp_sessions_resolved_total", "Sessions committed."),
        (SessionLifecycle::Expired, "macp_sessions_expired_total", "Sessions whose time was over."),
        (SessionLifecycle::Cancelled, "macp_sessions_cancelled_total", "Sessions cancelled."),
        (SessionLifecycle::Suspended, "macp_sessions_suspended_total", "Suspensions."),
        (SessionLifecycle::Resumed, "macp_sessions_resumed_total", "Suspensions that ended."),
    ];
    for (what, name, help) in families {
        let mut by_mode: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, _, n) in sessions.happened.iter().filter(|(_, happened, _)| *happened == what) {
            *by_mode.entry(mode(name)).or_default() += n;
        }
        out.family(name, "counter", help);
        for (mode, n) in by_mode {
            out.sample(name, &[("mode", mode)], count(n));
        }
    }
    out.family("weft_sessions", "gauge", "Sessions in memory by state.");
    for (state, n) in &sessions.in_memory {
        out.sample("weft_sessions", &[("state", state.as_str())], count(*n));
    }
    out.family("weft_sessions_archived", "gauge", "Ended sessions on disk.");
    out.sample("weft_sessions_archived", &[], count(sessions.archived));
    out.family("weft_sessions_missing", "gauge", "Ended sessions still to be fetched from peers.");
    out.sample("weft_sessions_missing", &[], count(sessions.missing));
    out.family("weft_sessions_damaged", "gauge", "Sessions put aside, as a disk has changed them.");
    out.sample("weft_sessions_damaged", &[], count(sessions.damaged));
}

/// Under the names that the reference runtime has for them (macp-sessions §19).
fn render_envelopes(out: &mut Text, envelopes: &[(Series, Taken)]) {
    type Fits = fn(&Series) -> bool;
    let families: [(&str, &str, Fits); 4] = [
        ("macp_messages_accepted_total", "Messages accepted.", |s| s.outcome == Outcome::Accepted),
        ("macp_messages_rejected_total", "Messages refused.", |s| s.outcome == Outcome::Rejected),
        ("macp_commitments_accepted_total", "Commitments accepted.", |s| {
            s.kind == "Commitment" && s.outcome == Outcome::Accepted
        }),
        ("macp_commitments_rejected_total", "Commitments refused.", |s| {
            s.kind == "Commitment" && s.outcome == Outcome::Rejected
        }),
    ];
    for (name, help, fits) in families {
        let mut by_mode: BTreeMap<&str, u64> = BTreeMap::new();
        for (series, taken) in envelopes.iter().filter(|(series, _)| fits(series)) {
            *by_mode.entry(series.mode).or_default() += taken.count;
        }
        out.family(name, "counter", help);
        for (mode, n) in by_mode {
            out.sample(name, &[("mode", mode)], count(n));
        }
    }
    let labels = |series: &Series| {
        [
            ("macp_mode_id", series.mode),
            ("macp_message_type", series.kind),
            ("macp_envelope_outcome", series.outcome.as_str()),
        ]
    };
    let name = "macp_envelope_processed_total";
    out.family(name, "counter", "Envelopes answered.");
    for (series, taken) in envelopes {
        out.sample(name, &labels(series), count(taken.count));
    }
    let name = "macp_envelope_process_duration_seconds";
    out.family(name, "histogram", "From an envelope's arrival to its answer.");
    for (series, taken) in envelopes {
        let [mode, kind, outcome] = labels(series);
        let bounds = BUCKETS.iter().map(f64::to_string).zip(taken.within);
        for (bound, n) in bounds.chain([("+Inf".to_owned(), taken.count)]) {
            let labels = [mode, kind, outcome, ("le", bound.as_str())];
            out.sample(&format!("{name}_bucket"), &labels, count(n));
        }
        out.sample(&format!("{name}_sum"), &[mode, kind, outcome], taken.sum);
        out.sample(&format!("{name}_count"), &[mode, kind, outcome], count(taken.count));
    }
}

#[allow(clippy::cast_precision_loss, reason = "the format has only floats")]
const fn count(n: u64) -> f64 {
    n as f64
}

#[derive(Default)]
struct Text {
    text: String,
}

impl Text {
    /// `help` is ours and needs no escaping.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"");
            escape(value, &mut self.text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// A label's value: backslash, quote and line feed are written as two characters.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests;
