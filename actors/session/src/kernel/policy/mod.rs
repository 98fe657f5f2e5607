//! Policies: what a commitment needs beyond the mode's own rules (§14).

mod rules;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use rules::{Authority, Criterion, Rules, Threshold};
pub(crate) use tally::{Ballots, Evaluations, Objections, Vote, decide};

use super::{Denial, DenialCode};

/// What an empty `policy_version` means.
pub(crate) const DEFAULT: &str = "policy.default";
/// Ids beneath this are the built-in ones.
pub(crate) const STANDARD: &str = "policy.std.";
/// Schemas of rules that are understood.
const SCHEMAS: std::ops::RangeInclusive<u32> = 1..=3;

/// A policy's definition, as registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its id, which sessions name as `policy_version`.
    pub policy_id: String,
    /// The mode it is for; `*`: every mode.
    pub mode: String,
    /// For people.
    pub description: String,
    /// JSON text, as given.
    pub rules: String,
    /// 1, 2 or 3.
    pub schema_version: u32,
}

impl Policy {
    /// The four policies that are always there (§14).
    pub(crate) fn built_in() -> [Self; 4] {
        let voting = |algorithm: &str, threshold: Option<f64>, quorum: u32| {
            let mut voting = serde_json::json!({
                "algorithm": algorithm, "quorum": { "type": "count", "value": quorum }
            });
            if let (Some(threshold), Some(voting)) = (threshold, voting.as_object_mut()) {
                voting.insert("threshold".into(), threshold.into());
            }
            voting
        };
        let decision = |id: &str, description: &str, voting: Value| Self {
            policy_id: format!("{STANDARD}{id}"),
            mode: "macp.mode.decision.v1".into(),
            description: description.into(),
            rules: serde_json::json!({
                "commitment": { "require_vote_quorum": true }, "voting": voting
            })
            .to_string(),
            schema_version: 1,
        };
        [
            Self {
                policy_id: DEFAULT.into(),
                mode: "*".into(),
                description: "No constraint beyond the mode's own rules; the initiator commits"
                    .into(),
                rules: serde_json::json!({
                    "commitment": {
                        "authority": "initiator_only",
                        "designated_roles": [],
                        "require_vote_quorum": false,
                    },
                    "evaluation": { "minimum_confidence": 0, "required_before_voting": false },
                    "objection_handling":
                        { "critical_severity_vetoes": false, "veto_threshold": 1 },
                    "voting": voting("none", None, 0),
                })
                .to_string(),
                schema_version: 1,
            },
            decision(
                "majority",
                "At least half of the votes for or against approve",
                voting("majority", Some(0.5), 1),
            ),
            decision(
                "supermajority",
                "At least two thirds of the votes for or against approve",
                voting("supermajority", Some(2.0 / 3.0), 2),
            ),
            decision("unanimous", "Every participant approves", voting("unanimous", None, 1)),
        ]
    }

    /// Checks the definition but for its id (§14, refusals of RegisterPolicy).
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if !SCHEMAS.contains(&self.schema_version) {
            return Err(format!("schema_version is {}, expected 1, 2 or 3", self.schema_version));
        }
        let value = self.value();
        if !value.is_object() {
            return Err("rules must be a JSON object".into());
        }
        rules::check(&self.mode, &value)
    }

    /// Rules text that is empty or not JSON counts as `{}`.
    fn value(&self) -> Value {
        serde_json::from_str(&self.rules).unwrap_or_else(|_| Value::Object(Default::default()))
    }
}

/// A policy as a session holds it: the definition, and its rules read once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BoundPolicy {
    pub(crate) policy: Policy,
    rules: Rules,
    /// Why no commitment can pass, whatever the rules say.
    unusable: Option<DenialCode>,
}

/// The built-in policies, read once: most sessions have one of them.
static BUILT_IN: LazyLock<[BoundPolicy; 4]> =
    LazyLock::new(|| Policy::built_in().map(BoundPolicy::read));

impl BoundPolicy {
    pub(crate) fn new(policy: Policy) -> Self {
        let known = BUILT_IN.iter().find(|known| known.policy == policy);
        known.cloned().unwrap_or_else(|| Self::read(policy))
    }

    fn read(policy: Policy) -> Self {
        let read = Rules::read(&policy.value());
        let unusable = if !SCHEMAS.contains(&policy.schema_version) {
            Some(DenialCode::UnsupportedSchemaVersion)
        } else if read.is_err() {
            Some(DenialCode::InvalidRules)
        } else {
            None
        };
        Self { rules: read.unwrap_or_default(), unusable, policy }
    }

    /// The rules; the defaults if they cannot be read.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Why nothing can be committed under this policy.
    pub(crate) fn unusable(&self) -> Option<Denial> {
        self.unusable.map(|code| {
            let why = match code {
                DenialCode::UnsupportedSchemaVersion => format!(
                    "policy `{}` has schema_version {}, which is not supported",
                    self.policy.policy_id, self.policy.schema_version
                ),
                _ => format!("the rules of policy `{}` cannot be read", self.policy.policy_id),
            };
            Denial::new(code, why)
        })
    }
}
