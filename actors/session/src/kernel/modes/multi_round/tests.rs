//! Tests of the multi-round mode.

use super::value;
use crate::kernel::Code;
use crate::kernel::rig::*;

const MODE: &str = "ext.multi_round.v1";

#[test]
fn equal_values_of_all_converge() {
    let mut rig = Rig::with(MODE, &["a", "b"]);
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("a", "Contribute", &contribute("x"));
    rig.ok("a", "Contribute", &contribute("x"));
    rig.ok("b", "Contribute", &contribute("y"));
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("a", "Contribute", &contribute("y"));
    assert_eq!(rig.refused("b", "Contribute", &contribute("z")), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "Commitment", &commitment(true)), Code::Forbidden);
    rig.commit(true).expect("resolves");
    let resolution = rig.session().resolution().expect("resolved");
    let summary = r#"{"converged_value":"y","final":{"a":"y","b":"y"},"round":3}"#;
    assert_eq!(std::str::from_utf8(resolution), Ok(summary));
}

#[test]
fn outsiders_are_forbidden_and_a_contribution_is_not_empty() {
    let mut rig = Rig::with(MODE, &["a", "b"]);
    assert_eq!(rig.refused(I, "Contribute", &contribute("x")), Code::Forbidden);
    assert_eq!(rig.refused("a", "Contribute", &contribute("")), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "Vote", &contribute("x")), Code::InvalidEnvelope);
}

#[test]
fn old_clients_contribute_json_and_a_canonical_protobuf_wins() {
    assert_eq!(value(br#"{"value":"x"}"#), Ok("x".into()));
    assert_eq!(value(b"\x0a\x01x"), Ok("x".into()));
    // A line feed, a length that is a space, and JSON: both readings fit, the protobuf is canonical.
    let mut both = b"\n ".to_vec();
    both.extend_from_slice(br#"{"value":"0123456789012345678" }"#);
    assert_eq!(both.len(), 34);
    assert_eq!(value(&both), Ok(r#"{"value":"0123456789012345678" }"#.into()));
    assert!(value(b"").is_err());
    assert!(value(b"\xff\xff").is_err());
    assert!(value(br#"{"value":1}"#).is_err());
}
