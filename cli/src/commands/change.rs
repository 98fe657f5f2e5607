//! Following a change until it is so: a line per component, then the verdict (orchestration §7).

use std::time::Duration;

use weft_link::Items;
use weft_protocol::{ComponentRow, ComponentState, DeployUpdate, Desired, LogLine};
use weft_wire::{Failure, FailureKind};

use crate::attach::Attached;
use crate::error::{CliError, Exit, Result, clean};
use crate::output::Output;
use crate::output::views::{ChangeView, StepView};

/// What was heard so far. Pure: fed with updates, asked for lines and the verdict.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    view: ChangeView,
    first: Option<Failure>,
    accepted: bool,
    done: bool,
}

/// A line for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A result.
    Result(String),
    /// Progress.
    Progress(String),
}

impl Follow {
    /// Takes an update and says what to print.
    pub(crate) fn take(&mut self, update: DeployUpdate) -> Vec<Line> {
        match update {
            DeployUpdate::Accepted { service, revision, changed, operation } => {
                self.accepted = true;
                self.view.service = service;
                self.view.revision = revision;
                self.view.changed = changed;
                self.view.operation = (operation != 0).then_some(operation);
                let what = if changed { "agreed" } else { "nothing to change" };
                let id = match operation {
                    0 => String::new(),
                    id => format!(" (operation {id})"),
                };
                let service = &self.view.service;
                vec![Line::Progress(format!("{service} revision {revision}: {what}{id}"))]
            }
            DeployUpdate::Progress { row } => {
                let reason = &row.status.reason;
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                let place = place(&row);
                let state = row.status.state;
                let name = &row.status.key.component;
                vec![Line::Progress(clean(&format!("  {name}: {state}{why}  [{place}]")))]
            }
            DeployUpdate::Component { row, error, log } => self.component(&row, error, &log),
            DeployUpdate::Step { text } => vec![Line::Progress(clean(&format!("  {text}")))],
            DeployUpdate::Done { good, bad, timed_out } => {
                self.done = true;
                self.view.good = good;
                self.view.bad = bad;
                self.view.timed_out = timed_out;
                Vec::new()
            }
        }
    }

    fn component(
        &mut self,
        row: &ComponentRow,
        error: Option<Failure>,
        log: &[LogLine],
    ) -> Vec<Line> {
        let name = &row.status.key.component;
        let place = place(row);
        // Where nothing is meant to answer there is no address to show.
        let reachable =
            row.status.desired == Desired::Running && row.status.state != ComponentState::Removed;
        let urls = if reachable { row.status.urls.clone() } else { Vec::new() };
        self.view.components.push(StepView {
            component: name.clone(),
            replica: row.status.key.replica,
            node: row.node.clone(),
            state: row.status.state.as_str(),
            ok: error.is_none(),
            error: error.as_ref().map(ToString::to_string),
            urls: urls.clone(),
        });
        let Some(error) = error else {
            let urls =
                if urls.is_empty() { String::new() } else { format!("  {}", urls.join(" ")) };
            return vec![Line::Result(clean(&format!("  {name}: ok  [{place}]{urls}")))];
        };
        let mut lines = vec![Line::Result(clean(&format!("  {name}: {error}  [{place}]")))];
        lines.extend(log.iter().map(|l| Line::Result(clean(&format!("      | {}", l.text)))));
        if !error.help.is_empty() {
            lines.push(Line::Result(clean(&format!("      help: {}", error.help))));
        }
        // What ran out of time did not fail; the verdict tells the two apart.
        if error.kind != FailureKind::Timeout {
            self.first.get_or_insert(error);
        }
        lines
    }

    /// How it ended.
    ///
    /// # Errors
    /// Exit 1 when nothing came to be as wanted, 6 when a part did, 7 when time ran out.
    pub(crate) fn verdict(&self, verb: &str) -> Result<()> {
        let view = &self.view;
        let service = &view.service;
        if !self.done {
            let error =
                CliError::failed(format!("lost the node while waiting for {verb} {service}"));
            return Err(if self.accepted {
                error.help("the change is agreed and goes on: `weft status` shows how far it is")
            } else {
                error.help("whether it was agreed is unknown: `weft list` shows it")
            });
        }
        let all = view.good + view.bad;
        if let Some(first) = &self.first {
            let exit = if view.good > 0 { Exit::Partial } else { Exit::Failed };
            let code = if view.good > 0 { "partial" } else { "failed" };
            let mut error = CliError::new(
                exit,
                code,
                format!("{verb} {service}: {} of {all} components failed", view.bad),
            )
            .service(service)
            .cause(first)
            .help(if first.help.is_empty() {
                format!("`weft logs {service}` shows what they wrote, `weft status {service}` what they do")
            } else {
                first.help.clone()
            });
            error.failure.node.clone_from(&first.node);
            error.failure.component.clone_from(&first.component);
            error.failure.step.clone_from(&first.step);
            return Err(error);
        }
        if view.timed_out {
            return Err(CliError::timeout(format!(
                "{verb} {service}: {} of {all} components are as wanted, time is up",
                view.good
            ))
            .service(service));
        }
        if view.bad > 0 {
            let exit = if view.good > 0 { Exit::Partial } else { Exit::Failed };
            return Err(CliError::new(
                exit,
                if view.good > 0 { "partial" } else { "failed" },
                format!("{verb} {service}: {} of {all} components are not as wanted", view.bad),
            )
            .service(service)
            .help(format!("`weft status {service}` shows which and why")));
        }
        Ok(())
    }

    pub(crate) fn view(&self) -> &ChangeView {
        &self.view
    }
}

fn place(row: &ComponentRow) -> String {
    let node = if row.node.is_empty() { "-" } else { row.node.as_str() };
    format!("node {node}, replica {}", row.status.key.replica)
}

/// Prints a change as it happens and returns what became of it.
///
/// # Errors
/// As [`Follow::verdict`]; with `--json` the document is printed before.
pub(crate) async fn follow(
    attached: &Attached,
    mut items: Items<DeployUpdate>,
    output: &Output,
    verb: &str,
    within: Duration,
) -> Result<ChangeView> {
    let mut follow = Follow::default();
    // The node keeps the time; a little more is for its last words.
    let limit = tokio::time::sleep(within + Duration::from_secs(5));
    tokio::pin!(limit);
    let broken = loop {
        let update = tokio::select! {
            update = attached.item(&mut items) => update,
            () = &mut limit => break Some(CliError::timeout(format!("{verb}: no word from {}", attached.node()))),
        };
        match update {
            Ok(Some(update)) => {
                for line in follow.take(update) {
                    match line {
                        Line::Result(text) if !output.json => output.line(text)?,
                        Line::Result(_) => {}
                        Line::Progress(text) => output.progress(text),
                    }
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
        if follow.done {
            break None;
        }
    };
    match broken {
        // What the node refused at once is the answer; later it is the link that broke.
        Some(error) if !follow.accepted || error.exit == Exit::Timeout => return Err(error),
        Some(error) => {
            return Err(follow.verdict(verb).err().unwrap_or_else(|| error.clone()).cause(error));
        }
        None => {}
    }
    if output.json {
        output.document(follow.view())?;
    }
    follow.verdict(verb)?;
    Ok(follow.view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{ComponentKey, ComponentStatus, Health};
    use weft_wire::WallTime;

    fn row(replica: u32, state: ComponentState) -> ComponentRow {
        ComponentRow {
            node: format!("n{replica}"),
            status: ComponentStatus {
                key: ComponentKey { service: "web".into(), replica, component: "api".into() },
                desired: Desired::Running,
                state,
                health: Health::None,
                pid: 1,
                version: String::new(),
                revision: 3,
                spec_hash: String::new(),
                epoch: 0,
                restarts: 0,
                started_at: None,
                since: WallTime::from_micros(0),
                last_exit: String::new(),
                reason: String::new(),
                ports: vec![],
                urls: vec![],
                driver: weft_protocol::Driver::Process,
                image: String::new(),
                digest: String::new(),
                container: String::new(),
                limits: String::new(),
                refused: 0,
            },
        }
    }

    fn accepted() -> DeployUpdate {
        DeployUpdate::Accepted { service: "web".into(), revision: 3, changed: true, operation: 7 }
    }

    fn good(replica: u32) -> DeployUpdate {
        DeployUpdate::Component {
            row: row(replica, ComponentState::Running),
            error: None,
            log: vec![],
        }
    }

    fn bad(replica: u32) -> DeployUpdate {
        let line = LogLine {
            key: ComponentKey { service: "web".into(), replica, component: "api".into() },
            time: WallTime::from_micros(0),
            stream: weft_protocol::LogStream::Stderr,
            text: "cannot bind".into(),
        };
        DeployUpdate::Component {
            row: row(replica, ComponentState::Failed),
            error: Some(Failure::new(FailureKind::Failed, "exited 5 times").help("fix it")),
            log: vec![line],
        }
    }

    fn done(good: u32, bad: u32, timed_out: bool) -> DeployUpdate {
        DeployUpdate::Done { good, bad, timed_out }
    }

    fn run(updates: Vec<DeployUpdate>) -> (Vec<Line>, Result<()>) {
        let mut follow = Follow::default();
        let lines = updates.into_iter().flat_map(|u| follow.take(u)).collect();
        (lines, follow.verdict("deploy"))
    }

    #[test]
    fn each_component_gets_its_line_and_all_good_is_success() {
        let (lines, verdict) = run(vec![accepted(), good(1), good(2), done(2, 0, false)]);
        assert_eq!(verdict, Ok(()));
        assert!(
            lines.contains(&Line::Result("  api: ok  [node n1, replica 1]".into())),
            "{lines:?}"
        );
    }

    #[test]
    fn what_was_stopped_has_no_address_any_more() {
        let mut row = row(1, ComponentState::Stopped);
        row.status.desired = Desired::Stopped;
        row.status.urls = vec!["http://127.0.0.1:1".into()];
        let stopped = DeployUpdate::Component { row, error: None, log: vec![] };
        let (lines, _) = run(vec![accepted(), stopped, done(1, 0, false)]);
        assert!(!format!("{lines:?}").contains("http"), "{lines:?}");
    }

    #[test]
    fn a_failure_shows_its_last_log_lines_and_what_to_do() {
        let (lines, verdict) = run(vec![accepted(), bad(1), done(0, 1, false)]);
        assert_eq!(verdict.expect_err("failed").exit, Exit::Failed);
        let text = format!("{lines:?}");
        assert!(text.contains("api: exited 5 times") && text.contains("| cannot bind"), "{text}");
        assert!(text.contains("help: fix it"), "{text}");
    }

    #[test]
    fn some_good_and_some_bad_is_partial() {
        let (_, verdict) = run(vec![accepted(), good(1), bad(2), done(1, 1, false)]);
        let error = verdict.expect_err("partial");
        assert_eq!((error.exit, error.code), (Exit::Partial, "partial"));
        assert_eq!(error.failure.help, "fix it");
    }

    #[test]
    fn time_that_ran_out_is_a_timeout_unless_something_failed() {
        let late = DeployUpdate::Component {
            row: row(2, ComponentState::Starting),
            error: Some(Failure::new(FailureKind::Timeout, "not as wanted after 5 s")),
            log: vec![],
        };
        let (_, verdict) = run(vec![accepted(), good(1), late, done(1, 1, true)]);
        assert_eq!(verdict.expect_err("timeout").exit, Exit::Timeout);
        let (_, verdict) = run(vec![accepted(), bad(1), done(0, 2, true)]);
        assert_eq!(verdict.expect_err("failed").exit, Exit::Failed);
    }

    #[test]
    fn a_stream_that_breaks_off_says_whether_the_change_goes_on() {
        let (_, verdict) = run(vec![accepted(), good(1)]);
        assert!(verdict.expect_err("lost").to_string().contains("agreed and goes on"));
        let (_, verdict) = run(vec![]);
        assert!(verdict.expect_err("lost").to_string().contains("unknown"));
    }
}
