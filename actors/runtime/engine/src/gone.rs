//! Whoever connects to a container that ends is refused, not left waiting.
//!
//! When a container has ended, the engine takes its network interface away first, and the rules that
//! lead to it after that. What connects in between waits until nobody answers for its address: three
//! seconds, or more than a minute (measured with Podman 4.3.1 and netavark 1.4, at nearly every end).
//! So new connections to its addresses are reset: from the moment on at which it is asked to stop, as
//! what drains takes no more work; else from the end of its process on. By a table of nftables of our
//! own, whose entries expire by themselves.

mod elements;

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Container;
use crate::bridge::hold_bridges;
use crate::exit::ExitWatch;

/// The table; `inet`.
const TABLE: &str = "weft_gone";
/// So long after its end an address may be connected to again, whatever happened: longer than an
/// engine takes to clean up on a busy machine. One that is given to another container of Weft
/// meanwhile is free at once; Podman gives the others first, Docker does not.
const EXPIRES: Duration = Duration::from_secs(5);
/// The kernel and `nft` have so long.
const WITHIN: Duration = Duration::from_secs(2);

/// Holds the bridges of a container's networks, and has new connections to it refused from the end
/// of its process on. An engine in another network namespace is left alone, and so is everything
/// where there is no `nft` or it may do nothing: then such connections wait as they always did.
///
/// To be called when it has started or was found running; does not wait for its end.
pub async fn guard_network(container: &Container) {
    if tokio::time::timeout(WITHIN, guard(container)).await.is_err() {
        tracing::debug!(container = container.name, "its network is left as it is: no answer");
    }
}

/// Has new connections to a container refused from now on, because it is about to be stopped, with
/// `grace` to end by itself; those that are open go on. Does nothing where [`guard_network`] can do
/// nothing.
pub async fn refuse_network(container: &Container, grace: Duration) {
    if container.addresses.is_empty() || !container.pid.is_some_and(is_of_this_user_namespace) {
        return;
    }
    let held = tokio::time::timeout(WITHIN, hold_bridges(&container.gateways)).await;
    // Its addresses mean something only where its bridge is.
    if held.is_ok_and(|held| held.is_ok_and(|held| !held.is_empty())) {
        refuse(&container.addresses, grace.saturating_add(EXPIRES)).await;
    }
}

async fn guard(container: &Container) {
    let (Some(pid), addresses) = (container.pid, container.addresses.clone()) else { return };
    let Ok(watch) = ExitWatch::of(pid) else { return };
    if !is_of_this_user_namespace(pid) {
        return;
    }
    match hold_bridges(&container.gateways).await {
        // Its addresses mean something only where its bridge is.
        Ok(held) if held.is_empty() => return,
        Ok(held) => tracing::debug!(?held, "bridges keep their addresses"),
        Err(error) => return tracing::debug!(%error, "a bridge may change its address"),
    }
    if addresses.is_empty() {
        return;
    }
    // Whatever becomes of this, its end is watched.
    if let Err(error) = free(&addresses).await {
        tracing::debug!(%error, "connections to a container that ends may wait");
    }
    tokio::spawn(async move {
        watch.ended().await;
        refuse(&addresses, EXPIRES).await;
    });
}

/// Another had these addresses a moment ago, perhaps: nothing refuses for them any more. Makes the
/// table, if it is not there.
async fn free(addresses: &[IpAddr]) -> io::Result<()> {
    let addresses = addresses.to_owned();
    let free = tokio::task::spawn_blocking(move || elements::free(TABLE, set, &addresses));
    match free.await.map_err(io::Error::other)? {
        Err(error) if error.kind() == io::ErrorKind::NotFound => nft(&table()).await,
        done => done,
    }
}

/// These addresses refuse new connections for so long.
async fn refuse(addresses: &[IpAddr], expires: Duration) {
    let addresses = addresses.to_owned();
    let put = tokio::task::spawn_blocking(move || elements::put(TABLE, set, &addresses, expires));
    match tokio::time::timeout(WITHIN, put).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => {
            tracing::debug!(%error, "connections to a container that ends may wait");
        }
        Ok(Err(_)) | Err(_) => tracing::debug!("connections to a container that ends may wait"),
    }
}

/// A rootless engine has networks of its own, whose addresses may be others' here.
fn is_of_this_user_namespace(pid: u32) -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
    of("self").is_some_and(|own| of(&pid.to_string()) == Some(own))
}

fn set(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "v4" } else { "v6" }
}

/// What makes the table, empty.
fn table() -> String {
    let mut script = format!("add table inet {TABLE}\n");
    for (name, kind) in [("v4", "ipv4_addr"), ("v6", "ipv6_addr")] {
        let _ = writeln!(script, "add set inet {TABLE} {name} {{ type {kind}; flags timeout; }}");
    }
    // Behind the rules that lead to containers, for connections from here and from elsewhere.
    for (chain, hook) in [("here", "output"), ("passing", "forward")] {
        let _ = writeln!(
            script,
            "add chain inet {TABLE} {chain} {{ type filter hook {hook} priority -10; }}\n\
             flush chain inet {TABLE} {chain}"
        );
        for (family, name) in [("ip", "v4"), ("ip6", "v6")] {
            let _ = writeln!(
                script,
                "add rule inet {TABLE} {chain} {family} daddr @{name} \
                 tcp flags & (syn|ack) == syn reject with tcp reset"
            );
        }
    }
    script
}

/// Has a script done, whole or not at all.
async fn nft(script: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    let done = child.wait_with_output().await?;
    match done.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned())),
    }
}
