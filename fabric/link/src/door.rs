//! The door: what came over a connection is judged here, once, before the mailbox.
//!
//! In this order: who is it for, who speaks (deny list, role as this node knows it), is there such
//! a message, may they send it. Then the audit, where a person, client or joiner enters, and then
//! the mailbox here or a forward to the node it is for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_wire::frame::{Extension, Header};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Class, Failure, FailureKind, Identity, MessageId, NodeId,
    Role, Target, TraceContext,
};

use crate::Directory;
use crate::audit::AuditStub;
use crate::fabric::{Inner, Mailboxes};
use crate::link::{Element, Place as Held, element};
use crate::mailbox::{Letter, Mailbox, Meta, Parcel, Refusal};
use crate::reply::{WireReply, accepted_frame, error_frame};
use crate::requester::Request;

/// Whose connection it is.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    caller: Caller,
    node: Option<NodeId>,
}

impl Source {
    /// By certificate, socket credentials or the join door. The role is the most such an identity
    /// can have; the directory lowers it.
    pub(crate) fn new(identity: Identity) -> Self {
        let role = match &identity {
            Identity::Node(_) => Role::Node,
            Identity::Operator(_) | Identity::Local { .. } => Role::Admin,
            Identity::Service(_) => Role::User,
            Identity::Joiner => Role::Guest,
        };
        let node = match &identity {
            Identity::Node(id) => Some(*id),
            _ => None,
        };
        Self { caller: Caller { identity, role, via: None }, node }
    }
}

/// What is the same for all frames of one read.
pub(crate) struct Batch<'a> {
    source: &'a Source,
    directory: Arc<Directory>,
    mailboxes: Arc<Mailboxes>,
    /// The source's own caller; `None`: refused.
    own: Option<Caller>,
    now: Instant,
}

/// How the answer goes back.
pub(crate) enum Way {
    Ask(WireReply),
    Tell,
    Subscribe(mpsc::Sender<Vec<u8>>),
}

impl Way {
    fn error(self, error: &AskError) {
        match self {
            Self::Ask(reply) => reply.error(error),
            Self::Tell => {}
            Self::Subscribe(sink) => drop(sink.try_send(error_frame(0, error))),
        }
    }
}

/// A request, judged.
struct Admitted<'a> {
    caller: Caller,
    place: Place,
    mailbox: &'a dyn Mailbox,
    class: Class,
}

#[derive(Clone, Copy)]
pub(crate) enum Place {
    Here,
    Node(NodeId),
}

impl Directory {
    /// Where a target is, seen from `own`; `Any` is here.
    pub(crate) fn place(
        &self,
        target: &Target,
        own: NodeId,
        own_name: &str,
    ) -> Result<Place, AskError> {
        let id = match target {
            Target::Here | Target::Any => return Ok(Place::Here),
            Target::Leader => self.leader.ok_or_else(|| {
                AskError::Unreachable("no node of the cluster leads at the moment".into())
            })?,
            Target::Node(id) => *id,
            Target::Named(name) if name == own_name => own,
            Target::Named(name) => {
                self.by_name(name)
                    .ok_or_else(|| {
                        AskError::NotFound(format!("no node is called `{name}` in this cluster"))
                    })?
                    .id
            }
        };
        Ok(if id == own { Place::Here } else { Place::Node(id) })
    }
}

impl Inner {
    /// Looks once at what all frames of one read have in common.
    pub(crate) fn batch<'a>(&self, source: &'a Source) -> Batch<'a> {
        let directory = self.directory.load_full();
        let own = directory.judge(source.caller.clone());
        let mailboxes = self.mailboxes.load_full();
        Batch { source, directory, mailboxes, own, now: self.clock.0.now() }
    }

    /// Takes one request through the door.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        batch: &Batch<'_>,
        header: &Header,
        extension: Option<Extension>,
        body: Bytes,
        way: Way,
    ) {
        let id = MessageId(header.id);
        let mut extension = extension.unwrap_or_default();
        if batch.source.node.is_none() && !extension.trace.is_some() {
            // A request enters the cluster here; one without a trace gets its own.
            extension.trace = TraceContext::begin(uuid::Uuid::new_v4());
        }
        let mut audit = None;
        let admitted = self.admit(batch, header, &extension, &way, &mut audit);
        let Admitted { caller, place, mailbox, class } = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                self.stats.refused();
                if let Some(audit) = &mut audit {
                    audit.finish(Some(&error));
                }
                tracing::debug!(
                    target: "weft::link",
                    peer = %batch.source.caller.identity, message = header.id, %error, "refused"
                );
                return way.error(&error);
            }
        };
        self.stats.count(id);
        let deadline = (header.deadline_ms > 0)
            .then(|| batch.now + Duration::from_millis(u64::from(header.deadline_ms)));
        let node = match place {
            Place::Here => {
                let meta =
                    Meta { caller, from: batch.source.node, deadline, trace: extension.trace };
                return self.hand_in(mailbox, header, meta, body, way, audit);
            }
            Place::Node(node) => node,
        };
        let forward = Forward {
            inner: self.clone(),
            node,
            class,
            header: *header,
            extension: Extension {
                target: Target::Here,
                caller: Some(Caller { via: None, ..caller }),
                trace: extension.trace,
            },
            body,
            audit,
        };
        forward.start(way);
    }

    fn admit<'a>(
        &self,
        batch: &'a Batch<'_>,
        header: &Header,
        extension: &Extension,
        way: &Way,
        audit: &mut Option<AuditStub>,
    ) -> Result<Admitted<'a>, AskError> {
        let source = batch.source;
        let kind = ActorKind::from_wire(header.actor);
        let mailbox = kind.and_then(|kind| batch.mailboxes.get(kind as usize)?.as_deref());
        let rule = mailbox.and_then(|mailbox| mailbox.rule(MessageId(header.id)));
        // Nodes have no record of their own; what they forward was recorded where it entered.
        if source.node.is_none() {
            let actor = kind.unwrap_or(ActorKind::Node);
            let target = Address { actor, target: extension.target.clone() };
            *audit = Some(AuditStub::open(
                &self.config.audit,
                &self.clock,
                batch.own.as_ref().unwrap_or(&source.caller),
                rule.map_or("unknown", |rule| rule.name),
                target.to_string(),
                extension.trace,
            ));
        }
        let caller = match &extension.caller {
            None => batch.own.clone(),
            Some(forwarded) => {
                let Some(node) = source.node else {
                    return Err(AskError::Denied(format!(
                        "{} may speak for nobody else: only nodes forward",
                        source.caller.identity
                    )));
                };
                batch.directory.judge(Caller { via: Some(node), ..forwarded.clone() })
            }
        };
        let Some(caller) = caller else {
            let who = extension.caller.as_ref().unwrap_or(&source.caller);
            return Err(AskError::Denied(format!(
                "{} is not known to `{}`, or was removed from the cluster",
                who.identity, self.config.name
            )));
        };
        let place =
            batch.directory.place(&extension.target, self.config.node, &self.config.name)?;
        if let (Place::Node(_), Some(_)) = (place, source.node) {
            return Err(AskError::NotFound(format!(
                "what `{}` was to forward came from a node already: the two disagree on where it belongs",
                self.config.name
            )));
        }
        let Some(mailbox) = mailbox else {
            return Err(AskError::NotFound(match kind {
                Some(kind) => format!("no actor {kind} on `{}`", self.config.name),
                None => format!("no actor number {} in this version", header.actor),
            }));
        };
        let Some(rule) = rule else {
            return Err(AskError::Unsupported { id: header.id, version: header.version });
        };
        if rule.subscription != matches!(way, Way::Subscribe(_)) {
            let what = if rule.subscription { "a subscription" } else { "a request" };
            return Err(AskError::Failed(Failure::new(
                FailureKind::Invalid,
                format!("{} is {what}", rule.name),
            )));
        }
        if !rule.allow.permits(&caller) {
            return Err(AskError::Denied(format!(
                "{} (role {}) may not send {}",
                caller.identity, caller.role, rule.name
            )));
        }
        if let Some(audit) = audit.take_if(|_| rule.part) {
            audit.forget();
        }
        Ok(Admitted { caller, place, mailbox, class: rule.class })
    }

    fn hand_in(
        &self,
        mailbox: &dyn Mailbox,
        header: &Header,
        meta: Meta,
        body: Bytes,
        way: Way,
        audit: Option<AuditStub>,
    ) {
        let version = header.version;
        let (parcel, letter_audit, mut tell_audit) = match way {
            Way::Ask(reply) => (Parcel::WireAsk { version, body, reply: Some(reply) }, audit, None),
            // Nobody answers a tell: its record says whether it arrived.
            Way::Tell => (Parcel::WireAsk { version, body, reply: None }, None, audit),
            Way::Subscribe(sink) => (Parcel::WireSubscribe { version, body, sink }, audit, None),
        };
        let letter = Letter { id: MessageId(header.id), meta, parcel, audit: letter_audit };
        let posted = mailbox.post(letter).map_err(|(refusal, letter)| {
            let error = self.refusal(refusal, header.actor);
            letter.refuse(&error);
            error
        });
        if let Some(audit) = &mut tell_audit {
            audit.finish(posted.as_ref().err());
        }
    }

    /// What a refused letter means for its sender; counts it.
    pub(crate) fn refusal(&self, refusal: Refusal, actor: u8) -> AskError {
        self.stats.dead_letter();
        let actor = ActorKind::from_wire(actor).map_or("?", |kind| kind.as_str());
        let name = &self.config.name;
        match refusal {
            Refusal::Full => {
                AskError::Overloaded(format!("the mailbox of {actor} on `{name}` is full"))
            }
            Refusal::Gone => AskError::Unreachable(format!("{actor} on `{name}` is not running")),
        }
    }
}

/// A request on its way through this node to another.
struct Forward {
    inner: Arc<Inner>,
    node: NodeId,
    class: Class,
    header: Header,
    extension: Extension,
    body: Bytes,
    audit: Option<AuditStub>,
}

impl Forward {
    fn finish(mut self, error: Option<&AskError>) {
        if let Some(audit) = &mut self.audit {
            audit.finish(error);
        }
    }

    fn start(self, way: Way) {
        let Some(handle) = self.inner.handle() else {
            let error = AskError::Unreachable("this node has no links".into());
            self.finish(Some(&error));
            return way.error(&error);
        };
        match way {
            Way::Tell => {
                let body = self.body.clone();
                let write = |out: &mut Vec<u8>| {
                    out.extend_from_slice(&body);
                    Ok(())
                };
                let request = Request {
                    header: self.header,
                    extension: Some(self.extension.clone()),
                    body: &write,
                };
                let told = self.inner.tell_node(self.node, self.class, &request);
                self.finish(told.as_ref().err());
            }
            Way::Ask(reply) => {
                let correlation = reply.correlation();
                let forwards = reply.forwards();
                let task = handle.spawn(self.ask(reply));
                if let Some(forwards) = forwards {
                    forwards.add(correlation, task.abort_handle());
                }
            }
            Way::Subscribe(sink) => {
                handle.spawn(self.subscribe(sink));
            }
        }
    }

    async fn ask(self, reply: WireReply) {
        let within = Duration::from_millis(u64::from(self.header.deadline_ms.max(1)));
        let body = self.body.clone();
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(&body);
            Ok(())
        };
        let answer = self
            .inner
            .ask_node(
                self.node,
                self.class,
                within,
                |left| Request {
                    header: Header { deadline_ms: left, ..self.header },
                    extension: Some(self.extension.clone()),
                    body: &write,
                },
                false,
            )
            .await;
        match answer {
            Ok(answer) => {
                reply.bytes(answer.version, &answer.body);
                self.finish(None);
            }
            Err(error) => {
                reply.error(&error);
                self.finish(Some(&error));
            }
        }
    }

    async fn subscribe(mut self, sink: mpsc::Sender<Vec<u8>>) {
        let body = self.body.clone();
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(&body);
            Ok(())
        };
        let opened = async {
            let link = self.inner.link_to(self.node, SUBSCRIBE_WITHIN).await?;
            let place = Held::take(&link.subscriptions);
            let mut frame = Vec::new();
            let header = self.header;
            let extension = Some(self.extension.clone());
            Request { header, extension, body: &write }.encode(&mut frame, 0)?;
            let items = link.requester.subscribe(&frame).await.map_err(AskError::from)?;
            Ok::<_, AskError>((items, place))
        };
        let opened = tokio::select! {
            opened = opened => opened,
            () = sink.closed() => return,
        };
        let outcome = opened.as_ref().err().cloned();
        if let Some(audit) = &mut self.audit {
            audit.finish(outcome.as_ref());
        }
        let (mut items, _place) = match opened {
            Ok(opened) => opened,
            Err(error) => return drop(sink.send(error_frame(0, &error)).await),
        };
        if sink.send(accepted_frame()).await.is_err() {
            return;
        }
        loop {
            let next = tokio::select! {
                next = element(&mut items.reader) => next,
                () = sink.closed() => return,
            };
            let sent = match next {
                Element::Item(body) => sink.send(crate::reply::raw_item_frame(&body)).await,
                Element::Error(error) => sink.send(error_frame(0, &error)).await,
                Element::End => return,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// A forwarded subscription waits no longer for its link.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// The extension of this node's own message; `None`: all defaults, the case of most traffic.
pub(crate) fn extension_for(
    target: Target,
    caller: Option<Caller>,
    trace: TraceContext,
) -> Option<Extension> {
    // A node speaks for itself: a request on a node's behalf is this node's own.
    let caller = caller.filter(|caller| !matches!(caller.identity, Identity::Node(_)));
    (target != Target::Here || caller.is_some() || trace.is_some()).then(|| Extension {
        target,
        caller: caller.map(|c| Caller { via: None, ..c }),
        trace,
    })
}
