//! A cluster in miniature for the tests: real certificates, real sockets, mailboxes by hand.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its share")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;
use weft_identity::{
    Credentials, DenyList, IssuingCa, PrivateKey, Subject, Trust, TrustBundle, Validity,
};
use weft_link::{
    AuditEntry, AuditSink, Call, Directory, Fabric, FabricConfig, GoodBye, ItemSink, Letter,
    Limits, LinkConfig, ListenConfig, Mailbox, PeerEntry, PeerState, Refusal, Reply, Rule,
};
use weft_wire::{
    ActorKind, Address, Allow, Class, Clock, ClusterId, Identity, Message, MessageId, NodeId,
    OperatorId, Role, Subscription, SystemClock,
};

/// Nothing in these tests takes longer.
pub const LONG: Duration = Duration::from_secs(20);

/// Bytes that are encoded at once rather than one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl Echo {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Blob(bytes.to_vec()))
    }
}

macro_rules! message {
    ($name:ident($body:ty) -> $reply:ty, $id:literal, $allow:ident $(, $item:ident = $value:expr)*) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name(pub $body);
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::Registry;
            const NAME: &'static str = stringify!($name);
            const ALLOW: Allow = Allow::$allow;
            $(const $item: bool = $value;)*
            type Reply = $reply;
        }
    };
}

message!(Echo(Blob) -> Blob, 60001, PERSONS);
message!(Note(u64) -> (), 60002, PERSONS);
message!(Count(u64) -> (), 60003, ADMINS);
message!(Never(u32) -> (), 60004, PERSONS);
message!(Join(String) -> String, 60005, JOINERS);
message!(WhoAmI(()) -> String, 60006, PERSONS);
message!(Flaky(u32) -> u32, 60007, PERSONS, IDEMPOTENT = true);
message!(FlakyOnce(u32) -> u32, 60008, PERSONS);
message!(Grow(u32) -> Blob, 60010, PERSONS);

impl Subscription for Count {
    type Item = u64;
}

/// A message nobody knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unknown(pub u8);
impl Message for Unknown {
    const ID: MessageId = MessageId(60009);
    const ACTOR: ActorKind = ActorKind::Registry;
    const NAME: &'static str = "Unknown";
    const CLASS: Class = Class::Request;
    const ALLOW: Allow = Allow::ANYBODY;
    type Reply = ();
}

/// What a node's hand-made mailbox has seen.
#[derive(Default)]
pub struct Seen {
    pub notes: Mutex<Vec<u64>>,
    pub held: Mutex<Vec<Reply<Never>>>,
    pub flaky: AtomicUsize,
    pub echoes: AtomicUsize,
    pub sinks_closed: AtomicUsize,
    pub full: std::sync::atomic::AtomicBool,
}

pub struct Box_ {
    pub seen: Arc<Seen>,
    pub runtime: tokio::runtime::Handle,
}

impl Mailbox for Box_ {
    fn rule(&self, id: MessageId) -> Option<Rule> {
        Some(match id.0 {
            60001 => Rule::of::<Echo>(),
            60002 => Rule::of::<Note>(),
            60003 => Rule::of_subscription::<Count>(),
            60004 => Rule::of::<Never>(),
            60005 => Rule::of::<Join>(),
            60006 => Rule::of::<WhoAmI>(),
            60007 => Rule::of::<Flaky>(),
            60008 => Rule::of::<FlakyOnce>(),
            60010 => Rule::of::<Grow>(),
            _ => return None,
        })
    }

    fn post(&self, letter: Letter) -> Result<(), (Refusal, Letter)> {
        if self.seen.full.load(Ordering::Relaxed) {
            return Err((Refusal::Full, letter));
        }
        match letter.id().0 {
            60001 => {
                if let Some((message, reply)) = letter.open::<Echo>() {
                    self.seen.echoes.fetch_add(1, Ordering::Relaxed);
                    reply.ok(message.0);
                }
            }
            60002 => {
                if let Some((message, reply)) = letter.open::<Note>() {
                    self.seen.notes.lock().push(message.0);
                    reply.ok(());
                }
            }
            60003 => {
                if let Some((message, sink)) = letter.open_subscription::<Count>() {
                    let seen = self.seen.clone();
                    self.runtime.spawn(count(message.0, sink, seen));
                }
            }
            60004 => {
                if let Some((_, reply)) = letter.open::<Never>() {
                    self.seen.held.lock().push(reply);
                }
            }
            60005 => {
                if let Some((message, reply)) = letter.open::<Join>() {
                    match message.0.as_str() {
                        "secret" => {
                            let who = format!("{:?}", reply.caller());
                            reply.ok(who);
                        }
                        _ => reply.fail(weft_wire::Failure::new(
                            weft_wire::FailureKind::Unauthenticated,
                            "no such token",
                        )),
                    }
                }
            }
            60006 => {
                if let Some((_, reply)) = letter.open::<WhoAmI>() {
                    let caller = reply.caller();
                    let via = caller.via.map(|id| id.to_string()).unwrap_or_default();
                    let text = format!("{}|{}|{via}", caller.identity, caller.role);
                    reply.ok(text);
                }
            }
            60007 => {
                if let Some((message, reply)) = letter.open::<Flaky>() {
                    // The actor dies on the first two, as a panicking handler would.
                    if self.seen.flaky.fetch_add(1, Ordering::Relaxed) >= 2 {
                        reply.ok(message.0);
                    }
                }
            }
            60008 => {
                if let Some((_, reply)) = letter.open::<FlakyOnce>() {
                    self.seen.flaky.fetch_add(1, Ordering::Relaxed);
                    drop(reply);
                }
            }
            60010 => {
                if let Some((message, reply)) = letter.open::<Grow>() {
                    reply.ok(Blob(vec![7; message.0 as usize]));
                }
            }
            _ => return Err((Refusal::Gone, letter)),
        }
        Ok(())
    }
}

async fn count(to: u64, sink: ItemSink<Count>, seen: Arc<Seen>) {
    for n in 0..to {
        if sink.send(n).await.is_err() {
            seen.sinks_closed.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    if to == 7 {
        sink.fail(weft_wire::AskError::NotFound("seven".into())).await;
    }
}

/// One cluster's CA and what is common to its nodes.
pub struct Cluster {
    pub id: ClusterId,
    pub ca: IssuingCa,
}

impl Cluster {
    pub fn new(n: u128) -> Self {
        let id = ClusterId::new(Uuid::from_u128(n));
        Self { id, ca: IssuingCa::create(id, SystemClock.wall()).expect("a CA") }
    }

    pub fn trust(&self) -> Trust {
        let mut bundle = TrustBundle::new();
        bundle.insert(self.ca.certificate()).expect("a CA");
        Trust::new(self.id, bundle, DenyList::new(), Arc::new(SystemClock)).expect("trust")
    }

    pub fn credentials(&self, identity: Identity, validity: Validity) -> Credentials {
        let key = PrivateKey::generate().expect("a key");
        let subject = Subject { cluster: self.id, identity };
        let chain =
            self.ca.sign_csr(&key.csr().expect("a CSR"), &subject, validity).expect("signs");
        Credentials::new(&chain, &key).expect("fits")
    }

    pub fn node_credentials(&self, n: u128) -> Credentials {
        self.credentials(Identity::Node(node_id(n)), Validity::node(SystemClock.wall()))
    }

    pub fn operator_credentials(&self, n: u128) -> Credentials {
        self.credentials(Identity::Operator(operator(n)), Validity::operator(SystemClock.wall()))
    }

    /// A node that listens on a port of the OS's choice.
    pub async fn node(&self, n: u128) -> Node {
        self.node_with(n, Limits { idle: Duration::from_secs(2), ..Limits::default() }, None).await
    }

    pub async fn node_with(&self, n: u128, limits: Limits, bind: Option<SocketAddr>) -> Node {
        let (audit, records) = AuditSink::channel(100);
        let config = FabricConfig { node: node_id(n), name: format!("n{n}"), audit };
        let link = LinkConfig { limits, ..LinkConfig::new(self.id, "0.1.0") };
        let fabric = Fabric::new(config, link);
        let seen = Arc::new(Seen::default());
        let runtime = tokio::runtime::Handle::current();
        fabric.attach(ActorKind::Registry, Arc::new(Box_ { seen: seen.clone(), runtime }));
        let trust = self.trust();
        let credentials = self.node_credentials(n);
        let bind = bind.unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address"));
        let address = until("the port is free", || {
            fabric
                .listen(ListenConfig {
                    bind,
                    credentials: credentials.clone(),
                    trust: trust.clone(),
                })
                .ok()
        })
        .await;
        Node { fabric, address, seen, records, trust, credentials }
    }
}

pub struct Node {
    pub fabric: Fabric,
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    pub records: mpsc::Receiver<AuditEntry>,
    pub trust: Trust,
    pub credentials: Credentials,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.fabric.node()
    }

    pub fn entry(&self) -> PeerEntry {
        PeerEntry {
            id: self.id(),
            name: self.fabric.name().to_owned(),
            address: Some(self.address),
        }
    }

    pub fn there(&self) -> Address {
        Address::on(ActorKind::Registry, self.id())
    }

    pub async fn close(&self) {
        self.fabric.close(GoodBye::default()).await;
    }

    pub fn links_up(&self) -> usize {
        self.fabric.peers().iter().filter(|peer| peer.state == PeerState::Up).count()
    }
}

/// Tells every node about all of them; operator 1 is an admin, 2 a guest; n1 leads.
pub fn introduce(nodes: &[&Node]) -> Directory {
    let mut directory = Directory::default();
    for node in nodes {
        directory.nodes.insert(node.id(), node.entry());
    }
    directory.leader = nodes.first().map(|node| node.id());
    directory.operators.insert(operator(1), Role::Admin);
    directory.operators.insert(operator(2), Role::Guest);
    for node in nodes {
        node.fabric.set_directory(directory.clone());
    }
    directory
}

pub fn node_id(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

pub fn operator(n: u128) -> OperatorId {
    OperatorId::new(Uuid::from_u128(1000 + n))
}

pub fn call() -> Call {
    Call::within(LONG)
}

/// Waits for a condition.
pub async fn until<T>(what: &str, check: impl Fn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = check() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub async fn until_true(what: &str, check: impl Fn() -> bool) {
    until(what, || check().then_some(())).await;
}
