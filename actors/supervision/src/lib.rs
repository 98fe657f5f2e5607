//! Supervised actors (design §5): starting, watching, restarting, escalating, introspection.
//!
//! The rule is *watch and recreate*: when an actor ends, however it ends, a factory makes a new
//! value from what is durable, and its new address is published behind the one reference everybody
//! holds. Messages in the dead one's mailbox end at once with a typed error; while there is no
//! incarnation, letters are refused as `Gone`. What is decided, [`machine::Supervisor`] decides;
//! the rest of the crate carries it out over actix.
//!
//! Each top actor has a thread of its own, its children share it; futures run on one shared pool.
#![forbid(unsafe_code)]

mod actor;
mod core;
mod life;
pub mod machine;
mod node;
mod office;
mod padded;
mod panics;
mod place;
mod post;
mod queue;
mod routes;
mod scope;
mod system;
pub mod testing;
mod tree;
mod watchdog;

#[cfg(test)]
mod tests;

pub use actor::{Actor, ActorError, Beside, ChildSpec, Factory, Handle, Incarnation, Serve};
pub use life::Epoch;
pub use machine::{Intensity, Restart, Strategy};
pub use routes::Routes;
pub use scope::{Child, Scope, Timer};
pub use system::block_on_system;
pub use tree::{EXIT_GAVE_UP, Tree, TreeConfig, TreeError};
pub use watchdog::Watchdog;
