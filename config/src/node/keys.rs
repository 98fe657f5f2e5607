//! The keys of the node file: one table for reading, environment, explaining and writing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::service::values;
use crate::{nearest, parse_duration};

/// One key of the node file.
#[derive(Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it means, for `config explain` and the reference.
    pub about: &'static str,
    /// As text; `None`: required.
    pub default: Option<&'static str>,
    pub(crate) kind: Kind,
}

impl Key {
    /// Section and key.
    pub(crate) fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or((self.name, ""))
    }
}

/// The environment variable of `section.key`: `WEFT_SECTION_KEY`.
pub fn variable(key: &str) -> String {
    format!("WEFT_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// What may stand there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Name,
    Text,
    Path,
    Bool,
    /// May be 0.
    Duration,
    Positive,
    Count,
    /// 0 to 90.
    Percent,
    /// With the port that is meant when none is written.
    Bind(u16),
    /// The same, or empty.
    BindOrOff(u16),
    Advertise,
    Labels,
    Argv,
    Choice(&'static [&'static str]),
}

/// A value of one of those kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Bool(bool),
    Duration(Duration),
    Count(u32),
    Bind(SocketAddr),
    List(Vec<String>),
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    about: &'static str,
) -> Key {
    Key { name, about, default, kind }
}

/// Fabric port, UDP (design §11).
pub(crate) const FABRIC_PORT: u16 = 7443;
/// Gateway port, TCP (design §11).
pub(crate) const GATEWAY_PORT: u16 = 9765;
/// Port of MACP's gRPC, TCP: that of the reference runtime.
const SESSIONS_PORT: u16 = 50051;

/// Every key, in the order in which a node file is written.
pub const KEYS: &[Key] = &[
    key("node.name", Kind::Name, None, "the node's name, unique in the cluster"),
    key("node.data_dir", Kind::Path, None, "directory for everything the node keeps"),
    key("node.zone", Kind::Text, Some(""), "failure zone; voters are spread over zones"),
    key("node.labels", Kind::Labels, Some(""), "labels for placement: `ssd`, `arch=arm64`"),
    key(
        "node.driver",
        Kind::Choice(&["auto", "process", "podman", "docker"]),
        Some("auto"),
        "container engine beside native processes: any that is found, none, or only that one",
    ),
    key(
        "node.follow_linked_data",
        Kind::Bool,
        Some("false"),
        "`push` and `pull` also where the data directory of a service or replica is a symbolic link",
    ),
    key(
        "fabric.bind",
        Kind::Bind(FABRIC_PORT),
        Some("127.0.0.1:7443"),
        "UDP address of the fabric; port 0 asks the operating system",
    ),
    key(
        "fabric.advertise",
        Kind::Advertise,
        Some(""),
        "address that other nodes dial; empty: the bound one",
    ),
    key("fabric.allow_wildcard", Kind::Bool, Some("false"), "allow binding to all interfaces"),
    key(
        "gateway.bind",
        Kind::Bind(GATEWAY_PORT),
        Some("127.0.0.1:9765"),
        "TCP address of HTTP; port 0 asks the operating system",
    ),
    key(
        "sessions.bind",
        Kind::BindOrOff(SESSIONS_PORT),
        Some(""),
        "TCP address of gRPC for MACP sessions; port 0 asks the operating system; empty: none are served",
    ),
    key(
        "sessions.tokens_file",
        Kind::Text,
        Some(""),
        "JSON file with the bearer tokens of MACP clients",
    ),
    key(
        "sessions.jwt_issuer",
        Kind::Text,
        Some(""),
        "whose JSON Web Tokens MACP clients may have; empty: nobody's",
    ),
    key(
        "sessions.jwt_audience",
        Kind::Text,
        Some(""),
        "for whom those tokens must be; empty: `macp-runtime`",
    ),
    key("sessions.jwks_file", Kind::Text, Some(""), "JSON file with the issuer's keys"),
    key(
        "sessions.jwks_url",
        Kind::Text,
        Some(""),
        "https or http address of the issuer's keys, if there is no file of them",
    ),
    key(
        "sessions.tls_cert",
        Kind::Text,
        Some(""),
        "PEM file with the certificate chain that MACP clients see; empty: plain text",
    ),
    key("sessions.tls_key", Kind::Text, Some(""), "PEM file with its key"),
    key(
        "sessions.client_auth",
        Kind::Choice(&["none", "fabric"]),
        Some("none"),
        "whether MACP clients may have certificates of the cluster in place of a token; needs `tls_cert`",
    ),
    key(
        "sessions.allow_insecure",
        Kind::Bool,
        Some("false"),
        "allow plain text; without tokens anybody is let in, as whoever they say they are",
    ),
    key(
        "sessions.memory_only",
        Kind::Bool,
        Some("false"),
        "keep no session on disk: they end with the daemon",
    ),
    key(
        "local.socket_group",
        Kind::Text,
        Some(""),
        "group that may use the local socket; empty: only the owner",
    ),
    key(
        "membership.profile",
        Kind::Choice(&["lan", "wan"]),
        Some("lan"),
        "how fast a silent node counts as lost",
    ),
    key(
        "membership.planned_stop",
        Kind::Positive,
        Some("60s"),
        "a daemon that is told to stop says that it is back within this",
    ),
    key(
        "consensus.voter_replace_after",
        Kind::Positive,
        Some("60s"),
        "a voter that is lost for so long is replaced",
    ),
    key(
        "consensus.checkpoint_every",
        Kind::Count,
        Some("1000"),
        "entries of the log between two checkpoints; less only for tests and small disks",
    ),
    key(
        "consensus.log_kept",
        Kind::Count,
        Some("1000"),
        "entries kept below a checkpoint for who is behind; less only for tests and small disks",
    ),
    key(
        "reconcile.mode",
        Kind::Choice(&["restart", "report", "full"]),
        Some("restart"),
        "what is done about drift: started again, only told of, or everything Weft can mend",
    ),
    key(
        "failover.reschedule_after",
        Kind::Duration,
        Some("1s"),
        "wait after the loss of a node before replicas move whose service does not say; the leading node's counts",
    ),
    key(
        "failover.stateful",
        Kind::Choice(&["wait", "snapshot"]),
        Some("wait"),
        "what happens to replicas that keep data when their node is lost",
    ),
    key("monitor.interval", Kind::Positive, Some("60s"), "time between two passes"),
    key(
        "monitor.alert_command",
        Kind::Argv,
        Some(""),
        "program and arguments run for an alert, without a shell; empty: only logged",
    ),
    key(
        "monitor.alert_after",
        Kind::Duration,
        Some("5s"),
        "drift alerts when it lasts longer; what is mended before does not",
    ),
    key(
        "monitor.cooldown",
        Kind::Duration,
        Some("15m"),
        "quiet time of a component and type after an alert",
    ),
    key(
        "monitor.restart_threshold",
        Kind::Count,
        Some("10"),
        "restarts of a component within an hour that alert",
    ),
    key(
        "monitor.disk_low",
        Kind::Percent,
        Some("5"),
        "free space of the data directory, in percent, below which it alerts; 0: never",
    ),
    key("monitor.flap_threshold", Kind::Count, Some("3"), "transitions that count as flapping"),
    key("monitor.flap_window", Kind::Positive, Some("10m"), "time in which they are counted"),
    key("monitor.retention", Kind::Positive, Some("30d"), "how long events and alerts are kept"),
    key("engine.socket", Kind::Text, Some(""), "API socket of the container engine; empty: found"),
    key(
        "engine.allow_host_mounts",
        Kind::Bool,
        Some("false"),
        "containers may mount directories outside `data_dir`",
    ),
    key(
        "defaults.network",
        Kind::Text,
        Some(""),
        "network of containers whose definition names none; empty: the engine's own",
    ),
    key(
        "defaults.user",
        Kind::Text,
        Some(""),
        "user of containers whose definition names none; empty: the image's",
    ),
    key("chaos.enabled", Kind::Bool, Some("false"), "allow `weft chaos` on this node"),
    key(
        "chaos.format_level",
        Kind::Text,
        Some(""),
        "for tests of upgrades, with `chaos.enabled`: the format level this node claims; empty: its own",
    ),
    key(
        "log.level",
        Kind::Choice(&["trace", "debug", "info", "warn", "error"]),
        Some("info"),
        "least level that is logged",
    ),
    key("log.format", Kind::Choice(&["text", "json"]), Some("text"), "form of a log line"),
];

/// Keys that are read and checked but change nothing in this version, each with the one value, if
/// any, that is in force whatever is written. A key leaves this list when something acts on it.
pub const WITHOUT_EFFECT: &[(&str, Option<&str>)] = &[("failover.stateful", Some("wait"))];

/// The key called `section.key`.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Reads a value from text, as it stands in a TOML string, a variable or a flag.
pub(crate) fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Name => values::name(text).map(Value::Text),
        Kind::Text => Ok(Value::Text(text.to_owned())),
        Kind::Path if text.is_empty() => Err("a path is missing".to_owned()),
        Kind::Path => Ok(Value::Text(text.to_owned())),
        Kind::Bool => match text {
            "true" | "1" => Ok(Value::Bool(true)),
            "false" | "0" => Ok(Value::Bool(false)),
            _ => Err(format!("`{text}` must be true or false")),
        },
        Kind::Duration => {
            parse_duration(text).map(Value::Duration).map_err(|error| error.to_string())
        }
        Kind::Positive => match parse_duration(text) {
            Ok(duration) if duration.is_zero() => Err("must be longer than 0".to_owned()),
            Ok(duration) => Ok(Value::Duration(duration)),
            Err(error) => Err(error.to_string()),
        },
        Kind::Count => match text.parse::<u32>() {
            Ok(count) if count > 0 => Ok(Value::Count(count)),
            _ => Err(format!("`{text}` must be a whole number of at least 1")),
        },
        Kind::Percent => match text.parse::<u32>() {
            Ok(count) if count <= 90 => Ok(Value::Count(count)),
            _ => Err(format!("`{text}` must be a whole number from 0 to 90")),
        },
        Kind::Bind(port) => bind(text, port).map(Value::Bind),
        Kind::BindOrOff(_) if text.is_empty() => Ok(Value::Text(String::new())),
        Kind::BindOrOff(port) => bind(text, port).map(Value::Bind),
        Kind::Advertise => advertise(text).map(Value::Text),
        Kind::Labels => {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.map(label).collect::<Result<_, _>>().map(Value::List)
        }
        Kind::Argv => argv(text).map(Value::List),
        Kind::Choice(choices) => {
            if choices.contains(&text) {
                return Ok(Value::Text(text.to_owned()));
            }
            let near = nearest(text, choices.iter().copied())
                .map(|near| format!(" (did you mean `{near}`?)"))
                .unwrap_or_default();
            Err(format!("`{text}` must be {}{near}", choices.join(", ")))
        }
    }
}

/// `key` or `key=value`.
pub(crate) fn label(text: &str) -> Result<String, String> {
    match values::label_expression(text) {
        Ok(label) if !label.contains("!=") => Ok(label),
        _ => Err(format!("`{text}` is not a label: write ssd or zone=a")),
    }
}

/// An IP address, with or without a port; a wildcard is judged later, when all layers are known.
fn bind(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse::<u16>().map_err(|_| format!("`{port}` is not a port"))?;
        return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)).map_err(|_| {
        format!("`{text}` is not an address: write an IP address and a port, like 10.0.0.1:{port}")
    })
}

/// Empty, or a host with or without a port; never a wildcard.
fn advertise(text: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is not an address others can dial: write host:port, like 10.0.0.1:{FABRIC_PORT}"
        )
    };
    if text.is_empty() {
        return Ok(String::new());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        let good = !address.ip().is_unspecified() && address.port() != 0;
        return if good { Ok(text.to_owned()) } else { Err(wrong()) };
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return if ip.is_unspecified() { Err(wrong()) } else { Ok(text.to_owned()) };
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    // What looks like an IPv4 address but is none must not pass as a name.
    let digits = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if port && !digits && values::hostname(host).is_ok() {
        Ok(text.to_owned())
    } else {
        Err(wrong())
    }
}

/// A TOML list, or one program without arguments.
fn argv(text: &str) -> Result<Vec<String>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let list = || "write a list, like [\"/usr/bin/notify\", \"--now\"]".to_owned();
    if text.starts_with('[') {
        let value = toml::de::DeValue::parse(text).map_err(|_| list())?;
        let items = value.get_ref().as_array().ok_or_else(list)?;
        return items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(list))
            .collect();
    }
    if text.contains(char::is_whitespace) { Err(list()) } else { Ok(vec![text.to_owned()]) }
}
