//! The daemon under a service manager: what it tells it, and the units that come with it.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_tests::{Cluster, bin_dir, eventually, is_alive, run};

/// Reads what the daemon tells until something in it fits.
#[track_caller]
fn told(socket: &UnixDatagram, what: &str, fits: impl Fn(&str) -> bool) -> String {
    let mut datagram = [0; 4096];
    eventually(&format!("the service manager is told {what}"), || {
        let length = socket.recv(&mut datagram).ok()?;
        let text = String::from_utf8_lossy(datagram.get(..length).unwrap_or_default()).into_owned();
        eprintln!("{text}");
        fits(&text).then_some(text)
    })
}

fn says(line: &str) -> impl Fn(&str) -> bool + '_ {
    move |text| text.lines().any(|l| l == line)
}

#[test]
fn a_service_manager_is_told_of_readiness_of_life_and_of_the_end() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    cluster.kill_daemon("n1");
    let path = cluster.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).expect("binds");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut daemon = cluster
        .weftd("n1")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "500000")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("weftd starts");
    let first = told(&socket, "that it is ready", says("READY=1"));
    assert!(first.contains("STATUS=node n1 is ready"), "{first}");
    // Ready means that it serves.
    cluster.weft(&["ps"]).ok();
    for _ in 0..3 {
        told(&socket, "that it lives", says("WATCHDOG=1"));
    }
    // A daemon that stands still says nothing.
    let pid = rustix::process::Pid::from_child(&daemon);
    let signal = |signal| rustix::process::kill_process(pid, signal).expect("it exists");
    signal(rustix::process::Signal::STOP);
    let mut datagram = [0; 4096];
    // What it had told before.
    eventually("nothing more is told", || socket.recv(&mut datagram).is_err().then_some(()));
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    assert!(socket.recv(&mut datagram).is_err(), "a halted daemon speaks");
    signal(rustix::process::Signal::CONT);
    told(&socket, "that it lives again", says("WATCHDOG=1"));
    signal(rustix::process::Signal::TERM);
    told(&socket, "that it stops", says("STOPPING=1"));
    assert!(daemon.wait().expect("it ends").success());
    assert!(!is_alive(daemon.id()));
}

#[test]
fn the_units_are_as_systemd_wants_them_and_keep_components_when_the_daemon_stops() {
    if weft_tests::lacks("systemd-analyze") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/systemd");
    let mut seen = 0;
    for entry in std::fs::read_dir(units).expect("units").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("reads");
        for line in [
            "Type=notify",
            "KillMode=process",
            "Delegate=yes",
            "RestartSec=100ms",
            "RestartPreventExitStatus=2 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{:?} lacks {line}", entry.path());
        }
        // The program has to be there to be checked; it is where it was built.
        let program = bin_dir().join("weftd");
        let unit = dir.path().join(entry.file_name());
        let text = text.replace("/usr/local/bin/weftd", &program.to_string_lossy());
        assert!(text.contains(&*program.to_string_lossy()));
        std::fs::write(&unit, text).expect("writes");
        let done = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit));
        // Known from systemd 254 on; the unit says so.
        let newer = |line: &&str| {
            !line.contains("Unknown key 'DelegateSubgroup'")
                && !line.contains("Unknown key name 'DelegateSubgroup'")
        };
        let said: Vec<&str> = done.stderr.lines().filter(newer).collect();
        assert_eq!((done.code, done.stdout.as_str(), said), (0, "", Vec::new()));
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn a_hang_up_has_the_node_file_read_again_and_names_what_needs_a_restart() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let pid = cluster.daemon_pid("n1");
    let file = cluster.data_dir("n1").join("node.toml");
    let text = std::fs::read_to_string(&file).expect("the node file");
    let hang_up = |says: &str| {
        let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(raw, rustix::process::Signal::HUP).expect("it runs");
        eventually(&format!("it says {says}"), || cluster.log("n1").contains(says).then_some(()));
    };
    hang_up("the node file says what is in force");
    std::fs::write(&file, format!("{text}\n[monitor]\ncooldown = \"7m\"\n")).expect("writes");
    hang_up("monitor.cooldown");
    std::fs::write(&file, format!("{text}\n[monitor]\ncooldwn = 7\n")).expect("writes");
    hang_up("unknown key `cooldwn`");
    assert!(is_alive(pid) && cluster.daemon_pid("n1") == pid);
    cluster.weft(&["ps"]).ok();
}
