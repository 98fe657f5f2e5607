//! A container engine for each node of a test: the machine's Podman with storage, run directory,
//! configuration and socket of its own, inside the node's network namespace. Nothing of the
//! machine's own Podman is touched, and everything is removed on drop.

use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::net::{Net, is_left_over, owner};
use crate::nodes::{NetCluster, Options};
use crate::{Done, eventually, run};

/// The image that every engine has: a static busybox.
pub const IMAGE: &str = "localhost/weft-test:1";
/// The same image under another tag.
pub const IMAGE_2: &str = "localhost/weft-test:2";
/// Begins the name of every directory made here.
const MARK: &str = "weft-net";
static MADE: AtomicU32 = AtomicU32::new(0);

/// Why there is no Podman here; `None`: there is.
fn unavailable() -> Option<String> {
    for (program, package) in
        [("podman", "podman"), ("runc", "runc"), ("conmon", "conmon"), ("tar", "tar")]
    {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            return Some(format!("{program} is not installed (package {package})"));
        }
    }
    busybox().is_none().then(|| "busybox is not installed (package busybox-static)".into())
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// Whether the test that calls must end now, because there is no Podman: it says so by its name.
///
/// # Panics
/// With `CI=true`, where a test that is skipped is a failure.
#[track_caller]
pub fn skip() -> bool {
    if crate::net::skip() {
        return true;
    }
    let Some(why) = unavailable() else { return false };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} cannot run: {why}");
    eprintln!("SKIPPED {test}: {why}");
    true
}

/// One node's Podman.
#[derive(Debug)]
pub struct Podman {
    dir: PathBuf,
    /// Through which namespace its commands run.
    namespace: String,
    service: Option<Child>,
}

impl Podman {
    /// Starts one in a node's namespace, with [`IMAGE`] and [`IMAGE_2`].
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start(net: &Net, node: usize) -> Self {
        let me = owner(std::process::id()).expect("this process has a start time");
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("{MARK}-{me}-box{made}"));
        std::fs::create_dir_all(dir.join("tmp")).expect("a directory");
        let shown = dir.display();
        // No CAP_SYS_RESOURCE may be had, cgroups may be hybrid: see docs/dependencies.md.
        let mut config = String::from(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n",
        );
        let _ = write!(
            config,
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n\
             events_logger = \"file\"\nexit_command_delay = 1\ntmp_dir = \"{shown}/tmp\"\n\
             [network]\nnetwork_backend = \"netavark\"\n\
             network_config_dir = \"{shown}/networks\"\n"
        );
        std::fs::write(dir.join("containers.conf"), config).expect("writes");
        std::fs::write(dir.join("registries.conf"), "").expect("writes");
        let mut podman = Self { dir, namespace: net.namespace(node), service: None };
        podman.import();
        podman.serve();
        podman
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("p.sock")
    }

    /// Starts its API service, which must not run, and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn serve(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let log = std::fs::File::create(self.dir.join("service.log")).expect("a file");
        let mut command = self.command(&["system", "service", "--time=0"]);
        command.arg(format!("unix://{}", self.socket().display()));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        self.service = Some(command.spawn().expect("podman starts"));
        eventually("podman's socket listens", || UnixStream::connect(self.socket()).ok());
    }

    /// Pid of its API service, if it was started and not silenced.
    pub fn service_pid(&self) -> Option<u32> {
        self.service.as_ref().map(Child::id)
    }

    /// Kills its API service; containers go on.
    pub fn silence(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
        let _ = std::fs::remove_file(self.socket());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(["--", "podman"])
            .arg("--root")
            .arg(self.dir.join("storage"))
            .arg("--runroot")
            .arg(self.dir.join("run"))
            .args(arguments)
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.dir.join("registries.conf"));
        command
    }

    /// The command, as a person would use it beside the daemon.
    pub fn podman(&self, arguments: &[&str]) -> Done {
        run(&mut self.command(arguments))
    }

    /// Ids of all containers, whatever they do.
    pub fn ids(&self) -> Vec<String> {
        let done = self.podman(&["ps", "--all", "--quiet", "--no-trunc"]).ok();
        done.stdout.lines().map(str::to_owned).collect()
    }

    /// One field of a container, as a template of `podman inspect`; empty: there is none.
    pub fn field(&self, container: &str, template: &str) -> String {
        let done = self.podman(&["container", "inspect", "--format", template, container]);
        if done.code == 0 { done.stdout.trim().to_owned() } else { String::new() }
    }

    /// Loses everything it has, containers and images, and gets its images again from an archive,
    /// as they were.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn lose_everything_and_load_the_images(&mut self) {
        let archive = self.dir.join("saved.tar");
        let to = archive.to_string_lossy().into_owned();
        self.podman(&["save", "--quiet", "--multi-image-archive", "-o", &to, IMAGE, IMAGE_2]).ok();
        self.podman(&["rm", "--all", "--force", "--time", "0"]).ok();
        self.silence();
        for part in ["storage", "run"] {
            let part = self.dir.join(part);
            unmount(&part);
            std::fs::remove_dir_all(&part).expect("the storage goes");
        }
        self.podman(&["load", "--quiet", "-i", &to]).ok();
        self.serve();
    }

    fn import(&self) {
        let root = self.dir.join("root");
        std::fs::create_dir_all(root.join("bin")).expect("a directory");
        for name in ["tmp", "etc", "proc", "sys", "dev", "www"] {
            std::fs::create_dir_all(root.join(name)).expect("a directory");
        }
        std::fs::copy(busybox().expect("busybox"), root.join("bin/busybox")).expect("copies");
        for applet in [
            "sh", "cat", "echo", "env", "sleep", "printf", "head", "dd", "true", "false", "kill",
            "test", "touch", "rm", "httpd", "tail", "mkdir", "ls", "od",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("writes");
        let tar = self.dir.join("image.tar");
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".")).ok();
        self.podman(&["import", "--quiet", &tar.to_string_lossy(), IMAGE]).ok();
        self.podman(&["tag", IMAGE, IMAGE_2]).ok();
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.silence();
        clean(&self.dir, Some(&self.namespace));
    }
}

/// Removes containers, mounts and files of one.
fn clean(dir: &Path, namespace: Option<&str>) {
    let mut command = Command::new("podman");
    if let Some(namespace) = namespace {
        command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).args(["--", "podman"]);
    }
    command
        .env("CONTAINERS_CONF", dir.join("containers.conf"))
        .arg("--root")
        .arg(dir.join("storage"))
        .arg("--runroot")
        .arg(dir.join("run"))
        .args(["rm", "--all", "--force", "--time", "0"]);
    let _ = run(&mut command);
    // Conmons of commands that were run in a container wait a while before they clean up, and
    // would make the directory again.
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("conmon\0")
            && line.contains(&format!("{}/", dir.display()))
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    for _ in 0..20 {
        unmount(dir);
        match std::fs::remove_dir_all(dir) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => std::thread::yield_now(),
        }
    }
    eprintln!("{} could not be removed", dir.display());
}

/// Unmounts whatever is mounted beneath.
fn unmount(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
        if Path::new(mount).starts_with(dir) {
            let _ = run(Command::new("umount").args(["-l", mount]));
        }
    }
}

/// Cleans up after tests that were killed.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_left_over(name) && name.contains("-box") {
            clean(&entry.path(), None);
        }
    }
}

/// A cluster whose nodes have an engine each.
#[derive(Debug)]
pub struct Boxes {
    /// By node.
    pub podman: Vec<Podman>,
    /// The nodes.
    pub cluster: NetCluster,
}

impl Boxes {
    /// So many nodes; `None`: the test is to be skipped, which was said.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn start(nodes: usize) -> Option<Self> {
        Self::with(nodes, &[])
    }

    /// The same, with settings for each daemon, such as `reconcile.mode=report`.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn with(nodes: usize, settings: &[&str]) -> Option<Self> {
        if skip() {
            return None;
        }
        // Before the networks' own, which would not take mounts away.
        sweep();
        let net = Net::new(nodes)?;
        let podman: Vec<Podman> = (0..nodes).map(|node| Podman::start(&net, node)).collect();
        let each = podman
            .iter()
            .map(|podman| vec![format!("engine.socket={}", podman.socket().display())])
            .collect();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let options = Options { each, settings, ..Options::default() };
        Some(Self { podman, cluster: NetCluster::with(net, nodes, options) })
    }
}

impl Drop for Boxes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for podman in &self.podman {
                eprintln!("--- {} ---\n{}", podman.namespace, podman.podman(&["ps", "-a"]).stdout);
            }
        }
        // What removes containers must not find somebody who starts them again.
        for node in 0..self.cluster.len() {
            if self.cluster.daemon_pid(node).is_some() {
                self.cluster.kill(node);
            }
        }
        self.podman.clear();
    }
}
