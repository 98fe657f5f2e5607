//! `weft node provision`: its script run on another root, by hand and through an `ssh` that is a
//! shell of this machine.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use weft_tests::{Cluster, Done, bin_dir, eventually, kill_9, run};

/// Of the user on the other root.
const UID: u32 = 743;

/// A machine's root as far as it matters, and a login's home.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for sub in ["root/etc", "home", "programs", "bin"] {
            std::fs::create_dir_all(dir.path().join(sub)).expect("a directory");
        }
        for (file, text) in [
            ("passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("group", "root:x:0:\n"),
            ("subuid", "ada:100000:65536\n"),
            ("shadow", "root:*:20000:0:99999:7:::\n"),
            ("gshadow", "root:*::\n"),
        ] {
            std::fs::write(dir.path().join("root/etc").join(file), text).expect("writes");
        }
        for program in ["weftd", "weft", "weft-shim"] {
            symlink(bin_dir().join(program), dir.path().join("programs").join(program))
                .expect("links");
        }
        Self { dir }
    }

    fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root(path)).unwrap_or_default()
    }

    /// Runs a script as its root would.
    fn sh(&self, script: &str) -> Done {
        let file = self.dir.path().join("script.sh");
        std::fs::write(&file, script).expect("writes");
        run(Command::new("sh")
            .arg(&file)
            .env("WEFT_ROOT", self.root(""))
            .env("WEFT_PROGRAMS", self.dir.path().join("programs")))
    }

    /// An `ssh` that notes what it was called with, and runs it in the home, for this root.
    fn ssh(&self) -> PathBuf {
        let file = self.dir.path().join("bin/ssh");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>'{0}/calls'\n[ \"$1 $2 $#\" = '-T -- 4' ] || exit 9\n\
             cd '{0}/home' && WEFT_ROOT='{0}/root' exec sh -c \"$4\"\n",
            self.dir.path().display()
        );
        std::fs::write(&file, script).expect("writes");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("modes");
        self.dir.path().join("bin")
    }
}

/// Step and state of each line.
fn steps(done: &Done) -> Vec<(String, String)> {
    let words = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    done.stdout.lines().filter_map(words).collect()
}

fn states(done: &Done, state: &str) -> Vec<String> {
    steps(done).into_iter().filter(|(_, of)| of == state).map(|(step, _)| step).collect()
}

/// Everything in a directory, with what a change would change.
fn inventory(dir: &Path, into: &mut Vec<(PathBuf, u32, u32, u64, i64)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let meta = std::fs::symlink_metadata(entry.path()).expect("it is there");
        let changed = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        into.push((entry.path(), meta.uid(), meta.mode(), meta.size(), changed));
        if meta.is_dir() {
            inventory(&entry.path(), into);
        }
    }
    into.sort();
}

fn skip() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give files away");
        return true;
    }
    ["useradd", "groupadd"].iter().any(|program| {
        ["/usr/sbin", "/sbin"].iter().all(|dir| !Path::new(dir).join(program).is_file())
            && weft_tests::lacks(program)
    })
}

#[test]
fn the_printed_script_makes_a_machine_a_node_and_changes_nothing_the_second_time() {
    if skip() {
        return;
    }
    let cluster = Cluster::with(&["--nodes", "1", "--no-hello"]);
    let machine = Machine::new();
    let printed = cluster
        .weft(&["node", "provision", "n7", "--bind", "127.0.0.1:0", "--gateway", "127.0.0.1:0"])
        .ok();
    assert!(printed.stderr.contains("join token"), "{printed:?}");
    let first = machine.sh(&printed.stdout).ok();
    assert_eq!(
        states(&first, "changed"),
        ["user", "programs", "join", "unit", "enable"],
        "{first:?}"
    );
    let line = format!("weft:x:{UID}:{UID}::/var/lib/weft:/usr/sbin/nologin");
    assert!(
        machine.read("etc/passwd").lines().any(|l| l == line),
        "{}",
        machine.read("etc/passwd")
    );
    let data = machine.root("var/lib/weft");
    let mut all = Vec::new();
    inventory(&data, &mut all);
    assert!(all.len() > 4 && all.iter().all(|one| one.1 == UID), "{all:?}");
    assert_eq!(std::fs::metadata(&data).expect("data").mode() & 0o777, 0o700);
    let unit = machine.read("etc/systemd/system/weftd.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/weftd"), "{unit}");
    let wants = machine.root("etc/systemd/system/multi-user.target.wants/weftd.service");
    assert!(std::fs::symlink_metadata(wants).is_ok());

    let (mut before, mut after) = (Vec::new(), Vec::new());
    inventory(&machine.root(""), &mut before);
    let second = machine.sh(&printed.stdout).ok();
    inventory(&machine.root(""), &mut after);
    assert_eq!((states(&second, "changed"), before), (Vec::new(), after), "{second:?}");

    // It is a node indeed.
    let log = std::fs::File::create(machine.dir.path().join("log")).expect("a file");
    let mut daemon = Command::new(machine.root("usr/local/bin/weftd"))
        .args(["run", "--config"])
        .arg(data.join("node.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log)
        .spawn()
        .expect("weftd starts");
    let ready = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster.node_is("n1", "n7", "ready");
    }));
    kill_9(daemon.id());
    daemon.wait().expect("a child can be waited for");
    let log = std::fs::read_to_string(machine.dir.path().join("log")).unwrap_or_default();
    assert!(ready.is_ok(), "{log}");

    // Of another node, or with another number: refused, and named.
    let other = cluster.weft(&["node", "provision", "n8", "--bind", "127.0.0.1:0"]).ok();
    let refused = machine.sh(&other.stdout);
    assert_eq!((refused.code, states(&refused, "failed")), (1, vec!["join".to_owned()]));
    assert!(refused.stdout.contains("belongs to node n7"), "{refused:?}");
    let other = ["node", "provision", "n7", "--bind", "127.0.0.1:0", "--uid", "744"];
    let refused = machine.sh(&cluster.weft(&other).ok().stdout);
    assert!(refused.stdout.contains("repeat with --uid 743"), "{refused:?}");
}

#[test]
fn over_ssh_the_same_is_done_step_by_step_and_the_token_is_never_an_argument() {
    if skip() {
        return;
    }
    let cluster = Cluster::with(&["--nodes", "1", "--no-hello"]);
    let machine = Machine::new();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", machine.ssh().display());
    let provision = |more: &[&str]| {
        let place = ["node", "provision", "n7", "--bind", "127.0.0.1:0", "--ssh", "root@far"];
        run(cluster.command(&place).args(["--podman"]).args(more).env("PATH", &path))
    };
    let calls = || std::fs::read_to_string(machine.dir.path().join("calls")).unwrap_or_default();

    provision(&["--dry-run"]).ok();
    assert_eq!(calls(), "", "a dry run calls nobody");
    let first = provision(&[]).ok();
    assert_eq!(
        states(&first, "changed"),
        ["user", "programs", "join", "unit", "enable"],
        "{first:?}"
    );
    assert!(machine.root("etc/systemd/system/weftd-podman.service").is_file());
    assert_eq!(machine.read("etc/subuid"), "ada:100000:65536\nweft:165536:65536\n");
    assert!(machine.root("var/lib/systemd/linger/weft").exists());
    let sent = calls();
    for program in ["weftd", "weft", "weft-shim"] {
        assert!(sent.contains(&format!("cat >.weft-provision/{program}\n")), "{sent}");
    }
    assert!(!sent.contains("weft1."), "{sent}");
    assert!(!machine.dir.path().join("home/.weft-provision").exists(), "it cleans up");

    let done = provision(&["--json"]).ok().json();
    let all: Vec<&Value> = done["steps"].as_array().expect("steps").iter().collect();
    assert!(all.len() > 6 && all.iter().all(|step| step["state"] == "ok"), "{done}");

    // Half of a program has come over: it is not put in place.
    std::fs::write(machine.root("usr/local/bin/weft-shim"), "half").expect("writes");
    eventually("it is repaired", || {
        let again = provision(&[]).ok();
        (states(&again, "changed") == ["programs"]).then_some(())
    });
}

#[test]
fn what_could_be_taken_for_something_else_is_refused_before_anybody_is_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let weft = |arguments: &[&str]| {
        run(Command::new(bin_dir().join("weft"))
            .env("WEFT_CONFIG", dir.path().join("none.toml"))
            .args(["node", "provision"])
            .args(arguments))
    };
    for bad in [
        &["n7;id", "--bind", "127.0.0.1:7443"][..],
        &["N7", "--bind", "127.0.0.1:7443"],
        &["n7", "--bind", "host:7443"],
        &["n7", "--bind", "0.0.0.0:7443"],
        &["n7"],
        &["n7", "--bind", "127.0.0.1:7443", "--ssh=-oProxyCommand=id"],
        &["n7", "--bind", "127.0.0.1:7443", "--ssh", "a b"],
        &["n7", "--bind", "127.0.0.1:7443", "--ssh", "a$(id)"],
        &["n7", "--bind", "127.0.0.1:7443", "--uid", "0"],
        &["n7", "--bind", "127.0.0.1:7443", "--sudo"],
    ] {
        let done = weft(bad);
        assert_eq!(done.code, 2, "{bad:?}: {done:?}");
    }
}
