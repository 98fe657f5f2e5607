//! The machine by itself: what each command does, what it refuses, and what holds after any
//! sequence of them.

mod blobs;
mod rollout;

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;
use weft_protocol::{
    Applied, Capacity, Command, CommandRef, ComponentSpec, DeployOptions, Desired, Driver,
    EventKind, GroupRecord, NodeChange, NodeRecord, OperationChange, OperationOutcome,
    OperatorRecord, PlacementMove, Previous, Proposal, ReportNode, Resources, RestartPolicy,
    RolloutStep, ServiceSpec, TokenRecord,
};
use weft_wire::{
    Caller, Failure, FailureKind, Identity, NodeId, OperatorId, RequestId, Role, WallTime,
};

use super::{
    Change, ClusterState, OPERATIONS_KEPT, REQUESTS_KEPT, REVISIONS_KEPT, SNAPSHOT_VERSION,
    SnapshotError,
};

fn time(seconds: i64) -> WallTime {
    WallTime::from_micros((1_800_000_000 + seconds) * 1_000_000)
}

fn node_id(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

fn node(n: u128, name: &str) -> NodeRecord {
    NodeRecord {
        id: node_id(n),
        name: name.into(),
        address: format!("127.0.0.1:{}", 7000 + n),
        zone: String::new(),
        labels: vec![],
        version: "0.1.0".into(),
        key_fingerprint: "ab".into(),
        ca: format!("CA of {n}"),
        capacity: Capacity::default(),
        format: 1,
        extra_labels: vec![],
        draining: false,
        joined_at: time(0),
    }
}

fn operator() -> OperatorRecord {
    OperatorRecord {
        id: OperatorId::new(Uuid::from_u128(900)),
        name: "ann".into(),
        role: Role::Admin,
        key_fingerprint: "cd".into(),
        created_at: time(0),
    }
}

fn component(name: &str, arg: &str) -> ComponentSpec {
    ComponentSpec {
        name: name.into(),
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
        cmd: vec!["./run".into(), arg.into()],
        env: vec![],
        health: None,
        resources: Resources::default(),
        routes: vec![],
    }
}

fn service(name: &str, replicas: u32, components: Vec<ComponentSpec>) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        node: String::new(),
        tier: weft_protocol::Tier::Worker,
        active: true,
        version: String::new(),
        path: String::new(),
        comment: String::new(),
        depends_on: vec![],
        replicas,
        on_partition: weft_protocol::OnPartition::Keep,
        placement: weft_protocol::PlacementRules::default(),
        failover: weft_protocol::Failover::default(),
        build_images: std::collections::BTreeMap::new(),
        snapshot: weft_protocol::Snapshot::default(),
        update: weft_protocol::UpdatePolicy::default(),
        files: vec![],
        components,
    }
}

/// A state with a counter for request ids.
struct Machine {
    state: ClusterState,
    requests: u128,
}

impl Machine {
    /// One node `n1`.
    fn new() -> Self {
        let mut machine = Self { state: ClusterState::default(), requests: 0 };
        let first =
            Command::Bootstrap { node: node(1, "n1"), operator: operator(), ca: "CA".into() };
        machine.ok(first);
        machine
    }

    fn with_nodes(count: u128) -> Self {
        let mut machine = Self::new();
        for n in 2..=count {
            machine.join(n, &format!("n{n}"));
        }
        machine
    }

    fn proposal(&mut self, command: Command) -> Proposal {
        self.requests += 1;
        Proposal {
            request: RequestId::new(Uuid::from_u128(self.requests)),
            at: time(i64::try_from(self.requests).expect("small")),
            caller: Caller {
                identity: Identity::Operator(operator().id),
                role: Role::Admin,
                via: None,
            },
            leader: node_id(1),
            command,
        }
    }

    fn try_it(&mut self, command: Command) -> Result<(Applied, Vec<Change>), Failure> {
        let proposal = self.proposal(command);
        let before = self.state.clone();
        let result = self.state.apply(&proposal, self.state.index() + 1);
        if result.is_err() {
            assert!(self.state == before, "a refusal changed something");
        }
        result
    }

    fn ok(&mut self, command: Command) -> (Applied, Vec<Change>) {
        self.try_it(command).expect("applies")
    }

    fn refused(&mut self, command: Command) -> Failure {
        self.try_it(command).expect_err("is refused")
    }

    fn token(&mut self, secret: &str) {
        let expires_at = time(1_000_000);
        self.ok(Command::AddToken {
            token: TokenRecord {
                secret_hash: secret.into(),
                name: String::new(),
                expires_at,
                used_by: None,
                by: "operator".into(),
            },
        });
    }

    fn join(&mut self, n: u128, name: &str) {
        let secret = format!("secret-{n}");
        self.token(&secret);
        self.ok(Command::AddNode { node: node(n, name), secret_hash: secret });
    }

    fn deploy(&mut self, spec: ServiceSpec) -> Applied {
        self.deploy_with(spec, DeployOptions::default())
    }

    /// Has an update that goes on be done.
    fn updated(&mut self, name: &str) {
        let step = weft_protocol::RolloutStep::Done;
        self.ok(Command::Rollout { service: name.into(), operation: 0, step });
    }

    fn deploy_with(&mut self, spec: ServiceSpec, options: DeployOptions) -> Applied {
        self.ok(Command::Deploy { spec: Box::new(spec), options }).0
    }

    fn place(&mut self, service: &str, replica: u32, to: Option<u128>) -> Vec<Change> {
        let known = self.state.view().placements;
        let known = known.iter().find(|p| p.service == service && p.replica == replica);
        let moved = PlacementMove {
            service: service.into(),
            replica,
            generation: known.map_or(0, |p| p.generation),
            to: to.map(node_id),
            previous: None,
            reason: "test".into(),
        };
        self.ok(Command::Place { moves: vec![moved] }).1
    }

    /// Where the replicas of a service are, by number.
    fn places(&self, name: &str) -> Vec<String> {
        let view = self.state.view();
        view.placements
            .iter()
            .filter(|p| p.service == name)
            .map(|p| view.nodes.iter().find(|n| n.id == p.node).expect("live").name.clone())
            .collect()
    }

    fn wanted(&self, name: &str, component: &str) -> Desired {
        self.state.view().service(name).expect("service").desired_of(component)
    }

    fn epoch(&self, name: &str, component: &str) -> u64 {
        self.state.view().service(name).expect("service").epoch_of(component).start
    }
}

fn target(text: &str) -> CommandRef {
    text.parse().expect("reference")
}

fn only(component: &str) -> DeployOptions {
    DeployOptions { component: component.into(), ..DeployOptions::default() }
}

const IF_CHANGED: DeployOptions =
    DeployOptions { component: String::new(), if_changed: true, stopped: Vec::new() };

fn two() -> ServiceSpec {
    service("web", 1, vec![component("api", "1"), component("db", "1")])
}

#[test]
fn a_second_bootstrap_is_refused() {
    let mut m = Machine::new();
    let again = Command::Bootstrap { node: node(2, "n2"), operator: operator(), ca: "CA".into() };
    assert_eq!(m.refused(again).kind, FailureKind::Conflict);
    assert_eq!((m.state.nodes().len(), m.state.format()), (1, 1));
}

#[test]
fn a_deploy_places_nothing_and_takes_away_what_is_too_many() {
    let mut m = Machine::with_nodes(2);
    m.deploy(service("web", 2, vec![component("api", "1")]));
    assert!(m.places("web").is_empty());
    m.place("web", 1, Some(1));
    m.place("web", 2, Some(2));
    m.deploy(service("web", 2, vec![component("api", "2")]));
    assert_eq!(m.places("web"), ["n1", "n2"], "the same places with another definition");
    m.updated("web");
    m.deploy(service("web", 1, vec![component("api", "2")]));
    assert_eq!(m.places("web"), ["n1"]);
}

#[test]
fn a_replica_that_goes_and_returns_has_a_higher_generation() {
    let mut m = Machine::with_nodes(2);
    m.deploy(service("web", 2, vec![component("api", "1")]));
    m.place("web", 1, Some(1));
    m.place("web", 2, Some(2));
    m.ok(Command::Scale { service: "web".into(), replicas: 1 });
    m.ok(Command::Scale { service: "web".into(), replicas: 2 });
    m.place("web", 2, Some(2));
    let generations: Vec<_> =
        m.state.view().placements.iter().map(|p| (p.replica, p.generation)).collect();
    assert_eq!(generations, [(1, 1), (2, 2)]);
    m.ok(Command::Undeploy { service: "web".into() });
    assert!(m.state.view().placements.is_empty());
}

#[test]
fn a_move_that_was_overtaken_is_void() {
    let mut m = Machine::with_nodes(3);
    m.deploy(service("web", 1, vec![component("api", "1")]));
    m.place("web", 1, Some(1));
    let stale = PlacementMove {
        service: "web".into(),
        replica: 1,
        generation: 1,
        to: Some(node_id(2)),
        previous: None,
        reason: "late".into(),
    };
    m.place("web", 1, Some(3));
    for void in [
        stale.clone(),
        PlacementMove { generation: 2, to: Some(node_id(9)), ..stale.clone() },
        PlacementMove { generation: 0, replica: 2, ..stale.clone() },
        PlacementMove { service: "other".into(), ..stale },
    ] {
        assert!(!m.ok(Command::Place { moves: vec![void] }).0.changed);
    }
    assert_eq!(m.places("web"), ["n3"]);
}

#[test]
fn the_same_place_with_another_story_is_no_move() {
    let mut m = Machine::with_nodes(2);
    m.deploy(service("web", 1, vec![component("api", "1")]));
    m.place("web", 1, Some(2));
    let settled = PlacementMove {
        service: "web".into(),
        replica: 1,
        generation: 1,
        to: Some(node_id(2)),
        previous: Some(Previous { node: node_id(1), lost: true }),
        reason: "n1 is lost".into(),
    };
    m.ok(Command::Place { moves: vec![settled] });
    let placement = m.state.view().placements.remove(0);
    assert_eq!(
        (placement.generation, placement.previous),
        (1, Some(Previous { node: node_id(1), lost: true }))
    );
}

#[test]
fn a_pin_to_an_unknown_node_is_refused_with_the_known_ones() {
    let mut m = Machine::with_nodes(3);
    let mut spec = service("web", 2, vec![component("api", "1")]);
    spec.node = "n9".into();
    let refusal =
        m.refused(Command::Deploy { spec: Box::new(spec), options: DeployOptions::default() });
    assert!(refusal.message.contains("`n9`"), "{refusal:?}");
    assert!(refusal.help.contains("n1, n2, n3"), "{refusal:?}");
    assert_eq!(refusal.service, "web");
}

#[test]
fn a_node_with_replicas_is_removed_only_by_force_and_they_lose_their_place() {
    let mut m = Machine::with_nodes(3);
    m.deploy(service("web", 2, vec![component("api", "1")]));
    m.place("web", 1, Some(1));
    m.place("web", 2, Some(2));
    let remove = |force| Command::RemoveNode { id: node_id(2), force };
    let refusal = m.refused(remove(false));
    assert_eq!((refusal.kind, refusal.node.as_str()), (FailureKind::Conflict, "n2"));
    assert!(refusal.message.contains("web") && refusal.help.contains("--force"), "{refusal:?}");
    let (_, changes) = m.ok(remove(true));
    assert_eq!(m.places("web"), ["n1"]);
    assert!(changes.contains(&Change::Trust) && changes.contains(&Change::NodeRemoved(node_id(2))));
    assert!(m.state.denied().contains(&format!("node/{}", node_id(2))));
    let (again, _) = m.ok(remove(true));
    assert!(!again.changed, "removing twice is removing once");
    m.place("web", 2, Some(3));
    assert_eq!(m.state.view().placements[1].generation, 2);
}

#[test]
fn what_kept_data_on_a_removed_node_waits_for_an_operator() {
    let mut m = Machine::with_nodes(3);
    let mut keeps = component("db", "1");
    keeps.volumes.push(weft_protocol::VolumeMapping {
        host: "/srv".into(),
        container: "/data".into(),
        options: String::new(),
    });
    let spec = service("data", 1, vec![keeps]);
    m.deploy(spec.clone());
    m.place("data", 1, Some(2));
    m.ok(Command::RemoveNode { id: node_id(2), force: true });
    let place = m.state.view().placements.remove(0);
    assert_eq!(
        (place.node, place.reason.as_str()),
        (node_id(2), "its data was on n2, which was removed")
    );
    assert!((1..=3).all(|n| m.state.assignments(node_id(n)).is_empty()));
    m.ok(Command::Undeploy { service: "data".into() });
    m.deploy(spec);
    assert!(m.state.view().placements.is_empty(), "free to be placed");
}

/// Who is told to see to `web/1`, and how.
fn told(m: &Machine) -> Vec<(u128, Desired, String, u64)> {
    (1..=3)
        .flat_map(|n| m.state.assignments(node_id(n)).into_iter().map(move |a| (n, a)))
        .map(|(n, a)| (n, a.desired, a.leaving, a.generation))
        .collect()
}

#[test]
fn the_old_copy_is_kept_until_the_move_is_settled_and_of_a_lost_node_it_is_only_not_stopped() {
    let mut m = Machine::with_nodes(3);
    m.deploy(service("web", 1, vec![component("api", "1")]));
    m.place("web", 1, Some(1));
    let go = |generation: u64, lost: Option<bool>| Command::Place {
        moves: vec![PlacementMove {
            service: "web".into(),
            replica: 1,
            generation,
            to: Some(node_id(2)),
            previous: lost.map(|lost| Previous { node: node_id(1), lost }),
            reason: "test".into(),
        }],
    };
    let new = (2, Desired::Running, String::new(), 2);
    m.ok(go(1, Some(false)));
    assert_eq!(told(&m), [(1, Desired::Running, "n2".to_owned(), 2), new.clone()]);
    m.ok(go(2, Some(true)));
    assert_eq!(told(&m), [(1, Desired::Ignore, "n2".to_owned(), 2), new.clone()]);
    m.ok(go(2, None));
    assert_eq!(told(&m), [new]);
    m.ok(go(2, Some(false)));
    m.ok(Command::SetDesired { target: target("web"), desired: Desired::Stopped });
    assert!(told(&m).iter().all(|(_, desired, ..)| *desired == Desired::Stopped));
}

#[test]
fn the_last_node_cannot_be_removed_and_any_other_can() {
    let mut m = Machine::with_nodes(2);
    m.ok(Command::RemoveNode { id: node_id(1), force: true });
    let refusal = m.refused(Command::RemoveNode { id: node_id(2), force: true });
    assert!(refusal.message.contains("last node"), "{refusal:?}");
}

#[test]
fn an_issuer_is_trusted_until_its_node_is_removed() {
    let mut m = Machine::with_nodes(3);
    assert_eq!(m.state.cas(), ["CA"]);
    m.ok(Command::TrustIssuer { node: node_id(2) });
    assert!(!m.ok(Command::TrustIssuer { node: node_id(2) }).0.changed);
    assert_eq!(m.state.cas(), ["CA", "CA of 2"]);
    m.ok(Command::RemoveNode { id: node_id(2), force: true });
    assert_eq!(m.state.cas(), ["CA"]);
    assert_eq!(m.refused(Command::TrustIssuer { node: node_id(2) }).kind, FailureKind::NotFound);
}

#[test]
fn labels_and_drains_of_operators_survive_the_nodes_own_report() {
    let mut m = Machine::with_nodes(2);
    let label = |set: &[&str], remove: &[&str]| Command::LabelNode {
        node: node_id(2),
        set: set.iter().map(|l| (*l).into()).collect(),
        remove: remove.iter().map(|l| (*l).into()).collect(),
    };
    m.ok(label(&["rack=1", "ssd"], &[]));
    m.ok(label(&["rack=2"], &["ssd"]));
    m.ok(Command::Drain { node: node_id(2), on: true });
    m.ok(report(2, "127.0.0.1:1"));
    let record = m.state.node(node_id(2)).expect("there");
    assert!(record.draining);
    assert_eq!(record.all_labels().collect::<Vec<_>>(), ["rack=2"]);
    assert!(m.refused(label(&["a b"], &[])).help.contains("key=value"));
}

#[test]
fn the_format_level_is_raised_only_when_every_node_understands_it() {
    let mut m = Machine::with_nodes(2);
    let refusal = m.refused(Command::RaiseFormat { level: 2 });
    assert!(refusal.message.contains("n1 understands format level 1"), "{refusal:?}");
    for n in 1..=2 {
        let Command::UpdateNode { id, report } = report(n, "127.0.0.1:1") else {
            unreachable!("a report");
        };
        m.ok(Command::UpdateNode { id, report: ReportNode { format: 2, ..report } });
    }
    m.ok(Command::RaiseFormat { level: 2 });
    assert_eq!(m.state.format(), 2);
    assert!(!m.ok(Command::RaiseFormat { level: 1 }).0.changed, "it never falls");
}

#[test]
fn a_group_is_founded_once_by_nodes_that_are_there() {
    let mut m = Machine::with_nodes(2);
    let found = |name: &str, voters: &[u128]| Command::FoundGroup {
        group: GroupRecord {
            name: name.into(),
            voters: voters.iter().map(|n| node_id(*n)).collect(),
        },
    };
    assert!(m.ok(found("session/0", &[1])).0.changed);
    assert!(!m.ok(found("session/0", &[1, 2])).0.changed, "who was first decides");
    let record = m.state.group("session/0").expect("there").clone();
    assert_eq!(record.voters, [node_id(1)]);
    assert!(m.refused(found("session/1", &[9])).message.contains("no node any more"));
    for (name, voters) in [("", &[1][..]), ("session/1", &[])] {
        assert!(m.refused(found(name, voters)).message.contains("a name"));
    }
    let bytes = m.state.snapshot().expect("a snapshot");
    let restored = ClusterState::restore(SNAPSHOT_VERSION, &bytes).expect("restores");
    assert_eq!(restored.group("session/0"), Some(&record));
}

#[test]
fn a_command_of_a_later_format_level_is_refused_and_one_of_an_earlier_is_not() {
    for (needed, agreed, passes) in [(1, 1, true), (1, 2, true), (2, 1, false), (3, 2, false)] {
        let gated = super::apply::gate(needed, agreed);
        assert_eq!(gated.is_ok(), passes, "{needed} of {agreed}");
        if let Err(refusal) = gated {
            assert_eq!(refusal.kind, FailureKind::Unsupported);
            assert!(refusal.help.contains("upgrade"), "{refusal:?}");
        }
    }
}

fn report(n: u128, address: &str) -> Command {
    let report = ReportNode {
        address: address.into(),
        version: String::new(),
        zone: String::new(),
        labels: vec![],
        key_fingerprint: String::new(),
        ca: String::new(),
        capacity: Capacity::default(),
        format: 1,
    };
    Command::UpdateNode { id: node_id(n), report }
}

#[test]
fn a_removed_name_can_be_used_again_and_a_removed_id_never() {
    let mut m = Machine::with_nodes(2);
    m.ok(Command::RemoveNode { id: node_id(2), force: false });
    m.token("again");
    let back = Command::AddNode { node: node(2, "n2"), secret_hash: "again".into() };
    assert_eq!(m.refused(back).kind, FailureKind::Forbidden);
    m.join(3, "n2");
    assert_eq!(m.refused(report(2, "x")).kind, FailureKind::Forbidden);
}

#[test]
fn a_name_that_is_taken_is_refused_at_join() {
    let mut m = Machine::with_nodes(2);
    m.token("s");
    let refusal = m.refused(Command::AddNode { node: node(3, "n2"), secret_hash: "s".into() });
    assert!(refusal.message.contains("named `n2` already"), "{refusal:?}");
    m.ok(Command::AddNode { node: node(3, "n3"), secret_hash: "s".into() });
}

#[test]
fn a_reused_token_is_refused() {
    let mut m = Machine::new();
    m.join(2, "n2");
    let again = Command::AddNode { node: node(3, "n3"), secret_hash: "secret-2".into() };
    let refusal = m.refused(again);
    assert_eq!(refusal.kind, FailureKind::Unauthenticated);
    assert!(refusal.message.contains("used already by n2"), "{refusal:?}");
    assert!(refusal.help.contains("weft node token"), "{refusal:?}");
}

#[test]
fn an_expired_token_and_an_unknown_one_are_refused() {
    let mut m = Machine::new();
    m.token("s");
    let mut late = m.proposal(Command::AddNode { node: node(2, "n2"), secret_hash: "s".into() });
    late.at = time(1_000_000);
    let refusal = m.state.apply(&late, m.state.index() + 1).expect_err("expired");
    assert!(refusal.message.contains("expired at 2027-"), "{refusal:?}");
    let unknown = Command::AddNode { node: node(2, "n2"), secret_hash: "t".into() };
    assert!(m.refused(unknown).message.contains("not known"));
}

#[test]
fn a_token_with_a_name_is_good_for_that_name_only() {
    let mut m = Machine::new();
    m.ok(Command::AddToken {
        token: TokenRecord {
            secret_hash: "s".into(),
            name: "edge".into(),
            expires_at: time(1_000_000),
            used_by: None,
            by: String::new(),
        },
    });
    let other = Command::AddNode { node: node(2, "n2"), secret_hash: "s".into() };
    assert!(m.refused(other).message.contains("named `edge`"));
    m.ok(Command::AddNode { node: node(2, "edge"), secret_hash: "s".into() });
}

#[test]
fn the_hundred_and_first_node_is_refused() {
    let mut m = Machine::with_nodes(100);
    m.token("s");
    let refusal = m.refused(Command::AddNode { node: node(101, "n101"), secret_hash: "s".into() });
    assert_eq!(refusal.kind, FailureKind::Exhausted);
}

#[test]
fn a_revision_is_made_only_when_the_definition_differs() {
    let mut m = Machine::new();
    assert_eq!(m.deploy(two()).revision, 1);
    let same = m.deploy_with(two(), IF_CHANGED);
    assert_eq!((same.revision, same.changed), (1, false));
    let again = m.deploy(two());
    assert_eq!((again.revision, again.changed), (1, true), "components are recreated");
    assert_eq!((m.epoch("web", "api"), m.epoch("web", "db")), (1, 1));
    let mut other = two();
    other.components[0].cmd.push("x".into());
    assert_eq!(m.deploy_with(other, IF_CHANGED).revision, 2);
    assert_eq!((m.epoch("web", "api"), m.epoch("web", "db")), (1, 1), "the hash does it");
}

#[test]
fn deploying_one_component_touches_only_that_one() {
    let mut m = Machine::new();
    m.deploy(two());
    m.place("web", 1, Some(1));
    let before = m.state.assignments(node_id(1));
    let mut changed =
        service("web", 7, vec![component("api", "2"), component("db", "2"), component("new", "1")]);
    m.deploy_with(changed.clone(), only("api"));
    m.updated("web");
    let after = m.state.assignments(node_id(1));
    assert_eq!(after.len(), 2);
    assert_ne!(after[0].spec_hash, before[0].spec_hash);
    assert_eq!((after[0].epoch, after[1].epoch), (1, 0));
    assert_eq!(after[1].spec_hash, before[1].spec_hash);
    m.deploy_with(changed.clone(), only("new"));
    m.updated("web");
    assert_eq!(m.state.assignments(node_id(1)).len(), 3);
    changed.name = "web".into();
    let refusal = m.refused(Command::Deploy { spec: Box::new(changed), options: only("nope") });
    assert_eq!((refusal.kind, refusal.component.as_str()), (FailureKind::NotFound, "nope"));
    assert!(refusal.help.contains("api, db, new"), "{refusal:?}");
}

#[test]
fn the_last_ten_revisions_are_kept() {
    let mut m = Machine::new();
    for n in 1..=13 {
        m.deploy(service("web", 1, vec![component("api", &n.to_string())]));
    }
    let numbers: Vec<_> = m.state.revisions("web").iter().map(|r| r.number).collect();
    assert_eq!(numbers, (4..=13).collect::<Vec<_>>());
    assert_eq!(numbers.len(), REVISIONS_KEPT);
}

#[test]
fn a_definition_that_is_not_active_is_recorded_and_wants_nothing_to_run() {
    let mut m = Machine::new();
    let mut spec = two();
    spec.active = false;
    m.deploy(spec.clone());
    m.place("web", 1, Some(1));
    assert_eq!(m.wanted("web", "api"), Desired::Stopped);
    assert_eq!(m.state.assignments(node_id(1)).len(), 2);
    spec.active = true;
    let started = m.deploy_with(spec, IF_CHANGED);
    assert_eq!((started.revision, started.changed), (1, true));
    assert_eq!(m.wanted("web", "api"), Desired::Running);
}

#[test]
fn stopping_and_starting_a_service_or_a_component_changes_what_is_wanted() {
    let mut m = Machine::new();
    m.deploy(two());
    let set = |text: &str, desired| Command::SetDesired { target: target(text), desired };
    m.ok(set("web/db", Desired::Stopped));
    assert_eq!(
        (m.wanted("web", "api"), m.wanted("web", "db")),
        (Desired::Running, Desired::Stopped)
    );
    m.ok(set("web", Desired::Stopped));
    assert_eq!(m.wanted("web", "api"), Desired::Stopped);
    m.ok(set("web/api", Desired::Running));
    assert_eq!(
        (m.wanted("web", "api"), m.wanted("web", "db")),
        (Desired::Running, Desired::Stopped)
    );
    m.ok(set("web", Desired::Running));
    assert_eq!(
        (m.wanted("web", "api"), m.wanted("web", "db")),
        (Desired::Running, Desired::Running)
    );
    assert!(!m.ok(set("web", Desired::Running)).0.changed);
    m.ok(set("web", Desired::Ignore));
    assert_eq!(m.wanted("web", "db"), Desired::Ignore);
    let refusal = m.refused(set("nope", Desired::Running));
    assert!(refusal.help.contains("web"), "{refusal:?}");
}

#[test]
fn a_restart_raises_the_epoch_of_what_it_names() {
    let mut m = Machine::new();
    m.deploy(two());
    m.ok(Command::Restart { target: target("web/db") });
    m.ok(Command::Restart { target: target("web") });
    assert_eq!((m.epoch("web", "api"), m.epoch("web", "db")), (1, 2));
}

#[test]
fn an_undeployed_service_keeps_its_history_and_can_be_deployed_again() {
    let mut m = Machine::new();
    m.deploy(two());
    m.ok(Command::Undeploy { service: "web".into() });
    assert!(m.state.assignments(node_id(1)).is_empty());
    assert!(!m.ok(Command::Undeploy { service: "web".into() }).0.changed);
    let refusal = m.refused(Command::Restart { target: target("web") });
    assert!(refusal.help.contains("weft deploy web"), "{refusal:?}");
    let back = m.deploy(two());
    assert_eq!(back.revision, 1);
    assert_eq!(m.wanted("web", "api"), Desired::Running);
}

#[test]
fn a_route_that_another_service_of_the_node_has_is_refused_with_its_holder() {
    let mut m = Machine::with_nodes(2);
    let with = |name: &str, host: &str, port: u16, node: &str| {
        let mut api = component("api", "1");
        api.routes.push(weft_protocol::RouteSpec {
            name: String::new(),
            port,
            mode: weft_protocol::RouteMode::L4,
            hostname: host.into(),
            public: false,
            backend_tls: None,
        });
        let mut spec = service(name, 1, vec![api]);
        spec.node = node.into();
        spec
    };
    m.deploy(with("one", "a.example", 443, "n1"));
    m.deploy(with("one", "a.example", 443, ""));
    let deploy = |spec| Command::Deploy { spec: Box::new(spec), options: DeployOptions::default() };
    let refusal = m.refused(deploy(with("two", "A.example", 443, "n2")));
    assert_eq!(refusal.kind, FailureKind::Conflict);
    assert!(refusal.message.contains("`one/api`"), "{refusal:?}");
    m.deploy(with("one", "a.example", 443, "n1"));
    // On another node, on another port, by another name, by the service's own name, or later.
    m.deploy(with("two", "a.example", 443, "n2"));
    m.deploy(with("three", "a.example", 444, ""));
    m.deploy(with("four", "b.example", 443, ""));
    m.deploy(with("five", "", 443, ""));
    m.deploy(with("six", "", 443, ""));
    m.ok(Command::Undeploy { service: "one".into() });
    m.deploy(with("seven", "a.example", 443, "n1"));
}

#[test]
fn only_an_undeployed_service_is_purged_and_its_generations_do_not_begin_anew() {
    let mut m = Machine::with_nodes(2);
    let purge = Command::Purge { service: "web".into() };
    assert_eq!(m.refused(purge.clone()).kind, FailureKind::NotFound);
    m.deploy(two());
    m.place("web", 1, Some(1));
    m.place("web", 1, Some(2));
    let before = m.state.view().placements[0].generation;
    let refusal = m.refused(purge.clone());
    assert!(refusal.help.contains("weft undeploy web"), "{refusal:?}");
    m.ok(Command::Undeploy { service: "web".into() });
    assert_eq!(m.ok(purge).1, [Change::Service("web".into())]);
    assert!(m.state.service("web").is_none() && m.state.revisions("web").is_empty());
    assert_eq!(m.deploy(two()).revision, 1, "it begins anew");
    m.place("web", 1, Some(1));
    assert!(m.state.view().placements[0].generation > before);
}

#[test]
fn definitions_that_cannot_be_are_refused() {
    let mut m = Machine::new();
    let bad = [
        service("Web", 1, vec![component("a", "1")]),
        service("web", 0, vec![component("a", "1")]),
        service("web", 1, vec![]),
        service("web", 1, vec![component("a", "1"), component("a", "2")]),
        service("web", 1, vec![component("-", "1")]),
    ];
    for spec in bad {
        let refusal =
            m.refused(Command::Deploy { spec: Box::new(spec), options: DeployOptions::default() });
        assert_eq!(refusal.kind, FailureKind::Invalid);
        assert!(!refusal.help.is_empty(), "{refusal:?}");
    }
}

#[test]
fn a_retry_is_answered_as_before_until_it_is_forgotten() {
    let mut m = Machine::new();
    let deploy =
        m.proposal(Command::Deploy { spec: Box::new(two()), options: DeployOptions::default() });
    let (first, _) = m.state.apply(&deploy, 2).expect("applies");
    let before = m.state.clone();
    let (retry, changes) = m.state.apply(&deploy, 3).expect("is answered");
    assert_eq!((retry, changes), (first, vec![]));
    assert!(m.state == before);
    for _ in 0..REQUESTS_KEPT {
        let restart = m.proposal(Command::Restart { target: target("web/api") });
        m.state.apply(&restart, m.state.index() + 1).expect("applies");
    }
    let index = m.state.index() + 1;
    assert_eq!(m.state.apply(&deploy, index).expect("applies anew").0.index, index);
}

#[test]
fn a_position_that_is_not_the_next_one_is_refused() {
    let mut m = Machine::new();
    let restart = m.proposal(Command::Restart { target: target("web") });
    assert_eq!(m.state.apply(&restart, 5).expect_err("gap").kind, FailureKind::Internal);
}

#[test]
fn a_snapshot_of_a_newer_layout_is_refused() {
    let bytes = Machine::new().state.snapshot().expect("snapshot");
    let error = ClusterState::restore(SNAPSHOT_VERSION + 1, &bytes).expect_err("newer");
    assert_eq!(error, SnapshotError::Version { found: SNAPSHOT_VERSION + 1 });
    assert!(ClusterState::restore(SNAPSHOT_VERSION, &bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn an_operation_begins_with_the_entry_that_asks_for_it_and_ends_once() {
    let mut m = Machine::with_nodes(2);
    let first = m.deploy(two());
    assert_eq!(first.operation, first.index);
    let same = m.deploy_with(two(), IF_CHANGED);
    assert_eq!(same.operation, 0, "nothing was to change");
    let running = m.state.operations().next().expect("one").clone();
    assert_eq!((running.id, running.caller.as_str()), (first.operation, "ann"));
    assert_eq!((running.owner, running.revision), (node_id(1), 1));
    let finish = |id, detail: &str| Command::Operations {
        changes: vec![OperationChange::Finish {
            id,
            outcome: OperationOutcome::Done,
            detail: detail.into(),
        }],
    };
    let take = OperationChange::Take { id: running.id, owner: node_id(2) };
    m.ok(Command::Operations { changes: vec![take] });
    assert_eq!(m.state.operations().next().expect("one").owner, node_id(2));
    assert!(m.ok(finish(running.id, "all well")).0.changed);
    assert!(!m.ok(finish(running.id, "again")).0.changed);
    let end = m.state.operations().next().expect("kept").finished.clone().expect("over");
    assert_eq!(end.detail, "all well");
}

#[test]
fn a_later_operation_on_the_same_takes_the_place_of_the_one_that_goes_on() {
    let mut m = Machine::with_nodes(2);
    let first = m.deploy(two()).operation;
    let second = m.ok(Command::Restart { target: target("web/api") }).0.operation;
    let outcome = |state: &ClusterState, id| {
        let operation = state.operations().find(|o| o.id == id).expect("kept").clone();
        operation.finished.map(|end| end.outcome)
    };
    assert_eq!(outcome(&m.state, first), Some(OperationOutcome::Superseded));
    assert_eq!(outcome(&m.state, second), None);
    let third = m.ok(Command::Restart { target: target("web/db") }).0.operation;
    assert_eq!(outcome(&m.state, second), None, "another component");
    let drain = m.ok(Command::Drain { node: node_id(2), on: true }).0.operation;
    assert_eq!(outcome(&m.state, drain), None);
    m.ok(Command::Drain { node: node_id(2), on: false });
    assert_eq!(outcome(&m.state, drain), Some(OperationOutcome::Superseded), "called off");
    assert_eq!(outcome(&m.state, third), None);
}

#[test]
fn operations_that_ended_are_kept_for_a_day_and_the_last_hundred_at_most() {
    let mut m = Machine::new();
    m.deploy(two());
    for _ in 0..OPERATIONS_KEPT + 20 {
        m.ok(Command::Restart { target: target("web") });
    }
    let ended = m.state.operations().filter(|o| !o.is_running()).count();
    assert_eq!(ended, OPERATIONS_KEPT);
    let mut late = m.proposal(Command::Restart { target: target("web") });
    late.at = time(2 * 24 * 3600);
    m.state.apply(&late, m.state.index() + 1).expect("applies");
    // What went on until now has just ended.
    assert_eq!(m.state.operations().filter(|o| !o.is_running()).count(), 1);
}

/// A step of an update, whether it fits or not.
fn step() -> impl Strategy<Value = RolloutStep> {
    prop_oneof![
        (0u32..4).prop_map(RolloutStep::Extra),
        Just(RolloutStep::StopFirst("x".into())),
        prop::collection::vec(1u32..6, 1..4).prop_map(RolloutStep::Update),
        Just(RolloutStep::Pause("x".into())),
        Just(RolloutStep::Resume),
        Just(RolloutStep::Halt("x".into())),
        Just(RolloutStep::Back("x".into())),
        Just(RolloutStep::Done),
    ]
}

/// A command out of few names, so that they meet.
fn command() -> impl Strategy<Value = Command> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let part = prop::sample::select(vec!["x", "y"]);
    let nodes = prop::sample::select(vec!["", "", "", "n2", "n3"]);
    let desired = prop::sample::select(vec![Desired::Running, Desired::Stopped, Desired::Ignore]);
    let spec = (name.clone(), 1u32..5, nodes, any::<bool>(), "[12]", any::<bool>()).prop_map(
        |(name, replicas, pin, active, arg, both)| {
            let mut components = vec![component("x", &arg)];
            if both {
                components.push(component("y", &arg));
            }
            ServiceSpec { node: pin.into(), active, ..service(name, replicas, components) }
        },
    );
    let options = (prop::sample::select(vec!["", "", "x", "y"]), any::<bool>()).prop_map(
        |(component, if_changed)| DeployOptions {
            component: component.into(),
            if_changed,
            stopped: if if_changed { vec!["y".into()] } else { vec![] },
        },
    );
    let reference = (name.clone(), prop::option::of(part)).prop_map(|(service, part)| CommandRef {
        service: service.into(),
        component: part.unwrap_or_default().into(),
    });
    prop_oneof![
        4 => (spec, options)
            .prop_map(|(spec, options)| Command::Deploy { spec: Box::new(spec), options }),
        2 => (reference.clone(), desired)
            .prop_map(|(target, desired)| Command::SetDesired { target, desired }),
        1 => reference.prop_map(|target| Command::Restart { target }),
        1 => name.clone().prop_map(|service| Command::Undeploy { service: service.into() }),
        1 => name.clone().prop_map(|service| Command::Purge { service: service.into() }),
        1 => (name.clone(), 1u32..5)
            .prop_map(|(service, replicas)| Command::Scale { service: service.into(), replicas }),
        1 => (name.clone(), 0u64..4)
            .prop_map(|(service, revision)| Command::Rollback { service: service.into(), revision }),
        3 => (name, 0u64..60, any::<bool>(), step()).prop_map(|(service, id, any, step)| {
            Command::Rollout {
                service: service.into(),
                operation: if any { 0 } else { id },
                step,
            }
        }),
        2 => (2u128..6, any::<bool>())
            .prop_map(|(n, force)| Command::RemoveNode { id: node_id(n), force }),
        2 => (0u32..8).prop_map(|n| Command::AddToken { token: TokenRecord {
            secret_hash: format!("t{n}"),
            name: String::new(),
            expires_at: time(1_000_000),
            used_by: None,
            by: String::new(),
        }}),
        3 => (2u128..10, 2u32..5, 0u32..8).prop_map(|(n, name, token)| Command::AddNode {
            node: node(n, &format!("n{name}")),
            secret_hash: format!("t{token}"),
        }),
        1 => (1u128..6, "[ab]").prop_map(|(n, address)| report(n, &address)),
        1 => (1u128..6).prop_map(|n| Command::TrustIssuer { node: node_id(n) }),
        1 => (1u128..6, any::<bool>()).prop_map(|(n, on)| Command::Drain { node: node_id(n), on }),
        2 => (0u64..60, 0usize..4, any::<bool>()).prop_map(|(id, outcome, take)| {
            Command::Operations { changes: vec![if take {
                OperationChange::Take { id, owner: node_id(2) }
            } else {
                let outcome = OperationOutcome::ALL[outcome];
                OperationChange::Finish { id, outcome, detail: "x".into() }
            }] }
        }),
        4 => (prop::sample::select(vec!["a", "b", "c"]), 1u32..5, 0u64..4,
              prop::option::of(1u128..6), prop::option::of(1u128..6))
            .prop_map(|(service, replica, generation, to, previous)| Command::Place {
                moves: vec![PlacementMove {
                    service: service.into(),
                    replica,
                    generation,
                    to: to.map(node_id),
                    previous: previous.map(|n| Previous { node: node_id(n), lost: n > 2 }),
                    reason: String::new(),
                }],
            }),
    ]
}

fn check_invariants(state: &ClusterState) {
    let view = state.view();
    for placement in &view.placements {
        assert!(state.node(placement.node).is_some(), "placed on a node that is not there");
        assert!(!state.denied().contains(&format!("node/{}", placement.node)));
        let service = view.service(&placement.service).expect("placed service exists");
        assert!(!service.undeployed && placement.replica <= service.replicas());
    }
    let mut names: Vec<_> = view.nodes.iter().map(|node| &node.name).collect();
    names.dedup();
    assert_eq!(names.len(), view.nodes.len(), "two nodes of one name");
    assert!(!view.nodes.is_empty() && !view.cas.is_empty());
    let over = view.operations.iter().filter(|o| !o.is_running()).count();
    assert!(over <= OPERATIONS_KEPT);
    // What stops, starts or restarts a service goes on beside its update; see `begin`.
    let updates: Vec<u64> = state.updates().map(|rollout| rollout.operation).collect();
    let running = || view.operations.iter().filter(|o| o.is_running());
    for operation in running() {
        let updates_it = updates.contains(&operation.id);
        let same = running().filter(|other| {
            updates.contains(&other.id) == updates_it
                && (&other.service, other.node) == (&operation.service, operation.node)
                && (updates_it || other.component == operation.component)
        });
        assert_eq!(same.count(), 1, "two go on with the same");
    }
    for service in &view.services {
        let revisions = state.revisions(&service.name);
        let numbers: Vec<_> = revisions.iter().map(|r| r.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.len() <= REVISIONS_KEPT);
        assert!(numbers.contains(&service.revision), "what is in force is kept");
        let kept = |number: u64| numbers.contains(&number);
        assert!(service.rollout.as_ref().is_none_or(|r| kept(r.other.revision)), "and the other");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_events_tell_of_nodes_and_places_is_what_is_so_and_no_two_have_one_id(
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let mut m = Machine::with_nodes(2);
        let mut other = m.state.clone();
        let mut ids = std::collections::HashSet::new();
        let places = |state: &ClusterState| -> std::collections::BTreeMap<(String, u32), String> {
            let view = state.view();
            let name = |id| view.nodes.iter().find(|n| n.id == id).map(|n| n.name.clone());
            view.placements.iter()
                .map(|p| ((p.service.clone(), p.replica), name(p.node).unwrap_or_default()))
                .collect()
        };
        let nodes = |state: &ClusterState| -> std::collections::BTreeMap<String, bool> {
            state.nodes().iter().map(|n| (n.name.clone(), n.draining)).collect()
        };
        let (mut where_, mut there) = (places(&m.state), nodes(&m.state));
        for command in commands {
            let proposal = m.proposal(command);
            let index = m.state.index() + 1;
            let told = m.state.apply_told(&proposal, index);
            prop_assert_eq!(&told, &other.apply_told(&proposal, index), "the same everywhere");
            let Ok((_, events)) = told else { continue };
            for event in events {
                prop_assert!(ids.insert(event.id), "{event:?}");
                prop_assert_eq!(event.time, proposal.at);
                let named = event.cause.is_empty() && matches!(proposal.command, Command::Place { .. });
                prop_assert!(named || !event.cause.is_empty(), "{:?}", event);
                match event.kind {
                    EventKind::Placement { from, to } => {
                        let key = (event.service, event.replica);
                        prop_assert_ne!(&from, &to);
                        prop_assert_eq!(where_.get(&key).cloned().unwrap_or_default(), from);
                        if to.is_empty() { where_.remove(&key); } else { where_.insert(key, to); }
                    }
                    EventKind::Node { to: NodeChange::Joined } => {
                        prop_assert!(there.insert(event.node, false).is_none());
                    }
                    EventKind::Node { to: NodeChange::Removed } => {
                        prop_assert!(there.remove(&event.node).is_some());
                    }
                    EventKind::Node { to: NodeChange::Draining } => {
                        prop_assert_eq!(there.insert(event.node, true), Some(false));
                    }
                    EventKind::Node { to: NodeChange::Undrained } => {
                        prop_assert_eq!(there.insert(event.node, false), Some(true));
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(&where_, &places(&m.state));
            prop_assert_eq!(&there, &nodes(&m.state));
        }
    }

    #[test]
    fn any_sequence_gives_the_same_bytes_everywhere_and_keeps_the_invariants(
        commands in prop::collection::vec(command(), 1..60),
        cut in 0usize..60,
        repeat in 0usize..60,
    ) {
        let mut m = Machine::with_nodes(2);
        let mut replica = m.state.clone();
        let mut restored = m.state.clone();
        let mut generations = std::collections::HashMap::new();
        let mut done = Vec::new();
        for (step, command) in commands.into_iter().enumerate() {
            let proposal = m.proposal(command);
            let index = m.state.index() + 1;
            let result = m.state.apply(&proposal, index);
            prop_assert_eq!(&result, &replica.apply(&proposal, index));
            if step == cut {
                let bytes = restored.snapshot().expect("snapshot");
                restored = ClusterState::restore(SNAPSHOT_VERSION, &bytes).expect("restores");
            }
            prop_assert_eq!(&result, &restored.apply(&proposal, index));
            check_invariants(&m.state);
            if let Ok((applied, _)) = result {
                done.push((proposal, applied));
            }
            for placement in m.state.view().placements {
                let key = (placement.service, placement.replica);
                let now = (placement.generation, placement.node);
                let before = generations.insert(key, now).unwrap_or(now);
                prop_assert!(now.0 > before.0 || now == before, "{before:?} then {now:?}");
            }
        }
        let bytes = m.state.snapshot().expect("snapshot");
        prop_assert_eq!(&bytes, &replica.snapshot().expect("snapshot"));
        prop_assert_eq!(&bytes, &restored.snapshot().expect("snapshot"));
        if let Some((proposal, applied)) = done.get(repeat % done.len().max(1)) {
            let index = m.state.index() + 1;
            let (again, changes) = m.state.apply(proposal, index).expect("is answered");
            prop_assert_eq!(&again, applied);
            prop_assert!(changes.is_empty());
            prop_assert_eq!(bytes, m.state.snapshot().expect("snapshot"));
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_snapshot_and_never_panic(bytes: Vec<u8>) {
        let _ = ClusterState::restore(SNAPSHOT_VERSION, &bytes);
    }
}
