//! No node is special and any may die: leaders, followers and links are lost, and what was
//! acknowledged is not. Times that are measured here are printed (`measured: …`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::agreed::places;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, hello, hello_on};
use weft_tests::writer::{Writer, state};
use weft_tests::{DEADLINE, is_alive};
use weft_wire::{Clock, SystemClock};

/// The promise is 5 s (design §8), and what each run took is printed; a debug build on a machine
/// that does other work too is given three times that.
const TAKEN_OVER: Duration = Duration::from_secs(15);

fn measured(what: &str, times: &[(&str, Duration)]) {
    let times: Vec<String> =
        times.iter().map(|(name, time)| format!("{name} {} ms", time.as_millis())).collect();
    eprintln!("measured: {what}: {}", times.join(", "));
}

/// One replica of each, one on every node; which is where.
fn spread(cluster: &NetCluster, names: &[&str]) -> BTreeMap<usize, String> {
    for (at, name) in names.iter().enumerate() {
        cluster.deploy(at % cluster.len(), &hello(name, 1));
    }
    let on: BTreeMap<usize, String> = names
        .iter()
        .map(|name| (cluster.place_of(0, name).expect("a place"), (*name).to_owned()))
        .collect();
    assert_eq!(on.len(), names.len(), "one on each node: {on:?}");
    on
}

/// Waits until `more` further writes are acknowledged.
#[track_caller]
fn writes(cluster: &NetCluster, writer: &Writer, more: usize) {
    let then = writer.acknowledged() + more;
    cluster.wait_until(&format!("{more} more are acknowledged"), DEADLINE, |_| {
        (writer.acknowledged() >= then).then_some(())
    });
}

/// Every node has every acknowledged write, and all nodes have the same.
#[track_caller]
fn nothing_is_lost(cluster: &NetCluster, writer: Writer) {
    let written = writer.stop();
    eprintln!(
        "measured: {} acknowledged, {:.0} a second, slowest {} ms, longest silence {} ms, failed \
         attempts {:?}",
        written.acknowledged(),
        written.rate(),
        written.slowest.as_millis(),
        written.longest_silence().as_millis(),
        written.failures
    );
    assert!(written.services.values().all(|writes| !writes.unknown), "{written:?}");
    for node in 0..cluster.len() {
        written.assert_kept(cluster, node);
    }
    cluster.one_state();
}

/// What a node lists another as.
fn listed(cluster: &NetCluster, through: usize, node: usize) -> Option<String> {
    let name = cluster.node_name(node);
    cluster.states(through).into_iter().find(|(of, _)| *of == name).map(|(_, state)| state)
}

/// Since `start`: when a survivor lists the node as lost, and when the service runs on one.
#[track_caller]
fn taken_over(
    cluster: &NetCluster,
    start: Instant,
    lost: usize,
    service: &str,
    survivors: &[usize],
) -> (usize, Duration, Duration) {
    let through = survivors[0];
    let mut detected = None;
    let what = format!("{service} runs on one of {survivors:?}");
    let (node, _) = cluster.wait_until(&what, DEADLINE, |cluster| {
        let runs = survivors.iter().find(|node| !cluster.copies(**node, service).is_empty());
        if detected.is_none() && listed(cluster, through, lost).as_deref() == Some("lost") {
            detected = Some(start.elapsed());
        }
        runs.copied()
    });
    let total = start.elapsed();
    (node, detected.unwrap_or(total), total)
}

#[test]
fn after_the_death_of_the_leaders_daemon_any_other_node_deploys_and_nothing_is_lost() {
    let Some(mut cluster) = NetCluster::start(5) else { return };
    let leader = cluster.settled(0);
    let others: Vec<usize> = (0..5).filter(|node| *node != leader).collect();
    cluster.deploy(leader, &hello_on("stays", &cluster.node_name(leader)));
    let before = cluster.copies(leader, "stays");
    let writer = Writer::start(&cluster, &others, 100);
    writes(&cluster, &writer, 200);

    let start = SystemClock.now();
    cluster.kill(leader);
    cluster.deploy(others[2], &hello("after", 1));
    let healthy = start.elapsed();
    let (_, led) = cluster.led_by_another(others[0], leader);
    measured("leader's daemon killed", &[("deployed and healthy", healthy), ("led", led)]);
    assert!(healthy < TAKEN_OVER, "{healthy:?}");

    writes(&cluster, &writer, 200);
    cluster.restart(leader);
    assert_eq!(cluster.copies(leader, "stays"), before, "taken over, not started again");
    nothing_is_lost(&cluster, writer);
    cluster.runs_exactly(&[("after", 1), ("stays", 1)]);
}

/// Cuts one node of three, the leader or a follower, and plugs it in again.
fn cut_and_back(leader_is_cut: bool) {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let cut = if leader_is_cut { leader } else { (leader + 1) % 3 };
    let survivors: Vec<usize> = (0..3).filter(|node| *node != cut).collect();
    let on = spread(&cluster, &["a", "b", "c"]);
    let service = on[&cut].clone();
    // Bound to its node: it waits.
    cluster.deploy(cut, &hello_on("bound", &cluster.node_name(cut)));
    let kept = cluster.copies(cut, "bound");

    let start = SystemClock.now();
    cluster.net.cut(cut);
    let (_, detected, total) = taken_over(&cluster, start, cut, &service, &survivors);
    let who = if leader_is_cut { "leader's link cut" } else { "follower's link cut" };
    measured(who, &[("listed as lost", detected), ("runs elsewhere", total)]);
    assert!(total < TAKEN_OVER, "{total:?}");
    let (node, _) = cluster.wait_until("it is a row that runs", DEADLINE, |cluster| {
        let rows = cluster.ps_json(survivors[0]);
        let runs = |row: &&Value| row["service"] == service.as_str() && row["state"] == "running";
        rows.iter().find(runs).map(|row| row["node"].as_str().unwrap_or_default().to_owned())
    });
    assert!(survivors.contains(&cluster.node_number(&node)));
    // What runs on the node that is cut off goes on, and what is bound to it moves nowhere.
    assert_eq!(cluster.copies(cut, "bound"), kept);
    assert!(survivors.iter().all(|node| cluster.copies(*node, "bound").is_empty()));
    let waiting = cluster.status(survivors[0]).expect("it answers")["waiting"].to_string();
    assert!(waiting.contains("bound/1"), "{waiting}");

    // Once its replacement is settled it is not undone.
    cluster.wait_until("the replacement is settled", DEADLINE, |cluster| {
        let state = state(cluster, survivors[0]).ok()?;
        state.placements.iter().all(|place| place.previous.is_none()).then_some(())
    });
    cluster.net.heal(cut);
    cluster.node_is(survivors[0], cut, &["ready"]);
    cluster.runs_exactly(&[("a", 1), ("b", 1), ("c", 1), ("bound", 1)]);
    assert!(cluster.copies(cut, &service).is_empty(), "it stays where it was moved to");
    assert_eq!(cluster.copies(cut, "bound"), kept);
    cluster.settled(0);
    cluster.one_state();
}

#[test]
fn a_replica_of_a_node_that_is_cut_off_runs_elsewhere_and_only_there_afterwards() {
    cut_and_back(false);
}

#[test]
fn a_replica_of_a_leader_that_is_cut_off_runs_elsewhere_and_only_there_afterwards() {
    cut_and_back(true);
}

#[test]
fn a_killed_daemon_whose_host_lives_moves_nothing_and_is_told_from_a_lost_node() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let down = (leader + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|node| *node != down).collect();
    let on = spread(&cluster, &["a", "b", "c"]);
    let before = (cluster.places(leader), cluster.copies(down, &on[&down]));

    let start = SystemClock.now();
    cluster.kill(down);
    let mut told = BTreeMap::new();
    while start.elapsed() < Duration::from_secs(10) {
        for other in &others {
            let state = listed(&cluster, *other, down).expect("it answers");
            assert_ne!(state, "lost", "after {:?}: its host answers", start.elapsed());
            if state == "daemon-down" {
                told.entry(*other).or_insert_with(|| start.elapsed());
            }
        }
        assert_eq!(cluster.places(leader), before.0);
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(told.len(), 2, "both know that only the daemon is down");
    let told: Vec<_> = told.values().map(|time| ("told after", *time)).collect();
    measured("daemon killed, host lives", &told);

    cluster.restart(down);
    cluster.node_is(leader, down, &["ready"]);
    assert_eq!((cluster.places(leader), cluster.copies(down, &on[&down])), before);
    cluster.runs_exactly(&[("a", 1), ("b", 1), ("c", 1)]);
}

/// Splits a cluster; the leader goes with the minority or with the majority.
fn split(nodes: usize, minority: usize, leader_with_minority: bool) {
    let Some(mut cluster) = NetCluster::start(nodes) else { return };
    let leader = cluster.settled(0);
    let order: Vec<usize> = (0..nodes).map(|n| (leader + n) % nodes).collect();
    let (few, many): (Vec<usize>, Vec<usize>) = if leader_with_minority {
        (order[..minority].to_vec(), order[minority..].to_vec())
    } else {
        (order[nodes - minority..].to_vec(), order[..nodes - minority].to_vec())
    };
    cluster.deploy(leader, &hello("all", nodes));
    let bound: Vec<(String, usize)> = few.iter().map(|node| (format!("b{node}"), *node)).collect();
    for (name, node) in &bound {
        cluster.deploy(*node, &hello_on(name, &cluster.node_name(*node)));
    }
    let alone: Vec<Vec<u32>> = few.iter().map(|node| cluster.copies(*node, "all")).collect();
    let writer = Writer::start(&cluster, &many, 50);
    writes(&cluster, &writer, 100);

    let start = SystemClock.now();
    cluster.net.partition(&[&few, &many]);
    // The majority goes on.
    let led = leader_with_minority.then(|| {
        cluster.led_by_another(many[0], leader);
        start.elapsed()
    });
    cluster.deploy(many[0], &hello_on("after", &cluster.node_name(many[1])));
    let times = [("led by another", led.unwrap_or_default()), ("deployed", start.elapsed())];
    measured("split, majority", &times);
    writes(&cluster, &writer, 100);
    // The minority runs what it runs, refuses writes, and answers.
    let asked = SystemClock.now();
    let refused = cluster.try_deploy(few[0], &hello("refused", 1), &["--no-wait"]);
    measured("minority", &[("refused a write after", asked.elapsed())]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("majority"), "{refused:?}");
    for (at, node) in few.iter().enumerate() {
        assert_eq!(cluster.copies(*node, "all"), alone[at]);
        assert!(alone[at].iter().all(|pid| is_alive(*pid)));
        assert!(!cluster.ps_json(*node).is_empty(), "it answers reads");
        let status = cluster.status(*node).expect("it answers");
        assert!(status["no_majority"].is_string(), "and says how old they are: {status}");
        assert!(state(&cluster, *node).is_ok_and(|state| state.service("after").is_none()));
    }

    cluster.net.reunite();
    let whole = SystemClock.now();
    cluster.settled(many[0]);
    measured("reunited", &[("settled", whole.elapsed())]);
    writes(&cluster, &writer, 50);
    nothing_is_lost(&cluster, writer);
    let one = cluster.one_state();
    assert!(one.service("after").is_some());
    let replicas = one.placements.iter().filter(|place| place.service == "all").count();
    let mut wanted = vec![("all", replicas), ("after", 1)];
    if one.service("refused").is_some() {
        panic!("what was refused was done: {refused:?}");
    }
    wanted.extend(bound.iter().map(|(name, _)| (name.as_str(), 1)));
    cluster.runs_exactly(&wanted);
}

#[test]
fn split_2_from_3_with_the_leader_among_the_2_the_majority_goes_on_and_reunited_all_agree() {
    split(5, 2, true);
}

#[test]
fn split_1_from_2_the_majority_goes_on_the_one_refuses_writes_and_reunited_all_agree() {
    split(3, 1, false);
}

#[test]
fn a_leader_split_from_the_2_others_refuses_writes_and_reunited_all_agree() {
    split(3, 1, true);
}

#[test]
fn a_link_open_one_way_only_ends_in_one_of_the_two_states() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let node = (leader + 1) % 3;
    cluster.net.one_way(node, leader);

    let start = SystemClock.now();
    let mut seen: BTreeMap<usize, Vec<(String, Duration)>> = BTreeMap::new();
    let mut leaders: Vec<(String, u64)> = Vec::new();
    while start.elapsed() < Duration::from_secs(15) {
        for through in [leader, (leader + 2) % 3] {
            // That it hears no leader, and says so, is no verdict of the others.
            let state = listed(&cluster, through, node).expect("it answers");
            let state = if state == "degraded" { "ready".to_owned() } else { state };
            let states = seen.entry(through).or_default();
            if states.last().is_none_or(|(last, _)| *last != state) {
                states.push((state, start.elapsed()));
            }
        }
        if let Some(status) = cluster.status((leader + 2) % 3)
            && let (Some(name), Some(term)) = (status["leader"].as_str(), status["term"].as_u64())
            && leaders.last().is_none_or(|(_, last)| *last != term)
        {
            leaders.push((name.to_owned(), term));
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    eprintln!("measured: one-way: {seen:?}, leaders {leaders:?}");
    // A member for everybody, even if one of them does not reach it, or lost for everybody.
    let out = |state: &String| state == "lost" || state == "daemon-down";
    for (through, states) in &seen {
        let turns = states.windows(2).filter(|two| out(&two[0].0) != out(&two[1].0)).count();
        assert!(turns <= 1, "{through} changed its mind {turns} times: {states:?}");
        let (_, at) = states.last().expect("one");
        assert!(*at < Duration::from_secs(10), "it has come to rest: {states:?}");
    }
    let last: BTreeSet<bool> =
        seen.values().filter_map(|states| Some(out(&states.last()?.0))).collect();
    assert_eq!(last.len(), 1, "the two agree: {seen:?}");
    assert!(leaders.len() <= 2, "{leaders:?}");

    cluster.net.reunite();
    cluster.settled(0);
    cluster.one_state();
}

#[test]
fn no_node_is_taken_for_dead_in_60_s_in_which_every_fifth_packet_is_lost() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.settled(0);
    spread(&cluster, &["a", "b", "c"]);
    let before = cluster.places(0);
    let term = |cluster: &NetCluster| cluster.status(0).and_then(|s| s["term"].as_u64());
    let first = term(&cluster);
    let writer = Writer::start(&cluster, &[0, 1, 2], 20);

    cluster.net.loss(20);
    let start = SystemClock.now();
    let mut last: BTreeMap<(usize, String), String> = BTreeMap::new();
    let (mut dead, mut suspected, mut looks) = (Vec::new(), 0, 0);
    while start.elapsed() < Duration::from_secs(60) {
        for through in 0..3 {
            for (node, state) in cluster.states(through) {
                looks += 1;
                let before = last.insert((through, node.clone()), state.clone());
                if before.as_deref() == Some(state.as_str()) {
                    continue;
                }
                match state.as_str() {
                    "lost" | "daemon-down" => dead.push((through, node, start.elapsed())),
                    "suspect" => suspected += 1,
                    _ => {}
                }
            }
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    cluster.net.loss(0);
    let terms = (first, term(&cluster));
    eprintln!(
        "measured: 20 % loss: {looks} looks, {suspected} suspicions, {} deaths, terms {terms:?}",
        dead.len()
    );
    assert_eq!(dead, Vec::new());
    // Nor between two looks.
    for node in 0..3 {
        let log = cluster.log(node);
        let said =
            log.lines().find(|line| line.contains("now=Lost") || line.contains("now=DaemonDown"));
        assert_eq!(said, None, "on {}", cluster.node_name(node));
    }
    let mut places = cluster.places(0);
    places.retain(|key, _| before.contains_key(key));
    assert_eq!(places, before, "nothing moved");
    cluster.settled(0);
    nothing_is_lost(&cluster, writer);
}

#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_lose_power_at_once() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.settled(0);
    cluster.deploy(0, &hello("all", 3));
    let writer = Writer::start(&cluster, &[0, 1, 2], 200);
    writes(&cluster, &writer, 300);
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.crash(node);
    }
    let start = SystemClock.now();
    for node in 0..3 {
        cluster.start_daemon(node);
    }
    cluster.settled(0);
    measured("all nodes crashed", &[("settled after the start", start.elapsed())]);
    writes(&cluster, &writer, 100);
    nothing_is_lost(&cluster, writer);
    cluster.runs_exactly(&[("all", 3)]);
}

#[test]
fn a_rolling_restart_under_200_writes_a_second_loses_nothing() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    cluster.deploy(0, &hello("all", 3));
    let before: Vec<Vec<u32>> = (0..3).map(|node| cluster.copies(node, "all")).collect();
    let writer = Writer::start(&cluster, &[0, 1, 2], 200);
    writes(&cluster, &writer, 200);
    // The leader is the second of the three.
    for node in [(leader + 2) % 3, leader, (leader + 1) % 3] {
        assert_eq!(cluster.stop(node), Some(0));
        cluster.start_daemon(node);
        cluster.answers(node);
        cluster.settled((node + 1) % 3);
        writes(&cluster, &writer, 100);
    }
    nothing_is_lost(&cluster, writer);
    let after: Vec<Vec<u32>> = (0..3).map(|node| cluster.copies(node, "all")).collect();
    assert_eq!(after, before, "components did not notice");
}

#[test]
fn plan_lost_says_what_then_really_happens() {
    let Some(mut cluster) = NetCluster::start(4) else { return };
    let leader = cluster.settled(0);
    let lost = (leader + 1) % 4;
    let through = (leader + 2) % 4;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.deploy(0, &hello(name, 1));
    }
    cluster.deploy(0, &hello("pair", 2));
    cluster.deploy(0, &hello_on("bound", &cluster.node_name(lost)));
    let name = cluster.node_name(lost);
    let plan = cluster.json(through, &["plan", "--lost", &name, "--json"]);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let planned: BTreeMap<(String, u32), usize> = plan["places"]
        .as_array()
        .expect("places")
        .iter()
        .map(|place| {
            let replica = place["replica"].as_u64().and_then(|n| u32::try_from(n).ok());
            let key = (text(&place["service"]), replica.expect("a number"));
            (key, cluster.node_number(&text(&place["node"])))
        })
        .collect();
    let moves = plan["moves"].as_array().expect("moves").len();
    assert!(moves > 0 && plan["no_majority"].is_null(), "{plan}");
    assert!(plan["waiting"].to_string().contains("bound"), "{plan}");
    // Asking changes nothing.
    assert_ne!(cluster.places(through), planned);

    let before = cluster.places(through);
    cluster.net.cut(lost);
    cluster.wait_until("all that was on it has another place", DEADLINE, |cluster| {
        let now = cluster.places(through);
        let left = now.iter().filter(|(_, node)| **node == lost).count();
        let kept = planned.values().filter(|node| **node == lost).count();
        (left == kept).then_some(())
    });
    // As every survivor has it, and as it runs.
    let settled = cluster.wait_until("it has come to rest", DEADLINE, |cluster| {
        let state = state(cluster, through).ok()?;
        let rests = state.placements.iter().all(|place| place.previous.is_none());
        rests.then(|| places(cluster, &state))
    });
    assert_eq!(settled.0, planned, "before: {before:?}, plan: {plan}");
    for ((service, replica), node) in &planned {
        if *node != lost {
            assert!(!cluster.copies(*node, service).is_empty(), "{service}/{replica} on {node}");
        }
    }
    cluster.net.heal(lost);
    cluster.node_is(through, lost, &["ready"]);
    cluster.settled(through);
}

#[test]
fn a_leader_that_is_removed_hands_over_and_the_others_go_on() {
    let Some(net) = Net::new(4) else { return };
    let cluster = NetCluster::on(net, 4);
    let leader = cluster.settled(0);
    let through = (leader + 1) % 4;
    let writer_nodes: Vec<usize> = (0..4).filter(|node| *node != leader).collect();
    let writer = Writer::start(&cluster, &writer_nodes, 50);
    writes(&cluster, &writer, 50);
    let name = cluster.node_name(leader);
    cluster.weft(through, &["node", "remove", &name, "--force", "--yes"]).ok();
    let (_, after) = cluster.led_by_another(through, leader);
    measured("leader removed", &[("another leads", after)]);
    cluster.deploy(through, &hello("after", 1));
    writes(&cluster, &writer, 50);
    let written = writer.stop();
    for node in writer_nodes {
        written.assert_kept(&cluster, node);
    }
    cluster.wait_until("the removed daemon has ended", DEADLINE, |cluster| {
        cluster.daemon_pid(leader).is_none().then_some(())
    });
    let status = cluster.status(through).expect("it answers");
    assert!(!status["groups"][0].to_string().contains(&name), "{status}");
    assert_eq!(status["groups"][0]["voters"].as_array().map(Vec::len), Some(3), "{status}");
}

#[test]
fn a_drained_node_gives_away_one_replica_of_a_service_at_a_time_and_none_is_ever_without_a_copy() {
    let Some(cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let drained = (leader + 1) % 3;
    let through = (leader + 2) % 3;
    for name in ["a", "b", "c", "d", "e", "f"] {
        cluster.deploy(0, &hello(name, 1));
    }
    let name = cluster.node_name(drained);
    let mine: BTreeSet<String> = cluster
        .places(through)
        .into_iter()
        .filter(|(_, node)| *node == drained)
        .map(|((service, _), _)| service)
        .collect();
    assert!(mine.len() >= 2, "{mine:?}");

    let start = SystemClock.now();
    let done = std::thread::scope(|scope| {
        let drain = scope.spawn(|| cluster.weft(through, &["node", "drain", &name, "--json"]));
        while !drain.is_finished() {
            // Of each service one at a time.
            if let Ok(state) = state(&cluster, leader) {
                for service in &mine {
                    let moving = state
                        .placements
                        .iter()
                        .filter(|place| place.service == *service && place.previous.is_some());
                    assert!(moving.count() <= 1, "{:?}", state.placements);
                }
            }
            // The new copy runs before the old one is stopped.
            let copies = cluster.all_copies();
            for service in &mine {
                assert!(copies.get(service).is_some_and(|count| *count >= 1), "{copies:?}");
            }
        }
        drain.join().expect("it ends")
    });
    measured("drain", &[("all moved", start.elapsed())]);
    let view = done.ok().json();
    assert_eq!(view["moved"].as_array().map(Vec::len), Some(mine.len()), "{view}");
    assert!(!cluster.places(through).values().any(|node| *node == drained));
    cluster.wait_until("nothing runs there", DEADLINE, |cluster| {
        cluster.hellos(drained).is_empty().then_some(())
    });
    assert_eq!(listed(&cluster, through, drained).as_deref(), Some("draining"));
    cluster.deploy(0, &hello("elsewhere", 1));
    assert_ne!(cluster.place_of(0, "elsewhere"), Some(drained));

    cluster.weft(through, &["node", "undrain", &name]).ok();
    cluster.deploy(0, &hello("here", 1));
    assert_eq!(cluster.place_of(0, "here"), Some(drained), "it has the most room");
}
