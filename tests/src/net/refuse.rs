//! Says for a node that nobody listens on a UDP port, while somebody does: the filter drops the
//! packets, this answers each with ICMP "port unreachable".

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with,
};

/// `ETH_P_ALL`, in network order: sees packets before the filter does.
const ALL: u32 = 0x0003_u16.to_be() as u32;
/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A thread in the node's namespace; ends on drop.
#[derive(Debug)]
pub(super) struct Refuser {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Refuser {
    /// Answers for `address` and `ports`; it does when this returns.
    pub(super) fn start(space: &str, address: Ipv4Addr, ports: BTreeSet<u16>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (space, stop) = (space.to_owned(), over.clone());
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            super::enter(&space);
            let (tap, icmp) = sockets().expect("raw sockets in the namespace");
            let _ = ready.send(());
            let mut packet = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((_, length)) = recv(&tap, &mut packet, RecvFlags::empty()) else {
                    continue;
                };
                let packet = packet.get(..length).unwrap_or(&packet);
                if let Some((to, answer)) = refusal(packet, address, &ports) {
                    let _ = sendto(&icmp, &answer, SendFlags::empty(), &SocketAddrV4::new(to, 0));
                }
            }
        });
        started.recv().expect("the refusing thread starts");
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Refuser {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn sockets() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let open = |family, kind, protocol: Protocol| {
        socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))
    };
    let all = Protocol::from_raw(NonZeroU32::new(ALL).expect("it is not 0"));
    let tap = open(AddressFamily::PACKET, SocketType::DGRAM, all)?;
    set_socket_timeout(&tap, Timeout::Recv, Some(LOOK))?;
    Ok((tap, open(AddressFamily::INET, SocketType::RAW, ipproto::ICMP)?))
}

/// The ICMP message that refuses an IP packet, and whom it is for; `None`: it is not refused.
fn refusal(packet: &[u8], address: Ipv4Addr, ports: &BTreeSet<u16>) -> Option<(Ipv4Addr, Vec<u8>)> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let ip = |at: usize| Some(Ipv4Addr::from(*packet.get(at..at + 4)?.first_chunk::<4>()?));
    let port = packet.get(header + 2..header + 4)?.first_chunk::<2>()?;
    let refused = first >> 4 == 4
        && packet.get(9) == Some(&17)
        && ip(16)? == address
        && ports.contains(&u16::from_be_bytes(*port));
    if !refused {
        return None;
    }
    // Destination unreachable, port; checksum; 4 bytes unused; the packet's header and 8 bytes.
    let mut answer = vec![3, 3, 0, 0, 0, 0, 0, 0];
    answer.extend_from_slice(packet.get(..header + 8)?);
    let sum = checksum(&answer).to_be_bytes();
    answer.splice(2..4, sum);
    Some((ip(12)?, answer))
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let [high, low] = [pair.first(), pair.get(1)].map(|b| b.copied().unwrap_or(0));
            u32::from(u16::from_be_bytes([high, low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
