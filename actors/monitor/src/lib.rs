//! Drift, transitions, alerts, host figures: what this node's components do, compared with what is
//! wanted.
//!
//! The runtime tells each transition; the monitor has the registry record it as an event and only
//! then acknowledges it. A pass now and then finds what nobody told (orchestration §4, §5, §12).
#![forbid(unsafe_code)]

mod actor;
pub mod alerts;
mod command;
pub mod host;
pub mod state;

pub use actor::{Monitor, MonitorConfig, factory};
