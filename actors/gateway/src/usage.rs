//! What components use, read again and again for whoever looks (`weft stats`, `weft top`).

use std::time::Duration;

use weft_link::ItemSink;
use weft_protocol::{
    ClusterUsage, EventFilter, ListComponents, NodeReply, Overview, PsReply, QueryEvents, ReadHost,
    ReadUsage, UsageRow, UsageView,
};
use weft_wire::AskError;

use crate::around::Asker;
use crate::{actor, rows};

/// The least time between two readings.
const LEAST: Duration = Duration::from_millis(250);
/// Before the second, so that there are rates soon.
const FIRST: Duration = Duration::from_millis(500);
/// Events in an overview.
const EVENTS: u32 = 20;

/// Serves `ClusterUsage`.
///
/// # Errors
/// The target is not there.
pub(crate) async fn usage(
    asker: Asker,
    message: ClusterUsage,
    sink: &ItemSink<ClusterUsage>,
) -> Result<(), AskError> {
    if let (Some(target), Ok(state)) = (&message.target, asker.state().await) {
        rows::known(&state, target)?;
    }
    let every = Duration::from_millis(u64::from(message.every_ms)).max(LEAST);
    for round in 1u32.. {
        let began = asker.now();
        let view = read(&asker, &message).await;
        if sink.send(view).await.is_err() || round == message.rounds {
            return Ok(());
        }
        let wait = if round == 1 { every.min(FIRST) } else { every };
        let passed = asker.now().saturating_duration_since(began);
        tokio::time::sleep(wait.saturating_sub(passed).max(LEAST / 5)).await;
    }
    Ok(())
}

async fn read(asker: &Asker, message: &ClusterUsage) -> UsageView {
    let overview = async { if message.overview { Some(overview(asker).await) } else { None } };
    let asked = asker.ask_all(ReadUsage { target: message.target.clone() });
    let (answers, overview) = tokio::join!(asked, overview);
    let mut rows = Vec::new();
    let mut nodes = Vec::new();
    for (member, answer) in answers {
        let error = match answer {
            Ok(list) => {
                let row = |usage| UsageRow { node: member.name.clone(), usage };
                rows.extend(list.into_iter().map(row));
                String::new()
            }
            Err(error) => error.to_string(),
        };
        nodes.push(NodeReply { node: member.name, error });
    }
    rows.sort_by(|a, b| (&a.usage.key, &a.node).cmp(&(&b.usage.key, &b.node)));
    UsageView { rows, nodes, overview }
}

async fn overview(asker: &Asker) -> Overview {
    let filter = EventFilter { limit: EVENTS, ..EventFilter::default() };
    let (nodes, hosts, ps, events) = tokio::join!(
        actor::all_nodes(asker),
        asker.ask_all(ReadHost {}),
        ps(asker),
        asker.ask_all(QueryEvents { filter }),
    );
    let hosts = hosts
        .into_iter()
        .filter_map(|(member, answer)| Some((member.name, answer.ok()?)))
        .collect();
    let events = events.into_iter().filter_map(|(_, answer)| answer.ok()).collect();
    let most = usize::try_from(EVENTS).unwrap_or(usize::MAX);
    Overview { nodes, hosts, ps, events: rows::merge_events(events, most) }
}

/// Weft's own components; what else engines have is not asked for so often.
async fn ps(asker: &Asker) -> PsReply {
    let (state, answers) = tokio::join!(asker.state(), asker.ask_all(ListComponents {}));
    let nowhere = rows::nowhere(asker, state.as_ref()).await;
    rows::ps(state.as_ref(), asker.fabric.name(), &answers, None, &nowhere)
}
