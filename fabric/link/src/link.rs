//! One live connection: what this side asks over it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use weft_identity::PeerIdentity;
use weft_wire::frame::{self, Kind};
use weft_wire::{AskError, Class, WallTime};

use crate::error::explain;
use crate::hello::{Hello, lane_frame};
use crate::reader::{FrameReader, ReadError, next_frame};
use crate::requester::{
    Answered, Fault, InFlight, LANE_FRAME_MAX, LANE_INLINE, Lane, LaneAnswer, Request, Sent,
    ask_on_own_stream, outcome,
};

/// Bounds of a fabric's links.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests in flight to one peer, and from one peer; beyond: `Overloaded`. At most 65536.
    pub in_flight: usize,
    /// Bytes that may wait for one stream; beyond: `Overloaded` for asks and tells, while answers
    /// make the reader of requests wait.
    pub outbox: usize,
    /// Streams a peer may open beside its lanes (subscriptions, bodies over 64 KiB).
    pub streams: u32,
    /// Bytes of bodies over 64 KiB that may be on their way in from one peer.
    pub big_bodies: usize,
    /// A handshake and its hello take no longer.
    pub handshake: Duration,
    /// A quiet connection shows a sign of life this often.
    pub keep_alive: Duration,
    /// A peer without a sign of life for this long is lost.
    pub idle: Duration,
    /// How the delays between dials grow.
    pub backoff: weft_wire::Backoff,
    /// Failed joins a minute from one address before it is shut out.
    pub failed_joins: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 8192,
            outbox: 8 * 1024 * 1024,
            streams: 256,
            big_bodies: 64 * 1024 * 1024,
            handshake: Duration::from_secs(3),
            keep_alive: Duration::from_secs(1),
            idle: Duration::from_secs(5),
            backoff: weft_wire::Backoff {
                base: Duration::from_millis(100),
                max: Duration::from_secs(2),
                jitter: 0.2,
            },
            failed_joins: 10,
        }
    }
}

/// The asking half of a connection. Requests of one class share a lane; over a Unix socket there
/// is one lane for all.
pub(crate) struct Requester {
    conn: Option<quinn::Connection>,
    lanes: [OnceLock<Arc<Lane>>; 3],
    /// Asks on streams of their own; the lanes count theirs.
    own: Arc<InFlight>,
    big_bytes: Arc<AtomicUsize>,
    limits: Limits,
    handle: Handle,
}

/// The answer of one ask, to come.
pub(crate) enum Answer {
    Lane(LaneAnswer),
    Own(oneshot::Receiver<Result<Answered, Fault>>),
}

impl Future for Answer {
    type Output = Result<Answered, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Lane(answer) => Pin::new(answer).poll(context),
            Self::Own(answer) => Pin::new(answer).poll(context).map(|answer| {
                answer.unwrap_or_else(|_| Err(Fault::Lost("closed by this side".into())))
            }),
        }
    }
}

/// The reading end of a subscription to the peer.
pub(crate) struct ItemStream {
    pub(crate) reader: FrameReader<quinn::RecvStream>,
    /// Kept open: its end tells the peer that nobody listens any more.
    pub(crate) _open: quinn::SendStream,
}

impl Requester {
    pub(crate) fn quic(conn: quinn::Connection, limits: &Limits, handle: Handle) -> Self {
        Self {
            conn: Some(conn),
            lanes: Default::default(),
            own: Arc::new(InFlight::new(limits.in_flight)),
            big_bytes: Arc::default(),
            limits: limits.clone(),
            handle,
        }
    }

    /// Over one ready lane, which carries everything.
    pub(crate) fn single(lane: Arc<Lane>, limits: &Limits, handle: Handle) -> Self {
        Self {
            conn: None,
            lanes: [lane.into(), OnceLock::new(), OnceLock::new()],
            own: Arc::new(InFlight::new(0)),
            big_bytes: Arc::default(),
            limits: limits.clone(),
            handle,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        let lanes = self.lanes.iter().filter_map(OnceLock::get);
        self.own.now() + lanes.map(|lane| lane.in_flight()).sum::<usize>()
    }

    fn inline(&self) -> usize {
        if self.conn.is_some() { LANE_INLINE } else { frame::FRAME_MAX }
    }

    fn lane(&self, class: Class) -> &Arc<Lane> {
        let Some(conn) = &self.conn else {
            let [only, ..] = &self.lanes;
            return only.get_or_init(|| Lane::new(0, 0));
        };
        let index = class as usize;
        let slot = self.lanes.get(index).unwrap_or(&self.lanes[1]);
        slot.get_or_init(|| {
            let lane = Lane::new(self.limits.outbox, self.limits.in_flight);
            self.handle.spawn(run_lane(conn.clone(), class, lane.clone()));
            lane
        })
    }

    /// Completes an ask whose big answer came on a stream of its own.
    pub(crate) fn complete(
        &self,
        class: u8,
        correlation: u32,
        outcome: Result<Answered, Fault>,
    ) -> bool {
        let lane = self.lanes.get(usize::from(class)).and_then(OnceLock::get);
        if let Some(lane) = lane {
            lane.complete(correlation, outcome);
        }
        lane.is_some()
    }

    fn take_big(&self, bytes: usize) -> Result<BigShare, Fault> {
        let share = BigShare { all: self.big_bytes.clone(), bytes };
        let before = self.big_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > self.limits.big_bodies {
            return Err(Fault::refused(AskError::Overloaded(
                "too many large messages are on their way to this peer".into(),
            )));
        }
        Ok(share)
    }

    /// Sends an ask; sent when this returns, in the order of the calls within a class. With a
    /// `waker`, the answer must be awaited by the very poll that calls this.
    pub(crate) fn ask(
        &self,
        class: Class,
        request: &Request<'_>,
        deadline: Instant,
        waker: Option<&Waker>,
    ) -> Result<Answer, Fault> {
        match self.lane(class).ask(request, deadline, self.inline(), waker)? {
            Sent::Inline(answer) => Ok(Answer::Lane(answer)),
            Sent::Big(frame) => {
                let Some(conn) = self.conn.clone() else {
                    return Err(Fault::NotSent("the message is too large".into()));
                };
                let Some(place) = Place::take(&self.own) else {
                    return Err(Fault::refused(self.own.overloaded()));
                };
                let share = self.take_big(frame.len())?;
                let (mut sender, receiver) = oneshot::channel();
                self.handle.spawn(async move {
                    let _held = (place, share);
                    let work = async {
                        let (write, read) = conn
                            .open_bi()
                            .await
                            .map_err(|error| Fault::Lost(explain(&error).into()))?;
                        ask_on_own_stream(read, write, &frame).await.map_err(|fault| {
                            match (fault, conn.close_reason()) {
                                (Fault::Lost(_), Some(reason)) => {
                                    Fault::Lost(explain(&reason).into())
                                }
                                (fault, _) => fault,
                            }
                        })
                    };
                    let result = tokio::select! {
                        result = tokio::time::timeout_at(deadline, work) =>
                            result.unwrap_or(Err(Fault::Timeout)),
                        // Dropping the streams tells the peer.
                        () = sender.closed() => return,
                    };
                    let _ = sender.send(result);
                });
                Ok(Answer::Own(receiver))
            }
        }
    }

    /// Sends a tell.
    pub(crate) fn tell(&self, class: Class, request: &Request<'_>) -> Result<(), Fault> {
        let Some(frame) = self.lane(class).tell(request, self.inline())? else { return Ok(()) };
        self.tell_big(frame)
    }

    fn tell_big(&self, frame: Vec<u8>) -> Result<(), Fault> {
        let Some(conn) = self.conn.clone() else {
            return Err(Fault::NotSent("the message is too large".into()));
        };
        let share = self.take_big(frame.len())?;
        self.handle.spawn(async move {
            let _held = share;
            let sent = async {
                let mut stream = conn.open_uni().await.map_err(|error| explain(&error))?;
                stream.write_all(&frame).await.map_err(|error| error.to_string())?;
                stream.finish().map_err(|error| error.to_string())?;
                stream.stopped().await.map(drop).map_err(|error| error.to_string())
            };
            if let Err(error) = sent.await {
                tracing::debug!(target: "weft::link", error, "a large message was not sent");
            }
        });
        Ok(())
    }

    /// Sends a tell that was encoded before there was a connection.
    pub(crate) fn tell_encoded(&self, class: Class, frame: Vec<u8>) -> Result<(), Fault> {
        if frame.len() > self.inline() {
            return self.tell_big(frame);
        }
        self.lane(class).send_encoded(&frame)
    }

    /// Opens a subscription; ends when the peer has accepted or refused it.
    pub(crate) async fn subscribe(&self, frame: &[u8]) -> Result<ItemStream, Fault> {
        let conn = self.conn.as_ref().ok_or_else(|| Fault::NotSent("no connection".into()))?;
        let gone = |reason: String| {
            let reason = conn.close_reason().map_or(reason, |error| explain(&error));
            Fault::Lost(reason.into())
        };
        let (mut write, read) =
            conn.open_bi().await.map_err(|error| Fault::NotSent(explain(&error).into()))?;
        write.write_all(frame).await.map_err(|error| gone(error.to_string()))?;
        let mut reader = FrameReader::new(read, frame::FRAME_MAX);
        accepted(&mut reader).await.map_err(|fault| match fault {
            Fault::Lost(reason) => gone(reason.to_string()),
            fault => fault,
        })?;
        Ok(ItemStream { reader, _open: write })
    }

    /// Bytes that have not left yet.
    pub(crate) fn unsent(&self) -> usize {
        self.lanes.iter().filter_map(OnceLock::get).map(|lane| lane.unsent()).sum()
    }

    /// Fails all that waits.
    pub(crate) fn fail(&self, reason: &Arc<str>) {
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            lane.fail(reason);
        }
    }
}

/// Waits for the first frame of a subscription's answer.
pub(crate) async fn accepted<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
) -> Result<(), Fault> {
    let lost = |error: ReadError| Fault::Lost(error.to_string().into());
    let Some((bytes, _)) = reader.one(None).await.map_err(lost)? else {
        return Err(Fault::Lost("the peer ended the stream".into()));
    };
    let mut at = 0;
    match next_frame(&bytes, &mut at).map_err(lost)? {
        Some((frame, body)) => outcome(&frame.header, body).map_err(lost)?.map(drop),
        None => Err(Fault::Lost("the peer ended the stream".into())),
    }
}

/// One frame of a subscription.
pub(crate) enum Element {
    /// An item, still encoded.
    Item(bytes::Bytes),
    /// It ended well.
    End,
    /// It ended badly.
    Error(AskError),
}

/// Reads the next element.
pub(crate) async fn element<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
) -> Element {
    let bad = |what: String| Element::Error(AskError::Unreachable(what));
    let bytes = match reader.one(None).await {
        Ok(Some((bytes, _))) => bytes,
        Ok(None) => return bad("the stream was cut".into()),
        Err(error) => return bad(error.to_string()),
    };
    let mut at = 0;
    match next_frame(&bytes, &mut at) {
        Ok(Some((frame, body))) => match frame.header.kind {
            Kind::Item => Element::Item(body),
            Kind::End => Element::End,
            _ => match outcome(&frame.header, body) {
                Ok(Err(fault)) => Element::Error(fault.into()),
                Ok(Ok(_)) => bad("the peer accepted twice".into()),
                Err(error) => bad(error.to_string()),
            },
        },
        Ok(None) => bad("the stream was cut".into()),
        Err(error) => bad(error.to_string()),
    }
}

/// One of the things in flight.
pub(crate) struct Place(Arc<InFlight>);

impl Place {
    /// Takes a place.
    pub(crate) fn take(all: &Arc<InFlight>) -> Option<Self> {
        all.enter().then(|| Self(all.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

struct BigShare {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for BigShare {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

async fn run_lane(conn: quinn::Connection, class: Class, lane: Arc<Lane>) {
    let reason = match conn.open_bi().await {
        Ok((mut write, read)) => {
            // Liveness before requests, requests before bulk.
            let _ = write.set_priority(2 - class as i32);
            match write.write_all(&lane_frame(class as u8)).await {
                Ok(()) => lane.run(read, write, LANE_FRAME_MAX).await,
                Err(error) => error.to_string(),
            }
        }
        Err(error) => explain(&error),
    };
    // A lane that ends alone would lose answers unseen: the connection goes with it.
    if conn.close_reason().is_none() {
        conn.close(crate::error::close::LIE, reason.as_bytes());
    }
    let reason = conn.close_reason().map_or(reason, |error| match error {
        quinn::ConnectionError::LocallyClosed => reason_of_local(&conn),
        error => explain(&error),
    });
    lane.fail(&reason.into());
}

fn reason_of_local(conn: &quinn::Connection) -> String {
    format!("the connection to {} was closed by this side", conn.remote_address())
}

/// One live connection whose hello has been answered.
pub(crate) struct Link {
    pub(crate) conn: quinn::Connection,
    /// What the peer said of itself.
    pub(crate) hello: Hello,
    /// Whom its certificate names.
    pub(crate) peer: PeerIdentity,
    /// That certificate, DER.
    pub(crate) leaf: Vec<u8>,
    /// Serial of our own certificate at the time.
    pub(crate) own_serial: Vec<u8>,
    /// Whether this side dialled.
    pub(crate) dialled: bool,
    /// See [`Hello::supersedes`]; the dialler's.
    pub(crate) supersedes: u32,
    pub(crate) requester: Requester,
    /// Requests of the peer that are being answered.
    pub(crate) serving: Arc<InFlight>,
    /// The peer's wall clock minus ours, in microseconds.
    pub(crate) clock_offset: i64,
    pub(crate) up_since: Instant,
    /// When the last datagram came, and how many had come then.
    pub(crate) heard: Mutex<(Instant, u64)>,
    /// Until it is closed by either side: a look at this costs less than asking quinn.
    pub(crate) open: AtomicBool,
    /// Why this side closed it, if it did.
    pub(crate) closing: Mutex<Option<Arc<str>>>,
    /// Another connection is used instead.
    pub(crate) retired: Mutex<Option<Instant>>,
    /// The peer was told that this side waits for nothing more on it.
    pub(crate) told_done: AtomicBool,
    /// The peer said so: by a one-way stream without a byte.
    pub(crate) peer_done: AtomicBool,
    /// Subscriptions of either side.
    pub(crate) subscriptions: Arc<InFlight>,
}

impl Link {
    /// A connection after its hello. `dialled`: by this side, superseding so many.
    pub(crate) fn new(
        conn: quinn::Connection,
        (leaf, peer): (Vec<u8>, PeerIdentity),
        hello: Hello,
        own_serial: Vec<u8>,
        dialled: Option<u32>,
        (limits, handle, wall): (&Limits, &Handle, WallTime),
    ) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            requester: Requester::quic(conn.clone(), limits, handle.clone()),
            supersedes: dialled.unwrap_or(hello.supersedes),
            dialled: dialled.is_some(),
            serving: Arc::new(InFlight::new(limits.in_flight)),
            subscriptions: Arc::new(InFlight::new(usize::MAX)),
            clock_offset: hello.wall.as_micros().saturating_sub(wall.as_micros()),
            up_since: now,
            heard: Mutex::new((now, 0)),
            open: AtomicBool::new(true),
            closing: Mutex::default(),
            retired: Mutex::default(),
            told_done: AtomicBool::new(false),
            peer_done: AtomicBool::new(false),
            conn,
            hello,
            peer,
            leaf,
            own_serial,
        })
    }

    /// Closes it, with a reason that both sides show.
    pub(crate) fn close(&self, code: quinn::VarInt, reason: &str) {
        self.open.store(false, Ordering::Release);
        self.closing.lock().get_or_insert_with(|| reason.into());
        self.conn.close(code, reason.as_bytes());
    }

    /// Why it ended.
    pub(crate) fn reason(&self, error: &quinn::ConnectionError) -> Arc<str> {
        match (error, &*self.closing.lock()) {
            (quinn::ConnectionError::LocallyClosed, Some(reason)) => reason.clone(),
            _ => explain(error).into(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Where the peer is.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.conn.remote_address()
    }
}
