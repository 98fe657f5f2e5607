//! Membership over real QUIC links on loopback, and the bytes it puts on the wire.
#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;
use weft_agreement::door::Door;
use weft_agreement::membership::wire::{Gossip, Health, Leave, Life, Opinion, Purpose, Suspicion};
use weft_agreement::membership::{Liveness, Membership, MembershipConfig, Profile};
use weft_identity::{
    Credentials, DenyList, IssuingCa, PrivateKey, Subject, Trust, TrustBundle, Validity,
};
use weft_link::{
    AuditSink, Directory, Fabric, FabricConfig, GoodBye, LinkConfig, ListenConfig, PeerEntry,
};
use weft_wire::{Clock, ClusterId, Identity, Message, NodeId, SystemClock, codec};

/// Nothing here takes longer.
const LONG: Duration = Duration::from_secs(20);

fn node_id(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

struct Node {
    fabric: Fabric,
    membership: Membership,
}

/// A CA, and what each node keeps over its restarts.
struct Cluster {
    id: ClusterId,
    ca: IssuingCa,
    dir: tempfile::TempDir,
    grace: Duration,
    nodes: BTreeMap<u128, Node>,
    addresses: BTreeMap<u128, SocketAddr>,
    members: Vec<u128>,
}

impl Cluster {
    async fn of(n: u128, grace: Duration) -> Self {
        let id = ClusterId::new(Uuid::from_u128(77));
        let mut cluster = Self {
            id,
            ca: IssuingCa::create(id, SystemClock.wall()).expect("a CA"),
            dir: tempfile::tempdir().expect("a folder"),
            grace,
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            members: (1..=n).collect(),
        };
        for n in 1..=n {
            cluster.start(n).await;
        }
        cluster
    }

    /// Starts a node; on the port it had before, if it was up before.
    async fn start(&mut self, n: u128) {
        let (audit, _) = AuditSink::channel(100);
        let config = FabricConfig { node: node_id(n), name: format!("n{n}"), audit };
        let fabric = Fabric::new(config, LinkConfig::new(self.id, "0.1.0"));
        let mut bundle = TrustBundle::new();
        bundle.insert(self.ca.certificate()).expect("a CA");
        let trust =
            Trust::new(self.id, bundle, DenyList::new(), Arc::new(SystemClock)).expect("trust");
        let key = PrivateKey::generate().expect("a key");
        let subject = Subject { cluster: self.id, identity: Identity::Node(node_id(n)) };
        let csr = key.csr().expect("a CSR");
        let validity = Validity::node(SystemClock.wall());
        let chain = self.ca.sign_csr(&csr, &subject, validity).expect("signs");
        let credentials = Credentials::new(&chain, &key).expect("fits");
        let any = "127.0.0.1:0".parse().expect("an address");
        let bind = self.addresses.get(&n).copied().unwrap_or(any);
        let door = Door::new(fabric.clone());
        door.attach();
        let listen = || {
            let (credentials, trust) = (credentials.clone(), trust.clone());
            fabric.listen(ListenConfig { bind, credentials, trust }).ok()
        };
        let address = until("the port is free", listen).await;
        let data_dir = self.dir.path().join(n.to_string());
        let config = MembershipConfig {
            daemon_grace: self.grace,
            ..MembershipConfig::new(data_dir, Profile::Lan)
        };
        let membership = Membership::start(config, fabric.clone(), &door).expect("starts");
        self.addresses.insert(n, address);
        self.nodes.insert(n, Node { fabric, membership });
        self.introduce();
    }

    fn introduce(&self) {
        let entry = |n: &u128, address: &SocketAddr| PeerEntry {
            id: node_id(*n),
            name: format!("n{n}"),
            address: Some(*address),
        };
        let nodes: Vec<_> = self.addresses.iter().map(|(n, a)| entry(n, a)).collect();
        for node in self.nodes.values() {
            let mut directory = Directory::default();
            directory.nodes.extend(nodes.iter().map(|entry| (entry.id, entry.clone())));
            node.fabric.set_directory(directory);
            node.membership.set_known(self.members.iter().map(|n| node_id(*n)).collect());
        }
    }

    /// Ends a node as `kill -9` does for its peers: its port closes, its membership says nothing.
    async fn kill(&mut self, n: u128) {
        let Node { fabric, membership } = self.nodes.remove(&n).expect("it runs");
        fabric.close(GoodBye::default()).await;
        drop(membership);
        drop(fabric);
        // Only once the port is closed does its host refuse.
        let address = self.addresses[&n];
        until("the port is closed", || std::net::UdpSocket::bind(address).ok()).await;
    }

    async fn stop(&mut self, n: u128, back_in: Option<Duration>) {
        self.nodes[&n].membership.stop(back_in).await;
        self.kill(n).await;
    }

    fn sees(&self, a: u128, b: u128) -> Option<Liveness> {
        self.nodes[&a].membership.members().get(node_id(b)).map(|member| member.liveness)
    }

    fn incarnation(&self, a: u128, b: u128) -> u64 {
        let members = self.nodes[&a].membership.members();
        members.get(node_id(b)).map_or(0, |member| member.incarnation)
    }

    async fn all_see(&self, of: u128, liveness: Liveness) {
        until(&format!("all see {of} as {liveness:?}"), || {
            let all = self.nodes.keys().all(|n| *n == of || self.sees(*n, of) == Some(liveness));
            all.then_some(())
        })
        .await;
    }

    async fn all_alive(&self) {
        for n in self.nodes.keys() {
            self.all_see(*n, Liveness::Alive).await;
        }
    }

    async fn end(self) {
        for node in self.nodes.values() {
            node.fabric.close(GoodBye::default()).await;
        }
    }
}

async fn until<T>(what: &str, check: impl Fn() -> Option<T>) -> T {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_is_down_then_lost_and_alive_again_with_a_higher_incarnation() {
    let grace = Duration::from_secs(4);
    let mut cluster = Cluster::of(3, grace).await;
    cluster.all_alive().await;
    let before = cluster.incarnation(1, 3);
    let mut watch = cluster.nodes[&1].membership.watch();
    let clock = SystemClock;
    let killed = clock.now();
    cluster.kill(3).await;
    cluster.all_see(3, Liveness::DaemonDown).await;
    assert!(clock.now() - killed < Duration::from_secs(4), "{:?}", clock.now() - killed);
    cluster.all_see(3, Liveness::Lost).await;
    assert!(clock.now() - killed >= grace);
    let lost = watch.borrow_and_update().get(node_id(3)).cloned().expect("known");
    assert_eq!(lost.liveness, Liveness::Lost);
    assert!(lost.since >= killed + grace);
    cluster.start(3).await;
    cluster.all_alive().await;
    assert!(cluster.incarnation(1, 3) > before);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_is_away_until_it_returns_and_down_when_it_does_not() {
    let mut cluster = Cluster::of(3, Duration::from_secs(15)).await;
    cluster.all_alive().await;
    let before = cluster.incarnation(1, 3);
    cluster.stop(3, Some(Duration::from_secs(60))).await;
    for n in [1, 2] {
        assert_eq!(cluster.sees(n, 3), Some(Liveness::Away), "at once, for {n}");
    }
    cluster.start(3).await;
    cluster.all_alive().await;
    assert!(cluster.incarnation(1, 3) > before);
    cluster.stop(3, Some(Duration::from_millis(500))).await;
    cluster.all_see(3, Liveness::DaemonDown).await;
    cluster.start(3).await;
    cluster.all_alive().await;
    cluster.stop(3, None).await;
    cluster.all_see(3, Liveness::Left).await;
    cluster.members.retain(|n| *n != 3);
    cluster.introduce();
    until("forgotten", || cluster.sees(1, 3).is_none().then_some(())).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_everybody_comes_back_by_itself() {
    let mut cluster = Cluster::of(3, Duration::from_secs(2)).await;
    cluster.all_alive().await;
    cluster.kill(2).await;
    cluster.kill(3).await;
    until("all lost", || {
        [2, 3].into_iter().all(|n| cluster.sees(1, n) == Some(Liveness::Lost)).then_some(())
    })
    .await;
    // They know each other and node 1 from agreed state; node 1 did nothing.
    cluster.start(2).await;
    cluster.start(3).await;
    cluster.all_alive().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_known_is_ignored() {
    let mut cluster = Cluster::of(2, Duration::from_secs(15)).await;
    cluster.all_alive().await;
    cluster.members.push(3);
    cluster.start(3).await;
    cluster.all_alive().await;
    cluster.nodes[&1].membership.set_known(vec![node_id(1), node_id(2)]);
    until("forgotten", || cluster.sees(1, 3).is_none().then_some(())).await;
    cluster.nodes[&1].membership.set_known(vec![node_id(1), node_id(2), node_id(3)]);
    cluster.all_alive().await;
    cluster.end().await;
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/membership.txt");

fn line<M: Message>(message: &M) -> String {
    let bytes = codec::encode(message).expect("encodes");
    let decoded = M::decode_version(M::VERSION, &bytes).expect("this version").expect("decodes");
    assert_eq!(codec::encode(&decoded).expect("encodes"), bytes);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {} {} {hex}", M::ID, M::VERSION, M::NAME)
}

fn lines() -> Vec<String> {
    let life = |n, incarnation| Life { node: node_id(n), incarnation };
    let target = life(3, 1_795_000_000_000_000);
    let opinion = |n, health| Opinion { life: life(n, 1_795_000_000_000_001), refuted: 2, health };
    let number = 7;
    let purposes = [
        Purpose::Ping { number },
        Purpose::Ack { number },
        Purpose::PingRequest { target, number },
        Purpose::IndirectPing { origin: target, number },
        Purpose::IndirectAck { target, number },
        Purpose::ForwardedAck { origin: target, number },
        Purpose::Announce,
        Purpose::Feed,
        Purpose::News,
        Purpose::YouAreDead,
    ];
    let gossip = |purpose| Gossip {
        from: life(1, 5),
        refuted: 300,
        to: life(2, 6),
        purpose,
        opinions: vec![
            opinion(4, Health::Alive),
            opinion(5, Health::Suspect),
            opinion(6, Health::Dead),
        ],
    };
    let mut lines: Vec<_> = purposes.into_iter().map(|purpose| line(&gossip(purpose))).collect();
    lines.push(line(&Suspicion { life: target, refuted: 3 }));
    lines.push(line(&Leave { incarnation: 9, back_in_ms: Some(30_000) }));
    lines.push(line(&Leave { incarnation: 9, back_in_ms: None }));
    lines
}

/// `WEFT_UPDATE_GOLDEN=1` writes the file anew; a line that changes needs a new version.
#[test]
fn the_bytes_of_every_membership_message_are_pinned() {
    let lines = lines();
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::write(FILE, lines.join("\n") + "\n").expect("writes the golden file");
    }
    let golden = std::fs::read_to_string(FILE).expect("the golden file");
    assert_eq!(lines, golden.lines().collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_membership_message_and_never_panic(bytes: Vec<u8>, flip: usize) {
        let _ = codec::decode::<Gossip>(&bytes);
        let _ = codec::decode::<Suspicion>(&bytes);
        let _ = codec::decode::<Leave>(&bytes);
        let life = Life { node: node_id(1), incarnation: 5 };
        let purpose = Purpose::PingRequest { target: life, number: 1 };
        let gossip = Gossip { from: life, refuted: 0, to: life, purpose, opinions: Vec::new() };
        let mut real = codec::encode(&gossip).expect("encodes");
        let at = flip % real.len();
        real[at] ^= 1 << (flip % 8);
        let _ = codec::decode::<Gossip>(&real);
    }
}
