//! The handle every actor holds: ask, tell, subscribe.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use weft_wire::frame::{Header, Kind};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Clock, ClusterId, Message, NodeId, Subscription,
    SystemClock, Target, TraceContext, codec,
};

use crate::ask::{End, Waiting};
use crate::audit::{AuditSink, SharedClock};
use crate::deadlines::Deadlines;
use crate::door::{Place, extension_for};
use crate::endpoint::ListenConfig;
use crate::error::close;
use crate::items::{self, Items};
use crate::link::{Answer, Limits, Place as Held};
use crate::local::LocalConfig;
use crate::mailbox::{
    ITEMS_WAITING, Letter, LocalSubscribe, LocalTell, Mailbox, Meta, Parcel, Refusal, Rule,
};
use crate::peers::{LinkEvent, PeerStatus, Peers};
use crate::requester::{Fault, Request};
use crate::stats::{Counters, Stats};
use crate::{Directory, LinkError};

/// No ask waits longer.
const WITHIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Closing waits no longer for what is in flight.
const DRAIN: Duration = Duration::from_millis(500);

/// How a message is sent.
#[derive(Debug, Clone)]
pub struct Call {
    /// On whose behalf; `None`: this node's own.
    pub caller: Option<Caller>,
    /// Give up after this long; at most 24 h.
    pub within: Duration,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

impl Call {
    /// This node's own, to be answered within `within`.
    pub fn within(within: Duration) -> Self {
        Self { caller: None, within, trace: TraceContext::default() }
    }

    /// On behalf of whoever sent the message being handled.
    pub fn on_behalf(meta: &Meta, within: Duration) -> Self {
        Self { caller: Some(meta.caller.clone()), within, trace: meta.trace }
    }
}

/// What a fabric is made of.
pub struct FabricConfig {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where audit records go.
    pub audit: AuditSink,
}

/// What a fabric with links is made of beside its [`FabricConfig`].
pub struct LinkConfig {
    /// The cluster; peers of another are refused.
    pub cluster: ClusterId,
    /// Version of this build, for the hello.
    pub version: String,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub limits: Limits,
}

impl LinkConfig {
    /// With the machine's clock and the default bounds.
    pub fn new(cluster: ClusterId, version: impl Into<String>) -> Self {
        let version = version.into();
        Self { cluster, version, clock: Arc::new(SystemClock), limits: Limits::default() }
    }
}

/// A daemon's last word to its peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GoodBye {
    /// Why it goes, for people.
    pub reason: String,
}

/// Asks, tells and subscribes; local if the target is here, over a link if not. Cheap to clone.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

pub(crate) type Mailboxes = [Option<Arc<dyn Mailbox>>; ActorKind::ALL.len()];

pub(crate) struct Inner {
    pub(crate) config: FabricConfig,
    pub(crate) cluster: ClusterId,
    pub(crate) version: String,
    pub(crate) limits: Limits,
    pub(crate) clock: SharedClock,
    /// Differs between two runs.
    pub(crate) instance: u64,
    pub(crate) directory: ArcSwap<Directory>,
    pub(crate) mailboxes: ArcSwap<Mailboxes>,
    pub(crate) stats: Counters,
    pub(crate) peers: Peers,
    deadlines: Deadlines,
    sockets: parking_lot::Mutex<Vec<PathBuf>>,
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fabric").field("node", &self.0.config.node).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn mailbox(&self, actor: ActorKind) -> Option<Arc<dyn Mailbox>> {
        self.mailboxes.load().get(actor as usize).cloned().flatten()
    }

    fn no_mailbox(&self, to: &Address) -> AskError {
        AskError::NotFound(format!("no actor {to} on `{}`", self.config.name))
    }

    pub(crate) fn add_socket(&self, path: PathBuf) {
        self.sockets.lock().push(path);
    }
}

impl Fabric {
    /// A fabric that will [`listen`](Fabric::listen).
    pub fn new(config: FabricConfig, link: LinkConfig) -> Self {
        let LinkConfig { cluster, version, clock, limits } = link;
        let clock = SharedClock(clock);
        let instance =
            clock.0.wall().as_micros().unsigned_abs() ^ u64::from(std::process::id()) << 44;
        Self(Arc::new(Inner {
            config,
            cluster,
            version,
            limits,
            deadlines: Deadlines::new(clock.clone()),
            clock,
            instance,
            directory: ArcSwap::default(),
            mailboxes: ArcSwap::default(),
            stats: Counters::default(),
            peers: Peers::default(),
            sockets: parking_lot::Mutex::default(),
        }))
    }

    /// A fabric without links: everything but this node is unreachable. For tests, and until the
    /// endpoint is up.
    pub fn local(config: FabricConfig) -> Self {
        let cluster = ClusterId::new(config.node.uuid());
        Self::new(config, LinkConfig::new(cluster, env!("CARGO_PKG_VERSION")))
    }

    /// Binds the QUIC endpoint and lets peers in from now on; the address it got. Tasks run on the
    /// present tokio runtime. [`Fabric::close`] ends it.
    ///
    /// # Errors
    /// [`LinkError::Bind`], [`LinkError::Tls`]; [`LinkError::State`] the second time.
    pub fn listen(&self, config: ListenConfig) -> Result<SocketAddr, LinkError> {
        self.0.start_listening(config)
    }

    /// Goes on at another address, because the one it listened at is gone; the address it got.
    /// Connections that this node dialled go on; the others are closed, and made anew by whoever
    /// needs them. Peers that are to dial this node must be told ([`Fabric::set_directory`] there).
    ///
    /// # Errors
    /// [`LinkError::Bind`], and all is as before; [`LinkError::State`] before [`Fabric::listen`].
    pub fn rebind(&self, bind: SocketAddr) -> Result<SocketAddr, LinkError> {
        self.0.move_to(bind)
    }

    /// Lets people of this machine in through a Unix socket.
    ///
    /// # Errors
    /// [`LinkError::Socket`], [`LinkError::SocketInUse`].
    pub fn listen_local(
        &self,
        path: impl Into<PathBuf>,
        config: LocalConfig,
    ) -> Result<(), LinkError> {
        crate::local::listen(&self.0, path.into(), config)
    }

    /// Where it listens, once it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.peers.net.get().map(|net| *net.address.lock())
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.config.node
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.0.config.name
    }

    /// The clock it was made with.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.0.clock.0.clone()
    }

    /// Makes an actor's mailbox reachable under its kind, replacing an earlier one.
    pub fn attach(&self, actor: ActorKind, mailbox: Arc<dyn Mailbox>) {
        self.0.mailboxes.rcu(|old| {
            let mut new = Mailboxes::clone(old);
            if let Some(slot) = new.get_mut(actor as usize) {
                *slot = Some(mailbox.clone());
            }
            new
        });
    }

    /// What this node knows of the others.
    pub fn directory(&self) -> Arc<Directory> {
        self.0.directory.load_full()
    }

    /// Replaces what this node knows of the others. Connections of denied ids are closed at once,
    /// peers whose address changed are dialled there.
    pub fn set_directory(&self, directory: Directory) {
        // Agreed state changes often, and seldom in this.
        if **self.0.directory.load() == directory {
            return;
        }
        self.0.directory.store(Arc::new(directory));
        self.0.directory_changed();
    }

    /// Every other node, and what the link to it is doing.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.0.statuses()
    }

    /// How many connections are open, clients' included.
    pub fn connections(&self) -> usize {
        self.0.links().len()
    }

    /// Links that come up and go down from now on. A receiver that lags loses the oldest.
    pub fn link_events(&self) -> broadcast::Receiver<LinkEvent> {
        self.0.subscribe_events()
    }

    /// What has passed the door.
    pub fn stats(&self) -> Stats {
        let mailboxes = self.0.mailboxes.load();
        self.0.stats.snapshot(|id| {
            mailboxes.iter().flatten().find_map(|mailbox| mailbox.rule(id)).map(|rule| rule.name)
        })
    }

    /// Sends `message` and waits for its answer. Idempotent messages are sent again, within the
    /// deadline, when the actor or the connection went away; others are never sent twice.
    ///
    /// # Errors
    /// [`AskError`]; after `Timeout` and `Unreachable` the request may have been carried out.
    pub fn ask<M: Message>(
        &self,
        to: Address,
        message: M,
        call: Call,
    ) -> impl Future<Output = Result<M::Reply, AskError>> + Send + use<'_, M> {
        Ask { fabric: self, state: AskState::Start(to, message, call) }
    }

    /// Sends `message` and waits for nothing. While the link to its node is being made, tells wait
    /// in a bounded queue.
    ///
    /// # Errors
    /// [`AskError`] when it is known at once that it will not arrive.
    pub fn tell<M: Message>(&self, to: Address, message: M, call: &Call) -> Result<(), AskError> {
        let node = match self.place(&to)? {
            Place::Node(node) => node,
            Place::Here => {
                let parcel = Parcel::Local(Box::new(LocalTell(message)));
                return self
                    .post(&to, Rule::of::<M>(), M::ID, parcel, call, None)
                    .map_err(|(_, error)| error);
            }
        };
        let body = |out: &mut Vec<u8>| codec::encode_into(&message, out).map(drop);
        let request = Request {
            header: header::<M>(Kind::Tell, 0),
            extension: self.extension(call)?,
            body: &body,
        };
        self.0.tell_node(node, M::CLASS, &request)
    }

    /// Opens a stream of items.
    ///
    /// # Errors
    /// [`AskError`] when it was refused at once; later errors come as the last item.
    pub async fn subscribe<S: Subscription>(
        &self,
        to: Address,
        message: S,
        call: Call,
    ) -> Result<Items<S::Item>, AskError> {
        let node = match self.place(&to)? {
            Place::Node(node) => node,
            Place::Here => {
                let (sink, receiver) = mpsc::channel(ITEMS_WAITING);
                let parcel = Parcel::Local(Box::new(LocalSubscribe { message, sink }));
                let rule = Rule::of_subscription::<S>();
                self.post(&to, rule, S::ID, parcel, &call, None).map_err(|(_, error)| error)?;
                return Ok(Items::new(receiver));
            }
        };
        let extension = self.extension(&call)?;
        let frame = encode_request(header::<S>(Kind::Subscribe, 0), extension, &message)?;
        drop(message);
        let opened = async {
            let link = self.0.link_to(node, call.within).await?;
            let place = Held::take(&link.subscriptions);
            let stream = link.requester.subscribe(&frame).await.map_err(AskError::from)?;
            Ok::<_, AskError>((stream, place, link))
        };
        let (stream, place, link) = tokio::time::timeout(call.within.min(WITHIN_MAX), opened)
            .await
            .unwrap_or(Err(AskError::Timeout))?;
        let handle = self.0.handle().ok_or(AskError::Unreachable("no links".into()))?;
        let crate::link::ItemStream { reader, _open } = stream;
        let conn = link.conn.clone();
        let why = move || conn.close_reason().map(|error| link.reason(&error).to_string());
        Ok(items::decode(&handle, reader, (_open, place), why))
    }

    /// Says good-bye, lets what is in flight finish briefly, and ends all connections. Later asks
    /// to other nodes fail with `Unreachable`; local ones still work.
    pub async fn close(&self, good_bye: GoodBye) {
        let inner = &self.0;
        inner.peers.closing.cancel();
        for path in inner.sockets.lock().drain(..) {
            let _ = std::fs::remove_file(path);
        }
        let Some(net) = inner.peers.net.get() else { return };
        net.endpoint.set_server_config(None);
        let drained = Instant::now() + DRAIN;
        while inner.links().iter().any(|link| link.requester.in_flight() + link.serving.now() > 0)
            && Instant::now() < drained
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let reason = if good_bye.reason.is_empty() {
            format!("`{}` stops", inner.config.name)
        } else {
            format!("`{}` stops: {}", inner.config.name, good_bye.reason)
        };
        for link in inner.links() {
            link.close(close::GOOD_BYE, &reason);
        }
        net.endpoint.close(close::GOOD_BYE, reason.as_bytes());
        // Without it the close frames may not leave (dependencies §9).
        let _ = tokio::time::timeout(Duration::from_secs(1), net.endpoint.wait_idle()).await;
    }

    fn place(&self, to: &Address) -> Result<Place, AskError> {
        match &to.target {
            Target::Here => Ok(Place::Here),
            Target::Node(id) if *id == self.node() => Ok(Place::Here),
            Target::Node(id) => Ok(Place::Node(*id)),
            // Its own first, then any that lives.
            Target::Any if self.0.mailbox(to.actor).is_none() => {
                Ok(self.0.any_peer().map_or(Place::Here, Place::Node))
            }
            target => self.0.directory.load().place(target, self.node(), self.name()),
        }
    }

    /// Refuses a caller this node knows to be denied; `None` for this node's own.
    fn caller(&self, call: &Call) -> Result<Option<Caller>, AskError> {
        let Some(caller) = &call.caller else { return Ok(None) };
        if self.0.directory.load().is_denied(&caller.identity) {
            return Err(AskError::Denied(format!(
                "{} was removed from the cluster",
                caller.identity
            )));
        }
        Ok(Some(caller.clone()))
    }

    fn extension(&self, call: &Call) -> Result<Option<weft_wire::frame::Extension>, AskError> {
        Ok(extension_for(Target::Here, self.caller(call)?, call.trace))
    }

    /// Asks here until the actor that answers is there, within the deadline.
    async fn ask_here<M: Message>(
        &self,
        to: Address,
        message: M,
        call: Call,
    ) -> Result<M::Reply, AskError> {
        let deadline = Instant::now() + call.within.min(WITHIN_MAX);
        let mut attempt = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let gone = match self.send_here(&to, message.clone(), &call, left, None) {
                Ok(waiting) => match waiting.await {
                    Ok(answer) => return Ok(answer),
                    Err(End::Error(error)) => return Err(error),
                    Err(End::Gone) => stopped(&to),
                },
                Err((Some(Refusal::Gone), error)) => error,
                Err((_, error)) => return Err(error),
            };
            if !self.0.retry_pause(attempt, deadline).await {
                return Err(gone);
            }
            attempt += 1;
        }
    }

    /// Puts an ask into a mailbox here. `waker`: who polls this; then the answer need not be
    /// polled before it wakes.
    fn send_here<M: Message>(
        &self,
        to: &Address,
        message: M,
        call: &Call,
        within: Duration,
        waker: Option<&Waker>,
    ) -> Result<Waiting<'_, M>, (Option<Refusal>, AskError)> {
        let deadline = self.0.clock.0.now() + within.min(WITHIN_MAX);
        let (unopened, mut waiting) = crate::ask::new(message, waker, &self.0.deadlines);
        let parcel = Parcel::LocalAsk(unopened);
        self.post(to, Rule::of::<M>(), M::ID, parcel, call, Some(deadline))?;
        waiting.until(deadline).map_err(|error| (None, error))?;
        Ok(waiting)
    }

    /// Sends an ask over a link that is up. The message comes back if there is none. The poll
    /// that calls this polls the answer next.
    fn send_with<M: Message>(
        &self,
        node: NodeId,
        message: M,
        call: &Call,
        waker: &Waker,
    ) -> Result<Result<Answer, M>, AskError> {
        let within = call.within.min(WITHIN_MAX);
        let extension = self.extension(call)?;
        let sent = self.0.with_up(node, |link| {
            let body = |out: &mut Vec<u8>| codec::encode_into(&message, out).map(drop);
            let header = header::<M>(Kind::Ask, deadline_ms(within));
            let request = Request { header, extension, body: &body };
            link.requester.ask(M::CLASS, &request, Instant::now() + within, Some(waker))
        });
        match sent {
            Some(Ok(answer)) => Ok(Ok(answer)),
            None | Some(Err(Fault::NotSent(_))) => Ok(Err(message)),
            Some(Err(fault)) => Err(fault.into()),
        }
    }

    async fn ask_slowly<M: Message>(
        &self,
        node: NodeId,
        message: M,
        call: Call,
    ) -> Result<M::Reply, AskError> {
        let within = call.within.min(WITHIN_MAX);
        let extension = self.extension(&call)?;
        let body = codec::encode(&message).map_err(not_encodable)?;
        drop(message);
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(&body);
            Ok(())
        };
        let request = |left| Request {
            header: header::<M>(Kind::Ask, left),
            extension: extension.clone(),
            body: &write,
        };
        let answered = self.0.ask_node(node, M::CLASS, within, request, M::IDEMPOTENT).await?;
        decode_reply::<M>(&answered.body)
    }

    /// The door for what this node sends to itself: rights, then the mailbox. Whom it acts for was
    /// judged, and recorded, where they came in.
    fn post(
        &self,
        to: &Address,
        rule: Rule,
        id: weft_wire::MessageId,
        parcel: Parcel,
        call: &Call,
        deadline: Option<std::time::Instant>,
    ) -> Result<(), (Option<Refusal>, AskError)> {
        let caller = match self.caller(call) {
            Ok(caller) => caller.unwrap_or(Caller::node(self.node())),
            Err(error) => return Err((None, error)),
        };
        let mailboxes = self.0.mailboxes.load();
        let Some(mailbox) = mailboxes.get(to.actor as usize).and_then(Option::as_deref) else {
            return Err((None, self.0.no_mailbox(to)));
        };
        match mailbox.rule(id) {
            Some(known) if known.subscription == rule.subscription => {}
            _ => return Err((None, AskError::Unsupported { id: id.0, version: 0 })),
        }
        if !rule.allow.permits(&caller) {
            self.0.stats.refused();
            return Err((
                None,
                AskError::Denied(format!(
                    "{} (role {}) may not send {}",
                    caller.identity, caller.role, rule.name
                )),
            ));
        }
        let meta = Meta { caller, from: None, deadline, trace: call.trace };
        mailbox
            .post(Letter { id, meta, parcel, audit: None })
            .map_err(|(refusal, _)| (Some(refusal), self.0.refusal(refusal, to.actor as u8)))
    }
}

/// An ask under way. By hand, because askers are many and their futures are moved about: this is
/// a quarter of what the compiler makes of it. What is rare or large is boxed.
struct Ask<'a, M: Message> {
    fabric: &'a Fabric,
    state: AskState<'a, M>,
}

enum AskState<'a, M: Message> {
    Start(Address, M, Call),
    /// Its waker is known; the actor, for what is said should it stop.
    Here(Address, Waiting<'a, M>),
    Sent(Answer),
    Boxed(Pin<Box<dyn Future<Output = Result<M::Reply, AskError>> + Send + 'a>>),
    Over,
}

/// The message in it is only ever moved out, never pinned.
impl<M: Message> Unpin for Ask<'_, M> {}

impl<'a, M: Message> Ask<'a, M> {
    fn start(
        &self,
        (to, message, call): (Address, M, Call),
        waker: &Waker,
    ) -> Result<AskState<'a, M>, AskError> {
        let fabric = self.fabric;
        Ok(match fabric.place(&to)? {
            Place::Here if M::IDEMPOTENT => {
                AskState::Boxed(Box::pin(fabric.ask_here(to, message, call)))
            }
            Place::Here => {
                let waiting = fabric
                    .send_here(&to, message, &call, call.within, Some(waker))
                    .map_err(|(_, error)| error)?;
                AskState::Here(to, waiting)
            }
            Place::Node(node) if M::IDEMPOTENT => {
                AskState::Boxed(Box::pin(fabric.ask_slowly(node, message, call)))
            }
            Place::Node(node) => match fabric.send_with(node, message, &call, waker)? {
                Ok(answer) => AskState::Sent(answer),
                Err(message) => AskState::Boxed(Box::pin(fabric.ask_slowly(node, message, call))),
            },
        })
    }
}

impl<M: Message> Future for Ask<'_, M> {
    type Output = Result<M::Reply, AskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if matches!(self.state, AskState::Start(..))
            && let AskState::Start(to, message, call) =
                std::mem::replace(&mut self.state, AskState::Over)
        {
            match self.start((to, message, call), context.waker()) {
                Ok(state) => {
                    self.state = state;
                    if matches!(self.state, AskState::Here(..)) {
                        return Poll::Pending;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let result = match &mut self.state {
            AskState::Here(to, waiting) => match Pin::new(waiting).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answer)) => Ok(answer),
                Poll::Ready(Err(End::Error(error))) => Err(error),
                Poll::Ready(Err(End::Gone)) => Err(stopped(to)),
            },
            AskState::Sent(answer) => match Pin::new(answer).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answered)) => decode_reply::<M>(&answered.body),
                Poll::Ready(Err(fault)) => Err(fault.into()),
            },
            AskState::Boxed(future) => match future.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            },
            // Polled again after its end.
            AskState::Start(..) | AskState::Over => return Poll::Pending,
        };
        self.state = AskState::Over;
        Poll::Ready(result)
    }
}

fn stopped(to: &Address) -> AskError {
    AskError::Unreachable(format!("{to} stopped before it answered"))
}

/// What is left of a deadline, for the wire; never 0, which means "none".
pub(crate) fn deadline_ms(within: Duration) -> u32 {
    u32::try_from(within.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// The header of a request.
pub(crate) const fn header<M: Message>(kind: Kind, deadline_ms: u32) -> Header {
    Header {
        kind,
        id: M::ID.0,
        version: M::VERSION,
        actor: M::ACTOR as u8,
        correlation: 0,
        deadline_ms,
    }
}

/// A whole request frame.
pub(crate) fn encode_request<M: Message>(
    header: Header,
    extension: Option<weft_wire::frame::Extension>,
    message: &M,
) -> Result<Vec<u8>, AskError> {
    let mut frame = Vec::new();
    let body = |out: &mut Vec<u8>| codec::encode_into(message, out).map(drop);
    Request { header, extension, body: &body }.encode(&mut frame, 0)?;
    Ok(frame)
}

pub(crate) fn not_encodable(error: codec::CodecError) -> AskError {
    let failure =
        weft_wire::Failure::new(weft_wire::FailureKind::Invalid, "the message cannot be sent");
    AskError::Failed(failure.cause(error))
}

/// Decodes an answer.
pub(crate) fn decode_reply<M: Message>(body: &[u8]) -> Result<M::Reply, AskError> {
    codec::decode(body).map_err(|error| {
        AskError::Failed(
            weft_wire::Failure::new(
                weft_wire::FailureKind::Unsupported,
                format!("the answer to {} cannot be read", M::NAME),
            )
            .cause(error)
            .help("the peer runs another version: upgrade the older one"),
        )
    })
}
