//! Every change of membership, leadership and place is an event, once, with its cause, and is
//! there for whoever asks any other node; and what was asked for is an operation that every node
//! knows and that the loss of its owner does not end.

use serde_json::Value;
use weft_tests::DEADLINE;
use weft_tests::nodes::{NetCluster, hello, hello_on};

/// Events as a node tells them.
fn events(cluster: &NetCluster, through: usize) -> Vec<Value> {
    let done = cluster.weft(through, &["events", "--json"]);
    done.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}

/// Events of a kind, about a node or a service.
fn of<'a>(all: &'a [Value], kind: &str, about: &str) -> Vec<&'a Value> {
    let about = |event: &&Value| [text(event, "node"), text(event, "service")].contains(&about);
    all.iter().filter(|event| text(event, "kind") == kind).filter(about).collect()
}

/// Waits until a node tells an event of a kind that is as it shall be, and gives it. It is told
/// once, and in the order of time.
#[track_caller]
fn told(
    cluster: &NetCluster,
    through: usize,
    what: &str,
    kind: &str,
    good: impl Fn(&Value) -> bool,
) -> Value {
    let (event, _) = cluster.wait_until(what, DEADLINE, |cluster| {
        let all = events(cluster, through);
        let times: Vec<&str> = all.iter().map(|event| text(event, "time")).collect();
        assert!(times.is_sorted(), "{times:?}");
        let found: Vec<&Value> =
            all.iter().filter(|event| text(event, "kind") == kind && good(event)).collect();
        assert!(found.len() <= 1, "{what}, once: {found:#?}");
        found.first().map(|event| (*event).clone())
    });
    assert!(!text(&event, "cause").is_empty(), "{event}");
    eprintln!("told: {event}");
    event
}

/// Operations as a node lists them.
fn operations(cluster: &NetCluster, through: usize) -> Vec<Value> {
    let done = cluster.weft(through, &["operations", "--json"]);
    let list: Option<Value> = serde_json::from_str(&done.stdout).ok();
    list.and_then(|list| list.as_array().cloned()).unwrap_or_default()
}

#[test]
fn a_node_that_is_cut_off_and_comes_back_is_told_once_with_what_was_moved_and_why() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let cut = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    let name = cluster.node_name(cut);
    cluster.deploy(leader, &hello("web", 3));
    for node in 0..3 {
        let joined = of(&events(&cluster, other), "node", &cluster.node_name(node)).len();
        assert_eq!(joined, 1, "joined, and nothing else");
    }

    cluster.net.cut(cut);
    // Read from a node that neither leads nor is cut off.
    let lost = told(&cluster, other, "its loss", "node", |event| {
        text(event, "node") == name && text(event, "to") == "lost"
    });
    assert!(text(&lost, "cause").contains("its host does not answer"), "{lost}");
    assert_eq!(text(&lost, "observer"), cluster.node_name(leader));
    let moved = told(&cluster, other, "a move", "placement", |event| {
        text(event, "service") == "web" && event["from"] == name.as_str()
    });
    assert!(text(&moved, "cause").contains(&name), "{moved}");

    cluster.net.heal(cut);
    let back = told(&cluster, other, "its return", "node", |event| {
        text(event, "node") == name && text(event, "to") == "back"
    });
    assert!(text(&back, "cause").starts_with("answers again after"), "{back}");
    // The one that was away has what was agreed meanwhile, and is told the rest.
    told(&cluster, cut, "its own loss", "node", |event| text(event, "to") == "lost");
    told(&cluster, cut, "the move", "placement", |event| event["from"] == name.as_str());
}

#[test]
fn a_leader_that_is_killed_is_told_by_the_next_one_and_a_planned_stop_with_its_length() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let name = cluster.node_name(leader);
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    cluster.kill(leader);
    let (next, _) = cluster.led_by_another(others[0], leader);
    let reader = *others.iter().find(|node| **node != next).expect("a third");
    let led = told(&cluster, reader, "another leads", "leader", |event| {
        event["to"] == cluster.node_name(next).as_str()
    });
    assert_eq!(led["from"], name.as_str());
    assert!(text(&led, "cause").contains(&name) && led["term"].as_u64() > Some(0), "{led}");
    let down = told(&cluster, reader, "its daemon is down", "node", |event| {
        text(event, "node") == name && text(event, "to") == "daemon-down"
    });
    assert!(text(&down, "cause").contains("its host answers"), "{down}");
    cluster.restart(leader);
    told(&cluster, reader, "it is back", "node", |event| {
        text(event, "node") == name && text(event, "to") == "back"
    });

    // Stopped on purpose: neither a loss nor a daemon that is down.
    cluster.stop(reader);
    let stopped = cluster.node_name(reader);
    let away = told(&cluster, next, "a planned stop", "node", |event| {
        text(event, "node") == stopped && text(event, "to") == "away"
    });
    assert!(text(&away, "cause").contains("back within 60 s"), "{away}");
    let all = of(&events(&cluster, next), "node", &stopped).len();
    assert_eq!(all, 2, "joined and away");
}

#[test]
fn a_drain_is_told_and_is_an_operation_that_every_node_knows_to_its_end() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let node = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    let name = cluster.node_name(node);
    let voters =
        told(&cluster, other, "three vote", "voters", |event| text(event, "to") == "n1,n2,n3");
    assert!(text(&voters, "cause").contains("3 of 3 nodes vote"), "{voters}");

    cluster.deploy(leader, &hello("web", 2));
    cluster.deploy(leader, &hello_on("bound", &name));
    let deploys: Vec<u64> = operations(&cluster, other)
        .iter()
        .filter(|row| row["kind"] == "deploy")
        .filter_map(|row| row["id"].as_u64())
        .collect();
    assert_eq!(deploys.len(), 2);
    for id in deploys {
        cluster.weft(node, &["operations", &id.to_string()]).ok();
    }

    let done = cluster.weft(other, &["node", "drain", &name, "--no-wait", "--json"]).ok().json();
    let id = done["operation"].as_u64().expect("an operation").to_string();
    // It cannot all be moved: what is bound to the node stays.
    let watched = cluster.weft(node, &["operations", &id, "--json"]);
    assert_eq!(watched.code, 1, "{watched:?}");
    let row: Value = serde_json::from_str(watched.stdout.trim()).expect("JSON");
    assert_eq!((text(&row, "kind"), text(&row, "outcome")), ("drain", "partial"), "{row}");
    assert!(text(&row, "detail").contains("bound/1 stays"), "{row}");
    assert_eq!(row["node"], name.as_str());
    let drained =
        told(&cluster, other, "the drain", "node", |event| text(event, "to") == "draining");
    assert_eq!(text(&drained, "node"), name);
    assert!(text(&drained, "cause").starts_with("drained by "), "{drained}");
    cluster.weft(other, &["node", "undrain", &name]).ok();
    told(&cluster, node, "the undrain", "node", |event| text(event, "to") == "undrained");

    // The owner dies while it goes on: the next leader sees it to its end.
    // Nothing listens where it is probed.
    let placed = format!(
        "name = \"slow\"\nnode = \"{name}\"\n\n[[components]]\nname = \"slow\"\n\
         cmd = [\"/bin/sleep\", \"3600\"]\n\n[components.health]\nkind = \"tcp\"\n\
         interval = \"1s\"\nstart_period = \"5m\"\n\n[[components.routes]]\nport = 443\n"
    );
    cluster.try_deploy(other, &placed, &["--no-wait"]).ok();
    let slow = |cluster: &NetCluster| {
        let rows = operations(cluster, other);
        rows.into_iter().find(|row| row["service"] == "slow").expect("it is kept")
    };
    assert!(slow(&cluster)["outcome"].is_null());
    assert_eq!(slow(&cluster)["owner"], cluster.node_name(leader).as_str());
    cluster.kill(leader);
    let (next, _) = cluster.led_by_another(other, leader);
    let next = cluster.node_name(next);
    cluster.wait_until("the next leader owns it", DEADLINE, |cluster| {
        (slow(cluster)["owner"] == next.as_str()).then_some(())
    });
    assert!(slow(&cluster)["outcome"].is_null(), "it goes on");
    cluster.try_deploy(other, &hello_on("slow", &name), &["--no-wait"]).ok();
    let rows = operations(&cluster, other);
    let ids: Vec<&Value> = rows.iter().filter(|row| row["service"] == "slow").collect();
    assert_eq!((ids.len(), text(ids[0], "outcome")), (2, "superseded"), "{ids:?}");
    let last = ids[1]["id"].as_u64().expect("an id").to_string();
    cluster.weft(node, &["operations", &last]).ok();
}
