//! What a registry is made of.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use weft_agreement::{Group, Membership};
use weft_identity::{IssuingCa, Trust};
use weft_protocol::ReportNode;
use weft_protocol::files::NodeSeed;

use crate::control::Control;
use crate::steward::groups::Spread;

/// Days that events and audit records are kept unless configured (orchestration §12).
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// What agrees for this node; made once, before the registry, and outliving its incarnations.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// Desired state as consensus feeds it.
    pub control: Control,
    /// The group whose machine it is.
    pub group: Group,
    /// Who is there.
    pub membership: Membership,
    /// The other groups of this node: the same ones, by name, on every node of the cluster.
    pub others: Others,
}

/// Groups beside `control`; more may come while the node runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Others(Arc<watch::Sender<Arc<Vec<Tended>>>>);

impl Others {
    /// One more.
    pub fn add(&self, tended: Tended) {
        self.0.send_modify(|all| Arc::make_mut(all).push(tended));
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.borrow().iter().any(|tended| tended.group.name() == name)
    }

    /// Those there are now.
    pub fn list(&self) -> Arc<Vec<Tended>> {
        self.0.borrow().clone()
    }

    /// Told of each that comes.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Tended>>> {
        self.0.subscribe()
    }
}

/// A group whose members the registry sees to while this node leads it, as it does for `control`.
#[derive(Debug, Clone)]
pub struct Tended {
    /// The group; opened on every node, begun on one.
    pub group: Group,
    /// On which nodes it is to be.
    pub spread: Spread,
}

/// What this node tells of itself; `None`: not known yet.
pub type SelfReport = Arc<dyn Fn() -> Option<ReportNode> + Send + Sync>;

/// What a registry is made of; the same for all its incarnations. Cheap to clone.
#[derive(Clone)]
pub struct RegistryConfig {
    /// Holds `local.db`.
    pub data_dir: PathBuf,
    /// Who this node is, and on the first one what makes the cluster.
    pub seed: NodeSeed,
    /// Signs certificates while this node leads.
    pub issuer: Option<Arc<IssuingCa>>,
    /// A voter silent for so long is replaced (design §6: 60 s).
    pub voter_replace_after: Duration,
    /// Wait after the loss of a node before replicas move whose service says nothing else.
    pub reschedule_after: Duration,
    /// Told of every change of bundle and deny list.
    pub trust: Trust,
    /// Read at start and every few seconds; a difference to what is agreed is reported.
    pub report: SelfReport,
    /// Events older than this are deleted.
    pub event_retention: Duration,
    /// Audit records older than this are deleted.
    pub audit_retention: Duration,
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("data_dir", &self.data_dir)
            .field("node", &self.seed.name)
            .finish_non_exhaustive()
    }
}
