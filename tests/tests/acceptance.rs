//! The acceptance path of orchestration §31 in one go: three nodes, each with its own network
//! namespace and its own Podman, as an operator walks it. What needs the proxy, certificates of
//! services, snapshots or migration is not in it.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_tests::podman::{Boxes, IMAGE};
use weft_tests::{DEADLINE, Done, kill_9, run};
use weft_wire::{Clock, SystemClock};

/// Where the operator stands.
const HERE: usize = 0;
/// The node that has containers already.
const THERE: usize = 1;

struct Path31 {
    boxes: Boxes,
    services: PathBuf,
    told: PathBuf,
    /// How often was asked for a deploy.
    deploys: Cell<usize>,
}

impl Path31 {
    fn weft(&self, args: &[&str]) -> Done {
        if args.first() == Some(&"deploy") {
            self.deploys.set(self.deploys.get() + 1);
        }
        let mut command = self.boxes.cluster.command(HERE);
        run(command.args(args).env("WEFT_SERVICES_DIR", &self.services))
    }

    /// Twice: for a person, and for a program.
    fn both(&self, args: &[&str]) -> Value {
        let text = self.weft(args).ok();
        assert!(serde_json::from_str::<Value>(&text.stdout).is_err(), "{args:?}: {text:?}");
        self.json(args)
    }

    fn json(&self, args: &[&str]) -> Value {
        let done = self.weft(&[args, &["--json"]].concat()).ok();
        // Of a stream, one a line.
        serde_json::from_str(&done.stdout).unwrap_or_else(|_| {
            let lines = done.stdout.lines();
            let value = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
            Value::Array(lines.map(value).collect())
        })
    }

    fn rows(&self, service: &str) -> Vec<Value> {
        let rows = self.boxes.cluster.ps_json(HERE);
        rows.into_iter().filter(|row| row["service"] == service).collect()
    }

    fn row(&self, service: &str, component: &str) -> Option<Value> {
        self.rows(service).into_iter().find(|row| row["component"] == component)
    }

    #[track_caller]
    fn running(&self, service: &str, component: &str) -> Value {
        self.until(&format!("{service}/{component} runs"), || {
            self.row(service, component).filter(|row| row["state"] == "running")
        })
    }

    #[track_caller]
    fn until<T>(&self, what: &str, holds: impl Fn() -> Option<T>) -> T {
        self.boxes.cluster.wait_until(what, DEADLINE, |_| holds()).0
    }

    fn file(&self, service: &str) -> PathBuf {
        self.services.join(format!("{service}.toml"))
    }

    /// Kills the process of a component's container and waits until there is another.
    fn kill(&self, service: &str, component: &str) {
        let row = self.running(service, component);
        let pid = row["pid"].as_u64().expect("a pid");
        kill_9(u32::try_from(pid).expect("a pid"));
        self.until("it runs again", || {
            let row = self.row(service, component)?;
            (row["state"] == "running" && row["pid"].as_u64() != Some(pid)).then_some(())
        });
    }

    fn alerts(&self, kind: &str) -> Vec<Value> {
        let all = self.json(&["alerts"]);
        let all = if all.is_array() { all } else { Value::Array(vec![all]) };
        all.as_array().into_iter().flatten().filter(|a| a["type"] == kind).cloned().collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Two components, with a route of each mode.
fn shop() -> String {
    format!(
        r#"name = "shop"
comment = "two components"

[[components]]
name = "api"
image = "{IMAGE}"
cmd = ["/bin/sh", "-c", "echo $0 > /www/index.html; exec httpd -f -p $PORT -h /www", "api"]
stop_grace = "1s"

[[components.routes]]
port = 8443

[[components]]
name = "web"
image = "{IMAGE}"
cmd = ["/bin/sh", "-c", "echo $0 > /www/index.html; exec httpd -f -p $PORT -h /www", "web"]
stop_grace = "1s"

[[components.routes]]
port = 443
mode = "l7"
"#
    )
}

/// What keeps no data and can run anywhere.
fn plain(replicas: u32) -> String {
    format!(
        "name = \"plain\"\nreplicas = {replicas}\n\n[[components]]\nname = \"plain\"\n\
         cmd = [\"{}\"]\n\n[[components.routes]]\nport = 443\n\n[update]\nhealthy_for = \"1s\"\n",
        weft_tests::bin_dir().join("hello").display()
    )
}

fn prepare() -> Option<Path31> {
    let scratch = tempfile::tempdir().expect("a directory").keep();
    let told = scratch.join("told");
    let script = format!("env > {0}.$WEFT_ALERT_ID; echo $MCP_ALERT_TYPE >> {0}", told.display());
    let command = format!("monitor.alert_command=[\"/bin/sh\", \"-c\", \"{script}\"]");
    let boxes = Boxes::with(3, &[&command, "monitor.alert_after=0s"]);
    let Some(boxes) = boxes else {
        std::fs::remove_dir_all(&scratch).expect("it was made here");
        return None;
    };
    let services = scratch.join("services");
    std::fs::create_dir(&services).expect("a directory");
    Some(Path31 { boxes, services, told, deploys: Cell::new(0) })
}

impl Drop for Path31 {
    fn drop(&mut self) {
        if let Some(scratch) = self.services.parent() {
            let _ = std::fs::remove_dir_all(scratch);
        }
    }
}

#[test]
fn the_acceptance_path_is_walked_from_the_first_sync_to_the_return_of_a_lost_node() {
    let Some(mut path) = prepare() else { return };
    who_is_there(&path);
    what_runs_already_becomes_a_service(&path);
    a_service_of_two_components_is_deployed_and_one_of_them_again(&path);
    kills_are_events_and_alerts(&path);
    files_go_there_and_back(&path);
    it_is_stopped_started_and_torn_down(&path);
    a_node_that_is_cut_off_is_missed_replaced_and_comes_back(&mut path);
    a_node_is_drained_and_another_gets_a_new_daemon(&mut path);
    each_request_was_recorded_once(&path);
}

fn who_is_there(path: &Path31) {
    let who = path.both(&["whoami"]);
    assert_eq!(text(&who["role"]), "admin", "{who}");
    path.both(&["login"]);
    let nodes = path.both(&["node", "list"]);
    assert_eq!(nodes.as_array().map(Vec::len), Some(3));
    path.both(&["node", "status", "n2"]);
    path.both(&["cluster", "status"]);
    path.both(&["actors"]);
    path.both(&["version"]);
}

fn what_runs_already_becomes_a_service(path: &Path31) {
    let podman = &path.boxes.podman[THERE];
    for name in ["old", "old-job"] {
        let script = "while :; do sleep 1; done";
        podman.podman(&["run", "-d", "--name", name, IMAGE, "/bin/sh", "-c", script]).ok();
    }
    // Empty: it discovers, and does nothing.
    let done = path.both(&["sync"]);
    assert_eq!(done["services"].as_array().map(Vec::len), Some(0), "{done}");
    let foreign = path.until("both are listed", || {
        let rows = path.rows("-");
        let names: Vec<&str> = rows.iter().map(|row| text(&row["component"])).collect();
        (names == ["old", "old-job"]).then_some(rows)
    });
    assert!(foreign.iter().all(|row| row["desired"] == "ignore"));

    let started = || ["old", "old-job"].map(|name| podman.field(name, "{{.State.StartedAt}}"));
    let before = started();
    let done = path.json(&["adopt", "old"]);
    assert_eq!(done["containers"].as_array().map(Vec::len), Some(2), "{done}");
    path.running("old", "job");
    path.both(&["service", "show", "old"]);
    path.weft(&["service", "export", "old"]).ok();
    path.json(&["service", "export", "old"]);
    path.both(&["validate", &path.file("old").to_string_lossy()]);
    let mut edit = path.boxes.cluster.command(HERE);
    edit.args(["edit", "old"]).env("WEFT_SERVICES_DIR", &path.services);
    run(edit.env("EDITOR", "sed -i 1i#mine")).ok();
    let edited = std::fs::read_to_string(path.file("old")).expect("the definition");
    assert!(edited.starts_with("#mine\n"), "{edited}");
    let plan = path.both(&["plan", "old", "--if-changed"]);
    assert!(plan.as_array().is_some_and(|p| p.iter().all(|i| i["action"] == "keep")), "{plan}");
    path.both(&["deploy", "old", "--if-changed"]);
    assert_eq!(started(), before, "nothing was restarted");
}

fn a_service_of_two_components_is_deployed_and_one_of_them_again(path: &Path31) {
    std::fs::write(path.file("shop"), shop()).expect("writes");
    path.both(&["plan", "shop"]);
    let done = path.weft(&["deploy", "shop"]).ok();
    assert!(done.stdout.contains("api: ok") && done.stdout.contains("web: ok"), "{done:?}");
    let (api, web) = (path.running("shop", "api"), path.running("shop", "web"));
    for (row, name) in [(&api, "api"), (&web, "web")] {
        let url = format!("{}/index.html", text(&row["urls"][0]));
        let on = path.boxes.cluster.node_number(text(&row["node"]));
        path.until("it answers", || {
            path.boxes
                .cluster
                .curl(on, &url)
                .is_ok_and(|(code, body)| code == 200 && body.trim() == name)
                .then_some(())
        });
    }
    path.json(&["deploy", "shop/api"]);
    assert_ne!(path.running("shop", "api")["container"], api["container"]);
    assert_eq!(path.running("shop", "web")["container"], web["container"], "it was not named");
    path.both(&["list"]);
    path.both(&["ps"]);
    path.both(&["status", "shop"]);
    path.both(&["history", "shop"]);
    path.both(&["operations"]);
    path.both(&["logs", "shop", "-n", "5"]);
    path.both(&["stats", "shop", "--no-stream"]);
    let exec = path.weft(&["exec", "shop/web", "--", "cat", "/www/index.html"]).ok();
    assert_eq!(exec.stdout.trim(), "web");
}

fn kills_are_events_and_alerts(path: &Path31) {
    for _ in 0..3 {
        path.kill("shop", "web");
    }
    let events = path.weft(&["events", "shop"]).ok().stdout;
    assert!(events.contains("running -> exited"), "{events}");
    path.both(&["events", "shop"]);
    path.both(&["alerts"]);
    path.until("one of each kind has fired, and the rest are told of as suppressed", || {
        let fired =
            |kind: &str| path.alerts(kind).iter().filter(|alert| alert["state"] == "fired").count();
        let quiet = path.alerts("drift").iter().filter(|a| a["state"] != "fired").count();
        (fired("drift") == 1 && fired("flapping") == 1 && quiet == 2).then_some(())
    });
    path.until("the command was run for each", || {
        let kinds = std::fs::read_to_string(&path.told).ok()?;
        let mut kinds: Vec<&str> = kinds.lines().collect();
        kinds.sort_unstable();
        (kinds == ["drift", "flapping"]).then_some(())
    });
    let drift = path.alerts("drift").into_iter().find(|alert| alert["state"] == "fired");
    let id = drift.map(|alert| text(&alert["id"]).to_owned()).expect("it is there");
    let given = std::fs::read_to_string(format!("{}.{id}", path.told.display())).expect("it ran");
    let node = path.running("shop", "web")["node"].as_str().map(str::to_owned);
    for (name, value) in [
        ("COMPONENT", "web"),
        ("SERVICE", "shop"),
        ("NODE", node.as_deref().unwrap_or_default()),
        ("DESIRED", "running"),
        ("OBSERVED", "exited"),
        ("PREV_STATE", "running"),
        ("ALERT_TYPE", "drift"),
    ] {
        for prefix in ["MCP", "WEFT"] {
            let line = format!("{prefix}_{name}={value}");
            assert!(given.lines().any(|l| l == line), "{line} in {given}");
        }
    }
}

fn files_go_there_and_back(path: &Path31) {
    let (local, back) = (path.services.join("a.conf"), path.services.join("b.conf"));
    std::fs::write(&local, "line\n").expect("writes");
    let name = |path: &Path| path.to_string_lossy().into_owned();
    path.both(&["push", &name(&local), "shop", "conf/a.conf"]);
    path.weft(&["pull", "shop", "conf/a.conf", &name(&back)]).ok();
    path.json(&["pull", "shop", "conf/a.conf", &name(&back)]);
    assert_eq!(std::fs::read_to_string(&back).expect("it came"), "line\n");
    assert_eq!(path.weft(&["pull", "shop", "../x"]).code, 2);
    std::fs::remove_file(local).and_then(|()| std::fs::remove_file(back)).expect("they are there");
}

fn it_is_stopped_started_and_torn_down(path: &Path31) {
    let container = path.running("shop", "web")["container"].clone();
    path.both(&["stop", "shop"]);
    let file = || std::fs::read_to_string(path.file("shop")).expect("the definition");
    assert!(file().contains("active = false"), "{}", file());
    path.until("it is stopped", || {
        path.rows("shop").iter().all(|row| row["state"] == "stopped").then_some(())
    });
    path.both(&["start", "shop"]);
    path.both(&["restart", "shop"]);
    assert_eq!(path.running("shop", "web")["container"], container, "the same container");
    path.both(&["recover"]);
    path.json(&["undeploy", "shop", "--yes"]);
    path.until("it is gone", || path.rows("shop").is_empty().then_some(()));
    std::fs::remove_file(path.file("shop")).expect("it is there");
    path.json(&["purge", "shop", "--data", "--yes"]);
    assert!(!path.json(&["list"]).to_string().contains("shop"));
}

fn a_node_that_is_cut_off_is_missed_replaced_and_comes_back(path: &mut Path31) {
    let cluster = &mut path.boxes.cluster;
    cluster.deploy(HERE, &plain(3));
    let leader = cluster.settled(HERE);
    // Not the one that the operator is on, and not the leader: a follower's loss is the plain case.
    let gone = (1..3).find(|node| *node != leader).expect("one of two");
    let name = cluster.node_name(gone);
    let began = SystemClock.now();
    cluster.net.cut(gone);
    let missed = cluster
        .wait_until("it is missed", DEADLINE, |cluster| {
            let rows = cluster.nodes_json(HERE);
            let row = rows.iter().find(|row| row["name"] == name.as_str())?;
            (row["state"] == "lost").then(|| SystemClock.now() - began)
        })
        .0;
    let replaced = cluster
        .wait_until("its replica runs elsewhere", DEADLINE, |cluster| {
            let rows = cluster.ps_json(HERE);
            let elsewhere = rows.iter().filter(|row| {
                row["service"] == "plain" && row["state"] == "running" && row["node"] != *name
            });
            (elsewhere.count() == 3).then(|| SystemClock.now() - began)
        })
        .0;
    // §31: 3 s and 5 s; docs/benchmarks.md has them on a machine that does nothing else.
    eprintln!("measured: missed after {missed:?}, replaced after {replaced:?}");
    cluster.net.heal(gone);
    cluster.node_is(HERE, gone, &["ready"]);
    cluster.runs_exactly(&[("plain", 3)]);
}

fn a_node_is_drained_and_another_gets_a_new_daemon(path: &mut Path31) {
    path.json(&["node", "drain", "n3", "--timeout", "60s"]);
    // The copies there end once those elsewhere are well.
    path.until("nothing is left there", || {
        path.rows("plain").iter().all(|row| row["node"] != "n3").then_some(())
    });
    path.both(&["node", "undrain", "n3"]);
    path.both(&["node", "label", "n3", "disk=ssd"]);
    path.both(&["node", "status"]);
    // What an upgrade does: a daemon ends, the next one takes over what runs.
    let before = path.running("old", "job");
    path.boxes.cluster.restart(THERE);
    let after = path.running("old", "job");
    assert_eq!((&before["container"], &before["pid"]), (&after["container"], &after["pid"]));
    path.json(&["scale", "plain", "1"]);
    path.weft(&["undeploy", "plain", "--yes"]).ok();
    path.until("all is as wanted", || {
        (path.weft(&["status", "--exit-code"]).code == 0).then_some(())
    });
}

/// Those of this walk came in where the operator stands.
fn each_request_was_recorded_once(path: &Path31) {
    let audit = path.json(&["audit", "-n", "10000"]);
    let of = |method: &str| {
        let all = audit.as_array().expect("a list").iter();
        all.filter(|record| record["method"] == method).count()
    };
    // One more was given to it by the cluster.
    assert_eq!(of("gateway.deploy"), path.deploys.get() + 1, "{audit:#}");
}
