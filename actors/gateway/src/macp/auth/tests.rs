//! Tests of who calls.

use super::*;

fn with(name: &'static str, value: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert(name, value.parse().expect("ASCII"));
    metadata
}

#[test]
fn a_static_token_gives_its_senders_rights_and_no_other() {
    let json = r#"{"tokens":[{"token":"t1","sender":"agent://a","max_open_sessions":2},
        {"token":"t2","sender":"agent://o","is_observer":true,"can_start_sessions":false}]}"#;
    let auth = Auth::tokens("test", json).expect("reads");
    let one = auth.caller(&with("authorization", "Bearer t1")).expect("known");
    assert_eq!((one.rights.sender.as_str(), one.rights.max_open_sessions), ("agent://a", Some(2)));
    assert!(one.rights.can_start_sessions && !one.rights.is_observer && one.is_authenticated);
    let two = auth.caller(&with("x-macp-token", "t2")).expect("known");
    assert!(two.rights.is_observer && !two.rights.can_start_sessions);
    for refused in ["Bearer t3", "bearer t1", "t1", "Bearer "] {
        let code = auth.caller(&with("authorization", refused)).expect_err("refused").code;
        assert_eq!(code, "UNAUTHENTICATED", "{refused}");
    }
    assert!(auth.caller(&MetadataMap::new()).is_err());
}

#[test]
fn a_list_is_read_too_and_a_wrong_document_says_what_it_should_be() {
    assert!(Auth::tokens("t", r#"[{"token":"a","sender":"s"}]"#).is_ok());
    for wrong in ["{}", "nonsense", r#"[{"token":"a"}]"#, r#"[{"token":"a.b","sender":"s"}]"#] {
        let error = Auth::tokens("MACP_AUTH_TOKENS_JSON", wrong).expect_err("refused").to_string();
        assert!(error.starts_with("MACP_AUTH_TOKENS_JSON: "), "{error}");
    }
}

#[test]
fn in_development_the_token_is_the_sender_and_the_header_only_if_it_is_trusted() {
    let auth = Auth::Development { sender_header: false };
    let caller = auth.caller(&with("authorization", "Bearer agent://x")).expect("anybody");
    assert_eq!(caller.rights.sender, "agent://x");
    assert!(caller.rights.can_manage_mode_registry && !caller.rights.is_observer);
    assert!(!caller.is_authenticated);
    assert!(auth.caller(&with("x-macp-sender", "agent://y")).is_err());
    let trusting = Auth::Development { sender_header: true };
    let caller = trusting.caller(&with("x-macp-sender", "agent://y")).expect("trusted");
    assert_eq!(caller.rights.sender, "agent://y");
}
