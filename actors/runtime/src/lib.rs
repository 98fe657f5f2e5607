//! Components of this node: each under a shim that outlives the daemon, each with an actor that
//! sees to it (design §8, §9, §11).
//!
//! - [`shim`]: the small process that runs one component; `weftd shim` is its entry.
//! - `state`: one component's life, and the leases of all, pure; `leases`: asking for them.
//! - `component`: the actor that carries out what `state` says; `link`: its side of the shim.
//! - `driver`: what starts, follows and stops it: `process` by a shim, `container` by the engine.
//! - `files`: files of data directories, found and replaced safely; `blobs`: those that come with
//!   definitions; `transfer`: both, as others ask for them.
//! - [`limits`]: how a process is held to its `resources`.
//! - `odd`: containers that are not as agreed, or nobody's.
//! - `exec`: commands that operators run beside components; `usage`: what components use.
//! - `halt`: stopping everything without actors, when the node is of no cluster any more.
//! - `actor`: the runtime actor above them; `logs`, `ports`, `probe`, `launch`, `outbox`: its tools.
#![forbid(unsafe_code)]

mod actor;
mod adopt;
mod blobs;
mod boottime;
mod component;
mod disk;
mod driver;
mod exec;
mod files;
mod halt;
mod launch;
mod leases;
pub mod limits;
mod link;
mod logs;
mod odd;
mod outbox;
mod ports;
mod probe;
mod process;
mod purge;
pub mod shim;
mod state;
mod transfer;
mod turns;
mod usage;

pub use actor::{Runtime, RuntimeConfig, factory};
pub use halt::{Boxes, Needs, remove_containers, stop_components};
pub use weft_engine::{Flavour, Search, TALKATIVE};
