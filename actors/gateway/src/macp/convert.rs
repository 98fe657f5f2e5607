//! MACP's messages from ours, and back.

use weft_macp::macp::v1 as pb;
use weft_protocol::{ModeView, PolicyView, SessionEnvelope, SessionLifecycle, SessionView};
use weft_session::Envelope;

pub(crate) fn own(envelope: Envelope) -> SessionEnvelope {
    SessionEnvelope {
        mode: envelope.mode,
        message_type: envelope.message_type,
        message_id: envelope.message_id,
        session_id: envelope.session_id,
        sender: envelope.sender,
        timestamp_ms: envelope.timestamp_ms,
        payload: envelope.payload,
    }
}

pub(crate) fn envelope(envelope: SessionEnvelope) -> pb::Envelope {
    pb::Envelope {
        macp_version: "1.0".to_owned(),
        mode: envelope.mode,
        message_type: envelope.message_type,
        message_id: envelope.message_id,
        session_id: envelope.session_id,
        sender: envelope.sender,
        timestamp_unix_ms: envelope.timestamp_ms,
        payload: envelope.payload,
    }
}

pub(crate) fn metadata(view: SessionView) -> pb::SessionMetadata {
    pb::SessionMetadata {
        session_id: view.session_id,
        mode: view.mode,
        state: view.state.number(),
        started_at_unix_ms: view.started_ms,
        expires_at_unix_ms: view.expires_ms,
        mode_version: view.mode_version,
        configuration_version: view.configuration_version,
        policy_version: view.policy_version,
        participants: view.participants,
        participant_activity: view
            .activity
            .into_iter()
            .map(|activity| pb::ParticipantActivity {
                participant_id: activity.participant,
                last_message_at_unix_ms: activity.last_ms,
                message_count: activity.count,
            })
            .collect(),
        initiator: view.initiator,
        context_id: view.context_id,
        extension_keys: view.extension_keys,
    }
}

pub(crate) fn lifecycle(what: SessionLifecycle) -> i32 {
    use pb::session_lifecycle_event::EventType;
    let kind = match what {
        SessionLifecycle::Created => EventType::Created,
        SessionLifecycle::Resolved => EventType::Resolved,
        SessionLifecycle::Expired => EventType::Expired,
        SessionLifecycle::Suspended => EventType::Suspended,
        SessionLifecycle::Resumed => EventType::Resumed,
        SessionLifecycle::Cancelled => EventType::Cancelled,
    };
    kind.into()
}

pub(crate) fn descriptor(mode: ModeView) -> pb::ModeDescriptor {
    pb::ModeDescriptor {
        mode: mode.mode,
        mode_version: mode.mode_version,
        title: mode.title,
        description: mode.description,
        determinism_class: mode.determinism_class,
        participant_model: mode.participant_model,
        message_types: mode.message_types,
        terminal_message_types: mode.terminal_message_types,
        schema_uris: mode.schema_uris.into_iter().collect(),
    }
}

pub(crate) fn mode(descriptor: pb::ModeDescriptor) -> ModeView {
    let mut schema_uris: Vec<_> = descriptor.schema_uris.into_iter().collect();
    schema_uris.sort();
    ModeView {
        mode: descriptor.mode,
        mode_version: descriptor.mode_version,
        title: descriptor.title,
        description: descriptor.description,
        determinism_class: descriptor.determinism_class,
        participant_model: descriptor.participant_model,
        message_types: descriptor.message_types,
        terminal_message_types: descriptor.terminal_message_types,
        schema_uris,
    }
}

pub(crate) fn policy(descriptor: pb::PolicyDescriptor) -> PolicyView {
    PolicyView {
        policy_id: descriptor.policy_id,
        mode: descriptor.mode,
        description: descriptor.description,
        rules: descriptor.rules,
        schema_version: descriptor.schema_version,
    }
}

pub(crate) fn policy_descriptor(policy: PolicyView) -> pb::PolicyDescriptor {
    pb::PolicyDescriptor {
        policy_id: policy.policy_id,
        mode: policy.mode,
        description: policy.description,
        rules: policy.rules,
        schema_version: policy.schema_version,
        registered_at_unix_ms: 0,
    }
}

/// The token of the page after a session; opaque to clients.
pub(crate) fn page_token(last: &str) -> String {
    last.bytes().fold(String::from("76313a"), |out, byte| out + &format!("{byte:02x}"))
}

/// The session that a page token names; `None`: it is none of ours.
pub(crate) fn page_after(token: &str) -> Option<String> {
    let digits = token.strip_prefix("76313a").filter(|digits| digits.is_ascii())?;
    if token.len() > 1024 || !digits.len().is_multiple_of(2) || digits.is_empty() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_names_its_session_and_others_are_refused() {
        assert_eq!(page_after(&page_token("abc-é")).as_deref(), Some("abc-é"));
        for wrong in ["", "x", "76313a", "76313a6", "76313azz", "76313aff", "7631", "76313aé"] {
            assert_eq!(page_after(wrong), None, "{wrong}");
        }
        assert_eq!(page_after(&page_token(&"a".repeat(600))), None);
    }
}
