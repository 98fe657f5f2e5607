//! A cluster whose nodes are in network namespaces, made as an operator makes one: `init`,
//! `node token`, `join`, and a daemon on each node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_config::cli::{CliConfig, CliFile, Context, NodeEntry};
use weft_wire::{Clock, SystemClock};

use crate::net::{MARK, Net, end, owner};
use crate::{DEADLINE, DISK_LOW, Done, bin_dir, http_get, is_alive, run};

/// UDP port of every node's fabric.
pub const PORT: u16 = 7443;
/// The only context of the CLI files made here.
const CONTEXT: &str = "net";
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a daemon's log that a failed test shows.
const TAIL: usize = 25;

/// Nodes `n1`, `n2`, … in namespaces 0, 1, …: everywhere, a node is given by its number from 0.
///
/// On drop every process of it is killed, and everything it made is removed.
#[derive(Debug)]
pub struct NetCluster {
    /// The network, for its faults.
    pub net: Net,
    nodes: Vec<Node>,
    /// By node, if they are relayed.
    relays: Vec<SocketAddr>,
    options: Options,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Node {
    /// Its daemon, if it was started and not killed.
    daemon: Option<Child>,
    /// Key and value for `--set`, for every start of its daemon.
    settings: Vec<String>,
}

/// How nodes are made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings for each daemon, such as `chaos.enabled=true`.
    pub settings: Vec<String>,
    /// More settings, for the daemon of each node by its number.
    pub each: Vec<Vec<String>>,
    /// Environment variables of every daemon.
    pub variables: Vec<(String, String)>,
    /// Every node is reached through a relay with this round trip ([`Net::relay`]).
    pub relayed: Option<Duration>,
    /// Data directories are made here; `None`: where temporary ones are.
    pub dir: Option<PathBuf>,
}

impl NetCluster {
    /// A cluster of `nodes`, each ready in the eyes of each; `None`: the test is to be skipped,
    /// which was said.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn start(nodes: usize) -> Option<Self> {
        Some(Self::on(Net::new(nodes)?, nodes))
    }

    /// A cluster of the first `nodes` of a network, which may have faults already; the others
    /// can be added later.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn on(net: Net, nodes: usize) -> Self {
        Self::with(net, nodes, Options::default())
    }

    /// As [`NetCluster::on`], with options, which also hold for nodes that are added later.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn with(net: Net, nodes: usize, options: Options) -> Self {
        assert!((1..=net.nodes()).contains(&nodes), "{nodes} nodes of {}", net.nodes());
        let owner = owner(std::process::id()).expect("this process has a start time");
        let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{MARK}-{owner}-"))
            .tempdir_in(base)
            .expect("a temporary directory");
        let mut cluster = Self { net, nodes: Vec::new(), relays: Vec::new(), options, dir };
        let place = cluster.place(0);
        let person = ["--operator", "ops", "--context", CONTEXT];
        run(cluster.command(0).arg("init").args(place).args(person)).ok();
        cluster.write_context(0);
        cluster.admit();
        for _ in 1..nodes {
            cluster.add();
        }
        for through in 0..nodes {
            cluster.wait_until("every node is ready", DEADLINE, |cluster| {
                let states = cluster.states(through);
                (states.len() == nodes && states.iter().all(|(_, state)| state == "ready"))
                    .then_some(())
            });
        }
        cluster
    }

    /// Joins the next node of the network, and waits until it answers; its number.
    ///
    /// # Panics
    /// If the network has no more, or the join fails.
    #[track_caller]
    pub fn add(&mut self) -> usize {
        let node = self.nodes.len();
        assert!(node < self.net.nodes(), "the network has no more than {node}");
        let name = self.node_name(node);
        let token = self.weft(0, &["node", "token", "--name", &name, "--json"]).ok().json();
        let token = token["token"].as_str().expect("a token").to_owned();
        let place = self.place(node);
        run(self.command(node).args(["join", &token]).args(place)).ok();
        self.admit()
    }

    /// Where a node is to be, as `init` and `join` take it.
    fn place(&mut self, node: usize) -> Vec<String> {
        if let Some(round_trip) = self.options.relayed {
            self.relays.push(self.net.relay(node, PORT, round_trip));
        }
        vec![
            "--name".into(),
            self.node_name(node),
            "--data".into(),
            self.data_dir(node).to_string_lossy().into_owned(),
            "--bind".into(),
            self.bound(node).to_string(),
            "--advertise".into(),
            self.fabric(node).to_string(),
            "--gateway".into(),
            "127.0.0.1:9765".into(),
        ]
    }

    /// Starts the daemon of a node that was just made.
    #[track_caller]
    fn admit(&mut self) -> usize {
        let node = self.nodes.len();
        let mut settings = self.options.settings.clone();
        settings.extend(self.options.each.get(node).into_iter().flatten().cloned());
        self.nodes.push(Node { daemon: None, settings });
        for other in 0..=node {
            self.write_context(other);
        }
        self.start_daemon(node);
        self.answers(node);
        node
    }

    /// A CLI file for use on a node: its local socket first, then every node's address.
    fn write_context(&self, node: usize) {
        let made = CliConfig::load(&self.context(0), None).expect("the file that init wrote");
        let (_, made) = made.context(Some(CONTEXT)).expect("its context");
        let nodes = (0..self.nodes.len().max(1)).map(|other| NodeEntry {
            name: self.node_name(other),
            address: self.fabric(other).to_string(),
            ..NodeEntry::default()
        });
        let context =
            Context { nodes: nodes.collect(), socket: Some(self.socket(node)), ..made.clone() };
        let mut file = CliFile::open(&self.context(node)).expect("a CLI file");
        file.set_context(CONTEXT, &context).expect("a context");
        file.use_context(CONTEXT).expect("a context");
        file.save().expect("saves");
    }

    /// How many nodes were made.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Name of a node: `n1` for 0.
    pub fn node_name(&self, node: usize) -> String {
        format!("n{}", node + 1)
    }

    /// Number of a node, by name.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn node_number(&self, name: &str) -> usize {
        (0..self.len())
            .find(|node| self.node_name(*node) == name)
            .unwrap_or_else(|| panic!("no node {name} of {}", self.len()))
    }

    /// Where a node's fabric listens.
    pub fn bound(&self, node: usize) -> SocketAddr {
        (self.net.address(node), PORT).into()
    }

    /// Where others reach a node's fabric: at its relay, if it has one.
    pub fn fabric(&self, node: usize) -> SocketAddr {
        self.relays.get(node).copied().unwrap_or_else(|| self.bound(node))
    }

    /// Settings for a node's daemon from its next start on, in place of the earlier ones.
    ///
    /// # Panics
    /// If there is no such node.
    #[track_caller]
    pub fn set(&mut self, node: usize, settings: &[&str]) {
        let Some(node) = self.nodes.get_mut(node) else { panic!("no node {node}") };
        node.settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    }

    /// A directory that goes away with the cluster; the nodes' data is in it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A node's data directory.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.scratch().join(self.node_name(node))
    }

    /// A node's local socket.
    pub fn socket(&self, node: usize) -> PathBuf {
        self.data_dir(node).join("weft.sock")
    }

    /// The CLI file for use on a node.
    pub fn context(&self, node: usize) -> PathBuf {
        self.scratch().join(format!("weft-{}.toml", self.node_name(node)))
    }

    /// `weft` on a node: in its namespace, with its local socket before the other nodes' addresses.
    pub fn command(&self, node: usize) -> Command {
        let mut command = self.net.command(node, bin_dir().join("weft"));
        command.env("WEFT_CONFIG", self.context(node)).env_remove("WEFT_CONTEXT");
        command
    }

    /// Runs `weft` on a node to its end.
    pub fn weft(&self, node: usize, args: &[&str]) -> Done {
        run(self.command(node).args(args))
    }

    /// Runs `weft` on a node, expects code 0, and reads its JSON.
    ///
    /// # Panics
    /// If it fails, or prints none.
    #[track_caller]
    pub fn json(&self, node: usize, args: &[&str]) -> Value {
        self.weft(node, args).ok().json()
    }

    /// Writes a definition into the scratch directory; its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn definition(&self, name: &str, text: &str) -> String {
        let file = self.scratch().join(format!("{name}.toml"));
        std::fs::write(&file, text).expect("writes");
        file.to_string_lossy().into_owned()
    }

    /// Deploys a definition from a node, waits until it is healthy, and expects code 0.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn deploy(&self, node: usize, definition: &str) -> Done {
        self.try_deploy(node, definition, &[]).ok()
    }

    /// Deploys a definition from a node, with more arguments, such as `--no-wait`; what came of it.
    ///
    /// # Panics
    /// If the definition names no service.
    #[track_caller]
    pub fn try_deploy(&self, node: usize, definition: &str, more: &[&str]) -> Done {
        let first = definition.lines().find_map(|line| line.strip_prefix("name = \""));
        let name = first.and_then(|rest| rest.split('"').next()).expect("the service's name");
        let file = self.definition(name, definition);
        run(self.command(node).args(["deploy", "-f", &file]).args(more))
    }

    /// Rows of `weft ps --json` on a node; none if it fails.
    pub fn ps_json(&self, node: usize) -> Vec<Value> {
        rows(&self.weft(node, &["ps", "--json"]))
    }

    /// Rows of `weft node list --json` on a node; none if it fails.
    pub fn nodes_json(&self, node: usize) -> Vec<Value> {
        rows(&self.weft(node, &["node", "list", "--json"]))
    }

    /// Name and state of every node, as a node lists them; none if it does not answer.
    pub fn states(&self, node: usize) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.nodes_json(node).iter().map(|row| (text(&row["name"]), text(&row["state"]))).collect()
    }

    /// Waits until a node lists another in one of these states; which.
    ///
    /// # Panics
    /// If it does not within [`DEADLINE`].
    #[track_caller]
    pub fn node_is(&self, through: usize, node: usize, states: &[&str]) -> String {
        let name = self.node_name(node);
        let what = format!("{} lists {name} as {states:?}", self.node_name(through));
        let (state, _) = self.wait_until(&what, DEADLINE, |cluster| {
            let listed = cluster.states(through);
            listed
                .into_iter()
                .find(|(of, state)| *of == name && states.contains(&state.as_str()))
                .map(|(_, state)| state)
        });
        state
    }

    /// Waits until a service's component is `running` on a node, as `through` lists it;
    /// its row.
    ///
    /// # Panics
    /// If it does not within [`DEADLINE`].
    #[track_caller]
    pub fn running(&self, through: usize, service: &str, on: usize) -> Value {
        let node = self.node_name(on);
        let (row, _) = self.wait_until(&format!("{service} runs on {node}"), DEADLINE, |cluster| {
            cluster.ps_json(through).into_iter().find(|row| {
                row["service"] == service
                    && row["node"] == node.as_str()
                    && row["state"] == "running"
            })
        });
        row
    }

    /// Looks at a condition until it gives a value; that, and how long it took.
    ///
    /// # Panics
    /// If it gives none within `deadline`, with `what`.
    #[track_caller]
    pub fn wait_until<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> (T, Duration) {
        let start = SystemClock.now();
        loop {
            if let Some(value) = condition(self) {
                return (value, start.elapsed());
            }
            assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
            // The pause between two looks at the condition, not a wait for it.
            std::thread::park_timeout(LOOK);
        }
    }

    /// GETs a URL from within a node's namespace; status and body, or why not.
    ///
    /// # Errors
    /// Whatever the socket says, as text.
    pub fn curl(&self, node: usize, url: &str) -> Result<(u16, String), String> {
        self.net.inside(node, || http_get(url))
    }

    /// Pid of a node's daemon, while it runs.
    pub fn daemon_pid(&self, node: usize) -> Option<u32> {
        let pid = self.nodes.get(node)?.daemon.as_ref()?.id();
        is_alive(pid).then_some(pid)
    }

    /// Kills a node's daemon with SIGKILL and waits until it is gone; its components go on.
    ///
    /// # Panics
    /// If it does not run.
    #[track_caller]
    pub fn kill(&mut self, node: usize) {
        let daemon = self.nodes.get_mut(node).and_then(|node| node.daemon.take());
        let mut daemon = daemon.unwrap_or_else(|| panic!("no daemon runs on node {node}"));
        daemon.kill().expect("a child can be killed");
        daemon.wait().expect("a child can be waited for");
    }

    /// Kills a node as a power cut does: daemon, shims and components. Its files stay.
    pub fn crash(&mut self, node: usize) {
        let daemon = self.nodes.get_mut(node).and_then(|node| node.daemon.take());
        end_all(|| self.node_pids(node));
        if let Some(mut daemon) = daemon {
            let _ = daemon.wait();
        }
    }

    /// Tells a node's daemon to stop (SIGTERM) and waits until it has; its exit code.
    ///
    /// # Panics
    /// If it does not run, or does not end within [`DEADLINE`].
    #[track_caller]
    pub fn stop(&mut self, node: usize) -> Option<i32> {
        let daemon = self.nodes.get_mut(node).and_then(|node| node.daemon.take());
        let mut daemon = daemon.unwrap_or_else(|| panic!("no daemon runs on node {node}"));
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it exists");
        let name = self.node_name(node);
        let ended = |_: &Self| daemon.try_wait().expect("a child can be waited for");
        let (status, _) = self.wait_until(&format!("{name}'s daemon ends"), DEADLINE, ended);
        status.code()
    }

    /// Halts a node's daemon where it stands (SIGSTOP), or lets it go on (SIGCONT).
    ///
    /// # Panics
    /// If it does not run.
    #[track_caller]
    pub fn halt(&mut self, node: usize, halted: bool) {
        let daemon = self.nodes.get(node).and_then(|node| node.daemon.as_ref());
        let daemon = daemon.unwrap_or_else(|| panic!("no daemon runs on node {node}"));
        let signal =
            if halted { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        let pid = rustix::process::Pid::from_child(daemon);
        rustix::process::kill_process(pid, signal).expect("it exists");
    }

    /// Starts a node's daemon, which must not run, and waits for nothing.
    ///
    /// # Panics
    /// If it runs, or cannot be started.
    #[track_caller]
    pub fn start_daemon(&mut self, node: usize) {
        assert_eq!(self.daemon_pid(node), None, "the daemon of node {node} runs");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.data_dir(node).join("weftd.log"))
            .expect("a log file");
        let mut command = self.net.command(node, bin_dir().join("weftd"));
        command.arg("run").arg("--config").arg(self.data_dir(node).join("node.toml"));
        command.env(DISK_LOW.0, DISK_LOW.1).envs(self.options.variables.iter().cloned());
        let Some(at) = self.nodes.get_mut(node) else { panic!("no node {node}") };
        for setting in &at.settings {
            command.args(["--set", setting]);
        }
        let other = log.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(log).stderr(other);
        at.daemon = Some(command.spawn().expect("weftd starts"));
    }

    /// Kills a node's daemon if it runs, starts it, and waits until it answers.
    ///
    /// # Panics
    /// If it does not within [`DEADLINE`].
    #[track_caller]
    pub fn restart(&mut self, node: usize) {
        if self.daemon_pid(node).is_some() {
            self.kill(node);
        }
        self.start_daemon(node);
        self.answers(node);
    }

    /// Waits until the daemon that was started last on a node answers on its local socket.
    ///
    /// # Panics
    /// If it does not within [`DEADLINE`], or ends.
    #[track_caller]
    pub fn answers(&self, node: usize) {
        let name = self.node_name(node);
        self.wait_until(&format!("{name} answers"), DEADLINE, |cluster| {
            assert!(cluster.daemon_pid(node).is_some(), "{name} ended: {}", cluster.tail(node));
            // What an earlier daemon wrote may still lie there.
            let file = std::fs::read(cluster.data_dir(node).join("weftd.json")).ok()?;
            let file: Value = serde_json::from_slice(&file).ok()?;
            let own = file["pid"].as_u64() == cluster.daemon_pid(node).map(u64::from);
            (own && cluster.states(node).iter().any(|(of, _)| *of == name)).then_some(())
        });
    }

    /// What a node's daemons have logged so far.
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.data_dir(node).join("weftd.log")).unwrap_or_default()
    }

    fn tail(&self, node: usize) -> String {
        let log = self.log(node);
        // Not what the test itself asked.
        let asked = |line: &&str| line.contains("weft::audit") && line.contains("outcome=\"ok\"");
        let lines: Vec<&str> = log.lines().filter(|line| !asked(line)).collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Pids of a node's daemon, shims and components.
    pub fn node_pids(&self, node: usize) -> Vec<u32> {
        self.net.pids(node)
    }
}

impl Drop for NetCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 0..self.len() {
                let name = self.node_name(node);
                eprintln!("--- {name}, end of its log ---\n{}", self.tail(node));
            }
        }
        let mut daemons: Vec<Child> =
            self.nodes.iter_mut().filter_map(|node| node.daemon.take()).collect();
        for daemon in &mut daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            // The network ends what is left; a second panic here would hide the first.
            return;
        }
        end_all(|| (0..self.len()).flat_map(|node| self.node_pids(node)).collect());
    }
}

/// Kills until nothing is left: what is being killed may just have started something.
fn end_all(pids: impl Fn() -> Vec<u32>) {
    loop {
        let left = pids();
        if left.is_empty() {
            return;
        }
        end(&left);
    }
}

fn rows(done: &Done) -> Vec<Value> {
    let value: Option<Value> = serde_json::from_str(&done.stdout).ok();
    value.and_then(|value| value.as_array().cloned()).unwrap_or_default()
}

/// A definition of `replicas` of `hello`, each with a route and probed.
pub fn hello(service: &str, replicas: usize) -> String {
    let program = bin_dir().join("hello");
    format!(
        "name = \"{service}\"\nreplicas = {replicas}\n\n[[components]]\nname = \"{service}\"\n\
         cmd = [\"{}\"]\nstop_grace = \"2s\"\n\n[[components.routes]]\nport = 443\n",
        program.display()
    )
}

/// As [`hello`], one replica that stays on the node of that name.
pub fn hello_on(service: &str, node: &str) -> String {
    hello(service, 1).replacen("replicas = 1", &format!("node = \"{node}\""), 1)
}
