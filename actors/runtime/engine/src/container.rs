//! What a container is, from what the engine says of it.
//!
//! Read by structures of our own, which take what is absent, null or new for unknown: bollard's
//! refuse a whole answer for one word they do not know, and Podman calls a container that was just
//! killed `stopped`, which Docker does not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use weft_protocol::{
    ComponentSpec, Driver, ObservedState, PortMapping, Resources, RestartPolicy, VolumeMapping,
    parse_time,
};
use weft_wire::WallTime;

use crate::image::Image;
use crate::names::Owner;
use crate::spec::Limits;

/// What the engine says a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// The engine starts it again; only containers that are not Weft's.
    Restarting,
    /// It is being stopped.
    Stopping,
    /// It is being removed.
    Removing,
    /// It has ended.
    Exited,
    /// It has ended and could not be cleaned up.
    Dead,
    /// A word this build does not know.
    Unknown,
}

impl ContainerState {
    /// From the engine's word.
    pub fn of(word: &str) -> Self {
        match word {
            "created" | "configured" | "initialized" | "initialised" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "restarting" => Self::Restarting,
            "stopping" => Self::Stopping,
            "removing" => Self::Removing,
            "exited" | "stopped" => Self::Exited,
            "dead" => Self::Dead,
            _ => Self::Unknown,
        }
    }

    /// Whether a process of it may exist.
    pub const fn is_live(self) -> bool {
        matches!(
            self,
            Self::Running | Self::Paused | Self::Restarting | Self::Stopping | Self::Unknown
        )
    }
}

/// What is observed of a container (the table of orchestration §4). `state`: `None` if there is no
/// such container. `stop_wanted`: this node asked for the stop, or the component is desired
/// `stopped`. Answers `None` where the previous value is to be kept.
pub fn observed(state: Option<ContainerState>, stop_wanted: bool) -> Option<ObservedState> {
    Some(match state {
        None => ObservedState::Removed,
        Some(ContainerState::Running) => ObservedState::Running,
        Some(ContainerState::Created | ContainerState::Paused) => ObservedState::Stopped,
        Some(ContainerState::Exited | ContainerState::Dead) if stop_wanted => {
            ObservedState::Stopped
        }
        Some(ContainerState::Exited | ContainerState::Dead) => ObservedState::Exited,
        Some(
            ContainerState::Stopping
            | ContainerState::Removing
            | ContainerState::Restarting
            | ContainerState::Unknown,
        ) => return None,
    })
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code; 128 + n after signal n, as engines have it.
    pub code: i64,
    /// The engine says it ran out of memory. It does not always notice: see
    /// [`crate::ran_out_of_memory`].
    pub oom_flag: bool,
    /// When, if the engine knows.
    pub at: Option<WallTime>,
    /// What the engine says went wrong; empty: nothing.
    pub error: String,
}

impl Ended {
    /// The signal that most likely ended it.
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.code.checked_sub(128)?).ok().filter(|signal| (1..=64).contains(signal))
    }
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Id, hex.
    pub id: String,
    /// Name, without the slash.
    pub name: String,
    /// The image, as it was named.
    pub image: String,
    /// What it does.
    pub state: ContainerState,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Whose it is; `None`: not Weft's.
    pub owner: Option<Owner>,
}

/// A container, as far as Weft cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Id, hex.
    pub id: String,
    /// Name, without the slash.
    pub name: String,
    /// The image, as it was named at creation.
    pub image: String,
    /// The image's id (`sha256:…`): what really runs.
    pub image_id: String,
    /// Whose it is; `None`: not Weft's.
    pub owner: Option<Owner>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// What it does.
    pub state: ContainerState,
    /// Its first process, as this host sees it; `None`: it does not run.
    pub pid: Option<u32>,
    /// How it ended; `None`: it runs, or never did.
    pub ended: Option<Ended>,
    /// When it was last started.
    pub started_at: Option<WallTime>,
    /// The engine's own policy: `no` for Weft's containers.
    pub restart: RestartPolicy,
    /// Times the engine restarted it.
    pub restarts: u64,
    /// Network; empty: the engine's default.
    pub network: String,
    /// Addresses of its networks' gateways; none while it does not run.
    pub gateways: Vec<IpAddr>,
    /// Its addresses in its networks; none while it does not run, or where they are another's.
    pub addresses: Vec<IpAddr>,
    /// User; may be the image's.
    pub user: String,
    /// Working directory; may be the image's.
    pub workdir: String,
    /// Entry point; may be the image's.
    pub entrypoint: Vec<String>,
    /// Arguments; may be the image's.
    pub cmd: Vec<String>,
    /// Environment, the image's and the engine's included; see [`Container::own_env`].
    pub env: Vec<(String, String)>,
    /// Published ports, as they really are.
    pub ports: Vec<PortMapping>,
    /// Mounts: binds and volumes by name.
    pub volumes: Vec<VolumeMapping>,
    /// Limits.
    pub limits: Limits,
    /// It has a terminal.
    pub tty: bool,
    /// Its host name.
    pub hostname: String,
    /// The file its output goes to; empty: there is none, or it cannot be known.
    pub log_file: String,
}

impl Container {
    /// From the JSON of an inspect.
    pub(crate) fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Inspect>(json).map(Into::into)
    }

    /// Its environment without what comes from the image and what engines put there, by name:
    /// Podman does not keep the order it was given.
    pub fn own_env(&self, image: Option<&Image>) -> Vec<(String, String)> {
        const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let from_image = |pair: &(String, String)| image.is_some_and(|i| i.env.contains(pair));
        let from_engine = |(name, value): &(String, String)| match name.as_str() {
            "container" => true,
            "TERM" => value == "xterm",
            "HOSTNAME" => *value == self.hostname,
            "HOME" => value == "/root" || value == "/",
            "PATH" => value == PATH,
            _ => false,
        };
        let mut own: Vec<_> = self
            .env
            .iter()
            .filter(|pair| !from_image(pair) && !from_engine(pair))
            .cloned()
            .collect();
        own.sort();
        own
    }

    /// What would make a container like this one: for adoption (orchestration §5.1). What comes
    /// from the image is left out. With it, in words, what a definition cannot say.
    pub fn adopted(&self, component: &str, image: Option<&Image>) -> (ComponentSpec, Vec<String>) {
        let mut lost = Vec::new();
        let empty = Image::default();
        let image = image.unwrap_or(&empty);
        let differs = |mine: &str, theirs: &str| {
            if mine == theirs { String::new() } else { mine.to_owned() }
        };
        if self.entrypoint != image.entrypoint {
            lost.push(format!("its entry point {:?}", self.entrypoint));
        }
        if self.tty {
            lost.push("its terminal".to_owned());
        }
        if self.limits.pids.is_some_and(|pids| pids != 2048) {
            lost.push("its limit of processes".to_owned());
        }
        // `/` is what engines fill in.
        let workdir = differs(&self.workdir, &image.workdir);
        let spec = ComponentSpec {
            name: component.to_owned(),
            driver: Driver::Container,
            image: self.image.clone(),
            version: String::new(),
            network: self.network.clone(),
            user: differs(&self.user, &image.user),
            restart: self.restart,
            stop_grace: Duration::from_secs(10),
            workdir: if workdir == "/" { String::new() } else { workdir },
            ports: self.ports.clone(),
            volumes: self
                .volumes
                .iter()
                .filter(|volume| {
                    let kept = volume.host.starts_with('/');
                    if !kept && !is_anonymous(&volume.host) {
                        lost.push(format!("its volume {}", volume.host));
                    }
                    kept
                })
                .cloned()
                .collect(),
            cmd: if self.cmd == image.cmd { Vec::new() } else { self.cmd.clone() },
            env: self.own_env(Some(image)),
            health: None,
            resources: Resources { cpu_millis: self.limits.cpu_millis, memory: self.limits.memory },
            routes: Vec::new(),
        };
        (spec, lost)
    }
}

/// A volume that an engine made for an image's `VOLUME`.
fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `2026-11-21T08:27:30.222642749Z`; the year 1 is Go's "never".
pub(crate) fn time(text: &str) -> Option<WallTime> {
    parse_time(text).ok().filter(|time| time.as_micros() > 0)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Inspect {
    id: Option<String>,
    name: Option<String>,
    image: Option<String>,
    state: Option<State>,
    restart_count: Option<i64>,
    log_path: Option<String>,
    host_config: Option<Host>,
    mounts: Option<Vec<MountPoint>>,
    config: Option<Config>,
    network_settings: Option<Networks>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    status: Option<String>,
    #[serde(rename = "OOMKilled")]
    oom_killed: Option<bool>,
    pid: Option<i64>,
    exit_code: Option<i64>,
    error: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Host {
    network_mode: Option<String>,
    restart_policy: Option<Restart>,
    memory: Option<i64>,
    nano_cpus: Option<i64>,
    cpu_quota: Option<i64>,
    cpu_period: Option<i64>,
    pids_limit: Option<i64>,
    port_bindings: Option<Ports>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Restart {
    name: Option<String>,
    maximum_retry_count: Option<i64>,
}

type Ports = BTreeMap<String, Option<Vec<Binding>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Binding {
    host_ip: Option<String>,
    host_port: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct MountPoint {
    #[serde(rename = "Type")]
    kind: Option<String>,
    name: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    mode: Option<String>,
    #[serde(rename = "RW")]
    writable: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    hostname: Option<String>,
    user: Option<String>,
    tty: Option<bool>,
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    image: Option<String>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Networks {
    ports: Option<Ports>,
    networks: Option<BTreeMap<String, Option<Attached>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attached {
    #[serde(rename = "Gateway")]
    gateway: Option<String>,
    #[serde(rename = "IPv6Gateway")]
    gateway_6: Option<String>,
    #[serde(rename = "IPAddress")]
    address: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    address_6: Option<String>,
}

impl Attached {
    fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        parsed([&self.gateway, &self.gateway_6])
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        parsed([&self.address, &self.address_6])
    }
}

/// Those that are addresses: what is not there is empty.
fn parsed(texts: [&Option<String>; 2]) -> impl Iterator<Item = IpAddr> + '_ {
    texts.into_iter().filter_map(|text| text.as_deref()?.parse().ok())
}

impl From<Inspect> for Container {
    fn from(inspect: Inspect) -> Self {
        let state = inspect.state.unwrap_or_default();
        let host = inspect.host_config.unwrap_or_default();
        let config = inspect.config.unwrap_or_default();
        let networks = inspect.network_settings.unwrap_or_default();
        let named = networks.networks;
        // Of one in another's network namespace, they are the other's.
        let mode = host.network_mode.as_deref().unwrap_or_default();
        let is_guest = mode.starts_with("container:") || mode.starts_with("ns:");
        let attached: Vec<&Attached> = match is_guest {
            true => Vec::new(),
            false => named.iter().flat_map(BTreeMap::values).flatten().collect(),
        };
        let labels = config.labels.unwrap_or_default();
        let does = ContainerState::of(state.status.as_deref().unwrap_or_default());
        let positive =
            |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
        let published = match networks.ports {
            Some(ports) if ports.values().any(|b| b.as_ref().is_some_and(|b| !b.is_empty())) => {
                ports
            }
            // While it does not run, only what was asked for is known.
            _ => host.port_bindings.unwrap_or_default(),
        };
        let cpus = positive(host.nano_cpus).map(|nanos| nanos / 1_000_000).or_else(|| {
            let (quota, period) = (positive(host.cpu_quota)?, positive(host.cpu_period)?);
            Some(quota.saturating_mul(1000) / period)
        });
        Self {
            id: inspect.id.unwrap_or_default(),
            name: bare(&inspect.name.unwrap_or_default()),
            image: config.image.unwrap_or_default(),
            image_id: inspect.image.unwrap_or_default(),
            owner: Owner::from_labels(&labels),
            labels,
            state: does,
            pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
            ended: matches!(does, ContainerState::Exited | ContainerState::Dead).then(|| Ended {
                code: state.exit_code.unwrap_or_default(),
                oom_flag: state.oom_killed.unwrap_or_default(),
                at: state.finished_at.as_deref().and_then(time),
                error: state.error.unwrap_or_default(),
            }),
            started_at: state.started_at.as_deref().and_then(time),
            restart: restart(&host.restart_policy.unwrap_or_default()),
            restarts: inspect.restart_count.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
            network: network(&host.network_mode.unwrap_or_default(), named.as_ref()),
            gateways: attached.iter().flat_map(|one| one.gateways()).collect(),
            addresses: attached.iter().flat_map(|one| one.addresses()).collect(),
            user: config.user.unwrap_or_default(),
            workdir: config.working_dir.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default().iter().map(|pair| pair_of(pair)).collect(),
            ports: ports(&published),
            volumes: inspect.mounts.unwrap_or_default().into_iter().filter_map(volume).collect(),
            limits: Limits {
                memory: positive(host.memory),
                cpu_millis: cpus,
                pids: positive(host.pids_limit).and_then(|pids| u32::try_from(pids).ok()),
            },
            tty: config.tty.unwrap_or_default(),
            hostname: config.hostname.unwrap_or_default(),
            log_file: inspect.log_path.unwrap_or_default(),
        }
    }
}

fn bare(name: &str) -> String {
    name.strip_prefix('/').unwrap_or(name).to_owned()
}

pub(crate) fn pair_of(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.to_owned())
}

fn restart(policy: &Restart) -> RestartPolicy {
    match policy.name.as_deref().unwrap_or_default() {
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure(
            policy.maximum_retry_count.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
        ),
        _ => RestartPolicy::No,
    }
}

/// Engines call their default network `default` or `bridge`; a network by name shows in the list
/// of networks only, with some.
fn network(mode: &str, networks: Option<&BTreeMap<String, Option<Attached>>>) -> String {
    let mut named = networks
        .into_iter()
        .flat_map(BTreeMap::keys)
        .filter(|name| !["podman", "bridge", "default", "host", "none"].contains(&name.as_str()));
    match mode {
        "" | "default" | "bridge" | "slirp4netns" | "pasta" => {
            named.next().cloned().unwrap_or_default()
        }
        mode => mode.to_owned(),
    }
}

fn ports(ports: &Ports) -> Vec<PortMapping> {
    let mut all: Vec<_> = ports
        .iter()
        .filter_map(|(key, bindings)| {
            let (number, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            Some((number.parse::<u16>().ok()?, protocol == "udp", bindings.as_ref()?))
        })
        .flat_map(|(container, udp, bindings)| {
            bindings.iter().map(move |binding| PortMapping {
                host_ip: match binding.host_ip.as_deref().unwrap_or_default() {
                    "0.0.0.0" | "::" => String::new(),
                    ip => ip.to_owned(),
                },
                host: binding.host_port.as_deref().unwrap_or_default().parse().unwrap_or_default(),
                container,
                udp,
            })
        })
        .collect();
    all.sort_by(|a, b| {
        (a.container, a.udp, a.host, &a.host_ip).cmp(&(b.container, b.udp, b.host, &b.host_ip))
    });
    // Docker binds IPv4 and IPv6 of "all addresses" apart.
    all.dedup();
    all
}

fn volume(mount: MountPoint) -> Option<VolumeMapping> {
    let host = match mount.kind.as_deref()? {
        "bind" => mount.source?,
        "volume" => mount.name?,
        _ => return None,
    };
    let mode = mount.mode.unwrap_or_default();
    let mut options: Vec<&str> =
        mode.split(',').filter(|option| ["z", "Z", "U"].contains(option)).collect();
    if mount.writable == Some(false) {
        options.insert(0, "ro");
    }
    Some(VolumeMapping { host, container: mount.destination?, options: options.join(",") })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Listed {
    id: Option<String>,
    names: Option<Vec<String>>,
    image: Option<String>,
    state: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl Summary {
    /// From the JSON of a list.
    pub(crate) fn read_all(json: &[u8]) -> Result<Vec<Self>, serde_json::Error> {
        let listed: Option<Vec<Listed>> = serde_json::from_slice(json)?;
        Ok(listed.unwrap_or_default().into_iter().map(Into::into).collect())
    }
}

impl From<Listed> for Summary {
    fn from(listed: Listed) -> Self {
        let labels = listed.labels.unwrap_or_default();
        Self {
            id: listed.id.unwrap_or_default(),
            name: listed.names.unwrap_or_default().first().map(|n| bare(n)).unwrap_or_default(),
            image: listed.image.unwrap_or_default(),
            state: ContainerState::of(listed.state.as_deref().unwrap_or_default()),
            owner: Owner::from_labels(&labels),
            labels,
        }
    }
}

#[cfg(test)]
mod tests;
