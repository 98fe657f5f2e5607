//! Sessions of which a disk has changed a bit.

use std::path::Path;

use sqlx::{Connection as _, Row as _, SqliteConnection};
use weft_protocol::SessionPage;

use super::*;

fn id(n: usize) -> String {
    format!("session-{n:018}")
}

/// Changes a bit behind `behind`, at or after the first of `has`, in the first value that has all
/// of these, of a column in a file of `dir`.
async fn change_a_bit(
    dir: &Path,
    (file, table, column): (&str, &str, &str),
    has: &[&str],
    behind: &str,
) {
    let path = format!("sqlite://{}", dir.join(file).display());
    let mut open = SqliteConnection::connect(&path).await.expect("opens");
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {column} FROM {table}")));
    let rows = rows.fetch_all(&mut open).await.expect("reads");
    let find = |bytes: &[u8], mark: &str| {
        bytes.windows(mark.len()).position(|window| window == mark.as_bytes())
    };
    let found = rows.iter().find_map(|row| {
        let bytes: Vec<u8> = row.get(0);
        let starts: Option<Vec<usize>> = has.iter().map(|mark| find(&bytes, mark)).collect();
        let first = *starts?.first()?;
        let at = first + find(&bytes[first..], behind)? + behind.len();
        Some((bytes, at))
    });
    let (before, at) = found.expect("it is there");
    let mut bytes = before.clone();
    bytes[at] ^= 4;
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE {table} SET {column} = ?1 WHERE {column} = ?2"
    )))
    .bind(bytes)
    .bind(before)
    .execute(&mut open)
    .await
    .expect("writes");
    open.close().await.expect("closes");
}

/// The second of three sessions is named and refused; the others are whole and go on.
async fn second_is_put_aside(tree: &TestTree, owned: &Owned, message: &str) {
    testing::eventually("it leads", || owned.is_ready().then_some(())).await;
    let read = |n| ReadSession { session_id: id(n), reader: reader("agent://a") };
    let error = tree.ask(read(2)).await.expect_err("it is damaged");
    let said = format!("{error:?}");
    assert!(said.contains(&id(2)) && said.contains("damaged"), "{said}");
    for envelope in [start(&id(2)), proposal(&id(2), message)] {
        let send = SendEnvelope { envelope, max_open: None, rates: None };
        let error = tree.ask(send).await.expect_err("nothing is added to it");
        assert!(format!("{error:?}").contains(&id(2)), "{error:?}");
    }
    for n in [1, 3] {
        let before = owned.look(&id(n), Session::last_ordinal).await.expect("reads");
        assert!(send(tree, proposal(&id(n), message)).await.is_ok_and(|ack| !ack.duplicate));
        assert!(send(tree, proposal(&id(n), "p1")).await.is_ok_and(|ack| ack.duplicate));
        let after = owned.look(&id(n), Session::last_ordinal).await.expect("reads");
        assert_eq!(after, before.map(|ordinal| ordinal + 1), "without a gap");
    }
    let page = tree.ask(ListSessions { after: None, size: 9 }).await.expect("answers");
    let SessionPage { sessions, .. } = page;
    let listed: Vec<_> = sessions.into_iter().map(|session| session.session_id).collect();
    assert_eq!(listed, [id(1), id(3)]);
}

#[test]
fn a_session_with_a_damaged_entry_is_put_aside_and_the_others_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let in_log = ("raft.db", "entries", "entry");
    let in_image = ("state.db", "checkpoint", "image");
    // Which value, what is in it, and how many messages come before: 20 make a checkpoint.
    let start = "SessionStart";
    let cases = [(in_log, "p1", 0), (in_log, start, 0), (in_log, "last", 0), (in_image, "p1", 8)];
    for (number, (value, mark, more)) in cases.into_iter().enumerate() {
        let path = path.join(number.to_string());
        std::fs::create_dir(&path).expect("a directory");
        testing::run(async |tree: TestTree| {
            let (owned, consensus) = open(&tree, Some(&path)).await;
            for n in 1..=3 {
                send(&tree, super::start(&id(n))).await.expect("accepted");
                let more = (0..more).map(|more| format!("more{more}"));
                for message in ["p1".to_owned(), "p2".to_owned()].into_iter().chain(more) {
                    send(&tree, proposal(&id(n), &message)).await.expect("accepted");
                }
                send(&tree, proposal(&id(n), "last")).await.expect("accepted");
            }
            if more > 0 {
                let group = owned.group().expect("open");
                group.checkpoint().await.expect("a checkpoint");
            }
            consensus.expect("kept").stop().await;
        });
        testing::run(async |_: TestTree| {
            change_a_bit(&path, value, &[&id(2), mark], mark).await;
        });
        // Also when what was put aside is part of a checkpoint.
        for again in ["a", "b"] {
            testing::run(async |tree: TestTree| {
                let (owned, consensus) = open(&tree, Some(&path)).await;
                second_is_put_aside(&tree, &owned, again).await;
                let kept: Vec<String> = owned.lock().sessions.damaged().keys().cloned().collect();
                assert_eq!(kept, [id(2)], "what is left of it is kept");
                owned.group().expect("open").checkpoint().await.expect("a checkpoint");
                consensus.expect("kept").stop().await;
            });
        }
    }
}

#[test]
fn an_entry_of_which_nobody_can_tell_what_it_is_about_stops_the_group_and_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    testing::run(async |tree: TestTree| {
        let (_, consensus) = open(&tree, Some(&path)).await;
        send(&tree, start(&id(2))).await.expect("accepted");
        send(&tree, proposal(&id(2), "p1")).await.expect("accepted");
        consensus.expect("kept").stop().await;
    });
    testing::run(async |_: TestTree| {
        // A bit of the id, which names another session then.
        let value = ("raft.db", "entries", "entry");
        change_a_bit(&path, value, &[&id(2), "p1"], "session-0000").await;
    });
    testing::run(async |tree: TestTree| {
        let door = Door::new(tree.fabric());
        let consensus = Consensus::open(ConsensusConfig::new(&path), tree.fabric(), &door).await;
        let consensus = consensus.expect("opens");
        let file = Archive::file(&path).await.expect("opens");
        let archive = Archive::open(file, "session/0", HOUR).await.expect("opens");
        let owned = Owned::agreed("session/0", Modes::default(), Arc::new(SystemClock), archive);
        let error = consensus.group_alone("session/0", owned.machine()).await;
        let error = error.expect_err("damaged");
        let said = error.to_string();
        assert!(said.contains("session/0") && said.contains("entry 3"), "{said}");
        consensus.stop().await;
    });
}
