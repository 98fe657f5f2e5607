//! `macp.mode.handoff.v1` (§13.4): the initiator offers, the target accepts or declines, or the
//! server accepts for it when the policy's time is up.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weft_macp::macp::modes::handoff::v1 as pb;

use super::{Call, Mode};
use crate::kernel::envelope::{decode, encode};
use crate::kernel::session::{Bound, Message};
use crate::kernel::{Denial, Millis, Refusal};

/// How ids of the server's own messages begin; no client may use one.
pub(crate) const RESERVED: &str = "implicit-accept:";
/// The type that the server sends.
pub(crate) const ACCEPT: &str = "HandoffAccept";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Handoff {
    offers: Offers,
}

/// All offers of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Offers {
    by_id: BTreeMap<String, Offer>,
    outstanding: Option<String>,
    accepted: bool,
    /// Participants who declined: nothing is offered to them again.
    declined: BTreeSet<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Offer {
    target: u32,
    at: Millis,
    /// How long the session had been suspended by then.
    suspended_ms: Millis,
}

pub(crate) enum Event {
    Offer(pb::HandoffOfferPayload),
    Context(pb::HandoffContextPayload),
    Accept(pb::HandoffAcceptPayload),
    Decline(pb::HandoffDeclinePayload),
}

impl Offers {
    /// When the server accepts for the target, if nothing changes: the policy's time after the
    /// offer, suspension not counted.
    pub(crate) fn deadline(&self, bound: &Bound, suspended_ms: Millis) -> Option<Millis> {
        let timeout = bound.policy.rules().implicit_accept_ms;
        let offer = self.by_id.get(self.outstanding.as_ref()?)?;
        let suspended = suspended_ms.saturating_sub(offer.suspended_ms);
        let timeout = i64::try_from(timeout).ok().filter(|timeout| *timeout > 0)?;
        Some(offer.at.saturating_add(timeout).saturating_add(suspended))
    }

    /// The message with which the server accepts at `at`.
    pub(crate) fn implicit(&self, bound: &Bound, at: Millis) -> Option<Message> {
        let id = self.outstanding.as_ref()?;
        let target = bound.roster.name_of(self.by_id.get(id)?.target);
        Some(Message {
            message_type: ACCEPT.into(),
            message_id: format!("{RESERVED}{id}"),
            sender: target.into(),
            timestamp_ms: at,
            payload: encode(&pb::HandoffAcceptPayload {
                handoff_id: id.clone(),
                accepted_by: target.into(),
                reason: "implicit accept (timeout)".into(),
                implicit: true,
            }),
            accepted_ms: at,
        })
    }

    /// The offer, if it waits for this sender's answer.
    fn awaits(&self, call: &Call<'_>, id: &str) -> Result<(), Refusal> {
        let offer = self.offer(id)?;
        if call.position() != Some(offer.target) {
            return Err(Refusal::forbidden("only the target answers an offer"));
        }
        if self.outstanding.as_deref() != Some(id) {
            return Err(Refusal::invalid(format!("offer `{id}` is answered already")));
        }
        Ok(())
    }

    fn offer(&self, id: &str) -> Result<&Offer, Refusal> {
        let offer = self.by_id.get(id);
        offer.ok_or_else(|| Refusal::invalid(format!("there is no offer `{id}`")))
    }
}

impl Handoff {
    pub(crate) fn offers(&self) -> &Offers {
        &self.offers
    }
}

/// What no client may say (§8 step 7): reserved ids, and an accept that claims to be the server's.
pub(crate) fn boundary(call: &Call<'_>, message_id: &str) -> Result<(), Refusal> {
    reserved(message_id)?;
    if call.message_type == ACCEPT
        && decode::<pb::HandoffAcceptPayload>(call.payload).is_ok_and(|accept| accept.implicit)
    {
        return Err(Refusal::invalid("only the server accepts implicitly"));
    }
    Ok(())
}

/// Refuses ids that are the server's.
pub(crate) fn reserved(message_id: &str) -> Result<(), Refusal> {
    if message_id.starts_with(RESERVED) {
        return Err(Refusal::invalid(format!("message ids must not begin with `{RESERVED}`")));
    }
    Ok(())
}

impl Mode for Handoff {
    type Event = Event;

    fn authorize(&self, call: &Call<'_>) -> Result<(), Refusal> {
        match call.message_type {
            // Whoever made an offer is the initiator, so the context is the initiator's too.
            "HandoffOffer" | "HandoffContext" => call.initiator(),
            _ => call.participant(),
        }
    }

    fn decode(call: &Call<'_>) -> Result<Event, Refusal> {
        Ok(match call.message_type {
            "HandoffOffer" => Event::Offer(decode(call.payload)?),
            "HandoffContext" => Event::Context(decode(call.payload)?),
            ACCEPT => Event::Accept(decode(call.payload)?),
            "HandoffDecline" => Event::Decline(decode(call.payload)?),
            _ => return Err(call.unknown_type()),
        })
    }

    fn check(&self, call: &Call<'_>, event: &Event) -> Result<(), Refusal> {
        let offers = &self.offers;
        match event {
            Event::Offer(offer) => {
                if offer.handoff_id.is_empty() || offer.target_participant.is_empty() {
                    return Err(Refusal::invalid("handoff_id and target_participant must be set"));
                }
                if offers.by_id.contains_key(&offer.handoff_id) {
                    let id = &offer.handoff_id;
                    return Err(Refusal::invalid(format!("there is an offer `{id}` already")));
                }
                let target = &offer.target_participant;
                let at = call.bound.roster.position(target).filter(|_| target != call.sender);
                let Some(at) = at else {
                    return Err(Refusal::invalid(format!(
                        "target `{target}` is not another participant"
                    )));
                };
                if let Some(open) = &offers.outstanding {
                    return Err(Refusal::invalid(format!("offer `{open}` is not answered yet")));
                }
                if offers.accepted {
                    return Err(Refusal::invalid("an offer was accepted already"));
                }
                if offers.declined.contains(&at) {
                    return Err(Refusal::invalid(format!("`{target}` has declined already")));
                }
                Ok(())
            }
            Event::Context(context) => offers.offer(&context.handoff_id).map(|_| ()),
            Event::Accept(accept) => {
                offers.awaits(call, &accept.handoff_id)?;
                if accept.implicit && !call.by_server {
                    return Err(Refusal::invalid("only the server accepts implicitly"));
                }
                call.names_sender("accepted_by", &accept.accepted_by)
            }
            Event::Decline(decline) => {
                offers.awaits(call, &decline.handoff_id)?;
                call.names_sender("declined_by", &decline.declined_by)
            }
        }
    }

    fn apply(&mut self, call: &Call<'_>, event: Event) {
        let offers = &mut self.offers;
        match event {
            Event::Offer(offer) => {
                let Some(target) = call.bound.roster.position(&offer.target_participant) else {
                    return;
                };
                offers.outstanding = Some(offer.handoff_id.clone());
                let suspended_ms = call.suspended_ms;
                offers.by_id.insert(offer.handoff_id, Offer { target, at: call.at, suspended_ms });
            }
            Event::Context(_) => {}
            Event::Accept(accept) => {
                if offers.outstanding.as_ref() == Some(&accept.handoff_id) {
                    offers.outstanding = None;
                    offers.accepted = true;
                }
            }
            Event::Decline(decline) => {
                if offers.outstanding.as_ref() == Some(&decline.handoff_id) {
                    offers.outstanding = None;
                    offers.declined.extend(call.position());
                }
            }
        }
    }

    fn ready(&self, _: &Bound, _: bool) -> Result<(), Refusal> {
        if self.offers.accepted || !self.offers.declined.is_empty() {
            return Ok(());
        }
        Err(Refusal::invalid("no offer was accepted or declined"))
    }

    fn denials(&self, _: &Bound, _: bool) -> Vec<Denial> {
        Vec::new()
    }
}
