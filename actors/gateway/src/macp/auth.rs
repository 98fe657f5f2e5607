//! Who calls (§5): holders of JSON Web Tokens, of static bearer tokens, or anybody in development.

mod base64url;
mod fetch;
mod jwks;
mod jwt;
mod keys;

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Extensions, Request};
use weft_protocol::SessionRefusal;
use weft_session::Rights;
use weft_wire::{Clock, TraceContext};

use super::errors;

pub(crate) use base64url::{base64url, unbase64url};
pub use jwks::KeySource;
pub use jwt::{Jwt, JwtConfig};

/// Why callers cannot be told apart as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Not the document of §5.
    #[error(
        "{origin}: {why}; expected a list of objects with `token` and `sender`, or {{\"tokens\": [...]}}"
    )]
    Tokens {
        /// Where they came from.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// An algorithm that is not known.
    #[error(
        "MACP_AUTH_JWT_ALGS has `{0}`: expected RS256, ES256, EdDSA and HS256, with commas between"
    )]
    Algorithm(String),
    /// The issuer's keys cannot be used.
    #[error("{origin}: {why}; expected a JSON Web Key Set with keys of the algorithms allowed")]
    Keys {
        /// Where they came from.
        origin: String,
        /// What is wrong.
        why: String,
    },
}

/// Whom certificates of clients belong to.
pub trait Certificates: Send + Sync + 'static {
    /// What a certificate is checked with while its client connects. A client may have none.
    fn verifier(&self) -> Arc<dyn ClientCertVerifier>;
    /// Who has this certificate (DER), if it is believed at this moment.
    fn holder(&self, certificate: &[u8]) -> Option<Holder>;
}

/// Who has a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Becomes the sender of its envelopes.
    pub sender: String,
    /// Whether it may read every session, and change modes and policies.
    pub is_admin: bool,
}

/// What a request brings to show who made it.
#[derive(Default)]
pub(crate) struct Proof {
    metadata: MetadataMap,
    /// The chain that the connection's client has, the leaf first.
    certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
}

impl Proof {
    pub(crate) fn of<T>(request: Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Self { metadata, certificates: presented(&extensions) }, message)
    }

    /// The trace that the client's call belongs to, if it says so.
    pub(crate) fn trace(&self) -> TraceContext {
        self.text("traceparent").and_then(TraceContext::of_traceparent).unwrap_or_default()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).and_then(|value| value.to_str().ok())
    }
}

fn presented(extensions: &Extensions) -> Option<Arc<Vec<CertificateDer<'static>>>> {
    extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.peer_certs()
}

/// Who may call.
#[derive(Clone)]
pub struct Auth {
    who: Who,
    certificates: Option<Arc<dyn Certificates>>,
    /// Open sessions of an identity that has no limit of its own.
    max_open: Option<u32>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has_certificates = self.certificates.is_some();
        f.debug_struct("Auth")
            .field("who", &self.who)
            .field("certificates", &has_certificates)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
enum Who {
    /// Whoever has a token of the issuer, or one of these.
    Bearer { jwt: Option<Jwt>, tokens: Option<Tokens> },
    /// Anybody: the token is the sender.
    Development { sender_header: bool },
}

/// Rights by the hash of the token: comparing tells nothing of what is nearly right.
#[derive(Clone, Default)]
pub struct Tokens(HashMap<[u8; 32], Rights>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    List(Vec<Entry>),
    Object { tokens: Vec<Entry> },
}

#[derive(Deserialize)]
struct Entry {
    token: String,
    sender: String,
    #[serde(flatten)]
    scopes: Scopes,
}

/// What an identity may do, as tokens of both kinds say it (§5).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Scopes {
    #[serde(default)]
    allowed_modes: Vec<String>,
    #[serde(default = "yes")]
    can_start_sessions: bool,
    #[serde(default)]
    max_open_sessions: Option<u32>,
    #[serde(default)]
    can_manage_mode_registry: bool,
    #[serde(default)]
    is_observer: bool,
}

const fn yes() -> bool {
    true
}

impl Default for Scopes {
    fn default() -> Self {
        Self {
            allowed_modes: Vec::new(),
            can_start_sessions: true,
            max_open_sessions: None,
            can_manage_mode_registry: false,
            is_observer: false,
        }
    }
}

impl Scopes {
    fn rights(self, sender: String) -> Rights {
        Rights {
            sender,
            allowed_modes: self.allowed_modes,
            can_start_sessions: self.can_start_sessions,
            max_open_sessions: self.max_open_sessions,
            can_manage_mode_registry: self.can_manage_mode_registry,
            is_observer: self.is_observer,
        }
    }
}

/// Somebody who called.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) rights: Rights,
    /// Whether it proved who it is.
    pub(crate) is_authenticated: bool,
}

impl Tokens {
    /// Reads a document of static tokens; `origin` is what messages call it.
    ///
    /// # Errors
    /// [`AuthError::Tokens`].
    pub fn read(origin: &str, json: &str) -> Result<Self, AuthError> {
        let wrong = |why: String| AuthError::Tokens { origin: origin.to_owned(), why };
        let document: Document =
            serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        let (Document::List(entries) | Document::Object { tokens: entries }) = document;
        let mut tokens = HashMap::new();
        for (at, entry) in entries.into_iter().enumerate() {
            if entry.token.is_empty() || entry.sender.is_empty() {
                return Err(wrong(format!("entry {}: token or sender is empty", at + 1)));
            }
            if entry.token.contains('.') {
                let why = "a static token must not contain a dot, JSON Web Tokens do";
                return Err(wrong(format!("entry {}: {why}", at + 1)));
            }
            let hash = Sha256::digest(entry.token.as_bytes()).into();
            tokens.insert(hash, entry.scopes.rights(entry.sender));
        }
        Ok(Self(tokens))
    }

    fn rights(&self, token: &str) -> Option<Rights> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.0.get(&hash).cloned()
    }
}

impl Auth {
    /// Whoever has a token of either kind; nobody, if there is neither.
    pub const fn bearer(jwt: Option<Jwt>, tokens: Option<Tokens>) -> Self {
        Self { who: Who::Bearer { jwt, tokens }, certificates: None, max_open: None }
    }

    /// Anybody: the token is the sender, or what `x-macp-sender` says if that header is trusted.
    /// Only for development.
    pub const fn development(sender_header: bool) -> Self {
        Self { who: Who::Development { sender_header }, certificates: None, max_open: None }
    }

    /// Whether nobody has to prove who they are.
    pub const fn is_development(&self) -> bool {
        matches!(self.who, Who::Development { .. })
    }

    /// Limits the open sessions of every identity that has no limit of its own.
    #[must_use]
    pub const fn max_open_sessions(mut self, most: Option<u32>) -> Self {
        self.max_open = most;
        self
    }

    /// Whoever has a certificate too: it counts for requests without a token.
    #[must_use]
    pub fn certificates(mut self, certificates: Option<Arc<dyn Certificates>>) -> Self {
        self.certificates = certificates;
        self
    }

    /// What certificates of clients are checked with; `None`: clients are not asked for any.
    pub(crate) fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.certificates.as_ref().map(|certificates| certificates.verifier())
    }

    /// Who made a request. The first that claims the credential decides.
    pub(crate) async fn caller(
        &self,
        proof: &Proof,
        clock: &dyn Clock,
    ) -> Result<Caller, SessionRefusal> {
        let none = || errors::refusal("UNAUTHENTICATED", "a valid bearer token is needed");
        let (rights, is_authenticated) = match &self.who {
            Who::Bearer { jwt, tokens } => {
                let has_token = ["authorization", "x-macp-token"]
                    .iter()
                    .any(|name| proof.metadata.contains_key(*name));
                let rights = if has_token {
                    bearer(jwt.as_ref(), tokens.as_ref(), proof, clock).await
                } else {
                    self.certified(proof)
                };
                (rights, true)
            }
            Who::Development { sender_header } => {
                let named = sender_header.then(|| proof.text("x-macp-sender")).flatten();
                let sender = named.or_else(|| token(proof)).or_else(|| proof.text("x-macp-token"));
                let sender = sender.filter(|sender| !sender.is_empty());
                let rights =
                    |sender| Rights { can_manage_mode_registry: true, ..Rights::of(sender) };
                (sender.map(rights), false)
            }
        };
        let mut rights = rights.ok_or_else(none)?;
        rights.max_open_sessions = rights.max_open_sessions.or(self.max_open);
        Ok(Caller { rights, is_authenticated })
    }

    /// The rights of whoever has the connection's certificate.
    fn certified(&self, proof: &Proof) -> Option<Rights> {
        let leaf = proof.certificates.as_ref()?.first()?;
        let Holder { sender, is_admin } = self.certificates.as_ref()?.holder(leaf)?;
        Some(Rights {
            can_manage_mode_registry: is_admin,
            is_observer: is_admin,
            ..Rights::of(sender)
        })
    }
}

/// What comes with `Authorization: Bearer`.
fn token(proof: &Proof) -> Option<&str> {
    proof.text("authorization").and_then(|value| value.strip_prefix("Bearer "))
}

/// The rights of whoever has a token.
async fn bearer(
    jwt: Option<&Jwt>,
    tokens: Option<&Tokens>,
    proof: &Proof,
    clock: &dyn Clock,
) -> Option<Rights> {
    let signed = token(proof).filter(|token| token.contains('.'));
    if let (Some(jwt), Some(token)) = (jwt, signed) {
        let rights = jwt.rights(token, clock).await;
        return rights.inspect_err(|why| tracing::debug!(%why, "a token is refused")).ok();
    }
    let token = token(proof).or_else(|| proof.text("x-macp-token"));
    tokens?.rights(token?)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
