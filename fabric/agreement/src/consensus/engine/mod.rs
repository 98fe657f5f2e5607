//! The only module that names openraft: a running replica of one group, in our own terms.
//!
//! openraft 0.9 shuts a replica down for good when its storage fails; a new one is then started
//! over the same log and machine (see `group`).

mod beats;
mod log;
mod machine;
mod network;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    ChangeMembershipError, CheckIsLeaderError, ClientWriteError, Fatal, InitializeError,
    InstallSnapshotError, RaftError,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest,
};
use openraft::{ChangeMembers, Config, EmptyNode, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use weft_link::Fabric;
use weft_wire::NodeId;

use super::wire::{Append, AppendAnswer, AskVote, Commands, Install, InstallAnswer, VoteAnswer};
use super::{ConsensusConfig, Role};
pub(super) use beats::Heart;
pub(super) use log::LogStore;
pub(super) use machine::{MachineStore, OpenError, open_checkpoints};
use types::{RaftId, Types};

/// Why a replica did not do what was asked.
#[derive(Debug, Clone)]
pub(super) enum EngineError {
    NotLeader(Option<NodeId>),
    NoQuorum,
    Refused(String),
    /// The replica is down; the store or the machine says why.
    Down(String),
}

impl From<Fatal<RaftId>> for EngineError {
    fn from(fatal: Fatal<RaftId>) -> Self {
        Self::Down(fatal.to_string())
    }
}

impl From<RaftError<RaftId, ClientWriteError<RaftId, EmptyNode>>> for EngineError {
    fn from(error: RaftError<RaftId, ClientWriteError<RaftId, EmptyNode>>) -> Self {
        match error {
            RaftError::Fatal(fatal) => fatal.into(),
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                Self::NotLeader(to.leader_id.map(Into::into))
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                Self::Refused(match error {
                    ChangeMembershipError::InProgress(_) => {
                        "the members are being changed already: try again when that is done".into()
                    }
                    ChangeMembershipError::EmptyMembership(_) => {
                        "a group needs at least one voter".into()
                    }
                    ChangeMembershipError::LearnerNotFound(error) => {
                        format!("{} is not a member yet: add it as a learner first", error.node_id)
                    }
                })
            }
        }
    }
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) leader: Option<NodeId>,
    pub(super) term: u64,
    pub(super) role: Role,
    pub(super) last_log: Option<u64>,
    pub(super) applied: Option<u64>,
    pub(super) checkpoint: Option<u64>,
    pub(super) configs: Vec<BTreeSet<NodeId>>,
    pub(super) voters: BTreeSet<NodeId>,
    pub(super) learners: BTreeSet<NodeId>,
    pub(super) matched: BTreeMap<NodeId, u64>,
    pub(super) quorum_age: Option<Duration>,
    /// It has stopped, and why.
    pub(super) down: Option<String>,
}

impl View {
    fn of(metrics: &RaftMetrics<RaftId, EmptyNode>) -> Self {
        let membership = metrics.membership_config.membership();
        let (voters, learners) = types::sets(membership);
        let role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Voter,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        };
        let matched = metrics.replication.iter().flatten();
        Self {
            leader: metrics.current_leader.map(Into::into),
            term: metrics.current_term,
            role,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            checkpoint: metrics.snapshot.map(|id| id.index),
            configs: types::members(membership)
                .configs
                .into_iter()
                .map(|config| config.into_iter().collect())
                .collect(),
            voters,
            learners,
            matched: matched
                .map(|(id, upto)| ((*id).into(), upto.map_or(0, |id| id.index)))
                .collect(),
            quorum_age: metrics.millis_since_quorum_ack.map(Duration::from_millis),
            down: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }
}

/// A replica that runs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine {
    raft: Raft<Types>,
    /// It goes on as the leader that it was before a restart: its term, and the last index that it
    /// may have acknowledged in it.
    resumed: Option<(u64, u64)>,
}

/// What follows a replica's doings.
pub(super) struct Views(watch::Receiver<RaftMetrics<RaftId, EmptyNode>>);

impl Views {
    /// As it is now.
    pub(super) fn now(&mut self) -> View {
        View::of(&self.0.borrow_and_update())
    }

    /// Waits for a change. `false`: the replica is gone.
    pub(super) async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Engine {
    /// Starts a replica; the log as far as it is known to be committed is applied when this
    /// returns.
    pub(super) async fn start(
        name: &str,
        config: &ConsensusConfig,
        fabric: &Fabric,
        heart: &Heart,
        log: LogStore,
        machine: MachineStore,
    ) -> Result<Self, EngineError> {
        let timing = &config.timing;
        let settings = Config {
            cluster_name: name.to_owned(),
            heartbeat_interval: millis(timing.heartbeat),
            election_timeout_min: millis(timing.election_min),
            election_timeout_max: millis(timing.election_max),
            install_snapshot_timeout: millis(timing.image_piece),
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(config.checkpoint_every.max(1)),
            snapshot_max_chunk_size: 1 << 20,
            max_in_snapshot_log_to_keep: config.kept_behind,
            replication_lag_threshold: config.checkpoint_every.max(1000),
            // Standing for election is decided by `election`: these timers know no pre-vote.
            enable_elect: false,
            ..Config::default()
        };
        let settings = settings.validate().map_err(|error| {
            EngineError::Refused(format!("the timing of group `{name}` does not work: {error}"))
        })?;
        let networks = network::Networks {
            fabric: fabric.clone(),
            group: Arc::from(name),
            heart: heart.clone(),
        };
        log.covered_by(machine.cover());
        let id = fabric.node().into();
        let last = log.last();
        let raft = Raft::new(id, Arc::new(settings), networks, log, machine).await?;
        // Once the core has answered, its metrics are those of the log.
        let leads = raft
            .with_raft_state(|state| {
                let term = state.vote_ref().leader_id().term;
                (state.server_state == ServerState::Leader).then_some(term)
            })
            .await?;
        let resumed =
            last.filter(|last| leads == Some(last.term)).map(|last| (last.term, last.index));
        Ok(Self { raft, resumed })
    }

    pub(super) fn views(&self) -> Views {
        Views(self.raft.metrics())
    }

    pub(super) async fn stop(&self) {
        let _ = self.raft.shutdown().await;
    }

    /// These as the voters, if there is nothing yet.
    pub(super) async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), EngineError> {
        let voters: BTreeSet<RaftId> = voters.into_iter().map(Into::into).collect();
        match self.raft.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(EngineError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(fatal.into()),
        }
    }

    /// One entry; waits until it is applied here.
    pub(super) async fn write(
        &self,
        commands: Commands,
    ) -> Result<(u64, Vec<Vec<u8>>), EngineError> {
        let done = self.raft.client_write(commands).await?;
        Ok((done.log_id.index, done.data.0))
    }

    /// Asks a majority whether this is still the leader; the index is applied here then.
    ///
    /// openraft takes the first entry of a leader's term for one behind everything acknowledged
    /// before. That of one that was restarted in its own term may be older than what it has
    /// acknowledged since: until that is applied, there is no such index.
    pub(super) async fn read_point(&self) -> Result<u64, EngineError> {
        let read = match self.raft.ensure_linearizable().await {
            Ok(id) => id.map_or(0, |id| id.index),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => {
                return Err(EngineError::NotLeader(to.leader_id.map(Into::into)));
            }
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                return Err(EngineError::NoQuorum);
            }
            Err(RaftError::Fatal(fatal)) => return Err(fatal.into()),
        };
        let (term, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_term, metrics.last_applied.map_or(0, |id| id.index))
        };
        match self.resumed {
            Some((resumed, upto)) if resumed == term && applied < upto => {
                Err(EngineError::NoQuorum)
            }
            Some((resumed, upto)) if resumed == term => Ok(read.max(upto)),
            _ => Ok(read),
        }
    }

    /// Adds learners.
    pub(super) async fn add(&self, nodes: BTreeSet<NodeId>) -> Result<(), EngineError> {
        let nodes = nodes.into_iter().map(|id| (id.into(), EmptyNode {})).collect();
        self.change(ChangeMembers::AddNodes(nodes)).await
    }

    /// Makes exactly these the voters; those that were become learners.
    pub(super) async fn vote_by(&self, voters: BTreeSet<NodeId>) -> Result<(), EngineError> {
        let voters = voters.into_iter().map(Into::into).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Drops learners.
    pub(super) async fn drop_learners(&self, nodes: BTreeSet<NodeId>) -> Result<(), EngineError> {
        let nodes = nodes.into_iter().map(Into::into).collect();
        self.change(ChangeMembers::RemoveNodes(nodes)).await
    }

    async fn change(&self, change: ChangeMembers<RaftId, EmptyNode>) -> Result<(), EngineError> {
        self.raft.change_membership(change, true).await?;
        Ok(())
    }

    pub(super) async fn elect(&self) {
        let _ = self.raft.trigger().elect().await;
    }

    pub(super) async fn checkpoint(&self) -> Result<(), EngineError> {
        Ok(self.raft.trigger().snapshot().await?)
    }

    /// A candidate's question.
    pub(super) async fn on_vote(&self, ask: AskVote) -> Result<VoteAnswer, EngineError> {
        let request = VoteRequest {
            vote: types::vote(&ask.vote),
            last_log_id: ask.last.as_ref().map(types::id),
        };
        match self.raft.vote(request).await {
            Ok(answer) => Ok(VoteAnswer {
                vote: types::ballot(&answer.vote),
                granted: answer.vote_granted,
                last: answer.last_log_id.as_ref().map(types::point),
            }),
            Err(error) => Err(EngineError::Down(error.to_string())),
        }
    }

    /// A leader's entries.
    pub(super) async fn on_append(&self, append: Append) -> Result<AppendAnswer, EngineError> {
        let request = AppendEntriesRequest {
            vote: types::vote(&append.vote),
            prev_log_id: append.prev.as_ref().map(types::id),
            entries: append.items.into_iter().map(types::entry).collect(),
            leader_commit: append.committed.as_ref().map(types::id),
        };
        match self.raft.append_entries(request).await {
            Ok(AppendEntriesResponse::Success) => Ok(AppendAnswer::Taken),
            Ok(AppendEntriesResponse::PartialSuccess(upto)) => {
                Ok(AppendAnswer::Partly(upto.as_ref().map(types::point)))
            }
            Ok(AppendEntriesResponse::Conflict) => Ok(AppendAnswer::Conflict),
            Ok(AppendEntriesResponse::HigherVote(vote)) => {
                Ok(AppendAnswer::Outvoted(types::ballot(&vote)))
            }
            Err(error) => Err(EngineError::Down(error.to_string())),
        }
    }

    /// A piece of a leader's image.
    pub(super) async fn on_install(&self, piece: Install) -> Result<InstallAnswer, EngineError> {
        let request = InstallSnapshotRequest {
            vote: types::vote(&piece.vote),
            meta: types::meta(&piece.meta),
            offset: piece.offset,
            data: piece.data.0,
            done: piece.done,
        };
        match self.raft.install_snapshot(request).await {
            Ok(answer) => Ok(InstallAnswer::Taken(types::ballot(&answer.vote))),
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                Ok(InstallAnswer::Mismatch {
                    expected_id: mismatch.expect.id,
                    expected_offset: mismatch.expect.offset,
                    id: mismatch.got.id,
                    offset: mismatch.got.offset,
                })
            }
            Err(RaftError::Fatal(fatal)) => Err(fatal.into()),
        }
    }
}
