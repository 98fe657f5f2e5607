//! Refusals as clients see them: statuses with their code, Acks, inline errors (§6, §6.1).

use tonic::metadata::{MetadataValue, errors::InvalidMetadataValue};
use tonic::{Code, Status};
use weft_macp::macp::v1 as pb;
use weft_protocol::SessionRefusal;
use weft_session::Refusal;
use weft_wire::{AskError, FailureKind};

/// Metadata of every status: the code that clients branch on.
const CODE: &str = "macp-error-code";
/// Metadata of a status with details.
const DETAILS: &str = "macp-error-details-bin";

pub(crate) fn refusal(code: &str, message: impl Into<String>) -> SessionRefusal {
    SessionRefusal {
        code: code.to_owned(),
        message: message.into(),
        details: Vec::new(),
        is_status: false,
    }
}

/// A refusal of the kernel's checks that need no session.
pub(crate) fn early(refusal: Refusal) -> SessionRefusal {
    SessionRefusal {
        code: refusal.code.as_str().to_owned(),
        details: refusal.details(),
        message: refusal.message,
        is_status: false,
    }
}

/// A refusal because sessions could not be asked. Nothing is known of what became of the request,
/// except that sending it again does no harm.
pub(crate) fn unasked(error: &AskError) -> SessionRefusal {
    refusal("INTERNAL_ERROR", error.to_string())
}

/// The gRPC status of a code (§6.1); one of a later version is internal.
const fn grpc(code: &str) -> Code {
    match code.as_bytes() {
        b"UNAUTHENTICATED" => Code::Unauthenticated,
        b"FORBIDDEN" | b"POLICY_DENIED" | b"UNAUTHORIZED" => Code::PermissionDenied,
        b"SESSION_NOT_FOUND" | b"UNKNOWN_POLICY_VERSION" | b"AGENT_NOT_FOUND" => Code::NotFound,
        b"SESSION_NOT_OPEN"
        | b"REGISTRY_READ_ONLY"
        | b"HISTORY_UNAVAILABLE"
        | b"RECEIPT_UNAVAILABLE" => Code::FailedPrecondition,
        b"DUPLICATE_MESSAGE" | b"SESSION_ALREADY_EXISTS" => Code::AlreadyExists,
        b"INVALID_ENVELOPE"
        | b"UNSUPPORTED_PROTOCOL_VERSION"
        | b"MODE_NOT_SUPPORTED"
        | b"INVALID_SESSION_ID"
        | b"INVALID_POLICY_DEFINITION"
        | b"INVALID_REQUEST" => Code::InvalidArgument,
        b"PAYLOAD_TOO_LARGE" | b"RATE_LIMITED" | b"STREAM_LAGGED" => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

/// A refusal as the status of a call.
pub(crate) fn status(refusal: &SessionRefusal) -> Status {
    with_code(Status::new(grpc(&refusal.code), refusal.message.clone()), refusal)
}

fn with_code(mut status: Status, refusal: &SessionRefusal) -> Status {
    let code: Result<MetadataValue<_>, InvalidMetadataValue> = refusal.code.parse();
    if let Ok(code) = code {
        status.metadata_mut().insert(CODE, code);
    }
    if !refusal.details.is_empty() {
        let details = MetadataValue::from_bytes(&refusal.details);
        status.metadata_mut().insert_bin(DETAILS, details);
    }
    status
}

/// As [`status`], from its parts.
pub(crate) fn refused(code: &str, message: impl Into<String>) -> Status {
    status(&refusal(code, message))
}

/// A status because sessions could not be asked: `UNAVAILABLE` where trying again may help.
pub(crate) fn unanswered(error: &AskError) -> Status {
    let gone = match error {
        AskError::Failed(failure) => {
            matches!(failure.kind, FailureKind::Unavailable | FailureKind::Timeout)
        }
        AskError::Unreachable(_) | AskError::Timeout => true,
        _ => false,
    };
    let code = if gone { Code::Unavailable } else { Code::Internal };
    let refusal = unasked(error);
    with_code(Status::new(code, refusal.message.clone()), &refusal)
}

/// Whether an envelope refused with this code ends the stream that it came on (§10).
pub(crate) fn ends_stream(code: &str) -> bool {
    matches!(
        code,
        "UNAUTHENTICATED"
            | "PAYLOAD_TOO_LARGE"
            | "RATE_LIMITED"
            | "INTERNAL_ERROR"
            | "INVALID_SESSION_ID"
            | "INVALID_POLICY_DEFINITION"
            | "SESSION_ALREADY_EXISTS"
    )
}

/// A refusal within an answer.
pub(crate) fn error(refusal: SessionRefusal, session_id: &str, message_id: &str) -> pb::MacpError {
    pb::MacpError {
        code: refusal.code,
        message: refusal.message,
        session_id: session_id.to_owned(),
        message_id: message_id.to_owned(),
        details: refusal.details,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_code_and_its_details() {
        let mut refused = refusal("POLICY_DENIED", "no");
        refused.details = b"{}".to_vec();
        let status = status(&refused);
        assert_eq!(status.code(), Code::PermissionDenied);
        let code = status.metadata().get(CODE).and_then(|code| code.to_str().ok());
        assert_eq!(code, Some("POLICY_DENIED"));
        let details = status.metadata().get_bin(DETAILS).and_then(|d| d.to_bytes().ok());
        assert_eq!(details.as_deref(), Some(b"{}".as_slice()));
    }

    #[test]
    fn which_codes_end_a_stream_is_what_the_kernel_says() {
        for code in [
            weft_session::Code::Unauthenticated,
            weft_session::Code::Forbidden,
            weft_session::Code::SessionNotOpen,
            weft_session::Code::InvalidEnvelope,
            weft_session::Code::PolicyDenied,
            weft_session::Code::RateLimited,
            weft_session::Code::PayloadTooLarge,
            weft_session::Code::SessionAlreadyExists,
            weft_session::Code::InternalError,
            weft_session::Code::InvalidSessionId,
            weft_session::Code::InvalidPolicyDefinition,
        ] {
            assert_eq!(ends_stream(code.as_str()), code.ends_stream(), "{code:?}");
        }
    }
}
