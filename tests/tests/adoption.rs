//! Containers that run already become services, as they are (orchestration §5.1).

use serde_json::Value;
use weft_tests::podman::{Boxes, IMAGE};
use weft_tests::{DEADLINE, kill_9, run};

/// Starts a container as somebody without Weft would; its id.
#[track_caller]
fn begin(boxes: &Boxes, node: usize, name: &str, more: &[&str], text: &str) -> String {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(more);
    let script = "while :; do echo $0 $A; sleep 1; done";
    arguments.extend([IMAGE, "/bin/sh", "-c", script, text]);
    boxes.podman[node].podman(&arguments).ok().stdout.trim().to_owned()
}

/// Rows of what is Weft's.
fn of_weft(boxes: &Boxes) -> Vec<Value> {
    let rows = boxes.cluster.ps_json(0);
    rows.into_iter().filter(|row| row["service"] != "-").collect()
}

fn outcomes(done: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = done["containers"].as_array().expect("containers").iter();
    rows.map(|row| (text(&row["container"]), text(&row["component"]), text(&row["error"])))
        .collect()
}

#[track_caller]
fn is(boxes: &Boxes, service: &str, component: &str, state: &str) {
    boxes.cluster.wait_until(&format!("{service}/{component} is {state}"), DEADLINE, |cluster| {
        let rows = cluster.ps_json(0);
        let row = rows
            .into_iter()
            .find(|row| row["service"] == service && row["component"] == component)?;
        (row["state"] == state).then_some(())
    });
}

#[test]
fn containers_that_run_are_adopted_as_they_are_healed_and_made_anew_by_the_first_change() {
    let Some(mut boxes) = Boxes::start(2) else { return };
    let at = 1;
    let name = boxes.cluster.node_name(at);
    let shop = begin(&boxes, at, "shop", &["-e", "A=b c", "--restart", "always"], "one");
    let api = begin(&boxes, at, "shop-api", &["--restart", "on-failure"], "two");
    begin(&boxes, at, "shop-old", &[], "three");
    boxes.podman[at].podman(&["stop", "-t", "0", "shop-old"]).ok();
    // Of others: a longer name, no hyphen, another service's.
    for other in ["shopping", "shop_x", "web"] {
        begin(&boxes, at, other, &[], "other");
    }
    let started = |id: &str| boxes.podman[at].field(id, "{{.State.StartedAt}} {{.State.Pid}}");
    let before = (started(&shop), started(&api));

    // From the other node, first without changing anything.
    let dry = boxes.cluster.weft(0, &["adopt", "shop", "--dry-run", "--json"]).ok().json();
    assert_eq!((dry["revision"].as_u64(), dry["node"].as_str()), (Some(0), Some(name.as_str())));
    let expected: Vec<(String, String, String)> =
        [("shop", "shop"), ("shop-api", "api"), ("shop-old", "old")]
            .map(|(container, component)| (container.into(), component.into(), String::new()))
            .into();
    assert_eq!(outcomes(&dry), expected);
    assert_eq!(of_weft(&boxes), Vec::<Value>::new());

    let done = boxes.cluster.weft(0, &["adopt", "shop", "--json"]).ok().json();
    assert_eq!((done["revision"].as_u64(), outcomes(&done)), (Some(1), expected));
    is(&boxes, "shop", "shop", "running");
    is(&boxes, "shop", "api", "running");
    is(&boxes, "shop", "old", "stopped");
    assert_eq!((started(&shop), started(&api)), before, "none was restarted");
    let again = boxes.cluster.weft(0, &["adopt", "shop"]);
    assert_eq!(again.code, 1, "{}", again.stderr);
    assert!(again.stderr.contains("deployed already"), "{}", again.stderr);

    // What is deployed is what runs: nothing would change.
    let list = boxes.cluster.weft(0, &["list", "--json"]).ok().stdout;
    assert!(list.contains("\"desired\":\"stopped\""), "{list}");
    let logs = boxes.cluster.weft(0, &["logs", "shop/shop", "-n", "1"]).ok().stdout;
    assert!(logs.contains("one b c"), "{logs}");

    // The next daemon finds them again, and what dies is started in its place.
    boxes.cluster.restart(at);
    is(&boxes, "shop", "api", "running");
    assert_eq!((started(&shop), started(&api)), before, "not even by a daemon's restart");
    kill_9(boxes.podman[at].field(&api, "{{.State.Pid}}").parse().expect("a pid"));
    boxes.cluster.wait_until("it is started again", DEADLINE, |_| {
        (boxes.podman[at].field(&api, "{{.State.Running}}") == "true" && started(&api) != before.1)
            .then_some(())
    });

    // A deploy that changes nothing leaves them; one of a component makes it anew: Weft's from then
    // on.
    boxes.cluster.weft(0, &["deploy", "shop", "--if-changed"]).ok();
    assert_eq!(boxes.podman[at].field("shop", "{{.Id}}"), shop);
    boxes.cluster.weft(0, &["deploy", "shop/shop"]).ok();
    assert_ne!(boxes.podman[at].field("shop", "{{.Id}}"), shop);
    let service = boxes.podman[at].field("shop", "{{index .Config.Labels \"weft.service\"}}");
    assert_eq!(service, "shop");
    assert_eq!(boxes.podman[at].field("shop", "{{.HostConfig.RestartPolicy.Name}}"), "no");
    assert_eq!(boxes.podman[at].field("shop-api", "{{.Id}}"), api, "the other is left alone");
    let logs = boxes.cluster.weft(0, &["logs", "shop/shop", "-n", "1"]).ok().stdout;
    assert!(logs.contains("one b c"), "{logs}");

    // What was not adopted was never touched, and is not when the service goes.
    boxes.cluster.weft(0, &["undeploy", "shop", "--yes"]).ok();
    boxes.cluster.wait_until("its containers are gone", DEADLINE, |_| {
        let done = boxes.podman[at].podman(&["ps", "-a", "--format", "{{.Names}}"]).ok();
        let mut names: Vec<&str> = done.stdout.lines().collect();
        names.sort_unstable();
        (names == ["shop_x", "shopping", "web"]).then_some(())
    });
}

#[test]
fn what_cannot_be_adopted_is_named_with_its_reason_and_nothing_is_made() {
    let Some(boxes) = Boxes::start(2) else { return };
    let nothing = boxes.cluster.weft(0, &["adopt", "shop"]);
    assert_eq!(nothing.code, 1, "{}", nothing.stderr);
    assert!(nothing.stderr.contains("no container is called `shop`"), "{}", nothing.stderr);

    // On two nodes: which?
    begin(&boxes, 0, "shop", &[], "a");
    begin(&boxes, 1, "shop-api", &[], "b");
    let two = boxes.cluster.weft(0, &["adopt", "shop"]);
    assert_eq!(two.code, 1, "{}", two.stderr);
    assert!(two.stderr.contains("--on"), "{}", two.stderr);
    assert_eq!(of_weft(&boxes), Vec::<Value>::new(), "nothing was made");

    // What mounts the machine's directories needs the node's leave.
    begin(&boxes, 0, "shop-db", &["-v", "/tmp:/data"], "c");
    let on = boxes.cluster.node_name(0);
    let some = boxes.cluster.weft(1, &["adopt", "shop", "--on", &on, "--json"]);
    assert_eq!(some.code, 6, "{}", some.stderr);
    let rows = outcomes(&some.json());
    assert_eq!((rows[0].0.as_str(), rows[0].2.as_str()), ("shop", ""));
    assert!(rows[1].0 == "shop-db" && rows[1].2.contains("allow_host_mounts"), "{rows:?}");
    is(&boxes, "shop", "shop", "running");

    // What has no fixed tag is taken as it runs, and what that means is said.
    boxes.podman[0].podman(&["tag", IMAGE, "localhost/loose:latest"]).ok();
    let run = ["run", "-d", "--name", "loose", "localhost/loose:latest", "sleep", "1000"];
    boxes.podman[0].podman(&run).ok();
    let loose = boxes.cluster.weft(1, &["adopt", "loose", "--dry-run", "--json"]).ok().json();
    let lost = loose["containers"][0]["lost"].to_string();
    assert!(lost.contains("its exact image"), "{loose}");

    // A longer name that is a service has what begins with it.
    begin(&boxes, 0, "shop-db-old", &[], "d");
    boxes.podman[0].podman(&["rm", "-f", "-t", "0", "shop-db"]).ok();
    boxes.cluster.weft(0, &["adopt", "shop-db"]).ok();
    is(&boxes, "shop-db", "old", "running");
    // One that another service has adopted stays its.
    let taken = boxes.cluster.weft(0, &["adopt", "shop-db-old", "--json"]);
    assert_eq!(taken.code, 1, "{}", taken.stderr);
    let said = format!("{}{}", taken.stdout, taken.stderr);
    assert!(said.contains("belongs to shop-db/1/old already"), "{said}");
}

#[test]
fn a_longer_name_that_only_the_callers_files_or_history_know_keeps_its_containers() {
    let Some(boxes) = Boxes::start(1) else { return };
    let services = boxes.cluster.scratch().join("services");
    std::fs::create_dir(&services).expect("a directory");
    let definition = |name: &str| {
        format!("name = \"{name}\"\n[[components]]\nname = \"x\"\ncmd = [\"sleep\", \"1000\"]\n")
    };
    std::fs::write(services.join("mc-proxy.toml"), definition("mc-proxy")).expect("writes");
    boxes.cluster.deploy(0, &definition("mc-old"));
    boxes.cluster.weft(0, &["undeploy", "mc-old", "--yes"]).ok();
    for name in ["mc-api", "mc-proxy-front", "mc-old-back"] {
        begin(&boxes, 0, name, &[], "a");
    }
    let mut adopt = boxes.cluster.command(0);
    adopt.args(["adopt", "mc", "--json"]).env("WEFT_SERVICES_DIR", &services);
    let of = |component: &str| (format!("mc-{component}"), component.to_owned(), String::new());
    assert_eq!(outcomes(&run(&mut adopt).ok().json()), [of("api")]);
}

#[test]
fn a_container_whose_output_cannot_be_read_says_so_in_its_log() {
    let Some(boxes) = Boxes::start(1) else { return };
    begin(&boxes, 0, "mute", &["--log-driver", "none"], "a");
    boxes.cluster.weft(0, &["adopt", "mute"]).ok();
    boxes.cluster.wait_until("it says so", DEADLINE, |cluster| {
        let logs = cluster.weft(0, &["logs", "mute"]).ok().stdout;
        logs.contains("[weft] what this container writes cannot be read: ").then_some(())
    });
}
