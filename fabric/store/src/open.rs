//! Opening, reading, writing.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteSynchronous,
};

use crate::migrate::{self, Migration};
use crate::{StoreError, WriteTransaction};

/// How long a statement waits for another process's lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Read-only connections per database; opened when first needed.
pub const READERS: u32 = 4;

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power loss: every commit is synced (about 500 commits/s on a plain disk, so batch).
    Full,
    /// The process's death; power loss may take the last commits, never the database.
    Normal,
}

/// An open database. Cheap to clone; the last clone closes it.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
    /// Bytes; 0: SQLite's own. A setting of the connection, so each new one is told.
    limit: Arc<AtomicU64>,
}

impl Store {
    /// Opens or creates `path` and brings its schema up to date.
    ///
    /// `migrations` are in ascending order of version, each run once in a transaction of its own;
    /// they are never edited after a release.
    ///
    /// # Errors
    /// [`StoreError`], naming the file; the schema is as far as the last migration that worked.
    pub async fn open(
        path: &Path,
        durability: Durability,
        migrations: &[Migration],
    ) -> Result<Self, StoreError> {
        create_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .optimize_on_close(false, None);
        let write =
            options.clone().journal_mode(SqliteJournalMode::Wal).synchronous(match durability {
                Durability::Full => SqliteSynchronous::Full,
                Durability::Normal => SqliteSynchronous::Normal,
            });
        let pool = || {
            SqlitePoolOptions::new()
                .test_before_acquire(false)
                .max_lifetime(None)
                .acquire_timeout(Duration::from_secs(30))
        };
        let failed = |error| StoreError::of(path, "open", error);
        let limit = Arc::new(AtomicU64::new(0));
        let told = limit.clone();
        let writer = pool()
            .max_connections(1)
            .idle_timeout(None)
            .after_connect(move |connection, _| {
                let bytes = told.load(Ordering::Relaxed);
                Box::pin(async move {
                    if bytes == 0 { Ok(()) } else { limit_pages(connection, bytes).await }
                })
            })
            .connect_with(write)
            .await
            .map_err(failed)?;
        if let Err(error) = migrate::run(&writer, path, migrations).await {
            writer.close().await;
            return Err(error);
        }
        let readers = pool()
            .max_connections(READERS)
            .min_connections(0)
            .connect_lazy_with(options.read_only(true));
        Ok(Self { writer, readers, path: path.to_owned(), limit })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a write with `BEGIN IMMEDIATE`; waits for the one before it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has begun.
    pub async fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let connection =
            self.writer.acquire().await.map_err(|error| self.error("begin a write to", error))?;
        WriteTransaction::begin(connection, self.path.clone()).await
    }

    /// Does a whole write: all of it lasts, or nothing of it. Faster than [`Store::begin`] and its
    /// statements one by one.
    ///
    /// `statements` each end with a semicolon, and are remembered by their text; their `?` are
    /// `values`, in order. No value may be part of the text.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was done.
    pub async fn write(&self, statements: &str, values: SqliteArguments) -> Result<(), StoreError> {
        let connection =
            self.writer.acquire().await.map_err(|error| self.error("begin a write to", error))?;
        WriteTransaction::whole(connection, self.path.clone(), statements, values).await
    }

    /// Read-only connections.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Turns an error of a statement on this database into one that names it.
    pub fn error(&self, step: &'static str, error: sqlx::Error) -> StoreError {
        StoreError::of(&self.path, step, error)
    }

    /// Refuses to let the file grow beyond about `bytes`, with [`StoreError::Full`], until called
    /// again; never less than what it holds now. Not remembered by the file.
    ///
    /// # Errors
    /// [`StoreError`] when the setting cannot be changed.
    pub async fn limit_size(&self, bytes: u64) -> Result<(), StoreError> {
        let failed = |error| self.error("limit the size of", error);
        self.limit.store(bytes.max(1), Ordering::Relaxed);
        let mut writer = self.writer.acquire().await.map_err(failed)?;
        limit_pages(&mut writer, bytes.max(1)).await.map_err(failed)
    }

    /// Closes all connections, waiting for what they are doing.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn limit_pages(writer: &mut SqliteConnection, bytes: u64) -> Result<(), sqlx::Error> {
    let page: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *writer).await?;
    let pages = (bytes / u64::try_from(page.max(512)).unwrap_or(4096)).clamp(1, 1 << 30);
    // A number we made; a pragma takes no parameters.
    let sql = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    sqlx::raw_sql(sql).execute(writer).await.map(drop)
}

/// Makes the file with mode 0600 before SQLite would make it readable for others; the WAL and
/// shared-memory files take the mode of the database.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(|error| StoreError::io(path, "open", error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let open = file.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
        if open && let Err(error) = file.set_permissions(std::fs::Permissions::from_mode(0o600)) {
            // Some file systems have no modes; the data directory's own mode must do.
            tracing::warn!(file = %path.display(), %error, "cannot make the database private (0600)");
        }
    }
    drop(file);
    Ok(())
}
