//! Sessions out of the reference runtime's own files, and into them.

use std::sync::Arc;

use weft_link::{ItemSink, Reply};
use weft_protocol::{
    EXPORT_PIECE, ExportItem, ExportSession, ImportOutcome, ImportSession, Octets,
};
use weft_session::{ImportError, Imported, Record, ReferenceFiles, ReferenceLog, Session};
use weft_supervision::{Handle, Routes, Scope, Serve};
use weft_wire::{AskError, Failure, FailureKind};

use super::{SessionActor, failure};
use crate::follow::on_its_way;
use crate::owned::{Request, Unanswered};
use crate::route::Route;
use crate::{Modes, Owned, convert};

/// The messages that are handled here.
pub(super) fn routes(routes: &mut Routes<SessionActor>) {
    routes.ask::<ImportSession>().subscription::<ExportSession>();
}

impl Serve<ExportSession> for SessionActor {
    fn serve(
        &mut self,
        message: ExportSession,
        sink: ItemSink<ExportSession>,
        scope: &Scope<Self>,
    ) {
        let group = self.desk.owners.of(&message.session_id);
        scope.spawn(async move {
            let id = &message.session_id;
            match group.look(id, Session::clone).await {
                Ok(None) if group.archive().waits() => sink.fail(on_its_way(id)).await,
                // Who has gone needs no more.
                Ok(session) => drop(export(session, &sink).await),
                Err(why) => sink.fail(failure(&group, why)).await,
            }
        });
    }
}

async fn export(
    session: Option<Session>,
    sink: &ItemSink<ExportSession>,
) -> Result<(), weft_link::Closed> {
    // Its records are shared, so this is cheap, and nobody waits while it is written.
    let Some(session) = session else { return sink.send(ExportItem::Missing).await };
    let messages = session.last_ordinal();
    let log = ReferenceLog::new(session);
    let mut piece = Vec::new();
    for line in log.lines() {
        piece.extend_from_slice(line.as_bytes());
        if piece.len() >= EXPORT_PIECE {
            for part in piece.chunks(EXPORT_PIECE) {
                sink.send(ExportItem::Piece(Octets(part.to_vec()))).await?;
            }
            piece.clear();
        }
    }
    if !piece.is_empty() {
        sink.send(ExportItem::Piece(Octets(piece))).await?;
    }
    if let Some(receipt) = log.receipt() {
        sink.send(ExportItem::Receipt(receipt.to_owned())).await?;
    }
    for note in log.notes() {
        sink.send(ExportItem::Note(note)).await?;
    }
    sink.send(ExportItem::Whole { messages }).await
}

impl Handle<ImportSession> for SessionActor {
    fn handle(
        &mut self,
        message: ImportSession,
        mut reply: Reply<ImportSession>,
        scope: &Scope<Self>,
    ) {
        reply.about(&weft_protocol::session_about(&message.session_id));
        let (owners, modes) = (self.desk.owners.clone(), self.desk.modes.clone());
        let route = Route { fabric: scope.fabric().clone(), meta: reply.meta().clone() };
        scope.spawn(async move {
            let find = || owners.of(&message.session_id);
            let here = |group| import(group, &modes, message.clone());
            reply.result(route.run(find, message.clone(), here).await);
        });
    }
}

async fn import(
    group: Owned,
    modes: &Modes,
    message: ImportSession,
) -> Result<ImportOutcome, AskError> {
    let group = &group;
    group.lead().await.map_err(|why| failure(group, why))?;
    let (id, check) = (message.session_id.clone(), message.check);
    let catalogue = modes.read().clone();
    let read = move || {
        let files = ReferenceFiles {
            session_id: &message.session_id,
            log: &message.log.0,
            snapshot: &message.snapshot.0,
            receipt: &message.receipt.0,
        };
        files.import(&catalogue)
    };
    // Megabytes of JSON, and every rule of the mode: not beside others' messages.
    let read: Result<Imported, ImportError> =
        tokio::task::spawn_blocking(read).await.map_err(|error| {
            let failure = Failure::new(FailureKind::Internal, "the session could not be read");
            AskError::Failed(failure.cause(error))
        })?;
    let imported = match read {
        Ok(imported) => Arc::new(imported),
        Err(why) => return Ok(ImportOutcome::Refused(why.to_string())),
    };
    let there = standing(group, &id, &imported).await.map_err(|why| failure(group, why))?;
    if let Some(outcome) = there {
        return Ok(outcome);
    }
    let done = ImportOutcome::Imported {
        state: convert::state(imported.state),
        messages: imported.messages,
        notes: imported.notes.clone(),
    };
    if check {
        return Ok(done);
    }
    let request = Request::Import { id: id.clone(), imported: imported.clone() };
    match group.run(request).await.map_err(|why| failure(group, why))? {
        Ok(_) => Ok(done),
        // It began, or was imported, meanwhile.
        Err(refusal) => {
            let refused = ImportOutcome::Refused(refusal.message);
            let there = standing(group, &id, &imported).await.map_err(|why| failure(group, why))?;
            Ok(there.unwrap_or(refused))
        }
    }
}

/// What is to be said if there is a session of that id.
async fn standing(
    group: &Owned,
    id: &str,
    imported: &Imported,
) -> Result<Option<ImportOutcome>, Unanswered> {
    group.look(id, |session| beside(session, imported)).await
}

fn beside(session: &Session, imported: &Imported) -> ImportOutcome {
    let is_history = |record: &&Record| !matches!(record, Record::Receipt { .. });
    let mut here = session.log().map(|record| &**record).filter(is_history);
    let mut more = 0usize;
    for theirs in imported.records.iter().filter(is_history) {
        match here.next() {
            Some(ours) if is_same(ours, theirs) => {}
            Some(_) => {
                let why = "a session of that id is here already, with another history";
                return ImportOutcome::Refused(why.to_owned());
            }
            None => more += 1,
        }
    }
    if more > 0 {
        return ImportOutcome::Refused(format!(
            "it was imported before, and its log has grown by {more} since: what was accepted in two \
             places cannot be joined"
        ));
    }
    ImportOutcome::Present {
        state: convert::state(session.state()),
        messages: session.last_ordinal(),
    }
}

/// The same but for what is stamped into a start.
fn is_same(one: &Record, other: &Record) -> bool {
    match (one, other) {
        (
            Record::Start { mode, message, .. },
            Record::Start { mode: other_mode, message: other_message, .. },
        ) => mode == other_mode && message == other_message,
        _ => one == other,
    }
}
