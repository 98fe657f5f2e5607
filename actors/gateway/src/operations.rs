//! Operations as people see them: what is agreed of them, and how far the nodes concerned say
//! they are.

use std::collections::{BTreeSet, HashMap};

use weft_protocol::{ComponentStatus, ListComponents, Operation, OperationRow, StateView};
use weft_wire::{AskError, Failure, FailureKind, NodeId};

use crate::around::Asker;
use crate::rows::node_name;

/// Lines of what is still to come.
const LEFT: usize = 20;

/// All, or the one of that id.
pub(crate) async fn list(asker: &Asker, id: u64) -> Result<Vec<OperationRow>, AskError> {
    let state = asker.state().await?;
    let wanted = |operation: &Operation| id == 0 || operation.id == id;
    let rows = rows(asker, &state, wanted).await;
    if rows.is_empty() && id != 0 {
        let text = format!("no operation {id}");
        return Err(AskError::Failed(Failure::new(FailureKind::NotFound, text).help(
            "`weft operations` lists those that go on and the last 100 that ended within 24 h",
        )));
    }
    Ok(rows)
}

/// Those of agreed state that are wanted, each with how far it is.
pub(crate) async fn rows(
    asker: &Asker,
    state: &StateView,
    wanted: impl Fn(&Operation) -> bool,
) -> Vec<OperationRow> {
    let meant: Vec<&Operation> = state.operations.iter().filter(|o| wanted(o)).collect();
    let nodes: BTreeSet<NodeId> =
        meant.iter().flat_map(|operation| operation.nodes(state)).collect();
    let members = asker.members().into_iter().filter(|member| nodes.contains(&member.id)).collect();
    let seen: HashMap<NodeId, Vec<ComponentStatus>> = asker
        .ask_each(members, ListComponents {})
        .await
        .into_iter()
        .filter_map(|(member, answer)| Some((member.id, answer.ok()?)))
        .collect();
    meant.into_iter().map(|operation| row(operation, state, &seen)).collect()
}

fn row(
    operation: &Operation,
    state: &StateView,
    seen: &HashMap<NodeId, Vec<ComponentStatus>>,
) -> OperationRow {
    let list = |node: NodeId| seen.get(&node).map(Vec::as_slice);
    let progress = operation.progress(state, &list);
    let left = if operation.is_running() {
        progress.failed.into_iter().chain(progress.left).take(LEFT).collect()
    } else {
        Vec::new()
    };
    OperationRow {
        operation: operation.clone(),
        owner: node_name(state, operation.owner),
        steps: progress.steps,
        left,
    }
}
