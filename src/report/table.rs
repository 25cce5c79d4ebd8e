//! Plain tables with aligned columns.

use super::on_one_line;
use std::fmt;

/// Characters of a cell beyond which a column is not made wider for it. What follows in the row moves.
const ALIGNED: usize = 60;
/// Characters of a cell beyond which it is cut.
const SHOWN: usize = 400;

/// Rows of text under a header. Cells are shown on one line, long ones cut.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of those columns.
    pub fn new(header: &[&str]) -> Table {
        Table { rows: vec![header.iter().map(|h| h.to_string()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.iter().map(|c| shortened(&on_one_line(c), SHOWN)).collect());
    }
}

/// The text, cut to so many characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.into() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count().min(ALIGNED)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::from("  ");
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_cells_move_their_own_row_only() {
        let mut table = Table::new(&["name", "n"]);
        table.row(&["x".repeat(70_000), "1".into()]);
        table.row(&["a\nb\u{1b}".into(), "2".into()]);
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], format!("  {}…  1", "x".repeat(SHOWN - 1)));
        assert_eq!(lines[2], format!("  {:<ALIGNED$}  2", "a\\nb\\u{1b}"));
    }
}
