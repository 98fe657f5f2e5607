//! Reading a component's routes and its probe (orchestration §3.2, §3.3).

use std::ops::Range;
use std::time::Duration;

use weft_protocol::{HealthCheck, HealthKind, RouteMode, RouteSpec, route_variable};

use super::values;
use crate::reader::Section;

/// Keys of a route, in the order in which they are written.
pub(crate) const KEYS: [&str; 6] = ["name", "port", "mode", "hostname", "public", "backend_tls"];

/// Between probes, when none is written.
pub(crate) const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// One probe, when none is written.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Failures in a row, when none is written.
pub(crate) const HEALTH_RETRIES: u32 = 3;

/// Reads `[[components.routes]]`, each with the place of its port.
pub(crate) fn routes(section: &Section<'_>) -> Vec<(RouteSpec, Range<usize>)> {
    let owner = section.title.clone();
    let sections = section.tables("routes", |i| format!("route {} of {owner}", i + 1));
    let several = sections.len() > 1;
    let mut out: Vec<(RouteSpec, Range<usize>)> = Vec::new();
    for mut section in sections {
        if let Some(name) = section.peek("name") {
            section.title = format!("route `{name}` of {owner}");
        }
        let route = route(&section);
        if several && !section.has("name") {
            let message = format!("{owner} has several routes, but this one has no `name`");
            let help = "with more than one route each needs a name, which decides its variable PORT_<NAME>";
            let span = section.span.clone();
            section.reader.report(section.reader.at(span, message).help(help));
        }
        let variable = route_variable(&route.name);
        let same = |(other, _): &&(RouteSpec, _)| {
            !route.name.is_empty() && route_variable(&other.name) == variable
        };
        if let Some((other, _)) = out.iter().find(same) {
            let message = if other.name == route.name {
                format!("{owner} has two routes called `{}`", route.name)
            } else {
                format!(
                    "routes `{}` and `{}` of {owner} would both set {variable}",
                    other.name, route.name
                )
            };
            section.error("name", message, "rename one of them");
        }
        let span =
            if section.has("port") { section.value_span("port") } else { section.span.clone() };
        out.push((route, span));
    }
    out
}

fn route(section: &Section<'_>) -> RouteSpec {
    section.only(&KEYS, |key| match key {
        "host" | "domain" => Some("use `hostname`".to_owned()),
        "protocol" | "type" => Some("use mode = \"l4\" or \"l7\"".to_owned()),
        _ => None,
    });
    if !section.has("port") {
        section.missing("port", "the port on which the proxy listens, like port = 443");
    }
    let port = section.integer("port", 1..=65535);
    RouteSpec {
        name: section.parsed("name", values::route_name).map(|at| at.value).unwrap_or_default(),
        port: port.and_then(|at| u16::try_from(at.value).ok()).unwrap_or_default(),
        mode: section
            .choice("mode", &[("l4", RouteMode::L4), ("l7", RouteMode::L7)])
            .map(|at| at.value)
            .unwrap_or_default(),
        hostname: section
            .parsed("hostname", values::hostname)
            .map(|at| at.value)
            .unwrap_or_default(),
        public: section.boolean("public").unwrap_or(false),
        backend_tls: section.boolean("backend_tls"),
    }
}

/// Reads `[components.health]`; `None` without a kind.
pub(crate) fn health(section: &Section<'_>, routes: &[RouteSpec]) -> Option<HealthCheck> {
    section.only(
        &["kind", "port", "path", "command", "interval", "timeout", "retries", "start_period"],
        |key| match key {
            "cmd" => Some("use `command`".to_owned()),
            "type" => Some("use `kind`".to_owned()),
            "threshold" => Some("use `retries`".to_owned()),
            _ => None,
        },
    );
    if !section.has("kind") {
        section.missing("kind", "write kind = \"tcp\", \"http\", \"grpc\" or \"exec\"");
    }
    let kinds = [
        ("tcp", HealthKind::Tcp),
        ("http", HealthKind::Http),
        ("grpc", HealthKind::Grpc),
        ("exec", HealthKind::Exec),
    ];
    let kind = section.choice("kind", &kinds).map(|at| at.value);
    let port = health_port(section, kind, routes);
    let path = section.parsed("path", |path| {
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if path.starts_with('/') && !path.contains(bad) {
            Ok(path.to_owned())
        } else {
            Err(format!("`{path}` must start with `/` and have no spaces"))
        }
    });
    let command: Vec<String> = section.texts("command").into_iter().map(|at| at.value).collect();
    match kind {
        Some(HealthKind::Exec) if !section.has("command") => {
            section.missing("command", "write command = [\"<program>\", …]; status 0 is good");
        }
        Some(HealthKind::Exec) if command.first().is_none_or(String::is_empty) => {
            section.error("command", "`command` names no program", "");
        }
        Some(HealthKind::Exec) | None => {}
        Some(_) if section.has("command") => {
            section.error("command", "`command` is only for kind = \"exec\"", "remove it");
        }
        Some(_) => {}
    }
    if kind.is_some_and(|kind| kind != HealthKind::Http) && section.has("path") {
        section.error("path", "`path` is only for kind = \"http\"", "remove it");
    }
    let default_path = if kind == Some(HealthKind::Http) { "/" } else { "" };
    Some(HealthCheck {
        kind: kind?,
        port,
        path: path.map_or_else(|| default_path.to_owned(), |at| at.value),
        command,
        interval: section.positive("interval").unwrap_or(HEALTH_INTERVAL),
        timeout: section.positive("timeout").unwrap_or(HEALTH_TIMEOUT),
        retries: section.small("retries", 1..=1000).unwrap_or(HEALTH_RETRIES),
        start_period: section.duration("start_period").unwrap_or_default(),
    })
}

/// A port number or the name of a route; may be omitted when there is exactly one route.
fn health_port(section: &Section<'_>, kind: Option<HealthKind>, routes: &[RouteSpec]) -> String {
    let names: Vec<&str> =
        routes.iter().map(|route| route.name.as_str()).filter(|name| !name.is_empty()).collect();
    if kind == Some(HealthKind::Exec) {
        if section.has("port") {
            section.error("port", "`port` has no meaning for kind = \"exec\"", "remove it");
        }
        return String::new();
    }
    if !section.has("port") {
        if routes.len() != 1 && kind.is_some() {
            let help = if names.is_empty() {
                "write the component's port, like port = 8080".to_owned()
            } else {
                format!("name a route: {}", names.join(", "))
            };
            section.missing("port", help);
        }
        return String::new();
    }
    let number = if section.is_integer("port") {
        section.integer("port", 1..=65535).map(|at| at.value.to_string())
    } else {
        let Some(text) = section.text("port") else { return String::new() };
        if text.value.bytes().all(|b| b.is_ascii_digit()) && !text.value.is_empty() {
            let number = text.value.parse::<u16>().ok().filter(|n| *n > 0);
            if number.is_none() {
                section.error("port", "`port` must be between 1 and 65535", "");
            }
            number.map(|n| n.to_string())
        } else {
            if !names.contains(&text.value.as_str()) {
                let help = if names.is_empty() {
                    "the component has no named route; write a port number".to_owned()
                } else {
                    format!("its routes are: {}", names.join(", "))
                };
                section.error("port", format!("`port`: there is no route `{}`", text.value), help);
            }
            return text.value;
        }
    };
    let number = number.unwrap_or_default();
    if routes.iter().any(|route| route.port.to_string() == number) {
        let message =
            format!("`port = {number}` is the proxy's port of a route, not the component's");
        let help = "name the route instead, or leave `port` out if there is only one";
        let span = section.value_span("port");
        section.reader.report(section.reader.at(span, message).help(help).warning());
    }
    number
}
