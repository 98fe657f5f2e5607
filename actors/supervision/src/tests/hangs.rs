//! Actors that answer no more are replaced, and their ghosts do nothing.

use super::*;

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
