//! Tests of policies: their definitions, and what they say to a decision.

use super::rules::{Quorum, Threshold};
use super::*;
use crate::kernel::Code;
use crate::kernel::rig::*;

const MODE: &str = "macp.mode.decision.v1";

fn check(mode: &str, rules: &str) -> Result<(), String> {
    policy(mode, rules, 3).check()
}

#[test]
fn every_key_of_every_mode_is_known() {
    let rules = r#"{
        "voting": {"algorithm": "weighted", "threshold": 0.6,
                   "quorum": {"type": "percentage", "value": 50}, "weights": {"a": 2, "b": 0.5}},
        "objection_handling": {"critical_severity_vetoes": true, "veto_threshold": 2,
                               "critical_objection_action": "hold"},
        "evaluation": {"required_before_voting": true, "minimum_confidence": 0.5},
        "commitment": {"authority": "designated_role", "designated_roles": ["a"],
                       "require_vote_quorum": true, "allow_decline_over_approval": true},
        "_note": "ignored", "$schema": 3
    }"#;
    assert_eq!(check(MODE, rules), Ok(()));
    let all = r#"{
        "acceptance": {"criterion": "initiator", "implicit_accept_timeout_ms": 5},
        "counter_proposal": {"max_rounds": 3.0}, "rejection": {"terminal_on_any_reject": true},
        "assignment": {"allow_reassignment_on_reject": true},
        "completion": {"require_output": true},
        "threshold": {"type": "percentage", "value": 100},
        "abstention": {"counts_toward_quorum": true, "interpretation": "ignored"}
    }"#;
    assert_eq!(check("*", all), Ok(()));
    let rules = Rules::read(&serde_json::from_str(all).expect("JSON")).expect("reads");
    assert_eq!(rules.max_rounds, 3);
    assert_eq!(rules.approvals, Some(Threshold::Percentage(100)));
    assert_eq!(rules.quorum, Quorum::Count(0.0));
}

#[test]
fn keys_of_other_modes_and_unknown_ones_are_refused_at_any_level() {
    for (mode, rules) in [
        (MODE, r#"{"acceptance":{"criterion":"initiator"}}"#),
        (MODE, r#"{"voting":{"algorithm":"none","extra":1}}"#),
        (MODE, r#"{"voting":{"quorum":{"values":1}}}"#),
        (MODE, r#"{"x-com.example":{}}"#),
        ("macp.mode.proposal.v1", r#"{"acceptance":{"implicit_accept_timeout_ms":1}}"#),
        ("macp.mode.handoff.v1", r#"{"acceptance":{"criterion":"initiator"}}"#),
        ("macp.mode.task.v1", r#"{"commitment":{"require_vote_quorum":true}}"#),
        ("*", r#"{"nonsense":1}"#),
    ] {
        assert!(check(mode, rules).is_err(), "{mode}: {rules}");
    }
}

#[test]
fn values_outside_their_domain_are_refused() {
    for (mode, rules) in [
        (MODE, r#"{"voting":{"algorithm":"Majority"}}"#),
        (MODE, r#"{"voting":{"threshold":0}}"#),
        (MODE, r#"{"voting":{"threshold":1.1}}"#),
        (MODE, r#"{"voting":{"algorithm":"majority","threshold":0.4}}"#),
        (MODE, r#"{"voting":{"algorithm":"supermajority","threshold":0.5}}"#),
        (MODE, r#"{"voting":{"algorithm":"supermajority"}}"#),
        (MODE, r#"{"voting":{"algorithm":"weighted"}}"#),
        (MODE, r#"{"voting":{"weights":{}}}"#),
        (MODE, r#"{"voting":{"weights":{"a":0}}}"#),
        (MODE, r#"{"voting":{"quorum":{"value":-1}}}"#),
        (MODE, r#"{"voting":[]}"#),
        (MODE, r#"{"objection_handling":{"veto_threshold":0}}"#),
        (MODE, r#"{"objection_handling":{"veto_threshold":1.5}}"#),
        (MODE, r#"{"objection_handling":{"critical_severity_vetoes":"yes"}}"#),
        (MODE, r#"{"evaluation":{"minimum_confidence":2}}"#),
        (MODE, r#"{"commitment":{"authority":"designated_role"}}"#),
        (MODE, r#"{"commitment":{"authority":"designated_role","designated_roles":[]}}"#),
        (MODE, r#"{"commitment":{"designated_roles":[1]}}"#),
        ("macp.mode.quorum.v1", r#"{"threshold":{"value":0}}"#),
        ("macp.mode.quorum.v1", r#"{"threshold":{"type":"percentage","value":101}}"#),
        ("macp.mode.quorum.v1", r#"{"threshold":{"type":"weighted","value":1}}"#),
        ("macp.mode.handoff.v1", r#"{"acceptance":{"implicit_accept_timeout_ms":-1}}"#),
        ("*", r#"{"threshold":{"value":0.5}}"#),
    ] {
        assert!(check(mode, rules).is_err(), "{mode}: {rules}");
    }
    assert!(policy(MODE, "{}", 0).check().is_err());
    assert!(policy(MODE, "{}", 4).check().is_err());
    assert!(check(MODE, "[]").is_err());
}

#[test]
fn text_that_is_no_json_counts_as_no_rules_and_extensions_hold_anything() {
    assert_eq!(check(MODE, ""), Ok(()));
    assert_eq!(check(MODE, "not json"), Ok(()));
    assert_eq!(check("ext.auction.v1", r#"{"voting":7,"nonsense":[]}"#), Ok(()));
    assert!(check("ext.auction.v1", "[]").is_err());
}

#[test]
fn the_built_in_policies_are_good() {
    for policy in Policy::built_in() {
        assert_eq!(policy.check(), Ok(()), "{}", policy.policy_id);
        assert_eq!(BoundPolicy::new(policy.clone()), BoundPolicy::read(policy));
    }
}

/// Participants `a`, `b`, `c`; votes on proposal `p`: `+`, `-`, `0`, or none.
fn voted(rules: &str, schema: u32, votes: &str) -> Rig {
    let mut rig = Rig::schema(MODE, &["a", "b", "c"], rules, schema);
    rig.ok("a", "Proposal", &option("p"));
    for (who, cast) in ["a", "b", "c"].into_iter().zip(votes.chars()) {
        let cast = match cast {
            '+' => "APPROVE",
            '-' => "REJECT",
            '0' => "ABSTAIN",
            _ => continue,
        };
        rig.ok(who, "Vote", &vote("p", cast));
    }
    rig
}

/// Reasons against a positive and a negative outcome.
fn verdict(rules: &str, schema: u32, votes: &str) -> [Vec<&'static str>; 2] {
    [true, false].map(|positive| {
        let mut rig = voted(rules, schema, votes);
        match rig.commit(positive) {
            Ok(_) => Vec::new(),
            Err(refusal) => {
                assert_eq!(refusal.code, Code::PolicyDenied, "{refusal}");
                refusal.denials.iter().map(|denial| denial.code.as_str()).collect()
            }
        }
    })
}

#[test]
fn thresholds_are_inclusive_and_abstentions_do_not_count() {
    let half = r#"{"voting":{"algorithm":"majority"}}"#;
    assert_eq!(verdict(half, 3, "+-0")[0], [""; 0], "half is enough");
    assert_eq!(verdict(half, 3, "--+")[0], ["threshold_not_met"]);
    let thirds = r#"{"voting":{"algorithm":"supermajority","threshold":0.6666666666666666}}"#;
    assert_eq!(verdict(thirds, 3, "++-")[0], [""; 0], "two of three");
    assert_eq!(verdict(thirds, 3, "+-0")[0], ["threshold_not_met"]);
    let all = r#"{"voting":{"algorithm":"unanimous"}}"#;
    assert_eq!(verdict(all, 3, "+++")[0], [""; 0]);
    assert_eq!(verdict(all, 3, "++0")[0], ["threshold_not_met"]);
    assert_eq!(verdict(all, 3, "++-")[0], ["threshold_not_met"]);
    let plural = r#"{"voting":{"algorithm":"plurality"}}"#;
    assert_eq!(verdict(plural, 3, "+00")[0], [""; 0]);
    assert_eq!(verdict(plural, 3, "+-0")[0], ["threshold_not_met"]);
}

#[test]
fn weights_decide_and_whoever_has_none_does_not() {
    let rules = r#"{"voting":{"algorithm":"weighted","threshold":0.6,"weights":{"a":3,"b":2}}}"#;
    assert_eq!(verdict(rules, 3, "+-+"), [vec![], vec!["decline_over_approval"]]);
    assert_eq!(verdict(rules, 3, "-+-"), [vec!["threshold_not_met"], vec![]]);
    assert_eq!(verdict(rules, 3, "00+"), [vec!["no_votes"], vec!["decline_not_backed"]]);
    let without = [vec!["decline_over_approval", "decline_not_backed"]];
    assert_eq!(verdict(rules, 3, "++-")[1..], without, "a vote without weight backs nothing");
}

#[test]
fn a_decline_must_be_backed_and_must_not_go_over_an_approval() {
    let half = r#"{"voting":{"algorithm":"majority"}}"#;
    assert_eq!(verdict(half, 3, "+-0")[1], ["decline_over_approval"]);
    assert_eq!(verdict(half, 3, "++0")[1], ["decline_over_approval", "decline_not_backed"]);
    assert_eq!(verdict(half, 3, "--+")[1], [""; 0]);
    let over = r#"{"voting":{"algorithm":"majority"},
                   "commitment":{"allow_decline_over_approval":true}}"#;
    assert_eq!(verdict(over, 3, "+-0")[1], [""; 0]);
    assert_eq!(verdict(over, 3, "++0")[1], ["decline_not_backed"]);
    let all = r#"{"voting":{"algorithm":"unanimous"}}"#;
    assert_eq!(verdict(all, 3, "++0")[1], ["decline_not_backed"]);
}

#[test]
fn without_votes_older_schemas_pass_unless_a_quorum_is_required() {
    let half = r#"{"voting":{"algorithm":"majority"}}"#;
    let quorum = r#"{"voting":{"algorithm":"majority"},"commitment":{"require_vote_quorum":true}}"#;
    for schema in [1, 2] {
        assert_eq!(verdict(half, schema, "00"), [vec![], vec!["decline_not_backed"]]);
        assert_eq!(verdict(quorum, schema, "00")[0], ["no_votes"]);
    }
    assert_eq!(verdict(half, 3, ""), [vec!["no_votes"], vec!["decline_not_backed"]]);
    assert_eq!(verdict("{}", 3, ""), [[""; 0]; 2], "algorithm none asks for nothing");
}

#[test]
fn a_quorum_counts_voters_and_abstaining_is_voting() {
    let two = r#"{"voting":{"quorum":{"value":2}},"commitment":{"require_vote_quorum":true}}"#;
    assert_eq!(verdict(two, 3, "+")[0], ["quorum_not_met"]);
    assert_eq!(verdict(two, 3, "00"), [[""; 0]; 2]);
    let percent = r#"{"voting":{"quorum":{"type":"percentage","value":66}},
                      "commitment":{"require_vote_quorum":true}}"#;
    assert_eq!(verdict(percent, 3, "00")[0], [""; 0]);
    assert_eq!(verdict(percent, 3, "0")[0], ["quorum_not_met"]);
}

#[test]
fn evaluations_that_recommend_something_may_be_required() {
    let required = r#"{"evaluation":{"required_before_voting":true}}"#;
    let confident = r#"{"evaluation":{"required_before_voting":true,"minimum_confidence":0.8}}"#;
    for (rules, reason) in
        [(required, "evaluation_required"), (confident, "confidence_below_minimum")]
    {
        let mut rig = Rig::under(MODE, &["a"], rules);
        rig.ok("a", "Proposal", &option("p"));
        rig.ok("a", "Evaluation", &evaluation("p", "REVIEW", 1.0));
        assert_eq!(rig.denied(true), [reason]);
        assert_eq!(rig.denied(false), [reason]);
        rig.ok("a", "Evaluation", &evaluation("p", "BLOCK", 0.8));
        rig.commit(true).expect("resolves");
    }
    let optional = r#"{"evaluation":{"minimum_confidence":0.8}}"#;
    let mut rig = Rig::under(MODE, &["a"], optional);
    rig.ok("a", "Proposal", &option("p"));
    rig.commit(true).expect("a minimum without the requirement asks for nothing");
}

#[test]
fn critical_objections_veto_hold_or_finalize() {
    for (action, positive, negative) in [
        ("deny", &["veto"][..], &["veto"][..]),
        ("hold", &["veto_hold"], &["veto_hold"]),
        ("finalize_decline", &["veto"], &[]),
    ] {
        let rules = format!(
            r#"{{"objection_handling":{{"critical_severity_vetoes":true,"veto_threshold":2,
                "critical_objection_action":"{action}"}}}}"#
        );
        let mut rig = Rig::under(MODE, &["b", "a"], &rules);
        rig.ok("a", "Proposal", &option("p"));
        rig.ok("b", "Objection", &objection("p", "critical"));
        rig.ok("a", "Objection", &objection("p", "high"));
        let mut passes = rig.clone();
        passes.commit(true).expect("one is no veto");
        rig.ok("a", "Objection", &objection("p", "critical"));
        let refusal = rig.commit(true).expect_err("vetoed");
        assert_eq!(refusal.denials[0].participants, ["a", "b"], "sorted, each once");
        assert_eq!(rig.denied(true), positive);
        if negative.is_empty() {
            rig.commit(false).expect("the veto is the decline");
        } else {
            assert_eq!(rig.denied(false), negative);
        }
    }
}

#[test]
fn an_authorized_decline_needs_neither_quorum_nor_votes_nor_evaluations() {
    let rules = r#"{
        "voting": {"algorithm": "majority", "quorum": {"value": 3}},
        "evaluation": {"required_before_voting": true},
        "objection_handling": {"critical_severity_vetoes": true,
                               "critical_objection_action": "finalize_decline"},
        "commitment": {"require_vote_quorum": true}
    }"#;
    let mut rig = Rig::under(MODE, &["a", "b", "c"], rules);
    rig.ok("a", "Proposal", &option("p"));
    let all = ["evaluation_required", "quorum_not_met", "decline_not_backed"];
    assert_eq!(rig.denied(false), all);
    rig.ok("a", "Objection", &objection("p", "critical"));
    assert_eq!(rig.denied(true), ["evaluation_required", "veto", "quorum_not_met", "no_votes"]);
    rig.commit(false).expect("resolves");
}

#[test]
fn reasons_travel_as_json() {
    let mut rig = voted(r#"{"voting":{"algorithm":"majority"}}"#, 3, "-");
    let refusal = rig.commit(true).expect_err("denied");
    let details: serde_json::Value = serde_json::from_slice(&refusal.details()).expect("JSON");
    assert_eq!(details["denials"][0]["code"], "threshold_not_met");
    assert_eq!(details["reasons"][0], details["denials"][0]["message"]);
    assert!(details["denials"][0].get("participants").is_none());
    assert!(rig.cancel("x").expect_err("forbidden").details().is_empty());
}

#[test]
fn a_stored_policy_that_cannot_be_used_denies_both_ways() {
    for (rules, schema, reason) in
        [("{}", 9, "unsupported_schema_version"), (r#"{"voting":7}"#, 3, "invalid_rules")]
    {
        let bound = BoundPolicy::new(policy(MODE, rules, schema));
        assert_eq!(bound.unusable().map(|denial| denial.code.as_str()), Some(reason));
        assert_eq!(bound.rules(), &Rules::default());
    }
}

#[test]
fn who_commits_is_the_policys_choice_and_a_breach_is_forbidden() {
    let any = r#"{"commitment":{"authority":"any_participant"}}"#;
    let named = r#"{"commitment":{"authority":"designated_role","designated_roles":["b","z"]}}"#;
    for (rules, may, may_not) in [
        ("", &[I][..], &["a", "b", "z"][..]),
        (any, &[I, "a"], &["z"]),
        (named, &["b", "z"], &[I, "a"]),
    ] {
        let mut rig = Rig::under(MODE, &["a", "b"], rules);
        rig.ok("a", "Proposal", &option("p"));
        for sender in may_not {
            assert_eq!(rig.refused(sender, "Commitment", &commitment(true)), Code::Forbidden);
        }
        for sender in may {
            rig.clone().ok(sender, "Commitment", &commitment(true));
        }
    }
}
