//! openraft's state machine over ours, and its checkpoints in `state.db`.
//!
//! The machine lives in memory. A checkpoint (its image, the last entry in it, the members) is
//! synced before openraft hears of it, so the log is never purged above what is on disk; for an
//! image of the leader, which openraft installs and purges for at once, the log waits for it.

use std::io::Cursor;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use weft_store::{Durability, Migration, Store, StoreError};
use weft_wire::{Clock, codec};

use super::types::{self, Answers, Entry, Id, Meta, StorageError, StorageIoError, Stored, Types};
use crate::consensus::wire::{self, ImageMeta};
use crate::consensus::{Image, Machine, MachineError};

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    sql: "CREATE TABLE checkpoint (
              grp TEXT PRIMARY KEY,
              seq INTEGER NOT NULL,
              meta BLOB NOT NULL,
              version INTEGER NOT NULL,
              sum INTEGER NOT NULL,
              image BLOB NOT NULL
          ) STRICT;",
}];

/// After a checkpoint failed, the next is tried no sooner.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Opens `state.db` in `directory`. Only checkpoints are written to it, and each must be synced
/// before the log below it goes.
pub(crate) async fn open_checkpoints(directory: &Path) -> Result<Store, StoreError> {
    Store::open(&directory.join("state.db"), Durability::Full, MIGRATIONS).await
}

/// The machine of one group. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MachineStore(Arc<Inner>);

struct Inner {
    group: String,
    /// Nobody else has what is on this node's disk.
    alone: bool,
    store: Store,
    clock: Arc<dyn Clock>,
    state: Arc<AsyncMutex<State>>,
    troubles: Mutex<Troubles>,
    cover: watch::Sender<Cover>,
    /// Index of the last entry applied.
    applied: watch::Sender<u64>,
}

struct State {
    machine: Box<dyn Machine>,
    applied: Option<Id>,
    membership: Stored,
    seq: i64,
}

/// How far the log is covered by a checkpoint that is on disk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cover {
    /// Index of the last entry in it.
    pub(crate) upto: u64,
    /// An image of the leader could not be stored since.
    pub(crate) failed: bool,
}

#[derive(Default)]
struct Troubles {
    /// The machine panicked or could not be restored: what it holds is not to be trusted.
    broken: Option<String>,
    /// The last checkpoint failed, then.
    checkpoint: Option<(Instant, String)>,
}

fn machine_failed(error: &MachineError) -> StorageError {
    StorageIoError::read_state_machine(AnyError::new(error)).into()
}

/// Runs what may take long, or panic, off the async threads.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MachineError> + Send + 'static,
) -> Result<T, MachineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(MachineError(format!("the machine panicked: {error}"))),
    }
}

/// What whoever looks after a node is told whose copy of a group is damaged.
fn others_have(what: &str) -> String {
    format!(
        "{what} on this node's disk is damaged: a bit has changed. The other voters have it: remove this node (`weft node remove`) and have it join anew"
    )
}

/// An image as it travels: its version, two bytes, and its bytes.
fn pack(version: u16, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 2);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

pub(crate) fn unpack(packed: Vec<u8>) -> Result<Image, MachineError> {
    let mut bytes = packed;
    match bytes.first_chunk::<2>() {
        Some(version) => {
            let version = u16::from_le_bytes(*version);
            bytes.drain(..2);
            Ok(Image { version, bytes })
        }
        None => Err(MachineError("an image shorter than its version".into())),
    }
}

impl MachineStore {
    /// Brings `machine` to its last checkpoint.
    pub(crate) async fn open(
        store: Store,
        group: &str,
        machine: Box<dyn Machine>,
        clock: Arc<dyn Clock>,
        alone: bool,
    ) -> Result<Self, OpenError> {
        let mut state = State { machine, applied: None, membership: Stored::default(), seq: 0 };
        if let Some(Read { seq, meta, image, is_whole }) = read_checkpoint(&store, group).await? {
            state = aside(move || {
                let (voters, learners) = types::sets(meta.last_membership.membership());
                match is_whole {
                    true => state.machine.restore(&image)?,
                    // Nobody else has what it was.
                    false if alone => state.machine.restore_damaged(&image)?,
                    false => return Err(MachineError(others_have("its checkpoint"))),
                }
                state.machine.membership_changed(&voters, &learners);
                Ok(State {
                    applied: meta.last_log_id,
                    membership: meta.last_membership,
                    seq,
                    ..state
                })
            })
            .await?;
        }
        let upto = state.applied.map_or(0, |id| id.index);
        tracing::info!(group, upto, "opened at its checkpoint");
        Ok(Self(Arc::new(Inner {
            group: group.to_owned(),
            alone,
            store,
            clock,
            state: Arc::new(AsyncMutex::new(state)),
            troubles: Mutex::default(),
            cover: watch::Sender::new(Cover { upto, failed: false }),
            applied: watch::Sender::new(upto),
        })))
    }

    /// Follows how far the log is applied here; never behind what a proposer was answered.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.0.applied.subscribe()
    }

    fn applied_upto(&self, last: Option<Id>) {
        self.0.applied.send_replace(last.map_or(0, |id| id.index));
    }

    /// Follows how far the log is covered: what lies above is not to be cut.
    pub(crate) fn cover(&self) -> watch::Receiver<Cover> {
        self.0.cover.subscribe()
    }

    fn covered(&self, last: Option<Id>) {
        let upto = last.map_or(0, |id| id.index);
        self.0.cover.send_modify(|cover| {
            *cover = Cover { upto: cover.upto.max(upto), failed: false };
        });
    }

    /// Why the machine cannot go on, if it cannot.
    pub(crate) fn broken(&self) -> Option<String> {
        self.0.troubles.lock().broken.clone()
    }

    /// Why the last checkpoint failed, if it did.
    pub(crate) fn checkpoint_trouble(&self) -> Option<String> {
        self.0.troubles.lock().checkpoint.as_ref().map(|(_, text)| text.clone())
    }

    /// Lets the next checkpoint be tried at once.
    pub(crate) fn forget_checkpoint_trouble(&self) {
        self.0.troubles.lock().checkpoint = None;
    }

    fn broke(&self, text: String) -> StorageError {
        tracing::error!(group = %self.0.group, error = %text, "the state machine cannot go on");
        self.0.troubles.lock().broken = Some(text.clone());
        machine_failed(&MachineError(text))
    }

    async fn checkpoint(&self) -> Result<Option<Snapshot<Types>>, CheckpointError> {
        let mut state = self.0.state.clone().lock_owned().await;
        let Some(last) = state.applied else { return Ok(None) };
        let membership = state.membership.clone();
        let (seq, image) = aside(move || {
            let image = state.machine.snapshot()?;
            state.seq += 1;
            Ok((state.seq, image))
        })
        .await?;
        let meta = Meta {
            last_log_id: Some(last),
            last_membership: membership,
            snapshot_id: format!("{}-{}-{seq}", last.leader_id.term, last.index),
        };
        write_checkpoint(&self.0.store, &self.0.group, seq, &meta, &image).await?;
        self.covered(meta.last_log_id);
        let data = Cursor::new(pack(image.version, &image.bytes));
        Ok(Some(Snapshot { meta, snapshot: Box::new(data) }))
    }
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Codec(#[from] weft_wire::codec::CodecError),
}

async fn write_checkpoint(
    store: &Store,
    group: &str,
    seq: i64,
    meta: &Meta,
    image: &Image,
) -> Result<(), CheckpointError> {
    let meta = wire::store(&types::image_meta(meta))?;
    let mut transaction = store.begin().await?;
    let done = sqlx::query(
        "INSERT OR REPLACE INTO checkpoint (grp, seq, meta, version, sum, image)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(group)
    .bind(seq)
    .bind(meta)
    .bind(i64::from(image.version))
    .bind(i64::from(codec::checksum(&image.bytes)))
    .bind(image.bytes.as_slice())
    .execute(&mut *transaction)
    .await;
    done.map_err(|error| store.error("write a checkpoint to", error))?;
    Ok(transaction.commit().await?)
}

/// A checkpoint, as it is on disk.
struct Read {
    seq: i64,
    meta: Meta,
    image: Image,
    /// It is what was written.
    is_whole: bool,
}

async fn read_checkpoint(store: &Store, group: &str) -> Result<Option<Read>, StoreError> {
    type Row = (i64, Vec<u8>, i64, i64, Vec<u8>);
    let row: Option<Row> =
        sqlx::query_as("SELECT seq, meta, version, sum, image FROM checkpoint WHERE grp = ?1")
            .bind(group)
            .fetch_optional(store.readers())
            .await
            .map_err(|error| store.error("read a checkpoint of", error))?;
    let Some((seq, meta, version, sum, bytes)) = row else { return Ok(None) };
    let damaged = |cause: String| StoreError::Damaged { path: store.path().to_owned(), cause };
    let meta: ImageMeta = wire::load(&meta).map_err(|error| damaged(error.to_string()))?;
    let version = u16::try_from(version).map_err(|error| damaged(error.to_string()))?;
    let is_whole = sum == i64::from(codec::checksum(&bytes));
    Ok(Some(Read { seq, meta: types::meta(&meta), image: Image { version, bytes }, is_whole }))
}

impl RaftSnapshotBuilder<Types> for MachineStore {
    /// A checkpoint that fails must not take the group down: then the one before it is given
    /// again, which openraft takes for no news, and it is tried again later.
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let now = self.0.clock.now();
        let waits = self
            .0
            .troubles
            .lock()
            .checkpoint
            .as_ref()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) < AFTER_FAILURE);
        if !waits {
            match self.checkpoint().await {
                Ok(done) => {
                    self.forget_checkpoint_trouble();
                    if let Some(snapshot) = done {
                        return Ok(snapshot);
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    tracing::warn!(group = %self.0.group, error = %text, "no checkpoint; the log grows until there is one");
                    self.0.troubles.lock().checkpoint = Some((now, text));
                }
            }
        }
        let none =
            || Snapshot { meta: Meta::default(), snapshot: Box::new(Cursor::new(Vec::new())) };
        Ok(self.get_current_snapshot().await?.unwrap_or_else(none))
    }
}

impl RaftStateMachine<Types> for MachineStore {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<Id>, Stored), StorageError> {
        let state = self.0.state.lock().await;
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answers>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        if let Some(text) = self.broken() {
            return Err(machine_failed(&MachineError(text)));
        }
        let mut state = self.0.state.lock().await;
        let mut answers = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            let state = &mut *state;
            if state.applied >= Some(entry.log_id) {
                // A replica that was just replaced has applied it.
                answers.push(Answers::default());
                continue;
            }
            let answer = match entry.payload {
                EntryPayload::Blank => Answers::default(),
                EntryPayload::Normal(commands) => {
                    let alone = self.0.alone;
                    let machine = &mut state.machine;
                    let apply = AssertUnwindSafe(|| match commands.is_damaged {
                        false => Ok(machine.apply(index, &commands.list)),
                        true if alone => {
                            machine.apply_damaged(index, &commands.list).map(|()| Vec::new())
                        }
                        true => {
                            Err(MachineError(others_have(&format!("entry {index} of the log"))))
                        }
                    });
                    let mut answers = match std::panic::catch_unwind(apply) {
                        Ok(Ok(answers)) => answers,
                        Ok(Err(error)) => {
                            return Err(self.broke(format!("`{}`: {error}", self.0.group)));
                        }
                        Err(_) => {
                            return Err(self.broke(format!(
                                "the state machine of `{}` panicked at entry {index}",
                                self.0.group
                            )));
                        }
                    };
                    answers.resize(commands.list.len(), Vec::new());
                    Answers(answers)
                }
                EntryPayload::Membership(membership) => {
                    let (voters, learners) = types::sets(&membership);
                    state.membership = Stored::new(Some(entry.log_id), membership);
                    let machine = &mut state.machine;
                    let tell = AssertUnwindSafe(|| machine.membership_changed(&voters, &learners));
                    if std::panic::catch_unwind(tell).is_err() {
                        return Err(self.broke(format!(
                            "the state machine of `{}` panicked at the members of entry {index}",
                            self.0.group
                        )));
                    }
                    Answers::default()
                }
            };
            state.applied = Some(entry.log_id);
            answers.push(answer);
        }
        self.applied_upto(state.applied);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        self.0.cover.send_modify(|cover| cover.failed = false);
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let installed = self.install(meta, snapshot).await;
        if installed.is_err() {
            self.0.cover.send_modify(|cover| cover.failed = true);
        }
        installed
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let found = read_checkpoint(&self.0.store, &self.0.group)
            .await
            .map_err(|error| StorageIoError::read_snapshot(None, AnyError::new(&error)))?;
        // One that is damaged is nobody's any more.
        let found = found.filter(|read| read.is_whole);
        Ok(found.map(|Read { meta, image, .. }| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(pack(image.version, &image.bytes))),
        }))
    }
}

impl MachineStore {
    /// Stored first, in one transaction; then the machine is replaced.
    async fn install(
        &self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let signature = Some(meta.signature());
        let failed = |error: AnyError| {
            StorageError::from(StorageIoError::write_snapshot(signature.clone(), error))
        };
        let image = unpack(snapshot.into_inner()).map_err(|error| failed(AnyError::new(&error)))?;
        let mut state = self.0.state.clone().lock_owned().await;
        state.seq += 1;
        write_checkpoint(&self.0.store, &self.0.group, state.seq, meta, &image)
            .await
            .map_err(|error| failed(AnyError::new(&error)))?;
        self.covered(meta.last_log_id);
        let taken = meta.clone();
        let restored = aside(move || {
            state.machine.restore(&image)?;
            let (voters, learners) = types::sets(taken.last_membership.membership());
            state.machine.membership_changed(&voters, &learners);
            state.applied = taken.last_log_id;
            state.membership = taken.last_membership;
            Ok(())
        });
        restored.await.map_err(|error| {
            self.broke(format!("`{}` cannot take the leader's image: {error}", self.0.group))
        })?;
        self.applied_upto(meta.last_log_id);
        let upto = meta.last_log_id.map_or(0, |id| id.index);
        tracing::info!(group = %self.0.group, upto, "the leader's image is installed");
        Ok(())
    }
}
