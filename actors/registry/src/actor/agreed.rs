//! What membership and consensus know, as this node sees it.

use std::time::{Duration, Instant};

use weft_agreement::{GroupStatus, Liveness};
use weft_link::Reply;
use weft_protocol::{
    AgreementView, GroupView, MemberView, NodeRecord, NodeRole, NodeState, ReadAgreement,
};
use weft_supervision::{Handle, Scope};

use super::Registry;
use crate::steward::voters;

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Handle<ReadAgreement> for Registry {
    fn handle(&mut self, _: ReadAgreement, reply: Reply<ReadAgreement>, scope: &Scope<Self>) {
        let view = self.agreement_view(scope);
        reply.ok(view);
    }
}

impl Registry {
    fn agreement_view(&self, scope: &Scope<Self>) -> AgreementView {
        let now = scope.now();
        let own = self.config.seed.node;
        let status = self.agreement.group.status();
        let others: Vec<_> =
            self.agreement.others.list().iter().map(|t| t.group.status()).collect();
        let has_part =
            |status: &GroupStatus| status.voters.contains(&own) || status.learners.contains(&own);
        let members = self.agreement.membership.members();
        let facts = self.facts(scope);
        let state = self.state();
        let member = |node: &NodeRecord| {
            let known = members.get(node.id);
            let (mut seen, since) = match known {
                _ if node.id == own => (NodeState::Ready, None),
                Some(member) => (
                    match member.liveness {
                        Liveness::Alive => NodeState::Ready,
                        Liveness::Suspect => NodeState::Suspect,
                        Liveness::DaemonDown | Liveness::Away => NodeState::DaemonDown,
                        Liveness::Lost => NodeState::Lost,
                        Liveness::Left => NodeState::Left,
                    },
                    Some(member.since),
                ),
                None => (NodeState::Suspect, None),
            };
            if seen == NodeState::Ready && node.draining {
                seen = NodeState::Draining;
            }
            MemberView {
                id: node.id,
                name: node.name.clone(),
                state: seen,
                for_ms: since.map_or(0, |at| ms(now.saturating_duration_since(at))),
                role: if status.leader == Some(node.id) {
                    NodeRole::Leader
                } else if status.voters.contains(&node.id) {
                    NodeRole::Voter
                } else {
                    NodeRole::Learner
                },
                lag: (node.id != own)
                    .then(|| status.matched.get(&node.id))
                    .flatten()
                    .map(|matched| status.last_log.saturating_sub(*matched)),
                why: voters::why(node.id, &status.voters, &facts.candidates),
            }
        };
        AgreementView {
            node: Some(own),
            members: state.nodes().into_iter().map(member).collect(),
            groups: std::iter::once(&status)
                .chain(others.iter().filter(|status| has_part(status)))
                .map(|status| group_view(status, now))
                .collect(),
            format: state.format(),
            waiting: self.duties.waiting.clone(),
            unsure: self.unsure(scope),
        }
    }
}

fn group_view(status: &GroupStatus, now: Instant) -> GroupView {
    let heard = status.leader_seen.map(|at| now.saturating_duration_since(at));
    GroupView {
        name: status.name.clone(),
        leader: status.leader,
        term: status.term,
        last_log: status.last_log,
        committed: status.committed,
        applied: status.applied,
        checkpoint: status.checkpoint,
        voters: status.voters.iter().copied().collect(),
        learners: status.learners.iter().copied().collect(),
        contact_ms: status.quorum_age.or(heard).map(ms),
    }
}
