//! Who is who: issuing CAs, certificates, the trust bundle, the deny list and join tokens
//! (design §3).
//!
//! This crate knows no sockets. It makes keys and certificates, keeps them in files, and hands
//! out rustls configurations whose verifiers and resolvers look at live handles ([`Trust`],
//! [`Credentials`]), so that every new handshake sees the newest state.
#![forbid(unsafe_code)]

mod bundle;
mod ca;
mod credentials;
mod deny;
mod error;
mod files;
mod fingerprint;
mod join;
mod key;
mod layout;
mod peer;
mod skew;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod trust;

pub use bundle::TrustBundle;
pub use ca::{
    BACKDATE, CA_LIFE, CertificateChain, IssuingCa, NODE_LIFE, OPERATOR_LIFE, Subject, Validity,
};
pub use credentials::Credentials;
pub use deny::DenyList;
pub use error::IdentityError;
pub use files::{read_private, write_private, write_public};
pub use fingerprint::Fingerprint;
pub use join::{JoinSecret, JoinToken, TOKEN_LIFE, TokenError, TokenRecord};
pub use key::{PrivateKey, VerifiedCsr, check_renewal};
pub use layout::{IdentityFiles, StoredIdentity};
pub use peer::{FABRIC_NAME, PeerIdentity, inspect_identity, parse_identity, renew_at};
pub use skew::{SKEW_MAX, Skew, check_skew};
pub use tls::{
    Expect, client_config, client_verifier, joiner_client_config, refusal_hint, server_config,
};
pub use trust::Trust;
