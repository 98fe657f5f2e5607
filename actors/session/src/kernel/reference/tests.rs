//! Tests of the reference's files: logs as it writes them, and sessions there and back.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};
use weft_macp::macp::v1 as pb;

use super::*;
use crate::kernel::rig::*;
use crate::kernel::{
    Catalogue, CatalogueChange, Code, Progress, Record, Rights, Session, SessionState,
};

const DECISION: &str = "macp.mode.decision.v1";
const HANDOFF: &str = "macp.mode.handoff.v1";
const ROUNDS: &str = "ext.multi_round.v1";

/// A line as the reference writes it.
fn line(kind: &str, message_type: &str, id: &str, sender: &str, at: i64, payload: &[u8]) -> Value {
    json!({
        "message_id": id, "received_at_ms": at, "sender": sender, "message_type": message_type,
        "raw_payload": payload, "entry_kind": kind, "session_id": ID, "mode": DECISION,
        "macp_version": "1.0", "timestamp_unix_ms": at - 5, "bound_mode_version": null,
        "semantics_rev": 0, "bound_max_suspend_ms": null, "compacted_incoming_ordinals": 0
    })
}

fn incoming<M: prost::Message>(kind: &str, id: &str, sender: &str, at: i64, payload: &M) -> Value {
    line("Incoming", kind, id, sender, at, &payload.encode_to_vec())
}

fn internal<M: prost::Message>(kind: &str, at: i64, payload: &M) -> Value {
    line("Internal", kind, "", "_runtime", at, &payload.encode_to_vec())
}

/// The start of [`ID`] by [`I`], for `a` and `b`, at [`T0`].
fn begin() -> Value {
    let mut begun = incoming("SessionStart", "m0", I, T0, &start(&["a", "b"]));
    begun["semantics_rev"] = 4.into();
    begun["bound_max_suspend_ms"] = 604_800_000.into();
    begun
}

fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn read(log: &[u8], snapshot: &[u8], receipt: &[u8]) -> Result<Imported, ImportError> {
    ReferenceFiles { session_id: ID, log, snapshot, receipt }.import(&Catalogue::default())
}

fn import(lines: &[Value]) -> Result<Imported, ImportError> {
    read(text(lines).as_bytes(), b"", b"")
}

fn session(imported: &Imported) -> Session {
    let log = imported.records.iter().cloned().map(std::sync::Arc::new);
    Session::replay(ID, log).expect("it begins")
}

fn exported(session: &Session) -> String {
    ReferenceLog::new(session.clone()).lines().collect()
}

#[test]
fn a_log_of_the_reference_keeps_its_ordinals_ids_and_times() {
    let suspend = pb::SessionSuspendPayload { reason: "lunch".into(), suspended_by: I.into() };
    let resume =
        pb::SessionResumePayload { reason: "back".into(), resumed_by: I.into(), banked_ms: 59_900 };
    let lines = [
        begin(),
        incoming("Proposal", "m1", "a", T0 + 10, &option("p1")),
        internal("SessionSuspend", T0 + 100, &suspend),
        internal("SessionResume", T0 + 5_100, &resume),
        incoming("Vote", "m2", "b", T0 + 5_200, &vote("p1", "APPROVE")),
        incoming("Commitment", "m3", I, T0 + 5_300, &commitment(true)),
        // Accepted before the end was seen.
        incoming("Vote", "m4", "a", T0 + 5_301, &vote("p1", "APPROVE")),
    ];
    let imported = import(&lines).expect("it is sound");
    assert_eq!((imported.state, imported.messages), (SessionState::Resolved, 5));
    assert_eq!(imported.notes, Vec::<String>::new());
    let session = session(&imported);
    let metadata = session.metadata();
    assert_eq!(metadata.started_at_unix_ms, T0);
    // The client's clock at the start, its life, and what it was suspended.
    assert_eq!(metadata.expires_at_unix_ms, T0 - 5 + 60_000 + 5_000);
    assert_eq!(
        (metadata.initiator.as_str(), metadata.policy_version.as_str()),
        (I, "policy.default")
    );
    let envelopes: Vec<_> = session.envelopes(0).collect();
    let ids: Vec<_> = envelopes.iter().map(|(at, e)| (*at, e.message_id.as_str())).collect();
    assert_eq!(ids, [(1, "m0"), (2, "m1"), (3, "m2"), (4, "m3"), (5, "m4")]);
    assert!(envelopes.iter().all(|(_, e)| e.macp_version == "1.0" && e.session_id == ID));
    assert_eq!(envelopes.get(1).map(|(_, e)| e.timestamp_unix_ms), Some(T0 + 5));
    assert!(["m0", "m1", "m2", "m3", "m4"].iter().all(|id| session.seen.contains(*id)));
    let counts = metadata.participant_activity.iter();
    let counts: Vec<_> = counts.map(|a| (a.participant_id.as_str(), a.message_count)).collect();
    assert_eq!(counts, [("a", 2), (I, 1), ("b", 1)]);
    assert!(session.may_read(&Rights::of("a")) && !session.may_read(&Rights::of("c")));
}

#[test]
fn what_is_taken_over_is_a_session_like_any_other() {
    let lines = [begin(), incoming("Proposal", "x1", "a", T0 + 10, &option("p1"))];
    let imported = import(&lines).expect("it is sound");
    let mut rig = Rig::new();
    rig.now = T0 + 1_000;
    let answer = rig.lead(|leader, known, _| leader.import(known, ID, &imported)).expect("taken");
    assert_eq!(answer.state, SessionState::Open);
    assert_eq!(rig.session(), &session(&imported), "live equals replay");
    // The ids of its log are taken, and it goes on where it was.
    let again = rig.session().envelope(2).expect("an envelope").into();
    assert!(rig.send(&again).expect("a duplicate").duplicate);
    rig.ok("b", "Vote", &vote("p1", "APPROVE"));
    rig.commit(true).expect("resolves");
    assert_eq!(rig.session().last_ordinal(), 4);
    let refusal = rig.lead(|leader, known, _| leader.import(known, ID, &imported));
    assert_eq!(refusal.expect_err("is there").code, Code::SessionAlreadyExists);
    let entry = crate::kernel::Entry::Records {
        session: ID.into(),
        base: 0,
        records: imported.records.clone(),
    };
    assert_eq!(rig.apply(entry), Progress::Stale { position: 4 });
}

#[test]
fn an_open_session_whose_time_was_over_expires_when_it_is_looked_at() {
    let imported = import(&[begin()]).expect("it is sound");
    let mut rig = Rig::new();
    rig.now = T0 + 120_000;
    rig.lead(|leader, known, _| leader.import(known, ID, &imported)).expect("taken");
    rig.sweep();
    assert_eq!(rig.state(), SessionState::Expired);
}

/// There and back, without the modes and policies of the one it comes from.
fn there_and_back(rig: &Rig) {
    let session = rig.session();
    let log = exported(session);
    let files = ReferenceFiles {
        session_id: ID,
        log: log.as_bytes(),
        snapshot: b"",
        receipt: session.receipt().unwrap_or_default().as_bytes(),
    };
    let imported = files.import(&Catalogue::default()).expect("it is sound");
    let log: Vec<Record> = session.log().map(|record| Record::clone(record)).collect();
    assert_eq!(imported.records, log);
    assert_eq!(self::session(&imported).fingerprint(), session.fingerprint());
}

#[test]
fn sessions_are_the_same_there_and_back() {
    let mut rig = Rig::with(DECISION, &["a", "b"]);
    rig.ok("a", "Proposal", &option("p1"));
    rig.now += 10;
    rig.suspend(I).expect("suspends");
    rig.now += 7_000;
    rig.resume(I).expect("resumes");
    there_and_back(&rig);
    rig.commit(true).expect("resolves");
    let known =
        crate::kernel::Known { sessions: &rig.sessions, catalogue: &rig.catalogue, archived: None };
    let json = crate::kernel::Receipt::new(rig.session(), "r", rig.now).expect("one").unsigned();
    let entry = rig.speculation.clone().receipt(known, ID, json, rig.now).expect("an entry");
    rig.apply(entry);
    there_and_back(&rig);

    let mut rig = Rig::with(DECISION, &["a"]);
    rig.now += 5;
    rig.cancel(I).expect("cancels");
    there_and_back(&rig);

    let mut rig = Rig::with(DECISION, &["a"]);
    rig.now += 60_001;
    rig.sweep();
    assert_eq!(rig.state(), SessionState::Expired);
    there_and_back(&rig);

    let mut rig = Rig::with(ROUNDS, &["a", "b"]);
    for sender in ["a", "b"] {
        rig.ok(sender, "Contribute", &contribute("v"));
    }
    rig.commit(true).expect("resolves");
    there_and_back(&rig);
}

#[test]
fn a_policy_in_force_goes_along_and_so_does_an_accept_that_nobody_sent() {
    let rules = r#"{"acceptance":{"implicit_accept_timeout_ms":1000}}"#;
    let mut rig = Rig::under(HANDOFF, &[I, "a"], rules);
    rig.ok(I, "HandoffOffer", &offer("h1", "a"));
    rig.now += 1_000;
    rig.sweep();
    assert_eq!(rig.session().last_ordinal(), 3, "the server accepted for the target");
    rig.commit(true).expect("resolves");
    there_and_back(&rig);
    let lines = exported(rig.session());
    let second: Value = serde_json::from_str(lines.lines().nth(1).expect("a line")).expect("JSON");
    assert_eq!(
        (&second["entry_kind"], &second["compacted_incoming_ordinals"]),
        (&json!("Checkpoint"), &json!(0))
    );
    // Without the checkpoint, `session.json` says what was in force, and without that nothing does.
    let bare: String =
        lines.lines().filter(|l| !l.contains("Checkpoint")).map(|l| format!("{l}\n")).collect();
    let bytes: Vec<u8> = serde_json::from_value(second["raw_payload"].clone()).expect("bytes");
    let imported = read(bare.as_bytes(), &bytes, b"").expect("it is sound");
    assert_eq!(session(&imported).fingerprint(), rig.session().fingerprint());
    assert!(imported.notes.iter().any(|note| note.contains("session.json says Open")));
    assert_eq!(read(bare.as_bytes(), b"", b""), Err(ImportError::Policy("p".into())));
    let files =
        ReferenceFiles { session_id: ID, log: bare.as_bytes(), snapshot: b"", receipt: b"" };
    files.import(&rig.catalogue).expect("it is registered there");
}

#[test]
fn a_resume_after_too_long_ends_the_session_here_as_there() {
    let mut rig = Rig::new();
    let payload = pb::SessionStartPayload { max_suspend_ms: 1_000, ..start(&["a"]) };
    let envelope = rig.envelope(DECISION, "SessionStart", I, payload.encode_to_vec());
    rig.send(&envelope).expect("starts");
    rig.suspend(I).expect("suspends");
    rig.now += 1_001;
    assert_eq!(rig.resume(I).expect_err("it is over").code, Code::SessionNotOpen);
    assert_eq!(rig.state(), SessionState::Expired);
    there_and_back(&rig);
    // The reference writes no line for that end.
    let log: Vec<Value> = exported(rig.session())
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|line: &Value| line["message_type"] != "TtlExpired")
        .collect();
    assert_eq!(import(&log).expect("it is sound").state, SessionState::Expired);
}

#[test]
fn what_cannot_be_taken_over_whole_says_why() {
    let compacted = |n: u64| {
        let mut line = line("Checkpoint", "Checkpoint", "", "_runtime", T0, b"{}");
        line["compacted_incoming_ordinals"] = n.into();
        line
    };
    let discarded = import(&[compacted(10)]).expect_err("its history is gone");
    assert_eq!(discarded, ImportError::Compacted { discarded: 10 });
    let says = discarded.to_string();
    assert!(says.contains("10 envelopes") && says.contains("MACP_COMPACT_TERMINAL_LOGS"), "{says}");
    assert_eq!(import(&[compacted(0)]), Err(ImportError::Compacted { discarded: 0 }));
    // One in between leaves everything where it was.
    let lines = [begin(), compacted(0), incoming("Proposal", "m1", "a", T0 + 1, &option("p1"))];
    assert_eq!(import(&lines).expect("it is sound").messages, 2);

    assert_eq!(import(&[]), Err(ImportError::NoStart));
    let proposal = incoming("Proposal", "m1", "a", T0 + 1, &option("p1"));
    assert_eq!(import(std::slice::from_ref(&proposal)), Err(ImportError::NoStart));
    let with = |key: &str, value: Value| {
        let mut begun = begin();
        begun[key] = value;
        import(&[begun])
    };
    assert_eq!(with("mode", json!("ext.mine")), Err(ImportError::Mode("ext.mine".into())));
    assert_eq!(with("mode", json!("")), Err(ImportError::NoMode));
    for (key, value) in [
        ("session_id", json!("another-session-00000000000")),
        ("raw_payload", json!([255])),
        ("raw_payload", json!([])),
    ] {
        let refused = with(key, value).expect_err(key);
        assert!(matches!(refused, ImportError::Refused { line: 1, .. }), "{refused}");
    }
    let bad = ReferenceFiles { session_id: "../etc", log: b"", snapshot: b"", receipt: b"" };
    assert_eq!(bad.import(&Catalogue::default()), Err(ImportError::Id));
}

#[test]
fn a_history_that_could_not_have_come_about_is_refused_at_its_line() {
    let proposal = || incoming("Proposal", "m1", "a", T0 + 1, &option("p1"));
    let none = pb::SessionResumePayload::default();
    for (line, says) in [
        (incoming("Proposal", "m1", "stranger", T0 + 2, &option("p2")), "before"),
        (incoming("Proposal", "m2", "stranger", T0 + 2, &option("p2")), "no participant"),
        (incoming("Vote", "m2", "b", T0 + 2, &vote("p1", "approve")), "here 4 holds"),
        (incoming("SessionStart", "m2", I, T0 + 2, &start(&["a"])), "begun"),
        (internal("SessionResume", T0 + 2, &none), "is open"),
        (internal("SessionSuspend2", T0 + 2, &none), "newer"),
    ] {
        let mut begun = begin();
        begun["semantics_rev"] = 3.into();
        let refused = import(&[begun, proposal(), line]).expect_err(says);
        assert!(matches!(refused, ImportError::Refused { line: 3, .. }), "{refused}");
        assert!(refused.to_string().contains(says), "{says}: {refused}");
    }
}

#[test]
fn a_damaged_line_is_named_and_one_that_was_being_written_is_left_out() {
    let whole = text(&[begin(), incoming("Proposal", "m1", "a", T0 + 1, &option("p1"))]);
    let torn = format!("{whole}{{\"message_id\":\"m2\",\"rec");
    let imported = read(torn.as_bytes(), b"", b"").expect("nobody was told of the last line");
    assert_eq!((imported.messages, imported.notes.len()), (2, 1));
    let damaged = read(format!("{torn}\n").as_bytes(), b"", b"").expect_err("it is damaged");
    assert!(matches!(damaged, ImportError::Line { line: 3, .. }), "{damaged}");
    let imported = read(whole.as_bytes(), b"{", br#"{"session_id":"x"}"#).expect("it is sound");
    assert_eq!(imported.notes.len(), 2, "{:?}", imported.notes);
}

#[test]
fn a_session_of_a_mode_that_was_registered_needs_it_here_and_is_told_to_be_lost_there() {
    let mut rig = Rig::new();
    let descriptor = crate::kernel::Descriptor {
        mode: "ext.mine".into(),
        mode_version: "2".into(),
        message_types: vec!["SessionStart".into(), "Say".into(), "Commitment".into()],
        terminal_message_types: vec!["Commitment".into()],
        ..Default::default()
    };
    rig.catalogue.apply(CatalogueChange::RegisterMode(descriptor)).expect("registers");
    let payload = pb::SessionStartPayload { ttl_ms: 60_000, ..Default::default() };
    let envelope = rig.envelope("ext.mine", "SessionStart", I, payload.encode_to_vec());
    rig.send(&envelope).expect("starts");
    let log = exported(rig.session());
    let files = ReferenceFiles { session_id: ID, log: log.as_bytes(), snapshot: b"", receipt: b"" };
    assert_eq!(files.import(&Catalogue::default()), Err(ImportError::Mode("ext.mine".into())));
    let imported = files.import(&rig.catalogue).expect("it is known");
    assert_eq!(session(&imported).fingerprint(), rig.session().fingerprint());
    assert_eq!(ReferenceLog::new(rig.session().clone()).notes().len(), 1);
}

proptest! {
    #[test]
    fn whatever_the_files_hold_there_is_an_answer(
        cut in 0usize..4_000,
        with in prop::collection::vec(any::<u8>(), 0..8),
        snapshot in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        let mut log = text(&[
            begin(),
            incoming("Proposal", "m1", "a", T0 + 1, &option("p1")),
            internal("SessionSuspend", T0 + 2, &pb::SessionSuspendPayload::default()),
            internal("SessionResume", T0 + 3, &pb::SessionResumePayload::default()),
        ]).into_bytes();
        let at = cut.min(log.len());
        let end = (at + with.len()).min(log.len());
        drop(log.splice(at..end, with));
        // Sound or not, it never panics, and what is sound can be replayed.
        if let Ok(imported) = read(&log, &snapshot, &snapshot) {
            let session = session(&imported);
            prop_assert_eq!(session.state(), imported.state);
            prop_assert_eq!(session.last_ordinal(), imported.messages);
        }
    }
}
