//! Peers that hold a good certificate and break the protocol all the same, spoken by hand.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use quinn::crypto::rustls::QuicClientConfig;
use weft_identity::{Credentials, Expect, FABRIC_NAME, client_config};
use weft_link::{ALPN_LINK, Hello, Limits};
use weft_wire::frame::{self, Header, Kind};
use weft_wire::{ActorKind, NodeId, WallTime, codec};

/// A TLS connection to a node, nothing said yet.
async fn connect(cluster: &Cluster, node: &Node, own: &Credentials) -> quinn::Connection {
    let tls = client_config(Some(own), &cluster.trust(), Expect::AnyNode, &[ALPN_LINK])
        .expect("a configuration");
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3");
    let endpoint =
        quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("an endpoint");
    endpoint
        .connect_with(quinn::ClientConfig::new(Arc::new(crypto)), node.address, FABRIC_NAME)
        .expect("dials")
        .await
        .expect("a handshake")
}

fn frame(kind: Kind, id: u16, actor: u8, correlation: u32, body: &[u8]) -> Vec<u8> {
    let header = Header { kind, id, version: 1, actor, correlation, deadline_ms: 0 };
    let mut out = Vec::new();
    frame::write(&mut out, header, None, |out| {
        out.extend_from_slice(body);
        Ok(())
    })
    .expect("writes");
    out
}

fn hello(cluster: &Cluster, node: NodeId) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        format_level: 1,
        cluster: Some(cluster.id),
        node: Some(node),
        name: "raw".into(),
        version: "0".into(),
        wall: WallTime::default(),
        instance: 1,
        supersedes: 0,
    }
}

async fn say(connection: &quinn::Connection, hello: &Hello) -> Option<u8> {
    let (mut write, mut read) = connection.open_bi().await.ok()?;
    let body = codec::encode(hello).expect("encodes");
    write.write_all(&frame(Kind::Hello, 0, 0, 0, &body)).await.ok()?;
    let mut header = [0; frame::HEADER];
    read.read_exact(&mut header).await.ok()?;
    header.get(4).copied()
}

async fn closed(connection: &quinn::Connection) -> (u64, String) {
    match tokio::time::timeout(LONG, connection.closed()).await.expect("in time") {
        quinn::ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_lies_closes_the_link_with_its_code_and_reason() {
    let cluster = Cluster::new(1);
    let a = cluster.node(1).await;
    introduce(&[&a]);
    let lane = frame(Kind::Hello, 1, 1, 0, &[]);
    let lies: [(&[u8], Vec<u8>); 5] = [
        (b"out of bounds", [lane.clone(), vec![255; 32]].concat()),
        (
            b"unknown frame kind",
            [lane.clone(), {
                let mut ask = frame(Kind::Ask, 60001, 1, 1, &[]);
                ask[4] = 77;
                ask
            }]
            .concat(),
        ),
        (b"bytes where", [lane.clone(), 1_000_000u32.to_le_bytes().to_vec()].concat()),
        (b"among requests", [lane, frame(Kind::Reply, 0, 0, 1, &[])].concat()),
        (b"begins with", frame(Kind::Item, 0, 0, 0, &[])),
    ];
    for (expected, lie) in lies {
        let raw = connect(&cluster, &a, &cluster.node_credentials(2)).await;
        assert_eq!(say(&raw, &hello(&cluster, node_id(2))).await, Some(Kind::Hello as u8));
        let (mut write, _read) = raw.open_bi().await.expect("opens");
        write.write_all(&lie).await.expect("writes");
        let (code, reason) = closed(&raw).await;
        assert_eq!(code, 2, "{reason}");
        let expected = String::from_utf8_lossy(expected);
        assert!(reason.contains(&*expected), "`{reason}`, not `{expected}`");
    }
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_claims_another_id_or_cluster_is_refused() {
    let cluster = Cluster::new(1);
    let a = cluster.node(1).await;
    introduce(&[&a]);
    let other = Hello { cluster: Some(Cluster::new(9).id), ..hello(&cluster, node_id(2)) };
    for (expected, wrong) in [
        ("another than its certificate", hello(&cluster, node_id(3))),
        ("belongs to cluster", other),
        (
            "link protocol",
            Hello { protocol_min: 7, protocol_max: 9, ..hello(&cluster, node_id(2)) },
        ),
    ] {
        let raw = connect(&cluster, &a, &cluster.node_credentials(2)).await;
        let _ = say(&raw, &wrong).await;
        let (code, reason) = closed(&raw).await;
        assert!(code == 6 && reason.contains(expected), "{code} {reason}");
    }
    assert_eq!(a.links_up(), 0);
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_peer_that_does_not_read_its_answers_are_not_taken_any_more() {
    let cluster = Cluster::new(1);
    let limits = Limits { outbox: 64 * 1024, ..Limits::default() };
    let (a, b) = (cluster.node_with(1, limits, None).await, cluster.node(3).await);
    introduce(&[&a, &b]);
    let raw = connect(&cluster, &a, &cluster.node_credentials(2)).await;
    assert_eq!(say(&raw, &hello(&cluster, node_id(2))).await, Some(Kind::Hello as u8));
    let (mut write, _unread) = raw.open_bi().await.expect("opens");
    write.write_all(&frame(Kind::Hello, 1, 1, 0, &[])).await.expect("a lane");
    let body = codec::encode(&Grow(10_000)).expect("encodes");
    let asks = async {
        for n in 1..=200_000 {
            let ask = frame(Kind::Ask, 60010, ActorKind::Registry as u8, n, &body);
            if write.write_all(&ask).await.is_err() {
                return;
            }
        }
    };
    // It gets stuck on flow control, or is cut off; never are all of them taken.
    let _ = tokio::time::timeout(Duration::from_secs(2), asks).await;
    let taken = || {
        let received = a.fabric.stats().received;
        received.iter().find(|(name, _)| *name == "Grow").map_or(0, |(_, count)| *count)
    };
    assert!((1..20_000).contains(&taken()), "{} requests taken", taken());
    // Others are served as ever.
    for _ in 0..100 {
        b.fabric.ask(a.there(), Echo::of(b"x"), call()).await.expect("answers");
    }
    raw.close(0u32.into(), b"");
    a.close().await;
    b.close().await;
}
