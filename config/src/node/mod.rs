//! The node file: what `weftd` reads (orchestration §12, §26; design §11).
//!
//! Layers, later ones win: built-in default, file, environment (`WEFT_<SECTION>_<KEY>`), flags.
//! The origin of every value is kept, for [`NodeConfig::explain`].

mod keys;
mod load;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_protocol::Stateful;

use crate::diagnostic::Diagnostics;
use crate::macp::Sessions;
use crate::{format_duration, quote};

pub use keys::{KEYS, Key, WITHOUT_EFFECT, variable};
pub use load::{load, load_file};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The node file, at this line (from 1).
    File {
        /// From 1.
        line: usize,
    },
    /// This environment variable.
    Env(String),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { line } => write!(f, "file, line {line}"),
            Self::Env(variable) => write!(f, "environment, {variable}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Flags of `weftd`, each as typed; `None`: not given. They win over file and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFlags {
    /// `node.name`.
    pub name: Option<String>,
    /// `node.data_dir`.
    pub data_dir: Option<String>,
    /// `node.zone`.
    pub zone: Option<String>,
    /// `fabric.bind`.
    pub bind: Option<String>,
    /// `fabric.advertise`.
    pub advertise: Option<String>,
    /// `gateway.bind`.
    pub gateway_bind: Option<String>,
    /// `log.level`.
    pub log_level: Option<String>,
    /// `log.format`.
    pub log_format: Option<String>,
    /// Any other key: (`section.key`, value).
    pub set: Vec<(String, String)>,
}

/// What `[node] driver` allows beside processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NodeDriver {
    /// Whatever engine is found, once a container needs one.
    #[default]
    Auto,
    /// Native processes only.
    Process,
    /// Podman through its API socket.
    Podman,
    /// Docker through its API socket.
    Docker,
}

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// A name like a service's; unique in the cluster.
    pub name: String,
    /// Everything the node keeps.
    pub data_dir: PathBuf,
    /// Empty: none.
    pub zone: String,
    /// `key` or `key=value`.
    pub labels: Vec<String>,
    /// The container engine, if any.
    pub driver: NodeDriver,
}

/// `[fabric]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabric {
    /// UDP; port 0 asks the operating system.
    pub bind: SocketAddr,
    /// `host:port` (or a host alone) that others dial; empty: the bound address.
    pub advertise: String,
    /// Allows a wildcard in any `bind`.
    pub allow_wildcard: bool,
}

/// `[membership] profile`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// Probe 200 ms, answer in 100 ms, suspicion 700 ms.
    #[default]
    Lan,
    /// Probe 1 s, answer in 500 ms, suspicion 5 s.
    Wan,
}

/// `[reconcile] mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReconcileMode {
    /// Starts again what ended.
    #[default]
    Restart,
    /// Only reports.
    Report,
    /// Also repairs specification, route, DNS and certificate drift.
    Full,
}

/// `[monitor]` (orchestration §12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Between passes; default 60 s.
    pub interval: Duration,
    /// Program and arguments, run without a shell; empty: only logged.
    pub alert_command: Vec<String>,
    /// Drift alerts when it lasts longer; default 5 s.
    pub alert_after: Duration,
    /// Per service, component and alert type; default 15 min.
    pub cooldown: Duration,
    /// Restarts of a component within an hour that alert; default 10.
    pub restart_threshold: u32,
    /// Free space, in percent, below which it alerts, 0 to 90; 0: never; default 5.
    pub disk_low: u32,
    /// Transitions within the window that count as flapping; default 3.
    pub flap_threshold: u32,
    /// Default 10 min.
    pub flap_window: Duration,
    /// How long events and alerts are kept; default 30 d.
    pub retention: Duration,
}

/// `[log] level`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For a developer.
    Debug,
    /// For an operator.
    #[default]
    Info,
    /// Odd, but handled.
    Warn,
    /// Failed.
    Error,
}

impl LogLevel {
    /// As written in the file, which is also a tracing filter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// `[log] format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// A whole node file, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// `[node]`.
    pub node: Node,
    /// `[fabric]`.
    pub fabric: Fabric,
    /// `[gateway] bind`: TCP; port 0 asks the operating system.
    pub gateway_bind: SocketAddr,
    /// `[sessions]`.
    pub sessions: Sessions,
    /// `[local] socket_group`: its members may use the local socket; empty: only the owner.
    pub socket_group: String,
    /// `[membership] profile`.
    pub membership: Profile,
    /// `[membership] planned_stop`: a daemon that is told to stop says that it is back within this.
    pub planned_stop: Duration,
    /// `[consensus] voter_replace_after`: a voter lost for so long is replaced.
    pub voter_replace_after: Duration,
    /// `[consensus] checkpoint_every`: entries of the log between two checkpoints.
    pub checkpoint_every: u32,
    /// `[consensus] log_kept`: entries kept below a checkpoint for who is behind.
    pub log_kept: u32,
    /// `[reconcile] mode`.
    pub reconcile: ReconcileMode,
    /// `[failover] reschedule_after`: for services without one of their own.
    pub reschedule_after: Duration,
    /// `[failover] stateful`: only `wait` is in this version.
    pub stateful: Stateful,
    /// `[monitor]`.
    pub monitor: Monitor,
    /// `[engine] socket`: path of the engine's API socket; empty: the usual places.
    pub engine_socket: String,
    /// `[engine] allow_host_mounts`: containers may mount what is outside the data directory.
    pub allow_host_mounts: bool,
    /// `[defaults] network`: of containers whose definition names none; empty: the engine's own.
    pub default_network: String,
    /// `[defaults] user`: of containers whose definition names none; empty: the image's.
    pub default_user: String,
    /// `[node] follow_linked_data`: data directories of services and replicas may be symbolic links.
    pub follow_linked_data: bool,
    /// `[chaos] enabled`: `weft chaos` may break actors of this node.
    pub chaos: bool,
    /// `[chaos] format_level`: claimed instead of the build's own, where chaos is enabled.
    pub format_level: Option<u32>,
    /// `[log] level`.
    pub log_level: LogLevel,
    /// `[log] format`.
    pub log_format: LogFormat,
    origins: BTreeMap<&'static str, Origin>,
}

/// One line of [`NodeConfig::explain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// `section.key`.
    pub key: &'static str,
    /// In TOML.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// What the key means, and whether it means anything in this version.
    pub about: String,
}

/// A key that was set and changes nothing in this version ([`WITHOUT_EFFECT`]). Displayed as a
/// line for the log, without the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutEffect {
    /// `section.key`.
    pub key: &'static str,
    /// Who set it.
    pub origin: Origin,
    /// The value that is in force instead, if there is one.
    pub in_force: Option<&'static str>,
}

impl fmt::Display for WithoutEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({}) has no effect in this version", self.key, self.origin)?;
        match self.in_force {
            Some(value) if !value.is_empty() => write!(f, ": it is always `{value}`"),
            _ => Ok(()),
        }
    }
}

/// What loading gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: NodeConfig,
    /// Accepted, but worth a line each.
    pub warnings: Diagnostics,
}

/// A node file that has been read already.
#[derive(Debug, Clone, Copy)]
pub struct NodeFile<'a> {
    /// What messages call it.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Its directory, against which a relative `data_dir` is resolved; `None`: left as it is.
    pub dir: Option<&'a Path>,
}

impl NodeConfig {
    /// The default configuration of a node with that name and data directory, as `init`, `join`
    /// and `up` start from; set the fields that differ, then write it with [`NodeConfig::to_toml`].
    /// Neither argument is checked here: loading the written file does that.
    pub fn new(name: &str, data_dir: &Path) -> Self {
        load::default_config(name, data_dir)
    }

    /// Where the value of `section.key` came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every key with its value and origin, in the order of the file.
    pub fn explain(&self) -> Vec<Explained> {
        KEYS.iter()
            .map(|key| Explained {
                key: key.name,
                value: self.value(key.name),
                origin: self.origin(key.name),
                about: if WITHOUT_EFFECT.iter().any(|(name, _)| *name == key.name) {
                    format!("{} (not in this version)", key.about)
                } else {
                    key.about.to_owned()
                },
            })
            .collect()
    }

    /// What was set, by file, environment or flag, and changes nothing in this version: worth a
    /// warning each when the node starts. A value that is the one in force is not listed.
    pub fn without_effect(&self) -> Vec<WithoutEffect> {
        let plain = Self::new(&self.node.name, &self.node.data_dir);
        WITHOUT_EFFECT
            .iter()
            .filter(|(key, in_force)| {
                self.origin(key) != Origin::Default
                    && !(in_force.is_some() && self.value(key) == plain.value(key))
            })
            .map(|(key, in_force)| WithoutEffect {
                key,
                origin: self.origin(key),
                in_force: *in_force,
            })
            .collect()
    }

    /// A node file: `[node] name` and `data_dir`, both `bind`s, and every key that differs from
    /// its default, in the order of [`KEYS`].
    pub fn to_toml(&self) -> String {
        let plain = Self::new(&self.node.name, &self.node.data_dir);
        let always = ["node.name", "node.data_dir", "fabric.bind", "gateway.bind"];
        let mut out = String::new();
        let mut section = "";
        for key in KEYS {
            let value = self.value(key.name);
            if !always.contains(&key.name) && value == plain.value(key.name) {
                continue;
            }
            let (table, name) = key.parts();
            if table != section {
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(&format!("[{table}]\n"));
                section = table;
            }
            out.push_str(&format!("{name} = {value}\n"));
        }
        out
    }

    /// The value of a key as TOML; empty for a key that does not exist.
    fn value(&self, key: &str) -> String {
        let text = |text: &str| quote::string(text);
        let time = |duration: Duration| quote::string(&format_duration(duration));
        match key {
            "node.name" => text(&self.node.name),
            "node.data_dir" => text(&self.node.data_dir.to_string_lossy()),
            "node.zone" => text(&self.node.zone),
            "node.labels" => quote::strings(&self.node.labels),
            "node.driver" => text(match self.node.driver {
                NodeDriver::Auto => "auto",
                NodeDriver::Process => "process",
                NodeDriver::Podman => "podman",
                NodeDriver::Docker => "docker",
            }),
            "fabric.bind" => text(&self.fabric.bind.to_string()),
            "fabric.advertise" => text(&self.fabric.advertise),
            "fabric.allow_wildcard" => self.fabric.allow_wildcard.to_string(),
            "gateway.bind" => text(&self.gateway_bind.to_string()),
            "sessions.bind" => {
                text(&self.sessions.bind.map(|bind| bind.to_string()).unwrap_or_default())
            }
            "sessions.tokens_file" => text(&self.sessions.tokens_file),
            "sessions.jwt_issuer" => text(&self.sessions.jwt_issuer),
            "sessions.jwt_audience" => text(&self.sessions.jwt_audience),
            "sessions.jwks_file" => text(&self.sessions.jwks_file),
            "sessions.jwks_url" => text(&self.sessions.jwks_url),
            "sessions.tls_cert" => text(&self.sessions.tls_cert),
            "sessions.tls_key" => text(&self.sessions.tls_key),
            "sessions.client_auth" => {
                text(if self.sessions.client_certificates { "fabric" } else { "none" })
            }
            "sessions.allow_insecure" => self.sessions.allow_insecure.to_string(),
            "sessions.memory_only" => self.sessions.memory_only.to_string(),
            "local.socket_group" => text(&self.socket_group),
            "membership.profile" => text(match self.membership {
                Profile::Lan => "lan",
                Profile::Wan => "wan",
            }),
            "membership.planned_stop" => time(self.planned_stop),
            "consensus.voter_replace_after" => time(self.voter_replace_after),
            "consensus.checkpoint_every" => self.checkpoint_every.to_string(),
            "consensus.log_kept" => self.log_kept.to_string(),
            "reconcile.mode" => text(match self.reconcile {
                ReconcileMode::Restart => "restart",
                ReconcileMode::Report => "report",
                ReconcileMode::Full => "full",
            }),
            "failover.reschedule_after" => time(self.reschedule_after),
            "failover.stateful" => text(match self.stateful {
                Stateful::Wait => "wait",
                Stateful::Snapshot => "snapshot",
            }),
            "monitor.interval" => time(self.monitor.interval),
            "monitor.alert_command" => quote::strings(&self.monitor.alert_command),
            "monitor.alert_after" => time(self.monitor.alert_after),
            "monitor.cooldown" => time(self.monitor.cooldown),
            "monitor.restart_threshold" => self.monitor.restart_threshold.to_string(),
            "monitor.disk_low" => self.monitor.disk_low.to_string(),
            "monitor.flap_threshold" => self.monitor.flap_threshold.to_string(),
            "monitor.flap_window" => time(self.monitor.flap_window),
            "monitor.retention" => time(self.monitor.retention),
            "engine.socket" => text(&self.engine_socket),
            "node.follow_linked_data" => self.follow_linked_data.to_string(),
            "engine.allow_host_mounts" => self.allow_host_mounts.to_string(),
            "defaults.network" => text(&self.default_network),
            "defaults.user" => text(&self.default_user),
            "chaos.enabled" => self.chaos.to_string(),
            "chaos.format_level" => {
                text(&self.format_level.map(|level| level.to_string()).unwrap_or_default())
            }
            "log.level" => text(self.log_level.as_str()),
            "log.format" => text(match self.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }),
            _ => String::new(),
        }
    }
}
