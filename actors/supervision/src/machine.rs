//! The supervisor's decisions: pure, with time and randomness as arguments.
//!
//! # Transitions of one child
//!
//! | phase | event | next phase | actions |
//! |---|---|---|---|
//! | – | `Added` | down | start, when its turn comes |
//! | down | its turn (see below) | starting | `Start` |
//! | starting | `Started` | running | – |
//! | starting, running | `Ended` normally: transient, temporary | – | `Forget` |
//! | starting, running | `Ended` by failure: temporary | – | `Forget` |
//! | starting, running | `Ended` otherwise, within intensity | down behind a gate | `Wait` if the gate's delay is not zero; strategy: siblings leave |
//! | starting, running | `Ended` otherwise, beyond intensity or second hang | failed | `Escalate`, and no more starts |
//! | down behind a gate | `Due` with the gate's ticket | down | – |
//! | starting, running | leaves (asked, or with a sibling), when its turn comes | stopping | `Stop` |
//! | stopping | `Ended`, however | down, or gone if that was asked | `Forget` if gone |
//! | down | `RestartAsked` | down, gate open | – |
//! | down | `StopAsked`, `ShutdownAsked` | – | `Forget` |
//! | all gone after `ShutdownAsked` | | | `Down` |
//!
//! Events about another incarnation than the current one change nothing.
//!
//! **Turns.** One-for-one: at once. Rest-for-one: a child starts when every earlier one runs and
//! no later one is on its way out. One-for-all: also when no gate is shut. Where order counts,
//! children leave in reverse order, one at a time.
//!
//! **Gates.** The first failure opens at once; further ones wait `backoff.delay(n)`, growing with
//! each failure after less than 10 s of running.
//!
//! **Bound.** At most `intensity.max + 1` starts of a child in any `intensity.within`, not
//! counting those somebody asked for or a sibling caused.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weft_wire::{Backoff, Jitter};

/// A child that ran this long has recovered (design §11, "backoff").
pub const RECOVERED_AFTER: Duration = Duration::from_secs(10);
/// Two hangs within this time end the node (design §5).
pub const HANGS_WITHIN: Duration = Duration::from_secs(600);

/// What a failing child does to its siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Nothing.
    #[default]
    OneForOne,
    /// Those added after it are started again too.
    RestForOne,
    /// All are started again.
    OneForAll,
}

/// When a child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// However it ended.
    #[default]
    Permanent,
    /// If it failed.
    Transient,
    /// Never.
    Temporary,
}

/// How often a child may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// So many failures are repaired; one more fails the parent.
    pub max: u32,
    /// In this time.
    pub within: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { max: 5, within: Duration::from_secs(30) }
    }
}

/// A child, as its supervisor numbers it; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub u64);

/// What the supervisor must know of a child.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// When it is started again.
    pub restart: Restart,
    /// How often it may fail.
    pub intensity: Intensity,
    /// How delays grow.
    pub backoff: Backoff,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, well.
    Normal,
    /// By an error or a panic.
    Failed,
    /// It blocked its thread.
    Hung,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A new child, last in order.
    Added(ChildId, Plan),
    /// Incarnation so-and-so answers.
    Started(ChildId, u64),
    /// Incarnation so-and-so is gone.
    Ended(ChildId, u64, Ending),
    /// A `Wait` is over.
    Due(ChildId, u64),
    /// Somebody wants it stopped and started.
    RestartAsked(ChildId),
    /// Somebody wants it gone.
    StopAsked(ChildId),
    /// Everything shall stop.
    ShutdownAsked,
}

/// Why a supervisor gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// A child failed more often than its intensity allows.
    Intensity(Intensity),
    /// A second actor blocked its thread within [`HANGS_WITHIN`].
    SecondHang,
}

impl std::fmt::Display for GaveUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Intensity(Intensity { max, within }) => {
                write!(f, "failed more than {max} times in {} s", within.as_secs_f64())
            }
            Self::SecondHang => {
                write!(f, "second hang in {} minutes", HANGS_WITHIN.as_secs() / 60)
            }
        }
    }
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Make incarnation so-and-so.
    Start(ChildId, u64),
    /// Stop incarnation so-and-so in an orderly way; its `Ended` follows.
    Stop(ChildId, u64),
    /// Come back with `Due` and this ticket.
    Wait(ChildId, u64, Duration),
    /// It is gone for good.
    Forget(ChildId),
    /// Fail the parent.
    Escalate(ChildId, GaveUp),
    /// All are gone, as asked.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not there; a gate with this ticket keeps it from starting.
    Down(Option<u64>),
    Starting(u64),
    Running(u64, Instant),
    Stopping(u64),
    /// Given up on.
    Failed,
}

impl Phase {
    const fn is_up(self) -> bool {
        matches!(self, Self::Starting(_) | Self::Running(..) | Self::Stopping(_))
    }
}

#[derive(Debug)]
struct Child {
    id: ChildId,
    plan: Plan,
    phase: Phase,
    /// It shall stop, when its turn comes.
    leaving: bool,
    /// It shall not come back.
    unwanted: bool,
    next: u64,
    /// Failures in a row.
    streak: u32,
    failures: VecDeque<Instant>,
}

/// One supervisor's state. See the module's table.
#[derive(Debug)]
pub struct Supervisor {
    strategy: Strategy,
    /// Children leave one at a time even where their order does not matter otherwise.
    in_turn: bool,
    children: Vec<Child>,
    hangs: Vec<Instant>,
    tickets: u64,
    gave_up: bool,
    shutting_down: bool,
    down: bool,
}

impl Supervisor {
    /// One without children. `in_turn`: a shutdown stops one child at a time, last first, also
    /// under one-for-one.
    pub const fn new(strategy: Strategy, in_turn: bool) -> Self {
        Self {
            strategy,
            in_turn,
            children: Vec::new(),
            hangs: Vec::new(),
            tickets: 0,
            gave_up: false,
            shutting_down: false,
            down: false,
        }
    }

    /// Decides. `random`: a number in 0.0..1.0 for jitter.
    pub fn handle(&mut self, now: Instant, random: Jitter, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Added(id, plan) => self.added(id, plan, &mut actions),
            Event::Started(id, incarnation) => {
                if let Some(child) = self.child(id)
                    && child.phase == Phase::Starting(incarnation)
                {
                    child.phase = Phase::Running(incarnation, now);
                }
            }
            Event::Ended(id, incarnation, ending) => {
                self.ended(now, random, (id, incarnation, ending), &mut actions);
            }
            Event::Due(id, ticket) => {
                if let Some(child) = self.child(id)
                    && child.phase == Phase::Down(Some(ticket))
                {
                    child.phase = Phase::Down(None);
                }
            }
            Event::RestartAsked(id) => {
                if let Some(child) = self.child(id) {
                    child.streak = 0;
                    match child.phase {
                        Phase::Down(_) => child.phase = Phase::Down(None),
                        Phase::Starting(_) | Phase::Running(..) => child.leaving = true,
                        Phase::Stopping(_) | Phase::Failed => {}
                    }
                }
            }
            Event::StopAsked(id) => {
                if let Some(child) = self.child(id) {
                    child.unwanted = true;
                    child.leaving = true;
                }
            }
            Event::ShutdownAsked => {
                self.shutting_down = true;
                for child in &mut self.children {
                    child.unwanted = true;
                    child.leaving = true;
                }
            }
        }
        self.advance(&mut actions);
        actions
    }

    fn child(&mut self, id: ChildId) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.id == id)
    }

    fn added(&mut self, id: ChildId, plan: Plan, actions: &mut Vec<Action>) {
        if self.shutting_down || self.gave_up || self.child(id).is_some() {
            actions.push(Action::Forget(id));
            return;
        }
        self.children.push(Child {
            id,
            plan,
            phase: Phase::Down(None),
            leaving: false,
            unwanted: false,
            next: 0,
            streak: 0,
            failures: VecDeque::new(),
        });
    }

    fn ended(
        &mut self,
        now: Instant,
        random: Jitter,
        (id, incarnation, ending): (ChildId, u64, Ending),
        actions: &mut Vec<Action>,
    ) {
        let Some(at) = self.children.iter().position(|child| child.id == id) else { return };
        let Some(child) = self.children.get_mut(at) else { return };
        let (asked, ran_since) = match child.phase {
            Phase::Stopping(current) if current == incarnation => (true, None),
            Phase::Starting(current) if current == incarnation => (child.leaving, None),
            Phase::Running(current, since) if current == incarnation => {
                (child.leaving, Some(since))
            }
            _ => return,
        };
        child.phase = Phase::Down(None);
        child.leaving = false;
        if ending == Ending::Hung {
            self.hangs.retain(|then| now.saturating_duration_since(*then) < HANGS_WITHIN);
            self.hangs.push(now);
            if self.hangs.len() > 1 && !self.shutting_down {
                child.phase = Phase::Failed;
                if !self.gave_up {
                    self.gave_up = true;
                    actions.push(Action::Escalate(id, GaveUp::SecondHang));
                }
                return;
            }
        }
        if asked {
            // It was to stop anyway; how it did does not count.
            return;
        }
        let again = match child.plan.restart {
            Restart::Permanent => true,
            Restart::Transient => ending != Ending::Normal,
            Restart::Temporary => false,
        };
        if !again {
            child.unwanted = true;
            return;
        }
        let Intensity { max, within } = child.plan.intensity;
        while child
            .failures
            .front()
            .is_some_and(|then| now.saturating_duration_since(*then) >= within)
        {
            child.failures.pop_front();
        }
        child.failures.push_back(now);
        if child.failures.len() > max as usize {
            child.phase = Phase::Failed;
            if !self.gave_up {
                self.gave_up = true;
                actions.push(Action::Escalate(id, GaveUp::Intensity(child.plan.intensity)));
            }
            return;
        }
        if ran_since.is_some_and(|since| now.saturating_duration_since(since) >= RECOVERED_AFTER) {
            child.streak = 0;
        }
        let delay = match child.streak.checked_sub(1) {
            None => Duration::ZERO,
            Some(attempt) => child.plan.backoff.delay(attempt, random),
        };
        child.streak = child.streak.saturating_add(1);
        if !delay.is_zero() {
            self.tickets += 1;
            child.phase = Phase::Down(Some(self.tickets));
            actions.push(Action::Wait(id, self.tickets, delay));
        }
        let first = match self.strategy {
            Strategy::OneForOne => return,
            Strategy::RestForOne => at + 1,
            Strategy::OneForAll => 0,
        };
        for sibling in self.children.iter_mut().skip(first) {
            if matches!(sibling.phase, Phase::Starting(_) | Phase::Running(..)) {
                sibling.leaving = true;
            }
        }
    }

    /// Does whatever has its turn now.
    fn advance(&mut self, actions: &mut Vec<Action>) {
        let in_turn = self.strategy != Strategy::OneForOne || (self.in_turn && self.shutting_down);
        let mut later_leaves = false;
        for child in self.children.iter_mut().rev() {
            if child.leaving
                && !(in_turn && later_leaves)
                && let Phase::Starting(incarnation) | Phase::Running(incarnation, _) = child.phase
            {
                child.phase = Phase::Stopping(incarnation);
                actions.push(Action::Stop(child.id, incarnation));
            }
            later_leaves |=
                child.phase.is_up() && (child.leaving || matches!(child.phase, Phase::Stopping(_)));
        }
        self.children.retain(|child| {
            let gone = child.unwanted && !child.phase.is_up();
            if gone {
                actions.push(Action::Forget(child.id));
            }
            !gone
        });
        if self.shutting_down {
            if self.children.is_empty() && !self.down {
                self.down = true;
                actions.push(Action::Down);
            }
            return;
        }
        if self.gave_up {
            return;
        }
        let ordered = self.strategy != Strategy::OneForOne;
        let gated = self.strategy == Strategy::OneForAll
            && self.children.iter().any(|child| matches!(child.phase, Phase::Down(Some(_))));
        let leaving = |child: &Child| {
            child.phase.is_up() && (child.leaving || matches!(child.phase, Phase::Stopping(_)))
        };
        if ordered && (gated || self.children.iter().any(leaving)) {
            return;
        }
        for child in &mut self.children {
            if child.phase == Phase::Down(None) {
                let incarnation = child.next;
                child.next += 1;
                child.phase = Phase::Starting(incarnation);
                actions.push(Action::Start(child.id, incarnation));
            }
            if ordered && !matches!(child.phase, Phase::Running(..)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
