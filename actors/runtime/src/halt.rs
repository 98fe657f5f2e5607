//! Stopping every component of a data directory without actors: for a node that was removed from
//! its cluster. Its tree has been stopped, or was never built, and the shims go on without it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use weft_engine::{Engine, Found, Owner, Search, Summary};
use weft_protocol::ComponentKey;
use weft_protocol::files::{ShimFile, component_dir};

use crate::actor::{ASSIGNMENTS_FILE, Assignments, scan};
use crate::disk::read_json;
use crate::driver::container;
use crate::link::{self, Link, Looked};
use crate::shim::{SHIM_PROTOCOL, ShimEvent, ToShim};
use crate::state::STOP_SLACK;

/// For a component of which nobody knows any more what it was given.
const GRACE: Duration = Duration::from_secs(10);
/// A directory that cannot be looked at for so long is left as it is.
const LOOK_WITHIN: Duration = Duration::from_secs(15);
/// A shim may have been about to start when the last look came by.
const PASSES: u32 = 3;

/// An engine that does not answer so soon is not waited for.
const ENGINE_WITHIN: Duration = Duration::from_secs(30);
/// A container has so long to end by itself when its cluster is taken down.
const DOWN_GRACE: Duration = Duration::from_secs(1);

/// A component that runs.
struct Running {
    what: What,
    grace: Duration,
}

enum What {
    Process(Box<ShimFile>, Link),
    Container(Engine, String),
}

/// The containers of a node: how to look for its engine, and its id.
#[derive(Debug, Clone, Copy)]
pub struct Boxes<'a> {
    /// How to look.
    pub search: &'a Search,
    /// The label's value.
    pub node: &'a str,
}

impl Boxes<'_> {
    /// The engine, if there is one and it answers in time.
    async fn find(&self) -> Option<Found> {
        match tokio::time::timeout(ENGINE_WITHIN, weft_engine::find(self.search)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                tracing::error!(%error, "this node's containers are left as they are");
                None
            }
            Err(_) => {
                tracing::error!("no engine within {ENGINE_WITHIN:?}: containers are left");
                None
            }
        }
    }

    async fn all(&self, engine: &Engine) -> Vec<Summary> {
        match engine.list(&[Owner::of_node(self.node)]).await {
            Ok(all) => all
                .into_iter()
                .filter(|one| one.owner.as_ref().is_some_and(|owner| owner.node == self.node))
                .collect(),
            Err(error) => {
                tracing::error!(%error, "this node's containers cannot be listed");
                Vec::new()
            }
        }
    }
}

/// Removes every container that bears a node's label, at once; how many. For `weft down`.
pub async fn remove_containers(boxes: Boxes<'_>) -> usize {
    let Some(found) = boxes.find().await else { return 0 };
    let mut removed = 0;
    for one in boxes.all(&found.engine).await {
        let gone = async {
            container::refuse(&found.engine, &one.id, DOWN_GRACE).await;
            found.engine.stop(&one.id, DOWN_GRACE).await?;
            found.engine.remove(&one.id).await
        };
        match gone.await {
            Ok(()) => removed += 1,
            Err(error) => tracing::error!(%error, container = one.name, "not removed"),
        }
    }
    if let Some(service) = found.service {
        service.end().await;
    }
    removed
}

/// Which services each service needs, by name; those not named need nothing.
pub type Needs = BTreeMap<String, Vec<String>>;

/// Stops every component that runs from `data_dir`, each with its grace, then SIGKILL; a service
/// that needs others goes before them. Answers how many were stopped; data directories, logs and
/// state files stay. Takes as long as the longest chain of graces.
pub async fn stop_components(data_dir: &Path, needs: &Needs, boxes: Option<Boxes<'_>>) -> usize {
    let path = data_dir.join(ASSIGNMENTS_FILE);
    let graces: BTreeMap<ComponentKey, Duration> = match read_json::<Assignments>(&path) {
        Ok(stored) => stored
            .unwrap_or_default()
            .assignments
            .into_iter()
            .map(|assignment| (assignment.key, assignment.spec.stop_grace))
            .collect(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot be read: {GRACE:?} for each");
            BTreeMap::new()
        }
    };
    let mut stopped = 0;
    // An engine is asked for only where there may be containers.
    let boxed = scan(data_dir).iter().any(|key| container::may_be(&component_dir(data_dir, key)));
    let found = match boxes.filter(|_| boxed) {
        Some(boxes) => boxes.find().await,
        None => None,
    };
    for _ in 0..PASSES {
        let mut running = look(data_dir, &graces).await;
        if let (Some(boxes), Some(found)) = (boxes, &found) {
            for one in boxes.all(&found.engine).await {
                let Some(owner) = one.owner.filter(|_| one.state.is_live()) else { continue };
                let grace = graces.get(&owner.key).copied().unwrap_or(GRACE);
                let what = What::Container(found.engine.clone(), one.id);
                running.insert(owner.key, Running { what, grace });
            }
        }
        if running.is_empty() {
            break;
        }
        while !running.is_empty() {
            let mut round = JoinSet::new();
            for key in next(&running.keys().collect::<Vec<_>>(), needs) {
                if let Some(one) = running.remove(&key) {
                    round.spawn(stop(key, one));
                    stopped += 1;
                }
            }
            while round.join_next().await.is_some() {}
        }
    }
    if let Some(service) = found.and_then(|found| found.service) {
        service.end().await;
    }
    stopped
}

/// Everything that runs, connected.
async fn look(
    data_dir: &Path,
    graces: &BTreeMap<ComponentKey, Duration>,
) -> BTreeMap<ComponentKey, Running> {
    let mut looks = JoinSet::new();
    for key in scan(data_dir) {
        let dir = component_dir(data_dir, &key);
        let grace = graces.get(&key).copied().unwrap_or(GRACE);
        looks.spawn(async move {
            match tokio::time::timeout(LOOK_WITHIN, link::look(&dir)).await {
                Ok((Looked::Running(file), Some(link))) => {
                    Some((key, Running { what: What::Process(Box::new(file), link), grace }))
                }
                Ok(_) => None,
                Err(_) => {
                    tracing::error!(component = %key, "cannot be looked at; it is left as it is");
                    None
                }
            }
        });
    }
    let mut running = BTreeMap::new();
    while let Some(found) = looks.join_next().await {
        running.extend(found.ok().flatten());
    }
    running
}

/// Those of `left` whose service no other service of `left` needs; all, should they go round in a
/// circle.
fn next(left: &[&ComponentKey], needs: &Needs) -> Vec<ComponentKey> {
    let needed = |key: &ComponentKey| {
        left.iter().any(|other| {
            other.service != key.service
                && needs.get(&other.service).is_some_and(|needs| needs.contains(&key.service))
        })
    };
    let free: Vec<_> = left.iter().filter(|key| !needed(key)).map(|key| (*key).clone()).collect();
    if free.is_empty() { left.iter().map(|key| (*key).clone()).collect() } else { free }
}

async fn stop(key: ComponentKey, one: Running) {
    let Running { what, grace } = one;
    let (file, mut link) = match what {
        What::Process(file, link) => (file, link),
        What::Container(engine, id) => {
            container::refuse(&engine, &id, grace).await;
            match engine.stop(&id, grace).await {
                Ok(()) => tracing::info!(component = %key, "stopped"),
                Err(error) => tracing::error!(%error, component = %key, "not stopped"),
            }
            return;
        }
    };
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let ended = async {
        link.say(&ToShim::Hello { version: SHIM_PROTOCOL }).await;
        link.say(&ToShim::Stop { grace_ms }).await;
        loop {
            match link.next().await {
                Some(ShimEvent::Started(_)) => {}
                Some(ShimEvent::Exited(file)) => return file.exit,
                None => return None,
            }
        }
    };
    let exit = tokio::time::timeout(grace.saturating_add(STOP_SLACK), ended).await.ok().flatten();
    let how = if let Some(exit) = exit {
        exit.status
    } else {
        link::clean(&file.shim).await;
        "killed with its shim".to_owned()
    };
    tracing::info!(component = %key, exit = how, "stopped");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_others_stops_before_them_and_a_circle_stops_all_the_same() {
        let key = |service: &str| ComponentKey {
            service: service.into(),
            replica: 1,
            component: "api".into(),
        };
        let (db, web, mail) = (key("db"), key("web"), key("mail"));
        let needs = |pairs: &[(&str, &str)]| -> Needs {
            pairs.iter().map(|(who, whom)| ((*who).into(), vec![(*whom).into()])).collect()
        };
        let chain = needs(&[("web", "db"), ("mail", "web")]);
        assert_eq!(next(&[&db, &mail, &web], &chain), std::slice::from_ref(&mail));
        assert_eq!(next(&[&db, &web], &chain), std::slice::from_ref(&web));
        assert_eq!(next(&[&db], &chain), std::slice::from_ref(&db));
        let circle = needs(&[("web", "db"), ("db", "web")]);
        assert_eq!(next(&[&db, &web], &circle), [db, web]);
    }
}
