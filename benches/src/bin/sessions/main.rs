//! MACP sessions: the published reference runtime and Weft under the same loader, in turns.
//!
//! `sessions [seconds] [--quick] [--rounds <n>] [--connections <n>] [--part <part>]… [--dir
//! <directory>] [--json]`: each measurement of a rate takes `seconds` (default 8), each is made in
//! `n` rounds (default 3) of which the middle one is shown. What servers keep lies under the
//! directory (default: the system's temporary one), so choose one on the disk to measure. Parts are
//! `rates`, `ended` and `fanout`; all of them if none is named. `--quick` is for trying: short, one
//! round, few sessions. It installs the reference with cargo the first time. Three nodes need root
//! and iproute2; counting fsyncs needs `perf`.
//!
//! A server runs as it would anywhere, as a process of its own; only rates are unlimited. The loader
//! is this process, with one thread, on the same cores: what the loader takes, the server does not
//! get, so processor time and fsyncs of a message say more than rates do.
#![forbid(unsafe_code)]

mod alone;
mod client;
mod ended;
mod fanout;
mod load;
mod reference;
mod report;
mod server;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::json;
use weft_bench::disk;
use weft_tests::bin_dir;

use crate::server::{Kind, Programs};

type Fatal = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: sessions [seconds] [--quick] [--rounds <n>] [--connections <n>] \
                     [--part rates|ended|fanout]… [--dir <directory>] [--json]";
const PARTS: [&str; 3] = ["rates", "ended", "fanout"];
/// Agents at work at once.
const WORKERS: [usize; 3] = [1, 16, 64];
/// Servers that are started with ended sessions.
const RESTARTED: [Kind; 2] = [Kind::ReferenceDurable, Kind::WeftDurable];
/// Servers whose session is followed.
const FOLLOWED: [Kind; 3] = [Kind::ReferenceDurable, Kind::WeftDurable, Kind::WeftThree];

/// What is asked for.
#[derive(Debug)]
struct Asked {
    plan: load::Plan,
    rounds: usize,
    ended: Vec<usize>,
    fanout: fanout::Plan,
    parts: BTreeSet<String>,
    dir: PathBuf,
    json: bool,
}

impl Asked {
    fn of(args: impl Iterator<Item = String>) -> Option<Self> {
        let args: Vec<String> = args.collect();
        let quick = args.iter().any(|arg| arg == "--quick");
        let seconds = Duration::from_secs;
        let (lasts, around) =
            if quick { (seconds(1), seconds(1)) } else { (seconds(8), seconds(2)) };
        let plan = load::Plan { warm: around, lasts, counted: around, connections: None };
        let mut asked = Self {
            plan,
            rounds: if quick { 1 } else { 3 },
            ended: if quick { vec![200] } else { vec![2_000, 100_000] },
            fanout: if quick {
                fanout::Plan { subscribers: 100, single: 5, burst: 10 }
            } else {
                fanout::Plan { subscribers: 1000, single: 50, burst: 100 }
            },
            parts: BTreeSet::new(),
            dir: std::env::temp_dir(),
            json: false,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => {}
                "--json" => asked.json = true,
                "--rounds" => {
                    asked.rounds = args.next()?.parse::<usize>().ok().filter(|n| *n > 0)?
                }
                "--connections" => asked.plan.connections = Some(args.next()?.parse().ok()?),
                "--dir" => asked.dir = args.next()?.into(),
                "--part" => {
                    let part = args.next().filter(|part| PARTS.contains(&part.as_str()))?;
                    asked.parts.insert(part);
                }
                _ => asked.plan.lasts = seconds(arg.parse::<u64>().ok().filter(|n| *n > 0)?),
            }
        }
        if asked.parts.is_empty() {
            asked.parts = PARTS.map(str::to_owned).into();
        }
        Some(asked)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.contains(part)
    }
}

/// What could not be measured, and why. What failed once is not tried again.
#[derive(Debug, Default)]
struct Failures(Vec<(Kind, String)>);

impl Failures {
    fn of(&self, kind: Kind) -> bool {
        self.0.iter().any(|(failed, _)| *failed == kind)
    }

    fn add(&mut self, kind: Kind, what: &str, why: &Fatal) {
        eprintln!("{} {what}: {why}", kind.name());
        self.0.push((kind, format!("{} {what}: {why}", kind.name())));
    }
}

/// A directory for one server; gone when it is dropped.
fn scratch(programs: &Programs) -> Result<tempfile::TempDir, Fatal> {
    Ok(tempfile::Builder::new().prefix("server-").tempdir_in(&programs.dir)?)
}

async fn rates(
    programs: &Programs,
    asked: &Asked,
    failures: &mut Failures,
) -> Result<Vec<load::Row>, Fatal> {
    let mut rows = Vec::new();
    for round in 1..=asked.rounds {
        for workers in WORKERS {
            for kind in Kind::ALL {
                if failures.of(kind) {
                    continue;
                }
                let data = scratch(programs)?;
                match load::measure(programs, kind, workers, asked.plan, data.path()).await {
                    Ok(row) => {
                        eprintln!(
                            "round {round}, {workers} workers, {}: {:.0} msg/s, {:.1} µs",
                            kind.name(),
                            row.rate,
                            row.cpu
                        );
                        rows.push(row);
                    }
                    Err(why) => failures.add(kind, &format!("at {workers} workers"), &why),
                }
            }
        }
    }
    Ok(rows)
}

async fn ended(
    programs: &Programs,
    asked: &Asked,
    failures: &mut Failures,
) -> Result<Vec<ended::Row>, Fatal> {
    let mut rows = Vec::new();
    for sessions in &asked.ended {
        for kind in RESTARTED {
            let data = scratch(programs)?;
            match ended::measure(programs, kind, *sessions, data.path()).await {
                Ok(row) => {
                    eprintln!("{}, {sessions} ended: {:.2} s", kind.name(), row.start.median);
                    rows.push(row);
                }
                Err(why) => failures.add(kind, &format!("with {sessions} ended sessions"), &why),
            }
        }
    }
    Ok(rows)
}

async fn fanout(
    programs: &Programs,
    asked: &Asked,
    failures: &mut Failures,
) -> Result<Vec<fanout::Row>, Fatal> {
    let mut rows = Vec::new();
    for kind in FOLLOWED {
        let data = scratch(programs)?;
        match fanout::measure(programs, kind, asked.fanout, data.path()).await {
            Ok(row) => {
                eprintln!("{}, fan-out: {:.1} ms", kind.name(), row.sent.median);
                rows.push(row);
            }
            Err(why) => {
                failures.add(kind, &format!("with {} subscribers", asked.fanout.subscribers), &why);
            }
        }
    }
    Ok(rows)
}

fn load_average() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// Whether everything that was asked for was measured.
async fn run(asked: &Asked) -> Result<bool, Fatal> {
    let bin = bin_dir();
    let target = bin.parent().ok_or("the programs are in no target directory")?;
    let reference = reference::installed(target)?;
    let dir = tempfile::Builder::new().prefix("weft-sessions-").tempdir_in(&asked.dir)?;
    let programs = Programs { reference, weftd: bin.join("weftd"), dir: dir.path().to_owned() };
    let load = load_average();
    let bare = disk::bare(dir.path(), Duration::from_secs(1))?;
    let mut failures = Failures::default();
    let mut rows = Vec::new();
    if asked.wants("rates") {
        rows = report::rates(&rates(&programs, asked, &mut failures).await?);
    }
    let mut restarted = Vec::new();
    if asked.wants("ended") {
        restarted = report::ended(ended(&programs, asked, &mut failures).await?);
    }
    let mut followed = Vec::new();
    if asked.wants("fanout") {
        followed = fanout(&programs, asked, &mut failures).await?;
    }
    let why: Vec<&String> = failures.0.iter().map(|(_, why)| why).collect();
    if asked.json {
        let all = json!({
            "seconds": asked.plan.lasts.as_secs(), "rounds": asked.rounds, "load": load,
            "bare": bare, "rates": rows, "ended": restarted, "fanout": followed,
            "not_measured": why,
        });
        println!("{all}");
        return Ok(why.is_empty());
    }
    println!(
        "{} s each, {} rounds, load {load} at the beginning\n{bare}",
        asked.plan.lasts.as_secs(),
        asked.rounds
    );
    if asked.wants("rates") {
        println!();
        report::print_rates(&rows);
    }
    if asked.wants("ended") {
        println!();
        report::print_ended(&restarted);
    }
    if asked.wants("fanout") {
        println!();
        report::print_fanout(&followed);
    }
    for why in &why {
        println!("\nnot measured: {why}");
    }
    Ok(why.is_empty())
}

/// All servers inherit this process's variables of MACP; they must be the same, whoever calls.
fn with_own_variables() -> Option<std::io::Error> {
    let is_macp = |name: &str| name.starts_with("MACP_");
    // One that is no text is none of these.
    let texts = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let found: BTreeMap<String, String> = texts.filter(|(name, _)| is_macp(name)).collect();
    let wanted = server::environment();
    if found == wanted {
        return None;
    }
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return Some(error),
    };
    let mut again = Command::new(own);
    again.args(std::env::args_os().skip(1));
    for name in found.keys() {
        again.env_remove(name);
    }
    Some(again.envs(wanted).exec())
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(alone::ARGUMENT) {
        if let Err(error) = alone::serve() {
            eprintln!("error: {error}");
        }
        return ExitCode::FAILURE;
    }
    let Some(asked) = Asked::of(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(error) = with_own_variables() {
        eprintln!("error: cannot start itself with other variables: {error}");
        return ExitCode::FAILURE;
    }
    // One thread: the servers need the other core more.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Fatal::from).and_then(|runtime| runtime.block_on(run(&asked))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
