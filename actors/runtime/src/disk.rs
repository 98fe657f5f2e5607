//! Small JSON files that are replaced whole, never half written.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Whether a write has to outlive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// It means nothing after a boot anyway.
    No,
    /// It does: synced before it replaces the old one, and the directory after.
    Yes,
}

/// Replaces `path` with `value` as JSON, mode 0600. At any moment readers see the old file or
/// the new one.
///
/// # Errors
/// What the file system says; the old file is then untouched.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, durable: Durable) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two writers may overlap when an actor was replaced; each has a file of its own.
    name.push(format!(".{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let temporary = path.with_file_name(name);
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&bytes)?;
        if durable == Durable::Yes {
            file.sync_data()?;
        }
        std::fs::rename(&temporary, path)?;
        if durable == Durable::Yes
            && let Some(parent) = path.parent()
        {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Reads what [`write_json`] wrote. `Ok(None)`: there is no such file.
///
/// # Errors
/// It cannot be read, or is not what was expected.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a directory and its parents with the given mode.
///
/// # Errors
/// What the file system says.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}
