//! The command line as an operator meets it: refusals and their codes, questions on a terminal,
//! plans, what is followed, pages and scripts, and what is never said (orchestration §3, §7 to §10,
//! §19, §26, §28).

mod following;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use weft_identity::JoinToken;
use weft_tests::nodes::{NetCluster, hello};
use weft_tests::podman::{Boxes, IMAGE};
use weft_tests::pty::OnTerminal;
use weft_tests::{
    Cluster, DEADLINE, Done, bin_dir, ends, eventually, is_alive, kill_9, run, with_environment,
};
use weft_wire::codec;

/// One node with nothing on it.
fn one() -> Cluster {
    Cluster::with(&["--no-hello", "--nodes", "1"])
}

/// A component that does nothing; `more` stands at its end.
fn component(name: &str, more: &str) -> String {
    format!(
        "\n[[components]]\nname = \"{name}\"\ncmd = [\"/bin/sleep\", \"100000\"]\n\
         stop_grace = \"1s\"\n{more}\n"
    )
}

/// A service of such components; `top` stands at its beginning.
fn service(name: &str, top: &str, components: &[String]) -> String {
    format!("name = \"{name}\"\n{top}\n[update]\nhealthy_for = \"300ms\"\n{}", components.concat())
}

/// `api` and `db`.
fn pair(name: &str, top: &str) -> String {
    service(name, top, &[component("api", ""), component("db", "")])
}

fn deploy(cluster: &Cluster, name: &str, text: &str, more: &[&str]) -> Done {
    let file = cluster.definition(name, text);
    cluster.weft(&[&["deploy", "-f", &file][..], more].concat())
}

/// The rows of a list that was printed as JSON.
fn rows(done: &Done) -> Vec<Value> {
    let rows: Option<Value> = serde_json::from_str(&done.stdout).ok();
    rows.and_then(|rows| rows.as_array().cloned()).unwrap_or_default()
}

fn ps(cluster: &Cluster, service: &str) -> Vec<Value> {
    let rows = rows(&cluster.weft(&["ps", "--json"]));
    rows.into_iter().filter(|row| row["service"] == service).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Runs `weft` with that on its standard input.
fn fed(cluster: &Cluster, args: &[&str], input: &str) -> Done {
    let mut command = cluster.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("weft starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Starts the daemon of the only node again, with more at the end of its file.
fn configure(cluster: &mut Cluster, more: &str) {
    let file = cluster.data_dir("n1").join("node.toml");
    let node = std::fs::read_to_string(&file).expect("the node file");
    std::fs::write(&file, format!("{node}\n{more}")).expect("writes");
    cluster.kill_daemon("n1");
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
}

/// A program that goes on; killed on drop.
struct Running {
    child: Child,
    /// What it writes.
    file: PathBuf,
}

impl Running {
    /// What it writes goes into a file of that name.
    fn start(scratch: &Path, name: &str, command: &mut Command) -> Self {
        let file = scratch.join(name);
        let out = std::fs::File::create(&file).expect("a file");
        let err = out.try_clone().expect("a second handle");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("starts");
        Self { child, file }
    }

    /// The whole lines so far.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    /// Those that are JSON.
    fn items(&self) -> Vec<Value> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[track_caller]
    fn goes_on(&mut self) {
        let ended = self.child.try_wait().expect("a child");
        assert_eq!(ended.map(|status| status.code()), None, "it ended: {:#?}", self.lines());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_route_that_another_service_has_is_refused_with_its_holder_and_nothing_is_started() {
    let cluster = one();
    let routed = |name: &str, port: u16, host: &str| {
        let route = format!("[[components.routes]]\nport = {port}\nhostname = \"{host}\"");
        service(name, "", &[component("front", &route)])
    };
    deploy(&cluster, "holder", &routed("holder", 443, "shop.example.org"), &[]).ok();
    let taken = routed("comer", 443, "Shop.Example.org");
    let refused = deploy(&cluster, "comer", &taken, &[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    for says in ["port 443", "`shop.example.org`", "`holder/front`", "service comer", "help:"] {
        assert!(refused.stderr.contains(says), "{says}: {refused:?}");
    }
    let refused = deploy(&cluster, "comer", &taken, &["--json"]);
    let last = refused.stderr.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {refused:?}"));
    let error = &error["error"];
    let named = (text(error, "code"), text(error, "service"), text(error, "component"));
    assert_eq!((refused.code, named), (1, ("conflict", "comer", "front")), "{refused:?}");

    assert_eq!(ps(&cluster, "comer"), Vec::<Value>::new());
    assert_eq!(cluster.weft(&["service", "show", "comer"]).code, 1, "nothing of it was agreed");
    assert!(!cluster.data_dir("n1").join("components/comer").exists(), "nothing was started");
    // Another port, another name, or the same once its holder is gone.
    deploy(&cluster, "c", &routed("c", 444, "shop.example.org"), &[]).ok();
    deploy(&cluster, "d", &routed("d", 443, "www.example.org"), &[]).ok();
    cluster.weft(&["undeploy", "holder", "--yes"]).ok();
    deploy(&cluster, "comer", &taken, &[]).ok();
    cluster.running("n1", "comer", "n1");
}

#[test]
fn an_image_without_a_fixed_tag_is_refused_by_the_name_of_its_component() {
    let cluster = one();
    let text = "name = \"shop\"\n\n[[components]]\nname = \"front\"\n\
                image = \"r.example/front:Latest\"\n\n[[components]]\nname = \"store\"\n\
                image = \"r.example:8443/store\"\n\n[[components]]\nname = \"good\"\n\
                image = \"r.example:8443/good:1\"\n";
    let file = cluster.definition("shop", text);
    for args in [&["validate", &file][..], &["plan", "-f", &file], &["deploy", "-f", &file]] {
        let done = cluster.weft(args);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert_eq!(done.code, 2, "{args:?}: {done:?}");
        for says in [
            "component `front`: image tag `Latest` is not allowed",
            "component `store`: image has no tag",
        ] {
            assert!(said.contains(says), "{args:?}, {says}: {done:?}");
        }
        assert!(!said.contains("component `good`"), "{args:?}: {done:?}");
    }
    assert_eq!(cluster.weft(&["service", "show", "shop"]).code, 1);
}

#[test]
fn a_container_of_a_latest_image_is_adopted_with_a_warning_and_runs_on() {
    let Some(boxes) = Boxes::start(1) else { return };
    let podman = &boxes.podman[0];
    podman.podman(&["tag", IMAGE, "localhost/loose:latest"]).ok();
    let begin = ["run", "-d", "--name", "loose", "localhost/loose:latest", "/bin/sleep", "100000"];
    let id = podman.podman(&begin).ok().stdout.trim().to_owned();
    let state = || podman.field(&id, "{{.State.StartedAt}} {{.State.Pid}} {{.State.Running}}");
    let before = state();
    let done = boxes.cluster.weft(0, &["adopt", "loose"]).ok();
    for says in ["loose -> loose/loose: ok", "its exact image", "loose:latest"] {
        assert!(done.stdout.contains(says), "{says}: {done:?}");
    }
    boxes.cluster.running(0, "loose", 0);
    assert_eq!(state(), before, "it was not restarted");

    // What was adopted can be had as a file; that one has to be given a tag.
    let file = boxes.cluster.scratch().join("loose.toml").to_string_lossy().into_owned();
    boxes.cluster.weft(0, &["service", "export", "loose", "-f", &file]).ok();
    let refused = boxes.cluster.weft(0, &["deploy", "-f", &file]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let says = "component `loose`: image tag `latest` is not allowed";
    assert!(refused.stderr.contains(says), "{refused:?}");
    assert_eq!(state(), before);
}

#[test]
fn a_daemon_whose_node_file_is_empty_names_everything_that_is_required_and_ends_with_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.toml");
    for text in ["", "[fabric]\nbind = \"127.0.0.1:0\"\n"] {
        std::fs::write(&file, text).expect("writes");
        for verb in ["run", "config"] {
            let mut weftd = Command::new(bin_dir().join("weftd"));
            weftd.arg(verb).arg("--config").arg(&file);
            weftd.env_remove("WEFT_NODE_NAME").env_remove("WEFT_NODE_DATA_DIR");
            let done = ends(&mut weftd);
            assert_eq!(done.code, 2, "{verb}: {done:?}");
            for says in [
                "missing key `name` in [node]",
                "missing key `data_dir` in [node]",
                "WEFT_NODE_NAME",
                "WEFT_NODE_DATA_DIR",
            ] {
                assert!(done.stderr.contains(says), "{verb}, {says}: {done:?}");
            }
        }
    }
    let left = std::fs::read_dir(dir.path()).expect("lists").count();
    assert_eq!(left, 1, "nothing was made");
}

/// Answers a question on a terminal: it ends with that code, and with these words last.
#[track_caller]
fn answered(command: &mut Command, question: &str, answer: &str, (code, last): (i32, &str)) {
    let mut asked = OnTerminal::start(command, 120, 30);
    asked.shows(question);
    asked.types(&format!("{answer}\n"));
    assert_eq!(asked.end(), (code, true), "{answer:?}: {}", asked.shown());
    eventually(&format!("{last:?} after {answer:?}"), || {
        asked.shown().contains(last).then_some(())
    });
}

#[test]
fn on_a_terminal_a_prune_is_asked_for_and_a_purge_of_data_wants_the_name_typed() {
    let cluster = one();
    let dir = cluster.scratch().join("services");
    std::fs::create_dir(&dir).expect("a directory");
    let command = |args: &[&str]| {
        let mut command = cluster.command(args);
        command.env("WEFT_SERVICES_DIR", &dir);
        command
    };
    let weft = |args: &[&str]| run(&mut command(args));
    for name in ["web", "old"] {
        std::fs::write(dir.join(format!("{name}.toml")), pair(name, "")).expect("writes");
        weft(&["deploy", name]).ok();
    }
    std::fs::remove_file(dir.join("old.toml")).expect("it was there");

    let (declined, prune) = ((1, "nothing was done"), "Go on? [y/N]");
    for no in ["", "n", "old"] {
        answered(&mut command(&["sync", "--prune"]), prune, no, declined);
        let states: Vec<Value> = ps(&cluster, "old").iter().map(|r| r["state"].clone()).collect();
        assert_eq!(states, ["running", "running"], "{no:?}");
    }
    // What it asks about is what it would do.
    answered(&mut command(&["sync", "--prune"]), "undeploy old,", "n", declined);
    answered(&mut command(&["sync", "--prune"]), prune, "y", (0, "1 changed, 1 unchanged"));
    eventually("it is gone", || ps(&cluster, "old").is_empty().then_some(()));
    assert_eq!(ps(&cluster, "web").len(), 2, "what has a file stays");

    let data = cluster.data_dir("n1").join("services/old");
    assert!(data.exists(), "its data stays");
    let typed = "Type `old` to go on:";
    for no in ["", "y", "yes", "web", "ol"] {
        answered(&mut command(&["purge", "old", "--data"]), typed, no, declined);
        assert!(data.exists(), "{no:?}");
    }
    assert_eq!(weft(&["history", "old"]).code, 0, "it is known as before");
    answered(&mut command(&["purge", "old", "--data"]), typed, "old", (0, "old: purged"));
    assert!(!data.exists());
    assert_eq!(weft(&["history", "old"]).code, 1);
}

#[test]
fn a_first_deploy_of_an_inactive_definition_is_stored_and_says_that_nothing_is_started() {
    let cluster = one();
    let dir = cluster.scratch().join("services");
    std::fs::create_dir(&dir).expect("a directory");
    let weft = |args: &[&str]| run(cluster.command(args).env("WEFT_SERVICES_DIR", &dir));
    let mark = format!("MARK=inactive-{}", std::process::id());
    let with_mark = component("api", &format!("env = [\"{mark}\"]"));
    let given = service("later", "active = false", &[with_mark]);
    let file = dir.join("later.toml");
    std::fs::write(&file, &given).expect("writes");
    let read = || std::fs::read_to_string(&file).expect("reads");

    let done = weft(&["deploy", "later"]).ok();
    let says = "later has `active = false`: the definition is stored, nothing is started";
    assert!(done.stderr.contains(says), "{done:?}");
    assert_eq!(read(), given, "a deploy changes no file");
    let shown = weft(&["service", "show", "later"]).ok().stdout;
    assert!(shown.contains("active = false") && shown.contains(&mark), "{shown}");
    assert_eq!(rows(&weft(&["history", "later", "--json"])).len(), 1);
    let wanted = rows(&weft(&["list", "--json"]));
    assert!(
        !wanted.is_empty() && wanted.iter().all(|row| row["desired"] == "stopped"),
        "{wanted:?}"
    );
    let there = ps(&cluster, "later");
    assert!(there.iter().all(|row| row["pid"].is_null() && row["state"] == "stopped"), "{there:?}");
    assert_eq!(with_environment(&mark), Vec::<u32>::new(), "nothing was started");
    let status = weft(&["status", "--exit-code"]);
    assert_eq!(status.code, 0, "and that is as wanted: {status:?}");

    weft(&["start", "later"]).ok();
    cluster.running("n1", "later", "n1");
    assert!(!with_environment(&mark).is_empty());
    assert_eq!(read(), given.replace("active = false", "active = true"));
}

/// Operations as a node lists them.
fn operation(cluster: &NetCluster, through: usize, id: u64) -> Option<Value> {
    let rows = rows(&cluster.weft(through, &["operations", "--json"]));
    rows.into_iter().find(|row| row["id"].as_u64() == Some(id))
}

#[test]
fn a_drain_whose_leader_dies_in_the_middle_of_it_is_seen_to_its_end_by_the_next_one() {
    let Some(mut cluster) = NetCluster::start(3) else { return };
    let leader = cluster.settled(0);
    let (drained, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (from, dies) = (cluster.node_name(drained), cluster.node_name(leader));
    // All begin on one node, may go to the third only, and take their time to become healthy.
    let placement = format!(
        "\n\n[placement]\ncolocate = true\nrequire = [\"name!={dies}\"]\n\
         prefer = [\"name={from}\"]\n\n[[components]]"
    );
    let slow = "env = [\"HELLO_START_DELAY_MS=1500\"]\n\n[[components.routes]]";
    let definition = hello("web", 3).replacen("\n\n[[components]]", &placement, 1).replacen(
        "[[components.routes]]",
        slow,
        1,
    );
    let health = "\n[components.health]\nkind = \"http\"\npath = \"/health\"\n\
                  interval = \"200ms\"\nstart_period = \"60s\"\n";
    cluster.deploy(leader, &format!("{definition}{health}"));
    let places: Vec<usize> = cluster.places(other).into_values().collect();
    assert_eq!(places, [drained; 3]);

    let done = cluster.weft(other, &["node", "drain", &from, "--no-wait", "--json"]).ok().json();
    let id = done["operation"].as_u64().unwrap_or_else(|| panic!("no operation in {done}"));
    let (middle, _) = cluster.wait_until("one of three has moved", DEADLINE, |cluster| {
        let row = operation(cluster, other, id)?;
        let moves = row["steps"].as_array()?.iter().find(|step| step["name"] == "move")?;
        text(moves, "detail").starts_with("1 of 3").then(|| row.clone())
    });
    assert_eq!((text(&middle, "kind"), text(&middle, "owner")), ("drain", dies.as_str()));
    assert!(middle["outcome"].is_null(), "it goes on: {middle}");
    cluster.kill(leader);
    let (next, _) = cluster.led_by_another(other, leader);
    let id_text = id.to_string();
    let args = ["operations", &id_text, "--json", "--timeout", "60s"];
    let watched = cluster.weft(other, &args).ok();
    let row: Value = serde_json::from_str(watched.stdout.trim()).expect("JSON");
    assert_eq!(row["id"].as_u64(), Some(id), "the same one: {row}");
    assert_eq!((text(&row, "kind"), text(&row, "outcome")), ("drain", "done"), "{row}");
    assert_eq!(text(&row, "owner"), cluster.node_name(next), "{row}");
    assert!(middle["started_at"] == row["started_at"] && row["finished_at"].is_string(), "{row}");
    let places: Vec<usize> = cluster.places(other).into_values().collect();
    assert_eq!(places, [other; 3]);
    cluster.wait_until("all three run on the third node only", DEADLINE, |cluster| {
        let copies = (0..3).map(|node| cluster.copies(node, "web").len());
        copies.eq((0..3).map(|node| if node == other { 3 } else { 0 })).then_some(())
    });
}

/// What a plan would do, by component, replica and node.
fn planned(cluster: &Cluster, name: &str, text_of: &str) -> Vec<(String, u64, String, String)> {
    let file = cluster.definition(name, text_of);
    let plan = cluster.weft(&["plan", "-f", &file, "--json"]).ok();
    let of = |row: &Value| {
        assert!(row["problem"].is_null(), "{row}");
        let owned = |key: &str| text(row, key).to_owned();
        let replica = row["replica"].as_u64().expect("a replica");
        (owned("component"), replica, owned("node"), owned("action"))
    };
    rows(&plan).iter().map(of).collect()
}

#[test]
fn a_plan_shows_what_would_be_stopped_removed_and_moved_and_does_none_of_it() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    deploy(&cluster, "web", &pair("web", "replicas = 2"), &[]).ok();
    let pinned =
        |node: &str| service("one", &format!("node = \"{node}\""), &[component("api", "")]);
    deploy(&cluster, "one", &pinned("n1"), &[]).ok();
    let running = || -> BTreeMap<String, u64> {
        let rows = ps(&cluster, "web").into_iter().chain(ps(&cluster, "one"));
        let key = |row: &Value| {
            format!("{}/{}/{}", text(row, "service"), row["replica"], text(row, "component"))
        };
        rows.filter_map(|row| Some((key(&row), row["pid"].as_u64()?))).collect()
    };
    let before = running();
    assert_eq!(before.len(), 5, "{before:?}");
    let on: BTreeMap<u64, String> = ps(&cluster, "web")
        .iter()
        .filter_map(|row| Some((row["replica"].as_u64()?, text(row, "node").to_owned())))
        .collect();
    let row = |component: &str, replica: u64, action: &str| {
        (component.to_owned(), replica, on[&replica].clone(), action.to_owned())
    };

    // All of it is stopped.
    let stopped = planned(&cluster, "web", &pair("web", "replicas = 2\nactive = false"));
    let all = |action: &str| {
        [("api", 1), ("db", 1), ("api", 2), ("db", 2)].map(|(name, n)| row(name, n, action))
    };
    assert_eq!(stopped, all("stop"));
    // A component goes, or a replica.
    let alone = service("web", "replicas = 2", &[component("api", "")]);
    let without = planned(&cluster, "web", &alone);
    assert_eq!(
        without,
        [
            row("api", 1, "keep"),
            row("db", 1, "remove"),
            row("api", 2, "keep"),
            row("db", 2, "remove")
        ]
    );
    let fewer = planned(&cluster, "web", &pair("web", "replicas = 1"));
    assert_eq!(
        fewer,
        [
            row("api", 1, "keep"),
            row("db", 1, "keep"),
            row("api", 2, "remove"),
            row("db", 2, "remove")
        ]
    );
    // What is pinned elsewhere goes here and comes there.
    let moved = planned(&cluster, "one", &pinned("n2"));
    let at =
        |node: &str, action: &str| ("api".to_owned(), 1u64, node.to_owned(), action.to_owned());
    assert_eq!(moved, [at("n1", "remove"), at("n2", "create")]);
    let file = cluster.definition("one", &pinned("n2"));
    let table = cluster.weft(&["plan", "-f", &file]).ok().stdout;
    let line = |action: &str| table.lines().find(|line| line.contains(action)).unwrap_or_default();
    assert!(line("create").contains("n2") && line("create").contains("node"), "{table}");
    assert!(line("remove").contains("n1"), "{table}");

    assert_eq!(running(), before, "nothing was done");
    let wanted = rows(&cluster.weft(&["list", "--json"]));
    assert!(wanted.iter().all(|row| row["revision"] == 1 && row["desired"] == "running"));
}

#[test]
fn a_definition_comes_from_standard_input_and_a_component_that_it_lacks_is_told_those_it_has() {
    let cluster = one();
    let given = pair("web", "");
    let done = fed(&cluster, &["deploy", "-f", "-"], &given).ok();
    assert!(done.stdout.contains("api: ok") && done.stdout.contains("db: ok"), "{done:?}");
    let pid = |component: &str| {
        let rows = ps(&cluster, "web");
        // Not of the extra replica of an update.
        let mut own = rows.iter().filter(|row| row["replica"] == 1);
        own.find(|row| row["component"] == component)?["pid"].as_u64()
    };
    let before = (pid("api"), pid("db"));
    assert!(before.0.is_some() && before.1.is_some(), "{before:?}");
    // As a target, and with one component alone.
    fed(&cluster, &["deploy", "web/api", "-f", "-"], &given).ok();
    eventually("only that one was started anew", || {
        let now = (pid("api")?, pid("db")?);
        (Some(now.0) != before.0 && Some(now.1) == before.1).then_some(())
    });

    // By the given file and by the one that is stored.
    for done in [
        fed(&cluster, &["deploy", "web/cache", "-f", "-"], &given),
        cluster.weft(&["deploy", "web/cache"]),
        cluster.weft(&["plan", "web/cache"]),
    ] {
        assert_eq!(done.code, 2, "{done:?}");
        for says in ["no component `cache`", "its components are: api, db"] {
            assert!(done.stderr.contains(says), "{says}: {done:?}");
        }
    }
    let wrong = fed(&cluster, &["deploy", "-f", "-"], "name = \"web\"\nreplica = 2\n");
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.stderr.contains("<stdin>:2:1"), "{wrong:?}");
    let other = fed(&cluster, &["deploy", "shop", "-f", "-"], &given);
    assert!(other.code == 2 && other.stderr.contains("`web`, not of `shop`"), "{other:?}");
    assert_eq!(rows(&cluster.weft(&["history", "web", "--json"])).len(), 1);
}

#[test]
fn a_deploy_that_takes_longer_than_its_timeout_ends_with_7_and_goes_on() {
    let cluster = one();
    // It becomes healthy only once a file is there.
    let health = "[components.health]\nkind = \"exec\"\ncommand = [\"test\", \"-f\", \"go\"]\n\
                  interval = \"100ms\"\nstart_period = \"1h\"";
    let slow = service("slow", "", &[component("api", health)]);
    let late = deploy(&cluster, "slow", &slow, &["--timeout", "2s", "--json"]);
    assert_eq!(late.code, 7, "{late:?}");
    let view = late.json();
    assert_eq!((&view["timed_out"], &view["good"]), (&Value::Bool(true), &0.into()), "{view}");
    let last = late.stderr.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {late:?}"));
    assert_eq!(text(&error["error"], "code"), "timeout", "{late:?}");
    let id = view["operation"].as_u64().unwrap_or_else(|| panic!("no operation in {view}"));
    let watched = cluster.weft(&["operations", &id.to_string(), "--timeout", "1s"]);
    assert_eq!(watched.code, 7, "so does watching it: {watched:?}");

    let go = cluster.scratch().join("go");
    std::fs::write(&go, "").expect("writes");
    cluster.weft(&["push", &go.to_string_lossy(), "slow"]).ok();
    let done = cluster.weft(&["operations", &id.to_string(), "--json"]).ok();
    assert_eq!(text(&done.json(), "outcome"), "done", "{done:?}");
    cluster.running("n1", "slow", "n1");
}

/// Commands that a help text lists.
fn listed(words: &[String]) -> Vec<String> {
    let done = run(Command::new(bin_dir().join("weft")).args(words).arg("-h")).ok();
    done.stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.trim().is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|rest| !rest.starts_with(' '))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Every command, as its words.
fn commands(words: &[String], all: &mut Vec<Vec<String>>) {
    for name in listed(words) {
        let mut words = words.to_vec();
        words.push(name);
        all.push(words.clone());
        commands(&words, all);
    }
}

#[test]
fn every_command_has_a_manual_page_and_shells_get_their_scripts() {
    let weft = |args: &[&str]| run(Command::new(bin_dir().join("weft")).args(args));
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("share/man1");
    let to = pages.to_string_lossy().into_owned();
    let done = weft(&["man", &to, "--json"]).ok().json();
    assert_eq!(text(&done, "dir"), to);
    let mut all = vec![Vec::new()];
    commands(&[], &mut all);
    assert!(all.len() > 50, "{all:?}");
    let page = |words: &Vec<String>| {
        let words: Vec<&str> =
            std::iter::once("weft").chain(words.iter().map(String::as_str)).collect();
        words.join("-") + ".1"
    };
    let mut expected: Vec<String> = all.iter().map(page).collect();
    expected.sort_unstable();
    let mut made: Vec<String> = std::fs::read_dir(&pages)
        .expect("lists")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    made.sort_unstable();
    assert_eq!(made, expected);
    assert_eq!(done["pages"].as_array().map(Vec::len), Some(made.len()), "{done}");
    for page in &made {
        let text = std::fs::read_to_string(pages.join(page)).expect("reads");
        assert!(text.starts_with(".ie ") || text.starts_with(".TH "), "{page}: {text}");
        let name = page.trim_end_matches(".1");
        let plain = text.replace("\\-", "-");
        let title = plain.lines().find(|line| line.starts_with(".TH "));
        let title = title.unwrap_or_else(|| panic!("{page} has no title: {text}")).to_lowercase();
        assert!(title.contains(name), "{page}: {title}");
        for section in [".SH NAME", ".SH SYNOPSIS"] {
            assert!(plain.contains(section), "{page} has no {section}: {text}");
        }
    }
    // Again, over what is there.
    std::fs::write(pages.join("weft.1"), "old").expect("writes");
    weft(&["man", &to]).ok();
    assert!(!std::fs::read_to_string(pages.join("weft.1")).expect("reads").starts_with("old"));

    for (shell, says) in
        [("zsh", "#compdef weft"), ("fish", "complete"), ("bash", "complete"), ("elvish", "weft")]
    {
        let script = weft(&["completions", shell]).ok().stdout;
        assert!(script.contains(says) && script.contains("weft"), "{shell}: {script}");
    }
    assert_eq!(weft(&["completions", "tcsh"]).code, 2);
}

#[test]
fn a_transfer_above_256_kib_shows_how_far_it_is_on_a_terminal_and_nowhere_else() {
    let cluster = one();
    deploy(&cluster, "web", &service("web", "", &[component("api", "")]), &[]).ok();
    let local = |name: &str, size: usize| {
        let file = cluster.scratch().join(name);
        std::fs::write(&file, vec![b'x'; size]).expect("writes");
        file.to_string_lossy().into_owned()
    };
    let (large, small) = (local("large", 1 << 20), local("small", 256 << 10));
    // Everything that was shown until the last word of it.
    let shown = |args: &[&str], last: &str| {
        let mut terminal = OnTerminal::start(&mut cluster.command(args), 120, 30);
        assert_eq!(terminal.end(), (0, true), "{}", terminal.shown());
        eventually(&format!("{last} is shown"), || {
            let shown = terminal.shown();
            shown.contains(last).then_some(shown)
        })
    };
    let bar = shown(&["push", &large, "web"], "1048576 bytes -> web:large");
    for part in ["push large [....", "0 B of 1.0 MiB", "####] 1.0 MiB of 1.0 MiB", "\r\u{1b}[K"] {
        assert!(bar.contains(part), "{part:?} in {bar:?}");
    }
    let at = bar.find("of 1.0 MiB").zip(bar.find("1048576 bytes"));
    assert!(at.is_some_and(|(bar, result)| bar < result), "{bar:?}");
    let none = |what: &str, text: &str| {
        assert!(!text.contains("[#") && !text.contains("..]"), "{what}: {text:?}");
        assert!(!text.contains('\u{1b}'), "{what}: {text:?}");
    };
    none("small", &shown(&["push", &small, "web"], "262144 bytes -> web:small"));
    none("quiet", &shown(&["push", &large, "web", "-q"], "1048576 bytes -> web:large"));
    let json = shown(&["push", &large, "web", "--json"], "\"bytes\":1048576");
    none("as JSON", &json);
    let done = cluster.weft(&["push", &large, "web"]).ok();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("1048576 bytes -> web:large\n", ""));
}

#[test]
fn the_state_of_a_node_counts_what_is_on_it_and_says_how_long_it_and_its_machine_run() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    cluster.node_is("n1", "n2", "ready");
    deploy(&cluster, "web", &pair("web", "replicas = 2"), &[]).ok();
    let pinned = service("one", "node = \"n1\"", &[component("api", "")]);
    deploy(&cluster, "one", &pinned, &[]).ok();
    let of = |cluster: &Cluster, through: &str, name: &str| -> Option<Value> {
        let rows = rows(&cluster.weft(&["--node", through, "node", "status", "--json"]));
        rows.into_iter().find(|row| row["name"] == name)
    };
    for through in ["n1", "n2"] {
        for (name, services, components) in [("n1", 2, 3), ("n2", 1, 2)] {
            let row = eventually("its peer's clock is known", || {
                let row = of(&cluster, through, name)?;
                row["peers"][0]["clock_offset_us"].is_i64().then_some(row)
            });
            assert_eq!(
                (&row["services"], &row["components"]),
                (&services.into(), &components.into()),
                "{row}"
            );
            let offset = row["peers"][0]["clock_offset_us"].as_i64().expect("a number");
            assert!(offset.abs() < 2_000_000, "it is one machine's clock: {row}");
            let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"));
            assert!((0.0..1000.0).contains(&number("load1")), "{row}");
            assert!((0.0..=100.0).contains(&number("cpu_percent")), "{row}");
            assert!(number("memory_available") <= number("memory_total"), "{row}");
            assert!(number("disk_free") <= number("disk_total"), "{row}");
            assert!(number("daemon_uptime_secs") < 300.0, "it was just started: {row}");
            let uptime = std::fs::read_to_string("/proc/uptime").expect("reads");
            let uptime: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).expect("one");
            assert!((uptime - number("host_uptime_secs")).abs() < 120.0, "{uptime}: {row}");
            assert!(row["draining"] == false && row["arch"] == std::env::consts::ARCH, "{row}");
        }
    }
    // A daemon's own time begins anew with it, its machine's does not.
    cluster.kill_daemon("n2");
    cluster.start_daemon("n2");
    cluster.node_is("n1", "n2", "ready");
    let up =
        |cluster: &Cluster, name: &str| of(cluster, "n1", name)?["daemon_uptime_secs"].as_u64();
    eventually("n2's daemon is the younger one", || {
        (up(&cluster, "n2")? < up(&cluster, "n1")?).then_some(())
    });
    let (older, younger) = (of(&cluster, "n1", "n1"), of(&cluster, "n1", "n2"));
    let machine = |row: Option<Value>| row.and_then(|row| row["host_uptime_secs"].as_u64());
    let (older, younger) = (machine(older).expect("known"), machine(younger).expect("known"));
    assert!(older.abs_diff(younger) < 120, "{older} and {younger}");
}
