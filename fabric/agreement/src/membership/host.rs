//! Asks a host whether it is up though its daemon is silent.
//!
//! A connected UDP socket hears "refused" when the daemon's port is closed. But kernels say so
//! about once a second to each asker, and a link that is dying uses that up. So a TCP connection
//! to the same port is tried too: its refusal, which nobody limits, says that the host is up.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::peer::HostAnswer;

/// Too short for QUIC, and without its fixed bit: a daemon that lives drops it unanswered.
const NOTHING: [u8; 1] = [0];

/// Probes the host where `address` is, for at most `within`.
pub(super) async fn probe(address: SocketAddr, within: Duration) -> HostAnswer {
    let (refused, up) = tokio::join!(udp(address, within), tcp(address, within));
    HostAnswer { refused, up: up || refused }
}

async fn udp(address: SocketAddr, within: Duration) -> bool {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let asked = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        socket.send(&NOTHING).await?;
        socket.recv(&mut [0; 1]).await
    };
    matches!(timeout(within, asked).await, Ok(Err(error)) if is_refused(&error))
}

async fn tcp(address: SocketAddr, within: Duration) -> bool {
    match timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => is_refused(&error),
        Err(_) => false,
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn closed_and_open(ip: std::net::IpAddr) {
        let socket = UdpSocket::bind((ip, 0)).await.expect("binds");
        let address = socket.local_addr().expect("bound");
        let within = Duration::from_millis(300);
        let open = probe(address, within).await;
        assert!(!open.refused, "an open port refuses nothing");
        let mut got = [0; 8];
        assert_eq!(socket.try_recv(&mut got).expect("the datagram came"), 1);
        drop(socket);
        assert_eq!(probe(address, within).await, HostAnswer { refused: true, up: true });
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_an_open_one_is_not_over_ipv4() {
        closed_and_open(Ipv4Addr::LOCALHOST.into()).await;
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_an_open_one_is_not_over_ipv6() {
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            closed_and_open(Ipv6Addr::LOCALHOST.into()).await;
        }
    }
}
