//! Bridges that keep their hardware address.
//!
//! A bridge whose address nobody set takes the lowest of its ports', so it changes as containers
//! come and go, and the containers that stay answer the old one until their ARP entry ends: of
//! connections to them the first packets are lost, for seconds. Podman's netavark before 1.9 makes
//! such bridges; Docker and later Podmans set the address themselves.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

/// Sets the hardware address that the bridge with one of these addresses has, so that it stays.
/// Answers the bridges' names; none: no bridge of this network namespace has one of them, as with a
/// rootless engine.
///
/// # Errors
/// What the kernel said: without CAP_NET_ADMIN nothing can be set.
pub(crate) async fn hold_bridges(gateways: &[IpAddr]) -> std::io::Result<Vec<String>> {
    if gateways.is_empty() {
        return Ok(Vec::new());
    }
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let held = hold(&handle, gateways).await;
    connection.abort();
    held.map_err(std::io::Error::other)
}

async fn hold(handle: &Handle, gateways: &[IpAddr]) -> Result<Vec<String>, rtnetlink::Error> {
    let mut held = Vec::new();
    let mut all = handle.address().get().execute();
    let mut indices = Vec::new();
    while let Some(message) = all.try_next().await? {
        if address(&message).is_some_and(|address| gateways.contains(&address)) {
            indices.push(message.header.index);
        }
    }
    for index in indices {
        let mut links = handle.link().get().match_index(index).execute();
        while let Some(link) = links.try_next().await? {
            let Some((name, hardware)) = bridge(link) else { continue };
            let set = LinkMessageBuilder::<LinkUnspec>::new().index(index).address(hardware);
            handle.link().set(set.build()).execute().await?;
            held.push(name);
        }
    }
    Ok(held)
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })
}

/// Name and hardware address, if it is a bridge.
fn bridge(link: LinkMessage) -> Option<(String, Vec<u8>)> {
    let (mut name, mut hardware, mut is_bridge) = (None, None, false);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Address(bytes) => hardware = Some(bytes),
            LinkAttribute::LinkInfo(infos) => {
                is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            _ => {}
        }
    }
    name.zip(hardware).filter(|_| is_bridge)
}
