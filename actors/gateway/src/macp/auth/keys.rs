//! Public keys of an issuer, read from a JSON Web Key Set (RFC 7517), and signatures made with them.

use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use serde_json::Value;

use super::base64url::{unbase64_any, unbase64url};

/// Keys of a set that are looked at: each may have to be tried for a token that names none.
const KEYS: usize = 64;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
    Hs256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 4] = [Self::Rs256, Self::Es256, Self::EdDsa, Self::Hs256];

    /// As headers of tokens name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// The keys of a set that can check a signature.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

struct Key {
    kid: Option<String>,
    public: Public,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.public.algorithm(), self.kid)
    }
}

/// A key is good for one algorithm only, whatever a token says of itself.
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(hmac::Key),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Public {
    const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
            Self::Secret(_) => Algorithm::Hs256,
        }
    }

    fn verify(&self, input: &[u8], signature: &[u8]) -> bool {
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(input, signature).is_ok()
        };
        match self {
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, input, signature)
                .is_ok(),
            Self::P256(point) => with(&signature::ECDSA_P256_SHA256_FIXED, point),
            Self::Ed25519(key) => with(&signature::ED25519, key),
            Self::Secret(key) => hmac::verify(key, input, signature).is_ok(),
        }
    }
}

impl Keys {
    /// Reads a set. Keys of other kinds and for other uses are left out.
    ///
    /// # Errors
    /// What is wrong, if no key is left.
    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut keys = Vec::new();
        let mut first = None;
        for (at, value) in set.keys.into_iter().take(KEYS).enumerate() {
            match key(value) {
                Ok(key) => keys.push(key),
                Err(why) => {
                    let why = format!("key {} cannot be used: {why}", at + 1);
                    tracing::debug!(why, "a key of the issuer is left out");
                    first.get_or_insert(why);
                }
            }
        }
        if keys.is_empty() {
            return Err(first.unwrap_or_else(|| "it has no keys".to_owned()));
        }
        Ok(Self(keys))
    }

    /// Whether there is a key of that name.
    pub(crate) fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Whether the signature is that of a key here: the one that is named, if there is such a key,
    /// else any.
    pub(crate) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        input: &[u8],
        signature: &[u8],
    ) -> bool {
        let named = kid.filter(|kid| self.has(kid));
        let mut asked = self.0.iter().filter(|key| {
            key.public.algorithm() == algorithm && (named.is_none() || key.kid.as_deref() == named)
        });
        asked.any(|key| key.public.verify(input, signature))
    }
}

fn key(value: Value) -> Result<Key, String> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err("its `use` is not `sig`".to_owned());
    }
    if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
        return Err("its `key_ops` do not have `verify`".to_owned());
    }
    let number = |name: &str, text: &Option<String>| {
        let text = text.as_deref().ok_or_else(|| format!("it has no `{name}`"))?;
        unbase64url(text).ok_or_else(|| format!("`{name}` is not base64 for URLs"))
    };
    let coordinate = |name: &str, text: &Option<String>| {
        let bytes = number(name, text)?;
        if bytes.len() == 32 { Ok(bytes) } else { Err(format!("`{name}` is not of 32 bytes")) }
    };
    let public = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let n = trimmed(number("n", &jwk.n)?);
            if !(256..=1024).contains(&n.len()) {
                return Err("an RSA key must have 2048 to 8192 bits".to_owned());
            }
            Public::Rsa { n, e: trimmed(number("e", &jwk.e)?) }
        }
        ("EC", Some("P-256")) => {
            let mut point = vec![4];
            point.extend(coordinate("x", &jwk.x)?);
            point.extend(coordinate("y", &jwk.y)?);
            Public::P256(point)
        }
        ("OKP", Some("Ed25519")) => Public::Ed25519(coordinate("x", &jwk.x)?),
        ("oct", _) => {
            let text = jwk.k.as_deref().filter(|text| !text.is_empty());
            let text = text.ok_or("it has no `k`")?;
            let secret = unbase64_any(text).unwrap_or_else(|| text.as_bytes().to_vec());
            Public::Secret(hmac::Key::new(hmac::HMAC_SHA256, &secret))
        }
        (kty, crv) => {
            return Err(format!("kind `{kty}` {} is not supported", crv.unwrap_or_default()));
        }
    };
    if jwk.alg.as_deref().is_some_and(|alg| alg != public.algorithm().name()) {
        return Err(format!("its `alg` is not {}", public.algorithm().name()));
    }
    Ok(Key { kid: jwk.kid, public })
}

/// Without zeros in front, which some write and ring refuses.
fn trimmed(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}
