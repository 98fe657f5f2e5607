//! Walking a TOML document by hand, so that every mistake is found and each has its exact place.
//!
//! serde would stop at the first error and lose places inside lists; here a getter that fails
//! reports and returns `None`, and the walk goes on.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::{parse_duration, parse_size};

/// So many syntax errors are shown; later ones mostly follow from earlier ones.
const SYNTAX_SHOWN: usize = 20;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// The text being read and what was found wrong with it so far.
pub(crate) struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    found: RefCell<Vec<Diagnostic>>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, found: RefCell::new(Vec::new()) }
    }

    /// The document, or `None` after reporting its syntax errors.
    pub(crate) fn document(&self) -> Option<DeTable<'t>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return Some(table.into_inner());
        }
        let mut lines = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let mut message = error.message().to_owned();
            if message == "duplicate key"
                && let Some(key) = self.text.get(span.clone())
            {
                message = format!("`{}` is given twice", key.trim());
            }
            let diagnostic = self.at(span, message);
            // Several errors on one line are one slip seen by several rules.
            if !lines.contains(&diagnostic.line) && lines.len() < SYNTAX_SHOWN {
                lines.push(diagnostic.line);
                self.report(diagnostic);
            }
        }
        None
    }

    /// A diagnostic at that place, not yet reported.
    pub(crate) fn at(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.file, self.text, span, message)
    }

    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    /// Line of a place, from 1.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.at(span.clone(), "").line
    }

    /// Errors and warnings.
    pub(crate) fn finish(self) -> (Diagnostics, Diagnostics) {
        Diagnostics::split(self.found.into_inner())
    }
}

/// One table of the document.
#[derive(Clone)]
pub(crate) struct Section<'r> {
    pub(crate) reader: &'r Reader<'r>,
    table: &'r DeTable<'r>,
    /// The header; empty for the document itself.
    pub(crate) span: Range<usize>,
    /// What messages call it; empty for the document itself.
    pub(crate) title: String,
}

impl<'r> Section<'r> {
    pub(crate) fn root(reader: &'r Reader<'r>, table: &'r DeTable<'r>) -> Self {
        Self { reader, table, span: 0..0, title: String::new() }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the table `key` has an entry `entry`.
    pub(crate) fn has_entry(&self, key: &str, entry: &str) -> bool {
        self.table
            .get(key)
            .and_then(|value| value.get_ref().as_table())
            .is_some_and(|table| table.contains_key(entry))
    }

    /// Keys with their places, in the order of the file.
    pub(crate) fn keys(&self) -> Vec<At<String>> {
        let mut keys: Vec<_> = self
            .table
            .keys()
            .map(|key| At { value: key.get_ref().to_string(), span: key.span() })
            .collect();
        keys.sort_by_key(|key| key.span.start);
        keys
    }

    /// Where the key stands, else the section's header.
    pub(crate) fn key_span(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or_else(|| self.span.clone(), |(key, _)| key.span())
    }

    /// Where the value stands, else the section's header.
    pub(crate) fn value_span(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Reports an error at the value of `key`.
    pub(crate) fn error(&self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.reader.report(self.reader.at(self.value_span(key), message).help(help));
    }

    /// Reports every key that is not known, with the nearest known one; `hint` may explain a key
    /// better than that.
    pub(crate) fn only(&self, known: &[&str], hint: impl Fn(&str) -> Option<String>) {
        for key in self.keys() {
            if known.contains(&key.value.as_str()) {
                continue;
            }
            let place =
                if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) };
            let mut diagnostic =
                self.reader.at(key.span, format!("unknown key `{}`{place}", key.value));
            if let Some(hint) = hint(&key.value) {
                diagnostic = diagnostic.help(hint);
            } else {
                if let Some(near) = nearest(&key.value, known.iter().copied()) {
                    diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
                }
                diagnostic = diagnostic.help(format!("known keys here: {}", known.join(", ")));
            }
            self.reader.report(diagnostic);
        }
    }

    /// Reports that `key` is not there, at the header.
    pub(crate) fn missing(&self, key: &str, help: impl Into<String>) {
        let message = if self.title.is_empty() {
            format!("missing key `{key}`")
        } else {
            format!("missing key `{key}` in {}", self.title)
        };
        let label = if self.title.is_empty() { "in this file" } else { "in this table" };
        self.reader.report(self.reader.at(self.span.clone(), message).label(label).help(help));
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str, help: &str) {
        let found = article(value.get_ref().type_str());
        let message = format!("`{key}` must be {expected}, found {found}");
        self.reader.report(
            self.reader.at(value.span(), message).label(format!("expected {expected}")).help(help),
        );
    }

    pub(crate) fn text(&self, key: &str) -> Option<At<String>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => self.checked(key, text, value.span()),
            other => {
                let help = match other {
                    DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_) => {
                        let written = self.reader.text.get(value.span()).unwrap_or_default().trim();
                        format!("put it in quotes: {key} = \"{written}\"")
                    }
                    _ => String::new(),
                };
                self.wrong(key, value, "a string", &help);
                None
            }
        }
    }

    /// Nothing that reaches a command line, a path or an environment can hold a NUL.
    fn checked(&self, key: &str, text: &str, span: Range<usize>) -> Option<At<String>> {
        if text.contains('\0') {
            let message = format!("`{key}` must not contain a NUL character");
            self.reader.report(self.reader.at(span, message));
            return None;
        }
        Some(At { value: text.to_owned(), span })
    }

    /// A string that `read` accepts; its error is reported as `<key>: <error>`.
    pub(crate) fn parsed<T, E: Display>(
        &self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.text(key)?;
        match read(&text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(error) => {
                self.reader.report(self.reader.at(text.span, format!("`{key}`: {error}")));
                None
            }
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> Option<bool> {
        let value = self.table.get(key)?;
        if let DeValue::Boolean(value) = value.get_ref() {
            return Some(*value);
        }
        self.wrong(key, value, "true or false", "");
        None
    }

    pub(crate) fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let value = self.table.get(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong(key, value, "a whole number", "");
            return None;
        };
        let parsed = i128::from_str_radix(number.as_str(), number.radix()).ok();
        match parsed.and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(number) => Some(At { value: number, span: value.span() }),
            None => {
                let message = format!(
                    "`{key}` must be between {} and {}, found {}",
                    range.start(),
                    range.end(),
                    self.reader.text.get(value.span()).unwrap_or_default().trim()
                );
                self.reader.report(self.reader.at(value.span(), message));
                None
            }
        }
    }

    pub(crate) fn small(&self, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        self.integer(key, range).and_then(|n| u32::try_from(n.value).ok())
    }

    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        let value = self.table.get(key)?;
        if let DeValue::Integer(number) = value.get_ref() {
            let help = format!("write seconds as {key} = \"{}s\"", number.as_str());
            self.wrong(key, value, "a duration in quotes", &help);
            return None;
        }
        self.parsed(key, parse_duration).map(|at| at.value)
    }

    /// A duration that is not 0.
    pub(crate) fn positive(&self, key: &str) -> Option<Duration> {
        let duration = self.duration(key)?;
        if duration.is_zero() {
            self.error(key, format!("`{key}` must be longer than 0"), "");
            return None;
        }
        Some(duration)
    }

    /// A size as text, or a plain number of bytes.
    pub(crate) fn size(&self, key: &str) -> Option<At<u64>> {
        let value = self.table.get(key)?;
        if matches!(value.get_ref(), DeValue::Integer(_)) {
            return self.integer(key, 0..=i64::MAX.unsigned_abs());
        }
        self.parsed(key, parse_size)
    }

    /// One of the listed words.
    pub(crate) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<At<T>> {
        let text = self.text(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(At { value: *value, span: text.span });
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let mut diagnostic = self.reader.at(
            text.span,
            format!("`{key}` must be {}, found `{}`", quoted.join(" or "), text.value),
        );
        if let Some(near) = nearest(&text.value, names) {
            diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
        }
        self.reader.report(diagnostic);
        None
    }

    /// A list of strings; entries that are not are reported and left out.
    pub(crate) fn texts(&self, key: &str) -> Vec<At<String>> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let help = match value.get_ref() {
                DeValue::String(_) if key == "env" => {
                    "put it in brackets: env = [\"KEY=VALUE\"]".to_owned()
                }
                DeValue::String(_) => format!(
                    "put it in brackets: {key} = [{}]",
                    self.reader.text.get(value.span()).unwrap_or_default()
                ),
                _ => String::new(),
            };
            self.wrong(key, value, "a list of strings", &help);
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => texts.extend(self.checked(key, text, item.span())),
                _ => self.wrong(&format!("an entry of {key}"), item, "a string", ""),
            }
        }
        texts
    }

    /// A list of strings that `read` accepts, each with its place.
    pub(crate) fn each<T, E: Display>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<At<T>> {
        let mut values = Vec::new();
        for text in self.texts(key) {
            match read(&text.value) {
                Ok(value) => values.push(At { value, span: text.span }),
                Err(error) => {
                    self.reader.report(self.reader.at(text.span, format!("`{key}`: {error}")));
                }
            }
        }
        values
    }

    /// A table, if it is there.
    pub(crate) fn table(&self, key: &str, title: &str) -> Option<Section<'r>> {
        let value = self.table.get(key)?;
        if let DeValue::Table(table) = value.get_ref() {
            // A table made by `[a.b]` or `a.b = 1` alone has no header of its own.
            let span = if value.span().is_empty() { self.key_span(key) } else { value.span() };
            return Some(Section { reader: self.reader, table, span, title: title.to_owned() });
        }
        let help = match value.get_ref() {
            DeValue::Array(_) => format!("write the header with one pair of brackets: [{key}]"),
            _ => String::new(),
        };
        self.wrong(key, value, "a table", &help);
        None
    }

    /// A table, if it is there and one; nothing is reported.
    pub(crate) fn table_quietly(&self, key: &str) -> Option<Section<'r>> {
        let is_table = self.table.get(key).is_some_and(|value| value.get_ref().is_table());
        if is_table { self.table(key, &format!("[{key}]")) } else { None }
    }

    /// A list of tables; `title` gets the position from 0.
    pub(crate) fn tables(&self, key: &str, title: impl Fn(usize) -> String) -> Vec<Section<'r>> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let help = match value.get_ref() {
                DeValue::Table(_) => {
                    format!("write the header with two pairs of brackets: [[{key}]]")
                }
                _ => String::new(),
            };
            self.wrong(key, value, "a list of tables", &help);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section {
                    reader: self.reader,
                    table,
                    span: item.span(),
                    title: title(i),
                }),
                _ => self.wrong(&format!("an entry of {key}"), item, "a table", ""),
            }
        }
        sections
    }

    /// Whether the value of `key` is `[]`.
    pub(crate) fn value_is_empty_list(&self, key: &str) -> bool {
        self.table
            .get(key)
            .and_then(|value| value.get_ref().as_array())
            .is_some_and(|items| items.iter().next().is_none())
    }

    /// The value of `key` if it is a string, without reporting anything.
    pub(crate) fn peek(&self, key: &str) -> Option<&'r str> {
        self.table.get(key).and_then(|value| value.get_ref().as_str())
    }

    /// Whether the value of `key` is a whole number.
    pub(crate) fn is_integer(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_integer())
    }
}

fn article(kind: &str) -> String {
    match kind.chars().next() {
        Some('a' | 'e' | 'i' | 'o' | 'u') => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}
