//! Orderly stops and restarts, faults on order, and what a tree says about itself.

use super::*;

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
