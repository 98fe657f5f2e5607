//! State files that more than one program reads: their names, layout and versions.
//!
//! Under a node's data directory:
//! ```text
//! node.toml            what people write (weft-config)
//! node.json            NodeSeed: who this node is; written by init and join
//! weftd.json           ProcessFile of the running daemon
//! ports.json           PortsFile: the ports chosen
//! weftd.lock           held (flock) by the running daemon
//! identity/            keys and certificates (weft-identity)
//! raft.db state.db     SQLite: log and checkpoints of consensus (weft-agreement)
//! local.db             SQLite: events and audit of this node (weft-registry)
//! membership.json      this node's incarnation (weft-agreement)
//! removed.json         the node was removed from its cluster, and how it learned it (weftd)
//! weft.sock            local socket, unless the path is too long for one
//! components/<service>/<replica>/<component>/shim.json   ShimFile
//! components/<service>/<replica>/<component>/container.json   it has, or may have, a container
//! components/<service>/<replica>/<component>/guard/           shim.json of a container's lease
//! engine/              socket and state of `podman system service`, if weftd runs one
//! logs/<service>/<replica>/<component>.log
//! blobs/sha256/<hex>   files that came with definitions
//! blobs/partial/       those on their way in
//! pushes/              temporary files of pushes that go on
//! services/<service>/<replica>/                          data directory of a replica
//! ```

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_wire::{NodeId, WallTime};

use crate::{Command, ComponentKey, PeerAddress};

/// Version that this build writes into every state file. A file from a newer one is refused.
pub const FILES_VERSION: u16 = 1;

/// `node.json`: who this node is. Written once, by `weft init` or `weft join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSeed {
    /// [`FILES_VERSION`] of the writer.
    pub version: u16,
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// On the first node: the cluster's first records.
    pub bootstrap: Option<Command>,
    /// On a joined node: where the others were when it joined, the leader first.
    pub peers: Vec<PeerAddress>,
}

/// A process, named so that a recycled pid is not mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFile {
    /// [`FILES_VERSION`] of the writer.
    pub version: u16,
    /// Its pid.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl ProcessFile {
    /// Names the process that has this pid now.
    ///
    /// # Errors
    /// Whatever reading `/proc` gives; `NotFound` if there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks = start_ticks(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc stat"))?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { version: FILES_VERSION, pid, start_ticks, boot_id })
    }

    /// Whether exactly this process still exists and has not ended.
    pub fn is_running(&self) -> bool {
        let ended = |pid: u32| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|stat| {
                    Some(matches!(stat.rsplit_once(") ")?.1.as_bytes(), [b'Z' | b'X', ..]))
                })
                .unwrap_or(true)
        };
        Self::of(self.pid).is_ok_and(|now| now == Self { version: now.version, ..self.clone() })
            && !ended(self.pid)
    }
}

/// Field 22 of a `/proc/<pid>/stat` line; the command name before it may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// `ports.json`: the addresses a daemon listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsFile {
    /// [`FILES_VERSION`] of the writer.
    pub version: u16,
    /// `ip:port` of the fabric (UDP).
    pub fabric: String,
    /// `http://ip:port` of the gateway.
    pub gateway: String,
    /// Path of the local socket.
    pub socket: String,
    /// `ip:port` of gRPC for MACP sessions; empty: none are served.
    #[serde(default)]
    pub sessions: String,
}

/// `shim.json`: a component's process as its shim knows it. Replaced whole at each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimFile {
    /// [`FILES_VERSION`] of the writer.
    pub version: u16,
    /// Which component.
    pub key: ComponentKey,
    /// Hash of the spec it was started from.
    pub spec_hash: String,
    /// Epoch it was started for.
    pub epoch: u64,
    /// Revision it was started for.
    pub revision: u64,
    /// Placement generation it was started for.
    pub generation: u64,
    /// The shim.
    pub shim: ProcessFile,
    /// The component's process; `None`: it could not be started.
    pub child: Option<ProcessFile>,
    /// When it was started.
    pub started_at: WallTime,
    /// Host port of each route, in order.
    pub ports: Vec<u16>,
    /// When its lease ends or ended, in ms of this boot's `CLOCK_BOOTTIME`; `None`: it runs
    /// without one. On disk as it was at the start; the shim says what it is now.
    #[serde(default)]
    pub lease: Option<u64>,
    /// What holds it to its `resources`, for people; empty: it is not limited.
    #[serde(default)]
    pub limits: String,
    /// How it ended, once it has.
    pub exit: Option<ShimExit>,
}

/// How a component's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimExit {
    /// `exit 1`, `signal 9`, or why it could not be started.
    pub status: String,
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
    /// It never ran.
    pub failed_to_start: bool,
    /// It was asked to stop.
    pub requested: bool,
    /// Its lease ended: it was killed for that, or not started.
    #[serde(default)]
    pub lease_ended: bool,
    /// When.
    pub at: WallTime,
}

/// `<data>/components/<service>/<replica>/<component>`.
pub fn component_dir(data: &Path, key: &ComponentKey) -> PathBuf {
    data.join("components").join(&key.service).join(key.replica.to_string()).join(&key.component)
}

/// `<data>/logs/<service>/<replica>/<component>.log`; rotated ones end in `.1` (newest) to `.4`.
pub fn log_file(data: &Path, key: &ComponentKey) -> PathBuf {
    data.join("logs")
        .join(&key.service)
        .join(key.replica.to_string())
        .join(format!("{}.log", key.component))
}

/// `<data>/services/<service>/<replica>`: the data directory of a replica.
pub fn replica_dir(data: &Path, service: &str, replica: u32) -> PathBuf {
    data.join("services").join(service).join(replica.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_pid() {
        let own = ProcessFile::of(std::process::id()).expect("this process");
        assert!(own.is_running());
        assert!(!ProcessFile { start_ticks: own.start_ticks + 1, ..own.clone() }.is_running());
        assert!(!ProcessFile { boot_id: "another".into(), ..own }.is_running());
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_ticks(stat), Some(4242));
    }
}
