//! Starting a container: an attempt that can be made again from any point, because it looks first at
//! what is there.

use tokio::sync::mpsc;
use weft_engine::{
    Container, ContainerSpec, Engine, Error, Summary, container_name, guard_network,
};
use weft_protocol::Assignment;
use weft_protocol::files::{FILES_VERSION, replica_dir};

use super::follow::follow;
use super::{
    AGAIN, ContainerFile, differs, idle, instance, is_ours, lease_ended, ours, permanence, read,
    refuse, write,
};
use crate::adopt;
use crate::blobs::place::place;
use crate::boottime::now_ms;
use crate::disk::make_dir;
use crate::driver::guard::{self, Guard};
use crate::driver::recipe::{self, MADE_FROM};
use crate::driver::{Hands, Order, fetched};
use crate::launch::Problem;
use crate::leases::replica;
use crate::state::lease::Lease;
use crate::state::{Input, Permanence};

/// Looks at who holds a name, before it is left for a later attempt.
const LOOKS: u32 = 10;
/// Of a fenced container whose processes are hidden from this node.
const UNSEEN: &str = "on_partition = \"stop\": the container's processes cannot be told by their cgroup from here, so nobody could end it with its lease: run weftd beside the engine, not in a container of its own, or write \"keep\"";
/// So many replicas of one component on one node have names of their own.
const PLACES: u32 = 1000;

/// Why nothing was started.
enum Failed {
    /// By the engine.
    Engine(Error),
    /// By this node.
    Problem(Problem),
    /// It was not to go on.
    Cancelled,
    /// Its lease ended, or there is none any more.
    Lease,
}

/// A container that runs.
struct Started {
    container: Container,
    guard: Option<Guard>,
    /// It is new.
    fresh: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// One run from its start to its end.
pub(crate) async fn run(hands: Hands, assignment: Assignment, mut inbox: mpsc::Receiver<Order>) {
    let engines = hands.shared.engines.clone();
    let run = hands.run;
    let key = &hands.key;
    let config = &hands.shared.config;
    if let Some(problem) = recipe::problem(config, &assignment.spec, &key.service, key.replica) {
        return hands.say(Input::StartFailed(run, problem, Permanence::Permanent));
    }
    if let Err(why) = fetched(&hands, &assignment, &mut inbox).await {
        return hands.say(Input::StartFailed(run, why, Permanence::Passing));
    }
    let started = loop {
        let engine = tokio::select! {
            engine = engines.wait(|why| hands.say(Input::Waits(run, why))) => engine,
            () = cancelled(&mut inbox) => {
                return hands.say(Input::StartFailed(run, String::new(), Permanence::Passing));
            }
        };
        match start(&hands, &engine, &assignment, &mut inbox).await {
            Ok(started) => break (engine, started),
            Err(Failed::Lease) => {
                return hands.say(Input::Exited(run, lease_ended(hands.scope.wall())));
            }
            // Whatever it has done by then is found by the next attempt.
            Err(Failed::Engine(error)) if error.is_engine_away() => {
                engines.failed(&error);
                hands.say(Input::Waits(run, error.to_string()));
                tokio::time::sleep(AGAIN).await;
            }
            Err(Failed::Engine(error)) => {
                let (text, permanence) = (error.to_string(), permanence(&error));
                return hands.say(Input::StartFailed(run, text, permanence));
            }
            Err(Failed::Problem(Problem::Permanent(text))) => {
                return hands.say(Input::StartFailed(run, text, Permanence::Permanent));
            }
            Err(Failed::Problem(Problem::Passing(text))) => {
                return hands.say(Input::StartFailed(run, text, Permanence::Passing));
            }
            Err(Failed::Cancelled) => {
                return hands.say(Input::StartFailed(run, String::new(), Permanence::Passing));
            }
        }
    };
    let (engine, Started { container, guard, fresh }) = started;
    let mut what = instance(&container, &read(&hands.dir()));
    what.lease = guard.as_ref().and_then(|guard| guard.until);
    hands.say(Input::Started(run, what));
    follow(&hands, engine, container, guard, &mut inbox, fresh).await;
    idle(&hands, inbox).await;
}

/// Completes when the run is not to go on.
async fn cancelled(inbox: &mut mpsc::Receiver<Order>) {
    loop {
        match inbox.recv().await {
            Some(Order::Lease { .. }) => {}
            Some(Order::Cancel | Order::Stop { .. }) => return,
            None => std::future::pending().await,
        }
    }
}

/// Starts a component's container: the one that is there if it is made from what is wanted, else a
/// new one, for which the old one goes once the image is there. Answers whether it is new.
async fn start(
    hands: &Hands,
    engine: &Engine,
    assignment: &Assignment,
    inbox: &mut mpsc::Receiver<Order>,
) -> Result<Started, Failed> {
    let shared = &hands.shared;
    let (key, spec) = (&hands.key, &assignment.spec);
    let (prepared, own, wall) = (shared.clone(), key.clone(), hands.scope.wall());
    let (dirs, wanted) = (recipe::directories(&shared.config, spec), spec.clone());
    let home = replica_dir(&shared.config.data_dir, &key.service, key.replica);
    let (made_home, files) = (home.clone(), assignment.files.clone());
    let (ports, peers) = tokio::task::spawn_blocking(move || {
        for dir in std::iter::once(&made_home).chain(&dirs) {
            make_dir(dir, 0o755)
                .map_err(|error| Problem::Passing(format!("{}: {error}", dir.display())))?;
        }
        place(&prepared, &own, &files)?;
        let ports = prepared.ports_for(&own, &wanted, wall)?;
        Ok::<_, Problem>((ports, prepared.peers_of(&own)))
    })
    .await
    .map_err(|error| Problem::Passing(error.to_string()))??;
    let mut made = recipe::container(&shared.config, assignment, &ports, &peers, &home, "name");
    let from = made.labels.get(MADE_FROM).cloned();
    let there = ours(hands, engine).await?;
    // One that was adopted stays until something else is wanted of it.
    let kept = read(&hands.dir()).adopted.filter(|adopted| adopted.is_of(assignment));
    let same = there.iter().find(|one| match &one.owner {
        // One of a later epoch is of another time: what is wanted went back since.
        Some(owner) => {
            one.labels.get(MADE_FROM) == from.as_ref() && owner.epoch <= assignment.epoch
        }
        None => kept.as_ref().is_some_and(|adopted| adopted.is(one)),
    });
    if let Some(same) = same
        && !is_changed(engine, same, &made).await?
    {
        match started(hands, engine, assignment, &same.id).await {
            Ok((container, guard)) => {
                for other in there.iter().filter(|other| other.id != same.id) {
                    engine.remove(&other.id).await?;
                }
                let before = read(&hands.dir());
                let file = ContainerFile {
                    version: FILES_VERSION,
                    name: container.name.clone(),
                    stopping: None,
                    epoch: assignment.epoch,
                    ..before
                };
                write(hands, &file).await?;
                return Ok(Started { container, guard, fresh: false });
            }
            // It cannot be started any more, as when something of it was lost: a new one may be.
            Err(Failed::Engine(error)) if !error.is_engine_away() => {
                tracing::debug!(%error, "a container is made anew")
            }
            Err(other) => return Err(other),
        }
    }
    // First the image: what is there stays until it is.
    let image = tokio::select! {
        image = engine.ensure_image(&spec.image, "", None, |_| {}) => image?,
        () = cancelled(inbox) => return Err(Failed::Cancelled),
    };
    for old in &there {
        if old.state.is_live() {
            refuse(engine, &old.id, spec.stop_grace).await;
            engine.stop(&old.id, spec.stop_grace).await?;
        }
        engine.remove(&old.id).await?;
    }
    let digest = image.digest(&spec.image).to_owned();
    let (mut place, mut looks) = (1, 0);
    let id = loop {
        made.name = container_name(&key.service, &key.component, place);
        let file = ContainerFile {
            version: FILES_VERSION,
            name: made.name.clone(),
            stopping: None,
            digest: digest.clone(),
            epoch: assignment.epoch,
            adopted: None,
        };
        write(hands, &file).await?;
        match engine.create(&made).await {
            Ok(id) => break id,
            // It is being made or removed at this moment.
            Err(error @ Error::NameTaken { .. }) if is_unknown(&error) => {
                looks += 1;
                if looks == LOOKS {
                    // An engine that was killed while it made a container keeps its name for ever.
                    let left = engine.remains(&made.name).await.ok().flatten();
                    let Some(left) = left else {
                        return Err(Problem::Passing(error.to_string()).into());
                    };
                    tracing::info!(container = made.name, "removing what a killed engine left");
                    engine.remove(&left).await?;
                } else if looks > LOOKS {
                    return Err(Problem::Passing(error.to_string()).into());
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(Error::NameTaken { name, holder }) => match &holder.owner {
                Some(owner) if is_ours(hands, Some(owner)) => engine.remove(&holder.id).await?,
                // Another replica, of this node or of one that shares its engine.
                Some(owner)
                    if (&owner.key.service, &owner.key.component)
                        == (&key.service, &key.component)
                        && place < PLACES =>
                {
                    place += 1;
                }
                // The same, as somebody else made it.
                None if is_sibling(hands, &holder.id).await && place < PLACES => place += 1,
                _ => return Err(Error::NameTaken { name, holder }.into()),
            },
            Err(error) => return Err(error.into()),
        }
    };
    match started(hands, engine, assignment, &id).await {
        Ok((container, guard)) => Ok(Started { container, guard, fresh: true }),
        Err(failed) => {
            // What was made for nothing is not left about; if it is, the next start finds it.
            if !matches!(&failed, Failed::Engine(error) if error.is_engine_away())
                && let Err(error) = engine.remove(&id).await
            {
                tracing::debug!(%error, "a container that did not start is left");
            }
            Err(failed)
        }
    }
}

/// Whether somebody made it another one than it was; what was adopted was never one of Weft's.
async fn is_changed(engine: &Engine, one: &Summary, made: &ContainerSpec) -> Result<bool, Error> {
    if one.owner.is_none() {
        return Ok(false);
    }
    let there = match engine.inspect(&one.id).await {
        Ok(there) => there,
        Err(error) if error.is_engine_away() => return Err(error),
        // It is being removed, or cannot be made sense of.
        Err(_) => return Ok(true),
    };
    let differ = differs(&there, made);
    if !differ.is_empty() {
        tracing::warn!(container = one.name, ?differ, "was changed: it is made anew");
    }
    Ok(!differ.is_empty())
}

/// Whether it is the adopted container of another replica of the component.
async fn is_sibling(hands: &Hands, container: &str) -> bool {
    let data_dir = hands.shared.config.data_dir.clone();
    let owned = tokio::task::spawn_blocking(move || adopt::owned(&data_dir)).await;
    owned.is_ok_and(|owned| {
        owned.get(container).is_some_and(|owner| {
            (&owner.service, &owner.component) == (&hands.key.service, &hands.key.component)
        })
    })
}

/// Whether nobody can say who holds the name.
fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::NameTaken { holder, .. } if holder.id.is_empty())
}

/// Starts a container, under its lease if it is fenced.
async fn started(
    hands: &Hands,
    engine: &Engine,
    assignment: &Assignment,
    id: &str,
) -> Result<(Container, Option<Guard>), Failed> {
    let mut guard = if assignment.fenced {
        // Looked at now: nothing is started after it.
        let lease = hands.shared.book.lock().lease(&replica(&hands.key), now_ms());
        let Lease::Until(until) = lease else { return Err(Failed::Lease) };
        Some(Guard::start(hands, id, until).await?)
    } else {
        guard::clear(hands).await;
        None
    };
    let running = async {
        engine.start(id).await?;
        engine.inspect(id).await
    };
    let ended = async {
        match &mut guard {
            Some(guard) => guard.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(running);
    let begun = tokio::select! {
        begun = &mut running => begun,
        // It may just be starting: nothing must be left of it.
        _ = ended => {
            let _ = running.await;
            engine.kill(id, "KILL").await?;
            return Err(Failed::Lease);
        }
    };
    match begun {
        Ok(container)
            if guard.is_some()
                && !container.pid.is_none_or(|pid| crate::shim::is_in_container(pid, id)) =>
        {
            engine.kill(id, "KILL").await?;
            Err(Failed::Problem(Problem::Permanent(UNSEEN.to_owned())))
        }
        Ok(container) => {
            tracing::debug!(component = %hands.key, container = container.name, id, "started");
            guard_network(&container).await;
            Ok((container, guard))
        }
        Err(error) => {
            if let Some(guard) = guard {
                guard.release().await;
            }
            Err(error.into())
        }
    }
}
