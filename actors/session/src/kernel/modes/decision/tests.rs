//! Tests of the decision mode.

use crate::kernel::rig::*;
use crate::kernel::{Code, SessionState};

const MODE: &str = "macp.mode.decision.v1";

fn rig() -> Rig {
    Rig::with(MODE, &["a", "b"])
}

#[test]
fn a_decision_goes_from_proposal_to_votes_to_commitment() {
    let mut rig = rig();
    rig.ok("a", "Proposal", &option("p1"));
    rig.ok("b", "Evaluation", &evaluation("p1", "APPROVE", 0.9));
    rig.ok("b", "Objection", &objection("p1", "low"));
    rig.ok("a", "Vote", &vote("p1", "APPROVE"));
    rig.ok("b", "Vote", &vote("p1", "ABSTAIN"));
    let accepted = rig.commit(true).expect("resolves");
    assert_eq!(accepted.state, SessionState::Resolved);
    assert_eq!(rig.session().last_ordinal(), 7);
}

#[test]
fn only_participants_speak_and_the_initiator_is_none_unless_listed() {
    let mut rig = rig();
    for sender in [I, "outsider"] {
        assert_eq!(rig.refused(sender, "Proposal", &option("p1")), Code::Forbidden);
    }
    assert_eq!(rig.refused("a", "Commitment", &commitment(true)), Code::Forbidden);
}

#[test]
fn with_nobody_listed_nobody_speaks_and_nothing_is_committed() {
    let mut rig = Rig::with(MODE, &[]);
    assert_eq!(rig.refused(I, "Proposal", &option("p1")), Code::Forbidden);
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
}

#[test]
fn unknown_types_and_the_servers_own_are_forbidden_to_everybody() {
    let mut rig = rig();
    for kind in ["SessionCancel", "SessionSuspend", "SessionResume", "TtlExpired", "Approve"] {
        assert_eq!(rig.refused("a", kind, &option("p1")), Code::Forbidden);
        assert_eq!(rig.refused(I, kind, &option("p1")), Code::Forbidden);
    }
}

#[test]
fn enumerations_are_exact() {
    let mut rig = rig();
    rig.ok("a", "Proposal", &option("p1"));
    for how in ["approve", "", "MAYBE"] {
        let code = rig.refused("a", "Evaluation", &evaluation("p1", how, 0.5));
        assert_eq!(code, Code::InvalidEnvelope);
    }
    for confidence in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let code = rig.refused("a", "Evaluation", &evaluation("p1", "REVIEW", confidence));
        assert_eq!(code, Code::InvalidEnvelope);
    }
    for severity in ["", "CRITICAL", "fatal"] {
        let code = rig.refused("a", "Objection", &objection("p1", severity));
        assert_eq!(code, Code::InvalidEnvelope);
    }
    for cast in ["approve", "", "YES"] {
        assert_eq!(rig.refused("a", "Vote", &vote("p1", cast)), Code::InvalidEnvelope);
    }
    for confidence in [0.0, 1.0] {
        rig.ok("a", "Evaluation", &evaluation("p1", "BLOCK", confidence));
    }
}

#[test]
fn proposals_have_an_id_of_their_own_and_an_option() {
    let mut rig = rig();
    let mut blank = option(" ");
    assert_eq!(rig.refused("a", "Proposal", &blank), Code::InvalidEnvelope);
    blank = option("p1");
    blank.option = "\t".into();
    assert_eq!(rig.refused("a", "Proposal", &blank), Code::InvalidEnvelope);
    rig.ok("a", "Proposal", &option("p1"));
    assert_eq!(rig.refused("b", "Proposal", &option("p1")), Code::InvalidEnvelope);
}

#[test]
fn nothing_refers_to_a_proposal_that_is_not_there() {
    let mut rig = rig();
    let messages = [
        rig.refused("a", "Evaluation", &evaluation("p1", "APPROVE", 0.5)),
        rig.refused("a", "Objection", &objection("p1", "high")),
        rig.refused("a", "Vote", &vote("p1", "APPROVE")),
    ];
    assert_eq!(messages, [Code::InvalidEnvelope; 3]);
}

#[test]
fn the_first_vote_ends_proposals_evaluations_and_objections() {
    let mut rig = rig();
    rig.ok("a", "Proposal", &option("p1"));
    rig.ok("a", "Proposal", &option("p2"));
    rig.ok("a", "Vote", &vote("p1", "REJECT"));
    assert_eq!(rig.refused("b", "Proposal", &option("p3")), Code::InvalidEnvelope);
    let late = rig.refused("b", "Evaluation", &evaluation("p1", "APPROVE", 0.7));
    assert_eq!(late, Code::InvalidEnvelope);
    assert_eq!(rig.refused("b", "Objection", &objection("p1", "low")), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "Vote", &vote("p1", "APPROVE")), Code::InvalidEnvelope);
    rig.ok("a", "Vote", &vote("p2", "APPROVE"));
}
