//! Tests of who calls.

use serde_json::json;

use super::testing::{Issuer, claims, clock};
use super::*;

/// Who calls, with this metadata.
async fn ask(auth: &Auth, metadata: MetadataMap) -> Result<Caller, SessionRefusal> {
    let proof = Proof { metadata, certificates: None };
    auth.caller(&proof, &clock()).await
}

fn tokens(json: &str) -> Auth {
    Auth::bearer(None, Some(Tokens::read("test", json).expect("reads")))
}

fn with(name: &'static str, value: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert(name, value.parse().expect("ASCII"));
    metadata
}

#[tokio::test]
async fn a_static_token_gives_its_senders_rights_and_no_other() {
    let json = r#"{"tokens":[{"token":"t1","sender":"agent://a","max_open_sessions":2},
        {"token":"t2","sender":"agent://o","is_observer":true,"can_start_sessions":false}]}"#;
    let auth = tokens(json);
    let one = ask(&auth, with("authorization", "Bearer t1")).await.expect("known");
    assert_eq!((one.rights.sender.as_str(), one.rights.max_open_sessions), ("agent://a", Some(2)));
    assert!(one.rights.can_start_sessions && !one.rights.is_observer && one.is_authenticated);
    let two = ask(&auth, with("x-macp-token", "t2")).await.expect("known");
    assert!(two.rights.is_observer && !two.rights.can_start_sessions);
    for refused in ["Bearer t3", "bearer t1", "t1", "Bearer "] {
        let code = ask(&auth, with("authorization", refused)).await.expect_err("refused").code;
        assert_eq!(code, "UNAUTHENTICATED", "{refused}");
    }
    assert!(ask(&auth, MetadataMap::new()).await.is_err());
}

#[test]
fn a_list_is_read_too_and_a_wrong_document_says_what_it_should_be() {
    assert!(Tokens::read("t", r#"[{"token":"a","sender":"s"}]"#).is_ok());
    for wrong in ["{}", "nonsense", r#"[{"token":"a"}]"#, r#"[{"token":"a.b","sender":"s"}]"#] {
        let error = Tokens::read("MACP_AUTH_TOKENS_JSON", wrong).expect_err("refused").to_string();
        assert!(error.starts_with("MACP_AUTH_TOKENS_JSON: "), "{error}");
    }
}

#[tokio::test]
async fn in_development_the_token_is_the_sender_and_the_header_only_if_it_is_trusted() {
    let auth = Auth::development(false);
    let caller = ask(&auth, with("authorization", "Bearer agent://x")).await.expect("anybody");
    assert_eq!(caller.rights.sender, "agent://x");
    assert!(caller.rights.can_manage_mode_registry && !caller.rights.is_observer);
    assert!(!caller.is_authenticated);
    assert!(ask(&auth, with("x-macp-sender", "agent://y")).await.is_err());
    let trusting = Auth::development(true);
    let caller = ask(&trusting, with("x-macp-sender", "agent://y")).await.expect("trusted");
    assert_eq!(caller.rights.sender, "agent://y");
}

#[tokio::test]
async fn who_claims_a_credential_decides_and_nobody_is_asked_after_that() {
    let issuer = Issuer::new();
    let config = JwtConfig {
        issuer: "https://issuer".into(),
        audience: "macp-runtime".into(),
        algorithms: vec!["ES256".into()],
        keys: KeySource::Inline(issuer.jwks()),
        ttl: std::time::Duration::from_secs(300),
    };
    let jwt = Jwt::new(config, &clock()).expect("keys");
    let list = r#"[{"token":"t1","sender":"agent://static","max_open_sessions":2}]"#;
    let list = Tokens::read("test", list).expect("reads");
    let auth = Auth::bearer(Some(jwt), Some(list)).max_open_sessions(Some(9));
    let good = issuer.sign("ES256", &claims());
    let bad = issuer.sign("EdDSA", &claims());
    let of = |name: &'static str, value: &str| {
        let metadata = with(name, value);
        let auth = &auth;
        async move {
            let rights = ask(auth, metadata).await.map(|caller| caller.rights);
            rights.map(|rights| (rights.sender, rights.max_open_sessions)).ok()
        }
    };
    let signed = Some(("agent://a".to_owned(), Some(9)));
    let known = Some(("agent://static".to_owned(), Some(2)));
    assert_eq!(of("authorization", &format!("Bearer {good}")).await, signed);
    assert_eq!(of("authorization", "Bearer t1").await, known);
    assert_eq!(of("x-macp-token", "t1").await, known);
    assert_eq!(of("authorization", &format!("Bearer {bad}")).await, None);
    // Tokens of an issuer come in the one header that is theirs.
    assert_eq!(of("x-macp-token", &good).await, None);
    // A bad one is not passed over for a good one of another kind.
    let mut both = with("authorization", &format!("Bearer {bad}"));
    both.insert("x-macp-token", "t1".parse().expect("ASCII"));
    assert!(ask(&auth, both).await.is_err());
    let mut claims = claims();
    claims["macp_scopes"] = json!({ "max_open_sessions": 1 });
    let limited = issuer.sign("ES256", &claims);
    let limited = of("authorization", &format!("Bearer {limited}")).await;
    assert_eq!(limited, Some(("agent://a".to_owned(), Some(1))));
}

#[tokio::test]
async fn without_tokens_of_either_kind_nobody_is_let_in() {
    let auth = Auth::bearer(None, None);
    assert!(ask(&auth, with("authorization", "Bearer agent://x")).await.is_err());
    let error = ask(&auth, with("authorization", "Bearer a.b.c")).await.expect_err("refused");
    assert_eq!(error.code, "UNAUTHENTICATED");
}

/// Believes the one certificate that it is told of.
struct One(&'static [u8]);

impl Certificates for One {
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(rustls::server::NoClientAuth)
    }

    fn holder(&self, certificate: &[u8]) -> Option<Holder> {
        (certificate == self.0).then(|| Holder { sender: "spiffe://c/x".into(), is_admin: true })
    }
}

#[tokio::test]
async fn a_certificate_counts_where_there_is_no_token() {
    let list = Tokens::read("test", r#"[{"token":"t1","sender":"agent://a"}]"#).expect("reads");
    let auth = Auth::bearer(None, Some(list)).certificates(Some(Arc::new(One(b"leaf"))));
    let ask = async |metadata: MetadataMap, leaf: Option<&'static [u8]>| {
        let certificates = leaf.map(|leaf| Arc::new(vec![CertificateDer::from(leaf)]));
        let caller = auth.caller(&Proof { metadata, certificates }, &clock()).await;
        caller.map(|caller| (caller.rights.sender, caller.rights.is_observer)).ok()
    };
    let certified = Some(("spiffe://c/x".to_owned(), true));
    assert_eq!(ask(MetadataMap::new(), Some(b"leaf")).await, certified);
    assert_eq!(ask(MetadataMap::new(), Some(b"other")).await, None);
    assert_eq!(ask(MetadataMap::new(), None).await, None);
    let token = || with("authorization", "Bearer t1");
    assert_eq!(ask(token(), Some(b"leaf")).await, Some(("agent://a".to_owned(), false)));
    assert_eq!(ask(token(), None).await, Some(("agent://a".to_owned(), false)));
    // Whoever shows a bad token is not somebody else.
    for (name, value) in
        [("authorization", "Bearer t2"), ("authorization", "Basic x"), ("x-macp-token", "t2")]
    {
        assert_eq!(ask(with(name, value), Some(b"leaf")).await, None, "{value}");
    }
}
