//! The actor between thin doubles of its siblings: nothing is acknowledged before it is recorded.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use weft_link::{ItemSink, Reply};
use weft_protocol::{
    Alert, AlertKind, ComponentKey, ComponentState, Desired, EventKind, FollowEvents, Health,
    NodeChange, ObservedState, QueryAlerts, RecordAlerts, RestartActor, Transition,
};
use weft_supervision::Serve;
use weft_supervision::testing::{self, PATIENCE, TestTree, eventually};
use weft_wire::{Clock as _, SystemClock, WallTime};

use super::*;

/// What the siblings hold.
#[derive(Debug, Default)]
struct World {
    list: Vec<ComponentStatus>,
    recorded: BTreeMap<Uuid, Event>,
    alerts: BTreeMap<Uuid, Alert>,
    /// Told to who follows events.
    events: Vec<Event>,
    /// Somebody has begun to follow them.
    followed: bool,
    /// So many recordings fail first.
    refusals: u32,
    attempts: u32,
}

type Shared = Arc<Mutex<World>>;

struct Registry(Shared);

impl Actor for Registry {
    fn routes(routes: &mut Routes<Self>) {
        routes
            .ask::<RecordEvents>()
            .ask::<QueryEvents>()
            .ask::<RecordAlerts>()
            .ask::<QueryAlerts>()
            .subscription::<FollowEvents>();
    }
}

impl Handle<RecordAlerts> for Registry {
    fn handle(&mut self, message: RecordAlerts, reply: Reply<RecordAlerts>, _: &Scope<Self>) {
        let mut world = self.0.lock();
        if world.refusals > 0 {
            world.refusals -= 1;
            reply.fail(Failure::new(FailureKind::Unavailable, "the disk is full"));
            return;
        }
        for alert in message.alerts {
            world.alerts.insert(alert.id, alert);
        }
        reply.ok(());
    }
}

impl Handle<QueryAlerts> for Registry {
    fn handle(&mut self, message: QueryAlerts, reply: Reply<QueryAlerts>, _: &Scope<Self>) {
        let world = self.0.lock();
        let mut found: Vec<Alert> =
            world.alerts.values().filter(|a| message.filter.matches(a)).cloned().collect();
        found.sort_by_key(|alert| alert.time);
        reply.ok(found);
    }
}

impl Serve<FollowEvents> for Registry {
    fn serve(&mut self, _: FollowEvents, sink: ItemSink<FollowEvents>, scope: &Scope<Self>) {
        let mut world = self.0.lock();
        world.followed = true;
        let events = world.events.clone();
        drop(world);
        scope.spawn(async move {
            for event in events {
                let _ = sink.send(event).await;
            }
            sink.closed().await;
        });
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
        limits: String::new(),
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
    set_up_with(tree, World::default(), |_| {}).await
}

async fn set_up_with(
    tree: &TestTree,
    world: World,
    change: impl FnOnce(&mut MonitorConfig),
) -> Shared {
    let world = Arc::new(Mutex::new(world));
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
    config.disk_low = 0;
    change(&mut config);
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

/// Waits until the monitor's first look is over: what changes from then on may fire. It follows
/// events then.
async fn looked(world: &Shared) {
    eventually("the monitor has looked", || world.lock().followed.then_some(())).await;
}

/// Waits until there are so many alerts, and gives them by time.
async fn alerts(world: &Shared, wanted: usize) -> Vec<Alert> {
    eventually("the alerts are stored", || {
        let mut all: Vec<Alert> = world.lock().alerts.values().cloned().collect();
        all.sort_by_key(|alert| alert.time);
        (all.len() >= wanted).then_some(all)
    })
    .await
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).into()
}

#[test]
fn a_component_that_stays_down_is_told_of_once_by_the_command_and_kept_with_its_exit() {
    testing::run(async |tree| {
        let world = set_up_with(&tree, World { refusals: 0, ..World::default() }, |config| {
            config.alert_command = sh("echo \"$MCP_ALERT_TYPE $MCP_PREV_STATE\"; exit 3");
            config.alert_after = Duration::from_millis(100);
        })
        .await;
        looked(&world).await;
        world.lock().list = vec![status(ComponentState::Exited)];
        // Storing fails for a while; the command does not wait for it.
        world.lock().refusals = 4;
        let down = transition(1, ComponentState::Running, ComponentState::Exited);
        tree.ask(Observed { transitions: vec![down] }).await.unwrap();
        let alert = eventually("its command has ended", || {
            world.lock().alerts.values().find(|alert| alert.run.is_some()).cloned()
        })
        .await;
        assert_eq!((alert.kind, alert.suppressed), (AlertKind::Drift, false));
        let run = alert.run.unwrap();
        assert_eq!((run.exit, run.output.as_str()), (Some(3), "drift running\n"));
        for _ in 0..3 {
            tree.ask(ReadDrift {}).await.unwrap();
        }
        assert_eq!(world.lock().alerts.len(), 1, "each look is no change");
    });
}

#[test]
fn commands_that_hang_delay_nothing_and_are_bounded() {
    testing::run(async |tree| {
        let world = set_up_with(&tree, World::default(), |config| {
            config.alert_command = sh("sleep 1000");
            config.alert_timeout = Duration::from_millis(300);
            config.cooldown = Duration::ZERO;
            config.alert_after = Duration::ZERO;
            config.flap_threshold = 1_000;
        })
        .await;
        looked(&world).await;
        let start = SystemClock.now();
        for n in 0..10 {
            let down = transition(2 * n + 1, ComponentState::Running, ComponentState::Exited);
            let up = transition(2 * n + 2, ComponentState::Exited, ComponentState::Running);
            tree.ask(Observed { transitions: vec![down] }).await.unwrap();
            tree.ask(Observed { transitions: vec![up] }).await.unwrap();
        }
        let took = start.elapsed();
        assert_eq!(alerts(&world, 10).await.len(), 10);
        assert!(took < Duration::from_secs(5), "{took:?}");
        eventually("each was stopped in its turn", || {
            let stopped = |alert: &&Alert| {
                alert.run.as_ref().is_some_and(|run| run.problem.starts_with("stopped after"))
            };
            (world.lock().alerts.values().filter(stopped).count() == 10).then_some(())
        })
        .await;
    });
}

#[test]
fn the_node_that_led_tells_of_a_lost_one_and_the_others_do_not() {
    testing::run(async |tree| {
        let lost = |n: u128, node: &str, observer: &str| Event {
            id: Uuid::from_u128(n << 64),
            time: SystemClock.wall(),
            node: node.into(),
            service: String::new(),
            component: String::new(),
            replica: 0,
            kind: EventKind::Node { to: NodeChange::Lost },
            cause: "silent for 2 s".into(),
            exit: String::new(),
            observer: observer.into(),
        };
        let mine = lost(1, "n2", "n1");
        let events = vec![lost(2, "n3", "n2"), mine.clone(), mine];
        let world = set_up_with(&tree, World { events, ..World::default() }, |_| {}).await;
        let all = alerts(&world, 1).await;
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].node.as_str()), (AlertKind::Node, "n2"));
        assert!(all[0].run.is_none(), "there is no command");
    });
}

#[test]
fn a_recreated_monitor_does_not_alert_again() {
    testing::run(async |tree| {
        let world = set_up_with(&tree, World::default(), |config| {
            config.alert_after = Duration::ZERO;
        })
        .await;
        looked(&world).await;
        let down = transition(1, ComponentState::Running, ComponentState::Exited);
        tree.ask(Observed { transitions: vec![down] }).await.unwrap();
        alerts(&world, 1).await;
        world.lock().list = vec![status(ComponentState::Exited)];
        let restart = RestartActor { path: "monitor".into() };
        let to = Address::here(ActorKind::Node);
        tree.fabric().ask(to, restart, Call::within(PATIENCE)).await.unwrap();
        tree.row_where("monitor", |row| row.restarts == 1).await;
        let drift =
            async { while tree.ask(ReadDrift {}).await.is_ok_and(|drift| drift.is_empty()) {} };
        tokio::time::timeout(PATIENCE, drift).await.unwrap();
        assert_eq!(world.lock().alerts.len(), 1);
        // Up and down again: that is new, and comes within the cooldown.
        let up = transition(2, ComponentState::Exited, ComponentState::Running);
        let down = transition(3, ComponentState::Running, ComponentState::Exited);
        tree.ask(Observed { transitions: vec![up] }).await.unwrap();
        tree.ask(Observed { transitions: vec![down] }).await.unwrap();
        assert!(alerts(&world, 2).await[1].suppressed);
    });
}
