//! What a node runs follows what it owns: over drains, lost and returned nodes, daemons that start
//! while they are cut off, and removed nodes. Times that are measured are printed (`measured: …`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use weft_tests::nodes::{NetCluster, hello, hello_on};
use weft_tests::{DEADLINE, is_alive};
use weft_wire::{Clock, SystemClock};

/// `/readyz` of a node: its code and body.
fn readyz(cluster: &NetCluster, node: usize) -> Option<(u16, String)> {
    cluster.curl(node, "http://127.0.0.1:9765/readyz").ok()
}

/// A definition of [`hello`] with more lines at the end of its component's table and after it.
fn with_health(definition: &str) -> String {
    format!(
        "{definition}\n[components.health]\nkind = \"http\"\npath = \"/health\"\ninterval = \"200ms\"\n"
    )
}

/// Where a service answers now, by a node whose daemon is asked.
fn urls(cluster: &NetCluster, through: usize, service: &str) -> Vec<(usize, String)> {
    let url = |row: &Value| {
        let node = cluster.node_number(row["node"].as_str()?);
        Some((node, row["urls"].as_array()?.first()?.as_str()?.to_owned()))
    };
    let rows = cluster.ps_json(through);
    rows.iter().filter(|row| row["service"] == service).filter_map(url).collect()
}

fn answers(cluster: &NetCluster, (node, url): &(usize, String)) -> bool {
    cluster.curl(*node, &format!("{url}/")).is_ok_and(|(status, _)| status == 200)
}

/// Waits until `web` is another node's by agreement: what was started there is healthy, so the
/// node it was on does not get it back when it returns.
fn runs_elsewhere(cluster: &NetCluster, through: usize, cut: usize) {
    cluster.wait_until("it runs elsewhere and that is agreed", DEADLINE, |cluster| {
        let state = weft_tests::writer::state(cluster, through).ok()?;
        let place = state.placements.iter().find(|place| place.service == "web")?;
        let name = &state.node(&place.node.to_string())?.name;
        (place.previous.is_none() && cluster.node_number(name) != cut).then_some(())
    });
}

/// Three nodes, a service on one that does not lead; cluster, leader, its node, and a third one.
fn placed(definition: &str) -> Option<(NetCluster, usize, usize, usize)> {
    let cluster = NetCluster::start(3)?;
    let leader = cluster.settled(0);
    // The leader is full, as it were: what fits goes elsewhere.
    let name = cluster.node_name(leader);
    cluster.deploy(leader, &hello_on("ballast", &name));
    cluster.deploy(leader, definition);
    let on = cluster.place_of(leader, "web").expect("a place");
    assert_ne!(on, leader, "the leader has most");
    Some((cluster, leader, on, 3 - leader - on))
}

#[test]
fn while_a_node_is_drained_every_request_to_its_service_is_answered_by_one_copy_or_the_other() {
    let Some((cluster, leader, drained, _)) = placed(&with_health(&hello("web", 1))) else {
        return;
    };
    let name = cluster.node_name(drained);
    let known = urls(&cluster, leader, "web");
    assert_eq!(known.len(), 1, "{known:?}");
    let over = AtomicBool::new(false);
    let (asked, both) = std::thread::scope(|scope| {
        let poll = scope.spawn(|| {
            let (mut known, mut asked, mut both) = (known, 0u32, false);
            while !over.load(Ordering::Relaxed) {
                let mut good = known.iter().any(|place| answers(&cluster, place));
                if !good {
                    // It may have moved since it was last asked where it is.
                    known = urls(&cluster, leader, "web");
                    good = known.iter().any(|place| answers(&cluster, place));
                }
                assert!(good, "nobody answers at {known:?}");
                asked += 1;
                both |= cluster.all_copies().get("web") == Some(&2);
            }
            (asked, both)
        });
        let done = cluster.weft(leader, &["node", "drain", &name, "--json"]);
        over.store(true, Ordering::Relaxed);
        let polled = poll.join().expect("every request was answered");
        assert_eq!(done.ok().json()["moved"].as_array().map(Vec::len), Some(1));
        polled
    });
    eprintln!("measured: drain: {asked} requests answered, two copies at a time seen: {both}");
    assert!(asked > 0);
    cluster.runs_exactly(&[("ballast", 1), ("web", 1)]);
    assert_ne!(cluster.place_of(leader, "web"), Some(drained));
}

#[test]
fn when_the_replacement_of_a_drained_replica_does_not_become_healthy_the_old_copy_stays_and_status_says_why()
 {
    // Whoever starts it second fails its probe: the first one holds the lock.
    let lock = tempfile::NamedTempFile::new().expect("a file");
    let program = hello("web", 1);
    let hello = program
        .lines()
        .find_map(|line| line.strip_prefix("cmd = [\"")?.strip_suffix("\"]"))
        .expect("its program")
        .to_owned();
    let script = format!("exec 9>{}; flock -n 9 || exit 3; exec {hello}", lock.path().display());
    let definition =
        program.replace(&format!("[\"{hello}\"]"), &format!("[\"/bin/sh\", \"-c\", \"{script}\"]"));
    let Some((cluster, leader, drained, _)) = placed(&with_health(&definition)) else { return };
    let before = cluster.copies(drained, "web");
    assert_eq!(before.len(), 1);
    let name = cluster.node_name(drained);
    cluster.weft(leader, &["node", "drain", &name, "--no-wait"]).ok();
    cluster.wait_until("status says what the move waits for", DEADLINE, |cluster| {
        let status = cluster.weft(leader, &["status"]).stdout;
        (status.contains("moves from") && status.contains("until it is healthy")).then_some(())
    });
    cluster.wait_until("the replacement has failed", DEADLINE, |cluster| {
        let rows = cluster.ps_json(leader);
        let failed = |row: &Value| row["service"] == "web" && row["state"] == "failed";
        assert_eq!(cluster.copies(drained, "web"), before, "the old copy stays");
        rows.iter().any(failed).then_some(())
    });
    let row = cluster.running(leader, "web", drained);
    assert!(row["reason"].as_str().is_some_and(|why| why.contains("kept here")), "{row}");
}

#[test]
fn a_node_that_returns_stops_what_was_moved_away_before_it_reports_ready() {
    // It takes its time to stop.
    let slow = hello("web", 1).replace("stop_grace = \"2s\"", "stop_grace = \"3s\"").replace(
        "[[components.routes]]",
        "env = [\"HELLO_IGNORE_TERM=1\"]\n\n[[components.routes]]",
    );
    let Some((mut cluster, leader, cut, _)) = placed(&slow) else { return };
    let old = cluster.copies(cut, "web");
    cluster.net.cut(cut);
    runs_elsewhere(&cluster, leader, cut);
    assert_eq!(cluster.copies(cut, "web"), old, "a minority runs what it runs");
    cluster.wait_until("the cut node says that it is not ready", DEADLINE, |cluster| {
        readyz(cluster, cut).is_some_and(|(code, _)| code == 503).then_some(())
    });
    cluster.net.heal(cut);
    let mut said = String::new();
    cluster.wait_until("it is ready again", DEADLINE, |cluster| {
        let (code, body) = readyz(cluster, cut)?;
        if code != 200 {
            said = body;
            return None;
        }
        assert!(!is_alive(old[0]), "ready, and the stale copy still runs; said before: {said}");
        Some(())
    });
    assert!(said.contains("not this node's any more"), "{said}");
    cluster.node_is(leader, cut, &["ready"]);
    cluster.runs_exactly(&[("ballast", 1), ("web", 1)]);
}

#[test]
fn a_node_that_returns_before_the_replacement_is_healthy_keeps_its_own_copy() {
    let slow = hello("web", 1).replace(
        "[[components.routes]]",
        "env = [\"HELLO_START_DELAY_MS=12000\"]\n\n[[components.routes]]",
    );
    let slow = format!("{}start_period = \"60s\"\n", with_health(&slow));
    let Some((mut cluster, leader, cut, _)) = placed(&slow) else { return };
    let own = cluster.copies(cut, "web");
    cluster.net.cut(cut);
    let (other, moved) = cluster.wait_until("it is started elsewhere", DEADLINE, |cluster| {
        (0..3).find(|node| *node != cut && !cluster.copies(*node, "web").is_empty())
    });
    cluster.net.heal(cut);
    let (_, kept) = cluster.wait_until("the replacement is cancelled", DEADLINE, |cluster| {
        assert_eq!(cluster.copies(cut, "web"), own, "the original is not touched");
        let back = cluster.place_of(leader, "web") == Some(cut);
        (back && cluster.copies(other, "web").is_empty()).then_some(())
    });
    eprintln!(
        "measured: returned in time: replacement started after {} ms, cancelled {} ms after the return",
        moved.as_millis(),
        kept.as_millis()
    );
    cluster.node_is(leader, cut, &["ready"]);
    cluster.runs_exactly(&[("ballast", 1), ("web", 1)]);
    assert_eq!(cluster.copies(cut, "web"), own);
}

#[test]
fn a_daemon_that_starts_while_it_is_cut_off_takes_over_what_runs_and_starts_nothing_else() {
    let Some((mut cluster, leader, cut, _)) = placed(&hello("web", 1)) else { return };
    cluster.deploy(leader, &hello_on("bound", &cluster.node_name(cut)));
    cluster.deploy(leader, &hello_on("runs", &cluster.node_name(cut)));
    let runs = cluster.copies(cut, "runs");
    // Its daemon dies, and so do two of its components; then its link is cut.
    cluster.kill(cut);
    let shims = |cluster: &NetCluster, service: &str| {
        let copies = cluster.copies(cut, service);
        let parent = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
        };
        (copies[0], parent(copies[0]).expect("its shim"))
    };
    for service in ["web", "bound"] {
        let (pid, shim) = shims(&cluster, service);
        weft_tests::kill_9(shim);
        if is_alive(pid) {
            weft_tests::kill_9(pid);
        }
    }
    cluster.net.cut(cut);
    cluster.start_daemon(cut);
    let (_, moved) = cluster.wait_until("web runs elsewhere", DEADLINE, |cluster| {
        assert!(cluster.copies(cut, "web").is_empty(), "started while it was cut off");
        let survivors = (0..3).filter(|node| *node != cut);
        survivors.into_iter().any(|node| !cluster.copies(node, "web").is_empty()).then_some(())
    });
    eprintln!("measured: cut-off start: web elsewhere after {} ms", moved.as_millis());
    cluster.wait_until("the cut node says why it starts nothing", DEADLINE, |cluster| {
        assert!(cluster.copies(cut, "web").is_empty(), "started while it was cut off");
        assert!(cluster.copies(cut, "bound").is_empty(), "started while it was cut off");
        let rows = cluster.ps_json(cut);
        let held = |row: &&Value| row["reason"].as_str().is_some_and(|w| w.contains("not started"));
        (rows.iter().filter(held).count() == 2).then_some(())
    });
    let (code, body) = readyz(&cluster, cut).expect("it answers");
    assert!(code == 503 && body.contains("since this daemon started"), "{code} {body}");
    assert_eq!(cluster.copies(cut, "runs"), runs, "taken over");
    // What it runs it also heals.
    weft_tests::kill_9(runs[0]);
    cluster.wait_until("it runs again, cut off or not", DEADLINE, |cluster| {
        let now = cluster.copies(cut, "runs");
        (now.len() == 1 && now != runs).then_some(())
    });
    runs_elsewhere(&cluster, leader, cut);
    cluster.net.heal(cut);
    cluster.wait_until("every node is ready", DEADLINE, |cluster| {
        let states = cluster.states(leader);
        assert!(cluster.all_copies().get("web").is_none_or(|count| *count <= 1), "{states:?}");
        (states.len() == 3 && states.iter().all(|(_, state)| state == "ready")).then_some(())
    });
    cluster.runs_exactly(&[("ballast", 1), ("bound", 1), ("runs", 1), ("web", 1)]);
}

#[test]
fn the_data_of_a_removed_node_is_not_replaced_by_an_empty_copy_until_somebody_says_so() {
    let data = tempfile::tempdir().expect("a directory");
    let keeps = hello("web", 1).replace(
        "stop_grace",
        &format!("volumes = [\"{}:/data\"]\nstop_grace", data.path().display()),
    );
    let Some((mut cluster, leader, gone, _)) = placed(&keeps) else { return };
    let name = cluster.node_name(gone);
    cluster.crash(gone);
    cluster.node_is(leader, gone, &["lost"]);
    cluster.weft(leader, &["node", "remove", &name, "--force", "--yes"]).ok();
    let says = format!("its data was on {name}, which was removed");
    cluster.wait_until("status says what it waits for", DEADLINE, |cluster| {
        cluster.weft(leader, &["status"]).stdout.contains(&says).then_some(())
    });
    // The placer has decided meanwhile, and again for this one.
    cluster.deploy(leader, &hello("after", 1));
    assert!(!cluster.all_copies().contains_key("web"), "{:?}", cluster.all_copies());
    cluster.weft(leader, &["undeploy", "web", "--yes"]).ok();
    let start = SystemClock.now();
    cluster.deploy(leader, &keeps);
    assert!(start.elapsed() < Duration::from_secs(60));
    cluster.runs_exactly(&[("after", 1), ("ballast", 1), ("web", 1)]);
}
