//! The gateway's mailbox: every handler hands its question to a future that asks around, and ends
//! with whoever asked.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_link::{ItemSink, Meta, Reply};
use weft_protocol::{
    ActorTree, AdoptService, AlertFilter, AttachInfo, ClusterActors, ClusterActorsReply,
    ClusterAlerts, ClusterEvents, ClusterExec, ClusterLogs, ClusterNodeStatus, ClusterNodes,
    ClusterOperations, ClusterPs, ClusterStatus, ClusterUsage, Command, CommandRef, DeployService,
    DescribeNode, EventFilter, FindBlobs, LifecycleRequest, ListComponents, ListServices,
    NodeReply, NodeRow, PlanItem, PlanService, Propose, PsReply, PullFile, PurgeService, PushFile,
    QueryAlerts, QueryEvents, ReadDrift, ReadFacts, ReadHistory, ReadHost, ReadOddities,
    ReadReadiness, Readiness, RecoverNodes, RelaySignal, RemoveNode, ServiceHistory, ServiceRow,
    StatusReply, VERSION,
};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope, Serve};
use weft_wire::{AskError, Identity, Message, NodeId};

use crate::around::{Asker, Memory, NODE_TIMEOUT};
use crate::http::{Alive, HttpFace};
use crate::macp::MacpFace;
use crate::operate::Operation;
use crate::{
    adopt, check, exec, facts, follow, nodes, operate, operations, plan, purge, readiness, recover,
    rows, ship, transfer, usage,
};

/// How many events `status` shows.
const STATUS_EVENTS: u32 = 20;
/// And how many alerts, how old.
const STATUS_ALERTS: u32 = 20;
const STATUS_ALERTS_WITHIN: Duration = Duration::from_secs(3600);
/// How long taking a node out may take to be agreed: half of it for groups where its vote is to be
/// handed on first.
const REMOVE: Duration = Duration::from_secs(30);

/// What the gateway needs to know.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The cluster's id.
    pub cluster: String,
    /// This node's name.
    pub node_name: String,
    /// This node.
    pub node: NodeId,
    /// Where the fabric listens, as others reach it; `None`: taken from agreed state.
    pub fabric: Option<SocketAddr>,
    /// The listener, bound by the node so that it outlives the actor.
    pub http: HttpFace,
    /// The same for sessions over gRPC; `None`: none are served here.
    pub macp: Option<MacpFace>,
}

/// The actor.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<GatewayConfig>,
    asker: Asker,
    operations: Arc<AtomicU64>,
    /// The HTTP face answers 503 once this is gone.
    _alive: Arc<Alive>,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").field("fabric", &self.fabric).finish_non_exhaustive()
    }
}

/// Makes an incarnation; the first one starts the HTTP face.
pub fn factory(
    config: GatewayConfig,
) -> impl Fn(Incarnation) -> std::future::Ready<Result<Gateway, ActorError>> + Send + Sync + 'static
{
    let config = Arc::new(config);
    let memory = Arc::new(Memory::default());
    move |incarnation: Incarnation| {
        let (fabric, clock) = (incarnation.fabric.clone(), incarnation.clock.clone());
        let asker = Asker::own(incarnation.fabric, incarnation.clock, memory.clone());
        let alive = Arc::new(Alive);
        let counted = config.macp.as_ref().map(MacpFace::counted);
        let opened = config.http.open(&alive, asker.clone(), counted).map_err(|error| {
            ActorError::new(format!("cannot serve HTTP on {}: {error}", config.http.address()))
        });
        let opened = opened.and_then(|()| match &config.macp {
            Some(face) => face.serve(fabric, clock).map_err(|error| {
                ActorError::new(format!("cannot serve gRPC on {}: {error}", face.address()))
            }),
            None => Ok(()),
        });
        std::future::ready(opened.map(|()| Gateway {
            operations: config.http.operations().clone(),
            config: config.clone(),
            asker,
            _alive: alive,
        }))
    }
}

impl Actor for Gateway {
    fn routes(routes: &mut Routes<Self>) {
        routes
            .ask::<ClusterPs>()
            .ask::<ClusterStatus>()
            .ask::<ClusterNodes>()
            .ask::<ClusterActors>()
            .ask::<ClusterOperations>()
            .ask::<ServiceHistory>()
            .ask::<PlanService>()
            .ask::<ListServices>()
            .ask::<RemoveNode>()
            .ask::<AdoptService>()
            .ask::<RecoverNodes>()
            .ask::<PurgeService>()
            .ask::<ReadFacts>()
            .ask::<ClusterNodeStatus>()
            .ask::<DescribeNode>()
            .ask::<ReadReadiness>()
            .ask::<PushFile>()
            .ask::<PullFile>()
            .ask::<FindBlobs>()
            .ask::<RelaySignal>()
            .subscription::<ClusterEvents>()
            .subscription::<ClusterAlerts>()
            .subscription::<ClusterLogs>()
            .subscription::<DeployService>()
            .subscription::<LifecycleRequest>()
            .subscription::<ClusterExec>()
            .subscription::<ClusterUsage>();
    }
}

/// Counts a request for as long as it is worked on.
struct Working(Arc<AtomicU64>);

impl Working {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gateway {
    fn asker(&self, meta: &Meta) -> Asker {
        self.asker.on_behalf(meta)
    }

    /// Answers with what `work` gives.
    fn answer<M, F>(&self, reply: Reply<M>, scope: &Scope<Self>, work: impl FnOnce(Asker) -> F)
    where
        M: Message,
        F: Future<Output = Result<M::Reply, AskError>> + Send + 'static,
    {
        let work = work(self.asker(reply.meta()));
        let working = Working::new(&self.operations);
        scope.spawn(async move {
            let answer = work.await;
            drop(working);
            reply.result(answer);
        });
    }
}

impl Handle<ClusterPs> for Gateway {
    fn handle(&mut self, message: ClusterPs, reply: Reply<ClusterPs>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { ps(&asker, message.target.as_ref()).await });
    }
}

impl Handle<ClusterStatus> for Gateway {
    fn handle(&mut self, message: ClusterStatus, reply: Reply<ClusterStatus>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { status(&asker, message.service).await });
    }
}

impl Handle<ClusterNodes> for Gateway {
    fn handle(&mut self, _: ClusterNodes, reply: Reply<ClusterNodes>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { Ok(all_nodes(&asker).await) });
    }
}

impl Handle<ClusterActors> for Gateway {
    fn handle(&mut self, _: ClusterActors, reply: Reply<ClusterActors>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { Ok(actors(&asker).await) });
    }
}

impl Handle<ClusterOperations> for Gateway {
    fn handle(
        &mut self,
        message: ClusterOperations,
        reply: Reply<ClusterOperations>,
        scope: &Scope<Self>,
    ) {
        self.answer(
            reply,
            scope,
            |asker| async move { operations::list(&asker, message.id).await },
        );
    }
}

impl Handle<ServiceHistory> for Gateway {
    fn handle(
        &mut self,
        message: ServiceHistory,
        reply: Reply<ServiceHistory>,
        scope: &Scope<Self>,
    ) {
        let question = ReadHistory { service: message.service };
        self.answer(reply, scope, |asker| async move { asker.ask(question, NODE_TIMEOUT).await });
    }
}

impl Handle<PlanService> for Gateway {
    fn handle(&mut self, message: PlanService, reply: Reply<PlanService>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { plan_service(&asker, message).await });
    }
}

impl Handle<ListServices> for Gateway {
    fn handle(&mut self, _: ListServices, reply: Reply<ListServices>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move {
            let state = asker.state().await?;
            let list: Vec<ServiceRow> =
                rows::services(&state, |node, key| asker.memory.heard(node, key));
            Ok(list)
        });
    }
}

impl Handle<AdoptService> for Gateway {
    fn handle(&mut self, message: AdoptService, reply: Reply<AdoptService>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { adopt::adopt(&asker, message).await });
    }
}

impl Handle<RemoveNode> for Gateway {
    fn handle(&mut self, message: RemoveNode, reply: Reply<RemoveNode>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { remove_node(&asker, message).await });
    }
}

impl Handle<RecoverNodes> for Gateway {
    fn handle(&mut self, message: RecoverNodes, reply: Reply<RecoverNodes>, scope: &Scope<Self>) {
        let work = |asker: Asker| async move { recover::recover(&asker, message).await };
        self.answer(reply, scope, work);
    }
}

impl Handle<PurgeService> for Gateway {
    fn handle(
        &mut self,
        message: PurgeService,
        mut reply: Reply<PurgeService>,
        scope: &Scope<Self>,
    ) {
        reply.about(&message.service);
        self.answer(reply, scope, |asker| async move { purge::purge(&asker, message).await });
    }
}

impl Handle<ReadFacts> for Gateway {
    fn handle(&mut self, _: ReadFacts, reply: Reply<ReadFacts>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move { Ok(facts::own(&asker).await) });
    }
}

impl Handle<ClusterNodeStatus> for Gateway {
    fn handle(
        &mut self,
        message: ClusterNodeStatus,
        reply: Reply<ClusterNodeStatus>,
        scope: &Scope<Self>,
    ) {
        self.answer(reply, scope, |asker| async move {
            let nodes = all_nodes(&asker).await;
            facts::status(&asker, &message.node, nodes).await
        });
    }
}

impl Handle<ReadReadiness> for Gateway {
    fn handle(&mut self, _: ReadReadiness, reply: Reply<ReadReadiness>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move {
            let reasons = readiness::reasons(&asker.myself()).await;
            Ok(Readiness { reasons })
        });
    }
}

impl Handle<RelaySignal> for Gateway {
    fn handle(&mut self, message: RelaySignal, reply: Reply<RelaySignal>, _: &Scope<Self>) {
        if let Some(face) = &self.config.macp {
            face.signalled(message.envelope, message.is_authenticated);
        }
        reply.ok(());
    }
}

impl Handle<PushFile> for Gateway {
    fn handle(&mut self, message: PushFile, mut reply: Reply<PushFile>, scope: &Scope<Self>) {
        reply.about(&weft_protocol::file_about(&message.service, message.replica, &message.path));
        self.answer(reply, scope, |asker| async move { transfer::push(&asker, message).await });
    }
}

impl Handle<PullFile> for Gateway {
    fn handle(&mut self, message: PullFile, mut reply: Reply<PullFile>, scope: &Scope<Self>) {
        reply.about(&weft_protocol::file_about(&message.service, message.replica, &message.path));
        self.answer(reply, scope, |asker| async move { transfer::pull(&asker, message).await });
    }
}

impl Handle<FindBlobs> for Gateway {
    fn handle(&mut self, message: FindBlobs, reply: Reply<FindBlobs>, scope: &Scope<Self>) {
        self.answer(reply, scope, |asker| async move {
            Ok(ship::lacking(&asker, message.digests).await)
        });
    }
}

impl Handle<DescribeNode> for Gateway {
    fn handle(&mut self, _: DescribeNode, reply: Reply<DescribeNode>, scope: &Scope<Self>) {
        let meta = reply.meta().clone();
        let config = self.config.clone();
        self.answer(
            reply,
            scope,
            |asker| async move { Ok(describe(&asker, &config, &meta).await) },
        );
    }
}

impl Serve<ClusterEvents> for Gateway {
    fn serve(
        &mut self,
        message: ClusterEvents,
        sink: ItemSink<ClusterEvents>,
        scope: &Scope<Self>,
    ) {
        let asker = self.asker(sink.meta());
        let working = Working::new(&self.operations);
        scope.spawn(async move {
            let _working = working;
            tokio::select! {
                () = sink.closed() => {}
                _ = follow::events(asker, message, &sink) => {}
            }
        });
    }
}

impl Serve<ClusterAlerts> for Gateway {
    fn serve(
        &mut self,
        message: ClusterAlerts,
        sink: ItemSink<ClusterAlerts>,
        scope: &Scope<Self>,
    ) {
        let asker = self.asker(sink.meta());
        let working = Working::new(&self.operations);
        scope.spawn(async move {
            let _working = working;
            tokio::select! {
                () = sink.closed() => {}
                _ = follow::alerts::alerts(asker, message, &sink) => {}
            }
        });
    }
}

impl Serve<ClusterLogs> for Gateway {
    fn serve(&mut self, message: ClusterLogs, sink: ItemSink<ClusterLogs>, scope: &Scope<Self>) {
        let asker = self.asker(sink.meta());
        let working = Working::new(&self.operations);
        scope.spawn(async move {
            let _working = working;
            let ended = tokio::select! {
                () = sink.closed() => return,
                ended = follow::logs(asker, message, &sink) => ended,
            };
            if let Ok(Err(error)) = ended {
                sink.fail(error).await;
            }
        });
    }
}

impl Serve<ClusterExec> for Gateway {
    fn serve(&mut self, message: ClusterExec, sink: ItemSink<ClusterExec>, scope: &Scope<Self>) {
        let asker = self.asker(sink.meta());
        let working = Working::new(&self.operations);
        scope.spawn(async move {
            let _working = working;
            let ended = tokio::select! {
                () = sink.closed() => return,
                ended = exec::exec(asker, message, &sink) => ended,
            };
            if let Err(error) = ended {
                sink.fail(error).await;
            }
        });
    }
}

impl Serve<ClusterUsage> for Gateway {
    fn serve(&mut self, message: ClusterUsage, sink: ItemSink<ClusterUsage>, scope: &Scope<Self>) {
        let asker = self.asker(sink.meta());
        let working = Working::new(&self.operations);
        scope.spawn(async move {
            let _working = working;
            let ended = tokio::select! {
                () = sink.closed() => return,
                ended = usage::usage(asker, message, &sink) => ended,
            };
            if let Err(error) = ended {
                sink.fail(error).await;
            }
        });
    }
}

impl Serve<DeployService> for Gateway {
    fn serve(
        &mut self,
        message: DeployService,
        sink: ItemSink<DeployService>,
        scope: &Scope<Self>,
    ) {
        self.operate(Operation::from(message), sink, scope);
    }
}

impl Serve<LifecycleRequest> for Gateway {
    fn serve(
        &mut self,
        message: LifecycleRequest,
        sink: ItemSink<LifecycleRequest>,
        scope: &Scope<Self>,
    ) {
        self.operate(Operation::from(message), sink, scope);
    }
}

impl Gateway {
    fn operate<S: weft_wire::Subscription<Item = weft_protocol::DeployUpdate>>(
        &self,
        operation: Operation,
        sink: ItemSink<S>,
        scope: &Scope<Self>,
    ) {
        let asker = self.asker(sink.meta());
        let working = Working::new(&self.operations);
        scope.spawn(async move {
            let _working = working;
            operate::run(asker, operation, sink).await;
        });
    }
}

async fn ps(asker: &Asker, target: Option<&CommandRef>) -> Result<PsReply, AskError> {
    let strangers = async {
        match target {
            None => asker.ask_all(ReadOddities { drift: false }).await,
            Some(_) => Vec::new(),
        }
    };
    let (state, answers, strangers) =
        tokio::join!(asker.state(), asker.ask_all(ListComponents {}), strangers);
    for (member, answer) in &answers {
        if let Ok(list) = answer {
            asker.memory.hear(member.id, list);
        }
    }
    let nowhere = rows::nowhere(asker, state.as_ref()).await;
    let mut reply = rows::ps(state.as_ref(), asker.fabric.name(), &answers, target, &nowhere);
    reply.foreign = rows::foreign(strangers);
    // What still runs somewhere is shown, also when it is not wanted any more.
    if let (Some(target), Ok(state), true) = (target, &state, reply.rows.is_empty()) {
        rows::known(state, target)?;
    }
    Ok(reply)
}

async fn status(asker: &Asker, service: String) -> Result<StatusReply, AskError> {
    let target = (!service.is_empty())
        .then(|| CommandRef { service: service.clone(), component: String::new() });
    let filter =
        EventFilter { service: service.clone(), limit: STATUS_EVENTS, ..EventFilter::default() };
    let alerts = AlertFilter {
        service: service.clone(),
        since: Some(asker.clock.wall().minus(STATUS_ALERTS_WITHIN)),
        limit: STATUS_ALERTS,
        ..AlertFilter::default()
    };
    let goes_on = async {
        let Ok(state) = asker.state().await else { return Vec::new() };
        operations::rows(asker, &state, |operation| {
            operation.is_running() && (service.is_empty() || operation.service == service)
        })
        .await
    };
    let (ps, drift, events, operations, alerts, odd, state) = tokio::join!(
        ps(asker, target.as_ref()),
        asker.ask_all(ReadDrift {}),
        asker.ask_all(QueryEvents { filter }),
        goes_on,
        asker.ask_all(QueryAlerts { filter: alerts }),
        asker.ask_all(ReadOddities { drift: true }),
        asker.state(),
    );
    let now = asker.clock.wall();
    let mut drift: Vec<_> = drift
        .into_iter()
        .filter_map(|(_, answer)| answer.ok())
        .flatten()
        .chain(odd.into_iter().filter_map(|(_, answer)| answer.ok()).flat_map(|odd| odd.drift))
        .chain(
            state
                .iter()
                .flat_map(|state| ps.iter().flat_map(|ps| rows::misplaced(state, &ps.rows, now))),
        )
        .filter(|row| service.is_empty() || row.service == service)
        .collect();
    rows::sort_drift(&mut drift);
    let events = events.into_iter().filter_map(|(_, answer)| answer.ok()).collect();
    let most = usize::try_from(STATUS_EVENTS).unwrap_or(usize::MAX);
    let alerts = alerts.into_iter().filter_map(|(_, answer)| answer.ok()).collect();
    let alerts =
        follow::alerts::merge(alerts, usize::try_from(STATUS_ALERTS).unwrap_or(usize::MAX));
    Ok(StatusReply { ps: ps?, drift, events: rows::merge_events(events, most), operations, alerts })
}

pub(crate) async fn all_nodes(asker: &Asker) -> Vec<NodeRow> {
    let (state, agreement, signs) =
        tokio::join!(asker.state(), asker.agreement(), nodes::signs(asker));
    let directory = asker.fabric.directory();
    let agreement = agreement.ok();
    nodes::rows(state.as_ref(), agreement.as_ref(), &signs, asker.fabric.node(), |id| {
        let address = directory.nodes.get(&id).and_then(|entry| entry.address);
        address.map_or_else(String::new, |address| address.to_string())
    })
}

async fn actors(asker: &Asker) -> ClusterActorsReply {
    let mut rows = Vec::new();
    let mut nodes = Vec::new();
    for (member, answer) in asker.ask_all(ActorTree {}).await {
        let mut error = String::new();
        match answer {
            Ok(tree) => rows.extend(tree.into_iter().map(|mut row| {
                row.node.clone_from(&member.name);
                row
            })),
            Err(why) => error = why.to_string(),
        }
        nodes.push(NodeReply { node: member.name, error });
    }
    rows.sort_by(|a, b| (&a.node, &a.path).cmp(&(&b.node, &b.path)));
    ClusterActorsReply { rows, nodes }
}

async fn plan_service(asker: &Asker, message: PlanService) -> Result<Vec<PlanItem>, AskError> {
    let PlanService { spec, options } = message;
    if !options.component.is_empty() && spec.component(&options.component).is_none() {
        return Err(rows::unknown_component(&spec, &options.component));
    }
    let state = asker.state().await?;
    let places = plan::places(asker, &spec, &state).await;
    let (answers, problems) = tokio::join!(
        asker.ask_all(ListComponents {}),
        check::problems(asker, &spec, &options, &places),
    );
    let mut items = plan::plan(&spec, &options, &state, &answers, &places);
    for item in &mut items {
        if matches!(item.action, weft_protocol::PlanAction::Remove) {
            continue;
        }
        if let Some(problem) = problems.get(&(item.replica, item.component.clone())) {
            item.problem.clone_from(problem);
        }
    }
    Ok(items)
}

async fn remove_node(asker: &Asker, message: RemoveNode) -> Result<NodeId, AskError> {
    let state = asker.state().await?;
    let Some(record) = state.node(&message.node) else {
        return Err(rows::unknown_node(&state, &message.node));
    };
    let command = Command::RemoveNode { id: record.id, force: message.force };
    asker.ask(Propose { request: message.request, command }, REMOVE).await?;
    Ok(record.id)
}

/// For anybody with a certificate: what it needs beyond the caller's own rights is this node's to
/// read.
async fn describe(asker: &Asker, config: &GatewayConfig, meta: &Meta) -> AttachInfo {
    let own = asker.myself();
    let (state, host) = tokio::join!(own.state(), own.ask(ReadHost {}, NODE_TIMEOUT));
    let caller_name = match (&meta.caller.identity, &state) {
        (Identity::Operator(id), Ok(state)) => state
            .operators
            .iter()
            .find(|operator| operator.id == *id)
            .map_or_else(String::new, |operator| operator.name.clone()),
        (Identity::Node(id), Ok(state)) => rows::node_name(state, *id),
        (Identity::Service(name), _) => name.clone(),
        _ => String::new(),
    };
    let agreed = || {
        let state = state.as_ref().ok()?;
        let record = state.nodes.iter().find(|node| node.id == config.node)?;
        Some(record.address.clone())
    };
    let fabric = config.fabric.map(|address| address.to_string()).or_else(agreed);
    AttachInfo {
        cluster: config.cluster.clone(),
        node: config.node_name.clone(),
        id: config.node,
        version: VERSION.to_owned(),
        caller: meta.caller.identity.to_string(),
        caller_name,
        role: meta.caller.role.to_string(),
        gateway: config.http.url(),
        fabric: fabric.unwrap_or_default(),
        host: host.ok(),
    }
}

#[cfg(test)]
mod tests;
