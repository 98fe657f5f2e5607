//! Reading one file of a replica's data directory, whole.

use std::fs::File;
use std::io::Read;

use rustix::fs::{FileType, OFlags, Stat, fstat};

use super::{Home, Refused};

/// A file as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a file. `owners`: whose files with further hard links are the service's own, beside the
/// owner of the directory.
///
/// # Errors
/// [`Refused`].
pub(crate) fn read(
    home: &Home,
    parts: &[&str],
    limit: u64,
    owners: &[u32],
) -> Result<Content, Refused> {
    let opened = open(home, parts)?;
    let stat = fstat(&opened)?;
    let owner = home.owner()?;
    if stat.st_nlink > 1 && stat.st_uid != owner && !owners.contains(&stat.st_uid) {
        return Err(Refused::HardLink);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > limit {
        return Err(Refused::TooLarge { size, limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // It may grow while it is read.
    opened.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Refused::TooLarge { size: bytes.len() as u64, limit });
    }
    Ok(Content { mode: stat.st_mode & 0o777, bytes })
}

/// Opens a file to be read; nothing but a file.
///
/// # Errors
/// [`Refused`].
pub(crate) fn open(home: &Home, parts: &[&str]) -> Result<File, Refused> {
    // Looked at before it is opened: opening a device or a fifo does something to it.
    regular(&fstat(home.at(parts, OFlags::PATH)?)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = home.at(parts, flags)?;
    regular(&fstat(&opened)?)?;
    Ok(opened.into())
}

pub(super) fn regular(stat: &Stat) -> Result<(), Refused> {
    Err(Refused::Kind(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "directory",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Symlink => return Err(Refused::Link),
        FileType::Unknown => "thing of an unknown kind",
    }))
}
