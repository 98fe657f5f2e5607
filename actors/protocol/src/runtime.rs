//! What the runtime answers.

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Message, MessageId, Subscription, WallTime};

use crate::{
    CommandRef, ComponentKey, ComponentSpec, ComponentState, Desired, Driver, Health, ShippedFile,
};

macro_rules! message {
    ($name:ident, $id:literal, $text:literal, $allow:ident, $idempotent:literal, $reply:ty) => {
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::Runtime;
            const NAME: &'static str = $text;
            const ALLOW: Allow = Allow::$allow;
            const IDEMPOTENT: bool = $idempotent;
            type Reply = $reply;
        }
    };
}

/// One component this node shall see to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which.
    pub key: ComponentKey,
    /// How.
    pub spec: ComponentSpec,
    /// Version of the service, for components without a tag.
    pub service_version: String,
    /// Revision of the service.
    pub revision: u64,
    /// SHA-256 over what running it depends on, hex; equal hash: same container or process.
    pub spec_hash: String,
    /// Raised to have it started anew.
    pub epoch: u64,
    /// Its epoch when it was last to be made anew, too: a container of that epoch or a later one is
    /// started again in its place.
    #[serde(default)]
    pub made: u64,
    /// Placement generation.
    pub generation: u64,
    /// What is wanted.
    pub desired: Desired,
    /// Runs only under a lease (`on_partition = "stop"`).
    #[serde(default)]
    pub fenced: bool,
    /// Name of the node that it moves to, while this copy is kept until that one is healthy: it
    /// runs on as it is, whatever spec and epoch say. Empty: it stays here.
    #[serde(default)]
    pub leaving: String,
    /// Files that come with the definition.
    #[serde(default)]
    pub files: Vec<ShippedFile>,
    /// Services that are to be healthy first when the node begins, where it runs them too
    /// (`depends_on`).
    #[serde(default)]
    pub after: Vec<String>,
}

/// All components of this node; those not listed are to be stopped and forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// Position of desired state this was read at. An older one, or another list of the same
    /// position, is refused with `Conflict`.
    pub index: u64,
    /// All of them.
    pub assignments: Vec<Assignment>,
    /// The first list since this node was out of contact: what is not in it any more is stale,
    /// and the node is not ready until it has stopped.
    pub returning: bool,
}
message!(Assign, 200, "runtime.assign", NODES, true, ());

/// One component as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// Which.
    pub key: ComponentKey,
    /// What is wanted.
    pub desired: Desired,
    /// What it does.
    pub state: ComponentState,
    /// What its probe says.
    pub health: Health,
    /// Its process; 0: none.
    pub pid: u32,
    /// VERSION column.
    pub version: String,
    /// Revision of the service it runs.
    pub revision: u64,
    /// Of the spec it runs, hex.
    pub spec_hash: String,
    /// Start epoch it runs of: see [`Epoch::start`](crate::Epoch::start).
    pub epoch: u64,
    /// Times it was started again after ending by itself.
    pub restarts: u64,
    /// When the process now running was started.
    pub started_at: Option<WallTime>,
    /// When it entered `state`.
    pub since: WallTime,
    /// How it last ended: `exit 1`, `signal 9`; empty: it never did.
    pub last_exit: String,
    /// Why it is not what is wanted, for people; empty: it is.
    pub reason: String,
    /// Route name (may be empty) and host port of each route.
    pub ports: Vec<(String, u16)>,
    /// `http://host:port` of each route.
    pub urls: Vec<String>,
    /// What runs it.
    pub driver: Driver,
    /// Image reference, as it was named; empty: a process.
    pub image: String,
    /// What that name meant: the digest its registry knows the image by, else the image's id.
    /// Empty: no container runs.
    pub digest: String,
    /// Its container's id; empty: none runs.
    pub container: String,
    /// What holds it to its `resources`, for people; empty: it is not limited, or not running.
    pub limits: String,
    /// Revision that this node cannot start, as `reason` says, and goes on with `revision`; 0: none.
    pub refused: u64,
}

/// Every component of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListComponents {}
message!(ListComponents, 201, "runtime.list", ADMINS, true, Vec<ComponentStatus>);

/// Containers of this node that are not as agreed, and those that are not Weft's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOddities {
    /// Drift too: each container that is new since the last look is inspected.
    pub drift: bool,
}
message!(ReadOddities, 261, "runtime.oddities", ADMINS, true, Oddities);

/// Answer to [`ReadOddities`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oddities {
    /// Of kinds `spec` and `orphan`.
    pub drift: Vec<crate::Drift>,
    /// Not Weft's.
    pub foreign: Vec<crate::ForeignRow>,
    /// Why the engine could not be asked; empty: it was, or the node has none.
    pub error: String,
}

/// What this node's runtime acts by, and what it has yet to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDuty {}
message!(ReadDuty, 218, "runtime.duty", ADMINS, true, Duty);

/// Answer to [`ReadDuty`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    /// Position of desired state that it acts by; `None`: it has not been told since its daemon
    /// started, runs what ran and starts nothing else.
    pub index: Option<u64>,
    /// What it ran while out of contact and is stopping now.
    pub stale: Vec<ComponentKey>,
    /// What it runs of replicas that were placed elsewhere while it was out of contact, until it
    /// is decided which copy stays.
    pub undecided: Vec<ComponentKey>,
}

/// Starts components anew in place, at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartComponents {
    /// Which.
    pub target: CommandRef,
}
message!(RestartComponents, 202, "runtime.restart", ADMINS, false, RestartedComponents);

/// Starts what should run and has ended, or is gone, or was given up on; what runs is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartComponents {
    /// Which; `None`: all of this node.
    pub target: Option<CommandRef>,
    /// Says which it would be, and starts none.
    pub dry_run: bool,
}
message!(StartComponents, 230, "runtime.start", ADMINS, true, RestartedComponents);

impl StartComponents {
    /// Whether that one is meant.
    pub fn matches(&self, key: &ComponentKey) -> bool {
        self.target.as_ref().is_none_or(|target| {
            target.service == key.service
                && (target.component.is_empty() || target.component == key.component)
        })
    }
}

/// Which were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartedComponents {
    /// Which.
    pub keys: Vec<ComponentKey>,
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Weft itself, about the component.
    Weft,
}

/// One line a component wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Which component.
    pub key: ComponentKey,
    /// When it was read.
    pub time: WallTime,
    /// Where from.
    pub stream: LogStream,
    /// Without the line end; bytes that are not UTF-8 are replaced; cut at 16 KiB.
    pub text: String,
}

/// Reads component logs of this node: what is there, then, if asked, what comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLogs {
    /// Which.
    pub target: CommandRef,
    /// Only this replica; 0: all.
    pub replica: u32,
    /// The newest so many lines of each component; `None`: all.
    pub tail: Option<u32>,
    /// Not before.
    pub since: Option<WallTime>,
    /// Go on with what comes.
    pub follow: bool,
}
message!(ReadLogs, 203, "runtime.logs", ADMINS, true, ());

impl Subscription for ReadLogs {
    type Item = LogLine;
}

/// Every component of this node now, then each again whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchComponents {
    /// Of this service; empty: all.
    pub service: String,
}
message!(WatchComponents, 204, "runtime.watch", ADMINS, true, ());

impl Subscription for WatchComponents {
    type Item = ComponentStatus;
}

/// Could this node run these components? Nothing is started or created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// Of that service.
    pub components: Vec<ComponentSpec>,
    /// Files that come with the definition.
    pub files: Vec<ShippedFile>,
}
message!(CheckSpec, 205, "runtime.check", ADMINS, true, Vec<SpecProblem>);

/// Why a node cannot run a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecProblem {
    /// Name of the component.
    pub component: String,
    /// What is wrong and what to do, for people.
    pub problem: String,
}
