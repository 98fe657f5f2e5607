//! Elements of nftables' sets, put there over netlink: no program has to be started for it, which on
//! a busy machine takes longer than an engine needs to take a container's network away.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

// linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 0x2;
const NLA_F_NESTED: u16 = 0x8000;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFPROTO_INET: u8 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;
/// An element that is taken out in the same transaction has some time, too.
const MOMENT: Duration = Duration::from_secs(1);

/// Has these addresses expire in their sets of the table after `expires` from now, whether they were
/// in them or not; all or none. Blocks for as long as somebody else changes the rules.
///
/// # Errors
/// What the kernel said: `NotFound` without the table, `PermissionDenied` without CAP_NET_ADMIN.
pub(super) fn put(
    table: &str,
    set: fn(&IpAddr) -> &'static str,
    addresses: &[IpAddr],
    expires: Duration,
) -> io::Result<()> {
    carry_out(&batch(table, set, addresses, Some(expires)))
}

/// Takes these addresses out of their sets of the table, whether they were in them or not. As
/// [`put`].
///
/// # Errors
/// As [`put`].
pub(super) fn free(
    table: &str,
    set: fn(&IpAddr) -> &'static str,
    addresses: &[IpAddr],
) -> io::Result<()> {
    carry_out(&batch(table, set, addresses, None))
}

/// Has the kernel do a batch.
fn carry_out(batch: &[u8]) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(NETFILTER),
    )?;
    sendto(&socket, batch, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // The kernel is done when `sendto` is; its answers wait.
    let mut buffer = [0; 8192];
    loop {
        match recv(&socket, &mut buffer, RecvFlags::empty()) {
            Ok((_, length)) => refusal(buffer.get(..length).unwrap_or_default())?,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One transaction. An element that is there keeps its time when it is put there again, and one that
/// is not there cannot be taken out: so each is put there, taken out, and put there with its time.
fn batch(
    table: &str,
    set: fn(&IpAddr) -> &'static str,
    addresses: &[IpAddr],
    expires: Option<Duration>,
) -> Vec<u8> {
    let mut all = Vec::new();
    message(&mut all, NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES, &[]);
    for address in addresses {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let out = [(NFT_MSG_NEWSETELEM, Some(millis(MOMENT))), (NFT_MSG_DELSETELEM, None)];
        let put = expires.map(|expires| (NFT_MSG_NEWSETELEM, Some(millis(expires))));
        for (kind, timeout) in out.into_iter().chain(put) {
            let flags = NLM_F_ACK | if timeout.is_some() { NLM_F_CREATE } else { 0 };
            let kind = (NFNL_SUBSYS_NFTABLES << 8) | kind;
            let body = element(table, set(address), address, timeout);
            message(&mut all, kind, flags, NFPROTO_INET, 0, &body);
        }
    }
    message(&mut all, NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES, &[]);
    all
}

fn element(table: &str, set: &str, address: &IpAddr, timeout: Option<u64>) -> Vec<u8> {
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let value = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let key = attribute(NFTA_DATA_VALUE, &value);
    let mut one = attribute(NFTA_SET_ELEM_KEY | NLA_F_NESTED, &key);
    if let Some(timeout) = timeout {
        one.extend(attribute(NFTA_SET_ELEM_TIMEOUT, &timeout.to_be_bytes()));
    }
    let list = attribute(NFTA_LIST_ELEM | NLA_F_NESTED, &one);
    [
        attribute(NFTA_SET_ELEM_LIST_TABLE, &text(table)),
        attribute(NFTA_SET_ELEM_LIST_SET, &text(set)),
        attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, &list),
    ]
    .concat()
}

/// `struct nlattr` and what it holds, up to a multiple of 4 bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut all = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    all.resize(all.len().next_multiple_of(4), 0);
    all
}

/// `struct nlmsghdr`, `struct nfgenmsg`, and attributes.
fn message(all: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
    let length = u32::try_from(HEADER + 4 + body.len()).unwrap_or(u32::MAX);
    all.extend(length.to_ne_bytes());
    all.extend(kind.to_ne_bytes());
    all.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port: there is one sender, which asks once.
    all.extend([0; 8]);
    all.extend([family, 0]);
    all.extend(resource.to_be_bytes());
    all.extend(body);
}

/// The first error that an answer of the kernel holds.
fn refusal(mut answer: &[u8]) -> io::Result<()> {
    while let Some((header, _)) = answer.split_first_chunk::<HEADER>() {
        let [a, b, c, d, e, f, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let code = answer.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok());
        if let (NLMSG_ERROR, Some(code)) = (u16::from_ne_bytes([e, f]), code)
            && let code @ ..0 = i32::from_ne_bytes(code)
        {
            return Err(io::Error::from_raw_os_error(-code));
        }
        let next = length.max(HEADER).next_multiple_of(4);
        answer = answer.get(next..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_put_taken_and_put_in_one_transaction() {
        let address = IpAddr::from([10, 88, 0, 7]);
        let kinds = |all: &[u8]| {
            let (mut kinds, mut rest) = (Vec::new(), all);
            while !rest.is_empty() {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap());
                kinds.push(u16::from_ne_bytes(rest[4..6].try_into().unwrap()));
                rest = &rest[usize::try_from(length).unwrap()..];
            }
            kinds
        };
        let all = batch("t", |_| "v4", &[address], Some(Duration::from_secs(5)));
        assert_eq!(kinds(&all), [0x10, 0xa0c, 0xa0e, 0xa0c, 0x11]);
        let held = |part: &[u8]| all.windows(part.len()).filter(|window| *window == part).count();
        assert_eq!((held(&[10, 88, 0, 7]), held(&5000_u64.to_be_bytes())), (3, 1));
        assert_eq!(kinds(&batch("t", |_| "v4", &[address], None)), [0x10, 0xa0c, 0xa0e, 0x11]);
    }

    #[test]
    fn the_kernels_refusal_is_told_from_its_consent() {
        let answer = |code: i32| {
            let mut all = 36_u32.to_ne_bytes().to_vec();
            all.extend(NLMSG_ERROR.to_ne_bytes());
            all.extend([0; 10]);
            all.extend(code.to_ne_bytes());
            all.extend([0; 16]);
            all
        };
        assert!(refusal(&[]).is_ok());
        assert!(refusal(&answer(0)).is_ok());
        let two = [answer(0), answer(-2)].concat();
        assert_eq!(refusal(&two).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Nothing that is cut short is read beyond its end, or for ever.
        for length in 0..two.len() {
            let _ = refusal(&two[..length]);
        }
        assert!(refusal(&[0; 64]).is_ok());
    }
}
