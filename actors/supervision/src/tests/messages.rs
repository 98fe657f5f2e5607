//! Mailboxes: what is answered, what is refused, what never arrives; timers.

use super::*;

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
fn a_tree_outside_an_actor_system_is_refused() {
    let runtime = Arc::new(
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"),
    );
    let config = crate::TreeConfig::new(testing::fabric("alone"), runtime);
    assert_eq!(crate::Tree::build(config).err(), Some(crate::TreeError::NoSystem));
}
