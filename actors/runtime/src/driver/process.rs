//! The driver of processes: prepares a start, launches a shim, follows it to its end.

use tokio::sync::mpsc;
use weft_protocol::Assignment;
use weft_protocol::files::{ShimFile, component_dir};
use weft_supervision::Scope;

use super::{Found, Hands, Order};
use crate::blobs::place::place;
use crate::boottime::now_ms;
use crate::component::ComponentActor;
use crate::launch::{Problem, prepare};
use crate::leases::replica;
use crate::link::{self, Ending, Fate, Launched, Link, Looked, REPORT_LIMIT};
use crate::state::lease::Lease;
use crate::state::{Finding, Input, Permanence};

/// Looks for a live shim, and follows it to its end if there is one; else what was found.
pub(crate) async fn take_over(hands: &Hands, mut inbox: mpsc::Receiver<Order>) -> Option<Found> {
    let dir = hands.dir();
    let (looked, link) = link::look(&dir).await;
    let Some(mut link) = link else { return Some((looked.into(), inbox)) };
    let process = match &looked {
        Looked::Running(file) => Some(file.shim.clone()),
        _ => None,
    };
    // The first run of a machine is the one it takes over.
    let (run, shim, finding) = (hands.run, process.clone(), Finding::from(looked));
    hands.scope.post(move |actor, scope| {
        actor.launched(0, shim);
        actor.input(scope, Input::Found(finding));
    });
    let ending = link::follow(&mut link, &mut inbox, |_| {}).await;
    hands.say(match ending {
        Ending::Exited(exit) => Input::Exited(run, exit),
        Ending::HungUp => match link::fate(&dir, process.as_ref(), None).await {
            Fate::Exited(exit) => Input::Exited(run, exit),
            Fate::Locked | Fate::NotStarted(_) => Input::Lost(run, "its shim hung up".into()),
            Fate::Lost(why) => Input::Lost(run, why),
        },
    });
    None
}

impl From<Looked> for Finding {
    fn from(looked: Looked) -> Self {
        match looked {
            Looked::Nothing => Self::Nothing,
            Looked::Running(file) => Self::Running(file.into()),
            Looked::Exited(file) => Self::Exited(file.into()),
            Looked::Lost(file) => {
                let why = format!("its shim, pid {}, was gone", file.shim.pid);
                Self::Lost(file.into(), why)
            }
        }
    }
}

/// One run: prepares, starts a shim and follows it to its end.
pub(crate) async fn run(hands: Hands, assignment: Assignment, mut inbox: mpsc::Receiver<Order>) {
    let say = |input: Input| hands.say(input);
    let Hands { shared, key, scope, run } = &hands;
    let run = *run;
    let config = shared.config.clone();
    let dir = component_dir(&config.data_dir, key);
    let wall = scope.wall();
    if let Err(why) = super::fetched(&hands, &assignment, &mut inbox).await {
        return say(Input::StartFailed(run, why, Permanence::Passing));
    }
    let prepared = {
        let (shared, key) = (shared.clone(), key.clone());
        tokio::task::spawn_blocking(move || {
            let ports = shared.ports_for(&key, &assignment.spec, wall)?;
            let peers = shared.peers_of(&key);
            // Looked at now: the shim starts nothing after it.
            let lease = match shared.book.lock().lease(&replica(&key), now_ms()) {
                _ if !assignment.fenced => None,
                Lease::Until(until) => Some(until),
                Lease::Waits(_) => Some(0),
            };
            place(&shared, &key, &assignment.files)?;
            prepare(&shared.config, &key, &assignment, ports, peers, lease, shared.limiter())
        })
        .await
    };
    let spec = match prepared {
        Ok(Ok(spec)) => spec,
        Ok(Err(Problem::Permanent(text))) => {
            return say(Input::StartFailed(run, text, Permanence::Permanent));
        }
        Ok(Err(Problem::Passing(text))) => {
            return say(Input::StartFailed(run, text, Permanence::Passing));
        }
        Err(error) => {
            return say(Input::StartFailed(run, error.to_string(), Permanence::Passing));
        }
    };
    if !scope.epoch().is_current() {
        return;
    }
    let launched = link::launch(&config.shim_program, &spec);
    let Launched { mut link, mut process, code } = match launched {
        Ok(launched) => launched,
        Err(error) => {
            let text = format!("cannot start {}: {error}", config.shim_program.display());
            return say(Input::StartFailed(run, text, Permanence::Passing));
        }
    };
    let shim = process.clone();
    scope.post(move |actor, _| actor.launched(run, shim));
    let mut code = Some(code);
    // At most one more time around: when another shim turned out to hold the lock.
    loop {
        let reported = std::sync::atomic::AtomicBool::new(false);
        let started = |file: ShimFile| {
            reported.store(true, std::sync::atomic::Ordering::Relaxed);
            say(Input::Started(run, file.into()));
        };
        let ending = {
            let follow = link::follow(&mut link, &mut inbox, started);
            tokio::pin!(follow);
            tokio::select! {
                ending = &mut follow => Some(ending),
                () = silence(&reported) => None,
            }
        };
        let fate = match ending {
            None => Fate::Lost(format!("its shim said nothing for {REPORT_LIMIT:?}")),
            Some(Ending::Exited(exit)) => Fate::Exited(exit),
            Some(Ending::HungUp) => link::fate(&dir, process.as_ref(), code.take()).await,
        };
        match fate {
            Fate::Exited(exit) => return say(Input::Exited(run, exit)),
            Fate::NotStarted(text) => {
                return say(Input::StartFailed(run, text, Permanence::Passing));
            }
            Fate::Lost(why) => return say(Input::Lost(run, why)),
            Fate::Locked => {}
        }
        // Started by a daemon that died before it could know, or a moment ago by an earlier
        // incarnation of this actor: it is the one to go on with.
        match adopt(&dir, scope, run).await {
            Some((found, file)) => {
                process = Some(file.shim.clone());
                link = found;
                say(Input::Started(run, file.into()));
            }
            None => return,
        }
    }
}

/// Connects to the shim that holds the lock, or says what is the matter.
async fn adopt(
    dir: &std::path::Path,
    scope: &Scope<ComponentActor>,
    run: u64,
) -> Option<(Link, ShimFile)> {
    let (finding, link) = link::look(dir).await;
    let input = match (finding, link) {
        (Looked::Running(file), Some(link)) => {
            let shim = file.shim.clone();
            scope.post(move |actor, _| actor.launched(run, Some(shim)));
            return Some((link, file));
        }
        (Looked::Exited(file), _) if file.exit.is_some() => {
            file.exit.map(|exit| Input::Exited(run, exit))
        }
        (Looked::Lost(file), _) => {
            Some(Input::Lost(run, format!("its shim, pid {}, was gone", file.shim.pid)))
        }
        _ => None,
    };
    let text = "another shim held the lock and is gone".to_owned();
    let input = input.unwrap_or(Input::StartFailed(run, text, Permanence::Passing));
    scope.post(move |actor, scope| actor.input(scope, input));
    None
}

/// Ends when a shim has reported nothing for [`REPORT_LIMIT`]; never, once it has.
async fn silence(reported: &std::sync::atomic::AtomicBool) {
    tokio::time::sleep(REPORT_LIMIT).await;
    if reported.load(std::sync::atomic::Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
