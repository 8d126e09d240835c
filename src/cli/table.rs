//! Tables of texts that are escaped already.

use comfy_table::{ColumnConstraint, ContentArrangement, Width, presets};

/// A table in pages: the head stands above the first, and no column gets narrower than it was.
pub struct Table {
    heads: &'static [&'static str],
    widths: Vec<u16>,
    begun: bool,
}

/// comfy-table's, left and right together.
const PADDING: u16 = 2;

impl Table {
    pub fn new(heads: &'static [&'static str]) -> Table {
        let widths = heads.iter().map(|head| u16::try_from(head.len()).unwrap_or(0)).collect();
        Table { heads, widths, begun: false }
    }

    /// The next rows; no line end at the end.
    pub fn page(&mut self, rows: Vec<Vec<String>>) -> String {
        let mut table = bare();
        if !self.begun {
            table.set_header(self.heads.iter().copied());
        }
        table.add_rows(rows);
        for (width, now) in self.widths.iter_mut().zip(table.column_max_content_widths()) {
            *width = now.max(*width);
        }
        for (column, width) in table.column_iter_mut().zip(&self.widths) {
            let width = Width::Fixed(width.saturating_add(PADDING));
            column.set_constraint(ColumnConstraint::LowerBoundary(width));
        }
        self.begun = true;
        text(&table)
    }
}

/// One thing: a name and a value a line, without those that are empty.
pub fn card(rows: Vec<(&str, String)>) -> String {
    let mut table = bare();
    table.add_rows(
        rows.into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| [name.to_owned(), value]),
    );
    text(&table)
}

fn bare() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Without blanks at the ends of lines, and without the padding at their beginning.
fn text(table: &comfy_table::Table) -> String {
    let text = table.to_string();
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<&str>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; 2]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn pages_of_a_table_line_up_under_one_head() {
        let mut table = Table::new(&["ID", "STATUS"]);
        assert_eq!(
            table.page(vec![row(["box-1", "ACTIVE"]), row(["b", "BLOCKED"])]),
            "ID     STATUS\nbox-1  ACTIVE\nb      BLOCKED"
        );
        assert_eq!(table.page(vec![row(["c", "ACTIVE"])]), "c      ACTIVE");
    }

    #[test]
    fn a_card_leaves_out_what_is_empty() {
        let rows = vec![("Name", "a".to_owned()), ("Type", String::new()), ("X", "y".to_owned())];
        assert_eq!(card(rows), "Name  a\nX     y");
    }

    #[test]
    fn an_empty_table_is_its_head() {
        assert_eq!(Table::new(&["ID", "STATUS"]).page(Vec::new()), "ID  STATUS");
    }
}
