//! Reading and writing identity files: atomically, and private ones only as 0600.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use crate::IdentityError;
use crate::text::hex;

/// No identity file is larger, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Reads a private text file, of at most 1 MiB. `hint` says what to do when it does not exist.
///
/// # Errors
/// [`IdentityError::TooOpen`] when group or others have any right on it;
/// [`IdentityError::Missing`], [`IdentityError::Read`].
pub fn read_private(path: &Path, hint: &'static str) -> Result<String, IdentityError> {
    let file = open(path, hint)?;
    // Of the opened file, not of the path, which could be exchanged in between.
    let mode = file.metadata().map_err(|source| failed_read(path, source))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
    }
    read(file, path)
}

pub(crate) fn read_public(path: &Path, hint: &'static str) -> Result<String, IdentityError> {
    read(open(path, hint)?, path)
}

/// Writes a private file, mode 0600, atomically: after a crash there is the old one or the new
/// one, whole. Missing directories are made, 0700.
///
/// # Errors
/// [`IdentityError::Write`]; the old file stays.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    write(path, bytes, 0o600)
}

/// As [`write_private`], mode 0644.
///
/// # Errors
/// [`IdentityError::Write`]; the old file stays.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    write(path, bytes, 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Write { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| IdentityError::NoRandomness)?;
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let temporary = directory.join(format!(".{name}.{}.tmp", hex(&random)));
    let outcome = replace(&temporary, path, directory, bytes, mode);
    if outcome.is_err() {
        // Already failing; a file that cannot be removed is only litter.
        let _ = std::fs::remove_file(&temporary);
    }
    outcome.map_err(failed)
}

fn replace(
    temporary: &PathBuf,
    path: &Path,
    directory: &Path,
    bytes: &[u8],
    mode: u32,
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    File::open(directory)?.sync_all()
}

fn open(path: &Path, hint: &'static str) -> Result<File, IdentityError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing { path: path.to_owned(), hint },
        _ => failed_read(path, source),
    })
}

fn read(file: File, path: &Path) -> Result<String, IdentityError> {
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|source| failed_read(path, source))?;
    Ok(text)
}

fn failed_read(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Read { path: path.to_owned(), source }
}
