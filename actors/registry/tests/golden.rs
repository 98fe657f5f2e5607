//! Pins the bytes of stored proposals and of the snapshot: what is in a log or a checkpoint
//! must stay readable for ever.
//!
//! `WEFT_UPDATE_GOLDEN=1 cargo test -p weft-registry --test golden` adds what is not there yet. A
//! file that is there is never changed: a new layout gets a new version and a file of its own, and
//! the old file must still read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;
use weft_protocol::*;
use weft_registry::PROPOSAL_VERSION;
use weft_registry::state::{ClusterState, SNAPSHOT_VERSION};
use weft_wire::{Caller, Identity, NodeId, OperatorId, RequestId, Role, WallTime, codec};

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.chunks(40).map(|line| line.concat() + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// The bytes in the file; they must be these.
fn pinned(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = file(name);
    if !path.exists() && std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, hex(bytes)).expect("writes");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(text, hex(bytes), "{name}: the layout changed: give it a new version");
    unhex(&text)
}

fn time(seconds: i64) -> WallTime {
    WallTime::from_micros((1_800_000_000 + seconds) * 1_000_000)
}

fn node(n: u128, name: &str) -> NodeRecord {
    NodeRecord {
        id: NodeId::new(Uuid::from_u128(n)),
        name: name.into(),
        address: "127.0.0.1:7443".into(),
        zone: "a".into(),
        labels: vec!["ssd".into()],
        version: "0.1.0".into(),
        key_fingerprint: "ab".into(),
        ca: format!("CA of {name}"),
        capacity: Capacity { cpu_millis: 2_000, memory: 1 << 30 },
        format: FORMAT_LEVEL,
        extra_labels: vec!["rack=2".into()],
        draining: false,
        joined_at: time(0),
    }
}

fn operator() -> OperatorRecord {
    OperatorRecord {
        id: OperatorId::new(Uuid::from_u128(9)),
        name: "ann".into(),
        role: Role::Admin,
        key_fingerprint: "cd".into(),
        created_at: time(0),
    }
}

fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "web".into(),
        node: String::new(),
        tier: Tier::Worker,
        active: true,
        version: "v1".into(),
        path: "web".into(),
        comment: "a comment".into(),
        depends_on: vec!["db".into()],
        replicas: 2,
        on_partition: OnPartition::Keep,
        placement: PlacementRules { require: vec!["ssd".into()], ..PlacementRules::default() },
        failover: Failover::default(),
        build_images: BTreeMap::from([("web".into(), "Containerfile".into())]),
        snapshot: Snapshot::default(),
        update: UpdatePolicy::default(),
        files: vec![weft_protocol::ShippedFile {
            path: "./hello".into(),
            mode: 0o755,
            size: 3,
            digest: "ab".repeat(32),
        }],
        components: vec![ComponentSpec {
            name: "api".into(),
            driver: Driver::Process,
            image: String::new(),
            version: String::new(),
            network: String::new(),
            user: String::new(),
            restart: RestartPolicy::OnFailure(Some(3)),
            stop_grace: Duration::from_secs(10),
            workdir: String::new(),
            ports: vec![PortMapping {
                host_ip: String::new(),
                host: 80,
                container: 8080,
                udp: false,
            }],
            volumes: vec![],
            cmd: vec!["hello".into()],
            env: vec![("K".into(), "V".into())],
            health: Some(HealthCheck {
                kind: HealthKind::Http,
                port: String::new(),
                path: "/".into(),
                command: vec![],
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(2),
                retries: 3,
                start_period: Duration::ZERO,
            }),
            resources: Resources { cpu_millis: Some(500), memory: None },
            routes: vec![RouteSpec {
                name: String::new(),
                port: 443,
                mode: RouteMode::L7,
                hostname: String::new(),
                public: true,
                backend_tls: Some(false),
            }],
        }],
    }
}

fn reference(component: &str) -> CommandRef {
    CommandRef { service: "web".into(), component: component.into() }
}

/// One of each, in an order in which all of them apply.
fn commands() -> Vec<(&'static str, Command)> {
    let options = DeployOptions { if_changed: true, ..DeployOptions::default() };
    vec![
        (
            "bootstrap",
            Command::Bootstrap { node: node(1, "n1"), operator: operator(), ca: "CA".into() },
        ),
        (
            "add-token",
            Command::AddToken {
                token: TokenRecord {
                    secret_hash: "ef".into(),
                    name: "n2".into(),
                    expires_at: time(3600),
                    used_by: None,
                    by: "operator".into(),
                },
            },
        ),
        ("add-node", Command::AddNode { node: node(2, "n2"), secret_hash: "ef".into() }),
        (
            "update-node",
            Command::UpdateNode {
                id: node(2, "n2").id,
                report: ReportNode {
                    address: "127.0.0.1:7444".into(),
                    version: "0.1.1".into(),
                    zone: "b".into(),
                    labels: vec!["x=y".into()],
                    key_fingerprint: "12".into(),
                    ca: "CA of n2".into(),
                    capacity: Capacity { cpu_millis: 4_000, memory: 2 << 30 },
                    format: FORMAT_LEVEL,
                },
            },
        ),
        ("trust-issuer", Command::TrustIssuer { node: node(2, "n2").id }),
        ("drain", Command::Drain { node: node(2, "n2").id, on: true }),
        (
            "label-node",
            Command::LabelNode {
                node: node(2, "n2").id,
                set: vec!["rack=3".into()],
                remove: vec!["ssd".into()],
            },
        ),
        ("deploy", Command::Deploy { spec: Box::new(spec()), options }),
        (
            "place",
            Command::Place {
                moves: [(1, 1), (2, 2)]
                    .map(|(replica, to)| PlacementMove {
                        service: "web".into(),
                        replica,
                        generation: 0,
                        to: Some(node(to, "").id),
                        previous: Some(Previous { node: node(2, "n2").id, lost: true }),
                        reason: "it had no place".into(),
                    })
                    .into(),
            },
        ),
        ("raise-format", Command::RaiseFormat { level: 1 }),
        ("restart", Command::Restart { target: reference("api") }),
        (
            "set-desired",
            Command::SetDesired { target: reference("api"), desired: Desired::Stopped },
        ),
        ("remove-node", Command::RemoveNode { id: node(2, "n2").id, force: true }),
        (
            "put-operator",
            Command::PutOperator {
                operator: OperatorRecord { key_fingerprint: "34".into(), ..operator() },
            },
        ),
        (
            "operations",
            Command::Operations {
                changes: vec![
                    OperationChange::Take { id: 6, owner: node(1, "").id },
                    OperationChange::Finish {
                        id: 6,
                        outcome: OperationOutcome::Failed,
                        detail: "web/1 stays".into(),
                    },
                ],
            },
        ),
        ("scale", Command::Scale { service: "web".into(), replicas: 3 }),
        ("rollback", Command::Rollback { service: "web".into(), revision: 1 }),
        (
            "rollout",
            Command::Rollout {
                service: "web".into(),
                operation: 1,
                step: RolloutStep::Update(vec![1, 2]),
            },
        ),
        ("undeploy", Command::Undeploy { service: "web".into() }),
        ("purge", Command::Purge { service: "web".into() }),
        (
            "found-group",
            Command::FoundGroup {
                group: GroupRecord { name: "session/0".into(), voters: vec![node(1, "").id] },
            },
        ),
    ]
}

fn proposal(n: u128, command: Command) -> Proposal {
    Proposal {
        request: RequestId::new(Uuid::from_u128(100 + n)),
        at: time(i64::try_from(n).expect("small")),
        caller: Caller {
            identity: Identity::Operator(operator().id),
            role: Role::Admin,
            via: Some(node(2, "n2").id),
        },
        leader: node(1, "n1").id,
        command,
    }
}

#[test]
fn the_bytes_of_every_stored_proposal_are_pinned_and_read_back() {
    assert_eq!(PROPOSAL_VERSION, 1, "add the new version's files beside the old ones");
    for (n, (name, command)) in commands().into_iter().enumerate() {
        let proposal = proposal(n as u128, command);
        let bytes = codec::encode(&proposal).expect("encodes");
        let stored = pinned(&format!("proposal-{name}.v1.hex"), &bytes);
        assert_eq!(codec::decode::<Proposal>(&stored).expect("decodes"), proposal, "{name}");
    }
}

#[test]
fn the_bytes_of_the_snapshot_are_pinned_and_restore() {
    assert_eq!(SNAPSHOT_VERSION, 1, "add the new version's file beside the old one");
    let mut state = ClusterState::default();
    for (n, (name, command)) in commands().into_iter().enumerate() {
        if matches!(name, "undeploy" | "purge") {
            continue;
        }
        let index = state.index() + 1;
        state.apply(&proposal(n as u128, command), index).expect(name);
    }
    let stored = pinned("snapshot.v1.hex", &state.snapshot().expect("snapshot"));
    assert!(ClusterState::restore(1, &stored).expect("restores") == state);
}
