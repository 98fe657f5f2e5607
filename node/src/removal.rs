//! Noticing that this node was removed from its cluster (design §3): its id is refused for ever, so
//! nothing it could still do is of use to anybody.
//!
//! Only the word of a node that has shown a certificate of our trust bundle counts:
//! - agreed state, replicated from the node that applies it, denies our id;
//! - a link that was up, so both had proven who they are, is closed for this reason;
//! - a connection is refused for this reason, which somebody on the way could have made up, and a
//!   node that proves itself at its join door then says the same.
//!
//! A network that fails says none of this.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use weft_link::{Fabric, LinkEvent, PeerState, PeerStatus};
use weft_protocol::PeerAddress;
use weft_registry::REMOVED;
use weft_wire::{AskError, Backoff, FailureKind, Identity, NodeId};

use crate::renewal::{Renewal, RenewalError};

/// How often links and agreed state are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Between questions at join doors, which count failures.
const ASK_AGAIN: Backoff =
    Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.0 };

/// Ends when this node is known to have been removed; says how.
pub(crate) async fn noticed(fabric: &Fabric, renewal: &Renewal, seed: &[PeerAddress]) -> String {
    let own = Identity::Node(renewal.node);
    let mut events = fabric.link_events();
    let mut asked = 0u32;
    let mut ask_at = None;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => if let Some(how) = closed_for_it(&event, renewal.node) { return how },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            },
            () = tokio::time::sleep(LOOK) => {}
        }
        if fabric.directory().is_denied(&own) || renewal.trust.is_denied(&own) {
            return "agreed state says so".to_owned();
        }
        let now = renewal.clock.now();
        if fabric.peers().iter().any(refuses_for_it) && ask_at.is_none_or(|at| now >= at) {
            ask_at = Some(now + ASK_AGAIN.delay(asked, 0.0));
            asked = asked.saturating_add(1).min(16);
            if let Err(error) = renewal.by_key(&doors(fabric, renewal.node, seed)).await
                && let Some(how) = said(&error)
            {
                return how;
            }
        }
    }
}

/// What an answer to a renewal says about a removal, if it does.
pub(crate) fn said(error: &RenewalError) -> Option<String> {
    match error {
        RenewalError::Ask(AskError::Failed(failure))
            if failure.kind == FailureKind::Forbidden && failure.message.contains(REMOVED) =>
        {
            Some(failure.to_string())
        }
        _ => None,
    }
}

/// A link that was up, closed because of our own id and no other.
fn closed_for_it(event: &LinkEvent, own: NodeId) -> Option<String> {
    let about_us = event.reason.contains(&Identity::Node(own).to_string());
    (!event.up && about_us && event.reason.contains(REMOVED))
        .then(|| format!("{} closed its link: {}", event.name, event.reason))
}

/// A reason to ask; not to believe.
fn refuses_for_it(peer: &PeerStatus) -> bool {
    matches!(&peer.state, PeerState::Down { reason, .. } if reason.contains(REMOVED))
}

/// Every address of another node that is known.
fn doors(fabric: &Fabric, own: NodeId, seed: &[PeerAddress]) -> Vec<SocketAddr> {
    let directory = fabric.directory();
    let known = directory.nodes.values().filter(|entry| entry.id != own);
    let mut doors: Vec<SocketAddr> = known.filter_map(|entry| entry.address).collect();
    doors.extend(seed.iter().filter_map(|peer| peer.address.parse::<SocketAddr>().ok()));
    doors.sort_unstable();
    doors.dedup();
    doors
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::Failure;

    fn down(reason: &str) -> LinkEvent {
        LinkEvent {
            node: NodeId::new(uuid::Uuid::from_u128(1)),
            name: "n1".into(),
            up: false,
            reason: reason.into(),
            planned: false,
        }
    }

    #[test]
    fn only_a_link_closed_for_our_own_removal_counts() {
        let own = NodeId::new(uuid::Uuid::from_u128(3));
        let about = |id: NodeId| format!("{} was removed from the cluster", Identity::Node(id));
        assert!(closed_for_it(&down(&about(own)), own).is_some_and(|how| how.contains("n1")));
        let other = NodeId::new(uuid::Uuid::from_u128(4));
        for reason in [
            about(other),
            "no sign of life from the peer".into(),
            "the daemon stops".into(),
            format!("{} is not trusted", Identity::Node(own)),
            "the peer refused our certificate: its id was removed from the cluster".into(),
        ] {
            assert_eq!(closed_for_it(&down(&reason), own), None, "{reason}");
        }
    }

    #[test]
    fn an_answer_counts_only_if_it_is_a_refusal_for_this_reason() {
        let failed =
            |kind, text: &str| RenewalError::Ask(AskError::Failed(Failure::new(kind, text)));
        assert!(
            said(&failed(FailureKind::Forbidden, "node x was removed from the cluster")).is_some()
        );
        for error in [
            failed(FailureKind::Forbidden, "node x is not of this cluster"),
            failed(FailureKind::Unavailable, "it was removed from the cluster"),
            RenewalError::Ask(AskError::Timeout),
            RenewalError::Ask(AskError::Unreachable("its id was removed from the cluster".into())),
            RenewalError::NoPeers,
        ] {
            assert_eq!(said(&error), None, "{error}");
        }
    }
}
