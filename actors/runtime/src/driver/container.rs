//! The driver of containers: makes one ready, starts it, follows it to its end, removes it.
//!
//! Which containers are a component's is said by their labels, which bear this node's id, or, of one
//! that was adopted, by its id in `container.json`; no other container is ever touched. That file in a component's directory says that there may be
//! one. A container that ended is started again in its place as long as it is made from what is
//! wanted; it is removed when something else takes its place, or the component is forgotten.

mod adopted;
mod differs;
mod follow;
mod start;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};
use weft_engine::{
    Container, Ended, Engine, Error, Happened, Owner, Summary, guard_network, label,
    ran_out_of_memory, refuse_network,
};
use weft_protocol::Assignment;
use weft_protocol::files::ShimExit;
use weft_wire::WallTime;

pub(crate) use self::adopted::{Adopted, adopted, let_go, note_adopted};
pub(crate) use self::differs::differs;
use self::follow::{follow, kill};
pub(crate) use self::start::run;
use super::engines::{NO_DRIVER, News};
use super::guard::{self, Guard};
use super::output::Output;
use super::recipe;
use super::{Hands, Order};
use crate::disk::{Durable, make_dir, read_json, write_json};
use crate::launch::Problem;
use crate::shim::LEASE_ENDED;
use crate::state::instance::{Instance, InstanceId};
use crate::state::{Finding, Input, Permanence};

/// Name of the [`ContainerFile`] in a component's directory.
const FILE: &str = "container.json";
/// Between attempts at something the engine did not do.
const AGAIN: Duration = Duration::from_millis(500);
/// A container that has ended is looked at once more, so long after its end.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// `container.json`: that this component has, or may have, a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ContainerFile {
    /// [`FILES_VERSION`](weft_protocol::files::FILES_VERSION) of the writer.
    version: u16,
    /// Its name.
    name: String,
    /// The run of it that this node has stopped, or was about to.
    #[serde(default)]
    stopping: Option<InstanceId>,
    /// What the image's name meant when it was made.
    #[serde(default)]
    digest: String,
    /// Epoch that it was last started for; its label has that it was made for.
    #[serde(default)]
    epoch: u64,
    /// It bears no labels: somebody else made it.
    #[serde(default)]
    adopted: Option<Adopted>,
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
    if let Some(adopted) = read(&hands.dir()).adopted.filter(|adopted| adopted.taken) {
        let everything = engine.list(&[]).await?;
        all.extend(everything.into_iter().filter(|one| adopted.is(one)));
    }
    Ok(all)
}

/// Has new connections to a container refused, if it runs: it is about to be stopped, with `grace`.
pub(crate) async fn refuse(engine: &Engine, id: &str, grace: Duration) {
    if let Ok(container) = engine.inspect(id).await {
        refuse_network(&container, grace).await;
    }
}

fn is_ours(hands: &Hands, owner: Option<&Owner>) -> bool {
    owner.is_some_and(|owner| owner.node == hands.shared.config.node_id && owner.key == hands.key)
}

/// The run of a container, by its labels, or by `file` if it was adopted.
fn instance(container: &Container, file: &ContainerFile) -> Instance {
    let owner = container.owner.as_ref();
    let adopted = file.adopted.as_ref().filter(|adopted| adopted.id == container.id);
    let digest = &file.digest;
    let started_at = container.started_at.unwrap_or_default();
    Instance {
        id: InstanceId::Container { container: container.id.clone(), started_at },
        pid: container.pid.unwrap_or(0),
        spec_hash: match (owner, adopted) {
            (Some(owner), _) => owner.spec_hash.clone(),
            (None, Some(adopted)) => adopted.spec_hash.clone(),
            (None, None) => String::new(),
        },
        epoch: match (owner, adopted) {
            (Some(owner), _) => owner.epoch.max(file.epoch),
            (None, adopted) => adopted.map_or(0, |adopted| adopted.epoch.max(file.epoch)),
        },
        revision: owner.map_or(0, |owner| owner.revision),
        generation: owner.map_or(0, |owner| owner.generation),
        started_at,
        ports: owner.map_or_else(Vec::new, |owner| owner.ports.clone()),
        lease: None,
        exit: None,
        image: container.image.clone(),
        digest: if digest.is_empty() { container.image_id.clone() } else { digest.clone() },
        limits: String::new(),
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
    // A restart in place needs no image; what cannot be listed is looked at again by the start.
    let adopted = read(&hands.dir()).adopted.is_some_and(|adopted| adopted.is_of(assignment));
    let is_same = |owner: &Owner| {
        owner.spec_hash == assignment.spec_hash
            && (assignment.made..=assignment.epoch).contains(&owner.epoch)
    };
    let there = ours(hands, &engine).await.unwrap_or_default();
    if there.iter().any(|one| one.owner.as_ref().map_or(adopted, is_same)) {
        return Ok(());
    }
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
/// what was found of a process. `wanted`: a container is what it is assigned as.
pub(crate) async fn take_over(
    hands: Hands,
    other: Finding,
    wanted: bool,
    mut inbox: mpsc::Receiver<Order>,
) {
    if wanted {
        adopted::take(&hands).await;
    }
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
    let mut what = instance(&container, &file);
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
            kill(&hands, &engine, &container).await;
            let why = "the watcher of its lease was gone".to_owned();
            hands.say(Input::Found(Finding::Lost(what, why)));
            return idle(&Hands { run: 0, ..hands }, inbox).await;
        }
        guard_network(&container).await;
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
    // What somebody did before this listened. Most times the next run has begun by then.
    let first = tokio::time::sleep(FIRST_LOOK);
    tokio::pin!(first);
    let mut looked = false;
    loop {
        let look = tokio::select! {
            () = &mut first, if !looked => {
                looked = true;
                true
            }
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
                guard_network(&container).await;
                let file = read(&hands.dir());
                hands.say(Input::Surfaced(hands.run, instance(&container, &file)));
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
                if one.state.is_live() {
                    refuse(&engine, &one.id, Duration::ZERO).await;
                }
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
