//! Alerts as an operator and the program that is told of them see them (orchestration §12).

use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options};
use weft_tests::{Cluster, DEADLINE, Done, bin_dir, eventually, kill_9, micros, with_environment};
use weft_wire::{Clock, SystemClock};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn lines(done: &Done) -> Vec<Value> {
    done.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn alerts(cluster: &Cluster) -> Vec<Value> {
    lines(&cluster.weft(&["alerts", "--json"]))
}

fn of<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|alert| text(alert, "type") == kind).collect()
}

/// One node whose `[monitor]` is this.
fn cluster(monitor: &str) -> Cluster {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    configure(&mut cluster, &format!("[monitor]\n{monitor}\n"));
    cluster
}

/// Starts the daemon again with more in its file.
fn configure(cluster: &mut Cluster, more: &str) {
    let file = cluster.data_dir("n1").join("node.toml");
    let node = std::fs::read_to_string(&file).expect("the node file");
    std::fs::write(&file, format!("{node}\n{more}")).expect("writes");
    restart(cluster);
}

fn restart(cluster: &mut Cluster) {
    cluster.kill_daemon("n1");
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
}

/// A service of one program.
fn service(name: &str, component: &str) -> String {
    format!(
        "name = \"{name}\"\n\n[[components]]\nname = \"api\"\ncmd = [\"{}\"]\nstop_grace = \"2s\"\n\
         {component}\n\n[[components.routes]]\nport = 443\n",
        bin_dir().join("hello").display()
    )
}

fn deploy(cluster: &Cluster, name: &str, component: &str) {
    let file = cluster.definition(name, &service(name, component));
    cluster.weft(&["deploy", "-f", &file]).ok();
}

/// Kills what runs of a service.
fn kill(cluster: &Cluster, name: &str) -> u64 {
    let pid = cluster.running("n1", name, "n1")["pid"].as_u64().expect("a pid");
    kill_9(u32::try_from(pid).expect("a pid"));
    pid
}

/// Kills it, and waits until it runs again.
fn kill_and_wait(cluster: &Cluster, name: &str) {
    let pid = kill(cluster, name);
    eventually("it runs again", || {
        let row = cluster.running("n1", name, "n1");
        (row["pid"].as_u64() != Some(pid)).then_some(())
    });
}

/// A command that writes its environment into a file of its own, named by the alert.
fn told(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "alert_command = [\"/bin/sh\", \"-c\", \"env -0 >{dir}/new.$WEFT_ALERT_ID; \
         mv {dir}/new.$WEFT_ALERT_ID {dir}/env.$WEFT_ALERT_ID; echo told; exit 3\"]"
    )
}

fn env(dir: &Path, alert: &Value) -> PathBuf {
    dir.join(format!("env.{}", text(alert, "id")))
}

/// How many alerts the command was told of.
fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).expect("the directory").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("env.")).count()
}

#[test]
fn a_kill_alerts_with_every_variable_and_further_kills_in_the_cooldown_only_as_flapping() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = cluster(&format!("{}\nalert_after = \"0s\"", told(dir.path())));
    deploy(&cluster, "web", "");
    assert!(alerts(&cluster).is_empty(), "a deploy is no drift");
    kill_and_wait(&cluster, "web");
    let drift = eventually("the alert's command has ended", || {
        let all = alerts(&cluster);
        all.first().filter(|alert| !alert["exit"].is_null()).cloned()
    });
    for (key, expected) in [
        ("node", "n1"),
        ("service", "web"),
        ("component", "api"),
        ("type", "drift"),
        ("desired", "running"),
        ("observed", "exited"),
        ("prev_state", "running"),
        ("state", "fired"),
        ("output", "told\n"),
    ] {
        assert_eq!(text(&drift, key), expected, "{drift}");
    }
    assert!(drift["exit"] == 3 && text(&drift, "reason").contains("signal 9"), "{drift}");
    let given = std::fs::read_to_string(env(dir.path(), &drift)).expect("the command was run");
    for prefix in ["MCP", "WEFT"] {
        for pair in [
            "COMPONENT=api",
            "SERVICE=web",
            "NODE=n1",
            "DESIRED=running",
            "OBSERVED=exited",
            "PREV_STATE=running",
            "ALERT_TYPE=drift",
            "TRANSITIONS=0",
        ] {
            let pair = format!("{prefix}_{pair}");
            assert!(given.split('\0').any(|line| line == pair), "{pair} in {given:?}");
        }
    }

    kill_and_wait(&cluster, "web");
    kill_and_wait(&cluster, "web");
    let all = eventually("all three kills are told of", || {
        let all = alerts(&cluster);
        (of(&all, "drift").len() == 3 && of(&all, "flapping").len() == 1).then_some(all)
    });
    let states: Vec<&str> = of(&all, "drift").iter().map(|alert| text(alert, "state")).collect();
    assert_eq!(states, ["fired", "suppressed", "suppressed"]);
    let flapping = of(&all, "flapping")[0];
    assert_eq!((text(flapping, "state"), &flapping["transitions"]), ("fired", &3.into()));
    eventually("both were told", || (files(dir.path()) == 2).then_some(()));
    let given = std::fs::read_to_string(env(dir.path(), flapping)).expect("it was run");
    assert!(given.contains("MCP_ALERT_TYPE=flapping\0"), "{given:?}");
    assert!(given.contains("MCP_TRANSITIONS=3\0"), "{given:?}");

    // What an operator sees.
    let table = cluster.weft(&["alerts", "web"]).ok().stdout;
    let header = "TIME  NODE  SERVICE  COMPONENT  TYPE  DESIRED  OBSERVED  STATE  EXIT  REASON";
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(table.lines().next().expect("a header")), words(header));
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(cluster.weft(&["alerts", "other"]).ok().stdout.is_empty());
    assert!(cluster.weft(&["alerts", "--since", "0s"]).ok().stdout.is_empty());
    let status = cluster.json(&["status", "--json"]);
    assert_eq!(status["alerts"].as_array().map(Vec::len), Some(4));
    assert_eq!(files(dir.path()), 2, "suppressed ones are not executed");
}

#[test]
fn a_kill_that_is_mended_at_once_alerts_nobody_and_one_that_stays_down_alerts_once() {
    let mut cluster = cluster("alert_after = \"1s\"");
    deploy(&cluster, "web", "");
    kill_and_wait(&cluster, "web");
    deploy(&cluster, "once", "restart = \"no\"");
    kill(&cluster, "once");
    let alert = eventually("what stays down is told of", || alerts(&cluster).first().cloned());
    assert_eq!((text(&alert, "service"), text(&alert, "type")), ("once", "drift"), "{alert}");
    let events = lines(&cluster.weft(&["events", "once", "--json"]));
    let ended = events.iter().find(|event| event["new_state"] == "exited").expect("it ended");
    let after = micros(text(&alert, "time")) - micros(text(ended, "time"));
    eprintln!("measured: the alert came {} ms after the end", after / 1000);
    assert!(after >= 1_000_000, "{after}");

    // A daemon that starts finds it down, and says nothing again.
    let before = alerts(&cluster);
    restart(&mut cluster);
    eventually("it has looked", || {
        let status = cluster.json(&["status", "--json"]);
        status["drift"].as_array().filter(|drift| !drift.is_empty()).map(drop)
    });
    assert_eq!(alerts(&cluster), before);
    // Started and killed again, it is told of as suppressed: that the cooldown goes on is known.
    cluster.weft(&["restart", "once"]).ok();
    kill(&cluster, "once");
    let all = eventually("the second one is stored", || {
        let all = alerts(&cluster);
        (all.len() == 2).then_some(all)
    });
    assert_eq!(text(&all[1], "state"), "suppressed", "{all:#?}");
}

#[test]
fn commands_that_hang_do_not_keep_kills_from_being_noticed() {
    let cluster = cluster(
        "alert_after = \"0s\"\ncooldown = \"0s\"\nalert_command = [\"/bin/sleep\", \"60\"]",
    );
    // Its processes are told apart from those of the same test in another run.
    let name = format!("hangs-{}", std::process::id());
    deploy(&cluster, &name, "restart = \"no\"");
    for round in 1..=6 {
        kill(&cluster, &name);
        let all = eventually("it is told of", || {
            let all = alerts(&cluster);
            (of(&all, "drift").len() == round).then_some(all)
        });
        let events = lines(&cluster.weft(&["events", &name, "--json"]));
        let ended = events.iter().rfind(|event| event["new_state"] == "exited").expect("it");
        let last = of(&all, "drift").pop().cloned().expect("it");
        let after = micros(text(&last, "time")) - micros(text(ended, "time"));
        assert!(after < 1_000_000, "{after} µs");
        if round < 6 {
            cluster.weft(&["restart", &name]).ok();
        }
    }
    let mark = format!("MCP_SERVICE={name}");
    let running = with_environment(&mark).len();
    assert!((1..=4).contains(&running), "{running} at once");
    drop(cluster);
    eventually("the commands ended with their daemon", || {
        with_environment(&mark).is_empty().then_some(())
    });
}

#[test]
fn a_lost_node_is_told_of_once_by_the_node_that_leads() {
    let Some(net) = Net::new(3) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let command = told(dir.path()).replacen("alert_command = ", "monitor.alert_command=", 1);
    let options = Options { settings: vec![command], ..Options::default() };
    let mut cluster = NetCluster::with(net, 3, options);
    let leader = cluster.settled(0);
    let (cut, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = cluster.node_name(cut);
    cluster.net.cut(cut);
    let (alert, took) = cluster.wait_until("the alert", DEADLINE, |cluster| {
        let all = lines(&cluster.weft(other, &["alerts", "--json"]));
        all.into_iter().find(|alert| !alert["exit"].is_null())
    });
    eprintln!("measured: {} ms after the cut: {alert}", took.as_millis());
    assert_eq!((text(&alert, "type"), text(&alert, "node")), ("node", name.as_str()));
    assert!(alert["service"].is_null() && text(&alert, "reason").contains("host does not answer"));
    let given = std::fs::read_to_string(env(dir.path(), &alert)).expect("it was run");
    assert!(given.contains(&format!("MCP_NODE={name}\0")), "{given:?}");
    cluster.net.heal(cut);
    cluster.wait_until("it is back", DEADLINE, |cluster| {
        let states = cluster.states(leader);
        states.iter().all(|(_, state)| state == "ready").then_some(())
    });
    let mut all = lines(&cluster.weft(leader, &["alerts", "--json"]));
    all.retain(|alert| text(alert, "node") == name);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(files(dir.path()), 1);
}

#[test]
fn where_a_node_only_reports_what_ended_stays_down_is_told_of_and_starts_when_somebody_says_so() {
    let mut cluster = cluster("");
    configure(&mut cluster, "[reconcile]\nmode = \"report\"\n");
    deploy(&cluster, "web", "");
    // One that runs for long enough to have been what was asked for.
    let long = |cluster: &Cluster| {
        eventually("it has run for ten seconds", || {
            let row = cluster.running("n1", "web", "n1");
            let now = SystemClock.wall().as_micros();
            (now - micros(text(&row, "started_at")) > 10_500_000).then_some(())
        });
    };
    long(&cluster);
    kill(&cluster, "web");
    let row = |cluster: &Cluster| cluster.ps("n1").first().cloned().unwrap_or_default();
    let down =
        eventually("it is down", || Some(row(&cluster)).filter(|row| row["state"] == "exited"));
    assert!(text(&down, "reason").contains("reconcile.mode = \"report\""), "{down}");
    let alert = eventually("it is told of", || alerts(&cluster).first().cloned());
    assert_eq!((text(&alert, "type"), text(&alert, "state")), ("drift", "fired"));
    let status = cluster.weft(&["status", "--exit-code"]);
    assert_eq!(status.code, 8, "{status:?}");
    // Also for the next daemon.
    restart(&mut cluster);
    let down =
        eventually("it is listed", || Some(row(&cluster)).filter(|row| row["pid"].is_null()));
    assert_eq!((text(&down, "state"), down["restarts"].as_u64()), ("exited", Some(0)), "{down}");
    cluster.weft(&["start", "web"]).ok();
    assert_eq!(text(&row(&cluster), "state"), "running");
    // A deploy of what ends at once says so, and does not wait for a restart that never comes.
    let file = cluster.definition("bad", &service("bad", "env = [\"HELLO_EXIT_AT_START=3\"]"));
    let done = cluster.weft(&["deploy", "-f", &file]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(format!("{}{}", done.stdout, done.stderr).contains("exit 3"), "{done:?}");
}
