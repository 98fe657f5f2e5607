//! The nodes as this one sees them: agreed state, and whether each answers now.

use std::time::Duration;

use futures_util::future::join_all;
use weft_protocol::{
    AgreementView, HostFigures, NodeRole, NodeRow, NodeState, Ping, ReadHost, ReadReadiness,
    StateView, VERSION,
};
use weft_wire::{AskError, NodeId};

use crate::around::{Asker, Member, NODE_TIMEOUT};
use crate::readiness;
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
    /// It has no room to write; false also when it did not say.
    pub(crate) disk_full: bool,
    /// Why it is not ready, as it says itself; empty also when it did not say.
    pub(crate) unready: String,
}

/// With less than this free, in bytes, a write fails now or at any moment (SQLite and the logs
/// grow by pages, file systems hand out larger pieces).
const DISK_FULL: u64 = 1024 * 1024;
/// How long a node may take to say how its machine is; longer than that it counts as well.
const HOST: Duration = Duration::from_secs(1);

/// Why a node without room is `degraded` (design §9).
pub(crate) const DISK_FULL_REASON: &str =
    "the disk of its data directory is full: changes and events are refused, reads go on";

/// Whether those figures are of a machine whose data directory has no room left. A monitor whose
/// registry could not write for lack of space says 0, whatever the file system does.
pub(crate) const fn is_disk_full(host: &HostFigures) -> bool {
    host.disk_total > 0 && host.disk_free < DISK_FULL
}

/// Asks every node for a sign of life: that a link is up does not say that anybody answers.
pub(crate) async fn signs(asker: &Asker) -> Vec<Sign> {
    let here = asker.fabric.node();
    let gone = asker.gone().await;
    let gone = &gone;
    let mut signs = join_all(asker.members().into_iter().map(|member| async move {
        let known = gone.get(&member.id);
        let alive = async {
            if member.id == here {
                return Ok(None);
            }
            if let Some(why) = known {
                return Err(AskError::Unreachable(format!("its node is {why}")));
            }
            let before = asker.now();
            let answer = asker.ask_on(member.id, Ping {}, NODE_TIMEOUT).await;
            answer.map(|_| Some(asker.now().saturating_duration_since(before)))
        };
        // What its disk is like is this node's to know, whoever asks.
        let own = asker.myself();
        let host = async {
            if known.is_some() { None } else { own.ask_on(member.id, ReadHost {}, HOST).await.ok() }
        };
        let unready = async {
            if known.is_some() {
                return String::new();
            }
            if member.id == here {
                return readiness::reasons(&own).await.join("; ");
            }
            match own.ask_on(member.id, ReadReadiness {}, NODE_TIMEOUT).await {
                Ok(said) => said.reasons.join("; "),
                Err(AskError::Timeout | AskError::Overloaded(_)) => {
                    "it does not say whether it is ready".to_owned()
                }
                // Of an earlier version, or out of reach: the sign of life says more.
                Err(_) => String::new(),
            }
        };
        let (answer, host, unready) = tokio::join!(alive, host, unready);
        Sign {
            member,
            answer,
            silent_for: None,
            version: String::new(),
            in_flight: 0,
            disk_full: host.is_some_and(|host| is_disk_full(&host)),
            unready,
        }
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
    agreement: Option<&AgreementView>,
    signs: &[Sign],
    here: NodeId,
    addresses: impl Fn(NodeId) -> String,
) -> Vec<NodeRow> {
    let mut rows: Vec<NodeRow> =
        signs.iter().map(|sign| row(sign, state, agreement, here, &addresses)).collect();
    // Agreed, but not in the directory yet: it cannot be dialled.
    for record in state.map(|state| state.nodes.as_slice()).unwrap_or_default() {
        if !signs.iter().any(|sign| sign.member.id == record.id) {
            let sign = Sign {
                member: Member { id: record.id, name: record.name.clone() },
                answer: Err(AskError::Unreachable("its address is not known here yet".into())),
                silent_for: None,
                version: String::new(),
                in_flight: 0,
                disk_full: false,
                unready: String::new(),
            };
            rows.push(row(&sign, state, agreement, here, &addresses));
        }
    }
    rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    rows
}

fn row(
    sign: &Sign,
    state: Result<&StateView, &AskError>,
    agreement: Option<&AgreementView>,
    here: NodeId,
    addresses: &impl Fn(NodeId) -> String,
) -> NodeRow {
    let id = sign.member.id;
    let record = state.ok().and_then(|state| state.nodes.iter().find(|node| node.id == id));
    let (node_state, mut reason) = match &sign.answer {
        Ok(_) if sign.disk_full => (NodeState::Degraded, DISK_FULL_REASON.to_owned()),
        Ok(_) if !sign.unready.is_empty() => (NodeState::Degraded, sign.unready.clone()),
        Ok(_) => (NodeState::Ready, String::new()),
        // A link that is up while nothing comes back is a doubt, not a verdict.
        Err(error @ (AskError::Timeout | AskError::Overloaded(_))) => {
            (NodeState::Suspect, error.to_string())
        }
        Err(error @ AskError::Unreachable(_)) => (NodeState::Lost, error.to_string()),
        Err(error) => (NodeState::Degraded, error.to_string()),
    };
    let member = agreement.and_then(|agreement| agreement.member(id));
    let mut node_state = node_state;
    if let Some(member) = member {
        match (node_state, member.state) {
            // It answers, whatever membership has not heard yet.
            (NodeState::Ready, NodeState::Draining) => node_state = NodeState::Draining,
            // It does not answer: membership knows better in what way.
            (
                NodeState::Suspect | NodeState::Lost,
                known @ (NodeState::DaemonDown | NodeState::Lost | NodeState::Left),
            ) => node_state = known,
            // Out of reach from here only: who is lost, membership alone says (design §6).
            (NodeState::Lost, NodeState::Ready | NodeState::Draining | NodeState::Suspect) => {
                node_state = NodeState::Suspect;
            }
            _ => {}
        }
    }
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
        role: member.map_or(NodeRole::Learner, |member| member.role),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::{node_id, state};

    fn sign(n: u32, disk_full: bool) -> Sign {
        Sign {
            member: Member { id: node_id(n), name: format!("n{n}") },
            answer: Ok(None),
            silent_for: Some(Duration::ZERO),
            version: String::new(),
            in_flight: 0,
            disk_full,
            unready: String::new(),
        }
    }

    #[test]
    fn a_node_without_room_to_write_is_degraded_and_says_why() {
        let state = state();
        let signs = [sign(1, false), sign(2, true), sign(3, false)];
        let rows = rows(Ok(&state), None, &signs, node_id(1), |_| String::new());
        let states: Vec<_> = rows.iter().map(|row| row.state).collect();
        assert_eq!(states, [NodeState::Ready, NodeState::Degraded, NodeState::Ready]);
        assert!(rows.iter().any(|row| row.reason.contains("full")), "{rows:?}");
    }

    #[test]
    fn a_node_that_says_it_is_not_ready_is_degraded_and_says_why() {
        let state = state();
        let unready = Sign { unready: "stopping web/1/api".into(), ..sign(2, false) };
        let rows =
            rows(Ok(&state), None, &[sign(1, false), unready], node_id(1), |_| String::new());
        let row = rows.iter().find(|row| row.id == node_id(2)).expect("its row");
        assert_eq!((row.state, row.reason.as_str()), (NodeState::Degraded, "stopping web/1/api"));
    }

    #[test]
    fn a_disk_counts_as_full_below_a_mebibyte_and_never_when_it_is_not_known() {
        let host =
            |disk_total, disk_free| HostFigures { disk_total, disk_free, ..HostFigures::default() };
        assert!(is_disk_full(&host(1 << 30, 0)));
        assert!(is_disk_full(&host(1 << 30, DISK_FULL - 1)));
        assert!(!is_disk_full(&host(1 << 30, DISK_FULL)));
        assert!(!is_disk_full(&host(0, 0)));
    }
}
