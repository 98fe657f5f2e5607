//! What crosses a link: messages with stable ids and versions, frames, and the one codec.
//!
//! This crate knows bytes and identities as values. It opens no socket, reads no clock and
//! does not know what any message means (design §2, `fabric/wire`).
#![forbid(unsafe_code)]

mod address;
mod backoff;
mod clock;
pub mod codec;
mod error;
pub mod frame;
mod id;
mod identity;
mod message;
mod trace;

pub use address::{ActorKind, Address, Target};
pub use backoff::{Backoff, Jitter};
pub use clock::{Clock, ManualClock, SystemClock, WallTime};
pub use error::{AskError, Failure, FailureKind};
pub use id::{ClusterId, IdError, NodeId, OperatorId, RequestId};
pub use identity::{Caller, Identity, Role};
pub use message::{Allow, Class, Message, MessageId, Subscription};
pub use trace::TraceContext;

/// Lowest link protocol this build speaks; exchanged in the hello (design §4).
pub const PROTOCOL_MIN: u16 = 1;
/// Highest link protocol this build speaks; exchanged in the hello (design §4).
pub const PROTOCOL_MAX: u16 = 1;
/// Format level of replicated state this build can write (design §4, "Evolution").
pub const FORMAT_LEVEL: u16 = 1;
