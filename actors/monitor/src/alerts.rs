//! When an alert fires, as a pure machine: what each component is goes in, firings come out. Time
//! and ids are arguments (orchestration §12).
//!
//! A firing within the cooldown of an earlier one of the same (service, component, type) is
//! marked as suppressed: it is stored, and nothing else is done about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use uuid::Uuid;
use weft_protocol::{Alert, AlertKind, ComponentKey, Desired, ObservedState, uptime};
use weft_wire::WallTime;

/// A disk that was low is no longer when this much more than the limit is free, in percent of its
/// size: what goes up and down around the limit alerts once.
const DISK_SLACK: u64 = 2;
/// Tells an alert about a lost node apart from the event it comes from.
const NODE_BITS: u128 = 0x0a1e_97ed;

/// What the rules depend on.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Name of this node.
    pub node: String,
    /// Quiet time after an executed firing; zero: none.
    pub cooldown: Duration,
    /// Drift shorter than this fires nothing: it is what Weft mends by itself.
    pub alert_after: Duration,
    /// Nothing is mended here (`reconcile.mode = "report"`): drift that nobody asked for fires at
    /// once.
    pub at_once: bool,
    /// Free space below so many percent fires; 0: never.
    pub disk_low: u64,
}

/// One component as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Which.
    pub key: ComponentKey,
    /// What is wanted. What is ignored never fires.
    pub desired: Desired,
    /// What was seen last.
    pub observed: ObservedState,
    /// What was seen before that.
    pub before: ObservedState,
    /// It is as wanted: neither drifting nor unknown.
    pub good: bool,
    /// Why it is not as wanted; `None`: it is, or that is not known yet, or it is being seen to.
    pub drift: Option<String>,
    /// It was given up on; how it last ended.
    pub failed: Option<String>,
    /// Its last change is what somebody asked for.
    pub asked: bool,
}

/// A component whose changes were counted, and were too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooOften {
    /// [`AlertKind::Flapping`] or [`AlertKind::Restarts`].
    pub kind: AlertKind,
    /// Which.
    pub key: ComponentKey,
    /// What is wanted.
    pub desired: Desired,
    /// What was seen last.
    pub observed: ObservedState,
    /// What was seen before that.
    pub before: ObservedState,
    /// How many.
    pub count: u32,
    /// Within this time.
    pub window: Duration,
}

/// Type and subject: service and component, or a node's name and nothing.
type Key = (AlertKind, String, String);

/// What a deploy or an operator stops to start it again is no drift for so long.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// One change into drift.
#[derive(Debug, Clone, Copy)]
struct Drifting {
    since: Instant,
    /// When it fires.
    due: Instant,
    told: bool,
}

#[derive(Debug, Default)]
struct Known {
    drift: Option<Drifting>,
    /// That it was given up on has fired.
    failed: bool,
    /// It has been as wanted since this machine was made: what it does now is new.
    was_good: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Alerts {
    rules: Rules,
    /// The last firing of each key that was not suppressed.
    last: HashMap<Key, WallTime>,
    components: BTreeMap<ComponentKey, Known>,
    /// Stored by an earlier daemon within the cooldown, suppressed ones too.
    stored: BTreeSet<(AlertKind, ComponentKey)>,
    /// Alerts about nodes that fired already.
    nodes: BTreeSet<Uuid>,
    disk_is_low: bool,
}

impl Alerts {
    /// Knows of no firing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            last: HashMap::new(),
            components: BTreeMap::new(),
            stored: BTreeSet::new(),
            nodes: BTreeSet::new(),
            disk_is_low: false,
        }
    }

    /// Since when stored alerts matter.
    pub fn horizon(&self, now: WallTime) -> WallTime {
        now.minus(self.rules.cooldown)
    }

    /// Takes what is stored, before the first look. What drifted and was alerted within the
    /// cooldown does not fire again because a daemon has started.
    pub fn restore(&mut self, stored: &[Alert], now: WallTime) {
        let horizon = self.horizon(now);
        for alert in stored.iter().filter(|alert| alert.time > horizon) {
            if !alert.suppressed {
                let last = self.last.entry(subject(alert)).or_insert(alert.time);
                *last = alert.time.max(*last);
            }
            match alert.kind {
                AlertKind::Node => drop(self.nodes.insert(alert.id)),
                AlertKind::Disk => self.disk_is_low = alert.node == self.rules.node,
                kind => drop(self.stored.insert((
                    kind,
                    ComponentKey {
                        service: alert.service.clone(),
                        replica: alert.replica,
                        component: alert.component.clone(),
                    },
                ))),
            }
        }
    }

    /// Looks at components: fires on the change into drift once that has lasted long enough, and
    /// when one is given up on.
    pub fn look(
        &mut self,
        facts: &[Fact],
        now: Instant,
        wall: WallTime,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Vec<Alert> {
        let mut fired = Vec::new();
        for fact in facts {
            let mut known = self.components.remove(&fact.key).unwrap_or_default();
            if fact.desired == Desired::Ignore {
                continue;
            }
            known.was_good |= fact.good;
            let alerted = |kind| !known.was_good && self.stored.contains(&(kind, fact.key.clone()));
            match &fact.drift {
                None => known.drift = None,
                Some(why) => {
                    let told = || alerted(AlertKind::Drift);
                    let mut drifting = known.drift.unwrap_or_else(|| Drifting {
                        since: now,
                        due: now,
                        told: told(),
                    });
                    drifting.due = drifting.since + self.patience(fact);
                    if drifting.due <= now && !drifting.told {
                        drifting.told = true;
                        fired.push((AlertKind::Drift, fact, why.clone()));
                    }
                    known.drift = Some(drifting);
                }
            }
            match &fact.failed {
                None => known.failed = false,
                Some(exit) if !known.failed => {
                    if !alerted(AlertKind::Failed) {
                        let how =
                            if exit.is_empty() { String::new() } else { format!(" ({exit})") };
                        let why = format!("given up on{how}: it stays down until somebody acts");
                        fired.push((AlertKind::Failed, fact, why));
                    }
                    known.failed = true;
                }
                Some(_) => {}
            }
            self.components.insert(fact.key.clone(), known);
        }
        fired
            .into_iter()
            .map(|(kind, fact, reason)| {
                let alert = of_component(kind, &fact.key, reason);
                let alert = Alert {
                    desired: Some(fact.desired),
                    observed: Some(fact.observed),
                    prev_state: Some(fact.before),
                    ..alert
                };
                self.fire(alert, wall, ids())
            })
            .collect()
    }

    /// How long until drift that is known now fires; `None`: none will.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let waiting = self.components.values().filter_map(|known| known.drift);
        waiting
            .filter(|drifting| !drifting.told)
            .map(|drifting| drifting.due.saturating_duration_since(now))
            .min()
    }

    /// These are all the components there are.
    pub fn keep(&mut self, facts: &[Fact]) {
        let there: BTreeSet<&ComponentKey> = facts.iter().map(|fact| &fact.key).collect();
        self.components.retain(|key, _| there.contains(key));
    }

    /// A component flaps, or was started again too often.
    pub fn too_often(&mut self, often: &TooOften, wall: WallTime, id: Uuid) -> Option<Alert> {
        if often.desired == Desired::Ignore {
            return None;
        }
        let within = uptime(often.window);
        let reason = match often.kind {
            AlertKind::Restarts => format!("started again {} times within {within}", often.count),
            _ => format!("changed {} times within {within}", often.count),
        };
        let alert = Alert {
            desired: Some(often.desired),
            observed: Some(often.observed),
            prev_state: Some(often.before),
            transitions: often.count,
            ..of_component(often.kind, &often.key, reason)
        };
        Some(self.fire(alert, wall, id))
    }

    /// This node, which leads, has found that another is lost; `event` is the event that says so.
    pub fn node_lost(
        &mut self,
        node: &str,
        why: &str,
        event: Uuid,
        wall: WallTime,
    ) -> Option<Alert> {
        let id = Uuid::from_u128(event.as_u128() ^ NODE_BITS);
        if !self.nodes.insert(id) {
            return None;
        }
        let alert = Alert { node: node.to_owned(), ..of_node(AlertKind::Node, why.to_owned()) };
        Some(self.fire(alert, wall, id))
    }

    /// What is free of this node's disk, in bytes.
    pub fn disk(
        &mut self,
        free: u64,
        total: u64,
        wall: WallTime,
        ids: &mut dyn FnMut() -> Uuid,
    ) -> Option<Alert> {
        let low = self.rules.disk_low;
        if total == 0 || low == 0 {
            return None;
        }
        let part = |percent: u64| (u128::from(total) * u128::from(percent) / 100) as u64;
        if self.disk_is_low {
            self.disk_is_low = free < part(low + DISK_SLACK);
            return None;
        }
        if free >= part(low) {
            return None;
        }
        self.disk_is_low = true;
        let percent = u128::from(free) * 100 / u128::from(total);
        let reason = format!(
            "{percent} % free on the disk of the data directory ({} of {} MiB), less than {low} %",
            free >> 20,
            total >> 20
        );
        Some(self.fire(of_node(AlertKind::Disk, reason), wall, ids()))
    }

    /// How long drift of this component may last before it fires.
    fn patience(&self, fact: &Fact) -> Duration {
        match fact.asked {
            // It is on its way from what was to what is wanted.
            true => self.rules.alert_after.max(ON_ITS_WAY),
            false if self.rules.at_once => Duration::ZERO,
            false => self.rules.alert_after,
        }
    }

    fn fire(&mut self, mut alert: Alert, wall: WallTime, id: Uuid) -> Alert {
        alert.id = id;
        alert.time = wall;
        if alert.node.is_empty() {
            alert.node.clone_from(&self.rules.node);
        }
        let cooldown = self.rules.cooldown;
        // A clock that was set back must not make the quiet time longer.
        self.last.values_mut().for_each(|last| *last = wall.min(*last));
        self.last.retain(|_, last| wall.since(*last) < cooldown);
        let key = subject(&alert);
        alert.suppressed = self.last.contains_key(&key);
        if !alert.suppressed {
            self.last.insert(key, wall);
        }
        alert
    }
}

fn subject(alert: &Alert) -> Key {
    if alert.service.is_empty() {
        return (alert.kind, alert.node.clone(), String::new());
    }
    (alert.kind, alert.service.clone(), alert.component.clone())
}

fn of_node(kind: AlertKind, reason: String) -> Alert {
    Alert {
        id: Uuid::nil(),
        time: WallTime::default(),
        node: String::new(),
        service: String::new(),
        component: String::new(),
        replica: 0,
        kind,
        desired: None,
        observed: None,
        prev_state: None,
        transitions: 0,
        reason,
        suppressed: false,
        run: None,
    }
}

fn of_component(kind: AlertKind, key: &ComponentKey, reason: String) -> Alert {
    Alert {
        service: key.service.clone(),
        component: key.component.clone(),
        replica: key.replica,
        ..of_node(kind, reason)
    }
}

#[cfg(test)]
mod tests;
