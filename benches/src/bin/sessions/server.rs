//! The servers that are measured: the reference and Weft, each alone, and three nodes of Weft.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use weft_tests::is_alive;
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options};
use weft_wire::{Clock, SystemClock};

use crate::client::{self, Agents, Client, MESSAGES, accepted};
use crate::{Fatal, alone};

/// Where each of three nodes serves sessions, in its own namespace.
const PORT: u16 = 50051;
/// Nodes of a cluster.
const NODES: usize = 3;
/// Until a server that holds nothing serves.
const READY: Duration = Duration::from_secs(60);
/// A server that was told to stop may take so long; both are to be done with what they write.
const STOPS: Duration = Duration::from_secs(120);
/// Between two attempts.
const LOOK: Duration = Duration::from_millis(1);
/// Lines of a log that an error shows.
const TAIL: usize = 5;
/// More than anybody sends in a minute.
const UNLIMITED: &str = "1000000000";

/// The variables of MACP that every server here is to have; rates are what is measured.
pub(crate) fn environment() -> BTreeMap<String, String> {
    ["MACP_SESSION_START_LIMIT_PER_MINUTE", "MACP_MESSAGE_LIMIT_PER_MINUTE"]
        .map(|name| (name.to_owned(), UNLIMITED.to_owned()))
        .into()
}

/// Who serves, and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// gRPC and nothing behind it.
    Alone,
    /// The reference, in memory only.
    ReferenceMemory,
    /// One node, in memory only.
    WeftMemory,
    /// The reference, on disk.
    ReferenceDurable,
    /// One node, on disk.
    WeftDurable,
    /// Three nodes, each on disk.
    WeftThree,
}

impl Kind {
    /// Each after what it is compared with.
    pub(crate) const ALL: [Self; 6] = [
        Self::Alone,
        Self::ReferenceMemory,
        Self::WeftMemory,
        Self::ReferenceDurable,
        Self::WeftDurable,
        Self::WeftThree,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alone => "gRPC alone",
            Self::ReferenceMemory => "reference, memory",
            Self::WeftMemory => "weft, memory",
            Self::ReferenceDurable => "reference, durable",
            Self::WeftDurable => "weft, durable",
            Self::WeftThree => "weft, 3 nodes",
        }
    }

    /// What it is compared with; `None`: it is what others are compared with.
    pub(crate) fn baseline(self) -> Option<Self> {
        match self {
            Self::WeftMemory => Some(Self::ReferenceMemory),
            Self::WeftDurable | Self::WeftThree => Some(Self::ReferenceDurable),
            Self::Alone | Self::ReferenceMemory | Self::ReferenceDurable => None,
        }
    }
}

/// The programs, and where they may keep what they keep.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) reference: PathBuf,
    pub(crate) weftd: PathBuf,
    /// On the disk that is measured.
    pub(crate) dir: PathBuf,
}

/// A server that was started; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server(Running);

#[derive(Debug)]
enum Running {
    One { child: Child, address: SocketAddr, log: PathBuf },
    Three(Box<NetCluster>),
}

impl Server {
    /// Starts it and waits for nothing, except for three nodes, which are ready then. `data`: of a
    /// single server, made if it is not there; what is in it is served again.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(programs: &Programs, kind: Kind, data: &Path) -> Result<Self, Fatal> {
        let own = std::env::current_exe()?;
        let (program, arguments): (&Path, &[&str]) = match kind {
            Kind::Alone => (&own, &[alone::ARGUMENT]),
            Kind::ReferenceMemory | Kind::ReferenceDurable => (&programs.reference, &[]),
            Kind::WeftMemory | Kind::WeftDurable => (&programs.weftd, &["run", "--session-only"]),
            Kind::WeftThree => return cluster(programs),
        };
        std::fs::create_dir_all(data)?;
        let mut command = Command::new(program);
        command.args(arguments);
        if matches!(kind, Kind::ReferenceMemory | Kind::WeftMemory) {
            command.env("MACP_MEMORY_ONLY", "1");
        }
        // Free a moment ago: nobody would say what port 0 became.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = data.join("log");
        let out = File::create(&log)?;
        let child = command
            .env("MACP_BIND_ADDR", address.to_string())
            .env("MACP_DATA_DIR", data.join("data"))
            .env("MACP_ALLOW_INSECURE", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| format!("{}: {error}", kind.name()))?;
        Ok(Self(Running::One { child, address, log }))
    }

    /// As [`Server::start`], and waits until it has taken a whole session at each of its doors.
    ///
    /// # Errors
    /// If it does not within [`READY`].
    pub(crate) async fn ready(programs: &Programs, kind: Kind, data: &Path) -> Result<Self, Fatal> {
        let server = Self::start(programs, kind, data)?;
        let agents = Agents::new("ready")?;
        for door in 0..server.doors() {
            server.takes_a_session(door, &agents).await?;
        }
        Ok(server)
    }

    async fn takes_a_session(&self, door: usize, agents: &Agents) -> Result<(), Fatal> {
        let mut client = self.client(door, READY).await?;
        let begun = SystemClock.now();
        loop {
            match session(&mut client, agents).await {
                Ok(_) => return Ok(()),
                Err(why) if begun.elapsed() > READY => {
                    return Err(format!("no session within {READY:?}: {why}").into());
                }
                Err(_) => tokio::time::sleep(LOOK * 100).await,
            }
        }
    }

    /// Addresses that a client may go to.
    pub(crate) fn doors(&self) -> usize {
        match &self.0 {
            Running::One { .. } => 1,
            Running::Three(_) => NODES,
        }
    }

    /// Its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match &self.0 {
            Running::One { child, .. } => vec![child.id()],
            Running::Three(cluster) => {
                (0..NODES).filter_map(|node| cluster.daemon_pid(node)).collect()
            }
        }
    }

    /// A client at a door: they are counted around.
    ///
    /// # Errors
    /// If the server does not answer within `within`, or ends.
    pub(crate) async fn client(&self, door: usize, within: Duration) -> Result<Client, Fatal> {
        let begun = SystemClock.now();
        loop {
            let tried = match self.connect(door % self.doors()) {
                Ok(stream) => client::over(stream).await,
                Err(error) => Err(error.into()),
            };
            match tried {
                Ok(client) => return Ok(client),
                Err(why) if begun.elapsed() > within => {
                    return Err(format!("no answer within {within:?}: {why}").into());
                }
                Err(_) => self.runs()?,
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn connect(&self, door: usize) -> std::io::Result<TcpStream> {
        match &self.0 {
            Running::One { address, .. } => TcpStream::connect(address),
            Running::Three(cluster) => {
                cluster.net.inside(door, || TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)))
            }
        }
    }

    fn runs(&self) -> Result<(), Fatal> {
        let Running::One { child, log, .. } = &self.0 else { return Ok(()) };
        if is_alive(child.id()) {
            return Ok(());
        }
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
        Err(format!("it ended: {}", tail.join("\n")).into())
    }

    /// Tells a single server to stop, and waits until it has.
    ///
    /// # Errors
    /// If it does not within [`STOPS`].
    pub(crate) fn stop(mut self) -> Result<(), Fatal> {
        let Running::One { child, .. } = &mut self.0 else { return Ok(()) };
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begun = SystemClock.now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > STOPS {
                return Err(format!("it did not stop within {STOPS:?}").into());
            }
            // The pause between two looks, not a wait for it.
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Running::One { child, .. } = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Three nodes in namespaces that are joined by a bridge, as in the tests of whole systems.
fn cluster(programs: &Programs) -> Result<Server, Fatal> {
    let net = Net::new(NODES).ok_or("three nodes need namespaces")?;
    let settings = vec![
        format!("sessions.bind={}:{PORT}", Ipv4Addr::LOCALHOST),
        "sessions.allow_insecure=true".to_owned(),
    ];
    let options = Options { settings, dir: Some(programs.dir.clone()), ..Options::default() };
    let cluster = NetCluster::with(net, NODES, options);
    cluster.settled(0);
    Ok(Server(Running::Three(Box::new(cluster))))
}

/// One session from start to commitment; its id.
///
/// # Errors
/// The first message that was not accepted, and why.
pub(crate) async fn session(client: &mut Client, agents: &Agents) -> Result<String, String> {
    let id = uuid::Uuid::new_v4().to_string();
    for step in 0..MESSAGES {
        accepted(client, agents.message(step, &id))
            .await
            .map_err(|why| format!("message {} of {MESSAGES}: {why}", step + 1))?;
    }
    Ok(id)
}
