//! Reading the layers of a node's configuration and putting them together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_protocol::Stateful;

use super::keys::{self, GATEWAY_PORT, KEYS, Key, Kind, Value};
use super::{
    Fabric, Loaded, LogFormat, LogLevel, Monitor, Node, NodeConfig, NodeDriver, NodeFile,
    NodeFlags, Origin, Profile, ReconcileMode, variable,
};
use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::macp::Sessions;
use crate::reader::{Reader, Section};
use crate::service::values;

/// Keys of the seed's agent file that mean one of ours: (theirs, ours).
const SEED: [(&str, &str); 5] = [
    ("server.addr", "fabric.bind"),
    ("server.grpc_addr", "fabric.bind"),
    ("agent.node_name", "node.name"),
    ("agent.container_runtime", "node.driver"),
    ("database.path", "node.data_dir"),
];

/// Keys of the seed's agent file that are accepted and unused, with the reason.
const UNUSED: [(&str, &str); 8] = [
    ("server.tls_cert", "nodes use the certificates of their cluster"),
    ("server.tls_key", "nodes use the certificates of their cluster"),
    ("identity.server_url", "this version asks no identity service"),
    ("identity.ca_cert", "this version asks no identity service"),
    ("identity.service_name", "this version asks no identity service"),
    ("mcias.server_url", "this version asks no identity service"),
    ("mcias.ca_cert", "this version asks no identity service"),
    ("mcias.service_name", "this version asks no identity service"),
];

/// Sections of the contract that later versions fill.
const LATER: [&str; 8] =
    ["proxy", "dns", "certs", "registry", "snapshots", "edge", "registration", "timeouts"];

type Values = BTreeMap<&'static str, (Value, Origin)>;

/// Places in the file, for rules between several keys.
type Spans = BTreeMap<&'static str, Range<usize>>;

/// Puts the layers together: default < file < environment < flags. Nothing is read but the
/// arguments. All mistakes of all layers are reported at once.
pub fn load(
    file: Option<NodeFile<'_>>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &NodeFlags,
) -> Result<Loaded, Diagnostics> {
    let (name, text) = file.map_or(("configuration", ""), |file| (file.name, file.text));
    let reader = Reader::new(name, text);
    let mut values = defaults();
    let mut spans = Spans::new();
    let table = reader.document();
    let root = table.as_ref().map(|table| Section::root(&reader, table));
    if let Some(root) = &root {
        read_file(root, &mut values, &mut spans);
        if let Some(dir) = file.and_then(|file| file.dir)
            && let Some((Value::Text(path), Origin::File { .. })) = values.get_mut("node.data_dir")
        {
            *path = dir.join(&*path).to_string_lossy().into_owned();
        }
    }
    read_env(env, &reader, &mut values);
    read_flags(flags, &reader, &mut values);
    // Without a readable file nothing can be said about what is missing.
    let config = root
        .as_ref()
        .and_then(|root| finish(&reader, Some(root).filter(|_| file.is_some()), values, &spans));
    let (errors, warnings) = reader.finish();
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings }),
        None if errors.is_empty() => {
            Err(Diagnostic::elsewhere(name, "not a node's configuration").into())
        }
        _ => Err(errors),
    }
}

/// [`load`] with a file of the disk; a relative `data_dir` in it is relative to its directory.
pub fn load_file(
    path: &Path,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &NodeFlags,
) -> Result<Loaded, Diagnostics> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Diagnostic::elsewhere(&name, format!("cannot read the node file: {error}")).help(
            "check the path and its permissions, or make a node with `weft init` or `weft join`",
        )
    })?;
    load(Some(NodeFile { name: &name, text: &text, dir: path.parent() }), env, flags)
}

fn defaults() -> Values {
    KEYS.iter()
        .filter_map(|key| {
            let value = keys::from_text(key.kind, key.default?).ok()?;
            Some((key.name, (value, Origin::Default)))
        })
        .collect()
}

/// Built from the same table as everything else, so it cannot disagree with it.
pub(super) fn default_config(name: &str, data_dir: &Path) -> NodeConfig {
    let mut values = defaults();
    let text = |text: &str| (Value::Text(text.to_owned()), Origin::Default);
    values.insert("node.name", text(name));
    values.insert("node.data_dir", text(""));
    let mut config = build(&values);
    config.node.data_dir = data_dir.to_owned();
    config
}

/// Names of the sections that a node file may have.
fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = KEYS.iter().map(|key| key.parts().0).collect();
    sections.dedup();
    sections
}

fn read_file(root: &Section<'_>, values: &mut Values, spans: &mut Spans) {
    let ours = sections();
    let seed = ["server", "database", "agent", "identity", "mcias"];
    let known: Vec<&str> = ours.iter().chain(&seed).copied().collect();
    root.only(&known, |key| {
        if LATER.contains(&key) {
            return Some(format!("[{key}] is not in this version"));
        }
        let homes: Vec<String> = KEYS
            .iter()
            .filter(|candidate| candidate.parts().1 == key)
            .map(|candidate| format!("[{}]", candidate.parts().0))
            .collect();
        let near = nearest(key, known.iter().copied());
        (!homes.is_empty() && near.is_none())
            .then(|| format!("`{key}` belongs into {}", homes.join(" or ")))
    });
    for name in known {
        let Some(section) = root.table(name, &format!("[{name}]")) else { continue };
        let prefix = format!("{name}.");
        let tail = |full: &'static str| full.strip_prefix(prefix.as_str());
        let keys: Vec<&str> = KEYS
            .iter()
            .map(|key| key.name)
            .chain(SEED.iter().map(|(theirs, _)| *theirs))
            .chain(UNUSED.iter().map(|(theirs, _)| *theirs))
            .filter_map(tail)
            .collect();
        section.only(&keys, |_| None);
        for key in KEYS {
            if let Some(tail) = tail(key.name) {
                read_key(&section, tail, key, values, spans);
            }
        }
    }
    // After our own keys, which win.
    for (theirs, ours) in SEED {
        let (name, tail) = theirs.split_once('.').unwrap_or_default();
        let Some(section) = root.table_quietly(name) else { continue };
        let Some(key) = keys::find(ours).filter(|_| section.has(tail)) else { continue };
        if matches!(values.get(ours), Some((_, Origin::File { .. }))) {
            let message = format!("`{theirs}` is ignored: `{ours}` is set too");
            let span = section.key_span(tail);
            section.reader.report(section.reader.at(span, message).warning());
        } else if theirs == "database.path" {
            let Some(path) = section.text(tail) else { continue };
            match Path::new(&path.value).parent().filter(|dir| !dir.as_os_str().is_empty()) {
                Some(dir) => {
                    let origin = Origin::File { line: section.reader.line(&path.span) };
                    let value = Value::Text(dir.to_string_lossy().into_owned());
                    values.insert(ours, (value, origin));
                }
                None => section.error(
                    tail,
                    format!("`{theirs}`: `{}` has no directory to keep data in", path.value),
                    "write [node] data_dir = \"<directory>\"",
                ),
            }
        } else {
            read_key(&section, tail, key, values, spans);
        }
    }
    for (theirs, why) in UNUSED {
        let (name, tail) = theirs.split_once('.').unwrap_or_default();
        let Some(section) = root.table_quietly(name) else { continue };
        if section.has(tail) && section.text(tail).is_some() {
            let span = section.key_span(tail);
            let message = format!("`{theirs}` is accepted and unused: {why}");
            section.reader.report(section.reader.at(span, message).warning());
        }
    }
}

fn read_key(
    section: &Section<'_>,
    tail: &str,
    key: &'static Key,
    values: &mut Values,
    spans: &mut Spans,
) {
    if !section.has(tail) {
        return;
    }
    let value = match key.kind {
        Kind::Bool => section.boolean(tail).map(Value::Bool),
        Kind::Duration => section.duration(tail).map(Value::Duration),
        Kind::Positive => section.positive(tail).map(Value::Duration),
        Kind::Count => section.small(tail, 1..=u32::MAX).map(Value::Count),
        Kind::Percent => section.small(tail, 0..=90).map(Value::Count),
        Kind::Labels => Some(Value::List(
            section.each(tail, keys::label).into_iter().map(|at| at.value).collect(),
        )),
        Kind::Argv => {
            Some(Value::List(section.texts(tail).into_iter().map(|at| at.value).collect()))
        }
        Kind::Choice(choices) => {
            let pairs: Vec<(&str, &str)> = choices.iter().map(|c| (*c, *c)).collect();
            section.choice(tail, &pairs).map(|at| Value::Text(at.value.to_owned()))
        }
        Kind::Name
        | Kind::Text
        | Kind::Path
        | Kind::Bind(_)
        | Kind::BindOrOff(_)
        | Kind::Advertise => {
            section.parsed(tail, |text| keys::from_text(key.kind, text)).map(|at| at.value)
        }
    };
    let span = section.value_span(tail);
    // A value that was refused has an origin too, so that it is not also called missing.
    let origin = Origin::File { line: section.reader.line(&span) };
    spans.insert(key.name, span);
    match value {
        Some(value) => {
            values.insert(key.name, (value, origin));
        }
        None => {
            values.entry(key.name).or_insert((Value::Text(String::new()), origin));
        }
    }
}

fn read_env(
    env: impl IntoIterator<Item = (String, String)>,
    reader: &Reader<'_>,
    values: &mut Values,
) {
    let names: Vec<(String, &Key)> = KEYS.iter().map(|key| (variable(key.name), key)).collect();
    let mut env: Vec<(String, String)> =
        env.into_iter().filter(|(name, _)| name.starts_with("WEFT_")).collect();
    env.sort();
    for (name, text) in env {
        // An empty variable is how a unit file or a shell unsets one.
        if text.is_empty() {
            continue;
        }
        let place = format!("environment variable {name}");
        if let Some((_, key)) = names.iter().find(|(known, _)| *known == name) {
            match keys::from_text(key.kind, &text) {
                Ok(value) => {
                    values.insert(key.name, (value, Origin::Env(name)));
                }
                Err(error) => reader.report(
                    Diagnostic::elsewhere(&place, format!("{name}: {error}"))
                        .help(format!("it overrides `{}` of the node file", key.name)),
                ),
            }
        } else if sections()
            .iter()
            .any(|s| name.starts_with(&format!("WEFT_{}_", s.to_ascii_uppercase())))
        {
            let mut diagnostic =
                Diagnostic::elsewhere(&place, format!("{name} overrides no key of the node file"));
            // The common prefix would make everything look alike.
            let tail = |name: &str| name.trim_start_matches("WEFT_").to_lowercase();
            let tails: Vec<String> = names.iter().map(|(known, _)| tail(known)).collect();
            if let Some(near) = nearest(&tail(&name), tails.iter().map(String::as_str)) {
                let near = near.to_ascii_uppercase();
                diagnostic = diagnostic.help(format!("did you mean WEFT_{near}?"));
            }
            reader.report(diagnostic.warning());
        }
    }
}

fn read_flags(flags: &NodeFlags, reader: &Reader<'_>, values: &mut Values) {
    let named = [
        ("node.name", "--name", &flags.name),
        ("node.data_dir", "--data-dir", &flags.data_dir),
        ("node.zone", "--zone", &flags.zone),
        ("fabric.bind", "--bind", &flags.bind),
        ("fabric.advertise", "--advertise", &flags.advertise),
        ("gateway.bind", "--gateway-bind", &flags.gateway_bind),
        ("log.level", "--log-level", &flags.log_level),
        ("log.format", "--log-format", &flags.log_format),
    ];
    let named = named
        .into_iter()
        .filter_map(|(key, flag, text)| Some((key.to_owned(), flag.to_owned(), text.clone()?)));
    let set =
        flags.set.iter().map(|(key, text)| (key.clone(), format!("--set {key}"), text.clone()));
    for (name, flag, text) in named.chain(set) {
        let place = format!("flag {flag}");
        let Some(key) = keys::find(&name) else {
            let mut diagnostic =
                Diagnostic::elsewhere(&place, format!("{flag}: the node file has no key `{name}`"));
            if let Some(near) = nearest(&name, KEYS.iter().map(|key| key.name)) {
                diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
            }
            reader.report(diagnostic);
            continue;
        };
        match keys::from_text(key.kind, &text) {
            Ok(value) => {
                values.insert(key.name, (value, Origin::Flag));
            }
            Err(error) => {
                reader.report(Diagnostic::elsewhere(&place, format!("{flag}: {error}")));
            }
        }
    }
}

/// Checks what holds between keys and builds the whole; `None` if a required key is missing.
fn finish(
    reader: &Reader<'_>,
    root: Option<&Section<'_>>,
    values: Values,
    spans: &Spans,
) -> Option<NodeConfig> {
    // Where to point for a key: its place in the file, or the variable or flag it came from.
    let place = |key: &str, message: String| match values.get(key) {
        Some((_, Origin::Env(name))) => {
            Diagnostic::elsewhere(&format!("environment variable {name}"), message)
        }
        Some((_, Origin::Flag)) => Diagnostic::elsewhere(&format!("flag for {key}"), message),
        _ => reader.at(spans.get(key).cloned().unwrap_or(0..0), message),
    };
    let mut complete = true;
    for key in KEYS.iter().filter(|key| key.default.is_none()) {
        if values.contains_key(key.name) {
            continue;
        }
        complete = false;
        let (section, tail) = key.parts();
        let help = format!("{}; or set {}", key.about, variable(key.name));
        let message = format!("missing key `{tail}` in [{section}]");
        match root {
            Some(root) => {
                let span = root.table_quietly(section).map_or(0..0, |section| section.span);
                reader.report(
                    reader.at(span, message).label(format!("required: {}", key.name)).help(help),
                );
            }
            None => reader.report(Diagnostic::elsewhere("configuration", message).help(help)),
        }
    }
    if !complete {
        return None;
    }
    let config = build(&values);
    let sessions = config.sessions.bind.map(|address| ("sessions.bind", address));
    for (key, address) in
        [("fabric.bind", config.fabric.bind), ("gateway.bind", config.gateway_bind)]
            .into_iter()
            .chain(sessions)
    {
        if address.ip().is_unspecified() && !config.fabric.allow_wildcard {
            let message = format!("`{key}` is {address}, which is every interface of this machine");
            let help = "write the address of the overlay network (or of loopback), or set [fabric] allow_wildcard = true";
            reader.report(place(key, message).help(help));
        }
    }
    if config.fabric.bind.ip().is_unspecified()
        && config.fabric.allow_wildcard
        && config.fabric.advertise.is_empty()
    {
        let message =
            "with a wildcard `fabric.bind` other nodes cannot know what to dial".to_owned();
        let help = "set [fabric] advertise = \"<address>:<port>\"";
        reader.report(place("fabric.bind", message).help(help));
    }
    if config.stateful == Stateful::Snapshot {
        let message = "`failover.stateful = \"snapshot\"` is not in this version".to_owned();
        let help = "use \"wait\": replicas that keep data wait for their node";
        reader.report(place("failover.stateful", message).help(help));
    }
    let level = match values.get("chaos.format_level") {
        Some((Value::Text(text), _)) => text.as_str(),
        _ => "",
    };
    if !level.is_empty() && (config.format_level.is_none() || !config.chaos) {
        let message = format!("`chaos.format_level = \"{level}\"` is not for this node");
        let help = "it is a number, for tests, and needs `chaos.enabled = true`";
        reader.report(place("chaos.format_level", message).help(help));
    }
    for (key, value, check) in [
        ("defaults.network", &config.default_network, values::network as fn(&str) -> _),
        ("defaults.user", &config.default_user, values::user),
    ] {
        if !value.is_empty()
            && let Err(message) = check(value)
        {
            let help = "write it as in a definition, or leave it out";
            reader.report(place(key, format!("`{key}`: {message}")).help(help));
        }
    }
    if config.monitor.alert_command.first().is_some_and(String::is_empty) {
        let message = "the first word of `monitor.alert_command` is empty".to_owned();
        reader.report(place("monitor.alert_command", message).help("it names the program"));
    }
    let origins = values.into_iter().map(|(key, (_, origin))| (key, origin)).collect();
    Some(NodeConfig { origins, ..config })
}

/// Takes the values apart. A value of the wrong kind can only stand for one that was refused, so
/// what is put in its place is never seen.
fn build(values: &Values) -> NodeConfig {
    let value = |key: &str| values.get(key).map(|(value, _)| value);
    let text = |key: &str| match value(key) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let flag = |key: &str| matches!(value(key), Some(Value::Bool(true)));
    let time = |key: &str| match value(key) {
        Some(Value::Duration(duration)) => *duration,
        _ => Duration::ZERO,
    };
    let list = |key: &str| match value(key) {
        Some(Value::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let bind = |key: &str| match value(key) {
        Some(Value::Bind(address)) => *address,
        _ => SocketAddr::from(([127, 0, 0, 1], GATEWAY_PORT)),
    };
    let count = |key: &str| match value(key) {
        Some(Value::Count(count)) => *count,
        _ => 1,
    };
    NodeConfig {
        node: Node {
            name: text("node.name"),
            data_dir: PathBuf::from(text("node.data_dir")),
            zone: text("node.zone"),
            labels: list("node.labels"),
            driver: match text("node.driver").as_str() {
                "podman" => NodeDriver::Podman,
                "docker" => NodeDriver::Docker,
                "process" => NodeDriver::Process,
                _ => NodeDriver::Auto,
            },
        },
        fabric: Fabric {
            bind: bind("fabric.bind"),
            advertise: text("fabric.advertise"),
            allow_wildcard: flag("fabric.allow_wildcard"),
        },
        gateway_bind: bind("gateway.bind"),
        sessions: Sessions {
            bind: match value("sessions.bind") {
                Some(Value::Bind(address)) => Some(*address),
                _ => None,
            },
            tokens_file: text("sessions.tokens_file"),
            jwt_issuer: text("sessions.jwt_issuer"),
            jwt_audience: text("sessions.jwt_audience"),
            jwks_file: text("sessions.jwks_file"),
            jwks_url: text("sessions.jwks_url"),
            tls_cert: text("sessions.tls_cert"),
            tls_key: text("sessions.tls_key"),
            client_certificates: text("sessions.client_auth") == "fabric",
            allow_insecure: flag("sessions.allow_insecure"),
            memory_only: flag("sessions.memory_only"),
        },
        socket_group: text("local.socket_group"),
        membership: match text("membership.profile").as_str() {
            "wan" => Profile::Wan,
            _ => Profile::Lan,
        },
        planned_stop: time("membership.planned_stop"),
        voter_replace_after: time("consensus.voter_replace_after"),
        checkpoint_every: count("consensus.checkpoint_every"),
        log_kept: count("consensus.log_kept"),
        reconcile: match text("reconcile.mode").as_str() {
            "report" => ReconcileMode::Report,
            "full" => ReconcileMode::Full,
            _ => ReconcileMode::Restart,
        },
        reschedule_after: time("failover.reschedule_after"),
        stateful: match text("failover.stateful").as_str() {
            "snapshot" => Stateful::Snapshot,
            _ => Stateful::Wait,
        },
        monitor: Monitor {
            interval: time("monitor.interval"),
            alert_command: list("monitor.alert_command"),
            alert_after: time("monitor.alert_after"),
            cooldown: time("monitor.cooldown"),
            restart_threshold: count("monitor.restart_threshold"),
            disk_low: count("monitor.disk_low"),
            flap_threshold: count("monitor.flap_threshold"),
            flap_window: time("monitor.flap_window"),
            retention: time("monitor.retention"),
        },
        engine_socket: text("engine.socket"),
        allow_host_mounts: flag("engine.allow_host_mounts"),
        default_network: text("defaults.network"),
        default_user: text("defaults.user"),
        follow_linked_data: flag("node.follow_linked_data"),
        chaos: flag("chaos.enabled"),
        format_level: text("chaos.format_level").parse().ok(),
        log_level: match text("log.level").as_str() {
            "trace" => LogLevel::Trace,
            "debug" => LogLevel::Debug,
            "warn" => LogLevel::Warn,
            "error" => LogLevel::Error,
            _ => LogLevel::Info,
        },
        log_format: match text("log.format").as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        origins: BTreeMap::new(),
    }
}
