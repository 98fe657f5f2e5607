//! Rolling updates as an operator and a client of the service see them (orchestration §24). Times
//! that are measured are printed (`measured: …`).

use std::time::Duration;

use serde_json::Value;
use weft_protocol::parse_time;
use weft_tests::nodes::NetCluster;
use weft_tests::podman::{Boxes, IMAGE, IMAGE_2};
use weft_tests::{Cluster, DEADLINE, Done, bin_dir, eventually, http_get, run};

/// A client that follows the service's addresses never waits longer for an answer.
const AWAY: Duration = Duration::from_secs(1);

/// `web`, of three replicas with a probe; `top` stands at its end, `component` in its component.
fn web(top: &str, component: &str) -> String {
    let program = bin_dir().join("hello");
    format!(
        "name = \"web\"\nreplicas = 3\n\n[update]\nhealthy_for = \"500ms\"\n{top}\n\n\
         [[components]]\nname = \"web\"\ncmd = [\"{}\"]\nstop_grace = \"2s\"\n{component}\n\n\
         [components.health]\nkind = \"http\"\npath = \"/health\"\ninterval = \"200ms\"\n\
         timeout = \"1s\"\nretries = 2\n\n[[components.routes]]\nport = 443\n",
        program.display()
    )
}

fn rows(done: &Done) -> Vec<Value> {
    let rows: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    rows.as_array().cloned().unwrap_or_default()
}

fn ps(cluster: &Cluster) -> Vec<Value> {
    rows(&cluster.weft(&["ps", "web", "--json"]))
}

fn pids(cluster: &Cluster) -> Vec<u64> {
    let mut pids: Vec<u64> =
        ps(cluster).iter().filter_map(|row| row["pid"].as_u64()).filter(|pid| *pid > 0).collect();
    pids.sort_unstable();
    pids
}

fn urls(cluster: &Cluster) -> Vec<String> {
    let url = |row: &Value| Some(row["urls"].as_array()?.first()?.as_str()?.to_owned());
    ps(cluster).iter().filter_map(url).collect()
}

/// Deploys a definition of `web`.
fn deploy(cluster: &Cluster, definition: &str, more: &[&str]) -> Done {
    let file = cluster.definition("web", definition);
    cluster.weft(&[&["deploy", "-f", &file][..], more].concat())
}

/// Does something while a client of `web` asks; returns how long it waited at most.
fn polled<T>(cluster: &Cluster, work: impl FnOnce() -> T) -> (T, Duration) {
    let answers = |url: &str| matches!(http_get(url), Ok((200, _)));
    weft_tests::client::polled(|| urls(cluster), answers, work)
}

fn history(cluster: &Cluster) -> Vec<(u64, String, bool)> {
    let fields = |row: &Value| {
        let verdict = row["verdict"].as_str().expect("a verdict").to_owned();
        (row["revision"].as_u64().expect("a number"), verdict, row["in_force"] == true)
    };
    rows(&cluster.weft(&["history", "web", "--json"])).iter().map(fields).collect()
}

/// The first revision, and that it is known to be good.
fn first(cluster: &Cluster) {
    deploy(cluster, &web("", ""), &[]).ok();
    eventually("the first is good", || (history(cluster)[0].1 == "good").then_some(()));
}

fn last_operation(cluster: &Cluster) -> Value {
    rows(&cluster.weft(&["operations", "--json"])).pop().expect("an operation")
}

#[test]
fn during_good_and_failed_updates_a_client_is_answered_within_a_second() {
    let cluster = Cluster::with(&["--no-hello"]);
    first(&cluster);
    let first = pids(&cluster);
    assert_eq!(first.len(), 3);

    let (done, away) = polled(&cluster, || deploy(&cluster, &web("", "env = [\"A=1\"]"), &[]));
    done.ok();
    eprintln!("measured: good update: a client waited {} ms at most", away.as_millis());
    assert!(away < AWAY, "{away:?}");
    // The extra one may just be ending.
    let second = eventually("three are left", || Some(pids(&cluster)).filter(|p| p.len() == 3));
    assert!(second.iter().all(|pid| !first.contains(pid)), "{second:?}");

    let crashes = web("", "env = [\"HELLO_EXIT_AT_START=3\"]");
    let sick = web("deadline = \"6s\"", "").replace("/health", "/nothing-here");
    let sick = sick.replace("[components.health]", "env = [\"A=2\"]\n[components.health]");
    let missing = web("", "").replace(&bin_dir().join("hello").display().to_string(), "/bin/false");
    for (what, definition, says) in [
        ("a crash", &crashes, "exit 3"),
        ("a failing probe", &sick, "web/4"),
        ("a wrong command", &missing, "exit 1"),
    ] {
        let (done, away) = polled(&cluster, || deploy(&cluster, definition, &[]));
        eprintln!("measured: {what}: a client waited {} ms at most", away.as_millis());
        assert_eq!(done.code, 1, "{what}: {} {}", done.stdout, done.stderr);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains("returned to revision 2") && said.contains(says), "{what}: {said}");
        assert!(away < AWAY, "{what}: {away:?}");
        let left = eventually("three are left", || Some(pids(&cluster)).filter(|p| p.len() == 3));
        assert_eq!(left, second, "{what}: not one was touched");
    }
    let failed = |n| (n, "failed".to_owned(), false);
    let good = |n, now| (n, "good".to_owned(), now);
    let expected = [good(1, false), good(2, true), failed(3), failed(4), failed(5)];
    assert_eq!(history(&cluster), expected);
}

/// `web` of three containers on one node, each answering with `text`.
fn boxed(image: &str, text: &str, path: &str) -> String {
    format!(
        "name = \"web\"\nreplicas = 3\n\n[placement]\ncolocate = true\n\n[update]\n\
         healthy_for = \"500ms\"\ndeadline = \"20s\"\n\n[[components]]\nname = \"web\"\n\
         image = \"{image}\"\ncmd = [\"/bin/sh\", \"-c\", \"echo $0 >/www/index.html; exec httpd -f \
         -p $PORT -h /www\", \"{text}\"]\nstop_grace = \"1s\"\n\n[components.health]\n\
         kind = \"http\"\npath = \"{path}\"\ninterval = \"300ms\"\nretries = 2\n\n\
         [[components.routes]]\nport = 443\n"
    )
}

#[test]
fn during_good_and_failed_updates_of_containers_a_client_is_answered_within_a_second() {
    let Some(boxes) = Boxes::start(1) else { return };
    let cluster = &boxes.cluster;
    let rows = || -> Vec<Value> {
        let rows = cluster.ps_json(0);
        rows.into_iter().filter(|row| row["service"] == "web").collect()
    };
    let containers = || {
        let mut all: Vec<String> =
            rows().iter().filter_map(|row| row["container"].as_str().map(str::to_owned)).collect();
        all.sort_unstable();
        all
    };
    let urls = || -> Vec<String> {
        let url = |row: &Value| Some(format!("{}/index.html", row["urls"][0].as_str()?));
        rows().iter().filter_map(url).collect()
    };
    let answers = |url: &str| matches!(cluster.curl(0, url), Ok((200, _)));
    let update = |definition: &str| {
        weft_tests::client::polled(urls, answers, || cluster.try_deploy(0, definition, &[]))
    };
    cluster.deploy(0, &boxed(IMAGE, "one", "/index.html"));
    let first = containers();
    let (done, away) = update(&boxed(IMAGE_2, "two", "/index.html"));
    done.ok();
    eprintln!("measured: good update: a client waited {} ms at most", away.as_millis());
    assert!(away < AWAY, "{away:?}");
    // The extra one may just be ending.
    let three = || {
        let all = || Some(containers()).filter(|all| all.len() == 3);
        cluster.wait_until("three are left", DEADLINE, |_| all()).0
    };
    let second = three();
    assert!(second.iter().all(|id| !first.contains(id)), "{second:?}");

    let crashes = boxed(IMAGE_2, "x", "/index.html").replace("exec httpd", "exit 3; exec httpd");
    for (what, definition, says) in [
        ("no image", boxed("localhost/absent:9", "x", "/index.html"), "localhost/absent:9"),
        ("a crash", crashes, "exit 3"),
        ("a failing probe", boxed(IMAGE_2, "x", "/nothing-here"), "/nothing-here answered 404"),
    ] {
        let (done, away) = update(&definition);
        eprintln!("measured: {what}: a client waited {} ms at most", away.as_millis());
        let said = format!("{}{}", done.stdout, done.stderr);
        assert_eq!(done.code, 1, "{what}: {said}");
        assert!(said.contains("returned to revision 2") && said.contains(says), "{what}: {said}");
        assert!(away < AWAY, "{what}: {away:?}");
        assert_eq!(three(), second, "{what}: not one was touched");
    }
}

#[test]
fn a_deploy_waits_for_the_one_before_it_and_says_for_whom() {
    let cluster = Cluster::with(&["--no-hello"]);
    first(&cluster);
    let slow = web("", "env = [\"A=1\"]").replace("500ms", "2s");
    deploy(&cluster, &slow, &["--no-wait"]).ok();
    let refused = deploy(&cluster, &web("", "env = [\"A=2\"]"), &["--no-wait"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("service busy: update to revision 2 since"), "{refused:?}");
    let undeploy = cluster.weft(&["undeploy", "web", "--yes", "--no-wait"]);
    assert!(undeploy.stderr.contains("service busy"), "{undeploy:?}");
    let waited = deploy(&cluster, &web("", "env = [\"A=2\"]"), &[]).ok();
    assert!(waited.stderr.contains("waits: service busy"), "{waited:?}");
    let good = |n, now| (n, "good".to_owned(), now);
    assert_eq!(history(&cluster), [good(1, false), good(2, false), good(3, true)]);
}

#[test]
fn an_update_can_be_tried_on_a_canary_paused_resumed_and_rolled_back_and_a_service_scaled() {
    let cluster = Cluster::with(&["--no-hello"]);
    first(&cluster);
    let done = deploy(&cluster, &web("canary = 1", "env = [\"A=1\"]"), &[]).ok();
    assert!(done.stderr.contains("weft resume web"), "{done:?}");
    let revisions = || {
        let of = |row: &Value| row["revision"].as_u64();
        let mut all: Vec<u64> = ps(&cluster).iter().filter_map(of).collect();
        all.sort_unstable();
        all
    };
    eventually("one of three is new", || (revisions() == [1, 1, 2]).then_some(()));
    assert_eq!(last_operation(&cluster)["left"][0], "canary: 1 of 3 replicas updated");
    let paused = cluster.weft(&["pause", "web"]);
    assert!(paused.stderr.contains("its update is paused"), "{paused:?}");
    cluster.weft(&["resume", "web"]).ok();
    eventually("all are new", || (revisions() == [2, 2, 2]).then_some(()));

    // Said at the deploy instead of in the definition.
    let done = deploy(&cluster, &web("", "env = [\"A=2\"]"), &["--canary", "1"]).ok();
    assert!(done.stderr.contains("weft resume web"), "{done:?}");
    cluster.weft(&["rollback", "web"]).ok();
    eventually("the one before", || (revisions() == [2, 2, 2]).then_some(()));
    cluster.weft(&["rollback", "web", "1"]).ok();
    let good = |n, now| (n, "good".to_owned(), now);
    let failed = (3, "failed".to_owned(), false);
    assert_eq!(history(&cluster), [good(1, false), good(2, false), failed, good(4, true)]);

    let before = pids(&cluster);
    cluster.weft(&["scale", "web", "5"]).ok();
    let five = pids(&cluster);
    assert!(five.len() == 5 && before.iter().all(|pid| five.contains(pid)), "{before:?} {five:?}");
    cluster.weft(&["scale", "web", "2"]).ok();
    eventually("two are left", || (pids(&cluster).len() == 2).then_some(()));
    let unknown = cluster.weft(&["rollback", "web", "99"]);
    assert!(unknown.stderr.contains("no revision 99"), "{unknown:?}");
}

/// A namespace cluster with `web` on it; the node that leads, and another.
fn spread() -> Option<(NetCluster, usize, usize)> {
    let cluster = NetCluster::start(3)?;
    let leader = cluster.settled(0);
    cluster.deploy(leader, &web("", ""));
    Some((cluster, leader, (leader + 1) % 3))
}

/// Begins an update and waits until it is under way; the operation's number.
fn begun(cluster: &NetCluster, through: usize) -> u64 {
    let file = cluster.definition("web", &web("", "env = [\"A=1\"]").replace("500ms", "1s"));
    run(cluster.command(through).args(["deploy", "-f", &file, "--no-wait"])).ok();
    let (id, _) = cluster.wait_until("one replica is updated", DEADLINE, |cluster| {
        let all = rows(&cluster.weft(through, &["operations", "--json"]));
        let last = all.last()?;
        let at = last["steps"].as_array()?.iter().find(|step| step["name"] == "update")?;
        let detail = at["detail"].as_str()?;
        (!detail.starts_with("0 of")).then(|| last["id"].as_u64())?
    });
    id
}

/// Three replicas of the second revision run, and nothing else.
fn all_new(cluster: &NetCluster, through: usize, id: u64) {
    let (outcome, took) = cluster.wait_until("the update is over", DEADLINE, |cluster| {
        let all = rows(&cluster.weft(through, &["operations", "--json"]));
        let it = all.iter().find(|row| row["id"].as_u64() == Some(id))?;
        it["outcome"].as_str().map(str::to_owned)
    });
    eprintln!("measured: the update was over after {} ms", took.as_millis());
    assert_eq!(outcome, "done");
    cluster.wait_until("three of the new revision run", DEADLINE, |cluster| {
        let rows = cluster.ps_json(through);
        let new = |row: &Value| row["revision"].as_u64() == Some(2) && row["state"] == "running";
        (rows.len() == 3 && rows.iter().all(new)).then_some(())
    });
}

#[test]
fn an_update_whose_leader_is_lost_is_carried_on_by_the_next() {
    let Some((mut cluster, leader, through)) = spread() else { return };
    let id = begun(&cluster, through);
    cluster.kill(leader);
    cluster.wait_until("another leads", DEADLINE, |cluster| {
        let status = cluster.status(through)?;
        let now = status["leader"].as_str()?;
        (now != cluster.node_name(leader)).then_some(())
    });
    cluster.start_daemon(leader);
    all_new(&cluster, through, id);
}

#[test]
fn a_node_that_is_lost_in_the_middle_of_an_update_does_not_keep_it_from_its_end() {
    let Some((mut cluster, leader, gone)) = spread() else { return };
    let id = begun(&cluster, leader);
    cluster.crash(gone);
    all_new(&cluster, leader, id);
}

#[test]
fn a_first_deploy_whose_file_is_corrected_meanwhile_is_told_what_took_its_place() {
    let cluster = Cluster::with(&["--no-hello"]);
    // Its probe asks for what is not there.
    let wrong = web("", "")
        .replace("/health", "/nothing-here")
        .replace("retries = 2", "start_period = \"5m\"");
    let file = cluster.definition("web", &wrong);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| cluster.weft(&["deploy", "-f", &file]));
        eventually("it waits", || (pids(&cluster).len() == 3).then_some(()));
        let sent = cluster.weft(&["service", "show", "web"]).ok().stdout;
        let right = web("", "");
        std::fs::write(&file, &right).expect("writes");
        assert_eq!(cluster.weft(&["service", "show", "web"]).ok().stdout, sent, "it was read once");

        cluster.weft(&["deploy", "-f", &file, "--node", "n2"]).ok();
        let first = first.join().expect("it ends");
        let says = "superseded: `deploy` by";
        assert!(first.code == 1 && first.stderr.contains(says), "{first:?}");
        assert_eq!(
            std::fs::read_to_string(&file).expect("reads"),
            right,
            "a deploy changes no file"
        );
    });
    let revisions: Vec<_> = history(&cluster).into_iter().map(|row| (row.0, row.2)).collect();
    assert_eq!(revisions, [(1, false), (2, true)]);
}

#[test]
fn two_operators_who_update_at_once_through_two_nodes_are_served_one_after_the_other() {
    let cluster = Cluster::with(&["--no-hello"]);
    first(&cluster);
    let deploy = |node: &str, value: &str| {
        let text = web("", &format!("env = [\"BY={value}\"]"));
        let file = cluster.definition(value, &text);
        cluster.weft(&["deploy", "-f", &file, "--node", node])
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| deploy("n1", "one"));
        let two = scope.spawn(|| deploy("n2", "two"));
        (one.join().expect("it ends").ok(), two.join().expect("it ends").ok())
    });
    let waited = |done: &Done| done.stderr.contains("waits: service busy: update to revision 2");
    assert!(waited(&one) != waited(&two), "one of them waits: {one:?} {two:?}");
    let last = if waited(&one) { "BY=one" } else { "BY=two" };
    assert!(cluster.weft(&["service", "show", "web"]).ok().stdout.contains(last));
    let good = |n, now| (n, "good".to_owned(), now);
    assert_eq!(history(&cluster), [good(1, false), good(2, false), good(3, true)]);
}

/// Revisions of the replicas that stay.
fn revisions(cluster: &Cluster) -> Vec<u64> {
    let stays = |row: &Value| row["replica"].as_u64().is_some_and(|replica| replica <= 3);
    let rows = ps(cluster).into_iter().filter(stays);
    rows.filter_map(|row| row["revision"].as_u64()).collect()
}

#[test]
fn an_update_goes_as_many_at_once_as_it_may_and_stands_still_while_it_is_paused() {
    let cluster = Cluster::with(&["--no-hello"]);
    first(&cluster);
    let slow = |top: &str, env: &str| web(top, env).replace("500ms", "2s");
    deploy(&cluster, &slow("max_parallel = 2", "env = [\"A=1\"]"), &["--no-wait"]).ok();
    // The last of them may be new and not have begun.
    let mut started = eventually("all are new, and run", || {
        let rows = ps(&cluster);
        let stays = |row: &&Value| row["replica"].as_u64().is_some_and(|replica| replica <= 3);
        let begun = |row: &Value| {
            let is_new = row["revision"].as_u64() == Some(2);
            parse_time(row["started_at"].as_str().filter(|_| is_new)?).ok()
        };
        let started: Option<Vec<_>> = rows.iter().filter(stays).map(begun).collect();
        started.filter(|all| all.len() == 3)
    });
    started.sort_unstable();
    // Each has to be healthy for 2 s before the next.
    assert!(started[1].since(started[0]) < Duration::from_secs(2), "{started:?}");
    assert!(started[2].since(started[1]) >= Duration::from_secs(2), "{started:?}");
    eventually("it is good", || (history(&cluster).last()?.1 == "good").then_some(()));

    deploy(&cluster, &slow("", "env = [\"A=2\"]"), &["--no-wait"]).ok();
    let one_of_three = || {
        let revisions = revisions(&cluster);
        let new = revisions.iter().filter(|revision| **revision == 3).count();
        (new == 1 && revisions.len() == 3).then_some(revisions)
    };
    let halted = eventually("one of three is new", one_of_three);
    cluster.weft(&["pause", "web"]).ok();
    assert!(last_operation(&cluster).to_string().contains("paused"));
    // Longer than the next step would have taken.
    cluster.weft(&["exec", "web", "--replica", "1", "--", "sleep", "4"]).ok();
    assert_eq!(revisions(&cluster), halted);
    cluster.weft(&["resume", "web"]).ok();
    eventually("all are new", || (revisions(&cluster) == [3, 3, 3]).then_some(()));
}

#[test]
fn an_update_that_may_not_go_back_stops_where_it_failed_and_ends_with_6() {
    let cluster = Cluster::with(&["--no-hello"]);
    first(&cluster);
    let before = pids(&cluster);
    let crashes = web("auto_rollback = false", "env = [\"HELLO_EXIT_AT_START=3\"]");
    let halted = deploy(&cluster, &crashes, &[]);
    assert_eq!(halted.code, 6, "{halted:?}");
    assert!(halted.stdout.contains("exit 3") || halted.stderr.contains("exit 3"), "{halted:?}");
    assert_eq!(last_operation(&cluster)["outcome"], "partial");
    let after = pids(&cluster);
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} {after:?}");
    cluster.weft(&["rollback", "web"]).ok();
    eventually("only the three of before are left", || (pids(&cluster) == before).then_some(()));
}
