//! Definitions as files and in the cluster: out of it again, edited, and all of them at once
//! (orchestration §3.5, §7, §9, §10).

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use weft_tests::podman::{Boxes, IMAGE};
use weft_tests::{Cluster, DEADLINE, Done, bin_dir, eventually, run};

/// One node, and a services directory of its own.
struct Bench {
    cluster: Cluster,
    dir: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
        let dir = cluster.scratch().join("services");
        std::fs::create_dir(&dir).expect("a directory");
        Self { cluster, dir }
    }

    fn weft(&self, args: &[&str]) -> Done {
        run(self.cluster.command(args).env("WEFT_SERVICES_DIR", &self.dir))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).expect("writes");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).expect("reads")
    }

    /// `sync` with these arguments: what is said of each service.
    fn sync(&self, args: &[&str]) -> Vec<(String, String, bool)> {
        let done = self.weft(&[&["sync", "--json"][..], args].concat()).ok().json();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = done["services"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| (text(row, "service"), text(row, "action"), row["changed"] == true))
            .collect()
    }

    fn state(&self, service: &str) -> Option<String> {
        let done = self.weft(&["ps", "--json"]);
        let rows: Value = serde_json::from_str(&done.stdout).ok()?;
        let row = rows.as_array()?.iter().find(|row| row["service"] == service)?.clone();
        row["state"].as_str().map(str::to_owned)
    }

    fn pid(&self, service: &str) -> Option<u64> {
        self.cluster.running("n1", service, "n1")["pid"].as_u64()
    }
}

fn service(name: &str, more: &str) -> String {
    format!(
        "# {name} is mine\nname = \"{name}\" # keep\n{more}\n[update]\n\
         healthy_for = \"500ms\"\n\n[[components]]\nname = \"api\"\n\
         cmd = [\"{}\"]\nstop_grace = \"2s\"\n\n[[components.routes]]\nport = 443\n",
        bin_dir().join("hello").display()
    )
}

fn all(of: &[(&str, &str, bool)]) -> Vec<(String, String, bool)> {
    of.iter().map(|(name, action, did)| ((*name).into(), (*action).into(), *did)).collect()
}

#[test]
fn what_is_shown_is_exported_byte_for_byte_and_deployed_again_changes_nothing() {
    let bench = Bench::new();
    let given = service("web", "comment = \"a \\\"b\\\" $(c)\"\n");
    bench.write("web", &given);
    bench.weft(&["deploy", "web"]).ok();
    let pid = bench.pid("web");
    let shown = bench.weft(&["service", "show", "web"]).ok().stdout;
    assert_eq!(bench.weft(&["service", "show", "web"]).ok().stdout, shown);
    assert!(shown.starts_with("name = \"web\"\ncomment = "), "{shown}");
    let json = bench.weft(&["service", "show", "web", "--json"]).ok().json();
    assert_eq!((&json["definition"], &json["revision"]), (&shown.as_str().into(), &1.into()));

    // A file that says the same keeps its comments.
    let done = bench.weft(&["service", "export", "web"]).ok();
    assert!(done.stdout.contains("web.toml"), "{done:?}");
    assert_eq!(bench.read("web"), given);
    // One that differs is not replaced unasked.
    bench.write("web", &given.replace("2s", "3s"));
    let refused = bench.weft(&["service", "export", "web"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(bench.read("web").contains("3s"));
    bench.weft(&["service", "export", "web", "--yes"]).ok();
    assert_eq!(bench.read("web"), shown);
    let elsewhere = bench.cluster.scratch().join("else").join("w.toml");
    let to = elsewhere.to_str().expect("a path");
    bench.weft(&["service", "export", "web", "-f", to]).ok();
    assert_eq!(std::fs::read_to_string(&elsewhere).expect("it is there"), shown);

    let plan = bench.weft(&["plan", "web", "--if-changed", "--json"]).ok().json();
    assert_eq!(plan[0]["action"], "keep", "{plan}");
    bench.weft(&["deploy", "web", "--if-changed"]).ok();
    assert_eq!(bench.pid("web"), pid, "nothing is started anew");

    let unknown = bench.weft(&["service", "show", "nothing"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("its services are: web"), "{unknown:?}");
}

#[test]
fn the_definition_is_the_given_file_then_that_of_the_directory_then_the_last_one() {
    let bench = Bench::new();
    let nothing = bench.weft(&["deploy", "web"]);
    assert_eq!(nothing.code, 2, "{nothing:?}");
    assert!(nothing.stderr.contains("write web.toml"), "{nothing:?}");
    let env = |text: &str| {
        service("web", "").replace("stop_grace", &format!("env = [\"A={text}\"]\nstop_grace"))
    };
    let shown = |bench: &Bench| bench.weft(&["service", "show", "web"]).ok().stdout;
    bench.write("web", &env("dir"));
    let given = bench.cluster.definition("given", &env("file"));
    bench.weft(&["deploy", "web", "-f", &given]).ok();
    assert!(shown(&bench).contains("A=file"));
    bench.weft(&["deploy", "web"]).ok();
    assert!(shown(&bench).contains("A=dir"));
    assert_eq!(bench.read("web"), env("dir"), "a deploy changes no file");
    std::fs::remove_file(bench.file("web")).expect("it was there");
    let last = bench.weft(&["deploy", "web", "--if-changed"]).ok();
    assert!(last.stderr.contains("no local definition of web: using revision"), "{last:?}");
    assert!(shown(&bench).contains("A=dir"));
}

#[test]
fn an_edited_definition_is_checked_and_with_mistakes_the_old_file_stays() {
    let bench = Bench::new();
    bench.write("web", &service("web", ""));
    bench.weft(&["deploy", "web"]).ok();
    std::fs::remove_file(bench.file("web")).expect("it was there");
    let editor = |name: &str, script: &str| -> String {
        let file = bench.cluster.scratch().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("writes");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("can be run");
        file.to_string_lossy().into_owned()
    };
    let edit = |editor: &str, verb: &[&str]| {
        let args = [verb, &["web"]].concat();
        let mut command = bench.cluster.command(&args);
        run(command.env("WEFT_SERVICES_DIR", &bench.dir).env("EDITOR", editor))
    };
    // There is no file: it is exported first.
    let done = edit(&editor("longer", "sed -i s/2s/4s/ \"$1\""), &["service", "edit"]).ok();
    assert!(done.stderr.contains("exported first"), "{done:?}");
    assert!(done.stdout.contains("-stop_grace = \"2s\"\n+stop_grace = \"4s\""), "{done:?}");
    let good = bench.read("web");
    assert!(good.contains("4s"));
    for (name, script, says) in [
        ("typo", "sed -i s/stop_grace/stop_grease/ \"$1\"", "stop_grease"),
        ("rename", "sed -i '1s/web/shop/' \"$1\"", "of service `shop`"),
        ("gone", "exit 3", "exit status: 3"),
        ("text", "echo nonsense >\"$1\"", "web.toml"),
    ] {
        let done = edit(&editor(name, script), &["edit"]);
        assert!(done.code != 0 && done.stderr.contains(says), "{name}: {done:?}");
        assert_eq!(bench.read("web"), good, "{name}");
    }
    let same = edit("true", &["edit"]).ok();
    assert!(same.stdout.contains("unchanged"), "{same:?}");
    let left: Vec<_> = std::fs::read_dir(&bench.dir).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "no drafts are left: {left:?}");
}

#[test]
fn stop_start_and_undeploy_edit_the_active_line_of_the_file_and_nothing_else() {
    let bench = Bench::new();
    let given = service("web", "active = true   # now\n");
    bench.write("web", &given);
    bench.weft(&["deploy", "web"]).ok();
    bench.weft(&["stop", "web"]).ok();
    let off = given.replace("active = true ", "active = false ");
    assert_eq!(bench.read("web"), off);
    // A deploy of it records, starts nothing, and says so.
    let done = bench.weft(&["deploy", "web"]).ok();
    assert!(done.stderr.contains("`active = false`"), "{done:?}");
    assert_ne!(bench.state("web").as_deref(), Some("running"));
    bench.weft(&["start", "web"]).ok();
    assert_eq!(bench.read("web"), given);
    bench.weft(&["stop", "web/api"]).ok();
    assert_eq!(bench.read("web"), given, "one component's state is not in the file");
    bench.weft(&["undeploy", "web", "--yes"]).ok();
    assert_eq!(bench.read("web"), off);
    bench.write("shop", &service("shop", ""));
    bench.weft(&["deploy", "shop"]).ok();
    std::fs::remove_file(bench.file("shop")).expect("it was there");
    let done = bench.weft(&["stop", "shop"]).ok();
    assert!(done.stderr.contains("only the cluster's flag"), "{done:?}");
}

#[test]
fn sync_records_what_is_new_follows_the_active_lines_and_says_the_second_time_that_nothing_is_new()
{
    let bench = Bench::new();
    bench.write("web", &service("web", ""));
    bench.write("shop", &service("shop", ""));
    bench.weft(&["deploy", "web"]).ok();
    let dry = bench.weft(&["sync", "--dry-run", "--exit-code"]);
    assert_eq!(dry.code, 8, "{dry:?}");
    assert!(dry.stdout.contains("shop: changed: new: recorded"), "{dry:?}");
    assert!(bench.weft(&["service", "show", "shop"]).code != 0, "nothing was done");

    assert_eq!(bench.sync(&[]), all(&[("shop", "record", true), ("web", "unchanged", false)]));
    assert!(bench.weft(&["service", "show", "shop"]).ok().stdout.contains("name = \"shop\""));
    let unchanged = all(&[("shop", "unchanged", false), ("web", "unchanged", false)]);
    assert_eq!(bench.sync(&[]), unchanged);
    assert_eq!(bench.state("shop"), None, "recorded, and nothing more");
    assert_eq!(bench.weft(&["sync", "--dry-run", "--exit-code"]).code, 0);

    // The active lines.
    bench.write("web", &service("web", "active = false\n"));
    assert_eq!(bench.sync(&[])[1], ("web".into(), "stop".into(), true));
    eventually("it is stopped", || {
        (bench.state("web").as_deref() == Some("stopped")).then_some(())
    });
    assert_eq!(bench.sync(&[]), unchanged);
    bench.write("web", &service("web", ""));
    assert_eq!(bench.sync(&[])[1], ("web".into(), "start".into(), true));
    bench.cluster.running("n1", "web", "n1");
    assert_eq!(bench.sync(&[]), unchanged);

    // What differs waits for a deploy.
    let pid = bench.pid("web");
    let other =
        service("web", "comment = \"new\"\n").replace("stop_grace", "env = [\"A=1\"]\nstop_grace");
    bench.write("web", &other);
    let done = bench.weft(&["sync"]).ok();
    assert!(done.stdout.contains("web: unchanged: differs from revision 1"), "{done:?}");
    assert_eq!(bench.pid("web"), pid);
    let deployed = all(&[("shop", "deploy", true), ("web", "deploy", true)]);
    assert_eq!(bench.sync(&["--deploy"]), deployed);
    assert!(bench.pid("shop").is_some() && bench.pid("web") != pid);
    assert_eq!(bench.sync(&["--deploy"]), unchanged);
}

#[test]
fn sync_prunes_only_when_told_to_and_never_because_the_directory_is_empty() {
    let bench = Bench::new();
    for name in ["web", "old"] {
        bench.write(name, &service(name, ""));
        bench.weft(&["deploy", name]).ok();
    }
    std::fs::remove_file(bench.file("old")).expect("it was there");
    let listed = all(&[("old", "undeclared", false), ("web", "unchanged", false)]);
    assert_eq!(bench.sync(&[]), listed);
    let unasked = bench.weft(&["sync", "--prune"]);
    assert_eq!(unasked.code, 2, "{unasked:?}");
    assert!(unasked.stderr.contains("undeploy old"), "{unasked:?}");
    assert_eq!(bench.state("old").as_deref(), Some("running"));
    let text = bench.read("web");
    std::fs::remove_file(bench.file("web")).expect("it was there");
    let undeclared = all(&[("old", "undeclared", false), ("web", "undeclared", false)]);
    assert_eq!(bench.sync(&["--prune", "--yes"]), undeclared, "the directory is empty");
    bench.write("web", &text);
    assert_eq!(bench.sync(&["--prune", "--yes"])[0], ("old".into(), "undeploy".into(), true));
    eventually("it is gone", || bench.state("old").is_none().then_some(()));
    assert_eq!(bench.sync(&["--prune"]), all(&[("web", "unchanged", false)]));
}

#[test]
fn one_bad_file_keeps_sync_from_sending_anything() {
    let bench = Bench::new();
    bench.write("a", &service("a", ""));
    bench.write("bad", &service("bad", "activ = true\n"));
    bench.write("wrong", &service("other", ""));
    let done = bench.weft(&["sync", "--deploy"]);
    assert_eq!(done.code, 2, "{done:?}");
    for says in ["bad.toml:3:1", "wrong.toml", "nothing was sent"] {
        assert!(done.stderr.contains(says), "{says}: {done:?}");
    }
    assert_eq!(bench.state("a"), None);
    let empty = Bench::new();
    let done = empty.weft(&["sync"]).ok();
    assert!(done.stdout.contains("0 changed, 0 unchanged"), "{done:?}");
}

#[test]
fn what_a_node_lost_with_its_engines_storage_is_recovered_from_the_cluster_alone() {
    let Some(mut boxes) = Boxes::with(1, &["reconcile.mode=report"]) else { return };
    let definition = |name: &str, text: &str| {
        format!(
            "name = \"{name}\"\n\n[[components]]\nname = \"{name}\"\nimage = \"{IMAGE}\"\n\
             cmd = [\"/bin/sh\", \"-c\", \"echo $0 >/www/index.html; exec httpd -f -p $PORT -h \
             /www\", \"{text}\"]\nstop_grace = \"1s\"\n\n[[components.routes]]\nport = 443\n"
        )
    };
    for (name, text) in [("one", "a  b"), ("two", "$(c)")] {
        boxes.cluster.deploy(0, &definition(name, text));
    }
    let label = "{{index .Config.Labels \"weft.spec-hash\"}}";
    let hashes = |boxes: &Boxes| ["one", "two"].map(|name| boxes.podman[0].field(name, label));
    let before = hashes(&boxes);
    assert!(before.iter().all(|hash| !hash.is_empty()), "{before:?}");
    let rows = boxes.cluster.ps_json(0);
    let urls: Vec<Value> = rows.iter().map(|row| row["urls"].clone()).collect();

    boxes.podman[0].lose_everything_and_load_the_images();
    boxes.cluster.wait_until("both are gone", DEADLINE, |cluster| {
        let rows = cluster.ps_json(0);
        rows.iter().all(|row| row["state"] == "removed").then_some(())
    });
    assert!(boxes.podman[0].ids().is_empty(), "a node that only reports makes nothing");
    let status = boxes.cluster.weft(0, &["status", "--exit-code"]);
    assert_eq!(status.code, 8, "{status:?}");

    let would = boxes.cluster.weft(0, &["recover", "--dry-run"]).ok();
    assert!(would.stdout.contains("one/1/one: would be started"), "{would:?}");
    assert!(boxes.podman[0].ids().is_empty(), "it was only said");
    let done = boxes.cluster.weft(0, &["recover"]).ok();
    assert!(
        done.stdout.contains("one/1/one: ok") && done.stdout.contains("two/1/two: ok"),
        "{done:?}"
    );
    assert_eq!(hashes(&boxes), before);
    let rows = boxes.cluster.ps_json(0);
    assert!(rows.iter().all(|row| row["state"] == "running"), "{rows:#?}");
    assert_eq!(rows.iter().map(|row| row["urls"].clone()).collect::<Vec<_>>(), urls);
    let again = boxes.cluster.weft(0, &["recover", "n1"]).ok();
    assert!(again.stdout.contains("nothing is down"), "{again:?}");
}

#[test]
fn an_omitted_image_is_derived_from_the_registry_that_the_cli_file_or_the_environment_names() {
    let bench = Bench::new();
    bench.write(
        "shop",
        "name = \"shop\"\nversion = \"7\"\n[[components]]\nname = \"api\"\ndriver = \"container\"\n",
    );
    let refused = bench.weft(&["validate"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let with = |args: &[&str]| {
        run(bench
            .cluster
            .command(args)
            .env("WEFT_SERVICES_DIR", &bench.dir)
            .env("WEFT_BUILD_REGISTRY", "r.example:5000"))
    };
    with(&["validate"]).ok();
    let plan = with(&["plan", "shop"]);
    assert!(!plan.stderr.contains("image"), "{plan:?}");
    let explained = bench.weft(&["config", "explain", "--json"]).ok().json();
    let of = |key: &str| explained.as_array()?.iter().find(|line| line["key"] == key).cloned();
    let dir = of("services.dir").expect("it is explained");
    assert_eq!(dir["origin"], "WEFT_SERVICES_DIR", "{dir}");
    let node = bench.cluster.data_dir("n1").join("node.toml");
    let node = node.to_string_lossy();
    let text = bench.weft(&["config", "explain", "--node-file", &node]).ok().stdout;
    assert!(text.contains("node.name = \"n1\"  # file, line "), "{text}");
}

/// Definitions that nothing is done with, and what is said of each (orchestration §3, §13).
const REFUSED: &[(&str, &str)] = &[
    ("image = \"r.example/app:latest\"", "image tag `latest` is not allowed"),
    ("image = \"r.example:8443/app\"", "image has no tag"),
    ("cmd = [\"x\"]\nrestrat = \"no\"", "unknown key `restrat`"),
    ("image = \"r/a:1\"\nvolumes = [\"/srv/../etc:/etc\"]", "contains `..`"),
    ("image = \"r/a:1\"\nports = [\"80:80\", \"80:81\"]", "host port 80 is already taken"),
    (
        "cmd = [\"x\"]\nenv = [\"PORT_X=1\"]\n[[components.routes]]\nport = 1",
        "`PORT_X` is reserved in a component with routes",
    ),
    (
        "cmd = [\"x\"]\n[[components.routes]]\nname = \"x\"\nport = 1\n[[components.routes]]\nport = 2",
        "has several routes, but this one has no `name`",
    ),
    (
        "cmd = [\"x\"]\n[[components.routes]]\nname = \"a-b\"\nport = 1\n\
         [[components.routes]]\nname = \"a_b\"\nport = 2",
        "would both set PORT_A_B",
    ),
    (
        "cmd = [\"x\"]\n[[components.routes]]\nname = \"x\"\nport = 443\nhostname = \"A.b\"\n\
         [[components.routes]]\nname = \"y\"\nport = 443\nhostname = \"a.B\"",
        "port 443 of a.b is already a route",
    ),
    ("cmd = [\"x\"]\n[[components]]\nname = \"api-2\"\ncmd = [\"x\"]", "`api-2` ends in `-2`"),
];

#[test]
fn a_definition_with_a_mistake_is_refused_by_every_command_that_reads_it_and_sends_nothing() {
    let bench = Bench::new();
    let told = |done: &Done, what: &str| {
        assert_eq!(done.code, 2, "{what}: {done:?}");
        // `validate` prints mistakes as its result, the others as their error.
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains(what) && said.contains("bad.toml:"), "{what}: {done:?}");
    };
    for (component, what) in REFUSED {
        bench.write("bad", &format!("name = \"bad\"\n[[components]]\nname = \"a\"\n{component}\n"));
        for command in [&["validate"][..], &["deploy", "bad"], &["plan", "bad"], &["sync"]] {
            told(&bench.weft(command), what);
        }
    }
    let images = "name = \"bad\"\nbuild.images.other = \"Dockerfile\"\n[[components]]\n\
                  name = \"a\"\nimage = \"r/app:1\"\n";
    bench.write("bad", images);
    let both = bench.weft(&["validate"]);
    told(&both, "`build.images.other` is not the image of any component");
    // The file's name is the service's.
    bench.write("bad", &service("good", ""));
    told(&bench.weft(&["validate"]), "good");
    assert_eq!(bench.weft(&["list", "--json"]).ok().stdout.trim(), "[]");
}

#[test]
fn what_is_in_the_environment_of_a_component_is_told_to_nobody_else() {
    let bench = Bench::new();
    let secret = "s3cr3t-of-this-test";
    let env = format!("env = [\"TOKEN={secret}\", \"PASSWORD={secret}\"]");
    let text = service("web", "").replace("stop_grace", &format!("{env}\nstop_grace"));
    bench.write("web", &text);
    bench.weft(&["deploy", "web"]).ok();
    bench.pid("web");
    bench.weft(&["restart", "web"]).ok();
    bench.write("web", &text.replace("2s", "3s").replace(secret, &format!("{secret}2")));
    let plan = bench.weft(&["plan", "web"]).ok();
    let mut said = vec![("plan", format!("{}{}", plan.stdout, plan.stderr))];
    for command in ["deploy", "status", "events", "operations", "ps", "list", "logs"] {
        let args: &[&str] = match command {
            "deploy" | "logs" => &[command, "web"],
            _ => &[command],
        };
        let done = bench.weft(args).ok();
        said.push((command, format!("{}{}", done.stdout, done.stderr)));
        if command != "deploy" {
            let done = bench.weft(&[args, &["--json"]].concat());
            said.push((command, done.stdout));
        }
    }
    said.push(("the daemon's log", bench.cluster.log("n1")));
    for (what, text) in &said {
        assert!(!text.contains(secret), "{what}: {text}");
    }
    // Only what is asked for as such has it: the definition.
    assert!(bench.weft(&["service", "show", "web"]).ok().stdout.contains(secret));
}

#[test]
fn ending_the_command_that_waits_for_a_deploy_ends_nothing_of_it() {
    let bench = Bench::new();
    // It becomes healthy only after a file is there.
    let health = "[components.health]\nkind = \"exec\"\ncommand = [\"test\", \"-f\", \"go\"]\n\
                  interval = \"50ms\"\nstart_period = \"1h\"\n";
    let text = service("slow", "");
    let (head, routes) = text.split_once("[[components.routes]]").expect("a route");
    bench.write("slow", &format!("{head}[[components.routes]]{routes}\n{health}"));
    let mut command = bench.cluster.command(&["deploy", "slow"]);
    command.env("WEFT_SERVICES_DIR", &bench.dir).stdout(Stdio::null()).stderr(Stdio::null());
    let mut waits = command.spawn().expect("weft starts");
    eventually("it is being started", || {
        (bench.state("slow").as_deref() == Some("starting")).then_some(())
    });
    let pid = rustix::process::Pid::from_child(&waits);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let status = eventually("it has ended", || waits.try_wait().expect("a child"));
    assert!(!status.success(), "{status:?}");
    let operations = || bench.weft(&["operations", "--json"]).ok().json();
    let open = operations();
    assert_eq!(
        (&open[0]["kind"], &open[0]["finished_at"]),
        (&"deploy".into(), &Value::Null),
        "{open}"
    );
    let go = bench.dir.join("go");
    std::fs::write(&go, "").expect("writes");
    bench.weft(&["push", &go.to_string_lossy(), "slow"]).ok();
    eventually("the deploy goes on to its end", || {
        (bench.state("slow")? == "running" && operations()[0]["outcome"] == "done").then_some(())
    });
}

#[test]
fn a_deploy_is_good_only_if_all_of_it_is_and_one_component_does_not_stop_the_other() {
    let bench = Bench::new();
    let hello = bin_dir().join("hello");
    let text = format!(
        "name = \"pair\"\n[[components]]\nname = \"good\"\ncmd = [\"{}\"]\n\
         [[components.routes]]\nport = 443\n[[components]]\nname = \"bad\"\n\
         cmd = [\"sh\", \"-c\", \"echo why it ends; exit 3\"]\nrestart = \"no\"\n",
        hello.display()
    );
    bench.write("pair", &text);
    let done = bench.weft(&["deploy", "pair"]);
    assert_eq!(done.code, 6, "{done:?}");
    assert!(done.stdout.contains("good: ok") && done.stdout.contains("exit 3"), "{done:?}");
    assert!(done.stdout.contains("why it ends"), "its last lines: {done:?}");
    let rows = bench.cluster.ps("n1");
    let state = |name: &str| rows.iter().find(|row| row["component"] == name)?["state"].as_str();
    assert_eq!((state("good"), state("bad")), (Some("running"), Some("exited")));
    for (command, told) in [("upgrade", "`weft upgrade`"), ("ca", "`weft ca`")] {
        let refused = bench.weft(&[command, "rotate"]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.contains(&format!("{told} is not in this version")), "{refused:?}");
    }
}

#[test]
fn a_replica_that_no_node_takes_says_which_rule_stands_against_it() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let text = "name = \"picky\"\n[placement]\nrequire = [\"disk=ssd\"]\n\
                [[components]]\nname = \"a\"\ncmd = [\"sleep\", \"1000\"]\n";
    let file = cluster.definition("picky", text);
    let rule = "no node fulfils require disk=ssd";
    let refused = cluster.weft(&["deploy", "-f", &file]);
    let why = [rule, "there is no node for replica 1"];
    assert!(refused.code == 1 && why.iter().all(|why| refused.stderr.contains(why)), "{refused:?}");
    let rows = cluster.ps("n1");
    let reason = rows.first().map(|row| row["reason"].to_string()).unwrap_or_default();
    assert!(reason.contains(rule), "{rows:?}");
    let status = cluster.weft(&["status", "picky"]);
    assert!(status.stdout.contains(rule), "{status:?}");
}
