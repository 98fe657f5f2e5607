//! Tables for people: upper-case headers, columns separated by spaces, nothing else.

use crate::error::clean;

/// A table; the last column is not padded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { header: header.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`, so that columns can be counted.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| shown(&cell)).collect());
    }

    /// Leaves the last column out when no row has anything in it.
    pub(crate) fn drop_last_if_empty(&mut self) {
        if self.rows.iter().all(|row| row.last().is_none_or(|cell| cell == "-")) {
            self.header.pop();
            for row in &mut self.rows {
                row.pop();
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, header first, none with spaces at its end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut widths: Vec<usize> = Vec::new();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            for (at, cell) in row.iter().enumerate() {
                let width = cell.chars().count();
                match widths.get_mut(at) {
                    Some(known) => *known = width.max(*known),
                    None => widths.push(width),
                }
            }
        }
        std::iter::once(&self.header)
            .chain(&self.rows)
            .map(|row| {
                let cells: Vec<String> = row
                    .iter()
                    .zip(&widths)
                    .map(|(cell, width)| {
                        let fill = width.saturating_sub(cell.chars().count());
                        format!("{cell}{}", " ".repeat(fill))
                    })
                    .collect();
                cells.join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

fn shown(cell: &str) -> String {
    let text = clean(cell).replace(['\n', '\t'], " ");
    if text.trim().is_empty() { "-".to_owned() } else { text }
}

/// Cut to `width` characters, with an ellipsis where something was lost.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new(["SERVICE", "NODE"]);
        table.row(["a".into(), "n1".into()]);
        table.row(["longer-name".into(), String::new()]);
        assert_eq!(table.lines(), ["SERVICE      NODE", "a            n1", "longer-name  -"]);
    }

    #[test]
    fn a_cell_never_breaks_its_line_or_the_terminal() {
        let mut table = Table::new(["A", "B"]);
        table.row(["x\ny\u{1b}[31m".into(), "ü".into()]);
        let text = table.to_string();
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn long_texts_are_cut_with_an_ellipsis() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("äbcd", 4), "äbcd");
    }
}
