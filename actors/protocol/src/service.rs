//! A service as its definition file describes it, with every default filled in (orchestration §3).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ShippedFile;

/// Where a service may run, by pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Infrastructure; never migrated.
    Core,
    /// Everything else.
    #[default]
    Worker,
}

/// What a replica does when its node is in a minority (design §6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnPartition {
    /// Keep running.
    #[default]
    Keep,
    /// Run under a lease.
    Stop,
}

/// What happens to a stateful replica of a lost node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stateful {
    /// Wait for the node.
    #[default]
    Wait,
    /// Restore the newest snapshot elsewhere. Refused by this version.
    Snapshot,
}

/// `[placement]`: label expressions, as written (`zone=a`, `ssd`, `arch!=arm64`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRules {
    /// All must hold.
    pub require: Vec<String>,
    /// Better if they hold.
    pub prefer: Vec<String>,
    /// Better if they do not.
    pub avoid: Vec<String>,
    /// Replicas may share a node.
    pub colocate: bool,
}

/// `[failover]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// Wait this long after the loss of a node; `None`: as the leading node's file says, 1 s
    /// unless it does.
    pub reschedule_after: Option<Duration>,
    /// What to do with replicas that keep data.
    pub stateful: Stateful,
}

/// `[snapshot]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `full`, `cli`, `grpc` or `exec: <argv>`; empty: the small default set.
    pub method: String,
    /// Paths relative to the data directory.
    pub exclude: Vec<String>,
}

/// Whether a new replica starts before the old one stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UpdateOrder {
    /// New first.
    StartFirst,
    /// Old first.
    StopFirst,
}

/// `[update]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePolicy {
    /// Replicas changed at once, at least 1.
    pub max_parallel: u32,
    /// Order; `None`: chosen by the rule of orchestration §24.
    pub order: Option<UpdateOrder>,
    /// A replica counts as good after being healthy this long.
    pub healthy_for: Duration,
    /// The whole update may take this long.
    pub deadline: Duration,
    /// Return to the previous revision when it fails.
    pub auto_rollback: bool,
    /// Stop after this many replicas until told to go on.
    pub canary: u32,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            max_parallel: 1,
            order: None,
            healthy_for: Duration::from_secs(10),
            deadline: Duration::from_secs(300),
            auto_rollback: true,
            canary: 0,
        }
    }
}

/// How a component runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Driver {
    /// A native process under a shim.
    Process,
    /// A container of the node's engine.
    Container,
}

/// `restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Never.
    No,
    /// After a failure (exit status other than 0, or a signal); at most so many times in a row.
    OnFailure(Option<u32>),
    /// Always.
    Always,
    /// Always, unless an operator stopped it.
    #[default]
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether a component that ended so (`exit 0`, `signal 9`, …) is not started again.
    pub fn stays_down(self, exit: &str) -> bool {
        match self {
            Self::No => true,
            Self::OnFailure(_) => exit == "exit 0",
            Self::Always | Self::UnlessStopped => false,
        }
    }
}

/// One `ports` entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Host address; empty: the node's default.
    pub host_ip: String,
    /// Host port.
    pub host: u16,
    /// Container port.
    pub container: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// One `volumes` entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeMapping {
    /// Absolute host path.
    pub host: String,
    /// Absolute container path.
    pub container: String,
    /// Options as written, may be empty.
    pub options: String,
}

/// What a probe does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HealthKind {
    /// Connects.
    Tcp,
    /// GETs `path`; 2xx and 3xx are good.
    Http,
    /// Calls the gRPC health service.
    Grpc,
    /// Runs a command; status 0 is good.
    Exec,
}

/// `health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What a probe does.
    pub kind: HealthKind,
    /// Port number or route name; empty: the component's only route.
    pub port: String,
    /// For `http`; starts with `/`.
    pub path: String,
    /// For `exec`.
    pub command: Vec<String>,
    /// Between probes.
    pub interval: Duration,
    /// A probe may take this long.
    pub timeout: Duration,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
    /// Failures within this time after the start do not count.
    pub start_period: Duration,
}

/// `resources`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// Who terminates TLS for a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RouteMode {
    /// The service: passed through by server name.
    #[default]
    L4,
    /// The proxy.
    L7,
}

/// `[[components.routes]]` (orchestration §3.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Empty: the component's only route.
    pub name: String,
    /// The proxy's port, not the component's.
    pub port: u16,
    /// Who terminates TLS.
    pub mode: RouteMode,
    /// Empty: `<service>.svc.<zone>`.
    pub hostname: String,
    /// Also at the edge.
    pub public: bool,
    /// Encrypt to the component; `None`: the rule of §3.3.
    pub backend_tls: Option<bool>,
}

/// `[[components]]` (orchestration §3.2).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentSpec {
    /// Unique in the service.
    pub name: String,
    /// How it runs.
    pub driver: Driver,
    /// Full reference; empty for a process.
    pub image: String,
    /// As written; empty: derived.
    pub version: String,
    /// Container network; empty: the node's default.
    pub network: String,
    /// `uid[:gid]` or `name[:group]`; empty: the node's default.
    pub user: String,
    /// When to start it again.
    pub restart: RestartPolicy,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// Empty: the data directory.
    pub workdir: String,
    /// Fixed host ports.
    pub ports: Vec<PortMapping>,
    /// Mounts.
    pub volumes: Vec<VolumeMapping>,
    /// Program and arguments, or what follows the image.
    pub cmd: Vec<String>,
    /// `KEY=VALUE`, in order.
    pub env: Vec<(String, String)>,
    /// Probe, if any.
    pub health: Option<HealthCheck>,
    /// Limits and needs.
    pub resources: Resources,
    /// Routes.
    pub routes: Vec<RouteSpec>,
}

/// Without the values of `env`: they may be secrets, and what is debugged is logged.
impl fmt::Debug for ComponentSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            driver,
            image,
            version,
            network,
            user,
            restart,
            stop_grace,
            workdir,
            ports,
            volumes,
            cmd,
            env,
            health,
            resources,
            routes,
        } = self;
        let env: Vec<String> = env.iter().map(|(key, _)| format!("{key}=…")).collect();
        f.debug_struct("ComponentSpec")
            .field("name", name)
            .field("driver", driver)
            .field("image", image)
            .field("version", version)
            .field("network", network)
            .field("user", user)
            .field("restart", restart)
            .field("stop_grace", stop_grace)
            .field("workdir", workdir)
            .field("ports", ports)
            .field("volumes", volumes)
            .field("cmd", cmd)
            .field("env", &env)
            .field("health", health)
            .field("resources", resources)
            .field("routes", routes)
            .finish()
    }
}

impl ComponentSpec {
    /// Whether it mounts anything that it may write to.
    pub fn writes_to_volumes(&self) -> bool {
        let read_only = |options: &str| options.split(',').any(|option| option.trim() == "ro");
        self.volumes.iter().any(|volume| !read_only(&volume.options))
    }

    /// What VERSION columns show: the image's tag, else the first 12 digits of its digest, else
    /// the `version` key (orchestration §3.4).
    pub fn shown_version(&self) -> String {
        if self.image.is_empty() {
            return self.version.clone();
        }
        match image_version(&self.image) {
            "" => self.version.clone(),
            version => version.to_owned(),
        }
    }
}

/// The version an image reference tells: its tag, else the first 12 digits of its digest; empty:
/// it has neither. A registry's port is no tag (orchestration §3.4).
pub fn image_version(image: &str) -> &str {
    if let Some((name, digest)) = image.rsplit_once('@') {
        let tag = image_version(name);
        let hex = digest.rsplit_once(':').map_or(digest, |(_, hex)| hex);
        return if tag.is_empty() { hex.get(..12).unwrap_or(hex) } else { tag };
    }
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    name.rsplit_once(':').map_or("", |(_, tag)| tag)
}

/// A whole definition, defaults filled in (orchestration §3.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique in the cluster.
    pub name: String,
    /// Pinned to this node; empty: placed.
    pub node: String,
    /// Pool.
    pub tier: Tier,
    /// Desired `running` or `stopped`.
    pub active: bool,
    /// For components that omit an image or its tag.
    pub version: String,
    /// Source directory.
    pub path: String,
    /// Free text.
    pub comment: String,
    /// Boot order.
    pub depends_on: Vec<String>,
    /// Co-located groups of all components, at least 1.
    pub replicas: u32,
    /// In a minority.
    pub on_partition: OnPartition,
    /// Where.
    pub placement: PlacementRules,
    /// When a node is lost.
    pub failover: Failover,
    /// Image name to containerfile.
    pub build_images: BTreeMap<String, String>,
    /// Backup.
    pub snapshot: Snapshot,
    /// Rolling update.
    pub update: UpdatePolicy,
    /// Shipped beside the replica.
    pub files: Vec<ShippedFile>,
    /// At least one.
    pub components: Vec<ComponentSpec>,
}

impl ServiceSpec {
    /// Every default and no component; it has to get at least one.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: String::new(),
            tier: Tier::default(),
            active: true,
            version: String::new(),
            path: name.to_owned(),
            comment: String::new(),
            depends_on: Vec::new(),
            replicas: 1,
            on_partition: OnPartition::default(),
            placement: PlacementRules::default(),
            failover: Failover::default(),
            build_images: BTreeMap::new(),
            snapshot: Snapshot::default(),
            update: UpdatePolicy::default(),
            files: Vec::new(),
            components: Vec::new(),
        }
    }

    /// The component of that name.
    pub fn component(&self, name: &str) -> Option<&ComponentSpec> {
        self.components.iter().find(|component| component.name == name)
    }
}

/// `service` or `service/component`, as commands take it (orchestration §7).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommandRef {
    /// The service.
    pub service: String,
    /// One component; empty: all.
    pub component: String,
}

impl std::str::FromStr for CommandRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, component) = match text.split_once('/') {
            Some((_, "")) => return Err(format!("`{text}`: expected service/component")),
            Some((service, component)) => (service, component),
            None => (text, ""),
        };
        for name in [service, component] {
            if !(name.is_empty() && !service.is_empty() || valid_name(name)) {
                return Err(format!(
                    "`{text}`: expected service or service/component in lower-case letters, digits and hyphens"
                ));
            }
        }
        Ok(Self { service: service.into(), component: component.into() })
    }
}

impl fmt::Display for CommandRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service)?;
        if self.component.is_empty() { Ok(()) } else { write!(f, "/{}", self.component) }
    }
}

/// One replica of a service; replicas count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaKey {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
}

/// One component of one replica.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ComponentKey {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// The component.
    pub component: String,
}

impl fmt::Display for ComponentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.service, self.replica, self.component)
    }
}

/// Whether `name` fits `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, 1 to 48 characters (orchestration §3.1).
pub fn valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=48).contains(&bytes.len())
        && bytes.iter().all(|b| plain(b) || *b == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}

/// `PORT_<NAME>` of a named route, `PORT` of an unnamed one (orchestration §13).
pub fn route_variable(name: &str) -> String {
    if name.is_empty() {
        "PORT".to_owned()
    } else {
        format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The variables a component's routes set, given the port of each in order (orchestration §13):
/// one unnamed route sets `PORT`; one named route `PORT_<NAME>` and `PORT`; several `PORT_<NAME>`.
pub fn component_variables(routes: &[RouteSpec], ports: &[u16]) -> Vec<(String, String)> {
    let mut variables: Vec<_> = routes
        .iter()
        .zip(ports)
        .map(|(route, port)| (route_variable(&route.name), port.to_string()))
        .collect();
    if let ([route], [port]) = (routes, ports)
        && !route.name.is_empty()
    {
        variables.push(("PORT".to_owned(), port.to_string()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> RouteSpec {
        RouteSpec {
            name: name.into(),
            port: 443,
            mode: RouteMode::L4,
            hostname: String::new(),
            public: false,
            backend_tls: None,
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "a1", "web-api", "0x"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(49)] {
            assert!(!valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn one_named_route_sets_both_variables_and_several_set_only_their_own() {
        let names = |routes: &[RouteSpec], ports: &[u16]| -> Vec<String> {
            component_variables(routes, ports)
                .into_iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect()
        };
        assert_eq!(names(&[route("")], &[1]), ["PORT=1"]);
        assert_eq!(names(&[route("rest-api")], &[1]), ["PORT_REST_API=1", "PORT=1"]);
        assert_eq!(names(&[route("a"), route("b")], &[1, 2]), ["PORT_A=1", "PORT_B=2"]);
        assert!(names(&[], &[]).is_empty());
    }

    #[test]
    fn a_reference_names_a_service_or_one_component() {
        let parse = |text: &str| text.parse::<CommandRef>();
        assert_eq!(parse("web").map(|r| r.to_string()), Ok("web".into()));
        assert_eq!(parse("web/api").map(|r| r.component), Ok("api".into()));
        for bad in ["", "/", "web/", "/api", "web/api/x", "Web"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_registry_port_is_not_a_tag_and_values_of_env_are_not_debugged() {
        let mut c = ComponentSpec {
            name: "a".into(),
            driver: Driver::Container,
            image: "reg:8443/app".into(),
            version: String::new(),
            network: String::new(),
            user: String::new(),
            restart: RestartPolicy::default(),
            stop_grace: Duration::from_secs(10),
            workdir: String::new(),
            ports: vec![],
            volumes: vec![],
            cmd: vec![],
            env: vec![],
            health: None,
            resources: Resources::default(),
            routes: vec![],
        };
        assert_eq!(c.shown_version(), "");
        c.image = "reg:8443/app:v1.2".into();
        assert_eq!(c.shown_version(), "v1.2");
        c.image = "app@sha256:0123456789abcdef".into();
        assert_eq!(c.shown_version(), "0123456789ab");
        c.env = vec![("TOKEN".into(), "hush".into())];
        let debugged = format!("{c:?}");
        assert!(debugged.contains("TOKEN=…") && !debugged.contains("hush"), "{debugged}");
    }
}
