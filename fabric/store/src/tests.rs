//! Real databases in temporary directories.

use std::path::Path;

use crate::{Durability, Migration, Store, StoreError};

const ONE: Migration =
    Migration { version: 1, sql: "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB) STRICT;" };
const TWO: Migration =
    Migration { version: 2, sql: "ALTER TABLE t ADD COLUMN c TEXT; CREATE INDEX i ON t (c);" };

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

async fn open(path: &Path, migrations: &[Migration]) -> Result<Store, StoreError> {
    Store::open(path, Durability::Full, migrations).await
}

async fn insert(store: &Store, a: i64, bytes: usize) -> Result<(), StoreError> {
    let mut transaction = store.begin().await?;
    let done = sqlx::query("INSERT INTO t (a, b) VALUES (?1, ?2)")
        .bind(a)
        .bind(vec![7u8; bytes])
        .execute(&mut *transaction)
        .await;
    match done {
        Ok(_) => transaction.commit().await,
        Err(error) => Err(transaction.error("write", error)),
    }
}

async fn count(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(store.readers()).await.expect("counts")
}

#[tokio::test]
async fn what_was_committed_is_there_after_opening_again_and_later_migrations_run_once() {
    let dir = directory();
    let path = dir.path().join("x.db");
    let store = open(&path, &[ONE]).await.expect("opens");
    insert(&store, 1, 10).await.expect("writes");
    assert_eq!(count(&store).await, 1);
    store.close().await;
    for _ in 0..2 {
        let store = open(&path, &[ONE, TWO]).await.expect("opens again");
        assert_eq!(count(&store).await, 1);
        let versions: Vec<i64> =
            sqlx::query_scalar("SELECT version FROM schema_migrations ORDER BY 1")
                .fetch_all(store.readers())
                .await
                .expect("reads");
        assert_eq!(versions, [1, 2]);
        store.close().await;
    }
}

#[tokio::test]
async fn a_database_from_a_newer_version_is_refused_and_left_alone() {
    let dir = directory();
    let path = dir.path().join("x.db");
    open(&path, &[ONE, TWO]).await.expect("opens").close().await;
    let before = std::fs::read(&path).expect("reads");
    let error = open(&path, &[ONE]).await.expect_err("newer");
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("x.db"), "{error}");
    assert_eq!(std::fs::read(&path).expect("reads"), before);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_schema_as_it_was() {
    let dir = directory();
    let path = dir.path().join("x.db");
    let bad =
        Migration { version: 2, sql: "CREATE TABLE u (a INTEGER); CREATE TABLE t (a INTEGER);" };
    let error = open(&path, &[ONE, bad]).await.expect_err("fails");
    assert!(matches!(error, StoreError::Migration { version: 2, .. }), "{error}");
    let store = open(&path, &[ONE]).await.expect("opens at version 1");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = 'u'")
        .fetch_one(store.readers())
        .await
        .expect("reads");
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let dir = directory();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a directory").expect("writes");
    for path in [file.join("x.db"), dir.path().join("missing").join("x.db")] {
        let error = open(&path, &[ONE]).await.expect_err("cannot be created");
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
        assert!(error.to_string().contains("x.db"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_to_be_damaged() {
    let dir = directory();
    let path = dir.path().join("x.db");
    std::fs::write(&path, vec![b'x'; 8192]).expect("writes");
    let error = open(&path, &[ONE]).await.expect_err("no database");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_the_write_and_reads_go_on() {
    let dir = directory();
    let store = open(&dir.path().join("x.db"), &[ONE]).await.expect("opens");
    insert(&store, 1, 10).await.expect("writes");
    store.limit_size(1).await.expect("limits");
    for _ in 0..3 {
        let error = insert(&store, 2, 100_000).await.expect_err("full");
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert_eq!(count(&store).await, 1);
    }
    store.limit_size(100 << 20).await.expect("raises");
    insert(&store, 2, 100_000).await.expect("writes again");
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn a_row_that_is_there_already_is_a_conflict() {
    let dir = directory();
    let store = open(&dir.path().join("x.db"), &[ONE]).await.expect("opens");
    insert(&store, 1, 1).await.expect("writes");
    let error = insert(&store, 1, 1).await.expect_err("conflict");
    assert!(matches!(error, StoreError::Conflict { .. }), "{error:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_belong_to_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = directory();
    let path = dir.path().join("x.db");
    std::fs::write(&path, "").expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("opens up");
    let store = open(&path, &[ONE]).await.expect("opens");
    insert(&store, 1, 1).await.expect("writes");
    for entry in std::fs::read_dir(dir.path()).expect("lists") {
        let entry = entry.expect("entry");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn a_backup_is_whole_and_replaces_an_earlier_one() {
    let dir = directory();
    let store = open(&dir.path().join("x.db"), &[ONE]).await.expect("opens");
    let target = dir.path().join("copy.db");
    for a in 1..=2 {
        insert(&store, a, 1000).await.expect("writes");
        store.backup(&target).await.expect("backs up");
        let copy = open(&target, &[ONE]).await.expect("opens the copy");
        assert_eq!(count(&copy).await, a);
        copy.close().await;
    }
    assert!(!dir.path().join("copy.db.tmp").exists());
    let error = store.backup(&dir.path().join("no").join("copy.db")).await.expect_err("nowhere");
    assert!(error.to_string().contains("copy.db"), "{error}");
}

#[tokio::test]
async fn a_write_that_is_dropped_leaves_nothing_and_the_next_one_works() {
    let dir = directory();
    let store = open(&dir.path().join("x.db"), &[ONE]).await.expect("opens");
    let mut transaction = store.begin().await.expect("begins");
    sqlx::query("INSERT INTO t (a) VALUES (1)").execute(&mut *transaction).await.expect("writes");
    drop(transaction);
    insert(&store, 2, 1).await.expect("writes");
    assert_eq!(count(&store).await, 1);
}
