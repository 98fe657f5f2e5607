//! The vocabulary: domain types, and the messages every actor answers.
//!
//! Nothing here says how anything is done. Types that cross the wire or are stored derive plain
//! serde (no skipping, flattening or untagged enums: the codec is not self-describing), and every
//! message has a number and a version that a golden file pins.
#![forbid(unsafe_code)]

mod adopt;
mod alert;
mod blobs;
mod cluster;
mod diff;
mod event;
mod exec;
mod facts;
pub mod files;
mod gateway;
mod handover;
mod lease;
mod monitor;
mod node;
mod operation;
mod purge;
mod recover;
mod registry;
mod rollout;
mod runtime;
mod service;
mod session;
mod session_operate;
mod state;
mod time;
mod transfer;
mod usage;

pub use adopt::{
    AdoptService, AdoptedContainer, Adoption, ClaimContainers, ContainerClaim, FindForeign,
    ForeignContainer,
};
pub use alert::{
    Alert, AlertFilter, AlertItem, AlertKind, AlertRun, ClusterAlerts, FollowAlerts, QueryAlerts,
    RecordAlerts,
};
pub use blobs::{
    BLOB_PART, BlobProgress, EnsureBlobs, FindBlobs, HaveBlobs, PutBlobPart, ReadBlobPart,
    ReadBlobRefs, SHIPPED_FILES_MAX, SHIPPED_MAX, ShippedFile, check_shipped, valid_digest,
};
pub use cluster::{
    Applied, Capacity, Command, DeployOptions, Epoch, FORMAT_LEVEL, GroupRecord, NodeRecord,
    OperatorRecord, Placement, PlacementMove, Previous, Proposal, Revision, RevisionVerdict,
    ServiceRecord, StateView, TokenRecord,
};
pub use diff::{changed_fields, changed_service_fields, spec_hash};
pub use event::{AuditRecord, Event, EventFilter, EventKind, Outcome};
pub use exec::{
    ClusterExec, EXEC_ARGV_MAX, EXEC_PIECE, Exec, ExecCommand, ExecInput, ExecItem, ExecResize,
    ExecSize, ExecTaken,
};
pub use facts::{
    ClusterNodeStatus, EngineFacts, NodeFacts, NodeStatusRow, PeerFacts, ReadEngine, ReadFacts,
};
pub use gateway::{
    AttachInfo, ClusterActors, ClusterActorsReply, ClusterEvents, ClusterLogs, ClusterNodes,
    ClusterOperations, ClusterPs, ClusterStatus, ComponentRow, DeployService, DeployUpdate,
    DescribeNode, Drift, EventItem, ForeignRow, History, LifecycleAction, LifecycleRequest,
    ListServices, LogRow, NodeReply, NodeRow, OperationRow, PlanAction, PlanItem, PlanService,
    PsReply, ReadReadiness, Readiness, RemoveNode, ServiceHistory, ServiceRow, StatusReply,
};
pub use handover::{Handover, Part, handover, one_machine};
pub use lease::{LEASE, LEASE_HELD, LeaseAnswer, LeaseClaim, RenewLeases};
pub use monitor::{HostFigures, Observed, ReadDrift, ReadHost, Transition};
pub use node::{ActorInfo, ActorTree, ChaosActor, ChaosKind, Ping, Pong, RestartActor};
pub use operation::{
    FinishedOperation, Operation, OperationChange, OperationStep, Progress, SeenOn,
};
pub use purge::{PurgeService, PurgedService, RemoveData};
pub use recover::{RecoverNodes, RecoveredNode};
pub use registry::{
    AgreementView, FollowEvents, GroupView, IssueToken, IssuedToken, JoinCluster, JoinedCluster,
    LetGo, MemberView, NeedGroup, PeerAddress, PlacementPlan, PlanPlacement, PlannedMove, Propose,
    QueryAudit, QueryEvents, ReadAgreement, ReadHead, ReadHistory, ReadState, RecordAudit,
    RecordEvents, RenewLeaf, RenewedLeaf, ReportNode, Vote,
};
pub use rollout::{Rollout, RolloutPhase, RolloutStep, Version, VersionRef};
pub use runtime::{
    Assign, Assignment, CheckSpec, ComponentStatus, Duty, ListComponents, LogLine, LogStream,
    Oddities, ReadDuty, ReadLogs, ReadOddities, RestartComponents, RestartedComponents,
    SpecProblem, StartComponents, WatchComponents,
};
pub use service::{
    CommandRef, ComponentKey, ComponentSpec, Driver, Failover, HealthCheck, HealthKind,
    OnPartition, PlacementRules, PortMapping, ReplicaKey, Resources, RestartPolicy, RouteMode,
    RouteSpec, ServiceSpec, Snapshot, Stateful, Tier, UpdateOrder, UpdatePolicy, VolumeMapping,
    component_variables, image_version, route_variable, valid_name,
};
pub use session::{
    ARCHIVE_PIECE, ArchiveItem, AskWhatIf, CatalogueEdit, CatalogueItem, ControlSession,
    EditCatalogue, FollowCatalogue, FollowSession, FollowSessions, IssueReceipt, IssuedReceipt,
    ListSessions, ModeView, ModesView, PolicyView, ReadArchive, ReadModes, ReadPolicies,
    ReadSession, ReadSessionFigures, ReadSessionHead, ReceiptSigner, RelaySignal, SendEnvelope,
    SenderRates, SessionAck, SessionActivity, SessionAnswer, SessionControl, SessionEnvelope,
    SessionEvent, SessionFigures, SessionHead, SessionItem, SessionLifecycle, SessionPage,
    SessionReader, SessionRefusal, SessionState, SessionView,
};
pub use session_operate::{
    EXPORT_PIECE, EndSession, ExportItem, ExportSession, FollowHistory, FollowLifecycle,
    HistoryItem, IMPORT_MAX, ImportOutcome, ImportSession, InspectSession, ReadSessionGroups,
    SURVEY_MAX, ScaleSessions, SessionDetail, SessionGroup, SessionPayload, SessionRecord,
    SessionRow, SessionRows, SurveySessions, base64, session_about,
};
pub use state::{
    ActorState, ComponentState, Desired, DriftKind, Health, NodeChange, NodeRole, NodeState,
    ObservedState, OperationKind, OperationOutcome, StepState,
};
pub use time::{format_time, parse_time, uptime};
pub use transfer::{
    FILE_MAX, FILE_MODE, FileContent, Octets, PullFile, PulledFile, PushFile, PushedFile,
    PushedReplica, ReadFile, WriteFile, file_about, file_parts,
};
pub use usage::{ClusterUsage, ComponentUsage, Overview, ReadUsage, UsageRow, UsageView};

/// Version of Weft, from the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
