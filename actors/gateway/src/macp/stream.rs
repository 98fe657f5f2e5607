//! One StreamSession (§10): frames in, accepted envelopes out.
//!
//! What goes out is read from the session's log by a cursor, wherever its owner is: the stream
//! keeps the ordinal it has delivered and goes on from there, so a new owner neither repeats nor
//! leaves out anything, and a slow client holds up nobody but itself.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use weft_link::{Call, Items};
use weft_macp::macp::v1 as pb;
use weft_protocol::{FollowSession, ReadSessionHead, SessionItem, SessionRefusal, SessionState};
use weft_session::{Audience, Envelope, shape};
use weft_wire::{AskError, Backoff, TraceContext};

use super::auth::Caller;
use super::convert;
use super::errors::{early, ends_stream, error, refused, status, unanswered};
use super::service::{About, Shared, Streamed, reader};

/// Responses that wait for the client, at most.
const WAITING: usize = 32;
/// A subscription is accepted within this.
const WITHIN: Duration = Duration::from_secs(10);
/// A stream whose session has no owner at present looks for it so often.
const LOOKS: u32 = 40;
const LOOK: Backoff =
    Backoff { base: Duration::from_millis(20), max: Duration::from_secs(1), jitter: 0.2 };

type Out = Result<pb::StreamSessionResponse, Status>;

/// The stream ends.
enum End {
    /// With this status.
    Status(Status),
    /// The client is gone.
    Gone,
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

pub(crate) fn open(
    shared: Arc<Shared>,
    caller: Caller,
    trace: TraceContext,
    inbound: Streaming<pb::StreamSessionRequest>,
) -> Streamed<pb::StreamSessionResponse> {
    let (out, waiting) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut flow = Flow { shared, caller, trace, out, session: None, items: None, cursor: 0 };
        if let Err(End::Status(status)) = flow.run(inbound).await {
            let _ = flow.out.send(Err(status)).await;
        }
    });
    Box::pin(stream::unfold(waiting, |mut waiting| async move {
        Some((waiting.recv().await?, waiting))
    }))
}

struct Flow {
    shared: Arc<Shared>,
    caller: Caller,
    /// What its envelopes belong to.
    trace: TraceContext,
    out: mpsc::Sender<Out>,
    /// The one session it is about.
    session: Option<String>,
    /// What its owner sends.
    items: Option<Items<SessionItem>>,
    /// Ordinal of the last envelope delivered, or before the first.
    cursor: u64,
}

/// The next item; never, if nothing is followed.
async fn next(items: &mut Option<Items<SessionItem>>) -> Option<Result<SessionItem, AskError>> {
    match items {
        Some(items) => items.next().await,
        None => std::future::pending().await,
    }
}

impl Flow {
    async fn run(&mut self, mut inbound: Streaming<pb::StreamSessionRequest>) -> Result<(), End> {
        loop {
            tokio::select! {
                frame = inbound.message() => match frame {
                    Ok(Some(frame)) => self.frame(frame).await?,
                    Ok(None) => return self.drain().await,
                    Err(status) => return Err(status.into()),
                },
                item = next(&mut self.items) => match item {
                    Some(Ok(item)) => self.deliver(item).await?,
                    Some(Err(_)) | None => self.look().await?,
                },
                () = self.out.closed() => return Err(End::Gone),
            }
        }
    }

    async fn say(&self, response: pb::stream_session_response::Response) -> Result<(), End> {
        let response = pb::StreamSessionResponse { response: Some(response) };
        self.out.send(Ok(response)).await.map_err(|_| End::Gone)
    }

    async fn deliver(&mut self, item: SessionItem) -> Result<(), End> {
        match item {
            SessionItem::Envelope { ordinal, envelope } => {
                let envelope = convert::envelope(envelope);
                self.say(pb::stream_session_response::Response::Envelope(envelope)).await?;
                self.cursor = ordinal;
                Ok(())
            }
            SessionItem::Attached { .. } => Ok(()),
            SessionItem::Refused(refusal) => Err(status(&refusal).into()),
        }
    }

    /// A refusal: within the stream, or as its end.
    async fn refuse(&self, refusal: SessionRefusal, message_id: &str) -> Result<(), End> {
        if ends_stream(&refusal.code) {
            return Err(status(&refusal).into());
        }
        let session = self.session.as_deref().unwrap_or_default();
        let error = error(refusal, session, message_id);
        self.say(pb::stream_session_response::Response::Error(error)).await
    }

    async fn frame(&mut self, frame: pb::StreamSessionRequest) -> Result<(), End> {
        let subscribe = !frame.subscribe_session_id.is_empty();
        match frame.envelope {
            Some(_) if subscribe => {
                let why = "a frame has an envelope or subscribes, not both";
                Err(refused("INVALID_ENVELOPE", why).into())
            }
            Some(envelope) => {
                let about = About::of(&envelope, self.shared.clock.now(), self.trace);
                let done = self.envelope(envelope, &about).await;
                if matches!(done, Err(End::Status(_))) {
                    self.shared.rejected(&about);
                }
                done
            }
            None if subscribe => {
                self.subscribe(frame.subscribe_session_id, frame.after_sequence).await
            }
            None => {
                let why = "a frame has an envelope or subscribes, this one has neither";
                Err(refused("INVALID_ENVELOPE", why).into())
            }
        }
    }

    /// A stream is about one session.
    fn bind(&mut self, session: &str) -> Result<(), Status> {
        match &self.session {
            Some(bound) if bound != session => {
                let why = format!("this stream is about session `{bound}`");
                Err(refused("INVALID_ENVELOPE", why))
            }
            Some(_) => Ok(()),
            None => {
                self.session = Some(session.to_owned());
                Ok(())
            }
        }
    }

    async fn follow(
        &self,
        after: Option<u64>,
        follow: bool,
    ) -> Result<Items<SessionItem>, AskError> {
        let session_id = self.session.clone().unwrap_or_default();
        let message = FollowSession { session_id, reader: reader(&self.caller), after, follow };
        self.shared.fabric.subscribe(Shared::owner(), message, Call::within(WITHIN)).await
    }

    /// Follows the session from `after`, or from now on, once its owner says so.
    async fn attach(&mut self, after: Option<u64>) -> Result<Result<(), SessionRefusal>, AskError> {
        self.items = None;
        let mut items = self.follow(after, true).await?;
        match items.next().await {
            Some(Ok(SessionItem::Attached { ordinal })) => {
                self.cursor = ordinal;
                self.items = Some(items);
                Ok(Ok(()))
            }
            Some(Ok(SessionItem::Refused(refusal))) => Ok(Err(refusal)),
            Some(Err(error)) => Err(error),
            Some(Ok(SessionItem::Envelope { .. })) | None => {
                Err(AskError::Unreachable("the session's owner is gone".to_owned()))
            }
        }
    }

    async fn subscribe(&mut self, session: String, after: u64) -> Result<(), End> {
        let was_bound = self.session.is_some();
        self.bind(&session)?;
        match self.attach(Some(after)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) if refusal.code == "FORBIDDEN" => {
                let done = self.refuse(refusal, "").await;
                if !was_bound {
                    self.session = None;
                }
                done
            }
            Ok(Err(refusal)) => Err(status(&refusal).into()),
            Err(error) => Err(unanswered(&error).into()),
        }
    }

    /// An envelope that its session's owner is not asked about.
    async fn turn_down(&self, why: SessionRefusal, about: &About) -> Result<(), End> {
        match self.shared.followed(about, async { Err(why) }).await {
            Ok(_) => Ok(()),
            Err(why) => self.refuse(why, &about.message_id).await,
        }
    }

    async fn envelope(&mut self, envelope: pb::Envelope, about: &About) -> Result<(), End> {
        let audience = match shape(&envelope, self.shared.config.payload_max) {
            Ok(audience) => audience,
            Err(why) => return self.turn_down(early(why), about).await,
        };
        if envelope.session_id.is_empty() || envelope.mode.trim().is_empty() {
            let why = "an envelope on a stream needs a session_id and a mode";
            return Err(refused("INVALID_ENVELOPE", why).into());
        }
        self.bind(&envelope.session_id)?;
        let mut envelope = Envelope::from(envelope);
        // The sender is checked before the session, the right to the mode after it.
        if !envelope.sender.is_empty() && envelope.sender != self.caller.rights.sender {
            let why = "the envelope's sender is not who opened the stream";
            return Err(refused("UNAUTHENTICATED", why).into());
        }
        let head = ReadSessionHead { session_id: envelope.session_id.clone() };
        let head = self.shared.ask(head).await.map_err(|error| unanswered(&error))?;
        if let Some(head) = head.filter(|_| audience != Audience::Start) {
            if head.mode != envelope.mode {
                let why = format!("the session has mode `{}`", head.mode);
                return Err(refused("INVALID_ENVELOPE", why).into());
            }
            if head.state != SessionState::Open {
                return Err(refused("INVALID_ENVELOPE", "SESSION_NOT_OPEN").into());
            }
        }
        if let Err(why) = self.caller.rights.claim(&mut envelope) {
            return self.turn_down(early(why), about).await;
        }
        if let Err(why) = self.shared.rate(&envelope.sender, audience == Audience::Start) {
            return self.turn_down(why, about).await;
        }
        if self.items.is_none() {
            // Before it is processed: the sender gets its own envelope back.
            match self.attach(None).await {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => return self.turn_down(refusal, about).await,
                Err(error) => return Err(unanswered(&error).into()),
            }
        }
        let work = async {
            match audience {
                Audience::Ambient => self.shared.signal(envelope, self.caller.is_authenticated),
                _ => {
                    self.shared
                        .take(envelope, self.caller.rights.max_open_sessions, self.trace)
                        .await
                }
            }
        };
        match self.shared.followed(about, work).await {
            Ok(_) => Ok(()),
            Err(why) => self.refuse(why, &about.message_id).await,
        }
    }

    /// The owner is gone: follows the session from where this stream is, as soon as it has one.
    async fn look(&mut self) -> Result<(), End> {
        for attempt in 0..LOOKS {
            let pause = tokio::time::sleep(LOOK.delay(attempt, 0.5));
            tokio::select! {
                () = pause => {}
                () = self.out.closed() => return Err(End::Gone),
            }
            match self.attach(Some(self.cursor)).await {
                Ok(Ok(())) => return Ok(()),
                // It was attached before there was a session, and there still is none.
                Ok(Err(refusal)) if refusal.code == "SESSION_NOT_FOUND" && self.cursor == 0 => {
                    if let Ok(Ok(())) = self.attach(None).await {
                        return Ok(());
                    }
                }
                Ok(Err(refusal)) => return Err(status(&refusal).into()),
                Err(_) => {}
            }
        }
        Err(no_owner().into())
    }

    /// The client has said all it will: it gets what is there by now, then the stream ends well. If
    /// that cannot be had it does not.
    async fn drain(&mut self) -> Result<(), End> {
        if self.items.take().is_none() {
            return Ok(());
        }
        let mut upto = None;
        for attempt in 0..LOOKS {
            if upto.is_none() {
                let session_id = self.session.clone().unwrap_or_default();
                let head = self.shared.ask(ReadSessionHead { session_id }).await;
                upto = head.ok().map(|head| head.map_or(0, |head| head.ordinal));
            }
            if upto.is_some_and(|upto| self.cursor >= upto) {
                return Ok(());
            }
            // Anew from the cursor: what was on its way is read again rather than waited for.
            if let Ok(mut rest) = self.follow(Some(self.cursor), false).await {
                while let Some(Ok(item)) = rest.next().await {
                    match item {
                        // One who may not read it is shown nothing of it.
                        SessionItem::Refused(refusal) if refusal.code == "FORBIDDEN" => {
                            return Ok(());
                        }
                        item => self.deliver(item).await?,
                    }
                }
            }
            if upto.is_some_and(|upto| self.cursor >= upto) {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK.delay(attempt, 0.5)) => {}
                () = self.out.closed() => return Err(End::Gone),
            }
        }
        Err(no_owner().into())
    }
}

/// What a stream ends with whose session cannot be read.
fn no_owner() -> Status {
    unanswered(&AskError::Unreachable("the session has no owner at present".to_owned()))
}
