//! The asking half of a connection: lanes, and what waits for an answer on each.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use weft_wire::frame::{self, Header, Kind};
use weft_wire::{AskError, codec};

use crate::outbox::{Outbox, PushError, with_scratch};
use crate::reader::{FrameReader, INLINE_FRAME_MAX, ReadError, next_frame};

/// How often waiting asks are checked against their deadlines.
const SWEEP: Duration = Duration::from_millis(5);
/// Bits of a correlation that are a slot; the rest counts the slot's uses.
const SLOT_BITS: u32 = 16;
/// No lane has more asks in flight.
pub(crate) const SLOTS_MAX: usize = 1 << SLOT_BITS;

/// A good answer, still encoded.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) version: u16,
    pub(crate) body: Bytes,
}

/// Why there is no good answer. Small, because it is moved about with every answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The peer's answer.
    Answered(Box<AskError>),
    /// The deadline has passed.
    Timeout,
    /// The connection ended after the request was sent.
    Lost(Arc<str>),
    /// Nothing was sent: the connection had ended.
    NotSent(Arc<str>),
    /// Nothing was sent: a bound is reached, or the request cannot be encoded.
    Refused(Box<AskError>),
}

impl Fault {
    pub(crate) fn refused(error: AskError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<Fault> for AskError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Answered(error) | Fault::Refused(error) => *error,
            Fault::Timeout => Self::Timeout,
            Fault::Lost(reason) | Fault::NotSent(reason) => Self::Unreachable(reason.to_string()),
        }
    }
}

/// Requests in flight to one peer, over all its streams.
#[derive(Debug)]
pub(crate) struct InFlight {
    now: AtomicUsize,
    most: usize,
}

impl InFlight {
    pub(crate) fn new(most: usize) -> Self {
        Self { now: AtomicUsize::new(0), most: most.min(SLOTS_MAX) }
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// Takes a place. The owner gives it back with [`InFlight::leave`].
    pub(crate) fn enter(&self) -> bool {
        if self.now.fetch_add(1, Ordering::Relaxed) < self.most {
            return true;
        }
        self.leave();
        false
    }

    pub(crate) fn leave(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn overloaded(&self) -> AskError {
        overloaded(self.most)
    }
}

fn overloaded(most: usize) -> AskError {
    AskError::Overloaded(format!("{most} requests to this peer are in flight"))
}

enum Slot {
    Free { next: Option<u32>, uses: u32 },
    Waiting { uses: u32, deadline: Instant, waker: Option<Waker> },
    Done { uses: u32, outcome: Result<Answered, Fault> },
}

#[derive(Default)]
struct Pending {
    slots: Vec<Slot>,
    free: Option<u32>,
    waiting: usize,
    /// Whether the sweeper is at work.
    sweeping: bool,
    closed: Option<Arc<str>>,
}

const fn correlation(slot: u32, uses: u32) -> u32 {
    slot | uses << SLOT_BITS
}

impl Pending {
    fn insert(&mut self, deadline: Instant, waker: Option<Waker>) -> Result<u32, Fault> {
        if let Some(reason) = &self.closed {
            return Err(Fault::NotSent(reason.clone()));
        }
        let waiting = |uses, waker| Slot::Waiting { uses, deadline, waker };
        self.waiting += 1;
        if let Some(index) = self.free
            && let Some(slot) = self.slots.get_mut(index as usize)
            && let Slot::Free { next, uses } = *slot
        {
            // 0 is never a correlation, so that 0 can mean "none".
            let uses = ((uses + 1) & (u32::MAX >> SLOT_BITS)).max(1);
            *slot = waiting(uses, waker);
            self.free = next;
            return Ok(correlation(index, uses));
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(waiting(1, waker));
        Ok(correlation(index, 1))
    }

    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut((id & (u32::MAX >> (32 - SLOT_BITS))) as usize)?;
        let of = id >> SLOT_BITS;
        matches!(slot, Slot::Waiting { uses, .. } | Slot::Done { uses, .. } if *uses == of)
            .then_some(slot)
    }

    fn release(&mut self, id: u32) -> Option<Slot> {
        let next = self.free;
        let slot = self.slot(id)?;
        let free = Slot::Free { next, uses: id >> SLOT_BITS };
        let old = std::mem::replace(slot, free);
        self.free = Some(id & (u32::MAX >> (32 - SLOT_BITS)));
        self.waiting -= 1;
        Some(old)
    }

    fn complete(&mut self, id: u32, outcome: Result<Answered, Fault>) -> Option<Waker> {
        let slot = self.slot(id)?;
        let Slot::Waiting { uses, waker, .. } = slot else { return None };
        let (uses, waker) = (*uses, waker.take());
        *slot = Slot::Done { uses, outcome };
        waker
    }
}

/// One ordered stream of requests to a peer and of its answers.
pub(crate) struct Lane {
    outbox: Outbox,
    pending: Mutex<Pending>,
    sweep: Notify,
    /// Asks that may wait.
    most: usize,
}

/// A request, ready to be encoded.
pub(crate) struct Request<'a> {
    pub(crate) header: Header,
    pub(crate) extension: Option<frame::Extension>,
    pub(crate) body: &'a dyn Fn(&mut Vec<u8>) -> Result<(), codec::CodecError>,
}

impl Request<'_> {
    /// Encodes it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, correlation: u32) -> Result<(), Fault> {
        let header = Header { correlation, ..self.header };
        let body = |out: &mut Vec<u8>| (self.body)(out);
        match frame::write(out, header, self.extension.as_ref(), body) {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = weft_wire::Failure::new(
                    weft_wire::FailureKind::Invalid,
                    "the message cannot be sent",
                );
                Err(Fault::refused(AskError::Failed(failure.cause(error))))
            }
        }
    }
}

/// What became of a request that was to be sent on a lane.
pub(crate) enum Sent {
    /// It is on its way.
    Inline(LaneAnswer),
    /// It is too big for a lane; here is its frame (correlation 0).
    Big(Vec<u8>),
}

impl Lane {
    pub(crate) fn new(outbox: usize, in_flight: usize) -> Arc<Self> {
        Arc::new(Self {
            outbox: Outbox::new(outbox),
            pending: Mutex::new(Pending::default()),
            sweep: Notify::new(),
            most: in_flight.min(SLOTS_MAX),
        })
    }

    fn refused(error: PushError) -> Fault {
        match error {
            PushError::Full => Fault::refused(AskError::Overloaded(
                "too many bytes wait to be sent to this peer".into(),
            )),
            PushError::Closed(reason) => Fault::NotSent(reason),
        }
    }

    /// Sends an ask. Requests of one sender leave in the order they were sent in.
    pub(crate) fn ask(
        self: &Arc<Self>,
        request: &Request<'_>,
        deadline: Instant,
        inline: usize,
        waker: Option<&Waker>,
    ) -> Result<Sent, Fault> {
        let (id, wake) = {
            let mut pending = self.pending.lock();
            if pending.waiting >= self.most {
                return Err(Fault::refused(overloaded(self.most)));
            }
            let id = pending.insert(deadline, waker.cloned())?;
            (id, !std::mem::replace(&mut pending.sweeping, true))
        };
        if wake {
            self.sweep.notify_one();
        }
        // From here on the answer's drop cleans up.
        let armed = waker.is_some();
        let mut answer = LaneAnswer { lane: self.clone(), id, state: Waiting::Unsent, armed };
        let mut big = None;
        with_scratch(|out| {
            request.encode(out, id)?;
            if out.len() > inline {
                big = Some(std::mem::take(out));
                return Ok(());
            }
            self.outbox.push(out).map_err(Self::refused)
        })?;
        Ok(match big {
            None => {
                answer.state = Waiting::Sent;
                Sent::Inline(answer)
            }
            Some(frame) => Sent::Big(frame),
        })
    }

    /// Sends a tell; `Some`: it is too big for a lane, here is its frame.
    pub(crate) fn tell(
        &self,
        request: &Request<'_>,
        inline: usize,
    ) -> Result<Option<Vec<u8>>, Fault> {
        with_scratch(|out| {
            request.encode(out, 0)?;
            if out.len() > inline {
                return Ok(Some(std::mem::take(out)));
            }
            self.outbox.push(out).map_err(Self::refused)?;
            Ok(None)
        })
    }

    /// Sends frames that were encoded before there was a connection.
    pub(crate) fn send_encoded(&self, frames: &[u8]) -> Result<(), Fault> {
        self.outbox.push(frames).map_err(Self::refused)
    }

    /// Completes one ask, whose answer came on a stream of its own.
    pub(crate) fn complete(&self, id: u32, outcome: Result<Answered, Fault>) {
        let waker = self.pending.lock().complete(id, outcome);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the lane: what waits fails, what comes is refused.
    pub(crate) fn fail(&self, reason: &Arc<str>) {
        self.outbox.close(reason);
        let mut wakers = Vec::new();
        {
            let mut pending = self.pending.lock();
            if pending.closed.is_none() {
                pending.closed = Some(reason.clone());
            }
            for slot in &mut pending.slots {
                if let Slot::Waiting { uses, waker, .. } = slot {
                    wakers.extend(waker.take());
                    *slot = Slot::Done { uses: *uses, outcome: Err(Fault::Lost(reason.clone())) };
                }
            }
        }
        self.sweep.notify_one();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Asks without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.lock().waiting
    }

    /// Bytes that have not left yet.
    pub(crate) fn unsent(&self) -> usize {
        self.outbox.waiting()
    }

    /// Carries frames over `read` and `write` until either ends; says why.
    pub(crate) async fn run<R, W>(self: &Arc<Self>, read: R, write: W, limit: usize) -> String
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        self.run_reader(FrameReader::new(read, limit), write).await
    }

    /// As [`Lane::run`], with a reader that has read something already.
    pub(crate) async fn run_reader<R, W>(
        self: &Arc<Self>,
        reader: FrameReader<R>,
        write: W,
    ) -> String
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let writer = self.clone();
        let mut writing = AbortOnDropHandle::new(tokio::spawn(async move {
            let crowded = || writer.in_flight() > 1;
            writer.outbox.drain(&AsyncMutex::new(write), crowded).await
        }));
        let _sweeper = AbortOnDropHandle::new(tokio::spawn(self.clone().sweep_deadlines()));
        let reader = self.read_answers(reader);
        tokio::select! {
            ended = reader => match ended {
                Ok(()) => "the peer ended the stream".to_owned(),
                Err(error) => error.to_string(),
            },
            ended = &mut writing => match ended {
                Ok(Ok(())) => "closed by this side".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            },
        }
    }

    async fn read_answers<R: AsyncRead + Unpin>(
        &self,
        mut reader: FrameReader<R>,
    ) -> Result<(), ReadError> {
        let (mut wakers, mut answers) = (Vec::new(), Vec::new());
        while let Some(chunk) = reader.chunk().await? {
            let mut at = 0;
            while let Some((frame, body)) = next_frame(&chunk, &mut at)? {
                answers.push((frame.header.correlation, outcome(&frame.header, body)?));
            }
            {
                // Held briefly: every asker wants it.
                let mut pending = self.pending.lock();
                for (id, outcome) in answers.drain(..) {
                    wakers.extend(pending.complete(id, outcome));
                }
            }
            wakers.drain(..).for_each(Waker::wake);
        }
        Ok(())
    }

    async fn sweep_deadlines(self: Arc<Self>) {
        let mut late = Vec::new();
        loop {
            self.sweep.notified().await;
            loop {
                tokio::time::sleep(SWEEP).await;
                let now = Instant::now();
                let mut wakers = Vec::new();
                {
                    let mut pending = self.pending.lock();
                    if pending.closed.is_some() {
                        return;
                    }
                    if pending.waiting == 0 {
                        pending.sweeping = false;
                        break;
                    }
                    for (index, slot) in (0u32..).zip(&mut pending.slots) {
                        if let Slot::Waiting { uses, deadline, waker } = slot
                            && *deadline <= now
                        {
                            late.push(correlation(index, *uses));
                            wakers.extend(waker.take());
                            *slot = Slot::Done { uses: *uses, outcome: Err(Fault::Timeout) };
                        }
                    }
                }
                wakers.into_iter().for_each(Waker::wake);
                late.drain(..).for_each(|id| self.cancel(id));
            }
        }
    }

    fn cancel(&self, id: u32) {
        let header = Header {
            kind: Kind::Cancel,
            id: 0,
            version: 1,
            actor: 0,
            correlation: id,
            deadline_ms: 0,
        };
        with_scratch(|out| {
            if frame::write(out, header, None, |_| Ok(())).is_ok() {
                // A lost cancel costs the peer some work, nothing else.
                let _ = self.outbox.push(out);
            }
        });
    }
}

/// What an answering frame says.
pub(crate) fn outcome(header: &Header, body: Bytes) -> Result<Result<Answered, Fault>, ReadError> {
    match header.kind {
        Kind::Reply => Ok(Ok(Answered { version: header.version, body })),
        Kind::Error => match codec::decode::<AskError>(&body) {
            Ok(error) => Ok(Err(Fault::Answered(Box::new(error)))),
            Err(error) => Err(ReadError::Lie(format!("an error answer: {error}"))),
        },
        kind => Err(ReadError::Lie(format!("a {kind:?} frame among answers"))),
    }
}

#[derive(PartialEq, Eq)]
enum Waiting {
    Unsent,
    Sent,
    Over,
}

/// The answer of one ask, to come. Dropped, it cancels the ask.
pub(crate) struct LaneAnswer {
    lane: Arc<Lane>,
    id: u32,
    state: Waiting,
    /// Its waker was left when it was sent, by the very poll that now awaits it.
    armed: bool,
}

impl Future for LaneAnswer {
    type Output = Result<Answered, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::take(&mut self.armed) {
            return Poll::Pending;
        }
        let mut pending = self.lane.pending.lock();
        match pending.slot(self.id) {
            Some(Slot::Waiting { waker, .. }) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            Some(Slot::Done { .. }) => {
                let done = pending.release(self.id);
                drop(pending);
                self.state = Waiting::Over;
                match done {
                    Some(Slot::Done { outcome, .. }) => Poll::Ready(outcome),
                    _ => Poll::Ready(Err(Fault::Timeout)),
                }
            }
            // Polled again after its end.
            Some(Slot::Free { .. }) | None => Poll::Ready(Err(Fault::Timeout)),
        }
    }
}

impl Drop for LaneAnswer {
    fn drop(&mut self) {
        if self.state == Waiting::Over {
            return;
        }
        let was = self.lane.pending.lock().release(self.id);
        if self.state == Waiting::Sent && matches!(was, Some(Slot::Waiting { .. })) {
            self.lane.cancel(self.id);
        }
    }
}

/// Sends one request on a stream of its own and reads its one answer.
pub(crate) async fn ask_on_own_stream<R, W>(
    read: R,
    mut write: W,
    request: &[u8],
) -> Result<Answered, Fault>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let lost = |reason: String| Fault::Lost(reason.into());
    write.write_all(request).await.map_err(|error| lost(error.to_string()))?;
    write.shutdown().await.map_err(|error| lost(error.to_string()))?;
    let mut reader = FrameReader::new(read, frame::FRAME_MAX);
    match reader.one(None).await {
        Ok(Some((bytes, _))) => {
            let mut at = 0;
            match next_frame(&bytes, &mut at) {
                Ok(Some((frame, body))) => outcome(&frame.header, body)
                    .map_err(|error| lost(error.to_string()))
                    .and_then(std::convert::identity),
                _ => Err(lost("the peer answered with something else".into())),
            }
        }
        Ok(None) => Err(lost("the peer ended the stream without an answer".into())),
        Err(error) => Err(lost(error.to_string())),
    }
}

/// Largest frame that still goes on a lane of a QUIC connection.
pub(crate) const LANE_INLINE: usize = frame::INLINE_MAX + frame::HEADER;
/// Largest answer frame on such a lane.
pub(crate) const LANE_FRAME_MAX: usize = INLINE_FRAME_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert,
        Complete(usize),
        Release(usize),
        Stale(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Insert),
            2 => (0usize..64).prop_map(Step::Complete),
            3 => (0usize..64).prop_map(Step::Release),
            1 => any::<u32>().prop_map(Step::Stale),
        ]
    }

    proptest! {
        #[test]
        fn no_two_asks_in_flight_share_a_correlation_and_a_late_answer_hits_nobody(
            steps in prop::collection::vec(step(), 0..300)
        ) {
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut pending = Pending::default();
            let mut live: Vec<u32> = Vec::new();
            let mut gone: Vec<u32> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert => {
                        let id = pending.insert(deadline, None).expect("open");
                        prop_assert!(id != 0 && !live.contains(&id) && !gone.contains(&id));
                        live.push(id);
                    }
                    Step::Complete(n) if n < live.len() => {
                        pending.complete(live[n], Err(Fault::Timeout));
                    }
                    Step::Release(n) if n < live.len() => {
                        let id = live.swap_remove(n);
                        prop_assert!(pending.release(id).is_some());
                        gone.push(id);
                    }
                    Step::Stale(id) if !live.contains(&id) => {
                        prop_assert!(pending.complete(id, Err(Fault::Timeout)).is_none());
                        prop_assert!(pending.release(id).is_none());
                    }
                    _ => {}
                }
                prop_assert_eq!(pending.waiting, live.len());
                for id in &live {
                    prop_assert!(pending.slot(*id).is_some());
                }
                for id in &gone {
                    prop_assert!(pending.slot(*id).is_none());
                }
            }
        }
    }
}
