//! Groups over real links: elections, loss, restarts, images, full disks.

mod cluster;

use std::collections::BTreeSet;
use std::time::Duration;

use cluster::{Cluster, LONG, ids, node_id, until};
use futures_util::future::join_all;
use sqlx::Connection as _;
use weft_agreement::consensus::{ProposeError, Role};
use weft_wire::{Clock, SystemClock};

fn command(n: u64) -> Vec<u8> {
    format!("command {n}").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_agree_and_hold_the_same() {
    let mut cluster = Cluster::three().await;
    for n in 0..10 {
        cluster.propose(&command(n)).await;
    }
    let seen = cluster.equal().await;
    let expected: Vec<Vec<u8>> = (0..10).map(command).collect();
    assert_eq!(cluster.leader().await.commands(), expected);
    assert_eq!(seen.voters, ids(&[1, 2, 3]));
    let leader = cluster.leader().await;
    let index = leader.group().barrier(LONG).await.expect("a majority answers");
    assert!(index >= seen.commands.last().expect("commands").0);
    let follower = cluster.nodes.values().find(|n| n.id() != leader.id()).expect("a follower");
    let refused = follower.group().propose(command(0), LONG).await.expect_err("no leader");
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(leader.id()) });
    assert!(follower.group().status().leader_seen.is_some());
    until("the leader knows how far the others are", || {
        let status = leader.group().status();
        status.matched.len() == 3 && status.quorum_age.is_some()
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_lost_another_leads_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::three().await;
    let mut acknowledged = Vec::new();
    for n in 0..20 {
        cluster.propose(&command(n)).await;
        acknowledged.push(command(n));
    }
    let lost = cluster.leader().await.n;
    cluster.stop(lost).await;
    for node in cluster.nodes.values() {
        node.group().stand_for_election();
    }
    for n in 20..30 {
        cluster.propose(&command(n)).await;
        acknowledged.push(command(n));
    }
    cluster.equal().await;
    assert_eq!(cluster.leader().await.commands(), acknowledged);
    cluster.start(lost).await;
    cluster.equal().await;
    assert_eq!(cluster.nodes[&lost].commands(), acknowledged);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restarted_from_disk_hold_the_same_as_before() {
    let mut cluster = Cluster::three().await;
    for n in 0..25 {
        cluster.propose(&command(n)).await;
    }
    let before = cluster.equal().await;
    cluster.stop_all().await;
    for n in 1..=3 {
        cluster.start(n).await;
        // Applied before the group was given out.
        let known = cluster.nodes[&n].commands().len();
        assert!(known >= 24, "n{n} knows {known}");
    }
    cluster.leader().await;
    assert_eq!(cluster.equal().await, before);
    cluster.propose(b"after").await;
    assert_eq!(cluster.equal().await.commands.len(), 26);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_away_for_longer_than_the_log_is_kept_gets_an_image() {
    let mut cluster = Cluster::new(&[], &["control"]).await;
    (cluster.checkpoint_every, cluster.kept_behind) = (20, 5);
    for n in 1..=3 {
        cluster.start(n).await;
    }
    cluster.form("control").await;
    cluster.propose(b"first").await;
    cluster.equal().await;
    let away = cluster.nodes.values().find(|n| n.group().status().role != Role::Leader);
    let away = away.expect("a follower").n;
    cluster.stop(away).await;
    // Large enough for several pieces.
    let mut last = 0;
    for n in 0..60u8 {
        last = cluster.propose(&vec![n; 50_000]).await;
    }
    until("there are checkpoints", || {
        cluster.nodes.values().all(|node| node.group().status().checkpoint + 25 > last)
    })
    .await;
    cluster.start(away).await;
    let seen = cluster.equal().await;
    assert_eq!(seen.commands.len(), 61);
    // Two, if the first was chosen before the last checkpoint was made.
    let images = cluster.nodes[&away].restores();
    assert!((1..=2).contains(&images), "it was given an image: {images}");
    // And it comes back with it.
    cluster.stop(away).await;
    cluster.start(away).await;
    assert_eq!(cluster.equal().await, seen);
    cluster.stop_all().await;
}

/// Copies the files of a directory.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    for file in std::fs::read_dir(from).expect("a directory") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copies");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_goes_on_in_its_own_term_reads_all_that_it_acknowledged() {
    let mut cluster = Cluster::three().await;
    let mut resumed = 0;
    for round in 0..8 {
        let last = cluster.propose(&command(round)).await;
        let leader = cluster.leader().await;
        let (n, term) = (leader.n, leader.group().status().term);
        // As a power cut would leave it: that the last one was committed is not on its disk yet.
        let (data, kept) = (cluster.data(n), tempfile::tempdir().expect("a directory"));
        copy(&data, kept.path());
        cluster.stop_all().await;
        copy(kept.path(), &data);
        // The others are there already, so that a majority confirms its lead at once.
        for n in (1..=3).filter(|other| *other != n).chain([n]) {
            cluster.start(n).await;
        }
        let again = cluster.nodes[&n].group();
        let read = async {
            loop {
                match again.barrier(LONG).await {
                    Ok(read) => return Some(read),
                    Err(_) if again.status().term != term => return None,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        if let Some(read) = read.await {
            assert!(read >= last, "round {round}: read at {read}, acknowledged up to {last}");
            assert!(cluster.nodes[&n].commands().contains(&command(round)), "round {round}");
            resumed += 1;
        }
    }
    assert!(resumed > 0, "none went on");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_a_proposal_is_refused_in_its_time_and_later_ones_work_again() {
    let mut cluster = Cluster::three().await;
    cluster.propose(b"before").await;
    let leader = cluster.leader().await.n;
    let others: Vec<u128> = (1..=3).filter(|n| *n != leader).collect();
    for n in &others {
        cluster.stop(*n).await;
    }
    let group = cluster.nodes[&leader].group().clone();
    let began = SystemClock.now();
    let within = Duration::from_millis(400);
    let refused = group.propose(b"lonely".to_vec(), within).await.expect_err("no majority");
    assert_eq!(refused, ProposeError::NoQuorum);
    let second = group.propose(b"lonely too".to_vec(), within).await.expect_err("no majority");
    assert_eq!(second, ProposeError::NoQuorum);
    assert_eq!(group.barrier(within).await, Err(ProposeError::NoQuorum));
    assert!(SystemClock.now() - began < Duration::from_secs(5));
    cluster.start(others[0]).await;
    cluster.propose(b"after").await;
    let seen = cluster.equal().await;
    let commands: Vec<&[u8]> = seen.commands.iter().map(|(_, c)| c.as_slice()).collect();
    assert!(commands.starts_with(&[b"before"]) && commands.ends_with(&[b"after"]));
    // Never sent, and its asker has gone.
    assert!(!commands.contains(&b"lonely too".as_slice()));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_reads_what_was_acknowledged_and_without_a_majority_nobody_does() {
    let mut cluster = Cluster::three().await;
    cluster.propose(b"first").await;
    let leader = cluster.leader().await.n;
    for n in 0..50 {
        let proposed = cluster.nodes[&leader].group().propose(command(n), LONG).await;
        let index = proposed.expect("agreed").index;
        for node in cluster.nodes.values() {
            let fresh = node.group().fresh(LONG).await.expect("a leader says how far");
            assert!(fresh >= index, "{fresh} is before {index}");
            assert!(node.commands().contains(&command(n)), "{} on {}", n, node.n);
        }
    }
    let others: Vec<u128> = (1..=3).filter(|n| *n != leader).collect();
    cluster.stop(leader).await;
    let left = cluster.nodes[&others[0]].group().clone();
    for node in cluster.nodes.values() {
        node.group().stand_for_election();
    }
    left.fresh(LONG).await.expect("whoever leads then is asked");
    cluster.stop(others[1]).await;
    // One that leads may answer until a majority could have chosen another.
    let refused = async {
        loop {
            if let Err(error) = left.fresh(Duration::from_millis(300)).await {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(LONG, refused).await.expect("in time");
    assert_eq!(refused, ProposeError::NoQuorum);
    let again = left.fresh(Duration::from_millis(300)).await;
    assert_eq!(again, Err(ProposeError::NoQuorum));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_several_begin_with_the_same_voters_is_one_group() {
    let mut cluster = Cluster::new(&[1, 2, 3], &["control"]).await;
    let voters = ids(&[1, 2, 3]);
    // One of them comes later than the others have agreed on something.
    for n in [1, 2] {
        cluster.nodes[&n].group().found(voters.clone()).await.expect("begins");
    }
    cluster.propose(b"one").await;
    cluster.nodes[&3].group().found(voters.clone()).await.expect("begins, or was told");
    cluster.nodes[&1].group().found(voters.clone()).await.expect("there already");
    cluster.propose(b"two").await;
    let seen = cluster.equal().await;
    assert_eq!(seen.voters, voters);
    let commands: Vec<&[u8]> = seen.commands.iter().map(|(_, c)| c.as_slice()).collect();
    assert_eq!(commands, [b"one".as_slice(), b"two"]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_that_wait_share_entries_and_syncs() {
    let mut cluster = Cluster::new(&[1], &["control"]).await;
    cluster.form("control").await;
    let node = &cluster.nodes[&1];
    let before = node.consensus.syncs();
    let done = join_all((0..500).map(|n| node.group().propose(command(n), LONG))).await;
    let entries: BTreeSet<u64> = done.into_iter().map(|done| done.expect("agreed").index).collect();
    let syncs = node.consensus.syncs() - before;
    assert!(entries.len() < 50, "{} entries", entries.len());
    assert!(syncs < 60, "{syncs} syncs");
    assert_eq!(node.commands().len(), 500);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_a_node_are_independent_and_share_a_writer() {
    let mut cluster = Cluster::new(&[1, 2, 3], &["control", "session/1", "session/2"]).await;
    for name in ["control", "session/1", "session/2"] {
        cluster.form(name).await;
    }
    for name in ["session/1", "session/2"] {
        let leader =
            cluster.nodes.values().find(|n| n.groups[name].0.status().role == Role::Leader);
        let leader = leader.expect("a leader");
        leader.groups[name].0.propose(name.into(), LONG).await.expect("agreed");
        for node in cluster.nodes.values() {
            until("it is everywhere", || node.groups[name].1.lock().commands.len() == 1).await;
        }
    }
    assert!(cluster.equal().await.commands.is_empty());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_holds_everything_and_the_log_below_it_goes() {
    let mut cluster = Cluster::new(&[], &["control"]).await;
    (cluster.checkpoint_every, cluster.kept_behind) = (1_000_000, 0);
    cluster.start(1).await;
    cluster.form("control").await;
    for n in 0..30 {
        cluster.propose(&command(n)).await;
    }
    let group = cluster.nodes[&1].group().clone();
    group.checkpoint().await.expect("a checkpoint");
    let status = group.status();
    assert!(status.checkpoint >= 30 && status.checkpoint <= status.applied, "{status:?}");
    group.checkpoint().await.expect("again, with nothing new");
    drop(group);
    cluster.propose(b"beyond").await;
    let before = cluster.equal().await;
    cluster.stop(1).await;
    cluster.start(1).await;
    assert_eq!(cluster.nodes[&1].restores(), 1);
    cluster.leader().await;
    until("the rest is applied", || cluster.nodes[&1].seen() == before).await;
    cluster.stop_all().await;
}

/// Changes a bit of every value of a column in which `mark` is, behind that.
async fn change_bits(file: &std::path::Path, (table, column): (&str, &str), mark: &[u8]) {
    let path = format!("sqlite://{}", file.display());
    let mut open = sqlx::SqliteConnection::connect(&path).await.expect("opens");
    let all = sqlx::AssertSqlSafe(format!("SELECT {column} FROM {table}"));
    let all: Vec<Vec<u8>> = sqlx::query_scalar(all).fetch_all(&mut open).await.expect("reads");
    let mut changed = 0;
    for before in all {
        let Some(at) = before.windows(mark.len()).position(|window| window == mark) else {
            continue;
        };
        let mut after = before.clone();
        after[at] ^= 1;
        let change = format!("UPDATE {table} SET {column} = ?1 WHERE {column} = ?2");
        let change = sqlx::query(sqlx::AssertSqlSafe(change)).bind(after).bind(before);
        change.execute(&mut open).await.expect("writes");
        changed += 1;
    }
    assert!(changed > 0, "it is there");
    open.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_a_disk_has_changed_is_opened_by_nobody_and_named() {
    for (file, value) in [("raft.db", ("entries", "entry")), ("state.db", ("checkpoint", "image"))]
    {
        let mut cluster = Cluster::three().await;
        for n in 0..5 {
            cluster.propose(&command(n)).await;
        }
        cluster.equal().await;
        if file == "state.db" {
            cluster.nodes[&3].group().checkpoint().await.expect("a checkpoint");
        }
        cluster.stop(3).await;
        change_bits(&cluster.data(3).join(file), value, b"command 3").await;
        let why = cluster.why_not(3).await;
        assert!(why.contains("control") && why.contains("damaged"), "{why}");
        assert!(why.contains("join"), "what to do: {why}");
        // The others have it.
        cluster.propose(b"after").await;
        assert_eq!(cluster.equal().await.commands.len(), 6);
        cluster.stop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_fails_is_said_and_stops_nothing() {
    let mut cluster = Cluster::new(&[], &["control"]).await;
    (cluster.checkpoint_every, cluster.kept_behind) = (5, 0);
    cluster.start(1).await;
    cluster.form("control").await;
    cluster.propose(b"no image").await;
    for n in 0..20 {
        cluster.propose(&command(n)).await;
    }
    let error = cluster.nodes[&1].group().checkpoint().await.expect_err("it fails");
    assert!(error.to_string().contains("no image, as told"), "{error}");
    cluster.propose(b"after").await;
    let before = cluster.equal().await;
    assert_eq!(cluster.nodes[&1].group().status().failed, None);
    // Nothing was cut off the log for it.
    cluster.stop(1).await;
    cluster.start(1).await;
    until("all is there", || cluster.nodes[&1].seen() == before).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_change_and_what_would_take_the_majority_away_is_refused() {
    let mut cluster = Cluster::new(&[1, 2, 3, 4], &["control"]).await;
    let first = cluster.nodes[&1].group().clone();
    first.bootstrap().await.expect("bootstraps");
    first.bootstrap().await.expect("again, to no effect");
    until("it leads", || first.status().role == Role::Leader).await;
    first.add_learner(node_id(4)).await.expect("a learner");
    first.set_voters(ids(&[1, 2, 3]), ids(&[4]), &ids(&[1, 2, 3, 4])).await.expect("voters");
    cluster.propose(b"x").await;
    let seen = cluster.equal().await;
    assert_eq!((seen.voters, seen.learners), (ids(&[1, 2, 3]), ids(&[4])));
    let leader = cluster.leader().await.group();
    for (voters, learners, live, why) in [
        (ids(&[]), ids(&[1]), ids(&[1, 2, 3]), "at least one voter"),
        (ids(&[1]), ids(&[1]), ids(&[1, 2, 3]), "a voter and a learner"),
        (ids(&[1, 2, 4]), ids(&[]), ids(&[1]), "present voters have no majority"),
        (ids(&[3, 4, 5]), ids(&[]), ids(&[1, 2, 3]), "new voters would have no majority"),
    ] {
        let refused = leader.set_voters(voters, learners, &live).await.expect_err("refused");
        assert!(matches!(&refused, ProposeError::Refused(text) if text.contains(why)), "{refused}");
    }
    // The lost voter is replaced.
    let leader = cluster.leader().await.n;
    let lost = if leader == 3 { 2 } else { 3 };
    cluster.stop(lost).await;
    let kept: Vec<u128> = (1..=4).filter(|n| *n != lost).collect();
    let group = cluster.nodes[&leader].group();
    group.set_voters(ids(&kept), ids(&[]), &ids(&kept)).await.expect("replaced");
    cluster.propose(b"y").await;
    let seen = cluster.equal().await;
    assert_eq!((seen.voters, seen.learners), (ids(&kept), ids(&[])));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_of_two_hands_over_and_the_other_lets_it_go() {
    let mut cluster = Cluster::new(&[1, 2], &["control"]).await;
    let first = cluster.nodes[&1].group().clone();
    first.bootstrap().await.expect("bootstraps");
    until("it leads", || first.status().role == Role::Leader).await;
    first.propose(command(1), LONG).await.expect("agreed");
    first.set_voters(ids(&[2]), ids(&[]), &ids(&[1, 2])).await.expect("hands over");
    let second = cluster.nodes[&2].group().clone();
    until("the other leads", || second.status().role == Role::Leader).await;
    second.set_voters(ids(&[2]), ids(&[]), &ids(&[2])).await.expect("lets it go");
    until("it says so", || {
        let status = second.status();
        (&status.voters, &status.learners) == (&ids(&[2]), &ids(&[]))
    })
    .await;
    drop(first);
    cluster.stop(1).await;
    second.propose(command(2), LONG).await.expect("agreed without it");
    assert_eq!(cluster.nodes[&2].commands(), [command(1), command(2)]);
    drop(second);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_the_group_comes_back_with_the_space() {
    let mut cluster = Cluster::new(&[1], &["control"]).await;
    cluster.form("control").await;
    cluster.propose(b"before").await;
    let node = &cluster.nodes[&1];
    node.consensus.limit_log(1).await.expect("limits");
    let refused = node.group().propose(vec![1; 1 << 20], LONG).await.expect_err("full");
    assert!(matches!(refused, ProposeError::Full(_)), "{refused}");
    until("the status says so", || {
        node.group().status().failed.as_ref().is_some_and(|text| text.contains("no space"))
    })
    .await;
    let again = node.group().propose(b"small".to_vec(), LONG).await.expect_err("down");
    assert!(matches!(again, ProposeError::Full(_)), "{again}");
    assert_eq!(node.commands(), [b"before".to_vec()]);
    node.consensus.limit_log(1 << 30).await.expect("raises");
    until("it leads again", || node.group().status().role == Role::Leader).await;
    cluster.propose(b"after").await;
    assert_eq!(cluster.nodes[&1].commands(), [b"before".to_vec(), b"after".to_vec()]);
    assert_eq!(cluster.nodes[&1].group().status().failed, None);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_stops_its_group_here_and_says_where() {
    let mut cluster = Cluster::new(&[1], &["control"]).await;
    cluster.form("control").await;
    let group = cluster.nodes[&1].group();
    let failed = group.propose(b"panic".to_vec(), LONG).await.expect_err("it panics");
    assert!(
        matches!(&failed, ProposeError::Storage(text) if text.contains("panicked")),
        "{failed}"
    );
    until("the status says so", || group.status().failed.is_some()).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_many_groups_to_one_peer_travel_together() {
    let names: Vec<&'static str> =
        (0..20).map(|n| &*Box::leak(format!("session/{n}").into_boxed_str())).collect();
    let mut cluster = Cluster::new(&[1, 2, 3], &names).await;
    for name in &names {
        cluster.form(name).await;
    }
    let count = |cluster: &Cluster| cluster.nodes.values().map(|n| n.consensus.beats()).sum();
    let terms = |cluster: &Cluster| -> Vec<u64> {
        let groups = cluster.nodes.values().flat_map(|node| node.groups.values());
        groups.map(|(group, _, _)| group.status().term).collect()
    };
    let (before, led): (usize, _) = (count(&cluster), terms(&cluster));
    let start = SystemClock.now();
    // The time that is measured, not a wait.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rate = (count(&cluster) - before) as f64 / start.elapsed().as_secs_f64();
    // Each of 20 groups has one due to each of 2 peers every 150 ms: 267 a second one by one.
    eprintln!("measured: {rate:.0} messages a second for 20 groups of 3 nodes");
    assert!(rate < 120.0, "{rate}");
    assert_eq!(terms(&cluster), led, "and nobody stood for election");
    for name in &names {
        let leader =
            cluster.nodes.values().find(|n| n.groups[*name].0.status().role == Role::Leader);
        leader.expect("a leader").groups[*name]
            .0
            .propose(b"x".to_vec(), LONG)
            .await
            .expect("agreed");
    }
    cluster.stop_all().await;
}
