//! The table of orchestration §11 through command and daemon: the cases that need a data directory
//! which somebody has bent (files.rs has the others).

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weft_link::{Call, Client};
use weft_protocol::{FILE_MAX, Octets, PullFile, PushFile};
use weft_tests::{Cluster, Done, eventually, is_alive, kill_9, run};
use weft_wire::{ActorKind, Address, AskError, FailureKind, Message};

/// One answer may take this long.
const WITHIN: Duration = Duration::from_secs(10);

/// A service that does nothing.
fn definition(name: &str, top: &str) -> String {
    format!(
        "name = \"{name}\"\n{top}\n[[components]]\nname = \"{name}\"\n\
         cmd = [\"/bin/sleep\", \"100000\"]\nstop_grace = \"1s\"\n"
    )
}

/// Names in a directory, in order.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("lists").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Says that a part of a test is left out, by the test's name.
///
/// # Panics
/// With `CI=true`, where that is a failure.
fn left_out(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} cannot run: {why}");
    eprintln!("SKIPPED {test}: {why}");
}

/// One node with `web`, whose data directory the test edits, and `other`, which is nobody's
/// business.
struct Node {
    cluster: Cluster,
}

impl Node {
    fn new() -> Self {
        let node = Self { cluster: Cluster::with(&["--no-hello", "--nodes", "1"]) };
        for name in ["web", "other"] {
            node.deploy(name, "");
        }
        std::fs::write(node.other().join("secret"), "theirs").expect("writes");
        node
    }

    fn deploy(&self, name: &str, top: &str) {
        let file = self.cluster.definition(name, &definition(name, top));
        self.cluster.weft(&["deploy", "-f", &file]).ok();
    }

    fn services(&self) -> PathBuf {
        self.cluster.data_dir("n1").join("services")
    }

    fn home(&self) -> PathBuf {
        self.services().join("web/1")
    }

    fn other(&self) -> PathBuf {
        self.services().join("other/1")
    }

    fn push_to(&self, service: &str, path: &str, content: &str) -> Done {
        let local = self.cluster.scratch().join("local");
        std::fs::write(&local, content).expect("writes");
        self.cluster.weft(&["push", &local.to_string_lossy(), service, path])
    }

    fn push(&self, path: &str, content: &str) -> Done {
        self.push_to("web", path, content)
    }

    fn pull(&self, path: &str) -> Done {
        self.cluster.weft(&["pull", "web", path, "-"])
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.home().join(path)).expect("reads")
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) {
        symlink(target, self.home().join(name)).expect("links");
    }

    /// It was refused with that code and for that reason, and nothing of where it would have led
    /// was said.
    #[track_caller]
    fn refused(&self, case: u8, done: &Done, code: i32, says: &str) {
        assert_eq!(done.code, code, "case {case}: {done:?}");
        assert!(done.stderr.contains(says), "case {case}, `{says}`: {done:?}");
        let said = format!("{}{}", done.stdout, done.stderr);
        let data = self.cluster.data_dir("n1").to_string_lossy().into_owned();
        assert!(!said.contains("theirs") && !said.contains(&data), "case {case}: {done:?}");
    }

    /// Nothing was written beside the service, and nothing half-written is left.
    #[track_caller]
    fn is_clean(&self) {
        assert_eq!(names(&self.other()), ["secret"]);
        let secret = std::fs::read_to_string(self.other().join("secret")).expect("reads");
        assert_eq!(secret, "theirs");
        let left = names(&self.home()).into_iter().find(|name| name.starts_with(".weft"));
        assert_eq!(left, None);
    }

    /// Starts the daemon again, with one more line in `[node]` of its file.
    fn restart_with(&mut self, line: &str) {
        let file = self.cluster.data_dir("n1").join("node.toml");
        let text = std::fs::read_to_string(&file).expect("the node file");
        let changed = text.replacen("[node]\n", &format!("[node]\n{line}\n"), 1);
        assert_ne!(changed, text, "there is a table [node]");
        std::fs::write(&file, changed).expect("writes");
        self.cluster.kill_daemon("n1");
        self.cluster.start_daemon("n1");
        self.cluster.node_is("n1", "n1", "ready");
    }
}

/// The daemon's local socket, without what the command checks before it asks.
struct Door {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Door {
    fn open(cluster: &Cluster) -> Self {
        let ports = std::fs::read_to_string(cluster.data_dir("n1").join("ports.json"));
        let ports: Value = serde_json::from_str(&ports.expect("ports.json")).expect("JSON");
        let socket = ports["socket"].as_str().expect("a socket").to_owned();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let client = runtime.block_on(Client::connect_local(socket, WITHIN)).expect("connects");
        Self { client, runtime }
    }

    fn ask<M: Message>(&self, message: M) -> Result<M::Reply, AskError> {
        let to = Address::here(ActorKind::Gateway);
        self.runtime.block_on(self.client.ask(to, message, Call::within(WITHIN)))
    }
}

fn push_of(service: &str, path: &str, content: &str) -> PushFile {
    PushFile {
        service: service.to_owned(),
        replica: 0,
        path: path.to_owned(),
        mode: None,
        size: content.len() as u64,
        content: Octets(content.as_bytes().to_vec()),
        check: false,
    }
}

fn pull_of(service: &str, path: &str) -> PullFile {
    PullFile { service: service.to_owned(), replica: 0, path: path.to_owned() }
}

/// How it was refused; `None`: it was done, or not answered.
fn kind<T>(answer: Result<T, AskError>) -> Option<FailureKind> {
    match answer {
        Err(AskError::Failed(failure)) => Some(failure.kind),
        _ => None,
    }
}

#[test]
fn cases_01_to_08_and_23_what_the_command_would_not_send_the_daemon_refuses_as_well() {
    let node = Node::new();
    let door = Door::open(&node.cluster);
    let (name, path) = ("n".repeat(256), "d/".repeat(2048) + "n");
    for (case, service, path) in [
        (1, "", "a"),
        (1, ".", "a"),
        (1, "..", "a"),
        (1, "web/1", "a"),
        (1, "../other", "secret"),
        (1, "a\\b", "a"),
        (1, "web\0", "a"),
        (1, "Web", "a"),
        (3, "web", ""),
        (3, "web", "."),
        (3, "web", "d/"),
        (4, "web", "/etc/passwd"),
        (5, "web", "../../other/1/secret"),
        (5, "web", "a/../b"),
        (7, "web", "a\0b"),
        (7, "web", "a\nb"),
        (8, "web", name.as_str()),
        (8, "web", path.as_str()),
    ] {
        let pushed = kind(door.ask(push_of(service, path, "y")));
        assert_eq!(pushed, Some(FailureKind::Invalid), "case {case}: {service:?} {path:?}");
        let pulled = kind(door.ask(pull_of(service, path)));
        assert_eq!(pulled, Some(FailureKind::Invalid), "case {case}: {service:?} {path:?}");
    }
    // Refused by what it says of itself, before anything of it is there.
    for check in [false, true] {
        let size = FILE_MAX + 1;
        let large = PushFile { size, check, ..push_of("web", "large", "") };
        assert_eq!(kind(door.ask(large)), Some(FailureKind::Invalid), "case 23");
    }
    assert_eq!(names(&node.home()), Vec::<String>::new());
    node.is_clean();
}

#[test]
fn cases_06_to_09_paths_are_cleaned_or_refused_and_never_decoded() {
    let node = Node::new();
    // 6
    node.push(".//a/./b//c", "x").ok();
    assert_eq!(node.pull("a/b/c").ok().stdout, "x");
    assert_eq!(node.pull("./a//b/./c").ok().stdout, "x");
    assert_eq!(node.read("a/b/c"), "x");
    for dir in ["a", "a/b"] {
        let mode = node.home().join(dir).metadata().expect("is there").permissions().mode();
        assert_eq!(mode & 0o777 & !0o750, 0, "{dir}: {mode:o}");
    }
    let before = names(&node.home());

    let long = "n".repeat(256);
    let deep = "d/".repeat(2048) + "n";
    let wide = "\u{fc}".repeat(128);
    for (case, path, says) in [
        (7, "a\nb", "control characters"),
        (7, "\t", "control characters"),
        (7, "a/\u{1b}[2J", "control characters"),
        (7, "a\u{7f}", "control characters"),
        (8, long.as_str(), "has 256 bytes"),
        (8, wide.as_str(), "has 256 bytes"),
        (8, deep.as_str(), "has 4097 bytes"),
    ] {
        node.refused(case, &node.push(path, "y"), 2, says);
        node.refused(case, &node.pull(path), 2, says);
    }
    assert_eq!(names(&node.home()), before, "nothing was made");
    // The longest there may be.
    let longest = "n".repeat(255);
    node.push(&longest, "x").ok();
    assert_eq!(node.pull(&longest).ok().stdout, "x");

    // 9
    for path in ["%2e%2e", "..%2f", "..\\..\\x", "\u{ff0e}\u{ff0e}", "a%00", "..."] {
        node.push(path, path).ok();
        assert_eq!(node.pull(path).ok().stdout, path);
        assert!(node.home().join(path).is_file(), "case 9: {path}");
    }
    node.is_clean();
}

#[test]
fn cases_11_12_13_15_16_and_20_links_lead_anywhere_within_the_directory_and_nowhere_else() {
    let node = Node::new();
    node.push("a/b/x", "x").ok();
    // 11: on the way.
    node.link("a/b", "short");
    node.link("../b", "a/b/back");
    node.link("../..", "a/b/top");
    for path in ["short/x", "a/b/back/x", "short/top/short/x"] {
        assert_eq!(node.pull(path).ok().stdout, "x", "case 11: {path}");
    }
    node.push("short/top/new/y", "y").ok();
    assert_eq!(node.read("new/y"), "y");
    node.push("short/z", "z").ok();
    assert_eq!(node.read("a/b/z"), "z");
    // 13: at the end.
    node.link("a/b/x", "inside");
    node.link("../../inside", "a/b/again");
    for path in ["inside", "a/b/again"] {
        assert_eq!(node.pull(path).ok().stdout, "x", "case 13: {path}");
    }

    node.link("../../other/1/secret", "outside");
    node.link("outside", "twice");
    node.link(node.home().join("a/b/x"), "absolute");
    node.link(node.home().join("a/b"), "whole");
    node.link("loop-b", "loop-a");
    node.link("loop-a", "loop-b");
    node.link("self/self", "self");
    node.link("/proc/self/root", "magic");
    node.link("../../other/1", "dir");
    node.link("dir", "dir-twice");
    node.link("../../../../other", "a/b/deep");
    node.link(node.other(), "foreign");
    let out = "leads out";
    for (case, path, pulled, pushed) in [
        (12, "outside", (4, out), (4, "symbolic link")),
        (12, "twice", (4, out), (4, "symbolic link")),
        (15, "absolute", (4, out), (4, "symbolic link")),
        (15, "whole/x", (4, out), (4, out)),
        (16, "loop-a", (4, "circle"), (4, "symbolic link")),
        (16, "loop-a/x", (4, "circle"), (4, "circle")),
        (16, "self/x", (4, "circle"), (4, "circle")),
        (16, "magic/etc/hostname", (4, out), (4, out)),
        (20, "dir/secret", (4, out), (4, out)),
        (20, "dir/new", (4, out), (4, out)),
        (20, "dir-twice/secret", (4, out), (4, out)),
        (20, "a/b/deep/1/secret", (4, out), (4, out)),
        (20, "foreign/secret", (4, out), (4, out)),
        (20, "../../other/1/secret", (2, "`..`"), (2, "`..`")),
        (20, "dir/../../other/1/secret", (2, "`..`"), (2, "`..`")),
        (20, "/services/other/1/secret", (2, "absolute"), (2, "absolute")),
    ] {
        node.refused(case, &node.pull(path), pulled.0, pulled.1);
        node.refused(case, &node.push(path, "y"), pushed.0, pushed.1);
    }
    for link in ["outside", "twice", "absolute", "loop-a", "inside"] {
        assert!(node.home().join(link).is_symlink(), "{link} is what it was");
    }
    assert_eq!(node.read("a/b/x"), "x");
    node.is_clean();
}

#[test]
fn case_17_a_data_directory_that_is_a_link_is_refused_unless_the_node_follows_it() {
    let mut node = Node::new();
    node.push("x", "before").ok();
    let (web, kept) = (node.services().join("web"), node.cluster.scratch().join("kept"));
    std::fs::rename(&web, &kept).expect("moves");
    let says = "data directory is a symbolic link";
    let refused = |node: &Node, case: u8, path: &str| {
        for done in [node.push(path, "y"), node.pull(path)] {
            node.refused(case, &done, 4, says);
            assert!(done.stderr.contains("follow_linked_data"), "what allows it: {done:?}");
        }
    };
    // That of the service, to its own data and to that of another one.
    symlink(&kept, &web).expect("links");
    refused(&node, 17, "x");
    std::fs::remove_file(&web).expect("removes");
    symlink("other", &web).expect("links");
    refused(&node, 20, "secret");
    // That of the replica.
    std::fs::remove_file(&web).expect("removes");
    std::fs::create_dir(&web).expect("makes");
    symlink(kept.join("1"), web.join("1")).expect("links");
    refused(&node, 17, "x");
    assert_eq!(std::fs::read_to_string(kept.join("1/x")).expect("reads"), "before");

    node.restart_with("follow_linked_data = true");
    assert_eq!(node.pull("x").ok().stdout, "before");
    node.push("x", "after").ok();
    assert_eq!(std::fs::read_to_string(kept.join("1/x")).expect("reads"), "after");
    std::fs::remove_file(web.join("1")).expect("removes");
    std::fs::remove_dir(&web).expect("removes");
    symlink(&kept, &web).expect("links");
    node.push("new/y", "y").ok();
    assert_eq!(std::fs::read_to_string(kept.join("1/new/y")).expect("reads"), "y");
    assert_eq!(node.pull("x").ok().stdout, "after");
    // Only these two: links in it lead out as before.
    node.link("../../services/other/1", "dir");
    node.refused(20, &node.pull("dir/secret"), 4, "leads out");
    node.is_clean();
}

#[test]
fn cases_18_19_and_26_what_is_no_file_of_the_service_is_neither_read_nor_replaced() {
    let node = Node::new();
    let home = node.home();
    // 18
    std::fs::create_dir(home.join("dir")).expect("makes");
    run(Command::new("mkfifo").arg(home.join("fifo"))).ok();
    let _socket = UnixListener::bind(home.join("socket")).expect("binds");
    let mut kinds = vec![("dir", "directory"), ("fifo", "fifo"), ("socket", "socket")];
    let made = run(Command::new("mknod").arg(home.join("null")).args(["c", "1", "3"]));
    if made.code == 0 {
        kinds.push(("null", "device"));
    } else {
        left_out("devices cannot be made here");
    }
    for (name, kind) in kinds {
        let says = format!("it is a {kind}, not a file");
        node.refused(18, &node.pull(name), 2, &says);
        node.refused(18, &node.push(name, "y"), 2, &says);
        let now = std::fs::symlink_metadata(home.join(name)).expect("is there");
        assert!(!now.is_file(), "{name} is what it was");
    }

    // 19
    node.push("a.toml", "x").ok();
    node.link("a.toml", "linked.toml");
    for path in ["a.toml/b", "a.toml/b/c", "linked.toml/b"] {
        node.refused(19, &node.pull(path), 2, "should be a directory");
        node.refused(19, &node.push(path, "y"), 2, "should be a directory");
    }
    assert_eq!(node.read("a.toml"), "x");

    // 26
    let stranger = node.cluster.scratch().join("stranger");
    std::fs::write(&stranger, "a stranger's").expect("writes");
    std::fs::hard_link(&stranger, home.join("hard")).expect("links");
    // Of the user that the data directory is of: no stranger.
    assert_eq!(node.pull("hard").ok().stdout, "a stranger's");
    if chown(&stranger, Some(12_345), None).is_err() {
        return left_out("files cannot be given away here");
    }
    node.refused(26, &node.pull("hard"), 4, "further hard links");
    // A push puts another file in its place, and leaves the stranger's as it is.
    node.push("hard", "mine").ok();
    assert_eq!(std::fs::read_to_string(&stranger).expect("reads"), "a stranger's");
    assert_eq!(node.pull("hard").ok().stdout, "mine");
    // One without further links is the service's, whoever wrote it.
    std::fs::hard_link(&stranger, home.join("alone")).expect("links");
    std::fs::remove_file(&stranger).expect("removes");
    assert_eq!(node.pull("alone").ok().stdout, "a stranger's");
    node.is_clean();
}

#[test]
fn case_21_a_directory_that_is_swapped_for_a_link_again_and_again_leads_nowhere_else() {
    let node = Node::new();
    node.push("d/secret", "mine").ok();
    node.link("../../other/1", "l");
    let door = Door::open(&node.cluster);
    let (dir, link) = (node.home().join("d"), node.home().join("l"));
    let over = AtomicBool::new(false);
    // What else may come of it is told apart below: an assertion here would leave the swapper be.
    let refusal = |kind| matches!(kind, FailureKind::Forbidden | FailureKind::Busy);
    let (swaps, done, refused, wrong) = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0u32;
            while !over.load(Ordering::Relaxed) {
                let swapped = renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE);
                swapped.expect("swaps");
                swaps += 1;
                // Long enough for a push to get through now and then.
                std::thread::park_timeout(Duration::from_micros(200));
            }
            swaps
        });
        let (mut done, mut refused, mut wrong) = (0, 0, Vec::new());
        for n in 0..200 {
            let path = format!("d/new{}", n % 7);
            match door.ask(push_of("web", &path, "x")) {
                Ok(pushed) => match pushed.replicas.first().map(|replica| &replica.error) {
                    Some(None) => done += 1,
                    Some(Some(error)) if refusal(error.kind) => refused += 1,
                    other => wrong.push(format!("push: {other:?}")),
                },
                Err(error) => wrong.push(format!("push: {error}")),
            }
            match door.ask(pull_of("web", "d/secret")) {
                Ok(pulled) if pulled.file.content.0 == b"mine" => done += 1,
                Ok(pulled) => {
                    let text = String::from_utf8_lossy(&pulled.file.content.0).into_owned();
                    wrong.push(format!("pulled: {text}"));
                }
                Err(AskError::Failed(failure)) if refusal(failure.kind) => refused += 1,
                Err(error) => wrong.push(format!("pull: {error}")),
            }
        }
        over.store(true, Ordering::Relaxed);
        (swapper.join().expect("it swaps"), done, refused, wrong)
    });
    eprintln!("measured: {swaps} swaps, {done} done, {refused} refused");
    assert_eq!(wrong, Vec::<String>::new());
    assert!(done > 0 && refused > 0, "both were met: {done} done, {refused} refused");
    node.is_clean();
}

#[test]
fn case_22_a_directory_that_is_not_there_is_made_for_a_service_that_has_a_place() {
    let node = Node::new();
    // What was never started finds at its first start what was pushed before.
    node.deploy("later", "active = false");
    let later = node.services().join("later");
    let _ = std::fs::remove_dir_all(&later);
    node.push_to("later", "conf/a.toml", "a = 1\n").ok();
    let file = later.join("1/conf/a.toml");
    assert_eq!(std::fs::read_to_string(&file).expect("reads"), "a = 1\n");
    for dir in [&later, &later.join("1"), &later.join("1/conf")] {
        let mode = dir.metadata().expect("is there").permissions().mode();
        assert_eq!(mode & 0o777 & !0o750, 0, "{}: {mode:o}", dir.display());
    }
    node.cluster.weft(&["start", "later"]).ok();
    let row = node.cluster.running("n1", "later", "n1");
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", row["pid"])).expect("it runs");
    assert_eq!(std::fs::read_to_string(cwd.join("conf/a.toml")).expect("reads"), "a = 1\n");

    // Removed behind a running one's back.
    std::fs::remove_dir_all(node.services().join("web")).expect("removes");
    node.refused(22, &node.pull("x"), 1, "no such file");
    node.push("x", "x").ok();
    assert_eq!(node.read("x"), "x");

    // Known and nowhere, and not known at all.
    node.cluster.weft(&["undeploy", "other", "--yes"]).ok();
    std::fs::remove_dir_all(node.services().join("other")).expect("removes");
    node.refused(22, &node.push_to("other", "x", "x"), 1, "has no place now");
    node.refused(22, &node.push_to("shop", "x", "x"), 1, "no service `shop`");
    assert_eq!(names(&node.services()), ["later", "web"]);
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it exists");
}

/// Whether every thread of a process is halted.
fn stands_still(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut stats =
        tasks.map(|task| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default());
    let halted =
        |stat: String| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'));
    stats.all(halted)
}

#[test]
fn case_24_a_push_whose_daemon_is_killed_leaves_the_old_content_and_what_it_left_goes() {
    const SIZE: usize = 4 << 20;
    let mut node = Node::new();
    let dir = node.home().join("d");
    let local = node.cluster.scratch().join("big");
    let local = local.to_string_lossy().into_owned();
    let byte = |round: u8| b'a' + round % 26;
    let write = |round: u8| std::fs::write(&local, vec![byte(round); SIZE]).expect("writes");
    // What is there, which is one of what was pushed, and never a mix.
    let whole = || {
        let found = std::fs::read(dir.join("big")).expect("is there");
        let first = found.first().copied().unwrap_or_default();
        let one = found.len() == SIZE && found.iter().all(|byte| *byte == first);
        assert!(one, "a mix of {} bytes", found.len());
        first
    };
    write(0);
    node.cluster.weft(&["push", &local, "web", "d/big"]).ok();
    let mut killed = 0u32;
    for round in 1..=150u8 {
        let before = whole();
        write(round);
        let daemon = node.cluster.daemon_pid("n1");
        let mut command = node.cluster.command(&["push", &local, "web", "d/big"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut push = command.spawn().expect("weft starts");
        // While the new content is written, it stands beside the old one.
        let met = loop {
            if names(&dir).len() > 1 {
                break true;
            }
            if push.try_wait().expect("a child").is_some() {
                break false;
            }
            std::thread::yield_now();
        };
        if met {
            signal(daemon, Signal::STOP);
            eventually("the daemon stands still", || stands_still(daemon).then_some(()));
        }
        if names(&dir).len() == 1 {
            // It was over too soon.
            if met {
                signal(daemon, Signal::CONT);
            }
            assert!(push.wait().expect("it ends").success());
            assert_eq!(whole(), byte(round));
            continue;
        }
        kill_9(daemon);
        eventually("the daemon is gone", || (!is_alive(daemon)).then_some(()));
        // Nobody is to push it again.
        let _ = push.kill();
        push.wait().expect("it ends");
        assert_eq!(whole(), before, "the old content, whole");
        assert_eq!(names(&dir).len(), 2);
        node.cluster.start_daemon("n1");
        node.cluster.node_is("n1", "n1", "ready");
        eventually("what it left is gone", || (names(&dir) == ["big"]).then_some(()));
        assert_eq!(whole(), before);
        node.cluster.weft(&["push", &local, "web", "d/big"]).ok();
        assert_eq!(whole(), byte(round));
        killed += 1;
        if killed == 2 {
            break;
        }
    }
    eprintln!("measured: killed {killed} times in the middle of a push");
    assert!(killed > 0, "each push was over too soon");
    node.is_clean();
}

/// A file system of 256 KiB; unmounted on drop.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).expect("makes");
        let options = ["-t", "tmpfs", "-o", "size=256k", "weft-test"];
        let done = run(Command::new("mount").args(options).arg(&at));
        (done.code == 0).then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn case_24_a_disk_that_is_full_leaves_the_old_content_and_nothing_else() {
    let node = Node::new();
    let Some(small) = Small::mount(node.home().join("small")) else {
        return left_out("no file system can be mounted here");
    };
    node.push("small/a", "old").ok();
    let refused = node.push("small/a", &"x".repeat(1 << 20));
    node.refused(24, &refused, 1, "there is no room");
    assert_eq!(node.pull("small/a").ok().stdout, "old");
    assert_eq!(names(&small.0), ["a"]);
    // What fits is taken as before.
    node.push("small/a", "new").ok();
    assert_eq!(node.pull("small/a").ok().stdout, "new");
    drop(small);
    node.is_clean();
}

#[test]
fn case_25_of_two_pushes_at_once_through_two_nodes_one_wins_whole() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    let file = cluster.definition("web", &definition("web", ""));
    cluster.weft(&["deploy", "-f", &file]).ok();
    let rows = cluster.ps("n1");
    let row = rows.iter().find(|row| row["service"] == "web").expect("it runs");
    let home = cluster.data_dir(row["node"].as_str().expect("a node")).join("services/web/1");
    // Length, bytes and mode are of one of them.
    let files = [("one", vec![b'a'; 3 << 20], 0o640), ("two", vec![b'b'; 2 << 20], 0o600)];
    for (name, content, mode) in &files {
        let local = cluster.scratch().join(name);
        std::fs::write(&local, content).expect("writes");
        let mode = std::fs::Permissions::from_mode(*mode);
        std::fs::set_permissions(local, mode).expect("sets");
    }
    let push = |node: &str, name: &str| {
        let local = cluster.scratch().join(name).to_string_lossy().into_owned();
        cluster.weft(&["--node", node, "push", &local, "web", "x"])
    };
    // Which of them is there; `None`: neither yet.
    let winner = || -> Option<usize> {
        let mut file = std::fs::File::open(home.join("x")).ok()?;
        let mut found = Vec::new();
        file.read_to_end(&mut found).expect("reads");
        let mode = file.metadata().expect("it is open").permissions().mode() & 0o7777;
        let of = files.iter().position(|(_, content, of)| *content == found && *of == mode);
        assert!(of.is_some(), "a mix: {} bytes, mode {mode:o}", found.len());
        of
    };
    let mut won = [0u32; 2];
    for _ in 0..8 {
        std::thread::scope(|scope| {
            let one = scope.spawn(|| push("n1", "one"));
            let two = scope.spawn(|| push("n2", "two"));
            while !(one.is_finished() && two.is_finished()) {
                winner();
                std::thread::yield_now();
            }
            one.join().expect("it ends").ok();
            two.join().expect("it ends").ok();
        });
        won[winner().expect("one of them is there")] += 1;
        assert_eq!(names(&home), ["x"], "nothing else is left");
    }
    eprintln!("measured: who was last: {won:?}");
}
