//! The shell under real threads, real panics and real hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use weft_link::{Call, ItemSink, Refusal, Reply};
use weft_protocol::{ActorState, ActorTree, ChaosActor, ChaosKind, Ping, RestartActor};
use weft_wire::{
    ActorKind, Address, Allow, AskError, Backoff, Clock as _, FailureKind, Message, MessageId,
    Subscription, SystemClock,
};

use crate::testing::{self, TestTree, eventually};
use crate::{
    Actor, ActorError, Child, ChildSpec, Epoch, Handle, Incarnation, Intensity, Restart, Routes,
    Scope, Serve, Strategy, Watchdog,
};

macro_rules! message {
    ($name:ident { $($field:ident: $type:ty),* } = $id:literal -> $reply:ty) => {
        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct $name { $($field: $type),* }
        impl Message for $name {
            const ID: MessageId = MessageId($id);
            const ACTOR: ActorKind = ActorKind::Monitor;
            const NAME: &'static str = stringify!($name);
            const ALLOW: Allow = Allow::NODES;
            type Reply = $reply;
        }
    };
}

message!(Add { n: u64 } = 60001 -> u64);
message!(Hold {} = 60002 -> ());
message!(Break { how: How } = 60003 -> ());
message!(Block {} = 60004 -> ());
message!(Count { to: u64 } = 60005 -> ());
message!(Children { names: Vec<String> } = 60006 -> ());
message!(Unknown {} = 60099 -> ());

impl Subscription for Count {
    type Item = u64;
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum How {
    Panic,
    PanicInSpawn,
    PanicInTimer,
    PanicInPost,
    PanicInEvery,
    Fail,
    Stop,
}

/// What outlives incarnations.
#[derive(Default)]
struct World {
    made: AtomicU64,
    refuse: AtomicBool,
    log: Mutex<Vec<String>>,
    gate: Mutex<bool>,
    opened: Condvar,
    ghost: Mutex<Option<(bool, bool)>>,
    effects: AtomicU64,
    epochs: Mutex<Vec<Epoch>>,
}

impl World {
    fn note(&self, line: impl Into<String>) {
        self.log.lock().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    fn open(&self) {
        *self.gate.lock() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let mut open = self.gate.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
    }
}

struct Sum {
    world: Arc<World>,
    total: u64,
    held: Vec<Reply<Hold>>,
    children: Vec<Child<Leaf>>,
}

impl Sum {
    fn factory(world: &Arc<World>) -> impl crate::Factory<Self> + use<> {
        let world = world.clone();
        move |incarnation: Incarnation| {
            let world = world.clone();
            async move {
                world.made.fetch_add(1, Ordering::SeqCst);
                world.epochs.lock().push(incarnation.epoch);
                if world.refuse.load(Ordering::SeqCst) {
                    return Err(ActorError::new("the disk is full"));
                }
                Ok(Self { world, total: 0, held: Vec::new(), children: Vec::new() })
            }
        }
    }
}

impl Actor for Sum {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<Add>().ask::<Hold>().ask::<Break>().ask::<Block>().ask::<Children>();
        routes.subscription::<Count>();
    }

    fn stopping(&mut self, scope: &Scope<Self>) -> BoxFuture<'static, ()> {
        let world = self.world.clone();
        let path = scope.path().to_owned();
        async move {
            tokio::task::yield_now().await;
            world.note(format!("stopped {path}"));
        }
        .boxed()
    }
}

impl Handle<Add> for Sum {
    fn handle(&mut self, Add { n }: Add, reply: Reply<Add>, _: &Scope<Self>) {
        self.total += n;
        reply.ok(self.total);
    }
}

impl Handle<Hold> for Sum {
    fn handle(&mut self, _: Hold, reply: Reply<Hold>, _: &Scope<Self>) {
        self.held.push(reply);
    }
}

impl Handle<Break> for Sum {
    fn handle(&mut self, Break { how }: Break, reply: Reply<Break>, scope: &Scope<Self>) {
        match how {
            How::Panic => panic!("broken on purpose"),
            How::PanicInSpawn => scope.spawn(async { panic!("broken on purpose") }),
            How::PanicInTimer => {
                scope.after(Duration::from_millis(1), |_, _| panic!("broken on purpose")).detach()
            }
            How::PanicInPost => assert!(scope.post(|_, _| panic!("broken on purpose"))),
            How::PanicInEvery => {
                scope.every(Duration::from_millis(1), |_, _| panic!("broken on purpose"));
            }
            How::Fail => scope.fail("broken on purpose"),
            How::Stop => scope.stop(),
        }
        self.held.clear();
        drop(reply);
    }
}

impl Handle<Block> for Sum {
    fn handle(&mut self, _: Block, reply: Reply<Block>, scope: &Scope<Self>) {
        self.world.wait();
        // From here on this may be a ghost.
        let world = self.world.clone();
        let posted = scope.post({
            let world = world.clone();
            move |_, _| {
                world.effects.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn({
            let world = world.clone();
            async move {
                world.effects.fetch_add(1, Ordering::SeqCst);
            }
        });
        let child = scope.child("late", ChildSpec::default(), Leaf::factory(&world));
        let told = child.post(|leaf, _| {
            leaf.world.effects.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(told.is_ok(), posted, "a ghost's child is none");
        *world.ghost.lock() = Some((posted, scope.epoch().is_current()));
        reply.ok(());
    }
}

impl Handle<Children> for Sum {
    fn handle(&mut self, message: Children, reply: Reply<Children>, scope: &Scope<Self>) {
        for name in message.names {
            let spec = ChildSpec {
                intensity: Intensity { max: 2, within: Duration::from_secs(60) },
                backoff: quick(),
                ..ChildSpec::default()
            };
            self.children.push(scope.child(&name, spec, Leaf::factory(&self.world)));
        }
        reply.ok(());
    }
}

impl Serve<Count> for Sum {
    fn serve(&mut self, Count { to }: Count, sink: ItemSink<Count>, scope: &Scope<Self>) {
        scope.spawn(async move {
            for n in 0..to {
                if sink.send(n).await.is_err() {
                    return;
                }
            }
        });
    }
}

struct Leaf {
    world: Arc<World>,
    seen: u64,
}

impl Leaf {
    fn factory(world: &Arc<World>) -> impl crate::Factory<Self> + use<> {
        let world = world.clone();
        move |incarnation: Incarnation| {
            let world = world.clone();
            async move {
                world.note(format!("made {} {}", incarnation.path, incarnation.number));
                Ok(Self { world, seen: 0 })
            }
        }
    }
}

impl Actor for Leaf {
    fn routes(_: &mut Routes<Self>) {}

    fn stopping(&mut self, scope: &Scope<Self>) -> BoxFuture<'static, ()> {
        let world = self.world.clone();
        let path = scope.path().to_owned();
        async move {
            tokio::task::yield_now().await;
            world.note(format!("stopped {path}"));
        }
        .boxed()
    }
}

fn quick() -> Backoff {
    Backoff { base: Duration::from_millis(5), max: Duration::from_millis(20), jitter: 0.0 }
}

fn quick_watchdog() -> Watchdog {
    Watchdog { every: Duration::from_millis(50), silence: Duration::from_millis(600) }
}

fn spec(mailbox: usize) -> ChildSpec {
    ChildSpec { mailbox, backoff: quick(), ..ChildSpec::default() }
}

async fn with_sum(tree: &TestTree) -> Arc<World> {
    let world = Arc::new(World::default());
    tree.add_with(ActorKind::Monitor, spec(1024), Sum::factory(&world)).await;
    world
}

async fn children(tree: &TestTree, names: &[&str]) {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    tree.ask(Children { names: names.clone() }).await.expect("asks for children");
    for name in names {
        tree.row_where(&format!("monitor/{name}"), |row| row.state == ActorState::Running).await;
    }
}

#[test]
fn an_actor_answers_asks_takes_tells_and_serves_streams() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        assert_eq!(tree.ask(Add { n: 2 }).await, Ok(2));
        tree.tell(Add { n: 3 }).expect("told");
        assert_eq!(tree.ask(Add { n: 0 }).await, Ok(5));
        let mut items = tree
            .fabric()
            .subscribe(
                Address::here(ActorKind::Monitor),
                Count { to: 200 },
                Call::within(testing::PATIENCE),
            )
            .await
            .expect("subscribes");
        let mut got = 0;
        while let Some(item) = items.next().await {
            assert_eq!(item, Ok(got));
            got += 1;
        }
        assert_eq!(got, 200);
    });
}

async fn breaks_and_comes_back(tree: &TestTree, how: How, failure: &str) {
    assert_eq!(tree.ask(Add { n: 7 }).await, Ok(7));
    let before = tree.row("monitor").expect("a row");
    let held = tree.ask(Hold {});
    let broken = async {
        tokio::task::yield_now().await;
        tree.ask(Break { how }).await
    };
    let clock = SystemClock;
    let start = clock.now();
    let (held, broken) = tokio::join!(held, broken);
    assert!(matches!(held, Err(AskError::Unreachable(_))), "{held:?}");
    assert!(matches!(broken, Err(AskError::Unreachable(_))), "{broken:?}");
    // At once, not at the deadline.
    assert!(clock.now() - start < testing::PATIENCE / 2);
    let row = tree
        .row_where("monitor", |row| {
            row.restarts == before.restarts + 1 && row.state == ActorState::Running
        })
        .await;
    if !failure.is_empty() {
        assert!(row.last_failure.starts_with(failure), "{}", row.last_failure);
        assert!(row.last_failure.contains("broken on purpose"), "{}", row.last_failure);
    }
    assert_eq!(tree.ask(Add { n: 1 }).await, Ok(1), "a fresh value");
}

#[test]
fn a_panic_in_a_handler_recreates_the_actor_and_names_the_place() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        breaks_and_comes_back(&tree, How::Panic, "panicked at actors/supervision/src/tests.rs:")
            .await;
    });
}

#[test]
fn a_panic_in_a_spawned_future_recreates_the_actor() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        breaks_and_comes_back(&tree, How::PanicInSpawn, "panicked at").await;
    });
}

#[test]
fn a_panic_in_a_timer_recreates_the_actor() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        breaks_and_comes_back(&tree, How::PanicInTimer, "panicked at").await;
    });
}

#[test]
fn a_panic_in_a_period_recreates_the_actor() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        breaks_and_comes_back(&tree, How::PanicInEvery, "panicked at").await;
    });
}

#[test]
fn a_panic_in_a_self_message_recreates_the_actor() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        breaks_and_comes_back(&tree, How::PanicInPost, "panicked at").await;
    });
}

#[test]
fn a_failure_and_a_stop_of_its_own_recreate_a_permanent_actor() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        breaks_and_comes_back(&tree, How::Fail, "broken on purpose").await;
    });
    testing::run(async |tree| {
        with_sum(&tree).await;
        breaks_and_comes_back(&tree, How::Stop, "").await;
        assert_eq!(tree.row("monitor").expect("a row").last_failure, "");
    });
}

#[test]
fn an_actor_is_back_within_50_ms_of_its_panic() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        let mut best = Duration::MAX;
        // The best of a few: the machine may be busy, the promise is about the supervisor.
        for _ in 0..4 {
            let made = world.made.load(Ordering::SeqCst);
            let start = SystemClock.now();
            let _ = tree.ask(Break { how: How::Panic }).await;
            eventually("it answers again", || {
                (world.made.load(Ordering::SeqCst) > made
                    && tree.row("monitor").is_some_and(|row| row.state == ActorState::Running))
                .then_some(())
            })
            .await;
            best = best.min(SystemClock.now() - start);
            tree.row_where("monitor", |row| row.state == ActorState::Running).await;
            if best < Duration::from_millis(50) {
                return;
            }
        }
        panic!("{best:?}");
    });
}

#[test]
fn messages_queued_behind_a_panic_end_at_once_and_are_counted_as_dead_letters() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        let blocked = tokio::spawn({
            let tree = tree.clone();
            async move { tree.ask(Block {}).await }
        });
        tree.row_where("monitor", |row| row.messages == 1).await;
        tree.tell(Break { how: How::Panic }).expect("told");
        let queued: Vec<_> = (0..10)
            .map(|n| {
                let tree = tree.clone();
                tokio::spawn(async move { tree.ask(Add { n }).await })
            })
            .collect();
        tree.row_where("monitor", |row| row.mailbox_depth == 11).await;
        world.open();
        assert_eq!(blocked.await.expect("joins"), Ok(()));
        for ask in queued {
            let answer = ask.await.expect("joins");
            assert!(matches!(answer, Err(AskError::Unreachable(_))), "{answer:?}");
        }
        let row = tree.row_where("monitor", |row| row.restarts == 1).await;
        assert!(row.dead_letters >= 10, "{row:?}");
    });
}

#[test]
fn siblings_are_undisturbed_by_a_panic() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        let other = Arc::new(World::default());
        tree.add(ActorKind::Gateway, Sum::factory(&other)).await;
        children(&tree, &["a", "b"]).await;
        let _ = tree
            .fabric()
            .ask(
                Address::here(ActorKind::Gateway),
                Break { how: How::Panic },
                Call::within(testing::PATIENCE),
            )
            .await;
        tree.row_where("gateway", |row| row.restarts == 1).await;
        assert_eq!(world.made.load(Ordering::SeqCst), 1);
        for path in ["monitor", "monitor/a", "monitor/b"] {
            assert_eq!(tree.row(path).expect("a row").restarts, 0);
        }
    });
}

#[test]
fn a_full_mailbox_refuses_letters_and_child_posts_but_never_the_actors_own() {
    testing::run(async |tree| {
        let world = Arc::new(World::default());
        tree.add_with(ActorKind::Monitor, spec(4), Sum::factory(&world)).await;
        tree.tell(Block {}).expect("told");
        tree.row_where("monitor", |row| row.messages == 1).await;
        for _ in 0..4 {
            tree.tell(Add { n: 1 }).expect("told");
        }
        assert!(matches!(tree.tell(Add { n: 1 }), Err(AskError::Overloaded(_))));
        assert!(matches!(tree.ask(Add { n: 1 }).await, Err(AskError::Overloaded(_))));
        let row = tree.row("monitor").expect("a row");
        assert_eq!((row.mailbox_depth, row.mailbox_capacity), (4, 4));
        world.open();
        // The blocked handler posted to itself although the mailbox was full.
        eventually("its self-message ran", || {
            (world.effects.load(Ordering::SeqCst) >= 2).then_some(())
        })
        .await;
        assert_eq!(*world.ghost.lock(), Some((true, true)));
        assert_eq!(tree.ask(Add { n: 0 }).await, Ok(4), "none lost, none more than the bound");
    });
}

#[test]
fn an_unknown_message_is_refused() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        let answer = tree.ask(Unknown {}).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(tree.ask(Add { n: 1 }).await, Ok(1));
    });
}

#[test]
fn a_child_is_recreated_under_the_same_handle() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        children(&tree, &["a"]).await;
        chaos_panic(&tree, "monitor/a").await;
        let row = tree
            .row_where("monitor/a", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        assert!(row.last_failure.contains("weft chaos panic"), "{row:?}");
        assert_eq!(tree.row("monitor").expect("a row").restarts, 0);
        assert_eq!(world.lines(), ["made monitor/a 0", "made monitor/a 1"]);
    });
}

/// Breaks an actor without the rights and switches of `ChaosActor`.
async fn chaos_panic(tree: &TestTree, path: &str) {
    let actor = tree.tree.core().find(path).expect("it is there");
    eventually("it can be broken", || actor.keeper.chaos(ChaosKind::Panic).then_some(())).await;
}

/// An actor that gives its children's handles away.
struct Parent {
    handles: tokio::sync::mpsc::UnboundedSender<Child<Leaf>>,
    world: Arc<World>,
    names: Vec<String>,
    spec: ChildSpec,
}

impl Actor for Parent {
    const STRATEGY: Strategy = Strategy::RestForOne;

    fn routes(_: &mut Routes<Self>) {}

    fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
        for name in &self.names {
            let _ = self.handles.send(scope.child(name, self.spec, Leaf::factory(&self.world)));
        }
        Ok(())
    }
}

async fn parent(
    tree: &TestTree,
    names: &[&str],
    spec: ChildSpec,
) -> (Arc<World>, tokio::sync::mpsc::UnboundedReceiver<Child<Leaf>>) {
    let (handles, receiver) = tokio::sync::mpsc::unbounded_channel();
    let world = Arc::new(World::default());
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let made = world.clone();
    tree.add_with(ActorKind::Session, self::spec(64), move |_: Incarnation| {
        let parent =
            Parent { handles: handles.clone(), world: made.clone(), names: names.clone(), spec };
        async move { Ok(parent) }
    })
    .await;
    (world, receiver)
}

#[test]
fn posts_to_a_child_wait_for_its_first_start_and_are_bounded() {
    testing::run(async |tree| {
        let (world, mut children) = parent(&tree, &["a"], spec(3)).await;
        let child = children.recv().await.expect("a child");
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let note = |sender: &tokio::sync::mpsc::UnboundedSender<u64>| {
            let sender = sender.clone();
            move |leaf: &mut Leaf, _: &Scope<Leaf>| {
                leaf.seen += 1;
                let _ = sender.send(leaf.seen);
            }
        };
        assert_eq!(child.post(note(&sender)), Ok(()));
        assert_eq!(seen.recv().await, Some(1));
        child.post(|leaf, _| leaf.world.wait()).expect("posted");
        tree.row_where("session/a", |row| row.messages == 2).await;
        for _ in 0..3 {
            assert_eq!(child.post(note(&sender)), Ok(()));
        }
        assert_eq!(child.post(note(&sender)), Err(Refusal::Full));
        world.open();
        for n in 2..5 {
            assert_eq!(seen.recv().await, Some(n));
        }
        child.stop().await;
        assert_eq!(child.post(note(&sender)), Err(Refusal::Gone));
        assert_eq!(world.lines(), ["made session/a 0", "stopped session/a"]);
        assert!(tree.row("session/a").is_none(), "a stopped child leaves no row");
    });
}

#[test]
fn rest_for_one_recreates_the_later_children_in_order() {
    testing::run(async |tree| {
        let (world, _children) = parent(&tree, &["a", "b", "c"], spec(8)).await;
        tree.row_where("session/c", |row| row.state == ActorState::Running).await;
        world.log.lock().clear();
        chaos_panic(&tree, "session/b").await;
        tree.row_where("session/c", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        assert_eq!(world.lines(), ["stopped session/c", "made session/b 1", "made session/c 1"]);
        assert_eq!(tree.row("session/a").expect("a row").restarts, 0);
    });
}

#[test]
fn a_child_that_fails_too_often_fails_its_parent() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        children(&tree, &["a", "b"]).await;
        for n in 0..3 {
            tree.row_where("monitor/a", |row| {
                row.restarts == n && row.state == ActorState::Running
            })
            .await;
            chaos_panic(&tree, "monitor/a").await;
        }
        let row = tree
            .row_where("monitor", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        assert!(
            row.last_failure
                .starts_with("monitor/a failed more than 2 times in 60 s; last: panicked"),
            "{}",
            row.last_failure
        );
        assert!(tree.row("monitor/a").is_none() && tree.row("monitor/b").is_none());
        assert_eq!(world.made.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_top_actor_that_fails_too_often_ends_the_node_with_the_reason() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        world.refuse.store(true, Ordering::SeqCst);
        tree.tell(Break { how: How::Panic }).expect("told");
        let reason = tree.tree.finished().await;
        assert_eq!(reason, "monitor failed more than 5 times in 30 s; last: the disk is full");
        assert_eq!(tree.row("monitor").expect("a row").state, ActorState::Failed);
        assert_eq!(world.made.load(Ordering::SeqCst), 6);
    });
}

#[test]
fn a_factory_that_fails_is_tried_again_and_a_start_that_never_works_is_an_error() {
    testing::run(async |tree| {
        let world = Arc::new(World::default());
        world.refuse.store(true, Ordering::SeqCst);
        let started = tree
            .tree
            .add_ready(ActorKind::Monitor, spec(8), Sum::factory(&world))
            .expect("the tree runs");
        let error = tree.tree.ready(started).await.expect_err("never starts");
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(world.made.load(Ordering::SeqCst), 6);
    });
}

#[test]
fn one_for_all_at_the_root_recreates_every_top_actor() {
    testing::run_with(
        |config| config.strategy = Strategy::OneForAll,
        async |tree| {
            let world = with_sum(&tree).await;
            let other = Arc::new(World::default());
            tree.add(ActorKind::Gateway, Sum::factory(&other)).await;
            let _ = tree.ask(Break { how: How::Panic }).await;
            tree.row_where("gateway", |row| row.restarts == 1 && row.state == ActorState::Running)
                .await;
            assert_eq!(world.made.load(Ordering::SeqCst), 2);
            assert_eq!(other.lines(), ["stopped gateway"]);
        },
    );
}

#[test]
fn a_hung_actor_is_replaced_and_its_ghost_has_no_effect() {
    testing::run_with(
        |config| config.watchdog = quick_watchdog(),
        async |tree| {
            let world = with_sum(&tree).await;
            children(&tree, &["a"]).await;
            tree.tell(Block {}).expect("told");
            tree.row_where("monitor", |row| row.state == ActorState::Hung).await;
            let row = tree
                .row_where("monitor", |row| row.restarts == 1 && row.state == ActorState::Running)
                .await;
            assert_eq!(row.last_failure, "silent for 0.6 s: monitor blocks the thread");
            assert_eq!(tree.ask(Add { n: 1 }).await, Ok(1));
            let epochs = world.epochs.lock().clone();
            assert_eq!(epochs.iter().map(Epoch::is_current).collect::<Vec<_>>(), [false, true]);
            assert!(tree.row("monitor/a").is_none(), "its children went with it");
            world.open();
            let ghost = eventually("the ghost wakes up", || *world.ghost.lock()).await;
            assert_eq!(ghost, (false, false));
            assert_eq!(tree.ask(Add { n: 1 }).await, Ok(2));
            assert_eq!(world.effects.load(Ordering::SeqCst), 0);
            assert!(tree.row("monitor/late").is_none());
        },
    );
}

#[test]
fn asks_that_wait_behind_a_hung_handler_end_when_it_is_replaced() {
    testing::run_with(
        |config| config.watchdog = quick_watchdog(),
        async |tree| {
            let world = with_sum(&tree).await;
            tree.tell(Block {}).expect("told");
            tree.row_where("monitor", |row| row.messages == 1).await;
            let start = SystemClock.now();
            let answer = tree.ask(Add { n: 1 }).await;
            assert!(matches!(answer, Err(AskError::Unreachable(_))), "{answer:?}");
            assert!(SystemClock.now() - start < testing::PATIENCE / 2, "not at its deadline");
            let row = tree.row_where("monitor", |row| row.restarts == 1).await;
            assert_eq!(row.dead_letters, 1);
            world.open();
        },
    );
}

#[test]
fn a_child_that_hangs_is_named_and_its_top_actor_replaced() {
    testing::run_with(
        |config| config.watchdog = quick_watchdog(),
        async |tree| {
            let world = with_sum(&tree).await;
            children(&tree, &["a"]).await;
            let actor = tree.tree.core().find("monitor/a").expect("it is there");
            assert!(actor.keeper.chaos(ChaosKind::Hang));
            let row = tree
                .row_where("monitor", |row| row.restarts == 1 && row.state == ActorState::Running)
                .await;
            assert!(row.last_failure.contains("monitor/a blocks"), "{}", row.last_failure);
            assert_eq!(world.made.load(Ordering::SeqCst), 2);
        },
    );
}

#[test]
fn a_second_hang_ends_the_node() {
    testing::run_with(
        |config| {
            config.watchdog = quick_watchdog();
            config.chaos = true;
        },
        async |tree| {
            with_sum(&tree).await;
            let hang = ChaosActor { path: "monitor".into(), kind: ChaosKind::Hang };
            tree.ask(hang.clone()).await.expect("hangs");
            tree.row_where("monitor", |row| row.restarts == 1 && row.state == ActorState::Running)
                .await;
            tree.ask(hang).await.expect("hangs");
            let reason = tree.tree.finished().await;
            assert!(reason.starts_with("monitor second hang in 10 minutes"), "{reason}");
        },
    );
}

#[test]
fn a_busy_actor_is_not_taken_for_a_hung_one() {
    testing::run_with(
        |config| {
            config.watchdog =
                Watchdog { every: Duration::from_millis(40), silence: Duration::from_millis(400) }
        },
        async |tree| {
            let (_world, mut children) = parent(&tree, &["a"], spec(64)).await;
            let child = children.recv().await.expect("a child");
            // Together far longer than the silence that would count as hung.
            for _ in 0..40 {
                child.post(|_, _| std::thread::sleep(Duration::from_millis(25))).expect("posted");
            }
            let (sender, done) = tokio::sync::oneshot::channel();
            child
                .post(move |_, _| {
                    let _ = sender.send(());
                })
                .expect("posted");
            done.await.expect("all ran");
            assert_eq!(tree.row("session").expect("a row").restarts, 0);
        },
    );
}

#[test]
fn an_orderly_stop_stops_children_first_and_awaits_each() {
    let world = testing::run(async |tree| {
        let world = with_sum(&tree).await;
        children(&tree, &["a"]).await;
        tree.add(ActorKind::Gateway, Sum::factory(&world)).await;
        world.log.lock().clear();
        world
    });
    assert_eq!(world.lines(), ["stopped gateway", "stopped monitor/a", "stopped monitor"]);
}

#[test]
fn a_stop_is_bounded_even_if_an_actor_hangs() {
    let start = SystemClock.now();
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        tree.tell(Block {}).expect("told");
        tree.row_where("monitor", |row| row.messages == 1).await;
        tree.tree.stop(Duration::from_millis(50)).await;
        world.open();
    });
    assert!(SystemClock.now() - start < Duration::from_secs(15));
}

#[test]
fn a_restart_by_message_is_orderly_and_not_counted_as_a_failure() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        children(&tree, &["a"]).await;
        for n in 1..8 {
            tree.ask(RestartActor { path: "monitor".into() }).await.expect("restarts");
            let row = tree.row("monitor").expect("a row");
            assert_eq!((row.restarts, row.last_failure.as_str()), (n, ""));
        }
        let lines = world.lines();
        assert_eq!(lines[..3], ["made monitor/a 0", "stopped monitor/a", "stopped monitor"]);
        children(&tree, &["b"]).await;
        tree.ask(RestartActor { path: "monitor/b".into() }).await.expect("restarts");
        assert_eq!(tree.row("monitor/b").expect("a row").restarts, 1);
    });
}

#[test]
fn restart_and_chaos_of_an_unknown_actor_name_the_known_ones() {
    testing::run_with(
        |config| config.chaos = true,
        async |tree| {
            with_sum(&tree).await;
            let path = "nonsense".to_owned();
            let restart = tree.ask(RestartActor { path: path.clone() }).await;
            let chaos = tree.ask(ChaosActor { path, kind: ChaosKind::Panic }).await;
            for answer in [restart, chaos] {
                let Err(AskError::Failed(failure)) = answer else { panic!("{answer:?}") };
                assert_eq!(failure.kind, FailureKind::NotFound);
                assert!(failure.help.contains("monitor"), "{failure:?}");
            }
        },
    );
}

#[test]
fn chaos_is_refused_where_it_is_not_enabled_and_works_where_it_is() {
    let panic = || ChaosActor { path: "monitor".into(), kind: ChaosKind::Panic };
    testing::run(async |tree| {
        with_sum(&tree).await;
        let answer = tree.ask(panic()).await;
        let Err(AskError::Failed(failure)) = answer else { panic!("{answer:?}") };
        assert_eq!(failure.kind, FailureKind::Forbidden);
        assert!(failure.help.contains("[chaos] enabled = true"), "{failure:?}");
        assert_eq!(tree.row("monitor").expect("a row").restarts, 0);
    });
    testing::run_with(
        |config| config.chaos = true,
        async |tree| {
            with_sum(&tree).await;
            tree.ask(panic()).await.expect("breaks it");
            tree.row_where("monitor", |row| row.restarts == 1).await;
        },
    );
}

#[test]
fn introspection_answers_over_the_fabric_with_true_numbers() {
    testing::run(async |tree| {
        with_sum(&tree).await;
        children(&tree, &["a"]).await;
        for _ in 0..9 {
            tree.ask(Add { n: 1 }).await.expect("adds");
        }
        let rows = tree.ask(ActorTree {}).await.expect("rows");
        assert_eq!(rows.iter().map(|row| &*row.path).collect::<Vec<_>>(), ["monitor", "monitor/a"]);
        let row = &rows[0];
        assert_eq!((&*row.node, row.state), ("test", ActorState::Running));
        assert_eq!((row.messages, row.mailbox_depth, row.restarts), (10, 0, 0));
        assert_eq!((row.mailbox_capacity, row.dead_letters, &*row.last_failure), (1024, 0, ""));
        assert!(row.since <= SystemClock.wall());
        let pong = tree.ask(Ping {}).await.expect("a pong");
        assert_eq!(pong.node, tree.fabric().node());
    });
}

#[test]
fn introspection_answers_while_an_actor_hangs() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        tree.tell(Block {}).expect("told");
        tree.tell(Add { n: 1 }).expect("told");
        tree.row_where("monitor", |row| row.messages == 1).await;
        let rows = tree.ask(ActorTree {}).await.expect("rows");
        assert_eq!(rows[0].mailbox_depth, 1);
        world.open();
    });
}

#[test]
fn a_thousand_children_start_answer_and_stop_quickly() {
    testing::run(async |tree| {
        let start = SystemClock.now();
        let names: Vec<String> = (0..1000).map(|n| format!("c{n}")).collect();
        let spec = ChildSpec { mailbox: 16, ..ChildSpec::default() };
        let (sender, mut children) = tokio::sync::mpsc::unbounded_channel();
        struct Many(Vec<String>, tokio::sync::mpsc::UnboundedSender<Child<Leaf>>, ChildSpec);
        impl Actor for Many {
            fn routes(_: &mut Routes<Self>) {}
            fn started(&mut self, scope: &Scope<Self>) -> Result<(), ActorError> {
                let world = Arc::new(World::default());
                for name in &self.0 {
                    let _ = self.1.send(scope.child(name, self.2, Leaf::factory(&world)));
                }
                Ok(())
            }
        }
        tree.add(ActorKind::Session, move |_: Incarnation| {
            let many = Many(names.clone(), sender.clone(), spec);
            async move { Ok(many) }
        })
        .await;
        let (done, mut answers) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..1000 {
            let child = children.recv().await.expect("a child");
            let done = done.clone();
            child
                .post(move |_, _| {
                    let _ = done.send(());
                })
                .expect("posted");
        }
        for _ in 0..1000 {
            answers.recv().await.expect("answers");
        }
        assert_eq!(tree.tree.rows().len(), 1001);
        tree.tree.stop(testing::PATIENCE).await;
        assert!(SystemClock.now() - start < Duration::from_secs(10), "far beyond what it takes");
    });
}

#[test]
fn temporary_and_transient_children_end_as_they_say() {
    testing::run(async |tree| {
        let spec = |restart| ChildSpec { restart, ..spec(8) };
        let (_world, mut children) = parent(&tree, &["a"], spec(Restart::Transient)).await;
        let child = children.recv().await.expect("a child");
        child.post(|_, scope| scope.fail("once")).expect("posted");
        tree.row_where("session/a", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        child.post(|_, scope| scope.stop()).expect("posted");
        eventually("it is gone", || tree.row("session/a").is_none().then_some(())).await;
    });
    testing::run(async |tree| {
        let spec = ChildSpec { restart: Restart::Temporary, ..spec(8) };
        let (_world, mut children) = parent(&tree, &["a"], spec).await;
        let child = children.recv().await.expect("a child");
        child.post(|_, scope| scope.fail("once")).expect("posted");
        eventually("it is gone", || tree.row("session/a").is_none().then_some(())).await;
        assert_eq!(child.post(|_, _| {}), Err(Refusal::Gone));
    });
}

#[test]
fn what_an_incarnation_spawned_ends_with_it() {
    testing::run(async |tree| {
        let (_world, mut children) = parent(&tree, &["a"], spec(8)).await;
        let child = children.recv().await.expect("a child");
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        child
            .post(move |_, scope| {
                scope.spawn(async move {
                    let _held = held;
                    std::future::pending::<()>().await;
                });
                scope.fail("done with it");
            })
            .expect("posted");
        assert!(dropped.await.is_err(), "the future was dropped");
    });
}

#[test]
fn a_dropped_timer_does_not_fire_and_a_kept_one_does() {
    testing::run(async |tree| {
        let (_world, mut children) = parent(&tree, &["a"], spec(8)).await;
        let child = children.recv().await.expect("a child");
        let (sender, mut fired) = tokio::sync::mpsc::unbounded_channel();
        child
            .post(move |_, scope| {
                let note = |n: u32| {
                    let sender = sender.clone();
                    move |_: &mut Leaf, _: &Scope<Leaf>| {
                        let _ = sender.send(n);
                    }
                };
                drop(scope.after(Duration::from_millis(1), note(1)));
                scope.after(Duration::from_millis(20), note(2)).detach();
                scope.spawn_then(async { 3 }, {
                    let sender = sender.clone();
                    move |_, n, _| {
                        let _ = sender.send(n);
                    }
                });
                let mut left = 3;
                let sender = sender.clone();
                scope.every(Duration::from_millis(30), move |_, scope| {
                    left -= 1;
                    let _ = sender.send(100 + left);
                    if left == 0 {
                        scope.stop();
                    }
                });
            })
            .expect("posted");
        let mut got = Vec::new();
        for _ in 0..5 {
            got.push(fired.recv().await.expect("fires"));
        }
        got.sort_unstable();
        assert_eq!(got, [2, 3, 100, 101, 102]);
    });
}

#[test]
fn a_name_used_again_replaces_the_child_that_has_it() {
    testing::run(async |tree| {
        let world = with_sum(&tree).await;
        children(&tree, &["a"]).await;
        tree.ask(Children { names: vec!["a".into()] }).await.expect("asks");
        eventually("the second one is made", || (world.lines().len() == 3).then_some(())).await;
        assert_eq!(world.lines(), ["made monitor/a 0", "stopped monitor/a", "made monitor/a 0"]);
        tree.row_where("monitor/a", |row| row.state == ActorState::Running).await;
    });
}

#[test]
fn a_tree_outside_an_actor_system_is_refused() {
    let runtime = Arc::new(
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"),
    );
    let config = crate::TreeConfig::new(testing::fabric("alone"), runtime);
    assert_eq!(crate::Tree::build(config).err(), Some(crate::TreeError::NoSystem));
}
