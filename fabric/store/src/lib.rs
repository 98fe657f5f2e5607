//! Opening SQLite the one right way (design §7; spec/dependencies.md §10).
//!
//! One writer connection that begins its transactions with `BEGIN IMMEDIATE`, and a pool of
//! read-only ones: with one shared pool, a read transaction that is upgraded to a write fails at
//! once with "database is locked", whatever the timeout. WAL, foreign keys on, busy timeout 5 s,
//! files readable by their owner only. This crate knows no table but its own `schema_migrations`.
#![forbid(unsafe_code)]

mod backup;
mod error;
mod migrate;
mod open;
#[cfg(test)]
mod tests;
mod write;

pub use error::StoreError;
pub use migrate::Migration;
pub use open::{BUSY_TIMEOUT, Durability, READERS, Store};
pub use write::WriteTransaction;
