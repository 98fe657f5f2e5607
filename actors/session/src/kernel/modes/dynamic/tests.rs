//! Tests of modes that were registered while running.

use prost::Message as _;
use weft_macp::macp::v1::{CommitmentPayload, SessionStartPayload};

use crate::kernel::rig::*;
use crate::kernel::{CatalogueChange, Code, Descriptor};

const MODE: &str = "ext.auction.v1";

fn descriptor() -> Descriptor {
    Descriptor {
        mode: MODE.into(),
        mode_version: "2.1.0".into(),
        message_types: vec!["SessionStart".into(), "Bid".into(), "Commitment".into()],
        terminal_message_types: vec!["Commitment".into()],
        ..Descriptor::default()
    }
}

fn rig(participants: &[&str]) -> Rig {
    let mut rig = Rig::new();
    rig.catalogue.apply(CatalogueChange::RegisterMode(descriptor())).expect("registers");
    let payload = SessionStartPayload {
        participants: participants.iter().map(|id| (*id).to_owned()).collect(),
        ttl_ms: 1000,
        ..Default::default()
    };
    let envelope = rig.envelope(MODE, "SessionStart", I, payload.encode_to_vec());
    rig.send(&envelope).expect("starts");
    rig
}

#[test]
fn declared_types_are_taken_from_participants_and_others_are_refused() {
    let mut rig = rig(&["a"]);
    assert_eq!(rig.session().metadata().mode_version, "2.1.0");
    rig.ok("a", "Bid", &contribute("anything"));
    assert_eq!(rig.refused("a", "Ask", &contribute("x")), Code::InvalidEnvelope);
    assert_eq!(rig.refused(I, "Bid", &contribute("x")), Code::Forbidden);
    let commitment = CommitmentPayload {
        mode_version: "2.1.0".into(),
        configuration_version: String::new(),
        ..commitment(true)
    };
    assert_eq!(rig.refused("a", "Commitment", &commitment), Code::Forbidden);
    rig.ok(I, "Commitment", &commitment);
    let resolution = rig.session().resolution().expect("resolved");
    let summary = r#"{"action":"it.approved","commitment_id":"c-1"}"#;
    assert_eq!(std::str::from_utf8(resolution), Ok(summary));
}

#[test]
fn with_nobody_listed_anybody_speaks() {
    let mut rig = rig(&[]);
    rig.ok("stranger", "Bid", &contribute("x"));
}

#[test]
fn a_session_goes_on_when_its_mode_is_gone() {
    let mut rig = rig(&["a"]);
    let change = CatalogueChange::UnregisterMode { mode: MODE.into() };
    rig.catalogue.apply(change).expect("unregisters");
    rig.ok("a", "Bid", &contribute("x"));
}

#[test]
fn a_lifetime_is_required_and_a_promoted_mode_has_the_canonical_contract() {
    let mut rig = Rig::new();
    rig.catalogue.apply(CatalogueChange::RegisterMode(descriptor())).expect("registers");
    let eternal = SessionStartPayload::default();
    let bytes = SessionStartPayload { intent: "x".into(), ..eternal.clone() }.encode_to_vec();
    let envelope = rig.envelope(MODE, "SessionStart", I, bytes);
    assert_eq!(rig.send(&envelope).expect_err("no ttl").code, Code::InvalidEnvelope);
    let change = CatalogueChange::PromoteMode { mode: MODE.into(), name: String::new() };
    rig.catalogue.apply(change).expect("promotes");
    let bytes = SessionStartPayload { ttl_ms: 1000, ..eternal }.encode_to_vec();
    let envelope = rig.envelope(MODE, "SessionStart", I, bytes);
    assert_eq!(rig.send(&envelope).expect_err("no versions").code, Code::InvalidEnvelope);
}
