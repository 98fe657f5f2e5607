//! Telling the rest of the node what is agreed: directory, trust, assignments; and the cluster
//! where this node is.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use weft_identity::{DenyList, IdentityError, TrustBundle};
use weft_link::{Call, Directory, PeerEntry};
use weft_protocol::files::NodeSeed;
use weft_protocol::{Assign, NodeRecord, ReportNode};
use weft_supervision::Scope;
use weft_wire::{ActorKind, Address, AskError, FailureKind, Identity};

use super::Registry;
use crate::state::ClusterState;

const ASSIGN_WITHIN: Duration = Duration::from_secs(5);
const REPORT_WITHIN: Duration = Duration::from_secs(5);

impl Registry {
    /// After a change.
    pub(super) fn publish(&mut self, scope: &Scope<Self>) {
        let index = self.state().index();
        self.published = index;
        if let Err(error) = self.publish_all(scope) {
            // What was believed before stays in force.
            tracing::error!(%error, "the trust bundle cannot be used");
        }
        self.assign(scope);
        self.report(scope);
    }

    /// Directory and trust, whole. A node that has nothing yet goes by its seed.
    pub(super) fn publish_all(&mut self, scope: &Scope<Self>) -> Result<(), IdentityError> {
        let leader = self.agreement.group.status().leader;
        let state = self.state();
        let directory = directory(&state, &self.config.seed, leader);
        self.agreement.membership.set_known(directory.nodes.keys().copied().collect());
        scope.fabric().set_directory(directory);
        if state.is_empty() {
            return Ok(());
        }
        // The deny list first: it must hold even if the bundle cannot be used.
        let denied: DenyList = state.denied().iter().filter_map(|text| identity(text)).collect();
        // Reading certificates takes milliseconds: not at every change of anything else.
        let trusted = self.trusted.as_ref().is_some_and(|(cas, bundle)| {
            cas.as_slice() == state.cas() && self.config.trust.bundle() == *bundle
        });
        let cas = (!trusted).then(|| state.cas().to_vec());
        drop(state);
        self.config.trust.set_denied(denied);
        if let Some(cas) = cas {
            let bundle = TrustBundle::from_pem(&cas.concat(), "the agreed trust bundle")?;
            self.config.trust.set_bundle(bundle.clone())?;
            self.trusted = Some((cas, bundle));
        }
        Ok(())
    }

    pub(super) fn bundle(&self) -> Result<TrustBundle, IdentityError> {
        TrustBundle::from_pem(&self.state().cas().concat(), "the agreed trust bundle")
    }

    /// Sends the runtime what it shall see to, once at a time; nothing while this node does not
    /// know whether what is agreed here still holds.
    pub(super) fn assign(&mut self, scope: &Scope<Self>) {
        let Some((question, returning)) = self.contact.sure() else { return };
        // Nothing replicated yet is not "nothing wanted": that would stop what runs.
        let message = {
            let state = self.state();
            if self.assigning || state.is_empty() {
                return;
            }
            let assignments = state.assignments(self.config.seed.node);
            Assign { index: state.index(), assignments, returning }
        };
        self.assigning = true;
        let index = message.index;
        let fabric = scope.fabric().clone();
        scope.spawn_then(
            async move {
                let to = Address::here(ActorKind::Runtime);
                fabric.ask(to, message, Call::within(ASSIGN_WITHIN)).await
            },
            move |registry, answer, scope| {
                registry.assigning = false;
                match answer {
                    Ok(()) => {
                        registry.assigned = index;
                        registry.refused = None;
                        registry.contact.told(question);
                        // Moved on meanwhile, or set back by a snapshot.
                        if registry.state().index() != index {
                            registry.assign(scope);
                        }
                    }
                    // Stale: what is true now is read and sent, never the same list again at once.
                    Err(AskError::Failed(failure)) if failure.kind == FailureKind::Conflict => {
                        if registry.state().index() != index {
                            registry.assign(scope);
                        } else if registry.refused.replace(index) != Some(index) {
                            tracing::error!(%failure, index, "the runtime refuses what is agreed");
                        }
                    }
                    // Its next incarnation is sent it again within a second.
                    Err(error) => tracing::debug!(%error, index, "assignments not taken yet"),
                }
            },
        );
    }

    /// Has the cluster know where this node is, if it does not.
    pub(super) fn report(&mut self, scope: &Scope<Self>) {
        let node = self.config.seed.node;
        let Some(mine) = (self.config.report)() else { return };
        // A node that has nothing yet is not followed by anybody until it says where it is.
        let known = self.state().node(node).is_some_and(|known| !differs(known, &mine));
        if self.reporting
            || known
            || (self.state().is_empty() && self.config.seed.bootstrap.is_some())
        {
            return;
        }
        self.reporting = true;
        let fabric = scope.fabric().clone();
        scope.spawn_then(
            async move {
                // Here: it finds its way to whoever leads.
                let to = Address::here(ActorKind::Registry);
                fabric.ask(to, mine, Call::within(REPORT_WITHIN)).await
            },
            |registry, answer, _| {
                registry.reporting = false;
                if let Err(error) = answer {
                    tracing::debug!(%error, "where this node is could not be recorded yet");
                }
            },
        );
    }
}

pub(super) fn differs(known: &NodeRecord, mine: &ReportNode) -> bool {
    known.address != mine.address
        || known.version != mine.version
        || known.zone != mine.zone
        || known.labels != mine.labels
        || known.capacity != mine.capacity
        || known.format != mine.format
        || !mine.ca.is_empty() && known.ca != mine.ca
        || !mine.key_fingerprint.is_empty() && known.key_fingerprint != mine.key_fingerprint
}

/// Who is who, from what is agreed; before anything is, from the seed.
pub(super) fn directory(
    state: &ClusterState,
    seed: &NodeSeed,
    leader: Option<weft_wire::NodeId>,
) -> Directory {
    if state.is_empty() {
        let mut nodes: HashMap<_, _> = seed
            .peers
            .iter()
            .map(|peer| {
                let address = peer.address.parse().ok();
                (peer.id, PeerEntry { id: peer.id, name: peer.name.clone(), address })
            })
            .collect();
        nodes
            .insert(seed.node, PeerEntry { id: seed.node, name: seed.name.clone(), address: None });
        return Directory { nodes, leader, ..Directory::default() };
    }
    let nodes = state.nodes().into_iter().map(|node| {
        let address = node.address.parse().ok();
        (node.id, PeerEntry { id: node.id, name: node.name.clone(), address })
    });
    Directory {
        nodes: nodes.collect(),
        leader,
        operators: state.operators().into_iter().map(|o| (o.id, o.role)).collect(),
        denied: state.denied().iter().cloned().collect::<HashSet<_>>(),
    }
}

fn identity(text: &str) -> Option<Identity> {
    match text.split_once('/')? {
        ("node", id) => id.parse().ok().map(Identity::Node),
        ("operator", id) => id.parse().ok().map(Identity::Operator),
        _ => None,
    }
}
