//! Closed sets of states, with the names that tables and JSON use (orchestration §4, §7).

use serde::{Deserialize, Serialize};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        ///
        /// Append only: the order is on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in tables, JSON and the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|v| v.as_str()).collect();
                    format!("`{text}`: expected one of {}", names.join(", "))
                })
            }
        }
    };
}

pub(crate) use names;

names! {
    /// What an operator wants of a component (orchestration §4).
    Desired {
        /// It shall run.
        Running = "running",
        /// It shall not run.
        Stopped = "stopped",
        /// Not ours to judge.
        Ignore = "ignore",
    }
}

names! {
    /// What was seen of a component, as drift is judged (orchestration §4).
    ObservedState {
        /// It runs.
        Running = "running",
        /// It was stopped on request.
        Stopped = "stopped",
        /// It ended by itself.
        Exited = "exited",
        /// It is gone.
        Removed = "removed",
        /// Not seen yet, or the last three looks failed.
        Unknown = "unknown",
    }
}

names! {
    /// A component's life as its node's runtime lives it; finer than [`ObservedState`].
    ComponentState {
        /// Assigned, nothing done.
        Pending = "pending",
        /// Being started, or not yet healthy for the first time.
        Starting = "starting",
        /// Running.
        Running = "running",
        /// Being stopped.
        Stopping = "stopping",
        /// Stopped on request.
        Stopped = "stopped",
        /// Ended by itself; will be started again when its backoff is over, if its policy says so.
        Exited = "exited",
        /// Given up on until an operator acts or the spec changes.
        Failed = "failed",
        /// Gone.
        Removed = "removed",
        /// Its node cannot be asked.
        Unknown = "unknown",
        /// Waits for a node.
        Waiting = "waiting",
    }
}

impl ComponentState {
    /// The state that drift is judged by.
    pub const fn observed(self) -> ObservedState {
        match self {
            Self::Running | Self::Stopping => ObservedState::Running,
            Self::Stopped => ObservedState::Stopped,
            Self::Exited | Self::Failed => ObservedState::Exited,
            Self::Removed => ObservedState::Removed,
            Self::Pending | Self::Starting | Self::Unknown | Self::Waiting => {
                ObservedState::Unknown
            }
        }
    }
}

names! {
    /// What a component's probe says.
    Health {
        /// The last probe was good.
        Healthy = "healthy",
        /// `retries` probes in a row failed.
        Unhealthy = "unhealthy",
        /// A probe is declared but has not answered yet.
        Unknown = "unknown",
        /// No probe is declared.
        None = "none",
    }
}

names! {
    /// A node as its peers see it.
    NodeState {
        /// Answers.
        Ready = "ready",
        /// Answers, but something of it is out of order.
        Degraded = "degraded",
        /// Gives its work away.
        Draining = "draining",
        /// Silent, not yet given up.
        Suspect = "suspect",
        /// The host lives, its daemon does not answer.
        DaemonDown = "daemon-down",
        /// Does not answer.
        Lost = "lost",
        /// Has left for good.
        Left = "left",
    }
}

names! {
    /// A node's part in agreement.
    NodeRole {
        /// Applies changes to agreed state.
        Leader = "leader",
        /// Votes.
        Voter = "voter",
        /// Follows.
        Learner = "learner",
    }
}

names! {
    /// A supervised actor's state.
    ActorState {
        /// Being made from its factory.
        Starting = "starting",
        /// Answers.
        Running = "running",
        /// Ended; its next incarnation waits for its backoff.
        Restarting = "restarting",
        /// Does not answer its watchdog.
        Hung = "hung",
        /// Given up on.
        Failed = "failed",
        /// Stopped on request.
        Stopped = "stopped",
    }
}

names! {
    /// What became of a node.
    NodeChange {
        /// It was admitted to the cluster.
        Joined = "joined",
        /// Its daemon does not answer, its host does.
        DaemonDown = "daemon-down",
        /// Its daemon stopped on purpose, for a while.
        Away = "away",
        /// It does not answer, and its host does not either.
        Lost = "lost",
        /// It answers again.
        Back = "back",
        /// It said that it leaves for good.
        Left = "left",
        /// It was taken out for ever.
        Removed = "removed",
        /// It gives its work away.
        Draining = "draining",
        /// It takes work again.
        Undrained = "undrained",
    }
}

names! {
    /// What kind of drift (orchestration §4).
    DriftKind {
        /// What it does is not what is wanted.
        State = "state",
        /// Its container differs from the recorded definition.
        Spec = "spec",
        /// It is recorded on a node that does not run it, or runs on another one.
        Placement = "placement",
        /// A container that bears the node's label and is of nothing that is recorded.
        Orphan = "orphan",
    }
}

names! {
    /// What an operation does.
    OperationKind {
        /// Puts a definition in force.
        Deploy = "deploy",
        /// Tears a service down.
        Undeploy = "undeploy",
        /// Has a service or component run.
        Start = "start",
        /// Has a service or component stopped.
        Stop = "stop",
        /// Starts components anew in place.
        Restart = "restart",
        /// Moves a node's work to others.
        Drain = "drain",
        /// Takes a node out for ever.
        Remove = "remove",
        /// Changes the number of replicas.
        Scale = "scale",
        /// Returns to an earlier definition.
        Rollback = "rollback",
    }
}

names! {
    /// How an operation ended.
    OperationOutcome {
        /// All is as wanted.
        Done = "done",
        /// Some is as wanted, the rest will not be.
        Partial = "partial",
        /// It is not as wanted.
        Failed = "failed",
        /// A later operation on the same took its place.
        Superseded = "superseded",
    }
}

names! {
    /// How far a step of an operation is.
    StepState {
        /// Not begun.
        Waiting = "waiting",
        /// Begun.
        Running = "running",
        /// Over, well.
        Done = "done",
        /// Over, not well.
        Failed = "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for state in ComponentState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        assert!("up".parse::<Health>().is_err_and(|e| e.contains("healthy, unhealthy")));
    }
}
