//! The audit of a node, as an operator reads it over QUIC.

use std::sync::Arc;
use std::time::Duration;

use weft_identity::{DenyList, Expect, IdentityFiles, Trust};
use weft_link::{Call, Client};
use weft_protocol::{AuditRecord, QueryAudit};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use crate::Cluster;

/// Everything that a node has recorded, oldest first, at most 10,000 records.
///
/// # Panics
/// If the node does not answer the cluster's operator.
pub async fn audit(cluster: &Cluster, node: &str) -> Vec<AuditRecord> {
    let stored = IdentityFiles::operator(&cluster.dir().join("operator")).load().expect("one");
    let credentials = stored.credentials().expect("credentials");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let trust = Trust::new(stored.own.cluster, stored.bundle, DenyList::new(), clock)
        .expect("a trust bundle");
    let address = cluster.node(node)["fabric"].as_str().and_then(|a| a.parse().ok());
    let within = Duration::from_secs(10);
    let client =
        Client::connect(address.expect("ip:port"), &credentials, &trust, Expect::AnyNode, within)
            .await
            .expect("connects");
    let question = QueryAudit { since: None, limit: 10_000 };
    let to = Address::here(ActorKind::Registry);
    client.ask(to, question, Call::within(within)).await.expect("answers")
}
