//! `exec`: to the node that runs the component, and back (orchestration §7).

use weft_link::ItemSink;
use weft_protocol::{
    ClusterExec, ComponentRow, ComponentState, Exec, ListComponents, PsReply, StateView,
};
use weft_wire::{AskError, Failure, FailureKind};

use crate::around::Asker;
use crate::rows;

/// Serves `ClusterExec` until the command has ended.
///
/// # Errors
/// Why it cannot be run, or why it is not known how it ended.
pub(crate) async fn exec(
    asker: Asker,
    message: ClusterExec,
    sink: &ItemSink<ClusterExec>,
) -> Result<(), AskError> {
    if let Some(problem) = message.command.problem() {
        return Err(AskError::Failed(Failure::new(FailureKind::Invalid, problem).step("exec")));
    }
    let (state, answers) = tokio::join!(asker.state(), asker.ask_all(ListComponents {}));
    if let Ok(state) = &state {
        rows::known(state, &message.target)?;
    }
    let (target, nowhere) = (Some(&message.target), rows::Nowhere::new());
    let ps = rows::ps(state.as_ref(), asker.fabric.name(), &answers, target, &nowhere);
    let row = choose(state.as_ref().ok(), &ps, &message).map_err(AskError::Failed)?;
    let node = answers.iter().find(|(member, _)| member.name == row.node);
    let Some((node, _)) = node else {
        return Err(AskError::Unreachable(format!("node {} is not known here", row.node)));
    };
    let key = row.status.key.clone();
    let exec = Exec { id: message.id, key, command: message.command };
    let mut items = asker.subscribe(node.id, exec).await?;
    while let Some(item) = items.next().await {
        if sink.send(item?).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn runs(row: &ComponentRow) -> bool {
    use ComponentState::{Running, Starting, Stopping};
    matches!(row.status.state, Running | Starting | Stopping) && row.status.pid != 0
}

/// The one that is meant.
fn choose<'a>(
    state: Option<&StateView>,
    ps: &'a PsReply,
    message: &ClusterExec,
) -> Result<&'a ComponentRow, Failure> {
    let target = &message.target;
    let refuse = |kind, text: String| {
        Failure::new(kind, text).service(&target.service).component(&target.component).step("exec")
    };
    let names = |of: &dyn Fn(&&ComponentRow) -> String, rows: &[&ComponentRow]| {
        let mut names: Vec<String> = rows.iter().map(of).collect();
        names.sort();
        names.dedup();
        names.join(", ")
    };
    let component = |row: &&ComponentRow| row.status.key.component.clone();
    let place = |row: &&ComponentRow| {
        let key = &row.status.key;
        format!("{} on {} is {}", key.replica, row.node, row.status.state)
    };
    let all: Vec<&ComponentRow> = ps.rows.iter().collect();
    // As the definition has it, also while only some of it runs.
    let several = state
        .and_then(|state| state.service(&target.service))
        .map_or_else(Vec::new, |service| service.spec.components.iter().collect());
    let ambiguous = several.len() > 1
        || all.windows(2).any(|pair| matches!(pair, [a, b] if component(a) != component(b)));
    if target.component.is_empty() && ambiguous {
        let known: Vec<&str> = several.iter().map(|spec| spec.name.as_str()).collect();
        let known = if known.is_empty() { names(&component, &all) } else { known.join(", ") };
        let text = format!("service `{}` has several components", target.service);
        return Err(refuse(FailureKind::Invalid, text)
            .help(format!("say which, as {}/<component>: {known}", target.service)));
    }
    let replica =
        |row: &&&ComponentRow| message.replica == 0 || row.status.key.replica == message.replica;
    let here = |row: &&&ComponentRow| message.node.is_empty() || row.node == message.node;
    let meant: Vec<&ComponentRow> = all.iter().filter(replica).filter(here).copied().collect();
    if meant.is_empty() {
        let which = match message.replica {
            0 => String::new(),
            replica => format!(" replica {replica}"),
        };
        let on = if message.node.is_empty() { "" } else { " on that node" };
        return Err(refuse(FailureKind::NotFound, format!("`{target}` has no{which} place{on}"))
            .help(format!("replica {}", names(&place, &all))));
    }
    let running: Vec<&ComponentRow> = meant.iter().filter(|row| runs(row)).copied().collect();
    match running.as_slice() {
        [row] => Ok(row),
        [] => Err(refuse(FailureKind::Conflict, format!("`{target}` does not run"))
            .cause(format!("replica {}", names(&place, &meant)))
            .help("`weft status` says what it waits for")),
        _ => {
            let text = format!("`{target}` runs {} times", running.len());
            let replicas = names(&place, &running);
            Err(refuse(FailureKind::Invalid, text)
                .help(format!("say which with --replica (or --on NODE): {replicas}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{ComponentKey, ExecCommand};

    use crate::rows::tests::{record, spec, status};

    fn row(replica: u32, component: &str, state: ComponentState) -> ComponentRow {
        let key = ComponentKey { service: "web".into(), replica, component: component.into() };
        let mut status = status(key, state);
        status.pid = 7;
        ComponentRow { node: format!("n{replica}"), status }
    }

    fn choice(
        rows: Vec<ComponentRow>,
        target: &str,
        replica: u32,
        node: &str,
    ) -> Result<String, Failure> {
        let mut components: Vec<String> =
            rows.iter().map(|row| row.status.key.component.clone()).collect();
        components.dedup();
        let names: Vec<&str> = components.iter().map(String::as_str).collect();
        let state =
            StateView { services: vec![record(spec("web", 2, &names))], ..StateView::default() };
        let ps = PsReply { rows, nodes: Vec::new(), foreign: Vec::new() };
        let message = ClusterExec {
            id: uuid::Uuid::nil(),
            target: target.parse().expect("a target"),
            replica,
            node: node.into(),
            command: ExecCommand::default(),
        };
        choose(Some(&state), &ps, &message).map(|row| format!("{}@{}", row.status.key, row.node))
    }

    #[test]
    fn the_one_that_runs_is_taken_and_several_have_to_be_told_apart() {
        use ComponentState::{Exited, Running};
        let both = || vec![row(1, "api", Running), row(2, "api", Running)];
        assert_eq!(choice(vec![row(1, "api", Running)], "web", 0, ""), Ok("web/1/api@n1".into()));
        let one = vec![row(1, "api", Exited), row(2, "api", Running)];
        assert_eq!(choice(one, "web/api", 0, ""), Ok("web/2/api@n2".into()));
        assert_eq!(choice(both(), "web", 2, ""), Ok("web/2/api@n2".into()));
        assert_eq!(choice(both(), "web", 0, "n1"), Ok("web/1/api@n1".into()));
        let refused = choice(both(), "web", 0, "").expect_err("two run");
        assert_eq!(refused.kind, FailureKind::Invalid);
        assert!(refused.help.contains("--replica") && refused.help.contains("2 on n2"));
        let refused = choice(both(), "web", 3, "").expect_err("there are two");
        assert_eq!(refused.kind, FailureKind::NotFound);
        let refused = choice(vec![row(1, "api", Exited)], "web", 0, "").expect_err("ended");
        assert_eq!(refused.kind, FailureKind::Conflict);
        let two = vec![row(1, "api", Running), row(1, "db", Running)];
        let refused = choice(two.clone(), "web", 0, "").expect_err("two components");
        assert!(refused.help.contains("api, db"), "{refused:?}");
        assert_eq!(
            choice(two.into_iter().skip(1).collect(), "web/db", 0, ""),
            Ok("web/1/db@n1".into())
        );
    }
}
