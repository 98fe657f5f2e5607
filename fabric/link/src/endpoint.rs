//! The QUIC endpoint: who is let in, and how a peer is dialled.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use weft_identity::{
    Credentials, Expect, FABRIC_NAME, PeerIdentity, Trust, client_config, parse_identity,
    server_config,
};
use weft_wire::{Identity, NodeId};

use crate::LinkError;
use crate::error::{close, explain};
use crate::fabric::Inner;
use crate::hello::{Hello, read_hello, refuse_hello, write_hello};
use crate::link::{Limits, Link};
use crate::reader::FrameReader;
use crate::serve::serve_join;

/// ALPN of links between nodes, and of operators and services.
pub const ALPN_LINK: &[u8] = b"weft/1";
/// ALPN of the anonymous door for joiners.
pub const ALPN_JOIN: &[u8] = b"weft-join/1";

/// Handshakes under way at once; more are refused before any TLS work.
const HANDSHAKES: usize = 256;
/// Sources whose failed joins are remembered.
const SOURCES: usize = 4096;
/// A joiner waits no longer for its answer.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// No stream takes more unread bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes sent and not acknowledged, for a whole connection.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;
/// Largest datagram looked for, in bytes; the path decides. quinn hands the kernel ten at a time,
/// which must stay below 64 KiB together: more is dropped without a word.
const MTU_MAX: u16 = 6500;

/// Where and as whom a fabric listens.
pub struct ListenConfig {
    /// Address to bind; port 0 asks the OS.
    pub bind: SocketAddr,
    /// This node's certificate and key.
    pub credentials: Credentials,
    /// Whom it believes.
    pub trust: Trust,
}

/// The endpoint and what dialling needs.
pub(crate) struct Net {
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    pub(crate) trust: Trust,
    pub(crate) handle: Handle,
    /// As bound last.
    pub(crate) address: Mutex<SocketAddr>,
    transport: Arc<TransportConfig>,
}

/// How connections behave, on both ends.
pub(crate) fn transport(limits: &Limits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    transport
        .max_concurrent_bidi_streams((limits.streams + 3).into())
        .max_concurrent_uni_streams(limits.streams.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .send_window(SEND_WINDOW)
        .keep_alive_interval(Some(limits.keep_alive))
        .max_idle_timeout(quinn::IdleTimeout::try_from(limits.idle).ok())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery));
    transport
}

/// What an endpoint accepts from the network.
fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    let _ = config.max_udp_payload_size(MTU_MAX);
    config
}

/// An endpoint that only dials.
pub(crate) fn client_endpoint(to: SocketAddr) -> Result<Endpoint, LinkError> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::new(any, 0);
    let bind = |error: std::io::Error| LinkError::Bind { address, reason: error.to_string() };
    let socket = UdpSocket::bind(address).map_err(bind)?;
    Endpoint::new(endpoint_config(), None, socket, Arc::new(quinn::TokioRuntime)).map_err(bind)
}

/// Dials and completes the TLS handshake.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    tls: rustls::ClientConfig,
    transport: Arc<TransportConfig>,
    address: SocketAddr,
    within: Duration,
) -> Result<Connection, LinkError> {
    let crypto =
        QuicClientConfig::try_from(tls).map_err(|error| LinkError::Tls(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport);
    let connecting = endpoint
        .connect_with(config, address, FABRIC_NAME)
        .map_err(|error| LinkError::Refused(format!("cannot dial {address}: {error}")))?;
    match tokio::time::timeout(within, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => {
            Err(LinkError::NoAnswer(address.to_string(), within.as_millis()))
        }
        Ok(Err(error)) => Err(LinkError::Refused(explain(&error))),
    }
}

/// The peer's leaf certificate, and whose it is.
pub(crate) fn peer_of(
    connection: &Connection,
    trust: &Trust,
) -> Result<Option<(Vec<u8>, PeerIdentity)>, LinkError> {
    let Some(identity) = connection.peer_identity() else { return Ok(None) };
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| LinkError::Tls("the peer's certificates cannot be read".into()))?;
    let Some(leaf) = chain.first() else { return Ok(None) };
    let peer = parse_identity(leaf, trust.cluster())
        .map_err(|error| LinkError::Refused(error.to_string()))?;
    Ok(Some((leaf.to_vec(), peer)))
}

/// Says hello first and waits for the peer's. What ended the connection meanwhile is the better
/// reason.
pub(crate) async fn greet(
    connection: &Connection,
    hello: &Hello,
    within: Duration,
) -> Result<Hello, LinkError> {
    let exchange = async {
        let (mut write, read) =
            connection.open_bi().await.map_err(|error| LinkError::Refused(explain(&error)))?;
        write_hello(&mut write, hello).await?;
        let _ = write.finish();
        read_hello(&mut FrameReader::new(read, 0)).await
    };
    match tokio::time::timeout(within, exchange).await {
        Ok(Ok(hello)) => Ok(hello),
        Ok(Err(error)) => Err(match connection.close_reason() {
            Some(reason) => LinkError::Refused(explain(&reason)),
            None => error,
        }),
        Err(_) => {
            Err(LinkError::NoAnswer(connection.remote_address().to_string(), within.as_millis()))
        }
    }
}

/// Failed joins of the last minute, by source address.
#[derive(Default)]
struct FailedJoins(Mutex<HashMap<IpAddr, (u32, Option<Instant>)>>);

impl FailedJoins {
    fn is_shut_out(&self, source: IpAddr, most: u32) -> bool {
        let mut table = self.0.lock();
        table.retain(|_, (_, since)| {
            since.is_some_and(|since| since.elapsed() < Duration::from_secs(60))
        });
        table.get(&source).is_some_and(|(count, _)| *count >= most)
    }

    fn failed(&self, source: IpAddr) {
        let mut table = self.0.lock();
        if table.len() < SOURCES || table.contains_key(&source) {
            let entry = table.entry(source).or_default();
            entry.0 += 1;
            entry.1.get_or_insert_with(Instant::now);
        }
    }
}

impl Inner {
    /// Binds, and lets peers in from now on.
    pub(crate) fn start_listening(
        self: &Arc<Self>,
        config: ListenConfig,
    ) -> Result<SocketAddr, LinkError> {
        let ListenConfig { bind, credentials, trust } = config;
        if self.peers.net.get().is_some() {
            return Err(LinkError::State("this fabric listens already"));
        }
        let handle =
            Handle::try_current().map_err(|_| LinkError::State("listening needs a runtime"))?;
        let own = credentials.own();
        if own.identity != Identity::Node(self.config.node) || own.cluster != trust.cluster() {
            return Err(LinkError::Tls(format!(
                "the certificate is `{}` of cluster {}, this is node {} of cluster {}",
                own.identity,
                own.cluster,
                self.config.node,
                trust.cluster()
            )));
        }
        let tls = server_config(&credentials, &trust, &[ALPN_LINK, ALPN_JOIN])
            .map_err(|error| LinkError::Tls(error.to_string()))?;
        let crypto =
            QuicServerConfig::try_from(tls).map_err(|error| LinkError::Tls(error.to_string()))?;
        let transport = Arc::new(transport(&self.limits));
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport.clone()).max_incoming(4 * HANDSHAKES);
        let failed =
            |error: std::io::Error| LinkError::Bind { address: bind, reason: error.to_string() };
        let socket = UdpSocket::bind(bind).map_err(failed)?;
        let endpoint =
            Endpoint::new(endpoint_config(), Some(server), socket, Arc::new(quinn::TokioRuntime))
                .map_err(failed)?;
        let address = endpoint.local_addr().map_err(failed)?;
        let look = self.peers.look.clone();
        trust.on_change(move || look.notify_one());
        let net = Net {
            endpoint: endpoint.clone(),
            credentials,
            trust,
            handle: handle.clone(),
            address: Mutex::new(address),
            transport,
        };
        if self.peers.net.set(net).is_err() {
            return Err(LinkError::State("this fabric listens already"));
        }
        let closing = self.peers.closing.clone();
        handle.spawn(Self::watch_links(
            Arc::downgrade(self),
            self.peers.look.clone(),
            closing.clone(),
        ));
        let accepting = accept(Arc::downgrade(self), endpoint);
        handle.spawn(async move {
            tokio::select! {
                () = accepting => {}
                () = closing.cancelled() => {}
            }
        });
        Ok(address)
    }

    /// Goes on at another address.
    pub(crate) fn move_to(&self, bind: SocketAddr) -> Result<SocketAddr, LinkError> {
        let net = self.peers.net.get().ok_or(LinkError::State("this fabric does not listen"))?;
        let failed =
            |error: std::io::Error| LinkError::Bind { address: bind, reason: error.to_string() };
        let socket = UdpSocket::bind(bind).map_err(failed)?;
        // `rebind` registers the socket with the runtime it is called on.
        let _entered = net.handle.enter();
        let address = socket.local_addr().map_err(failed)?;
        net.endpoint.rebind(socket).map_err(failed)?;
        *net.address.lock() = address;
        // Whoever dialled this node listens to its old address only. What this node dialled moves.
        for link in self.links().iter().filter(|link| !link.dialled) {
            link.close(close::MOVED, "this node has another address now");
        }
        self.peers.look.notify_one();
        Ok(address)
    }

    /// This node's hello.
    pub(crate) fn hello(&self, supersedes: u32) -> Hello {
        let name = &self.config.name;
        Hello {
            cluster: Some(self.cluster),
            node: Some(self.config.node),
            instance: self.instance,
            supersedes,
            ..Hello::of_build(name, &self.version, self.clock.0.wall())
        }
    }

    /// Dials a node; the link is up, but not yet registered, when this returns.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        net: &Net,
        node: NodeId,
        address: SocketAddr,
        supersedes: u32,
    ) -> Result<Arc<Link>, LinkError> {
        let tls =
            client_config(Some(&net.credentials), &net.trust, Expect::Node(node), &[ALPN_LINK])
                .map_err(|error| LinkError::Tls(error.to_string()))?;
        let own_serial = net.credentials.own().serial;
        let within = self.limits.handshake;
        let connection =
            connect(&net.endpoint, tls, net.transport.clone(), address, within).await?;
        let made = async {
            let (leaf, peer) = peer_of(&connection, &net.trust)?
                .ok_or_else(|| LinkError::Tls("the peer has no certificate".into()))?;
            let hello = greet(&connection, &self.hello(supersedes), within).await?;
            hello.check(Some(self.cluster), &peer.identity)?;
            Ok((leaf, peer, hello))
        };
        match made.await {
            Ok((leaf, peer, hello)) => {
                let own = (&self.limits, &net.handle, self.clock.0.wall());
                let proven = (leaf, peer);
                Ok(Link::new(connection, proven, hello, own_serial, Some(supersedes), own))
            }
            Err(error) => {
                let error: LinkError = error;
                connection.close(close::HELLO, error.to_string().as_bytes());
                Err(error)
            }
        }
    }

    /// Lets one connection in, or not.
    async fn admit_connection(
        self: &Arc<Self>,
        incoming: Incoming,
        joins: &FailedJoins,
    ) -> Result<(), LinkError> {
        let Some(net) = self.peers.net.get() else { return Ok(()) };
        let within = self.limits.handshake;
        let source = incoming.remote_address();
        let refused = |error: quinn::ConnectionError| LinkError::Refused(explain(&error));
        let connecting = incoming.accept().map_err(refused)?;
        let connection = tokio::time::timeout(within, connecting)
            .await
            .map_err(|_| LinkError::NoAnswer(source.to_string(), within.as_millis()))?
            .map_err(refused)?;
        let own_serial = net.credentials.own().serial;
        let alpn = connection
            .handshake_data()
            .and_then(|data| data.downcast::<HandshakeData>().ok())
            .and_then(|data| data.protocol);
        if alpn.as_deref() == Some(ALPN_JOIN) {
            return self.join_door(&connection, joins).await;
        }
        let fail = |code: VarInt, error: LinkError| {
            connection.close(code, error.to_string().as_bytes());
            error
        };
        let found = peer_of(&connection, &net.trust).map_err(|error| fail(close::DENIED, error))?;
        let Some((leaf, peer)) = found else {
            let why = "the peer wants a certificate and we have none; join or log in first";
            return Err(fail(close::NO_IDENTITY, LinkError::Refused(why.into())));
        };
        if self.directory.load().is_denied(&peer.identity) {
            let why = format!("{} was removed from the cluster", peer.identity);
            return Err(fail(close::DENIED, LinkError::Refused(why)));
        }
        let greeted = tokio::time::timeout(within, async {
            let (mut write, read) = connection.accept_bi().await.map_err(refused)?;
            let hello = read_hello(&mut FrameReader::new(read, 0)).await?;
            if let Err(error) = hello.check(Some(self.cluster), &peer.identity) {
                refuse_hello(&mut write, &error).await;
                let _ = write.finish();
                let _ = tokio::time::timeout(within, write.stopped()).await;
                return Err(error);
            }
            Ok((write, hello))
        })
        .await
        .unwrap_or_else(|_| Err(LinkError::NoAnswer(source.to_string(), within.as_millis())));
        let (mut write, hello) = greeted.map_err(|error| fail(close::HELLO, error))?;
        let own = (&self.limits, &net.handle, self.clock.0.wall());
        let link = Link::new(connection, (leaf, peer), hello, own_serial, None, own);
        // The peer may ask as soon as it has our hello: be ready before.
        self.register(&link);
        let said = write_hello(&mut write, &self.hello(0)).await;
        let _ = write.finish();
        if said.is_ok() {
            // Dropping the stream before it is read would be no harm, but closing would.
            let _ = tokio::time::timeout(within, write.stopped()).await;
        }
        said
    }

    /// One ask for a joiner.
    async fn join_door(
        self: &Arc<Self>,
        connection: &Connection,
        joins: &FailedJoins,
    ) -> Result<(), LinkError> {
        let source = connection.remote_address().ip();
        if joins.is_shut_out(source, self.limits.failed_joins) {
            let why = "too many failed joins from this address: try again in a minute";
            connection.close(close::RATE, why.as_bytes());
            return Err(LinkError::Refused(why.into()));
        }
        let within = self.limits.handshake;
        let served = async {
            let (write, read) = tokio::time::timeout(within, connection.accept_bi())
                .await
                .map_err(|_| LinkError::NoAnswer(source.to_string(), within.as_millis()))?
                .map_err(|error| LinkError::Refused(explain(&error)))?;
            serve_join(self, write, read, JOIN_WITHIN, || joins.failed(source))
                .await
                .map_err(|error| LinkError::Protocol(error.to_string()))
        }
        .await;
        if matches!(served, Err(LinkError::Protocol(_))) {
            joins.failed(source);
        }
        let code =
            if matches!(served, Err(LinkError::Protocol(_))) { close::LIE } else { close::DONE };
        connection.close(code, b"one ask a connection");
        served
    }
}

async fn accept(inner: Weak<Inner>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let joins = Arc::new(FailedJoins::default());
    while let Some(incoming) = endpoint.accept().await {
        let Ok(turn) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let Some(inner) = inner.upgrade() else { return };
        let joins = joins.clone();
        tokio::spawn(async move {
            let source = incoming.remote_address();
            if let Err(error) = inner.admit_connection(incoming, &joins).await {
                tracing::warn!(target: "weft::link", %source, %error, "connection refused");
            }
            drop(turn);
        });
    }
}
