//! The address of an overlay, which may change while the node runs: who has it, and what to do
//! when it is gone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with,
};
use serde::{Deserialize, Serialize};
use weft_link::Fabric;
use weft_protocol::files::FILES_VERSION;

use crate::data_dir::DataDir;

/// Between two looks at the addresses of this machine.
const LOOK: Duration = Duration::from_secs(1);
/// An address that is to take the place of another is there in so many looks, one after the other.
const LOOKS: u32 = 2;
/// The kernel answers at once; this is for when it does not.
const ANSWER: Duration = Duration::from_secs(1);
/// Where the interface is noted, under the data directory.
const FILE: &str = "overlay.json";

/// `overlay.json`: which interface had the address that the fabric is to bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OverlayFile {
    /// [`FILES_VERSION`] of the writer.
    version: u16,
    /// `[fabric] bind` at that time; with another one the note is void.
    bind: SocketAddr,
    /// Such as `wg0`.
    interface: String,
}

/// An address that an interface of this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    interface: String,
    address: IpAddr,
    /// Reachable from elsewhere: neither of the link only nor of the host only.
    global: bool,
}

/// What this node tells its peers of where it is.
pub(crate) type Told = Arc<Mutex<String>>;

/// The interface that the address to bind was on when this node last saw it.
pub(crate) fn noted(data: &DataDir, bind: SocketAddr) -> Option<String> {
    let file: OverlayFile = data.read(FILE)?;
    (file.bind == bind).then_some(file.interface)
}

/// The address that an interface has in place of one that is gone; `None`: that one is there, or
/// nothing is.
pub(crate) fn instead(bind: SocketAddr, interface: &str) -> Option<SocketAddr> {
    let held = addresses().ok()?;
    if held.iter().any(|held| held.address == bind.ip()) {
        return None;
    }
    replacement(&held, bind.ip(), interface).map(|ip| SocketAddr::new(ip, bind.port()))
}

/// The lowest one, so that every look finds the same.
fn replacement(held: &[Held], gone: IpAddr, interface: &str) -> Option<IpAddr> {
    let fits = |held: &&Held| {
        held.interface == interface && held.global && held.address.is_ipv4() == gone.is_ipv4()
    };
    held.iter().filter(fits).map(|held| held.address).min()
}

/// What peers dial when the fabric is bound somewhere else than it was told to: an address that
/// was configured beside the bound one, such as a relay's, stays.
pub(crate) fn moved(configured: &str, wanted: SocketAddr, bound: SocketAddr) -> String {
    let ip = configured
        .parse::<SocketAddr>()
        .map(|address| (address.ip(), address.port()))
        .or_else(|_| configured.parse::<IpAddr>().map(|ip| (ip, 0)));
    match ip {
        Ok((ip, port)) => {
            let ip = if ip == wanted.ip() { bound.ip() } else { ip };
            SocketAddr::new(ip, if port == 0 { bound.port() } else { port }).to_string()
        }
        Err(_) => bound.to_string(),
    }
}

/// Sees to it that the fabric listens at an address that exists.
pub(crate) struct Watch<'a> {
    pub(crate) fabric: Fabric,
    pub(crate) data: &'a DataDir,
    /// `[fabric] bind`.
    pub(crate) wanted: SocketAddr,
    /// `[fabric] advertise`.
    pub(crate) advertise: String,
    pub(crate) told: Told,
}

impl Watch<'_> {
    /// Looks for as long as the node runs.
    pub(crate) async fn keep(self) -> std::convert::Infallible {
        // A wildcard is always there, and so is the machine itself.
        if self.wanted.ip().is_unspecified() || self.wanted.ip().is_loopback() {
            std::future::pending::<()>().await;
        }
        let mut interface = noted(self.data, self.wanted);
        let (mut gone, mut next) = (false, None);
        loop {
            if let Some(bound) = self.fabric.address() {
                match addresses() {
                    Ok(held) => self.look(&held, bound, &mut interface, &mut gone, &mut next),
                    Err(error) => tracing::debug!(%error, "the machine's addresses are not known"),
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(
        &self,
        held: &[Held],
        bound: SocketAddr,
        interface: &mut Option<String>,
        gone: &mut bool,
        next: &mut Option<(IpAddr, u32)>,
    ) {
        let of = |ip: IpAddr| held.iter().find(|held| held.address == ip);
        if let Some(now) = of(self.wanted.ip())
            && interface.as_ref() != Some(&now.interface)
        {
            *interface = Some(now.interface.clone());
            self.note(&now.interface);
        }
        // What was configured comes first, as soon as it is there again.
        let better = (bound.ip() != self.wanted.ip() && of(self.wanted.ip()).is_some())
            .then_some(self.wanted.ip());
        if of(bound.ip()).is_some() && better.is_none() {
            if std::mem::take(gone) {
                tracing::info!(address = %bound.ip(), "the fabric's address is there again");
            }
            *next = None;
            return;
        }
        let named = interface.as_deref().unwrap_or("?");
        if better.is_none() && !std::mem::replace(gone, true) {
            tracing::warn!(
                address = %bound.ip(), interface = named,
                "the fabric's address is gone: waiting for it, or for another on its interface"
            );
        }
        let found = better.or_else(|| replacement(held, bound.ip(), named));
        *next = match (found, *next) {
            (Some(ip), Some((before, looks))) if ip == before => Some((ip, looks + 1)),
            (Some(ip), _) => Some((ip, 1)),
            (None, _) => None,
        };
        let Some((ip, LOOKS..)) = *next else { return };
        *next = None;
        match self.fabric.rebind(SocketAddr::new(ip, bound.port())) {
            Ok(now) => {
                *gone = false;
                let told = moved(&self.advertise, self.wanted, now);
                tracing::warn!(
                    before = %bound, %now, advertised = told,
                    "the fabric listens at another address; the cluster is told"
                );
                self.ports(&told);
                if let Ok(mut place) = self.told.lock() {
                    *place = told;
                }
            }
            Err(error) => tracing::warn!(%error, "the fabric cannot listen there; trying again"),
        }
    }

    fn note(&self, interface: &str) {
        let file = OverlayFile {
            version: FILES_VERSION,
            bind: self.wanted,
            interface: interface.to_owned(),
        };
        if let Err(error) = self.data.write(FILE, &file) {
            tracing::warn!(%error, "the fabric's interface cannot be noted");
        }
    }

    /// For whoever asks on this machine where the daemon is.
    fn ports(&self, told: &str) {
        let Some(mut ports) = self.data.last_ports() else { return };
        ports.fabric = told.to_owned();
        if let Err(error) = self.data.write("ports.json", &ports) {
            tracing::warn!(%error, "the new address cannot be noted");
        }
    }
}

// linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
const RTM_GETADDR: u16 = 22;
const RTM_NEWADDR: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const HEADER: usize = 16;
const IFADDRMSG: usize = 8;
const ATTRIBUTE: usize = 4;

/// Every address of this machine, as the kernel has them.
pub(crate) fn addresses() -> io::Result<Vec<Held>> {
    // `NETLINK_ROUTE` is 0, which is what no protocol stands for.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
    let length = u32::try_from(HEADER + IFADDRMSG).unwrap_or(0);
    let mut ask = length.to_ne_bytes().to_vec();
    ask.extend_from_slice(&RTM_GETADDR.to_ne_bytes());
    ask.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    ask.extend_from_slice(&1u32.to_ne_bytes());
    ask.resize(HEADER + IFADDRMSG, 0);
    send(&socket, &ask, SendFlags::empty())?;

    let (mut found, mut buffer) = (Vec::new(), vec![0; 32 * 1024]);
    loop {
        let (_, length) = recv(&socket, &mut buffer, RecvFlags::empty())?;
        let over = read(buffer.get(..length).unwrap_or_default(), &mut found);
        if over || length == 0 {
            break;
        }
    }
    let name = |index| netdevice::index_to_name(&socket, index).ok();
    let held = found.into_iter().filter_map(|(index, address, global)| {
        Some(Held { interface: name(index)?, address, global })
    });
    Ok(held.collect())
}

/// Reads one datagram of the kernel's: interface index, address, whether it is global; whether it
/// was the last one.
fn read(mut bytes: &[u8], found: &mut Vec<(u32, IpAddr, bool)>) -> bool {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        if matches!(kind, NLMSG_DONE | NLMSG_ERROR) {
            return true;
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < HEADER {
            return true;
        }
        if kind == RTM_NEWADDR
            && let Some(message) = bytes.get(HEADER..length)
            && let (Some(scope), Some(index)) = (message.get(3), u32_at(message, 4))
            && let Some(address) = address_in(message.get(IFADDRMSG..).unwrap_or_default())
        {
            found.push((index, address, *scope == 0));
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    false
}

/// This side's address: of a link with two ends the other one is `IFA_ADDRESS`.
fn address_in(mut attributes: &[u8]) -> Option<IpAddr> {
    let mut address = None;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(ATTRIBUTE..length) else { break };
        let ip = <[u8; 4]>::try_from(value)
            .map(|four| IpAddr::V4(Ipv4Addr::from(four)))
            .or_else(|_| <[u8; 16]>::try_from(value).map(|long| Ipv6Addr::from(long).into()));
        match kind {
            IFA_LOCAL => return ip.ok(),
            IFA_ADDRESS => address = ip.ok(),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    address
}

const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.first_chunk::<2>().map(|two| u16::from_ne_bytes(*two))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk::<4>().map(|four| u32::from_ne_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(interface: &str, address: &str, global: bool) -> Held {
        Held { interface: interface.into(), address: address.parse().expect("an address"), global }
    }

    #[test]
    fn the_kernel_says_that_the_machine_has_its_loopback_address() {
        let held = addresses().expect("it answers");
        let loopback = held.iter().find(|held| held.address == Ipv4Addr::LOCALHOST);
        assert_eq!(
            loopback.map(|held| (held.interface.as_str(), held.global)),
            Some(("lo", false))
        );
    }

    #[test]
    fn only_a_global_address_of_the_same_kind_on_the_same_interface_takes_a_place() {
        let gone: IpAddr = "10.0.0.1".parse().expect("an address");
        let all = [
            held("eth0", "192.168.1.2", true),
            held("wg0", "169.254.1.1", false),
            held("wg0", "fd00::1", true),
        ];
        assert_eq!(replacement(&all, gone, "wg0"), None);
        let all = [&all[..], &[held("wg0", "10.0.0.9", true), held("wg0", "10.0.0.7", true)]];
        let lowest = "10.0.0.7".parse().ok();
        assert_eq!(replacement(&all.concat(), gone, "wg0"), lowest);
    }

    #[test]
    fn what_peers_are_told_moves_with_the_bound_address_unless_it_is_another_one() {
        let wanted = "10.0.0.1:7443".parse().expect("an address");
        let bound = "10.0.0.2:7443".parse().expect("an address");
        assert_eq!(moved("", wanted, bound), "10.0.0.2:7443");
        assert_eq!(moved("10.0.0.1:7443", wanted, bound), "10.0.0.2:7443");
        assert_eq!(moved("10.0.0.1", wanted, bound), "10.0.0.2:7443");
        assert_eq!(moved("198.51.100.7:1", wanted, bound), "198.51.100.7:1");
    }

    #[test]
    fn anything_the_kernel_might_say_is_read_without_a_panic() {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(600).collect();
        for from in 0..300 {
            for to in [from, from + 1, from + 17, from + 300] {
                read(&bytes[from..to], &mut Vec::new());
                address_in(&bytes[from..to]);
            }
        }
        let endless = [0u8; 64];
        assert!(read(&endless, &mut Vec::new()));
        address_in(&endless);
    }
}
