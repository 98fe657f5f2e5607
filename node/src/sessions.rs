//! MACP sessions on this node: who listens, and what keeps them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use weft_agreement::{Consensus, ConsensusError, Group};
use weft_config::macp::{JwksSource, MacpSettings, ReceiptSettings, SigningKey, TokenSource};
use weft_gateway::{
    Auth, AuthError, Certificates, Jwt, JwtConfig, KeySource, KeyText, MacpConfig, MacpFace,
    MacpTokens, ReceiptKeys,
};
use weft_link::{Call, Fabric};
use weft_protocol::NeedGroup;
use weft_registry::{Control, Others, Spread, Tended};
use weft_session_actor::{Archive, Modes, Owned, Owners, group_name};
use weft_store::Store;
use weft_wire::{ActorKind, Address, Backoff, Clock, NodeId, SystemClock};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A new group waits so long for the voter that is to lead it first.
const FIRST_LEADER: Duration = Duration::from_secs(2);
/// The cluster has so long to found a group, before it is asked again.
const FOUND: Duration = Duration::from_secs(10);
const AGAIN: Backoff =
    Backoff { base: Duration::from_millis(50), max: Duration::from_secs(5), jitter: 0.2 };
/// A node that serves no sessions holds copies of those that have ended so long in memory.
pub(crate) const RETENTION: Duration = Duration::from_secs(3600);
/// A node of a cluster lets clients finish for so long when it stops: its peers wait for it.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

/// Binds what the settings say; `remembered` is the address of the last run, `certificates` who is
/// believed by certificate if the settings allow that.
pub(crate) fn listen(
    settings: &MacpSettings,
    remembered: Option<SocketAddr>,
    certificates: Option<Arc<dyn Certificates>>,
) -> Result<MacpFace, Failed> {
    let tls = match &settings.tls {
        Some((certificate, key)) => Some((
            read("the certificate of MACP sessions", certificate)?,
            read("the key of MACP sessions", key)?,
        )),
        None => None,
    };
    let tokens = match &settings.tokens {
        Some(TokenSource::Inline(json)) => Some(MacpTokens::read("MACP_AUTH_TOKENS_JSON", json)?),
        Some(TokenSource::File(path)) => {
            let json = read("the tokens of MACP clients", path)?;
            let json = String::from_utf8_lossy(&json);
            Some(MacpTokens::read(&path.display().to_string(), &json)?)
        }
        None => None,
    };
    let certificates = certificates.filter(|_| settings.client_certificates);
    let auth = match (jwt(settings)?, tokens) {
        (None, None) if certificates.is_none() => Auth::development(settings.dev_sender_header),
        (jwt, tokens) => Auth::bearer(jwt, tokens).certificates(certificates),
    };
    if auth.is_development() {
        tracing::warn!("MACP sessions: nobody is authenticated; whoever connects is whom they say");
    }
    for name in &settings.without_effect {
        tracing::warn!("MACP sessions: {name} has no effect here");
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
        receipts: receipts(&settings.receipts)?,
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

fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {what} {}: {error}", path.display()))
}

/// Checks JSON Web Tokens, if an issuer is set.
fn jwt(settings: &MacpSettings) -> Result<Option<Jwt>, AuthError> {
    let Some(jwt) = &settings.jwt else { return Ok(None) };
    let keys = match &jwt.keys {
        JwksSource::Inline(json) => KeySource::Inline(json.clone()),
        JwksSource::File(path) => KeySource::File(path.clone()),
        JwksSource::Url(url) => KeySource::Url(url.clone()),
    };
    let config = JwtConfig {
        issuer: jwt.issuer.clone(),
        audience: jwt.audience.clone(),
        algorithms: jwt.algorithms.clone(),
        keys,
        ttl: jwt.ttl,
    };
    Jwt::new(config, &SystemClock).map(Some)
}

/// What receipts are signed with, if they are.
fn receipts(settings: &ReceiptSettings) -> Result<ReceiptKeys, Failed> {
    let file = |what: &str, path: &Path| {
        let text = String::from_utf8_lossy(&read(what, path)?).into_owned();
        Ok::<_, Failed>(KeyText { origin: path.display().to_string(), text })
    };
    let key = match &settings.key {
        Some(SigningKey::Inline(text)) => {
            let origin = "MACP_RECEIPT_SIGNING_KEY".to_owned();
            Some(KeyText { origin, text: text.clone() })
        }
        Some(SigningKey::File(path)) => Some(file("the key that signs receipts", path)?),
        None => None,
    };
    let retired = match &settings.retired {
        Some(path) => Some(file("the public keys of receipts", path)?),
        None => None,
    };
    let kid = settings.kid.as_deref();
    Ok(ReceiptKeys::new(key.as_ref(), kid, retired.as_ref())?)
}

/// Modes and policies as they are at the start: those of files, if a directory is named.
pub(crate) fn modes(settings: &MacpSettings) -> Result<Modes, String> {
    let modes = if settings.memory_only { Modes::default() } else { Modes::agreed() };
    match &settings.policies {
        Some(dir) => {
            modes.with_policies(dir).map_err(|error| format!("MACP_POLICIES_DIR: {error}"))
        }
        None => Ok(modes),
    }
}

/// What keeps sessions; it outlives the actor's incarnations.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) owners: Owners,
    pub(crate) modes: Modes,
    clock: Arc<dyn Clock>,
    /// The file of ended sessions, and when they go there.
    archive: Option<Store>,
    retention: Duration,
}

impl Kept {
    /// Sessions that end with this daemon, and are forgotten `retention` after their start.
    pub(crate) fn in_memory(modes: Modes, clock: Arc<dyn Clock>, retention: Duration) -> Self {
        let archive = Archive::none(retention);
        let group = Owned::new(&group_name(0), modes.clone(), clock.clone(), archive);
        let owners = Owners::one(group, modes.clone());
        Self { owners, modes, clock, archive: None, retention }
    }

    /// Sessions that are agreed on once their groups are open. Those that have ended go to a file
    /// in `dir`, `retention` after their start at the latest.
    pub(crate) async fn agreed(
        modes: Modes,
        clock: Arc<dyn Clock>,
        dir: &Path,
        retention: Duration,
    ) -> Result<Self, Failed> {
        let store = Archive::file(dir).await?;
        let name = group_name(0);
        let archive = Archive::open(store.clone(), &name, retention).await?;
        let group = Owned::agreed(&name, modes.clone(), clock.clone(), archive);
        let owners = Owners::one(group, modes.clone());
        Ok(Self { owners, modes, clock, archive: Some(store), retention })
    }

    /// Opens the groups in the log of `consensus`, of which this node is all there is.
    pub(crate) async fn open_alone(&self, consensus: &Consensus) -> Result<(), Failed> {
        self.open_modes(consensus).await?.bootstrap().await?;
        // Only a cluster has more, which a node that was one may have been in.
        let count = *self.modes.groups().borrow();
        for number in 0..count {
            self.open(consensus, number, true).await?.bootstrap().await?;
        }
        Ok(())
    }

    /// Opens the group of modes and policies, if it is not open already.
    async fn open_modes(&self, consensus: &Consensus) -> Result<Group, ConsensusError> {
        if let Some(group) = self.modes.group() {
            return Ok(group);
        }
        let group = consensus.group(Modes::GROUP, self.modes.machine()).await?;
        self.modes.agree_by(group.clone());
        Ok(group)
    }

    /// Opens the group of sessions with that number, of which all with a lower one are open, if it
    /// is not open already.
    /// `alone`: nobody else has what is on this node's disk.
    async fn open(&self, consensus: &Consensus, number: u8, alone: bool) -> Result<Group, Failed> {
        let name = group_name(number);
        let known = self.owners.all().get(usize::from(number)).cloned();
        let owned = match known {
            Some(owned) => owned,
            None => {
                let archive = match &self.archive {
                    Some(store) => Archive::open(store.clone(), &name, self.retention).await?,
                    None => Archive::none(self.retention),
                };
                let (modes, clock) = (self.modes.clone(), self.clock.clone());
                let owned = Owned::agreed(&name, modes, clock, archive);
                // Before anything can happen in it: who watches all groups misses nothing.
                self.owners.add(owned.clone());
                owned
            }
        };
        if let Some(group) = owned.group() {
            return Ok(group);
        }
        let group = match alone {
            true => consensus.group_alone(&name, owned.machine()).await?,
            false => consensus.group(&name, owned.machine()).await?,
        };
        owned.agree_by(group.clone());
        Ok(group)
    }
}

/// The groups of sessions on a node of a cluster. All nodes hold them as soon as one serves
/// sessions.
#[derive(Clone)]
pub(crate) struct Groups {
    pub(crate) kept: Kept,
    consensus: Consensus,
    control: Control,
    others: Others,
    node: NodeId,
    /// Those that could not be opened: what they had applied by then cannot be applied again.
    failed: Arc<Mutex<BTreeSet<String>>>,
}

impl Groups {
    pub(crate) fn new(
        kept: Kept,
        consensus: Consensus,
        control: Control,
        others: Others,
        node: NodeId,
    ) -> Self {
        Self { kept, consensus, control, others, node, failed: Arc::default() }
    }

    /// Opens those that the cluster has, modes and policies first, which say how many there are;
    /// the name of the first that it lacks.
    pub(crate) async fn open(&self) -> Result<Option<String>, Failed> {
        if let Some(lacks) = self.open_one(None).await? {
            return Ok(Some(lacks));
        }
        let count = *self.kept.modes.groups().borrow();
        let mut failed = None;
        for number in 0..count {
            match self.open_one(Some(number)).await {
                Ok(None) => {}
                Ok(lacks) => return Ok(lacks),
                // The next ones may be whole.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Opens that of modes and policies, or the one of sessions with a number; its name, if the
    /// cluster has none.
    async fn open_one(&self, number: Option<u8>) -> Result<Option<String>, Failed> {
        let name = number.map_or_else(|| Modes::GROUP.to_owned(), group_name);
        if self.others.has(&name) || self.failed.lock().contains(&name) {
            return Ok(None);
        }
        let Some(record) = self.control.read().group(&name).cloned() else {
            return Ok(Some(name));
        };
        let alone = self.control.read().nodes().len() < 2;
        let opened = match number {
            None => self.kept.open_modes(&self.consensus).await.map_err(Failed::from),
            Some(number) => self.kept.open(&self.consensus, number, alone).await,
        };
        if opened.is_err() {
            self.failed.lock().insert(name.clone());
        }
        let group = opened?;
        let voters: BTreeSet<NodeId> = record.voters.into_iter().collect();
        if voters.contains(&self.node) {
            // Whoever founds a group leads it: each another one, as long as all are there.
            let first = usize::from(number.unwrap_or(0)) % voters.len();
            if group.is_empty() && voters.iter().nth(first) != Some(&self.node) {
                tokio::spawn(found_later(group.clone(), voters));
            } else {
                group.found(voters).await?;
            }
        }
        tracing::info!(group = name, "sessions: the group is open here");
        let spread = if number.is_some() { Spread::Copied } else { Spread::Everywhere };
        self.others.add(Tended { group, spread });
        Ok(None)
    }

    /// Opens all of them as soon as the cluster has them, and those that are added; where sessions
    /// are served, has the cluster found them. Never ends.
    pub(crate) async fn tend(self, fabric: Fabric, serves: bool) {
        let mut head = self.control.head();
        let mut groups = self.kept.modes.groups();
        let mut attempt = 0u32;
        loop {
            head.borrow_and_update();
            groups.borrow_and_update();
            let lacks = match self.open().await {
                Ok(None) => {
                    attempt = 0;
                    if groups.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(lacks) => lacks,
                Err(error) => {
                    tracing::error!(%error, "a group of sessions is not opened: mend it and start weftd again");
                    None
                }
            };
            let wanted = lacks.filter(|_| serves && !self.control.read().is_empty());
            if let Some(name) = wanted {
                let to = Address::here(ActorKind::Registry);
                let need = NeedGroup { name: name.clone() };
                match fabric.ask(to, need, Call::within(FOUND)).await {
                    // It is on its way here.
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, group = name, "not founded yet"),
                }
            }
            let pause = AGAIN.delay(attempt.min(16), 0.5);
            attempt = attempt.saturating_add(1);
            let _ = tokio::time::timeout(pause, head.changed()).await;
        }
    }
}

/// Founds a group if the voter that is to has not done so in time.
async fn found_later(group: Group, voters: BTreeSet<NodeId>) {
    let mut status = group.watch();
    let founded = status.wait_for(|now| !now.voters.is_empty());
    if tokio::time::timeout(FIRST_LEADER, founded).await.is_err()
        && let Err(error) = group.found(voters).await
    {
        tracing::warn!(%error, "a group of sessions is not founded");
    }
}
