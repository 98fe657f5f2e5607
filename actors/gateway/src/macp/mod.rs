//! The gRPC face: `macp.v1.MACPRuntimeService` for clients of the MACP reference runtime.
//!
//! Here is what a client sees: identities, shapes, rates, statuses, streams. What a session makes
//! of an envelope, its owner decides; it is asked through the fabric, so it may be another node.

mod auth;
mod convert;
pub(crate) mod counted;
mod errors;
mod receipts;
mod service;
mod stream;
mod tls;
mod watch;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch as flag};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use weft_link::Fabric;
use weft_protocol::SessionEnvelope;
use weft_session::{Limits, MESSAGES_PER_MINUTE, PAYLOAD_MAX, STARTS_PER_MINUTE};
use weft_wire::Clock;

pub use auth::{Auth, AuthError, Certificates, Holder, Jwt, JwtConfig, KeySource, Tokens};
pub use receipts::{KeyText, ReceiptKeyError, ReceiptKeys};
use service::{Service, Shared, Signal};

/// The stubs, over the messages of `weft-macp`.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, reason = "generated code")]
pub(crate) mod rpc {
    include!(concat!(env!("OUT_DIR"), "/macp.v1.rs"));
}

/// A frame may be so much larger than the payload in it, in bytes (§6).
const FRAME_EXTRA: usize = 64 * 1024;
/// Signals that a watcher may be behind (§11).
const SIGNALS: usize = 256;

/// How sessions are served (§17).
#[derive(Debug, Clone)]
pub struct MacpConfig {
    /// Largest payload, in bytes.
    pub payload_max: usize,
    /// Session starts a sender may make in a minute.
    pub starts_per_minute: u32,
    /// Other messages a sender may send in a minute.
    pub messages_per_minute: u32,
    /// Sessions a page has if nothing is said.
    pub page_default: u32,
    /// Sessions a page has at most.
    pub page_max: u32,
    /// Requests of one connection that are worked on at once.
    pub per_connection: usize,
    /// HTTP/2 streams of one connection.
    pub streams: u32,
    /// Until a response begins.
    pub request_timeout: Duration,
    /// This runtime's name in manifests and receipts.
    pub runtime_id: String,
    /// PEM of the certificate chain and of its key; `None`: plain text.
    pub tls: Option<(Vec<u8>, Vec<u8>)>,
    /// What receipts are signed with.
    pub receipts: ReceiptKeys,
    /// Who may call.
    pub auth: Auth,
}

impl MacpConfig {
    /// The reference's defaults.
    pub fn new(auth: Auth) -> Self {
        Self {
            payload_max: PAYLOAD_MAX,
            starts_per_minute: STARTS_PER_MINUTE,
            messages_per_minute: MESSAGES_PER_MINUTE,
            page_default: 100,
            page_max: 1000,
            per_connection: 64,
            streams: 128,
            request_timeout: Duration::from_secs(30),
            runtime_id: "macp-runtime".to_owned(),
            tls: None,
            receipts: ReceiptKeys::default(),
            auth,
        }
    }
}

/// A bound listener and its server. Clones are the same face.
#[derive(Debug, Clone)]
pub struct MacpFace(Arc<Face>);

#[derive(Debug)]
struct Face {
    listener: TcpListener,
    address: SocketAddr,
    config: MacpConfig,
    /// Outlives the server too.
    counted: Arc<counted::Counted>,
    /// Outlives the server: other nodes tell of signals at any time.
    signals: broadcast::Sender<Signal>,
    stop: flag::Sender<bool>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl MacpFace {
    /// Binds; port 0 asks the OS.
    ///
    /// # Errors
    /// What the OS says, such as that the port is in use.
    pub fn bind(address: SocketAddr, config: MacpConfig) -> io::Result<Self> {
        // A wrong certificate is told now, not when the first client comes.
        server(&config)?;
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = flag::Sender::new(false);
        let signals = broadcast::channel(SIGNALS).0;
        let server = Mutex::new(None);
        let counted = Arc::default();
        Ok(Self(Arc::new(Face { listener, address, config, counted, signals, stop, server })))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Serves, if nothing serves yet. Must be called within the tokio runtime.
    ///
    /// # Errors
    /// What the OS says of the listener, or what is wrong with the certificate.
    pub fn serve(&self, fabric: Fabric, clock: Arc<dyn Clock>) -> io::Result<()> {
        let mut server = self.0.server.lock();
        if server.as_ref().is_some_and(|server| !server.is_finished()) {
            return Ok(());
        }
        let config = &self.0.config;
        let (mut builder, asking) = self::server(config)?;
        let shared = Arc::new(Shared {
            began: clock.now(),
            fabric,
            clock,
            limits: Mutex::new(Limits::new(config.starts_per_minute, config.messages_per_minute)),
            counted: self.0.counted.clone(),
            signals: self.0.signals.clone(),
            config: config.clone(),
        });
        let service =
            rpc::macp_runtime_service_server::MacpRuntimeServiceServer::new(Service(shared))
                .max_decoding_message_size(config.payload_max.saturating_add(FRAME_EXTRA))
                .max_encoding_message_size(usize::MAX);
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflected = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(weft_macp::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflection = reflected().build_v1().map_err(io::Error::other)?;
        let reflection_alpha = reflected().build_v1alpha().map_err(io::Error::other)?;
        let router = builder
            .add_service(health_service)
            .add_service(reflection)
            .add_service(reflection_alpha)
            .add_service(service);
        let listener = tokio::net::TcpListener::from_std(self.0.listener.try_clone()?)?;
        let mut stop = self.0.stop.subscribe();
        *server = Some(tokio::spawn(async move {
            type Rpc = rpc::macp_runtime_service_server::MacpRuntimeServiceServer<Service>;
            health.set_serving::<Rpc>().await;
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            let served = match asking {
                Some(acceptor) => {
                    let incoming = tls::incoming(listener, acceptor);
                    router.serve_with_incoming_shutdown(incoming, stopped).await
                }
                None => {
                    let incoming = TcpIncoming::from(listener)
                        .with_nodelay(Some(true))
                        .with_keepalive(Some(Duration::from_secs(60)));
                    router.serve_with_incoming_shutdown(incoming, stopped).await
                }
            };
            if let Err(error) = served {
                tracing::error!(%error, "the gRPC server of sessions ended");
            }
        }));
        Ok(())
    }

    /// What it was sent.
    pub(crate) fn counted(&self) -> Arc<counted::Counted> {
        self.0.counted.clone()
    }

    /// A Signal or Progress that another node took.
    pub(crate) fn signalled(&self, envelope: SessionEnvelope, is_authenticated: bool) {
        // Nobody may be watching.
        let _ = self.0.signals.send((convert::envelope(envelope), is_authenticated));
    }

    /// Takes no new requests, and lets those that are there go on for at most `within`.
    pub async fn drain(&self, within: Duration) {
        self.0.stop.send_replace(true);
        let server = self.0.server.lock().take();
        if let Some(mut server) = server
            && tokio::time::timeout(within, &mut server).await.is_err()
        {
            server.abort();
        }
    }
}

/// A server with the limits and the certificate of its configuration, and what accepts clients if
/// they are asked for certificates.
fn server(config: &MacpConfig) -> io::Result<(Server, Option<TlsAcceptor>)> {
    let server = Server::builder()
        .timeout(config.request_timeout)
        .concurrency_limit_per_connection(config.per_connection)
        .max_concurrent_streams(config.streams)
        .http2_keepalive_interval(Some(Duration::from_secs(30)));
    let unusable = |error: &dyn std::fmt::Display| {
        io::Error::other(format!("the certificate or its key cannot be used: {error}"))
    };
    match (&config.tls, config.auth.verifier()) {
        (Some((certificate, key)), Some(verifier)) => {
            let acceptor = tls::acceptor(certificate, key, verifier);
            Ok((server, Some(acceptor.map_err(|error| unusable(&error))?)))
        }
        (Some((certificate, key)), None) => {
            let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
            Ok((server.tls_config(tls).map_err(|error| unusable(&error))?, None))
        }
        (None, _) => Ok((server, None)),
    }
}

impl Drop for Face {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().take() {
            server.abort();
        }
    }
}
