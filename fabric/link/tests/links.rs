//! The life of links: races, restarts, moves, peers that lie or stop reading, the local socket.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_link::{Client, GoodBye, Limits, LinkError, LocalConfig, PeerState};
use weft_wire::{ActorKind, Address, AskError, Target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_two_dials_race_one_connection_is_kept_and_no_ask_is_lost() {
    for _ in 0..3 {
        let cluster = Cluster::new(1);
        let (a, b) = (cluster.node(1).await, cluster.node(2).await);
        introduce(&[&a, &b]);
        let mut asks = Vec::new();
        for _ in 0..20 {
            for (from, to) in [(&a, b.there()), (&b, a.there())] {
                let fabric = from.fabric.clone();
                asks.push(tokio::spawn(async move {
                    for _ in 0..50 {
                        fabric.ask(to.clone(), Echo::of(b"x"), call()).await?;
                    }
                    Ok::<_, AskError>(())
                }));
            }
        }
        for ask in asks {
            ask.await.expect("runs").expect("no ask is lost");
        }
        until_true("one connection remains", || {
            a.fabric.connections() == 1 && b.fabric.connections() == 1
        })
        .await;
        a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("answers");
        b.fabric.ask(a.there(), Echo::of(b""), call()).await.expect("answers");
        a.close().await;
        b.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_restarts_is_found_again_on_the_same_and_on_another_port() {
    let cluster = Cluster::new(1);
    let limits = || Limits { idle: Duration::from_secs(2), ..Limits::default() };
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("answers");
    let mut events = a.fabric.link_events();
    b.fabric.close(GoodBye { reason: "restart".into() }).await;
    let down = events.recv().await.expect("an event");
    assert!(!down.up && down.planned && down.reason.contains("restart"), "{down:?}");
    let (to, address) = (b.there(), b.address);
    drop(b);
    let b = cluster.node_with(2, limits(), Some(address)).await;
    assert_eq!(b.address, address);
    until_true("up again", || a.links_up() == 1).await;
    a.fabric.ask(to.clone(), Echo::of(b""), call()).await.expect("answers");
    b.close().await;
    until_true("down", || matches!(a.fabric.peers()[0].state, PeerState::Down { .. })).await;
    let b = cluster.node(2).await;
    introduce(&[&a, &b]);
    until_true("up again", || a.links_up() == 1).await;
    assert_eq!(a.fabric.peers()[0].remote, Some(b.address));
    a.fabric.ask(to, Echo::of(b""), call()).await.expect("answers");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_is_dialled_at_its_new_address() {
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    a.fabric.ask(b.there(), Echo::of(b""), call()).await.expect("answers");
    // The same node elsewhere, the old one still there.
    let moved = cluster.node(2).await;
    introduce(&[&a, &moved]);
    until_true("the new address", || a.fabric.peers()[0].remote == Some(moved.address)).await;
    a.fabric.ask(b.there(), Note(3), call()).await.expect("answers");
    assert_eq!(*moved.seen.notes.lock(), [3]);
    for node in [a, b, moved] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_or_has_no_address_is_unreachable_and_says_why() {
    let cluster = Cluster::new(1);
    let limits = Limits { handshake: Duration::from_millis(300), ..Limits::default() };
    let a = cluster.node_with(1, limits, None).await;
    let mut directory = introduce(&[&a]);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let entry =
        |n, address| weft_link::PeerEntry { id: node_id(n), name: format!("n{n}"), address };
    directory.nodes.insert(node_id(2), entry(2, silent.local_addr().ok()));
    directory.nodes.insert(node_id(3), entry(3, None));
    a.fabric.set_directory(directory);
    let to = |n| Address::on(ActorKind::Registry, node_id(n));
    match a.fabric.ask(to(2), Echo::of(b""), call()).await {
        Err(AskError::Unreachable(reason)) => assert!(reason.contains("no answer"), "{reason}"),
        other => panic!("{other:?}"),
    }
    match a.fabric.ask(to(3), Echo::of(b""), call()).await {
        Err(AskError::Unreachable(reason)) => assert!(reason.contains("no address"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let told = a.fabric.tell(to(2), Note(1), &call());
    assert!(matches!(told, Err(AskError::Unreachable(_))), "{told:?}");
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_reading_grows_no_memory_and_is_cut_off() {
    let cluster = Cluster::new(1);
    let limits = Limits { outbox: 64 * 1024, ..Limits::default() };
    let a = cluster.node_with(1, limits, None).await;
    introduce(&[&a]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    a.fabric.listen_local(&path, LocalConfig::default()).expect("listens");
    // By hand: asks and never reads. Its requests are no longer taken after a while.
    let mut raw = tokio::net::UnixStream::connect(&path).await.expect("connects");
    raw.write_all(&hello_frame()).await.expect("says hello");
    let mut ask = Vec::new();
    let header = weft_wire::frame::Header {
        kind: weft_wire::frame::Kind::Ask,
        id: 60010,
        version: 1,
        actor: ActorKind::Registry as u8,
        correlation: 1,
        deadline_ms: 0,
    };
    weft_wire::frame::write(&mut ask, header, None, |out| {
        weft_wire::codec::encode_into(&Grow(10_000), out).map(drop)
    })
    .expect("writes");
    let mut sent = 0u64;
    let stuck = async {
        loop {
            if raw.write_all(&ask).await.is_err() {
                return;
            }
            sent += 1;
        }
    };
    let stuck = tokio::time::timeout(Duration::from_secs(2), stuck).await;
    // Either it is cut off, or its requests wait in its own socket buffer.
    assert!(stuck.is_ok() || sent < 100_000, "{sent} requests were taken");
    // Others are served meanwhile.
    let client = Client::connect_local(&path, LONG).await.expect("attaches");
    client.ask(Address::here(ActorKind::Registry), Echo::of(b""), call()).await.expect("answers");
    a.close().await;
}

fn hello_frame() -> Vec<u8> {
    // protocol 1 to 1, format 1, no cluster, no node, name "x", version "0", time 0, 0, 0.
    let body = [1u8, 1, 1, 0, 0, 1, b'x', 1, b'0', 0, 0, 0];
    let mut out = (16 + body.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&body);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_lies_ends_its_connection_and_no_other() {
    let cluster = Cluster::new(1);
    let a = cluster.node(1).await;
    introduce(&[&a]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s");
    a.fabric.listen_local(&path, LocalConfig::default()).expect("listens");
    let other = Client::connect_local(&path, LONG).await.expect("attaches");
    for lie in [
        &[255u8; 64][..],
        &[3, 0, 0, 0, 1, 0, 0, 0],
        &[16, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut raw = tokio::net::UnixStream::connect(&path).await.expect("connects");
        raw.write_all(&hello_frame()).await.expect("says hello");
        let mut answer = [0; 20];
        raw.read_exact(&mut answer).await.expect("a hello");
        assert_eq!(answer[4], 0, "a hello frame");
        raw.write_all(lie).await.expect("lies");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LONG, raw.read_to_end(&mut rest)).await.expect("in time");
        assert!(ended.is_ok() || ended.is_err(), "the connection is over");
    }
    other.ask(Address::here(ActorKind::Registry), Echo::of(b""), call()).await.expect("answers");
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_socket_serves_its_user_and_reaches_other_nodes() {
    let cluster = Cluster::new(1);
    let (mut a, b) = (cluster.node(1).await, cluster.node(2).await);
    introduce(&[&a, &b]);
    let directory = tempfile::tempdir().expect("a directory");
    // Longer than a socket address.
    let deep = directory.path().join("x".repeat(100));
    std::fs::create_dir(&deep).expect("made");
    let path = deep.join("weft.sock");
    // Left over by a daemon that was killed.
    let short = directory.path().join("weft.sock");
    drop(std::os::unix::net::UnixListener::bind(&short).expect("binds"));
    std::fs::rename(&short, &path).expect("moved");
    a.fabric.listen_local(&path, LocalConfig::default()).expect("a stale socket is replaced");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let twice = b.fabric.listen_local(&path, LocalConfig::default());
    assert_eq!(twice, Err(LinkError::SocketInUse(path.clone())));
    std::fs::write(deep.join("file"), "x").expect("written");
    let file = b.fabric.listen_local(deep.join("file"), LocalConfig::default());
    assert!(matches!(file, Err(LinkError::Socket { .. })), "{file:?}");

    let client = Client::connect_local(&path, LONG).await.expect("attaches");
    assert_eq!(client.hello().node, Some(a.id()));
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("there"));
    let named =
        |name: &str| Address { actor: ActorKind::Registry, target: Target::Named(name.to_owned()) };
    let who = client.ask(named("n2"), WhoAmI(()), call()).await;
    assert_eq!(who, Ok(format!("local/uid-{uid}|admin|{}", a.id())));
    let record = a.records.recv().await.expect("recorded");
    assert!(matches!(
        record.caller.identity,
        weft_wire::Identity::Local { pid, .. } if pid == std::process::id()
    ));
    for (name, node) in [("n1", &a), ("n2", &b)] {
        let mut items = client.subscribe(named(name), Count(50), call()).await.expect("opens");
        for n in 0..50 {
            assert_eq!(items.next().await, Some(Ok(n)));
        }
        assert_eq!(items.next().await, None);
        let endless = client.subscribe(named(name), Count(u64::MAX), call()).await.expect("opens");
        drop(endless);
        until_true("the sink closes", || {
            node.seen.sinks_closed.load(std::sync::atomic::Ordering::Relaxed) == 1
        })
        .await;
    }
    let big = client.ask(named("n2"), Echo(Blob(vec![1; 1024 * 1024])), call()).await;
    assert_eq!(big.expect("answers").0.len(), 1024 * 1024);
    client.tell(&named("n1"), Note(8), &call()).expect("told");
    client.close().await;
    until_true("the note arrives", || *a.seen.notes.lock() == [8]).await;
    a.close().await;
    let gone = Client::connect_local(&path, LONG).await;
    assert!(matches!(gone, Err(LinkError::Socket { .. })), "{gone:?}");
    b.close().await;
}
