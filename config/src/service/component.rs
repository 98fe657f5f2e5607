//! Reading components (orchestration §3.2).

use std::ops::Range;
use std::time::Duration;

use weft_protocol::{
    ComponentSpec, Driver, PortMapping, Resources, RestartPolicy, RouteSpec, VolumeMapping,
};

use super::image::{ImageRef, valid_tag};
use super::route::{health, routes};
use super::{ParseOptions, values};
use crate::reader::{At, Section};

/// Keys of a component, in the order in which they are written.
pub(crate) const KEYS: [&str; 16] = [
    "name",
    "driver",
    "image",
    "version",
    "network",
    "user",
    "restart",
    "stop_grace",
    "workdir",
    "ports",
    "volumes",
    "cmd",
    "env",
    "health",
    "resources",
    "routes",
];

/// Grace between SIGTERM and SIGKILL when none is written.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);
/// A component with the places later checks point at.
pub(crate) struct Component {
    pub(crate) spec: ComponentSpec,
    pub(crate) name_span: Range<usize>,
    pub(crate) volumes_span: Range<usize>,
    pub(crate) ports: Vec<At<PortMapping>>,
    pub(crate) routes: Vec<(RouteSpec, Range<usize>)>,
}

/// Reads `[[components]]`.
pub(crate) fn read_all(
    root: &Section<'_>,
    service: &str,
    version: &str,
    options: ParseOptions<'_>,
) -> Vec<Component> {
    let sections = root.tables("components", |i| format!("component {}", i + 1));
    if !root.has("components") {
        root.missing("components", "a service has at least one [[components]] table");
    } else if sections.is_empty() && root.value_is_empty_list("components") {
        root.error("components", "`components` is empty", "a service has at least one component");
    }
    // The component whose derived image carries the service's name alone: `api`, else the first.
    let main = sections.iter().position(|section| section.peek("name") == Some("api")).unwrap_or(0);
    sections
        .into_iter()
        .enumerate()
        .map(|(i, mut section)| {
            if let Some(name) = section.peek("name") {
                section.title = format!("component `{name}`");
            }
            let derive = Derive { service, version, main: i == main, options };
            component(&section, &derive)
        })
        .collect()
}

/// What an omitted image is made from.
struct Derive<'a> {
    service: &'a str,
    version: &'a str,
    main: bool,
    options: ParseOptions<'a>,
}

fn component(section: &Section<'_>, derive: &Derive<'_>) -> Component {
    section.only(&KEYS, |key| match key {
        "command" | "args" | "argv" | "entrypoint" => Some("use `cmd`".to_owned()),
        "environment" => Some("use `env`".to_owned()),
        "mounts" => Some("use `volumes`".to_owned()),
        "healthcheck" => Some("use `health`".to_owned()),
        "replicas" | "placement" | "update" | "depends_on" | "files" => {
            Some(format!("`{key}` is a key of the service: put it above the first [[components]]"))
        }
        "port" | "mode" | "hostname" | "public" | "backend_tls" => {
            Some(format!("`{key}` belongs into a route: put it below [[components.routes]]"))
        }
        _ => None,
    });
    if !section.has("name") {
        section.missing("name", "add name = \"<component>\"");
    }
    let name = section.parsed("name", component_name).map(|at| at.value).unwrap_or_default();
    let cmd = cmd(section);
    let own_version = section.text("version").map(|at| at.value).unwrap_or_default();
    let (driver, image) = image(section, &name, &own_version, &cmd, derive);
    let ports = section.each("ports", values::port);
    let volumes = volumes(section);
    let routes = routes(section);
    let route_specs: Vec<RouteSpec> = routes.iter().map(|(route, _)| route.clone()).collect();
    let workdir = section.text("workdir").map(|at| at.value).unwrap_or_default();
    if values::climbs(&workdir) {
        section.error("workdir", format!("`workdir`: `{workdir}` must not contain `..`"), "");
    }
    if driver == Driver::Process {
        for key in ["network", "ports", "volumes"] {
            if section.has(key) {
                let message = format!("`{key}` has no effect on a process");
                let span = section.key_span(key);
                section.reader.report(section.reader.at(span, message).warning());
            }
        }
    }
    let spec = ComponentSpec {
        driver,
        image,
        version: own_version,
        network: section.parsed("network", values::network).map(|at| at.value).unwrap_or_default(),
        user: section.parsed("user", values::user).map(|at| at.value).unwrap_or_default(),
        restart: section
            .parsed("restart", values::restart)
            .map_or(RestartPolicy::default(), |at| at.value),
        stop_grace: section.duration("stop_grace").unwrap_or(STOP_GRACE),
        workdir,
        ports: ports.iter().map(|at| at.value.clone()).collect(),
        volumes,
        cmd,
        env: env(section, !route_specs.is_empty()),
        health: section
            .table("health", &format!("`health` of {}", section.title))
            .and_then(|table| health(&table, &route_specs)),
        resources: resources(section),
        routes: route_specs,
        name,
    };
    Component {
        spec,
        name_span: section.value_span("name"),
        volumes_span: section.value_span("volumes"),
        ports,
        routes,
    }
}

fn component_name(text: &str) -> Result<String, String> {
    let name = values::name(text)?;
    if let Some((_, digits)) = name.rsplit_once('-')
        && digits.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(format!(
            "`{name}` ends in `-{digits}`, which would look like the number of a replica; write `{}` instead",
            name.replacen(&format!("-{digits}"), digits, 1)
        ));
    }
    Ok(name)
}

fn cmd(section: &Section<'_>) -> Vec<String> {
    let cmd: Vec<String> = section.texts("cmd").into_iter().map(|at| at.value).collect();
    if cmd.first().is_some_and(String::is_empty) {
        section.error("cmd", "the first word of `cmd` is empty", "it names the program");
    }
    cmd
}

/// Decides the driver, and the image of a container.
fn image(
    section: &Section<'_>,
    name: &str,
    own_version: &str,
    cmd: &[String],
    derive: &Derive<'_>,
) -> (Driver, String) {
    let drivers = [("container", Driver::Container), ("process", Driver::Process)];
    let written = section.choice("driver", &drivers).map(|at| at.value);
    let version = if own_version.is_empty() { derive.version } else { own_version };
    let driver = written.unwrap_or({
        if section.has("image") || (!section.has("cmd") && !version.is_empty()) {
            Driver::Container
        } else {
            Driver::Process
        }
    });
    let who = &section.title;
    if driver == Driver::Process {
        if section.has("image") {
            section.error(
                "image",
                format!("{who} has driver `process`, so it cannot have an `image`"),
                "remove `image`, or write driver = \"container\"",
            );
        }
        if !section.has("cmd") {
            let message = format!("{who} has neither `image` nor `cmd`");
            let help =
                "a container needs image = \"<repository>:<tag>\", a process cmd = [\"<program>\"]";
            let span = section.span.clone();
            section
                .reader
                .report(section.reader.at(span, message).label("in this table").help(help));
        } else if cmd.is_empty() && section.value_is_empty_list("cmd") {
            let message = format!("`cmd` of {who} is empty");
            section.error("cmd", message, "it names the program and its arguments");
        }
        return (driver, String::new());
    }
    let image = if section.has("image") {
        match section.text("image") {
            Some(image) => complete(section, image.value, version),
            None => return (driver, String::new()),
        }
    } else {
        match derived(section, name, version, derive) {
            Some(image) => image,
            None => return (driver, String::new()),
        }
    };
    match ImageRef::parse(&image) {
        Err(error) => {
            let key = if section.has("image") { "image" } else { "version" };
            section.error(key, format!("{who}: {error}"), "");
        }
        Ok(reference) => {
            if let Some(why) = reference.unpinned() {
                let key = if section.has("image") { "image" } else { "version" };
                let mut diagnostic =
                    section.reader.at(section.value_span(key), format!("{who}: {why}")).help(
                        format!("pin a version, like {}:v1.0.0, or a digest", reference.repository),
                    );
                if derive.options.allow_unpinned {
                    diagnostic = diagnostic.warning();
                }
                section.reader.report(diagnostic);
            }
        }
    }
    (driver, image)
}

/// An image without tag and digest takes the version as its tag.
fn complete(section: &Section<'_>, image: String, version: &str) -> String {
    let open = ImageRef::parse(&image).is_ok_and(|r| r.tag.is_none() && r.digest.is_none());
    if !open || version.is_empty() {
        return image;
    }
    if !valid_tag(version) {
        let message = format!("{}: version `{version}` cannot be an image tag", section.title);
        section.error("image", message, "a tag has letters, digits and . _ -, at most 128");
        return image;
    }
    format!("{image}:{version}")
}

/// `<registry>/<service>:<version>`, or `<registry>/<service>-<component>:<version>`.
fn derived(
    section: &Section<'_>,
    name: &str,
    version: &str,
    derive: &Derive<'_>,
) -> Option<String> {
    let who = &section.title;
    if version.is_empty() {
        let message = format!("{who} is a container without `image`");
        let help = "add image = \"<repository>:<tag>\", or `version` and a configured registry";
        let span = section.span.clone();
        section.reader.report(section.reader.at(span, message).label("in this table").help(help));
        return None;
    }
    let Some(registry) = derive.options.registry.filter(|registry| !registry.is_empty()) else {
        let message =
            format!("{who} has no `image`, and no registry is configured to derive one from");
        let help = "add image = \"<repository>:<tag>\", or set [build] registry in the CLI file";
        let span = section.span.clone();
        section.reader.report(section.reader.at(span, message).label("in this table").help(help));
        return None;
    };
    let service = derive.service;
    let registry = registry.trim_end_matches('/');
    Some(if derive.main {
        format!("{registry}/{service}:{version}")
    } else {
        format!("{registry}/{service}-{name}:{version}")
    })
}

fn volumes(section: &Section<'_>) -> Vec<VolumeMapping> {
    let mut out: Vec<VolumeMapping> = Vec::new();
    for volume in section.each("volumes", values::volume) {
        if let Some(other) = out.iter().find(|other| other.container == volume.value.container) {
            let message = format!(
                "`volumes`: {} and {} are both mounted at {}",
                other.host, volume.value.host, other.container
            );
            section.reader.report(section.reader.at(volume.span, message));
        } else {
            out.push(volume.value);
        }
    }
    out
}

fn env(section: &Section<'_>, has_routes: bool) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for pair in section.each("env", values::variable) {
        let (key, _) = &pair.value;
        if has_routes && (key == "PORT" || key.starts_with("PORT_")) {
            let message = format!("`env`: `{key}` is reserved in a component with routes");
            let help =
                "Weft sets PORT and PORT_<NAME> to the ports it allocates; remove this entry";
            section.reader.report(section.reader.at(pair.span, message).help(help));
        } else if out.iter().any(|(other, _)| other == key) {
            let message = format!("`env` sets `{key}` twice");
            section.reader.report(section.reader.at(pair.span, message));
        } else {
            out.push(pair.value);
        }
    }
    out
}

fn resources(section: &Section<'_>) -> Resources {
    let title = format!("`resources` of {}", section.title);
    let Some(table) = section.table("resources", &title) else { return Resources::default() };
    table.only(&["cpu_millis", "memory"], |key| match key {
        "cpu" | "cpus" => Some("use `cpu_millis`: 1000 is one core".to_owned()),
        _ => None,
    });
    let memory = table.size("memory");
    if memory.as_ref().is_some_and(|size| size.value == 0) {
        table.error("memory", "`memory` must be more than 0", "leave it out for no limit");
    }
    Resources {
        cpu_millis: table.integer("cpu_millis", 1..=1_000_000_000).map(|at| at.value),
        memory: memory.map(|at| at.value),
    }
}
