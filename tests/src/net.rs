//! Networks of namespaces: nodes joined by a bridge that a test can cut, split and make lossy.
//!
//! Nothing touches the machine's own network: the bridge has a namespace of its own, and each
//! node's `eth0` is made there and moved into the node's. Faults are packet filters on the node's
//! `eth0` (`tc`, classic BPF), so that nothing but iproute2 is needed. Everything bears the pid
//! and the start time of the test process in its name, is removed on drop, and, when a test
//! process was killed, by the next one that makes a network.

mod filter;
mod refuse;
mod relay;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use weft_protocol::files::ProcessFile;

use self::filter::Filter;
use self::refuse::Refuser;
use self::relay::Relay;
use crate::{eventually, is_alive, run};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// Begins every name made here, of namespaces and of directories.
pub(crate) const MARK: &str = "weft-net";
/// Bytes in a packet of a new network.
const MTU: u32 = 1500;

/// Networks this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A number of namespaces, counted from 0, each with an `eth0` on one bridge.
///
/// Node `i` has [`Net::address`]`(i)` and nobody else's; all of its faults are its own.
#[derive(Debug)]
pub struct Net {
    name: String,
    /// Third byte of every address.
    third: u8,
    ports: Vec<Port>,
    relays: Vec<Relay>,
}

/// One node's attachment.
#[derive(Debug)]
struct Port {
    /// Whether the interface exists.
    there: bool,
    /// Last byte of its address.
    last: u8,
    mtu: u32,
    filter: Filter,
    refuser: Option<Refuser>,
}

/// Why networks cannot be made here; `None`: they can.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for tool in ["ip", "tc", "nsenter"] {
        let found = Command::new(tool).arg("-V").output();
        if found.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Some(format!("{tool} is not installed (iproute2, util-linux)"));
        }
    }
    // The kernel or the container may still not allow it: try, once.
    let probe = format!("{MARK}-{}-probe", owner(std::process::id())?);
    let tried = ip(&["netns", "add", &probe])
        .and_then(|()| tool("tc", &["-n", &probe, "qdisc", "add", "dev", "lo", "clsact"]));
    let _ = ip(&["netns", "del", &probe]);
    tried.err().map(|error| format!("network namespaces do not work here: {error}"))
}

/// Whether the test that calls must end now, because networks cannot be made here: it says so by
/// the test's name.
///
/// # Panics
/// With `CI=true`, where a test that is skipped is a failure.
#[track_caller]
pub fn skip() -> bool {
    let Some(why) = unavailable() else { return false };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} cannot run: {why}");
    eprintln!("SKIPPED {test}: {why}");
    true
}

impl Net {
    /// A network of `nodes` namespaces, 1 to 200, all joined; `None`: the test is to be skipped,
    /// which was said.
    ///
    /// # Panics
    /// If it cannot be made although [`unavailable`] found nothing.
    #[track_caller]
    pub fn new(nodes: usize) -> Option<Self> {
        assert!((1..=200).contains(&nodes), "{nodes} nodes");
        if skip() {
            return None;
        }
        sweep();
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let owner = owner(std::process::id()).expect("this process has a start time");
        let mut net = Self {
            name: format!("{MARK}-{owner}-{made}"),
            third: u8::try_from(made % 250).unwrap_or(0),
            ports: Vec::new(),
            relays: Vec::new(),
        };
        let bridge = net.bridge();
        must(ip(&["netns", "add", &bridge]));
        // An address of its own, so that it does not change with its ports.
        let link = ["address", "02:00:00:00:00:01", "type", "bridge"];
        must(ip(&[&["-n", &bridge, "link", "add", "br0"], &link[..]].concat()));
        must(ip(&["-n", &bridge, "link", "set", "br0", "up"]));
        for node in 0..nodes {
            let space = net.namespace(node);
            net.ports.push(Port {
                there: false,
                last: u8::try_from(node + 1).expect("at most 200 nodes"),
                mtu: MTU,
                filter: Filter::default(),
                refuser: None,
            });
            must(ip(&["netns", "add", &space]));
            must(ip(&["-n", &space, "link", "set", "lo", "up"]));
            net.arrive(node);
        }
        Some(net)
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.ports.len()
    }

    fn bridge(&self) -> String {
        format!("{}-br", self.name)
    }

    /// Name of a node's namespace, as `ip netns exec` takes it.
    pub fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    /// A node's address, also while its interface does not exist.
    pub fn address(&self, node: usize) -> Ipv4Addr {
        let last = self.ports.get(node).map_or(0, |port| port.last);
        Ipv4Addr::new(10, 77, self.third, last)
    }

    /// Gives a node another address, whose last byte is `last`, in place of the one it has.
    pub fn readdress(&mut self, node: usize, last: u8) {
        let (space, before) = (self.namespace(node), format!("{}/24", self.address(node)));
        if let Some(port) = self.ports.get_mut(node) {
            port.last = last;
        }
        let after = format!("{}/24", self.address(node));
        must(ip(&["-n", &space, "addr", "del", &before, "dev", "eth0"]));
        must(ip(&["-n", &space, "addr", "add", &after, "dev", "eth0"]));
    }

    /// A program that will run inside a node's namespace, in place of `nsenter`: the child's pid
    /// is the program's.
    pub fn command(&self, node: usize, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        let file = path(&self.namespace(node));
        command.arg(format!("--net={}", file.display())).arg("--").arg(program.as_ref());
        command
    }

    /// Does something on a thread of its own inside a node's namespace: sockets that it opens
    /// belong there, and so do threads that it starts. Panics pass through.
    pub fn inside<T: Send>(&self, node: usize, work: impl FnOnce() -> T + Send) -> T {
        let space = self.namespace(node);
        let done = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(&space);
                    work()
                })
                .join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Pulls a node's cable: its link goes down, its address stays.
    pub fn cut(&self, node: usize) {
        must(ip(&["-n", &self.bridge(), "link", "set", &port(node), "down"]));
    }

    /// Undoes [`Net::cut`], and everything that drops between this node and any other.
    pub fn heal(&mut self, node: usize) {
        must(ip(&["-n", &self.bridge(), "link", "set", &port(node), "up"]));
        let address = self.address(node);
        self.change(|at, filter| {
            if at == node {
                filter.from.clear();
            }
            filter.from.remove(&address);
        });
    }

    /// Splits the network: packets pass within a group only. A node in no group still reaches
    /// everybody. Replaces an earlier split and what [`Net::one_way`] dropped.
    pub fn partition(&mut self, groups: &[&[usize]]) {
        let group = |node: usize| groups.iter().position(|group| group.contains(&node));
        let nodes: Vec<(usize, Ipv4Addr)> =
            (0..self.nodes()).map(|node| (node, self.address(node))).collect();
        self.change(|at, filter| {
            filter.from = nodes
                .iter()
                .filter(|(other, _)| match (group(at), group(*other)) {
                    (Some(here), Some(there)) => here != there,
                    _ => false,
                })
                .map(|(_, address)| *address)
                .collect();
        });
    }

    /// Undoes [`Net::partition`] and [`Net::one_way`].
    pub fn reunite(&mut self) {
        self.partition(&[]);
    }

    /// Drops what goes from one node to another; the other way stays open.
    pub fn one_way(&mut self, from: usize, to: usize) {
        let address = self.address(from);
        self.change(|at, filter| {
            if at == to {
                filter.from.insert(address);
            }
        });
    }

    /// Loses so many packets of 100, each for itself and in each direction, between all nodes.
    /// 0 ends it.
    pub fn loss(&mut self, percent: u8) {
        self.change(|_, filter| filter.loss = percent.min(100));
    }

    /// Refuses UDP packets to a port of a node as a host does where nobody listens: they do not
    /// arrive, and an ICMP message says so.
    pub fn reject(&mut self, node: usize, udp_port: u16) {
        let (space, address) = (self.namespace(node), self.address(node));
        if let Some(port) = self.ports.get_mut(node) {
            port.filter.refused.insert(udp_port);
            // Before the packets are dropped, so that none is dropped in silence.
            port.refuser = None;
            port.refuser = Some(Refuser::start(&space, address, port.filter.refused.clone()));
        }
        self.apply(node);
    }

    /// Undoes [`Net::reject`] for all ports of a node.
    pub fn accept(&mut self, node: usize) {
        if let Some(port) = self.ports.get_mut(node) {
            port.filter.refused.clear();
        }
        self.apply(node);
        if let Some(port) = self.ports.get_mut(node) {
            port.refuser = None;
        }
    }

    /// Puts a relay before a UDP port of a node: who sends to the address that is given back
    /// reaches the node, and its answers come back from there, `round_trip` later in all. What the
    /// node sends by itself goes the direct way. Packets come to the node from the relay's
    /// address, so that [`Net::partition`] and [`Net::one_way`] do not drop them.
    pub fn relay(&mut self, node: usize, udp_port: u16, round_trip: Duration) -> SocketAddr {
        let last = u8::try_from(254 - node.min(50)).expect("it is below 255");
        let address = Ipv4Addr::new(10, 77, self.third, last);
        let bridge = self.bridge();
        // There already, if it relays another port.
        let with_mask = format!("{address}/24");
        must(ip(&["-n", &bridge, "addr", "replace", &with_mask, "dev", "br0"]));
        let (front, to) = ((address, udp_port).into(), (self.address(node), udp_port).into());
        self.relays.push(Relay::start(&bridge, front, to, round_trip / 2));
        front
    }

    /// Sets the size in bytes of the largest IP packet that passes a node's link, 576 to 1500.
    /// Larger ones for it vanish without a word, as in an overlay.
    pub fn mtu(&mut self, node: usize, bytes: u32) {
        if let Some(port) = self.ports.get_mut(node) {
            port.mtu = bytes;
        }
        self.size(node);
    }

    /// Takes a node's interface and its address away, until [`Net::arrive`].
    pub fn late(&mut self, node: usize) {
        must(ip(&["-n", &self.bridge(), "link", "del", &port(node)]));
        if let Some(port) = self.ports.get_mut(node) {
            port.there = false;
        }
    }

    /// Makes a node's interface, with its address and its faults; nothing if it exists.
    pub fn arrive(&mut self, node: usize) {
        let Some(at) = self.ports.get_mut(node) else { return };
        if std::mem::replace(&mut at.there, true) {
            return;
        }
        let (bridge, space, port) = (self.bridge(), self.namespace(node), port(node));
        // The same hardware address each time: nobody has to find out that it changed.
        let hardware = format!("02:00:00:00:01:{node:02x}");
        let peer = ["peer", "name", "eth0", "address", &hardware, "netns", &space];
        must(ip(&[&["-n", &bridge, "link", "add", &port, "type", "veth"], &peer[..]].concat()));
        // One packet is one packet: a burst must not pass as a single large one, which would be
        // lost as a whole and never be too large.
        for (space, device) in [(&bridge, port.as_str()), (&space, "eth0")] {
            must(ip(&["-n", space, "link", "set", "dev", device, "gso_max_segs", "1"]));
        }
        must(tool("tc", &["-n", &space, "qdisc", "add", "dev", "eth0", "clsact"]));
        self.apply(node);
        self.size(node);
        must(ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"]));
        must(ip(&["-n", &space, "link", "set", "eth0", "up"]));
        let address = format!("{}/24", self.address(node));
        must(ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"]));
    }

    /// Pids of the processes inside a node's namespace.
    pub fn pids(&self, node: usize) -> Vec<u32> {
        pids(&self.namespace(node))
    }

    fn change(&mut self, mut change: impl FnMut(usize, &mut Filter)) {
        for node in 0..self.nodes() {
            let Some(port) = self.ports.get_mut(node) else { continue };
            let before = port.filter.clone();
            change(node, &mut port.filter);
            if port.filter != before {
                self.apply(node);
            }
        }
    }

    fn apply(&self, node: usize) {
        let Some(port) = self.ports.get(node).filter(|port| port.there) else { return };
        let (space, program) = (self.namespace(node), port.filter.program());
        let place = ["filter", "replace", "dev", "eth0", "ingress", "pref", "1", "handle", "1"];
        let what = ["protocol", "all", "bpf", "da", "bytecode", &program];
        must(tool("tc", &[&["-n", &space], &place[..], &what[..]].concat()));
    }

    fn size(&self, node: usize) {
        let Some(at) = self.ports.get(node).filter(|port| port.there) else { return };
        let mtu = at.mtu.to_string();
        let (bridge, space) = (self.bridge(), self.namespace(node));
        must(ip(&["-n", &bridge, "link", "set", &port(node), "mtu", &mtu]));
        must(ip(&["-n", &space, "link", "set", "eth0", "mtu", &mtu]));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.relays.clear();
        for port in &mut self.ports {
            port.refuser = None;
        }
        // Interfaces go with the namespace that has no process left.
        for node in 0..self.nodes() {
            remove(&self.namespace(node));
        }
        remove(&self.bridge());
    }
}

/// Name of a node's port on the bridge.
fn port(node: usize) -> String {
    format!("p{node}")
}

fn path(space: &str) -> PathBuf {
    Path::new(NAMES).join(space)
}

/// Moves the calling thread into a namespace, for ever.
///
/// # Panics
/// If it cannot.
pub(crate) fn enter(space: &str) {
    let file = std::fs::File::open(path(space)).unwrap_or_else(|e| panic!("{space}: {e}"));
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|error| panic!("{space}: {error}"));
}

/// Ends what runs in a namespace, which was started there by this test or one that is dead, and
/// removes it.
fn remove(space: &str) {
    let ours = std::process::id();
    let mut left = pids(space);
    left.retain(|pid| *pid != ours);
    left.iter().copied().for_each(kill);
    let _ = ip(&["netns", "del", space]);
}

/// Kills a process, which may have ended meanwhile.
fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
}

/// Processes whose first thread is in a namespace.
fn pids(space: &str) -> Vec<u32> {
    let Ok(inode) = std::fs::metadata(path(space)).map(|file| file.ino()) else {
        return Vec::new();
    };
    let wanted = PathBuf::from(format!("net:[{inode}]"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|link| link == wanted)
            && is_alive(pid)
        {
            found.push(pid);
        }
    }
    found
}

/// Names a process for good: a pid is used again, a pid with its start time is not.
pub(crate) fn owner(pid: u32) -> Option<String> {
    ProcessFile::of(pid).ok().map(|process| format!("{pid}x{}", process.start_ticks))
}

/// Whether something named [`MARK`]`-<owner>-…` belongs to a process that is gone.
pub(crate) fn is_left_over(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(MARK).and_then(|rest| rest.strip_prefix('-')) else {
        return false;
    };
    let Some((of, _)) = rest.split_once('-') else { return false };
    let Some(pid) = of.split_once('x').and_then(|(pid, _)| pid.parse().ok()) else { return false };
    owner(pid).is_none_or(|now| now != of)
}

/// Removes what test processes left that were killed.
fn sweep() {
    let names = |dir: &Path| -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_str().is_some_and(is_left_over))
            .map(|entry| entry.path())
            .collect()
    };
    for left in names(Path::new(NAMES)) {
        if let Some(space) = left.file_name().and_then(|name| name.to_str()) {
            remove(space);
        }
    }
    for left in names(&std::env::temp_dir()) {
        let _ = std::fs::remove_dir_all(left);
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    tool("ip", args)
}

fn tool(program: &str, args: &[&str]) -> Result<(), String> {
    let done = run(Command::new(program).args(args));
    if done.code == 0 { Ok(()) } else { Err(format!("{program} {args:?}: {}", done.stderr.trim())) }
}

#[track_caller]
fn must(done: Result<(), String>) {
    if let Err(error) = done {
        panic!("{error}");
    }
}

/// Kills processes that this test started, if they did not end by themselves, and waits until they
/// are gone.
pub(crate) fn end(pids: &[u32]) {
    pids.iter().copied().for_each(kill);
    eventually("the killed processes are gone", || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}
