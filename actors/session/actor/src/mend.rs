//! Ended sessions that this node lacks, from its peers: a node that was brought up to date by a
//! leader's image has none of those that had left memory by then.

use std::time::Duration;

use weft_link::{Call, Closed, Fabric, ItemSink};
use weft_protocol::{ARCHIVE_PIECE, ArchiveItem, Octets, ReadArchive};
use weft_supervision::{Routes, Scope, Serve};
use weft_wire::{ActorKind, Address, AskError, Backoff, NodeId};

use crate::Owned;
use crate::actor::SessionActor;
use crate::archive::{ArchiveError, Row, Span};

/// Sessions written in one transaction have about so many bytes.
const BATCH: usize = 4 << 20;
/// Most sessions written in one transaction.
const ROWS: usize = 256;
/// One session has at most so many bytes.
const SESSION_MAX: usize = 1 << 30;
/// A peer has so long to begin.
const OPEN: Duration = Duration::from_secs(5);
/// A peer has so long for each item.
const ITEM: Duration = Duration::from_secs(15);
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(500), max: Duration::from_secs(60), jitter: 0.2 };

/// Why a peer's sessions are not here.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    Peer(String),
}

/// The messages that are handled here.
pub(crate) fn routes(routes: &mut Routes<SessionActor>) {
    routes.subscription::<ReadArchive>();
}

impl Serve<ReadArchive> for SessionActor {
    fn serve(&mut self, message: ReadArchive, sink: ItemSink<ReadArchive>, scope: &Scope<Self>) {
        let group = self.owners().all().iter().find(|group| group.name() == message.group).cloned();
        let Some(group) = group else { return };
        scope.spawn(async move {
            match serve(&group, &message, &sink).await {
                Ok(Ok(())) => {}
                // The asker turns to another.
                Ok(Err(error)) => tracing::warn!(%error, "a peer's ended sessions"),
                Err(Closed) => {}
            }
        });
    }
}

async fn serve(
    group: &Owned,
    message: &ReadArchive,
    sink: &ItemSink<ReadArchive>,
) -> Result<Result<(), ArchiveError>, Closed> {
    if let Err(error) = group.write().await {
        return Ok(Err(error));
    }
    let archive = group.archive();
    let all = Span { first: message.first, last: message.last };
    let is_whole = archive.has(all);
    let mut left = all;
    loop {
        let (place, body) = match archive.next(left).await {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(error) => return Ok(Err(error)),
        };
        let mut pieces = body.chunks(ARCHIVE_PIECE).peekable();
        while let Some(piece) = pieces.next() {
            let (bytes, is_last) = (Octets(piece.to_vec()), pieces.peek().is_none());
            sink.send(ArchiveItem::Piece { place, bytes, is_last }).await?;
        }
        left.first = place + 1;
    }
    sink.send(ArchiveItem::Done { is_whole }).await?;
    Ok(Ok(()))
}

/// Fetches what is missing, until the actor ends.
pub(crate) async fn mend(group: Owned, fabric: Fabric) {
    let mut missing = group.archive().missing();
    let mut attempt = 0u32;
    loop {
        let spans = missing.borrow_and_update().spans.clone();
        if spans.is_empty() {
            attempt = 0;
            if missing.changed().await.is_err() {
                return;
            }
            continue;
        }
        let (mut left, mut all_asked) = (0, true);
        for span in spans {
            match fetch_from_any(&group, &fabric, span).await {
                Found::Here => {}
                Found::Nowhere => left += 1,
                Found::Unknown => (left, all_asked) = (left + 1, false),
            }
        }
        if left == 0 {
            continue;
        }
        if all_asked {
            group.archive().give_up();
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY.delay(attempt.min(16), 0.5)) => attempt += 1,
            () = group.archive().wanted() => attempt = 0,
        }
    }
}

/// What became of a span.
enum Found {
    /// All of it is here.
    Here,
    /// All peers were asked, and no one has all of it.
    Nowhere,
    /// Not all could be asked.
    Unknown,
}

async fn fetch_from_any(group: &Owned, fabric: &Fabric, span: Span) -> Found {
    // What waits to be written says what is missing before anything later: it goes first.
    if let Err(error) = group.write().await {
        tracing::debug!(%error, "nothing is fetched while nothing can be written");
        return Found::Unknown;
    }
    let mut found = Found::Nowhere;
    for peer in group.agreement().peers(fabric.node()) {
        match fetch(group, fabric, peer, span).await {
            Ok(true) => match group.archive().mended(span).await {
                Ok(()) => {
                    let Span { first, last } = span;
                    tracing::info!(group = group.name(), first, last, %peer, "ended sessions fetched");
                    return Found::Here;
                }
                Err(error) => {
                    tracing::error!(%error, "ended sessions are fetched again");
                    found = Found::Unknown;
                }
            },
            Ok(false) => tracing::debug!(%peer, "it lacks some of the ended sessions too"),
            Err(error) => {
                tracing::debug!(%peer, %error, "no ended sessions from it");
                found = Found::Unknown;
            }
        }
    }
    found
}

/// Fetches from one peer; whether it had all of it.
async fn fetch(group: &Owned, fabric: &Fabric, peer: NodeId, span: Span) -> Result<bool, Failed> {
    let message =
        ReadArchive { group: group.name().to_owned(), first: span.first, last: span.last };
    let to = Address::on(ActorKind::Session, peer);
    let mut items = fabric.subscribe(to, message, Call::within(OPEN)).await?;
    let (mut rows, mut bytes, mut body) = (Vec::<Row>::new(), 0, Vec::new());
    let mut lacks = false;
    loop {
        let item = tokio::time::timeout(ITEM, items.next()).await;
        let item = item.map_err(|_| Failed::Peer("it fell silent".to_owned()))?;
        match item {
            None => return Err(Failed::Peer("it stopped".to_owned())),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(ArchiveItem::Done { is_whole })) => {
                group.archive().write(None, &rows).await?;
                return Ok(is_whole && !lacks);
            }
            Some(Ok(ArchiveItem::Piece { place, bytes: piece, is_last })) => {
                if body.len().saturating_add(piece.0.len()) > SESSION_MAX
                    || !(span.first..=span.last).contains(&place)
                {
                    return Err(Failed::Peer(format!("what it sent for place {place} is wrong")));
                }
                body.extend_from_slice(&piece.0);
                if !is_last {
                    continue;
                }
                match Row::read(place, std::mem::take(&mut body)) {
                    Ok(row) => {
                        bytes += row.bytes();
                        rows.push(row);
                    }
                    // As good as none: another may have it.
                    Err(why) => {
                        tracing::warn!(%peer, place, why, "an ended session is damaged there");
                        lacks = true;
                    }
                }
                if bytes >= BATCH || rows.len() >= ROWS {
                    group.archive().write(None, &rows).await?;
                    (rows, bytes) = (Vec::new(), 0);
                }
            }
        }
    }
}
