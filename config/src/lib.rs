//! What people write: service files, the node file and the CLI file; durations and sizes.
//!
//! Everything here is a pure function of text (and, for the two configuration files, of an
//! environment and flags that are passed in), except the few functions that say they read or write
//! a file. Every mistake of a file is reported at once, each with file, line, column and help.
#![forbid(unsafe_code)]

pub mod cli;
mod diagnostic;
pub mod duration;
pub mod macp;
pub mod node;
mod quote;
mod reader;
pub mod service;
pub mod size;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Diagnostics, Severity, nearest};
pub use duration::{format_duration, parse_duration};
pub use size::{format_size, parse_size};
