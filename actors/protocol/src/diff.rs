//! What a change of definition means for what runs: field by field, and as one hash.
//!
//! Pure, and shared, so that the plan an operator sees and what a runtime does cannot disagree.

use serde::Serialize;
use sha2::{Digest, Sha256};
use weft_wire::codec;

use crate::{
    ComponentSpec, Driver, PortMapping, Resources, RouteMode, ServiceSpec, ShippedFile,
    VolumeMapping,
};

/// Layout of what is hashed. Raising it recreates every component at its next deploy.
const LAYOUT: u16 = 1;

/// What running a component depends on. Not in it, because Weft itself acts by them and a change
/// takes effect in place: `restart`, `stop_grace`, `health`, and what only the proxy sees of a
/// route.
#[derive(Serialize)]
struct Hashed<'a> {
    layout: u16,
    service: &'a str,
    component: &'a str,
    driver: Driver,
    image: &'a str,
    version: &'a str,
    /// A relative program is looked for there.
    path: &'a str,
    network: &'a str,
    user: &'a str,
    workdir: &'a str,
    ports: &'a [PortMapping],
    volumes: &'a [VolumeMapping],
    cmd: &'a [String],
    env: &'a [(String, String)],
    resources: Resources,
    /// Names give the port variables (orchestration §13), the mode who speaks TLS.
    routes: Vec<(&'a str, RouteMode, Option<bool>)>,
    files: &'a [ShippedFile],
}

/// SHA-256, hex, over what running `component` of `service` depends on: equal hash, same process
/// or container.
pub fn spec_hash(service: &ServiceSpec, component: &ComponentSpec) -> String {
    let version = if component.version.is_empty() { &service.version } else { &component.version };
    let hashed = Hashed {
        layout: LAYOUT,
        service: &service.name,
        component: &component.name,
        driver: component.driver,
        image: &component.image,
        version,
        path: &service.path,
        network: &component.network,
        user: &component.user,
        workdir: &component.workdir,
        ports: &component.ports,
        volumes: &component.volumes,
        cmd: &component.cmd,
        env: &component.env,
        resources: component.resources,
        routes: component
            .routes
            .iter()
            .map(|route| (route.name.as_str(), route.mode, route.backend_tls))
            .collect(),
        files: &service.files,
    };
    // Over 16 MiB of definition does not encode; it could not have been sent either, and a hash of
    // the error still differs from every other.
    let bytes = codec::encode(&hashed).unwrap_or_else(|error| error.to_string().into_bytes());
    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names, as definition files have them, of the fields of a component that differ.
pub fn changed_fields(old: &ComponentSpec, new: &ComponentSpec) -> Vec<&'static str> {
    let checks = [
        ("name", old.name != new.name),
        ("driver", old.driver != new.driver),
        ("image", old.image != new.image),
        ("version", old.version != new.version),
        ("network", old.network != new.network),
        ("user", old.user != new.user),
        ("restart", old.restart != new.restart),
        ("stop_grace", old.stop_grace != new.stop_grace),
        ("workdir", old.workdir != new.workdir),
        ("ports", old.ports != new.ports),
        ("volumes", old.volumes != new.volumes),
        ("cmd", old.cmd != new.cmd),
        ("env", old.env != new.env),
        ("health", old.health != new.health),
        ("resources", old.resources != new.resources),
        ("routes", old.routes != new.routes),
    ];
    checks.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
}

/// Names of the fields of a service that differ, its components' aside.
pub fn changed_service_fields(old: &ServiceSpec, new: &ServiceSpec) -> Vec<&'static str> {
    let checks = [
        ("name", old.name != new.name),
        ("node", old.node != new.node),
        ("tier", old.tier != new.tier),
        ("active", old.active != new.active),
        ("version", old.version != new.version),
        ("path", old.path != new.path),
        ("comment", old.comment != new.comment),
        ("depends_on", old.depends_on != new.depends_on),
        ("replicas", old.replicas != new.replicas),
        ("on_partition", old.on_partition != new.on_partition),
        ("placement", old.placement != new.placement),
        ("failover", old.failover != new.failover),
        ("build", old.build_images != new.build_images),
        ("snapshot", old.snapshot != new.snapshot),
        ("update", old.update != new.update),
        ("files", old.files != new.files),
    ];
    checks.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{RestartPolicy, UpdatePolicy};

    fn component() -> ComponentSpec {
        ComponentSpec {
            name: "api".into(),
            driver: Driver::Process,
            image: String::new(),
            version: String::new(),
            network: String::new(),
            user: String::new(),
            restart: RestartPolicy::default(),
            stop_grace: Duration::from_secs(10),
            workdir: String::new(),
            ports: vec![],
            volumes: vec![],
            cmd: vec!["./api".into()],
            env: vec![],
            health: None,
            resources: Resources::default(),
            routes: vec![],
        }
    }

    fn service() -> ServiceSpec {
        ServiceSpec {
            name: "web".into(),
            node: String::new(),
            tier: crate::Tier::Worker,
            active: true,
            version: "1".into(),
            path: String::new(),
            comment: String::new(),
            depends_on: vec![],
            replicas: 1,
            on_partition: crate::OnPartition::Keep,
            placement: crate::PlacementRules::default(),
            failover: crate::Failover::default(),
            build_images: std::collections::BTreeMap::new(),
            snapshot: crate::Snapshot::default(),
            update: UpdatePolicy::default(),
            files: vec![],
            components: vec![component()],
        }
    }

    #[test]
    fn what_a_process_is_started_with_changes_the_hash_and_what_weft_does_with_it_does_not() {
        let (service, old) = (service(), component());
        let hash = spec_hash(&service, &old);
        assert_eq!(hash.len(), 64);
        let mut same = old.clone();
        same.stop_grace = Duration::from_secs(1);
        same.restart = RestartPolicy::No;
        assert_eq!(spec_hash(&service, &same), hash);
        assert_eq!(changed_fields(&old, &same), ["restart", "stop_grace"]);
        let mut other = old.clone();
        other.env = vec![("A".into(), "1".into())];
        assert_ne!(spec_hash(&service, &other), hash);
        assert_eq!(changed_fields(&old, &other), ["env"]);
        let mut release = service.clone();
        release.version = "2".into();
        assert_ne!(spec_hash(&release, &old), hash);
        assert_eq!(changed_service_fields(&service, &release), ["version"]);
    }

    #[test]
    fn moving_an_argument_into_its_neighbour_changes_the_hash() {
        let service = service();
        let with = |cmd: &[&str]| {
            let mut c = component();
            c.cmd = cmd.iter().map(|&arg| arg.to_owned()).collect();
            spec_hash(&service, &c)
        };
        assert_ne!(with(&["a", "b"]), with(&["a b"]));
        assert_ne!(with(&["a", "b"]), with(&["ab", ""]));
    }
}
