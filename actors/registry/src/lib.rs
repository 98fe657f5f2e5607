//! Desired state, revisions, placement; events and audit of this node.
//!
//! [`state`] is the deterministic machine that consensus feeds through [`Control`], [`placement`]
//! decides where replicas go, [`store`] has the tables of this node, [`Registry`] is the actor
//! that puts them together; on the node that leads, its steward sees to voters and places.
#![forbid(unsafe_code)]

mod actor;
mod config;
mod control;
mod operations;
pub mod placement;
mod rollout;
pub mod state;
mod steward;
pub mod store;

pub use actor::{Registry, factory};
pub use config::{Agreement, Others, RETENTION, RegistryConfig, SelfReport, Tended};
pub use control::{Control, GROUP, PROPOSAL_VERSION};
pub use state::REMOVED;
pub use steward::groups::Spread;

/// Opens the databases under `data`, as a registry would, and closes them again: what cannot be
/// used ends the start of a daemon at once, rather than after a supervisor's patience.
///
/// # Errors
/// [`store::RegistryError`], naming the file.
pub async fn preflight(data: &std::path::Path) -> Result<(), store::RegistryError> {
    let local = store::LocalStore::open(data).await?;
    local.database().close().await;
    Ok(())
}
