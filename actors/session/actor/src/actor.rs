//! The mailbox of sessions: every handler asks its group and answers once that has.

use std::time::Duration;

use prost::Message as _;
use weft_link::{ItemSink, Reply};
use weft_protocol::{
    AskWhatIf, ControlSession, EditCatalogue, FollowCatalogue, FollowSession, FollowSessions,
    IssueReceipt, ListSessions, ModesView, ReadModes, ReadPolicies, ReadSession, ReadSessionHead,
    SendEnvelope, SessionControl, SessionPage, SessionReader, SessionRefusal,
};
use weft_session::{Answer, Receipt, Session, StartRights, what_if};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope, Serve};
use weft_wire::{AskError, Failure, FailureKind, Message};

use crate::owned::{Request, Step, Unanswered};
use crate::{Modes, Owned, Owners, convert, follow};

/// How often what is due is looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// A change of modes or policies is agreed on within this.
const CHANGE: Duration = Duration::from_secs(10);

/// The actor.
#[derive(Debug)]
pub struct SessionActor {
    owners: Owners,
    modes: Modes,
}

/// Makes an incarnation over groups that outlive it.
pub fn factory(
    owners: Owners,
    modes: Modes,
) -> impl Fn(Incarnation) -> std::future::Ready<Result<SessionActor, ActorError>> + Send + Sync + 'static
{
    move |_: Incarnation| {
        std::future::ready(Ok(SessionActor { owners: owners.clone(), modes: modes.clone() }))
    }
}

impl Actor for SessionActor {
    fn routes(routes: &mut Routes<Self>) {
        routes
            .ask::<SendEnvelope>()
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
    }

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        for group in self.owners.all() {
            group.begin();
            scope.spawn(group.clone().keep_lead());
        }
        scope.every(SWEEP, |actor, scope| actor.sweep(scope));
        Ok(())
    }
}

/// Why there is no answer, as its asker is told.
fn failure(why: Unanswered) -> AskError {
    let (kind, message, cause) = match why {
        Unanswered::NotLeading(cause) => {
            (FailureKind::Unavailable, "sessions are led by another node, or by none", cause)
        }
        Unanswered::Refused(cause) => {
            (FailureKind::Exhausted, "it could not be kept, and nothing was changed", cause)
        }
        Unanswered::Unsure(cause) => {
            (FailureKind::Internal, "it is not known whether it is kept", cause)
        }
    };
    AskError::Failed(Failure::new(kind, message).cause(cause))
}

impl SessionActor {
    fn sweep(&mut self, scope: &Scope<Self>) {
        for group in self.owners.all() {
            for request in group.sweep() {
                let step = group.step(&request);
                let group = group.clone();
                scope.spawn(async move {
                    if let Err(why) = group.carry(request, step).await {
                        tracing::debug!(?why, "what is due is tried again later");
                    }
                });
            }
        }
    }

    /// Checks a request now, in the order of the mailbox, and answers when it can be.
    fn answer<M: Message>(
        &self,
        request: Request,
        id: &str,
        reply: Reply<M>,
        scope: &Scope<Self>,
        say: impl FnOnce(Answer) -> M::Reply + Send + 'static,
    ) {
        let group = self.owners.of(id);
        match group.step(&request) {
            Step::Done(done) => reply.result(done.map(say).map_err(failure)),
            step => {
                let group = group.clone();
                scope.spawn(async move {
                    let done = group.carry(request, step).await;
                    reply.result(done.map(say).map_err(failure));
                });
            }
        }
    }

    /// Reads a session for somebody, after what is due for it was done.
    fn read<M, T>(
        &self,
        id: String,
        reader: SessionReader,
        reply: Reply<M>,
        scope: &Scope<Self>,
        say: impl FnOnce(&Session) -> Result<T, SessionRefusal> + Send + 'static,
    ) where
        M: Message<Reply = Result<T, SessionRefusal>>,
        T: Send + 'static,
    {
        let group = self.owners.of(&id).clone();
        let request = Request::Touch { id: id.clone() };
        let read = move |group: &Owned| {
            let state = group.lock();
            match state.sessions.get(&id) {
                None => Err(follow::not_found(&id)),
                Some(session) if !session.may_read(&convert::rights(&reader)) => {
                    Err(follow::forbidden(&id))
                }
                Some(session) => say(session),
            }
        };
        match group.step(&request) {
            Step::Done(Ok(_)) => reply.ok(read(&group)),
            // The disk is full, say: what is applied can still be read.
            Step::NotLeading if group.is_down() => reply.ok(read(&group)),
            step => scope.spawn(async move {
                match group.carry(request, step).await {
                    Err(why) if !group.is_down() => reply.result(Err(failure(why))),
                    _ => reply.ok(read(&group)),
                }
            }),
        }
    }
}

impl Handle<SendEnvelope> for SessionActor {
    fn handle(&mut self, message: SendEnvelope, reply: Reply<SendEnvelope>, scope: &Scope<Self>) {
        let SendEnvelope { envelope, max_open } = message;
        let id = envelope.session_id.clone();
        let rights = StartRights { max_open, open_elsewhere: 0 };
        let request = Request::Send { envelope: convert::envelope(envelope), rights };
        self.answer(request, &id, reply, scope, convert::answer);
    }
}

impl Handle<ControlSession> for SessionActor {
    fn handle(
        &mut self,
        message: ControlSession,
        reply: Reply<ControlSession>,
        scope: &Scope<Self>,
    ) {
        let ControlSession { session_id: id, control, sender, reason } = message;
        let session = id.clone();
        let request = match control {
            SessionControl::Cancel => Request::Cancel { id, sender, reason },
            SessionControl::Suspend => Request::Suspend { id, sender, reason },
            SessionControl::Resume => Request::Resume { id, sender, reason },
        };
        self.answer(request, &session, reply, scope, convert::answer);
    }
}

impl Handle<ReadSession> for SessionActor {
    fn handle(&mut self, message: ReadSession, reply: Reply<ReadSession>, scope: &Scope<Self>) {
        self.read(message.session_id, message.reader, reply, scope, |session| {
            Ok(convert::view(session))
        });
    }
}

impl Handle<ReadSessionHead> for SessionActor {
    fn handle(&mut self, message: ReadSessionHead, reply: Reply<ReadSessionHead>, _: &Scope<Self>) {
        reply.ok(self.owners.of(&message.session_id).head(&message.session_id));
    }
}

impl Handle<ListSessions> for SessionActor {
    fn handle(&mut self, message: ListSessions, reply: Reply<ListSessions>, _: &Scope<Self>) {
        let size = usize::try_from(message.size).unwrap_or(usize::MAX);
        let mut sessions = Vec::new();
        for group in self.owners.all() {
            let state = group.lock();
            let page = state.sessions.page(message.after.as_deref(), size.saturating_add(1));
            sessions.extend(page.into_iter().map(convert::view));
        }
        sessions.sort_by(|a, b| a.session_id.cmp(&b.session_id));
        let more = sessions.len() > size;
        sessions.truncate(size);
        reply.ok(SessionPage { sessions, more });
    }
}

impl Handle<ReadModes> for SessionActor {
    fn handle(&mut self, _: ReadModes, reply: Reply<ReadModes>, _: &Scope<Self>) {
        let catalogue = self.modes.read();
        reply.ok(ModesView {
            standard: catalogue.standard_modes().into_iter().map(convert::mode).collect(),
            extensions: catalogue.extension_modes().into_iter().map(convert::mode).collect(),
        });
    }
}

impl Handle<ReadPolicies> for SessionActor {
    fn handle(&mut self, message: ReadPolicies, reply: Reply<ReadPolicies>, _: &Scope<Self>) {
        let catalogue = self.modes.read();
        let policies = if message.policy_id.is_empty() {
            catalogue.policies(&message.mode)
        } else {
            catalogue.policy(&message.policy_id).into_iter().collect()
        };
        reply.ok(policies.into_iter().map(convert::policy).collect());
    }
}

impl Handle<EditCatalogue> for SessionActor {
    fn handle(&mut self, message: EditCatalogue, reply: Reply<EditCatalogue>, scope: &Scope<Self>) {
        let modes = self.modes.clone();
        let change = convert::change(message.edit);
        scope.spawn(async move {
            let done = modes.change(change, CHANGE).await;
            reply.result(done.map_err(|error| failure(error.into())));
        });
    }
}

impl Handle<AskWhatIf> for SessionActor {
    fn handle(&mut self, message: AskWhatIf, reply: Reply<AskWhatIf>, scope: &Scope<Self>) {
        let candidate = convert::kernel_policy(message.candidate);
        self.read(message.session_id, message.reader, reply, scope, move |session| {
            let outcome = what_if(session, &candidate).map_err(convert::refusal)?;
            Ok(outcome.encode_to_vec())
        });
    }
}

impl Handle<IssueReceipt> for SessionActor {
    fn handle(&mut self, message: IssueReceipt, reply: Reply<IssueReceipt>, scope: &Scope<Self>) {
        let IssueReceipt { session_id: id, reader, issuer } = message;
        let group = self.owners.of(&id).clone();
        scope.spawn(async move {
            let rights = convert::rights(&reader);
            let stored = |group: &Owned| {
                let state = group.lock();
                let session = state.sessions.get(&id).ok_or_else(|| follow::not_found(&id))?;
                if !session.may_read(&rights) {
                    return Err(follow::forbidden(&id));
                }
                match session.receipt() {
                    Some(json) => Ok((json.to_owned(), true)),
                    None => Receipt::new(session, &issuer, group.now())
                        .map(|receipt| (receipt.unsigned(), false))
                        .map_err(convert::refusal),
                }
            };
            let answer = match stored(&group) {
                Ok((json, false)) => {
                    match group.run(Request::Receipt { id: id.clone(), json }).await {
                        // Another one may have been first: that one stays.
                        Ok(_) => Ok(stored(&group).map(|(json, _)| json)),
                        Err(why) => Err(failure(why)),
                    }
                }
                other => Ok(other.map(|(json, _)| json)),
            };
            reply.result(answer);
        });
    }
}

impl Serve<FollowSession> for SessionActor {
    fn serve(
        &mut self,
        message: FollowSession,
        sink: ItemSink<FollowSession>,
        scope: &Scope<Self>,
    ) {
        let group = self.owners.of(&message.session_id).clone();
        scope.spawn(follow::session(group, message, sink));
    }
}

impl Serve<FollowSessions> for SessionActor {
    fn serve(&mut self, _: FollowSessions, sink: ItemSink<FollowSessions>, scope: &Scope<Self>) {
        scope.spawn(follow::sessions(self.owners.clone(), sink));
    }
}

impl Serve<FollowCatalogue> for SessionActor {
    fn serve(&mut self, _: FollowCatalogue, sink: ItemSink<FollowCatalogue>, scope: &Scope<Self>) {
        scope.spawn(follow::catalogue(self.modes.clone(), sink));
    }
}
