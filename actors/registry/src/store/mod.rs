//! The registry's tables: `state.db` (what is agreed) and `local.db` (what this node saw).

mod local;
mod log;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use weft_store::StoreError;
use weft_wire::{Failure, FailureKind};

use crate::state::SnapshotError;

pub use local::LocalStore;
pub use log::{ENTRIES_KEPT, PROPOSAL_VERSION, StateStore};

/// Why the registry cannot read or write what it keeps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The database. For what is stored after it, see [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot in it cannot be used; nothing was changed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A change in it cannot be read or applied; nothing was changed.
    #[error(
        "`{}`: change {index} cannot be used: {cause}; restore a backup of the file, or join this machine again",
        path.display()
    )]
    Entry {
        /// The file.
        path: PathBuf,
        /// The change's position.
        index: u64,
        /// Why not.
        cause: String,
    },
    /// The data directory is another cluster's; nothing was changed.
    #[error(
        "`{}` belongs to cluster {found}, this node to {expected}: use this node's own data directory",
        path.display()
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Its cluster.
        found: String,
        /// Ours.
        expected: String,
    },
    /// A newer incarnation has taken over; nothing was changed.
    #[error("another incarnation has taken over")]
    Superseded,
}

impl RegistryError {
    /// As the answer to the request that ran into it.
    pub(crate) fn failure(&self, node: &str, step: &str) -> Failure {
        let (kind, help) = match self {
            Self::Store(StoreError::Full { .. }) => {
                (FailureKind::Exhausted, "free some space there; nothing was changed, reads go on")
            }
            Self::Superseded => (FailureKind::Unavailable, "send the request again"),
            _ => (FailureKind::Internal, "see the log of weftd on that node; reads go on"),
        };
        Failure::new(kind, format!("{node} could not store it"))
            .node(node)
            .step(step)
            .cause(self)
            .help(help)
    }
}
