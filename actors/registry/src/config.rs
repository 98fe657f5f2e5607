//! What a registry is made of.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use weft_identity::{IssuingCa, Trust};
use weft_protocol::ReportNode;
use weft_protocol::files::NodeSeed;

/// Days that events and audit records are kept unless configured (orchestration §12).
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// What this node tells of itself; `None`: not known yet.
pub type SelfReport = Arc<dyn Fn() -> Option<ReportNode> + Send + Sync>;

/// What a registry is made of; the same for all its incarnations. Cheap to clone.
#[derive(Clone)]
pub struct RegistryConfig {
    /// Holds `state.db` and `local.db`.
    pub data_dir: PathBuf,
    /// Who this node is. With `bootstrap` it is the one that applies changes.
    pub seed: NodeSeed,
    /// Signs certificates; on the node that applies changes only.
    pub issuer: Option<Arc<IssuingCa>>,
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
            .field("applies", &self.applies())
            .finish_non_exhaustive()
    }
}

impl RegistryConfig {
    /// Whether this node applies changes (interim rule: it ran `weft init`).
    pub fn applies(&self) -> bool {
        self.seed.bootstrap.is_some()
    }
}
