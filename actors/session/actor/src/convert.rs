//! The kernel's values as messages have them, and back.

use weft_protocol::{
    CatalogueEdit, ModeView, PolicyView, SessionAck, SessionActivity, SessionAnswer,
    SessionEnvelope, SessionLifecycle, SessionReader, SessionRefusal, SessionState, SessionView,
};
use weft_session::{
    Answer, CatalogueChange, Descriptor, Envelope, Lifecycle, Policy, Refusal, Rights, Session,
    Surface,
};

pub(crate) fn envelope(envelope: SessionEnvelope) -> Envelope {
    Envelope {
        mode: envelope.mode,
        message_type: envelope.message_type,
        message_id: envelope.message_id,
        session_id: envelope.session_id,
        sender: envelope.sender,
        timestamp_ms: envelope.timestamp_ms,
        payload: envelope.payload,
    }
}

/// An envelope as it was sent here.
pub(crate) fn sent(envelope: &Envelope) -> SessionEnvelope {
    let envelope = envelope.clone();
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

/// An accepted envelope as its session's followers get it.
pub(crate) fn followed(envelope: weft_macp::macp::v1::Envelope) -> SessionEnvelope {
    SessionEnvelope {
        mode: envelope.mode,
        message_type: envelope.message_type,
        message_id: envelope.message_id,
        session_id: envelope.session_id,
        sender: envelope.sender,
        timestamp_ms: envelope.timestamp_unix_ms,
        payload: envelope.payload,
    }
}

pub(crate) fn state(state: weft_session::SessionState) -> SessionState {
    match state {
        weft_session::SessionState::Open => SessionState::Open,
        weft_session::SessionState::Resolved => SessionState::Resolved,
        weft_session::SessionState::Expired => SessionState::Expired,
        weft_session::SessionState::Suspended => SessionState::Suspended,
        weft_session::SessionState::Cancelled => SessionState::Cancelled,
    }
}

pub(crate) fn kernel_state(state: SessionState) -> weft_session::SessionState {
    match state {
        SessionState::Open => weft_session::SessionState::Open,
        SessionState::Resolved => weft_session::SessionState::Resolved,
        SessionState::Expired => weft_session::SessionState::Expired,
        SessionState::Suspended => weft_session::SessionState::Suspended,
        SessionState::Cancelled => weft_session::SessionState::Cancelled,
    }
}

pub(crate) fn lifecycle(what: Lifecycle) -> SessionLifecycle {
    match what {
        Lifecycle::Created => SessionLifecycle::Created,
        Lifecycle::Resolved => SessionLifecycle::Resolved,
        Lifecycle::Expired => SessionLifecycle::Expired,
        Lifecycle::Suspended => SessionLifecycle::Suspended,
        Lifecycle::Resumed => SessionLifecycle::Resumed,
        Lifecycle::Cancelled => SessionLifecycle::Cancelled,
    }
}

pub(crate) fn refusal(refusal: Refusal) -> SessionRefusal {
    SessionRefusal {
        code: refusal.code.as_str().to_owned(),
        details: refusal.details(),
        is_status: refusal.surface == Surface::Status,
        message: refusal.message,
    }
}

pub(crate) fn answer(answer: Answer) -> SessionAnswer {
    match answer {
        Ok(accepted) => {
            Ok(SessionAck { duplicate: accepted.duplicate, state: state(accepted.state) })
        }
        Err(why) => Err(refusal(why)),
    }
}

pub(crate) fn view(session: &Session) -> SessionView {
    let metadata = session.metadata();
    SessionView {
        session_id: metadata.session_id,
        mode: metadata.mode,
        state: state(session.state()),
        started_ms: metadata.started_at_unix_ms,
        expires_ms: metadata.expires_at_unix_ms,
        mode_version: metadata.mode_version,
        configuration_version: metadata.configuration_version,
        policy_version: metadata.policy_version,
        participants: metadata.participants,
        activity: metadata
            .participant_activity
            .into_iter()
            .map(|activity| SessionActivity {
                participant: activity.participant_id,
                last_ms: activity.last_message_at_unix_ms,
                count: activity.message_count,
            })
            .collect(),
        initiator: metadata.initiator,
        context_id: metadata.context_id,
        extension_keys: metadata.extension_keys,
    }
}

pub(crate) fn rights(reader: &SessionReader) -> Rights {
    Rights { is_observer: reader.is_observer, ..Rights::of(reader.sender.clone()) }
}

pub(crate) fn mode(mode: &Descriptor) -> ModeView {
    ModeView {
        mode: mode.mode.clone(),
        mode_version: mode.mode_version.clone(),
        title: mode.title.clone(),
        description: mode.description.clone(),
        determinism_class: mode.determinism_class.clone(),
        participant_model: mode.participant_model.clone(),
        message_types: mode.message_types.clone(),
        terminal_message_types: mode.terminal_message_types.clone(),
        schema_uris: mode.schema_uris.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

pub(crate) fn policy(policy: &Policy) -> PolicyView {
    PolicyView {
        policy_id: policy.policy_id.clone(),
        mode: policy.mode.clone(),
        description: policy.description.clone(),
        rules: policy.rules.clone(),
        schema_version: policy.schema_version,
    }
}

pub(crate) fn kernel_policy(policy: PolicyView) -> Policy {
    Policy {
        policy_id: policy.policy_id,
        mode: policy.mode,
        description: policy.description,
        rules: policy.rules,
        schema_version: policy.schema_version,
    }
}

pub(crate) fn change(edit: CatalogueEdit) -> CatalogueChange {
    match edit {
        CatalogueEdit::RegisterMode(mode) => CatalogueChange::RegisterMode(Descriptor {
            mode: mode.mode,
            mode_version: mode.mode_version,
            title: mode.title,
            description: mode.description,
            determinism_class: mode.determinism_class,
            participant_model: mode.participant_model,
            message_types: mode.message_types,
            terminal_message_types: mode.terminal_message_types,
            schema_uris: mode.schema_uris.into_iter().collect(),
        }),
        CatalogueEdit::UnregisterMode { mode } => CatalogueChange::UnregisterMode { mode },
        CatalogueEdit::PromoteMode { mode, name } => CatalogueChange::PromoteMode { mode, name },
        CatalogueEdit::RegisterPolicy(policy) => {
            CatalogueChange::RegisterPolicy(kernel_policy(policy))
        }
        CatalogueEdit::UnregisterPolicy { policy_id } => {
            CatalogueChange::UnregisterPolicy { policy_id }
        }
    }
}
