//! What the probe says, and what follows from it.

use std::time::Duration;

use weft_protocol::{ComponentState, Desired, Health, RestartPolicy};

use super::{Component, Effect, End, Now};

impl Component {
    /// Whether there is a probe.
    pub(super) fn begin_probing(&mut self) -> bool {
        self.bad_probes = 0;
        let declared = self.assignment.as_ref().is_some_and(|a| a.spec.health.is_some());
        self.health = if declared { Health::Unknown } else { Health::None };
        if declared {
            self.effects.push(Effect::Probe(self.run));
        }
        declared
    }

    pub(super) fn probed(&mut self, at: &Now, answer: Result<(), String>) {
        let Some(check) = self.assignment.as_ref().and_then(|a| a.spec.health.clone()) else {
            return;
        };
        // It cannot answer, and nobody wants it ended for that.
        if self.is_frozen() {
            return;
        }
        match answer {
            Ok(()) => {
                self.bad_probes = 0;
                self.health = Health::Healthy;
                self.bad_probe.clear();
                self.reason.clear();
                if self.state == ComponentState::Starting {
                    let cause = self.cause;
                    self.transition(at.wall, ComponentState::Running, cause, "");
                }
            }
            Err(text) => {
                let up = self.up_since.map_or(Duration::ZERO, |since| at.now.duration_since(since));
                // Before the first good probe, a start takes as long as it was given.
                if self.health == Health::Unknown && up < check.start_period {
                    return;
                }
                self.bad_probes = self.bad_probes.saturating_add(1);
                if self.bad_probes < check.retries.max(1) {
                    return;
                }
                self.health = Health::Unhealthy;
                self.reason = format!("unhealthy: {text}");
                self.bad_probe = text;
                let policy = self.assignment.as_ref().map(|a| a.spec.restart);
                let mends = policy != Some(RestartPolicy::No) && !self.reports;
                if self.desired() == Desired::Running && mends {
                    self.stop(at, End::Probe);
                }
            }
        }
    }
}
