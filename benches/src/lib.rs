//! Benchmarks: each is a binary of its own, with its baseline in the same run.
#![forbid(unsafe_code)]

pub mod disk;
pub mod figures;
pub mod signs;
