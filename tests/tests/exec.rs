//! Commands beside components, and what components use, as an operator meets them: `weft exec`,
//! `weft stats`, `weft top` (orchestration §7).

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use weft_protocol::AuditRecord;
use weft_tests::audit::audit;
use weft_tests::podman::{Boxes, IMAGE};
use weft_tests::pty::OnTerminal;
use weft_tests::{Cluster, Done, eventually, is_alive, kill_9, with_environment};

/// Two replicas of two components that do nothing.
const IDLE: &str = r#"
name = "idle"
replicas = 2

[[components]]
name = "api"
cmd = ["/bin/sleep", "100000"]
env = ["KIND=idle"]
stop_grace = "1s"

[[components]]
name = "db"
cmd = ["/bin/sleep", "100000"]
stop_grace = "1s"
"#;

fn idle() -> Cluster {
    let cluster = Cluster::with(&["--no-hello"]);
    let file = cluster.definition("idle", IDLE);
    cluster.weft(&["deploy", "-f", &file]).ok();
    cluster
}

/// Node and replica of a component of `idle`.
fn place(cluster: &Cluster, replica: u32) -> String {
    let rows = cluster.ps("n1");
    let row = rows.iter().find(|row| row["replica"] == replica).expect("that replica");
    row["node"].as_str().expect("a node").to_owned()
}

/// Runs a command with this input to its end; a failure if it goes on.
#[track_caller]
fn fed(command: &mut Command, input: &[u8]) -> (i32, Vec<u8>) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let (mut stdin, mut stdout) =
        (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = stdout.read_to_end(&mut all);
        all
    });
    let status = eventually("it ends", || child.try_wait().expect("a child"));
    writer.join().expect("wrote");
    (status.code().unwrap_or(-1), reader.join().expect("read"))
}

/// A `weft exec` that goes on; killed on drop.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts"))
    }

    fn kill(&mut self) {
        kill_9(self.0.id());
        self.0.wait().expect("it was started here");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn begins(marker: &str, count: usize) -> Vec<u32> {
    eventually(&format!("{count} processes with {marker}"), || {
        let found = with_environment(marker);
        (found.len() >= count).then_some(found)
    })
}

#[track_caller]
fn is_gone(marker: &str) {
    eventually(&format!("no process has {marker}"), || {
        with_environment(marker).is_empty().then_some(())
    });
}

#[test]
fn a_command_runs_as_the_component_does_and_ends_with_its_own_code_through_any_node() {
    let cluster = idle();
    for node in ["n1", "n2", "n3"] {
        let script = "echo out; echo err >&2; echo $KIND $WEFT_REPLICA $MORE; pwd; exit 7";
        let args =
            ["--node", node, "exec", "idle/api", "--replica", "2", "-e", "MORE=a b", "--", "sh"];
        let done = cluster.weft(&[&args[..], &["-c", script]].concat());
        let home = cluster.data_dir(&place(&cluster, 2)).join("services/idle/2");
        let expected = format!("out\nidle 2 a b\n{}\n", home.display());
        assert_eq!((done.code, done.stdout.as_str()), (7, expected.as_str()), "{done:?}");
        assert_eq!(done.stderr, "err\n");
    }
    let exec =
        |more: &[&str]| cluster.weft(&[&["exec", "idle/api", "--replica", "1"], more].concat());
    assert_eq!(exec(&["--", "true"]).ok().stdout, "");
    assert_eq!(exec(&["-w", "/", "--", "pwd"]).ok().stdout, "/\n");
    assert_eq!(exec(&["--", "/nope"]).code, 127);
    assert_eq!(exec(&["--", "/etc"]).code, 126);
    assert_eq!(exec(&["-w", "nowhere", "--", "true"]).code, 126);
    assert_eq!(exec(&["--", "sh", "-c", "kill -9 $$"]).code, 137);
    // Each value is one argument.
    let odd = ["--", "printf", "%s|", "a b", "$(x)", "\"q\"", "l\nm", "--"];
    assert_eq!(exec(&odd).ok().stdout, "a b|$(x)|\"q\"|l\nm|--|");
    // Without -i there is no input; what it leaves behind ends with it.
    assert_eq!(exec(&["--", "cat"]).ok().stdout, "");
    let left = exec(&["-e", "LEFT=behind", "--", "sh", "-c", "sleep 1000 & echo on"]).ok();
    assert_eq!(left.stdout, "on\n");
    assert!(with_environment("LEFT=behind").is_empty());

    let done = exec(&["--json", "--", "sh", "-c", "printf 'a\\377'; echo b >&2; exit 3"]);
    assert_eq!(done.code, 3, "{done:?}");
    let expected = serde_json::json!({"exit": 3, "stdout": "a\u{fffd}", "stderr": "b\n"});
    assert_eq!(done.json(), expected);
}

#[test]
fn what_cannot_be_meant_is_refused_and_says_what_could_be() {
    let cluster = idle();
    let on = place(&cluster, 1);
    let exec = |more: &[&str]| cluster.weft(&[&["--node", "n3", "exec"], more].concat());
    for (args, code, says) in [
        (&["idle", "--replica", "1", "--", "true"][..], 2, "api, db"),
        (&["idle/web", "--", "true"], 1, "its components are api, db"),
        (&["shop", "--", "true"], 1, "the services are idle"),
        (&["idle/api", "--", "true"], 2, "1 on n"),
        (&["idle/api", "--replica", "3", "--", "true"], 1, "no replica 3"),
        (&["idle/api", "--on", "n9", "--", "true"], 1, "on that node"),
        (&["idle/api"], 2, "COMMAND"),
        (&["idle/api", "-e", "=x", "--", "true"], 2, "NAME=VALUE"),
        (&["idle/api", "--replica", "1", "-u", "nobody-else", "--", "true"], 2, "another user"),
        (&["idle/api", "-t", "--json", "--", "true"], 2, "-t and --json"),
        (&["idle/api", "-it", "--replica", "1", "--", "true"], 2, "no terminal"),
    ] {
        let done = exec(args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        assert!(done.stderr.contains(says), "{args:?}: {done:?}");
    }
    let done = exec(&["idle/api", "--on", &on, "--", "sh", "-c", "echo $WEFT_NODE"]).ok();
    assert_eq!(done.stdout, format!("{on}\n"));
    cluster.weft(&["stop", "idle/db"]).ok();
    let done = exec(&["idle/db", "--replica", "1", "--", "true"]);
    assert!(done.code == 1 && done.stderr.contains("does not run"), "{done:?}");
}

#[test]
fn a_mebibyte_goes_in_and_comes_back_and_a_flood_is_held_up() {
    let cluster = idle();
    // So that it goes over a link between nodes.
    let args = ["--node", "n3", "exec", "-i", "idle/api", "--replica", "1", "--"];
    let content: Vec<u8> =
        (0..1u32 << 18).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_be_bytes()).collect();
    let (code, back) = fed(&mut cluster.command(&[&args[..], &["cat"]].concat()), &content);
    assert!(code == 0 && back == content, "code {code}, {} bytes", back.len());
    // Input that nobody reads does not keep the command from ending.
    let head = [&args[..], &["head", "-c", "5"]].concat();
    let (code, back) = fed(&mut cluster.command(&head), &content);
    assert_eq!((code, back.as_slice()), (0, &content[..5]));
    assert_eq!(
        fed(&mut cluster.command(&[&args[..], &["wc", "-c"]].concat()), b"").1.trim_ascii(),
        b"0"
    );

    let memory = |node: &str| {
        let status = format!("/proc/{}/status", cluster.daemon_pid(node));
        let status = std::fs::read_to_string(status).expect("a daemon");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    let (on, through) = (place(&cluster, 1), "n3");
    let before = (memory(&on), memory(through));
    let flood = [&args[..7], &["-e", "FLOOD=yes", "--", "yes"]].concat();
    let mut running = Running::start(&mut cluster.command(&flood));
    let pid = begins("FLOOD=yes", 1)[0];
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        io.lines().find_map(|l| l.strip_prefix("wchar: ")?.parse::<u64>().ok()).unwrap_or(0)
    };
    let mut last = (0, 0);
    let held = eventually("the flood is held up", || {
        let now = written();
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        (last.1 > 20 && now > 0).then_some(now)
    });
    assert!(held < 32 << 20, "{held} bytes are under way");
    for (was, node) in [(before.0, on.as_str()), (before.1, through)] {
        let now = memory(node);
        assert!(now < was + 48, "{node} grew from {was} to {now} MiB");
    }
    // Whoever reads again gets what comes next.
    let mut stdout = running.0.stdout.take().expect("piped");
    let mut read = vec![0; 8 << 20];
    stdout.read_exact(&mut read).expect("it goes on");
    assert!(read.chunks(2).all(|line| line == b"y\n"));
    running.kill();
    is_gone("FLOOD=yes");
}

#[test]
fn what_is_run_ends_with_whoever_ran_it_and_with_its_node() {
    let cluster = idle();
    let on = place(&cluster, 2);
    let through = ["n1", "n2", "n3"].into_iter().find(|node| *node != on).expect("another");
    let start = |marker: &str| {
        // One in the background, one that has left its session; neither minds a hang-up.
        let script = "trap '' HUP; sleep 1000 & setsid sleep 1000 & sleep 1000";
        let args = ["--node", through, "exec", "idle/api", "--replica", "2", "-e", marker, "--"];
        let running =
            Running::start(&mut cluster.command(&[&args[..], &["sh", "-c", script]].concat()));
        begins(marker, 4);
        running
    };
    let mut killed = start("ENDS=killed");
    killed.kill();
    is_gone("ENDS=killed");

    let mut interrupted = start("ENDS=interrupted");
    let pid = rustix::process::Pid::from_child(&interrupted.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let status = eventually("it ends", || interrupted.0.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(130));
    is_gone("ENDS=interrupted");

    let mut orphan = start("ENDS=daemon");
    cluster.kill_daemon(&on);
    is_gone("ENDS=daemon");
    let status = eventually("it is told", || orphan.0.try_wait().expect("a child"));
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
}

#[test]
fn a_terminal_has_the_operators_size_its_keys_and_comes_back_as_it_was() {
    if weft_tests::lacks("stty") {
        return;
    }
    let cluster = idle();
    let args = ["--node", "n3", "exec", "-it", "idle/api", "--replica", "1", "--", "sh"];
    let mut shell = OnTerminal::start(&mut cluster.command(&args), 111, 33);
    shell.types("PS1=; stty size; echo $TERM-`tty | cut -c1-9`\n");
    shell.shows("33 111\r\n");
    shell.shows("xterm-/dev/pts/");
    shell.resize(140, 50);
    eventually("the new size is there", || {
        shell.types("stty size\n");
        shell.shown().contains("50 140\r\n").then_some(())
    });
    // The interrupt is a key of that terminal, and for what runs on it alone.
    shell.types("echo go; sleep 1000; echo code $?\n");
    shell.shows("go\r\n");
    eventually("the sleep ends", || {
        shell.types("\u{3}");
        shell.shown().contains("^C").then_some(())
    });
    shell.types("\necho still $((6 * 7))\n");
    shell.shows("still 42\r\n");
    shell.types("exit 5\n");
    assert_eq!(shell.end(), (5, true));

    // Without input it is a terminal all the same.
    let args =
        ["exec", "-t", "idle/api", "--replica", "1", "--", "sh", "-c", "test -t 1 && stty size"];
    let mut one = OnTerminal::start(&mut cluster.command(&args), 90, 20);
    let end = one.end();
    assert_eq!(end, (0, true), "{}", one.shown());
    one.shows("20 90\r\n");

    // One that closes its terminal is not hung up on: how it ends counts.
    let script = "exec <&- >&- 2>&-; sleep 0.3; exit 5";
    let args = ["exec", "-t", "idle/api", "--replica", "1", "--", "sh", "-c", script];
    let mut silent = OnTerminal::start(&mut cluster.command(&args), 90, 20);
    assert_eq!(silent.end(), (5, true), "{}", silent.shown());
}

#[test]
fn the_audit_has_the_command_once_with_its_program_and_without_what_was_said_to_it() {
    let cluster = idle();
    let args =
        ["--node", "n1", "exec", "-i", "idle/api", "--replica", "2", "--", "cat", "-", "/hunter2"];
    let (_, _) = fed(&mut cluster.command(&args), b"secret");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let records = eventually("it is in the audit", || {
        let records = runtime.block_on(audit(&cluster, "n1"));
        records.iter().any(|record| record.method == "gateway.exec").then_some(records)
    });
    let about: Vec<&AuditRecord> =
        records.iter().filter(|record| record.method.contains("exec")).collect();
    assert_eq!(about.len(), 1, "{about:#?}");
    assert!(about[0].target.ends_with(" idle/api#2 cat"), "{about:#?}");
    assert!(!about[0].caller.is_empty() && about[0].role == "admin", "{about:#?}");
    assert!(!format!("{records:?}").contains("hunter2"));
}

const BUSY: &str = r#"
name = "busy"

[[components]]
name = "loop"
cmd = ["/bin/sh", "-c", "for i in 1 2 3 4; do while :; do :; done & done; wait"]
stop_grace = "1s"
"#;

#[test]
fn a_busy_process_is_seen_with_all_that_descends_from_it() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    let file = cluster.definition("busy", BUSY);
    cluster.weft(&["deploy", "-f", &file]).ok();
    let row = eventually("it uses more than half a core", || {
        let rows = cluster.json(&["--node", "n2", "stats", "--json"]);
        let row = rows.as_array()?.first()?.clone();
        (row["cpu_percent"].as_f64()? > 50.0).then_some(row)
    });
    assert_eq!((&row["component"], &row["pids"]), (&"loop".into(), &5.into()), "{row}");
    assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{row}");
    let table = cluster.weft(&["stats", "busy/loop", "--no-stream"]).ok().stdout;
    let header = table.lines().next().expect("a header");
    for column in ["SERVICE", "COMPONENT", "NODE", "CPU", "MEMORY", "PIDS"] {
        assert!(header.contains(column), "{table}");
    }
    assert_eq!(table.lines().count(), 2, "{table}");
    let done = cluster.weft(&["stats", "busy/nope"]);
    assert!(done.code == 1 && done.stderr.contains("its components are loop"), "{done:?}");
    assert_eq!(cluster.weft(&["stats", "shop"]).code, 1);

    // On a terminal it is drawn again and again.
    let mut live = OnTerminal::start(&mut cluster.command(&["stats"]), 200, 30);
    eventually("it is drawn again", || {
        (live.shown().matches("SERVICE").count() >= 2).then_some(())
    });
    live.types("x");
}

#[test]
fn top_draws_the_cluster_takes_keys_and_leaves_the_terminal_as_it_was() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    let file = cluster.definition("busy", BUSY);
    cluster.weft(&["deploy", "-f", &file]).ok();
    let mut top = OnTerminal::start(&mut cluster.command(&["top"]), 120, 40);
    for part in ["\u{1b}[?1049h", "2 of 2 nodes ready", "busy/loop#1", "CPU*", "EVENTS"] {
        top.shows(part);
    }
    top.types("s");
    top.shows("MEMORY*");
    top.types("\u{1b}[D\u{1b}[D");
    top.types("r");
    top.shows("*^");
    // Drawn anew in another size, and never wider.
    top.resize(60, 12);
    top.types("q");
    assert_eq!(top.end(), (0, true));
    top.shows("\u{1b}[?1049l");
    let mut again = OnTerminal::start(&mut cluster.command(&["top"]), 120, 40);
    again.shows("busy/loop#1");
    again.types("\u{3}");
    assert_eq!(again.end(), (0, true));

    let once = cluster.weft(&["top"]).ok().stdout;
    for part in ["NODE", "n1", "n2", "busy/loop#1", "EVENTS"] {
        assert!(once.contains(part), "{once}");
    }
    assert!(!once.contains('\u{1b}'), "{once}");
    let json = cluster.json(&["top", "--json"]);
    assert_eq!(json["nodes"].as_array().map(Vec::len), Some(2), "{json}");
    assert_eq!(json["usage"][0]["component"], "loop", "{json}");
}

/// A container that does nothing, and one that is busy.
fn boxed(node: &str) -> String {
    format!(
        r#"name = "box"
node = "{node}"

[[components]]
name = "idle"
image = "{IMAGE}"
cmd = ["/bin/sleep", "100000"]
env = ["KIND=box"]
stop_grace = "1s"

[[components]]
name = "loop"
image = "{IMAGE}"
cmd = ["/bin/sh", "-c", "for i in 1 2 3 4; do while :; do :; done & done; wait"]
stop_grace = "1s"
"#
    )
}

#[test]
fn a_command_in_a_container_has_its_code_its_input_and_its_terminal_and_ends_with_its_caller() {
    let Some(boxes) = Boxes::start(2) else { return };
    let cluster = &boxes.cluster;
    cluster.deploy(0, &boxed(&cluster.node_name(0)));
    let exec = |more: &[&str]| {
        let mut command = cluster.command(1);
        command.args(["exec", "box/idle"]).args(more);
        command
    };
    let run = |more: &[&str]| -> Done { weft_tests::ends(&mut exec(more)) };
    let done = run(&["-e", "MORE=a b", "--", "sh", "-c", "echo $KIND $MORE; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.stdout.as_str()), (7, "box a b\n"), "{done:?}");
    assert_eq!(done.stderr, "err\n");
    assert_eq!(run(&["--", "/nope"]).code, 127);
    assert_eq!(run(&["--", "/etc"]).code, 126);
    assert_eq!(run(&["--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(run(&["-w", "/www", "-u", "0", "--", "/bin/busybox", "pwd"]).ok().stdout, "/www\n");
    let json = run(&["--json", "--", "echo", "hi"]).json();
    assert_eq!(json, serde_json::json!({"exit": 0, "stdout": "hi\n", "stderr": ""}));

    let content: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
    let (code, back) = fed(&mut exec(&["-i", "--", "cat"]), &content);
    assert!(code == 0 && back == content, "code {code}, {} bytes", back.len());

    let mut shell = OnTerminal::start(&mut exec(&["-it", "--", "sh"]), 101, 31);
    shell.types("/bin/busybox stty size\n");
    shell.shows("31 101\r\n");
    shell.resize(77, 22);
    eventually("the new size is there", || {
        shell.types("/bin/busybox stty size\n");
        shell.shown().contains("22 77\r\n").then_some(())
    });
    shell.types("exit 5\n");
    assert_eq!(shell.end(), (5, true));

    let mut running =
        Running::start(&mut exec(&["-e", "ENDS=box", "--", "sh", "-c", "sleep 1000 & wait"]));
    let started = eventually("it runs in the container", || {
        let found = with_environment("ENDS=box");
        (found.iter().filter(|pid| is_alive(**pid)).count() >= 2).then_some(found)
    });
    assert!(!started.is_empty());
    running.kill();
    is_gone("ENDS=box");

    let row = eventually("the busy one uses more than half a core", || {
        let done = cluster.weft(1, &["stats", "box/loop", "--json"]);
        let rows: Value = serde_json::from_str(&done.stdout).ok()?;
        let row = rows.as_array()?.first()?.clone();
        eprintln!("{row}");
        (row["cpu_percent"].as_f64()? > 50.0).then_some(row)
    });
    assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{row}");
}
