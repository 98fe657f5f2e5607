//! Reading who a certificate belongs to.

use std::time::Duration;

use weft_wire::{ClusterId, Identity, WallTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Fingerprint, IdentityError};

/// The constant DNS name in every leaf, and the server name of every dial (design §3). Which node
/// it is, is in the URI; this one is there for the standard verifier.
pub const FABRIC_NAME: &str = "fabric.weft.internal";

/// Longest service name (orchestration §3.1), in characters.
const SERVICE_NAME_MAX: usize = 48;

/// Who a certificate belongs to, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Node, operator or service.
    pub identity: Identity,
    /// Beginning of validity, in whole seconds.
    pub not_before: WallTime,
    /// End of validity, in whole seconds. Live connections are closed then (dependencies §9).
    pub not_after: WallTime,
    /// SHA-256 of the SubjectPublicKeyInfo: what renewal by proof of key compares.
    pub public_key_fingerprint: Fingerprint,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
}

impl PeerIdentity {
    /// When to renew: after two thirds of its life (design §3).
    pub fn renew_at(&self) -> WallTime {
        renew_at(self.not_before, self.not_after)
    }
}

/// When to renew what lives from `not_before` to `not_after`: after two thirds of it.
pub fn renew_at(not_before: WallTime, not_after: WallTime) -> WallTime {
    let life = not_after.since(not_before);
    not_before.plus(Duration::from_secs(life.as_secs() / 3 * 2))
}

/// Reads whose certificate `leaf` (DER) is, and checks that it belongs to `expected`. Says nothing
/// about who signed it: that is [`crate::Trust`]'s business.
///
/// # Errors
/// [`IdentityError::BadCertificate`], [`IdentityError::UriCount`], [`IdentityError::BadUri`],
/// [`IdentityError::OtherCluster`].
pub fn parse_identity(leaf: &[u8], expected: ClusterId) -> Result<PeerIdentity, IdentityError> {
    let peer = inspect_identity(leaf)?;
    if peer.cluster != expected {
        return Err(IdentityError::OtherCluster { found: peer.cluster, expected });
    }
    Ok(peer)
}

/// As [`parse_identity`], for a certificate whose cluster is not known beforehand: one's own.
///
/// # Errors
/// [`IdentityError::BadCertificate`], [`IdentityError::UriCount`], [`IdentityError::BadUri`].
pub fn inspect_identity(leaf: &[u8]) -> Result<PeerIdentity, IdentityError> {
    let certificate = parse(leaf)?;
    let mut uris = Vec::new();
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::BadCertificate("its alternative names are broken".into()))?;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => {
                return Err(IdentityError::BadCertificate("it bears a broken name".into()));
            }
            _ => {}
        }
    }
    let &[uri] = uris.as_slice() else { return Err(IdentityError::UriCount(uris.len())) };
    let (cluster, identity) =
        parse_uri(uri).ok_or_else(|| IdentityError::BadUri(uri.chars().take(128).collect()))?;
    let validity = certificate.validity();
    Ok(PeerIdentity {
        cluster,
        identity,
        not_before: seconds(validity.not_before.timestamp()),
        not_after: seconds(validity.not_after.timestamp()),
        public_key_fingerprint: Fingerprint::of(certificate.public_key().raw),
        serial: certificate.raw_serial().to_vec(),
    })
}

/// The URI for an identity, or `None` for one that never has a certificate.
pub(crate) fn uri_of(cluster: ClusterId, identity: &Identity) -> Option<String> {
    match identity {
        Identity::Node(_) | Identity::Operator(_) => Some(format!("spiffe://{cluster}/{identity}")),
        Identity::Service(name) if is_service_name(name) => {
            Some(format!("spiffe://{cluster}/{identity}"))
        }
        Identity::Service(_) | Identity::Local { .. } | Identity::Joiner => None,
    }
}

/// Parses DER and refuses bytes behind it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(IdentityError::BadCertificate("there are bytes behind it".into())),
        Err(_) => Err(IdentityError::BadCertificate("it is not an X.509 certificate".into())),
    }
}

pub(crate) fn seconds(since_epoch: i64) -> WallTime {
    WallTime::from_micros(since_epoch.saturating_mul(1_000_000))
}

fn parse_uri(uri: &str) -> Option<(ClusterId, Identity)> {
    let mut parts = uri.strip_prefix("spiffe://")?.splitn(3, '/');
    let (cluster, kind, id) = (parts.next()?, parts.next()?, parts.next()?);
    let identity = match kind {
        "node" => Identity::Node(id.parse().ok()?),
        "operator" => Identity::Operator(id.parse().ok()?),
        "service" if is_service_name(id) => Identity::Service(id.to_owned()),
        _ => return None,
    };
    Some((cluster.parse().ok()?, identity))
}

fn is_service_name(name: &str) -> bool {
    (1..=SERVICE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "018f2c3e-5b7a-7d4e-9c1b-2f6a8d0e4b5c";

    #[test]
    fn only_the_one_spelling_of_a_uri_is_an_identity() {
        for good in ["node/", "operator/"] {
            assert!(parse_uri(&format!("spiffe://{ID}/{good}{ID}")).is_some(), "{good}");
        }
        assert!(parse_uri(&format!("spiffe://{ID}/service/web-1")).is_some());
        for bad in [
            format!("spiffe://{ID}/node/{ID}/"),
            format!("spiffe://{ID}/node/{}", ID.to_uppercase()),
            format!("spiffe://{ID}/node/"),
            format!("spiffe://{ID}/node"),
            format!("spiffe://{ID}//node/{ID}"),
            format!("SPIFFE://{ID}/node/{ID}"),
            format!("https://{ID}/node/{ID}"),
            format!("spiffe://{ID}/admin/{ID}"),
            format!("spiffe://{ID}/service/a/b"),
            format!("spiffe://{ID}/service/-a"),
            format!("spiffe://{ID}/service/{}", "a".repeat(49)),
            format!("spiffe://other/node/{ID}"),
        ] {
            assert_eq!(parse_uri(&bad), None, "{bad}");
        }
    }

    #[test]
    fn renewal_is_due_after_two_thirds_of_life() {
        let at = |h: i64| WallTime::from_micros(h * 3_600_000_000);
        assert_eq!(renew_at(at(0), at(24)), at(16));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_certificate_and_never_panic(bytes: Vec<u8>, uri: String) {
            prop_assert!(inspect_identity(&bytes).is_err());
            let _ = parse_uri(&uri);
        }
    }
}
