//! Ended sessions on disk: `sessions.db`, one row each. They leave memory and cost a start nothing
//! but their ids' hashes, and answer from here.
//!
//! Each has a place among all that have left its group's memory, the same on every node. A node that
//! was brought up to date by a leader's image lacks the places in between; it notes that as missing
//! before it writes anything later, and fetches them from its peers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::Row as _;
use tokio::sync::{Notify, watch};
use weft_session::{Session, SessionState, id_hash as hash};
use weft_store::{Durability, Migration, Store, StoreError};

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    sql: "CREATE TABLE archive (
              grp TEXT NOT NULL,
              id TEXT NOT NULL,
              place INTEGER NOT NULL,
              state INTEGER NOT NULL,
              mode TEXT NOT NULL,
              body BLOB NOT NULL,
              PRIMARY KEY (grp, id)
          ) STRICT;
          CREATE INDEX archive_place ON archive (grp, place);
          CREATE TABLE missing (
              grp TEXT NOT NULL,
              first INTEGER NOT NULL,
              last INTEGER NOT NULL,
              PRIMARY KEY (grp, first)
          ) STRICT;",
}];
/// The file, in the data directory.
const FILE: &str = "sessions.db";

/// Places that are not here, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// Why an ended session cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("session `{session}` in {path} is damaged: {why}; the others are not")]
    Damaged { session: String, path: String, why: String },
}

/// A session as a row.
pub(crate) struct Row {
    pub(crate) place: u64,
    id: String,
    state: SessionState,
    mode: String,
    body: Vec<u8>,
}

impl Row {
    /// # Errors
    /// What is wrong with a session that cannot be written.
    pub(crate) fn of(place: u64, session: &Session) -> Result<Self, String> {
        let body = session.to_bytes().map_err(|error| error.to_string())?;
        let (id, mode) = (session.id().to_owned(), session.mode().to_owned());
        Ok(Self { place, id, state: session.state(), mode, body })
    }

    /// # Errors
    /// What is wrong with bytes that are no session.
    pub(crate) fn read(place: u64, body: Vec<u8>) -> Result<Self, String> {
        let session = Session::from_bytes(&body).map_err(|error| error.to_string())?;
        let (id, mode) = (session.id().to_owned(), session.mode().to_owned());
        Ok(Self { place, id, state: session.state(), mode, body })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// Which sessions are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Empty: all.
    pub(crate) states: Vec<SessionState>,
    /// Empty: all.
    pub(crate) mode: String,
    /// Those with an id over this.
    pub(crate) after: Option<String>,
}

impl Filter {
    pub(crate) fn fits(&self, session: &Session) -> bool {
        (self.states.is_empty() || self.states.contains(&session.state()))
            && (self.mode.is_empty() || session.mode() == self.mode)
            && self.after.as_deref().is_none_or(|after| session.id() > after)
    }

    /// A bit for each state.
    fn mask(&self) -> i64 {
        match self.states.is_empty() {
            true => -1,
            false => self.states.iter().fold(0, |mask, state| mask | bit(*state)),
        }
    }
}

/// How a state is stored; a bit, so that several can be asked for at once.
fn bit(state: SessionState) -> i64 {
    1 << state.wire() as i64
}

/// The ended sessions of one group. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Option<Store>,
    group: String,
    /// So long after its start a session that has ended leaves memory.
    retention: Duration,
    index: Mutex<Index>,
    missing: watch::Sender<Missing>,
    /// What is missing is to be looked for now.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Index {
    /// Hashes of the ids that may be here.
    ids: HashSet<u64>,
    /// The last place that is here, or known to be missing.
    upto: u64,
}

/// What is missing, and whether it is to be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) spans: Vec<Span>,
    /// Nobody who can be reached has it.
    pub(crate) given_up: bool,
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Archive {
    /// Nothing is kept: ended sessions are forgotten `retention` after their start.
    pub fn none(retention: Duration) -> Self {
        Self::by(None, "", retention, Index::default(), Missing::default())
    }

    /// Opens the file of all groups in a data directory.
    ///
    /// # Errors
    /// [`StoreError`], naming the file.
    pub async fn file(data_dir: &std::path::Path) -> Result<Store, StoreError> {
        Store::open(&data_dir.join(FILE), Durability::Full, MIGRATIONS).await
    }

    /// The sessions of a group in that file, where each goes `retention` after its start, or
    /// earlier if there are many.
    ///
    /// # Errors
    /// [`StoreError`], naming the file.
    pub async fn open(store: Store, group: &str, retention: Duration) -> Result<Self, StoreError> {
        let failed = |error| store.error("read the ended sessions of", error);
        let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM archive WHERE grp = ?1")
            .bind(group)
            .fetch_all(store.readers())
            .await
            .map_err(failed)?;
        let upto: i64 =
            sqlx::query_scalar("SELECT coalesce(max(place), 0) FROM archive WHERE grp = ?1")
                .bind(group)
                .fetch_one(store.readers())
                .await
                .map_err(failed)?;
        let spans: Vec<(i64, i64)> =
            sqlx::query_as("SELECT first, last FROM missing WHERE grp = ?1 ORDER BY first")
                .bind(group)
                .fetch_all(store.readers())
                .await
                .map_err(failed)?;
        let spans = spans.into_iter();
        let spans: Vec<Span> =
            spans.map(|(first, last)| Span { first: number(first), last: number(last) }).collect();
        let upto = spans.iter().map(|span| span.last).fold(number(upto), u64::max);
        let index = Index { ids: ids.iter().map(|id| hash(id)).collect(), upto };
        let missing = Missing { spans, given_up: false };
        Ok(Self::by(Some(store), group, retention, index, missing))
    }

    fn by(
        store: Option<Store>,
        group: &str,
        retention: Duration,
        index: Index,
        missing: Missing,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            group: group.to_owned(),
            retention,
            index: Mutex::new(index),
            missing: watch::Sender::new(missing),
            wanted: Notify::new(),
        }))
    }

    /// Whether anything is kept.
    pub(crate) fn keeps(&self) -> bool {
        self.0.store.is_some()
    }

    pub(crate) fn retention(&self) -> Duration {
        self.0.retention
    }

    /// Whether a session of that id may be here; `false`: it is not.
    pub(crate) fn may_hold(&self, id: &str) -> bool {
        self.0.index.lock().ids.contains(&hash(id))
    }

    /// One that is about to be written.
    pub(crate) fn expect(&self, id: &str) {
        self.0.index.lock().ids.insert(hash(id));
    }

    /// How many sessions there are.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.0.index.lock().ids.len()).unwrap_or(u64::MAX)
    }

    /// What lies between the places that are accounted for, `upto` among them, and `last`: from now
    /// on it is missing, to be written with the next rows.
    pub(crate) fn lacks(&self, upto: u64, last: u64) -> Option<Span> {
        self.keeps().then_some(())?;
        let upto = self.0.index.lock().upto.max(upto);
        let mut lacks = None;
        self.0.missing.send_if_modified(|missing| {
            let first = missing.spans.iter().map(|span| span.last).fold(upto, u64::max) + 1;
            lacks = (first <= last).then_some(Span { first, last });
            missing.spans.extend(lacks);
            missing.given_up &= lacks.is_none();
            lacks.is_some()
        });
        if lacks.is_some() {
            self.0.wanted.notify_one();
        }
        lacks
    }

    /// Follows what is missing.
    pub(crate) fn missing(&self) -> watch::Receiver<Missing> {
        self.0.missing.subscribe()
    }

    /// Whether something is missing that may still come.
    pub(crate) fn waits(&self) -> bool {
        let missing = self.0.missing.borrow();
        !missing.spans.is_empty() && !missing.given_up
    }

    /// What is missing is looked for at once.
    pub(crate) fn look_again(&self) {
        self.0.wanted.notify_one();
    }

    /// Ends when what is missing is to be looked for at once.
    pub(crate) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// Nobody has what is missing: all were asked.
    pub(crate) fn give_up(&self) {
        self.0.missing.send_if_modified(|missing| {
            let news = !missing.given_up && !missing.spans.is_empty();
            missing.given_up = news || missing.given_up;
            news
        });
    }

    /// The session of that id.
    pub(crate) async fn load(&self, id: &str) -> Result<Option<Arc<Session>>, ArchiveError> {
        let Some(store) = &self.0.store else { return Ok(None) };
        let body: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT body FROM archive WHERE grp = ?1 AND id = ?2")
                .bind(&self.0.group)
                .bind(id)
                .fetch_optional(store.readers())
                .await
                .map_err(|error| store.error("read an ended session of", error))?;
        let Some(body) = body else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || Session::from_bytes(&body)).await;
        let read = read.map_err(|error| error.to_string());
        match read.and_then(|read| read.map_err(|error| error.to_string())) {
            Ok(session) if session.id() != id => {
                Err(self.damaged(id, format!("it is session `{}`", session.id())))
            }
            Ok(session) => Ok(Some(Arc::new(session))),
            Err(why) => Err(self.damaged(id, why)),
        }
    }

    pub(crate) fn damaged(&self, id: &str, why: String) -> ArchiveError {
        let path = self.0.store.as_ref().map(|store| store.path().display().to_string());
        ArchiveError::Damaged { session: id.to_owned(), path: path.unwrap_or_default(), why }
    }

    /// What `say` makes of at most `size` sessions that fit, by id in byte order. A damaged one is
    /// left out.
    pub(crate) async fn page<T>(
        &self,
        filter: &Filter,
        size: usize,
        mut say: impl FnMut(&Session) -> T,
    ) -> Result<Vec<(String, T)>, ArchiveError> {
        use futures_util::TryStreamExt as _;
        let Some(store) = &self.0.store else { return Ok(Vec::new()) };
        let failed = |error| store.error("read the ended sessions of", error);
        let mut rows = sqlx::query(
            "SELECT id, body FROM archive
             WHERE grp = ?1 AND id > ?2 AND (state & ?3) != 0 AND (?4 = '' OR mode = ?4)
             ORDER BY id",
        )
        .bind(&self.0.group)
        .bind(filter.after.as_deref().unwrap_or_default())
        .bind(filter.mask())
        .bind(&filter.mode)
        .fetch(store.readers());
        let mut page = Vec::new();
        // Not by a limit of the query: one that is left out must not end the page.
        while page.len() < size
            && let Some(row) = rows.try_next().await.map_err(failed)?
        {
            let id: String = row.try_get(0).map_err(failed)?;
            let body: Vec<u8> = row.try_get(1).map_err(failed)?;
            match Session::from_bytes(&body) {
                Ok(session) => page.push((id, say(&session))),
                Err(error) => {
                    tracing::error!(error = %self.damaged(&id, error.to_string()), "left out");
                }
            }
        }
        Ok(page)
    }

    /// The first session from that place on, with its place.
    pub(crate) async fn next(&self, span: Span) -> Result<Option<(u64, Vec<u8>)>, ArchiveError> {
        let Some(store) = &self.0.store else { return Ok(None) };
        let row: Option<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT place, body FROM archive
             WHERE grp = ?1 AND place BETWEEN ?2 AND ?3 ORDER BY place LIMIT 1",
        )
        .bind(&self.0.group)
        .bind(stored(span.first))
        .bind(stored(span.last))
        .fetch_optional(store.readers())
        .await
        .map_err(|error| store.error("read the ended sessions of", error))?;
        Ok(row.map(|(place, body)| (number(place), body)))
    }

    /// Whether nothing of that span is missing here.
    pub(crate) fn has(&self, span: Span) -> bool {
        let missing = self.0.missing.borrow();
        let apart = |lacks: &Span| lacks.last < span.first || span.last < lacks.first;
        span.last <= self.0.index.lock().upto && missing.spans.iter().all(apart)
    }

    /// Writes sessions, and before them what is missing, in one synced transaction; a session that
    /// is here with a later place stays. All with a place below what is missing must be here.
    pub(crate) async fn write(
        &self,
        lacks: Option<Span>,
        rows: &[Row],
    ) -> Result<(), ArchiveError> {
        let Some(store) = &self.0.store else { return Ok(()) };
        let failed = |error| store.error("write ended sessions to", error);
        let mut transaction = store.begin().await?;
        if let Some(span) = lacks {
            sqlx::query("INSERT OR REPLACE INTO missing (grp, first, last) VALUES (?1, ?2, ?3)")
                .bind(&self.0.group)
                .bind(stored(span.first))
                .bind(stored(span.last))
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        for row in rows {
            sqlx::query(
                "INSERT INTO archive (grp, id, place, state, mode, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (grp, id) DO UPDATE SET place = excluded.place,
                     state = excluded.state, mode = excluded.mode, body = excluded.body
                 WHERE excluded.place > archive.place",
            )
            .bind(&self.0.group)
            .bind(&row.id)
            .bind(stored(row.place))
            .bind(bit(row.state))
            .bind(&row.mode)
            .bind(row.body.as_slice())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        }
        transaction.commit().await?;
        let mut index = self.0.index.lock();
        index.ids.extend(rows.iter().map(|row| hash(&row.id)));
        let places = rows.iter().map(|row| row.place).chain(lacks.map(|span| span.last));
        index.upto = places.fold(index.upto, u64::max);
        Ok(())
    }

    /// All of a span has been written.
    pub(crate) async fn mended(&self, span: Span) -> Result<(), ArchiveError> {
        let Some(store) = &self.0.store else { return Ok(()) };
        let mut transaction = store.begin().await?;
        sqlx::query("DELETE FROM missing WHERE grp = ?1 AND first = ?2")
            .bind(&self.0.group)
            .bind(stored(span.first))
            .execute(&mut *transaction)
            .await
            .map_err(|error| store.error("write to", error))?;
        transaction.commit().await?;
        self.0.missing.send_modify(|missing| missing.spans.retain(|one| *one != span));
        Ok(())
    }
}
