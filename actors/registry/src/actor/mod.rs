//! The registry as an actor.
//!
//! Desired state is agreed by consensus and kept in [`Control`](crate::Control), which outlives
//! this actor: here it is published to the rest of the node, and changes find their way to whoever
//! leads. On the node that leads, the [`steward`](crate::steward) sees to voters and places.

mod agreed;
mod alerts;
mod blobs;
mod contact;
mod duties;
mod groups;
mod history;
mod leases;
mod membership;
mod notices;
mod operations;
mod propose;
mod publish;
mod removal;
mod route;
mod sightings;
#[cfg(test)]
mod tests;
mod watched;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use weft_protocol::{
    Applied, FollowAlerts, FollowEvents, History, IssueToken, JoinCluster, LetGo, NeedGroup,
    PlanPlacement, Propose, QueryAlerts, QueryAudit, QueryEvents, ReadAgreement, ReadBlobRefs,
    ReadHead, ReadHistory, ReadState, RecordAlerts, RecordAudit, RecordEvents, RenewLeaf,
    RenewLeases, ReportNode,
};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
use weft_wire::{ClusterId, Failure};

use crate::config::{Agreement, RegistryConfig};
use crate::state::{Aging, ClusterState};
use crate::store::LocalStore;

/// Between looks at what the node that leads has to see to; changes are seen at once.
const TICK: Duration = Duration::from_millis(100);
/// Ticks in a second.
const EVERY_SECOND: u64 = 10;

/// What is done once a proposal is durable, or refused.
type Then = Box<dyn FnOnce(&mut Registry, Result<Applied, Failure>, &Scope<Registry>) + Send>;

/// Desired state of the cluster; events and audit of this node.
pub struct Registry {
    config: RegistryConfig,
    agreement: Agreement,
    cluster: ClusterId,
    local: LocalStore,
    /// Newest event; what followers of events wait for.
    newest_event: watch::Sender<i64>,
    /// The same of alerts.
    newest_alert: watch::Sender<i64>,
    /// Last position the runtime has acknowledged; a send is on its way.
    assigned: u64,
    assigning: bool,
    /// Position of the list that the runtime refused last, and that is still what is agreed.
    refused: Option<u64>,
    /// The issuers that the links were told to trust last, as agreed and as read.
    trusted: Option<(Vec<String>, weft_identity::TrustBundle)>,
    /// Position of agreed state that the rest of the node was told last.
    published: u64,
    /// How far wall time is believed when old rows are deleted.
    aging: Aging,
    /// Whether what is agreed here is known to be new enough to act by.
    contact: contact::Contact,
    /// A report of this node is on its way.
    reporting: bool,
    /// When it last stood for election because the leader was gone.
    stood: Option<std::time::Instant>,
    /// What the node that leads sees to.
    duties: duties::Duties,
    /// What it sees to in the other groups, and what in those that it leads.
    groups: groups::Groups,
    /// Held while members of `control` are changed, by the leader's own steps or by a removal.
    members: std::sync::Arc<tokio::sync::Mutex<()>>,
    /// Requests for leases on their way.
    renewals: leases::Renewals,
    /// Events that are not of components.
    notices: notices::Notices,
    /// What the node that leads sees of operations.
    work: operations::Work,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("config", &self.config)
            .field("agreement", &self.agreement)
            .finish_non_exhaustive()
    }
}

/// Makes a registry.
///
/// # Errors
/// [`ActorError`]: a database that cannot be opened or used.
pub async fn factory(
    config: RegistryConfig,
    agreement: Agreement,
    incarnation: Incarnation,
) -> Result<Registry, ActorError> {
    let cluster: ClusterId = config.seed.cluster.parse().map_err(ActorError::new)?;
    let local = LocalStore::open(&config.data_dir).await.map_err(ActorError::new)?;
    let trusted = local.trusted_time().await.map_err(ActorError::new)?;
    let aging = Aging::new(trusted, incarnation.clock.now(), incarnation.clock.wall());
    Ok(Registry {
        cluster,
        local,
        agreement,
        newest_event: watch::Sender::new(0),
        newest_alert: watch::Sender::new(0),
        assigned: 0,
        assigning: false,
        refused: None,
        trusted: None,
        published: 0,
        contact: contact::Contact::default(),
        aging,
        reporting: false,
        stood: None,
        duties: duties::Duties::default(),
        groups: groups::Groups::default(),
        members: std::sync::Arc::default(),
        renewals: leases::Renewals::default(),
        notices: notices::Notices::default(),
        work: operations::Work::default(),
        config,
    })
}

impl Actor for Registry {
    fn routes(routes: &mut Routes<Self>) {
        routes
            .ask::<Propose>()
            .ask::<ReadState>()
            .ask::<ReadHead>()
            .ask::<ReadHistory>()
            .ask::<ReadAgreement>()
            .ask::<LetGo>()
            .ask::<PlanPlacement>()
            .ask::<IssueToken>()
            .ask::<JoinCluster>()
            .ask::<RenewLeaf>()
            .ask::<RenewLeases>()
            .ask::<ReportNode>()
            .ask::<NeedGroup>()
            .ask::<RecordEvents>()
            .ask::<QueryEvents>()
            .subscription::<FollowEvents>()
            .ask::<RecordAlerts>()
            .ask::<QueryAlerts>()
            .subscription::<FollowAlerts>()
            .ask::<RecordAudit>()
            .ask::<QueryAudit>()
            .ask::<ReadBlobRefs>();
    }

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        self.publish_all(scope).map_err(ActorError::new)?;
        self.assign(scope);
        self.report(scope);
        self.prune(scope);
        self.follow(scope);
        scope.every(TICK, {
            let mut tick = 0u64;
            move |registry, scope| {
                tick = tick.wrapping_add(1);
                registry.tick(tick, scope);
            }
        });
        scope.every(Duration::from_secs(3600), |registry, scope| registry.prune(scope));
        Ok(())
    }

    fn stopping(&mut self, _scope: &Scope<Self>) -> BoxFuture<'static, ()> {
        let local = self.local.clone();
        async move { local.database().close().await }.boxed()
    }
}

impl Registry {
    /// Is told of every change of desired state, of who leads, and of who is there.
    fn follow(&self, scope: &Scope<Self>) {
        let actor = scope.clone();
        let mut head = self.agreement.control.head();
        let mut group = self.agreement.group.watch();
        let mut members = self.agreement.membership.watch();
        scope.spawn(async move {
            let mut leader = group.borrow_and_update().leader;
            loop {
                tokio::select! {
                    changed = head.changed() => {
                        if changed.is_err() { return }
                        // Once for all that came since.
                        head.borrow_and_update();
                        actor.post(|registry, scope| registry.changed(scope));
                    }
                    changed = group.changed() => {
                        if changed.is_err() { return }
                        let now = group.borrow_and_update().leader;
                        if now != leader {
                            leader = now;
                            actor.post(|registry, scope| registry.changed(scope));
                        }
                    }
                    changed = members.changed() => {
                        if changed.is_err() { return }
                        members.borrow_and_update();
                        actor.post(|registry, scope| registry.members_changed(scope));
                    }
                }
            }
        });
    }

    fn changed(&mut self, scope: &Scope<Self>) {
        self.see_to_contact(scope);
        self.publish(scope);
        self.notice(scope);
        self.see_to_duties(scope);
        self.see_to_groups(scope);
    }

    /// Safety nets: the runtime may have been made anew, an address may have changed.
    fn tick(&mut self, tick: u64, scope: &Scope<Self>) {
        self.see_to_contact(scope);
        if tick.is_multiple_of(EVERY_SECOND) {
            let behind = self.assigned < self.state().index();
            if behind || tick.is_multiple_of(5 * EVERY_SECOND) {
                self.assign(scope);
            }
            self.report(scope);
        }
        self.notice(scope);
        self.see_to_duties(scope);
        self.see_to_groups(scope);
        self.see_to_operations(scope);
    }

    fn name(&self) -> &str {
        &self.config.seed.name
    }

    /// Desired state here and now; to be let go of at once.
    fn state(&self) -> parking_lot::RwLockReadGuard<'_, ClusterState> {
        self.agreement.control.read()
    }

    /// Whether this node leads a cluster, as far as it knows.
    fn leads(&self) -> bool {
        self.elected() && !self.state().is_empty()
    }

    /// Whether this node leads the group, which may hold nothing yet.
    fn elected(&self) -> bool {
        route::elected(&self.agreement.group, self.config.seed.node)
    }
}

impl Handle<ReadHistory> for Registry {
    fn handle(
        &mut self,
        message: ReadHistory,
        reply: weft_link::Reply<ReadHistory>,
        _: &Scope<Self>,
    ) {
        let state = self.state();
        match state.service(&message.service) {
            Some(record) => reply.ok(History {
                in_force: if record.undeployed { 0 } else { record.revision },
                revisions: state.revisions(&message.service).to_vec(),
            }),
            None => reply.fail(state.unknown_service(&message.service)),
        }
    }
}

impl Handle<ReadState> for Registry {
    fn handle(
        &mut self,
        message: ReadState,
        reply: weft_link::Reply<ReadState>,
        scope: &Scope<Self>,
    ) {
        if !message.consistent {
            let view = self.state().view();
            return reply.ok(view);
        }
        let route = self.route(scope);
        if !self.leads() {
            let meta = reply.meta().clone();
            scope.spawn(async move {
                let answer = route.forward(message, &meta).await;
                if let Ok(view) = &answer {
                    // What is asked here next must not know less.
                    route.seen(view.index).await;
                }
                reply.result(answer);
            });
            return;
        }
        let within = reply
            .meta()
            .deadline
            .map_or(route::WITHIN, |end| end.saturating_duration_since(scope.now()));
        scope.spawn(async move {
            match route.group.barrier(within).await {
                Ok(_) => {
                    let view = route.control.read().view();
                    reply.ok(view);
                }
                Err(error) => reply.fail(route.failure(&error)),
            }
        });
    }
}
