//! How long a service is away when its node, the leader's node or a daemon is lost.
//!
//! `failover [rounds] [directory]`: each round (default 20) makes two clusters of three nodes in
//! network namespaces, with their data under `directory` (default: the system's temporary one),
//! and does them harm. It needs root and iproute2. All times are of this process's monotonic clock,
//! seen by asking the surviving nodes every 5 ms over their local sockets.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_protocol::NodeState;
use weft_tests::net::{Net, unavailable};
use weft_tests::nodes::{NetCluster, Options, hello};
use weft_tests::observe::{Observer, RESOLUTION, What, first_write};
use weft_wire::{Clock, SystemClock};

/// Services of one replica each.
const SERVICES: usize = 10;
/// For everything that should take seconds.
const DEADLINE: Duration = Duration::from_secs(60);
/// A daemon stays away for so long before it comes back.
const AWAY: Duration = Duration::from_secs(5);
/// What a returning daemon may move is waited for this long.
const AFTER: Duration = Duration::from_secs(3);

/// What the loss of one node brought.
#[derive(Default)]
struct Loss {
    /// Until a survivor listed it as lost; one each round.
    detect: Vec<Duration>,
    /// From then until the new place was agreed; one for each service.
    decide: Vec<Duration>,
    /// From then until the replacement ran.
    start: Vec<Duration>,
    /// From then until it answered a request.
    answer: Vec<Duration>,
    /// From the loss until the replacement answered.
    total: Vec<Duration>,
}

/// What the loss of a daemon brought.
#[derive(Default)]
struct Down {
    /// Until a survivor listed it as down.
    told: Vec<Duration>,
    /// Replicas that got another place, or other processes, in all rounds.
    moves: usize,
    /// Until a write through a survivor was acknowledged.
    write: Vec<Duration>,
}

#[derive(Default)]
struct Results {
    follower: Loss,
    leader: Loss,
    leader_write: Vec<Duration>,
    fenced: Loss,
    daemon: Down,
    leader_daemon: Down,
}

fn cluster(dir: Option<&PathBuf>, fenced: bool) -> Option<(NetCluster, Vec<String>)> {
    let options = Options { dir: dir.cloned(), ..Options::default() };
    let cluster = NetCluster::with(Net::new(3)?, 3, options);
    let leader = cluster.settled(0);
    let names: Vec<String> = (1..=SERVICES).map(|n| format!("s{n}")).collect();
    for name in &names {
        let mut text = hello(name, 1);
        if fenced {
            text = text.replacen("\n\n", "\non_partition = \"stop\"\n\n", 1);
        }
        cluster.try_deploy(leader, &text, &["--no-wait"]).ok();
    }
    let seen = Observer::start(&cluster, &[0, 1, 2]);
    cluster.wait_until("every service answers", DEADLINE, |_| {
        let events = seen.events();
        let answers = |name: &String| events.iter().any(|e| e.what == What::Answers(name.clone()));
        names.iter().all(answers).then_some(())
    });
    Some((cluster, names))
}

/// Which of the services are on a node.
fn on(cluster: &NetCluster, through: usize, node: usize) -> Vec<String> {
    let places = cluster.places(through);
    places.into_iter().filter(|(_, at)| *at == node).map(|((name, _), _)| name).collect()
}

fn others(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

/// Cuts a node's link, and waits until what it ran answers elsewhere.
fn cut(cluster: &mut NetCluster, node: usize, into: &mut Loss, write: Option<&mut Vec<Duration>>) {
    let survivors = others(node);
    let mut services = on(cluster, survivors[0], node);
    // Made by the writes of the measurement: it starts nothing.
    services.retain(|name| name != "observed");
    assert!(!services.is_empty(), "nothing ran on the node that is lost");
    let seen = Observer::start(cluster, &survivors);

    cluster.net.cut(node);
    let start = SystemClock.now();
    if let Some(write) = write {
        write.push(first_write(cluster, survivors[0], DEADLINE));
    }
    let at = |what: What| seen.first(start, |event| event.what == what);
    cluster.wait_until("every service answers elsewhere", DEADLINE, |_| {
        services.iter().all(|name| at(What::Answers(name.clone())).is_some()).then_some(())
    });
    let detected = at(What::Member(node, NodeState::Lost)).expect("it was seen before it moved");
    into.detect.push(detected - start);
    for name in &services {
        let is_place =
            |what: &What| matches!(what, What::Place(of, at) if of == name && *at != node);
        let placed = seen.first(start, |event| is_place(&event.what)).expect("it has a place");
        let runs = at(What::Runs(name.clone())).expect("it runs");
        let answers = at(What::Answers(name.clone())).expect("it answers");
        let after = |then: Instant, before: Instant| then.saturating_duration_since(before);
        into.decide.push(after(placed, detected));
        into.start.push(after(runs, placed));
        into.answer.push(after(answers, runs));
        into.total.push(answers - start);
    }
    drop(seen);

    cluster.net.heal(node);
    for through in 0..3 {
        cluster.node_is(through, node, &["ready"]);
    }
    cluster.settled(survivors[0]);
    cluster.wait_until("nothing runs twice", DEADLINE, |cluster| {
        (cluster.all_copies().values().all(|count| *count == 1)).then_some(())
    });
}

/// Kills a node's daemon and starts it again 5 s later; nothing may move.
fn kill(cluster: &mut NetCluster, services: &[String], node: usize, into: &mut Down) {
    let survivors = others(node);
    let before: Vec<Vec<(String, u32)>> = (0..3).map(|node| cluster.hellos(node)).collect();
    let seen = Observer::start(cluster, &survivors);

    cluster.kill(node);
    let start = SystemClock.now();
    into.write.push(first_write(cluster, survivors[0], DEADLINE));
    while start.elapsed() < AWAY {
        std::thread::park_timeout(RESOLUTION);
    }
    let down = |what: &What| *what == What::Member(node, NodeState::DaemonDown);
    into.told.extend(seen.first(start, |event| down(&event.what)).map(|at| at - start));
    cluster.restart(node);
    for through in 0..3 {
        cluster.node_is(through, node, &["ready"]);
    }
    cluster.settled(survivors[0]);
    let back = SystemClock.now();
    while back.elapsed() < AFTER {
        std::thread::park_timeout(RESOLUTION);
    }
    let after: Vec<Vec<(String, u32)>> = (0..3).map(|node| cluster.hellos(node)).collect();
    let sorted = |mut all: Vec<(String, u32)>| {
        all.sort();
        all
    };
    let other = before.into_iter().map(sorted).zip(after.into_iter().map(sorted));
    into.moves +=
        seen.moves(start, services).max(other.filter(|(before, after)| before != after).count());
}

fn round(dir: Option<&PathBuf>, results: &mut Results) -> Option<()> {
    let (mut cluster, names) = cluster(dir, false)?;
    let leader = cluster.settled(0);
    kill(&mut cluster, &names, (leader + 1) % 3, &mut results.daemon);
    let leader = cluster.settled(0);
    cut(&mut cluster, (leader + 2) % 3, &mut results.follower, None);
    let leader = cluster.settled(0);
    cut(&mut cluster, leader, &mut results.leader, Some(&mut results.leader_write));
    let leader = cluster.settled(0);
    kill(&mut cluster, &names, leader, &mut results.leader_daemon);
    drop(cluster);

    let (mut cluster, _) = self::cluster(dir, true)?;
    let leader = cluster.settled(0);
    cut(&mut cluster, (leader + 1) % 3, &mut results.fenced, None);
    Some(())
}

/// `| min | median | max |` in seconds.
fn three(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort();
    let at = |place: usize| times.get(place).map_or(0.0, Duration::as_secs_f64);
    let (median, last) = (times.len() / 2, times.len().saturating_sub(1));
    format!("{:.2} | {:.2} | {:.2}", at(0), at(median), at(last))
}

impl Loss {
    fn print(&self, what: &str, write: Option<&[Duration]>) {
        let line = |part: &str, times: &[Duration]| {
            println!("| {what} | {part} | {} | {} |", times.len(), three(times));
        };
        line("detect", &self.detect);
        line("decide", &self.decide);
        line("start", &self.start);
        line("answer", &self.answer);
        line("**total**", &self.total);
        if let Some(times) = write {
            line("a write is acknowledged", times);
        }
    }
}

impl Down {
    fn print(&self, what: &str) {
        let line = |part: &str, times: &[Duration]| {
            println!("| {what} | {part} | {} | {} |", times.len(), three(times));
        };
        line("listed as `daemon-down`", &self.told);
        line("a write is acknowledged", &self.write);
        println!("| {what} | replicas moved | {} | {} | | |", self.write.len(), self.moves);
    }
}

fn print(results: &Results) {
    println!("| lost | part | samples | min s | median s | max s |");
    println!("|---|---|---|---|---|---|");
    results.follower.print("a node's link", None);
    results.leader.print("the leader's link", Some(&results.leader_write));
    results.fenced.print("a node's link, fenced services", None);
    results.daemon.print("a daemon, back after 5 s");
    results.leader_daemon.print("the leader's daemon, back after 5 s");
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let rounds = args.next().map_or(Ok(20), |text| text.parse::<u32>());
    let dir = args.next().map(PathBuf::from);
    let Ok(rounds) = rounds else {
        eprintln!("usage: failover [rounds] [directory]");
        return ExitCode::from(2);
    };
    if let Some(why) = unavailable() {
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    let begun = SystemClock.now();
    let mut results = Results::default();
    for number in 1..=rounds {
        if round(dir.as_ref(), &mut results).is_none() {
            return ExitCode::FAILURE;
        }
        let so_far = results.follower.total.iter().max().copied().unwrap_or_default();
        eprintln!(
            "round {number} of {rounds}, {:.0} s so far; slowest after a lost link {:.2} s",
            begun.elapsed().as_secs_f64(),
            so_far.as_secs_f64()
        );
    }
    println!(
        "{rounds} rounds, 3 nodes, {SERVICES} services of one replica; resolution {} ms",
        RESOLUTION.as_millis()
    );
    print(&results);
    ExitCode::SUCCESS
}
