//! A copy of a live database.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Store, StoreError};

impl Store {
    /// Copies the database as it is now to `target`, whole or not at all: `VACUUM INTO` a file
    /// beside it, sync, rename. Writes go on meanwhile. An earlier `target` is replaced.
    ///
    /// # Errors
    /// [`StoreError`], naming the file concerned; an earlier `target` is left alone.
    pub async fn backup(&self, target: &Path) -> Result<(), StoreError> {
        let beside = temporary(target);
        remove(&beside)?;
        let copied = sqlx::query("VACUUM INTO ?1")
            .bind(beside.to_string_lossy().into_owned())
            .execute(self.readers())
            .await;
        let result = match copied {
            Ok(_) => finish(beside.clone(), target.to_owned()).await,
            Err(error) => Err(StoreError::of(&beside, "back up to", error)),
        };
        if result.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        result
    }
}

fn temporary(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    target.with_file_name(name)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io(path, "replace", error))
        }
        _ => Ok(()),
    }
}

/// Syncing can take seconds: off the async threads.
async fn finish(beside: PathBuf, target: PathBuf) -> Result<(), StoreError> {
    let work = move || {
        let file = File::open(&beside).map_err(|e| StoreError::io(&beside, "open", e))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let _ = file.set_permissions(std::fs::Permissions::from_mode(0o600));
        }
        file.sync_all().map_err(|e| StoreError::io(&beside, "sync", e))?;
        std::fs::rename(&beside, &target).map_err(|e| StoreError::io(&target, "replace", e))?;
        if let Some(directory) = target.parent().filter(|d| !d.as_os_str().is_empty()) {
            File::open(directory)
                .and_then(|d| d.sync_all())
                .map_err(|e| StoreError::io(directory, "sync", e))?;
        }
        Ok(())
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Io {
            path: PathBuf::new(),
            step: "finish a backup of",
            source: std::io::Error::other(error),
        }),
    }
}
