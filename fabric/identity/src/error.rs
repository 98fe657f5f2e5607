//! The crate's one error type for keys, certificates and trust; tokens have their own.

use std::io;
use std::path::PathBuf;

use weft_wire::{ClusterId, Identity, NodeId, WallTime};

use crate::Fingerprint;
use crate::text::span;

/// Why an identity cannot be made, loaded, issued or believed. Nothing was changed, unless the
/// variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or directory cannot be written; what was there before is still there.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that must exist does not.
    #[error("`{}` does not exist: {hint}", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// Writing would destroy a key that cannot be made again.
    #[error("`{}` already exists and is not overwritten: move it away if it is not needed", path.display())]
    AlreadyThere {
        /// Which file.
        path: PathBuf,
    },
    /// A private file that others may open.
    #[error(
        "`{}` has mode {mode:04o}, so other accounts may open it: expected 0600; if nobody read it, run `chmod 600` on it, otherwise replace it",
        path.display()
    )]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not the PEM that was expected.
    #[error("{what} is not valid: expected {expected}")]
    BadPem {
        /// The file or field.
        what: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A key and a certificate that do not belong together.
    #[error(
        "{key} does not belong to {certificate}: restore the pair from one backup, or join again"
    )]
    KeyMismatch {
        /// The key's file or name.
        key: String,
        /// The certificate's file or name.
        certificate: String,
    },
    /// A signing request that cannot be used.
    #[error("the certificate request is refused: {0}")]
    BadCsr(String),
    /// A renewal with another key than the recorded one.
    #[error(
        "the certificate request is for key {found}, but key {recorded} is recorded for this id: an id keeps its key; join under a new id instead"
    )]
    NotTheRecordedKey {
        /// The key of the request.
        found: Fingerprint,
        /// The key on record.
        recorded: Fingerprint,
    },
    /// An identity for which no certificate is ever issued.
    #[error("no certificate can be issued for `{0}`: expected a node, an operator or a service")]
    NotCertifiable(String),
    /// Times between which nothing can be valid.
    #[error(
        "the validity is not usable: it must begin before it ends, and end after 1970 and before the issuing CA does, at the latest in 9999"
    )]
    BadValidity,
    /// Not a certificate, or one that breaks a rule.
    #[error("the certificate is not usable: {0}")]
    BadCertificate(String),
    /// A certificate that may not sign others, offered as an issuing CA.
    #[error(
        "the certificate {0} is not an issuing CA (CA:TRUE and the right to sign certificates)"
    )]
    NotACa(Fingerprint),
    /// The constant DNS name is missing.
    #[error(
        "the certificate is not for the fabric: it lacks the DNS name `{}`",
        crate::FABRIC_NAME
    )]
    WrongName,
    /// A certificate that may not be used in this direction, such as an operator's on a server.
    #[error("the certificate may not be used by this side of a connection")]
    WrongUsage,
    /// Not exactly one URI.
    #[error("the certificate names {0} URIs: expected exactly one")]
    UriCount(usize),
    /// A URI that is not an identity.
    #[error(
        "`{0}` is not an identity: expected spiffe://<cluster>/node/<id>, /operator/<id> or /service/<name>"
    )]
    BadUri(String),
    /// Another cluster's certificate.
    #[error("the certificate belongs to cluster {found}, but this is cluster {expected}")]
    OtherCluster {
        /// The certificate's cluster.
        found: ClusterId,
        /// Ours, or the token's.
        expected: ClusterId,
    },
    /// Another peer answered at the address.
    #[error(
        "`{found}` answered where node {expected} was expected: its address has changed, or something else listens there"
    )]
    OtherPeer {
        /// Who answered.
        found: Identity,
        /// Who was dialled.
        expected: NodeId,
    },
    /// Something that is not a node offered service.
    #[error("`{0}` answered where a node was expected")]
    NotANode(Identity),
    /// A new certificate for another identity was offered in place of the present one.
    #[error(
        "the new certificate is for `{found}`, the present one for `{present}`: an identity never changes while in use"
    )]
    IdentityChanged {
        /// The new certificate's.
        found: Identity,
        /// The present one's.
        present: Identity,
    },
    /// Past its end.
    #[error(
        "the certificate expired {} ago: a node renews by its key at the next start, an operator with `weft login`; if it should still be valid, check this machine's clock",
        span(now.since(*not_after))
    )]
    Expired {
        /// Its end.
        not_after: WallTime,
        /// The time it was checked at.
        now: WallTime,
    },
    /// Before its beginning; nearly always a clock that is behind.
    #[error(
        "the certificate becomes valid only in {}: one of the two clocks is wrong, set it (for example by NTP) and try again",
        span(not_before.since(*now))
    )]
    NotYetValid {
        /// Its beginning.
        not_before: WallTime,
        /// The time it was checked at.
        now: WallTime,
    },
    /// Not signed by a CA of the bundle.
    #[error("the certificate is not from an issuing CA of this cluster's trust bundle")]
    UntrustedIssuer,
    /// No certificate of the chain has a fingerprint of the join token.
    #[error(
        "the node that answered is not of the token's cluster: its issuing CA is not among those the token names; check the address, or make a new token with `weft node token`"
    )]
    NotPinned,
    /// An id that was removed from the cluster.
    #[error(
        "`{0}` was removed from the cluster, and its id is refused for ever: join under a new id"
    )]
    Denied(Identity),
    /// The system gave no randomness.
    #[error("the system gave no random bytes")]
    NoRandomness,
    /// The cryptographic library refused.
    #[error("cannot {what}: {reason}")]
    Crypto {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

impl IdentityError {
    pub(crate) fn crypto(what: &'static str, reason: impl ToString) -> Self {
        Self::Crypto { what, reason: reason.to_string() }
    }
}
