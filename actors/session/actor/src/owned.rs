//! One group of sessions: what is applied, what is on its way, and who waits for either.
//!
//! A request is checked and its entry queued in one step under one lock, so entries of a session
//! are agreed on in the order in which they were admitted. Applying happens under the same lock.

mod leaving;
mod sealing;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Mutex as AsyncMutex, Notify, broadcast, oneshot, watch};
use weft_agreement::{Group, Image, Machine, MachineError, ProposeError, Proposed, Role};
use weft_protocol::{SessionEvent, SessionFigures};
use weft_session::{
    Accepted, Admission, Answer, Effect, Entry, Envelope, FORMAT, Imported, Known, Lifecycle,
    Millis, Progress, Session, SessionState, Sessions, Speculation, StartRights, decode_entry,
    encode_entry, entry_about, slot,
};
use weft_wire::Clock;

pub(crate) use self::leaving::At;
use self::leaving::Leaving;
use crate::archive::{Archive, ArchiveError, Span};
use crate::lead::{Agreement, Led};
use crate::{Modes, convert};

/// An entry is agreed on within this, or its sender is told that nothing is known.
const WITHIN: Duration = Duration::from_secs(10);
/// A request that was overtaken is checked again so often.
const ATTEMPTS: u32 = 16;
/// A request waits so long for this node to lead.
const LEAD: Duration = Duration::from_secs(5);
/// Lifecycle events that a watcher may be behind (§11).
const EVENTS: usize = 1024;
/// Sessions that came back from disk last are known by their ids, so many.
const RECALLED: usize = 256;
/// A new leader waits so long for what its archive lacks.
const WHOLE: Duration = Duration::from_secs(15);

/// A group of sessions on this node. Cheap to clone.
#[derive(Clone)]
pub struct Owned(Arc<Inner>);

struct Inner {
    name: String,
    state: Mutex<State>,
    modes: Modes,
    clock: Arc<dyn Clock>,
    happened: broadcast::Sender<SessionEvent>,
    agreement: Agreement,
    archive: Archive,
    /// There is something to write.
    to_write: Notify,
    /// Held by whoever writes.
    writing: AsyncMutex<()>,
    /// Sessions are being let go.
    letting_go: AtomicBool,
    /// The term in which this node leads and has applied what its predecessors left.
    leads: watch::Sender<Option<u64>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) sessions: Sessions,
    speculation: Speculation,
    leaving: Leaving,
    /// Slots that this leader is giving away.
    sealing: BTreeSet<u8>,
    /// How often a session has come back from disk, and which did last; at most [`RECALLED`].
    recalls: usize,
    recalled: VecDeque<String>,
    /// What happened while this node led, by mode.
    counted: BTreeMap<(String, Lifecycle), u64>,
    /// Who waits until a session's log, as applied, is so long.
    waiting: HashMap<String, Vec<(u64, oneshot::Sender<()>)>>,
    /// Ordinal of the last envelope of sessions that are followed.
    followed: HashMap<String, watch::Sender<u64>>,
}

/// What is known of a session that is not in memory.
#[derive(Debug, Clone)]
enum Looked {
    /// Nobody has looked on disk.
    Not,
    /// What is on disk, when so many sessions had come back from there.
    Found(Option<Arc<Session>>, usize),
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owned").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// Why a request has no answer. Nothing is known of what becomes of it only after `Unsure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// This node does not lead the group.
    NotLeading(String),
    /// It will not be done.
    Refused(String),
    /// It may still be done.
    Unsure(String),
    /// The archive cannot be read.
    Unreadable(String),
}

impl From<ArchiveError> for Unanswered {
    fn from(error: ArchiveError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<ProposeError> for Unanswered {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => Self::NotLeading(error.to_string()),
            ProposeError::Refused(_) | ProposeError::Overloaded(_) => {
                Self::Refused(error.to_string())
            }
            other => Self::Unsure(other.to_string()),
        }
    }
}

/// What is wanted of a session.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Send {
        envelope: Arc<Envelope>,
        rights: StartRights,
    },
    Cancel {
        id: String,
        sender: String,
        reason: String,
    },
    /// Ended by an operator.
    End {
        id: String,
        by: String,
        reason: String,
    },
    Suspend {
        id: String,
        sender: String,
        reason: String,
    },
    Resume {
        id: String,
        sender: String,
        reason: String,
    },
    /// Its time may be over.
    Touch {
        id: String,
    },
    /// What is due is done.
    Sweep {
        id: String,
    },
    /// Taken over with its whole log.
    Import {
        id: String,
        imported: Arc<Imported>,
    },
    /// Keeps a receipt.
    Receipt {
        id: String,
        json: String,
    },
}

impl Request {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Send { envelope, .. } => &envelope.session_id,
            Self::Cancel { id, .. }
            | Self::End { id, .. }
            | Self::Suspend { id, .. }
            | Self::Resume { id, .. }
            | Self::Touch { id }
            | Self::Sweep { id }
            | Self::Import { id, .. }
            | Self::Receipt { id, .. } => id,
        }
    }

    fn admit(&self, speculation: &mut Speculation, known: Known<'_>, now: Millis) -> Admission {
        let silent = |entry| {
            let nothing = Accepted { duplicate: false, state: SessionState::Open };
            Admission { entry, answer: Ok(nothing), after: 0 }
        };
        match self {
            Self::Send { envelope, rights } => speculation.send(known, envelope, *rights, now),
            Self::Cancel { id, sender, reason } => {
                speculation.cancel(known, id, sender, reason, now)
            }
            Self::End { id, by, reason } => speculation.end(known, id, by, reason, now),
            Self::Suspend { id, sender, reason } => {
                speculation.suspend(known, id, sender, reason, now)
            }
            Self::Resume { id, sender, reason } => {
                speculation.resume(known, id, sender, reason, now)
            }
            Self::Touch { id } => silent(speculation.touch(known, id, now)),
            Self::Sweep { id } => silent(speculation.sweep(known, id, now)),
            Self::Import { id, imported } => speculation.import(known, id, imported),
            Self::Receipt { id, json } => silent(speculation.receipt(known, id, json.clone(), now)),
        }
    }
}

/// Why nothing can be checked here now.
enum Unsure {
    /// This node does not lead, or has not applied what its predecessors left.
    NotReady,
    /// No majority has followed it lately.
    NotFollowed(Group),
}

type Agreeing = Pin<Box<dyn Future<Output = Result<Proposed, ProposeError>> + Send>>;

/// How far a request is.
pub(crate) enum Step {
    /// Answered.
    Done(Result<Answer, Unanswered>),
    /// Its entry is on its way.
    Agreeing(Agreeing, Answer),
    /// It depends on what is on its way.
    Waiting(oneshot::Receiver<()>),
    /// The session may be on disk: it must be looked for there first.
    Unloaded,
    /// The session is on disk and must come back to be changed.
    Recalled(Agreeing),
    /// This node does not lead, or not yet.
    NotLeading,
    /// The session, if there is one, is in another group.
    Moved,
}

impl Owned {
    /// A group that keeps nothing: it is this node's alone and ends with it. Sessions that have
    /// ended are forgotten when `archive` says.
    pub fn new(name: &str, modes: Modes, clock: Arc<dyn Clock>, archive: Archive) -> Self {
        Self::by(Agreement::none(), name, modes, clock, archive)
    }

    /// A group whose entries are agreed on, and whose ended sessions go to `archive`; nothing can
    /// be done until [`Owned::agree_by`].
    pub fn agreed(name: &str, modes: Modes, clock: Arc<dyn Clock>, archive: Archive) -> Self {
        Self::by(Agreement::awaited(), name, modes, clock, archive)
    }

    fn by(
        agreement: Agreement,
        name: &str,
        modes: Modes,
        clock: Arc<dyn Clock>,
        archive: Archive,
    ) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            state: Mutex::default(),
            modes,
            clock,
            happened: broadcast::channel(EVENTS).0,
            agreement,
            archive,
            to_write: Notify::new(),
            writing: AsyncMutex::default(),
            letting_go: AtomicBool::new(false),
            leads: watch::Sender::new(None),
        }))
    }

    /// The machine to give to consensus.
    pub fn machine(&self) -> Box<dyn Machine> {
        Box::new(self.clone())
    }

    /// Entries are agreed on by `group` from now on, whose machine this is.
    pub fn agree_by(&self, group: Group) {
        self.0.agreement.by(group);
    }

    /// What agrees on its entries, once that is known.
    pub fn group(&self) -> Option<Group> {
        self.0.agreement.group().ok().flatten()
    }

    pub(crate) fn agreement(&self) -> &Agreement {
        &self.0.agreement
    }

    pub(crate) fn archive(&self) -> &Archive {
        &self.0.archive
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Somebody works on its state at this moment.
    pub(crate) fn is_locked(&self) -> bool {
        self.0.state.is_locked()
    }

    pub(crate) fn happened(&self) -> broadcast::Receiver<SessionEvent> {
        self.0.happened.subscribe()
    }

    pub(crate) fn now(&self) -> Millis {
        self.0.clock.wall().as_micros().div_euclid(1000)
    }

    /// Forgets what an earlier incarnation of the actor had on its way.
    pub(crate) fn begin(&self) {
        self.lock().forget_all();
    }

    /// Follows who leads, until the group stops: a new leader applies what is there before it
    /// checks anything, one that lost the lead drops what it had on its way.
    pub(crate) async fn keep_lead(self) {
        let Some(group) = self.0.agreement.opened().await else { return };
        let mut status = group.watch();
        loop {
            let now = status.borrow_and_update().clone();
            let leading = (now.role == Role::Leader).then_some(now.term);
            let known = *self.0.leads.borrow();
            if leading != known {
                self.0.leads.send_replace(None);
                {
                    let mut state = self.lock();
                    state.forget_all();
                    state.sealing.clear();
                }
                if let Some(term) = leading {
                    match group.barrier(WITHIN).await {
                        Ok(_) => {
                            // An id that it lacks could be given twice.
                            self.0.archive.look_again();
                            let mut missing = self.0.archive.missing();
                            let known = missing.wait_for(|m| m.spans.is_empty() || m.given_up);
                            if tokio::time::timeout(WHOLE, known).await.is_err() {
                                tracing::warn!(group = %self.0.name, "leading without all of the archive");
                            }
                            self.0.leads.send_replace(Some(term));
                        }
                        Err(error) => {
                            tracing::warn!(group = %self.0.name, %error, "not ready to lead yet");
                            tokio::time::sleep(Duration::from_millis(200)).await;
                            continue;
                        }
                    }
                }
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether somebody leads it, as far as this node knows.
    pub(crate) fn is_led(&self) -> bool {
        self.0.agreement.led() != Led::ByNobody
    }

    /// Whether the group does not run here at present, because its storage failed.
    pub(crate) fn is_down(&self) -> bool {
        let group = self.0.agreement.group();
        group.ok().flatten().is_some_and(|group| group.status().failed.is_some())
    }

    /// The group to propose to; `Err`: this node does not lead it, or is not sure that it does.
    fn leading(&self) -> Result<Option<Group>, Unsure> {
        let group = self.0.agreement.group().map_err(|()| Unsure::NotReady)?;
        let Some(group) = group else { return Ok(None) };
        let status = group.status();
        let ready = *self.0.leads.borrow();
        if status.role != Role::Leader || ready != Some(status.term) {
            return Err(Unsure::NotReady);
        }
        // One that was halted wakes up as the leader that it was: what it would refuse, another
        // may know better by now.
        if group.is_followed() { Ok(Some(group)) } else { Err(Unsure::NotFollowed(group)) }
    }

    /// Checks a request, and queues its entry if it makes one.
    pub(crate) fn step(&self, request: &Request) -> Step {
        self.step_by(request, &Looked::Not)
    }

    fn step_by(&self, request: &Request, looked: &Looked) -> Step {
        let Ok(group) = self.leading() else { return Step::NotLeading };
        let (id, now) = (request.id(), self.now());
        let mut state = self.lock();
        let left = match state.left(&self.0.archive, id, looked) {
            Ok(left) => left,
            Err(()) => return Step::Unloaded,
        };
        if state.is_lost(id, &self.0.archive) {
            return Step::Done(Err(damaged(id)));
        }
        if left.is_none() && state.is_elsewhere(id) {
            return Step::Moved;
        }
        let catalogue = self.0.modes.read();
        let State { sessions, speculation, .. } = &mut *state;
        let known = Known { sessions, catalogue: &catalogue, archived: left.as_deref() };
        let admission = request.admit(speculation, known, now);
        drop(catalogue);
        let Some(entry) = admission.entry else {
            let applied = match &left {
                Some(session) => session.position(),
                None => state.sessions.get(id).map_or(0, Session::position),
            };
            if admission.after <= applied {
                return Step::Done(Ok(admission.answer));
            }
            let (ready, waits) = oneshot::channel();
            state.waiting.entry(id.to_owned()).or_default().push((admission.after, ready));
            return Step::Waiting(waits);
        };
        let Some(group) = group else {
            self.apply_one(&mut state, entry);
            return Step::Done(Ok(admission.answer));
        };
        let recalled = left.is_some();
        let entry = match left {
            None => entry,
            Some(session) => {
                state.forget(id);
                Entry::Recall { session: Box::new(Session::clone(&session)) }
            }
        };
        let queued = encode_entry(&entry)
            .map_err(|error| Unanswered::Refused(error.to_string()))
            .and_then(|bytes| group.submit(bytes, WITHIN).map_err(Unanswered::from));
        match queued {
            // It has just lost the lead.
            Err(Unanswered::NotLeading(_)) => {
                state.forget(request.id());
                Step::NotLeading
            }
            Ok(agreeing) if recalled => Step::Recalled(Box::pin(agreeing)),
            Ok(agreeing) => Step::Agreeing(Box::pin(agreeing), admission.answer),
            Err(why) => {
                state.forget(request.id());
                Step::Done(Err(why))
            }
        }
    }

    /// Whether a request has an answer that does not depend on anything that is on its way.
    fn settled(&self, request: &Request) -> Option<Answer> {
        let state = self.lock();
        let left = state.left(&self.0.archive, request.id(), &Looked::Not).ok()?;
        let catalogue = self.0.modes.read();
        let known =
            Known { sessions: &state.sessions, catalogue: &catalogue, archived: left.as_deref() };
        let admission = request.admit(&mut Speculation::default(), known, self.now());
        admission.entry.is_none().then_some(admission.answer)
    }

    /// Goes on from a first step until there is an answer.
    pub(crate) async fn carry(
        &self,
        request: &Request,
        mut step: Step,
    ) -> Result<Answer, Unanswered> {
        for _ in 0..ATTEMPTS {
            let mut looked = Looked::Not;
            match step {
                Step::Done(done) => return done,
                Step::Unloaded => {
                    let recalls = self.lock().recalls;
                    looked = Looked::Found(self.0.archive.load(request.id()).await?, recalls);
                }
                Step::Recalled(agreeing) => match agreeing.await {
                    Ok(_) | Err(ProposeError::NotLeader { .. }) => {}
                    Err(error) => return Err(error.into()),
                },
                Step::Waiting(ready) => {
                    // It ends also when what was on its way is dropped.
                    let _ = ready.await;
                    if let Some(answer) = self.settled(request) {
                        return Ok(answer);
                    }
                }
                Step::Agreeing(agreeing, answer) => match agreeing.await {
                    Ok(done) if done.answer.first() == Some(&APPLIED) => return Ok(answer),
                    Ok(done) if done.answer.first() == Some(&STALE) => {
                        self.lock().forget(request.id());
                    }
                    Ok(_) => {
                        self.lock().forget(request.id());
                        let why = "the entry cannot be read by this version of weft";
                        return Err(Unanswered::Unsure(why.to_owned()));
                    }
                    // Not done, and never will be: whoever leads next is to check it again.
                    Err(ProposeError::NotLeader { .. }) => self.lock().forget(request.id()),
                    Err(error) => {
                        self.lock().forget(request.id());
                        return Err(error.into());
                    }
                },
                Step::NotLeading => self.lead().await?,
                Step::Moved => {
                    let why = format!("`{}` does not have its slot any more", self.0.name);
                    return Err(Unanswered::NotLeading(why));
                }
            }
            step = self.step_by(request, &looked);
        }
        Err(Unanswered::Refused("the session changes too fast: send it again".to_owned()))
    }

    /// Waits until this node leads and is ready to, unless another leads.
    pub(crate) async fn lead(&self) -> Result<(), Unanswered> {
        let mut leads = self.0.leads.subscribe();
        let ready = async {
            loop {
                match self.leading() {
                    Ok(_) => return true,
                    Err(Unsure::NotFollowed(group)) => {
                        if group.barrier(LEAD).await.is_err() {
                            return false;
                        }
                    }
                    Err(Unsure::NotReady) => {
                        if leads.changed().await.is_err() {
                            return false;
                        }
                    }
                }
            }
        };
        let led = tokio::select! {
            led = tokio::time::timeout(LEAD, ready) => led.unwrap_or(false),
            () = self.0.agreement.led_by_another(None) => false,
        };
        match led {
            true => Ok(()),
            false => {
                Err(Unanswered::NotLeading(format!("this node does not lead `{}`", self.0.name)))
            }
        }
    }

    /// Whether this node leads and has applied what its predecessors left.
    pub(crate) fn is_ready(&self) -> bool {
        self.leading().is_ok()
    }

    /// A request from its first step to its answer.
    pub(crate) async fn run(&self, request: Request) -> Result<Answer, Unanswered> {
        let step = self.step(&request);
        self.carry(&request, step).await
    }

    /// Does what is due (§8.1, §13.4), if this node leads.
    pub(crate) fn sweep(&self) -> Vec<Request> {
        if self.leading().is_err() {
            return Vec::new();
        }
        let now = self.now();
        let state = self.lock();
        state.sessions.due(now).map(|id| Request::Sweep { id: id.to_owned() }).collect()
    }

    /// Whether what happens is counted here: on one node of the group.
    fn counts(&self) -> bool {
        match self.0.agreement.group() {
            Ok(None) => true,
            _ => self.0.leads.borrow().is_some(),
        }
    }

    /// What happened, and how many sessions there are.
    pub(crate) fn figures(&self) -> SessionFigures {
        let missing = self.0.archive.missing();
        let missing = missing.borrow().spans.iter().map(|span| span.last - span.first + 1).sum();
        let state = self.lock();
        let mut in_memory: BTreeMap<SessionState, u64> = BTreeMap::new();
        for session in state.sessions.iter() {
            *in_memory.entry(session.state()).or_default() += 1;
        }
        let happened = state.counted.iter();
        SessionFigures {
            happened: happened
                .map(|((mode, what), n)| (mode.clone(), convert::lifecycle(*what), *n))
                .collect(),
            in_memory: in_memory.into_iter().map(|(s, n)| (convert::state(s), n)).collect(),
            archived: self.0.archive.len(),
            missing,
            damaged: u64::try_from(state.sessions.damaged().len()).unwrap_or(u64::MAX),
        }
    }

    fn apply_one(&self, state: &mut State, entry: Entry) -> Progress {
        let id = match &entry {
            Entry::Records { session, .. } => Some(session.clone()),
            Entry::Recall { session } => {
                state.recalls += 1;
                state.recalled.truncate(RECALLED - 1);
                state.recalled.push_front(session.id().to_owned());
                Some(session.id().to_owned())
            }
            Entry::Archive { .. } | Entry::Seal { .. } => None,
        };
        if let Entry::Records { session, .. } = &entry
            && state.sessions.is_damaged(session)
        {
            // It is on this node's disk, behind what is damaged.
            let (id, piece) = (session.clone(), encode_entry(&entry).unwrap_or_default());
            state.sessions.put_aside(&id, piece);
            return Progress::Stale { position: 0 };
        }
        let seals = matches!(entry, Entry::Seal { .. });
        let done = state.sessions.apply(entry);
        if seals {
            state.wake_elsewhere(&self.0.archive);
        }
        for effect in done.effects {
            match effect {
                Effect::Published { session, ordinal, .. } => {
                    if let Some(followed) = state.followed.get(&session) {
                        followed.send_replace(ordinal);
                    }
                }
                Effect::Lifecycle { session, event } => {
                    if self.counts()
                        && let Some(session) = state.sessions.get(&session)
                    {
                        *state.counted.entry((session.mode().to_owned(), event)).or_default() += 1;
                    }
                    if self.0.happened.receiver_count() > 0
                        && let Some(session) = state.sessions.get(&session)
                    {
                        let _ = self.0.happened.send(SessionEvent::Happened {
                            what: convert::lifecycle(event),
                            session: Box::new(convert::view(session)),
                            at_ms: self.now(),
                        });
                    }
                }
                Effect::Archived { place, session } => {
                    let is_there = self.0.archive.has(Span { first: place, last: place })
                        && self.0.archive.may_hold(session.id());
                    if self.0.archive.keeps() && !is_there {
                        self.0.archive.expect(session.id());
                        state.leaving.add(place, *session);
                        self.0.to_write.notify_one();
                    }
                }
            }
        }
        if let Some(id) = id {
            state.settle(&id);
        }
        done.progress
    }
}

/// What is said of a session that was put aside.
pub(crate) fn damaged(id: &str) -> Unanswered {
    Unanswered::Unreadable(format!(
        "session `{id}` is damaged on this node's disk: what is left of it is put aside"
    ))
}

/// What became of an entry, as consensus hands it back: one of these.
const APPLIED: u8 = 0;
const STALE: u8 = 1;
const UNREADABLE: u8 = 2;

impl State {
    /// A session that is not in memory, from wherever it is; `Err`: it must be looked for on disk.
    fn left(
        &self,
        archive: &Archive,
        id: &str,
        looked: &Looked,
    ) -> Result<Option<Arc<Session>>, ()> {
        if self.sessions.get(id).is_some() {
            return Ok(None);
        }
        match (self.leaving.get(id), looked) {
            (Some(session), _) => Ok(Some(session.clone())),
            // It may have come back, and left again with more.
            (None, Looked::Found(_, seen)) if self.is_recalled_since(id, *seen) => Err(()),
            (None, Looked::Found(found, _)) => Ok(found.clone()),
            (None, Looked::Not) if archive.may_hold(id) => Err(()),
            (None, Looked::Not) => Ok(None),
        }
    }

    /// Whether something of a session was lost on disk, and no copy of it is in the archive.
    pub(super) fn is_lost(&self, id: &str, archive: &Archive) -> bool {
        self.sessions.is_damaged(id) && !archive.may_hold(id)
    }

    /// Who waits here for a session to begin that would begin in another group is to wait there.
    fn wake_elsewhere(&mut self, archive: &Archive) {
        let Self { sessions, leaving, followed, .. } = self;
        let is_here = |id: &str| {
            sessions.get(id).is_some() || leaving.get(id).is_some() || archive.may_hold(id)
        };
        // Dropping the sender ends their streams: they look again.
        followed.retain(|id, _| !sessions.is_sealed(slot(id)) || is_here(id));
    }

    /// Whether a session that is neither in memory nor on disk would be in another group.
    fn is_elsewhere(&self, id: &str) -> bool {
        let gone = |slot| self.sessions.is_sealed(slot) || self.sealing.contains(&slot);
        !self.is_here(id) && gone(slot(id))
    }

    /// Whether a session is in memory, or about to be.
    fn is_here(&self, id: &str) -> bool {
        self.sessions.get(id).is_some() || self.speculation.has(id)
    }

    /// Whether a session has come back since so many had.
    fn is_recalled_since(&self, id: &str, seen: usize) -> bool {
        let since = self.recalls.saturating_sub(seen);
        since > RECALLED || self.recalled.iter().take(since).any(|recalled| recalled == id)
    }

    fn settle(&mut self, id: &str) {
        self.speculation.settle(&self.sessions, id);
        let Some(waiting) = self.waiting.get_mut(id) else { return };
        let applied = self.sessions.get(id).map_or(0, Session::position);
        // Dropping the sender wakes as well as sending does.
        waiting.retain(|(after, _)| *after > applied);
        if waiting.is_empty() {
            self.waiting.remove(id);
        }
    }

    fn forget(&mut self, id: &str) {
        self.speculation.forget(id);
        self.waiting.remove(id);
    }

    fn forget_all(&mut self) {
        self.speculation.clear();
        self.waiting.clear();
    }

    /// Told at each envelope of the session from now on.
    pub(crate) fn follow(&mut self, id: &str) -> watch::Receiver<u64> {
        let ordinal = self.sessions.get(id).map_or(0, Session::last_ordinal);
        let followed = self.followed.entry(id.to_owned());
        followed.or_insert_with(|| watch::Sender::new(ordinal)).subscribe()
    }

    /// To be called when a follower has gone.
    pub(crate) fn unfollow(&mut self, id: &str) {
        if self.followed.get(id).is_some_and(|followed| followed.receiver_count() == 0) {
            self.followed.remove(id);
        }
    }
}

impl Machine for Owned {
    fn apply(&mut self, index: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut state = self.0.state.lock();
        let one = |bytes: &Vec<u8>| match decode_entry(bytes) {
            Ok(entry) => match self.apply_one(&mut state, entry) {
                Progress::Applied { .. } => vec![APPLIED],
                Progress::Stale { .. } => vec![STALE],
            },
            Err(error) => {
                tracing::error!(group = %self.0.name, index, %error, "this node may differ from the others now");
                vec![UNREADABLE]
            }
        };
        commands.iter().map(one).collect()
    }

    /// What verifies is applied; records that do not are put aside with their session.
    fn apply_damaged(&mut self, index: u64, commands: &[Vec<u8>]) -> Result<(), MachineError> {
        let mut state = self.0.state.lock();
        for bytes in commands {
            match decode_entry(bytes) {
                Ok(entry) => drop(self.apply_one(&mut state, entry)),
                Err(error) => {
                    let Some(id) = entry_about(bytes) else {
                        let why = format!(
                            "entry {index} of the log is damaged, and it cannot be told which session it is about: {error}"
                        );
                        return Err(MachineError(why));
                    };
                    tracing::error!(group = %self.0.name, session = id, index, %error, "a session is damaged on disk and put aside; the others are not");
                    state.sessions.put_aside(id, bytes.clone());
                    state.settle(id);
                }
            }
        }
        Ok(())
    }

    fn restore_damaged(&mut self, image: &Image) -> Result<(), MachineError> {
        let (sessions, damaged) = Sessions::salvage(&image.bytes).map_err(|error| {
            MachineError(format!("the checkpoint of sessions is damaged: {error}"))
        })?;
        for (session, why) in damaged {
            tracing::error!(group = %self.0.name, session, %why, "a session is damaged on disk and put aside; the others are not");
        }
        self.replace(sessions);
        Ok(())
    }

    fn snapshot(&self) -> Result<Image, MachineError> {
        // The log below an image goes: what the image lacks must be on disk.
        if !self.lock().leaving.is_empty() {
            let written = tokio::runtime::Handle::try_current()
                .map_err(|error| error.to_string())
                .and_then(|runtime| runtime.block_on(self.write()).map_err(|e| e.to_string()));
            written.map_err(|why| MachineError(format!("ended sessions: {why}")))?;
        }
        let bytes =
            self.lock().sessions.to_bytes().map_err(|error| MachineError(error.to_string()))?;
        Ok(Image { version: FORMAT, bytes })
    }

    fn restore(&mut self, image: &Image) -> Result<(), MachineError> {
        let sessions = Sessions::from_bytes(&image.bytes)
            .map_err(|error| MachineError(format!("sessions: {error}")))?;
        self.replace(sessions);
        Ok(())
    }
}

impl Owned {
    fn replace(&self, sessions: Sessions) {
        let mut state = self.lock();
        let leaving = state.leaving.by_place.last_key_value().map_or(0, |(place, _)| *place);
        if let Some(span) = self.0.archive.lacks(leaving, sessions.archived()) {
            tracing::info!(group = %self.0.name, first = span.first, last = span.last, "ended sessions are missing here");
            state.leaving.lacks.push(span);
            self.0.to_write.notify_one();
        }
        state.sessions = sessions;
        state.forget_all();
        state.wake_elsewhere(&self.0.archive);
        // What happened meanwhile is not known one by one.
        let _ = self.0.happened.send(SessionEvent::Lagged);
        let State { sessions, followed, .. } = &mut *state;
        for (id, followed) in followed {
            let ordinal = sessions.get(id).map_or(0, Session::last_ordinal);
            followed.send_replace(ordinal);
        }
    }
}

#[cfg(test)]
mod tests;
