//! The way of a change: to whoever leads, however often that changes while its sender waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_agreement::{Group, GroupStatus, ProposeError, Role as GroupRole};
use weft_link::{Call, Fabric, Meta};
use weft_protocol::{Applied, Proposal};
use weft_wire::{
    ActorKind, Address, AskError, Backoff, Failure, FailureKind, Message, NodeId, Target,
};

use crate::control::{self, Control};

/// How long a request may take when its sender did not say.
pub(super) const WITHIN: Duration = Duration::from_secs(10);
/// Without a leader for so long, a request is refused: an election takes less.
const LEADERLESS: Duration = Duration::from_secs(5);
/// The leader is given so long for an answer before it is asked again, or whoever leads by then.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(3);
/// A leader that was not heard for so long may be gone.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// A node that forwarded a change waits so long to see it itself.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(20), max: Duration::from_millis(500), jitter: 0.3 };

/// Whether this node leads the group, as far as it knows.
pub(super) fn elected(group: &Group, own: NodeId) -> bool {
    let status = group.status();
    status.role == GroupRole::Leader && status.leader == Some(own)
}

/// Ends once another node than this one is known to lead.
async fn led_by_another(status: &mut watch::Receiver<Arc<GroupStatus>>, target: NodeId) {
    if status.wait_for(|now| now.leader.is_some_and(|leader| leader != target)).await.is_err() {
        // The group has stopped: nobody is told of a leader any more.
        std::future::pending::<()>().await;
    }
}

/// Cheap to clone; used outside the actor, so that waiting holds nobody up.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) fabric: Fabric,
    pub(super) group: Group,
    pub(super) control: Control,
    pub(super) node: NodeId,
    pub(super) name: String,
    /// Whom to ask before anything has been agreed here.
    pub(super) seeds: Vec<NodeId>,
}

impl Route {
    /// Whether this node leads a cluster, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        elected(&self.group, self.node) && !self.control.read().is_empty()
    }

    fn now(&self) -> Instant {
        self.fabric.clock().now()
    }

    /// Has a proposal agreed. `Unavailable` says that this node does not lead: nothing is done.
    pub(super) async fn lead(
        &self,
        proposal: &Proposal,
        within: Duration,
    ) -> Result<Applied, Failure> {
        let bytes = control::encode(proposal).map_err(|error| {
            Failure::new(FailureKind::Invalid, "the change cannot be stored")
                .node(&self.name)
                .cause(error)
        })?;
        // Who leads a minority says so while its sender still listens.
        match self.group.propose(bytes, within.min(LEADERLESS)).await {
            Ok(done) => control::answer(&done.answer),
            Err(error) => Err(self.failure(&error)),
        }
    }

    pub(super) fn failure(&self, error: &ProposeError) -> Failure {
        let (kind, message, help) = match error {
            ProposeError::NotLeader { .. } => (
                FailureKind::Unavailable,
                format!("{} does not lead the cluster", self.name),
                "send it again; it goes to the node that leads",
            ),
            ProposeError::NoQuorum => (
                FailureKind::Timeout,
                format!("the change was not agreed in time: {}", self.voters()),
                "bring nodes back, then send the same request again; it applies once. \
                 Reading and what runs are not affected; `weft cluster status` says more",
            ),
            ProposeError::Overloaded(_) => (
                FailureKind::Exhausted,
                format!("{} has too many changes waiting", self.name),
                "send it again in a moment",
            ),
            ProposeError::Refused(why) => (FailureKind::Conflict, why.clone(), ""),
            ProposeError::Full(_) => (
                FailureKind::Exhausted,
                format!("{} could not store it: no space is left", self.name),
                "free some space there; nothing was changed, reads go on",
            ),
            ProposeError::Storage(_) => (
                FailureKind::Internal,
                format!("{} could not store it", self.name),
                "see the log of weftd on that node; reads go on",
            ),
            // Stopped, or what a later version of it may say.
            _ => (
                FailureKind::Unavailable,
                format!("{} is stopping", self.name),
                "send it again; it goes to the node that leads",
            ),
        };
        let mut failure = Failure::new(kind, message).node(&self.name).cause(error);
        if !help.is_empty() {
            failure = failure.help(help);
        }
        failure
    }

    /// `a majority of n1, n2, n3 is needed`.
    fn voters(&self) -> String {
        let status = self.group.status();
        let state = self.control.read();
        let mut names: Vec<String> = status
            .voters
            .iter()
            .map(|id| state.node(*id).map_or_else(|| id.to_string(), |node| node.name.clone()))
            .collect();
        names.sort();
        match names.as_slice() {
            [] => "this node knows no voters yet".to_owned(),
            [one] => format!("{one} is needed"),
            many => format!("a majority of {} is needed", many.join(", ")),
        }
    }

    /// Whether the leader this node knows of was heard lately: a node that is cut off goes on
    /// naming who led before.
    fn hears_leader(&self, now: Instant) -> bool {
        let status = self.group.status();
        let heard = |at: Instant| now.saturating_duration_since(at) < HEARD_WITHIN;
        status
            .leader
            .is_some_and(|leader| leader == self.node || status.leader_seen.is_some_and(heard))
    }

    /// Where a request goes next: the leader; before anything is agreed here, any known node.
    fn next(&self, attempt: u32) -> Option<NodeId> {
        self.group.status().leader.or_else(|| {
            let known = self.control.read().is_empty();
            let at = usize::try_from(attempt).unwrap_or(0).checked_rem(self.seeds.len())?;
            known.then(|| self.seeds.get(at).copied()).flatten()
        })
    }

    /// Sends a request to whoever leads, on behalf of whoever sent it here, until it is answered
    /// or its sender stops waiting. If this node comes to lead meanwhile, it answers itself.
    pub(super) async fn forward<M: Message>(
        &self,
        message: M,
        meta: &Meta,
    ) -> Result<M::Reply, AskError> {
        self.forward_patiently(message, meta, ASK_AGAIN).await
    }

    /// As [`Route::forward`]; what applies once is sent again only after `patience`.
    pub(super) async fn forward_patiently<M: Message>(
        &self,
        message: M,
        meta: &Meta,
        patience: Duration,
    ) -> Result<M::Reply, AskError> {
        let start = self.now();
        let end = meta.deadline.unwrap_or(start + WITHIN);
        let mut status = self.group.watch();
        let mut leaderless = start;
        let mut last = None;
        for attempt in 0u32.. {
            let now = self.now();
            let left = end.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            match self.next(attempt) {
                // The peer that sent it takes this node for the leader: it knows better soon.
                Some(target) if meta.from == Some(target) => {
                    return Err(self.leaderless("it takes the sender for the leader"));
                }
                // Elected, but the cluster's first records are still on their way.
                Some(target) if target == self.node && !self.leads() => {}
                Some(target) => {
                    status.borrow_and_update();
                    // What applies once is sent again rather than waited for: who led may be gone.
                    let left = if M::IDEMPOTENT { left.min(patience) } else { left };
                    let to = Address { actor: ActorKind::Registry, target: Target::Node(target) };
                    let call = Call::on_behalf(meta, left);
                    let answer = tokio::select! {
                        answer = self.fabric.ask(to, message.clone(), call) => answer,
                        // A node that vanished answers nothing: its successor is not waited for.
                        () = led_by_another(&mut status, target), if M::IDEMPOTENT => {
                            Err(AskError::Unreachable("another node leads by now".to_owned()))
                        }
                    };
                    let now = self.now();
                    if self.hears_leader(now) {
                        leaderless = now;
                    }
                    match answer {
                        Err(AskError::Failed(failure))
                            if failure.kind == FailureKind::Unavailable =>
                        {
                            last = Some(failure.to_string());
                        }
                        // It may have been done: only what applies once is sent again.
                        Err(AskError::Unreachable(cause)) if M::IDEMPOTENT => last = Some(cause),
                        Err(AskError::Timeout) if M::IDEMPOTENT => {
                            last = Some("it did not answer in time".to_owned());
                        }
                        other => return other,
                    }
                }
                None if meta.from.is_some() => {
                    return Err(self.leaderless("it knows no leader"));
                }
                None => {}
            }
            if self.now().saturating_duration_since(leaderless) >= LEADERLESS {
                break;
            }
            let random = f64::from(uuid::Uuid::new_v4().as_u128() as u16) / 65_536.0;
            let pause = RETRY.delay(attempt.min(16), random).min(left);
            tokio::select! {
                changed = status.changed() => if changed.is_err() {
                    tokio::time::sleep(pause).await;
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
        Err(self.leaderless(last.as_deref().unwrap_or("it knows no leader")))
    }

    fn leaderless(&self, cause: &str) -> AskError {
        AskError::Failed(
            Failure::new(
                FailureKind::Unavailable,
                format!("no node leads the cluster as far as {} can tell: {}", self.name, self.voters()),
            )
            .node(&self.name)
            .step("forward the change")
            .cause(cause)
            .help(
                "bring nodes back, then try again; reading and what runs are not affected; `weft cluster status` says more",
            ),
        )
    }

    /// Waits until this node has seen the change, so that who asked here reads it here.
    pub(super) async fn seen(&self, index: u64) {
        let mut head = self.control.head();
        let _ = tokio::time::timeout(SEEN_WITHIN, head.wait_for(|at| *at >= index)).await;
    }
}
