//! The foreground of `up`: a live table, and killed daemons started again as systemd would.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use tokio::process::Child;
use tokio::sync::watch;
use weft_protocol::{ClusterNodes, ClusterPs, ComponentRow, ComponentState, NodeRow};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use super::Stop;
use super::cluster::{Cluster, HELLO};
use crate::attach::{Attached, Attacher};
use crate::commands::App;
use crate::context::Context;
use crate::error::Result;
use crate::output::Table;
use crate::output::table::cut;
use crate::output::views::components_table;
use crate::paths::tail;

/// As the unit file has it (orchestration §27: `RestartSec=100ms`).
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// So many ends within [`BURST`], and a daemon is left dead, as systemd's start limit does.
const BURST_ENDS: usize = 5;
const BURST: Duration = Duration::from_secs(10);
/// How a daemon ends whose command line or node file is wrong, and one whose node was removed:
/// starting it again helps nobody (`RestartPreventExitStatus=2 4`).
const USAGE: i32 = 2;
const REMOVED: i32 = 4;
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(500);

/// Shows the cluster and keeps its daemons up, until somebody asks to stop.
///
/// # Errors
/// When the context cannot be read any more.
pub(crate) async fn watch(app: &App, cluster: &mut Cluster, stop: &mut Stop) -> Result<()> {
    let mut screen = Screen::new(app);
    let mut keepers: Vec<Keeper> = cluster.nodes.iter().map(|_| Keeper::default()).collect();
    // Looking waits for answers; keeping daemons up must not wait for that.
    let (sender, mut seen) = watch::channel(None);
    let looking = look_on(cluster.context(app)?, sender);
    tokio::pin!(looking);
    loop {
        let due = keepers.iter().filter_map(|k| k.due).min();
        tokio::select! {
            () = stop.asked() => return Ok(()),
            () = ended(cluster) => {}
            () = sleep_until(due) => {}
            () = &mut looking => {}
            Ok(()) = seen.changed() => {}
        }
        for (at, keeper) in keepers.iter_mut().enumerate() {
            keep(cluster, at, keeper, &mut screen);
        }
        let view = seen.borrow_and_update().clone();
        screen.show(cluster, view.as_ref());
    }
}

/// Notes that a daemon has ended, and starts one that is due.
fn keep(cluster: &mut Cluster, at: usize, keeper: &mut Keeper, screen: &mut Screen) {
    let now = SystemClock.now();
    let Some(node) = cluster.nodes.get_mut(at) else { return };
    let name = node.name.clone();
    if let Some(child) = &mut node.child
        && let Ok(Some(status)) = child.try_wait()
    {
        node.child = None;
        screen.note(format!("{name}: daemon ended ({status})"));
        if let Some(why) = keeper.ended(status.code(), now) {
            screen.note(format!("{name}: {why}, left as it is"));
            for line in tail(&node.data.join("weftd.log"), 5) {
                screen.note(format!("{name}: | {line}"));
            }
        }
    }
    if keeper.due.is_some_and(|due| due <= now) {
        keeper.due = None;
        match cluster.start(at) {
            Ok(()) => screen.note(format!("{name}: daemon started again")),
            Err(error) => screen.note(format!("{name}: {error}")),
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves when any daemon ends.
async fn ended(cluster: &mut Cluster) {
    let waits: Vec<_> = cluster
        .nodes
        .iter_mut()
        .filter_map(|node| node.child.as_mut())
        .map(|child: &mut Child| Box::pin(child.wait()))
        .collect();
    if waits.is_empty() {
        std::future::pending::<()>().await;
    } else {
        let _ = futures_util::future::select_all(waits).await;
    }
}

/// Decides about restarts of one daemon. Pure: time is an argument.
#[derive(Debug, Default)]
struct Keeper {
    ends: VecDeque<Instant>,
    due: Option<Instant>,
}

impl Keeper {
    /// Takes note of an end, with the exit code if it was no signal; why it will not be started
    /// again, if so.
    fn ended(&mut self, code: Option<i32>, now: Instant) -> Option<String> {
        self.due = None;
        match code {
            Some(REMOVED) => return Some("its node was removed from the cluster".into()),
            Some(USAGE) => return Some("its command line or node file is wrong".into()),
            _ => {}
        }
        self.ends.push_back(now);
        while self.ends.front().is_some_and(|t| now.saturating_duration_since(*t) > BURST) {
            self.ends.pop_front();
        }
        if self.ends.len() >= BURST_ENDS {
            return Some(format!("ended {BURST_ENDS} times in {} s", BURST.as_secs()));
        }
        self.due = Some(now + RESTART_AFTER);
        None
    }
}

/// Nodes and components, as one of the nodes sees them; `None`: no node answers.
type Seen = Option<(Vec<NodeRow>, Vec<ComponentRow>)>;

/// Looks again and again, over whatever node answers.
async fn look_on(context: Context, seen: watch::Sender<Seen>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut attached = None;
    loop {
        ticks.tick().await;
        if attached.is_none() {
            attached = Attacher::new(&context).attach(None).await.ok();
        }
        let view = match &attached {
            Some(node) => look(node).await,
            None => None,
        };
        if view.is_none() {
            // Perhaps its daemon was killed: another one next time.
            attached = None;
        }
        if seen.send(view).is_err() {
            return;
        }
    }
}

async fn look(node: &Attached) -> Seen {
    let gateway = || Address::here(ActorKind::Gateway);
    let within = Duration::from_secs(2);
    let nodes = node.ask(gateway(), ClusterNodes {}, within).await.ok()?;
    let ps = node.ask(gateway(), ClusterPs { target: None }, within).await.ok()?;
    Some((nodes, ps.rows))
}

/// A table that is drawn over itself on a terminal, and printed anew on change elsewhere.
struct Screen {
    terminal: bool,
    mute: bool,
    notes: VecDeque<String>,
    drawn: usize,
    last: String,
}

impl Screen {
    fn new(app: &App) -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            mute: app.output.json,
            notes: VecDeque::new(),
            drawn: 0,
            last: String::new(),
        }
    }

    fn note(&mut self, text: String) {
        if !self.terminal && !self.mute {
            eprintln!("{text}");
        }
        self.notes.push_back(text);
        while self.notes.len() > 6 {
            self.notes.pop_front();
        }
    }

    fn show(&mut self, cluster: &Cluster, seen: Option<&(Vec<NodeRow>, Vec<ComponentRow>)>) {
        if self.mute {
            return;
        }
        let mut text = String::new();
        let mut rows: &[ComponentRow] = &[];
        match seen {
            // The first look is still to come.
            None if self.last.is_empty() && self.drawn == 0 => return,
            None => text.push_str("no node answers\n"),
            Some((nodes, components)) => {
                rows = components;
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}\n", short_nodes(nodes));
                let _ = writeln!(text, "{}", component_lines(components, self.terminal));
            }
        }
        if self.terminal {
            let tries = tries(cluster, rows);
            return self.redraw(&format!("{text}\n{tries}"));
        }
        if text != self.last {
            let first = self.last.is_empty();
            let tries = if first { tries(cluster, rows) } else { String::new() };
            let mut out = std::io::stdout().lock();
            // When nobody reads any more the cluster still runs until it is told to stop.
            let _ = writeln!(out, "{text}\n{tries}").and_then(|()| out.flush());
            self.last = text;
        }
    }

    fn redraw(&mut self, text: &str) {
        let size = rustix::termios::tcgetwinsize(std::io::stdout());
        let (width, height) =
            size.map_or((100, 40), |s| (usize::from(s.ws_col), usize::from(s.ws_row)));
        // A terminal that does not know its size says 0.
        let or = |size: usize, default| if size == 0 { default } else { size };
        let (width, height) = (or(width, 100).max(20), or(height, 40).max(10));
        let notes = self.notes.iter().map(String::as_str);
        let lines: Vec<String> = text
            .lines()
            .chain(std::iter::once(""))
            .chain(notes)
            .map(|line| cut(&crate::error::clean(line), width - 1))
            .take(height - 1)
            .collect();
        let mut frame = String::new();
        if self.drawn > 0 {
            let _ = write!(frame, "\u{1b}[{}A\r", self.drawn);
        }
        for line in &lines {
            let _ = writeln!(frame, "\u{1b}[2K{line}");
        }
        frame.push_str("\u{1b}[J");
        self.drawn = lines.len();
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(frame.as_bytes()).and_then(|()| out.flush());
    }
}

fn component_lines(rows: &[ComponentRow], uptimes: bool) -> String {
    let now = SystemClock.wall();
    if uptimes {
        return components_table(rows, now).to_string();
    }
    // Without uptimes, which would make every look a change.
    let mut rows = rows.to_vec();
    for row in &mut rows {
        row.status.started_at = None;
    }
    components_table(&rows, now).to_string()
}

fn short_nodes(nodes: &[NodeRow]) -> Table {
    let mut table = Table::new(["NODE", "ADDRESS", "ROLE", "STATUS"]);
    for node in nodes {
        table.row([
            node.name.clone(),
            node.address.clone(),
            node.role.to_string(),
            node.state.to_string(),
        ]);
    }
    table
}

/// Where the example answers: as the rows say, or as it was when all was up where some row is not
/// to be seen, for what runs there goes on.
fn addresses(cluster: &Cluster, rows: &[ComponentRow]) -> Vec<String> {
    let mut rows: Vec<&ComponentRow> =
        rows.iter().filter(|row| row.status.key.service == HELLO).collect();
    if rows.is_empty() || rows.iter().any(|row| row.status.state == ComponentState::Unknown) {
        return cluster.services.iter().flat_map(|service| service.urls.clone()).collect();
    }
    rows.sort_by_key(|row| row.status.key.replica);
    rows.iter().flat_map(|row| row.status.urls.clone()).collect()
}

/// The addresses, and three things to try, as commands that can be copied.
fn tries(cluster: &Cluster, rows: &[ComponentRow]) -> String {
    let weft = cluster.programs.weft.display();
    let config = format!("WEFT_CONFIG={}", cluster.context_file().display());
    let node = cluster.nodes.get(1).or(cluster.nodes.first());
    let name = node.map_or("n1", |n| n.name.as_str());
    let daemon = node.and_then(|n| n.child.as_ref()).and_then(Child::id);
    let component = rows
        .iter()
        .find(|row| row.status.pid != 0 && row.status.key.service == HELLO)
        .map(|row| row.status.pid);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let urls = addresses(cluster, rows);
    for url in &urls {
        let _ = writeln!(text, "curl {url}");
    }
    if !urls.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "Try, in another terminal:");
    if let Some(pid) = component {
        let _ =
            writeln!(text, "  kill -9 {pid}    # a component: it is back at once, with a new pid");
    }
    if let Some(pid) = daemon {
        let _ = writeln!(text, "  kill -9 {pid}    # the daemon of {name}: its component goes on");
    }
    let _ = writeln!(text, "  {config} {weft} chaos panic runtime@{name}    # an actor: recreated");
    let _ = writeln!(text, "and watch with");
    let _ = writeln!(text, "  {config} {weft} events -f");
    let _ = writeln!(text, "Ctrl-C stops everything.");
    text
}

/// What `up --detach` says to people.
pub(crate) fn detached(cluster: &Cluster) -> String {
    let mut table = Table::new(["NODE", "FABRIC", "GATEWAY", "PID", "DATA"]);
    for node in cluster.view().nodes {
        table.row([node.name, node.fabric, node.gateway, node.pid.to_string(), node.data_dir]);
    }
    let text = tries(cluster, &cluster.rows).replace(
        "Ctrl-C stops everything.",
        &format!(
            "{} down --dir {} stops everything.",
            cluster.programs.weft.display(),
            cluster.dir.display()
        ),
    );
    format!(
        "cluster {}\ncontext {}\n\n{table}\n\n{text}",
        cluster.id,
        cluster.context_file().display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_started_again_until_it_ends_five_times_in_ten_seconds() {
        let start = SystemClock.now();
        let mut keeper = Keeper::default();
        for second in 0..4 {
            assert_eq!(keeper.ended(None, start + Duration::from_secs(second)), None, "{second}");
            assert!(keeper.due.is_some());
        }
        assert!(keeper.ended(Some(70), start + Duration::from_secs(4)).is_some());
        assert!(keeper.due.is_none());
        // Ends that are long past do not count.
        assert_eq!(keeper.ended(Some(1), start + Duration::from_secs(40)), None);
        assert!(keeper.due.is_some());
    }

    #[test]
    fn a_daemon_whose_node_was_removed_or_whose_node_file_is_wrong_is_left_as_it_is() {
        for (code, says) in [(4, "removed from the cluster"), (2, "node file")] {
            let mut keeper = Keeper::default();
            let why = keeper.ended(Some(code), SystemClock.now());
            assert!(why.as_ref().is_some_and(|why| why.contains(says)), "{code}: {why:?}");
            assert!(keeper.due.is_none());
        }
    }
}
