//! The groups beside `control`: who gets a part in them, and that nobody is removed who is needed.

use tokio::sync::oneshot;
use weft_agreement::{Image, MachineError};
use weft_identity::{CertificateChain, Credentials, Subject, Validity};
use weft_link::{AuditSink, Fabric, FabricConfig, GoodBye, LinkConfig, ListenConfig};
use weft_supervision::testing::run_with;

use super::*;

/// Remembers its commands.
#[derive(Default, Clone)]
struct Ledger(Shared<Vec<Vec<u8>>>);

impl Machine for Ledger {
    fn apply(&mut self, _: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.0.set([self.0.get(), commands.to_vec()].concat());
        commands.to_vec()
    }

    fn snapshot(&self) -> Result<Image, MachineError> {
        let bytes = weft_wire::codec::encode(&self.0.get()).expect("encodes");
        Ok(Image { version: 1, bytes })
    }

    fn restore(&mut self, image: &Image) -> Result<(), MachineError> {
        self.0.set(weft_wire::codec::decode(&image.bytes).expect("decodes"));
        Ok(())
    }
}

fn group(name: &str, spread: Spread) -> (&str, Spread, Box<dyn Machine>) {
    (name, spread, Box::new(Ledger::default()))
}

/// A machine that has joined, and said where it is; nobody is there.
async fn joined(tree: &TestTree) -> NodeId {
    view_where(tree, "it leads", |state| !state.nodes.is_empty()).await;
    let token = token(tree).await;
    let key = PrivateKey::generate().expect("key");
    let joined = ask_as(tree, Identity::Joiner, Role::Guest, join(&token, &key, "n2")).await;
    let node = joined.expect("joins").node;
    let report = ReportNode {
        address: "127.0.0.1:9".into(),
        version: VERSION.into(),
        zone: String::new(),
        labels: vec![],
        key_fingerprint: String::new(),
        ca: String::new(),
        capacity: Capacity::default(),
        format: FORMAT_LEVEL,
    };
    let call = Call { caller: Some(Caller::node(node)), ..Call::within(Duration::from_secs(10)) };
    let to = Address::here(ActorKind::Registry);
    tree.fabric().ask(to, report, call).await.expect("is recorded");
    node
}

/// What is said of a group once it is as wanted.
async fn shown(tree: &TestTree, name: &str, good: impl Fn(&GroupView) -> bool) -> GroupView {
    let deadline = SystemClock.now() + Duration::from_secs(20);
    loop {
        let view = tree.ask(ReadAgreement {}).await.expect("answers");
        let group = view.groups.iter().find(|group| group.name == name);
        if let Some(group) = group.filter(|group| good(group)) {
            return group.clone();
        }
        assert!(SystemClock.now() < deadline, "{name}: {view:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn remove(tree: &TestTree, id: NodeId, within: Duration) -> Result<Applied, AskError> {
    let message = propose(Command::RemoveNode { id, force: true });
    tree.fabric().ask(Address::here(ActorKind::Registry), message, Call::within(within)).await
}

#[test]
fn who_leads_a_group_has_nodes_follow_it_and_lets_a_removed_one_go() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let others = vec![group("catalogue", Spread::Everywhere), group("session/0", Spread::Few)];
        let (consensus, groups) = start_with(&tree, &config, others).await;
        for group in &groups {
            group.bootstrap().await.expect("bootstraps");
        }
        let node = joined(&tree).await;
        for name in ["catalogue", "session/0"] {
            let group = shown(&tree, name, |group| group.learners == [node]).await;
            assert_eq!((group.voters, group.leader), (vec![leader()], Some(leader())));
        }
        // Nobody could go on without the only voter.
        let refusal = failure(remove(&tree, leader(), Duration::from_secs(10)).await);
        assert!(refusal.message.contains("no other node could take"), "{refusal:?}");
        remove(&tree, node, Duration::from_secs(10)).await.expect("removes");
        for name in ["catalogue", "session/0"] {
            let group = shown(&tree, name, |group| group.learners.is_empty()).await;
            assert_eq!(group.voters, [leader()]);
        }
        consensus.stop().await;
    });
}

#[test]
fn nobody_is_removed_while_it_is_not_known_whether_a_group_needs_it() {
    let dir = tempfile::tempdir().expect("directory");
    let config = first(dir.path());
    run(async |tree| {
        let (consensus, groups) =
            start_with(&tree, &config, vec![group("session/0", Spread::Few)]).await;
        let node = joined(&tree).await;
        let view = tree.ask(ReadAgreement {}).await.expect("answers");
        assert_eq!(view.groups.len(), 1, "it has no part in the other: {view:?}");
        let refusal = failure(remove(&tree, node, Duration::from_secs(2)).await);
        assert_eq!(refusal.kind, FailureKind::Conflict);
        assert!(refusal.message.contains("nobody leads group `session/0`"), "{refusal:?}");
        assert_eq!(super::view(&tree).await.nodes.len(), 2);
        groups[0].bootstrap().await.expect("bootstraps");
        remove(&tree, node, Duration::from_secs(10)).await.expect("removes");
        // It says itself what it is still needed for.
        let asked = async || tree.ask(LetGo { node: leader() }).await.expect("answers");
        let votes = asked().await;
        assert_eq!((votes.len(), votes[0].group.as_str()), (1, "session/0"));
        assert!(votes[0].held.contains("it alone votes"), "{votes:?}");
        consensus.stop().await;
    });
}

/// A node's end of the links.
fn linked(name: &str, node: NodeId) -> Fabric {
    let config = FabricConfig { node, name: name.into(), audit: AuditSink::none() };
    Fabric::new(config, LinkConfig::new(cluster(), VERSION))
}

fn listen(fabric: &Fabric, credentials: Credentials, trust: &Trust) {
    let bind = "127.0.0.1:0".parse().expect("an address");
    let config = ListenConfig { bind, credentials, trust: trust.clone() };
    fabric.listen(config).expect("listens");
}

/// Says where the fabric listens.
fn reporting(fabric: &Fabric, ca: &IssuingCa) -> crate::config::SelfReport {
    let (fabric, ca) = (fabric.clone(), ca.to_pem());
    Arc::new(move || {
        Some(ReportNode {
            address: fabric.address()?.to_string(),
            version: VERSION.into(),
            zone: String::new(),
            labels: vec![],
            key_fingerprint: String::new(),
            ca: ca.clone(),
            capacity: Capacity { cpu_millis: 2_000, memory: 1 << 30 },
            format: FORMAT_LEVEL,
        })
    })
}

/// Leads everything, takes a second node in, and lives until that has seen what it wanted.
fn older(
    dir: &Path,
    introduce: &std::sync::mpsc::Sender<(JoinedCluster, PrivateKey)>,
    finished: oneshot::Receiver<()>,
) {
    let mut config = first(dir);
    let ca = config.issuer.clone().expect("it has one");
    let mut bundle = TrustBundle::new();
    bundle.insert(ca.certificate()).expect("a CA");
    config.trust.set_bundle(bundle).expect("trusts");
    let fabric = linked("n1", leader());
    config.report = reporting(&fabric, &ca);
    run_with(
        |tree| tree.fabric = fabric.clone(),
        async |tree| {
            let key = PrivateKey::generate().expect("key");
            let subject = Subject { cluster: cluster(), identity: Identity::Node(leader()) };
            let csr = key.csr().expect("request");
            let chain = ca.sign_csr(&csr, &subject, Validity::node(SystemClock.wall()));
            let credentials = Credentials::new(&chain.expect("signs"), &key).expect("fits");
            listen(&fabric, credentials, &config.trust);
            let others = vec![group("session/0", Spread::Few)];
            let (consensus, groups) = start_with(&tree, &config, others).await;
            groups[0].bootstrap().await.expect("bootstraps");
            shown(&tree, "session/0", |group| group.leader == Some(leader())).await;
            groups[0].propose(b"one".to_vec(), Duration::from_secs(10)).await.expect("agreed");
            view_where(&tree, "it leads", |state| !state.nodes.is_empty()).await;
            let token = token(&tree).await;
            let key = PrivateKey::generate().expect("key");
            let joined = ask_as(&tree, Identity::Joiner, Role::Guest, join(&token, &key, "n2"));
            introduce.send((joined.await.expect("joins"), key)).expect("is waited for");
            // An error says that it failed: that is told there.
            let _ = finished.await;
            fabric.close(GoodBye::default()).await;
            consensus.stop().await;
        },
    );
}

/// Has the other node removed, and holds everything then.
fn younger(dir: &Path, joined: &JoinedCluster, key: &PrivateKey, done: oneshot::Sender<()>) {
    let mut config = second(dir, joined.node, leader());
    config.seed.peers.clone_from(&joined.peers);
    let bundle = TrustBundle::from_pem(&joined.bundle, "the answer").expect("a bundle");
    config.trust.set_bundle(bundle).expect("trusts");
    let ca = Arc::new(IssuingCa::create(cluster(), SystemClock.wall()).expect("CA"));
    let fabric = linked("n2", joined.node);
    config.report = reporting(&fabric, &ca);
    config.issuer = Some(ca);
    let ledger = Ledger::default();
    run_with(
        |tree| tree.fabric = fabric.clone(),
        async |tree| {
            let chain = CertificateChain::from_pem(&joined.certificate, "the answer");
            let credentials = Credentials::new(&chain.expect("a chain"), key).expect("fits");
            listen(&fabric, credentials, &config.trust);
            let machine: Box<dyn Machine> = Box::new(ledger.clone());
            let others = vec![("session/0", Spread::Few, machine)];
            let (consensus, groups) = start_with(&tree, &config, others).await;
            let held = || Some(ledger.0.get()).filter(|held| !held.is_empty());
            assert_eq!(eventually("it follows", held).await, [b"one"]);
            let group = shown(&tree, "session/0", |_| true).await;
            assert_eq!((group.voters, group.learners), (vec![leader()], vec![joined.node]));

            // Until it has caught up in `control` too, it could not go on alone.
            let deadline = SystemClock.now() + Duration::from_secs(20);
            while let Err(error) = remove(&tree, leader(), Duration::from_secs(30)).await {
                assert!(error.to_string().contains("no other node could take"), "{error}");
                assert!(SystemClock.now() < deadline, "{error}");
            }
            let nodes: Vec<NodeId> = view(&tree).await.nodes.iter().map(|node| node.id).collect();
            assert_eq!(nodes, [joined.node]);
            for name in [GROUP, "session/0"] {
                let group = shown(&tree, name, |group| group.learners.is_empty()).await;
                assert_eq!((group.voters, group.leader), (vec![joined.node], Some(joined.node)));
            }
            groups[0].propose(b"two".to_vec(), Duration::from_secs(10)).await.expect("agreed");
            assert_eq!(ledger.0.get(), [b"one", b"two"]);
            let _ = done.send(());
            fabric.close(GoodBye::default()).await;
            consensus.stop().await;
        },
    );
}

#[test]
fn of_two_nodes_the_only_voter_of_all_groups_is_removed_and_the_other_has_everything() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("directory"));
    let (introduce, introduced) = std::sync::mpsc::channel();
    let (done, finished) = oneshot::channel();
    std::thread::scope(|threads| {
        let dir = dirs[0].path();
        threads.spawn(move || older(dir, &introduce, finished));
        let (joined, key) = introduced.recv().expect("it is taken in");
        younger(dirs[1].path(), &joined, &key, done);
    });
}
