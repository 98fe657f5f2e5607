//! Durable proposals a second on 1 and 3 nodes, with 1, 16 and 256 clients, beside the bare fsync
//! rate of the same disk in the same run.
//!
//! `propose [seconds] [directory]`: each measurement takes `seconds` (default 3); databases lie
//! under `directory` (default: the system's temporary one), so choose one on the disk to measure.
//! The nodes are in one process: real QUIC on loopback, real certificates, real SQLite. All nodes
//! of a cluster share the disk, so of three each has a third of what it can sync.
//!
//! The bare rate is that of [`disk::bare`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;
use weft_agreement::{Consensus, ConsensusConfig, Door, Group, Image, Machine, MachineError, Role};
use weft_bench::disk;
use weft_identity::{
    Credentials, DenyList, IssuingCa, PrivateKey, Subject, Trust, TrustBundle, Validity,
};
use weft_link::{AuditSink, Directory, Fabric, FabricConfig, LinkConfig, ListenConfig, PeerEntry};
use weft_wire::{Clock, ClusterId, Identity, NodeId, SystemClock};

type Fatal = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a proposal.
const BODY: usize = 100;
const WITHIN: Duration = Duration::from_secs(10);

/// Counts and forgets.
struct Counter(u64);

impl Machine for Counter {
    fn apply(&mut self, _: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.0 += commands.len() as u64;
        vec![Vec::new(); commands.len()]
    }

    fn snapshot(&self) -> Result<Image, MachineError> {
        Ok(Image { version: 1, bytes: self.0.to_le_bytes().to_vec() })
    }

    fn restore(&mut self, image: &Image) -> Result<(), MachineError> {
        let bytes = image.bytes.as_slice().try_into();
        self.0 = u64::from_le_bytes(bytes.map_err(|_| MachineError("eight bytes".into()))?);
        Ok(())
    }
}

struct Node {
    id: NodeId,
    fabric: Fabric,
    consensus: Consensus,
    group: Group,
}

async fn node(n: u128, cluster: ClusterId, ca: &IssuingCa, dir: &Path) -> Result<Node, Fatal> {
    let id = NodeId::new(Uuid::from_u128(n));
    let data = dir.join(format!("n{n}"));
    std::fs::create_dir_all(&data)?;
    let fabric = Fabric::new(
        FabricConfig { node: id, name: format!("n{n}"), audit: AuditSink::none() },
        LinkConfig::new(cluster, "bench"),
    );
    let mut bundle = TrustBundle::new();
    bundle.insert(ca.certificate())?;
    let trust = Trust::new(cluster, bundle, DenyList::new(), Arc::new(SystemClock))?;
    let key = PrivateKey::generate()?;
    let subject = Subject { cluster, identity: Identity::Node(id) };
    let chain = ca.sign_csr(&key.csr()?, &subject, Validity::node(SystemClock.wall()))?;
    let credentials = Credentials::new(&chain, &key)?;
    let door = Door::new(fabric.clone());
    let consensus = Consensus::open(ConsensusConfig::new(&data), fabric.clone(), &door).await?;
    let group = consensus.group("control", Box::new(Counter(0))).await?;
    door.attach();
    fabric.listen(ListenConfig { bind: "127.0.0.1:0".parse()?, credentials, trust })?;
    Ok(Node { id, fabric, consensus, group })
}

async fn cluster(size: u128, dir: &Path) -> Result<Vec<Node>, Fatal> {
    let id = ClusterId::new(Uuid::from_u128(77));
    let ca = IssuingCa::create(id, SystemClock.wall())?;
    let mut nodes = Vec::new();
    for n in 1..=size {
        nodes.push(node(n, id, &ca, dir).await?);
    }
    let entries = nodes.iter().map(|node| PeerEntry {
        id: node.id,
        name: node.fabric.name().to_owned(),
        address: node.fabric.address(),
    });
    let entries: Vec<PeerEntry> = entries.collect();
    for node in &nodes {
        let nodes = entries.iter().map(|entry| (entry.id, entry.clone())).collect();
        let directory = Directory { nodes, ..Directory::default() };
        node.fabric.set_directory(directory);
    }
    let first = nodes.first().map(|node| node.group.clone()).ok_or("no nodes")?;
    first.bootstrap().await?;
    let mut status = first.watch();
    status.wait_for(|status| status.role == Role::Leader).await?;
    let all: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    first.set_voters(all.clone(), BTreeSet::new(), &all).await?;
    Ok(nodes)
}

/// (proposals/s, syncs/s, p50, p99) of `clients` that each wait for their answer.
async fn measure(nodes: &[Node], clients: usize, lasts: Duration) -> Result<Row, Fatal> {
    let leader = nodes.first().ok_or("no nodes")?;
    let (over, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let syncs = leader.consensus.syncs();
    let start = SystemClock.now();
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (group, over, failed) = (leader.group.clone(), over.clone(), failed.clone());
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let before = SystemClock.now();
                match group.propose(vec![7; BODY], WITHIN).await {
                    Ok(_) => times.push(SystemClock.now().duration_since(before)),
                    Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                }
            }
            times
        }));
    }
    tokio::time::sleep(lasts).await;
    over.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await?);
    }
    let took = SystemClock.now().duration_since(start).as_secs_f64();
    times.sort();
    let at = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    Ok(Row {
        rate: times.len() as f64 / took,
        syncs: (leader.consensus.syncs() - syncs) as f64 / took,
        p50: at(0.5),
        p99: at(0.99),
        failed: failed.load(Ordering::Relaxed),
    })
}

struct Row {
    rate: f64,
    syncs: f64,
    p50: Duration,
    p99: Duration,
    failed: u64,
}

fn print_bare(dir: &Path, lasts: Duration) -> Result<(), Fatal> {
    println!("{}", disk::bare(dir, lasts)?);
    Ok(())
}

async fn run(seconds: f64, base: PathBuf) -> Result<(), Fatal> {
    let lasts = Duration::from_secs_f64(seconds);
    let dir = base.join(format!("weft-propose-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    print_bare(&dir, lasts)?;
    println!("nodes clients proposals/s  fsyncs/s  per fsync   p50 ms   p99 ms failed");
    for size in [1u128, 3] {
        let nodes = cluster(size, &dir.join(format!("of{size}"))).await?;
        for clients in [1usize, 16, 256] {
            let row = measure(&nodes, clients, lasts).await?;
            println!(
                "{size:>5} {clients:>7} {:>11.0} {:>9.0} {:>10.1} {:>8.2} {:>8.2} {:>6}",
                row.rate,
                row.syncs,
                row.rate / row.syncs.max(1.0),
                row.p50.as_secs_f64() * 1e3,
                row.p99.as_secs_f64() * 1e3,
                row.failed,
            );
        }
        for node in &nodes {
            node.consensus.stop().await;
        }
    }
    print_bare(&dir, lasts)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn main() -> Result<(), Fatal> {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(Ok(3.0), |text| text.parse())?;
    let base = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(seconds, base))
}
