//! A group's elections: `election` says when, here the others are asked and openraft is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::{RngExt, SeedableRng};
use weft_link::Call;
use weft_wire::{ActorKind, Address, AskError, NodeId};

use super::Role;
use super::election::{Sight, Stance, Step, Turns, majority, supports};
use super::group::Inner;
use super::wire::AskSupport;

/// Lets this node's replica stand when it is its turn, until the group stops.
pub(crate) async fn run(group: Arc<Inner>) {
    let mut random = rand::rngs::StdRng::from_rng(&mut rand::rng());
    let mut draw = move || random.random_range(0.0..1.0);
    let mut turns = Turns::new(group.timing().clone(), group.began(), draw());
    let mut status = group.watch();
    loop {
        let news = async {
            tokio::select! {
                changed = status.changed() => if changed.is_err() { group.stopped().await },
                () = group.nudged() => {}
            }
        };
        match turns.step(group.now(), &sight(&group)) {
            Step::Rest => tokio::select! {
                () = group.stopped() => return,
                () = news => {}
            },
            Step::Wait(until) => tokio::select! {
                () = group.stopped() => return,
                () = news => {}
                () = tokio::time::sleep_until(until.into()) => {}
            },
            Step::Stand => stand(&group, &mut turns, draw()).await,
            Step::Ask => {
                let heard = group.heard_at();
                let supported = tokio::select! {
                    () = group.stopped() => return,
                    supported = supported(&group) => supported,
                };
                if supported && group.heard_at() == heard {
                    stand(&group, &mut turns, draw()).await;
                } else {
                    turns.refused(group.now(), draw());
                }
            }
        }
    }
}

async fn stand(group: &Arc<Inner>, turns: &mut Turns, draw: f64) {
    tracing::info!(group = group.name(), "standing for election");
    if let Ok(engine) = group.engine() {
        // Its own vote is given too: it supports nobody else meanwhile.
        group.grants(group.node());
        engine.elect().await;
    }
    turns.stood(group.now(), draw);
}

fn sight(group: &Inner) -> Sight {
    let running = group.engine().is_ok();
    let heard = group.heard_at();
    let view = group.view();
    let own = group.node();
    let before = view.voters.iter().filter(|id| Some(**id) != view.leader);
    let rank = before.take_while(|id| **id != own).count();
    Sight {
        role: running.then_some(view.role),
        alone: view.voters.len() == 1 && view.voters.contains(&own),
        heard,
        granted: group.granted().map(|(_, at)| at),
        leader_gone: heard.is_none() || group.gone() == heard,
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
    }
}

/// Whether a majority of the voters would grant this node their votes. As soon as it is known; at
/// most `election_min`, the time they have for the votes themselves.
async fn supported(group: &Arc<Inner>) -> bool {
    let configs = group.view().configs.clone();
    let own = group.node();
    let others: BTreeSet<NodeId> =
        configs.iter().flatten().copied().filter(|id| *id != own).collect();
    let within = group.timing().election_min;
    let mut answers: FuturesUnordered<_> = others
        .into_iter()
        .map(|peer| {
            let ask =
                AskSupport { group: group.name().to_owned(), candidate: own, last: group.last() };
            let to = Address::on(ActorKind::Agreement, peer);
            let answer = group.fabric().ask(to, ask, Call::within(within));
            async move { (peer, answer.await) }
        })
        .collect();
    let mut with = BTreeSet::from([own]);
    while !majority(&configs, &with) {
        match answers.next().await {
            None => return false,
            // A peer from before there was the question decides when it is asked for its vote.
            Some((peer, Ok(true) | Err(AskError::Unsupported { .. }))) => drop(with.insert(peer)),
            Some(_) => {}
        }
    }
    true
}

/// The answer to a voter that wonders whether to stand.
pub(crate) fn answer(group: &Inner, ask: &AskSupport) -> bool {
    let view = group.view();
    let stance = Stance {
        role: group.engine().is_ok().then_some(view.role),
        quorum_age: view.quorum_age.filter(|_| view.role == Role::Leader),
        began: group.began(),
        heard: group.heard_at(),
        granted: group.granted(),
        last: group.last(),
    };
    let supported = supports(group.timing(), group.now(), &stance, ask.candidate, ask.last);
    tracing::debug!(group = group.name(), candidate = %ask.candidate, supported, "asked to support");
    supported
}
