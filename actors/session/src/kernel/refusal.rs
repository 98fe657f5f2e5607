//! Why something is not accepted: the registry of error codes and the reasons of a policy (§6, §6.1).

use serde::{Deserialize, Serialize};

/// Error codes as clients see them (§6.1). Stored nowhere; new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Code {
    /// No or a bad credential; a sender that is not the caller.
    Unauthenticated,
    /// Authenticated, but not allowed; also a breach of the commitment authority.
    Forbidden,
    /// There is no such session.
    SessionNotFound,
    /// Resolved, expired, cancelled or suspended.
    SessionNotOpen,
    /// A second start.
    SessionAlreadyExists,
    /// Envelope, payload, lifetime and mode rules.
    InvalidEnvelope,
    /// Not version 1.0.
    UnsupportedProtocolVersion,
    /// The mode is not registered.
    ModeNotSupported,
    /// Over the payload limit.
    PayloadTooLarge,
    /// Too many messages, starts or open sessions.
    RateLimited,
    /// The id is not of the form of §7.
    InvalidSessionId,
    /// What was accepted could not be stored.
    InternalError,
    /// The policy is not registered.
    UnknownPolicyVersion,
    /// The session's policy refuses the commitment.
    PolicyDenied,
    /// A policy that is wrong in itself, or for another mode.
    InvalidPolicyDefinition,
    /// The policies come from files.
    RegistryReadOnly,
    /// A bad request that is no envelope.
    InvalidRequest,
    /// The subscriber was too slow.
    StreamLagged,
    /// No manifest of that agent.
    AgentNotFound,
    /// The history is not complete.
    HistoryUnavailable,
    /// No receipt can be given.
    ReceiptUnavailable,
}

impl Code {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::SessionNotOpen => "SESSION_NOT_OPEN",
            Self::SessionAlreadyExists => "SESSION_ALREADY_EXISTS",
            Self::InvalidEnvelope => "INVALID_ENVELOPE",
            Self::UnsupportedProtocolVersion => "UNSUPPORTED_PROTOCOL_VERSION",
            Self::ModeNotSupported => "MODE_NOT_SUPPORTED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::RateLimited => "RATE_LIMITED",
            Self::InvalidSessionId => "INVALID_SESSION_ID",
            Self::InternalError => "INTERNAL_ERROR",
            Self::UnknownPolicyVersion => "UNKNOWN_POLICY_VERSION",
            Self::PolicyDenied => "POLICY_DENIED",
            Self::InvalidPolicyDefinition => "INVALID_POLICY_DEFINITION",
            Self::RegistryReadOnly => "REGISTRY_READ_ONLY",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::StreamLagged => "STREAM_LAGGED",
            Self::AgentNotFound => "AGENT_NOT_FOUND",
            Self::HistoryUnavailable => "HISTORY_UNAVAILABLE",
            Self::ReceiptUnavailable => "RECEIPT_UNAVAILABLE",
        }
    }

    /// Whether a refusal of an envelope with this code ends the stream it came on (§10); otherwise
    /// it is an inline error frame.
    pub const fn ends_stream(self) -> bool {
        matches!(
            self,
            Self::Unauthenticated
                | Self::PayloadTooLarge
                | Self::RateLimited
                | Self::InternalError
                | Self::InvalidSessionId
                | Self::InvalidPolicyDefinition
                | Self::SessionAlreadyExists
        )
    }
}

/// How a unary call tells its refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Surface {
    /// In an Ack with `ok` false; the call itself succeeds.
    InBand,
    /// As the status of the call.
    Status,
}

/// Why a policy refuses a commitment (§6); an open set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DenialCode {
    /// Critical objections veto.
    Veto,
    /// Critical objections hold the decision.
    VetoHold,
    /// Too few voted.
    QuorumNotMet,
    /// Too few approved.
    ThresholdNotMet,
    /// No evaluation is confident enough.
    ConfidenceBelowMinimum,
    /// No evaluation that counts.
    EvaluationRequired,
    /// Nobody voted for or against.
    NoVotes,
    /// The vote approved what is declined.
    DeclineOverApproval,
    /// Nobody voted against what is declined.
    DeclineNotBacked,
    /// The mode's own criterion is not met.
    CriterionNotMet,
    /// The task has no output.
    OutputRequired,
    /// The task may not be taken by another.
    ReassignmentNotAllowed,
    /// The policy's schema is none of those known.
    UnsupportedSchemaVersion,
    /// The policy's rules cannot be read.
    InvalidRules,
    /// None of the above.
    Unspecified,
}

impl DenialCode {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Veto => "veto",
            Self::VetoHold => "veto_hold",
            Self::QuorumNotMet => "quorum_not_met",
            Self::ThresholdNotMet => "threshold_not_met",
            Self::ConfidenceBelowMinimum => "confidence_below_minimum",
            Self::EvaluationRequired => "evaluation_required",
            Self::NoVotes => "no_votes",
            Self::DeclineOverApproval => "decline_over_approval",
            Self::DeclineNotBacked => "decline_not_backed",
            Self::CriterionNotMet => "criterion_not_met",
            Self::OutputRequired => "output_required",
            Self::ReassignmentNotAllowed => "reassignment_not_allowed",
            Self::UnsupportedSchemaVersion => "unsupported_schema_version",
            Self::InvalidRules => "invalid_rules",
            Self::Unspecified => "unspecified",
        }
    }
}

/// One reason of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// What rule it is.
    pub code: DenialCode,
    /// The same for people.
    pub message: String,
    /// Whom it is about: sorted, each once; may be empty.
    pub participants: Vec<String>,
}

impl Denial {
    pub(crate) fn new(code: DenialCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), participants: Vec::new() }
    }

    pub(crate) fn about(mut self, participants: impl IntoIterator<Item = String>) -> Self {
        self.participants = participants.into_iter().collect();
        self.participants.sort_unstable();
        self.participants.dedup();
        self
    }
}

/// Something is not accepted; nothing is changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Refusal {
    /// What clients branch on.
    pub code: Code,
    /// For people.
    pub message: String,
    /// The policy's reasons; only with [`Code::PolicyDenied`].
    pub denials: Vec<Denial>,
    /// Where a unary call shows it.
    pub surface: Surface,
}

impl Refusal {
    /// A refusal that goes into the Ack.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), denials: Vec::new(), surface: Surface::InBand }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidEnvelope, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, message)
    }

    pub(crate) fn denied(denials: Vec<Denial>) -> Self {
        let message =
            denials.iter().map(|denial| denial.message.as_str()).collect::<Vec<_>>().join("; ");
        Self { denials, ..Self::new(Code::PolicyDenied, message) }
    }

    /// The same, as the status of a unary call.
    #[must_use]
    pub fn into_status(mut self) -> Self {
        self.surface = Surface::Status;
        self
    }

    /// `MACPError.details`: JSON with the policy's reasons, otherwise empty (§6).
    pub fn details(&self) -> Vec<u8> {
        if self.denials.is_empty() {
            return Vec::new();
        }
        let denials: Vec<_> = self
            .denials
            .iter()
            .map(|denial| {
                let mut object = serde_json::Map::new();
                object.insert("code".into(), denial.code.as_str().into());
                object.insert("message".into(), denial.message.clone().into());
                if !denial.participants.is_empty() {
                    object.insert("participants".into(), denial.participants.clone().into());
                }
                serde_json::Value::Object(object)
            })
            .collect();
        let reasons: Vec<&str> = self.denials.iter().map(|denial| &*denial.message).collect();
        serde_json::json!({ "denials": denials, "reasons": reasons }).to_string().into_bytes()
    }
}
