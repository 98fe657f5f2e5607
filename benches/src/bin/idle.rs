//! What nodes take that have nothing to do: memory and processor time of `weftd` and of the shims.
//!
//! `idle [seconds] [settle] [--json] [--set <key=value>]…`: three nodes in network namespaces, with 0, 20 and 200 process
//! components, each measured for so many seconds (default 60) after so many to settle (default 20).
//! All components are on the first node, so that one daemon has to look after all of them. It needs
//! root and iproute2; `--set` is for each daemon, such as `membership.profile=wan`; with Podman there, an engine's own service and a `conmon` are shown beside.
//!
//! Memory is PSS and private memory from `/proc/<pid>/smaps_rollup`: of pages that several processes
//! share, PSS counts the share of each, and three daemons of one machine share their program.
//! Processor time is what the scheduler counted in nanoseconds (`/proc/<pid>/task/*/schedstat`);
//! `/proc/<pid>/stat` counts ticks of 10 ms and misses work that is shorter.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde::Serialize;
use weft_bench::figures::Three;
use weft_tests::net::{Net, unavailable};
use weft_tests::nodes::{NetCluster, Options};
use weft_tests::podman::{IMAGE, Podman};
use weft_wire::{Clock, SystemClock};

/// Components of the cluster, and the most that a daemon may take then, in MiB.
const STEPS: [(usize, f64); 3] = [(0, 30.0), (20, 30.0), (200, 40.0)];
/// Components of one service.
const A_SERVICE: usize = 20;
/// Share of a core that a daemon may take, in percent.
const CPU_GOAL: f64 = 0.3;
/// PSS of a shim, in MiB.
const SHIM_GOAL: f64 = 1.5;
/// For everything that should take seconds.
const DEADLINE: Duration = Duration::from_secs(120);
const NODES: usize = 3;

/// One process at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    /// MiB.
    pss: f64,
    /// MiB.
    private: f64,
    /// MiB.
    rss: f64,
    /// By the scheduler, seconds.
    cpu: f64,
    /// By ticks, seconds.
    ticked: f64,
    /// Context switches of its own will.
    wakeups: u64,
    threads: usize,
}

fn usage(pid: u32) -> Usage {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let rollup = read("smaps_rollup").unwrap_or_default();
    let mib = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    };
    let mut usage = Usage {
        pss: mib("Pss:"),
        private: mib("Private_Clean:") + mib("Private_Dirty:"),
        rss: mib("Rss:"),
        ..Usage::default()
    };
    let stat = read("stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, the 14th and 15th of proc(5); 100 ticks a second everywhere.
    usage.ticked = (ticks(11) + ticks(12)) / 100.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        usage.threads += 1;
        let own = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let nanos = own("schedstat").split(' ').next().and_then(|n| n.parse::<f64>().ok());
        usage.cpu += nanos.unwrap_or(0.0) / 1e9;
        let status = own("status");
        let switches = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        usage.wakeups += switches.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    usage
}

fn command_name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// One process over the time it was measured.
#[derive(Debug, Clone, Serialize)]
struct Row {
    components: usize,
    what: String,
    /// Processes it stands for; the figures of several are the greatest among them.
    count: usize,
    pss_mib: f64,
    private_mib: f64,
    rss_mib: f64,
    /// Percent of a core.
    cpu: f64,
    /// The same by ticks.
    cpu_ticks: f64,
    /// A second.
    wakeups: f64,
    threads: usize,
    pss_goal: Option<f64>,
    cpu_goal: Option<f64>,
    met: Option<bool>,
}

/// Of the same processes, before and after.
fn row(components: usize, what: &str, before: &[Usage], after: &[Usage], seconds: f64) -> Row {
    let most = |of: &dyn Fn(&Usage, &Usage) -> f64| {
        let all: Vec<f64> = before.iter().zip(after).map(|(b, a)| of(b, a)).collect();
        Three::of(&all).max
    };
    Row {
        components,
        what: what.to_owned(),
        count: after.len(),
        pss_mib: most(&|_, a| a.pss),
        private_mib: most(&|_, a| a.private),
        rss_mib: most(&|_, a| a.rss),
        cpu: most(&|b, a| (a.cpu - b.cpu) / seconds * 100.0),
        cpu_ticks: most(&|b, a| (a.ticked - b.ticked) / seconds * 100.0),
        #[allow(clippy::cast_precision_loss)]
        wakeups: most(&|b, a| a.wakeups.saturating_sub(b.wakeups) as f64 / seconds),
        threads: after.iter().map(|usage| usage.threads).max().unwrap_or(0),
        pss_goal: None,
        cpu_goal: None,
        met: None,
    }
}

impl Row {
    fn judged(mut self, pss: f64, cpu: Option<f64>) -> Self {
        self.met = Some(self.pss_mib <= pss && cpu.is_none_or(|cpu| self.cpu <= cpu));
        (self.pss_goal, self.cpu_goal) = (Some(pss), cpu);
        self
    }
}

/// Lets time pass; what is measured is that nothing happens.
fn pass(time: Duration) {
    let begun = SystemClock.now();
    while begun.elapsed() < time {
        std::thread::park_timeout(time.saturating_sub(begun.elapsed()));
    }
}

fn definition(service: &str) -> String {
    let mut text = format!("name = \"{service}\"\nnode = \"n1\"\n");
    for number in 0..A_SERVICE {
        text.push_str(&format!(
            "\n[[components]]\nname = \"c{number}x\"\ncmd = [\"sleep\", \"100000\"]\n\
             stop_grace = \"1s\"\n"
        ));
    }
    text
}

fn measure(cluster: &NetCluster, components: usize, goal: f64, seconds: Duration) -> Vec<Row> {
    let daemons: Vec<u32> =
        (0..NODES).map(|node| cluster.daemon_pid(node).expect("a daemon runs")).collect();
    let shims: Vec<u32> =
        cluster.node_pids(0).into_iter().filter(|pid| command_name(*pid) == "weft-shim").collect();
    let look = |pids: &[u32]| -> Vec<Usage> { pids.iter().map(|pid| usage(*pid)).collect() };
    let (before, shims_before) = (look(&daemons), look(&shims));
    let begun = SystemClock.now();
    pass(seconds);
    let (after, shims_after) = (look(&daemons), look(&shims));
    let seconds = begun.elapsed().as_secs_f64();
    let mut rows: Vec<Row> = (0..NODES)
        .map(|node| {
            let has = if node == 0 { components } else { 0 };
            let what = format!("weftd {} ({has} here)", cluster.node_name(node));
            let of = node..=node;
            row(components, &what, &before[of.clone()], &after[of], seconds)
                .judged(goal, Some(CPU_GOAL))
        })
        .collect();
    if !shims.is_empty() {
        let shims = row(components, "weft-shim", &shims_before, &shims_after, seconds);
        rows.push(shims.judged(SHIM_GOAL, None));
    }
    rows
}

/// Of programs that do nothing, or hardly more: what a shim and a daemon can be compared with.
fn baseline(seconds: Duration) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut sh = Command::new("sh");
    // Two commands, so that the shell stays.
    sh.args(["-c", "sleep 100000; true"]).stdin(Stdio::null());
    let mut sh = sh.spawn().expect("a shell starts");
    let shell = [sh.id()];
    let net = Net::new(1);
    let engine = net.as_ref().filter(|_| have("podman")).map(|net| Podman::start(net, 0));
    let mut conmons = Vec::new();
    let mut service = Vec::new();
    if let Some(engine) = &engine {
        for number in 0..5 {
            let name = format!("idle{number}");
            let run = ["run", "-d", "--name", &name, IMAGE, "/bin/sleep", "100000"];
            engine.podman(&run).ok();
            let file = engine.field(&name, "{{.ConmonPidFile}}");
            conmons.extend(
                std::fs::read_to_string(file).ok().and_then(|p| p.trim().parse::<u32>().ok()),
            );
        }
        service.extend(engine.service_pid());
    }
    pass(Duration::from_secs(2));
    let look = |pids: &[u32]| -> Vec<Usage> { pids.iter().map(|pid| usage(*pid)).collect() };
    let all: [(&str, &[u32]); 3] = [
        ("sh -c 'sleep …; true'", &shell),
        ("conmon", &conmons),
        ("podman system service", &service),
    ];
    let before: Vec<Vec<Usage>> = all.iter().map(|(_, pids)| look(pids)).collect();
    let begun = SystemClock.now();
    pass(seconds);
    let passed = begun.elapsed().as_secs_f64();
    for ((what, pids), before) in all.iter().zip(before) {
        if !pids.is_empty() {
            rows.push(row(0, what, &before, &look(pids), passed));
        }
    }
    let _ = sh.kill();
    let _ = sh.wait();
    rows
}

fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}

fn print(rows: &[Row]) {
    println!(
        "| components | process | PSS MiB | private | RSS | CPU % | by ticks | wakeups/s | threads | goal | met |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let goal = match (row.pss_goal, row.cpu_goal) {
            (Some(pss), Some(cpu)) => format!("≤ {pss} MiB, ≤ {cpu} %"),
            (Some(pss), None) => format!("≤ {pss} MiB"),
            _ => String::new(),
        };
        let met = row.met.map_or("", |met| if met { "yes" } else { "**no**" });
        let count =
            if row.count > 1 { format!(" (worst of {})", row.count) } else { String::new() };
        println!(
            "| {} | {}{count} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.1} | {} | {goal} | {met} |",
            row.components,
            row.what,
            row.pss_mib,
            row.private_mib,
            row.rss_mib,
            row.cpu,
            row.cpu_ticks,
            row.wakeups,
            row.threads,
        );
    }
}

fn main() -> ExitCode {
    let (mut numbers, mut json, mut settings) = (Vec::new(), false, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.parse::<u64>() {
            Ok(number) => numbers.push(number),
            Err(_) if arg == "--json" => json = true,
            Err(_) if arg == "--set" => settings.extend(args.next()),
            Err(_) => {
                eprintln!("usage: idle [seconds] [settle] [--json] [--set <key=value>]…");
                return ExitCode::from(2);
            }
        }
    }
    let seconds = Duration::from_secs(numbers.first().copied().unwrap_or(60).max(1));
    let settle = Duration::from_secs(numbers.get(1).copied().unwrap_or(20));
    if let Some(why) = unavailable() {
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    let mut rows = baseline(seconds.min(Duration::from_secs(10)));
    let Some(net) = Net::new(NODES) else { return ExitCode::FAILURE };
    let cluster = NetCluster::with(net, NODES, Options { settings, ..Options::default() });
    let mut services = 0;
    for (components, goal) in STEPS {
        while services * A_SERVICE < components {
            services += 1;
            cluster.deploy(0, &definition(&format!("s{services}")));
        }
        cluster.wait_until("all components run", DEADLINE, |cluster| {
            let running = cluster.ps_json(0).iter().filter(|row| row["state"] == "running").count();
            (running == components).then_some(())
        });
        eprintln!("{components} components run");
        pass(settle);
        rows.extend(measure(&cluster, components, goal, seconds));
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    if json {
        println!(
            "{}",
            serde_json::json!({ "seconds": seconds.as_secs(), "load": load, "rows": rows })
        );
    } else {
        println!(
            "{NODES} nodes, {} s each after {} s to settle, load {load} at the end",
            seconds.as_secs(),
            settle.as_secs()
        );
        print(&rows);
    }
    ExitCode::SUCCESS
}
