//! How a session begins (§7): the checks, and what the leader stamps into the first record.

use serde::{Deserialize, Serialize};
use weft_macp::macp::v1::SessionStartPayload;

use super::{Bound, Head, Message, Record, Roster};
use crate::kernel::catalogue::ModeEntry;
use crate::kernel::envelope::{decode, required, valid_session_id};
use crate::kernel::modes::{self, handoff_reserved};
use crate::kernel::policy::{BoundPolicy, DEFAULT};
use crate::kernel::{Catalogue, Code, Envelope, Millis, ModeKind, Policy, Refusal, SEMANTICS};

/// Longest life of a session (§7), in milliseconds.
const TTL_MAX: Millis = 86_400_000;
/// Most participants of a session (§7).
const PARTICIPANTS_MAX: usize = 1000;
/// How long a session may be suspended if it says nothing (§7): 7 days, in milliseconds.
pub(crate) const SUSPEND_DEFAULT: Millis = 7 * 86_400_000;

/// What the leader decided about a start, so that nobody decides it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The rules of the mode.
    pub kind: ModeKind,
    /// The mode's version (§7 step 5).
    pub mode_version: String,
    /// The policy in force, whole.
    pub policy: Policy,
    /// When the session expires, in milliseconds since the Unix epoch.
    pub deadline_ms: Millis,
    /// How long it may be suspended in all, in milliseconds.
    pub max_suspend_ms: Millis,
    /// Revision of the kernel's rules ([`SEMANTICS`]).
    pub semantics: u32,
}

/// What the initiator is allowed (§5, `max_open_sessions`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartRights {
    /// Most sessions of this initiator that are open at a time; `None`: any number.
    pub max_open: Option<u32>,
    /// How many of them are open in other groups.
    pub open_elsewhere: u32,
}

impl Bound {
    /// Reads a first record; `None`: it is none.
    pub(crate) fn of(session_id: &str, record: &Record) -> Option<Self> {
        let Record::Start { mode, message, stamp } = record else { return None };
        let payload: SessionStartPayload = decode(&message.payload).ok()?;
        Some(Self::new(session_id, mode, message, stamp, payload))
    }

    fn new(
        session_id: &str,
        mode: &str,
        message: &Message,
        stamp: &Stamp,
        payload: SessionStartPayload,
    ) -> Self {
        let mut extension_keys: Vec<String> = payload.extensions.into_keys().collect();
        extension_keys.sort_unstable();
        Self {
            session_id: session_id.into(),
            mode: mode.into(),
            kind: stamp.kind.clone(),
            initiator: message.sender.clone(),
            roster: Roster::new(payload.participants),
            mode_version: stamp.mode_version.clone(),
            configuration_version: payload.configuration_version,
            policy: BoundPolicy::new(stamp.policy.clone()),
            context_id: payload.context_id,
            extension_keys,
            started_ms: message.accepted_ms,
            max_suspend_ms: stamp.max_suspend_ms,
        }
    }
}

/// A start that passed the checks which do not ask whether the session is there (§7 steps 1 to 6).
pub(crate) struct Checked<'a> {
    envelope: &'a Envelope,
    payload: SessionStartPayload,
    mode: &'a ModeEntry,
    mode_version: String,
}

/// Checks a start as far as it needs no knowledge of sessions.
pub(crate) fn start<'a>(
    catalogue: &'a Catalogue,
    envelope: &'a Envelope,
) -> Result<Checked<'a>, Refusal> {
    if !valid_session_id(&envelope.session_id) {
        return Err(Refusal::new(
            Code::InvalidSessionId,
            format!(
                "session_id `{}`: expected a UUID of version 4 or 7 in lower case, or 22 to 128 \
                 letters, digits, `-` and `_`",
                envelope.session_id
            ),
        ));
    }
    let mode = catalogue.mode(&envelope.mode).ok_or_else(|| {
        let mode = &envelope.mode;
        Refusal::new(Code::ModeNotSupported, format!("mode `{mode}` is not registered"))
    })?;
    if envelope.payload.is_empty() {
        return Err(Refusal::invalid("a SessionStart needs a payload"));
    }
    let payload: SessionStartPayload = decode(&envelope.payload)?;
    if mode.is_canonical() {
        canonical(&mode.kind, &payload)?;
    }
    let version = &mode.descriptor.mode_version;
    let mode_version = match payload.mode_version.as_str() {
        "" if !mode.is_canonical() => version.clone(),
        given if given == version => version.clone(),
        given => {
            return Err(Refusal::invalid(format!(
                "mode_version is `{given}`, mode `{}` has `{version}`",
                envelope.mode
            )));
        }
    };
    lifetime(payload.ttl_ms)?;
    Ok(Checked { envelope, payload, mode, mode_version })
}

fn lifetime(ttl_ms: Millis) -> Result<(), Refusal> {
    if (1..=TTL_MAX).contains(&ttl_ms) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("ttl_ms is {ttl_ms}, expected 1 to {TTL_MAX}")))
}

fn canonical(kind: &ModeKind, payload: &SessionStartPayload) -> Result<(), Refusal> {
    lifetime(payload.ttl_ms)?;
    required("mode_version", &payload.mode_version)?;
    required("configuration_version", &payload.configuration_version)?;
    let participants = &payload.participants;
    if participants.is_empty() && *kind != ModeKind::Decision {
        return Err(Refusal::invalid("participants must not be empty"));
    }
    if participants.len() > PARTICIPANTS_MAX {
        return Err(Refusal::invalid(format!(
            "{} participants, at most {PARTICIPANTS_MAX} are allowed",
            participants.len()
        )));
    }
    let mut names: Vec<&str> = participants.iter().map(|id| id.trim()).collect();
    names.sort_unstable();
    if names.first().is_some_and(|name| name.is_empty()) {
        return Err(Refusal::invalid("a participant must not be blank"));
    }
    if let Some([twice, _]) = names.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(Refusal::invalid(format!("participant `{twice}` is listed twice")));
    }
    if payload.max_suspend_ms < 0 {
        return Err(Refusal::invalid("max_suspend_ms must not be negative"));
    }
    Ok(())
}

impl Checked<'_> {
    /// The remaining checks (§7 steps 8 to 11), and the first record with its stamp.
    pub(crate) fn record(
        self,
        catalogue: &Catalogue,
        now: Millis,
    ) -> Result<(Record, Head), Refusal> {
        let envelope = self.envelope;
        let id = match self.payload.policy_version.as_str() {
            "" => DEFAULT,
            id => id,
        };
        let policy = catalogue.policy(id).ok_or_else(|| {
            Refusal::new(Code::UnknownPolicyVersion, format!("policy `{id}` is not registered"))
        })?;
        if policy.mode != "*" && policy.mode != envelope.mode {
            return Err(Refusal::new(
                Code::InvalidPolicyDefinition,
                format!("policy `{id}` is for mode `{}`", policy.mode),
            ));
        }
        let begins = if envelope.timestamp_ms > 0 { envelope.timestamp_ms } else { now };
        let stamp = Box::new(Stamp {
            kind: self.mode.kind.clone(),
            mode_version: self.mode_version,
            policy: policy.clone(),
            deadline_ms: begins.saturating_add(self.payload.ttl_ms),
            max_suspend_ms: match self.payload.max_suspend_ms {
                given if given > 0 => given,
                _ => SUSPEND_DEFAULT,
            },
            semantics: SEMANTICS,
        });
        let message = Message::accepted(envelope, now);
        let bound =
            Bound::new(&envelope.session_id, &envelope.mode, &message, &stamp, self.payload);
        modes::may_start(&bound)?;
        if bound.kind == ModeKind::Handoff {
            handoff_reserved(&envelope.message_id)?;
        }
        let head = Head::new(bound, stamp.deadline_ms);
        Ok((Record::Start { mode: envelope.mode.clone(), message, stamp }, head))
    }
}
