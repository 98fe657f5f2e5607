//! How a request can end other than well (design §4). Few, typed, and all of them cross the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of [`Failure`]. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request itself is wrong; sending it again will not help.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// It clashes with what is there.
    Conflict,
    /// Something else is being done to the same thing; later may work.
    Busy,
    /// The caller is not who they must be.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// A limit is reached.
    Exhausted,
    /// It cannot be done now, for a reason outside the request.
    Unavailable,
    /// It was tried and did not work.
    Failed,
    /// A defect, or storage that gave out.
    Internal,
    /// It took longer than the caller allowed.
    Timeout,
    /// Known, but not in this version.
    Unsupported,
}

impl FailureKind {
    /// The stable code in JSON errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Internal => "internal",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
        }
    }
}

/// An actor's own error, as people and scripts see it: what failed, where, why, and what to do
/// (orchestration §28). Empty strings mean "does not apply".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// One sentence, lower case, no full stop.
    pub message: String,
    /// Name of the node concerned.
    pub node: String,
    /// Name of the service concerned.
    pub service: String,
    /// Name of the component concerned.
    pub component: String,
    /// The step that failed.
    pub step: String,
    /// The error underneath.
    pub cause: String,
    /// What to do next.
    pub help: String,
}

impl Failure {
    /// A failure with only a kind and a message; the rest is added with the methods below.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            node: String::new(),
            service: String::new(),
            component: String::new(),
            step: String::new(),
            cause: String::new(),
            help: String::new(),
        }
    }

    /// Names the node.
    #[must_use]
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = node.into();
        self
    }

    /// Names the service.
    #[must_use]
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.service = service.into();
        self
    }

    /// Names the component.
    #[must_use]
    pub fn component(mut self, component: impl Into<String>) -> Self {
        self.component = component.into();
        self
    }

    /// Names the step.
    #[must_use]
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = step.into();
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = cause.to_string();
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.cause.is_empty() {
            write!(f, ": {}", self.cause)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// How an ask, a tell or a subscription can fail (design §4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AskError {
    /// No live link to the target, or the actor is gone. Whether the request was carried out is
    /// unknown if it had been sent.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer within the deadline. Whether the request was carried out is unknown.
    #[error("no answer within the deadline")]
    Timeout,
    /// A mailbox or the requests in flight to a peer are at their bound. Nothing was done.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// The caller may not send this message, or is denied. Nothing was done.
    #[error("denied: {0}")]
    Denied(String),
    /// No such actor, node or message target. Nothing was done.
    #[error("not found: {0}")]
    NotFound(String),
    /// The peer does not know this message or this version of it. Nothing was done.
    #[error("not supported by the peer: message {id} version {version}")]
    Unsupported {
        /// The message id.
        id: u16,
        /// The version that was sent.
        version: u16,
    },
    /// The actor answered with its own typed error.
    #[error(transparent)]
    Failed(#[from] Failure),
}
