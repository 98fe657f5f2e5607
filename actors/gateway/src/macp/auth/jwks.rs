//! Where an issuer's keys come from, and how long they are kept (§5).
//!
//! Keys are fetched when a token needs them, by one caller at a time. Nobody waits for a refresh
//! while there are keys that may still be served.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use weft_wire::Clock;

use super::AuthError;
use super::fetch::{self, Url};
use super::keys::Keys;

/// Keys are served so long beyond their time if they cannot be had anew.
const STALE: Duration = Duration::from_secs(3600);
/// What failed is not tried again within this.
const RETRY: Duration = Duration::from_secs(5);
/// A token that names a key that is not there has keys fetched before their time, but not more
/// often than this: anybody can send such tokens.
const EARLY: Duration = Duration::from_secs(10);

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// They are given.
    Inline(String),
    /// A file, read again when its time is over.
    File(PathBuf),
    /// An address, `https` or `http`.
    Url(String),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("MACP_AUTH_JWKS_JSON"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

enum Origin {
    File(PathBuf),
    Url(Box<Url>),
}

/// The keys of one issuer.
pub(crate) struct Jwks {
    name: String,
    /// `None`: they never change.
    origin: Option<Origin>,
    ttl: Duration,
    kept: Mutex<Kept>,
    /// Held by whoever fetches.
    fetching: tokio::sync::Mutex<()>,
}

struct Kept {
    keys: Option<Arc<Keys>>,
    /// When they were read.
    read: Option<Instant>,
    /// When it was last tried, whatever became of it.
    tried: Option<Instant>,
}

impl Jwks {
    /// Keys of `source` are good for `ttl`. What is given or in a file is read at once.
    pub(crate) fn new(
        source: &KeySource,
        ttl: Duration,
        clock: &dyn Clock,
    ) -> Result<Self, AuthError> {
        let name = source.to_string();
        let wrong = |why| AuthError::Keys { origin: name.clone(), why };
        let read = |json: &[u8]| Keys::read(json).map(Arc::new).map_err(wrong);
        let (origin, keys) = match source {
            KeySource::Inline(json) => (None, Some(read(json.as_bytes())?)),
            KeySource::File(path) => {
                let json = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
                (Some(Origin::File(path.clone())), Some(read(&json)?))
            }
            KeySource::Url(url) => {
                let url = Url::new(url).map_err(wrong)?;
                (Some(Origin::Url(Box::new(url))), None)
            }
        };
        let now = keys.is_some().then(|| clock.now());
        let kept = Mutex::new(Kept { keys, read: now, tried: now });
        Ok(Self { name, origin, ttl, kept, fetching: tokio::sync::Mutex::default() })
    }

    /// The keys at present; `None`: they cannot be had.
    pub(crate) async fn keys(&self, clock: &dyn Clock) -> Option<Arc<Keys>> {
        let Some(origin) = &self.origin else { return self.kept.lock().keys.clone() };
        match self.usable(clock.now()) {
            (Some(keys), true) => return Some(keys),
            (Some(keys), false) => {
                let Ok(_one) = self.fetching.try_lock() else { return Some(keys) };
                self.refresh(origin, clock, RETRY).await;
            }
            (None, _) => {
                let _one = self.fetching.lock().await;
                if !matches!(self.usable(clock.now()), (Some(_), true)) {
                    self.refresh(origin, clock, RETRY).await;
                }
            }
        }
        self.usable(clock.now()).0
    }

    /// The keys, fetched before their time if none of them is called `kid`.
    pub(crate) async fn keys_with(&self, kid: &str, clock: &dyn Clock) -> Option<Arc<Keys>> {
        let keys = self.keys(clock).await?;
        let Some(origin) = self.origin.as_ref().filter(|_| !keys.has(kid)) else {
            return Some(keys);
        };
        let _one = self.fetching.lock().await;
        let (keys, _) = self.usable(clock.now());
        if keys.as_ref().is_some_and(|keys| keys.has(kid)) {
            return keys;
        }
        self.refresh(origin, clock, EARLY).await;
        self.usable(clock.now()).0
    }

    /// The keys that may be served at `now`, and whether their time is not over.
    fn usable(&self, now: Instant) -> (Option<Arc<Keys>>, bool) {
        let kept = self.kept.lock();
        let Some(read) = kept.read else { return (None, false) };
        let age = now.saturating_duration_since(read);
        let keys = kept.keys.clone().filter(|_| age <= self.ttl.saturating_add(STALE));
        (keys, age <= self.ttl)
    }

    /// Reads the keys anew unless that was tried within `since`. Only for the holder of `fetching`.
    async fn refresh(&self, origin: &Origin, clock: &dyn Clock, since: Duration) {
        let now = clock.now();
        {
            let mut kept = self.kept.lock();
            if kept.tried.is_some_and(|tried| now.saturating_duration_since(tried) < since) {
                return;
            }
            kept.tried = Some(now);
        }
        let read = match origin {
            Origin::File(path) => file(path).await,
            Origin::Url(url) => url.get().await,
        };
        let mut kept = self.kept.lock();
        // Whoever waited for this attempt is not to begin another.
        kept.tried = Some(clock.now());
        match read.and_then(|json| Keys::read(&json)) {
            Ok(keys) => {
                kept.keys = Some(Arc::new(keys));
                kept.read = kept.tried;
            }
            Err(why) => {
                tracing::warn!(from = %self.name, why, "the issuer's keys cannot be read: older ones are used while they may be");
            }
        }
    }
}

async fn file(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let most = u64::try_from(fetch::BODY).unwrap_or(u64::MAX);
    let mut json = Vec::new();
    file.take(most).read_to_end(&mut json).await.map_err(|error| error.to_string())?;
    Ok(json)
}

#[cfg(test)]
mod tests;
