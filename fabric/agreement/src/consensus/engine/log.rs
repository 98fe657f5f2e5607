//! openraft's log store over the one writer.
//!
//! The end of the log is also held in memory: replication and apply read what was just written
//! from there.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, Vote};
use parking_lot::Mutex;
use tokio::sync::watch;
use weft_store::StoreError;
use weft_wire::codec::CodecError;

use super::machine::Cover;
use super::types::{self, Entry, Id, RaftId, StorageError, StorageIoError, Types};
use crate::consensus::wire::{self, Ballot, Point};
use crate::consensus::writer::{Fault, LogWriter, Mark, Op};

/// Storing an image of the leader takes less; then the replica is opened again, with its log.
const COVERED_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of entries held in memory per group.
const CACHE_BYTES: usize = 8 << 20;
/// Entries held in memory per group.
const CACHE_ENTRIES: usize = 4096;
/// One append carries no more bytes, unless its first entry alone does.
pub(crate) const APPEND_BYTES: usize = 512 << 10;

/// The log of one group. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore(Arc<Inner>);

struct Inner {
    group: i64,
    writer: LogWriter,
    memory: Mutex<Memory>,
    fault: Mutex<Option<Fault>>,
    /// See [`LogStore::covered_by`].
    cover: Mutex<Option<watch::Receiver<Cover>>>,
}

#[derive(Default)]
struct Memory {
    vote: Option<Vote<RaftId>>,
    committed: Option<Id>,
    purged: Option<Id>,
    last: Option<Id>,
    /// The end of the log, without holes.
    tail: VecDeque<(Entry, usize)>,
    tail_bytes: usize,
}

impl Memory {
    fn push(&mut self, entry: Entry, bytes: usize) {
        if self.tail.back().is_some_and(|(last, _)| last.log_id.index + 1 != entry.log_id.index) {
            self.tail.clear();
            self.tail_bytes = 0;
        }
        self.last = Some(entry.log_id);
        self.tail_bytes += bytes;
        self.tail.push_back((entry, bytes));
        while self.tail.len() > CACHE_ENTRIES || self.tail_bytes > CACHE_BYTES {
            let Some((_, bytes)) = self.tail.pop_front() else { break };
            self.tail_bytes -= bytes;
        }
    }

    fn cut(&mut self, keep: impl Fn(u64) -> bool) {
        self.tail.retain(|(entry, _)| keep(entry.log_id.index));
        self.tail_bytes = self.tail.iter().map(|(_, bytes)| bytes).sum();
    }

    /// Entries `from..to`, if all that exist of them are here.
    fn read(&self, from: u64, to: u64, bytes: usize) -> Option<Vec<Entry>> {
        let first = self.tail.front()?.0.log_id.index;
        if from < first {
            return None;
        }
        let (mut entries, mut total) = (Vec::new(), 0);
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        for (entry, size) in self.tail.iter().skip(skip) {
            total += size;
            if entry.log_id.index >= to || (total > bytes && !entries.is_empty()) {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }
}

/// The entry of that index. With damaged commands it is for the machine to say what becomes of it.
fn decode(index: u64, bytes: &[u8]) -> Result<Entry, CodecError> {
    let damaged = |why: &dyn std::fmt::Display| {
        CodecError::Decode(format!("entry {index} of the log is damaged: {why}"))
    };
    let item = wire::load_item(bytes).map_err(|error| damaged(&error))?;
    if item.at.index != index {
        return Err(damaged(&format!("it says that it is entry {}", item.at.index)));
    }
    Ok(types::entry(item))
}

fn read_failed(error: StoreError) -> StorageError {
    StorageIoError::read_logs(AnyError::new(&error)).into()
}

impl LogStore {
    /// Reads where the group's log stands.
    pub(crate) async fn open(writer: LogWriter, name: &str) -> Result<Self, StoreError> {
        let group = writer.group(name).await?;
        let damaged =
            |cause: String| StoreError::Damaged { path: writer.store().path().to_owned(), cause };
        let load = |bytes: Option<Vec<u8>>| -> Result<Option<Id>, StoreError> {
            let Some(bytes) = bytes else { return Ok(None) };
            let point: Point = wire::load(&bytes).map_err(|error| damaged(error.to_string()))?;
            Ok(Some(types::id(&point)))
        };
        let purged = load(writer.mark(group, Mark::Purged).await?)?;
        let committed = load(writer.mark(group, Mark::Committed).await?)?;
        let vote = match writer.mark(group, Mark::Vote).await? {
            None => None,
            Some(bytes) => {
                let ballot: Ballot =
                    wire::load(&bytes).map_err(|error| damaged(error.to_string()))?;
                Some(types::vote(&ballot))
            }
        };
        let last = match writer.last(group).await? {
            None => purged,
            Some((index, bytes)) => {
                let entry = decode(index, &bytes).map_err(|error| damaged(error.to_string()))?;
                Some(entry.log_id).max(purged)
            }
        };
        let memory = Memory { vote, committed, purged, last, ..Memory::default() };
        let inner = Inner {
            group,
            writer,
            memory: Mutex::new(memory),
            fault: Mutex::default(),
            cover: Mutex::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// From now on nothing is purged that no checkpoint on disk covers: openraft purges for an
    /// image of the leader while that is still being stored, and a crash in between would leave
    /// neither.
    pub(crate) fn covered_by(&self, cover: watch::Receiver<Cover>) {
        *self.0.cover.lock() = Some(cover);
    }

    /// The last write that failed, if none has worked since.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.0.fault.lock().clone()
    }

    /// How far the log is known to be committed.
    pub(crate) fn committed(&self) -> u64 {
        self.0.memory.lock().committed.map_or(0, |id| id.index)
    }

    /// The end of the log.
    pub(crate) fn last(&self) -> Option<Point> {
        self.0.memory.lock().last.as_ref().map(types::point)
    }

    /// Whether writing works.
    pub(crate) async fn probe(&self) -> Result<(), Fault> {
        self.write(Op::Probe).await
    }

    async fn write(&self, op: Op) -> Result<(), Fault> {
        let result = self.0.writer.write(self.0.group, op).await;
        *self.0.fault.lock() = result.as_ref().err().cloned();
        result
    }

    async fn read(&self, from: u64, to: u64, bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let to = {
            let memory = self.0.memory.lock();
            let end = memory.last.map_or(0, |last| last.index + 1);
            let to = to.min(end);
            if from >= to {
                return Ok(Vec::new());
            }
            if let Some(entries) = memory.read(from, to, bytes) {
                return Ok(entries);
            }
            to
        };
        let rows = self.0.writer.entries(self.0.group, from, to, bytes as u64).await;
        let rows = rows.map_err(read_failed)?;
        let entries: Result<_, _> =
            rows.iter().map(|(index, bytes)| decode(*index, bytes)).collect();
        entries.map_err(|error| StorageIoError::read_logs(AnyError::new(&error)).into())
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, APPEND_BYTES).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = self.0.memory.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<RaftId>) -> Result<(), StorageError> {
        let failed = |error: AnyError| StorageError::from(StorageIoError::write_vote(error));
        let bytes = wire::store(&types::ballot(vote)).map_err(|e| failed(AnyError::new(&e)))?;
        self.write(Op::Vote(bytes)).await.map_err(|fault| failed(AnyError::new(&fault)))?;
        self.0.memory.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<RaftId>>, StorageError> {
        Ok(self.0.memory.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<Id>) -> Result<(), StorageError> {
        let Some(id) = committed else { return Ok(()) };
        self.0.memory.lock().committed = committed;
        let bytes = wire::store(&types::point(&id))
            .map_err(|error| StorageIoError::write(AnyError::new(&error)))?;
        self.0.writer.ride(self.0.group, bytes);
        Ok(())
    }

    /// What is committed is replayed at the start, so only what this log really holds counts: a
    /// crash may have come between an image's arrival and its installation.
    async fn read_committed(&mut self) -> Result<Option<Id>, StorageError> {
        let (committed, purged) = {
            let memory = self.0.memory.lock();
            (memory.committed, memory.purged)
        };
        let Some(id) = committed else { return Ok(None) };
        if purged.is_some_and(|purged| purged.index >= id.index) {
            return Ok(committed);
        }
        let held = self.read(id.index, id.index.saturating_add(1), usize::MAX).await?;
        Ok(held.first().is_some_and(|entry| entry.log_id == id).then_some(id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut rows = Vec::with_capacity(entries.len());
        for entry in &entries {
            let bytes = wire::store_item(&types::item(entry)).map_err(|error| {
                StorageIoError::write_log_entry(entry.log_id, AnyError::new(&error))
            })?;
            rows.push((entry.log_id.index, bytes));
        }
        let sizes: Vec<usize> = rows.iter().map(|(_, bytes)| bytes.len()).collect();
        // Waited for here: openraft 0.9 does nothing else before the flush anyway.
        match self.write(Op::Append(rows)).await {
            Ok(()) => {
                let mut memory = self.0.memory.lock();
                for (entry, bytes) in entries.into_iter().zip(sizes) {
                    memory.push(entry, bytes);
                }
                drop(memory);
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(fault) => Err(StorageIoError::write_logs(AnyError::new(&fault)).into()),
        }
    }

    async fn truncate(&mut self, log_id: Id) -> Result<(), StorageError> {
        self.write(Op::Truncate(log_id.index))
            .await
            .map_err(|fault| StorageIoError::write_logs(AnyError::new(&fault)))?;
        let before = match log_id.index.checked_sub(1) {
            None => None,
            Some(index) => self.read(index, index + 1, usize::MAX).await?.pop(),
        };
        let mut memory = self.0.memory.lock();
        memory.cut(|index| index < log_id.index);
        memory.last = before.map(|entry| entry.log_id).max(memory.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: Id) -> Result<(), StorageError> {
        let failed = |error: AnyError| StorageError::from(StorageIoError::write_logs(error));
        let cover = self.0.cover.lock().clone();
        if let Some(mut cover) = cover {
            let known = cover.wait_for(|cover| cover.upto >= log_id.index || cover.failed);
            let covered = tokio::time::timeout(COVERED_WITHIN, known).await;
            if !matches!(covered, Ok(Ok(cover)) if cover.upto >= log_id.index) {
                let text = "an image of the leader was not stored: the log below it is kept";
                return Err(failed(AnyError::error(text)));
            }
        }
        let at = wire::store(&types::point(&log_id)).map_err(|e| failed(AnyError::new(&e)))?;
        self.write(Op::Purge(log_id.index, at)).await.map_err(|f| failed(AnyError::new(&f)))?;
        let mut memory = self.0.memory.lock();
        memory.cut(|index| index > log_id.index);
        memory.purged = memory.purged.max(Some(log_id));
        memory.last = memory.last.max(Some(log_id));
        Ok(())
    }
}
