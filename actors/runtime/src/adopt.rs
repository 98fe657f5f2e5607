//! Containers of this node that are nobody's, and those that a service is about to adopt
//! (orchestration §5.1).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use weft_engine::{Engine, Error, Summary, matches_service};
use weft_protocol::files::component_dir;
use weft_protocol::{ClaimContainers, ComponentKey, FindForeign, ForeignContainer, valid_name};
use weft_wire::{Failure, FailureKind};

use crate::actor::Shared;
use crate::driver::container::{self, Adopted};
use crate::driver::recipe;

/// Replica that adopted containers are: there is one.
const REPLICA: u32 = 1;

/// Containers that would be the service's.
pub(crate) async fn find(
    shared: Arc<Shared>,
    message: FindForeign,
) -> Result<Vec<ForeignContainer>, Failure> {
    let config = &shared.config;
    let node = &config.node_name;
    if !valid_name(&message.service) {
        let text = format!("`{}` is not a name for a service", message.service.escape_debug());
        return Err(Failure::new(FailureKind::Invalid, text).node(node));
    }
    if shared.engines.are_none() {
        return Ok(Vec::new());
    }
    let engine = engine(&shared).await?;
    let others = || message.others.iter().map(String::as_str);
    let mut all: Vec<Summary> = engine.list(&[]).await.map_err(|e| engine_error(node, &e))?;
    all.retain(|one| one.owner.is_none());
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let data_dir = config.data_dir.clone();
    let owned = tokio::task::spawn_blocking(move || owned(&data_dir)).await.unwrap_or_default();
    let mut found = Vec::new();
    for one in all {
        let Some(component) = matches_service(&one.name, &message.service, others()) else {
            continue;
        };
        let container = match engine.inspect(&one.id).await {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => continue,
            Err(error) => return Err(engine_error(node, &error)),
        };
        let image = engine.image(&container.image_id).await.map_err(|e| engine_error(node, &e))?;
        let (spec, mut lost) = container.adopted(&component, image.as_ref());
        if !is_pinned(&spec.image) {
            lost.push(format!("its exact image, since `{}` may mean another one then", spec.image));
        }
        for (own, usual, what) in [
            (&spec.network, &config.default_network, "network"),
            (&spec.user, &config.default_user, "user"),
        ] {
            if own.is_empty() && !usual.is_empty() {
                lost.push(format!("its {what}, for which the node has a default, {usual}"));
            }
        }
        let problem = if valid_name(&component) {
            recipe::problem(config, &spec, &message.service, REPLICA).unwrap_or_default()
        } else {
            format!("`{}` is not a name for a component", component.escape_debug())
        };
        found.push(ForeignContainer {
            id: container.id,
            name: container.name,
            running: container.state.is_live(),
            owner: owned.get(&one.id).cloned(),
            spec,
            lost,
            problem,
        });
    }
    Ok(found)
}

/// Whether a reference has a digest, or a tag other than `latest` (orchestration §3.4).
fn is_pinned(image: &str) -> bool {
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    image.contains('@')
        || name.split_once(':').is_some_and(|(_, tag)| !tag.eq_ignore_ascii_case("latest"))
}

/// Notes the claims in the components' directories, where their drivers find them.
pub(crate) async fn claim(shared: Arc<Shared>, message: ClaimContainers) -> Result<(), Failure> {
    let node = shared.config.node_name.clone();
    let bad = |what: &str| {
        let text = format!("`{}` is not a name", what.escape_debug());
        Failure::new(FailureKind::Invalid, text).node(&node)
    };
    let names = message.claims.iter().map(|claim| &claim.component);
    if let Some(name) = names.chain([&message.service]).find(|name| !valid_name(name)) {
        return Err(bad(name));
    }
    let engine = engine(&shared).await?;
    let mut named = Vec::new();
    for claim in &message.claims {
        let container =
            engine.inspect(&claim.container).await.map_err(|e| engine_error(&node, &e))?;
        if container.owner.is_some() {
            let text = format!("container {} is Weft's already", container.name);
            return Err(Failure::new(FailureKind::Conflict, text).node(&node));
        }
        named.push((claim.clone(), container.name));
    }
    let data_dir = shared.config.data_dir.clone();
    let service = message.service;
    let write = move || -> Result<(), String> {
        let owned = owned(&data_dir);
        for (claim, name) in &named {
            let key = ComponentKey {
                service: service.clone(),
                replica: REPLICA,
                component: claim.component.clone(),
            };
            if let Some(other) = owned.get(&claim.container).filter(|other| **other != key) {
                return Err(format!("container {name} is of {other} already"));
            }
            let adopted = Adopted {
                id: claim.container.clone(),
                spec_hash: claim.spec_hash.clone(),
                epoch: claim.epoch,
                taken: owned.contains_key(&claim.container),
            };
            container::note_adopted(&component_dir(&data_dir, &key), name, adopted)
                .map_err(|error| error.to_string())?;
        }
        let kept = |id: &str| named.iter().any(|(claim, _)| claim.container == id);
        for (id, key) in owned.iter().filter(|(id, key)| key.service == service && !kept(id)) {
            tracing::info!(component = %key, container = %id, "is not adopted after all");
            container::let_go(&component_dir(&data_dir, key)).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    match tokio::task::spawn_blocking(write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(Failure::new(FailureKind::Conflict, why).node(&node).step("adopt")),
        Err(error) => Err(Failure::new(FailureKind::Internal, error.to_string()).node(&node)),
    }
}

/// Adopted containers by id.
pub(crate) fn owned(data_dir: &Path) -> HashMap<String, ComponentKey> {
    let components = data_dir.join("components");
    let below = |dir: &Path| -> Vec<(String, std::path::PathBuf)> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect()
    };
    let mut owned = HashMap::new();
    for (service, dir) in below(&components) {
        for (replica, dir) in below(&dir) {
            let Ok(replica) = replica.parse() else { continue };
            for (component, dir) in below(&dir) {
                if let Some(adopted) = container::adopted(&dir) {
                    let service = service.clone();
                    owned.insert(adopted.id, ComponentKey { service, replica, component });
                }
            }
        }
    }
    owned
}

async fn engine(shared: &Shared) -> Result<Engine, Failure> {
    shared.engines.engine().await.map_err(|why| {
        Failure::new(FailureKind::Failed, "the container engine cannot be asked")
            .node(&shared.config.node_name)
            .cause(why)
    })
}

fn engine_error(node: &str, error: &Error) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string()).node(node).step("ask the container engine")
}
