//! A Podman of the test's own: private storage, run directory and configuration (nothing of the
//! machine's Podman is touched), an image of a static busybox, and everything cleaned up.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use weft_engine::{ContainerSpec, Engine, Found, OwnService, Owner, Search};
use weft_protocol::ComponentKey;
use weft_protocol::files::ProcessFile;

/// The image every test has.
pub(crate) const IMAGE: &str = "localhost/weft-test:1";
const MARK: &str = "weft-engine-";

/// Why there is no Podman here; `None`: there is.
fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a rootful Podman needs root".into());
    }
    for (program, package) in
        [("podman", "podman"), ("runc", "runc"), ("conmon", "conmon"), ("tar", "tar")]
    {
        let runs = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        if runs.is_err() {
            return Some(format!("{program} is not installed (package {package})"));
        }
    }
    busybox().is_none().then(|| "busybox is not installed (package busybox-static)".into())
}

/// Whether the test that calls must end now, because there is no Podman: it says so by its name.
///
/// # Panics
/// With `CI=true`, where a test that is skipped is a failure.
#[track_caller]
fn skip() -> bool {
    let Some(why) = unavailable() else { return false };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} cannot run: {why}");
    eprintln!("SKIPPED {test}: {why}");
    true
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// The machine's Podman, set apart.
pub(crate) struct Podman {
    dir: PathBuf,
    found: Option<Found>,
}

impl Podman {
    /// Starts its API service; `None`: the test is to be skipped, which was said. `registry` is the
    /// address of one that speaks plain HTTP.
    pub(crate) async fn start_with(registry: Option<&str>) -> Option<Self> {
        if skip() {
            return None;
        }
        sweep();
        let me = ProcessFile::of(std::process::id()).unwrap();
        static MADE: OnceLock<std::sync::atomic::AtomicU32> = OnceLock::new();
        let made =
            MADE.get_or_init(Default::default).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("{MARK}{}-{made}", me.pid));
        // Another process' of that pid that the sweep did not know.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("tmp")).unwrap();
        std::fs::write(dir.join("owner.json"), serde_json::to_vec(&me).unwrap()).unwrap();
        let shown = dir.display();
        // No CAP_SYS_RESOURCE may be had, cgroups may be hybrid: see docs/dependencies.md.
        let config = format!(
            "[containers]\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
             [engine]\n\
             runtime = \"runc\"\n\
             cgroup_manager = \"cgroupfs\"\n\
             events_logger = \"file\"\n\
             exit_command_delay = 1\n\
             tmp_dir = \"{shown}/tmp\"\n\
             [network]\n\
             network_backend = \"netavark\"\n\
             network_config_dir = \"{shown}/networks\"\n"
        );
        std::fs::write(dir.join("containers.conf"), config).unwrap();
        let registries = registry.map_or_else(String::new, |address| {
            format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n")
        });
        std::fs::write(dir.join("registries.conf"), registries).unwrap();
        let mut podman = Self { dir, found: None };
        podman.import();
        podman.serve().await;
        Some(podman)
    }

    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// How to look for this Podman and for nothing else.
    pub(crate) fn search(&self) -> Search {
        let mut options = self.environment();
        options.push("podman".into());
        options.extend(self.options());
        Search {
            podman: Some("/usr/bin/env".into()),
            own_dir: Some(self.dir.join("api")),
            podman_options: options,
            ..Search::default()
        }
    }

    async fn serve(&mut self) {
        self.found = Some(weft_engine::find(&self.search()).await.unwrap());
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.found.as_ref().unwrap().engine
    }

    pub(crate) fn service(&self) -> &OwnService {
        self.found.as_ref().unwrap().service.as_ref().unwrap()
    }

    pub(crate) fn found(&self) -> &Found {
        self.found.as_ref().unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A container that is this test's.
    pub(crate) fn spec(&self, name: &str, cmd: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: name.into(),
            owner: Some(Owner {
                node: "node-1".into(),
                key: ComponentKey { service: "web".into(), replica: 1, component: name.into() },
                revision: 7,
                spec_hash: "abcd".into(),
                epoch: 0,
                generation: 1,
                ports: Vec::new(),
            }),
            image: IMAGE.into(),
            network: "none".into(),
            cmd: cmd.iter().map(|&part| part.to_owned()).collect(),
            ..ContainerSpec::default()
        }
    }

    /// Makes and starts one.
    pub(crate) async fn run(&self, name: &str, script: &str) -> String {
        let spec = self.spec(name, &["/bin/sh", "-c", script]);
        let id = self.engine().create(&spec).await.unwrap();
        self.engine().start(&id).await.unwrap();
        id
    }

    fn environment(&self) -> Vec<String> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        vec![
            format!("CONTAINERS_CONF={}", file("containers.conf")),
            format!("CONTAINERS_REGISTRIES_CONF={}", file("registries.conf")),
        ]
    }

    fn options(&self) -> Vec<String> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        vec!["--root".into(), file("storage"), "--runroot".into(), file("run")]
    }

    /// The command, as a person would use it beside the API.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        Command::new("env")
            .args(self.environment())
            .arg("podman")
            .args(self.options())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// As [`Podman::command`], killed after so many seconds if it has not ended.
    pub(crate) fn killed(&self, after: &str, arguments: &[&str]) {
        Command::new("timeout")
            .args(["-s", "KILL", after, "env"])
            .args(self.environment())
            .arg("podman")
            .args(self.options())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
    }

    fn import(&self) {
        let tar = self.dir.join("image.tar");
        std::fs::write(&tar, root_tar(&self.dir.join("root"))).unwrap();
        let done = self.command(&["import", "--quiet", tar.to_str().unwrap(), IMAGE]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // The service first: it would not like what follows.
        let service = self.found.as_ref().and_then(|found| found.service.as_ref());
        let service = service.and_then(|service| ProcessFile::of(service.pid()).ok());
        drop(self.found.take());
        if let Some(service) = service {
            let pid = i32::try_from(service.pid).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid.filter(|_| service.is_running()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            while service.is_running() {
                std::thread::yield_now();
            }
        }
        clean(&self.dir);
    }
}

/// A root directory of busybox as a tar archive.
pub(crate) fn root_tar(dir: &Path) -> Vec<u8> {
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    for name in ["tmp", "etc", "proc", "sys", "dev"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    std::fs::copy(busybox().unwrap(), dir.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "env", "sleep", "id", "ls", "printf", "tail", "head", "dd", "true",
        "false", "stty", "kill", "wc", "nc", "test", "pwd", "touch", "od", "seq", "tr",
    ] {
        let _ = std::os::unix::fs::symlink("busybox", dir.join("bin").join(applet));
    }
    std::fs::write(dir.join("etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
        .unwrap();
    let done = Command::new("tar").arg("-C").arg(dir).args(["-cf", "-", "."]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// Removes containers, mounts and files of one.
fn clean(dir: &Path) {
    let config = dir.join("containers.conf");
    if config.exists() {
        let _ = Command::new("podman")
            .env("CONTAINERS_CONF", config)
            .args(["--root", dir.join("storage").to_str().unwrap()])
            .args(["--runroot", dir.join("run").to_str().unwrap()])
            .args(["rm", "--all", "--force", "--time", "0"])
            .stdin(Stdio::null())
            .output();
    }
    // Those of commands that were run in a container wait a while before they clean up, and would
    // make the directory again.
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
    let owner = dir.join("owner.json");
    let owner_text = std::fs::read(&owner).unwrap_or_default();
    for _ in 0..20 {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            if Path::new(mount).starts_with(dir) {
                let _ = Command::new("umount").args(["-l", mount]).output();
            }
        }
        match std::fs::remove_dir_all(dir) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "{}: {error}", dir.display());
            }
        }
    }
    // For a later sweep.
    let _ = std::fs::write(owner, owner_text);
}

/// Cleans up after tests that were killed: their directories say whose they are.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let dir = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(MARK) {
            continue;
        }
        let owner = std::fs::read(dir.join("owner.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<ProcessFile>(&text).ok());
        if owner.is_some_and(|owner| !owner.is_running()) {
            // Its service is its child, and may still be there.
            let service = std::fs::read(dir.join("api/podman.json"))
                .ok()
                .and_then(|text| serde_json::from_slice::<ProcessFile>(&text).ok())
                .filter(ProcessFile::is_running);
            if let Some(pid) = service
                .and_then(|service| i32::try_from(service.pid).ok())
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            clean(&dir);
        }
    }
}
