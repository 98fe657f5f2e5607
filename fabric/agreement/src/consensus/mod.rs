//! Consensus by Raft, in groups (design §6): a name, voters, a deterministic machine.
//!
//! [`Consensus`] is what a node has once: `raft.db` with the logs and votes of all its groups and
//! one writer for them, `state.db` with their checkpoints. [`Group`] proposes, reads and watches.

mod campaign;
mod election;
mod engine;
mod fresh;
mod group;
mod propose;
#[cfg(test)]
mod tests;
mod voters;
mod wire;
mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::RwLock;
use weft_link::{Fabric, Reply};
use weft_store::{Store, StoreError};
use weft_wire::{AskError, Failure, FailureKind, Message, NodeId};

pub use group::Group;

use crate::door::Door;
use engine::{EngineError, Heart, OpenError};
use group::Inner;
use wire::{Append, AppendAnswer, AskHead, AskSupport, AskVote, Beats, Install};
use writer::LogWriter;

/// When a group's members give up on each other (design §6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it lives; also how long one small append may take before it
    /// is sent again, so longer than a round trip and a sync.
    pub heartbeat: Duration,
    /// Shortest wait, beyond the leader's lease, before standing for election against a leader that
    /// membership says is alive; also how long a vote may take.
    pub election_min: Duration,
    /// Longest; also the leader's lease: no vote is granted sooner after its last sign of life.
    pub election_max: Duration,
    /// A piece (1 MiB) of a checkpoint must be with a follower, and the last one installed, within.
    pub image_piece: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_secs(1),
            election_max: Duration::from_secs(2),
            image_piece: Duration::from_secs(30),
        }
    }
}

/// Settings of a node's consensus.
#[derive(Debug, Clone)]
pub struct ConsensusConfig {
    /// Where `raft.db` and `state.db` lie; it exists.
    pub data_dir: PathBuf,
    /// When members give up on each other.
    pub timing: Timing,
    /// A checkpoint is made after this many entries.
    pub checkpoint_every: u64,
    /// Entries kept below the last checkpoint, for followers that are behind.
    pub kept_behind: u64,
}

impl ConsensusConfig {
    /// With the timing of design §6, a checkpoint every 1000 entries and 1000 kept behind it.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            timing: Timing::default(),
            checkpoint_every: 1000,
            kept_behind: 1000,
        }
    }
}

/// A machine's state as bytes; the machine knows its versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Layout of the bytes.
    pub version: u16,
    /// The state.
    pub bytes: Vec<u8>,
}

/// Why a machine could not give or take an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MachineError(pub String);

/// What a group agrees on. Deterministic: the same entries make the same state on every node.
///
/// Methods run one at a time. A panic stops the group on this node until it is opened again.
pub trait Machine: Send + Sync + 'static {
    /// Applies the commands of one entry, in order, and answers each. `index` is the entry's.
    fn apply(&mut self, index: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>>;

    /// The whole state. Runs on a thread that may block; nothing is applied meanwhile.
    ///
    /// # Errors
    /// [`MachineError`]: no checkpoint now; the log grows until there is one.
    fn snapshot(&self) -> Result<Image, MachineError>;

    /// Replaces the whole state.
    ///
    /// # Errors
    /// [`MachineError`]: this node cannot take part in the group.
    fn restore(&mut self, image: &Image) -> Result<(), MachineError>;

    /// As [`Machine::apply`], of an entry of this node's disk that is not what was agreed on, where
    /// nobody else has it: this node alone decides. What can be told to be whole is applied, what
    /// cannot is put aside and named.
    ///
    /// # Errors
    /// [`MachineError`]: it cannot be told, and the group does not go on. So it is if nothing else
    /// is said.
    fn apply_damaged(&mut self, index: u64, _commands: &[Vec<u8>]) -> Result<(), MachineError> {
        Err(MachineError(format!("entry {index} of the log is damaged: a bit of it has changed")))
    }

    /// As [`Machine::restore`], of an image of this node's disk that is not what was written, where
    /// nobody else has it.
    ///
    /// # Errors
    /// As [`Machine::apply_damaged`].
    fn restore_damaged(&mut self, _image: &Image) -> Result<(), MachineError> {
        Err(MachineError("the checkpoint is damaged: a bit of it has changed".to_owned()))
    }

    /// Members as of the entry being applied; during a change the voters are those of both sets.
    fn membership_changed(&mut self, _voters: &BTreeSet<NodeId>, _learners: &BTreeSet<NodeId>) {}
}

/// What a node is to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decides.
    Leader,
    /// Votes and follows.
    Voter,
    /// Stands for election.
    Candidate,
    /// Follows, or is no member.
    Learner,
}

impl Role {
    /// The name in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        }
    }
}

/// A group as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Who leads, if this node knows.
    pub leader: Option<NodeId>,
    /// The election this is about.
    pub term: u64,
    /// What this node is.
    pub role: Role,
    /// Index of the last entry here; 0 if there is none.
    pub last_log: u64,
    /// How far the log is known to be committed.
    pub committed: u64,
    /// How far it is applied here.
    pub applied: u64,
    /// The last entry in the last checkpoint.
    pub checkpoint: u64,
    /// Who votes; while that changes, the voters before and after.
    pub voters: BTreeSet<NodeId>,
    /// The voters are being changed: both the earlier and the later ones have to agree until it is
    /// done.
    pub joint: bool,
    /// Who only follows.
    pub learners: BTreeSet<NodeId>,
    /// Leader only: how far each member holds the log.
    pub matched: BTreeMap<NodeId, u64>,
    /// Leader only: since a majority last acknowledged it, at the last change of this status.
    pub quorum_age: Option<Duration>,
    /// Follower only: when its leader was last heard.
    pub leader_seen: Option<Instant>,
    /// The group does not run here at present, and why; it is opened again by itself unless the
    /// machine is at fault.
    pub failed: Option<String>,
}

/// A command that was agreed on and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// The entry it is in; commands of one entry share it.
    pub index: u64,
    /// The machine's answer.
    pub answer: Vec<u8>,
}

/// Why a command was not agreed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Ask the leader. The command was not and will not be applied.
    #[error("not the leader of the group{}", leader.map(|id| format!(": ask {id}")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// No majority answered in time. The command may still be applied.
    #[error("no majority of the group's voters answered in time")]
    NoQuorum,
    /// It will not be done, and why. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Too many proposals wait. The command was not and will not be applied.
    #[error("overloaded: too many proposals wait for group `{0}`")]
    Overloaded(String),
    /// No space left on this node's disk. The command may still be applied if others hold it.
    #[error("{0}")]
    Full(String),
    /// This node's storage or the machine failed. The command may still be applied.
    #[error("{0}")]
    Storage(String),
    /// The group has been stopped. The command may still be applied.
    #[error("the group has been stopped")]
    Stopped,
}

/// Why consensus or a group cannot be opened or did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsensusError {
    /// A database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The machine cannot take its checkpoint.
    #[error("group `{group}`: {source}")]
    Machine {
        /// The group.
        group: String,
        /// Why not.
        source: MachineError,
    },
    /// It is open already.
    #[error("group `{0}` is open already")]
    AlreadyOpen(String),
    /// The replica does not run or will not do it.
    #[error("group `{group}`: {cause}")]
    Failed {
        /// The group.
        group: String,
        /// Why.
        cause: String,
    },
    /// It has been stopped.
    #[error("consensus has been stopped")]
    Stopped,
}

type Groups = Arc<RwLock<HashMap<String, Arc<Inner>>>>;

/// All groups of a node. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    config: Arc<ConsensusConfig>,
    fabric: Fabric,
    door: Door,
    heart: Heart,
    writer: LogWriter,
    checkpoints: Store,
    groups: Groups,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("groups", &self.groups.read().len()).finish()
    }
}

impl Consensus {
    /// Opens the databases and serves peers from now on; their messages wait for
    /// [`Consensus::group`]. Tasks run on the present tokio runtime.
    ///
    /// # Errors
    /// [`ConsensusError::Store`].
    pub async fn open(
        config: ConsensusConfig,
        fabric: Fabric,
        door: &Door,
    ) -> Result<Self, ConsensusError> {
        let writer = LogWriter::open(&config.data_dir).await?;
        let checkpoints = engine::open_checkpoints(&config.data_dir).await?;
        let this = Self {
            heart: Heart::new(fabric.clone(), config.timing.heartbeat),
            config: Arc::new(config),
            fabric,
            door: door.clone(),
            writer,
            checkpoints,
            groups: Groups::default(),
        };
        this.serve();
        Ok(this)
    }

    /// Opens a group: its machine is brought to the last checkpoint, and what is known to be
    /// committed is applied, before this returns.
    ///
    /// # Errors
    /// [`ConsensusError`].
    pub async fn group(
        &self,
        name: &str,
        machine: Box<dyn Machine>,
    ) -> Result<Group, ConsensusError> {
        self.open_group(name, machine, false).await
    }

    /// As [`Consensus::group`], where nobody else has what is on this node's disk, nor ever had
    /// more of it: what that has changed is for the machine to put aside
    /// ([`Machine::apply_damaged`]).
    ///
    /// # Errors
    /// [`ConsensusError`].
    pub async fn group_alone(
        &self,
        name: &str,
        machine: Box<dyn Machine>,
    ) -> Result<Group, ConsensusError> {
        self.open_group(name, machine, true).await
    }

    async fn open_group(
        &self,
        name: &str,
        machine: Box<dyn Machine>,
        alone: bool,
    ) -> Result<Group, ConsensusError> {
        if self.groups.read().contains_key(name) {
            return Err(ConsensusError::AlreadyOpen(name.to_owned()));
        }
        let log = engine::LogStore::open(self.writer.clone(), name).await?;
        let clock = self.fabric.clock();
        let opened =
            engine::MachineStore::open(self.checkpoints.clone(), name, machine, clock, alone);
        let machine = opened.await.map_err(|error| match error {
            OpenError::Store(error) => ConsensusError::Store(error),
            OpenError::Machine(source) => {
                ConsensusError::Machine { group: name.to_owned(), source }
            }
        })?;
        let way = (self.fabric.clone(), self.heart.clone());
        let inner = Inner::open(name, self.config.clone(), way, log, machine).await?;
        let earlier = {
            let mut groups = self.groups.write();
            match groups.contains_key(name) {
                true => true,
                false => {
                    groups.insert(name.to_owned(), inner.clone());
                    false
                }
            }
        };
        if earlier {
            inner.stop().await;
            return Err(ConsensusError::AlreadyOpen(name.to_owned()));
        }
        Ok(Group::new(inner))
    }

    /// Transactions of all groups' log synced to disk since it was opened.
    pub fn syncs(&self) -> u64 {
        self.writer.syncs()
    }

    /// Messages with heartbeats of several groups sent since it was opened.
    pub fn beats(&self) -> usize {
        self.heart.sent()
    }

    /// Refuses to let the log grow beyond about `bytes`, until called again; see
    /// [`Store::limit_size`]. For tests of a full disk.
    ///
    /// # Errors
    /// [`ConsensusError::Store`].
    pub async fn limit_log(&self, bytes: u64) -> Result<(), ConsensusError> {
        Ok(self.writer.store().limit_size(bytes).await?)
    }

    /// Stops all groups, writes what is left and closes the databases.
    pub async fn stop(&self) {
        self.door.forget::<AskSupport>();
        self.door.forget::<AskVote>();
        self.door.forget::<Append>();
        self.door.forget::<Beats>();
        self.door.forget::<Install>();
        self.door.forget::<AskHead>();
        let groups: Vec<_> = self.groups.write().drain().map(|(_, group)| group).collect();
        for group in groups {
            group.stop().await;
        }
        self.writer.close().await;
        self.checkpoints.close().await;
    }

    fn serve(&self) {
        let groups = self.groups.clone();
        self.door.serve::<AskVote>(move |ask, reply| {
            let candidate = ask.vote.node;
            handle(&groups, &ask.group.clone(), candidate, reply, |group| async move {
                let answer = group.engine()?.on_vote(ask).await?;
                if answer.granted {
                    group.grants(candidate);
                }
                Ok(answer)
            });
        });
        let groups = self.groups.clone();
        self.door.serve::<AskSupport>(move |ask, reply| {
            let candidate = ask.candidate;
            handle(&groups, &ask.group.clone(), candidate, reply, |group| async move {
                Ok(campaign::answer(&group, &ask))
            });
        });
        let groups = self.groups.clone();
        self.door.serve::<Append>(move |append, reply| {
            let leader = append.vote.node;
            handle(&groups, &append.group.clone(), leader, reply, |group| async move {
                group.append(append).await
            });
        });
        let groups = self.groups.clone();
        self.door.serve::<Beats>(move |beats, reply| {
            let from = reply.meta().from;
            let own = |beat: &Append| from.is_none_or(|from| from == beat.vote.node);
            if !beats.beats.iter().all(own) {
                let text = "a heartbeat in another node's name";
                return reply.fail(Failure::new(FailureKind::Forbidden, text));
            }
            let groups = groups.clone();
            tokio::spawn(async move {
                let answers = beats.beats.into_iter().map(|beat| {
                    let group = groups.read().get(&beat.group).cloned();
                    async move { group?.append(beat).await.ok() }
                });
                let answers: Vec<Option<AppendAnswer>> = join_all(answers).await;
                reply.ok(answers);
            });
        });
        let groups = self.groups.clone();
        let own = self.fabric.node();
        self.door.serve::<AskHead>(move |ask, reply| {
            let asker = reply.meta().from.unwrap_or(own);
            handle(&groups, &ask.group, asker, reply, |group| async move { group.head().await });
        });
        let groups = self.groups.clone();
        self.door.serve::<Install>(move |piece, reply| {
            let leader = piece.vote.node;
            handle(&groups, &piece.group.clone(), leader, reply, |group| async move {
                if piece.offset == 0 {
                    tracing::info!(group = group.name(), "an image of the leader arrives");
                }
                let vote = piece.vote;
                let answer = group.engine()?.on_install(piece).await?;
                group.heard_by_image(&vote, &answer);
                Ok(answer)
            });
        });
    }
}

/// Finds the group and answers from a task of its own.
fn handle<M, F>(
    groups: &Groups,
    name: &str,
    speaker: NodeId,
    reply: Reply<M>,
    work: impl FnOnce(Arc<Inner>) -> F,
) where
    M: Message,
    F: Future<Output = Result<M::Reply, EngineError>> + Send + 'static,
{
    // A peer speaks for itself only.
    if reply.meta().from.is_some_and(|from| from != speaker) {
        let text = "a vote, append or image in another node's name";
        return reply.fail(Failure::new(FailureKind::Forbidden, text));
    }
    let Some(group) = groups.read().get(name).cloned() else {
        let text = format!("group `{name}` is not open here");
        return reply.result(Err(AskError::NotFound(text)));
    };
    let work = work(group);
    tokio::spawn(async move {
        match work.await {
            Ok(answer) => reply.ok(answer),
            Err(error) => {
                let text = match error {
                    EngineError::Down(text) | EngineError::Refused(text) => text,
                    EngineError::NotLeader(_) | EngineError::NoQuorum => "cannot now".to_owned(),
                };
                reply.fail(Failure::new(FailureKind::Unavailable, text));
            }
        }
    });
}
