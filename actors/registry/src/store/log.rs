//! `state.db`: the agreed changes in their order, and a snapshot that stands for the older ones.
//!
//! The tables of orchestration §6 for services, specs, placements and nodes are the snapshot and
//! the log here: the state they give is read from memory. Opened with `synchronous=FULL` in this
//! version, because it is the only place an acknowledged change is durable; once the log of
//! consensus is, it becomes `NORMAL` (design §7).

use std::path::Path;
use std::sync::Arc;

use sqlx::Row;
use weft_protocol::Proposal;
use weft_store::{Durability, Migration, Store, StoreError};
use weft_wire::codec;

use super::RegistryError;
use crate::state::ClusterState;

/// Layout of a stored proposal.
pub const PROPOSAL_VERSION: u16 = 1;
/// Changes kept behind the snapshot, for followers that come back.
pub const ENTRIES_KEPT: u64 = 1_000;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    sql: "
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE log (
            idx INTEGER PRIMARY KEY,
            version INTEGER NOT NULL,
            proposal BLOB NOT NULL
        ) STRICT;
        CREATE TABLE snapshot (
            idx INTEGER PRIMARY KEY,
            version INTEGER NOT NULL,
            state BLOB NOT NULL
        ) STRICT;",
}];

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateStore {
    store: Store,
}

impl StateStore {
    /// Opens `<data>/state.db` of `cluster`, making it if need be.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn open(data: &Path, cluster: &str) -> Result<Self, RegistryError> {
        let path = data.join("state.db");
        let store = Store::open(&path, Durability::Full, MIGRATIONS).await?;
        let mut write = store.begin().await?;
        let known: Option<String> =
            sqlx::query_scalar("SELECT value FROM meta WHERE key = 'cluster'")
                .fetch_optional(&mut *write)
                .await
                .map_err(|error| store.error("read", error))?;
        match known {
            Some(found) if found != cluster => {
                return Err(RegistryError::OtherCluster {
                    path,
                    found,
                    expected: cluster.to_owned(),
                });
            }
            Some(_) => {}
            None => {
                sqlx::query("INSERT INTO meta (key, value) VALUES ('cluster', ?1)")
                    .bind(cluster)
                    .execute(&mut *write)
                    .await
                    .map_err(|error| store.error("write", error))?;
            }
        }
        write.commit().await?;
        Ok(Self { store })
    }

    /// The database.
    pub fn database(&self) -> &Store {
        &self.store
    }

    /// Rebuilds the state, and says at which position its snapshot stands (0: none).
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn load(&self) -> Result<(ClusterState, u64), RegistryError> {
        let row = sqlx::query("SELECT idx, version, state FROM snapshot ORDER BY idx DESC LIMIT 1")
            .fetch_optional(self.store.readers())
            .await
            .map_err(|error| self.read(error))?;
        let mut state = ClusterState::default();
        if let Some(row) = row {
            let version: i64 = row.try_get(1).map_err(|error| self.read(error))?;
            let bytes: Vec<u8> = row.try_get(2).map_err(|error| self.read(error))?;
            state = ClusterState::restore(u16::try_from(version).unwrap_or(u16::MAX), &bytes)?;
        }
        let checkpoint = state.index();
        loop {
            let entries = self.after(state.index(), 500).await?;
            if entries.is_empty() {
                return Ok((state, checkpoint));
            }
            for (index, proposal) in entries {
                let applied = state
                    .apply(&proposal, index)
                    .map_err(|failure| self.unusable(index, failure))?;
                if applied.0.index != index {
                    return Err(self.unusable(index, "it repeats an earlier request"));
                }
            }
        }
    }

    /// The changes after `index` in their order, at most `limit`.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn after(
        &self,
        index: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Proposal)>, RegistryError> {
        let rows = sqlx::query(
            "SELECT idx, version, proposal FROM log WHERE idx > ?1 ORDER BY idx LIMIT ?2",
        )
        .bind(signed(index))
        .bind(limit)
        .fetch_all(self.store.readers())
        .await
        .map_err(|error| self.read(error))?;
        rows.iter()
            .map(|row| {
                let index: i64 = row.try_get(0).map_err(|error| self.read(error))?;
                let version: i64 = row.try_get(1).map_err(|error| self.read(error))?;
                let bytes: Vec<u8> = row.try_get(2).map_err(|error| self.read(error))?;
                let index = u64::try_from(index).unwrap_or(0);
                if version != i64::from(PROPOSAL_VERSION) {
                    return Err(self.unusable(
                        index,
                        format!("it has layout {version}, this program reads {PROPOSAL_VERSION}"),
                    ));
                }
                let proposal =
                    codec::decode(&bytes).map_err(|error| self.unusable(index, error))?;
                Ok((index, proposal))
            })
            .collect()
    }

    /// Makes changes last, all or none, and with `checkpoint` a snapshot that stands for all up to
    /// the last of them.
    ///
    /// # Errors
    /// [`RegistryError`]; a position that is taken is [`StoreError::Conflict`].
    pub async fn append(
        &self,
        entries: &[(u64, Arc<Proposal>)],
        checkpoint: Option<(u64, u16, Vec<u8>)>,
    ) -> Result<(), RegistryError> {
        let mut write = self.store.begin().await?;
        for (index, proposal) in entries {
            let bytes = codec::encode(&**proposal).map_err(|error| self.unusable(*index, error))?;
            sqlx::query("INSERT INTO log (idx, version, proposal) VALUES (?1, ?2, ?3)")
                .bind(signed(*index))
                .bind(PROPOSAL_VERSION)
                .bind(bytes)
                .execute(&mut *write)
                .await
                .map_err(|error| write.error("write", error))?;
        }
        if let Some((index, version, bytes)) = checkpoint {
            put_snapshot(&mut write, index, version, bytes).await?;
            sqlx::query("DELETE FROM log WHERE idx <= ?1")
                .bind(signed(index.saturating_sub(ENTRIES_KEPT)))
                .execute(&mut *write)
                .await
                .map_err(|error| write.error("write", error))?;
        }
        Ok(write.commit().await?)
    }

    /// Replaces everything by a snapshot.
    ///
    /// # Errors
    /// [`RegistryError`]; what was there stays.
    pub async fn replace(
        &self,
        index: u64,
        version: u16,
        bytes: Vec<u8>,
    ) -> Result<(), RegistryError> {
        let mut write = self.store.begin().await?;
        sqlx::query("DELETE FROM log")
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        put_snapshot(&mut write, index, version, bytes).await?;
        Ok(write.commit().await?)
    }

    fn read(&self, error: sqlx::Error) -> RegistryError {
        self.store.error("read", error).into()
    }

    fn unusable(&self, index: u64, cause: impl std::fmt::Display) -> RegistryError {
        RegistryError::Entry { path: self.store.path().to_owned(), index, cause: cause.to_string() }
    }
}

async fn put_snapshot(
    write: &mut weft_store::WriteTransaction,
    index: u64,
    version: u16,
    bytes: Vec<u8>,
) -> Result<(), StoreError> {
    let cleared = sqlx::query("DELETE FROM snapshot").execute(&mut **write).await;
    cleared.map_err(|error| write.error("write", error))?;
    let put = sqlx::query("INSERT INTO snapshot (idx, version, state) VALUES (?1, ?2, ?3)")
        .bind(signed(index))
        .bind(version)
        .bind(bytes)
        .execute(&mut **write)
        .await;
    put.map(drop).map_err(|error| write.error("write", error))
}

/// SQLite has signed integers only; positions never get there.
fn signed(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}
