//! Tests of what is checked before any session is looked at; (T) marks what clients observe.

use super::*;

fn envelope() -> pb::Envelope {
    pb::Envelope {
        macp_version: "1.0".into(),
        mode: "macp.mode.decision.v1".into(),
        message_type: "Vote".into(),
        message_id: "m".into(),
        session_id: "s".into(),
        sender: String::new(),
        timestamp_unix_ms: 0,
        payload: vec![0; 4],
    }
}

fn refused(change: impl FnOnce(&mut pb::Envelope)) -> Code {
    let mut envelope = envelope();
    change(&mut envelope);
    shape(&envelope, 4).expect_err("is refused").code
}

#[test]
fn the_shape_is_checked_in_order() {
    assert_eq!(shape(&envelope(), 4), Ok(Audience::Session));
    // Everything is wrong; the first check answers.
    let code = refused(|e| {
        *e = pb::Envelope { macp_version: "1.1".into(), payload: vec![0; 9], ..Default::default() };
    });
    assert_eq!(code, Code::UnsupportedProtocolVersion);
    assert_eq!(refused(|e| e.macp_version.clear()), Code::UnsupportedProtocolVersion);
    assert_eq!(refused(|e| e.message_type.clear()), Code::InvalidEnvelope);
    assert_eq!(refused(|e| e.message_id.clear()), Code::InvalidEnvelope);
    assert_eq!(refused(|e| e.session_id.clear()), Code::InvalidEnvelope);
    assert_eq!(refused(|e| e.mode = " ".into()), Code::InvalidEnvelope);
    assert_eq!(refused(|e| e.payload.push(0)), Code::PayloadTooLarge);
    let start = pb::Envelope { message_type: "SessionStart".into(), ..envelope() };
    assert_eq!(shape(&start, 4), Ok(Audience::Start));
}

#[test]
fn signals_have_no_session_and_progress_has_all_or_nothing() {
    let ambient = |kind: &str, mode: &str, session: &str| {
        let envelope = pb::Envelope {
            message_type: kind.into(),
            mode: mode.into(),
            session_id: session.into(),
            ..envelope()
        };
        shape(&envelope, 4).is_ok_and(|audience| audience == Audience::Ambient)
    };
    assert!(ambient("Signal", "", ""));
    assert!(!ambient("Signal", "m", "") && !ambient("Signal", "", "s"));
    assert!(ambient("Progress", "", "") && ambient("Progress", "m", "s"));
    assert!(!ambient("Progress", "m", "") && !ambient("Progress", "", "s"));
}

#[test]
fn a_signal_says_what_it_is() {
    let signal = |kind: &str, id: &str| {
        encode(&pb::SignalPayload {
            signal_type: kind.into(),
            correlation_session_id: id.into(),
            ..Default::default()
        })
    };
    assert!(ambient("Signal", b"").is_ok());
    assert!(ambient("Signal", &signal("busy", "s")).is_ok());
    assert!(ambient("Signal", &signal(" ", "s")).is_err());
    assert!(ambient("Signal", b"\xff").is_err());
    assert!(ambient("Progress", b"").is_ok());
    assert!(ambient("Progress", b"\xff").is_err());
}

// (T) §5: the sender rule.
#[test]
fn the_sender_is_who_is_authenticated() {
    let mut rights = Rights::of("agent://a");
    let mut envelope = Envelope::from(envelope());
    rights.claim(&mut envelope).expect("an empty sender is filled in");
    assert_eq!(envelope.sender, "agent://a");
    rights.claim(&mut envelope).expect("the same sender");
    envelope.sender = "agent://b".into();
    assert_eq!(rights.claim(&mut envelope).expect_err("spoof").code, Code::Unauthenticated);
    assert_eq!(envelope.sender, "agent://b", "as it was");
    envelope.sender.clear();
    rights.allowed_modes = vec!["another".into()];
    assert_eq!(rights.claim(&mut envelope).expect_err("mode").code, Code::Forbidden);
    envelope.mode.clear();
    assert_eq!(rights.claim(&mut envelope).expect_err("ambient").code, Code::Forbidden);
    rights.allowed_modes.clear();
    rights.can_start_sessions = false;
    rights.claim(&mut envelope).expect("not a start");
    envelope.message_type = "SessionStart".into();
    assert_eq!(rights.claim(&mut envelope).expect_err("start").code, Code::Forbidden);
}

// (T) §10: which refusals end a stream.
#[test]
fn mode_refusals_are_inline_on_a_stream_and_others_end_it() {
    for inline in [
        Code::InvalidEnvelope,
        Code::Forbidden,
        Code::PolicyDenied,
        Code::SessionNotFound,
        Code::SessionNotOpen,
        Code::UnknownPolicyVersion,
        Code::ModeNotSupported,
        Code::UnsupportedProtocolVersion,
    ] {
        assert!(!inline.ends_stream(), "{}", inline.as_str());
    }
    for ending in [
        Code::Unauthenticated,
        Code::PayloadTooLarge,
        Code::RateLimited,
        Code::InternalError,
        Code::InvalidSessionId,
        Code::InvalidPolicyDefinition,
        Code::SessionAlreadyExists,
    ] {
        assert!(ending.ends_stream(), "{}", ending.as_str());
    }
}
