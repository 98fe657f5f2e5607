//! Tests of the keys of receipts.

use ring::signature::{ED25519, UnparsedPublicKey};

use super::*;

/// Made for these tests; it protects nothing.
const PEM: &str = include_str!("testdata/ed25519-test-only.pem");

fn text(text: impl Into<String>) -> KeyText {
    KeyText { origin: "the key".into(), text: text.into() }
}

fn public(keys: &ReceiptKeys) -> Vec<Value> {
    let set: Value = serde_json::from_str(keys.jwks()).expect("JSON");
    set["keys"].as_array().expect("keys").clone()
}

/// The private key of the PEM as a JSON Web Key; PKCS#8 ends with the seed.
fn jwk() -> Value {
    let der = PrivatePkcs8KeyDer::from_pem_slice(PEM.as_bytes()).expect("PEM");
    let seed = der.secret_pkcs8_der().last_chunk::<32>().expect("a seed");
    let keys = ReceiptKeys::new(Some(&text(PEM)), Some("k1"), None).expect("a key");
    json!({ "kty": "OKP", "crv": "Ed25519", "d": base64url(seed), "x": public(&keys)[0]["x"] })
}

#[test]
fn what_is_signed_verifies_with_the_first_key_that_is_published() {
    let retired = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "k0", "x": base64url(&[7; 32]), "more": 1 },
    ] });
    let retired = text(retired.to_string());
    let mut with_name = jwk();
    with_name["kid"] = json!("k1");
    for (key, kid) in [
        (text(PEM), Some("k1")),
        (text(jwk().to_string()), Some("k1")),
        (text(with_name.to_string()), None),
        (text(with_name.to_string()), Some("k1")),
    ] {
        let keys = ReceiptKeys::new(Some(&key), kid, Some(&retired)).expect("keys");
        assert_eq!(keys.kid(), Some("k1"));
        let public = public(&keys);
        let names: Vec<_> = public.iter().map(|key| key["kid"].as_str()).collect();
        assert_eq!(names, [Some("k1"), Some("k0")]);
        assert!(public.iter().all(|key| key.get("d").is_none() && key.get("more").is_none()));
        let x = public[0]["x"].as_str().and_then(unbase64url).expect("x");
        let verified = UnparsedPublicKey::new(&ED25519, x).verify(b"input", &keys.sign("input"));
        assert!(verified.is_ok());
    }
    let unsigned = ReceiptKeys::new(None, None, Some(&retired)).expect("retired keys alone");
    assert_eq!((unsigned.kid(), public(&unsigned).len()), (None, 1));
    assert_eq!(ReceiptKeys::default().jwks(), r#"{"keys":[]}"#);
}

#[test]
fn a_key_that_cannot_sign_is_refused_and_not_quoted() {
    let change = |name: &str, value: Value| {
        let mut key = jwk();
        key[name] = value;
        text(key.to_string())
    };
    let d = jwk()["d"].as_str().expect("d").to_owned();
    for (key, kid, why) in [
        (text(PEM), None, "MACP_RECEIPT_SIGNING_KID"),
        (text(jwk().to_string()), None, "MACP_RECEIPT_SIGNING_KID"),
        (change("kid", json!("k2")), Some("k1"), "`k2`"),
        (change("kty", json!("EC")), Some("k1"), "OKP"),
        (change("x", json!(base64url(&[7; 32]))), Some("k1"), "halves"),
        (change("x", Value::Null), Some("k1"), "`d`"),
        (text("nonsense"), Some("k1"), "PKCS#8"),
        (text(PEM.replace("MC4CAQAwBQYDK2Vw", "MC4CAQAwBQYDK2Vu")), Some("k1"), "another key"),
    ] {
        let error = ReceiptKeys::new(Some(&key), kid, None).expect_err(why).to_string();
        assert!(error.starts_with("the key: ") && error.contains(why), "{error}");
        assert!(!error.contains(&d) && !error.contains("MC4C"), "{error}");
    }
    let one = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k0", "x": base64url(&[7; 32]) });
    let mut active = one.clone();
    active["kid"] = json!("k1");
    let mut short = one.clone();
    short["x"] = json!("AAAA");
    for (keys, why) in [
        (json!([jwk()]), "private"),
        (json!([one, one]), "same `kid`"),
        (json!([active]), "same `kid`"),
        (json!([short]), "32 bytes"),
        (json!([{ "kty": "RSA" }]), "OKP"),
        (json!([1]), "OKP"),
        (json!(7), "Key Set"),
    ] {
        let retired = text(json!({ "keys": keys }).to_string());
        let error = ReceiptKeys::new(Some(&text(PEM)), Some("k1"), Some(&retired));
        let error = error.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}
