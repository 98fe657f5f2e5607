//! Noticing that a file has grown, without asking again and again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::exit::awaited;

/// Watches one file for writes, and for its end under that name.
#[derive(Debug)]
pub struct FileWatch(AsyncFd<OwnedFd>);

impl FileWatch {
    /// Watches the file that has this path now. Needs tokio's runtime.
    ///
    /// # Errors
    /// What the system says; most have a limit of 128 watches for each user.
    pub fn of(path: &Path) -> io::Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes = WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        add_watch(&fd, path, changes)?;
        Ok(Self(awaited(fd, Interest::READABLE)?))
    }

    /// Completes when something has changed since the last call. Cancel-safe.
    pub async fn changed(&self) {
        if let Ok(mut ready) = self.0.readable().await {
            let mut events = [0; 4096];
            // Which does not matter: whoever waits looks.
            while rustix::io::read(self.0.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    #[tokio::test]
    async fn a_file_that_grows_is_noticed_once() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let watch = FileWatch::of(file.path()).unwrap();
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, watch.changed()).await.is_err());
        file.write_all(b"a\n").unwrap();
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
        assert!(tokio::time::timeout(soon, watch.changed()).await.is_err());
    }
}
