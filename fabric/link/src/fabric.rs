//! The handle every actor holds: ask, tell, subscribe.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Message, NodeId, Subscription, SystemClock,
    Target, TraceContext,
};

use crate::Directory;
use crate::mailbox::{
    AuditStub, ClockDebug, ITEMS_WAITING, Letter, LocalAsk, LocalSubscribe, Mailbox, Meta, Parcel,
    Refusal, Rule,
};

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

/// One audited request (design §3). The node writes these to its store in batches.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// When it came in.
    pub time: weft_wire::WallTime,
    /// Who.
    pub caller: Caller,
    /// The message's name.
    pub method: &'static str,
    /// The address.
    pub target: String,
    /// How it ended; `None`: well.
    pub error: Option<AskError>,
    /// From receipt to answer.
    pub duration: Duration,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

/// Takes audit records; bounded, and counts what it had to drop.
#[derive(Debug, Clone)]
pub struct AuditSink {
    sender: Option<mpsc::Sender<AuditEntry>>,
}

impl AuditSink {
    /// A sink and the end the node reads.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<AuditEntry>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self { sender: Some(sender) }, receiver)
    }

    /// A sink that only logs.
    pub const fn none() -> Self {
        Self { sender: None }
    }

    pub(crate) fn record(&self, entry: AuditEntry) {
        tracing::info!(
            target: "weft::audit",
            caller = %entry.caller.identity,
            method = entry.method,
            address = %entry.target,
            outcome = entry.error.as_ref().map_or_else(|| "ok".to_owned(), ToString::to_string),
            duration_us = u64::try_from(entry.duration.as_micros()).unwrap_or(u64::MAX),
            trace = %entry.trace,
            "request"
        );
        if let Some(sender) = &self.sender
            && sender.try_send(entry).is_err()
        {
            tracing::warn!(target: "weft::audit", "audit queue full: one record only logged");
        }
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

/// Asks, tells and subscribes; local if the target is here, over a link if not. Cheap to clone.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

struct Inner {
    config: FabricConfig,
    clock: Arc<dyn ClockDebug>,
    directory: ArcSwap<Directory>,
    mailboxes: ArcSwap<HashMap<ActorKind, Arc<dyn Mailbox>>>,
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fabric").field("node", &self.0.config.node).finish_non_exhaustive()
    }
}

/// A subscription's items, in order. `None` from [`Items::next`]: it ended well.
#[derive(Debug)]
pub struct Items<T> {
    receiver: mpsc::Receiver<Result<T, AskError>>,
}

impl<T> Items<T> {
    /// The next item; an error is the last thing that comes.
    pub async fn next(&mut self) -> Option<Result<T, AskError>> {
        self.receiver.recv().await
    }

    pub(crate) fn new(receiver: mpsc::Receiver<Result<T, AskError>>) -> Self {
        Self { receiver }
    }
}

impl Fabric {
    /// A fabric without links: everything but this node is unreachable. For tests, and until the
    /// endpoint is up.
    pub fn local(config: FabricConfig) -> Self {
        Self(Arc::new(Inner {
            config,
            clock: Arc::new(SystemClock),
            directory: ArcSwap::default(),
            mailboxes: ArcSwap::default(),
        }))
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.config.node
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.0.config.name
    }

    /// Makes an actor's mailbox reachable under its kind, replacing an earlier one.
    pub fn attach(&self, actor: ActorKind, mailbox: Arc<dyn Mailbox>) {
        self.0.mailboxes.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.insert(actor, mailbox.clone());
            new
        });
    }

    /// What this node knows of the others.
    pub fn directory(&self) -> Arc<Directory> {
        self.0.directory.load_full()
    }

    /// Replaces what this node knows of the others.
    pub fn set_directory(&self, directory: Directory) {
        self.0.directory.store(Arc::new(directory));
    }

    /// Sends `message` and waits for its answer.
    ///
    /// # Errors
    /// [`AskError`]; after `Timeout` and `Unreachable` the request may have been carried out.
    pub async fn ask<M: Message>(
        &self,
        to: Address,
        message: M,
        call: Call,
    ) -> Result<M::Reply, AskError> {
        let mailbox = self.find(&to)?;
        let (sender, receiver) = oneshot::channel();
        let local = LocalAsk { message, reply: Some(sender) };
        let deadline = Some(self.0.clock.now() + call.within);
        self.post(
            &*mailbox,
            &to,
            Rule::of::<M>(),
            M::ID,
            Parcel::Local(Box::new(local)),
            &call,
            deadline,
        )?;
        match tokio::time::timeout(call.within, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(AskError::Unreachable(format!("{to} stopped before it answered"))),
            Err(_) => Err(AskError::Timeout),
        }
    }

    /// Sends `message` and waits for nothing.
    ///
    /// # Errors
    /// [`AskError`] when it is known at once that it will not arrive.
    pub fn tell<M: Message>(&self, to: Address, message: M, call: &Call) -> Result<(), AskError> {
        let mailbox = self.find(&to)?;
        let local = LocalAsk { message, reply: None };
        self.post(
            &*mailbox,
            &to,
            Rule::of::<M>(),
            M::ID,
            Parcel::Local(Box::new(local)),
            call,
            None,
        )
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
        let mailbox = self.find(&to)?;
        let (sink, receiver) = mpsc::channel(ITEMS_WAITING);
        let local = LocalSubscribe { message, sink };
        self.post(
            &*mailbox,
            &to,
            Rule::of_subscription::<S>(),
            S::ID,
            Parcel::Local(Box::new(local)),
            &call,
            None,
        )?;
        Ok(Items::new(receiver))
    }

    fn find(&self, to: &Address) -> Result<Arc<dyn Mailbox>, AskError> {
        let directory = self.0.directory.load();
        let here = match &to.target {
            Target::Here | Target::Any => true,
            Target::Leader => directory.leader == Some(self.node()),
            Target::Node(id) => *id == self.node(),
            Target::Named(name) => name == self.name(),
        };
        if !here {
            return Err(AskError::Unreachable(format!("no link for {to}")));
        }
        self.0
            .mailboxes
            .load()
            .get(&to.actor)
            .cloned()
            .ok_or_else(|| AskError::NotFound(format!("no actor {to}")))
    }

    /// The door: rights, then audit, then the mailbox.
    #[allow(clippy::too_many_arguments, reason = "one door, all it looks at")]
    fn post(
        &self,
        mailbox: &dyn Mailbox,
        to: &Address,
        rule: Rule,
        id: weft_wire::MessageId,
        parcel: Parcel,
        call: &Call,
        deadline: Option<std::time::Instant>,
    ) -> Result<(), AskError> {
        let caller = call.caller.clone().unwrap_or(Caller::node(self.node()));
        let _ = AuditStub::finish;
        if !rule.allow.permits(&caller) {
            return Err(AskError::Denied(format!(
                "{} may not send {}",
                caller.identity, rule.name
            )));
        }
        let meta = Meta { caller, from: None, deadline, trace: call.trace };
        mailbox.post(Letter { id, meta, parcel, audit: None }).map_err(|(refusal, _)| match refusal
        {
            Refusal::Full => AskError::Overloaded(format!("the mailbox of {to} is full")),
            Refusal::Gone => AskError::Unreachable(format!("{to} is not running")),
        })
    }
}
