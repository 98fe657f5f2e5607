//! Tests of the proposal mode.

use weft_macp::macp::modes::proposal::v1 as pb;

use crate::kernel::Code;
use crate::kernel::rig::*;

const MODE: &str = "macp.mode.proposal.v1";

fn counter(id: &str, supersedes: &str) -> pb::CounterProposalPayload {
    pb::CounterProposalPayload {
        proposal_id: id.into(),
        supersedes_proposal_id: supersedes.into(),
        ..Default::default()
    }
}

fn accept(id: &str) -> pb::AcceptPayload {
    pb::AcceptPayload { proposal_id: id.into(), reason: String::new() }
}

fn reject(id: &str, terminal: bool) -> pb::RejectPayload {
    pb::RejectPayload { proposal_id: id.into(), terminal, reason: String::new() }
}

fn withdraw(id: &str) -> pb::WithdrawPayload {
    pb::WithdrawPayload { proposal_id: id.into(), reason: String::new() }
}

fn rig() -> Rig {
    let mut rig = Rig::with(MODE, &["a", "b"]);
    rig.ok("a", "Proposal", &bid("p1"));
    rig
}

#[test]
fn all_parties_agree_on_one_live_proposal() {
    let mut rig = rig();
    rig.ok("b", "CounterProposal", &counter("p2", "p1"));
    rig.ok("a", "Accept", &accept("p2"));
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("b", "Accept", &accept("p1"));
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("b", "Accept", &accept("p2"));
    rig.commit(true).expect("the latest acceptance counts");
}

#[test]
fn the_counterparty_or_the_initiator_may_be_enough() {
    let rules = r#"{"acceptance":{"criterion":"counterparty"}}"#;
    let mut rig = Rig::under(MODE, &["a", "b"], rules);
    rig.ok("a", "Proposal", &bid("p1"));
    rig.ok("b", "Accept", &accept("p1"));
    rig.commit(true).expect("everybody but the author accepted");

    let rules = r#"{"acceptance":{"criterion":"initiator"}}"#;
    let mut rig = Rig::under(MODE, &["a", I], rules);
    rig.ok("a", "Proposal", &bid("p1"));
    rig.ok("a", "Accept", &accept("p1"));
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok(I, "Accept", &accept("p1"));
    rig.commit(true).expect("the initiator accepted");
}

#[test]
fn a_terminal_rejection_ends_the_negotiation_until_it_is_withdrawn() {
    let mut rig = rig();
    rig.ok("b", "Reject", &reject("p1", false));
    assert_eq!(rig.refused(I, "Commitment", &commitment(false)), Code::InvalidEnvelope);
    rig.ok("b", "Reject", &reject("p1", true));
    let mut ended = rig.clone();
    ended.commit(false).expect("rejected for good");
    rig.ok("a", "Withdraw", &withdraw("p1"));
    assert_eq!(rig.refused(I, "Commitment", &commitment(false)), Code::InvalidEnvelope);
}

#[test]
fn a_policy_makes_any_rejection_terminal() {
    let rules = r#"{"rejection":{"terminal_on_any_reject":true}}"#;
    let mut rig = Rig::under(MODE, &["a", "b"], rules);
    rig.ok("a", "Proposal", &bid("p1"));
    rig.ok("b", "Reject", &reject("p1", false));
    rig.commit(false).expect("rejected for good");
}

#[test]
fn only_the_author_withdraws_and_what_is_withdrawn_is_dead() {
    let mut rig = rig();
    rig.ok("b", "Accept", &accept("p1"));
    assert_eq!(rig.refused("b", "Withdraw", &withdraw("p1")), Code::Forbidden);
    assert_eq!(rig.refused("a", "Withdraw", &withdraw("p2")), Code::InvalidEnvelope);
    rig.ok("a", "Withdraw", &withdraw("p1"));
    assert_eq!(rig.refused("a", "Withdraw", &withdraw("p1")), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "Accept", &accept("p1")), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "Reject", &reject("p1", true)), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "Proposal", &bid("p1")), Code::InvalidEnvelope);
    rig.ok("b", "CounterProposal", &counter("p2", "p1"));
}

#[test]
fn rounds_are_limited_by_policy() {
    let rules = r#"{"counter_proposal":{"max_rounds":1}}"#;
    let mut rig = Rig::under(MODE, &["a", "b"], rules);
    rig.ok("a", "Proposal", &bid("p1"));
    rig.ok("b", "CounterProposal", &counter("p2", "p1"));
    let code = rig.refused("a", "CounterProposal", &counter("p3", "p2"));
    assert_eq!(code, Code::InvalidEnvelope);
}

#[test]
fn a_counter_needs_what_it_counters() {
    let mut rig = rig();
    let code = rig.refused("b", "CounterProposal", &counter("p2", "p9"));
    assert_eq!(code, Code::InvalidEnvelope);
}

#[test]
fn outsiders_are_forbidden_and_unknown_types_are_invalid() {
    let mut rig = rig();
    assert_eq!(rig.refused("x", "Accept", &accept("p1")), Code::Forbidden);
    assert_eq!(rig.refused(I, "SessionCancel", &accept("p1")), Code::Forbidden);
    assert_eq!(rig.refused("a", "SessionCancel", &accept("p1")), Code::InvalidEnvelope);
}
