//! Drift as an operator meets it: the table of states row by row (orchestration §4), copies that
//! run where they are not placed, passes that find nothing new (§5, §12), and what is not Weft's.

use std::time::Duration;

use serde_json::Value;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options, hello, hello_on};
use weft_tests::podman::{Boxes, IMAGE, Podman};
use weft_tests::{DEADLINE, Done, kill_9, micros, run};
use weft_wire::{Clock, SystemClock};

/// `monitor.interval` of nodes whose passes are waited for.
const INTERVAL: Duration = Duration::from_secs(1);

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn lines(done: &Done) -> Vec<Value> {
    done.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A container that ends with 7 when it is told to; `top` is for its service.
fn web(top: &str) -> String {
    let script = "trap 'exit 7' TERM; touch $WEFT_DATA/ready; sleep 1000 & wait";
    format!(
        "name = \"web\"\n{top}\n\n[[components]]\nname = \"web\"\nimage = \"{IMAGE}\"\n\
         cmd = [\"/bin/sh\", \"-c\", {}]\nstop_grace = \"1s\"\n",
        serde_json::to_string(script).expect("JSON is TOML here")
    )
}

/// Waits until what was started last listens to signals.
#[track_caller]
fn listens(boxes: &Boxes) {
    let file = boxes.cluster.data_dir(0).join("services/web/1/ready");
    boxes
        .cluster
        .wait_until("it listens to signals", DEADLINE, |_| std::fs::remove_file(&file).ok());
}

/// Waits until no operation goes on.
#[track_caller]
fn nothing_goes_on(cluster: &NetCluster) {
    cluster.wait_until("no operation goes on", DEADLINE, |cluster| {
        let all = cluster.json(0, &["operations", "--json"]);
        all.as_array()?.iter().all(|row| !row["outcome"].is_null()).then_some(())
    });
}

/// What `status` shows on a node, and its exit code.
fn status(cluster: &NetCluster, node: usize) -> (Value, i32) {
    let done = cluster.weft(node, &["status", "--exit-code", "--json"]);
    (serde_json::from_str(&done.stdout).unwrap_or_default(), done.code)
}

/// How many messages a node's monitor has handled; each of its passes is some.
#[track_caller]
fn handled(cluster: &NetCluster, node: usize) -> u64 {
    let name = cluster.node_name(node);
    let rows = cluster.json(node, &["actors", "--json"]);
    let is_it = |row: &&Value| row["node"] == name.as_str() && row["path"] == "monitor";
    let row = rows.as_array().and_then(|rows| rows.iter().find(is_it));
    let count = row.and_then(|row| row["messages"].as_u64());
    count.unwrap_or_else(|| panic!("no monitor of {name} in {rows}"))
}

/// Waits until a node's monitor has made so many passes, at least 2.
#[track_caller]
fn passes(cluster: &NetCluster, node: usize, count: u32) {
    let before = handled(cluster, node);
    let start = SystemClock.now();
    // Nobody asks it anything meanwhile: what it handles then are its passes.
    let enough = INTERVAL * (count + 1);
    cluster.wait_until("so many intervals are over", DEADLINE, |_| {
        (start.elapsed() > enough).then_some(())
    });
    let after = handled(cluster, node);
    // What asking for the number adds to it.
    let asking = handled(cluster, node) - after;
    let made = after - before;
    assert!(made >= asking + u64::from(count), "{made} messages, {asking} of them for asking");
}

/// What an operator is told of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    /// By `ps`.
    state: String,
    desired: String,
    /// By `list`; empty for what is not Weft's.
    observed: String,
    /// All there is.
    drift: Vec<String>,
    /// Of `status --exit-code`.
    code: i32,
}

fn told(cluster: &NetCluster, component: &str) -> Option<Told> {
    let (shown, code) = status(cluster, 0);
    let say = |row: &Value| {
        let [kind, desired, observed, reason] =
            ["kind", "desired", "observed", "reason"].map(|key| text(row, key));
        format!("{kind}: {desired}, {observed}: {reason}")
    };
    let drift: Vec<String> = shown["drift"].as_array()?.iter().map(say).collect();
    let rows = cluster.ps_json(0);
    let row = rows.iter().find(|row| row["component"] == component)?;
    let list = cluster.json(0, &["list", "--json"]);
    let listed = list.as_array()?.iter().find(|row| row["component"] == component);
    Some(Told {
        state: text(row, "state").to_owned(),
        desired: text(row, "desired").to_owned(),
        observed: listed.map_or_else(String::new, |row| text(row, "observed").to_owned()),
        drift,
        code,
    })
}

/// A row of the table, and how to come to it.
struct Row {
    what: &'static str,
    act: fn(&mut Boxes),
    /// State, desired and observed.
    is: (&'static str, &'static str, &'static str),
    /// Why it is drift; `None`: it is not.
    drift: Option<&'static str>,
}

impl Row {
    /// Does it, and waits until exactly this is told.
    #[track_caller]
    fn holds(&self, boxes: &mut Boxes, component: &str) {
        (self.act)(boxes);
        let (state, desired, observed) = self.is;
        let reasons = self.drift.iter();
        let wanted = Told {
            state: state.to_owned(),
            desired: desired.to_owned(),
            observed: observed.to_owned(),
            drift: reasons.map(|why| format!("state: {desired}, {observed}: {why}")).collect(),
            code: if self.drift.is_some() { 8 } else { 0 },
        };
        let mut last: Option<Told> = None;
        let what = format!("{}: {wanted:?}", self.what);
        boxes.cluster.wait_until(&what, DEADLINE, |cluster| {
            let now = told(cluster, component);
            if now != last {
                eprintln!("{}: {now:?}", self.what);
                last.clone_from(&now);
            }
            (now.as_ref() == Some(&wanted)).then_some(())
        });
    }
}

#[test]
fn every_row_of_the_drift_table_is_told_as_it_is() {
    let settings = ["reconcile.mode=report", "monitor.interval=1s"];
    let Some(mut boxes) = Boxes::with(1, &settings) else { return };
    let table = [
        Row {
            what: "running, and runs",
            act: |boxes| {
                boxes.cluster.deploy(0, &web("node = \"n1\""));
                nothing_goes_on(&boxes.cluster);
                listens(boxes);
            },
            is: ("running", "running", "running"),
            drift: None,
        },
        Row {
            what: "running, and has ended",
            act: |boxes| {
                boxes.podman[0].podman(&["kill", "--signal", "TERM", "web"]).ok();
            },
            is: ("exited", "running", "exited"),
            drift: Some("ended by itself (exit 7)"),
        },
        Row {
            what: "running, and was removed",
            act: |boxes| {
                boxes.podman[0].podman(&["rm", "--force", "--time", "0", "web"]).ok();
            },
            is: ("removed", "running", "removed"),
            drift: Some("no such container"),
        },
        Row {
            what: "running, and made anew by an operator",
            act: |boxes| {
                boxes.cluster.weft(0, &["start", "web"]).ok();
                listens(boxes);
            },
            is: ("running", "running", "running"),
            drift: None,
        },
        Row {
            what: "stopped, and was stopped",
            act: |boxes| {
                boxes.cluster.weft(0, &["stop", "web"]).ok();
            },
            is: ("stopped", "stopped", "stopped"),
            drift: None,
        },
        Row {
            what: "stopped, and runs",
            act: |boxes| {
                boxes.podman[0].podman(&["start", "web"]).ok();
                listens(boxes);
            },
            is: ("running", "stopped", "running"),
            drift: Some("runs against the operator's wish"),
        },
        Row {
            what: "running, as the operator wants it by now",
            act: |boxes| {
                boxes.cluster.weft(0, &["start", "web"]).ok();
            },
            is: ("running", "running", "running"),
            drift: None,
        },
        Row {
            what: "running, and has ended again",
            act: |boxes| {
                boxes.podman[0].podman(&["kill", "--signal", "KILL", "web"]).ok();
            },
            is: ("exited", "running", "exited"),
            drift: Some("ended by itself (exit 137 (signal 9))"),
        },
        // What has ended and is not to run counts as stopped.
        Row {
            what: "stopped, and has ended",
            act: |boxes| {
                boxes.cluster.weft(0, &["stop", "web"]).ok();
            },
            is: ("stopped", "stopped", "stopped"),
            drift: None,
        },
    ];
    for row in &table {
        row.holds(&mut boxes, "web");
    }

    // Stopped, and was removed: well, whichever of the two it is called.
    boxes.podman[0].podman(&["rm", "--force", "--time", "0", "web"]).ok();
    assert_eq!(boxes.podman[0].ids(), Vec::<String>::new());
    passes(&boxes.cluster, 0, 3);
    let now = told(&boxes.cluster, "web").expect("its row is kept");
    assert!(["stopped", "removed"].contains(&now.observed.as_str()), "{now:?}");
    assert_eq!((now.desired.as_str(), now.code), ("stopped", 0), "{now:?}");
    assert_eq!(now.drift, Vec::<String>::new(), "{now:?}");

    let unknown = [
        Row {
            what: "running, and made anew once more",
            act: |boxes| {
                boxes.cluster.weft(0, &["start", "web"]).ok();
                listens(boxes);
            },
            is: ("running", "running", "running"),
            drift: None,
        },
        Row {
            what: "running, and nobody can say",
            act: |boxes| {
                boxes.podman[0].silence();
                boxes.cluster.restart(0);
            },
            is: ("unknown", "running", "unknown"),
            drift: None,
        },
        Row {
            what: "running, and after three passes nobody can say",
            act: |boxes| passes(&boxes.cluster, 0, 4),
            is: ("unknown", "running", "unknown"),
            drift: None,
        },
        Row {
            what: "running, as it did all the time",
            act: |boxes| boxes.podman[0].serve(),
            is: ("running", "running", "running"),
            drift: None,
        },
    ];
    for row in &unknown {
        row.holds(&mut boxes, "web");
    }

    let ignored = [
        Row {
            what: "ignored, and runs",
            act: |boxes| {
                let run = ["run", "-d", "--name", "mine", "--network", "host", IMAGE];
                boxes.podman[0].podman(&[&run[..], &["sleep", "1000"]].concat()).ok();
            },
            is: ("running", "ignore", ""),
            drift: None,
        },
        Row {
            what: "ignored, and has ended",
            act: |boxes| {
                let pid = boxes.podman[0].field("mine", "{{.State.Pid}}");
                kill_9(pid.parse().expect("a pid"));
            },
            is: ("exited", "ignore", ""),
            drift: None,
        },
    ];
    for row in &ignored {
        row.holds(&mut boxes, "mine");
    }
    boxes.podman[0].podman(&["rm", "--force", "--time", "0", "mine"]).ok();
    boxes.cluster.wait_until("it is listed no more", DEADLINE, |cluster| {
        let rows = cluster.ps_json(0);
        (!rows.is_empty() && rows.iter().all(|row| row["component"] != "mine")).then_some(())
    });
    let (shown, code) = status(&boxes.cluster, 0);
    assert_eq!(code, 0, "{shown}");
}

#[test]
fn a_container_that_somebody_paused_is_down_though_nobody_asked_for_that() {
    let settings = ["reconcile.mode=report", "monitor.interval=1s"];
    let Some(mut boxes) = Boxes::with(1, &settings) else { return };
    let table = [
        Row {
            what: "running, and runs",
            act: |boxes| {
                boxes.cluster.deploy(0, &web("node = \"n1\""));
                nothing_goes_on(&boxes.cluster);
            },
            is: ("running", "running", "running"),
            drift: None,
        },
        Row {
            what: "running, and is paused",
            act: |boxes| {
                boxes.podman[0].podman(&["pause", "web"]).ok();
            },
            is: ("stopped", "running", "stopped"),
            drift: Some("down though nobody asked for a stop"),
        },
        Row {
            what: "running, and goes on",
            act: |boxes| {
                boxes.podman[0].podman(&["unpause", "web"]).ok();
            },
            is: ("running", "running", "running"),
            drift: None,
        },
    ];
    for row in &table {
        row.holds(&mut boxes, "web");
    }
}

/// The drift of kind `placement` of `web`, as `status` shows it.
fn misplaced(shown: &Value) -> Option<Value> {
    let rows = shown["drift"].as_array()?;
    rows.iter().find(|row| row["kind"] == "placement" && row["service"] == "web").cloned()
}

/// Asserts what is told of a copy that runs on `from` and is placed on `to`.
#[track_caller]
fn is_misplaced(row: &Value, code: i32, from: &str, to: &str) {
    let reason = format!("runs on {from}, and is placed on {to}");
    for (key, expected) in [
        ("node", from),
        ("component", "web"),
        ("desired", "stopped"),
        ("observed", "running"),
        ("reason", reason.as_str()),
    ] {
        assert_eq!(text(row, key), expected, "{key} of {row}");
    }
    assert_eq!(code, 8, "{row}");
}

#[test]
fn a_copy_that_runs_where_it_is_not_placed_any_more_is_drift_but_not_while_it_is_being_stopped() {
    let Some(net) = Net::new(3) else { return };
    let options = Options { settings: vec!["chaos.enabled=true".into()], ..Options::default() };
    let cluster = NetCluster::with(net, 3, options);
    let leader = cluster.settled(0);
    cluster.deploy(leader, &hello_on("ballast", &cluster.node_name(leader)));
    let stubborn = "stop_grace = \"3s\"\nenv = [\"HELLO_IGNORE_TERM=1\"]";
    cluster.deploy(leader, &hello("web", 1).replace("stop_grace = \"2s\"", stubborn));
    let from = cluster.place_of(leader, "web").expect("a place");
    assert_ne!(from, leader, "the leader has most");
    let name = cluster.node_name(from);
    cluster.wait_until("that it was started lately is no excuse", DEADLINE, |cluster| {
        let row = cluster.running(leader, "web", from);
        let since = micros(text(&row, "since"));
        (SystemClock.wall().as_micros() - since > 6_000_000).then_some(())
    });
    let (shown, code) = status(&cluster, leader);
    assert!(misplaced(&shown).is_none() && code == 0, "{code} {shown}");

    // Who would tell the node to stop it hangs, for the ten seconds that the watchdog waits.
    cluster.weft(leader, &["--yes", "chaos", "hang", &format!("registry@{name}")]).ok();
    cluster.weft(leader, &["node", "drain", &name, "--no-wait"]).ok();
    let ((row, code), after) =
        cluster.wait_until("the copy that goes on is drift", DEADLINE, |cluster| {
            let (shown, code) = status(cluster, leader);
            Some((misplaced(&shown)?, code))
        });
    eprintln!("measured: {} ms after the drain began: {row}", after.as_millis());
    let to = cluster.place_of(leader, "web").expect("a place");
    assert_ne!(to, from, "{row}");
    is_misplaced(&row, code, &name, &cluster.node_name(to));

    // Told to stop, it takes all of its grace; that is nothing to report.
    cluster.wait_until("it has stopped, and all is well", DEADLINE, |cluster| {
        let (shown, code) = status(cluster, leader);
        let components = shown["components"].as_array()?;
        let there = |row: &&Value| row["service"] == "web" && row["node"] == name.as_str();
        if components.iter().find(there).is_some_and(|row| row["state"] == "stopping") {
            assert!(misplaced(&shown).is_none(), "{shown}");
        }
        (cluster.copies(from, "web").is_empty() && code == 0).then_some(())
    });
    cluster.runs_exactly(&[("ballast", 1), ("web", 1)]);
}

#[test]
fn a_copy_that_its_node_cannot_stop_within_its_grace_is_drift_until_it_can() {
    let Some(mut boxes) = Boxes::start(2) else { return };
    boxes.cluster.deploy(0, &hello_on("ballast", "n1"));
    boxes.cluster.deploy(0, &web(""));
    assert_eq!(boxes.cluster.place_of(0, "web"), Some(1), "n1 has most");
    boxes.podman[1].silence();
    boxes.cluster.weft(0, &["node", "drain", "n2", "--no-wait"]).ok();
    boxes.cluster.running(0, "web", 0);
    let ((row, code), after) =
        boxes.cluster.wait_until("the copy that is left is drift", DEADLINE, |cluster| {
            let (shown, code) = status(cluster, 0);
            Some((misplaced(&shown)?, code))
        });
    eprintln!("measured: {} ms after the other ran: {row}", after.as_millis());
    is_misplaced(&row, code, "n2", "n1");
    assert_eq!(boxes.podman[1].field("web", "{{.State.Running}}"), "true");
    boxes.podman[1].serve();
    boxes.cluster.wait_until("it is gone, and all is well", DEADLINE, |cluster| {
        (boxes.podman[1].ids().is_empty() && status(cluster, 0).1 == 0).then_some(())
    });
}

#[test]
fn passes_over_what_is_down_record_nothing_and_it_is_alerted_once() {
    let Some(net) = Net::new(1) else { return };
    // Without a cooldown nothing but the rule itself holds a second alert back.
    let settings = ["reconcile.mode=report", "monitor.interval=1s", "monitor.cooldown=0s"];
    let options = Options { settings: settings.map(str::to_owned).into(), ..Options::default() };
    let cluster = NetCluster::with(net, 1, options);
    cluster.deploy(0, &hello_on("up", "n1"));
    cluster.deploy(0, &hello_on("down", "n1"));
    nothing_goes_on(&cluster);
    let pid = cluster.running(0, "down", 0)["pid"].as_u64().expect("a pid");
    kill_9(u32::try_from(pid).expect("a pid"));
    let events = |cluster: &NetCluster| lines(&cluster.weft(0, &["events", "--json"]).ok());
    let alerts = |cluster: &NetCluster| lines(&cluster.weft(0, &["alerts", "--json"]).ok());
    cluster.wait_until("its end is an event, an alert and drift", DEADLINE, |cluster| {
        let ended = |event: &Value| event["service"] == "down" && event["new_state"] == "exited";
        let recorded = events(cluster).iter().any(ended) && !alerts(cluster).is_empty();
        (recorded && status(cluster, 0).1 == 8).then_some(())
    });
    let before = (events(&cluster), alerts(&cluster), status(&cluster, 0).0["drift"].clone());

    passes(&cluster, 0, 6);
    // These look as well.
    for _ in 0..3 {
        assert_eq!(status(&cluster, 0).1, 8);
        assert_eq!(cluster.ps_json(0).len(), 2);
    }
    let after = (events(&cluster), alerts(&cluster), status(&cluster, 0).0["drift"].clone());
    assert_eq!(after, before);
    let [alert] = &after.1[..] else { panic!("not one alert: {:#?}", after.1) };
    for (key, expected) in [
        ("type", "drift"),
        ("state", "fired"),
        ("service", "down"),
        ("desired", "running"),
        ("observed", "exited"),
    ] {
        assert_eq!(text(alert, key), expected, "{key} of {alert}");
    }
}

/// Containers of others: any, one with the beginning of a service's name, and one of a node of
/// another cluster.
const THEIRS: [&str; 3] = ["mine", "gone-old", "theirs"];

const ANOTHERS: [&str; 4] = [
    "--label=weft.node=00000000-0000-4000-8000-000000000000",
    "--label=weft.service=gone",
    "--label=weft.replica=1",
    "--label=weft.component=gone",
];

const GONE: &str = "name = \"gone\"\nnode = \"n2\"\n\n[[components]]\nname = \"gone\"\n\
    image = \"localhost/weft-test:1\"\ncmd = [\"/bin/sh\", \"-c\", \"exec sleep 1000\"]\n\
    stop_grace = \"1s\"\n";

/// Puts another container in the place of one, with its name and its labels.
fn swap(podman: &Podman, name: &str, command: &str) {
    let labels = podman.field(name, "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\n{{end}}");
    let labels: Vec<String> =
        labels.lines().filter(|l| l.contains('=')).map(|l| format!("--label={l}")).collect();
    podman.podman(&["rm", "-f", "--time", "0", name]).ok();
    let mut run = vec!["run", "-d", "--name", name, "--network", "host"];
    run.extend(labels.iter().map(String::as_str));
    run.extend([IMAGE, "/bin/sh", "-c", command]);
    podman.podman(&run).ok();
}

/// Which containers of others there are, since when, and what they do.
fn theirs(podman: &Podman) -> Vec<String> {
    let what = "{{.Id}} {{.State.StartedAt}} {{.State.Pid}} {{.State.Status}}";
    THEIRS.iter().map(|name| podman.field(name, what)).collect()
}

#[test]
fn what_is_not_wefts_is_touched_by_no_bulk_operation_and_its_end_alerts_nobody() {
    let settings = ["reconcile.mode=full", "monitor.interval=1s", "monitor.alert_after=0s"];
    let Some(mut boxes) = Boxes::with(2, &settings) else { return };
    let services = boxes.cluster.scratch().join("services");
    std::fs::create_dir(&services).expect("a directory");
    let weft = |boxes: &Boxes, args: &[&str]| {
        run(boxes.cluster.command(0).args(args).env("WEFT_SERVICES_DIR", &services))
    };
    for name in THEIRS {
        let mut run = vec!["run", "-d", "--name", name, "--network", "host"];
        if name == "theirs" {
            run.extend(ANOTHERS);
        }
        run.extend([IMAGE, "sleep", "1000"]);
        boxes.podman[1].podman(&run).ok();
    }
    let before = theirs(&boxes.podman[1]);
    assert!(before.iter().all(|one| one.ends_with(" running")), "{before:?}");
    let untouched = |boxes: &Boxes, by: &str| {
        assert_eq!(theirs(&boxes.podman[1]), before, "{by}");
    };

    boxes.cluster.deploy(0, GONE);
    std::fs::write(services.join("keep.toml"), hello("keep", 2)).expect("writes");
    weft(&boxes, &["deploy", "keep"]).ok();
    untouched(&boxes, "deploy");

    // What was changed of Weft's own is made anew.
    boxes.cluster.kill(1);
    swap(&boxes.podman[1], "gone", "exec sleep 2000");
    boxes.cluster.start_daemon(1);
    boxes.cluster.answers(1);
    boxes.cluster.wait_until("the changed one is made anew", DEADLINE, |_| {
        let command = boxes.podman[1].field("gone", "{{.Config.Cmd}} {{.State.Status}}");
        (command.contains("sleep 1000") && command.ends_with("running")).then_some(())
    });
    boxes.cluster.running(0, "gone", 1);
    untouched(&boxes, "reconcile.mode = full, and a daemon that starts");

    weft(&boxes, &["recover"]).ok();
    untouched(&boxes, "recover");

    let done = weft(&boxes, &["sync", "--prune", "--yes", "--json"]).ok().json();
    let pruned = |row: &Value| row["service"] == "gone" && row["action"] == "undeploy";
    assert!(done["services"].as_array().is_some_and(|rows| rows.iter().any(pruned)), "{done}");
    boxes.cluster.wait_until("what has no file is gone", DEADLINE, |_| {
        boxes.podman[1].field("gone", "{{.Id}}").is_empty().then_some(())
    });
    untouched(&boxes, "sync --prune");

    boxes.cluster.wait_until("it is purged", DEADLINE, |_| {
        let done = weft(&boxes, &["purge", "--yes", "--json"]);
        let rows: Value = serde_json::from_str(&done.stdout).ok()?;
        let purged = |row: &Value| row["service"] == "gone" && row["purged"] == true;
        rows.as_array()?.iter().any(purged).then_some(())
    });
    untouched(&boxes, "purge");

    weft(&boxes, &["node", "drain", "n2", "--timeout", "60s"]).ok();
    boxes.cluster.wait_until("nothing of Weft's is left there", DEADLINE, |cluster| {
        cluster.copies(1, "keep").is_empty().then_some(())
    });
    untouched(&boxes, "node drain");
    weft(&boxes, &["node", "undrain", "n2"]).ok();

    // One ends: that is listed, and nothing else comes of it.
    kill_9(boxes.podman[1].field("mine", "{{.State.Pid}}").parse().expect("a pid"));
    boxes.cluster.wait_until("its end is listed", DEADLINE, |cluster| {
        let rows = cluster.ps_json(0);
        let row = rows.iter().find(|row| row["component"] == "mine")?;
        (row["state"] == "exited" && row["desired"] == "ignore").then_some(())
    });
    passes(&boxes.cluster, 1, 4);
    let now = theirs(&boxes.podman[1]);
    let same = |now: &String, then: &String| now.split(' ').take(3).eq(then.split(' ').take(3));
    assert!(same(&now[0], &before[0]) && now[0].ends_with(" exited"), "{now:?} {before:?}");
    assert_eq!(now[1..], before[1..]);
    let drift = status(&boxes.cluster, 0).0["drift"].to_string();
    let alerts = weft(&boxes, &["alerts", "--json"]).ok().stdout;
    let events = weft(&boxes, &["events", "--json"]).ok().stdout;
    for name in THEIRS {
        for said in [&drift, &alerts, &events] {
            assert!(!said.contains(&format!("\"{name}\"")), "{name}: {said}");
        }
    }
}
