//! The actor between thin doubles of its siblings: nothing is acknowledged before it is recorded.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use weft_link::Reply;
use weft_protocol::{
    ComponentKey, ComponentState, Desired, Health, ObservedState, RestartActor, Transition,
};
use weft_supervision::testing::{self, PATIENCE, TestTree, eventually};
use weft_wire::{Clock as _, SystemClock, WallTime};

use super::*;

/// What the siblings hold.
#[derive(Debug, Default)]
struct World {
    list: Vec<ComponentStatus>,
    recorded: BTreeMap<Uuid, Event>,
    /// So many recordings fail first.
    refusals: u32,
    attempts: u32,
}

type Shared = Arc<Mutex<World>>;

struct Registry(Shared);

impl Actor for Registry {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<RecordEvents>().ask::<QueryEvents>();
    }
}

impl Handle<RecordEvents> for Registry {
    fn handle(&mut self, message: RecordEvents, reply: Reply<RecordEvents>, _: &Scope<Self>) {
        let mut world = self.0.lock();
        world.attempts += 1;
        if world.refusals > 0 {
            world.refusals -= 1;
            reply.fail(Failure::new(FailureKind::Unavailable, "the disk is full"));
            return;
        }
        for event in message.events {
            world.recorded.entry(event.id).or_insert(event);
        }
        reply.ok(());
    }
}

impl Handle<QueryEvents> for Registry {
    fn handle(&mut self, message: QueryEvents, reply: Reply<QueryEvents>, _: &Scope<Self>) {
        let mut events: Vec<Event> = self
            .0
            .lock()
            .recorded
            .values()
            .filter(|e| message.filter.matches(e))
            .cloned()
            .collect();
        events.sort_by_key(|event| event.time);
        reply.ok(events);
    }
}

struct Runtime(Shared);

impl Actor for Runtime {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<ListComponents>();
    }
}

impl Handle<ListComponents> for Runtime {
    fn handle(&mut self, _: ListComponents, reply: Reply<ListComponents>, _: &Scope<Self>) {
        reply.ok(self.0.lock().list.clone());
    }
}

fn status(state: ComponentState) -> ComponentStatus {
    ComponentStatus {
        key: key(),
        desired: Desired::Running,
        state,
        health: Health::None,
        pid: 0,
        version: String::new(),
        revision: 1,
        spec_hash: String::new(),
        epoch: 0,
        restarts: 0,
        started_at: None,
        since: SystemClock.wall(),
        last_exit: "signal 9".into(),
        reason: String::new(),
        ports: vec![],
        urls: vec![],
        driver: weft_protocol::Driver::Process,
        image: String::new(),
        digest: String::new(),
        container: String::new(),
        refused: 0,
    }
}

fn key() -> ComponentKey {
    ComponentKey { service: "web".into(), replica: 1, component: "api".into() }
}

fn transition(id: u128, from: ComponentState, to: ComponentState) -> Transition {
    Transition {
        id: Uuid::from_u128(id << 64),
        time: SystemClock.wall(),
        key: key(),
        desired: Desired::Running,
        prev_state: from,
        new_state: to,
        cause: "self".into(),
        exit: String::new(),
    }
}

async fn set_up(tree: &TestTree) -> Shared {
    let world = Shared::default();
    world.lock().list.push(status(ComponentState::Running));
    let shared = world.clone();
    tree.add(ActorKind::Registry, move |_: Incarnation| {
        std::future::ready(Ok(Registry(shared.clone())))
    })
    .await;
    let shared = world.clone();
    tree.add(ActorKind::Runtime, move |_: Incarnation| {
        std::future::ready(Ok(Runtime(shared.clone())))
    })
    .await;
    let mut config = MonitorConfig::new("n1", PathBuf::from("/"), SystemClock.now());
    config.grace = Duration::from_millis(50);
    tree.add(ActorKind::Monitor, factory(config)).await;
    world
}

#[test]
fn a_transition_is_acknowledged_only_once_it_is_recorded() {
    testing::run(async |tree| {
        let world = set_up(&tree).await;
        world.lock().refusals = 3;
        let told = transition(1, ComponentState::Running, ComponentState::Exited);
        tree.ask(Observed { transitions: vec![told.clone()] }).await.unwrap();
        let recorded = world.lock().recorded.get(&told.id).cloned().unwrap();
        assert_eq!(
            (recorded.node.as_str(), recorded.states().map(|(_, to)| to)),
            ("n1", Some(ComponentState::Exited))
        );
        assert!(world.lock().attempts >= 4);
        // Told again, it is known.
        let attempts = world.lock().attempts;
        tree.ask(Observed { transitions: vec![told] }).await.unwrap();
        assert_eq!(world.lock().attempts, attempts);
    });
}

#[test]
fn what_waits_is_recorded_even_when_the_teller_has_given_up() {
    testing::run(async |tree| {
        let world = set_up(&tree).await;
        world.lock().refusals = 3;
        let told = transition(1, ComponentState::Running, ComponentState::Exited);
        let fabric = tree.fabric();
        let asked = fabric.ask(
            Address::here(ActorKind::Monitor),
            Observed { transitions: vec![told.clone()] },
            Call::within(Duration::from_millis(20)),
        );
        assert_eq!(asked.await, Err(AskError::Timeout));
        eventually("it is recorded", || world.lock().recorded.get(&told.id).cloned()).await;
    });
}

#[test]
fn a_recreated_monitor_knows_what_is_recorded_and_what_runs() {
    testing::run(async |tree| {
        let world = set_up(&tree).await;
        let told = transition(1, ComponentState::Running, ComponentState::Exited);
        tree.ask(Observed { transitions: vec![told] }).await.unwrap();
        world.lock().list = vec![status(ComponentState::Exited)];
        let to = Address::here(ActorKind::Node);
        let restart = RestartActor { path: "monitor".into() };
        tree.fabric().ask(to, restart, Call::within(PATIENCE)).await.unwrap();
        tree.row_where("monitor", |row| row.restarts == 1).await;
        let drift = async {
            loop {
                if let Ok([drift]) = tree.ask(ReadDrift {}).await.as_deref() {
                    return drift.clone();
                }
            }
        };
        let drift = tokio::time::timeout(PATIENCE, drift).await.unwrap();
        assert_eq!(drift.observed, ObservedState::Exited);
        assert_eq!(drift.reason, "ended by itself (signal 9)");
        assert_eq!(world.lock().recorded.len(), 1, "nothing is recorded twice");
    });
}

#[test]
fn what_nobody_told_is_found_by_looking() {
    testing::run(async |tree| {
        let world = set_up(&tree).await;
        // It has been seen running: only then is there something to miss.
        let told = transition(1, ComponentState::Starting, ComponentState::Running);
        tree.ask(Observed { transitions: vec![told.clone()] }).await.unwrap();
        world.lock().list = vec![status(ComponentState::Exited)];
        let missed = async {
            loop {
                tree.ask(ReadDrift {}).await.unwrap();
                let world = world.lock();
                if let Some(event) = world.recorded.values().find(|event| event.id != told.id) {
                    return event.clone();
                }
            }
        };
        let missed = tokio::time::timeout(PATIENCE, missed).await.unwrap();
        assert_eq!((missed.cause.as_str(), missed.exit.as_str()), ("observed", "signal 9"));
    });
}

#[test]
fn the_machine_is_described() {
    testing::run(async |tree| {
        let _world = set_up(&tree).await;
        let host = tree.ask(ReadHost {}).await.unwrap();
        assert!(host.cores > 0 && host.memory_total > 0 && host.disk_total > 0);
        assert!((0.0..=100.0).contains(&host.cpu_percent) && !host.arch.is_empty());
        assert!(host.at > WallTime::from_micros(0));
    });
}

#[test]
fn too_many_transitions_at_once_are_refused() {
    testing::run(async |tree| {
        let world = set_up(&tree).await;
        let one = transition(1, ComponentState::Running, ComponentState::Exited);
        let answer = tree.ask(Observed { transitions: vec![one; BATCH + 1] }).await;
        assert!(matches!(answer, Err(AskError::Failed(f)) if f.kind == FailureKind::Invalid));
        assert!(world.lock().recorded.is_empty());
    });
}
