//! Following: the node that applies changes sends them, every other node takes them in order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{oneshot, watch};
use weft_link::{Call, ItemSink, Items};
use weft_protocol::{Proposal, StateUpdate, WatchState};
use weft_supervision::{Scope, Serve};
use weft_wire::{ActorKind, Address, AskError, Backoff, Failure, FailureKind};

use super::Registry;
use crate::state::{ClusterState, SNAPSHOT_VERSION, SnapshotError};
use crate::store::{RegistryError, StateStore};

/// Asks for a snapshot whatever the other side has: nothing can be newer.
const FROM_SCRATCH: u64 = u64::MAX;
/// Changes taken at once, so that catching up costs one sync for many.
const BATCH: usize = 256;
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(3), jitter: 0.3 };

impl Serve<WatchState> for Registry {
    fn serve(&mut self, message: WatchState, sink: ItemSink<WatchState>, scope: &Scope<Self>) {
        if !self.config.applies() {
            let failure = Failure::new(
                FailureKind::Unavailable,
                format!("{} does not apply changes: follow {}", self.name(), self.leader_name()),
            )
            .node(self.name());
            scope.spawn(sink.fail(AskError::Failed(failure)));
            return;
        }
        let (log, head) = (self.log.clone(), self.head.subscribe());
        let (actor, node) = (scope.clone(), self.name().to_owned());
        scope.spawn(async move {
            if let Err(error) = serve(&log, head, message.since, &sink, &actor).await {
                sink.fail(AskError::Failed(error.failure(&node, "read the changes"))).await;
            }
        });
    }
}

/// Ends well when the follower is gone.
async fn serve(
    log: &StateStore,
    mut head: watch::Receiver<u64>,
    mut sent: u64,
    sink: &ItemSink<WatchState>,
    actor: &Scope<Registry>,
) -> Result<(), RegistryError> {
    loop {
        let newest = *head.borrow_and_update();
        while sent != newest {
            let entries = if sent < newest { log.after(sent, 100).await? } else { Vec::new() };
            // Ahead of us, or so far behind that the log is cut: everything anew.
            if entries.first().is_none_or(|(index, _)| *index != sent.saturating_add(1)) {
                let Some((index, bytes)) = snapshot(actor).await? else { return Ok(()) };
                let update = StateUpdate::Snapshot { index, version: SNAPSHOT_VERSION, bytes };
                if sink.send(update).await.is_err() {
                    return Ok(());
                }
                sent = index;
                break;
            }
            for (index, proposal) in entries {
                let update = StateUpdate::Entry { index, proposal: Box::new(proposal) };
                if sink.send(update).await.is_err() {
                    return Ok(());
                }
                sent = index;
            }
            if sent > newest {
                break;
            }
        }
        tokio::select! {
            () = sink.closed() => return Ok(()),
            // With the sender gone so is the actor.
            changed = head.wait_for(|newest| *newest > sent) => if changed.is_err() {
                return Ok(());
            }
        }
    }
}

/// What is durable, as bytes; `None`: the actor is gone.
async fn snapshot(actor: &Scope<Registry>) -> Result<Option<(u64, Vec<u8>)>, SnapshotError> {
    let (sender, receiver) = oneshot::channel::<ClusterState>();
    actor.post(move |registry, _| {
        let _ = sender.send(registry.committed.clone());
    });
    match receiver.await {
        Ok(state) => Ok(Some((state.index(), state.snapshot()?))),
        Err(_) => Ok(None),
    }
}

/// Follows until the incarnation ends.
pub(super) fn start(scope: &Scope<Registry>, head: watch::Receiver<u64>) {
    let actor = scope.clone();
    scope.spawn(async move {
        let mut scratch = false;
        let mut attempt = 0;
        let mut silent = false;
        loop {
            let since = if scratch { FROM_SCRATCH } else { *head.borrow() };
            let to = Address::leader(ActorKind::Registry);
            let call = Call::within(SUBSCRIBE_WITHIN);
            let end = match actor.fabric().subscribe(to, WatchState { since }, call).await {
                Ok(mut items) => {
                    let end = take(&mut items, &actor, &mut scratch, &mut attempt).await;
                    if attempt == 0 {
                        silent = false;
                    }
                    end
                }
                Err(error) => error.to_string(),
            };
            if std::mem::replace(&mut silent, true) {
                tracing::debug!(reason = end, "still not following the cluster's changes");
            } else {
                tracing::info!(reason = end, "not following the cluster's changes; trying again");
            }
            let random = f64::from(uuid::Uuid::new_v4().as_u128() as u16) / 65_536.0;
            tokio::time::sleep(RETRY.delay(attempt, random)).await;
            attempt = attempt.saturating_add(1).min(16);
        }
    });
}

/// Takes what comes until the stream ends; why it did.
async fn take(
    items: &mut Items<StateUpdate>,
    actor: &Scope<Registry>,
    scratch: &mut bool,
    attempt: &mut u32,
) -> String {
    let mut waiting = None;
    loop {
        let first = match waiting.take() {
            Some(update) => update,
            None => match items.next().await {
                Some(Ok(update)) => update,
                Some(Err(error)) => return error.to_string(),
                None => return "the other side ended the stream".to_owned(),
            },
        };
        let mut ended = None;
        let outcome = match first {
            StateUpdate::Snapshot { version, bytes, .. } => {
                let (done, answer) = oneshot::channel();
                actor.post(move |registry, scope| {
                    let then = Box::new(move |_: &mut Registry, answer, _: &Scope<Registry>| {
                        let _ = done.send(answer);
                    });
                    registry.replace(version, bytes, then, scope);
                });
                answer.await
            }
            StateUpdate::Entry { index, proposal } => {
                let mut batch = vec![(index, *proposal)];
                while batch.len() < BATCH {
                    match items.next().now_or_never() {
                        Some(Some(Ok(StateUpdate::Entry { index, proposal }))) => {
                            batch.push((index, *proposal));
                        }
                        Some(Some(Ok(other))) => {
                            waiting = Some(other);
                            break;
                        }
                        Some(Some(Err(error))) => {
                            ended = Some(error.to_string());
                            break;
                        }
                        Some(None) => {
                            ended = Some("the other side ended the stream".to_owned());
                            break;
                        }
                        None => break,
                    }
                }
                let (done, answer) = oneshot::channel();
                actor.post(move |registry, scope| registry.accept(batch, done, scope));
                answer.await
            }
        };
        match outcome {
            Ok(Ok(_)) => {
                *scratch = false;
                *attempt = 0;
            }
            Ok(Err(failure)) => {
                // A gap, or a change that does not fit what is here: never guess. Storage that
                // gave out is tried again as it is.
                *scratch = failure.kind == FailureKind::Conflict;
                return failure.to_string();
            }
            Err(_) => return "this registry is being replaced".to_owned(),
        }
        if let Some(reason) = ended {
            return reason;
        }
    }
}

impl Registry {
    /// Takes the next changes, exactly as the node that applies them did.
    pub(super) fn accept(
        &mut self,
        batch: Vec<(u64, Proposal)>,
        done: oneshot::Sender<Result<weft_protocol::Applied, Failure>>,
        scope: &Scope<Self>,
    ) {
        let mut last = None;
        for (index, proposal) in batch {
            if index <= self.tip.index() {
                continue;
            }
            match self.tip.apply(&proposal, index) {
                Ok((applied, _)) if applied.index == index => {
                    self.queue.push((index, Arc::new(proposal)));
                    last = Some(applied);
                }
                other => {
                    let cause = match other {
                        Ok(_) => "it repeats an earlier request".to_owned(),
                        Err(failure) => failure.to_string(),
                    };
                    // What came before it is kept; the rest comes as a snapshot.
                    self.flush(scope);
                    let failure = Failure::new(
                        FailureKind::Conflict,
                        format!("change {index} does not fit what {} has", self.name()),
                    );
                    let _ = done.send(Err(failure.node(self.name()).cause(cause)));
                    return;
                }
            }
        }
        let Some(applied) = last else {
            let index = self.tip.index();
            let _ = done.send(Ok(weft_protocol::Applied { index, revision: 0, changed: false }));
            return;
        };
        let then = Box::new(move |_: &mut Self, answer, _: &Scope<Self>| {
            let _ = done.send(answer);
        });
        self.waiting.entry(applied.index).or_default().push((applied, then));
        self.flush(scope);
    }
}
