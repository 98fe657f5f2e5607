//! The commitment, which ends a session of any mode with an outcome (§8.2).

use weft_macp::macp::v1::CommitmentPayload;

use super::{Bound, Head};
use crate::kernel::envelope::{decode, required};
use crate::kernel::{Refusal, receipt};

/// Actions that end so are negative outcomes; the test is on the end of the text alone.
const NEGATIVE: [&str; 3] = ["rejected", "failed", "declined"];
/// Actions that end so are positive ones.
const POSITIVE: [&str; 4] = ["selected", "accepted", "completed", "approved"];

/// Whether this commitment can be accepted: its fields, then the mode, then the policy.
pub(crate) fn check(head: &Head, payload: &[u8]) -> Result<(), Refusal> {
    let bound = &head.bound;
    let commitment: CommitmentPayload = decode(payload)?;
    fields(bound, &commitment)?;
    let positive = commitment.outcome_positive;
    head.core.mode.ready(bound, positive)?;
    if !bound.is_governed() {
        return Ok(());
    }
    let denials = match bound.policy.unusable() {
        Some(denial) => vec![denial],
        None => head.core.mode.denials(bound, positive),
    };
    if denials.is_empty() { Ok(()) } else { Err(Refusal::denied(denials)) }
}

fn fields(bound: &Bound, commitment: &CommitmentPayload) -> Result<(), Refusal> {
    required("commitment_id", &commitment.commitment_id)?;
    required("action", &commitment.action)?;
    required("authority_scope", &commitment.authority_scope)?;
    required("reason", &commitment.reason)?;
    same("mode_version", &commitment.mode_version, &bound.mode_version)?;
    same("configuration_version", &commitment.configuration_version, &bound.configuration_version)?;
    if !commitment.policy_version.is_empty() {
        same("policy_version", &commitment.policy_version, &bound.policy.policy.policy_id)?;
    }
    if let Some(superseded) = &commitment.supersedes {
        required("supersedes.session_id", &superseded.session_id)?;
        if !receipt::is_hash(&superseded.commitment_hash) {
            return Err(Refusal::invalid(
                "supersedes.commitment_hash must be `sha256:` and 64 lowercase hexadecimal digits",
            ));
        }
    }
    let (action, positive) = (&commitment.action, commitment.outcome_positive);
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| action.ends_with(suffix));
    if (positive && ends(&NEGATIVE)) || (!positive && ends(&POSITIVE)) {
        return Err(Refusal::invalid(format!(
            "action `{action}` contradicts outcome_positive = {positive}"
        )));
    }
    Ok(())
}

fn same(field: &str, given: &str, bound: &str) -> Result<(), Refusal> {
    if given == bound {
        return Ok(());
    }
    Err(Refusal::invalid(format!("{field} is `{given}`, the session has `{bound}`")))
}
