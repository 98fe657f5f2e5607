//! What there is to know of nodes: what each says itself, beside what is agreed (orchestration §19).

use std::collections::BTreeSet;

use futures_util::future::join_all;
use weft_link::PeerState;
use weft_protocol::{
    EngineFacts, FORMAT_LEVEL, NodeFacts, NodeRow, NodeStatusRow, PeerFacts, ReadEngine, ReadFacts,
    ReadHost, StateView,
};
use weft_wire::AskError;

use crate::around::{Asker, NODE_TIMEOUT};
use crate::rows;

/// What this node knows of itself.
pub(crate) async fn own(asker: &Asker) -> NodeFacts {
    let own = asker.myself();
    let (host, engine) =
        tokio::join!(own.ask(ReadHost {}, NODE_TIMEOUT), own.ask(ReadEngine {}, NODE_TIMEOUT));
    let mut peers: Vec<PeerFacts> = asker
        .fabric
        .peers()
        .into_iter()
        .map(|peer| PeerFacts {
            up: matches!(peer.state, PeerState::Up),
            name: peer.name,
            rtt_us: peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            clock_offset_us: peer.clock_offset,
        })
        .collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    NodeFacts {
        host: host.ok(),
        engine: engine.unwrap_or_else(|error| EngineFacts {
            problem: error.to_string(),
            ..EngineFacts::default()
        }),
        peers,
        format: FORMAT_LEVEL,
    }
}

/// Those of the nodes that are meant.
///
/// # Errors
/// When there is none of that name or id.
pub(crate) async fn status(
    asker: &Asker,
    meant: &str,
    mut nodes: Vec<NodeRow>,
) -> Result<Vec<NodeStatusRow>, AskError> {
    let state = asker.state().await;
    if !meant.is_empty() {
        nodes.retain(|row| row.name == meant || row.id.to_string() == meant);
        if nodes.is_empty() {
            return Err(rows::unknown_node(&state?, meant));
        }
    }
    let members = asker.members();
    let facts = join_all(nodes.iter().map(|row| async {
        // What is gone is not waited for.
        let there = row.last_seen_ms.is_some() && members.iter().any(|m| m.id == row.id);
        if !there {
            return None;
        }
        asker.ask_on(row.id, ReadFacts {}, NODE_TIMEOUT).await.ok()
    }))
    .await;
    let state = state.unwrap_or_default();
    Ok(nodes.into_iter().zip(facts).map(|(row, facts)| of(&state, row, facts)).collect())
}

fn of(state: &StateView, node: NodeRow, facts: Option<NodeFacts>) -> NodeStatusRow {
    let record = state.nodes.iter().find(|record| record.id == node.id);
    let services: BTreeSet<&str> = state
        .placements
        .iter()
        .filter(|place| place.node == node.id)
        .map(|place| place.service.as_str())
        .collect();
    NodeStatusRow {
        labels: record.map_or_else(Vec::new, |r| r.all_labels().map(str::to_owned).collect()),
        draining: record.is_some_and(|record| record.draining),
        services: services.len() as u64,
        format: state.format,
        node,
        facts,
    }
}
