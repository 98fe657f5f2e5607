//! Whether this node knows what it owns.
//!
//! What is agreed here may be old: after a start, and after a time without a leader. Until the
//! node that leads has said how far agreed state goes, and it has come here up to there, the
//! runtime is told nothing: it runs on what it runs, and starts nothing that may be another
//! node's by now.

use std::time::{Duration, Instant};

use weft_link::{Call, Reply};
use weft_protocol::ReadHead;
use weft_supervision::{Handle, Scope};
use weft_wire::{ActorKind, Address, Failure, FailureKind};

use super::Registry;

/// After so long without a word of the leader (or, on the leader, of a majority), what is agreed
/// may have gone on without this node: a lost node's replicas are placed elsewhere no earlier.
const OUT_OF_CONTACT: Duration = Duration::from_secs(2);
/// An election takes less: after so long without a leader a node says that it is not ready.
const WORTH_SAYING: Duration = Duration::from_secs(5);
/// The leader may take so long to ask a majority.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// Between two attempts.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What this node knows of how new its state is. Pure: time and what was heard go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// Nobody has been heard since then; `None`: since this daemon started.
    Away(Option<Instant>),
    /// The leader is being asked; the number of the question.
    Asking(u64),
    /// State is to come up to there.
    Behind(u64),
    /// State is as new as what was agreed when contact was last made, or newer.
    Sure,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Contact {
    knows: Knowledge,
    /// The runtime has not been told since then.
    returning: bool,
    asked: u64,
    not_before: Option<Instant>,
}

impl Default for Contact {
    fn default() -> Self {
        Self { knows: Knowledge::Away(None), returning: true, asked: 0, not_before: None }
    }
}

impl Contact {
    /// Takes how long ago the leader (on the leader: a majority) was heard, and how far state has
    /// come. `Some`: the leader is to be asked; the number is for [`Contact::answered`].
    fn look(&mut self, now: Instant, heard: Option<Duration>, index: u64) -> Option<u64> {
        if heard.is_none_or(|age| age >= OUT_OF_CONTACT) {
            if !matches!(self.knows, Knowledge::Away(_)) {
                let since = heard.and_then(|age| now.checked_sub(age)).unwrap_or(now);
                self.knows = Knowledge::Away(Some(since));
            }
            return None;
        }
        match self.knows {
            Knowledge::Away(_) if self.not_before.is_none_or(|at| now >= at) => {
                self.asked += 1;
                self.knows = Knowledge::Asking(self.asked);
                Some(self.asked)
            }
            Knowledge::Behind(head) if index >= head => {
                self.knows = Knowledge::Sure;
                self.returning = true;
                None
            }
            _ => None,
        }
    }

    /// The leader has said how far agreed state goes, or could not.
    fn answered(&mut self, now: Instant, question: u64, head: Option<u64>) {
        if self.knows != Knowledge::Asking(question) {
            return;
        }
        self.knows = match head {
            Some(head) => Knowledge::Behind(head),
            None => {
                self.not_before = Some(now + ASK_EVERY);
                Knowledge::Away(Some(now))
            }
        };
    }

    /// Whether the runtime may be told: since which question, and whether for the first time.
    pub(super) fn sure(&self) -> Option<(u64, bool)> {
        (self.knows == Knowledge::Sure).then_some((self.asked, self.returning))
    }

    /// The runtime acts by what it was told after that question.
    pub(super) fn told(&mut self, question: u64) {
        if self.knows == Knowledge::Sure && self.asked == question {
            self.returning = false;
        }
    }

    /// Why this node does not know what it owns, for people.
    fn unsure(&self, now: Instant) -> String {
        match self.knows {
            Knowledge::Away(None) => {
                "no leader has been heard of since this daemon started".to_owned()
            }
            Knowledge::Away(Some(since)) => {
                let silent = now.saturating_duration_since(since);
                if silent < WORTH_SAYING {
                    return if self.returning { catching_up() } else { String::new() };
                }
                format!(
                    "no leader has been heard of for {} s: what runs here may have been placed elsewhere",
                    silent.as_secs()
                )
            }
            Knowledge::Asking(_) | Knowledge::Behind(_) => catching_up(),
            Knowledge::Sure if self.returning => catching_up(),
            Knowledge::Sure => String::new(),
        }
    }
}

fn catching_up() -> String {
    "catching up with what was agreed while this node was out of contact".to_owned()
}

impl Registry {
    /// Sees whether there is contact, and asks the leader when it was made.
    pub(super) fn see_to_contact(&mut self, scope: &Scope<Self>) {
        let now = scope.now();
        let status = self.agreement.group.status();
        let own = self.config.seed.node;
        let alone = status.voters.len() == 1 && status.voters.contains(&own);
        let heard = match status.leader {
            Some(leader) if leader == own && alone => Some(Duration::ZERO),
            Some(leader) if leader == own => status.quorum_age,
            Some(_) => status.leader_seen.map(|at| now.saturating_duration_since(at)),
            None => None,
        };
        let index = self.state().index();
        let Some(question) = self.contact.look(now, heard, index) else { return };
        let Some(leader) = status.leader else { return };
        let fabric = scope.fabric().clone();
        scope.spawn_then(
            async move {
                let to = if leader == own {
                    Address::here(ActorKind::Registry)
                } else {
                    Address::on(ActorKind::Registry, leader)
                };
                fabric.ask(to, ReadHead {}, Call::within(ASK_WITHIN)).await
            },
            move |registry, answer, scope| {
                let head = match answer {
                    Ok(head) => Some(head),
                    Err(error) => {
                        tracing::debug!(%error, "not known yet how far agreed state goes");
                        None
                    }
                };
                registry.contact.answered(scope.now(), question, head);
                registry.see_to_contact(scope);
                registry.assign(scope);
            },
        );
    }

    /// Why this node does not know what it owns; empty: it does.
    pub(super) fn unsure(&self, scope: &Scope<Self>) -> String {
        self.contact.unsure(scope.now())
    }
}

impl Handle<ReadHead> for Registry {
    fn handle(&mut self, _: ReadHead, reply: Reply<ReadHead>, scope: &Scope<Self>) {
        let route = self.route(scope);
        if !self.elected() {
            let text = format!("{} does not lead the cluster", self.name());
            return reply.fail(Failure::new(FailureKind::Unavailable, text).node(self.name()));
        }
        scope.spawn(async move {
            match route.group.barrier(ASK_WITHIN).await {
                Ok(_) => {
                    let index = route.control.read().index();
                    reply.ok(index);
                }
                Err(error) => reply.fail(route.failure(&error)),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::{Clock, SystemClock};

    const HEARD: Option<Duration> = Some(Duration::from_millis(100));

    #[test]
    fn after_a_start_nothing_is_known_until_state_is_as_new_as_the_leader_said() {
        let now = SystemClock.now();
        let mut contact = Contact::default();
        assert_eq!(contact.look(now, None, 7), None);
        assert!(contact.unsure(now).contains("since this daemon started"));
        let question = contact.look(now, HEARD, 7).expect("asks");
        assert_eq!(contact.look(now, HEARD, 7), None, "one question at a time");
        assert_eq!(contact.sure(), None);
        contact.answered(now, question, Some(9));
        assert_eq!(contact.look(now, HEARD, 8), None);
        assert_eq!(contact.sure(), None);
        contact.look(now, HEARD, 9);
        assert_eq!(contact.sure(), Some((question, true)));
        assert!(!contact.unsure(now).is_empty(), "not before the runtime was told");
        contact.told(question);
        assert_eq!((contact.sure(), contact.unsure(now)), (Some((question, false)), String::new()));
    }

    #[test]
    fn a_node_that_was_out_of_contact_asks_again_and_an_election_is_not_worth_saying() {
        let now = SystemClock.now();
        let mut contact =
            Contact { knows: Knowledge::Sure, returning: false, ..Contact::default() };
        contact.look(now, HEARD, 1);
        assert_eq!(contact.sure(), Some((0, false)), "heard all along");
        contact.look(now, Some(Duration::from_secs(3)), 1);
        assert_eq!((contact.sure(), contact.unsure(now)), (None, String::new()));
        contact.look(now, None, 1);
        let later = now + Duration::from_secs(4);
        assert!(contact.unsure(later).contains("for 7 s"), "{}", contact.unsure(later));
        let question = contact.look(later, HEARD, 1).expect("asks");
        // Lost again meanwhile: the late answer says nothing of now.
        contact.look(later, None, 1);
        contact.answered(later, question, Some(1));
        assert_eq!(contact.look(later, HEARD, 1), Some(question + 1));
        contact.answered(later, question + 1, None);
        assert_eq!(contact.look(later, HEARD, 1), None, "not at once");
        assert!(contact.look(later + ASK_EVERY, HEARD, 1).is_some());
    }
}
