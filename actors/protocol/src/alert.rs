//! Alerts: what fires them, what was done about each, and who answers for them
//! (orchestration §12).

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use weft_wire::{ActorKind, Allow, Message, MessageId, Subscription, WallTime};

use crate::state::names;
use crate::{Desired, NodeReply, ObservedState};

names! {
    /// What an alert is about.
    AlertKind {
        /// A component is not as wanted.
        Drift = "drift",
        /// A component changes too often.
        Flapping = "flapping",
        /// A component was given up on.
        Failed = "failed",
        /// A component was started again too often.
        Restarts = "restarts",
        /// A node is lost.
        Node = "node",
        /// A node's disk is nearly full.
        Disk = "disk",
    }
}

/// What became of the alert command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRun {
    /// Its exit code; `None`: it did not end by itself, or was never started.
    pub exit: Option<i32>,
    /// `signal 9`, `stopped after 30s`, why it was not started; empty: it ended by itself.
    pub problem: String,
    /// The first 4 KiB of what it wrote, both streams as they came.
    pub output: String,
}

/// One firing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Made where it fired; storing it again replaces it.
    pub id: Uuid,
    /// When it fired.
    pub time: WallTime,
    /// Name of the node it is about.
    pub node: String,
    /// Empty for alerts of a node.
    pub service: String,
    /// Empty for alerts of a node.
    pub component: String,
    /// 0 for alerts of a node.
    pub replica: u32,
    /// What it is about.
    pub kind: AlertKind,
    /// What is wanted of the component.
    pub desired: Option<Desired>,
    /// What was seen of it.
    pub observed: Option<ObservedState>,
    /// What was seen of it before.
    pub prev_state: Option<ObservedState>,
    /// Of `flapping` and `restarts`: how many were counted; otherwise 0.
    pub transitions: u32,
    /// For people.
    pub reason: String,
    /// It fired within the cooldown of an earlier one: stored, and nothing else done.
    pub suppressed: bool,
    /// What became of the command; `None`: there is none, it was suppressed, or it has not ended.
    pub run: Option<AlertRun>,
}

/// Which alerts are wanted. Empty fields match all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertFilter {
    /// Of this service; alerts of nodes are left out then.
    pub service: String,
    /// Of this component.
    pub component: String,
    /// Not before.
    pub since: Option<WallTime>,
    /// The newest so many, at most 10,000; 0: 1,000.
    pub limit: u32,
}

impl AlertFilter {
    /// Whether `alert` is wanted, `limit` aside.
    pub fn matches(&self, alert: &Alert) -> bool {
        (self.service.is_empty() || self.service == alert.service)
            && (self.component.is_empty() || self.component == alert.component)
            && self.since.is_none_or(|since| alert.time >= since)
    }
}

/// Stores alerts of this node; one whose id is there is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAlerts {
    /// At most 1,000.
    pub alerts: Vec<Alert>,
}

impl Message for RecordAlerts {
    const ID: MessageId = MessageId(125);
    const ACTOR: ActorKind = ActorKind::Registry;
    const NAME: &'static str = "registry.record-alerts";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

/// Reads alerts of this node, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryAlerts {
    /// Which.
    pub filter: AlertFilter,
}

impl Message for QueryAlerts {
    const ID: MessageId = MessageId(126);
    const ACTOR: ActorKind = ActorKind::Registry;
    const NAME: &'static str = "registry.query-alerts";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<Alert>;
}

/// Reads alerts of this node, then those to come: each when it fires, and again when its command
/// has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowAlerts {
    /// Which.
    pub filter: AlertFilter,
}

impl Message for FollowAlerts {
    const ID: MessageId = MessageId(127);
    const ACTOR: ActorKind = ActorKind::Registry;
    const NAME: &'static str = "registry.follow-alerts";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for FollowAlerts {
    type Item = Alert;
}

/// Alerts of all nodes: what is there in the order of time, then, if asked, what comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterAlerts {
    /// Which.
    pub filter: AlertFilter,
    /// Go on with what comes.
    pub follow: bool,
}

impl Message for ClusterAlerts {
    const ID: MessageId = MessageId(530);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.alerts";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

/// An alert, or why some are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertItem {
    /// An alert; with `-f` again once its command has ended.
    Alert(Box<Alert>),
    /// A node that did not answer: its alerts are missing.
    Missing(NodeReply),
}

impl Subscription for ClusterAlerts {
    type Item = AlertItem;
}
