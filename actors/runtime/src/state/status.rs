//! What is told of a component.

use weft_protocol::{Assignment, ComponentStatus, Desired, Driver, Health};

use super::{Component, HELD, Phase};
use crate::limits::by_engine;

impl Component {
    /// The row that lists show; `urls` is the shell's.
    pub(crate) fn status(&self) -> ComponentStatus {
        let running = matches!(self.phase, Phase::Up | Phase::Stopping | Phase::Cleaning);
        let file = self.instance.as_ref().filter(|_| running);
        let assignment = self.assignment.as_ref();
        let routes = assignment.map_or(&[][..], |a| &a.spec.routes);
        let version = match file.filter(|f| !f.image.is_empty()) {
            Some(f) => weft_protocol::image_version(&f.image).to_owned(),
            None => assignment.map_or_else(String::new, |a| {
                let own = a.spec.shown_version();
                if own.is_empty() { a.service_version.clone() } else { own }
            }),
        };
        ComponentStatus {
            key: self.key.clone(),
            desired: self.desired(),
            state: self.state,
            health: if running { self.health } else { Health::None },
            pid: file.map_or(0, |f| f.pid),
            version,
            revision: file.map_or_else(|| assignment.map_or(0, |a| a.revision), |f| f.revision),
            spec_hash: file
                .map_or_else(
                    || assignment.map(|a| a.spec_hash.clone()),
                    |f| Some(f.spec_hash.clone()),
                )
                .unwrap_or_default(),
            epoch: file.map_or_else(|| assignment.map_or(0, |a| a.epoch), |f| f.epoch),
            restarts: self.memory.restarts,
            started_at: file.map(|f| f.started_at),
            since: self.since,
            last_exit: self.memory.last_exit.clone(),
            reason: self.reason(),
            ports: file.map_or_else(Vec::new, |f| {
                routes.iter().map(|r| r.name.clone()).zip(f.ports.iter().copied()).collect()
            }),
            urls: Vec::new(),
            driver: match file {
                Some(f) => f.driver(),
                None => assignment.map_or(Driver::Process, |a| a.spec.driver),
            },
            image: file.map_or_else(
                || assignment.map_or_else(String::new, |a| a.spec.image.clone()),
                |f| f.image.clone(),
            ),
            digest: file.map_or_else(String::new, |f| f.digest.clone()),
            container: file.map_or_else(String::new, |f| f.container().to_owned()),
            limits: match file {
                Some(f) if f.driver() == Driver::Process => f.limits.clone(),
                Some(_) => assignment.map_or_else(String::new, |a| by_engine(a.spec.resources)),
                None => String::new(),
            },
            refused: if self.is_refused() { assignment.map_or(0, |a| a.revision) } else { 0 },
        }
    }

    /// Whether it may be another node's by now. A fenced one is not where it holds a lease.
    pub(super) fn is_unsure(&self) -> bool {
        self.held && !self.assignment.as_ref().is_some_and(|a| a.fenced)
    }

    fn reason(&self) -> String {
        let idle = matches!(self.phase, Phase::Idle | Phase::Backoff);
        if self.is_unsure() && idle && self.desired() == Desired::Running {
            return HELD.to_owned();
        }
        match &self.assignment {
            Some(Assignment { leaving: to, desired, .. })
                if self.reason.is_empty() && !to.is_empty() && !self.unassigned =>
            {
                match desired {
                    Desired::Running => {
                        format!("moves to {to}; kept here until the copy there is healthy")
                    }
                    Desired::Ignore => format!(
                        "was placed on {to} while this node was lost; kept here until it is decided which copy stays"
                    ),
                    Desired::Stopped => String::new(),
                }
            }
            Some(assignment) if self.reason.is_empty() && !self.next.why.is_empty() => {
                format!("revision {} is not started: {}", assignment.revision, self.next.why)
            }
            _ => self.reason.clone(),
        }
    }
}
