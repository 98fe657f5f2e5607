//! Who MACP clients are by certificates of the cluster (`[sessions] client_auth`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::server::danger::ClientCertVerifier;
use weft_gateway::{Certificates, Holder};
use weft_identity::{PeerIdentity, Trust};
use weft_link::Fabric;
use weft_wire::{Identity, Role, WallTime};

/// Certificates that are remembered; more at once are checked anew each time.
const KNOWN: usize = 1024;

/// Operators and services; what an operator may do is what the cluster has agreed on at this moment.
pub(crate) struct Holders {
    trust: Trust,
    fabric: Fabric,
    /// What was found out at which revision of trust: a signature costs more than all else.
    known: Mutex<HashMap<Vec<u8>, (u64, PeerIdentity)>>,
}

impl Holders {
    pub(crate) fn new(trust: Trust, fabric: Fabric) -> Self {
        Self { trust, fabric, known: Mutex::default() }
    }

    fn peer(&self, certificate: &[u8], now: WallTime) -> Option<PeerIdentity> {
        let revision = self.trust.revision();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, peer)) = known.get(certificate)
            && *at == revision
            && now <= peer.not_after
        {
            return Some(peer.clone());
        }
        let peer = self.trust.admit(certificate, now);
        let peer = peer.inspect_err(|error| tracing::debug!(%error, "a certificate is refused"));
        let peer = peer.ok()?;
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(certificate.to_vec(), (revision, peer.clone()));
        Some(peer)
    }
}

impl Certificates for Holders {
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        weft_identity::client_verifier(&self.trust)
    }

    fn holder(&self, certificate: &[u8]) -> Option<Holder> {
        let peer = self.peer(certificate, self.trust.clock().wall())?;
        let is_admin = match &peer.identity {
            Identity::Operator(id) => *self.fabric.directory().operators.get(id)? == Role::Admin,
            Identity::Service(_) => false,
            // Nodes speak to each other over links.
            Identity::Node(_) | Identity::Local { .. } | Identity::Joiner => return None,
        };
        let sender = format!("spiffe://{}/{}", peer.cluster, peer.identity);
        Some(Holder { sender, is_admin })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_identity::{DenyList, IssuingCa, PrivateKey, Subject, TrustBundle, Validity};
    use weft_link::{AuditSink, Directory, FabricConfig};
    use weft_wire::{Clock, ClusterId, ManualClock, NodeId, OperatorId};

    use super::*;

    const NOW: WallTime = WallTime::from_micros(1_800_000_000_000_000);

    fn id() -> uuid::Uuid {
        uuid::Uuid::new_v4()
    }

    #[test]
    fn operators_and_services_are_known_by_their_certificates_as_the_cluster_knows_them_now() {
        let clock = Arc::new(ManualClock::new(NOW));
        let cluster = ClusterId::new(id());
        let ca = IssuingCa::create(cluster, NOW).expect("a CA");
        let mut bundle = TrustBundle::new();
        bundle.insert(ca.certificate()).expect("a CA");
        let trust = Trust::new(cluster, bundle, DenyList::new(), clock.clone()).expect("trust");
        let (audit, _) = AuditSink::channel(1);
        let node = NodeId::new(id());
        let fabric = Fabric::local(FabricConfig { node, name: "n".to_owned(), audit });
        let holders = Holders::new(trust.clone(), fabric.clone());

        let leaf = |identity: &Identity| {
            let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("a request");
            let subject = Subject { cluster, identity: identity.clone() };
            let validity = Validity::starting(NOW, Duration::from_secs(3600));
            ca.sign_csr(&csr, &subject, validity).expect("issues").leaf
        };
        let (person, other) = (OperatorId::new(id()), OperatorId::new(id()));
        let operator = Identity::Operator(person);
        let service = Identity::Service("planner".to_owned());
        let (of_operator, of_service) = (leaf(&operator), leaf(&service));
        let of_other = leaf(&Identity::Operator(other));
        let holder = |sender: &Identity, is_admin| {
            Some(Holder { sender: format!("spiffe://{cluster}/{sender}"), is_admin })
        };

        assert_eq!(holders.holder(&of_operator), None, "the cluster does not know it yet");
        let say = |role| {
            let operators = [(person, role)].into();
            fabric.set_directory(Directory { operators, ..Directory::default() });
        };
        say(Role::Admin);
        assert_eq!(holders.holder(&of_operator), holder(&operator, true));
        say(Role::User);
        assert_eq!(holders.holder(&of_operator), holder(&operator, false));
        assert_eq!(holders.holder(&of_service), holder(&service, false));
        for refused in [leaf(&Identity::Node(node)), of_other, b"no certificate".to_vec()] {
            assert_eq!(holders.holder(&refused), None);
        }
        // What was believed a moment ago counts for nothing.
        trust.deny(&operator);
        assert_eq!(holders.holder(&of_operator), None);
        assert_eq!(holders.holder(&of_service), holder(&service, false));
        clock.advance(Duration::from_secs(3601));
        assert!(clock.wall() > NOW);
        assert_eq!(holders.holder(&of_service), None);
    }
}
