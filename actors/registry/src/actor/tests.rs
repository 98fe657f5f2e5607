//! Real registries in a supervised tree, on real databases. A follower runs in the same tree
//! under another kind: it reaches the one that applies changes through the same fabric.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shared::Shared;
use uuid::Uuid;
use weft_identity::{DenyList, IssuingCa, JoinToken, PrivateKey, Trust, TrustBundle};
use weft_link::{Call, ItemSink, Reply};
use weft_protocol::files::NodeSeed;
use weft_protocol::*;
use weft_supervision::testing::{TestTree, eventually, run};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope, Serve};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Clock, ClusterId, Failure, FailureKind, Identity,
    Message, NodeId, OperatorId, RequestId, Role, SystemClock,
};

use super::factory;
use crate::config::{RETENTION, RegistryConfig};
use crate::state::ClusterState;

/// A value that tests and an actor share.
mod shared {
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Debug, Clone, Default)]
    pub(super) struct Shared<T>(Arc<Mutex<T>>);

    impl<T: Clone> Shared<T> {
        pub(super) fn set(&self, value: T) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
        }

        pub(super) fn get(&self) -> T {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }
}

const CLUSTER: &str = "018f2c3e-5b7a-4d4e-9c1b-2f6a8d0e4b5c";

/// The node of `testing::fabric`.
fn leader() -> NodeId {
    "00000000-0000-4000-8000-000000000001".parse().expect("id")
}

fn operator() -> OperatorId {
    OperatorId::new(Uuid::from_u128(7))
}

fn cluster() -> ClusterId {
    CLUSTER.parse().expect("id")
}

/// The first node's configuration.
fn first(dir: &Path) -> RegistryConfig {
    let now = SystemClock.wall();
    let ca = IssuingCa::create(cluster(), now).expect("CA");
    let node = NodeRecord {
        id: leader(),
        name: "n1".into(),
        address: String::new(),
        zone: String::new(),
        labels: vec![],
        version: VERSION.into(),
        key_fingerprint: String::new(),
        leader: true,
        joined_at: now,
    };
    let operator = OperatorRecord {
        id: operator(),
        name: "ann".into(),
        role: Role::Admin,
        key_fingerprint: String::new(),
        created_at: now,
    };
    RegistryConfig {
        data_dir: dir.to_owned(),
        seed: NodeSeed {
            version: 1,
            cluster: CLUSTER.into(),
            node: leader(),
            name: "n1".into(),
            bootstrap: Some(Command::Bootstrap { node, operator, ca: ca.to_pem() }),
            peers: vec![],
        },
        issuer: Some(Arc::new(ca)),
        trust: trust(),
        report: Arc::new(|| {
            Some(ReportNode {
                address: "127.0.0.1:7443".into(),
                version: VERSION.into(),
                zone: "a".into(),
                labels: vec![],
                key_fingerprint: String::new(),
            })
        }),
        event_retention: RETENTION,
        audit_retention: RETENTION,
    }
}

fn trust() -> Trust {
    Trust::new(cluster(), TrustBundle::new(), DenyList::new(), Arc::new(SystemClock))
        .expect("trust")
}

/// A joined node that follows `peer`.
fn second(dir: &Path, node: NodeId, peer: NodeId) -> RegistryConfig {
    RegistryConfig {
        data_dir: dir.to_owned(),
        seed: NodeSeed {
            version: 1,
            cluster: CLUSTER.into(),
            node,
            name: "n2".into(),
            bootstrap: None,
            peers: vec![PeerAddress {
                id: peer,
                name: "n1".into(),
                address: "127.0.0.1:7443".into(),
            }],
        },
        issuer: None,
        trust: trust(),
        report: Arc::new(|| None),
        event_retention: RETENTION,
        audit_retention: RETENTION,
    }
}

async fn add(tree: &TestTree, kind: ActorKind, config: &RegistryConfig) {
    let config = config.clone();
    tree.add(kind, move |incarnation: Incarnation| factory(config.clone(), incarnation)).await;
}

fn spec(name: &str, arg: &str) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        node: String::new(),
        tier: Tier::Worker,
        active: true,
        version: String::new(),
        path: String::new(),
        comment: String::new(),
        depends_on: vec![],
        replicas: 2,
        on_partition: OnPartition::Keep,
        placement: PlacementRules::default(),
        failover: Failover::default(),
        build_images: std::collections::BTreeMap::new(),
        snapshot: Snapshot::default(),
        update: UpdatePolicy::default(),
        files: vec![],
        components: vec![ComponentSpec {
            name: "api".into(),
            driver: Driver::Process,
            image: String::new(),
            version: String::new(),
            network: String::new(),
            user: String::new(),
            restart: RestartPolicy::default(),
            stop_grace: Duration::from_secs(10),
            workdir: String::new(),
            ports: vec![],
            volumes: vec![],
            cmd: vec!["./api".into(), arg.into()],
            env: vec![],
            health: None,
            resources: Resources::default(),
            routes: vec![],
        }],
    }
}

fn propose(command: Command) -> Propose {
    Propose { request: RequestId::new(Uuid::new_v4()), command }
}

fn deploy(name: &str, arg: &str) -> Propose {
    propose(Command::Deploy { spec: Box::new(spec(name, arg)), options: DeployOptions::default() })
}

async fn view(tree: &TestTree, kind: ActorKind) -> StateView {
    let call = Call::within(Duration::from_secs(10));
    tree.fabric().ask(Address::here(kind), ReadState {}, call).await.expect("reads")
}

fn failure<T: std::fmt::Debug>(result: Result<T, AskError>) -> Failure {
    match result {
        Err(AskError::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

/// Asks the first node's registry on behalf of somebody.
async fn ask_as<M: Message>(
    tree: &TestTree,
    identity: Identity,
    role: Role,
    message: M,
) -> Result<M::Reply, AskError> {
    let caller = Some(Caller { identity, role, via: None });
    let call = Call { caller, ..Call::within(Duration::from_secs(10)) };
    tree.fabric().ask(Address::here(ActorKind::Registry), message, call).await
}

async fn token(tree: &TestTree) -> JoinToken {
    // Its own address is recorded shortly after the start.
    for _ in 0..500 {
        if view(tree, ActorKind::Registry).await.nodes[0].address.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let issued = tree.ask(IssueToken { ttl_secs: 60, name: String::new() }).await.expect("token");
    issued.token.parse().expect("parses")
}

fn join(token: &JoinToken, key: &PrivateKey, name: &str) -> JoinCluster {
    // The only part of the secret that leaves the token is what the joiner sends.
    let secret = weft_wire::codec::encode(&token.secret).expect("encodes");
    JoinCluster {
        secret,
        cluster: token.cluster.to_string(),
        csr: key.csr().expect("request"),
        name: name.into(),
        version: VERSION.into(),
        clock: SystemClock.wall(),
    }
}

/// Takes assignments like a runtime.
struct FakeRuntime(Shared<Option<Assign>>);

impl Actor for FakeRuntime {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<Assign>();
    }
}

impl Handle<Assign> for FakeRuntime {
    fn handle(&mut self, message: Assign, reply: Reply<Assign>, _: &Scope<Self>) {
        self.0.set(Some(message));
        reply.ok(());
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart_and_a_retry_applies_once() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        let message = deploy("web", "1");
        let applied = tree.ask(message.clone()).await.expect("applies");
        assert_eq!((applied.revision, applied.changed), (1, true));
        tree.ask(RestartActor { path: "registry".into() }).await.expect("restarts");
        tree.row_where("registry", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        assert_eq!(tree.ask(message).await.expect("is answered"), applied);
        let state = view(&tree, ActorKind::Registry).await;
        assert_eq!(state.services[0].revision, 1);
        assert_eq!(state.placements.len(), 2);
    });
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        assert_eq!(view(&tree, ActorKind::Registry).await.services.len(), 1);
        let directory = tree.fabric().directory();
        assert_eq!(directory.leader, Some(leader()));
        assert_eq!(directory.operators.get(&operator()), Some(&Role::Admin));
    });
}

#[test]
fn many_at_once_are_all_acknowledged_in_one_order() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        let asks = (0..200).map(|n| tree.ask(deploy(&format!("s{n}"), "1")));
        let mut indexes: Vec<_> = futures_util::future::join_all(asks)
            .await
            .into_iter()
            .map(|answer| answer.expect("applies").index)
            .collect();
        indexes.sort_unstable();
        indexes.dedup();
        assert_eq!(indexes.len(), 200);
        assert_eq!(view(&tree, ActorKind::Registry).await.services.len(), 200);
    });
}

#[test]
fn after_a_thousand_changes_a_snapshot_stands_for_the_log() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    let restart = || {
        propose(Command::Restart {
            target: CommandRef { service: "web".into(), component: String::new() },
        })
    };
    let before = run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        for _ in 0..5 {
            let asks = (0..500).map(|_| tree.ask(restart()));
            for answer in futures_util::future::join_all(asks).await {
                answer.expect("applies");
            }
        }
        view(&tree, ActorKind::Registry).await
    });
    run(async |tree| {
        let log = crate::store::StateStore::open(dir.path(), CLUSTER).await.expect("opens");
        let (state, checkpoint) = log.load().await.expect("loads");
        assert!(checkpoint >= 1_000, "{checkpoint}");
        assert!(state.view() == before);
        let oldest = log.after(0, 1).await.expect("reads")[0].0;
        assert!(oldest > 1, "the log is cut");
        log.database().close().await;
        add(&tree, ActorKind::Registry, &config).await;
        assert!(view(&tree, ActorKind::Registry).await.services == before.services);
        let to = Address::here(ActorKind::Registry);
        let call = Call::within(Duration::from_secs(10));
        let mut late =
            tree.fabric().subscribe(to, WatchState { since: 1 }, call).await.expect("subscribes");
        let first = late.next().await;
        assert!(matches!(first, Some(Ok(StateUpdate::Snapshot { .. }))), "{first:?}");
    });
}

#[test]
fn a_full_disk_refuses_the_change_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let shared: Shared<Option<crate::store::StateStore>> = Shared::default();
        let (handed, config) = (shared.clone(), config.clone());
        let make = move |incarnation: Incarnation| {
            let (config, handed) = (config.clone(), handed.clone());
            async move {
                let registry = factory(config, incarnation).await?;
                handed.set(Some(registry.log.clone()));
                Ok::<_, ActorError>(registry)
            }
        };
        tree.add(ActorKind::Registry, make).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        let log = shared.get().expect("store");
        log.database().limit_size(1).await.expect("limits");
        let big = "x".repeat(500_000);
        for _ in 0..2 {
            let refusal = failure(tree.ask(deploy("big", &big)).await);
            assert_eq!(refusal.kind, FailureKind::Exhausted, "{refusal:?}");
            assert!(refusal.cause.contains("state.db"), "{refusal:?}");
            assert_eq!(refusal.node, "n1");
        }
        let names: Vec<_> =
            view(&tree, ActorKind::Registry).await.services.into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["web"]);
        log.database().limit_size(1 << 30).await.expect("raises");
        tree.ask(deploy("big", &big)).await.expect("applies now");
        assert_eq!(tree.row("registry").expect("row").restarts, 0);
    });
}

#[test]
fn the_runtime_is_sent_its_assignments_whenever_they_change() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        // It comes later than the registry, as after a restart.
        let seen = Shared::default();
        let inside = seen.clone();
        let make = move |_: Incarnation| {
            let inside = inside.clone();
            async move { Ok::<_, ActorError>(FakeRuntime(inside)) }
        };
        tree.add(ActorKind::Runtime, make).await;
        let got = eventually("assignments come", || seen.get()).await;
        assert_eq!(got.assignments.len(), 2, "both replicas are on the only node");
        tree.ask(propose(Command::Undeploy { service: "web".into() })).await.expect("applies");
        eventually("they are gone", || seen.get().filter(|a| a.assignments.is_empty())).await;
    });
}

/// A runtime that knows of a position the registry does not, up to a point.
struct StaleFor(Shared<(u32, Vec<u64>)>);

impl Actor for StaleFor {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<Assign>();
    }
}

impl Handle<Assign> for StaleFor {
    fn handle(&mut self, message: Assign, reply: Reply<Assign>, _: &Scope<Self>) {
        let (refusals, mut seen) = self.0.get();
        seen.push(message.index);
        self.0.set((refusals.saturating_sub(1), seen));
        if refusals > 0 {
            return reply.fail(Failure::new(FailureKind::Conflict, "older than what is known"));
        }
        reply.ok(());
    }
}

#[test]
fn a_runtime_that_calls_its_assignments_stale_is_sent_what_is_true_now() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let seen = Shared::default();
        seen.set((2, Vec::new()));
        let inside = seen.clone();
        let make = move |_: Incarnation| {
            let inside = inside.clone();
            async move { Ok::<_, ActorError>(StaleFor(inside)) }
        };
        tree.add(ActorKind::Runtime, make).await;
        add(&tree, ActorKind::Registry, &config).await;
        let applied = tree.ask(deploy("web", "1")).await.expect("applies");
        let (_, sent) = eventually("it is taken in the end", || {
            Some(seen.get()).filter(|(left, sent)| {
                *left == 0 && sent.len() > 2 && sent.last() >= Some(&applied.index)
            })
        })
        .await;
        assert!(sent.is_sorted(), "{sent:?}");
    });
}

/// The node that applies, as a script: a change and a gap first, then everything anew.
struct Script(Vec<StateUpdate>, StateUpdate);

impl Actor for Script {
    fn routes(routes: &mut Routes<Self>) {
        routes.subscription::<WatchState>();
    }
}

impl Serve<WatchState> for Script {
    fn serve(&mut self, message: WatchState, sink: ItemSink<WatchState>, scope: &Scope<Self>) {
        let items = if message.since == u64::MAX { vec![self.1.clone()] } else { self.0.clone() };
        scope.spawn(async move {
            for item in items {
                if sink.send(item).await.is_err() {
                    return;
                }
            }
            sink.closed().await;
        });
    }
}

#[test]
fn a_snapshot_waits_for_the_change_that_is_being_written() {
    let (one, two) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let config = first(one.path());
    let follower = second(two.path(), NodeId::new(Uuid::from_u128(2)), leader());
    let proposal = |n: u128, command: Command| Proposal {
        request: RequestId::new(Uuid::from_u128(n)),
        at: SystemClock.wall(),
        caller: Caller::node(leader()),
        command,
    };
    let bootstrap = proposal(1, config.seed.bootstrap.clone().expect("the first node"));
    let mut state = ClusterState::default();
    state.apply(&bootstrap, 1).expect("applies");
    for n in 2..=5 {
        let message = deploy(&format!("s{n}"), "1");
        state.apply(&proposal(n, message.command), state.index() + 1).expect("applies");
    }
    let bytes = state.snapshot().expect("bytes");
    let version = crate::state::SNAPSHOT_VERSION;
    let snapshot = StateUpdate::Snapshot { index: state.index(), version, bytes };
    let entry = |index| StateUpdate::Entry { index, proposal: Box::new(bootstrap.clone()) };
    let gap = StateUpdate::Entry {
        index: 9,
        proposal: Box::new(proposal(9, deploy("gap", "1").command)),
    };
    let first_words = vec![entry(1), gap];
    run(async |tree| {
        let make = move |_: Incarnation| {
            let script = Script(first_words.clone(), snapshot.clone());
            async move { Ok::<_, ActorError>(script) }
        };
        tree.add(ActorKind::Registry, make).await;
        // The disk is busy from before the first change until well after the snapshot has come.
        let log: Shared<Option<crate::store::StateStore>> = Shared::default();
        let (handed, config) = (log.clone(), follower.clone());
        let (release, busy) = tokio::sync::oneshot::channel::<()>();
        let busy = Arc::new(std::sync::Mutex::new(Some(busy)));
        let make = move |incarnation: Incarnation| {
            let (config, handed, busy) = (config.clone(), handed.clone(), busy.clone());
            async move {
                let registry = factory(config, incarnation).await?;
                let store = registry.log.clone();
                handed.set(Some(store.clone()));
                let until = busy.lock().ok().and_then(|mut busy| busy.take());
                if let Some(until) = until {
                    let held = store.database().begin().await.map_err(ActorError::new)?;
                    tokio::spawn(async move {
                        let _ = until.await;
                        let _ = held.commit().await;
                    });
                }
                Ok::<_, ActorError>(registry)
            }
        };
        tree.add(ActorKind::Monitor, make).await;
        let early = tokio::time::timeout(Duration::from_millis(600), async {
            while view(&tree, ActorKind::Monitor).await.index == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(early.await.is_err(), "nothing is shown before it is durable");
        release.send(()).expect("the disk waits");
        let end = async || loop {
            let there = view(&tree, ActorKind::Monitor).await;
            if there.index == state.index() {
                break there;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let shown = tokio::time::timeout(Duration::from_secs(20), end()).await.expect("comes");
        assert_eq!(shown, state.view());
        let (stored, _) = log.get().expect("a store").load().await.expect("loads");
        assert_eq!(stored.view(), state.view(), "the disk says the same");
        assert_eq!(tree.row("monitor").expect("row").restarts, 0);
    });
}

#[test]
fn a_database_of_a_later_version_is_refused_before_anything_starts() {
    const LATER: &[weft_store::Migration] =
        &[weft_store::Migration { version: 99, sql: "CREATE TABLE later (a INTEGER) STRICT;" }];
    let dir = tempfile::tempdir().expect("directory");
    run(async |_| {
        crate::preflight(dir.path(), CLUSTER).await.expect("makes what is not there");
        crate::preflight(dir.path(), CLUSTER).await.expect("and finds it again");
        let file = dir.path().join("local.db");
        let store = weft_store::Store::open(&file, weft_store::Durability::Normal, LATER)
            .await
            .expect("opens");
        store.close().await;
        let refused = crate::preflight(dir.path(), CLUSTER).await.expect_err("a later one");
        let text = format!("{refused} {:?}", refused);
        assert!(text.contains("local.db") && text.contains("99"), "{text}");
    });
}

#[test]
fn a_follower_has_the_same_state_forwards_changes_and_catches_up_after_its_restart() {
    let (one, two) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let config = first(one.path());
    let follower = second(two.path(), NodeId::new(Uuid::from_u128(2)), leader());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        add(&tree, ActorKind::Monitor, &follower).await;
        let same = async || loop {
            let there = view(&tree, ActorKind::Registry).await;
            if view(&tree, ActorKind::Monitor).await == there {
                break there;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        tokio::time::timeout(Duration::from_secs(20), same()).await.expect("catches up");
        let to = Address::here(ActorKind::Monitor);
        let call = Call::within(Duration::from_secs(10));
        let applied = tree
            .fabric()
            .ask(to, deploy("web", "2"), call)
            .await
            .expect("is forwarded and applied");
        assert_eq!(applied.revision, 2);
        tree.ask(RestartActor { path: "monitor".into() }).await.expect("restarts");
        for n in 0..50 {
            tree.ask(deploy(&format!("s{n}"), "1")).await.expect("applies");
        }
        tree.row_where("monitor", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        let state =
            tokio::time::timeout(Duration::from_secs(20), same()).await.expect("catches up");
        assert_eq!(state.services.len(), 51);
    });
}

#[test]
fn a_follower_that_is_ahead_or_far_behind_gets_a_snapshot() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        let to = Address::here(ActorKind::Registry);
        let call = Call::within(Duration::from_secs(10));
        let fabric = tree.fabric();
        let mut ahead = fabric
            .subscribe(to.clone(), WatchState { since: u64::MAX }, call.clone())
            .await
            .expect("subscribes");
        let Some(Ok(StateUpdate::Snapshot { index, version, bytes })) = ahead.next().await else {
            panic!("expected a snapshot");
        };
        let state = ClusterState::restore(version, &bytes).expect("restores");
        assert_eq!(state.index(), index);
        assert!(state.view().service("web").is_some());
        let mut fresh =
            fabric.subscribe(to, WatchState { since: 0 }, call).await.expect("subscribes");
        for expected in 1..=index {
            let Some(Ok(StateUpdate::Entry { index, .. })) = fresh.next().await else {
                panic!("expected an entry");
            };
            assert_eq!(index, expected);
        }
        let applied = tree.ask(deploy("web", "2")).await.expect("applies");
        let next = fresh.next().await;
        assert!(
            matches!(next, Some(Ok(StateUpdate::Entry { index, .. })) if index <= applied.index)
        );
    });
}

#[test]
fn without_the_leader_a_change_is_refused_naming_it_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("directory");
    let absent = NodeId::new(Uuid::from_u128(9));
    let config = second(dir.path(), leader(), absent);
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        let refusal = failure(tree.ask(deploy("web", "1")).await);
        assert_eq!(refusal.kind, FailureKind::Unavailable);
        assert_eq!(refusal.node, "n1");
        assert!(refusal.help.contains("start weftd on n1"), "{refusal:?}");
        assert_eq!(view(&tree, ActorKind::Registry).await.index, 0);
    });
}

#[test]
fn a_node_that_has_nothing_yet_assigns_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    let config = second(dir.path(), leader(), NodeId::new(Uuid::from_u128(9)));
    run(async |tree| {
        let seen: Shared<Option<Assign>> = Shared::default();
        let inside = seen.clone();
        let make = move |_: Incarnation| {
            let inside = inside.clone();
            async move { Ok::<_, ActorError>(FakeRuntime(inside)) }
        };
        tree.add(ActorKind::Runtime, make).await;
        add(&tree, ActorKind::Registry, &config).await;
        // Two requests later its start is long over.
        for _ in 0..2 {
            view(&tree, ActorKind::Registry).await;
        }
        assert_eq!(seen.get(), None);
    });
}

#[test]
fn membership_and_trust_commands_cannot_be_proposed() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        let forged = Command::PutOperator {
            operator: OperatorRecord {
                id: OperatorId::new(Uuid::from_u128(66)),
                name: "eve".into(),
                role: Role::Admin,
                key_fingerprint: String::new(),
                created_at: SystemClock.wall(),
            },
        };
        let refusal = failure(tree.ask(propose(forged)).await);
        assert_eq!(refusal.kind, FailureKind::Forbidden);
        assert!(refusal.help.contains("weft login"), "{refusal:?}");
    });
}

#[test]
fn a_machine_joins_renews_by_its_key_and_is_refused_once_removed() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    let trust = config.trust.clone();
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        let token = token(&tree).await;
        assert_eq!(token.addresses, ["127.0.0.1:7443"]);
        let key = PrivateKey::generate().expect("key");
        let joiner = |message| ask_as(&tree, Identity::Joiner, Role::Guest, message);
        let joined = joiner(join(&token, &key, "n2")).await.expect("joins");
        assert_eq!((joined.name.as_str(), joined.peers.len()), ("n2", 1));
        assert!(tree.fabric().directory().nodes.contains_key(&joined.node));
        let leaf = weft_identity::CertificateChain::from_pem(&joined.certificate, "answer")
            .expect("chain");
        assert_eq!(leaf.inspect().expect("leaf").identity, Identity::Node(joined.node));
        assert!(trust.admit(&leaf.leaf, SystemClock.wall()).is_ok());

        let refusal = failure(joiner(join(&token, &key, "n3")).await);
        assert!(refusal.message.contains("used already by n2"), "{refusal:?}");

        let renew = |key: &PrivateKey| {
            let message = RenewLeaf {
                csr: key.csr().expect("request"),
                holder: format!("node/{}", joined.node),
                operator: String::new(),
            };
            ask_as(&tree, Identity::Joiner, Role::Guest, message)
        };
        let renewed = renew(&key).await.expect("renews");
        assert_eq!(
            (renewed.name.as_str(), renewed.holder),
            ("n2", format!("node/{}", joined.node))
        );
        let stranger = PrivateKey::generate().expect("key");
        assert_eq!(failure(renew(&stranger).await).kind, FailureKind::Unauthenticated);

        let remove = Command::RemoveNode { id: joined.node, force: true };
        tree.ask(propose(remove)).await.expect("removes");
        assert!(trust.is_denied(&Identity::Node(joined.node)));
        assert!(tree.fabric().directory().is_denied(&Identity::Node(joined.node)));
        assert!(trust.admit(&leaf.leaf, SystemClock.wall()).is_err());
        let refusal = failure(renew(&key).await);
        assert!(refusal.message.contains("removed"), "{refusal:?}");
    });
}

#[test]
fn a_join_that_is_refused_uses_nothing_up() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        let token = token(&tree).await;
        let key = PrivateKey::generate().expect("key");
        let good = join(&token, &key, "n2");
        let joiner = |message| ask_as(&tree, Identity::Joiner, Role::Guest, message);
        let ten = Duration::from_secs(600);
        let cases = [
            (JoinCluster { clock: good.clock.plus(ten), ..good.clone() }, "ahead of the cluster's"),
            (JoinCluster { clock: good.clock.minus(ten), ..good.clone() }, "behind the cluster's"),
            (JoinCluster { cluster: "another".into(), ..good.clone() }, "for cluster another"),
            (JoinCluster { secret: vec![1; 32], ..good.clone() }, "not known"),
            (JoinCluster { name: "n1".into(), ..good.clone() }, "named `n1` already"),
            (JoinCluster { name: "N 2".into(), ..good.clone() }, "not a name for a node"),
            (JoinCluster { csr: vec![1, 2, 3], ..good.clone() }, "request cannot be used"),
        ];
        for (message, expected) in cases {
            let refusal = failure(joiner(message).await);
            assert!(refusal.message.contains(expected), "{expected}: {refusal:?}");
        }
        assert_eq!(view(&tree, ActorKind::Registry).await.nodes.len(), 1);
        joiner(good).await.expect("the token is still good");
    });
}

#[test]
fn operators_renew_their_own_certificate_and_the_local_socket_reissues() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        let key = PrivateKey::generate().expect("key");
        let message = |operator: &str| RenewLeaf {
            csr: key.csr().expect("request"),
            holder: String::new(),
            operator: operator.into(),
        };
        let local = Identity::Local { uid: 0, pid: 1 };
        let renewed = ask_as(&tree, local.clone(), Role::Admin, message("")).await.expect("issues");
        assert_eq!(
            (renewed.name, renewed.holder),
            ("ann".into(), format!("operator/{}", operator()))
        );
        let recorded = view(&tree, ActorKind::Registry).await.operators[0].key_fingerprint.clone();
        assert_eq!(recorded, key.public_key_fingerprint().to_string());
        let refusal = failure(ask_as(&tree, local, Role::Admin, message("bob")).await);
        assert!(refusal.help.contains("ann"), "{refusal:?}");
        let own = Identity::Operator(operator());
        ask_as(&tree, own, Role::Admin, message("")).await.expect("renews");
        let stranger = Identity::Operator(OperatorId::new(Uuid::from_u128(8)));
        let refusal = failure(ask_as(&tree, stranger, Role::Admin, message("")).await);
        assert_eq!(refusal.kind, FailureKind::Forbidden);
    });
}

#[test]
fn events_are_followed_from_what_is_there_to_what_comes_and_stored_once() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    let event = |n: u128, service: &str| Event {
        id: Uuid::from_u128(n),
        time: SystemClock.wall(),
        node: "n1".into(),
        service: service.into(),
        component: "api".into(),
        replica: 1,
        prev_state: ComponentState::Running,
        new_state: ComponentState::Exited,
        cause: "self".into(),
        exit: "exit 1".into(),
    };
    run(async |tree| {
        add(&tree, ActorKind::Registry, &config).await;
        tree.ask(RecordEvents { events: vec![event(1, "web")] }).await.expect("stores");
        let filter = EventFilter { service: "web".into(), ..EventFilter::default() };
        let to = Address::here(ActorKind::Registry);
        let follow = FollowEvents { filter: filter.clone() };
        let call = Call::within(Duration::from_secs(10));
        let mut items = tree.fabric().subscribe(to, follow, call).await.expect("follows");
        let mut next =
            async || items.next().await.expect("goes on").expect("an event").id.as_u128();
        assert_eq!(next().await, 1);
        let more = vec![event(1, "web"), event(2, "mail"), event(3, "web")];
        tree.ask(RecordEvents { events: more }).await.expect("stores");
        assert_eq!(next().await, 3);
        let stored = tree.ask(QueryEvents { filter }).await.expect("reads");
        assert_eq!(stored.len(), 2);
        let many = vec![event(4, "web"); 1001];
        assert_eq!(
            failure(tree.ask(RecordEvents { events: many }).await).kind,
            FailureKind::Invalid
        );
    });
}
