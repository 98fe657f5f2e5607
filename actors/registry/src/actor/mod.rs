//! The registry as an actor.
//!
//! On the node that applies changes a proposal is applied to `tip`, written in a batch with
//! whatever else waits (one sync each), then applied to `committed`, published and answered.
//! Readers see `committed` only, so memory is never ahead of the disk; a write that fails throws
//! `tip` away. Every other node gets the same entries in the same order and does the same.

mod follow;
mod history;
mod membership;
mod propose;
mod publish;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use weft_protocol::{
    Applied, FollowEvents, IssueToken, JoinCluster, Proposal, Propose, QueryAudit, QueryEvents,
    ReadState, RecordAudit, RecordEvents, RenewLeaf, ReportNode, WatchState,
};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
use weft_wire::{Caller, ClusterId, Failure, RequestId};

use crate::config::RegistryConfig;
use crate::state::{Aging, ClusterState};
use crate::store::{LocalStore, StateStore};

/// What is done once a proposal is durable, or refused.
type Then = Box<dyn FnOnce(&mut Registry, Result<Applied, Failure>, &Scope<Registry>) + Send>;

/// Desired state of the cluster; events and audit of this node.
pub struct Registry {
    config: RegistryConfig,
    cluster: ClusterId,
    log: StateStore,
    local: LocalStore,
    /// What is durable; what readers see.
    committed: ClusterState,
    /// `committed` and everything on its way to the disk.
    tip: ClusterState,
    /// Applied to `tip`, not given to the writer yet.
    queue: Vec<(u64, Arc<Proposal>)>,
    /// Answers that wait for a position to be durable.
    waiting: BTreeMap<u64, Vec<(Applied, Then)>>,
    /// Whether a batch is being written; stopping waits for its end.
    writing: watch::Sender<bool>,
    /// Position of the last durable change; what followers of state wait for.
    head: watch::Sender<u64>,
    /// Newest event; what followers of events wait for.
    newest_event: watch::Sender<i64>,
    /// Position of the last stored snapshot.
    checkpoint: u64,
    /// Last position the runtime has acknowledged; a send is on its way.
    assigned: u64,
    assigning: bool,
    /// Position of the list that the runtime refused last, and that is still what is agreed.
    refused: Option<u64>,
    /// How far wall time is believed when old rows are deleted.
    aging: Aging,
    /// A report of this node is on its way.
    reporting: bool,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("config", &self.config)
            .field("committed", &self.committed.index())
            .field("tip", &self.tip.index())
            .finish_non_exhaustive()
    }
}

/// Makes a registry from what is durable; on the first start of the first node, from its seed.
///
/// # Errors
/// [`ActorError`]: a database that cannot be opened or used, or a seed that does not fit.
pub async fn factory(
    config: RegistryConfig,
    incarnation: Incarnation,
) -> Result<Registry, ActorError> {
    let cluster: ClusterId = config.seed.cluster.parse().map_err(ActorError::new)?;
    if config.applies() && config.issuer.is_none() {
        return Err(format!(
            "{} applies the cluster's changes, but its issuing CA was not loaded: see its identity directory",
            config.seed.name
        )
        .into());
    }
    let log =
        StateStore::open(&config.data_dir, &config.seed.cluster).await.map_err(ActorError::new)?;
    let local = LocalStore::open(&config.data_dir).await.map_err(ActorError::new)?;
    let (mut state, checkpoint) = log.load().await.map_err(ActorError::new)?;
    let trusted = local.trusted_time().await.map_err(ActorError::new)?;
    let aging = Aging::new(trusted, incarnation.clock.now(), incarnation.clock.wall());
    if state.is_empty()
        && let Some(command) = &config.seed.bootstrap
    {
        let proposal = Proposal {
            // The same in every incarnation, should this one die half-way.
            request: RequestId::new(config.seed.node.uuid()),
            at: incarnation.clock.wall(),
            caller: Caller::node(config.seed.node),
            command: command.clone(),
        };
        state.apply(&proposal, 1).map_err(ActorError::new)?;
        log.append(&[(1, Arc::new(proposal))], None).await.map_err(ActorError::new)?;
    }
    Ok(Registry {
        cluster,
        log,
        local,
        tip: state.clone(),
        queue: Vec::new(),
        waiting: BTreeMap::new(),
        writing: watch::Sender::new(false),
        head: watch::Sender::new(state.index()),
        newest_event: watch::Sender::new(0),
        checkpoint,
        assigned: 0,
        assigning: false,
        refused: None,
        aging,
        reporting: false,
        committed: state,
        config,
    })
}

impl Actor for Registry {
    fn routes(routes: &mut Routes<Self>) {
        routes
            .ask::<Propose>()
            .ask::<ReadState>()
            .subscription::<WatchState>()
            .ask::<IssueToken>()
            .ask::<JoinCluster>()
            .ask::<RenewLeaf>()
            .ask::<ReportNode>()
            .ask::<RecordEvents>()
            .ask::<QueryEvents>()
            .subscription::<FollowEvents>()
            .ask::<RecordAudit>()
            .ask::<QueryAudit>();
    }

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        self.publish_all(scope).map_err(ActorError::new)?;
        self.assign(scope);
        self.report(scope);
        self.prune(scope);
        if !self.config.applies() {
            follow::start(scope, self.head.subscribe());
        }
        let mut tick = 0u64;
        scope.every(Duration::from_secs(1), move |registry, scope| {
            tick = tick.wrapping_add(1);
            registry.tick(tick, scope);
        });
        scope.every(Duration::from_secs(3600), |registry, scope| registry.prune(scope));
        Ok(())
    }

    fn stopping(&mut self, _scope: &Scope<Self>) -> BoxFuture<'static, ()> {
        let mut writing = self.writing.subscribe();
        let (log, local) = (self.log.clone(), self.local.clone());
        async move {
            let _ = writing.wait_for(|writing| !writing).await;
            log.database().close().await;
            local.database().close().await;
        }
        .boxed()
    }
}

impl Registry {
    /// Safety nets: the runtime may have been made anew, an address may have changed.
    fn tick(&mut self, tick: u64, scope: &Scope<Self>) {
        if self.assigned < self.committed.index() || tick.is_multiple_of(5) {
            self.assign(scope);
        }
        self.report(scope);
    }

    fn name(&self) -> &str {
        &self.config.seed.name
    }
}

impl Handle<ReadState> for Registry {
    fn handle(&mut self, _: ReadState, reply: weft_link::Reply<ReadState>, _: &Scope<Self>) {
        reply.ok(self.committed.view());
    }
}
