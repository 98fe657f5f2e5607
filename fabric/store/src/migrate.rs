//! Bringing a schema up to date.

use std::path::Path;

use sqlx::sqlite::SqlitePool;

use crate::{StoreError, WriteTransaction};

/// One step of a schema. Never edited after a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// From 1, ascending.
    pub version: i64,
    /// One or more statements.
    pub sql: &'static str,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL
) STRICT";

pub(crate) async fn run(
    writer: &SqlitePool,
    path: &Path,
    migrations: &[Migration],
) -> Result<(), StoreError> {
    let failed = |error| StoreError::of(path, "read the schema of", error);
    let known = migrations.iter().map(|migration| migration.version).max().unwrap_or(0);
    // Look before writing: a file of a newer version is left exactly as it is.
    let found = version(writer).await.map_err(failed)?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    sqlx::query(TABLE)
        .execute(writer)
        .await
        .map_err(|error| StoreError::of(path, "write the schema of", error))?;
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        step(writer, path, migration).await.map_err(|error| match error {
            StoreError::Sqlite { source, path, .. } => {
                StoreError::Migration { path, version: migration.version, source }
            }
            sorted => sorted,
        })?;
    }
    Ok(())
}

async fn version(writer: &SqlitePool) -> Result<i64, sqlx::Error> {
    let there: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'",
    )
    .fetch_one(writer)
    .await?;
    if there == 0 {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM schema_migrations")
        .fetch_one(writer)
        .await
}

async fn step(writer: &SqlitePool, path: &Path, migration: &Migration) -> Result<(), StoreError> {
    let failed = |error| StoreError::of(path, "write the schema of", error);
    let connection = writer.acquire().await.map_err(failed)?;
    let mut transaction = WriteTransaction::begin(connection, path.to_owned()).await?;
    sqlx::raw_sql(migration.sql).execute(&mut *transaction).await.map_err(failed)?;
    // The database's own clock: only people read it.
    sqlx::query(
        "INSERT INTO schema_migrations (version, applied_at)
         VALUES (?1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
    )
    .bind(migration.version)
    .execute(&mut *transaction)
    .await
    .map_err(failed)?;
    transaction.commit().await
}
