//! `weft session` against a real node: sessions come in from files of the reference runtime, are
//! listed, shown, watched and cancelled, and go out to another cluster.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use weft_tests::{Cluster, eventually, http_get};
use weft_wire::{Clock, SystemClock};

const DECISION: &str = "macp.mode.decision.v1";
/// Resolved, with its whole log.
const RESOLVED: &str = "resolved-session-0000000001";
/// Open for an hour.
const OPEN: &str = "open-session-00000000000001";
/// Ended and compacted.
const COMPACTED: &str = "compacted-session-000000001";
/// Has a vote that the rules here refuse.
const REFUSED: &str = "refused-session-00000000001";
/// Has a line that is damaged.
const DAMAGED: &str = "damaged-session-00000000001";

/// One node that serves sessions.
fn node() -> Cluster {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let file = cluster.data_dir("n1").join("node.toml");
    let text = fs::read_to_string(&file).expect("the node file");
    let more = "[sessions]\nbind = \"127.0.0.1:0\"\nallow_insecure = true\n";
    fs::write(&file, format!("{text}\n{more}")).expect("writes");
    cluster.kill_daemon("n1");
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
    eventually("sessions are led", || (cluster.weft(&["session", "list"]).code == 0).then_some(()));
    cluster
}

/// Protobuf: a field with text.
fn text(field: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("short");
    assert!(length < 128, "one byte of length");
    [&[(field << 3) | 2, length], value.as_bytes()].concat()
}

/// Protobuf: a field with a number.
fn number(field: u8, mut value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    loop {
        let digit = u8::try_from(value & 127).expect("seven bits");
        value >>= 7;
        if value == 0 {
            out.push(digit);
            return out;
        }
        out.push(digit | 128);
    }
}

fn start() -> Vec<u8> {
    [
        text(1, "which colour"),
        text(2, "agent://a"),
        text(2, "agent://b"),
        text(3, "1.0.0"),
        text(4, "config.default"),
        number(6, 3_600_000),
    ]
    .concat()
}

fn proposal(id: &str) -> Vec<u8> {
    [text(1, id), text(2, "blue")].concat()
}

fn vote(how: &str) -> Vec<u8> {
    [text(1, "p1"), text(2, how)].concat()
}

fn commitment() -> Vec<u8> {
    [
        text(1, "c-1"),
        text(2, "decision.approved"),
        text(3, "demo"),
        text(4, "nobody objects"),
        text(5, "1.0.0"),
        text(6, "policy.default"),
        text(7, "config.default"),
        number(8, 1),
    ]
    .concat()
}

/// A log as the reference runtime writes it.
struct Log {
    id: &'static str,
    at: i64,
    lines: Vec<Value>,
}

impl Log {
    /// Begun a minute ago.
    fn begun(id: &'static str) -> Self {
        let at = SystemClock.wall().as_micros() / 1000 - 60_000;
        let mut log = Self { id, at, lines: Vec::new() };
        log.add("Incoming", "SessionStart", "agent://a", &start());
        log.lines[0]["semantics_rev"] = 4.into();
        log.lines[0]["bound_max_suspend_ms"] = 604_800_000.into();
        log
    }

    fn add(&mut self, kind: &str, message_type: &str, sender: &str, payload: &[u8]) {
        self.at += 10;
        let id = if kind == "Incoming" { format!("m{}", self.lines.len()) } else { String::new() };
        self.lines.push(json!({
            "message_id": id, "received_at_ms": self.at, "sender": sender,
            "message_type": message_type, "raw_payload": payload, "entry_kind": kind,
            "session_id": self.id, "mode": DECISION, "macp_version": "1.0",
            "timestamp_unix_ms": self.at, "bound_mode_version": null, "semantics_rev": 0,
            "bound_max_suspend_ms": null, "compacted_incoming_ordinals": 0
        }));
    }

    fn say(mut self, message_type: &str, sender: &str, payload: &[u8]) -> Self {
        self.add("Incoming", message_type, sender, payload);
        self
    }

    fn write(&self, data: &Path) {
        let dir = data.join("sessions").join(self.id);
        fs::create_dir_all(&dir).expect("a directory");
        let log: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(dir.join("log.jsonl"), log).expect("writes");
    }
}

/// The data directory of a reference runtime that has ended.
fn reference(data: &Path) {
    Log::begun(RESOLVED)
        .say("Proposal", "agent://a", &proposal("p1"))
        .say("Vote", "agent://b", &vote("APPROVE"))
        .say("Commitment", "agent://a", &commitment())
        .write(data);
    Log::begun(OPEN).say("Proposal", "agent://b", &proposal("p1")).write(data);
    let mut compacted = Log::begun(COMPACTED);
    compacted.lines.clear();
    compacted.add("Checkpoint", "Checkpoint", "_runtime", b"{}");
    compacted.lines[0]["compacted_incoming_ordinals"] = 7.into();
    compacted.write(data);
    Log::begun(REFUSED)
        .say("Proposal", "agent://a", &proposal("p1"))
        .say("Vote", "agent://b", &vote("approve"))
        .write(data);
    let damaged = Log::begun(DAMAGED);
    damaged.write(data);
    let file = data.join("sessions").join(DAMAGED).join("log.jsonl");
    let log = fs::read_to_string(&file).expect("a log");
    fs::write(&file, format!("{log}{{\"message_id\n{log}")).expect("writes");
    fs::write(data.join("storage_version.json"), "{\n  \"version\": 3\n}").expect("writes");
}

/// What became of each session.
fn results(printed: &Value) -> BTreeMap<String, (String, String)> {
    let of = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let sessions = printed["sessions"].as_array().expect("sessions");
    sessions.iter().map(|s| (of(s, "id"), (of(s, "result"), of(s, "reason")))).collect()
}

/// A command that goes on; killed when dropped.
struct Running {
    child: Child,
    file: PathBuf,
}

impl Running {
    fn start(scratch: &Path, name: &str, command: &mut Command) -> Self {
        let file = scratch.join(name);
        let out = File::create(&file).expect("a file");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .expect("weft starts");
        Self { child, file }
    }

    fn items(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(dir: &Path) -> String {
    dir.to_string_lossy().into_owned()
}

#[test]
fn sessions_of_the_reference_come_in_are_operated_and_go_out_again() {
    let cluster = node();
    let data = cluster.scratch().join("macp-data");
    reference(&data);
    let dir = path(&data);

    // What could be done is said before anything is.
    let checked = cluster.weft(&["session", "import", &dir, "--dry-run", "--json"]);
    assert_eq!(checked.code, 6, "{checked:?}");
    let sound = results(&checked.json());
    assert_eq!(sound[RESOLVED].0, "sound");
    assert_eq!(cluster.json(&["session", "list", "--json"]), json!([]));

    let imported = cluster.weft(&["session", "import", &dir, "--json"]);
    assert_eq!(imported.code, 6, "{imported:?}");
    let first = results(&imported.json());
    assert_eq!((&*first[RESOLVED].0, &*first[OPEN].0), ("imported", "imported"));
    for (id, says) in [(COMPACTED, "compacted"), (REFUSED, "line 3"), (DAMAGED, "line 2")] {
        let (result, reason) = &first[id];
        assert_eq!(result, "failed", "{id}");
        assert!(reason.contains(says), "{id}: {reason}");
    }
    let again = results(&cluster.weft(&["session", "import", &dir, "--json"]).json());
    assert_eq!((&*again[RESOLVED].0, &*again[OPEN].0), ("skipped", "skipped"));

    let listed = cluster.json(&["session", "list", "--state", "open", "--json"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!((&listed[0]["id"], &listed[0]["messages"]), (&json!(OPEN), &json!(2)));
    let table = cluster.weft(&["session", "list"]).ok().stdout;
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    let columns =
        ["ID", "MODE", "STATE", "STARTED", "EXPIRES", "INITIATOR", "PARTICIPANTS", "MESSAGES"];
    assert_eq!(header, columns);

    let shown = cluster.json(&["session", "show", RESOLVED, "--json"]);
    let history = shown["history"].as_array().expect("a history");
    let ordinals: Vec<u64> = history.iter().filter_map(|r| r["ordinal"].as_u64()).collect();
    assert_eq!(ordinals, [1, 2, 3, 4]);
    assert_eq!(history[0]["payload"]["intent"], "which colour");
    assert_eq!(history[2]["payload"]["vote"], "APPROVE");
    assert_eq!(shown["resolution"]["action"], "decision.approved");
    assert_eq!(shown["session"]["state"], "resolved");
    let missing = cluster.weft(&["session", "show", "nobody"]);
    assert_eq!(missing.code, 1, "{missing:?}");

    watched_to_its_end(&cluster);

    let url = cluster.node("n1")["gateway"].as_str().expect("an address").to_owned();
    let (_, metrics) = http_get(&format!("{url}/metrics")).expect("metrics");
    let of_decisions = format!("macp_sessions_resolved_total{{mode=\"{DECISION}\"}} ");
    for line in [&*of_decisions, "weft_sessions{state=\"resolved\"} ", "weft_sessions_missing 0"] {
        assert!(
            metrics.lines().any(|found| found.starts_with(line)),
            "{line} is not in\n{metrics}"
        );
    }

    // Out, and into another cluster.
    let out = cluster.scratch().join("out");
    let exported = cluster.json(&["session", "export", "--all", "-o", &path(&out), "--json"]);
    let all = cluster.json(&["session", "list", "--json"]).as_array().map_or(0, Vec::len);
    assert_eq!((&exported["done"], &exported["failed"]), (&json!(all), &json!(0)), "{exported}");
    let kept = |dir: &Path| -> Vec<Value> {
        let file = dir.join("sessions").join(RESOLVED).join("log.jsonl");
        let text = fs::read_to_string(file).expect("a log");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert_eq!(kept(&out), kept(&data), "the same log as it came with");
    let other = node();
    let moved = other.weft(&["session", "import", &path(&out), "--json"]).ok().json();
    assert_eq!(moved["done"], all, "{moved}");
    for id in [RESOLVED, OPEN] {
        let show = ["session", "show", id, "--json"];
        assert_eq!(other.json(&show), cluster.json(&show));
    }
    let refused = cluster.weft(&["session", "import", &path(cluster.scratch())]);
    assert_eq!(refused.code, 2, "{refused:?}");
}

/// Somebody watches an open session, and all of them, while an operator cancels it.
fn watched_to_its_end(cluster: &Cluster) {
    let scratch = cluster.scratch();
    let watch = &mut cluster.command(&["session", "watch", OPEN, "--json"]);
    let mut one = Running::start(scratch, "one", watch);
    let watch = &mut cluster.command(&["session", "watch", "--json"]);
    let all = Running::start(scratch, "all", watch);
    eventually("its history is shown", || (one.items().len() == 2).then_some(()));

    let unasked = cluster.weft(&["session", "cancel", OPEN]);
    assert_eq!(unasked.code, 2, "there is no terminal to ask on: {unasked:?}");
    // A watch of all begins when it begins: wait until it has seen something.
    let extra = scratch.join("extra");
    eventually("all sessions are watched", || {
        let id = format!("extra-session-{:013}", fs::read_dir(&extra).map_or(0, Iterator::count));
        let mut log = Log::begun(OPEN);
        log.lines[0]["session_id"] = json!(id);
        let data = extra.join(&id);
        let dir = data.join("sessions").join(&id);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("log.jsonl"), format!("{}\n", log.lines[0])).expect("writes");
        cluster.weft(&["session", "import", &path(&data)]).ok();
        let seen = all.items().iter().any(|event| event["event"] == "created");
        cluster.weft(&["session", "cancel", &id, "--yes"]).ok();
        seen.then_some(())
    });
    let done = cluster.json(&["session", "cancel", OPEN, "--reason", "stuck", "--yes", "--json"]);
    assert_eq!(done, json!({ "id": OPEN, "state": "cancelled" }));
    let ended = eventually("the watch ends", || one.child.try_wait().expect("a child"));
    assert!(ended.success(), "{ended}");
    let last = one.items().pop().expect("records");
    assert_eq!((&last["type"], &last["ordinal"]), (&json!("SessionCancel"), &Value::Null));
    assert_eq!(last["payload"]["reason"], "stuck");
    assert!(last["sender"].as_str().is_some_and(|who| !who.is_empty()), "{last}");
    eventually("everybody hears of it", || {
        let is_it = |event: &Value| event["event"] == "cancelled" && event["id"] == OPEN;
        all.items().iter().any(is_it).then_some(())
    });
    // What has ended stays as it is.
    cluster.weft(&["session", "cancel", OPEN, "--yes"]).ok();
    let shown = cluster.json(&["session", "show", OPEN, "--json"]);
    assert_eq!(shown["history"].as_array().map(Vec::len), Some(3));
}
