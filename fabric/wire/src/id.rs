//! Identifiers. One style: a UUID in a newtype, written in lower-case hyphenated form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: expected a UUID such as 018f2c3e-5b7a-7d4e-9c1b-2f6a8d0e4b5c")]
pub struct IdError {
    /// What kind of identifier was expected.
    pub what: &'static str,
    /// What was found, cut at 64 characters.
    pub text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID made by the caller; this crate has no randomness of its own.
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The UUID inside.
            pub const fn uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                // One spelling only, so that an id in a certificate compares byte for byte.
                match Uuid::try_parse(text) {
                    Ok(id) if id.as_hyphenated().to_string() == text => Ok(Self(id)),
                    _ => Err(IdError { what: $what, text: text.chars().take(64).collect() }),
                }
            }
        }
    };
}

id!(
    /// A cluster. Made once by `weft init`.
    ClusterId,
    "cluster id"
);
id!(
    /// A node. For ever: the id of a removed node is never used again (design §3).
    NodeId,
    "node id"
);
id!(
    /// A person, by certificate (design §3).
    OperatorId,
    "operator id"
);
id!(
    /// One request to change agreed state; a retry bears the same id and applies once (design §6).
    RequestId,
    "request id"
);
