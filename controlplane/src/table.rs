//! Plain tables for terminals: aligned columns, no frames, so that they can be cut and searched with other tools.

use comfy_table::{Cell, CellAlignment, Table, presets};

/// Blanks between two columns.
const GAP: u16 = 2;

/// A table being put together.
#[derive(Debug)]
pub struct Columns {
    table: Table,
    right_aligned: Vec<bool>,
}

impl Columns {
    /// A table with these headings; those that start with `>` head columns of figures, which are aligned to the right.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let right_aligned: Vec<bool> = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let mut columns = Self { table, right_aligned };
        let cells = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        let cells = columns.cells(cells);
        columns.table.set_header(cells);
        for column in columns.table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        columns
    }

    /// Adds a row.
    pub fn row(&mut self, texts: Vec<String>) {
        let cells = self.cells(texts);
        self.table.add_row(cells);
    }

    /// The lines, each indented by `indent`.
    #[must_use]
    pub fn render(&self, indent: &str) -> String {
        let lines: Vec<String> = self.table.lines().map(|line| format!("{indent}{}", line.trim_end())).collect();
        lines.join("\n")
    }

    fn cells(&self, texts: Vec<String>) -> Vec<Cell> {
        let cell = |(text, right): (String, &bool)| {
            let alignment = if *right { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        };
        texts.into_iter().zip(&self.right_aligned).map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_to_the_right_and_lines_have_no_tail() {
        let mut columns = Columns::new(&["NAME", ">CALLS"]);
        columns.row(vec!["a".into(), "7".into()]);
        columns.row(vec!["longer".into(), "12345".into()]);
        let text = columns.render("");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.ends_with(['S', '7', '5'])), "{text}");
        assert_eq!(lines[0].len(), lines[2].len(), "{text}");
    }
}
