//! Watching a change come true, as a pure machine: what is expected of each component, statuses
//! and silence in, decisions out. Every component is decided exactly once.

use std::time::{Duration, Instant};

use weft_protocol::{
    ComponentKey, ComponentRow, ComponentState, ComponentStatus, Desired, Health, RestartPolicy,
};
use weft_wire::{Failure, FailureKind};

use crate::rows::{Nowhere, Wanted, unseen};

/// A component without a probe counts as good after running this long: a program that dies at
/// once would otherwise pass for a success.
pub(crate) const SETTLE: Duration = Duration::from_millis(300);

/// What makes a component good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It runs.
    Up {
        /// Of this revision or a later one.
        revision: u64,
        /// Or of an earlier one that runs the same (equal spec hash); empty: not so.
        hash: String,
        /// And not the process that ran before.
        anew: bool,
    },
    /// It does not run.
    Down,
    /// Whatever it does.
    Any,
}

/// A component to be decided.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// As desired state has it after the change (before it, when it goes).
    pub(crate) wanted: Wanted,
    /// Name of its node.
    pub(crate) node: String,
    pub(crate) goal: Goal,
    pub(crate) restart: RestartPolicy,
    /// Its status before the change; `None`: not known, or nothing was to change.
    pub(crate) before: Option<ComponentStatus>,
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    Progress(ComponentRow),
    Good(ComponentRow),
    Bad(ComponentRow, Failure),
}

#[derive(Debug)]
struct Item {
    expected: Expected,
    last: Option<ComponentStatus>,
    running: Option<(u32, Instant)>,
    decided: bool,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Rollout {
    items: Vec<Item>,
    good: u32,
    bad: u32,
}

enum Opinion {
    Good,
    /// Good once it has lasted.
    Settle,
    Wait,
    Bad(Failure),
}

impl Rollout {
    pub(crate) fn new(expected: Vec<Expected>) -> Self {
        let items = expected
            .into_iter()
            .map(|expected| Item { expected, last: None, running: None, decided: false })
            .collect();
        Self { items, good: 0, bad: 0 }
    }

    /// Whether all are decided.
    pub(crate) fn is_done(&self) -> bool {
        self.items.iter().all(|item| item.decided)
    }

    /// How many are as wanted, and how many will not be.
    pub(crate) const fn counts(&self) -> (u32, u32) {
        (self.good, self.bad)
    }

    /// Whether a component of that node is undecided.
    pub(crate) fn awaits(&self, node: &str) -> bool {
        self.items.iter().any(|item| !item.decided && item.expected.node == node)
    }

    /// One component as its node sees it now.
    pub(crate) fn status(
        &mut self,
        node: &str,
        status: &ComponentStatus,
        now: Instant,
    ) -> Vec<Decision> {
        let mut out = Vec::new();
        let found = self.items.iter().position(|item| {
            !item.decided && item.expected.node == node && item.expected.wanted.key == status.key
        });
        let Some(item) = found.and_then(|at| self.items.get_mut(at)) else { return out };
        let moved = item.last.as_ref().is_none_or(|last| {
            (last.state, last.health, last.pid) != (status.state, status.health, status.pid)
        });
        item.last = Some(status.clone());
        if status.refused == 0
            && let Some(before) = &mut item.expected.before
        {
            // It has heard of the change: what it refuses from now on is that.
            before.refused = 0;
        }
        match opinion(&item.expected, status) {
            Opinion::Settle => match item.running {
                Some((pid, since)) if pid == status.pid => {
                    if now.saturating_duration_since(since) >= SETTLE {
                        return vec![self.good_at(found)].into_iter().flatten().collect();
                    }
                }
                _ => item.running = Some((status.pid, now)),
            },
            other => {
                item.running = None;
                match other {
                    Opinion::Good => return self.good_at(found).into_iter().collect(),
                    Opinion::Bad(failure) => {
                        return self.bad_at(found, failure).into_iter().collect();
                    }
                    Opinion::Settle | Opinion::Wait => {}
                }
            }
        }
        if moved {
            out.push(Decision::Progress(ComponentRow {
                node: node.to_owned(),
                status: status.clone(),
            }));
        }
        out
    }

    /// Everything a node has: what is not listed does not run there.
    pub(crate) fn listing(
        &mut self,
        node: &str,
        list: &[ComponentStatus],
        now: Instant,
    ) -> Vec<Decision> {
        let mut out: Vec<Decision> =
            list.iter().flat_map(|status| self.status(node, status, now)).collect();
        let absent: Vec<usize> = self
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| {
                !item.decided
                    && item.expected.node == node
                    && matches!(item.expected.goal, Goal::Down | Goal::Any)
                    && !list.iter().any(|status| status.key == item.expected.wanted.key)
            })
            .map(|(at, _)| at)
            .collect();
        for at in absent {
            if let Some(item) = self.items.get_mut(at) {
                let wanted = &item.expected.wanted;
                let row = unseen(wanted, node, ComponentState::Removed, String::new());
                item.last = Some(row.status);
            }
            out.extend(self.good_at(Some(at)));
        }
        out
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Decision> {
        let due: Vec<usize> = self
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| {
                !item.decided
                    && item
                        .running
                        .is_some_and(|(_, since)| now.saturating_duration_since(since) >= SETTLE)
            })
            .map(|(at, _)| at)
            .collect();
        due.into_iter().filter_map(|at| self.good_at(Some(at))).collect()
    }

    /// When [`Rollout::tick`] has something to do.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.items
            .iter()
            .filter(|item| !item.decided)
            .filter_map(|item| item.running.map(|(_, since)| since + SETTLE))
            .min()
    }

    /// A node does not answer any more, or never did.
    pub(crate) fn vanished(&mut self, node: &str, cause: &str) -> Vec<Decision> {
        self.give_up(|item| item.expected.node == node, |item| {
            failure(&item.expected, FailureKind::Unavailable, format!("{node} does not answer"))
                .step("watch the component")
                .cause(cause)
                .help(format!(
                    "the change is in force; look at the node with `weft node list`, then `weft ps {}`",
                    item.expected.wanted.key.service
                ))
        })
    }

    /// No node was found for these replicas.
    pub(crate) fn unplaced(&mut self, nowhere: &Nowhere) -> Vec<Decision> {
        self.give_up(
            |item| item.expected.wanted.node.is_none(),
            |item| {
                let replica = item.expected.wanted.key.replica;
                let why = &item.expected.wanted.why;
                if !why.is_empty() {
                    let text = format!("replica {replica} waits");
                    return failure(&item.expected, FailureKind::Conflict, text)
                        .cause(why)
                        .step("place the replica");
                }
                let text = format!("there is no node for replica {replica}");
                let failure = failure(&item.expected, FailureKind::Exhausted, text)
                    .step("place the replica")
                    .help("lower `replicas`, change what it asks for, or let more nodes join");
                let service = item.expected.wanted.key.service.clone();
                match nowhere.get(&(service, replica)) {
                    Some(why) => failure.cause(why),
                    None => failure,
                }
            },
        )
    }

    /// Another operation took this one's place.
    pub(crate) fn superseded(&mut self, by: &str) -> Vec<Decision> {
        self.give_up(
            |_| true,
            |item| {
                failure(&item.expected, FailureKind::Conflict, format!("superseded: {by}"))
                    .step("watch the component")
                    .help("that one counts now; `weft operations` lists them")
            },
        )
    }

    /// Time is up.
    pub(crate) fn timed_out(&mut self, after: Duration) -> Vec<Decision> {
        self.give_up(
            |_| true,
            |item| {
                let (state, reason) = item.last.as_ref().map_or(("not seen", ""), |status| {
                    (status.state.as_str(), status.reason.as_str())
                });
                let text = format!("not as wanted after {} s: {state}", after.as_secs());
                let failure = failure(&item.expected, FailureKind::Timeout, text)
                    .step("watch the component")
                    .help("it goes on; wait longer with `--timeout`, or look with `weft ps`");
                if reason.is_empty() { failure } else { failure.cause(reason) }
            },
        )
    }

    fn give_up(
        &mut self,
        which: impl Fn(&Item) -> bool,
        why: impl Fn(&Item) -> Failure,
    ) -> Vec<Decision> {
        let hit: Vec<(usize, Failure)> = self
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| !item.decided && which(item))
            .map(|(at, item)| (at, why(item)))
            .collect();
        hit.into_iter().filter_map(|(at, failure)| self.bad_at(Some(at), failure)).collect()
    }

    fn good_at(&mut self, at: Option<usize>) -> Option<Decision> {
        let item = self.items.get_mut(at?)?;
        item.decided = true;
        self.good += 1;
        Some(Decision::Good(row(item)))
    }

    fn bad_at(&mut self, at: Option<usize>, failure: Failure) -> Option<Decision> {
        let item = self.items.get_mut(at?)?;
        item.decided = true;
        self.bad += 1;
        Some(Decision::Bad(row(item), failure))
    }
}

fn row(item: &Item) -> ComponentRow {
    let node = &item.expected.node;
    match &item.last {
        Some(status) => ComponentRow { node: node.clone(), status: status.clone() },
        None => {
            let state = match item.expected.wanted.node {
                Some(_) => ComponentState::Unknown,
                None => ComponentState::Waiting,
            };
            unseen(&item.expected.wanted, node, state, String::new())
        }
    }
}

fn failure(expected: &Expected, kind: FailureKind, text: String) -> Failure {
    let ComponentKey { service, component, .. } = &expected.wanted.key;
    Failure::new(kind, text).node(&expected.node).service(service).component(component)
}

fn opinion(expected: &Expected, status: &ComponentStatus) -> Opinion {
    use ComponentState as S;
    match &expected.goal {
        Goal::Any => Opinion::Good,
        Goal::Down => match status.state {
            // Somebody has paused its container: it is still there.
            S::Stopped if status.pid != 0 => Opinion::Wait,
            S::Stopped | S::Removed => Opinion::Good,
            S::Exited | S::Failed if status.desired == Desired::Stopped => Opinion::Good,
            _ => Opinion::Wait,
        },
        Goal::Up { revision, hash, anew } => {
            let before = expected.before.as_ref();
            let new =
                status.revision >= *revision || (!hash.is_empty() && status.spec_hash == *hash);
            // What the node said before it heard of the change proves nothing.
            let fresh = before.is_none_or(|b| {
                (b.state, b.since, b.pid, b.started_at, b.revision)
                    != (status.state, status.since, status.pid, status.started_at, status.revision)
            });
            let same_process =
                before.is_some_and(|b| (b.pid, b.started_at) == (status.pid, status.started_at));
            // What runs goes on; what was asked for does not take its place.
            let told_before = before.is_some_and(|b| b.refused == status.refused);
            if status.refused >= *revision && status.refused > 0 && !told_before {
                return Opinion::Bad(failed(expected, status));
            }
            match status.state {
                S::Running if new && !(*anew && same_process) => match status.health {
                    Health::Healthy => Opinion::Good,
                    Health::None => Opinion::Settle,
                    Health::Unhealthy | Health::Unknown => Opinion::Wait,
                },
                S::Failed if new && fresh => Opinion::Bad(failed(expected, status)),
                S::Exited if new && fresh && expected.restart.stays_down(&status.last_exit) => {
                    let text = "it ended and its restart policy does not start it again";
                    Opinion::Bad(ended(expected, status, text))
                }
                _ => Opinion::Wait,
            }
        }
    }
}

/// It is given up on: why is what the runtime says.
fn failed(expected: &Expected, status: &ComponentStatus) -> Failure {
    match (status.reason.as_str(), status.last_exit.as_str()) {
        ("", "") => after_start(expected, "it failed, and its node does not say why"),
        ("", exit) => after_start(expected, &format!("it failed: {exit}")),
        (reason, _) => after_start(expected, reason),
    }
}

fn ended(expected: &Expected, status: &ComponentStatus, text: &str) -> Failure {
    let cause = if status.reason.is_empty() { &status.last_exit } else { &status.reason };
    after_start(expected, text).cause(cause)
}

fn after_start(expected: &Expected, text: &str) -> Failure {
    let key = &expected.wanted.key;
    failure(expected, FailureKind::Failed, text.to_owned())
        .step("start the component")
        .help(format!("see `weft logs {}/{}`, then deploy again", key.service, key.component))
}

#[cfg(test)]
mod tests;
