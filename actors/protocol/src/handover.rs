//! Who owns a replica while it changes its place: one rule, for the node that decides, for those
//! that carry it out, and for those that show it.

use serde::{Deserialize, Serialize};
use weft_wire::NodeId;

use crate::{ComponentSpec, OnPartition, Placement, ServiceSpec, UpdateOrder};

/// How a planned move of a replica goes: a drain, another `node` in its definition, a better
/// spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Handover {
    /// The old copy runs until the new one is healthy.
    StartFirst,
    /// The new copy waits until the old one has stopped.
    StopFirst,
}

/// What a node has to do for a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// It owns it.
    Owns,
    /// It owns it until its replacement on another node is healthy.
    HandsOver,
    /// It was lost, and the replacement on another node is not known to be healthy: what runs
    /// here goes on until that is decided, and nothing is started.
    Undecided,
}

/// How a planned move of a replica of that service goes (orchestration §24): its `[update] order`
/// if it names one, else start-first, unless it is fenced, writes to a volume, or has host ports
/// and both nodes are on `one_machine`.
pub fn handover(spec: &ServiceSpec, one_machine: bool) -> Handover {
    if spec.on_partition == OnPartition::Stop {
        return Handover::StopFirst;
    }
    match spec.update.order {
        Some(UpdateOrder::StartFirst) => return Handover::StartFirst,
        Some(UpdateOrder::StopFirst) => return Handover::StopFirst,
        None => {}
    }
    let writes = spec.components.iter().any(ComponentSpec::writes_to_volumes);
    let ports = spec.components.iter().any(|component| !component.ports.is_empty());
    if writes || ports && one_machine { Handover::StopFirst } else { Handover::StartFirst }
}

/// Whether two fabric addresses, `ip:port`, are of one machine. What is not known is not.
pub fn one_machine(a: &str, b: &str) -> bool {
    let host = |text: &str| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    host(a).is_some_and(|ip| host(b) == Some(ip))
}

impl Placement {
    /// What `node` has to do for the replica; `None`: nothing, whatever runs there is to stop.
    pub fn part(&self, node: NodeId, spec: &ServiceSpec, one_machine: bool) -> Option<Part> {
        let previous = self.previous.filter(|previous| previous.node != self.node);
        let order = handover(spec, one_machine);
        if node == self.node {
            let waits = previous.is_some_and(|p| !p.lost) && order == Handover::StopFirst;
            return (!waits).then_some(Part::Owns);
        }
        let previous = previous.filter(|previous| previous.node == node)?;
        if previous.lost {
            // Its lease has ended: it has been killed, and is not to come back (design §6).
            return (spec.on_partition != OnPartition::Stop).then_some(Part::Undecided);
        }
        (order == Handover::StartFirst).then_some(Part::HandsOver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Previous;
    use weft_wire::WallTime;

    fn spec(edit: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
        let mut spec = ServiceSpec {
            name: "web".into(),
            node: String::new(),
            tier: crate::Tier::Worker,
            active: true,
            version: String::new(),
            path: String::new(),
            comment: String::new(),
            depends_on: vec![],
            replicas: 1,
            on_partition: OnPartition::Keep,
            placement: crate::PlacementRules::default(),
            failover: crate::Failover::default(),
            build_images: std::collections::BTreeMap::new(),
            snapshot: crate::Snapshot::default(),
            update: crate::UpdatePolicy::default(),
            files: vec![],
            components: vec![crate::ComponentSpec {
                name: "web".into(),
                driver: crate::Driver::Process,
                image: String::new(),
                version: String::new(),
                network: String::new(),
                user: String::new(),
                restart: crate::RestartPolicy::Always,
                stop_grace: std::time::Duration::from_secs(1),
                workdir: String::new(),
                ports: vec![],
                volumes: vec![],
                cmd: vec!["web".into()],
                env: vec![],
                health: None,
                resources: crate::Resources::default(),
                routes: vec![],
            }],
        };
        edit(&mut spec);
        spec
    }

    fn volume(options: &str) -> crate::VolumeMapping {
        crate::VolumeMapping { host: "/a".into(), container: "/b".into(), options: options.into() }
    }

    #[test]
    fn a_move_starts_first_unless_ports_a_written_volume_or_fencing_forbid_it() {
        use Handover::{StartFirst, StopFirst};
        let port = |spec: &mut ServiceSpec| {
            let port =
                crate::PortMapping { host_ip: String::new(), host: 80, container: 80, udp: false };
            spec.components[0].ports.push(port);
        };
        assert_eq!(handover(&spec(|_| {}), true), StartFirst);
        assert_eq!(handover(&spec(port), false), StartFirst);
        assert_eq!(handover(&spec(port), true), StopFirst);
        let keeps = spec(|spec| spec.components[0].volumes.push(volume("Z")));
        assert_eq!(handover(&keeps, false), StopFirst);
        let reads = spec(|spec| spec.components[0].volumes.push(volume("Z,ro")));
        assert_eq!(handover(&reads, false), StartFirst);
        let fenced = spec(|spec| {
            spec.on_partition = OnPartition::Stop;
            spec.update.order = Some(UpdateOrder::StartFirst);
        });
        assert_eq!(handover(&fenced, false), StopFirst);
        let told = spec(|spec| spec.update.order = Some(UpdateOrder::StopFirst));
        assert_eq!(handover(&told, false), StopFirst);
        assert!(one_machine("10.0.0.1:1", "10.0.0.1:2"));
        assert!(!one_machine("10.0.0.1:1", "10.0.0.2:1") && !one_machine("", ""));
    }

    #[test]
    fn at_any_time_a_replica_is_owned_by_one_node_or_handed_over_by_one_to_another() {
        let id = |n: u128| NodeId::new(uuid::Uuid::from_u128(n));
        let specs = [
            spec(|_| {}),
            spec(|spec| spec.components[0].volumes.push(volume(""))),
            spec(|spec| spec.on_partition = OnPartition::Stop),
        ];
        for spec in &specs {
            for lost in [None, Some(false), Some(true)] {
                let placement = Placement {
                    service: "web".into(),
                    replica: 1,
                    node: id(2),
                    generation: 2,
                    at: WallTime::from_micros(1),
                    reason: String::new(),
                    previous: lost.map(|lost| Previous { node: id(1), lost }),
                };
                let part = |n| placement.part(id(n), spec, false);
                let kept = part(1);
                match (lost, handover(spec, false)) {
                    (None, _) => assert_eq!((part(2), kept), (Some(Part::Owns), None)),
                    (Some(false), Handover::StartFirst) => {
                        assert_eq!((part(2), kept), (Some(Part::Owns), Some(Part::HandsOver)));
                    }
                    (Some(false), Handover::StopFirst) => assert_eq!((part(2), kept), (None, None)),
                    (Some(true), _) => {
                        let fenced = spec.on_partition == OnPartition::Stop;
                        let may = (!fenced).then_some(Part::Undecided);
                        assert_eq!((part(2), kept), (Some(Part::Owns), may));
                    }
                }
                assert_eq!(part(3), None);
            }
        }
    }
}
