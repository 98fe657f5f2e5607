//! Fenced components with real shims and processes: the leader is played by the test, and the shim
//! ends what has no lease any more, with or without a daemon.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use weft_link::{Directory, Reply};
use weft_protocol::files::{ShimFile, component_dir};
use weft_protocol::{
    Assign, Assignment, ComponentKey, ComponentSpec, ComponentState, ComponentStatus, Desired,
    Driver, LeaseAnswer, ListComponents, Observed, RenewLeases, Resources, RestartPolicy,
    Transition,
};
use weft_runtime::shim::{SHIM_PROTOCOL, ShimSpec};
use weft_runtime::{RuntimeConfig, factory};
use weft_supervision::testing::{self, TestTree};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
use weft_wire::{ActorKind, Clock, Failure, FailureKind, SystemClock};

const SHIM: &str = env!("CARGO_BIN_EXE_weft-shim");
const ENDED: &str = "lease ended: no contact with the leader";
const LEASE: Duration = Duration::from_secs(3);
/// On a busy machine.
const SLACK: Duration = Duration::from_millis(700);

#[derive(Debug, Default)]
struct Seen {
    grants: AtomicBool,
    asked: Mutex<Vec<(Instant, RenewLeases)>>,
    told: Mutex<Vec<Transition>>,
}

/// The leader and the monitor.
struct Others(Arc<Seen>);

impl Actor for Others {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<RenewLeases>().ask::<Observed>();
    }
}

impl Handle<RenewLeases> for Others {
    fn handle(&mut self, message: RenewLeases, reply: Reply<RenewLeases>, scope: &Scope<Self>) {
        self.0.asked.lock().push((scope.now(), message.clone()));
        if !self.0.grants.load(Ordering::Relaxed) {
            return reply.fail(Failure::new(FailureKind::Unavailable, "no majority"));
        }
        let claims = message.claims.into_iter();
        reply.ok(claims.map(|c| LeaseAnswer { replica: c.replica, refused: None }).collect());
    }
}

impl Handle<Observed> for Others {
    fn handle(&mut self, message: Observed, reply: Reply<Observed>, _: &Scope<Self>) {
        self.0.told.lock().extend(message.transitions);
        reply.ok(());
    }
}

/// A daemon's life over a data directory, and what it asked for.
fn daemon<T>(dir: &Path, grants: bool, test: impl AsyncFnOnce(&TestTree, &Seen) -> T) -> T {
    let config = RuntimeConfig::new(dir, "n1", SHIM);
    testing::run(async |tree| {
        let seen = Arc::new(Seen { grants: AtomicBool::new(grants), ..Seen::default() });
        for kind in [ActorKind::Monitor, ActorKind::Registry] {
            let seen = seen.clone();
            tree.add(kind, move |_: Incarnation| {
                let others = Others(seen.clone());
                async move { Ok::<_, ActorError>(others) }
            })
            .await;
        }
        let fabric = tree.fabric();
        fabric.set_directory(Directory { leader: Some(fabric.node()), ..Directory::default() });
        tree.add(ActorKind::Runtime, factory(config)).await;
        test(&tree, &seen).await
    })
}

fn key() -> ComponentKey {
    ComponentKey { service: "db".into(), replica: 1, component: "db".into() }
}

/// A program that a child in a session of its own outlives, unless both are killed.
fn fenced() -> Assignment {
    Assignment {
        key: key(),
        spec: ComponentSpec {
            name: "db".into(),
            driver: Driver::Process,
            image: String::new(),
            version: String::new(),
            network: String::new(),
            user: String::new(),
            restart: RestartPolicy::UnlessStopped,
            stop_grace: Duration::from_secs(60),
            workdir: String::new(),
            ports: vec![],
            volumes: vec![],
            cmd: ["/bin/sh", "-c", "trap '' TERM; setsid sleep 1001 & sleep 1000; sleep 1002"]
                .map(str::to_owned)
                .to_vec(),
            env: vec![],
            health: None,
            resources: Resources::default(),
            routes: vec![],
        },
        service_version: String::new(),
        revision: 1,
        spec_hash: "a".into(),
        epoch: 0,
        made: 0,
        generation: 4,
        desired: Desired::Running,
        fenced: true,
        leaving: String::new(),
        files: Vec::new(),
        after: Vec::new(),
    }
}

async fn assign(tree: &TestTree, index: u64, assignments: &[Assignment]) {
    tree.ask(Assign { index, assignments: assignments.to_vec(), returning: false })
        .await
        .expect("taken");
}

async fn row(tree: &TestTree, so: impl Fn(&ComponentStatus) -> bool) -> ComponentStatus {
    let end = SystemClock.now() + testing::PATIENCE;
    loop {
        let rows = tree.ask(ListComponents {}).await.unwrap_or_default();
        if let Some(row) = rows.iter().find(|row| so(row)) {
            return row.clone();
        }
        assert!(SystemClock.now() < end, "{rows:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn running(tree: &TestTree) -> ComponentStatus {
    row(tree, |row| row.state == ComponentState::Running && row.pid != 0).await
}

fn file(dir: &Path) -> ShimFile {
    let path = component_dir(dir, &key()).join("shim.json");
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// Whatever runs from the directory, shims and components.
fn processes(dir: &Path) -> Vec<u32> {
    let needle = dir.to_str().expect("UTF-8").as_bytes().to_vec();
    let holds = |path: String| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|p| p == needle))
    };
    let over = |pid: u32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|text| text.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X'])))
            .unwrap_or(true)
    };
    std::fs::read_dir("/proc")
        .expect("procfs")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            holds(format!("/proc/{pid}/cmdline")) || holds(format!("/proc/{pid}/environ"))
        })
        .filter(|pid| !over(*pid))
        .collect()
}

/// Waits until nothing runs from the directory; how long that took.
fn all_gone(dir: &Path) -> Duration {
    let start = SystemClock.now();
    while !processes(dir).is_empty() {
        assert!(start.elapsed() < testing::PATIENCE, "{:?}", processes(dir));
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for pid in processes(self.path()) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

#[test]
fn nothing_fenced_starts_without_a_lease_and_it_stays_as_long_as_it_is_renewed() {
    let dir = Dir::new();
    daemon(dir.path(), false, async |tree, seen| {
        assign(tree, 1, &[fenced()]).await;
        let waits = row(tree, |row| row.reason.contains("no contact with the leader")).await;
        assert_eq!((waits.state, waits.pid), (ComponentState::Pending, 0));
        assert!(processes(dir.path()).is_empty());
        seen.grants.store(true, Ordering::Relaxed);
        let runs = running(tree).await;
        assert!(file(dir.path()).lease.is_some());
        // Longer than one lease.
        let end = SystemClock.now() + LEASE + Duration::from_secs(1);
        while SystemClock.now() < end {
            assert_eq!(running(tree).await.pid, runs.pid);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let asked = seen.asked.lock().clone();
        assert!(asked.iter().all(|(_, request)| request.claims[0].generation == 4));
        assert!(asked.last().expect("asked").1.claims[0].had);
        // Given up: its grace of a minute is under the lease, which is given back at its end.
        let mut killed = fenced();
        killed.spec.stop_grace = Duration::from_millis(100);
        assign(tree, 2, std::slice::from_ref(&killed)).await;
        running(tree).await;
        assign(tree, 3, &[]).await;
        let start = SystemClock.now();
        testing::eventually("it is given back", || {
            seen.asked.lock().iter().any(|(_, r)| !r.stopped.is_empty()).then_some(())
        })
        .await;
        assert!(start.elapsed() < LEASE, "{:?}", start.elapsed());
        assert!(processes(dir.path()).is_empty());
    });
}

#[test]
fn a_lease_that_is_not_renewed_ends_it_without_grace_and_the_next_one_starts_it_again() {
    let dir = Dir::new();
    daemon(dir.path(), true, async |tree, seen| {
        assign(tree, 1, &[fenced()]).await;
        let first = running(tree).await;
        seen.grants.store(false, Ordering::Relaxed);
        let start = SystemClock.now();
        let ended = row(tree, |row| row.state == ComponentState::Exited).await;
        let took = start.elapsed();
        println!("not renewed to ended: {took:?}");
        assert!(took <= LEASE + SLACK, "{took:?}");
        assert_eq!(ended.last_exit, ENDED);
        assert!(ended.reason.starts_with("waits for a lease"), "{}", ended.reason);
        assert!(processes(dir.path()).is_empty(), "also what had left its group");
        seen.grants.store(true, Ordering::Relaxed);
        let start = SystemClock.now();
        let second = row(tree, |row| {
            row.state == ComponentState::Running && row.pid != 0 && row.pid != first.pid
        })
        .await;
        assert!(start.elapsed() < Duration::from_secs(1), "no delay: {:?}", start.elapsed());
        assert_eq!(second.restarts, 1);
        let told = testing::eventually("it is told", || {
            let told = seen.told.lock();
            told.iter().find(|t| t.new_state == ComponentState::Exited).cloned()
        })
        .await;
        assert_eq!((told.cause.as_str(), told.exit.as_str()), ("lease", ENDED));
        let log = weft_protocol::files::log_file(dir.path(), &key());
        assert!(std::fs::read_to_string(log).is_ok_and(|log| log.contains(ENDED)));
    });
}

#[test]
fn the_shim_ends_it_when_the_daemon_is_gone_and_the_next_daemon_says_why() {
    let dir = Dir::new();
    let before = daemon(dir.path(), true, async |tree, _| {
        assign(tree, 1, &[fenced()]).await;
        running(tree).await
    });
    // No daemon any more.
    let took = all_gone(dir.path());
    println!("daemon gone to ended: {took:?}");
    assert!(took <= LEASE + SLACK, "{took:?}");
    let exit = file(dir.path()).exit.expect("it wrote how it ended");
    assert!(exit.lease_ended && exit.status == ENDED && exit.signal == Some(9), "{exit:?}");
    daemon(dir.path(), true, async |tree, seen| {
        let again = running(tree).await;
        assert_ne!(again.pid, before.pid);
        assert_eq!(again.last_exit, ENDED);
        assert!(seen.told.lock().iter().any(|t| t.cause == "lease" && t.exit == ENDED));
        // It had one for this placement: a new leader need not wait.
        assert!(seen.asked.lock().iter().any(|(_, request)| request.claims[0].had));
        assign(tree, 2, &[]).await;
    });
}

#[test]
fn the_next_daemon_takes_a_lease_over_and_renews_it() {
    let dir = Dir::new();
    let before = daemon(dir.path(), true, async |tree, _| {
        assign(tree, 1, &[fenced()]).await;
        running(tree).await
    });
    daemon(dir.path(), true, async |tree, _| {
        let end = SystemClock.now() + LEASE + Duration::from_secs(1);
        while SystemClock.now() < end {
            assert_eq!(running(tree).await.pid, before.pid);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Without a lease from now on: nothing ends it any more.
        let free = Assignment { fenced: false, ..fenced() };
        assign(tree, 2, std::slice::from_ref(&free)).await;
    });
    std::thread::sleep(LEASE + SLACK);
    assert!(std::path::Path::new(&format!("/proc/{}", before.pid)).exists());
}

/// A shim without any daemon.
fn shim(dir: &Path, lease: Option<u64>) -> (std::process::Child, PathBuf) {
    let component = component_dir(dir, &key());
    std::fs::create_dir_all(&component).expect("makes");
    let spec = ShimSpec {
        version: SHIM_PROTOCOL,
        key: key(),
        spec_hash: "a".into(),
        epoch: 0,
        revision: 1,
        generation: 1,
        component_dir: component.clone(),
        log: dir.join("log"),
        log_bytes: 1 << 20,
        log_files: 2,
        program: "/bin/sh".into(),
        argv: ["sh", "-c", "sleep 1000; sleep 1000"].map(str::to_owned).to_vec(),
        env: vec![("HERE".into(), dir.display().to_string())],
        workdir: dir.to_owned(),
        ports: vec![],
        stop_grace_ms: 60_000,
        lease,
        container: String::new(),
        hold: weft_runtime::limits::Hold::default(),
    };
    let path = component.join("spec.json");
    std::fs::write(&path, serde_json::to_vec(&spec).expect("JSON")).expect("writes");
    let mut command = Command::new(SHIM);
    command.arg("shim").arg("--spec").arg(&path).stdin(Stdio::null());
    (command.spawn().expect("starts"), component)
}

#[test]
fn a_shim_whose_lease_is_over_starts_nothing_and_a_spec_without_one_still_reads() {
    let dir = Dir::new();
    let (mut child, component) = shim(dir.path(), Some(1));
    assert!(child.wait().expect("ends").success());
    let exit = file(dir.path()).exit.expect("it says so");
    assert!(exit.lease_ended && !exit.failed_to_start && exit.status == ENDED, "{exit:?}");

    // As an older daemon wrote it, and as it wrote its state.
    let path = component.join("spec.json");
    let text = std::fs::read_to_string(&path).expect("reads").replace(",\"lease\":1", "");
    assert!(!text.contains("lease"), "{text}");
    std::fs::write(&path, text).expect("writes");
    let mut child = Command::new(SHIM)
        .args(["shim", "--spec"])
        .arg(&path)
        .stdin(Stdio::null())
        .spawn()
        .expect("starts");
    let start = SystemClock.now();
    while file(dir.path()).child.is_none() {
        assert!(start.elapsed() < testing::PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = std::fs::read_to_string(component.join("shim.json")).expect("reads");
    let old: ShimFile =
        serde_json::from_str(&text.replace(",\"lease\":null", "")).expect("an older one reads");
    assert_eq!(old, file(dir.path()));
    drop(dir);
    let _ = child.wait();
}
