//! How a database can fail, told apart by what somebody has to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a database cannot be opened, read or written. Each names the file. After an error of a
/// write nothing of its transaction is stored, except that after [`StoreError::Io`] of a commit it
/// may turn up at the next start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file or its directory cannot be created or written.
    #[error(
        "cannot write `{}`: {cause}; make the directory writable for the user that runs weftd, or choose another data directory",
        path.display()
    )]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// No space, or a quota is reached. Reads go on.
    #[error("no space left for `{}`: free some on its file system", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of the program has written it.
    #[error(
        "`{}` has schema version {found}, this program knows up to {known}: run a version of weft at least as new as the one that wrote it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// A migration did not work; the schema is as before it.
    #[error("cannot bring `{}` to schema version {version}: {source}", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// The version it was to reach.
        version: i64,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// It is not a database, or its pages are damaged.
    #[error("`{}` is damaged: {cause}; move it away and restore a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        cause: String,
    },
    /// Another process held the write lock for longer than the busy timeout.
    #[error("`{}` is locked by another process: is a second weftd using this data directory?", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A row that is there already: somebody else has written in between.
    #[error("`{}` already holds what was to be written: {cause}", path.display())]
    Conflict {
        /// The file.
        path: PathBuf,
        /// Which constraint.
        cause: String,
    },
    /// The system refused a read or a write.
    #[error("cannot {step} `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Everything else SQLite says; a defect or a disk that gives out.
    #[error("cannot {step} `{}`: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
}

impl StoreError {
    /// Sorts an error of SQLite by what has to be done about it.
    pub(crate) fn of(path: &Path, step: &'static str, source: sqlx::Error) -> Self {
        let path = path.to_owned();
        let code = match &source {
            sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<i32>().ok()),
            _ => None,
        };
        // The low byte is the primary result code: https://www.sqlite.org/rescode.html
        match code.map(|code| code & 0xff) {
            Some(5 | 6) => Self::Locked { path },
            Some(3 | 8 | 14 | 23) => Self::NotWritable { path, cause: source.to_string() },
            Some(11 | 26) => Self::Damaged { path, cause: source.to_string() },
            Some(13) => Self::Full { path },
            Some(19) => Self::Conflict { path, cause: source.to_string() },
            Some(10) => Self::Io { path, step, source: io::Error::other(source.to_string()) },
            _ => Self::Sqlite { path, step, source },
        }
    }

    /// An error of the file system.
    pub(crate) fn io(path: &Path, step: &'static str, source: io::Error) -> Self {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            PermissionDenied | ReadOnlyFilesystem | NotFound | NotADirectory => {
                Self::NotWritable { path, cause: source.to_string() }
            }
            _ => Self::Io { path, step, source },
        }
    }
}
