//! From an assignment to what a shim is given: program, environment, directories.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use weft_protocol::files::{component_dir, log_file, replica_dir};
use weft_protocol::{
    Assignment, ComponentKey, ComponentSpec, Driver, HealthKind, ShippedFile, component_variables,
    file_parts, route_variable,
};

use crate::RuntimeConfig;
use crate::disk::{Durable, make_dir, write_json};
use crate::driver::recipe;
use crate::limits::Limiter;
use crate::shim::{SHIM_PROTOCOL, SPEC_FILE, ShimSpec};

/// Where programs are looked for when the daemon itself has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why this node cannot run a component, or `None`. Nothing is started or created.
///
/// Names what was found and what to do; used for `plan`, `deploy` and before every start.
pub(crate) fn spec_problem(
    config: &RuntimeConfig,
    spec: &ComponentSpec,
    (service, replica): (&str, u32),
    files: &[ShippedFile],
) -> Option<String> {
    if spec.driver == Driver::Container {
        return recipe::problem(config, spec, service, replica);
    }
    let data_dir = &config.data_dir;
    if let Some(check) = &spec.health {
        if check.kind == HealthKind::Exec {
            if check.command.is_empty() {
                return Some("health kind `exec` needs a `command`".into());
            }
        } else if probe_route(spec).is_none() {
            return Some(format!(
                "health port `{}` is neither a number nor one of the component's routes",
                check.port
            ));
        }
    }
    if let Some(problem) = other_user(&spec.user) {
        return Some(format!("{problem}: leave `user` out"));
    }
    let home = replica_dir(data_dir, service, replica);
    find_program(spec, files, &home, &workdir(spec, data_dir, service, replica)).err()
}

/// Why a process cannot be of that user, or `None`.
pub(crate) fn other_user(user: &str) -> Option<String> {
    if user.is_empty() {
        return None;
    }
    let me = rustix::process::getuid().as_raw().to_string();
    let uid = user.split(':').next().unwrap_or_default();
    let root = me == "0" && uid == "root";
    let other = uid != me && !root;
    other.then(|| format!("user `{user}`: a process of another user is not in this version"))
}

/// Where a probe connects: a route by its place, or a port number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeRoute {
    Route(usize),
    Port(u16),
}

/// `None`: the component has no probe, or it names a route that does not exist.
pub(crate) fn probe_route(spec: &ComponentSpec) -> Option<ProbeRoute> {
    let port = &spec.health.as_ref()?.port;
    if port.is_empty() {
        return (!spec.routes.is_empty()).then_some(ProbeRoute::Route(0));
    }
    if let Some(place) = spec.routes.iter().position(|route| route.name == *port) {
        return Some(ProbeRoute::Route(place));
    }
    port.parse().ok().filter(|port| *port != 0).map(ProbeRoute::Port)
}

/// Where a probe connects, given the host port of each route; `None`: nowhere.
pub(crate) fn probe_target(
    spec: &ComponentSpec,
    host: IpAddr,
    ports: &[u16],
) -> Option<SocketAddr> {
    let port = match (spec.driver, probe_route(spec)?) {
        (Driver::Container, _) => recipe::probe_target_port(spec, ports)?,
        (_, ProbeRoute::Port(port)) => port,
        (_, ProbeRoute::Route(place)) => *ports.get(place)?,
    };
    Some(SocketAddr::new(host, port))
}

/// The directory a component starts in: the replica's data directory unless it says otherwise.
pub(crate) fn workdir(
    spec: &ComponentSpec,
    data_dir: &Path,
    service: &str,
    replica: u32,
) -> PathBuf {
    // `join` takes an absolute path as it is.
    replica_dir(data_dir, service, replica).join(&spec.workdir)
}

fn search_path(spec: &ComponentSpec) -> String {
    spec.env.iter().rev().find(|(key, _)| key == "PATH").map_or_else(
        || std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned()),
        |(_, value)| value.clone(),
    )
}

/// The program of a component: one that comes with the definition, absolute, on the PATH, or
/// relative to where it starts.
fn find_program(
    spec: &ComponentSpec,
    files: &[ShippedFile],
    home: &Path,
    workdir: &Path,
) -> Result<PathBuf, String> {
    let shipped = |name: &str| {
        let file = files.iter().find(|file| file.is(name))?;
        let path = home.join(file_parts(&file.path).ok()?.join("/"));
        Some(if file.mode & 0o111 != 0 {
            Ok(path)
        } else {
            Err(format!(
                "file {} comes with the definition but is not executable: run `chmod +x` where it is deployed from, and deploy again",
                file.path
            ))
        })
    };
    let Some(name) = spec.cmd.first().filter(|name| !name.is_empty()) else {
        return Err("`cmd` is empty: it needs a program".into());
    };
    if name.contains('/') {
        if let Some(shipped) = shipped(name) {
            return shipped;
        }
        let path = workdir.join(name);
        return check_program(&path).map(|()| path);
    }
    let path = search_path(spec);
    let candidates = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .chain([workdir.join(name)]);
    let mut found = None;
    for candidate in candidates {
        match check_program(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(problem) if candidate.exists() => found = found.or(Some(problem)),
            Err(_) => {}
        }
    }
    if let Some(shipped) = shipped(name) {
        return shipped;
    }
    Err(found.unwrap_or_else(|| {
        format!(
            "program `{name}` is neither on this node's PATH ({path}) nor in {}: install it there, or give its absolute path",
            workdir.display()
        )
    }))
}

fn check_program(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(error) => {
            Err(format!("program {shown} cannot be run: {error}: put it there, or correct `cmd`"))
        }
        Ok(meta) if !meta.is_file() => Err(format!("program {shown} is not a file: correct `cmd`")),
        Ok(_) => rustix::fs::access(path, rustix::fs::Access::EXEC_OK).map_err(|_| {
            format!("program {shown} is not executable: run `chmod +x {shown}` on this node")
        }),
    }
}

/// Why a component was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Somebody has to do something first.
    Permanent(String),
    /// Such as a full disk.
    Passing(String),
}

/// Prepares a start: checks the program, makes the directories, writes the shim's spec. Answers
/// the path of the spec.
pub(crate) fn prepare(
    config: &RuntimeConfig,
    key: &ComponentKey,
    assignment: &Assignment,
    ports: Vec<u16>,
    peers: Vec<(String, String)>,
    lease: Option<u64>,
    limiter: &Limiter,
) -> Result<PathBuf, Problem> {
    let spec = &assignment.spec;
    let data = &config.data_dir;
    let home = replica_dir(data, &key.service, key.replica);
    let dir = component_dir(data, key);
    let passing = |what: &Path, error: std::io::Error| {
        Problem::Passing(format!("{}: {error}", what.display()))
    };
    make_dir(&home, 0o750).map_err(|error| passing(&home, error))?;
    make_dir(&dir, 0o700).map_err(|error| passing(&dir, error))?;
    let files = &assignment.files;
    if let Some(problem) = spec_problem(config, spec, (&key.service, key.replica), files) {
        return Err(Problem::Permanent(problem));
    }
    let workdir = workdir(spec, data, &key.service, key.replica);
    if !workdir.is_dir() {
        return Err(Problem::Permanent(format!(
            "workdir {} is not a directory: create it, or correct `workdir`",
            workdir.display()
        )));
    }
    let program = find_program(spec, files, &home, &workdir).map_err(Problem::Permanent)?;
    let shim = ShimSpec {
        version: SHIM_PROTOCOL,
        key: key.clone(),
        spec_hash: assignment.spec_hash.clone(),
        epoch: assignment.epoch,
        revision: assignment.revision,
        generation: assignment.generation,
        component_dir: dir.clone(),
        log: log_file(data, key),
        log_bytes: config.log_bytes,
        log_files: config.log_files,
        program,
        argv: spec.cmd.clone(),
        env: environment(config, key, spec, &home, &ports, peers),
        workdir,
        ports,
        stop_grace_ms: u64::try_from(spec.stop_grace.as_millis()).unwrap_or(u64::MAX),
        lease,
        container: String::new(),
        hold: limiter.hold(&config.node_id, key, spec.resources),
    };
    let path = dir.join(SPEC_FILE);
    write_json(&path, &shim, Durable::No).map_err(|error| passing(&path, error))?;
    Ok(path)
}

/// Later ones win: a little of the machine's, what the definition says, then what Weft assigns
/// (orchestration §13: assigned ports take precedence).
fn environment(
    config: &RuntimeConfig,
    key: &ComponentKey,
    spec: &ComponentSpec,
    home: &Path,
    ports: &[u16],
    peers: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let home = home.display().to_string();
    let lang = std::env::var("LANG").unwrap_or_else(|_| "C.UTF-8".to_owned());
    let mut all = vec![
        ("PATH".to_owned(), search_path(spec)),
        ("HOME".to_owned(), home.clone()),
        ("LANG".to_owned(), lang),
    ];
    if let Ok(zone) = std::env::var("TZ") {
        all.push(("TZ".to_owned(), zone));
    }
    all.extend(peers);
    all.extend(spec.env.iter().cloned());
    all.extend(component_variables(&spec.routes, ports));
    for (name, value) in [
        ("WEFT_NODE", config.node_name.clone()),
        ("WEFT_SERVICE", key.service.clone()),
        ("WEFT_REPLICA", key.replica.to_string()),
        ("WEFT_COMPONENT", key.component.clone()),
        ("WEFT_DATA", home),
    ] {
        all.push((name.to_owned(), value));
    }
    all
}

/// `PEER_<COMPONENT>_<ROUTE>`, or `PEER_<COMPONENT>` for an unnamed route.
pub(crate) fn peer_variable(component: &str, route: &str) -> String {
    let component = component.to_ascii_uppercase().replace('-', "_");
    let route = route_variable(route);
    match route.strip_prefix("PORT_") {
        Some(route) => format!("PEER_{component}_{route}"),
        None => format!("PEER_{component}"),
    }
}
