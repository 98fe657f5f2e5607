//! What a person or a script sees.

pub(crate) mod agreed;
pub(crate) mod alerts;
pub(crate) mod node_status;
pub(crate) mod operations;
pub(crate) mod progress;
pub(crate) mod sessions;
pub(crate) mod table;
pub(crate) mod top;
pub(crate) mod usage;
pub(crate) mod views;

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::args::Global;
use crate::error::{CliError, Result};

pub(crate) use table::Table;

/// Where results, progress and questions go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Results as JSON.
    pub(crate) json: bool,
    quiet: bool,
    yes: bool,
    mute: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet, yes: global.yes, mute: false }
    }

    /// The same, with results and progress left out: for a step of something whose own result
    /// comes later.
    pub(crate) const fn without_results(self) -> Self {
        Self { mute: true, quiet: true, ..self }
    }

    /// A result for people, a line or several, on stdout.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.mute {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| broken(&e))
    }

    /// A result as one JSON document on a line of its own.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn document<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| CliError::failed("cannot write JSON").cause(e))?;
        self.line(text)
    }

    /// A result: the document with `--json`, else the text.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn result<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl std::fmt::Display,
    ) -> Result<()> {
        if self.json { self.document(value) } else { self.line(text) }
    }

    /// What a dry run would do.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn would(&self, what: impl std::fmt::Display) -> Result<()> {
        #[derive(Serialize)]
        struct View {
            would: String,
        }
        let would = what.to_string();
        if self.json { self.document(&View { would }) } else { self.line(format!("would {would}")) }
    }

    /// Something worth knowing that is not the result; stderr, also with `--quiet`.
    pub(crate) fn notice(&self, text: impl std::fmt::Display) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// Progress; stderr, only for people who did not ask for quiet.
    pub(crate) fn progress(&self, text: impl std::fmt::Display) {
        if !self.quiet && !self.json {
            self.notice(text);
        }
    }

    /// Lets the person at the terminal agree to a destruction.
    ///
    /// # Errors
    /// Exit 2 when there is no terminal and no `--yes`; exit 1 when they said no.
    pub(crate) fn confirm(&self, what: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        self.has_terminal(what)?;
        let question = format!("This will {what}.\nGo on? [y/N] ");
        asked(&question, |answer| matches!(answer, "y" | "Y" | "yes" | "Yes"))
    }

    /// Same, for what cannot be had back: they type the name of what is lost.
    ///
    /// # Errors
    /// As [`Self::confirm`].
    pub(crate) fn confirm_typed(&self, what: &str, name: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        self.has_terminal(what)?;
        asked(&format!("This will {what}.\nType `{name}` to go on: "), |answer| answer == name)
    }

    fn has_terminal(&self, what: &str) -> Result<()> {
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            return Ok(());
        }
        Err(CliError::usage(format!("this would {what}"))
            .cause("there is no terminal to ask on")
            .help("repeat it with --yes if that is what you want"))
    }
}

fn asked(question: &str, agrees: impl Fn(&str) -> bool) -> Result<()> {
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "{question}").and_then(|()| out.flush());
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && agrees(answer.trim()) {
        Ok(())
    } else {
        Err(CliError::new(crate::error::Exit::Failed, "declined", "nothing was done"))
    }
}

/// `weft ps | head` is not a failure worth words; the caller ends quietly on this code.
pub(crate) const BROKEN_PIPE: &str = "broken-pipe";

/// Writing to standard output has failed.
pub(crate) fn broken(error: &std::io::Error) -> CliError {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return CliError::new(crate::error::Exit::Ok, BROKEN_PIPE, "output closed");
    }
    CliError::failed("cannot write to standard output").cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn without_a_terminal_a_destruction_needs_yes() {
        let output = Output::new(&Global::default());
        // Under the test runner at least one of the two streams is no terminal.
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            return;
        }
        let error = output.confirm("remove node n3").expect_err("refused");
        assert_eq!(error.exit, Exit::Usage);
        let text = error.to_string();
        assert!(text.contains("remove node n3") && text.contains("--yes"), "{text}");
        assert!(Output::new(&Global { yes: true, ..Global::default() }).confirm("x").is_ok());
    }
}
