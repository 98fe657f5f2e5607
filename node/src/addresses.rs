//! Where the daemon listens: the address of its last run, the one it is told, or what is there
//! instead; and what others dial.

use std::net::SocketAddr;
use std::time::Duration;

use weft_wire::Backoff;

use crate::daemon::Fatal;
use crate::service_manager;

/// An address that does not exist is waited for so many times (about a second and a half) before
/// another one of its interface is taken.
const INSTEAD: u32 = 3;
/// Between attempts to bind an address that does not exist yet.
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(200), max: Duration::from_secs(10), jitter: 0.0 };

/// Binds the address of the last run if there was one and it can be had, or else `wanted`, or what
/// is there `instead` of it.
pub(crate) async fn bind_again<E: std::error::Error + 'static>(
    remembered: Option<SocketAddr>,
    wanted: SocketAddr,
    listen: impl Fn(SocketAddr) -> Result<SocketAddr, E>,
    instead: impl Fn() -> Option<SocketAddr>,
) -> Result<SocketAddr, Fatal> {
    if let Some(remembered) = remembered
        && let Ok(address) = bind_when_there(remembered, &listen, &instead).await
    {
        return Ok(address);
    }
    bind_when_there(wanted, listen, instead).await
}

/// Binds, waiting while the address does not exist yet: an overlay may come up after us, or may
/// have given its interface another address while this node was off.
async fn bind_when_there<E: std::error::Error + 'static>(
    wanted: SocketAddr,
    listen: impl Fn(SocketAddr) -> Result<SocketAddr, E>,
    instead: impl Fn() -> Option<SocketAddr>,
) -> Result<SocketAddr, Fatal> {
    for attempt in 0u32.. {
        match listen(wanted) {
            Ok(address) => return Ok(address),
            Err(error) if address_is_missing(wanted) => {
                tracing::warn!(%error, "the address does not exist yet; waiting for it");
                service_manager::status(&format!("waiting for the address {wanted}"));
                if attempt >= INSTEAD
                    && let Some(other) = instead()
                    && let Ok(address) = listen(other)
                {
                    tracing::warn!(%wanted, %address, "its interface has another address now");
                    return Ok(address);
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(RETRY.delay(attempt, 0.5)).await;
    }
    Err("gave up waiting for the address".into())
}

/// What peers dial: the configured address, its port the bound one if it names none.
pub(crate) fn advertised(configured: &str, bound: SocketAddr) -> Result<String, String> {
    if configured.is_empty() {
        return Ok(bound.to_string());
    }
    if let Ok(address) = configured.parse::<SocketAddr>() {
        let port = if address.port() == 0 { bound.port() } else { address.port() };
        return Ok(SocketAddr::new(address.ip(), port).to_string());
    }
    configured.parse().map(|ip| SocketAddr::new(ip, bound.port()).to_string()).map_err(|_| {
        format!(
            "`[fabric] advertise` is `{configured}`: expected an IP address, with or without :port"
        )
    })
}

/// Whether an address cannot be bound because no interface has it.
fn address_is_missing(address: SocketAddr) -> bool {
    std::net::UdpSocket::bind((address.ip(), 0))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_not_there_yet_is_waited_for_also_with_a_port_of_the_last_run() {
        // A documentation address: no machine has it.
        let (last, wanted): (SocketAddr, SocketAddr) =
            ("192.0.2.1:4000".parse().expect("it"), "192.0.2.1:0".parse().expect("it"));
        let listen = |address: SocketAddr| std::net::UdpSocket::bind(address)?.local_addr();
        let waiting = bind_again(Some(last), wanted, listen, || None);
        let early = tokio::time::timeout(Duration::from_millis(50), waiting).await;
        assert!(early.is_err(), "{early:?}");
        // A port that somebody else has by now is not insisted on.
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let last = taken.local_addr().expect("its address");
        let wanted = "127.0.0.1:0".parse().expect("an address");
        let got = bind_again(Some(last), wanted, listen, || None).await.expect("another one");
        assert!(got.port() != last.port() && got.ip() == last.ip());
    }

    #[test]
    fn the_advertised_address_takes_the_bound_port_when_it_names_none() {
        let bound = "127.0.0.1:4000".parse().expect("an address");
        assert_eq!(advertised("", bound), Ok("127.0.0.1:4000".into()));
        assert_eq!(advertised("10.0.0.1", bound), Ok("10.0.0.1:4000".into()));
        assert_eq!(advertised("10.0.0.1:0", bound), Ok("10.0.0.1:4000".into()));
        assert_eq!(advertised("10.0.0.1:5", bound), Ok("10.0.0.1:5".into()));
        assert!(advertised("n1.example", bound).is_err_and(|e| e.contains("IP address")));
    }
}
