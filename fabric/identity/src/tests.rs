//! The trust layer as a whole: what peers believe in real handshakes, what issuers issue, and
//! what files are refused.

mod files;
mod handshake;
mod issue;

use std::sync::Arc;
use std::time::Duration;

use weft_wire::{ClusterId, Identity, ManualClock, NodeId, WallTime};

use crate::{
    CertificateChain, Credentials, DenyList, IssuingCa, PrivateKey, Subject, Trust, TrustBundle,
    Validity,
};

pub(crate) const NOW: WallTime = WallTime::from_micros(1_800_000_000_000_000);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn cluster(last: u8) -> ClusterId {
    format!("018f2c3e-5b7a-7d4e-9c1b-2f6a8d0e00{last:02x}").parse().expect("id")
}

pub(crate) fn node(last: u8) -> NodeId {
    format!("018f2c3e-5b7a-7d4e-9c1b-2f6a8d0e11{last:02x}").parse().expect("id")
}

pub(crate) fn operator(last: u8) -> Identity {
    Identity::Operator(format!("018f2c3e-5b7a-7d4e-9c1b-2f6a8d0e22{last:02x}").parse().expect("id"))
}

/// One cluster with one issuing CA and a clock that stands still.
pub(crate) struct World {
    pub(crate) ca: IssuingCa,
    pub(crate) cluster: ClusterId,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) trust: Trust,
}

impl World {
    pub(crate) fn new(cluster: ClusterId) -> Self {
        let ca = IssuingCa::create(cluster, NOW).expect("ca");
        let clock = Arc::new(ManualClock::new(NOW));
        let trust =
            Trust::new(cluster, bundle(&[&ca]), DenyList::new(), clock.clone()).expect("trust");
        Self { ca, cluster, clock, trust }
    }

    pub(crate) fn issue(&self, key: &PrivateKey, identity: Identity) -> CertificateChain {
        let subject = Subject { cluster: self.cluster, identity };
        let csr = key.csr().expect("csr");
        self.ca.sign_csr(&csr, &subject, Validity::node(NOW)).expect("issued")
    }

    pub(crate) fn credentials(&self, identity: Identity) -> Credentials {
        let key = PrivateKey::generate().expect("key");
        Credentials::new(&self.issue(&key, identity), &key).expect("credentials")
    }

    pub(crate) fn node(&self, last: u8) -> Credentials {
        self.credentials(Identity::Node(node(last)))
    }
}

pub(crate) fn bundle(cas: &[&IssuingCa]) -> TrustBundle {
    let mut bundle = TrustBundle::new();
    for ca in cas {
        bundle.insert(ca.certificate()).expect("a CA");
    }
    bundle
}
