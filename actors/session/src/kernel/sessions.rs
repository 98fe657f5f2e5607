//! All sessions of a group: entries of its log in, effects out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Entry, Lifecycle, Millis, Record, Session, SessionState, slot};

/// The sessions that one group holds in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sessions {
    by_id: BTreeMap<String, Session>,
    /// When each open session is due for the sweep.
    due: BTreeSet<(Millis, String)>,
    /// Open sessions by who started them.
    open: BTreeMap<String, BTreeSet<String>>,
    /// Sessions that have ended, by their start.
    ended: BTreeSet<(Millis, String)>,
    /// How many have left for the archive so far.
    archived: u64,
    /// Slots in which no session begins here any more.
    sealed: BTreeSet<u8>,
    /// Sessions of which something was lost on disk, with what is left.
    damaged: BTreeMap<String, Vec<Vec<u8>>>,
}

/// What applying an entry came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// Whether anything was done.
    pub progress: Progress,
    /// What others must hear of, in this order.
    pub effects: Vec<Effect>,
}

/// Whether an entry was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It was. Length of the session's log now; 0 if the entry is not about one.
    Applied {
        /// Records.
        position: u64,
    },
    /// The session has changed since the leader checked: nothing was done, the request must be
    /// checked again. Length of the session's log; 0 if it is not there.
    Stale {
        /// Records.
        position: u64,
    },
}

/// Something that others must hear of.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// An envelope for the session's subscribers; [`Session::envelope`] makes it.
    Published {
        /// The session.
        session: String,
        /// Its place.
        ordinal: u64,
        /// The record with it.
        record: Arc<Record>,
    },
    /// For whoever watches sessions.
    Lifecycle {
        /// The session.
        session: String,
        /// What happened.
        event: Lifecycle,
    },
    /// The session left memory and must be kept on disk.
    Archived {
        /// Its place among all that left the group's memory, from 1. One that came back and left
        /// again has a new place, and its old one no more.
        place: u64,
        /// All of it.
        session: Box<Session>,
    },
}

impl Sessions {
    /// The session of that id, if it is in memory.
    pub fn get(&self, id: &str) -> Option<&Session> {
        self.by_id.get(id)
    }

    /// Sessions in memory.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All sessions, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_id.values()
    }

    /// At most `size` sessions with an id over `after`, by id in byte order (§11, ListSessions).
    pub fn page(&self, after: Option<&str>, size: usize) -> Vec<&Session> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.by_id.range::<str, _>((from, Unbounded)).take(size).map(|(_, s)| s).collect()
    }

    /// Ids of open sessions for which the sweep has something to do by `now`.
    pub fn due(&self, now: Millis) -> impl Iterator<Item = &str> {
        self.due.iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| id.as_str())
    }

    /// When the sweep has something to do next, in milliseconds since the Unix epoch.
    pub fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Ids of ended sessions that are to leave memory: those that began before `started_before`,
    /// and of the others the oldest ones over `kept`; oldest first.
    pub fn ended(&self, started_before: Millis, kept: usize) -> impl Iterator<Item = &str> {
        let over = self.ended.len().saturating_sub(kept);
        let leave = self.ended.iter().enumerate();
        let leave = leave.take_while(move |(n, (at, _))| *n < over || *at < started_before);
        leave.map(|(_, (_, id))| id.as_str())
    }

    /// How many sessions have left for the archive so far: the place of the last one there.
    pub fn archived(&self) -> u64 {
        self.archived
    }

    pub(crate) fn has_archived(&mut self, archived: u64) {
        self.archived = archived;
    }

    /// Whether no session begins here any more in that slot: another group has it.
    pub fn is_sealed(&self, slot: u8) -> bool {
        self.sealed.contains(&slot)
    }

    /// Slots in which no session begins here any more, sorted.
    pub fn sealed(&self) -> impl Iterator<Item = u8> {
        self.sealed.iter().copied()
    }

    pub(crate) fn seal(&mut self, slots: impl IntoIterator<Item = u8>) {
        self.sealed.extend(slots);
    }

    /// Open sessions that this sender started.
    pub(crate) fn open_of(&self, initiator: &str) -> impl Iterator<Item = &Session> {
        let ids = self.open.get(initiator).into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id))
    }

    /// How many open sessions this sender started whose time is not over (§5).
    pub fn open_count(&self, initiator: &str, now: Millis) -> u32 {
        let open = self.open_of(initiator).filter(|s| now <= s.head.core.deadline_ms).count();
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// Whether something of that session was lost on disk: nothing is done with it any more.
    pub fn is_damaged(&self, id: &str) -> bool {
        self.damaged.contains_key(id)
    }

    /// Sessions of which something was lost on disk, with what is left, for whoever can make
    /// something of it.
    pub fn damaged(&self) -> &BTreeMap<String, Vec<Vec<u8>>> {
        &self.damaged
    }

    /// Puts a session aside of which something was lost, with what is left of that.
    pub fn put_aside(&mut self, id: &str, piece: Vec<u8>) {
        let before = self.remove(id).and_then(|session| session.to_bytes().ok());
        self.damaged.entry(id.to_owned()).or_default().extend(before.into_iter().chain([piece]));
    }

    /// Applies one entry.
    pub fn apply(&mut self, entry: Entry) -> Effects {
        match entry {
            Entry::Records { session, base, records } => self.records(session, base, records),
            Entry::Archive { sessions } => {
                let mut effects = Vec::new();
                for id in sessions {
                    if self.get(&id).is_some_and(|session| session.state().is_final())
                        && let Some(session) = self.remove(&id)
                    {
                        self.archived += 1;
                        let (place, session) = (self.archived, Box::new(session));
                        effects.push(Effect::Archived { place, session });
                    } else if self.is_damaged(&id) {
                        // It had that place; where it was written by then it is whole.
                        self.archived += 1;
                    }
                }
                Effects { progress: Progress::Applied { position: 0 }, effects }
            }
            Entry::Recall { session } => {
                let position = session.position();
                self.damaged.remove(session.id());
                if self.get(session.id()).is_none() {
                    self.insert(*session);
                }
                Effects { progress: Progress::Applied { position }, effects: Vec::new() }
            }
            Entry::Seal { slots } => {
                self.seal(slots);
                Effects { progress: Progress::Applied { position: 0 }, effects: Vec::new() }
            }
        }
    }

    fn records(&mut self, id: String, base: u64, records: Vec<Record>) -> Effects {
        let position = self.get(&id).map_or(0, Session::position);
        let stale = Effects { progress: Progress::Stale { position }, effects: Vec::new() };
        // One that was checked before its slot was sealed is checked again, by the slot's new group.
        let is_elsewhere = position == 0 && self.is_sealed(slot(&id));
        if base != position || is_elsewhere || self.is_damaged(&id) {
            return stale;
        }
        let mut records = records.into_iter().map(Arc::new).peekable();
        let mut effects = Vec::new();
        if base == 0 {
            let Some(first) = records.next() else { return stale };
            let Some(session) = Session::begin(&id, Arc::clone(&first)) else { return stale };
            effects.push(Effect::Published { session: id.clone(), ordinal: 1, record: first });
            effects.push(Effect::Lifecycle { session: id.clone(), event: Lifecycle::Created });
            self.insert(session);
        }
        let Some(session) = self.by_id.get_mut(&id) else { return stale };
        let before = Place::of(session);
        while let Some(record) = records.next() {
            let ordinal = session.last_ordinal();
            let event = session.apply(Arc::clone(&record));
            // A suspension that was too long ends the session; it did not go on in between (§9).
            let cut = event == Some(Lifecycle::Resumed)
                && matches!(records.peek().map(|next| &**next), Some(Record::Expire { .. }));
            if let Some(event) = event.filter(|_| !cut) {
                effects.push(Effect::Lifecycle { session: id.clone(), event });
            }
            if session.last_ordinal() > ordinal {
                let ordinal = session.last_ordinal();
                effects.push(Effect::Published { session: id.clone(), ordinal, record });
            }
        }
        let position = session.position();
        let after = Place::of(session);
        if before != after {
            let initiator = session.initiator().to_owned();
            self.leave(&id, &initiator, before);
            self.enter(&id, &initiator, after);
        }
        Effects { progress: Progress::Applied { position }, effects }
    }

    pub(crate) fn insert(&mut self, session: Session) {
        let (id, initiator) = (session.id().to_owned(), session.initiator().to_owned());
        self.enter(&id, &initiator, Place::of(&session));
        self.by_id.insert(id, session);
    }

    fn remove(&mut self, id: &str) -> Option<Session> {
        let session = self.by_id.remove(id)?;
        self.leave(id, session.initiator(), Place::of(&session));
        Some(session)
    }

    fn enter(&mut self, id: &str, initiator: &str, place: Place) {
        if let Some(at) = place.due {
            self.due.insert((at, id.to_owned()));
        }
        if place.is_open {
            self.open.entry(initiator.to_owned()).or_default().insert(id.to_owned());
        }
        if let Some(at) = place.ended {
            self.ended.insert((at, id.to_owned()));
        }
    }

    fn leave(&mut self, id: &str, initiator: &str, place: Place) {
        if let Some(at) = place.due {
            self.due.remove(&(at, id.to_owned()));
        }
        if place.is_open
            && let Some(open) = self.open.get_mut(initiator)
        {
            open.remove(id);
            if open.is_empty() {
                self.open.remove(initiator);
            }
        }
        if let Some(at) = place.ended {
            self.ended.remove(&(at, id.to_owned()));
        }
    }
}

/// In which of the group's indexes a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    due: Option<Millis>,
    is_open: bool,
    /// Its start, if it has ended.
    ended: Option<Millis>,
}

impl Place {
    fn of(session: &Session) -> Self {
        Self {
            due: session.head.due_at(),
            is_open: session.state() == SessionState::Open,
            ended: session.state().is_final().then(|| session.started_ms()),
        }
    }
}
