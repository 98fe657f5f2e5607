//! How a run comes to its end, and whether another follows it (orchestration §22b).

use std::time::Duration;

use weft_protocol::{ComponentKey, ComponentState, Desired, Driver, Health, RestartPolicy};
use weft_wire::WallTime;

use super::instance::Instance;
use super::{
    BACKOFF, Component, Effect, End, Ending, FAIL_COUNT, FAIL_WITHIN, GOOD_RUN, Now, Permanence,
    Phase, Settled,
};

impl Component {
    pub(super) fn start_failed(&mut self, at: &Now, reason: String, permanence: Permanence) {
        self.phase = Phase::Idle;
        if std::mem::take(&mut self.cancelled) {
            // What is wanted now is not what failed.
            self.reason.clear();
            if self.desired() == Desired::Ignore {
                self.transition(at.wall, ComponentState::Exited, "operator", "");
            }
            return;
        }
        self.reason = reason;
        if self.assignment.as_ref().is_some_and(|a| a.spec.driver == Driver::Container) {
            self.failed_starts = self.failed_starts.saturating_add(1);
        }
        if self.desired() != Desired::Running {
            self.transition(at.wall, ComponentState::Exited, "self", "");
            return;
        }
        match permanence {
            Permanence::Permanent => self.settle(at, true, self.reason.clone(), "self", ""),
            Permanence::Passing => {
                self.transition(at.wall, ComponentState::Exited, "self", "");
                self.again(at);
            }
        }
    }

    /// The process is gone, all of it.
    pub(super) fn ended(&mut self, at: &Now, ending: Ending<'_>, end: End) {
        let exit = match ending {
            Ending::Exit(exit) => Some(exit),
            Ending::Killed | Ending::Removed => None,
        };
        // What an operator reads: `exited`, or that there is nothing any more.
        let gone = match ending {
            Ending::Removed => ComponentState::Removed,
            _ => ComponentState::Exited,
        };
        self.phase = Phase::Idle;
        self.timer += 1;
        self.effects.push(Effect::StopProbe);
        let ran = self.up_since.take().map_or(Duration::ZERO, |since| at.now.duration_since(since));
        let when = exit.map_or(at.wall, |exit| exit.at);
        let text = match (ending, self.instance.as_ref().map(Instance::driver)) {
            (Ending::Exit(exit), _) => exit.status.clone(),
            (Ending::Removed, _) => "removed".to_owned(),
            (Ending::Killed, Some(Driver::Container)) => "killed and removed".to_owned(),
            (Ending::Killed, _) => "killed with its shim".to_owned(),
        };
        self.memory.last_exit.clone_from(&text);
        // Not so while something else is wanted already.
        let as_wanted = self.is_for_what_is_wanted();
        self.memory.ended = self.instance.take().map(|instance| instance.id);
        self.health = Health::None;
        let cause = match end {
            End::Wanted(cause) => {
                // It may be wanted again at once; then this is what it goes through.
                self.reason.clear();
                self.transition(when, ComponentState::Stopped, cause, &text);
                return;
            }
            End::Probe => "probe",
            End::Own(cause) => cause,
        };
        if let Some(exit) = exit.filter(|exit| exit.lease_ended) {
            // No fault of its own: it is started again once a lease is held, without a delay.
            self.reason.clone_from(&exit.status);
            self.is_restart = true;
            self.cause = "lease";
            self.transition(when, ComponentState::Exited, "lease", &text);
            return;
        }
        self.reason = match (end, exit) {
            (End::Probe, _) => {
                format!("stopped because its probe failed: {} ({text})", self.bad_probe)
            }
            (_, None) if gone == ComponentState::Removed => {
                "no such container: somebody removed it".to_owned()
            }
            (_, None) => std::mem::take(&mut self.lost),
            (_, Some(exit)) if exit.failed_to_start => exit.status.clone(),
            (_, Some(_)) => format!("ended by itself: {text}"),
        };
        let leave = self.restart_requested || self.desired() != Desired::Running;
        let good = end != End::Probe && exit.and_then(|exit| exit.code) == Some(0);
        let policy = self.assignment.as_ref().map(|a| a.spec.restart);
        if ran >= GOOD_RUN {
            self.in_a_row = 0;
        } else {
            self.failures.push_back(at.now);
        }
        while self.failures.front().is_some_and(|f| at.now.duration_since(*f) > FAIL_WITHIN) {
            self.failures.pop_front();
        }
        if leave || policy.is_none() {
            self.transition(when, gone, cause, &text);
            return;
        }
        match policy {
            Some(RestartPolicy::No) => {
                let reason = format!("{}; its restart policy is `no`", self.reason);
                self.settle_at(when, false, reason, cause, &text);
            }
            Some(RestartPolicy::OnFailure(_)) if good => {
                self.settle_at(when, false, "ended well".to_owned(), cause, &text);
            }
            _ if self.reports && as_wanted => {
                self.ended_soon = ran < GOOD_RUN;
                self.report(when, gone, cause, &text);
            }
            _ if self.reports => self.transition(when, gone, cause, &text),
            Some(RestartPolicy::OnFailure(Some(most))) if self.in_a_row >= most => {
                let times = if most == 1 { "once".to_owned() } else { format!("{most} times") };
                let reason = match most {
                    0 => format!("{}; its restart policy allows no restart", self.reason),
                    _ => {
                        format!("{}; restarted {times}, as its restart policy allows", self.reason)
                    }
                };
                let reason = format!("{reason}. {}", self.advice());
                self.settle_at(when, true, reason, cause, &text);
            }
            _ if self.failures.len() >= FAIL_COUNT => {
                let reason = format!(
                    "{}; {FAIL_COUNT} times within {} minutes after less than {} s each. {}",
                    self.reason,
                    FAIL_WITHIN.as_secs() / 60,
                    GOOD_RUN.as_secs(),
                    self.advice()
                );
                self.settle_at(when, true, reason, cause, &text);
            }
            _ => {
                self.transition(when, gone, cause, &text);
                self.again(at);
            }
        }
    }

    /// Whether what runs, or ran, was made for what is wanted now.
    fn is_for_what_is_wanted(&self) -> bool {
        match (&self.assignment, &self.instance) {
            (Some(want), Some(have)) => {
                want.spec_hash == have.spec_hash && want.epoch == have.epoch
            }
            _ => false,
        }
    }

    /// Whether what is wanted has run here already, as far as is remembered.
    pub(super) fn has_run(&self) -> bool {
        let wanted = self.assignment.as_ref().map(|want| (want.spec_hash.as_str(), want.epoch));
        let ran = self.memory.ran.as_ref().map(|(hash, epoch)| (hash.as_str(), *epoch));
        let state = self.memory.state;
        let fresh = [ComponentState::Pending, ComponentState::Starting, ComponentState::Stopped];
        wanted.is_some()
            && wanted == ran
            && state.is_some_and(|state| !fresh.contains(&state))
            && self.desired() == Desired::Running
    }

    /// It ran, and nothing is left of it, nor anybody who saw its end: the machine was off.
    pub(super) fn lost_unseen(&mut self, at: &Now) {
        self.reason = "it does not run any more, and nobody saw it end".to_owned();
        let gone = match self.memory.state {
            Some(ComponentState::Removed) => ComponentState::Removed,
            _ => ComponentState::Exited,
        };
        self.report(at.wall, gone, "takeover", "");
    }

    /// It stays as it is until somebody acts: nothing is mended on this node.
    fn report(&mut self, when: WallTime, gone: ComponentState, cause: &str, exit: &str) {
        let ComponentKey { service, component, .. } = &self.key;
        let reason = format!(
            "{}; this node starts nothing again by itself (reconcile.mode = \"report\"): use `weft start {service}/{component}`",
            self.reason
        );
        self.reason.clone_from(&reason);
        if let Some(assignment) = &self.assignment {
            self.memory.settled = Some(Settled {
                spec_hash: assignment.spec_hash.clone(),
                epoch: assignment.epoch,
                failed: false,
                reason,
                reported: true,
            });
        }
        self.transition(when, gone, cause, exit);
    }

    /// What an operator may do about a component that was given up on; commands as they are typed.
    fn advice(&self) -> String {
        let ComponentKey { service, component, .. } = &self.key;
        format!(
            "See why with `weft logs {service}/{component}`, then `weft restart {service}/{component}`"
        )
    }

    /// Starts it again: at once the first time, then later and later.
    fn again(&mut self, at: &Now) {
        self.is_restart = true;
        self.cause = "reconcile";
        let attempt = self.in_a_row;
        self.in_a_row = self.in_a_row.saturating_add(1);
        // The first restart is at once: `decide` starts what is idle.
        if let Some(waits) = attempt.checked_sub(1) {
            self.phase = Phase::Backoff;
            self.set_timer(BACKOFF.delay(waits, at.random));
        }
    }

    fn settle(&mut self, at: &Now, failed: bool, reason: String, cause: &str, exit: &str) {
        self.settle_at(at.wall, failed, reason, cause, exit);
    }

    fn settle_at(&mut self, when: WallTime, failed: bool, reason: String, cause: &str, exit: &str) {
        self.reason.clone_from(&reason);
        if let Some(assignment) = &self.assignment {
            self.memory.settled = Some(Settled {
                spec_hash: assignment.spec_hash.clone(),
                epoch: assignment.epoch,
                failed,
                reason,
                reported: false,
            });
        }
        if failed {
            // The exit itself is an event too.
            if !exit.is_empty() {
                self.transition(when, ComponentState::Exited, cause, exit);
            }
            self.transition(when, ComponentState::Failed, cause, exit);
        } else {
            self.transition(when, ComponentState::Exited, cause, exit);
        }
    }
}
