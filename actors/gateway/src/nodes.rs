//! The nodes as this one sees them: agreed state, and whether each answers now.

use std::time::Duration;

use futures_util::future::join_all;
use weft_protocol::{NodeRole, NodeRow, NodeState, Ping, StateView, VERSION};
use weft_wire::{AskError, NodeId};

use crate::around::{Asker, Member, NODE_TIMEOUT};
use crate::rows::wanted;

/// What asking a node for a sign of life gave.
#[derive(Debug, Clone)]
pub(crate) struct Sign {
    pub(crate) member: Member,
    /// Round trip; of this node itself: nothing.
    pub(crate) answer: Result<Option<Duration>, AskError>,
    /// How long ago it was last heard of; `None`: never.
    pub(crate) silent_for: Option<Duration>,
    /// Version its link told; empty: no link.
    pub(crate) version: String,
    /// Asks to it that wait for their answer.
    pub(crate) in_flight: usize,
}

/// Asks every node for a sign of life: that a link is up does not say that anybody answers.
pub(crate) async fn signs(asker: &Asker) -> Vec<Sign> {
    let here = asker.fabric.node();
    let mut signs = join_all(asker.members().into_iter().map(|member| async move {
        let answer = if member.id == here {
            Ok(None)
        } else {
            let before = asker.now();
            let answer = asker.ask_on(member.id, Ping {}, NODE_TIMEOUT).await;
            answer.map(|_| Some(asker.now().saturating_duration_since(before)))
        };
        Sign { member, answer, silent_for: None, version: String::new(), in_flight: 0 }
    }))
    .await;
    let peers = asker.fabric.peers();
    let now = asker.now();
    for sign in &mut signs {
        let id = sign.member.id;
        if id == here {
            sign.silent_for = Some(Duration::ZERO);
            continue;
        }
        let answered = asker.memory.seen(id).map(|at| now.saturating_duration_since(at));
        let peer = peers.iter().find(|peer| peer.id == id);
        let heard = peer.and_then(|peer| peer.last_seen);
        sign.silent_for = answered.into_iter().chain(heard).min();
        if let Some(peer) = peer {
            sign.version = peer.version.clone().unwrap_or_default();
            sign.in_flight = peer.in_flight;
            // The link's own figure is of many packets, ours of one message.
            if let (Ok(rtt @ Some(_)), Some(link)) = (&mut sign.answer, peer.rtt) {
                *rtt = Some(link);
            }
        }
    }
    signs
}

/// The row of every node: of agreed state, or of the directory alone while it is not readable.
pub(crate) fn rows(
    state: Result<&StateView, &AskError>,
    signs: &[Sign],
    here: NodeId,
    addresses: impl Fn(NodeId) -> String,
) -> Vec<NodeRow> {
    let mut rows: Vec<NodeRow> =
        signs.iter().map(|sign| row(sign, state, here, &addresses)).collect();
    // Agreed, but not in the directory yet: it cannot be dialled.
    for record in state.map(|state| state.nodes.as_slice()).unwrap_or_default() {
        if !signs.iter().any(|sign| sign.member.id == record.id) {
            let sign = Sign {
                member: Member { id: record.id, name: record.name.clone() },
                answer: Err(AskError::Unreachable("its address is not known here yet".into())),
                silent_for: None,
                version: String::new(),
                in_flight: 0,
            };
            rows.push(row(&sign, state, here, &addresses));
        }
    }
    rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    rows
}

fn row(
    sign: &Sign,
    state: Result<&StateView, &AskError>,
    here: NodeId,
    addresses: &impl Fn(NodeId) -> String,
) -> NodeRow {
    let id = sign.member.id;
    let record = state.ok().and_then(|state| state.nodes.iter().find(|node| node.id == id));
    let (node_state, mut reason) = match &sign.answer {
        Ok(_) => (NodeState::Ready, String::new()),
        // A link that is up while nothing comes back is a doubt, not a verdict.
        Err(error @ (AskError::Timeout | AskError::Overloaded(_))) => {
            (NodeState::Suspect, error.to_string())
        }
        Err(error @ AskError::Unreachable(_)) => (NodeState::Lost, error.to_string()),
        Err(error) => (NodeState::Degraded, error.to_string()),
    };
    let mut node_state = node_state;
    if id == here
        && let Err(error) = state
    {
        node_state = NodeState::Degraded;
        reason = format!("desired state is not readable: {error}");
    } else if let Ok(view) = state
        && record.is_none()
        && !view.nodes.is_empty()
    {
        node_state = NodeState::Left;
        reason = "it is not a node of this cluster any more".into();
    }
    let components = state.map_or(0, |state| {
        wanted(state, None).iter().filter(|wanted| wanted.node == Some(id)).count() as u64
    });
    let version = match record {
        _ if id == here => VERSION.to_owned(),
        // What its link told is newer than what was agreed.
        _ if !sign.version.is_empty() => sign.version.clone(),
        Some(record) => record.version.clone(),
        None => String::new(),
    };
    NodeRow {
        name: sign.member.name.clone(),
        id,
        state: node_state,
        role: match record {
            Some(record) if record.leader => NodeRole::Leader,
            _ => NodeRole::Learner,
        },
        address: record
            .map(|record| record.address.clone())
            .filter(|address| !address.is_empty())
            .unwrap_or_else(|| addresses(id)),
        version,
        zone: record.map_or_else(String::new, |record| record.zone.clone()),
        last_seen_ms: sign.silent_for.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        rtt_us: sign
            .answer
            .as_ref()
            .ok()
            .copied()
            .flatten()
            .map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        components,
        reason,
    }
}
