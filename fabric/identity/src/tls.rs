//! Ready rustls configurations: TLS 1.3 only, no tickets, no resumption, ring (dependencies §9).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use webpki::KeyUsage;
use weft_wire::{Clock, ClusterId, Identity, NodeId, WallTime};

use crate::ca::require_ca;
use crate::trust::{anchor, from_unix, to_unix, verify_leaf};
use crate::{Credentials, Fingerprint, IdentityError, PeerIdentity, Trust};

/// Whom a dial must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// This node and no other; for every dial of a peer.
    Node(NodeId),
    /// Any node of the cluster; for operators, and for renewal over the join door.
    AnyNode,
}

impl Expect {
    fn check(self, peer: &PeerIdentity) -> Result<(), IdentityError> {
        match (self, &peer.identity) {
            (Self::AnyNode, Identity::Node(_)) => Ok(()),
            (Self::AnyNode, other) => Err(IdentityError::NotANode(other.clone())),
            (Self::Node(expected), Identity::Node(found)) if *found == expected => Ok(()),
            (Self::Node(expected), other) => {
                Err(IdentityError::OtherPeer { found: other.clone(), expected })
            }
        }
    }
}

/// A server's configuration. It asks for a client certificate but does not insist, because the
/// join door is anonymous: **whoever accepts must close every other connection that has none.**
///
/// # Errors
/// [`IdentityError::Crypto`], if the cryptographic provider lacks TLS 1.3.
pub fn server_config(
    credentials: &Credentials,
    trust: &Trust,
    alpn: &[&[u8]],
) -> Result<ServerConfig, IdentityError> {
    let provider = provider();
    let verifier = PeerVerifier { trust: trust.clone(), expect: None, provider: provider.clone() };
    let mut config = ServerConfig::builder_with_details(provider, clock(trust.clock()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| IdentityError::crypto("set up TLS", e))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(credentials.clone()));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // A resumed session would outlive a rotation and a removed CA.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// What certificates of clients are checked with at a door that is not the fabric's: as there, only
/// over TLS 1.3, and a client may have none.
pub fn client_verifier(trust: &Trust) -> Arc<dyn ClientCertVerifier> {
    Arc::new(PeerVerifier { trust: trust.clone(), expect: None, provider: provider() })
}

/// A client's configuration. The server name of the dial is [`crate::FABRIC_NAME`]. Without
/// credentials it stays anonymous, which only the join door accepts; a node whose certificate has
/// expired renews that way, since an expired certificate is refused at every door.
///
/// # Errors
/// [`IdentityError::Crypto`], if the cryptographic provider lacks TLS 1.3.
pub fn client_config(
    credentials: Option<&Credentials>,
    trust: &Trust,
    expect: Expect,
    alpn: &[&[u8]],
) -> Result<ClientConfig, IdentityError> {
    let verifier =
        PeerVerifier { trust: trust.clone(), expect: Some(expect), provider: provider() };
    build_client(credentials, Arc::new(verifier), trust.clock(), alpn)
}

/// A joiner's configuration: no certificate of its own, no bundle yet. The server is believed if
/// it presents an issuing CA whose fingerprint is `pinned` (from the join token), that CA issued
/// its leaf, and the leaf is a node's of `cluster`.
///
/// # Errors
/// [`IdentityError::Crypto`], if the cryptographic provider lacks TLS 1.3.
pub fn joiner_client_config(
    pinned: &[Fingerprint],
    cluster: ClusterId,
    alpn: &[&[u8]],
    time: &Arc<dyn Clock>,
) -> Result<ClientConfig, IdentityError> {
    let pinned = pinned.iter().copied().collect();
    let verifier = PinnedVerifier { pinned, cluster, provider: provider() };
    build_client(None, Arc::new(verifier), time, alpn)
}

/// What a peer's refusal means, by the TLS alert it sent (RFC 8446, 6.2; over QUIC the low byte of
/// error codes 0x100 to 0x1ff). `None` for alerts that this crate does not cause.
pub const fn refusal_hint(alert: u8) -> Option<&'static str> {
    match alert {
        44 => Some(
            "the peer refused our certificate: its id was removed from the cluster; join under a new id",
        ),
        45 => Some(
            "the peer refused our certificate: it has expired or is not valid yet; renew it (operators: `weft login`) and check this machine's clock",
        ),
        48 => Some(
            "the peer refused our certificate: its issuing CA is not in the peer's trust bundle; this is another cluster, or the CA was removed",
        ),
        46 | 42 | 49 => Some("the peer refused our certificate; its log says why"),
        70 => Some("the peer speaks only TLS 1.3"),
        116 => Some("the peer wants a certificate and we have none; join or log in first"),
        120 => Some(
            "the peer does not speak this protocol: it is not a Weft node, or a version too far from ours",
        ),
        _ => None,
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn build_client(
    credentials: Option<&Credentials>,
    verifier: Arc<dyn ServerCertVerifier>,
    time: &Arc<dyn Clock>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, IdentityError> {
    let builder = ClientConfig::builder_with_details(provider(), clock(time))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| IdentityError::crypto("set up TLS", e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(Arc::new(credentials.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}

struct ClockTime(Arc<dyn Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(to_unix(self.0.wall()))
    }
}

fn clock(time: &Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
    Arc::new(ClockTime(Arc::clone(time)))
}

/// On a client the person who needs the reason is here: our own words.
fn told_here(error: IdentityError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Told(error)))).into()
}

/// rustls shows what it does not know with `{:?}`, and that reaches people: they are to read the
/// error's own words, not the names of its fields.
pub(crate) struct Told(pub(crate) IdentityError);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Told {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// On a server the person who needs the reason is at the other end, and an alert is all that gets
/// there: rustls derives it from these variants (see [`refusal_hint`]).
fn told_there(error: IdentityError) -> rustls::Error {
    match error {
        IdentityError::Expired { not_after, now } => {
            CertificateError::ExpiredContext { time: to_unix(now), not_after: to_unix(not_after) }
                .into()
        }
        IdentityError::NotYetValid { not_before, now } => CertificateError::NotValidYetContext {
            time: to_unix(now),
            not_before: to_unix(not_before),
        }
        .into(),
        IdentityError::UntrustedIssuer => CertificateError::UnknownIssuer.into(),
        IdentityError::Denied(_) => CertificateError::Revoked.into(),
        other => told_here(other),
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, cert, dss, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Believes what [`Trust`] believes at the moment of the handshake.
#[derive(Debug)]
struct PeerVerifier {
    trust: Trust,
    /// Whom a client dialled; `None` on a server.
    expect: Option<Expect>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name of the dial is not asked: the leaf must bear the constant one.
        self.trust
            .judge(end_entity, KeyUsage::server_auth(), from_unix(now))
            .and_then(|peer| self.expect.unwrap_or(Expect::AnyNode).check(&peer))
            .map_err(told_here)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: the set changes while this is borrowed, and every client has one certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust
            .judge(end_entity, KeyUsage::client_auth(), from_unix(now))
            .map_err(told_there)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// Believes a node whose issuing CA is named by fingerprint.
#[derive(Debug)]
struct PinnedVerifier {
    pinned: BTreeSet<Fingerprint>,
    cluster: ClusterId,
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    fn judge(
        &self,
        leaf: &[u8],
        sent: &[CertificateDer<'_>],
        now: WallTime,
    ) -> Result<(), IdentityError> {
        let issuer = sent
            .iter()
            .find(|der| self.pinned.contains(&Fingerprint::of(der)))
            .ok_or(IdentityError::NotPinned)?;
        require_ca(issuer)?;
        let anchors = [anchor(issuer)?];
        let peer = verify_leaf(leaf, &anchors, KeyUsage::server_auth(), self.cluster, now)?;
        Expect::AnyNode.check(&peer)
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, from_unix(now)).map_err(told_here)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
