//! An issuer for tests: keys of every kind, tokens signed with them, and a server of its keys.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use ring::{hmac, rsa};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use weft_wire::{ManualClock, WallTime};

/// When tests take place, in seconds since the Unix epoch.
pub(super) const NOW: i64 = 1_800_000_000;
/// Made for these tests; it protects nothing.
const RSA: &str = include_str!("testdata/rs256-test-only.pem");

pub(super) fn clock() -> ManualClock {
    ManualClock::new(WallTime::from_micros(NOW * 1_000_000))
}

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What a token needs; tests change it.
pub(super) fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "macp-runtime", "sub": "agent://a", "exp": NOW + 100 })
}

pub(super) struct Issuer {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    secret: Vec<u8>,
}

impl Issuer {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let rsa = PrivatePkcs8KeyDer::from_pem_slice(RSA.as_bytes()).expect("PEM");
        let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
        Self {
            rsa: RsaKeyPair::from_pkcs8(rsa.secret_pkcs8_der()).expect("an RSA key"),
            ec: EcdsaKeyPair::from_pkcs8(kind, ec.as_ref(), &random).expect("reads"),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("reads"),
            secret: b"a secret of thirty-two bytes, no".to_vec(),
        }
    }

    pub(super) fn rsa(&self) -> Value {
        let public = rsa::PublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        json!({ "kty": "RSA", "kid": "rsa", "use": "sig", "alg": "RS256",
            "n": base64url(public.n), "e": base64url(public.e) })
    }

    pub(super) fn ec(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        json!({ "kty": "EC", "kid": "ec", "crv": "P-256",
            "x": base64url(&point[1..33]), "y": base64url(&point[33..]) })
    }

    pub(super) fn ed(&self) -> Value {
        let key = self.ed.public_key().as_ref();
        json!({ "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": base64url(key) })
    }

    pub(super) fn secret(&self) -> Value {
        json!({ "kty": "oct", "kid": "hs", "k": base64url(&self.secret) })
    }

    pub(super) fn jwks(&self) -> String {
        json!({ "keys": [self.rsa(), self.ec(), self.ed(), self.secret()] }).to_string()
    }

    /// A token with any header, signed as `algorithm` says.
    pub(super) fn token(&self, algorithm: &str, header: &Value, claims: &Value) -> String {
        let header = base64url(header.to_string());
        let input = format!("{header}.{}", base64url(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match algorithm {
            "RS256" => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let signed =
                    self.rsa.sign(&RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature);
                signed.expect("signs");
                signature
            }
            "ES256" => self.ec.sign(&random, input.as_bytes()).expect("signs").as_ref().to_vec(),
            "EdDSA" => self.ed.sign(input.as_bytes()).as_ref().to_vec(),
            "HS256" => hs256(&self.secret, &input),
            _ => Vec::new(),
        };
        format!("{input}.{}", base64url(signature))
    }

    pub(super) fn sign(&self, algorithm: &str, claims: &Value) -> String {
        self.token(algorithm, &json!({ "alg": algorithm }), claims)
    }
}

pub(super) fn hs256(secret: &[u8], input: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, input.as_bytes()).as_ref().to_vec()
}

/// Answers every request with what it is told to, and counts them.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<String>>,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    pub(super) async fn new(body: &str) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let (counts, answers) = (asked.clone(), answer.clone());
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_buf(&mut request).await {
                        Ok(1..) => {}
                        _ => break,
                    }
                }
                counts.fetch_add(1, Ordering::SeqCst);
                let answer = answers.lock().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let served = Self { address, asked, answer, server };
        served.say("200 OK", body);
        served
    }

    pub(super) fn say(&self, status: &str, body: &str) {
        *self.answer.lock() =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    }

    /// Requests so far.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }
}
