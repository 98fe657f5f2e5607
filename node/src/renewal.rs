//! This node's certificate: renewed at two thirds of its life, used from the next handshake on;
//! an expired one is renewed by proof of key before the node listens (design §3).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_identity::{
    CertificateChain, Credentials, Expect, IdentityError, IdentityFiles, IssuingCa, PrivateKey,
    Subject, Trust, TrustBundle, Validity, client_config,
};
use weft_link::{Call, Fabric, JOIN_PROTOCOLS, PeerState, PeerStatus, join_ask};
use weft_protocol::{RenewLeaf, RenewedLeaf};
use weft_wire::{ActorKind, Address, AskError, Backoff, Clock, NodeId, Target};

use crate::removal;

/// Between attempts that fail.
const RETRY: Backoff =
    Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300), jitter: 0.2 };
/// Between looks at whether it is due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// In what a link says when its peer's TLS does not take our certificate
/// (`weft_identity::refusal_hint`).
const REFUSED: &str = "refused our certificate";
/// One attempt may take this long.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Why a certificate could not be renewed. The present one stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RenewalError {
    /// Nobody could be asked, or the answer was no.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer is not a certificate for this node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nobody to ask.
    #[error("no address of another node is known")]
    NoPeers,
}

/// What is needed to renew.
#[derive(Clone)]
pub(crate) struct Renewal {
    pub(crate) files: IdentityFiles,
    pub(crate) credentials: Credentials,
    pub(crate) trust: Trust,
    pub(crate) node: NodeId,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Renewal {
    fn key(&self) -> Result<PrivateKey, IdentityError> {
        self.files.key_or_create()
    }

    /// Stores and uses a renewed certificate.
    fn take(&self, key: &PrivateKey, renewed: &RenewedLeaf) -> Result<(), IdentityError> {
        let chain = CertificateChain::from_pem(&renewed.certificate, "the renewed certificate")?;
        let bundle = TrustBundle::from_pem(&renewed.bundle, "the bundle in the answer")?;
        self.files.save_certificate(&chain)?;
        self.files.save_bundle(&bundle)?;
        self.trust.set_bundle(bundle)?;
        self.credentials.replace(&chain, key)
    }

    /// Whether the present certificate is no longer good.
    pub(crate) fn is_expired(&self) -> bool {
        self.clock.wall() >= self.credentials.own().not_after
    }

    /// Renews an expired certificate with this node's own issuing CA, asking nobody: the node that
    /// everybody else asks has nobody to ask.
    ///
    /// # Errors
    /// [`RenewalError`]: a file that cannot be used, or a CA that the cluster no longer believes.
    pub(crate) fn by_own_ca(&self, ca: &IssuingCa) -> Result<(), RenewalError> {
        let key = self.key()?;
        let own = self.credentials.own();
        let subject = Subject { cluster: own.cluster, identity: own.identity };
        let now = self.clock.wall();
        let chain = ca.sign_csr(&key.csr()?, &subject, Validity::node(now))?;
        // Before anything is replaced.
        self.trust.admit(&chain.leaf, now)?;
        self.files.save_certificate(&chain)?;
        self.credentials.replace(&chain, &key)?;
        Ok(())
    }

    /// Renews an expired certificate over the join door, by proof of key, at any of `peers`.
    ///
    /// # Errors
    /// [`RenewalError`] of the last peer tried; one that says that this node was removed is the last.
    pub(crate) async fn by_key(&self, peers: &[SocketAddr]) -> Result<(), RenewalError> {
        let key = self.key()?;
        let mut last = RenewalError::NoPeers;
        for peer in peers {
            let config = client_config(None, &self.trust, Expect::AnyNode, JOIN_PROTOCOLS)?;
            let message = RenewLeaf {
                csr: key.csr()?,
                holder: format!("node/{}", self.node),
                operator: String::new(),
            };
            match join_ask(*peer, config, Target::Here, message, ATTEMPT).await {
                Ok(renewed) => {
                    self.take(&key, &renewed)?;
                    return Ok(());
                }
                Err(error) => {
                    last = error.into();
                    // Nobody else will say otherwise.
                    if removal::said(&last).is_some() {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    async fn over_the_fabric(&self, fabric: &Fabric) -> Result<(), RenewalError> {
        let key = self.key()?;
        let message = RenewLeaf { csr: key.csr()?, holder: String::new(), operator: String::new() };
        let renewed =
            fabric.ask(Address::here(ActorKind::Registry), message, Call::within(ATTEMPT)).await?;
        self.take(&key, &renewed)?;
        Ok(())
    }

    /// Whether the present certificate has to be replaced: its time has come, or the node that
    /// signed it was removed, and its issuing CA with it.
    fn is_due(&self) -> bool {
        self.clock.wall() >= self.credentials.renew_at() || self.is_refused()
    }

    /// Whether no node of the cluster would take the present certificate.
    fn is_refused(&self) -> bool {
        self.trust.admit(&self.credentials.chain().leaf, self.clock.wall()).is_err()
    }

    /// Renews for ever, whenever it is due, and keeps the stored bundle as agreed.
    pub(crate) async fn keep(self, fabric: Fabric) {
        let mut failures = 0u32;
        let mut stored = None;
        loop {
            let bundle = self.trust.bundle();
            if stored != Some(bundle.fingerprint()) {
                match self.files.save_bundle(&bundle) {
                    Ok(()) => stored = Some(bundle.fingerprint()),
                    Err(error) => tracing::warn!(%error, "the trust bundle is not stored yet"),
                }
            }
            let due = self.credentials.renew_at().since(self.clock.wall());
            // Wall time may jump, and an issuer may go: look again every second.
            let wait = if failures == 0 { due } else { RETRY.delay(failures - 1, random()) };
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
            // The others may know of a removal that has not come here, and now cannot.
            let locked_out = locked_out(&fabric);
            if !self.is_due() && !locked_out {
                failures = 0;
                continue;
            }
            // Where an issuer went, no link may be left to ask over: what signs for others signs
            // for itself.
            let own = (!locked_out || self.is_refused())
                && self.files.load_ca().is_ok_and(|ca| self.by_own_ca(&ca).is_ok());
            let done = if own {
                Ok(())
            } else if self.is_refused() || locked_out {
                self.by_key(&others(&fabric, self.node)).await
            } else {
                self.over_the_fabric(&fabric).await
            };
            match done {
                Ok(()) => {
                    failures = 0;
                    let until = weft_protocol::format_time(self.credentials.own().not_after);
                    tracing::info!(until, "certificate renewed");
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let until = weft_protocol::format_time(self.credentials.own().not_after);
                    tracing::warn!(%error, until, "certificate not renewed; trying again");
                }
            }
        }
    }
}

/// Whether no link is up and a peer refuses the present certificate.
fn locked_out(fabric: &Fabric) -> bool {
    let peers = fabric.peers();
    let refuses = |peer: &PeerStatus| matches!(&peer.state, PeerState::Down { reason, .. } if reason.contains(REFUSED));
    !peers.iter().any(|peer| peer.state == PeerState::Up) && peers.iter().any(refuses)
}

/// Where the other nodes are.
fn others(fabric: &Fabric, own: NodeId) -> Vec<SocketAddr> {
    let directory = fabric.directory();
    let others = directory.nodes.values().filter(|peer| peer.id != own);
    others.filter_map(|peer| peer.address).collect()
}

/// A number in 0.0..1.0 for jitter.
fn random() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_identity::DenyList;
    use weft_wire::{ClusterId, Identity, ManualClock, WallTime};

    #[test]
    fn the_node_that_issues_renews_its_own_expired_certificate_without_asking_anybody() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = IdentityFiles::node(dir.path());
        let cluster = ClusterId::new(uuid::Uuid::from_u128(1));
        let node = NodeId::new(uuid::Uuid::from_u128(2));
        let then = WallTime::from_micros(1_795_000_000_000_000);
        let ca = IssuingCa::create(cluster, then).expect("a CA");
        let key = files.key_or_create().expect("a key");
        let subject = Subject { cluster, identity: Identity::Node(node) };
        let csr = key.csr().expect("a request");
        let chain = ca.sign_csr(&csr, &subject, Validity::node(then)).expect("issued");
        files.save_certificate(&chain).expect("saved");
        let bundle = TrustBundle::from_pem(&ca.to_pem(), "ca").expect("a bundle");
        files.save_bundle(&bundle).expect("saved");
        let stored = files.load().expect("loads");

        // Two days later.
        let now = then.plus(Duration::from_secs(48 * 3600));
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(now));
        let trust = Trust::new(cluster, bundle, DenyList::new(), clock.clone()).expect("trust");
        let credentials = stored.credentials().expect("credentials");
        let renewal = Renewal { files: files.clone(), credentials, trust, node, clock };
        assert!(renewal.is_expired());
        renewal.by_own_ca(&ca).expect("renewed");
        assert!(!renewal.is_expired());
        let own = files.load().expect("loads").own;
        assert_eq!((own.identity, own.cluster), (Identity::Node(node), cluster));
        assert!(own.not_after > now, "and it is stored");

        let stranger = IssuingCa::create(cluster, then).expect("another CA");
        renewal.by_own_ca(&stranger).expect_err("a CA the cluster does not believe");
    }
}
