//! Real shims, real processes, real files: a runtime actor in a supervised tree, its monitor
//! played by the test.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;
use weft_link::{Call, Reply};
use weft_protocol::files::{ShimFile, component_dir, log_file, replica_dir};
use weft_protocol::{
    Assign, Assignment, ChaosActor, ChaosKind, CheckSpec, ComponentKey, ComponentSpec,
    ComponentState, ComponentStatus, Desired, Driver, Duty, Exec, ExecCommand, ExecInput, ExecItem,
    ExecTaken, Health, HealthCheck, HealthKind, ListComponents, LogStream, Observed, Octets,
    ReadDuty, ReadLogs, Resources, RestartComponents, RestartPolicy, RouteMode, RouteSpec,
    Transition, WatchComponents,
};
use weft_runtime::{RuntimeConfig, factory};
use weft_supervision::testing::{self, TestTree};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Clock, Failure, FailureKind, Identity, OperatorId, Role,
    SystemClock,
};

const SHIM: &str = env!("CARGO_BIN_EXE_weft-shim");

/// Records what it is told, unless it is told not to.
struct Monitor {
    seen: Arc<Mutex<Vec<Transition>>>,
    away: Arc<AtomicBool>,
}

impl Actor for Monitor {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<Observed>();
    }
}

impl Handle<Observed> for Monitor {
    fn handle(&mut self, message: Observed, reply: Reply<Observed>, _: &Scope<Self>) {
        if self.away.load(Ordering::Relaxed) {
            return reply.fail(Failure::new(FailureKind::Unavailable, "away"));
        }
        let mut seen = self.seen.lock();
        for transition in message.transitions {
            if !seen.iter().any(|known| known.id == transition.id) {
                seen.push(transition);
            }
        }
        reply.ok(());
    }
}

/// A data directory; whatever still runs from it when the test ends is killed.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Every live process that was started from here: shims by their arguments, components by
    /// their environment.
    fn processes(&self) -> Vec<u32> {
        let needle = self.path().to_str().unwrap().as_bytes().to_vec();
        let holds = |path: String| {
            std::fs::read(path)
                .is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != std::process::id())
            .filter(|pid| {
                holds(format!("/proc/{pid}/cmdline")) || holds(format!("/proc/{pid}/environ"))
            })
            .filter(|pid| alive(*pid))
            .collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            left.into_iter().for_each(kill);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn proc_state(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn alive(pid: u32) -> bool {
    proc_state(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// A daemon's life over a data directory.
struct Node {
    tree: TestTree,
    seen: Arc<Mutex<Vec<Transition>>>,
    away: Arc<AtomicBool>,
}

fn daemon<T>(dir: &Path, test: impl AsyncFnOnce(&Node) -> T) -> T {
    daemon_with(dir, |_| {}, test)
}

fn daemon_with<T>(
    dir: &Path,
    change: impl FnOnce(&mut RuntimeConfig),
    test: impl AsyncFnOnce(&Node) -> T,
) -> T {
    let mut config = RuntimeConfig::new(dir, "n1", SHIM);
    change(&mut config);
    testing::run_with(
        |tree| tree.chaos = true,
        async |tree| {
            let (seen, away) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
            let node = Node { tree: tree.clone(), seen: seen.clone(), away: away.clone() };
            tree.add(ActorKind::Monitor, move |_: Incarnation| {
                let monitor = Monitor { seen: seen.clone(), away: away.clone() };
                async move { Ok::<_, ActorError>(monitor) }
            })
            .await;
            tree.add(ActorKind::Runtime, factory(config)).await;
            test(&node).await
        },
    )
}

impl Node {
    async fn assign(&self, index: u64, assignments: &[Assignment]) {
        let assign = Assign { index, assignments: assignments.to_vec(), returning: false };
        self.tree.ask(assign).await.unwrap();
    }

    async fn rows(&self) -> Vec<ComponentStatus> {
        self.tree.ask(ListComponents {}).await.unwrap_or_default()
    }

    /// Waits until a component's row is as wanted.
    async fn row(&self, component: &str, so: impl Fn(&ComponentStatus) -> bool) -> ComponentStatus {
        let end = SystemClock.now() + testing::PATIENCE;
        loop {
            let rows = self.rows().await;
            if let Some(row) = rows.iter().find(|row| row.key.component == component && so(row)) {
                return row.clone();
            }
            assert!(
                SystemClock.now() < end,
                "{component} is not as wanted: {rows:#?}\n{}",
                self.told()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn running(&self, component: &str) -> ComponentStatus {
        self.row(component, |row| row.state == ComponentState::Running && row.pid != 0).await
    }

    async fn gone(&self, dir: &Dir) {
        testing::eventually("no process is left", || dir.processes().is_empty().then_some(()))
            .await;
        let me = std::process::id();
        testing::eventually("no zombie is left", || {
            let pids = std::fs::read_dir("/proc").unwrap();
            let zombies = pids
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
                .filter(|pid| proc_state(*pid).is_some_and(|(s, p)| s == 'Z' && p == me));
            (zombies.count() == 0).then_some(())
        })
        .await;
    }

    /// Stops everything and sees that nothing is left.
    async fn end(&self, index: u64, dir: &Dir) {
        self.assign(index, &[]).await;
        let end = SystemClock.now() + testing::PATIENCE;
        while !self.rows().await.is_empty() {
            assert!(SystemClock.now() < end, "{:#?}", self.rows().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.gone(dir).await;
        let left = std::fs::read_dir(dir.path().join("components")).unwrap().count();
        assert_eq!(left, 0, "directories of forgotten components are removed");
        self.unbroken();
    }

    fn told(&self) -> String {
        self.seen.lock().iter().fold(String::new(), |mut text, t| {
            let _ = writeln!(
                text,
                "{} {} -> {} {} [{}]",
                t.key, t.prev_state, t.new_state, t.cause, t.exit
            );
            text
        })
    }

    /// Every transition starts where the one before it ended, or, after a takeover, at `unknown`.
    fn unbroken(&self) {
        let told = self.told();
        let mut last = std::collections::HashMap::new();
        for t in self.seen.lock().iter() {
            if let Some(before) = last.insert(t.key.clone(), t.new_state)
                && t.prev_state != ComponentState::Unknown
            {
                assert_eq!(before, t.prev_state, "{told}");
            }
        }
    }

    async fn event(&self, so: impl Fn(&Transition) -> bool) -> Transition {
        testing::eventually("the event has been told", || {
            self.seen.lock().iter().find(|t| so(t)).cloned()
        })
        .await
    }

    async fn log(&self, request: ReadLogs) -> Vec<String> {
        let to = Address::here(ActorKind::Runtime);
        let call = Call::within(testing::PATIENCE);
        let mut items = self.tree.fabric().subscribe(to, request, call).await.unwrap();
        let mut lines = Vec::new();
        while let Some(line) = items.next().await {
            lines.push(line.unwrap().text);
        }
        lines
    }
}

fn key(component: &str) -> ComponentKey {
    ComponentKey { service: "web".into(), replica: 1, component: component.into() }
}

fn component(name: &str, cmd: &[&str]) -> Assignment {
    Assignment {
        key: key(name),
        spec: ComponentSpec {
            name: name.into(),
            driver: Driver::Process,
            image: String::new(),
            version: String::new(),
            network: String::new(),
            user: String::new(),
            restart: RestartPolicy::UnlessStopped,
            stop_grace: Duration::from_secs(5),
            workdir: String::new(),
            ports: vec![],
            volumes: vec![],
            cmd: cmd.iter().map(|part| (*part).to_owned()).collect(),
            env: vec![],
            health: None,
            resources: Resources::default(),
            routes: vec![],
        },
        service_version: "1.0".into(),
        revision: 1,
        spec_hash: "a".into(),
        epoch: 0,
        made: 0,
        generation: 1,
        desired: Desired::Running,
        fenced: false,
        leaving: String::new(),
        files: Vec::new(),
        after: Vec::new(),
    }
}

fn sleeper(name: &str) -> Assignment {
    component(name, &["/bin/sh", "-c", "echo up; exec sleep 1000"])
}

fn shell(name: &str, script: &str) -> Assignment {
    component(name, &["/bin/sh", "-c", script])
}

fn route(name: &str) -> RouteSpec {
    RouteSpec {
        name: name.into(),
        port: 443,
        mode: RouteMode::L4,
        hostname: String::new(),
        public: false,
        backend_tls: None,
    }
}

fn health(kind: HealthKind, port: u16) -> HealthCheck {
    HealthCheck {
        kind,
        port: port.to_string(),
        path: "/health".into(),
        command: vec![],
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        retries: 2,
        start_period: Duration::from_secs(10),
    }
}

fn logs(component: &str) -> ReadLogs {
    ReadLogs {
        target: format!("web/{component}").parse().unwrap(),
        replica: 0,
        tail: None,
        since: None,
        follow: false,
    }
}

fn shim_file(dir: &Dir, component: &str) -> ShimFile {
    let path = component_dir(dir.path(), &key(component)).join("shim.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_killed_component_runs_again_with_a_new_pid_and_both_events_are_told() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        let first = node.running("api").await;
        assert_eq!(first.version, "1.0");
        let killed = SystemClock.now();
        kill(first.pid);
        let second =
            node.row("api", |r| r.state == ComponentState::Running && r.pid != first.pid).await;
        let took = killed.elapsed();
        println!("killed to running: {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!((second.restarts, second.last_exit.as_str()), (1, "signal 9"));
        let exited = node.event(|t| t.new_state == ComponentState::Exited).await;
        assert_eq!((exited.exit.as_str(), exited.cause.as_str()), ("signal 9", "self"));
        node.event(|t| t.new_state == ComponentState::Running && t.cause == "reconcile").await;
        assert!(!alive(first.pid) && alive(second.pid));
        node.end(2, &dir).await;
    });
}

#[test]
fn what_runs_outlives_the_daemon_and_is_taken_over_with_the_same_pid() {
    let dir = Dir::new();
    let ticker = || shell("api", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done");
    let first = daemon(dir.path(), async |node| {
        node.assign(1, &[ticker()]).await;
        node.running("api").await
    });
    assert!(alive(first.pid), "the daemon is gone, its component is not");
    daemon(dir.path(), async |node| {
        let second = node.running("api").await;
        assert_eq!((second.pid, second.started_at), (first.pid, first.started_at));
        assert_eq!(second.desired, Desired::Running, "what was wanted is remembered");
        node.event(|t| t.cause == "takeover" && t.new_state == ComponentState::Running).await;
        node.assign(1, &[ticker()]).await;
        let shims = dir.processes().into_iter().filter(|pid| *pid != first.pid);
        let with_name = shims.filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|c| c.trim() == "weft-shim")
        });
        assert_eq!(with_name.count(), 1, "no duplicate");
        let lines = node.log(logs("api")).await;
        let numbers: Vec<u32> = lines.iter().map(|line| line.parse().unwrap()).collect();
        let expected: Vec<u32> = (1..=u32::try_from(numbers.len()).unwrap()).collect();
        assert_eq!(numbers, expected, "the log is whole");
        node.end(2, &dir).await;
    });
}

#[test]
fn an_exit_while_the_daemon_was_away_is_told_with_its_status_and_time() {
    let dir = Dir::new();
    let first = daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        node.running("api").await
    });
    kill(first.pid);
    let file = (0..2000)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            Some(shim_file(&dir, "api")).filter(|file| file.exit.is_some())
        })
        .expect("the shim writes the exit though no daemon listens");
    daemon(dir.path(), async |node| {
        let exited = node.event(|t| t.new_state == ComponentState::Exited).await;
        assert_eq!(exited.exit, "signal 9");
        assert_eq!(Some(exited.time), file.exit.map(|exit| exit.at));
        // Not before somebody says that it is still this node's.
        let held = node.row("api", |row| row.state == ComponentState::Exited).await;
        assert!(held.reason.contains("not started"), "{}", held.reason);
        let duty = node.tree.ask(ReadDuty {}).await.unwrap();
        assert_eq!(duty, Duty::default());
        node.assign(1, &[sleeper("api")]).await;
        let second = node.running("api").await;
        assert_ne!(second.pid, first.pid);
        node.end(2, &dir).await;
    });
}

#[test]
fn a_shim_killed_under_the_daemon_takes_its_component_with_it_and_both_come_back() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[shell("api", "sleep 1000 & exec sleep 1001")]).await;
        let first = node.running("api").await;
        let file = shim_file(&dir, "api");
        kill(file.shim.pid);
        let second =
            node.row("api", |r| r.state == ComponentState::Running && r.pid != first.pid).await;
        assert!(!alive(first.pid));
        assert!(alive(second.pid));
        node.event(|t| t.new_state == ComponentState::Exited && t.cause == "shim").await;
        assert_eq!(dir.processes().len(), 3, "one shim, one component, its child");
        node.end(2, &dir).await;
    });
}

#[test]
fn a_shim_killed_while_the_daemon_was_away_leaves_no_second_copy() {
    let dir = Dir::new();
    let first = daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        node.running("api").await
    });
    kill(shim_file(&dir, "api").shim.pid);
    assert!(alive(first.pid));
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        let second =
            node.row("api", |r| r.state == ComponentState::Running && r.pid != first.pid).await;
        assert!(!alive(first.pid));
        assert_eq!(dir.processes().len(), 2);
        assert_ne!(second.pid, 0);
        node.event(|t| t.cause == "shim").await;
        node.end(2, &dir).await;
    });
}

#[test]
fn a_daemon_killed_between_starting_a_shim_and_recording_it_finds_it_by_its_directory() {
    let dir = Dir::new();
    let first = daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        node.running("api").await
    });
    // As if nothing had been recorded.
    std::fs::remove_file(dir.path().join("assignments.json")).unwrap();
    let _ = std::fs::remove_file(component_dir(dir.path(), &key("api")).join("component.json"));
    daemon(dir.path(), async |node| {
        let found = node.running("api").await;
        assert_eq!((found.pid, found.desired), (first.pid, Desired::Ignore));
        node.assign(1, &[sleeper("api")]).await;
        let kept = node.row("api", |row| row.desired == Desired::Running).await;
        assert_eq!(kept.pid, first.pid, "the same, claimed");
        node.end(2, &dir).await;
    });
    // And one that is not wanted is stopped, once that is known.
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        node.running("api").await
    });
    std::fs::remove_file(dir.path().join("assignments.json")).unwrap();
    daemon(dir.path(), async |node| {
        node.running("api").await;
        node.end(1, &dir).await;
    });
}

#[test]
fn a_second_shim_of_the_same_component_is_refused_and_starts_nothing() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        let row = node.running("api").await;
        let spec = component_dir(dir.path(), &key("api")).join("spec.json");
        let second = tokio::process::Command::new(SHIM)
            .arg("shim")
            .arg("--spec")
            .arg(&spec)
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap();
        assert_eq!(second.status.code(), Some(75));
        assert!(String::from_utf8_lossy(&second.stderr).contains("another shim"));
        assert_eq!(node.running("api").await.pid, row.pid);
        assert_eq!(dir.processes().len(), 2);
        node.end(2, &dir).await;
    });
}

#[test]
fn a_panicking_runtime_or_component_actor_keeps_every_pid() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api"), sleeper("db")]).await;
        let (api, db) = (node.running("api").await, node.running("db").await);
        for path in ["runtime/web/1/api", "runtime"] {
            let before = node.tree.row(path).unwrap().restarts;
            let chaos = ChaosActor { path: path.into(), kind: ChaosKind::Panic };
            node.tree.ask(chaos).await.unwrap();
            node.tree.row_where(path, |row| row.restarts > before).await;
            assert_eq!(node.running("api").await.pid, api.pid);
            assert_eq!(node.running("db").await.pid, db.pid);
        }
        kill(api.pid);
        node.row("api", |row| row.state == ComponentState::Running && row.pid != api.pid).await;
        assert_eq!(dir.processes().len(), 4);
        node.end(2, &dir).await;
    });
}

#[test]
fn exit_statuses_are_told_and_a_crash_loop_ends_in_failed() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        let mut once = shell("once", "echo last words >&2; exit 7");
        once.spec.restart = RestartPolicy::OnFailure(Some(0));
        let mut done = shell("done", "exit 0");
        done.spec.restart = RestartPolicy::No;
        node.assign(1, &[once, done]).await;
        let row = node.row("once", |row| row.state == ComponentState::Failed).await;
        assert_eq!(row.last_exit, "exit 7");
        let row = node.row("done", |row| row.state == ComponentState::Exited).await;
        assert_eq!((row.last_exit.as_str(), row.pid), ("exit 0", 0));
        assert_eq!(node.log(logs("once")).await, ["last words"]);
        let mut loops = shell("loop", "exit 1");
        loops.spec.restart = RestartPolicy::Always;
        node.assign(2, std::slice::from_ref(&loops)).await;
        let row = node.row("loop", |row| row.state == ComponentState::Failed).await;
        assert_eq!(row.restarts, 4);
        assert!(row.reason.contains("weft restart"), "{}", row.reason);
        // An operator's restart tries again.
        let restart = RestartComponents { target: "web/loop".parse().unwrap() };
        node.tree.ask(restart).await.unwrap();
        node.row("loop", |row| row.state != ComponentState::Failed).await;
        node.end(3, &dir).await;
    });
}

#[test]
fn programs_that_are_missing_or_not_executable_fail_with_what_to_do() {
    let dir = Dir::new();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    daemon(dir.path(), async |node| {
        let missing = component("missing", &["/nowhere/prog"]);
        let unknown = component("unknown", &["no-such-program-anywhere"]);
        let barred = component("barred", &[plain.to_str().unwrap()]);
        let mut boxed = component("boxed", &[]);
        boxed.spec.driver = Driver::Container;
        boxed.spec.image = "a:1".into();
        let all = [missing, unknown, barred, boxed];
        let check = CheckSpec {
            service: "web".into(),
            replica: 1,
            components: all.iter().map(|a| a.spec.clone()).collect(),
            files: Vec::new(),
        };
        let problems = node.tree.ask(check).await.unwrap();
        assert_eq!(problems.len(), 4);
        assert!(dir.processes().is_empty());
        node.assign(1, &all).await;
        for (name, text) in [
            ("missing", "/nowhere/prog"),
            ("unknown", "PATH"),
            ("barred", "chmod +x"),
            ("boxed", "this node runs processes only"),
        ] {
            let row = node.row(name, |row| row.state == ComponentState::Failed).await;
            assert!(row.reason.contains(text), "{}", row.reason);
            assert!(problems.iter().any(|p| p.component == name && p.problem == row.reason));
        }
        // Once it is there, a restart is enough.
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(&plain, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        let restart = RestartComponents { target: "web/barred".parse().unwrap() };
        node.tree.ask(restart).await.unwrap();
        node.running("barred").await;
        node.end(2, &dir).await;
    });
}

#[test]
fn a_component_that_ignores_sigterm_is_killed_after_its_grace_with_all_it_started() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        let mut stubborn = shell(
            "api",
            "trap '' TERM; setsid sleep 1000 & sleep 1001 & echo ready; while :; do sleep 0.1; done",
        );
        stubborn.spec.stop_grace = Duration::from_millis(300);
        node.assign(1, std::slice::from_ref(&stubborn)).await;
        node.running("api").await;
        testing::eventually("it has started its children", || {
            (dir.processes().len() >= 4).then_some(())
        })
        .await;
        let asked = SystemClock.now();
        stubborn.desired = Desired::Stopped;
        node.assign(2, std::slice::from_ref(&stubborn)).await;
        let row = node.row("api", |row| row.state == ComponentState::Stopped).await;
        assert!(asked.elapsed() >= Duration::from_millis(300), "it had its grace");
        assert_eq!((row.last_exit.as_str(), row.pid), ("signal 9", 0));
        node.gone(&dir).await;
        let restart = RestartComponents { target: "web".parse().unwrap() };
        assert!(node.tree.ask(restart).await.is_err(), "a stopped component is not restarted");
        node.end(3, &dir).await;
    });
}

#[test]
fn a_sigterm_to_the_shim_stops_its_component_in_an_orderly_way() {
    let dir = Dir::new();
    let first = daemon(dir.path(), async |node| {
        node.assign(
            1,
            &[shell(
                "api",
                "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
            )],
        )
        .await;
        testing_lines(node, "api", |lines| !lines.is_empty()).await;
        node.running("api").await
    });
    let shim = shim_file(&dir, "api").shim.pid;
    for ignored in [rustix::process::Signal::INT, rustix::process::Signal::HUP] {
        signal(shim, ignored);
    }
    signal(shim, rustix::process::Signal::TERM);
    for _ in 0..2000 {
        if dir.processes().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!alive(first.pid), "{:?}", proc_state(first.pid));
    assert!(!alive(shim), "{:?}", proc_state(shim));
    let exit = shim_file(&dir, "api").exit.unwrap();
    assert_eq!((exit.code, exit.requested), (Some(0), true));
    let log = std::fs::read_to_string(log_file(dir.path(), &key("api"))).unwrap();
    assert!(log.contains(" O bye\n"), "{log}");
}

#[test]
fn a_new_spec_or_epoch_replaces_the_process() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        let mut api = sleeper("api");
        node.assign(5, std::slice::from_ref(&api)).await;
        let first = node.running("api").await;
        api.generation = 9;
        node.assign(6, std::slice::from_ref(&api)).await;
        assert_eq!(node.running("api").await.pid, first.pid);
        api.spec_hash = "b".into();
        api.revision = 2;
        node.assign(7, std::slice::from_ref(&api)).await;
        let second = node.row("api", |row| row.pid != 0 && row.spec_hash == "b").await;
        assert!(!alive(first.pid));
        assert_eq!((second.restarts, second.revision), (0, 2));
        api.epoch = 1;
        node.assign(8, std::slice::from_ref(&api)).await;
        node.row("api", |row| row.state == ComponentState::Running && row.pid != second.pid).await;
        assert_eq!(dir.processes().len(), 2);
        node.end(9, &dir).await;
    });
}

#[test]
fn a_stale_or_contradictory_list_is_refused_and_changes_nothing_also_for_the_next_daemon() {
    let dir = Dir::new();
    let refused = async |node: &Node, index: u64, list: &[Assignment], says: &str| {
        let assign = Assign { index, assignments: list.to_vec(), returning: false };
        match node.tree.ask(assign).await {
            Err(AskError::Failed(failure)) => {
                assert_eq!(failure.kind, FailureKind::Conflict, "{failure:?}");
                assert!(failure.message.contains(says), "{failure:?}");
                assert!(failure.help.contains("assignments.json"), "{failure:?}");
            }
            other => panic!("{index}: {other:?}"),
        }
    };
    let api = sleeper("api");
    let first = daemon(dir.path(), async |node| {
        node.assign(5, std::slice::from_ref(&api)).await;
        let first = node.running("api").await;
        refused(node, 4, &[], "older").await;
        refused(node, 5, &[], "contradict").await;
        node.assign(5, std::slice::from_ref(&api)).await;
        let ghost = ChaosActor { path: "runtime".into(), kind: ChaosKind::Panic };
        let _ = node.tree.ask(ghost).await;
        node.tree.row_where("runtime", |row| row.restarts == 1).await;
        refused(node, 4, &[], "older").await;
        refused(node, 5, &[], "contradict").await;
        assert_eq!(node.running("api").await.pid, first.pid);
        first
    });
    daemon(dir.path(), async |node| {
        refused(node, 4, &[], "older").await;
        assert_eq!(node.running("api").await.pid, first.pid);
        node.end(6, &dir).await;
    });
}

#[test]
fn what_is_stale_after_an_absence_is_said_until_it_has_stopped() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        let slow = |name: &str| {
            let script = "trap '' TERM; while :; do sleep 1; done";
            let mut slow = shell(name, script);
            slow.spec.stop_grace = Duration::from_secs(1);
            slow
        };
        let mut kept = sleeper("kept");
        node.assign(1, &[slow("old"), kept.clone(), slow("undeployed")]).await;
        for name in ["old", "kept", "undeployed"] {
            node.running(name).await;
        }
        node.assign(2, &[slow("old"), kept.clone()]).await;
        let duty = node.tree.ask(ReadDuty {}).await.unwrap();
        assert_eq!((duty.index, duty.stale.len()), (Some(2), 0), "stopping as such is not stale");
        kept.leaving = "n2".into();
        kept.desired = Desired::Ignore;
        let back = Assign { index: 3, assignments: vec![kept.clone()], returning: true };
        node.tree.ask(back).await.unwrap();
        let duty = node.tree.ask(ReadDuty {}).await.unwrap();
        assert!(duty.stale.contains(&key("old")), "{duty:?}");
        assert_eq!(duty.undecided, [key("kept")]);
        // Also for a runtime that is made anew meanwhile.
        let ghost = ChaosActor { path: "runtime".into(), kind: ChaosKind::Panic };
        let _ = node.tree.ask(ghost).await;
        node.tree.row_where("runtime", |row| row.restarts == 1).await;
        node.tree.ask(Assign { index: 3, assignments: vec![kept], returning: true }).await.unwrap();
        let end = SystemClock.now() + testing::PATIENCE;
        loop {
            let duty = node.tree.ask(ReadDuty {}).await.unwrap();
            if duty.stale.is_empty() {
                break;
            }
            assert!(SystemClock.now() < end, "{duty:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(node.rows().await.len(), 1);
        node.end(4, &dir).await;
    });
}

#[test]
fn what_nobody_recorded_before_the_daemon_died_is_told_by_the_next_with_the_same_ids() {
    let dir = Dir::new();
    let kept = || -> serde_json::Value {
        let file = component_dir(dir.path(), &key("api")).join("component.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    };
    let ids = |kept: &serde_json::Value| -> Vec<String> {
        let all = kept["unrecorded"].as_array().unwrap();
        all.iter().map(|t| t["id"].as_str().unwrap().to_owned()).collect()
    };
    let (before, pid) = daemon(dir.path(), async |node| {
        node.away.store(true, Ordering::Relaxed);
        node.assign(1, &[sleeper("api")]).await;
        let first = node.running("api").await;
        kill(first.pid);
        let next = node
            .row("api", |next| {
                next.state == ComponentState::Running && next.pid != first.pid && next.pid != 0
            })
            .await;
        // On disk by the time it shows.
        (ids(&kept()), next.pid)
    });
    assert_eq!(before.len(), 5, "{before:?}");
    daemon(dir.path(), async |node| {
        node.event(|t| t.cause == "takeover").await;
        let seen = node.seen.lock().clone();
        let told: Vec<_> = seen.iter().map(|t| t.id.to_string()).take(5).collect();
        assert_eq!(told, before);
        let states: Vec<_> = seen.iter().map(|t| t.new_state.as_str()).collect();
        assert_eq!(states, ["starting", "running", "exited", "starting", "running", "running"]);
        assert_eq!(seen[2].exit, "signal 9");
        assert_eq!(node.running("api").await.pid, pid);
        testing::eventually("recorded ones are kept no longer", || {
            ids(&kept()).is_empty().then_some(())
        })
        .await;
        node.end(2, &dir).await;
        assert_eq!(node.seen.lock().last().unwrap().new_state, ComponentState::Removed);
    });
}

#[test]
fn transitions_on_disk_are_bounded_and_the_newest_stay() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.away.store(true, Ordering::Relaxed);
        let mut api = sleeper("api");
        for index in 1..=40 {
            api.desired = if index % 2 == 1 { Desired::Running } else { Desired::Stopped };
            node.assign(index, std::slice::from_ref(&api)).await;
            let wanted =
                if index % 2 == 1 { ComponentState::Running } else { ComponentState::Stopped };
            node.row("api", |row| row.state == wanted).await;
        }
    });
    let file = component_dir(dir.path(), &key("api")).join("component.json");
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let unrecorded = kept["unrecorded"].as_array().unwrap();
    assert_eq!(unrecorded.len(), 64);
    assert_eq!(unrecorded.last().unwrap()["new_state"], "Stopped");
}

#[test]
fn without_actors_everything_is_stopped_with_its_grace_and_the_files_stay() {
    let dir = Dir::new();
    let mut stubborn = shell("stubborn", "trap '' TERM; echo up; while :; do sleep 0.01; done");
    stubborn.spec.stop_grace = Duration::from_millis(300);
    let polite = shell("polite", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done");
    daemon(dir.path(), async |node| {
        node.assign(1, &[stubborn, polite]).await;
        node.running("stubborn").await;
        node.running("polite").await;
    });
    assert!(dir.processes().len() >= 4, "shims and components outlive the daemon");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop =
        || runtime.block_on(weft_runtime::stop_components(dir.path(), &Default::default(), None));
    assert_eq!(stop(), 2);
    for (component, status) in [("stubborn", "signal 9"), ("polite", "exit 0")] {
        let exit = shim_file(&dir, component).exit.unwrap();
        assert_eq!((exit.status.as_str(), exit.requested), (status, true));
    }
    let log = std::fs::read_to_string(log_file(dir.path(), &key("polite"))).unwrap();
    assert!(log.contains(" O bye\n"), "{log}");
    assert_eq!(stop(), 0, "and there is nothing left to stop");
}

#[test]
fn what_the_registry_says_again_is_not_written_again() {
    use std::os::unix::fs::MetadataExt;
    let dir = Dir::new();
    let file = dir.path().join("assignments.json");
    // It is replaced as a whole, so another one has another number or another time.
    let stored = || {
        let meta = std::fs::metadata(&file).unwrap();
        (meta.ino(), meta.mtime(), meta.mtime_nsec())
    };
    daemon(dir.path(), async |node| {
        let mut api = sleeper("api");
        node.assign(5, std::slice::from_ref(&api)).await;
        let first = stored();
        node.assign(5, std::slice::from_ref(&api)).await;
        node.assign(6, std::slice::from_ref(&api)).await;
        assert_eq!(stored(), first);
        api.desired = Desired::Stopped;
        node.assign(7, std::slice::from_ref(&api)).await;
        assert_ne!(stored(), first);
        assert!(std::fs::read_to_string(&file).unwrap().contains("\"index\":7"));
        node.end(8, &dir).await;
    });
}

#[test]
fn the_environment_is_what_the_definition_and_weft_say_and_nothing_else() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        let mut api = shell("api", "env | sort; pwd; exec sleep 1000");
        api.spec.routes = vec![route("rest")];
        api.spec.env = vec![("A".into(), "x=y z".into()), ("WEFT_NODE".into(), "forged".into())];
        let mut db = sleeper("my-db");
        db.spec.routes = vec![route("")];
        node.assign(1, &[api, db]).await;
        let row = node.running("api").await;
        let db = node.running("my-db").await;
        let (_, port) = row.ports[0].clone();
        assert!((10_000..=60_000).contains(&port));
        assert_eq!(row.urls, [format!("http://127.0.0.1:{port}")]);
        let home = replica_dir(dir.path(), "web", 1);
        let lines =
            testing_lines(node, "api", |lines| lines.last().is_some_and(|l| l.starts_with('/')))
                .await;
        assert_eq!(lines.last().unwrap(), home.to_str().unwrap());
        let wanted = [
            "A=x=y z".to_owned(),
            format!("HOME={}", home.display()),
            format!("PEER_MY_DB=127.0.0.1:{}", db.ports[0].1),
            format!("PORT={port}"),
            format!("PORT_REST={port}"),
            "WEFT_COMPONENT=api".into(),
            format!("WEFT_DATA={}", home.display()),
            "WEFT_NODE=n1".into(),
            "WEFT_REPLICA=1".into(),
            "WEFT_SERVICE=web".into(),
        ];
        for line in &wanted {
            assert!(lines.contains(line), "{line} is not in {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line.starts_with("CARGO")), "{lines:#?}");
        let mode = std::fs::metadata(&home).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & !0o750, 0);
        node.end(2, &dir).await;
    });
}

async fn testing_lines(
    node: &Node,
    component: &str,
    so: impl Fn(&[String]) -> bool,
) -> Vec<String> {
    let end = SystemClock.now() + testing::PATIENCE;
    loop {
        let lines = node.log(logs(component)).await;
        if so(&lines) {
            return lines;
        }
        assert!(SystemClock.now() < end, "{lines:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_port_is_kept_over_restarts_and_another_is_taken_when_it_is_in_use() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        let mut api = sleeper("api");
        api.spec.routes = vec![route("")];
        node.assign(1, std::slice::from_ref(&api)).await;
        let first = node.running("api").await;
        kill(first.pid);
        let second = node
            .row("api", |row| row.state == ComponentState::Running && row.pid != first.pid)
            .await;
        assert_eq!(first.ports, second.ports);
        let _taken = std::net::TcpListener::bind(("127.0.0.1", first.ports[0].1)).unwrap();
        kill(second.pid);
        let third = node
            .row("api", |row| row.state == ComponentState::Running && row.pid != second.pid)
            .await;
        assert_ne!(first.ports, third.ports);
        node.end(2, &dir).await;
    });
}

#[test]
fn a_flood_of_output_is_rotated_and_blocks_nobody() {
    let dir = Dir::new();
    daemon_with(
        dir.path(),
        |config| {
            config.log_bytes = 64 * 1024;
            config.log_files = 3;
        },
        async |node| {
            let mut flood = shell(
                "api",
                "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; printf end",
            );
            flood.spec.restart = RestartPolicy::No;
            node.assign(1, &[flood]).await;
            node.row("api", |row| row.state == ComponentState::Exited).await;
            let path = log_file(dir.path(), &key("api"));
            let kept = |suffix: &str| std::fs::metadata(format!("{}{suffix}", path.display()));
            assert!(kept(".1").is_ok() && kept(".2").is_ok() && kept(".3").is_err());
            for suffix in ["", ".1", ".2"] {
                assert!(kept(suffix).unwrap().len() < 256 * 1024);
            }
            let last = node.log(ReadLogs { tail: Some(2), ..logs("api") }).await;
            assert_eq!(last, ["line 20000", "end"], "the unfinished line is kept");
            node.end(2, &dir).await;
        },
    );
}

#[test]
fn followed_logs_come_as_they_are_written_over_rotations_and_restarts() {
    let dir = Dir::new();
    daemon_with(
        dir.path(),
        |config| {
            config.log_bytes = 1500;
            config.log_files = 5;
        },
        async |node| {
            let script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; echo e$i >&2; sleep 0.01; done; sleep 1000";
            node.assign(1, &[shell("api", script)]).await;
            let request = ReadLogs { follow: true, ..logs("api") };
            let to = Address::here(ActorKind::Runtime);
            let call = Call::within(testing::PATIENCE);
            let mut items = node.tree.fabric().subscribe(to, request, call).await.unwrap();
            let (mut out, mut err) = (0, 0);
            while out < 60 || err < 60 {
                let line = tokio::time::timeout(testing::PATIENCE, items.next())
                    .await
                    .expect("lines come")
                    .unwrap()
                    .unwrap();
                match line.stream {
                    LogStream::Stdout => {
                        out += 1;
                        assert_eq!(line.text, out.to_string());
                    }
                    LogStream::Stderr => {
                        err += 1;
                        assert_eq!(line.text, format!("e{err}"));
                    }
                    LogStream::Weft => panic!("{line:?}"),
                }
            }
            drop(items);
            node.end(2, &dir).await;
        },
    );
}

/// A server in the test that answers GETs with a status while `good`, and nothing otherwise.
fn server(good: Arc<AtomicBool>) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 512];
            let n = stream.read(&mut request).unwrap_or(0);
            let asked = request[..n].starts_with(b"GET /health HTTP/1.1\r\n");
            let status = if asked && good.load(Ordering::Relaxed) { "200 OK" } else { "503 No" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        }
    });
    port
}

#[test]
fn a_probed_component_runs_once_it_is_healthy_and_is_restarted_when_it_is_not() {
    let dir = Dir::new();
    let good = Arc::new(AtomicBool::new(false));
    let port = server(good.clone());
    daemon(dir.path(), async |node| {
        let mut api = sleeper("api");
        api.spec.health = Some(health(HealthKind::Http, port));
        node.assign(1, &[api]).await;
        let row = node.row("api", |row| row.pid != 0).await;
        assert_eq!((row.state, row.health), (ComponentState::Starting, Health::Unknown));
        good.store(true, Ordering::Relaxed);
        let row = node.running("api").await;
        assert_eq!(row.health, Health::Healthy);
        good.store(false, Ordering::Relaxed);
        let next = node.row("api", |next| next.pid != 0 && next.pid != row.pid).await;
        assert_eq!(next.restarts, 1);
        let exited = node.event(|t| t.new_state == ComponentState::Exited).await;
        assert_eq!(exited.cause, "probe");
        good.store(true, Ordering::Relaxed);
        node.running("api").await;
        node.end(2, &dir).await;
    });
}

#[test]
fn a_tcp_probe_needs_only_a_connection() {
    let dir = Dir::new();
    let port = server(Arc::new(AtomicBool::new(false)));
    daemon(dir.path(), async |node| {
        let mut api = sleeper("api");
        api.spec.health = Some(health(HealthKind::Tcp, port));
        node.assign(1, &[api]).await;
        assert_eq!(node.running("api").await.health, Health::Healthy);
        node.end(2, &dir).await;
    });
}

#[test]
fn transitions_wait_for_a_monitor_that_is_away_and_come_in_order() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.away.store(true, Ordering::Relaxed);
        node.assign(1, &[sleeper("api")]).await;
        let row = node.running("api").await;
        kill(row.pid);
        node.row("api", |next| next.state == ComponentState::Running && next.pid != row.pid).await;
        assert!(node.seen.lock().is_empty());
        node.away.store(false, Ordering::Relaxed);
        node.event(|t| t.cause == "reconcile" && t.new_state == ComponentState::Running).await;
        let states: Vec<_> = node.seen.lock().iter().map(|t| t.new_state.as_str()).collect();
        assert_eq!(states, ["starting", "running", "exited", "starting", "running"]);
        node.end(2, &dir).await;
    });
}

#[test]
fn watchers_see_every_row_and_then_each_change() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        let row = node.running("api").await;
        let watch = WatchComponents { service: "web".into() };
        let to = Address::here(ActorKind::Runtime);
        let call = Call::within(testing::PATIENCE);
        let mut items = node.tree.fabric().subscribe(to, watch, call).await.unwrap();
        let first = items.next().await.unwrap().unwrap();
        assert_eq!(first.pid, row.pid);
        node.assign(2, &[]).await;
        loop {
            let next = tokio::time::timeout(testing::PATIENCE, items.next()).await.unwrap();
            if next.unwrap().unwrap().state == ComponentState::Removed {
                break;
            }
        }
        node.end(3, &dir).await;
    });
}

#[test]
fn a_data_directory_with_a_long_path_works() {
    let dir = Dir::new();
    let deep: PathBuf = dir.path().join("x".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let first = daemon(&deep, async |node| {
        node.assign(1, &[sleeper("api")]).await;
        node.running("api").await.pid
    });
    daemon(&deep, async |node| {
        assert_eq!(node.running("api").await.pid, first, "connected through its socket");
        node.assign(2, &[]).await;
        node.gone(&dir).await;
    });
}

fn operator(n: u128) -> Caller {
    let identity = Identity::Operator(OperatorId::new(Uuid::from_u128(n)));
    Caller { identity, role: Role::Admin, via: None }
}

/// A command beside `api`; its items.
async fn exec(node: &Node, n: u128, script: &str) -> weft_link::Items<ExecItem> {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let command = ExecCommand { argv, stdin: true, ..ExecCommand::default() };
    let exec = Exec { id: Uuid::from_u128(n), key: key("api"), command };
    let call = Call { caller: Some(operator(1)), ..Call::within(testing::PATIENCE) };
    let to = Address::here(ActorKind::Runtime);
    let mut items = node.tree.fabric().subscribe(to, exec, call).await.unwrap();
    let first = items.next().await.unwrap().unwrap();
    assert!(matches!(first, ExecItem::Started { .. }), "{first:?}");
    items
}

async fn feed(
    node: &Node,
    who: u128,
    (n, sequence): (u128, u64),
    bytes: &[u8],
    end: bool,
) -> Result<ExecTaken, AskError> {
    let bytes = Octets(bytes.to_vec());
    let input = ExecInput { id: Uuid::from_u128(n), sequence, bytes, end };
    let call = Call { caller: Some(operator(who)), ..Call::within(testing::PATIENCE) };
    node.tree.fabric().ask(Address::here(ActorKind::Runtime), input, call).await
}

/// What it wrote to standard output, and its end.
async fn said(items: &mut weft_link::Items<ExecItem>) -> (Vec<u8>, Result<u8, AskError>) {
    let mut out = Vec::new();
    loop {
        let item = tokio::time::timeout(testing::PATIENCE, items.next()).await.expect("an end");
        match item.expect("an end") {
            Ok(ExecItem::Output { bytes, .. }) => out.extend(bytes.0),
            Ok(ExecItem::Ended { code, .. }) => return (out, Ok(code)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => return (out, Err(error)),
        }
    }
}

#[test]
fn input_of_a_command_is_taken_once_in_order_and_from_nobody_else() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        node.running("api").await;
        let mut items = exec(node, 7, "cat; exit 3").await;
        assert_eq!(feed(node, 1, (7, 0), b"a", false).await, Ok(ExecTaken::Yes));
        // Another admin does not even learn that it is there.
        for (who, n) in [(2, 7), (1, 8)] {
            let refused = feed(node, who, (n, 1), b"evil", false).await;
            let Err(AskError::Failed(failure)) = refused else { panic!("{refused:?}") };
            assert_eq!(failure.kind, FailureKind::NotFound);
        }
        assert_eq!(feed(node, 1, (7, 0), b"a", false).await, Ok(ExecTaken::Yes), "again");
        let gap = feed(node, 1, (7, 2), b"c", true).await;
        assert!(matches!(gap, Err(AskError::Failed(f)) if f.kind == FailureKind::Conflict));
        assert_eq!(feed(node, 1, (7, 1), b"b", false).await, Ok(ExecTaken::Yes));
        assert_eq!(feed(node, 1, (7, 2), b"c", true).await, Ok(ExecTaken::Yes));
        assert_eq!(said(&mut items).await, (b"abc".to_vec(), Ok(3)));
        node.end(2, &dir).await;
    });
}

#[test]
fn a_command_ends_with_its_listener_its_component_and_its_runtime() {
    let dir = Dir::new();
    daemon(dir.path(), async |node| {
        node.assign(1, &[sleeper("api")]).await;
        let first = node.running("api").await;
        let left = |what: &'static str| {
            let dir = &dir;
            testing::eventually(what, move || {
                // The component and its shim.
                (dir.processes().len() == 2).then_some(())
            })
        };
        let script = "trap '' HUP; sleep 1000 & echo on; wait";
        let on = async |items: &mut weft_link::Items<ExecItem>| {
            let item = items.next().await.unwrap().unwrap();
            assert!(matches!(item, ExecItem::Output { .. }), "{item:?}");
        };
        let mut items = exec(node, 1, script).await;
        on(&mut items).await;
        drop(items);
        left("nobody listens").await;

        let mut items = exec(node, 2, script).await;
        on(&mut items).await;
        let chaos = ChaosActor { path: "runtime".into(), kind: ChaosKind::Panic };
        let _ = node.tree.ask(chaos).await;
        left("the runtime panicked").await;
        assert_eq!(node.running("api").await.pid, first.pid);

        let mut items = exec(node, 3, script).await;
        on(&mut items).await;
        node.assign(2, &[]).await;
        let (_, end) = said(&mut items).await;
        assert!(matches!(end, Err(AskError::Failed(f)) if f.message.contains("was removed")));
        node.gone(&dir).await;
    });
}
