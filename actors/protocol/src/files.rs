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
//! state.db local.db    SQLite (weft-registry)
//! weft.sock            local socket, unless the path is too long for one
//! components/<service>/<replica>/<component>/shim.json   ShimFile
//! logs/<service>/<replica>/<component>.log
//! services/<service>/<replica>/                          data directory of a replica
//! ```

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
