//! Adoption: a service is made of containers that run already (orchestration §5.1).
//!
//! The node that has them notes which they are, then the definition that was read off them is
//! agreed, pinned to that node; its runtime finds each component's container there and goes on with
//! it. Nothing is restarted, and until the definition is agreed nothing belongs to anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_protocol::{
    AdoptService, AdoptedContainer, Adoption, ClaimContainers, Command, ComponentState,
    ComponentStatus, ContainerClaim, DeployOptions, FindForeign, ForeignContainer, ListComponents,
    Propose, ServiceSpec, StateView, spec_hash, valid_name,
};
use weft_wire::{AskError, Failure, FailureKind};

use crate::around::{Asker, Member, NODE_TIMEOUT};

/// How long looking at a node's containers may take.
const LOOK: Duration = Duration::from_secs(15);
/// Between looks at what was adopted.
const AGAIN: Duration = Duration::from_millis(50);
/// How long agreeing may take.
const AGREE: Duration = Duration::from_secs(10);

pub(crate) async fn adopt(asker: &Asker, message: AdoptService) -> Result<Adoption, AskError> {
    let service = message.service.as_str();
    let refuse = |kind, text: String, help: &str| {
        Err(AskError::Failed(Failure::new(kind, text).service(service).step("adopt").help(help)))
    };
    if !valid_name(service) {
        return refuse(
            FailureKind::Invalid,
            format!("`{}` is not a name for a service", service.escape_debug()),
            "use 1 to 48 lower-case letters, digits and hyphens, not at either end",
        );
    }
    let state = asker.state().await?;
    if state.service(service).is_some_and(|record| !record.undeployed) {
        return refuse(
            FailureKind::Conflict,
            format!("service `{service}` is deployed already"),
            "see `weft history`; a container that it lacks is a component to add to its definition",
        );
    }
    let (member, mut found) = find(asker, &message, &state).await?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<AdoptedContainer> = found.iter().map(|one| row(one, service)).collect();
    let good: Vec<&ForeignContainer> = found
        .iter()
        .zip(&rows)
        .filter(|(_, row)| row.error.is_empty())
        .map(|(one, _)| one)
        .collect();
    let adoption = Adoption { node: member.name.clone(), revision: 0, containers: rows };
    if message.dry_run || good.is_empty() {
        return Ok(adoption);
    }
    let spec = definition(service, &member.name, &good);
    let epoch = |component: &str| {
        state.service(service).map_or(0, |record| record.in_force().epoch_of(component).start)
    };
    let claims = good
        .iter()
        .map(|one| ContainerClaim {
            container: one.id.clone(),
            component: one.spec.name.clone(),
            spec_hash: spec_hash(&spec, &one.spec),
            epoch: epoch(&one.spec.name),
        })
        .collect();
    let claim = |claims| ClaimContainers { service: service.to_owned(), claims };
    asker.ask_on(member.id, claim(claims), LOOK).await?;
    let stopped = good.iter().filter(|one| !one.running).map(|one| one.spec.name.clone());
    let options =
        DeployOptions { if_changed: true, stopped: stopped.collect(), ..DeployOptions::default() };
    let command = Command::Deploy { spec: Box::new(spec), options };
    match asker.ask(Propose { request: message.request, command }, AGREE).await {
        Ok(applied) => {
            taken_up(asker, &member, service).await;
            Ok(Adoption { revision: applied.revision, ..adoption })
        }
        Err(error) => {
            if matches!(error, AskError::Failed(_)) {
                // It is sure that nothing was agreed.
                let _ = asker.ask_on(member.id, claim(Vec::new()), LOOK).await;
            }
            Err(error)
        }
    }
}

/// Waits until their node has looked at all of them, within reason: it goes on without.
async fn taken_up(asker: &Asker, member: &Member, service: &str) {
    let end = asker.now() + AGREE;
    while asker.now() < end {
        let list = asker.ask_on(member.id, ListComponents {}, NODE_TIMEOUT).await;
        let mut own = list.into_iter().flatten().filter(|status| status.key.service == service);
        let is_seen = |status: ComponentStatus| status.state != ComponentState::Pending;
        if own.next().is_some_and(is_seen) && own.all(is_seen) {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The node that has the service's containers, and those containers.
async fn find(
    asker: &Asker,
    message: &AdoptService,
    state: &StateView,
) -> Result<(Member, Vec<ForeignContainer>), AskError> {
    let service = &message.service;
    let known = state.services.iter().map(|service| service.name.clone());
    let others = known.chain(message.others.iter().cloned()).collect();
    let question = FindForeign { service: service.clone(), others };
    let mut members = asker.members();
    if !message.node.is_empty() {
        members.retain(|member| member.name == message.node);
        if members.is_empty() {
            return Err(crate::rows::unknown_node(state, &message.node));
        }
    }
    let mut found: Vec<(Member, Vec<ForeignContainer>)> = Vec::new();
    let mut silent: BTreeMap<String, String> = BTreeMap::new();
    for (member, answer) in asker.ask_within(members, question, |_| LOOK).await {
        match answer {
            Ok(containers) if containers.is_empty() => {}
            Ok(containers) => found.push((member, containers)),
            Err(error) => {
                silent.insert(member.name, error.to_string());
            }
        }
    }
    let fail = |kind, text: String| Failure::new(kind, text).service(service).step("adopt");
    if found.len() > 1 {
        let nodes: Vec<&str> = found.iter().map(|(member, _)| member.name.as_str()).collect();
        return Err(AskError::Failed(
            fail(
                FailureKind::Conflict,
                format!("containers of `{service}` are on {}", nodes.join(" and ")),
            )
            .help("the containers of a service are together on one node: name it with --on"),
        ));
    }
    if let Some(only) = found.pop() {
        return Ok(only);
    }
    let mut failure = fail(
        FailureKind::NotFound,
        format!("no container is called `{service}` or `{service}-…` that is not Weft's already"),
    )
    .help(
        "see what there is with `podman ps -a` on the node; adoption goes by the container's name",
    );
    if let Some((node, why)) = silent.into_iter().next() {
        failure = failure.node(node).cause(why);
    }
    Err(AskError::Failed(failure))
}

fn row(one: &ForeignContainer, service: &str) -> AdoptedContainer {
    let error = match &one.owner {
        Some(owner) if owner.service != service => format!("belongs to {owner} already"),
        _ => one.problem.clone(),
    };
    AdoptedContainer {
        container: one.name.clone(),
        component: one.spec.name.clone(),
        running: one.running,
        error,
        lost: one.lost.clone(),
    }
}

/// What the containers together are: pinned to their node, where their data is.
fn definition(service: &str, node: &str, containers: &[&ForeignContainer]) -> ServiceSpec {
    ServiceSpec {
        node: node.to_owned(),
        active: containers.iter().any(|one| one.running),
        components: containers.iter().map(|one| one.spec.clone()).collect(),
        ..ServiceSpec::named(service)
    }
}
