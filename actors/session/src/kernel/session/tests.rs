//! Tests of the kernel rules around all modes (§7 to §10); (T) marks what clients observe.

use prost::Message as _;
use weft_macp::macp::v1 as pb;

use crate::kernel::rig::*;
use crate::kernel::*;

const MODE: &str = "macp.mode.decision.v1";

fn rig() -> Rig {
    Rig::with(MODE, &["a", "b"])
}

fn begin(change: impl FnOnce(&mut pb::SessionStartPayload)) -> Result<Rig, Refusal> {
    begin_as(MODE, I, 0, change)
}

fn begin_as(
    mode: &str,
    sender: &str,
    timestamp_ms: Millis,
    change: impl FnOnce(&mut pb::SessionStartPayload),
) -> Result<Rig, Refusal> {
    let mut rig = Rig::new();
    let mut payload = start(&["a"]);
    change(&mut payload);
    let mut envelope = rig.envelope(mode, "SessionStart", sender, payload.encode_to_vec());
    envelope.timestamp_ms = timestamp_ms;
    rig.send(&envelope).map(|_| rig)
}

fn code(result: Result<Rig, Refusal>) -> Code {
    result.expect_err("is refused").code
}

#[test]
fn a_start_binds_the_session() {
    let mut rig = begin(|p| {
        p.participants = vec!["b".into(), "a".into()];
        p.context_id = "ctx".into();
        p.extensions.insert("z.key".into(), vec![1]);
        p.extensions.insert("a.key".into(), vec![2]);
    })
    .expect("starts");
    let metadata = rig.session().metadata();
    assert_eq!(metadata.participants, ["b", "a"], "in their order");
    assert_eq!(metadata.policy_version, "policy.default", "empty means the default");
    assert_eq!(metadata.extension_keys, ["a.key", "z.key"]);
    assert_eq!(metadata.context_id, "ctx");
    assert_eq!(metadata.initiator, I);
    assert_eq!(metadata.started_at_unix_ms, T0);
    assert_eq!(metadata.expires_at_unix_ms, T0 + 60_000);
    assert_eq!(metadata.state, i32::from(pb::SessionState::Open));
    assert_eq!(rig.events(), [Lifecycle::Created]);
}

// (T) §7: the start is not counted in participant_activity.
#[test]
fn the_start_is_nobodys_activity_and_every_later_message_is_somebodys() {
    let mut rig = Rig::with(MODE, &[I, "a"]);
    assert!(rig.session().metadata().participant_activity.is_empty());
    rig.now += 5;
    rig.ok("a", "Proposal", &option("p"));
    rig.now += 5;
    rig.ok("a", "Evaluation", &evaluation("p", "REVIEW", 0.0));
    rig.refused("a", "Vote", &vote("p", "?"));
    let activity = rig.session().metadata().participant_activity;
    assert_eq!(activity.len(), 1);
    assert_eq!(activity[0].participant_id, "a");
    assert_eq!(activity[0].message_count, 2);
    assert_eq!(activity[0].last_message_at_unix_ms, T0 + 10);
}

#[test]
fn the_canonical_contract_is_checked() {
    type Change = fn(&mut pb::SessionStartPayload);
    let wrong: [Change; 11] = [
        |p| p.ttl_ms = 0,
        |p| p.ttl_ms = -1,
        |p| p.ttl_ms = 86_400_001,
        |p| p.mode_version = " ".into(),
        |p| p.mode_version = "2.0.0".into(),
        |p| p.configuration_version = String::new(),
        |p| p.participants = vec!["a".into(), " ".into()],
        |p| p.participants = vec!["a".into(), " a ".into()],
        |p| p.participants = (0..1001).map(|n| format!("p{n}")).collect(),
        |p| p.max_suspend_ms = -1,
        |p| *p = pb::SessionStartPayload::default(),
    ];
    for change in wrong {
        assert_eq!(code(begin(change)), Code::InvalidEnvelope);
    }
    begin(|p| p.participants = (0..1000).map(|n| format!("p{n}")).collect()).expect("a thousand");
    begin(|p| p.participants.clear()).expect("a decision may have nobody");
    for mode in &MODES[1..] {
        assert_eq!(code(begin_as(mode, I, 0, |p| p.participants.clear())), Code::InvalidEnvelope);
    }
}

#[test]
fn a_payload_that_is_no_start_is_refused() {
    let mut rig = Rig::new();
    for payload in [&b""[..], &b"\xff\xff\xff"[..], &b"\x0a\x05ab"[..]] {
        let envelope = rig.envelope(MODE, "SessionStart", I, payload.into());
        assert_eq!(rig.send(&envelope).expect_err("refused").code, Code::InvalidEnvelope);
    }
}

#[test]
fn unknown_modes_and_policies_have_codes_of_their_own() {
    assert_eq!(code(begin_as("no.such.mode", I, 0, |_| {})), Code::ModeNotSupported);
    let unknown = begin(|p| p.policy_version = "nope".into());
    assert_eq!(code(unknown), Code::UnknownPolicyVersion);
    let other = begin_as(MODES[4], I, 0, |p| p.policy_version = "policy.std.majority".into());
    assert_eq!(code(other), Code::InvalidPolicyDefinition);
}

#[test]
fn the_clients_clock_moves_the_deadline_and_nothing_else() {
    let rig = begin_as(MODE, I, T0 - 1000, |_| {}).expect("starts");
    assert_eq!(rig.session().metadata().expires_at_unix_ms, T0 + 59_000);
    assert_eq!(rig.session().started_ms(), T0);
    let rig = begin_as(MODE, I, -5, |_| {}).expect("starts");
    assert_eq!(rig.session().metadata().expires_at_unix_ms, T0 + 60_000);
    let rig = begin_as(MODE, I, i64::MAX, |_| {}).expect("starts");
    assert_eq!(rig.session().metadata().expires_at_unix_ms, i64::MAX);
}

#[test]
fn session_ids_have_a_form() {
    for good in [
        "0123456789abcdef012345",
        "session_ABC-0123456789",
        "7d444840-9dc0-41d1-b245-5ffdce74fad2",
        "01890a5d-ac96-774b-bcce-b302099a8057",
        // Not hexadecimal, so no UUID: 36 characters of the other form.
        "7d444840-9dc0-41d1-b245-5ffdce74fadx",
    ] {
        assert!(valid_session_id(good), "{good}");
    }
    for bad in [
        "",
        "short",
        "0123456789abcdef01234",
        "0123456789abcdef01234/",
        "7D444840-9DC0-41D1-B245-5FFDCE74FAD2",
        "7d444840-9dc0-11d1-b245-5ffdce74fad2",
        "7d444840-9dc0-41d1-7245-5ffdce74fad2",
        &"a".repeat(129),
    ] {
        assert!(!valid_session_id(bad), "{bad}");
    }
    let mut rig = Rig::new();
    let mut envelope = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
    envelope.session_id = "short".into();
    assert_eq!(rig.send(&envelope).expect_err("refused").code, Code::InvalidSessionId);
}

#[test]
fn a_second_start_is_refused_and_the_same_one_is_a_duplicate() {
    let mut rig = Rig::new();
    let first = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
    let second = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
    assert!(!rig.send(&first).expect("starts").duplicate);
    assert_eq!(rig.send(&second).expect_err("exists").code, Code::SessionAlreadyExists);
    assert!(rig.send(&first).expect("again").duplicate);
    assert_eq!(rig.session().last_ordinal(), 1);
}

#[test]
fn open_sessions_of_an_initiator_are_limited() {
    let mut rig = Rig::new();
    let send = |rig: &mut Rig, id: &str, elsewhere: u32, apply: bool| {
        let mut envelope = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
        envelope.session_id = id.into();
        let rights = StartRights { max_open: Some(2), open_elsewhere: elsewhere };
        let known = Known { sessions: &rig.sessions, catalogue: &rig.catalogue, archived: None };
        let admission = rig.speculation.send(known, &envelope, rights, rig.now);
        match admission.entry {
            Some(entry) if apply => {
                rig.apply(entry);
            }
            _ => {}
        }
        admission.answer.map_err(|refusal| refusal.code)
    };
    assert!(send(&mut rig, ID, 0, false).is_ok());
    assert!(send(&mut rig, "session-000000000000000002", 0, true).is_ok());
    let third = "session-000000000000000003";
    assert_eq!(send(&mut rig, third, 0, true), Err(Code::RateLimited), "one is on its way");
    rig.speculation.clear();
    assert_eq!(send(&mut rig, third, 1, true), Err(Code::RateLimited), "one is elsewhere");
    assert!(send(&mut rig, third, 0, true).is_ok());
    rig.now += 60_001;
    let fourth = "session-000000000000000004";
    assert!(send(&mut rig, fourth, 0, true).is_ok(), "the others' time is over");
}

// (T) §8 step 2
#[test]
fn a_duplicate_is_acknowledged_without_effect_in_every_state() {
    let mut rig = rig();
    let proposal = rig.envelope(MODE, "Proposal", "a", option("p").encode_to_vec());
    assert!(!rig.send(&proposal).expect("accepted").duplicate);
    let mut again = proposal.clone();
    again.sender = "outsider".into();
    again.payload.clear();
    again.mode = "another".into();
    let check = |rig: &mut Rig, state| {
        let before = rig.session().clone();
        assert_eq!(rig.send(&again), Ok(Accepted { duplicate: true, state }));
        assert_eq!(rig.session(), &before);
    };
    check(&mut rig, SessionState::Open);
    rig.suspend(I).expect("suspends");
    check(&mut rig, SessionState::Suspended);
    rig.resume(I).expect("resumes");
    rig.commit(true).expect("resolves");
    check(&mut rig, SessionState::Resolved);
    rig.now += 100_000;
    check(&mut rig, SessionState::Resolved);
    let mut cancelled = self::rig();
    cancelled.send(&proposal).expect("accepted");
    cancelled.cancel(I).expect("cancels");
    check(&mut cancelled, SessionState::Cancelled);
}

// (T) §8: a refused message is not stored, uses no dedup slot and changes nothing.
#[test]
fn a_refused_message_id_can_be_sent_again() {
    let mut rig = rig();
    let vote = vote("p", "APPROVE").encode_to_vec();
    let early = rig.envelope(MODE, "Vote", "a", vote);
    assert_eq!(rig.send(&early).expect_err("no proposal").code, Code::InvalidEnvelope);
    rig.ok("a", "Proposal", &option("p"));
    assert!(!rig.send(&early).expect("accepted now").duplicate);
    assert!(rig.send(&early).expect("and now it is known").duplicate);
}

// (T) §8: acceptance order = append order = publish order; the n-th has ordinal n.
#[test]
fn ordinals_count_envelopes_and_only_those() {
    let mut rig = rig();
    rig.ok("a", "Proposal", &option("p1"));
    rig.suspend(I).expect("suspends");
    rig.resume(I).expect("resumes");
    rig.ok("b", "Proposal", &option("p2"));
    rig.cancel(I).expect("cancels");
    let published: Vec<u64> = rig
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Published { ordinal, .. } => Some(*ordinal),
            _ => None,
        })
        .collect();
    assert_eq!(published, [1, 2, 3]);
    let types: Vec<_> = rig.session().envelopes(0).map(|(_, e)| e.message_type).collect();
    assert_eq!(types, ["SessionStart", "Proposal", "Proposal"]);
    let after: Vec<_> = rig.session().envelopes(2).map(|(ordinal, _)| ordinal).collect();
    assert_eq!(after, [3], "exclusive");
    assert_eq!(rig.session().envelopes(3).count(), 0);
    assert_eq!(rig.session().envelopes(u64::MAX).count(), 0);
    assert_eq!(rig.session().position(), 6);
}

#[test]
fn a_delivered_envelope_is_the_one_that_was_sent() {
    let mut rig = rig();
    let mut envelope = rig.envelope(MODE, "Proposal", "a", option("p").encode_to_vec());
    envelope.timestamp_ms = 77;
    rig.send(&envelope).expect("accepted");
    let delivered = rig.session().envelope(2).expect("there");
    assert_eq!(delivered.macp_version, "1.0");
    assert_eq!(Envelope::from(delivered), envelope);
    assert_eq!(rig.session().envelope(0), None);
    assert_eq!(rig.session().envelope(3), None);
}

#[test]
fn another_mode_or_another_session_is_refused() {
    let mut rig = rig();
    let mut envelope = rig.envelope(MODES[1], "Proposal", "a", option("p").encode_to_vec());
    assert_eq!(rig.send(&envelope).expect_err("mode").code, Code::InvalidEnvelope);
    envelope.session_id = "session-000000000000000099".into();
    let refusal = rig.send(&envelope).expect_err("unknown");
    assert_eq!((refusal.code, refusal.surface), (Code::SessionNotFound, Surface::InBand));
}

#[test]
fn a_session_expires_when_its_deadline_has_passed_and_not_on_it() {
    let mut rig = rig();
    rig.now += 60_000;
    rig.ok("a", "Proposal", &option("p"));
    rig.now += 1;
    let refusal = rig.say("a", "Proposal", &option("q")).expect_err("over");
    assert_eq!(refusal.code, Code::SessionNotOpen);
    assert_eq!(rig.state(), SessionState::Expired);
    assert_eq!(rig.events(), [Lifecycle::Created, Lifecycle::Expired]);
    let code = rig.refused("a", "Proposal", &option("q"));
    assert_eq!(code, Code::SessionNotOpen);
}

#[test]
fn reads_and_the_sweep_notice_that_time_is_over() {
    for by_sweep in [false, true] {
        let mut rig = rig();
        assert_eq!(rig.sessions.next_due(), Some(T0 + 60_001));
        rig.now += 60_001;
        if by_sweep {
            rig.sweep();
        } else {
            let known =
                Known { sessions: &rig.sessions, catalogue: &rig.catalogue, archived: None };
            let entry = rig.speculation.touch(known, ID, rig.now).expect("something to do");
            rig.apply(entry);
        }
        assert_eq!(rig.state(), SessionState::Expired);
        assert_eq!(rig.sessions.next_due(), None);
    }
}

#[test]
fn a_commitment_ends_the_session_and_stays() {
    let mut rig = rig();
    rig.ok("a", "Proposal", &option("p"));
    let payload = commitment(true);
    rig.ok(I, "Commitment", &payload);
    assert_eq!(rig.session().resolution(), Some(&*payload.encode_to_vec()));
    assert_eq!(rig.refused(I, "Commitment", &payload), Code::SessionNotOpen);
    assert_eq!(rig.refused("a", "Vote", &vote("p", "APPROVE")), Code::SessionNotOpen);
    assert_eq!(rig.events(), [Lifecycle::Created, Lifecycle::Resolved]);
    rig.now += 1_000_000;
    rig.sweep();
    assert_eq!(rig.state(), SessionState::Resolved, "final");
}

#[test]
fn the_fields_of_a_commitment_are_checked() {
    type Change = fn(&mut pb::CommitmentPayload);
    let reference = |session: &str, hash: &str| {
        Some(pb::CommitmentRef { session_id: session.into(), commitment_hash: hash.into() })
    };
    let wrong: [Change; 10] = [
        |c| c.commitment_id = " ".into(),
        |c| c.action = String::new(),
        |c| c.authority_scope = String::new(),
        |c| c.reason = "\n".into(),
        |c| c.mode_version = "2".into(),
        |c| c.configuration_version = "other".into(),
        |c| c.policy_version = "other".into(),
        |c| c.action = "it.rejected".into(),
        |c| c.action = "it.failed".into(),
        |c| {
            c.outcome_positive = false;
            c.action = "it.completed".into();
        },
    ];
    let mut rig = rig();
    rig.ok("a", "Proposal", &option("p"));
    let mut check = |payload: pb::CommitmentPayload| {
        assert_eq!(rig.refused(I, "Commitment", &payload), Code::InvalidEnvelope, "{payload:?}");
    };
    for change in wrong {
        let mut payload = commitment(true);
        change(&mut payload);
        check(payload);
    }
    let good = format!("sha256:{}", "a0".repeat(32));
    for (session, hash) in [
        (" ", good.as_str()),
        ("s", &good[7..]),
        ("s", &good.to_uppercase()),
        ("s", "sha256:abc"),
        ("s", &format!("{good}0")),
    ] {
        check(pb::CommitmentPayload { supersedes: reference(session, hash), ..commitment(true) });
    }
    rig.ok(
        I,
        "Commitment",
        &pb::CommitmentPayload {
            supersedes: reference("s", &good),
            policy_version: "policy.default".into(),
            action: "it.Rejected".into(),
            ..commitment(true)
        },
    );
}

// (T) §9
#[test]
fn who_may_not_control_a_session_gets_a_status() {
    let mut rig = rig();
    for refused in [rig.cancel("a"), rig.suspend("a"), rig.resume("a")] {
        let refusal = refused.expect_err("forbidden");
        assert_eq!((refusal.code, refusal.surface), (Code::Forbidden, Surface::Status));
    }
    let answer = rig
        .lead(|leader, known, now| leader.cancel(known, "session-000000000000000099", I, "r", now));
    let refusal = answer.expect_err("unknown");
    assert_eq!((refusal.code, refusal.surface), (Code::SessionNotFound, Surface::Status));
    let mut shared = Rig::under(MODE, &["a"], r#"{"commitment":{"authority":"any_participant"}}"#);
    shared.cancel("a").expect("whoever may commit may cancel");
}

// (T) §9
#[test]
fn cancelling_what_has_ended_is_acknowledged_and_appends_nothing() {
    let mut rig = rig();
    assert_eq!(rig.cancel(I).map(|a| a.state), Ok(SessionState::Cancelled));
    let before = rig.session().clone();
    assert_eq!(rig.cancel(I).map(|a| a.state), Ok(SessionState::Cancelled));
    assert_eq!(rig.session(), &before);
    assert_eq!(rig.events(), [Lifecycle::Created, Lifecycle::Cancelled]);
    let mut late = self::rig();
    late.now += 60_001;
    assert_eq!(late.cancel(I).map(|a| a.state), Ok(SessionState::Expired));
}

#[test]
fn time_stands_still_while_a_session_is_suspended() {
    let mut rig = rig();
    rig.now += 20_000;
    rig.suspend(I).expect("suspends");
    let refusal = rig.suspend(I).expect_err("twice");
    assert_eq!((refusal.code, refusal.surface), (Code::SessionNotOpen, Surface::InBand));
    assert_eq!(rig.refused("a", "Proposal", &option("p")), Code::SessionNotOpen);
    rig.now += 500_000;
    rig.sweep();
    assert_eq!(rig.state(), SessionState::Suspended, "not on its old deadline");
    rig.resume(I).expect("resumes");
    assert_eq!(rig.session().metadata().expires_at_unix_ms, T0 + 560_000);
    assert!(matches!(
        rig.session().log().last().map(|record| &**record),
        Some(Record::Resume { banked_ms: 40_000, .. })
    ));
    rig.now += 40_000;
    rig.ok("a", "Proposal", &option("p"));
    rig.now += 1;
    rig.refused_as_over();
    let refusal = rig.resume(I).expect_err("over");
    assert_eq!((refusal.code, refusal.surface), (Code::SessionNotOpen, Surface::InBand));
}

impl Rig {
    fn refused_as_over(&mut self) {
        let refusal = self.say("a", "Proposal", &option("z")).expect_err("over");
        assert_eq!(refusal.code, Code::SessionNotOpen);
    }
}

#[test]
fn too_long_a_suspension_ends_the_session() {
    let suspended = || {
        let mut rig = begin(|p| p.max_suspend_ms = 1000).expect("starts");
        rig.suspend(I).expect("suspends");
        rig.now += 600;
        rig.resume(I).expect("resumes");
        rig.suspend(I).expect("suspends");
        rig.now += 401;
        rig.events();
        rig
    };
    let mut resumed = suspended();
    let refusal = resumed.resume(I).expect_err("too long in all");
    assert_eq!((refusal.code, refusal.surface), (Code::SessionNotOpen, Surface::InBand));
    assert_eq!(resumed.state(), SessionState::Expired);
    assert_eq!(resumed.events(), [Lifecycle::Expired], "it did not go on in between");
    let mut spoken = suspended();
    spoken.refused_as_over();
    assert_eq!(spoken.state(), SessionState::Expired, "noticed by a message too");
}

#[test]
fn a_session_is_suspended_a_thousand_and_twenty_four_times() {
    let mut rig = rig();
    for _ in 0..1024 {
        rig.suspend(I).expect("suspends");
        rig.resume(I).expect("resumes");
    }
    rig.suspend(I).expect("suspends");
    assert_eq!(rig.resume(I).expect_err("once too often").code, Code::SessionNotOpen);
    assert_eq!(rig.state(), SessionState::Expired);
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut rig = rig();
    rig.now += 1000;
    rig.ok("a", "Proposal", &option("p"));
    rig.now -= 5000;
    rig.ok("a", "Proposal", &option("q"));
    let activity = rig.session().metadata().participant_activity;
    assert_eq!(activity[0].last_message_at_unix_ms, T0 + 1000);
}

#[test]
fn a_policy_that_is_removed_governs_its_sessions_still() {
    let rules = r#"{"voting":{"algorithm":"majority"}}"#;
    let mut rig = Rig::under(MODE, &["a"], rules);
    let change = CatalogueChange::UnregisterPolicy { policy_id: "p".into() };
    rig.catalogue.apply(change).expect("removes");
    rig.ok("a", "Proposal", &option("p"));
    assert_eq!(rig.denied(true), ["no_votes"]);
}

#[test]
fn ended_sessions_leave_memory_as_one_value_and_still_answer() {
    let mut rig = rig();
    let proposal = rig.envelope(MODE, "Proposal", "a", option("p").encode_to_vec());
    rig.send(&proposal).expect("accepted");
    rig.apply(Entry::Archive { sessions: vec![ID.into()] });
    assert_eq!(rig.sessions.len(), 1, "not while it is open");
    rig.commit(true).expect("resolves");
    assert_eq!(rig.sessions.ended(T0 + 1, 1).collect::<Vec<_>>(), [ID]);
    assert_eq!(rig.sessions.ended(T0, 0).collect::<Vec<_>>(), [ID], "one is over");
    assert_eq!(rig.sessions.ended(T0, 1).count(), 0, "it may stay");
    let live = rig.session().clone();
    rig.effects.clear();
    rig.apply(Entry::Archive { sessions: vec![ID.into(), "none".into()] });
    assert!(rig.sessions.is_empty());
    let image = rig.sessions.to_bytes().expect("encodes");
    assert_eq!(image.len(), Sessions::default().to_bytes().expect("encodes").len());
    assert_eq!(Sessions::from_bytes(&image).as_ref(), Ok(&rig.sessions));
    assert_eq!(rig.sessions.archived(), 1);
    let Some(Effect::Archived { place: 1, session }) = rig.effects.pop() else {
        panic!("no session came out")
    };
    let archived = Session::from_bytes(&session.to_bytes().expect("encodes")).expect("decodes");
    assert_eq!(archived, live);
    let known =
        Known { sessions: &rig.sessions, catalogue: &rig.catalogue, archived: Some(&archived) };
    let rights = StartRights::default();
    let again = rig.speculation.send(known, &proposal, rights, rig.now);
    assert!(again.answer.expect("known").duplicate);
    let mut other = proposal.clone();
    other.message_id = "other".into();
    let late = rig.speculation.send(known, &other, rights, rig.now);
    assert_eq!(late.answer.expect_err("over").code, Code::SessionNotOpen);
    other.message_type = "SessionStart".into();
    other.payload = start(&["a"]).encode_to_vec();
    let second = rig.speculation.send(known, &other, rights, rig.now);
    assert_eq!(second.answer.expect_err("exists").code, Code::SessionAlreadyExists);
    let cancelled = rig.speculation.cancel(known, ID, I, "r", rig.now);
    assert_eq!(cancelled.answer.map(|a| a.state), Ok(SessionState::Resolved));

    // To be changed it comes back, and what is in memory stays what it is.
    let back = Entry::Recall { session: Box::new(archived) };
    rig.apply(back.clone());
    assert_eq!(rig.session(), &live);
    let known = Known { sessions: &rig.sessions, catalogue: &rig.catalogue, archived: None };
    let receipt = rig.speculation.receipt(known, ID, "{}".into(), rig.now).expect("an entry");
    rig.apply(receipt);
    rig.apply(back);
    assert_eq!(rig.session().receipt(), Some("{}"));
    rig.effects.clear();
    rig.apply(Entry::Archive { sessions: vec![ID.into()] });
    let Some(Effect::Archived { place: 2, session }) = rig.effects.pop() else {
        panic!("it did not leave again")
    };
    assert_eq!(session.receipt(), Some("{}"));
}

// (T) §18: ids of messages, ordinals and history survive a restart; here activity does too.
#[test]
fn a_restart_loses_nothing() {
    let mut rig = rig();
    let proposal = rig.envelope(MODE, "Proposal", "a", option("p").encode_to_vec());
    rig.send(&proposal).expect("accepted");
    rig.suspend(I).expect("suspends");
    rig.now += 700;
    rig.resume(I).expect("resumes");
    let before = rig.session().clone();
    let bytes = rig.sessions.to_bytes().expect("encodes");
    rig.sessions = Sessions::from_bytes(&bytes).expect("decodes");
    rig.speculation = Speculation::default();
    assert_eq!(rig.session(), &before);
    assert_eq!(rig.session().metadata(), before.metadata());
    assert!(rig.send(&proposal).expect("known").duplicate);
    rig.ok("a", "Vote", &vote("p", "APPROVE"));
    assert_eq!(rig.session().envelopes(0).count(), 3);
    assert_eq!(rig.sessions.next_due(), Some(T0 + 60_701), "the sweep goes on too");
}

#[test]
fn bytes_of_a_newer_build_say_so() {
    let mut bytes = rig().sessions.to_bytes().expect("encodes");
    bytes[0] = 9;
    assert_eq!(Sessions::from_bytes(&bytes), Err(FormatError::Version { found: 9 }));
    assert!(matches!(decode_entry(&bytes), Err(FormatError::Version { found: 9 })));
    assert!(matches!(Sessions::from_bytes(&[1]), Err(FormatError::Length(_))));
    let mut cut = rig().session().to_bytes().expect("encodes");
    cut.truncate(cut.len() - 1);
    assert_eq!(Session::from_bytes(&cut), Err(FormatError::Damaged));
}

#[test]
fn a_damaged_session_is_named_and_the_others_are_unharmed() {
    let mut rig = rig();
    let other = "session-000000000000000002";
    let mut envelope = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
    envelope.session_id = other.into();
    rig.send(&envelope).expect("starts");
    let mut bytes = rig.sessions.to_bytes().expect("encodes");
    // A bit of the first record of the first session, behind its id and a length.
    let whole = bytes.clone();
    let id = bytes.windows(ID.len()).position(|window| window == ID.as_bytes());
    bytes[id.expect("it is there") + ID.len() + 4] ^= 1;
    let error = Sessions::from_bytes(&bytes).expect_err("damaged");
    assert!(error.to_string().contains(ID), "{error}");
    let (mut sessions, damaged) = Sessions::salvage(&bytes).expect("the frames are whole");
    assert_eq!(sessions.get(other), rig.sessions.get(other));
    assert_eq!((sessions.len(), damaged.len()), (1, 1));
    assert_eq!(damaged[0].0, ID);
    // What is left of it stays, also in the next image, and nothing is added to it.
    assert!(sessions.is_damaged(ID) && !sessions.is_damaged(other));
    let again = Sessions::from_bytes(&sessions.to_bytes().expect("encodes"));
    assert_eq!(again.as_ref(), Ok(&sessions));
    for entry in rig.entries.clone() {
        let is_its = matches!(&entry, Entry::Records { session, .. } if session == ID);
        let done = sessions.apply(entry).progress;
        assert!(!is_its || matches!(done, Progress::Stale { .. }), "{done:?}");
    }
    // Where it cannot be told which one it was, or what the head said, nothing is guessed.
    for at in [10, id.expect("it is there") + 3] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert_eq!(Sessions::salvage(&bytes), Err(FormatError::Damaged), "byte {at}");
    }
    // The place that it had when it left memory stays its own.
    let archive = Entry::Archive { sessions: vec![ID.into(), "unknown".into()] };
    assert!(sessions.apply(archive).effects.is_empty());
    assert_eq!(sessions.archived(), 1);
}

#[test]
fn a_bit_that_has_changed_is_found_and_the_session_still_named() {
    let rig = rig();
    let entry = rig.entries.first().expect("a start");
    let bytes = encode_entry(entry).expect("encodes");
    assert_eq!(decode_entry(&bytes).as_ref(), Ok(entry));
    let session = rig.session().to_bytes().expect("encodes");
    for (bytes, is_entry) in [(bytes, true), (session, false)] {
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            match is_entry {
                true => assert!(decode_entry(&bytes).is_err(), "bit {at}"),
                false => assert!(Session::from_bytes(&bytes).is_err(), "bit {at}"),
            }
            // Behind the version, and the id with its checksum and its length.
            if is_entry && at / 8 >= 2 + 4 + 1 + ID.len() {
                assert_eq!(entry_about(&bytes), Some(ID), "bit {at}");
            }
        }
    }
}

#[test]
fn lists_are_paged_by_id() {
    let mut rig = Rig::new();
    for n in [3, 1, 2] {
        let mut envelope = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
        envelope.session_id = format!("session-00000000000000000{n}");
        rig.send(&envelope).expect("starts");
    }
    let ids = |page: Vec<&Session>| page.iter().map(|s| s.id().to_owned()).collect::<Vec<_>>();
    let first = ids(rig.sessions.page(None, 2));
    assert!(first[0].ends_with('1') && first[1].ends_with('2'));
    let rest = ids(rig.sessions.page(Some(&first[1]), 2));
    assert!(rest.len() == 1 && rest[0].ends_with('3'));
    assert_eq!(rig.sessions.open_count(I, rig.now), 3);
    assert_eq!(rig.sessions.open_count(I, rig.now + 60_001), 0);
}

#[test]
fn members_and_observers_read() {
    let rig = rig();
    let mut stranger = Rights::of("stranger");
    assert!(!rig.session().may_read(&stranger));
    stranger.is_observer = true;
    assert!(rig.session().may_read(&stranger));
    assert!(rig.session().may_read(&Rights::of(I)));
    assert!(rig.session().may_read(&Rights::of("a")));
}

mod speculation {
    use super::*;

    fn admit(rig: &mut Rig, envelope: &Envelope) -> Admission {
        let known = Known { sessions: &rig.sessions, catalogue: &rig.catalogue, archived: None };
        rig.speculation.send(known, envelope, StartRights::default(), rig.now)
    }

    #[test]
    fn what_is_on_its_way_counts_for_what_comes_next() {
        let mut rig = rig();
        let proposal = rig.envelope(MODE, "Proposal", "a", option("p").encode_to_vec());
        let cast = rig.envelope(MODE, "Vote", "a", vote("p", "APPROVE").encode_to_vec());
        let first = admit(&mut rig, &proposal);
        let second = admit(&mut rig, &cast);
        let again = admit(&mut rig, &proposal);
        assert!(again.answer.expect("known").duplicate);
        assert_eq!(again.entry, None);
        assert_eq!(again.after, 3, "a duplicate is acknowledged when the first is agreed");
        assert_eq!(rig.session().last_ordinal(), 1, "nothing is applied yet");
        for admission in [first, second] {
            rig.apply(admission.entry.expect("an entry"));
        }
        assert_eq!(rig.speculation.in_flight(), 0);
        assert_eq!(rig.session().last_ordinal(), 3);
        assert_eq!(rig.session().position(), again.after);
    }

    #[test]
    fn a_leader_that_loses_the_lead_forgets_and_stale_entries_do_nothing() {
        let mut rig = rig();
        let proposal = rig.envelope(MODE, "Proposal", "a", option("p").encode_to_vec());
        let cast = rig.envelope(MODE, "Vote", "a", vote("p", "APPROVE").encode_to_vec());
        let _lost = admit(&mut rig, &proposal);
        let orphan = admit(&mut rig, &cast).entry.expect("an entry");
        rig.speculation.clear();
        let before = rig.sessions.clone();
        assert_eq!(rig.apply(orphan), Progress::Stale { position: 1 });
        assert_eq!(rig.sessions, before);
        let refusal = rig.send(&cast).expect_err("the proposal was lost");
        assert_eq!(refusal.code, Code::InvalidEnvelope);
        assert!(!rig.send(&proposal).expect("accepted").duplicate, "it was never acknowledged");
        rig.send(&cast).expect("accepted");
    }

    #[test]
    fn an_entry_that_comes_twice_is_applied_once() {
        let mut rig = rig();
        let proposal = rig.envelope(MODE, "Proposal", "a", option("p").encode_to_vec());
        let entry = admit(&mut rig, &proposal).entry.expect("an entry");
        assert_eq!(rig.apply(entry.clone()), Progress::Applied { position: 2 });
        let before = rig.sessions.clone();
        assert_eq!(rig.apply(entry), Progress::Stale { position: 2 });
        assert_eq!(rig.sessions, before);
    }

    #[test]
    fn a_start_on_its_way_reserves_its_id() {
        let mut rig = Rig::new();
        let first = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
        let second = rig.envelope(MODE, "SessionStart", I, start(&["a"]).encode_to_vec());
        let started = admit(&mut rig, &first);
        let refused = admit(&mut rig, &second);
        assert_eq!(refused.answer.expect_err("reserved").code, Code::SessionAlreadyExists);
        assert_eq!(refused.after, 1, "if the first is lost, this must be asked again");
        rig.speculation.forget(ID);
        let again = admit(&mut rig, &second);
        assert!(again.answer.is_ok());
        assert_eq!(rig.apply(started.entry.expect("an entry")), Progress::Applied { position: 1 });
        assert_eq!(rig.apply(again.entry.expect("an entry")), Progress::Stale { position: 1 });
    }
}

mod what_would_be {
    use weft_macp::macp::v1::what_if_entry_outcome::Kind;

    use super::*;

    fn decided() -> Rig {
        let mut rig = rig();
        rig.ok("a", "Proposal", &option("p"));
        rig.ok("a", "Vote", &vote("p", "REJECT"));
        rig.suspend(I).expect("suspends");
        rig.resume(I).expect("resumes");
        rig.commit(true).expect("resolves");
        rig
    }

    fn candidate(rules: &str) -> Policy {
        policy(MODE, rules, 3)
    }

    #[test]
    fn another_policy_shows_what_it_would_have_denied() {
        let rig = decided();
        let before = rig.session().clone();
        let rules = r#"{"voting":{"algorithm":"majority"}}"#;
        let response = what_if(rig.session(), &candidate(rules)).expect("replays");
        assert_eq!(rig.session(), &before);
        assert_eq!(response.recorded_policy_id, "policy.default");
        assert_eq!(response.first_divergence, Some(3));
        let recorded = response.recorded.expect("there");
        assert_eq!(recorded.state, i32::from(pb::SessionState::Resolved));
        assert_eq!(recorded.resolved_by_history_index, 3);
        assert_eq!(recorded.resolved_by_message_type, "Commitment");
        assert_eq!(recorded.resolution, commitment(true).encode_to_vec());
        let candidate = response.candidate.expect("there");
        assert_eq!(candidate.state, i32::from(pb::SessionState::Open));
        assert!(candidate.resolution.is_empty());
        assert_eq!(response.denials.len(), 1);
        assert_eq!(response.denials[0].history_index, 3);
        let kinds: Vec<_> = response
            .entries
            .iter()
            .filter_map(|e| e.candidate.as_ref())
            .map(|o| o.kind())
            .collect();
        assert_eq!(kinds, [Kind::Applied, Kind::Applied, Kind::Applied, Kind::Refused]);
    }

    #[test]
    fn the_same_rules_do_not_diverge() {
        let rig = decided();
        let response = what_if(rig.session(), &candidate("{}")).expect("replays");
        assert_eq!(response.first_divergence, None);
        assert_eq!(response.recorded, response.candidate);
        assert!(response.denials.is_empty());
    }

    #[test]
    fn a_candidate_for_another_mode_or_with_wrong_rules_is_a_status() {
        let rig = decided();
        for wrong in [policy(MODES[1], "{}", 3), candidate(r#"{"voting":1}"#)] {
            let refusal = what_if(rig.session(), &wrong).expect_err("refused");
            assert_eq!(refusal.code, Code::InvalidPolicyDefinition);
            assert_eq!(refusal.surface, Surface::Status);
        }
        what_if(rig.session(), &policy("*", "{}", 1)).expect("for every mode");
    }

    #[test]
    fn a_candidate_under_which_it_ended_earlier_leaves_the_rest_not_open() {
        let rules = r#"{"commitment":{"authority":"any_participant"}}"#;
        let mut rig = Rig::under(MODE, &["a"], rules);
        rig.ok("a", "Proposal", &option("p"));
        rig.ok("a", "Commitment", &commitment(true));
        let response = what_if(rig.session(), &candidate("{}")).expect("replays");
        let last = response.entries.last().expect("an entry").candidate.clone().expect("there");
        assert_eq!((last.kind(), last.error_code.as_str()), (Kind::Refused, "FORBIDDEN"));
    }
}
