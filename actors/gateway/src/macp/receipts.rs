//! Keys that sign receipts of decisions (§16): Ed25519, one that signs and those that did before.

use std::sync::Arc;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::auth::{base64url, unbase64url};

/// Members of a key that only its owner may know.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Why receipts cannot be signed. The key itself is never said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {why}")]
pub struct ReceiptKeyError {
    /// Where the key came from.
    origin: String,
    /// What is wrong.
    why: String,
}

/// A text and what messages call it.
#[derive(Clone)]
pub struct KeyText {
    /// Name of a variable or a file.
    pub origin: String,
    /// What it holds.
    pub text: String,
}

impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyText({})", self.origin)
    }
}

/// The keys of receipts. Cheap to clone.
#[derive(Clone)]
pub struct ReceiptKeys(Arc<Inner>);

struct Inner {
    signs: Option<(String, Ed25519KeyPair)>,
    /// Public keys, the one that signs first.
    jwks: String,
}

impl std::fmt::Debug for ReceiptKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceiptKeys({:?})", self.kid())
    }
}

impl Default for ReceiptKeys {
    fn default() -> Self {
        Self(Arc::new(Inner { signs: None, jwks: set(&[]) }))
    }
}

/// A private key as JSON.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    kid: Option<String>,
    d: String,
    x: String,
}

impl ReceiptKeys {
    /// Receipts are signed with `key`, a PKCS#8 PEM or a private JSON Web Key, whose name is `kid`
    /// or in it; `retired` is a JSON Web Key Set of public keys that signed earlier ones.
    ///
    /// # Errors
    /// [`ReceiptKeyError`].
    pub fn new(
        key: Option<&KeyText>,
        kid: Option<&str>,
        retired: Option<&KeyText>,
    ) -> Result<Self, ReceiptKeyError> {
        let wrong = |of: &KeyText, why: String| ReceiptKeyError { origin: of.origin.clone(), why };
        let signs = key.map(|key| pair(key, kid).map_err(|why| wrong(key, why))).transpose()?;
        let mut public = Vec::new();
        if let Some((kid, pair)) = &signs {
            public.push(published(kid, pair.public_key().as_ref()));
        }
        if let Some(retired) = retired {
            let known = signs.as_ref().map(|(kid, _)| kid.clone());
            let read = retired_keys(&retired.text, known).map_err(|why| wrong(retired, why))?;
            public.extend(read);
        }
        Ok(Self(Arc::new(Inner { signs, jwks: set(&public) })))
    }

    /// Name of the key that signs; `None`: receipts are not signed.
    pub(crate) fn kid(&self) -> Option<&str> {
        self.0.signs.as_ref().map(|(kid, _)| kid.as_str())
    }

    /// The signature of the key that signs; empty if there is none.
    pub(crate) fn sign(&self, input: &str) -> Vec<u8> {
        let pair = self.0.signs.as_ref().map(|(_, pair)| pair);
        pair.map_or_else(Vec::new, |pair| pair.sign(input.as_bytes()).as_ref().to_vec())
    }

    /// The public keys, as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> &str {
        &self.0.jwks
    }
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn published(kid: &str, x: &[u8]) -> Value {
    json!({ "alg": "EdDSA", "crv": "Ed25519", "kid": kid, "kty": "OKP", "use": "sig", "x": base64url(x) })
}

fn pair(key: &KeyText, kid: Option<&str>) -> Result<(String, Ed25519KeyPair), String> {
    if !key.text.trim_start().starts_with('{') {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key.text.as_bytes()).map_err(|_| {
            "expected an Ed25519 key as PKCS#8 PEM (`openssl genpkey -algorithm ed25519`) or as a JSON Web Key".to_owned()
        })?;
        // Without the public key in it, as openssl writes it, or with it: then they must fit.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|_| "the PEM has another key than an Ed25519 one".to_owned())?;
        let kid = kid.ok_or("a PEM has no name for its key: set MACP_RECEIPT_SIGNING_KID")?;
        return Ok((kid.to_owned(), pair));
    }
    // The error would quote the key.
    let jwk: Jwk = serde_json::from_str(&key.text)
        .map_err(|_| "expected a JSON Web Key with `kty`, `crv`, `x` and `d`".to_owned())?;
    if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
        return Err("expected a key with `kty` OKP and `crv` Ed25519".to_owned());
    }
    let kid = match (jwk.kid, kid) {
        (Some(own), Some(kid)) if own != kid => {
            return Err(format!(
                "its `kid` is `{own}`, but MACP_RECEIPT_SIGNING_KID is `{kid}`: set one of them"
            ));
        }
        (Some(own), _) => own,
        (None, Some(kid)) => kid.to_owned(),
        (None, None) => return Err("it has no `kid`: set MACP_RECEIPT_SIGNING_KID".to_owned()),
    };
    let fits = unbase64url(&jwk.d)
        .zip(unbase64url(&jwk.x))
        .and_then(|(d, x)| Ed25519KeyPair::from_seed_and_public_key(&d, &x).ok());
    let pair = fits.ok_or("`d` and `x` are not the halves of one Ed25519 key")?;
    Ok((kid, pair))
}

/// What may be published of a set of public keys.
fn retired_keys(text: &str, known: Option<String>) -> Result<Vec<Value>, String> {
    let set: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let keys = set.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or("expected a JSON Web Key Set: {\"keys\": [...]}")?;
    let mut names = Vec::from_iter(known);
    let mut public = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let none = Map::new();
        let key = key.as_object().unwrap_or(&none);
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let wrong = |why: &str| Err(format!("key {}: {why}", at + 1));
        if PRIVATE.iter().any(|name| key.contains_key(*name)) {
            return wrong("it is a private key, and would be published");
        }
        if text("kty") != Some("OKP") || text("crv") != Some("Ed25519") {
            return wrong("expected a key with `kty` OKP and `crv` Ed25519");
        }
        let Some(kid) = text("kid").filter(|kid| !kid.is_empty()) else {
            return wrong("it has no `kid`");
        };
        if names.iter().any(|name| name == kid) {
            return wrong("another key has the same `kid`");
        }
        let Some(x) = text("x").and_then(unbase64url).filter(|x| x.len() == 32) else {
            return wrong("`x` is not 32 bytes in base64 for URLs");
        };
        names.push(kid.to_owned());
        public.push(published(kid, &x));
    }
    Ok(public)
}

#[cfg(test)]
mod tests;
