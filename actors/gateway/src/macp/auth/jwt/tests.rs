//! Tests of JSON Web Tokens.

use proptest::prelude::*;
use serde_json::json;

use super::super::testing::{Issuer, NOW, base64url, claims, clock, hs256};
use super::*;

fn rules(algorithms: &[&str]) -> Rules {
    let algorithms = algorithms.iter().filter_map(|name| Algorithm::of(name)).collect();
    Rules { issuer: "https://issuer".into(), audience: "macp-runtime".into(), algorithms }
}

const ALL: [&str; 4] = ["RS256", "ES256", "EdDSA", "HS256"];

fn check(rules: &Rules, keys: &Keys, token: &str) -> Result<Rights, Refused> {
    rules.rights(&rules.token(token)?, keys, &clock())
}

fn keys(issuer: &Issuer) -> Keys {
    Keys::read(issuer.jwks().as_bytes()).expect("reads")
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn a_token_of_the_issuer_gives_the_rights_that_it_names_however_it_is_signed() {
    let issuer = Issuer::new();
    let keys = keys(&issuer);
    for algorithm in ALL {
        let rights = check(&rules(&ALL), &keys, &issuer.sign(algorithm, &claims()));
        assert_eq!(rights, Ok(Rights::of("agent://a")), "{algorithm}");
        // Unless it is allowed, no signature counts.
        let others: Vec<_> = ALL.into_iter().filter(|other| *other != algorithm).collect();
        let refused = check(&rules(&others), &keys, &issuer.sign(algorithm, &claims()));
        assert_eq!(refused, Err(Refused::Algorithm), "{algorithm}");
    }
    let scopes = json!({ "allowed_modes": ["m"], "can_start_sessions": false,
        "max_open_sessions": 3, "can_manage_mode_registry": true, "is_observer": true, "more": 1 });
    let token = issuer.sign("ES256", &with("macp_scopes", scopes));
    let expected = Rights {
        sender: "agent://a".into(),
        allowed_modes: vec!["m".into()],
        can_start_sessions: false,
        max_open_sessions: Some(3),
        can_manage_mode_registry: true,
        is_observer: true,
    };
    assert_eq!(check(&rules(&ALL), &keys, &token), Ok(expected));
}

#[test]
fn claims_must_be_there_and_right() {
    let issuer = Issuer::new();
    let keys = keys(&issuer);
    let check = |claims: &Value| check(&rules(&ALL), &keys, &issuer.sign("EdDSA", claims));
    for (name, value) in [
        ("exp", json!(NOW - 60)),
        ("exp", json!(NOW as f64 + 0.5)),
        ("nbf", json!(NOW + 60)),
        ("aud", json!(["other", "macp-runtime"])),
        ("macp_scopes", Value::Null),
    ] {
        assert!(check(&with(name, value.clone())).is_ok(), "{name} {value}");
    }
    for (name, value, why) in [
        ("exp", json!(NOW - 61), Refused::Expired),
        ("exp", json!("soon"), Refused::Claims),
        ("exp", Value::Null, Refused::Claims),
        ("nbf", json!(NOW + 61), Refused::Early),
        ("iss", json!("https://issuer/"), Refused::Issuer),
        ("aud", json!("other"), Refused::Audience),
        ("aud", json!([]), Refused::Audience),
        ("sub", json!(" "), Refused::Claims),
        ("sub", json!(7), Refused::Claims),
        ("macp_scopes", json!({ "is_observer": "yes" }), Refused::Claims),
        ("macp_scopes", json!("all"), Refused::Claims),
    ] {
        assert_eq!(check(&with(name, value.clone())), Err(why), "{name} {value}");
    }
    for name in ["exp", "iss", "aud", "sub"] {
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove(name);
        assert_eq!(check(&claims), Err(Refused::Claims), "without {name}");
    }
    assert_eq!(check(&json!([])), Err(Refused::Claims));
}

#[test]
fn a_token_cannot_choose_how_it_is_checked() {
    let issuer = Issuer::new();
    let (keys, rules) = (keys(&issuer), rules(&ALL));
    for alg in [json!("none"), json!("None"), json!("rs256"), json!("RS512"), json!("")] {
        let token = issuer.token("none", &json!({ "alg": alg }), &claims());
        assert_eq!(check(&rules, &keys, &token), Err(Refused::Algorithm), "{alg}");
    }
    for header in [json!({}), json!({ "alg": null }), json!({ "alg": 1 }), json!("RS256")] {
        let token = issuer.token("RS256", &header, &claims());
        assert_eq!(check(&rules, &keys, &token), Err(Refused::Shape), "{header}");
    }
    let critical = json!({ "alg": "RS256", "crit": ["b64"], "b64": false });
    let token = issuer.token("RS256", &critical, &claims());
    assert_eq!(check(&rules, &keys, &token), Err(Refused::Critical));
    // Signed with one kind of key, said to be another.
    for (signed, said) in [("RS256", "ES256"), ("ES256", "EdDSA"), ("EdDSA", "RS256")] {
        let token = issuer.token(signed, &json!({ "alg": said }), &claims());
        assert_eq!(check(&rules, &keys, &token), Err(Refused::Signature), "{signed} as {said}");
    }
    // Everybody knows the public keys: none of them is a secret.
    let public = Keys::read(json!({ "keys": [issuer.rsa(), issuer.ed()] }).to_string().as_bytes());
    let public = public.expect("reads");
    let (header, claims) = (json!({ "alg": "HS256", "kid": "rsa" }), claims());
    let input = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    for known in [issuer.rsa(), issuer.ed()] {
        for part in ["n", "x"] {
            let Some(text) = known[part].as_str() else { continue };
            let bytes = unbase64url(text).expect("base64");
            for secret in [text.as_bytes(), bytes.as_slice(), b""] {
                let token = format!("{input}.{}", base64url(hs256(secret, &input)));
                assert_eq!(check(&rules, &public, &token), Err(Refused::Signature));
            }
        }
    }
}

#[test]
fn a_named_key_is_the_only_one_that_counts_and_an_unknown_name_counts_for_nothing() {
    let (one, two) = (Issuer::new(), Issuer::new());
    let mut other = two.ed();
    other["kid"] = json!("other");
    let set = json!({ "keys": [one.ed(), other] }).to_string();
    let (keys, rules) = (Keys::read(set.as_bytes()).expect("reads"), rules(&ALL));
    for (issuer, kid, is_taken) in [
        (&one, Some("ed"), true),
        (&one, Some("other"), false),
        (&two, Some("other"), true),
        (&two, Some("ed"), false),
        (&one, Some("unknown"), true),
        (&two, None, true),
    ] {
        let header = match kid {
            Some(kid) => json!({ "alg": "EdDSA", "kid": kid }),
            None => json!({ "alg": "EdDSA" }),
        };
        let token = issuer.token("EdDSA", &header, &claims());
        assert_eq!(check(&rules, &keys, &token).is_ok(), is_taken, "{kid:?}");
    }
    let stranger = Issuer::new().sign("EdDSA", &claims());
    assert_eq!(check(&rules, &keys, &stranger), Err(Refused::Signature));
}

#[test]
fn what_cannot_be_used_is_said_at_the_start() {
    let issuer = Issuer::new();
    let new = |algorithms: &[&str], json: &str| {
        Jwt::new(
            JwtConfig {
                issuer: "i".into(),
                audience: "a".into(),
                algorithms: algorithms.iter().map(|name| (*name).to_owned()).collect(),
                keys: KeySource::Inline(json.to_owned()),
                ttl: Duration::from_secs(300),
            },
            &clock(),
        )
        .map_err(|error| error.to_string())
    };
    assert!(new(&["RS256"], &issuer.jwks()).is_ok());
    let error = new(&["RS256", "RSA"], &issuer.jwks()).expect_err("refused");
    assert!(error.contains("MACP_AUTH_JWT_ALGS") && error.contains("`RSA`"), "{error}");
    let short = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" });
    let mut encrypts = issuer.ed();
    encrypts["use"] = json!("enc");
    for keys in [json!([]), json!([short]), json!([encrypts]), json!([{ "kty": "EC" }]), json!(1)] {
        let error = new(&["RS256"], &json!({ "keys": keys }).to_string()).expect_err("refused");
        assert!(error.contains("MACP_AUTH_JWKS_JSON"), "{error}");
    }
    // One that cannot be used does not spoil the others.
    assert!(new(&["RS256"], &json!({ "keys": [1, short, issuer.rsa()] }).to_string()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics_or_is_taken(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..6)) {
        let keys = Keys::read(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#).expect("reads");
        prop_assert!(check(&rules(&ALL), &keys, &text).is_err());
        prop_assert!(check(&rules(&ALL), &keys, &parts.join(".")).is_err());
        let _ = Keys::read(text.as_bytes());
    }

    #[test]
    fn no_header_and_no_claims_panic(header in json(), claims in json(), key in json()) {
        let secret = b"secret";
        let keys = Keys::read(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#).expect("reads");
        for header in [header, json!({ "alg": "HS256" })] {
            let input =
                format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
            let token = format!("{input}.{}", base64url(hs256(secret, &input)));
            prop_assert!(check(&rules(&ALL), &keys, &token).is_err());
        }
        let _ = Keys::read(json!({ "keys": [key] }).to_string().as_bytes());
    }

    #[test]
    fn a_token_that_was_changed_anywhere_is_refused(at: prop::sample::Index, to in "[A-Za-z0-9_.-]") {
        let keys = Keys::read(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#).expect("reads");
        let input = format!(
            "{}.{}", base64url(r#"{"alg":"HS256"}"#), base64url(claims().to_string())
        );
        let token = format!("{input}.{}", base64url(hs256(b"secret", &input)));
        prop_assert!(check(&rules(&ALL), &keys, &token).is_ok());
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assert!(changed == token || check(&rules(&ALL), &keys, &changed).is_err());
    }
}

/// Any JSON, with the names that matter more often than others.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["\\PC{0,12}", "[A-Za-z0-9_-]{40,46}", Just("HS256".to_owned())]
            .prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "alg",
        "kid",
        "crit",
        "iss",
        "aud",
        "exp",
        "nbf",
        "macp_scopes",
        "kty",
        "crv",
        "n",
        "e",
        "x",
        "y",
        "k",
        "use",
        "key_ops",
    ]);
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(|members| {
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            }),
        ]
    })
}
