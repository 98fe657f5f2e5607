//! What an issuing CA puts into certificates, and what bundles take in.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use weft_wire::{Identity, WallTime, codec};

use super::{HOUR, NOW, World, bundle, cluster, node, operator};
use crate::peer::parse;
use crate::{
    BACKDATE, CA_LIFE, CertificateChain, DenyList, IdentityError, IssuingCa, NODE_LIFE,
    OPERATOR_LIFE, PrivateKey, Subject, TrustBundle, Validity, inspect_identity, parse_identity,
};

fn subject(identity: Identity) -> Subject {
    Subject { cluster: cluster(1), identity }
}

#[test]
fn a_request_that_asks_for_more_gets_neither_ca_nor_names() {
    let world = World::new(cluster(1));
    let pair = KeyPair::generate().expect("key");
    let mut wish = CertificateParams::default();
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wish.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::ServerAuth];
    wish.distinguished_name.push(DnType::CommonName, "evil wish");
    let uri = format!("spiffe://{}/node/{}", cluster(1), node(9));
    wish.subject_alt_names = vec![
        SanType::DnsName("evil.example".try_into().expect("name")),
        SanType::URI(uri.as_str().try_into().expect("uri")),
    ];
    let csr = wish.serialize_request(&pair).expect("csr");
    let chain = world
        .ca
        .sign_csr(csr.der(), &subject(operator(1)), Validity::operator(NOW))
        .expect("issued, for the key alone");

    let peer = parse_identity(&chain.leaf, cluster(1)).expect("identity");
    assert_eq!(peer.identity, operator(1));
    let leaf = parse(&chain.leaf).expect("certificate");
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().expect("usage").expect("there").value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = leaf.extended_key_usage().expect("usage").expect("there").value;
    assert!(extended.client_auth && !extended.server_auth && !extended.any);
    let names = &leaf.subject_alternative_name().expect("names").expect("there").value;
    assert_eq!(names.general_names.len(), 2);
    assert!(!leaf.subject().to_string().contains("evil"));
    assert!(matches!(TrustBundle::new().insert(&chain.leaf), Err(IdentityError::NotACa(_))));

    // And the holder cannot sign a certificate that anybody believes.
    let mut forged = CertificateParams::default();
    forged.subject_alt_names = vec![
        SanType::DnsName(crate::FABRIC_NAME.try_into().expect("name")),
        SanType::URI(uri.as_str().try_into().expect("uri")),
    ];
    let issuer = Issuer::from_ca_cert_der(&chain.leaf.as_slice().into(), &pair).expect("issuer");
    if let Ok(forged) = forged.signed_by(&KeyPair::generate().expect("key"), &issuer) {
        assert!(world.trust.admit(forged.der(), NOW).is_err());
    }
}

#[test]
fn a_leaf_says_who_and_from_when_to_when() {
    let world = World::new(cluster(1));
    let key = PrivateKey::generate().expect("key");
    let chain = world.issue(&key, Identity::Node(node(1)));
    let own = world.trust.admit(&chain.leaf, NOW).expect("admitted");
    assert_eq!(own.identity, Identity::Node(node(1)));
    assert_eq!(own.cluster, cluster(1));
    assert_eq!(own.not_before, NOW.minus(BACKDATE));
    assert_eq!(own.not_after, NOW.plus(NODE_LIFE));
    assert_eq!(own.public_key_fingerprint, key.public_key_fingerprint());
    assert_eq!(own.serial.len(), 16);
    let of = Validity::operator(NOW);
    assert_eq!(of.not_after, NOW.plus(OPERATOR_LIFE));
    assert_eq!(world.ca.not_after(), NOW.plus(CA_LIFE));
    assert!(matches!(
        parse_identity(&chain.leaf, cluster(2)),
        Err(IdentityError::OtherCluster { .. })
    ));
}

#[test]
fn only_nodes_operators_and_services_get_certificates() {
    let world = World::new(cluster(1));
    let csr = PrivateKey::generate().expect("key").csr().expect("csr");
    for who in [
        Identity::Joiner,
        Identity::Local { uid: 0, pid: 1 },
        Identity::Service("../node/x".into()),
        Identity::Service(String::new()),
    ] {
        assert!(matches!(
            world.ca.sign_csr(&csr, &subject(who), Validity::node(NOW)),
            Err(IdentityError::NotCertifiable(_))
        ));
    }
}

#[test]
fn a_leaf_never_outlives_its_ca_and_never_ends_before_it_begins() {
    let world = World::new(cluster(1));
    let csr = PrivateKey::generate().expect("key").csr().expect("csr");
    let who = subject(Identity::Node(node(1)));
    let late = Validity::starting(world.ca.not_after().minus(HOUR), NODE_LIFE);
    let chain = world.ca.sign_csr(&csr, &who, late).expect("issued");
    assert_eq!(chain.inspect().expect("own").not_after, world.ca.not_after());

    let (min, max) = (WallTime::from_micros(i64::MIN), WallTime::from_micros(i64::MAX));
    for (not_before, not_after) in [(NOW, NOW), (NOW, NOW.minus(HOUR)), (min, NOW), (max, max)] {
        let refused = world.ca.sign_csr(&csr, &who, Validity { not_before, not_after });
        assert!(matches!(refused, Err(IdentityError::BadValidity)));
    }
    assert!(matches!(IssuingCa::create(cluster(1), min), Err(IdentityError::BadValidity)));
    assert!(matches!(IssuingCa::create(cluster(1), max), Err(IdentityError::BadValidity)));
}

#[test]
fn a_certificate_with_two_uris_or_none_is_nobodys() {
    let pair = KeyPair::generate().expect("key");
    let uri = |last| {
        let text = format!("spiffe://{}/node/{}", cluster(1), node(last));
        SanType::URI(text.as_str().try_into().expect("uri"))
    };
    let foreign = SanType::URI("https://example.com/".try_into().expect("uri"));
    for (names, count) in
        [(vec![uri(1), uri(2)], 2), (vec![uri(1), foreign.clone()], 2), (vec![], 0)]
    {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let certificate = params.self_signed(&pair).expect("certificate");
        assert!(matches!(
            inspect_identity(certificate.der()),
            Err(IdentityError::UriCount(found)) if found == count
        ));
    }
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![foreign];
    let certificate = params.self_signed(&pair).expect("certificate");
    assert!(matches!(inspect_identity(certificate.der()), Err(IdentityError::BadUri(_))));
}

/// The CA's key in hands that issue what [`IssuingCa`] never would.
fn careless(ca: &IssuingCa) -> Issuer<'static, KeyPair> {
    let directory = tempfile::tempdir().expect("directory");
    let (key, certificate) = (directory.path().join("ca.key"), directory.path().join("ca.crt"));
    ca.save(&key, &certificate).expect("saved");
    let pair = KeyPair::from_pem(&std::fs::read_to_string(key).expect("key")).expect("key");
    Issuer::from_ca_cert_pem(&ca.to_pem(), pair).expect("issuer")
}

/// A node's leaf, with or without the constant name, until `not_after`.
fn careless_leaf(ca: &IssuingCa, named: bool, not_after: WallTime) -> Vec<u8> {
    let uri = format!("spiffe://{}/node/{}", cluster(1), node(1));
    let mut params = CertificateParams::default();
    params.not_before = NOW.to_system().into();
    params.not_after = not_after.to_system().into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().expect("uri"))];
    if named {
        let name = SanType::DnsName(crate::FABRIC_NAME.try_into().expect("name"));
        params.subject_alt_names.push(name);
    }
    let key = KeyPair::generate().expect("key");
    params.signed_by(&key, &careless(ca)).expect("leaf").der().to_vec()
}

#[test]
fn a_leaf_without_the_constant_name_is_refused() {
    let world = World::new(cluster(1));
    let until = NOW.plus(NODE_LIFE);
    let with = careless_leaf(&world.ca, true, until);
    assert!(world.trust.admit(&with, NOW).is_ok(), "the name is all that differs");
    let without = careless_leaf(&world.ca, false, until);
    assert!(matches!(world.trust.admit(&without, NOW), Err(IdentityError::WrongName)));
}

#[test]
fn an_expired_ca_vouches_for_nobody_even_if_its_leaf_is_still_valid() {
    let world = World::new(cluster(1));
    let end = world.ca.not_after();
    let leaf = careless_leaf(&world.ca, true, end.plus(NODE_LIFE));
    assert!(world.trust.admit(&leaf, end).is_ok(), "the CA's last moment");
    assert!(matches!(
        world.trust.admit(&leaf, end.plus(HOUR)),
        Err(IdentityError::UntrustedIssuer)
    ));
}

#[test]
fn a_bundle_is_a_set_that_reads_back() {
    let (a, b) = (World::new(cluster(1)).ca, World::new(cluster(1)).ca);
    let both = bundle(&[&a, &b]);
    assert_eq!(both, bundle(&[&b, &a, &b]));
    assert_eq!(both.fingerprint(), bundle(&[&b, &a]).fingerprint());
    assert_ne!(both.fingerprint(), bundle(&[&a]).fingerprint());
    assert_eq!(both.len(), 2);
    assert!(both.contains(&a.fingerprint()) && both.fingerprints().contains(&b.fingerprint()));
    assert_eq!(TrustBundle::from_pem(&both.to_pem(), "bundle").expect("pem"), both);
    let bytes = codec::encode(&both).expect("encodes");
    assert_eq!(codec::decode::<TrustBundle>(&bytes).expect("decodes"), both);

    let leaf = World::new(cluster(1)).node(1).chain().leaf;
    let bytes = codec::encode(&vec![leaf.clone()]).expect("encodes");
    assert!(codec::decode::<TrustBundle>(&bytes).is_err(), "a leaf is no CA, however it arrives");
    let text = crate::text::pem("CERTIFICATE", &leaf);
    assert!(TrustBundle::from_pem(&text, "bundle").is_err());
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        assert!(matches!(
            TrustBundle::from_pem(bad, "`bundle.pem`"),
            Err(IdentityError::BadPem { what, .. }) if what == "`bundle.pem`"
        ));
    }
}

#[test]
fn a_deny_list_travels_in_one_order() {
    let list: DenyList = (0..9).map(|n| Identity::Node(node(n))).chain([operator(1)]).collect();
    let again: DenyList = Vec::from(list.clone()).into_iter().rev().collect();
    assert_eq!(list, again);
    let bytes = codec::encode(&list).expect("encodes");
    assert_eq!(bytes, codec::encode(&again).expect("encodes"));
    assert_eq!(codec::decode::<DenyList>(&bytes).expect("decodes"), list);
}

#[test]
fn a_chain_reads_back_from_pem_and_from_the_wire() {
    let chain = World::new(cluster(1)).node(1).chain();
    assert_eq!(CertificateChain::from_pem(&chain.to_pem(), "chain").expect("pem"), chain);
    let bytes = codec::encode(&chain).expect("encodes");
    assert_eq!(codec::decode::<CertificateChain>(&bytes).expect("decodes"), chain);
    let leaf_only = crate::text::pem("CERTIFICATE", &chain.leaf);
    assert!(CertificateChain::from_pem(&leaf_only, "chain").is_err());
}
