//! Tests of the handoff mode.

use weft_macp::macp::modes::handoff::v1 as pb;

use crate::kernel::rig::*;
use crate::kernel::{Code, Lifecycle, SessionState};

const MODE: &str = "macp.mode.handoff.v1";
const TIMEOUT: &str = r#"{"acceptance":{"implicit_accept_timeout_ms":1000}}"#;

fn accept(id: &str) -> pb::HandoffAcceptPayload {
    pb::HandoffAcceptPayload { handoff_id: id.into(), ..Default::default() }
}

fn decline(id: &str) -> pb::HandoffDeclinePayload {
    pb::HandoffDeclinePayload { handoff_id: id.into(), ..Default::default() }
}

fn context(id: &str) -> pb::HandoffContextPayload {
    pb::HandoffContextPayload { handoff_id: id.into(), ..Default::default() }
}

/// With an offer `h1` to `a`.
fn rig(rules: &str) -> Rig {
    let mut rig = Rig::under(MODE, &[I, "a", "b"], rules);
    rig.ok(I, "HandoffOffer", &offer("h1", "a"));
    rig
}

#[test]
fn an_offer_is_accepted_and_committed() {
    let mut rig = rig("");
    rig.ok(I, "HandoffContext", &context("h1"));
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("a", "HandoffAccept", &accept("h1"));
    rig.ok(I, "HandoffContext", &context("h1"));
    rig.commit(true).expect("resolves");
}

#[test]
fn a_declined_offer_can_be_followed_by_one_to_another() {
    let mut rig = rig("");
    assert_eq!(rig.refused(I, "HandoffOffer", &offer("h2", "b")), Code::InvalidEnvelope);
    rig.ok("a", "HandoffDecline", &decline("h1"));
    assert_eq!(rig.refused(I, "HandoffOffer", &offer("h1", "b")), Code::InvalidEnvelope);
    assert_eq!(rig.refused(I, "HandoffOffer", &offer("h2", "a")), Code::InvalidEnvelope);
    rig.ok(I, "HandoffOffer", &offer("h2", "b"));
    rig.ok("b", "HandoffAccept", &accept("h2"));
    assert_eq!(rig.refused(I, "HandoffOffer", &offer("h3", "b")), Code::InvalidEnvelope);
    rig.commit(true).expect("resolves");
}

#[test]
fn only_the_initiator_offers_and_only_the_target_answers() {
    let mut rig = rig("");
    assert_eq!(rig.refused("a", "HandoffOffer", &offer("h2", "b")), Code::Forbidden);
    assert_eq!(rig.refused("a", "HandoffContext", &context("h1")), Code::Forbidden);
    for sender in [I, "b"] {
        assert_eq!(rig.refused(sender, "HandoffAccept", &accept("h1")), Code::Forbidden);
        assert_eq!(rig.refused(sender, "HandoffDecline", &decline("h1")), Code::Forbidden);
    }
    assert_eq!(rig.refused("x", "HandoffAccept", &accept("h1")), Code::Forbidden);
    assert_eq!(rig.refused("a", "HandoffAccept", &accept("h9")), Code::InvalidEnvelope);
    assert_eq!(rig.refused(I, "HandoffContext", &context("h9")), Code::InvalidEnvelope);
    let other = pb::HandoffAcceptPayload { accepted_by: "b".into(), ..accept("h1") };
    assert_eq!(rig.refused("a", "HandoffAccept", &other), Code::InvalidEnvelope);
    rig.ok("a", "HandoffAccept", &accept("h1"));
    assert_eq!(rig.refused("a", "HandoffDecline", &decline("h1")), Code::InvalidEnvelope);
}

#[test]
fn an_offer_is_for_another_participant() {
    let mut rig = Rig::with(MODE, &[I, "a"]);
    for target in [I, "stranger", ""] {
        assert_eq!(rig.refused(I, "HandoffOffer", &offer("h1", target)), Code::InvalidEnvelope);
    }
    assert_eq!(rig.refused(I, "HandoffOffer", &offer("", "a")), Code::InvalidEnvelope);
}

#[test]
fn a_handoff_needs_two_and_the_initiator_among_them() {
    for participants in [&[I][..], &["a", "b"][..]] {
        let mut rig = Rig::new();
        let payload = prost::Message::encode_to_vec(&start(participants));
        let envelope = rig.envelope(MODE, "SessionStart", I, payload);
        assert_eq!(rig.send(&envelope).expect_err("refused").code, Code::InvalidEnvelope);
    }
}

#[test]
fn no_client_speaks_for_the_server() {
    let mut rig = rig("");
    let implicit = pb::HandoffAcceptPayload { implicit: true, ..accept("h1") };
    assert_eq!(rig.refused("a", "HandoffAccept", &implicit), Code::InvalidEnvelope);
    let payload = prost::Message::encode_to_vec(&accept("h1"));
    let mut envelope = rig.envelope(MODE, "HandoffAccept", "a", payload);
    envelope.message_id = "implicit-accept:h1".into();
    assert_eq!(rig.send(&envelope).expect_err("reserved").code, Code::InvalidEnvelope);
    envelope.message_id = "Implicit-accept:h1".into();
    rig.send(&envelope).expect("another case is another id");
    let payload = prost::Message::encode_to_vec(&start(&[I, "a"]));
    let mut envelope = Rig::new().envelope(MODE, "SessionStart", I, payload);
    envelope.message_id = "implicit-accept:x".into();
    assert_eq!(Rig::new().send(&envelope).expect_err("reserved").code, Code::InvalidEnvelope);
}

#[test]
fn the_server_accepts_at_the_deadline_even_if_the_message_is_refused() {
    let mut rig = rig(TIMEOUT);
    rig.now += 999;
    assert_eq!(rig.refused("b", "HandoffAccept", &accept("h1")), Code::Forbidden);
    rig.now += 5000;
    let refusal = rig.say("a", "HandoffDecline", &decline("h1")).expect_err("too late");
    assert_eq!(refusal.code, Code::InvalidEnvelope);
    let session = rig.session();
    assert_eq!(session.last_ordinal(), 3);
    let envelope = session.envelope(3).expect("there");
    assert_eq!(envelope.message_id, "implicit-accept:h1");
    assert_eq!(envelope.message_type, "HandoffAccept");
    assert_eq!(envelope.sender, "a");
    assert_eq!(envelope.timestamp_unix_ms, T0 + 1000);
    let payload: pb::HandoffAcceptPayload =
        prost::Message::decode(&*envelope.payload).expect("decodes");
    assert_eq!(payload.accepted_by, "a");
    assert_eq!(payload.reason, "implicit accept (timeout)");
    assert!(payload.implicit);
    let activity = &session.metadata().participant_activity;
    assert!(activity.iter().all(|a| a.participant_id != "a"), "it counts as nobody's activity");
    rig.commit(true).expect("resolves");
}

#[test]
fn who_is_not_allowed_to_speak_does_not_make_the_server_speak() {
    let mut rig = rig(TIMEOUT);
    rig.now += 5000;
    assert_eq!(rig.refused("x", "HandoffAccept", &accept("h1")), Code::Forbidden);
    assert_eq!(rig.session().last_ordinal(), 2);
}

#[test]
fn the_sweep_accepts_too() {
    let mut rig = rig(TIMEOUT);
    assert_eq!(rig.sessions.next_due(), Some(T0 + 1000));
    rig.now += 1000;
    rig.sweep();
    assert_eq!(rig.session().last_ordinal(), 3);
    rig.sweep();
    assert_eq!(rig.session().last_ordinal(), 3, "once");
}

#[test]
fn time_suspended_does_not_count_towards_the_implicit_accept() {
    let mut rig = rig(TIMEOUT);
    rig.now += 400;
    rig.suspend(I).expect("suspends");
    rig.now += 10_000;
    rig.resume(I).expect("resumes");
    rig.now += 599;
    rig.sweep();
    assert_eq!(rig.session().last_ordinal(), 2);
    rig.now += 1;
    rig.sweep();
    let envelope = rig.session().envelope(3).expect("accepted");
    assert_eq!(envelope.timestamp_unix_ms, T0 + 11_000);
}

#[test]
fn what_was_due_before_a_suspension_is_said_before_it() {
    let mut rig = rig(TIMEOUT);
    rig.now += 2000;
    rig.suspend(I).expect("suspends");
    assert_eq!(rig.session().last_ordinal(), 3);
    assert_eq!(rig.state(), SessionState::Suspended);
    assert_eq!(rig.events(), [Lifecycle::Created, Lifecycle::Suspended]);
}
