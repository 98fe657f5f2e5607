//! `plan --lost`: what would happen if nodes vanished now.

use weft_protocol::{NodeRecord, PlanPlacement};
use weft_wire::{ActorKind, Address, NodeId};

use super::{App, agreed};
use crate::args::Fresh;
use crate::error::{CliError, Exit, Result};
use crate::output::agreed::{LostView, lost_text};

pub(crate) async fn run(app: &App, names: &[String], fresh: Fresh) -> Result<Exit> {
    let attached = app.attach().await?;
    let state = agreed::state(app, &attached, fresh.consistent).await?;
    let lost = chosen(&state.nodes, names)?;
    let ids: Vec<NodeId> = lost.iter().map(|node| node.id).collect();
    let message = PlanPlacement { lost: ids.clone(), spec: None };
    let registry = Address::here(ActorKind::Registry);
    let (plan, agreement) = tokio::join!(
        attached.ask(registry, message, app.question()),
        agreed::agreement(&attached, app.question()),
    );
    let no_majority = agreement.ok().and_then(|view| agreed::loses_majority(&view, &ids));
    let names = lost.iter().map(|node| node.name.clone()).collect();
    let view = LostView::new(names, &plan?, &state.nodes, no_majority);
    app.output.result(&view, lost_text(&view))?;
    Ok(Exit::Ok)
}

/// The nodes of these names or ids, each once.
fn chosen<'a>(nodes: &'a [NodeRecord], names: &[String]) -> Result<Vec<&'a NodeRecord>> {
    let mut chosen: Vec<&NodeRecord> = Vec::new();
    for wanted in names {
        let node = nodes.iter().find(|n| n.name == *wanted || n.id.to_string() == *wanted);
        let node = node.ok_or_else(|| {
            let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
            CliError::new(Exit::Failed, "not-found", format!("no node `{wanted}`"))
                .help(format!("the nodes are: {}", names.join(", ")))
        })?;
        if !chosen.iter().any(|other| other.id == node.id) {
            chosen.push(node);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::drain::tests::node;

    #[test]
    fn lost_nodes_are_found_by_name_or_id_and_an_unknown_one_is_an_error_that_names_the_others() {
        let nodes = [node(1), node(2)];
        let id = nodes[1].id.to_string();
        let found = chosen(&nodes, &["n2".into(), id]).expect("found");
        assert_eq!(found.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["n2"]);
        let error = chosen(&nodes, &["n9".into()]).expect_err("unknown");
        assert_eq!((error.exit, error.code), (Exit::Failed, "not-found"));
        assert!(error.to_string().contains("n1, n2"), "{error}");
    }
}
