//! Real programs: what they are given, and that none of them gets away.

use std::path::Path;

use rustix::process::test_kill_process;
use uuid::Uuid;
use weft_protocol::{AlertKind, Desired, ObservedState};
use weft_wire::{Clock as _, SystemClock, WallTime};

use super::*;

const LONG: Duration = Duration::from_secs(30);

/// Names that a definition cannot have, as if one could.
fn alert() -> Alert {
    Alert {
        id: Uuid::from_u128(5),
        time: WallTime::from_micros(1_795_000_000_000_000),
        node: "n1".into(),
        service: "$(touch /tmp/weft-never); `id`\n--help".into(),
        component: "api' \"; rm -rf *".into(),
        replica: 2,
        kind: AlertKind::Drift,
        desired: Some(Desired::Running),
        observed: Some(ObservedState::Exited),
        prev_state: Some(ObservedState::Running),
        transitions: 0,
        reason: "ended by itself\0 (signal 9)".into(),
        suppressed: false,
        run: None,
    }
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).into()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Waits until nothing of that pid is left.
async fn gone(file: &Path) -> bool {
    let pid: i32 = read(file).trim().parse().expect("a pid");
    let pid = Pid::from_raw(pid).expect("a pid");
    for _ in 0..500 {
        let zombie = read(Path::new(&format!("/proc/{}/stat", pid.as_raw_nonzero())))
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'));
        if zombie || test_kill_process(pid).is_err() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn every_argument_and_every_value_reaches_the_command_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("env");
    let hostile = "a b;$(id)`id`\"'*\n\\";
    let script = format!("env -0 >{}; printf '%s|' \"$@\"", file.display());
    let argv = [sh(&script), vec!["x".into(), hostile.into(), String::new()]].concat();
    let run = run(&argv, &alert(), LONG).await;
    assert_eq!((run.exit, run.problem.as_str()), (Some(0), ""));
    assert_eq!(run.output, format!("{hostile}||"));
    let text = read(&file);
    let mut all: Vec<(&str, &str)> =
        text.split('\0').filter_map(|pair| pair.split_once('=')).collect();
    // The shell's own.
    all.retain(|(name, _)| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    let value = |name: &str| all.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
    let given = alert();
    for prefix in ["MCP", "WEFT"] {
        for (name, expected) in [
            ("COMPONENT", given.component.as_str()),
            ("SERVICE", given.service.as_str()),
            ("NODE", "n1"),
            ("DESIRED", "running"),
            ("OBSERVED", "exited"),
            ("PREV_STATE", "running"),
            ("ALERT_TYPE", "drift"),
            ("TRANSITIONS", "0"),
        ] {
            assert_eq!(value(&format!("{prefix}_{name}")), Some(expected), "{prefix}_{name}");
        }
    }
    assert_eq!(value("WEFT_REPLICA"), Some("2"));
    assert_eq!(value("WEFT_ALERT_REASON"), Some("ended by itself (signal 9)"));
    let ours = |name: &str| name.starts_with("MCP_") || name.starts_with("WEFT_");
    let mut rest: Vec<&str> = all.iter().map(|(name, _)| *name).filter(|n| !ours(n)).collect();
    rest.retain(|name| !["PATH", "HOME"].contains(name));
    assert!(rest.is_empty(), "the daemon's own environment stays with it: {rest:?}");
    assert!(!Path::new("/tmp/weft-never").exists());
}

#[tokio::test]
async fn its_exit_code_and_the_head_of_its_output_are_kept() {
    let run = run(&sh("echo out; echo err >&2; exit 7"), &alert(), LONG).await;
    assert_eq!(run.exit, Some(7));
    assert!(run.output.contains("out\n") && run.output.contains("err\n"), "{}", run.output);
    let run = super::run(&sh("kill -TERM $$"), &alert(), LONG).await;
    assert_eq!((run.exit, run.problem.as_str()), (None, "signal 15"));
    let run = super::run(&["/no/such/program".into()], &alert(), LONG).await;
    assert!(run.problem.starts_with("/no/such/program cannot be started"), "{}", run.problem);
}

#[tokio::test]
async fn one_that_hangs_is_stopped_with_all_it_started() {
    let dir = tempfile::tempdir().expect("a directory");
    let (child, own) = (dir.path().join("child"), dir.path().join("own"));
    let script = format!(
        "trap '' TERM; echo $$ >{}; sleep 1000 & echo $! >{}; echo begun; wait; sleep 1000",
        own.display(),
        child.display()
    );
    let start = SystemClock.now();
    let run = run(&sh(&script), &alert(), Duration::from_secs(1)).await;
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!((run.exit, run.problem.as_str()), (None, "stopped after 1s"));
    assert_eq!(run.output, "begun\n");
    assert!(gone(&own).await && gone(&child).await);
}

#[tokio::test]
async fn what_it_leaves_in_the_background_ends_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let child = dir.path().join("child");
    let script = format!("sleep 1000 >/dev/null 2>&1 & echo $! >{}; exit 4", child.display());
    let run = run(&sh(&script), &alert(), LONG).await;
    assert_eq!(run.exit, Some(4));
    assert!(gone(&child).await);
}

#[tokio::test]
async fn one_that_floods_is_not_read_to_the_end_and_ends() {
    let start = SystemClock.now();
    let run = run(&sh("exec cat /dev/zero"), &alert(), LONG).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!((run.exit, run.output.len()), (None, HEAD));
    assert!(run.problem.contains("more than 1 MiB"), "{}", run.problem);
}

#[tokio::test]
async fn a_command_whose_caller_is_gone_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let own = dir.path().join("own");
    let argv = sh(&format!("echo $$ >{0}.new; mv {0}.new {0}; sleep 1000", own.display()));
    let task = tokio::spawn(async move { run(&argv, &alert(), LONG).await });
    while !own.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task.abort();
    assert!(gone(&own).await);
}
