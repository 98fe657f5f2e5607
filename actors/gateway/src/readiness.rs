//! Whether this node is ready: desired state is there and known to be new, and nothing runs here
//! that is not this node's any more.

use std::time::Duration;

use weft_protocol::{
    AgreementView, ComponentKey, Duty, ReadAgreement, ReadDuty, ReadState, StateView,
};
use weft_wire::AskError;

use crate::around::Asker;

/// Actors of this node are asked for no longer.
const PROBE: Duration = Duration::from_secs(1);
/// So many components are named; the rest is counted.
const NAMED: usize = 5;

/// Why this node is not ready, for people; empty: it is.
pub(crate) async fn reasons(asker: &Asker) -> Vec<String> {
    let (state, agreement, duty) = tokio::join!(
        asker.ask(ReadState { consistent: false }, PROBE),
        asker.ask(ReadAgreement {}, PROBE),
        asker.ask(ReadDuty {}, PROBE),
    );
    judge(&state, &agreement, &duty, &asker.fabric.node().to_string())
}

fn judge(
    state: &Result<StateView, AskError>,
    agreement: &Result<AgreementView, AskError>,
    duty: &Result<Duty, AskError>,
    here: &str,
) -> Vec<String> {
    let mut reasons = Vec::new();
    match state {
        Err(error) => reasons.push(format!("the registry does not answer: {error}")),
        // Not yet come from the node that leads, until this node finds itself in it.
        Ok(state) if state.index == 0 || state.node(here).is_none() => {
            reasons.push("desired state has not arrived from the other nodes yet".to_owned());
        }
        Ok(_) => {}
    }
    // What it has on disk may be old: it may still be told that something is not its any more.
    if let Ok(view) = agreement
        && !view.unsure.is_empty()
    {
        reasons.push(view.unsure.clone());
    }
    match duty {
        Err(error) => reasons.push(format!("the runtime does not answer: {error}")),
        Ok(Duty { stale, undecided, .. }) => {
            if !stale.is_empty() {
                let what = list(stale);
                reasons.push(format!("stopping what is not this node's any more: {what}"));
            }
            if !undecided.is_empty() {
                let what = list(undecided);
                reasons.push(format!(
                    "placed elsewhere while this node was out of contact, not decided yet which copy stays: {what}"
                ));
            }
        }
    }
    reasons
}

/// `web/1/api, web/2/api and 3 more`.
fn list(keys: &[ComponentKey]) -> String {
    let named: Vec<String> = keys.iter().take(NAMED).map(ToString::to_string).collect();
    match keys.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(component: &str) -> ComponentKey {
        ComponentKey { service: "web".into(), replica: 1, component: component.into() }
    }

    #[test]
    fn a_node_is_not_ready_while_it_runs_what_may_not_be_its_own() {
        let state = crate::rows::tests::state();
        let here = crate::rows::tests::node_id(1).to_string();
        let judge = |unsure: &str, stale: &[&str], undecided: &[&str]| {
            let view = AgreementView { unsure: unsure.into(), ..AgreementView::default() };
            let keys = |names: &[&str]| names.iter().map(|name| key(name)).collect();
            let duty = Duty { index: Some(1), stale: keys(stale), undecided: keys(undecided) };
            judge(&Ok(state.clone()), &Ok(view), &Ok(duty), &here)
        };
        assert!(judge("", &[], &[]).is_empty());
        assert_eq!(judge("no leader", &[], &[]), ["no leader"]);
        let many = ["a", "b", "c", "d", "e", "f", "g"];
        let reasons = judge("", &many, &["h"]);
        assert!(reasons[0].contains("web/1/e and 2 more"), "{reasons:?}");
        assert!(reasons[1].contains("which copy stays: web/1/h"), "{reasons:?}");
    }
}
