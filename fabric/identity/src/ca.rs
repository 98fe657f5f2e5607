//! A node's issuing CA and what it issues. Its key never travels (design §3).

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use weft_wire::{ClusterId, Identity, WallTime};

use crate::files::{read_private, read_public, write_private, write_public};
use crate::peer::{parse, seconds, uri_of};
use crate::text::pem;
use crate::{FABRIC_NAME, Fingerprint, IdentityError, PeerIdentity, PrivateKey, VerifiedCsr};

/// Life of a node's certificate.
pub const NODE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Life of an operator's certificate.
pub const OPERATOR_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Life of an issuing CA: ten years of 365.25 days.
pub const CA_LIFE: Duration = Duration::from_secs(315_576_000);
/// Everything issued begins this much earlier, so that a peer whose clock is a little behind
/// accepts it at once. As large as the skew that is tolerated at join.
pub const BACKDATE: Duration = Duration::from_secs(300);

/// Last second that X.509 can write: the end of 9999.
const LAST_SECOND: i64 = 253_402_300_799;

/// Between which times a certificate is valid. X.509 keeps whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: WallTime,
    /// Last moment.
    pub not_after: WallTime,
}

impl Validity {
    /// From `now`, backdated by [`BACKDATE`], for `life`.
    pub fn starting(now: WallTime, life: Duration) -> Self {
        Self { not_before: now.minus(BACKDATE), not_after: now.plus(life) }
    }

    /// A node's: [`NODE_LIFE`] from now.
    pub fn node(now: WallTime) -> Self {
        Self::starting(now, NODE_LIFE)
    }

    /// An operator's: [`OPERATOR_LIFE`] from now.
    pub fn operator(now: WallTime) -> Self {
        Self::starting(now, OPERATOR_LIFE)
    }

    /// Within what X.509 can say, and not empty.
    fn checked(self) -> Result<Self, IdentityError> {
        let usable = |time: WallTime| (0..=LAST_SECOND).contains(&(time.as_micros() / 1_000_000));
        if self.not_before < self.not_after && usable(self.not_before) && usable(self.not_after) {
            Ok(self)
        } else {
            Err(IdentityError::BadValidity)
        }
    }
}

/// Whom a certificate is issued for; decided by the issuer, never by the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The cluster.
    pub cluster: ClusterId,
    /// A node, an operator or a service.
    pub identity: Identity,
}

/// A leaf and the CA that issued it, both DER: what a peer presents in a handshake, and what an
/// issuer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateChain {
    /// The leaf.
    pub leaf: Vec<u8>,
    /// Its issuing CA; joiners compare its fingerprint with their token's.
    pub issuer: Vec<u8>,
}

impl CertificateChain {
    /// Both as PEM, leaf first.
    pub fn to_pem(&self) -> String {
        pem("CERTIFICATE", &self.leaf) + &pem("CERTIFICATE", &self.issuer)
    }

    /// Reads what [`Self::to_pem`] wrote; `what` is the file or field for the error.
    ///
    /// # Errors
    /// [`IdentityError::BadPem`] unless there are exactly two certificates.
    pub fn from_pem(text: &str, what: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::BadPem {
            what: what.to_owned(),
            expected: "two PEM `CERTIFICATE` sections: the leaf, then its issuing CA",
        };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match found.map_err(|_| bad())?.as_slice() {
            [leaf, issuer] => Ok(Self { leaf: leaf.to_vec(), issuer: issuer.to_vec() }),
            _ => Err(bad()),
        }
    }

    /// Whose it is and until when; see [`crate::inspect_identity`].
    ///
    /// # Errors
    /// As [`crate::inspect_identity`].
    pub fn inspect(&self) -> Result<PeerIdentity, IdentityError> {
        crate::inspect_identity(&self.leaf)
    }
}

/// An issuing CA: an ECDSA P-256 key and its self-signed certificate, which may issue leaves only.
pub struct IssuingCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: WallTime,
}

impl IssuingCa {
    /// Makes a new one, valid from five minutes ago for [`CA_LIFE`].
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] without randomness; [`IdentityError::BadValidity`] when `now` is
    /// before 1970 or near the year 9999.
    pub fn create(cluster: ClusterId, now: WallTime) -> Result<Self, IdentityError> {
        let key = PrivateKey::generate()?;
        let validity = Validity::starting(now, CA_LIFE).checked()?;
        let mut params = base(validity)?;
        // The name differs per key, so that a verifier finds the right anchor at once.
        let short: String = key.public_key_fingerprint().to_string().chars().take(16).collect();
        params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
        params.distinguished_name.push(DnType::CommonName, format!("weft issuing CA {short}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(key.pair())
            .map_err(|e| IdentityError::crypto("sign the CA certificate", e))?;
        Self::assemble(key, certificate.der().clone())
    }

    /// From its parts; the names are the files' for the errors.
    ///
    /// # Errors
    /// [`IdentityError::BadPem`], [`IdentityError::NotACa`], [`IdentityError::KeyMismatch`].
    pub fn from_pem(key: (&str, &str), certificate: (&str, &str)) -> Result<Self, IdentityError> {
        let (key_name, key_pem) = key;
        let (certificate_name, certificate_pem) = certificate;
        let key = PrivateKey::from_pem(key_pem, key_name)?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| {
            IdentityError::BadPem {
                what: certificate_name.to_owned(),
                expected: "a PEM `CERTIFICATE`",
            }
        })?;
        let spki = Fingerprint::of(parse(&der)?.public_key().raw);
        if spki != key.public_key_fingerprint() {
            return Err(IdentityError::KeyMismatch {
                key: key_name.to_owned(),
                certificate: certificate_name.to_owned(),
            });
        }
        Self::assemble(key, der)
    }

    fn assemble(key: PrivateKey, der: CertificateDer<'static>) -> Result<Self, IdentityError> {
        require_ca(&der)?;
        let not_after = seconds(parse(&der)?.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&der, key.into_pair())
            .map_err(|e| IdentityError::crypto("use the CA certificate", e))?;
        Ok(Self { issuer, certificate: der, not_after })
    }

    /// Writes key (0600) and certificate, atomically each.
    ///
    /// # Errors
    /// [`IdentityError::AlreadyThere`] when there is a key already; [`IdentityError::Write`].
    pub fn save(&self, key: &Path, certificate: &Path) -> Result<(), IdentityError> {
        if key.exists() {
            return Err(IdentityError::AlreadyThere { path: key.to_owned() });
        }
        // The key comes last: after a crash in between there is no CA, rather than half of one.
        write_public(certificate, self.to_pem().as_bytes())?;
        write_private(key, self.issuer.key().serialize_pem().as_bytes())
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`IdentityError::TooOpen`] when the key may be read by others; as [`Self::from_pem`];
    /// [`IdentityError::Missing`], [`IdentityError::Read`]. Each names the file.
    pub fn load(key: &Path, certificate: &Path) -> Result<Self, IdentityError> {
        const HINT: &str = "restore it from a backup; a lost issuing CA is replaced by a new one";
        let key_pem = read_private(key, HINT)?;
        let certificate_pem = read_public(certificate, HINT)?;
        Self::from_pem(
            (&format!("`{}`", key.display()), &key_pem),
            (&format!("`{}`", certificate.display()), &certificate_pem),
        )
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The certificate, PEM.
    pub fn to_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// When the CA's own certificate ends; nothing it issues lives longer.
    pub fn not_after(&self) -> WallTime {
        self.not_after
    }

    /// Checks a signing request (DER or PEM) and issues a certificate for its public key. Names,
    /// usages and the CA flag come from here; whatever the request asked for is ignored.
    ///
    /// # Errors
    /// [`IdentityError::BadCsr`]; as [`Self::sign`].
    pub fn sign_csr(
        &self,
        csr: &[u8],
        subject: &Subject,
        validity: Validity,
    ) -> Result<CertificateChain, IdentityError> {
        self.sign(&VerifiedCsr::verify(csr)?, subject, validity)
    }

    /// As [`Self::sign_csr`], for a request that was checked already, as by
    /// [`crate::check_renewal`]. The end is cut to the CA's own.
    ///
    /// # Errors
    /// [`IdentityError::NotCertifiable`], [`IdentityError::BadValidity`],
    /// [`IdentityError::NoRandomness`], [`IdentityError::Crypto`].
    pub fn sign(
        &self,
        csr: &VerifiedCsr,
        subject: &Subject,
        validity: Validity,
    ) -> Result<CertificateChain, IdentityError> {
        let uri = uri_of(subject.cluster, &subject.identity)
            .ok_or_else(|| IdentityError::NotCertifiable(subject.identity.to_string()))?;
        let not_after = validity.not_after.min(self.not_after);
        let mut params = base(Validity { not_after, ..validity }.checked()?)?;
        let name = |text: &str| {
            text.try_into().map_err(|_| IdentityError::NotCertifiable(subject.identity.to_string()))
        };
        params.subject_alt_names =
            vec![SanType::DnsName(name(FABRIC_NAME)?), SanType::URI(name(&uri)?)];
        let (common_name, usages) = match subject.identity {
            Identity::Operator(_) => ("weft operator", vec![ExtendedKeyUsagePurpose::ClientAuth]),
            Identity::Node(_) => ("weft node", both()),
            _ => ("weft service", both()),
        };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(&csr.public_key()?, &self.issuer)
            .map_err(|e| IdentityError::crypto("sign the certificate", e))?;
        Ok(CertificateChain { leaf: leaf.der().to_vec(), issuer: self.certificate.to_vec() })
    }
}

impl fmt::Debug for IssuingCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuingCa({})", self.fingerprint())
    }
}

/// Refuses what is not the certificate of a CA. A trust anchor's own flags are not looked at
/// during verification, so this is done when it is taken in.
pub(crate) fn require_ca(der: &[u8]) -> Result<(), IdentityError> {
    let certificate = parse(der)?;
    let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|e| e.value.ca);
    let may_sign = certificate.key_usage().ok().flatten().is_some_and(|e| e.value.key_cert_sign());
    if is_ca && may_sign { Ok(()) } else { Err(IdentityError::NotACa(Fingerprint::of(der))) }
}

fn both() -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
}

/// Parameters with validity and a random serial: the default serial is derived from the key, so
/// every renewal would bear the same one.
fn base(validity: Validity) -> Result<CertificateParams, IdentityError> {
    let mut serial = [0u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| IdentityError::NoRandomness)?;
    // Positive and not zero (RFC 5280, 4.1.2.2).
    let [first, ..] = &mut serial;
    *first = (*first & 0x7f) | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.to_system().into();
    params.not_after = validity.not_after.to_system().into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}
