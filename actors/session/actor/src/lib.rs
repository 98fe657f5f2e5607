//! Owns MACP sessions: the kernel (`weft-session`) behind consensus (design §6).
//!
//! [`Owned`] is one group of sessions: applied state, what is on its way, and whoever waits for
//! either. It is fed by consensus, or by nobody but itself where nothing is kept on disk. The actor
//! is thin: it checks a request against its group, has the entry agreed on, and answers once it is
//! applied. Groups outlive the actor's incarnations.
#![forbid(unsafe_code)]

mod actor;
mod archive;
mod catalogue;
mod convert;
mod follow;
mod lead;
mod mend;
mod owned;
mod payload;
mod policies;
mod route;
mod slots;

pub use actor::{SessionActor, factory};
pub use archive::Archive;
pub use catalogue::Modes;
pub use owned::Owned;
pub use policies::{CheckedPolicies, PolicyError, check_policies};
pub use slots::{Owners, group_name};
