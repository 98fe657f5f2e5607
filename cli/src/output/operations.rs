//! The shape and the table of `operations`. Field names are promises, as in [`super::views`].

use serde::Serialize;
use weft_protocol::{OperationRow, OperationStep, StepState, format_time};

use super::Table;
use super::table::cut;
use super::views::some;

/// An operation, as `operations --json` has it; what does not apply is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OperationView {
    pub(crate) id: u64,
    pub(crate) kind: &'static str,
    pub(crate) service: Option<String>,
    pub(crate) component: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) revision: Option<u64>,
    pub(crate) owner: String,
    pub(crate) caller: String,
    pub(crate) started_at: String,
    /// Null while it goes on, as is `outcome`.
    pub(crate) finished_at: Option<String>,
    pub(crate) outcome: Option<&'static str>,
    pub(crate) detail: Option<String>,
    pub(crate) steps: Vec<StepLine>,
    /// What is still to come, while it goes on.
    pub(crate) left: Vec<String>,
}

/// A step of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StepLine {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) detail: Option<String>,
}

impl From<&OperationRow> for OperationView {
    fn from(row: &OperationRow) -> Self {
        let operation = &row.operation;
        let finished = operation.finished.as_ref();
        Self {
            id: operation.id,
            kind: operation.kind.as_str(),
            service: some(&operation.service),
            component: some(&operation.component),
            node: some(&operation.node_name),
            revision: (operation.revision != 0).then_some(operation.revision),
            owner: row.owner.clone(),
            caller: operation.caller.clone(),
            started_at: format_time(operation.started),
            finished_at: finished.map(|end| format_time(end.at)),
            outcome: finished.map(|end| end.outcome.as_str()),
            detail: finished.and_then(|end| some(&end.detail)),
            steps: row.steps.iter().map(StepLine::from).collect(),
            left: row.left.clone(),
        }
    }
}

impl From<&OperationStep> for StepLine {
    fn from(step: &OperationStep) -> Self {
        Self { name: step.name.clone(), state: step.state.as_str(), detail: some(&step.detail) }
    }
}

/// How far it is, in a few words: the step it is at, or how it ended.
pub(crate) fn step_text(row: &OperationRow) -> String {
    let with = |word: &str, detail: &str| {
        if detail.is_empty() { word.to_owned() } else { format!("{word}: {detail}") }
    };
    if let Some(finished) = &row.operation.finished {
        return with(finished.outcome.as_str(), &finished.detail);
    }
    let at = row.steps.iter().find(|step| step.state != StepState::Done).or(row.steps.last());
    at.map_or_else(String::new, |step| with(&step.name, &step.detail))
}

/// `operations` (orchestration §7).
pub(crate) fn operations_table(rows: &[OperationRow]) -> Table {
    let mut table = Table::new(["ID", "KIND", "SERVICE", "STEP", "OWNER", "CALLER", "STARTED"]);
    for row in rows {
        let operation = &row.operation;
        table.row([
            operation.id.to_string(),
            operation.kind.to_string(),
            operation.subject(),
            cut(&step_text(row), 60),
            row.owner.clone(),
            operation.caller.clone(),
            format_time(operation.started),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{FinishedOperation, Operation, OperationKind, OperationOutcome};
    use weft_wire::{NodeId, WallTime};

    fn row(finished: bool) -> OperationRow {
        let step = |name: &str, state, detail: &str| OperationStep {
            name: name.into(),
            state,
            detail: detail.into(),
        };
        let at = WallTime::from_micros(1_795_000_000_000_000);
        OperationRow {
            operation: Operation {
                id: 17,
                kind: OperationKind::Deploy,
                service: "web".into(),
                component: String::new(),
                node: None,
                node_name: String::new(),
                replicas: vec![],
                on: vec![],
                revision: 3,
                caller: "ann".into(),
                owner: NodeId::new(uuid::Uuid::nil()),
                started: at,
                finished: finished.then(|| FinishedOperation {
                    at,
                    outcome: OperationOutcome::Failed,
                    detail: "web/1/api: exited 5 times".into(),
                }),
            },
            owner: "n1".into(),
            steps: vec![
                step("agree", StepState::Done, ""),
                step("start", StepState::Running, "1 of 3 components as wanted"),
            ],
            left: vec!["web/2/api is starting".into()],
        }
    }

    #[test]
    fn an_operation_shows_the_step_it_is_at_or_how_it_ended() {
        let lines = operations_table(&[row(false), row(true)]).lines();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "ID KIND SERVICE STEP OWNER CALLER STARTED"
        );
        assert!(lines[1].contains("start: 1 of 3 components as wanted"), "{}", lines[1]);
        assert!(lines[2].contains("failed: web/1/api: exited 5 times"), "{}", lines[2]);
        let value = serde_json::to_value(OperationView::from(&row(false))).expect("serialises");
        for name in [
            "id",
            "kind",
            "service",
            "component",
            "node",
            "revision",
            "owner",
            "caller",
            "started_at",
            "finished_at",
            "outcome",
            "detail",
            "steps",
            "left",
        ] {
            assert!(value.get(name).is_some(), "{name}: {value}");
        }
        assert!(value["outcome"].is_null() && value["node"].is_null());
    }
}
