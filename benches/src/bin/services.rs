//! How long services take to run: 20 components, one, and the replacement of one that was killed.
//!
//! `services [rounds] [--json] [--log <file>]`: each round (default 5) does all of it with Weft's two drivers, with
//! plain `podman` and with bare processes, one after the other, so that they share whatever the
//! machine does meanwhile. It needs root, iproute2, Podman, runc and a static busybox. One node, a
//! real `weftd`, in a network namespace; plain `podman` has storage and a namespace of its own.
//!
//! Created → running is measured from the start of the command (`weft deploy`, `podman run -d`)
//! until the program has given its sign of life and whoever started it says that it runs: the
//! runtime's own list, or the end of `podman run`. Killed → running from the signal, from outside,
//! until the sign of life of the next start. With `--log` the daemon logs at debug, and its log is
//! copied there: it says how long each call to the engine took.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_bench::figures::Three;
use weft_bench::signs::{IN_CONTAINER, RESOLUTION, Signs};
use weft_link::{Call, Client};
use weft_protocol::{ComponentState, WatchComponents};
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options};
use weft_tests::podman::{Boxes, IMAGE, Podman, skip};
use weft_tests::{kill_9, run};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

/// Components of the large service.
const MANY: usize = 20;
/// `podman run` so many at a time.
const AT_ONCE: usize = 4;
/// For everything that should take seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// Who starts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Who {
    WeftContainer,
    PlainPodman,
    WeftProcess,
    BareProcess,
}

impl Who {
    const ALL: [Self; 4] =
        [Self::WeftContainer, Self::PlainPodman, Self::WeftProcess, Self::BareProcess];

    const fn label(self) -> &'static str {
        match self {
            Self::WeftContainer => "weft, container",
            Self::PlainPodman => "plain podman",
            Self::WeftProcess => "weft, process",
            Self::BareProcess => "bare process",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// 20, until the last runs.
    Many,
    /// The same, without waiting for anybody's word.
    ManySigns,
    /// 20, until `weft deploy` is done.
    ManyDone,
    One,
    OneSign,
    OneDone,
    Killed,
}

impl What {
    const ALL: [Self; 7] = [
        Self::Many,
        Self::ManySigns,
        Self::ManyDone,
        Self::One,
        Self::OneSign,
        Self::OneDone,
        Self::Killed,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Many => "20 created → running",
            Self::ManySigns => "… of it, signs of life of all",
            Self::ManyDone => "… until `weft deploy` returns",
            Self::One => "1 created → running",
            Self::OneSign => "… of it, its sign of life",
            Self::OneDone => "… until `weft deploy` returns",
            Self::Killed => "killed → replacement runs",
        }
    }
}

/// All samples.
#[derive(Default)]
struct Samples(BTreeMap<(What, Who), Vec<Duration>>);

impl Samples {
    fn add(&mut self, what: What, who: Who, time: Duration) {
        self.0.entry((what, who)).or_default().push(time);
    }

    fn three(&self, what: What, who: Who) -> Option<Three> {
        self.0.get(&(what, who)).map(|times| Three::seconds(times))
    }

    /// The goal of the median in seconds, from the issue; none: it is only shown.
    fn goal(&self, what: What, who: Who) -> Option<f64> {
        let podman = || self.three(what, Who::PlainPodman).map(|three| three.median * 1.1);
        match (who, what) {
            (Who::WeftContainer, What::Many | What::One) => podman(),
            (Who::WeftContainer, What::Killed) => Some(0.3),
            (Who::WeftProcess, What::Many) => Some(0.5),
            (Who::WeftProcess, What::One) => Some(0.05),
            (Who::WeftProcess, What::Killed) => Some(0.1),
            _ => None,
        }
    }
}

/// A row of what is printed.
#[derive(Debug, Serialize)]
struct Row {
    who: Who,
    what: What,
    seconds: Three,
    goal: Option<f64>,
    met: Option<bool>,
}

/// Everything there is to measure with.
struct Bench {
    boxes: Boxes,
    plain: Podman,
    signs: Signs,
    states: mpsc::Receiver<(Instant, Seen)>,
    /// What the runtime said last, by service and component.
    seen: BTreeMap<(String, String), (Instant, Seen)>,
    /// For names that were never used.
    number: usize,
    samples: Samples,
    _dir: Gone,
}

/// What the runtime says of a component.
#[derive(Debug, Clone)]
struct Seen {
    service: String,
    component: String,
    running: bool,
    pid: u32,
}

/// Removes a directory.
struct Gone(std::path::PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Notes what the runtime says, when it says it.
fn watch(socket: std::path::PathBuf) -> mpsc::Receiver<(Instant, Seen)> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let client = Client::connect_local(&socket, DEADLINE).await.expect("the node is there");
            let message = WatchComponents { service: String::new() };
            let to = Address::here(ActorKind::Runtime);
            let items = client.subscribe(to, message, Call::within(DEADLINE)).await;
            let mut items = items.expect("the runtime can be watched");
            while let Some(Ok(status)) = items.next().await {
                let seen = Seen {
                    service: status.key.service,
                    component: status.key.component,
                    running: status.state == ComponentState::Running && status.pid != 0,
                    pid: status.pid,
                };
                if sender.send((SystemClock.now(), seen)).is_err() {
                    return;
                }
            }
        });
    });
    receiver
}

impl Bench {
    fn new(debug: bool) -> Option<Self> {
        if skip() {
            return None;
        }
        let net = Net::new(2)?;
        let podman = Podman::start(&net, 0);
        let plain = Podman::start(&net, 1);
        let mut settings = vec![
            format!("engine.socket={}", podman.socket().display()),
            "engine.allow_host_mounts=true".to_owned(),
        ];
        if debug {
            settings.push("log.level=debug".to_owned());
        }
        let cluster = NetCluster::with(net, 1, Options { settings, ..Options::default() });
        let dir = cluster.scratch().join("signs");
        std::fs::create_dir_all(&dir).expect("a directory");
        let states = watch(cluster.socket(0));
        Some(Self {
            signs: Signs::new(&dir),
            boxes: Boxes { podman: vec![podman], cluster },
            plain,
            states,
            seen: BTreeMap::new(),
            number: 0,
            samples: Samples::default(),
            _dir: Gone(dir),
        })
    }

    /// A name for a service that was never used.
    fn name(&mut self) -> String {
        self.number += 1;
        format!("s{}", self.number)
    }

    fn definition(&self, who: Who, service: &str, components: &[String]) -> String {
        let mut text = format!("name = \"{service}\"\n");
        for component in components {
            let (image, dir) = match who {
                Who::WeftContainer => (
                    format!(
                        "image = \"{IMAGE}\"\nvolumes = [\"{}:{IN_CONTAINER}\"]\n",
                        self.signs.dir().display()
                    ),
                    IN_CONTAINER.to_owned(),
                ),
                _ => (String::new(), self.signs.dir().to_string_lossy().into_owned()),
            };
            let [shell, c, script] = Signs::command(&dir, &format!("{service}-{component}"));
            text.push_str(&format!(
                "\n[[components]]\nname = \"{component}\"\n{image}stop_grace = \"1s\"\n\
                 cmd = [\"{shell}\", \"{c}\", \"{script}\"]\n"
            ));
        }
        text
    }

    /// Reads what the runtime has said meanwhile.
    fn hear(&mut self) {
        while let Ok((at, seen)) = self.states.try_recv() {
            let key = (seen.service.clone(), seen.component.clone());
            // When it first said so counts.
            if let Some((_, last)) = self.seen.get(&key)
                && (last.running, last.pid) == (seen.running, seen.pid)
            {
                continue;
            }
            self.seen.insert(key, (at, seen));
        }
    }

    /// When the runtime said that they run, of the last of them.
    fn listed(&mut self, service: &str, components: &[String]) -> Instant {
        let begun = SystemClock.now();
        loop {
            self.hear();
            let said = components.iter().map(|component| {
                let seen = self.seen.get(&(service.to_owned(), component.clone()));
                seen.filter(|(_, seen)| seen.running).map(|(at, _)| *at)
            });
            if let Some(last) =
                said.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max())
            {
                return last;
            }
            assert!(begun.elapsed() < DEADLINE, "{service} is not listed as running");
            std::thread::park_timeout(RESOLUTION);
        }
    }

    /// One service of Weft, from nothing until it runs.
    fn deploy(&mut self, who: Who, components: usize, what: [What; 3]) -> String {
        let service = self.name();
        let components: Vec<String> = (0..components).map(|n| format!("c{n}x")).collect();
        let text = self.definition(who, &service, &components);
        let file = self.boxes.cluster.definition(&service, &text);
        let signs: Vec<String> =
            components.iter().map(|component| format!("{service}-{component}")).collect();
        let mut command = self.boxes.cluster.command(0);
        command.args(["deploy", "-f", &file, "--quiet"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let begun = SystemClock.now();
        let mut deploy = command.spawn().expect("weft starts");
        let signed = self.signs.wait(&signs, 1, DEADLINE);
        let listed = self.listed(&service, &components);
        let status = deploy.wait().expect("a child can be waited for");
        let done = SystemClock.now();
        assert!(status.success(), "weft deploy: {status}");
        for (what, until) in what.into_iter().zip([listed.max(signed), signed, done]) {
            self.samples.add(what, who, until.saturating_duration_since(begun));
        }
        service
    }

    fn weft(&mut self, who: Who) {
        let many = self.deploy(who, MANY, [What::Many, What::ManySigns, What::ManyDone]);
        self.purge(&many);
        let one = self.deploy(who, 1, [What::One, What::OneSign, What::OneDone]);
        self.hear();
        let (_, seen) = &self.seen[&(one.clone(), "c0x".to_owned())];
        let pid = seen.pid;
        let begun = SystemClock.now();
        kill_9(pid);
        let again = self.signs.wait(&[format!("{one}-c0x")], 2, DEADLINE);
        self.samples.add(What::Killed, who, again - begun);
        self.purge(&one);
    }

    fn purge(&self, service: &str) {
        self.boxes.cluster.weft(0, &["undeploy", service, "--yes"]).ok();
    }

    fn podman(&mut self) {
        let who = Who::PlainPodman;
        let names: Vec<String> = (0..MANY).map(|_| self.name()).collect();
        let begun = SystemClock.now();
        let (plain, signs) = (&self.plain, &self.signs);
        let returned = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..AT_ONCE)
                .map(|lane| {
                    let mine: Vec<&String> = names.iter().skip(lane).step_by(AT_ONCE).collect();
                    scope.spawn(move || {
                        for name in mine {
                            start_plain(plain, signs.dir(), name, &[]);
                        }
                        SystemClock.now()
                    })
                })
                .collect();
            lanes.into_iter().map(|lane| lane.join().expect("it ran")).max()
        });
        let signed = signs.wait(&names, 1, DEADLINE);
        let returned = returned.unwrap_or(signed).max(signed);
        self.samples.add(What::Many, who, returned - begun);
        self.samples.add(What::ManySigns, who, signed - begun);
        self.remove_plain();

        let name = self.name();
        let begun = SystemClock.now();
        start_plain(&self.plain, self.signs.dir(), &name, &["--restart", "always"]);
        let returned = SystemClock.now();
        let signed = self.signs.wait(std::slice::from_ref(&name), 1, DEADLINE);
        self.samples.add(What::One, who, returned.max(signed) - begun);
        self.samples.add(What::OneSign, who, signed - begun);
        let pid = self.plain.field(&name, "{{.State.Pid}}").parse().expect("a pid");
        let begun = SystemClock.now();
        kill_9(pid);
        let again = self.signs.wait(&[name], 2, DEADLINE);
        self.samples.add(What::Killed, who, again - begun);
        self.remove_plain();
    }

    fn remove_plain(&self) {
        self.plain.podman(&["rm", "--all", "--force", "--time", "0"]).ok();
    }

    /// What the machine itself takes for the same programs, with nobody between.
    fn bare(&mut self) {
        let who = Who::BareProcess;
        for (count, what) in [(MANY, What::Many), (1, What::One)] {
            let names: Vec<String> = (0..count).map(|_| self.name()).collect();
            let begun = SystemClock.now();
            let mut all: Vec<Child> =
                names.iter().map(|name| start_bare(self.signs.dir(), name)).collect();
            let signed = self.signs.wait(&names, 1, DEADLINE);
            self.samples.add(what, who, signed - begun);
            if let (1, Some(one), Some(name)) = (count, all.first_mut(), names.first()) {
                let begun = SystemClock.now();
                kill_9(one.id());
                one.wait().expect("a child can be waited for");
                *one = start_bare(self.signs.dir(), name);
                let again = self.signs.wait(&names, 2, DEADLINE);
                self.samples.add(What::Killed, who, again - begun);
            }
            for child in &mut all {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for what in What::ALL {
            for who in Who::ALL {
                let Some(seconds) = self.samples.three(what, who) else { continue };
                let goal = self.samples.goal(what, who);
                let met = goal.map(|goal| seconds.median <= goal);
                rows.push(Row { who, what, seconds, goal, met });
            }
        }
        rows
    }
}

/// `podman run -d`, as a person would.
fn start_plain(podman: &Podman, signs: &Path, name: &str, more: &[&str]) {
    let volume = format!("{}:{IN_CONTAINER}", signs.display());
    let command = Signs::command(IN_CONTAINER, name);
    let mut arguments = vec!["run", "-d", "--name", name, "-v", &volume];
    arguments.extend(more);
    arguments.push(IMAGE);
    arguments.extend(command.iter().map(String::as_str));
    podman.podman(&arguments).ok();
}

fn start_bare(signs: &Path, name: &str) -> Child {
    let [shell, c, script] = Signs::command(&signs.to_string_lossy(), name);
    let mut command = Command::new(shell);
    command.args([c, script]).stdin(Stdio::null()).spawn().expect("a shell starts")
}

fn print(rows: &[Row]) {
    println!("| what | who | n | min s | median s | max s | goal s | met |");
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let goal = row.goal.map_or_else(String::new, |goal| format!("≤ {goal:.3}"));
        let met = row.met.map_or("", |met| if met { "yes" } else { "**no**" });
        let (what, who) = (row.what.label(), row.who.label());
        println!("| {what} | {who} | {} | {goal} | {met} |", row.seconds.cells());
    }
}

fn main() -> ExitCode {
    let (mut rounds, mut json, mut log) = (5usize, false, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.parse() {
            Ok(count) => rounds = count,
            Err(_) if arg == "--json" => json = true,
            Err(_) if arg == "--log" => log = args.next(),
            Err(_) => {
                eprintln!("usage: services [rounds] [--json] [--log <file>]");
                return ExitCode::from(2);
            }
        }
    }
    let Some(mut bench) = Bench::new(log.is_some()) else { return ExitCode::FAILURE };
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let begun = SystemClock.now();
    let load = load().split(' ').next().unwrap_or_default().to_owned();
    for round in 1..=rounds {
        bench.weft(Who::WeftContainer);
        bench.podman();
        bench.weft(Who::WeftProcess);
        bench.bare();
        eprintln!("round {round} of {rounds}, {:.0} s so far", begun.elapsed().as_secs_f64());
    }
    if let Some(log) = log
        && let Err(error) = std::fs::write(&log, bench.boxes.cluster.log(0))
    {
        eprintln!("{log}: {error}");
    }
    let rows = bench.rows();
    if json {
        println!("{}", serde_json::json!({ "rounds": rounds, "load": load, "rows": rows }));
    } else {
        let version = run(Command::new("podman").arg("--version")).stdout;
        println!(
            "{rounds} rounds, one node, {}, load {load} at the beginning; resolution {} ms",
            version.trim(),
            RESOLUTION.as_millis()
        );
        print(&rows);
    }
    ExitCode::SUCCESS
}
