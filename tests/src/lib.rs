//! Whole systems on real processes: a cluster made by `weft up`, driven as an operator would.
//!
//! Nothing here reaches inside: binaries, their output, exit codes, files, HTTP and signals only.
#![forbid(unsafe_code)]

pub mod agreed;
pub mod audit;
pub mod client;
pub mod load;
pub mod macp;
pub mod net;
pub mod nodes;
pub mod observe;
pub mod podman;
pub mod pty;
pub mod published;
pub mod sdk;
pub mod writer;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_wire::{Clock, SystemClock};

/// How long a condition may take before a test gives up; generous, because the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A variable of every daemon of a cluster: how full the disk is of the machine that runs the tests
/// makes no alert in them. A test of just that sets it by `--set`, which outranks a variable.
pub const DISK_LOW: (&str, &str) = ("WEFT_MONITOR_DISK_LOW", "0");

/// The directory that holds `weft`, `weftd` and `hello`.
///
/// # Panics
/// If they have not been built: `cargo xtask test` builds them first.
pub fn bin_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    // A test is in target/<profile>/deps, a benchmark in target/<profile>.
    let mut dirs = own.ancestors().skip(1).take(2);
    let dir = dirs.find(|dir| !dir.ends_with("deps")).expect("a directory").to_owned();
    for name in ["weft", "weftd", "hello"] {
        assert!(
            dir.join(name).is_file(),
            "{} is missing: run `cargo build --workspace --bins` first (cargo xtask test does)",
            dir.join(name).display()
        );
    }
    dir
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// Exit code; -1: ended by a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// The one JSON document on standard output.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Asserts exit code 0 and passes it on.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs a program to its end, without a terminal.
///
/// # Panics
/// If it cannot be started.
pub fn run(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until `condition` gives a value.
///
/// # Panics
/// At the deadline, with `what`.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = SystemClock.now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        // The pause between two looks at the condition, not a wait for it.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// GETs a URL of this machine; status and body, or why not.
///
/// # Errors
/// Whatever the socket says, as text.
pub fn http_get(url: &str) -> Result<(u16, String), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url}: not http"))?;
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, String::from("/")), |(host, path)| (host, format!("/{path}")));
    let address = host.parse().map_err(|error| format!("{host}: {error}"))?;
    let limit = Duration::from_secs(5);
    let mut stream =
        TcpStream::connect_timeout(&address, limit).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(limit)).map_err(|error| error.to_string())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status line")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// Microseconds since the Unix epoch of an RFC 3339 time.
///
/// # Panics
/// If it is none.
pub fn micros(time: &str) -> i64 {
    weft_protocol::parse_time(time).unwrap_or_else(|error| panic!("{error}")).as_micros()
}

/// Runs a program that is expected to end by itself: one that goes on is killed and is a failure.
///
/// # Panics
/// If it cannot be started, or still runs at the deadline.
#[track_caller]
pub fn ends(command: &mut Command) -> Done {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = |name: &str| std::fs::File::create(dir.path().join(name)).expect("a file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(open("out"))
        .stderr(open("err"))
        .spawn()
        .expect("the program starts");
    let start = SystemClock.now();
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break Some(status),
            None if start.elapsed() > DEADLINE => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::park_timeout(Duration::from_millis(10)),
        }
    };
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    let (stdout, stderr) = (read("out"), read("err"));
    let status = status.unwrap_or_else(|| panic!("it went on: {command:?}\n{stdout}\n{stderr}"));
    Done { code: status.code().unwrap_or(-1), stdout, stderr }
}

/// Pids of live processes that have `marker`, such as `MARK=web`, in their environment.
pub fn with_environment(marker: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A zombie's environment is empty.
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|pair| pair == marker.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// Says, by its name, that the test that calls is left out, and why; it must end then.
///
/// # Panics
/// With `CI=true`, where a test that is skipped is a failure.
#[track_caller]
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} cannot run: {why}");
    eprintln!("SKIPPED {test}: {why}");
}

/// Whether the test that calls must end now, because the machine lacks a program: it says so by
/// the test's name.
///
/// # Panics
/// With `CI=true`, where a test that is skipped is a failure.
#[track_caller]
pub fn lacks(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return false;
    }
    skip(&format!("there is no `{program}`"));
    true
}

/// Whether a process of that pid exists, with any thread that is no zombie.
///
/// Of a process that was killed, the first thread can be a zombie while others still end, and with
/// them its locks and ports: it is gone when no other thread is left.
pub fn is_alive(pid: u32) -> bool {
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('Z')));
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    zombie.is_some_and(|zombie| !zombie || threads() > 1)
}

/// Sends SIGKILL to one process that the test started.
///
/// # Panics
/// If it does not exist.
#[track_caller]
pub fn kill_9(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it exists");
}

/// A cluster made by `weft up --detach`; taken down, and checked to be gone, on drop.
pub struct Cluster {
    dir: tempfile::TempDir,
    /// What `up` printed.
    pub up: Value,
    /// Daemons started again by hand.
    extra: Vec<u32>,
}

impl Cluster {
    /// Three nodes and `hello`.
    ///
    /// # Panics
    /// If `up` fails.
    pub fn up() -> Self {
        Self::with(&[])
    }

    /// As [`Cluster::up`], with more arguments for `weft up`.
    ///
    /// # Panics
    /// If `up` fails.
    pub fn with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let done = run(Command::new(bin_dir().join("weft"))
            .env("WEFT_CONFIG", dir.path().join("unused.toml"))
            .env(DISK_LOW.0, DISK_LOW.1)
            .args(["up", "--detach", "--json", "--dir"])
            .arg(dir.path().join("c"))
            .args(args))
        .ok();
        Self { up: done.json(), dir, extra: Vec::new() }
    }

    /// The cluster's directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    /// A scratch directory that goes away with the cluster.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The CLI configuration that `up` made.
    ///
    /// # Panics
    /// If `up` named none.
    pub fn context(&self) -> &str {
        self.up["context"].as_str().expect("up names its context")
    }

    /// `weft` with this cluster's context.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("weft"));
        command.env("WEFT_CONFIG", self.context()).args(args);
        command
    }

    /// Runs `weft`.
    pub fn weft(&self, args: &[&str]) -> Done {
        run(&mut self.command(args))
    }

    /// Runs `weft`, expects code 0, and reads its JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.weft(args).ok().json()
    }

    /// The entry `up` printed for a node.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Value {
        self.up["nodes"]
            .as_array()
            .and_then(|nodes| nodes.iter().find(|node| node["name"] == name))
            .unwrap_or_else(|| panic!("no {name} in {}", self.up))
    }

    /// Data directory of a node.
    ///
    /// # Panics
    /// If `up` named none.
    #[track_caller]
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.node(name)["data_dir"].as_str().expect("a data_dir").into()
    }

    /// Pid of a node's daemon, from its state file.
    ///
    /// # Panics
    /// If the file is not there.
    #[track_caller]
    pub fn daemon_pid(&self, name: &str) -> u32 {
        let file = self.data_dir(name).join("weftd.json");
        let text = std::fs::read_to_string(&file).expect("weftd.json");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    /// Components as `weft ps --json` through the given node has them.
    #[track_caller]
    pub fn ps(&self, node: &str) -> Vec<Value> {
        self.json(&["--node", node, "ps", "--json"]).as_array().cloned().unwrap_or_default()
    }

    /// The component of a service on a node, once it runs.
    #[track_caller]
    pub fn running(&self, through: &str, service: &str, on: &str) -> Value {
        eventually(&format!("{service} runs on {on}"), || {
            let done = self.weft(&["--node", through, "ps", "--json"]);
            let rows: Value = serde_json::from_str(&done.stdout).ok()?;
            rows.as_array()?
                .iter()
                .find(|row| {
                    row["service"] == service && row["node"] == on && row["state"] == "running"
                })
                .cloned()
        })
    }

    /// Kills a node's daemon with SIGKILL and waits until it is gone.
    ///
    /// # Panics
    /// If it does not run.
    #[track_caller]
    pub fn kill_daemon(&self, name: &str) {
        let pid = self.daemon_pid(name);
        kill_9(pid);
        eventually("the daemon is gone", || (!is_alive(pid)).then_some(()));
    }

    /// `weftd run` with a node's file; nothing is started yet.
    pub fn weftd(&self, name: &str) -> Command {
        let mut command = Command::new(bin_dir().join("weftd"));
        command.arg("run").arg("--config").arg(self.data_dir(name).join("node.toml"));
        command.env(DISK_LOW.0, DISK_LOW.1);
        command
    }

    /// What a node's daemons have logged so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.data_dir(name).join("weftd.log")).unwrap_or_default()
    }

    /// Waits until `node list`, asked through one node, has another as `state`; its row.
    #[track_caller]
    pub fn node_is(&self, through: &str, name: &str, state: &str) -> Value {
        eventually(&format!("{name} is {state}"), || {
            let done = self.weft(&["--node", through, "node", "list", "--json"]);
            let rows: Value = serde_json::from_str(&done.stdout).ok()?;
            rows.as_array()?
                .iter()
                .find(|row| row["name"] == name && row["state"] == state)
                .cloned()
        })
    }

    /// Writes a service file into the scratch directory; its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn definition(&self, name: &str, text: &str) -> String {
        let file = self.scratch().join(format!("{name}.toml"));
        std::fs::write(&file, text).expect("writes");
        file.to_string_lossy().into_owned()
    }

    /// A CLI file for this cluster without the local socket: only the certificate is left.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn without_socket(&self) -> String {
        let text = std::fs::read_to_string(self.context()).expect("the context");
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("socket")).collect();
        assert_ne!(kept.len(), text.lines().count(), "there was a socket in {text}");
        // Beside the original: paths in it are relative to it.
        let file = self.dir().join("certificate-only.toml");
        std::fs::write(&file, kept.join("\n")).expect("writes");
        file.to_string_lossy().into_owned()
    }

    /// Starts a node's daemon by hand, as the README says.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_daemon(&mut self, name: &str) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.data_dir(name).join("weftd.log"))
            .expect("a log file");
        let mut child = self
            .weftd(name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("weftd starts");
        self.extra.push(child.id());
        // Reaped as soon as it ends, so that a killed daemon does not look alive.
        std::thread::spawn(move || child.wait());
    }

    /// Every pid that belongs to this cluster: daemons, shims and components.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = self.extra.clone();
        let needle = self.dir().to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let named = |file: &str| {
                std::fs::read(entry.path().join(file))
                    .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&needle))
            };
            // Components bear the directory in their environment, daemons and shims in their
            // arguments.
            if pid != std::process::id() && (named("cmdline") || named("environ")) && is_alive(pid)
            {
                pids.push(pid);
            }
        }
        pids.retain(|pid| is_alive(*pid));
        pids
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.dir().exists() && self.pids().is_empty() {
            return;
        }
        let done = run(Command::new(bin_dir().join("weft"))
            .env("WEFT_CONFIG", self.context())
            .args(["down", "--yes", "--dir"])
            .arg(self.dir()));
        let left = self.pids();
        for pid in &left {
            kill_9(*pid);
        }
        if !std::thread::panicking() {
            assert_eq!(done.code, 0, "{done:?}");
            assert!(left.is_empty(), "down left processes behind: {left:?}");
        }
    }
}
