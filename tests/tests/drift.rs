//! Drift beside that of states: containers that were changed, and those of nothing; and what there is
//! that is not Weft's (orchestration §4, §5).

use serde_json::Value;
use weft_tests::DEADLINE;
use weft_tests::podman::{Boxes, IMAGE, Podman};
use weft_wire::{Clock, SystemClock};

const WEB: &str = "name = \"web\"\n\n[[components]]\nname = \"web\"\nimage = \"localhost/weft-test:1\"\n\
    cmd = [\"/bin/sh\", \"-c\", \"exec sleep 1000\"]\nstop_grace = \"1s\"\nenv = [\"A=1\"]\n";

/// Puts another container in the place of one, with its name and its labels.
fn swap(podman: &Podman, name: &str, command: &str) {
    let labels = podman.field(name, "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\n{{end}}");
    let labels: Vec<String> =
        labels.lines().filter(|l| l.contains('=')).map(|l| format!("--label={l}")).collect();
    podman.podman(&["rm", "-f", "--time", "0", name]).ok();
    let mut run = vec!["run", "-d", "--name", name, "--network", "host", "--env", "A=2"];
    run.extend(labels.iter().map(String::as_str));
    run.extend([IMAGE, "/bin/sh", "-c", command]);
    podman.podman(&run).ok();
}

fn drift(boxes: &Boxes) -> Vec<Value> {
    let status = boxes.cluster.json(0, &["status", "--json"]);
    status["drift"].as_array().cloned().unwrap_or_default()
}

fn of_kind(boxes: &Boxes, kind: &str) -> Option<Value> {
    drift(boxes).into_iter().find(|row| row["kind"] == kind)
}

#[test]
fn a_container_that_was_changed_and_one_of_nothing_are_drift_and_others_are_nobodys() {
    let Some(boxes) = Boxes::with(1, &["reconcile.mode=report"]) else { return };
    boxes.cluster.deploy(0, WEB);
    assert_eq!(drift(&boxes), Vec::<Value>::new());

    // What was not made by Weft is shown, and nothing is done to it.
    let podman = &boxes.podman[0];
    podman
        .podman(&["run", "-d", "--name", "mine", "--network", "host", IMAGE, "sleep", "1000"])
        .ok();
    let (row, _) = boxes.cluster.wait_until("it is listed", DEADLINE, |cluster| {
        cluster.ps_json(0).into_iter().find(|row| row["component"] == "mine")
    });
    assert_eq!(
        (row["service"].as_str(), row["state"].as_str(), row["desired"].as_str()),
        (Some("-"), Some("running"), Some("ignore")),
        "{row}"
    );
    let table = boxes.cluster.weft(0, &["ps"]).ok().stdout;
    assert!(table.lines().any(|line| line.starts_with("- ") && line.contains("mine")), "{table}");
    assert!(boxes.cluster.ps_json(0).iter().any(|row| row["service"] == "web"));
    let one = boxes.cluster.json(0, &["ps", "web", "--json"]);
    assert_eq!(one.as_array().map(Vec::len), Some(1), "only those of the service: {one}");

    // One that bears this node's label, of a service that nobody knows.
    let id = podman.field("web", "{{index .Config.Labels \"weft.node\"}}");
    let labels = [
        format!("--label=weft.node={id}"),
        "--label=weft.service=ghost".into(),
        "--label=weft.replica=1".into(),
        "--label=weft.component=ghost".into(),
    ];
    let mut run = vec!["run", "-d", "--name", "ghost", "--network", "host"];
    run.extend(labels.iter().map(String::as_str));
    run.extend([IMAGE, "sleep", "1000"]);
    podman.podman(&run).ok();
    let (orphan, _) =
        boxes.cluster.wait_until("it is drift", DEADLINE, |_| of_kind(&boxes, "orphan"));
    assert_eq!(
        (orphan["service"].as_str(), orphan["observed"].as_str(), orphan["node"].as_str()),
        (Some("ghost"), Some("running"), Some("n1")),
        "{orphan}"
    );
    assert_eq!(boxes.cluster.weft(0, &["status", "--exit-code"]).code, 8);

    // One that somebody put in the place of Weft's.
    swap(podman, "web", "exec sleep 2000");
    boxes.cluster.wait_until("that it was changed is said", DEADLINE, |_| {
        let row = of_kind(&boxes, "spec")?;
        let reason = row["reason"].as_str()?.to_owned();
        assert!(reason.contains("its network, cmd, env, volumes differ"), "{reason}");
        Some(())
    });
    assert_eq!(podman.field("mine", "{{.State.Status}}"), "running");

    // What is started again is made anew first, since it was changed; the orphan goes by hand.
    boxes.cluster.weft(0, &["restart", "web"]).ok();
    podman.podman(&["rm", "-f", "--time", "0", "ghost"]).ok();
    boxes.cluster.wait_until("all is as recorded", DEADLINE, |_| {
        (drift(&boxes).is_empty() && podman.field("web", "{{.Config.Cmd}}").contains("sleep 1000"))
            .then_some(())
    });
}

#[test]
fn a_node_that_mends_everything_makes_a_changed_container_anew_and_one_that_restarts_does_not() {
    for (mode, mends) in [("full", true), ("restart", false)] {
        let Some(mut boxes) = Boxes::with(1, &[&format!("reconcile.mode={mode}")]) else { return };
        boxes.cluster.deploy(0, WEB);
        // While its daemon is away: it would be started again at once.
        boxes.cluster.kill(0);
        swap(&boxes.podman[0], "web", "exec sleep 2000");
        boxes.cluster.start_daemon(0);
        boxes.cluster.answers(0);
        if !mends {
            // For longer than a node that mends it takes.
            boxes.cluster.wait_until("it is drift, and stays so", DEADLINE, |_| {
                let since = of_kind(&boxes, "spec")?["since"].as_str().map(weft_tests::micros)?;
                (SystemClock.wall().as_micros() - since > 8_000_000).then_some(())
            });
            let command = boxes.podman[0].field("web", "{{.Config.Cmd}}");
            assert!(command.contains("sleep 2000"), "{command}");
            continue;
        }
        boxes.cluster.wait_until("it is made anew", DEADLINE, |cluster| {
            let rows = cluster.ps_json(0);
            let running = rows.iter().any(|row| row["state"] == "running");
            let podman = &boxes.podman[0];
            (running && podman.field("web", "{{.Config.Cmd}}").contains("sleep 1000")).then_some(())
        });
        let events = boxes.cluster.weft(0, &["events", "web", "--json"]).ok().stdout;
        assert!(events.contains("\"cause\":\"reconcile\""), "{events}");
        assert_eq!(drift(&boxes), Vec::<Value>::new());
    }
}
