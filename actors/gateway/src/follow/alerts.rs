//! Alerts of all nodes: what is there in the order of time, then, if asked, what comes.

use std::collections::{HashMap, HashSet};

use weft_link::ItemSink;
use weft_protocol::{Alert, AlertFilter, AlertItem, ClusterAlerts, FollowAlerts, QueryAlerts};
use weft_wire::{NodeId, WallTime};

use super::{Brought, Closed, EVENTS, EVENTS_MOST, Feed, OVERLAP, Shown, reply};
use crate::around::{Asker, Member};

/// Told apart from the same alert before its command has ended.
const ENDED: u128 = 1 << 127;

/// In the order of time, the newest `limit`.
pub(crate) fn merge(lists: Vec<Vec<Alert>>, limit: usize) -> Vec<Alert> {
    let mut all: Vec<Alert> = lists.into_iter().flatten().collect();
    all.sort_by(|a, b| (a.time, &a.node, a.id).cmp(&(b.time, &b.node, b.id)));
    let surplus = all.len().saturating_sub(limit);
    all.drain(..surplus);
    all
}

/// Whether it has not been shown as it is now.
fn is_new(shown: &mut Shown, alert: &Alert) -> bool {
    let state = if alert.run.is_some() { ENDED } else { 0 };
    shown.is_new(uuid::Uuid::from_u128(alert.id.as_u128() ^ state))
}

/// Serves `ClusterAlerts`.
pub(crate) async fn alerts(
    asker: Asker,
    message: ClusterAlerts,
    sink: &ItemSink<ClusterAlerts>,
) -> Result<(), Closed> {
    let limit = match message.filter.limit {
        0 => EVENTS,
        limit => limit.min(EVENTS_MOST),
    };
    let filter = AlertFilter { limit, ..message.filter };
    let mut shown = Shown::default();
    let mut newest: HashMap<NodeId, WallTime> = HashMap::new();
    let mut lists = Vec::new();
    let mut silent: Vec<Member> = Vec::new();
    for (member, answer) in asker.ask_all(QueryAlerts { filter: filter.clone() }).await {
        match answer {
            Ok(list) => {
                if let Some(last) = list.iter().map(|alert| alert.time).max() {
                    newest.insert(member.id, last);
                }
                for alert in &list {
                    is_new(&mut shown, alert);
                }
                lists.push(list);
            }
            Err(error) => {
                sink.send(AlertItem::Missing(reply(&member, &error))).await?;
                silent.push(member);
            }
        }
    }
    for alert in merge(lists, usize::try_from(limit).unwrap_or(usize::MAX)) {
        sink.send(AlertItem::Alert(Box::new(alert))).await?;
    }
    if !message.follow {
        return Ok(());
    }
    let mut silent: HashSet<NodeId> = silent.iter().map(|member| member.id).collect();
    let open = move |asker: Asker, member: Member, last: Option<WallTime>| {
        // An older one may still be told of again, when its command ends.
        let known = last.or_else(|| newest.get(&member.id).copied());
        let since = known.map(|known| known.minus(OVERLAP)).max(filter.since);
        let filter = AlertFilter { since, ..filter.clone() };
        async move { asker.subscribe(member.id, FollowAlerts { filter }).await }
    };
    let mut feed = Feed::open(asker, open, |alert: &Alert| alert.time);
    while let Some(from) = feed.next().await {
        match from {
            Brought::Item(member, alert) => {
                silent.remove(&member.id);
                if is_new(&mut shown, &alert) {
                    sink.send(AlertItem::Alert(Box::new(alert))).await?;
                }
            }
            Brought::Silent(member, error) => {
                if silent.insert(member.id) {
                    sink.send(AlertItem::Missing(reply(&member, &error))).await?;
                }
            }
        }
    }
    Ok(())
}
