//! The one writer's transactions.
//!
//! Not sqlx's: after "disk full", an I/O error or an interrupt SQLite has already rolled back by
//! itself, `ROLLBACK` then fails, sqlx goes on counting a transaction as open, and every later
//! `begin` on that connection is refused. Here a connection whose transaction did not end well is
//! thrown away, which rolls back whatever there is.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};

use crate::StoreError;

/// A write in progress; dereferences to the connection that statements run on. End it with
/// [`WriteTransaction::commit`]: dropped, also when its future is cancelled, nothing of it stays.
#[derive(Debug)]
pub struct WriteTransaction {
    // `None` only while it ends.
    connection: Option<PoolConnection<Sqlite>>,
    path: PathBuf,
}

impl WriteTransaction {
    pub(crate) async fn begin(
        connection: PoolConnection<Sqlite>,
        path: PathBuf,
    ) -> Result<Self, StoreError> {
        // Wrapped before the statement, so that a future cancelled within it rolls back too.
        let mut this = Self { connection: Some(connection), path };
        match sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *this).await {
            Ok(_) => Ok(this),
            Err(error) => Err(this.error("begin a write to", error)),
        }
    }

    /// A whole write in one turn of the connection's thread; statement by statement each takes one,
    /// which costs more than the statement.
    pub(crate) async fn whole(
        connection: PoolConnection<Sqlite>,
        path: PathBuf,
        statements: &str,
        values: SqliteArguments,
    ) -> Result<(), StoreError> {
        let mut this = Self { connection: Some(connection), path };
        let sql = AssertSqlSafe(format!("BEGIN IMMEDIATE; {statements} COMMIT"));
        match sqlx::query_with(sql, values).execute(&mut *this).await {
            Ok(_) => {
                // Back to the pool.
                drop(this.connection.take());
                Ok(())
            }
            Err(error) => Err(this.error("write to", error)),
        }
    }

    /// Makes it last.
    ///
    /// # Errors
    /// [`StoreError`]; see there for what may be stored.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let done = sqlx::raw_sql("COMMIT").execute(&mut *self).await;
        match done {
            Ok(_) => {
                // Back to the pool.
                drop(self.connection.take());
                Ok(())
            }
            Err(error) => Err(self.error("commit to", error)),
        }
    }

    /// Turns an error of a statement of it into one that names the file.
    pub fn error(&self, step: &'static str, error: sqlx::Error) -> StoreError {
        StoreError::of(&self.path, step, error)
    }
}

impl Deref for WriteTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("only `commit` and `drop` take it, and they end it"),
        }
    }
}

impl DerefMut for WriteTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match &mut self.connection {
            Some(connection) => connection,
            None => unreachable!("only `commit` and `drop` take it, and they end it"),
        }
    }
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}
