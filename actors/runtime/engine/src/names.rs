//! Names and labels of containers: whose a container is (design §11; orchestration §5).

use std::collections::BTreeMap;

use weft_protocol::ComponentKey;

/// Labels of Weft's containers.
pub mod label {
    /// The node that runs it: its id. A daemon touches only containers that bear its own.
    pub const NODE: &str = "weft.node";
    /// The service.
    pub const SERVICE: &str = "weft.service";
    /// The replica, from 1.
    pub const REPLICA: &str = "weft.replica";
    /// The component.
    pub const COMPONENT: &str = "weft.component";
    /// The service's revision.
    pub const REVISION: &str = "weft.revision";
    /// Hash of everything running it depends on.
    pub const SPEC_HASH: &str = "weft.spec-hash";
    /// Raised to have it started anew.
    pub const EPOCH: &str = "weft.epoch";
    /// Placement generation.
    pub const GENERATION: &str = "weft.generation";
    /// Ports allocated to its routes, in their order, separated by commas.
    pub const PORTS: &str = "weft.ports";
}

/// Whose a container is, and what it was made from; kept in its labels, so that a daemon that
/// starts knows its containers again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The node's id.
    pub node: String,
    /// Which component.
    pub key: ComponentKey,
    /// Revision of the service.
    pub revision: u64,
    /// Hex; empty: unknown.
    pub spec_hash: String,
    /// Of the assignment.
    pub epoch: u64,
    /// Of the placement.
    pub generation: u64,
    /// Ports allocated to its routes, in their order.
    pub ports: Vec<u16>,
}

impl Owner {
    /// As labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let ports: Vec<_> = self.ports.iter().map(u16::to_string).collect();
        [
            (label::NODE, self.node.clone()),
            (label::SERVICE, self.key.service.clone()),
            (label::REPLICA, self.key.replica.to_string()),
            (label::COMPONENT, self.key.component.clone()),
            (label::REVISION, self.revision.to_string()),
            (label::SPEC_HASH, self.spec_hash.clone()),
            (label::EPOCH, self.epoch.to_string()),
            (label::GENERATION, self.generation.to_string()),
            (label::PORTS, ports.join(",")),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// From labels; `None`: they do not say whose it is, so it is not Weft's. What else is
    /// missing or unreadable counts as 0 or empty, so that the container is seen as one that
    /// differs from what is wanted.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Option<Self> {
        let text = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or(0);
        let key = ComponentKey {
            service: text(label::SERVICE),
            replica: text(label::REPLICA).parse().ok()?,
            component: text(label::COMPONENT),
        };
        let node = text(label::NODE);
        if node.is_empty() || key.service.is_empty() || key.component.is_empty() {
            return None;
        }
        Some(Self {
            node,
            key,
            revision: number(label::REVISION),
            spec_hash: text(label::SPEC_HASH),
            epoch: number(label::EPOCH),
            generation: number(label::GENERATION),
            ports: text(label::PORTS).split(',').filter_map(|port| port.parse().ok()).collect(),
        })
    }

    /// The filter of [`crate::Engine::list`] and [`crate::Engine::watch`] that finds a node's own.
    pub fn of_node(node: &str) -> String {
        format!("{}={node}", label::NODE)
    }
}

/// A container's name: `<service>` if the component has the service's name, else
/// `<service>-<component>`; `-<n>` appended from the second replica on one node. `place` is the
/// replica's number among those on this node, from 1.
pub fn container_name(service: &str, component: &str, place: u32) -> String {
    let mut name = service.to_owned();
    if component != service {
        name.push('-');
        name.push_str(component);
    }
    if place > 1 {
        name.push('-');
        name.push_str(&place.to_string());
    }
    name
}

/// The component that an unlabelled container of that name would be when `service` is adopted
/// (orchestration §5.1): the rest after `<service>-`, or the service's name for the bare name.
/// `others` are the services that exist: a longer one that matches takes it.
pub fn matches_service<'a>(
    container: &str,
    service: &str,
    others: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let rest = |service: &str| {
        let rest = container.strip_prefix(service)?;
        if rest.is_empty() { Some(service) } else { rest.strip_prefix('-') }
            .filter(|rest| !rest.is_empty())
            .map(str::to_owned)
    };
    let component = rest(service)?;
    let taken =
        others.into_iter().any(|other| other.len() > service.len() && rest(other).is_some());
    (!taken).then_some(component)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn containers_are_named_by_the_rule() {
        assert_eq!(container_name("web", "web", 1), "web");
        assert_eq!(container_name("web", "api", 1), "web-api");
        assert_eq!(container_name("web", "web", 2), "web-2");
        assert_eq!(container_name("web", "api", 3), "web-api-3");
    }

    #[test]
    fn adoption_takes_what_bears_the_services_name_and_no_longer_match() {
        let of = |container, others: &[&'static str]| {
            matches_service(container, "mc", others.iter().copied())
        };
        assert_eq!(of("mc", &[]).as_deref(), Some("mc"));
        assert_eq!(of("mc-proxy", &[]).as_deref(), Some("proxy"));
        assert_eq!(of("mc-proxy", &["mc", "mc-proxy"]), None);
        assert_eq!(of("mc-proxy-api", &["mc-proxy"]), None);
        assert_eq!(of("mcq", &[]), None);
        assert_eq!(of("mc-", &[]), None);
        assert_eq!(of("other", &[]), None);
    }

    proptest! {
        #[test]
        fn an_owner_is_known_again_by_its_labels(
            node in "[a-z0-9-]{1,40}", service in "[a-z][a-z0-9]{0,20}", component in "[a-z]{1,9}",
            replica in 1u32.., revision: u64, hash in "[0-9a-f]{0,64}", epoch: u64,
            generation: u64, ports in proptest::collection::vec(any::<u16>(), 0..5),
        ) {
            let key = ComponentKey { service, replica, component };
            let owner =
                Owner { node, key, revision, spec_hash: hash, epoch, generation, ports };
            prop_assert_eq!(Owner::from_labels(&owner.labels()), Some(owner));
        }

        #[test]
        fn labels_that_do_not_say_whose_it_is_make_it_foreign(missing in 0usize..4) {
            let owner = Owner {
                node: "n1".into(),
                key: ComponentKey { service: "a".into(), replica: 1, component: "b".into() },
                revision: 1, spec_hash: String::new(), epoch: 0, generation: 0, ports: Vec::new(),
            };
            let mut labels = owner.labels();
            labels.remove([label::NODE, label::SERVICE, label::REPLICA, label::COMPONENT][missing]);
            prop_assert_eq!(Owner::from_labels(&labels), None);
        }
    }
}
