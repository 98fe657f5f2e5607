//! Killing a container without its engine and without the daemon: the seam for `on_partition =
//! "stop"` (design §6). The watcher that waits for a lease's end, as a process of its own that
//! outlives the daemon, is still to come; it needs no more than this.

use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use weft_protocol::files::ProcessFile;

use crate::container::Container;

/// A container's first process, named so that a recycled pid is not mistaken for it. Its end is
/// the end of everything in the container, because it is the first of its pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTarget {
    /// The container's id, for messages.
    pub container: String,
    /// Its first process.
    pub process: ProcessFile,
}

impl LeaseTarget {
    /// Of a container that runs now; one that shares the host's pid namespace has no such process,
    /// and Weft makes none.
    ///
    /// # Errors
    /// `NotFound` if it does not run; whatever reading `/proc` gives.
    pub fn of(container: &Container) -> io::Result<Self> {
        let pid = container.pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { container: container.id.clone(), process: ProcessFile::of(pid)? })
    }

    /// Kills it without grace; if it is gone, that is fine.
    ///
    /// # Errors
    /// What the system says: the right to kill it is missing.
    pub fn kill(&self) -> io::Result<()> {
        let pid = i32::try_from(self.process.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // After the handle is open its pid cannot be given away.
        if !self.process.is_running() {
            return Ok(());
        }
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
