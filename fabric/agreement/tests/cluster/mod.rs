//! A cluster in one process: real QUIC, real certificates, real databases.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its share")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;
use weft_agreement::consensus::{
    Consensus, ConsensusConfig, Group, Image, Machine, MachineError, Role, Timing,
};
use weft_agreement::door::Door;
use weft_identity::{
    Credentials, DenyList, IssuingCa, PrivateKey, Subject, Trust, TrustBundle, Validity,
};
use weft_link::{
    AuditSink, Directory, Fabric, FabricConfig, GoodBye, Limits, LinkConfig, ListenConfig,
    PeerEntry,
};
use weft_wire::{Clock, ClusterId, Identity, NodeId, SystemClock};

/// Nothing in these tests takes longer.
pub const LONG: Duration = Duration::from_secs(30);

pub fn node_id(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

pub fn ids(of: &[u128]) -> BTreeSet<NodeId> {
    of.iter().map(|n| node_id(*n)).collect()
}

/// What a test sees of a machine.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Every command applied, in order, with its entry.
    pub commands: Vec<(u64, Vec<u8>)>,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
}

/// Remembers all commands; answers with their length.
#[derive(Default)]
pub struct Ledger {
    pub seen: Arc<Mutex<Seen>>,
    pub restores: Arc<Mutex<u32>>,
}

impl Machine for Ledger {
    fn apply(&mut self, index: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut seen = self.seen.lock();
        commands
            .iter()
            .map(|command| {
                assert_ne!(command.as_slice(), b"panic", "as told");
                seen.commands.push((index, command.clone()));
                u64::try_from(command.len()).unwrap_or(0).to_le_bytes().to_vec()
            })
            .collect()
    }

    fn snapshot(&self) -> Result<Image, MachineError> {
        if self.seen.lock().commands.iter().any(|(_, command)| command == b"no image") {
            return Err(MachineError("no image, as told".into()));
        }
        let bytes = weft_wire::codec::encode(&self.seen.lock().commands)
            .map_err(|error| MachineError(error.to_string()))?;
        Ok(Image { version: 7, bytes })
    }

    fn restore(&mut self, image: &Image) -> Result<(), MachineError> {
        if image.version != 7 {
            return Err(MachineError(format!("image version {}", image.version)));
        }
        let commands = weft_wire::codec::decode(&image.bytes)
            .map_err(|error| MachineError(error.to_string()))?;
        self.seen.lock().commands = commands;
        *self.restores.lock() += 1;
        Ok(())
    }

    fn membership_changed(&mut self, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) {
        let mut seen = self.seen.lock();
        seen.voters = voters.clone();
        seen.learners = learners.clone();
    }
}

/// A group, what its machine holds, and how often that was restored.
pub type Opened = (Group, Arc<Mutex<Seen>>, Arc<Mutex<u32>>);

/// A running node.
pub struct Node {
    pub n: u128,
    pub fabric: Fabric,
    pub consensus: Consensus,
    pub groups: BTreeMap<String, Opened>,
}

impl Node {
    pub fn id(&self) -> NodeId {
        node_id(self.n)
    }

    pub fn group(&self) -> &Group {
        &self.groups["control"].0
    }

    pub fn seen(&self) -> Seen {
        self.groups["control"].1.lock().clone()
    }

    pub fn commands(&self) -> Vec<Vec<u8>> {
        self.seen().commands.into_iter().map(|(_, command)| command).collect()
    }

    pub fn restores(&self) -> u32 {
        *self.groups["control"].2.lock()
    }
}

/// Nodes that may run, and what they share.
pub struct Cluster {
    id: ClusterId,
    ca: IssuingCa,
    dir: tempfile::TempDir,
    ports: BTreeMap<u128, SocketAddr>,
    groups: Vec<&'static str>,
    pub checkpoint_every: u64,
    pub kept_behind: u64,
    pub nodes: BTreeMap<u128, Node>,
}

impl Cluster {
    /// All of `members` running, one group, nobody bootstrapped.
    pub async fn new(members: &[u128], groups: &[&'static str]) -> Self {
        let id = ClusterId::new(Uuid::from_u128(77));
        let mut this = Self {
            id,
            ca: IssuingCa::create(id, SystemClock.wall()).expect("a CA"),
            dir: tempfile::tempdir().expect("a directory"),
            ports: BTreeMap::new(),
            groups: groups.to_vec(),
            checkpoint_every: 1000,
            kept_behind: 1000,
            nodes: BTreeMap::new(),
        };
        for n in members {
            this.start(*n).await;
        }
        this
    }

    /// Three voters, n1 bootstrapped, everybody in agreement about that.
    pub async fn three() -> Self {
        let cluster = Self::new(&[1, 2, 3], &["control"]).await;
        cluster.form("control").await;
        cluster
    }

    pub async fn form(&self, name: &str) {
        let all: BTreeSet<NodeId> = self.nodes.values().map(Node::id).collect();
        let first = &self.nodes.values().next().expect("a node").groups[name].0;
        assert!(first.is_empty());
        first.bootstrap().await.expect("bootstraps");
        until("n1 leads alone", || first.status().role == Role::Leader).await;
        first.set_voters(all.clone(), BTreeSet::new(), &all).await.expect("voters");
        for node in self.nodes.values() {
            let group = &node.groups[name].0;
            until("the voters are known", || group.status().voters == all).await;
        }
    }

    pub fn data(&self, n: u128) -> PathBuf {
        let path = self.dir.path().join(format!("n{n}"));
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    pub async fn start(&mut self, n: u128) {
        let config =
            FabricConfig { node: node_id(n), name: format!("n{n}"), audit: AuditSink::none() };
        let limits = Limits { idle: Duration::from_secs(2), ..Limits::default() };
        let link = LinkConfig { limits, ..LinkConfig::new(self.id, "0.1.0") };
        let fabric = Fabric::new(config, link);
        let mut bundle = TrustBundle::new();
        bundle.insert(self.ca.certificate()).expect("a CA");
        let trust =
            Trust::new(self.id, bundle, DenyList::new(), Arc::new(SystemClock)).expect("trust");
        let key = PrivateKey::generate().expect("a key");
        let subject = Subject { cluster: self.id, identity: Identity::Node(node_id(n)) };
        let validity = Validity::node(SystemClock.wall());
        let chain =
            self.ca.sign_csr(&key.csr().expect("a CSR"), &subject, validity).expect("signs");
        let credentials = Credentials::new(&chain, &key).expect("fits");
        let bind = self.ports.get(&n).copied();
        let bind = bind.unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address"));
        let door = Door::new(fabric.clone());
        door.attach();
        let (consensus, groups) = open(&self.data(n), &fabric, &door, &self.groups, self).await;
        let address = until_some("the port is free", || {
            let config =
                ListenConfig { bind, credentials: credentials.clone(), trust: trust.clone() };
            fabric.listen(config).ok()
        })
        .await;
        self.ports.insert(n, address);
        self.nodes.insert(n, Node { n, fabric, consensus, groups });
        self.introduce();
    }

    /// Tells every running node about all that have ever run.
    fn introduce(&self) {
        let mut directory = Directory::default();
        for (n, address) in &self.ports {
            let entry =
                PeerEntry { id: node_id(*n), name: format!("n{n}"), address: Some(*address) };
            directory.nodes.insert(node_id(*n), entry);
        }
        for node in self.nodes.values() {
            node.fabric.set_directory(directory.clone());
        }
    }

    /// Why the first group of a node that does not run cannot be opened on what is on its disk.
    pub async fn why_not(&self, n: u128) -> String {
        let config =
            FabricConfig { node: node_id(n), name: format!("n{n}"), audit: AuditSink::none() };
        let fabric = Fabric::local(config);
        let door = Door::new(fabric.clone());
        let config = ConsensusConfig::new(self.data(n));
        let consensus = Consensus::open(config, fabric, &door).await.expect("opens");
        let name = self.groups.first().expect("a group");
        let opened = consensus.group(name, Box::new(Ledger::default())).await;
        let error = opened.map(drop).expect_err("it cannot be opened");
        consensus.stop().await;
        error.to_string()
    }

    /// Its links go first, so that nobody hears of the rest.
    pub async fn stop(&mut self, n: u128) {
        let node = self.nodes.remove(&n).expect("it runs");
        node.fabric.close(GoodBye::default()).await;
        node.consensus.stop().await;
    }

    pub async fn stop_all(&mut self) {
        for n in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(n).await;
        }
    }

    /// The node all running ones agree to be led by.
    pub async fn leader(&self) -> &Node {
        until_some("a leader", || {
            let leader = self.nodes.values().find(|n| n.group().status().role == Role::Leader)?;
            let agreed = self.nodes.values().all(|node| {
                let status = node.group().status();
                let leads = leader.group().status();
                status.leader == Some(leader.id()) && status.term == leads.term
            });
            agreed.then_some(leader)
        })
        .await
    }

    /// Proposes wherever the leader is, again if it just went.
    pub async fn propose(&self, command: &[u8]) -> u64 {
        let wait = async {
            loop {
                let leader = self.leader().await;
                if let Ok(done) =
                    leader.group().propose(command.to_vec(), Duration::from_secs(5)).await
                {
                    assert_eq!(done.answer, (command.len() as u64).to_le_bytes());
                    return done.index;
                }
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("agreed on in time")
    }

    /// Waits until all running machines hold the same, and returns it.
    pub async fn equal(&self) -> Seen {
        until_some("all machines are equal", || {
            let mut all = self.nodes.values();
            let first = all.next()?.seen();
            all.all(|node| node.seen() == first).then_some(first)
        })
        .await
    }
}

async fn open(
    data: &Path,
    fabric: &Fabric,
    door: &Door,
    names: &[&'static str],
    cluster: &Cluster,
) -> (Consensus, BTreeMap<String, Opened>) {
    let timing = Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        ..Timing::default()
    };
    let config = ConsensusConfig {
        timing,
        checkpoint_every: cluster.checkpoint_every,
        kept_behind: cluster.kept_behind,
        ..ConsensusConfig::new(data)
    };
    let consensus = Consensus::open(config, fabric.clone(), door).await.expect("opens");
    let mut groups = BTreeMap::new();
    for name in names {
        let (seen, restores) = (Arc::<Mutex<Seen>>::default(), Arc::<Mutex<u32>>::default());
        let ledger = Ledger { seen: seen.clone(), restores: restores.clone() };
        let group = consensus.group(name, Box::new(ledger)).await.expect("opens the group");
        groups.insert((*name).to_owned(), (group, seen, restores));
    }
    (consensus, groups)
}

/// Waits for a value.
pub async fn until_some<T>(what: &str, check: impl Fn() -> Option<T>) -> T {
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

/// Waits for a condition.
pub async fn until(what: &str, check: impl Fn() -> bool) {
    until_some(what, || check().then_some(())).await;
}
