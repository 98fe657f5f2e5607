//! Links and addresses: ask, tell and subscribe to an actor wherever it lives (design §4).
//!
//! Local if it is here, QUIC if not. Rights are checked and requests audited at one door, before
//! the mailbox. Only this crate (and the benches) names quinn.
//!
//! What goes over a connection: its first bidirectional stream carries a [`Hello`] each way. Then
//! each side opens one stream a traffic class for its requests (a *lane*), on which answers come
//! back; bodies over 64 KiB and subscriptions have a stream of their own. Delivery is at most
//! once, in order per sender, receiver and class.
#![forbid(unsafe_code)]

mod ask;
mod audit;
mod client;
mod deadlines;
mod directory;
mod door;
mod endpoint;
mod error;
mod fabric;
mod hello;
mod items;
mod link;
mod local;
mod mailbox;
mod outbox;
mod peers;
mod reader;
mod reply;
mod requester;
mod serve;
mod stats;

pub use audit::{AuditEntry, AuditSink};
pub use client::{Client, JOIN_PROTOCOLS, join_ask};
pub use directory::{Directory, PeerEntry};
pub use endpoint::{ALPN_JOIN, ALPN_LINK, ListenConfig};
pub use error::LinkError;
pub use fabric::{Call, Fabric, FabricConfig, GoodBye, LinkConfig};
pub use hello::Hello;
pub use items::Items;
pub use link::Limits;
pub use local::LocalConfig;
pub use mailbox::{Letter, Mailbox, Meta, Refusal, Rule};
pub use peers::{LinkEvent, PeerState, PeerStatus};
pub use reply::{Closed, ItemSink, Reply};
pub use stats::Stats;
