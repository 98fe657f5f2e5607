//! Writing a definition: keys in the order of orchestration §3, defaults omitted, the same bytes
//! for the same specification (§3.5).

use std::fmt::Write as _;

use weft_protocol::{
    ComponentSpec, Driver, Failover, HealthCheck, HealthKind, OnPartition, PlacementRules,
    RestartPolicy, RouteMode, RouteSpec, ServiceSpec, Snapshot, Stateful, Tier, UpdateOrder,
    UpdatePolicy,
};

use super::component::STOP_GRACE;
use super::route::{HEALTH_INTERVAL, HEALTH_RETRIES, HEALTH_TIMEOUT};
use super::values;
use crate::{format_duration, format_size, quote};

/// Lines of `key = value` under headers.
struct Writer(String);

impl Writer {
    /// `value` is TOML already.
    fn raw(&mut self, key: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.raw(key, &quote::string(value));
        }
    }

    fn list<S: AsRef<str>>(&mut self, key: &str, items: impl IntoIterator<Item = S>) {
        let items: Vec<S> = items.into_iter().collect();
        if !items.is_empty() {
            self.raw(key, &quote::strings(items));
        }
    }

    fn header(&mut self, header: &str) {
        let _ = write!(self.0, "\n{header}\n");
    }
}

/// The definition as text; [`super::parse`] gives the same specification back.
pub fn to_toml(spec: &ServiceSpec) -> String {
    let mut w = Writer(String::new());
    w.raw("name", &quote::string(&spec.name));
    w.text("node", &spec.node);
    if spec.tier == Tier::Core {
        w.text("tier", "core");
    }
    if !spec.active {
        w.raw("active", "false");
    }
    w.text("version", &spec.version);
    if spec.path != spec.name {
        w.text("path", &spec.path);
    }
    w.text("comment", &spec.comment);
    w.list("depends_on", &spec.depends_on);
    if spec.replicas != 1 {
        w.raw("replicas", &spec.replicas.to_string());
    }
    if spec.on_partition == OnPartition::Stop {
        w.text("on_partition", "stop");
    }
    // A plain key has to stand before the first table.
    w.list("files", spec.files.iter().map(|file| &file.path));
    placement(&mut w, &spec.placement);
    failover(&mut w, &spec.failover);
    if !spec.build_images.is_empty() {
        w.header("[build.images]");
        for (image, file) in &spec.build_images {
            w.raw(&quote::key(image), &quote::string(file));
        }
    }
    snapshot(&mut w, &spec.snapshot);
    update(&mut w, &spec.update);
    for item in &spec.components {
        component(&mut w, item);
    }
    w.0
}

fn placement(w: &mut Writer, rules: &PlacementRules) {
    if *rules == PlacementRules::default() {
        return;
    }
    w.header("[placement]");
    w.list("require", &rules.require);
    w.list("prefer", &rules.prefer);
    w.list("avoid", &rules.avoid);
    if rules.colocate {
        w.raw("colocate", "true");
    }
}

fn failover(w: &mut Writer, failover: &Failover) {
    if *failover == Failover::default() {
        return;
    }
    w.header("[failover]");
    if let Some(after) = failover.reschedule_after {
        w.text("reschedule_after", &format_duration(after));
    }
    if failover.stateful == Stateful::Snapshot {
        w.text("stateful", "snapshot");
    }
}

fn snapshot(w: &mut Writer, snapshot: &Snapshot) {
    if *snapshot == Snapshot::default() {
        return;
    }
    w.header("[snapshot]");
    w.text("method", &snapshot.method);
    w.list("exclude", &snapshot.exclude);
}

fn update(w: &mut Writer, policy: &UpdatePolicy) {
    let default = UpdatePolicy::default();
    if *policy == default {
        return;
    }
    w.header("[update]");
    if policy.max_parallel != default.max_parallel {
        w.raw("max_parallel", &policy.max_parallel.to_string());
    }
    match policy.order {
        Some(UpdateOrder::StartFirst) => w.text("order", "start-first"),
        Some(UpdateOrder::StopFirst) => w.text("order", "stop-first"),
        None => {}
    }
    if policy.healthy_for != default.healthy_for {
        w.text("healthy_for", &format_duration(policy.healthy_for));
    }
    if policy.deadline != default.deadline {
        w.text("deadline", &format_duration(policy.deadline));
    }
    if !policy.auto_rollback {
        w.raw("auto_rollback", "false");
    }
    if policy.canary != default.canary {
        w.raw("canary", &policy.canary.to_string());
    }
}

fn component(w: &mut Writer, c: &ComponentSpec) {
    w.header("[[components]]");
    w.raw("name", &quote::string(&c.name));
    // The default follows from `image` and `cmd`; what does not is written.
    if c.driver == Driver::Container && c.image.is_empty() {
        w.text("driver", "container");
    }
    w.text("image", &c.image);
    w.text("version", &c.version);
    w.text("network", &c.network);
    w.text("user", &c.user);
    if c.restart != RestartPolicy::default() {
        w.text("restart", &values::restart_text(c.restart));
    }
    if c.stop_grace != STOP_GRACE {
        w.text("stop_grace", &format_duration(c.stop_grace));
    }
    w.text("workdir", &c.workdir);
    w.list("ports", c.ports.iter().map(values::port_text));
    w.list("volumes", c.volumes.iter().map(values::volume_text));
    w.list("cmd", &c.cmd);
    w.list("env", c.env.iter().map(|(key, value)| format!("{key}={value}")));
    if let Some(check) = &c.health {
        health(w, check);
    }
    if c.resources.cpu_millis.is_some() || c.resources.memory.is_some() {
        w.header("[components.resources]");
        if let Some(millis) = c.resources.cpu_millis {
            w.raw("cpu_millis", &millis.to_string());
        }
        if let Some(memory) = c.resources.memory {
            w.text("memory", &format_size(memory));
        }
    }
    for item in &c.routes {
        route(w, item);
    }
}

fn health(w: &mut Writer, check: &HealthCheck) {
    w.header("[components.health]");
    let kind = match check.kind {
        HealthKind::Tcp => "tcp",
        HealthKind::Http => "http",
        HealthKind::Grpc => "grpc",
        HealthKind::Exec => "exec",
    };
    w.text("kind", kind);
    if check.port.parse::<u16>().is_ok() {
        w.raw("port", &check.port);
    } else {
        w.text("port", &check.port);
    }
    if !(check.kind == HealthKind::Http && check.path == "/") {
        w.text("path", &check.path);
    }
    w.list("command", &check.command);
    if check.interval != HEALTH_INTERVAL {
        w.text("interval", &format_duration(check.interval));
    }
    if check.timeout != HEALTH_TIMEOUT {
        w.text("timeout", &format_duration(check.timeout));
    }
    if check.retries != HEALTH_RETRIES {
        w.raw("retries", &check.retries.to_string());
    }
    if !check.start_period.is_zero() {
        w.text("start_period", &format_duration(check.start_period));
    }
}

fn route(w: &mut Writer, route: &RouteSpec) {
    w.header("[[components.routes]]");
    w.text("name", &route.name);
    w.raw("port", &route.port.to_string());
    if route.mode == RouteMode::L7 {
        w.text("mode", "l7");
    }
    w.text("hostname", &route.hostname);
    if route.public {
        w.raw("public", "true");
    }
    if let Some(tls) = route.backend_tls {
        w.raw("backend_tls", if tls { "true" } else { "false" });
    }
}
