//! Asking whoever leads for the leases of this node's fenced replicas, and telling components and
//! shims until when they may run. What to ask and when is [`Book`]'s to say.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use weft_link::{Call, Refusal};
use weft_protocol::{Assignment, ComponentKey, Desired, ReplicaKey};
use weft_supervision::Scope;
use weft_wire::{ActorKind, Address, Target};

use crate::actor::Runtime;
use crate::boottime::now_ms;
use crate::component::POST_RETRY;
use crate::state::lease::{Book, Lease};

/// Between looks at whether something is to be asked or has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An answer that takes longer is worth little.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);

/// The fenced replicas that are to run, with their generations.
pub(crate) fn wanted<'a>(
    assignments: impl Iterator<Item = &'a Assignment>,
) -> BTreeMap<ReplicaKey, u64> {
    assignments
        .filter(|assignment| assignment.fenced && assignment.desired == Desired::Running)
        .map(|assignment| (replica(&assignment.key), assignment.generation))
        .collect()
}

pub(crate) fn replica(key: &ComponentKey) -> ReplicaKey {
    ReplicaKey { service: key.service.clone(), replica: key.replica }
}

impl Runtime {
    /// Sees to leases again and again as long as there are any.
    pub(crate) fn follow_leases(&self, scope: &Scope<Self>) {
        let (own, shared) = (scope.clone(), self.shared.clone());
        scope.spawn(async move {
            loop {
                // A node without fenced replicas is not woken for them.
                while shared.book.lock().is_empty() {
                    shared.leased.notified().await;
                }
                tokio::time::sleep(LOOK_EVERY).await;
                let (done, ran) = oneshot::channel();
                own.post(move |runtime, scope| {
                    runtime.see_to_leases(scope);
                    let _ = done.send(());
                });
                if ran.await.is_err() {
                    return;
                }
            }
        });
    }

    /// Asks if it is time, and tells components what is not as they know it.
    pub(crate) fn see_to_leases(&mut self, scope: &Scope<Self>) {
        let leader = scope.fabric().directory().leader;
        let now = now_ms();
        let request = {
            let mut book = self.shared.book.lock();
            book.is_due(now, leader).then(|| book.ask(now, leader))
        };
        self.tell_leases(scope, now);
        let (Some(request), Some(leader)) = (request, leader) else { return };
        let to = Address { actor: ActorKind::Registry, target: Target::Node(leader) };
        let fabric = scope.fabric().clone();
        let message = request.message.clone();
        scope.spawn_then(
            async move { fabric.ask(to, message, Call::within(ANSWER_WITHIN)).await },
            move |runtime, answer, scope| {
                let now = now_ms();
                {
                    let mut book: parking_lot::MutexGuard<'_, Book> = runtime.shared.book.lock();
                    match answer {
                        Ok(answers) => book.answered(&request, now, &answers),
                        Err(error) => {
                            tracing::debug!(%error, "leases could not be renewed");
                            book.failed(&request);
                        }
                    }
                }
                runtime.see_to_leases(scope);
            },
        );
    }

    /// Components are poked when what holds of their replica differs from what they were told.
    fn tell_leases(&mut self, scope: &Scope<Self>, now: u64) {
        let all = self.shared.book.lock().all(now);
        if all == self.told_leases {
            return;
        }
        let changed: Vec<ReplicaKey> = all
            .iter()
            .filter(|(key, lease)| self.told_leases.get(*key) != Some(*lease))
            .map(|(key, _)| key.clone())
            .collect();
        for (key, lease) in &all {
            let (was, is) = (self.told_leases.get(key), lease);
            let held = |lease: &Lease| matches!(lease, Lease::Until(_));
            let (service, replica) = (&key.service, key.replica);
            match (was.is_some_and(held), held(is)) {
                (false, true) => tracing::info!(service, replica, "a lease is held"),
                (true, false) => tracing::warn!(service, replica, "the lease has ended"),
                _ => {}
            }
        }
        self.told_leases = all;
        for key in changed {
            for component in self.components_of(&key) {
                self.poke_lease(scope, component);
            }
        }
    }

    fn poke_lease(&self, scope: &Scope<Self>, key: ComponentKey) {
        // A new incarnation reads it when it starts.
        if let Some(Err(Refusal::Full)) =
            self.child(&key).map(|child| child.post(|actor, scope| actor.lease_changed(scope)))
        {
            scope.after(POST_RETRY, move |runtime, scope| runtime.poke_lease(scope, key)).detach();
        }
    }
}
