//! One way to say what is wrong in a text somebody wrote, and where.

use std::fmt;
use std::ops::Range;

/// Longest source line that is shown whole, in characters.
const LINE_SHOWN: usize = 160;

/// Whether a file is refused because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Refused.
    Error,
    /// Accepted, but worth a line.
    Warning,
}

/// One mistake. `Display` draws it with its source line; [`Diagnostic::short`] is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// File name as given, or what stands for it (`environment variable WEFT_LOG_LEVEL`).
    pub file: String,
    /// From 1; 0: the place is not in a file.
    pub line: usize,
    /// From 1, in characters; 0 together with `line`.
    pub column: usize,
    /// What is wrong, in one line.
    pub message: String,
    /// Beside the underline; may be empty.
    pub label: String,
    /// What to do; may be empty.
    pub help: String,
    source: String,
    width: usize,
}

impl Diagnostic {
    /// A mistake at the bytes `span` of `text`; a span beyond the text points at its end.
    pub fn at(file: &str, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = floor(text, span.start);
        let end = floor(text, span.end).max(start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = &text[start..];
        let line_end = rest.find('\n').map_or(text.len(), |at| start + at);
        let source = text[line_start..line_end].trim_end_matches('\r');
        let shown_end = end.min(line_start + source.len());
        let width = if shown_end > start { text[start..shown_end].chars().count() } else { 1 };
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].trim_start_matches('\u{feff}').chars().count() + 1,
            message: one_line(&message.into()),
            label: String::new(),
            help: String::new(),
            source: source.trim_start_matches('\u{feff}').to_owned(),
            width,
        }
    }

    /// A mistake that is not in a file: `place` names the variable, flag or file.
    pub fn elsewhere(place: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: place.to_owned(),
            line: 0,
            column: 0,
            message: one_line(&message.into()),
            label: String::new(),
            help: String::new(),
            source: String::new(),
            width: 0,
        }
    }

    /// The same with text beside the underline.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = one_line(&label.into());
        self
    }

    /// The same with what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = one_line(&help.into());
        self
    }

    /// The same as a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// `file:line:column: message`, without the position where there is none.
    pub fn short(&self) -> String {
        let kind = if self.severity == Severity::Warning { "warning: " } else { "" };
        if self.line == 0 {
            format!("{}: {kind}{}", self.file, self.message)
        } else {
            format!("{}:{}:{}: {kind}{}", self.file, self.line, self.column, self.message)
        }
    }

    /// The part of the source line that is drawn, and the underline's text before and under it.
    fn drawing(&self) -> (String, String, String) {
        let about_env = self.message.starts_with("`env`");
        let chars: Vec<char> = masked(&self.source, about_env).chars().collect();
        let column = self.column.saturating_sub(1).min(chars.len());
        let from = if chars.len() > LINE_SHOWN { column.saturating_sub(LINE_SHOWN / 2) } else { 0 };
        let to = chars.len().min(from + LINE_SHOWN);
        let clean = |c: &char| if c.is_control() && *c != '\t' { '\u{fffd}' } else { *c };
        let mut shown: String = chars.get(from..to).unwrap_or_default().iter().map(clean).collect();
        let mut pad: String = chars
            .get(from..column)
            .unwrap_or_default()
            .iter()
            .map(|c| if *c == '\t' { '\t' } else { ' ' })
            .collect();
        if from > 0 {
            shown.insert(0, '…');
            pad.insert(0, ' ');
        }
        if to < chars.len() {
            shown.push('…');
        }
        let width = self.width.min(to.saturating_sub(column)).max(1);
        (shown, pad, "^".repeat(width))
    }
}

/// The line with what may be a secret blotted out, a `*` for each character: what is drawn may end
/// up in somebody's log (orchestration §28). That is what stands behind the first `=` within
/// quotes, options such as `--name=value` aside; where it is `about_env`, or an `env` line, it is
/// everything but names before a `=` and punctuation.
fn masked(source: &str, about_env: bool) -> String {
    let key = source.split_once('=').filter(|(key, _)| key.trim() == "env");
    let all = about_env || key.is_some();
    let stars = |text: &str| "*".repeat(text.chars().count());
    let outside = |text: &str| -> String {
        let shown = |c: char| c.is_whitespace() || "[]{},=#".contains(c);
        text.chars().map(|c| if all && !shown(c) { '*' } else { c }).collect()
    };
    let within = |text: &str| match text.split_once('=') {
        _ if text.starts_with('-') && !all => text.to_owned(),
        Some((name, value)) => format!("{name}={}", stars(value)),
        None if all => stars(text),
        None => text.to_owned(),
    };
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    if let Some((name, value)) = key {
        out.extend([name, "="]);
        rest = value;
    }
    while let Some(at) = rest.find(['"', '\'']) {
        let (before, quoted) = rest.split_at(at);
        let (quote, text) = quoted.split_at(1);
        let (text, after) = text.split_at(end_of(text, quote));
        out.extend([outside(before), quote.to_owned(), within(text)]);
        rest = match after.strip_prefix(quote) {
            Some(after) => {
                out.push_str(quote);
                after
            }
            None => after,
        };
    }
    out.push_str(&outside(rest));
    out
}

/// Where a text ends that began with that quote; its whole length if it does not.
fn end_of(text: &str, quote: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && text.get(at..).is_some_and(|rest| rest.starts_with(quote)) {
            return at;
        }
        escaped = c == '\\' && quote == "\"" && !escaped;
    }
    text.len()
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.severity == Severity::Warning { "warning" } else { "error" };
        write!(f, "{kind}: {}", self.message)?;
        if self.line == 0 {
            write!(f, "\n  --> {}", self.file)?;
            if !self.help.is_empty() {
                write!(f, "\n   = help: {}", self.help)?;
            }
            return Ok(());
        }
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let (shown, pad, carets) = self.drawing();
        write!(f, "\n{gutter} --> {}:{}:{}", self.file, self.line, self.column)?;
        write!(f, "\n{gutter}  |")?;
        write!(f, "\n {number} | {shown}")?;
        write!(f, "\n{gutter}  | {pad}{carets}")?;
        if !self.label.is_empty() {
            write!(f, " {}", self.label)?;
        }
        if !self.help.is_empty() {
            write!(f, "\n{gutter}  = help: {}", self.help)?;
        }
        Ok(())
    }
}

/// All mistakes of one reading, in the order of their places. As an error it is never empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One [`Diagnostic::short`] line each, without a final newline.
    pub fn short(&self) -> String {
        self.0.iter().map(Diagnostic::short).collect::<Vec<_>>().join("\n")
    }

    /// Adds one at the end.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Splits what was collected into errors (if any) and warnings, each sorted by place.
    pub(crate) fn split(mut all: Vec<Diagnostic>) -> (Diagnostics, Diagnostics) {
        all.sort_by_key(|d| (d.line == 0, d.line, d.column));
        all.dedup();
        let (errors, warnings) = all.into_iter().partition(|d| d.severity == Severity::Error);
        (Diagnostics(errors), Diagnostics(warnings))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// The candidate most like `word`, if one is like enough: at most a third of its letters differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A word this long is no slip of the finger, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(d, candidate)| {
            *d <= word.chars().count().max(candidate.chars().count()).div_ceil(3)
                && *d < candidate.chars().count()
        })
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words; swapping two neighbours counts as one.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let get = |row: &Vec<usize>, at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
    let mut before: Vec<usize> = vec![usize::MAX / 2; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut best = (get(&last, j) + usize::from(ca != cb))
                .min(get(&last, j + 1) + 1)
                .min(get(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca) {
                best = best.min(get(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

/// The largest character boundary not beyond `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Keeps a message on one line and free of terminal control sequences, whatever it quotes.
fn one_line(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect()
    } else {
        text.to_owned()
    }
}
