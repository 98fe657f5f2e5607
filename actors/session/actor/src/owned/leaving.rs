//! Sessions that have ended leave memory for the archive, and are found wherever they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_session::{Entry, Session, encode_entry};

use super::{Owned, Unanswered, WITHIN};
use crate::archive::{ArchiveError, Filter, Row, Span};

/// So many sessions that have ended stay in memory, for those who are about to look at them.
const KEPT: usize = 256;
/// Sessions that leave memory by one entry.
const LEAVE: usize = 256;
/// Sessions that wait to be written; the leader lets no more of them go meanwhile.
const LEAVING: usize = 4096;
/// Sessions written in one transaction.
const BATCH: usize = 256;
/// They have about so many bytes at most.
const BYTES: usize = 4 << 20;
/// After the archive could not be written, it is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Sessions that have left memory and are not on disk yet.
#[derive(Default)]
pub(super) struct Leaving {
    pub(super) by_place: BTreeMap<u64, Arc<Session>>,
    /// The last place of each.
    places: HashMap<String, u64>,
    /// What was found missing, and is not noted on disk yet.
    pub(super) lacks: Vec<Span>,
}

/// What is noted as missing, and sessions with their places.
type Batch = (Option<Span>, Vec<(u64, Arc<Session>)>);

impl Leaving {
    pub(super) fn get(&self, id: &str) -> Option<&Arc<Session>> {
        self.by_place.get(self.places.get(id)?)
    }

    pub(super) fn add(&mut self, place: u64, session: Session) {
        self.places.insert(session.id().to_owned(), place);
        self.by_place.insert(place, Arc::new(session));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_place.is_empty() && self.lacks.is_empty()
    }

    /// What is written next, at most [`BATCH`]: first all below what is missing, or after a crash
    /// nothing would tell that it is not there.
    pub(super) fn batch(&self) -> Option<Batch> {
        let some = |range: std::ops::RangeInclusive<u64>| -> Vec<_> {
            // Between spans that touch there is nothing.
            if range.is_empty() {
                return Vec::new();
            }
            let range = self.by_place.range(range).take(BATCH);
            range.map(|(place, session)| (*place, session.clone())).collect()
        };
        let Some(span) = self.lacks.first() else {
            return (!self.by_place.is_empty()).then(|| (None, some(0..=u64::MAX)));
        };
        let below = some(0..=span.first.saturating_sub(1));
        if !below.is_empty() {
            return Some((None, below));
        }
        let next = self.lacks.get(1).map_or(u64::MAX, |next| next.first.saturating_sub(1));
        Some((Some(*span), some(span.last.saturating_add(1)..=next)))
    }

    pub(super) fn written(&mut self, lacks: Option<Span>, last: Option<u64>) {
        self.lacks.retain(|span| Some(*span) != lacks);
        let Some(last) = last else { return };
        let rest = self.by_place.split_off(&last.saturating_add(1));
        for (place, session) in std::mem::replace(&mut self.by_place, rest) {
            if self.places.get(session.id()) == Some(&place) {
                self.places.remove(session.id());
            }
        }
    }
}

/// Where a session is.
pub(crate) enum At<T> {
    /// In memory: what was made of it.
    Here(T),
    /// On disk, or about to be: it changes no more, unless it comes back for a receipt.
    Left(Arc<Session>),
    /// Nowhere.
    Nowhere,
}

/// Held while sessions are being let go, also if that is cut short.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Owned {
    /// Finds a session: what `say` makes of it in memory, or all of it from disk.
    pub(crate) async fn at<T>(
        &self,
        id: &str,
        say: impl Fn(&Session) -> T,
    ) -> Result<At<T>, Unanswered> {
        if let Some(at) = self.near(id, &say) {
            return Ok(at);
        }
        if self.lock().is_lost(id, &self.0.archive) {
            return Err(super::damaged(id));
        }
        if let Some(session) = self.0.archive.load(id).await? {
            return Ok(At::Left(session));
        }
        // It came back meanwhile, or another id has the same hash.
        Ok(self.near(id, &say).unwrap_or(At::Nowhere))
    }

    /// What `say` makes of a session, wherever it is.
    pub(crate) async fn look<T>(
        &self,
        id: &str,
        say: impl Fn(&Session) -> T,
    ) -> Result<Option<T>, Unanswered> {
        Ok(match self.at(id, &say).await? {
            At::Here(said) => Some(said),
            At::Left(session) => Some(say(&session)),
            At::Nowhere => None,
        })
    }

    /// Finds a session without looking on disk; `None`: it may be there.
    pub(crate) fn near<T>(&self, id: &str, say: impl Fn(&Session) -> T) -> Option<At<T>> {
        let state = self.lock();
        if let Some(session) = state.sessions.get(id) {
            return Some(At::Here(say(session)));
        }
        if let Some(session) = state.leaving.get(id) {
            return Some(At::Left(session.clone()));
        }
        let is_nowhere = !self.0.archive.may_hold(id) && !state.is_lost(id, &self.0.archive);
        is_nowhere.then_some(At::Nowhere)
    }

    /// What `say` makes of at most `size` sessions that fit, by id in byte order.
    pub(crate) async fn page<T>(
        &self,
        filter: &Filter,
        size: usize,
        say: impl Fn(&Session) -> T,
    ) -> Result<Vec<(String, T)>, Unanswered> {
        // Memory first: what leaves it meanwhile is found twice, never not at all.
        let mut page: BTreeMap<String, T> = {
            let state = self.lock();
            let here = state.sessions.page(filter.after.as_deref(), usize::MAX).into_iter();
            let here = here.filter(|session| filter.fits(session)).take(size);
            let left = state.leaving.places.keys().filter_map(|id| state.leaving.get(id));
            let left = left.map(|session| &**session).filter(|session| filter.fits(session));
            left.chain(here).map(|session| (session.id().to_owned(), say(session))).collect()
        };
        for (id, said) in self.0.archive.page(filter, size, &say).await? {
            page.entry(id).or_insert(said);
        }
        Ok(page.into_iter().take(size).collect())
    }

    /// Writes what has left memory, until the actor ends.
    pub(crate) async fn keep_archive(self) {
        loop {
            let more = self.0.to_write.notified();
            match self.write().await {
                Ok(()) => more.await,
                Err(error) => {
                    tracing::error!(group = %self.0.name, %error, "ended sessions stay in memory");
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
    }

    /// Writes all that has left memory.
    pub(crate) async fn write(&self) -> Result<(), ArchiveError> {
        let _writing = self.0.writing.lock().await;
        loop {
            let Some((lacks, batch)) = self.lock().leaving.batch() else { return Ok(()) };
            let (mut rows, mut bytes) = (Vec::new(), 0);
            for (place, session) in batch {
                let row = Row::of(place, &session);
                let row = row.map_err(|why| self.0.archive.damaged(session.id(), why))?;
                bytes += row.bytes();
                rows.push(row);
                if bytes >= BYTES {
                    break;
                }
            }
            let last = rows.last().map(|row| row.place);
            self.0.archive.write(lacks, &rows).await?;
            self.lock().leaving.written(lacks, last);
        }
    }

    /// Lets sessions that have ended go, if this node leads.
    pub(crate) async fn let_go(self) {
        if self.0.letting_go.swap(true, Ordering::AcqRel) {
            return;
        }
        let _turn = Turn(&self.0.letting_go);
        while let Some(entry) = self.leaves() {
            let full = matches!(&entry, Entry::Archive { sessions } if sessions.len() == LEAVE);
            let Ok(group) = self.leading() else { break };
            let done = match group {
                None => {
                    let mut state = self.lock();
                    self.apply_one(&mut state, entry);
                    Ok(())
                }
                Some(group) => match encode_entry(&entry) {
                    Ok(bytes) => match group.submit(bytes, WITHIN) {
                        Ok(agreeing) => agreeing.await.map(drop),
                        Err(error) => Err(error),
                    },
                    Err(_) => break,
                },
            };
            if let Err(error) = done {
                tracing::debug!(group = %self.0.name, %error, "ended sessions stay for now");
                break;
            }
            if !full {
                break;
            }
        }
    }

    /// The sessions that are to leave memory next.
    fn leaves(&self) -> Option<Entry> {
        let (archive, now) = (&self.0.archive, self.now());
        let kept = match self.leading() {
            Ok(Some(_)) if archive.keeps() => KEPT,
            // What is forgotten is gone: only when its time has come.
            Ok(None) => usize::MAX,
            _ => return None,
        };
        let retention = i64::try_from(archive.retention().as_millis()).unwrap_or(i64::MAX);
        let state = self.lock();
        if state.leaving.by_place.len() >= LEAVING {
            return None;
        }
        let ended = state.sessions.ended(now.saturating_sub(retention), kept);
        // One that is forgotten could not be read to its end.
        let ended = ended.filter(|id| archive.keeps() || !state.followed.contains_key(*id));
        let sessions: Vec<String> = ended.take(LEAVE).map(str::to_owned).collect();
        (!sessions.is_empty()).then_some(Entry::Archive { sessions })
    }
}
