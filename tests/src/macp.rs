//! Clients of MACP sessions, in a network namespace of their own: envelopes, streams, histories.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use prost::Message;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use uuid::Uuid;
use weft_macp::macp::modes::decision::v1 as decision;
use weft_macp::macp::v1 as pb;

use crate::net::{Net, enter};
use crate::nodes::{NetCluster, Options};
use crate::{DEADLINE, bin_dir};

use rpc::macp_runtime_service_client::MacpRuntimeServiceClient;

pub use pb::session_lifecycle_event::EventType as Event;
pub use pb::stream_session_response::Response;
pub use pb::{Envelope, MacpError, SessionMetadata, SessionState};

/// The stubs, over the messages of `weft-macp`.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, reason = "generated code")]
mod rpc {
    include!(concat!(env!("OUT_DIR"), "/macp.v1.rs"));
}

/// TCP port of every node's sessions, each in its own namespace.
pub const PORT: u16 = 50051;
/// The mode of every session made here.
pub const MODE: &str = "macp.mode.decision.v1";
/// Connecting may take this long.
const CONNECT: Duration = Duration::from_secs(1);
/// One attempt of a load to have a message taken; it is not waited for longer.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between two attempts of one message.
const AGAIN: Duration = Duration::from_millis(50);
/// A session lives so long, in milliseconds.
const TTL: i64 = 3_600_000;

/// Options for nodes that serve sessions on [`PORT`] of their address in `net`, to the senders in
/// the file of tokens, without limits of rate.
pub fn serving(net: &Net, tokens: &Path, settings: &[&str]) -> Options {
    let mut all: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    all.push(format!("sessions.tokens_file={}", tokens.display()));
    all.push("sessions.allow_insecure=true".to_owned());
    let each = (0..net.nodes()).map(|node| vec![format!("sessions.bind={}", address(net, node))]);
    let most = "1000000".to_owned();
    Options {
        settings: all,
        each: each.collect(),
        variables: vec![
            ("MACP_MESSAGE_LIMIT_PER_MINUTE".to_owned(), most.clone()),
            ("MACP_SESSION_START_LIMIT_PER_MINUTE".to_owned(), most),
        ],
        ..Options::default()
    }
}

/// `weftd run --session-only` without any setting.
pub fn sessions_only() -> Command {
    let mut command = Command::new(bin_dir().join("weftd"));
    command.args(["run", "--session-only"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MACP_")) {
        command.env_remove(name);
    }
    command
}

/// With a port that was free a moment ago: nobody is told which one the system would choose.
///
/// # Panics
/// If there is none.
pub fn free_address() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("its address").to_string()
}

/// Makes a certificate for these names and its key, as files in `dir`.
///
/// # Panics
/// If they cannot be made.
pub fn certificate(dir: &Path, names: Vec<String>) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("writes");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
    (certificate, key)
}

/// Where a node of [`serving`] has its sessions.
pub fn address(net: &Net, node: usize) -> String {
    format!("{}:{PORT}", net.address(node))
}

/// Term and leader of a consensus group, as a node has them; `None`: it knows of none.
pub fn led(cluster: &NetCluster, through: usize, group: &str) -> Option<(u64, usize)> {
    let status = cluster.status(through)?;
    let row = status["groups"].as_array()?.iter().find(|row| row["name"] == group)?.clone();
    let leader = row["leader"].as_str()?;
    let node = (0..cluster.len()).find(|node| cluster.node_name(*node) == leader)?;
    Some((row["term"].as_u64()?, node))
}

/// Clients in a namespace of a network, each with connections to the nodes of its cluster.
#[derive(Debug)]
pub struct Clients {
    runtime: Runtime,
    addresses: Vec<String>,
    channels: Vec<Channel>,
}

impl Clients {
    /// Of the nodes of a cluster, in namespace number `at` of its network.
    ///
    /// # Panics
    /// If no runtime can be made.
    pub fn new(cluster: &NetCluster, at: usize) -> Self {
        let space = cluster.net.namespace(at);
        // Every socket is opened on one of these threads.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || enter(&space))
            .enable_all()
            .build()
            .expect("a runtime");
        let addresses = (0..cluster.len()).map(|node| address(&cluster.net, node)).collect();
        let mut clients = Self { runtime, addresses, channels: Vec::new() };
        clients.channels = clients.connections();
        clients
    }

    fn connections(&self) -> Vec<Channel> {
        let _inside = self.runtime.enter();
        let lazy = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            endpoint.expect("an address").connect_timeout(CONNECT).connect_lazy()
        };
        self.addresses.iter().map(lazy).collect()
    }

    /// Who has this token, and sends as `sender`.
    pub fn agent(&self, token: &str, sender: &str) -> Agent {
        let (token, sender) = (token.to_owned(), sender.to_owned());
        Agent { channels: self.channels.clone(), token, sender, traceparent: None }
    }

    /// As [`Clients::agent`], with connections that nobody else uses.
    pub fn agent_apart(&self, token: &str, sender: &str) -> Agent {
        let channels = self.connections();
        Agent { channels, ..self.agent(token, sender) }
    }

    /// Sender number `n`, 0 to 7, of the tests' file of tokens.
    pub fn sender(&self, n: usize) -> Agent {
        self.agent(&format!("token-load-{n}"), &format!("agent://load-{n}"))
    }

    /// Who may read every session.
    pub fn observer(&self) -> Agent {
        self.agent("token-observer", "agent://observer")
    }

    /// Starts something and does not wait for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Does something to its end; panics pass through.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let done = self.runtime.block_on(self.runtime.spawn(work));
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Waits for what was started with [`Clients::spawn`].
    ///
    /// # Panics
    /// If it did.
    pub fn join<T>(&self, task: JoinHandle<T>) -> T {
        self.runtime.block_on(task).expect("it ends without a panic")
    }
}

/// What came of sending an envelope once.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It was acknowledged.
    Taken(Box<pb::Ack>),
    /// It is not known whether it is kept, and sending it again does no harm; why.
    Unknown(String),
    /// It was refused, for good.
    Refused(String),
}

/// A client with a token.
#[derive(Clone)]
pub struct Agent {
    channels: Vec<Channel>,
    token: String,
    /// As whom it sends.
    pub sender: String,
    /// What its calls belong to.
    traceparent: Option<String>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Agent {
    fn stub(&self, node: usize) -> MacpRuntimeServiceClient<Channel> {
        let channel = self.channels.get(node).unwrap_or_else(|| panic!("no node {node}"));
        MacpRuntimeServiceClient::new(channel.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer: MetadataValue<_> = format!("Bearer {}", self.token).parse().expect("ASCII");
        request.metadata_mut().insert("authorization", bearer);
        if let Some(traceparent) = &self.traceparent {
            request.metadata_mut().insert("traceparent", traceparent.parse().expect("ASCII"));
        }
        request
    }

    /// The same client, whose calls belong to a trace.
    pub fn traced(&self, traceparent: &str) -> Self {
        Self { traceparent: Some(traceparent.to_owned()), ..self.clone() }
    }

    /// An envelope of this sender, with an id of its own.
    pub fn envelope(&self, session: &str, kind: &str, payload: &impl Message) -> Envelope {
        Envelope {
            macp_version: "1.0".to_owned(),
            mode: MODE.to_owned(),
            message_type: kind.to_owned(),
            message_id: Uuid::new_v4().to_string(),
            session_id: session.to_owned(),
            sender: self.sender.clone(),
            timestamp_unix_ms: 0,
            payload: payload.encode_to_vec(),
        }
    }

    /// The start of a session in which this sender is alone.
    pub fn start(&self, session: &str) -> Envelope {
        let payload = pb::SessionStartPayload {
            intent: "a test".to_owned(),
            participants: vec![self.sender.clone()],
            mode_version: "1.0.0".to_owned(),
            configuration_version: "config.default".to_owned(),
            policy_version: "policy.default".to_owned(),
            ttl_ms: TTL,
            ..pb::SessionStartPayload::default()
        };
        self.envelope(session, "SessionStart", &payload)
    }

    /// The proposal `p`, which says something of so many bytes.
    pub fn proposal(&self, session: &str, bytes: usize) -> Envelope {
        let payload = decision::ProposalPayload {
            proposal_id: "p".to_owned(),
            option: "x".to_owned(),
            rationale: "y".repeat(bytes),
            ..decision::ProposalPayload::default()
        };
        self.envelope(session, "Proposal", &payload)
    }

    /// One of any number of evaluations of `p`, with a reason of so many bytes.
    pub fn evaluation(&self, session: &str, bytes: usize) -> Envelope {
        let payload = decision::EvaluationPayload {
            proposal_id: "p".to_owned(),
            recommendation: "REVIEW".to_owned(),
            confidence: 0.5,
            reason: "y".repeat(bytes),
        };
        self.envelope(session, "Evaluation", &payload)
    }

    /// This sender's vote for `p`.
    pub fn vote(&self, session: &str) -> Envelope {
        let payload = decision::VotePayload {
            proposal_id: "p".to_owned(),
            vote: "APPROVE".to_owned(),
            reason: String::new(),
        };
        self.envelope(session, "Vote", &payload)
    }

    /// The commitment that resolves a session.
    pub fn commitment(&self, session: &str) -> Envelope {
        let payload = pb::CommitmentPayload {
            commitment_id: "c".to_owned(),
            action: "decision.approved".to_owned(),
            authority_scope: "test".to_owned(),
            reason: "voted".to_owned(),
            mode_version: "1.0.0".to_owned(),
            policy_version: "policy.default".to_owned(),
            configuration_version: "config.default".to_owned(),
            outcome_positive: true,
            supersedes: None,
        };
        self.envelope(session, "Commitment", &payload)
    }

    /// Sends an envelope to a node, once, and waits no longer than `within`.
    pub async fn send(&self, node: usize, envelope: &Envelope, within: Duration) -> Answer {
        let request = self.request(pb::SendRequest { envelope: Some(envelope.clone()) });
        let mut stub = self.stub(node);
        let ack = match timeout(within, stub.send(request)).await {
            Err(_) => return Answer::Unknown(format!("no answer within {within:?}")),
            Ok(Err(status)) => return failed(&status),
            Ok(Ok(response)) => response.into_inner().ack.unwrap_or_default(),
        };
        if ack.ok {
            return Answer::Taken(Box::new(ack));
        }
        let error = ack.error.unwrap_or_default();
        let said = format!("{}: {}", error.code, error.message);
        if error.code == "INTERNAL_ERROR" { Answer::Unknown(said) } else { Answer::Refused(said) }
    }

    /// Sends an envelope to one of `nodes` after the other, beginning with the one at `first`,
    /// until it is taken; `tell` hears of each attempt of which nothing is known and says whether
    /// to go on.
    ///
    /// # Errors
    /// How it was refused, or the last reason why it was not taken.
    pub async fn deliver(
        &self,
        nodes: &[usize],
        first: usize,
        envelope: &Envelope,
        mut tell: impl FnMut(&str) -> bool,
    ) -> Result<(), String> {
        let mut order = nodes.iter().copied().cycle().skip(first % nodes.len().max(1));
        loop {
            let node = order.next().ok_or("there is no node")?;
            match self.send(node, envelope, ATTEMPT).await {
                Answer::Taken(_) => return Ok(()),
                Answer::Refused(why) => {
                    let kind = &envelope.message_type;
                    return Err(format!("{kind} refused by node {node}: {why}"));
                }
                Answer::Unknown(why) if tell(&why) => {}
                Answer::Unknown(why) => return Err(format!("not taken: {why}")),
            }
            // The pause between two attempts.
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What a node says of a session.
    ///
    /// # Errors
    /// The status.
    pub async fn session(&self, node: usize, session: &str) -> Result<SessionMetadata, Status> {
        let request = self.request(pb::GetSessionRequest { session_id: session.to_owned() });
        let mut stub = self.stub(node);
        let response = timeout(ATTEMPT, stub.get_session(request)).await;
        let response = response.map_err(|_| Status::deadline_exceeded("no answer"))??;
        Ok(response.into_inner().metadata.unwrap_or_default())
    }

    /// Ids of all sessions, as a node lists them.
    ///
    /// # Errors
    /// The status.
    pub async fn sessions(&self, node: usize) -> Result<Vec<String>, Status> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListSessionsRequest { page_size: 1000, page_token };
            let mut stub = self.stub(node);
            let page = timeout(DEADLINE, stub.list_sessions(self.request(request))).await;
            let page = page.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
            found.extend(page.sessions.into_iter().map(|session| session.session_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    async fn subscribe(
        &self,
        node: usize,
        session: &str,
        after: u64,
        open: bool,
    ) -> Result<Streaming<pb::StreamSessionResponse>, Status> {
        let frame = pb::StreamSessionRequest {
            envelope: None,
            subscribe_session_id: session.to_owned(),
            after_sequence: after,
        };
        let first = stream::iter([frame]);
        let mut stub = self.stub(node);
        let response = if open {
            stub.stream_session(self.request(first.chain(stream::pending()))).await?
        } else {
            stub.stream_session(self.request(first)).await?
        };
        Ok(response.into_inner())
    }

    /// Envelopes of a session with ordinals over `after`, as a node has them now: a stream that is
    /// half-closed at once.
    ///
    /// # Errors
    /// The status with which it ends, or an inline error.
    pub async fn history(
        &self,
        node: usize,
        session: &str,
        after: u64,
    ) -> Result<Vec<Envelope>, Status> {
        let read = async {
            let mut found = Vec::new();
            let mut stream = self.subscribe(node, session, after, false).await?;
            while let Some(item) = stream.message().await? {
                match item.response {
                    Some(Response::Envelope(envelope)) => found.push(envelope),
                    other => return Err(Status::unknown(format!("{other:?}"))),
                }
            }
            Ok(found)
        };
        let read = timeout(DEADLINE, read).await;
        read.unwrap_or_else(|_| Err(Status::deadline_exceeded("the stream does not end")))
    }

    /// Follows a session from its start on one of `nodes`; when the stream breaks, on the next,
    /// from where it was. Begins at once and ends when the follower is dropped.
    pub fn follow(&self, clients: &Clients, nodes: &[usize], session: &str) -> Follower {
        let got = Arc::new(Mutex::new(Got::default()));
        let follow = follow(self.clone(), nodes.to_vec(), session.to_owned(), got.clone());
        Follower { session: session.to_owned(), got, task: clients.spawn(follow) }
    }
}

impl Agent {
    /// Watches what happens to sessions, on one node.
    pub fn watch(&self, clients: &Clients, node: usize) -> Watcher {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let task = clients.spawn(watch(self.clone(), node, seen.clone()));
        Watcher { seen, task }
    }
}

/// What a watch of sessions has had.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Sessions and what happened to them (`EventType`), as it came.
    pub events: Vec<(String, i32)>,
    /// It is open.
    pub attached: bool,
    /// Why it ended.
    pub ended: Option<String>,
}

/// An open watch of sessions.
#[derive(Debug)]
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// What it has had so far.
    ///
    /// # Panics
    /// If its task did.
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("it did not panic").clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(agent: Agent, node: usize, seen: Arc<Mutex<Seen>>) {
    let note = |change: &dyn Fn(&mut Seen)| change(&mut seen.lock().expect("it did not panic"));
    let request = agent.request(pb::WatchSessionsRequest {});
    let ended = match agent.stub(node).watch_sessions(request).await {
        Ok(stream) => {
            note(&|seen| seen.attached = true);
            let mut stream = stream.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(pb::WatchSessionsResponse { event: Some(event) })) => {
                        let id = event.session.map(|session| session.session_id);
                        let id = id.unwrap_or_default();
                        note(&|seen| seen.events.push((id.clone(), event.event_type)));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break "it ended".to_owned(),
                    Err(status) => break format!("{:?}: {}", status.code(), status.message()),
                }
            }
        }
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    note(&|seen| seen.ended = Some(ended.clone()));
}

/// What a status means to somebody who sent an envelope.
fn failed(status: &Status) -> Answer {
    let said = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        // Unknown: a connection that broke.
        Code::Unavailable
        | Code::Internal
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded => Answer::Unknown(said),
        _ => Answer::Refused(said),
    }
}

/// What a follower has.
#[derive(Debug, Clone, Default)]
pub struct Got {
    /// Message ids, as they came.
    pub ids: Vec<String>,
    /// Why its streams broke.
    pub breaks: Vec<String>,
    /// What must not come.
    pub wrong: Vec<String>,
}

/// An open stream of a session.
#[derive(Debug)]
pub struct Follower {
    /// Which.
    pub session: String,
    got: Arc<Mutex<Got>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// What it has so far.
    ///
    /// # Panics
    /// If its task did.
    pub fn got(&self) -> Got {
        self.got.lock().expect("it did not panic").clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(agent: Agent, nodes: Vec<usize>, session: String, got: Arc<Mutex<Got>>) {
    let note = |change: &dyn Fn(&mut Got)| change(&mut got.lock().expect("it did not panic"));
    for node in nodes.iter().copied().cycle() {
        // The ordinal of what came last is how much came.
        let after = got.lock().map_or(0, |got| got.ids.len() as u64);
        let ended = match agent.subscribe(node, &session, after, true).await {
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(pb::StreamSessionResponse {
                        response: Some(Response::Envelope(envelope)),
                    })) => note(&|got| got.ids.push(envelope.message_id.clone())),
                    Ok(Some(other)) => note(&|got| got.wrong.push(format!("{other:?}"))),
                    Ok(None) => break "it ended".to_owned(),
                    Err(status) => {
                        if let Answer::Refused(why) = failed(&status) {
                            note(&|got| got.wrong.push(format!("node {node}: {why}")));
                        }
                        break format!("node {node}: {:?}: {}", status.code(), status.message());
                    }
                }
            },
            Err(status) => {
                if let Answer::Refused(why) = failed(&status) {
                    note(&|got| got.wrong.push(format!("node {node}: {why}")));
                }
                format!("node {node}: {:?}: {}", status.code(), status.message())
            }
        };
        note(&|got| got.breaks.push(ended.clone()));
        // The pause between two attempts.
        tokio::time::sleep(AGAIN).await;
    }
}
