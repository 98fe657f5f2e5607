//! What the monitor believes of each component, as a pure machine: transitions and listings in,
//! events to record and drift out. Time and ids are arguments.
//!
//! Events wait in an outbox until they are known to be recorded; their ids make recording twice
//! the same as recording once, so whatever is unsure is simply sent again.

mod often;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use uuid::Uuid;
use weft_protocol::{
    AlertKind, ComponentKey, ComponentState, ComponentStatus, Desired, Drift, DriftKind, Event,
    EventKind, ObservedState, Transition,
};
use weft_wire::WallTime;

use self::often::Often;
use crate::alerts::{Fact, TooOften};

/// Events that may wait to be recorded; beyond it the runtime keeps its transitions itself.
pub const OUTBOX: usize = 10_000;
/// Ids of recorded events that are remembered, so that a repeated transition costs nothing.
const REMEMBERED: usize = 8_192;
/// Passes in a row that may fail before everything counts as unknown (orchestration §4).
const FAILED_PASSES: u32 = 3;
/// In which restarts are counted.
pub const RESTART_WINDOW: Duration = Duration::from_secs(3600);
/// Components that flap or restart too often and are not asked for; more are forgotten.
const OFTEN: usize = 1_000;
/// Told apart from its transition's id by these bits; variant and version stay as they were.
const FLAP_BITS: u128 = 0x0f1a_99ed;

/// What the rules depend on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this node, for events and drift.
    pub node: String,
    /// So many transitions within `flap_window` are flapping, at least 1 (orchestration §12).
    pub flap_threshold: u32,
    /// See `flap_threshold`.
    pub flap_window: Duration,
    /// So many restarts within [`RESTART_WINDOW`] are too many, at least 1.
    pub restart_threshold: u32,
    /// A listing that contradicts what was told counts as a missed transition only when it still
    /// does after this long: until then the transition may be on its way.
    pub grace: Duration,
}

/// A component judged by the table of orchestration §4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// Not observed yet.
    Pending,
    /// Not as wanted; the reason text.
    Drift(String),
}

/// The complete drift table of orchestration §4. `exit` is how it ended, empty if not known.
pub fn judge(desired: Desired, observed: ObservedState, exit: &str) -> Verdict {
    use ObservedState as O;
    match (desired, observed) {
        (Desired::Ignore, _)
        | (Desired::Running, O::Running)
        | (Desired::Stopped, O::Stopped | O::Removed | O::Exited) => Verdict::Ok,
        (Desired::Running | Desired::Stopped, O::Unknown) => Verdict::Pending,
        (Desired::Running, O::Stopped) => {
            Verdict::Drift("down though nobody asked for a stop".into())
        }
        (Desired::Running, O::Exited) if exit.is_empty() => {
            Verdict::Drift("ended by itself".into())
        }
        (Desired::Running, O::Exited) => Verdict::Drift(format!("ended by itself ({exit})")),
        (Desired::Running, O::Removed) => Verdict::Drift("no such container".into()),
        (Desired::Stopped, O::Running) => Verdict::Drift("runs against the operator's wish".into()),
    }
}

/// The observed state drift is judged by: what has ended although it should not run counts as
/// stopped, and what is being stopped keeps its previous value (orchestration §4).
fn observe(
    state: ComponentState,
    desired: Desired,
    before: Option<ObservedState>,
) -> ObservedState {
    match state {
        ComponentState::Stopping => before.unwrap_or(ObservedState::Running),
        ComponentState::Exited | ComponentState::Failed if desired == Desired::Stopped => {
            ObservedState::Stopped
        }
        other => other.observed(),
    }
}

/// The outbox is full; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{OUTBOX} events wait to be recorded already: the registry does not take them")]
pub struct OutboxFull;

#[derive(Debug, Clone)]
struct Seen {
    desired: Desired,
    /// As the event log has it, counting what waits in the outbox.
    told: ComponentState,
    /// When that was entered.
    told_at: WallTime,
    /// As it is, which may be ahead of what was told.
    observed: ObservedState,
    exit: String,
    /// What was seen before `observed`.
    before: ObservedState,
    /// Why it is as it is: the cause of what was told last, or that somebody wants something else.
    cause: String,
    drift_since: Option<WallTime>,
    /// A listing said otherwise than `told`; `None` as state: it was not listed.
    contradiction: Option<(Option<ComponentState>, WallTime)>,
}

impl Seen {
    fn new(
        desired: Desired,
        told: ComponentState,
        told_at: WallTime,
        observed: ObservedState,
    ) -> Self {
        Self {
            desired,
            told,
            told_at,
            observed,
            exit: String::new(),
            before: ObservedState::Unknown,
            cause: String::new(),
            drift_since: None,
            contradiction: None,
        }
    }

    fn want(&mut self, desired: Desired) {
        if self.desired != desired {
            self.desired = desired;
            self.cause = "operator".to_owned();
        }
    }

    fn see(&mut self, observed: ObservedState) {
        if self.observed != observed {
            // What is being started is not a state to come from.
            if self.observed != ObservedState::Unknown {
                self.before = self.observed;
            }
            self.observed = observed;
        }
    }

    fn fact(&self, key: &ComponentKey) -> Fact {
        let verdict = judge(self.desired, self.observed, &self.exit);
        // What is being stopped is being seen to.
        let quiet = self.told == ComponentState::Stopping;
        let failed = self.told == ComponentState::Failed && self.desired == Desired::Running;
        Fact {
            key: key.clone(),
            desired: self.desired,
            observed: self.observed,
            before: self.before,
            good: verdict == Verdict::Ok,
            drift: match verdict {
                Verdict::Drift(why) if !quiet => Some(why),
                _ => None,
            },
            failed: failed.then(|| self.exit.clone()),
            asked: matches!(
                self.cause.as_str(),
                "operator" | "deploy" | "undeploy" | "takeover" | "lease"
            ),
        }
    }

    fn drift(&mut self, at: WallTime) {
        match judge(self.desired, self.observed, &self.exit) {
            Verdict::Drift(_) => self.drift_since = Some(self.drift_since.unwrap_or(at)),
            Verdict::Ok | Verdict::Pending => self.drift_since = None,
        }
    }
}

/// What is counted of one component.
#[derive(Debug, Clone, Default)]
struct Counts {
    changes: Often,
    restarts: Often,
}

/// The machine.
#[derive(Debug)]
pub struct State {
    settings: Settings,
    components: BTreeMap<ComponentKey, Seen>,
    counts: HashMap<ComponentKey, Counts>,
    /// Not asked for yet.
    often: VecDeque<TooOften>,
    /// What components were after each change, since somebody asked last.
    changed: Vec<Fact>,
    outbox: VecDeque<Event>,
    /// Ids in the outbox.
    waiting: HashSet<Uuid>,
    recorded: HashSet<Uuid>,
    recorded_order: VecDeque<Uuid>,
    failed_passes: u32,
    listed: bool,
}

impl State {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            components: BTreeMap::new(),
            counts: HashMap::new(),
            often: VecDeque::new(),
            changed: Vec::new(),
            outbox: VecDeque::new(),
            waiting: HashSet::new(),
            recorded: HashSet::new(),
            recorded_order: VecDeque::new(),
            failed_passes: 0,
            listed: false,
        }
    }

    /// Takes what the runtime saw, in order. What was taken before is taken only once.
    ///
    /// # Errors
    /// [`OutboxFull`]; nothing was taken.
    pub fn observe(&mut self, transitions: &[Transition]) -> Result<(), OutboxFull> {
        // Each may bring an alert event of its own.
        if self.outbox.len() + 2 * transitions.len() > OUTBOX {
            return Err(OutboxFull);
        }
        for transition in transitions {
            if self.waiting.contains(&transition.id) || self.recorded.contains(&transition.id) {
                continue;
            }
            let event = Event {
                id: transition.id,
                time: transition.time,
                node: self.settings.node.clone(),
                service: transition.key.service.clone(),
                component: transition.key.component.clone(),
                replica: transition.key.replica,
                kind: EventKind::Component {
                    from: transition.prev_state,
                    to: transition.new_state,
                },
                cause: transition.cause.clone(),
                exit: transition.exit.clone(),
                observer: String::new(),
            };
            self.tell(event, transition.desired);
        }
        Ok(())
    }

    /// Starts from what is durable: events of the last flap window, oldest first, and what the
    /// runtime lists. A component without events is taken as it is.
    pub fn rebuild(
        &mut self,
        list: &[ComponentStatus],
        history: &[Event],
        now: WallTime,
        ids: &mut dyn FnMut() -> Uuid,
    ) {
        let mut last: HashMap<ComponentKey, (ComponentState, WallTime)> = HashMap::new();
        for event in history {
            // What became of nodes, leaders and places is nothing a component did.
            let Some((_, to)) = event.states() else { continue };
            // What was told to this incarnation before it could look back is counted already.
            let counted = self.waiting.contains(&event.id) || self.recorded.contains(&event.id);
            self.remember(event.id);
            let key = key_of(event);
            if event.cause != "flapping" {
                if !counted {
                    self.count(&key, event, Desired::Running);
                    self.count_restart(&key, event);
                }
                last.insert(key, (to, event.time));
            }
        }
        for status in list {
            let (told, told_at) =
                last.get(&status.key).copied().unwrap_or((status.state, status.since));
            self.components.entry(status.key.clone()).or_insert_with(|| {
                let observed = observe(status.state, status.desired, None);
                let mut seen = Seen::new(status.desired, told, told_at, observed);
                seen.exit.clone_from(&status.last_exit);
                seen.drift(status.since);
                seen
            });
        }
        self.listed = true;
        self.reconcile(list, now, ids);
    }

    /// Whether [`State::rebuild`] has happened.
    pub fn is_rebuilt(&self) -> bool {
        self.listed
    }

    /// Compares what the runtime lists with what was told. Returns whether something contradicts
    /// that may yet resolve itself; look again after `grace`.
    pub fn reconcile(
        &mut self,
        list: &[ComponentStatus],
        now: WallTime,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> bool {
        self.failed_passes = 0;
        let mut missed = Vec::new();
        let mut unresolved = false;
        let grace = self.settings.grace;
        let mut listed = HashSet::with_capacity(list.len());
        for status in list {
            listed.insert(&status.key);
            let seen = self.components.entry(status.key.clone()).or_insert_with(|| {
                let (desired, since) = (status.desired, status.since);
                Seen::new(desired, ComponentState::Unknown, since, ObservedState::Unknown)
            });
            seen.want(status.desired);
            seen.see(observe(status.state, status.desired, Some(seen.observed)));
            seen.exit.clone_from(&status.last_exit);
            seen.drift(status.since.max(seen.told_at));
            let quiet = matches!(
                status.state,
                ComponentState::Pending | ComponentState::Waiting | ComponentState::Unknown
            );
            if seen.told == status.state || quiet {
                seen.contradiction = None;
                continue;
            }
            if settled(seen, Some(status.state), now, grace) {
                missed.push((
                    status.key.clone(),
                    status.state,
                    status.since,
                    status.last_exit.clone(),
                ));
            } else {
                unresolved = true;
            }
        }
        let gone: Vec<_> =
            self.components.keys().filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            let Some(seen) = self.components.get_mut(&key) else { continue };
            if seen.told == ComponentState::Removed {
                // No longer ours: not listed means not assigned here.
                self.components.remove(&key);
                self.counts.remove(&key);
            } else if settled(seen, None, now, grace) {
                missed.push((key, ComponentState::Removed, now, String::new()));
            } else {
                unresolved = true;
            }
        }
        for (key, state, since, exit) in missed {
            let Some(seen) = self.components.get(&key) else { continue };
            if self.outbox.len() >= OUTBOX {
                break;
            }
            let exit = match state {
                ComponentState::Exited | ComponentState::Failed => exit,
                _ => String::new(),
            };
            let event = Event {
                id: ids(),
                time: since.max(seen.told_at),
                node: self.settings.node.clone(),
                service: key.service.clone(),
                component: key.component.clone(),
                replica: key.replica,
                kind: EventKind::Component { from: seen.told, to: state },
                cause: "observed".into(),
                exit,
                observer: String::new(),
            };
            let desired = seen.desired;
            self.tell(event, desired);
            if state == ComponentState::Removed && !listed.contains(&key) {
                self.components.remove(&key);
                self.counts.remove(&key);
            }
        }
        unresolved
    }

    /// The runtime could not be asked. What was seen stays for two passes, then it is unknown.
    pub fn query_failed(&mut self) {
        self.failed_passes = self.failed_passes.saturating_add(1);
        if self.failed_passes >= FAILED_PASSES {
            for seen in self.components.values_mut() {
                seen.observed = ObservedState::Unknown;
                seen.drift_since = None;
            }
        }
    }

    /// What is not as wanted, by service, replica and component.
    pub fn drift(&self) -> Vec<Drift> {
        self.components
            .iter()
            .filter_map(|(key, seen)| {
                let Verdict::Drift(reason) = judge(seen.desired, seen.observed, &seen.exit) else {
                    return None;
                };
                Some(Drift {
                    kind: DriftKind::State,
                    node: self.settings.node.clone(),
                    service: key.service.clone(),
                    replica: key.replica,
                    component: key.component.clone(),
                    desired: seen.desired,
                    observed: seen.observed,
                    reason,
                    since: seen.drift_since.unwrap_or(seen.told_at),
                })
            })
            .collect()
    }

    /// The oldest events not known to be recorded, at most `max`.
    pub fn batch(&self, max: usize) -> Vec<Event> {
        self.outbox.iter().take(max).cloned().collect()
    }

    /// These are recorded, or will never be: forget them.
    pub fn recorded(&mut self, ids: &[Uuid]) {
        for id in ids {
            if self.waiting.remove(id) {
                self.remember(*id);
            }
        }
        self.outbox.retain(|event| self.waiting.contains(&event.id));
    }

    /// Whether the event of that id still waits to be recorded.
    pub fn is_waiting(&self, id: &Uuid) -> bool {
        self.waiting.contains(id)
    }

    /// How many wait.
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    fn remember(&mut self, id: Uuid) {
        if self.recorded.insert(id) {
            self.recorded_order.push_back(id);
            if self.recorded_order.len() > REMEMBERED
                && let Some(oldest) = self.recorded_order.pop_front()
            {
                self.recorded.remove(&oldest);
            }
        }
    }

    /// One event: believed, counted, put out.
    fn tell(&mut self, event: Event, desired: Desired) {
        let Some((from, to)) = event.states() else { return };
        let key = key_of(&event);
        let seen = self
            .components
            .entry(key.clone())
            .or_insert_with(|| Seen::new(desired, from, event.time, observe(from, desired, None)));
        // One told late is recorded, but does not bring the past back.
        if event.time >= seen.told_at {
            seen.desired = desired;
            seen.told = to;
            seen.told_at = event.time;
            seen.see(observe(to, desired, Some(seen.observed)));
            seen.cause.clone_from(&event.cause);
            seen.contradiction = None;
            if !event.exit.is_empty() {
                seen.exit.clone_from(&event.exit);
            }
            seen.drift(event.time);
            if self.listed {
                self.changed.push(seen.fact(&key));
            }
        }
        let fires = self.count(&key, &event, desired);
        if fires {
            self.too_often(AlertKind::Flapping, &key, from.observed());
        }
        if self.count_restart(&key, &event) && desired != Desired::Ignore {
            self.too_often(AlertKind::Restarts, &key, from.observed());
        }
        let alert = fires.then(|| Event {
            id: Uuid::from_u128(event.id.as_u128() ^ FLAP_BITS),
            // Events are sorted by time, then by id, which says nothing: behind its cause.
            time: event.time.plus(Duration::from_micros(1)),
            kind: EventKind::Component { from: to, to },
            cause: "flapping".into(),
            exit: String::new(),
            ..event.clone()
        });
        for event in std::iter::once(event).chain(alert) {
            if !self.recorded.contains(&event.id) && self.waiting.insert(event.id) {
                self.outbox.push_back(event);
            }
        }
    }

    /// Counts a change towards flapping; true: the component begins to flap with it. Changes an
    /// operator asked for do not count, nor do those of ignored components.
    fn count(&mut self, key: &ComponentKey, event: &Event, desired: Desired) -> bool {
        let Some((from, to)) = event.states() else { return false };
        let after = to.observed();
        if after == from.observed()
            || after == ObservedState::Unknown
            || desired == Desired::Ignore
            || matches!(event.cause.as_str(), "operator" | "deploy" | "takeover")
        {
            return false;
        }
        let window = self.settings.flap_window;
        let counts = self.counts.entry(key.clone()).or_default();
        counts.changes.count(event.time, window, self.settings.flap_threshold)
    }

    /// Counts a restart; true: with it there are too many.
    fn count_restart(&mut self, key: &ComponentKey, event: &Event) -> bool {
        let restarted = event.states().is_some_and(|(_, to)| to == ComponentState::Starting);
        if !restarted || event.cause != "reconcile" {
            return false;
        }
        let counts = self.counts.entry(key.clone()).or_default();
        counts.restarts.count(event.time, RESTART_WINDOW, self.settings.restart_threshold)
    }

    /// Says of a component that it changes or is started again too often.
    fn too_often(&mut self, kind: AlertKind, key: &ComponentKey, prev: ObservedState) {
        let Some(seen) = self.components.get(key) else { return };
        let (window, count) = match kind {
            AlertKind::Restarts => (RESTART_WINDOW, self.settings.restart_threshold),
            _ => (self.settings.flap_window, self.settings.flap_threshold),
        };
        if self.often.len() >= OFTEN {
            self.often.pop_front();
        }
        self.often.push_back(TooOften {
            kind,
            key: key.clone(),
            desired: seen.desired,
            observed: seen.observed,
            before: prev,
            count,
            window,
        });
    }

    /// Who began to flap or to be started again too often since this was asked last.
    pub fn take_often(&mut self) -> Vec<TooOften> {
        self.often.drain(..).collect()
    }

    /// What each component is, for alerts.
    pub fn facts(&self) -> Vec<Fact> {
        self.components.iter().map(|(key, seen)| seen.fact(key)).collect()
    }

    /// What components were after each change that was told since this was asked last: also what
    /// did not last.
    pub fn take_changed(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.changed)
    }
}

fn key_of(event: &Event) -> ComponentKey {
    ComponentKey {
        service: event.service.clone(),
        replica: event.replica,
        component: event.component.clone(),
    }
}

/// Whether the same contradiction has lasted for `grace`.
fn settled(seen: &mut Seen, state: Option<ComponentState>, now: WallTime, grace: Duration) -> bool {
    match seen.contradiction {
        Some((before, since)) if before == state => now.since(since) >= grace,
        _ => {
            seen.contradiction = Some((state, now));
            grace.is_zero()
        }
    }
}

#[cfg(test)]
mod tests;
