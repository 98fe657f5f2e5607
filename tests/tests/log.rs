//! The log of agreement and who keeps up with it: nodes away for longer than it is kept, elections
//! that are not held, voters that are replaced, and nodes of an older version.

use std::time::Duration;

use serde_json::Value;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options, hello};
use weft_tests::writer::{Writer, Written, state};
use weft_tests::{DEADLINE, is_alive};
use weft_wire::{Clock, SystemClock};

/// Entries between checkpoints, and kept below them, in clusters whose log is short.
const SHORT: u64 = 20;
/// In a node's log once for each image that begins to arrive.
const ARRIVES: &str = "an image of the leader arrives";
/// Once for each that was installed.
const INSTALLED: &str = "the leader's image is installed";

/// Once for each start, with the checkpoint that is there.
const OPENED: &str = "opened at its checkpoint group=\"control\" upto=";

/// The checkpoint a node had at its last start.
fn opened_at(log: &str) -> Option<u64> {
    let (_, rest) = log.rsplit_once(OPENED)?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
    rest.get(..digits)?.parse().ok()
}

fn with(nodes: usize, settings: &[&str]) -> Option<NetCluster> {
    let net = Net::new(nodes)?;
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    Some(NetCluster::with(net, nodes, Options { settings, ..Options::default() }))
}

fn short_log(nodes: usize) -> Option<NetCluster> {
    let every = format!("consensus.checkpoint_every={SHORT}");
    let kept = format!("consensus.log_kept={SHORT}");
    with(nodes, &[&every, &kept])
}

fn said(cluster: &NetCluster, node: usize, what: &str) -> usize {
    cluster.log(node).matches(what).count()
}

fn number(cluster: &NetCluster, through: usize, key: &str) -> Option<u64> {
    cluster.status(through)?["groups"][0][key].as_u64()
}

/// Waits until more was agreed since entry `since` than any node still holds in its log.
fn outrun(cluster: &NetCluster, through: usize, since: u64) {
    let (checkpoint, took) = cluster.wait_until("the log is cut", DEADLINE, |cluster| {
        number(cluster, through, "checkpoint").filter(|at| *at > since + 2 * SHORT)
    });
    eprintln!("measured: entry {since} outrun by checkpoint {checkpoint} after {took:?}");
}

/// Waits until a node has everything, by an image.
fn brought_by_image(cluster: &NetCluster, node: usize, before: usize) {
    let start = SystemClock.now();
    cluster.wait_until("an image was installed", DEADLINE, |cluster| {
        (said(cluster, node, INSTALLED) > before).then_some(())
    });
    eprintln!("measured: image installed after {:?}", start.elapsed());
}

fn kept_everywhere(cluster: &NetCluster, written: &Written) {
    assert!(written.services.values().all(|writes| !writes.unknown), "{written:?}");
    for node in 0..cluster.len() {
        written.assert_kept(cluster, node);
    }
    cluster.one_state();
}

#[test]
fn a_node_stopped_for_longer_than_the_log_is_kept_comes_back_with_everything() {
    let Some(mut cluster) = short_log(3) else { return };
    let leader = cluster.settled(0);
    let (away, through) = ((leader + 1) % 3, (leader + 2) % 3);
    let before = said(&cluster, away, INSTALLED);
    let since = number(&cluster, through, "committed").expect("it answers");
    assert_eq!(cluster.stop(away), Some(0));
    let writer = Writer::start(&cluster, &[leader, through], 100);
    outrun(&cluster, through, since);
    assert_eq!(said(&cluster, away, INSTALLED), before);

    cluster.start_daemon(away);
    cluster.answers(away);
    brought_by_image(&cluster, away, before);
    cluster.settled(through);
    kept_everywhere(&cluster, &writer.stop());
    // And it starts with what the image brought it.
    cluster.restart(away);
    cluster.settled(through);
    cluster.one_state();
}

#[test]
fn a_node_cut_off_for_longer_than_the_log_is_kept_comes_back_with_everything() {
    let Some(mut cluster) = short_log(3) else { return };
    let leader = cluster.settled(0);
    let (away, through) = ((leader + 1) % 3, (leader + 2) % 3);
    let before = said(&cluster, away, INSTALLED);
    let since = number(&cluster, through, "committed").expect("it answers");
    let downs = |cluster: &NetCluster| said(cluster, away, "link down");
    let links = downs(&cluster);
    cluster.net.cut(away);
    let writer = Writer::start(&cluster, &[leader, through], 100);
    outrun(&cluster, through, since);
    // A link that lives would still deliver what it was given before it was cut.
    cluster.wait_until("its links are gone", DEADLINE, |cluster| {
        (downs(cluster) >= links + 2).then_some(())
    });

    cluster.net.heal(away);
    brought_by_image(&cluster, away, before);
    cluster.settled(through);
    kept_everywhere(&cluster, &writer.stop());
}

#[test]
fn a_node_killed_while_an_image_arrives_gets_it_again_and_has_everything() {
    let Some(mut cluster) = short_log(3) else { return };
    let leader = cluster.settled(0);
    let (away, through) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.kill(away);
    // Several pieces, and before the first cut of the log: a leader goes on with the image it
    // began with, and a newer one comes by the log then.
    for n in 0..4 {
        let text = format!(
            "name = \"big{n}\"\nactive = false\ncomment = \"{}\"\n\n[[components]]\nname = \"c\"\n\
             cmd = [\"/bin/true\"]\n",
            "x".repeat(800 << 10)
        );
        cluster.try_deploy(through, &text, &["--no-wait", "--timeout", "30s"]).ok();
    }
    let large = number(&cluster, through, "committed").expect("it answers");
    assert!(number(&cluster, leader, "checkpoint").expect("it answers") <= SHORT, "not cut yet");
    let writer = Writer::start(&cluster, &[through], 10);
    outrun(&cluster, leader, large);
    let written = writer.stop();

    let mut interrupted = 0;
    for _ in 0..3 {
        let seen = (said(&cluster, away, ARRIVES), said(&cluster, away, OPENED));
        cluster.start_daemon(away);
        // One that was stored just before the kill is not sent again.
        let (arrives, _) =
            cluster.wait_until("an image arrives, or is there", DEADLINE, |cluster| {
                let log = cluster.log(away);
                if log.matches(ARRIVES).count() > seen.0 {
                    return Some(true);
                }
                let opened = log.matches(OPENED).count() > seen.1;
                (opened && opened_at(&log).is_some_and(|at| at >= large)).then_some(false)
            });
        if !arrives {
            break;
        }
        cluster.kill(away);
        interrupted += usize::from(said(&cluster, away, INSTALLED) == 0);
    }
    eprintln!("measured: killed {interrupted} times of 3 before the image was installed");
    assert!(interrupted > 0, "each time it was faster");

    cluster.start_daemon(away);
    cluster.answers(away);
    cluster.settled(through);
    // The last of these may not have been answered in time.
    (0..3).for_each(|node| written.assert_kept(&cluster, node));
    cluster.one_state();
}

/// Term and leader, as a node has them.
fn led(cluster: &NetCluster, through: usize) -> Option<(u64, String)> {
    let status = cluster.status(through)?;
    Some((status["term"].as_u64()?, status["leader"].as_str()?.to_owned()))
}

#[test]
fn a_follower_that_was_cut_off_or_killed_comes_back_without_an_election() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let (away, through) = ((leader + 1) % 3, (leader + 2) % 3);
    let before = led(&cluster, through).expect("it answers");
    let writer = Writer::start(&cluster, &[leader, through], 50);
    for cut in [true, false] {
        if cut {
            cluster.net.cut(away);
            cluster.node_is(through, away, &["lost"]);
            // Longer than several elections would take it.
            std::thread::park_timeout(Duration::from_secs(10));
            cluster.net.heal(away);
        } else {
            cluster.kill(away);
            cluster.node_is(through, away, &["daemon-down", "lost"]);
            cluster.start_daemon(away);
            cluster.answers(away);
        }
        let start = SystemClock.now();
        cluster.node_is(through, away, &["ready"]);
        cluster.settled(through);
        eprintln!("measured: back (cut: {cut}) and settled after {:?}", start.elapsed());
        for node in 0..3 {
            let (now, _) = cluster.wait_until("it follows", DEADLINE, |c| led(c, node));
            assert_eq!(now, before, "as node {node} has it");
        }
    }
    let longest = {
        let written = writer.stop();
        for node in 0..3 {
            written.assert_kept(&cluster, node);
        }
        written.longest_silence()
    };
    eprintln!("measured: longest silence {longest:?}");
}

#[test]
fn a_voter_that_is_lost_for_too_long_is_replaced_and_follows_when_it_returns() {
    let Some(mut cluster) = with(4, &["consensus.voter_replace_after=6s"]) else { return };
    let leader = cluster.settled(0);
    let voters = |cluster: &NetCluster, through| -> Option<Vec<String>> {
        let status = cluster.status(through)?;
        let names = status["groups"][0]["voters"].as_array()?.iter();
        Some(names.filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let before = voters(&cluster, leader).expect("it answers");
    assert_eq!(before.len(), 3, "{before:?}");
    let follower = |node: &usize| !before.contains(&cluster.node_name(*node));
    let learner = (0..4).find(follower).expect("one of four follows");
    let lost = (0..4).find(|node| *node != leader && *node != learner).expect("another voter");

    let start = SystemClock.now();
    cluster.net.cut(lost);
    let (after, _) = cluster.wait_until("it is replaced", DEADLINE, |cluster| {
        let now = voters(cluster, leader)?;
        (now != before).then_some(now)
    });
    let took = start.elapsed();
    eprintln!("measured: voter replaced after {took:?}");
    assert!(took >= Duration::from_secs(6), "not sooner than it was told: {took:?}");
    let (old, new) = (cluster.node_name(lost), cluster.node_name(learner));
    let settled = cluster.wait_until("the change is complete", DEADLINE, |cluster| {
        voters(cluster, leader).filter(|now| now.len() == 3)
    });
    assert!(settled.0.contains(&new) && !settled.0.contains(&old), "{before:?} {after:?}");

    // The new majority does without another of the old ones.
    let other = (0..4).find(|node| ![leader, learner, lost].contains(node)).expect("a fourth");
    cluster.net.cut(other);
    cluster.deploy(learner, &hello("after", 1));
    cluster.net.heal(other);
    cluster.net.heal(lost);
    cluster.node_is(leader, lost, &["ready"]);
    cluster.settled(leader);
    let row = cluster.status(leader).expect("it answers")["nodes"].clone();
    let rows = row.as_array().expect("nodes").iter().filter(|row| row["role"] == "learner");
    let learners: Vec<&str> = rows.filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(learners.len(), 1, "{learners:?}");
    cluster.one_state();
}

/// The level at which a node knows that the cluster agrees.
fn level(cluster: &NetCluster, node: usize) -> Option<u32> {
    state(cluster, node).ok().map(|state| state.format)
}

#[track_caller]
fn agrees_at(cluster: &NetCluster, node: usize, wanted: u32) {
    cluster.wait_until(&format!("format level {wanted}"), DEADLINE, |cluster| {
        (level(cluster, node) == Some(wanted)).then_some(())
    });
}

#[test]
fn one_node_of_the_version_before_keeps_the_format_level_down_until_it_is_upgraded_or_removed() {
    let newer = ["chaos.enabled=true", "chaos.format_level=2"];
    let Some(net) = Net::new(4) else { return };
    let mut cluster = NetCluster::on(net, 3);
    let leader = cluster.settled(0);
    assert_eq!(level(&cluster, leader), Some(1));
    // A rolling upgrade: the followers, then the leader; one stays behind.
    let behind = (leader + 1) % 3;
    for node in [(leader + 2) % 3, leader] {
        cluster.set(node, &newer);
        assert_eq!(cluster.stop(node), Some(0));
        cluster.start_daemon(node);
        cluster.answers(node);
        cluster.settled(node);
    }
    let through = (leader + 2) % 3;
    cluster.deploy(behind, &hello("mixed", 1));
    // Each has reported what it is now.
    let reported = |cluster: &NetCluster, wanted: [u32; 3]| {
        let state = state(cluster, through).ok()?;
        let mut levels: Vec<u32> = state.nodes.iter().map(|node| node.format).collect();
        levels.sort_unstable();
        (levels == wanted).then_some(())
    };
    cluster.wait_until("two of three are newer", DEADLINE, |c| reported(c, [1, 2, 2]));
    let index = state(&cluster, through).expect("it answers").index;
    cluster.deploy(through, &hello("mixed-too", 1));
    assert!(state(&cluster, through).expect("it answers").index > index);
    assert_eq!(level(&cluster, through), Some(1), "one node would not understand more");

    // Upgraded: the level rises by itself.
    cluster.set(behind, &newer);
    assert_eq!(cluster.stop(behind), Some(0));
    cluster.start_daemon(behind);
    cluster.answers(behind);
    for node in 0..3 {
        agrees_at(&cluster, node, 2);
    }
    cluster.runs_exactly(&[("mixed", 1), ("mixed-too", 1)]);
    assert!((0..3).all(|node| cluster.daemon_pid(node).is_some_and(is_alive)));
    cluster.one_state();
}

#[test]
fn the_format_level_rises_when_the_last_node_of_the_version_before_is_removed() {
    // What joins is of the version of the command that joins it; what plays another does so after.
    let Some(mut cluster) = with(3, &[]) else { return };
    let newer = ["chaos.enabled=true", "chaos.format_level=2"];
    for node in 0..3 {
        cluster.set(node, &newer);
        cluster.restart(node);
        cluster.settled(node);
    }
    let leader = cluster.settled(0);
    for node in 0..3 {
        agrees_at(&cluster, node, 2);
    }
    let newest = ["chaos.enabled=true", "chaos.format_level=3"];
    let behind = (leader + 1) % 3;
    for node in [(leader + 2) % 3, leader] {
        cluster.set(node, &newest);
        cluster.restart(node);
        cluster.settled(node);
    }
    let through = (leader + 2) % 3;
    cluster.deploy(through, &hello("mixed", 1));
    assert_eq!(level(&cluster, through), Some(2));
    let name = cluster.node_name(behind);
    cluster.weft(through, &["node", "remove", &name, "--force", "--yes"]).ok();
    agrees_at(&cluster, through, 3);
}
