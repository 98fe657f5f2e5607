//! Noticing at once that a container's process has ended, without asking the engine.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches one process. It is a hint to look: were its pid given to another process before the
/// watch began, the watch ends with that one, or at once.
#[derive(Debug)]
pub struct ExitWatch(AsyncFd<OwnedFd>);

impl ExitWatch {
    /// Watches the process that has this pid now. Needs tokio's runtime.
    ///
    /// # Errors
    /// `NotFound` if there is none (any more); what the system says otherwise.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid =
            i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => return Err(error.into()),
        };
        Ok(Self(awaited(fd, Interest::READABLE)?))
    }

    /// Completes when the process has ended. Cancel-safe.
    pub async fn ended(&self) {
        // It stays readable; an error can only be the runtime's end.
        let _ = self.0.readable().await;
    }
}

/// tokio's safe way is deprecated because a type may lie about its descriptor; the standard
/// library's own do not, and unsafe code is forbidden here.
#[allow(deprecated, reason = "its successor is unsafe, and descriptors here are honest")]
pub(crate) fn awaited<T: Honest>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}

/// Types that give the same open descriptor as long as they live.
pub(crate) trait Honest: std::os::fd::AsRawFd {}
impl Honest for OwnedFd {}
impl Honest for std::fs::File {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed() {
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().unwrap();
        let watch = ExitWatch::of(pid).unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), watch.ended()).await;
        assert!(early.is_err());
        child.start_kill().unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), watch.ended()).await.unwrap();
        child.wait().await.unwrap();
        assert_eq!(ExitWatch::of(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
