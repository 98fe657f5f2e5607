//! What a daemon and a shim tell each other: JSON, one value a line.
//!
//! A daemon may be newer or older than the shim it took over, so unknown fields are ignored on
//! both sides and a line that is not understood is skipped.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_protocol::ComponentKey;
use weft_protocol::files::ShimFile;

use crate::limits::Hold;

/// Version of these types that this build speaks.
pub const SHIM_PROTOCOL: u16 = 1;

/// Another shim of the same component holds the lock.
pub const EXIT_LOCKED: u8 = 75;
/// The shim could not set itself up; its standard error says why, nothing was started.
pub const EXIT_SETUP: u8 = 74;
/// It was called wrongly, or its spec does not parse.
pub const EXIT_USAGE: u8 = 78;

/// Name of the lock in a component's directory.
pub const LOCK_FILE: &str = "shim.lock";
/// Name of the state file (a [`ShimFile`]) in a component's directory.
pub const STATE_FILE: &str = "shim.json";
/// Name of the socket in a component's directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// Name of the [`ShimSpec`] in a component's directory.
pub const SPEC_FILE: &str = "spec.json";
/// Where the shim's own standard error goes.
pub const ERROR_FILE: &str = "shim.err";

/// What a shim is to run. Written for it by the daemon, mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimSpec {
    /// [`SHIM_PROTOCOL`] of the writer.
    pub version: u16,
    /// Which component.
    pub key: ComponentKey,
    /// Hash of the assignment's spec.
    pub spec_hash: String,
    /// Epoch of the assignment.
    pub epoch: u64,
    /// Revision of the assignment.
    pub revision: u64,
    /// Generation of the assignment.
    pub generation: u64,
    /// Where lock, state and socket are.
    pub component_dir: PathBuf,
    /// The log.
    pub log: PathBuf,
    /// A log this long, in bytes, is rotated.
    pub log_bytes: u64,
    /// So many files are kept, the current one included; at least 1.
    pub log_files: u32,
    /// The program, absolute.
    pub program: PathBuf,
    /// Its arguments, the name it is called by first.
    pub argv: Vec<String>,
    /// All of its environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub workdir: PathBuf,
    /// Host port of each route, in order.
    pub ports: Vec<u16>,
    /// Between SIGTERM and SIGKILL when the shim itself is told to end, in ms.
    pub stop_grace_ms: u64,
    /// When its lease ends, in ms of `CLOCK_BOOTTIME`: it is killed then, or not started after it.
    /// `None`: it runs without one.
    #[serde(default)]
    pub lease: Option<u64>,
    /// Id of a container that the lease is for, which is killed at its end; empty: the lease is for
    /// the program.
    #[serde(default)]
    pub container: String,
    /// What the program is held to.
    #[serde(default)]
    pub hold: Hold,
}

#[cfg(test)]
impl ShimSpec {
    /// One of nothing, whose files are in `dir`.
    pub(crate) fn for_tests(dir: &std::path::Path) -> Self {
        Self {
            version: SHIM_PROTOCOL,
            key: ComponentKey { service: "s".into(), replica: 1, component: "c".into() },
            spec_hash: String::new(),
            epoch: 0,
            revision: 1,
            generation: 1,
            component_dir: dir.into(),
            log: dir.join("log"),
            log_bytes: 1 << 20,
            log_files: 1,
            program: "/bin/true".into(),
            argv: vec!["true".into()],
            env: Vec::new(),
            workdir: dir.into(),
            ports: Vec::new(),
            stop_grace_ms: 0,
            lease: None,
            container: String::new(),
            hold: Hold::default(),
        }
    }
}

/// A daemon's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToShim {
    /// Which protocol the daemon speaks.
    Hello {
        /// [`SHIM_PROTOCOL`].
        version: u16,
    },
    /// SIGTERM to the group, SIGKILL after the grace.
    Stop {
        /// In ms.
        grace_ms: u64,
    },
    /// SIGKILL to the group.
    Kill,
    /// Its lease ends then.
    Lease {
        /// In ms of `CLOCK_BOOTTIME`; `None`: it needs none any more.
        until_ms: Option<u64>,
    },
}

/// A shim's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromShim {
    /// [`SHIM_PROTOCOL`] of the shim.
    pub version: u16,
    /// What happened.
    pub event: ShimEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimEvent {
    /// It runs; said once it does and to whoever connects later.
    Started(ShimFile),
    /// It has ended, or never ran; `exit` is set. The last line.
    Exited(ShimFile),
}
