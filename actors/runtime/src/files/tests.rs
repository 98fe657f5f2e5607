//! The table of orchestration §11, case by case, on a real file system, with both resolvers.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use weft_protocol::{FILE_MAX, FILE_MODE, file_parts};
use weft_wire::FailureKind;

use super::*;

/// A node with the data of two services.
struct Node {
    dir: tempfile::TempDir,
    resolver: Resolver,
}

impl Node {
    fn new(resolver: Resolver) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let node = Self { dir, resolver };
        for home in [node.home(), node.other()] {
            std::fs::create_dir_all(&home).expect("makes");
        }
        std::fs::write(node.other().join("secret"), "theirs").expect("writes");
        node
    }

    fn data(&self) -> &Path {
        self.dir.path()
    }

    fn home(&self) -> PathBuf {
        self.data().join("services/web/1")
    }

    fn other(&self) -> PathBuf {
        self.data().join("services/other/1")
    }

    fn open(&self) -> Result<Home, Refused> {
        Home::create(self.data(), "web", 1, false, self.resolver)
    }

    fn push_as(&self, path: &str, mode: u32, content: &[u8]) -> Result<(), Refused> {
        let parts = file_parts(path).map_err(Refused::Path)?;
        let journal = Journal::new(self.data());
        write::<Refused>(&self.open()?, &parts, mode, &journal, |file| {
            file.write_all(content).map_err(Refused::from)
        })
    }

    fn push(&self, path: &str, content: &str) -> Result<(), Refused> {
        self.push_as(path, FILE_MODE, content.as_bytes())
    }

    fn pull(&self, path: &str) -> Result<String, Refused> {
        let parts = file_parts(path).map_err(Refused::Path)?;
        let found = read(&self.open()?, &parts, FILE_MAX, &[])?;
        Ok(String::from_utf8_lossy(&found.bytes).into_owned())
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) {
        symlink(target, self.home().join(name)).expect("links");
    }

    /// Nothing was written beside the service, and nothing temporary is left.
    fn is_clean(&self) {
        let list = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).expect("lists").flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(list(&self.other()), ["secret"]);
        assert_eq!(std::fs::read_to_string(self.other().join("secret")).expect("reads"), "theirs");
        assert!(!list(&self.home()).iter().any(|name| name.starts_with(".weft-push-")));
        let pushes = self.data().join("pushes");
        assert!(!pushes.exists() || list(&pushes).is_empty());
    }
}

/// Runs a case with each resolver that this machine has.
fn each(case: impl Fn(&Node)) {
    for resolver in [Resolver::Kernel, Resolver::ByHand] {
        if resolver == Resolver::Kernel && Resolver::detect() != resolver {
            skip("this kernel has no openat2");
            continue;
        }
        let node = Node::new(resolver);
        case(&node);
        node.is_clean();
    }
}

/// # Panics
/// With `CI=true`, where a test that is skipped is a failure.
fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} cannot run: {why}");
    eprintln!("SKIPPED {test}: {why}");
}

fn kind<T: std::fmt::Debug>(result: Result<T, Refused>) -> FailureKind {
    result.expect_err("refused").kind()
}

#[test]
fn case_01_a_service_that_is_no_name_is_refused() {
    each(|node| {
        for service in ["", ".", "..", "web/..", "a\\b", "a\0", "Web", "-a", "../other"] {
            for create in [false, true] {
                let opened = if create {
                    Home::create(node.data(), service, 1, false, node.resolver).map(drop)
                } else {
                    Home::open(node.data(), service, 1, false, node.resolver).map(drop)
                };
                assert_eq!(kind(opened), FailureKind::Invalid, "{service:?}");
            }
        }
        let none = Home::open(node.data(), "web", 0, false, node.resolver).map(drop);
        assert_eq!(kind(none), FailureKind::Invalid);
    });
}

#[test]
fn case_02_a_path_left_out_on_push_is_the_commands_to_fill_in() {
    each(|node| assert_eq!(kind(node.push("", "x")), FailureKind::Invalid));
}

#[test]
fn case_03_a_pull_of_nothing_or_of_a_directory_by_name_is_refused() {
    each(|node| {
        std::fs::create_dir(node.home().join("d")).expect("makes");
        for path in ["", ".", "./", "d/", "d/."] {
            assert_eq!(kind(node.pull(path)), FailureKind::Invalid, "{path:?}");
        }
    });
}

#[test]
fn case_04_an_absolute_path_is_refused() {
    each(|node| {
        let inside = node.home().join("a");
        std::fs::write(&inside, "x").expect("writes");
        for path in ["/etc/passwd", "//a", inside.to_str().expect("UTF-8")] {
            assert_eq!(kind(node.pull(path)), FailureKind::Invalid, "{path}");
            assert_eq!(kind(node.push(path, "y")), FailureKind::Invalid, "{path}");
        }
    });
}

#[test]
fn case_05_dot_dot_is_refused_also_where_it_would_stay_inside() {
    each(|node| {
        node.push("b", "x").expect("writes");
        std::fs::create_dir(node.home().join("a")).expect("makes");
        for path in ["..", "../x", "a/..", "a/../b", "a/../../other/1/secret", "./../x"] {
            assert_eq!(kind(node.pull(path)), FailureKind::Invalid, "{path}");
            assert_eq!(kind(node.push(path, "y")), FailureKind::Invalid, "{path}");
        }
    });
}

#[test]
fn case_06_dots_and_doubled_slashes_are_left_out() {
    each(|node| {
        node.push(".//a/./b//c", "x").expect("writes");
        assert_eq!(node.pull("a/b/c"), Ok("x".into()));
        assert_eq!(std::fs::read_to_string(node.home().join("a/b/c")).expect("reads"), "x");
    });
}

#[test]
fn case_07_control_characters_are_refused() {
    each(|node| {
        for path in ["a\0b", "a\nb", "\t", "a/\u{1b}[2J", "a\u{7f}"] {
            assert_eq!(kind(node.pull(path)), FailureKind::Invalid, "{path:?}");
            assert_eq!(kind(node.push(path, "y")), FailureKind::Invalid, "{path:?}");
        }
    });
}

#[test]
fn case_08_names_over_255_and_paths_over_4096_bytes_are_refused() {
    each(|node| {
        let longest = "n".repeat(255);
        node.push(&longest, "x").expect("writes");
        assert_eq!(node.pull(&longest), Ok("x".into()));
        for path in ["n".repeat(256), "d/".repeat(2048) + "n", "ü".repeat(128)] {
            assert_eq!(kind(node.push(&path, "y")), FailureKind::Invalid);
            assert_eq!(kind(node.pull(&path)), FailureKind::Invalid);
        }
    });
}

#[test]
fn case_09_what_looks_encoded_is_a_literal_name() {
    each(|node| {
        for path in ["%2e%2e", "..%2f", "..\\..\\x", "\u{ff0e}\u{ff0e}", "a%00", "..."] {
            node.push(path, path).expect("writes");
            assert_eq!(node.pull(path), Ok(path.into()));
            assert!(node.home().join(path).is_file(), "{path}");
        }
    });
}

#[test]
fn case_10_a_parent_that_is_a_link_out_of_the_directory_is_refused() {
    each(|node| {
        node.link("../../other/1", "out");
        node.link("../..", "up");
        for path in ["out/secret", "up/other/1/secret", "out/new/deep"] {
            assert_eq!(node.pull(path), Err(Refused::Outside), "{path}");
            assert_eq!(node.push(path, "y"), Err(Refused::Outside), "{path}");
        }
    });
}

#[test]
fn case_11_a_parent_that_is_a_link_within_the_directory_is_followed() {
    each(|node| {
        node.push("a/b/x", "x").expect("writes");
        node.link("a/b", "short");
        symlink("../b", node.home().join("a/b/back")).expect("links");
        symlink("../..", node.home().join("a/b/top")).expect("links");
        assert_eq!(node.pull("short/x"), Ok("x".into()));
        assert_eq!(node.pull("a/b/back/x"), Ok("x".into()));
        assert_eq!(node.pull("short/top/short/x"), Ok("x".into()));
        node.push("short/top/new/y", "y").expect("writes");
        assert_eq!(node.pull("new/y"), Ok("y".into()));
        node.push("short/z", "z").expect("writes");
        assert_eq!(node.pull("a/b/z"), Ok("z".into()));
    });
}

#[test]
fn case_12_a_link_at_the_end_that_leads_out_is_not_pulled() {
    each(|node| {
        node.link("../../other/1/secret", "s");
        assert_eq!(node.pull("s"), Err(Refused::Outside));
        node.link("s", "t");
        assert_eq!(node.pull("t"), Err(Refused::Outside));
    });
}

#[test]
fn case_13_a_link_at_the_end_that_stays_inside_is_pulled() {
    each(|node| {
        node.push("d/x", "x").expect("writes");
        node.link("d/x", "s");
        symlink("../s", node.home().join("d/t")).expect("links");
        assert_eq!(node.pull("s"), Ok("x".into()));
        assert_eq!(node.pull("d/t"), Ok("x".into()));
    });
}

#[test]
fn case_14_a_link_at_the_end_is_neither_written_through_nor_replaced() {
    each(|node| {
        node.push("x", "x").expect("writes");
        node.link("x", "inside");
        node.link("../../other/1/secret", "outside");
        node.link("nothing", "dangling");
        for name in ["inside", "outside", "dangling"] {
            assert_eq!(node.push(name, "y"), Err(Refused::Link), "{name}");
            let parts = file_parts(name).expect("parts");
            assert_eq!(check(&node.open().expect("opens"), &parts), Err(Refused::Link), "{name}");
            assert!(node.home().join(name).is_symlink(), "{name}");
        }
        assert_eq!(node.pull("x"), Ok("x".into()));
        assert!(!node.home().join("nothing").exists());
    });
}

#[test]
fn case_15_an_absolute_link_is_refused_also_to_a_place_inside() {
    each(|node| {
        node.push("d/x", "x").expect("writes");
        node.link(node.home().join("d/x"), "file");
        node.link(node.home().join("d"), "dir");
        assert_eq!(node.pull("file"), Err(Refused::Outside));
        assert_eq!(node.pull("dir/x"), Err(Refused::Outside));
        assert_eq!(node.push("dir/y", "y"), Err(Refused::Outside));
    });
}

#[test]
fn case_16_circles_of_links_and_magic_links_are_refused() {
    each(|node| {
        node.link("b", "a");
        node.link("a", "b");
        node.link("self/self", "self");
        for path in ["a", "a/x", "self", "self/x"] {
            assert_eq!(node.pull(path), Err(Refused::Loop), "{path}");
        }
        assert_eq!(node.push("a/x", "y"), Err(Refused::Loop));
        // A chain as long as the kernel follows, and one longer.
        node.push("end", "end").expect("writes");
        for n in 0..41 {
            let target = if n == 0 { "end".to_owned() } else { format!("l{}", n - 1) };
            node.link(target, &format!("l{n}"));
        }
        assert_eq!(node.pull("l39"), Ok("end".into()));
        assert_eq!(node.pull("l40"), Err(Refused::Loop));
        // As if /proc/self were somebody's data directory.
        let home = Home::of(Path::new("/proc/self"), node.resolver);
        for path in ["root/etc/passwd", "cwd/Cargo.toml", "exe", "fd/0"] {
            let found = read(&home, &file_parts(path).expect("parts"), FILE_MAX, &[]);
            let refused = found.map(drop).expect_err(path);
            let ways = [Refused::Loop, Refused::Outside, Refused::Missing];
            assert!(ways.contains(&refused), "{path}: {refused}");
        }
    });
}

#[test]
fn case_17_a_data_directory_that_is_a_link_is_refused_unless_the_node_allows_it() {
    each(|node| {
        let services = node.data().join("services");
        let (real, link) = (services.join("real"), services.join("linked"));
        std::fs::create_dir_all(real.join("1")).expect("makes");
        std::fs::write(real.join("1/x"), "x").expect("writes");
        symlink("real", &link).expect("links");
        std::fs::create_dir(services.join("half")).expect("makes");
        symlink("../real/1", services.join("half/1")).expect("links");
        for service in ["linked", "half"] {
            let open = |follow| Home::open(node.data(), service, 1, follow, node.resolver);
            let create = Home::create(node.data(), service, 1, false, node.resolver);
            assert_eq!(open(false).map(drop), Err(Refused::HomeIsLink), "{service}");
            assert_eq!(create.map(drop), Err(Refused::HomeIsLink), "{service}");
            let home = open(true).expect("opens").expect("is there");
            assert_eq!(read(&home, &["x"], FILE_MAX, &[]).expect("reads").bytes, b"x");
        }
    });
}

#[test]
fn case_18_what_is_not_a_file_is_refused() {
    each(|node| {
        let home = node.home();
        std::fs::create_dir(home.join("dir")).expect("makes");
        let fifo = home.join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
        assert!(made.success() && fifo.metadata().expect("is there").file_type().is_fifo());
        let _socket = std::os::unix::net::UnixListener::bind(home.join("socket")).expect("binds");
        let mut names = vec!["dir", "fifo", "socket"];
        let device = Command::new("mknod").arg(home.join("null")).args(["c", "1", "3"]).output();
        if device.is_ok_and(|done| done.status.success()) {
            names.push("null");
        }
        for name in names {
            assert!(matches!(node.pull(name), Err(Refused::Kind(_))), "{name}");
            assert!(matches!(node.push(name, "y"), Err(Refused::Kind(_))), "{name}");
        }
    });
}

#[test]
fn case_19_a_file_in_the_place_of_a_directory_is_refused() {
    each(|node| {
        node.push("a.toml", "x").expect("writes");
        node.link("a.toml", "link");
        for path in ["a.toml/b", "a.toml/b/c", "link/b"] {
            assert_eq!(node.pull(path), Err(Refused::ThroughFile), "{path}");
            assert_eq!(node.push(path, "y"), Err(Refused::ThroughFile), "{path}");
        }
        assert_eq!(node.pull("a.toml"), Ok("x".into()));
    });
}

#[test]
fn case_20_another_services_directory_is_out_of_reach_by_any_way() {
    each(|node| {
        node.link("../../other/1", "dir");
        node.link("../../other/1/secret", "file");
        node.link(node.other(), "absolute");
        node.link("dir", "twice");
        symlink("../../../other", node.data().join("services/web/1/deep")).expect("links");
        for path in [
            "../../other/1/secret",
            "dir/secret",
            "file",
            "absolute/secret",
            "twice/secret",
            "deep/1/secret",
            "/services/other/1/secret",
        ] {
            for refused in [node.pull(path).map(drop), node.push(path, "y")] {
                let kind = kind(refused);
                let said = [FailureKind::Invalid, FailureKind::Forbidden];
                assert!(said.contains(&kind), "{path}: {kind:?}");
            }
        }
    });
}

#[test]
fn case_21_a_directory_that_is_swapped_for_a_link_meanwhile_leads_nowhere_else() {
    each(|node| {
        node.push("d/secret", "mine").expect("writes");
        node.link("../../other/1", "l");
        let over = AtomicBool::new(false);
        let (dir, link) = (node.home().join("d"), node.home().join("l"));
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut swaps = 0u32;
                while !over.load(Ordering::Relaxed) {
                    renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).expect("swaps");
                    swaps += 1;
                    // Long enough for a push to get through now and then.
                    std::thread::park_timeout(std::time::Duration::from_micros(200));
                }
                swaps
            });
            let (mut written, mut refused) = (0, 0);
            for n in 0..400 {
                match node.push(&format!("d/new{}", n % 7), "x") {
                    Ok(()) => written += 1,
                    Err(Refused::Outside | Refused::Changing | Refused::Loop) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
                match node.pull("d/secret") {
                    Ok(content) => assert_eq!(content, "mine"),
                    Err(Refused::Outside | Refused::Changing | Refused::Loop) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            over.store(true, Ordering::Relaxed);
            let swaps = swapper.join().expect("swaps");
            eprintln!("{:?}: {swaps} swaps, {written} written, {refused} refused", node.resolver);
        });
    });
}

#[test]
fn case_22_a_data_directory_that_is_not_there_is_made_only_when_asked_to() {
    each(|node| {
        let open = || Home::open(node.data(), "new", 3, false, node.resolver);
        assert!(open().expect("no refusal").is_none());
        assert!(!node.data().join("services/new").exists());
        let home = Home::create(node.data(), "new", 3, false, node.resolver).expect("makes");
        let journal = Journal::new(node.data());
        write::<Refused>(&home, &["a", "b"], 0o640, &journal, |_| Ok(())).expect("writes");
        assert!(open().expect("no refusal").is_some());
        for dir in ["services/new", "services/new/3", "services/new/3/a"] {
            let mode = node.data().join(dir).metadata().expect("is there").mode();
            assert_eq!(mode & 0o777 & !0o750, 0, "{dir}: {mode:o}");
        }
    });
}

#[test]
fn case_23_a_file_over_the_limit_is_refused_before_it_is_read() {
    each(|node| {
        let large = std::fs::File::create(node.home().join("large")).expect("makes");
        // Sparse: reading it all would take minutes.
        large.set_len(1 << 40).expect("sparse");
        let refused = node.pull("large").expect_err("refused");
        assert_eq!(refused, Refused::TooLarge { size: 1 << 40, limit: FILE_MAX });
        assert_eq!(refused.kind(), FailureKind::Invalid);
        large.set_len(FILE_MAX).expect("sets");
        assert_eq!(node.pull("large").expect("reads").len() as u64, FILE_MAX);
    });
}

#[test]
fn case_24_a_full_disk_leaves_the_old_content_and_nothing_else() {
    for resolver in [Resolver::detect(), Resolver::ByHand] {
        let node = Node::new(resolver);
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "weft-test"])
            .arg(node.home())
            .output();
        if !mounted.is_ok_and(|done| done.status.success()) {
            return skip("a tmpfs cannot be mounted");
        }
        node.push("a", "old").expect("writes");
        let refused = node.push("a", &"x".repeat(1 << 20)).expect_err("refused");
        let content = node.pull("a");
        let left = std::fs::read_dir(node.home()).expect("lists").count();
        let unmounted = Command::new("umount").arg(node.home()).status().expect("umount runs");
        assert!(matches!(refused, Refused::Full(_)), "{refused}");
        assert_eq!((content, left), (Ok("old".into()), 1));
        assert!(unmounted.success());
    }
}

/// Names the node's data directory to the process that is to die while it writes.
const DIES: &str = "WEFT_TEST_DIES_WRITING";

#[test]
fn case_24_a_push_that_is_killed_leaves_the_old_content_and_what_it_left_goes_at_the_next_start() {
    if let Some(data) = std::env::var_os(DIES) {
        let data = PathBuf::from(data);
        let home = Home::create(&data, "web", 1, false, Resolver::detect()).expect("opens");
        let killed = write::<Refused>(&home, &["d", "a"], 0o600, &Journal::new(&data), |file| {
            file.write_all(b"half").expect("writes");
            std::process::abort();
        });
        panic!("it is dead: {killed:?}");
    }
    each(|node| {
        node.push("d/a", "old").expect("writes");
        let own = "files::tests::case_24_a_push_that_is_killed_leaves_the_old_content_and_what_it_left_goes_at_the_next_start";
        let killed = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", own, "--nocapture"])
            .env(DIES, node.data())
            .output()
            .expect("runs");
        assert!(!killed.status.success());
        let count = || std::fs::read_dir(node.home().join("d")).expect("lists").count();
        assert_eq!((node.pull("d/a"), count()), (Ok("old".into()), 2), "{killed:?}");
        assert_eq!(sweep(node.data(), false, node.resolver), 1);
        assert_eq!((node.pull("d/a"), count()), (Ok("old".into()), 1));
        assert_eq!(sweep(node.data(), false, node.resolver), 0);
    });
}

#[test]
fn case_25_of_two_pushes_at_once_one_wins_whole() {
    each(|node| {
        let (a, b) = ("a".repeat(300_000), "b".repeat(200_000));
        std::thread::scope(|scope| {
            for content in [&a, &b] {
                scope.spawn(move || {
                    for _ in 0..10 {
                        node.push("d/x", content).expect("writes");
                        let found = node.pull("d/x").expect("reads");
                        assert!(found == "a".repeat(300_000) || found == "b".repeat(200_000));
                    }
                });
            }
        });
    });
}

#[test]
fn case_26_a_strangers_file_with_further_hard_links_is_not_pulled() {
    each(|node| {
        let stranger = node.data().join("stranger");
        std::fs::write(&stranger, "x").expect("writes");
        std::fs::hard_link(&stranger, node.home().join("linked")).expect("links");
        // Its owner is the service's: no stranger.
        assert_eq!(node.pull("linked"), Ok("x".into()));
        if std::os::unix::fs::chown(&stranger, Some(12_345), None).is_err() {
            return skip("files cannot be given away");
        }
        assert_eq!(node.pull("linked"), Err(Refused::HardLink));
        let home = node.open().expect("opens");
        let of_the_user = read(&home, &["linked"], FILE_MAX, &[12_345]);
        assert_eq!(of_the_user.expect("reads").bytes, b"x");
        std::fs::remove_file(&stranger).expect("removes");
        assert_eq!(node.pull("linked"), Ok("x".into()));
    });
}

#[test]
fn case_27_private_keys_are_read_as_other_files_are() {
    each(|node| {
        node.push_as("tls/server.key", 0o600, b"-----BEGIN PRIVATE KEY-----").expect("writes");
        assert_eq!(node.pull("tls/server.key"), Ok("-----BEGIN PRIVATE KEY-----".into()));
    });
}

#[test]
fn setuid_setgid_and_sticky_are_cleared_and_the_mode_is_set_whatever_was_there() {
    each(|node| {
        node.push_as("a", 0o7755, b"x").expect("writes");
        let mode = || node.home().join("a").metadata().expect("is there").mode() & 0o7777;
        assert_eq!(mode(), 0o755);
        std::fs::set_permissions(node.home().join("a"), std::fs::Permissions::from_mode(0o4711))
            .expect("sets");
        let content = read(&node.open().expect("opens"), &["a"], FILE_MAX, &[]).expect("reads");
        assert_eq!(content.mode, 0o711);
        node.push("a", "y").expect("writes");
        assert_eq!(mode(), FILE_MODE);
    });
}

#[test]
fn no_refusal_names_the_place_it_would_have_led_to() {
    each(|node| {
        node.link("../../other/1/secret", "s");
        node.link(node.other().join("secret"), "t");
        for path in ["s", "t"] {
            let text = node.pull(path).expect_err("refused").to_string();
            let data = node.data().to_str().expect("UTF-8");
            assert!(!text.contains("other") && !text.contains(data), "{text}");
        }
    });
}
