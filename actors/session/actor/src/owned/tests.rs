//! Tests of a group behind real consensus, asked through its actor.

mod archived;
mod damaged;

use std::collections::BTreeSet;

use prost::Message as _;
use weft_agreement::{Consensus, ConsensusConfig, Door};
use weft_link::{Call, Items};
use weft_macp::macp::modes::decision::v1 as decision;
use weft_macp::macp::v1 as pb;
use weft_protocol::{
    CatalogueEdit, ControlSession, EditCatalogue, FollowSession, FollowSessions, IssueReceipt,
    IssuedReceipt, ListSessions, PolicyView, ReadPolicies, ReadSession, ReceiptSigner,
    SendEnvelope, SessionAnswer, SessionControl, SessionEnvelope, SessionItem, SessionLifecycle,
    SessionReader,
};
use weft_supervision::testing::{self, PATIENCE, TestTree};
use weft_wire::{ActorKind, Address, SystemClock};

use super::*;
use crate::{Owners, factory};

const DECISION: &str = "macp.mode.decision.v1";
/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);
const ID: &str = "session-000000000000000001";

fn envelope(id: &str, kind: &str, message_id: &str, payload: Vec<u8>) -> SessionEnvelope {
    SessionEnvelope {
        mode: DECISION.into(),
        message_type: kind.into(),
        message_id: message_id.into(),
        session_id: id.into(),
        sender: "agent://a".into(),
        timestamp_ms: 0,
        payload,
    }
}

fn start(id: &str) -> SessionEnvelope {
    let payload = pb::SessionStartPayload {
        intent: "a test".into(),
        participants: vec!["agent://a".into()],
        mode_version: "1.0.0".into(),
        configuration_version: "c".into(),
        ttl_ms: 60_000,
        ..pb::SessionStartPayload::default()
    };
    envelope(id, "SessionStart", "start", payload.encode_to_vec())
}

fn proposal(id: &str, name: &str) -> SessionEnvelope {
    let payload = decision::ProposalPayload {
        proposal_id: name.into(),
        option: "x".into(),
        ..decision::ProposalPayload::default()
    };
    envelope(id, "Proposal", name, payload.encode_to_vec())
}

fn reader(sender: &str) -> SessionReader {
    SessionReader { sender: sender.into(), is_observer: false }
}

async fn send(tree: &TestTree, envelope: SessionEnvelope) -> SessionAnswer {
    tree.ask(SendEnvelope { envelope, max_open: None, rates: None }).await.expect("answers")
}

/// A node's sessions: in `dir`, or in memory.
async fn open(tree: &TestTree, dir: Option<&std::path::Path>) -> (Owned, Option<Consensus>) {
    open_with(tree, dir, HOUR).await
}

/// One whose sessions leave memory `retention` after their start, if they have ended.
async fn open_with(
    tree: &TestTree,
    dir: Option<&std::path::Path>,
    retention: Duration,
) -> (Owned, Option<Consensus>) {
    let modes = Modes::default();
    let clock = Arc::new(SystemClock);
    let owned = match dir {
        None => Owned::new("session/0", modes.clone(), clock, Archive::none(retention)),
        Some(dir) => {
            let file = Archive::file(dir).await.expect("opens");
            let archive = Archive::open(file, "session/0", retention).await.expect("opens");
            Owned::agreed("session/0", modes.clone(), clock, archive)
        }
    };
    let mut kept = None;
    if let Some(dir) = dir {
        let door = Door::new(tree.fabric());
        let config = ConsensusConfig { checkpoint_every: 20, ..ConsensusConfig::new(dir) };
        let consensus = Consensus::open(config, tree.fabric(), &door).await.expect("opens");
        let catalogue = consensus.group(Modes::GROUP, modes.machine()).await.expect("a group");
        let group = consensus.group_alone("session/0", owned.machine()).await;
        let group = group.expect("a group");
        door.attach();
        catalogue.bootstrap().await.expect("begins");
        group.bootstrap().await.expect("begins");
        modes.agree_by(catalogue);
        owned.agree_by(group);
        kept = Some(consensus);
    }
    tree.add(ActorKind::Session, factory(Owners::one(owned.clone(), modes.clone()), modes)).await;
    (owned, kept)
}

/// Of the last envelope.
fn ordinal(owned: &Owned) -> u64 {
    owned.lock().sessions.get(ID).expect("in memory").last_ordinal()
}

async fn follow(tree: &TestTree, who: &str, after: Option<u64>, on: bool) -> Items<SessionItem> {
    let message = FollowSession { session_id: ID.into(), reader: reader(who), after, follow: on };
    let to = Address::here(ActorKind::Session);
    tree.fabric().subscribe(to, message, Call::within(PATIENCE)).await.expect("opens")
}

async fn next<T>(items: &mut Items<T>) -> T {
    let next = tokio::time::timeout(PATIENCE, items.next()).await.expect("in time");
    next.expect("not the end").expect("no error")
}

/// What concurrent senders were told, and what the log has, agree.
async fn many_at_once(tree: &TestTree, owned: &Owned) {
    assert!(send(tree, start(ID)).await.is_ok_and(|ack| !ack.duplicate));
    let mut follower = follow(tree, "agent://a", Some(0), true).await;
    assert_eq!(next(&mut follower).await, SessionItem::Attached { ordinal: 0 });
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200u32 {
        // Every message twice, at once: one of the two is a duplicate.
        let (fabric, envelope) = (tree.fabric(), proposal(ID, &format!("p{}", n / 2)));
        tasks.spawn(async move {
            let message = SendEnvelope { envelope, max_open: None, rates: None };
            let to = Address::here(ActorKind::Session);
            fabric.ask(to, message, Call::within(PATIENCE)).await.expect("answers")
        });
    }
    let answers = tasks.join_all().await;
    let duplicates = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|a| a.duplicate));
    assert_eq!(duplicates.count(), 100);
    assert!(answers.iter().all(Result::is_ok));
    let mut seen = BTreeSet::new();
    for expected in 1..=101u64 {
        let SessionItem::Envelope { ordinal, envelope } = next(&mut follower).await else {
            panic!("an envelope")
        };
        assert_eq!(ordinal, expected);
        assert!(seen.insert(envelope.message_id), "delivered once");
    }
    let state = owned.lock();
    assert_eq!(state.sessions.get(ID).expect("there").last_ordinal(), 101);
    assert_eq!(state.speculation.in_flight(), 0, "nothing is left on its way");
    assert!(state.waiting.is_empty());
}

#[test]
fn concurrent_senders_are_accepted_in_one_order_each_message_once_and_found_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open(&tree, Some(&path)).await;
        many_at_once(&tree, &owned).await;
        let policy = PolicyView {
            policy_id: "p".into(),
            mode: "*".into(),
            rules: "{}".into(),
            schema_version: 3,
            ..PolicyView::default()
        };
        let edit = CatalogueEdit::RegisterPolicy(policy);
        let edit = || EditCatalogue { edit: edit.clone() };
        assert_eq!(tree.ask(edit()).await.expect("answers"), Ok(String::new()));
        assert!(tree.ask(edit()).await.expect("answers").is_err(), "there is one already");
        consensus.expect("kept").stop().await;
    });
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open(&tree, Some(&path)).await;
        assert!(send(&tree, proposal(ID, "p7")).await.is_ok_and(|ack| ack.duplicate));
        assert!(send(&tree, proposal(ID, "new")).await.is_ok_and(|ack| !ack.duplicate));
        assert_eq!(ordinal(&owned), 102);
        let read = ReadPolicies { mode: String::new(), policy_id: "p".into() };
        assert_eq!(tree.ask(read).await.expect("answers").len(), 1);
        consensus.expect("kept").stop().await;
    });
}

#[test]
fn with_a_full_disk_messages_are_refused_reads_go_on_and_later_so_do_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open(&tree, Some(&path)).await;
        let consensus = consensus.expect("kept");
        send(&tree, start(ID)).await.expect("starts");
        consensus.limit_log(1).await.expect("limits");
        let mut large = proposal(ID, "large");
        let payload = decision::ProposalPayload {
            proposal_id: "large".into(),
            option: "x".into(),
            supporting_data: vec![7; 1_000_000],
            ..decision::ProposalPayload::default()
        };
        large.payload = payload.encode_to_vec();
        let message = SendEnvelope { envelope: large.clone(), max_open: None, rates: None };
        let answer = tree.ask(message).await;
        assert!(matches!(answer, Err(weft_wire::AskError::Failed(_))), "{answer:?}");
        let read = ReadSession { session_id: ID.into(), reader: reader("agent://a") };
        let read = tree.ask(read).await;
        assert!(matches!(read, Ok(Ok(_))), "reads go on: {read:?}");
        consensus.limit_log(1 << 30).await.expect("lifts");
        // Sent again until it is kept; however often, it counts once.
        let kept = async {
            loop {
                let message = SendEnvelope { envelope: large.clone(), max_open: None, rates: None };
                if let Ok(answer) = tree.ask(message).await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let answer = tokio::time::timeout(PATIENCE, kept).await.expect("in time");
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(ordinal(&owned), 2);
        consensus.stop().await;
    });
}

#[test]
fn in_memory_the_same_holds_without_a_disk() {
    testing::run(async |tree: TestTree| {
        let (owned, _) = open(&tree, None).await;
        many_at_once(&tree, &owned).await;
    });
}

#[test]
fn a_follower_reads_from_where_it_was_and_strangers_read_nothing() {
    testing::run(async |tree: TestTree| {
        let (owned, _) = open(&tree, None).await;
        // Attached before there is a session.
        let mut live = follow(&tree, "agent://a", None, true).await;
        assert_eq!(next(&mut live).await, SessionItem::Attached { ordinal: 0 });
        let mut stranger = follow(&tree, "agent://x", None, true).await;
        assert_eq!(next(&mut stranger).await, SessionItem::Attached { ordinal: 0 });
        send(&tree, start(ID)).await.expect("starts");
        send(&tree, proposal(ID, "p1")).await.expect("accepted");
        for expected in 1..=2u64 {
            let item = next(&mut live).await;
            assert!(matches!(item, SessionItem::Envelope { ordinal, .. } if ordinal == expected));
        }
        // What is there, then the end.
        let mut rest = follow(&tree, "agent://a", Some(1), false).await;
        assert_eq!(next(&mut rest).await, SessionItem::Attached { ordinal: 1 });
        assert!(matches!(next(&mut rest).await, SessionItem::Envelope { ordinal: 2, .. }));
        assert!(tokio::time::timeout(PATIENCE, rest.next()).await.expect("ends").is_none());
        for (who, after, code) in
            [("agent://x", Some(0), "FORBIDDEN"), ("agent://a", Some(0), "SESSION_NOT_FOUND")]
        {
            let id = if code == "FORBIDDEN" { ID } else { "another-0000000000000001" };
            let message =
                FollowSession { session_id: id.into(), reader: reader(who), after, follow: true };
            let to = Address::here(ActorKind::Session);
            let opened = tree.fabric().subscribe(to, message, Call::within(PATIENCE)).await;
            let SessionItem::Refused(refusal) = next(&mut opened.expect("opens")).await else {
                panic!("refused")
            };
            assert_eq!(refusal.code, code);
        }
        let forbidden = ReadSession { session_id: ID.into(), reader: reader("agent://x") };
        let answer = tree.ask(forbidden).await.expect("answers");
        assert!(answer.is_err_and(|refusal| refusal.code == "FORBIDDEN" && refusal.is_status));
        drop((live, stranger));
        testing::eventually("nobody follows any more", || {
            owned.lock().followed.is_empty().then_some(())
        })
        .await;
    });
}

#[test]
fn a_watch_has_each_session_once_and_then_what_happens_to_it() {
    testing::run(async |tree: TestTree| {
        open(&tree, None).await;
        let other = "session-000000000000000002";
        send(&tree, start(ID)).await.expect("starts");
        let to = Address::here(ActorKind::Session);
        let opened = tree.fabric().subscribe(to, FollowSessions {}, Call::within(PATIENCE)).await;
        let mut events = opened.expect("opens");
        assert_eq!(next(&mut events).await, SessionEvent::Attached);
        send(&tree, start(other)).await.expect("starts");
        let control = |control| ControlSession {
            session_id: ID.into(),
            control,
            sender: "agent://a".into(),
            reason: "a test".into(),
        };
        for what in [SessionControl::Suspend, SessionControl::Resume, SessionControl::Cancel] {
            tree.ask(control(what)).await.expect("answers").expect("accepted");
        }
        let expected = [
            (SessionLifecycle::Created, ID),
            (SessionLifecycle::Created, other),
            (SessionLifecycle::Suspended, ID),
            (SessionLifecycle::Resumed, ID),
            (SessionLifecycle::Cancelled, ID),
        ];
        for (lifecycle, id) in expected {
            let SessionEvent::Happened { what, session, .. } = next(&mut events).await else {
                panic!("an event")
            };
            assert_eq!((what, session.session_id.as_str()), (lifecycle, id));
        }
        let page = tree.ask(ListSessions { after: None, size: 1 }).await.expect("answers");
        assert!(page.more && page.sessions.len() == 1 && page.sessions[0].session_id == ID);
        let after = Some(ID.to_owned());
        let page = tree.ask(ListSessions { after, size: 1 }).await.expect("answers");
        assert!(!page.more && page.sessions[0].session_id == other);
    });
}

#[test]
fn an_entry_that_cannot_be_read_changes_nothing_and_says_so() {
    let modes = Modes::default();
    let mut owned = Owned::new("session/0", modes, Arc::new(SystemClock), Archive::none(HOUR));
    let answers = owned.apply(1, &[vec![], vec![255; 9]]);
    assert_eq!(answers, [vec![UNREADABLE], vec![UNREADABLE]]);
    assert!(owned.lock().sessions.is_empty());
    let image = owned.snapshot().expect("an image");
    owned.restore(&image).expect("restores");
    let broken = Image { version: FORMAT, bytes: vec![9; 3] };
    assert!(owned.restore(&broken).is_err());
}

/// A session that is resolved.
async fn resolved(tree: &TestTree, id: &str) {
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
    let commitment = envelope(id, "Commitment", "done", payload.encode_to_vec());
    for envelope in [start(id), proposal(id, "p1"), commitment] {
        send(tree, envelope).await.expect("accepted");
    }
}

#[test]
fn a_receipt_is_signed_by_whoever_asks_and_the_first_one_stays() {
    testing::run(async |tree: TestTree| {
        open(&tree, None).await;
        let other = "session-000000000000000002";
        resolved(&tree, ID).await;
        resolved(&tree, other).await;
        let ask = async |id: &str, who: &str, signer: ReceiptSigner| {
            let issue = IssueReceipt {
                session_id: id.into(),
                reader: reader(who),
                issuer: "here".into(),
                signer,
            };
            tree.ask(issue).await.expect("answers")
        };
        let asks = || ReceiptSigner::Asks { kid: "k1".into() };
        let refused = ask(ID, "agent://stranger", asks()).await.expect_err("a stranger");
        assert_eq!(refused.code, "FORBIDDEN");
        let to_sign = ask(ID, "agent://a", asks()).await;
        let Ok(IssuedReceipt::ToSign { input, issued_ms }) = to_sign else {
            panic!("nothing is kept before it is signed: {to_sign:?}")
        };
        assert!(input.contains('.') && issued_ms > 0);
        let signed = |kid: &str| ReceiptSigner::Signed {
            kid: kid.into(),
            issued_ms,
            signature: b"signature".to_vec(),
        };
        let Ok(IssuedReceipt::Kept(first)) = ask(ID, "agent://a", signed("k1")).await else {
            panic!("it is kept")
        };
        let document: serde_json::Value = serde_json::from_str(&first).expect("JSON");
        assert_eq!(document["issuer"], "runtime:here");
        let header = input.split('.').next().expect("a header");
        // The last part is base64 of the signature.
        let jws = format!("{header}..c2lnbmF0dXJl");
        assert_eq!(document["attestations"][0]["jws"], jws);
        for later in [asks(), signed("k2"), ReceiptSigner::Nobody] {
            let again = ask(ID, "agent://a", later).await;
            assert_eq!(again, Ok(IssuedReceipt::Kept(first.clone())));
        }
        let unsigned = ask(other, "agent://a", ReceiptSigner::Nobody).await;
        let Ok(IssuedReceipt::Kept(unsigned)) = unsigned else { panic!("it is kept") };
        assert!(unsigned.contains(r#""attestations":[]"#), "{unsigned}");
        let again = ask(other, "agent://a", signed("k1")).await;
        assert_eq!(again, Ok(IssuedReceipt::Kept(unsigned)));
    });
}
