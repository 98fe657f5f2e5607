//! The gateway between thin doubles of its siblings, on one node of three whose peers are silent;
//! and its HTTP face over real sockets.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use uuid::Uuid;
use weft_link::{Call, Directory, Items, PeerEntry};
use weft_protocol::EventItem;
use weft_protocol::{
    AgreementView, Applied, CheckSpec, ComponentState, ComponentStatus, DeployOptions,
    DeployUpdate, Drift, Duty, Event, FollowEvents, HostFigures, LifecycleAction, LogLine, LogRow,
    LogStream, MemberView, NodeState, PlacementPlan, PlanAction, PlanPlacement, ReadAgreement,
    ReadDuty, ReadLogs, ReadState, RestartActor, SpecProblem, StateView, WatchComponents,
};
use weft_supervision::testing::{self, PATIENCE, TestTree};
use weft_wire::{ActorKind, Address, FailureKind, RequestId, WallTime};

use super::*;
use crate::rows::tests::{event, key, node_id, placement, record, spec, state, status};

/// What the siblings hold, and what a change does.
struct World {
    state: StateView,
    components: BTreeMap<String, ComponentStatus>,
    events: Vec<Event>,
    logs: Vec<LogLine>,
    problem: String,
    proposed: Vec<Command>,
    on_propose: fn(&mut World),
}

#[derive(Clone)]
struct Shared {
    world: Arc<Mutex<World>>,
    moved: broadcast::Sender<ComponentStatus>,
    happened: broadcast::Sender<Event>,
}

impl Shared {
    fn put(&self, status: ComponentStatus) {
        self.world.lock().components.insert(status.key.to_string(), status.clone());
        let _ = self.moved.send(status);
    }

    fn list(&self) -> Vec<ComponentStatus> {
        self.world.lock().components.values().cloned().collect()
    }
}

macro_rules! double {
    ($name:ident, [$($ask:ty),*], [$($sub:ty),*]) => {
        struct $name(#[allow(dead_code, reason = "one shape for all doubles")] Shared);
        impl Actor for $name {
            fn routes(routes: &mut Routes<Self>) {
                $(routes.ask::<$ask>();)*
                $(routes.subscription::<$sub>();)*
            }
        }
    };
}

double!(
    Registry,
    [ReadState, ReadAgreement, PlanPlacement, Propose, QueryEvents, QueryAlerts],
    [FollowEvents]
);
double!(Runtime, [ListComponents, ReadDuty, CheckSpec], [WatchComponents, ReadLogs]);
double!(Monitor, [ReadDrift, ReadHost], []);

impl Handle<ReadState> for Registry {
    fn handle(&mut self, _: ReadState, reply: Reply<ReadState>, _: &Scope<Self>) {
        reply.ok(self.0.world.lock().state.clone());
    }
}

impl Handle<ReadAgreement> for Registry {
    fn handle(&mut self, _: ReadAgreement, reply: Reply<ReadAgreement>, scope: &Scope<Self>) {
        let leads = MemberView {
            id: scope.fabric().node(),
            name: "test".into(),
            state: weft_protocol::NodeState::Ready,
            for_ms: 0,
            role: weft_protocol::NodeRole::Leader,
            lag: None,
            why: String::new(),
        };
        reply.ok(AgreementView { members: vec![leads], ..AgreementView::default() });
    }
}

/// Everything is where it shall be; a new replica would go to the first node.
impl Handle<PlanPlacement> for Registry {
    fn handle(&mut self, message: PlanPlacement, reply: Reply<PlanPlacement>, _: &Scope<Self>) {
        let state = self.0.world.lock().state.clone();
        let mut places: Vec<_> =
            state.placements.iter().map(|p| (p.service.clone(), p.replica, p.node)).collect();
        if let Some(spec) = message.spec {
            for replica in 1..=spec.replicas {
                if !places.iter().any(|p| p.0 == spec.name && p.1 == replica) {
                    places.push((spec.name.clone(), replica, state.nodes[0].id));
                }
            }
        }
        reply.ok(PlacementPlan { places, ..PlacementPlan::default() });
    }
}

impl Handle<Propose> for Registry {
    fn handle(&mut self, message: Propose, reply: Reply<Propose>, _: &Scope<Self>) {
        let mut world = self.0.world.lock();
        world.state.index += 1;
        world.proposed.push(message.command);
        let change = world.on_propose;
        change(&mut world);
        let revision = world.state.service("web").map_or(0, |service| service.revision);
        let applied = Applied { index: world.state.index, revision, changed: true, operation: 0 };
        drop(world);
        for status in self.0.list() {
            let _ = self.0.moved.send(status);
        }
        reply.ok(applied);
    }
}

impl Handle<QueryEvents> for Registry {
    fn handle(&mut self, message: QueryEvents, reply: Reply<QueryEvents>, _: &Scope<Self>) {
        let world = self.0.world.lock();
        reply.ok(world.events.iter().filter(|e| message.filter.matches(e)).cloned().collect());
    }
}

impl Handle<QueryAlerts> for Registry {
    fn handle(&mut self, _: QueryAlerts, reply: Reply<QueryAlerts>, _: &Scope<Self>) {
        reply.ok(Vec::new());
    }
}

impl Serve<FollowEvents> for Registry {
    fn serve(&mut self, message: FollowEvents, sink: ItemSink<FollowEvents>, scope: &Scope<Self>) {
        let past: Vec<Event> = self.0.world.lock().events.clone();
        let mut comes = self.0.happened.subscribe();
        scope.spawn(async move {
            for event in past.into_iter().filter(|event| message.filter.matches(event)) {
                let _ = sink.send(event).await;
            }
            while let Ok(event) = comes.recv().await {
                if sink.send(event).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Handle<ListComponents> for Runtime {
    fn handle(&mut self, _: ListComponents, reply: Reply<ListComponents>, _: &Scope<Self>) {
        reply.ok(self.0.list());
    }
}

impl Handle<ReadDuty> for Runtime {
    fn handle(&mut self, _: ReadDuty, reply: Reply<ReadDuty>, _: &Scope<Self>) {
        reply.ok(Duty { index: Some(1), ..Duty::default() });
    }
}

impl Handle<CheckSpec> for Runtime {
    fn handle(&mut self, message: CheckSpec, reply: Reply<CheckSpec>, _: &Scope<Self>) {
        let problem = self.0.world.lock().problem.clone();
        reply.ok(if problem.is_empty() {
            vec![]
        } else {
            let names = message.components.into_iter().map(|c| c.name);
            names.map(|component| SpecProblem { component, problem: problem.clone() }).collect()
        });
    }
}

impl Serve<WatchComponents> for Runtime {
    fn serve(&mut self, _: WatchComponents, sink: ItemSink<WatchComponents>, scope: &Scope<Self>) {
        let mut moved = self.0.moved.subscribe();
        let now = self.0.list();
        scope.spawn(async move {
            for status in now {
                let _ = sink.send(status).await;
            }
            while let Ok(status) = moved.recv().await {
                if sink.send(status).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Serve<ReadLogs> for Runtime {
    fn serve(&mut self, message: ReadLogs, sink: ItemSink<ReadLogs>, scope: &Scope<Self>) {
        let mut lines = self.0.world.lock().logs.clone();
        lines.retain(|line| message.since.is_none_or(|since| line.time >= since));
        scope.spawn(async move {
            for line in lines {
                let _ = sink.send(line).await;
            }
            if message.follow {
                sink.closed().await;
            }
        });
    }
}

impl Handle<ReadDrift> for Monitor {
    fn handle(&mut self, _: ReadDrift, reply: Reply<ReadDrift>, _: &Scope<Self>) {
        reply.ok(vec![Drift {
            kind: weft_protocol::DriftKind::State,
            node: "test".into(),
            service: "web".into(),
            replica: 1,
            component: "api".into(),
            desired: weft_protocol::Desired::Running,
            observed: weft_protocol::ObservedState::Exited,
            reason: "ended by itself".into(),
            since: WallTime::from_micros(1),
        }]);
    }
}

impl Handle<ReadHost> for Monitor {
    fn handle(&mut self, _: ReadHost, reply: Reply<ReadHost>, _: &Scope<Self>) {
        reply.ok(HostFigures { cores: 2, ..HostFigures::default() });
    }
}

/// A cluster as node `test` sees it: itself in the place of n1, n2 and n3 silent.
async fn set_up(tree: &TestTree) -> (Shared, HttpFace) {
    let fabric = tree.fabric();
    let mut view = state();
    view.nodes[0].id = fabric.node();
    view.nodes[0].name = "test".into();
    view.placements[0].node = fabric.node();
    let mut directory = Directory::default();
    for node in &view.nodes {
        let entry = PeerEntry { id: node.id, name: node.name.clone(), address: None };
        directory.nodes.insert(node.id, entry);
    }
    fabric.set_directory(directory);
    let running = status(key("web", 1, "api"), ComponentState::Running);
    let shared = Shared {
        world: Arc::new(Mutex::new(World {
            state: view,
            components: [(running.key.to_string(), running)].into(),
            events: (1..=30).map(|n| event(n, i64::from(n), "test")).collect(),
            logs: vec![],
            problem: String::new(),
            proposed: vec![],
            on_propose: |_| {},
        })),
        moved: broadcast::channel(64).0,
        happened: broadcast::channel(64).0,
    };
    let (one, two, three) = (shared.clone(), shared.clone(), shared.clone());
    let ready = std::future::ready;
    tree.add(ActorKind::Registry, move |_: Incarnation| ready(Ok(Registry(one.clone())))).await;
    tree.add(ActorKind::Runtime, move |_: Incarnation| {
        std::future::ready(Ok(Runtime(two.clone())))
    })
    .await;
    tree.add(ActorKind::Monitor, move |_: Incarnation| {
        std::future::ready(Ok(Monitor(three.clone())))
    })
    .await;
    let face = HttpFace::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = GatewayConfig {
        cluster: "c1".into(),
        node_name: "test".into(),
        node: fabric.node(),
        fabric: None,
        http: face.clone(),
        macp: None,
    };
    tree.add(ActorKind::Gateway, factory(config)).await;
    (shared, face)
}

/// The state without silent replicas: `web` with one, here.
fn alone(shared: &Shared) {
    let mut world = shared.world.lock();
    let here = world.state.nodes[0].id;
    world.state.services = vec![record(spec("web", 1, &["api"]))];
    world.state.placements = vec![placement("web", 1, here)];
}

async fn open<S: weft_wire::Subscription>(tree: &TestTree, message: S) -> Items<S::Item> {
    let to = Address::here(ActorKind::Gateway);
    tree.fabric().subscribe(to, message, Call::within(PATIENCE)).await.unwrap()
}

async fn next<T>(items: &mut Items<T>) -> Option<Result<T, AskError>> {
    tokio::time::timeout(PATIENCE, items.next()).await.expect("an item within the test's patience")
}

async fn all<T>(mut items: Items<T>) -> Vec<Result<T, AskError>> {
    let mut all = Vec::new();
    while let Some(item) = next(&mut items).await {
        all.push(item);
    }
    all
}

fn deploy(spec: weft_protocol::ServiceSpec) -> DeployService {
    DeployService {
        request: RequestId::new(Uuid::from_u128(1)),
        spec: Some(Box::new(spec)),
        service: String::new(),
        options: DeployOptions::default(),
        timeout_ms: 15_000,
        no_wait: false,
    }
}

fn lifecycle(action: LifecycleAction) -> LifecycleRequest {
    LifecycleRequest {
        request: RequestId::new(Uuid::from_u128(2)),
        target: "web".parse().unwrap(),
        action,
        timeout_ms: 15_000,
        no_wait: false,
    }
}

#[test]
fn silent_nodes_are_rows_everywhere() {
    testing::run(async |tree| {
        let (_shared, _face) = set_up(&tree).await;
        let ps = tree.ask(ClusterPs { target: None }).await.unwrap();
        let rows: Vec<_> =
            ps.rows.iter().map(|row| (row.node.as_str(), row.status.state)).collect();
        assert_eq!(
            rows,
            [
                ("test", ComponentState::Running),
                ("n2", ComponentState::Unknown),
                ("n3", ComponentState::Unknown),
            ]
        );
        assert_eq!(ps.nodes.iter().filter(|node| !node.error.is_empty()).count(), 2);

        let nodes = tree.ask(ClusterNodes {}).await.unwrap();
        let rows: Vec<_> =
            nodes.iter().map(|n| (n.name.as_str(), n.state, n.role.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("n2", NodeState::Lost, "learner"),
                ("n3", NodeState::Lost, "learner"),
                ("test", NodeState::Ready, "leader"),
            ]
        );
        assert!(nodes.iter().all(|node| node.components == 1));

        let actors = tree.ask(ClusterActors {}).await.unwrap();
        assert!(actors.rows.iter().any(|row| row.node == "test" && row.path == "gateway"));
        assert_eq!(actors.nodes.len(), 3);

        let status = tree.ask(ClusterStatus { service: "web".into() }).await.unwrap();
        assert_eq!((status.ps.rows.len(), status.drift.len(), status.events.len()), (3, 1, 20));
        assert_eq!(status.events.last().map(|event| event.time), Some(WallTime::from_micros(30)));

        let list = tree.ask(ListServices {}).await.unwrap();
        assert_eq!(list[0].observed, weft_protocol::ObservedState::Running, "heard by ps before");
        let unknown = CommandRef { service: "nope".into(), component: String::new() };
        let refused = tree.ask(ClusterPs { target: Some(unknown) }).await;
        assert!(matches!(refused, Err(AskError::Failed(f)) if f.help.contains("web")));
    });
}

#[test]
fn ps_of_what_does_not_exist_is_refused_and_of_what_runs_nowhere_is_empty() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        shared.world.lock().components.clear();
        let ask = |target: &str| {
            let target = Some(target.parse::<CommandRef>().unwrap());
            tree.ask(ClusterPs { target })
        };
        for (target, says) in
            [("nope", "no service `nope`"), ("web/nope", "service `web` has no component `nope`")]
        {
            let refused = ask(target).await;
            let Err(AskError::Failed(failure)) = refused else { panic!("{target}: {refused:?}") };
            assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::NotFound, says));
            assert!(failure.help.contains(" are "), "{}", failure.help);
        }
        shared.world.lock().state.services[0].undeployed = true;
        assert!(ask("web/api").await.unwrap().rows.is_empty());
    });
}

#[test]
fn a_deploy_is_told_step_by_step_and_ends_when_all_is_well() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        alone(&shared);
        shared.world.lock().on_propose = |world| {
            world.state.services[0].revision = 2;
            let mut status = status(key("web", 1, "api"), ComponentState::Starting);
            status.revision = 2;
            world.components.insert(status.key.to_string(), status);
        };
        let mut items = open(&tree, deploy(spec("web", 1, &["api"]))).await;
        let first = next(&mut items).await.unwrap().unwrap();
        assert_eq!(
            first,
            DeployUpdate::Accepted {
                service: "web".into(),
                revision: 2,
                changed: true,
                operation: 0
            }
        );
        let second = next(&mut items).await.unwrap().unwrap();
        assert!(matches!(second, DeployUpdate::Progress { row }
            if row.status.state == ComponentState::Starting && row.node == "test"));
        let mut running = status(key("web", 1, "api"), ComponentState::Running);
        (running.revision, running.pid) = (2, 7);
        shared.put(running);
        let rest: Vec<DeployUpdate> = all(items).await.into_iter().map(Result::unwrap).collect();
        let [DeployUpdate::Progress { .. }, DeployUpdate::Component { error: None, .. }, done] =
            rest.as_slice()
        else {
            panic!("{rest:?}")
        };
        assert_eq!(*done, DeployUpdate::Done { good: 1, bad: 0, timed_out: false });
    });
}

#[test]
fn a_component_that_fails_comes_with_its_last_lines() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        alone(&shared);
        {
            let mut world = shared.world.lock();
            world.logs = (1..=3).map(log_line).collect();
            world.on_propose = |world| {
                world.state.services[0].revision = 2;
                let mut status = status(key("web", 1, "api"), ComponentState::Failed);
                status.revision = 2;
                status.reason = "exit 1, 5 times in 10 minutes".into();
                world.components.insert(status.key.to_string(), status);
            };
        }
        let items = all(open(&tree, deploy(spec("web", 1, &["api"]))).await).await;
        let [.., Ok(DeployUpdate::Component { error: Some(failure), log, .. }), Ok(done)] =
            items.as_slice()
        else {
            panic!("{items:?}")
        };
        // The runtime's own words, without a second way to say that it failed in front of them.
        assert_eq!(failure.message, "exit 1, 5 times in 10 minutes");
        assert_eq!(log.len(), 3);
        assert_eq!(*done, DeployUpdate::Done { good: 0, bad: 1, timed_out: false });
    });
}

#[test]
fn a_program_that_is_not_there_fails_before_anything_is_agreed() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        alone(&shared);
        shared.world.lock().problem = "`./api` does not exist".into();
        let items = all(open(&tree, deploy(spec("web", 1, &["api"]))).await).await;
        let [Err(AskError::Failed(failure))] = items.as_slice() else { panic!("{items:?}") };
        assert_eq!((failure.node.as_str(), failure.kind), ("test", FailureKind::Failed));
        assert!(failure.cause.contains("does not exist"));
        // The cause says what is wrong, be it a program or a container: the help fits both.
        assert!(!failure.help.contains("program"), "{}", failure.help);
        assert!(shared.world.lock().proposed.is_empty());

        let plan = tree
            .ask(PlanService {
                spec: Box::new(spec("web", 1, &["api"])),
                options: DeployOptions::default(),
            })
            .await
            .unwrap();
        assert_eq!(plan.len(), 1);
        assert_eq!((plan[0].action, plan[0].problem.is_empty()), (PlanAction::Keep, false));
    });
}

#[test]
fn the_components_of_a_silent_node_are_bad_rows_with_the_cause() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        shared.world.lock().on_propose = |world| {
            world.state.services[0].active = false;
            let mut status = status(key("web", 1, "api"), ComponentState::Stopped);
            status.desired = weft_protocol::Desired::Stopped;
            world.components.insert(status.key.to_string(), status);
        };
        let items = all(open(&tree, lifecycle(LifecycleAction::Stop)).await).await;
        assert_eq!(
            items.last(),
            Some(&Ok(DeployUpdate::Done { good: 1, bad: 2, timed_out: false }))
        );
        let causes: Vec<_> = items
            .iter()
            .filter_map(|item| match item {
                Ok(DeployUpdate::Component { row, error: Some(failure), .. }) => {
                    Some((row.node.as_str(), failure.kind))
                }
                _ => None,
            })
            .collect();
        assert_eq!(causes.len(), 2);
        assert!(causes.iter().all(|(_, kind)| *kind == FailureKind::Unavailable), "{causes:?}");
    });
}

#[test]
fn a_restart_waits_for_the_new_process_and_an_undeploy_until_it_is_gone() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        alone(&shared);
        shared.world.lock().on_propose = |world| {
            world.state.services[0].epochs =
                vec![("api".into(), weft_protocol::Epoch { start: 1, make: 0 })]
        };
        let mut items = open(&tree, lifecycle(LifecycleAction::Restart)).await;
        let seen = [next(&mut items).await, next(&mut items).await];
        assert!(matches!(
            seen,
            [
                Some(Ok(DeployUpdate::Accepted { revision: 1, .. })),
                Some(Ok(DeployUpdate::Progress { .. })),
            ]
        ));
        let mut new = status(key("web", 1, "api"), ComponentState::Running);
        (new.pid, new.started_at) = (200, Some(WallTime::from_micros(99)));
        shared.put(new);
        let rest = all(items).await;
        assert_eq!(
            rest.last(),
            Some(&Ok(DeployUpdate::Done { good: 1, bad: 0, timed_out: false }))
        );

        shared.world.lock().on_propose = |world| {
            world.state.services[0].undeployed = true;
            world.state.placements.clear();
            world.components.clear();
        };
        let items = all(open(&tree, lifecycle(LifecycleAction::Undeploy)).await).await;
        assert_eq!(
            items.last(),
            Some(&Ok(DeployUpdate::Done { good: 1, bad: 0, timed_out: false }))
        );
    });
}

#[test]
fn without_waiting_only_the_acceptance_is_told_and_time_that_runs_out_is_said() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        alone(&shared);
        let mut message = lifecycle(LifecycleAction::Start);
        message.no_wait = true;
        let items = all(open(&tree, message).await).await;
        assert!(matches!(
            items.as_slice(),
            [
                Ok(DeployUpdate::Accepted { .. }),
                Ok(DeployUpdate::Done { good: 0, bad: 0, timed_out: false }),
            ]
        ));
        shared.put(status(key("web", 1, "api"), ComponentState::Starting));
        let mut message = lifecycle(LifecycleAction::Start);
        message.timeout_ms = 100;
        let items = all(open(&tree, message).await).await;
        assert_eq!(
            items.last(),
            Some(&Ok(DeployUpdate::Done { good: 0, bad: 1, timed_out: true }))
        );
    });
}

#[test]
fn events_are_shown_once_each_what_was_and_what_comes() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        let message = ClusterEvents { filter: EventFilter::default(), follow: true };
        let mut items = open(&tree, message).await;
        for n in 1..=30 {
            let EventItem::Event(event) = next(&mut items).await.unwrap().unwrap() else {
                panic!("a node is missing before the events are told");
            };
            assert_eq!(event.time, WallTime::from_micros(n));
        }
        let EventItem::Missing(missing) = next(&mut items).await.unwrap().unwrap() else {
            panic!("a node that does not answer is named");
        };
        assert_eq!(missing.node, "n2");
        // Sent until the follower is there to hear it.
        let event = event(99, 99, "test");
        let sender = shared.happened.clone();
        let told = event.clone();
        let telling = tokio::spawn(async move {
            loop {
                let _ = sender.send(told.clone());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let last = loop {
            match next(&mut items).await.unwrap().unwrap() {
                EventItem::Event(event) => break *event,
                EventItem::Missing(_) => {}
            }
        };
        assert_eq!(last, event);
        telling.abort();
    });
}

fn log_line(n: i64) -> LogLine {
    LogLine {
        key: key("web", 1, "api"),
        time: WallTime::from_micros(n),
        stream: LogStream::Stdout,
        text: format!("line {n}"),
    }
}

#[test]
fn logs_come_in_order_and_silent_nodes_are_named() {
    testing::run(async |tree| {
        let (shared, _face) = set_up(&tree).await;
        shared.world.lock().logs = (1..=3).map(log_line).collect();
        let message = |service: &str| ClusterLogs {
            target: CommandRef { service: service.into(), component: String::new() },
            replica: 0,
            tail: None,
            since: None,
            follow: false,
        };
        let items = all(open(&tree, message("web")).await).await;
        let mut lines = Vec::new();
        let mut missing = Vec::new();
        for item in items {
            match item.unwrap() {
                LogRow::Line { line, .. } => lines.push(line.text),
                LogRow::Missing(node) => missing.push(node.node),
            }
        }
        assert_eq!(lines, ["line 1", "line 2", "line 3"]);
        assert_eq!(missing, ["n2", "n3"]);
        let items = all(open(&tree, message("nope")).await).await;
        assert!(
            matches!(items.as_slice(), [Err(AskError::Failed(f))] if f.kind == FailureKind::NotFound)
        );
    });
}

#[test]
fn a_node_is_removed_by_its_name_and_the_attached_one_describes_itself() {
    testing::run(async |tree| {
        let (shared, face) = set_up(&tree).await;
        let message = |node: &str| RemoveNode {
            request: RequestId::new(Uuid::from_u128(3)),
            node: node.into(),
            force: true,
        };
        assert_eq!(tree.ask(message("n3")).await, Ok(node_id(3)));
        let proposed = shared.world.lock().proposed.clone();
        assert_eq!(proposed, [Command::RemoveNode { id: node_id(3), force: true }]);
        let refused = tree.ask(message("n9")).await;
        assert!(matches!(refused, Err(AskError::Failed(f)) if f.help.contains("n2, n3")));
        let info = tree.ask(DescribeNode {}).await.unwrap();
        assert_eq!((info.cluster.as_str(), info.node.as_str()), ("c1", "test"));
        assert_eq!(info.gateway, face.url());
        assert_eq!(info.host.map(|host| host.cores), Some(2));
    });
}

async fn get(face: &HttpFace, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(face.address()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await??;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((status, text))
}

#[test]
fn the_http_face_answers_and_outlives_the_actor() {
    testing::run(async |tree| {
        let (shared, face) = set_up(&tree).await;
        let (code, text) = get(&face, "/health").await.unwrap();
        assert_eq!(code, 200, "{text}");
        assert!(text.contains("\"status\":\"ok\"") && text.contains("\"node\":\"test\""), "{text}");
        assert_eq!(get(&face, "/readyz").await.unwrap().0, 200);
        let (code, text) = get(&face, "/metrics").await.unwrap();
        assert_eq!(code, 200);
        for line in [
            "weft_up{actor=\"runtime\"} 1",
            "weft_components{state=\"running\"} 1",
            "weft_nodes{state=\"lost\"} 2",
            "weft_host_cores 2",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        shared.world.lock().state = StateView::default();
        let (code, text) = get(&face, "/readyz").await.unwrap();
        assert_eq!(code, 503);
        assert!(text.contains("desired state has not arrived"), "{text}");
        assert_eq!(get(&face, "/nope").await.unwrap().0, 404);

        let to = Address::here(ActorKind::Node);
        let restart = RestartActor { path: "gateway".into() };
        tree.fabric().ask(to, restart, Call::within(PATIENCE)).await.unwrap();
        tree.row_where("gateway", |row| row.restarts == 1).await;
        assert_eq!(get(&face, "/health").await.unwrap().0, 200);
    });
}

#[test]
fn while_no_gateway_runs_every_answer_is_503_at_once() {
    testing::run(async |tree| {
        let face = HttpFace::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let alive = Arc::new(Alive);
        let clock = Arc::new(weft_wire::SystemClock);
        let asker = Asker::own(tree.fabric(), clock, Arc::default());
        let entered = tree.runtime.enter();
        face.open(&alive, asker, None).unwrap();
        drop(entered);
        assert_eq!(get(&face, "/health").await.unwrap().0, 200);
        drop(alive);
        for path in ["/health", "/readyz", "/metrics"] {
            let (code, text) = get(&face, path).await.unwrap();
            assert_eq!(code, 503, "{path}");
            assert!(text.contains("being restarted"), "{text}");
        }
        let taken = HttpFace::bind(face.address()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    });
}
