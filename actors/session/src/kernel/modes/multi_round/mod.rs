//! `ext.multi_round.v1` (§13.6): participants contribute values until all are equal. No policy.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;
use weft_macp::macp::modes::multi_round::v1::ContributePayload;

use super::{Call, Mode};
use crate::kernel::envelope::{decode, encode};
use crate::kernel::session::Bound;
use crate::kernel::{Denial, Refusal};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct MultiRound {
    round: u64,
    /// The latest value of each participant.
    values: BTreeMap<u32, String>,
}

pub(crate) struct Contribute(String);

impl MultiRound {
    /// The value on which all agree.
    fn converged(&self, bound: &Bound) -> Option<&str> {
        let all = self.values.len() as u64 == u64::from(bound.roster.len());
        let first = self.values.values().next()?;
        (all && self.values.values().all(|value| value == first)).then_some(first)
    }
}

/// JSON is trusted unless the bytes are a canonical protobuf as well.
fn value(payload: &[u8]) -> Result<String, Refusal> {
    if payload.is_empty() {
        return Err(Refusal::invalid("the payload must not be empty"));
    }
    let json = serde_json::from_slice::<serde_json::Value>(payload)
        .ok()
        .and_then(|json| Some(json.get("value")?.as_str()?.to_owned()));
    let protobuf = decode::<ContributePayload>(payload);
    match (json, protobuf) {
        (Some(_), Ok(protobuf)) if encode(&protobuf) == payload => Ok(protobuf.value),
        (Some(json), _) => Ok(json),
        (None, protobuf) => protobuf.map(|protobuf| protobuf.value),
    }
}

impl Mode for MultiRound {
    type Event = Contribute;

    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        call.participant()
    }

    fn decode(call: &Call<'_>) -> Result<Contribute, Refusal> {
        match call.message_type {
            "Contribute" => value(call.payload).map(Contribute),
            _ => Err(call.unknown_type()),
        }
    }

    fn check(&self, call: &Call<'_>, _: &Contribute) -> Result<(), Refusal> {
        if self.converged(call.bound).is_some() {
            return Err(Refusal::invalid("the values have converged"));
        }
        Ok(())
    }

    fn apply(&mut self, call: &Call<'_>, Contribute(value): Contribute) {
        let Some(at) = call.position() else { return };
        if self.values.get(&at) != Some(&value) {
            self.round += 1;
            self.values.insert(at, value);
        }
    }

    fn ready(&self, bound: &Bound, _: bool) -> Result<(), Refusal> {
        if self.converged(bound).is_none() {
            return Err(Refusal::invalid("the values have not converged"));
        }
        Ok(())
    }

    fn denials(&self, _: &Bound, _: bool) -> Vec<Denial> {
        Vec::new()
    }

    fn resolution(&self, bound: &Bound, _: &[u8]) -> Option<Vec<u8>> {
        let last: BTreeMap<&str, &str> = self
            .values
            .iter()
            .map(|(at, value)| (bound.roster.name_of(*at), value.as_str()))
            .collect();
        let summary = serde_json::json!({
            "converged_value": self.converged(bound).unwrap_or_default(),
            "final": last,
            "round": self.round,
        });
        Some(summary.to_string().into_bytes())
    }
}
