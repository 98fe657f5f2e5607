//! The mailbox of sessions: every handler asks its group and answers once that has.

mod operate;
mod reference;

use std::any::Any;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime;
use weft_link::{Fabric, ItemSink, Reply};
use weft_protocol::{
    AskWhatIf, ControlSession, EditCatalogue, FollowCatalogue, FollowSession, FollowSessions,
    IssueReceipt, IssuedReceipt, ListSessions, ModesView, ReadModes, ReadPolicies, ReadSession,
    ReadSessionHead, ReceiptSigner, SendEnvelope, SenderRates, SessionControl, SessionHead,
    SessionPage, SessionReader, SessionRefusal,
};
use weft_session::{
    Answer, CatalogueChange, Code, Envelope, Limits, Millis, Receipt, Refusal, Session,
    StartRights, what_if,
};
use weft_supervision::{Actor, ActorError, Beside, Handle, Incarnation, Routes, Scope, Serve};
use weft_wire::{AskError, Clock, Failure, FailureKind, Message};

use crate::archive::Filter;
use crate::lead::Led;
use crate::owned::{At, Request, Step, Unanswered};
use crate::route::{Route, elsewhere};
use crate::{Modes, Owned, Owners, convert, follow, mend};

/// How often what is due is looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// What starts a session.
const START: &str = "SessionStart";
/// A change of modes or policies is agreed on within this.
const CHANGE: Duration = Duration::from_secs(10);

/// The actor.
#[derive(Debug)]
pub struct SessionActor {
    desk: Desk,
    /// Groups that are tended.
    begun: usize,
}

/// Takes envelopes, in the mailbox's turn or beside it: its groups have locks of their own. Where
/// there are many, a turn of the mailbox costs more than an envelope.
#[derive(Clone)]
struct Desk {
    owners: Owners,
    modes: Modes,
    fabric: Fabric,
    pool: runtime::Handle,
    clock: Arc<dyn Clock>,
    began: Instant,
    /// What was sent through nodes that have others beside them.
    rates: Arc<Mutex<Limits>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// Has something done that waits.
trait Launch {
    fn launch(&self, f: impl Future<Output = ()> + Send + 'static);
}

impl Launch for Scope<SessionActor> {
    fn launch(&self, f: impl Future<Output = ()> + Send + 'static) {
        self.spawn(f);
    }
}

/// Also what is under way when an incarnation ends is answered.
impl Launch for runtime::Handle {
    fn launch(&self, f: impl Future<Output = ()> + Send + 'static) {
        drop(self.spawn(f));
    }
}

/// Makes an incarnation over groups that outlive it.
pub fn factory(
    owners: Owners,
    modes: Modes,
) -> impl Fn(Incarnation) -> std::future::Ready<Result<SessionActor, ActorError>> + Send + Sync + 'static
{
    move |incarnation: Incarnation| {
        let desk = Desk {
            owners: owners.clone(),
            modes: modes.clone(),
            fabric: incarnation.fabric,
            // A factory runs on the shared pool.
            pool: runtime::Handle::current(),
            began: incarnation.clock.now(),
            clock: incarnation.clock,
            rates: Arc::new(Mutex::new(Limits::default())),
        };
        std::future::ready(Ok(SessionActor { desk, begun: 0 }))
    }
}

impl Actor for SessionActor {
    fn routes(routes: &mut Routes<Self>) {
        routes
            .ask_beside::<SendEnvelope, Desk>()
            .ask::<ControlSession>()
            .ask::<ReadSession>()
            .ask::<ReadSessionHead>()
            .ask::<ListSessions>()
            .ask::<ReadModes>()
            .ask::<ReadPolicies>()
            .ask::<EditCatalogue>()
            .ask::<AskWhatIf>()
            .ask::<IssueReceipt>()
            .subscription::<FollowSession>()
            .subscription::<FollowSessions>()
            .subscription::<FollowCatalogue>();
        mend::routes(routes);
        operate::routes(routes);
        reference::routes(routes);
    }

    fn shared(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(self.desk.clone()))
    }

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        self.begin(scope);
        scope.every(SWEEP, |actor, scope| actor.sweep(scope));
        Ok(())
    }
}

/// Why there is no answer, as its asker is told.
pub(crate) fn failure(group: &Owned, why: Unanswered) -> AskError {
    unanswered(group.agreement().is_alone(), why)
}

/// As [`failure`]; `is_alone`: nobody else votes.
fn unanswered(is_alone: bool, why: Unanswered) -> AskError {
    let (kind, message, cause) = match why {
        Unanswered::NotLeading(cause) => return elsewhere(&cause),
        Unanswered::Refused(cause) => {
            (FailureKind::Exhausted, "it could not be kept, and nothing was changed", cause)
        }
        // Where others vote, whoever leads next may know.
        Unanswered::Unsure(cause) if !is_alone => {
            (FailureKind::Timeout, "it is not known whether it is kept", cause)
        }
        Unanswered::Unsure(cause) => {
            (FailureKind::Internal, "it is not known whether it is kept", cause)
        }
        Unanswered::Unreadable(cause) => {
            (FailureKind::Internal, "the session cannot be read from disk", cause)
        }
    };
    AskError::Failed(Failure::new(kind, message).cause(cause))
}

impl SessionActor {
    pub(crate) const fn owners(&self) -> &Owners {
        &self.desk.owners
    }

    /// Tends the groups that are new.
    fn begin(&mut self, scope: &Scope<Self>) {
        let all = self.desk.owners.all();
        for group in all.iter().skip(self.begun) {
            group.begin();
            scope.spawn(group.clone().keep_lead());
            scope.spawn(group.clone().keep_archive());
            scope.spawn(mend::mend(group.clone(), scope.fabric().clone()));
        }
        self.begun = all.len();
    }

    fn sweep(&mut self, scope: &Scope<Self>) {
        self.begin(scope);
        for (group, slots) in self.desk.owners.to_seal() {
            scope.spawn(group.seal(slots));
        }
        for group in self.desk.owners.all().iter() {
            scope.spawn(group.clone().let_go());
            for request in group.sweep() {
                let step = group.step(&request);
                let group = group.clone();
                scope.spawn(async move {
                    if let Err(why) = group.carry(&request, step).await {
                        tracing::debug!(?why, "what is due is tried again later");
                    }
                });
            }
        }
    }

    /// As [`Desk::answer`].
    fn answer<M: Message>(
        &self,
        message: M,
        request: Request,
        id: &str,
        reply: Reply<M>,
        scope: &Scope<Self>,
        say: fn(Answer) -> M::Reply,
    ) {
        self.desk.answer(move || message, request, id, reply, scope, say);
    }

    /// Reads a session for somebody, after what is due for it was done. If nobody leads, what is
    /// here is read: it may be old. `say` holds up everybody else.
    fn read<M, T>(
        &self,
        message: M,
        id: String,
        reader: SessionReader,
        reply: Reply<M>,
        scope: &Scope<Self>,
        say: impl Fn(&Session) -> Said<T> + Send + Sync + 'static,
    ) where
        M: Message<Reply = Result<T, SessionRefusal>>,
        T: Send + 'static,
    {
        let owners = self.desk.owners.clone();
        let group = owners.of(&id);
        let route = Route { fabric: scope.fabric().clone(), meta: reply.meta().clone() };
        let request = Request::Touch { id: id.clone() };
        let not_found = follow::not_found(&id);
        let of = id.clone();
        let say = move |session: &Session| match session.may_read(&convert::rights(&reader)) {
            true => say(session),
            false => Said::Now(Err(follow::forbidden(&of))),
        };
        let step = match group.is_ready() {
            true => group.step(&request),
            false => Step::NotLeading,
        };
        if let Step::Done(Ok(_)) = step
            && let Some(At::Here(said)) = group.near(&id, &say)
        {
            return match said {
                Said::Now(said) => reply.ok(said),
                Said::Later(said) => scope.spawn(async move { reply.ok(said.await) }),
            };
        }
        let mut begun = match step {
            Step::NotLeading | Step::Moved => None,
            step => Some((group.clone(), step)),
        };
        scope.spawn(async move {
            let read = |group: Owned| {
                let (id, say, not_found) = (&id, &say, &not_found);
                async move {
                    match group.look(id, say).await.map_err(|why| failure(&group, why))? {
                        Some(Said::Now(said)) => Ok(said),
                        Some(Said::Later(said)) => Ok(said.await),
                        None => Ok(Err(not_found.clone())),
                    }
                }
            };
            let here = |group: Owned| {
                let step = match begun.take() {
                    Some((first, step)) if first.name() == group.name() => step,
                    _ => group.step(&request),
                };
                let (request, read) = (&request, &read);
                async move {
                    let done = group.carry(request, step).await;
                    let _ = done.map_err(|why| failure(&group, why))?;
                    read(group).await
                }
            };
            // The disk is full, say: what is applied can still be read.
            if group.agreement().is_alone() && group.is_down() {
                return reply.result(read(group).await);
            }
            let done = match route.run(|| owners.of(&id), message, here).await {
                Err(error) if route.meta.from.is_none() => match read(owners.of(&id)).await {
                    Ok(Err(refusal)) if refusal.code == follow::NOT_FOUND => Err(error),
                    done => done,
                },
                done => done,
            };
            reply.result(done);
        });
    }
}

/// What is made of a session for its reader.
enum Said<T> {
    Now(Result<T, SessionRefusal>),
    /// It takes long, and the session is not needed for it any more.
    Later(Pin<Box<dyn Future<Output = Result<T, SessionRefusal>> + Send>>),
}

impl Desk {
    /// Uses a slot of what the sender may send through all nodes (§6 step 8). Whoever leads next
    /// starts counting anew.
    fn rate(&self, rates: SenderRates, envelope: &Envelope) -> Result<(), SessionRefusal> {
        let is_start = envelope.message_type == START;
        let most = if is_start { rates.starts } else { rates.messages };
        // Another node sends it again if it hears nothing for a while.
        let mut what = DefaultHasher::new();
        (&envelope.session_id, &envelope.message_id).hash(&mut what);
        let (what, now) = (what.finish() | 1, self.now());
        let taken = self.rates.lock().take_of(most, &envelope.sender, is_start, what, now);
        taken.map_err(convert::refusal)
    }

    /// Since this incarnation began; does not go back.
    fn now(&self) -> Millis {
        let now = self.clock.now().saturating_duration_since(self.began).as_millis();
        Millis::try_from(now).unwrap_or(Millis::MAX)
    }

    /// Checks a request now, and answers when it can be; or has the node that leads do it, with a
    /// message that is made only then.
    fn answer<M: Message>(
        &self,
        message: impl FnOnce() -> M + Send + 'static,
        request: Request,
        id: &str,
        reply: Reply<M>,
        launch: &impl Launch,
        say: fn(Answer) -> M::Reply,
    ) {
        let group = self.owners.of(id);
        let route = Route { fabric: self.fabric.clone(), meta: reply.meta().clone() };
        let step = match group.agreement().led() {
            Led::Here => group.step(&request),
            Led::By(_) | Led::ByNobody => Step::NotLeading,
        };
        if let Step::Done(done) = step {
            return reply.result(done.map(say).map_err(|why| failure(&group, why)));
        }
        let owners = self.owners.clone();
        launch.launch(async move {
            if !matches!(step, Step::NotLeading | Step::Moved) {
                match group.carry(&request, step).await {
                    Err(Unanswered::NotLeading(_)) => {}
                    // Whoever leads by now may know.
                    Err(Unanswered::Unsure(_))
                        if M::IDEMPOTENT && !route.is_cut_off(group.agreement()) => {}
                    done => return reply.result(done.map(say).map_err(|why| failure(&group, why))),
                }
            }
            let here = |group: Owned| {
                let request = request.clone();
                async move { group.run(request).await.map(say).map_err(|why| failure(&group, why)) }
            };
            reply.result(route.run(|| owners.of(request.id()), message(), here).await);
        });
    }

    fn take(&self, message: SendEnvelope, reply: Reply<SendEnvelope>, launch: &impl Launch) {
        let SendEnvelope { envelope, max_open, rates } = message;
        let envelope = Arc::new(convert::envelope(envelope));
        let id = envelope.session_id.clone();
        let starts = envelope.message_type == START;
        let group = self.owners.of(&id);
        let checked_here = group.agreement().led() == Led::Here;
        let (trace, from) = (reply.meta().trace, reply.meta().from);
        if checked_here && trace.is_some() {
            tracing::debug!(%trace, ?from, session_id = id, "an envelope is checked by its owner");
        }
        if checked_here
            && let Some(rates) = rates
            && let Err(refusal) = self.rate(rates, &envelope)
        {
            return reply.ok(Err(refusal));
        }
        // For the node that leads, if it is another.
        let sent = envelope.clone();
        let message = move || SendEnvelope { envelope: convert::sent(&sent), max_open, rates };
        let open_elsewhere = match max_open {
            Some(_) if starts && checked_here => {
                self.owners.open_elsewhere(&group, &envelope.sender, group.now())
            }
            _ => 0,
        };
        let rights = StartRights { max_open, open_elsewhere };
        let request = Request::Send { envelope, rights };
        if !starts || !checked_here || self.modes.agreement().led() == Led::Here {
            return self.answer(message, request, &id, reply, launch, convert::answer);
        }
        // What it is bound to may have been registered on another node a moment ago.
        let desk = self.clone();
        launch.launch(async move {
            desk.modes.fresh().await;
            desk.answer(message, request, &id, reply, &desk.pool, convert::answer);
        });
    }
}

impl Beside<SendEnvelope> for Desk {
    fn is_free(&self) -> bool {
        // While a checkpoint is made, say, whoever comes waits in the mailbox, not on the pool.
        !self.owners.all().iter().any(Owned::is_locked)
    }

    fn handle(&self, message: SendEnvelope, reply: Reply<SendEnvelope>) {
        self.take(message, reply, &self.pool);
    }
}

impl Handle<SendEnvelope> for SessionActor {
    fn handle(&mut self, message: SendEnvelope, reply: Reply<SendEnvelope>, scope: &Scope<Self>) {
        self.desk.take(message, reply, scope);
    }
}

impl Handle<ControlSession> for SessionActor {
    fn handle(
        &mut self,
        message: ControlSession,
        reply: Reply<ControlSession>,
        scope: &Scope<Self>,
    ) {
        let ControlSession { session_id: id, control, sender, reason } = message.clone();
        let session = id.clone();
        let request = match control {
            SessionControl::Cancel => Request::Cancel { id, sender, reason },
            SessionControl::Suspend => Request::Suspend { id, sender, reason },
            SessionControl::Resume => Request::Resume { id, sender, reason },
        };
        self.answer(message, request, &session, reply, scope, convert::answer);
    }
}

impl Handle<ReadSession> for SessionActor {
    fn handle(&mut self, message: ReadSession, reply: Reply<ReadSession>, scope: &Scope<Self>) {
        let ReadSession { session_id, reader } = message.clone();
        self.read(message, session_id, reader, reply, scope, |session| {
            Said::Now(Ok(convert::view(session)))
        });
    }
}

impl Handle<ReadSessionHead> for SessionActor {
    fn handle(
        &mut self,
        message: ReadSessionHead,
        reply: Reply<ReadSessionHead>,
        scope: &Scope<Self>,
    ) {
        let id = message.session_id.clone();
        let owners = self.desk.owners.clone();
        let group = owners.of(&id);
        let head = |session: &Session| SessionHead {
            mode: session.mode().to_owned(),
            state: convert::state(session.state()),
            ordinal: session.last_ordinal(),
        };
        if group.is_ready() {
            match group.near(&id, head) {
                Some(At::Here(head)) => return reply.ok(Some(head)),
                Some(At::Nowhere) if !owners.may_move(&group, &id) => return reply.ok(None),
                Some(At::Left(_) | At::Nowhere) | None => {}
            }
        }
        scope.spawn(async move {
            // What is here may be old, but nothing else is to be had.
            let group = owners.find(&id).await.unwrap_or_else(|(group, _)| group);
            let found = group.look(&id, head).await;
            reply.result(found.map_err(|why| failure(&group, why)));
        });
    }
}

impl Handle<ListSessions> for SessionActor {
    fn handle(&mut self, message: ListSessions, reply: Reply<ListSessions>, scope: &Scope<Self>) {
        let ListSessions { after, size } = message;
        let owners = self.desk.owners.clone();
        let filter = Filter { after, ..Filter::default() };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        scope.spawn(async move {
            let mut sessions = Vec::new();
            owners.fresh().await;
            for group in owners.all().iter() {
                match group.page(&filter, size.saturating_add(1), convert::view).await {
                    Ok(page) => sessions.extend(page.into_iter().map(|(_, view)| view)),
                    Err(why) => return reply.result(Err(failure(group, why))),
                }
            }
            sessions.sort_by(|a, b| a.session_id.cmp(&b.session_id));
            let more = sessions.len() > size;
            sessions.truncate(size);
            reply.ok(SessionPage { sessions, more });
        });
    }
}

impl SessionActor {
    /// Answers from modes and policies once every change acknowledged before is here.
    fn catalogue<M: Message>(
        &self,
        reply: Reply<M>,
        scope: &Scope<Self>,
        say: impl FnOnce(&Modes) -> M::Reply + Send + 'static,
    ) {
        let modes = self.desk.modes.clone();
        if modes.agreement().led() == Led::Here {
            return reply.ok(say(&modes));
        }
        scope.spawn(async move {
            modes.fresh().await;
            reply.ok(say(&modes));
        });
    }
}

impl Handle<ReadModes> for SessionActor {
    fn handle(&mut self, _: ReadModes, reply: Reply<ReadModes>, scope: &Scope<Self>) {
        self.catalogue(reply, scope, |modes| {
            let catalogue = modes.read();
            ModesView {
                standard: catalogue.standard_modes().into_iter().map(convert::mode).collect(),
                extensions: catalogue.extension_modes().into_iter().map(convert::mode).collect(),
                policies_fixed: catalogue.has_fixed_policies(),
            }
        });
    }
}

impl Handle<ReadPolicies> for SessionActor {
    fn handle(&mut self, message: ReadPolicies, reply: Reply<ReadPolicies>, scope: &Scope<Self>) {
        self.catalogue(reply, scope, move |modes| {
            let catalogue = modes.read();
            let policies = if message.policy_id.is_empty() {
                catalogue.policies(&message.mode)
            } else {
                catalogue.policy(&message.policy_id).into_iter().collect()
            };
            policies.into_iter().map(convert::policy).collect()
        });
    }
}

impl Handle<EditCatalogue> for SessionActor {
    fn handle(&mut self, message: EditCatalogue, reply: Reply<EditCatalogue>, scope: &Scope<Self>) {
        let route = Route { fabric: scope.fabric().clone(), meta: reply.meta().clone() };
        let change = convert::change(message.edit.clone());
        scope.spawn(change_modes(self.desk.modes.clone(), route, message, change, reply));
    }
}

/// Has a change of modes or policies made, by whoever leads them.
pub(crate) async fn change_modes<M>(
    modes: Modes,
    route: Route,
    message: M,
    change: CatalogueChange,
    reply: Reply<M>,
) where
    M: Message<Reply = Result<String, String>>,
{
    let here = |modes: Modes| {
        let change = change.clone();
        async move {
            let done = modes.change(change, CHANGE).await;
            done.map_err(|error| unanswered(modes.agreement().is_alone(), error.into()))
        }
    };
    let done = route.run(|| modes.clone(), message, here).await;
    if done.is_ok() {
        // Who asked here reads it here.
        modes.fresh().await;
    }
    reply.result(done);
}

impl Handle<AskWhatIf> for SessionActor {
    fn handle(&mut self, message: AskWhatIf, reply: Reply<AskWhatIf>, scope: &Scope<Self>) {
        let AskWhatIf { session_id, reader, candidate } = message.clone();
        let candidate = convert::kernel_policy(candidate);
        self.read(message, session_id, reader, reply, scope, move |session| {
            // Its records are shared, so a copy is cheap, and nobody waits for two replays.
            let (session, candidate) = (session.clone(), candidate.clone());
            let replay = move || what_if(&session, &candidate).map_err(convert::refusal);
            Said::Later(Box::pin(async move {
                let outcome = tokio::task::spawn_blocking(replay).await;
                let outcome = outcome.map_err(|error| {
                    convert::refusal(Refusal::new(Code::InternalError, error.to_string()))
                })?;
                Ok(outcome?.encode_to_vec())
            }))
        });
    }
}

impl Handle<IssueReceipt> for SessionActor {
    fn handle(&mut self, message: IssueReceipt, reply: Reply<IssueReceipt>, scope: &Scope<Self>) {
        let owners = self.desk.owners.clone();
        let route = Route { fabric: scope.fabric().clone(), meta: reply.meta().clone() };
        scope.spawn(async move {
            let here = |group: Owned| {
                let message = &message;
                async move {
                    let done = issue(&group, message).await;
                    done.map_err(|why| failure(&group, why))
                }
            };
            let find = || owners.of(&message.session_id);
            reply.result(route.run(find, message.clone(), here).await);
        });
    }
}

/// The receipt that is kept; one that is new is kept first.
async fn issue(
    group: &Owned,
    message: &IssueReceipt,
) -> Result<Result<IssuedReceipt, SessionRefusal>, Unanswered> {
    group.lead().await?;
    let answer = match receipt(group, message).await? {
        Ok(Receiving::New(json)) => {
            let id = message.session_id.clone();
            // Another one may have been first: that one stays.
            let _ = group.run(Request::Receipt { id, json }).await?;
            receipt(group, message).await?
        }
        other => other,
    };
    Ok(answer.map(Receiving::issued))
}

/// How far a receipt is.
enum Receiving {
    /// There is one, or it is not to be kept yet.
    Issued(IssuedReceipt),
    /// This one, if it is the first.
    New(String),
}

impl Receiving {
    fn issued(self) -> IssuedReceipt {
        match self {
            Self::Issued(issued) => issued,
            Self::New(json) => IssuedReceipt::Kept(json),
        }
    }
}

/// The receipt that is kept, or the one that could be; all of it but the signature is made here.
async fn receipt(
    group: &Owned,
    asked: &IssueReceipt,
) -> Result<Result<Receiving, SessionRefusal>, Unanswered> {
    let IssueReceipt { session_id: id, reader, issuer, signer } = asked;
    let now = group.now();
    let receiving = |session: &Session| {
        if !session.may_read(&convert::rights(reader)) {
            return Err(follow::forbidden(id));
        }
        if let Some(json) = session.receipt() {
            return Ok(Receiving::Issued(IssuedReceipt::Kept(json.to_owned())));
        }
        let issued_ms = match signer {
            ReceiptSigner::Signed { issued_ms, .. } => *issued_ms,
            ReceiptSigner::Nobody | ReceiptSigner::Asks { .. } => now,
        };
        let receipt = Receipt::new(session, issuer, issued_ms).map_err(convert::refusal)?;
        Ok(match signer {
            ReceiptSigner::Nobody => Receiving::New(receipt.unsigned()),
            ReceiptSigner::Asks { kid } => {
                let input = receipt.signing_input(kid);
                Receiving::Issued(IssuedReceipt::ToSign { input, issued_ms })
            }
            ReceiptSigner::Signed { kid, signature, .. } => {
                Receiving::New(receipt.signed(kid, signature))
            }
        })
    };
    let found = group.look(id, receiving).await?;
    Ok(found.unwrap_or_else(|| Err(follow::not_found(id))))
}

impl Serve<FollowSession> for SessionActor {
    fn serve(
        &mut self,
        message: FollowSession,
        sink: ItemSink<FollowSession>,
        scope: &Scope<Self>,
    ) {
        scope.spawn(follow::session(self.desk.owners.clone(), message, sink));
    }
}

impl Serve<FollowSessions> for SessionActor {
    fn serve(&mut self, _: FollowSessions, sink: ItemSink<FollowSessions>, scope: &Scope<Self>) {
        scope.spawn(follow::sessions(self.desk.owners.clone(), sink));
    }
}

impl Serve<FollowCatalogue> for SessionActor {
    fn serve(&mut self, _: FollowCatalogue, sink: ItemSink<FollowCatalogue>, scope: &Scope<Self>) {
        scope.spawn(follow::catalogue(self.desk.modes.clone(), sink));
    }
}
