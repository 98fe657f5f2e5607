//! How alerts are shown.

use serde::Serialize;
use weft_protocol::{Alert, format_time};

use super::Table;
use super::table::cut;
use super::views::some;

/// An alert, as `alerts --json` has it. Field names are promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AlertView {
    pub(crate) time: String,
    pub(crate) node: String,
    pub(crate) service: Option<String>,
    pub(crate) component: Option<String>,
    pub(crate) replica: Option<u32>,
    /// `drift`, `flapping`, `failed`, `restarts`, `node` or `disk`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) desired: Option<&'static str>,
    pub(crate) observed: Option<&'static str>,
    pub(crate) prev_state: Option<&'static str>,
    pub(crate) transitions: u32,
    pub(crate) reason: String,
    /// `fired` or `suppressed`.
    pub(crate) state: &'static str,
    /// Exit code of the command; null: it was not run, has not ended, or did not end by itself.
    pub(crate) exit: Option<i32>,
    /// Why the command did not end by itself, or was not run.
    pub(crate) problem: Option<String>,
    /// The first 4 KiB of what the command wrote.
    pub(crate) output: Option<String>,
    pub(crate) id: String,
}

impl From<&Alert> for AlertView {
    fn from(alert: &Alert) -> Self {
        let run = alert.run.as_ref();
        Self {
            time: format_time(alert.time),
            node: alert.node.clone(),
            service: some(&alert.service),
            component: some(&alert.component),
            replica: (alert.replica != 0).then_some(alert.replica),
            kind: alert.kind.as_str(),
            desired: alert.desired.map(|desired| desired.as_str()),
            observed: alert.observed.map(|observed| observed.as_str()),
            prev_state: alert.prev_state.map(|state| state.as_str()),
            transitions: alert.transitions,
            reason: alert.reason.clone(),
            state: state(alert),
            exit: run.and_then(|run| run.exit),
            problem: run.and_then(|run| some(&run.problem)),
            output: run.and_then(|run| some(&run.output)),
            id: alert.id.to_string(),
        }
    }
}

const fn state(alert: &Alert) -> &'static str {
    if alert.suppressed { "suppressed" } else { "fired" }
}

/// EXIT: the command's exit code, or why there is none.
fn exit(alert: &Alert) -> String {
    match &alert.run {
        Some(run) => match run.exit {
            Some(code) => code.to_string(),
            None => cut(&run.problem, 40),
        },
        None => String::new(),
    }
}

fn component(alert: &Alert) -> String {
    if alert.replica > 1 {
        format!("{}#{}", alert.component, alert.replica)
    } else {
        alert.component.clone()
    }
}

/// `alerts`, whole.
pub(crate) fn alerts_table(alerts: &[Alert]) -> Table {
    let mut table = Table::new([
        "TIME",
        "NODE",
        "SERVICE",
        "COMPONENT",
        "TYPE",
        "DESIRED",
        "OBSERVED",
        "STATE",
        "EXIT",
        "REASON",
    ]);
    for alert in alerts {
        table.row([
            format_time(alert.time),
            alert.node.clone(),
            alert.service.clone(),
            component(alert),
            alert.kind.to_string(),
            alert.desired.map(|desired| desired.to_string()).unwrap_or_default(),
            alert.observed.map(|observed| observed.to_string()).unwrap_or_default(),
            state(alert).to_owned(),
            exit(alert),
            cut(&alert.reason, 60),
        ]);
    }
    table
}

/// One alert as a line for people; fixed widths, because more may come.
pub(crate) fn alert_line(alert: &Alert) -> String {
    let what = if alert.service.is_empty() {
        "node".to_owned()
    } else {
        format!("{}/{}", alert.service, component(alert))
    };
    let exit = exit(alert);
    let run = if exit.is_empty() { String::new() } else { format!(", command: {exit}") };
    let line = format!(
        "{}  {:<8}  {what:<28}  {:<8}  {:<10}  ({}{run})",
        format_time(alert.time),
        alert.node,
        alert.kind,
        state(alert),
        alert.reason,
    );
    crate::error::clean(&line).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{AlertKind, AlertRun, Desired, ObservedState};
    use weft_wire::WallTime;

    fn alert() -> Alert {
        Alert {
            id: uuid::Uuid::nil(),
            time: WallTime::from_micros(1_795_000_000_000_000),
            node: "n1".into(),
            service: "web".into(),
            component: "api".into(),
            replica: 2,
            kind: AlertKind::Drift,
            desired: Some(Desired::Running),
            observed: Some(ObservedState::Exited),
            prev_state: Some(ObservedState::Running),
            transitions: 0,
            reason: "ended by itself \u{1b}[31m".into(),
            suppressed: false,
            run: Some(AlertRun { exit: Some(3), problem: String::new(), output: "no\n".into() }),
        }
    }

    #[test]
    fn an_alert_is_shown_with_the_exit_of_its_command_and_nothing_that_moves_a_terminal() {
        let lines = alerts_table(&[alert()]).lines();
        let header: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(
            header,
            [
                "TIME",
                "NODE",
                "SERVICE",
                "COMPONENT",
                "TYPE",
                "DESIRED",
                "OBSERVED",
                "STATE",
                "EXIT",
                "REASON"
            ]
        );
        assert!(lines[1].contains("api#2") && lines[1].contains("fired"), "{lines:?}");
        assert!(!lines[1].contains('\u{1b}') && !alert_line(&alert()).contains('\u{1b}'));
        let line = alert_line(&alert());
        assert!(line.contains("web/api#2") && line.ends_with(", command: 3)"), "{line}");
        let suppressed = Alert { suppressed: true, run: None, ..alert() };
        assert!(alert_line(&suppressed).contains("suppressed"));
    }

    #[test]
    fn json_has_every_value_and_null_where_there_is_none() {
        let view = serde_json::to_value(AlertView::from(&alert())).expect("JSON");
        assert_eq!((&view["type"], &view["state"]), (&"drift".into(), &"fired".into()));
        assert_eq!((&view["exit"], &view["output"]), (&3.into(), &"no\n".into()));
        assert!(view["problem"].is_null());
        let mut node = alert();
        (node.service, node.component, node.replica) = (String::new(), String::new(), 0);
        let view = serde_json::to_value(AlertView::from(&node)).expect("JSON");
        assert!(view["service"].is_null() && view["replica"].is_null());
    }
}
