//! Where services come to be and stay (orchestration §24).

use serde_json::Value;
use weft_tests::{Cluster, eventually};

fn sleeps(name: &str, more: &str) -> String {
    format!(
        "name = \"{name}\"\n[update]\nhealthy_for = \"300ms\"\n[[components]]\n\
         name = \"{name}\"\ncmd = [\"sh\", \"-c\", \"{more}exec sleep 1000\"]\nstop_grace = \"1s\"\n"
    )
}

fn deploy(cluster: &Cluster, name: &str, text: &str) {
    cluster.weft(&["deploy", "-f", &cluster.definition(name, text)]).ok();
}

/// The node of the only replica that is left.
fn node_of(cluster: &Cluster, service: &str) -> String {
    eventually("one replica runs", || {
        let rows = cluster.json(&["ps", service, "--json"]);
        let [row] = rows.as_array()?.as_slice() else { return None };
        (row["state"] == "running").then(|| row["node"].as_str().map(str::to_owned))?
    })
}

#[test]
fn a_service_goes_to_the_node_with_the_fewest_and_among_equals_to_the_first_by_name() {
    let cluster = Cluster::with(&["--no-hello"]);
    let mut nodes = Vec::new();
    for name in ["c", "b", "a", "d"] {
        deploy(&cluster, name, &sleeps(name, ""));
        nodes.push(node_of(&cluster, name));
    }
    assert_eq!(nodes, ["n1", "n2", "n3", "n1"]);
}

#[test]
fn a_service_stays_where_its_data_is_however_often_it_is_deployed_and_however_full_its_node() {
    let cluster = Cluster::with(&["--no-hello"]);
    let counts = |more: &str| sleeps("keeps", &format!("{more}echo x >> $WEFT_DATA/starts; "));
    // One copy after the other writes into the same directory.
    let stop_first =
        |more: &str| counts(more).replace("[update]\n", "[update]\norder = \"stop-first\"\n");
    deploy(&cluster, "keeps", &stop_first(""));
    let home = node_of(&cluster, "keeps");
    for name in ["x", "y", "z"] {
        let there = sleeps(name, "").replacen('\n', &format!("\nnode = \"{home}\"\n"), 1);
        deploy(&cluster, name, &there);
    }
    for round in 1..=3 {
        deploy(&cluster, "keeps", &stop_first(&format!("A={round}; ")));
        assert_eq!(node_of(&cluster, "keeps"), home, "round {round}");
    }
    let starts = cluster.data_dir(&home).join("services/keeps/1/starts");
    let starts = std::fs::read_to_string(starts).expect("the same directory");
    assert_eq!(starts.lines().count(), 4, "{starts}");
    let rows = cluster.json(&["list", "--json"]);
    let is_kept = |row: &&Value| row["service"] == "keeps";
    assert_eq!(rows.as_array().into_iter().flatten().filter(is_kept).count(), 1);
}

#[test]
fn a_log_that_cannot_be_read_is_said_with_the_node_and_the_cause() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    deploy(&cluster, "mute", &sleeps("mute", "echo one; "));
    eventually("it has a log", || {
        cluster.weft(&["logs", "mute"]).stdout.contains("one").then_some(())
    });
    cluster.weft(&["stop", "mute"]).ok();
    let key = weft_protocol::ComponentKey {
        service: "mute".into(),
        replica: 1,
        component: "mute".into(),
    };
    let log = weft_protocol::files::log_file(&cluster.data_dir("n1"), &key);
    std::fs::remove_file(&log).expect("it is there");
    std::fs::create_dir(&log).expect("a directory in its place");
    let said = cluster.weft(&["logs", "mute"]);
    assert!(said.stderr.contains("cannot be read") && said.stderr.contains("n1"), "{said:?}");
}
