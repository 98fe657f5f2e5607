//! Who is there: SWIM over the links, and daemon loss told from node loss (design §6).
//!
//! `swim` (foca) and `peer` (the verdict on one node) make up `machine`, which is pure; `shell`
//! gives it a clock, the fabric, and the hosts to probe.
//!
//! The verdict: a member that is silent is `Suspect`, and its host is probed at once. Dead by SWIM
//! and the host refuses: `DaemonDown`, until it is back, its host goes silent, or the grace is
//! over. Dead, and the host silent (or up, with the daemon's port still open): `Lost`. `Lost`
//! becomes `Alive` at once when it is heard again, unless it flaps: who was lost three times within
//! 60 s stays `Lost` until it was alive for 30 s without a break.

mod host;
mod life;
mod machine;
mod peer;
mod shell;
mod swim;
mod times;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use weft_link::Fabric;
use weft_wire::NodeId;

use crate::door::Door;
use times::Times;

pub use times::Profile;

/// A daemon that is down while its host is up counts as lost after this long.
pub const DAEMON_GRACE: Duration = Duration::from_secs(15);

/// What membership is made of.
#[derive(Debug, Clone)]
pub struct MembershipConfig {
    /// Where `membership.json` is: the incarnation, raised at each start.
    pub data_dir: PathBuf,
    /// How patient it is.
    pub profile: Profile,
    /// A silent daemon whose host is up counts as lost this long after its silence began.
    pub daemon_grace: Duration,
}

impl MembershipConfig {
    /// With [`DAEMON_GRACE`].
    pub fn new(data_dir: impl Into<PathBuf>, profile: Profile) -> Self {
        Self { data_dir: data_dir.into(), profile, daemon_grace: DAEMON_GRACE }
    }
}

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It does not answer, or was never heard of yet: to be decided shortly.
    Suspect,
    /// Silent, but its host says that the daemon's port is closed: its components are most likely
    /// alive.
    DaemonDown,
    /// It said that it would be back, and has time left.
    Away,
    /// Silent, and its host is silent too; or its daemon was down for too long; or it flaps.
    Lost,
    /// It said that it left for good.
    Left,
}

/// One node, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: NodeId,
    /// Whether it is there.
    pub liveness: Liveness,
    /// Since when, by this node's monotonic clock.
    pub since: Instant,
    /// Rises at each start of its daemon, and when it was taken for dead; 0: not known yet.
    pub incarnation: u64,
    /// When it means to be back, while it is away.
    pub back_by: Option<Instant>,
}

/// Every known node, this one (always alive) included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members(BTreeMap<NodeId, Member>);

impl Members {
    /// That node, if it is known.
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.0.get(&id)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.values()
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is; never so for what membership gives out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that node is known and alive.
    pub fn is_alive(&self, id: NodeId) -> bool {
        self.get(id).is_some_and(|member| member.liveness == Liveness::Alive)
    }
}

impl FromIterator<Member> for Members {
    fn from_iter<I: IntoIterator<Item = Member>>(members: I) -> Self {
        Self(members.into_iter().map(|member| (member.id, member)).collect())
    }
}

/// Why membership does not start.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The incarnation cannot be kept.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no tokio runtime to run on.
    #[error("membership was started outside of a tokio runtime")]
    NoRuntime,
}

/// A handle to this node's membership. Cheap to clone. Without handles it ends, silently.
#[derive(Debug, Clone)]
pub struct Membership {
    members: watch::Receiver<Arc<Members>>,
    known: Arc<watch::Sender<Vec<NodeId>>>,
    stop: mpsc::Sender<shell::Stop>,
}

impl Membership {
    /// Begins a new life of this node. Nobody is known until [`Membership::set_known`].
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn start(
        config: MembershipConfig,
        fabric: Fabric,
        door: &Door,
    ) -> Result<Self, MembershipError> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| MembershipError::NoRuntime)?;
        let incarnation = life::begin(&config.data_dir, fabric.clock().wall())?;
        let times = Times::of(config.profile, config.daemon_grace);
        Ok(shell::start(&runtime, fabric, door, incarnation, times))
    }

    /// Every known node, and whether it is there.
    pub fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }

    /// As [`Membership::members`], with every change of a liveness or an incarnation. A slow
    /// reader sees the last value only; its `since` are right all the same.
    pub fn watch(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// Tells which nodes the cluster has, from agreed state. This node announces itself to those
    /// that do not know it; anyone else is ignored; those that vanish from it are forgotten.
    pub fn set_known(&self, nodes: Vec<NodeId>) {
        self.known.send_if_modified(|known| {
            let news = *known != nodes;
            *known = nodes;
            news
        });
    }

    /// Tells everybody that this node's daemon stops, and ends membership. `Some`: it means to be
    /// back within that time (at most 24 h), and is shown as away until then. `None`: it leaves
    /// for good. Takes at most a second, however many do not answer.
    pub async fn stop(&self, back_in: Option<Duration>) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.stop.send(shell::Stop { back_in, done }).await.is_ok() {
            let _ = wait.await;
        }
    }
}
