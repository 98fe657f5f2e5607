//! Files: pushed into replicas and pulled out of them, and those that come with a definition
//! (orchestration §11, §3.1), as an operator meets them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_protocol::Outcome;
use weft_tests::audit::audit;
use weft_tests::nodes::NetCluster;
use weft_tests::podman::{Boxes, IMAGE};
use weft_tests::{Cluster, DEADLINE, Done, bin_dir, eventually, run};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A script that says which it is in a file of its data directory, and runs on.
fn script(says: &str) -> String {
    format!("#!/bin/sh\nprintf '{says}' > \"$WEFT_DATA/says\"\nexec sleep 100000\n")
}

/// `web`, whose program comes with it.
fn shipped(replicas: usize, top: &str) -> String {
    format!(
        "name = \"web\"\nreplicas = {replicas}\nfiles = [\"./run\", \"conf/a.toml\"]\n{top}\n\
         [update]\nhealthy_for = \"300ms\"\n\n[[components]]\nname = \"web\"\ncmd = [\"./run\"]\n\
         stop_grace = \"1s\"\n"
    )
}

/// Where the operator stands: a directory with a definition and what it ships.
struct Stand(PathBuf);

impl Stand {
    fn new(scratch: &Path, definition: &str, program: &[u8]) -> Self {
        let stand = Self(scratch.join("stand"));
        std::fs::create_dir_all(stand.0.join("conf")).expect("makes");
        stand.write("conf/a.toml", b"a = 1\n", 0o640);
        stand.write("run", program, 0o755);
        stand.write("web.toml", definition.as_bytes(), 0o644);
        stand
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("writes");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets");
    }

    fn definition(&self) -> String {
        self.0.join("web.toml").to_string_lossy().into_owned()
    }

    /// What is left is on the nodes.
    fn forget(&self) {
        std::fs::remove_dir_all(&self.0).expect("removes");
    }
}

fn rows(done: &Done) -> Vec<Value> {
    let rows: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    rows.as_array().cloned().unwrap_or_default()
}

fn ps(cluster: &Cluster) -> Vec<Value> {
    rows(&cluster.weft(&["ps", "web", "--json"]))
}

fn pids(cluster: &Cluster) -> Vec<u64> {
    let mut pids: Vec<u64> = ps(cluster).iter().filter_map(|row| row["pid"].as_u64()).collect();
    pids.sort_unstable();
    pids
}

fn digest(data: &Path, content: &[u8]) -> PathBuf {
    let hex = std::process::Command::new("sha256sum")
        .stdin({
            let file = data.join("to-hash");
            std::fs::write(&file, content).expect("writes");
            std::fs::File::open(file).expect("opens")
        })
        .output()
        .expect("sha256sum runs");
    let hex = String::from_utf8(hex.stdout).expect("hex");
    PathBuf::from("blobs/sha256").join(hex.split(' ').next().expect("a digest"))
}

#[test]
fn a_file_goes_to_every_replica_and_comes_back_byte_for_byte_through_any_node() {
    let cluster = Cluster::with(&["--no-hello"]);
    let stand = Stand::new(cluster.scratch(), &shipped(3, ""), script("one").as_bytes());
    cluster.weft(&["deploy", "-f", &stand.definition()]).ok();
    let content: Vec<u8> = (0..=255u8).cycle().take(3_000_000).collect();
    stand.write("app.bin", &content, 0o4750);
    let local = stand.0.join("app.bin").to_string_lossy().into_owned();

    let would = cluster.weft(&["push", &local, "web", "conf/deep/app.bin", "--dry-run"]).ok();
    assert!(would.stdout.starts_with("would push 3000000 bytes -> web:conf/deep/app.bin"));
    assert_eq!(cluster.weft(&["pull", "web", "conf/deep/app.bin", "--replica", "1"]).code, 1);

    let done = cluster.weft(&["--node", "n1", "push", &local, "web", "conf/deep/app.bin"]).ok();
    assert_eq!(done.stdout.lines().next(), Some("3000000 bytes -> web:conf/deep/app.bin"));
    assert_eq!(done.stdout.matches("ok  [node n").count(), 3, "{done:?}");
    for (node, replica) in [("n3", "1"), ("n2", "2"), ("n1", "3")] {
        let out = stand.0.join(format!("out{replica}"));
        let file = out.to_string_lossy().into_owned();
        let args =
            ["--node", node, "pull", "web", "conf/deep/app.bin", &file, "--replica", replica];
        let done = cluster.weft(&args).ok();
        assert_eq!(done.stdout, format!("3000000 bytes -> {file}\n"));
        assert!(std::fs::read(&out).expect("reads") == content, "replica {replica}");
        let mode = std::fs::metadata(&out).expect("is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o750, "without setuid");
    }

    // One replica alone; the path left out; standard output; a directory to pull into.
    stand.write("note.txt", b"for the second\n", 0o644);
    let local = stand.0.join("note.txt").to_string_lossy().into_owned();
    cluster.weft(&["push", &local, "web", "--replica", "2"]).ok();
    let pulled = cluster.weft(&["pull", "web", "note.txt", "-", "--replica", "2"]).ok();
    assert_eq!(pulled.stdout, "for the second\n");
    assert_eq!(cluster.weft(&["pull", "web", "note.txt", "-", "--replica", "1"]).code, 1);
    let into = stand.0.join("conf").to_string_lossy().into_owned();
    let json = cluster.json(&["pull", "web", "note.txt", &into, "--replica", "2", "--json"]);
    assert_eq!((&json["bytes"], &json["mode"]), (&15.into(), &"0644".into()), "{json}");
    assert_eq!(std::fs::read(stand.0.join("conf/note.txt")).expect("reads"), b"for the second\n");
    let json = cluster.json(&["push", &local, "web", "b", "--json"]);
    assert_eq!(json["replicas"].as_array().map(Vec::len), Some(3), "{json}");
}

#[test]
fn what_is_refused_says_why_and_ends_as_it_should_and_is_in_the_audit_with_its_path() {
    let cluster = Cluster::with(&["--no-hello"]);
    let stand = Stand::new(cluster.scratch(), &shipped(2, ""), script("one").as_bytes());
    cluster.weft(&["deploy", "-f", &stand.definition()]).ok();
    let local = |name: &str| stand.0.join(name).to_string_lossy().into_owned();
    stand.write("small", b"x", 0o600);
    std::fs::File::create(local("large")).expect("makes").set_len(4 << 20 | 1).expect("sets");
    let row = ps(&cluster).into_iter().find(|row| row["replica"] == 1).expect("replica 1");
    let home = cluster.data_dir(row["node"].as_str().expect("a node")).join("services/web/1");
    symlink("../../../identity", home.join("out")).expect("links");
    symlink("nowhere", home.join("link")).expect("links");
    std::fs::write(home.join("server.key"), "-----BEGIN PRIVATE KEY-----").expect("writes");

    let weft = |args: &[&str]| cluster.weft(&[&["--node", "n1"], args].concat());
    let (small, large) = (local("small"), local("large"));
    for (args, code, says) in [
        (&["push", &small, "web", "../x"][..], 2, "`..`"),
        (&["push", &small, "web", "/etc/x"], 2, "absolute"),
        (&["push", &small, "web", "d/"], 2, "names a directory"),
        (&["push", &large, "web"], 2, "larger than 4.0 MiB"),
        (&["push", &small, "web", "conf"], 2, "it is a directory"),
        (&["push", &small, "web", "run/x"], 2, "should be a directory"),
        (&["push", &small, "web", "out/x", "--replica", "1"], 4, "leads out"),
        (&["push", &small, "web", "link", "--replica", "1"], 4, "symbolic link"),
        (&["push", &small, "web", "link"], 6, "1 of 2 replicas"),
        (&["push", &small, "web", "--replica", "3"], 1, "no replica 3"),
        (&["push", &small, "shop"], 1, "no service `shop`"),
        (&["push", &small, "../web"], 2, "lower-case"),
        (&["push", "-", "web"], 2, "say where"),
        (&["pull", "web", "a"], 2, "--replica"),
        (&["pull", "web", "."], 2, "names a directory"),
        (&["pull", "web", "nothing", "-", "--replica", "1"], 1, "no such file"),
        (&["pull", "web", "out/node.key", "-", "--replica", "1"], 4, "leads out"),
    ] {
        let done = weft(args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        assert!(done.stderr.contains(says), "{args:?}: {done:?}");
        let place = home.to_string_lossy();
        assert!(!done.stderr.contains(&*place) && !done.stderr.contains("identity"), "{done:?}");
    }
    let key = weft(&["pull", "web", "server.key", "-", "--replica", "1"]).ok();
    assert_eq!(key.stdout, "-----BEGIN PRIVATE KEY-----");
    weft(&["push", &small, "web", "conf/x"]).ok();

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let find = |method: &str, about: &str, outcome: Outcome| {
        let what = format!("{method} {about} {outcome:?} is in the audit");
        let record = eventually(&what, || {
            let seen = runtime.block_on(audit(&cluster, "n1"));
            seen.into_iter().find(|record| {
                record.method == method
                    && record.target.ends_with(about)
                    && record.outcome == outcome
            })
        });
        assert!(!record.caller.is_empty() && record.role == "admin", "{record:?}");
    };
    find("gateway.push", " web:conf/x", Outcome::Ok);
    find("gateway.pull", " web/1:server.key", Outcome::Ok);
    find("gateway.pull", " web/1:out/node.key", Outcome::Failed);
}

#[test]
fn a_program_that_only_the_operator_has_runs_on_every_node_and_outlives_their_daemons() {
    let mut cluster = Cluster::with(&["--no-hello"]);
    let program = std::fs::read(bin_dir().join("hello")).expect("reads");
    let definition = shipped(3, "") + "\n[[components.routes]]\nport = 443\n";
    let stand = Stand::new(cluster.scratch(), &definition, &program);
    let plan = cluster.weft(&["plan", "-f", &stand.definition()]).ok();
    assert!(plan.stdout.contains("create") && !plan.stdout.contains("cannot"), "{plan:?}");
    let done = cluster.weft(&["--node", "n2", "deploy", "-f", &stand.definition()]).ok();
    assert!(done.stderr.contains("files: 2 on n2 and n"), "{done:?}");
    stand.forget();
    let rows = ps(&cluster);
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in &rows {
        let (node, replica) = (row["node"].as_str().expect("a node"), &row["replica"]);
        let home = cluster.data_dir(node).join(format!("services/web/{replica}"));
        let runs = std::fs::read_link(format!("/proc/{}/exe", row["pid"])).expect("it runs");
        let file = home.join("run").canonicalize().expect("is there");
        assert_eq!(runs, file);
        assert!(std::fs::read(&file).expect("reads") == program);
        let conf = std::fs::metadata(home.join("conf/a.toml")).expect("is there");
        assert_eq!(conf.permissions().mode() & 0o7777, 0o640);
        let blobs = std::fs::read_dir(cluster.data_dir(node).join("blobs/sha256"));
        assert_eq!(blobs.expect("lists").count(), 2, "{node}");
    }
    let before = pids(&cluster);
    cluster.kill_daemon("n3");
    cluster.start_daemon("n3");
    cluster.node_is("n1", "n3", "ready");
    eventually("all run on", || (pids(&cluster) == before).then_some(()));
}

#[test]
fn changed_content_is_a_rolling_update_and_a_rollback_brings_the_old_content_back() {
    let cluster = Cluster::with(&["--no-hello"]);
    let stand = Stand::new(cluster.scratch(), &shipped(2, ""), script("one").as_bytes());
    let deploy =
        |more: &[&str]| cluster.weft(&[&["deploy", "-f", &stand.definition()][..], more].concat());
    let says = |what: &str| {
        for replica in ["1", "2"] {
            eventually(&format!("replica {replica} says {what}"), || {
                let done = cluster.weft(&["pull", "web", "says", "-", "--replica", replica]);
                (done.stdout == what).then_some(())
            });
        }
    };
    deploy(&[]).ok();
    says("one");
    let first = pids(&cluster);
    let good = || {
        let history = rows(&cluster.weft(&["history", "web", "--json"]));
        history.last().is_some_and(|row| row["verdict"] == "good").then_some(())
    };
    eventually("the first is good", good);
    // Read again: the same content is nothing new.
    deploy(&["--if-changed"]).ok();
    assert_eq!(pids(&cluster), first);

    stand.write("run", script("two").as_bytes(), 0o755);
    let plan = cluster.weft(&["plan", "-f", &stand.definition()]).ok();
    assert!(plan.stdout.contains("recreate") && plan.stdout.contains("files"), "{plan:?}");
    let done = deploy(&["--if-changed"]).ok();
    assert!(done.stderr.contains("web revision 2: agreed"), "{done:?}");
    says("two");
    assert!(pids(&cluster).iter().all(|pid| !first.contains(pid)));

    stand.forget();
    cluster.weft(&["rollback", "web"]).ok();
    says("one");
    // What was deployed last can be deployed again from nowhere.
    cluster.weft(&["deploy", "web"]).ok();

    let one = Stand::new(cluster.scratch(), &shipped(2, ""), b"#!/bin/sh\n");
    one.write("run", b"#!/bin/sh\n", 0o644);
    let refused = cluster.weft(&["deploy", "-f", &one.definition()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("not executable"), "{refused:?}");
    std::fs::remove_file(one.0.join("run")).expect("removes");
    let refused = cluster.weft(&["deploy", "-f", &one.definition()]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("`files`: ./run cannot be shipped"), "{refused:?}");
}

#[test]
fn a_damaged_copy_is_passed_over_and_a_file_that_is_nowhere_is_named_until_it_is_shipped_again() {
    let cluster = Cluster::with(&["--no-hello"]);
    let program = script("one");
    let stand = Stand::new(cluster.scratch(), &shipped(1, ""), program.as_bytes());
    let blob = digest(cluster.scratch(), program.as_bytes());
    let has = |node: &&str| cluster.data_dir(node).join(&blob).exists();
    cluster.weft(&["--node", "n1", "deploy", "-f", &stand.definition()]).ok();
    let holders: Vec<&str> = NODES.into_iter().filter(has).collect();
    assert!(holders.contains(&"n1") && holders.len() == 2, "{holders:?}");

    // Same size, other bytes.
    let damaged = cluster.data_dir(holders[1]).join(&blob);
    std::fs::write(&damaged, vec![b'x'; program.len()]).expect("writes");
    cluster.weft(&["scale", "web", "3"]).ok();
    eventually("three run", || {
        let rows = ps(&cluster);
        (rows.len() == 3 && rows.iter().all(|row| row["state"] == "running")).then_some(())
    });
    for row in ps(&cluster) {
        let home = cluster.data_dir(row["node"].as_str().expect("a node")).join("services/web");
        let run = home.join(row["replica"].to_string()).join("run");
        assert_eq!(std::fs::read_to_string(run).expect("reads"), program);
    }

    cluster.weft(&["undeploy", "web", "--yes"]).ok();
    for node in NODES {
        let _ = std::fs::remove_file(cluster.data_dir(node).join(&blob));
        let _ = std::fs::remove_dir_all(cluster.data_dir(node).join("services/web"));
    }
    let refused = cluster.weft(&["deploy", "web"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let name = blob.file_name().expect("a name").to_string_lossy().into_owned();
    for says in ["file ./run", &name, "deploy again from where the file is"] {
        assert!(refused.stderr.contains(says), "{says}: {refused:?}");
    }
    cluster.weft(&["deploy", "-f", &stand.definition()]).ok();

    // Gone after it was agreed: what has to be started anew says so, and starts once it is back.
    for node in NODES {
        let _ = std::fs::remove_file(cluster.data_dir(node).join(&blob));
    }
    cluster.weft(&["scale", "web", "2", "--no-wait"]).ok();
    eventually("the second says what it lacks", || {
        ps(&cluster).iter().find(|row| {
            let reason = row["reason"].as_str().unwrap_or_default();
            reason.contains(&name) && reason.contains("deploy again")
        })?;
        Some(())
    });
    let two = shipped(2, "");
    stand.write("web.toml", two.as_bytes(), 0o644);
    cluster.weft(&["deploy", "-f", &stand.definition()]).ok();
    eventually("both run", || {
        let rows = ps(&cluster);
        (rows.len() == 2 && rows.iter().all(|row| row["state"] == "running")).then_some(())
    });
}

#[test]
fn the_loss_of_the_node_it_was_shipped_to_loses_no_file() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    cluster.settled(0);
    cluster.weft(0, &["node", "label", "n1", "here=yes"]).ok();
    let top = "\n[placement]\nprefer = [\"here=yes\"]\n";
    let stand = Stand::new(cluster.scratch(), &shipped(1, top), script("one").as_bytes());
    run(cluster.command(0).args(["deploy", "-f", &stand.definition()])).ok();
    cluster.running(1, "web", 0);
    stand.forget();
    cluster.crash(0);
    let (on, took) = cluster.wait_until("it runs on another node", DEADLINE, |cluster| {
        let rows = cluster.ps_json(1);
        let row = rows.iter().find(|row| row["service"] == "web" && row["state"] == "running")?;
        let node = row["node"].as_str().filter(|node| *node != "n1")?;
        Some(cluster.node_number(node))
    });
    eprintln!("measured: it ran on {} after {} ms", cluster.node_name(on), took.as_millis());
    cluster.wait_until("it says which it is", DEADLINE, |cluster| {
        (cluster.weft(1, &["pull", "web", "says", "-"]).stdout == "one").then_some(())
    });
}

#[test]
fn a_container_finds_what_comes_with_its_definition_and_may_be_started_from_it() {
    let Some(boxes) = Boxes::start(1) else { return };
    let definition = shipped(1, "")
        .replace("cmd = [\"./run\"]", &format!("image = \"{IMAGE}\"\ncmd = [\"./run\"]"));
    let stand = Stand::new(boxes.cluster.scratch(), &definition, script("boxed").as_bytes());
    run(boxes.cluster.command(0).args(["deploy", "-f", &stand.definition()])).ok();
    boxes.cluster.wait_until("it says which it is", DEADLINE, |cluster| {
        (cluster.weft(0, &["pull", "web", "says", "-"]).stdout == "boxed").then_some(())
    });
    stand.write("run", script("again").as_bytes(), 0o755);
    run(boxes.cluster.command(0).args(["deploy", "-f", &stand.definition()])).ok();
    boxes.cluster.wait_until("it says what it is now", DEADLINE, |cluster| {
        (cluster.weft(0, &["pull", "web", "says", "-"]).stdout == "again").then_some(())
    });
}
