//! Join tokens: one-time, expiring, and enough for a joiner to know the cluster before it says
//! its secret (design §3).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use weft_wire::{ClusterId, WallTime, codec};

use crate::text::{base64url, span, unbase64url};
use crate::{Fingerprint, IdentityError, SKEW_MAX};

/// Life of a token unless somebody asks for another.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// `weft1.<body>.<checksum>`: the digits are the version of the body's layout.
const WORD: &str = "weft";
const VERSION: &str = "1";
/// Bytes of SHA-256 in the checksum, and the characters they take: no padding, no spare bits.
const CHECK_BYTES: usize = 6;
const CHECK_CHARS: usize = 8;
/// Longer texts are refused unread, in bytes.
const TEXT_MAX: usize = 8 * 1024;

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else altogether.
    #[error(
        "this is not a join token: expected the text that `weft node token` printed, which begins with `weft1.`"
    )]
    NotAToken,
    /// Its end is missing.
    #[error("the join token is cut short: copy the whole line that `weft node token` printed")]
    Truncated,
    /// It was changed on the way.
    #[error("the join token is damaged: a character changed on the way; copy it again")]
    Garbled,
    /// Made by a version this one cannot read.
    #[error(
        "the join token is of version {0}, this program reads version 1: use the same version of weft on both sides"
    )]
    UnknownVersion(String),
    /// It names no address, or no fingerprint.
    #[error("the join token names no {0}: make a new one with `weft node token`")]
    Incomplete(&'static str),
    /// Its time is over.
    #[error("the join token expired {} ago: make a new one with `weft node token`", span(*ago))]
    Expired {
        /// Since when.
        ago: Duration,
    },
    /// It was used already.
    #[error("the join token was used {} ago and is good for one join only: make a new one with `weft node token`", span(*ago))]
    Reused {
        /// Since when.
        ago: Duration,
    },
    /// For another cluster.
    #[error(
        "the join token is for cluster {token}, but this is cluster {here}: make one on a node of this cluster"
    )]
    WrongCluster {
        /// The token's.
        token: ClusterId,
        /// Ours.
        here: ClusterId,
    },
    /// No such token was ever made here, or it was withdrawn.
    #[error(
        "the join token is not known to the cluster: it was withdrawn, or never made here; make a new one with `weft node token`"
    )]
    Unknown,
}

/// 32 random bytes that prove one was given a token. Never printed.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// Draws a secret from the system's randomness.
    ///
    /// # Errors
    /// [`IdentityError::NoRandomness`].
    pub fn generate() -> Result<Self, IdentityError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// What is stored in its place.
    pub fn hash(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl PartialEq for JoinSecret {
    fn eq(&self, other: &Self) -> bool {
        Fingerprint::from_bytes(self.0).equals_constant_time(&Fingerprint::from_bytes(other.0))
    }
}

impl Eq for JoinSecret {}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// What `weft node token` prints and `weft join` reads. Has no `Display`, so that it is not logged
/// by accident: see [`JoinToken::to_text`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The cluster to join.
    pub cluster: ClusterId,
    /// Where its nodes listen, `host:port` each, in the order to try.
    pub addresses: Vec<String>,
    /// The trust bundle's CAs: how the joiner knows the cluster.
    pub fingerprints: Vec<Fingerprint>,
    /// What the joiner says once it knows.
    pub secret: JoinSecret,
    /// Until when.
    pub expires_at: WallTime,
    /// The name the node shall have, if the token decides it.
    pub name: Option<String>,
}

impl JoinToken {
    /// Makes a token with a fresh secret.
    ///
    /// # Errors
    /// [`IdentityError::NoRandomness`].
    pub fn issue(
        cluster: ClusterId,
        addresses: Vec<String>,
        fingerprints: Vec<Fingerprint>,
        expires_at: WallTime,
        name: Option<String>,
    ) -> Result<Self, IdentityError> {
        let secret = JoinSecret::generate()?;
        Ok(Self { cluster, addresses, fingerprints, secret, expires_at, name })
    }

    /// What the cluster keeps of it: everything but the secret.
    pub fn record(&self) -> TokenRecord {
        TokenRecord {
            secret_hash: self.secret_hash(),
            cluster: self.cluster,
            expires_at: self.expires_at,
            used_at: None,
            name: self.name.clone(),
        }
    }

    /// SHA-256 of the secret: what is stored.
    pub fn secret_hash(&self) -> Fingerprint {
        self.secret.hash()
    }

    /// The text that carries the secret; print it once and nowhere else.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when it would be longer than 8 KiB.
    pub fn to_text(&self) -> Result<String, IdentityError> {
        let body = codec::encode(self).map_err(|e| IdentityError::crypto("write the token", e))?;
        let head = format!("{WORD}{VERSION}.{}", base64url(&body));
        let text = format!("{head}.{}", checksum(&head));
        if text.len() > TEXT_MAX {
            return Err(IdentityError::crypto("write the token", "it would be over 8 KiB"));
        }
        Ok(text)
    }

    /// Spares the joiner a futile dial. Its clock may be wrong by [`SKEW_MAX`]; the cluster's
    /// decides.
    ///
    /// # Errors
    /// [`TokenError::Expired`].
    pub fn check_not_expired(&self, now: WallTime) -> Result<(), TokenError> {
        if now > self.expires_at.plus(SKEW_MAX) {
            return Err(TokenError::Expired { ago: now.since(self.expires_at) });
        }
        Ok(())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads the text form. White space is ignored, as terminals wrap long lines.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TEXT_MAX {
            return Err(TokenError::NotAToken);
        }
        let text: String = text.split_ascii_whitespace().collect();
        let mut parts = text.splitn(3, '.');
        let (head, body, check) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let Some(version) = head.strip_prefix(WORD) else {
            let cut = !head.is_empty() && body.is_none() && WORD.starts_with(head);
            return Err(if cut { TokenError::Truncated } else { TokenError::NotAToken });
        };
        if !version.bytes().all(|b| b.is_ascii_digit()) || version.len() > 9 {
            return Err(TokenError::NotAToken);
        }
        let Some(body) = body else { return Err(TokenError::Truncated) };
        if version != VERSION {
            return Err(TokenError::UnknownVersion(version.to_owned()));
        }
        let Some(check) = check else { return Err(TokenError::Truncated) };
        if check != checksum(&format!("{head}.{body}")) {
            let cut = check.len() < CHECK_CHARS;
            return Err(if cut { TokenError::Truncated } else { TokenError::Garbled });
        }
        let body = unbase64url(body).ok_or(TokenError::Garbled)?;
        let token: Self = codec::decode(&body).map_err(|_| TokenError::Garbled)?;
        if token.addresses.is_empty() {
            return Err(TokenError::Incomplete("address"));
        }
        if token.fingerprints.is_empty() {
            return Err(TokenError::Incomplete("fingerprint"));
        }
        Ok(token)
    }
}

/// What the cluster keeps of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the secret; also the key it is found by.
    pub secret_hash: Fingerprint,
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// Until when.
    pub expires_at: WallTime,
    /// When it was used, if it was.
    pub used_at: Option<WallTime>,
    /// The name the node shall have, if the token decides it.
    pub name: Option<String>,
}

impl TokenRecord {
    /// Uses the token up: the record to store, in the same transaction as the new node.
    ///
    /// `cluster` is what the joiner's token names, `self.cluster` is here.
    ///
    /// # Errors
    /// [`TokenError::WrongCluster`], [`TokenError::Unknown`], [`TokenError::Reused`],
    /// [`TokenError::Expired`]; nothing is used up.
    pub fn redeem(
        &self,
        cluster: ClusterId,
        secret: &JoinSecret,
        now: WallTime,
    ) -> Result<Self, TokenError> {
        if cluster != self.cluster {
            return Err(TokenError::WrongCluster { token: cluster, here: self.cluster });
        }
        if !secret.hash().equals_constant_time(&self.secret_hash) {
            return Err(TokenError::Unknown);
        }
        if let Some(used) = self.used_at {
            return Err(TokenError::Reused { ago: now.since(used) });
        }
        if now > self.expires_at {
            return Err(TokenError::Expired { ago: now.since(self.expires_at) });
        }
        Ok(Self { used_at: Some(now), ..self.clone() })
    }
}

fn checksum(head: &str) -> String {
    let all = Fingerprint::of(head.as_bytes());
    base64url(all.as_bytes().get(..CHECK_BYTES).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: &str = "018f2c3e-5b7a-7d4e-9c1b-2f6a8d0e4b5c";
    const THERE: &str = "018f2c3e-5b7a-7d4e-9c1b-2f6a8d0e4b5d";
    const NOW: WallTime = WallTime::from_micros(1_800_000_000_000_000);

    fn token() -> JoinToken {
        JoinToken::issue(
            HERE.parse().expect("id"),
            vec!["10.0.0.1:7443".into(), "[fd00::1]:7443".into()],
            vec![Fingerprint::of(b"ca")],
            NOW.plus(TOKEN_LIFE),
            Some("n2".into()),
        )
        .expect("token")
    }

    #[test]
    fn a_token_reads_back_even_when_a_terminal_wrapped_it() {
        let token = token();
        let text = token.to_text().expect("text");
        assert!(text.starts_with("weft1."), "{text}");
        assert_eq!(text.parse(), Ok(token.clone()));
        let (a, b) = text.split_at(60);
        assert_eq!(format!("  {a}\n   {b}\r\n").parse(), Ok(token));
    }

    #[test]
    fn a_truncated_token_says_so_wherever_it_was_cut() {
        let text = token().to_text().expect("text");
        for cut in 1..text.len() {
            assert_eq!(text[..cut].parse::<JoinToken>(), Err(TokenError::Truncated), "{cut}");
        }
    }

    #[test]
    fn what_is_no_token_says_so() {
        for text in ["", "hello", "wefty.a.b", ".", "..", "weft-1.a.b", "1.2.3", "WEFT1.a.b"] {
            assert_eq!(text.parse::<JoinToken>(), Err(TokenError::NotAToken), "{text}");
        }
        let head = token().to_text().expect("text");
        assert_eq!(head[10..].parse::<JoinToken>(), Err(TokenError::NotAToken));
    }

    #[test]
    fn a_token_of_another_version_says_which() {
        let text = token().to_text().expect("text").replacen("weft1", "weft2", 1);
        assert_eq!(text.parse::<JoinToken>(), Err(TokenError::UnknownVersion("2".into())));
    }

    #[test]
    fn a_token_without_an_address_is_refused() {
        let text = JoinToken { addresses: vec![], ..token() }.to_text().expect("text");
        assert_eq!(text.parse::<JoinToken>(), Err(TokenError::Incomplete("address")));
    }

    #[test]
    fn a_token_is_good_for_one_join() {
        let token = token();
        let used = token.record().redeem(token.cluster, &token.secret, NOW).expect("first");
        assert_eq!(used.used_at, Some(NOW));
        let minute = Duration::from_secs(60);
        assert_eq!(
            used.redeem(token.cluster, &token.secret, NOW.plus(minute)),
            Err(TokenError::Reused { ago: minute })
        );
    }

    #[test]
    fn an_expired_token_is_refused() {
        let token = token();
        let second = Duration::from_secs(1);
        let record = token.record();
        assert!(record.redeem(token.cluster, &token.secret, token.expires_at).is_ok());
        assert_eq!(
            record.redeem(token.cluster, &token.secret, token.expires_at.plus(second)),
            Err(TokenError::Expired { ago: second })
        );
        assert!(token.check_not_expired(token.expires_at.plus(SKEW_MAX)).is_ok());
        assert!(token.check_not_expired(token.expires_at.plus(SKEW_MAX * 2)).is_err());
    }

    #[test]
    fn a_token_of_another_cluster_is_refused() {
        let token = token();
        let there = THERE.parse().expect("id");
        assert_eq!(
            token.record().redeem(there, &token.secret, NOW),
            Err(TokenError::WrongCluster { token: there, here: token.cluster })
        );
    }

    #[test]
    fn another_secret_is_refused() {
        let (a, b) = (token(), token());
        assert_ne!(a.secret, b.secret);
        assert_eq!(a.record().redeem(a.cluster, &b.secret, NOW), Err(TokenError::Unknown));
    }

    #[test]
    fn neither_a_token_nor_its_record_prints_the_secret() {
        let token = token();
        let record = token.record();
        assert!(format!("{token:?}").contains("JoinSecret(..)"));
        assert_eq!(record.secret_hash, Fingerprint::of(&token.secret.0));
        let secret = Fingerprint::from_bytes(token.secret.0).to_string();
        assert!(!format!("{record:?}{token:?}").contains(&secret));
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_refused_without_a_panic(text: String, body in "[A-Za-z0-9_-]{0,80}") {
            prop_assert!(text.parse::<JoinToken>().is_err());
            // Behind a right checksum too.
            let head = format!("weft1.{body}");
            let _ = format!("{head}.{}", checksum(&head)).parse::<JoinToken>();
            let other_end = format!("{head}.{text}").parse::<JoinToken>();
            prop_assert!(other_end.is_err());
        }

        #[test]
        fn a_changed_character_is_noticed(at: prop::sample::Index, to in "[A-Za-z0-9_.-]") {
            let text = token().to_text().expect("text");
            let at = at.index(text.len());
            prop_assume!(text[at..=at] != to);
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assert!(changed.parse::<JoinToken>().is_err());
        }
    }
}
