//! What is next in a rolling update: decided by whoever leads, from what is agreed and what the
//! nodes say (orchestration §24). Pure.
//!
//! Forward, start-first: extra replicas of the new version, up to `max_parallel`; once they have
//! been healthy for `healthy_for`, as many of the others are updated; once those have been healthy
//! for as long, the next; then the extra ones go. Stop-first is the same without extra replicas. A
//! replica that is given up on, or the deadline, turns it round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_protocol::{
    ComponentState, ComponentStatus, Desired, Health, Placement, Rollout, RolloutPhase,
    RolloutStep, ServiceRecord, UpdateOrder, VersionRef, spec_hash,
};
use weft_wire::NodeId;

/// What is known to be good is healthy again after so long.
const KNOWN_GOOD: Duration = Duration::from_secs(1);
/// There has to be no room for an extra replica for so long.
const NO_ROOM: Duration = Duration::from_millis(1500);
/// Lines of a reason.
const NAMED: usize = 3;

/// A process: its service, replica, component, node, pid and start epoch.
type Process = (String, u32, String, NodeId, u32, u64);

/// What was seen at the last looks; nothing of it outlives a lead.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    /// Since when each process has been healthy, and at which look it was so last.
    healthy: BTreeMap<Process, (Instant, u64)>,
    /// Since when an extra replica has had no place, by service.
    no_room: BTreeMap<String, Instant>,
    looks: u64,
}

/// What an update is decided from.
#[derive(Debug)]
pub(crate) struct Scene<'a, F> {
    /// The service; it is being updated.
    pub(crate) record: &'a ServiceRecord,
    /// Its places.
    pub(crate) places: &'a [&'a Placement],
    /// What a node's runtime says; `None`: it did not answer.
    pub(crate) seen: F,
    /// Why replicas have no place, by `service/replica`.
    pub(crate) stuck: &'a BTreeMap<String, String>,
    /// Since this phase began, by wall time.
    pub(crate) age: Duration,
}

/// A replica, as far as the version it is to run goes.
enum Standing {
    /// Healthy for so long.
    Healthy(Duration),
    /// Not yet, and why.
    Coming(String),
    /// It will not be, and why.
    Failed(String),
}

impl Proofs {
    /// A look at all updates that go on begins.
    pub(crate) fn begin(&mut self) {
        self.looks += 1;
    }

    /// And ends: what was not seen healthy is forgotten.
    pub(crate) fn end(&mut self) {
        let looks = self.looks;
        self.healthy.retain(|_, (_, at)| *at == looks);
    }

    /// The next step; `None`: nothing but time.
    pub(crate) fn next<'a, F>(&mut self, scene: &Scene<'_, F>, now: Instant) -> Option<RolloutStep>
    where
        F: Fn(NodeId) -> Option<&'a [ComponentStatus]>,
    {
        let record = scene.record;
        let rollout = record.rollout.as_deref()?;
        let back = match rollout.phase {
            RolloutPhase::Halted => return None,
            RolloutPhase::Forward | RolloutPhase::Paused => false,
            RolloutPhase::Back => true,
        };
        let wanted = |component: &str| record.desired_of(component) == Desired::Running;
        if record.undeployed || !record.spec.components.iter().any(|c| wanted(&c.name)) {
            // Nothing is to run any more: nothing has to be careful about it.
            return Some(RolloutStep::Done);
        }
        let policy = &record.spec.update;
        let needs = if back { policy.healthy_for.min(KNOWN_GOOD) } else { policy.healthy_for };
        let count = record.spec.replicas;
        let pending: Vec<u32> = (1..=count).filter(|r| !rollout.updated.contains(r)).collect();
        let (mut failed, mut coming) = (Vec::new(), Vec::new());
        let (mut extra_good, mut settled) = (0, true);
        for replica in (1..=count).filter(|r| rollout.updated.contains(r)) {
            let standing = self.standing(scene, replica, now);
            settled &= matches!(standing, Standing::Healthy(_));
            match standing {
                Standing::Healthy(time) if time >= needs => {}
                Standing::Healthy(time) => coming.push(format!(
                    "{}/{replica} has been healthy for {} of {} s",
                    record.name,
                    time.as_secs(),
                    needs.as_secs()
                )),
                Standing::Coming(why) => coming.push(why),
                Standing::Failed(why) => failed.push(why),
            }
        }
        if rollout.phase == RolloutPhase::Paused {
            // The extra ones go when what they stood in for is there again.
            return (rollout.extra > 0 && settled).then_some(RolloutStep::Extra(0));
        }
        for replica in count + 1..=record.replicas() {
            match self.standing(scene, replica, now) {
                Standing::Healthy(time) => extra_good += u32::from(time >= needs),
                // What is given up need not be waited for.
                _ if rollout.extra_other => return Some(RolloutStep::Extra(0)),
                Standing::Coming(why) => coming.push(why),
                Standing::Failed(why) => failed.push(why),
            }
        }
        if !failed.is_empty() {
            let why = lines(&failed);
            return Some(match (back, policy.auto_rollback) {
                (false, true) => RolloutStep::Back(why),
                (false, false) => RolloutStep::Halt(why),
                (true, _) => RolloutStep::Halt(format!(
                    "revision {} does not run either: {why}; it was returned to because {}",
                    record.revision, rollout.reason
                )),
            });
        }
        if scene.age >= policy.deadline {
            let what =
                if coming.is_empty() { "replicas are left".to_owned() } else { lines(&coming) };
            let why = format!("not done within {} s: {what}", policy.deadline.as_secs());
            return Some(if !back && policy.auto_rollback {
                RolloutStep::Back(why)
            } else {
                RolloutStep::Halt(why)
            });
        }
        // Those that are of no use now go first: nothing is lost by it.
        let (up, down): (Vec<u32>, Vec<u32>) = pending
            .into_iter()
            .partition(|r| matches!(self.standing(scene, *r, now), Standing::Healthy(_)));
        if back && !down.is_empty() {
            return Some(RolloutStep::Update(down));
        }
        let start_first = rollout.order == UpdateOrder::StartFirst;
        let left = up.len() + down.len();
        if settled
            && start_first
            && left > 0
            && let Some(step) = self.room(scene, rollout, left, now)
        {
            return Some(step);
        }
        if !coming.is_empty() {
            return None;
        }
        if left == 0 {
            return Some(RolloutStep::Done);
        }
        let of = u32::try_from(rollout.updated.len()).unwrap_or(u32::MAX);
        let mut most = policy.max_parallel.max(1);
        if rollout.canary > 0 && !back {
            most = most.min(rollout.canary.saturating_sub(of));
            if most == 0 {
                let why = format!("canary: {of} of {count} replicas updated");
                return Some(RolloutStep::Pause(why));
            }
        }
        if start_first {
            // As many at once as the extra ones can stand in for.
            most = most.min(extra_good.max(u32::from(rollout.extra_other)));
            if most == 0 {
                return None;
            }
        }
        Some(RolloutStep::Update(first(down.into_iter().chain(up).collect(), most)))
    }

    /// Sees that extra replicas are there.
    fn room<F>(
        &mut self,
        scene: &Scene<'_, F>,
        rollout: &Rollout,
        left: usize,
        now: Instant,
    ) -> Option<RolloutStep> {
        let record = scene.record;
        if rollout.extra == 0 {
            // With a canary whose number is reached there is nothing to start for.
            let canary = rollout.phase == RolloutPhase::Forward
                && rollout.canary > 0
                && rollout.updated.len() >= rollout.canary as usize;
            let most = u32::try_from(left).unwrap_or(u32::MAX);
            let extra = record.spec.update.max_parallel.clamp(1, most);
            return (!canary).then_some(RolloutStep::Extra(extra));
        }
        let without = (record.spec.replicas + 1..=record.replicas()).find_map(|replica| {
            let placed = scene.places.iter().any(|place| place.replica == replica);
            let why = scene.stuck.get(&format!("{}/{replica}", record.name))?;
            (!placed).then_some(why)
        });
        let Some(why) = without else {
            self.no_room.remove(&record.name);
            return None;
        };
        let since = *self.no_room.entry(record.name.clone()).or_insert(now);
        (now.saturating_duration_since(since) >= NO_ROOM)
            .then(|| RolloutStep::StopFirst(format!("no room for an extra replica: {why}")))
    }

    fn standing<'a, F>(&mut self, scene: &Scene<'_, F>, replica: u32, now: Instant) -> Standing
    where
        F: Fn(NodeId) -> Option<&'a [ComponentStatus]>,
    {
        let record = scene.record;
        let name = format!("{}/{replica}", record.name);
        let Some(place) = scene.places.iter().find(|place| place.replica == replica) else {
            return Standing::Coming(match scene.stuck.get(&name) {
                Some(why) => format!("{name} has no place: {why}"),
                None => format!("{name} has no place yet"),
            });
        };
        let Some(list) = (scene.seen)(place.node) else {
            return Standing::Coming(format!("{name}: its node does not answer"));
        };
        let version = record.version_of(replica);
        let mut shortest = Duration::MAX;
        for component in &version.spec.components {
            if record.desired_of(&component.name) != Desired::Running {
                continue;
            }
            let key = format!("{name}/{}", component.name);
            let status = list.iter().find(|status| {
                status.key.service == record.name
                    && status.key.replica == replica
                    && status.key.component == component.name
            });
            // What ran before goes on there.
            if let Some(status) =
                status.filter(|status| status.refused != 0 && status.refused == version.revision)
            {
                return Standing::Failed(format!("{key} cannot be started: {}", why_of(status)));
            }
            let Some(status) = status.filter(|status| is_of(status, version, component)) else {
                return Standing::Coming(format!("{key} is not of revision {}", version.revision));
            };
            match (status.state, status.health) {
                (ComponentState::Running, Health::Healthy | Health::None) => {
                    let process = (
                        record.name.clone(),
                        replica,
                        component.name.clone(),
                        place.node,
                        status.pid,
                        status.epoch,
                    );
                    let looks = self.looks;
                    let (since, last) = self.healthy.entry(process).or_insert((now, looks));
                    *last = looks;
                    shortest = shortest.min(now.saturating_duration_since(*since));
                }
                (ComponentState::Running, _) => {
                    return Standing::Coming(format!("{key} is not healthy yet"));
                }
                (ComponentState::Failed, _) => {
                    return Standing::Failed(format!("{key} failed: {}", why_of(status)));
                }
                (ComponentState::Exited, _) if component.restart.stays_down(&status.last_exit) => {
                    return Standing::Failed(format!(
                        "{key} ended ({}) and its restart policy does not start it again",
                        status.last_exit
                    ));
                }
                (state, _) => {
                    let why = if status.reason.is_empty() { "" } else { ": " };
                    return Standing::Coming(format!("{key} is {state}{why}{}", status.reason));
                }
            }
        }
        Standing::Healthy(shortest)
    }
}

fn first(mut replicas: Vec<u32>, most: u32) -> Vec<u32> {
    replicas.truncate(most as usize);
    replicas
}

/// Whether what a node says is about that version.
fn is_of(
    status: &ComponentStatus,
    version: VersionRef<'_>,
    component: &weft_protocol::ComponentSpec,
) -> bool {
    status.epoch == version.epoch_of(&component.name).start
        && status.spec_hash == spec_hash(version.spec, component)
}

fn why_of(status: &ComponentStatus) -> &str {
    match (status.reason.as_str(), status.last_exit.as_str()) {
        ("", "") => "its node does not say why",
        ("", exit) => exit,
        (reason, _) => reason,
    }
}

fn lines(all: &[String]) -> String {
    let mut text = all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    if all.len() > NAMED {
        text.push_str(&format!("; and {} more", all.len() - NAMED));
    }
    text
}
