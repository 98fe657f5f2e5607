//! Links and addresses: ask, tell and subscribe to an actor wherever it lives (design §4).
//!
//! Local if it is here, QUIC if not. Rights are checked and requests audited at one door, before
//! the mailbox. Only this crate (and the benches) names quinn.
#![forbid(unsafe_code)]

mod directory;
mod fabric;
mod mailbox;

pub use directory::{Directory, PeerEntry};
pub use fabric::{AuditEntry, AuditSink, Call, Fabric, FabricConfig, Items};
pub use mailbox::{
    AuditStub, Closed, ItemSink, Letter, Mailbox, Meta, Outbox, Refusal, Reply, Rule, WireReply,
};
