//! What a mode is: who may send what, what each message changes, and when the outcome can be
//! committed (§13). One folder a mode; the kernel rules around them are in `session`.
//!
//! Each message goes through four steps: `authorize` (the sender's column of the table, before the
//! payload is looked at), `decode`, `check`, `apply`. Only `apply` changes anything, and it takes
//! whatever the log holds: followers and replays do not check again.

mod decision;
mod dynamic;
mod handoff;
mod multi_round;
mod proposal;
mod quorum;
mod task;

use serde::{Deserialize, Serialize};

use super::session::Bound;
use super::{Denial, Millis, Refusal};

pub(crate) use handoff::{Offers, boundary as handoff_boundary, reserved as handoff_reserved};

/// What rules a mode has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModeKind {
    /// §13.1
    Decision,
    /// §13.2
    Proposal,
    /// §13.3
    Task,
    /// §13.4
    Handoff,
    /// §13.5
    Quorum,
    /// §13.6
    MultiRound,
    /// §13.7: registered while running.
    Dynamic {
        /// The types that it declares.
        message_types: Vec<String>,
    },
}

/// One message, as a mode sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) bound: &'a Bound,
    pub(crate) sender: &'a str,
    pub(crate) message_type: &'a str,
    pub(crate) payload: &'a [u8],
    /// When it is accepted.
    pub(crate) at: Millis,
    /// How long the session was suspended so far, in milliseconds.
    pub(crate) suspended_ms: Millis,
    /// Whether the server itself says it.
    pub(crate) by_server: bool,
}

impl Call<'_> {
    pub(crate) fn is_initiator(&self) -> bool {
        self.sender == self.bound.initiator
    }

    pub(crate) fn position(&self) -> Option<u32> {
        self.bound.roster.position(self.sender)
    }

    pub(crate) fn participant(&self) -> Result<(), Refusal> {
        match self.position() {
            Some(_) => Ok(()),
            None => Err(Refusal::forbidden(format!("`{}` is no participant", self.sender))),
        }
    }

    pub(crate) fn initiator(&self) -> Result<(), Refusal> {
        if self.is_initiator() {
            return Ok(());
        }
        Err(Refusal::forbidden(format!("only the initiator sends {}", self.message_type)))
    }

    pub(crate) fn unknown_type(&self) -> Refusal {
        Refusal::invalid(format!(
            "mode `{}` has no message type `{}`",
            self.bound.mode, self.message_type
        ))
    }

    /// A field that names somebody: empty, or the sender.
    pub(crate) fn names_sender(&self, field: &str, value: &str) -> Result<(), Refusal> {
        if value.is_empty() || value == self.sender {
            return Ok(());
        }
        Err(Refusal::invalid(format!("{field} is `{value}`, the sender is `{}`", self.sender)))
    }
}

/// The rules of one mode.
pub(crate) trait Mode {
    /// A message that means something here.
    type Event;

    /// Whether the sender may send such a message at all; the commitment is not asked here.
    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal>;

    /// What the message says.
    fn decode(call: &Call<'_>) -> Result<Self::Event, Refusal>;

    /// Whether the state admits it.
    fn check(&self, call: &Call<'_>, event: &Self::Event) -> Result<(), Refusal>;

    /// Changes the state. Takes anything: what makes no sense changes nothing.
    fn apply(&mut self, call: &Call<'_>, event: Self::Event);

    /// Whether the outcome can be committed, the policy apart.
    fn ready(&self, bound: &Bound, positive: bool) -> Result<(), Refusal>;

    /// What the policy has against it; empty: nothing.
    fn denials(&self, bound: &Bound, positive: bool) -> Vec<Denial>;

    /// What the session's resolution is, if not the commitment's payload.
    fn resolution(&self, _bound: &Bound, _commitment: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// The state of a session's mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) enum ModeState {
    Decision(decision::Decision),
    Proposal(proposal::Proposals),
    Task(task::Task),
    Handoff(handoff::Handoff),
    Quorum(quorum::QuorumVote),
    MultiRound(multi_round::MultiRound),
    Dynamic(dynamic::Dynamic),
}

/// The same expression for whichever mode it is.
macro_rules! for_mode {
    ($state:expr, $mode:ident => $body:expr) => {
        match $state {
            ModeState::Decision($mode) => $body,
            ModeState::Proposal($mode) => $body,
            ModeState::Task($mode) => $body,
            ModeState::Handoff($mode) => $body,
            ModeState::Quorum($mode) => $body,
            ModeState::MultiRound($mode) => $body,
            ModeState::Dynamic($mode) => $body,
        }
    };
}

impl ModeState {
    pub(crate) fn new(kind: &ModeKind) -> Self {
        match kind {
            ModeKind::Decision => Self::Decision(Default::default()),
            ModeKind::Proposal => Self::Proposal(Default::default()),
            ModeKind::Task => Self::Task(Default::default()),
            ModeKind::Handoff => Self::Handoff(Default::default()),
            ModeKind::Quorum => Self::Quorum(Default::default()),
            ModeKind::MultiRound => Self::MultiRound(Default::default()),
            ModeKind::Dynamic { .. } => Self::Dynamic(Default::default()),
        }
    }

    pub(crate) fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        for_mode!(self, mode => mode.authorize(call))
    }

    pub(crate) fn check(&self, call: &Call<'_>) -> Result<(), Refusal> {
        fn check<M: Mode>(mode: &M, call: &Call<'_>) -> Result<(), Refusal> {
            mode.check(call, &M::decode(call)?)
        }
        for_mode!(self, mode => check(mode, call))
    }

    pub(crate) fn apply(&mut self, call: &Call<'_>) {
        fn apply<M: Mode>(mode: &mut M, call: &Call<'_>) {
            if let Ok(event) = M::decode(call) {
                mode.apply(call, event);
            }
        }
        for_mode!(self, mode => apply(mode, call));
    }

    pub(crate) fn ready(&self, bound: &Bound, positive: bool) -> Result<(), Refusal> {
        for_mode!(self, mode => mode.ready(bound, positive))
    }

    pub(crate) fn denials(&self, bound: &Bound, positive: bool) -> Vec<Denial> {
        for_mode!(self, mode => mode.denials(bound, positive))
    }

    pub(crate) fn resolution(&self, bound: &Bound, commitment: &[u8]) -> Option<Vec<u8>> {
        for_mode!(self, mode => mode.resolution(bound, commitment))
    }

    pub(crate) fn handoff(&self) -> Option<&Offers> {
        match self {
            Self::Handoff(handoff) => Some(handoff.offers()),
            _ => None,
        }
    }
}

/// The mode's own rule for a start (§7 step 10, §13).
pub(crate) fn may_start(bound: &Bound) -> Result<(), Refusal> {
    let roster = &bound.roster;
    match bound.kind {
        ModeKind::Decision | ModeKind::Dynamic { .. } => Ok(()),
        ModeKind::Proposal | ModeKind::Quorum | ModeKind::MultiRound if roster.len() == 0 => {
            Err(Refusal::invalid("participants must not be empty"))
        }
        ModeKind::Proposal | ModeKind::Quorum | ModeKind::MultiRound => Ok(()),
        ModeKind::Task if roster.iter().all(|id| *id == bound.initiator) => {
            Err(Refusal::invalid("a task needs a participant other than the initiator"))
        }
        ModeKind::Task => Ok(()),
        ModeKind::Handoff if roster.len() < 2 || !roster.contains(&bound.initiator) => {
            Err(Refusal::invalid("a handoff needs two participants, the initiator among them"))
        }
        ModeKind::Handoff => Ok(()),
    }
}
