//! What a container's life has beside a process': what is to take its place is got ready first, and
//! others see to it, start it and hide it.

use weft_protocol::{ComponentState, Desired, Driver, Health};

use super::instance::Instance;
use super::{BACKOFF, Component, Effect, Now, Permanence, Phase, REFUSED_AFTER, Sight};

/// Getting ready what is to take the place of what runs.
#[derive(Debug, Default)]
pub(super) struct Next {
    /// Of the newest [`Effect::Prepare`].
    pub(super) number: u64,
    pub(super) phase: NextPhase,
    pub(super) attempt: u32,
    /// Why it has not happened; empty: no reason.
    pub(super) why: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextPhase {
    #[default]
    Idle,
    Preparing,
    /// Tried again when the timer goes off.
    Waiting,
    Ready,
    /// Not before somebody does something.
    Refused,
}

impl Next {
    /// For something else: whatever is under way is of no account.
    pub(super) fn anew(&self) -> Self {
        Self { number: self.number + 1, ..Self::default() }
    }
}

impl Component {
    /// Whether what is wanted may take the place of what runs. A process whose definition ships no
    /// files is looked for when it is started: that takes no time.
    pub(super) fn is_next_ready(&self) -> bool {
        let takes_time = self.assignment.as_ref().is_some_and(|assignment| {
            assignment.spec.driver == Driver::Container || !assignment.files.is_empty()
        });
        !takes_time || self.next.phase == NextPhase::Ready
    }

    pub(super) fn prepare(&mut self) {
        if self.next.phase == NextPhase::Idle {
            self.next.number += 1;
            self.next.phase = NextPhase::Preparing;
            self.effects.push(Effect::Prepare(self.next.number));
        }
    }

    pub(super) fn prepared(&mut self, at: &Now, answer: Result<(), (String, Permanence)>) {
        if self.next.phase != NextPhase::Preparing {
            return;
        }
        self.next.phase = match answer {
            Ok(()) => {
                self.next.why.clear();
                NextPhase::Ready
            }
            Err((why, Permanence::Permanent)) => {
                self.next.why = why;
                // Nothing is done to what runs: not by an operator's restart either.
                self.restart_requested = false;
                NextPhase::Refused
            }
            Err((why, Permanence::Passing)) => {
                self.next.why = why;
                if self.phase != Phase::Up {
                    NextPhase::Idle
                } else {
                    self.set_timer(BACKOFF.delay(self.next.attempt, at.random));
                    self.next.attempt = self.next.attempt.saturating_add(1);
                    NextPhase::Waiting
                }
            }
        };
    }

    pub(super) fn seen(&mut self, at: &Now, sight: Sight) {
        match sight {
            Sight::Clear => {
                let frozen = self.is_frozen();
                if frozen && self.health == Health::Unknown {
                    // It was paused before its first good probe.
                    self.transition(at.wall, ComponentState::Starting, "engine", "");
                    self.reason = "waits for its first good probe".to_owned();
                } else if frozen || self.state == ComponentState::Unknown {
                    self.transition(at.wall, ComponentState::Running, "engine", "");
                }
                if self.phase == Phase::Up && self.state == ComponentState::Running {
                    self.reason.clear();
                }
            }
            Sight::Dim(why) => self.reason = why,
            Sight::Frozen(why) => {
                self.reason = why;
                let up = self.phase == Phase::Up;
                if up && self.state != ComponentState::Stopped {
                    self.transition(at.wall, ComponentState::Stopped, "engine", "");
                    self.bad_probes = 0;
                    // It lives: the next daemon must not take it for what has no process.
                    self.memory.state = Some(ComponentState::Unknown);
                }
            }
            Sight::Blind(why) => {
                self.reason = why;
                if self.state == ComponentState::Running || self.is_frozen() {
                    self.transition(at.wall, ComponentState::Unknown, "engine", "");
                }
            }
        }
    }

    /// Whether somebody has paused its container.
    pub(super) fn is_frozen(&self) -> bool {
        self.phase == Phase::Up && self.state == ComponentState::Stopped
    }

    /// It runs, though nobody here started it: seen to as if it had been, and stopped if that is
    /// not what is wanted.
    pub(super) fn surfaced(&mut self, at: &Now, instance: Instance) {
        self.phase = Phase::Up;
        self.timer += 1;
        self.end = None;
        self.up_since = Some(at.now);
        self.instance = Some(instance);
        self.surfaced = true;
        self.reason.clear();
        self.transition(at.wall, ComponentState::Running, "engine", "");
        self.begin_probing();
    }

    /// Whether what is wanted cannot be started here, as far as anybody could say: it was said so,
    /// or several attempts came to nothing.
    pub(super) fn is_refused(&self) -> bool {
        self.next.phase == NextPhase::Refused
            || self.next.attempt >= REFUSED_AFTER
            || self.failed_starts >= REFUSED_AFTER && self.desired() == Desired::Running
            || self.ended_soon
    }
}
