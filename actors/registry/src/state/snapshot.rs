//! The whole state as bytes with a version, pinned by a golden file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weft_protocol::{
    Applied, GroupRecord, NodeRecord, Operation, OperatorRecord, Placement, TokenRecord,
};
use weft_wire::{RequestId, codec};

use super::{ClusterState, Service};

/// Layout that this build writes. An older one stays readable: its struct stays, and becomes the
/// newest one in [`ClusterState::restore`].
pub const SNAPSHOT_VERSION: u16 = 1;

/// Why a snapshot cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a newer build.
    #[error(
        "the snapshot has layout {found}, this program reads up to {SNAPSHOT_VERSION}: run a version of weft at least as new as the one that wrote it"
    )]
    Version {
        /// Its layout.
        found: u16,
    },
    /// The bytes are not a snapshot of that layout, or the state is over 16 MiB.
    #[error("the snapshot of desired state: {0}")]
    Codec(#[from] codec::CodecError),
}

#[derive(Serialize, Deserialize)]
struct Version1 {
    index: u64,
    services: Vec<Service>,
    placements: Vec<Placement>,
    nodes: Vec<NodeRecord>,
    operators: Vec<OperatorRecord>,
    tokens: Vec<TokenRecord>,
    cas: Vec<String>,
    denied: Vec<String>,
    format: u32,
    operations: Vec<Operation>,
    purged: u64,
    groups: Vec<GroupRecord>,
    requests: Vec<(RequestId, Applied)>,
}

impl ClusterState {
    /// Everything as bytes of layout [`SNAPSHOT_VERSION`]. Equal states give equal bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Codec`] when the state is over 16 MiB.
    pub fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        let body = Version1 {
            index: self.index,
            services: self.services.values().cloned().collect(),
            placements: self.placements.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            operators: self.operators.values().cloned().collect(),
            tokens: self.tokens.values().cloned().collect(),
            cas: self.cas.clone(),
            denied: self.denied.iter().cloned().collect(),
            format: self.format,
            operations: self.operations.values().cloned().collect(),
            purged: self.purged,
            groups: self.groups.values().cloned().collect(),
            requests: self.requests.iter().cloned().collect(),
        };
        Ok(codec::encode(&body)?)
    }

    /// The state that [`ClusterState::snapshot`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`]; arbitrary bytes never panic.
    pub fn restore(version: u16, bytes: &[u8]) -> Result<Self, SnapshotError> {
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { found: version });
        }
        let body: Version1 = codec::decode(bytes)?;
        let services: BTreeMap<_, _> =
            body.services.into_iter().map(|s| (s.record.name.clone(), s)).collect();
        let placements: BTreeMap<_, _> =
            body.placements.into_iter().map(|p| ((p.service.clone(), p.replica), p)).collect();
        Ok(Self {
            index: body.index,
            services,
            placements,
            nodes: body.nodes.into_iter().map(|node| (node.id, node)).collect(),
            operators: body.operators.into_iter().map(|o| (o.id, o)).collect(),
            tokens: body.tokens.into_iter().map(|t| (t.secret_hash.clone(), t)).collect(),
            cas: body.cas,
            denied: body.denied.into_iter().collect::<BTreeSet<_>>(),
            format: body.format,
            operations: body.operations.into_iter().map(|o| (o.id, o)).collect(),
            purged: body.purged,
            groups: body.groups.into_iter().map(|g| (g.name.clone(), g)).collect(),
            requests: body.requests.into_iter().collect(),
        })
    }
}
