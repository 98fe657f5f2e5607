//! The network between nodes is an overlay: its address may change, go away and come back, and its
//! packets may take long ways.

use std::time::Duration;

use weft_protocol::NodeState;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options, hello_on};
use weft_tests::observe::{Observer, What};
use weft_tests::writer::Writer;
use weft_tests::{DEADLINE, is_alive};
use weft_wire::{Clock, SystemClock};

/// Waits until every node lists another as ready at that address.
#[track_caller]
fn found_at(cluster: &NetCluster, node: usize) -> Duration {
    let (name, address) = (cluster.node_name(node), cluster.bound(node).to_string());
    let what = format!("all find {name} at {address}");
    let (_, after) = cluster.wait_until(&what, DEADLINE, |cluster| {
        let here = |row: &serde_json::Value| {
            row["name"] == name.as_str() && row["state"] == "ready" && row["address"] == address
        };
        (0..cluster.len()).all(|node| cluster.nodes_json(node).iter().any(here)).then_some(())
    });
    after
}

#[test]
fn a_node_whose_address_is_replaced_while_it_runs_is_found_at_its_new_one() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.settled(0);
    cluster.deploy(0, &hello_on("stays", "n3"));
    let before = cluster.copies(2, "stays");

    cluster.net.readdress(2, 103);
    let after = found_at(&cluster, 2);
    eprintln!("measured: address replaced: found at the new one after {} ms", after.as_millis());
    let log = cluster.log(2);
    assert!(log.contains("the fabric's address is gone"), "{log}");
    assert!(log.contains("the fabric listens at another address"), "{log}");
    assert_eq!(cluster.copies(2, "stays"), before, "its component did not notice");
    cluster.settled(0);
    // In both directions.
    cluster.deploy(2, &hello_on("from", "n1"));
    cluster.deploy(0, &hello_on("to", "n3"));

    // Its file still names the old address.
    cluster.restart(2);
    let after = found_at(&cluster, 2);
    eprintln!("measured: started at another address: found after {} ms", after.as_millis());
    assert_eq!(cluster.copies(2, "stays"), before);

    // And when that one is there again, it is the one.
    cluster.net.readdress(2, 3);
    found_at(&cluster, 2);
    assert_eq!(cluster.copies(2, "stays"), before);
    cluster.settled(0);
    cluster.one_state();
}

#[test]
fn the_leaders_address_is_replaced_and_another_leads_or_it_goes_on() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let writer = Writer::start(&cluster, &[0, 1, 2], 50);
    cluster.net.readdress(leader, 120);
    found_at(&cluster, leader);
    cluster.settled((leader + 1) % 3);
    let written = writer.stop();
    assert!(written.services.values().all(|writes| !writes.unknown), "{written:?}");
    for node in 0..3 {
        written.assert_kept(&cluster, node);
    }
    cluster.one_state();
}

#[test]
fn an_interface_that_is_taken_away_while_the_node_runs_and_comes_back_is_used_again() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.settled(0);
    cluster.deploy(0, &hello_on("stays", "n3"));
    let before = cluster.copies(2, "stays");
    cluster.net.late(2);
    cluster.node_is(0, 2, &["lost"]);
    cluster.wait_until("n3 says that it waits", DEADLINE, |cluster| {
        cluster.log(2).contains("the fabric's address is gone").then_some(())
    });
    cluster.net.arrive(2);
    let after = found_at(&cluster, 2);
    eprintln!("measured: interface back: found after {} ms", after.as_millis());
    assert_eq!(cluster.copies(2, "stays"), before);
    assert!(before.iter().all(|pid| is_alive(*pid)));
    cluster.settled(0);
}

/// Nodes reached through relays with a round trip of 200 ms, for 30 s, under writes.
fn long_ways(profile: &str) {
    let Some(net) = Net::new(3) else { return };
    let options = Options {
        relayed: Some(Duration::from_millis(200)),
        settings: vec![format!("membership.profile={profile}")],
        ..Options::default()
    };
    let cluster = NetCluster::with(net, 3, options);
    cluster.settled(0);
    let seen = Observer::start(&cluster, &[0, 1, 2]);
    let writer = Writer::start(&cluster, &[0, 1, 2], 20);
    let start = SystemClock.now();
    while start.elapsed() < Duration::from_secs(30) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let out = |what: &What| {
        matches!(what, What::Member(_, NodeState::Lost | NodeState::DaemonDown | NodeState::Left))
    };
    let suspected = |what: &What| matches!(what, What::Member(_, NodeState::Suspect));
    let events = seen.since(start);
    let count = |is: &dyn Fn(&What) -> bool| events.iter().filter(|event| is(&event.what)).count();
    let leaders = count(&|what| matches!(what, What::Leader(..)));
    let (dead, suspicions) = (count(&out), count(&suspected));
    let written = writer.stop();
    eprintln!(
        "measured: 200 ms, {profile}: {dead} deaths, {suspicions} suspicions, {leaders} changes \
         of leader, {:.0} writes a second, slowest {} ms, failed {:?}",
        written.rate(),
        written.slowest.as_millis(),
        written.failures
    );
    assert_eq!(dead, 0, "{events:?}");
    assert_eq!(written.services.values().filter(|writes| writes.unknown).count(), 0);
    for node in 0..3 {
        written.assert_kept(&cluster, node);
    }
}

#[test]
fn over_relays_with_a_round_trip_of_200_ms_nobody_dies_with_profile_wan() {
    long_ways("wan");
}

#[test]
fn over_relays_with_a_round_trip_of_200_ms_nobody_dies_with_profile_lan() {
    long_ways("lan");
}
