//! Nodes in network namespaces: what they do when a cable is pulled, an interface comes late, or
//! only small packets pass.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options, hello, hello_on};
use weft_tests::writer::Writer;
use weft_tests::{DEADLINE, is_alive};

fn pid(row: &Value) -> u32 {
    row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

fn url(row: &Value) -> &str {
    row["urls"][0].as_str().expect("a url")
}

/// A socket on a node, connected to nobody.
fn socket(net: &Net, node: usize) -> UdpSocket {
    let socket = net.inside(node, || UdpSocket::bind((net.address(node), 0))).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(150))).expect("a time limit");
    socket
}

/// How many of `count` packets of `size` bytes arrive.
fn heard(net: &Net, from: usize, to: usize, size: usize, count: usize) -> usize {
    let (sender, receiver) = (socket(net, from), socket(net, to));
    let address = receiver.local_addr().expect("an address");
    let mut buffer = [0; 2048];
    let mut got = 0;
    for _ in 0..count {
        // A link that is down may say so.
        let _ = sender.send_to(&vec![0; size], address);
        if count > 1 {
            receiver.set_nonblocking(true).expect("a mode");
        }
        got += usize::from(receiver.recv(&mut buffer).is_ok());
    }
    receiver.set_nonblocking(false).expect("a mode");
    while receiver.recv(&mut buffer).is_ok() {
        got += 1;
    }
    got
}

fn hears(net: &Net, from: usize, to: usize) -> bool {
    heard(net, from, to, 100, 1) == 1
}

#[test]
fn links_are_cut_split_and_closed_one_way_and_heal() {
    let Some(mut net) = Net::new(4) else { return };
    assert!(hears(&net, 0, 1) && hears(&net, 1, 0) && hears(&net, 3, 2));

    net.cut(0);
    assert!(!hears(&net, 0, 1) && !hears(&net, 1, 0) && hears(&net, 1, 2));
    net.heal(0);
    assert!(hears(&net, 0, 1) && hears(&net, 1, 0));

    net.partition(&[&[0, 1], &[2]]);
    assert!(hears(&net, 0, 1) && !hears(&net, 0, 2) && !hears(&net, 2, 1));
    assert!(hears(&net, 3, 0) && hears(&net, 2, 3), "a node in no group");
    net.reunite();
    assert!(hears(&net, 0, 2) && hears(&net, 2, 1));

    net.one_way(0, 1);
    assert!(!hears(&net, 0, 1) && hears(&net, 1, 0) && hears(&net, 0, 2));
    net.heal(1);
    assert!(hears(&net, 0, 1));
}

#[test]
fn packets_are_lost_too_large_refused_or_for_nobody_yet() {
    let Some(mut net) = Net::new(2) else { return };
    net.loss(20);
    let got = heard(&net, 0, 1, 100, 2000);
    assert!((1400..1800).contains(&got), "{got} of 2000");
    net.loss(0);
    assert_eq!(heard(&net, 0, 1, 100, 200), 200);

    net.mtu(1, 1280);
    assert_eq!(heard(&net, 0, 1, 1200, 1), 1);
    assert_eq!(heard(&net, 0, 1, 1400, 1), 0, "it vanishes");
    net.mtu(1, 1500);
    assert_eq!(heard(&net, 0, 1, 1400, 1), 1);

    let (asks, listens) = (socket(&net, 0), socket(&net, 1));
    let address = listens.local_addr().expect("an address");
    let refused = || {
        asks.connect(address).expect("connects");
        asks.send(b"there?").expect("sends");
        let said = asks.recv(&mut [0; 10]).map_err(|error| error.kind());
        let heard = listens.recv(&mut [0; 10]).is_ok();
        (said == Err(ErrorKind::ConnectionRefused), heard)
    };
    assert_eq!(refused(), (false, true));
    net.reject(1, address.port());
    assert_eq!(refused(), (true, false));
    assert!(hears(&net, 0, 1), "another port");
    net.accept(1);
    assert_eq!(refused(), (false, true));

    net.late(1);
    let bound = |net: &Net| net.inside(1, || UdpSocket::bind((net.address(1), 0)).is_ok());
    assert!(!bound(&net));
    net.arrive(1);
    assert!(bound(&net) && hears(&net, 0, 1));
}

#[test]
fn three_nodes_in_namespaces_join_and_run_hello() {
    let Some(cluster) = NetCluster::start(3) else { return };
    cluster.deploy(1, &hello("hello", 3));
    for node in 0..3 {
        let row = cluster.running(0, "hello", node);
        let (status, body) = cluster.curl(node, url(&row)).expect("hello answers at home");
        assert_eq!((status, body.contains(&cluster.node_name(node))), (200, true), "{body}");
        assert!(cluster.node_pids(node).contains(&pid(&row)), "it runs in its node's namespace");
    }
}

#[test]
fn a_cut_nodes_components_go_on_and_its_peers_stay_usable() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.deploy(0, &hello("hello", 3));
    let before = cluster.running(0, "hello", 2);
    cluster.net.cut(2);

    let state = cluster.node_is(1, 2, &["suspect", "unreachable", "down", "lost", "dead"]);
    assert_ne!(state, "ready");
    cluster.deploy(1, &hello_on("after", "n2"));
    assert!(is_alive(pid(&before)));
    assert_eq!(cluster.curl(2, url(&before)).map(|(status, _)| status), Ok(200));
    // It still answers for itself.
    assert!(!cluster.ps_json(2).is_empty());

    cluster.net.heal(2);
    cluster.node_is(0, 2, &["ready"]);
    cluster.node_is(2, 0, &["ready"]);
    cluster.wait_until("n3 has caught up", DEADLINE, |cluster| {
        let rows = cluster.ps_json(2);
        rows.iter().any(|row| row["service"] == "after").then_some(())
    });
}

#[test]
fn nodes_join_and_deploy_over_links_of_1280_bytes() {
    let Some(mut net) = Net::new(3) else { return };
    for node in 0..3 {
        net.mtu(node, 1280);
    }
    let cluster = NetCluster::on(net, 3);
    cluster.deploy(2, &hello("hello", 3));
    for node in 0..3 {
        cluster.running(1, "hello", node);
    }
    // Large answers as well: all of a node's log.
    assert!(!cluster.weft(0, &["events", "--json"]).ok().stdout.is_empty());
}

#[test]
fn nodes_join_and_deploy_through_relays_with_a_round_trip_of_200_ms() {
    let Some(net) = Net::new(3) else { return };
    let round_trip = Duration::from_millis(200);
    let options = Options { relayed: Some(round_trip), ..Options::default() };
    let cluster = NetCluster::with(net, 3, options);
    cluster.deploy(1, &hello("hello", 3));
    cluster.wait_until("n1 has measured the way to both", DEADLINE, |cluster| {
        let rtts = cluster.nodes_json(0).into_iter().filter_map(|row| row["rtt_us"].as_u64());
        (rtts.filter(|rtt| u128::from(*rtt) >= round_trip.as_micros()).count() == 2).then_some(())
    });
}

#[test]
fn an_interface_that_comes_late_is_waited_for() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.kill(2);
    cluster.net.late(2);
    cluster.start_daemon(2);
    cluster.wait_until("n3 says that it waits", DEADLINE, |cluster| {
        cluster.log(2).contains("the address does not exist yet").then_some(())
    });
    assert!(cluster.daemon_pid(2).is_some(), "it waits, it does not end");
    cluster.net.arrive(2);
    cluster.answers(2);
    for through in 0..3 {
        cluster.node_is(through, 2, &["ready"]);
    }
}

#[test]
fn every_write_acknowledged_while_a_follower_restarts_is_kept() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let writer = Writer::start(&cluster, &[0, 1, 2], 200);
    let more = |cluster: &NetCluster| {
        let then = writer.acknowledged() + 100;
        cluster.wait_until("a hundred more are acknowledged", DEADLINE, |_| {
            (writer.acknowledged() >= then).then_some(())
        });
    };
    more(&cluster);
    cluster.restart(2);
    more(&cluster);
    let written = writer.stop();
    assert!(written.acknowledged() >= 200);
    assert!(written.services.values().all(|writes| !writes.unknown), "{written:?}");
    for node in 0..3 {
        written.assert_kept(&cluster, node);
    }
}

#[test]
fn a_node_that_loses_power_comes_back_and_a_stopped_daemon_leaves_its_component_alone() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.deploy(0, &hello("hello", 3));
    let (lost, kept) = (cluster.running(0, "hello", 2), cluster.running(0, "hello", 1));

    cluster.crash(2);
    assert_eq!(cluster.node_pids(2), Vec::<u32>::new());
    assert_eq!(cluster.stop(1), Some(0));
    assert!(is_alive(pid(&kept)) && !is_alive(pid(&lost)));

    cluster.restart(2);
    cluster.restart(1);
    assert_ne!(pid(&cluster.running(0, "hello", 2)), pid(&lost));
    assert_eq!(pid(&cluster.running(0, "hello", 1)), pid(&kept));
}
