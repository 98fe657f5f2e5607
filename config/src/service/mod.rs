//! Service files: the operator's declaration of one service (orchestration §3).

mod check;
mod component;
mod image;
mod route;
mod top;
pub(crate) mod values;
mod write;

#[cfg(test)]
mod tests;

use std::path::Path;

use toml::de::{DeTable, DeValue};
use weft_protocol::ServiceSpec;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::reader::{Reader, Section};

pub use write::to_toml;

/// A definition that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// With every default filled in.
    pub spec: ServiceSpec,
    /// Accepted, but worth a line each.
    pub warnings: Diagnostics,
}

/// What the reader of a definition knows besides its text.
#[derive(Debug, Clone, Copy, Default)]
pub struct ParseOptions<'a> {
    /// Registry from which images are derived when `image` is omitted (`host[:port]`).
    pub registry: Option<&'a str>,
    /// `adopt` records what already runs: a missing or `latest` tag is then only a warning.
    pub allow_unpinned: bool,
}

/// Whether the file's stem must be the service's name (it must in the services directory).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stem {
    /// `<name>.toml`.
    MustMatch,
    /// Any.
    Any,
}

/// Parses and checks a definition; `file_name` is what messages call it. All mistakes are
/// reported at once; the error is never empty.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Diagnostics> {
    parse_with(text, file_name, ParseOptions::default())
}

/// [`parse`] with options.
pub fn parse_with(
    text: &str,
    file_name: &str,
    options: ParseOptions<'_>,
) -> Result<Parsed, Diagnostics> {
    read(text, file_name, options, None)
}

/// Reads and parses a file. An unreadable file is an error of its own.
pub fn parse_file(
    path: &Path,
    stem: Stem,
    options: ParseOptions<'_>,
) -> Result<Parsed, Diagnostics> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Diagnostic::elsewhere(&name, format!("cannot read the service file: {error}"))
            .help("check the path and its permissions; a service file is UTF-8 text")
    })?;
    let expected = match stem {
        Stem::Any => None,
        // A path without a stem cannot have been read.
        Stem::MustMatch => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
    };
    read(&text, &name, options, expected.as_deref())
}

fn read(
    text: &str,
    file_name: &str,
    options: ParseOptions<'_>,
    stem: Option<&str>,
) -> Result<Parsed, Diagnostics> {
    let reader = Reader::new(file_name, text);
    let spec = reader.document().and_then(|table| {
        let root = Section::root(&reader, &table);
        let spec = top::read(&root, options);
        if let (Some(stem), Some(spec)) = (stem, &spec)
            && stem != spec.name
        {
            let message =
                format!("`name` is `{}`, but the file is called `{stem}.toml`", spec.name);
            let help = format!("rename the file to {}.toml, or pass it with -f", spec.name);
            root.error("name", message, help);
        }
        spec
    });
    let (errors, warnings) = reader.finish();
    match spec {
        Some(spec) if errors.is_empty() => Ok(Parsed { spec, warnings }),
        // Whoever returns no specification has said why; the fallback keeps the promise anyway.
        None if errors.is_empty() => {
            Err(Diagnostic::elsewhere(file_name, "not a service definition").into())
        }
        _ => Err(errors),
    }
}

/// Sets `active` in a definition and changes nothing else: comments, order, spacing and line ends
/// stay. A file without the key gets a line after `name`, unless the value is the default (true).
/// Fails only on text that is not TOML.
pub fn set_active(text: &str, active: bool) -> Result<String, Diagnostics> {
    let reader = Reader::new("service definition", text);
    let Some(table) = reader.document() else {
        return Err(reader.finish().0);
    };
    let mut out = text.to_owned();
    if let Some(value) = table.get("active") {
        let span = value.span();
        let same = matches!(value.get_ref(), DeValue::Boolean(now) if *now == active);
        if !same && text.get(span.clone()).is_some() {
            out.replace_range(span, if active { "true" } else { "false" });
        }
    } else if !active {
        let (at, before, after) = insertion(text, &table);
        out.insert_str(at, &format!("{before}active = false{after}"));
    }
    Ok(out)
}

/// Where a new top-level line goes, and the line ends it needs before and after.
fn insertion(text: &str, table: &DeTable<'_>) -> (usize, &'static str, &'static str) {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let Some(name) = table.get("name").filter(|value| value.get_ref().is_str()) else {
        return (if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 }, "", newline);
    };
    let end = name.span().end;
    match text.get(end..).and_then(|rest| rest.find('\n')) {
        Some(at) => (end + at + 1, "", newline),
        None => (text.len(), newline, newline),
    }
}
