//! Panics, failures and starts that never work: who is made again, and when it is given up.

use super::*;

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
