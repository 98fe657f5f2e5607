//! Desired state, revisions, placement; events and audit of this node.
//!
//! [`state`] is the deterministic machine, [`store`] its log and the tables of this node,
//! [`Registry`] the actor that puts them together.
//!
//! Interim rule (until agreement takes over): the node that ran `weft init` applies changes, every
//! other node forwards to it and follows it; replica i of a service goes to the i-th node by name.
#![forbid(unsafe_code)]

mod actor;
mod config;
pub mod state;
pub mod store;

pub use actor::{Registry, factory};
pub use config::{RETENTION, RegistryConfig, SelfReport};
pub use state::REMOVED;

/// Opens the databases under `data`, as a registry would, and closes them again: what cannot be
/// used ends the start of a daemon at once, rather than after a supervisor's patience.
///
/// # Errors
/// [`store::RegistryError`], naming the file.
pub async fn preflight(data: &std::path::Path, cluster: &str) -> Result<(), store::RegistryError> {
    let state = store::StateStore::open(data, cluster).await?;
    state.database().close().await;
    let local = store::LocalStore::open(data).await?;
    local.database().close().await;
    Ok(())
}
