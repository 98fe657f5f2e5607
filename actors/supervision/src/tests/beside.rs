//! Messages that are answered in their sender's task.

use std::any::Any;

use super::*;
use crate::Beside;

#[derive(Default)]
struct Shown {
    clogged: AtomicBool,
}

struct Till {
    world: Arc<World>,
    shown: Arc<Shown>,
}

/// What a [`Till`] shares.
struct Window(Arc<Shown>);

impl Actor for Till {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask_beside::<Peek, Window>().ask::<Clog>().ask::<Block>();
    }

    fn shared(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(Window(self.shown.clone())))
    }
}

impl Beside<Peek> for Window {
    fn is_free(&self) -> bool {
        !self.0.clogged.load(Ordering::SeqCst)
    }

    fn handle(&self, Peek { breaks }: Peek, reply: Reply<Peek>) {
        assert!(!breaks, "broken on purpose");
        reply.ok("beside".to_owned());
    }
}

impl Handle<Peek> for Till {
    fn handle(&mut self, _: Peek, reply: Reply<Peek>, _: &Scope<Self>) {
        reply.ok("by the mailbox".to_owned());
    }
}

impl Handle<Clog> for Till {
    fn handle(&mut self, _: Clog, reply: Reply<Clog>, _: &Scope<Self>) {
        self.shown.clogged.store(true, Ordering::SeqCst);
        reply.ok(());
    }
}

impl Handle<Block> for Till {
    fn handle(&mut self, _: Block, reply: Reply<Block>, _: &Scope<Self>) {
        self.world.wait();
        reply.ok(());
    }
}

async fn with_till(tree: &TestTree) -> Arc<World> {
    let world = Arc::new(World::default());
    let made = world.clone();
    tree.add_with(ActorKind::Monitor, spec(1024), move |_: Incarnation| {
        let till = Till { world: made.clone(), shown: Arc::default() };
        async move { Ok(till) }
    })
    .await;
    world
}

async fn peek(tree: &TestTree) -> String {
    tree.ask(Peek { breaks: false }).await.expect("an answer")
}

#[test]
fn what_is_shared_answers_while_the_actor_is_busy_and_the_mailbox_when_it_is_not_free() {
    testing::run(async |tree| {
        let world = with_till(&tree).await;
        assert_eq!(peek(&tree).await, "beside");
        let before = tree.row("monitor").map(|row| row.messages);
        // Its thread is taken.
        tree.tell(Block {}).expect("told");
        assert_eq!(peek(&tree).await, "beside");
        world.open();
        tree.ask(Clog {}).await.expect("an answer");
        assert_eq!(peek(&tree).await, "by the mailbox");
        assert!(tree.row("monitor").map(|row| row.messages) > before, "they are counted");
    });
}

#[test]
fn a_panic_beside_the_mailbox_is_the_actors_failure_and_the_next_incarnation_answers() {
    testing::run(async |tree| {
        with_till(&tree).await;
        assert_eq!(peek(&tree).await, "beside");
        tree.tell(Peek { breaks: true }).expect("told");
        let row = tree
            .row_where("monitor", |row| row.restarts == 1 && row.state == ActorState::Running)
            .await;
        assert!(row.last_failure.contains("broken on purpose"), "{}", row.last_failure);
        assert_eq!(peek(&tree).await, "beside");
    });
}
