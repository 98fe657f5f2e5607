//! The trust bundle: the set of issuing CAs whose leaves are believed. Agreed state (design §3).

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::ca::require_ca;
use crate::text::pem;
use crate::{Fingerprint, IdentityError};

/// A set of CA certificates, in the order of their fingerprints. Serialised as a list of DER
/// certificates; each is checked to be a CA when it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<u8>>", into = "Vec<Vec<u8>>")]
pub struct TrustBundle {
    certificates: BTreeMap<Fingerprint, Vec<u8>>,
}

impl TrustBundle {
    /// An empty set, which believes nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a CA certificate (DER) and returns its fingerprint.
    ///
    /// # Errors
    /// [`IdentityError::BadCertificate`], [`IdentityError::NotACa`].
    pub fn insert(&mut self, der: &[u8]) -> Result<Fingerprint, IdentityError> {
        require_ca(der)?;
        // What the verifier cannot use must not look trusted.
        webpki::anchor_from_trusted_cert(&CertificateDer::from(der))
            .map_err(|e| IdentityError::BadCertificate(e.to_string()))?;
        let fingerprint = Fingerprint::of(der);
        self.certificates.insert(fingerprint, der.to_vec());
        Ok(fingerprint)
    }

    /// Removes a CA; whether it was there.
    pub fn remove(&mut self, fingerprint: &Fingerprint) -> bool {
        self.certificates.remove(fingerprint).is_some()
    }

    /// Whether a CA is in it.
    pub fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.certificates.contains_key(fingerprint)
    }

    /// The CAs' fingerprints, sorted: what a join token carries.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.certificates.keys().copied().collect()
    }

    /// The certificates, DER, in the order of their fingerprints.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.values().map(Vec::as_slice)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.certificates.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// One fingerprint for the whole set, whatever order it was made in: SHA-256 over the sorted
    /// fingerprints.
    pub fn fingerprint(&self) -> Fingerprint {
        let all: Vec<u8> = self.certificates.keys().flat_map(|f| *f.as_bytes()).collect();
        Fingerprint::of(&all)
    }

    /// All certificates as PEM.
    pub fn to_pem(&self) -> String {
        self.certificates.values().map(|der| pem("CERTIFICATE", der)).collect()
    }

    /// Reads PEM certificates; `what` is the file or field for the error.
    ///
    /// # Errors
    /// [`IdentityError::BadPem`] also when there is none; as [`Self::insert`].
    pub fn from_pem(text: &str, what: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::BadPem {
            what: what.to_owned(),
            expected: "one or more PEM `CERTIFICATE` sections of issuing CAs",
        };
        let mut bundle = Self::new();
        for der in CertificateDer::pem_slice_iter(text.as_bytes()) {
            bundle.insert(&der.map_err(|_| bad())?)?;
        }
        if bundle.is_empty() { Err(bad()) } else { Ok(bundle) }
    }
}

impl TryFrom<Vec<Vec<u8>>> for TrustBundle {
    type Error = IdentityError;

    fn try_from(certificates: Vec<Vec<u8>>) -> Result<Self, IdentityError> {
        let mut bundle = Self::new();
        for der in certificates {
            bundle.insert(&der)?;
        }
        Ok(bundle)
    }
}

impl From<TrustBundle> for Vec<Vec<u8>> {
    fn from(bundle: TrustBundle) -> Self {
        bundle.certificates.into_values().collect()
    }
}
