//! Daemons that are killed in the middle of things: nothing acknowledged is lost, nothing runs
//! twice, and what should run does.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use weft_tests::{Cluster, bin_dir, eventually, http_get, is_alive, kill_9, with_environment};
use weft_wire::{Clock, SystemClock};

/// A service of one `hello` that can be told from any other process by its environment.
fn marked(service: &str, mark: &str, greeting: &str) -> String {
    let program = bin_dir().join("hello");
    format!(
        "name = \"{service}\"\n\n[update]\norder = \"stop-first\"\nhealthy_for = \"100ms\"\n\n\
         [[components]]\nname = \"{service}\"\ncmd = [\"{}\"]\nenv = [\"WEFT_TEST_MARK={mark}\", \"HELLO_GREETING={greeting}\"]\n\
         stop_grace = \"2s\"\n\n[[components.routes]]\nport = 443\n",
        program.display()
    )
}

#[test]
fn a_daemon_killed_at_any_moment_of_a_deploy_never_leaves_two_copies_and_always_one() {
    const ROUNDS: u64 = 16;
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let mark = cluster.up["cluster"].as_str().expect("an id").to_owned();
    let needle = format!("WEFT_TEST_MARK={mark}");

    // Looks all the time; two at once, even for a moment, is a failure.
    let most = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let watch = {
        let (most, over, needle) = (most.clone(), over.clone(), needle.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let pids = with_environment(&needle);
                most.fetch_max(pids.len(), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(3));
            }
        })
    };

    for round in 0..ROUNDS {
        let text = marked("web", &mark, &format!("round-{round}"));
        let file = cluster.definition("web", &text);
        let mut deploy = cluster
            .command(&["deploy", "-f", &file, "--no-wait"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("weft starts");
        // The kill falls somewhere from before the request arrives until after the new process
        // runs: the moments differ by round, and by however busy the machine is.
        let daemon = cluster.daemon_pid("n1");
        let at = SystemClock.now() + Duration::from_millis(15 + round * 11);
        while SystemClock.now() < at {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        kill_9(daemon);
        eventually("the daemon is gone", || (!is_alive(daemon)).then_some(()));
        let acknowledged = deploy.wait().expect("weft ends").success();
        cluster.start_daemon("n1");

        if !acknowledged {
            // Said again, as its operator would.
            eventually("the deploy is accepted", || {
                (cluster.weft(&["deploy", "-f", &file, "--no-wait"]).code == 0).then_some(())
            });
        }
        let row = eventually("this round's definition runs", || {
            let rows = cluster.weft(&["ps", "--json"]);
            let rows: serde_json::Value = serde_json::from_str(&rows.stdout).ok()?;
            let row = rows.as_array()?.iter().find(|row| row["state"] == "running")?.clone();
            let (_, body) = http_get(row["urls"][0].as_str()?).ok()?;
            body.contains(&format!("round-{round}")).then_some(row)
        });
        let pids = with_environment(&needle);
        assert_eq!(pids.len(), 1, "round {round}: {pids:?}");
        assert_eq!(row["pid"].as_u64(), pids.first().map(|pid| u64::from(*pid)), "round {round}");
        assert_eq!(cluster.ps("n1").len(), 1, "round {round}");
        // The next deploy would wait for it.
        eventually("the update is over", || {
            let all = cluster.weft(&["operations", "--json"]);
            let all: serde_json::Value = serde_json::from_str(&all.stdout).ok()?;
            all.as_array()?.iter().all(|row| !row["outcome"].is_null()).then_some(())
        });
    }
    over.store(true, Ordering::Relaxed);
    watch.join().expect("the watcher ends");
    assert_eq!(most.load(Ordering::Relaxed), 1, "never two at once");
}

#[test]
fn what_a_daemon_saw_before_it_was_killed_is_told_exactly_once() {
    const ROUNDS: u64 = 12;
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let mark = cluster.up["cluster"].as_str().expect("an id").to_owned();
    let file = cluster.definition("web", &marked("web", &mark, "hi"));
    cluster.weft(&["deploy", "-f", &file]).ok();
    let exits = |cluster: &Cluster| -> Vec<serde_json::Value> {
        let done = cluster.weft(&["events", "web", "--json"]);
        let rows = done.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
        // The alert that it flaps, which it does here, is another event.
        let ends =
            |row: &serde_json::Value| row["new_state"] == "exited" && row["cause"] != "flapping";
        rows.filter(ends).collect()
    };
    for round in 0..ROUNDS {
        let row = cluster.running("n1", "web", "n1");
        let pid = row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        let daemon = cluster.daemon_pid("n1");
        kill_9(pid);
        // From before the daemon can know of it until after it has told of the next start.
        let at = SystemClock.now() + Duration::from_millis(round * 3);
        while SystemClock.now() < at {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        kill_9(daemon);
        eventually("the daemon is gone", || (!is_alive(daemon)).then_some(()));
        cluster.start_daemon("n1");
        eventually("it runs again, and its end is told", || {
            let rows: serde_json::Value =
                serde_json::from_str(&cluster.weft(&["ps", "--json"]).stdout).ok()?;
            let row = rows.as_array()?.iter().find(|row| row["state"] == "running")?;
            let told = exits(&cluster).len() as u64;
            (row["pid"].as_u64() != Some(u64::from(pid)) && told > round).then_some(())
        });
        // Not an early failure of the next round: short runs count towards `failed`.
        cluster.weft(&["restart", "web"]).ok();
    }
    let told = exits(&cluster);
    assert_eq!(told.len() as u64, ROUNDS, "{told:#?}");
    assert!(told.iter().all(|event| event["exit"] == "signal 9"), "{told:#?}");
    let times: std::collections::BTreeSet<_> =
        told.iter().map(|event| event["time"].to_string()).collect();
    assert_eq!(times.len() as u64, ROUNDS, "each end once: {told:#?}");
}

#[test]
fn nothing_acknowledged_is_lost_when_every_daemon_is_killed_at_once() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "3"]);
    let mark = cluster.up["cluster"].as_str().expect("an id").to_owned();
    let files: Vec<(String, String)> = (0..40)
        .map(|n| {
            let name = format!("s{n}");
            let file = cluster.definition(&name, &marked(&name, &mark, &name));
            (name, file)
        })
        .collect();

    // Deploys come through all three nodes; after the twentieth answer all daemons die, whatever
    // they are doing, while more are on their way.
    let daemons = ["n1", "n2", "n3"].map(|node| cluster.daemon_pid(node));
    let (answered, gone) = (AtomicUsize::new(0), AtomicBool::new(false));
    let acknowledged = std::thread::scope(|scope| {
        let (cluster, files, answered, gone) = (&cluster, &files, &answered, &gone);
        let callers: Vec<_> = ["n1", "n2", "n3"]
            .into_iter()
            .enumerate()
            .map(|(i, node)| {
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for (name, file) in files.iter().skip(i).step_by(3) {
                        if gone.load(Ordering::Relaxed) {
                            break;
                        }
                        let args = ["--node", node, "deploy", "-f", file, "--no-wait"];
                        if cluster.weft(&args).code == 0 {
                            done.push(name.clone());
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    done
                })
            })
            .collect();
        eventually("twenty are acknowledged", || {
            (answered.load(Ordering::Relaxed) >= 20).then_some(())
        });
        for daemon in daemons {
            kill_9(daemon);
        }
        gone.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|c| c.join().expect("a caller ends")).collect::<Vec<_>>()
    });
    assert!(acknowledged.len() >= 20);
    eventually("all daemons are gone", || daemons.iter().all(|pid| !is_alive(*pid)).then_some(()));

    for node in ["n1", "n2", "n3"] {
        cluster.start_daemon(node);
    }
    for node in ["n1", "n2", "n3"] {
        cluster.node_is("n1", node, "ready");
        // Every node knows every acknowledged one.
        eventually(&format!("{node} lists all that was acknowledged"), || {
            let done = cluster.weft(&["--node", node, "list", "--json"]);
            let rows: serde_json::Value = serde_json::from_str(&done.stdout).ok()?;
            let known: Vec<&str> =
                rows.as_array()?.iter().filter_map(|row| row["service"].as_str()).collect();
            acknowledged.iter().all(|name| known.contains(&name.as_str())).then_some(())
        });
    }
    // Each runs, once, and no more runs than is listed.
    let mut copies = BTreeMap::new();
    eventually("each acknowledged one runs", || {
        let rows = cluster.ps("n2");
        copies.clear();
        for row in rows.iter().filter(|row| row["state"] == "running") {
            *copies.entry(row["service"].as_str()?.to_owned()).or_insert(0usize) += 1;
        }
        acknowledged.iter().all(|name| copies.contains_key(name)).then_some(())
    });
    assert!(copies.values().all(|n| *n == 1), "{copies:?}");
    let listed = cluster.json(&["list", "--json"]).as_array().map_or(0, Vec::len);
    eventually("as many processes as components", || {
        (with_environment(&format!("WEFT_TEST_MARK={mark}")).len() == listed).then_some(())
    });
}

#[test]
fn a_daemon_that_is_told_to_stop_ends_well_and_leaves_its_components_running() {
    let mut cluster = Cluster::with(&["--nodes", "1"]);
    let before = cluster.running("n1", "hello", "n1");
    let daemon = cluster.daemon_pid("n1");
    let pid = i32::try_from(daemon).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it exists");
    eventually("the daemon has ended", || (!is_alive(daemon)).then_some(()));
    let url = before["urls"][0].as_str().expect("a url");
    assert_eq!(http_get(url).map(|(status, _)| status), Ok(200));
    cluster.start_daemon("n1");
    let after = cluster.running("n1", "hello", "n1");
    assert_eq!((&after["pid"], &after["restarts"]), (&before["pid"], &before["restarts"]));
}
