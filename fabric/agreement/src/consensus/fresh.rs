//! Reads that miss nothing acknowledged, on any member: the leader says how far the log must be
//! applied, and the member waits until it is.

use std::time::{Duration, Instant};

use weft_link::Call;
use weft_wire::{ActorKind, Address};

use super::engine::EngineError;
use super::group::{Group, Inner};
use super::wire::AskHead;
use super::{ProposeError, Role};

/// The leader answers within, or whoever leads by then is asked.
const ASK: Duration = Duration::from_secs(1);
/// Without a leader, or after one that did not answer, it is looked for again so soon.
const AGAIN: Duration = Duration::from_millis(20);

/// How surely a leader still leads.
#[derive(Debug, Default)]
pub(super) struct Lead {
    /// In this term it has heard from a majority since it was elected, and applied what its
    /// predecessors left.
    confirmed: Option<u64>,
    /// When a majority was last known to follow.
    followed: Option<Instant>,
}

impl Lead {
    /// What the replica says of its followers, now.
    pub(super) fn heard(&mut self, quorum_age: Option<Duration>, now: Instant) {
        if let Some(at) = quorum_age.and_then(|age| now.checked_sub(age)) {
            self.followed_at(at);
        }
    }

    /// A majority followed then.
    pub(super) fn followed_at(&mut self, at: Instant) {
        self.followed = self.followed.max(Some(at));
    }

    /// A majority was asked then, and has answered; in this term.
    pub(super) fn confirmed(&mut self, term: u64, asked: Instant) {
        self.confirmed = Some(term);
        self.followed_at(asked);
    }
}

impl Inner {
    /// An index by which all that was acknowledged before is applied here, if this node leads.
    ///
    /// A leader that a majority followed within the shortest wait for an election need not ask it
    /// again: until the longest is over nobody is granted a vote.
    pub(super) async fn head(&self) -> Result<u64, EngineError> {
        let view = self.view();
        if view.role != Role::Leader {
            return Err(EngineError::NotLeader(view.leader));
        }
        if self.lead.lock().confirmed == Some(view.term) && self.is_followed() {
            return Ok(*self.applied().borrow());
        }
        let asked = self.now();
        let index = self.engine()?.read_point().await?;
        self.lead.lock().confirmed(view.term, asked);
        Ok(index)
    }

    /// Whether a majority followed this leader so lately that nobody else can have been elected.
    fn is_followed(&self) -> bool {
        let now = self.now();
        let lately = |at: Instant| now.saturating_duration_since(at) < self.timing().election_min;
        let alone = {
            let view = self.view();
            view.role == Role::Leader && view.voters.len() == 1
        };
        alone || self.lead.lock().followed.is_some_and(lately)
    }
}

impl Group {
    /// Leader only. Whether a majority followed it so lately that nobody else can have been
    /// elected since: what is applied here is then up to date. If not, [`Group::barrier`] finds out.
    pub fn is_followed(&self) -> bool {
        self.inner.view().role == Role::Leader && self.inner.is_followed()
    }

    /// Any member. Waits until everything acknowledged before the call is applied here, and gives
    /// the index up to which that is so at least.
    ///
    /// # Errors
    /// [`ProposeError::NoQuorum`]: no leader could say in time how far that is, or this node is no
    /// member; otherwise as [`Group::barrier`].
    pub async fn fresh(&self, within: Duration) -> Result<u64, ProposeError> {
        let done = async {
            let mut status = self.watch();
            loop {
                let leader = status.borrow_and_update().leader;
                match leader {
                    Some(own) if own == self.inner.node() => match self.inner.head().await {
                        Ok(index) => return Ok(index),
                        Err(EngineError::NoQuorum | EngineError::NotLeader(_)) => {}
                        Err(error) => return Err(self.inner.explain(error)),
                    },
                    Some(leader) => {
                        let to = Address::on(ActorKind::Agreement, leader);
                        let ask = AskHead { group: self.name().to_owned() };
                        let asked = self.inner.fabric().ask(to, ask, Call::within(ASK));
                        let asked = tokio::select! {
                            answer = asked => answer.ok(),
                            // Who led before may be gone.
                            _ = status.wait_for(|now| now.leader != Some(leader)) => None,
                        };
                        if let Some(index) = asked {
                            let mut applied = self.inner.applied();
                            let _ = applied.wait_for(|at| *at >= index).await;
                            return Ok(index);
                        }
                    }
                    None => {}
                }
                tokio::select! {
                    changed = status.changed() => if changed.is_err() {
                        return Err(ProposeError::Stopped);
                    },
                    () = tokio::time::sleep(AGAIN) => {}
                    () = self.inner.stopped() => return Err(ProposeError::Stopped),
                }
            }
        };
        tokio::time::timeout(within, done).await.unwrap_or(Err(ProposeError::NoQuorum))
    }
}
