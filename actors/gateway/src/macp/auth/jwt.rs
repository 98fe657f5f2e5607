//! JSON Web Tokens (RFC 7519) of one issuer, with a signature that one of its keys made.
//!
//! A token says how it is signed; what counts is the list of algorithms that are allowed, and that
//! each key is good for one of them only.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use weft_session::Rights;
use weft_wire::Clock;

use super::base64url::unbase64url;
use super::jwks::{Jwks, KeySource};
use super::keys::{Algorithm, Keys};
use super::{AuthError, Scopes};

/// Longest token, in bytes.
const TOKEN: usize = 16 * 1024;
/// Clocks may differ by so many seconds (§5).
const LEEWAY: f64 = 60.0;

/// Whose tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or have.
    pub audience: String,
    /// Names of the algorithms allowed: RS256, ES256, EdDSA, HS256.
    pub algorithms: Vec<String>,
    /// Its keys.
    pub keys: KeySource,
    /// Keys from a file or an address are read again after this.
    pub ttl: Duration,
}

/// Checks tokens of an issuer. Cheap to clone.
#[derive(Clone)]
pub struct Jwt(Arc<Inner>);

struct Inner {
    rules: Rules,
    jwks: Jwks,
}

/// What a token must say.
struct Rules {
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jwt({})", self.0.rules.issuer)
    }
}

/// Why a token is not taken; for the log, clients are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it is not a signed JSON Web Token")]
    Shape,
    #[error("its algorithm is not allowed")]
    Algorithm,
    #[error("it asks for an extension that is not known")]
    Critical,
    #[error("the issuer's keys cannot be had")]
    NoKeys,
    #[error("no key of the issuer made its signature")]
    Signature,
    #[error("its claims cannot be read, or lack one that is needed")]
    Claims,
    #[error("it is of another issuer")]
    Issuer,
    #[error("it is for another audience")]
    Audience,
    #[error("its time is over")]
    Expired,
    #[error("its time has not begun")]
    Early,
}

/// A token whose parts are read and whose signature is not checked yet.
struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// What is signed.
    input: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    /// Seconds since the Unix epoch, fractions allowed.
    exp: f64,
    nbf: Option<f64>,
    macp_scopes: Option<Scopes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Jwt {
    /// Reads the keys, unless they are at an address: those are fetched when a token needs them.
    ///
    /// # Errors
    /// [`AuthError::Algorithm`] and [`AuthError::Keys`].
    pub fn new(config: JwtConfig, clock: &dyn Clock) -> Result<Self, AuthError> {
        let known =
            |name: &String| Algorithm::of(name).ok_or_else(|| AuthError::Algorithm(name.clone()));
        let algorithms = config.algorithms.iter().map(known).collect::<Result<_, _>>()?;
        let jwks = Jwks::new(&config.keys, config.ttl, clock)?;
        let rules = Rules { issuer: config.issuer, audience: config.audience, algorithms };
        Ok(Self(Arc::new(Inner { rules, jwks })))
    }

    /// What the holder of a token may do.
    pub(crate) async fn rights(&self, token: &str, clock: &dyn Clock) -> Result<Rights, Refused> {
        let Inner { rules, jwks } = &*self.0;
        let token = rules.token(token)?;
        let keys = match &token.kid {
            Some(kid) => jwks.keys_with(kid, clock).await,
            None => jwks.keys(clock).await,
        };
        let keys = keys.ok_or(Refused::NoKeys)?;
        rules.rights(&token, &keys, clock)
    }
}

impl Rules {
    fn token<'a>(&self, text: &'a str) -> Result<Token<'a>, Refused> {
        let (input, signature) = text.rsplit_once('.').ok_or(Refused::Shape)?;
        let (header, claims) = input.split_once('.').ok_or(Refused::Shape)?;
        if text.len() > TOKEN || claims.contains('.') {
            return Err(Refused::Shape);
        }
        let signature = unbase64url(signature).ok_or(Refused::Shape)?;
        let header = unbase64url(header).ok_or(Refused::Shape)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| Refused::Shape)?;
        let algorithm = Algorithm::of(&header.alg).filter(|alg| self.algorithms.contains(alg));
        let algorithm = algorithm.ok_or(Refused::Algorithm)?;
        // Whoever made it wants it refused by those who do not know these extensions.
        if header.crit.is_some() {
            return Err(Refused::Critical);
        }
        Ok(Token { algorithm, kid: header.kid, input, claims, signature })
    }

    fn rights(&self, token: &Token<'_>, keys: &Keys, clock: &dyn Clock) -> Result<Rights, Refused> {
        let Token { algorithm, kid, input, claims, signature } = token;
        if !keys.verify(*algorithm, kid.as_deref(), input.as_bytes(), signature) {
            return Err(Refused::Signature);
        }
        let claims = unbase64url(claims).ok_or(Refused::Shape)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refused::Claims)?;
        if claims.iss != self.issuer {
            return Err(Refused::Issuer);
        }
        let is_ours = match &claims.aud {
            Audience::One(audience) => *audience == self.audience,
            Audience::Many(audiences) => audiences.contains(&self.audience),
        };
        if !is_ours {
            return Err(Refused::Audience);
        }
        if claims.sub.trim().is_empty() {
            return Err(Refused::Claims);
        }
        #[allow(clippy::cast_precision_loss, reason = "seconds of a date are exact in a double")]
        let now = clock.wall().as_micros().div_euclid(1_000_000) as f64;
        if now > claims.exp + LEEWAY {
            return Err(Refused::Expired);
        }
        if claims.nbf.is_some_and(|nbf| now + LEEWAY < nbf) {
            return Err(Refused::Early);
        }
        let scopes = claims.macp_scopes.unwrap_or_default();
        Ok(scopes.rights(claims.sub))
    }
}

#[cfg(test)]
mod tests;
