//! Whether the chosen nodes can run a definition: asked of each node's runtime before anything is
//! agreed (design §11, `cmd` of a process).

use std::collections::BTreeMap;

use futures_util::future::join_all;
use weft_protocol::{CheckSpec, DeployOptions, ServiceSpec, StateView};
use weft_wire::{AskError, Failure, FailureKind, NodeId};

use crate::around::{Asker, NODE_TIMEOUT};
use crate::plan::Places;
use crate::rows::node_name;

/// What keeps a component of a replica from running, by replica and component.
pub(crate) type Problems = BTreeMap<(u32, String), String>;

/// Asks every chosen node. One that does not answer, or does not know the question, objects to
/// nothing.
pub(crate) async fn problems(
    asker: &Asker,
    spec: &ServiceSpec,
    options: &DeployOptions,
    places: &Places,
) -> Problems {
    let components: Vec<_> = spec
        .components
        .iter()
        .filter(|c| options.component.is_empty() || options.component == c.name)
        .cloned()
        .collect();
    let asked = places.at.iter().filter_map(|(replica, node)| Some((*replica, (*node)?)));
    let answers = join_all(asked.map(|(replica, node): (u32, NodeId)| {
        let check = CheckSpec {
            service: spec.name.clone(),
            replica,
            components: components.clone(),
            files: spec.files.clone(),
        };
        async move { (replica, asker.ask_on(node, check, NODE_TIMEOUT).await) }
    }))
    .await;
    let mut problems = Problems::new();
    for (replica, answer) in answers {
        for found in answer.unwrap_or_default() {
            problems.insert((replica, found.component), found.problem);
        }
    }
    problems
}

/// The refusal of a deploy that cannot work: nothing was changed.
pub(crate) fn refuse(
    spec: &ServiceSpec,
    state: &StateView,
    places: &Places,
    problems: &Problems,
) -> Result<(), AskError> {
    let Some(((replica, component), problem)) = problems.iter().next() else { return Ok(()) };
    let node_of = |replica: &u32| {
        places.at.get(replica).copied().flatten().map_or_else(String::new, |n| node_name(state, n))
    };
    let mut nodes: Vec<String> = problems.keys().map(|(replica, _)| node_of(replica)).collect();
    nodes.sort();
    nodes.dedup();
    let text = format!("`{}/{component}` cannot run on {}", spec.name, nodes.join(", "));
    Err(AskError::Failed(
        Failure::new(FailureKind::Failed, text)
            .node(node_of(replica))
            .service(&spec.name)
            .component(component)
            .step("check the definition on the chosen nodes")
            .cause(problem)
            .help("nothing was changed; correct the definition or the node, then deploy again"),
    ))
}
