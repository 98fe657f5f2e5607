//! For tests of actors: a tree on this machine, without links, in one call.
//!
//! ```no_run
//! # use weft_supervision::{testing, ChildSpec, Actor, Routes, Incarnation, ActorError};
//! # use weft_wire::ActorKind;
//! struct Quiet;
//! impl Actor for Quiet {
//!     fn routes(_: &mut Routes<Self>) {}
//! }
//! testing::run(async |tree| {
//!     tree.add(ActorKind::Monitor, |_: Incarnation| async { Ok::<_, ActorError>(Quiet) }).await;
//!     tree.row_where("monitor", |row| row.restarts == 0).await;
//! });
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use weft_link::{AuditSink, Call, Fabric, FabricConfig};
use weft_protocol::ActorInfo;
use weft_wire::{ActorKind, Address, AskError, Message, NodeId};

use crate::actor::{Actor, ChildSpec, Factory};
use crate::system::block_on_system;
use crate::tree::{Tree, TreeConfig};

/// How long a test waits for anything, in real time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A started tree of a node called `test`.
#[derive(Debug, Clone)]
pub struct TestTree {
    /// The tree itself.
    pub tree: Tree,
    /// The shared pool.
    pub runtime: Arc<Runtime>,
}

/// Runs a test in a fresh tree and stops it in an orderly way.
///
/// # Panics
/// If the tree cannot be made.
pub fn run<T>(test: impl AsyncFnOnce(TestTree) -> T) -> T {
    run_with(|_| {}, test)
}

/// As [`run`], with the configuration changed first.
///
/// # Panics
/// If the tree cannot be made.
pub fn run_with<T>(
    change: impl FnOnce(&mut TreeConfig),
    test: impl AsyncFnOnce(TestTree) -> T,
) -> T {
    let done = block_on_system(async |runtime: Arc<Runtime>| {
        let mut config = TreeConfig::new(fabric("test"), runtime.clone());
        change(&mut config);
        let tree = Tree::build(config).unwrap_or_else(|error| panic!("{error}"));
        tree.start().await.unwrap_or_else(|error| panic!("{error}"));
        let done = test(TestTree { tree: tree.clone(), runtime }).await;
        tree.core().release.store(true, Ordering::Relaxed);
        tree.stop(PATIENCE).await;
        done
    });
    done.unwrap_or_else(|error| panic!("{error}"))
}

/// A fabric without links.
pub fn fabric(name: &str) -> Fabric {
    let node: NodeId =
        "00000000-0000-4000-8000-000000000001".parse().unwrap_or_else(|error| panic!("{error}"));
    Fabric::local(FabricConfig { node, name: name.to_owned(), audit: AuditSink::none() })
}

/// Waits until `condition` gives a value.
///
/// # Panics
/// After [`PATIENCE`], saying `what` was awaited.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(value) = condition() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s in vain until {what}", PATIENCE.as_secs()),
    }
}

impl TestTree {
    /// To reach the actors.
    pub fn fabric(&self) -> Fabric {
        self.tree.core().fabric.clone()
    }

    /// Adds an actor and waits until it runs.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn add<A: Actor>(&self, kind: ActorKind, factory: impl Factory<A>) {
        self.add_with(kind, ChildSpec::default(), factory).await;
    }

    /// As [`TestTree::add`], with a spec.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn add_with<A: Actor>(
        &self,
        kind: ActorKind,
        spec: ChildSpec,
        factory: impl Factory<A>,
    ) {
        if let Some(started) = self.tree.add_ready(kind, spec, factory) {
            let ready = tokio::time::timeout(PATIENCE, self.tree.ready(started)).await;
            match ready {
                Ok(Ok(())) => {}
                Ok(Err(error)) => panic!("{kind} does not start: {error}"),
                Err(_) => panic!("{kind} does not start: {:?}", self.row(kind.as_str())),
            }
        }
    }

    /// Asks the actor that answers `M`.
    ///
    /// # Errors
    /// As [`Fabric::ask`].
    pub async fn ask<M: Message>(&self, message: M) -> Result<M::Reply, AskError> {
        self.fabric().ask(Address::here(M::ACTOR), message, Call::within(PATIENCE)).await
    }

    /// Tells the actor that answers `M`.
    ///
    /// # Errors
    /// As [`Fabric::tell`].
    pub fn tell<M: Message>(&self, message: M) -> Result<(), AskError> {
        self.fabric().tell(Address::here(M::ACTOR), message, &Call::within(PATIENCE))
    }

    /// What introspection says of an actor.
    pub fn row(&self, path: &str) -> Option<ActorInfo> {
        self.tree.rows().into_iter().find(|row| row.path == path)
    }

    /// Waits until introspection says so.
    ///
    /// # Panics
    /// If it never does.
    pub async fn row_where(&self, path: &str, so: impl Fn(&ActorInfo) -> bool) -> ActorInfo {
        let what = format!("the row of `{path}` is as expected");
        eventually(&what, || self.row(path).filter(|row| so(row))).await
    }

    /// Lets threads go on that `ChaosKind::Hang` has blocked.
    pub fn release_hung(&self) {
        self.tree.core().release.store(true, Ordering::Relaxed);
    }
}
