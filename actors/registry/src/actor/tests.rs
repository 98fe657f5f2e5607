//! A real registry in a supervised tree, on real databases, agreeing with itself: consensus of one
//! voter. Consensus of several is tested where it lives, and whole in the system tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shared::Shared;
use uuid::Uuid;
use weft_agreement::{
    Consensus, ConsensusConfig, Door, Group, Machine, Membership, MembershipConfig, Profile,
};
use weft_identity::{DenyList, IssuingCa, JoinToken, PrivateKey, Trust, TrustBundle};
use weft_link::{Call, Reply};
use weft_protocol::files::NodeSeed;
use weft_protocol::*;
use weft_supervision::testing::{TestTree, eventually, run};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Clock, ClusterId, Failure, FailureKind, Identity,
    Message, NodeId, OperatorId, RequestId, Role, SystemClock,
};

use super::factory;
use crate::config::{Agreement, RETENTION, RegistryConfig, Tended};
use crate::control::{Control, GROUP};
use crate::steward::groups::Spread;

mod groups;

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
        ca: String::new(),
        capacity: Capacity::default(),
        format: FORMAT_LEVEL,
        extra_labels: vec![],
        draining: false,
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
        voter_replace_after: Duration::from_secs(60),
        reschedule_after: Duration::from_secs(1),
        trust: trust(),
        report: Arc::new(|| {
            Some(ReportNode {
                address: "127.0.0.1:7443".into(),
                version: VERSION.into(),
                zone: "a".into(),
                labels: vec![],
                key_fingerprint: String::new(),
                ca: String::new(),
                capacity: Capacity { cpu_millis: 2_000, memory: 1 << 30 },
                format: FORMAT_LEVEL,
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
        voter_replace_after: Duration::from_secs(60),
        reschedule_after: Duration::from_secs(1),
        trust: trust(),
        report: Arc::new(|| None),
        event_retention: RETENTION,
        audit_retention: RETENTION,
    }
}

/// Starts consensus and membership as a daemon does, then the registry. To be stopped before the
/// tree is, so that the next one finds its files closed.
async fn start(tree: &TestTree, config: &RegistryConfig) -> Consensus {
    start_with(tree, config, Vec::new()).await.0
}

/// As [`start`], with other groups that nobody has begun.
async fn start_with(
    tree: &TestTree,
    config: &RegistryConfig,
    others: Vec<(&str, Spread, Box<dyn Machine>)>,
) -> (Consensus, Vec<Group>) {
    let fabric = tree.fabric().clone();
    let door = Door::new(fabric.clone());
    let dir = &config.data_dir;
    let membership =
        Membership::start(MembershipConfig::new(dir, Profile::Lan), fabric.clone(), &door)
            .expect("membership");
    let consensus =
        Consensus::open(ConsensusConfig::new(dir), fabric, &door).await.expect("consensus");
    let control = Control::default();
    let group = consensus.group(GROUP, control.machine()).await.expect("a group");
    let tended = crate::Others::default();
    for (name, spread, machine) in others {
        let group = consensus.group(name, machine).await.expect("a group");
        tended.add(Tended { group, spread });
    }
    let groups = tended.list().iter().map(|tended| tended.group.clone()).collect();
    door.attach();
    if config.seed.bootstrap.is_some() {
        group.bootstrap().await.expect("bootstraps");
    }
    let agreement = Agreement { control, group, membership, others: tended };
    let config = config.clone();
    let make =
        move |incarnation: Incarnation| factory(config.clone(), agreement.clone(), incarnation);
    tree.add(ActorKind::Registry, make).await;
    (consensus, groups)
}

/// The first node, once it leads and is in its own cluster.
async fn lead(tree: &TestTree, config: &RegistryConfig) -> Consensus {
    let consensus = start(tree, config).await;
    view_where(tree, "it leads", |state| !state.nodes.is_empty()).await;
    consensus
}

/// Desired state once it is as wanted.
async fn view_where(tree: &TestTree, what: &str, good: impl Fn(&StateView) -> bool) -> StateView {
    let deadline = SystemClock.now() + Duration::from_secs(20);
    loop {
        let state = view(tree).await;
        if good(&state) {
            return state;
        }
        assert!(SystemClock.now() < deadline, "{what}: {state:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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

async fn view(tree: &TestTree) -> StateView {
    let call = Call::within(Duration::from_secs(10));
    let read = ReadState { consistent: false };
    tree.fabric().ask(Address::here(ActorKind::Registry), read, call).await.expect("reads")
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
    view_where(tree, "its own address is recorded", |s| !s.nodes[0].address.is_empty()).await;
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
        format: FORMAT_LEVEL,
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
        let consensus = lead(&tree, &config).await;
        let message = deploy("web", "1");
        let applied = tree.ask(message.clone()).await.expect("applies");
        assert_eq!((applied.revision, applied.changed), (1, true));
        tree.ask(RestartActor { path: "registry".into() }).await.expect("restarts");
        tree.row_where("registry", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        assert_eq!(tree.ask(message).await.expect("is answered"), applied);
        let state = view(&tree).await;
        assert_eq!(state.services[0].revision, 1);
        view_where(&tree, "both replicas are placed", |s| s.placements.len() == 2).await;
        consensus.stop().await;
    });
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
        assert_eq!(view(&tree).await.services.len(), 1);
        let directory = tree.fabric().directory();
        assert_eq!(directory.leader, Some(leader()), "who leads is known");
        assert_eq!(directory.operators.get(&operator()), Some(&Role::Admin));
        consensus.stop().await;
    });
}

#[test]
fn many_at_once_are_all_acknowledged_in_one_order() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
        let asks = (0..200).map(|n| tree.ask(deploy(&format!("s{n}"), "1")));
        let mut indexes: Vec<_> = futures_util::future::join_all(asks)
            .await
            .into_iter()
            .map(|answer| answer.expect("applies").index)
            .collect();
        indexes.sort_unstable();
        indexes.dedup();
        assert_eq!(indexes.len(), 200);
        assert_eq!(view(&tree).await.services.len(), 200);
        consensus.stop().await;
    });
}

#[test]
fn a_full_disk_refuses_the_change_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        consensus.limit_log(1).await.expect("limits");
        let big = "x".repeat(500_000);
        for _ in 0..2 {
            let refusal = failure(tree.ask(deploy("big", &big)).await);
            assert_eq!(refusal.kind, FailureKind::Exhausted, "{refusal:?}");
            assert_eq!(refusal.node, "n1");
        }
        let names: Vec<_> = view(&tree).await.services.into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["web"]);
        consensus.limit_log(1 << 30).await.expect("raises");
        let deadline = SystemClock.now() + Duration::from_secs(20);
        while let Err(error) = tree.ask(deploy("big", &big)).await {
            assert!(SystemClock.now() < deadline, "{error}");
        }
        assert_eq!(tree.row("registry").expect("row").restarts, 0);
        consensus.stop().await;
    });
}

#[test]
fn the_runtime_is_sent_its_assignments_whenever_they_change() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        // It comes later than the registry, as after a restart.
        let seen = Shared::default();
        let inside = seen.clone();
        let make = move |_: Incarnation| {
            let inside = inside.clone();
            async move { Ok::<_, ActorError>(FakeRuntime(inside)) }
        };
        tree.add(ActorKind::Runtime, make).await;
        let both = || seen.get().filter(|assign| assign.assignments.len() == 2);
        eventually("both replicas are on the only node", both).await;
        tree.ask(propose(Command::Undeploy { service: "web".into() })).await.expect("applies");
        eventually("they are gone", || seen.get().filter(|a| a.assignments.is_empty())).await;
        consensus.stop().await;
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
        let consensus = lead(&tree, &config).await;
        let applied = tree.ask(deploy("web", "1")).await.expect("applies");
        let (_, sent) = eventually("it is taken in the end", || {
            Some(seen.get()).filter(|(left, sent)| {
                *left == 0 && sent.len() > 2 && sent.last() >= Some(&applied.index)
            })
        })
        .await;
        assert!(sent.is_sorted(), "{sent:?}");
        consensus.stop().await;
    });
}

#[test]
fn a_database_of_a_later_version_is_refused_before_anything_starts() {
    const LATER: &[weft_store::Migration] =
        &[weft_store::Migration { version: 99, sql: "CREATE TABLE later (a INTEGER) STRICT;" }];
    let dir = tempfile::tempdir().expect("directory");
    run(async |_| {
        crate::preflight(dir.path()).await.expect("makes what is not there");
        crate::preflight(dir.path()).await.expect("and finds it again");
        let file = dir.path().join("local.db");
        let store = weft_store::Store::open(&file, weft_store::Durability::Normal, LATER)
            .await
            .expect("opens");
        store.close().await;
        let refused = crate::preflight(dir.path()).await.expect_err("a later one");
        let text = format!("{refused} {:?}", refused);
        assert!(text.contains("local.db") && text.contains("99"), "{text}");
    });
}

#[test]
fn without_a_leader_a_change_is_refused_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("directory");
    let absent = NodeId::new(Uuid::from_u128(9));
    let config = second(dir.path(), leader(), absent);
    run(async |tree| {
        let consensus = start(&tree, &config).await;
        let refusal = failure(tree.ask(deploy("web", "1")).await);
        assert_eq!(refusal.kind, FailureKind::Unavailable);
        assert!(refusal.help.contains("weft cluster status"), "{refusal:?}");
        assert_eq!(view(&tree).await.index, 0);
        consensus.stop().await;
    });
}

#[test]
fn a_consistent_read_includes_everything_acknowledged_before() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
        let applied = tree.ask(deploy("web", "1")).await.expect("applies");
        let state = tree.ask(ReadState { consistent: true }).await.expect("reads");
        assert!(state.index >= applied.index);
        consensus.stop().await;
    });
}

#[test]
fn a_plan_for_a_lost_node_changes_nothing_and_an_unknown_node_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
        tree.ask(deploy("web", "1")).await.expect("applies");
        let before = view_where(&tree, "placed", |s| s.placements.len() == 2).await;
        let lost = |id| PlanPlacement { lost: vec![id], spec: None };
        let plan = tree.ask(lost(leader())).await.expect("plans");
        assert!(plan.moves.is_empty(), "there is nowhere to go: {plan:?}");
        assert_eq!(plan.waiting.len(), 2, "{plan:?}");
        assert_eq!(view(&tree).await.placements, before.placements);
        let nobody = NodeId::new(Uuid::from_u128(99));
        assert_eq!(failure(tree.ask(lost(nobody)).await).kind, FailureKind::NotFound);
        consensus.stop().await;
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
        let consensus = start(&tree, &config).await;
        // Two requests later its start is long over.
        for _ in 0..2 {
            view(&tree).await;
        }
        assert_eq!(seen.get(), None);
        consensus.stop().await;
    });
}

#[test]
fn membership_and_trust_commands_cannot_be_proposed() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
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
        consensus.stop().await;
    });
}

#[test]
fn a_machine_joins_renews_by_its_key_and_is_refused_once_removed() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    let trust = config.trust.clone();
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
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
        consensus.stop().await;
    });
}

#[test]
fn a_join_that_is_refused_uses_nothing_up() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
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
            (JoinCluster { format: 0, ..good.clone() }, "understands format level 0"),
            (JoinCluster { name: "n1".into(), ..good.clone() }, "named `n1` already"),
            (JoinCluster { name: "N 2".into(), ..good.clone() }, "not a name for a node"),
            (JoinCluster { csr: vec![1, 2, 3], ..good.clone() }, "request cannot be used"),
        ];
        for (message, expected) in cases {
            let refusal = failure(joiner(message).await);
            assert!(refusal.message.contains(expected), "{expected}: {refusal:?}");
        }
        assert_eq!(view(&tree).await.nodes.len(), 1);
        joiner(good).await.expect("the token is still good");
        consensus.stop().await;
    });
}

#[test]
fn operators_renew_their_own_certificate_and_the_local_socket_reissues() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
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
        let recorded = view(&tree).await.operators[0].key_fingerprint.clone();
        assert_eq!(recorded, key.public_key_fingerprint().to_string());
        let refusal = failure(ask_as(&tree, local, Role::Admin, message("bob")).await);
        assert!(refusal.help.contains("ann"), "{refusal:?}");
        let own = Identity::Operator(operator());
        ask_as(&tree, own, Role::Admin, message("")).await.expect("renews");
        let stranger = Identity::Operator(OperatorId::new(Uuid::from_u128(8)));
        let refusal = failure(ask_as(&tree, stranger, Role::Admin, message("")).await);
        assert_eq!(refusal.kind, FailureKind::Forbidden);
        consensus.stop().await;
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
        kind: EventKind::Component { from: ComponentState::Running, to: ComponentState::Exited },
        cause: "self".into(),
        exit: "exit 1".into(),
        observer: String::new(),
    };
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
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
        consensus.stop().await;
    });
}

#[test]
fn who_leads_grants_leases_of_what_is_placed_and_remembers_none_of_an_earlier_incarnation() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let consensus = lead(&tree, &config).await;
        let spec = ServiceSpec { on_partition: OnPartition::Stop, replicas: 1, ..spec("db", "1") };
        let deploy = Command::Deploy { spec: Box::new(spec), options: DeployOptions::default() };
        tree.ask(propose(deploy)).await.expect("applies");
        let state = view_where(&tree, "it is placed", |s| s.placements.len() == 1).await;
        let placement = &state.placements[0];
        let replica = ReplicaKey { service: "db".into(), replica: 1 };
        let claim = |generation, had| LeaseClaim { replica: replica.clone(), generation, had };
        let renew = |round, claim| RenewLeases { round, claims: vec![claim], stopped: vec![] };
        let refused = async |message: RenewLeases| {
            tree.ask(message).await.expect("answers").remove(0).refused
        };
        assert_eq!(refused(renew(1, claim(placement.generation, false))).await, None);
        let older = refused(renew(2, claim(placement.generation + 1, false))).await;
        assert!(older.is_some_and(|why| why.contains("placed anew")));
        let person = Identity::Operator(operator());
        let denied = ask_as(&tree, person, Role::Admin, renew(3, claim(1, true))).await;
        assert!(matches!(denied, Err(AskError::Denied(_))), "{denied:?}");

        tree.ask(RestartActor { path: "registry".into() }).await.expect("restarts");
        tree.row_where("registry", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        let fresh = refused(renew(4, claim(placement.generation, false))).await;
        assert!(fresh.is_some_and(|why| why.contains("an earlier leader")));
        assert_eq!(refused(renew(5, claim(placement.generation, true))).await, None);
        consensus.stop().await;
    });
}
