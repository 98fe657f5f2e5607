//! Sessions that have left memory.

use weft_protocol::{
    ExportItem, ExportSession, FollowHistory, HistoryItem, InspectSession, SessionPage,
    SessionState as Stands, SurveySessions,
};

use super::*;
use crate::archive::{Filter, Row};

fn id(n: usize) -> String {
    format!("session-{n:018}")
}

/// Waits until so many sessions have left memory and are on disk.
async fn left(owned: &Owned, sessions: u64) {
    testing::eventually("they are on disk", || {
        let state = owned.lock();
        (state.sessions.archived() == sessions && state.leaving.is_empty()).then_some(())
    })
    .await;
}

async fn list(tree: &TestTree, size: u32) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let SessionPage { sessions, more } =
            tree.ask(ListSessions { after, size }).await.expect("answers");
        all.extend(sessions.into_iter().map(|session| session.session_id));
        after = all.last().cloned();
        if !more {
            return all;
        }
    }
}

async fn envelopes(tree: &TestTree, session: &str, after: u64) -> Vec<String> {
    let message = FollowSession {
        session_id: session.into(),
        reader: reader("agent://a"),
        after: Some(after),
        follow: false,
    };
    let to = Address::here(ActorKind::Session);
    let opened = tree.fabric().subscribe(to, message, Call::within(PATIENCE)).await;
    let mut items = opened.expect("opens");
    assert_eq!(next(&mut items).await, SessionItem::Attached { ordinal: after });
    let mut all = Vec::new();
    while let Some(item) = items.next().await {
        let Ok(SessionItem::Envelope { ordinal, envelope }) = item else { panic!("{item:?}") };
        all.push(envelope.message_id);
        assert_eq!(ordinal, after + all.len() as u64);
    }
    all
}

/// What can be asked of a resolved session, and is answered the same wherever it is.
async fn answers(tree: &TestTree, session: &str) {
    let read = |who: &str| ReadSession { session_id: session.into(), reader: reader(who) };
    let view = tree.ask(read("agent://a")).await.expect("answers").expect("is there");
    assert_eq!((view.state, view.initiator.as_str()), (Stands::Resolved, "agent://a"));
    let refused = tree.ask(read("agent://x")).await.expect("answers").expect_err("a stranger");
    assert_eq!(refused.code, "FORBIDDEN");
    assert_eq!(envelopes(tree, session, 0).await, ["start", "p1", "done"]);
    assert_eq!(envelopes(tree, session, 2).await, ["done"]);
    let again = send(tree, proposal(session, "p1")).await.expect("known");
    assert!(again.duplicate);
    assert!(send(tree, start(session)).await.expect("known").duplicate);
    let late = send(tree, proposal(session, "p2")).await.expect_err("over");
    assert_eq!(late.code, "SESSION_NOT_OPEN");
    let mut another = start(session);
    another.message_id = "another".into();
    let second = send(tree, another).await.expect_err("the id is taken");
    assert_eq!(second.code, "SESSION_ALREADY_EXISTS");
    let detail = tree.ask(InspectSession { session_id: session.into() }).await.expect("answers");
    assert_eq!(detail.expect("is there").row.messages, 3);
    let to = || Address::here(ActorKind::Session);
    let export = ExportSession { session_id: session.into() };
    let opened = tree.fabric().subscribe(to(), export, Call::within(PATIENCE)).await;
    assert!(matches!(next(&mut opened.expect("opens")).await, ExportItem::Piece(_)));
    let history = FollowHistory { session_id: session.into(), after: 2, follow: true };
    let opened = tree.fabric().subscribe(to(), history, Call::within(PATIENCE)).await;
    let mut history = opened.expect("opens");
    assert!(
        matches!(next(&mut history).await, HistoryItem::Record(record) if record.ordinal == Some(3))
    );
    let item = loop {
        match next(&mut history).await {
            HistoryItem::Record(record) if record.message_type == "Receipt" => {}
            item => break item,
        }
    };
    assert_eq!(item, HistoryItem::Ended { state: Stands::Resolved });
}

async fn receipt(tree: &TestTree, session: &str) -> String {
    let issue = IssueReceipt {
        session_id: session.into(),
        reader: reader("agent://a"),
        issuer: "here".into(),
        signer: ReceiptSigner::Nobody,
    };
    match tree.ask(issue).await.expect("answers") {
        Ok(IssuedReceipt::Kept(json)) => json,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_has_left_memory_answers_from_disk_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let open_one = id(9);
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open_with(&tree, Some(&path), Duration::ZERO).await;
        send(&tree, start(&open_one)).await.expect("starts");
        // It is followed while it leaves.
        let mut live = follow(&tree, "agent://a", Some(0), true).await;
        assert!(matches!(next(&mut live).await, SessionItem::Refused(_)), "it is not there yet");
        for n in 1..=5 {
            resolved(&tree, &id(n)).await;
        }
        left(&owned, 5).await;
        assert_eq!(owned.lock().sessions.len(), 1, "what is open stays");
        for size in [1, 2, 5, 100] {
            let expected: Vec<String> = (1..=5).map(id).chain([open_one.clone()]).collect();
            assert_eq!(list(&tree, size).await, expected, "in pages of {size}");
        }
        let survey = |states| SurveySessions { states, mode: String::new(), after: None, size: 10 };
        for (states, rows) in [(vec![], 6), (vec![Stands::Resolved], 5), (vec![Stands::Expired], 0)]
        {
            let found = tree.ask(survey(states)).await.expect("answers");
            assert_eq!(found.rows.len(), rows);
        }
        answers(&tree, &id(3)).await;
        consensus.expect("kept").stop().await;
    });
    let mut first = String::new();
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open_with(&tree, Some(&path), Duration::ZERO).await;
        answers(&tree, &id(1)).await;
        // A receipt brings it back for a moment; then it leaves with it.
        first = receipt(&tree, &id(1)).await;
        left(&owned, 6).await;
        assert_eq!(receipt(&tree, &id(1)).await, first, "the first one stays");
        answers(&tree, &id(1)).await;
        assert_eq!(list(&tree, 3).await.len(), 6, "each once");
        consensus.expect("kept").stop().await;
    });
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open_with(&tree, Some(&path), HOUR).await;
        assert_eq!(receipt(&tree, &id(1)).await, first);
        assert_eq!(owned.lock().sessions.archived(), 6);
        consensus.expect("kept").stop().await;
    });
}

#[test]
fn many_ended_sessions_leave_memory_before_their_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open(&tree, Some(&path)).await;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..300 {
            let fabric = tree.fabric();
            tasks.spawn(async move {
                let (start, mut end) = (start(&id(n)), start(&id(n)));
                end.message_type = "SessionCancel".into();
                let to = || Address::here(ActorKind::Session);
                let message = SendEnvelope { envelope: start, max_open: None, rates: None };
                fabric
                    .ask(to(), message, Call::within(PATIENCE))
                    .await
                    .expect("answers")
                    .expect("starts");
                let cancel = ControlSession {
                    session_id: id(n),
                    control: SessionControl::Cancel,
                    sender: "agent://a".into(),
                    reason: String::new(),
                };
                fabric
                    .ask(to(), cancel, Call::within(PATIENCE))
                    .await
                    .expect("answers")
                    .expect("ends");
            });
        }
        tasks.join_all().await;
        left(&owned, 44).await;
        assert_eq!(owned.lock().sessions.len(), 256);
        assert_eq!(list(&tree, 100).await, (0..300).map(id).collect::<Vec<_>>());
        consensus.expect("kept").stop().await;
    });
}

#[test]
fn without_a_disk_an_ended_session_is_forgotten_when_its_time_has_come() {
    testing::run(async |tree: TestTree| {
        let (owned, _) = open_with(&tree, None, Duration::ZERO).await;
        send(&tree, start(&id(2))).await.expect("starts");
        resolved(&tree, ID).await;
        testing::eventually("it is forgotten", || {
            owned.lock().sessions.get(ID).is_none().then_some(())
        })
        .await;
        let read = ReadSession { session_id: ID.into(), reader: reader("agent://a") };
        let refused = tree.ask(read).await.expect("answers").expect_err("gone");
        assert_eq!(refused.code, "SESSION_NOT_FOUND");
        assert_eq!(list(&tree, 10).await, [id(2)]);
    });
}

/// Its group's entries, as consensus would bring them.
fn entries(sessions: std::ops::RangeInclusive<usize>) -> Vec<Vec<u8>> {
    let mut rig = Speculation::default();
    let modes = Modes::default();
    let catalogue = modes.read();
    let mut known = Sessions::default();
    let mut all = Vec::new();
    for n in sessions {
        for step in 0..2 {
            let now = 1_000;
            let seen = Known { sessions: &known, catalogue: &catalogue, archived: None };
            let admission = match step {
                0 => rig.send(seen, &convert::envelope(start(&id(n))), StartRights::default(), now),
                _ => rig.cancel(seen, &id(n), "agent://a", "r", now),
            };
            let entry = admission.entry.expect("an entry");
            all.push(encode_entry(&entry).expect("encodes"));
            known.apply(entry);
            rig.settle(&known, &id(n));
        }
        let leaves = Entry::Archive { sessions: vec![id(n)] };
        all.push(encode_entry(&leaves).expect("encodes"));
    }
    all
}

async fn alone(dir: &std::path::Path) -> Owned {
    let archive = Archive::open(Archive::file(dir).await.expect("opens"), "session/0", HOUR).await;
    Owned::agreed("session/0", Modes::default(), Arc::new(SystemClock), archive.expect("opens"))
}

async fn image(owned: &Owned) -> Image {
    let owned = owned.clone();
    // As consensus asks for it: on a thread that may block.
    let made = tokio::task::spawn_blocking(move || owned.snapshot()).await;
    made.expect("no panic").expect("an image")
}

async fn stored(owned: &Owned) -> Vec<String> {
    let filter = Filter::default();
    let all = owned.archive().page(&filter, 100, |session| session.id().to_owned());
    all.await.expect("reads").into_iter().map(|(id, _)| id).collect()
}

#[test]
fn an_image_is_made_only_of_what_is_on_disk_and_who_takes_it_notes_what_is_missing() {
    testing::run(async |_: TestTree| {
        let (one, other) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let mut leader = alone(one.path()).await;
        leader.apply(1, &entries(1..=3));
        assert!(stored(&leader).await.is_empty(), "nobody has written yet");
        let first = image(&leader).await;
        assert_eq!(stored(&leader).await, [id(1), id(2), id(3)], "an image waits for the disk");

        let mut follower = alone(other.path()).await;
        follower.apply(1, &entries(1..=1));
        follower.restore(&first).expect("restores");
        let lacks = Span { first: 2, last: 3 };
        assert_eq!(follower.archive().missing().borrow().spans, [lacks]);
        // It goes on from there, and what it lacks is noted before anything later is written.
        follower.apply(2, &entries(4..=4));
        follower.write().await.expect("writes");
        assert_eq!(stored(&follower).await, [id(1), id(4)]);
        drop(follower);
        let mut again = alone(other.path()).await;
        assert_eq!(again.archive().missing().borrow().spans, [lacks]);
        assert!(again.archive().waits() && !again.archive().has(lacks));

        // Its own image is older than what it has, and the log brings the rest once more.
        again.restore(&first).expect("restores");
        assert_eq!(again.archive().missing().borrow().spans, [lacks], "nothing new is missing");
        again.apply(2, &entries(4..=4));
        assert!(again.lock().leaving.is_empty(), "it is on disk already");

        // What a peer has, in its form.
        for place in [2, 3] {
            let next = leader.archive().next(Span { first: place, last: 3 }).await.expect("reads");
            let (found, bytes) = next.expect("there");
            let row = Row::read(found, bytes).expect("a session");
            again.archive().write(None, &[row]).await.expect("writes");
        }
        again.archive().mended(lacks).await.expect("writes");
        assert!(!again.archive().waits() && again.archive().has(lacks));
        assert_eq!(stored(&again).await, [id(1), id(2), id(3), id(4)]);
    });
}

#[test]
fn a_damaged_session_is_named_and_the_others_are_unharmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open_with(&tree, Some(&path), Duration::ZERO).await;
        for n in 1..=3 {
            resolved(&tree, &id(n)).await;
        }
        left(&owned, 3).await;
        let file = Archive::file(&path).await.expect("opens");
        let mut change = file.begin().await.expect("begins");
        sqlx::query("UPDATE archive SET body = x'0100ffffffff' WHERE id = ?1")
            .bind(id(2))
            .execute(&mut *change)
            .await
            .expect("writes");
        change.commit().await.expect("commits");
        let read = |n| ReadSession { session_id: id(n), reader: reader("agent://a") };
        let error = tree.ask(read(2)).await.expect_err("it is damaged");
        let said = format!("{error:?}");
        assert!(said.contains(&id(2)) && said.contains("sessions.db"), "{said}");
        answers(&tree, &id(1)).await;
        answers(&tree, &id(3)).await;
        for size in [1, 2, 10] {
            assert_eq!(list(&tree, size).await, [id(1), id(3)], "in pages of {size}");
        }
        // Its id stays taken.
        let taken = SendEnvelope { envelope: start(&id(2)), max_open: None, rates: None };
        assert!(tree.ask(taken).await.is_err());
        consensus.expect("kept").stop().await;
    });
}

/// Changes how many have left, in an image of no session: behind the version, a length and a
/// checksum.
fn says_that_left(image: &mut [u8], left: u64) {
    image[10..18].copy_from_slice(&left.to_le_bytes());
    weft_wire::codec::seal(&mut image[6..], 0);
}

#[test]
fn what_lies_below_a_gap_is_written_before_the_gap_and_that_before_what_lies_above() {
    let dir = tempfile::tempdir().expect("a directory");
    testing::run(async |_: TestTree| {
        let mut owned = alone(dir.path()).await;
        owned.apply(1, &entries(1..=2));
        let spans = [(3, 4), (6, 9), (10, 12)].map(|(first, last)| Span { first, last });
        let [first, second, third] = spans;
        let above = Sessions::default();
        let mut image = above.to_bytes().expect("encodes");
        says_that_left(&mut image, 4);
        owned.restore(&Image { version: FORMAT, bytes: image.clone() }).expect("restores");
        owned.apply(2, &entries(5..=5));
        for left in [9u64, 12] {
            says_that_left(&mut image, left);
            let image = Image { version: FORMAT, bytes: image.clone() };
            owned.restore(&image).expect("restores");
        }
        owned.apply(3, &entries(13..=14));
        assert_eq!(owned.archive().missing().borrow().spans, spans);
        let mut written = Vec::new();
        loop {
            let batch = owned.lock().leaving.batch();
            let Some((lacks, batch)) = batch else { break };
            let places: Vec<u64> = batch.iter().map(|(place, _)| *place).collect();
            owned.lock().leaving.written(lacks, places.last().copied());
            written.push((lacks, places));
        }
        let expected = [
            (None, vec![1, 2]),
            (Some(first), vec![5]),
            (Some(second), vec![]),
            (Some(third), vec![13, 14]),
        ];
        assert_eq!(written, expected);
    });
}

#[test]
fn a_read_after_a_session_s_time_ends_it_and_leaves_nothing_on_its_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    testing::run(async |tree: TestTree| {
        let (owned, consensus) = open(&tree, Some(&path)).await;
        let mut short = start(ID);
        let payload = pb::SessionStartPayload::decode(&*short.payload).expect("decodes");
        short.payload = pb::SessionStartPayload { ttl_ms: 1, ..payload }.encode_to_vec();
        send(&tree, short).await.expect("starts");
        testing::eventually("its time is over", || {
            let deadline = owned.lock().sessions.next_due();
            deadline.is_none_or(|due| due <= owned.now()).then_some(())
        })
        .await;
        let read = ReadSession { session_id: ID.into(), reader: reader("agent://a") };
        let view = tree.ask(read).await.expect("answers").expect("is there");
        assert_eq!(view.state, Stands::Expired);
        assert_eq!(owned.lock().speculation.in_flight(), 0);
        consensus.expect("kept").stop().await;
    });
}
