//! From an assignment to what its container is made from; pure but for looking at paths.

use std::path::{Path, PathBuf};

use weft_engine::{ContainerSpec, Limits, LogPolicy, Owner};
use weft_protocol::files::replica_dir;
use weft_protocol::{
    Assignment, ComponentKey, ComponentSpec, Driver, HealthKind, PortMapping, VolumeMapping,
    component_variables, file_parts,
};

use super::engines::NO_DRIVER;
use crate::RuntimeConfig;
use crate::launch::probe_route;

/// Label whose value says what a container was made from: while it is the same, the container may
/// be started again in its place.
pub(crate) const MADE_FROM: &str = "weft.made-from";

/// Whether the container has ports of its own, apart from the node's.
pub(crate) fn is_apart(network: &str) -> bool {
    !(network == "host" || network == "none" || network.starts_with("container:"))
}

/// Why this node cannot run that container, or `None`. The engine is not asked.
pub(crate) fn problem(
    config: &RuntimeConfig,
    spec: &ComponentSpec,
    service: &str,
    replica: u32,
) -> Option<String> {
    if config.engine.is_none() {
        return Some(NO_DRIVER.to_owned());
    }
    if let Some(check) = &spec.health {
        match check.kind {
            HealthKind::Exec if check.command.is_empty() => {
                return Some("health kind `exec` needs a `command`".into());
            }
            HealthKind::Exec => {}
            HealthKind::Tcp | HealthKind::Http | HealthKind::Grpc => {
                if let Some(problem) = probe_problem(spec, &check.port) {
                    return Some(problem);
                }
            }
        }
    }
    let services = config.data_dir.join("services");
    for volume in &spec.volumes {
        if !config.allow_host_mounts && !beneath(Path::new(&volume.host), &services) {
            return Some(format!(
                "volume {} is outside {}: set [engine] allow_host_mounts in this node's file, or mount something there",
                volume.host,
                services.display()
            ));
        }
    }
    let home = replica_dir(&config.data_dir, service, replica);
    let made = container(config, &assignment_of(spec, service, replica), &[], &[], &home, "check");
    made.check().err().map(|error| error.to_string())
}

fn probe_problem(spec: &ComponentSpec, port: &str) -> Option<String> {
    if probe_route(spec).is_none() {
        return Some(format!(
            "health port `{port}` is neither a number nor one of the component's routes"
        ));
    }
    if spec.network == "none" {
        return Some(
            "a container without a network cannot be probed from outside: use health kind `exec`"
                .into(),
        );
    }
    probe_target_port(spec, &[]).is_none().then(|| {
        format!(
            "health port {port} of the container is not published: add it to `ports`, or name a route"
        )
    })
}

/// The port of this node behind which the probe's port is. `ports`: of its routes; where none are
/// known yet, any will do.
pub(crate) fn probe_target_port(spec: &ComponentSpec, ports: &[u16]) -> Option<u16> {
    use crate::launch::ProbeRoute;
    match probe_route(spec)? {
        ProbeRoute::Route(place) if ports.is_empty() => u16::try_from(place + 1).ok(),
        ProbeRoute::Route(place) => ports.get(place).copied(),
        ProbeRoute::Port(port) if !is_apart(&spec.network) => Some(port),
        ProbeRoute::Port(port) => {
            let published = spec.ports.iter().find(|p| p.container == port && !p.udp);
            published.map(|published| published.host)
        }
    }
}

/// Whether `path` is `dir` or beneath it; neither has `..`.
fn beneath(path: &Path, dir: &Path) -> bool {
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    plain && path.starts_with(dir)
}

/// What a definition leaves to its node (`[defaults]`; orchestration §26, §29).
pub(crate) fn fill(config: &RuntimeConfig, spec: &mut ComponentSpec) {
    if spec.driver != Driver::Container {
        return;
    }
    for (own, usual) in
        [(&mut spec.network, &config.default_network), (&mut spec.user, &config.default_user)]
    {
        if own.is_empty() {
            own.clone_from(usual);
        }
    }
}

fn assignment_of(spec: &ComponentSpec, service: &str, replica: u32) -> Assignment {
    Assignment {
        key: ComponentKey { service: service.to_owned(), replica, component: spec.name.clone() },
        spec: spec.clone(),
        service_version: String::new(),
        revision: 0,
        spec_hash: String::new(),
        epoch: 0,
        made: 0,
        generation: 0,
        desired: weft_protocol::Desired::Running,
        fenced: false,
        leaving: String::new(),
        files: Vec::new(),
        after: Vec::new(),
    }
}

/// Directories of this node that the container mounts and Weft makes: those beneath the data
/// directory.
pub(crate) fn directories(config: &RuntimeConfig, spec: &ComponentSpec) -> Vec<PathBuf> {
    let services = config.data_dir.join("services");
    let hosts = spec.volumes.iter().map(|volume| PathBuf::from(&volume.host));
    hosts.filter(|host| beneath(host, &services)).collect()
}

/// What the container is made from. Later variables win: what the definition says, then what Weft
/// assigns (orchestration §13).
pub(crate) fn container(
    config: &RuntimeConfig,
    assignment: &Assignment,
    route_ports: &[u16],
    peers: &[(String, String)],
    home: &Path,
    name: &str,
) -> ContainerSpec {
    let (key, spec) = (&assignment.key, &assignment.spec);
    let home = home.display().to_string();
    let mut env: Vec<(String, String)> = Vec::new();
    // Peers are on this node's loopback, which only the host's network has.
    if spec.network == "host" {
        env.extend(peers.iter().cloned());
    }
    env.extend(spec.env.iter().cloned());
    env.extend(component_variables(&spec.routes, route_ports));
    for (name, value) in [
        ("WEFT_NODE", config.node_name.clone()),
        ("WEFT_SERVICE", key.service.clone()),
        ("WEFT_REPLICA", key.replica.to_string()),
        ("WEFT_COMPONENT", key.component.clone()),
        ("WEFT_DATA", home.clone()),
    ] {
        env.push((name.to_owned(), value));
    }
    let mut ports = Vec::new();
    if is_apart(&spec.network) {
        ports.clone_from(&spec.ports);
        for port in route_ports {
            let route = PortMapping {
                host_ip: config.host.to_string(),
                host: *port,
                container: *port,
                udp: false,
            };
            if !ports.contains(&route) {
                ports.push(route);
            }
        }
    }
    let mut volumes = spec.volumes.clone();
    if !volumes.iter().any(|volume| volume.container == home) {
        let (host, container) = (home.clone(), home.clone());
        volumes.push(VolumeMapping { host, container, options: String::new() });
    }
    let mut cmd = spec.cmd.clone();
    // What comes with the definition lies in the replica's directory, wherever the image starts.
    if let Some(program) = cmd.first_mut()
        && program.contains('/')
        && let Some(file) = assignment.files.iter().find(|file| file.is(program))
        && let Ok(parts) = file_parts(&file.path)
    {
        *program = format!("{home}/{}", parts.join("/"));
    }
    let mut made = ContainerSpec {
        name: name.to_owned(),
        image: spec.image.clone(),
        network: spec.network.clone(),
        user: spec.user.clone(),
        workdir: spec.workdir.clone(),
        cmd,
        env,
        ports,
        volumes,
        limits: Limits {
            memory: spec.resources.memory,
            cpu_millis: spec.resources.cpu_millis,
            pids: None,
        },
        log: LogPolicy { max_bytes: config.log_bytes, files: config.log_files },
        ..ContainerSpec::default()
    };
    let from = format!(
        "{:?} {} {}",
        ContainerSpec { name: String::new(), ..made.clone() },
        assignment.spec_hash,
        assignment.made
    );
    made.labels.insert(MADE_FROM.to_owned(), format!("{:016x}", fingerprint(from.as_bytes())));
    made.owner = Some(Owner {
        node: config.node_id.clone(),
        key: key.clone(),
        revision: assignment.revision,
        spec_hash: assignment.spec_hash.clone(),
        epoch: assignment.epoch,
        generation: assignment.generation,
        ports: route_ports.to_vec(),
    });
    made
}

/// FNV-1a: the same in every build. Only told from other containers of the same component.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{Driver, HealthCheck, Resources, RestartPolicy, RouteMode, RouteSpec};

    fn spec() -> ComponentSpec {
        ComponentSpec {
            name: "api".into(),
            driver: Driver::Container,
            image: "localhost/web:1".into(),
            version: String::new(),
            network: String::new(),
            user: String::new(),
            restart: RestartPolicy::Always,
            stop_grace: std::time::Duration::from_secs(1),
            workdir: String::new(),
            ports: vec![],
            volumes: vec![],
            cmd: vec!["a b".into(), "$(x)".into()],
            env: vec![("PORT".into(), "1".into()), ("A".into(), "b\nc".into())],
            health: None,
            resources: Resources::default(),
            routes: vec![RouteSpec {
                name: String::new(),
                port: 443,
                mode: RouteMode::L4,
                hostname: String::new(),
                public: false,
                backend_tls: None,
            }],
        }
    }

    #[test]
    fn a_program_that_comes_with_the_definition_is_started_from_the_replicas_directory() {
        let mut spec = spec();
        spec.cmd = vec!["./bin/run".into(), "./bin/run".into()];
        let mut assignment = assignment_of(&spec, "web", 1);
        assignment.files = vec![weft_protocol::ShippedFile::named("bin/run")];
        let home = replica_dir(Path::new("/data"), "web", 1);
        let made = container(&config(), &assignment, &[], &[], &home, "web");
        assert_eq!(made.cmd, ["/data/services/web/1/bin/run", "./bin/run"]);
    }

    fn config() -> RuntimeConfig {
        let mut config = RuntimeConfig::new("/data", "n1", "/bin/true");
        config.node_id = "id-1".into();
        config.engine = Some(weft_engine::Search::default());
        config
    }

    fn made(spec: &ComponentSpec) -> ContainerSpec {
        let home = Path::new("/data/services/web/1");
        container(&config(), &assignment_of(spec, "web", 1), &[10_001], &[], home, "web-api")
    }

    #[test]
    fn a_route_is_published_on_loopback_under_its_own_number_and_ports_that_weft_assigns_win() {
        let made = made(&spec());
        let port = PortMapping {
            host_ip: "127.0.0.1".into(),
            host: 10_001,
            container: 10_001,
            udp: false,
        };
        assert_eq!(made.ports, [port]);
        let last = made.env.iter().rfind(|(name, _)| name == "PORT").unwrap();
        assert_eq!(last.1, "10001");
        assert_eq!(made.cmd, ["a b", "$(x)"]);
        assert_eq!(made.owner.unwrap().node, "id-1");
    }

    #[test]
    fn in_the_hosts_network_nothing_is_published() {
        let spec = ComponentSpec { network: "host".into(), ..spec() };
        assert!(made(&spec).ports.is_empty());
    }

    #[test]
    fn what_a_container_is_made_from_shows_in_a_label_and_its_revision_does_not() {
        let mut assignment = assignment_of(&spec(), "web", 1);
        let home = Path::new("/data/services/web/1");
        let label = |assignment: &Assignment| {
            let made = container(&config(), assignment, &[1], &[], home, "x");
            made.labels.get(MADE_FROM).cloned().unwrap()
        };
        let before = label(&assignment);
        assignment.revision = 9;
        assert_eq!(label(&assignment), before);
        // Restarted in place.
        assignment.epoch = 1;
        assert_eq!(label(&assignment), before);
        assignment.made = 1;
        assert_ne!(label(&assignment), before);
    }

    #[test]
    fn a_mount_outside_the_data_directory_needs_the_nodes_leave() {
        let mut spec = spec();
        let volume = |host: &str| VolumeMapping {
            host: host.into(),
            container: "/x".into(),
            options: String::new(),
        };
        spec.volumes = vec![volume("/data/services/shared")];
        assert_eq!(problem(&config(), &spec, "web", 1), None);
        spec.volumes = vec![volume("/etc")];
        let refused = problem(&config(), &spec, "web", 1).unwrap();
        assert!(refused.contains("allow_host_mounts"), "{refused}");
        let allowed = RuntimeConfig { allow_host_mounts: true, ..config() };
        assert_eq!(problem(&allowed, &spec, "web", 1), None);
    }

    #[test]
    fn a_probe_of_a_port_that_is_not_published_is_refused_with_what_to_do() {
        let mut spec = spec();
        spec.health = Some(HealthCheck {
            kind: HealthKind::Http,
            port: "8080".into(),
            path: "/".into(),
            command: vec![],
            interval: std::time::Duration::from_secs(1),
            timeout: std::time::Duration::from_secs(1),
            retries: 3,
            start_period: std::time::Duration::ZERO,
        });
        let refused = problem(&config(), &spec, "web", 1).unwrap();
        assert!(refused.contains("add it to `ports`"), "{refused}");
        let published =
            |host| PortMapping { host_ip: String::new(), host, container: 8080, udp: false };
        spec.ports = vec![published(18080)];
        assert_eq!(problem(&config(), &spec, "web", 1), None);
        assert_eq!(probe_target_port(&spec, &[5]), Some(18080));
        spec.network = "host".into();
        assert_eq!(probe_target_port(&spec, &[5]), Some(8080));
    }
}
