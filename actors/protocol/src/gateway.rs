//! What the gateway answers: every question about the whole cluster, and what an operator does
//! to services. The attached node asks all others in parallel; a node that does not answer is a
//! row, not a failure (orchestration §1, §7).

use serde::{Deserialize, Serialize};
use weft_wire::{
    ActorKind, Allow, Failure, Message, MessageId, NodeId, RequestId, Subscription, WallTime,
};

use crate::{
    ActorInfo, CommandRef, ComponentState, ComponentStatus, DeployOptions, Desired, DriftKind,
    Event, EventFilter, HostFigures, LogLine, NodeRole, NodeState, ObservedState, Operation,
    OperationStep, ServiceSpec,
};

macro_rules! message {
    ($name:ident, $id:literal, $text:literal, $allow:ident, $idempotent:literal, $reply:ty) => {
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::Gateway;
            const NAME: &'static str = $text;
            const ALLOW: Allow = Allow::$allow;
            const IDEMPOTENT: bool = $idempotent;
            type Reply = $reply;
        }
    };
}

/// How one node answered a question to all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReply {
    /// Its name.
    pub node: String,
    /// Empty: it answered. Otherwise why not.
    pub error: String,
}

/// A component and the node it is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentRow {
    /// Name of the node.
    pub node: String,
    /// Its status; of a node that did not answer: `unknown`, as desired state has it.
    pub status: ComponentStatus,
}

/// Every component of the cluster, live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPs {
    /// Which; `None`: all.
    pub target: Option<CommandRef>,
}
message!(ClusterPs, 500, "gateway.ps", ADMINS, true, PsReply);

/// Answer to [`ClusterPs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsReply {
    /// By service, replica and component.
    pub rows: Vec<ComponentRow>,
    /// How each node answered.
    pub nodes: Vec<NodeReply>,
    /// Containers that are not Weft's, by name of the node; only where all components are asked for.
    pub foreign: Vec<(String, ForeignRow)>,
}

/// A container that is in a node's engine and not Weft's (orchestration §5): never touched, it may
/// be adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image, as it was named.
    pub image: String,
    /// `running`, `exited` or `stopped`.
    pub state: ComponentState,
}

/// Something that is not as wanted (orchestration §4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// What kind.
    pub kind: DriftKind,
    /// Name of the node.
    pub node: String,
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// The component.
    pub component: String,
    /// What is wanted.
    pub desired: Desired,
    /// What is.
    pub observed: ObservedState,
    /// The reason text of §4.
    pub reason: String,
    /// Since when.
    pub since: WallTime,
}

/// ps, drift and recent events in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Only of this service; empty: all.
    pub service: String,
}
message!(ClusterStatus, 501, "gateway.status", ADMINS, true, StatusReply);

/// Answer to [`ClusterStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// Components.
    pub ps: PsReply,
    /// What is not as wanted.
    pub drift: Vec<Drift>,
    /// The newest 20 events, oldest first.
    pub events: Vec<Event>,
    /// Operations that go on.
    pub operations: Vec<OperationRow>,
    /// Alerts of the last hour, oldest first, at most 20.
    pub alerts: Vec<crate::Alert>,
}

/// An operation and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRow {
    /// As agreed.
    pub operation: Operation,
    /// Name of the node that sees it to its end.
    pub owner: String,
    /// In order.
    pub steps: Vec<OperationStep>,
    /// What is still to come or will not, one line each, at most 20.
    pub left: Vec<String>,
}

/// Operations that go on, and those that ended lately; newest last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterOperations {
    /// Only this one; 0: all.
    pub id: u64,
}
message!(ClusterOperations, 512, "gateway.operations", ADMINS, true, Vec<OperationRow>);

/// A node as the attached node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: NodeId,
    /// What it is doing.
    pub state: NodeState,
    /// Its part in agreement.
    pub role: NodeRole,
    /// `ip:port`.
    pub address: String,
    /// Version of its daemon.
    pub version: String,
    /// Zone, may be empty.
    pub zone: String,
    /// Milliseconds since it was last heard of; `None`: never since this daemon started.
    pub last_seen_ms: Option<u64>,
    /// Round trip in microseconds; `None`: no link, or the attached node itself.
    pub rtt_us: Option<u64>,
    /// Components placed there.
    pub components: u64,
    /// Why it is not `ready`; empty: it is.
    pub reason: String,
}

/// Every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNodes {}
message!(ClusterNodes, 502, "gateway.nodes", ADMINS, true, Vec<NodeRow>);

/// Every actor of every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterActorsReply {
    /// By node and path.
    pub rows: Vec<ActorInfo>,
    /// How each node answered.
    pub nodes: Vec<NodeReply>,
}

/// The supervision trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterActors {}
message!(ClusterActors, 503, "gateway.actors", ADMINS, true, ClusterActorsReply);

/// Events of all nodes: what is there in the order of time, then, if asked, what comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterEvents {
    /// Which.
    pub filter: EventFilter,
    /// Go on with what comes.
    pub follow: bool,
}
message!(ClusterEvents, 504, "gateway.events", ADMINS, true, ());

/// An event, or why some are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventItem {
    /// An event.
    Event(Box<Event>),
    /// A node that did not answer: what it alone recorded is missing.
    Missing(NodeReply),
}

impl Subscription for ClusterEvents {
    type Item = EventItem;
}

/// Logs of all nodes: what is there in the order of time, then, if asked, what comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterLogs {
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
message!(ClusterLogs, 505, "gateway.logs", ADMINS, true, ());

/// A log line and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogRow {
    /// A line.
    Line {
        /// Name of the node.
        node: String,
        /// The line.
        line: LogLine,
    },
    /// A node that did not answer.
    Missing(NodeReply),
}

impl Subscription for ClusterLogs {
    type Item = LogRow;
}

/// Stores a definition, puts it in force, and reports until it is healthy or has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployService {
    /// A retry bears the same id and applies once.
    pub request: RequestId,
    /// The definition; `None`: the one last deployed.
    pub spec: Option<Box<ServiceSpec>>,
    /// The service, when `spec` is `None`.
    pub service: String,
    /// How.
    pub options: DeployOptions,
    /// Give up reporting after so many milliseconds.
    pub timeout_ms: u64,
    /// Only propose; do not report on components.
    pub no_wait: bool,
}
message!(DeployService, 506, "gateway.deploy", ADMINS, true, ());

/// One step of a deploy or of a change of what is wanted, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeployUpdate {
    /// Agreed: the change is in force.
    Accepted {
        /// The service.
        service: String,
        /// The revision in force.
        revision: u64,
        /// False: it was so already.
        changed: bool,
        /// The operation that began with it; 0: none did.
        operation: u64,
    },
    /// A component moved.
    Progress {
        /// It, and where.
        row: ComponentRow,
    },
    /// A component is as wanted, or will not be.
    Component {
        /// It, and where.
        row: ComponentRow,
        /// `None`: as wanted.
        error: Option<Failure>,
        /// Its last log lines when it failed.
        log: Vec<LogLine>,
    },
    /// All components are decided; last item.
    Done {
        /// How many are as wanted.
        good: u32,
        /// How many are not.
        bad: u32,
        /// Time ran out before all were decided.
        timed_out: bool,
    },
    /// A rolling update went a step, or something is waited for; for people.
    Step {
        /// `update: 1 of 3 replicas updated`.
        text: String,
    },
}

impl Subscription for DeployService {
    type Item = DeployUpdate;
}

/// The revisions of a service that are kept, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHistory {
    /// Which.
    pub service: String,
}
message!(ServiceHistory, 519, "gateway.history", ADMINS, true, History);

/// Answer to [`ServiceHistory`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The revision in force.
    pub in_force: u64,
    /// The newest ten, oldest first.
    pub revisions: Vec<crate::Revision>,
}

/// What an operator does to what is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LifecycleAction {
    /// Wanted: stopped.
    Stop,
    /// Wanted: running.
    Start,
    /// Started anew in place.
    Restart,
    /// Torn down; history stays.
    Undeploy,
    /// Another number of replicas.
    Scale(u32),
    /// An earlier revision; 0: the one before, ending an update that goes on.
    Rollback(u64),
    /// Its rolling update waits.
    Pause,
    /// Its rolling update goes on.
    Resume,
}

/// Does it, and reports until it is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRequest {
    /// A retry bears the same id and applies once.
    pub request: RequestId,
    /// To what.
    pub target: CommandRef,
    /// What.
    pub action: LifecycleAction,
    /// Give up reporting after so many milliseconds.
    pub timeout_ms: u64,
    /// Only propose; do not report on components.
    pub no_wait: bool,
}
message!(LifecycleRequest, 507, "gateway.lifecycle", ADMINS, true, ());

impl Subscription for LifecycleRequest {
    type Item = DeployUpdate;
}

/// What a plan would do to a component (orchestration §7, `plan`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanAction {
    /// It is not there.
    Create,
    /// It is there and differs.
    Recreate,
    /// It is as the definition has it.
    Keep,
    /// It would be stopped.
    Stop,
    /// It would be removed.
    Remove,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanItem {
    /// The service.
    pub service: String,
    /// From 1.
    pub replica: u32,
    /// The component.
    pub component: String,
    /// Name of the node.
    pub node: String,
    /// What.
    pub action: PlanAction,
    /// Names of changed fields.
    pub changed: Vec<String>,
    /// What would make it fail, such as a program that is not there; empty: nothing known.
    pub problem: String,
}

/// Compares a definition with desired state and with what runs; changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanService {
    /// The definition.
    pub spec: Box<ServiceSpec>,
    /// How it would be deployed.
    pub options: DeployOptions,
}
message!(PlanService, 508, "gateway.plan", ADMINS, true, Vec<PlanItem>);

/// A component of desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// The service.
    pub service: String,
    /// The component.
    pub component: String,
    /// From 1.
    pub replica: u32,
    /// Name of the node; empty: not placed.
    pub node: String,
    /// What is wanted.
    pub desired: Desired,
    /// What the attached node last heard; `unknown` without asking.
    pub observed: ObservedState,
    /// VERSION column.
    pub version: String,
    /// Revision in force.
    pub revision: u64,
}

/// Desired state only; asks no runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListServices {}
message!(ListServices, 509, "gateway.list", ADMINS, true, Vec<ServiceRow>);

/// Takes a node out of the cluster for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNode {
    /// A retry bears the same id and applies once.
    pub request: RequestId,
    /// Name or id.
    pub node: String,
    /// Also when replicas are placed there.
    pub force: bool,
}
message!(RemoveNode, 510, "gateway.remove-node", ADMINS, true, NodeId);

/// Whether the node that answers is ready, as `/readyz` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReadiness {}
message!(ReadReadiness, 518, "gateway.readiness", ADMINS, true, Readiness);

/// Answer to [`ReadReadiness`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Why it is not, for people; empty: it is.
    pub reasons: Vec<String>,
}

/// Who am I to you, and who are you?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeNode {}

impl Message for DescribeNode {
    const ID: MessageId = MessageId(511);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.describe";
    const ALLOW: Allow = Allow::PERSONS;
    const IDEMPOTENT: bool = true;
    type Reply = AttachInfo;
}

/// Answer to [`DescribeNode`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttachInfo {
    /// The cluster.
    pub cluster: String,
    /// Name of the attached node.
    pub node: String,
    /// Its id.
    pub id: NodeId,
    /// Version of its daemon.
    pub version: String,
    /// The caller as it sees it: `operator/<id>`.
    pub caller: String,
    /// Name of the caller; empty: none recorded.
    pub caller_name: String,
    /// The caller's role.
    pub role: String,
    /// `http://ip:port` of its gateway.
    pub gateway: String,
    /// `ip:port` of its fabric.
    pub fabric: String,
    /// The machine.
    pub host: Option<HostFigures>,
}
