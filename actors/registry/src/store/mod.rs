//! The registry's tables: `local.db`, what this node saw. What is agreed is kept by consensus.

mod local;

#[cfg(test)]
mod tests;

use weft_store::StoreError;
use weft_wire::{Failure, FailureKind};

pub use local::LocalStore;

/// Why the registry cannot read or write what it keeps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The database. For what is stored after it, see [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RegistryError {
    /// As the answer to the request that ran into it.
    pub(crate) fn failure(&self, node: &str, step: &str) -> Failure {
        let (kind, help) = match self {
            Self::Store(StoreError::Full { .. }) => {
                (FailureKind::Exhausted, "free some space there; nothing was changed, reads go on")
            }
            Self::Store(_) => {
                (FailureKind::Internal, "see the log of weftd on that node; reads go on")
            }
        };
        Failure::new(kind, format!("{node} could not store it"))
            .node(node)
            .step(step)
            .cause(self)
            .help(help)
    }
}
