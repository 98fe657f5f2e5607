//! MACP sessions as their clients have them: the published Python SDK against one real node.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use weft_tests::macp::{certificate, free_address, sessions_only};
use weft_tests::sdk::{self, SHOW, bounded, file};
use weft_tests::{bin_dir, ends, eventually, kill_9, run};

/// Where the SDK is installed, once for all tests.
fn python() -> Option<PathBuf> {
    sdk::python(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// A daemon; killed when dropped.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            eprintln!("the daemon's log:\n{}", tail.join("\n"));
        }
    }
}

/// Makes a cluster of one node in `dir`.
fn init(dir: &Path) {
    run(Command::new(bin_dir().join("weft"))
        .env("WEFT_CONFIG", dir.join("weft.toml"))
        .args(["init", "--name", "n1", "--operator", "ops"])
        .args(["--bind", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--data"])
        .arg(dir.join("n1")))
    .ok();
}

impl Daemon {
    fn spawn(dir: &Path, command: &mut Command) -> Self {
        let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("weftd starts");
        Self { child, dir: dir.to_owned() }
    }

    /// The node of [`init`], serving sessions.
    fn start(dir: &Path) -> Self {
        let tokens = file("tokens.json");
        Self::spawn(
            dir,
            Command::new(bin_dir().join("weftd"))
                .args(["run", "--config"])
                .arg(dir.join("n1/node.toml"))
                .args(["--set", "sessions.bind=127.0.0.1:0", "--set"])
                .arg(format!("sessions.tokens_file={}", tokens.display()))
                .args(["--set", "sessions.allow_insecure=true", "--set", "chaos.enabled=true"]),
        )
    }

    /// Where it serves sessions, once it does.
    fn address(&self) -> String {
        eventually("sessions are served", || {
            let text = fs::read_to_string(self.dir.join("n1/ports.json")).ok()?;
            let ports: Value = serde_json::from_str(&text).ok()?;
            let address = ports["sessions"].as_str().filter(|address| !address.is_empty())?;
            TcpStream::connect(address).ok()?;
            Some(address.to_owned())
        })
    }

    fn kill_9(&mut self) {
        kill_9(self.child.id());
        let _ = self.child.wait();
    }
}

#[track_caller]
fn show(python: &Path, step: &str, address: &str, notes: &Path) {
    let mut command = Command::new(python);
    command.arg(file("show.py")).args([step, address]).arg(notes);
    let printed = bounded(&mut command, SHOW).unwrap_or_else(|error| panic!("{step}: {error}"));
    for line in printed.lines().filter(|line| line.ends_with(" s")) {
        println!("{line}");
    }
}

#[test]
fn the_published_python_sdk_drives_a_node_and_finds_everything_again_after_kill_9() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let notes = dir.path().join("notes.json");
    init(dir.path());
    let mut daemon = Daemon::start(dir.path());
    let address = daemon.address();
    show(&python, "all", &address, &notes);
    show(&python, "write", &address, &notes);
    daemon.kill_9();
    let daemon = Daemon::start(dir.path());
    assert_eq!(daemon.address(), address, "a port that was asked for is kept");
    show(&python, "read", &address, &notes);
}

#[test]
fn whatever_was_acknowledged_before_kill_9_is_there_once_afterwards() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    init(dir.path());
    let mut daemon = Daemon::start(dir.path());
    // Messages of many senders are at every point of their way then.
    for round in 0..10 {
        let address = daemon.address();
        let notes = dir.path().join(format!("notes-{round}"));
        let mut loader = Command::new(&python)
            .arg(file("show.py"))
            .args(["load", &address])
            .arg(&notes)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the loader starts");
        // In the middle of the load, at another point each time.
        eventually("messages are acknowledged", || {
            let noted = fs::read_to_string(&notes).unwrap_or_default();
            let ended = loader.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the loader ended before the daemon: {ended:?}");
            (noted.lines().count() > 40 + round * 37).then_some(())
        });
        daemon.kill_9();
        let ended = eventually("the loader ends", || loader.try_wait().ok().flatten());
        assert!(ended.success(), "{ended}");
        daemon = Daemon::start(dir.path());
        show(&python, "verify", &daemon.address(), &notes);
    }
}

#[test]
fn streams_go_on_without_gap_or_duplicate_when_the_actor_of_sessions_is_made_anew() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    init(dir.path());
    let daemon = Daemon::start(dir.path());
    let (out, end) = (dir.path().join("out"), dir.path().join("end"));
    let printed = File::create(&out).expect("a file");
    let mut client = Command::new(&python)
        .arg(file("show.py"))
        .args(["steady", &daemon.address()])
        .arg(&end)
        .stdin(Stdio::null())
        .stdout(printed.try_clone().expect("a second handle"))
        .stderr(printed)
        .spawn()
        .expect("the client starts");
    let read = || fs::read_to_string(&out).unwrap_or_default();
    eventually("it follows", || read().contains("following").then_some(()));
    let restarts = || {
        let done = run(Command::new(bin_dir().join("weft"))
            .env("WEFT_CONFIG", dir.path().join("weft.toml"))
            .args(["actors", "--json"]))
        .ok();
        let rows = done.json();
        let rows = rows["actors"].as_array().or_else(|| rows.as_array()).cloned();
        let row = rows.unwrap_or_default().into_iter().find(|row| row["path"] == "session");
        row.and_then(|row| row["restarts"].as_u64()).expect("a row of the actor")
    };
    for (n, how) in (1u64..).zip([["actors", "restart"], ["chaos", "panic"], ["chaos", "panic"]]) {
        run(Command::new(bin_dir().join("weft"))
            .env("WEFT_CONFIG", dir.path().join("weft.toml"))
            .args(how)
            .arg("session@n1"))
        .ok();
        eventually("it was made anew", || (restarts() >= n).then_some(()));
        let (so_far, more) = (read().matches("sent ").count(), format!("sent {}0", n * 3));
        eventually("it goes on", || {
            let printed = read();
            (printed.matches("sent ").count() > so_far && printed.contains(&more)).then_some(())
        });
    }
    fs::write(&end, "").expect("writes");
    let ended = eventually("the client ends", || client.try_wait().ok().flatten());
    assert!(ended.success(), "{}", read());
    print!("{}", read());
}

#[test]
fn the_example_of_the_guide_runs() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sessions.md");
    let guide = fs::read_to_string(guide).expect("the guide");
    let example = guide.split("```python").nth(1).and_then(|rest| rest.split("```").next());
    let address = free_address();
    let script = dir.path().join("example.py");
    let example = example.expect("an example").replace("127.0.0.1:50051", &address);
    fs::write(&script, example).expect("writes");
    let _daemon = Daemon::spawn(
        dir.path(),
        sessions_only()
            .env("MACP_ALLOW_INSECURE", "1")
            .env("MACP_DATA_DIR", dir.path().join("data"))
            .env("MACP_BIND_ADDR", &address),
    );
    eventually("it listens", || TcpStream::connect(&address).ok());
    let printed = bounded(Command::new(python).arg(script), SHOW);
    let printed = printed.unwrap_or_else(|error| panic!("{error}"));
    assert!(printed.contains("SESSION_STATE_RESOLVED"), "{printed}");
    assert!(printed.trim_end().ends_with("SessionStart\nProposal\nVote\nCommitment"), "{printed}");
}

#[test]
fn with_a_certificate_only_tls_is_served() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (certificate, key) = certificate(dir.path(), names.to_vec());
    let address = free_address();
    let daemon = Daemon::spawn(
        dir.path(),
        sessions_only()
            .env("MACP_AUTH_TOKENS_FILE", file("tokens.json"))
            .env("MACP_TLS_CERT_PATH", &certificate)
            .env("MACP_TLS_KEY_PATH", &key)
            .env("MACP_MEMORY_ONLY", "1")
            .env("MACP_BIND_ADDR", &address),
    );
    eventually("it listens", || TcpStream::connect(&address).ok());
    show(&python, "tls", &address, &certificate);
    drop(daemon);
    // A key that is none is told at once.
    fs::write(&key, "no key").expect("writes");
    let done = ends(
        sessions_only()
            .env("MACP_AUTH_TOKENS_FILE", file("tokens.json"))
            .env("MACP_TLS_CERT_PATH", &certificate)
            .env("MACP_TLS_KEY_PATH", &key)
            .env("MACP_MEMORY_ONLY", "1")
            .env("MACP_BIND_ADDR", &address),
    );
    assert!(done.code != 0 && done.stderr.contains("certificate or its key"), "{done:?}");
}

#[test]
fn who_has_a_json_web_token_does_everything_over_tls() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (certificate, key) = certificate(dir.path(), names.to_vec());
    let keys = dir.path().join("keys.json");
    fs::write(&keys, sdk::JWKS).expect("writes");
    let address = free_address();
    let _daemon = Daemon::spawn(
        dir.path(),
        sessions_only()
            .env("MACP_AUTH_ISSUER", sdk::ISSUER)
            .env("MACP_AUTH_JWKS_FILE", &keys)
            .env("MACP_AUTH_JWT_ALGS", "HS256")
            .env("MACP_TLS_CERT_PATH", &certificate)
            .env("MACP_TLS_KEY_PATH", &key)
            .env("MACP_DATA_DIR", dir.path().join("data"))
            .env("MACP_BIND_ADDR", &address),
    );
    eventually("it listens", || TcpStream::connect(&address).ok());
    let mut command = Command::new(&python);
    command.arg(file("show.py")).args(["all", &address]).arg(dir.path().join("notes"));
    command.env("SHOW_ROOTS", &certificate).env("SHOW_JWT_SECRET", sdk::SECRET);
    bounded(&mut command, SHOW).unwrap_or_else(|error| panic!("{error}"));
}

/// A daemon for sessions only with the tests' tokens, and where it serves them.
fn start_only(dir: &Path, variables: &[(&str, &str)]) -> (Daemon, String) {
    let address = free_address();
    let mut command = sessions_only();
    command
        .env("MACP_AUTH_TOKENS_FILE", file("tokens.json"))
        .env("MACP_ALLOW_INSECURE", "1")
        .env("MACP_DATA_DIR", dir.join("data"))
        .env("MACP_BIND_ADDR", &address)
        .envs(variables.iter().copied());
    let daemon = Daemon::spawn(dir, &mut command);
    eventually("it listens", || TcpStream::connect(&address).ok());
    (daemon, address)
}

#[test]
fn sessions_in_memory_only_end_with_their_daemon_which_says_so() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let notes = dir.path().join("notes.json");
    let memory = [("MACP_MEMORY_ONLY", "1"), ("MACP_CHECKPOINT_INTERVAL", "5")];
    let (daemon, address) = start_only(dir.path(), &memory);
    show(&python, "write", &address, &notes);
    drop(daemon);
    assert!(!dir.path().join("data").exists(), "nothing is written");
    let (_daemon, address) = start_only(dir.path(), &memory);
    show(&python, "gone", &address, &notes);
    let log = fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(log.contains("kept in memory only"), "{log}");
    assert!(log.contains("MACP_CHECKPOINT_INTERVAL has no effect"), "{log}");
}

#[test]
fn a_daemon_for_sessions_only_keeps_them_and_names_those_that_it_leaves_alone() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let notes = dir.path().join("notes.json");
    // One of the reference's.
    let other = dir.path().join("data/sessions/0b0f3a2e-7d0c-4a55-9f6b-3f9f5b0c2d11");
    fs::create_dir_all(&other).expect("a directory");
    fs::write(other.join("session.json"), "{}").expect("writes");
    let (mut daemon, address) = start_only(dir.path(), &[]);
    show(&python, "all", &address, &notes);
    show(&python, "write", &address, &notes);
    daemon.kill_9();
    let zero = [("MACP_SESSION_RETENTION_SECS", "0"), ("MACP_SHUTDOWN_DRAIN_SECS", "0")];
    let (daemon, address) = start_only(dir.path(), &zero);
    show(&python, "read", &address, &notes);
    drop(daemon);
    let log = fs::read_to_string(dir.path().join("log")).expect("a log");
    assert!(log.contains("the reference runtime's sessions in this directory"), "{log}");
}

#[test]
fn policies_of_files_are_used_and_nobody_changes_them() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let policies = dir.path().join("policies");
    fs::create_dir(&policies).expect("a directory");
    let board = r#"{"policy_id": "policy.board", "mode": "macp.mode.decision.v1", "schema_version": 3,
        "rules": {"voting": {"algorithm": "supermajority", "threshold": 0.67}}}"#;
    fs::write(policies.join("board.json"), board).expect("writes");
    let policies = policies.to_str().expect("UTF-8");
    let (_daemon, address) = start_only(dir.path(), &[("MACP_POLICIES_DIR", policies)]);
    show(&python, "fixed", &address, &dir.path().join("notes.json"));
}

#[test]
fn a_daemon_for_sessions_only_refuses_what_the_reference_refuses_and_stops_well() {
    let done = ends(&mut sessions_only());
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("no authentication configured"), "{done:?}");
    let done =
        ends(sessions_only().env("MACP_ALLOW_INSECURE", "1").env("MACP_BIND_ADDR", "nowhere"));
    assert!(done.code != 0 && done.stderr.contains("MACP_BIND_ADDR"), "{done:?}");

    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let address = free_address();
    let mut command = sessions_only();
    command
        .env("MACP_ALLOW_INSECURE", "1")
        .env("MACP_BIND_ADDR", &address)
        .env("MACP_DATA_DIR", &data);
    let mut daemon = Daemon::spawn(dir.path(), &mut command);
    eventually("it listens", || TcpStream::connect(&address).ok());
    // One writer per data directory.
    let second = ends(command.env("MACP_BIND_ADDR", "127.0.0.1:0"));
    assert!(second.code != 0 && second.stderr.contains("another process"), "{second:?}");
    let pid = i32::try_from(daemon.child.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::TERM)
        .expect("it runs");
    let status = eventually("it stops", || daemon.child.try_wait().ok().flatten());
    assert_eq!(status.code(), Some(0));
}
