//! Adoption: containers that somebody else started become a service's (orchestration §5.1).

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Message, MessageId, RequestId};

use crate::{ComponentKey, ComponentSpec};

/// Which containers of this node would belong to a service that is adopted?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindForeign {
    /// The service.
    pub service: String,
    /// Services that exist: a longer name that fits a container better has it.
    pub others: Vec<String>,
}

/// A container that bears no label of Weft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignContainer {
    /// Its id, hex.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
    /// Whose it has become; `None`: nobody's.
    pub owner: Option<ComponentKey>,
    /// What would make one like it, under the component's name that it would have.
    pub spec: ComponentSpec,
    /// What a definition cannot say of it, in words.
    pub lost: Vec<String>,
    /// Why this node could not start it; empty: it could.
    pub problem: String,
}

impl Message for FindForeign {
    const ID: MessageId = MessageId(240);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.find-foreign";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<ForeignContainer>;
}

/// A container that is to be taken for a component that is about to be placed here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerClaim {
    /// The container's id.
    pub container: String,
    /// The component.
    pub component: String,
    /// Hash of the definition that it is an instance of.
    pub spec_hash: String,
    /// The component's start epoch.
    pub epoch: u64,
}

/// Notes which containers are the first replica's of a service before it is placed here. Containers
/// are not touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimContainers {
    /// The service.
    pub service: String,
    /// All of them; those noted before for it and not named are let go.
    pub claims: Vec<ContainerClaim>,
}

impl Message for ClaimContainers {
    const ID: MessageId = MessageId(241);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.claim-containers";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

/// Makes a service of containers that run already. None is restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptService {
    /// A retry bears the same id and applies once.
    pub request: RequestId,
    /// Its name: containers called so, or beginning with it and a hyphen, become its components.
    pub service: String,
    /// Name of the node they are on; empty: looked for on all.
    pub node: String,
    /// Services that the caller has definitions of: what belongs to a longer name of them is left
    /// alone, as with services that the cluster knows.
    pub others: Vec<String>,
    /// Only says what would become of which.
    pub dry_run: bool,
}

/// What became of the containers of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Name of the node they are on.
    pub node: String,
    /// Revision of the service; 0: nothing was adopted.
    pub revision: u64,
    /// One per container, by name.
    pub containers: Vec<AdoptedContainer>,
}

/// What became of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedContainer {
    /// Its name.
    pub container: String,
    /// The component it is.
    pub component: String,
    /// Whether it runs, which is what is wanted of it from now on.
    pub running: bool,
    /// Why it was left alone; empty: it was adopted.
    pub error: String,
    /// What a definition cannot say of it, in words: it is lost when the container is made anew.
    pub lost: Vec<String>,
}

impl Message for AdoptService {
    const ID: MessageId = MessageId(540);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.adopt";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Adoption;
}
