//! What processes are held to (`resources`), and the probes that look at them from this machine
//! (orchestration §3.2).

use std::path::PathBuf;

use serde_json::Value;
use weft_tests::{Cluster, bin_dir, eventually, with_environment};

/// One node with one service of one component.
struct One {
    cluster: Cluster,
    file: String,
}

impl One {
    fn deploy(body: &str, arguments: &[&str]) -> Self {
        let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
        let file =
            cluster.definition("s", &format!("name = \"s\"\n[[components]]\nname = \"c\"\n{body}"));
        cluster.weft(&[&["deploy", "-f", &file, "--no-wait"][..], arguments].concat()).ok();
        Self { cluster, file }
    }

    fn row(&self) -> Option<Value> {
        self.cluster.ps("n1").into_iter().find(|row| row["service"] == "s")
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.row().filter(|row| holds(row)))
    }
}

/// Directories of the kernel's groups that a process is in and that bear a component's name.
fn groups(pid: u64) -> Vec<PathBuf> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    let points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(point))
    });
    let points: Vec<_> = points.collect();
    own.lines()
        .filter_map(|line| line.rsplit_once(':').map(|(_, path)| path.trim_start_matches('/')))
        .filter(|path| path.ends_with("s.1.c"))
        .flat_map(|path| points.iter().map(move |point| point.join(path)))
        .filter(|dir| dir.is_dir())
        .collect()
}

/// Whether this machine lets its root make groups; elsewhere only an rlimit is looked at.
fn has_groups(limits: &str) -> bool {
    let has = limits.contains("cgroup v");
    assert!(has || limits.contains("rlimit"), "{limits}");
    has
}

#[test]
fn a_process_that_uses_up_its_memory_is_ended_and_says_so() {
    // It keeps all that it reads in memory.
    let one = One::deploy(
        "cmd = [\"tail\", \"/dev/zero\"]\nrestart = \"no\"\nresources = { memory = \"32MiB\" }\n",
        &[],
    );
    let row = one.until("it has ended", |row| row["last_exit"].is_string());
    let exit = row["last_exit"].as_str().unwrap_or_default().to_owned();
    let out_of_memory = exit == "out of memory: signal 9";
    // Where there are no groups, it is told that there is no more.
    assert!(out_of_memory || exit == "exit 1", "{row}");
    let status = one.cluster.weft(&["status", "s"]);
    assert!(status.stdout.contains(&exit), "{status:?}");
}

#[test]
fn what_a_process_is_held_to_is_in_force_and_said_also_by_the_next_daemon_and_gone_with_it() {
    let mut one = One::deploy(
        "cmd = [\"sh\", \"-c\", \"while :; do :; done\"]\nstop_grace = \"1s\"\n\
         resources = { memory = \"64MiB\", cpu_millis = 200 }\n",
        &[],
    );
    let row = one.until("it runs", |row| row["state"] == "running");
    let limits = row["limits"].as_str().expect("it is said").to_owned();
    let pid = row["pid"].as_u64().expect("a pid");
    let dirs = groups(pid);
    if has_groups(&limits) {
        let status = one.cluster.weft(&["status", "s"]).ok().stdout;
        assert!(status.contains("LIMITS") && status.contains(&limits), "{status}");
        assert!(limits.starts_with("memory 64 MiB (cgroup v"), "{limits}");
        assert!(limits.contains("cpu 200 millicores (cgroup v"), "{limits}");
        let read =
            |file: &str| dirs.iter().find_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
        let most = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
        assert_eq!(most.as_deref().map(str::trim), Some("67108864"), "{dirs:?}");
        eventually("its use of the CPU is held back", || {
            let stat = read("cpu.stat")?;
            let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "))?;
            (line.trim().parse::<u64>().ok()? > 0).then_some(())
        });
        // Its shim is not held to it.
        let shim = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let shim = shim.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
        assert_eq!(groups(shim.trim().parse().expect("a pid")), Vec::<PathBuf>::new());
    }
    one.cluster.kill_daemon("n1");
    one.cluster.start_daemon("n1");
    let after = one.until("the next daemon has it", |row| row["state"] == "running");
    assert_eq!((after["pid"].as_u64(), after["limits"].as_str()), (Some(pid), Some(&*limits)));
    one.cluster.weft(&["undeploy", "s", "--yes"]).ok();
    eventually("its groups are gone", || dirs.iter().all(|dir| !dir.exists()).then_some(()));
}

#[test]
fn a_command_beside_a_process_says_whether_it_is_well() {
    let marker = format!("MARK=probe-{}", std::process::id());
    let one = One::deploy(
        &format!(
            "cmd = [\"{}\"]\nenv = [\"{marker}\"]\n[components.health]\nkind = \"exec\"\n\
             command = [\"sh\", \"-c\", \"test -n \\\"$WEFT_NODE\\\" && test -f well || {{ echo no file well >&2; exit 3; }}\"]\n\
             interval = \"100ms\"\nstart_period = \"1h\"\n",
            bin_dir().join("hello").display()
        ),
        &[],
    );
    // In its directory and environment; bad answers count only after the start period.
    one.until("it runs and is not well", |row| {
        row["state"] == "starting" && row["health"] == "unknown" && row["pid"].is_u64()
    });
    let well = one.cluster.scratch().join("well");
    std::fs::write(&well, "").expect("writes");
    one.cluster.weft(&["push", well.to_str().expect("a path"), "s"]).ok();
    let row = one.until("it is well", |row| row["health"] == "healthy");
    let pid = row["pid"].as_u64();

    // One that hangs is ended at its timeout, with all that it started.
    let text = std::fs::read_to_string(&one.file).expect("reads");
    let hangs = text
        .split("[components.health]")
        .next()
        .map(|head| {
            format!(
                "{head}[components.health]\nkind = \"exec\"\ncommand = [\"sh\", \"-c\", \"sleep 987 & sleep 987\"]\n\
                 interval = \"100ms\"\ntimeout = \"200ms\"\nretries = 2\n[update]\ndeadline = \"5s\"\nhealthy_for = \"1s\"\n"
            )
        })
        .expect("a head");
    std::fs::write(&one.file, hangs).expect("writes");
    let failed = one.cluster.weft(&["deploy", "-f", &one.file]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("no answer from the command within 200ms"), "{failed:?}");
    one.until("what ran before still does", |row| {
        row["pid"].as_u64() == pid && row["health"] == "healthy"
    });
    eventually("nothing of the probe is left", || {
        let cmd = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        let left = with_environment(&marker);
        (!left.iter().any(|pid| cmd(pid).is_ok_and(|cmd| cmd.contains("987")))).then_some(())
    });
}

#[test]
fn a_grpc_health_check_says_whether_a_process_is_well() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    drop(port);
    let one = One::deploy(
        &format!(
            "cmd = [\"{}\", \"run\", \"--session-only\"]\n\
             env = [\"MACP_BIND_ADDR={address}\", \"MACP_ALLOW_INSECURE=1\", \"MACP_MEMORY_ONLY=1\"]\n\
             [components.health]\nkind = \"grpc\"\nport = {}\ninterval = \"100ms\"\n",
            bin_dir().join("weftd").display(),
            address.port(),
        ),
        &[],
    );
    one.until("it serves", |row| row["state"] == "running" && row["health"] == "healthy");
    // What speaks HTTP, and not gRPC, is not well.
    let other = format!(
        "name = \"t\"\n[[components]]\nname = \"c\"\ncmd = [\"{}\"]\nrestart = \"no\"\n\
         [[components.routes]]\nport = 443\n[components.health]\nkind = \"grpc\"\n\
         interval = \"100ms\"\ntimeout = \"1s\"\nretries = 1\n",
        bin_dir().join("hello").display()
    );
    let file = one.cluster.definition("t", &other);
    one.cluster.weft(&["deploy", "-f", &file, "--no-wait"]).ok();
    eventually("it is said not to be well", || {
        let rows = one.cluster.ps("n1");
        let row = rows.iter().find(|row| row["service"] == "t")?;
        let why = row["reason"].as_str()?.to_owned();
        (row["health"] == "unhealthy" && why.starts_with("unhealthy: ")).then_some(())
    });
}
