//! How patient membership is (design §6).

use std::time::Duration;

/// What network lies between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// One site: probe 200 ms, answer in 100 ms, suspicion 700 ms.
    #[default]
    Lan,
    /// Several sites, or relays between: 1 s, 500 ms, 5 s.
    Wan,
}

/// Every duration membership knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// One member is probed this often.
    pub(crate) probe_period: Duration,
    /// A probe is answered within this, or others are asked to probe too.
    pub(crate) answer: Duration,
    /// A suspect has this long to say that it lives.
    pub(crate) suspicion: Duration,
    /// News goes round this often.
    pub(crate) gossip: Duration,
    /// Known nodes that are not members hear of this node this often.
    pub(crate) announce: Duration,
    /// A timer that comes later than this means that this node stalled.
    pub(crate) stall: Duration,
    /// A node nobody has heard of yet is judged after this.
    pub(crate) unheard: Duration,
    /// Between two probes of a silent member's host.
    pub(crate) host_every: Duration,
    /// Between two probes of the host while its daemon is down.
    pub(crate) daemon_every: Duration,
    /// A silent daemon counts as lost after this, though its host is up.
    pub(crate) daemon_grace: Duration,
}

impl Times {
    pub(crate) const fn of(profile: Profile, daemon_grace: Duration) -> Self {
        let ms = Duration::from_millis;
        match profile {
            Profile::Lan => Self {
                probe_period: ms(200),
                answer: ms(100),
                suspicion: ms(700),
                gossip: ms(100),
                announce: ms(1000),
                stall: ms(250),
                unheard: ms(3000),
                host_every: ms(100),
                daemon_every: ms(500),
                daemon_grace,
            },
            Profile::Wan => Self {
                probe_period: ms(1000),
                answer: ms(500),
                suspicion: ms(5000),
                gossip: ms(500),
                announce: ms(5000),
                stall: ms(1000),
                unheard: ms(15_000),
                host_every: ms(300),
                daemon_every: ms(500),
                daemon_grace,
            },
        }
    }
}
