//! Engines and images as a node finds them: where an engine is looked for, pulls, a disk without
//! room, containers that do not want to end, and what they mount.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use weft_tests::nodes::hello_on;
use weft_tests::podman::{Boxes, IMAGE};
use weft_tests::{DEADLINE, Done, bin_dir, eventually, is_alive, run, with_environment};
use weft_wire::{Clock, SystemClock};

/// Sockets of the machine's own engines, which a node would find by itself.
const SYSTEM: [&str; 2] = ["/run/podman/podman.sock", "/var/run/docker.sock"];
/// Hides them, then runs what follows.
const HIDE: &str = "for socket in /run/podman/podman.sock /var/run/docker.sock; do \
    test ! -e $socket || mount --bind /dev/null $socket; done; exec \"$@\"";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_running(row: &Value) -> bool {
    row["state"] == "running" && row["health"] != "unknown"
}

fn said(done: &Done) -> String {
    format!("{}{}", done.stdout, done.stderr)
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

/// A service of one container that answers over HTTP and is updated in its place.
fn web(image: &str) -> String {
    format!(
        r#"name = "web"
node = "n1"

[update]
order = "stop-first"
healthy_for = "300ms"

[[components]]
name = "web"
image = "{image}"
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

/// A component that runs a script in a shell; `more` stands at its end.
fn scripted(name: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).expect("JSON is TOML here");
    format!(
        "[[components]]\nname = \"{name}\"\nimage = \"{IMAGE}\"\n\
         cmd = [\"/bin/sh\", \"-c\", {script}]\n{more}\n"
    )
}

/// The node's daemon starts again, with more settings, and is ready.
#[track_caller]
fn again(boxes: &mut Boxes, settings: &[&str]) {
    let socket = format!("engine.socket={}", boxes.podman[0].socket().display());
    boxes.cluster.set(0, &[&[socket.as_str()][..], settings].concat());
    boxes.cluster.restart(0);
    boxes.cluster.node_is(0, 0, &["ready"]);
}

/// What a [`Registry`] answers.
struct Site {
    /// Kind of content and content, by path.
    pages: BTreeMap<String, (&'static str, Vec<u8>)>,
    /// Of the manifest.
    digest: String,
    /// Requests so far.
    asked: AtomicUsize,
    over: AtomicBool,
}

/// A container registry of one image, in a node's network, in plain HTTP.
struct Registry {
    /// The image without its tag, which is 1.
    repository: String,
    site: Arc<Site>,
    thread: Option<JoinHandle<()>>,
}

fn digest(scratch: &Path, bytes: &[u8]) -> String {
    let file = scratch.join("digested");
    std::fs::write(&file, bytes).expect("writes");
    let sum = run(Command::new("sha256sum").arg(&file)).ok().stdout;
    format!("sha256:{}", sum.split(' ').next().expect("a sum"))
}

impl Registry {
    /// Begins to serve an image that can be run as [`IMAGE`] can, whose one layer is of some MiB.
    /// The node's engine speaks to it from the next start of its service on.
    #[track_caller]
    fn start(boxes: &Boxes) -> Self {
        let (engine, scratch) = (boxes.podman[0].socket(), boxes.cluster.scratch());
        // One more file: an engine fetches no layer that it has.
        let root = engine.with_file_name("root");
        std::fs::write(root.join("pulled"), vec![7_u8; 2 << 20]).expect("writes");
        let tar = engine.with_file_name("layer.tar");
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".")).ok();
        let layer = std::fs::read(&tar).expect("a layer");
        let of_layer = digest(scratch, &layer);
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": ["FROM_IMAGE=1"]},
            "rootfs": {"type": "layers", "diff_ids": [of_layer]},
        });
        let config = config.to_string().into_bytes();
        let of_config = digest(scratch, &config);
        let oci = |what: &str| format!("application/vnd.oci.image.{what}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": oci("manifest.v1+json"),
            "config": {"mediaType": oci("config.v1+json"), "digest": of_config,
                "size": config.len()},
            "layers": [{"mediaType": oci("layer.v1.tar"), "digest": of_layer,
                "size": layer.len()}],
        });
        let manifest = manifest.to_string().into_bytes();
        let of_manifest = digest(scratch, &manifest);
        let (kind, blob) =
            ("application/vnd.oci.image.manifest.v1+json", "application/octet-stream");
        let pages = BTreeMap::from([
            ("/v2/".to_owned(), ("application/json", b"{}".to_vec())),
            ("/v2/test/app/manifests/1".to_owned(), (kind, manifest.clone())),
            (format!("/v2/test/app/manifests/{of_manifest}"), (kind, manifest)),
            (format!("/v2/test/app/blobs/{of_config}"), (blob, config)),
            (format!("/v2/test/app/blobs/{of_layer}"), (blob, layer)),
        ]);

        let listener = boxes.cluster.net.inside(0, || TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("it can be asked");
        let trusted = format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n");
        std::fs::write(engine.with_file_name("registries.conf"), trusted).expect("writes");
        let site = Arc::new(Site {
            pages,
            digest: of_manifest,
            asked: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let serving = site.clone();
        let thread = std::thread::spawn(move || {
            while !serving.over.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::park_timeout(Duration::from_millis(5));
                    continue;
                };
                let site = serving.clone();
                std::thread::spawn(move || serve(stream, &site));
            }
        });
        Self { repository: format!("{address}/test/app"), site, thread: Some(thread) }
    }

    fn tagged(&self) -> String {
        format!("{}:1", self.repository)
    }

    fn by_digest(&self) -> String {
        format!("{}@{}", self.repository, self.site.digest)
    }

    /// How many requests it has got.
    fn asked(&self) -> usize {
        self.site.asked.load(Ordering::Relaxed)
    }

    /// Nobody listens any more.
    fn stop(&mut self) {
        self.site.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers a connection's requests; `None`: it has ended.
fn serve(stream: TcpStream, site: &Site) -> Option<()> {
    let mut out = stream.try_clone().ok()?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
        if site.over.load(Ordering::Relaxed) {
            return None;
        }
        site.asked.fetch_add(1, Ordering::Relaxed);
        let mut words = request.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let (status, kind, body) = match site.pages.get(path) {
            Some((kind, body)) => ("200 OK", *kind, body.as_slice()),
            None => ("404 Not Found", "application/json", &b"{}"[..]),
        };
        let of = if path.contains("/manifests/") {
            format!("Docker-Content-Digest: {}\r\n", site.digest)
        } else {
            String::new()
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{of}\
             Docker-Distribution-Api-Version: registry/2.0\r\n\r\n"
        );
        out.write_all(head.as_bytes()).ok()?;
        if method != "HEAD" {
            out.write_all(body).ok()?;
        }
    }
}

/// Connects to an address again and again until `over`; how long the longest attempt took.
fn longest_attempt(address: &str, over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = SystemClock.now();
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let _ = BufReader::new(stream).read_line(&mut String::new());
        }
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    longest
}

#[test]
fn who_connects_to_a_container_that_ends_is_refused_at_once() {
    let Some(boxes) = Boxes::start(1) else { return };
    let cluster = &boxes.cluster;
    cluster.deploy(0, &web(IMAGE));
    // The bridge stays when it ends.
    let other = web(IMAGE).replace("name = \"web\"", "name = \"other\"");
    cluster.deploy(0, &other);
    let stopped = || {
        cluster.weft(0, &["stop", "web"]).ok();
        row(&boxes, "web", |row| row["state"] == "stopped");
    };
    let killed = || {
        let pid = row(&boxes, "web", is_running)["pid"].clone();
        weft_tests::kill_9(pid.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid"));
        row(&boxes, "web", |row| is_running(row) && row["pid"] != pid);
    };
    for (what, end) in [("stop", &stopped as &dyn Fn()), ("kill", &killed)].repeat(3) {
        let web = row(&boxes, "web", is_running);
        let url = text(&web["urls"][0]);
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let over = AtomicBool::new(false);
        let longest = std::thread::scope(|scope| {
            // Whoever is first on an idle machine may be last on one that has much to do.
            for _ in 0..2 * std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let attempts =
                scope.spawn(|| cluster.net.inside(0, || longest_attempt(&address, &over)));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(end));
            over.store(true, Ordering::Relaxed);
            let longest = attempts.join().expect("no panic");
            ended.map(|()| longest).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        eprintln!("measured: {what}: an attempt to connect took {} ms", longest.as_millis());
        assert!(longest < Duration::from_secs(1), "{what}: {longest:?}");
        cluster.weft(0, &["start", "web"]).ok();
    }
}

#[test]
fn a_bridge_keeps_its_address_whatever_comes_and_goes_beside_a_container() {
    let Some(boxes) = Boxes::start(1) else { return };
    let cluster = &boxes.cluster;
    cluster.deploy(0, &web(IMAGE));
    row(&boxes, "web", is_running);
    let ip = |arguments: &[&str]| run(cluster.net.command(0, "ip").args(arguments)).ok().stdout;
    let bridges = || -> Value {
        let all = ip(&["-json", "link", "show", "type", "bridge"]);
        serde_json::from_str(&all).expect("JSON")
    };
    let before = bridges();
    let (bridge, address) = (text(&before[0]["ifname"]), text(&before[0]["address"]));
    // A bridge whose address nobody holds takes the lowest of its ports'.
    ip(&["link", "add", "lowest", "address", "02:00:00:00:00:01", "type", "veth"]);
    ip(&["link", "set", "lowest", "up", "master", &bridge]);
    let ports = ip(&["link", "show", "master", &bridge]);
    assert!(ports.contains("02:00:00:00:00:01"), "{ports}");
    assert_eq!(text(&bridges()[0]["address"]), address, "{ports}");
}

#[test]
fn what_was_pulled_is_known_by_its_digest_and_its_registry_is_not_asked_again() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    let mut registry = Registry::start(&boxes);
    boxes.podman[0].silence();
    boxes.podman[0].serve();
    again(&mut boxes, &[]);
    boxes.cluster.deploy(0, &web(&registry.tagged()));
    let first = row(&boxes, "web", is_running);
    assert_eq!(text(&first["image"]), registry.tagged());
    assert_eq!(text(&first["digest"]), registry.site.digest, "{first}");
    let asked = registry.asked();
    assert!(asked >= 3, "manifest, configuration and layer: {asked} requests");

    // The same by its digest, and by its tag again: other containers of the image that is there.
    let anew = |before: &Value, reference: &str| {
        boxes.cluster.deploy(0, &web(reference));
        let now =
            row(&boxes, "web", |row| is_running(row) && row["container"] != before["container"]);
        assert_eq!(text(&now["digest"]), registry.site.digest, "{now}");
        assert_eq!(registry.asked(), asked, "{reference}");
        now
    };
    let second = anew(&first, &registry.by_digest());
    let third = anew(&second, &registry.tagged());

    // Without the registry, too; also one that has to be made anew.
    registry.stop();
    let id = text(&third["container"]);
    boxes.podman[0].podman(&["rm", "--force", "--time", "0", &id]).ok();
    let fourth = row(&boxes, "web", |row| is_running(row) && text(&row["container"]) != id);
    boxes.cluster.deploy(0, &web(&registry.by_digest()));
    row(&boxes, "web", |row| is_running(row) && row["container"] != fourth["container"]);
    boxes.cluster.weft(0, &["stop", "web", "--yes"]).ok();
    boxes.cluster.weft(0, &["start", "web"]).ok();
    row(&boxes, "web", is_running);
    assert_eq!(registry.asked(), asked);
}

/// The node's engine with a directory of its own for what is being pulled; ended on drop.
struct Service(Child);

impl Service {
    /// Starts it in place of the one that was silenced.
    #[track_caller]
    fn start(boxes: &Boxes, pulls: &Path) -> Self {
        let socket = boxes.podman[0].socket();
        let at = |name: &str| socket.with_file_name(name).display().to_string();
        let mut command = boxes.cluster.net.command(0, "env");
        command
            .arg(format!("TMPDIR={}", pulls.display()))
            .arg(format!("CONTAINERS_CONF={}", at("containers.conf")))
            .arg(format!("CONTAINERS_REGISTRIES_CONF={}", at("registries.conf")))
            .args(["podman", "--root", &at("storage"), "--runroot", &at("run")])
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let service = Self(command.spawn().expect("podman starts"));
        eventually("its socket listens", || UnixStream::connect(&socket).ok());
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pull_without_room_names_the_disk_touches_nothing_and_goes_through_once_there_is_room() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    let registry = Registry::start(&boxes);
    // Unmounted with everything else of the node's engine.
    let pulls = boxes.podman[0].socket().with_file_name("pulls");
    std::fs::create_dir(&pulls).expect("a directory");
    let mount = |how: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", how, "weft-test"]).arg(&pulls);
        run(&mut command).ok();
    };
    mount("size=1m");
    boxes.podman[0].silence();
    let _service = Service::start(&boxes, &pulls);
    again(&mut boxes, &[]);
    boxes.cluster.deploy(0, &web(IMAGE));
    let first = row(&boxes, "web", is_running);

    let full = boxes.cluster.try_deploy(0, &web(&registry.tagged()), &[]);
    assert_eq!(full.code, 1, "{full:?}");
    assert!(said(&full).contains("the disk is full"), "{full:?}");
    assert!(registry.asked() > 0, "it was the pull that failed: {full:?}");
    let still = row(&boxes, "web", is_running);
    assert_eq!((&still["container"], &still["pid"]), (&first["container"], &first["pid"]));
    assert_eq!(text(&still["image"]), IMAGE);

    mount("remount,size=64m");
    boxes.cluster.deploy(0, &web(&registry.tagged()));
    let second = row(&boxes, "web", |row| is_running(row) && row["image"] != IMAGE);
    assert_eq!(text(&second["digest"]), registry.site.digest, "{second}");
    assert_eq!(boxes.podman[0].ids(), [text(&second["container"])]);
}

/// A daemon of the node with an environment of the test's own, which finds none of the machine's
/// engines; killed on drop.
struct Daemon(Child);

impl Daemon {
    /// Starts it in place of the one that was killed, and waits until it is ready.
    #[track_caller]
    fn start(boxes: &Boxes, environment: &[String]) -> Self {
        let data = boxes.cluster.data_dir(0);
        let log = std::fs::OpenOptions::new().append(true).open(data.join("weftd.log"));
        let log = log.expect("the log of the daemon before");
        let hides = SYSTEM.iter().any(|socket| Path::new(socket).exists());
        let mut command = boxes.cluster.net.command(0, if hides { "unshare" } else { "env" });
        if hides {
            command.args(["--mount", "/bin/sh", "-c", HIDE, "sh", "env"]);
        }
        command
            .args(["-u", "DOCKER_HOST", "-u", "XDG_RUNTIME_DIR"])
            .args(environment)
            .arg(bin_dir().join("weftd"))
            .args(["run", "--config"])
            .arg(data.join("node.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let daemon = Self(command.spawn().expect("weftd starts"));
        boxes.cluster.wait_until("it is ready", DEADLINE, |cluster| {
            let file = std::fs::read(data.join("weftd.json")).ok()?;
            let file: Value = serde_json::from_slice(&file).ok()?;
            let own = file["pid"].as_u64() == Some(u64::from(daemon.0.id()));
            let ready = cluster.states(0).iter().any(|(_, state)| state == "ready");
            (own && ready).then_some(())
        });
        daemon
    }

    /// Tells it to stop and waits until it has; its exit code.
    #[track_caller]
    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("it runs");
        eventually("it ends", || self.0.try_wait().expect("a child")).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn engine_of(boxes: &Boxes) -> String {
    let all = boxes.cluster.json(0, &["node", "status", "--json"]);
    text(&all[0]["runtime"])
}

#[test]
fn an_engine_is_found_by_docker_host_or_started_on_demand_and_without_any_what_was_tried_is_said() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    boxes.cluster.kill(0);
    let empty = boxes.cluster.scratch().join("empty").display().to_string();
    let daemon =
        Daemon::start(&boxes, &[format!("PATH={empty}"), format!("XDG_RUNTIME_DIR={empty}")]);
    let refused = boxes.cluster.try_deploy(0, &web(IMAGE), &[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let rootless = format!("{empty}/podman/podman.sock");
    let tried = [rootless.as_str(), SYSTEM[0], SYSTEM[1], "`podman` command"];
    for part in tried {
        assert!(said(&refused).contains(part), "{part} in {refused:?}");
    }
    assert_eq!(boxes.cluster.json(0, &["list", "--json"]), json!([]), "nothing was changed");
    assert_eq!(boxes.podman[0].ids(), Vec::<String>::new());
    boxes.cluster.deploy(0, &hello_on("native", "n1"));
    drop(daemon);

    let socket = boxes.podman[0].socket();
    let daemon = Daemon::start(&boxes, &[format!("DOCKER_HOST=unix://{}", socket.display())]);
    boxes.cluster.deploy(0, &web(IMAGE));
    let first = row(&boxes, "web", is_running);
    assert_eq!(engine_of(&boxes), "podman");
    drop(daemon);

    // Only the command is there, as it is meant for this node: with its storage.
    boxes.podman[0].silence();
    let bin = boxes.cluster.scratch().join("bin");
    std::fs::create_dir(&bin).expect("a directory");
    let path = std::env::var("PATH").expect("a PATH");
    let at = |name: &str| socket.with_file_name(name).display().to_string();
    let script = format!(
        "#!/bin/sh\nexport PATH='{path}' CONTAINERS_CONF='{}' CONTAINERS_REGISTRIES_CONF='{}'\n\
         exec podman --root '{}' --runroot '{}' \"$@\"\n",
        at("containers.conf"),
        at("registries.conf"),
        at("storage"),
        at("run")
    );
    std::fs::write(bin.join("podman"), script).expect("writes");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bin.join("podman"), mode).expect("it may be run");
    let daemon = Daemon::start(&boxes, &[format!("PATH={}:{path}", bin.display())]);
    let second = row(&boxes, "web", is_running);
    assert_eq!((&second["container"], &second["pid"]), (&first["container"], &first["pid"]));
    boxes.cluster.deploy(0, &web(IMAGE));
    let third = row(&boxes, "web", |row| is_running(row) && row["container"] != first["container"]);
    let own = boxes.cluster.data_dir(0).join("engine");
    assert!(own.join("podman.sock").exists());
    let file = std::fs::read(own.join("podman.json")).expect("it says which process it is");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    let pid = |value: &Value| value.as_u64().and_then(|p| u32::try_from(p).ok()).expect("a pid");
    assert!(is_alive(pid(&file["pid"])), "{file}");
    // It ends with its daemon, and what runs does not.
    assert_eq!(daemon.stop(), Some(0));
    eventually("the engine's service has ended", || (!is_alive(pid(&file["pid"]))).then_some(()));
    assert!(is_alive(pid(&third["pid"])), "{third}");
}

#[test]
fn what_ignores_sigterm_is_killed_after_its_grace_and_a_probe_that_hangs_leaves_nothing_inside() {
    let Some(boxes) = Boxes::start(1) else { return };
    let cluster = &boxes.cluster;
    let script = "trap '' TERM; echo armed; while :; do sleep 1; done";
    let deaf = format!("name = \"deaf\"\n\n{}", scripted("deaf", script, "stop_grace = \"2s\""));
    cluster.deploy(0, &deaf);
    cluster.wait_until("it hears no signal", DEADLINE, |cluster| {
        cluster.weft(0, &["logs", "deaf"]).stdout.contains("armed").then_some(())
    });
    let id = text(&row(&boxes, "deaf", is_running)["container"]);
    let begun = SystemClock.now();
    cluster.weft(0, &["stop", "deaf", "--yes"]).ok();
    let took = begun.elapsed();
    eprintln!("measured: stopped after {} ms, of a grace of 2000 ms", took.as_millis());
    assert!(took >= Duration::from_secs(2), "it had its grace: {took:?}");
    let stopped = row(&boxes, "deaf", |row| row["state"] == "stopped");
    assert_eq!(text(&stopped["last_exit"]), "exit 137 (signal 9)", "{stopped}");
    assert_eq!(boxes.podman[0].field(&id, "{{.State.Running}}"), "false");
    let status = cluster.json(0, &["status", "--json"]);
    assert_eq!(status["drift"], json!([]), "{status:#}");

    let marker = format!("MARK=probed-{}", std::process::id());
    let more = format!(
        "env = [\"{marker}\"]\nstop_grace = \"1s\"\n\n[components.health]\nkind = \"exec\"\n\
         command = [\"sleep\", \"987654\"]\ninterval = \"300ms\"\ntimeout = \"300ms\"\nretries = 2"
    );
    let hangs = format!("name = \"hangs\"\n\n{}", scripted("hangs", "exec sleep 1000", &more));
    cluster.try_deploy(0, &hangs, &["--no-wait"]).ok();
    let is_probe = |pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("987654")
    };
    let at_most_one = |row: &Value| {
        let all: Vec<u32> = with_environment(&marker).into_iter().filter(is_probe).collect();
        assert!(all.len() <= 1, "no other is started while one hangs: {all:?} {row}");
    };
    row(&boxes, "hangs", |row| {
        at_most_one(row);
        row["health"] == "unhealthy"
    });
    // For that it is stopped and started again, and its probe has ended with it.
    let after = row(&boxes, "hangs", |row| {
        at_most_one(row);
        row["restarts"].as_u64() > Some(0)
            && text(&row["reason"]).contains("no answer from the command within 300ms")
    });
    eprintln!("{after}");
    cluster.weft(0, &["stop", "hangs", "--yes"]).ok();
    row(&boxes, "hangs", |row| row["state"] == "stopped");
    assert_eq!(with_environment(&marker), Vec::<u32>::new(), "nothing of it is left");
}

/// A service that mounts directories and has what `more` says.
fn mounts(name: &str, volumes: &[String], script: &str, more: &str) -> String {
    let volumes = serde_json::to_string(volumes).expect("JSON is TOML here");
    let more = format!("volumes = {volumes}\nstop_grace = \"1s\"\n{more}");
    format!(
        "name = \"{name}\"\nnode = \"n1\"\n\n[update]\nhealthy_for = \"300ms\"\n\n{}",
        scripted(name, script, &more)
    )
}

#[test]
fn directories_outside_are_mounted_by_leave_and_what_is_written_to_is_updated_stop_first() {
    let Some(mut boxes) = Boxes::start(1) else { return };
    let made = |name: &str| -> PathBuf {
        let dir = boxes.cluster.scratch().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        dir
    };
    let (shared, fixed) = (made("shared"), made("fixed"));
    std::fs::write(fixed.join("given"), "given\n").expect("writes");
    let volumes =
        [format!("{}:/shared", shared.display()), format!("{}:/fixed:ro", fixed.display())];
    let script = "cat /fixed/given; echo inside > /shared/made; \
                  (echo no > /fixed/made) 2> /dev/null || echo refused; exec sleep 1000";
    let files = |more: &str| mounts("files", &volumes, script, more);
    let refused = boxes.cluster.try_deploy(0, &files(""), &[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    for part in ["allow_host_mounts", &shared.display().to_string()] {
        assert!(said(&refused).contains(part), "{part} in {refused:?}");
    }
    assert_eq!(boxes.cluster.json(0, &["list", "--json"]), json!([]), "nothing was changed");
    assert_eq!(boxes.podman[0].ids(), Vec::<String>::new());

    again(&mut boxes, &["engine.allow_host_mounts=true"]);
    boxes.cluster.deploy(0, &files(""));
    let (log, _) = boxes.cluster.wait_until("it has tried to write", DEADLINE, |cluster| {
        let log = cluster.weft(0, &["logs", "files"]).stdout;
        log.contains("refused").then_some(log)
    });
    assert!(log.contains("given"), "{log}");
    assert!(!fixed.join("made").exists(), "{log}");
    let written = std::fs::read_to_string(shared.join("made"));
    assert_eq!(written.expect("it was written outside"), "inside\n");

    // Two of them would write at once.
    let first = row(&boxes, "files", is_running);
    let done = boxes.cluster.deploy(0, &files("env = [\"A=1\"]"));
    assert!(done.stderr.contains("it writes to a volume"), "{done:?}");
    row(&boxes, "files", |row| is_running(row) && row["container"] != first["container"]);
    assert_eq!(boxes.podman[0].ids().len(), 1);

    // What is only read is no reason: here it is the port.
    let reads = |more: &str| {
        let more = format!("ports = [\"127.0.0.1:18090:80\"]\n{more}");
        mounts("reads", &volumes[1..], "exec sleep 1000", &more)
    };
    boxes.cluster.deploy(0, &reads(""));
    let done = boxes.cluster.deploy(0, &reads("env = [\"A=1\"]"));
    assert!(done.stderr.contains("it has host ports"), "{done:?}");
}

#[test]
fn a_container_whose_definition_names_no_network_and_user_has_those_of_the_node() {
    let settings = ["defaults.network=host", "defaults.user=1000:1000"];
    let Some(boxes) = Boxes::with(1, &settings) else { return };
    let definition = |name: &str, more: &str| {
        format!(
            "name = \"{name}\"\n[[components]]\nname = \"{name}\"\nimage = \"{IMAGE}\"\n\
             cmd = [\"sleep\", \"1000\"]\nstop_grace = \"1s\"\n{more}"
        )
    };
    boxes.cluster.deploy(0, &definition("usual", ""));
    boxes.cluster.deploy(0, &definition("own", "network = \"none\"\nuser = \"0\"\n"));
    let is = |name: &str| {
        let format = "{{.HostConfig.NetworkMode}} {{.Config.User}}";
        boxes.podman[0].field(name, format)
    };
    assert_eq!((is("usual").as_str(), is("own").as_str()), ("host 1000:1000", "none 0"));
    // Nothing of it is drift, nor a change of the definition.
    let status = boxes.cluster.weft(0, &["status", "--exit-code"]);
    assert_eq!(status.code, 0, "{status:?}");
    let shown = boxes.cluster.weft(0, &["service", "show", "usual"]).ok().stdout;
    assert!(!shown.contains("network") && !shown.contains("user"), "{shown}");
}
