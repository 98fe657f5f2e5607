//! The 27 RPCs (§2): who may call, what is refused where, and whom to ask.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use weft_link::{Call, Fabric};
use weft_macp::macp::v1 as pb;
use weft_protocol::{
    AskWhatIf, CatalogueEdit, ControlSession, EditCatalogue, IssueReceipt, IssuedReceipt,
    ListSessions, ModesView, ReadModes, ReadPolicies, ReadSession, ReceiptSigner, RelaySignal,
    SendEnvelope, SenderRates, SessionAck, SessionControl, SessionReader, SessionRefusal,
    SessionState, VERSION,
};
use weft_session::{Audience, Envelope, Limits, Millis, ambient, shape};
use weft_wire::{ActorKind, Address, AskError, Clock, Message, TraceContext};

use super::auth::{Caller, Proof};
use super::counted::{Counted, Outcome};
use super::errors::{early, refused, status, unanswered, unasked};
use super::rpc::macp_runtime_service_server::MacpRuntimeService;
use super::{MacpConfig, convert, errors, stream, watch};

/// The owner of a session answers within this.
const WITHIN: Duration = Duration::from_secs(20);
/// Other nodes are told of a signal within this.
const RELAY: Duration = Duration::from_secs(5);
/// Content of envelopes, as the manifest names it.
const CONTENT: &str = "application/macp-envelope+proto";

/// A signal, and whether its sender proved who it is.
pub(crate) type Signal = (pb::Envelope, bool);

/// Which envelope it is.
pub(crate) struct About {
    pub(crate) session_id: String,
    pub(crate) mode: String,
    pub(crate) message_type: String,
    pub(crate) message_id: String,
    /// When it came in.
    pub(crate) begun: Instant,
    /// What its client says it belongs to.
    pub(crate) trace: TraceContext,
}

impl About {
    pub(crate) fn of(envelope: &pb::Envelope, begun: Instant, trace: TraceContext) -> Self {
        Self {
            begun,
            trace,
            session_id: envelope.session_id.clone(),
            mode: envelope.mode.clone(),
            message_type: envelope.message_type.clone(),
            message_id: envelope.message_id.clone(),
        }
    }
}

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) fabric: Fabric,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) began: Instant,
    pub(crate) limits: Mutex<Limits>,
    pub(crate) counted: Arc<Counted>,
    pub(crate) signals: broadcast::Sender<Signal>,
    pub(crate) config: MacpConfig,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Shared>);

impl Shared {
    pub(crate) fn now_ms(&self) -> Millis {
        self.clock.wall().as_micros().div_euclid(1000)
    }

    /// Sessions on this node: their actor finds whoever leads.
    pub(crate) const fn owner() -> Address {
        Address::here(ActorKind::Session)
    }

    pub(crate) async fn ask<M: Message>(&self, message: M) -> Result<M::Reply, AskError> {
        self.fabric.ask(Self::owner(), message, Call::within(WITHIN)).await
    }

    pub(crate) async fn caller(&self, proof: &Proof) -> Result<Caller, SessionRefusal> {
        self.config.auth.caller(proof, &*self.clock).await
    }

    /// As [`Shared::caller`]; a refusal is the call's status.
    async fn known(&self, proof: &Proof) -> Result<Caller, Status> {
        self.caller(proof).await.map_err(|refusal| status(&refusal))
    }

    /// Uses a slot of the sender's rate (§6 step 8).
    pub(crate) fn rate(&self, sender: &str, is_start: bool) -> Result<(), SessionRefusal> {
        let now = self.clock.now().saturating_duration_since(self.began).as_millis();
        let now = Millis::try_from(now).unwrap_or(Millis::MAX);
        self.limits.lock().take(sender, is_start, now).map_err(early)
    }

    /// A Signal or Progress for whoever watches them (§11.1).
    pub(crate) fn signal(
        &self,
        envelope: Envelope,
        is_authenticated: bool,
    ) -> Result<SessionAck, SessionRefusal> {
        ambient(&envelope.message_type, &envelope.payload).map_err(early)?;
        let envelope = convert::own(envelope);
        let own = self.fabric.node();
        for node in self.fabric.directory().nodes.keys().filter(|node| **node != own) {
            let relay = RelaySignal { envelope: envelope.clone(), is_authenticated };
            let to = Address::on(ActorKind::Gateway, *node);
            if let Err(error) = self.fabric.tell(to, relay, &Call::within(RELAY)) {
                tracing::debug!(%error, %node, "a signal is not told there");
            }
        }
        // Nobody watching is no refusal.
        let _ = self.signals.send((convert::envelope(envelope), is_authenticated));
        Ok(SessionAck { duplicate: false, state: SessionState::Open })
    }

    /// Has the session's owner take an envelope.
    pub(crate) async fn take(
        &self,
        envelope: Envelope,
        max_open: Option<u32>,
        trace: TraceContext,
    ) -> Result<SessionAck, SessionRefusal> {
        let MacpConfig { starts_per_minute, messages_per_minute, .. } = self.config;
        // The sender may send through others, too, but not more.
        let rates = (self.fabric.directory().nodes.len() > 1)
            .then_some(SenderRates { starts: starts_per_minute, messages: messages_per_minute });
        let message = SendEnvelope { envelope: convert::own(envelope), max_open, rates };
        let call = Call { trace, ..Call::within(WITHIN) };
        match self.fabric.ask(Self::owner(), message, call).await {
            Ok(answer) => answer,
            Err(error) => Err(unasked(&error)),
        }
    }

    /// Works on an envelope, from where it came in to its answer: one span, and counted.
    pub(crate) async fn followed(
        &self,
        about: &About,
        work: impl Future<Output = Result<SessionAck, SessionRefusal>>,
    ) -> Result<SessionAck, SessionRefusal> {
        let About { session_id, mode, message_type, message_id, begun, trace } = about;
        let trace = trace.is_some().then(|| tracing::field::display(trace));
        let span =
            tracing::debug_span!("envelope", session_id, mode, message_type, message_id, trace);
        let answer = work.instrument(span.clone()).await;
        let (outcome, took) =
            (Outcome::of(&answer), self.clock.now().saturating_duration_since(*begun));
        let _in = span.enter();
        let code = answer.as_ref().err().map(|refusal| refusal.code.as_str());
        tracing::debug!(outcome = outcome.as_str(), code, took_us = took.as_micros(), "answered");
        self.counted.add((mode, message_type), outcome, took);
        answer
    }

    /// An envelope for which the call it came by was refused.
    pub(crate) fn rejected(&self, about: &About) {
        let took = self.clock.now().saturating_duration_since(about.begun);
        self.counted.add((&about.mode, &about.message_type), Outcome::Rejected, took);
    }

    /// An envelope as `Send` gets it, in the order of §6.
    async fn send(
        &self,
        proof: &Proof,
        envelope: pb::Envelope,
    ) -> Result<SessionAck, SessionRefusal> {
        let audience = shape(&envelope, self.config.payload_max).map_err(early)?;
        let caller = self.caller(proof).await?;
        let mut envelope = Envelope::from(envelope);
        caller.rights.claim(&mut envelope).map_err(early)?;
        self.rate(&envelope.sender, audience == Audience::Start)?;
        match audience {
            Audience::Ambient => self.signal(envelope, caller.is_authenticated),
            _ => self.take(envelope, caller.rights.max_open_sessions, proof.trace()).await,
        }
    }

    fn ack(
        &self,
        answer: Result<SessionAck, SessionRefusal>,
        session_id: String,
        message_id: String,
    ) -> pb::Ack {
        let accepted_at_unix_ms = self.now_ms();
        match answer {
            Ok(SessionAck { duplicate, state }) => pb::Ack {
                ok: true,
                duplicate,
                message_id,
                session_id,
                accepted_at_unix_ms,
                session_state: state.number(),
                error: None,
            },
            Err(refusal) => pb::Ack {
                ok: false,
                duplicate: false,
                error: Some(errors::error(refusal, &session_id, &message_id)),
                message_id,
                session_id,
                accepted_at_unix_ms,
                session_state: pb::SessionState::Unspecified.into(),
            },
        }
    }

    async fn control(
        &self,
        proof: &Proof,
        session_id: String,
        reason: String,
        control: SessionControl,
    ) -> Result<pb::Ack, Status> {
        let caller = self.known(proof).await?;
        let sender = caller.rights.sender;
        let message = ControlSession { session_id: session_id.clone(), control, sender, reason };
        let answer = self.ask(message).await.map_err(|error| unanswered(&error))?;
        match answer {
            Err(refusal) if refusal.is_status => Err(status(&refusal)),
            answer => Ok(self.ack(answer, session_id, String::new())),
        }
    }

    /// Changes modes or policies: who may not is told by the status, what is wrong by the answer.
    async fn edit(
        &self,
        proof: &Proof,
        edit: CatalogueEdit,
    ) -> Result<Result<String, String>, Status> {
        let caller = self.manager(proof).await?;
        let of_policies = matches!(
            edit,
            CatalogueEdit::RegisterPolicy(_) | CatalogueEdit::UnregisterPolicy { .. }
        );
        if of_policies && self.modes().await?.policies_fixed {
            let why = "policies are read from files, and only those change them";
            return Err(refused("REGISTRY_READ_ONLY", why));
        }
        tracing::info!(sender = %caller.rights.sender, "modes or policies are to change");
        self.ask(EditCatalogue { edit }).await.map_err(|error| unanswered(&error))
    }

    async fn manager(&self, proof: &Proof) -> Result<Caller, Status> {
        let caller = self.known(proof).await?;
        if !caller.rights.can_manage_mode_registry {
            return Err(refused("FORBIDDEN", "this identity may not change modes and policies"));
        }
        Ok(caller)
    }

    async fn modes(&self) -> Result<ModesView, Status> {
        self.ask(ReadModes {}).await.map_err(|error| unanswered(&error))
    }

    /// The receipt of a session (§16), signed here if it is the first time.
    async fn receipt(&self, session_id: String, reader: SessionReader) -> Result<String, Status> {
        let keys = &self.config.receipts;
        let ask = async |signer: ReceiptSigner| {
            let (session_id, reader) = (session_id.clone(), reader.clone());
            let issuer = self.config.runtime_id.clone();
            let issue = IssueReceipt { session_id, reader, issuer, signer };
            let issued = self.ask(issue).await.map_err(|error| unanswered(&error))?;
            issued.map_err(|refusal| status(&refusal))
        };
        let kid = keys.kid().map(str::to_owned);
        let asks = kid.clone().map_or(ReceiptSigner::Nobody, |kid| ReceiptSigner::Asks { kid });
        let issued = match (ask(asks).await?, kid) {
            (IssuedReceipt::ToSign { input, issued_ms }, Some(kid)) => {
                let signature = keys.sign(&input);
                ask(ReceiptSigner::Signed { kid, issued_ms, signature }).await?
            }
            (issued, _) => issued,
        };
        match issued {
            IssuedReceipt::Kept(json) => Ok(json),
            IssuedReceipt::ToSign { .. } => {
                Err(refused("INTERNAL_ERROR", "the receipt was signed, and is to be signed again"))
            }
        }
    }

    /// A caller that reads, counted as if it had sent a message.
    async fn counted_reader(&self, proof: &Proof) -> Result<SessionReader, Status> {
        let caller = self.known(proof).await?;
        self.rate(&caller.rights.sender, false).map_err(|refusal| status(&refusal))?;
        Ok(reader(&caller))
    }
}

pub(crate) fn reader(caller: &Caller) -> SessionReader {
    SessionReader { sender: caller.rights.sender.clone(), is_observer: caller.rights.is_observer }
}

fn said(done: Result<String, String>) -> (bool, String) {
    match done {
        Ok(_) => (true, String::new()),
        Err(why) => (false, why),
    }
}

/// Ids of all modes, sorted (§3).
fn mode_ids(modes: ModesView) -> Vec<String> {
    let all = modes.standard.into_iter().chain(modes.extensions);
    let mut ids: Vec<String> = all.map(|mode| mode.mode).collect();
    ids.sort();
    ids
}

fn capabilities(register_policy: bool, signed: bool) -> pb::Capabilities {
    let features = HashMap::from([("ext_mode_lifecycle".to_owned(), "true".to_owned())]);
    pb::Capabilities {
        sessions: Some(pb::SessionsCapability {
            stream: true,
            list_sessions: true,
            watch_sessions: true,
        }),
        cancellation: Some(pb::CancellationCapability { cancel_session: true }),
        progress: Some(pb::ProgressCapability { progress: true }),
        manifest: Some(pb::ManifestCapability { get_manifest: true }),
        mode_registry: Some(pb::ModeRegistryCapability { list_modes: true, list_changed: true }),
        roots: Some(pb::RootsCapability { list_roots: true, list_changed: false }),
        policy_registry: Some(pb::PolicyRegistryCapability {
            register_policy,
            list_policies: true,
            list_changed: true,
            rule_extensions: Vec::new(),
            what_if_replay: true,
        }),
        decision_receipt: Some(pb::DecisionReceiptCapability {
            get_decision_receipt: true,
            signed,
        }),
        experimental: Some(pb::ExperimentalCapabilities { features }),
    }
}

pub(crate) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MacpRuntimeService for Service {
    async fn initialize(
        &self,
        request: Request<pb::InitializeRequest>,
    ) -> Answer<pb::InitializeResponse> {
        let offered = request.into_inner().supported_protocol_versions;
        if offered.is_empty() {
            return Err(refused("INVALID_REQUEST", "supported_protocol_versions is empty"));
        }
        if !offered.iter().any(|version| version == "1.0") {
            let why = format!("only protocol version 1.0 is served, not {}", offered.join(", "));
            return Err(refused("UNSUPPORTED_PROTOCOL_VERSION", why));
        }
        let modes = self.0.modes().await?;
        let signed = self.0.config.receipts.kid().is_some();
        Ok(Response::new(pb::InitializeResponse {
            selected_protocol_version: "1.0".to_owned(),
            runtime_info: Some(pb::RuntimeInfo {
                name: "weft".to_owned(),
                title: "Weft".to_owned(),
                version: VERSION.to_owned(),
                description: "MACP sessions on the Weft fabric".to_owned(),
                website_url: String::new(),
            }),
            capabilities: Some(capabilities(!modes.policies_fixed, signed)),
            supported_modes: mode_ids(modes),
            instructions: "Send a SessionStart to begin a session.".to_owned(),
        }))
    }

    async fn send(&self, request: Request<pb::SendRequest>) -> Answer<pb::SendResponse> {
        let (proof, request) = Proof::of(request);
        let Some(envelope) = request.envelope else {
            return Err(refused("INVALID_ENVELOPE", "the request has no envelope"));
        };
        let about = About::of(&envelope, self.0.clock.now(), proof.trace());
        let answer = self.0.followed(&about, self.0.send(&proof, envelope)).await;
        let ack = Some(self.0.ack(answer, about.session_id, about.message_id));
        Ok(Response::new(pb::SendResponse { ack }))
    }

    type StreamSessionStream = Streamed<pb::StreamSessionResponse>;

    async fn stream_session(
        &self,
        request: Request<Streaming<pb::StreamSessionRequest>>,
    ) -> Answer<Self::StreamSessionStream> {
        let (proof, frames) = Proof::of(request);
        let caller = self.0.known(&proof).await?;
        Ok(Response::new(stream::open(self.0.clone(), caller, proof.trace(), frames)))
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Answer<pb::GetSessionResponse> {
        let (proof, request) = Proof::of(request);
        let caller = self.0.known(&proof).await?;
        let session_id = request.session_id;
        let read = ReadSession { session_id, reader: reader(&caller) };
        let view = self.0.ask(read).await.map_err(|error| unanswered(&error))?;
        let metadata = convert::metadata(view.map_err(|refusal| status(&refusal))?);
        Ok(Response::new(pb::GetSessionResponse { metadata: Some(metadata) }))
    }

    async fn cancel_session(
        &self,
        request: Request<pb::CancelSessionRequest>,
    ) -> Answer<pb::CancelSessionResponse> {
        let (proof, request) = Proof::of(request);
        let pb::CancelSessionRequest { session_id, reason } = request;
        let ack = self.0.control(&proof, session_id, reason, SessionControl::Cancel).await?;
        Ok(Response::new(pb::CancelSessionResponse { ack: Some(ack) }))
    }

    async fn suspend_session(
        &self,
        request: Request<pb::SuspendSessionRequest>,
    ) -> Answer<pb::SuspendSessionResponse> {
        let (proof, request) = Proof::of(request);
        let pb::SuspendSessionRequest { session_id, reason } = request;
        let ack = self.0.control(&proof, session_id, reason, SessionControl::Suspend).await?;
        Ok(Response::new(pb::SuspendSessionResponse { ack: Some(ack) }))
    }

    async fn resume_session(
        &self,
        request: Request<pb::ResumeSessionRequest>,
    ) -> Answer<pb::ResumeSessionResponse> {
        let (proof, request) = Proof::of(request);
        let pb::ResumeSessionRequest { session_id, reason } = request;
        let ack = self.0.control(&proof, session_id, reason, SessionControl::Resume).await?;
        Ok(Response::new(pb::ResumeSessionResponse { ack: Some(ack) }))
    }

    async fn get_manifest(
        &self,
        request: Request<pb::GetManifestRequest>,
    ) -> Answer<pb::GetManifestResponse> {
        let asked = request.into_inner().agent_id;
        let own = &self.0.config.runtime_id;
        if !asked.is_empty() && asked != *own {
            return Err(refused("AGENT_NOT_FOUND", format!("there is no manifest of `{asked}`")));
        }
        let manifest = pb::AgentManifest {
            agent_id: own.clone(),
            title: "Weft".to_owned(),
            description: "MACP sessions on the Weft fabric".to_owned(),
            supported_modes: mode_ids(self.0.modes().await?),
            input_content_types: vec![CONTENT.to_owned()],
            output_content_types: vec![CONTENT.to_owned()],
            metadata: HashMap::new(),
            transport_endpoints: Vec::new(),
        };
        Ok(Response::new(pb::GetManifestResponse { manifest: Some(manifest) }))
    }

    async fn list_modes(&self, _: Request<pb::ListModesRequest>) -> Answer<pb::ListModesResponse> {
        let modes = self.0.modes().await?.standard;
        let modes = modes.into_iter().map(convert::descriptor).collect();
        Ok(Response::new(pb::ListModesResponse { modes }))
    }

    type WatchModeRegistryStream = Streamed<pb::WatchModeRegistryResponse>;

    async fn watch_mode_registry(
        &self,
        _: Request<pb::WatchModeRegistryRequest>,
    ) -> Answer<Self::WatchModeRegistryStream> {
        Ok(Response::new(watch::modes(self.0.clone()).await?))
    }

    async fn list_roots(&self, _: Request<pb::ListRootsRequest>) -> Answer<pb::ListRootsResponse> {
        Ok(Response::new(pb::ListRootsResponse { roots: Vec::new() }))
    }

    type WatchRootsStream = Streamed<pb::WatchRootsResponse>;

    async fn watch_roots(
        &self,
        _: Request<pb::WatchRootsRequest>,
    ) -> Answer<Self::WatchRootsStream> {
        Ok(Response::new(watch::roots(&self.0)))
    }

    async fn list_ext_modes(
        &self,
        _: Request<pb::ListExtModesRequest>,
    ) -> Answer<pb::ListExtModesResponse> {
        let modes = self.0.modes().await?.extensions;
        let modes = modes.into_iter().map(convert::descriptor).collect();
        Ok(Response::new(pb::ListExtModesResponse { modes }))
    }

    async fn register_ext_mode(
        &self,
        request: Request<pb::RegisterExtModeRequest>,
    ) -> Answer<pb::RegisterExtModeResponse> {
        let (proof, request) = Proof::of(request);
        self.0.manager(&proof).await?;
        let Some(descriptor) = request.mode_descriptor else {
            return Err(refused("INVALID_REQUEST", "the request has no mode_descriptor"));
        };
        let edit = CatalogueEdit::RegisterMode(convert::mode(descriptor));
        let (ok, error) = said(self.0.edit(&proof, edit).await?);
        Ok(Response::new(pb::RegisterExtModeResponse { ok, error }))
    }

    async fn unregister_ext_mode(
        &self,
        request: Request<pb::UnregisterExtModeRequest>,
    ) -> Answer<pb::UnregisterExtModeResponse> {
        let (proof, request) = Proof::of(request);
        let edit = CatalogueEdit::UnregisterMode { mode: request.mode };
        let (ok, error) = said(self.0.edit(&proof, edit).await?);
        Ok(Response::new(pb::UnregisterExtModeResponse { ok, error }))
    }

    async fn promote_mode(
        &self,
        request: Request<pb::PromoteModeRequest>,
    ) -> Answer<pb::PromoteModeResponse> {
        let (proof, request) = Proof::of(request);
        let pb::PromoteModeRequest { mode, promoted_mode_name: name } = request;
        let done = self.0.edit(&proof, CatalogueEdit::PromoteMode { mode, name }).await?;
        let mode = done.clone().unwrap_or_default();
        let (ok, error) = said(done);
        Ok(Response::new(pb::PromoteModeResponse { ok, error, mode }))
    }

    type WatchSignalsStream = Streamed<pb::WatchSignalsResponse>;

    async fn watch_signals(
        &self,
        request: Request<pb::WatchSignalsRequest>,
    ) -> Answer<Self::WatchSignalsStream> {
        let (proof, _) = Proof::of(request);
        self.0.known(&proof).await?;
        Ok(Response::new(watch::signals(&self.0)))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Answer<pb::ListSessionsResponse> {
        let (proof, request) = Proof::of(request);
        self.0.known(&proof).await?;
        let pb::ListSessionsRequest { page_size, page_token } = request;
        let Ok(size) = u32::try_from(page_size) else {
            return Err(refused("INVALID_REQUEST", "page_size is negative"));
        };
        let config = &self.0.config;
        let size = if size == 0 { config.page_default } else { size.min(config.page_max) };
        let after = match page_token.as_str() {
            "" => None,
            token => Some(convert::page_after(token).ok_or_else(|| {
                refused("INVALID_REQUEST", "page_token is none that was given out")
            })?),
        };
        let page = self.0.ask(ListSessions { after, size }).await;
        let page = page.map_err(|error| unanswered(&error))?;
        let last = page.sessions.last().filter(|_| page.more);
        let next_page_token =
            last.map_or_else(String::new, |last| convert::page_token(&last.session_id));
        let sessions = page.sessions.into_iter().map(convert::metadata).collect();
        Ok(Response::new(pb::ListSessionsResponse { sessions, next_page_token }))
    }

    type WatchSessionsStream = Streamed<pb::WatchSessionsResponse>;

    async fn watch_sessions(
        &self,
        request: Request<pb::WatchSessionsRequest>,
    ) -> Answer<Self::WatchSessionsStream> {
        let (proof, _) = Proof::of(request);
        self.0.known(&proof).await?;
        Ok(Response::new(watch::sessions(&self.0).await?))
    }

    async fn register_policy(
        &self,
        request: Request<pb::RegisterPolicyRequest>,
    ) -> Answer<pb::RegisterPolicyResponse> {
        let (proof, request) = Proof::of(request);
        self.0.manager(&proof).await?;
        let Some(descriptor) = request.policy_descriptor else {
            return Err(refused("INVALID_REQUEST", "the request has no policy_descriptor"));
        };
        let edit = CatalogueEdit::RegisterPolicy(convert::policy(descriptor));
        let (ok, error) = said(self.0.edit(&proof, edit).await?);
        Ok(Response::new(pb::RegisterPolicyResponse { ok, error }))
    }

    async fn unregister_policy(
        &self,
        request: Request<pb::UnregisterPolicyRequest>,
    ) -> Answer<pb::UnregisterPolicyResponse> {
        let (proof, request) = Proof::of(request);
        let edit = CatalogueEdit::UnregisterPolicy { policy_id: request.policy_id };
        let (ok, error) = said(self.0.edit(&proof, edit).await?);
        Ok(Response::new(pb::UnregisterPolicyResponse { ok, error }))
    }

    async fn get_policy(
        &self,
        request: Request<pb::GetPolicyRequest>,
    ) -> Answer<pb::GetPolicyResponse> {
        let (proof, request) = Proof::of(request);
        self.0.known(&proof).await?;
        let policy_id = request.policy_id;
        let none = format!("policy `{policy_id}` is not registered");
        let found = match policy_id.is_empty() {
            true => Vec::new(),
            false => {
                let read = ReadPolicies { mode: String::new(), policy_id };
                self.0.ask(read).await.map_err(|error| unanswered(&error))?
            }
        };
        let Some(policy) = found.into_iter().next() else {
            return Err(refused("UNKNOWN_POLICY_VERSION", none));
        };
        let policy_descriptor = Some(convert::policy_descriptor(policy));
        Ok(Response::new(pb::GetPolicyResponse { policy_descriptor }))
    }

    async fn list_policies(
        &self,
        request: Request<pb::ListPoliciesRequest>,
    ) -> Answer<pb::ListPoliciesResponse> {
        let (proof, request) = Proof::of(request);
        self.0.known(&proof).await?;
        let mode = request.mode;
        let read = ReadPolicies { mode, policy_id: String::new() };
        let found = self.0.ask(read).await.map_err(|error| unanswered(&error))?;
        let descriptors = found.into_iter().map(convert::policy_descriptor).collect();
        Ok(Response::new(pb::ListPoliciesResponse { descriptors }))
    }

    type WatchPoliciesStream = Streamed<pb::WatchPoliciesResponse>;

    async fn watch_policies(
        &self,
        request: Request<pb::WatchPoliciesRequest>,
    ) -> Answer<Self::WatchPoliciesStream> {
        let (proof, _) = Proof::of(request);
        self.0.known(&proof).await?;
        Ok(Response::new(watch::policies(self.0.clone()).await?))
    }

    async fn what_if_replay(
        &self,
        request: Request<pb::WhatIfReplayRequest>,
    ) -> Answer<pb::WhatIfReplayResponse> {
        let (proof, request) = Proof::of(request);
        let reader = self.0.counted_reader(&proof).await?;
        let Some(candidate) = request.candidate else {
            return Err(refused("INVALID_REQUEST", "the request has no candidate"));
        };
        let candidate = convert::policy(candidate);
        let ask = AskWhatIf { session_id: request.session_id, reader, candidate };
        let outcome = self.0.ask(ask).await.map_err(|error| unanswered(&error))?;
        let bytes = outcome.map_err(|refusal| status(&refusal))?;
        let response = prost::Message::decode(bytes.as_slice());
        let response = response.map_err(|error| refused("INTERNAL_ERROR", error.to_string()))?;
        Ok(Response::new(response))
    }

    async fn get_decision_receipt(
        &self,
        request: Request<pb::GetDecisionReceiptRequest>,
    ) -> Answer<pb::GetDecisionReceiptResponse> {
        let (proof, request) = Proof::of(request);
        let reader = self.0.counted_reader(&proof).await?;
        let receipt_json = self.0.receipt(request.session_id, reader).await?;
        Ok(Response::new(pb::GetDecisionReceiptResponse { receipt_json }))
    }

    async fn get_receipt_keys(
        &self,
        _: Request<pb::GetReceiptKeysRequest>,
    ) -> Answer<pb::GetReceiptKeysResponse> {
        let jwks_json = self.0.config.receipts.jwks().to_owned();
        Ok(Response::new(pb::GetReceiptKeysResponse { jwks_json }))
    }
}
