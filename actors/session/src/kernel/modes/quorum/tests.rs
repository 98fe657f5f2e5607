//! Tests of the quorum mode.

use weft_macp::macp::modes::quorum::v1 as pb;

use crate::kernel::Code;
use crate::kernel::rig::*;

const MODE: &str = "macp.mode.quorum.v1";

fn approve() -> pb::ApprovePayload {
    pb::ApprovePayload { request_id: "r".into(), reason: String::new() }
}

/// Participants `a`, `b`, `c`; `required` approvals are requested.
fn rig(required: u32, rules: &str) -> Rig {
    let mut rig = Rig::under(MODE, &["a", "b", "c"], rules);
    rig.ok(I, "ApprovalRequest", &request(required));
    rig
}

#[test]
fn enough_approvals_can_be_committed() {
    let mut rig = rig(2, "");
    rig.ok("a", "Approve", &approve());
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("b", "Approve", &approve());
    rig.commit(true).expect("resolves");
}

#[test]
fn when_enough_can_no_longer_approve_only_a_negative_outcome_passes() {
    let mut rig = rig(2, "");
    rig.ok("a", "Reject", &approve());
    assert_eq!(rig.refused(I, "Commitment", &commitment(false)), Code::InvalidEnvelope);
    rig.ok("b", "Abstain", &approve());
    assert_eq!(rig.denied(true), ["threshold_not_met"]);
    rig.commit(false).expect("resolves");
}

#[test]
fn an_approval_that_was_reached_may_still_be_declined() {
    let mut rig = rig(1, "");
    rig.ok("a", "Approve", &approve());
    rig.commit(false).expect("resolves");
}

#[test]
fn each_participant_has_one_ballot() {
    let mut rig = rig(2, "");
    rig.ok("a", "Abstain", &approve());
    assert_eq!(rig.refused("a", "Approve", &approve()), Code::InvalidEnvelope);
    assert_eq!(rig.refused(I, "Approve", &approve()), Code::Forbidden);
    let other = pb::ApprovePayload { request_id: "r2".into(), ..approve() };
    assert_eq!(rig.refused("b", "Approve", &other), Code::InvalidEnvelope);
}

#[test]
fn a_request_is_made_once_by_the_initiator_within_the_roster() {
    let mut rig = Rig::with(MODE, &["a", "b", "c"]);
    assert_eq!(rig.refused("a", "Approve", &approve()), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "ApprovalRequest", &request(1)), Code::Forbidden);
    for required in [0, 4] {
        let code = rig.refused(I, "ApprovalRequest", &request(required));
        assert_eq!(code, Code::InvalidEnvelope);
    }
    assert_eq!(rig.refused(I, "Commitment", &commitment(false)), Code::InvalidEnvelope);
    rig.ok(I, "ApprovalRequest", &request(3));
    assert_eq!(rig.refused(I, "ApprovalRequest", &request(3)), Code::InvalidEnvelope);
}

#[test]
fn a_policys_threshold_replaces_what_was_requested() {
    let mut rig = rig(1, r#"{"threshold":{"type":"percentage","value":34}}"#);
    rig.ok("a", "Approve", &approve());
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("b", "Approve", &approve());
    rig.commit(true).expect("34 % of three are two");
}

#[test]
fn a_threshold_without_a_value_is_inert_and_one_over_the_roster_declines_at_once() {
    let mut inert = rig(1, r#"{"threshold":{"type":"n_of_m"}}"#);
    inert.ok("a", "Approve", &approve());
    inert.commit(true).expect("resolves");
    let mut high = rig(1, r#"{"threshold":{"type":"count","value":4}}"#);
    assert_eq!(high.denied(true), ["threshold_not_met"]);
    high.commit(false).expect("resolves");
}
