//! Clusters and services in a few words.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_protocol::{
    ComponentSpec, Driver, Failover, OnPartition, PlacementRules, PortMapping, Resources,
    RestartPolicy, ServiceRecord, ServiceSpec, Snapshot, Tier, UpdatePolicy, VolumeMapping,
};
use weft_wire::{NodeId, WallTime};

use super::super::settle::World;
use super::super::{
    Decision, Input, Lease, Liveness, NodeFacts, Place, Previous, ReplicaState, Settings, Sighting,
    decide,
};

pub(crate) fn id(n: u32) -> NodeId {
    NodeId::new(uuid::Uuid::from_u128(u128::from(n)))
}

/// Ready, empty, without limits.
pub(crate) fn node(n: u32) -> NodeFacts {
    NodeFacts {
        id: id(n),
        name: format!("n{n}"),
        zone: String::new(),
        labels: Vec::new(),
        cpu_millis: None,
        memory: None,
        load_percent: None,
        draining: false,
        liveness: Liveness::Ready,
        version: "1.0.0".into(),
        address: String::new(),
    }
}

/// A service with one component, one replica.
pub(super) fn service(name: &str) -> Service {
    Service(record(name))
}

pub(crate) fn record(name: &str) -> ServiceRecord {
    let component = ComponentSpec {
        name: name.into(),
        driver: Driver::Process,
        image: String::new(),
        version: String::new(),
        network: String::new(),
        user: String::new(),
        restart: RestartPolicy::default(),
        stop_grace: Duration::from_secs(10),
        workdir: String::new(),
        ports: Vec::new(),
        volumes: Vec::new(),
        cmd: vec!["true".into()],
        env: Vec::new(),
        health: None,
        resources: Resources::default(),
        routes: Vec::new(),
    };
    let spec = ServiceSpec {
        name: name.into(),
        node: String::new(),
        tier: Tier::Worker,
        active: true,
        version: String::new(),
        path: name.into(),
        comment: String::new(),
        depends_on: Vec::new(),
        replicas: 1,
        on_partition: OnPartition::Keep,
        placement: PlacementRules::default(),
        failover: Failover::default(),
        build_images: BTreeMap::new(),
        snapshot: Snapshot::default(),
        update: UpdatePolicy::default(),
        files: Vec::new(),
        components: vec![component],
    };
    ServiceRecord {
        name: name.into(),
        revision: 1,
        spec,
        active: true,
        desired: Vec::new(),
        epochs: Vec::new(),
        undeployed: false,
        rollout: None,
        created_at: WallTime::default(),
        updated_at: WallTime::default(),
    }
}

/// A record being written.
#[derive(Clone)]
pub(super) struct Service(ServiceRecord);

fn texts(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

impl Service {
    pub(super) fn replicas(mut self, n: u32) -> Self {
        self.0.spec.replicas = n;
        self
    }
    pub(super) fn colocate(mut self) -> Self {
        self.0.spec.placement.colocate = true;
        self
    }
    pub(super) fn memory(mut self, bytes: u64) -> Self {
        self.0.spec.components[0].resources.memory = Some(bytes);
        self
    }
    pub(super) fn cpu(mut self, millis: u64) -> Self {
        self.0.spec.components[0].resources.cpu_millis = Some(millis);
        self
    }
    pub(super) fn port(mut self, host: u16) -> Self {
        let port = PortMapping { host_ip: String::new(), host, container: host, udp: false };
        self.0.spec.components[0].ports.push(port);
        self
    }
    pub(super) fn volume(mut self) -> Self {
        let volume =
            VolumeMapping { host: "/srv/x".into(), container: "/x".into(), options: String::new() };
        self.0.spec.components[0].volumes.push(volume);
        self
    }
    pub(super) fn pin(mut self, node: &str) -> Self {
        self.0.spec.node = node.into();
        self
    }
    pub(super) fn tier(mut self, tier: Tier) -> Self {
        self.0.spec.tier = tier;
        self
    }
    pub(super) fn on_partition(mut self, what: OnPartition) -> Self {
        self.0.spec.on_partition = what;
        self
    }
    pub(super) fn after(mut self, ms: u64) -> Self {
        self.0.spec.failover.reschedule_after = Some(Duration::from_millis(ms));
        self
    }
    pub(super) fn require(mut self, rules: &[&str]) -> Self {
        self.0.spec.placement.require = texts(rules);
        self
    }
    pub(super) fn prefer(mut self, rules: &[&str]) -> Self {
        self.0.spec.placement.prefer = texts(rules);
        self
    }
    pub(super) fn avoid(mut self, rules: &[&str]) -> Self {
        self.0.spec.placement.avoid = texts(rules);
        self
    }
}

/// An input that owns what it holds.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) services: Vec<ServiceRecord>,
    pub(super) places: Vec<Place>,
    pub(super) nodes: Vec<NodeFacts>,
    pub(super) seen: Vec<Sighting>,
    pub(super) leases: Vec<Lease>,
    pub(super) settings: Settings,
}

impl Cluster {
    /// Nodes n1 to n`count`.
    pub(super) fn new(count: u32) -> Self {
        Self {
            services: Vec::new(),
            places: Vec::new(),
            nodes: (1..=count).map(node).collect(),
            seen: Vec::new(),
            leases: Vec::new(),
            settings: Settings::default(),
        }
    }

    pub(super) fn with(mut self, service: Service) -> Self {
        self.services.push(service.0);
        self
    }

    pub(super) fn edit(mut self, n: u32, change: impl FnOnce(&mut NodeFacts)) -> Self {
        change(self.nodes.iter_mut().find(|node| node.id == id(n)).expect("a node"));
        self
    }

    pub(super) fn placed(mut self, service: &str, replica: u32, n: u32) -> Self {
        let service = service.to_owned();
        self.places.push(Place {
            service,
            replica,
            node: id(n),
            previous: None,
            reason: String::new(),
        });
        self
    }

    pub(super) fn previously(mut self, service: &str, replica: u32, was: Previous) -> Self {
        let place = self.places.iter_mut().find(|p| p.service == service && p.replica == replica);
        place.expect("a place").previous = Some(was);
        self
    }

    pub(super) fn sees(mut self, service: &str, replica: u32, n: u32, state: ReplicaState) -> Self {
        self.seen.retain(|s| s.service != service || s.replica != replica || s.node != id(n));
        self.seen.push(Sighting { service: service.to_owned(), replica, node: id(n), state });
        self
    }

    pub(super) fn lease(mut self, service: &str, replica: u32, n: u32, ago: u64) -> Self {
        let service = service.to_owned();
        self.leases.push(Lease { service, replica, node: id(n), renewed_ms_ago: ago });
        self
    }

    pub(super) fn take(&mut self, world: World) {
        (self.places, self.nodes, self.seen, self.leases, self.settings) =
            (world.places, world.nodes, world.seen, world.leases, world.settings);
    }

    pub(super) fn input(&self) -> Input<'_> {
        // The input borrows a slice of references, which somebody has to own; tests are short.
        let services: Vec<&'static ServiceRecord> =
            self.services.iter().map(|record| &*Box::leak(Box::new(record.clone()))).collect();
        Input {
            services: services.leak(),
            places: &self.places,
            nodes: &self.nodes,
            seen: &self.seen,
            leases: &self.leases,
            settings: self.settings,
        }
    }

    pub(super) fn decide(&self) -> Decision {
        decide(&self.input())
    }

    /// `web/1 n1 n2` for each move.
    pub(super) fn shown(&self, decision: &Decision) -> Vec<String> {
        let name = |node: Option<NodeId>| match node {
            None => "-".to_owned(),
            Some(id) => self
                .nodes
                .iter()
                .find(|node| node.id == id)
                .map_or_else(|| "?".to_owned(), |node| node.name.clone()),
        };
        let show = |step: &super::super::Move| {
            format!("{}/{} {} {}", step.service, step.replica, name(step.from), name(step.to))
        };
        decision.moves.iter().map(show).collect()
    }

    /// `web/1 reason` for each that waits.
    pub(super) fn waits(&self, decision: &Decision) -> Vec<String> {
        let show = |w: &super::super::Waiting| format!("{}/{} {}", w.service, w.replica, w.reason);
        decision.waiting.iter().map(show).collect()
    }
}
