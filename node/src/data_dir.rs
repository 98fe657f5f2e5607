//! A node's data directory: one daemon at a time, the right node, not from a newer version.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_protocol::files::{FILES_VERSION, NodeSeed, PortsFile, ProcessFile};
use weft_wire::{Clock, NodeId, SystemClock, WallTime};

/// In a data directory: its node was removed from the cluster.
const REMOVED_FILE: &str = "removed.json";
/// How long a lock that a dead daemon left behind is waited for.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Why a data directory cannot be used. Nothing in it has been changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DataDirError {
    /// It does not hold a node.
    #[error(
        "{} holds no node\n  help: make one with `weft init --data <dir>` or `weft join <token> --data <dir>`",
        .0.display()
    )]
    NoNode(PathBuf),
    /// It cannot be written.
    #[error(
        "the data directory {} cannot be written: {source}\n  help: it must belong to the user that runs weftd, on a file system mounted read-write",
        .path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another daemon runs on it.
    #[error(
        "the data directory {} is in use by {holder}\n  help: one daemon per data directory; stop that one first",
        .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// It is another node's.
    #[error(
        "the data directory {} belongs to node {found}, but {configured} is configured\n  help: correct node.name, or node.data_dir, in the node file",
        .path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Name in it.
        found: String,
        /// Name configured.
        configured: String,
    },
    /// A newer Weft wrote it.
    #[error(
        "{} was written by a newer version of Weft (file version {found}, this one reads up to {FILES_VERSION})\n  help: run the newer weftd, or restore a backup made before the upgrade",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A state file is damaged.
    #[error("{} is damaged: {reason}\n  help: restore it from a backup; it is never written after `weft init` or `weft join`", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// `removed.json`: a node that was removed is never started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// [`FILES_VERSION`] of the writer.
    pub(crate) version: u16,
    /// The node; another id in this directory is another node.
    pub(crate) node: NodeId,
    /// When it was noticed.
    pub(crate) at: WallTime,
    /// How.
    pub(crate) how: String,
}

/// A data directory held by this process until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Who this node is.
    pub(crate) seed: NodeSeed,
    /// The lock goes with the open file, so also with a process that is killed.
    _lock: File,
}

impl DataDir {
    /// Takes the directory for this process.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing has been changed but the empty lock file.
    pub(crate) fn open(path: &Path, configured: &str) -> Result<Self, DataDirError> {
        let seed_file = path.join("node.json");
        if !seed_file.is_file() {
            return Err(DataDirError::NoNode(path.to_owned()));
        }
        let seed: NodeSeed = read_versioned(&seed_file)?;
        if seed.name != configured {
            return Err(DataDirError::OtherNode {
                path: path.to_owned(),
                found: seed.name,
                configured: configured.to_owned(),
            });
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("weftd.lock"))
            .map_err(|source| DataDirError::NotWritable { path: path.to_owned(), source })?;
        if let Err(holder) = take(&lock, &path.join("weftd.json")) {
            return Err(DataDirError::InUse { path: path.to_owned(), holder });
        }
        let this = Self { path: path.to_owned(), seed, _lock: lock };
        let process = ProcessFile::of(std::process::id())
            .map_err(|source| DataDirError::Io { path: "/proc".into(), source })?;
        this.write("weftd.json", &process)?;
        Ok(this)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The ports of the last run, if it left any.
    pub(crate) fn last_ports(&self) -> Option<PortsFile> {
        self.read("ports.json")
    }

    /// A file that this or an earlier daemon wrote here; `None` if there is none that can be read.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        read_versioned(&self.path.join(name)).ok()
    }

    /// Whether this node is known to have been removed from its cluster.
    ///
    /// # Errors
    /// [`DataDirError`]: the file is there and cannot be used.
    pub(crate) fn removed(&self) -> Result<Option<Removed>, DataDirError> {
        match read_versioned::<Removed>(&self.path.join(REMOVED_FILE)) {
            Ok(removed) => Ok(Some(removed).filter(|removed| removed.node == self.seed.node)),
            Err(DataDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that this node was removed, so that it is not started again.
    ///
    /// # Errors
    /// [`DataDirError::NotWritable`].
    pub(crate) fn note_removed(&self, at: WallTime, how: &str) -> Result<(), DataDirError> {
        let node = self.seed.node;
        let removed = Removed { version: FILES_VERSION, node, at, how: how.to_owned() };
        self.write(REMOVED_FILE, &removed)
    }

    /// Replaces a state file, whole or not at all, and lastingly.
    ///
    /// # Errors
    /// [`DataDirError::NotWritable`]; the old file is as it was.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), DataDirError> {
        let target = self.path.join(name);
        let temporary = self.path.join(format!(".{name}.new"));
        let written = (|| {
            let mut text = serde_json::to_vec_pretty(value)?;
            text.push(b'\n');
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)?;
            File::open(&self.path)?.sync_all()
        })();
        written.map_err(|source| DataDirError::NotWritable { path: self.path.clone(), source })
    }
}

/// Locks, or says who holds the lock.
///
/// A daemon that is killed while it starts a shim leaves a child that has not become the shim yet,
/// and with it the open lock file, for some milliseconds. So a lock whose recorded holder is gone
/// is waited for.
fn take(lock: &File, record: &Path) -> Result<(), String> {
    let until = SystemClock.now() + LEFT_BEHIND;
    loop {
        if rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(());
        }
        match read_versioned::<ProcessFile>(record) {
            Ok(holder) if holder.is_running() => {
                return Err(format!("weftd with pid {}", holder.pid));
            }
            Ok(_) if SystemClock.now() < until => std::thread::park_timeout(LOOK_AGAIN),
            _ => return Err("another weftd".to_owned()),
        }
    }
}

/// Reads a state file, refusing one from a newer version before looking at anything else in it.
fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<T, DataDirError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
    let damaged = |error: serde_json::Error| DataDirError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(FILES_VERSION) => {
            Err(DataDirError::Newer { path: path.to_owned(), found })
        }
        Some(_) => serde_json::from_value(value).map_err(damaged),
        None => Err(DataDirError::Damaged {
            path: path.to_owned(),
            reason: "it has no version".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::NodeId;

    fn seeded(name: &str, version: u16) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let seed = NodeSeed {
            version,
            cluster: "c".into(),
            node: NodeId::new(uuid::Uuid::nil()),
            name: name.into(),
            bootstrap: None,
            peers: vec![],
        };
        let text = serde_json::to_string(&seed).expect("JSON");
        std::fs::write(dir.path().join("node.json"), text).expect("writes");
        dir
    }

    #[test]
    fn two_daemons_on_one_data_directory_are_refused_by_pid() {
        let dir = seeded("n1", 1);
        let held = DataDir::open(dir.path(), "n1").expect("the first");
        let refused = DataDir::open(dir.path(), "n1").expect_err("the second");
        assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(held);
        DataDir::open(dir.path(), "n1").expect("free again");
    }

    #[test]
    fn a_lock_that_a_killed_daemon_left_behind_for_a_moment_is_waited_for() {
        let dir = seeded("n1", 1);
        let held = DataDir::open(dir.path(), "n1").expect("the first");
        // Its record names a process that has ended.
        let mut gone = std::process::Command::new("true").spawn().expect("starts");
        let mut record = ProcessFile::of(gone.id()).expect("it is there, if only as a zombie");
        record.pid = gone.id();
        gone.wait().expect("ends");
        held.write("weftd.json", &record).expect("writes");
        let last = held._lock.try_clone().expect("what a child would have inherited");
        drop(held);
        let (waits, waited) = std::sync::mpsc::channel();
        let path = dir.path().to_owned();
        let next = std::thread::spawn(move || {
            waits.send(()).expect("somebody listens");
            DataDir::open(&path, "n1").map(drop)
        });
        waited.recv().expect("it has begun");
        drop(last);
        next.join().expect("ends").expect("the lock became free");
    }

    #[test]
    fn a_data_directory_of_another_node_is_refused() {
        let dir = seeded("n1", 1);
        let refused = DataDir::open(dir.path(), "n2").expect_err("another's");
        assert!(refused.to_string().contains("belongs to node n1"), "{refused}");
    }

    #[test]
    fn a_data_directory_from_a_newer_version_is_refused() {
        let dir = seeded("n1", FILES_VERSION + 1);
        let refused = DataDir::open(dir.path(), "n1").expect_err("newer");
        assert!(refused.to_string().contains("newer version of Weft"), "{refused}");
    }

    #[test]
    fn a_removal_is_remembered_for_this_id_and_no_other() {
        let dir = seeded("n1", 1);
        let data = DataDir::open(dir.path(), "n1").expect("opens");
        assert_eq!(data.removed().expect("reads"), None);
        data.note_removed(SystemClock.wall(), "agreed state says so").expect("writes");
        drop(data);
        let mut data = DataDir::open(dir.path(), "n1").expect("opens");
        let removed = data.removed().expect("reads").expect("it was removed");
        assert_eq!((removed.node, removed.how.as_str()), (data.seed.node, "agreed state says so"));
        data.seed.node = NodeId::new(uuid::Uuid::from_u128(5));
        assert_eq!(data.removed().expect("reads"), None, "joined anew, it is another node");
        std::fs::write(dir.path().join("removed.json"), "{").expect("writes");
        let refused = data.removed().expect_err("half a file is no permission to start");
        assert!(refused.to_string().contains("removed.json is damaged"), "{refused}");
    }

    #[test]
    fn an_empty_or_damaged_data_directory_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let refused = DataDir::open(dir.path(), "n1").expect_err("empty");
        assert!(refused.to_string().contains("weft init"), "{refused}");
        std::fs::write(dir.path().join("node.json"), "{").expect("writes");
        let refused = DataDir::open(dir.path(), "n1").expect_err("damaged");
        assert!(refused.to_string().contains("node.json is damaged"), "{refused}");
    }
}
