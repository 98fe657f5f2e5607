//! Blobs of this node: files that came with definitions, named by the SHA-256 of their content
//! (docs/decisions/0017).
//!
//! - here: the store, `blobs/sha256/<hex>` beneath the data directory. What is being received lies
//!   in `blobs/partial` until its digest is known to be right.
//! - `fetch`: getting what is lacking from the nodes that have it.
//! - `place`: from the store into a replica's data directory.

pub(crate) mod fetch;
pub(crate) mod place;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use uuid::Uuid;
use weft_protocol::{BLOB_PART, BlobProgress, SHIPPED_MAX, valid_digest};
use weft_wire::FailureKind;

use crate::disk::make_dir;

/// Uploads at once; more are refused.
const UPLOADS_MOST: usize = 64;

/// Why a blob was not taken or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("`{0}` is no SHA-256 in lower-case hex")]
    NoDigest(String),
    #[error("the blob has {0} bytes, at most {SHIPPED_MAX} are taken")]
    TooLarge(u64),
    #[error("a part of {0} bytes at {1} does not fit a blob of {2} bytes")]
    Part(usize, u64, u64),
    #[error("{UPLOADS_MOST} uploads are under way")]
    TooMany,
    #[error("what was received has the digest {0}: it changed while it was read, or on its way")]
    Corrupt(String),
    #[error("the disk is full: {0}")]
    Full(io::Error),
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Io(error),
        }
    }
}

impl BlobError {
    pub(crate) const fn kind(&self) -> FailureKind {
        match self {
            Self::NoDigest(_) | Self::TooLarge(_) | Self::Part(..) => FailureKind::Invalid,
            Self::TooMany => FailureKind::Busy,
            Self::Corrupt(_) => FailureKind::Failed,
            Self::Full(_) => FailureKind::Exhausted,
            Self::Io(_) => FailureKind::Unavailable,
        }
    }
}

/// The store; one for all incarnations of the runtime.
pub(crate) struct Blobs {
    dir: PathBuf,
    uploads: Mutex<HashMap<String, Arc<Mutex<Upload>>>>,
    /// One fetch of a blob at a time.
    fetches: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Since when nothing is known to refer to a blob.
    idle: Mutex<HashMap<String, Instant>>,
}

struct Upload {
    receiving: Option<Receiving>,
    touched: Instant,
}

/// A blob on its way in.
pub(crate) struct Receiving {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    digest: String,
    size: u64,
    received: u64,
    context: Context,
}

impl Blobs {
    /// Of the node with this data directory.
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            dir: data.join("blobs"),
            uploads: Mutex::default(),
            fetches: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// Makes the directories, and forgets what a daemon before this one had begun to receive. Only
    /// before anything is received.
    pub(crate) fn open(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(self.partial()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        make_dir(&self.whole(), 0o700)?;
        make_dir(&self.partial(), 0o700)
    }

    fn whole(&self) -> PathBuf {
        self.dir.join("sha256")
    }

    fn partial(&self) -> PathBuf {
        self.dir.join("partial")
    }

    fn path(&self, digest: &str) -> Result<PathBuf, BlobError> {
        if valid_digest(digest) {
            Ok(self.whole().join(digest))
        } else {
            Err(BlobError::NoDigest(digest.chars().take(80).collect()))
        }
    }

    /// Whether it is here.
    pub(crate) fn has(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.is_file())
    }

    /// Those that are here. Somebody has a use for them: they stay for another while.
    pub(crate) fn have(&self, digests: &[String]) -> Vec<String> {
        let here: Vec<String> = digests.iter().filter(|digest| self.has(digest)).cloned().collect();
        let mut idle = self.idle.lock();
        idle.retain(|digest, _| !here.contains(digest));
        here
    }

    /// Opens a blob; `None`: it is not here.
    pub(crate) fn file(&self, digest: &str) -> Result<Option<File>, BlobError> {
        match File::open(self.path(digest)?) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a part; shorter at the end. `None`: it is not here.
    pub(crate) fn read(
        &self,
        digest: &str,
        offset: u64,
        length: u32,
    ) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(file) = self.file(digest)? else { return Ok(None) };
        let mut part = vec![0; (length as usize).min(BLOB_PART)];
        let mut filled = 0;
        while let Some(rest) = part.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        part.truncate(filled);
        Ok(Some(part))
    }

    /// It is not what its name says.
    pub(crate) fn discard(&self, digest: &str) {
        if let Ok(path) = self.path(digest) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Begins to receive a blob, apart from whoever else does.
    pub(crate) fn receive(&self, digest: &str, size: u64) -> Result<Receiving, BlobError> {
        let target = self.path(digest)?;
        if size > SHIPPED_MAX {
            return Err(BlobError::TooLarge(size));
        }
        let partial = self.partial().join(format!("{digest}.{}", Uuid::new_v4()));
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(&partial)?;
        let context = Context::new(&SHA256);
        let digest = digest.to_owned();
        Ok(Receiving { file, partial, target, digest, size, received: 0, context })
    }

    /// Takes a part of an upload. Two that upload the same blob help each other.
    pub(crate) fn put(
        &self,
        digest: &str,
        size: u64,
        offset: u64,
        part: &[u8],
        now: Instant,
    ) -> Result<BlobProgress, BlobError> {
        if self.has(digest) {
            self.idle.lock().remove(digest);
            return Ok(BlobProgress { received: size, complete: true });
        }
        let upload = {
            let mut uploads = self.uploads.lock();
            if let Some(upload) = uploads.get(digest) {
                upload.clone()
            } else {
                if uploads.len() >= UPLOADS_MOST {
                    return Err(BlobError::TooMany);
                }
                let receiving = Some(self.receive(digest, size)?);
                let upload = Arc::new(Mutex::new(Upload { receiving, touched: now }));
                uploads.insert(digest.to_owned(), upload.clone());
                upload
            }
        };
        let mut upload = upload.lock();
        upload.touched = now;
        let taken = Self::take_part(&mut upload, size, offset, part);
        if taken.is_err() || upload.receiving.is_none() {
            // Over, or of no use any more: the next part begins anew.
            self.uploads.lock().remove(digest);
        }
        taken
    }

    fn take_part(
        upload: &mut Upload,
        size: u64,
        offset: u64,
        part: &[u8],
    ) -> Result<BlobProgress, BlobError> {
        // Another one brought the last part.
        let Some(receiving) = &mut upload.receiving else {
            return Ok(BlobProgress { received: size, complete: true });
        };
        if receiving.size != size || part.len() > BLOB_PART {
            return Err(BlobError::Part(part.len(), offset, size));
        }
        if offset == receiving.received {
            receiving.add(part)?;
        }
        let received = receiving.received;
        if received < size {
            return Ok(BlobProgress { received, complete: false });
        }
        if let Some(receiving) = upload.receiving.take() {
            receiving.finish()?;
        }
        Ok(BlobProgress { received, complete: true })
    }

    /// The lock of a blob's fetch.
    pub(crate) fn fetching(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetches = self.fetches.lock();
        fetches.retain(|_, lock| Arc::strong_count(lock) > 1);
        fetches.entry(digest.to_owned()).or_default().clone()
    }

    /// Removes blobs that nothing has referred to for `grace`, and uploads that nobody has gone on
    /// with for as long; how many blobs.
    pub(crate) fn sweep(
        &self,
        referred: &BTreeSet<String>,
        now: Instant,
        grace: Duration,
    ) -> io::Result<usize> {
        let past = |since: Instant| now.saturating_duration_since(since) >= grace;
        self.uploads.lock().retain(|_, upload| {
            // One that is being written to at this moment is in use.
            upload.try_lock().is_none_or(|upload| !past(upload.touched))
        });
        let mut there = BTreeSet::new();
        for entry in std::fs::read_dir(self.whole())? {
            if let Ok(name) = entry?.file_name().into_string() {
                there.insert(name);
            }
        }
        let mut idle = self.idle.lock();
        idle.retain(|digest, _| there.contains(digest) && !referred.contains(digest));
        let mut removed = 0;
        for digest in there.difference(referred) {
            let since = *idle.entry(digest.clone()).or_insert(now);
            if past(since) {
                std::fs::remove_file(self.whole().join(digest))?;
                idle.remove(digest);
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Receiving {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`BlobError`]: they are too many, or cannot be written.
    pub(crate) fn add(&mut self, part: &[u8]) -> Result<(), BlobError> {
        let received = self.received.saturating_add(part.len() as u64);
        if received > self.size || part.is_empty() && self.size > 0 {
            return Err(BlobError::Part(part.len(), self.received, self.size));
        }
        self.file.write_all(part)?;
        self.context.update(part);
        self.received = received;
        Ok(())
    }

    /// How far it is.
    pub(crate) const fn received(&self) -> u64 {
        self.received
    }

    /// All is there: checked, synced, and in the store under its name from now on.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`], or what the file system says; nothing is left of it then.
    pub(crate) fn finish(self) -> Result<(), BlobError> {
        let found = hex(self.context.clone().finish().as_ref());
        if found != self.digest || self.received != self.size {
            return Err(BlobError::Corrupt(found));
        }
        self.file.sync_all()?;
        std::fs::rename(&self.partial, &self.target)?;
        if let Some(parent) = self.target.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // Renamed, if it went well.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
