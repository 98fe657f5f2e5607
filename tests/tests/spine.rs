//! What the spine promises, each line on three real nodes.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_tests::{Cluster, bin_dir, eventually, http_get, is_alive, kill_9};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn pid(row: &Value) -> u32 {
    row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

fn url(row: &Value) -> &str {
    text(&row["urls"][0])
}

/// The events of `hello` on a node, oldest first.
fn events(cluster: &Cluster, through: &str, node: &str) -> Vec<Value> {
    let done = cluster.weft(&["--node", through, "events", "--json"]).ok();
    done.stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("one object a line"))
        .filter(|event| event["node"] == node && event["service"] == "hello")
        .collect()
}

#[test]
fn up_prints_nodes_urls_and_context_and_every_node_lists_the_same_components() {
    let cluster = Cluster::up();
    let nodes = cluster.up["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 3);
    assert!(!text(&cluster.up["cluster"]).is_empty());
    for node in nodes {
        let (status, _) = http_get(&format!("{}/health", text(&node["gateway"]))).expect("gateway");
        assert_eq!(status, 200);
        let (status, metrics) =
            http_get(&format!("{}/metrics", text(&node["gateway"]))).expect("metrics");
        assert_eq!(status, 200);
        assert!(metrics.contains("weft_"), "{metrics}");
        let (status, why) = http_get(&format!("{}/readyz", text(&node["gateway"]))).expect("ready");
        assert_eq!(status, 200, "{why}");
        assert!(is_alive(pid(node)));
    }

    // Each URL answers with its node's name.
    let urls: Vec<&str> =
        cluster.up["services"][0]["urls"].as_array().expect("urls").iter().map(text).collect();
    assert_eq!(urls.len(), 3);
    let mut seen = BTreeSet::new();
    for url in urls {
        let (status, body) = http_get(url).expect("hello answers");
        assert_eq!(status, 200);
        for name in ["n1", "n2", "n3"] {
            if body.contains(name) {
                seen.insert(name);
            }
        }
    }
    assert_eq!(seen, BTreeSet::from(["n1", "n2", "n3"]));

    // The same three components through any node.
    let key = |row: &Value| {
        (
            text(&row["service"]).to_owned(),
            row["replica"].as_u64(),
            text(&row["node"]).to_owned(),
            pid(row),
        )
    };
    let lists: Vec<BTreeSet<_>> =
        ["n1", "n2", "n3"].iter().map(|node| cluster.ps(node).iter().map(key).collect()).collect();
    assert_eq!(lists[0].len(), 3);
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0], lists[2]);
    for row in cluster.ps("n2") {
        assert_eq!(row["state"], "running");
        assert_eq!(row["health"], "healthy");
        assert_eq!(row["revision"], 1);
        assert!(text(&row["started_at"]).ends_with('Z'));
    }

    let rows = cluster.json(&["node", "list", "--json"]);
    let states: Vec<_> = rows.as_array().expect("rows").iter().map(|r| text(&r["state"])).collect();
    assert_eq!(states, ["ready", "ready", "ready"], "{rows}");
    for field in ["name", "id", "state", "role", "address", "version", "last_seen_ms", "rtt_us"] {
        assert!(rows[0].get(field).is_some(), "{field} in {rows}");
    }
    let who = cluster.json(&["whoami", "--json"]);
    assert!(who.to_string().contains("admin"), "{who}");
}

#[test]
fn a_killed_component_runs_again_at_once_with_an_exited_and_a_running_event() {
    let cluster = Cluster::up();
    let before = cluster.running("n1", "hello", "n2");
    kill_9(pid(&before));
    let after = eventually("a new pid", || {
        let row = cluster.running("n1", "hello", "n2");
        (pid(&row) != pid(&before)).then_some(row)
    });
    assert!(!is_alive(pid(&before)));
    assert_eq!(after["restarts"], 1);
    assert_eq!(http_get(url(&after)).expect("answers").0, 200);
    assert_eq!(url(&after), url(&before), "the port is kept");

    let (exited, running) = eventually("both events", || {
        let events = events(&cluster, "n3", "n2");
        let exited = events.iter().find(|e| e["new_state"] == "exited")?.clone();
        let running = events.iter().rev().find(|e| e["new_state"] == "running")?.clone();
        (text(&running["time"]) > text(&exited["time"])).then_some((exited, running))
    });
    assert_eq!(exited["exit"], "signal 9");
    assert_eq!(exited["prev_state"], "running");
    let time = |event: &Value| weft_tests::micros(text(&event["time"]));
    let gap = time(&running) - time(&exited);
    assert!(gap < 1_000_000, "{gap} µs from exit to running");
}

#[test]
fn a_component_outlives_its_daemon_and_is_taken_over_by_the_next_one() {
    let mut cluster = Cluster::up();
    let before = cluster.running("n1", "hello", "n2");
    let daemon = cluster.daemon_pid("n2");
    kill_9(daemon);
    eventually("the daemon is gone", || (!is_alive(daemon)).then_some(()));

    // Meanwhile it answers, writes its log, and is a row, not a failure.
    assert_eq!(http_get(&format!("{}?meanwhile", slash(url(&before)))).map(|(s, _)| s), Ok(200));
    let row = eventually("n2's rows are unknown", || {
        let rows = cluster.ps("n1");
        rows.into_iter().find(|row| row["node"] == "n2" && row["state"] == "unknown")
    });
    assert_eq!(row["service"], "hello");
    let nodes = cluster.json(&["--node", "n3", "node", "list", "--json"]);
    let n2 = nodes.as_array().expect("rows").iter().find(|n| n["name"] == "n2").expect("n2");
    assert_ne!(n2["state"], "ready");

    cluster.start_daemon("n2");
    let after = cluster.running("n1", "hello", "n2");
    assert_eq!(pid(&after), pid(&before), "taken over, not started again");
    assert_ne!(cluster.daemon_pid("n2"), daemon);
    let copies = cluster.ps("n1").iter().filter(|row| row["node"] == "n2").count();
    assert_eq!(copies, 1);

    let logs = cluster.weft(&["--node", "n3", "logs", "hello", "--json"]).ok().stdout;
    assert!(logs.contains("meanwhile"), "{logs}");
    // The events from before are still there.
    assert!(events(&cluster, "n1", "n2").iter().any(|e| e["new_state"] == "running"));
}

fn slash(url: &str) -> String {
    if url.ends_with('/') { url.to_owned() } else { format!("{url}/") }
}

#[test]
fn an_exit_while_the_daemon_is_away_is_known_when_it_returns() {
    let mut cluster = Cluster::up();
    let before = cluster.running("n1", "hello", "n3");
    let daemon = cluster.daemon_pid("n3");
    kill_9(daemon);
    eventually("the daemon is gone", || (!is_alive(daemon)).then_some(()));
    kill_9(pid(&before));
    eventually("the component is gone", || (!is_alive(pid(&before))).then_some(()));
    cluster.start_daemon("n3");
    let after = eventually("it runs again", || {
        let row = cluster.running("n1", "hello", "n3");
        (pid(&row) != pid(&before)).then_some(row)
    });
    assert_eq!(http_get(url(&after)).expect("answers").0, 200);
    eventually("its exit is an event", || {
        events(&cluster, "n2", "n3")
            .iter()
            .any(|e| e["new_state"] == "exited" && e["exit"] == "signal 9")
            .then_some(())
    });
}

#[test]
fn actors_are_recreated_after_a_restart_a_panic_and_a_hang() {
    let cluster = Cluster::up();
    let before = cluster.running("n1", "hello", "n2");
    cluster.weft(&["actors", "restart", "registry@n1"]).ok();
    cluster.weft(&["--yes", "chaos", "panic", "runtime@n2"]).ok();
    cluster.weft(&["--yes", "chaos", "hang", "monitor@n3"]).ok();

    let restarted = |node: &str, path: &str| {
        eventually(&format!("{path} of {node} is back"), || {
            // Commands keep working; an ask may fail once, typed.
            let done = cluster.weft(&["--node", "n1", "actors", "--json"]);
            let rows: Value = serde_json::from_str(&done.stdout).ok()?;
            rows.as_array()?
                .iter()
                .find(|row| row["node"] == node && row["path"] == path)
                .filter(|row| row["state"] == "running" && row["restarts"].as_u64() >= Some(1))
                .cloned()
        })
    };
    restarted("n1", "registry");
    let runtime = restarted("n2", "runtime");
    assert!(text(&runtime["last_failure"]).contains("panic"), "{runtime}");
    let monitor = restarted("n3", "monitor");
    assert!(
        text(&monitor["last_failure"]).contains("silent")
            || text(&monitor["last_failure"]).contains("hung"),
        "{monitor}"
    );

    let after = cluster.running("n3", "hello", "n2");
    assert_eq!(pid(&after), pid(&before), "the component did not notice");
    cluster.weft(&["--node", "n2", "status"]).ok();
    cluster.weft(&["--node", "n3", "events", "--json"]).ok();
}

#[test]
fn a_removed_node_is_cut_off_and_stays_out() {
    let cluster = Cluster::up();
    let refused = cluster.weft(&["node", "remove", "n3", "--yes"]);
    assert_ne!(refused.code, 0, "replicas are placed there: {refused:?}");
    let others = ["n1", "n2"].map(|node| {
        let row = cluster.running("n1", "hello", node);
        (node, pid(&row), cluster.daemon_pid(node))
    });
    let gone = cluster.running("n1", "hello", "n3");
    let (component, daemon) = (pid(&gone), cluster.daemon_pid("n3"));
    let data = cluster.data_dir("n3");
    cluster.weft(&["node", "remove", "n3", "--force", "--yes"]).ok();

    let list = cluster.json(&["node", "list", "--json"]);
    assert!(!list.to_string().contains("\"n3\""), "{list}");
    // It stops what it ran, in an orderly way, says why, and ends.
    eventually("n3's component is gone", || (!is_alive(component)).then_some(()));
    eventually("n3's daemon is gone", || (!is_alive(daemon)).then_some(()));
    assert!(http_get(url(&gone)).is_err(), "nobody answers there any more");
    let log = cluster.log("n3");
    let line = log.lines().find(|line| line.contains("was removed from the cluster, and its id"));
    let line = line.unwrap_or_else(|| panic!("nothing of it in {log}"));
    assert!(line.contains("ERROR") && line.contains("weft join"), "{line}");
    // Everything stays on disk: its log, its databases, and how its component ended.
    assert!(data.join("logs/hello").is_dir() && data.join("state.db").is_file());
    let mark = || std::fs::read_to_string(data.join("removed.json")).expect("removed.json");
    let noted: Value = serde_json::from_str(&mark()).expect("JSON");
    assert!(noted["how"].as_str().is_some_and(|how| !how.is_empty()), "{noted}");

    // Started again, it refuses to, with a code that a service manager can tell from a crash.
    let done = weft_tests::ends(&mut cluster.weftd("n3"));
    assert_eq!(done.code, 4, "{done:?}");
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(said.contains("removed from the cluster") && said.contains("weft join"), "{said}");
    // It does not depend on the note: told anew, by nodes that prove who they are, it ends again.
    std::fs::remove_file(data.join("removed.json")).expect("removes");
    let done = weft_tests::ends(&mut cluster.weftd("n3"));
    assert_eq!(done.code, 4, "{done:?}");
    assert!(mark().contains("how"));
    let list = cluster.json(&["node", "list", "--json"]);
    assert!(!list.to_string().contains("\"n3\""), "{list}");

    // The others noticed nothing: same daemons, same components, and the name can be used again.
    for (node, component, daemon) in others {
        assert_eq!(cluster.daemon_pid(node), daemon);
        assert!(is_alive(daemon) && is_alive(component), "{node}");
        assert_eq!(pid(&cluster.running("n1", "hello", node)), component);
    }
    cluster.json(&["node", "token", "--json"]);
}

#[test]
fn a_node_that_only_lost_its_network_stays() {
    // n1 holds everything that could say otherwise; without it n2 is alone, not removed.
    let mut cluster = Cluster::with(&["--nodes", "2"]);
    let row = cluster.running("n1", "hello", "n2");
    let daemon = cluster.daemon_pid("n2");
    cluster.kill_daemon("n1");
    cluster.node_is("n2", "n1", "lost");
    assert!(is_alive(daemon) && is_alive(pid(&row)));
    assert!(!cluster.data_dir("n2").join("removed.json").exists());
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n2", "ready");
    assert_eq!(pid(&cluster.running("n1", "hello", "n2")), pid(&row));
}

#[test]
fn events_and_logs_can_be_cut_at_a_time() {
    let cluster = Cluster::with(&["--nodes", "2"]);
    let row = cluster.running("n1", "hello", "n2");
    let ask = |path: &str| http_get(&format!("{}{path}", slash(url(&row)))).expect("answers");
    ask("?early");
    let logs = |since: Option<&str>| {
        let mut args = vec!["--node", "n1", "logs", "hello", "--json"];
        args.extend(since.into_iter().flat_map(|since| ["--since", since]));
        cluster.weft(&args).ok().stdout
    };
    eventually("the early line is logged", || logs(None).contains("early").then_some(()));
    let all = cluster.weft(&["events", "--json"]).ok().stdout;
    assert!(all.contains("\"running\""), "{all}");

    let cut = weft_protocol::format_time(weft_wire::Clock::wall(&weft_wire::SystemClock));
    ask("?late");
    kill_9(pid(&row));
    eventually("the late line is logged", || logs(Some(&cut)).contains("late").then_some(()));
    assert!(!logs(Some(&cut)).contains("early"), "{}", logs(Some(&cut)));
    assert!(logs(Some("10m")).contains("early"), "an age is a time, too");

    let later = eventually("the exit and the new start are events", || {
        let text = cluster.weft(&["events", "--since", &cut, "--json"]).ok().stdout;
        let events: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let new = |state: &str| events.iter().any(|event| event["new_state"] == state);
        (new("exited") && new("running")).then_some(events)
    });
    for event in later {
        assert!(text(&event["time"]) >= cut.as_str(), "{event} is before {cut}");
        assert_eq!(event["node"], "n2");
        for field in
            ["time", "node", "service", "component", "replica", "prev_state", "new_state", "cause"]
        {
            assert!(event.get(field).is_some(), "{field} in {event}");
        }
    }
}

#[test]
fn metrics_tell_of_actors_components_links_and_the_host() {
    let cluster = Cluster::with(&["--nodes", "2"]);
    let row = cluster.running("n1", "hello", "n2");
    kill_9(pid(&row));
    let read = || {
        let url = format!("{}/metrics", text(&cluster.node("n2")["gateway"]));
        http_get(&url).map(|(_, body)| body).unwrap_or_default()
    };
    let wanted = [
        "weft_build_info{version=",
        "weft_actor_state{actor=\"registry\",state=\"running\"} 1",
        "weft_actor_state{actor=\"runtime/hello/2/hello\",state=\"running\"} 1",
        "weft_actor_mailbox_capacity{actor=\"gateway\"} ",
        "weft_components{state=\"running\"} 1",
        "weft_component_up{",
        "weft_component_restarts_total{",
        "weft_nodes{state=\"ready\"} 2",
        "weft_peer_up{peer=\"n1\"} 1",
        "weft_peer_rtt_seconds{peer=\"n1\"} ",
        "weft_asks_in_flight{peer=\"n1\"} ",
        "weft_requests_total{message=",
        "weft_refused_total ",
        "weft_dead_letters_total ",
        "weft_state_index ",
        "weft_host_memory_bytes ",
        "weft_daemon_uptime_seconds ",
    ];
    let body = eventually("the restart is counted", || {
        let body = read();
        let counted = body
            .lines()
            .any(|l| l.starts_with("weft_component_restarts_total{") && l.ends_with(" 1"));
        let complete = wanted.iter().all(|part| body.contains(part));
        (counted && complete).then_some(body)
    });
    let reference = include_str!("../../docs/reference.md");
    for name in body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(reference.contains(&format!("`{name}`")), "{name} is not in the reference");
    }
    // Prometheus text: comments, or a sample that ends in a number.
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn down_leaves_nothing_behind() {
    let cluster = Cluster::up();
    let pids = cluster.pids();
    assert!(pids.len() >= 9, "three daemons, shims and components: {pids:?}");
    cluster.command(&["down", "--yes", "--dir"]).arg(cluster.dir()).status().expect("runs");
    for pid in pids {
        assert!(!is_alive(pid), "{pid} is still there");
    }
}

#[test]
fn when_a_node_begins_what_others_depend_on_is_healthy_first() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let hello = bin_dir().join("hello");
    let db = format!(
        "name = \"db\"\n[[components]]\nname = \"db\"\n\
         cmd = [\"sh\", \"-c\", \"sleep 1; exec {}\"]\n\
         [components.health]\nkind = \"http\"\npath = \"/health\"\ninterval = \"200ms\"\n\
         start_period = \"30s\"\n[[components.routes]]\nport = 443\n",
        hello.display()
    );
    cluster.weft(&["deploy", "-f", &cluster.definition("db", &db)]).ok();
    // More of them than may begin at once, and all before it in the alphabet.
    let all = ["a1", "a2", "a3", "a4", "a5", "db"];
    for name in &all[..5] {
        let text = format!(
            "name = \"{name}\"\ndepends_on = [\"db\"]\n\
             [[components]]\nname = \"web\"\ncmd = [\"sleep\", \"1000\"]\n"
        );
        cluster.weft(&["deploy", "-f", &cluster.definition(name, &text)]).ok();
    }
    let before = all.map(|name| pid(&cluster.running("n1", name, "n1")));
    cluster.kill_daemon("n1");
    before.iter().copied().for_each(kill_9);
    for pid in before {
        eventually("it is gone", || (!is_alive(pid)).then_some(()));
    }
    cluster.start_daemon("n1");
    eventually("they wait for it", || {
        let rows = cluster.ps("n1");
        let web = rows.iter().find(|row| row["service"] == "a5")?;
        text(&web["reason"]).contains("until service db is healthy").then_some(())
    });
    for (name, before) in all.into_iter().zip(before) {
        assert_ne!(pid(&cluster.running("n1", name, "n1")), before);
    }
    let last = |service: &str| {
        let done = cluster.weft(&["events", service, "--json"]).ok().stdout;
        let all = done.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object"));
        let running = all.filter(|event| event["new_state"] == "running");
        running.map(|event| text(&event["time"]).to_owned()).max().expect("it runs")
    };
    for name in &all[..5] {
        assert!(last("db") < last(name), "{} {name} {}", last("db"), last(name));
    }
}
