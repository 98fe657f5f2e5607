//! What goes on and on: programs that end at once, restarts, disks without room, and alert commands
//! that flood or are given hostile values (orchestration §12, §22b).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options};
use weft_tests::{Cluster, Done, bin_dir, eventually, kill_9, micros, run, with_environment};
use weft_wire::{Clock, SystemClock};

/// `monitor.interval` of nodes whose passes are waited for.
const INTERVAL: Duration = Duration::from_secs(1);

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn lines(done: &Done) -> Vec<Value> {
    done.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn alerts(cluster: &Cluster) -> Vec<Value> {
    lines(&cluster.weft(&["alerts", "--json"]))
}

/// Those of one type.
fn of(all: &[Value], kind: &str) -> Vec<Value> {
    all.iter().filter(|alert| text(alert, "type") == kind).cloned().collect()
}

/// One node whose `[monitor]` is this.
fn cluster(monitor: &str) -> Cluster {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let file = cluster.data_dir("n1").join("node.toml");
    let node = std::fs::read_to_string(&file).expect("the node file");
    std::fs::write(&file, format!("{node}\n[monitor]\n{monitor}\n")).expect("writes");
    restart(&mut cluster);
    cluster
}

fn restart(cluster: &mut Cluster) {
    cluster.kill_daemon("n1");
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
}

/// As a definition or a node file has it.
fn quoted(argv: &[&str]) -> String {
    serde_json::to_string(argv).expect("JSON is TOML here")
}

/// A service of one component.
fn service(name: &str, argv: &[&str], component: &str) -> String {
    format!(
        "name = \"{name}\"\n\n[update]\norder = \"stop-first\"\nhealthy_for = \"500ms\"\n\n\
         [[components]]\nname = \"api\"\ncmd = {}\nstop_grace = \"2s\"\n{component}\n",
        quoted(argv)
    )
}

/// A service that runs until it is killed.
fn hello(name: &str, component: &str) -> String {
    service(name, &[&*bin_dir().join("hello").to_string_lossy()], component)
}

fn deploy(cluster: &Cluster, name: &str, definition: &str, more: &[&str]) -> Done {
    let file = cluster.definition(name, definition);
    cluster.weft(&[&["deploy", "-f", &file][..], more].concat())
}

/// The row of a service of one component.
fn row(cluster: &Cluster, service: &str) -> Value {
    let rows = cluster.ps("n1");
    rows.into_iter().find(|row| row["service"] == service).unwrap_or_default()
}

/// Kills what runs of a service; its pid.
fn kill(cluster: &Cluster, name: &str) -> u64 {
    let pid = cluster.running("n1", name, "n1")["pid"].as_u64().expect("a pid");
    kill_9(u32::try_from(pid).expect("a pid"));
    pid
}

/// How many messages the monitor of the only node has handled, by `weft actors`; each of its passes
/// is some.
#[track_caller]
fn handled(actors: &Value) -> u64 {
    let rows = actors.as_array();
    let row = rows.and_then(|rows| rows.iter().find(|row| row["path"] == "monitor"));
    let count = row.and_then(|row| row["messages"].as_u64());
    count.unwrap_or_else(|| panic!("no monitor in {actors}"))
}

/// Waits until the monitor of the only node has made so many passes, at least 2.
#[track_caller]
fn passes(actors: impl Fn() -> Value, count: u32) {
    let before = handled(&actors());
    let start = SystemClock.now();
    // Nobody asks it anything meanwhile: what it handles then are its passes.
    let enough = INTERVAL * (count + 1);
    eventually("so many intervals are over", || (start.elapsed() > enough).then_some(()));
    let after = handled(&actors());
    // What asking for the number adds to it.
    let asking = handled(&actors()) - after;
    let made = after - before;
    assert!(made >= asking + u64::from(count), "{made} messages, {asking} of them for asking");
}

#[test]
fn what_ends_at_once_is_started_five_times_and_alerted_once_and_again_when_somebody_says_so() {
    const STARTS: usize = 5;
    let mut cluster = cluster("interval = \"1s\"");
    let file = cluster.scratch().join("starts");
    let starts = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    let storm = |then: &str| {
        let script = format!("echo started >>{}; {then}", file.display());
        service("storm", &["/bin/sh", "-c", &script], "")
    };
    let given_up = |cluster: &Cluster| of(&alerts(cluster), "failed");
    let failed = |cluster: &Cluster, count: usize| {
        eventually("it is given up on", || {
            let row = row(cluster, "storm");
            (row["state"] == "failed" && starts() >= count).then_some(row)
        })
    };
    deploy(&cluster, "storm", &storm("exit 3"), &["--no-wait"]).ok();
    let down = failed(&cluster, STARTS);
    assert_eq!((starts(), down["restarts"].as_u64()), (STARTS, Some(4)), "{down}");
    assert_eq!((text(&down, "desired"), text(&down, "last_exit")), ("running", "exit 3"));
    assert!(text(&down, "reason").contains("5 times within 10 minutes"), "{down}");
    let told = eventually("that is told", || Some(given_up(&cluster)).filter(|a| !a.is_empty()));
    let [alert] = &told[..] else { panic!("not one: {told:#?}") };
    for (key, expected) in [
        ("service", "storm"),
        ("component", "api"),
        ("state", "fired"),
        ("desired", "running"),
        ("observed", "exited"),
    ] {
        assert_eq!(text(alert, key), expected, "{key} of {alert}");
    }
    assert!(text(alert, "reason").contains("given up on (exit 3)"), "{alert}");
    assert_eq!(cluster.weft(&["status", "--exit-code"]).code, 8);

    // A sixth start would have come after 8 s.
    let since = micros(text(&down, "since"));
    eventually("it has stayed down for twenty seconds", || {
        assert_eq!(starts(), STARTS, "started once more");
        (SystemClock.wall().as_micros() - since > 20_000_000).then_some(())
    });
    let still = row(&cluster, "storm");
    assert_eq!((&still["state"], &still["since"]), (&down["state"], &down["since"]), "{still}");
    assert_eq!(given_up(&cluster), told);

    // Nor does the next daemon start it, or tell it again.
    restart(&mut cluster);
    passes(|| cluster.json(&["actors", "--json"]), 4);
    let still = row(&cluster, "storm");
    assert_eq!((text(&still, "state"), starts()), ("failed", STARTS), "{still}");
    assert_eq!(given_up(&cluster), told);

    // Somebody acts: five more, and what comes of it is told of within the cooldown as suppressed.
    cluster.weft(&["restart", "storm", "--no-wait"]).ok();
    failed(&cluster, 2 * STARTS);
    let all = eventually("that is told too", || {
        Some(given_up(&cluster)).filter(|all| all.len() > told.len())
    });
    let states: Vec<&str> = all.iter().map(|alert| text(alert, "state")).collect();
    assert_eq!(states, ["fired", "suppressed"], "{all:#?}");
    assert_eq!(starts(), 2 * STARTS);

    // A new revision is tried, too, and that it is given up on is over.
    deploy(&cluster, "storm", &storm("exec sleep 1000"), &[]).ok();
    assert!(starts() > 2 * STARTS);
    eventually("all is well", || {
        let done = cluster.weft(&["status", "--exit-code"]);
        (done.code == 0 && row(&cluster, "storm")["state"] == "running").then_some(())
    });
    assert_eq!(given_up(&cluster), all);
}

#[test]
fn restarts_alert_when_they_reach_their_threshold_and_not_with_each_that_follows() {
    let cluster = cluster("restart_threshold = 2\nalert_after = \"0s\"\nflap_threshold = 100");
    deploy(&cluster, "web", &hello("web", ""), &[]).ok();
    for round in 1..=4 {
        kill(&cluster, "web");
        // The alert of a kill is stored after everything that was to be told before it.
        eventually("the kill is told of", || {
            (of(&alerts(&cluster), "drift").len() == round).then_some(())
        });
        if round < 4 {
            eventually("it was started again", || {
                let row = row(&cluster, "web");
                let counted = row["restarts"].as_u64() == u64::try_from(round).ok();
                (counted && row["state"] == "running").then_some(())
            });
        }
    }
    let all = alerts(&cluster);
    let kinds: Vec<&str> = all.iter().map(|alert| text(alert, "type")).collect();
    assert_eq!(kinds, ["drift", "drift", "restarts", "drift", "drift"], "{all:#?}");
    let alert = &all[2];
    for (key, expected) in [("service", "web"), ("component", "api"), ("state", "fired")] {
        assert_eq!(text(alert, key), expected, "{key} of {alert}");
    }
    assert_eq!(alert["transitions"].as_u64(), Some(2), "{alert}");
    assert!(text(alert, "reason").contains("started again 2 times"), "{alert}");
}

/// A file system of its own, in memory, as long as it lives.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// Of so many MiB; this takes root.
    #[track_caller]
    fn mount(size: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = format!("size={size}m");
        let mount = ["-t", "tmpfs", "-o", &options, "weft-test"];
        run(Command::new("mount").args(mount).arg(dir.path())).ok();
        Self { dir }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(self.dir.path()));
    }
}

#[test]
fn a_data_directory_with_little_room_alerts_once_and_again_after_there_was_room() {
    let Some(net) = Net::new(1) else { return };
    let disk = Disk::mount(96);
    let settings = ["monitor.disk_low=50", "monitor.interval=1s"];
    let options = Options {
        settings: settings.map(str::to_owned).into(),
        dir: Some(disk.dir.path().to_owned()),
        ..Options::default()
    };
    let cluster = NetCluster::with(net, 1, options);
    let told = || of(&lines(&cluster.weft(0, &["alerts", "--json"]).ok()), "disk");
    let looks = || passes(|| cluster.json(0, &["actors", "--json"]), 3);
    let filler = disk.dir.path().join("filler");
    let fill = || std::fs::write(&filler, vec![1u8; 60 << 20]).expect("there is room for it");

    looks();
    assert_eq!(told(), Vec::<Value>::new(), "there is room");
    fill();
    let first = eventually("that there is little is told", || told().first().cloned());
    for (key, expected) in [("node", "n1"), ("state", "fired"), ("service", ""), ("desired", "")] {
        assert_eq!(text(&first, key), expected, "{key} of {first}");
    }
    let reason = text(&first, "reason");
    assert!(reason.contains("% free") && reason.contains("less than 50 %"), "{first}");
    looks();
    assert_eq!(told().len(), 1, "not with each pass");

    std::fs::remove_file(&filler).expect("it is there");
    looks();
    assert_eq!(told().len(), 1, "room is no reason");
    fill();
    let all = eventually("it is told again", || Some(told()).filter(|all| all.len() > 1));
    let states: Vec<&str> = all.iter().map(|alert| text(alert, "state")).collect();
    assert_eq!(states, ["fired", "suppressed"], "{all:#?}");
}

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_command_that_floods_is_cut_short_and_keeps_neither_alerts_nor_memory() {
    const ROUNDS: usize = 3;
    let both = "cat /dev/zero & exec cat /dev/zero >&2";
    let commands: [&[&str]; 2] = [&["cat", "/dev/zero"], &["/bin/sh", "-c", both]];
    for command in commands {
        let quiet = "alert_after = \"0s\"\ncooldown = \"0s\"";
        let cluster = cluster(&format!("{quiet}\nalert_command = {}", quoted(command)));
        // Its processes are told apart from those of the same test in another run.
        let name = format!("floods-{}", std::process::id());
        deploy(&cluster, &name, &hello(&name, "restart = \"no\""), &[]).ok();
        let daemon = cluster.daemon_pid("n1");
        let before = resident(daemon);
        let mut peak = before;
        for round in 1..=ROUNDS {
            kill(&cluster, &name);
            let all = eventually("it is told of", || {
                peak = peak.max(resident(daemon));
                Some(of(&alerts(&cluster), "drift")).filter(|all| all.len() == round)
            });
            let events = lines(&cluster.weft(&["events", &name, "--json"]));
            let ended = events.iter().rfind(|event| event["new_state"] == "exited").expect("it");
            let last = all.last().expect("one a round");
            let after = micros(text(last, "time")) - micros(text(ended, "time"));
            assert!(after < 1_000_000, "{after} µs, with {command:?}");
            if round < ROUNDS {
                cluster.weft(&["restart", &name]).ok();
            }
        }
        let all = eventually("every command has been cut short", || {
            peak = peak.max(resident(daemon));
            let all = of(&alerts(&cluster), "drift");
            all.iter().all(|alert| !alert["problem"].is_null()).then_some(all)
        });
        for alert in &all {
            assert_eq!(text(alert, "state"), "fired", "{alert}");
            assert!(text(alert, "problem").contains("more than 1 MiB"), "{alert}");
            let output = text(alert, "output");
            let zeros = output.bytes().filter(|byte| *byte == 0).count();
            assert_eq!((output.len(), zeros), (4096, 4096), "{command:?}");
        }
        eprintln!("measured: {command:?}: {before} KiB before, {peak} KiB at most");
        assert!(peak < before + (64 << 10), "{before} KiB before, {peak} KiB: {command:?}");
        let mark = format!("MCP_SERVICE={name}");
        eventually("none of it is left", || with_environment(&mark).is_empty().then_some(()));
    }
}

#[test]
fn an_alert_command_gets_hostile_arguments_and_values_as_they_are_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let never = dir.path().join("never");
    let touch = format!("touch {}", never.display());
    // It notes each of its arguments, and its environment, in files of their own.
    let program = dir.path().join("tell 'them' \"now\" $(id) `id` \\n;&");
    let here = dir.path().display();
    let script = format!(
        "#!/bin/sh\nn=0\nfor given; do n=$((n + 1)); printf %s \"$given\" >\"{here}/given.$n\"; \
         done\nprintf %s \"$#\" >\"{here}/count\"\nenv -0 >\"{here}/part\"\n\
         mv \"{here}/part\" \"{here}/env\"\n"
    );
    std::fs::write(&program, script).expect("writes");
    let executable = || std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, executable()).expect("it is there");
    let substitution = format!("$({touch})");
    let backticks = format!("`{touch}`");
    let sequence = format!("x; {touch} & {touch} | {touch} #");
    let closing = format!("'; {touch}; '\"; {touch}; \"");
    let given: [&str; 10] = [
        "a  b\tc",
        "",
        &substitution,
        &backticks,
        &sequence,
        &closing,
        "two\nlines\n",
        "* ~ $HOME ${PATH} %s \\0 \\",
        "--help",
        "é ‘ ’ \u{1b}[1m",
    ];
    let path = program.to_string_lossy();
    let argv: Vec<&str> = std::iter::once(&*path).chain(given).collect();
    let cluster = cluster(&format!("alert_after = \"0s\"\nalert_command = {}", quoted(&argv)));

    // Names cannot be hostile.
    for (name, component) in [(substitution.as_str(), "api"), ("odd", backticks.as_str())] {
        let definition = format!(
            "name = {}\n[[components]]\nname = {}\ncmd = [\"sleep\", \"1000\"]\n",
            Value::from(name),
            Value::from(component)
        );
        let done = deploy(&cluster, "odd", &definition, &[]);
        assert_eq!(done.code, 2, "{done:?}");
    }
    // How something ended can: it names a program that there is, and that cannot be started.
    let odd = dir.path().join("odd 'one' \"two\" $(id) `id` \\n;&");
    std::fs::write(&odd, "#!/nonexistent\n").expect("writes");
    std::fs::set_permissions(&odd, executable()).expect("it is there");
    let odd = odd.to_string_lossy();
    let definition = service("odd", &[&*odd], "restart = \"no\"");
    deploy(&cluster, "odd", &definition, &["--no-wait"]).ok();
    let alert = eventually("its command has ended", || {
        let all = of(&alerts(&cluster), "drift");
        all.into_iter().find(|alert| !alert["exit"].is_null() || !alert["problem"].is_null())
    });
    assert_eq!(alert["exit"].as_i64(), Some(0), "{alert}");
    assert!(text(&alert, "reason").contains(&*odd), "{alert}");

    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("it was run");
    assert_eq!(read("count"), given.len().to_string());
    for (n, expected) in given.iter().enumerate() {
        assert_eq!(read(&format!("given.{}", n + 1)), *expected, "argument {}", n + 1);
    }
    let env = read("env");
    let mut env: BTreeMap<&str, &str> =
        env.split('\0').filter_map(|pair| pair.split_once('=')).collect();
    for (name, key) in [
        ("SERVICE", "service"),
        ("COMPONENT", "component"),
        ("NODE", "node"),
        ("DESIRED", "desired"),
        ("OBSERVED", "observed"),
        ("PREV_STATE", "prev_state"),
        ("ALERT_TYPE", "type"),
    ] {
        for prefix in ["MCP", "WEFT"] {
            let value = env.remove(format!("{prefix}_{name}").as_str());
            assert_eq!(value, Some(text(&alert, key)), "{prefix}_{name}");
        }
    }
    for (name, key) in
        [("WEFT_ALERT_REASON", "reason"), ("WEFT_ALERT_TIME", "time"), ("WEFT_ALERT_ID", "id")]
    {
        assert_eq!(env.remove(name), Some(text(&alert, key)), "{name}");
    }
    for (name, value) in
        [("MCP_TRANSITIONS", "0"), ("WEFT_TRANSITIONS", "0"), ("WEFT_REPLICA", "1")]
    {
        assert_eq!(env.remove(name), Some(value), "{name}");
    }
    // The rest is the daemon's, as is said of it, and what the script's own shell adds.
    env.retain(|name, _| !["PATH", "HOME", "PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    assert_eq!(env, BTreeMap::new());
    assert!(!never.exists(), "something was taken for a command");
}
