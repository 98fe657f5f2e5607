//! What the service manager is told (`sd_notify`, orchestration §27): that the node is ready, what
//! it waits for, that it stops, and, where `WatchdogSec=` is set, that it still answers.

use std::time::Duration;

use sd_notify::NotifyState;
use weft_link::{Call, Fabric};
use weft_protocol::Ping;
use weft_wire::{ActorKind, Address};

/// The node serves.
pub(crate) fn ready(name: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("node {name} is ready"))]);
}

/// What it does now, for `systemctl status`.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// It was told to stop, or gives up.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the node lives as long as its root supervisor answers, twice within the time that is
/// set. An actor that hangs is the supervisor's business; one that no longer answers itself has
/// the daemon killed and started again. Ends at once if no time is set.
pub(crate) async fn watchdog(fabric: Fabric) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let period = within / 2;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if answers(&fabric, period).await {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the node's supervisor does not answer; the watchdog is not told");
        }
    }
}

async fn answers(fabric: &Fabric, within: Duration) -> bool {
    fabric.ask(Address::here(ActorKind::Node), Ping {}, Call::within(within)).await.is_ok()
}

fn tell(state: &[NotifyState<'_>]) {
    // Whoever listens is no matter for the node: it goes on.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
