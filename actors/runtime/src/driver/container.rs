//! The driver of containers: makes one ready, starts it, follows it to its end, removes it.
//!
//! Which containers are a component's is said by their labels, which bear this node's id; no other
//! container is ever touched. `container.json` in a component's directory says that there may be
//! one. A container that ended is started again in its place as long as it is made from what is
//! wanted; it is removed when something else takes its place, or the component is forgotten.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};
use weft_engine::{
    Container, ContainerState, Ended, Engine, Error, Happened, MemoryCgroup, MemoryWatch, Owner,
    Summary, container_name, label, ran_out_of_memory,
};
use weft_protocol::Assignment;
use weft_protocol::files::{FILES_VERSION, ShimExit, replica_dir};
use weft_wire::WallTime;

use super::engines::{NO_DRIVER, News};
use super::guard::{self, Guard};
use super::output::Output;
use super::recipe::{self, MADE_FROM};
use super::{Hands, Order};
use crate::boottime::now_ms;
use crate::disk::{Durable, make_dir, read_json, write_json};
use crate::launch::Problem;
use crate::leases::replica;
use crate::shim::LEASE_ENDED;
use crate::state::instance::{Instance, InstanceId};
use crate::state::lease::Lease;
use crate::state::{Finding, Input, Permanence, Sight};

/// Name of the [`ContainerFile`] in a component's directory.
const FILE: &str = "container.json";
/// Between attempts at something the engine did not do.
const AGAIN: Duration = Duration::from_millis(500);
/// Looks at who holds a name, before it is left for a later attempt.
const LOOKS: u32 = 10;
/// Of a fenced container whose processes are hidden from this node.
const UNSEEN: &str = "on_partition = \"stop\": the container's processes cannot be told by their cgroup from here, so nobody could end it with its lease: run weftd beside the engine, not in a container of its own, or write \"keep\"";
/// So many replicas of one component on one node have names of their own.
const PLACES: u32 = 1000;

/// `container.json`: that this component has, or may have, a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ContainerFile {
    /// [`FILES_VERSION`] of the writer.
    version: u16,
    /// Its name.
    name: String,
    /// The run of it that this node has stopped, or was about to.
    #[serde(default)]
    stopping: Option<InstanceId>,
    /// What the image's name meant when it was made.
    #[serde(default)]
    digest: String,
}

/// Whether a component may have a container.
pub(crate) fn may_be(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

fn read(dir: &Path) -> ContainerFile {
    read_json(&dir.join(FILE)).ok().flatten().unwrap_or_default()
}

async fn write(hands: &Hands, file: &ContainerFile) -> Result<(), Problem> {
    let (dir, file) = (hands.dir(), file.clone());
    let written = tokio::task::spawn_blocking(move || {
        make_dir(&dir, 0o700)?;
        write_json(&dir.join(FILE), &file, Durable::No)
    });
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Problem::Passing(format!("{FILE}: {error}"))),
        Err(error) => Err(Problem::Passing(error.to_string())),
    }
}

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

/// As the shim of a process says it.
fn lease_ended(at: WallTime) -> ShimExit {
    ShimExit {
        status: LEASE_ENDED.to_owned(),
        code: None,
        signal: None,
        failed_to_start: false,
        requested: false,
        lease_ended: true,
        at,
    }
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

fn permanence(error: &Error) -> Permanence {
    if error.is_passing() { Permanence::Passing } else { Permanence::Permanent }
}

/// The filter that finds a component's containers.
fn labels(hands: &Hands) -> Vec<String> {
    let key = &hands.key;
    vec![
        Owner::of_node(&hands.shared.config.node_id),
        format!("{}={}", label::SERVICE, key.service),
        format!("{}={}", label::REPLICA, key.replica),
        format!("{}={}", label::COMPONENT, key.component),
    ]
}

/// A component's containers. Engines filter by themselves; it is checked all the same, because
/// what is not ours is not touched.
async fn ours(hands: &Hands, engine: &Engine) -> Result<Vec<Summary>, Error> {
    let mut all = engine.list(&labels(hands)).await?;
    all.retain(|one| is_ours(hands, one.owner.as_ref()));
    Ok(all)
}

fn is_ours(hands: &Hands, owner: Option<&Owner>) -> bool {
    owner.is_some_and(|owner| owner.node == hands.shared.config.node_id && owner.key == hands.key)
}

fn instance(container: &Container, digest: &str) -> Instance {
    let owner = container.owner.as_ref();
    let started_at = container.started_at.unwrap_or_default();
    Instance {
        id: InstanceId::Container { container: container.id.clone(), started_at },
        pid: container.pid.unwrap_or(0),
        spec_hash: owner.map_or_else(String::new, |owner| owner.spec_hash.clone()),
        epoch: owner.map_or(0, |owner| owner.epoch),
        revision: owner.map_or(0, |owner| owner.revision),
        generation: owner.map_or(0, |owner| owner.generation),
        started_at,
        ports: owner.map_or_else(Vec::new, |owner| owner.ports.clone()),
        lease: None,
        exit: None,
        image: container.image.clone(),
        digest: if digest.is_empty() { container.image_id.clone() } else { digest.to_owned() },
    }
}

/// `exit 1`, `exit 137 (signal 9)`, with the reason if it is known.
fn exit_of(ended: &Ended, requested: bool, kills: u64, now: WallTime) -> ShimExit {
    let code = i32::try_from(ended.code).unwrap_or(-1);
    let signal = (129..=192).contains(&code).then(|| code - 128);
    let mut status = match signal {
        Some(signal) => format!("exit {code} (signal {signal})"),
        None => format!("exit {code}"),
    };
    if ran_out_of_memory(ended.code, ended.oom_flag, kills) && !requested {
        status = format!("out of memory: {status}");
    } else if !ended.error.is_empty() {
        status = format!("{status}: {}", ended.error);
    }
    ShimExit {
        status,
        code: Some(code),
        signal,
        failed_to_start: false,
        requested,
        lease_ended: false,
        at: ended.at.unwrap_or(now),
    }
}

/// Gets ready what a start of this assignment needs: the engine answers, and has the image.
/// Nothing that runs is touched.
pub(crate) async fn prepare(
    hands: &Hands,
    assignment: &Assignment,
) -> Result<(), (String, Permanence)> {
    let config = &hands.shared.config;
    let key = &hands.key;
    if let Some(problem) = recipe::problem(config, &assignment.spec, &key.service, key.replica) {
        return Err((problem, Permanence::Permanent));
    }
    let engine = hands.shared.engines.engine().await.map_err(|why| (why, Permanence::Passing))?;
    match engine.ensure_image(&assignment.spec.image, "", None, |_| {}).await {
        Ok(_) => Ok(()),
        Err(error) => {
            if error.is_engine_away() {
                hands.shared.engines.failed(&error);
            }
            Err((error.to_string(), permanence(&error)))
        }
    }
}

/// Looks for a component's container when its actor begins, and follows it if it runs. `other`:
/// what was found of a process.
pub(crate) async fn take_over(hands: Hands, other: Finding, mut inbox: mpsc::Receiver<Order>) {
    let engines = hands.shared.engines.clone();
    if engines.are_none() {
        return hands.say(Input::Found(other));
    }
    let (engine, found) = loop {
        let engine = engines.wait(|why| hands.say(Input::Waits(0, why))).await;
        match look(&hands, &engine).await {
            Ok(found) => break (engine, found),
            Err(error) => {
                if error.is_engine_away() {
                    engines.failed(&error);
                }
                hands.say(Input::Waits(0, error.to_string()));
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let Some(container) = found else { return hands.say(Input::Found(other)) };
    let file = read(&hands.dir());
    let mut what = instance(&container, &file.digest);
    if container.state.is_live() {
        if let Err(Problem::Passing(why) | Problem::Permanent(why)) =
            write(&hands, &ContainerFile { name: container.name.clone(), stopping: None, ..file })
                .await
        {
            tracing::warn!(error = why, "a container's file cannot be written");
        }
        let guard = Guard::find(&hands).await;
        what.lease = guard.as_ref().and_then(|guard| guard.until);
        if guard.is_none() && guard::was_fenced(&hands) {
            // Nobody would end it: it goes, as a process goes with its shim.
            kill(&hands, &engine, &container.id).await;
            let why = "the watcher of its lease was gone".to_owned();
            hands.say(Input::Found(Finding::Lost(what, why)));
            return idle(&Hands { run: 0, ..hands }, inbox).await;
        }
        hands.say(Input::Found(Finding::Running(what)));
        follow(&hands, engine, container, guard, &mut inbox, false).await;
        return idle(&hands, inbox).await;
    }
    match &container.ended {
        Some(ended) => {
            // What it said while nobody listened.
            Output::start(&hands.shared, &hands.key, &engine, &container, false).finish().await;
            let requested = file.stopping.as_ref() == Some(&what.id);
            let exit = exit_of(ended, requested, 0, hands.scope.wall());
            let lease = guard::lease_end(&hands).filter(|end| end.at >= what.started_at);
            what.exit = Some(match lease {
                Some(_) => lease_ended(exit.at),
                None => exit,
            });
            hands.say(Input::Found(Finding::Exited(what)));
        }
        // Made and never started.
        None => hands.say(Input::Found(other)),
    }
    // The first run of a machine is one that it takes over or sees to the end of; here there is
    // none yet.
    idle(&Hands { run: 0, ..hands }, inbox).await;
}

/// Nothing runs, until the next run begins: notices when somebody else starts the container, and
/// follows it then, or removes it.
async fn idle(hands: &Hands, mut inbox: mpsc::Receiver<Order>) {
    let engines = hands.shared.engines.clone();
    let name = read(&hands.dir()).name;
    let mut news = engines.listen();
    loop {
        let look = tokio::select! {
            order = inbox.recv() => match order {
                Some(_) => false,
                // The next run has begun, or the component is no more.
                None => return,
            },
            heard = news.recv() => match heard {
                Ok(News::Fact(fact)) => {
                    fact.name == name && matches!(fact.what, Happened::Started | Happened::Removed)
                }
                Ok(News::Everything(all)) => {
                    let own = all.iter().find(|one| is_ours(hands, one.owner.as_ref()));
                    own.is_none_or(|one| one.state.is_live())
                }
                Ok(News::Away(_)) => false,
                Err(broadcast::error::RecvError::Lagged(_)) => true,
                Err(broadcast::error::RecvError::Closed) => return,
            },
        };
        if !look {
            continue;
        }
        let Ok(engine) = engines.engine().await else { continue };
        match look_at(hands, &engine, &mut inbox).await {
            Some(Some(container)) => {
                let digest = read(&hands.dir()).digest;
                hands.say(Input::Surfaced(hands.run, instance(&container, &digest)));
                let guard = Guard::find(hands).await;
                follow(hands, engine, container, guard, &mut inbox, false).await;
            }
            Some(None) => hands.say(Input::Vanished(hands.run)),
            None => {}
        }
    }
}

/// What somebody has done to it: `Some(Some)`: it runs, `Some(None)`: it is gone. `None`: nothing,
/// or this node has begun a run meanwhile.
async fn look_at(
    hands: &Hands,
    engine: &Engine,
    inbox: &mut mpsc::Receiver<Order>,
) -> Option<Option<Container>> {
    let found = look(hands, engine).await.ok()?;
    if matches!(inbox.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)) {
        return None;
    }
    match found {
        Some(container) if container.state.is_live() => Some(Some(container)),
        Some(_) => None,
        None => Some(None),
    }
}

/// The component's container: the one that runs, else the one that ended last.
async fn look(hands: &Hands, engine: &Engine) -> Result<Option<Container>, Error> {
    let mut best: Option<Container> = None;
    for one in ours(hands, engine).await? {
        let container = match engine.inspect(&one.id).await {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        let rank = |c: &Container| (c.state.is_live(), c.started_at);
        if best.as_ref().is_none_or(|best| rank(best) < rank(&container)) {
            best = Some(container);
        }
    }
    Ok(best)
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
    let mut what = instance(&container, &read(&hands.dir()).digest);
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
    let made_home = home.clone();
    let (ports, peers) = tokio::task::spawn_blocking(move || {
        for dir in std::iter::once(&made_home).chain(&dirs) {
            make_dir(dir, 0o755)
                .map_err(|error| Problem::Passing(format!("{}: {error}", dir.display())))?;
        }
        let ports = prepared.ports_for(&own, &wanted, wall)?;
        Ok::<_, Problem>((ports, prepared.peers_of(&own)))
    })
    .await
    .map_err(|error| Problem::Passing(error.to_string()))??;
    let mut made = recipe::container(&shared.config, assignment, &ports, &peers, &home, "name");
    let from = made.labels.get(MADE_FROM).cloned();
    let there = ours(hands, engine).await?;
    let same = there.iter().find(|one| one.labels.get(MADE_FROM) == from.as_ref());
    if let Some(same) = same {
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
                    digest: before.digest,
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
        };
        write(hands, &file).await?;
        match engine.create(&made).await {
            Ok(id) => break id,
            // It is being made or removed at this moment.
            Err(error @ Error::NameTaken { .. }) if is_unknown(&error) => {
                looks += 1;
                if looks == LOOKS {
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

/// What came of a container.
enum Over {
    Ended(Ended),
    Gone,
}

type Ending = Pin<Box<dyn Future<Output = Result<Ended, Error>> + Send>>;

fn ending(engine: &Engine, container: &Container) -> Ending {
    let (engine, container) = (engine.clone(), container.clone());
    Box::pin(async move { engine.ended(&container).await })
}

/// Follows a container to its end, and says what came of it. `fresh`: it has said nothing before.
async fn follow(
    hands: &Hands,
    engine: Engine,
    container: Container,
    mut guard: Option<Guard>,
    inbox: &mut mpsc::Receiver<Order>,
    fresh: bool,
) {
    let memory = container.pid.and_then(MemoryCgroup::of).and_then(|g| MemoryWatch::start(g).ok());
    let killed_before = memory.as_ref().map_or(0, MemoryWatch::kills);
    let output = Output::start(&hands.shared, &hands.key, &engine, &container, fresh);
    let asked = std::sync::atomic::AtomicBool::new(false);
    let (over, lease_over) = watch(hands, &engine, container, &mut guard, inbox, &asked).await;
    let lease_over = match guard {
        Some(guard) => guard.release().await,
        None => lease_over,
    };
    output.finish().await;
    let asked = asked.into_inner();
    hands.say(match over {
        Over::Ended(ended) if lease_over => {
            let at = ended.at.unwrap_or_else(|| hands.scope.wall());
            Input::Exited(hands.run, lease_ended(at))
        }
        Over::Ended(ended) => {
            let kills = memory.map_or(0, |memory| memory.kills()).saturating_sub(killed_before);
            Input::Exited(hands.run, exit_of(&ended, asked, kills, hands.scope.wall()))
        }
        Over::Gone => Input::Gone(hands.run),
    });
}

async fn watch(
    hands: &Hands,
    engine: &Engine,
    mut container: Container,
    guard: &mut Option<Guard>,
    inbox: &mut mpsc::Receiver<Order>,
    asked: &std::sync::atomic::AtomicBool,
) -> (Over, bool) {
    let engines = hands.shared.engines.clone();
    let mut news = engines.listen();
    let mut end = ending(engine, &container);
    let mut stopping: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    let mut dim = false;
    let mut open = true;
    let mut lease_over = false;
    loop {
        let look = tokio::select! {
            ended = &mut end => match ended {
                Ok(ended) => return (Over::Ended(ended), lease_over),
                Err(Error::NotFound { .. }) => return (Over::Gone, lease_over),
                Err(error) => {
                    // Its process may have ended; who could tell how does not answer.
                    hands.say(Input::Sight(hands.run, Sight::Blind(error.to_string())));
                    dim = true;
                    engines.failed(&error);
                    tokio::time::sleep(AGAIN).await;
                    engines.wait(|_| {}).await;
                    true
                }
            },
            order = inbox.recv(), if open => {
                match order {
                    Some(Order::Stop { grace_ms }) if stopping.is_none() => {
                        asked.store(true, std::sync::atomic::Ordering::Relaxed);
                        let grace = Duration::from_millis(grace_ms);
                        stopping = Some(Box::pin(stop(hands.clone(), engine.clone(), container.clone(), grace)));
                    }
                    Some(Order::Lease { until_ms }) => match (&*guard, until_ms) {
                        (Some(guard), _) => guard.lease(until_ms),
                        // It is fenced from now on.
                        (None, Some(until)) => {
                            match Guard::start(hands, &container.id, until).await {
                                Ok(started) => *guard = Some(started),
                                Err(Problem::Passing(why) | Problem::Permanent(why)) => {
                                    tracing::error!(error = why, component = %hands.key, "it has a lease that nobody watches: stopped");
                                    kill(hands, engine, &container.id).await;
                                }
                            }
                        }
                        (None, None) => {}
                    },
                    Some(_) => {}
                    None => open = false,
                }
                false
            },
            () = wait(&mut stopping) => {
                stopping = None;
                false
            }
            by_lease = guard_end(guard) => {
                *guard = None;
                lease_over |= by_lease;
                // It has been killed; or its guard was, and it goes as a process with its shim.
                kill(hands, engine, &container.id).await;
                false
            }
            heard = news.recv() => match heard {
                Ok(News::Away(why)) => {
                    dim = true;
                    hands.say(Input::Sight(hands.run, match container.pid {
                        Some(_) => Sight::Dim(format!("it runs, but {why}")),
                        None => Sight::Blind(why),
                    }));
                    false
                }
                Ok(News::Everything(all)) => {
                    dim || !all.iter().any(|one| {
                        one.id == container.id && one.state == ContainerState::Running
                    })
                }
                Ok(News::Fact(fact)) => {
                    fact.id == container.id && matters(&fact.what)
                }
                Err(broadcast::error::RecvError::Lagged(_)) => true,
                Err(broadcast::error::RecvError::Closed) => false,
            },
        };
        if !look {
            continue;
        }
        match engine.inspect(&container.id).await {
            Ok(now) => {
                if let Some(ended) = now.ended {
                    return (Over::Ended(ended), lease_over);
                }
                match now.state {
                    ContainerState::Paused => {
                        dim = true;
                        let text = format!("somebody has paused its container {}", now.name);
                        hands.say(Input::Sight(hands.run, Sight::Dim(text)));
                    }
                    _ if std::mem::take(&mut dim) => {
                        hands.say(Input::Sight(hands.run, Sight::Clear));
                    }
                    _ => {}
                }
                if now.pid != container.pid || now.started_at == container.started_at {
                    container = now;
                    end = ending(engine, &container);
                }
            }
            Err(Error::NotFound { .. }) => return (Over::Gone, lease_over),
            Err(error) => {
                tracing::debug!(%error, "a container cannot be looked at");
                if error.is_engine_away() {
                    engines.failed(&error);
                }
                dim = true;
            }
        }
    }
}

fn matters(what: &Happened) -> bool {
    matches!(
        what,
        Happened::Died(_)
            | Happened::Stopped
            | Happened::Removed
            | Happened::Paused
            | Happened::Unpaused
    )
}

async fn wait(stopping: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match stopping {
        Some(stopping) => stopping.await,
        None => std::future::pending().await,
    }
}

async fn guard_end(guard: &mut Option<Guard>) -> bool {
    match guard {
        Some(guard) => guard.ended().await,
        None => std::future::pending().await,
    }
}

/// Kills what runs of it; if the engine does not answer, that is tried no longer than it takes to
/// hear so.
async fn kill(hands: &Hands, engine: &Engine, id: &str) {
    match engine.kill(id, "KILL").await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%error, component = %hands.key, "a container was not killed"),
    }
}

/// Stops it, however often that takes. That it was asked to is written down first: the daemon may
/// die meanwhile.
async fn stop(hands: Hands, engine: Engine, container: Container, grace: Duration) {
    let file = ContainerFile {
        stopping: Some(instance(&container, "").id),
        name: container.name.clone(),
        ..read(&hands.dir())
    };
    if let Err(Problem::Passing(why) | Problem::Permanent(why)) = write(&hands, &file).await {
        tracing::warn!(error = why, "a container's file cannot be written");
    }
    loop {
        match engine.stop(&container.id, grace).await {
            Ok(()) | Err(Error::NotFound { .. }) => return,
            Err(error) => {
                tracing::warn!(%error, component = %hands.key, "a container was not stopped");
                if error.is_engine_away() {
                    hands.shared.engines.failed(&error);
                }
                tokio::time::sleep(AGAIN).await;
                hands.shared.engines.wait(|_| {}).await;
            }
        }
    }
}

/// Removes a component's containers, killing what runs of them; returns when there are none.
pub(crate) async fn remove(hands: &Hands) {
    let engines = hands.shared.engines.clone();
    if engines.are_none() {
        tracing::warn!(component = %hands.key, "its container, if there is one, is left: {NO_DRIVER}");
        return;
    }
    loop {
        let engine = engines.wait(|_| {}).await;
        let removed = async {
            for one in ours(hands, &engine).await? {
                engine.remove(&one.id).await?;
            }
            Ok::<_, Error>(())
        };
        match removed.await {
            Ok(()) => break,
            Err(error) => {
                tracing::warn!(%error, component = %hands.key, "a container was not removed");
                if error.is_engine_away() {
                    engines.failed(&error);
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    guard::clear(hands).await;
    let file = hands.dir().join(FILE);
    if let Err(error) = tokio::fs::remove_file(&file).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %file.display(), %error, "cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_its_code_its_signal_and_whether_memory_was_the_cause() {
        let ended = |code, oom_flag| Ended { code, oom_flag, at: None, error: String::new() };
        let now = WallTime::from_micros(5);
        let text =
            |code, oom, requested, kills| exit_of(&ended(code, oom), requested, kills, now).status;
        assert_eq!(text(0, false, false, 0), "exit 0");
        assert_eq!(text(3, false, false, 0), "exit 3");
        assert_eq!(text(137, false, true, 0), "exit 137 (signal 9)");
        assert_eq!(text(137, false, false, 1), "out of memory: exit 137 (signal 9)");
        assert_eq!(text(137, false, true, 1), "exit 137 (signal 9)", "its grace was over");
        let exit = exit_of(&ended(143, false), true, 0, now);
        assert_eq!(
            (exit.code, exit.signal, exit.at, exit.requested),
            (Some(143), Some(15), now, true)
        );
    }
}
