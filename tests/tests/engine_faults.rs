//! Engines that die, hang or find a port taken, and containers that are killed: whoever is
//! concerned says so, nobody else waits, and afterwards each component runs once.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weft_tests::nodes::hello_on;
use weft_tests::podman::{Boxes, IMAGE, Podman};
use weft_tests::{DEADLINE, Done, kill_9, micros, with_environment};
use weft_wire::{Clock, SystemClock};

/// Components of `many`.
const COUNT: usize = 3;
/// `weft ps` answers within this, whatever the engine does.
const PS: Duration = Duration::from_secs(3);

/// What happens to requests on their way to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// Those with this in their first line wait.
    Holds(&'static str),
    /// They are carried out; their answers wait, and are lost in the end.
    Loses(&'static str),
}

#[derive(Debug)]
struct Way {
    fault: Fault,
    /// So many have met it.
    met: usize,
}

type Shared = Arc<(Mutex<Way>, Condvar)>;

/// A socket between a daemon and its engine, as long as the test's process lives.
struct Proxy {
    socket: PathBuf,
    way: Shared,
}

fn lock(way: &Shared) -> MutexGuard<'_, Way> {
    way.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    fn before(engine: &Path, socket: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).expect("a socket");
        let way: Shared =
            Arc::new((Mutex::new(Way { fault: Fault::None, met: 0 }), Condvar::new()));
        let (engine, shared) = (engine.to_owned(), way.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (engine, way) = (engine.clone(), shared.clone());
                std::thread::spawn(move || pass(&stream, &engine, &way));
            }
        });
        Self { socket, way }
    }

    /// From now on; what met the fault before goes on, or is lost.
    fn set(&self, fault: Fault) {
        *lock(&self.way) = Way { fault, met: 0 };
        self.way.1.notify_all();
    }

    fn met(&self) -> usize {
        lock(&self.way).met
    }
}

/// Passes one connection on, which is one request; `None`: it broke.
fn pass(client: &UnixStream, engine: &Path, way: &Shared) -> Option<()> {
    let (mut from, mut head, mut piece) = (client, Vec::<u8>::new(), [0; 4096]);
    while !head.contains(&b'\n') {
        let read = from.read(&mut piece).ok().filter(|read| *read > 0)?;
        head.extend(piece.iter().take(read));
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let fault = lock(way).fault;
    if matches!(fault, Fault::Holds(what) if line.contains(what)) {
        wait(way, fault);
    }
    let engine = UnixStream::connect(engine).ok()?;
    let mut to = &engine;
    to.write_all(&head).ok()?;
    let (there, back) = (client.try_clone().ok()?, engine.try_clone().ok()?);
    std::thread::spawn(move || carry(&there, &back));
    if matches!(fault, Fault::Loses(what) if line.contains(what)) {
        // The answer has begun: it is done.
        let _ = to.read(&mut piece);
        wait(way, fault);
        let _ = client.shutdown(Shutdown::Both);
        let _ = engine.shutdown(Shutdown::Both);
        return None;
    }
    carry(&engine, client);
    Some(())
}

/// Waits until the fault is another one.
fn wait(way: &Shared, fault: Fault) {
    let mut now = lock(way);
    if now.fault == fault {
        now.met += 1;
    }
    while now.fault == fault {
        now = way.1.wait(now).unwrap_or_else(PoisonError::into_inner);
    }
}

fn carry(from: &UnixStream, to: &UnixStream) {
    let (mut source, mut sink) = (from, to);
    let _ = std::io::copy(&mut source, &mut sink);
    let _ = to.shutdown(Shutdown::Write);
}

/// One node whose daemon asks its engine by way of a proxy.
#[track_caller]
fn proxied() -> Option<(Boxes, Proxy)> {
    let mut boxes = Boxes::start(1)?;
    let engine = boxes.podman[0].socket();
    let proxy = Proxy::before(&engine, boxes.cluster.scratch().join("e.sock"));
    boxes.cluster.set(0, &[&format!("engine.socket={}", proxy.socket.display())]);
    boxes.cluster.restart(0);
    boxes.cluster.node_is(0, 0, &["ready"]);
    Some((boxes, proxy))
}

/// Stops an engine's service where it stands; it goes on when this is dropped.
struct Halted(Pid);

impl Halted {
    #[track_caller]
    fn new(podman: &Podman) -> Self {
        let pid = podman.service_pid().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("its service runs");
        kill_process(pid, Signal::STOP).expect("it exists");
        Self(pid)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_running(row: &Value) -> bool {
    row["state"] == "running" && row["health"] != "unknown"
}

fn rows(boxes: &Boxes, service: &str) -> Vec<Value> {
    let rows = boxes.cluster.ps_json(0);
    rows.into_iter().filter(|row| row["service"] == service).collect()
}

/// The row of a component, once it is so.
#[track_caller]
fn row(boxes: &Boxes, component: &str, so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let what = format!("{component} is as wanted");
    let (row, _) = boxes.cluster.wait_until(&what, DEADLINE * 2, |cluster| {
        let rows = cluster.ps_json(0);
        let row = rows.into_iter().find(|row| row["component"] == component);
        if row.as_ref() != Some(&last) {
            last = row.clone().unwrap_or_default();
            eprintln!("{last}");
        }
        row.filter(|row| so(row))
    });
    row
}

/// A service of one container that answers `hello` over HTTP.
fn web() -> String {
    format!(
        r#"name = "web"
node = "n1"

[[components]]
name = "web"
image = "{IMAGE}"
cmd = ["/bin/sh", "-c", "echo hello > /www/index.html; exec httpd -f -p $PORT -h /www"]
stop_grace = "1s"

[components.health]
kind = "http"
path = "/index.html"
interval = "200ms"

[[components.routes]]
port = 443
"#
    )
}

#[track_caller]
fn answers(boxes: &Boxes, url: &str, expected: &str) {
    let url = format!("{url}/index.html");
    boxes.cluster.wait_until(&format!("{url} answers {expected}"), DEADLINE, |cluster| {
        let answer = cluster.curl(0, &url);
        answer.is_ok_and(|(code, body)| code == 200 && body.trim() == expected).then_some(())
    });
}

/// A service of components in containers that do nothing, with `marker` in their environment.
fn many(marker: &str, round: u32) -> String {
    let mut text = String::from("name = \"many\"\n\n[update]\nhealthy_for = \"500ms\"\n");
    for number in 1..=COUNT {
        let _ = write!(
            text,
            "\n[[components]]\nname = \"c{number}\"\nimage = \"{IMAGE}\"\n\
             cmd = [\"sleep\", \"1000\"]\nenv = [\"{marker}\", \"ROUND={round}\"]\n\
             stop_grace = \"1s\"\n"
        );
    }
    text
}

/// Waits until each component of `many` runs in that revision, in one container, and nothing else
/// of it is there: no other row, container or process.
#[track_caller]
fn once(boxes: &Boxes, marker: &str, revision: u64) {
    let mut last = String::new();
    boxes.cluster.wait_until("each component runs once", DEADLINE * 2, |_| {
        let rows = rows(boxes, "many");
        let mut own: Vec<String> = rows.iter().map(|row| text(&row["container"])).collect();
        let mut all = boxes.podman[0].ids();
        own.sort_unstable();
        all.sort_unstable();
        let runs = with_environment(marker).len();
        let now = format!("{runs} processes, containers {all:?}, rows {rows:#?}");
        if now != last {
            eprintln!("{now}");
            last = now;
        }
        let good =
            |row: &Value| row["state"] == "running" && row["revision"].as_u64() == Some(revision);
        (rows.len() == COUNT && rows.iter().all(good) && own == all && runs == COUNT).then_some(())
    });
}

/// Waits until the newest operation on `many` is over: it was carried out.
#[track_caller]
fn done(boxes: &Boxes, revision: u64) {
    boxes.cluster.wait_until("the operation is over", DEADLINE * 2, |cluster| {
        let all = cluster.json(0, &["operations", "--json"]);
        let of = |row: &&Value| row["service"] == "many";
        let last = all.as_array()?.iter().rfind(of)?.clone();
        let outcome = last["outcome"].as_str()?;
        if last["revision"].as_u64() != Some(revision) {
            return None;
        }
        assert_eq!((last["kind"].as_str(), outcome), (Some("deploy"), "done"), "{last:#}");
        Some(())
    });
}

/// Waits until as many requests have met the fault as `many` has components, kills the engine,
/// loses their answers, and waits until a component that is starting says why it waits.
fn dies_in_the_middle(boxes: &mut Boxes, proxy: &Proxy) {
    boxes
        .cluster
        .wait_until("the engine did all of it", DEADLINE, |_| (proxy.met() == COUNT).then_some(()));
    let starting = |rows: &[Value]| rows.iter().filter(|row| row["state"] == "starting").count();
    let before = rows(boxes, "many");
    assert_eq!(starting(&before), COUNT, "{before:#?}");
    boxes.podman[0].silence();
    proxy.set(Fault::None);
    boxes.cluster.wait_until("it is said that the engine is away", DEADLINE, |_| {
        let says = |row: &Value| {
            row["state"] == "starting" && text(&row["reason"]).contains("does not answer")
        };
        rows(boxes, "many").iter().any(says).then_some(())
    });
}

#[test]
fn what_an_engine_did_before_it_died_is_found_and_done_once_in_a_deploy_and_in_an_update() {
    let Some((mut boxes, proxy)) = proxied() else { return };
    let marker = format!("MARK=once-{}", std::process::id());
    // It makes the containers, and dies before anybody hears of it.
    proxy.set(Fault::Loses("/containers/create"));
    boxes.cluster.try_deploy(0, &many(&marker, 1), &["--no-wait"]).ok();
    dies_in_the_middle(&mut boxes, &proxy);
    assert_eq!(with_environment(&marker), Vec::<u32>::new(), "made, and not started");
    boxes.podman[0].serve();
    once(&boxes, &marker, 1);
    done(&boxes, 1);

    // It starts those of the next revision, and dies before anybody hears of it.
    proxy.set(Fault::Loses("/start"));
    boxes.cluster.try_deploy(0, &many(&marker, 2), &["--no-wait"]).ok();
    dies_in_the_middle(&mut boxes, &proxy);
    boxes.podman[0].serve();
    done(&boxes, 2);
    once(&boxes, &marker, 2);
}

#[test]
fn an_engine_that_is_killed_while_it_starts_containers_leaves_none_behind() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    let marker = format!("MARK=killed-{}", std::process::id());
    for round in [1, 2] {
        boxes.cluster.try_deploy(0, &many(&marker, round), &["--no-wait"]).ok();
        let revision = u64::from(round);
        // At any moment of their start.
        boxes.cluster.wait_until("the new ones are starting", DEADLINE, |_| {
            let starts = |row: &Value| {
                row["state"] == "starting" && row["revision"].as_u64() == Some(revision)
            };
            rows(&boxes, "many").iter().any(starts).then_some(())
        });
        boxes.podman[0].silence();
        eprintln!("killed while: {:#?}", rows(&boxes, "many"));
        boxes.podman[0].serve();
        done(&boxes, revision);
        once(&boxes, &marker, revision);
    }
}

/// `weft ps`, which is not held up.
#[track_caller]
fn ps_in_time(boxes: &Boxes, while_: &str) -> Done {
    let begun = SystemClock.now();
    let done = boxes.cluster.weft(0, &["ps"]).ok();
    let took = begun.elapsed();
    eprintln!("measured: {while_}: `weft ps` took {} ms", took.as_millis());
    assert!(took < PS, "{while_}: {took:?} {done:?}");
    done
}

#[test]
fn an_engine_that_hangs_holds_up_only_who_needs_it_and_that_one_says_so() {
    let Some(boxes) = Boxes::start(1) else { return };
    let cluster = &boxes.cluster;
    cluster.deploy(0, &hello_on("before", "n1"));
    cluster.deploy(0, &web());
    let native = cluster.running(0, "before", 0);
    let first = row(&boxes, "web", is_running);
    let url = text(&first["urls"][0]);

    let halted = Halted::new(&boxes.podman[0]);
    let late = format!(
        "name = \"late\"\n\n[[components]]\nname = \"late\"\nimage = \"{IMAGE}\"\n\
         cmd = [\"sleep\", \"1000\"]\nstop_grace = \"1s\"\n"
    );
    cluster.try_deploy(0, &late, &["--no-wait"]).ok();
    let begun = SystemClock.now();
    cluster.deploy(0, &hello_on("after", "n1"));
    eprintln!("measured: a process was deployed after {} ms", begun.elapsed().as_millis());
    ps_in_time(&boxes, "the engine hangs");
    let waits = row(&boxes, "late", |row| text(&row["reason"]).contains("has not answered"));
    // It looks whether there is a container of it already.
    assert_eq!(text(&waits["state"]), "pending", "{waits}");
    let table = ps_in_time(&boxes, "that it hangs is known").stdout;
    let line = table.lines().find(|line| line.starts_with("late ")).unwrap_or_default();
    assert!(line.contains("has not answered"), "{table}");
    // What runs goes on, in a container or not.
    answers(&boxes, &url, "hello");
    let still = row(&boxes, "web", |_| true);
    assert_eq!((text(&still["state"]), &still["pid"]), ("running".into(), &first["pid"]));
    assert_eq!(cluster.running(0, "before", 0)["pid"], native["pid"]);

    drop(halted);
    let is_well = |row: &Value| is_running(row) && row["reason"].is_null();
    let late = row(&boxes, "late", is_well);
    let again = row(&boxes, "web", is_well);
    assert_eq!((&again["container"], &again["pid"]), (&first["container"], &first["pid"]));
    assert_eq!(again["restarts"], 0);
    let mut expected = [text(&late["container"]), text(&again["container"])];
    let mut all = boxes.podman[0].ids();
    expected.sort_unstable();
    all.sort_unstable();
    assert_eq!(all, expected);
    ps_in_time(&boxes, "the engine is back");
}

/// Holds a port of the node as somebody else's program does.
#[track_caller]
fn held(boxes: &Boxes, port: u16) -> TcpListener {
    let bind = || TcpListener::bind(("127.0.0.1", port)).ok();
    let what = format!("port {port} is free");
    boxes.cluster.wait_until(&what, DEADLINE, |cluster| cluster.net.inside(0, bind)).0
}

/// The host port that `web`'s route has in the node's table.
#[track_caller]
fn allocated(boxes: &Boxes) -> u16 {
    let file = boxes.cluster.data_dir(0).join("route-ports.json");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let table: Value = serde_json::from_str(&text).expect("JSON");
    let port = table["routes"]["web/1/web/"]["port"].as_u64();
    port.and_then(|port| u16::try_from(port).ok()).unwrap_or_else(|| panic!("{table:#}"))
}

#[test]
fn a_port_that_is_taken_at_the_last_moment_is_replaced_and_a_fixed_one_is_named_and_waited_for() {
    let Some((boxes, proxy)) = proxied() else { return };
    let podman = &boxes.podman[0];
    boxes.cluster.deploy(0, &web());
    let first = row(&boxes, "web", is_running);
    let id = text(&first["container"]);

    // Its container is removed; somebody takes the port between its allocation and the start.
    proxy.set(Fault::Holds("/start"));
    podman.podman(&["rm", "--force", "--time", "0", &id]).ok();
    boxes
        .cluster
        .wait_until("it is about to be started", DEADLINE, |_| (proxy.met() > 0).then_some(()));
    let port = allocated(&boxes);
    let holder = held(&boxes, port);
    proxy.set(Fault::None);
    let second = row(&boxes, "web", |row| is_running(row) && text(&row["container"]) != id);
    let url = text(&second["urls"][0]);
    assert!(!url.ends_with(&format!(":{port}")), "{second}");
    answers(&boxes, &url, "hello");
    assert_eq!(podman.ids(), [text(&second["container"])], "and nothing is left of what failed");
    drop(holder);

    // A port that the definition names cannot be another.
    let holder = held(&boxes, 18080);
    let fixed = format!(
        "name = \"fixed\"\n\n[[components]]\nname = \"fixed\"\nimage = \"{IMAGE}\"\n\
         cmd = [\"/bin/sh\", \"-c\", \"echo mine > /www/index.html; \
         exec httpd -f -p 8080 -h /www\"]\n\
         ports = [\"127.0.0.1:18080:8080\"]\nstop_grace = \"1s\"\n"
    );
    boxes.cluster.try_deploy(0, &fixed, &["--no-wait"]).ok();
    let waits = row(&boxes, "fixed", |row| text(&row["reason"]).contains("a port is taken"));
    assert!(text(&waits["reason"]).contains("18080"), "{waits}");
    assert_ne!(text(&waits["state"]), "running", "{waits}");
    drop(holder);
    row(&boxes, "fixed", |row| row["state"] == "running");
    answers(&boxes, "http://127.0.0.1:18080", "mine");
    assert_eq!(podman.ids().len(), 2);
}

/// The change of a component to a state for that cause, once it is told.
#[track_caller]
fn change(boxes: &Boxes, of: &str, state: &str, cause: &str) -> Value {
    let what = format!("{of} is told to be {state}");
    let (event, _) = boxes.cluster.wait_until(&what, DEADLINE, |cluster| {
        let done = cluster.weft(0, &["events", of, "--json"]).ok();
        let mut all = done.stdout.lines().map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        all.find(|event| event["new_state"] == state && event["cause"] == cause)
    });
    event
}

/// When the daemon noticed what an event tells: its id says so, in µs since the epoch.
#[track_caller]
fn noticed(event: &Value) -> i64 {
    let id = uuid::Uuid::parse_str(&text(&event["id"])).expect("an id");
    let (seconds, nanos) = id.get_timestamp().expect("an id with a time").to_unix();
    i64::try_from(seconds).expect("after 1970") * 1_000_000 + i64::from(nanos) / 1000
}

#[test]
fn the_end_of_a_killed_container_is_told_within_a_second_and_it_runs_again_within_two() {
    let Some(boxes) = Boxes::start(1) else { return };
    let names = ["one", "two", "three"];
    let each = names.map(|name| {
        format!(
            "[[components]]\nname = \"{name}\"\nimage = \"{IMAGE}\"\n\
             cmd = [\"sleep\", \"1000\"]\nstop_grace = \"1s\"\n\n"
        )
    });
    boxes.cluster.deploy(0, &format!("name = \"quick\"\n\n{}", each.concat()));
    for name in names {
        let before = row(&boxes, name, is_running);
        let id = text(&before["container"]);
        // By the engine's own words and by the machine's clock, never by when this test looked.
        let time = |field: &str| {
            let time = boxes.podman[0].field(&id, &format!("{{{{json .State.{field}}}}}"));
            micros(time.trim_matches('"'))
        };
        let first = time("StartedAt");
        let pid = before["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        kill_9(pid.expect("a pid"));
        let after = row(&boxes, name, |row| is_running(row) && row["restarts"] == 1);
        assert_eq!(text(&after["container"]), id, "started again in its place");
        let (ended, begun) = (time("FinishedAt"), time("StartedAt"));
        assert!(first < ended && ended < begun, "{first} {ended} {begun}");

        let of = format!("quick/{name}");
        let exited = change(&boxes, &of, "exited", "self");
        assert_eq!(text(&exited["exit"]), "exit 137 (signal 9)", "{exited}");
        let runs = change(&boxes, &of, "running", "reconcile");
        let (late, told) = (noticed(&exited) - ended, micros(&text(&exited["time"])) - ended);
        let (away, seen) = (begun - ended, noticed(&runs) - ended);
        eprintln!(
            "measured: {name}: its end was noticed after {} ms, it ran again after {} ms, which \
             was known after {} ms",
            late / 1000,
            away / 1000,
            seen / 1000
        );
        assert!(late <= 1_000_000, "{late} µs: {exited}");
        assert!(told.abs() <= 1_000_000, "{told} µs: {exited}");
        assert!(away <= 2_000_000, "{away} µs: {after}");
        let shown = micros(&text(&runs["time"])) - begun;
        assert!(shown.abs() <= 1000, "{shown} µs: {runs}");
    }
}
