//! The reference runtime's own files (§18): sessions out of them and into them.
//!
//! Its `log.jsonl` says everything but the policy's definition; that is in a checkpoint, or in
//! `session.json`. Nothing here opens a file.

mod export;
mod import;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use export::ReferenceLog;
pub use import::{ImportError, Imported, ReferenceFiles};

use super::{Millis, Policy};

/// Revision of the reference's rules that is the same as [`super::SEMANTICS`] 1.
const REVISION: u32 = 4;
/// Schema of the snapshots in `session.json` and in checkpoints.
const SNAPSHOT: u32 = 2;
/// Sender of what the reference says itself.
const ITSELF: &str = "_runtime";
/// How ids of accepts begin that nobody sent (§13.4).
const IMPLICIT: &str = "implicit-accept:";

const SUSPEND: &str = "SessionSuspend";
const RESUME: &str = "SessionResume";
const CANCEL: &str = "SessionCancel";
const EXPIRED: &str = "TtlExpired";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// An envelope; takes an ordinal.
    Incoming,
    /// From the server itself.
    Internal,
    /// The state so far, as bytes of a snapshot.
    Checkpoint,
}

/// A line of `log.jsonl`. What older versions did not write has a default.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    message_id: String,
    received_at_ms: Millis,
    sender: String,
    message_type: String,
    raw_payload: Vec<u8>,
    entry_kind: Kind,
    #[serde(default)]
    session_id: String,
    #[serde(default)]
    mode: String,
    #[serde(default)]
    macp_version: String,
    #[serde(default)]
    timestamp_unix_ms: Millis,
    /// Of a start whose payload names no version.
    #[serde(default)]
    bound_mode_version: Option<String>,
    /// Of a start.
    #[serde(default)]
    semantics_rev: u32,
    /// Of a start.
    #[serde(default)]
    bound_max_suspend_ms: Option<Millis>,
    /// Of a checkpoint that took the place of so many envelopes.
    #[serde(default)]
    compacted_incoming_ordinals: u64,
}

impl Line {
    /// When it was accepted.
    const fn at(&self) -> Millis {
        if self.received_at_ms != 0 { self.received_at_ms } else { self.timestamp_unix_ms }
    }
}

/// A policy as snapshots have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Definition {
    policy_id: String,
    mode: String,
    description: String,
    rules: Value,
    schema_version: u32,
}

impl From<&Policy> for Definition {
    fn from(policy: &Policy) -> Self {
        Self {
            policy_id: policy.policy_id.clone(),
            mode: policy.mode.clone(),
            description: policy.description.clone(),
            // Text that is not JSON counts as no rules (§14).
            rules: serde_json::from_str(&policy.rules)
                .unwrap_or_else(|_| Value::Object(Default::default())),
            schema_version: policy.schema_version,
        }
    }
}

impl From<Definition> for Policy {
    fn from(definition: Definition) -> Self {
        Self {
            policy_id: definition.policy_id,
            mode: definition.mode,
            description: definition.description,
            rules: definition.rules.to_string(),
            schema_version: definition.schema_version,
        }
    }
}

/// The policies that both have, by the same ids.
fn built_in(id: &str) -> Option<Policy> {
    Policy::built_in().into_iter().find(|policy| policy.policy_id == id)
}
