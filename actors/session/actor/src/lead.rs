//! What agrees on the entries of a group, and which node leads that.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_agreement::{Group, GroupStatus, ProposeError, Role};
use weft_wire::NodeId;

/// A leader that was not heard for so long may be gone.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// What agrees on entries.
#[derive(Debug, Clone)]
enum Agrees {
    /// Nobody: they are applied at once and kept nowhere.
    Nobody,
    /// The cluster has no such group yet.
    NotYet,
    /// It does.
    By(Group),
}

/// Who leads a group, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Led {
    /// This node; it may not be ready yet.
    Here,
    /// Another.
    By(NodeId),
    /// Nobody at present.
    ByNobody,
}

/// The agreement of one group on this node.
#[derive(Debug)]
pub(crate) struct Agreement(watch::Sender<Agrees>);

fn led(status: &GroupStatus) -> Led {
    match (status.role, status.leader) {
        (Role::Leader, _) => Led::Here,
        (_, Some(leader)) => Led::By(leader),
        (_, None) => Led::ByNobody,
    }
}

impl Agreement {
    /// Nothing is agreed on and nothing kept.
    pub(crate) fn none() -> Self {
        Self(watch::Sender::new(Agrees::Nobody))
    }

    /// Nothing can be done until there is a group.
    pub(crate) fn awaited() -> Self {
        Self(watch::Sender::new(Agrees::NotYet))
    }

    /// By this group from now on.
    pub(crate) fn by(&self, group: Group) {
        self.0.send_replace(Agrees::By(group));
    }

    /// `Ok(None)`: nothing is kept; `Err`: there is no group yet.
    pub(crate) fn group(&self) -> Result<Option<Group>, ()> {
        match &*self.0.borrow() {
            Agrees::Nobody => Ok(None),
            Agrees::NotYet => Err(()),
            Agrees::By(group) => Ok(Some(group.clone())),
        }
    }

    /// The group, once there is one; `None`: nothing is kept.
    pub(crate) async fn opened(&self) -> Option<Group> {
        let mut agrees = self.0.subscribe();
        let now = agrees.wait_for(|agrees| !matches!(agrees, Agrees::NotYet)).await;
        match now.as_deref() {
            Ok(Agrees::By(group)) => Some(group.clone()),
            _ => None,
        }
    }

    pub(crate) fn led(&self) -> Led {
        match &*self.0.borrow() {
            Agrees::Nobody => Led::Here,
            Agrees::NotYet => Led::ByNobody,
            Agrees::By(group) => led(&group.status()),
        }
    }

    /// Whether there is a leader that was heard lately: a node that is cut off goes on naming the
    /// last one.
    pub(crate) fn hears_leader(&self, now: Instant) -> bool {
        match &*self.0.borrow() {
            Agrees::Nobody => true,
            Agrees::NotYet => false,
            Agrees::By(group) => {
                let status = group.status();
                let lately = |at: Instant| now.saturating_duration_since(at) < HEARD_WITHIN;
                group.is_followed() || status.leader_seen.is_some_and(lately)
            }
        }
    }

    /// Who else is in the group; the leader first.
    pub(crate) fn peers(&self, own: NodeId) -> Vec<NodeId> {
        let Ok(Some(group)) = self.group() else { return Vec::new() };
        let status = group.status();
        let all = status.leader.iter().chain(&status.voters).chain(&status.learners);
        let mut peers: Vec<NodeId> = Vec::new();
        for node in all {
            if *node != own && !peers.contains(node) {
                peers.push(*node);
            }
        }
        peers
    }

    /// Whether this node decides alone, or there is nothing to decide.
    pub(crate) fn is_alone(&self) -> bool {
        match &*self.0.borrow() {
            Agrees::Nobody => true,
            Agrees::NotYet => false,
            Agrees::By(group) => group.status().voters.len() < 2,
        }
    }

    /// Whether that node decides alone, or there is nothing to decide.
    pub(crate) fn is_own(&self, node: NodeId) -> bool {
        match &*self.0.borrow() {
            Agrees::Nobody => true,
            Agrees::NotYet => false,
            Agrees::By(group) => group.status().voters.iter().eq([&node]),
        }
    }

    /// Ends once the group is led by another node than this one, and than `asked`.
    pub(crate) async fn led_by_another(&self, asked: Option<NodeId>) {
        if let Some(group) = self.opened().await {
            let mut status = group.watch();
            let other = |now: &_| matches!(led(now), Led::By(node) if Some(node) != asked);
            let here = |now: &_| asked.is_some() && led(now) == Led::Here;
            if status.wait_for(|now| other(now) || here(now)).await.is_ok() {
                return;
            }
        }
        // Nothing changes any more.
        std::future::pending::<()>().await;
    }

    /// Ends when something about it changed, or after `pause`.
    pub(crate) async fn changed(&self, pause: Duration) {
        let mut agrees = self.0.subscribe();
        let group = self.group();
        let change = async {
            match group {
                Ok(Some(group)) => group.watch().changed().await.is_ok(),
                _ => agrees.changed().await.is_ok(),
            }
        };
        if let Ok(false) = tokio::time::timeout(pause, change).await {
            // It has stopped.
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until all that was acknowledged before is applied here.
    ///
    /// # Errors
    /// [`ProposeError`]: what is here may be old.
    pub(crate) async fn fresh(&self, within: Duration) -> Result<(), ProposeError> {
        match self.group() {
            Ok(None) => Ok(()),
            Ok(Some(group)) => group.fresh(within).await.map(drop),
            Err(()) => match tokio::time::timeout(within, self.opened()).await {
                Ok(Some(group)) => group.fresh(within).await.map(drop),
                Ok(None) => Ok(()),
                Err(_) => Err(ProposeError::NoQuorum),
            },
        }
    }
}
