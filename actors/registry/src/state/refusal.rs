//! Why a proposal is refused, in words that say what to do (orchestration §28).

use weft_protocol::{NodeRecord, ServiceSpec};
use weft_wire::{Failure, FailureKind};

use super::ClusterState;

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

pub(crate) fn conflict(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Conflict, message)
}

pub(crate) fn not_found(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::NotFound, message)
}

pub(crate) fn forbidden(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Forbidden, message)
}

pub(crate) fn exhausted(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Exhausted, message)
}

/// A token that is not accepted: the joiner has not shown who it is.
pub(crate) fn token(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Unauthenticated, message)
        .step("check the join token")
        .help("make a new token with `weft node token`")
}

/// In the message of every refusal of an id that was removed; a node that is told so about itself
/// stops for good.
pub const REMOVED: &str = "was removed from the cluster";

pub(crate) fn removed(what: &str) -> Failure {
    forbidden(format!("{what} {REMOVED}, and its id is refused for ever"))
        .help("join the machine again with a new token and an empty data directory")
}

impl ClusterState {
    pub(crate) fn unknown_service(&self, name: &str) -> Failure {
        let known = list(self.services.keys().map(String::as_str));
        not_found(format!("no service `{name}`")).service(name).help(if known.is_empty() {
            "nothing is deployed yet: `weft deploy <file>`".to_owned()
        } else {
            format!("the services are {known}")
        })
    }

    pub(crate) fn unknown_node(&self, name: &str) -> Failure {
        not_found(format!("no node `{name}`"))
            .node(name)
            .help(format!("the nodes are {}", self.node_names()))
    }

    pub(crate) fn node_names(&self) -> String {
        list(self.nodes().into_iter().map(|node: &NodeRecord| node.name.as_str()))
    }
}

pub(crate) fn unknown_component(spec: &ServiceSpec, component: &str) -> Failure {
    let known = list(spec.components.iter().map(|c| c.name.as_str()));
    not_found(format!("service `{}` has no component `{component}`", spec.name))
        .service(&spec.name)
        .component(component)
        .help(format!("its components are {known}"))
}

/// `a, b, c`, cut after twenty.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    let mut text = names.iter().take(20).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 20 {
        text.push_str(&format!(" and {} more", names.len() - 20));
    }
    text
}
