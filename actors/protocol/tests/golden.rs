//! Pins the bytes of every message: a change of shape shows here, and needs a new version.
//!
//! `WEFT_UPDATE_GOLDEN=1 cargo test -p weft-protocol --test golden` writes the file anew. Lines
//! are only ever added after the first release: an old line that no longer decodes is a break.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;
use weft_protocol::*;
use weft_wire::{
    AskError, Caller, Failure, FailureKind, Identity, Message, NodeId, OperatorId, RequestId, Role,
    WallTime, codec,
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/messages.txt");

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn rollout() -> Rollout {
    Rollout {
        operation: 7,
        other: Version {
            revision: 1,
            spec: spec(),
            epochs: vec![("api".into(), Epoch { start: 2, make: 1 })],
        },
        order: UpdateOrder::StartFirst,
        order_reason: "it has host ports".into(),
        extra: 1,
        extra_other: true,
        updated: [1, 3].into(),
        canary: 1,
        phase: RolloutPhase::Back,
        reason: "web/4 failed".into(),
        since: WallTime::from_micros(1),
    }
}

fn node() -> NodeId {
    NodeId::new(uuid(2))
}

fn time() -> WallTime {
    WallTime::from_micros(1_795_000_000_000_000)
}

fn component() -> ComponentSpec {
    ComponentSpec {
        name: "web".into(),
        driver: Driver::Process,
        image: String::new(),
        version: "v1".into(),
        network: String::new(),
        user: String::new(),
        restart: RestartPolicy::OnFailure(Some(3)),
        stop_grace: Duration::from_secs(10),
        workdir: String::new(),
        ports: vec![PortMapping {
            host_ip: "127.0.0.1".into(),
            host: 80,
            container: 8080,
            udp: false,
        }],
        volumes: vec![VolumeMapping {
            host: "/a".into(),
            container: "/b".into(),
            options: "ro".into(),
        }],
        cmd: vec!["hello".into(), "a b".into()],
        env: vec![("K".into(), "V".into())],
        health: Some(HealthCheck {
            kind: HealthKind::Http,
            port: String::new(),
            path: "/health".into(),
            command: vec![],
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            retries: 3,
            start_period: Duration::from_secs(10),
        }),
        resources: Resources { cpu_millis: Some(100), memory: Some(1 << 20) },
        routes: vec![RouteSpec {
            name: "rest".into(),
            port: 443,
            mode: RouteMode::L7,
            hostname: String::new(),
            public: false,
            backend_tls: Some(true),
        }],
    }
}

fn shipped() -> ShippedFile {
    ShippedFile { path: "./hello".into(), mode: 0o755, size: 3, digest: "ab".repeat(32) }
}

fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "web".into(),
        node: String::new(),
        tier: Tier::Worker,
        active: true,
        version: String::new(),
        path: "web".into(),
        comment: "c".into(),
        depends_on: vec!["db".into()],
        replicas: 3,
        on_partition: OnPartition::Keep,
        placement: PlacementRules { require: vec!["zone=a".into()], ..Default::default() },
        failover: Failover::default(),
        build_images: BTreeMap::from([("web".into(), "Dockerfile".into())]),
        snapshot: Snapshot::default(),
        update: UpdatePolicy::default(),
        files: vec![shipped()],
        components: vec![component()],
    }
}

fn node_record() -> NodeRecord {
    NodeRecord {
        id: node(),
        name: "n1".into(),
        address: "127.0.0.1:7443".into(),
        zone: "a".into(),
        labels: vec!["ssd".into()],
        version: "0.1.0".into(),
        key_fingerprint: "ab".into(),
        ca: "PEM".into(),
        capacity: Capacity { cpu_millis: 2000, memory: 1 << 30 },
        format: 1,
        extra_labels: vec!["rack=2".into()],
        draining: false,
        joined_at: time(),
    }
}

fn operator() -> OperatorRecord {
    OperatorRecord {
        id: OperatorId::new(uuid(3)),
        name: "me".into(),
        role: Role::Admin,
        key_fingerprint: "cd".into(),
        created_at: time(),
    }
}

fn key() -> ComponentKey {
    ComponentKey { service: "web".into(), replica: 1, component: "web".into() }
}

fn replica() -> ReplicaKey {
    ReplicaKey { service: "web".into(), replica: 1 }
}

fn alert() -> Alert {
    Alert {
        id: uuid(9),
        time: time(),
        node: "n1".into(),
        service: "web".into(),
        component: "web".into(),
        replica: 1,
        kind: AlertKind::Flapping,
        desired: Some(Desired::Running),
        observed: Some(ObservedState::Exited),
        prev_state: Some(ObservedState::Running),
        transitions: 3,
        reason: "r".into(),
        suppressed: true,
        run: Some(AlertRun { exit: Some(1), problem: "p".into(), output: "o".into() }),
    }
}

fn alert_filter() -> AlertFilter {
    AlertFilter { service: "web".into(), component: "web".into(), since: Some(time()), limit: 10 }
}

fn target() -> CommandRef {
    CommandRef { service: "web".into(), component: "web".into() }
}

fn event() -> Event {
    Event {
        id: uuid(4),
        time: time(),
        node: "n1".into(),
        service: "web".into(),
        component: "web".into(),
        replica: 1,
        kind: EventKind::Component { from: ComponentState::Running, to: ComponentState::Exited },
        cause: "self".into(),
        exit: "signal 9".into(),
        observer: String::new(),
    }
}

fn operation() -> OperationRow {
    OperationRow {
        operation: Operation {
            id: 17,
            kind: OperationKind::Drain,
            service: String::new(),
            component: String::new(),
            node: Some(node()),
            node_name: "n1".into(),
            replicas: vec![ReplicaKey { service: "web".into(), replica: 1 }],
            on: vec![node()],
            revision: 0,
            caller: "ann".into(),
            owner: node(),
            started: time(),
            finished: Some(FinishedOperation {
                at: time(),
                outcome: OperationOutcome::Partial,
                detail: "web/1 stays".into(),
            }),
        },
        owner: "n1".into(),
        steps: vec![OperationStep {
            name: "move".into(),
            state: StepState::Failed,
            detail: "0 of 1 replicas moved".into(),
        }],
        left: vec!["web/1".into()],
    }
}

fn status() -> ComponentStatus {
    ComponentStatus {
        key: key(),
        desired: Desired::Running,
        state: ComponentState::Running,
        health: Health::Healthy,
        pid: 7,
        version: "v1".into(),
        revision: 1,
        spec_hash: "ef".into(),
        epoch: 2,
        restarts: 2,
        started_at: Some(time()),
        since: time(),
        last_exit: "exit 1".into(),
        reason: String::new(),
        ports: vec![(String::new(), 10000)],
        urls: vec!["http://127.0.0.1:10000".into()],
        driver: weft_protocol::Driver::Container,
        image: "reg/app:v1".into(),
        digest: "sha256:01".into(),
        container: "c0ffee".into(),
        limits: "memory 64 MiB (cgroup v2)".into(),
        refused: 2,
    }
}

fn agreement() -> AgreementView {
    AgreementView {
        node: Some(node()),
        members: vec![MemberView {
            id: node(),
            name: "n1".into(),
            state: NodeState::Ready,
            for_ms: 5,
            role: NodeRole::Voter,
            lag: Some(1),
            why: "one of 3 voters".into(),
        }],
        groups: vec![GroupView {
            name: "control".into(),
            leader: Some(node()),
            term: 2,
            last_log: 9,
            committed: 8,
            applied: 7,
            checkpoint: 5,
            voters: vec![node()],
            learners: vec![],
            contact_ms: Some(3),
        }],
        format: 1,
        waiting: vec!["web/2: waiting for n2".into()],
        unsure: "no leader".into(),
    }
}

fn vote() -> Vote {
    Vote { group: "session/0".into(), held: "it alone votes".into() }
}

fn exec() -> ExecCommand {
    ExecCommand {
        argv: vec!["sh".into(), "-c".into(), "true".into()],
        env: vec![("TERM".into(), "xterm".into())],
        user: "0:0".into(),
        workdir: "/srv".into(),
        tty: Some(ExecSize { columns: 80, rows: 24 }),
        stdin: true,
    }
}

fn usage() -> UsageView {
    UsageView {
        rows: vec![UsageRow {
            node: "n2".into(),
            usage: ComponentUsage {
                key: key(),
                at: time(),
                cpu: 1,
                memory: 2,
                memory_limit: 3,
                pids: 4,
                read: 5,
                written: 6,
                received: Some(7),
                sent: None,
                error: "x".into(),
            },
        }],
        nodes: vec![NodeReply { node: "n1".into(), error: String::new() }],
        overview: Some(Overview {
            nodes: Vec::new(),
            hosts: vec![("n2".into(), HostFigures::default())],
            ps: PsReply { rows: Vec::new(), nodes: Vec::new(), foreign: Vec::new() },
            events: vec![event()],
        }),
    }
}

fn commands() -> Vec<Command> {
    vec![
        Command::Bootstrap { node: node_record(), operator: operator(), ca: "PEM".into() },
        Command::AddNode { node: node_record(), secret_hash: "aa".into() },
        Command::UpdateNode {
            id: node(),
            report: ReportNode {
                address: "127.0.0.1:1".into(),
                version: "0.1.0".into(),
                zone: String::new(),
                labels: vec![],
                key_fingerprint: "ab".into(),
                ca: "PEM".into(),
                capacity: Capacity::default(),
                format: 1,
            },
        },
        Command::RemoveNode { id: node(), force: true },
        Command::AddToken {
            token: TokenRecord {
                secret_hash: "aa".into(),
                name: "n2".into(),
                expires_at: time(),
                used_by: Some(node()),
                by: "me".into(),
            },
        },
        Command::Deploy {
            spec: Box::new(spec()),
            options: DeployOptions {
                component: "web".into(),
                if_changed: true,
                stopped: vec!["api".into()],
            },
        },
        Command::SetDesired { target: target(), desired: Desired::Stopped },
        Command::Restart { target: target() },
        Command::Undeploy { service: "web".into() },
        Command::Purge { service: "web".into() },
        Command::PutOperator { operator: operator() },
        Command::Place {
            moves: vec![PlacementMove {
                service: "web".into(),
                replica: 2,
                generation: 3,
                to: Some(node()),
                previous: Some(Previous { node: node(), lost: true }),
                reason: "n2 is lost".into(),
            }],
        },
        Command::TrustIssuer { node: node() },
        Command::Drain { node: node(), on: true },
        Command::LabelNode { node: node(), set: vec!["rack=2".into()], remove: vec!["ssd".into()] },
        Command::RaiseFormat { level: 2 },
        Command::FoundGroup {
            group: GroupRecord { name: "session/0".into(), voters: vec![node()] },
        },
        Command::Operations { changes: vec![OperationChange::Take { id: 17, owner: node() }] },
    ]
}

/// One line: id, version, name, then the bytes of the sample.
fn line<M: Message>(message: &M) -> String {
    let bytes = codec::encode(message).expect("a sample encodes");
    codec::decode::<M>(&bytes).expect("and decodes");
    format!("{} {} {} {}", M::ID, M::VERSION, M::NAME, hex(&bytes))
}

fn value<T: serde::Serialize>(name: &str, value: &T) -> String {
    format!("value 1 {name} {}", hex(&codec::encode(value).expect("a sample encodes")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lines() -> Vec<String> {
    let request = RequestId::new(uuid(9));
    let filter = EventFilter {
        service: "web".into(),
        component: String::new(),
        since: Some(time()),
        limit: 10,
    };
    let options = DeployOptions::default();
    let mut lines = vec![
        line(&Ping {}),
        line(&ActorTree {}),
        line(&RestartActor { path: "registry".into() }),
        line(&ChaosActor { path: "registry".into(), kind: ChaosKind::Hang }),
        line(&ReadState { consistent: true }),
        line(&ReadAgreement {}),
        line(&LetGo { node: node() }),
        line(&ReadHead {}),
        line(&ReadHistory { service: "web".into() }),
        line(&PlanPlacement { lost: vec![node()], spec: Some(Box::new(spec())) }),
        line(&IssueToken { ttl_secs: 3600, name: "n2".into() }),
        line(&JoinCluster {
            secret: vec![1, 2],
            cluster: "c".into(),
            csr: vec![3],
            name: "n2".into(),
            version: "0.1.0".into(),
            clock: time(),
            format: 1,
        }),
        line(&NeedGroup { name: "session/0".into() }),
        line(&RenewLeaf { csr: vec![3], holder: "node/x".into(), operator: "me".into() }),
        line(&ReportNode {
            address: "127.0.0.1:1".into(),
            version: "0.1.0".into(),
            zone: "a".into(),
            labels: vec!["ssd".into()],
            key_fingerprint: "ab".into(),
            ca: "PEM".into(),
            capacity: Capacity { cpu_millis: 2000, memory: 1 << 30 },
            format: 1,
        }),
        line(&RecordEvents { events: vec![event()] }),
        line(&QueryEvents { filter: filter.clone() }),
        line(&FollowEvents { filter: filter.clone() }),
        line(&RecordAlerts { alerts: vec![alert()] }),
        line(&QueryAlerts { filter: alert_filter() }),
        line(&FollowAlerts { filter: alert_filter() }),
        line(&ClusterAlerts { filter: alert_filter(), follow: true }),
        line(&RecordAudit {
            records: vec![AuditRecord {
                time: time(),
                caller: "operator/x".into(),
                role: "admin".into(),
                method: "gateway.ps".into(),
                target: "gateway".into(),
                outcome: Outcome::Denied,
                error: "no".into(),
                duration_us: 5,
                trace: "0".into(),
            }],
        }),
        line(&QueryAudit { since: None, limit: 5 }),
        line(&RenewLeases {
            round: 9,
            claims: vec![LeaseClaim { replica: replica(), generation: 3, had: true }],
            stopped: vec![replica()],
        }),
        line(&Assign {
            index: 7,
            assignments: vec![Assignment {
                key: key(),
                spec: component(),
                service_version: String::new(),
                revision: 1,
                spec_hash: "ef".into(),
                epoch: 2,
                made: 0,
                generation: 3,
                desired: Desired::Running,
                fenced: true,
                leaving: "n2".into(),
                files: vec![shipped()],
                after: vec!["db".into()],
            }],
            returning: true,
        }),
        line(&CheckSpec {
            service: "web".into(),
            replica: 1,
            components: vec![component()],
            files: vec![shipped()],
        }),
        line(&FindForeign { service: "web".into(), others: vec!["web-api".into()] }),
        line(&ClaimContainers {
            service: "web".into(),
            claims: vec![ContainerClaim {
                container: "ab".into(),
                component: "api".into(),
                spec_hash: "cd".into(),
                epoch: 2,
            }],
        }),
        line(&AdoptService {
            request,
            service: "web".into(),
            node: "n2".into(),
            others: vec!["web-2".into()],
            dry_run: true,
        }),
        line(&ListComponents {}),
        line(&ReadDuty {}),
        line(&ReadEngine {}),
        line(&ReadFacts {}),
        line(&ClusterNodeStatus { node: "n1".into() }),
        line(&ReadOddities { drift: true }),
        line(&ReadReadiness {}),
        line(&RestartComponents { target: target() }),
        line(&StartComponents { target: Some(target()), dry_run: false }),
        line(&PurgeService { request, service: "web".into(), data: true, dry_run: false }),
        line(&RemoveData { service: "web".into(), check: true }),
        line(&RecoverNodes { node: "n1".into(), dry_run: true }),
        line(&ReadLogs { target: target(), replica: 0, tail: Some(5), since: None, follow: true }),
        line(&WatchComponents { service: "web".into() }),
        line(&Observed {
            transitions: vec![Transition {
                id: uuid(4),
                time: time(),
                key: key(),
                desired: Desired::Running,
                prev_state: ComponentState::Running,
                new_state: ComponentState::Exited,
                cause: "self".into(),
                exit: "exit 1".into(),
            }],
        }),
        line(&ReadHost {}),
        line(&ReadDrift {}),
        line(&ClusterPs { target: Some(target()) }),
        line(&ClusterStatus { service: "web".into() }),
        line(&ClusterNodes {}),
        line(&ClusterActors {}),
        line(&ClusterEvents { filter, follow: true }),
        line(&ClusterLogs { target: target(), replica: 1, tail: None, since: None, follow: false }),
        line(&DeployService {
            request,
            spec: Some(Box::new(spec())),
            service: "web".into(),
            options: options.clone(),
            timeout_ms: 1000,
            no_wait: false,
        }),
        line(&LifecycleRequest {
            request,
            target: target(),
            action: LifecycleAction::Restart,
            timeout_ms: 1000,
            no_wait: false,
        }),
        line(&PlanService { spec: Box::new(spec()), options }),
        line(&ListServices {}),
        line(&RemoveNode { request, node: "n3".into(), force: true }),
        line(&DescribeNode {}),
        line(&ClusterOperations { id: 7 }),
        line(&ServiceHistory { service: "web".into() }),
        line(&PushFile {
            service: "web".into(),
            replica: 0,
            path: "conf/a".into(),
            mode: Some(0o640),
            size: 3,
            content: Octets(vec![1, 2, 255]),
            check: false,
        }),
        line(&PullFile { service: "web".into(), replica: 2, path: "conf/a".into() }),
        line(&Exec { id: uuid(8), key: key(), command: exec() }),
        line(&ExecInput { id: uuid(8), sequence: 3, bytes: Octets(vec![0, 255]), end: true }),
        line(&ExecResize { id: uuid(8), size: ExecSize { columns: 132, rows: 50 } }),
        line(&ClusterExec {
            id: uuid(8),
            target: target(),
            replica: 2,
            node: "n2".into(),
            command: exec(),
        }),
        value("exec-item", &ExecItem::Started { node: node(), name: "n2".into(), key: key() }),
        value("exec-item", &ExecItem::Output { error: true, bytes: Octets(vec![1, 2]) }),
        value("exec-item", &ExecItem::Ended { code: 127, reason: "no".into() }),
        value("exec-taken", &[ExecTaken::Yes, ExecTaken::Later, ExecTaken::Closed]),
        line(&ReadUsage { target: Some(target()) }),
        line(&ClusterUsage { target: None, every_ms: 2000, rounds: 2, overview: true }),
        value("usage", &usage()),
        line(&WriteFile {
            service: "web".into(),
            replica: 1,
            path: "conf/a".into(),
            mode: None,
            size: 3,
            content: Octets(vec![1, 2, 255]),
            check: true,
        }),
        line(&ReadFile { service: "web".into(), replica: 1, path: "conf/a".into() }),
        line(&FindBlobs { digests: vec!["ab".into()] }),
        line(&HaveBlobs { digests: vec!["ab".into()] }),
        line(&PutBlobPart { digest: "ab".into(), size: 3, offset: 1, part: Octets(vec![2, 255]) }),
        line(&ReadBlobPart { digest: "ab".into(), offset: 1, length: 1 << 20 }),
        line(&EnsureBlobs { files: vec![shipped()] }),
        line(&ReadBlobRefs {}),
    ];
    for command in commands() {
        lines.push(line(&Propose { request, command }));
    }
    let caller = Caller {
        identity: Identity::Operator(OperatorId::new(uuid(3))),
        role: Role::Admin,
        via: Some(node()),
    };
    lines.push(value("caller", &caller));
    let error = Some(Failure::new(FailureKind::Forbidden, "m"));
    let replicas = vec![PushedReplica { replica: 1, node: "n1".into(), error }];
    lines.push(value("pushed", &PushedFile { replicas }));
    let file = FileContent { mode: 0o640, content: Octets(vec![1, 2, 255]) };
    lines.push(value("pulled", &PulledFile { replica: 1, node: "n1".into(), file }));
    lines.push(value("blob-progress", &BlobProgress { received: 3, complete: true }));
    let failure = Failure::new(FailureKind::Conflict, "m").node("n1").help("h");
    for error in [
        AskError::Unreachable("u".into()),
        AskError::Timeout,
        AskError::Overloaded("o".into()),
        AskError::Denied("d".into()),
        AskError::NotFound("n".into()),
        AskError::Unsupported { id: 1, version: 2 },
        AskError::Failed(failure),
    ] {
        lines.push(value("error", &error));
    }
    lines.push(value("status", &status()));
    lines.push(value(
        "proposal",
        &Propose { request, command: Command::Undeploy { service: "web".into() } }.stamp(
            time(),
            caller,
            node(),
        ),
    ));
    lines.push(value("agreement", &agreement()));
    lines.push(value("votes", &vec![vote()]));
    for kind in [
        EventKind::Node { to: NodeChange::Lost },
        EventKind::Leader { group: "control".into(), term: 3, from: "n1".into(), to: "n2".into() },
        EventKind::Voters {
            group: "control".into(),
            from: vec!["n1".into()],
            to: vec!["n1".into(), "n2".into(), "n3".into()],
        },
        EventKind::Placement { from: String::new(), to: "n2".into() },
    ] {
        lines.push(value("event", &EventItem::Event(Box::new(Event { kind, ..event() }))));
    }
    lines.push(value("operation", &operation()));
    lines.push(value("rollout", &rollout()));
    lines.push(value("rollout-step", &RolloutStep::Update(vec![1, 2])));
    lines.push(value(
        "leases",
        &vec![
            LeaseAnswer { replica: replica(), refused: None },
            LeaseAnswer { replica: replica(), refused: Some("it is placed on n2".into()) },
        ],
    ));
    lines.push(value(
        "placement-plan",
        &PlacementPlan {
            moves: vec![PlannedMove {
                service: "web".into(),
                replica: 2,
                from: Some(node()),
                to: None,
                reason: "n2 is lost".into(),
            }],
            waiting: vec![("web".into(), 2, "waiting for n2".into())],
            places: vec![("web".into(), 1, node())],
        },
    ));
    lines.extend(session_lines());
    lines.extend(operate_lines());
    lines
}

fn session_view() -> SessionView {
    SessionView {
        session_id: "s".into(),
        mode: "m".into(),
        state: SessionState::Suspended,
        started_ms: 1,
        expires_ms: 2,
        mode_version: "1".into(),
        configuration_version: "c".into(),
        policy_version: "p".into(),
        participants: vec!["a".into()],
        activity: vec![SessionActivity { participant: "a".into(), last_ms: 3, count: 4 }],
        initiator: "i".into(),
        context_id: "x".into(),
        extension_keys: vec!["k".into()],
    }
}

fn session_lines() -> Vec<String> {
    let envelope = SessionEnvelope {
        mode: "m".into(),
        message_type: "Vote".into(),
        message_id: "1".into(),
        session_id: "s".into(),
        sender: "a".into(),
        timestamp_ms: 5,
        payload: vec![1, 2],
    };
    let refusal = SessionRefusal {
        code: "FORBIDDEN".into(),
        message: "no".into(),
        details: vec![7],
        is_status: true,
    };
    let reader = SessionReader { sender: "a".into(), is_observer: true };
    let id = || "s".to_owned();
    let mode = ModeView {
        mode: "ext.m".into(),
        mode_version: "1".into(),
        title: "t".into(),
        description: "d".into(),
        determinism_class: "c".into(),
        participant_model: "p".into(),
        message_types: vec!["Commitment".into()],
        terminal_message_types: vec!["Commitment".into()],
        schema_uris: vec![("protobuf".into(), "u".into())],
    };
    let policy = PolicyView {
        policy_id: "p".into(),
        mode: "*".into(),
        description: "d".into(),
        rules: "{}".into(),
        schema_version: 3,
    };
    let mut lines = vec![
        line(&SendEnvelope {
            envelope: envelope.clone(),
            max_open: Some(3),
            rates: Some(SenderRates { starts: 60, messages: 600 }),
        }),
        line(&ReadSession { session_id: id(), reader: reader.clone() }),
        line(&ReadSessionHead { session_id: id() }),
        line(&ListSessions { after: Some(id()), size: 9 }),
        line(&ReadModes {}),
        line(&ReadPolicies { mode: "m".into(), policy_id: String::new() }),
        line(&AskWhatIf { session_id: id(), reader: reader.clone(), candidate: policy.clone() }),
        line(&RelaySignal { envelope: envelope.clone(), is_authenticated: true }),
        line(&FollowSession { session_id: id(), reader, after: Some(4), follow: true }),
        line(&FollowSessions {}),
        line(&FollowCatalogue {}),
        line(&ReadSessionFigures {}),
        value(
            "session-figures",
            &SessionFigures {
                happened: vec![("m".into(), SessionLifecycle::Resolved, 3)],
                in_memory: vec![(SessionState::Open, 4)],
                archived: 5,
                missing: 6,
                damaged: 1,
            },
        ),
        line(&ReadArchive { group: "g".into(), first: 1, last: 2 }),
        value(
            "archive-item",
            &ArchiveItem::Piece { place: 1, bytes: Octets(vec![8]), is_last: true },
        ),
        value("archive-item", &ArchiveItem::Done { is_whole: true }),
    ];
    for signer in [
        ReceiptSigner::Nobody,
        ReceiptSigner::Asks { kid: "k".into() },
        ReceiptSigner::Signed { kid: "k".into(), issued_ms: 5, signature: vec![6] },
    ] {
        let reader = SessionReader { sender: "a".into(), is_observer: true };
        let issuer = "r".into();
        lines.push(line(&IssueReceipt { session_id: id(), reader, issuer, signer }));
    }
    for issued in [
        IssuedReceipt::Kept("{}".into()),
        IssuedReceipt::ToSign { input: "i".into(), issued_ms: 5 },
    ] {
        lines.push(value("receipt", &issued));
    }
    for control in [SessionControl::Cancel, SessionControl::Suspend, SessionControl::Resume] {
        let (sender, reason) = ("a".into(), "r".into());
        lines.push(line(&ControlSession { session_id: id(), control, sender, reason }));
    }
    for edit in [
        CatalogueEdit::RegisterMode(mode.clone()),
        CatalogueEdit::UnregisterMode { mode: "m".into() },
        CatalogueEdit::PromoteMode { mode: "m".into(), name: "n".into() },
        CatalogueEdit::RegisterPolicy(policy.clone()),
        CatalogueEdit::UnregisterPolicy { policy_id: "p".into() },
    ] {
        lines.push(line(&EditCatalogue { edit }));
    }
    let ack: SessionAnswer = Ok(SessionAck { duplicate: true, state: SessionState::Resolved });
    lines.push(value("session-answer", &ack));
    lines.push(value("session-answer", &SessionAnswer::Err(refusal.clone())));
    lines.push(value("session-page", &SessionPage { sessions: vec![session_view()], more: true }));
    lines.push(value(
        "session-head",
        &SessionHead { mode: "m".into(), state: SessionState::Expired, ordinal: 7 },
    ));
    let (standard, extensions) = (vec![mode.clone()], vec![mode]);
    lines.push(value("modes", &ModesView { standard, extensions, policies_fixed: true }));
    for item in [
        SessionItem::Attached { ordinal: 1 },
        SessionItem::Envelope { ordinal: 2, envelope },
        SessionItem::Refused(refusal),
    ] {
        lines.push(value("session-item", &item));
    }
    for what in [
        SessionLifecycle::Created,
        SessionLifecycle::Resolved,
        SessionLifecycle::Expired,
        SessionLifecycle::Suspended,
        SessionLifecycle::Resumed,
        SessionLifecycle::Cancelled,
    ] {
        let happened = SessionEvent::Happened { what, session: Box::new(session_view()), at_ms: 6 };
        lines.push(value("session-event", &happened));
    }
    lines.push(value("session-event", &SessionEvent::Attached));
    lines.push(value("session-event", &SessionEvent::Lagged));
    lines.push(value("catalogue", &CatalogueItem { modes: 1, policies: 2, all: vec![policy] }));
    lines
}

fn operate_lines() -> Vec<String> {
    let id = || "s".to_owned();
    let states = vec![SessionState::Open, SessionState::Cancelled];
    let row = SessionRow { session: session_view(), messages: 2, records: 3 };
    let policy = PolicyView { policy_id: "p".into(), schema_version: 3, ..PolicyView::default() };
    let detail = SessionDetail {
        row: row.clone(),
        policy,
        resolution: Some(SessionPayload::Json("{}".into())),
        receipt: Some("{}".into()),
    };
    let record = SessionRecord {
        position: 4,
        ordinal: Some(3),
        at_ms: 5,
        message_type: "Vote".into(),
        message_id: "m".into(),
        sender: "a".into(),
        payload: SessionPayload::Bytes(Octets(vec![1, 255])),
    };
    let mut lines = vec![
        line(&SurveySessions { states, mode: "m".into(), after: Some(id()), size: 9 }),
        line(&InspectSession { session_id: id() }),
        line(&FollowHistory { session_id: id(), after: 4, follow: true }),
        line(&FollowLifecycle {}),
        line(&EndSession { session_id: id(), reason: "r".into() }),
        line(&ReadSessionGroups {}),
        line(&ScaleSessions { groups: 3 }),
        value(
            "session-groups",
            &vec![SessionGroup {
                name: "session/0".into(),
                slots: 128,
                handing_over: 1,
                is_open: true,
                live: 2,
                ended: 3,
                archived: 300,
            }],
        ),
        value("session-rows", &SessionRows { rows: vec![row], more: true }),
        value("session-detail", &Some(Box::new(detail))),
    ];
    for item in [
        HistoryItem::Record(Box::new(record)),
        HistoryItem::Ended { state: SessionState::Resolved },
        HistoryItem::Missing,
    ] {
        lines.push(value("history-item", &item));
    }
    lines.push(line(&ExportSession { session_id: id() }));
    for item in [
        ExportItem::Piece(Octets(vec![1, 255])),
        ExportItem::Receipt("{}".into()),
        ExportItem::Note("n".into()),
        ExportItem::Whole { messages: 3 },
        ExportItem::Missing,
    ] {
        lines.push(value("export-item", &item));
    }
    let octets = || Octets(vec![1, 255]);
    lines.push(line(&ImportSession {
        session_id: id(),
        log: octets(),
        snapshot: octets(),
        receipt: octets(),
        check: true,
    }));
    let state = SessionState::Resolved;
    for outcome in [
        ImportOutcome::Imported { state, messages: 3, notes: vec!["n".into()] },
        ImportOutcome::Present { state, messages: 3 },
        ImportOutcome::Refused("r".into()),
    ] {
        lines.push(value("import-outcome", &outcome));
    }
    lines
}

#[test]
fn the_bytes_of_every_message_are_pinned() {
    let lines = lines();
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::write(FILE, lines.join("\n") + "\n").expect("writes the golden file");
    }
    let golden = std::fs::read_to_string(FILE).expect("the golden file");
    for (number, (now, then)) in lines.iter().zip(golden.lines()).enumerate() {
        assert_eq!(now, then, "line {}: the bytes changed: that needs a new version", number + 1);
    }
    assert_eq!(lines.len(), golden.lines().count(), "a message is missing from the golden file");
}

#[test]
fn no_two_messages_share_a_number() {
    let mut names = BTreeMap::new();
    for line in lines() {
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(id), Some(version), Some(name)) = (words.next(), words.next(), words.next())
        else {
            panic!("{line}");
        };
        if id != "value" {
            let earlier = names.insert((id, version), name.clone());
            assert!(earlier.is_none_or(|earlier| earlier == name), "{line}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bodies_never_panic(bytes: Vec<u8>) {
        let _ = codec::decode::<Propose>(&bytes);
        let _ = codec::decode::<Assign>(&bytes);
        let _ = codec::decode::<Proposal>(&bytes);
        let _ = codec::decode::<DeployService>(&bytes);
        let _ = codec::decode::<Vec<ActorInfo>>(&bytes);
        let _ = codec::decode::<PsReply>(&bytes);
        let _ = codec::decode::<JoinCluster>(&bytes);
        let _ = codec::decode::<RenewLeases>(&bytes);
        let _ = codec::decode::<SendEnvelope>(&bytes);
        let _ = codec::decode::<SessionEvent>(&bytes);
    }
}
