//! openraft's network over the fabric.
//!
//! openraft gives an append one heartbeat interval and then sends it again. A large one over a slow
//! link would never arrive that way, so the ask goes on behind an attempt that ran out, and the
//! next attempt for the same entries waits for it instead of sending them again.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, RPCError, RaftError, RemoteError, SnapshotMismatch, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, RPCTypes, RaftNetwork, RaftNetworkFactory, SnapshotSegmentId};
use tokio::task::JoinHandle;
use weft_link::{Call, Fabric};
use weft_wire::{ActorKind, Address, AskError, Message, NodeId};

use super::beats::Heart;
use super::types::{self, RaftId, Types};
use crate::consensus::wire::{
    Append, AppendAnswer, AskVote, Blob, Install, InstallAnswer, Item, Point,
};

/// A large append may take this long in all.
const SLOW_APPEND: Duration = Duration::from_secs(20);
/// Appends over this many bytes may outlive the attempt that sent them.
const LARGE: usize = 16 << 10;

type Failed<E> = RPCError<RaftId, EmptyNode, RaftError<RaftId, E>>;
type Plain = openraft::error::Infallible;

/// Makes a network per peer.
#[derive(Clone)]
pub(crate) struct Networks {
    pub(crate) fabric: Fabric,
    pub(crate) group: Arc<str>,
    pub(crate) heart: Heart,
}

impl RaftNetworkFactory<Types> for Networks {
    type Network = Network;

    async fn new_client(&mut self, target: RaftId, _: &EmptyNode) -> Network {
        Network {
            fabric: self.fabric.clone(),
            group: self.group.clone(),
            heart: self.heart.clone(),
            target: target.into(),
            told: None,
            under_way: None,
        }
    }
}

/// The way to one peer.
pub(crate) struct Network {
    fabric: Fabric,
    group: Arc<str>,
    heart: Heart,
    target: NodeId,
    /// How far the peer knows the log to be committed.
    told: Option<Point>,
    under_way: Option<UnderWay>,
}

/// A large append whose answer is still awaited.
struct UnderWay {
    vote: openraft::Vote<RaftId>,
    prev: Option<Point>,
    last: Option<Point>,
    task: JoinHandle<Result<AppendAnswer, AskError>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn to(node: NodeId) -> Address {
    Address::on(ActorKind::Agreement, node)
}

impl Network {
    async fn ask<M: Message, E: std::error::Error>(
        &self,
        message: M,
        action: RPCTypes,
        within: Duration,
    ) -> Result<M::Reply, Failed<E>> {
        let answer = self.fabric.ask(to(self.target), message, Call::within(within)).await;
        answer.map_err(|error| self.failed(error, action, within))
    }

    /// Everything but silence makes openraft back off: it would repeat other errors at once.
    fn failed<E: std::error::Error>(
        &self,
        error: AskError,
        action: RPCTypes,
        timeout: Duration,
    ) -> Failed<E> {
        match error {
            AskError::Timeout => RPCError::Timeout(Timeout {
                action,
                id: self.fabric.node().into(),
                target: self.target.into(),
                timeout,
            }),
            error => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }

    /// The answer to the request that is already on its way, if it is the same or its beginning.
    async fn resume(
        &mut self,
        vote: &openraft::Vote<RaftId>,
        prev: Option<Point>,
        items: &[Item],
    ) -> Option<Result<AppendEntriesResponse<RaftId>, AskError>> {
        let under_way = self.under_way.as_mut()?;
        let same = under_way.vote == *vote
            && under_way.prev == prev
            && items.iter().any(|item| Some(item.at) == under_way.last);
        if !same {
            self.under_way = None;
            return None;
        }
        // Cancelled by openraft's deadline, it stays where it is.
        let answer = (&mut under_way.task).await;
        let last = under_way.last;
        self.under_way = None;
        Some(match answer {
            Ok(Ok(AppendAnswer::Taken)) if items.last().map(|item| item.at) != last => {
                Ok(AppendEntriesResponse::PartialSuccess(last.as_ref().map(types::id)))
            }
            Ok(Ok(answer)) => Ok(response(answer)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AskError::Unreachable("the ask was given up".into())),
        })
    }
}

fn response(answer: AppendAnswer) -> AppendEntriesResponse<RaftId> {
    match answer {
        AppendAnswer::Taken => AppendEntriesResponse::Success,
        AppendAnswer::Partly(upto) => {
            AppendEntriesResponse::PartialSuccess(upto.as_ref().map(types::id))
        }
        AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
        AppendAnswer::Outvoted(vote) => AppendEntriesResponse::HigherVote(types::vote(&vote)),
    }
}

fn size(items: &[Item]) -> usize {
    use crate::consensus::wire::Payload;
    let of = |item: &Item| match &item.payload {
        Payload::Commands(commands) => commands.list.iter().map(|command| command.len() + 8).sum(),
        Payload::Blank | Payload::Members(_) => 64,
    };
    items.iter().map(of).sum()
}

impl RaftNetwork<Types> for Network {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, Failed<Plain>> {
        let within = option.hard_ttl();
        let vote = rpc.vote;
        let prev = rpc.prev_log_id.as_ref().map(types::point);
        let items: Vec<Item> = rpc.entries.iter().map(types::item).collect();
        if items.iter().any(Item::is_damaged) {
            // Whoever follows waits for an image.
            let why = AskError::Unreachable("an entry on this node's disk is damaged".to_owned());
            return Err(self.failed(why, RPCTypes::AppendEntries, within));
        }
        if let Some(resumed) = self.resume(&vote, prev, &items).await {
            return resumed.map_err(|error| self.failed(error, RPCTypes::AppendEntries, within));
        }
        let last = items.last().map(|item| item.at);
        let (large, beat) = (size(&items) > LARGE, items.is_empty());
        let message = Append {
            group: self.group.to_string(),
            vote: types::ballot(&vote),
            prev,
            items,
            committed: rpc.leader_commit.as_ref().map(types::point),
        };
        if beat && self.heart.worth_it() {
            let told = message.committed;
            let answer = self.heart.beat(self.target, message, told != self.told, within).await;
            let answer =
                answer.map_err(|error| self.failed(error, RPCTypes::AppendEntries, within))?;
            self.told = told;
            return Ok(response(answer));
        }
        if !large {
            let answer = self.ask(message, RPCTypes::AppendEntries, within).await?;
            return Ok(response(answer));
        }
        let (fabric, target) = (self.fabric.clone(), self.target);
        let task = tokio::spawn(async move {
            fabric.ask(to(target), message, Call::within(SLOW_APPEND.max(within))).await
        });
        let under_way = self.under_way.insert(UnderWay { vote, prev, last, task });
        let answer = (&mut under_way.task).await;
        self.under_way = None;
        match answer {
            Ok(Ok(answer)) => Ok(response(answer)),
            Ok(Err(error)) => Err(self.failed(error, RPCTypes::AppendEntries, within)),
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, Failed<InstallSnapshotError>> {
        let message = Install {
            group: self.group.to_string(),
            vote: types::ballot(&rpc.vote),
            meta: types::image_meta(&rpc.meta),
            offset: rpc.offset,
            data: Blob(rpc.data),
            done: rpc.done,
        };
        match self.ask(message, RPCTypes::InstallSnapshot, option.hard_ttl()).await? {
            InstallAnswer::Taken(vote) => Ok(InstallSnapshotResponse { vote: types::vote(&vote) }),
            InstallAnswer::Mismatch { expected_id, expected_offset, id, offset } => {
                let mismatch = SnapshotMismatch {
                    expect: SnapshotSegmentId { id: expected_id, offset: expected_offset },
                    got: SnapshotSegmentId { id, offset },
                };
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RPCError::RemoteError(RemoteError::new(self.target.into(), error)))
            }
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftId>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, Failed<Plain>> {
        let message = AskVote {
            group: self.group.to_string(),
            vote: types::ballot(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(types::point),
        };
        let answer = self.ask(message, RPCTypes::Vote, option.hard_ttl()).await?;
        Ok(VoteResponse {
            vote: types::vote(&answer.vote),
            vote_granted: answer.granted,
            last_log_id: answer.last.as_ref().map(types::id),
        })
    }

    /// Short: the fabric has its own backoff for dialling, and a follower that comes back must
    /// hear from its leader before it stands for election.
    fn backoff(&self) -> Backoff {
        let delays = [50, 100, 200].into_iter().chain(std::iter::repeat(250));
        Backoff::new(delays.map(Duration::from_millis))
    }
}
