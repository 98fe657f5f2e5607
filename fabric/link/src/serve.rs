//! The answering half of a connection: streams come in, requests go to the door, answers go back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::task::AbortOnDropHandle;
use weft_wire::AskError;
use weft_wire::frame::{self, Frame, Kind};

use crate::door::{Source, Way};
use crate::error::close;
use crate::fabric::Inner;
use crate::hello::lane_class;
use crate::link::{Link, Place};
use crate::mailbox::ITEMS_WAITING;
use crate::outbox::Outbox as Leaving;
use crate::reader::{FrameReader, ReadError, next_frame};
use crate::reply::{Outbox, WireReply, end_frame, error_frame};
use crate::requester::{InFlight, LANE_FRAME_MAX, LANE_INLINE, SLOTS_MAX, outcome};

/// Where in a frame its `actor` is: on a big answer, the class of the lane it belongs to.
const ACTOR_AT: usize = 10;
/// Where in a frame its kind is.
const KIND_AT: usize = 4;

/// Asks of one connection that were forwarded, so that a cancel reaches them.
#[derive(Default)]
pub(crate) struct Forwards(Mutex<HashMap<u32, AbortHandle>>);

impl Forwards {
    pub(crate) fn add(&self, correlation: u32, task: AbortHandle) {
        let mut tasks = self.0.lock();
        if tasks.len() >= 64 {
            tasks.retain(|_, task| !task.is_finished());
        }
        tasks.insert(correlation, task);
    }

    fn cancel(&self, correlation: u32) {
        if let Some(task) = self.0.lock().remove(&correlation) {
            task.abort();
        }
    }

    fn cancel_all(&self) {
        self.0.lock().drain().for_each(|(_, task)| task.abort());
    }
}

/// The answers of one lane.
pub(crate) struct Answers {
    bytes: Leaving,
    limit: usize,
    /// Per slot of the asker's, the correlation that was cancelled last.
    cancelled: OnceLock<Box<[AtomicU32]>>,
    ended: AtomicBool,
    serving: Arc<InFlight>,
    forwards: Arc<Forwards>,
    /// For answers too big for the lane: the connection, and the lane's class.
    own_streams: Option<(Arc<Link>, u8, tokio::runtime::Handle)>,
    big_bytes: Arc<AtomicUsize>,
    big_limit: usize,
    big_room: Arc<Notify>,
}

impl Answers {
    pub(crate) fn new(
        inner: &Inner,
        serving: Arc<InFlight>,
        own_streams: Option<(Arc<Link>, u8, tokio::runtime::Handle)>,
    ) -> Arc<Self> {
        let limit = inner.limits.outbox;
        Arc::new(Self {
            bytes: Leaving::new(limit),
            limit,
            cancelled: OnceLock::new(),
            ended: AtomicBool::new(false),
            serving,
            forwards: Arc::default(),
            own_streams,
            big_bytes: Arc::default(),
            big_limit: inner.limits.big_bodies,
            big_room: Arc::default(),
        })
    }

    /// Waits until the asker has taken enough of its answers.
    async fn room(&self) {
        self.bytes.room().await;
        loop {
            let changed = self.big_room.notified();
            if self.big_bytes.load(Ordering::Relaxed) <= self.big_limit {
                return;
            }
            changed.await;
        }
    }

    fn cancel(&self, correlation: u32) {
        let table =
            self.cancelled.get_or_init(|| (0..SLOTS_MAX).map(|_| AtomicU32::new(0)).collect());
        if let Some(slot) = table.get(correlation as usize % SLOTS_MAX) {
            slot.store(correlation, Ordering::Release);
        }
        self.forwards.cancel(correlation);
    }

    fn end(&self, reason: &str) {
        self.ended.store(true, Ordering::Release);
        self.bytes.close(&reason.into());
        self.forwards.cancel_all();
    }

    fn answer(&self, frame: &[u8]) {
        let waiting = self.bytes.push_always(frame);
        if waiting > self.limit.saturating_mul(4) {
            self.not_reading();
        }
    }

    fn not_reading(&self) {
        const WHY: &str = "the peer asks and does not read the answers";
        self.ended.store(true, Ordering::Release);
        self.bytes.close(&WHY.into());
        if let Some((link, ..)) = &self.own_streams {
            tracing::warn!(target: "weft::link", peer = %link.peer.identity, "{WHY}: closed");
            link.close(close::NOT_READING, WHY);
        }
    }
}

impl Outbox for Answers {
    fn push(&self, _correlation: u32, frame: &mut Vec<u8>) {
        self.serving.leave();
        if frame.is_empty() {
            return;
        }
        let Some((link, class, handle)) =
            self.own_streams.as_ref().filter(|_| frame.len() > LANE_INLINE)
        else {
            return self.answer(frame);
        };
        let mut frame = std::mem::take(frame);
        if let Some(actor) = frame.get_mut(ACTOR_AT) {
            *actor = *class;
        }
        let size = frame.len();
        if self.big_bytes.fetch_add(size, Ordering::Relaxed) > self.big_limit.saturating_mul(4) {
            self.not_reading();
        }
        let (conn, bytes, room) =
            (link.conn.clone(), self.big_bytes.clone(), self.big_room.clone());
        handle.spawn(async move {
            let sent = async {
                let mut stream = conn.open_uni().await.ok()?;
                stream.write_all(&frame).await.ok()?;
                stream.finish().ok()?;
                stream.stopped().await.ok()
            };
            // If it fails, the connection has ended, and the asker is told by that.
            let _ = sent.await;
            bytes.fetch_sub(size, Ordering::Relaxed);
            room.notify_waiters();
        });
    }

    fn is_wanted(&self, correlation: u32) -> bool {
        if self.ended.load(Ordering::Acquire) {
            return false;
        }
        let cancelled = self.cancelled.get().and_then(|t| t.get(correlation as usize % SLOTS_MAX));
        cancelled.is_none_or(|slot| slot.load(Ordering::Acquire) != correlation)
    }

    fn forwards(&self) -> Option<Arc<Forwards>> {
        Some(self.forwards.clone())
    }
}

fn lie(what: impl std::fmt::Display) -> ReadError {
    ReadError::Lie(what.to_string())
}

/// Serves one lane until it ends.
pub(crate) async fn serve_lane<R, W>(
    inner: &Arc<Inner>,
    source: &Source,
    mut reader: FrameReader<R>,
    write: W,
    answers: Arc<Answers>,
) -> Result<(), ReadError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let write = Arc::new(AsyncMutex::new(write));
    let (draining, stream) = (answers.clone(), write.clone());
    let writer = AbortOnDropHandle::new(tokio::spawn(async move {
        let drained = draining.bytes.drain(&stream, || draining.serving.now() > 0).await;
        if let Err(error) = drained {
            draining.end(&error.to_string());
        }
        let _ = stream.lock().await.shutdown().await;
    }));
    let result = read_requests(inner, source, &mut reader, &write, &answers).await;
    answers.end("the stream has ended");
    drop(writer);
    result
}

async fn read_requests<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    inner: &Arc<Inner>,
    source: &Source,
    reader: &mut FrameReader<R>,
    write: &AsyncMutex<W>,
    answers: &Arc<Answers>,
) -> Result<(), ReadError> {
    let mut spare = Vec::new();
    loop {
        answers.room().await;
        if answers.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(chunk) = reader.chunk().await? else { return Ok(()) };
        // Answers given at once leave together.
        let corked = Corked::new(&answers.bytes);
        let batch = inner.batch(source);
        let mut at = 0;
        while let Some((Frame { header, extension, .. }, body)) = next_frame(&chunk, &mut at)? {
            match header.kind {
                Kind::Ask if !answers.serving.enter() => {
                    let error = answers.serving.overloaded();
                    answers.answer(&error_frame(header.correlation, &error));
                }
                Kind::Ask => {
                    let reply = WireReply::new(answers.clone(), header.correlation);
                    inner.deliver(&batch, &header, extension, body, Way::Ask(reply));
                }
                Kind::Tell => inner.deliver(&batch, &header, extension, body, Way::Tell),
                Kind::Cancel => answers.cancel(header.correlation),
                kind => return Err(lie(format_args!("a {kind:?} frame among requests"))),
            }
        }
        drop(corked);
        drop(batch);
        // Written from here: a writer that has to be woken first costs more than the write.
        answers.bytes.flush(write, &mut spare).await?;
        tokio::task::coop::consume_budget().await;
    }
}

/// Keeps answers together while it lives.
struct Corked<'a>(&'a Leaving);

impl<'a> Corked<'a> {
    fn new(bytes: &'a Leaving) -> Self {
        bytes.cork();
        Self(bytes)
    }
}

impl Drop for Corked<'_> {
    fn drop(&mut self) {
        self.0.uncork();
    }
}

/// Serves one subscription: what the actor sends goes out, until either side has enough.
pub(crate) async fn serve_subscription<R, W>(
    inner: &Arc<Inner>,
    source: &Source,
    first: &bytes::Bytes,
    mut reader: FrameReader<R>,
    mut write: W,
) -> Result<(), ReadError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut at = 0;
    let Some((frame, body)) = next_frame(first, &mut at)? else { return Ok(()) };
    let (sink, mut frames) = mpsc::channel::<Vec<u8>>(ITEMS_WAITING);
    inner.deliver(&inner.batch(source), &frame.header, frame.extension, body, Way::Subscribe(sink));
    let mut batch: Vec<Vec<u8>> = Vec::new();
    let mut listening = std::pin::pin!(reader.ended());
    loop {
        batch.clear();
        let taken = tokio::select! {
            taken = frames.recv_many(&mut batch, ITEMS_WAITING) => taken,
            () = &mut listening => return Ok(()),
        };
        let failed = batch.last().and_then(|last| last.get(KIND_AT)) == Some(&(Kind::Error as u8));
        let over = taken == 0;
        let bytes = if over { end_frame() } else { batch.concat() };
        let written = async {
            write.write_all(&bytes).await?;
            write.flush().await
        };
        tokio::select! {
            written = written => written?,
            () = &mut listening => return Ok(()),
        }
        if over || failed {
            write.shutdown().await?;
            return Ok(());
        }
    }
}

/// The one answer of an ask on a stream of its own.
struct OneAnswer {
    sender: Mutex<Option<oneshot::Sender<Vec<u8>>>>,
    serving: Arc<InFlight>,
}

impl Outbox for OneAnswer {
    fn push(&self, _correlation: u32, frame: &mut Vec<u8>) {
        self.serving.leave();
        if let Some(sender) = self.sender.lock().take() {
            let _ = sender.send(std::mem::take(frame));
        }
    }

    fn is_wanted(&self, _correlation: u32) -> bool {
        self.sender.lock().as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

async fn serve_own_stream(
    inner: &Arc<Inner>,
    source: &Source,
    serving: &Arc<InFlight>,
    first: &bytes::Bytes,
    mut write: quinn::SendStream,
) -> Result<(), ReadError> {
    let mut at = 0;
    let Some((frame, body)) = next_frame(first, &mut at)? else { return Ok(()) };
    let (sender, receiver) = oneshot::channel();
    if serving.enter() {
        let outbox = OneAnswer { sender: Mutex::new(Some(sender)), serving: serving.clone() };
        let reply = WireReply::new(Arc::new(outbox), 0);
        let batch = inner.batch(source);
        inner.deliver(&batch, &frame.header, frame.extension, body, Way::Ask(reply));
    } else {
        let _ = sender.send(error_frame(0, &serving.overloaded()));
    }
    let stopped = write.stopped();
    let answer = tokio::select! {
        answer = receiver => answer,
        // The asker no longer wants it; dropping the receiver says so to the actor.
        _ = stopped => return Ok(()),
    };
    if let Ok(answer) = answer {
        write.write_all(&answer).await.map_err(std::io::Error::from)?;
        let _ = write.finish();
        let _ = write.stopped().await;
    }
    Ok(())
}

/// Serves a whole connection until it ends. Clients pass no `inner`: they are asked nothing.
pub(crate) async fn serve_link(inner: Option<Arc<Inner>>, link: Arc<Link>, source: Source) {
    let source = Arc::new(source);
    let budget = Arc::new(Semaphore::new(
        inner.as_ref().map_or(64 * 1024 * 1024, |inner| inner.limits.big_bodies) / 1024,
    ));
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            stream = link.conn.accept_bi() => {
                let Ok((write, read)) = stream else { break };
                let Some(inner) = inner.clone() else { continue };
                let (link, source, budget) = (link.clone(), source.clone(), budget.clone());
                streams.spawn(async move {
                    let served = serve_bi(&inner, &link, &source, &budget, write, read).await;
                    ended(&link, served);
                });
            }
            stream = link.conn.accept_uni() => {
                let Ok(read) = stream else { break };
                let (inner, link) = (inner.clone(), link.clone());
                let (source, budget) = (source.clone(), budget.clone());
                streams.spawn(async move {
                    let served = serve_uni(inner.as_ref(), &link, &source, &budget, read).await;
                    ended(&link, served);
                });
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

/// A lie ends the connection; everything else ends only its stream.
fn ended(link: &Link, served: Result<(), ReadError>) {
    if let Err(ReadError::Lie(what)) = served {
        tracing::warn!(
            target: "weft::link",
            peer = %link.peer.identity, remote = %link.remote(), what, "broken frame: closed"
        );
        link.close(close::LIE, &format!("broken frame: {what}"));
    }
}

async fn serve_bi(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    source: &Source,
    budget: &Arc<Semaphore>,
    write: quinn::SendStream,
    read: quinn::RecvStream,
) -> Result<(), ReadError> {
    let mut reader = FrameReader::new(read, frame::FRAME_MAX);
    let Some((first, _share)) = reader.one(Some(budget)).await? else { return Ok(()) };
    let header = match next_frame(&first, &mut 0)? {
        Some((frame, _)) => frame.header,
        None => return Ok(()),
    };
    if let Some(class) = lane_class(&header) {
        reader.set_limit(LANE_FRAME_MAX);
        let class = u8::try_from(class).unwrap_or(1);
        let own_streams = inner.handle().map(|handle| (link.clone(), class, handle));
        let answers = Answers::new(inner, link.serving.clone(), own_streams);
        let _ = write.set_priority(2 - i32::from(class));
        return serve_lane(inner, source, reader, write, answers).await;
    }
    match header.kind {
        Kind::Subscribe => {
            let _place = Place::take(&link.subscriptions);
            serve_subscription(inner, source, &first, reader, write).await
        }
        Kind::Ask => serve_own_stream(inner, source, &link.serving, &first, write).await,
        kind => Err(lie(format_args!("a stream that begins with a {kind:?} frame"))),
    }
}

async fn serve_uni(
    inner: Option<&Arc<Inner>>,
    link: &Arc<Link>,
    source: &Source,
    budget: &Arc<Semaphore>,
    read: quinn::RecvStream,
) -> Result<(), ReadError> {
    let mut reader = FrameReader::new(read, frame::FRAME_MAX);
    let Some((bytes, _share)) = reader.one(Some(budget)).await? else {
        link.peer_done.store(true, Ordering::Release);
        return Ok(());
    };
    let mut at = 0;
    let Some((frame, body)) = next_frame(&bytes, &mut at)? else { return Ok(()) };
    match (frame.header.kind, inner) {
        (Kind::Tell, Some(inner)) => {
            inner.deliver(&inner.batch(source), &frame.header, frame.extension, body, Way::Tell);
            Ok(())
        }
        (Kind::Reply | Kind::Error, _) => {
            let outcome = outcome(&frame.header, body)?;
            if link.requester.complete(frame.header.actor, frame.header.correlation, outcome) {
                Ok(())
            } else {
                Err(lie("an answer to nothing that was asked"))
            }
        }
        (kind, _) => Err(lie(format_args!("a {kind:?} frame on a one-way stream"))),
    }
}

/// Answers the one ask of a join connection; `failed` is called before a bad answer leaves.
pub(crate) async fn serve_join(
    inner: &Arc<Inner>,
    mut write: quinn::SendStream,
    read: quinn::RecvStream,
    within: std::time::Duration,
    failed: impl FnOnce(),
) -> Result<(), ReadError> {
    let source = Source::new(weft_wire::Identity::Joiner);
    let mut reader = FrameReader::new(read, frame::INLINE_MAX);
    let Some((first, _)) = reader.one(None).await? else { return Ok(()) };
    let mut at = 0;
    let Some((frame, body)) = next_frame(&first, &mut at)? else { return Ok(()) };
    if frame.header.kind != Kind::Ask {
        return Err(lie("a joiner that does not ask"));
    }
    let (sender, receiver) = oneshot::channel();
    let serving = Arc::new(InFlight::new(1));
    serving.enter();
    let outbox = OneAnswer { sender: Mutex::new(Some(sender)), serving };
    let reply = WireReply::new(Arc::new(outbox), 0);
    inner.deliver(&inner.batch(&source), &frame.header, frame.extension, body, Way::Ask(reply));
    let answer = match tokio::time::timeout(within, receiver).await {
        Ok(Ok(answer)) => answer,
        _ => error_frame(0, &AskError::Timeout),
    };
    if answer.get(KIND_AT) != Some(&(Kind::Reply as u8)) {
        failed();
    }
    write.write_all(&answer).await.map_err(std::io::Error::from)?;
    let _ = write.finish();
    let _ = write.stopped().await;
    Ok(())
}
