//! Granting leases: requests that come while a majority confirms the lead wait for the next
//! confirmation, which is then one for all of them.

use std::time::{Duration, Instant};

use weft_link::Reply;
use weft_protocol::{OnPartition, RenewLeases, ReplicaKey};
use weft_supervision::{Handle, Scope};
use weft_wire::{Failure, FailureKind, Identity, NodeId};

use super::Registry;
use crate::state::ClusterState;
use crate::steward::leases::{Seat, When};

/// A majority confirms within, or nothing is granted.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);

/// A request that waits for its confirmation.
pub(super) struct Asked {
    node: NodeId,
    request: RenewLeases,
    at: Instant,
    reply: Reply<RenewLeases>,
}

/// Requests on their way.
#[derive(Default)]
pub(super) struct Renewals {
    waiting: Vec<Asked>,
    confirming: bool,
}

impl Handle<RenewLeases> for Registry {
    fn handle(&mut self, message: RenewLeases, reply: Reply<RenewLeases>, scope: &Scope<Self>) {
        // A node speaks for itself only.
        let Identity::Node(node) = reply.caller().identity else {
            let text = "leases are for nodes";
            return reply.fail(Failure::new(FailureKind::Forbidden, text));
        };
        if !self.leads() {
            return reply.fail(self.leads_not());
        }
        self.renewals.waiting.push(Asked { node, request: message, at: scope.now(), reply });
        self.confirm(scope);
    }
}

impl Registry {
    fn leads_not(&self) -> Failure {
        let text = format!("{} does not lead the cluster", self.name());
        Failure::new(FailureKind::Unavailable, text)
    }

    fn confirm(&mut self, scope: &Scope<Self>) {
        if self.renewals.confirming || self.renewals.waiting.is_empty() {
            return;
        }
        self.renewals.confirming = true;
        let asked = std::mem::take(&mut self.renewals.waiting);
        // The confirmation is of this lead, or worth nothing.
        let term = self.agreement.group.status().term;
        let group = self.agreement.group.clone();
        scope.spawn_then(
            async move { group.barrier(CONFIRM_WITHIN).await },
            move |registry, confirmed, scope| {
                registry.renewals.confirming = false;
                match confirmed {
                    Ok(_) => registry.grant(asked, term, scope),
                    Err(error) => {
                        let route = registry.route(scope);
                        for one in asked {
                            one.reply.fail(route.failure(&error));
                        }
                    }
                }
                registry.confirm(scope);
            },
        );
    }

    fn grant(&mut self, asked: Vec<Asked>, term: u64, scope: &Scope<Self>) {
        self.see_to_duties(scope);
        let now = scope.now();
        let Some(led_since) = self.duties.lead(term).filter(|_| self.leads()) else {
            for one in asked {
                one.reply.fail(self.leads_not());
            }
            return;
        };
        let mut released = false;
        for Asked { node, request, at, reply } in asked {
            let control = self.agreement.control.clone();
            let state = control.read();
            let renewed = self.duties.leases.renew(
                node,
                &request,
                When { asked: at, now, led_since },
                |replica| seat(&state, replica),
                |id| state.node(id).map_or_else(|| id.to_string(), |node| node.name.clone()),
            );
            drop(state);
            for answer in &renewed.answers {
                if let Some(why) = &answer.refused {
                    let (service, replica) = (&answer.replica.service, answer.replica.replica);
                    tracing::debug!(service, replica, %node, why, "no lease");
                }
            }
            released |= renewed.released;
            reply.ok(renewed.answers);
        }
        if released {
            self.members_changed(scope);
        }
    }
}

fn seat(state: &ClusterState, replica: &ReplicaKey) -> Seat {
    match state.service(&replica.service) {
        Some(record) if record.spec.on_partition == OnPartition::Keep => Seat::Free,
        _ => match state.placement(&replica.service, replica.replica) {
            Some(placement) => Seat::On(placement.node, placement.generation),
            None => Seat::Nowhere,
        },
    }
}
