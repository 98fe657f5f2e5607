//! How a command ends other than well: one error type, one renderer, one table of exit codes
//! (orchestration §7, §28).

use std::fmt;

use serde::Serialize;
use weft_protocol::VERSION;
use weft_wire::{AskError, Failure, FailureKind};

/// Exit codes (orchestration §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Well.
    Ok = 0,
    /// The operation failed.
    Failed = 1,
    /// Usage, or an invalid definition.
    Usage = 2,
    /// Not authenticated.
    Unauthenticated = 3,
    /// Not allowed.
    NotAllowed = 4,
    /// No node reachable.
    NoNode = 5,
    /// Some succeeded and stay, others failed.
    Partial = 6,
    /// Timeout while waiting.
    Timeout = 7,
    /// Drift, where asked for as an exit code.
    Drift = 8,
}

impl Exit {
    /// The code of a failure's kind.
    pub(crate) const fn of(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Invalid => Self::Usage,
            FailureKind::Unauthenticated => Self::Unauthenticated,
            FailureKind::Forbidden => Self::NotAllowed,
            FailureKind::Timeout => Self::Timeout,
            FailureKind::NotFound
            | FailureKind::Conflict
            | FailureKind::Busy
            | FailureKind::Exhausted
            | FailureKind::Unavailable
            | FailureKind::Failed
            | FailureKind::Internal
            | FailureKind::Unsupported => Self::Failed,
        }
    }
}

/// Why a command did not do what it was asked. Displayed as people read it, with `error: ` in
/// front, the cause and the help below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// Stable code in JSON.
    pub(crate) code: &'static str,
    /// What failed, where, why; its kind is carried by `exit` and `code`.
    pub(crate) failure: Box<Failure>,
    /// More lines below, such as a log's tail or a drawn diagnostic.
    pub(crate) details: Vec<String>,
}

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    pub(crate) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        let failure = Box::new(Failure::new(FailureKind::Failed, message));
        Self { exit, code, failure, details: Vec::new() }
    }

    /// The operation failed: exit 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "failed", message)
    }

    /// Used wrongly: exit 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// A file or directory could not be used: exit 1.
    pub(crate) fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let error_help = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "choose a place you may write, or run it as the user who owns this one"
            }
            std::io::ErrorKind::StorageFull => "free some space and try again",
            _ => "",
        };
        Self::new(Exit::Failed, "io", format!("cannot {what} {}", path.display()))
            .cause(error)
            .help(error_help)
    }

    /// It took longer than allowed: exit 7.
    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(Exit::Timeout, "timeout", message)
            .help("raise --timeout, or look at `weft status` for what it waits for")
    }

    #[must_use]
    pub(crate) fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.failure.cause = cause.to_string();
        self
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.failure.help = help.into();
        self
    }

    #[must_use]
    pub(crate) fn node(mut self, node: impl Into<String>) -> Self {
        self.failure.node = node.into();
        self
    }

    #[must_use]
    pub(crate) fn service(mut self, service: impl Into<String>) -> Self {
        self.failure.service = service.into();
        self
    }

    #[must_use]
    pub(crate) fn step(mut self, step: impl Into<String>) -> Self {
        self.failure.step = step.into();
        self
    }

    #[must_use]
    pub(crate) fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// A failure as a node answered it.
    pub(crate) fn from_failure(failure: Failure) -> Self {
        Self {
            exit: Exit::of(failure.kind),
            code: failure.kind.as_str(),
            failure: Box::new(failure),
            details: Vec::new(),
        }
    }

    /// What became of a request `what` to the node `node`, running `version` if that is known.
    pub(crate) fn from_ask(error: AskError, what: &str, node: &str, version: &str) -> Self {
        let to = if node.is_empty() { "the node".to_owned() } else { node.to_owned() };
        match error {
            AskError::Failed(failure) => Self::from_failure(failure),
            AskError::Unreachable(why) => {
                Self::new(Exit::NoNode, "unreachable", format!("{what}: not reachable"))
                    .cause(why)
                    .help("`weft node list` shows who answers; --node attaches to another node")
                    .node(node)
                    .step(what)
            }
            AskError::Timeout => {
                Self::timeout(format!("{to} did not answer {what} in time")).node(node).step(what)
            }
            AskError::Overloaded(why) => {
                Self::new(Exit::Failed, "overloaded", format!("{to} has too much to do"))
                    .cause(why)
                    .help("nothing was done: try again in a moment")
                    .node(node)
                    .step(what)
            }
            AskError::Denied(why) => {
                Self::new(Exit::NotAllowed, "denied", format!("{to} does not allow {what}"))
                    .cause(why)
                    .help("`weft whoami` shows who you are to the cluster and with which role")
                    .node(node)
                    .step(what)
            }
            AskError::NotFound(why) => Self::new(Exit::Failed, "not-found", why)
                .help("`weft node list` shows the nodes, `weft actors` what runs on them")
                .node(node)
                .step(what),
            AskError::Unsupported { id, version: message } => {
                let runs = if version.is_empty() {
                    "an older Weft".into()
                } else {
                    format!("Weft {version}")
                };
                Self::new(
                    Exit::Failed,
                    "unsupported",
                    format!("{to} runs {runs} and does not know {what} as weft {VERSION} sends it"),
                )
                .cause(format!("message {id} version {message}"))
                .help("upgrade that node, or attach to another one with --node")
                .node(node)
                .step(what)
            }
            // `AskError` may grow: an unknown way to fail is still a failure.
            other => {
                Self::failed(format!("{to}: {what} failed")).cause(other).node(node).step(what)
            }
        }
    }

    /// As it stands on stderr, without the final newline.
    pub(crate) fn render(&self, json: bool) -> String {
        if json { self.to_json() } else { self.to_string() }
    }

    fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            error: Body<'a>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            code: &'a str,
            message: &'a str,
            node: Option<&'a str>,
            service: Option<&'a str>,
            component: Option<&'a str>,
            step: Option<&'a str>,
            cause: Option<&'a str>,
            help: Option<&'a str>,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            details: &'a [String],
        }
        fn some(text: &str) -> Option<&str> {
            (!text.is_empty()).then_some(text)
        }
        let failure = &self.failure;
        let document = Document {
            error: Body {
                code: self.code,
                message: &failure.message,
                node: some(&failure.node),
                service: some(&failure.service),
                component: some(&failure.component),
                step: some(&failure.step),
                cause: some(&failure.cause),
                help: some(&failure.help),
                details: &self.details,
            },
        };
        serde_json::to_string(&document).unwrap_or_else(|_| "{\"error\":{}}".into())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = &self.failure;
        write!(f, "error: {}", clean(&failure.message))?;
        let place: Vec<String> = [
            ("node", &failure.node),
            ("service", &failure.service),
            ("component", &failure.component),
            ("step", &failure.step),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty() && !failure.message.contains(value.as_str()))
        .map(|(name, value)| format!("{name} {}", clean(value)))
        .collect();
        if !place.is_empty() {
            write!(f, " ({})", place.join(", "))?;
        }
        if !failure.cause.is_empty() {
            write!(f, "\n  cause: {}", clean(&failure.cause).replace('\n', "\n         "))?;
        }
        for line in &self.details {
            write!(f, "\n  {}", clean(line).replace('\n', "\n  "))?;
        }
        if !failure.help.is_empty() {
            write!(f, "\n  help: {}", clean(&failure.help).replace('\n', "\n        "))?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

/// Text without the control characters with which a peer could drive a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(error: AskError) -> CliError {
        CliError::from_ask(error, "gateway.ps", "n2", "0.1.0")
    }

    #[test]
    fn every_way_to_fail_has_its_exit_code() {
        let failed = |kind| ask(AskError::Failed(Failure::new(kind, "x"))).exit as u8;
        assert_eq!(failed(FailureKind::Invalid), 2);
        assert_eq!(failed(FailureKind::Unauthenticated), 3);
        assert_eq!(failed(FailureKind::Forbidden), 4);
        assert_eq!(failed(FailureKind::Timeout), 7);
        for kind in [
            FailureKind::NotFound,
            FailureKind::Conflict,
            FailureKind::Busy,
            FailureKind::Exhausted,
            FailureKind::Unavailable,
            FailureKind::Failed,
            FailureKind::Internal,
            FailureKind::Unsupported,
        ] {
            assert_eq!(failed(kind), 1, "{kind:?}");
        }
        assert_eq!(ask(AskError::Denied("no".into())).exit as u8, 4);
        assert_eq!(ask(AskError::Unreachable("gone".into())).exit as u8, 5);
        assert_eq!(ask(AskError::Timeout).exit as u8, 7);
        assert_eq!(ask(AskError::Overloaded("full".into())).exit as u8, 1);
        assert_eq!(CliError::usage("x").exit as u8, 2);
        assert_eq!(Exit::Partial as u8, 6);
        assert_eq!(Exit::Drift as u8, 8);
        assert_eq!(Exit::Ok as u8, 0);
    }

    #[test]
    fn an_error_names_the_place_the_cause_and_what_to_do() {
        let error = CliError::failed("deploy failed")
            .node("n2")
            .service("web")
            .cause("no such file")
            .help("build it first")
            .details(["last line".to_owned()]);
        assert_eq!(
            error.to_string(),
            "error: deploy failed (node n2, service web)\n  cause: no such file\n  last line\n  help: build it first"
        );
    }

    #[test]
    fn json_errors_have_the_promised_names_and_null_where_nothing_applies() {
        let error = CliError::failed("deploy failed").node("n2").help("look");
        let value: serde_json::Value = serde_json::from_str(&error.render(true)).expect("is JSON");
        assert_eq!(
            value,
            serde_json::json!({"error": {
                "code": "failed", "message": "deploy failed", "node": "n2", "service": null,
                "component": null, "step": null, "cause": null, "help": "look"
            }})
        );
    }

    #[test]
    fn a_message_the_node_does_not_know_names_both_versions() {
        let text = CliError::from_ask(
            AskError::Unsupported { id: 508, version: 2 },
            "gateway.plan",
            "n2",
            "0.0.9",
        )
        .to_string();
        for part in ["n2", "0.0.9", VERSION, "gateway.plan", "upgrade"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_a_peer_says_cannot_drive_the_terminal() {
        let error = CliError::failed("bad \u{1b}[2J name").cause("x\u{7}");
        assert!(!error.to_string().contains(['\u{1b}', '\u{7}']));
    }
}
