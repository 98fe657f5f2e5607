//! Following a container to its end: by its process, by the engine's news, by its lease.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use weft_engine::{
    Container, ContainerState, Ended, Engine, Error, Happened, MemoryCgroup, MemoryWatch,
    refuse_network,
};

use super::{AGAIN, ContainerFile, exit_of, instance, lease_ended, read, write};
use crate::driver::engines::News;
use crate::driver::guard::Guard;
use crate::driver::output::Output;
use crate::driver::{Hands, Order};
use crate::launch::Problem;
use crate::state::{Input, Sight};

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
pub(super) async fn follow(
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
    if container.state == ContainerState::Paused {
        hands.say(Input::Sight(hands.run, frozen(&container)));
    }
    let asked = AtomicBool::new(false);
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
    asked: &AtomicBool,
) -> (Over, bool) {
    let engines = hands.shared.engines.clone();
    let mut news = engines.listen();
    let mut end = ending(engine, &container);
    let mut stopping: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    let mut dim = container.state == ContainerState::Paused;
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
                        asked.store(true, Ordering::Relaxed);
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
                                    kill(hands, engine, &container).await;
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
                kill(hands, engine, &container).await;
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
                        hands.say(Input::Sight(hands.run, frozen(&now)));
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

fn frozen(container: &Container) -> Sight {
    Sight::Frozen(format!("somebody has paused its container {}", container.name))
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
pub(super) async fn kill(hands: &Hands, engine: &Engine, container: &Container) {
    // It may be killed because its time is over: that waits for nothing.
    let refused = refuse_network(container, Duration::ZERO);
    match tokio::join!(refused, engine.kill(&container.id, "KILL")).1 {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%error, component = %hands.key, "a container was not killed"),
    }
}

/// Stops it, however often that takes. That it was asked to is written down first: the daemon may
/// die meanwhile.
async fn stop(hands: Hands, engine: Engine, container: Container, grace: Duration) {
    let file = ContainerFile {
        stopping: Some(instance(&container, &ContainerFile::default()).id),
        name: container.name.clone(),
        ..read(&hands.dir())
    };
    if let Err(Problem::Passing(why) | Problem::Permanent(why)) = write(&hands, &file).await {
        tracing::warn!(error = why, "a container's file cannot be written");
    }
    loop {
        refuse_network(&container, grace).await;
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
