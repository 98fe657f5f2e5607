//! What this process believes right now: cluster, bundle and deny list behind one live handle.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use weft_wire::{Clock, ClusterId, Identity, WallTime};

use crate::peer::{parse, seconds};
use crate::{DenyList, FABRIC_NAME, IdentityError, PeerIdentity, TrustBundle, parse_identity};

/// A live handle: cheap to clone, all clones see the same state. Every new handshake looks at
/// the newest bundle and deny list. **Live connections are not touched** (dependencies §9): whoever
/// owns them registers [`Trust::on_change`], walks its connections and asks [`Trust::admit`] again.
#[derive(Clone)]
pub struct Trust {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: ClusterId,
    state: ArcSwap<State>,
    revision: AtomicU64,
    clock: Arc<dyn Clock>,
    hooks: Mutex<Vec<Hook>>,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

struct State {
    bundle: TrustBundle,
    anchors: Arc<[Anchor]>,
    denied: DenyList,
}

/// A CA as the verifier wants it. Verification does not look at an anchor's end, so we do.
struct Anchor {
    anchor: TrustAnchor<'static>,
    not_after: WallTime,
}

impl Trust {
    /// A handle for one cluster. The clock is what certificates are checked against.
    ///
    /// # Errors
    /// [`IdentityError::BadCertificate`] for a bundle that cannot be used.
    pub fn new(
        cluster: ClusterId,
        bundle: TrustBundle,
        denied: DenyList,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IdentityError> {
        let anchors = anchors(&bundle)?;
        Ok(Self {
            inner: Arc::new(Inner {
                cluster,
                state: ArcSwap::from_pointee(State { bundle, anchors, denied }),
                revision: AtomicU64::new(0),
                clock,
                hooks: Mutex::new(Vec::new()),
            }),
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    /// The clock that certificates are checked against.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The bundle as it is now.
    pub fn bundle(&self) -> TrustBundle {
        self.inner.state.load().bundle.clone()
    }

    /// The deny list as it is now.
    pub fn denied(&self) -> DenyList {
        self.inner.state.load().denied.clone()
    }

    /// Whether an identity is denied. Cheap: asked for every forwarded caller.
    pub fn is_denied(&self, identity: &Identity) -> bool {
        self.inner.state.load().denied.contains(identity)
    }

    /// Counts changes; two equal numbers mean nothing changed in between.
    pub fn revision(&self) -> u64 {
        self.inner.revision.load(Ordering::Acquire)
    }

    /// Replaces the bundle, for every handshake from now on. Does nothing when it is the same.
    ///
    /// # Errors
    /// [`IdentityError::BadCertificate`]; the old bundle stays.
    pub fn set_bundle(&self, bundle: TrustBundle) -> Result<(), IdentityError> {
        let fresh = anchors(&bundle)?;
        if self.inner.state.load().bundle == bundle {
            return Ok(());
        }
        self.inner.state.rcu(|old| State {
            bundle: bundle.clone(),
            anchors: Arc::clone(&fresh),
            denied: old.denied.clone(),
        });
        self.changed();
        Ok(())
    }

    /// Replaces the deny list, for every handshake from now on. Does nothing when it is the same.
    pub fn set_denied(&self, denied: DenyList) {
        if self.inner.state.load().denied == denied {
            return;
        }
        self.update_denied(|list| *list = denied.clone());
    }

    /// Denies one more identity.
    pub fn deny(&self, identity: &Identity) {
        if !self.is_denied(identity) {
            self.update_denied(|list| {
                list.insert(identity.clone());
            });
        }
    }

    fn update_denied(&self, change: impl Fn(&mut DenyList)) {
        self.inner.state.rcu(|old| {
            let mut denied = old.denied.clone();
            change(&mut denied);
            State { bundle: old.bundle.clone(), anchors: Arc::clone(&old.anchors), denied }
        });
        self.changed();
    }

    /// Calls `hook` after every change, on the thread that made it: it should only wake somebody.
    /// Hooks stay for the life of the handle.
    pub fn on_change(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(hook));
    }

    fn changed(&self) {
        self.inner.revision.fetch_add(1, Ordering::AcqRel);
        let hooks = self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for hook in hooks {
            hook();
        }
    }

    /// Who a leaf certificate (DER) belongs to, if it is believed right now: issued by a CA of the
    /// bundle, within its validity, for the fabric, of this cluster, and not denied. For accepted
    /// connections, and again for live ones after a change.
    ///
    /// # Errors
    /// [`IdentityError`], saying which of these does not hold.
    pub fn admit(&self, leaf: &[u8], now: WallTime) -> Result<PeerIdentity, IdentityError> {
        self.judge(leaf, KeyUsage::client_auth(), now)
    }

    pub(crate) fn judge(
        &self,
        leaf: &[u8],
        usage: KeyUsage,
        now: WallTime,
    ) -> Result<PeerIdentity, IdentityError> {
        let state = self.inner.state.load();
        let anchors: Vec<_> =
            state.anchors.iter().filter(|a| now <= a.not_after).map(|a| a.anchor.clone()).collect();
        let peer = verify_leaf(leaf, &anchors, usage, self.inner.cluster, now)?;
        if state.denied.contains(&peer.identity) {
            return Err(IdentityError::Denied(peer.identity));
        }
        Ok(peer)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.state.load();
        f.debug_struct("Trust")
            .field("cluster", &self.inner.cluster)
            .field("bundle", &state.bundle.fingerprints())
            .field("denied", &state.denied.len())
            .finish()
    }
}

/// Checks a leaf against anchors. Intermediates are never used: an issuing CA signs leaves only.
pub(crate) fn verify_leaf(
    leaf: &[u8],
    anchors: &[TrustAnchor<'_>],
    usage: KeyUsage,
    cluster: ClusterId,
    now: WallTime,
) -> Result<PeerIdentity, IdentityError> {
    let der = CertificateDer::from(leaf);
    let certificate = EndEntityCert::try_from(&der).map_err(|e| explain(e, now))?;
    certificate
        .verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            anchors,
            &[],
            to_unix(now),
            usage,
            None,
            None,
        )
        .map_err(|e| explain(e, now))?;
    let name = ServerName::try_from(FABRIC_NAME).map_err(|_| IdentityError::WrongName)?;
    certificate.verify_is_valid_for_subject_name(&name).map_err(|_| IdentityError::WrongName)?;
    parse_identity(leaf, cluster)
}

fn explain(error: webpki::Error, now: WallTime) -> IdentityError {
    use webpki::Error;
    match error {
        Error::CertExpired { not_after, .. } => {
            IdentityError::Expired { not_after: from_unix(not_after), now }
        }
        Error::CertNotValidYet { not_before, .. } => {
            IdentityError::NotYetValid { not_before: from_unix(not_before), now }
        }
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => {
            IdentityError::UntrustedIssuer
        }
        Error::RequiredEkuNotFoundContext(_) => IdentityError::WrongUsage,
        other => IdentityError::BadCertificate(other.to_string()),
    }
}

pub(crate) fn from_unix(time: UnixTime) -> WallTime {
    seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

pub(crate) fn to_unix(time: WallTime) -> UnixTime {
    let micros = u64::try_from(time.as_micros()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_micros(micros))
}

pub(crate) fn anchor(der: &[u8]) -> Result<TrustAnchor<'static>, IdentityError> {
    webpki::anchor_from_trusted_cert(&CertificateDer::from(der))
        .map(|anchor| anchor.to_owned())
        .map_err(|e| IdentityError::BadCertificate(e.to_string()))
}

fn anchors(bundle: &TrustBundle) -> Result<Arc<[Anchor]>, IdentityError> {
    bundle
        .certificates()
        .map(|der| {
            let not_after = seconds(parse(der)?.validity().not_after.timestamp());
            Ok(Anchor { anchor: anchor(der)?, not_after })
        })
        .collect()
}
