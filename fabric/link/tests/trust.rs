//! Who is let in, and what they may do: certificates, deny list, forwarding, audit, joining.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use weft_identity::{Expect, Validity, client_config, joiner_client_config};
use weft_link::{Client, JOIN_PROTOCOLS, LinkError, PeerState, join_ask};
use weft_wire::{
    ActorKind, Address, AskError, Caller, Clock, Identity, Role, SystemClock, Target, WallTime,
};

const SOON: Duration = Duration::from_secs(10);

async fn client(
    cluster: &Cluster,
    credentials: &weft_identity::Credentials,
    address: SocketAddr,
) -> Result<Client, LinkError> {
    Client::connect(address, credentials, &cluster.trust(), Expect::AnyNode, SOON).await
}

fn refused(result: Result<Client, LinkError>) -> String {
    match result {
        Err(LinkError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_certificates_are_refused_with_the_reason() {
    let (cluster, other) = (Cluster::new(1), Cluster::new(2));
    let node = cluster.node(1).await;
    introduce(&[&node]);
    let now = SystemClock.wall();
    let day = Duration::from_secs(86_400);

    let foreign = other.operator_credentials(1);
    let reason = refused(client(&cluster, &foreign, node.address).await);
    assert!(reason.contains("issuing CA") || reason.contains("cluster"), "{reason}");

    let old = Validity { not_before: now.minus(day), not_after: now.minus(day / 2) };
    let expired = cluster.credentials(Identity::Operator(operator(1)), old);
    let reason = refused(client(&cluster, &expired, node.address).await);
    assert!(reason.contains("expired"), "{reason}");

    node.trust.deny(&Identity::Operator(operator(3)));
    let denied = cluster.operator_credentials(3);
    let reason = refused(client(&cluster, &denied, node.address).await);
    assert!(reason.contains("removed"), "{reason}");

    // A server of another cluster, seen from a client.
    let stranger = other.node(7).await;
    let reason =
        refused(client(&cluster, &cluster.operator_credentials(1), stranger.address).await);
    assert!(reason.contains("issuing CA") || reason.contains("UntrustedIssuer"), "{reason}");

    // No certificate at all, on the door that wants one.
    let tls = client_config(None, &cluster.trust(), Expect::AnyNode, &[weft_link::ALPN_LINK])
        .expect("a configuration");
    let answer = join_ask(node.address, tls, Target::Here, Join("secret".into()), SOON).await;
    match answer {
        Err(AskError::Unreachable(reason)) => {
            assert!(reason.contains("wants a certificate"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    node.close().await;
    stranger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nodes_certificate_at_the_address_is_refused_and_said() {
    let cluster = Cluster::new(1);
    let (a, b, c) = (cluster.node(1).await, cluster.node(2).await, cluster.node(3).await);
    let mut directory = introduce(&[&a, &b, &c]);
    let entry = directory.nodes.get_mut(&b.id()).expect("known");
    entry.address = Some(c.address);
    a.fabric.set_directory(directory);
    match a.fabric.ask(b.there(), Echo::of(b""), call()).await {
        Err(AskError::Unreachable(reason)) => {
            let said = reason.contains("answered where node") || reason.contains("OtherPeer");
            assert!(said, "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let peer = a.fabric.peers().into_iter().find(|peer| peer.id == b.id()).expect("listed");
    assert!(matches!(peer.state, PeerState::Down { .. }), "{peer:?}");
    // While it is down asks fail at once, with that reason.
    let again = a.fabric.ask(b.there(), Echo::of(b""), call());
    let again = tokio::time::timeout(Duration::from_millis(500), again).await.expect("at once");
    assert!(matches!(again, Err(AskError::Unreachable(_))), "{again:?}");
    for node in [a, b, c] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denying_an_id_closes_its_live_connections_and_keeps_it_out() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    let mut directory = introduce(&[&a, &b]);
    let person = client(&cluster, &cluster.operator_credentials(1), a.address).await.expect("in");
    let here = || Address::here(ActorKind::Registry);
    person.ask(here(), Echo::of(b""), call()).await.expect("answers");
    b.fabric.ask(a.there(), Echo::of(b""), call()).await.expect("answers");
    let held = {
        let (fabric, to) = (b.fabric.clone(), a.there());
        tokio::spawn(async move { fabric.ask(to, Never(1), call()).await })
    };
    until_true("it waits", || a.seen.held.lock().len() == 1).await;
    directory.denied.insert(format!("node/{}", b.id()));
    directory.denied.insert(format!("operator/{}", operator(1)));
    a.fabric.set_directory(directory);
    match tokio::time::timeout(Duration::from_secs(5), held).await.expect("in 5 s").expect("runs") {
        Err(AskError::Unreachable(reason)) => assert!(reason.contains("removed"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let cut = tokio::time::timeout(Duration::from_secs(5), async {
        while person.ask(here(), Echo::of(b""), call()).await.is_ok() {}
    });
    cut.await.expect("in 5 s");
    assert!(matches!(
        a.fabric.ask(b.there(), Echo::of(b""), call()).await,
        Err(AskError::Unreachable(_))
    ));
    let again = b.fabric.ask(a.there(), Echo::of(b""), call()).await;
    assert!(matches!(again, Err(AskError::Unreachable(_))), "{again:?}");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_trust_closes_live_connections_too() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    b.fabric.ask(a.there(), Echo::of(b""), call()).await.expect("answers");
    a.trust.deny(&Identity::Node(b.id()));
    until_true("closed", || a.links_up() == 0).await;
    until_true("refused", || {
        matches!(&b.fabric.peers()[0].state, PeerState::Down { reason, .. } if reason.contains("removed"))
    })
    .await;
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_the_certificate_of_its_peer() {
    let cluster = Cluster::new(1);
    let a = cluster.node(1).await;
    introduce(&[&a]);
    let now = SystemClock.wall();
    let validity =
        Validity { not_before: now.minus(SOON), not_after: now.plus(Duration::from_secs(2)) };
    let short = cluster.credentials(Identity::Operator(operator(1)), validity);
    let person = client(&cluster, &short, a.address).await.expect("in");
    let here = Address::here(ActorKind::Registry);
    let ended = loop {
        match person.ask(here.clone(), Echo::of(b""), call()).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert!(ended.to_string().contains("expired"), "{ended}");
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_leads_to_a_new_connection_and_no_ask_is_lost() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    // Dialled by the smaller id; renewed by the larger: the newer one must win all the same.
    a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("answers");
    let mut events = b.fabric.link_events();
    let held = {
        let (fabric, to) = (a.fabric.clone(), b.there());
        tokio::spawn(async move { fabric.ask(to, Never(1), call()).await })
    };
    until_true("it waits", || b.seen.held.lock().len() == 1).await;
    let key = weft_identity::PrivateKey::generate().expect("a key");
    let subject = weft_identity::Subject { cluster: cluster.id, identity: Identity::Node(b.id()) };
    let chain = cluster
        .ca
        .sign_csr(&key.csr().expect("a CSR"), &subject, Validity::node(SystemClock.wall()))
        .expect("signs");
    b.credentials.replace(&chain, &key).expect("the same identity");
    let port = a.fabric.peers()[0].remote;
    // The held ask keeps the old connection; new asks take the new one.
    for _ in 0..300 {
        a.fabric.ask(b.there(), Echo::of(b"x"), call()).await.expect("answers");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(events.try_recv().is_err(), "the link never went down");
    b.seen.held.lock().pop().expect("held").ok(());
    assert_eq!(held.await.expect("runs"), Ok(()));
    assert_eq!(a.fabric.peers()[0].remote, port, "one socket a node");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_sends_is_forwarded_in_their_name_and_recorded_once_where_it_enters() {
    let cluster = Cluster::new(1);
    let (mut a, mut b, c) = (cluster.node(1).await, cluster.node(2).await, cluster.node(3).await);
    introduce(&[&a, &b, &c]);
    let person = client(&cluster, &cluster.operator_credentials(1), a.address).await.expect("in");
    assert_eq!(person.hello().name, "n1");
    let to =
        |name: &str| Address { actor: ActorKind::Registry, target: Target::Named(name.to_owned()) };
    let who = person.ask(to("n2"), WhoAmI(()), call()).await;
    assert_eq!(who, Ok(format!("operator/{}|admin|{}", operator(1), a.id())));
    let record = a.records.recv().await.expect("recorded");
    assert_eq!((record.method, record.target.as_str()), ("WhoAmI", "registry@n2"));
    assert_eq!((record.error, record.caller.identity), (None, Identity::Operator(operator(1))));
    person.tell(&to("n3"), Note(9), &call()).expect("told");
    until_true("the note arrives", || *c.seen.notes.lock() == [9]).await;
    assert_eq!(a.records.recv().await.expect("recorded").method, "Note");
    let mut items = person.subscribe(to("n2"), Count(100), call()).await.expect("opens");
    for n in 0..100 {
        assert_eq!(items.next().await, Some(Ok(n)));
    }
    assert_eq!(items.next().await, None);
    assert_eq!(a.records.recv().await.expect("recorded").method, "Count");
    let missing = person.ask(to("n2"), Unknown(1), call()).await;
    assert!(matches!(missing, Err(AskError::Unsupported { .. })), "{missing:?}");
    let record = a.records.recv().await.expect("recorded");
    assert!(matches!(record.error, Some(AskError::Unsupported { .. })), "{record:?}");
    assert!(b.records.try_recv().is_err(), "recorded once, where it entered");
    // A cancelled ask is cancelled on the far node too.
    let soon = weft_link::Call::within(Duration::from_millis(100));
    assert_eq!(person.ask(to("n2"), Never(1), soon).await, Err(AskError::Timeout));
    until_true("cancelled there", || b.seen.held.lock().iter().all(|reply| !reply.is_wanted()))
        .await;
    person.close().await;
    for node in [a, b, c] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_without_the_right_is_denied_and_recorded_once() {
    let cluster = Cluster::new(1);
    let (mut a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let guest = client(&cluster, &cluster.operator_credentials(2), a.address).await.expect("in");
    let denied = guest.subscribe(b.there(), Count(1), call()).await;
    assert!(matches!(denied, Err(AskError::Denied(_))), "{denied:?}");
    let record = a.records.recv().await.expect("recorded");
    assert!(matches!(record.error, Some(AskError::Denied(_))), "{record:?}");
    assert_eq!((record.method, record.caller.role), ("Count", Role::Guest));
    guest.ask(b.there(), Echo::of(b""), call()).await.expect("may do this");
    assert_eq!(a.records.recv().await.expect("recorded").method, "Echo");
    // Somebody with a certificate, of whom this node knows nothing.
    let stranger = client(&cluster, &cluster.operator_credentials(9), a.address).await.expect("in");
    let denied = stranger.ask(a.there(), Echo::of(b""), call()).await;
    assert!(matches!(denied, Err(AskError::Denied(_))), "{denied:?}");
    assert_eq!(a.records.recv().await.expect("recorded").method, "Echo");
    // A person that speaks for another.
    let forged = weft_link::Call {
        caller: Some(Caller {
            identity: Identity::Operator(operator(1)),
            role: Role::Admin,
            via: None,
        }),
        ..call()
    };
    let denied = guest.ask(a.there(), Echo::of(b""), forged).await;
    assert!(matches!(denied, Err(AskError::Denied(_))), "{denied:?}");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_caller_has_no_more_rights_than_the_target_knows_of() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let on_behalf = |identity, role| weft_link::Call {
        caller: Some(Caller { identity, role, via: None }),
        ..call()
    };
    let raised = on_behalf(Identity::Operator(operator(2)), Role::Admin);
    let who = a.fabric.ask(b.there(), WhoAmI(()), raised.clone()).await;
    assert_eq!(who, Ok(format!("operator/{}|guest|{}", operator(2), a.id())));
    let denied = a.fabric.subscribe(b.there(), Count(1), raised).await;
    assert!(matches!(denied, Err(AskError::Denied(_))), "{denied:?}");
    let unknown = on_behalf(Identity::Operator(operator(77)), Role::Admin);
    let denied = a.fabric.ask(b.there(), WhoAmI(()), unknown).await;
    assert!(matches!(denied, Err(AskError::Denied(_))), "{denied:?}");
    // On a node's behalf is as oneself.
    let other = on_behalf(Identity::Node(node_id(9)), Role::Node);
    let who = a.fabric.ask(b.there(), WhoAmI(()), other).await;
    assert_eq!(who, Ok(format!("node/{}|node|", a.id())));
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_may_only_join_and_only_so_often_wrongly() {
    let cluster = Cluster::new(1);
    let (mut a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let pinned = cluster.trust().bundle().fingerprints();
    let tls = |cluster_id| {
        joiner_client_config(&pinned, cluster_id, JOIN_PROTOCOLS, &clock).expect("a configuration")
    };
    let join =
        |to, secret: &str| join_ask(to, tls(cluster.id), Target::Leader, Join(secret.into()), SOON);
    // Through the leader itself, and through another node that forwards.
    let answer = join(a.address, "secret").await.expect("joined");
    assert!(answer.contains("Joiner") && answer.contains("via: None"), "{answer}");
    let answer = join(b.address, "secret").await.expect("joined");
    assert!(answer.contains("Joiner") && answer.contains(&b.id().to_string()), "{answer}");
    assert_eq!(a.records.recv().await.expect("recorded").caller.identity, Identity::Joiner);
    assert!(a.records.try_recv().is_err(), "the other is recorded where it entered");
    let denied = join_ask(a.address, tls(cluster.id), Target::Here, Echo::of(b""), SOON).await;
    assert!(matches!(denied, Err(AskError::Denied(_))), "{denied:?}");
    // A cluster that is not the token's.
    let other =
        join_ask(a.address, tls(Cluster::new(5).id), Target::Here, Join("secret".into()), SOON)
            .await;
    assert!(matches!(other, Err(AskError::Unreachable(_))), "{other:?}");
    for _ in 0..9 {
        let wrong = join(a.address, "guess").await;
        assert!(matches!(wrong, Err(AskError::Failed(_))), "{wrong:?}");
    }
    match join(a.address, "secret").await {
        Err(AskError::Unreachable(reason)) => {
            assert!(reason.contains("too many failed joins"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    a.close().await;
    b.close().await;
    let _ = WallTime::default();
}
