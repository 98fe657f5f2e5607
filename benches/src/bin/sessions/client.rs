//! A gRPC client over one connection of its own, and what agents send through it.

use std::future::Future;
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tonic::Request;
use tonic::codegen::http::{Request as Call, Response as Answer, Uri};
use tonic::metadata::{Ascii, MetadataValue};
use weft_macp::macp::modes::decision::v1::{EvaluationPayload, ProposalPayload, VotePayload};
use weft_macp::macp::v1::{
    CommitmentPayload, Envelope, GetSessionRequest, InitializeRequest, SendRequest,
    SessionMetadata, SessionStartPayload,
};
use weft_wire::{Clock, SystemClock};

use crate::Fatal;

/// The stubs, over the messages of `weft-macp`.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, reason = "generated code")]
pub(crate) mod rpc {
    include!(concat!(env!("OUT_DIR"), "/macp.v1.rs"));
}

/// Messages of one session: a start, two proposals, three evaluations, three votes, a commitment.
pub(crate) const MESSAGES: usize = 10;
/// The mode of all sessions here.
const MODE: &str = "macp.mode.decision.v1";
/// Sessions may be open for so long, in milliseconds.
const TTL: i64 = 3_600_000;

/// Calls over one HTTP/2 connection. The client's share of two cores is the server's loss, so there
/// is nothing between the stubs and the connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection(http2::SendRequest<tonic::body::Body>);

impl tonic::client::GrpcService<tonic::body::Body> for Connection {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, call: Call<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(call))
    }
}

/// A client; clones share its connection.
pub(crate) type Client = rpc::macp_runtime_service_client::MacpRuntimeServiceClient<Connection>;

/// A client over a connection, which the server has greeted back.
pub(crate) async fn over(stream: TcpStream) -> Result<Client, Fatal> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
    let (calls, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(async move {
        // How it ended shows in the calls.
        let _ = connection.await;
    });
    let origin = Uri::from_static("http://localhost");
    let mut client = Client::with_origin(Connection(calls), origin);
    let versions = vec!["1.0".to_owned()];
    let hello =
        InitializeRequest { supported_protocol_versions: versions, ..InitializeRequest::default() };
    client.initialize(hello).await?;
    Ok(client)
}

/// Three agents who decide together: one leads.
#[derive(Debug, Clone)]
pub(crate) struct Agents {
    names: Vec<String>,
    bearers: Vec<MetadataValue<Ascii>>,
}

impl Agents {
    /// `who` is part of their names: rates are counted by sender.
    pub(crate) fn new(who: &str) -> Result<Self, Fatal> {
        let names: Vec<String> =
            ["lead", "left", "right"].iter().map(|role| format!("agent://{who}-{role}")).collect();
        let bearers = names.iter().map(|name| format!("Bearer {name}").parse());
        let bearers = bearers.collect::<Result<_, _>>()?;
        Ok(Self { names, bearers })
    }

    /// A request of one of them; 0 leads.
    pub(crate) fn request<T>(&self, by: usize, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = self.bearers.get(by) {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    /// The message of that number, from 0, of a session that is decided in [`MESSAGES`].
    pub(crate) fn message(&self, step: usize, session: &str) -> Request<SendRequest> {
        let (by, kind, payload) = match step {
            0 => (0, "SessionStart", self.start()),
            1 => (0, "Proposal", proposal("p1", "blue")),
            2 => (1, "Proposal", proposal("p2", "green")),
            3 => (0, "Evaluation", evaluation("p1", "APPROVE")),
            4 => (1, "Evaluation", evaluation("p1", "REVIEW")),
            5 => (2, "Evaluation", evaluation("p2", "REVIEW")),
            6 => (0, "Vote", vote("APPROVE")),
            7 => (1, "Vote", vote("APPROVE")),
            8 => (2, "Vote", vote("ABSTAIN")),
            _ => (0, "Commitment", commitment()),
        };
        let id = uuid::Uuid::new_v4().to_string();
        self.send(by, kind, id, session, payload)
    }

    /// A message that a session takes any number of, once it has the first two of
    /// [`Agents::message`].
    pub(crate) fn remark(&self, id: String, session: &str) -> Request<SendRequest> {
        self.send(0, "Evaluation", id, session, evaluation("p1", "REVIEW"))
    }

    fn send(
        &self,
        by: usize,
        kind: &str,
        message_id: String,
        session: &str,
        payload: Vec<u8>,
    ) -> Request<SendRequest> {
        let envelope = Envelope {
            macp_version: "1.0".to_owned(),
            mode: MODE.to_owned(),
            message_type: kind.to_owned(),
            message_id,
            session_id: session.to_owned(),
            sender: String::new(),
            timestamp_unix_ms: SystemClock.wall().as_micros() / 1000,
            payload,
        };
        self.request(by, SendRequest { envelope: Some(envelope) })
    }

    fn start(&self) -> Vec<u8> {
        let payload = SessionStartPayload {
            intent: "which colour the door gets".to_owned(),
            participants: self.names.clone(),
            mode_version: "1.0.0".to_owned(),
            configuration_version: "config.default".to_owned(),
            policy_version: "policy.default".to_owned(),
            ttl_ms: TTL,
            ..SessionStartPayload::default()
        };
        payload.encode_to_vec()
    }

    /// What the server has of a session.
    pub(crate) async fn look(
        &self,
        client: &mut Client,
        session: &str,
    ) -> Result<SessionMetadata, Fatal> {
        let request = self.request(0, GetSessionRequest { session_id: session.to_owned() });
        let answer = client.get_session(request).await?.into_inner();
        answer.metadata.ok_or_else(|| "GetSession answered without metadata".into())
    }
}

fn proposal(id: &str, option: &str) -> Vec<u8> {
    let payload = ProposalPayload {
        proposal_id: id.to_owned(),
        option: option.to_owned(),
        rationale: "it goes with the windows".to_owned(),
        ..ProposalPayload::default()
    };
    payload.encode_to_vec()
}

fn evaluation(proposal: &str, recommendation: &str) -> Vec<u8> {
    let payload = EvaluationPayload {
        proposal_id: proposal.to_owned(),
        recommendation: recommendation.to_owned(),
        confidence: 0.9,
        reason: "the paint is there".to_owned(),
    };
    payload.encode_to_vec()
}

fn vote(vote: &str) -> Vec<u8> {
    let payload = VotePayload {
        proposal_id: "p1".to_owned(),
        vote: vote.to_owned(),
        reason: "as discussed".to_owned(),
    };
    payload.encode_to_vec()
}

fn commitment() -> Vec<u8> {
    let payload = CommitmentPayload {
        commitment_id: "c1".to_owned(),
        action: "decision.approved".to_owned(),
        authority_scope: "door".to_owned(),
        reason: "two of three are for it".to_owned(),
        mode_version: "1.0.0".to_owned(),
        policy_version: "policy.default".to_owned(),
        configuration_version: "config.default".to_owned(),
        outcome_positive: true,
        ..CommitmentPayload::default()
    };
    payload.encode_to_vec()
}

/// Sends it, and expects it to be accepted.
pub(crate) async fn accepted(
    client: &mut Client,
    request: Request<SendRequest>,
) -> Result<(), String> {
    let answer = client.send(request).await.map_err(|status| status.to_string())?;
    match answer.into_inner().ack {
        Some(ack) if ack.ok && !ack.duplicate => Ok(()),
        Some(ack) => {
            let why = ack.error.unwrap_or_default();
            Err(format!("refused: {} {}", why.code, why.message))
        }
        None => Err("no Ack".to_owned()),
    }
}
