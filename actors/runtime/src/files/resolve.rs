//! From names to handles, beneath a directory that is held open.
//!
//! The kernel does it where it can (`openat2` with `RESOLVE_BENEATH`). Elsewhere it is done by
//! hand: one component at a time, none followed by the kernel, links resolved here and never above
//! the directory. Both answer alike: `EXDEV` for what leads out, `ELOOP` for circles and magic.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, open, openat,
    openat2, readlinkat, statat,
};
use rustix::io::{self, Errno};
use weft_protocol::valid_name;

use super::Refused;

/// As many links as the kernel follows.
const LINKS_MAX: u32 = 40;
/// The kernel says "again" when something was renamed meanwhile, anywhere.
const TRIES: u32 = 32;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Mode of directories that are made.
const DIR_MODE: u32 = 0o750;

/// Who resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// `openat2`.
    Kernel,
    /// Component by component.
    ByHand,
}

impl Resolver {
    /// The kernel, if it knows how and may.
    pub(crate) fn detect() -> Self {
        static FOUND: OnceLock<Resolver> = OnceLock::new();
        *FOUND.get_or_init(|| match beneath(CWD, ".", OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG) => Self::ByHand,
            _ => Self::Kernel,
        })
    }
}

fn beneath(dir: impl AsFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A replica's data directory, held open.
#[derive(Debug)]
pub(crate) struct Home {
    dir: OwnedFd,
    resolver: Resolver,
    /// For the journal of writes.
    pub(super) service: String,
    pub(super) replica: u32,
}

impl Home {
    /// Opens it; `None`: there is none. `follow`: the directories of service and replica may be
    /// symbolic links.
    ///
    /// # Errors
    /// [`Refused`]: the names are none, a directory is a link, or is none.
    pub(crate) fn open(
        data: &Path,
        service: &str,
        replica: u32,
        follow: bool,
        resolver: Resolver,
    ) -> Result<Option<Self>, Refused> {
        let home = Self::at_data(data, service, replica, follow, resolver, false);
        match home {
            Err(Refused::Missing) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens it, and makes it if there is none.
    ///
    /// # Errors
    /// As [`Home::open`].
    pub(crate) fn create(
        data: &Path,
        service: &str,
        replica: u32,
        follow: bool,
        resolver: Resolver,
    ) -> Result<Self, Refused> {
        Self::at_data(data, service, replica, follow, resolver, true)
    }

    fn at_data(
        data: &Path,
        service: &str,
        replica: u32,
        follow: bool,
        resolver: Resolver,
        create: bool,
    ) -> Result<Self, Refused> {
        if !valid_name(service) || replica == 0 {
            let name = service.escape_debug();
            return Err(Refused::Path(format!("`{name}/{replica}` is no replica of a service")));
        }
        // Above it is the node's own.
        let services = data.join("services");
        if create {
            crate::disk::make_dir(&services, DIR_MODE)?;
        }
        let mut dir = open(&services, DIRECTORY, Mode::empty())?;
        for name in [service, &replica.to_string()] {
            if create {
                match mkdirat(&dir, name, Mode::from_raw_mode(DIR_MODE)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let flags = if follow { DIRECTORY } else { DIRECTORY | OFlags::NOFOLLOW };
            dir = match openat(&dir, name, flags, Mode::empty()) {
                Ok(dir) => dir,
                Err(error @ (Errno::LOOP | Errno::NOTDIR)) => {
                    let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                    return Err(if link { Refused::HomeIsLink } else { error.into() });
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(Self { dir, resolver, service: service.to_owned(), replica })
    }

    /// Any directory, for tests.
    #[cfg(test)]
    pub(super) fn of(dir: &Path, resolver: Resolver) -> Self {
        let dir = open(dir, DIRECTORY, Mode::empty()).expect("a directory");
        Self { dir, resolver, service: "any".into(), replica: 1 }
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> io::Result<u32> {
        Ok(fstat(&self.dir)?.st_uid)
    }

    /// Opens what the names lead to, links on the way and at the end followed, beneath the
    /// directory only. No names: the directory itself.
    pub(super) fn at<S: AsRef<str>>(&self, parts: &[S], flags: OFlags) -> io::Result<OwnedFd> {
        let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        if names.is_empty() {
            return openat(&self.dir, ".", flags | OFlags::CLOEXEC, Mode::empty());
        }
        if self.resolver == Resolver::Kernel {
            let path = names.join("/");
            for _ in 0..TRIES {
                match beneath(&self.dir, &path, flags) {
                    Err(Errno::AGAIN) => {}
                    other => return other,
                }
            }
        }
        // What was seen may be replaced before it is opened: then it is looked up anew.
        let mut found = self.by_hand(&names, flags);
        for _ in 1..TRIES {
            if !matches!(found, Err(Errno::AGAIN)) {
                break;
            }
            found = self.by_hand(&names, flags);
        }
        found
    }

    fn by_hand(&self, names: &[&str], flags: OFlags) -> io::Result<OwnedFd> {
        let mut left: VecDeque<String> = names.iter().map(|&name| name.to_owned()).collect();
        // The way from the directory to where it is; `..` goes back along it, never above.
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            match name.as_str() {
                "" | "." => continue,
                ".." if way.pop().is_none() => return Err(Errno::XDEV),
                ".." => continue,
                _ => {}
            }
            let here = way.last().unwrap_or(&self.dir);
            let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = openat(here, name.as_str(), look, Mode::empty())?;
            let seen = fstat(&found)?;
            match FileType::from_raw_mode(seen.st_mode) {
                FileType::Symlink if left.is_empty() && flags.contains(OFlags::NOFOLLOW) => {
                    return if flags.contains(OFlags::PATH) { Ok(found) } else { Err(Errno::LOOP) };
                }
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let target = readlinkat(&found, "", Vec::new())?;
                    let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
                    if target.starts_with('/') {
                        return Err(Errno::XDEV);
                    }
                    for part in target.split('/').rev() {
                        left.push_front(part.to_owned());
                    }
                }
                FileType::Directory => way.push(found),
                _ if left.is_empty() => return reopen(here, &name, flags, &seen),
                // `file/` and `file/.` are no files either.
                _ => return Err(Errno::NOTDIR),
            }
        }
        let here = way.last().unwrap_or(&self.dir);
        openat(here, ".", flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// The directory that the names lead to; what of it is not there is made.
    pub(super) fn directory(&self, parts: &[&str]) -> io::Result<OwnedFd> {
        match self.at(parts, DIRECTORY) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut dir = self.at(&parts[..0], DIRECTORY)?;
        for (count, name) in parts.iter().enumerate() {
            // From the top each time: a link may lead up again, beneath the top.
            let until = parts.get(..=count).unwrap_or(parts);
            dir = match self.at(until, DIRECTORY) {
                Err(Errno::NOENT) => {
                    match mkdirat(&dir, *name, Mode::from_raw_mode(DIR_MODE)) {
                        // Made by another at this moment; or a link that leads to nothing.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                    self.at(until, DIRECTORY)?
                }
                other => other?,
            };
        }
        Ok(dir)
    }
}

/// Opens a file that was seen in a directory, and not another one that has its name by now.
fn reopen(dir: impl AsFd, name: &str, flags: OFlags, seen: &Stat) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(dir, name, flags, Mode::empty())?;
    let now = fstat(&opened)?;
    let same = (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino);
    if same { Ok(opened) } else { Err(Errno::AGAIN) }
}
