//! Tests of what operators ask, of sessions in memory.

use std::sync::Arc;

use prost::Message as _;
use weft_link::{Call, Items};
use weft_macp::macp::modes::decision::v1 as decision;
use weft_macp::macp::v1 as pb;
use weft_protocol::{
    ExportItem, ExportSession, ImportOutcome, ImportSession, Octets, SendEnvelope, SessionEnvelope,
    SessionLifecycle, SessionState, SurveySessions,
};
use weft_supervision::testing::{self, PATIENCE, TestTree};
use weft_wire::{ActorKind, Address, Subscription, SystemClock};

use super::*;
use crate::{Archive, Modes, factory};

const DECISION: &str = "macp.mode.decision.v1";
const HANDOFF: &str = "macp.mode.handoff.v1";

fn id(n: u32) -> String {
    format!("session-{n:018}")
}

/// A node that keeps sessions in memory.
async fn node(tree: &TestTree) {
    let modes = Modes::default();
    let archive = Archive::none(std::time::Duration::from_secs(3600));
    let owned = Owned::new("session/0", modes.clone(), Arc::new(SystemClock), archive);
    tree.add(ActorKind::Session, factory(Owners::one(owned, modes.clone()), modes)).await;
}

async fn send(tree: &TestTree, session: &str, mode: &str, kind: &str, payload: Vec<u8>) {
    let envelope = SessionEnvelope {
        mode: mode.into(),
        message_type: kind.into(),
        message_id: kind.to_lowercase(),
        session_id: session.into(),
        sender: "agent://a".into(),
        timestamp_ms: 0,
        payload,
    };
    let answer =
        tree.ask(SendEnvelope { envelope, max_open: None, rates: None }).await.expect("answers");
    assert!(answer.is_ok(), "{answer:?}");
}

async fn start(tree: &TestTree, session: &str, mode: &str) {
    let payload = pb::SessionStartPayload {
        intent: "a test".into(),
        participants: vec!["agent://a".into(), "agent://b".into()],
        mode_version: "1.0.0".into(),
        configuration_version: "c".into(),
        ttl_ms: 60_000,
        ..pb::SessionStartPayload::default()
    };
    send(tree, session, mode, "SessionStart", payload.encode_to_vec()).await;
}

async fn propose(tree: &TestTree, session: &str) {
    let payload = decision::ProposalPayload {
        proposal_id: "p1".into(),
        option: "blue".into(),
        ..decision::ProposalPayload::default()
    };
    send(tree, session, DECISION, "Proposal", payload.encode_to_vec()).await;
}

async fn open<S: Subscription>(tree: &TestTree, message: S) -> Items<S::Item> {
    let to = Address::here(ActorKind::Session);
    tree.fabric().subscribe(to, message, Call::within(PATIENCE)).await.expect("opens")
}

async fn next<T>(items: &mut Items<T>) -> Option<T> {
    let next = tokio::time::timeout(PATIENCE, items.next()).await.expect("in time");
    next.transpose().expect("no error")
}

async fn record(items: &mut Items<HistoryItem>) -> SessionRecord {
    match next(items).await {
        Some(HistoryItem::Record(record)) => *record,
        other => panic!("a record, not {other:?}"),
    }
}

fn ids(rows: &SessionRows) -> Vec<&str> {
    rows.rows.iter().map(|row| row.session.session_id.as_str()).collect()
}

#[test]
fn sessions_are_listed_in_pages_by_state_and_by_mode() {
    testing::run(async |tree: TestTree| {
        node(&tree).await;
        for n in 1..=3 {
            start(&tree, &id(n), DECISION).await;
        }
        start(&tree, &id(4), HANDOFF).await;
        let end = EndSession { session_id: id(2), reason: "r".into() };
        tree.ask(end).await.expect("answers").expect("ends");
        let survey = async |states: &[SessionState], mode: &str, after: Option<String>, size| {
            let (states, mode) = (states.to_vec(), mode.to_owned());
            tree.ask(SurveySessions { states, mode, after, size }).await.expect("answers")
        };
        let first = survey(&[], "", None, 3).await;
        assert_eq!((ids(&first), first.more), (vec![&*id(1), &*id(2), &*id(3)], true));
        let rest = survey(&[], "", Some(id(3)), 3).await;
        assert_eq!((ids(&rest), rest.more), (vec![&*id(4)], false));
        let open = survey(&[SessionState::Open], DECISION, None, 9).await;
        assert_eq!(ids(&open), [&*id(1), &*id(3)]);
        let none = survey(&[SessionState::Resolved], "", None, 9).await;
        assert_eq!((ids(&none), none.more), (Vec::new(), false));
    });
}

#[test]
fn a_history_is_read_and_followed_to_the_end_that_an_operator_makes() {
    testing::run(async |tree: TestTree| {
        node(&tree).await;
        let mut events = open(&tree, FollowLifecycle {}).await;
        assert_eq!(next(&mut events).await, Some(SessionEvent::Attached));
        start(&tree, &id(1), DECISION).await;
        let history = |follow| FollowHistory { session_id: id(1), after: 0, follow };
        let mut followed = open(&tree, history(true)).await;
        let begun = record(&mut followed).await;
        assert_eq!(
            (begun.ordinal, begun.position, &*begun.message_type),
            (Some(1), 1, "SessionStart")
        );
        propose(&tree, &id(1)).await;
        let proposal = record(&mut followed).await;
        let SessionPayload::Json(text) = &proposal.payload else { panic!("{proposal:?}") };
        assert!(text.contains(r#""option":"blue""#), "{text}");

        // The operator is nobody in the session.
        let end = || EndSession { session_id: id(1), reason: "stuck".into() };
        let ack = tree.ask(end()).await.expect("answers").expect("ends");
        assert_eq!(ack.state, SessionState::Cancelled);
        let cancelled = record(&mut followed).await;
        assert_eq!((cancelled.ordinal, cancelled.position), (None, 3));
        assert_eq!(cancelled.message_type, "SessionCancel");
        assert!(cancelled.sender.starts_with("node/"), "who it was: {}", cancelled.sender);
        assert_eq!(cancelled.payload, SessionPayload::Json(r#"{"reason":"stuck"}"#.into()));
        let state = SessionState::Cancelled;
        assert_eq!(next(&mut followed).await, Some(HistoryItem::Ended { state }));
        assert_eq!(next(&mut followed).await, None);

        for expected in [SessionLifecycle::Created, SessionLifecycle::Cancelled] {
            let event = next(&mut events).await;
            let Some(SessionEvent::Happened { what, session, .. }) = event else {
                panic!("{event:?}")
            };
            assert_eq!((what, session.session_id), (expected, id(1)));
        }
        // What has ended stays as it is.
        let again = tree.ask(end()).await.expect("answers").expect("ended");
        assert_eq!(again.state, SessionState::Cancelled);
        let mut whole = open(&tree, history(false)).await;
        for position in 1..=3 {
            assert_eq!(record(&mut whole).await.position, position);
        }
        assert_eq!(next(&mut whole).await, None);

        let missing = FollowHistory { session_id: id(9), after: 0, follow: true };
        assert_eq!(next(&mut open(&tree, missing).await).await, Some(HistoryItem::Missing));
        assert_eq!(tree.ask(InspectSession { session_id: id(9) }).await, Ok(None));
        let refused = tree.ask(EndSession { session_id: id(9), reason: String::new() }).await;
        assert_eq!(refused.expect("answers").expect_err("is not there").code, "SESSION_NOT_FOUND");
    });
}

#[test]
fn a_session_is_shown_with_its_policy_and_its_resolution() {
    testing::run(async |tree: TestTree| {
        node(&tree).await;
        start(&tree, &id(1), DECISION).await;
        propose(&tree, &id(1)).await;
        let payload = pb::CommitmentPayload {
            commitment_id: "c".into(),
            action: "decision.approved".into(),
            authority_scope: "s".into(),
            reason: "r".into(),
            mode_version: "1.0.0".into(),
            configuration_version: "c".into(),
            outcome_positive: true,
            ..pb::CommitmentPayload::default()
        };
        send(&tree, &id(1), DECISION, "Commitment", payload.encode_to_vec()).await;
        let detail = tree.ask(InspectSession { session_id: id(1) }).await.expect("answers");
        let detail = detail.expect("is there");
        assert_eq!((detail.row.messages, detail.row.records), (3, 3));
        assert_eq!(detail.row.session.state, SessionState::Resolved);
        assert_eq!(detail.policy.policy_id, "policy.default");
        let Some(SessionPayload::Json(text)) = &detail.resolution else { panic!("{detail:?}") };
        assert!(text.contains("decision.approved"), "{text}");
    });
}

/// The `log.jsonl` of an export.
async fn exported(tree: &TestTree, n: u32) -> (Vec<u8>, u64) {
    let mut items = open(tree, ExportSession { session_id: id(n) }).await;
    let mut log = Vec::new();
    loop {
        match next(&mut items).await {
            Some(ExportItem::Piece(piece)) => log.extend(piece.0),
            Some(ExportItem::Whole { messages }) => return (log, messages),
            other => panic!("{other:?}"),
        }
    }
}

async fn import(tree: &TestTree, n: u32, log: &[u8], check: bool) -> ImportOutcome {
    let (log, empty) = (Octets(log.to_vec()), Octets::default);
    let (snapshot, receipt) = (empty(), empty());
    let message = ImportSession { session_id: id(n), log, snapshot, receipt, check };
    tree.ask(message).await.expect("answers")
}

#[test]
fn a_session_goes_out_and_comes_in_whole_and_once() {
    let (log, messages) = testing::run(async |tree: TestTree| {
        node(&tree).await;
        start(&tree, &id(1), DECISION).await;
        propose(&tree, &id(1)).await;
        let missing = ExportSession { session_id: id(9) };
        assert_eq!(next(&mut open(&tree, missing).await).await, Some(ExportItem::Missing));
        exported(&tree, 1).await
    });
    assert_eq!(messages, 2);
    testing::run(async |tree: TestTree| {
        node(&tree).await;
        let mut events = open(&tree, FollowLifecycle {}).await;
        assert_eq!(next(&mut events).await, Some(SessionEvent::Attached));
        let (state, notes) = (SessionState::Open, Vec::new());
        let done = ImportOutcome::Imported { state, messages: 2, notes };
        assert_eq!(import(&tree, 1, &log, true).await, done);
        assert_eq!(tree.ask(InspectSession { session_id: id(1) }).await, Ok(None), "only checked");
        assert_eq!(import(&tree, 1, &log, false).await, done);
        let event = next(&mut events).await;
        let created = SessionLifecycle::Created;
        assert!(matches!(event, Some(SessionEvent::Happened { what, .. }) if what == created));
        assert_eq!(exported(&tree, 1).await, (log.clone(), 2));
        assert_eq!(
            import(&tree, 1, &log, false).await,
            ImportOutcome::Present { state, messages: 2 }
        );

        // It goes on here, and the same files are still what it began as.
        let end = EndSession { session_id: id(1), reason: "r".into() };
        tree.ask(end).await.expect("answers").expect("ends");
        let state = SessionState::Cancelled;
        assert_eq!(
            import(&tree, 1, &log, false).await,
            ImportOutcome::Present { state, messages: 2 }
        );
        let (ended, _) = exported(&tree, 1).await;
        let text = String::from_utf8(log.clone()).expect("text");
        let other = text.replace("\"message_id\":\"proposal\"", "\"message_id\":\"another\"");
        for (n, log, says) in [
            (1, other.as_bytes(), "another history"),
            (2, log.as_slice(), "is of session"),
            (3, b"{}\n".as_slice(), "line 1"),
        ] {
            match import(&tree, n, log, false).await {
                ImportOutcome::Refused(why) => assert!(why.contains(says), "{says}: {why}"),
                other => panic!("{says}: {other:?}"),
            }
        }
        // Elsewhere it was imported before it ended here.
        let ended = String::from_utf8(ended).expect("text").replace(&id(1), &id(4));
        let begun = text.replace(&id(1), &id(4));
        let done = import(&tree, 4, begun.as_bytes(), false).await;
        assert!(matches!(done, ImportOutcome::Imported { .. }), "{done:?}");
        let grown = import(&tree, 4, ended.as_bytes(), false).await;
        assert!(
            matches!(&grown, ImportOutcome::Refused(why) if why.contains("grown by 1")),
            "{grown:?}"
        );
    });
}
