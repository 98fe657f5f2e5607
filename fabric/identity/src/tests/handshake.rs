//! Real rustls handshakes over buffers: who gets in, and what the refused are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    Error, HandshakeKind, ServerConfig, ServerConnection, SignatureScheme,
};
use weft_wire::{Clock, Identity};

use super::{HOUR, MINUTE, NOW, World, bundle, cluster, node, operator};
use crate::tls::Told;
use crate::{
    Credentials, DenyList, Expect, FABRIC_NAME, Fingerprint, IdentityError, IssuingCa, NODE_LIFE,
    PrivateKey, Subject, Trust, Validity, client_config, joiner_client_config, refusal_hint,
    server_config,
};

const ALPN: &[&[u8]] = &[b"weft/1"];

/// What became of a handshake: what each side found.
struct Outcome {
    client: Result<ClientConnection, Error>,
    server: Result<ServerConnection, Error>,
}

impl Outcome {
    fn up(self) -> (ClientConnection, ServerConnection) {
        let client = self.client.expect("the client is content");
        let server = self.server.expect("the server is content");
        assert!(!client.is_handshaking() && !server.is_handshaking());
        (client, server)
    }

    /// What the client found wrong with the server.
    fn client_says(self) -> IdentityErrorRef {
        assert!(matches!(self.server, Err(Error::AlertReceived(_))), "the server is told");
        ours(self.client.expect_err("the client refuses"))
    }

    /// What the server found wrong with the client, and the alert the client got.
    fn server_says(self) -> (Error, AlertDescription) {
        let Err(Error::AlertReceived(alert)) = self.client else { panic!("the client is told") };
        (self.server.expect_err("the server refuses"), alert)
    }
}

struct IdentityErrorRef(Arc<dyn std::error::Error + Send + Sync>);

impl IdentityErrorRef {
    fn get(&self) -> &IdentityError {
        &self.0.downcast_ref::<Told>().expect("one of ours").0
    }
}

fn ours(error: Error) -> IdentityErrorRef {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => IdentityErrorRef(other.0),
        other => panic!("not ours: {other}"),
    }
}

fn shake(client: ClientConfig, server: ServerConfig) -> Outcome {
    let name = ServerName::try_from(FABRIC_NAME).expect("name");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("client");
    let mut server = ServerConnection::new(Arc::new(server)).expect("server");
    let (mut client_error, mut server_error) = (None, None);
    loop {
        let mut there = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut there).expect("buffer");
        }
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).expect("buffer");
        }
        if there.is_empty() && back.is_empty() {
            break;
        }
        let mut bytes = there.as_slice();
        while !bytes.is_empty() && server_error.is_none() {
            server.read_tls(&mut bytes).expect("buffer");
            server_error = server.process_new_packets().err();
        }
        let mut bytes = back.as_slice();
        while !bytes.is_empty() && client_error.is_none() {
            client.read_tls(&mut bytes).expect("buffer");
            client_error = client.process_new_packets().err();
        }
    }
    Outcome {
        client: client_error.map_or(Ok(client), Err),
        server: server_error.map_or(Ok(server), Err),
    }
}

fn server(credentials: &Credentials, trust: &Trust) -> ServerConfig {
    server_config(credentials, trust, ALPN).expect("config")
}

fn client(credentials: &Credentials, trust: &Trust, expect: Expect) -> ClientConfig {
    client_config(Some(credentials), trust, expect, ALPN).expect("config")
}

fn peer_of(server: &ServerConnection, trust: &Trust) -> Identity {
    let leaf = server.peer_certificates().and_then(<[_]>::first).expect("a certificate");
    trust.admit(leaf, trust.clock().wall()).expect("admitted").identity
}

#[test]
fn the_right_peers_see_each_other() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    let (client, server) =
        shake(client(&a, &world.trust, Expect::Node(node(2))), server(&b, &world.trust)).up();
    assert_eq!(peer_of(&server, &world.trust), Identity::Node(node(1)));
    let leaf = client.peer_certificates().and_then(<[_]>::first).expect("a certificate");
    let peer = crate::parse_identity(leaf, world.cluster).expect("identity");
    assert_eq!(peer.identity, Identity::Node(node(2)));
    assert_eq!(client.alpn_protocol(), Some(&b"weft/1"[..]));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn an_operator_reaches_any_node_but_cannot_pass_as_one() {
    let world = World::new(cluster(1));
    let (person, b) = (world.credentials(operator(1)), world.node(2));
    let (_, up) =
        shake(client(&person, &world.trust, Expect::AnyNode), server(&b, &world.trust)).up();
    assert_eq!(peer_of(&up, &world.trust), operator(1));

    let refused = shake(client(&b, &world.trust, Expect::AnyNode), server(&person, &world.trust));
    assert!(matches!(refused.client_says().get(), IdentityError::WrongUsage));
}

#[test]
fn a_service_certificate_does_not_pass_as_a_node() {
    let world = World::new(cluster(1));
    let (a, web) = (world.node(1), world.credentials(Identity::Service("web".into())));
    for expect in [Expect::AnyNode, Expect::Node(node(2))] {
        let refused = shake(client(&a, &world.trust, expect), server(&web, &world.trust));
        assert!(matches!(
            refused.client_says().get(),
            IdentityError::NotANode(_) | IdentityError::OtherPeer { .. }
        ));
    }
}

#[test]
fn a_foreign_ca_is_refused_on_both_sides() {
    let (world, foreign) = (World::new(cluster(1)), World::new(cluster(1)));
    let (ours, theirs) = (world.node(1), foreign.node(2));
    let refused =
        shake(client(&ours, &world.trust, Expect::AnyNode), server(&theirs, &foreign.trust));
    assert!(matches!(refused.client_says().get(), IdentityError::UntrustedIssuer));

    // The intruder believes our server; our server does not believe the intruder.
    let refused =
        shake(client(&theirs, &world.trust, Expect::AnyNode), server(&ours, &world.trust));
    let (error, alert) = refused.server_says();
    assert_eq!(error, CertificateError::UnknownIssuer.into());
    assert_eq!(alert, AlertDescription::UnknownCA);
    assert!(refusal_hint(u8::from(alert)).is_some());
}

#[test]
fn another_cluster_is_refused_even_under_a_trusted_ca() {
    let (world, other) = (World::new(cluster(1)), World::new(cluster(2)));
    let both = bundle(&[&world.ca, &other.ca]);
    world.trust.set_bundle(both.clone()).expect("bundle");
    other.trust.set_bundle(both).expect("bundle");
    let (ours, theirs) = (world.node(1), other.node(2));
    let refused =
        shake(client(&ours, &world.trust, Expect::AnyNode), server(&theirs, &other.trust));
    assert!(matches!(
        refused.client_says().get(),
        IdentityError::OtherCluster { found, expected }
            if (*found, *expected) == (cluster(2), cluster(1))
    ));
    // And from the other side: this time it is the client that is of the wrong cluster, while
    // that client would accept the server (it is told that it is in our cluster).
    let refused =
        shake(client(&theirs, &world.trust, Expect::AnyNode), server(&ours, &world.trust));
    let found = refused.server.expect_err("refused");
    assert!(matches!(self::ours(found).get(), IdentityError::OtherCluster { .. }));
}

#[test]
fn another_node_at_the_address_is_refused_by_name() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    let refused = shake(client(&a, &world.trust, Expect::Node(node(3))), server(&b, &world.trust));
    let error = refused.client_says();
    assert!(matches!(
        error.get(),
        IdentityError::OtherPeer { found: Identity::Node(found), expected }
            if (*found, *expected) == (node(2), node(3))
    ));
    let text = error.get().to_string();
    assert!(text.contains(&node(2).to_string()) && text.contains(&node(3).to_string()), "{text}");
}

#[test]
fn what_people_read_of_a_refusal_is_its_text_and_not_its_fields() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    let refused = shake(client(&a, &world.trust, Expect::Node(node(3))), server(&b, &world.trust));
    let error = refused.client.expect_err("refused");
    let shown = error.to_string();
    let words = ours(error).get().to_string();
    assert!(shown.contains(&words), "{shown}");
    assert!(!shown.contains("OtherPeer"), "{shown}");
}

#[test]
fn an_expired_certificate_is_refused_on_both_sides() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    world.clock.advance(NODE_LIFE + MINUTE);
    let refused = shake(client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust));
    assert!(matches!(refused.client_says().get(), IdentityError::Expired { .. }));

    // Only the client's is expired: it lives one hour.
    let world = World::new(cluster(1));
    let key = PrivateKey::generate().expect("key");
    let subject = Subject { cluster: world.cluster, identity: Identity::Node(node(1)) };
    let short = Validity::starting(NOW, HOUR);
    let chain = world.ca.sign_csr(&key.csr().expect("csr"), &subject, short).expect("issued");
    let a = Credentials::new(&chain, &key).expect("credentials");
    let b = world.node(2);
    world.clock.advance(HOUR - MINUTE);
    shake(client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust)).up();
    world.clock.advance(2 * MINUTE);
    let (error, alert) =
        shake(client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust)).server_says();
    assert!(
        matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })),
        "{error}"
    );
    assert_eq!(alert, AlertDescription::CertificateExpired);
}

#[test]
fn a_clock_far_behind_is_told_so_and_five_minutes_are_tolerated() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    world.clock.set_wall(NOW.minus(5 * MINUTE));
    shake(client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust)).up();
    world.clock.set_wall(NOW.minus(15 * MINUTE));
    let refused = shake(client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust));
    let error = refused.client_says();
    assert!(matches!(error.get(), IdentityError::NotYetValid { .. }));
    assert!(error.get().to_string().contains("10 min 0 s"), "{}", error.get());
}

#[test]
fn a_denied_id_is_refused_at_once_on_both_sides() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    let (client_config, server_config) =
        (client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust));
    shake(client_config.clone(), server_config.clone()).up();

    world.trust.deny(&Identity::Node(node(1)));
    let lenient =
        Trust::new(world.cluster, bundle(&[&world.ca]), DenyList::new(), world.clock.clone())
            .expect("trust");
    let (error, alert) =
        shake(client(&a, &lenient, Expect::AnyNode), server_config.clone()).server_says();
    assert_eq!(error, CertificateError::Revoked.into());
    assert_eq!(alert, AlertDescription::CertificateRevoked);
    assert!(refusal_hint(u8::from(alert)).is_some_and(|hint| hint.contains("removed")));

    let refused = shake(client(&b, &world.trust, Expect::Node(node(1))), server(&a, &lenient));
    assert!(matches!(
        refused.client_says().get(),
        IdentityError::Denied(Identity::Node(id)) if *id == node(1)
    ));
    assert!(matches!(world.trust.admit(&a.chain().leaf, NOW), Err(IdentityError::Denied(_))));
    world.trust.set_denied(DenyList::new());
    shake(client_config, server_config).up();
}

#[test]
fn without_a_certificate_one_gets_in_as_nobody() {
    let world = World::new(cluster(1));
    let anonymous = client_config(None, &world.trust, Expect::AnyNode, ALPN).expect("config");
    let (_, server) = shake(anonymous, server(&world.node(2), &world.trust)).up();
    assert!(server.peer_certificates().is_none(), "whoever accepts must close this one");
}

#[test]
fn a_stolen_certificate_without_its_key_is_refused() {
    let world = World::new(cluster(1));
    let (stolen, mine) = (world.node(1).chain(), PrivateKey::generate().expect("key"));
    assert!(matches!(Credentials::new(&stolen, &mine), Err(IdentityError::KeyMismatch { .. })));
    // An intruder's rustls would not check: the signature in the handshake does.
    let signer = crate::tls::provider().key_provider.load_private_key(mine.der()).expect("key");
    let chain = vec![CertificateDer::from(stolen.leaf), CertificateDer::from(stolen.issuer)];
    let forged = Arc::new(rustls::sign::CertifiedKey::new(chain, signer));
    let mut config = client_config(None, &world.trust, Expect::AnyNode, ALPN).expect("config");
    config.client_auth_cert_resolver = Arc::new(Always(forged));
    let refused = shake(config, server(&world.node(2), &world.trust));
    assert_eq!(
        refused.server.expect_err("refused"),
        Error::InvalidCertificate(CertificateError::BadSignature)
    );
}

#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_rotation_takes_effect_on_the_next_handshake() {
    let world = World::new(cluster(1));
    let key = PrivateKey::generate().expect("key");
    let first = world.issue(&key, Identity::Node(node(2)));
    let b = Credentials::new(&first, &key).expect("credentials");
    let a = world.node(1);
    let (client_config, server_config) =
        (client(&a, &world.trust, Expect::Node(node(2))), server(&b, &world.trust));
    let presented = |config: &(ClientConfig, ServerConfig)| {
        let (client, _) = shake(config.0.clone(), config.1.clone()).up();
        client.peer_certificates().expect("certificates")[0].to_vec()
    };
    let configs = (client_config, server_config);
    assert_eq!(presented(&configs), first.leaf);

    world.clock.advance(16 * HOUR);
    assert!(b.renew_at() <= world.clock.wall(), "two thirds of the life are over");
    let subject = Subject { cluster: world.cluster, identity: Identity::Node(node(2)) };
    let validity = Validity::node(world.clock.wall());
    let second = world.ca.sign_csr(&key.csr().expect("csr"), &subject, validity).expect("issued");
    b.replace(&second, &key).expect("replaced");
    assert_eq!(presented(&configs), second.leaf);
    assert_ne!(first.inspect().expect("own").serial, second.inspect().expect("own").serial);

    // The client's side of the same handle.
    let back = (client(&b, &world.trust, Expect::AnyNode), server(&a, &world.trust));
    let (_, accepted) = shake(back.0, back.1).up();
    assert_eq!(accepted.peer_certificates().expect("certificates")[0].to_vec(), second.leaf);
}

#[test]
fn a_rotation_never_changes_who_one_is() {
    let world = World::new(cluster(1));
    let b = world.node(2);
    let key = PrivateKey::generate().expect("key");
    let other = world.issue(&key, Identity::Node(node(3)));
    assert!(matches!(b.replace(&other, &key), Err(IdentityError::IdentityChanged { .. })));
    let elsewhere = World::new(cluster(2)).issue(&key, Identity::Node(node(2)));
    assert!(matches!(b.replace(&elsewhere, &key), Err(IdentityError::OtherCluster { .. })));
    assert_eq!(b.own().identity, Identity::Node(node(2)));
}

#[test]
fn removing_a_ca_locks_out_its_leaves_at_once() {
    let (world, second) = (World::new(cluster(1)), World::new(cluster(1)));
    world.trust.set_bundle(bundle(&[&world.ca, &second.ca])).expect("bundle");
    let (a, b) = (second.node(1), world.node(2));
    let only_first =
        Trust::new(world.cluster, bundle(&[&world.ca]), DenyList::new(), world.clock.clone())
            .expect("trust");
    let (client_config, server_config) =
        (client(&a, &only_first, Expect::AnyNode), server(&b, &world.trust));
    shake(client_config.clone(), server_config.clone()).up();

    let mut less = world.trust.bundle();
    assert!(less.remove(&second.ca.fingerprint()));
    world.trust.set_bundle(less).expect("bundle");
    let (error, _) = shake(client_config, server_config).server_says();
    assert_eq!(error, CertificateError::UnknownIssuer.into());
}

#[test]
fn an_empty_bundle_believes_nobody() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    world.trust.set_bundle(crate::TrustBundle::new()).expect("bundle");
    let refused = shake(client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust));
    assert!(matches!(refused.client_says().get(), IdentityError::UntrustedIssuer));
}

#[test]
fn no_session_is_ever_resumed() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    let configs = (client(&a, &world.trust, Expect::AnyNode), server(&b, &world.trust));
    assert_eq!(configs.1.send_tls13_tickets, 0);
    assert_eq!(configs.1.max_early_data_size, 0);
    assert!(!configs.0.enable_early_data);
    for _ in 0..2 {
        let (client, server) = shake(configs.0.clone(), configs.1.clone()).up();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    }
    // Neither does a client that asks for it get a ticket.
    let mut eager = configs.0.clone();
    eager.resumption = rustls::client::Resumption::default();
    for _ in 0..2 {
        let (client, _) = shake(eager.clone(), configs.1.clone()).up();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_tls_1_2_client_is_refused() {
    let world = World::new(cluster(1));
    let old = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("1.2")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    let (error, alert) = shake(old, server(&world.node(2), &world.trust)).server_says();
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");
    assert_eq!(alert, AlertDescription::ProtocolVersion);
}

#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn a_protocol_nobody_speaks_fails_the_handshake() {
    let world = World::new(cluster(1));
    let (a, b) = (world.node(1), world.node(2));
    let wrong = client_config(Some(&a), &world.trust, Expect::AnyNode, &[b"h3"]).expect("config");
    let (_, alert) = shake(wrong, server(&b, &world.trust)).server_says();
    assert_eq!(alert, AlertDescription::NoApplicationProtocol);
}

fn joiner(world: &World, pinned: &[Fingerprint], cluster: weft_wire::ClusterId) -> ClientConfig {
    let clock: Arc<dyn Clock> = world.clock.clone();
    joiner_client_config(pinned, cluster, ALPN, &clock).expect("config")
}

#[test]
fn a_joiner_believes_the_cluster_of_its_token_and_no_other() {
    let (world, foreign) = (World::new(cluster(1)), World::new(cluster(1)));
    let other_ca = IssuingCa::create(cluster(1), NOW).expect("ca").fingerprint();
    let pinned = [other_ca, world.ca.fingerprint()];
    let b = world.node(2);
    let (_, up) = shake(joiner(&world, &pinned, cluster(1)), server(&b, &world.trust)).up();
    assert!(up.peer_certificates().is_none());

    let wrong_ca =
        shake(joiner(&world, &pinned, cluster(1)), server(&foreign.node(2), &foreign.trust));
    assert!(matches!(wrong_ca.client_says().get(), IdentityError::NotPinned));
    let wrong_cluster = shake(joiner(&world, &pinned, cluster(2)), server(&b, &world.trust));
    assert!(matches!(wrong_cluster.client_says().get(), IdentityError::OtherCluster { .. }));
    let person = world.credentials(operator(1));
    let not_a_node = shake(joiner(&world, &pinned, cluster(1)), server(&person, &world.trust));
    assert!(matches!(not_a_node.client_says().get(), IdentityError::WrongUsage));
}

#[test]
fn showing_the_pinned_ca_beside_a_foreign_leaf_does_not_help() {
    let (world, foreign) = (World::new(cluster(1)), World::new(cluster(1)));
    let key = PrivateKey::generate().expect("key");
    let mut chain = foreign.issue(&key, Identity::Node(node(2)));
    chain.issuer = world.ca.certificate().to_vec();
    let fake = Credentials::new(&chain, &key).expect("credentials");
    let refused =
        shake(joiner(&world, &[world.ca.fingerprint()], cluster(1)), server(&fake, &foreign.trust));
    assert!(matches!(refused.client_says().get(), IdentityError::UntrustedIssuer));
}

#[test]
fn changes_are_announced_and_only_real_ones() {
    let world = World::new(cluster(1));
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    world.trust.on_change(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let clone = world.trust.clone();
    clone.deny(&operator(1));
    clone.deny(&operator(1));
    clone.set_bundle(clone.bundle()).expect("bundle");
    clone.set_denied(clone.denied());
    assert_eq!((calls.load(Ordering::Relaxed), world.trust.revision()), (1, 1));
    assert!(world.trust.is_denied(&operator(1)));
    clone.set_bundle(crate::TrustBundle::new()).expect("bundle");
    assert_eq!((calls.load(Ordering::Relaxed), world.trust.revision()), (2, 2));
    assert!(world.trust.is_denied(&operator(1)), "a new bundle leaves the deny list alone");
}
