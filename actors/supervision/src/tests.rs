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

mod beside;
mod breaks;
mod children;
mod hangs;
mod messages;
mod orders;

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
message!(Peek { breaks: bool } = 60010 -> String);
message!(Clog {} = 60011 -> ());
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
