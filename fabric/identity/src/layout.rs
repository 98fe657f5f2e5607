//! Where a node's and an operator's identity lie on disk.

use std::path::{Path, PathBuf};

use crate::files::{read_private, read_public, write_private, write_public};
use crate::{
    CertificateChain, Credentials, IdentityError, IssuingCa, PeerIdentity, PrivateKey, TrustBundle,
};

const NODE_HINT: &str = "this node is not part of a cluster yet: run `weft init` or `weft join`";
const OPERATOR_HINT: &str =
    "there is no operator identity here: run `weft login` on a node's machine, or copy a context";

/// An identity directory: `node.key`, `node.crt`, `bundle.pem` and, on a node that issues,
/// `ca.key` and `ca.crt`; for an operator `operator.key`, `operator.crt`, `bundle.pem`.
#[derive(Debug, Clone)]
pub struct IdentityFiles {
    directory: PathBuf,
    stem: &'static str,
    hint: &'static str,
}

/// What an identity directory holds.
#[derive(Debug)]
pub struct StoredIdentity {
    /// The private key.
    pub key: PrivateKey,
    /// The certificate and its issuer. May have expired: see [`PeerIdentity::not_after`].
    pub chain: CertificateChain,
    /// Whose it is.
    pub own: PeerIdentity,
    /// The CAs that are believed.
    pub bundle: TrustBundle,
}

impl StoredIdentity {
    /// A live handle on key and certificate.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn credentials(&self) -> Result<Credentials, IdentityError> {
        Credentials::new(&self.chain, &self.key)
    }
}

impl IdentityFiles {
    /// A node's: `<data>/identity`.
    pub fn node(data_dir: &Path) -> Self {
        Self { directory: data_dir.join("identity"), stem: "node", hint: NODE_HINT }
    }

    /// An operator's: the directory of a CLI context.
    pub fn operator(context_dir: &Path) -> Self {
        Self { directory: context_dir.to_owned(), stem: "operator", hint: OPERATOR_HINT }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The private key's file.
    pub fn key_path(&self) -> PathBuf {
        self.directory.join(format!("{}.key", self.stem))
    }

    /// The certificate's file: leaf, then issuing CA.
    pub fn certificate_path(&self) -> PathBuf {
        self.directory.join(format!("{}.crt", self.stem))
    }

    /// The trust bundle's file.
    pub fn bundle_path(&self) -> PathBuf {
        self.directory.join("bundle.pem")
    }

    /// The issuing CA's key file.
    pub fn ca_key_path(&self) -> PathBuf {
        self.directory.join("ca.key")
    }

    /// The issuing CA's certificate file.
    pub fn ca_certificate_path(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Whether there is a certificate, so that [`Self::load`] is worth trying.
    pub fn has_certificate(&self) -> bool {
        self.certificate_path().exists()
    }

    /// Whether this node issues certificates.
    pub fn has_ca(&self) -> bool {
        self.ca_key_path().exists()
    }

    /// The private key, made and stored (0600) first if there is none: a join that failed half-way
    /// is tried again with the same key.
    ///
    /// # Errors
    /// [`IdentityError::TooOpen`], [`IdentityError::BadPem`], [`IdentityError::Read`],
    /// [`IdentityError::Write`].
    pub fn key_or_create(&self) -> Result<PrivateKey, IdentityError> {
        match self.load_key() {
            Err(IdentityError::Missing { .. }) => {
                let key = PrivateKey::generate()?;
                write_private(&self.key_path(), key.to_pem().as_bytes())?;
                Ok(key)
            }
            other => other,
        }
    }

    /// Stores a certificate, after checking that it belongs to the stored key.
    ///
    /// # Errors
    /// [`IdentityError::KeyMismatch`]; as [`Self::key_or_create`]. The old certificate stays.
    pub fn save_certificate(&self, chain: &CertificateChain) -> Result<(), IdentityError> {
        self.check_pair(&self.load_key()?, &chain.inspect()?)?;
        write_public(&self.certificate_path(), chain.to_pem().as_bytes())
    }

    /// Stores the trust bundle.
    ///
    /// # Errors
    /// [`IdentityError::Write`]; the old bundle stays.
    pub fn save_bundle(&self, bundle: &TrustBundle) -> Result<(), IdentityError> {
        write_public(&self.bundle_path(), bundle.to_pem().as_bytes())
    }

    /// Stores the issuing CA, once.
    ///
    /// # Errors
    /// As [`IssuingCa::save`].
    pub fn save_ca(&self, ca: &IssuingCa) -> Result<(), IdentityError> {
        ca.save(&self.ca_key_path(), &self.ca_certificate_path())
    }

    /// Reads the issuing CA.
    ///
    /// # Errors
    /// As [`IssuingCa::load`].
    pub fn load_ca(&self) -> Result<IssuingCa, IdentityError> {
        IssuingCa::load(&self.ca_key_path(), &self.ca_certificate_path())
    }

    /// Reads key, certificate and bundle, and checks that key and certificate belong together.
    ///
    /// # Errors
    /// [`IdentityError::Missing`], [`IdentityError::TooOpen`], [`IdentityError::BadPem`],
    /// [`IdentityError::KeyMismatch`], [`IdentityError::Read`]; each names the file.
    pub fn load(&self) -> Result<StoredIdentity, IdentityError> {
        let key = self.load_key()?;
        let path = self.certificate_path();
        let text = read_public(&path, self.hint)?;
        let chain = CertificateChain::from_pem(&text, &quoted(&path))?;
        let own = chain.inspect().map_err(|error| IdentityError::BadPem {
            what: format!("{} ({error})", quoted(&path)),
            expected: "a certificate of the fabric",
        })?;
        self.check_pair(&key, &own)?;
        let path = self.bundle_path();
        let text = read_public(&path, self.hint)?;
        let bundle = TrustBundle::from_pem(&text, &quoted(&path)).map_err(|error| match error {
            named @ IdentityError::BadPem { .. } => named,
            other => IdentityError::BadPem {
                what: format!("{} ({other})", quoted(&path)),
                expected: "the certificates of issuing CAs",
            },
        })?;
        Ok(StoredIdentity { key, chain, own, bundle })
    }

    fn load_key(&self) -> Result<PrivateKey, IdentityError> {
        let path = self.key_path();
        PrivateKey::from_pem(&read_private(&path, self.hint)?, &quoted(&path))
    }

    fn check_pair(&self, key: &PrivateKey, own: &PeerIdentity) -> Result<(), IdentityError> {
        if key.public_key_fingerprint() == own.public_key_fingerprint {
            return Ok(());
        }
        Err(IdentityError::KeyMismatch {
            key: quoted(&self.key_path()),
            certificate: quoted(&self.certificate_path()),
        })
    }
}

fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}
