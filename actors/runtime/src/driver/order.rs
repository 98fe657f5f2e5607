//! Which services start before which, after a node has begun (orchestration §3.1, §23).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use weft_protocol::{ComponentKey, ComponentState, ComponentStatus, Desired, Health};

use super::Hands;
use crate::actor::Peer;
use crate::state::Input;

/// After a node has begun, a component waits no longer for others: what is needed and sick for
/// good must not keep the rest down.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for services that this node runs and that are to be healthy first, but not longer than
/// [`PATIENCE`] after the node began: what is started later finds its own way.
pub(super) async fn others_first(hands: &Hands, after: &[String]) {
    let shared = &hands.shared;
    let Some(begun) = shared.begun.get() else { return };
    let left = || (*begun + PATIENCE).saturating_duration_since(hands.scope.now());
    let mut told = String::new();
    let mut news = shared.news.subscribe();
    loop {
        let waits = {
            let (assigned, board) = (shared.peers.lock(), shared.board.lock());
            waits_for(after, &assigned, &board)
        };
        let Some(service) = waits.filter(|_| !left().is_zero()) else { return };
        if service != told {
            let why = format!("waits until service {service} is healthy (`depends_on`)");
            hands.say(Input::Waits(hands.run, why));
            told = service;
        }
        let changed = async {
            loop {
                match news.recv().await {
                    Ok(row) if !after.contains(&row.key.service) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => return false,
                }
            }
        };
        tokio::select! {
            more = changed => if !more { return },
            () = tokio::time::sleep(left()) => {
                tracing::warn!(component = %hands.key, service = told, "starts before what it depends on is healthy");
                return;
            }
        }
    }
}

/// The first of the services that is not healthy here though it should run; `None`: all are, or
/// are elsewhere, or will not be: one that was given up on, or has done its work.
fn waits_for(
    after: &[String],
    assigned: &BTreeMap<ComponentKey, Peer>,
    board: &BTreeMap<ComponentKey, ComponentStatus>,
) -> Option<String> {
    let is_up = |key: &ComponentKey, peer: &Peer| {
        board.get(key).is_some_and(|status| {
            let done = status.state == ComponentState::Exited
                && peer.restart.stays_down(&status.last_exit);
            status.desired != Desired::Running
                || matches!(status.state, ComponentState::Failed)
                || done
                || status.state == ComponentState::Running
                    && matches!(status.health, Health::Healthy | Health::None)
        })
    };
    let missing =
        |(key, peer): &(&ComponentKey, &Peer)| after.contains(&key.service) && !is_up(key, peer);
    assigned.iter().find(missing).map(|(key, _)| key.service.clone())
}
