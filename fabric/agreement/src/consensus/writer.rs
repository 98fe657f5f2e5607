//! The one writer of `raft.db`: what all groups want written becomes one transaction, one fsync.
//!
//! Whatever waits while one transaction is being synced goes into the next. A group waits for each
//! of its writes before it sends the next one (openraft awaits every flush), so within a batch
//! there is at most one of each group and their order does not matter.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sqlx::Arguments as _;
use sqlx::sqlite::SqliteArguments;
use tokio::sync::{mpsc, oneshot};
use weft_store::{Durability, Migration, Store, StoreError, WriteTransaction};

/// Requests that may wait for the writer; groups have one each in flight.
const WAITING: usize = 1024;
/// No transaction holds more requests.
const BATCH: usize = 256;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    sql: "CREATE TABLE groups (
              grp INTEGER PRIMARY KEY,
              name TEXT NOT NULL UNIQUE
          ) STRICT;
          CREATE TABLE entries (
              grp INTEGER NOT NULL,
              idx INTEGER NOT NULL,
              entry BLOB NOT NULL,
              PRIMARY KEY (grp, idx)
          ) STRICT, WITHOUT ROWID;
          CREATE TABLE marks (
              grp INTEGER NOT NULL,
              mark TEXT NOT NULL,
              value BLOB NOT NULL,
              PRIMARY KEY (grp, mark)
          ) STRICT, WITHOUT ROWID;",
}];

/// A write that did not happen. Cheap to clone: it goes to whoever waits.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// No space: it works again once there is some.
    pub(crate) full: bool,
    /// What went wrong, with the file's name.
    pub(crate) text: String,
}

impl Fault {
    pub(crate) fn of(error: &StoreError) -> Self {
        Self { full: matches!(error, StoreError::Full { .. }), text: error.to_string() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

/// What a group remembers beside its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Vote,
    Committed,
    Purged,
}

impl Mark {
    const fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Purged => "purged",
        }
    }
}

/// One durable change of one group.
#[derive(Debug)]
pub(crate) enum Op {
    /// Adds entries.
    Append(Vec<(u64, Vec<u8>)>),
    /// Removes all entries from here on.
    Truncate(u64),
    /// Removes all entries up to here, and remembers that.
    Purge(u64, Vec<u8>),
    /// Remembers a vote.
    Vote(Vec<u8>),
    /// Nothing of its own: what rides along, and whether writing works.
    Probe,
}

struct Request {
    group: i64,
    op: Op,
    done: oneshot::Sender<Result<(), Fault>>,
}

/// The handle. Cheap to clone; the task ends with the last one.
#[derive(Clone)]
pub(crate) struct LogWriter {
    requests: mpsc::Sender<Request>,
    store: Store,
    riders: Riders,
    syncs: Arc<AtomicU64>,
}

/// Committed points that wait for the next transaction; they have no fsync of their own.
type Riders = Arc<Mutex<HashMap<i64, Vec<u8>>>>;

impl LogWriter {
    /// Opens `raft.db` in `directory` and starts the task.
    pub(crate) async fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Store::open(&directory.join("raft.db"), Durability::Full, MIGRATIONS).await?;
        let (requests, waiting) = mpsc::channel(WAITING);
        let riders = Riders::default();
        let syncs = Arc::new(AtomicU64::new(0));
        let task = Task { store: store.clone(), riders: riders.clone(), syncs: syncs.clone() };
        tokio::spawn(task.run(waiting));
        Ok(Self { requests, store, riders, syncs })
    }

    /// Transactions synced since it was opened.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// The database, for reads.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The number of the group of that name; made if there is none.
    pub(crate) async fn group(&self, name: &str) -> Result<i64, StoreError> {
        let mut transaction = self.store.begin().await?;
        sqlx::query("INSERT INTO groups (name) VALUES (?1) ON CONFLICT DO NOTHING")
            .bind(name)
            .execute(&mut *transaction)
            .await
            .map_err(|error| self.store.error("add a group to", error))?;
        let id = sqlx::query_scalar("SELECT grp FROM groups WHERE name = ?1")
            .bind(name)
            .fetch_one(&mut *transaction)
            .await
            .map_err(|error| self.store.error("read a group of", error))?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Makes `op` last.
    pub(crate) async fn write(&self, group: i64, op: Op) -> Result<(), Fault> {
        let (done, answer) = oneshot::channel();
        let stopped = || Fault { full: false, text: "the log's writer has stopped".into() };
        let request = Request { group, op, done };
        self.requests.send(request).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Remembers how far the group's log is committed, with the next transaction.
    pub(crate) fn ride(&self, group: i64, committed: Vec<u8>) {
        self.riders.lock().insert(group, committed);
    }

    /// Entries `from..to` with their indexes, as stored, at most `bytes` of them but at least one.
    pub(crate) async fn entries(
        &self,
        group: i64,
        from: u64,
        to: u64,
        bytes: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        use futures_util::TryStreamExt;
        let mut rows = sqlx::query_as::<_, (i64, Vec<u8>)>(
            "SELECT idx, entry FROM entries WHERE grp = ?1 AND idx >= ?2 AND idx < ?3 ORDER BY idx",
        )
        .bind(group)
        .bind(number(from))
        .bind(number(to))
        .fetch(self.store.readers());
        let (mut entries, mut total) = (Vec::new(), 0u64);
        while let Some((index, entry)) =
            rows.try_next().await.map_err(|error| self.store.error("read entries of", error))?
        {
            total += entry.len() as u64;
            if total > bytes && !entries.is_empty() {
                break;
            }
            entries.push((u64::try_from(index).unwrap_or_default(), entry));
        }
        Ok(entries)
    }

    /// The last entry with its index, as stored.
    pub(crate) async fn last(&self, group: i64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let last: Option<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT idx, entry FROM entries WHERE grp = ?1 ORDER BY idx DESC LIMIT 1",
        )
        .bind(group)
        .fetch_optional(self.store.readers())
        .await
        .map_err(|error| self.store.error("read the last entry of", error))?;
        Ok(last.map(|(index, entry)| (u64::try_from(index).unwrap_or_default(), entry)))
    }

    /// A mark, as stored.
    pub(crate) async fn mark(&self, group: i64, mark: Mark) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT value FROM marks WHERE grp = ?1 AND mark = ?2")
            .bind(group)
            .bind(mark.name())
            .fetch_optional(self.store.readers())
            .await
            .map_err(|error| self.store.error("read a mark of", error))
    }

    /// Writes what still rides, and closes the database. Later writes fail.
    pub(crate) async fn close(&self) {
        if !self.riders.lock().is_empty()
            && let Err(fault) = self.write(0, Op::Probe).await
        {
            tracing::warn!(%fault, "how far the log is committed could not be written");
        }
        self.store.close().await;
    }
}

/// SQLite's integers are signed; no log gets there.
fn number(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

struct Task {
    store: Store,
    riders: Riders,
    syncs: Arc<AtomicU64>,
}

impl Task {
    async fn run(self, mut waiting: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            let riders = std::mem::take(&mut *self.riders.lock());
            match self.transact(&batch, &riders).await {
                Ok(()) => {
                    for request in batch.drain(..) {
                        let _ = request.done.send(Ok(()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, requests = batch.len(), "the log could not be written");
                    self.keep(riders);
                    self.one_by_one(&mut batch, &error).await;
                }
            }
        }
    }

    /// Riders of a transaction that failed ride again, unless newer ones do.
    fn keep(&self, riders: HashMap<i64, Vec<u8>>) {
        let mut waiting = self.riders.lock();
        for (group, committed) in riders {
            waiting.entry(group).or_insert(committed);
        }
    }

    /// One group's large write must not fail another's vote: each gets a transaction of its own.
    async fn one_by_one(&self, batch: &mut Vec<Request>, error: &StoreError) {
        if batch.len() == 1 {
            for request in batch.drain(..) {
                let _ = request.done.send(Err(Fault::of(error)));
            }
            return;
        }
        let mut failed: HashMap<i64, Fault> = HashMap::new();
        for request in batch.drain(..) {
            // What follows a failed write of its group would leave a hole.
            let result = match failed.get(&request.group) {
                Some(fault) => Err(fault.clone()),
                None => self
                    .transact(std::slice::from_ref(&request), &HashMap::new())
                    .await
                    .map_err(|error| Fault::of(&error)),
            };
            if let Err(fault) = &result {
                failed.entry(request.group).or_insert_with(|| fault.clone());
            }
            let _ = request.done.send(result);
        }
    }

    async fn transact(
        &self,
        batch: &[Request],
        riders: &HashMap<i64, Vec<u8>>,
    ) -> Result<(), StoreError> {
        match at_once(batch, riders) {
            Some((statements, values)) => self.store.write(&statements, values).await?,
            None => {
                let mut transaction = self.store.begin().await?;
                for request in batch {
                    perform(&mut transaction, request.group, &request.op).await?;
                }
                for (group, committed) in riders {
                    mark(&mut transaction, *group, Mark::Committed, committed).await?;
                }
                transaction.commit().await?;
            }
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

const CUT: &str = "DELETE FROM entries WHERE grp = ? AND idx >= ?; ";
const INSERT: &str = "INSERT INTO entries (grp, idx, entry) VALUES (?, ?, ?); ";
const MARK: &str = "INSERT OR REPLACE INTO marks (grp, mark, value) VALUES (?, ?, ?); ";
/// More statements are run one by one: their text would not be met again.
const AT_ONCE: usize = 12;

/// What is written again and again, as one text with its values: few entries, votes, and how far
/// groups are committed. `None`: something else is among it.
fn at_once(batch: &[Request], riders: &HashMap<i64, Vec<u8>>) -> Option<(String, SqliteArguments)> {
    let (mut text, mut count) = (String::new(), 0);
    let mut values = SqliteArguments::default();
    let mut add = |statement: &str, group: i64, more: &[Value<'_>]| -> Option<()> {
        count += 1;
        (count <= AT_ONCE).then_some(())?;
        text.push_str(statement);
        values.add(group).ok()?;
        for value in more {
            match value {
                Value::Number(number) => values.add(*number),
                Value::Text(text) => values.add((*text).to_owned()),
                Value::Bytes(bytes) => values.add(bytes.to_vec()),
            }
            .ok()?;
        }
        Some(())
    };
    for Request { group, op, .. } in batch {
        match op {
            Op::Append(entries) => {
                let first = entries.first().map_or(u64::MAX, |(index, _)| *index);
                add(CUT, *group, &[Value::Number(number(first))])?;
                for (index, entry) in entries {
                    let values = [Value::Number(number(*index)), Value::Bytes(entry)];
                    add(INSERT, *group, &values)?;
                }
            }
            Op::Vote(vote) => {
                add(MARK, *group, &[Value::Text(Mark::Vote.name()), Value::Bytes(vote)])?;
            }
            Op::Truncate(_) | Op::Purge(..) | Op::Probe => return None,
        }
    }
    for (group, committed) in riders {
        let mark = Value::Text(Mark::Committed.name());
        add(MARK, *group, &[mark, Value::Bytes(committed)])?;
    }
    (count > 0).then_some((text, values))
}

enum Value<'a> {
    Number(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

async fn perform(on: &mut WriteTransaction, group: i64, op: &Op) -> Result<(), StoreError> {
    match op {
        Op::Append(entries) => {
            // What lies behind is left over from before an image was installed.
            let first = entries.first().map_or(u64::MAX, |(index, _)| *index);
            let done = sqlx::query(CUT).bind(group).bind(number(first)).execute(&mut **on).await;
            done.map_err(|error| on.error("append to", error))?;
            for (index, entry) in entries {
                let done = sqlx::query(INSERT)
                    .bind(group)
                    .bind(number(*index))
                    .bind(entry.as_slice())
                    .execute(&mut **on)
                    .await;
                done.map_err(|error| on.error("append to", error))?;
            }
            Ok(())
        }
        Op::Truncate(from) => {
            let done = sqlx::query(CUT).bind(group).bind(number(*from)).execute(&mut **on).await;
            done.map(drop).map_err(|error| on.error("truncate", error))
        }
        Op::Purge(upto, at) => {
            let done = sqlx::query("DELETE FROM entries WHERE grp = ?1 AND idx <= ?2")
                .bind(group)
                .bind(number(*upto))
                .execute(&mut **on)
                .await;
            done.map_err(|error| on.error("purge", error))?;
            mark(on, group, Mark::Purged, at).await
        }
        Op::Vote(vote) => mark(on, group, Mark::Vote, vote).await,
        // A mark of its own, so that a full disk shows.
        Op::Probe => {
            let done = sqlx::query(
                "INSERT OR REPLACE INTO marks (grp, mark, value) VALUES (0, 'probe', zeroblob(8192))",
            )
            .execute(&mut **on)
            .await;
            done.map_err(|error| on.error("write", error))?;
            let done = sqlx::query("DELETE FROM marks WHERE grp = 0").execute(&mut **on).await;
            done.map(drop).map_err(|error| on.error("write", error))
        }
    }
}

async fn mark(
    on: &mut WriteTransaction,
    group: i64,
    mark: Mark,
    value: &[u8],
) -> Result<(), StoreError> {
    let done = sqlx::query(MARK).bind(group).bind(mark.name()).bind(value).execute(&mut **on).await;
    done.map(drop).map_err(|error| on.error("write a mark of", error))
}
