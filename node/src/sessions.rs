//! MACP sessions on this node: who listens, and what keeps them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_agreement::Consensus;
use weft_config::macp::{MacpSettings, TokenSource};
use weft_gateway::{Auth, MacpConfig, MacpFace};
use weft_session_actor::{Modes, Owned, Owners};
use weft_wire::Clock;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The first group of sessions; so far the only one.
const FIRST: &str = "session/0";
/// A node of a cluster lets clients finish for so long when it stops: its peers wait for it.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

/// Binds what the settings say; `remembered` is the address of the last run.
pub(crate) fn listen(
    settings: &MacpSettings,
    remembered: Option<SocketAddr>,
) -> Result<MacpFace, Failed> {
    let read = |what: &str, path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|error| format!("cannot read {what} {}: {error}", path.display()))
    };
    let tls = match &settings.tls {
        Some((certificate, key)) => Some((
            read("the certificate of MACP sessions", certificate)?,
            read("the key of MACP sessions", key)?,
        )),
        None => None,
    };
    let auth = match &settings.tokens {
        Some(TokenSource::Inline(json)) => Auth::tokens("MACP_AUTH_TOKENS_JSON", json)?,
        Some(TokenSource::File(path)) => {
            let json = read("the tokens of MACP clients", path)?;
            Auth::tokens(&path.display().to_string(), &String::from_utf8_lossy(&json))?
        }
        None => Auth::Development { sender_header: settings.dev_sender_header },
    };
    if let Auth::Development { .. } = auth {
        tracing::warn!("MACP sessions: nobody is authenticated; whoever connects is whom they say");
    }
    if settings.memory_only {
        tracing::warn!("MACP sessions are kept in memory only: they end with this daemon");
    }
    let config = MacpConfig {
        payload_max: settings.payload_max,
        starts_per_minute: settings.starts_per_minute,
        messages_per_minute: settings.messages_per_minute,
        page_default: settings.page_default,
        page_max: settings.page_max,
        per_connection: usize::try_from(settings.per_connection).unwrap_or(usize::MAX),
        streams: settings.streams,
        request_timeout: settings.request_timeout,
        runtime_id: settings.runtime_id.clone(),
        tls,
        ..MacpConfig::new(auth.max_open_sessions(settings.max_open_sessions))
    };
    let remembered =
        remembered.filter(|known| settings.bind.port() == 0 && known.ip() == settings.bind.ip());
    if let Some(known) = remembered
        && let Ok(face) = MacpFace::bind(known, config.clone())
    {
        return Ok(face);
    }
    MacpFace::bind(settings.bind, config).map_err(|error| {
        format!("cannot serve MACP sessions on {} (tcp): {error}; change MACP_BIND_ADDR or `[sessions] bind`, or stop what uses the port", settings.bind).into()
    })
}

/// What keeps sessions; it outlives the actor's incarnations.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) owners: Owners,
    pub(crate) modes: Modes,
}

impl Kept {
    /// Sessions in memory only.
    pub(crate) fn in_memory(clock: Arc<dyn Clock>) -> Self {
        let modes = Modes::default();
        Self { owners: Owners::one(Owned::new(FIRST, modes.clone(), clock)), modes }
    }

    /// Sessions in the log of `consensus`. The first node of a cluster begins the groups; so far it
    /// alone holds them.
    pub(crate) async fn agreed(
        consensus: &Consensus,
        clock: Arc<dyn Clock>,
        first: bool,
    ) -> Result<Self, Failed> {
        let modes = Modes::default();
        let owned = Owned::new(FIRST, modes.clone(), clock);
        let catalogue = consensus.group(Modes::GROUP, modes.machine()).await?;
        let group = consensus.group(FIRST, owned.machine()).await?;
        if !first {
            tracing::warn!(
                "MACP sessions live on the first node of a cluster so far: this node refuses them"
            );
        }
        if first {
            catalogue.bootstrap().await?;
            group.bootstrap().await?;
        }
        modes.agree_by(catalogue);
        owned.agree_by(group);
        Ok(Self { owners: Owners::one(owned), modes })
    }
}
