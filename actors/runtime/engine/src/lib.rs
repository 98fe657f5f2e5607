//! Container engines (Podman, Docker) through their API socket: finding one, and everything a
//! driver asks of it (orchestration §3, §4, §8; design §11, "engine access").
//!
//! - `find`, `service`: which engine; started on demand where only the `podman` command exists.
//! - `spec`, `names`: what a container shall be, as the engine is told. Pure.
//! - `container`: what a container is, as the engine tells it. Pure.
//! - `engine`, `image`, `archive`: the calls. `raw`: those that bollard does not do well enough.
//! - `events`, `exit`, `memory`, `tail`: how changes are noticed; `logs`, `exec`, `stats`: the rest.
//! - `bridge`, `gone`: networks that are as clients expect while containers come and go.
//! - `lease`: killing a container when neither engine nor daemon is there to do it.
//!
//! Nothing of bollard is in this crate's interface, and no other crate names it. Engines' own
//! restart policies are always off (design §11).
#![forbid(unsafe_code)]

mod archive;
mod bridge;
mod container;
mod engine;
mod error;
mod events;
mod exec;
mod exit;
mod find;
mod gone;
mod image;
mod lease;
mod logs;
mod memory;
mod names;
mod raw;
mod service;
mod spec;
mod stats;
mod tail;

pub use container::{Container, ContainerState, Ended, Summary, observed};
pub use engine::{Engine, Flavour, TALKATIVE};
pub use error::{Error, NameHolder};
pub use events::{Fact, Happened, Notice, Watch};
pub use exec::{
    ExecChunk, ExecHandle, ExecInput, ExecOutput, ExecSession, ExecSpec, Resizer, TtySize,
};
pub use exit::ExitWatch;
pub use find::{Candidate, Found, Origin, Passed, Search, find};
pub use gone::{guard_network, refuse_network};
pub use image::{Credentials, Image, PullProgress};
pub use lease::LeaseTarget;
pub use logs::{LogLine, LogQuery, LogStream, Stream, read_file_line};
pub use memory::{MemoryCgroup, MemoryWatch, ran_out_of_memory};
pub use names::{Owner, container_name, label, matches_service};
pub use service::OwnService;
pub use spec::{ContainerSpec, Limits, LogPolicy, Ulimits};
pub use stats::{Stats, cpu_percent};
pub use tail::FileWatch;
