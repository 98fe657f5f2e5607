//! What a container shall be, and the request that makes it: every value one argument, no shell.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, PortBinding, ResourcesUlimits,
    RestartPolicy as EnginePolicy, RestartPolicyNameEnum,
};
use weft_protocol::{PortMapping, VolumeMapping};

use crate::engine::Flavour;
use crate::error::Error;
use crate::names::Owner;

/// Limits of a container; `None`: the engine's default, which is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes; swap is not counted on top.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// Both or none: an engine that is given one forgets its default of the other, and the container
/// may then not start (dependencies.md §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimits {
    /// Open files.
    pub nofile: u32,
    /// Processes of the user.
    pub nproc: u32,
}

/// How the engine keeps a container's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPolicy {
    /// A file is closed at this many bytes.
    pub max_bytes: u64,
    /// Files kept. Podman keeps one, whatever is said.
    pub files: u32,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self { max_bytes: 10 * 1024 * 1024, files: 5 }
    }
}

/// What a container shall be. The engine's restart policy is always off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name, by [`crate::container_name`].
    pub name: String,
    /// Whose it is; `None`: nobody's, and no daemon will touch it.
    pub owner: Option<Owner>,
    /// More labels; those of the owner win.
    pub labels: BTreeMap<String, String>,
    /// Reference or id; it must be on the node.
    pub image: String,
    /// A network's name, `none` or `host`; empty: the engine's default.
    pub network: String,
    /// `uid[:gid]` or `name[:group]`; empty: the image's.
    pub user: String,
    /// Absolute; empty: the image's.
    pub workdir: String,
    /// Instead of the image's entry point; `None`: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// What follows the image; empty: the image's.
    pub cmd: Vec<String>,
    /// In order; of equal names the last counts.
    pub env: Vec<(String, String)>,
    /// Published ports; host port 0: the engine chooses.
    pub ports: Vec<PortMapping>,
    /// Binds of absolute host paths, and volumes by name; options `ro`, `rw`, `z`, `Z` and the
    /// engine's others.
    pub volumes: Vec<VolumeMapping>,
    /// Limits.
    pub limits: Limits,
    /// The root file system is read-only.
    pub read_only: bool,
    /// Capabilities taken away; `ALL` for all.
    pub cap_drop: Vec<String>,
    /// setuid programs gain nothing.
    pub no_new_privileges: bool,
    /// Both or none.
    pub ulimits: Option<Ulimits>,
    /// Instead of the image's own, which is SIGTERM for most.
    pub stop_signal: Option<String>,
    /// Output.
    pub log: LogPolicy,
}

impl ContainerSpec {
    /// Whether an engine can be given this.
    ///
    /// # Errors
    /// [`Error::Spec`] with the field: a NUL byte anywhere, a name that engines refuse, a relative
    /// or `..` path, a colon in a path, or an option that could be taken for something else.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |field, value: &str, problem| {
            Err(Error::Spec { field, value: value.escape_debug().to_string(), problem })
        };
        if !is_name(&self.name) {
            return wrong("name", &self.name, "expected letters, digits, `_`, `.` and `-`");
        }
        if self.image.is_empty() || self.image.starts_with('-') || has_blank(&self.image) {
            return wrong("image", &self.image, "expected an image reference");
        }
        if has_blank(&self.network) {
            return wrong("network", &self.network, "expected a network's name");
        }
        if has_blank(&self.user) {
            return wrong("user", &self.user, "expected uid[:gid] or name[:group]");
        }
        if !self.workdir.is_empty() && !self.workdir.starts_with('/') {
            return wrong("workdir", &self.workdir, "expected an absolute path");
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return wrong("env", name, "expected KEY=VALUE");
            }
            if value.contains('\0') {
                // The value may be a secret.
                return wrong("env", name, "its value holds a NUL byte");
            }
        }
        let texts = self.cmd.iter().chain(self.entrypoint.iter().flatten());
        if let Some(text) = texts.chain([&self.workdir]).find(|text| text.contains('\0')) {
            return wrong("cmd", text, "no argument can hold a NUL byte");
        }
        for port in &self.ports {
            if port.container == 0 {
                return wrong("ports", "0", "expected a container port of 1 to 65535");
            }
            if !port.host_ip.is_empty() && port.host_ip.parse::<std::net::IpAddr>().is_err() {
                return wrong("ports", &port.host_ip, "expected an IP address");
            }
        }
        self.volumes.iter().try_for_each(check_volume)
    }

    /// All labels.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.extend(self.owner.iter().flat_map(Owner::labels));
        labels
    }

    /// The environment without what a later entry of the same name overrides.
    fn last_env(&self) -> Vec<String> {
        let last: HashMap<&str, usize> =
            self.env.iter().enumerate().map(|(place, (name, _))| (name.as_str(), place)).collect();
        self.env
            .iter()
            .enumerate()
            .filter(|(place, (name, _))| last.get(name.as_str()) == Some(place))
            .map(|(_, (name, value))| format!("{name}={value}"))
            .collect()
    }

    /// The request.
    pub(crate) fn body(&self, flavour: Flavour) -> ContainerCreateBody {
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        let list = |values: &[String]| (!values.is_empty()).then(|| values.to_vec());
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
        for port in &self.ports {
            let binding = PortBinding {
                host_ip: Some(port.host_ip.clone()),
                host_port: Some(if port.host == 0 { String::new() } else { port.host.to_string() }),
            };
            bindings.entry(port_key(port)).or_default().get_or_insert_default().push(binding);
        }
        let exposed: Vec<String> = self
            .ports
            .iter()
            .map(port_key)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let limit = |name: &str, value: u32| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(value.into()),
            hard: Some(value.into()),
        };
        let memory = self.limits.memory.map(number);
        let host = HostConfig {
            memory,
            memory_swap: memory,
            nano_cpus: self
                .limits
                .cpu_millis
                .map(|millis| number(millis.saturating_mul(1_000_000))),
            pids_limit: self.limits.pids.map(i64::from),
            binds: (!self.volumes.is_empty())
                .then(|| self.volumes.iter().map(bind).collect::<Vec<_>>()),
            network_mode: text(&self.network),
            port_bindings: (!bindings.is_empty()).then_some(bindings),
            restart_policy: Some(EnginePolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            readonly_rootfs: self.read_only.then_some(true),
            cap_drop: list(&self.cap_drop),
            security_opt: self.no_new_privileges.then(|| vec!["no-new-privileges".to_owned()]),
            ulimits: self
                .ulimits
                .map(|both| vec![limit("nofile", both.nofile), limit("nproc", both.nproc)]),
            log_config: Some(self.log_config(flavour)),
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(self.image.clone()),
            user: text(&self.user),
            working_dir: text(&self.workdir),
            entrypoint: self.entrypoint.clone(),
            cmd: list(&self.cmd),
            env: list(&self.last_env()),
            labels: Some(self.all_labels().into_iter().collect()),
            stop_signal: self.stop_signal.clone(),
            exposed_ports: (!exposed.is_empty()).then_some(exposed),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    fn log_config(&self, flavour: Flavour) -> HostConfigLogConfig {
        let size = ("max-size".to_owned(), self.log.max_bytes.to_string());
        let (kind, config) = match flavour {
            Flavour::Podman => ("k8s-file", HashMap::from([size])),
            Flavour::Docker => (
                "json-file",
                HashMap::from([size, ("max-file".to_owned(), self.log.files.to_string())]),
            ),
        };
        HostConfigLogConfig { typ: Some(kind.to_owned()), config: Some(config) }
    }

    /// The equivalent command line, for people and the debug log (design §11): quoted for a shell,
    /// without the values of the environment, which may be secrets.
    pub fn command_line(&self, flavour: Flavour) -> String {
        let mut words: Vec<String> = vec![flavour.as_str().into(), "create".into()];
        let mut option = |name: &str, value: String| words.push(format!("{name}={value}"));
        option("--name", self.name.clone());
        for (name, value) in self.all_labels() {
            option("--label", format!("{name}={value}"));
        }
        option("--restart", "no".into());
        for (name, value) in
            [("--network", &self.network), ("--user", &self.user), ("--workdir", &self.workdir)]
        {
            if !value.is_empty() {
                option(name, value.clone());
            }
        }
        for port in &self.ports {
            let ip = match port.host_ip.as_str() {
                "" => String::new(),
                ip if ip.contains(':') => format!("[{ip}]:"),
                ip => format!("{ip}:"),
            };
            option("--publish", format!("{ip}{}:{}", port.host, port_key(port)));
        }
        for volume in &self.volumes {
            option("--volume", bind(volume));
        }
        for (name, _) in &self.env {
            option("--env", format!("{name}=…"));
        }
        let limits = [
            ("--memory", self.limits.memory.map(|bytes| format!("{bytes}b"))),
            ("--memory-swap", self.limits.memory.map(|bytes| format!("{bytes}b"))),
            ("--cpus", self.limits.cpu_millis.map(|m| format!("{}.{:03}", m / 1000, m % 1000))),
            ("--pids-limit", self.limits.pids.map(|pids| pids.to_string())),
        ];
        for (name, value) in limits {
            if let Some(value) = value {
                option(name, value);
            }
        }
        if let Some(both) = self.ulimits {
            option("--ulimit", format!("nofile={0}:{0}", both.nofile));
            option("--ulimit", format!("nproc={0}:{0}", both.nproc));
        }
        for capability in &self.cap_drop {
            option("--cap-drop", capability.clone());
        }
        if self.no_new_privileges {
            option("--security-opt", "no-new-privileges".into());
        }
        if self.read_only {
            option("--read-only", "true".into());
        }
        if let Some(entrypoint) = &self.entrypoint {
            option("--entrypoint", serde_json::to_string(entrypoint).unwrap_or_default());
        }
        if let Some(signal) = &self.stop_signal {
            option("--stop-signal", signal.clone());
        }
        words.push(self.image.clone());
        words.extend(self.cmd.iter().cloned());
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    name.len() <= 128
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b"_.-".contains(&b))
}

fn has_blank(text: &str) -> bool {
    text.contains(|c: char| c.is_whitespace() || c == '\0')
}

fn check_volume(volume: &VolumeMapping) -> Result<(), Error> {
    let wrong = |value: &str, problem| {
        let value = value.escape_debug().to_string();
        Err(Error::Spec { field: "volumes", value, problem })
    };
    let climbs = |path: &str| path.split('/').any(|part| part == "..");
    let (host, inside) = (volume.host.as_str(), volume.container.as_str());
    if host.contains([':', '\0']) || climbs(host) || !(host.starts_with('/') || is_name(host)) {
        return wrong(host, "expected an absolute path without `..` and `:`, or a volume's name");
    }
    if inside.contains([':', '\0']) || climbs(inside) || !inside.starts_with('/') {
        return wrong(inside, "expected an absolute path without `..` and `:`");
    }
    if volume.options.contains(|c: char| !(c.is_ascii_alphanumeric() || "=,_-".contains(c))) {
        return wrong(&volume.options, "expected options such as `ro` or `z`");
    }
    Ok(())
}

/// `80/tcp`.
pub(crate) fn port_key(port: &PortMapping) -> String {
    format!("{}/{}", port.container, if port.udp { "udp" } else { "tcp" })
}

fn bind(volume: &VolumeMapping) -> String {
    let VolumeMapping { host, container, options } = volume;
    if options.is_empty() {
        format!("{host}:{container}")
    } else {
        format!("{host}:{container}:{options}")
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+…".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
