//! Which verdicts of membership are worth an event: those of the node that leads, each once, and
//! none that were told already by whoever led before. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use weft_agreement::{Liveness, Members};
use weft_protocol::NodeChange;
use weft_wire::NodeId;

/// After a time without a majority, what is seen is believed only this much later: another leads
/// by then, if this node does no longer.
const STEADY: Duration = Duration::from_secs(1);
/// So many verdicts on one node within [`WINDOW`] are told; those beyond only once it has stayed
/// as it is for [`QUIET`].
pub(crate) const BURST: usize = 6;
/// See [`BURST`].
pub(crate) const WINDOW: Duration = Duration::from_secs(600);
/// See [`BURST`].
pub(crate) const QUIET: Duration = Duration::from_secs(60);

/// A verdict to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) node: NodeId,
    pub(crate) to: NodeChange,
    /// When it was reached.
    pub(crate) at: Instant,
    /// In words.
    pub(crate) cause: String,
}

#[derive(Debug)]
struct Noted {
    /// As the events have it.
    told: Liveness,
    told_at: Instant,
    /// When it fell silent, if it is.
    silent: Option<Instant>,
    /// When its last verdicts were told.
    lately: VecDeque<Instant>,
}

/// What was told of every node.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    nodes: BTreeMap<NodeId, Noted>,
    held_until: Option<Instant>,
}

impl Watch {
    /// While another leads: what it sees is told by it, as long as it lives.
    pub(crate) fn follow(&mut self, now: Instant, members: &Members, leader_lives: bool) {
        self.held_until = None;
        self.look(now, members);
        if !leader_lives {
            return;
        }
        for member in members.iter() {
            if let Some(noted) = self.nodes.get_mut(&member.id)
                && member.liveness != Liveness::Suspect
                && noted.told != member.liveness
            {
                noted.told = member.liveness;
                noted.told_at = member.since;
            }
        }
    }

    /// While this node leads; `majority`: it hears most voters.
    pub(crate) fn lead(
        &mut self,
        now: Instant,
        own: NodeId,
        members: &Members,
        majority: bool,
    ) -> Vec<Verdict> {
        self.look(now, members);
        if !majority {
            self.held_until = Some(now + STEADY);
        }
        if self.held_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        self.held_until = None;
        let mut verdicts = Vec::new();
        for member in members.iter().filter(|member| member.id != own) {
            let Some(noted) = self.nodes.get_mut(&member.id) else { continue };
            let to = match member.liveness {
                Liveness::Suspect => continue,
                same if same == noted.told => continue,
                Liveness::Alive => NodeChange::Back,
                Liveness::DaemonDown => NodeChange::DaemonDown,
                Liveness::Away => NodeChange::Away,
                Liveness::Lost => NodeChange::Lost,
                Liveness::Left => NodeChange::Left,
            };
            let recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
            while noted.lately.front().is_some_and(|at| !recent(at)) {
                noted.lately.pop_front();
            }
            let often = noted.lately.len() >= BURST;
            if often && now.saturating_duration_since(member.since) < QUIET {
                continue;
            }
            let mut cause = words(noted, member.liveness, member.since, member.back_by);
            if often {
                cause.push_str("; it came and went too often for each time to be told");
            }
            noted.lately.push_back(now);
            noted.told = member.liveness;
            noted.told_at = member.since;
            verdicts.push(Verdict { node: member.id, to, at: member.since, cause });
        }
        verdicts
    }

    fn look(&mut self, now: Instant, members: &Members) {
        self.nodes.retain(|id, _| members.get(*id).is_some());
        for member in members.iter() {
            let noted = self.nodes.entry(member.id).or_insert_with(|| Noted {
                // That it has joined is agreed: being there is no news.
                told: Liveness::Alive,
                told_at: now,
                silent: None,
                lately: VecDeque::new(),
            });
            match member.liveness {
                Liveness::Alive | Liveness::Away | Liveness::Left => noted.silent = None,
                Liveness::Suspect => {
                    noted.silent.get_or_insert(member.since);
                }
                Liveness::DaemonDown | Liveness::Lost => {}
            }
        }
    }
}

fn words(noted: &Noted, to: Liveness, at: Instant, back_by: Option<Instant>) -> String {
    let since = |then: Instant| seconds(at.saturating_duration_since(then));
    let silent = noted.silent.map_or_else(
        || "no answer".to_owned(),
        |silent| format!("no answer for {}", since(silent)),
    );
    match (to, noted.told) {
        (Liveness::Alive | Liveness::Suspect, _) => {
            format!("answers again after {}", since(noted.told_at))
        }
        (Liveness::DaemonDown, _) => format!("{silent}; its host answers: its daemon is down"),
        (Liveness::Away, _) => match back_by {
            Some(by) => format!(
                "its daemon was stopped on purpose, back within {}",
                seconds(by.saturating_duration_since(at))
            ),
            None => "its daemon was stopped on purpose".to_owned(),
        },
        (Liveness::Lost, Liveness::DaemonDown) => format!(
            "its daemon was down for {} and did not come back, or its host fell silent too",
            since(noted.told_at)
        ),
        (Liveness::Lost, Liveness::Away) => {
            "it did not come back when it had said, and does not answer".to_owned()
        }
        (Liveness::Lost, _) => format!("{silent}, and its host does not answer either"),
        (Liveness::Left, _) => "its daemon said that it leaves for good".to_owned(),
    }
}

/// `1.5 s`, `2 min`.
pub(crate) fn seconds(span: Duration) -> String {
    // Halves up, so that an announced minute is not `59.9 s`.
    let tenths = (span.as_millis() + 50) / 100;
    match (tenths / 10, tenths % 10) {
        (s @ 0..120, 0) => format!("{s} s"),
        (s @ 0..60, tenth) => format!("{s}.{tenth} s"),
        (s @ 60..120, _) => format!("{s} s"),
        (s, _) => format!("{} min", s / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_agreement::Member;

    fn id(n: u128) -> NodeId {
        NodeId::new(uuid::Uuid::from_u128(n))
    }

    fn members(of: &[(u128, Liveness, Instant)]) -> Members {
        let member = |(n, liveness, since): &(u128, Liveness, Instant)| Member {
            id: id(*n),
            liveness: *liveness,
            since: *since,
            incarnation: 1,
            back_by: None,
        };
        of.iter().map(member).collect()
    }

    fn start() -> Instant {
        weft_wire::Clock::now(&weft_wire::ManualClock::new(weft_wire::WallTime::from_micros(0)))
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_loss_and_a_return_are_told_once_each_with_how_long_it_took() {
        let t = start();
        let mut watch = Watch::default();
        let alive = members(&[(1, Liveness::Alive, t), (2, Liveness::Alive, t)]);
        assert!(watch.lead(t, id(1), &alive, true).is_empty());
        let suspect = members(&[(2, Liveness::Suspect, t + MS * 100)]);
        assert!(watch.lead(t + MS * 100, id(1), &suspect, true).is_empty());
        let lost = members(&[(2, Liveness::Lost, t + MS * 1600)]);
        let told = watch.lead(t + MS * 1700, id(1), &lost, true);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].to, told[0].at), (NodeChange::Lost, t + MS * 1600));
        assert_eq!(told[0].cause, "no answer for 1.5 s, and its host does not answer either");
        assert!(watch.lead(t + MS * 1800, id(1), &lost, true).is_empty());
        let back = members(&[(2, Liveness::Alive, t + MS * 13_600)]);
        let told = watch.lead(t + MS * 13_600, id(1), &back, true);
        assert_eq!(told[0].cause, "answers again after 12 s");
    }

    #[test]
    fn what_the_living_leader_saw_is_not_told_again_by_the_next_but_the_leaders_own_loss_is() {
        let t = start();
        let mut watch = Watch::default();
        let one = members(&[(1, Liveness::Alive, t), (3, Liveness::Lost, t)]);
        watch.follow(t, &one, true);
        // The leader dies: nothing is taken as told from here on.
        let two = members(&[(1, Liveness::Lost, t + MS * 2000), (3, Liveness::Lost, t)]);
        watch.follow(t + MS * 2000, &two, false);
        let told = watch.lead(t + MS * 3000, id(2), &two, true);
        assert_eq!(told.iter().map(|v| v.node).collect::<Vec<_>>(), [id(1)]);
    }

    #[test]
    fn a_leader_that_hears_no_majority_tells_nothing_until_it_has_done_so_for_a_second() {
        let t = start();
        let mut watch = Watch::default();
        let all = members(&[(2, Liveness::Alive, t), (3, Liveness::Alive, t)]);
        watch.lead(t, id(1), &all, true);
        let lost = members(&[(2, Liveness::Lost, t), (3, Liveness::Lost, t)]);
        assert!(watch.lead(t + MS * 1000, id(1), &lost, false).is_empty());
        assert!(watch.lead(t + MS * 1500, id(1), &lost, true).is_empty());
        watch.follow(t + MS * 1600, &all, true);
        assert!(watch.lead(t + MS * 9000, id(1), &all, true).is_empty());
    }

    proptest! {
        #[test]
        fn flapping_never_floods_no_verdict_is_told_twice_in_a_row_and_the_last_word_is_told(
            turns in proptest::collection::vec((1u64..40_000, 0usize..5), 1..200),
        ) {
            const STATES: [Liveness; 5] = [
                Liveness::Alive, Liveness::Suspect, Liveness::DaemonDown, Liveness::Lost,
                Liveness::Away,
            ];
            let mut now = start();
            let mut watch = Watch::default();
            let mut told: Vec<(Instant, NodeChange)> = Vec::new();
            let mut last = (Liveness::Alive, now);
            for (pause, state) in turns {
                // The tick comes in between too.
                for at in [now + MS, now + Duration::from_millis(pause)] {
                    now = at;
                    let seen = members(&[(2, last.0, last.1)]);
                    told.extend(watch.lead(now, id(1), &seen, true).into_iter().map(|v| (now, v.to)));
                }
                if STATES[state] != last.0 {
                    last = (STATES[state], now);
                }
            }
            prop_assert!(told.windows(2).all(|two| two[0].1 != two[1].1), "{told:?}");
            for (at, _) in &told {
                let near = told.iter().filter(|(other, _)| *other >= *at && *other < *at + WINDOW);
                let most = BURST + usize::try_from(WINDOW.as_secs() / QUIET.as_secs()).unwrap_or(0);
                prop_assert!(near.count() <= most + 1);
            }
            if last.0 != Liveness::Suspect {
                let end = now + QUIET + WINDOW;
                told.extend(watch.lead(end, id(1), &members(&[(2, last.0, last.1)]), true)
                    .into_iter().map(|v| (end, v.to)));
                let word = match last.0 {
                    Liveness::Alive => NodeChange::Back,
                    Liveness::DaemonDown => NodeChange::DaemonDown,
                    Liveness::Lost => NodeChange::Lost,
                    _ => NodeChange::Away,
                };
                let ended = told.last().map(|(_, to)| *to);
                prop_assert!(
                    ended == Some(word) || (ended.is_none() && last.0 == Liveness::Alive),
                    "{ended:?} but {last:?}"
                );
            }
        }
    }
}
