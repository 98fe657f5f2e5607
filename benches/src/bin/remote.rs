//! Requests between two processes over mutual TLS: bare quinn, the link, a supervised actor.
//!
//! `cargo run --release -p weft-bench --bin remote [seconds]` starts a second process of itself
//! and measures, in turns, 100-byte echoes at 1, 64 and 1024 in flight, then one-way messages.
//! Each number is the median of three measurements of `seconds` (default 2) each; CPU is that of
//! both processes together. `remote [seconds] [pump|bare|tuned|link|actor] [in flight, 0: one-way]` runs one
//! of them alone, for a profiler.
//!
//! All have the same certificates. `bare` is requests on one bidirectional stream of quinn as it
//! comes: length-prefixed bodies, written and read in batches, each caller waiting for its own
//! answer; the ratios are to it. `tuned` is the same with the link's transport settings (larger
//! datagrams). `pump` is one task that keeps a window of frames moving, with nobody waiting for
//! any of them: the ceiling of one stream.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use weft_identity::{
    CertificateChain, Credentials, DenyList, Expect, FABRIC_NAME, IssuingCa, PrivateKey, Subject,
    Trust, TrustBundle, Validity, client_config, server_config,
};
use weft_link::{
    AuditSink, Call, Directory, Fabric, FabricConfig, GoodBye, Letter, LinkConfig, ListenConfig,
    Mailbox, PeerEntry, Refusal, Reply, Rule,
};
use weft_supervision::{
    Actor, ChildSpec, Handle, Incarnation, Routes, Scope, Tree, TreeConfig, block_on_system,
};
use weft_wire::{
    ActorKind, Address, Allow, AskError, Clock as _, ClusterId, Identity, Message, MessageId,
    NodeId, SystemClock,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

const BODY: usize = 100;
const ROUNDS: usize = 3;
const IN_FLIGHT: [usize; 3] = [1, 64, 1024];
const ALPN: &[u8] = b"weft-bench/1";
const WITHIN: Duration = Duration::from_secs(10);
const USAGE: &str =
    "usage: remote [seconds per measurement] [pump|bare|tuned|link|actor] [in flight]";

/// 100 bytes, encoded as bytes.
#[derive(Debug, Clone)]
struct Body(Vec<u8>);

impl Serialize for Body {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Body;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Body, E> {
                Ok(Body(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Echo(Body);

impl Message for Echo {
    const ID: MessageId = MessageId(60_200);
    const ACTOR: ActorKind = ActorKind::Monitor;
    const NAME: &'static str = "bench.echo";
    const ALLOW: Allow = Allow::NODES;
    type Reply = Body;
}

/// One way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note(Body);

impl Message for Note {
    const ID: MessageId = MessageId(60_201);
    const ACTOR: ActorKind = ActorKind::Monitor;
    const NAME: &'static str = "bench.note";
    const ALLOW: Allow = Allow::NODES;
    type Reply = ();
}

/// Answers at once, on the link's own task.
struct AtOnce;

impl Mailbox for AtOnce {
    fn rule(&self, id: MessageId) -> Option<Rule> {
        match id {
            Echo::ID => Some(Rule::of::<Echo>()),
            Note::ID => Some(Rule::of::<Note>()),
            _ => None,
        }
    }

    fn post(&self, letter: Letter) -> Result<(), (Refusal, Letter)> {
        if letter.id() == Echo::ID {
            if let Some((Echo(body), reply)) = letter.open::<Echo>() {
                reply.ok(body);
            }
        } else {
            std::hint::black_box(letter.open::<Note>());
        }
        Ok(())
    }
}

struct Echoing;

impl Actor for Echoing {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<Echo>().ask::<Note>();
    }
}

impl Handle<Echo> for Echoing {
    fn handle(&mut self, Echo(body): Echo, reply: Reply<Echo>, _: &Scope<Self>) {
        reply.ok(body);
    }
}

impl Handle<Note> for Echoing {
    fn handle(&mut self, note: Note, _: Reply<Note>, _: &Scope<Self>) {
        std::hint::black_box(note);
    }
}

fn uuid(n: u8) -> Result<NodeId, Error> {
    Ok(format!("00000000-0000-4000-8000-0000000000{n:02x}").parse()?)
}

fn cluster() -> Result<ClusterId, Error> {
    Ok("00000000-0000-4000-8000-000000000000".parse()?)
}

/// Certificates of the three nodes of the bench: 1 asks, 2 is the link, 3 the actor.
#[derive(Clone)]
struct Papers {
    ca: String,
    nodes: Vec<(String, String)>,
}

impl Papers {
    fn make() -> Result<Self, Error> {
        let now = SystemClock.wall();
        let ca = IssuingCa::create(cluster()?, now)?;
        let nodes = (1..=3)
            .map(|n| {
                let key = PrivateKey::generate()?;
                let subject = Subject { cluster: cluster()?, identity: Identity::Node(uuid(n)?) };
                let chain = ca.sign_csr(&key.csr()?, &subject, Validity::node(now))?;
                Ok((chain.to_pem(), key.to_pem()))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { ca: ca.to_pem(), nodes })
    }

    fn to_text(&self) -> String {
        let nodes = self.nodes.iter().map(|(chain, key)| format!("{chain}\u{0}{key}"));
        std::iter::once(self.ca.clone()).chain(nodes).collect::<Vec<_>>().join("\u{0}")
    }

    fn from_text(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('\u{0}').collect();
        let (ca, nodes) = parts.split_first().ok_or("no certificates")?;
        let nodes = nodes
            .chunks_exact(2)
            .filter_map(|pair| Some((pair.first()?.to_string(), pair.get(1)?.to_string())))
            .collect();
        Ok(Self { ca: (*ca).to_owned(), nodes })
    }

    fn of(&self, n: u8) -> Result<(Credentials, Trust), Error> {
        let (chain, key) = self.nodes.get(usize::from(n) - 1).ok_or("no such node")?;
        let chain = CertificateChain::from_pem(chain, "the bench's certificate")?;
        let credentials = Credentials::new(&chain, &PrivateKey::from_pem(key, "its key")?)?;
        let bundle = TrustBundle::from_pem(&self.ca, "the bench's CA")?;
        let trust = Trust::new(cluster()?, bundle, DenyList::new(), Arc::new(SystemClock))?;
        Ok((credentials, trust))
    }
}

/// quinn's own settings, or those of the link.
fn transport(tuned: bool) -> Arc<quinn::TransportConfig> {
    if !tuned {
        return Arc::default();
    }
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(6500);
    let mut transport = quinn::TransportConfig::default();
    transport
        .stream_receive_window((1024u32 * 1024).into())
        .send_window(16 * 1024 * 1024)
        .keep_alive_interval(Some(Duration::from_secs(1)))
        .mtu_discovery_config(Some(discovery));
    Arc::new(transport)
}

fn endpoint(tuned: bool, server: Option<quinn::ServerConfig>) -> Result<quinn::Endpoint, Error> {
    let mut config = quinn::EndpointConfig::default();
    if tuned {
        config.max_udp_payload_size(6500)?;
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    Ok(quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

/// Whole frames at the start of `buffer`, in bytes and in number.
fn whole(buffer: &[u8]) -> (usize, usize) {
    let (mut at, mut count) = (0, 0);
    while let Some(length) = buffer.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = at + 4 + u32::from_le_bytes(*length) as usize;
        if end > buffer.len() {
            break;
        }
        at = end;
        count += 1;
    }
    (at, count)
}

fn push_frame(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
}

/// Echoes what comes on each stream. A first byte of 1 means: take only, acknowledge at the end.
async fn serve_bare(endpoint: quinn::Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut write, mut read)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    let mut mode = [0];
                    read.read_exact(&mut mode).await.ok()?;
                    let mut buffer = BytesMut::new();
                    let mut out = Vec::new();
                    loop {
                        buffer.reserve(64 * 1024);
                        if tokio::io::AsyncReadExt::read_buf(&mut read, &mut buffer).await.ok()?
                            == 0
                        {
                            write.write_all(&[0]).await.ok()?;
                            write.finish().ok()?;
                            return Some(());
                        }
                        let (bytes, _) = whole(&buffer);
                        if mode == [0] {
                            // As a handler would see it: frame by frame.
                            let mut at = 0;
                            while at < bytes {
                                let end = at + 4 + BODY;
                                push_frame(&mut out, buffer.get(at + 4..end)?);
                                at = end;
                            }
                            write.write_all(&out).await.ok()?;
                            out.clear();
                        }
                        buffer.advance(bytes);
                    }
                });
            }
        });
    }
}

fn fabric(papers: &Papers, n: u8) -> Result<(Fabric, SocketAddr), Error> {
    let (credentials, trust) = papers.of(n)?;
    let config = FabricConfig { node: uuid(n)?, name: format!("n{n}"), audit: AuditSink::none() };
    let fabric = Fabric::new(config, LinkConfig::new(cluster()?, "bench"));
    let address =
        fabric.listen(ListenConfig { bind: "127.0.0.1:0".parse()?, credentials, trust })?;
    Ok((fabric, address))
}

/// The other process: serves until its stdin ends.
async fn serve(runtime: Arc<Runtime>) -> Result<(), Error> {
    let mut stdin = BufReader::new(std::io::stdin());
    let mut length = String::new();
    stdin.read_line(&mut length)?;
    let mut text = vec![0; length.trim().parse()?];
    stdin.read_exact(&mut text)?;
    let papers = Papers::from_text(&String::from_utf8(text)?)?;
    let _enter = runtime.enter();
    let (credentials, trust) = papers.of(2)?;
    let mut addresses = Vec::new();
    for tuned in [false, true] {
        let tls = server_config(&credentials, &trust, &[ALPN])?;
        let crypto = QuicServerConfig::try_from(tls)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport(tuned));
        let bare = endpoint(tuned, Some(server))?;
        addresses.push(bare.local_addr()?.to_string());
        runtime.spawn(serve_bare(bare));
    }
    let (link, link_address) = fabric(&papers, 2)?;
    link.attach(ActorKind::Monitor, Arc::new(AtOnce));
    let (actor, actor_address) = fabric(&papers, 3)?;
    let tree = Tree::build(TreeConfig::new(actor, runtime.clone())).map_err(|e| e.to_string())?;
    let spec = ChildSpec { mailbox: 4096, ..ChildSpec::default() };
    tree.add(ActorKind::Monitor, spec, |_: Incarnation| async { Ok(Echoing) });
    tree.start().await.map_err(|e| e.to_string())?;
    println!("{} {link_address} {actor_address}", addresses.join(" "));
    std::io::stdout().flush()?;
    let ended = tokio::task::spawn_blocking(move || stdin.read_to_end(&mut Vec::new()));
    let _ = ended.await;
    tree.stop(Duration::from_secs(2)).await;
    Ok(())
}

/// CPU time of a process so far; the kernel counts in hundredths of a second.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

struct Peer {
    process: Child,
    bare: quinn::Connection,
    tuned: quinn::Connection,
    fabric: Fabric,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its stdin ends with us; do not wait for good manners.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Peer {
    async fn start() -> Result<Self, Error> {
        let papers = Papers::make()?;
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let text = papers.to_text();
        let stdin = process.stdin.as_mut().ok_or("no stdin")?;
        stdin.write_all(format!("{}\n{text}", text.len()).as_bytes())?;
        stdin.flush()?;
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().ok_or("no stdout")?).read_line(&mut line)?;
        let addresses: Vec<SocketAddr> =
            line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let &[bare, tuned, link, actor] = addresses.as_slice() else {
            return Err("the other process did not start".into());
        };
        let (credentials, trust) = papers.of(1)?;
        let mut connections = Vec::new();
        for (is_tuned, address) in [(false, bare), (true, tuned)] {
            let tls = client_config(Some(&credentials), &trust, Expect::AnyNode, &[ALPN])?;
            let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
            let mut settings = transport(is_tuned);
            // The bare connection must outlive the turns of the others.
            if let Some(settings) = Arc::get_mut(&mut settings) {
                settings.keep_alive_interval(Some(Duration::from_secs(1)));
            }
            client.transport_config(settings);
            let endpoint = endpoint(is_tuned, None)?;
            let connection = endpoint.connect_with(client, address, FABRIC_NAME)?.await?;
            connections.push(connection);
        }
        let (tuned, bare) =
            (connections.pop().ok_or("no connection")?, connections.pop().ok_or("none")?);
        let (fabric, _) = fabric(&papers, 1)?;
        let mut directory = Directory::default();
        for (n, address) in [(2, link), (3, actor)] {
            let entry = PeerEntry { id: uuid(n)?, name: format!("n{n}"), address: Some(address) };
            directory.nodes.insert(entry.id, entry);
        }
        fabric.set_directory(directory);
        Ok(Self { process, bare, tuned, fabric })
    }

    fn cpu(&self) -> Duration {
        cpu(self.process.id()) + cpu(std::process::id())
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    per_second: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

fn percentile(sorted: &[u32], share: f64) -> f64 {
    let at = ((sorted.len() as f64) * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(0.0, |ns| f64::from(*ns) / 1000.0)
}

fn numbers(mut latencies: Vec<u32>, took: Duration, cpu: Duration) -> Numbers {
    latencies.sort_unstable();
    let count = latencies.len().max(1) as f64;
    Numbers {
        per_second: count / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
        p50_us: percentile(&latencies, 0.50),
        p99_us: percentile(&latencies, 0.99),
    }
}

fn since(start: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(start).as_nanos()).unwrap_or(u32::MAX)
}

/// One task that keeps so many frames under way: what a stream can carry, with nobody to answer.
async fn pump(
    connection: quinn::Connection,
    in_flight: usize,
    length: Duration,
) -> Result<Vec<u32>, Error> {
    let clock = SystemClock;
    let (mut write, mut read) = connection.open_bi().await?;
    let body = [7u8; BODY];
    let mut latencies = Vec::with_capacity(4_000_000);
    let mut sent: VecDeque<Instant> = VecDeque::with_capacity(in_flight);
    let mut out = vec![0];
    let start = clock.now();
    for _ in 0..in_flight {
        sent.push_back(start);
        push_frame(&mut out, &body);
    }
    write.write_all(&out).await?;
    let mut buffer = BytesMut::new();
    let mut over = false;
    while !sent.is_empty() {
        buffer.reserve(64 * 1024);
        if tokio::io::AsyncReadExt::read_buf(&mut read, &mut buffer).await? == 0 {
            return Err("the echo ended".into());
        }
        let (bytes, count) = whole(&buffer);
        buffer.advance(bytes);
        let now = clock.now();
        over |= now.saturating_duration_since(start) >= length;
        out.clear();
        for _ in 0..count {
            if let Some(at) = sent.pop_front() {
                latencies.push(since(at, now));
            }
            if !over {
                sent.push_back(now);
                push_frame(&mut out, &body);
            }
        }
        write.write_all(&out).await?;
    }
    write.finish()?;
    Ok(latencies)
}

/// Requests on a bare stream, as one would write them: callers append to a shared buffer and wait
/// for the answer in turn; one task writes what has gathered, one reads.
#[derive(Clone)]
struct Pipeline(Arc<PipelineInner>);

/// Bytes to be written, and who waits for the answers.
type Gathered = (Vec<u8>, VecDeque<oneshot::Sender<Vec<u8>>>);

struct PipelineInner {
    state: Mutex<Gathered>,
    more: Notify,
}

impl Pipeline {
    async fn open(connection: &quinn::Connection) -> Result<(Self, JoinSet<()>), Error> {
        let (mut write, mut read) = connection.open_bi().await?;
        write.write_all(&[0]).await?;
        let state = Mutex::new((Vec::new(), VecDeque::new()));
        let pipeline = Self(Arc::new(PipelineInner { state, more: Notify::new() }));
        let mut tasks = JoinSet::new();
        let writing = pipeline.clone();
        tasks.spawn(async move {
            let mut batch = Vec::new();
            loop {
                writing.0.more.notified().await;
                tokio::task::yield_now().await;
                std::mem::swap(&mut batch, &mut writing.lock().0);
                if write.write_all(&batch).await.is_err() {
                    return;
                }
                batch.clear();
            }
        });
        let reading = pipeline.clone();
        tasks.spawn(async move {
            let mut buffer = BytesMut::new();
            let mut done = Vec::new();
            loop {
                buffer.reserve(64 * 1024);
                match tokio::io::AsyncReadExt::read_buf(&mut read, &mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let (bytes, count) = whole(&buffer);
                done.extend(reading.lock().1.drain(..count));
                let mut at = 0;
                for answer in done.drain(..) {
                    let body = buffer.get(at + 4..at + 4 + BODY).unwrap_or_default();
                    let _ = answer.send(body.to_vec());
                    at += 4 + BODY;
                }
                buffer.advance(bytes);
            }
        });
        Ok((pipeline, tasks))
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, body: Vec<u8>) -> Result<Vec<u8>, Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            push_frame(&mut state.0, &body);
            state.1.push_back(sender);
        }
        self.0.more.notify_one();
        Ok(receiver.await?)
    }
}

async fn bare_echo(
    connection: quinn::Connection,
    in_flight: usize,
    length: Duration,
) -> Result<Vec<u32>, Error> {
    let (pipeline, _tasks) = Pipeline::open(&connection).await?;
    pipeline.ask(vec![7; BODY]).await?;
    many(in_flight, length, |at| {
        let pipeline = &pipeline;
        async move { (at, pipeline.ask(vec![7; BODY]).await) }
    })
    .await
}

/// Keeps so many requests in flight from one task; how long each took.
async fn many<T, E, F>(
    in_flight: usize,
    length: Duration,
    ask: impl Fn(Instant) -> F,
) -> Result<Vec<u32>, Error>
where
    F: Future<Output = (Instant, Result<T, E>)>,
    E: Into<Error>,
{
    let clock = SystemClock;
    let start = clock.now();
    let mut asks: FuturesUnordered<_> = (0..in_flight).map(|_| ask(start)).collect();
    let mut latencies = Vec::with_capacity(4_000_000);
    while let Some((before, answer)) = asks.next().await {
        std::hint::black_box(answer.map_err(Into::into)?);
        let now = clock.now();
        latencies.push(since(before, now));
        if now.saturating_duration_since(start) < length {
            asks.push(ask(now));
        }
    }
    Ok(latencies)
}

async fn fabric_echo(
    fabric: Fabric,
    node: NodeId,
    in_flight: usize,
    length: Duration,
) -> Result<Vec<u32>, Error> {
    let to = Address::on(ActorKind::Monitor, node);
    fabric.ask(to.clone(), Echo(Body(vec![7; BODY])), Call::within(WITHIN)).await?;
    many(in_flight, length, |at| {
        let (fabric, to) = (&fabric, to.clone());
        async move { (at, fabric.ask(to, Echo(Body(vec![7; BODY])), Call::within(WITHIN)).await) }
    })
    .await
}

async fn bare_one_way(connection: quinn::Connection, length: Duration) -> Result<u64, Error> {
    let clock = SystemClock;
    let (mut write, mut read) = connection.open_bi().await?;
    write.write_all(&[1]).await?;
    let mut batch = Vec::new();
    for _ in 0..500 {
        push_frame(&mut batch, &[7; BODY]);
    }
    let start = clock.now();
    let mut count = 0;
    while clock.now().saturating_duration_since(start) < length {
        write.write_all(&batch).await?;
        count += 500;
    }
    write.finish()?;
    read.read_to_end(1).await?;
    Ok(count)
}

async fn fabric_one_way(fabric: Fabric, node: NodeId, length: Duration) -> Result<u64, Error> {
    let clock = SystemClock;
    let to = Address::on(ActorKind::Monitor, node);
    let call = Call::within(WITHIN);
    let start = clock.now();
    let mut count = 0u64;
    while clock.now().saturating_duration_since(start) < length {
        for _ in 0..500 {
            // A sender that outruns the link is told so, and waits a little.
            while let Err(error) = fabric.tell(to.clone(), Note(Body(vec![7; BODY])), &call) {
                if !matches!(error, AskError::Overloaded(_)) {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            count += 1;
        }
        tokio::task::consume_budget().await;
    }
    // Behind all of them, in order.
    fabric.ask(to, Echo(Body(Vec::new())), call).await?;
    Ok(count)
}

async fn measure(
    peer: &Peer,
    what: &str,
    in_flight: usize,
    length: Duration,
) -> Result<Numbers, Error> {
    let node = uuid(if what == "actor" { 3 } else { 2 })?;
    let (cpu, start) = (peer.cpu(), SystemClock.now());
    let fabric = peer.fabric.clone();
    let bare = if what == "tuned" { peer.tuned.clone() } else { peer.bare.clone() };
    let task = match (what, in_flight) {
        ("bare" | "tuned", 0) => {
            tokio::spawn(async move { Ok((bare_one_way(bare, length).await?, None)) })
        }
        ("bare" | "tuned", _) => {
            tokio::spawn(async move { Ok((0, Some(bare_echo(bare, in_flight, length).await?))) })
        }
        ("pump", _) => {
            tokio::spawn(async move { Ok((0, Some(pump(bare, in_flight, length).await?))) })
        }
        (_, 0) => {
            tokio::spawn(async move { Ok((fabric_one_way(fabric, node, length).await?, None)) })
        }
        _ => tokio::spawn(async move {
            Ok((0, Some(fabric_echo(fabric, node, in_flight, length).await?)))
        }),
    };
    let done: Result<(u64, Option<Vec<u32>>), Error> = task.await?;
    let (count, latencies) = done?;
    let took = SystemClock.now().saturating_duration_since(start);
    let cpu = peer.cpu().saturating_sub(cpu);
    Ok(match latencies {
        Some(latencies) => numbers(latencies, took, cpu),
        None => Numbers {
            per_second: count as f64 / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
            ..Numbers::default()
        },
    })
}

fn median(rounds: &[Numbers]) -> Numbers {
    let of = |pick: fn(&Numbers) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    Numbers {
        per_second: of(|n| n.per_second),
        cpu_us: of(|n| n.cpu_us),
        p50_us: of(|n| n.p50_us),
        p99_us: of(|n| n.p99_us),
    }
}

fn show(what: &str, in_flight: usize, n: &Numbers) {
    println!(
        "{what:<6} {in_flight:>9} {:>11.0} {:>8.2} {:>9.1} {:>9.1}",
        n.per_second, n.cpu_us, n.p50_us, n.p99_us
    );
}

async fn bench(length: Duration, only: Option<(String, usize)>) -> Result<(), Error> {
    let peer = Peer::start().await?;
    println!("what   in flight       req/s   CPU us    p50 us    p99 us");
    if let Some((what, in_flight)) = only {
        let n = measure(&peer, &what, in_flight, length).await?;
        show(&what, in_flight, &n);
        return Ok(());
    }
    let whats = ["pump", "bare", "tuned", "link", "actor"];
    let mut ratios = Vec::new();
    for in_flight in IN_FLIGHT {
        let mut rounds: [Vec<Numbers>; 5] = Default::default();
        for what in whats {
            measure(&peer, what, in_flight, length / 4).await?;
        }
        for _ in 0..ROUNDS {
            for (what, rounds) in whats.iter().zip(&mut rounds) {
                rounds.push(measure(&peer, what, in_flight, length).await?);
            }
        }
        let [pump, bare, tuned, link, actor] = rounds.map(|rounds| median(&rounds));
        for (what, n) in whats.iter().zip([&pump, &bare, &tuned, &link, &actor]) {
            show(what, in_flight, n);
        }
        for (what, n) in [("link", link), ("actor", actor)] {
            ratios.push(format!(
                "ratio {what} {in_flight} {:.2} {:.2}",
                n.per_second / bare.per_second,
                n.p50_us / bare.p50_us
            ));
        }
    }
    println!("one way              messages/s   CPU us");
    for what in ["bare", "tuned", "link"] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(measure(&peer, what, 0, length).await?);
        }
        let n = median(&rounds);
        println!("{what:<6} {:>25.0} {:>8.2}", n.per_second, n.cpu_us);
    }
    ratios.iter().for_each(|line| println!("{line}"));
    peer.fabric.close(GoodBye::default()).await;
    Ok(())
}

fn run() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args == ["--serve"] {
        return block_on_system(async |runtime| serve(runtime).await).map_err(|e| e.to_string())?;
    }
    let (seconds, only) = match args.as_slice() {
        [] => ("2", None),
        [seconds] => (*seconds, None),
        [seconds, what @ ("pump" | "bare" | "tuned" | "link" | "actor"), in_flight] => {
            (*seconds, Some(((*what).to_owned(), in_flight.parse::<usize>().map_err(|_| USAGE)?)))
        }
        _ => return Err(USAGE.into()),
    };
    let length = seconds
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or(USAGE)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench(length, only))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
