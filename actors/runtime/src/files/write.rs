//! Replacing one file of a replica's data directory, whole or not at all: a temporary file in the
//! same directory, synced, then renamed over the old one.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Mode, OFlags, Stat, fchmod, fstat, fsync, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use uuid::Uuid;

use super::read::regular;
use super::{Home, Journal, Refused};

/// Names of temporary files begin so.
pub(super) const TEMPORARY: &str = ".weft-push-";

/// Whether a file could be written there, as far as that can be said without changing anything.
///
/// # Errors
/// [`Refused`].
pub(crate) fn check(home: &Home, parts: &[&str]) -> Result<(), Refused> {
    let Some((name, dirs)) = parts.split_last() else { return Err(Refused::Kind("directory")) };
    match home.at(dirs, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => replaceable(&dir, name),
        // It would be made.
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes a file: what `fill` puts into it, with these permission bits. At any moment readers see
/// the old file or the new one.
///
/// # Errors
/// [`Refused`], or what `fill` says; the old file is then untouched.
pub(crate) fn write<E: From<Refused>>(
    home: &Home,
    parts: &[&str],
    mode: u32,
    journal: &Journal,
    fill: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let Some((name, dirs)) = parts.split_last() else {
        return Err(Refused::Kind("directory").into());
    };
    let dir = home.directory(dirs).map_err(Refused::from)?;
    replaceable(&dir, name)?;
    let temporary = format!("{TEMPORARY}{}", Uuid::new_v4());
    let entry = journal.begin(home, dirs, &temporary)?;
    let written = (|| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let made = openat(&dir, &temporary, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
            .map_err(Refused::from)?;
        let mut file = File::from(made);
        fill(&mut file)?;
        put(&dir, &file, &temporary, name, mode).map_err(E::from)
    })();
    if written.is_err() {
        // If it cannot be removed, the next start does it.
        match unlinkat(&dir, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => entry.keep(),
        }
    }
    written
}

fn put(dir: &OwnedFd, file: &File, temporary: &str, name: &str, mode: u32) -> Result<(), Refused> {
    // Neither setuid nor setgid nor sticky.
    fchmod(file, Mode::from_raw_mode(mode & 0o777))?;
    fsync(file)?;
    // Something else may have taken the name meanwhile.
    replaceable(dir, name)?;
    renameat(dir, temporary, dir, name)?;
    fsync(dir)?;
    Ok(())
}

/// What has the name, if anything, is a file.
fn replaceable(dir: &OwnedFd, name: &str) -> Result<(), Refused> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => regular(&stat),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What tells whether a file is the one that was seen: its place, size, mode and times of change;
/// `None`: there is no such file.
///
/// # Errors
/// [`Refused`].
pub(crate) fn stamp(home: &Home, parts: &[&str]) -> Result<Option<Stamp>, Refused> {
    let found = match home.at(parts, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(found)?;
    regular(&stat)?;
    Ok(Some(Stamp::of(&stat)))
}

/// See [`stamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    place: (u64, u64),
    /// In bytes.
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    changed: [i64; 4],
}

impl Stamp {
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "the types differ between machines"
    )]
    fn of(stat: &Stat) -> Self {
        Self {
            place: (stat.st_dev as u64, stat.st_ino as u64),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            changed: [
                stat.st_mtime as i64,
                stat.st_mtime_nsec as i64,
                stat.st_ctime as i64,
                stat.st_ctime_nsec as i64,
            ],
        }
    }
}
