//! Watches (§11): each is live before its call returns.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::broadcast;
use tonic::Status;
use weft_link::{Call, Items};
use weft_macp::macp::v1 as pb;
use weft_protocol::{CatalogueItem, FollowCatalogue, FollowSessions, SessionEvent};
use weft_wire::Subscription;

use super::convert;
use super::errors::{refused, unanswered};
use super::service::{Shared, Streamed};

/// A subscription is accepted within this.
const WITHIN: Duration = Duration::from_secs(10);

/// Subscribes, and waits for the first item: it says that whatever happens now will come.
async fn first<S: Subscription>(
    shared: &Shared,
    message: S,
) -> Result<(S::Item, Items<S::Item>), Status> {
    let call = Call::within(WITHIN);
    let opened = shared.fabric.subscribe(Shared::owner(), message, call).await;
    let mut items = opened.map_err(|error| unanswered(&error))?;
    match tokio::time::timeout(WITHIN, items.next()).await {
        Ok(Some(Ok(item))) => Ok((item, items)),
        Ok(Some(Err(error))) => Err(unanswered(&error)),
        Ok(None) | Err(_) => Err(unanswered(&weft_wire::AskError::Timeout)),
    }
}

fn lagged() -> Status {
    refused("STREAM_LAGGED", "this watch was too slow and missed something: watch again")
}

pub(crate) async fn sessions(
    shared: &Shared,
) -> Result<Streamed<pb::WatchSessionsResponse>, Status> {
    let (_, items) = first(shared, FollowSessions {}).await?;
    let events = stream::unfold(Some(items), |items| async move {
        let mut items = items?;
        match items.next().await? {
            Ok(SessionEvent::Happened { what, session, at_ms }) => {
                let event = pb::SessionLifecycleEvent {
                    event_type: convert::lifecycle(what),
                    session: Some(convert::metadata(*session)),
                    observed_at_unix_ms: at_ms,
                };
                Some((Some(Ok(pb::WatchSessionsResponse { event: Some(event) })), Some(items)))
            }
            Ok(SessionEvent::Attached) => Some((None, Some(items))),
            Ok(SessionEvent::Lagged) => Some((Some(Err(lagged())), None)),
            Err(error) => Some((Some(Err(unanswered(&error))), None)),
        }
    });
    Ok(Box::pin(events.filter_map(std::future::ready)))
}

pub(crate) fn signals(shared: &Shared) -> Streamed<pb::WatchSignalsResponse> {
    let signals = stream::unfold(Some(shared.signals.subscribe()), |signals| async move {
        let mut signals = signals?;
        match signals.recv().await {
            Ok((envelope, sender_authenticated)) => {
                let said =
                    pb::WatchSignalsResponse { envelope: Some(envelope), sender_authenticated };
                Some((Ok(said), Some(signals)))
            }
            Err(broadcast::error::RecvError::Lagged(_)) => Some((Err(lagged()), None)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    });
    Box::pin(signals)
}

pub(crate) fn roots(shared: &Shared) -> Streamed<pb::WatchRootsResponse> {
    let change = Some(pb::RootsChanged { observed_at_unix_ms: shared.now_ms() });
    let first = stream::iter([Ok(pb::WatchRootsResponse { change })]);
    Box::pin(first.chain(stream::pending()))
}

/// Changes of the catalogue, from what it is now: each item, and the one before it.
async fn catalogue(shared: &Shared) -> Result<Streamed<(CatalogueItem, CatalogueItem)>, Status> {
    let (now, items) = first(shared, FollowCatalogue {}).await?;
    let later = stream::unfold((now.clone(), items), |(before, mut items)| async move {
        match items.next().await? {
            Ok(item) => Some((Ok((before, item.clone())), (item, items))),
            // The reference, too, ends these without an error.
            Err(_) => None,
        }
    });
    let none = CatalogueItem { modes: 0, policies: 0, all: Vec::new() };
    Ok(Box::pin(stream::iter([Ok((none, now))]).chain(later)))
}

pub(crate) async fn modes(
    shared: Arc<Shared>,
) -> Result<Streamed<pb::WatchModeRegistryResponse>, Status> {
    let changes = catalogue(&shared).await?.enumerate().flat_map(move |(at, item)| {
        // Each change is told, also when several came at once.
        let count = match &item {
            Ok(_) if at == 0 => 1,
            Ok((before, now)) => now.modes.saturating_sub(before.modes),
            Err(_) => 0,
        };
        let observed_at_unix_ms = shared.now_ms();
        stream::iter((0..count).map(move |_| {
            let registry = "modes".to_owned();
            let change = Some(pb::RegistryChanged { registry, observed_at_unix_ms });
            Ok(pb::WatchModeRegistryResponse { change })
        }))
    });
    Ok(Box::pin(changes))
}

pub(crate) async fn policies(
    shared: Arc<Shared>,
) -> Result<Streamed<pb::WatchPoliciesResponse>, Status> {
    let changes = catalogue(&shared).await?.enumerate().filter_map(move |(at, item)| {
        let said = item.ok().filter(|(before, now)| at == 0 || before.policies != now.policies);
        let observed_at_unix_ms = shared.now_ms();
        std::future::ready(said.map(|(_, now)| {
            let descriptors = now.all.into_iter().map(convert::policy_descriptor).collect();
            Ok(pb::WatchPoliciesResponse { descriptors, observed_at_unix_ms })
        }))
    });
    Ok(Box::pin(changes))
}
