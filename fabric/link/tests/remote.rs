//! Ask, tell and subscribe between fabrics over real QUIC.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use weft_link::{Call, Limits, PeerState};
use weft_wire::{ActorKind, Address, AskError, Target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ask_tell_and_subscribe_reach_another_node() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let answer = a.fabric.ask(b.there(), Echo::of(b"hi"), call()).await;
    assert_eq!(answer, Ok(Blob(b"hi".to_vec())));
    a.fabric.tell(b.there(), Note(5), &call()).expect("told");
    until_true("the note arrives", || *b.seen.notes.lock() == [5]).await;
    let mut items = a.fabric.subscribe(b.there(), Count(1000), call()).await.expect("opens");
    for n in 0..1000 {
        assert_eq!(items.next().await, Some(Ok(n)));
    }
    assert_eq!(items.next().await, None, "it ended well");
    let mut items = a.fabric.subscribe(b.there(), Count(7), call()).await.expect("opens");
    for n in 0..7 {
        assert_eq!(items.next().await, Some(Ok(n)));
    }
    assert_eq!(items.next().await, Some(Err(AskError::NotFound("seven".into()))));
    assert_eq!(items.next().await, None);
    let peer = a.fabric.peers().into_iter().next().expect("a peer");
    assert_eq!((peer.name.as_str(), &peer.state), ("n2", &PeerState::Up));
    assert!(peer.rtt.is_some() && peer.version.as_deref() == Some("0.1.0"));
    assert_eq!(peer.remote, Some(b.address));
    let received = b.fabric.stats().received;
    assert!(received.contains(&("Echo", 1)) && received.contains(&("Count", 2)), "{received:?}");
    // The other way over the same connection.
    let who = b.fabric.ask(a.there(), WhoAmI(()), call()).await.expect("answers");
    assert_eq!(who, format!("node/{}|node|", b.id()));
    assert_eq!((a.links_up(), b.links_up()), (1, 1));
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tells_arrive_in_order_also_those_sent_before_the_link_was_up() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    for n in 0..10_000u64 {
        while let Err(error) = a.fabric.tell(b.there(), Note(n), &call()) {
            assert!(matches!(error, AskError::Overloaded(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    // An ask of the same class comes behind them all.
    a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("answers");
    let notes = b.seen.notes.lock().clone();
    assert!(notes.iter().copied().eq(0..10_000), "{} notes", notes.len());
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_and_the_leader_are_resolved_and_a_wrong_one_is_not_found() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let to = |target| Address { actor: ActorKind::Registry, target };
    let named = b.fabric.ask(to(Target::Named("n1".into())), WhoAmI(()), call()).await;
    assert_eq!(named, Ok(format!("node/{}|node|", b.id())));
    let leader = b.fabric.ask(to(Target::Leader), WhoAmI(()), call()).await;
    assert_eq!(leader, named);
    let wrong = b.fabric.ask(to(Target::Named("n9".into())), WhoAmI(()), call()).await;
    assert!(matches!(wrong, Err(AskError::NotFound(_))), "{wrong:?}");
    let unknown = a.fabric.ask(to(Target::Node(node_id(9))), WhoAmI(()), call()).await;
    assert!(matches!(unknown, Err(AskError::NotFound(_))), "{unknown:?}");
    let nobody = a.fabric.ask(b.there(), Unknown(0), call()).await;
    assert!(matches!(nobody, Err(AskError::Unsupported { id: 60009, .. })), "{nobody:?}");
    let elsewhere = Address::on(ActorKind::Gateway, b.id());
    let nobody = a.fabric.ask(elsewhere, Echo::of(b""), call()).await;
    assert!(matches!(nobody, Ok(_) | Err(AskError::NotFound(_))), "{nobody:?}");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ask_ends_at_its_deadline_and_the_other_side_learns_that_nobody_waits() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("answers");
    let soon = Call::within(Duration::from_millis(100));
    assert_eq!(a.fabric.ask(b.there(), Never(1), soon).await, Err(AskError::Timeout));
    until_true("cancelled there", || b.seen.held.lock().iter().all(|reply| !reply.is_wanted()))
        .await;
    let reply = b.seen.held.lock().pop().expect("held");
    assert!(reply.meta().deadline.is_some());
    reply.ok(());
    // Dropping an ask cancels it too.
    {
        let ask = a.fabric.ask(b.there(), Never(2), call());
        let mut ask = std::pin::pin!(ask);
        tokio::select! {
            answer = &mut ask => panic!("{answer:?}"),
            () = until_true("it is there", || b.seen.held.lock().len() == 1) => {}
        }
        assert!(b.seen.held.lock()[0].is_wanted());
    }
    until_true("cancelled there", || !b.seen.held.lock()[0].is_wanted()).await;
    assert_eq!(a.fabric.peers()[0].in_flight, 0);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_bound_are_overloaded_at_once() {
    let cluster = Cluster::new(1);
    let few = Limits { in_flight: 4, ..Limits::default() };
    let (a, b) = (cluster.node_with(1, few, None).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("answers");
    let mut waiting = Vec::new();
    for n in 0..4 {
        let (fabric, to) = (a.fabric.clone(), b.there());
        waiting.push(tokio::spawn(async move { fabric.ask(to, Never(n), call()).await }));
    }
    until_true("four wait", || b.seen.held.lock().len() == 4).await;
    let fifth = a.fabric.ask(b.there(), Echo::of(b""), call()).await;
    assert!(matches!(fifth, Err(AskError::Overloaded(_))), "{fifth:?}");
    for reply in b.seen.held.lock().drain(..) {
        reply.ok(());
    }
    for ask in waiting {
        assert_eq!(ask.await.expect("runs"), Ok(()));
    }
    a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("there is room again");
    // A full mailbox is the other bound.
    b.seen.full.store(true, Ordering::Relaxed);
    let full = a.fabric.ask(b.there(), Echo::of(b""), call()).await;
    assert!(matches!(full, Err(AskError::Overloaded(_))), "{full:?}");
    assert_eq!(b.fabric.stats().dead_letters, 1);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_a_mebibyte_travel_beside_small_asks_in_both_directions() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let big = vec![3u8; 1024 * 1024];
    let mut asks = Vec::new();
    for _ in 0..4 {
        let (fabric, to, body) = (a.fabric.clone(), b.there(), big.clone());
        asks.push(tokio::spawn(async move { fabric.ask(to, Echo(Blob(body)), call()).await }));
        let (fabric, to) = (a.fabric.clone(), b.there());
        asks.push(tokio::spawn(async move { fabric.ask(to, Grow(1024 * 1024), call()).await }));
    }
    for _ in 0..200 {
        a.fabric.ask(b.there(), Echo::of(b"small"), call()).await.expect("answers");
    }
    for (n, ask) in asks.into_iter().enumerate() {
        let answer = ask.await.expect("runs").expect("answers");
        assert_eq!(answer.0.len(), big.len());
        assert_eq!(answer.0[0], if n % 2 == 0 { 3 } else { 7 });
    }
    let too_big = a.fabric.ask(b.there(), Echo(Blob(vec![0; 17 * 1024 * 1024])), call()).await;
    assert!(matches!(too_big, Err(AskError::Failed(_))), "{too_big:?}");
    let too_big = a.fabric.ask(b.there(), Grow(17 * 1024 * 1024), call()).await;
    assert!(matches!(too_big, Err(AskError::Failed(_))), "{too_big:?}");
    assert_eq!(a.fabric.peers()[0].in_flight, 0);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotent_asks_are_sent_again_when_the_actor_dies_and_others_are_not() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    for (to, node) in [(b.there(), &b), (a.there(), &a)] {
        assert_eq!(a.fabric.ask(to.clone(), Flaky(4), call()).await, Ok(4));
        assert_eq!(node.seen.flaky.swap(0, Ordering::Relaxed), 3);
        let once = a.fabric.ask(to, FlakyOnce(4), call()).await;
        assert!(matches!(once, Err(AskError::Unreachable(_))), "{once:?}");
        assert_eq!(node.seen.flaky.load(Ordering::Relaxed), 1);
    }
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_goes_away_ends_the_subscription_there_and_a_slow_one_blocks_nobody() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let endless = || a.fabric.subscribe(b.there(), Count(u64::MAX), call());
    let mut first = endless().await.expect("opens");
    let slow = endless().await.expect("opens");
    assert_eq!(first.next().await, Some(Ok(0)));
    drop(first);
    until_true("the first sink closes", || b.seen.sinks_closed.load(Ordering::Relaxed) == 1).await;
    for _ in 0..100 {
        a.fabric.ask(b.there(), Echo::of(b"x"), call()).await.expect("answers");
    }
    drop(slow);
    until_true("the second sink closes", || b.seen.sinks_closed.load(Ordering::Relaxed) == 2).await;
    a.close().await;
    b.close().await;
}
