//! Private keys, which never leave their machine, and the signing requests made from them.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::{Fingerprint, IdentityError};

/// Longer requests are refused unread, in bytes. A P-256 request takes under 300.
const CSR_MAX: usize = 16 * 1024;
/// What precedes the 64 bytes of an uncompressed P-256 point in a SubjectPublicKeyInfo (RFC 5480).
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const P256_SPKI: usize = P256_PREFIX.len() + 64;

/// An ECDSA P-256 private key.
pub struct PrivateKey {
    pair: KeyPair,
}

impl PrivateKey {
    /// Makes a key from the system's randomness.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when there is none.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate().map_err(|e| IdentityError::crypto("make a key", e))?;
        Ok(Self { pair })
    }

    /// Reads a PKCS #8 PEM; `what` is the file or field for the error.
    ///
    /// # Errors
    /// [`IdentityError::BadPem`].
    pub fn from_pem(pem: &str, what: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::BadPem {
            what: what.to_owned(),
            expected: "a PEM `PRIVATE KEY` (PKCS #8) of an ECDSA P-256 key",
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad())?;
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| bad())?;
        Ok(Self { pair })
    }

    /// PKCS #8 PEM. Belongs into a file of mode 0600 and nowhere else.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// A signing request (PKCS #10, DER) that proves possession of the key and asks for nothing:
    /// the issuer decides everything else.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.pair)
            .map_err(|e| IdentityError::crypto("sign a certificate request", e))?;
        Ok(request.der().to_vec())
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn public_key_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.pair.subject_public_key_info())
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()))
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.pair
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public_key_fingerprint())
    }
}

/// The public key of a signing request whose own signature was checked. Whatever else the
/// request asked for is already gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    spki: Vec<u8>,
}

impl VerifiedCsr {
    /// Reads a request, DER or PEM, and checks that it is signed by the key it names.
    ///
    /// # Errors
    /// [`IdentityError::BadCsr`]: not a request, over 16 KiB, not an ECDSA P-256 key, or not
    /// signed by it.
    pub fn verify(csr: &[u8]) -> Result<Self, IdentityError> {
        let bad = |why: &str| IdentityError::BadCsr(why.to_owned());
        if csr.len() > CSR_MAX {
            return Err(bad("it is over 16 KiB"));
        }
        let der = if csr.starts_with(b"-----BEGIN") {
            CertificateSigningRequestDer::from_pem_slice(csr)
                .map_err(|_| bad("it is not a PEM `CERTIFICATE REQUEST`"))?
        } else {
            CertificateSigningRequestDer::from(csr)
        };
        let (rest, request) = X509CertificationRequest::from_der(&der)
            .map_err(|_| bad("it is not a PKCS #10 request"))?;
        if !rest.is_empty() {
            return Err(bad("there are bytes behind it"));
        }
        let info = &request.certification_request_info;
        let spki = info.subject_pki.raw;
        if spki.len() != P256_SPKI || !spki.starts_with(P256_PREFIX) {
            return Err(bad("its key is not an uncompressed ECDSA P-256 key"));
        }
        let point = info.subject_pki.subject_public_key.data.as_ref();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(info.raw, request.signature_value.data.as_ref())
            .map_err(|_| bad("it is not signed by the key it names"))?;
        Ok(Self { spki: spki.to_vec() })
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn public_key_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.spki)
    }

    pub(crate) fn public_key(&self) -> Result<SubjectPublicKeyInfo, IdentityError> {
        SubjectPublicKeyInfo::from_der(&self.spki)
            .map_err(|_| IdentityError::BadCsr("its key cannot be read".to_owned()))
    }
}

/// Renewal by proof of key: checks a request and that its key is the one `recorded` for the id
/// (design §3). The caller has looked up the id, and that it is not denied.
///
/// # Errors
/// [`IdentityError::BadCsr`] or [`IdentityError::NotTheRecordedKey`].
pub fn check_renewal(csr: &[u8], recorded: &Fingerprint) -> Result<VerifiedCsr, IdentityError> {
    let csr = VerifiedCsr::verify(csr)?;
    let found = csr.public_key_fingerprint();
    if found != *recorded {
        return Err(IdentityError::NotTheRecordedKey { found, recorded: *recorded });
    }
    Ok(csr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_proves_its_own_key_in_der_and_in_pem() {
        let key = PrivateKey::generate().expect("key");
        let der = key.csr().expect("csr");
        let pem = crate::text::pem("CERTIFICATE REQUEST", &der);
        for bytes in [der.as_slice(), pem.as_bytes()] {
            let csr = VerifiedCsr::verify(bytes).expect("verifies");
            assert_eq!(csr.public_key_fingerprint(), key.public_key_fingerprint());
        }
    }

    #[test]
    fn a_request_for_somebody_elses_key_is_refused() {
        let (mine, theirs) =
            (PrivateKey::generate().expect("key"), PrivateKey::generate().expect("key"));
        let (spki, other) =
            (mine.pair.subject_public_key_info(), theirs.pair.subject_public_key_info());
        let mut der = mine.csr().expect("csr");
        let at = der.windows(spki.len()).position(|w| w == spki).expect("key is in it");
        der[at..at + spki.len()].copy_from_slice(&other);
        let error = VerifiedCsr::verify(&der).expect_err("forged");
        assert!(error.to_string().contains("not signed by the key it names"), "{error}");
    }

    #[test]
    fn a_request_with_another_kind_of_key_is_refused() {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
        let der =
            CertificateParams::default().serialize_request(&pair).expect("csr").der().to_vec();
        assert!(matches!(VerifiedCsr::verify(&der), Err(IdentityError::BadCsr(_))));
    }

    #[test]
    fn renewal_needs_the_recorded_key() {
        let (mine, theirs) =
            (PrivateKey::generate().expect("key"), PrivateKey::generate().expect("key"));
        let csr = mine.csr().expect("csr");
        assert!(check_renewal(&csr, &mine.public_key_fingerprint()).is_ok());
        assert!(matches!(
            check_renewal(&csr, &theirs.public_key_fingerprint()),
            Err(IdentityError::NotTheRecordedKey { .. })
        ));
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = PrivateKey::generate().expect("key");
        let body: String = key.to_pem().lines().nth(1).expect("body").into();
        assert!(!format!("{key:?}").contains(&body));
        assert!(key.to_pem().starts_with("-----BEGIN PRIVATE KEY-----"));
    }

    proptest! {
        #[test]
        fn a_request_with_a_changed_byte_is_refused_without_a_panic(at: prop::sample::Index, to: u8) {
            let mut der = PrivateKey::generate().expect("key").csr().expect("csr");
            let at = at.index(der.len());
            prop_assume!(der[at] != to);
            der[at] = to;
            // The declared signature algorithm (an OID) is not looked at: P-256 with SHA-256 is
            // the only one that can verify. Everything else that is signed must be as it was.
            if let Ok(csr) = VerifiedCsr::verify(&der) {
                prop_assert!(csr.public_key().is_ok());
            }
            let _ = VerifiedCsr::verify(&der[..at]);
        }
    }
}
