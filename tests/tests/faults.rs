//! Bad input and faults, on real nodes: a clear error that says what to do, nothing half made.

use std::process::Command;

use serde_json::Value;
use weft_tests::{Cluster, Done, bin_dir, eventually, http_get, is_alive, kill_9, micros, run};
use weft_wire::{Clock, SystemClock};

fn token(cluster: &Cluster, args: &[&str]) -> String {
    let mut all = vec!["node", "token", "--json"];
    all.extend(args);
    let value = cluster.json(&all);
    value["token"].as_str().unwrap_or_else(|| panic!("no token in {value}")).to_owned()
}

/// `weft join` into a fresh directory; the directory and what the command said.
fn join(cluster: &Cluster, name: &str, token: &str) -> (std::path::PathBuf, Done) {
    let data = cluster.scratch().join(name);
    let done = run(Command::new(bin_dir().join("weft"))
        .env("WEFT_CONFIG", cluster.scratch().join("joiner.toml"))
        .args(["join", token, "--name", name, "--bind", "127.0.0.1:0", "--data"])
        .arg(&data));
    (data, done)
}

#[track_caller]
fn refused(cluster: &Cluster, name: &str, token: &str, says: &str) {
    let (data, done) = join(cluster, name, token);
    assert_ne!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains(says), "expected `{says}` in {done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
    assert!(!data.exists(), "a refused join leaves nothing: {}", data.display());
    let nodes = cluster.json(&["node", "list", "--json"]).to_string();
    assert!(!nodes.contains(&format!("\"{name}\"")), "{nodes}");
}

#[test]
fn a_truncated_a_reused_an_expired_and_a_wrong_clusters_token_are_refused() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);

    let good = token(&cluster, &[]);
    refused(&cluster, "t1", &good[..good.len() - 7], "token");

    let (data, done) = join(&cluster, "n9", &good);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(data.join("node.toml").is_file() && data.join("node.json").is_file());
    refused(&cluster, "t2", &good, "used");

    // The name is taken now, whatever the token.
    refused_name(&cluster, &token(&cluster, &[]));

    let made = cluster.json(&["node", "token", "--ttl", "1s", "--json"]);
    let end = micros(made["expires_at"].as_str().expect("when it expires"));
    eventually("the token has expired", || (SystemClock.wall().as_micros() > end).then_some(()));
    refused(&cluster, "t4", made["token"].as_str().expect("a token"), "expired");
    refused(&cluster, "t3", "weft1.nonsense", "token");

    let other = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let foreign = token(&other, &[]);
    // A token is good only where it was made: here its secret is unknown and the CA pinned in it
    // is another, so it must not even be said to this cluster.
    let address = cluster.node("n1")["fabric"].as_str().expect("an address").to_owned();
    let theirs = other.node("n1")["fabric"].as_str().expect("an address").to_owned();
    assert_ne!(address, theirs);
    drop(other);
    let (data, done) = join(&cluster, "t5", &foreign);
    assert_ne!(done.code, 0);
    assert!(!data.exists(), "{done:?}");
}

fn refused_name(cluster: &Cluster, token: &str) {
    let data = cluster.scratch().join("taken");
    let done = run(Command::new(bin_dir().join("weft"))
        .env("WEFT_CONFIG", cluster.scratch().join("joiner.toml"))
        .args(["join", token, "--name", "n9", "--bind", "127.0.0.1:0", "--data"])
        .arg(&data));
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("n9"), "{done:?}");
    assert!(!data.exists());
}

#[test]
fn two_daemons_on_one_data_directory_are_refused() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let done = run(Command::new(bin_dir().join("weftd"))
        .arg("run")
        .arg("--config")
        .arg(cluster.data_dir("n1").join("node.toml")));
    assert_ne!(done.code, 0);
    let pid = cluster.daemon_pid("n1").to_string();
    assert!(done.stderr.contains("in use") && done.stderr.contains(&pid), "{done:?}");
    assert!(is_alive(cluster.daemon_pid("n1")));
    cluster.weft(&["node", "list"]).ok();
}

#[test]
fn a_command_that_does_not_exist_or_is_not_executable_fails_the_deploy_and_says_so() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let plain = cluster.scratch().join("plain");
    std::fs::write(&plain, "not a program").expect("writes");
    for (name, program, says) in [
        ("missing", "/nonexistent/program".to_owned(), "/nonexistent/program"),
        ("plain", plain.to_string_lossy().into_owned(), "executable"),
    ] {
        let text = format!(
            "name = \"{name}\"\n[[components]]\nname = \"{name}\"\ncmd = [\"{program}\"]\n"
        );
        let file = cluster.definition(name, &text);
        let done = cluster.weft(&["deploy", name, "-f", &file, "--timeout", "20s"]);
        assert_eq!(done.code, 1, "{done:?}");
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains(says), "{done:?}");
    }
}

#[test]
fn a_definition_with_mistakes_names_file_line_and_column_and_changes_nothing() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let file = cluster.definition(
        "web",
        "name = \"web\"\n[[components]]\nname = \"web\"\nimgae = \"x:1\"\ncmd = [\"x\"]\n",
    );
    for args in [vec!["validate", &file], vec!["deploy", "web", "-f", &file]] {
        let done = cluster.weft(&args);
        assert_eq!(done.code, 2, "{done:?}");
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains("web.toml:4:1") && said.contains("image"), "{done:?}");
    }
    assert_eq!(cluster.json(&["list", "--json"]).as_array().map(Vec::len), Some(0));

    let done = cluster.weft(&["deploy", "nosuch", "--json"]);
    assert_eq!(done.code, 2, "{done:?}");
    let error: Value = serde_json::from_str(done.stderr.trim()).expect("JSON on stderr");
    for field in ["code", "message", "node", "service", "component", "step", "cause", "help"] {
        assert!(error["error"].get(field).is_some(), "{field} in {error}");
    }
}

#[test]
fn a_killed_shim_takes_its_component_with_it_and_both_come_back_once() {
    let cluster = Cluster::with(&["--nodes", "1"]);
    let before = cluster.running("n1", "hello", "n1");
    let replica = before["replica"].as_u64().expect("a replica");
    let file = cluster
        .data_dir("n1")
        .join("components/hello")
        .join(replica.to_string())
        .join("hello/shim.json");
    let shim: Value =
        serde_json::from_str(&std::fs::read_to_string(&file).expect("shim.json")).expect("JSON");
    let pid = |value: &Value| value.as_u64().and_then(|p| u32::try_from(p).ok()).expect("a pid");
    let (shim, child) = (pid(&shim["shim"]["pid"]), pid(&before["pid"]));
    kill_9(shim);
    eventually("shim and component are gone", || {
        (!is_alive(shim) && !is_alive(child)).then_some(())
    });
    let after = eventually("it runs under a new shim", || {
        cluster.ps("n1").into_iter().find(|row| {
            row["replica"] == before["replica"]
                && row["state"] == "running"
                && row["pid"] != before["pid"]
        })
    });
    assert_eq!(http_get(after["urls"][0].as_str().expect("a url")).expect("answers").0, 200);
    let rows = cluster.ps("n1");
    assert_eq!(rows.len(), 1, "no second copy: {rows:?}");
}

#[test]
fn nobody_reachable_is_exit_code_5_and_names_what_was_tried() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let daemon = cluster.daemon_pid("n1");
    kill_9(daemon);
    eventually("the daemon is gone", || (!is_alive(daemon)).then_some(()));
    let done = cluster.weft(&["ps"]);
    assert_eq!(done.code, 5, "{done:?}");
    let address = cluster.node("n1")["fabric"].as_str().expect("an address");
    assert!(done.stderr.contains(address), "{done:?}");
}

#[test]
fn stop_start_restart_and_undeploy_do_what_they_say() {
    let cluster = Cluster::up();
    cluster.weft(&["stop", "hello"]).ok();
    let rows = cluster.ps("n3");
    assert!(rows.iter().all(|row| row["state"] == "stopped"), "{rows:?}");
    cluster.weft(&["--node", "n2", "start", "hello"]).ok();
    let before = cluster.running("n1", "hello", "n3");
    cluster.weft(&["restart", "hello"]).ok();
    let after = cluster.running("n1", "hello", "n3");
    assert_ne!(before["pid"], after["pid"]);
    cluster.weft(&["undeploy", "hello", "--yes"]).ok();
    eventually("nothing of it is left", || {
        let rows = cluster.ps("n1");
        rows.iter().all(|row| row["state"] != "running").then_some(())
    });
}
