//! Modes that were registered while running (§13.7): they declare types, and have no rules.

#[cfg(test)]
mod tests;

use serde::Serialize;
use weft_macp::macp::v1::CommitmentPayload;

use super::{Call, Mode, ModeKind};
use crate::kernel::envelope::decode;
use crate::kernel::session::Bound;
use crate::kernel::{Denial, Refusal};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Dynamic {}

impl Mode for Dynamic {
    type Event = ();

    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        if call.bound.roster.len() == 0 { Ok(()) } else { call.participant() }
    }

    fn decode(call: &Call<'_>) -> Result<(), Refusal> {
        match &call.bound.kind {
            ModeKind::Dynamic { message_types }
                if message_types.iter().any(|known| known == call.message_type) =>
            {
                Ok(())
            }
            _ => Err(call.unknown_type()),
        }
    }

    fn check(&self, _: &Call<'_>, (): &()) -> Result<(), Refusal> {
        Ok(())
    }

    fn apply(&mut self, _: &Call<'_>, (): ()) {}

    fn ready(&self, _: &Bound, _: bool) -> Result<(), Refusal> {
        Ok(())
    }

    fn denials(&self, _: &Bound, _: bool) -> Vec<Denial> {
        Vec::new()
    }

    fn resolution(&self, _: &Bound, commitment: &[u8]) -> Option<Vec<u8>> {
        let commitment = decode::<CommitmentPayload>(commitment).unwrap_or_default();
        let summary = serde_json::json!({
            "action": commitment.action, "commitment_id": commitment.commitment_id,
        });
        Some(summary.to_string().into_bytes())
    }
}
