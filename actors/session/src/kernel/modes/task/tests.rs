//! Tests of the task mode.

use weft_macp::macp::modes::task::v1 as pb;

use crate::kernel::rig::*;
use crate::kernel::{Code, SessionState};

const MODE: &str = "macp.mode.task.v1";

fn accept() -> pb::TaskAcceptPayload {
    pb::TaskAcceptPayload { task_id: "t".into(), ..Default::default() }
}

fn reject() -> pb::TaskRejectPayload {
    pb::TaskRejectPayload { task_id: "t".into(), ..Default::default() }
}

fn update() -> pb::TaskUpdatePayload {
    pb::TaskUpdatePayload { task_id: "t".into(), progress: 0.5, ..Default::default() }
}

fn complete(output: &[u8]) -> pb::TaskCompletePayload {
    pb::TaskCompletePayload { task_id: "t".into(), output: output.into(), ..Default::default() }
}

fn fail() -> pb::TaskFailPayload {
    pb::TaskFailPayload { task_id: "t".into(), ..Default::default() }
}

/// A task for anybody or for somebody, with participants `I`, `a` and `b`.
fn rig(assignee: &str, rules: &str) -> Rig {
    let mut rig = Rig::under(MODE, &[I, "a", "b"], rules);
    rig.ok(I, "TaskRequest", &work(assignee));
    rig
}

#[test]
fn who_takes_the_task_reports_and_the_initiator_commits() {
    let mut rig = rig("", "");
    rig.ok("a", "TaskAccept", &accept());
    rig.ok("a", "TaskUpdate", &update());
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.ok("a", "TaskComplete", &complete(b""));
    assert_eq!(rig.state(), SessionState::Open, "a report does not resolve");
    rig.commit(true).expect("resolves");
}

#[test]
fn a_failure_can_be_committed() {
    let mut rig = rig("", "");
    rig.ok("a", "TaskAccept", &accept());
    rig.ok("a", "TaskFail", &fail());
    rig.commit(false).expect("resolves");
}

#[test]
fn only_the_initiator_requests_and_only_once() {
    let mut rig = Rig::with(MODE, &["a"]);
    assert_eq!(rig.refused("a", "TaskRequest", &work("")), Code::Forbidden);
    assert_eq!(rig.refused(I, "TaskRequest", &work("stranger")), Code::InvalidEnvelope);
    rig.ok(I, "TaskRequest", &work("a"));
    assert_eq!(rig.refused(I, "TaskRequest", &work("a")), Code::InvalidEnvelope);
}

#[test]
fn a_task_goes_to_whom_it_names_or_to_anybody_but_the_initiator() {
    let mut named = rig("a", "");
    assert_eq!(named.refused("b", "TaskAccept", &accept()), Code::Forbidden);
    assert_eq!(named.refused("b", "TaskReject", &reject()), Code::Forbidden);
    named.ok("a", "TaskAccept", &accept());
    assert_eq!(named.refused("a", "TaskAccept", &accept()), Code::InvalidEnvelope);
    let mut anybody = rig("", "");
    assert_eq!(anybody.refused(I, "TaskAccept", &accept()), Code::Forbidden);
    assert_eq!(anybody.refused("stranger", "TaskAccept", &accept()), Code::Forbidden);
    let mut other = accept();
    other.assignee = "b".into();
    assert_eq!(anybody.refused("a", "TaskAccept", &other), Code::InvalidEnvelope);
    other.task_id = "t2".into();
    assert_eq!(anybody.refused("a", "TaskAccept", &other), Code::InvalidEnvelope);
}

#[test]
fn reports_come_from_the_assignee_until_one_is_final() {
    let mut rig = rig("", "");
    assert_eq!(rig.refused("a", "TaskUpdate", &update()), Code::Forbidden);
    rig.ok("a", "TaskAccept", &accept());
    assert_eq!(rig.refused(I, "TaskUpdate", &update()), Code::Forbidden);
    let mut other = complete(b"");
    other.assignee = "b".into();
    assert_eq!(rig.refused("a", "TaskComplete", &other), Code::InvalidEnvelope);
    rig.ok("a", "TaskComplete", &complete(b""));
    assert_eq!(rig.refused("a", "TaskUpdate", &update()), Code::Forbidden);
    assert_eq!(rig.refused("a", "TaskFail", &fail()), Code::Forbidden);
}

#[test]
fn declining_before_assignment_is_personal() {
    let mut rig = rig("", "");
    rig.ok("a", "TaskReject", &reject());
    assert_eq!(rig.refused("a", "TaskReject", &reject()), Code::InvalidEnvelope);
    assert_eq!(rig.refused("a", "TaskAccept", &accept()), Code::InvalidEnvelope);
    rig.ok("b", "TaskAccept", &accept());
    assert_eq!(rig.refused("a", "TaskReject", &reject()), Code::InvalidEnvelope);
}

#[test]
fn when_the_one_named_declined_a_negative_outcome_can_be_committed() {
    let mut rig = rig("a", "");
    rig.ok("a", "TaskReject", &reject());
    assert_eq!(rig.refused(I, "Commitment", &commitment(true)), Code::InvalidEnvelope);
    rig.commit(false).expect("resolves");
}

#[test]
fn giving_a_task_back_is_the_policys_choice() {
    let mut kept = rig("", "");
    kept.ok("a", "TaskAccept", &accept());
    let refusal = kept.say("a", "TaskReject", &reject()).expect_err("irrevocable");
    assert_eq!(refusal.code, Code::PolicyDenied);
    assert_eq!(refusal.denials[0].code.as_str(), "reassignment_not_allowed");

    let rules = r#"{"assignment":{"allow_reassignment_on_reject":true}}"#;
    let mut given = rig("", rules);
    given.ok("a", "TaskAccept", &accept());
    given.ok("a", "TaskReject", &reject());
    given.ok("b", "TaskAccept", &accept());
    given.ok("b", "TaskComplete", &complete(b""));
    given.commit(true).expect("resolves");
}

#[test]
fn a_policy_may_require_output() {
    let mut rig = rig("", r#"{"completion":{"require_output":true}}"#);
    rig.ok("a", "TaskAccept", &accept());
    let mut with_output = rig.clone();
    rig.ok("a", "TaskComplete", &complete(b""));
    assert_eq!(rig.denied(true), ["output_required"]);
    rig.commit(false).expect("a negative outcome needs none");
    with_output.ok("a", "TaskComplete", &complete(b"x"));
    with_output.commit(true).expect("resolves");
}

#[test]
fn a_task_needs_somebody_else() {
    let mut rig = Rig::new();
    let payload = prost::Message::encode_to_vec(&start(&[I]));
    let envelope = rig.envelope(MODE, "SessionStart", I, payload);
    assert_eq!(rig.send(&envelope).expect_err("alone").code, Code::InvalidEnvelope);
}
