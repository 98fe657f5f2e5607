//! A relay as overlays have them: a UDP port in the middle of the network that stands for a
//! node's, and takes its time in both directions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};
use weft_wire::{Clock, SystemClock};

/// Larger packets than any link passes.
const PACKET: usize = 2048;

/// A thread in the bridge's namespace; ends on drop.
#[derive(Debug)]
pub(super) struct Relay {
    over: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// When a packet leaves, and what is in it.
type Delayed = (Instant, Vec<u8>);

impl Relay {
    /// Relays what comes to `front` on to `node`, and what it answers back, each `delay` later.
    /// It does when this returns.
    pub(super) fn start(space: &str, front: SocketAddr, node: SocketAddr, delay: Duration) -> Self {
        let over = Arc::new(Notify::new());
        let (space, end) = (space.to_owned(), over.clone());
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            super::enter(&space);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            LocalSet::new().block_on(&runtime, async move {
                let socket = UdpSocket::bind(front).await.expect("the relay's address");
                let _ = ready.send(());
                tokio::select! {
                    () = relay(Arc::new(socket), node, delay) => {}
                    () = end.notified() => {}
                }
            });
        });
        started.recv().expect("the relaying thread starts");
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn relay(front: Arc<UdpSocket>, node: SocketAddr, delay: Duration) {
    let mut peers: HashMap<SocketAddr, UnboundedSender<Delayed>> = HashMap::new();
    let mut packet = vec![0; PACKET];
    loop {
        // A peer that is gone shows as an error of the socket: its loss, not the relay's.
        let Ok((length, peer)) = front.recv_from(&mut packet).await else { continue };
        let packet = packet.get(..length).unwrap_or_default().to_vec();
        if let Some(there) = peers.get(&peer) {
            let _ = there.send((due(delay), packet));
        } else if let Ok(there) = way(&front, node, peer, delay).await {
            let _ = there.send((due(delay), packet));
            peers.insert(peer, there);
        }
    }
}

/// The way between a peer and the node: a socket of its own, so that answers find back.
async fn way(
    front: &Arc<UdpSocket>,
    node: SocketAddr,
    peer: SocketAddr,
    delay: Duration,
) -> std::io::Result<UnboundedSender<Delayed>> {
    let back = UdpSocket::bind((front.local_addr()?.ip(), 0)).await?;
    back.connect(node).await?;
    let back = Arc::new(back);
    let (there, to_node) = unbounded_channel();
    let (home, to_peer) = unbounded_channel();
    tokio::task::spawn_local(send(back.clone(), to_node));
    tokio::task::spawn_local(send_to(front.clone(), peer, to_peer));
    tokio::task::spawn_local(async move {
        let mut packet = vec![0; PACKET];
        loop {
            // As above, of the node.
            let Ok(length) = back.recv(&mut packet).await else { continue };
            let packet = packet.get(..length).unwrap_or_default().to_vec();
            let _ = home.send((due(delay), packet));
        }
    });
    Ok(there)
}

fn due(delay: Duration) -> Instant {
    Instant::from_std(SystemClock.now() + delay)
}

/// In the order in which they came.
async fn send(socket: Arc<UdpSocket>, mut packets: UnboundedReceiver<Delayed>) {
    while let Some((due, packet)) = packets.recv().await {
        sleep_until(due).await;
        let _ = socket.send(&packet).await;
    }
}

/// As [`send`], by a socket that is connected to nobody.
async fn send_to(socket: Arc<UdpSocket>, to: SocketAddr, mut packets: UnboundedReceiver<Delayed>) {
    while let Some((due, packet)) = packets.recv().await {
        sleep_until(due).await;
        let _ = socket.send_to(&packet, to).await;
    }
}
