//! What the node that leads another group than `control` sees to: who votes in it and who follows,
//! one step at a time in each group. On every other voter: that somebody leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use weft_agreement::{Group, GroupStatus};
use weft_link::Reply;
use weft_protocol::{LetGo, Vote};
use weft_supervision::{Handle, Scope};
use weft_wire::NodeId;

use super::Registry;
use super::duties::AFTER_FAILURE;
use super::route::elected;
use crate::config::Tended;
use crate::steward::groups::{self, Facts, Spread, Step};

/// A node that is to be removed is given no vote for so long after that was said last: until it
/// is agreed, or is not going to be.
const LEAVING: Duration = Duration::from_secs(10);
/// A majority confirms the lead within.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);

/// The groups beside `control`, as this node sees to them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By name.
    tending: BTreeMap<String, Tending>,
    /// Nodes that are about to be removed, and until when that counts.
    leaving: BTreeMap<NodeId, Instant>,
}

/// One of them.
#[derive(Debug, Default)]
struct Tending {
    /// A step is on its way; it may have to wait for a node to catch up.
    stepping: bool,
    /// No step before.
    not_before: Option<Instant>,
    /// When this node last stood for election because the leader was gone.
    stood: Option<Instant>,
    /// This node leads it since, in that term.
    since: Option<Instant>,
    term: u64,
    /// Why the last step failed, for people; empty: it did not.
    trouble: String,
}

impl Groups {
    fn of(&mut self, name: &str) -> &mut Tending {
        self.tending.entry(name.to_owned()).or_default()
    }
}

impl Registry {
    /// Takes the step that is due in each group that this node leads.
    pub(super) fn see_to_groups(&mut self, scope: &Scope<Self>) {
        let now = scope.now();
        self.groups.leaving.retain(|_, until| now < *until);
        for Tended { group, spread } in self.agreement.others.list().iter().cloned() {
            let mut tending = std::mem::take(self.groups.of(group.name()));
            let step = self.due(&group, spread, &mut tending, scope);
            tending.stepping |= step.is_some();
            *self.groups.of(group.name()) = tending;
            if let Some((facts, step)) = step {
                self.step_of_group(group, &facts, step, scope);
            }
        }
    }

    fn due(
        &self,
        group: &Group,
        spread: Spread,
        tending: &mut Tending,
        scope: &Scope<Self>,
    ) -> Option<(Facts, Step)> {
        if !elected(group, self.config.seed.node) {
            self.stand_if_leader_is_gone(group, &mut tending.stood, scope);
            tending.since = None;
            return None;
        }
        let status = group.status();
        let now = scope.now();
        if tending.since.is_none() || tending.term != status.term {
            tracing::info!(group = status.name, term = status.term, "this node leads the group");
            *tending = Tending {
                stepping: tending.stepping,
                since: Some(now),
                term: status.term,
                ..Tending::default()
            };
        }
        let waits = tending.stepping || tending.not_before.is_some_and(|at| now < at);
        if waits || self.state().is_empty() {
            return None;
        }
        let facts = self.facts_of_group(&status, spread, tending.since, scope);
        let step = groups::next(&facts)?;
        Some((facts, step))
    }

    fn facts_of_group(
        &self,
        status: &GroupStatus,
        spread: Spread,
        led_since: Option<Instant>,
        scope: &Scope<Self>,
    ) -> Facts {
        let state = self.state();
        let mut candidates = self.candidates(&state, status, led_since, |_| true, scope);
        let live: BTreeSet<NodeId> = candidates.iter().filter(|c| c.live).map(|c| c.id).collect();
        candidates.retain(|c| !self.groups.leaving.contains_key(&c.id));
        let told = state.nodes().into_iter().filter(|node| !node.address.is_empty());
        Facts {
            candidates,
            live,
            reachable: told.map(|node| node.id).collect(),
            voters: status.voters.clone(),
            joint: status.joint,
            learners: status.learners.clone(),
            replace_after: self.config.voter_replace_after,
            spread,
        }
    }

    fn step_of_group(&mut self, group: Group, facts: &Facts, step: Step, scope: &Scope<Self>) {
        let name = group.name().to_owned();
        tracing::debug!(group = name, ?step, "leading");
        let before = facts.voters.clone();
        let told = match &step {
            Step::AddLearner(_) => None,
            Step::SetMembers { voters, .. } => {
                Some((voters.clone(), self.why_voters(&facts.candidates, &before, voters)))
            }
        };
        let work = async move {
            match step {
                Step::AddLearner(node) => group.add_learner(node).await,
                Step::SetMembers { voters, learners, live } => {
                    group.set_voters(voters, learners, &live).await
                }
            }
        };
        scope.spawn_then(work, move |registry, done, scope| {
            let tending = registry.groups.of(&name);
            tending.stepping = false;
            match done {
                Ok(()) => {
                    tending.trouble.clear();
                    if let Some((voters, why)) = told {
                        registry.voters_changed(&name, &before, &voters, why, scope);
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        group = name, %error, "a step of leading the group failed; trying again"
                    );
                    tending.trouble = error.to_string();
                    tending.not_before = Some(scope.now() + AFTER_FAILURE);
                }
            }
            registry.see_to_groups(scope);
        });
    }

    /// Why a group that this node leads still needs a vote of that node; empty: it has none there.
    fn held(&self, group: &Group, node: NodeId) -> String {
        let status = group.status();
        if !status.voters.contains(&node) {
            return String::new();
        }
        let tending = self.groups.tending.get(group.name());
        if let Some(tending) = tending.filter(|tending| !tending.trouble.is_empty()) {
            return tending.trouble.clone();
        }
        if status.voters.len() == 1 {
            return "it alone votes, and no other node has caught up with it yet".to_owned();
        }
        "it votes, and its vote is not handed on yet".to_owned()
    }
}

impl Handle<LetGo> for Registry {
    fn handle(&mut self, message: LetGo, reply: Reply<LetGo>, scope: &Scope<Self>) {
        let LetGo { node } = message;
        self.groups.leaving.insert(node, scope.now() + LEAVING);
        self.see_to_groups(scope);
        let own = self.config.seed.node;
        let others = self.agreement.others.list();
        let led = others.iter().filter(|tended| elected(&tended.group, own));
        let votes: Vec<_> = led
            .map(|Tended { group, .. }| {
                let held = self.held(group, node);
                let (vote, group) = (Vote { group: group.name().to_owned(), held }, group.clone());
                async move {
                    // Who leads no longer knows nothing: whoever does may have given it a vote.
                    let sure = !vote.held.is_empty() || group.barrier(CONFIRM_WITHIN).await.is_ok();
                    sure.then_some(vote)
                }
            })
            .collect();
        scope.spawn(async move {
            reply.ok(join_all(votes).await.into_iter().flatten().collect());
        });
    }
}
