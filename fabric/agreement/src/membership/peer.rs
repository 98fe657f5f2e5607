//! The verdict on one other node: what SWIM thinks, what its host says, and how long it has been.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Liveness;
use super::times::Times;
use super::wire::{Health, Opinion};

/// A host that did not answer this many probes is silent.
const HOST_PROBES: u32 = 5;
/// Who is lost this often within [`FLAP_WINDOW`] flaps.
const FLAPS: usize = 3;
/// See [`FLAPS`].
const FLAP_WINDOW: Duration = Duration::from_secs(60);
/// Who flaps stays lost until it has been alive for this long without a break.
const FLAP_HOLD: Duration = Duration::from_secs(30);

/// What a probe of a host brought within its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HostAnswer {
    /// The daemon's port is closed, says the host.
    pub(crate) refused: bool,
    /// The host said anything at all.
    pub(crate) up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Known from agreed state, never heard of by anybody.
    Unheard {
        until: Instant,
    },
    Alive {
        since: Instant,
    },
    Suspect {
        since: Instant,
    },
    /// Dead by SWIM; its host is being asked.
    Silent {
        since: Instant,
        dead: Instant,
    },
    /// Dead by SWIM; its host is up.
    DaemonDown {
        since: Instant,
    },
    Lost,
    Away {
        until: Instant,
    },
    Left,
}

/// The probes of a host during one silence.
#[derive(Debug, Clone, Copy, Default)]
struct Host {
    first: Option<Instant>,
    next: Option<Instant>,
    asked: u32,
    refused: bool,
    heard: Option<Instant>,
}

/// One other node.
#[derive(Debug)]
pub(crate) struct Peer {
    phase: Phase,
    host: Host,
    incarnation: u64,
    /// When it was lost, lately.
    lost: VecDeque<Instant>,
    flapping: bool,
    shown: Liveness,
    shown_since: Instant,
}

impl Peer {
    pub(crate) fn new(now: Instant, times: &Times) -> Self {
        Self {
            phase: Phase::Unheard { until: now + times.unheard },
            host: Host::default(),
            incarnation: 0,
            lost: VecDeque::new(),
            flapping: false,
            shown: Liveness::Suspect,
            shown_since: now,
        }
    }

    /// What it shows, since when, and its incarnation.
    pub(crate) fn shown(&self) -> (Liveness, Instant, u64) {
        (self.shown, self.shown_since, self.incarnation)
    }

    /// When it means to be back, while it is away.
    pub(crate) const fn back_by(&self) -> Option<Instant> {
        match self.phase {
            Phase::Away { until } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn has_left(&self) -> bool {
        self.phase == Phase::Left
    }

    /// It stops on purpose: away until then, or for good.
    pub(crate) fn leave(&mut self, incarnation: u64, until: Option<Instant>) {
        self.incarnation = incarnation;
        self.phase = until.map_or(Phase::Left, |until| Phase::Away { until });
    }

    /// What a probe of its host brought.
    pub(crate) fn host(&mut self, now: Instant, answer: HostAnswer) {
        if self.host.first.is_some() {
            self.host.refused |= answer.refused;
            if answer.up || answer.refused {
                self.host.heard = Some(now);
            }
        }
    }

    fn begin(&mut self, now: Instant) {
        self.host = Host { first: Some(now), next: Some(now), ..Host::default() };
    }

    /// Takes what SWIM thinks of it now.
    pub(crate) fn judge(&mut self, now: Instant, opinion: &Opinion) {
        self.incarnation = opinion.life.incarnation;
        match (opinion.health, self.phase) {
            (Health::Alive, Phase::Alive { .. })
            | (Health::Suspect, Phase::Suspect { .. })
            | (
                Health::Dead,
                Phase::Silent { .. }
                | Phase::DaemonDown { .. }
                | Phase::Lost
                | Phase::Away { .. }
                | Phase::Left,
            ) => {}
            (Health::Alive, _) => {
                self.phase = Phase::Alive { since: now };
                self.host = Host::default();
            }
            (Health::Suspect, _) => {
                self.phase = Phase::Suspect { since: now };
                self.begin(now);
            }
            (Health::Dead, Phase::Suspect { since }) => {
                self.phase = Phase::Silent { since, dead: now };
            }
            (Health::Dead, Phase::Alive { .. } | Phase::Unheard { .. }) => {
                self.phase = Phase::Silent { since: now, dead: now };
                self.begin(now);
            }
        }
    }

    /// Lets time pass; whether its host is to be probed now.
    pub(crate) fn advance(&mut self, now: Instant, times: &Times) -> bool {
        match self.phase {
            Phase::Unheard { until } if now >= until => {
                self.phase = Phase::Silent { since: now, dead: now };
                self.begin(now);
            }
            Phase::Away { until } if now >= until => {
                self.phase = Phase::Silent { since: until, dead: now };
                self.begin(now);
            }
            Phase::Silent { since, .. } if self.host.refused => {
                self.phase = Phase::DaemonDown { since };
            }
            Phase::Silent { since, dead } => {
                let first = self.host.first.unwrap_or(dead);
                let asked =
                    self.host.asked >= HOST_PROBES && now >= first + times.host_every * HOST_PROBES;
                // A host that says anything is up, and kernels refuse datagrams about once a second
                // only: what it refuses a stream with counts as well.
                if asked && self.host.heard.is_some() {
                    self.phase = Phase::DaemonDown { since };
                } else if asked {
                    self.lose(now);
                }
            }
            Phase::DaemonDown { since } => {
                let silent = times.daemon_every * 4;
                let heard = self.host.heard.is_some_and(|heard| now < heard + silent);
                if now >= since + times.daemon_grace || !heard {
                    self.lose(now);
                }
            }
            Phase::Alive { since } if now >= since + FLAP_HOLD => self.flapping = false,
            _ => {}
        }
        let every = match self.phase {
            Phase::Suspect { .. } | Phase::Silent { .. } => Some(times.host_every),
            Phase::DaemonDown { .. } => Some(times.daemon_every),
            _ => None,
        };
        let probe = every.is_some() && self.host.next.is_some_and(|next| next <= now);
        if probe {
            self.host.asked = self.host.asked.saturating_add(1);
        }
        match every {
            Some(every) if probe => self.host.next = Some(now + every),
            Some(_) => {}
            None => self.host.next = None,
        }
        self.show(now);
        probe
    }

    fn lose(&mut self, now: Instant) {
        self.phase = Phase::Lost;
        self.host = Host::default();
        self.lost.push_back(now);
        while self.lost.len() > FLAPS || self.lost.front().is_some_and(|at| *at + FLAP_WINDOW < now)
        {
            self.lost.pop_front();
        }
        self.flapping |= self.lost.len() >= FLAPS;
    }

    fn show(&mut self, now: Instant) {
        let shown = match self.phase {
            Phase::Alive { .. }
            | Phase::Suspect { .. }
            | Phase::Unheard { .. }
            | Phase::Silent { .. }
            | Phase::Lost
                if self.flapping =>
            {
                Liveness::Lost
            }
            Phase::Alive { .. } => Liveness::Alive,
            Phase::Unheard { .. } | Phase::Suspect { .. } | Phase::Silent { .. } => {
                Liveness::Suspect
            }
            Phase::DaemonDown { .. } => Liveness::DaemonDown,
            Phase::Lost => Liveness::Lost,
            Phase::Away { .. } => Liveness::Away,
            Phase::Left => Liveness::Left,
        };
        if shown != self.shown {
            self.shown = shown;
            self.shown_since = now;
        }
    }

    /// When [`Peer::advance`] is due.
    pub(crate) fn due(&self, times: &Times) -> Option<Instant> {
        match self.phase {
            Phase::Unheard { until } | Phase::Away { until } => Some(until),
            Phase::Alive { since } => self.flapping.then_some(since + FLAP_HOLD),
            Phase::Suspect { .. } | Phase::Silent { .. } => self.host.next,
            Phase::DaemonDown { since } => {
                let end = since + times.daemon_grace;
                Some(self.host.next.map_or(end, |next| next.min(end)))
            }
            Phase::Lost | Phase::Left => None,
        }
    }
}
