//! One's own certificate and key, replaceable while connections are being made.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use weft_wire::WallTime;

use crate::tls::provider;
use crate::{CertificateChain, IdentityError, PeerIdentity, PrivateKey};

/// A live handle on the certificate this process presents, as server and as client. All clones
/// see a replacement, from the next handshake on; live connections keep what they have.
#[derive(Clone)]
pub struct Credentials {
    current: Arc<ArcSwap<Held>>,
}

struct Held {
    certified: Arc<CertifiedKey>,
    own: PeerIdentity,
    chain: CertificateChain,
}

impl Credentials {
    /// Leaf, issuing CA and the leaf's key.
    ///
    /// # Errors
    /// [`IdentityError::KeyMismatch`] when the key is not the leaf's; as
    /// [`crate::inspect_identity`].
    pub fn new(chain: &CertificateChain, key: &PrivateKey) -> Result<Self, IdentityError> {
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(hold(chain, key)?)) })
    }

    /// Uses a renewed certificate from the next handshake on.
    ///
    /// # Errors
    /// As [`Self::new`]; [`IdentityError::IdentityChanged`], [`IdentityError::OtherCluster`]. The
    /// present certificate stays in use.
    pub fn replace(&self, chain: &CertificateChain, key: &PrivateKey) -> Result<(), IdentityError> {
        let fresh = hold(chain, key)?;
        let present = self.own();
        if fresh.own.cluster != present.cluster {
            return Err(IdentityError::OtherCluster {
                found: fresh.own.cluster,
                expected: present.cluster,
            });
        }
        if fresh.own.identity != present.identity {
            return Err(IdentityError::IdentityChanged {
                found: fresh.own.identity,
                present: present.identity,
            });
        }
        self.current.store(Arc::new(fresh));
        Ok(())
    }

    /// Who we are, by the present certificate.
    pub fn own(&self) -> PeerIdentity {
        self.current.load().own.clone()
    }

    /// The present certificate and its issuer.
    pub fn chain(&self) -> CertificateChain {
        self.current.load().chain.clone()
    }

    /// When the present certificate is due for renewal.
    pub fn renew_at(&self) -> WallTime {
        self.current.load().own.renew_at()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.current.load().own.identity)
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn hold(chain: &CertificateChain, key: &PrivateKey) -> Result<Held, IdentityError> {
    let own = chain.inspect()?;
    if own.public_key_fingerprint != key.public_key_fingerprint() {
        return Err(IdentityError::KeyMismatch {
            key: "the private key".to_owned(),
            certificate: format!("the certificate of `{}`", own.identity),
        });
    }
    let certificates =
        vec![CertificateDer::from(chain.leaf.clone()), CertificateDer::from(chain.issuer.clone())];
    let certified = CertifiedKey::from_der(certificates, key.der(), &provider())
        .map_err(|e| IdentityError::crypto("use the private key", e))?;
    Ok(Held { certified: Arc::new(certified), own, chain: chain.clone() })
}
