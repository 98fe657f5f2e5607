//! Who calls: static bearer tokens, or anybody in development (§5).

use std::collections::HashMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;
use weft_protocol::SessionRefusal;
use weft_session::Rights;

use super::errors;

/// Why tokens cannot be used.
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
}

/// Who may call.
#[derive(Clone)]
pub enum Auth {
    /// Whoever has one of these tokens.
    Tokens(Tokens),
    /// Anybody: the token is the sender. Only for development.
    Development {
        /// Whether the header `x-macp-sender` may name the sender instead.
        sender_header: bool,
    },
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tokens(tokens) => write!(f, "Tokens({})", tokens.0.len()),
            Self::Development { .. } => f.write_str("Development"),
        }
    }
}

/// Rights by the hash of the token: comparing tells nothing of what is nearly right.
#[derive(Clone, Default)]
pub struct Tokens(HashMap<[u8; 32], Rights>);

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

/// Somebody who called.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) rights: Rights,
    /// Whether it proved who it is.
    pub(crate) is_authenticated: bool,
}

impl Auth {
    /// Reads a document of static tokens; `origin` is what messages call it.
    ///
    /// # Errors
    /// [`AuthError::Tokens`].
    pub fn tokens(origin: &str, json: &str) -> Result<Self, AuthError> {
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
            let rights = Rights {
                sender: entry.sender,
                allowed_modes: entry.allowed_modes,
                can_start_sessions: entry.can_start_sessions,
                max_open_sessions: entry.max_open_sessions,
                can_manage_mode_registry: entry.can_manage_mode_registry,
                is_observer: entry.is_observer,
            };
            tokens.insert(Sha256::digest(entry.token.as_bytes()).into(), rights);
        }
        Ok(Self::Tokens(Tokens(tokens)))
    }

    /// Limits the open sessions of every identity that has no limit of its own.
    #[must_use]
    pub fn max_open_sessions(mut self, most: Option<u32>) -> Self {
        if let Self::Tokens(Tokens(tokens)) = &mut self {
            for rights in tokens.values_mut() {
                rights.max_open_sessions = rights.max_open_sessions.or(most);
            }
        }
        self
    }

    /// Who made a request with this metadata.
    pub(crate) fn caller(&self, metadata: &MetadataMap) -> Result<Caller, SessionRefusal> {
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let none = || errors::refusal("UNAUTHENTICATED", "a valid bearer token is needed");
        match self {
            Self::Tokens(Tokens(tokens)) => {
                let token = bearer.or_else(|| text("x-macp-token")).ok_or_else(none)?;
                let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
                let rights = tokens.get(&hash).cloned().ok_or_else(none)?;
                Ok(Caller { rights, is_authenticated: true })
            }
            Self::Development { sender_header } => {
                let named = sender_header.then(|| text("x-macp-sender")).flatten();
                let sender = named.or(bearer).or_else(|| text("x-macp-token"));
                let sender = sender.filter(|sender| !sender.is_empty()).ok_or_else(none)?;
                let rights = Rights { can_manage_mode_registry: true, ..Rights::of(sender) };
                Ok(Caller { rights, is_authenticated: false })
            }
        }
    }
}

#[cfg(test)]
mod tests;
