//! What the placer is told of replicas, from what their node says of each component. Pure.

use std::collections::{BTreeMap, BTreeSet};

use weft_protocol::{ComponentState, ComponentStatus, Health};
use weft_wire::NodeId;

use crate::placement::{ReplicaState, Sighting};

/// The worst of each replica's components. A replica has stopped when all of them have: what still
/// ends, or is only frozen, may still write.
pub(super) fn sightings(node: NodeId, components: &[ComponentStatus]) -> Vec<Sighting> {
    let mut replicas: BTreeMap<(&str, u32), (u8, ReplicaState)> = BTreeMap::new();
    let mut live = BTreeSet::new();
    for status in components {
        let there = status.pid != 0 || !status.container.is_empty();
        if there || status.state == ComponentState::Stopping {
            live.insert((status.key.service.as_str(), status.key.replica));
        }
        let state = match (status.state, status.health) {
            (ComponentState::Running, Health::Healthy | Health::None) => (0, ReplicaState::Healthy),
            (ComponentState::Running, _) => (1, ReplicaState::Running),
            (ComponentState::Pending | ComponentState::Starting, _) => (2, ReplicaState::Starting),
            (ComponentState::Exited | ComponentState::Failed, _) => (3, ReplicaState::Failed),
            (ComponentState::Stopped | ComponentState::Stopping | ComponentState::Removed, _) => {
                (4, ReplicaState::Stopped)
            }
            (ComponentState::Unknown | ComponentState::Waiting, _) => (5, ReplicaState::Unknown),
        };
        let worst = replicas
            .entry((status.key.service.as_str(), status.key.replica))
            .or_insert((0, ReplicaState::Healthy));
        if state.0 > worst.0 {
            *worst = state;
        }
    }
    replicas
        .into_iter()
        .map(|(key, (_, state))| match state {
            ReplicaState::Stopped if live.contains(&key) => (key, ReplicaState::Running),
            state => (key, state),
        })
        .map(|((service, replica), state)| Sighting {
            service: service.to_owned(),
            replica,
            node,
            state,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{ComponentKey, Desired, Driver};
    use weft_wire::WallTime;

    fn status(component: &str, state: ComponentState, pid: u32) -> ComponentStatus {
        let key =
            ComponentKey { service: "db".into(), replica: 1, component: component.to_owned() };
        ComponentStatus {
            key,
            desired: Desired::Running,
            state,
            health: Health::None,
            pid,
            version: String::new(),
            revision: 1,
            spec_hash: String::new(),
            epoch: 0,
            restarts: 0,
            started_at: None,
            since: WallTime::from_micros(0),
            last_exit: String::new(),
            reason: String::new(),
            ports: Vec::new(),
            urls: Vec::new(),
            driver: Driver::Process,
            image: String::new(),
            digest: String::new(),
            container: String::new(),
            limits: String::new(),
            refused: 0,
        }
    }

    fn state(components: &[(ComponentState, u32)]) -> ReplicaState {
        let list: Vec<ComponentStatus> = components
            .iter()
            .enumerate()
            .map(|(n, (state, pid))| status(&format!("c{n}"), *state, *pid))
            .collect();
        let node = NodeId::new(uuid::Uuid::from_u128(1));
        let seen = sightings(node, &list);
        assert_eq!(seen.len(), 1);
        seen[0].state
    }

    #[test]
    fn a_replica_has_stopped_when_nothing_of_it_can_write_any_more() {
        use ComponentState::{Removed, Running, Stopped, Stopping};
        assert_eq!(state(&[(Stopped, 0), (Removed, 0)]), ReplicaState::Stopped);
        assert_eq!(state(&[(Stopping, 7)]), ReplicaState::Running);
        assert_eq!(state(&[(Stopping, 0)]), ReplicaState::Running, "its pid is not known");
        assert_eq!(state(&[(Stopped, 7)]), ReplicaState::Running, "it is only frozen");
        assert_eq!(state(&[(Stopped, 0), (Running, 7)]), ReplicaState::Running);
    }

    #[test]
    fn otherwise_the_worst_of_its_components_counts() {
        use ComponentState::{Exited, Running, Starting, Unknown};
        assert_eq!(state(&[(Running, 7), (Running, 8)]), ReplicaState::Healthy);
        assert_eq!(state(&[(Running, 7), (Starting, 0)]), ReplicaState::Starting);
        assert_eq!(state(&[(Starting, 0), (Exited, 0)]), ReplicaState::Failed);
        assert_eq!(state(&[(Exited, 0), (Unknown, 0)]), ReplicaState::Unknown);
    }
}
