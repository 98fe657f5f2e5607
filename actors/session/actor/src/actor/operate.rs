//! What operators ask: whatever this node has applied, also while nobody leads.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use weft_link::{ItemSink, Reply};
use weft_protocol::{
    EndSession, FollowHistory, FollowLifecycle, HistoryItem, InspectSession, ReadSessionFigures,
    ReadSessionGroups, SURVEY_MAX, ScaleSessions, SessionDetail, SessionEvent, SessionFigures,
    SessionGroup, SessionPayload, SessionRecord, SessionRow, SessionRows, SurveySessions,
};
use weft_session::{CatalogueChange, Message, Record, Session, SessionState};
use weft_supervision::{Handle, Routes, Scope, Serve};

use super::{SessionActor, change_modes, failure};
use crate::archive::Filter;
use crate::follow::{Place, Reading, all_groups, hand_on, on_its_way, send_all};
use crate::owned::Request;
use crate::payload::readable;
use crate::route::Route;
use crate::slots::group_name;
use crate::{Owned, Owners, convert};

/// Records read from a log at once.
const PIECE: usize = 32;
/// Rows of one answer have about so many bytes at most.
const ROWS: usize = 4 << 20;

/// The messages that are handled here.
pub(super) fn routes(routes: &mut Routes<SessionActor>) {
    routes
        .ask::<ReadSessionFigures>()
        .ask::<SurveySessions>()
        .ask::<InspectSession>()
        .ask::<EndSession>()
        .ask::<ReadSessionGroups>()
        .ask::<ScaleSessions>()
        .subscription::<FollowHistory>()
        .subscription::<FollowLifecycle>();
}

fn row(session: &Session) -> SessionRow {
    SessionRow {
        session: convert::view(session),
        messages: session.last_ordinal(),
        records: session.position(),
    }
}

/// About how many bytes it has.
fn size(row: &SessionRow) -> usize {
    let session = &row.session;
    let names = session.participants.iter().chain(&session.extension_keys);
    let activity = session.activity.iter().map(|activity| activity.participant.len() + 16);
    256 + session.context_id.len() + names.map(String::len).sum::<usize>() + activity.sum::<usize>()
}

impl Handle<ReadSessionFigures> for SessionActor {
    fn handle(&mut self, _: ReadSessionFigures, reply: Reply<ReadSessionFigures>, _: &Scope<Self>) {
        let mut all = SessionFigures::default();
        for group in self.desk.owners.all().iter() {
            let figures = group.figures();
            all.happened.extend(figures.happened);
            for (state, n) in figures.in_memory {
                match all.in_memory.iter_mut().find(|(known, _)| *known == state) {
                    Some((_, all)) => *all += n,
                    None => all.in_memory.push((state, n)),
                }
            }
            all.archived += figures.archived;
            all.missing += figures.missing;
            all.damaged += figures.damaged;
        }
        reply.ok(all);
    }
}

impl Handle<SurveySessions> for SessionActor {
    fn handle(
        &mut self,
        message: SurveySessions,
        reply: Reply<SurveySessions>,
        scope: &Scope<Self>,
    ) {
        let SurveySessions { states, mode, after, size: wanted } = message;
        let wanted = usize::try_from(wanted.min(SURVEY_MAX)).unwrap_or(usize::MAX);
        let filter =
            Filter { states: states.into_iter().map(convert::kernel_state).collect(), mode, after };
        let owners = self.desk.owners.clone();
        scope.spawn(async move {
            let mut rows = Vec::new();
            for group in owners.all().iter() {
                match group.page(&filter, wanted.saturating_add(1), row).await {
                    Ok(page) => rows.extend(page.into_iter().map(|(_, row)| row)),
                    Err(why) => return reply.result(Err(failure(group, why))),
                }
            }
            rows.sort_by(|a, b| a.session.session_id.cmp(&b.session.session_id));
            let mut bytes = 0usize;
            let all = rows.len();
            // One at least, or the asker would not get on.
            let whole = rows.iter().take(wanted).position(|row| {
                let before = bytes;
                bytes = bytes.saturating_add(size(row));
                before > 0 && bytes > ROWS
            });
            rows.truncate(whole.unwrap_or(wanted));
            reply.ok(SessionRows { more: rows.len() < all, rows });
        });
    }
}

fn detail(session: &Session) -> Box<SessionDetail> {
    let of = |bytes| readable(session.mode(), "Commitment", bytes);
    Box::new(SessionDetail {
        row: row(session),
        policy: convert::policy(session.policy()),
        resolution: session.resolution().map(of),
        receipt: session.receipt().map(str::to_owned),
    })
}

impl Handle<InspectSession> for SessionActor {
    fn handle(
        &mut self,
        message: InspectSession,
        reply: Reply<InspectSession>,
        scope: &Scope<Self>,
    ) {
        let group = self.desk.owners.of(&message.session_id);
        scope.spawn(async move {
            let found = group.look(&message.session_id, detail).await;
            reply.result(found.map_err(|why| failure(&group, why)));
        });
    }
}

impl Handle<EndSession> for SessionActor {
    fn handle(&mut self, message: EndSession, mut reply: Reply<EndSession>, scope: &Scope<Self>) {
        let EndSession { session_id: id, reason } = message.clone();
        reply.about(&weft_protocol::session_about(&id));
        let session = id.clone();
        let request = Request::End { id, by: reply.caller().identity.to_string(), reason };
        self.answer(message, request, &session, reply, scope, convert::answer);
    }
}

impl Handle<ReadSessionGroups> for SessionActor {
    fn handle(&mut self, _: ReadSessionGroups, reply: Reply<ReadSessionGroups>, _: &Scope<Self>) {
        if !self.desk.modes.is_agreed() {
            // This node has no part in them.
            return reply.ok(Vec::new());
        }
        let slots = self.desk.modes.read().slots().clone();
        let all = self.desk.owners.all();
        let count = |slots: usize| u32::try_from(slots).unwrap_or(u32::MAX);
        let groups = (0..slots.groups()).map(|number| {
            let open = all.get(usize::from(number));
            let mut left = slots.left_by(number);
            left.retain(|slot| open.is_some_and(|group| !group.is_sealed(*slot)));
            let figures = open.map(Owned::figures).unwrap_or_default();
            let sum = |is_final| {
                let of = figures.in_memory.iter().filter(|(state, _)| state.is_final() == is_final);
                of.map(|(_, n)| n).sum()
            };
            SessionGroup {
                name: group_name(number),
                slots: count(slots.slots_of(number).len()),
                handing_over: count(left.len()),
                is_open: open.is_some(),
                live: sum(false),
                ended: sum(true),
                archived: figures.archived,
            }
        });
        reply.ok(groups.collect());
    }
}

impl Handle<ScaleSessions> for SessionActor {
    fn handle(
        &mut self,
        message: ScaleSessions,
        mut reply: Reply<ScaleSessions>,
        scope: &Scope<Self>,
    ) {
        reply.about("session groups");
        let modes = self.desk.modes.clone();
        if !modes.is_agreed() {
            let why = "sessions are kept in memory only, each node's by itself: there is nothing to share";
            return reply.ok(Err(why.to_owned()));
        }
        let route = Route { fabric: scope.fabric().clone(), meta: reply.meta().clone() };
        let change = CatalogueChange::RaiseGroups { count: message.groups };
        scope.spawn(change_modes(modes, route, message, change, reply));
    }
}

impl Serve<FollowHistory> for SessionActor {
    fn serve(
        &mut self,
        message: FollowHistory,
        sink: ItemSink<FollowHistory>,
        scope: &Scope<Self>,
    ) {
        let group = self.desk.owners.of(&message.session_id);
        scope.spawn(history(group, message, sink));
    }
}

impl Serve<FollowLifecycle> for SessionActor {
    fn serve(&mut self, _: FollowLifecycle, sink: ItemSink<FollowLifecycle>, scope: &Scope<Self>) {
        scope.spawn(lifecycle(self.desk.owners.clone(), sink));
    }
}

/// Some records of a session, and how it stands with them.
struct Piece {
    mode: String,
    state: SessionState,
    records: Vec<Arc<Record>>,
}

fn piece(session: &Session, after: u64) -> Piece {
    let after = usize::try_from(after).unwrap_or(usize::MAX);
    Piece {
        mode: session.mode().to_owned(),
        state: session.state(),
        records: session.log().skip(after).take(PIECE).cloned().collect(),
    }
}

/// How many of the first `after` records are envelopes.
fn ordinal_at(session: &Session, after: u64) -> u64 {
    let after = usize::try_from(after).unwrap_or(usize::MAX);
    let envelopes = session.log().take(after).filter(|record| record.message().is_some());
    u64::try_from(envelopes.count()).unwrap_or(u64::MAX)
}

async fn history(group: Owned, message: FollowHistory, sink: ItemSink<FollowHistory>) {
    let FollowHistory { session_id: id, after, follow } = message;
    // Both before the first look, so that nothing falls in between: records without an ordinal wake
    // no follower of envelopes.
    let mut happened = group.happened();
    let more = group.lock().follow(&id);
    let mut place = Place { group: group.clone(), id: id.clone(), more: Some(more) };
    let mut reading = Reading::of(&group, &id);
    let ordinal = reading.read(|session| ordinal_at(session, after)).await;
    let (mut position, mut ordinal) = (after, ordinal.ok().flatten().unwrap_or_default());
    loop {
        if let Some(more) = place.more.as_mut() {
            more.borrow_and_update();
        }
        let piece = match reading.read(|session| piece(session, position)).await {
            Ok(piece) => piece,
            Err(why) => return sink.fail(failure(&group, why)).await,
        };
        let Some(Piece { mode, state, records }) = piece else {
            if group.archive().waits() {
                return sink.fail(on_its_way(&id)).await;
            }
            let _ = sink.send(HistoryItem::Missing).await;
            return;
        };
        let is_all = records.len() < PIECE;
        for record in records {
            position += 1;
            let own = record.message().is_some().then(|| {
                ordinal += 1;
                ordinal
            });
            let item = HistoryItem::Record(Box::new(shown(&mode, position, own, &record)));
            if sink.send(item).await.is_err() {
                return;
            }
        }
        if !is_all {
            continue;
        }
        if !follow {
            return;
        }
        if state.is_final() {
            let _ = sink.send(HistoryItem::Ended { state: convert::state(state) }).await;
            return;
        }
        let Some(more) = place.more.as_mut() else { return };
        tokio::select! {
            changed = more.changed() => if changed.is_err() { return },
            happened = happened.recv() => {
                if matches!(happened, Err(broadcast::error::RecvError::Closed)) {
                    return;
                }
            }
            () = sink.closed() => return,
        }
    }
}

fn shown(mode: &str, position: u64, ordinal: Option<u64>, record: &Record) -> SessionRecord {
    let says = |value: serde_json::Value| SessionPayload::Json(value.to_string());
    let own = |at: i64, kind: &str, by: &str, payload: SessionPayload| SessionRecord {
        position,
        ordinal,
        at_ms: at,
        message_type: kind.to_owned(),
        message_id: String::new(),
        sender: by.to_owned(),
        payload,
    };
    match record {
        Record::Start { message, .. } | Record::Message(message) | Record::Implicit(message) => {
            let Message { message_type, message_id, sender, payload, accepted_ms, .. } = message;
            SessionRecord {
                message_id: message_id.clone(),
                ..own(*accepted_ms, message_type, sender, readable(mode, message_type, payload))
            }
        }
        Record::Suspend { at, by, reason } => {
            own(*at, "SessionSuspend", by, says(serde_json::json!({ "reason": reason })))
        }
        Record::Resume { at, by, reason, banked_ms, deadline_ms } => {
            let payload = serde_json::json!({
                "reason": reason, "banked_ms": banked_ms, "expires_at_unix_ms": deadline_ms,
            });
            own(*at, "SessionResume", by, says(payload))
        }
        Record::Cancel { at, by, reason } => {
            own(*at, "SessionCancel", by, says(serde_json::json!({ "reason": reason })))
        }
        Record::Expire { at } => own(*at, "TtlExpired", "", says(serde_json::json!({}))),
        Record::Receipt { at, json } => own(*at, "Receipt", "", SessionPayload::Json(json.clone())),
    }
}

/// Each event comes from the node that leads, and so once to whoever asks all nodes.
async fn lifecycle(owners: Owners, sink: ItemSink<FollowLifecycle>) {
    let (out, mut events) = mpsc::channel(64);
    let all = all_groups(&owners, &out, |group, out| {
        let (happened, group) = (group.happened(), group.clone());
        hand_on(happened, out, move || group.is_ready())
    });
    drop(out);
    if sink.send(SessionEvent::Attached).await.is_err() {
        return;
    }
    send_all(all, &mut events, &sink).await;
}

#[cfg(test)]
mod tests;
