//! What starts, follows and stops a component: a process under its shim, or a container. The state
//! machine says what; these say how, and what came of it.
//!
//! - `process`: through a shim (`link`).
//! - `container`: through the node's engine; `engines`: that engine, found and watched; `recipe`:
//!   what a container is made from; `output`: its output, copied into the component's log;
//!   `guard`: the end of a fenced one's lease.
//! - `order`: what starts before what.

pub(crate) mod container;
pub(crate) mod engines;
mod guard;
mod order;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod recipe;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use weft_protocol::files::component_dir;
use weft_protocol::{Assignment, ComponentKey, Driver, ShippedFile};
use weft_supervision::Scope;

use crate::actor::Shared;
use crate::blobs::fetch;
use crate::component::ComponentActor;
use crate::shim::ToShim;
use crate::state::{Finding, Input, Permanence};
use crate::turns::{MENDING_MOST, in_turn};

/// What a run is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// End it: SIGTERM, SIGKILL after the grace, in ms.
    Stop { grace_ms: u64 },
    /// It may run until then, in ms of boot time; `None`: without end.
    Lease { until_ms: Option<u64> },
    /// Do not start it if it has not come so far.
    Cancel,
}

impl Order {
    /// As a shim understands it; `None`: it starts at once, and cannot be cancelled.
    pub(crate) const fn to_shim(self) -> Option<ToShim> {
        match self {
            Self::Stop { grace_ms } => Some(ToShim::Stop { grace_ms }),
            Self::Lease { until_ms } => Some(ToShim::Lease { until_ms }),
            Self::Cancel => None,
        }
    }
}

/// What every driver works with: whose it is, and whom to tell.
#[derive(Clone)]
pub(crate) struct Hands {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: ComponentKey,
    pub(crate) scope: Scope<ComponentActor>,
    pub(crate) run: u64,
}

impl Hands {
    /// Tells the component's machine.
    pub(crate) fn say(&self, input: Input) {
        self.scope.post(move |actor, scope| actor.input(scope, input));
    }

    /// The component's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        component_dir(&self.shared.config.data_dir, &self.key)
    }
}

/// The look when the component's actor begins: takes over what runs and follows it to its end.
/// `wanted`: what it is wanted to be, as far as that is known.
pub(crate) async fn take_over(hands: Hands, wanted: Option<Driver>, inbox: mpsc::Receiver<Order>) {
    let Some((finding, inbox)) = process::take_over(&hands, inbox).await else { return };
    let wanted = wanted == Some(Driver::Container);
    if !wanted && !container::may_be(&hands.dir()) {
        return hands.say(Input::Found(finding));
    }
    // Apart, here and below: a process' task, which stays, would be as large as a container's.
    Box::pin(container::take_over(hands, finding, wanted, inbox)).await;
}

/// One run from its start to its end. `turn`: of what is started again by itself, where few may
/// begin at once, and what says that this one has begun.
pub(crate) async fn run(
    hands: Hands,
    assignment: Assignment,
    mut inbox: mpsc::Receiver<Order>,
    turn: Option<(Arc<Semaphore>, CancellationToken)>,
) {
    // Not with a turn in hand: what it waits for may need one.
    let others = async {
        order::others_first(&hands, &assignment.after).await;
        Ok(())
    };
    if let Err(why) = unless_cancelled(&mut inbox, others).await {
        return hands.say(Input::StartFailed(hands.run, why, Permanence::Passing));
    }
    let work = begin(hands, assignment, inbox);
    match turn {
        Some((turns, begun)) => in_turn(turns, begun, MENDING_MOST, work).await,
        None => work.await,
    }
}

async fn begin(hands: Hands, assignment: Assignment, inbox: mpsc::Receiver<Order>) {
    match assignment.spec.driver {
        Driver::Process => {
            // It may have been one until now.
            if container::may_be(&hands.dir()) {
                Box::pin(container::remove(&hands)).await;
            }
            process::run(hands, assignment, inbox).await;
        }
        Driver::Container => Box::pin(container::run(hands, assignment, inbox)).await,
    }
}

/// Gets ready what is to take the place of what runs, which is not touched.
pub(crate) async fn prepare(
    hands: &Hands,
    assignment: &Assignment,
) -> Result<(), (String, Permanence)> {
    let fabric = hands.scope.fabric();
    let fetched = fetch::ensure(&hands.shared, fabric, &assignment.files, |_| {}).await;
    fetched.map_err(|why| (why, Permanence::Passing))?;
    match assignment.spec.driver {
        Driver::Process => Ok(()),
        Driver::Container => container::prepare(hands, assignment).await,
    }
}

/// Does what comes before a start; a run that is not to go on ends with an empty text.
async fn unless_cancelled(
    inbox: &mut mpsc::Receiver<Order>,
    work: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let cancelled = async {
        loop {
            match inbox.recv().await {
                Some(Order::Lease { .. }) => {}
                Some(Order::Cancel | Order::Stop { .. }) => return,
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        done = Box::pin(work) => done,
        () = cancelled => Err(String::new()),
    }
}

/// Waits until the files that come with the definition are on this node; a run that is not to go
/// on ends with an empty text.
async fn fetched(
    hands: &Hands,
    assignment: &Assignment,
    inbox: &mut mpsc::Receiver<Order>,
) -> Result<(), String> {
    let tell = |file: &ShippedFile| {
        hands.say(Input::Waits(hands.run, format!("fetches file {}", file.path)));
    };
    let fabric = hands.scope.fabric();
    unless_cancelled(inbox, fetch::ensure(&hands.shared, fabric, &assignment.files, tell)).await
}

/// What a look at a shim found, if nothing of it runs.
pub(crate) type Found = (Finding, mpsc::Receiver<Order>);
