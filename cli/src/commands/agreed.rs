//! What nodes have agreed on, and how fresh what one of them says about it is (design §6).

use std::time::Duration;

use weft_protocol::{
    AgreementView, GroupView, NodeState, ReadAgreement, ReadState, StateView, uptime,
};
use weft_wire::{ActorKind, Address, NodeId};

use super::App;
use crate::args::Fresh;
use crate::attach::Attached;
use crate::error::Result;

/// Without a word of a majority for so long, another leader may be there (design §6: a vote is
/// granted 2 s after the last heartbeat).
const OLD: Duration = Duration::from_secs(2);
/// The leader is not waited for any longer: the attached node knows something, too.
const LEADER: Duration = Duration::from_secs(1);
/// For a remark beside a result.
const ASIDE: Duration = Duration::from_secs(1);
/// The group that holds desired state.
const CONTROL: &str = "control";

/// Desired state, as the attached node knows it or, if asked for, not older than any change that
/// was acknowledged before.
///
/// # Errors
/// `consistent` while no majority is there.
pub(crate) async fn state(app: &App, attached: &Attached, consistent: bool) -> Result<StateView> {
    let registry = Address::here(ActorKind::Registry);
    attached.ask(registry, ReadState { consistent }, app.question()).await
}

/// Has the attached node catch up first where `--consistent` asks for it: what it says next about
/// desired state is not older.
///
/// # Errors
/// While no majority is there.
pub(crate) async fn catch_up(app: &App, attached: &Attached, fresh: Fresh) -> Result<()> {
    if fresh.consistent {
        state(app, attached, true).await?;
    }
    Ok(())
}

/// What membership and consensus know: as the leader sees it, else as the attached node does.
///
/// # Errors
/// When that does not answer either.
pub(crate) async fn agreement(attached: &Attached, within: Duration) -> Result<AgreementView> {
    let own = own(attached, within).await?;
    if !leader_is_elsewhere(&own) {
        return Ok(own);
    }
    let leader = Address::leader(ActorKind::Registry);
    Ok(attached.ask(leader, ReadAgreement {}, within.min(LEADER)).await.unwrap_or(own))
}

/// Whether another node leads that, as far as this one sees, is there to be asked.
fn leader_is_elsewhere(view: &AgreementView) -> bool {
    let leader = control(view).and_then(|group| group.leader);
    let there = |id: NodeId| {
        view.member(id).is_none_or(|member| {
            matches!(member.state, NodeState::Ready | NodeState::Draining | NodeState::Degraded)
        })
    };
    leader.is_some_and(|id| Some(id) != view.node && there(id))
}

async fn own(attached: &Attached, within: Duration) -> Result<AgreementView> {
    attached.ask(Address::here(ActorKind::Registry), ReadAgreement {}, within).await
}

/// That what the attached node says may be old, if it may be; for stderr, beside a result.
pub(crate) async fn remark(attached: &Attached) -> Option<String> {
    without_majority(&own(attached, ASIDE).await.ok()?)
}

/// The group that desired state is in.
pub(crate) fn control(view: &AgreementView) -> Option<&GroupView> {
    view.groups.iter().find(|group| group.name == CONTROL).or(view.groups.first())
}

/// `None`: the node that says this has been in contact with a majority just now. Otherwise that
/// it has not, and how old what it says is.
pub(crate) fn without_majority(view: &AgreementView) -> Option<String> {
    let said = |age: String| Some(format!("no majority: read only; what is shown is {age}"));
    let Some(group) = control(view) else { return said("of unknown age".into()) };
    if group.leader.is_some() && group.leader == view.node && alone(group) {
        return None;
    }
    match group.contact_ms.map(Duration::from_millis) {
        Some(age) if group.leader.is_some() && age <= OLD => None,
        Some(age) => said(format!("{} old", seconds(age))),
        None => said("of unknown age".into()),
    }
}

/// Its leader is a majority by itself.
fn alone(group: &GroupView) -> bool {
    matches!(group.voters.as_slice(), [voter] if group.leader == Some(*voter))
}

fn seconds(age: Duration) -> String {
    match age.as_secs() {
        0..10 => format!("{}.{} s", age.as_secs(), age.subsec_millis() / 100),
        10..60 => format!("{} s", age.as_secs()),
        _ => uptime(age),
    }
}

/// The node's name, or its id where no name is known.
pub(crate) fn name_in(view: &AgreementView, id: NodeId) -> String {
    view.member(id).map_or_else(|| id.to_string(), |member| member.name.clone())
}

/// Why without these nodes nobody could lead; `None`: somebody could.
pub(crate) fn loses_majority(view: &AgreementView, lost: &[NodeId]) -> Option<String> {
    let voters = &control(view)?.voters;
    let gone = voters.iter().filter(|voter| lost.contains(voter)).count();
    if voters.is_empty() || (voters.len() - gone) * 2 > voters.len() {
        return None;
    }
    let mut names: Vec<String> = voters.iter().map(|id| name_in(view, *id)).collect();
    names.sort();
    Some(format!(
        "of the voters {} no majority would be left: nothing would move until enough of them are \
         back",
        names.join(", ")
    ))
}

/// The `waiting` lines that are about a service; all without one.
pub(crate) fn waiting_of(view: &AgreementView, service: Option<&str>) -> Vec<String> {
    let about = |line: &&String| {
        service.is_none_or(|service| {
            line.strip_prefix(service).is_some_and(|rest| rest.starts_with('/'))
        })
    };
    view.waiting.iter().filter(about).cloned().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;
    use weft_protocol::{MemberView, NodeRole};

    use super::*;

    pub(crate) fn id(n: u128) -> NodeId {
        NodeId::new(Uuid::from_u128(n))
    }

    /// n1 leads; n1 to n3 vote, the others follow; as n1 sees it.
    pub(crate) fn view(nodes: u128) -> AgreementView {
        AgreementView {
            node: Some(id(1)),
            members: (1..=nodes)
                .map(|n| MemberView {
                    id: id(n),
                    name: format!("n{n}"),
                    state: NodeState::Ready,
                    for_ms: 65_000,
                    role: match n {
                        1 => NodeRole::Leader,
                        2 | 3 => NodeRole::Voter,
                        _ => NodeRole::Learner,
                    },
                    lag: (n > 1).then_some(2),
                    why: "3 of 4 nodes vote".into(),
                })
                .collect(),
            groups: vec![GroupView {
                name: CONTROL.into(),
                leader: Some(id(1)),
                term: 3,
                last_log: 121,
                committed: 120,
                applied: 119,
                checkpoint: 100,
                voters: (1..=nodes.min(3)).map(id).collect(),
                learners: (4..=nodes).map(id).collect(),
                contact_ms: Some(40),
            }],
            format: 1,
            waiting: vec!["web/1: waiting for n2".into(), "web-api/1: no room".into()],
            unsure: String::new(),
        }
    }

    #[test]
    fn contact_with_a_majority_just_now_is_nothing_to_remark() {
        assert_eq!(without_majority(&view(4)), None);
        // The only voter needs nobody else.
        let mut alone = view(1);
        alone.groups[0].contact_ms = None;
        assert_eq!(without_majority(&alone), None);
    }

    #[test]
    fn without_a_leader_or_contact_the_age_of_what_is_shown_is_said() {
        let said = |leader, contact_ms| {
            let mut view = view(3);
            view.groups[0].leader = leader;
            view.groups[0].contact_ms = contact_ms;
            without_majority(&view)
        };
        let old = |age: &str| Some(format!("no majority: read only; what is shown is {age}"));
        assert_eq!(said(Some(id(1)), Some(12_345)), old("12 s old"));
        assert_eq!(said(None, Some(800)), old("0.8 s old"));
        assert_eq!(said(Some(id(2)), Some(139_000)), old("2m19s old"));
        assert_eq!(said(None, None), old("of unknown age"));
        assert_eq!(without_majority(&AgreementView::default()), old("of unknown age"));
    }

    #[test]
    fn a_leader_that_is_silent_is_not_waited_for() {
        let mut seen = view(3);
        assert!(!leader_is_elsewhere(&seen), "n1 itself leads");
        seen.node = Some(id(2));
        assert!(leader_is_elsewhere(&seen));
        for state in [NodeState::Suspect, NodeState::Lost, NodeState::DaemonDown] {
            seen.members[0].state = state;
            assert!(!leader_is_elsewhere(&seen), "{state}");
        }
    }

    #[test]
    fn the_loss_of_half_the_voters_leaves_no_majority() {
        let view = view(5);
        assert_eq!(loses_majority(&view, &[id(2)]), None);
        assert_eq!(loses_majority(&view, &[id(4), id(5)]), None);
        let why = loses_majority(&view, &[id(1), id(3)]).expect("no majority");
        assert!(why.contains("n1, n2, n3"), "{why}");
    }

    #[test]
    fn only_the_reasons_of_the_service_that_was_named_are_shown() {
        assert_eq!(waiting_of(&view(1), Some("web")), ["web/1: waiting for n2"]);
        assert_eq!(waiting_of(&view(1), None).len(), 2);
        assert!(waiting_of(&view(1), Some("we")).is_empty());
    }
}
