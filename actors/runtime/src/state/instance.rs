//! What runs or ran of a component: a process under its shim, or a container.

use serde::{Deserialize, Serialize};
use weft_protocol::Driver;
use weft_protocol::files::{ProcessFile, ShimExit, ShimFile};
use weft_wire::WallTime;

/// Which one; no other one is ever equal to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum InstanceId {
    /// A shim.
    Process(ProcessFile),
    /// One run of a container, which may be started again in its place.
    Container {
        /// Its id.
        container: String,
        /// When the engine started it.
        started_at: WallTime,
    },
}

/// What runs or ran, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    /// Its first process, as this host sees it; 0: none, or it cannot be seen.
    pub(crate) pid: u32,
    pub(crate) spec_hash: String,
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
    pub(crate) generation: u64,
    pub(crate) started_at: WallTime,
    /// Host port of each route, in order.
    pub(crate) ports: Vec<u16>,
    /// When its lease ends, in ms of boot time; `None`: it runs without one.
    pub(crate) lease: Option<u64>,
    /// How it ended, once it has.
    pub(crate) exit: Option<ShimExit>,
    /// A container's image, as it was named; empty for a process.
    pub(crate) image: String,
    /// What that name meant.
    pub(crate) digest: String,
    /// What holds a process to its `resources`, for people.
    pub(crate) limits: String,
}

impl Instance {
    /// What runs it.
    pub(crate) const fn driver(&self) -> Driver {
        match self.id {
            InstanceId::Process(_) => Driver::Process,
            InstanceId::Container { .. } => Driver::Container,
        }
    }

    /// Its container's id; empty for a process.
    pub(crate) fn container(&self) -> &str {
        match &self.id {
            InstanceId::Container { container, .. } => container,
            InstanceId::Process(_) => "",
        }
    }

    /// Its shim.
    pub(crate) const fn shim(&self) -> Option<&ProcessFile> {
        match &self.id {
            InstanceId::Process(shim) => Some(shim),
            InstanceId::Container { .. } => None,
        }
    }
}

impl From<ShimFile> for Instance {
    fn from(file: ShimFile) -> Self {
        Self {
            id: InstanceId::Process(file.shim),
            pid: file.child.map_or(0, |child| child.pid),
            spec_hash: file.spec_hash,
            epoch: file.epoch,
            revision: file.revision,
            generation: file.generation,
            started_at: file.started_at,
            ports: file.ports,
            lease: file.lease,
            exit: file.exit,
            image: String::new(),
            digest: String::new(),
            limits: file.limits,
        }
    }
}
