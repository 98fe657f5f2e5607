//! Children: kept under one handle, bounded, ended with their parent.

use super::*;

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
        // Its row comes after its handle: not yet there is not gone.
        tree.row_where("session/a", |row| row.state == ActorState::Running).await;
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
