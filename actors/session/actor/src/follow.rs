//! Streams: the envelopes of one session, and what happens to all.
//!
//! A follower is a cursor into the session's log. It is told that there is more and reads it there,
//! so it misses nothing and repeats nothing, however slow it is, and holds up nobody.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use weft_link::ItemSink;
use weft_protocol::{
    FollowCatalogue, FollowSession, FollowSessions, SessionEvent, SessionItem, SessionLifecycle,
    SessionRefusal,
};
use weft_session::Session;
use weft_wire::{AskError, Subscription};

use crate::actor::failure;
use crate::owned::{At, Unanswered};
use crate::route::elsewhere;
use crate::{Modes, Owned, Owners, convert};

/// The code of what is not there.
pub(crate) const NOT_FOUND: &str = "SESSION_NOT_FOUND";
/// Envelopes read from the log at once.
const PIECE: usize = 32;

/// Removes the follower's place when it goes.
pub(crate) struct Place {
    pub(crate) group: Owned,
    pub(crate) id: String,
    pub(crate) more: Option<watch::Receiver<u64>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.more = None;
        self.group.lock().unfollow(&self.id);
    }
}

pub(crate) fn not_found(id: &str) -> SessionRefusal {
    SessionRefusal {
        code: NOT_FOUND.to_owned(),
        message: format!("there is no session `{id}`"),
        details: Vec::new(),
        is_status: true,
    }
}

pub(crate) fn forbidden(id: &str) -> SessionRefusal {
    SessionRefusal {
        code: "FORBIDDEN".to_owned(),
        message: format!("session `{id}` is read by its initiator, its participants and observers"),
        details: Vec::new(),
        is_status: true,
    }
}

/// A session that is read piece by piece: from memory, and once it has left that, from disk.
pub(crate) struct Reading<'a> {
    group: &'a Owned,
    id: &'a str,
    /// All of it, while it is read from disk.
    left: Option<Arc<Session>>,
}

impl<'a> Reading<'a> {
    pub(crate) const fn of(group: &'a Owned, id: &'a str) -> Self {
        Self { group, id, left: None }
    }

    /// What `say` makes of it; `None`: there is none.
    pub(crate) async fn read<T>(
        &mut self,
        say: impl Fn(&Session) -> T,
    ) -> Result<Option<T>, Unanswered> {
        if let Some(session) = &self.left {
            return Ok(Some(say(session)));
        }
        Ok(match self.group.at(self.id, &say).await? {
            At::Here(said) => Some(said),
            At::Left(session) => Some(say(self.left.insert(session))),
            At::Nowhere => None,
        })
    }

    /// It will not be read for a while.
    pub(crate) fn pause(&mut self) {
        self.left = None;
    }
}

/// It may be one of those that are still on their way here: whoever asked looks again.
pub(crate) fn on_its_way(id: &str) -> AskError {
    elsewhere(&format!("`{id}` is not here yet, if there is such a session"))
}

pub(crate) async fn session(owners: Owners, message: FollowSession, sink: ItemSink<FollowSession>) {
    let rights = convert::rights(&message.reader);
    let id = message.session_id;
    // Every node reads its own copy, once that holds what was acknowledged before.
    let (group, old) = match owners.find(&id).await {
        Ok(group) => (group, None),
        Err((group, error)) => (group, Some(error)),
    };
    let mut reading = Reading::of(&group, &id);
    if let Some(error) = old
        && !matches!(reading.read(|_| ()).await, Ok(Some(())))
    {
        // Not there, or not here: whoever asked looks again.
        tracing::debug!(session = id, %error, "a session cannot be followed yet");
        return;
    }
    // Before the first look, so that nothing falls in between.
    let more = group.lock().follow(&id);
    let mut place = Place { group: group.clone(), id: id.clone(), more: Some(more) };
    if owners.of(&id).name() != group.name() {
        // Its slot was given away meanwhile: whoever asked looks again.
        return;
    }
    let begun = reading.read(|session| match message.after {
        Some(_) if !session.may_read(&rights) => Err(forbidden(&id)),
        Some(after) => Ok(after),
        None => Ok(session.last_ordinal()),
    });
    let begun = match (begun.await, message.after) {
        (Ok(Some(begun)), _) => begun,
        (Ok(None), Some(_)) if group.archive().waits() => return sink.fail(on_its_way(&id)).await,
        (Ok(None), Some(_)) => Err(not_found(&id)),
        (Ok(None), None) => Ok(0),
        (Err(why), _) => return sink.fail(failure(&group, why)).await,
    };
    let mut cursor = match begun {
        Ok(ordinal) => ordinal,
        Err(refusal) => {
            let _ = sink.send(SessionItem::Refused(refusal)).await;
            return;
        }
    };
    if sink.send(SessionItem::Attached { ordinal: cursor }).await.is_err() {
        return;
    }
    loop {
        if let Some(more) = place.more.as_mut() {
            more.borrow_and_update();
        }
        loop {
            // One who may not read it gets nothing.
            let next = reading.read(|session| {
                let next = session.may_read(&rights).then(|| session.envelopes(cursor).take(PIECE));
                let next = next.into_iter().flatten();
                next.map(|(at, envelope)| (at, convert::followed(envelope))).collect::<Vec<_>>()
            });
            let next = match next.await {
                Ok(Some(next)) => next,
                // It has not begun yet.
                Ok(None)
                    if cursor == 0 && (message.after.is_none() || !group.archive().waits()) =>
                {
                    Vec::new()
                }
                Ok(None) => return sink.fail(on_its_way(&id)).await,
                Err(why) => return sink.fail(failure(&group, why)).await,
            };
            if next.is_empty() {
                break;
            }
            for (ordinal, envelope) in next {
                if sink.send(SessionItem::Envelope { ordinal, envelope }).await.is_err() {
                    return;
                }
                cursor = ordinal;
            }
        }
        let Some(more) = place.more.as_mut().filter(|_| message.follow) else { return };
        reading.pause();
        tokio::select! {
            changed = more.changed() => if changed.is_err() { return },
            () = sink.closed() => return,
        }
    }
}

/// What happens in all groups, also in those that are added meanwhile: `watched` says of each group
/// what of it. Watched from now on; ends with the first group that does, or with `out`.
pub(crate) fn all_groups<F>(
    owners: &Owners,
    out: &mpsc::Sender<SessionEvent>,
    watched: impl Fn(&Owned, mpsc::Sender<SessionEvent>) -> F + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static
where
    F: Future<Output = ()> + Send + 'static,
{
    let out = out.clone();
    let mut changes = owners.changes();
    let (mut groups, mut begun) = (JoinSet::new(), 0);
    let mut add = move |groups: &mut JoinSet<()>, all: &[Owned]| {
        for group in all.iter().skip(begun) {
            groups.spawn(watched(group, out.clone()));
        }
        begun = all.len();
        out.clone()
    };
    let first = changes.borrow_and_update().clone();
    let out = add(&mut groups, &first);
    async move {
        loop {
            tokio::select! {
                _ = groups.join_next() => return,
                () = out.closed() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let all = changes.borrow_and_update().clone();
                    add(&mut groups, &all);
                }
            }
        }
    }
}

/// Hands on what happens in a group while `wanted` says so of each event; the last is that it was
/// too fast.
pub(crate) async fn hand_on(
    mut happened: broadcast::Receiver<SessionEvent>,
    out: mpsc::Sender<SessionEvent>,
    wanted: impl Fn() -> bool,
) {
    loop {
        let event = match happened.recv().await {
            Ok(_) if !wanted() => continue,
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(_)) => SessionEvent::Lagged,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let is_last = event == SessionEvent::Lagged;
        if out.send(event).await.is_err() || is_last {
            return;
        }
    }
}

pub(crate) async fn sessions(owners: Owners, sink: ItemSink<FollowSessions>) {
    // What is old here catches up as events.
    owners.fresh().await;
    let (out, mut events) = mpsc::channel(1);
    let all = all_groups(&owners, &out, |group, out| {
        // Under the group's lock: whatever is not in the list comes afterwards.
        let (now, later) = {
            let state = group.lock();
            let now: Vec<_> = state.sessions.iter().map(convert::view).collect();
            (now, group.happened())
        };
        async move {
            for session in now {
                let (at_ms, session) = (session.started_ms, Box::new(session));
                let what = SessionLifecycle::Created;
                if out.send(SessionEvent::Happened { what, session, at_ms }).await.is_err() {
                    return;
                }
            }
            hand_on(later, out, || true).await;
        }
    });
    drop(out);
    if sink.send(SessionEvent::Attached).await.is_err() {
        return;
    }
    send_all(all, &mut events, &sink).await;
}

/// Sends events until one is the last, or nobody wants them.
pub(crate) async fn send_all<M>(
    all: impl Future<Output = ()>,
    events: &mut mpsc::Receiver<SessionEvent>,
    sink: &ItemSink<M>,
) where
    M: Subscription<Item = SessionEvent>,
{
    tokio::pin!(all);
    let mut ended = false;
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            () = &mut all, if !ended => {
                ended = true;
                continue;
            }
            () = sink.closed() => return,
        };
        let Some(event) = event else { return };
        let is_last = event == SessionEvent::Lagged;
        if sink.send(event).await.is_err() || is_last {
            return;
        }
    }
}

pub(crate) async fn catalogue(modes: Modes, sink: ItemSink<FollowCatalogue>) {
    modes.fresh().await;
    let mut changes = modes.changes();
    loop {
        changes.borrow_and_update();
        if sink.send(modes.item()).await.is_err() {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sink.closed() => return,
        }
    }
}
