//! Ports of routes: which variables name them, how long they stay, and what happens without any
//! (orchestration §13).

use std::collections::BTreeMap;
use std::net::TcpListener;

use serde_json::{Value, json};
use weft_tests::{Cluster, eventually};

/// Two components: `api` with the routes `web` and `to-go`, `db` with one that has no name. Each
/// writes its variables into a file of its name.
fn pair() -> String {
    let component = |name: &str| {
        format!(
            "[[components]]\nname = \"{name}\"\ncmd = [\"sh\", \"-c\", \"env > {name}.new; mv {name}.new {name}; exec sleep 1000\"]\nstop_grace = \"1s\"\n"
        )
    };
    format!(
        "name = \"pair\"\n[update]\nhealthy_for = \"300ms\"\norder = \"stop-first\"\n{}\
         [[components.routes]]\nname = \"web\"\nport = 443\n\
         [[components.routes]]\nname = \"to-go\"\nport = 444\n{}[[components.routes]]\nport = 445\n",
        component("api"),
        component("db")
    )
}

fn variables(cluster: &Cluster, component: &str) -> BTreeMap<String, String> {
    let file = cluster.data_dir("n1").join("services/pair/1").join(component);
    let text = eventually("it has told its variables", || std::fs::read_to_string(&file).ok());
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn port(url: &Value) -> String {
    url.as_str().and_then(|url| url.rsplit(':').next()).unwrap_or_default().to_owned()
}

fn row(cluster: &Cluster, component: &str) -> Option<Value> {
    let rows = cluster.ps("n1");
    rows.into_iter().find(|row| row["component"] == component && row["state"] == "running")
}

#[test]
fn routes_have_their_variables_and_keep_their_ports_while_those_are_free() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let file = cluster.definition("pair", &pair());
    cluster.weft(&["deploy", "-f", &file]).ok();
    let urls = |cluster: &Cluster, component: &str| {
        eventually("it runs", || row(cluster, component))["urls"]
            .as_array()
            .map(|urls| urls.iter().map(port).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let (api, db) = (urls(&cluster, "api"), urls(&cluster, "db"));
    let (of_api, of_db) = (variables(&cluster, "api"), variables(&cluster, "db"));
    assert_eq!((of_api.get("PORT_WEB"), of_api.get("PORT_TO_GO")), (api.first(), api.get(1)));
    assert_eq!(of_api.get("PORT"), None, "several have names of their own only");
    assert_eq!(of_db.get("PORT"), db.first());
    let at = |port: Option<&String>| port.map(|port| format!("127.0.0.1:{port}"));
    assert_eq!(of_db.get("PEER_API_WEB").cloned(), at(api.first()), "{of_db:?}");
    assert_eq!(of_db.get("PEER_API_TO_GO").cloned(), at(api.get(1)));
    assert!(of_api.iter().any(|(name, value)| {
        name.starts_with("PEER_DB") && Some(value) == at(db.first()).as_ref()
    }));

    // Deployed again, stopped and started, and under the next daemon: the same.
    cluster.weft(&["deploy", "-f", &file]).ok();
    assert_eq!((urls(&cluster, "api"), urls(&cluster, "db")), (api.clone(), db.clone()));
    cluster.weft(&["stop", "pair"]).ok();
    cluster.kill_daemon("n1");
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
    // Another program has taken one of them meanwhile.
    let taken = api.first().and_then(|port| port.parse::<u16>().ok()).expect("a port");
    let holder = TcpListener::bind(("127.0.0.1", taken)).expect("it is free");
    cluster.weft(&["start", "pair"]).ok();
    let after = urls(&cluster, "api");
    assert_ne!(after.first(), api.first());
    assert_eq!((after.get(1), urls(&cluster, "db")), (api.get(1), db));
    drop(holder);
}

#[test]
fn without_a_free_port_the_range_is_named_and_nothing_is_half_allocated() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    cluster.kill_daemon("n1");
    let table = cluster.data_dir("n1").join("route-ports.json");
    // All but one are somebody's.
    let held: serde_json::Map<String, Value> = (10_000..60_000)
        .map(|port| (format!("other/1/a/{port}"), json!({ "port": port, "released": null })))
        .collect();
    std::fs::write(&table, json!({ "routes": held }).to_string()).expect("writes");
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
    let file = cluster.definition("pair", &pair());
    cluster.weft(&["deploy", "-f", &file, "--no-wait"]).ok();
    eventually("it says what it lacks", || {
        let rows = cluster.ps("n1");
        let row = rows.iter().find(|row| row["component"] == "api")?;
        let why = row["reason"].as_str()?;
        (why.contains("no free port in 10000-60000") && why.contains("pair/1/api/")).then_some(())
    });
    let text = std::fs::read_to_string(&table).expect("it is there");
    assert!(!text.contains("pair/1/api/"), "nothing of what it asked for is kept");
}
