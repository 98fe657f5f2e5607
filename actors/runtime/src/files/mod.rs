//! Files of a replica's data directory: found beneath an open handle of it, never by a path that
//! somebody could bend meanwhile; replaced whole or not at all (orchestration §11).
//!
//! - `resolve`: names to handles, beneath the directory: by the kernel (`openat2`) or by hand.
//! - `read`, `write`: what is done with them; `journal`: what a write that was cut off leaves.
//!
//! Nothing here knows of actors. What is refused is said without the place it would have led to.

mod journal;
mod read;
mod resolve;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use journal::{Journal, sweep};
pub(crate) use read::{open, read};
pub(crate) use resolve::{Home, Resolver};
pub(crate) use write::{Stamp, check, stamp, write};

use rustix::io::Errno;
use weft_wire::FailureKind;

/// Why a file was neither read nor written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It is no path, or no service.
    #[error("{0}")]
    Path(String),
    #[error("the service's data directory is a symbolic link")]
    HomeIsLink,
    #[error("a symbolic link in the path leads out of the service's data directory")]
    Outside,
    #[error("the path goes round in a circle of symbolic links, or through a magic one")]
    Loop,
    #[error("it is a symbolic link, which is neither written through nor replaced")]
    Link,
    #[error("it is a {0}, not a file")]
    Kind(&'static str),
    #[error("a part of the path that should be a directory is not")]
    ThroughFile,
    #[error("it has {size} bytes, at most {limit} are taken")]
    TooLarge { size: u64, limit: u64 },
    #[error("it has further hard links and is not the service's own")]
    HardLink,
    #[error("there is no such file")]
    Missing,
    #[error("the path changes while it is looked up: try again")]
    Changing,
    /// The node is not let.
    #[error("this node's daemon may not: {0}")]
    Denied(String),
    /// The disk is full, a quota is used up.
    #[error("there is no room: {0}")]
    Full(String),
    /// Whatever else the file system says.
    #[error("{0}")]
    Io(String),
}

impl Refused {
    /// What the caller is told it is.
    pub(crate) const fn kind(&self) -> FailureKind {
        match self {
            Self::Path(_) | Self::Kind(_) | Self::ThroughFile | Self::TooLarge { .. } => {
                FailureKind::Invalid
            }
            Self::HomeIsLink
            | Self::Outside
            | Self::Loop
            | Self::Link
            | Self::HardLink
            | Self::Denied(_) => FailureKind::Forbidden,
            Self::Missing => FailureKind::NotFound,
            Self::Changing => FailureKind::Busy,
            Self::Full(_) => FailureKind::Exhausted,
            Self::Io(_) => FailureKind::Failed,
        }
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        let text = || std::io::Error::from(error).to_string();
        match error {
            Errno::XDEV => Self::Outside,
            Errno::LOOP => Self::Loop,
            Errno::NOENT => Self::Missing,
            Errno::NOTDIR => Self::ThroughFile,
            Errno::AGAIN => Self::Changing,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Denied(text()),
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::Full(text()),
            _ => Self::Io(text()),
        }
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::Io(error.to_string()),
        }
    }
}
