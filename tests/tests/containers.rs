//! Containers on nodes with an engine of their own, as an operator meets them.

use std::time::Duration;

use serde_json::Value;
use weft_tests::podman::{Boxes, IMAGE, IMAGE_2, Podman};
use weft_tests::{DEADLINE, is_alive, kill_9};

/// A service of one container that answers over HTTP with `text`, on the node of that name.
fn web(node: &str, image: &str, text: &str) -> String {
    format!(
        r#"name = "web"
node = "{node}"

[[components]]
name = "web"
image = "{image}"
cmd = ["/bin/sh", "-c", "echo $0 > /www/index.html; echo started $0; exec httpd -f -p $PORT -h /www", "{text}"]
stop_grace = "1s"

[components.health]
kind = "http"
path = "/index.html"
interval = "1s"

[[components.routes]]
port = 443
"#
    )
}

/// The row of a component on a node, as the node itself lists it, once it is so.
#[track_caller]
fn row(boxes: &Boxes, node: usize, component: &str, so: impl Fn(&Value) -> bool) -> Value {
    let name = boxes.cluster.node_name(node);
    let what = format!("{component} is as wanted on {name}");
    let mut last = Value::Null;
    let deadline = DEADLINE * 2;
    let (row, _) = boxes.cluster.wait_until(&what, deadline, |cluster| {
        let rows = cluster.ps_json(node);
        let row = rows
            .into_iter()
            .find(|row| row["component"] == component && row["node"] == name.as_str());
        if row.as_ref() != Some(&last) {
            last = row.clone().unwrap_or_default();
            eprintln!("{last}");
        }
        row.filter(|row| so(row))
    });
    row
}

fn is_running(row: &Value) -> bool {
    row["state"] == "running" && row["health"] != "unknown"
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Kills the first process of a container, from outside.
#[track_caller]
fn kill_container(podman: &Podman, container: &str) {
    let pid = podman.field(container, "{{.State.Pid}}").parse().expect("a pid");
    kill_9(pid);
}

#[track_caller]
fn answers(boxes: &Boxes, node: usize, row: &Value, expected: &str) {
    let url = format!("{}/index.html", row["urls"][0].as_str().expect("a URL"));
    let what = format!("{url} answers {expected}");
    boxes.cluster.wait_until(&what, DEADLINE, |cluster| {
        cluster
            .curl(node, &url)
            .is_ok_and(|(code, body)| code == 200 && body.trim() == expected)
            .then_some(())
    });
}

#[test]
fn a_container_is_deployed_answers_is_restarted_taken_over_stopped_started_and_removed() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    let done = boxes.cluster.deploy(0, &web("n1", IMAGE, "one"));
    assert!(done.stdout.contains("ok") || done.stderr.contains("ok"), "{done:?}");
    let first = row(&boxes, 0, "web", is_running);
    assert_eq!((text(&first["driver"]), text(&first["image"])), ("container".into(), IMAGE.into()));
    assert_eq!((text(&first["version"]), text(&first["health"])), ("1".into(), "healthy".into()));
    let id = text(&first["container"]);
    assert_eq!(boxes.podman[0].ids(), std::slice::from_ref(&id));
    assert_eq!(boxes.podman[0].field("web", "{{.HostConfig.RestartPolicy.Name}}"), "no");
    assert!(text(&first["digest"]).starts_with("sha256:"), "{first}");
    answers(&boxes, 0, &first, "one");

    // Its output is followed over its end and its next start.
    let followed = boxes.cluster.scratch().join("followed");
    let mut follower = boxes
        .cluster
        .command(0)
        .args(["logs", "-f", "web"])
        .stdout(std::fs::File::create(&followed).expect("a file"))
        .spawn()
        .expect("weft starts");
    let lines = |count: usize| {
        boxes.cluster.wait_until("its lines are followed", DEADLINE, |_| {
            let text = std::fs::read_to_string(&followed).unwrap_or_default();
            (text.matches("started one").count() == count).then_some(())
        })
    };
    lines(1);

    // It dies: the same container runs again, at the same address.
    kill_container(&boxes.podman[0], &id);
    lines(2);
    follower.kill().expect("it runs");
    follower.wait().expect("it has ended");
    let second = row(&boxes, 0, "web", |row| is_running(row) && row["restarts"] == 1);
    assert_eq!(text(&second["container"]), id, "started again in its place");
    assert_eq!(second["urls"], first["urls"]);
    assert_eq!(text(&second["last_exit"]), "exit 137 (signal 9)");
    answers(&boxes, 0, &second, "one");

    // The daemon dies: the container does not notice, and the next daemon goes on with it.
    let pid = second["pid"].as_u64().expect("a pid");
    boxes.cluster.kill(0);
    assert!(is_alive(u32::try_from(pid).unwrap()));
    boxes.cluster.start_daemon(0);
    boxes.cluster.answers(0);
    let third = row(&boxes, 0, "web", is_running);
    assert_eq!((text(&third["container"]), third["pid"].as_u64()), (id.clone(), Some(pid)));
    assert_eq!(third["restarts"], 1);

    // It dies while there is no daemon: the next one knows how it ended.
    boxes.cluster.kill(0);
    kill_container(&boxes.podman[0], &id);
    boxes.cluster.start_daemon(0);
    boxes.cluster.answers(0);
    let fourth = row(&boxes, 0, "web", |row| is_running(row) && row["restarts"] == 2);
    assert_eq!(text(&fourth["last_exit"]), "exit 137 (signal 9)");

    // Removed behind our back: it comes back, as another container.
    boxes.podman[0].podman(&["rm", "--force", "--time", "0", &id]).ok();
    let fifth = row(&boxes, 0, "web", |row| is_running(row) && text(&row["container"]) != id);
    // Killed first, then removed: what is seen of it first is told.
    let ends = ["removed", "exit 137 (signal 9)"];
    assert!(ends.contains(&text(&fifth["last_exit"]).as_str()), "{fifth}");
    answers(&boxes, 0, &fifth, "one");

    // What it said is in one log, over all of them, each line once.
    let logs = boxes.cluster.weft(0, &["logs", "web"]).ok().stdout;
    assert_eq!(logs.matches("started one").count(), 4, "{logs}");

    // Stopped, the container stays; started, it is the same one; undeployed, it is gone.
    let id = text(&fifth["container"]);
    boxes.cluster.weft(0, &["stop", "web", "--yes"]).ok();
    row(&boxes, 0, "web", |row| row["state"] == "stopped");
    assert_eq!(boxes.podman[0].field(&id, "{{.State.Running}}"), "false");
    // Started by somebody else, against the operator's wish: stopped again.
    boxes.podman[0].podman(&["start", &id]).ok();
    let (_, took) = boxes.cluster.wait_until("it is stopped again", DEADLINE, |_| {
        (boxes.podman[0].field(&id, "{{.State.Running}}") == "false").then_some(())
    });
    eprintln!("stopped again after {took:?}");
    row(&boxes, 0, "web", |row| row["state"] == "stopped");
    boxes.cluster.weft(0, &["start", "web"]).ok();
    let sixth = row(&boxes, 0, "web", is_running);
    assert_eq!(text(&sixth["container"]), id);
    boxes.cluster.weft(0, &["undeploy", "web", "--yes"]).ok();
    boxes.cluster.wait_until("the container is gone", DEADLINE, |_| {
        boxes.podman[0].ids().is_empty().then_some(())
    });
}

#[test]
fn a_broken_image_leaves_the_old_revision_running_and_a_foreign_container_is_not_touched() {
    let Some(boxes) = Boxes::start(1) else { return };
    let podman = &boxes.podman[0];
    // Somebody's own, under the name that ours would have.
    podman.podman(&["run", "--detach", "--name", "web", IMAGE, "sleep", "1000"]).ok();
    let theirs = podman.field("web", "{{.Id}}{{.State.Pid}}");
    let done = boxes.cluster.try_deploy(0, &web("n1", IMAGE, "one"), &[]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(format!("{}{}", done.stdout, done.stderr).contains("which is not Weft's"), "{done:?}");
    assert_eq!(podman.field("web", "{{.Id}}{{.State.Pid}}"), theirs, "not touched");
    podman.podman(&["rm", "--force", "--time", "0", "web"]).ok();

    // In its place, without an extra replica that would be tried first.
    let in_place = |image, text| {
        let update = "[update]\norder = \"stop-first\"\nhealthy_for = \"500ms\"\n\n[[components]]";
        web("n1", image, text).replacen("[[components]]", update, 1)
    };
    boxes.cluster.deploy(0, &in_place(IMAGE, "one"));
    let first = row(&boxes, 0, "web", is_running);
    let done = boxes.cluster.try_deploy(0, &in_place("localhost:1/absent:9", "two"), &[]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(format!("{}{}", done.stdout, done.stderr).contains("localhost:1/absent:9"), "{done:?}");
    let still = row(&boxes, 0, "web", is_running);
    assert_eq!((&still["container"], &still["pid"]), (&first["container"], &first["pid"]));
    assert_eq!(still["revision"], first["revision"]);
    answers(&boxes, 0, &still, "one");

    // A good one takes its place, and only then is the old one gone.
    boxes.cluster.deploy(0, &in_place(IMAGE_2, "three"));
    let third = row(&boxes, 0, "web", |row| is_running(row) && row["version"] == "2");
    assert_ne!(third["container"], first["container"]);
    assert_eq!(third["urls"], first["urls"], "the port stays");
    assert_eq!(third["reason"], Value::Null);
    answers(&boxes, 0, &third, "three");
    assert_eq!(podman.ids().len(), 1);
}

#[test]
fn every_value_arrives_as_it_is() {
    let Some(boxes) = Boxes::start(1) else { return };
    let odd = "a b  c 'x' \"y\" $(id) `id` $HOME \\n * ; | & é\nnext line\t.";
    let quoted = serde_json::to_string(odd).expect("JSON is TOML here");
    let definition = format!(
        "name = \"odd\"\n\n[[components]]\nname = \"odd\"\nimage = \"{IMAGE}\"\nstop_grace = \"1s\"\n\
         cmd = [\"/bin/sh\", \"-c\", \"printf %s \\\"$1\\\" > $WEFT_DATA/argument; printf %s \\\"$ODD\\\" > $WEFT_DATA/variable; exec sleep 1000\", \"sh\", {quoted}]\n\
         env = [{}]\n",
        serde_json::to_string(&format!("ODD={odd}")).expect("JSON is TOML here"),
    );
    boxes.cluster.deploy(0, &definition);
    let data = boxes.cluster.data_dir(0).join("services/odd/1");
    for file in ["argument", "variable"] {
        let what = format!("{file} has arrived");
        let (got, _) = boxes.cluster.wait_until(&what, DEADLINE, |_| {
            std::fs::read_to_string(data.join(file)).ok().filter(|text| !text.is_empty())
        });
        assert_eq!(got, odd, "{file}");
    }
}

#[test]
fn memory_that_runs_out_crashes_and_probes_in_the_container_are_told() {
    let Some(boxes) = Boxes::start(1) else { return };
    let one = |name: &str, cmd: &str, more: &str| {
        format!(
            "[[components]]\nname = \"{name}\"\nimage = \"{IMAGE}\"\nrestart = \"no\"\nstop_grace = \"1s\"\ncmd = [\"/bin/sh\", \"-c\", {}]\n{more}\n",
            serde_json::to_string(cmd).expect("JSON is TOML here")
        )
    };
    let definition = format!(
        "name = \"all\"\n\n{}{}{}",
        one(
            "greedy",
            "sleep 1; dd if=/dev/zero of=/dev/null bs=512M count=1",
            "resources = { memory = \"32MiB\" }\n"
        ),
        one("crash", "echo last words >&2; exit 7", ""),
        one(
            "probed",
            "sleep 1; touch /tmp/good; exec sleep 1000",
            "health = { kind = \"exec\", command = [\"test\", \"-e\", \"/tmp/good\"], interval = \"300ms\" }\n"
        ),
    );
    boxes.cluster.try_deploy(0, &definition, &["--no-wait"]).ok();
    let greedy = row(&boxes, 0, "greedy", |row| row["state"] == "exited");
    assert!(text(&greedy["last_exit"]).starts_with("out of memory: exit 137"), "{greedy}");
    let crash = row(&boxes, 0, "crash", |row| row["state"] == "exited");
    assert_eq!(text(&crash["last_exit"]), "exit 7");
    let probed = row(&boxes, 0, "probed", is_running);
    assert_eq!(text(&probed["health"]), "healthy");
    let logs = boxes.cluster.weft(0, &["logs", "all/crash"]).ok().stdout;
    assert!(logs.contains("last words"), "{logs}");
}

#[test]
fn an_engine_that_goes_away_is_said_and_holds_nothing_else_up() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    boxes.cluster.deploy(0, &web("n1", IMAGE, "one"));
    let first = row(&boxes, 0, "web", is_running);
    boxes.podman[0].silence();
    let dim = row(&boxes, 0, "web", |row| text(&row["reason"]).contains("does not answer"));
    assert_eq!((text(&dim["state"]), &dim["pid"]), ("running".into(), &first["pid"]));
    // Others go on, and a daemon that starts says what it waits for.
    boxes.cluster.deploy(0, &weft_tests::nodes::hello_on("hello", "n1"));
    boxes.cluster.restart(0);
    boxes.cluster.running(0, "hello", 0);
    let waits = row(&boxes, 0, "web", |row| !row["reason"].is_null());
    assert_eq!(text(&waits["state"]), "unknown", "{waits}");
    boxes.podman[0].serve();
    let again = row(&boxes, 0, "web", is_running);
    assert_eq!((&again["container"], &again["pid"]), (&first["container"], &first["pid"]));
    assert_eq!(again["restarts"], 0);
}

#[test]
fn on_three_nodes_each_touches_only_its_own_containers() {
    let Some(boxes) = Boxes::start(3) else { return };
    let definition = web("n1", IMAGE, "three").replace("node = \"n1\"", "replicas = 3");
    boxes.cluster.deploy(0, &definition);
    for node in 0..3 {
        let row = row(&boxes, node, "web", is_running);
        answers(&boxes, node, &row, "three");
        assert_eq!(boxes.podman[node].ids(), [text(&row["container"])]);
        let label = boxes.podman[node].field("web", "{{index .Config.Labels \"weft.service\"}}");
        assert_eq!(label, "web");
    }
    // Lines of all nodes, followed.
    let logs = boxes.cluster.weft(0, &["logs", "web"]).ok().stdout;
    assert_eq!(logs.matches("started three").count(), 3, "{logs}");
    boxes.cluster.weft(1, &["undeploy", "web", "--yes"]).ok();
    for node in 0..3 {
        boxes.cluster.wait_until("its container is gone", Duration::from_secs(60), |_| {
            boxes.podman[node].ids().is_empty().then_some(())
        });
    }
}

#[test]
fn a_fenced_container_ends_with_its_lease_without_its_daemon_and_only_then_begins_elsewhere() {
    let Some(mut boxes) = Boxes::start(3) else { return };
    let definition = web("n1", IMAGE, "fenced").replace("node = \"n1\"", "on_partition = \"stop\"");
    boxes.cluster.deploy(0, &definition);
    let (at, _) = boxes.cluster.wait_until("it runs somewhere", DEADLINE, |cluster| {
        let row = cluster.ps_json(0).into_iter().find(|row| row["service"] == "web")?;
        Some(cluster.node_number(row["node"].as_str()?))
    });
    let first = row(&boxes, at, "web", is_running);
    // A daemon that is back in time goes on with it, and with its lease.
    boxes.cluster.restart(at);
    let again = row(&boxes, at, "web", is_running);
    assert_eq!((&again["pid"], &again["container"]), (&first["pid"], &first["container"]));

    boxes.cluster.kill(at);
    boxes.cluster.net.cut(at);
    let others: Vec<usize> = (0..3).filter(|node| *node != at).collect();
    let time = |node: usize, field: &str| {
        let text = boxes.podman[node].field("web", &format!("{{{{json .State.{field}}}}}"));
        weft_tests::micros(text.trim_matches('"'))
    };
    let (new, _) = boxes.cluster.wait_until("it runs elsewhere", DEADLINE, |_| {
        others
            .iter()
            .copied()
            .find(|node| boxes.podman[*node].field("web", "{{.State.Running}}") == "true")
    });
    assert_eq!(boxes.podman[at].field("web", "{{.State.Running}}"), "false");
    let nowhere = time(new, "StartedAt") - time(at, "FinishedAt");
    assert!(nowhere > 0, "for {nowhere} µs it ran twice");

    // The next daemon there knows why it ended.
    boxes.cluster.net.heal(at);
    boxes.cluster.start_daemon(at);
    boxes.cluster.answers(at);
    boxes.cluster.wait_until("its end is an event", DEADLINE, |cluster| {
        let events = cluster.weft(at, &["events", "web", "--json"]).stdout;
        events.contains("lease ended: no contact with the leader").then_some(())
    });
    boxes.cluster.wait_until("its old place is forgotten", DEADLINE, |_| {
        boxes.podman[at].ids().is_empty().then_some(())
    });
}

#[test]
fn nodes_that_share_an_engine_keep_apart_and_weft_down_leaves_no_container() {
    if weft_tests::podman::skip() {
        return;
    }
    let net = weft_tests::net::Net::new(1).expect("it was possible a moment ago");
    let podman = Podman::start(&net, 0);
    {
        let mut cluster = weft_tests::Cluster::with(&["--no-hello"]);
        for node in ["n1", "n2", "n3"] {
            let file = cluster.data_dir(node).join("node.toml");
            let mut text = std::fs::read_to_string(&file).expect("a node file");
            text.push_str(&format!("\n[engine]\nsocket = \"{}\"\n", podman.socket().display()));
            std::fs::write(&file, text).expect("writes");
            cluster.kill_daemon(node);
            cluster.start_daemon(node);
            cluster.node_is("n1", node, "ready");
        }
        let file = cluster.definition(
            "many",
            &format!(
                "name = \"many\"\nreplicas = 3\n\n[[components]]\nname = \"many\"\nimage = \"{IMAGE}\"\ncmd = [\"sleep\", \"1000\"]\nstop_grace = \"1s\"\n"
            ),
        );
        cluster.weft(&["deploy", "-f", &file]).ok();
        let done = podman.podman(&["ps", "--format", "{{.Names}}"]).ok();
        let mut names: Vec<&str> = done.stdout.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["many", "many-2", "many-3"]);
        let nodes: std::collections::BTreeSet<String> = names
            .iter()
            .map(|name| podman.field(name, "{{index .Config.Labels \"weft.node\"}}"))
            .collect();
        assert_eq!(nodes.len(), 3);
    }
    assert_eq!(podman.ids(), Vec::<String>::new(), "`weft down` removes them");
}

#[test]
fn a_restart_starts_the_same_container_again_and_only_once_and_a_deploy_makes_it_anew() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    boxes.cluster.deploy(0, &web("n1", IMAGE, "one"));
    let first = row(&boxes, 0, "web", is_running);
    let id = text(&first["container"]);
    // What it keeps to itself stays; without its image, too.
    boxes.podman[0].podman(&["exec", &id, "/bin/sh", "-c", "echo mine >/mine"]).ok();
    boxes.podman[0].podman(&["untag", IMAGE]).ok();
    boxes.cluster.weft(0, &["restart", "web"]).ok();
    let second = row(&boxes, 0, "web", |row| is_running(row) && row["pid"] != first["pid"]);
    assert_eq!(text(&second["container"]), id);
    assert_eq!(boxes.podman[0].podman(&["exec", &id, "cat", "/mine"]).ok().stdout.trim(), "mine");
    boxes.cluster.restart(0);
    let third = row(&boxes, 0, "web", is_running);
    assert_eq!((&third["pid"], &third["container"]), (&second["pid"], &second["container"]));

    let image = boxes.podman[0].field(&id, "{{.Image}}");
    boxes.podman[0].podman(&["tag", &image, IMAGE]).ok();
    let file = boxes.cluster.definition("web", &web("n1", IMAGE, "one"));
    boxes.cluster.weft(0, &["deploy", "-f", &file]).ok();
    let anew = row(&boxes, 0, "web", is_running);
    assert_ne!(text(&anew["container"]), id);
}

#[test]
fn what_has_a_port_of_its_own_is_updated_by_stopping_it_first_and_that_is_said() {
    let Some(boxes) = Boxes::start(1) else { return };
    let fixed = |text: &str| {
        let ports =
            "ports = [\"127.0.0.1:18080:8080\"]\nenv = [\"FIXED=8080\"]\n\n[components.health]";
        let text = web("n1", IMAGE, text).replace("[components.health]", ports);
        // It listens on both: on its route's port, and on the one that is published for it.
        text.replace("exec httpd", "httpd -p 8080 -h /www; exec httpd")
    };
    boxes.cluster.deploy(0, &fixed("one"));
    let row = row(&boxes, 0, "web", is_running);
    answers(&boxes, 0, &row, "one");
    let published = |expected: &str| {
        boxes.cluster.wait_until("its own port answers", DEADLINE, |cluster| {
            cluster
                .curl(0, "http://127.0.0.1:18080/index.html")
                .is_ok_and(|(code, body)| code == 200 && body.trim() == expected)
                .then_some(())
        });
    };
    published("one");
    let done = boxes.cluster.deploy(0, &fixed("two"));
    assert!(done.stderr.contains("it has host ports"), "{done:?}");
    published("two");
    // Another service that wants the port gets no place there, and nothing is touched.
    let other = fixed("three").replace("name = \"web\"\nnode", "name = \"other\"\nnode");
    let refused = boxes.cluster.try_deploy(0, &other, &[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    published("two");
}
