//! Events that follow from an agreed entry: every node derives the same ones, with the same ids,
//! so that an entry is told once however many nodes tell it.

use uuid::Uuid;
use weft_protocol::{Applied, Command, Event, EventKind, NodeChange, Proposal};
use weft_wire::{Failure, NodeId};

use super::ClusterState;
use super::apply::Change;

/// In front of position and number: no random id begins so.
const TAG: u128 = 0x7765_6674_656e << 80;

impl ClusterState {
    /// As [`ClusterState::apply`], with the events that follow.
    ///
    /// # Errors
    /// As there; nothing follows.
    pub fn apply_told(
        &mut self,
        proposal: &Proposal,
        index: u64,
    ) -> Result<(Applied, Vec<Event>), Failure> {
        // The name of a node that is removed is gone afterwards.
        let gone = match &proposal.command {
            Command::RemoveNode { id, .. } => self.node(*id).map(|n| (n.id, n.name.clone())),
            _ => None,
        };
        let (applied, changes) = self.apply(proposal, index)?;
        let events = self.told(proposal, &applied, &changes, gone.as_ref());
        Ok((applied, events))
    }

    fn told(
        &self,
        proposal: &Proposal,
        applied: &Applied,
        changes: &[Change],
        gone: Option<&(NodeId, String)>,
    ) -> Vec<Event> {
        let name = |id: NodeId| match gone {
            Some((of, name)) if *of == id => name.clone(),
            _ => self.node(id).map_or_else(|| id.to_string(), |node| node.name.clone()),
        };
        let mut events: Vec<Event> = Vec::new();
        let mut tell = |node: String, replica: Option<(&str, u32)>, kind, cause: String| {
            let number = u128::try_from(events.len()).unwrap_or(0) & 0xffff;
            events.push(Event {
                id: Uuid::from_u128(TAG | u128::from(applied.index) << 16 | number),
                time: proposal.at,
                node,
                service: replica.map_or_else(String::new, |(service, _)| service.to_owned()),
                component: String::new(),
                replica: replica.map_or(0, |(_, replica)| replica),
                kind,
                cause,
                exit: String::new(),
                observer: String::new(),
            });
        };
        let who = self.who(proposal);
        let node = |to| EventKind::Node { to };
        match &proposal.command {
            Command::Bootstrap { node: first, .. } => {
                tell(
                    first.name.clone(),
                    None,
                    node(NodeChange::Joined),
                    "made the cluster".to_owned(),
                );
            }
            Command::AddNode { node: new, secret_hash } => {
                let by = self.tokens.get(secret_hash).map_or("", |token| token.by.as_str());
                let by = by.strip_prefix("operator/").and_then(|id| id.parse().ok()).map_or_else(
                    || by.to_owned(),
                    |id| self.operator(id).map_or_else(|| by.to_owned(), |o| o.name.clone()),
                );
                // A person on the node's own machine has no name here.
                let cause = if by.is_empty() || by.starts_with("local/") {
                    "joined with a token".to_owned()
                } else {
                    format!("joined with a token of {by}")
                };
                tell(new.name.clone(), None, node(NodeChange::Joined), cause);
            }
            Command::RemoveNode { force, .. } => {
                let how = if *force { ", with what was placed there" } else { "" };
                for change in changes {
                    if let Change::NodeRemoved(id) = change {
                        let cause = format!("removed by {who}{how}");
                        tell(name(*id), None, node(NodeChange::Removed), cause);
                    }
                }
            }
            Command::Drain { node: id, on } if !changes.is_empty() => {
                let (to, how) = if *on {
                    (NodeChange::Draining, "drained")
                } else {
                    (NodeChange::Undrained, "undrained")
                };
                tell(name(*id), None, node(to), format!("{how} by {who}"));
            }
            _ => {}
        }
        for change in changes {
            match change {
                Change::Placed { service, replica, from, node } if *from != Some(*node) => {
                    let place = self.placements.get(&(service.clone(), *replica));
                    let cause = place.map_or_else(String::new, |place| place.reason.clone());
                    let kind = EventKind::Placement {
                        from: from.map_or_else(String::new, name),
                        to: name(*node),
                    };
                    tell(name(*node), Some((service, *replica)), kind, cause);
                }
                Change::Unplaced { service, replica, from, reason } => {
                    let cause = match &proposal.command {
                        Command::Undeploy { .. } => format!("undeployed by {who}"),
                        Command::Deploy { .. } => {
                            format!("deployed with fewer replicas by {who}")
                        }
                        Command::Scale { .. } => format!("scaled down by {who}"),
                        Command::Rollback { .. } => format!("rolled back by {who}"),
                        Command::Rollout { .. } => "it was there for an update alone".to_owned(),
                        Command::RemoveNode { .. } => format!("{} was removed", name(*from)),
                        _ => reason.clone(),
                    };
                    let kind = EventKind::Placement { from: name(*from), to: String::new() };
                    tell(name(*from), Some((service, *replica)), kind, cause);
                }
                _ => {}
            }
        }
        events
    }
}
