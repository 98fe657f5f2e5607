//! Ports in use and data directories that cannot be used: each start ends at once with what to do,
//! and what was there is as it was.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use weft_store::{Durability, Migration, Store};
use weft_tests::{Cluster, bin_dir, ends, eventually, is_alive};

/// Ends with a code other than 0, says every one of `says`, and does not panic.
#[track_caller]
fn refused(command: &mut Command, says: &[&str]) {
    let done = ends(command);
    assert_ne!(done.code, 0, "{done:?}");
    for text in says {
        assert!(done.stderr.contains(text), "`{text}` in {done:?}");
    }
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn a_fabric_or_gateway_port_in_use_ends_the_start_and_is_named() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    cluster.kill_daemon("n1");

    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let (_, port) = address.rsplit_once(':').expect("a port");
    refused(cluster.weftd("n1").args(["--bind", &address]), &[port, "in use", "[fabric] bind"]);

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let (_, port) = address.rsplit_once(':').expect("a port");
    let mut weftd = cluster.weftd("n1");
    refused(weftd.args(["--gateway-bind", &address]), &[port, "in use", "[gateway] bind"]);

    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
}

#[test]
fn a_node_whose_port_of_last_time_is_taken_is_found_at_another_one() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    let before = cluster.node_is("n1", "n2", "ready");
    cluster.kill_daemon("n2");
    let _taken = UdpSocket::bind(before["address"].as_str().expect("an address")).expect("is free");
    cluster.start_daemon("n2");
    let after = eventually("n2 is ready elsewhere", || {
        let row = cluster.node_is("n1", "n2", "ready");
        (row["address"] != before["address"]).then_some(row)
    });
    assert_eq!(after["id"], before["id"]);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused_and_named() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    cluster.kill_daemon("n1");
    let data = cluster.data_dir("n1");
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let here = data.to_string_lossy().into_owned();
    let says = [here.as_str(), "cannot be written", "must belong to the user"];
    let mut weftd = Command::new(cluster.scratch().join("weftd"));
    weftd.arg("run").arg("--config").arg(data.join("node.toml"));
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere: so somebody else tries, who may read all of it.
        for path in [cluster.scratch(), &cluster.dir(), &data] {
            mode(path, 0o755);
        }
        for file in ["node.toml", "node.json"] {
            mode(&data.join(file), 0o644);
        }
        std::os::unix::process::CommandExt::uid(&mut weftd, 65_534);
    } else {
        mode(&data, 0o500);
    }
    std::fs::copy(bin_dir().join("weftd"), cluster.scratch().join("weftd")).expect("copies");
    refused(&mut weftd, &says);
    mode(&data, 0o700);
    std::fs::remove_file(cluster.scratch().join("weftd")).expect("it is there");

    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
}

#[test]
fn a_data_directory_of_another_node_is_refused_by_name_and_by_certificate() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    let (n1, n2) = (cluster.data_dir("n1"), cluster.data_dir("n2"));
    let theirs = n2.to_string_lossy().into_owned();
    refused(
        cluster.weftd("n1").args(["--data-dir", &theirs]),
        &[&theirs, "belongs to node n2", "node.name"],
    );
    // Its daemon did not notice.
    assert!(is_alive(cluster.daemon_pid("n2")));

    // Another node's key and certificate under the right name.
    cluster.kill_daemon("n2");
    let identity = n2.join("identity");
    std::fs::rename(&identity, n2.join("own")).expect("renames");
    std::fs::create_dir(&identity).expect("a directory");
    for file in ["node.key", "node.crt", "bundle.pem"] {
        std::fs::copy(n1.join("identity").join(file), identity.join(file)).expect("copies");
    }
    refused(&mut cluster.weftd("n2"), &["node.crt", "is the certificate of node/", "restore"]);
    std::fs::remove_dir_all(&identity).expect("removes");
    std::fs::rename(n2.join("own"), &identity).expect("renames");

    cluster.start_daemon("n2");
    cluster.node_is("n1", "n2", "ready");
}

/// What a later version of the program would have done to a database.
fn migrate_to_the_future(file: &Path) {
    const LATER: &[Migration] =
        &[Migration { version: 99, sql: "CREATE TABLE later (a INTEGER) STRICT;" }];
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let store = Store::open(file, Durability::Full, LATER).await.expect("opens");
        store.close().await;
    });
}

#[test]
fn a_data_directory_from_a_newer_version_is_refused_and_left_alone() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    cluster.kill_daemon("n1");
    let data = cluster.data_dir("n1");

    let seed = data.join("node.json");
    let text = std::fs::read_to_string(&seed).expect("node.json");
    let mut later: Value = serde_json::from_str(&text).expect("JSON");
    later["version"] = 99.into();
    std::fs::write(&seed, later.to_string()).expect("writes");
    refused(&mut cluster.weftd("n1"), &["node.json", "newer version of Weft", "newer weftd"]);
    std::fs::write(&seed, text).expect("writes");

    for name in ["local.db", "raft.db", "state.db"] {
        let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
        cluster.kill_daemon("n1");
        let file = cluster.data_dir("n1").join(name);
        migrate_to_the_future(&file);
        let before = std::fs::read(&file).expect("the database");
        refused(&mut cluster.weftd("n1"), &[name, "schema version 99", "at least as new"]);
        assert!(std::fs::read(&file).expect("the database") == before, "{name} is as it was");
    }
}

#[test]
fn a_node_file_with_mistakes_is_drawn_with_line_and_caret_and_starts_nothing() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    cluster.kill_daemon("n1");
    let file = cluster.data_dir("n1").join("node.toml");
    let good = std::fs::read_to_string(&file).expect("node.toml");
    for (bad, says) in [
        ("[fabric]\nbnid = \"127.0.0.1:0\"\n", "bind"),
        ("[fabric]\nbind = \"nowhere\"\n", "nowhere"),
        ("[fabric]\nbind = 7443\n", "7443"),
        ("[fabric\n", "]"),
        ("[gateaway]\n", "gateway"),
        ("[monitor]\ninterval = \"5\"\n", "interval"),
    ] {
        std::fs::write(&file, format!("[node]\nname = \"n1\"\n\n{bad}")).expect("writes");
        let done = ends(&mut cluster.weftd("n1"));
        assert_eq!(done.code, 2, "{bad}: {done:?}");
        let at = done.stderr.contains("node.toml:4:") || done.stderr.contains("node.toml:5:");
        assert!(at && done.stderr.contains('^') && done.stderr.contains(says), "{bad}: {done:?}");
    }
    std::fs::write(&file, good).expect("writes");
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
}
